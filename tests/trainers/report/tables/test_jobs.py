import csv
import io
import json
import re
import statistics

import pytest
from rich.console import Console

from trainers.report.compare_page import write_comparison
from trainers.report.tables.jobs import summarize


def write_job(folder, overrides, auroc, seed, accuracy=0.9):
    folder.mkdir(parents=True)
    (folder / ".hydra").mkdir()
    lines = "".join(f"- {line}\n" for line in overrides) or "[]\n"
    (folder / ".hydra" / "overrides.yaml").write_text(lines)
    metrics = {
        "classifier": {"test_accuracy": accuracy},
        "sources": {"errors": {"auroc": auroc}, "ood/mnist": {"auroc": 0.5}},
        "seed": seed,
    }
    (folder / "metrics.json").write_text(json.dumps(metrics))


@pytest.fixture
def sweep(tmp_path):
    job = 0
    for components in (5, 10, 30):
        for seed in (0, 1):
            auroc = 0.7 + components / 1000 + 0.02 * seed
            write_job(tmp_path / str(job), [f"mixture.n_components={components}", f"seed={seed}"], auroc, seed)
            job += 1
    return tmp_path


def complete(folder, **changes):
    """Let the file of a job have what a run writes of each source beside its AUROC."""
    path = folder / "metrics.json"
    calibration = {"false_alarm_rate": {"0.05": 0.04}}
    metrics = json.loads(path.read_text()) | {"alpha": 0.1, "calibration": calibration} | changes
    for source in metrics["sources"].values():
        source |= {"refused": 0.25, "baselines": {"max_softmax": {"auroc": 0.6}}}
    metrics["classifier"]["fingerprint"] = {"weights": folder.name if int(folder.name) < 2 else "given"}
    path.write_text(json.dumps(metrics))


