"""A single Gaussian: everything about it, the probability flow included, has a closed form."""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor

from sdekit.errors import ShapeError
from sdekit.sdes import DiffusionSDE
from sdekit.targets._constants import check_variances, constant, eigen
from sdekit.targets.base import Target, column, levels

__all__ = ["Gaussian"]


@final
class Gaussian(Target):
    """N(m, C), computed along the axes of C: C = Q diag(c) Q^T, V = alpha^2 C + sigma^2 I = Q diag(v) Q^T.

    Args:
        mean: m, of the shape of one sample.
        cov: C over the flattened sample: a number (a variance, for C = cov I), (d,) variances, or a (d, d) matrix.

    Raises:
        ShapeError: if `mean` has no dimension, or `cov` has none of the three shapes.
        ArgumentError: if an entry is not finite, or C is not symmetric and positive definite.
    """

    def __init__(self, mean: Tensor, cov: Tensor | float) -> None:
        mean = constant("mean", mean)
        if mean.ndim == 0:
            raise ShapeError(
                "mean must have at least one dimension (it has the shape of one sample); one number is (1,)."
            )
        super().__init__(mean)
        given = constant("cov", cov)
        d = self.dim
        self._axes: Tensor | None = None
        with torch.inference_mode(False):
            if given.shape in ((), (d,)):
                self._variances = check_variances("cov", given).expand(d).clone()
                self._covariance = torch.diag(self._variances)
            elif given.shape == (d, d):
                self._variances, self._axes = eigen("cov", given)
                self._covariance = given
            else:
                raise ShapeError(
                    f"cov has shape {tuple(given.shape)} beside a mean of {d} coordinates: expected a number, "
                    f"({d},) variances, or a ({d}, {d}) matrix."
                )

    def covariance(self) -> Tensor:
        return self._covariance

    def marginal(self, sde: DiffusionSDE, t: float) -> Gaussian:
        t = sde.check_time("t", t)
        alpha, sigma = float(sde.alpha(t)), float(sde.sigma(t))
        if self._axes is None:
            return Gaussian(alpha * self.mean, alpha**2 * self._variances + sigma**2)
        identity = torch.eye(self.dim, dtype=torch.float64, device=self.mean.device)
        return Gaussian(alpha * self.mean, alpha**2 * self._covariance + sigma**2 * identity)

    def flow_map(self, x: Tensor, t: Tensor | float, s: Tensor | float, sde: DiffusionSDE) -> Tensor:
        """Where the probability flow that passes x, of shape (B, *shape), at time t is at time s: shape and dtype of x.

            alpha_s m + V_s^{1/2} V_t^{-1/2} (x - alpha_t m)

        t and s are numbers or (B,), in either order; sigma may be 0 at either.
        """
        here = self._on(x.device)
        flat = self._flatten(x)
        (alpha_t, sigma_t), (alpha_s, sigma_s) = (
            (column("alpha", alpha, flat), column("sigma", sigma, flat))
            for alpha, sigma in (levels(t, sde), levels(s, sde))
        )
        stretch = (here._v(alpha_s, sigma_s) / here._v(alpha_t, sigma_t)).sqrt()
        image = alpha_s * here.mean.flatten() + here._from_axes(stretch * here._to_axes(flat, alpha_t))
        return image.to(x.dtype).reshape(x.shape)

    def _v(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """The variances of p_t along the axes: (1, d) or (B, d)."""
        return alpha.square() * self._variances + sigma.square()

    def _to_axes(self, x: Tensor, alpha: Tensor) -> Tensor:
        """Q^T (x - alpha m)."""
        centred = x - alpha * self.mean.flatten()
        return centred if self._axes is None else centred @ self._axes

    def _from_axes(self, y: Tensor) -> Tensor:
        """Q y."""
        return y if self._axes is None else y @ self._axes.T

    def _sample(self, n: int, generator: torch.Generator | None) -> Tensor:
        z = torch.randn(n, self.dim, generator=generator, dtype=torch.float64, device=self.mean.device)
        return self.mean.flatten() + self._from_axes(self._variances.sqrt() * z)

    def _log_prob(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        v = self._v(alpha, sigma)
        return -0.5 * (self._to_axes(x, alpha).square() / v + torch.log(2 * math.pi * v)).sum(1)

    def _denoised_and_score(
        self, x: Tensor, alpha: Tensor, sigma: Tensor, precision: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        whitened = self._to_axes(x, alpha) / self._v(alpha, sigma)
        denoised = self.mean.flatten() + self._from_axes(alpha * self._variances * whitened)
        return denoised, -self._from_axes(whitened)

    def _jacobian(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        slopes = (alpha * self._variances / self._v(alpha, sigma)).expand(x.shape)
        if self._axes is None:
            return torch.diag_embed(slopes)
        return (self._axes * slopes[:, None, :]) @ self._axes.T

    def _divergence(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return (alpha * self._variances / self._v(alpha, sigma)).sum(1).expand(x.shape[0])

    @property
    def _width(self) -> int:
        return self.dim

    @property
    def _jacobian_width(self) -> int:
        return self.dim**2

    def __repr__(self) -> str:
        return f"Gaussian(shape={self.shape}, cov={'diagonal' if self._axes is None else 'full'})"
