r"""Diffusion SDEs: linear SDEs that carry data at t = 0 to noise at t = T, given wholly by alpha and sigma.

    dx = f(t) x dt + g(t) dW,      x_t | x_0 ~ N(alpha(t) x_0, sigma(t)^2 I)
    f = d ln(alpha)/dt,            g^2 = d(sigma^2)/dt - 2 f sigma^2
    log-SNR = ln(alpha^2 / sigma^2)

(Song et al. 2021, arXiv 2011.13456; Kingma et al. 2021, arXiv 2107.00630.)

Schedules are evaluated in float64 whatever the dtype of t, and cast back to it.
"""

from __future__ import annotations

import abc
import functools
import math
from collections.abc import Callable
from dataclasses import fields
from typing import Any, ClassVar, TypeVar, final

import torch
from torch import Tensor

from sdekit._tensors import as_float64, check_number, check_shape, expand_right
from sdekit.errors import ArgumentError, ShapeError
from sdekit.sdes.base import AbstractSDE, Affine, Calculus, NoiseKind

__all__ = ["CustomDiffusionSDE", "DiffusionSDE"]

Self = TypeVar("Self", bound="DiffusionSDE")


def _schedule(method: Callable[[Self, Tensor], Tensor]) -> Callable[[Self, Tensor | float], Tensor]:
    """Evaluate a schedule in float64; return it in the dtype of t (float64 for a plain number)."""

    @functools.wraps(method)
    def evaluate(self: Self, t: Tensor | float) -> Tensor:
        value = method(self, as_float64(t))
        return value.to(t.dtype) if isinstance(t, Tensor) and t.is_floating_point() else value

    return evaluate


