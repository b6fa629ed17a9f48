"""Attacks that know the detector: evasion against the budget."""

import csv
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from foolbox.attacks.base import AttackWithDistance
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor
from torch.utils.data import TensorDataset

from gmm_torch.detector import FailureDetector
from gmm_torch.evaluation.rates import interval
from gmm_torch.files import atomic_path
from gmm_torch.scores import make_score
from trainers.attacks import Attack
from trainers.attacks.adaptive.curve import Curve, trace, union
from trainers.attacks.adaptive.diagnostics import curve_diagnostics, detector_diagnostics
from trainers.attacks.adaptive.search import AdaptiveAttack
from trainers.attacks.adaptive.threat_model import ThreatModel
from trainers.attacks.budget import parse_budget
from trainers.attacks.correct_images import CorrectImages, draw_correct
from trainers.attacks.diagnostics import warn
from trainers.attacks.frozen import frozen
from trainers.cache.run_folder import begin_stage
from trainers.evaluation.diagnosis import fitted_to
from trainers.evaluation.metrics_file import metrics_of, write_metrics
from trainers.evaluation.pictures import picture
from trainers.evaluation.predict import predict
from trainers.records.record import TEST, Records
from trainers.report.evasion_page import Pair, write_evasion_report
from trainers.report.tables.evasion import evasion_table
from trainers.report.tables.format import wide_console
from trainers.report.tables.text import BASELINE
from trainers.run.model import load_detector
from trainers.run.requirements import require, require_detector
from trainers.run.run import Run

log = logging.getLogger(__name__)

STATIC = "pgd"
N_PAIRS = 12  # evading images in the report


def adaptive(
    cfg: DictConfig,
    folder: Path,
    *,
    budgets: Sequence[float | str],
    n_images: int,
    n_unrestricted: int,
    n_others: int,
    static: AttackWithDistance,
) -> None:
    """Attack the detector of `checkpoint` by those who know it; write `metrics.json`, `evasion.csv`, `report.html`.

    Args:
        cfg, folder: as of every task; the attacks are those of `adaptive`.
        budgets: largest changes of a pixel, numbers in [0, 1] or fractions such as "8/255".
        n_images: how many images that the classifier gets right are attacked.
        n_unrestricted: how many of them are also attacked without a budget, as a check of the attacks.
        n_others: how many clean images the attacker has to imitate.
        static: the attack that does not know the detector; its successes make the AUROC.
    """
    require_detector(cfg, "adaptive")
    require(cfg.get("adaptive") or None, "adaptive", "task=adaptive needs attacks")
    if not budgets:
        raise ValueError("task.budgets: expected at least one, such as [8/255]; got none")
    epsilons = tuple(sorted({parse_budget("task.budgets", budget, 1) for budget in budgets}))
    run = Run(cfg, folder)
    data, device = run.data, run.device
    if cfg.limit.attack is not None:
        n_images, n_unrestricted = min(n_images, cfg.limit.attack), min(n_unrestricted, cfg.limit.attack)
    statics = [Attack(STATIC, static, epsilon, n_images) for epsilon in epsilons]
    attacks: list[AdaptiveAttack] = [instantiate(attack) for attack in cfg.adaptive.values()]
    detector = load_detector(cfg, run.classifier.to(device), data.image_shape)
    for finding in fitted_to(run, detector):
        log.warning("%s", finding)
    begin_stage(folder, "evaluate")
    own = detector.score.name
    detectors = {own: detector}
    if own != BASELINE:
        detectors[BASELINE] = _baseline(run, detector)
    test = data.test_dataloader()
    with frozen(detector.classifier):
        clean = draw_correct(detector.classifier, test, n_images, device, data.batch_size, cfg.seed)
    if not len(clean.images):
        raise ValueError(
            "task=adaptive: expected test images that are classified rightly; got none to attack: train longer"
        )
    truth = data.test_images.targets
    scored = {name: {TEST: predict(run, each, test.dataset, TEST, truth)} for name, each in detectors.items()}
    about: dict[str, dict[str, Any]] = {}
    wrong: list[Tensor] = []
    passed: dict[str, list[Tensor]] = {name: [] for name in detectors}
    for attack, epsilon in zip(statics, epsilons, strict=True):
        result = attack.run(detector.classifier, test, device=device, seed=cfg.seed)
        source = f"adversarial/{STATIC} {255 * epsilon:g}"
        about[source] = {name: getattr(result, name) for name in ("epsilon", "n_attacked", "success_rate")}
        wrong.append(torch.isin(clean.index, result.index))
        for name, each in detectors.items():
            scored[name][source] = predict(run, each, TensorDataset(result.images), source, result.label, result.index)
            passed[name].append(torch.isin(clean.index, result.index[scored[name][source].accept]))
    curves: list[Curve] = []
    notes: dict[tuple[str, str], list[str]] = {}
    images: dict[str, dict[str, Tensor]] = {}
    for name, each in detectors.items():
        log.info("adaptive attacks on %s: %d images", name, len(clean.images))
        found = [Curve(name, STATIC, epsilons, torch.stack(passed[name]))]
        with frozen(each):
            threat = _threat_model(run, each, clean, scored[name][TEST], n_others)
            for one in attacks:
                curve, changed = trace(name, one, threat, epsilons, n_unrestricted=n_unrestricted, seed=cfg.seed)
                notes[one.name, name] = [*detector_diagnostics(threat, one), *curve_diagnostics(curve)]
                found.append(curve)
                images.setdefault(name, {})[one.name] = changed
        curves += [*found, union(found)]
    # An image that passes a detector is wrong for the classifier, too.
    curves.insert(0, union([Curve("none", STATIC, epsilons, torch.stack(wrong)), *curves]))
    metrics = metrics_of(run, detector, scored[own], about) | {
        "evasion": {
            "defence": own,
            "n_attacked": len(clean.index),
            "false_alarms": {name: _false_alarms(each[TEST]) for name, each in scored.items()},
            "attacks": {each.name: each.settings() for each in attacks},
            "curves": [curve.summary() for curve in curves],
            "warnings": [f"{attack} on {name}: {text}" for (attack, name), texts in notes.items() for text in texts],
        }
    }
    write_metrics(metrics, folder / "metrics.json")
    _write_csv(curves, folder / "evasion.csv")
    pairs = _pairs(run, detector, clean, [c for c in curves if c.defence == own], images[own])
    write_evasion_report(metrics, pairs, folder / "report.html")
    for curve in curves:
        warn(f"{curve.attack} on {curve.defence}", notes.get((curve.attack, curve.defence), []))
    console = wide_console()
    console.print(evasion_table(metrics).terminal())
    console.print(f"report: {folder / 'report.html'}", soft_wrap=True)


