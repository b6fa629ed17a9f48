"""Parameters of a mixture as a value."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Parameters", "where"]


@dataclass(frozen=True)
class Parameters:
    """Parameters of one mixture, or of a batch of mixtures along leading dimensions."""

    log_weights: Tensor  # (..., K)
    means: Tensor  # (..., K, D)
    factors: dict[str, Tensor]  # of the covariance family, by name

    def map(self, function: Callable[[Tensor], Tensor]) -> "Parameters":
        """The same parameters with `function` applied to each tensor."""
        factors = {name: function(value) for name, value in self.factors.items()}
        return Parameters(function(self.log_weights), function(self.means), factors)

    def where(self, condition: Tensor, other: "Parameters") -> "Parameters":
        """These parameters where `condition` (a tensor over the leading dimensions) holds, `other`'s elsewhere."""
        factors = {name: where(condition, value, other.factors[name]) for name, value in self.factors.items()}
        log_weights = where(condition, self.log_weights, other.log_weights)
        means = where(condition, self.means, other.means)
        return Parameters(log_weights, means, factors)

    def state_dict(self) -> dict[str, Tensor]:
        """A flat mapping of names to tensors; `from_state_dict` reads it back."""
        return {"log_weights": self.log_weights, "means": self.means} | {
            f"factors.{name}": value for name, value in self.factors.items()
        }

    @classmethod
    def from_state_dict(cls, state: dict[str, Tensor]) -> "Parameters":
        """The inverse of `state_dict`."""
        factors = {key.removeprefix("factors."): value for key, value in state.items() if key.startswith("factors.")}
        return cls(state["log_weights"], state["means"], factors)


def where(condition: Tensor, value: Tensor, other: Tensor) -> Tensor:
    """`value` where a condition on the leading dimensions of `other` holds, `other` elsewhere."""
    return torch.where(condition.reshape(condition.shape + (1,) * (other.dim() - condition.dim())), value, other)
