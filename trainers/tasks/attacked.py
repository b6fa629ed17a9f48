"""Attacks on the test images."""

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from gmm_torch.detection.storage import fingerprint
from trainers.attacks.result import AttackResult
from trainers.tasks.run import Run

log = logging.getLogger(__name__)


def attacked(run: Run, classifier: nn.Module, name: str) -> AttackResult:
    """What the attack of that name does to the classifier; from the cache if it was done before.

    An attack sees the classifier alone, so jobs that differ by what comes after it share the adversarial images.
    """
    attack, seed = run.attacks[name], run.cfg.seed

    def run_attack() -> AttackResult:
        log.info("attack %s", name)
        return attack.run(classifier, run.data.test_dataloader(), device=run.device, seed=seed)

    if run.cache is None:
        return run_attack()
    parts = {
        "classifier": fingerprint(classifier),
        "data_fingerprint": run.data.fingerprint(),
        "attack": OmegaConf.to_container(run.cfg.attack[name], resolve=True),
        "n_images": attack.n_images,
        "seed": seed,
        "device": run.device.type,
    }
    path = run.cache.file("attacks", parts, ".safetensors", lambda path: write_result(run_attack(), path))
    return read_result(path)


def write_result(result: AttackResult, path: Path) -> None:
    """Write the tensors of an attack's result to a safetensors file, its numbers into the header."""
    values = {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}
    tensors = {name: value.contiguous() for name, value in values.items() if isinstance(value, Tensor)}
    plain = {name: value for name, value in values.items() if name not in tensors}
    save_file(tensors, path, metadata={"result": json.dumps(plain)})


def read_result(path: Path) -> AttackResult:
    """What `write_result` wrote."""
    with safe_open(path, framework="pt") as file:
        values: dict[str, Any] = json.loads(file.metadata()["result"])
        return AttackResult(**values, **{name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
