"""Classical SDEs whose moments, and where they exist whose paths, are known in closed form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from sdekit.sdes.base import Affine
from sdekit.sdes.parametric import ConstantNoise, Parameter, ParametricSDE, elapsed, like, wide

__all__ = ["GeometricBrownianMotion", "OrnsteinUhlenbeck"]


@final
@dataclass(frozen=True, eq=False)
class OrnsteinUhlenbeck(ConstantNoise):
    """dX = theta (mu - X) dt + sigma dW (Uhlenbeck & Ornstein 1930).

    X_t | X_0 ~ N(mu + (X_0 - mu) e^{-theta t}, sigma^2 (1 - e^{-2 theta t}) / (2 theta)),    t >= 0

    sigma may have either sign: sigma and -sigma are one law.
    """

    theta: Parameter = 1.0
    mu: Parameter = 0.0
    sigma: Parameter = 1.0

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        """theta (mu - x)."""
        return like(self.theta, x) * (like(self.mu, x) - x)

    def affine(self, t: Tensor) -> Affine | None:
        """-theta x + theta mu and sigma, where they are numbers."""
        if any(isinstance(value, Tensor) for value in (self.theta, self.mu, self.sigma)):
            return None
        one = torch.ones_like(t)
        return Affine(-self.theta * one, self.theta * self.mu * one, self.sigma * one)

    def marginal(self, x0: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of X_t | X_0 = x0 (Gaussian), broadcastable to x0."""
        u = elapsed(t, x0)
        theta, mu, sigma = wide(self.theta, x0), wide(self.mu, x0), wide(self.sigma, x0)
        # (1 - e^{-2 theta t}) / (2 theta) -> t as theta -> 0
        safe = torch.where(theta == 0, torch.ones_like(theta), theta)
        spread = torch.where(theta == 0, u, -torch.expm1(-2 * theta * u) / (2 * safe))
        mean = mu + (x0.double() - mu) * torch.exp(-theta * u)
        return mean.to(x0.dtype), (sigma.abs() * torch.sqrt(spread)).to(x0.dtype)


@final
@dataclass(frozen=True, eq=False)
class GeometricBrownianMotion(ParametricSDE):
    """dX = mu X dt + sigma X dW (Ito), so that X_t = X_0 exp((mu - sigma^2/2) t + sigma W_t) (Samuelson 1965).

    E[X_t | X_0] = X_0 e^{mu t},    Var[X_t | X_0] = X_0^2 e^{2 mu t} (e^{sigma^2 t} - 1)
    """

    mu: Parameter = 0.05
    sigma: Parameter = 0.2
    noise = "diagonal"

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        """mu x."""
        return like(self.mu, x) * x

    def diffusion(self, x: Tensor, t: Tensor) -> Tensor:
        """sigma x."""
        return like(self.sigma, x) * x

    def marginal(self, x0: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of X_t | X_0 = x0 (log-normal), of the shape of x0."""
        u = elapsed(t, x0)
        mean = x0.double() * torch.exp(wide(self.mu, x0) * u)
        std = mean.abs() * torch.sqrt(torch.expm1(wide(self.sigma, x0).square() * u))
        return mean.to(x0.dtype), std.to(x0.dtype)

    def path(self, x0: Tensor, t: Tensor | float, w: Tensor) -> Tensor:
        """The exact X_t for a Brownian motion whose value at t is w (of the shape of x0)."""
        u = elapsed(t, x0)
        mu, sigma = wide(self.mu, x0), wide(self.sigma, x0)
        return (x0.double() * torch.exp((mu - 0.5 * sigma.square()) * u + sigma * w)).to(x0.dtype)
