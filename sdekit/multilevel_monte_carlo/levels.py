"""The samples of every level so far, as moments, and how many of each there shall be."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, final

from torch import Tensor

from sdekit._long_runs import uninterrupted
from sdekit.errors import ArgumentError
from sdekit.multilevel_monte_carlo.coupled import CoupledSolves
from sdekit.multilevel_monte_carlo.result import Level
from sdekit.running_statistics import Welford
from sdekit.solvers.progress import Bar

__all__ = ["Levels", "OutOfEvaluations"]

_FIRST_SAMPLES = 1000  # of a level, before its variance is known
_UNKNOWN = 0.1  # a variance whose standard error is a larger part of it is carried by few samples
_SEARCHED = 100_000  # samples of a level, among which more of those that carry its variance are looked for
_ENTRIES = 1 << 16  # of a state, at a time
_NEAR = 0.01  # a level that lacks less than this part of its samples has them


class OutOfEvaluations(Exception):
    """The next samples would take more evaluations than are allowed."""


@final
class _Sums:
    """Moments of the samples of one level.

    The standard error of the variance is that of the mean of (d - pivot)^2, where the pivot is the mean of the first
    samples.
    """

    def __init__(self) -> None:
        self.difference, self.squares, self.fine = Welford(), Welford(), Welford()
        self.pivot, self.target, self.evaluations, self.differ = 0.0, _FIRST_SAMPLES, 0, False

    @property
    def count(self) -> int:
        return self.difference.count

    @property
    def variance(self) -> float:
        return float(self.difference.variance)

    @property
    def variance_error(self) -> float:
        return float(self.squares.std_error)

    def take(self, d: Tensor, p: Tensor, differ: bool, evaluations: int) -> None:
        if not self.count:
            self.pivot = float(d.mean())
        self.difference.update(d)
        self.squares.update((d - self.pivot).square())
        self.fine.update(p)
        self.differ, self.evaluations = self.differ or differ, evaluations

    def to_dict(self) -> dict[str, Any]:
        return {
            name: value.to_dict() if isinstance(value, Welford) else value for name, value in sorted(vars(self).items())
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> _Sums:
        made = cls()
        if not isinstance(values, Mapping) or set(values) != set(vars(made)):
            raise ArgumentError("the state to resume from has levels that are none; was it made by another version?")
        for name, value in values.items():
            setattr(made, name, Welford.from_dict(value) if isinstance(value, Mapping) else value)
        return made


@final
class Levels:
    """The levels that there are, l = 0, 1, …"""

    def __init__(self, solves: CoupledSolves, max_evaluations: int | None = None) -> None:
        self._solves, self._most = solves, max_evaluations
        self.sums: list[_Sums] = []

    def __len__(self) -> int:
        return len(self.sums)

    def open(self) -> None:
        """One level more, to be sampled a little."""
        self.sums.append(_Sums())

    @property
    def evaluations(self) -> int:
        """Drift evaluations so far."""
        return sum(each.count * each.evaluations for each in self.sums)

    def reach(self, bar: Bar, saved: Any = lambda: None) -> None:
        """Sample every level up to its target; `saved` is called after each lot of samples.

        Raises:
            OutOfEvaluations: before the samples that would take more than are allowed.
        """
        size = max(1, _ENTRIES // math.prod(self._solves.x0.shape[1:]))
        for level, sums in enumerate(self.sums):
            while sums.count < sums.target:
                n = min(size, sums.target - sums.count)
                if self._most is not None and self.evaluations + n * self._cost(level) > self._most:
                    raise OutOfEvaluations
                found = self._solves.samples(level, sums.count, n)
                with uninterrupted():
                    sums.take(*found)
                bar.update(n)
                saved()

    def _cost(self, level: int) -> int:
        """Evaluations of a sample; of a level without any, as they grow with the steps."""
        known = self.sums[level].evaluations
        if known or not level:
            return known
        # A first level has no coarse solve: r + 1 times its evaluations are those of the next.
        r = self._solves.refinement
        return self._cost(level - 1) * (r if level > 1 else r + 1)

    def search(self) -> bool:
        """More samples where few carry the variance, or where all values are equal though the states are not.

        False: there is no such level, or as many have been looked at as are worth it.
        """
        found = False
        for level, sums in enumerate(self.sums):
            equal = level < 2 and sums.differ and sums.variance == 0
            if (equal or sums.variance_error / sums.count > _UNKNOWN * self._whole()) and sums.count < _SEARCHED:
                sums.target, found = min(10 * sums.count, _SEARCHED), True
        return found

    def want(self, std_error: float) -> bool:
        """Targets for this standard error: N_l = sqrt(V_l/C_l) sum_k sqrt(V_k C_k)/std_error^2. False: they are met."""
        variances, costs = self.variances(), [sums.evaluations for sums in self.sums]
        whole = sum(math.sqrt(v * c) for v, c in zip(variances, costs, strict=True))
        wanted = [math.ceil(math.sqrt(v / c) * whole / std_error**2) for v, c in zip(variances, costs, strict=True)]
        if all(n - sums.count <= _NEAR * sums.count for n, sums in zip(wanted, self.sums, strict=True)):
            return False
        for n, sums in zip(wanted, self.sums, strict=True):
            # At most ten times as many at once: a variance from few samples may be far too large.
            sums.target = min(max(n, sums.count), 10 * sums.count)
        return True

    def variances(self) -> list[float]:
        """V_l and its standard error; of fine levels at least what the level below makes likely (half of it over r^2).

        On the safe side: where few samples carry a variance, that which is found is more often too small than too
        large.
        """
        found: list[float] = []
        for level, sums in enumerate(self.sums):
            least = found[-1] / (2 * self._solves.refinement**2) if level > 1 else 0.0
            found.append(max(sums.variance + sums.variance_error, least))
        return found

    def std_error(self) -> float:
        """sqrt(sum V_l/N_l)."""
        return math.sqrt(sum(v / sums.count for v, sums in zip(self.variances(), self.sums, strict=True)))

    def heavy_tails(self) -> bool:
        """Whether the variance is known to within a tenth of it only, or is 0 with states that differ.

        Where a variance is infinite, the largest of any number of samples carries a part of it, and its standard error
        stays near it.
        """
        first = self.sums[0]
        known = math.sqrt(sum((sums.variance_error / sums.count) ** 2 for sums in self.sums))
        return known > _UNKNOWN * self._whole() or (first.variance == 0 and first.differ)

    def _whole(self) -> float:
        """The variance of the estimate, as it is found."""
        return sum(sums.variance / sums.count for sums in self.sums)

    def bias(self) -> tuple[float, float]:
        """The weak order, and |E[P_L] - E[P]| = |E[P_L - P_{L-1}]|/(r^order - 1) by it.

        The differences are known within their standard errors only: the order is fitted by weights, between 1/2 and
        the solver's own, and the last difference is the largest that the last two levels make likely.
        """
        r, own = self._solves.refinement, self._solves.solver.weak_order or 1.0
        if len(self.sums) < 2:
            return own, math.inf
        means = [abs(float(sums.difference.mean)) for sums in self.sums[1:]]
        errors = [float(sums.difference.std_error) for sums in self.sums[1:]]
        order = _slope(means, errors, math.log(r))
        order = own if order is None else min(own, max(0.5, order))
        last = [m / r ** (order * (len(means) - 1 - i)) for i, m in enumerate(means)][-2:]
        return order, max(last) / (r**order - 1)

    def sampled(self) -> Levels:
        """The levels from the first on that have samples enough to be spoken of."""
        whole = Levels(self._solves)
        for sums in self.sums:
            if sums.count < 2:
                break
            whole.sums.append(sums)
        return whole

    def lines(self) -> tuple[Level, ...]:
        """What is said of each."""
        return tuple(
            Level(
                steps=self._solves.steps(level),
                samples=sums.count,
                mean=float(sums.difference.mean),
                variance=sums.variance,
                variance_error=sums.variance_error,
                fine_variance=float(sums.fine.variance),
                evaluations=sums.evaluations,
            )
            for level, sums in enumerate(self.sums)
        )

    def to_list(self) -> list[dict[str, Any]]:
        """JSON values."""
        return [sums.to_dict() for sums in self.sums]

    def load(self, values: list[dict[str, Any]]) -> None:
        """Go on from these.

        Raises:
            ArgumentError: if they are none.
        """
        self.sums = [_Sums.from_dict(each) for each in values]


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
