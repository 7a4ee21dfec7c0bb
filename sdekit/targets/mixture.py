"""Mixtures of Gaussians: closed form under every linear SDE."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from sdekit.errors import ArgumentError, ShapeError
from sdekit.sdes import DiffusionSDE
from sdekit.targets._components import Components, FullComponents, IsotropicComponents, SharedComponents
from sdekit.targets._constants import check_variances, constant, eigen
from sdekit.targets.base import Target

__all__ = ["GaussianMixture"]


@final
class GaussianMixture(Target):
    """sum_k w_k N(m_k, C_k).

    Args:
        weights: w, (K,), 0 or more, summing to 1; None for equal weights.
        means: m, (K, *shape), shape that of one sample, with d coordinates.
        covs: C: a number (a variance; every C_k = covs I), (K,) (C_k = covs[k] I), one (d, d) matrix for all, or
            (K, d, d). Matrices are over the flattened sample; for variances (d,) give torch.diag(variances).

    One evaluation costs O(K d) a sample with the first three, O(K d^2) with a matrix for each.

    Raises:
        ShapeError: if the shapes do not fit each other.
        ArgumentError: if an entry is not finite, a weight is below 0, the weights do not sum to 1 (within 1e-5, the
            rounding of float32), or a covariance is not symmetric and positive definite.
    """

    def __init__(self, weights: Tensor | None, means: Tensor, covs: Tensor | float) -> None:
        means = constant("means", means)
        if means.ndim < 2:
            raise ShapeError(f"means must have shape (K, *shape of one sample), got {tuple(means.shape)}.")
        count = means.shape[0]
        with torch.inference_mode(False):
            self._weights = _check_weights(weights, count)
            self._covs = constant("covs", covs)
            self._components = _components(self._weights.log(), means.flatten(1), self._covs)
            super().__init__(torch.tensordot(self._weights, means, 1))

    @property
    def weights(self) -> Tensor:
        """w: (K,), float64."""
        return self._weights

    @property
    def means(self) -> Tensor:
        """m: (K, *shape), float64."""
        return self._components.means.reshape(-1, *self.shape)

    def covariance(self) -> Tensor:
        offsets = self._components.means - self.mean.flatten()
        return self._components.covariance_within() + (self._weights[:, None] * offsets).T @ offsets

    def marginal(self, sde: DiffusionSDE, t: float) -> GaussianMixture:
        t = sde.check_time("t", t)
        alpha, sigma = float(sde.alpha(t)), float(sde.sigma(t))
        covs = alpha**2 * self._covs
        if covs.ndim < 2:
            covs = covs + sigma**2
        else:
            covs = covs + sigma**2 * torch.eye(self.dim, dtype=torch.float64, device=covs.device)
        return GaussianMixture(self._weights, alpha * self.means, covs)

    def _sample(self, n: int, generator: torch.Generator | None) -> Tensor:
        component = torch.multinomial(self._weights, n, replacement=True, generator=generator)
        z = torch.randn(n, self.dim, generator=generator, dtype=torch.float64, device=self.mean.device)
        return self._components.means[component] + self._components.spread(z, component)

    def _log_prob(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return self._components.log_prob(x, alpha, sigma)

    def _denoised_and_score(
        self, x: Tensor, alpha: Tensor, sigma: Tensor, precision: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        return self._components.denoised_and_score(x, alpha, sigma, precision)

    def _jacobian(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return self._components.jacobian(x, alpha, sigma)

    def _divergence(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return self._components.divergence(x, alpha, sigma)

    @property
    def _width(self) -> int:
        return self._components.width

    @property
    def _jacobian_width(self) -> int:
        return self._components.jacobian_width

    def __repr__(self) -> str:
        return f"GaussianMixture(components={self._components.count}, shape={self.shape})"


def _check_weights(weights: Tensor | None, count: int) -> Tensor:
    if weights is None:
        return torch.full((count,), 1 / count, dtype=torch.float64)
    weights = constant("weights", weights)
    if weights.shape != (count,):
        raise ShapeError(f"weights has shape {tuple(weights.shape)} beside {count} means: expected ({count},).")
    if bool((weights < 0).any()):
        raise ArgumentError(f"weights must be 0 or more; the least given is {float(weights.min())!r}.")
    total = float(weights.sum())
    if abs(total - 1) > 1e-5:
        raise ArgumentError(f"weights must sum to 1, got {total!r}; divide them by their sum.")
    return weights / total


def _components(log_weights: Tensor, means: Tensor, covs: Tensor) -> Components:
    """The components for whichever of the four shapes `covs` has."""
    count, d = means.shape
    if covs.ndim == 0:
        return SharedComponents(log_weights, means, check_variances("covs", covs).reshape(1), None)
    if covs.shape == (count,):
        return IsotropicComponents(log_weights, means, check_variances("covs", covs))
    if covs.shape == (d, d):
        return SharedComponents(log_weights, means, *eigen("covs", covs))
    if covs.shape == (count, d, d):
        return FullComponents(log_weights, means, *eigen("covs", covs))
    raise ShapeError(
        f"covs has shape {tuple(covs.shape)} beside {count} means of {d} coordinates: expected a number, ({count},) "
        f"isotropic variances, one ({d}, {d}) matrix for all, or ({count}, {d}, {d}). For variances ({d},) shared by "
        "all components give torch.diag(variances)."
    )
