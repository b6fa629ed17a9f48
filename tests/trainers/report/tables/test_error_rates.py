import torch
from rich.console import Console

from tests.trainers.evaluation.records import made_up
from trainers.evaluation.detection_metrics import error_metrics, holm_correct
from trainers.report.tables.error_rates import COLUMNS, error_table


def metrics(n=1000):
    generator = torch.Generator().manual_seed(0)
    p = 0.05 + 0.95 * torch.rand(n, generator=generator)  # nothing below 0.05
    wrong = torch.rand(n, generator=generator) < 0.4 * (1 - p)
    scores = torch.randn(n, generator=generator) - wrong.float()
    prediction = torch.randint(3, (n,), generator=generator)
    softmax = torch.randn(n, generator=generator)
    clean = made_up(scores, prediction=prediction, label=prediction + wrong, p_value=p, max_softmax=softmax)
    return {"sources": holm_correct({"errors": error_metrics(clean)})}


def test_markdown_has_a_row_a_bin_and_says_what_the_tests_say():
    found = metrics()
    lines = error_table(found).markdown().splitlines()
    assert lines[0] == f"| {' | '.join(COLUMNS)} |"
    assert lines[2] == "| 0 to 0.01 | 0 | 0 | – | – |"
    bins = found["sources"]["errors"]["error_rate"]["bins"]
    last = bins[-1]
    low, high = (f"{100 * value:.1f}" for value in last["interval"])
    assert lines[1 + len(bins)] == (
        f"| 0.9 to 1 | {last['n']} | {last['n_errors']} | {100 * last['rate']:.1f} | {low} to {high} |"
    )
    within = found["sources"]["errors"]["within_class"]
    assert f"AUROC within predicted classes {100 * within['superiority']:.1f} (" in lines[-1]
    assert "95 % interval" in lines[-1]
    assert "falls with the p-value: p (Holm) = " in lines[-1]
    errors = found["sources"]["errors"]
    for name in ("aurc", "augrc"):
        ours, softmax = (f"{100 * each[name]:.2f} %" for each in (errors, errors["baselines"]["max_softmax"]))
        assert f"{name.upper()} {ours}, softmax {softmax}" in lines[-1]


def test_the_terminal_shows_the_same_rows():
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(error_table(metrics()).terminal())
    text = console.export_text()
    assert "0.9 to 1" in text
    assert "rises between two neighbours" in text


def test_what_could_not_be_tested_has_a_dash_and_the_reason():
    classes = torch.arange(5)
    errors = error_metrics(made_up(torch.arange(5.0), prediction=classes, label=classes))
    caption = error_table({"sources": holm_correct({"errors": errors})}).caption
    assert "within predicted classes: – (no predicted class has both" in caption
    assert "p (Holm) = –" in caption
