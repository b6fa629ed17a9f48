"""Classifiers that give probabilities where logits are expected.

The logits of a prediction that is sure can't be had again from its softmax, which is rounded to zeros and ones, and a
sigmoid speaks of one class alone. Logarithms of probabilities, as `log_softmax` gives them, are logits and as good.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from gmm_torch.features.hooks import of_this_thread

UNIT = 1e-2  # by which probabilities in half precision may miss a sum of one


@contextmanager
def watched(classifier: nn.Module) -> Iterator[Callable[[Tensor], None]]:
    """While a classifier runs: a check that raises where its output (N, C), N >= 1, holds probabilities.

    They are known by their values, or as what a sigmoid or softmax layer gave.

    Raises, from the check:
        ValueError: the output holds probabilities.
    """
    squashed: list[Tensor] = []

    def note(module: nn.Module, args: object, output: Tensor) -> None:
        if output.dim() == 2:  # maps are large, and no logits
            squashed.append(output)

    hooks = [
        module.register_forward_hook(of_this_thread(note))
        for module in classifier.modules()
        if isinstance(module, nn.Sigmoid | nn.Softmax)
    ]

    def check(output: Tensor) -> None:
        row = output.detach().float()
        is_softmax = len(row) > 0 and bool(((row >= 0).all(-1) & ((row.sum(-1) - 1).abs() < UNIT)).all())
        if is_softmax or any(each is output or torch.equal(each, output) for each in squashed):
            raise ValueError(
                "classifier: expected logits; got probabilities: leave its last softmax out, or give log_softmax. A "
                "network that ends in a sigmoid speaks of several labels, or of one class, and a verdict is about the "
                "one class that is right: give a logit for each"
            )

    try:
        yield check
    finally:
        for hook in hooks:
            hook.remove()
