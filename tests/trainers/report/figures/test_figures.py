import numpy as np
import pytest
from matplotlib.figure import Figure

from trainers.report.figures.budget_curve import budget_curve
from trainers.report.figures.em_history import em_history
from trainers.report.figures.features import beyond_frame, feature_components, feature_failures
from trainers.report.figures.p_values import p_value_histogram
from trainers.report.figures.rates import class_alarms, error_rate
from trainers.report.figures.score_histograms import Group, score_histograms
from trainers.report.figures.settings import settings
from trainers.report.figures.severity_curves import severity_curve
from trainers.report.figures.style import ADVERSARIAL, ERRORS, OURS, SOFTMAX, thin
from trainers.report.figures.thresholds import risk_coverage, roc

RANDOM = np.random.default_rng(0)
POINTS = RANDOM.normal(size=(50, 2))
SCORES = RANDOM.normal(size=50)
WRONG = np.arange(50) < 10

BINS = [
    {"low": 0.0, "high": 0.1, "n": 10, "rate": 0.5, "interval": [0.2, 0.8]},
    {"low": 0.1, "high": 0.5, "n": 0, "rate": None, "interval": [0.0, 1.0]},
    {"low": 0.5, "high": 1.0, "n": 40, "rate": 0.05, "interval": [0.01, 0.2]},
]

BUDGETS = [
    {"epsilon": 1 / 255, "success_rate": 0.0, "evasion_rate": 0.0, "refusal_rate": None, "auroc": None,
     "baselines": {}},
    {"epsilon": 0.1, "success_rate": 0.5, "evasion_rate": 0.2, "refusal_rate": 0.6, "auroc": 0.9,
     "baselines": {"max_softmax": {"auroc": 0.7}}},
]  # fmt: skip
SEVERITIES = [
    {"severity": 0, "coverage": 1.0, "error_rate": 0.1, "risk": 0.05},
    {"severity": 1, "coverage": 0.0, "error_rate": 0.9, "risk": None},
]

FIGURES = {
    "budget_curve": lambda: budget_curve(BUDGETS),
    "severity_curve": lambda: severity_curve(SEVERITIES),
    "class_alarms": lambda: class_alarms(["a", "b"], [0.1, 0.0], [(0.05, 0.2), (0.0, 0.1)], 0.05),
    "error_rate": lambda: error_rate(BINS),
    "em_history": lambda: em_history([-3.0, -2.0, -1.5]),
    "feature_components": lambda: feature_components(POINTS, np.arange(50) % 12),
    "feature_failures": lambda: feature_failures(POINTS, 100 * POINTS, OURS),
    "p_value_histogram": lambda: p_value_histogram(RANDOM.random(50), OURS),
    "risk_coverage": lambda: risk_coverage(SCORES, -SCORES, WRONG),
    "roc": lambda: roc((SCORES, SCORES - 1), (SCORES, SCORES + 1)),
    "score_histograms": lambda: score_histograms([Group("a", SCORES, OURS), Group("b", SCORES - 1e9, OURS)], 0.0),
}


def test_a_few_tenths_between_settings_look_like_a_few_tenths():
    left, right = settings(["a", "b"], [(0.999, 0.0), (0.985, 0.0)], [(None, None)] * 2).axes[0].get_xlim()
    assert left < 91
    assert right < 101
    wide = settings(["a", "b"], [(0.9, 0.0), (0.5, 0.0)], [(None, None)] * 2).axes[0].get_xlim()
    assert 45 < wide[0] < 50


def line(figure, colour):
    return next(line for line in figure.axes[0].lines if line.get_color() == colour)


def parts(figure):
    """The bars of a histogram of p-values, and its steps."""
    patches = figure.axes[0].patches
    return patches[0].get_data(), patches[-1].get_data()


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_names_its_axes(name):
    figure = FIGURES[name]()
    assert isinstance(figure, Figure)
    (axes,) = figure.axes
    assert axes.get_xlabel()
    assert axes.get_ylabel() or name == "score_histograms"  # whose rows are named instead


