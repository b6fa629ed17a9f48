import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from trainers.classifiers.checkpoint import CheckpointError, common_prefix, load_weights, read_weights, save_weights


def _network(width=3):
    return nn.Sequential(nn.Linear(2, width), nn.BatchNorm1d(width))


def _load(module, path):
    load_weights(module, read_weights(path), path)


def _assert_same(a, b):
    assert a.state_dict().keys() == b.state_dict().keys()
    for key, value in a.state_dict().items():
        torch.testing.assert_close(value, b.state_dict()[key], rtol=0, atol=0)


def test_saved_weights_come_back(tmp_path):
    network, other = _network(), _network()
    save_weights(network, tmp_path / "classifier.safetensors")
    _load(other, tmp_path / "classifier.safetensors")
    _assert_same(network, other)
    assert [path.name for path in tmp_path.iterdir()] == ["classifier.safetensors"]


def test_tied_weights_can_be_saved(tmp_path):
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    network[1].weight = network[0].weight
    save_weights(network, tmp_path / "tied.safetensors")
    assert torch.equal(load_file(tmp_path / "tied.safetensors")["1.weight"], network[0].weight)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt"])
@pytest.mark.parametrize("wrap", [lambda state: state, lambda state: {"state_dict": state, "epoch": 3}])
def test_state_dicts_of_torch_load(tmp_path, suffix, wrap):
    network, other = _network(), _network()
    path = tmp_path / f"weights{suffix}"
    torch.save(wrap(network.state_dict()), path)
    _load(other, path)
    _assert_same(network, other)


def test_a_common_prefix_is_taken_off(tmp_path):
    network, other = _network(), _network()
    state = {f"classifier.network.{key}": value for key, value in network.state_dict().items()}
    torch.save({"state_dict": state | {"val_metrics.total": torch.zeros(1)}}, tmp_path / "last.ckpt")
    _load(other, tmp_path / "last.ckpt")
    _assert_same(network, other)


def test_the_prefix_of_most_keys_wins():
    keys = ["ema.a.weight", "net.a.weight", "net.b.weight"]
    assert common_prefix(keys, ["a.weight", "b.weight"]) == "net."
    assert common_prefix(["x"], ["a.weight"]) == ""
    assert common_prefix(["bn.weight", "layer.bn.weight"], ["bn.weight", "layer.bn.weight"]) == ""


def test_every_kind_of_misfit_is_listed_in_one_error(tmp_path):
    network = _network()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    state = {key: value.clone() for key, value in network.state_dict().items()}
    state["0.weight"] = torch.zeros(5, 2)
    del state["0.bias"]
    state |= {f"head.{i}": torch.zeros(1) for i in range(6)}
    save_file(state, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError) as error:
        _load(network, tmp_path / "other.safetensors")
    text = str(error.value)
    assert "1 keys missing: 0.bias" in text
    assert "6 keys unexpected: head.0, head.1, head.2, head.3, ..." in text
    assert "1 keys of another shape: 0.weight (file (5, 2), network (3, 2))" in text
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at .*gone\.pt"):
        read_weights(tmp_path / "gone.pt")


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".ckpt"])
@pytest.mark.parametrize("kept", [0, 40, 0.5])
def test_a_truncated_file_is_called_damaged(tmp_path, suffix, kept):
    path = tmp_path / f"half{suffix}"
    if suffix == ".safetensors":
        save_weights(_network(), path)
    else:
        torch.save(_network().state_dict(), path)
    content = path.read_bytes()
    path.write_bytes(content[: kept if isinstance(kept, int) else int(kept * len(content))])
    with pytest.raises(CheckpointError, match="damaged"):
        read_weights(path)


class _Bomb:
    def __reduce__(self):
        return exec, ("raise SystemExit('ran code from a checkpoint')",)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("save", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
def test_code_in_a_pickle_is_not_run(tmp_path, save):
    save({"state_dict": {"0.weight": _Bomb()}}, tmp_path / "bomb.pt")
    with pytest.raises(CheckpointError, match="pickled Python objects"):
        read_weights(tmp_path / "bomb.pt")


@pytest.mark.parametrize("content", [[1, 2], {}, {"epoch": 3}, {"model": {"weight": 1}}])
def test_a_file_without_a_state_dict_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "no.pt")
    with pytest.raises(CheckpointError, match="expected a state dict"):
        read_weights(tmp_path / "no.pt")


def test_an_unknown_ending_is_refused(tmp_path):
    (tmp_path / "weights.h5").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"ending in \.safetensors"):
        read_weights(tmp_path / "weights.h5")
