import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

from gmm_torch.detector.component_report import component_report
from trainers.evaluation.components import Components
from trainers.report.page import write_report
from trainers.report.refusals import breakable

THREE = [torch.zeros(3, dtype=torch.long)] * 3
VOID = {"meta", "link", "img", "br", "hr", "input"}


class Page(HTMLParser):
    """Checks that tags nest, and collects what a test asks for."""

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.references, self.sections, self.text = [], [], [], [], text
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag not in VOID:
            self.open.append(tag)
        if "id" in attributes:
            self.ids.append(attributes["id"])
        if tag == "section":
            self.sections.append(attributes["id"])
        self.references += [attributes[name] for name in ("src", "href", "xlink:href") if name in attributes]

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def render(evaluation, tmp_path):
    path = tmp_path / "report.html"
    write_report(evaluation, path)
    return Page(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def page(evaluation, tmp_path_factory):
    return render(evaluation, tmp_path_factory.mktemp("report"))


def test_every_section_is_there(page):
    assert page.sections == [
        "results", "scores", "p-values", "roc", "selection", "mixture", "images", "run", "glossary"
    ]  # fmt: skip


@pytest.mark.usefixtures("unarranged")
def test_components_and_reasons_have_sections_of_their_own(make_evaluation, tmp_path):
    page = render(make_evaluation(explained=True), tmp_path)
    assert page.sections == [
        "results", "scores", "p-values", "roc", "selection", "mixture", "components", "images", "reasons", "run",
        "glossary",
    ]  # fmt: skip
    assert {f"#{name}" for name in page.sections} <= set(page.references)
    assert page.text.count('class="reason"') == 6 + 2 + 2
    assert page.text.count('class="sheet"') == 4
    test_the_page_needs_nothing_beside_it(page)


@pytest.mark.usefixtures("unarranged")
def test_how_many_failures_lie_beyond_the_frame_of_a_plane_is_said(evaluation, tmp_path):
    projection = np.random.default_rng(0).normal(size=evaluation.projection.shape)
    attacked = np.flatnonzero(evaluation.records.failures("adversarial/fgsm"))
    projection[evaluation.records.failures("ood/noise")] = projection[attacked[:7]] = 1e6
    page = render(replace(evaluation, projection=projection), tmp_path)
    assert "<b>noise (OOD)</b><span>n = 50, all beyond the frame</span>" in page.text
    assert "<b>fgsm attack</b><span>n = 30, 7 beyond the frame</span>" in page.text
    assert re.search(r"<b>test errors</b><span>n = 20</span>", page.text)


@pytest.mark.usefixtures("undrawn")
def test_the_cards_speak_of_the_sources_that_the_lead_compares(evaluation, make_evaluation, tmp_path):
    first, *others = evaluation.metrics["sources"]
    few = {"auroc": 0.01, "effect_size": {"interval": [0.0, 0.5]}}
    shown = {"auroc": 0.95, "effect_size": {"interval": [0.94, 0.96]}}
    known = evaluation.metrics["sources"]
    sources = {first: {**known[first], **few}, **{name: {**known[name], **shown} for name in others}}
    page = render(make_evaluation(metrics={**evaluation.metrics, "sources": sources}), tmp_path)
    assert " of 2 sources and worse on" in page.text
    assert "<b>95.0\u00a0%</b><small>over 2 of 3 sources; softmax" in page.text
    assert "<span>Weakest source</span><b>95.0\u00a0%</b>" in page.text
    assert "mean AUROC" not in page.text
    none = {name: {**source, **few} for name, source in known.items()}
    bare = render(make_evaluation(metrics={**evaluation.metrics, "sources": none}), tmp_path)
    assert "Weakest source" not in bare.text


@pytest.mark.usefixtures("unarranged")
def test_false_alarms_by_class_and_error_rates_by_p_value_are_shown_where_they_were_measured(
    make_evaluation, page, tmp_path
):
    assert "False alarms by predicted class" not in page.text
    metrics = dict(make_evaluation(attacks=(), oods=()).metrics)
    classes = [
        {"name": 0, "n": 50, "n_refused": 5, "rate": 0.1, "interval": [0.03, 0.2]},
        {"name": 1, "n": 0, "n_refused": 0, "rate": None, "interval": [0.0, 1.0]},
    ]
    by_class = {"alpha": 0.05, "confidence": 0.95, "classes": classes, "homogeneity_p": 0.25}
    metrics["calibration"] = {**metrics["calibration"], "by_class": by_class}
    bins = [{"low": 0.0, "high": 1.0, "n": 200, "n_errors": 20, "rate": 0.1, "interval": [0.06, 0.15]}]
    errors = {**metrics["sources"]["errors"], "error_rate": {"confidence": 0.95, "bins": bins, "trend_p_holm": None}}
    metrics["sources"] = {**metrics["sources"], "errors": errors}
    full = render(make_evaluation(attacks=(), oods=(), metrics=metrics), tmp_path)
    assert "test that all are equal: p = 0.25" in full.text
    assert "Error rate by p-value" in full.text
    test_every_reference_inside_the_page_has_a_target_and_no_id_comes_twice(full)


@pytest.mark.usefixtures("undrawn")
def test_sweeps_corruptions_shifts_and_doubts_are_shown_where_there_are_some(evaluation, make_evaluation, tmp_path):
    budget = {
        "norm": "linf", "epsilon": 0.1, "n_attacked": 40, "success_rate": 0.5, "median_linf": 0.1, "median_l2": 0.4,
        "seconds_per_image": 0.2, "evasion_rate": 0.1, "refusal_rate": 0.8, "auroc": 0.9, "baselines": {},
    }  # fmt: skip
    severity = {
        "severity": 0, "n": 60, "coverage": 1.0, "error_rate": 0.1, "risk": 0.05, "refusal_rate": 0.5, "auroc": 0.875,
        "fpr_at_95_clean_tpr": 0.25, "baselines": {},
    }  # fmt: skip
    rates = {
        "false_alarm_rate": 0.0625, "false_alarm_interval": [0.04, 0.1], "refusal_rate": 0.5,
        "refusal_rate_at_alpha": 0.25,
    }  # fmt: skip
    weighted = {**rates, "false_alarm_rate": 0.03125, "effective_size": 123.4, "in_words": "..."}
    moved = {"n": 90, "error_rate": 0.1, "plain": rates, "weighted": weighted}
    lost = {**moved, "weighted": {"reason": "too far"}}
    more = {
        "shifts": {
            "alpha": 0.05,
            "calibration": "weighted",
            "rows": [
                {"shift": "none", "kind": "", **moved},
                {"shift": "corruptions", "kind": "motion_blur 1", **moved},
                {"shift": "corruptions", "kind": "motion_blur 2", **lost},
                {"shift": "usps", "kind": "its images", **moved},
            ],
        },
        "attack_doubts": {"pgd_sweep": ["the gradient is <zero>"]},
        "sweeps": {"pgd_sweep": [budget, {**budget, "epsilon": 0.2}]},
        "corruptions": {"clean": severity, "kinds": {"motion_blur": [{**severity, "severity": 1}]}},
    }
    page = render(make_evaluation(metrics=evaluation.metrics | more), tmp_path)
    assert page.sections[4:8] == ["selection", "budgets", "corruptions", "shifts"]
    assert "pgd sweep attack:</b> the gradient is &lt;zero&gt;." in page.text
    assert "40 images attacked; budgets in Linf" in page.text
    assert "AUROC of errors 87.5, softmax –" in page.text
    assert "the same 60 test images" in page.text
    assert "with weights nothing can be promised at 1 of 2 severities" in page.text
    assert "<td>6.2</td><td>3.1</td><td>25.0</td><td>25.0</td><td>123</td>" in page.text
    assert '<th scope="row">motion blur 2</th><td>10.0</td><td>6.2</td><td>–</td>' in page.text
    assert "of 90 images judged" in page.text
    assert "usps: its images" in page.text


@pytest.mark.usefixtures("undrawn")
def test_without_images_the_components_keep_their_table(make_evaluation, tmp_path):
    page = render(make_evaluation(explained=True, images=False), tmp_path)
    assert "components" in page.sections
    assert "reasons" not in page.sections
    assert "<img" not in page.text


def test_the_page_needs_nothing_beside_it(page):
    outside = [reference for reference in page.references if not reference.startswith(("#", "data:image/"))]
    assert outside == []
    assert "@import" not in page.text
    assert "<script" not in page.text
    assert not re.search(r"url\((?!#)", page.text)
    assert not re.search(r"""(src|href)\s*=\s*["']?\s*(https?:)?//""", page.text)


def test_every_reference_inside_the_page_has_a_target_and_no_id_comes_twice(page):
    assert len(page.ids) == len(set(page.ids))
    inner = {reference[1:] for reference in page.references if reference.startswith("#")}
    inner |= set(re.findall(r"url\(#([^)]+)\)", page.text))
    assert inner <= set(page.ids)


def test_it_is_made_for_phones_and_for_dark_rooms(page):
    assert "width=device-width" in page.text
    assert "prefers-color-scheme: dark" in page.text
    assert "var(--ours)" in page.text
    assert "#0072b2" not in re.search(r"<svg.*</svg>", page.text, re.DOTALL)[0]


def test_the_numbers_of_the_table_and_the_facts_are_there(page, evaluation):
    text = page.text
    for source in evaluation.metrics["sources"].values():
        assert f"{100 * source['auroc']:.1f}" in text
        assert f"{100 * source['baselines']['max_softmax']['auroc']:.1f}" in text
    for fact in ("2.13.0", "1000 images", "99", "90.00 %", "a made-up run"):
        assert fact in text
    assert text.count('class="tile ') == 12 + 12 + 4 * 6


@pytest.mark.usefixtures("undrawn")
def test_files_that_were_left_out_are_counted_and_the_first_named(evaluation, make_evaluation, tmp_path):
    left_out = {"train": {"n": 1204, "files": ["a.jpg", "<b>.jpg"]}, "ood/sky": {"n": 1, "files": ["c.jpg"]}}
    page = render(make_evaluation(metrics=evaluation.metrics | {"left_out": left_out}), tmp_path)
    assert (
        "<dt>Left out of train</dt><dd>1,204 that can&#39;t be read: a.jpg, &lt;b&gt;.jpg and 1202 more</dd>"
        in page.text
    )
    assert "<dt>Left out of sky (OOD)</dt><dd>1 that can&#39;t be read: c.jpg</dd>" in page.text
    assert "Left out" not in render(evaluation, tmp_path).text


def test_the_same_run_gives_the_same_page(make_evaluation, page, tmp_path):
    assert render(make_evaluation(), tmp_path).text == page.text


@pytest.mark.usefixtures("unarranged")
def test_names_from_outside_are_escaped(make_evaluation, tmp_path):
    evil = "<script>alert('$x$')</script>"
    names = {"oods": (evil, "a$b$c"), "class_names": [evil, "b & c", '"d"'], "title": evil}
    page = render(make_evaluation(attacks=(), **names), tmp_path)
    assert "<script" not in page.text
    assert "&lt;script&gt;" in page.text
    assert "b &amp; c" in page.text


@pytest.mark.usefixtures("unarranged")
@pytest.mark.parametrize(
    "changes",
    [
        {"attacks": (), "oods": ()},
        {"n_errors": 0},
        {"n_errors": 0, "attacks": (), "oods": ()},
        {"oods": (), "n_errors": 1, "n_attack": 1, "images": False},
        {"n_attack": 0, "history": [-1.5]},
        {"n_errors": 200, "attacks": (), "history": []},
    ],
    ids=str,
)
def test_a_run_that_lacks_something_still_has_a_page(make_evaluation, changes, tmp_path):
    page = render(make_evaluation(**changes), tmp_path)
    assert "nan" not in re.sub(r"data:image/[^\"]*", "", page.text).lower().replace("unanswered", "")
    assert ("images" in page.sections) == changes.get("images", True)


@pytest.mark.usefixtures("undrawn")
def test_where_nothing_is_wrong_a_line_says_so_and_no_empty_frame_is_drawn(make_evaluation, page, tmp_path):
    figures = "Risk against coverage", "Error rate by p-value"
    text = render(make_evaluation(n_errors=0), tmp_path).text
    for figure in figures:
        assert figure in page.text
        assert figure not in text
    assert "No clean test image is misclassified" in text


@pytest.mark.usefixtures("undrawn")
def test_the_fit_names_its_mixture_and_says_where_it_did_not_converge(make_evaluation, tmp_path):
    whole = make_evaluation(explained=True)
    assert "<span>moment_likelihood; 3 iterations, -301.25 nats at the end</span>" in render(whole, tmp_path).text
    for history, remedy in (([-3.0, -2.0], "mixture.em.max_iter or mixture.em.tol"), ([-2.0, -3.0], "mixture.em.tol")):
        changed = replace(whole, history=history, converged=False)
        assert f"; not converged: raise {remedy}</span>" in render(changed, tmp_path).text


def test_names_of_files_are_broken_between_their_words():
    assert breakable("003_left-door.cam 2.png") == "003_<wbr>left-<wbr>door.<wbr>cam <wbr>2.<wbr>png"
    assert breakable("<i>.png") == "&lt;i&gt;.<wbr>png"
    assert breakable("") == ""


def test_infinite_scores_do_not_break_the_figures(make_evaluation, tmp_path):
    evaluation = make_evaluation(attacks=(), images=False)
    evaluation.records.score[evaluation.records.failures("ood/noise")] = -np.inf
    render(evaluation, tmp_path)


def test_an_image_that_is_missing_is_named_and_nothing_is_written(make_evaluation, tmp_path):
    evaluation = make_evaluation()
    evaluation.images.popitem()
    with pytest.raises(ValueError, match="is missing: the report shows the rows of shown_rows"):
        write_report(evaluation, tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda e: {"records": replace(e.records, label=e.records.label[:-1])}, "columns of one length"),
        (
            lambda e: {"components": {"m": Components(component_report(*THREE, 1), np.zeros(3, int))}},
            r"expected one a clean test image, \(200,\); got \(3,\)",
        ),
        (lambda e: {"projection": e.projection[:, :1]}, "one point a record"),
    ],
)
def test_tables_that_do_not_fit_are_refused_in_words(make_evaluation, evaluation, change, match):
    with pytest.raises(ValueError, match=match):
        make_evaluation(**change(evaluation))


@pytest.mark.usefixtures("undrawn")
def test_findings_are_listed_with_the_section_that_says_what_to_do(evaluation, tmp_path):
    metrics = dict(evaluation.metrics) | {"findings": [{"section": "low-accuracy", "text": "the classifier is <so>"}]}
    write_report(replace(evaluation, metrics=metrics), tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text()
    assert "The classifier is &lt;so&gt;." in text
    assert "docs/weak.md#low-accuracy" in text
    write_report(evaluation, tmp_path / "r.html")
    assert "may make this detector weak" not in (tmp_path / "r.html").read_text()
