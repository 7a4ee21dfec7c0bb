"""Ensembles: statistics over any number of paths, made in chunks of bounded memory; interrupted and resumed."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, final

import torch
from torch import Tensor

from sdekit._long_runs import RunFile, fingerprint, uninterrupted, without_addresses
from sdekit._tensors import check_number, check_positive_integer, check_state
from sdekit.dynamics import Dynamics, ForwardSDE, as_dynamics
from sdekit.errors import ArgumentError, NonFiniteError, ShapeError, UnsupportedError
from sdekit.noise.keyed import check_seed
from sdekit.running_statistics import RunningStatistics
from sdekit.sampling import solve
from sdekit.sdes import AbstractSDE
from sdekit.sdes.torchsde_style import TorchsdeObject
from sdekit.solvers.base import Solver
from sdekit.solvers.catalogue import get, on_sde
from sdekit.solvers.ecosystem import recipe
from sdekit.solvers.fixed_step import FixedStepSolver
from sdekit.solvers.progress import progress_bar
from sdekit.solvers.solution import SolveState

__all__ = ["Ensemble", "chosen_solver", "ensemble"]

Status = Literal["success", "interrupted"]
_MEMORY = 256 << 20  # bytes that a chunk may take
_BUFFERS = 24  # of the size of the state that a step may hold at once, noise ahead of it included
_QUICKEST = 1 << 16  # entries of a state at which the cost of a call no longer counts, and the caches still hold it
_BLOCK = 4096  # samples that statistics take in at a time, fewer where they are large: whatever the chunk


@final
@dataclass(frozen=True)
class Ensemble:
    """What is known of an ensemble: its statistics, entry by entry, and where it can go on.

    Attributes:
        statistics: of the end state (*), of the states at `times` (T, *), or of the function's values.
        times: the times of `save_at`, float64 (T,); the end's (1,) where there were none.
        seed: the seed of the paths.
        status: "success", or "interrupted" by Ctrl-C: the statistics are those of the paths done until then.
        evaluations: drift evaluations, over all paths made by this call.
        values: (n, …), what the statistics are of, where keep=True.
        state: what `resume=` takes: plain values, fit for `torch.save`, and for JSON unless keep=True.
    """

    statistics: RunningStatistics
    times: Tensor
    seed: int
    status: Status
    evaluations: int
    values: Tensor | None = None
    state: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def count(self) -> int:
        """The number of paths."""
        return self.statistics.count

    @property
    def mean(self) -> Tensor:
        """The mean."""
        return self.statistics.mean

    @property
    def variance(self) -> Tensor:
        """The unbiased variance."""
        return self.statistics.variance

    @property
    def std_error(self) -> Tensor:
        """The mean's standard error."""
        return self.statistics.std_error

    def quantile(self, q: float) -> Tensor:
        """The q-quantile, if `quantiles` were asked for; see RunningStatistics for its error."""
        return self.statistics.quantile(q)


