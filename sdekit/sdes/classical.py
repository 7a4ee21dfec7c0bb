"""Classical SDEs whose moments, and where they exist whose paths, are known in closed form."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, final

import torch
from torch import Tensor

from sdekit._tensors import as_float64, check_number, expand_right
from sdekit.errors import ArgumentError, ShapeError
from sdekit.sdes.base import AbstractSDE, Affine, Calculus, broadcasts

__all__ = ["GeometricBrownianMotion", "OrnsteinUhlenbeck"]

Parameter = float | Tensor


class _ClassicalSDE(AbstractSDE):
    """Parameters are numbers or tensors broadcastable to x (a batch of parameter sets is a tensor of shape (B, 1))."""

    calculus: Calculus = "ito"
    needs_autograd = False

    def rows(self, which: slice | Tensor, shape: tuple[int, ...]) -> _ClassicalSDE:
        def cut(value: Parameter) -> Parameter:
            # Broadcasting counts dimensions from the right: only a parameter with all of them has a batch.
            if not isinstance(value, Tensor) or value.ndim < len(shape) or value.shape[0] == 1:
                return value
            if not broadcasts(value.shape, shape):
                raise _unfitting(value, shape)
            return value[which] if isinstance(which, slice) else value[which.to(value.device)]

        values = {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]
        changed = {name: cut(value) for name, value in values.items()}
        return self if all(changed[n] is values[n] for n in values) else replace(self, **changed)  # type: ignore[type-var]

    def to_dict(self) -> dict[str, Any]:
        """{"type": class name, …parameters}, all JSON values: a tensor becomes nested lists."""

        def plain(value: Parameter) -> Any:
            return value.tolist() if isinstance(value, Tensor) else value

        values = {f.name: plain(getattr(self, f.name)) for f in fields(self)}  # type: ignore[arg-type]
        return {"type": type(self).__name__, **values}

    def _check_parameters(self) -> None:
        for f in fields(self):  # type: ignore[arg-type]
            value = getattr(self, f.name)
            if isinstance(value, Tensor):
                if value.is_complex() or not bool(torch.isfinite(value).all()):
                    raise ArgumentError(f"{f.name} must be real and finite, got {value!r}.")
            else:
                object.__setattr__(self, f.name, check_number(f.name, value))


def _like(value: Parameter, x: Tensor) -> Parameter:
    """A parameter in the dtype and on the device of x: a float64 one of shape (B, 1) would promote the state."""
    if not isinstance(value, Tensor):
        return value
    if not broadcasts(value.shape, x.shape):
        raise _unfitting(value, tuple(x.shape))
    return value.to(x)


def _unfitting(value: Tensor, shape: tuple[int, ...]) -> ShapeError:
    return ShapeError(f"a parameter has shape {tuple(value.shape)}, which does not broadcast to the state's, {shape}.")


def _wide(value: Parameter, x: Tensor) -> Tensor:
    return torch.as_tensor(value, dtype=torch.float64, device=x.device)


def _time(t: Tensor | float, x: Tensor) -> Tensor:
    if not x.is_floating_point():
        raise ArgumentError(f"the state must be a floating-point tensor, got {x.dtype}; call .float() first.")
    u = as_float64(t)
    if bool((u < 0).any()):
        raise ArgumentError(f"t is the time since x0, 0 or more; got {t!r}.")
    return expand_right(u.to(x.device), x)


@final
@dataclass(frozen=True, eq=False)
class OrnsteinUhlenbeck(_ClassicalSDE):
    """dX = theta (mu - X) dt + sigma dW (Uhlenbeck & Ornstein 1930).

    X_t | X_0 ~ N(mu + (X_0 - mu) e^{-theta t}, sigma^2 (1 - e^{-2 theta t}) / (2 theta)),    t >= 0

    sigma may have either sign: sigma and -sigma are one law.
    """

    theta: Parameter = 1.0
    mu: Parameter = 0.0
    sigma: Parameter = 1.0
    noise = "additive"

    def __post_init__(self) -> None:
        self._check_parameters()

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        """theta (mu - x)."""
        return _like(self.theta, x) * (_like(self.mu, x) - x)

    def diffusion(self, x: Tensor, t: Tensor) -> Tensor:
        """sigma, as () or of its own shape."""
        return torch.as_tensor(_like(self.sigma, x), dtype=x.dtype, device=x.device)

    @property
    def constant_diffusion(self) -> float | None:
        return None if isinstance(self.sigma, Tensor) else self.sigma

    def affine(self, t: Tensor) -> Affine | None:
        """-theta x + theta mu and sigma, where they are numbers."""
        if any(isinstance(value, Tensor) for value in (self.theta, self.mu, self.sigma)):
            return None
        one = torch.ones_like(t)
        return Affine(-self.theta * one, self.theta * self.mu * one, self.sigma * one)

    def marginal(self, x0: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of X_t | X_0 = x0 (Gaussian), broadcastable to x0."""
        u = _time(t, x0)
        theta, mu, sigma = _wide(self.theta, x0), _wide(self.mu, x0), _wide(self.sigma, x0)
        # (1 - e^{-2 theta t}) / (2 theta) -> t as theta -> 0
        safe = torch.where(theta == 0, torch.ones_like(theta), theta)
        spread = torch.where(theta == 0, u, -torch.expm1(-2 * theta * u) / (2 * safe))
        mean = mu + (x0.double() - mu) * torch.exp(-theta * u)
        return mean.to(x0.dtype), (sigma.abs() * torch.sqrt(spread)).to(x0.dtype)


@final
@dataclass(frozen=True, eq=False)
class GeometricBrownianMotion(_ClassicalSDE):
    """dX = mu X dt + sigma X dW (Ito), so that X_t = X_0 exp((mu - sigma^2/2) t + sigma W_t) (Samuelson 1965).

    E[X_t | X_0] = X_0 e^{mu t},    Var[X_t | X_0] = X_0^2 e^{2 mu t} (e^{sigma^2 t} - 1)
    """

    mu: Parameter = 0.05
    sigma: Parameter = 0.2
    noise = "diagonal"

    def __post_init__(self) -> None:
        self._check_parameters()

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        """mu x."""
        return _like(self.mu, x) * x

    def diffusion(self, x: Tensor, t: Tensor) -> Tensor:
        """sigma x."""
        return _like(self.sigma, x) * x

    def marginal(self, x0: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of X_t | X_0 = x0 (log-normal), of the shape of x0."""
        u = _time(t, x0)
        mean = x0.double() * torch.exp(_wide(self.mu, x0) * u)
        std = mean.abs() * torch.sqrt(torch.expm1(_wide(self.sigma, x0).square() * u))
        return mean.to(x0.dtype), std.to(x0.dtype)

    def path(self, x0: Tensor, t: Tensor | float, w: Tensor) -> Tensor:
        """The exact X_t for a Brownian motion whose value at t is w (of the shape of x0)."""
        u = _time(t, x0)
        mu, sigma = _wide(self.mu, x0), _wide(self.sigma, x0)
        return (x0.double() * torch.exp((mu - 0.5 * sigma.square()) * u + sigma * w)).to(x0.dtype)
