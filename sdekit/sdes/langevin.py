"""Langevin equations: a particle in a potential F, with friction and heat.

underdamped:  dX = V dt,  dV = -gamma V dt - u grad F(X) dt + sqrt(2 gamma u) dW
overdamped:   dX = -grad F(X) dt + sqrt(2 T) dW
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, final

import torch
from torch import Tensor

from sdekit._tensors import check_number, check_positive, graph_leaves
from sdekit.errors import ArgumentError, ShapeError
from sdekit.sdes.base import AbstractSDE, Calculus, NoiseKind

__all__ = ["OverdampedLangevin", "UnderdampedLangevin", "quadratic_langevin_moments"]

Gradient = Callable[[Tensor], Tensor]


class _Langevin(AbstractSDE):
    """What both equations share: grad F, by a function for it or by autograd through F."""

    noise: NoiseKind = "additive"
    calculus: Calculus = "ito"

    def __init__(self, gradient: Gradient | None, potential: Gradient | None) -> None:
        if (gradient is None) == (potential is None):
            given = "neither" if gradient is None else "both"
            raise ArgumentError(
                f"give either gradient (grad F, a function of the position) or potential (F itself), got {given}."
            )
        for name, value in (("gradient", gradient), ("potential", potential)):
            if value is not None and not callable(value):
                raise ArgumentError(f"{name} must be a function of the position, got {type(value).__name__}.")
        self._gradient, self._potential = gradient, potential

    def gradient(self, position: Tensor) -> Tensor:
        """grad F at the position, of the shape (B, *) of the position.

        Raises:
            ArgumentError: if the user's function returns no tensor, or a potential that autograd cannot follow.
            ShapeError: if the gradient has not the shape of the position, or the potential not the shape (B,).
        """
        if self._potential is not None:
            return _differentiate(self._potential, position)
        if self._gradient is None:
            raise ArgumentError("there is neither a gradient nor a potential.")
        value = _returned("gradient", self._gradient(position))
        if value.shape != position.shape:
            raise ShapeError(
                f"the gradient returned a tensor of shape {tuple(value.shape)} for a position of shape "
                f"{tuple(position.shape)}; expected the same shape."
            )
        return value.to(position.dtype)

    def to_dict(self) -> dict[str, Any]:
        raise ArgumentError("a Langevin equation holds a function, so that it is no plain dict; keep its code instead.")

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self) or not isinstance(other, _Langevin):
            return NotImplemented
        return self._parts() == other._parts()

    def __hash__(self) -> int:
        # Without the functions, as in SDE: equal ones may be distinct objects, or unhashable.
        return hash((type(self).__name__, self._parts()[2:]))

    def _parts(self) -> tuple[Any, ...]:
        return self._gradient, self._potential

    def _shown(self) -> str:
        name, function = ("potential", self._potential) if self._gradient is None else ("gradient", self._gradient)
        return f"{name}={getattr(function, '__name__', type(function).__name__)}"


@final
class UnderdampedLangevin(_Langevin):
    """dX = V dt, dV = -gamma V dt - u grad F(X) dt + sqrt(2 gamma u) dW (Langevin 1908; Cheng et al. 2018).

    The state has shape (B, 2, *): x[:, 0] is the position, x[:, 1] the velocity. The stationary density is
    proportional to exp(-F(X) - |V|^2 / (2 u)). The noise is additive, and acts on the velocity alone.

    Args:
        gradient: grad F, a function of the position (B, *) that returns its shape.
        gamma: friction, above 0.
        u: inverse mass, above 0.
        potential: F instead, a function of the position (B, *) that returns (B,), each sample's from that sample alone;
            it is differentiated by autograd, and again where the position or what F is made of requires gradients.
    """

    def __init__(
        self, gradient: Gradient | None = None, gamma: float = 1.0, u: float = 1.0, *, potential: Gradient | None = None
    ) -> None:
        super().__init__(gradient, potential)
        self.gamma = check_positive("gamma", gamma)
        self.u = check_positive("u", u)

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        """(v, -gamma v - u grad F(position)), of the shape (B, 2, *) of x."""
        check_phase_space(x)
        position, velocity = x[:, 0], x[:, 1]
        return torch.stack([velocity, -self.gamma * velocity - self.u * self.gradient(position)], dim=1)

    def diffusion(self, x: Tensor, t: Tensor) -> Tensor:
        """(0, sqrt(2 gamma u)), of shape (1, 2, 1, …, 1)."""
        check_phase_space(x)
        g = torch.tensor([0.0, math.sqrt(2 * self.gamma * self.u)], dtype=x.dtype, device=x.device)
        return g.reshape(1, 2, *([1] * (x.ndim - 2)))

    def _parts(self) -> tuple[Any, ...]:
        return (*super()._parts(), self.gamma, self.u)

    def __repr__(self) -> str:
        return f"UnderdampedLangevin({self._shown()}, gamma={self.gamma}, u={self.u})"


@final
class OverdampedLangevin(_Langevin):
    """dX = -grad F(X) dt + sqrt(2 T) dW: its stationary density is proportional to exp(-F(X) / T).

    The state has any shape (B, *). It is the limit of the underdamped equation with T = 1 as the friction grows, in
    the time u t / gamma (Smoluchowski 1916; Kramers 1940).

    Args:
        gradient: grad F, a function of the position (B, *) that returns its shape.
        temperature: T, above 0.
        potential: F instead, a function of the position (B, *) that returns (B,), each sample's from that sample alone;
            it is differentiated by autograd, and again where the position or what F is made of requires gradients.
    """

    def __init__(
        self, gradient: Gradient | None = None, temperature: float = 1.0, *, potential: Gradient | None = None
    ) -> None:
        super().__init__(gradient, potential)
        self.temperature = check_positive("temperature", temperature)

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        """-grad F(x), of the shape of x."""
        return -self.gradient(x)

    def diffusion(self, x: Tensor, t: Tensor) -> Tensor:
        """sqrt(2 T), of shape ()."""
        return torch.tensor(self.constant_diffusion, dtype=x.dtype, device=x.device)

    @property
    def constant_diffusion(self) -> float:
        """sqrt(2 T)."""
        return math.sqrt(2 * self.temperature)

    def _parts(self) -> tuple[Any, ...]:
        return (*super()._parts(), self.temperature)

    def __repr__(self) -> str:
        return f"OverdampedLangevin({self._shown()}, temperature={self.temperature})"


def quadratic_langevin_moments(
    k: float,
    t: float,
    mean: Tensor,
    covariance: Tensor | None = None,
    gamma: float = 1.0,
    u: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Mean and covariance of (X_t, V_t) of the underdamped equation with F = k x^2 / 2, exactly, in float64.

    With A = ((0, 1), (-u k, -gamma)) and Q = diag(0, 2 gamma u), the law is Gaussian for a Gaussian start:

        mean = e^{A t} mean_0,    cov = e^{A t} cov_0 e^{A t}^T + int_0^t e^{A s} Q e^{A s}^T ds

    The integral is one block of a matrix exponential (Van Loan 1978) over a time of at most 1/|A|, and is doubled from
    there, so that neither short times lose digits nor long ones overflow; k may be 0 or negative.

    Args:
        k: the potential's curvature.
        t: the time since the start, 0 or more.
        mean: the start's mean (position, velocity), of shape (2,).
        covariance: the start's covariance, of shape (2, 2); None is a start without spread.
        gamma: friction, above 0.
        u: inverse mass, above 0.

    Returns:
        The mean, of shape (2,), and the covariance, of shape (2, 2).
    """
    stiffness, time = check_number("k", k), check_number("t", t)
    friction, inverse_mass = check_positive("gamma", gamma), check_positive("u", u)
    if time < 0:
        raise ArgumentError(f"t is the time since the start, 0 or more; got {t!r}.")
    start = torch.zeros(2, 2, device=mean.device) if covariance is None else covariance
    if mean.shape != (2,) or start.shape != (2, 2):
        raise ShapeError(
            f"expected a mean of shape (2,) and a covariance of shape (2, 2), got {tuple(mean.shape)} and "
            f"{tuple(start.shape)}."
        )
    a = torch.tensor([[0.0, 1.0], [-inverse_mass * stiffness, -friction]], dtype=torch.float64, device="cpu")
    q = torch.tensor([[0.0, 0.0], [0.0, 2 * friction * inverse_mass]], dtype=torch.float64, device="cpu")
    e, spread = _linear_transition(a, q, time)
    return e @ mean.to(e), e @ start.to(e) @ e.T + spread


