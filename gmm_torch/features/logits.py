"""Logits, out of whatever a classifier returns."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor


def logits_of(output: Any) -> Tensor:
    """Logits (N, C): the output itself, or what it calls `logits`, as an entry or an attribute.

    Raises:
        ValueError: no such tensor, or one of fewer than two classes.
    """
    logits = output
    if isinstance(output, Mapping):
        logits = output.get("logits", output)
    elif not isinstance(output, Tensor):
        logits = getattr(output, "logits", output)
    if isinstance(logits, Tensor) and (logits.dim() == 1 or (logits.dim() == 2 and logits.shape[1] == 1)):
        raise ValueError(
            f"classifier: expected logits of shape (N, C), C >= 2; got {tuple(logits.shape)}, whose largest is "
            "always class 0: for two classes return torch.stack([torch.zeros_like(z), z], dim=-1), z the logit (N,)"
        )
    if not isinstance(logits, Tensor) or logits.dim() != 2 or not logits.is_floating_point():
        got = f"{tuple(logits.shape)} of {logits.dtype}" if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(
            f"classifier: expected logits of shape (N, C), or something that has them as `logits`; got {got}: wrap it "
            "so that it gives them"
        )
    return logits
