r"""Reversible Heun: a Stratonovich method whose steps can be undone to rounding, at one evaluation each.

    y_s = 2 x_t - y_t + f_t h + g_t W,                     f_s = f(y_s, s),   g_s = g(y_s, s)
    x_s = x_t + (f_t + f_s) h/2 + (g_t + g_s) W/2

with y = x at the start. Since y_s and the values at it determine y_t, and so f_t, g_t and x_t, a solve can be gone
through backwards without its states having been kept: `backward_step`.

Kidger, Foster, Li & Lyons 2021, arXiv 2105.13493.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from sdekit.dynamics import Dynamics
from sdekit.solvers.base import Problem, Stepper
from sdekit.solvers.fixed_step import FixedStepSolver
from sdekit.solvers.solution import SolveState
from sdekit.solvers.step import GridStepper, apply_diffusion, ends_at_zero, euler_step, moved

__all__ = ["ReversibleHeun", "ReversibleState", "backward_step", "first_state", "forward_step"]


@final
@dataclass(frozen=True)
class ReversibleState:
    """Where a solve stands at a time t.

    Attributes:
        x: the solution, (B, *).
        x_hat: y, the second solution beside it, (B, *).
        f: the drift at (y, t), (B, *).
        g: the diffusion at (y, t), of the shape that the noise declares.
    """

    x: Tensor
    x_hat: Tensor
    f: Tensor
    g: Tensor


def first_state(dynamics: Dynamics, x: Tensor, t: Tensor) -> ReversibleState:
    """The state of a solve that starts from x, (B, *), at time t; one evaluation."""
    return ReversibleState(x, x, *_values(dynamics, x, t))


def forward_step(
    dynamics: Dynamics, state: ReversibleState, s: Tensor, h: float | Tensor, w: Tensor
) -> ReversibleState:
    """The state at time s = t + h from the one at t; one evaluation, at s. Differentiable; writes into nothing.

    Args:
        dynamics: what is integrated.
        state: that at time t.
        s: the next time, float64, () or (B,).
        h: s - t: a number, or (B, 1, …, 1) in the dtype of x. Negative where time falls.
        w: the Brownian increment over the step, of dynamics.noise_shape(x.shape), with variance |h|.
    """
    x, y, f, g = state.x, state.x_hat, state.f, state.g
    y_s = moved(2 * x - y, f, h) + apply_diffusion(dynamics, g, w, x)
    f_s, g_s = _values(dynamics, y_s, s)
    return ReversibleState(x + _change(dynamics, f, f_s, g, g_s, h, w), y_s, f_s, g_s)


def backward_step(
    dynamics: Dynamics, state: ReversibleState, t: Tensor, h: float | Tensor, w: Tensor
) -> ReversibleState:
    """The state at time t = s - h from the one at s: `forward_step` undone, to rounding; one evaluation, at t.

    Args:
        dynamics: what is integrated.
        state: that at time s.
        t: the time before, float64, () or (B,).
        h: s - t, as it was given to `forward_step`.
        w: the Brownian increment from t to s, as it was given to `forward_step`.
    """
    x_s, y_s, f_s, g_s = state.x, state.x_hat, state.f, state.g
    y = moved(2 * x_s - y_s, f_s, -h) - apply_diffusion(dynamics, g_s, w, x_s)
    f, g = _values(dynamics, y, t)
    return ReversibleState(x_s - _change(dynamics, f, f_s, g, g_s, h, w), y, f, g)


def _values(dynamics: Dynamics, y: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """f and g as tensors of their own: either may give the same buffer again at its next call."""
    return dynamics.drift(y, t).clone(), dynamics.diffusion(y, t).clone()


def _change(dynamics: Dynamics, f: Tensor, f_s: Tensor, g: Tensor, g_s: Tensor, h: float | Tensor, w: Tensor) -> Tensor:
    """(f_t + f_s) h/2 + (g_t + g_s) W/2."""
    return (f + f_s) * (0.5 * h) + apply_diffusion(dynamics, g + g_s, 0.5 * w, f)


@final
@dataclass(frozen=True, repr=False)
class ReversibleHeun(FixedStepSolver):
    r"""y_s = 2 x_t - y_t + f_t h + g_t W;   x_s = x_t + (f_t + f_s) h/2 + (g_t + g_s) W/2,   f_s, g_s at (y_s, s)

    One evaluation a step, and one at the start. Stratonovich; strong order 1 for additive, scalar, diagonal and
    commutative noise, 1/2 for general noise.

    It is for gradients, whose memory it saves, and pays with its stability: on dx = -k x dt it has, beside e^{-k t}, a
    second solution of the size e^{k t}, whatever the step. Over times long against 1/k it is of no use, and on the
    reverse SDE of a model with large sigma (EDM's) it needs very many steps; for a solve alone 'stochastic_heun' is the
    better choice. The last step of a reverse SDE to sigma = 0 is Euler's. Where x is changed between steps (by a
    callback, a corrector) it starts anew.

    Kidger, Foster, Li & Lyons 2021, arXiv 2105.13493.
    """

    kind = "step"
    name = "reversible_heun"
    strong_order = 1.0
    weak_order = 1.0
    strong_orders = (("general", 0.5),)
    evaluations_per_step = 1
    calculus = ("stratonovich",)
    reference = "Kidger, Foster, Li & Lyons 2021, arXiv 2105.13493"

    @property
    def stochastic(self) -> bool:
        return True

    def stepper(self, problem: Problem) -> Stepper:
        return _ReversibleStepper(problem)


@final
class _ReversibleStepper(GridStepper):
    """`forward_step` along the grid."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self._at: ReversibleState | None = None
        # A step to where sigma = 0, and the score infinite, is Euler's.
        self._euler = len(self._steps) - int(ends_at_zero(problem.dynamics, float(problem.times[-1])))

    def advance(self, start: int, stop: int) -> None:
        dynamics, clock = self._dynamics, self._clock[start : stop + 1].unbind(0)
        state = self._current()
        for k in range(start, stop):
            t, s, h, noise = clock[k - start], clock[k - start + 1], self._steps[k], self.stream.next()
            if k == self._euler:
                self._at = None
                self._x.copy_(euler_step(dynamics, self._x if state is None else state.x, t, h, noise))
                return
            state = forward_step(dynamics, state or first_state(dynamics, self._x.clone(), t), s, h, noise.W)
        if state is not None:
            self._at = state
            self._x.copy_(state.x)

    def _current(self) -> ReversibleState | None:
        """Where the last step ended; None before the first, and where x has been changed since."""
        return self._at if self._at is not None and torch.equal(self._at.x, self._x) else None

    def registers(self) -> dict[str, Tensor]:
        state = self._current()
        # With the x that they belong to: one that is changed in a saved state has no others.
        return {} if state is None else {"x": state.x, "x_hat": state.x_hat, "f": state.f, "g": state.g}

    def restore(self, state: SolveState) -> None:
        super().restore(state)
        kept = {name: register.clone() for name, register in state.registers.items()}
        self._at = ReversibleState(**kept) if kept else None
