"""SDEs to test solvers on that have no path in closed form: general noise, a stiff drift, drifts that grow too fast."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from sdekit._tensors import as_float64, expand_right
from sdekit.sdes.base import Calculus
from sdekit.sdes.classical import OrnsteinUhlenbeck
from sdekit.sdes.parametric import ConstantNoise, Parameter, ParametricSDE, check_entries, elapsed, like, wide

__all__ = ["CubicMultiplicative", "DoubleWell", "NoncommutativeSDE", "StiffLinear"]


@final
@dataclass(frozen=True, eq=False)
class NoncommutativeSDE(ParametricSDE):
    """dX1 = -k X1 dt + sigma dW1, dX2 = -k X2 dt + sigma (sin X1 dW1 + cos X1 dW2) (Ito): two noises, general.

    Dg_2 g_1 - Dg_1 g_2 = sigma^2 (0, -sin X1) is not 0, so that a path depends on the Levy area of (W1, W2), and there
    is no closed form in W_t: strong errors need a fine reference on the same path. The law of each entry alone is
    known: since sin^2 + cos^2 = 1, X1 and X2 each are Ornstein-Uhlenbeck processes (Levy's characterisation).

    In Stratonovich form the drift of X2 is -k X2 - sigma^2 cos(X1) / 2. The state is (B, 2), g is (B, 2, 2), dW (B, 2).

    Source: made for sdekit, after the condition of Kloeden & Platen 1992, section 10.3.
    """

    k: Parameter = 0.5
    sigma: Parameter = 1.0
    calculus: Calculus = "ito"
    noise = "general"
    noise_dim = 2

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        """-k x, in Stratonovich form with -sigma^2 cos(x1) / 2 added to the second entry: (B, 2)."""
        check_entries(x, 2, type(self).__name__)
        f = -like(self.k, x) * x
        if self.calculus == "ito":
            return f
        sigma = self._sigma(x)
        shift = 0.5 * sigma[:, 0] * sigma[:, 1] * torch.cos(x[:, 0])
        return f - torch.stack([torch.zeros_like(shift), shift], dim=1)

    def diffusion(self, x: Tensor, t: Tensor) -> Tensor:
        """sigma ((1, 0), (sin x1, cos x1)): (B, 2, 2), the noises last."""
        check_entries(x, 2, type(self).__name__)
        x1 = x[:, 0]
        first = torch.stack([torch.ones_like(x1), torch.zeros_like(x1)], dim=1)
        second = torch.stack([torch.sin(x1), torch.cos(x1)], dim=1)
        return self._sigma(x)[..., None] * torch.stack([first, second], dim=1)

    def marginal(self, x0: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each entry of X_t | X_0 = x0 alone (Gaussian; jointly it is not)."""
        check_entries(x0, 2, type(self).__name__)
        return OrnsteinUhlenbeck(self.k, 0.0, self.sigma).marginal(x0, t)

    def _sigma(self, x: Tensor) -> Tensor:
        return torch.as_tensor(like(self.sigma, x), dtype=x.dtype, device=x.device).expand(x.shape)


@final
@dataclass(frozen=True, eq=False)
class DoubleWell(ConstantNoise):
    """dX = (X - X^3) dt + sigma dW: wells at -1 and 1, and a drift that grows faster than linearly.

    The stationary density is proportional to exp((X^2 - X^4/2) / sigma^2). The solution's moments are bounded, but
    those of Euler-Maruyama grow without bound as the step shrinks: a rare path that leaves |X| < sqrt(2/h) explodes
    (Hutzenthaler, Jentzen & Kloeden 2011). The noise is additive, so that both calculi have one drift.
    """

    sigma: Parameter = 0.5
    calculus: Calculus = "ito"

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        """x - x^3, of the shape of x."""
        return x - x**3


@final
@dataclass(frozen=True, eq=False)
class StiffLinear(ConstantNoise):
    """dX = -k (X - cos t) dt + sigma dW, from t = 0: for large k an explicit step must stay below 2/k.

    X_t | X_0 ~ N(X_0 e^{-k t} + k (k cos t + sin t - k e^{-k t}) / (k^2 + 1), sigma^2 (1 - e^{-2 k t}) / (2 k))

    The noise is additive, so that both calculi have one drift.

    Source: the stiff equation of Prothero & Robinson 1974, with noise.
    """

    k: Parameter = 100.0
    sigma: Parameter = 0.5
    calculus: Calculus = "ito"

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        """-k (x - cos t), of the shape of x."""
        return -like(self.k, x) * (x - expand_right(torch.cos(as_float64(t)), x).to(x))

    def marginal(self, x0: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of X_t | X_0 = x0 (Gaussian), broadcastable to x0."""
        u = elapsed(t, x0)
        k = wide(self.k, x0)
        decay = torch.exp(-k * u)
        mean = x0.double() * decay + k * (k * (torch.cos(u) - decay) + torch.sin(u)) / (k.square() + 1)
        return mean.to(x0.dtype), OrnsteinUhlenbeck(self.k, 0.0, self.sigma).marginal(x0, t)[1]


@final
@dataclass(frozen=True, eq=False)
class CubicMultiplicative(ParametricSDE):
    """dX = (mu X - X^3) dt + sigma X dW (Ito): the stochastic Ginzburg-Landau equation.

    X_t = X_0 E_t / sqrt(1 + 2 X_0^2 int_0^t E_s^2 ds),    E_t = exp((mu - sigma^2/2) t + sigma W_t)

    This needs the whole path, so that strong errors need a fine reference. From a large start Euler-Maruyama diverges
    while the exact solution, and tamed Euler's, stay bounded (Hutzenthaler, Jentzen & Kloeden 2011, 2012). In
    Stratonovich form the drift is (mu - sigma^2/2) X - X^3.

    Source: Kloeden & Platen 1992, section 4.4.
    """

    mu: Parameter = 1.0
    sigma: Parameter = 1.0
    calculus: Calculus = "ito"
    noise = "diagonal"

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        """mu x - x^3, in Stratonovich form (mu - sigma^2/2) x - x^3: of the shape of x."""
        mu = like(self.mu, x)
        return (mu if self.calculus == "ito" else mu - 0.5 * like(self.sigma, x) ** 2) * x - x**3

    def diffusion(self, x: Tensor, t: Tensor) -> Tensor:
        """sigma x, of the shape of x."""
        return like(self.sigma, x) * x
