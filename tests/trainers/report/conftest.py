import numpy as np
import pytest
import torch

from gmm_torch.detector.component_report import component_report
from gmm_torch.detector.explanation import ComponentFacts, Explanation
from tests.trainers.evaluation.records import made_up
from trainers.evaluation.components import Components
from trainers.evaluation.detection_metrics import error_metrics, false_alarm_rates, holm_correct, source_metrics
from trainers.records.record import Records
from trainers.report.components import shown_rows
from trainers.report.evaluation import Evaluation
from trainers.report.reasons import reason_rows


def explain(row, prediction, accept, p_value):
    """A made-up explanation whose numbers tell the row."""
    facts = ComponentFacts(
        component=row % 3,
        responsibility=0.9,
        predictions=((prediction, 0.75), ((prediction + 1) % 3, 0.25)),
        labels=(),
        n_labelled=40,
        n_errors=row % 7,
        error_rate=(row % 7) / 40,
        error_interval=(0.0, 0.5),
        squared_distance=1000.0 + row,
        n_features=64,
        features=(("stage mean[3]", 12.5), ("stage deviation[1]", 3.25)),
        layer="stage",
        nearest=((row, 4.5, prediction), (row + 1, 5.5, prediction)),
    )
    return Explanation(
        prediction=prediction,
        score=-1.0,
        p_value=p_value,
        accept=accept,
        views={"identity": 0.6, "mirror": 0.2},
        part_p_values={"mean_log_probability": 0.1, "moment_likelihood": 0.001},
        n_reference=999,
        dominant="moment_likelihood",
        mixtures={"moment_likelihood": facts},
    )


def build_evaluation(
    n_errors=20, attacks=("fgsm",), oods=("noise",), n_attack=30, images=True, explained=False, **changes
):
    """A small run with made-up scores: 200 test images of three classes, failures lower than the rest."""
    random = np.random.default_rng(0)
    calibration = np.sort(random.normal(-300, 10, 99))
    parts = []

    def add(source, label, prediction, shift):
        n = len(label)
        score = random.normal(-300 - shift, 10, n)
        p_value = (1 + np.searchsorted(calibration, score, side="right")) / 100
        columns = {"label": label, "prediction": prediction, "p_value": p_value, "accept": p_value > 0.05}
        parts.append(
            made_up(score, source, max_softmax=random.random(n), components=2 * prediction.reshape(n, 1), **columns)
        )

    label = random.integers(0, 3, 200)
    wrong = np.arange(200) < n_errors
    add("test", label, np.where(wrong, (label + 1) % 3, label), 12 * wrong)
    for name in attacks:
        add(f"adversarial/{name}", label[:n_attack], (label[:n_attack] + 1) % 3, 30)
    for name in oods:
        add(f"ood/{name}", np.full(50, -1), random.integers(0, 3, 50), 200)
    records = Records.cat(parts)
    clean = records.rows(records.clean())
    sources = {"errors": error_metrics(clean)}
    for name in [f"adversarial/{name}" for name in attacks] + [f"ood/{name}" for name in oods]:
        sources[name] = source_metrics(records.rows(records.good(name)), records.rows(records.failures(name)))
    metrics = {
        "classifier": {"test_accuracy": 1 - n_errors / 200},
        "calibration": {"n": 99, **false_alarm_rates(clean.p_value)},
        "sources": holm_correct(sources),
        "seed": 3,
        "versions": {"torch": "2.13.0"},
        "device": "cpu",
        "splits": {"train": 1000, "calibration": 99},
    }
    component = torch.arange(200) % 4
    found = component_report(component, clean.prediction, clean.label, 5)
    held_out = np.array([[30, 3], [20, 2], [10, 1], [5, 0], [0, 0]])
    components = {"moment_likelihood": Components(found, component.numpy(), held_out)} if explained else {}
    rows = [row for chosen in reason_rows(records).values() for row in chosen] if explained else []
    explanations = {
        row: explain(row, int(records.prediction[row]), bool(records.accept[row]), float(records.p_value[row]))
        for row in rows
    }
    wanted = shown_rows(records, components)
    near = {i for row in rows for i in (row, row + 1)}
    pixels = {row: random.integers(0, 255, (8, 8, 1), dtype=np.uint8) for row in sorted(wanted | near)}
    parts = {
        "metrics": metrics,
        "records": records,
        "projection": random.normal(size=(len(records), 2)),
        "images": {row: pixels[row] for row in sorted(wanted)} if images else {},
        "class_names": ["cat", "dog", "fox"],
        "title": "a made-up run",
        "history": [-320.0, -305.5, -301.25],
        "components": components,
        "explanations": explanations,
        "neighbours": {i: pixels[i] for i in sorted(near)},
    }
    return Evaluation(**{**parts, **changes})


@pytest.fixture(scope="session")
def evaluation():
    return build_evaluation()


@pytest.fixture(scope="session")
def make_evaluation():
    return build_evaluation
