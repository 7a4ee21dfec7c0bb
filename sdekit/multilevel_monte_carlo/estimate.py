r"""Multilevel Monte Carlo: the expectation of a function of the end state, to a given tolerance.

    E[P_L] = E[P_0] + sum_{l=1}^L E[P_l - P_{l-1}]

where P_l is the function after M_0 r^l steps. Each difference is taken between two solves on one Brownian path, the
coarse increments being the sums of the fine ones, so that its variance V_l falls with l and few samples do. The cost
sum N_l C_l is least, for a given variance sum V_l/N_l, at N_l in proportion to sqrt(V_l/C_l).

Giles 2008, "Multilevel Monte Carlo path simulation"; Giles 2015, "Multilevel Monte Carlo methods", Acta Numerica 24.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from sdekit._long_runs import RunFile, fingerprint, without_addresses
from sdekit._tensors import check_number, check_positive, check_positive_integer, check_state
from sdekit.dynamics import Dynamics, ForwardSDE, as_dynamics
from sdekit.ensembles import chosen_solver
from sdekit.errors import ArgumentError, ShapeError, UnsupportedError
from sdekit.multilevel_monte_carlo.coupled import CoupledSolves
from sdekit.multilevel_monte_carlo.levels import Levels, OutOfEvaluations
from sdekit.multilevel_monte_carlo.result import Multilevel, Status, normal_quantile
from sdekit.noise.keyed import check_seed
from sdekit.sampling import check_derivatives
from sdekit.sdes import AbstractSDE
from sdekit.sdes.torchsde_style import TorchsdeObject
from sdekit.solvers.progress import Bar, progress_bar
from sdekit.solvers.step import StepSolver

__all__ = ["multilevel"]

_FIRST_LEVELS = 3
_NEAR = 0.01  # of what the tolerance leaves to the statistical error
_BIAS_SHARE = 0.5  # of the tolerance, at most


def multilevel(
    sde: AbstractSDE | Dynamics | TorchsdeObject,
    x0: Tensor,
    function: Callable[[Tensor], Tensor],
    *,
    t0: float,
    t1: float,
    tolerance: float,
    solver: str | StepSolver = "milstein",
    confidence: float = 0.95,
    first_steps: int = 2,
    refinement: int = 2,
    max_levels: int = 12,
    max_evaluations: int | None = None,
    save_at: Sequence[float] | Tensor | None = None,
    seed: int | None = None,
    progress: bool = False,
    resume: Mapping[str, Any] | None = None,
    checkpoint: str | Path | None = None,
    **options: Any,
) -> Multilevel:
    """E[function(x_t1)] to within the tolerance, with the probability `confidence`.

    Levels are added until the bias, extrapolated from the last differences by the weak order, fits into half of the
    tolerance; samples, until z standard errors fit into what it leaves. Where the variance of the differences falls
    faster than their cost grows (strong order above 1/2, a Lipschitz function) the cost goes like tolerance^-2; plain
    Monte Carlo's goes like tolerance^-3 with a method of weak order 1.

    The function's variance must be finite. Where a few samples carry what is found of it the status says so; where it
    is infinite the tolerance may never be met: `max_evaluations` or Ctrl-C ends the work, and what was found is
    returned.

    Args:
        sde: the SDE.
        x0: the state at t0, (1, *).
        function: of the end state (B, *), or with `save_at` of the states (T, B, *); returns (B,).
        t0, t1: from where to where, in either direction.
        tolerance: the error allowed.
        solver: a step solver for SDEs, by name or as an object. "milstein" serves scalar, additive, diagonal and
            commutative noise; "milstein_free" is quicker with small states.
        confidence: the probability of an error below the tolerance.
        first_steps: steps of the coarsest level: enough to be stable.
        refinement: r, how many times the steps of a level the next has.
        max_levels: levels at most.
        max_evaluations: drift evaluations at most; no bound if None.
        save_at: times at which the coarsest steps end, in the order of the solve; the end's if None.
        seed: of the noise; drawn by torch's global generator if None.
        progress: show a bar, of samples, which grows with what is found to be needed.
        resume: the `state` of such a run: interrupted, out of evaluations, or to a larger tolerance.
        checkpoint: a file in which the state is kept, written every half a minute and at the end. If there is one
            already, the run goes on from it.
        options: the solver's own, where it is given by name.

    Raises:
        ArgumentError, ShapeError, UnknownNameError, UnsupportedError: before the first path.
        NonFiniteError: if a path becomes non-finite.
        ArgumentError: if a value of the function does.
    """
    x0 = check_state("x0", x0)
    if x0.shape[0] != 1:
        raise ShapeError(f"x0 must hold the one state (1, *) from which all paths start, got {tuple(x0.shape)}.")
    start, stop = check_number("t0", t0), check_number("t1", t1)
    if start == stop:
        raise ArgumentError(f"t0 and t1 are the same time, {start!r}; give the paths somewhere to go.")
    check_positive("tolerance", tolerance)
    if not 0 < check_number("confidence", confidence) < 1:
        raise ArgumentError(f"confidence must be between 0 and 1, got {confidence!r}.")
    check_positive_integer("first_steps", first_steps)
    if check_positive_integer("refinement", refinement) < 2 or check_positive_integer("max_levels", max_levels) < 2:
        raise ArgumentError(
            f"refinement and max_levels must be 2 or more, got refinement={refinement}, max_levels={max_levels}."
        )
    if max_evaluations is not None:
        check_positive_integer("max_evaluations", max_evaluations)
    file = RunFile(checkpoint)
    if resume is None:
        resume = file.load()
    if resume is not None:
        seed = _resumed_seed(resume, seed)
    seed = int(torch.randint(2**62, ())) if seed is None else check_seed("seed", seed)
    dynamics, method = _method(as_dynamics(sde, x0, start), x0, (start, stop), solver, options)
    solves = CoupledSolves(dynamics, method, x0, function, (start, stop), first_steps, refinement, save_at, seed)
    run = _Run(solves, tolerance, confidence, max_levels, max_evaluations)
    if resume is not None:
        run.load(resume)
    with progress_bar(progress, total=_FIRST_LEVELS, name="multilevel", unit="path") as bar:
        return run.result(run.work(bar, file))


def _method(
    dynamics: Dynamics, x0: Tensor, span: tuple[float, float], solver: str | StepSolver, options: dict[str, Any]
) -> tuple[ForwardSDE, StepSolver]:
    """What the levels solve, and by what."""
    if not isinstance(dynamics, ForwardSDE):
        raise UnsupportedError(f"multilevel Monte Carlo is for the expectations of an SDE; {dynamics!r} is none.")
    chosen, _ = chosen_solver(solver, dynamics, None, options)
    if not isinstance(chosen, StepSolver) or not chosen.stochastic:
        raise UnsupportedError(
            f"solver {chosen.name!r} is no step solver for SDEs; take 'milstein', 'milstein_free', 'euler_maruyama', "
            "'sra1', 'sriw1' or another of them."
        )
    if chosen.strong_order is None:
        raise UnsupportedError(
            f"solver {chosen.name!r} has no strong order: its levels would not be near each other path by path, which "
            "multilevel Monte Carlo saves by. Take 'milstein', 'sriw1' or 'euler_maruyama', or sk.ensemble with it."
        )
    t0, t1 = span
    dynamics.rows(slice(0, 1), tuple(x0.shape))  # parameters of many samples are no parameters of all
    reread = dynamics.read_by(chosen.calculus, falling=t0 > t1)
    chosen.check(reread)
    check_derivatives(chosen, dynamics, reread, x0, torch.tensor(t0, dtype=torch.float64, device=x0.device))
    return reread, chosen


@final
class _Run:
    """Levels and samples added until the error fits. What is next follows from what there is, so that it can resume."""

    def __init__(
        self, solves: CoupledSolves, tolerance: float, confidence: float, max_levels: int, max_evaluations: int | None
    ) -> None:
        self._solves, self._tolerance, self._confidence, self._most = solves, tolerance, confidence, max_levels
        self._z = normal_quantile(confidence)
        self.levels = Levels(solves, max_evaluations)

    def work(self, bar: Bar, file: RunFile) -> Status:
        """Sample, to the end or until Ctrl-C."""
        try:
            status = self._sampled(bar, file)
        except KeyboardInterrupt:
            status = "interrupted"
        except OutOfEvaluations:
            status = "max_evaluations"
        file.save(self.state, now=True)
        return status

    def _sampled(self, bar: Bar, file: RunFile) -> Status:
        levels, allowed = self.levels, _BIAS_SHARE * self._tolerance
        while True:
            _grow(bar, sum(max(0, sums.target - sums.count) for sums in levels.sums))
            levels.reach(bar, lambda: file.save(self.state))
            if len(levels) < min(_FIRST_LEVELS, self._most):
                levels.open()
                continue
            if levels.search():
                continue
            _, bias = levels.bias()
            if levels.want((self._tolerance - min(bias, allowed)) / self._z):
                continue
            if bias <= allowed and self._z * levels.std_error() <= (self._tolerance - bias) * (1 + _NEAR):
                return "heavy_tails" if levels.heavy_tails() else "success"
            if len(levels) == self._most:
                return "max_levels"
            levels.open()

    def state(self) -> dict[str, Any]:
        """What a run goes on from."""
        return {"seed": self._solves.seed, "problem": self._problem(), "levels": self.levels.to_list()}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state.

        Raises:
            ArgumentError: if it is one of another problem.
        """
        if state["problem"] != self._problem():
            raise ArgumentError(
                f"the state to resume from has the problem {state['problem']!r}; this one is {self._problem()!r}."
            )
        self.levels.load(state["levels"])

    def _problem(self) -> str:
        """What determines the samples, as text, but for the code of functions."""
        solves = self._solves
        own = getattr(solves.function, "__qualname__", type(solves.function).__name__)
        return without_addresses(
            f"{own} of {solves.dynamics!r} by {solves.solver!r} from {solves.ends[0]} to {solves.ends[1]} at "
            f"{solves.places}, {solves.first_steps} steps and {solves.refinement} times as many, tensors "
            f"{fingerprint(solves.x0, solves.dynamics, solves.function)}"
        )

    def result(self, status: Status) -> Multilevel:
        """All of it."""
        levels = self.levels.sampled()
        lines = levels.lines()
        order, bias = levels.bias()
        error = levels.std_error() if lines else math.inf
        plain = 0
        if lines:
            r = self._solves.refinement
            alone = lines[-1].evaluations * (r / (r + 1) if len(lines) > 1 else 1)  # without the coarse solve
            plain = math.ceil((lines[-1].fine_variance / error**2 if error else 1) * alone)
        return Multilevel(
            value=sum(line.mean for line in lines) if lines else math.nan,
            std_error=error,
            bias=bias,
            tolerance=self._tolerance,
            confidence=self._confidence,
            levels=lines,
            evaluations=sum(line.samples * line.evaluations for line in lines),
            plain_evaluations=plain,
            weak_order=order,
            status=status,
            seed=self._solves.seed,
            state=self.state(),
        )


def _resumed_seed(state: Mapping[str, Any], seed: int | None) -> int:
    if not isinstance(state, Mapping) or not {"seed", "problem", "levels"} <= set(state):
        raise ArgumentError("resume takes the `state` of a Multilevel, a dict with seed, problem and levels.")
    if seed is not None and seed != state["seed"]:
        raise ArgumentError(f"the state to resume from has the seed {state['seed']}, not {seed}; leave seed out.")
    return int(state["seed"])


def _grow(bar: Any, more: int) -> None:
    if hasattr(bar, "total"):
        bar.total = max(bar.total, bar.n + more)
