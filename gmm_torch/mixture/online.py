"""A mixture that follows moving points, such as the features of a network in training."""

from typing import Any, Self

import torch
from torch import Tensor

from gmm_torch.checks import check_count
from gmm_torch.distributed import is_distributed, sum_of_all
from gmm_torch.errors import NotFittedError
from gmm_torch.mixture.batches import check_points
from gmm_torch.mixture.covariance import CovarianceType
from gmm_torch.mixture.mixture import GaussianMixture
from gmm_torch.mixture.options import EMOptions
from gmm_torch.mixture.stepwise import OnlineEM

__all__ = ["OnlineMixture"]

_BUFFER_BYTES = 2**25  # of the recent points, in each process
_POINTS_PER_PARAMETER = 20


class OnlineMixture:
    """Stepwise EM between refits, and EM on the recent points at a refit; `docs/training.md` explains why.

    `update`, after a training step, makes one step of `OnlineEM` and never waits for the device. `refit`, at a
    validation or the end of an epoch, does wait: EM runs on the recent points, in new coordinates, from the present
    parameters and from a new start, and the better is kept. There are no parameters before the first refit.

    With a process group of torch.distributed, every process gives its own points, in as many calls as the others, and
    all have the same mixture.

    Args:
        n_components: K.
        covariance_type: one whose statistics can be averaged: full, tied, diag, spherical.
        window: number of points to remember; None for 20 K D. For refits, as many of the recent ones as fit into 32 MiB
            are kept.
        every: number of updates whose points make one step of EM; fewer steps mean fewer operations on the device.
        n_iter: largest number of iterations of EM at a refit.
        reg_covar: fraction of each feature's variance, see `EMOptions`.
        seed: of the new starts.

    Raises:
        ValueError: an option out of range.

    Examples:
        >>> online = OnlineMixture(n_components=2)
        >>> for batch in torch.randn(2000, 3, generator=torch.Generator().manual_seed(0)).split(100):
        ...     online.update(batch)
        >>> online.refit().mixture.means.shape
        torch.Size([2, 3])
    """

    def __init__(
        self,
        n_components: int = 10,
        covariance_type: CovarianceType = "full",
        *,
        window: int | None = None,
        every: int = 1,
        n_iter: int = 10,
        reg_covar: float = 1e-2,
        seed: int = 0,
    ) -> None:
        check_count("every", every)
        check_count("window", 1 if window is None else window)
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.window = window
        self.every = every
        self.options: dict[str, Any] = {"max_iter": n_iter, "tol": 0.0, "reg_covar": reg_covar, "seed": seed}
        GaussianMixture(n_components, 1, covariance_type).start_online(**self.options)  # raises for bad options
        self.n_updates = 0
        self._recent: Tensor | None = None  # (capacity, D), a ring
        self._n_seen = 0
        self._pending: list[Tensor] = []
        self._mixture: GaussianMixture | None = None
        self._follower: OnlineEM | None = None

    @property
    def started(self) -> bool:
        """True once there are parameters."""
        return self._mixture is not None

    @property
    def mixture(self) -> GaussianMixture:
        """The current mixture, which the next update changes; does not wait for the device.

        Raises:
            NotFittedError: there was no refit with enough points yet.
        """
        if self._mixture is None:
            raise NotFittedError(
                f"online mixture: expected a refit with at least {self.n_components} points; "
                f"got {self._n_seen} points so far: call update(x), then refit()"
            )
        if self._follower is not None:
            self._mixture.assign(*self._follower.now())
        return self._mixture

    @torch.no_grad()
    def update(self, x: Tensor) -> None:
        """Take in the features of a training step; never waits for the device.

        Args:
            x: (n, D); gradients do not flow through. Rows that are not finite are left out.

        Raises:
            ValueError, TypeError: wrong shape or type.
        """
        x = x.detach()
        self._remember(x)
        self.n_updates += 1
        if self._follower is None:
            return
        self._pending.append(x if self.every == 1 else x.clone())
        if len(self._pending) == self.every:
            self._follower.update(torch.cat(self._pending))
            self._pending = []

    @torch.no_grad()
    def refit(self) -> Self:
        """Fit the recent points by EM, from the present parameters and from a new start; waits for the device.

        Does nothing while all processes together have fewer than 20 recent points per component.
        """
        x = torch.empty(0, 1, device="cpu") if self._recent is None else self._recent[: self._n_seen]
        x = x[torch.isfinite(x).all(1)]
        if sum_of_all(len(x), x.device) < _POINTS_PER_PARAMETER * self.n_components:
            return self
        self._follower = self._fit(x, **self.options)
        self._pending = []
        return self

    @torch.no_grad()
    def finish(self, x: Tensor, max_iter: int, tol: float = 1e-3) -> Self:
        """End with EM on all final points, from the present parameters and from a new start, and keep the better.

        Later updates have no effect before the next refit.

        Args:
            x: (N, D).
            max_iter, tol: see `EMOptions`; a `ConvergenceWarning` if EM has not converged by then.

        Raises:
            ValueError: fewer points than components, or NaN or infinity.
        """
        if not bool(torch.isfinite(x).all()):
            raise ValueError("x: expected finite numbers; got NaN or infinity: drop those rows")
        follower = self._fit(x, **{**self.options, "max_iter": max_iter, "tol": tol})
        self._follower, self._pending = None, []
        self.mixture.adopt(follower.em)
        return self

    @torch.inference_mode(False)  # a validation loop may use it, and inference tensors can't be updated later
    @torch.no_grad()
    def _fit(self, x: Tensor, **options: Any) -> OnlineEM:
        """Fit x twice and assign the better result to the mixture."""
        empty = self._empty(x)
        starts = [empty] if self._mixture is None else [self.mixture, empty]
        sizes = {"window": self._window(x.shape[1]), "n_first": self.n_components, "n_known": 0}
        followers = [mixture.start_online(**sizes, **options).update(x) for mixture in starts]
        # Same points, so the same coordinates: the objectives are comparable.
        best = max(followers, key=lambda follower: float(follower.em.history[-1].max()))
        self._mixture = (self._mixture or empty).assign(*best.result())
        return best

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values with which a later process can take in the next update."""
        return {
            "n_updates": self.n_updates,
            "n_seen": self._n_seen,
            "recent": self._recent,
            "pending": list(self._pending),
            "mixture": None if self._mixture is None else self._mixture.state_dict(),
            "follower": None if self._follower is None else self._follower.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any], device: torch.device | str | None = None) -> None:
        """Continue from the `state_dict` of an `OnlineMixture` with the same options.

        Args:
            state: on any device.
            device: of later points; None for the device of the state.
        """
        self.n_updates, self._n_seen = state["n_updates"], state["n_seen"]
        self._recent = None if state["recent"] is None else state["recent"].clone().to(device)
        self._pending = [x.to(device) for x in state["pending"]]
        self._mixture = self._follower = None
        if state["mixture"] is None or self._recent is None:
            return
        self._mixture = self._empty(self._recent)
        self._mixture.load_state_dict(state["mixture"])
        if state["follower"] is not None:
            em = self._mixture.start_em(EMOptions(**self.options))
            self._follower = OnlineEM(em, window=self._window(self._mixture.n_features))
            self._follower.load_state_dict(state["follower"])

    def _window(self, n_features: int) -> int:
        return self.window or _POINTS_PER_PARAMETER * self.n_components * n_features

    def _empty(self, like: Tensor) -> GaussianMixture:
        sizes = self.n_components, like.shape[1]
        return GaussianMixture(*sizes, self.covariance_type, device=like.device, dtype=_stored(like))

    def _remember(self, x: Tensor) -> None:
        """Write x into the ring of recent points, which the first call makes."""
        check_points(x, None if self._recent is None else self._recent.shape[1])
        if self._recent is None:
            dtype = _stored(x)
            share = -(-self._window(x.shape[1]) // (torch.distributed.get_world_size() if is_distributed() else 1))
            fits = _BUFFER_BYTES // (x.shape[1] * dtype.itemsize)
            self._recent = torch.zeros(max(1, min(share, fits)), x.shape[1], dtype=dtype, device=x.device)
        recent = self._recent
        x = x[-len(recent) :].to(recent.dtype)
        start = self._n_seen % len(recent)
        head = min(len(x), len(recent) - start)
        recent[start : start + head] = x[:head]
        recent[: len(x) - head] = x[head:]
        self._n_seen += len(x)


def _stored(x: Tensor) -> torch.dtype:
    """The type in which a mixture of such points is kept."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32
