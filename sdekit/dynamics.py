r"""What is integrated: an SDE forward in time, an ODE, or the two ways a score turns noise back into data.

    reverse SDE         dx = [f x - (1 + tau^2)/2 g^2 s] dt + tau g dW,    t falling      (tau = 1: Anderson 1982)
    probability flow    dx = [f x - g^2 s / 2] dt = u dt

Song et al. 2021, arXiv 2011.13456. Both share their marginals with the forward SDE.
"""

from __future__ import annotations

import abc
import copy
from collections.abc import Callable, Mapping
from typing import Any, final

import torch
from torch import Tensor

from sdekit._tensors import as_float64, check_number, expand_right
from sdekit.errors import ArgumentError, ShapeError
from sdekit.models.score import EvaluationCounter, ScoreModel
from sdekit.sdes import AbstractSDE, Calculus, NoiseKind
from sdekit.sdes.base import check_parameters, cut_parameters
from sdekit.sdes.calculus import as_calculus
from sdekit.sdes.torchsde_style import TorchsdeStyle, is_torchsde_style

__all__ = ["ODE", "Dynamics", "ForwardSDE", "ProbabilityFlow", "ReverseSDE", "as_dynamics"]


class Dynamics(abc.ABC):
    """dx = drift dt + diffusion dW. Says whether it is stochastic, how its noise acts, and what it counts."""

    stochastic: bool
    noise: NoiseKind | None
    calculus: Calculus
    model: ScoreModel | None = None
    sde: AbstractSDE | None = None
    counter: EvaluationCounter

    @abc.abstractmethod
    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        """The factor of dt at (x, t), of the shape of x; one counted evaluation."""

    @abc.abstractmethod
    def diffusion(self, x: Tensor, t: Tensor) -> Tensor:
        """The factor of dW at (x, t), of the shape that `noise` declares."""

    @abc.abstractmethod
    def noise_shape(self, shape: torch.Size | tuple[int, ...]) -> tuple[int, ...]:
        """The shape of dW for a state of `shape`."""

    @abc.abstractmethod
    def counted(self) -> Dynamics:
        """The same dynamics with a counter of its own, at 0."""

    @abc.abstractmethod
    def rows(self, which: slice | Tensor, shape: tuple[int, ...]) -> Dynamics:
        """The dynamics of some samples of a state of `shape` (B, *), with the same counter.

        which: a slice, or their indices, int64 (A,).
        """

    @property
    def constant_diffusion(self) -> float | None:
        """g where it is one number for all x and t, and acts entry by entry; None elsewhere."""
        return None

    @property
    def noise_dim(self) -> int | None:
        """m where the diffusion is a matrix, of shape (B, *, m); None where it acts entry by entry."""
        return None if self.sde is None else self.sde.noise_dim

    @property
    def needs_autograd(self) -> bool:
        """Whether evaluating it differentiates, so that inference mode must be off."""
        return True


class _WithoutNoise(Dynamics):
    stochastic = False
    noise = None
    calculus: Calculus = "ito"

    def diffusion(self, x: Tensor, t: Tensor) -> Tensor:
        raise ArgumentError(f"{self!r} is an ODE: it has no diffusion.")

    def noise_shape(self, shape: torch.Size | tuple[int, ...]) -> tuple[int, ...]:
        raise ArgumentError(f"{self!r} is an ODE: it takes no noise.")


@final
class ODE(_WithoutNoise):
    """dx/dt = f(x, t) for a function of the user's own.

    Args:
        drift: f(x, t) -> tensor of the shape of x. A function or an nn.Module. t is a float64 tensor, of shape (), or
            (B, 1, …, 1) where samples have times of their own, as under an adaptive solver: it broadcasts against x.
        parameters: tensors of shape (B, …), a row for each sample: given to `drift` by name, and cut with the batch.

    Raises:
        ArgumentError: if `drift` is not callable; by `drift`, if the function returns anything but a tensor.
        ShapeError: by `drift`, if it returns one of another shape than x; broadcasting would make a wrong result of it.
    """

    def __init__(self, drift: Callable[..., Tensor], parameters: Mapping[str, Tensor] | None = None) -> None:
        if not callable(drift):
            raise ArgumentError(f"drift must be a function of (x, t), got {type(drift).__name__}.")
        self._drift = drift
        self._parameters = check_parameters(parameters)
        self.counter = EvaluationCounter()

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        self.counter.calls += 1
        return _like_state(self._drift(x, expand_right(t, x), **self._parameters), x)

    def counted(self) -> Dynamics:
        return ODE(self._drift, self._parameters)

    def rows(self, which: slice | Tensor, shape: tuple[int, ...]) -> Dynamics:
        other = copy.copy(self)
        other._parameters = cut_parameters(self._parameters, which, shape)
        return other

    def __repr__(self) -> str:
        return f"ODE({getattr(self._drift, '__name__', type(self._drift).__name__)})"


