"""The solver contract.

A solver is a small immutable object: class attributes declare what it is, dataclass fields are its options, and
nothing stays in it between calls. `integrate` moves a state along dynamics over a span of time; `init` and `step` do
the same by hand for the fixed-step kinds. A solver that cannot serve some dynamics says so in `check`, before any
evaluation.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, ClassVar, Literal, final

from torch import Tensor

from sdekit.dynamics import Dynamics
from sdekit.errors import UnsupportedError
from sdekit.grids import Grid
from sdekit.noise import NoiseSource
from sdekit.sdes import Calculus, NoiseKind, UnderdampedLangevin
from sdekit.solvers.events import Event
from sdekit.solvers.solution import Solution, SolveState

__all__ = ["AdaptiveSolver", "Observers", "Problem", "Solver", "StepInfo", "Stepper"]

Kind = Literal["step", "table", "bridge", "composition"]


@final
@dataclass
class StepInfo:
    """What a callback is given after each step: `x` may be changed in place; `stop()` ends the solve here."""

    step: int
    steps: int
    t: float
    x: Tensor
    stopped: bool = False

    def stop(self) -> None:
        """End the solve after this step, with status "stopped"."""
        self.stopped = True


@final
@dataclass(frozen=True)
class Observers:
    """Who watches a solve: a progress bar, a callback, a trajectory, a dense output. None of them changes a number.

    places: the times of the grid that a fixed-step solve keeps in its trajectory; all of them unless given.
    """

    progress: bool = False
    callback: Callable[[StepInfo], None] | None = None
    trajectory: bool = False
    dense: bool = False
    places: Tensor | None = None
    event: Event | None = None


@final
@dataclass(frozen=True)
class Problem:
    """One initial value problem: dynamics, the state x (B, *) at the first of `times`, and a source of noise.

    times: float64, strictly monotone; (N + 1,) for a fixed-step solver, (2,) or more for an adaptive one, which returns
    the state at each of them as its trajectory if one is asked for.
    """

    dynamics: Dynamics
    x: Tensor
    times: Tensor
    noise: NoiseSource
    last_noise: bool = True


class Solver(abc.ABC):
    """What every solver declares.

    Attributes:
        name: the catalogue's name.
        kind: "step", "table", "bridge" or "composition".
        stochastic: whether it integrates SDEs (True) or ODEs (False).
        adaptive: whether it chooses its own steps, from rtol and atol.
        order: order of accuracy for an ODE; None for a stochastic solver.
        strong_order, weak_order: for an SDE with the noise kinds it serves; None where none is known.
        strong_orders, weak_orders: (kind of noise, order) where that is another (`strong_order_for`).
        evaluations_per_step: network (or drift) evaluations of one step; None where it varies.
        needs: what the dynamics must offer: "score" for a diffusion model, "underdamped" for Langevin's equation with
            position and velocity, "time past the end" for dynamics that are defined past the end of the solve.
        noise_kinds: the kinds of noise that it serves.
        calculus: the readings of an SDE that it serves.
        noise_option: the option that makes it stochastic where it is not 0, if there is one ("eta", "tau", …).
        own_entries: the readings of an SDE under which it needs each entry of a diagonal diffusion to depend on its own
            entry of x alone, and would be wrong elsewhere.
        differentiates: whether it differentiates the dynamics itself (Milstein's, implicit methods).
        dense: whether it gives the solution between its steps (`solve(…, dense=True)`).
        couples_batch: True where a sample's result depends on its batch (a shared step size, a batch norm).
        default_grid: the grid it takes where none is named.
        reference: authors, year, arXiv id.
    """

    kind: ClassVar[Kind]
    adaptive: ClassVar[bool] = False
    order: ClassVar[float | None] = None
    strong_order: ClassVar[float | None] = None
    weak_order: ClassVar[float | None] = None
    strong_orders: ClassVar[tuple[tuple[NoiseKind, float], ...]] = ()
    weak_orders: ClassVar[tuple[tuple[NoiseKind, float], ...]] = ()
    evaluations_per_step: ClassVar[int | None] = None
    needs: ClassVar[tuple[str, ...]] = ()
    noise_kinds: ClassVar[tuple[NoiseKind, ...]] = ("scalar", "additive", "diagonal", "commutative", "general")
    calculus: ClassVar[tuple[Calculus, ...]] = ("ito", "stratonovich")
    noise_option: ClassVar[str | None] = None
    own_entries: ClassVar[tuple[Calculus, ...]] = ()
    differentiates: ClassVar[bool] = False
    dense: ClassVar[bool] = False
    default_grid: ClassVar[str] = "uniform"
    reference: ClassVar[str]

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """The catalogue's name."""

    @property
    @abc.abstractmethod
    def stochastic(self) -> bool:
        """Whether it integrates SDEs (True) or ODEs (False)."""

    @property
    def own_grid(self) -> Grid | None:
        """The grid of a solver that was made for one; None for any other."""
        return None

    @property
    def couples_batch(self) -> bool:
        """Whether a sample's result depends on the others in its batch."""
        return False

    def strong_order_for(self, noise: NoiseKind) -> float | None:
        """The strong order declared for this kind of noise."""
        return dict(self.strong_orders).get(noise, self.strong_order)

    def weak_order_for(self, noise: NoiseKind) -> float | None:
        """The weak order declared for this kind of noise."""
        return dict(self.weak_orders).get(noise, self.weak_order)

    @abc.abstractmethod
    def integrate(self, problem: Problem, observers: Observers | None = None) -> Solution:
        """Solve the problem.

        Raises:
            UnsupportedError: if this solver cannot serve the dynamics; before any evaluation.
            NonFiniteError: if the state becomes NaN or infinite; names solver, step and time.
        """

    @property
    def serves_models(self) -> bool:
        """Whether it can sample a score model."""
        return not {"underdamped", "time past the end"} & set(self.needs)

    def check(self, dynamics: Dynamics) -> None:
        """Raise UnsupportedError, saying what would serve, if this solver cannot serve `dynamics`."""
        if dynamics.stochastic != self.stochastic:
            wanted, given = ("an SDE", "an ODE") if self.stochastic else ("an ODE", "an SDE")
            other = "ReverseSDE(model)" if self.stochastic else "ProbabilityFlow(model)"
            raise UnsupportedError(
                f"solver {self.name!r} integrates {wanted}, but {dynamics!r} is {given}. "
                f"For a score model take {other}; `sdekit solvers` lists what integrates which."
            )
        if "score" in self.needs and dynamics.model is None:
            raise UnsupportedError(
                f"solver {self.name!r} is built on a score model's alpha, sigma and denoised; {dynamics!r} has none. "
                "Take a solver that sees only drift and diffusion, such as 'euler_maruyama' or 'euler'."
            )
        if dynamics.stochastic and dynamics.noise != "additive" and dynamics.calculus not in self.calculus:
            raise UnsupportedError(
                f"solver {self.name!r} converges to the {' and '.join(self.calculus)} solution; {dynamics!r} is read "
                f"in the {dynamics.calculus} sense. Rewrite the drift, or take a solver of that calculus."
            )
        if "time past the end" in self.needs and dynamics.model is not None:
            raise UnsupportedError(
                f"solver {self.name!r} evaluates at times past the end of its step, where {dynamics!r} is not defined. "
                "Its like that stays within the step is 'sriw1'; for the reverse SDE take 'sosra' or 'shark'."
            )
        if "underdamped" in self.needs and not isinstance(dynamics.sde, UnderdampedLangevin):
            raise UnsupportedError(
                f"solver {self.name!r} is made for the underdamped Langevin equation, "
                f"sdekit.sdes.UnderdampedLangevin; {dynamics!r} is none."
            )
        if dynamics.stochastic and dynamics.noise not in self.noise_kinds:
            raise UnsupportedError(
                f"solver {self.name!r} serves {_listed(self.noise_kinds)} noise; {dynamics!r} has {dynamics.noise} "
                "noise. `sdekit solvers` lists what serves which; 'euler_maruyama' and 'stochastic_heun' serve any."
            )

    def options(self) -> dict[str, Any]:
        """The options this object was made with, by name; a solver that is not a dataclass has none."""
        if not is_dataclass(self):
            return {}
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def __repr__(self) -> str:
        shown = ", ".join(f"{k}={v!r}" for k, v in self.options().items())
        return f"{type(self).__name__}({shown})"


def _listed(words: tuple[str, ...]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


class Stepper(abc.ABC):
    """A fixed-step solver made ready for one problem: buffers, coefficients, noise streams. Lives for one solve."""

    times: Tensor

    @property
    @abc.abstractmethod
    def x(self) -> Tensor:
        """The state as the user sees it; writing into it changes the solve."""

    @abc.abstractmethod
    def advance(self, start: int, stop: int) -> None:
        """Move from the end of step `start` to the end of step `stop`."""

    @abc.abstractmethod
    def registers(self) -> dict[str, Tensor]:
        """The tensors, besides x, that the next steps need."""

    @abc.abstractmethod
    def noise_positions(self) -> tuple[int, ...]:
        """Draws taken from each noise stream."""

    @abc.abstractmethod
    def restore(self, state: SolveState) -> None:
        """Go to a state that `registers` and `noise_positions` described."""

    @property
    @abc.abstractmethod
    def replayable(self) -> bool:
        """Whether steps can be made again from an earlier state with the same noise."""


class AdaptiveSolver(Solver):
    """A solver that chooses its own steps. It takes tolerances, and no step count and no grid."""

    adaptive = True