def rows(folder):
    with open(folder / "summary.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_six_jobs_give_six_rows_and_the_mean_and_std_over_seeds(sweep):
    summary = summarize(sweep)
    assert summary.header == [
        "job",
        "mixture.n_components",
        "seed",
        "test accuracy",
        "test errors",
        "mnist (OOD)",
    ]
    found = rows(sweep)
    assert [row["job"] for row in found] == [*"012345", *["mean", "std"] * 3]
    assert [row["mixture.n_components"] for row in found[:6]] == ["5", "5", "10", "10", "30", "30"]
    mean, std = found[6], found[7]
    assert float(mean["test errors"]) == pytest.approx(statistics.mean([0.705, 0.725]))
    assert float(std["test errors"]) == pytest.approx(statistics.stdev([0.705, 0.725]))
    assert mean["seed"] == "2 seeds"


def test_a_setting_has_for_each_source_what_the_table_of_a_run_has(sweep):
    for job in range(6):
        complete(sweep / str(job))
    table = summarize(sweep).sources_table()
    assert table.columns == [
        "setting", "source", "n", "AUROC", "softmax AUROC", "refused at 0.1", "seeds", "test accuracy",
        "false alarms at 0.05",
    ]  # fmt: skip
    assert len(table.rows) == 6
    each = ["2 seeds", "90.0 ± 0.0", "4.0 ± 0.0"]
    assert table.rows[0] == ["5", "test errors", "–", "71.5 ± 1.4", "60.0 ± 0.0", "25.0 ± 0.0", *each]
    assert table.rows[1] == ["", "mnist (OOD)", "–", "50.0 ± 0.0", "60.0 ± 0.0", "25.0 ± 0.0", "", "", ""]
    assert table.bold == {(0, 3), (2, 3), (4, 3), (1, 4), (3, 4), (5, 4)}
    found = rows(sweep)
    assert (found[0]["false alarms at 0.05"], found[0]["mnist (OOD), refused"]) == ("0.04", "0.25")
    assert "| 5 | test errors | – | **71.5 ± 1.4** | 60.0 ± 0.0 |" in (sweep / "summary.md").read_text()


def test_the_number_of_failures_stands_beside_what_they_show_and_too_few_show_nothing(sweep):
    for job in range(6):
        few = {"auroc": 0.99 + job / 1000, "n": 3 + job % 2, "effect_size": {"interval": [0.6, 1.0]}}
        many = {"auroc": 0.99 + job / 1000, "n": 1000, "effect_size": {"interval": [0.98, 1.0]}}
        complete(sweep / str(job), sources={"errors": few, "ood/mnist": many})
    summary = summarize(sweep)
    assert summary.header[-2:] == ["test errors, n = 3 to 4, too few", "mnist (OOD), n = 1000"]
    table = summary.sources_table()
    assert [row[2] for row in table.rows] == ["3 to 4, too few", "1000"] * 3
    assert table.bold == {(1, 3), (3, 3), (5, 3)}
    settings = summary.settings_table()
    assert settings.bold == {(0, 2), (1, 2), (2, 2), (2, 5)}  # of equal accuracies all; of the sources the OOD one
    assert "too few: failures for a conclusion" in table.caption
    write_comparison(summary, "A sweep", sweep / "compare.html")
    assert "<figcaption>test errors, n = 3 to 4, too few</figcaption>" in (sweep / "compare.html").read_text()


def test_a_deviation_over_seeds_of_one_network_is_said_to_be_that(sweep):
    for job in range(6):
        complete(sweep / str(job))
    summary = summarize(sweep)
    assert [setting.one_network for setting in summary.settings] == [False, True, True]
    assert [setting.seeds_in_words for setting in summary.settings[:2]] == ["2 seeds", "2 seeds, one network"]
    assert "± and std: over seeds; of seeds with one network: of mixtures and attacks alone" in summary.caption
    write_job(sweep / "trained" / "0", ["seed=0"], 0.9, 0)
    write_job(sweep / "trained" / "1", ["seed=1"], 0.8, 1)
    trained = summarize(sweep / "trained")
    assert not trained.settings[0].one_network  # what a run does not say is not claimed
    assert "over seeds" in trained.caption
    assert "one network" not in trained.caption


def test_jobs_of_several_sweeps_are_told_and_every_column_is_seen_in_a_narrow_terminal(sweep):
    complete(sweep / "0", alpha=0.2)
    complete(sweep / "1", sources={"errors": {"auroc": 0.9}, "ood/svhn": {"auroc": 0.7}})
    options = [f"option_with_a_long_name_{i}=value_of_it_{i}" for i in range(9)]
    write_job(sweep / "7", options, 0.9, 0)
    summary = summarize(sweep)
    assert summary.mismatch[0] == (
        "the jobs do not have the same columns: false alarms at 0.05 (not in 5 of 7), "
        "mnist (OOD) (not in 1 of 7), svhn (OOD) (not in 6 of 7)"
    )
    assert "do not set the same options: mixture.n_components, option_with_a_long_name_0, " in summary.mismatch[1]
    assert summary.mismatch[2] == "the jobs do not refuse at the same alpha: 0.1, 0.2"
    assert summary.table().narrowest > 220
    table = summary.sources_table()
    console = Console(width=table.narrowest, record=True, file=io.StringIO())
    console.print(table.terminal())
    text = console.export_text()
    assert all(text.count(word) for name in table.columns for word in name.split())
    assert "…" not in text
    assert table.narrowest <= 100


def test_jobs_of_one_sweep_match(sweep):
    assert summarize(sweep).mismatch == []


def test_the_markdown_is_in_per_cent(sweep):
    summarize(sweep)
    text = (sweep / "summary.md").read_text()
    assert "| 0 | 5 | 0 | 90.0 | 70.5 | 50.0 |" in text
    assert "| **mean** | 5 | 2 seeds | 90.0 | 71.5 | 50.0 |" in text
    assert "6 jobs" in text


def test_the_terminal_shows_all_rows(sweep):
    console = Console(width=140, record=True, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(summarize(sweep).table().terminal())
    text = console.export_text()
    assert text.count("mean") == 3
    assert "mnist (OOD)" in text


def test_jobs_are_in_the_order_of_their_numbers(tmp_path):
    for job in range(11):
        write_job(tmp_path / str(job), [f"mixture.n_components={job}"], 0.9, 0)
    assert [job.name for job in summarize(tmp_path).jobs] == [str(job) for job in range(11)]


def test_jobs_that_differ_otherwise_have_no_mean(tmp_path):
    write_job(tmp_path / "0", ["data=digits"], 0.9, 0)
    write_job(tmp_path / "1", ["data=mnist"], 0.8, 0)
    assert summarize(tmp_path).statistics == []


def test_a_number_that_is_missing_in_one_seed_has_no_mean(tmp_path):
    write_job(tmp_path / "0", ["seed=0"], None, 0)
    write_job(tmp_path / "1", ["seed=1"], 0.8, 1)
    summarize(tmp_path)
    found = rows(tmp_path)
    assert [row["test errors"] for row in found] == ["", "0.8", "", ""]
    assert found[2]["mnist (OOD)"] == "0.5"


def test_values_may_hold_equals_signs_and_keys_plus_signs(tmp_path):
    write_job(tmp_path / "0", ["+data.root='a=b'", "ood=[mnist,svhn]"], 0.9, 0)
    assert summarize(tmp_path).jobs[0].overrides == {"data.root": "'a=b'", "ood": "[mnist,svhn]"}


def test_a_job_without_metrics_is_named(sweep):
    (sweep / "6" / ".hydra").mkdir(parents=True)
    (sweep / "6" / ".hydra" / "overrides.yaml").write_text("- seed=7\n")
    summary = summarize(sweep)
    assert summary.unfinished == ["6"]
    assert "without a metrics.json: 6" in summary.table().markdown()


def test_a_folder_without_jobs_is_refused_in_words(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected the folder of a sweep"):
        summarize(tmp_path)


@pytest.mark.parametrize("text", ["{", "{}", "[]"])
def test_a_broken_file_is_named_and_nothing_is_written(sweep, text):
    (sweep / "3" / "metrics.json").write_text(text)
    with pytest.raises(ValueError, match=r"3/metrics\.json: expected what a run writes"):
        summarize(sweep)
    assert not (sweep / "summary.csv").exists()


def test_settings_are_means_over_seeds_and_what_all_jobs_share_is_left_out(sweep):
    for job in range(6):
        path = sweep / str(job) / ".hydra" / "overrides.yaml"
        path.write_text(path.read_text() + "- experiment=demo\n")
    summary = summarize(sweep)
    assert "experiment" not in summary.header
    assert [setting.name for setting in summary.settings] == ["5", "10", "30"]
    spread = summary.settings[0].numbers["test errors"]
    assert spread.mean == pytest.approx(0.715)
    assert spread.std == pytest.approx(statistics.stdev([0.705, 0.725]))


def test_the_latex_has_a_row_a_setting(sweep):
    summarize(sweep)
    text = (sweep / "summary.tex").read_text()
    assert r"\begin{tabular}{lrrrr}" in text
    assert r"5 & 2 & 90.0 $\pm$ 0.0 & 71.5 $\pm$ 1.4 & 50.0 $\pm$ 0.0 \\" in text
    assert r"mnist (OOD)" in text


def test_latex_is_told_its_own_characters_apart(tmp_path):
    write_job(tmp_path / "0", ["score=log_likelihood"], None, 0)
    write_job(tmp_path / "1", ["score=a&b"], 0.5, 0)
    summarize(tmp_path)
    text = (tmp_path / "summary.tex").read_text()
    assert r"log\_likelihood & 1 & 90.0 & -- & 50.0 \\" in text
    assert r"a\&b & 1" in text


def test_the_softmax_and_the_averages_of_a_benchmark_have_columns(tmp_path):
    write_job(tmp_path / "0", [], 0.9, 0)
    path = tmp_path / "0" / "metrics.json"
    metrics = json.loads(path.read_text())
    metrics["sources"]["errors"]["baselines"] = {"max_softmax": {"auroc": 0.8}}
    metrics["benchmark"] = {group: {"auroc": 0.7, "max_softmax": 0.6} for group in ("near", "far")}
    path.write_text(json.dumps(metrics))
    summarize(tmp_path)
    (row,) = rows(tmp_path)
    assert (row["test errors"], row["test errors, softmax"]) == ("0.9", "0.8")
    assert (row["near-OOD"], row["far-OOD, softmax"]) == ("0.7", "0.6")


def test_a_source_without_a_number_has_a_row_and_no_empty_figure(sweep):
    for job in range(6):
        complete(sweep / str(job), sources={"errors": {"auroc": 0.9}, "adversarial/fgsm": {"auroc": None}})
    write_comparison(summarize(sweep), "A sweep", sweep / "compare.html")
    page = (sweep / "compare.html").read_text()
    assert page.count("<svg") == 1
    assert '<td class="text">fgsm attack</td>' in page


def test_the_page_compares_the_settings_and_needs_nothing_beside_it(sweep):
    (sweep / "4" / ".hydra" / "overrides.yaml").write_text("- mixture.n_components=<30>\n- seed=0\n")
    write_comparison(summarize(sweep), "A sweep", sweep / "compare.html")
    page = (sweep / "compare.html").read_text()
    assert "6 runs, 4 settings" in page
    assert "71.5 ± 1.4" in page
    assert page.count("<svg") == 2  # one for each source of failure
    assert 'href="3/report.html"' in page
    assert "<30>" not in page
    assert not re.search(r'(src|href)="(https?:)?//', page)
