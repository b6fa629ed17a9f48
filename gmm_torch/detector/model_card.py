"""The page that describes a shared detector: what it is, what was measured, its limits, how to load it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gmm_torch.detector.summary import preprocessing_in_words, shape_in_words

if TYPE_CHECKING:
    from gmm_torch.detector.detector import FailureDetector

BASELINE = "max_softmax"
NOTHING = "–"
HEADER = """---
library_name: gmm_torch
tags:
- failure-detection
- out-of-distribution-detection
- conformal-prediction
---"""
HOW_TO_LOAD = """## How to load it

```python
from gmm_torch import FailureDetector

detector = FailureDetector.from_pretrained("this repository, or its folder", classifier)
verdict = detector(x)  # .prediction, .p_value, .accept
```

The classifier has to be the one that the detector was fitted to; another one is refused. `detector.safetensors` holds \
numbers and a description, and nothing in it can run."""


def check_metrics(metrics: Mapping[str, Any], detector: "FailureDetector") -> None:
    """Raise ValueError unless the content of a metrics.json is of a detector fitted and calibrated like this one."""
    try:
        found = metrics["alpha"], metrics["n_fitted"], metrics["calibration"]["n"]
        _ = metrics["classifier"]["test_accuracy"], metrics["sources"]
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"metrics: expected the content of a metrics.json; got one without {error}: give what gmm-torch "
            "task=evaluate wrote"
        ) from error
    expected = detector.alpha, detector.n_fitted, len(detector.calibration)
    if found != expected:
        raise ValueError(
            f"metrics: expected those of this detector, (alpha, fitting inputs, calibration inputs) = {expected}; got "
            f"{found}: give the metrics.json from the same folder"
        )


def model_card(detector: "FailureDetector", metrics: Mapping[str, Any] | None) -> str:
    """Markdown with the header of the Hub; without the content of a metrics.json it claims no measurement."""
    parts = [HEADER, _what(detector), HOW_TO_LOAD, _measured(metrics), _limits(detector, metrics)]
    return "\n\n".join(parts) + "\n"


def _what(detector: "FailureDetector") -> str:
    classifier = type(detector.classifier).__name__
    return f"""# A failure detector for {classifier}

It says of each input of a classifier how typical it is, as a p-value, and refuses those with a p-value of at most \
{detector.alpha:g}: inputs that the classifier is likely to get wrong, or that come from elsewhere. The classifier is \
not part of this repository.

| | |
| --- | --- |
| score | {detector.score.name} |
| fitted to | {detector.n_fitted:,} inputs{shape_in_words(detector.extractor.input_shape)} |
| calibrated on | {len(detector.calibration):,} inputs |
| layers looked at | {len(detector.extractor.layers)} |
| false alarm rate asked for | {detector.alpha:g} |{_prepared(detector)}"""


def _prepared(detector: "FailureDetector") -> str:
    if not detector.preprocessing:
        return ""
    return f"\n| preprocessing | {preprocessing_in_words(detector.preprocessing).replace('|', '&#124;')} |"


def _measured(metrics: Mapping[str, Any] | None) -> str:
    if metrics is None:
        return "## What was measured\n\nNothing: measure it on inputs of yours."
    calibration, versions = metrics["calibration"], metrics.get("versions", {})
    rates = []
    for alpha, rate in calibration.get("false_alarm_rate", {}).items():
        low, high = calibration["false_alarm_interval"][alpha]
        rates.append(
            f"| false alarms at {alpha} | {_percent(rate)} % (95 % interval {_percent(low)} to {_percent(high)} %) |"
        )
    n_test = sum(metrics["sources"].get("errors", {}).get(name, 0) for name in ("n", "n_good"))
    rows = [_row(name, source) for name, source in metrics["sources"].items()]
    made_with = ", ".join(f"{name} {versions[name]}" for name in ("gmm_torch", "torch") if name in versions)
    return "\n".join(
        [
            "## What was measured",
            "",
            "| | |",
            "| --- | --- |",
            f"| accuracy of the classifier | {_percent(metrics['classifier']['test_accuracy'])} % of {n_test:,} |",
            *rates,
            "",
            "| source of failure | n | AUROC | AUROC of the softmax | FPR at 95 % TPR |",
            "| --- | ---: | ---: | ---: | ---: |",
            *rows,
            "",
            f"AUROC and FPR in %; seed {metrics.get('seed')}; {metrics.get('device')}; {made_with}.",
        ]
    )


def _row(name: str, source: Mapping[str, Any]) -> str:
    softmax = source["baselines"].get(BASELINE, {}).get("auroc")
    values = (source["auroc"], softmax, source["fpr_at_95_tpr"])
    return f"| {name.replace('|', '&#124;')} | {source['n']:,} | {' | '.join(map(_percent, values))} |"


def _percent(share: float | None) -> str:
    return NOTHING if share is None else f"{100 * share:.1f}"


def _limits(detector: "FailureDetector", metrics: Mapping[str, Any] | None) -> str:
    alpha, n = detector.alpha, len(detector.calibration)
    spread = (alpha * (1 - alpha) / n) ** 0.5
    lines = [
        f"- At most {100 * alpha:g} % of inputs like those of the calibration are refused, on average over calibration "
        f"sets. For one set of {n:,} the rate itself varies by about {_percent(spread)} percentage points. For inputs "
        "from elsewhere nothing is promised.",
        "- An accepted input may still be classified wrongly, and a refused one rightly.",
        "- Calibrate again where inputs, preprocessing or precision change.",
    ]
    sources = (metrics or {}).get("sources", {})
    weaker = [
        name
        for name, source in sources.items()
        if source["auroc"] is not None and source["auroc"] < (source["baselines"].get(BASELINE, {}).get("auroc") or 0)
    ]
    if weaker:
        lines.append(f"- The largest softmax probability tells these better: {', '.join(weaker)}.")
    if any(name.startswith("adversarial/") for name in sources):
        lines.append("- The attacks that were measured do not know the detector; one that does may pass it.")
    return "\n".join(["## Limits", "", *lines])
