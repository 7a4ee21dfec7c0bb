"""What multilevel Monte Carlo found, and what it cost."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any, Literal, final

__all__ = ["Level", "Multilevel", "Status", "normal_quantile"]

Status = Literal["success", "max_levels", "max_evaluations", "heavy_tails", "interrupted"]


@final
@dataclass(frozen=True)
class Level:
    """One line of the sum.

    Attributes:
        steps: the steps of its finer solve.
        samples: N_l.
        mean: of P_l - P_{l-1}; of P_0 for the first.
        variance: V_l, likewise.
        variance_error: the standard error of V_l: near V_l, or above, where few samples carry it.
        fine_variance: that of P_l.
        evaluations: drift evaluations of a sample, both solves together.
    """

    steps: int
    samples: int
    mean: float
    variance: float
    variance_error: float
    fine_variance: float
    evaluations: int


@final
@dataclass(frozen=True)
class Multilevel:
    """An expectation with its error, and what it cost.

    Attributes:
        value: the estimate; NaN where no path was made.
        std_error: its standard error, sqrt(sum (V_l + s_l)/N_l), on the safe side by the standard error s_l of V_l.
        bias: the estimate of what the steps' length leaves: |E[P_L] - E[P]|; infinite before there are two levels.
        tolerance: the error that was asked for.
        confidence: the probability that the error is below it.
        levels: the lines of the sum.
        evaluations: drift evaluations, all told.
        plain_evaluations: an estimate of those of plain Monte Carlo: paths at the last level's step, as many as the
            same standard error takes.
        weak_order: the order by which the bias was estimated: that measured, where it is not above the solver's own.
        status: "success"; "max_levels" where the bias may be too large still, "max_evaluations" or "interrupted" where
            the work ended before the tolerance was met; "heavy_tails" where the error is not to be relied on, since a
            few samples carry the variance, or since all values are equal though the states are not.
        seed: of the noise.
        state: what `resume=` takes: plain values, fit for JSON.
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
    status: Status
    seed: int
    state: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def error(self) -> float:
        """The half-width of the interval: bias + z std_error."""
        return self.bias + normal_quantile(self.confidence) * self.std_error

    @property
    def saving(self) -> float:
        """How many times the evaluations plain Monte Carlo would take; NaN where there were none."""
        return self.plain_evaluations / self.evaluations if self.evaluations else float("nan")

    def __str__(self) -> str:
        said = "" if self.status == "success" else f" [{self.status}]"
        lines = [
            f"{self.value:.6g} ± {self.error:.2g}{said} ({100 * self.confidence:g} %; bias {self.bias:.1e}, standard "
            f"error {self.std_error:.1e}), {self.evaluations:.3g} drift evaluations; plain Monte Carlo: "
            f"{self.plain_evaluations:.3g}, {self.saving:.1f} times as many",
            f"{'steps':>8} {'samples':>10} {'mean':>12} {'variance':>10} {'evaluations':>12}",
        ]
        lines += [
            f"{level.steps:>8} {level.samples:>10} {level.mean:>12.4e} {level.variance:>10.2e} "
            f"{level.evaluations * level.samples:>12}"
            for level in self.levels
        ]
        return "\n".join(lines)


def normal_quantile(confidence: float) -> float:
    """z such that a standard normal is within ±z with this probability."""
    return NormalDist().inv_cdf(0.5 + confidence / 2)
