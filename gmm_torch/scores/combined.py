"""The default: several scores, each ranked among clean inputs, combined into one."""

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from gmm_torch.conformal.p_values import conformal_p_value
from gmm_torch.features.features import Features
from gmm_torch.features.layers import DEPTHS
from gmm_torch.scores.base import N_COMPONENTS, SCORES, Breakdown, Fitter, Score
from gmm_torch.scores.combination import expected_auroc, log_tail, root_mean
from gmm_torch.scores.feature_mixture import FeatureMixture
from gmm_torch.scores.mean_log_probability import MeanLogProbability

HALF = 200  # fitting inputs that give half its weight to a part that learns from them
# Largest cost of the parts other than `mean_log_probability` in finding wrong predictions, as an area under the ROC
# curve, and candidate scales of their weights: the largest within that cost is used.
MAX_COST = 0.005
SCALES = [2 ** (-k / 2) for k in range(13)]


def default_parts() -> dict[str, type[Score]]:
    """The parts of the default by name, the heaviest first: the scores that have `default_weights`."""
    found = {name: kind for name, kind in SCORES.items() if "default_weights" in vars(kind)}
    return dict(sorted(found.items(), key=lambda each: (-sum(each[1].default_weights), each[0])))


def default_weights(n_views: int, n_layers: int) -> dict[str, float]:
    """Weights of the parts of the default for these numbers of views and layers."""
    parts = {name: kind for name, kind in default_parts().items() if n_layers >= kind.min_layers}
    weights = {name: kind.default_weights[n_views == 1] for name, kind in parts.items()}
    return {name: weight for name, weight in weights.items() if weight > 0}


