"""The density ratio of two samples by logistic regression, a second opinion beside that of two mixtures."""

from collections.abc import Callable

import torch
from torch import Tensor

RIDGE = 1e-2  # on standardised terms, against a mean loss of each sample
MAX_STEPS, TOLERANCE = 50, 1e-9
REACH = 4.0  # standard deviations beyond which a coordinate says no more


def logistic_log_ratio(reference: Tensor, deployment: Tensor) -> Callable[[Tensor], Tensor]:
    """log q(t) / p(t) as the logit of a classifier that tells two samples apart, both counted alike.

    Bickel, Brueckner, Scheffer 2007, "Discriminative learning for differing training and test distributions". The terms
    are the coordinates, bounded smoothly, and their products in pairs, so that two Gaussians are within its reach.

    Args:
        reference, deployment: (n, S) and (m, S) float64, drawn from p and q, standardised alike.

    Returns:
        from points (N, S) to (N,).
    """
    n, m = len(reference), len(deployment)
    terms = _terms(torch.cat([reference, deployment]))
    target = torch.cat([reference.new_zeros(n), reference.new_ones(m)])
    share = torch.cat([reference.new_full((n,), 0.5 / n), reference.new_full((m,), 0.5 / m)])
    ridge = torch.full_like(terms[0], RIDGE)
    ridge[0] = 0
    coefficients = torch.zeros_like(terms[0])
    loss = _loss(terms, target, share, ridge, coefficients)
    for _ in range(MAX_STEPS):
        probability = (terms @ coefficients).sigmoid()
        gradient = terms.mT @ (share * (probability - target)) + ridge * coefficients
        curvature = (terms * (share * probability * (1 - probability))[:, None]).mT @ terms
        curvature = curvature + (ridge + 1e-12).diag()
        step = torch.linalg.solve_ex(curvature, gradient).result
        factor = 1.0
        while factor > TOLERANCE:  # a step that is too long is halved: the loss never rises
            new = _loss(terms, target, share, ridge, coefficients - factor * step)
            if bool(new <= loss):
                break
            factor /= 2
        else:
            break
        coefficients = coefficients - factor * step
        if bool(loss - new <= TOLERANCE * loss):
            break
        loss = new
    return lambda points: _terms(points) @ coefficients


def _terms(points: Tensor) -> Tensor:
    """(N, 1 + S + S (S + 1) / 2): one, the bounded coordinates, their products."""
    bounded = REACH * (points / REACH).tanh()
    i, j = torch.triu_indices(points.shape[1], points.shape[1], device=points.device)
    return torch.cat([torch.ones_like(bounded[:, :1]), bounded, bounded[:, i] * bounded[:, j]], dim=1)


def _loss(terms: Tensor, target: Tensor, share: Tensor, ridge: Tensor, coefficients: Tensor) -> Tensor:
    logits = terms @ coefficients
    entropy = torch.nn.functional.softplus(logits) - target * logits
    return (share * entropy).sum() + (ridge * coefficients.square()).sum() / 2
