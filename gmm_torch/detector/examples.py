"""Fitting inputs kept as examples, and counts by component, for explanations; no verdict depends on them."""

from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor, nn

from gmm_torch.evaluation.rates import class_counts
from gmm_torch.features.features import Features
from gmm_torch.mixture.sampling import sample_rows
from gmm_torch.scores.feature_mixture import FeatureMixture

# Fitting inputs that are kept as neighbours, and the numbers that they may take together: eight megabytes.
MAX_KEPT, MAX_NUMBERS = 1000, 2**21


class ComponentExamples(nn.Module):
    """Examples and counts of one mixture with K components over D features."""

    points: Tensor  # (M, D), those of the kept fitting inputs
    predicted: Tensor  # (K, C) int64, predicted classes by component, of all fitting inputs
    labelled: Tensor  # (K, C) int64, labels of held-out inputs by component; zero until such were given
    wrong: Tensor  # (K,) int64, how many of these were predicted wrongly
    sized_by_data = ("points",)

    def __init__(self, n_components: int, n_features: int, n_classes: int) -> None:
        super().__init__()
        self.register_buffer("points", torch.empty(0, n_features))
        self.register_buffer("predicted", torch.zeros(n_components, n_classes, dtype=torch.long))
        self.register_buffer("labelled", torch.zeros(n_components, n_classes, dtype=torch.long))
        self.register_buffer("wrong", torch.zeros(n_components, dtype=torch.long))


class Examples(nn.Module):
    """Examples and counts of all mixtures of a score, in their order."""

    index: Tensor  # (M,) int64, positions of the kept fitting inputs, a random sample that no order has a part in
    prediction: Tensor  # (M,) int64, their predicted classes
    sized_by_data = ("index", "prediction")

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("index", torch.empty(0, dtype=torch.long))
        self.register_buffer("prediction", torch.empty(0, dtype=torch.long))
        self.mixtures = nn.ModuleList()

    def build(self, models: Mapping[str, FeatureMixture], n_classes: int) -> Self:
        """Make room for mixtures of these sizes; forgets what there was."""
        self.index, self.prediction = self.index[:0], self.prediction[:0]
        self.mixtures = nn.ModuleList(
            ComponentExamples(model.mixture.n_components, model.mixture.n_features, n_classes)
            for model in models.values()
        )
        return self

    def fit(self, models: Mapping[str, FeatureMixture], outputs: Features) -> Self:
        """Take the make-up of the components, and some inputs as neighbours, from the outputs on fitting inputs."""
        logits, position = outputs.own_logits, outputs.position
        prediction = logits.argmax(-1)
        width = sum(model.mixture.n_features for model in models.values())
        n_kept = min(len(logits), MAX_KEPT, max(1, MAX_NUMBERS // max(1, width))) if models else 0
        chosen = sample_rows(logits, n_kept)
        self.index, order = (chosen if position is None else position[chosen]).sort()
        chosen = chosen[order]
        self.prediction = prediction[chosen]
        for model, kept in zip(models.values(), self.kept, strict=True):
            points = model.points(outputs)
            kept.points = points[chosen]
            kept.predicted = class_counts(model.mixture.predict(points), prediction, *kept.predicted.shape)
        return self

    def observe(self, component: Tensor, prediction: Tensor, labels: Tensor) -> None:
        """Take labels and errors of N held-out inputs by component (N, J), in place of earlier ones."""
        wrong = (prediction != labels).long()
        for own, kept in zip(component.unbind(1), self.kept, strict=True):
            kept.labelled = class_counts(own, labels, *kept.labelled.shape)
            kept.wrong = torch.zeros_like(kept.wrong).index_add(0, own, wrong)

    def reference_components(self) -> Tensor:
        """(n,) int64, components of the first mixture that labelled inputs fell to, in no order; empty without these.

        Never those of fitting inputs: a mixture bends to these, so that other inputs like them fall elsewhere.
        """
        counts = self.kept[0].labelled.sum(1).cpu() if self.kept else torch.empty(0, dtype=torch.long)
        return torch.arange(len(counts)).repeat_interleave(counts)

    def check(self, n_fitted: int, n_classes: int) -> None:
        """Raise ValueError unless a stored state is one that `fit` and `observe` could have left."""
        lists = [self.index, self.prediction, *(kept.points for kept in self.kept)]
        counts = [value for kept in self.kept for value in (kept.predicted, kept.labelled, kept.wrong)]
        within = [(self.index, n_fitted), (self.prediction, n_classes)]
        if (
            len({len(each) for each in lists}) > 1
            or any(bool((value < 0).any()) for value in counts)
            or any(bool(((value < 0) | (value >= bound)).any()) for value, bound in within)
        ):
            raise ValueError("examples: expected as many points as inputs, classes that there are, and counts")

    @property
    def kept(self) -> list[ComponentExamples]:
        """`mixtures` as a list."""
        return list(self.mixtures)  # type: ignore[arg-type]
