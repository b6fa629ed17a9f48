"""Attacks on the test images, cached, and their metrics."""

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
from torch.utils.data import ConcatDataset, TensorDataset

from gmm_torch.detector import FailureDetector
from gmm_torch.detector.weights import fingerprint
from trainers.attacks import Attack, AttackResult
from trainers.attacks.attack_budgets import budget_diagnostics
from trainers.attacks.diagnostics import AttackWarning, comparison_diagnostics, result_diagnostics
from trainers.classifiers.build import build_classifier
from trainers.evaluation.detection_metrics import auroc_metrics, share
from trainers.evaluation.predict import predict
from trainers.records.record import Records
from trainers.run.run import Run

log = logging.getLogger(__name__)

CODE = (build_classifier, Attack)  # that makes a result
ATTACK_FACTS = (
    *("norm", "epsilon", "black_box", "n_attacked", "success_rate"),
    *("median_l1", "median_l2", "median_linf", "seconds_per_image"),
)


def attacked(run: Run, classifier: nn.Module, name: str) -> AttackResult:
    """What the attack of that name does to the classifier; from the cache if it was done before."""
    log.info("attack %s", name)
    result = _once(run, classifier, run.attacks[name])
    _tell(name, result_diagnostics(result))
    return result


def attacked_at_budgets(run: Run, classifier: nn.Module, name: str) -> list[AttackResult]:
    """What an attack does to the classifier at each of its budgets; from the cache what was done before."""
    attacks = run.attack_budgets[name].attacks
    log.info("attack %s at %d budgets", name, len(attacks))
    results = [_once(run, classifier, each) for each in attacks]
    _tell(name, budget_diagnostics(results))
    return results


def attack_diagnostics(
    results: Mapping[str, AttackResult], budgets: Mapping[str, Sequence[AttackResult]]
) -> dict[str, list[str]]:
    """Why results can't be trusted: name of the attack -> sentences; those without any are left out."""
    found = {name: result_diagnostics(result) for name, result in results.items()}
    found |= {name: budget_diagnostics(points) for name, points in budgets.items()}
    for name, sentences in comparison_diagnostics(results.values()).items():
        found[name] = found[name] + sentences
    return {name: sentences for name, sentences in found.items() if sentences}


def attack_facts(result: AttackResult) -> dict[str, Any]:
    """The attack by itself, `ATTACK_FACTS`: its budget, how often it succeeded, how far it went, how long it took."""
    return {name: getattr(result, name) for name in ATTACK_FACTS}


def verdict_facts(accept: Tensor, n_attacked: int) -> dict[str, float | None]:
    """What became of the successes, (n,) bool, of an attack that does not know the detector.

    Returns:
        refusal_rate: the share of the successes that are refused, None without any; evasion_rate: the share of the
        attacked images that end up wrong and accepted, None where none was attacked.
    """
    return {
        "refusal_rate": share(~accept),
        "evasion_rate": float(accept.sum()) / n_attacked if n_attacked else None,
    }


def sweep_metrics(
    run: Run, detector: FailureDetector, budgets: Mapping[str, Sequence[AttackResult]], clean: Records
) -> dict[str, list[dict[str, Any]]]:
    """The content of metrics.json under `sweeps`: name -> `budget_metrics` of each budget, in rising order."""
    right = clean.rows(~clean.wrong)
    found = {}
    for name, results in budgets.items():
        images: ConcatDataset[Any] = ConcatDataset([TensorDataset(result.images) for result in results])
        parts = predict(run, detector, images, name).split([result.n_success for result in results])
        found[name] = [budget_metrics(result, right, part) for result, part in zip(results, parts, strict=True)]
    return found


def budget_metrics(result: AttackResult, right: Records, successes: Records) -> dict[str, Any]:
    """One point of a curve: the successes of an attack at one budget, beside the clean images classified rightly.

    Returns:
        the keys of `attack_facts` and `verdict_facts`; n, the number of successes; those of `auroc_metrics`.
    """
    return {
        **attack_facts(result),
        **verdict_facts(successes.accept, result.n_attacked),
        "n": result.n_success,
        **auroc_metrics(right, successes),
    }


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
    path = run.cache.file("attacks", parts, CODE, ".safetensors", lambda path: write_result(run_attack(), path))
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
