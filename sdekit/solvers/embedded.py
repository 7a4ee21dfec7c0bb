"""Embedded methods: step solvers whose step comes with an estimate of its own error."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from sdekit.dynamics import Dynamics
from sdekit.errors import UnsupportedError
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
        cruder: another estimate, of lower order, for a method that joins the norms of the two (`Controller.error`).
        stages: h times the drifts at its stages and at its end, for an `interpolant`; () where there is none.
        evaluations: what each sample's own step took, int64 (B,), where samples differ.
    """

    x: Tensor
    error: Tensor
    last: Tensor | None = None
    cruder: Tensor | None = None
    stages: tuple[Tensor, ...] = ()
    evaluations: Tensor | None = None


class EmbeddedSolver(StepSolver):
    """A one-step method with an embedded error, for fixed steps and, as the method of `Adaptive`, for chosen ones.

    Attributes:
        error_order: k, where the error estimate of a step of length h falls like h^k.
        first_is_last: whether `Pair.last` is given: the next step's first drift costs nothing then.
        dense_order: the order of `interpolant`; None for a method that has none.
        dense_evaluations: the evaluations that it costs beyond the step's.
    """

    error_order: ClassVar[float]
    first_is_last: ClassVar[bool] = False
    dense_order: ClassVar[int | None] = None
    dense_evaluations: ClassVar[int] = 0

    @property
    def most_evaluations(self) -> int:
        """The evaluations that a step takes at most, where their number varies; else those that it takes."""
        return self.evaluations_per_step or 1

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

    def interpolant(
        self, dynamics: Dynamics, x: Tensor, t: Tensor, s: Tensor, h: float | Tensor, pair: Pair
    ) -> tuple[Tensor, ...]:
        """The solution between t and s, where `pair` is the step: what `interpolate` of `dense` takes beside x.

        Raises:
            UnsupportedError: for a method that has none (`dense_order` is None).
        """
        raise UnsupportedError(f"solver {self.name!r} has no interpolation between its steps.")

    def check_adaptive(self, dynamics: Dynamics) -> None:
        """Raise UnsupportedError where steps chosen by the embedded error would not lead to the solution."""