def ensemble(
    sde: AbstractSDE | Dynamics | TorchsdeObject,
    x0: Tensor,
    n: int,
    *,
    t0: float | None = None,
    t1: float | None = None,
    solver: str | Solver = "euler_maruyama",
    steps: int | None = None,
    grid: Any = None,
    seed: int | None = None,
    save_at: Sequence[float] | Tensor | None = None,
    function: Callable[[Tensor], Tensor] | None = None,
    quantiles: Sequence[float] = (),
    keep: bool = False,
    chunk: int | None = None,
    progress: bool = False,
    resume: Mapping[str, Any] | None = None,
    checkpoint: str | Path | None = None,
    **options: Any,
) -> Ensemble:
    """n paths from x0, of which only statistics are kept: mean, variance, extremes and, if asked for, quantiles.

    Path i has the noise of sample i of the seed, so it is the path that `solve(…, seed=seed, first=i)` makes. The
    result does not depend on the chunk: statistics take the samples in by blocks of their own, so that they have the
    same bits wherever the paths do, which is where drift and diffusion work entry by entry; elsewhere they agree to
    rounding.

    Ctrl-C ends the run with the statistics of what was done, status "interrupted", and a `state` to resume from. A
    `checkpoint` file outlives whatever else may end it.

    Args:
        sde: the SDE, or what else `solve` takes; with parameters for each sample, n of them.
        x0: the state at t0 of every path, (1, *), or of each, (n, *).
        n: the number of paths.
        t0, t1, solver, steps, grid, options: as in `solve`.
        seed: of the noise; drawn by torch's global generator if None.
        save_at: times at which statistics are wanted, in the order of the solve; the end's if None. No path goes on
            after the last of them.
        function: what the statistics are of, in place of the states: a function of the end state (B, *), or with
            `save_at` of the states (T, B, *), that returns (B, …).
        quantiles: fractions whose quantiles `statistics.summary()` gives; () keeps no sketch, which is faster.
        keep: also keep what the statistics are of, (n, …).
        chunk: paths at a time; as many as are quickest, within 256 MB, if None.
        progress: show a bar.
        resume: the `state` of such a run that was interrupted, or of a shorter one: n may be larger, where x0 and the
            parameters are the same for all paths.
        checkpoint: a file in which the state is kept, written every half a minute and at the end. If there is one
            already, the run goes on from it.

    Raises:
        ArgumentError, ShapeError, UnknownNameError, UnsupportedError: as `solve`, before the first path.
        NonFiniteError: if a path becomes non-finite; its samples are numbers of paths.
    """
    n = check_positive_integer("n", n)
    x0 = check_state("x0", x0)
    if x0.shape[0] not in (1, n):
        raise ShapeError(f"x0 must hold one state, (1, *), or one for each path, ({n}, *); got {tuple(x0.shape)}.")
    first_time = float(t0) if isinstance(t0, int | float) else 0.0
    dynamics = as_dynamics(sde, x0[:1], first_time)
    chosen, grid = chosen_solver(solver, dynamics, grid, options)
    settings = {"t0": t0, "t1": t1, "steps": steps, "grid": grid}
    plan = _Plan(dynamics, x0, n, chosen, settings, save_at, function)
    file = RunFile(checkpoint)
    if resume is None:
        resume = file.load()
    if resume is not None:
        seed = _resumed_seed(resume, seed)
    seed = int(torch.randint(2**62, ())) if seed is None else check_seed("seed", seed)
    size = plan.chunk() if chunk is None else check_positive_integer("chunk", chunk)
    tally = _Tally(plan, quantiles, keep, seed)
    if resume is not None:
        tally.load(resume)
    evaluations = 0
    status: Status = "success"
    with progress_bar(progress, total=n, initial=tally.done, name="ensemble", unit="path") as bar:
        try:
            for start in range(tally.done, n, size):
                stop = min(start + size, n)
                values, made = plan.paths(start, stop, seed)
                with uninterrupted():
                    tally.take(values)
                    evaluations += made
                bar.update(stop - start)
                file.save(tally.state)
        except KeyboardInterrupt:
            status = "interrupted"
        file.save(tally.state, now=True)
    return tally.result(status, evaluations)


def chosen_solver(
    solver: str | Solver, dynamics: Dynamics, grid: Any, options: Mapping[str, Any]
) -> tuple[Solver, Any]:
    """The solver that `solve` takes for these arguments, with its options, and the grid."""
    if isinstance(solver, str):
        named = recipe(solver)
        name = on_sde(named.solver) if isinstance(dynamics, ForwardSDE) else named.solver
        return get(name, **{**named.options, **options}), named.grid if grid is None else grid
    if not isinstance(solver, Solver):
        raise ArgumentError(f"solver must be a name or a Solver, got {solver!r}.")
    if options:
        raise ArgumentError(
            f"unknown argument(s) {', '.join(map(repr, sorted(options)))}: options of a solver given as an object "
            "are set where it is made."
        )
    return solver, grid


