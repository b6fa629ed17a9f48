"""The tables of `docs/architectures.md`, from the results of `architectures.py`."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pages import table, versions_text

SOFTMAX = "MaxSoftmax"
ONE_PASS = "views=1"
PEER, PEER_OVER_VIEWS = "peer", "peer over views"
DATA = {
    "cifar10": "CIFAR-10",
    "fashion_mnist": "Fashion-MNIST",
    "text": "descriptions of Debian packages",
    "digits": "scikit-learn's digits, 0 to 7",
}


class Goal(NamedTuple):
    """Points above peers: by mean, by minimum, in every column; and above the softmax for errors."""

    mean: float
    minimum: float
    column: float
    errors: float


GOALS = {"views=3": Goal(5, 5, -1, 0), ONE_PASS: Goal(3, 3, -2, -0.5)}


def areas(row: Mapping[str, Any]) -> dict[str, float]:
    """Column -> mean over seeds."""
    return {column: found["mean"] for column, found in row["auroc"].items()}


def of(result: Mapping[str, Any], group: str) -> dict[str, dict[str, float]]:
    """Method -> areas, of a group."""
    return {row["method"]: areas(row) for row in result["rows"] if row["group"] == group}


def best(peers: Mapping[str, Mapping[str, float]], column: str) -> str:
    """The peer with the largest area of a column, "mean" or "min"."""
    return max(peers, key=lambda name: peers[name][column])


class Leads(NamedTuple):
    """How far a detector is above peers, in points; `weakest` is the column where it is least above its best peer."""

    reached: Goal
    weakest: str


def leads(result: Mapping[str, Any], ours: Mapping[str, float], group: str = PEER) -> Leads:
    """Of a detector's areas over the peers of a group; over the softmax of one pass in `errors`."""
    peers = of(result, group)
    above = {column: ours[column] - peers[best(peers, column)][column] for column in result["columns"]}
    weakest = min(above, key=above.__getitem__)
    ends = (ours[end] - peers[best(peers, end)][end] for end in ("mean", "min"))
    softmax = of(result, PEER)[SOFTMAX]["errors"]
    return Leads(Goal(*ends, above[weakest], ours["errors"] - softmax), weakest)


def _number(value: float) -> str:
    return f"{value:.1f}"


def _lead(value: float, goal: float) -> str:
    text = f"{value:+.1f}"
    return f"**{text}**" if round(value, 1) >= goal else text


def label(name: str, result: Mapping[str, Any]) -> str:
    """What a network is called in a table."""
    return f"{result['kind']}, {DATA[result['data']]}"


def summary(results: Mapping[str, Any]) -> str:
    """One line a network."""
    head = ["network", "accuracy, %", "three views: mean", "min", "errors", "one pass: mean", "min", "errors"]
    head += ["softmax: errors", "best peer: mean", "min"]
    rows = []
    for name, result in results.items():
        ours, peers = of(result, "default"), of(result, PEER)
        cells = [label(name, result) + (" (choice)" if result["chosen on"] else ""), _number(100 * result["accuracy"])]
        for views in GOALS:
            found = ours.get(views)
            cells += [_number(found[end]) if found else "–" for end in ("mean", "min", "errors")]
        cells.append(_number(peers[SOFTMAX]["errors"]))
        cells += [f"{_number(peers[best(peers, end)][end])} ({best(peers, end)})" for end in ("mean", "min")]
        rows.append(cells)
    return table(head, rows)


def in_short(results: Mapping[str, Any]) -> str:
    """For the README: one line a network, the default beside the softmax and the best of the peers."""
    head = ["classifier", "accuracy", "mean AUROC", "best peer", "hardest", "best peer", "test errors", "softmax"]
    rows = []
    for name, result in results.items():
        peers, defaults = of(result, PEER), of(result, "default")
        ours = defaults.get("views=3") or defaults[ONE_PASS]
        cells = [label(name, result), _number(100 * result["accuracy"])]
        for end in ("mean", "min"):
            cells += _pair(ours[end], peers[best(peers, end)][end])
        rows.append(cells + _pair(ours["errors"], peers[SOFTMAX]["errors"]))
    n_peers = len(of(next(iter(results.values())), PEER))
    caption = (
        f"In %; three views, text and rows one. Mean over all sources of failure, the hardest of them, and wrong "
        f"predictions alone. Best peer: the best of {n_peers} detectors in that column, so not the same one in every "
        "cell. Means over three seeds."
    )
    return f"{table(head, rows)}\n\n{caption}"


def _pair(ours: float, other: float) -> list[str]:
    """Two numbers, the larger one bold."""
    cells = [_number(ours), _number(other)]
    for i, value in enumerate((ours, other)):
        if round(value, 1) == round(max(ours, other), 1):
            cells[i] = f"**{cells[i]}**"
    return cells


