"""Options of a fit."""

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, Self

from torch import Tensor

from gmm_torch.checks import check_choice, check_count, check_whole, is_number
from gmm_torch.mixture.init import get_initialisation

__all__ = ["EMOptions"]


@dataclass(frozen=True)
class EMOptions:
    """Options of a fit; names are scikit-learn's where it has them.

    Attributes:
        max_iter: largest number of EM iterations.
        tol: EM stops when the mean log-likelihood changes by less than this in an iteration.
        reg_covar: added to the diagonal of every covariance; at least 1e-10 of the variance.
        reg_mode: "relative": `reg_covar` is a fraction of each feature's variance (of a constant feature: of the
            geometric mean of the others'), and the E-step allows for it, so the objective never falls. "absolute":
            `reg_covar` is a variance and the E-step ignores it, as in scikit-learn; the log-likelihood can then fall by
            the regularisation's effect if a component collapses.
        n_init: number of restarts, run as one batch; the best is kept.
        prior_count: points like the data as a whole that every component has seen before; see `Prior`. The objective
            then includes the prior, divided by the number of points. With weights, a point of the prior has the mean of
            the positive weights.
        weight_concentration: Dirichlet parameter of the weights, >= 1, counted in the same points.
        shrinkage: "oas" shrinks the covariances of `full` and `tied`, the more the fewer points they have, see
            `oracle_approximating_shrinkage`; the objective can then fall.
        init_params: name of an initialisation, see `gmm_torch.mixture.init`.
        weights_init: (K,), initial weights.
        means_init: (K, D), initial means, instead of those of `init_params`.
        precisions_init: initial precisions, in the shape of the family's covariances.
        seed: seed of everything random.
    """

    max_iter: int = 100
    tol: float = 1e-3
    reg_covar: float = 1e-6
    reg_mode: Literal["relative", "absolute"] = "relative"
    prior_count: float = 0.0
    weight_concentration: float = 1.0
    shrinkage: Literal["oas"] | None = None
    n_init: int = 1
    init_params: str = "kmeans"
    weights_init: Tensor | None = None
    means_init: Tensor | None = None
    precisions_init: Tensor | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_count("max_iter", self.max_iter)
        check_count("n_init", self.n_init)
        check_whole("seed", self.seed)
        lowest = {"tol": 0, "reg_covar": 0, "prior_count": 0, "weight_concentration": 1}
        for name, low in lowest.items():
            value = getattr(self, name)
            if not (is_number(value) and value >= low and math.isfinite(value)):
                raise ValueError(f"{name}: expected a finite number >= {low}; got {value!r}")
        check_choice("reg_mode", self.reg_mode, ("relative", "absolute"))
        if self.shrinkage is not None:
            check_choice("shrinkage", self.shrinkage, ("oas",))
        get_initialisation(self.init_params)

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Self:
        """Options from keyword arguments; TypeError for an unknown name, ValueError for a value out of range."""
        names = [each.name for each in fields(cls)]
        for name in options:
            if name not in names:
                close = difflib.get_close_matches(name, names, n=1)
                do = f"write {close[0]}" if close else f"there are {', '.join(names)}"
                raise TypeError(f"{name}: expected an option of the fit; got an unknown one: {do}")
        return cls(**options)
