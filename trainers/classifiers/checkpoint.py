"""Weights in and out of files, without running code from them.

A `.safetensors` file holds tensors only; `.pt`, `.pth` and `.ckpt` files are read with
`torch.load(weights_only=True)`.
"""

import logging
import pickle
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from gmm_torch.files import atomic_path
from trainers.classifiers.pickles import INERT, check_pickles, is_torchscript

log = logging.getLogger(__name__)

_PICKLED = (".pt", ".pth", ".ckpt", ".bin", ".tar")  # timm writes .pth.tar
_NOT_LOADED = "damaged, or holds pickled Python objects, which could run code and are not loaded"
_SAVE_AGAIN = (
    "save the state dict alone: torch.save(network.state_dict(), path) or safetensors.torch.save_file; of a file that "
    "you trust: torch.save(torch.load(path, weights_only=False)['state_dict'], new_path)"
)
# Under which name a file holds the weights that it is for, beside others; averaged ones are asked for by name.
_USUAL_KEYS = ("state_dict", "model_state_dict", "model", "net", "network", "weights")
_COMPILED = "_orig_mod."  # what torch.compile puts before the names of what it has compiled, at any depth
_SHOWN = 4  # keys of each kind that an error names


class CheckpointError(ValueError):
    """A checkpoint that cannot be read, or that does not fit the network."""


def save_weights(module: nn.Module, path: str | Path) -> None:
    """Write a module's parameters and buffers to a safetensors file, whole or not at all."""
    # clones: safetensors refuses tensors that share memory, as tied weights do
    state = {key: value.detach().cpu().clone().contiguous() for key, value in module.state_dict().items()}
    with atomic_path(path) as temporary:
        temporary.write_bytes(save(state))


def read_weights(path: str | Path, key: str | None = None) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint onto the CPU.

    Args:
        path: a `.safetensors` file, or a file of `torch.save` with a state dict, plain or beside other content, as
            Lightning, timm and others write it.
        key: under which of several the state dict is, `state_dict_ema` for instance; None: the only one, or the one
            under `state_dict`, `model_state_dict`, `model`, `net`, `network` or `weights`, in this order.

    Returns:
        The tensors by name, without what `torch.compile` adds to names.

    Raises:
        FileNotFoundError: if there is no such file.
        CheckpointError: if the ending is unknown, the file is damaged, is a program (TorchScript) or holds pickled
            Python objects, or there is no state dict in it, or none of that key, or one of a quantised network.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}; give the path of a .safetensors, .pt, .pth or .ckpt file")
    if path.suffix == ".safetensors":
        try:
            state = load_file(path)
        except SafetensorError as error:
            raise CheckpointError(
                f"{path} is damaged or no safetensors file ({error}); copy or export it again"
            ) from error
        if key is not None:
            raise CheckpointError(f"{path}: a safetensors file has one set of weights: leave out weights_key")
    elif path.suffix in _PICKLED:
        state = _state_dict(_read_pickled(path), path, key)
    else:
        raise CheckpointError(f"{path}: expected a name ending in .safetensors, {', '.join(_PICKLED)}")
    return {name.replace(_COMPILED, ""): value for name, value in state.items()}


def load_weights(module: nn.Module, state: Mapping[str, Tensor], source: str | Path) -> None:
    """Load the tensors of a checkpoint into a module; every one must find its place.

    Keys may carry one common prefix (`classifier.network.` in a Lightning checkpoint, `module.` from data
    parallel training); tensors outside that prefix are left alone.

    Args:
        module: takes the weights, on its own device.
        state: what `read_weights` gave, of the file `source`.

    Raises:
        CheckpointError: if keys are missing, unexpected, or of another shape, or values are NaN; the module is then
            unchanged.
    """
    own = module.state_dict()
    prefix = common_prefix(state, own)
    state = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    others = [
        f"{key} (file {tuple(state[key].shape)}, network {tuple(own[key].shape)})"
        for key in own.keys() & state.keys()
        if state[key].shape != own[key].shape
    ]
    problems = [
        _problem("missing", own.keys() - state.keys()),
        _problem("unexpected", state.keys() - own.keys()),
        _problem("of another shape", others),
    ]
    if any(problems):
        raise CheckpointError(
            f"{source} does not fit {type(module).__name__}: {'; '.join(filter(None, problems))}: name "
            "the network that it is of, by classifier=... or, for one of your own, "
            "classifier._target_=package.module.Class, with the number of classes and image channels of its training"
        )
    undefined = [key for key, value in state.items() if value.is_floating_point() and bool(value.isnan().any())]
    if undefined:
        raise CheckpointError(
            f"{source}: expected finite weights; got {_problem('with NaN', undefined)}: the training that wrote it "
            "diverged, give an earlier file"
        )
    module.load_state_dict(state)


