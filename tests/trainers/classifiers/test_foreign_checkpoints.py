"""Checkpoints as other training scripts write them; none of them runs code."""

import argparse
import copy
import logging

import pytest
import torch
from torch import nn

from trainers.classifiers.build import build_classifier
from trainers.classifiers.checkpoint import CheckpointError, load_weights, read_weights


def network(value: float = 0.0) -> nn.Sequential:
    made = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    nn.init.constant_(made[0].weight, value)
    return made


def loaded(path, key=None) -> float:
    """The weight that a fresh network gets from a file."""
    fresh = network()
    load_weights(fresh, read_weights(path, key), path)
    return float(fresh[0].weight.detach().mean())


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model", "net", "weights", "of_their_own"])
def test_weights_are_found_beside_what_else_a_training_keeps(tmp_path, key):
    net = network(2.0)
    optimiser = torch.optim.Adam(net.parameters())
    net(torch.rand(4, 2)).sum().backward()
    optimiser.step()
    net[0].weight.data.fill_(2.0)
    content = {"epoch": 3, "optimizer_state_dict": optimiser.state_dict(), key: net.state_dict(), "loss": 0.5}
    torch.save(content, tmp_path / "last.pt")
    assert loaded(tmp_path / "last.pt") == loaded(tmp_path / "last.pt", key) == 2


def test_a_training_file_of_timm_has_options_and_averaged_weights(tmp_path, caplog):
    options = argparse.Namespace(model="resnet18", lr=0.1, mean=(0.5, 0.5), betas=[0.9], data=None)
    content = {"epoch": 3, "arch": "resnet18", "state_dict": network(1.0).state_dict(), "args": options, "version": 2}
    content |= {"state_dict_ema": network(2.0).state_dict(), "amp_scaler": {"scale": 1.0, "growth_tracker": 0}}
    path = tmp_path / "model_best.pth.tar"
    torch.save(content, path)
    with caplog.at_level(logging.INFO):
        assert loaded(path) == 1
    assert "weights of state_dict; there are also state_dict_ema" in caplog.text
    assert loaded(path, "state_dict_ema") == 2
    with pytest.raises(CheckpointError, match=r"weights_key=ema; the file has state_dict, state_dict_ema"):
        loaded(path, "ema")
    cfg = {"_target_": f"{__name__}.Flat", "checkpoint": str(path), "weights_key": "state_dict_ema"}
    assert float(build_classifier(cfg, 3, (1, 1, 2)).network[0].weight.detach().mean()) == 2


class Flat(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(*network())

    def forward(self, x):
        return super().forward(x.flatten(1))


def test_weights_of_no_usual_name_are_chosen_by_name(tmp_path):
    path = tmp_path / "two.pt"
    torch.save({"student": network(1.0).state_dict(), "teacher": network(2.0).state_dict()}, path)
    with pytest.raises(CheckpointError, match=r"got student, teacher: choose by classifier\.weights_key"):
        loaded(path)
    assert loaded(path, "teacher") == 2
    torch.save(network(1.0).state_dict(), path)
    with pytest.raises(CheckpointError, match="has one set of weights: leave it out"):
        loaded(path, "teacher")


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "model.", "net.", "model._orig_mod.", "module._orig_mod."])
def test_prefixes_of_wrappers_are_taken_off(tmp_path, prefix):
    path = tmp_path / "last.ckpt"
    state = {f"{prefix}{name}": value for name, value in network(2.0).state_dict().items()}
    torch.save({"state_dict": state, "pytorch-lightning_version": "2.5"}, path)
    assert loaded(path) == 2


def test_parts_that_were_compiled_within_a_network_fit(tmp_path):
    whole = network(2.0)
    whole[0] = torch.compile(whole[0])
    assert "0._orig_mod.weight" in whole.state_dict()
    torch.save(whole.state_dict(), tmp_path / "compiled.pt")
    assert loaded(tmp_path / "compiled.pt") == 2


def test_averaged_weights_of_torch_fit(tmp_path):
    averaged = torch.optim.swa_utils.AveragedModel(network(2.0))
    torch.save(averaged.state_dict(), tmp_path / "averaged.pt")
    assert loaded(tmp_path / "averaged.pt") == 2


@pytest.mark.filterwarnings("ignore:.*deprecated")
def test_a_program_is_refused_with_a_way_to_its_weights(tmp_path):
    torch.jit.trace(network(2.0).eval(), torch.rand(2, 2)).save(str(tmp_path / "program.pt"))
    with pytest.raises(CheckpointError, match=r"TorchScript archive holds a program.*torch\.jit\.load\(path\)"):
        loaded(tmp_path / "program.pt")


def test_a_whole_network_is_refused_with_what_it_asks_for(tmp_path):
    torch.save(network(), tmp_path / "whole.pt")
    with pytest.raises(CheckpointError, match=r"asks for torch\.nn\.modules.*save the state dict alone"):
        loaded(tmp_path / "whole.pt")


@pytest.mark.filterwarnings("ignore:.*deprecated")
def test_a_quantised_network_is_refused(tmp_path):
    state = network().state_dict()
    state["0.weight"] = torch.quantize_per_tensor(state["0.weight"], 0.1, 0, torch.qint8)
    torch.save(state, tmp_path / "quantised.pt")
    with pytest.raises(CheckpointError, match=r"expected floating point weights; got a quantised network"):
        loaded(tmp_path / "quantised.pt")


class Evil(argparse.Namespace):
    def __reduce__(self):
        return exec, ("raise SystemExit('ran code from a checkpoint')",)


@pytest.mark.parametrize("content", [Evil(), argparse.Namespace(inner=Evil())])
def test_options_open_no_door(tmp_path, content):
    torch.save({"state_dict": copy.deepcopy(network().state_dict()), "args": content}, tmp_path / "evil.pt")
    with pytest.raises(CheckpointError, match="pickled Python objects"):
        loaded(tmp_path / "evil.pt")
