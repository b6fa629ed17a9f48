"""Peers of the failure detector that no package carries, on tensors.

- `MixtureOfScores`: Guille-Escuret et al. 2023, "Expecting the unexpected: towards broad out-of-distribution detection"
  (arXiv:2308.11480): a Gaussian mixture over the scores of several detectors.
- `JointLayers`: Raghuram et al. 2021, "A general framework for detecting anomalous inputs to DNN classifiers"
  (arXiv:2007.15147, JTLA): at each layer, how unusual the labels among the nearest fitting inputs are for the predicted
  class; one p-value a layer and a pair of layers, combined by Fisher's method.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations

import torch
from sklearn.mixture import GaussianMixture
from torch import Tensor
from torch.nn.functional import normalize, one_hot

# Detectors of one kind each: certainty, rectified activations, residual space, distance, neighbours.
MIXED = ("MaxSoftmax", "EnergyBased", "ReAct", "ViM", "RMD", "KNN", "KLMatching")
NEIGHBOUR_EXPONENT = 0.4  # of the number of fitting inputs: JTLA's default number of neighbours
CHUNK = 1000


class MixtureOfScores:
    """Log-likelihood of a few detectors' scores in a mixture that was fitted to those of clean inputs.

    Args:
        clean: (N, J) scores of inputs that the classifier was not trained on.
        n_components: of the mixture.
        seed: of its start.
    """

    def __init__(self, clean: Tensor, n_components: int = 10, seed: int = 0) -> None:
        wide = clean.double()
        self.location, self.scale = wide.mean(0), wide.std(0).clamp_min(1e-12)
        self.mixture = GaussianMixture(n_components, reg_covar=1e-4, random_state=seed).fit(self._units(wide))

    def _units(self, scores: Tensor) -> Tensor:
        return ((scores.double() - self.location) / self.scale).numpy()

    def __call__(self, scores: Tensor) -> Tensor:
        """(N, J) to (N,), higher = more typical."""
        return torch.from_numpy(self.mixture.score_samples(self._units(scores)))


class JointLayers:
    """JTLA with the multinomial statistic, class-conditional for the predicted class, and Fisher's method.

    The statistic of a layer is the log-likelihood ratio sum_c k_c log(k_c / (k q_c)): k_c of the k nearest fitting
    inputs have label c, and q is the distribution of such labels among fitting inputs of the predicted class. P-values
    are ranks among fitting inputs that are predicted the same, each without itself among its neighbours. Distances are
    those of unit-norm features, as theirs.

    Args:
        features: layer -> (N, D), of fitting inputs.
        labels: (N,) int64.
        predictions: (N,) int64.
        n_classes: C.
    """

    def __init__(self, features: Mapping[str, Tensor], labels: Tensor, predictions: Tensor, n_classes: int) -> None:
        self.features = {layer: normalize(value.float(), dim=1) for layer, value in features.items()}
        self.labels = one_hot(labels, n_classes).float()
        self.k = max(1, round(len(labels) ** NEIGHBOUR_EXPONENT))
        self.n_classes = n_classes
        self.expected: dict[str, Tensor] = {}
        counts = self._counts(features, skip=1)
        for layer, count in counts.items():
            # Laplace's rule: no label is impossible in a class
            total = torch.stack([count[predictions == c].sum(0) for c in range(n_classes)]) + 1
            self.expected[layer] = total / total.sum(1, keepdim=True)
        statistics = self._statistics(counts, predictions)
        self.reference = {
            name: [value[predictions == c].sort().values for c in range(n_classes)]
            for name, value in statistics.items()
        }

    def _counts(self, features: Mapping[str, Tensor], skip: int = 0) -> dict[str, Tensor]:
        """Labels of the neighbours, (N, C) a layer; `skip` of the nearest are left out."""
        found = {}
        for layer, fitted in self.features.items():
            parts = []
            for points in normalize(features[layer].float(), dim=1).split(CHUNK):
                nearest = (points @ fitted.mT).topk(self.k + skip, dim=1).indices[:, skip:]
                parts.append(self.labels[nearest].sum(1))
            found[layer] = torch.cat(parts)
        return found

    def _statistics(self, counts: Mapping[str, Tensor], predictions: Tensor) -> dict[str, Tensor]:
        """Of the layers, and of pairs of them: the sum of the two, which their joint counts would be if independent."""
        single = {
            layer: torch.xlogy(count, count / (self.k * self.expected[layer][predictions])).sum(1)
            for layer, count in counts.items()
        }
        pairs = {f"{a} {b}": single[a] + single[b] for a, b in combinations(single, 2)}
        return single | pairs

    def __call__(self, features: Mapping[str, Tensor], predictions: Tensor) -> Tensor:
        """(N,), higher = more typical: the sum of the log p-values."""
        statistics = self._statistics(self._counts(features), predictions)
        log_p = torch.zeros(len(predictions), dtype=torch.float64)
        for name, value in statistics.items():
            for c in range(self.n_classes):
                rows = predictions == c
                reference = self.reference[name][c]
                above = len(reference) - torch.searchsorted(reference, value[rows].contiguous())
                log_p[rows] += ((1 + above) / (len(reference) + 1)).double().log()
        # Within the smallest p-value inputs stay in the order of the statistic.
        return log_p - 1e-6 * torch.stack(list(statistics.values())).double().sum(0)


def together(scores: Mapping[str, Mapping[str, Tensor]], names: Sequence[str]) -> dict[str, Tensor]:
    """The scores (N, J) of some detectors, from detector -> column -> (N,) to column -> (N, J)."""
    columns = scores[names[0]]
    return {column: torch.stack([scores[name][column] for name in names], dim=1) for column in columns}
