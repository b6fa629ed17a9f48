"""Error rates of a classifier by component of a mixture."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from gmm_torch.checks import check_classes, check_one_each
from gmm_torch.evaluation.rates import class_counts, homogeneity, interval
from gmm_torch.features.inputs import WITHOUT_CLASS


class Share(NamedTuple):
    """A class and its share of some inputs."""

    label: int
    share: float


class Confusion(NamedTuple):
    """Inputs of one class that were taken for another."""

    label: int
    prediction: int
    n: int


@dataclass(frozen=True)
class ComponentSummary:
    """The labelled inputs whose most probable component this is.

    Attributes:
        component: its number.
        n, n_errors: number of inputs, and of wrong predictions among them.
        error_rate: n_errors / n, None where there are none.
        interval: Clopper-Pearson interval of the error rate, (0, 1) where there are none.
        predictions: predicted classes with their shares, the largest first.
        confusions: wrong predictions, the most frequent first.
    """

    component: int
    n: int
    n_errors: int
    error_rate: float | None
    interval: tuple[float, float]
    predictions: tuple[Share, ...]
    confusions: tuple[Confusion, ...]


@dataclass(frozen=True)
class ComponentReport:
    """The components of a mixture, with the error rates of labelled inputs.

    Attributes:
        components: all of them; the highest error rate first, those without inputs last.
        n, n_errors: over all components.
        difference_p: p-value of "the error rate is the same in all components", by permutation.
        confidence: of each component's interval, not of all together.
    """

    components: tuple[ComponentSummary, ...]
    n: int
    n_errors: int
    difference_p: float
    confidence: float

    def table(self, class_names: Sequence[str] | None = None) -> str:
        """As text, a line for each component that has inputs, classes by their names where these are given."""

        def name(label: int) -> str:
            return class_names[label] if class_names is not None else str(label)

        bounds = f"{self.confidence:.0%} interval"
        lines = [f"component      n   wrong  error rate  {bounds:>14}  predictions; confusions (truth > prediction)"]
        for each in self.components:
            if each.error_rate is None:
                continue
            made_of = ", ".join(f"{name(label)} {share:.0%}" for label, share in each.predictions[:3])
            mistakes = ", ".join(f"{name(a)} > {name(b)} {n}" for a, b, n in each.confusions[:3])
            low, high = each.interval
            lines.append(
                f"{each.component:>9} {each.n:>6} {each.n_errors:>7} {each.error_rate:>11.1%}  "
                f"{f'{low:.1%} to {high:.1%}':>14}  {made_of}" + (f"; {mistakes}" if mistakes else "")
            )
        lines.append(f"error rates differ between components: p = {self.difference_p:.2g} (n = {self.n})")
        return "\n".join(lines)

    __str__ = table


def check_labels(labels: Tensor | None, prediction: Tensor, n_classes: int) -> Tensor:
    """Labels (N,) int64 of inputs with predictions (N,), on their device; raises ValueError unless all are classes."""
    if labels is None or labels.shape != prediction.shape:
        got = "none" if labels is None else tuple(labels.shape)
        raise ValueError(f"labels: expected {tuple(prediction.shape)}; got {got}: give batches (x, label, ...)")
    check_classes("labels", labels, n_classes, WITHOUT_CLASS)
    return labels.to(prediction)


def component_report(
    component: Tensor, prediction: Tensor, label: Tensor, n_components: int, confidence: float = 0.95
) -> ComponentReport:
    """The components of N labelled inputs, ranked by error rate, from the most probable component of each (N,).

    Raises:
        ValueError: not one prediction and label for each component.
    """
    check_one_each("predictions and labels", "component", component, prediction, label)
    component, prediction, label = component.cpu(), prediction.cpu(), label.cpu()
    n_classes = int(torch.maximum(label, prediction).max()) + 1 if len(label) else 1
    wrong = prediction != label
    size = torch.bincount(component, minlength=n_components)
    errors = torch.bincount(component[wrong], minlength=n_components)
    predicted = class_counts(component, prediction, n_components, n_classes)
    summaries = []
    for k in range(n_components):
        n, n_errors = int(size[k]), int(errors[k])
        mistaken = wrong & (component == k)
        pairs, counts = torch.stack([label[mistaken], prediction[mistaken]], 1).unique(dim=0, return_counts=True)
        found = [Confusion(a, b, n_pair) for (a, b), n_pair in zip(pairs.tolist(), counts.tolist(), strict=True)]
        summaries.append(
            ComponentSummary(
                component=k,
                n=n,
                n_errors=n_errors,
                error_rate=n_errors / n if n else None,
                interval=interval(n_errors, n, confidence),
                predictions=shares(predicted[k]),
                confusions=tuple(sorted(found, key=lambda confusion: -confusion.n)),
            )
        )
    summaries.sort(key=lambda each: (each.error_rate is None, -(each.error_rate or 0), -each.n, each.component))
    difference_p = homogeneity(size.numpy(), errors.numpy())
    return ComponentReport(tuple(summaries), len(component), int(errors.sum()), difference_p, confidence)


def shares(counts: Tensor) -> tuple[Share, ...]:
    """Classes that occur, with their shares, the largest first; from counts (C,)."""
    total = int(counts.sum())
    found = [Share(label, count / total) for label, count in enumerate(counts.tolist()) if count]
    return tuple(sorted(found, key=lambda share: -share.share))
