"""Conformal test martingales: is a stream still exchangeable with the calibration set?

Each input of the stream gets the smoothed p-value of its rank among the calibration scores *and* the stream before it.
While everything is exchangeable these p-values are independent and uniform, exactly (Vovk, Gammerman, Shafer 2005,
"Algorithmic learning in a random world", chapters 7 and 8). A gambler who starts with 1 and multiplies his capital by
f(p) of each p-value, where f >= 0 has integral 1, has a martingale, so by Ville's inequality

    P(the capital ever reaches c) <= 1 / c,

however long the stream and whenever one looks. P-values that are small, or large, or both, feed some of the bets.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from gmm_torch.checks import check_probability
from gmm_torch.conformal.p_values import comparable

LINEAR = (-1.0, 0.0, 1.0)  # f(p) = 1 + e (p - 1/2): slow and safe, both directions (Vovk et al. 2021)
POWER = (0.25, 0.5, 0.75)  # f(p) = k p^(k - 1): quick when p-values are tiny (Vovk, Gammerman, Shafer 2005)
CHUNK = 256  # inputs at a time: comparisons within a chunk are quadratic, a chunk sorts all before it


class Ranked(NamedTuple):
    """P-values (..., N) float64 of a piece of a stream, and `seen` (..., n + N), all scores so far, ascending."""

    p_value: Tensor
    seen: Tensor


def online_p_values(scores: Tensor, uniform: Tensor, seen: Tensor) -> Ranked:
    """p_t = (#{earlier < s_t} + u_t (1 + #{earlier = s_t})) / (number of earlier ones + 1), for t = 1 ... N.

    Args:
        scores: (..., N), in the order of the stream, higher = more typical; NaN counts as the least typical.
        uniform: (..., N), independent draws from (0, 1].
        seen: (..., n), ascending: the calibration scores, then `Ranked.seen` of the piece before.
    """
    scores = comparable(scores).to(seen.dtype)
    parts = []
    for piece, draws in zip(scores.split(CHUNK, -1), uniform.split(CHUNK, -1), strict=True):
        length = piece.shape[-1]
        below = torch.searchsorted(seen, piece.contiguous())
        equal = torch.searchsorted(seen, piece.contiguous(), right=True) - below
        mine, other = piece[..., :, None], piece[..., None, :]
        below = below + (other < mine).tril(-1).sum(-1)
        equal = equal + (other == mine).tril(-1).sum(-1)
        size = seen.shape[-1] + 1 + torch.arange(length, device=seen.device)
        parts.append((below + draws.double() * (1 + equal)) / size)
        seen = torch.cat([seen, piece], -1).sort(-1).values
    p_value = torch.cat(parts, -1) if parts else uniform.double()
    return Ranked(p_value, seen)


class Capital(NamedTuple):
    """The natural logarithm (...) float64 of a capital, and its shares (..., B), of sum one, in B bets."""

    log_capital: Tensor
    shares: Tensor


class Wager(NamedTuple):
    """The log capital after each p-value of a piece of a stream, (..., N) float64, and the capital where it ends."""

    log_path: Tensor
    capital: Capital


def opening_capital(shape: tuple[int, ...] = (), n_bets: int = len(LINEAR) + len(POWER)) -> Capital:
    """Capital 1, equally divided among all bets."""
    return Capital(torch.zeros(shape, dtype=torch.float64), torch.full((*shape, n_bets), 1 / n_bets).double())


def bet(p_values: Tensor, capital: Capital | None = None, jump: float = 0.01) -> Wager:
    """Capital after each p-value of the simple jumper, a gambler who moves between linear and power bets.

    Vovk, Petej, Nouretdinov, Ahlberg, Carlsson, Gammerman 2021, "Retrain or not retrain: conformal test martingales for
    change-point detection", algorithm 1: before each p-value a share `jump` in (0, 1) of the capital is divided equally
    among all bets, so that the gambler follows a change late in the stream; then each bet's part is multiplied by its
    f(p). The path is on the device of the p-values, the capital on the CPU.

    Args:
        p_values: (..., N), independent and uniform under the hypothesis, as from `online_p_values`.
        capital: where the piece before ended; 1 by default.
    """
    return gamble(payoffs_of(p_values.detach().cpu().double()), capital, jump, p_values.device)


def gamble(
    payoffs: Tensor, capital: Capital | None = None, jump: float = 0.01, device: torch.device | None = None
) -> Wager:
    """Capital of the simple jumper over bets with payoffs (..., N, B), on the CPU, of mean 1 at most; see `bet`."""
    check_probability("jump", jump)
    state = capital or opening_capital(tuple(payoffs.shape[:-2]), payoffs.shape[-1])
    log_capital, shares = state.log_capital.cpu(), state.shares.cpu()
    steps, moved = [log_capital[..., None]], jump / shares.shape[-1]
    for piece in payoffs.split(CHUNK, -2):
        gains = []
        for payoff in piece.unbind(-2):
            shares = ((1 - jump) * shares).add_(moved).mul_(payoff)
            gains.append(shares.sum(-1, keepdim=True))
            shares.div_(gains[-1])
        steps += [torch.cat(gains, -1).log()] if gains else []
    path = torch.cat(steps, -1).cumsum(-1)
    return Wager(path[..., 1:].to(device), Capital(path[..., -1].clone(), shares))


def first_alarm(log_path: Tensor, threshold: float) -> int | None:
    """Index of the first input at which the capital (N,) reached the threshold, or None.

    On clean data there is one with probability at most 1 / threshold.
    """
    check_threshold(threshold)
    reached = (log_path >= math.log(threshold)).nonzero()
    return int(reached[0, 0]) if len(reached) else None


def check_threshold(threshold: float) -> None:
    """Raise unless an alarm threshold is above the capital at the start, 1."""
    if not threshold > 1:
        raise ValueError(
            f"threshold: expected a capital above 1; got {threshold}: the chance of a false alarm is 1 / threshold, "
            "so 100 stands for 1 %"
        )


def payoffs_of(p: Tensor) -> Tensor:
    """f(p) of every bet, (..., N, B)."""
    linear = torch.tensor(LINEAR, dtype=p.dtype)
    power = torch.tensor(POWER, dtype=p.dtype)
    p = p[..., None].clamp(min=1e-300)  # a bet must stay finite; less than f(p) is on the safe side
    return torch.cat([1 + linear * (p - 0.5), power * p ** (power - 1)], -1)
