r"""The components of a Gaussian mixture under noise, one class per kind of covariance.

With v_k the variances of component k of p_t along its axes (see the package's docstring), each class gives

    log p_t = log sum_k w_k N(x; alpha m_k, V_k),     s = sum_k r_k s_k,     D = sum_k r_k D_k,
    dD/dx   = alpha sum_k r_k C_k V_k^{-1} + (sigma^2/alpha) Cov_r[s_k],      s_k = -V_k^{-1} (x - alpha m_k),

with r = softmax of the logits log(w_k N(x; alpha m_k, V_k)). x is (B, d), alpha and sigma (1, 1) or (B, 1), float64.
"""

from __future__ import annotations

import abc
import math
from typing import final

import torch
from torch import Tensor

from sdekit.targets._constants import Movable

__all__ = ["Components", "FullComponents", "IsotropicComponents", "SharedComponents"]

_LOG_2PI = math.log(2 * math.pi)
_SINGLE_FROM = 4096  # numbers in the means: with fewer, weights in float32 lose more digits than they save time


class Components(Movable, abc.ABC):
    """K Gaussians in d dimensions with the logarithms of their weights; shapes as in `Target`'s hooks."""

    log_weights: Tensor
    """(K,)."""
    means: Tensor
    """(K, d)."""

    def __init__(self, log_weights: Tensor, means: Tensor) -> None:
        self.log_weights, self.means = log_weights, means

    @property
    def count(self) -> int:
        return self.means.shape[0]

    @property
    def dim(self) -> int:
        return self.means.shape[1]

    @property
    @abc.abstractmethod
    def width(self) -> int:
        """Elements of the largest temporary that one sample needs."""

    @property
    @abc.abstractmethod
    def jacobian_width(self) -> int:
        """Elements of the largest temporary that the Jacobian at one sample needs."""

    @abc.abstractmethod
    def covariance_within(self) -> Tensor:
        """sum_k w_k C_k: (d, d)."""

    @abc.abstractmethod
    def spread(self, z: Tensor, component: Tensor) -> Tensor:
        """Standard normal z, (n, d), given the covariance of the component (n,) of each: (n, d)."""

    @abc.abstractmethod
    def log_prob(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor: ...

    @abc.abstractmethod
    def denoised_and_score(
        self, x: Tensor, alpha: Tensor, sigma: Tensor, precision: torch.dtype
    ) -> tuple[Tensor, Tensor]: ...

    @abc.abstractmethod
    def jacobian(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor: ...

    @abc.abstractmethod
    def divergence(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor: ...


def _covariance_under(r: Tensor, a: Tensor) -> Tensor:
    """Cov_r[a_k] for weights r (B, K) and vectors a (B, K, d), centred before it is squared: (B, d, d)."""
    centred = a - (r[:, None, :] @ a)
    return (r[:, :, None] * centred).mT @ centred


@final
class SharedComponents(Components):
    """One covariance C = Q diag(c) Q^T for all components: `variances` c is (1,) (isotropic, Q = I) or (d,).

    Along the axes (tilde: rotated by Q^T), |x~|^2 is common to all components and cancels in r:

        logits = log w_k + alpha (x~/v) . m~_k - alpha^2/2 sum_i m~_ki^2/v_i      (one or two matrix products)
        D~ = (sigma^2 M + alpha c x~)/v,    s~ = (alpha M - x~)/v,    M = sum_k r_k m~_k
    """

    def __init__(self, log_weights: Tensor, means: Tensor, variances: Tensor, axes: Tensor | None) -> None:
        super().__init__(log_weights, means)
        self.variances, self.axes = variances, axes
        self.rotated = means if axes is None else means @ axes
        self.rotated_single = self.rotated.to(torch.float32)
        squares = self.rotated.square()
        self.squares = squares.sum(1, keepdim=True) if variances.numel() == 1 else squares

    @property
    def width(self) -> int:
        return max(self.count, self.dim)

    @property
    def jacobian_width(self) -> int:
        return self.count * self.dim

    def covariance_within(self) -> Tensor:
        c = self.variances.expand(self.dim)
        return torch.diag(c) if self.axes is None else (self.axes * c) @ self.axes.T

    def spread(self, z: Tensor, component: Tensor) -> Tensor:
        return self._back(self.variances.sqrt() * z)

    def _back(self, y: Tensor) -> Tensor:
        return y if self.axes is None else y @ self.axes.T

    def _logits(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x~ (B, d), v (1 or B, 1 or d) and the logits (B, K) without their common part."""
        rotated = x if self.axes is None else x @ self.axes
        v = alpha.square() * self.variances + sigma.square()
        bias = torch.addmm(self.log_weights, -0.5 * alpha.square() / v, self.squares.T)
        return rotated, v, torch.addmm(bias, alpha * rotated / v, self.rotated.T)

    def log_prob(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        rotated, v, logits = self._logits(x, alpha, sigma)
        common = (rotated.square() / v).sum(1) + self.dim * (torch.log(v).mean(1) + _LOG_2PI)
        return torch.logsumexp(logits, 1) - 0.5 * common

    def denoised_and_score(
        self, x: Tensor, alpha: Tensor, sigma: Tensor, precision: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        rotated, v, logits = self._logits(x, alpha, sigma)
        if precision == torch.float64 or self.means.numel() < _SINGLE_FROM:
            mean = torch.softmax(logits, 1) @ self.rotated
        else:
            # Only the differences of the logits need float64: taken from the largest and then rounded they are good to
            # 1e-7, while with logits computed in float32 the score of the digits errs by up to 2e-3.
            nearest = logits.detach().amax(1, keepdim=True)
            mean = (torch.softmax((logits - nearest).to(torch.float32), 1) @ self.rotated_single).to(torch.float64)
        denoised = (sigma.square() * mean + alpha * self.variances * rotated) / v
        return self._back(denoised), self._back((alpha * mean - rotated) / v)

    def jacobian(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        _, v, logits = self._logits(x, alpha, sigma)
        r = torch.softmax(logits, 1)
        within = torch.diag_embed((alpha * self.variances / v).expand(x.shape))
        along_axes = within + (alpha * sigma.square())[:, :, None] * _covariance_under(r, self.rotated / v[:, None, :])
        return along_axes if self.axes is None else self.axes @ along_axes @ self.axes.T

    def divergence(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        _, v, logits = self._logits(x, alpha, sigma)
        r = torch.softmax(logits, 1)
        mean = r @ self.rotated
        if self.squares.shape[1] == 1:
            mean_squared = mean.square().sum(1, keepdim=True)
        else:
            mean_squared = mean.square()
        between = (r @ self.squares - mean_squared) / v.square()
        within = self.dim * (self.variances / v).mean(1)
        return alpha[:, 0] * (within + sigma[:, 0].square() * between.sum(1))


@final
class IsotropicComponents(Components):
    """Component k has the covariance c_k I, `variances` (K,); v_k = alpha^2 c_k + sigma^2 and q_k = r_k/v_k.

    logits = log w_k - |x - alpha m_k|^2/(2 v_k) - d/2 log v_k
    D = sigma^2 sum_k q_k m_k + alpha x sum_k q_k c_k,    s = alpha sum_k q_k m_k - x sum_k q_k
    """

    def __init__(self, log_weights: Tensor, means: Tensor, variances: Tensor) -> None:
        super().__init__(log_weights, means)
        self.variances = variances
        self.squares = means.square().sum(1)

    @property
    def width(self) -> int:
        return max(self.count, self.dim)

    @property
    def jacobian_width(self) -> int:
        return self.count * self.dim

    def covariance_within(self) -> Tensor:
        c = (self.log_weights.exp() * self.variances).sum()
        return torch.diag(c.expand(self.dim))

    def spread(self, z: Tensor, component: Tensor) -> Tensor:
        return self.variances[component, None].sqrt() * z

    def _logits(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """v (1 or B, K), |x - alpha m_k|^2 (B, K) and the logits (B, K) without -d/2 log(2 pi)."""
        v = alpha.square() * self.variances + sigma.square()
        beyond_x = torch.addmm(alpha.square() * self.squares, -2 * alpha * x, self.means.T)
        distance = x.square().sum(1, keepdim=True) + beyond_x
        return v, distance, self.log_weights - 0.5 * (distance / v + self.dim * torch.log(v))

    def log_prob(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        _, _, logits = self._logits(x, alpha, sigma)
        return torch.logsumexp(logits, 1) - 0.5 * self.dim * _LOG_2PI

    def denoised_and_score(
        self, x: Tensor, alpha: Tensor, sigma: Tensor, precision: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        v, _, logits = self._logits(x, alpha, sigma)
        q = torch.softmax(logits, 1) / v
        mean = q @ self.means
        denoised = sigma.square() * mean + alpha * x * (q @ self.variances)[:, None]
        return denoised, alpha * mean - x * q.sum(1, keepdim=True)

    def jacobian(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        v, _, logits = self._logits(x, alpha, sigma)
        r = torch.softmax(logits, 1)
        scores = (alpha[:, :, None] * self.means - x[:, None, :]) / v[:, :, None]
        within = torch.diag_embed((alpha * ((r / v) @ self.variances)[:, None]).expand(x.shape))
        return within + (sigma.square() / alpha)[:, :, None] * _covariance_under(r, scores)

    def divergence(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        v, distance, logits = self._logits(x, alpha, sigma)
        r = torch.softmax(logits, 1)
        q = r / v
        score = alpha * (q @ self.means) - x * q.sum(1, keepdim=True)
        between = (r * distance / v.square()).sum(1) - score.square().sum(1)
        within = self.dim * (q @ self.variances)
        return alpha[:, 0] * within + sigma[:, 0].square() / alpha[:, 0] * between


@final
class FullComponents(Components):
    """Component k has the covariance Q_k diag(c_k) Q_k^T: `variances` (K, d), `axes` (K, d, d), decomposed once.

    y_k = Q_k^T (x - alpha m_k),    logits = log w_k - 1/2 sum_i (y_ki^2/v_ki + log v_ki)
    D = sum_k r_k (m_k + alpha Q_k (c_k y_k/v_k)),    s = -sum_k r_k Q_k (y_k/v_k)
    """

    def __init__(self, log_weights: Tensor, means: Tensor, variances: Tensor, axes: Tensor) -> None:
        super().__init__(log_weights, means)
        self.variances, self.axes = variances, axes
        count, d = means.shape
        self.columns = axes.transpose(0, 1).reshape(d, count * d)  # the axes of all components side by side
        self.rotated = (means[:, None, :] @ axes)[:, 0, :]

    @property
    def width(self) -> int:
        return self.count * self.dim

    @property
    def jacobian_width(self) -> int:
        return self.count * self.dim**2

    def covariance_within(self) -> Tensor:
        return (self.columns * (self.log_weights.exp()[:, None] * self.variances).flatten()) @ self.columns.T

    def spread(self, z: Tensor, component: Tensor) -> Tensor:
        scaled = self.variances[component].sqrt() * z
        rows = max(1, 2**22 // self.dim**2)  # gathered axes are (rows, d, d): 32 MiB at most
        parts = [
            (self.axes[k] @ y[:, :, None])[:, :, 0]
            for k, y in zip(torch.split(component, rows), torch.split(scaled, rows), strict=True)
        ]
        return torch.cat(parts)

    def _logits(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """v (1 or B, K, d), y/v (B, K, d) and the logits (B, K) without -d/2 log(2 pi)."""
        v = alpha.square()[:, :, None] * self.variances + sigma.square()[:, :, None]
        y = (x @ self.columns).reshape(x.shape[0], self.count, self.dim) - alpha[:, :, None] * self.rotated
        whitened = y / v
        return v, whitened, self.log_weights - 0.5 * ((y * whitened).sum(2) + torch.log(v).sum(2))

    def _back(self, y: Tensor) -> Tensor:
        """sum_k Q_k y_k for y (B, K, d): (B, d)."""
        return y.flatten(1) @ self.columns.T

    def log_prob(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        _, _, logits = self._logits(x, alpha, sigma)
        return torch.logsumexp(logits, 1) - 0.5 * self.dim * _LOG_2PI

    def denoised_and_score(
        self, x: Tensor, alpha: Tensor, sigma: Tensor, precision: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        _, whitened, logits = self._logits(x, alpha, sigma)
        r = torch.softmax(logits, 1)
        weighted = r[:, :, None] * whitened
        denoised = r @ self.means + alpha * self._back(self.variances * weighted)
        return denoised, -self._back(weighted)

    def jacobian(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        v, whitened, logits = self._logits(x, alpha, sigma)
        r = torch.softmax(logits, 1)
        slopes = (r[:, :, None] * self.variances / v).flatten(1)
        within = (self.columns * slopes[:, None, :]) @ self.columns.T
        scores = -(whitened[:, :, None, :] @ self.axes.mT)[:, :, 0, :]
        return alpha[:, :, None] * within + (sigma.square() / alpha)[:, :, None] * _covariance_under(r, scores)

    def divergence(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        v, whitened, logits = self._logits(x, alpha, sigma)
        r = torch.softmax(logits, 1)
        score = self._back(r[:, :, None] * whitened)
        between = (r * whitened.square().sum(2)).sum(1) - score.square().sum(1)
        within = (r * (self.variances / v).sum(2)).sum(1)
        return alpha[:, 0] * within + sigma[:, 0].square() / alpha[:, 0] * between