def common_prefix(keys: Iterable[str], wanted: Iterable[str]) -> str:
    """The prefix under which most of a module's `wanted` names stand in a checkpoint, the shortest of the best."""
    wanted = set(wanted)
    found = Counter({"": 0})
    for key in keys:
        parts = key.split(".")
        for start in range(len(parts)):
            if ".".join(parts[start:]) in wanted:
                found["".join(f"{part}." for part in parts[:start])] += 1
    return max(found, key=lambda prefix: (found[prefix], -len(prefix)))


def _read_pickled(path: Path) -> object:
    # What a damaged file makes of the readers can be anything.
    if is_torchscript(path):
        raise CheckpointError(
            f"{path}: a TorchScript archive holds a program, which would be run, and has no layers to look into: give "
            "the weights alone, torch.save(torch.jit.load(path).state_dict(), new_path), and the network's class"
        )
    try:
        check_pickles(path)
    except Exception as error:
        raise CheckpointError(f"{path}: {_NOT_LOADED} ({type(error).__name__}: {error}); {_SAVE_AGAIN}") from error
    try:
        with torch.serialization.safe_globals(INERT):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path}: {_NOT_LOADED}; {_SAVE_AGAIN}") from error
    except Exception as error:
        raise CheckpointError(f"{path} is damaged or no PyTorch file; copy or export it again") from error


def _state_dict(content: object, path: Path, key: str | None) -> dict[str, Tensor]:
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(
            f"{path}: expected a state dict (names to tensors); got {type(content).__name__}: save network.state_dict()"
        )
    found = {str(name): value for name, value in content.items() if isinstance(value, Mapping) and _has_tensors(value)}
    if key is not None:
        if key not in found:
            there = f"has {_listed(sorted(found))}" if found else "has one set of weights: leave it out"
            raise CheckpointError(f"{path}: expected weights under classifier.weights_key={key}; the file {there}")
        content = found[key]
    elif found:
        usual = next((name for name in _USUAL_KEYS if name in found), None)
        if usual is None and len(found) > 1:
            raise CheckpointError(
                f"{path}: expected one state dict; got {_listed(sorted(found))}: choose by classifier.weights_key=..."
            )
        content = found[usual or next(iter(found))]
        if len(found) > 1:
            log.info("%s: weights of %s; there are also %s", path, usual, ", ".join(sorted(found.keys() - {usual})))
    others = [str(name) for name, value in content.items() if not isinstance(value, Tensor)]
    quantized = (isinstance(value, Tensor) and value.is_quantized for value in content.values())
    if any(name.endswith("_packed_params") for name in others) or any(quantized):
        raise CheckpointError(
            f"{path}: expected floating point weights; got a quantised network, whose weights are no longer those that "
            "it was trained with: give the file from before"
        )
    if others:
        raise CheckpointError(
            f"{path}: expected a state dict (names to tensors), plain or under a key such as `state_dict`; "
            f"got what are no tensors: {_listed(others)}: save network.state_dict()"
        )
    return {str(name): value for name, value in content.items()}


def _has_tensors(entry: Mapping[object, object]) -> bool:
    """Whether an entry of a checkpoint is a state dict, as what an optimiser or a scaler keeps is not."""
    return any(isinstance(name, str) and isinstance(value, Tensor) for name, value in entry.items())


def _problem(kind: str, keys: Iterable[str]) -> str:
    keys = sorted(keys)
    return f"{len(keys)} keys {kind}: {_listed(keys)}" if keys else ""


def _listed(keys: list[str]) -> str:
    return ", ".join(keys[:_SHOWN]) + (", ..." if len(keys) > _SHOWN else "")
