"""Gaussian mixtures and their EM; start at `mixture.py`."""

from gmm_torch.mixture.mixture import GaussianMixture

__all__ = ["GaussianMixture"]
