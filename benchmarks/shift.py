"""Measure what weighted calibrations promise where the world moved, and what they cost.

    python benchmarks/shift.py

Another camera and other proportions of classes, on scikit-learn's digits with a small network and the default score;
what an error of the weights does to the rate, in simulation.
Writes `benchmarks/results/shift.json` and the table of `docs/guarantees.md`, two minutes on one core. Exits with 1
where a promise is broken: each is tested at FALSE_ALARM divided by their number, so the chance of any false alarm is
at most FALSE_ALARM; a control beside each, which must alarm, is tested at the same level.
"""

import sys
import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import pages
import sklearn
import torch
from scipy import stats
from sklearn.datasets import load_digits
from torch import Tensor, nn

from gmm_torch import FailureDetector
from gmm_torch.conformal.density_ratio import DensityRatio
from gmm_torch.conformal.label_shift import LabelShiftCalibration
from gmm_torch.conformal.p_values import conformal_p_value
from gmm_torch.conformal.weighted import WeightedCalibration, effective_sample_size, weighted_p_value
from gmm_torch.evaluation.hypothesis_tests import probability_of_superiority
from trainers.classifiers.small_cnn import SmallCNN

RESULTS = pages.RESULTS / "shift.json"
PAGE = pages.ROOT / "docs" / "guarantees.md"
FALSE_ALARM = 0.01
ALPHA, ALPHAS = 0.05, (0.01, 0.05, 0.1, 0.2)
N_SPLITS, FIRST_SEED = 4, 10  # the defaults were looked at with other seeds
SIZES = {"train": 200, "fit": 300, "reference": 250, "calibrate": 450, "deployed": 250, "new": 347}
SEVERITIES = (1, 2, 3, 4, 5)
SHARE = 0.2  # of failures among deployment inputs, where there are some
REPETITIONS, N = 5_000, 200  # of simulations: calibration sets, and their size
SHIFT = -0.7  # of the simulated scores, in standard deviations