def _baseline(run: Run, detector: FailureDetector) -> FailureDetector:
    """Refuses by the largest softmax probability, at the same rate, calibrated on the same images."""
    baseline = FailureDetector(run.classifier, score=make_score(BASELINE), alpha=detector.alpha)
    outputs = baseline.features(run.data.calibration_dataloader())
    return baseline.fit(outputs).calibrate(outputs)


def _false_alarms(test: Records) -> dict[str, Any]:
    """The share of clean test images that are refused."""
    n, refused = len(test.accept), int((~test.accept).sum())
    return {"n": n, "rate": refused / n, "interval": interval(refused, n)}


def _threat_model(
    run: Run, detector: FailureDetector, clean: CorrectImages, test: Records, n_others: int
) -> ThreatModel:
    """What the attacker knows, on the detector's device."""
    candidates = (test.accept & ~test.wrong).nonzero()[:, 0]  # they may be sorted by class
    drawn = torch.randperm(len(candidates), generator=torch.Generator().manual_seed(run.cfg.seed))
    chosen = candidates[drawn[:n_others]]
    if not len(chosen):
        raise ValueError(
            f"task=adaptive: expected test images that are classified rightly and accepted by {detector.score.name}; "
            "got none: calibrate on images like the test images"
        )
    others = torch.stack([run.data.test_images[i][0] for i in chosen.tolist()])
    images, size = clean.images.to(detector.device), run.data.batch_size
    outputs, imitated = (detector.features(each.split(size)) for each in (images, others))
    return ThreatModel(detector, images, clean.label.to(detector.device), outputs, imitated)


def _write_csv(curves: Sequence[Curve], path: Path) -> None:
    columns = ("epsilon", "n", "n_evaded", "n_lost", "rate")
    with atomic_path(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("defence", "attack", *columns, "low", "high"))
        for curve in curves:
            for point in curve.points():
                numbers = [getattr(point, name) for name in columns]
                writer.writerow((curve.defence, curve.attack, *numbers, *point.interval))


def _pairs(
    run: Run, detector: FailureDetector, clean: CorrectImages, curves: Sequence[Curve], images: Mapping[str, Tensor]
) -> list[Pair]:
    """Images that evade the detector, those with the smallest budgets first."""
    candidates: dict[int, tuple[float, str, int]] = {}
    for curve in curves:
        if curve.attack in images:
            for e, i in curve.found.nonzero().tolist():
                best = (curve.epsilons[e], curve.attack, e)
                candidates[i] = min(candidates.get(i, best), best)
    names, pairs = run.data.class_names, []
    for i, (epsilon, attack, e) in sorted(candidates.items(), key=lambda item: item[1])[:N_PAIRS]:
        changed = images[attack][e, i]
        with torch.no_grad():
            verdict = detector(changed[None].to(detector.device))
        shown, truth = (picture(clean.images[i]), picture(changed)), names[int(clean.label[i])]
        prediction, p_value = names[int(verdict.prediction)], float(verdict.p_value)
        pairs.append(Pair(*shown, truth, prediction, p_value, epsilon, attack))
    return pairs
