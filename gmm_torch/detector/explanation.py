"""Reasons why an input was refused or accepted."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from gmm_torch.detector.component_report import Share, shares
from gmm_torch.detector.examples import ComponentExamples
from gmm_torch.detector.verdict import Verdict
from gmm_torch.evaluation.rates import interval
from gmm_torch.features.features import Features
from gmm_torch.scores import SCORES
from gmm_torch.scores.base import Breakdown
from gmm_torch.scores.feature_mixture import LOG_SOFTMAX, FeatureMixture

if TYPE_CHECKING:
    from gmm_torch.detector.detector import FailureDetector

N_SHOWN = 3  # features and classes in a sentence
MOST = 0.05  # p-value above which no part is unusual
RESIDUAL = "distance to the principal subspace"


@dataclass(frozen=True)
class ComponentFacts:
    """The most probable component of one mixture for one input, in plain numbers.

    Attributes:
        component: its number, -1 where the input's features are not finite; then the others have their defaults.
        n_features: D of the mixture.
        responsibility: posterior probability of the component.
        predictions: make-up of the component: predicted classes of fitting inputs; empty where unknown.
        labels: the same of held-out labels; empty where none were given.
        n_labelled, n_errors: held-out inputs of the component, and how many of them are predicted wrongly.
        error_rate: n_errors / n_labelled, None where there are none.
        error_interval: its Clopper-Pearson interval at 95 %.
        squared_distance: to the component's mean.
        features: those that contribute most, with their shares of the squared distance, the largest first.
        layer: to which most of these shares belong; None where there are none, or of no layer alone.
        nearest: (position among fitting inputs, distance, predicted class) of the nearest kept ones.
    """

    component: int
    n_features: int
    responsibility: float = 0.0
    predictions: tuple[Share, ...] = ()
    labels: tuple[Share, ...] = ()
    n_labelled: int = 0
    n_errors: int = 0
    error_rate: float | None = None
    error_interval: tuple[float, float] = (0.0, 1.0)
    squared_distance: float = math.inf
    features: tuple[tuple[str, float], ...] = ()
    layer: str | None = None
    nearest: tuple[tuple[int, float, int], ...] = ()


@dataclass(frozen=True, repr=False)
class Explanation:
    """Reasons why one input was refused or accepted; `str` gives sentences, `numbers()` figures.

    Attributes:
        prediction, score, p_value, accept: the verdict.
        views: probability of the predicted class in each view, 0 where the logits are not finite.
        part_p_values: of each part of a combined score; empty for a single score.
        n_reference: among how many inputs, held out from what the parts were fitted to, these rank; 0 for a single
            score.
        dominant: the part that lowers the score most; None for a single score.
        mixtures: the facts of each mixture of the score; empty for a score without one.
        class_names: index -> name, None for numbers.
    """

    prediction: int
    score: float
    p_value: float
    accept: bool
    views: dict[str, float]
    part_p_values: dict[str, float]
    n_reference: int
    dominant: str | None
    mixtures: dict[str, ComponentFacts]
    class_names: Sequence[str] | None = None

    def name(self, label: int) -> str:
        """The name of a class."""
        return str(label) if self.class_names is None else self.class_names[label]

    @property
    def leading(self) -> str | None:
        """The mixture to look at first: that of the dominant part, else that of the least typical part with one."""
        if self.dominant in self.mixtures:
            return self.dominant
        return min(self.mixtures, key=lambda name: self.part_p_values.get(name, 1.0), default=None)

    @property
    def unusual(self) -> list[str]:
        """The part that lowered the score most, then other unusual parts, in sentences without their stops.

        Nothing of an input that is accepted.
        """
        if self.accept:
            return []
        rest = sorted((p, name) for name, p in self.part_p_values.items() if name != self.dominant and p <= MOST)
        found = [] if self.dominant is None else [f"The score was lowered most by {self._rank(self.dominant)}"]
        return found + [f"{'Also unusual' if found else 'Unusual'}: {self._rank(name)}" for _, name in rest]

    def _rank(self, name: str) -> str:
        """A part, how many held-out inputs are more typical there, and the layer that deviates most."""
        p, n = self.part_p_values[name], self.n_reference
        layer = self.mixtures[name].layer if name in self.mixtures else None
        above = n + 1 - round(p * (n + 1))
        those = f"all {n:,}" if above == n else f"{above:,} of {n:,}"
        where = "" if layer is None else f"; the largest deviations are at {layer}"
        return f"{in_words(name)} ({those} held-out inputs are more typical there{where})"

    def __repr__(self) -> str:
        return f"Explanation({self})"

    def __str__(self) -> str:
        return ". ".join(self._sentences()) + "."

    def _sentences(self) -> list[str]:
        predicted = f"predicted {self.name(self.prediction)}"
        if self.accept:
            sentences = [f"Accepted, {predicted}: as usual as calibration inputs are (p = {self.p_value:.2g})"]
        else:
            how = f"inputs like the calibration inputs are so unusual in {percent(self.p_value)} % of cases at most"
            sentences = [f"Refused, {predicted}: {how} (p = {self.p_value:.2g})"]
        facts = None if self.leading is None else self.mixtures[self.leading]
        if facts is not None and facts.component < 0:
            return [*sentences, "Its features are not finite"]
        sentences += self.unusual
        if not (self.accept or self.part_p_values or facts is None or facts.layer is None):
            sentences.append(f"The largest deviations are at {facts.layer}")
        if len(self.views) > 1:
            shares = ", ".join(f"{view} {p:.0%}" for view, p in self.views.items())
            sentences.append(f"Probability of {self.name(self.prediction)} by view: {shares}")
        if facts is None:
            return [*sentences, "The score has no mixture, so no component and no features to name"]
        about = f"It belongs to component {facts.component} of the mixture {self.leading}"
        if facts.predictions:
            made_of = [f"{self.name(c)} ({share:.0%})" for c, share in facts.predictions[:N_SHOWN]]
            about += f", mostly predicted {', '.join(made_of)}"
        if facts.error_rate is not None:
            about += f"; {facts.n_errors} of its {facts.n_labelled} labelled inputs are predicted wrongly"
        return [*sentences, about]

    def numbers(self) -> str:
        """The same in numbers, a line each: p-values of the parts, and of each mixture what its distance is made of.

        What a distance means is in the p-value of its part: distances of other components and mixtures differ in size.
        """
        lines = [f"p-value {self.p_value:.3g}, score {self.score:.4g}"]
        lines += [f"p-value of {name} {p:.3g}" for name, p in self.part_p_values.items()]
        for name, facts in self.mixtures.items():
            if facts.component < 0:
                lines.append(f"{name}: the features are not finite")
                continue
            low, high = facts.error_interval
            errors = f", {facts.error_rate:.1%} wrong ({low:.1%} to {high:.1%})" if facts.error_rate is not None else ""
            top = ", ".join(f"{feature} {in_figures(share)}" for feature, share in facts.features[:N_SHOWN])
            lines += [
                f"{name}: component {facts.component}, probability {facts.responsibility:.2f}{errors}",
                f"{name}: squared Mahalanobis distance {in_figures(facts.squared_distance)} to its mean; "
                f"its largest shares: {top}",
            ]
        return "\n".join(lines)


def in_words(part: str) -> str:
    """A part of the score, named after its subject."""
    found = SCORES.get(part)
    return (found.in_words if found else "") or part.replace("_", " ")


def mixture_in_words(name: str) -> str:
    """The name of a mixture, with what it is over where its name does not say it."""
    found = SCORES.get(name)
    return f"{name}, over {found.in_words}" if found and found.in_words else name


def percent(p: float) -> str:
    """A share in per cent, two significant figures."""
    return f"{100 * p:.2g}"


def explain(
    detector: "FailureDetector",
    features: Features,
    verdict: Verdict,
    breakdown: Breakdown,
    n_features: int,
    n_nearest: int,
    class_names: Sequence[str] | None,
) -> list[Explanation]:
    """Gather what score and examples know about N inputs; see `FailureDetector.explain`."""
    predicted = verdict.prediction[:, None, None].expand(-1, features.logits.shape[1], 1)
    views = features.logits.softmax(-1).gather(-1, predicted)[..., 0].nan_to_num(0).tolist()
    parts = {name: p.tolist() for name, p in breakdown.p_values.items()}
    influence = list(breakdown.influence.values())
    lowest = torch.stack(influence).argmax(0).tolist() if influence else []
    mixtures = {
        name: _component_facts(detector, model, kept, features, n_features, n_nearest, class_names)
        for (name, model), kept in zip(detector.score.models().items(), detector.examples.kept, strict=True)
    }
    rows = zip(*(each.tolist() for each in verdict[1:]), strict=True)
    return [
        Explanation(
            prediction=prediction,
            score=score,
            p_value=p_value,
            accept=accept,
            views=dict(zip(detector.extractor.views, views[i], strict=True)),
            part_p_values={name: p[i] for name, p in parts.items()},
            n_reference=breakdown.n_reference,
            dominant=list(parts)[lowest[i]] if lowest else None,
            mixtures={name: facts[i] for name, facts in mixtures.items()},
            class_names=class_names,
        )
        for i, (prediction, score, p_value, accept) in enumerate(rows)
    ]


def _component_facts(
    detector: "FailureDetector",
    model: FeatureMixture,
    kept: ComponentExamples,
    features: Features,
    n_features: int,
    n_nearest: int,
    class_names: Sequence[str] | None,
) -> list[ComponentFacts]:
    examples, extractor = detector.examples, detector.extractor
    points = model.points(features)
    posterior = model.mixture.predict_proba(points)
    responsibility, component = posterior.max(-1)
    contributions = model.contributions(features, component)
    finite = torch.isfinite(posterior).all(-1) & torch.isfinite(contributions).all(-1)
    anchors = kept.points if n_nearest else kept.points[:0]  # none asked for, none measured: it is most of the work
    distance, near = (
        model.distances(points, anchors, component)
        .nan_to_num(torch.inf)
        .topk(min(n_nearest, len(anchors)), largest=False)
    )
    largest = contributions.nan_to_num(0).topk(min(n_features, contributions.shape[1]))
    found = []
    for i, k in enumerate(component.tolist()):
        if not finite[i]:
            found.append(ComponentFacts(-1, points.shape[1]))
            continue
        columns = [_column(model, column) for column in largest.indices[i].tolist()]
        names = [_column_name(column, extractor.statistics, extractor.views, class_names) for column in columns]
        by_layer: dict[str | None, float] = {}
        for (layer, *_), share in zip(columns, largest.values[i].tolist(), strict=True):
            by_layer[layer] = by_layer.get(layer, 0.0) + share
        layer = max(by_layer, key=by_layer.__getitem__, default=None)
        n, n_errors = int(kept.labelled[k].sum()), int(kept.wrong[k])
        nearest = (examples.index[near[i]], distance[i], examples.prediction[near[i]])
        found.append(
            ComponentFacts(
                component=k,
                n_features=points.shape[1],
                responsibility=float(responsibility[i]),
                predictions=shares(kept.predicted[k]),
                labels=shares(kept.labelled[k]),
                n_labelled=n,
                n_errors=n_errors,
                error_rate=n_errors / n if n else None,
                error_interval=interval(n_errors, n),
                squared_distance=float(contributions[i].sum()),
                features=tuple(zip(names, largest.values[i].tolist(), strict=True)),
                layer=None if layer == LOG_SOFTMAX else layer,
                nearest=tuple(zip(*(each.tolist() for each in nearest), strict=True)),
            )
        )
    return found


def _column(model: FeatureMixture, column: int) -> tuple[str | None, tuple[int, ...], int, int]:
    """Layer, views, position in the layer and the layer's width of a column of contributions.

    The layer is None for what a projection leaves out.
    """
    for layer, groups, width in model.blocks:
        if column < len(groups) * width:
            return layer, groups[column // width], column % width, width
        column -= len(groups) * width
    return None, (), 0, 0


def _column_name(
    column: tuple[str | None, tuple[int, ...], int, int],
    statistics: Mapping[str, Sequence[str]],
    view_names: Sequence[str],
    class_names: Sequence[str] | None,
) -> str:
    layer, views, position, width = column
    if layer is None:
        return RESIDUAL
    if layer == LOG_SOFTMAX:
        feature = f"log-probability of {position if class_names is None else class_names[position]}"
    else:
        pooled = statistics.get(layer, ("",))
        which, channel = divmod(position, width // len(pooled))
        feature = f"{layer} {pooled[which]}".rstrip() + f"[{channel}]"
    if len(view_names) == 1:
        return feature
    named = " and ".join(view_names[view] for view in views)
    return f"{feature}, {'view' if len(views) == 1 else 'mean of'} {named}"


def in_figures(value: float) -> str:
    """Three significant figures, and thousands without an exponent."""
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}"