class DiffusionSDE(AbstractSDE):
    r"""dx = f(t) x dt + g(t) dW, defined by alpha(t) and sigma(t). Subclasses give float64 functions of t.

    `t_max` is the time T at which the marginal is (nearly) the prior; `t_min` is the time at which a solve towards the
    data stops by default, short of 0 where the score of real data blows up.
    """

    noise: NoiseKind = "additive"
    calculus: Calculus = "ito"
    t_min: float
    t_max: float
    name: ClassVar[str]

    needs_autograd = False

    def affine(self, t: Tensor) -> Affine:
        """f(t) x and g(t)."""
        a = self.drift_coefficient(t)
        return Affine(a, torch.zeros_like(a), self.diffusion_coefficient(t))

    # What a family gives -----------------------------------------------------------------------------------------

    @abc.abstractmethod
    def _log_alpha(self, t: Tensor) -> Tensor:
        """ln alpha(t), float64."""

    @abc.abstractmethod
    def _sigma(self, t: Tensor) -> Tensor:
        """sigma(t), float64."""

    @abc.abstractmethod
    def _drift_coefficient(self, t: Tensor) -> Tensor:
        """f(t) = d ln(alpha)/dt, float64."""

    @abc.abstractmethod
    def _diffusion_squared(self, t: Tensor) -> Tensor:
        """g(t)^2, float64."""

    def _sigma_rate(self, t: Tensor) -> Tensor:
        """d sigma/dt, float64; a family gives its own where this one is 0/0 at t = 0."""
        sigma = self._sigma(t)
        return self._drift_coefficient(t) * sigma + self._diffusion_squared(t) / (2 * sigma)

    @abc.abstractmethod
    def _time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        """The t at which ln(alpha^2/sigma^2) has this value, float64."""

    # Schedules ---------------------------------------------------------------------------------------------------

    @_schedule
    def log_alpha(self, t: Tensor) -> Tensor:
        """ln alpha(t)."""
        return self._log_alpha(t)

    @_schedule
    def alpha(self, t: Tensor) -> Tensor:
        """alpha(t), the factor of x_0 in the marginal's mean."""
        return torch.exp(self._log_alpha(t))

    @_schedule
    def sigma(self, t: Tensor) -> Tensor:
        """sigma(t), the marginal's standard deviation."""
        return self._sigma(t)

    @_schedule
    def sigma_ratio(self, t: Tensor) -> Tensor:
        """sigma(t)/alpha(t), the noise level of x/alpha."""
        return self._sigma(t) * torch.exp(-self._log_alpha(t))

    @_schedule
    def log_snr(self, t: Tensor) -> Tensor:
        """ln(alpha^2/sigma^2): falls from +inf at the data to its least value at T."""
        return 2 * (self._log_alpha(t) - torch.log(self._sigma(t)))

    @_schedule
    def time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        """The inverse of `log_snr`."""
        return self._time_of_log_snr(log_snr)

    @_schedule
    def time_of_sigma_ratio(self, ratio: Tensor) -> Tensor:
        """The inverse of `sigma_ratio`; 0 maps to t = 0 where sigma(0) = 0."""
        return self._time_of_log_snr(-2 * torch.log(ratio))

    @_schedule
    def drift_coefficient(self, t: Tensor) -> Tensor:
        """f(t), so that the drift is f(t) x."""
        return self._drift_coefficient(t)

    @_schedule
    def diffusion_coefficient(self, t: Tensor) -> Tensor:
        """g(t)."""
        return torch.sqrt(self._diffusion_squared(t))

    @_schedule
    def alpha_rate(self, t: Tensor) -> Tensor:
        """d alpha/dt = f alpha."""
        return self._drift_coefficient(t) * torch.exp(self._log_alpha(t))

    @_schedule
    def sigma_rate(self, t: Tensor) -> Tensor:
        """d sigma/dt = f sigma + g^2 / (2 sigma)."""
        return self._sigma_rate(t)

    # The SDE -----------------------------------------------------------------------------------------------------

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        """f(t) x."""
        return expand_right(self._cast(self.drift_coefficient, t, x), x) * x

    def diffusion(self, x: Tensor, t: Tensor) -> Tensor:
        """g(t), as (B, 1, …, 1) or ()."""
        return expand_right(self._cast(self.diffusion_coefficient, t, x), x)

    def marginal(self, x0: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """Mean alpha(t) x_0, of the shape of x_0, and standard deviation sigma(t), as (B, 1, …, 1) or ()."""
        mean = expand_right(self._cast(self.alpha, t, x0), x0) * x0
        return mean, expand_right(self._cast(self.sigma, t, x0), x0)

    def prior_std(self, t: float | None = None, data_std: float = 0.0) -> float:
        """Standard deviation per coordinate of p_t for data of standard deviation `data_std` about 0.

            sqrt(alpha(t)^2 data_std^2 + sigma(t)^2),   t = T unless given.

        The textbook prior leaves the data out (data_std = 0); for the variance-exploding kinds that is a visible error.

        Raises:
            ArgumentError: if t is outside [0, T] or data_std is not a finite number of at least 0.
        """
        if check_number("data_std", data_std) < 0:
            raise ArgumentError(f"data_std must be 0 or more, got {data_std!r}.")
        time = self.t_max if t is None else self.check_time("t", t)
        return math.hypot(float(self.alpha(time)) * data_std, float(self.sigma(time)))

    def prior(
        self,
        shape: tuple[int, ...],
        *,
        t: float | None = None,
        data_std: float = 0.0,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Draw from the prior N(0, prior_std(t)^2 I) at time t (T unless given): a tensor of `shape` (B, *)."""
        z = torch.randn(check_shape(shape), generator=generator, dtype=dtype, device=device)
        return z.mul_(self.prior_std(t, data_std))

    def prior_log_prob(self, x: Tensor, *, t: float | None = None, data_std: float = 0.0) -> Tensor:
        """Log-density in nats of each sample of x, (B, *), under N(0, prior_std(t)^2 I): (B,), in float64.

        Raises:
            ArgumentError: as `prior_std`, and where the standard deviation is 0 and there is no density.
        """
        std = self.prior_std(t, data_std)
        if std == 0.0:
            raise ArgumentError(f"the prior at t = {t!r} has standard deviation 0, so no density; take t above 0.")
        flat = x.reshape(x.shape[0], -1).double() / std
        d = flat.shape[1]
        return -0.5 * (flat.square().sum(1) + d * math.log(2 * math.pi)) - d * math.log(std)

    def check_time(self, name: str, t: float, *, zero: bool = True) -> float:
        """t as a float in [0, T] (in (0, T] with zero=False), or an ArgumentError that names it."""
        if not hasattr(t, "__float__"):
            raise ArgumentError(f"{name} must be a number, got {t!r}.")
        t = float(t)
        if self.t_max < t <= (1 + 1e-12) * self.t_max:  # T as the inverse of log-SNR or sigma_ratio rounds it
            t = self.t_max
        if not (0.0 <= t <= self.t_max) or (t == 0.0 and not zero):
            raise ArgumentError(
                f"{name} = {t!r} is outside {'[' if zero else '('}0, T] with T = {self.t_max:g} for {self!r}."
            )
        return t

    # Plain values ------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """{"type": class name, …parameters}, all JSON values."""
        return {"type": type(self).__name__, **{f.name: getattr(self, f.name) for f in fields(self)}}  # type: ignore[arg-type]

    @staticmethod
    def _cast(schedule: Callable[[Tensor | float], Tensor], t: Tensor | float, x: Tensor) -> Tensor:
        if not x.is_floating_point():
            raise ArgumentError(f"the state must be a floating-point tensor, got {x.dtype}; call .float() first.")
        return schedule(as_float64(t)).to(device=x.device, dtype=x.dtype)

    def _store_floats(self) -> None:
        """Check that every parameter is a finite number and keep it as a float: repr, hash and dict are then plain."""
        for f in fields(self):  # type: ignore[arg-type]
            object.__setattr__(self, f.name, check_number(f.name, getattr(self, f.name)))

    def _check_times(self) -> None:
        if not (0.0 <= self.t_min < self.t_max):
            raise ArgumentError(f"expected 0 <= t_min < t_max, got t_min={self.t_min!r}, t_max={self.t_max!r}.")


@final
class CustomDiffusionSDE(DiffusionSDE):
    """A diffusion SDE from alpha and sigma of the user's own; the rest follows by automatic differentiation.

    Args:
        alpha: alpha(t) for a float64 tensor t, of its shape, positive, differentiable by autograd.
        sigma: sigma(t) likewise, with sigma/alpha increasing in t.
        t_max: the time T of the prior.
        t_min: where a solve towards the data stops by default.

    `time_of_log_snr` is found by bisection on [0, T], and is held at 0 and T for values beyond those at its ends.

    Raises:
        ArgumentError: if alpha or sigma is not such a function, as seen at 65 times in [t_min, t_max].
    """

    name = "custom"

    def __init__(
        self,
        alpha: Callable[[Tensor], Tensor],
        sigma: Callable[[Tensor], Tensor],
        *,
        t_max: float = 1.0,
        t_min: float = 1e-3,
    ) -> None:
        if not callable(alpha) or not callable(sigma):
            raise ArgumentError("alpha and sigma must be functions of a float64 tensor t.")
        self._alpha_of_t, self._sigma_of_t = alpha, sigma
        self.t_max, self.t_min = check_number("t_max", t_max), check_number("t_min", t_min)
        self._check_times()
        probe = torch.linspace(self.t_min or 1e-6 * self.t_max, self.t_max, 65, dtype=torch.float64, device="cpu")
        _check_values("alpha", alpha(probe), probe)
        _check_values("sigma", sigma(probe), probe)
        snr = self.log_snr(probe)
        if not bool(torch.isfinite(snr).all()) or not bool((snr.diff() < 0).all()):
            raise ArgumentError(
                "alpha and sigma must be positive and finite, with sigma/alpha increasing, on [t_min, t_max]."
            )

    def _log_alpha(self, t: Tensor) -> Tensor:
        return torch.log(self._alpha_of_t(t))

    def _sigma(self, t: Tensor) -> Tensor:
        return self._sigma_of_t(t)

    def _drift_coefficient(self, t: Tensor) -> Tensor:
        return _derivative(self._log_alpha, t)

    def _diffusion_squared(self, t: Tensor) -> Tensor:
        variance_rate = _derivative(lambda u: self._sigma_of_t(u).square(), t)
        return variance_rate - 2 * self._drift_coefficient(t) * self._sigma(t).square()

    def _sigma_rate(self, t: Tensor) -> Tensor:
        return _derivative(self._sigma_of_t, t)

    def _time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        low, high = torch.zeros_like(log_snr), torch.full_like(log_snr, self.t_max)
        for _ in range(200):  # bisection: log-SNR falls in t, and float64 is exhausted well before 200 halvings
            middle = 0.5 * (low + high)
            above = self.log_snr(middle) > log_snr
            low, high = torch.where(above, middle, low), torch.where(above, high, middle)
        time = torch.where(torch.isposinf(log_snr), torch.zeros_like(high), high)
        return torch.where(torch.isnan(log_snr), log_snr, time)

    def to_dict(self) -> dict[str, Any]:
        raise ArgumentError("an SDE built from functions cannot be written as a plain dict; keep its code instead.")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, CustomDiffusionSDE):
            return NotImplemented
        mine = (self._alpha_of_t, self._sigma_of_t, self.t_max, self.t_min)
        return mine == (other._alpha_of_t, other._sigma_of_t, other.t_max, other.t_min)

    def __hash__(self) -> int:
        return hash((self._alpha_of_t, self._sigma_of_t, self.t_max, self.t_min))

    def __repr__(self) -> str:
        names = (getattr(f, "__name__", type(f).__name__) for f in (self._alpha_of_t, self._sigma_of_t))
        alpha, sigma = names
        return f"CustomDiffusionSDE(alpha={alpha}, sigma={sigma}, t_max={self.t_max}, t_min={self.t_min})"


def _derivative(function: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    """d function/dt elementwise, by autograd, whatever no-grad mode the caller is in; differentiable again in t."""
    again = torch.is_grad_enabled() and t.requires_grad
    with torch.inference_mode(False), torch.enable_grad():
        u = t if again else t.detach().clone().requires_grad_(True)
        value = function(u)
        if not value.requires_grad:  # a constant, such as torch.ones_like(t)
            return torch.zeros_like(value)
        (rate,) = torch.autograd.grad(value.sum(), u, create_graph=again)
    return rate


def _check_values(name: str, values: object, t: Tensor) -> None:
    if not isinstance(values, Tensor):
        raise ArgumentError(f"{name}(t) must return a tensor, got {type(values).__name__}; try torch.full_like(t, …).")
    if values.shape != t.shape:
        raise ShapeError(f"{name}(t) must have the shape of t, {tuple(t.shape)}; got {tuple(values.shape)}.")