class Combined(Score):
    """-log sum_j w_j p_j^(-1/2) over the p-values of several scores.

    Each part finds other failures: `mean_log_probability` wrong predictions and inputs at a decision boundary,
    `moment_likelihood` other distributions, `logit_likelihood` and `augmentation_consistency` adversarial images. With
    one view and several layers, `depth_consistency` replaces the other views. `docs/detector.md` has the study behind
    the choice; it used failures other than those of the published tables.

    The best weights depend on the network. `mean_log_probability` is near the best score for wrong predictions, and
    every other part costs some of that. The cost is estimated without labels: where the classifier's probabilities are
    true, wrong predictions are found with an expected area under the ROC curve (`expected_auroc`). The weights of all
    other parts are scaled down together, to a 64th at most, until they cost at most half a point of it among the
    reference inputs.

    Args:
        n_components: K of the mixtures.
        covariance_type: of the mixtures.
        weights: of the parts, by name, used unchanged; a part that is not named is left out. None for the weights of
            the study, which depend on the number of views, scaled to the network; a part that learns from n fitting
            inputs has n / (n + 200) of its weight: with few inputs, the classifier's certainty decides.
    """

    name = "combined"
    layers = DEPTHS
    pooling = "moments"
    views = ("identity", "mirror", "blur")
    n_reference = 300  # the lowest tenth of them makes the tail
    sized_by_data = ("held_out", "references")

    def __init__(
        self,
        n_components: int = N_COMPONENTS,
        covariance_type: str = "full",
        weights: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.given_weights = dict(weights) if weights else None
        self.weights: dict[str, float] = {}
        self.register_buffer("log_weights", torch.empty(0))
        self.register_buffer("log_scale", torch.zeros(()))
        self.register_buffer("held_out", torch.empty(0, 0))
        self.register_buffer("references", torch.empty(0, 0))
        self._take(self._weights_of(n_views=3, n_layers=2))

    log_weights: Tensor  # (J,), before they are scaled
    log_scale: Tensor  # (), of all parts but `mean_log_probability`
    held_out: Tensor  # (S, H), statistics of fitting inputs that no part has learned from
    references: Tensor  # (J, R), ascending

    def _take(self, weights: Mapping[str, float]) -> None:
        unknown = [name for name in weights if name not in default_parts()]
        if unknown or not weights or not all(weight > 0 for weight in weights.values()):
            raise ValueError(
                f"weights: expected positive numbers for some of {', '.join(default_parts())}; got {dict(weights)}"
            )
        self.weights = dict(weights)
        self.parts = nn.ModuleDict({name: self._make(name) for name in weights})
        self.held_out = self.references = self.references.new_empty(len(weights), 0)
        self.log_weights = self.references.new_tensor([math.log(weight) for weight in weights.values()])
        self.log_scale = self.references.new_zeros(())

    def _make(self, name: str) -> Score:
        """A part, with the options that it takes."""
        kind = default_parts()[name]
        options = {"n_components": self.n_components, "covariance_type": self.covariance_type}
        taken = inspect.signature(kind).parameters
        return kind(**{key: value for key, value in options.items() if key in taken})

    @property
    def _certainty(self) -> int:
        """Index of `mean_log_probability` among the parts."""
        return list(self.weights).index(MeanLogProbability.name)

    def reads(self, layers: Sequence[str], n_views: int) -> dict[str, int]:
        parts = [self._make(name).reads(layers, n_views) for name in self._weights_of(n_views, len(layers))]
        found = {layer: max(part.get(layer, 0) for part in parts) for layer in layers}
        return {layer: n for layer, n in found.items() if n}

    def _weights_of(self, n_views: int, n_layers: int) -> Mapping[str, float]:
        return self.given_weights or default_weights(n_views, n_layers)

    def options(self) -> dict[str, Any]:
        keys = ("n_components", "covariance_type")
        return {key: getattr(self, key) for key in keys} | {"weights": self.given_weights}

    def build(self, widths: dict[str, int], n_views: int, n_classes: int) -> Self:
        self._take(self._weights_of(n_views, len(widths)))
        for part in self._scores():
            part.build(widths, n_views, n_classes)
        self.held_out = self.held_out.new_empty(self.n_statistics(n_views), 0)
        return self

    def fit(self, outputs: Features, fitter: Fitter) -> Self:
        for part in self._scores():
            part.fit(outputs, fitter)
        n = len(outputs.logits)
        taught = n / (n + HALF) if self.given_weights is None else 1.0
        each = ((weight, 1.0 if name == MeanLogProbability.name else taught) for name, weight in self.weights.items())
        self.log_weights = outputs.logits.new_tensor([math.log(weight * share) for weight, share in each])
        return self

    def hold_out(self, statistics: Tensor) -> Self:
        """See `Score`; they are the reference until there is another."""
        self.held_out = statistics.mT.contiguous()
        return self._rank_among(statistics)

    def set_reference(self, statistics: Tensor, wrong: Tensor | None = None) -> Self:
        """See `Score`; fewer than `n_reference` of them are joined by fitting inputs that were held out."""
        others = self.held_out[:, : max(0, self.n_reference - len(statistics))]
        return self._rank_among(torch.cat([statistics, others.mT]), wrong)

    def _rank_among(self, statistics: Tensor, wrong: Tensor | None = None) -> Self:
        """Make inputs the reference, and scale the weights by their cost there."""
        table = self.part_scores(statistics)
        self.references = table.mT.contiguous().sort().values
        self.log_scale = self.log_weights.new_zeros(())
        if self.given_weights is None:
            self.log_scale = self._affordable(table, self.probability_right(statistics, wrong)).to(self.log_weights)
        return self

    def _affordable(self, table: Tensor, probability: Tensor) -> Tensor:
        """Logarithm, (), of the largest scale <= 1 at which the other parts cost at most `MAX_COST`.

        From scores of the parts (R, J), and the probability (R,) that the prediction is right.
        """
        best = expected_auroc(table[:, self._certainty], probability)
        log_p = self._log_tails(table)
        log_scales = torch.tensor([math.log(scale) for scale in SCALES]).to(log_p)
        costs = [best - expected_auroc(self.join(log_p, each), probability) for each in log_scales]
        # Below one expected wrong prediction the area counts for less: where all are certain it is mere rounding.
        n_wrong = (1 - probability).sum().clamp_max(1)
        cost = torch.nan_to_num(torch.stack(costs), nan=0.0) * n_wrong
        dear = (cost > MAX_COST).long().cumprod(0).sum()  # number of scales that cost too much
        around = torch.stack([(dear - 1).clamp_min(0), dear.clamp_max(len(SCALES) - 1)])
        (cost_high, cost_low), (high, low) = cost[around], log_scales[around]
        share = ((cost_high - MAX_COST) / (cost_high - cost_low)).nan_to_num(0.0).clamp(0, 1)
        scale: Tensor = high + (low - high) * share.to(log_scales)
        return scale

    def statistics(self, outputs: Features) -> Tensor:
        """See `Score`; the scores of the J parts."""
        return torch.stack([part(outputs) for part in self._scores()], dim=-1)

    def n_statistics(self, n_views: int) -> int:
        """Number of columns of `statistics`."""
        return len(self.weights)

    def part_scores(self, statistics: Tensor) -> Tensor:
        """The scores of the parts (N, J), from `statistics`."""
        return statistics

    def probability_right(self, statistics: Tensor, wrong: Tensor | None = None) -> Tensor:
        """Probability that predictions are right, (N,), by the classifier: the geometric mean over views.

        `wrong` (M,) bool is known of the first M inputs; here it is ignored.
        """
        return statistics[:, self._certainty].double().exp()

    def log_p_values(self, outputs: Features) -> Tensor:
        """Log p-value of each part among the reference inputs, (N, J)."""
        return self._log_tails(self.part_scores(self.statistics(outputs)))

    def forward(self, outputs: Features) -> Tensor:
        """(N,)."""
        return self.combine(self.statistics(outputs))

    def combine(self, statistics: Tensor) -> Tensor:
        return self.join(self._log_tails(self.part_scores(statistics)))

    def join(self, log_p: Tensor, log_scale: Tensor | None = None) -> Tensor:
        """One number (N,) from log p-values of the parts (N, J); `log_scale` replaces the scale of the weights."""
        log_scale = self.log_scale if log_scale is None else log_scale
        return root_mean(log_p, self._scaled(log_scale).to(log_p))

    def _scaled(self, log_scale: Tensor) -> Tensor:
        """Logarithms of the weights, (J,), all but that of `mean_log_probability` scaled."""
        # Name by name: a tensor made of a list of Python's would be copied to the device at every verdict.
        each = zip(self.weights, self.log_weights.unbind(), strict=True)
        return torch.stack([own if name == MeanLogProbability.name else own + log_scale for name, own in each])

    def shares(self) -> dict[str, float]:
        """See `Score`; as they are scaled."""
        if self.log_scale.is_meta:
            return {}
        return dict(zip(self.weights, self._scaled(self.log_scale).exp().tolist(), strict=True))

    def models(self) -> dict[str, FeatureMixture]:
        """See `Score`; those of the parts."""
        return {name: model for part in self._scores() for name, model in part.models().items()}

    def breakdown(self, outputs: Features) -> Breakdown:
        """See `Score`; the influence is the rise of the score with p = 1/2 in place of the part's p-value."""
        table = self.part_scores(self.statistics(outputs))
        log_p = self._log_tails(table)
        whole = self.join(log_p)
        p_values, influence = {}, {}
        parts = zip(self.weights, table.unbind(-1), self.references, strict=True)
        for j, (name, score, reference) in enumerate(parts):
            p_values[name] = conformal_p_value(score, reference)
            silent = torch.cat([log_p[:, :j], torch.full_like(log_p[:, :1], math.log(0.5)), log_p[:, j + 1 :]], dim=1)
            influence[name] = self.join(silent) - whole
        return Breakdown(whole, p_values, influence, self.references.shape[1])

    def _log_tails(self, table: Tensor) -> Tensor:
        return log_tail(table.mT, self.references).mT

    def _scores(self) -> Sequence[Score]:
        return list(self.parts.values())  # type: ignore[arg-type]
