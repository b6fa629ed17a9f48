"""The density of a classifier's features as a term of its loss."""

import math
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gmm_torch.checks import check_choice
from gmm_torch.devices import full_precision
from gmm_torch.features.hook import FeatureHook
from gmm_torch.mixture import GaussianMixture
from gmm_torch.mixture.linear_algebra import log_normal
from gmm_torch.mixture.online import OnlineMixture

Mode = Literal["online", "gradient", "implicit"]
MODES = get_args(Mode)
IMPLICIT_TOL = 1e-4  # of EM and of the linear system: the gradient is one of a batch, and no better than that


class LikelihoodTerm(nn.Module):
    """-weight * mean log p(z) / D, where z are the penultimate features of the training step that has just run.

    Lest features shrink to a point, each is standardised by the mean and deviation of its batch, with their gradients,
    and noise of variance `reg_covar` is added: see `docs/training.md`. The term is zero before the first `renew`, at
    the end of an epoch: there is no mixture yet.

    Args:
        weight: lambda >= 0.
        mode: where the mixture comes from.

            - "online": from stepwise EM on the training steps' features (`OnlineMixture`); the gradient reaches the
              classifier alone.
            - "gradient": the same until the first renewal; from then on its parameters follow the gradient of the loss,
              by the classifier's optimizer.
            - "implicit": it is EM's fixed point on one half of the batch, and the density is that of the other half;
              the gradient goes through the fixed point too (`GaussianMixture.implicit_fit`). The fixed point is sought
              from the online mixture, which also stands in where half of a batch has fewer points than two a component.
        n_components, covariance_type, window, seed: see `OnlineMixture`.
        reg_covar: variance of the noise and of the regularisation, of a standardised feature's.

    Raises:
        ValueError: an option out of range.
    """

    def __init__(
        self,
        weight: float,
        mode: Mode = "online",
        *,
        n_components: int = 10,
        covariance_type: str = "diag",
        window: int | None = None,
        reg_covar: float = 1e-2,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not (weight >= 0 and math.isfinite(weight)):
            raise ValueError(f"weight: expected a finite number >= 0; got {weight}")
        check_choice("mode", mode, MODES)
        self.weight = weight
        self.mode = mode
        self.reg_covar = reg_covar
        self.online = OnlineMixture(n_components, covariance_type, window=window, reg_covar=reg_covar, seed=seed)
        self.trained: GaussianMixture | None = None
        self.hook: FeatureHook | None = None

    def prepare(self, classifier: nn.Module) -> None:
        """Make the parameters that an optimizer moves, where there are such, before it is made.

        Raises:
            ValueError: the classifier has no linear layer.
        """
        heads = [module for module in classifier.modules() if isinstance(module, nn.Linear)]
        if not heads:
            raise ValueError(
                "likelihood: expected a classifier with a linear layer, whose input are the features; got none: choose "
                "another training"
            )
        if self.mode == "gradient":
            online = self.online
            mixture = GaussianMixture(online.n_components, heads[-1].in_features, online.covariance_type)
            self.trained = mixture.requires_grad_()

    def listen(self, classifier: nn.Module) -> None:
        """Catch the features of the classifier from now on."""
        self.hook = FeatureHook(classifier)

    def stop(self) -> None:
        """Take the hooks off."""
        if self.hook is not None:
            self.hook.remove()
            self.hook = None

    def renew(self) -> None:
        """End an epoch: see `OnlineMixture.refit`."""
        started = self.online.started
        self.online.refit()
        if self.trained is not None and self.online.started and not started:
            mixture = self.online.mixture
            self.trained.assign(mixture.parameters_about_location(), mixture.location)

    def forward(self) -> Tensor:
        """The term, (), for the forward pass that has just run.

        Raises:
            RuntimeError: there was none.
            SolverError: with "implicit", EM does not settle on the batch.
        """
        if self.hook is None:
            raise RuntimeError("likelihood: expected listen(classifier) before the first forward pass")
        z = self.hook.take().features
        with full_precision(z.device):
            z = F.batch_norm(z.float(), None, None, training=True)
            z = z + self.reg_covar**0.5 * torch.randn_like(z)
            self.online.update(z)
            if not self.online.started:
                # Parameters that take no part in a loss are an error in a distributed training.
                return z.new_zeros(()) + 0 * sum(parameter.sum() for parameter in self.parameters())
            if self.mode == "implicit":
                log_prob = self._implicit(z)
            else:
                log_prob = (self.online.mixture if self.trained is None else self.trained).log_prob(z)
            return -self.weight * log_prob.mean() / z.shape[1]

    def _implicit(self, z: Tensor) -> Tensor:
        fitting, others = z.tensor_split(2)
        mixture = self.online.mixture
        if len(fitting) < 2 * mixture.n_components:
            return mixture.log_prob(z)
        found = mixture.implicit_fit(fitting, reg_covar=self.reg_covar, tol=IMPLICIT_TOL)
        factors = mixture.family.from_covariances(found.covariances)
        distance = mixture.family.squared_distance(others.double(), found.means, factors)
        log_det = mixture.family.log_det(factors, z.shape[1])
        return (found.weights.log() + log_normal(distance, log_det, z.shape[1])).logsumexp(-1)
