"""Why an input was refused or accepted."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gmm_torch.detector.component_report import Share, shares
from gmm_torch.detector.examples import ComponentExamples, Examples
from gmm_torch.detector.verdict import N_SHOWN as N_ROWS
from gmm_torch.detector.verdict import Verdict, and_more, counted, in_columns
from gmm_torch.evaluation.rates import interval
from gmm_torch.features.features import Features
from gmm_torch.scores import SCORES
from gmm_torch.scores.base import Breakdown
from gmm_torch.scores.feature_mixture import LOG_SOFTMAX, Block, FeatureMixture

if TYPE_CHECKING:
    from gmm_torch.detector.detector import FailureDetector

N_SHOWN = 3  # features and classes in a sentence
MOST = 0.05  # p-value above which no part is unusual
RESIDUAL = "distance to the principal subspace"


@dataclass(frozen=True)
class _ColumnNames:
    """Layers and words for the columns of contributions; it can be pickled, as the mixture itself need not be."""

    blocks: tuple[Block, ...]  # what the columns are, in order; one more is what a projection leaves out
    statistics: Mapping[str, Sequence[str]]  # layer -> what its channels are pooled to, none where they are not
    views: Sequence[str]

    def layer(self, column: int) -> str | None:
        """The layer of a column; None for the rest that no layer has alone."""
        return self._place(column)[0]

    def name(self, column: int, class_names: Sequence[str] | None = None) -> str:
        """The name of a column."""
        layer, views, position, width = self._place(column)
        if layer is None:
            return RESIDUAL
        if layer == LOG_SOFTMAX:
            feature = f"log-probability of {position if class_names is None else class_names[position]}"
        else:
            statistics = self.statistics.get(layer, ("",))
            which, channel = divmod(position, width // len(statistics))
            feature = f"{layer} {statistics[which]}".rstrip() + f"[{channel}]"
        if len(self.views) == 1:
            return feature
        named = " and ".join(self.views[view] for view in views)
        return f"{feature}, {'view' if len(views) == 1 else 'mean of'} {named}"

    def _place(self, column: int) -> tuple[str | None, tuple[int, ...], int, int]:
        """Layer, views, position in the layer and the layer's width."""
        for layer, groups, width in self.blocks:
            if column < len(groups) * width:
                return layer, groups[column // width], column % width, width
            column -= len(groups) * width
        return None, (), 0, 0


@dataclass(frozen=True, repr=False)
class MixtureExplanation:
    """The nearest component of one mixture for each of N inputs, and its distance.

    An input whose features are not finite has component -1, responsibility 0, contributions 0 and no neighbours.

    Attributes:
        component: (N,) int64, the most probable one.
        posterior: (N, K), responsibilities of all components.
        squared_distance: (N,) float64, squared Mahalanobis distance to the component's mean.
        contributions: (N, S) float64, each feature's share of it; see `FeatureMixture.contributions`.
        features: (N, T) int64, the columns of the largest contributions, the largest first.
        nearest: (N, J) int64, positions among the fitting inputs of the nearest ones that were kept, nearest first.
        distance: (N, J), how far they are, in standard deviations of the component.
        nearest_prediction: (N, J) int64, the classes predicted for them.
        predicted: (K, C) int64, predicted classes of the fitting inputs by component; None where unknown.
        labelled: (K, C) int64, labels of held-out inputs by component; None unless `component_report` was called.
        wrong: (K,) int64, how many of these were predicted wrongly; None like `labelled`.
        n_features: D of the mixture.
        name_of: from a column of `contributions` and class names to words.
        layer_of: from such a column to its layer; None for the rest that no layer has alone.
    """

    component: Tensor
    posterior: Tensor
    squared_distance: Tensor
    contributions: Tensor
    features: Tensor
    nearest: Tensor
    distance: Tensor
    nearest_prediction: Tensor
    predicted: Tensor | None
    labelled: Tensor | None
    wrong: Tensor | None
    n_features: int
    name_of: Callable[[int, Sequence[str] | None], str]
    layer_of: Callable[[int], str | None]

    @property
    def responsibility(self) -> Tensor:
        """(N,), of the component itself."""
        return self.posterior.amax(-1)

    def __repr__(self) -> str:
        n, k = self.posterior.shape
        sizes = f"{n:,} input{'s' * (n != 1)}, {k} components, {self.n_features} features"
        return f"MixtureExplanation({sizes}; {_names_of(self)})"


@dataclass(frozen=True)
class ComponentFacts:
    """One input's component, in plain numbers.

    Attributes:
        component: its number, -1 where the input's features are not finite.
        responsibility: posterior probability of the component.
        predictions: make-up of the component: predicted classes of fitting inputs; empty where unknown.
        labels: the same of held-out labels; empty where none were given.
        n_labelled, n_errors: held-out inputs of the component, and how many of them are predicted wrongly.
        error_rate: n_errors / n_labelled, None where there are none.
        error_interval: its Clopper-Pearson interval at 95 %.
        squared_distance: to the component's mean.
        n_features: D of the mixture.
        features: those that contribute most, with their shares of the squared distance, the largest first.
        layer: to which most of these shares belong; None where there are none, or of no layer alone.
        nearest: (position among fitting inputs, distance, predicted class) of the nearest kept ones.
    """

    component: int
    responsibility: float
    predictions: tuple[Share, ...]
    labels: tuple[Share, ...]
    n_labelled: int
    n_errors: int
    error_rate: float | None
    error_interval: tuple[float, float]
    squared_distance: float
    n_features: int
    features: tuple[tuple[str, float], ...]
    layer: str | None
    nearest: tuple[tuple[int, float, int], ...]


@dataclass(frozen=True)
class InputExplanation:
    """One input, in plain numbers; `str` gives sentences, `numbers()` figures.

    Attributes:
        prediction, score, p_value, accept: the verdict.
        views: probability of the predicted class in each view.
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


@dataclass(frozen=True, repr=False)
class Explanation:
    """Why N inputs were refused or accepted; `explanation[i]` is one of them in plain numbers, and prints as words.

    Prints as a table of the first inputs.

    Attributes:
        verdict: the detector's.
        views: (N, V), probability of the predicted class in each view, 0 where the logits are not finite.
        view_names: the V views.
        part_p_values: of each part of a combined score, (N,); {} for a single score.
        n_reference: see `InputExplanation`.
        dominant: (N,) int64, index of the part that lowers the score most; None for a single score.
        mixtures: by name of the score's mixtures; {} for a score without one.
    """

    verdict: Verdict
    views: Tensor
    view_names: tuple[str, ...]
    part_p_values: dict[str, Tensor]
    n_reference: int
    dominant: Tensor | None
    mixtures: dict[str, MixtureExplanation]
    class_names: Sequence[str] | None = None

    def __len__(self) -> int:
        return len(self.verdict.prediction)

    def __getitem__(self, i: int) -> InputExplanation:
        if not -len(self) <= i < len(self):
            raise IndexError(f"input: expected one of {len(self)}; got number {i}")
        names = list(self.part_p_values)
        return InputExplanation(
            prediction=int(self.verdict.prediction[i]),
            score=float(self.verdict.score[i]),
            p_value=float(self.verdict.p_value[i]),
            accept=bool(self.verdict.accept[i]),
            views=dict(zip(self.view_names, self.views[i].tolist(), strict=True)),
            part_p_values={name: float(p[i]) for name, p in self.part_p_values.items()},
            n_reference=self.n_reference,
            dominant=None if self.dominant is None else names[int(self.dominant[i])],
            mixtures={name: _facts(mixture, i, self.class_names) for name, mixture in self.mixtures.items()},
            class_names=self.class_names,
        )

    def __repr__(self) -> str:
        n = len(self)
        if not n:
            return "Explanation of no inputs"
        head = ["input", "prediction", "p-value", ""]
        head += ["lowers the score most"] * (self.dominant is not None)
        head += [f"component of {name}" for name in list(self.mixtures)[:1]]
        rows = [self._row(i) for i in range(min(n, N_ROWS))]
        return "\n".join(
            [
                f"Explanation of {counted(n, int(self.verdict.accept.sum()))}",
                *in_columns([head, *rows]),
                *and_more(n),
                f"explanation[i] is one input, in sentences; {_names_of(self)}",
            ]
        )

    def _row(self, i: int) -> list[str]:
        found = self[i]
        row = [str(i), found.name(found.prediction), f"{found.p_value:.3g}", "accepted" if found.accept else "refused"]
        row += [found.dominant] * (found.dominant is not None)  # type: ignore[list-item]
        return row + [str(facts.component) for facts in list(found.mixtures.values())[:1]]


def _names_of(explanation: "Explanation | MixtureExplanation") -> str:
    return f"fields: {', '.join(each.name for each in fields(explanation))}"


def explain(
    detector: "FailureDetector",
    outputs: Features,
    verdict: Verdict,
    breakdown: Breakdown,
    n_features: int,
    n_nearest: int,
    class_names: Sequence[str] | None,
) -> Explanation:
    """Gather what score and examples know about inputs; see `FailureDetector.explain`."""
    of_predicted = verdict.prediction[:, None, None].expand(-1, outputs.logits.shape[1], 1)
    of_predicted_class = outputs.logits.softmax(-1).gather(-1, of_predicted)[..., 0]
    influence = list(breakdown.influence.values())
    examples, extractor = detector.examples, detector.extractor
    mixtures = {}
    for (name, model), kept in zip(detector.score.models().items(), examples.kept, strict=True):
        names = _ColumnNames(tuple(model.blocks), dict(extractor.statistics), extractor.views)
        mixtures[name] = _explain_mixture(model, kept, examples, outputs, names, n_features, n_nearest)
    return Explanation(
        verdict=verdict,
        views=torch.where(torch.isnan(of_predicted_class), 0, of_predicted_class),
        view_names=extractor.views,
        part_p_values=breakdown.p_values,
        n_reference=breakdown.n_reference,
        dominant=torch.stack(influence).argmax(0) if influence else None,
        mixtures=mixtures,
        class_names=class_names,
    )


def _explain_mixture(
    model: FeatureMixture,
    kept: ComponentExamples,
    examples: Examples,
    outputs: Features,
    names: _ColumnNames,
    n_features: int,
    n_nearest: int,
) -> MixtureExplanation:
    points = model.points(outputs)
    posterior = model.mixture.predict_proba(points)
    component = posterior.argmax(-1)
    contributions = model.contributions(outputs, component)
    finite = torch.isfinite(posterior).all(-1) & torch.isfinite(contributions).all(-1)
    contributions = torch.where(finite[:, None], contributions, 0)
    anchors = kept.points if n_nearest else kept.points[:0]  # none asked for, none measured: it is most of the work
    distance = torch.where(finite[:, None], model.distances(points, anchors, component), torch.inf)
    distance, position = distance.topk(min(n_nearest, distance.shape[1]), largest=False)
    reachable = torch.isfinite(distance)
    observed = bool(kept.labelled.any())
    return MixtureExplanation(
        component=torch.where(finite, component, -1),
        posterior=torch.where(finite[:, None], posterior, 0),
        squared_distance=torch.where(finite, contributions.sum(-1), torch.inf),
        contributions=contributions,
        features=contributions.topk(min(n_features, contributions.shape[1])).indices,
        nearest=torch.where(reachable, examples.index[position], -1),
        distance=distance,
        nearest_prediction=torch.where(reachable, examples.prediction[position], -1),
        predicted=kept.predicted if bool(kept.predicted.any()) else None,
        labelled=kept.labelled if observed else None,
        wrong=kept.wrong if observed else None,
        n_features=model.mixture.n_features,
        name_of=names.name,
        layer_of=names.layer,
    )


def _facts(mixture: MixtureExplanation, i: int, class_names: Sequence[str] | None) -> ComponentFacts:
    k = int(mixture.component[i])
    counts = (mixture.predicted, mixture.labelled, mixture.wrong)
    predicted, labelled, wrong = (torch.zeros(1) if k < 0 or each is None else each[k] for each in counts)
    n, n_errors = int(labelled.sum()), int(wrong.sum())
    columns = mixture.features[i].tolist() if k >= 0 else []
    near = (mixture.nearest, mixture.distance, mixture.nearest_prediction)
    return ComponentFacts(
        component=k,
        responsibility=float(mixture.responsibility[i]),
        predictions=shares(predicted),
        labels=shares(labelled),
        n_labelled=n,
        n_errors=n_errors,
        error_rate=n_errors / n if n else None,
        error_interval=interval(n_errors, n),
        squared_distance=float(mixture.squared_distance[i]),
        n_features=mixture.n_features,
        features=tuple((mixture.name_of(c, class_names), float(mixture.contributions[i, c])) for c in columns),
        layer=_layer(mixture, i, columns),
        nearest=tuple(each for each in zip(*(value[i].tolist() for value in near), strict=True) if each[0] >= 0),
    )


def _layer(mixture: MixtureExplanation, i: int, columns: Sequence[int]) -> str | None:
    shares: dict[str | None, float] = {}
    for c in columns:
        layer = mixture.layer_of(c)
        shares[layer] = shares.get(layer, 0.0) + float(mixture.contributions[i, c])
    found = max(shares, key=lambda layer: shares[layer], default=None)
    return None if found == LOG_SOFTMAX else found


def in_figures(value: float) -> str:
    """Three significant figures, and thousands without an exponent."""
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}"