@final
class _Plan:
    """What is solved, and what of it is looked at; all of it checked before the first path."""

    def __init__(
        self,
        dynamics: Dynamics,
        x0: Tensor,
        n: int,
        solver: Solver,
        settings: Mapping[str, Any],
        save_at: Sequence[float] | Tensor | None,
        function: Callable[[Tensor], Tensor] | None,
    ) -> None:
        if function is not None and not callable(function):
            raise ArgumentError(f"function must be a function of the states, got {function!r}.")
        if solver.couples_batch:
            raise UnsupportedError(
                f"solver {solver.name!r} with these options couples the paths of a chunk, so that the result would "
                "depend on it. Take its per-sample option (per_sample=True, norms='sample')."
            )
        self.dynamics, self.x0, self.n, self.function = dynamics, x0, n, function
        self._solver, self._of_saved = solver, save_at is not None
        self._settings: dict[str, Any] = {"solver": solver, **settings}
        one = dynamics.rows(slice(0, 1), (n, *x0.shape[1:]))
        self._places: list[int] | None = None
        if isinstance(solver, FixedStepSolver):
            # A solve that stops before its first step checks everything, and tells the grid.
            times = solve(
                one, x0[:1], save_at=save_at, seed=0 if one.stochastic else None, stop=0, **self._settings
            ).times
            self._settings = {"solver": solver, "grid": times}
        else:
            solver.check(one)
            ends = [check_number(name, settings[name]) for name in ("t0", "t1")]
            times = torch.tensor(ends, dtype=torch.float64, device="cpu")
            self._settings["save_at"] = save_at
        asked = times[-1:] if save_at is None else torch.as_tensor(save_at, dtype=torch.float64).flatten()
        self.times = asked.to("cpu")
        if isinstance(solver, FixedStepSolver):
            self._places = [int((times - t).abs().argmin()) for t in self.times]
        probe = x0[:1].expand(2, *x0.shape[1:])
        self.shape = tuple(self._looked_at(probe.expand(len(self.times), *probe.shape)).shape[1:])
        self._grid = hashlib.blake2b(times.numpy().tobytes(), digest_size=8).hexdigest()

    def _looked_at(self, states: Tensor) -> Tensor:
        """What the statistics are of: (B, …) from the states (T, B, *)."""
        batch = states.shape[1]
        if self.function is None:
            return states.movedim(0, 1) if self._of_saved else states[-1]
        with torch.no_grad():
            values = self.function(states if self._of_saved else states[-1])
        if not isinstance(values, Tensor) or values.ndim == 0 or values.shape[0] != batch:
            given = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise ShapeError(f"the function must return a tensor of shape ({batch}, …) for {batch} paths, got {given}.")
        if values.is_complex():
            raise ShapeError(f"the function must return a real tensor, got {values.dtype}; give .real and .imag.")
        return values

    def chunk(self) -> int:
        """As many paths as are made quickest within the memory."""
        entries = math.prod(self.x0.shape[1:])
        buffers = (_BUFFERS + 2 * len(self.times)) * entries + 4 * math.prod(self.shape)
        buffers += 4 * entries * (self.dynamics.noise_dim or 0)
        most = _MEMORY // (buffers * self.x0.element_size())
        return max(1, min(_QUICKEST // entries, most))

    def paths(self, start: int, stop: int, seed: int) -> tuple[Tensor, int]:
        """What the statistics take of paths start … stop - 1, and the evaluations that they cost."""
        part = self.dynamics.rows(slice(start, stop), (self.n, *self.x0.shape[1:]))
        x0 = self.x0[start:stop] if len(self.x0) == self.n else self.x0.expand(stop - start, *self.x0.shape[1:])
        try:
            states, evaluations = self._solved(part, x0, start, seed)
        except NonFiniteError as error:
            raise error.moved(first=start) from None
        return self._looked_at(states), evaluations

    def _solved(self, part: Dynamics, x0: Tensor, start: int, seed: int) -> tuple[Tensor, int]:
        """The states (T, B, *); of a fixed-step solve without keeping those of the other steps."""
        noise: dict[str, Any] = {"seed": seed, "first": start} if part.stochastic else {}
        if self._places is None:
            out = solve(part, x0, **noise, **self._settings)
            if out.status != "success":
                raise ArgumentError(
                    f"paths {start} to {start + len(x0) - 1}: some ended early, with status {out.status!r}; statistics "
                    "without them would be biased. Allow more evaluations or shorter steps."
                )
            states = out.x[None] if out.trajectory is None else out.trajectory
            evaluations = out.nfe * len(x0) if isinstance(out.nfe, int) else int(out.nfe.sum())
            return states, evaluations
        kept: list[Tensor] = []
        at: SolveState | None = None
        for place in self._places:
            out = solve(part, x0, resume=at, stop=place, **noise, **self._settings)
            at = out.state
            kept.append(out.x)
        return torch.stack(kept), (0 if at is None else at.nfe) * len(x0)

    def identity(self, seed: int) -> str:
        """What determines the paths, as text, but for the code of functions."""
        looked_at = (
            "states" if self.function is None else getattr(self.function, "__qualname__", type(self.function).__name__)
        )
        return without_addresses(
            f"{looked_at} of {self.dynamics!r} by {self._solver!r} on grid {self._grid} at {self.times.tolist()}, "
            f"tensors {fingerprint(self.x0, self.dynamics, self.function)}, seed {seed}"
        )


@final
class _Tally:
    """Statistics fed by blocks of one size, so that they do not depend on the chunks."""

    def __init__(self, plan: _Plan, quantiles: Sequence[float], keep: bool, seed: int) -> None:
        self._plan, self._seed, self._keep = plan, seed, keep
        self._identity = plan.identity(seed)
        self._statistics = RunningStatistics(plan.shape, quantiles)
        self._block = max(16, min(_BLOCK, (1 << 20) // max(1, math.prod(plan.shape))))
        self._waiting: list[Tensor] = []
        self._held = 0
        self._values: list[Tensor] = []

    @property
    def done(self) -> int:
        """Paths taken in; always a number of whole blocks."""
        return self._statistics.count

    def take(self, values: Tensor) -> None:
        """Take in the next paths' values, (B, …)."""
        if tuple(values.shape[1:]) != self._plan.shape:
            raise ShapeError(
                f"the function returned values of shape {tuple(values.shape[1:])} for a path, and before of "
                f"{self._plan.shape}."
            )
        if not values.is_floating_point():
            values = values.double()
        # Copied: a view of a whole trajectory would keep it.
        self._waiting.append(values.detach().clone())
        self._held += len(values)
        if self._held < self._block:
            return
        whole = torch.cat(self._waiting)
        end = self._held // self._block * self._block
        for block in torch.split(whole[:end], self._block):
            self._statistics.update(block)
        if self._keep:
            self._values.append(whole[:end])
        self._waiting = [whole[end:].clone()] if end < len(whole) else []
        self._held -= end

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state.

        Raises:
            ArgumentError: if it is one of another ensemble.
        """
        statistics = RunningStatistics.from_dict(state["statistics"])
        for name, was, now in (
            ("problem", state["problem"], self._identity),
            ("shape", statistics.shape, self._statistics.shape),
            ("quantiles", statistics.quantiles, self._statistics.quantiles),
        ):
            if was != now:
                raise ArgumentError(f"the state to resume from has the {name} {was!r}; this ensemble has {now!r}.")
        if statistics.count > self._plan.n:
            raise ArgumentError(f"the state to resume from has {statistics.count} paths; n is {self._plan.n}.")
        if self._keep and statistics.count:
            if state.get("values") is None:
                raise ArgumentError("the state to resume from has no values, since it was made without keep=True.")
            self._values = [state["values"]]
        self._statistics = statistics

    def state(self) -> dict[str, Any]:
        """What a run goes on from: the statistics without what still waits, so that blocks stay whole."""
        state: dict[str, Any] = {
            "seed": self._seed,
            "problem": self._identity,
            "statistics": self._statistics.to_dict(),
        }
        if self._keep:
            state["values"] = torch.cat(self._values) if self._values else None
        return state

    def result(self, status: Status, evaluations: int) -> Ensemble:
        """The statistics with what still waits, and the state."""
        state = self.state()
        values = torch.cat(self._values) if self._values else None
        if self._waiting:
            rest = torch.cat(self._waiting)
            self._statistics.update(rest)
            values = rest if values is None else torch.cat([values, rest])
        return Ensemble(
            statistics=self._statistics,
            times=self._plan.times,
            seed=self._seed,
            status=status,
            evaluations=evaluations,
            values=values if self._keep else None,
            state=state,
        )


def _resumed_seed(state: Mapping[str, Any], seed: int | None) -> int:
    if not isinstance(state, Mapping) or not {"seed", "problem", "statistics"} <= set(state):
        raise ArgumentError("resume takes the `state` of an Ensemble, a dict with seed, problem and statistics.")
    if seed is not None and seed != state["seed"]:
        raise ArgumentError(f"the state to resume from has the seed {state['seed']}, not {seed}; leave seed out.")
    return int(state["seed"])
