r"""A fixed-step solver whose solution autograd can follow, by one of three ways.

    backprop     the graph of all N steps is kept: memory O(N)
    checkpoint   states at sqrt(N) places are kept, and between them the steps are made again, noise and all, as the
                 gradient passes: memory O(sqrt(N)), one more solve's time (Chen et al. 2016, arXiv 1604.06174)
    reversible   nothing but the end is kept; each step of reversible Heun is undone as the gradient passes: memory
                 O(1), two more evaluations a step (Kidger et al. 2021, arXiv 2105.13493)

The derivative is that of the numbers computed, on the noise drawn (pathwise): all three give it, to rounding. What
"reversible" goes back to is the state to rounding, and the weak stability of reversible Heun makes that grow: compare
with "checkpoint" where a drift is stiff. A second derivative is to be had from "backprop" alone.

Generators of torch cannot seek: their state, 5 kB, is kept for each place at which drawing begins again (every 32 steps
with "reversible"). Seeds and Brownian paths keep nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from sdekit.dynamics import ProbabilityFlow
from sdekit.errors import ArgumentError, UnknownNameError, UnsupportedError
from sdekit.solvers.base import Observers, Problem, Solver
from sdekit.solvers.fixed_step import FixedStepSolver
from sdekit.solvers.gradients.checkpoints import go_by_segments
from sdekit.solvers.gradients.reversible import go_reversibly
from sdekit.solvers.gradients.steps import State, Steps
from sdekit.solvers.progress import progress_bar
from sdekit.solvers.sde.reversible_heun import ReversibleHeun
from sdekit.solvers.solution import Solution
from sdekit.solvers.step import StepSolver

__all__ = ["MODES", "Differentiable"]

MODES = ("backprop", "checkpoint", "reversible")
_SERVED = "the step solvers ('euler_maruyama', 'milstein', 'stochastic_heun', 'sra1', 'rk4', …) on a grid"


@final
class Differentiable(Solver):
    """A step solver, or reversible Heun, whose `integrate` gives a solution with a graph.

    Args:
        solver: what integrates.
        mode: "backprop", "checkpoint", or, for reversible Heun, "reversible".
        parameters: tensors that the dynamics depend on, for the ways that must know them: most are found, not all.
        keep: of a trajectory, the times to be kept, float64; all unless given.

    Raises:
        ArgumentError: for another mode, or for parameters that are no tensors that require gradients.
        UnsupportedError: for a solver whose steps autograd cannot follow.
    """

    kind = "step"

    def __init__(
        self,
        solver: Solver,
        mode: str,
        parameters: Sequence[Tensor] | None = None,
        keep: Tensor | None = None,
    ) -> None:
        if mode not in MODES:
            raise UnknownNameError("gradient", mode, MODES)
        if solver.adaptive:
            raise UnsupportedError(
                f"solver {solver.name!r} chooses its own steps, which has no gradient here; {_SERVED} have."
            )
        if not isinstance(solver, (StepSolver, ReversibleHeun)):
            raise UnsupportedError(
                f"solver {solver.name!r} has no gradient: its solve is no sequence of steps that autograd can follow; "
                f"{_SERVED} have."
            )
        if mode == "reversible" and not isinstance(solver, ReversibleHeun):
            raise UnsupportedError(
                f"the steps of solver {solver.name!r} cannot be undone; gradient='reversible' goes with "
                "'reversible_heun', and 'checkpoint' with any."
            )
        self._solver: FixedStepSolver = solver
        self._mode, self._parameters, self._keep = mode, _checked(parameters), keep

    @property
    def name(self) -> str:
        return self._solver.name

    @property
    def stochastic(self) -> bool:
        return self._solver.stochastic

    @property
    def couples_batch(self) -> bool:
        return self._solver.couples_batch

    @property
    def reference(self) -> str:  # type: ignore[override]
        return self._solver.reference

    def integrate(self, problem: Problem, observers: Observers | None = None) -> Solution:
        """As the solver's own, with the graph; `nfe` counts the evaluations up to here, not the gradient's.

        Raises:
            ArgumentError: if neither the start nor the dynamics require gradients.
        """
        watch = observers or Observers()
        self._solver.check(problem.dynamics)
        if isinstance(problem.dynamics, ProbabilityFlow) and self._solver.options().get("variable", "t") != "t":
            raise UnsupportedError(
                f"solver {self.name!r} integrates a model's probability flow in sigma, as a table, which has no "
                "gradient; its variable='t' has."
            )
        if torch.is_inference_mode_enabled():
            raise ArgumentError("in inference mode autograd records nothing: call with gradient=… outside it.")
        dynamics = problem.dynamics.counted()
        with torch.enable_grad():
            steps = Steps(self._solver, Problem(dynamics, problem.x, problem.times, problem.noise, problem.last_noise))
            places = self._places(problem.times) if watch.trajectory else []
            x, kept = self._run(steps, [place for place in places if place > 0], watch.progress)
        if not x.requires_grad:
            raise ArgumentError(
                f"gradient={self._mode!r} was asked for, but neither x0 nor anything that the dynamics depend on "
                "requires gradients; call .requires_grad_() on what shall have one."
            )
        if places and places[0] == 0:
            kept = [problem.x, *kept]
        return Solution(
            x=x,
            t=float(problem.times[-1]),
            nfe=dynamics.counter.calls,
            status="success",
            times=problem.times,
            trajectory=torch.stack(kept) if watch.trajectory else None,
            trajectory_times=problem.times[places] if watch.trajectory else None,
            stats={"steps": steps.count},
        )

    def _places(self, times: Tensor) -> list[int]:
        """The numbers of the times to be kept."""
        wanted = torch.ones(len(times), dtype=torch.bool) if self._keep is None else torch.isin(times, self._keep)
        return [int(i) for i in wanted.nonzero()[:, 0]]

    def _run(self, steps: Steps, places: list[int], progress: bool) -> tuple[Tensor, list[Tensor]]:
        """x at the end, and at the places asked for."""
        with progress_bar(progress, total=steps.count, name=self.name) as bar:
            if self._mode == "backprop":
                state: State = steps.begin()
                kept = []
                with steps.noise_from(0):
                    for k in range(steps.count):
                        state = steps.one(state, k)
                        kept += [state[0]] if k + 1 in places else []
                        bar.update(1)
                return state[0], kept
            steps.check_repeatable(self._mode)
            go = go_reversibly if self._mode == "reversible" else go_by_segments
            return go(steps, places, self._parameters, bar.update)


def _checked(parameters: Sequence[Tensor] | None) -> list[Tensor]:
    given = [] if parameters is None else parameters
    if isinstance(given, Tensor) or not isinstance(given, Sequence):
        raise ArgumentError(f"gradient_parameters is a list of tensors, got {type(given).__name__}.")
    for tensor in given:
        if not isinstance(tensor, Tensor) or not tensor.requires_grad:
            said = f"one of shape {tuple(tensor.shape)} that does not" if isinstance(tensor, Tensor) else repr(tensor)
            raise ArgumentError(f"gradient_parameters holds tensors that require gradients, got {said}.")
    return list(given)
