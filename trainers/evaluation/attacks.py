"""Attacks on the test images."""

import dataclasses
import json
import logging
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from gmm_torch.detection.files.storage import fingerprint
from trainers.attacks import Attack, AttackResult
from trainers.attacks.checks import AttackWarning, compare, findings
from trainers.attacks.sweep import sweep_findings
from trainers.run.run import Run

log = logging.getLogger(__name__)


def attacked(run: Run, classifier: nn.Module, name: str) -> AttackResult:
    """What the attack of that name does to the classifier; from the cache if it was done before."""
    log.info("attack %s", name)
    result = _once(run, classifier, run.attacks[name])
    _tell(name, findings(result))
    return result


def swept(run: Run, classifier: nn.Module, name: str) -> list[AttackResult]:
    """What the sweep of that name does to the classifier, budget by budget; from the cache what was done before."""
    sweep = run.sweeps[name]
    log.info("attack %s at %d budgets", name, len(sweep.attacks))
    results = [_once(run, classifier, attack) for attack in sweep.attacks]
    _tell(name, sweep_findings(results))
    return results


def doubts(results: Mapping[str, AttackResult], sweeps: Mapping[str, Sequence[AttackResult]]) -> dict[str, list[str]]:
    """Why results can't be trusted: name of the attack -> sentences; those without any are left out."""
    found = {name: findings(result) for name, result in results.items()}
    found |= {name: sweep_findings(points) for name, points in sweeps.items()}
    for name, sentences in compare(results.values()).items():
        found[name] = found[name] + sentences
    return {name: sentences for name, sentences in found.items() if sentences}


def _tell(name: str, sentences: Iterable[str]) -> None:
    for text in sentences:
        log.warning("attack %s: %s", name, text)


def _once(run: Run, classifier: nn.Module, attack: Attack) -> AttackResult:
    """An attack sees the classifier alone, so jobs that differ by what comes after it share the adversarial images."""
    seed = run.cfg.seed

    def run_attack() -> AttackResult:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AttackWarning)  # told by the log
            return attack.run(classifier, run.data.test_dataloader(), device=run.device, seed=seed)

    if run.cache is None:
        return run_attack()
    parts = {
        "classifier": fingerprint(classifier),
        "network": run.network,
        "data_fingerprint": run.data.fingerprint(),
        "attack": OmegaConf.to_container(run.cfg.attack[attack.name], resolve=True),
        "epsilon": attack.epsilon,
        "n_images": attack.n_images,
        "seed": seed,
        "device": run.device.type,
    }
    path = run.cache.file("attacks", parts, (Attack,), ".safetensors", lambda path: write_result(run_attack(), path))
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