@final
class ForwardSDE(Dynamics):
    """An SDE as it stands, in either direction of time."""

    stochastic = True
    sde: AbstractSDE

    def __init__(self, sde: AbstractSDE) -> None:
        self.sde = sde
        self.noise, self.calculus = sde.noise, sde.calculus
        self.counter = EvaluationCounter()

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        self.counter.calls += 1
        return _like_state(self.sde.drift(x, t), x)

    def diffusion(self, x: Tensor, t: Tensor) -> Tensor:
        return self.sde.diffusion(x, t)

    def noise_shape(self, shape: torch.Size | tuple[int, ...]) -> tuple[int, ...]:
        return self.sde.noise_shape(shape)

    def counted(self) -> Dynamics:
        return ForwardSDE(self.sde)

    def rows(self, which: slice | Tensor, shape: tuple[int, ...]) -> Dynamics:
        other = ForwardSDE(self.sde.rows(which, shape))
        other.counter = self.counter
        return other

    @property
    def constant_diffusion(self) -> float | None:
        return self.sde.constant_diffusion

    def read_by(self, calculus: tuple[Calculus, ...], falling: bool = False) -> ForwardSDE:
        """The same in a calculus of those given, its drift corrected where it has another; with the same counter.

        falling: whether it is for a solve with time running down.
        """
        if self.noise == "additive" or self.calculus in calculus:
            return self
        other = ForwardSDE(as_calculus(self.sde, calculus[0], falling))
        other.counter = self.counter
        return other

    @property
    def needs_autograd(self) -> bool:
        return self.sde.needs_autograd

    def __repr__(self) -> str:
        return f"ForwardSDE({self.sde!r})"


class _OfModel(Dynamics):
    """What the two dynamics of a score model share: its SDE, its counter, its cutting into parts."""

    model: ScoreModel

    def __init__(self, model: ScoreModel) -> None:
        if not isinstance(model, ScoreModel):
            raise ArgumentError(f"expected a ScoreModel, got {type(model).__name__}.")
        self.model = model
        self.sde = model.sde
        self.counter = model.counter

    def counted(self) -> Dynamics:
        return self._with(self.model.counted())

    def rows(self, which: slice | Tensor, shape: tuple[int, ...]) -> Dynamics:
        return self._with(self.model.rows(which, shape[0]))

    @property
    def noise_dim(self) -> int | None:
        return None

    def _with(self, model: ScoreModel) -> Dynamics:
        other = copy.copy(self)
        other.model, other.counter = model, model.counter
        return other

    @property
    def needs_autograd(self) -> bool:
        return self.model.needs_autograd


@final
class ReverseSDE(_OfModel):
    """dx = [f x - (1 + tau^2)/2 g^2 s] dt + tau g dW with t falling; tau = 1 is the time reversal of the SDE."""

    stochastic = True
    noise: NoiseKind = "additive"
    calculus: Calculus = "ito"

    def __init__(self, model: ScoreModel, tau: float = 1.0) -> None:
        super().__init__(model)
        if not check_number("tau", tau) > 0:
            raise ArgumentError(f"tau must be above 0, got {tau!r}; tau = 0 is ProbabilityFlow(model).")
        self.tau = float(tau)

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        f = _at(self.model.sde.drift_coefficient, t, x)
        g2 = _at(self.model.sde.diffusion_coefficient, t, x).square()
        return f * x - (0.5 * (1 + self.tau**2)) * g2 * self.model.score(x, t)

    def diffusion(self, x: Tensor, t: Tensor) -> Tensor:
        return self.tau * _at(self.model.sde.diffusion_coefficient, t, x)

    def noise_shape(self, shape: torch.Size | tuple[int, ...]) -> tuple[int, ...]:
        return tuple(shape)

    def __repr__(self) -> str:
        return f"ReverseSDE({self.model!r}, tau={self.tau:g})"


@final
class ProbabilityFlow(_OfModel, _WithoutNoise):
    """dx/dt = f x - g^2 s / 2 = alpha' D + sigma' eps, the velocity."""

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return self.model.velocity(x, t)

    def __repr__(self) -> str:
        return f"ProbabilityFlow({self.model!r})"


def _like_state(value: object, x: Tensor) -> Tensor:
    """A drift, checked to be a tensor of the shape of x, in its dtype."""
    if not isinstance(value, Tensor):
        raise ArgumentError(f"the drift must return a tensor, got {type(value).__name__}.")
    if value.shape != x.shape:
        raise ShapeError(
            f"the drift returned a tensor of shape {tuple(value.shape)} for a state of shape {tuple(x.shape)}; "
            "expected the same shape."
        )
    return value if value.dtype == x.dtype else value.to(x.dtype)


def _at(schedule: Callable[[Tensor | float], Tensor], t: Tensor, x: Tensor) -> Tensor:
    return expand_right(schedule(as_float64(t)).to(device=x.device, dtype=x.dtype), x)


def as_dynamics(what: Any, x0: Any = None, t0: float = 0.0) -> Dynamics:
    """Dynamics as they are; an SDE, or an object as torchsde's users write it, as its forward dynamics.

    x0, t0: where the solve starts. An object written for torchsde is evaluated there once, to learn its noise's shape.

    Raises:
        ArgumentError: for anything else. A ScoreModel has two dynamics, so it must be said which.
    """
    if isinstance(what, Dynamics):
        return what
    if is_torchsde_style(what):
        what = TorchsdeStyle(what)
    if isinstance(what, TorchsdeStyle) and x0 is not None:
        what = what.opened(x0, t0)
    if isinstance(what, AbstractSDE):
        return ForwardSDE(what)
    if isinstance(what, ScoreModel):
        raise ArgumentError(
            "a ScoreModel has two dynamics: give ReverseSDE(model) or ProbabilityFlow(model), or call sample(model, …)."
        )
    raise ArgumentError(
        "expected an SDE, dynamics (ReverseSDE, ProbabilityFlow, ODE), or an object with f, g, noise_type and "
        f"sde_type; got {type(what).__name__}."
    )
