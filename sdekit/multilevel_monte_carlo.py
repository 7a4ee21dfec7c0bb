r"""Multilevel Monte Carlo: the expectation of a function of the end state, to a given tolerance.

    E[P_L] = E[P_0] + sum_{l=1}^L E[P_l - P_{l-1}]

where P_l is the function after M_0 r^l steps. Each difference is taken between two solves on one Brownian path, the
coarse increments being the sums of the fine ones, so that its variance V_l falls with l and few samples do. The cost
sum N_l C_l is least, for a given variance sum V_l/N_l, at N_l in proportion to sqrt(V_l/C_l).

Giles 2008, "Multilevel Monte Carlo path simulation"; Giles 2015, "Multilevel Monte Carlo methods", Acta Numerica 24.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal, final

import torch
from torch import Tensor

from sdekit._tensors import check_number, check_positive, check_positive_integer, check_state, is_finite
from sdekit.dynamics import Dynamics, ForwardSDE, as_dynamics
from sdekit.ensembles import chosen_solver
from sdekit.errors import ArgumentError, NonFiniteError, ShapeError, UnsupportedError
from sdekit.noise import BrownianStream, Increment, KeyedNoise
from sdekit.noise.keyed import check_seed
from sdekit.noise.splitting import join_equal
from sdekit.running_statistics import Welford
from sdekit.sdes import AbstractSDE
from sdekit.sdes.calculus import Reread
from sdekit.sdes.torchsde_style import TorchsdeObject
from sdekit.solvers.progress import progress_bar
from sdekit.solvers.solution import first_bad_samples
from sdekit.solvers.step import StepSolver

__all__ = ["Level", "Multilevel", "multilevel"]

_FIRST_SAMPLES = 1000  # of a level, before its variance is known
_FIRST_LEVELS = 3
_ENTRIES = 1 << 16  # of a state, at a time
_NEAR = 0.01  # a level that lacks less than this part of its samples has them
_BIAS_SHARE = 0.5  # of the tolerance, at most


@final
@dataclass(frozen=True)
class Level:
    """One line of the sum.

    Attributes:
        steps: the steps of its finer solve.
        samples: N_l.
        mean: of P_l - P_{l-1}; of P_0 for the first.
        variance: V_l, likewise.
        fine_variance: that of P_l.
        evaluations: drift evaluations of a sample, both solves together.
    """

    steps: int
    samples: int
    mean: float
    variance: float
    fine_variance: float
    evaluations: int


@final
@dataclass(frozen=True)
class Multilevel:
    """An expectation with its error, and what it cost.

    Attributes:
        value: the estimate.
        std_error: its standard error, sqrt(sum V_l/N_l).
        bias: the estimate of what the steps' length leaves: |E[P_L] - E[P]|.
        tolerance: the error that was asked for.
        confidence: the probability that the error is below it.
        levels: the lines of the sum.
        evaluations: drift evaluations, all told.
        plain_evaluations: an estimate of those of plain Monte Carlo: paths at the last level's step, as many as the
            same standard error takes.
        weak_order: the order by which the bias was estimated: that measured, where it is not above the solver's own.
        status: "success"; "max_levels" where the bias may be too large still.
        seed: of the noise.
    """

    value: float
    std_error: float
    bias: float
    tolerance: float
    confidence: float
    levels: tuple[Level, ...]
    evaluations: int
    plain_evaluations: int
    weak_order: float
    status: Literal["success", "max_levels"]
    seed: int

    @property
    def error(self) -> float:
        """The half-width of the interval: bias + z std_error."""
        return self.bias + _quantile(self.confidence) * self.std_error

    @property
    def saving(self) -> float:
        """How many times the evaluations plain Monte Carlo would take."""
        return self.plain_evaluations / self.evaluations

    def __str__(self) -> str:
        lines = [
            f"{self.value:.6g} ± {self.error:.2g} ({100 * self.confidence:g} %; bias {self.bias:.1e}, standard error "
            f"{self.std_error:.1e}), {self.evaluations:.3g} drift evaluations; plain Monte Carlo: "
            f"{self.plain_evaluations:.3g}, {self.saving:.1f} times as many",
            f"{'steps':>8} {'samples':>10} {'mean':>12} {'variance':>10} {'evaluations':>12}",
        ]
        lines += [
            f"{level.steps:>8} {level.samples:>10} {level.mean:>12.4e} {level.variance:>10.2e} "
            f"{level.evaluations * level.samples:>12}"
            for level in self.levels
        ]
        return "\n".join(lines)


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
    seed: int | None = None,
    progress: bool = False,
    **options: Any,
) -> Multilevel:
    """E[function(x_t1)] to within the tolerance, with the probability `confidence`.

    Levels are added until the bias, extrapolated from the last differences by the weak order, fits into half of the
    tolerance; samples, until z standard errors fit into what it leaves. Where the variance of the differences falls
    faster than their cost grows (strong order above 1/2, a Lipschitz function) the cost goes like tolerance^-2; plain
    Monte Carlo's goes like tolerance^-3 with a method of weak order 1.

    Args:
        sde: the SDE.
        x0: the state at t0, (1, *).
        function: of the end state (B, *), returns (B,).
        t0, t1: from where to where, in either direction.
        tolerance: the error allowed.
        solver: a step solver for SDEs, by name or as an object. "milstein" serves scalar, additive, diagonal and
            commutative noise; "milstein_free" is quicker with small states.
        confidence: the probability of an error below the tolerance.
        first_steps: steps of the coarsest level: enough to be stable.
        refinement: r, how many times the steps of a level the next has.
        max_levels: levels at most.
        seed: of the noise; drawn by torch's global generator if None.
        progress: show a bar, of samples, which grows with what is found to be needed.
        options: the solver's own, where it is given by name.

    Raises:
        ArgumentError, ShapeError, UnknownNameError, UnsupportedError: before the first path.
        NonFiniteError: if a path becomes non-finite, or a value of the function is.
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
    seed = int(torch.randint(2**62, ())) if seed is None else check_seed("seed", seed)
    dynamics, method = _method(as_dynamics(sde, x0, start), x0, (start, stop), solver, options)
    levels = _Levels(dynamics, method, x0, function, (start, stop), first_steps, refinement, seed)
    with progress_bar(progress, total=_FIRST_LEVELS * _FIRST_SAMPLES, name="multilevel", unit="path") as bar:
        return _estimate(levels, tolerance, confidence, max_levels, bar)


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
    t0, t1 = span
    reread = dynamics.read_by(chosen.calculus, falling=t0 > t1)
    chosen.check(reread)
    if isinstance(reread.sde, Reread) and reread is not dynamics:
        with torch.no_grad():
            reread.sde.check(x0, torch.tensor(t0, dtype=torch.float64, device=x0.device))
    return reread, chosen