def _linear_transition(a: Tensor, q: Tensor, t: float) -> tuple[Tensor, Tensor]:
    """e^{A t} and int_0^t e^{A s} Q e^{A s}^T ds."""
    size = float(torch.linalg.matrix_norm(a)) * t
    doublings = max(0, math.ceil(math.log2(size))) if size > 0 else 0
    n = a.shape[0]
    block = torch.cat([torch.cat([-a, q], dim=1), torch.cat([torch.zeros_like(a), a.T], dim=1)])
    exponential = torch.linalg.matrix_exp(block * (t / 2**doublings))
    e = exponential[n:, n:].T
    spread = e @ exponential[:n, n:]
    for _ in range(doublings):
        e, spread = e @ e, e @ spread @ e.T + spread
    return e, (spread + spread.T) / 2


def check_phase_space(x: Tensor) -> None:
    if x.ndim < 2 or x.shape[1] != 2:
        raise ShapeError(
            f"the underdamped equation's state has shape (B, 2, *), position and velocity; got {tuple(x.shape)}. "
            "Put them together by torch.stack([position, velocity], dim=1)."
        )


def _returned(name: str, value: object) -> Tensor:
    if not isinstance(value, Tensor):
        raise ArgumentError(f"the {name} must return a tensor, got {type(value).__name__}.")
    return value


def _differentiate(potential: Gradient, position: Tensor) -> Tensor:
    """grad F by autograd, whatever no-grad mode the caller is in.

    Differentiable again where the caller records a graph, and the position or what the potential is made of requires
    gradients.
    """
    recorded = torch.is_grad_enabled()
    again = recorded and position.requires_grad
    with torch.inference_mode(False), torch.enable_grad():
        # The copy: a tensor made in inference mode cannot be recorded outside it.
        at = position if again else position.detach().clone().requires_grad_(True)
        value = _returned("potential", potential(at))
        if value.shape != position.shape[:1]:
            raise ShapeError(
                f"the potential returned a tensor of shape {tuple(value.shape)} for a position of shape "
                f"{tuple(position.shape)}; expected one number a sample, {tuple(position.shape[:1])}."
            )
        if not value.requires_grad:
            raise ArgumentError(
                "autograd cannot follow the potential back to the position: write it with torch's own operations, "
                "without .detach(), or give the gradient instead."
            )
        if recorded and not again:
            leaves, _ = graph_leaves([value])
            again = any(leaf is not at for leaf in leaves.values())
        (gradient,) = torch.autograd.grad(value.sum(), at, create_graph=again)
    return gradient
