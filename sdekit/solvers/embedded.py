"""Embedded methods: step solvers whose step comes with an estimate of its own error."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from sdekit.dynamics import Dynamics
from sdekit.noise import Increment
from sdekit.solvers.step import StepSolver

__all__ = ["EmbeddedSolver", "Pair"]


@final
@dataclass(frozen=True)
class Pair:
    """A step with its error.

    Attributes:
        x: the state at the end of the step, (B, *).
        error: an estimate of its error, (B, *).
        last: the drift at the end of the step, at x, where the method has evaluated it.
        stages: the drifts at its stages, for an interpolation over the step; () where it makes none.
    """

    x: Tensor
    error: Tensor
    last: Tensor | None = None
    stages: tuple[Tensor, ...] = ()


class EmbeddedSolver(StepSolver):
    """A one-step method with an embedded error, for fixed steps and, as the method of `Adaptive`, for chosen ones.

    Attributes:
        error_order: k, where the error estimate of a step of length h falls like h^k.
        first_is_last: whether `Pair.last` is given: the next step's first drift costs nothing then.
    """

    error_order: ClassVar[float]
    first_is_last: ClassVar[bool] = False

    @abc.abstractmethod
    def pair(
        self,
        dynamics: Dynamics,
        x: Tensor,
        t: Tensor,
        s: Tensor,
        h: float | Tensor,
        noise: Increment | None,
        first: Tensor | None = None,
    ) -> Pair:
        """The step with its error; arguments as in `step_formula`.

        first: the drift at (x, t), where it is known already; it is not evaluated again then.
        """

    def step_formula(
        self, dynamics: Dynamics, x: Tensor, t: Tensor, s: Tensor, h: float | Tensor, noise: Increment | None
    ) -> Tensor:
        """The state of `pair`."""
        return self.pair(dynamics, x, t, s, h, noise).x

    def check_adaptive(self, dynamics: Dynamics) -> None:
        """Raise UnsupportedError where steps chosen by the embedded error would not lead to the solution."""