def test_numbers_of_components_in_one_place_do_not_overlap():
    component = np.arange(400) % 8
    points = np.random.default_rng(0).normal(size=(400, 2))
    figure = feature_components(points, component)
    figure.canvas.draw()
    boxes = {text.get_text(): text.get_window_extent() for text in figure.axes[0].texts}
    assert set(boxes) == set("01234567")
    names = sorted(boxes)
    assert not [(a, b) for a in names for b in names if a < b and boxes[a].overlaps(boxes[b])]
    for text in figure.axes[0].texts:  # each with its own points
        own = points[component == int(text.get_text())]
        at_own = (own == text.get_position()).all(1).any()
        assert at_own or text.get_position() == pytest.approx(np.median(own, axis=0))
    assert len(feature_components(np.zeros((9, 2)), np.arange(9)).axes[0].texts) == 9  # in one point


def test_failures_beyond_the_frame_are_counted():
    near, far = POINTS[:3] * 0.1, np.array([[1e6, 0.0], [0.0, -1e6]])
    assert beyond_frame(POINTS, np.vstack([near, far])) == 2
    assert beyond_frame(POINTS, near) == 0


def test_a_roc_curve_is_that_by_hand():
    figure = roc((np.array([2.0, 4.0]), np.array([1.0, 3.0])), (np.zeros(2), np.zeros(2)))
    x, y = line(figure, OURS).get_data()
    assert list(zip(x, y, strict=True)) == [(0, 0), (0, 50), (50, 50), (50, 100), (100, 100)]
    assert list(zip(*line(figure, SOFTMAX).get_data(), strict=True)) == [(0, 0), (100, 100)]


def test_a_risk_coverage_curve_is_that_by_hand():
    figure = risk_coverage(np.array([4.0, 3.0, 2.0, 1.0]), np.zeros(4), np.array([False, True, False, True]))
    x, y = line(figure, OURS).get_data()
    assert list(x) == [25, 50, 75, 100]
    assert list(y) == pytest.approx([0, 50, 100 / 3, 50])
    assert list(line(figure, SOFTMAX).get_data()[1]) == [50] * 4


def test_p_values_are_shown_as_shares():
    figure = p_value_histogram(np.array([0.01, 0.02, 0.5, 1.0]), OURS)
    values = figure.axes[0].patches[0].get_data().values
    assert (values[0], values[9], values[19], values.sum()) == pytest.approx((50, 25, 25, 100))  # a bar has its end


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_p_value_at_the_end_of_a_twentieth_is_in_its_bar_without_a_grid_too(dtype):
    """So are those of classes by themselves, which are counted in their own calibration images."""
    bars, _ = parts(p_value_histogram((np.arange(1, 21) / 20).astype(dtype), OURS))
    assert bars.values == pytest.approx(np.full(20, 5.0))


@pytest.mark.parametrize("n", [9, 19, 40, 57, 240])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_p_values_that_are_equally_frequent_have_bars_that_end_at_the_steps_whatever_n(n, dtype):
    p = (np.arange(1, n + 2) / (n + 1)).astype(dtype)
    bars, steps = parts(p_value_histogram(p, OURS, n + 1))
    assert bars.values == pytest.approx(steps.values)
    assert bars.values.sum() == pytest.approx(100)
    assert bars.edges == pytest.approx(np.unique(np.floor(np.linspace(0, n + 1, min(20, n + 1) + 1) + 1e-9)) / (n + 1))
    assert steps.edges == pytest.approx(bars.edges)
    assert bars.edges[1] <= max(0.05, 1 / (n + 1))  # what the first bar holds is refused at 0.05, if anything is


@pytest.mark.parametrize("grid", [None, 10, 24, 241])
def test_a_bar_that_holds_every_image_is_100_per_cent_high(grid):
    figure = p_value_histogram(np.full(30, 1 / (grid or 100)), OURS, grid)
    bars, steps = parts(figure)
    assert bars.values[0] == bars.values.sum() == 100
    assert figure.axes[0].get_ylim() == (0, 100)
    assert steps.values == pytest.approx(100 * np.diff(steps.edges))


