import pytest
from rich.console import Console

from trainers.report.tables.results import results_table
from trainers.report.tables.text import p_value_text, percent, source_label, winner

METRICS = {
    "classifier": {"test_accuracy": 0.9},
    "calibration": {
        "n": 500,
        "false_alarm_rate": {"0.05": 0.047},
        "false_alarm_interval": {"0.05": [0.041, 0.0536]},
    },
    "sources": {
        "errors": {
            "n": 100,
            "n_good": 900,
            "auroc": 0.8,
            "fpr_at_95_tpr": 0.61,
            "refused": 0.31,
            "mann_whitney_p_holm": 3e-20,
            "baselines": {"max_softmax": {"auroc": 0.902}},
        },
        "adversarial/fgsm": {
            "n": 7,
            "n_good": 900,
            "auroc": 0.991,
            "fpr_at_95_tpr": 0.0,
            "refused": 1.0,
            "mann_whitney_p_holm": 0.0123,
            "baselines": {"max_softmax": {"auroc": 0.5}},
        },
        "ood/a|b": {
            "n": 0,
            "n_good": 1000,
            "reason": "there are no failures of this kind",
            "auroc": None,
            "fpr_at_95_tpr": None,
            "refused": None,
            "mann_whitney_p_holm": None,
            "baselines": {"max_softmax": {"auroc": None}},
        },
    },
    "alpha": 0.1,
    "seed": 3,
    "versions": {},
    "device": "cpu",
}


def test_markdown_marks_the_better_auroc_and_escapes_pipes():
    lines = results_table(METRICS).markdown().splitlines()
    assert "| refused at 0.1, % |" in lines[0]
    assert lines[2] == "| test errors | 100 | 80.0 | **90.2** | 61.0 | 31.0 | 3e-20 |"
    assert lines[3] == "| fgsm attack | 7 | **99.1** | 50.0 | 0.0 | 100.0 | 0.012 |"
    assert lines[4] == "| a&#124;b (OOD) | 0 | – | – | – | – | – |"


def test_the_caption_says_what_the_numbers_rest_on():
    caption = results_table(METRICS).markdown().splitlines()[-1]
    for fact in ("1000 test images", "500 calibration images", "seed 3", "cpu", "accuracy 90.0 %"):
        assert fact in caption
    assert "false alarms at 0.05: 4.7 % (95 % interval 4.1 to 5.4)" in caption


def test_the_terminal_shows_the_same_rows():
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(results_table(METRICS).terminal())
    text = console.export_text()
    assert "test errors" in text
    assert "90.2" in text
    assert "a|b (OOD)" in text


def test_numbers_are_printed_with_the_digits_that_they_have():
    assert [percent(0.87949), percent(1.0), percent(None)] == ["87.9", "100.0", "–"]
    assert [p_value_text(p) for p in (0.0, 1e-300, 3.14e-5, 0.0312, 1.0, None)] == [
        "< 1e-99",
        "< 1e-99",
        "3e-05",
        "0.031",
        "1",
        "–",
    ]


@pytest.mark.parametrize(
    ("ours", "softmax", "expected"),
    [(0.9, 0.8, 1), (0.8, 0.9, -1), (0.90001, 0.90004, 0), (None, 0.9, 0), (0.9, None, 0)],
)
def test_the_winner_is_the_one_that_the_printed_digits_show(ours, softmax, expected):
    assert winner(ours, softmax) == expected


def test_sources_are_named_in_plain_words():
    assert source_label("errors") == "test errors"
    assert source_label("adversarial/cw_l2") == "cw l2 attack"
    assert source_label("ood/uniform_noise") == "uniform noise (OOD)"
