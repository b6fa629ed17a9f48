"""Which coordinates make a point improbable: exact shares of a quadratic form."""

from collections.abc import Callable

import torch
from torch import Tensor


def half_gradient(quadratic: Callable[[Tensor], Tensor], deviation: Tensor) -> Tensor:
    """P v for a quadratic form q(v) = v' P v that is only known as a function.

    With it v_i (P v)_i sums to q(v) exactly (Euler's theorem on functions of degree two). Where v is the deviation
    from the mean of a Gaussian with precision P, each share has expectation one, because E[v v'] P is the identity.
    A share is negative where a coordinate lies closer to what the others lead to expect than to the mean. `quadratic`
    maps (N, D) to (N,) row by row; the result (N, D) has no gradient.
    """
    with torch.inference_mode(False), torch.enable_grad():
        v = deviation.detach().clone().requires_grad_()
        (gradient,) = torch.autograd.grad(quadratic(v).sum(), v)
    return gradient.detach() / 2