def against_goals(results: Mapping[str, Any], views: str) -> str:
    """One line a network: leads over the best peers in points, bold where the goal is reached."""
    goal = GOALS[views]
    head = ["network", f"mean (goal {goal.mean:+g})", f"min (goal {goal.minimum:+g})"]
    head += [f"weakest column (goal {goal.column:+g})", f"errors, over softmax (goal {goal.errors:+g})"]
    if views != ONE_PASS:
        head += ["mean, over peers of the same views", "min, over peers of the same views"]
    rows = []
    for name, result in results.items():
        if views not in of(result, "default"):
            continue
        ours = of(result, "default")[views]
        (mean, minimum, column, errors), weakest = leads(result, ours)
        cells = [label(name, result) + (" (choice)" if result["chosen on"] else "")]
        cells += [_lead(mean, goal.mean), _lead(minimum, goal.minimum)]
        cells += [f"{_lead(column, goal.column)} {weakest}", _lead(errors, goal.errors)]
        if views != ONE_PASS:
            same = leads(result, ours, PEER_OVER_VIEWS).reached
            cells += [f"{same.mean:+.1f}", f"{same.minimum:+.1f}"]
        rows.append(cells)
    return table(head, rows)


def network(name: str, result: Mapping[str, Any]) -> str:
    """All columns of a network, and where its numbers come from."""
    n, columns = result["n"], [*result["columns"], "mean", "min"]
    ours, peers, same = (of(result, group) for group in ("default", PEER, PEER_OVER_VIEWS))
    rows = [[f"**{_method(views)}**", *_cells(found, columns)] for views, found in ours.items()]
    rows.append(["softmax", *_cells(peers[SOFTMAX], columns)])
    for end, words in (("mean", "by mean"), ("min", "by minimum")):
        rows.append([f"best peer {words}: {best(peers, end)}", *_cells(peers[best(peers, end)], columns)])
    rows.append(["best peer of each column", *(_number(peers[best(peers, column)][column]) for column in columns)])
    if same:
        name_of = best(same, "mean")
        rows.append([f"best peer over the same views, by mean: {name_of}", *_cells(same[name_of], columns)])
    failures = ", ".join(f"{column} {n[column]}" for column in result["columns"])
    layers = ", ".join(f"`{layer}`" for layer in result["layers"][ONE_PASS])
    weights = "; ".join(
        f"{_method(views)} {', '.join(f'{part} {weight:.2g}' for part, weight in found.items())}"
        for views, found in result["weights"].items()
    )
    about = (
        f"{result['parameters']:,} parameters; accuracy {100 * result['accuracy']:.1f} % on {n['accuracy']:,} test "
        f"inputs. Layers in one pass, found as {result['rule']}: {layers}. Weights: {weights}. "
        f"Fitted on {n['fit']:,} training inputs, calibrated on "
        f"{n['calibration']:,} test inputs, judged on {n['test']:,} others. Failures a seed: {failures}."
    )
    return f"### {label(name, result)}\n\n{about}\n\n{table(['AUROC, %', *columns], rows)}"


def _method(views: str) -> str:
    return {"views=3": "default, three views", ONE_PASS: "default, one pass"}[views]


def _cells(found: Mapping[str, float], columns: Sequence[str]) -> list[str]:
    return [_number(found[column]) for column in columns]


def missed(results: Mapping[str, Any]) -> str:
    """Every column in which the default is further under its best peer than the goal allows."""
    lines = []
    for name, result in results.items():
        peers = of(result, PEER)
        for views, ours in of(result, "default").items():
            found = []
            for column in result["columns"]:
                peer = best(peers, column)
                if round(ours[column] - peers[peer][column], 1) < GOALS[views].column:
                    found.append(f"{column} {ours[column]:.1f} ({peer} {peers[peer][column]:.1f})")
            if found:
                lines.append(f"- {label(name, result)}, {_method(views)}: {', '.join(found)}")
    return "\n".join(lines) or "None."


def document(results: Mapping[str, Any]) -> str:
    """Everything between the page's markers, in Markdown."""
    if not results:
        return "Nothing was measured yet."
    first = next(iter(results.values()))
    versions = versions_text(first["versions"])
    seeds = ", ".join(map(str, first["seeds"]))
    parts = [
        f"AUROC in %, means over seeds {seeds} of the split of the test inputs; {first['device']}; {versions}.",
        summary(results),
        "## Against the goals",
        "Points above the best peer in one pass; bold where the goal is reached.",
        *(part for views in GOALS for part in (f"**The {_method(views)}**", against_goals(results, views))),
        "**Columns that are further under their best peer than the goal allows**",
        missed(results),
        "## Network by network",
        *(network(name, result) for name, result in results.items()),
    ]
    return "\n\n".join(parts)