def brightness(x: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Lighter."""
    return (x + 0.03 * severity).clamp(0, 1)


def noise(x: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Gaussian, of each pixel."""
    return (x + 0.04 * severity * torch.randn(x.shape, generator=generator)).clamp(0, 1)


def blur(x: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Mixed with the mean of the 3 x 3 neighbours."""
    return torch.lerp(x, nn.functional.avg_pool2d(x, 3, 1, 1), 0.1 * severity)


CORRUPTIONS: dict[str, Callable[[Tensor, int, torch.Generator], Tensor]] = {
    "brightness": brightness,
    "noise": noise,
    "blur": blur,
}


class Split(NamedTuple):
    """Images and classes by purpose, and a detector that is fitted."""

    x: dict[str, Tensor]
    y: dict[str, Tensor]
    detector: FailureDetector
    generator: torch.Generator


def split(seed: int) -> Split:
    """A random split of the digits, with a network trained and a detector fitted."""
    found = load_digits()
    x, y = torch.from_numpy(found.images / 16).float()[:, None], torch.from_numpy(found.target)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(x), generator=generator)
    parts = dict(zip(SIZES, order.split(list(SIZES.values())), strict=True))
    torch.manual_seed(seed)
    network = SmallCNN(10, 1, 32)
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(x[parts["train"]]), y[parts["train"]]).backward()
        optimizer.step()
    network.eval().requires_grad_(False)
    detector = FailureDetector(network, n_components=2, alpha=ALPHA, seed=seed).fit([x[parts["fit"]]])
    images, classes = ({name: values[index] for name, index in parts.items()} for values in (x, y))
    return Split(images, classes, detector, generator)


def blends(x: Tensor) -> Tensor:
    """Means of two digits each: failures."""
    return (x + x.roll(1, 0)) / 2


def measured(good: Tensor, bad: Tensor) -> dict[str, float]:
    """Rates at alpha of p-values of good inputs and of failures, and at equal false alarms."""
    level = good.double().kthvalue(max(1, int(ALPHA * len(good)))).values
    return {
        "false_alarms": float((good <= ALPHA).double().mean()),
        "found": float((bad <= ALPHA).double().mean()),
        "found_at_equal_rate": float((bad <= level).double().mean()),
        "auroc": float(probability_of_superiority(good, bad)),
    }


# ---- another camera


def cameras(seed: int) -> dict[tuple[str, int, str], dict[str, float]]:
    """Of one split: what each way of calibrating does on each camera."""
    own = split(seed)
    x, detector, found = own.x, own.detector, {}
    detector.calibrate([x["calibrate"]])
    kept = {name: detector.statistics(detector.features([x[name]])) for name in ("reference", "calibrate")}
    for kind, corrupt in CORRUPTIONS.items():
        for severity in SEVERITIES:
            seen = {name: corrupt(x[name], severity, own.generator) for name in ("deployed", "new")}
            failures = corrupt(blends(x["new"]), severity, own.generator)
            n = int(SHARE * len(seen["deployed"]))
            mixed = torch.cat([seen["deployed"][n:], corrupt(blends(x["deployed"])[:n], severity, own.generator)])
            outputs = {"good": detector.features([seen["new"]]), "bad": detector.features([failures])}
            score = {name: detector.score(value) for name, value in outputs.items()}
            plain = detector.calibration
            found[kind, severity, "plain"] = measured(plain.p_value(score["good"]), plain.p_value(score["bad"]))
            for name, deployed in (("", seen["deployed"]), (", failures among them", mixed)):
                shown = detector.features([deployed])
                ordered = detector.score(shown).sort().values
                p_values = [conformal_p_value(score[each], ordered) for each in ("good", "bad")]
                found[kind, severity, "calibrated on deployment inputs" + name] = measured(*p_values)
                detector.calibration = WeightedCalibration()
                detector.adapt(detector.statistics(shown), kept["reference"])
                try:
                    detector.calibrate(kept["calibrate"])
                except ValueError:
                    found[kind, severity, "weighted" + name] = {}
                else:
                    p_values = [detector(value).p_value for value in outputs.values()]
                    size = {"effective_size": detector.calibration.effective_size}
                    found[kind, severity, "weighted" + name] = measured(*p_values) | size
                detector.calibration = plain
    return found


# ---- other proportions


def proportions(seed: int) -> dict[str, dict[str, float]]:
    """Of one split: the two classes of which most reference inputs are refused come ten times as often."""
    own = split(seed)
    x, y, detector = own.x, own.y, own.detector
    detector.calibrate([x["calibrate"]])
    refused = (detector(x["reference"]).p_value <= ALPHA).double()
    rates = torch.stack([refused[y["reference"] == c].mean() for c in range(10)])
    often = torch.ones(10)
    often[rates.topk(2).indices] = 10
    drawn = {
        name: torch.multinomial(often[y[name]], 400, replacement=True, generator=own.generator)
        for name in ("deployed", "new")
    }
    new = x["new"][drawn["new"]]
    found = {"plain": measured(detector(new).p_value, detector(blends(x["new"])).p_value)}
    detector.calibration = LabelShiftCalibration(10)
    detector.adapt([x["deployed"][drawn["deployed"]]], [(x["reference"], y["reference"])])
    try:
        detector.calibrate([(x["calibrate"], y["calibrate"])])
    except ValueError:
        return found | {"label shift": {}}
    more = {"effective_size": detector.calibration.effective_size, "error": float(detector.calibration.error)}
    found["label shift"] = measured(detector(new).p_value, detector(blends(x["new"])).p_value) | more
    return found


# ---- in simulation


def simulated() -> tuple[list[dict[str, float]], dict[str, float], dict[str, float]]:
    """Weights that are exact and weights that are not; p-values of tests of promises, and of controls."""
    g = torch.Generator().manual_seed(0)
    calibration = torch.randn(REPETITIONS, N, generator=g).double()
    new = torch.randn(REPETITIONS, 1, generator=g).double() + SHIFT
    rows, tests, controls = [], {}, {}
    for believed in (0.0, -0.35, -0.6, -0.7, -0.8, -1.05, -1.4):
        p = torch.cat(
            [
                weighted_p_value(x, believed * x, scores, believed * scores)
                for x, scores in zip(new, calibration, strict=True)
            ]
        )
        distance = 2 * float(stats.norm.cdf(abs(believed - SHIFT) / 2)) - 1
        sizes = [effective_sample_size(believed * scores) for scores in calibration[:200]]
        for alpha in ALPHAS:
            n = int((p <= alpha).sum())
            above = stats.binomtest(n, REPETITIONS, min(1, alpha + distance), alternative="greater").pvalue
            tests[f"weights of a shift of {believed}, alpha {alpha}"] = float(above)
            if believed == 0:
                plain = stats.binomtest(n, REPETITIONS, alpha, alternative="greater").pvalue
                controls[f"plain, alpha {alpha}"] = float(plain)
        rate = float((p <= ALPHA).double().mean())
        rows.append(
            {"believed": believed, "distance": distance, "rate": rate, "effective_size": sum(sizes) / len(sizes)}
        )
    return rows, tests, controls


def learnt() -> list[dict[str, float]]:
    """How many inputs it takes to learn weights from: false alarms with four statistics, the first the score."""
    rows = []
    for n in (50, 100, 250, 1000):
        for width in (1, 4, 16):
            g, rates = torch.Generator().manual_seed(n), []
            for _ in range(10):
                reference, deployed, calibration, new = (
                    torch.randn(size, width, generator=g) + shift
                    for size, shift in ((n, 0), (n, SHIFT / width**0.5), (500, 0), (2000, SHIFT / width**0.5))
                )
                ratio = DensityRatio().fit(reference, deployed)
                score, scores = (each.sum(1) for each in (new, calibration))
                p = weighted_p_value(score, ratio(new), scores, ratio(calibration))
                rates.append(float((p <= ALPHA).double().mean()))
            rows.append({"n": n, "width": width, "rate": sum(rates) / len(rates)})
    return rows


def collected(found: list[Mapping[Any, Mapping[str, float]]]) -> dict[Any, dict[str, float]]:
    """Means over splits, those left out that promised nothing; and how many promised something."""
    gathered: dict[Any, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for one in found:
        for name, values in one.items():
            gathered[name]["promised"].append(float(bool(values)))
            for key, value in values.items():
                gathered[name][key].append(value)
    return {name: {key: sum(value) / len(value) for key, value in values.items()} for name, values in gathered.items()}


# ---- the page


def percent(value: float | None, digits: int = 1) -> str:
    """In per cent."""
    return "–" if value is None else f"{100 * value:.{digits}f}"


def document(result: Mapping[str, Any]) -> str:
    """The tables."""
    ways = (
        "plain",
        "weighted",
        "weighted, failures among them",
        "calibrated on deployment inputs",
        "calibrated on deployment inputs, failures among them",
    )
    by = {(row["corruption"], row["severity"], row["way"]): row for row in result["cameras"]}

    def table(key: str) -> str:
        head = ["calibration", *(f"{kind} {severity}" for kind in CORRUPTIONS for severity in SEVERITIES)]
        rows = []
        for way in ways:
            cells = [by[kind, severity, way] for kind in CORRUPTIONS for severity in SEVERITIES]
            marks = [percent(cell.get(key)) + ("*" if 0 < cell["promised"] < 1 else "") for cell in cells]
            rows.append([way, *marks])
        return pages.table(head, rows)

    sizes = [
        [f"{row['corruption']} {row['severity']}", f"{row.get('effective_size', 0):.0f}", percent(row["promised"], 0)]
        for row in result["cameras"]
        if row["way"] == "weighted"
    ]
    wrong = [
        [f"{row['believed']:g}", f"{row['effective_size']:.0f}", percent(row["rate"]), percent(ALPHA + row["distance"])]
        for row in result["simulated"]
    ]
    learnt_rows = [
        [f"{n:,}", *(percent(row["rate"]) for row in result["learnt"] if row["n"] == n)]
        for n in dict.fromkeys(row["n"] for row in result["learnt"])
    ]
    shares = [
        [row["way"], percent(row.get("false_alarms")), percent(row.get("found")), percent(row["promised"], 0)]
        for row in result["proportions"]
    ]
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    n_tests = len(result["tests"])
    return "\n\n".join(
        (
            f"{N_SPLITS} random splits of the digits, each with its network and detector; alpha = {ALPHA:g}; "
            f"{SIZES['deployed']} deployment, {SIZES['reference']} reference and {SIZES['calibrate']} calibration "
            'inputs. Failures are means of two digits, seen by the same camera. "Failures among them": '
            f"{SHARE:.0%} of the deployment inputs are such. An asterisk: only some splits could promise anything, a "
            "dash: none could, and said so. **False alarms**, %:",
            table("false_alarms"),
            "**Failures refused** at the same alpha, %:",
            table("found"),
            "**Failures refused where each refuses 5 % of the good inputs**, %; the AUROC of p-values differs by "
            f"{100 * result['auroc_gap']:.1f} points at most between plain and weighted ones:",
            table("found_at_equal_rate"),
            "**Effective sample size** of 300 ranked calibration inputs, and splits that could promise anything:",
            pages.table(["camera", "effective sample size", "splits, %"], sizes),
            f"**Wrong weights.** Scores of N({SHIFT:g}, 1), calibration scores of N(0, 1), weights of a shift that was "
            f"believed; {REPETITIONS:,} sets of {N}, one new input each; alpha = {ALPHA:g}. The promise is alpha + the "
            f"total variation distance. {n_tests} tests of promises, at {FALSE_ALARM:g} / {n_tests} each: none alarms, "
            f"smallest p-value {min(result['tests'].values()):.2g}; plain p-values alarm, with "
            f"{max(result['controls'].values()):.0e} at most.",
            pages.table(["believed shift", "effective sample size", "false alarms, %", "promised, %"], wrong),
            "**Learnt weights.** The same shift in 1, 4 or 16 statistics, of which the score is the sum; false alarms "
            f"at {ALPHA:g}, in %, by how many deployment and as many reference inputs the weights were learnt from:",
            pages.table(["inputs", "1 statistic", "4", "16"], learnt_rows),
            "**Other proportions.** The two digits of which most are refused come ten times as often:",
            pages.table(["calibration", "false alarms, %", "failures refused, %", "splits that promise, %"], shares),
            f"{versions}; one core.",
        )
    )


def main() -> int:
    """Run everything; see the first lines of the module."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    rows, tests, controls = simulated()
    print("simulated", flush=True)
    with torch.no_grad(), torch.inference_mode(False):
        few = learnt()
        seen, shares = [], []
        for seed in range(FIRST_SEED, FIRST_SEED + N_SPLITS):
            with torch.enable_grad():
                seen.append(cameras(seed))
                shares.append(proportions(seed))
            print("split", seed, flush=True)
    result: dict[str, Any] = {
        "cameras": [
            {"corruption": kind, "severity": severity, "way": way} | values
            for (kind, severity, way), values in collected(seen).items()
        ],
        "proportions": [{"way": way} | values for way, values in collected(shares).items()],
        "simulated": rows,
        "learnt": few,
        "tests": tests,
        "controls": controls,
        "versions": {"torch": torch.__version__, "scikit-learn": sklearn.__version__},
    }
    by = {(row["corruption"], row["severity"], row["way"]): row for row in result["cameras"]}
    result["auroc_gap"] = max(
        abs(row["auroc"] - by[kind, severity, "plain"]["auroc"])
        for (kind, severity, way), row in by.items()
        if way == "weighted" and row["promised"] == 1
    )
    pages.save(RESULTS, result)
    pages.fill(PAGE, "shift", document(result))
    broken = [name for name, p in tests.items() if p < FALSE_ALARM / len(tests)]
    silent = [name for name, p in controls.items() if p >= FALSE_ALARM / len(tests)]
    for name in (*broken, *silent):
        print("broken:", name)
    return int(bool(broken or silent))


if __name__ == "__main__":
    sys.exit(main())
