"""The least time that an iteration could take on cards at their published rates: a bound on paper, no measurement.

    python benchmarks/em_roofline.py

Operations, their floating-point operations and the bytes that they read and write are counted by dispatch on tensors of
the device "meta" (`operations.py`). An operation takes at least its arithmetic at the card's rate or its bytes at the
card's bandwidth, whichever is longer; "as it is" adds that up over all operations of an iteration, "fused" is what is
left if nothing but the points were read, once for the E-step and moments together. Starting operations, caches that
miss, and products below the rate of a card are not in it: a measured time is longer.

Writes `benchmarks/results/em_roofline.json` and the table of docs/speed.md.
"""

from typing import Any, NamedTuple

import torch
from operations import Counted, iteration
from pages import RESULTS, ROOT, fill, save, table
from problems import Problem


class Card(NamedTuple):
    """Rates that its maker publishes: FLOP/s by type of the products, without sparsity, and bytes a second."""

    name: str
    rates: dict[str, float]
    bandwidth: float


CARDS = [
    Card("A100 SXM 80 GB", {"float32": 19.5e12, "TF32": 156e12, "bfloat16": 312e12, "float64": 9.7e12}, 2.039e12),
    Card("H100 SXM", {"float32": 67e12, "TF32": 495e12, "bfloat16": 989e12, "float64": 34e12}, 3.35e12),
]
TYPES = ("float32", "TF32", "bfloat16")
PUBLISHED = {
    Problem(100_000, 128, 1024, "spherical"): "Flash-GMM, A100, E-step: 18 ms",
    Problem(1_000_000, 128, 1024, "spherical"): "Flash-GMM, A100, E-step: 152 ms",
    Problem(10_000_000, 128, 1024, "spherical"): "Flash-GMM, A100, E-step: 1,519 ms",
    Problem(50_000_000, 128, 1024, "spherical"): "Flash-GMM, A100, E-step: 35,500 ms",
    Problem(65_536, 32, 64, "full"): "gmmx, L40S, iteration: 300 ms",
    Problem(50_000, 64, 50, "full"): "–",
    Problem(1_000_000, 64, 50, "full"): "–",
    Problem(1_000_000, 512, 100, "full"): "–",
    Problem(1_000_000, 64, 50, "diag"): "–",
    Problem(1_000_000, 64, 50, "tied"): "–",
}


def seconds(work: Counted, card: Card, kind: str) -> float:
    """At least, operation by operation; products of float64 at the rate of that."""
    total = sum(work.others) / card.bandwidth
    for dtype, flop, moved in work.products:
        rate = card.rates["float64" if dtype == torch.float64 else kind]
        total += max(flop / rate, moved / card.bandwidth)
    return total


def bound(problem: Problem) -> dict[str, Any]:
    """Counts and bounds of one problem."""
    parts = iteration(problem)
    flop = {str(name).removeprefix("torch."): parts.n_chunks * value for name, value in parts.chunk.flop.items()}
    wide = float(parts.update.flop[torch.float64] + parts.n_chunks * parts.chunk.flop[torch.float64])
    all_flop = float(sum(flop.values()) + parts.update.flop.total())
    points = problem.n * problem.d * 4
    times: dict[str, Any] = {}
    for card in CARDS:
        for kind in TYPES:
            as_it_is = parts.n_chunks * seconds(parts.chunk, card, kind) + seconds(parts.update, card, kind)
            products = sum(value / card.rates["float64" if "64" in name else kind] for name, value in flop.items())
            times[f"{card.name}, {kind}"] = {"as it is": as_it_is, "fused": max(products, points / card.bandwidth)}
    return {
        "problem": problem.name,
        "flop": all_flop,
        "float64_share": wide / all_flop,
        "float64_once": parts.assignment_flop / all_flop,
        "bytes": parts.n_chunks * parts.chunk.bytes + parts.update.bytes,
        "bounds_in_s": times,
        "published": PUBLISHED[problem],
    }


def markdown(found: dict[str, Any]) -> str:
    """The table of what `main` has counted."""
    rows = found["rows"]
    names = list(rows[0]["bounds_in_s"])
    head = [
        "N x D, K, type",
        "TFLOP",
        "of it float64",
        "float64 once a fit",
        "GB moved",
        *(f"{name}: as it is / fused, ms" for name in names),
    ]
    lines = []
    for row in rows:
        cells = [
            row["problem"],
            f"{row['flop'] / 1e12:.3g}",
            f"{row['float64_share']:.2%}",
            f"{row['float64_once']:.0%}",
            f"{row['bytes'] / 1e9:.3g}",
        ]
        for name in names:
            times = row["bounds_in_s"][name]
            cells.append(f"{1e3 * times['as it is']:.3g} / {1e3 * times['fused']:.3g}")
        lines.append([*cells, row["published"]])
    rates = "; ".join(
        f"{card.name} {', '.join(f'{kind} {rate / 1e12:g}' for kind, rate in card.rates.items())} TFLOP/s, "
        f"{card.bandwidth / 1e9:,.0f} GB/s"
        for card in CARDS
    )
    return table([*head, "published by others"], lines) + (
        "\n\nBounds, not measurements: nobody has run this on a card. Figures in the last column are others' own, "
        "measured by them; Flash-GMM's authors add: 19 to 32 times as fast as torchgmm; cuVS publishes no times. "
        "What float64 takes once, before the first iteration, is in units of an iteration's arithmetic. Rates as "
        f"published, dense: {rates}. Counted by dispatch, torch {found['torch']}; reduced types are what the products "
        "could use, everything else stays float32. TF32 and bfloat16 cost digits: torch uses them where it is told to, "
        "and nothing here tells it."
    )


def main() -> None:
    """Count and write."""
    rows = [bound(problem) for problem in PUBLISHED]
    cards = [card._asdict() for card in CARDS]
    found = {"kind": "bound", "torch": torch.__version__, "cards": cards, "rows": rows}
    text = markdown(found)
    print(text)
    save(RESULTS / "em_roofline.json", found)
    fill(ROOT / "docs" / "speed.md", "em_roofline", text)


if __name__ == "__main__":
    main()