@pytest.mark.parametrize("n", [9, 40, 240])
def test_the_band_holds_95_of_100_bars_of_images_like_the_calibration_images(n):
    """40,000 bars of 2,000 sets, whose mean has a standard deviation of a fifth of a point."""
    random = np.random.default_rng(0)
    figure = p_value_histogram(random.random(150), OURS, n + 1)
    bars, band, steps = (patch.get_data() for patch in figure.axes[0].patches)
    assert (band.baseline <= steps.values).all()
    assert (steps.values <= band.values).all()
    inside = []
    for _ in range(2000):
        ranks = 1 + np.searchsorted(np.sort(random.random(n)), random.random(150))
        share = 100 * np.histogram(ranks / (n + 1), bars.edges + 0.5 / (n + 1))[0] / 150
        inside.append((band.baseline - 1e-9 <= share) & (share <= band.values + 1e-9))
    assert 0.94 <= np.mean(inside) <= 0.985  # a discrete count may hold more than it must


def test_far_scores_do_not_squeeze_the_first_group():
    figure = FIGURES["score_histograms"]()
    left, right = figure.axes[0].get_xlim()
    assert left < SCORES.min() < SCORES.max() < right + 1
    assert right - left < 100


def test_outliers_of_the_first_group_do_not_squeeze_it_and_are_counted():
    scores = np.concatenate([np.linspace(0, 1, 960), [-1e6] * 35, [np.inf] * 5])
    figure = score_histograms([Group("good", scores, OURS), Group("bad", scores[:10] - 50, ERRORS)])
    left, right = figure.axes[0].get_xlim()
    assert left < 0
    assert right >= 1
    assert right - left <= 4
    assert {"n = 1000, 40 beyond", "n = 10, 10 beyond"} <= {text.get_text() for text in figure.axes[0].texts}
    bars = figure.axes[0].patches[0].get_data()
    assert (bars.values > 1).sum() >= 15  # of the 60, with something in them


@pytest.mark.parametrize("scores", [np.zeros(5), np.array([-np.inf, np.inf]), np.array([3.0])])
def test_scores_without_a_spread_have_a_histogram(scores):
    left, right = score_histograms([Group("a", scores, OURS)]).axes[0].get_xlim()
    assert np.isfinite([left, right]).all()
    assert left < right


def test_thinning_keeps_both_ends_and_short_curves_whole():
    long = np.arange(10_000)
    (kept,) = thin(long)
    assert (kept[0], kept[-1], len(kept)) == (0, 9999, 300)
    np.testing.assert_array_equal(thin(long[:7])[0], long[:7])


def test_error_rates_are_drawn_in_per_cent_where_there_are_images():
    (axes,) = error_rate(BINS).axes
    x, y = axes.lines[0].get_data()
    assert list(x) == [0, 2]
    assert list(y) == [50, 5]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0.1", "0.5", "1"]
    (segments,) = [collection.get_segments() for collection in axes.collections]
    assert segments[0][:, 1].tolist() == [20, 80]


def test_of_many_classes_those_with_the_most_false_alarms_are_shown_in_their_order():
    rates = [i / 100 for i in range(30)]
    (axes,) = class_alarms([f"class {i}" for i in range(30)], rates, [(r, r + 0.1) for r in rates], 0.05).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == [f"class {i}" for i in range(29, 14, -1)]
    assert axes.lines[0].get_xdata().tolist() == pytest.approx(list(range(29, 14, -1)))


def test_budgets_are_drawn_where_there_is_something_to_draw():
    figure = budget_curve(BUDGETS)
    assert line(figure, ADVERSARIAL).get_ydata().tolist() == [0, 50]
    ours = line(figure, OURS).get_ydata()
    assert np.isnan(ours[0])
    assert ours[1] == 90
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["1/255", "0.1"]


def test_severities_are_drawn_in_per_cent():
    figure = severity_curve(SEVERITIES)
    assert line(figure, ERRORS).get_ydata().tolist() == [10, 90]
    risk = line(figure, OURS).get_ydata()
    assert risk[0] == 5
    assert np.isnan(risk[1])