def _estimate(levels: _Levels, tolerance: float, confidence: float, most: int, bar: Any) -> Multilevel:
    z = _quantile(confidence)
    for level in range(min(_FIRST_LEVELS, most)):
        levels.sample(level, _FIRST_SAMPLES, bar)
    while True:
        order, bias = levels.bias()
        levels.fill((tolerance - min(bias, _BIAS_SHARE * tolerance)) / z, bar)
        order, bias = levels.bias()
        left = tolerance - bias
        if bias <= _BIAS_SHARE * tolerance and z * levels.std_error() <= left * (1 + _NEAR):
            return levels.result(tolerance, confidence, order, bias, "success")
        if bias > _BIAS_SHARE * tolerance:
            if len(levels.differences) == most:
                return levels.result(tolerance, confidence, order, bias, "max_levels")
            levels.sample(len(levels.differences), _FIRST_SAMPLES, bar)


@final
class _Levels:
    """The samples of every level so far, as moments."""

    def __init__(
        self,
        dynamics: ForwardSDE,
        solver: StepSolver,
        x0: Tensor,
        function: Callable[[Tensor], Tensor],
        ends: tuple[float, float],
        first_steps: int,
        refinement: int,
        seed: int,
    ) -> None:
        self._dynamics, self._solver, self._x0, self._function = dynamics, solver, x0, function
        self._ends, self._first_steps, self._refinement, self._seed = ends, first_steps, refinement, seed
        self.differences: list[Welford] = []
        self._fine: list[Welford] = []
        self._costs: list[int] = []  # drift evaluations of a sample
        self._guard = torch.no_grad if dynamics.needs_autograd or solver.differentiates else torch.inference_mode
        with torch.no_grad():
            self._values(x0.expand(2, *x0.shape[1:]), "x0")

    def steps(self, level: int) -> int:
        """The steps of a level's finer solve."""
        return int(self._first_steps * self._refinement**level)

    def sample(self, level: int, count: int, bar: Any) -> None:
        """Take in so many samples more of a level, or of the next one that there is not yet."""
        if level == len(self.differences):
            self.differences.append(Welford())
            self._fine.append(Welford())
            self._costs.append(0)
        size = max(1, _ENTRIES // math.prod(self._x0.shape[1:]))
        done = self.differences[level].count
        for start in range(done, done + count, size):
            n = min(size, done + count - start)
            with self._guard():
                fine, coarse = self._pair(level, start, n)
                p = self._values(fine, f"level {level}")
                d = p if coarse is None else p - self._values(coarse, f"level {level}")
            self.differences[level].update(d)
            self._fine[level].update(p)
            bar.update(n)

    def _values(self, x: Tensor, where: str) -> Tensor:
        p = self._function(x)
        if not isinstance(p, Tensor) or tuple(p.shape) != (len(x),):
            given = tuple(p.shape) if isinstance(p, Tensor) else type(p).__name__
            raise ShapeError(
                f"the function must return a tensor of shape ({len(x)},) for {len(x)} states, got {given}."
            )
        if not is_finite(p):
            raise ArgumentError(f"the function returned NaN or infinite values at states of {where}.")
        return p.double()

    def _pair(self, level: int, start: int, n: int) -> tuple[Tensor, Tensor | None]:
        """The end states of n paths with the level's steps, and with those of the level below."""
        t0, t1 = self._ends
        count, r = self.steps(level), self._refinement if level else 1
        times = torch.linspace(t0, t1, count + 1, dtype=torch.float64, device="cpu")
        dynamics = self._dynamics.counted()
        x = self._x0.expand(n, *self._x0.shape[1:]).clone()
        noise = KeyedNoise(_level_seed(self._seed, level), start)
        stream = noise.brownian(
            dynamics.noise_shape(x.shape), times, areas=self._solver.areas, dtype=x.dtype, device=x.device
        )
        clock, h = times.to(x.device), (t1 - t0) / count
        fine, coarse = x, x
        for k in range(0, count, r):
            group = []
            for i in range(k, k + r):
                noise_now = _next(stream, copied=r > 1)
                group.append(noise_now)
                fine = self._solver.step_formula(dynamics, fine, clock[i], clock[i + 1], h, noise_now)
            if level:
                coarse = self._solver.step_formula(
                    dynamics, coarse, clock[k], clock[k + r], h * r, _joined(group, falls=h < 0)
                )
            self._check(fine, level, k + r, float(times[k + r]), start)
        self._check(coarse, level, count // r, t1, start)
        self._costs[level] = dynamics.counter.calls
        return fine, coarse if level else None

    def _check(self, x: Tensor, level: int, step: int, t: float, start: int) -> None:
        if not is_finite(x):
            name = f"{self._solver.name} at level {level}"
            raise NonFiniteError(name, step, t, first_bad_samples(x)).moved(first=start)

    # What they say -------------------------------------------------------------------------------------------------

    def _means(self) -> list[float]:
        return [float(d.mean) for d in self.differences]

    def _variances(self) -> list[float]:
        """V_l; of levels with few samples at least what the level below makes likely (half of it over r)."""
        found: list[float] = []
        for level, d in enumerate(self.differences):
            least = found[-1] / (2 * self._refinement**2) if level > 1 else 0.0
            found.append(max(float(d.variance), least))
        return found

    def std_error(self) -> float:
        """sqrt(sum V_l/N_l)."""
        pairs = zip(self._variances(), self.differences, strict=True)
        return math.sqrt(sum(v / d.count for v, d in pairs))

    def bias(self) -> tuple[float, float]:
        """The weak order, and |E[P_L] - E[P]| = |E[P_L - P_{L-1}]|/(r^order - 1) by it.

        The differences are known within their standard errors only: the order is fitted by weights, between 1/2 and
        the solver's own, and the last difference is the largest that the last two levels make likely.
        """
        r, own = self._refinement, self._solver.weak_order or 1.0
        means = [abs(m) for m in self._means()[1:]]
        errors = [float(d.std_error) for d in self.differences[1:]]
        order = _slope(means, errors, math.log(r))
        order = own if order is None else min(own, max(0.5, order))
        last = [m / r ** (order * (len(means) - 1 - i)) for i, m in enumerate(means)][-2:]
        return order, max(last) / (r**order - 1)

    def fill(self, std_error: float, bar: Any) -> None:
        """Samples until the standard error is this: N_l = sqrt(V_l/C_l) sum_k sqrt(V_k C_k)/std_error^2."""
        while True:
            variances = self._variances()
            whole = sum(math.sqrt(v * c) for v, c in zip(variances, self._costs, strict=True))
            wanted = [
                math.ceil(math.sqrt(v / c) * whole / std_error**2) for v, c in zip(variances, self._costs, strict=True)
            ]
            missing = [max(0, n - d.count) for n, d in zip(wanted, self.differences, strict=True)]
            if all(m <= _NEAR * d.count for m, d in zip(missing, self.differences, strict=True)):
                return
            _grow(bar, sum(missing))
            for level, more in enumerate(missing):
                # At most ten times as many at once: a variance from few samples may be far too large.
                self.sample(level, min(more, 9 * self.differences[level].count), bar)

    def result(
        self,
        tolerance: float,
        confidence: float,
        order: float,
        bias: float,
        status: Literal["success", "max_levels"],
    ) -> Multilevel:
        """All of it."""
        levels = tuple(
            Level(self.steps(i), d.count, float(d.mean), float(d.variance), float(self._fine[i].variance), cost)
            for i, (d, cost) in enumerate(zip(self.differences, self._costs, strict=True))
        )
        last, error = levels[-1], self.std_error()
        alone = last.evaluations * self._refinement / (self._refinement + 1)  # without the coarse solve
        paths = levels[-1].fine_variance / error**2 if error else 1
        return Multilevel(
            value=sum(self._means()),
            std_error=error,
            bias=bias,
            tolerance=tolerance,
            confidence=confidence,
            levels=levels,
            evaluations=sum(level.samples * level.evaluations for level in levels),
            plain_evaluations=math.ceil(paths * alone),
            weak_order=order,
            status=status,
            seed=self._seed,
        )


def _next(stream: BrownianStream, *, copied: bool) -> Increment:
    """The next increment, copied where it is looked at again after the one that follows."""
    found = stream.next()
    return Increment(*[value.clone() for value in found.values()]) if copied else found


def _joined(group: list[Increment], *, falls: bool) -> Increment:
    """Increments one after another as one. Where time falls they are joined as they lie in time."""
    ordered = [-one for one in reversed(group)] if falls else group
    columns = zip(*[one.values() for one in ordered], strict=True)
    whole = join_equal(Increment(*[torch.stack(values) for values in columns]), 0)
    return -whole if falls else whole


def _slope(means: list[float], errors: list[float], step: float) -> float | None:
    """The rate a of |m_l| ~ exp(-a step l), by least squares in the logarithm, weighted by (m/error)^2.

    None where fewer than two of them are known to better than half.
    """
    known = [(i, m, e) for i, (m, e) in enumerate(zip(means, errors, strict=True)) if m > 2 * e > 0]
    if len(known) < 2:
        return None
    weights = [(m / e) ** 2 for _, m, e in known]
    total = sum(weights)
    middle = sum(w * i for w, (i, _, _) in zip(weights, known, strict=True)) / total
    height = sum(w * math.log(m) for w, (_, m, _) in zip(weights, known, strict=True)) / total
    across = sum(w * (i - middle) * (math.log(m) - height) for w, (i, m, _) in zip(weights, known, strict=True))
    return -across / (step * sum(w * (i - middle) ** 2 for w, (i, _, _) in zip(weights, known, strict=True)))


def _level_seed(seed: int, level: int) -> int:
    """A seed for each level, whose samples are then independent of the others'."""
    return int.from_bytes(hashlib.blake2b(f"{seed} level {level}".encode(), digest_size=7).digest(), "big")


def _quantile(confidence: float) -> float:
    return NormalDist().inv_cdf(0.5 + confidence / 2)


def _grow(bar: Any, more: int) -> None:
    if hasattr(bar, "total"):
        bar.total = max(bar.total, bar.n + more)
