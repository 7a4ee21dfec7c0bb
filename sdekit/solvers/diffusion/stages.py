r"""Samplers with several evaluations a step, written once as their formula; coefficients are columns over the steps.

    step = Stages(levels, "data")
    d0 = step.evaluate(step.x, levels.a)
    u = s / a * step.x + (1 - s / a) * d0
    d1 = step.evaluate(u, s)
    table = step.table(b / a * step.x + (1 - b / a) * d1)

States are in x~ = x/alpha, noise levels in sigma~ = sigma/alpha.
"""

from __future__ import annotations

from typing import Literal, final

import torch
from torch import Tensor

from sdekit.solvers.diffusion.levels import Levels
from sdekit.solvers.table import Table, Updates

__all__ = ["Line", "Stages"]

Symbol = tuple[Literal["x", "m", "z"], int]
Number = Tensor | float


@final
class Line:
    """A linear expression in the state, values and draws of one step; each coefficient a column over the steps."""

    def __init__(self, terms: dict[Symbol, Tensor]) -> None:
        self.terms = terms

    def __add__(self, other: Line) -> Line:
        terms = dict(self.terms)
        for symbol, weight in other.terms.items():
            terms[symbol] = terms[symbol] + weight if symbol in terms else weight
        return Line(terms)

    def __sub__(self, other: Line) -> Line:
        return self + (-1.0) * other

    def __mul__(self, factor: Number) -> Line:
        return Line({symbol: factor * weight for symbol, weight in self.terms.items()})

    __rmul__ = __mul__


def _zeros(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.float64, device="cpu")


@final
class Stages:
    """One step of a staged sampler, over all steps of a grid at once.

    Args:
        levels: the grid.
        representation: "noise" or "data": what the values are.
        lifted: the noise level sigma~, (N,), that fresh noise brings the state to before each step (churn, a restart),
            at least that of the grid; a step whose level is the grid's own adds none.
        s_noise: factor of that fresh noise.
    """

    def __init__(
        self,
        levels: Levels,
        representation: Literal["noise", "data"],
        *,
        lifted: Tensor | None = None,
        s_noise: float = 1.0,
    ) -> None:
        levels.require_noise()
        self._levels, self._representation = levels, representation
        self._lifted, self._s_noise = lifted, s_noise
        one = torch.ones(len(levels), dtype=torch.float64, device="cpu")
        self.x = Line({("x", 0): one})
        self._at: list[Line] = []
        self._times: list[Tensor] = []
        self._draws_before: list[int] = []
        self._draws = 0

    def evaluate(self, at: Line, level: Tensor) -> Line:
        """The model's value at this state and noise level sigma~, (N,)."""
        time = self._levels.time_of(-torch.log(level))
        grid = self._levels.times
        # Where the level is the grid's own, so is the time, to the last bit.
        for own, t in ((self._levels.a, grid[:-1]), (self._levels.b, grid[1:])):
            time = torch.where(level == own, t, time)
        self._at.append(at)
        self._times.append(time)
        self._draws_before.append(self._draws)
        return Line({("m", len(self._at) - 1): torch.ones_like(level)})

    def draw(self) -> Line:
        """A fresh standard normal draw, made after the evaluation before it; at most one between two evaluations."""
        self._draws += 1
        return Line({("z", self._draws - 1): torch.ones(len(self._levels), dtype=torch.float64, device="cpu")})

    def table(self, end: Line, *, ends_step: Tensor | None = None) -> Table:
        """The table of the step that ends in `end`.

        A step to sigma = 0 is the first evaluation's alone: x~ = D. `ends_step`, bool (N,), tells which of these steps
        end one of the user's; all do unless given.
        """
        levels, stages, steps = self._levels, len(self._at), len(self._levels)
        alpha_a = levels.alpha[:-1] if self._lifted is None else levels.sde.alpha(self._lifted_times())
        scales = [levels.sde.alpha(t) for t in self._times[1:]] + [levels.alpha[1:]]
        states = [*self._at[1:], end]
        counts = [*self._draws_before[1:], self._draws]
        shape = (steps, stages)
        x, m, z = _zeros(*shape), _zeros(*shape, stages), _zeros(*shape, self._draws)
        draw = torch.zeros(shape, dtype=torch.bool, device="cpu")
        for row, (line, scale, count) in enumerate(zip(states, scales, counts, strict=True)):
            draw[:, row] = count > (self._draws_before[row])
            for (kind, number), weight in line.terms.items():
                if kind == "x":
                    x[:, row] = scale * weight / alpha_a
                elif kind == "m":
                    m[:, row, row - number] = scale * weight
                else:
                    z[:, row, count - 1 - number] = scale * weight
        ends = torch.zeros_like(draw)
        ends[:, -1] = True
        kept = torch.ones_like(ends)
        self._end_at_zero(x, m, z, draw, ends, kept, alpha_a)
        last = ends.clone()
        if ends_step is not None:
            ends &= ends_step[:, None]
        rows = _Rows(torch.stack(self._times, dim=1), x, m, z, draw, ends, last, kept)
        if self._lifted is not None:
            rows = rows.lifted(levels, self._lifted_times(), self._lifted, self._s_noise)
        return rows.table(self._representation)

    def _lifted_times(self) -> Tensor:
        lifted, levels = self._lifted, self._levels
        if lifted is None:
            return levels.times[:-1]
        return torch.where(lifted == levels.a, levels.times[:-1], levels.time_of(-torch.log(lifted)))

    def _end_at_zero(
        self, x: Tensor, m: Tensor, z: Tensor, draw: Tensor, ends: Tensor, kept: Tensor, alpha_a: Tensor
    ) -> None:
        zero = self._levels.b == 0
        if not bool(zero.any()):
            return
        level = (self._levels.a if self._lifted is None else self._lifted)[zero]
        alpha_b = self._levels.alpha[1:][zero]
        m[zero], z[zero] = 0.0, 0.0
        if self._representation == "noise":
            x[zero, 0], m[zero, 0, 0] = alpha_b / alpha_a[zero], -alpha_b * level
        else:
            x[zero, 0], m[zero, 0, 0] = 0.0, alpha_b
        draw[zero] = False
        kept[zero, 1:] = False
        ends[zero, 0] = True


@final
class _Rows:
    """The rows of all steps, (N, S), before those that are not kept are dropped."""

    def __init__(
        self, t: Tensor, x: Tensor, m: Tensor, z: Tensor, draw: Tensor, ends: Tensor, last: Tensor, kept: Tensor
    ) -> None:
        self.t, self.x, self.m, self.z = t, x, m, z
        self.draw, self.ends, self.last, self.kept = draw, ends, last, kept
        self.evaluates = torch.ones_like(ends)

    def lifted(self, levels: Levels, times: Tensor, level: Tensor, s_noise: float) -> _Rows:
        """With a row before each step that adds the noise that lifts the state to `level`."""
        lifts = level > levels.a
        alpha = levels.sde.alpha(times)
        fresh = alpha * s_noise * torch.sqrt((level.square() - levels.a.square()).clamp(min=0))
        zeros = torch.zeros_like(lifts)[:, None]
        width = max(1, self.z.shape[2])
        before = _zeros(len(lifts), 1, width)
        before[:, 0, 0] = fresh
        z = _zeros(*self.z.shape[:2], width)
        z[..., : self.z.shape[2]] = self.z
        rows = _Rows(
            torch.cat([levels.times[:-1, None], self.t], 1),
            torch.cat([(alpha / levels.alpha[:-1])[:, None], self.x], 1),
            torch.cat([torch.zeros_like(self.m[:, :1]), self.m], 1),
            torch.cat([before, z], 1),
            torch.cat([lifts[:, None], self.draw], 1),
            torch.cat([zeros, self.ends], 1),
            torch.cat([lifts[:, None], self.last], 1),
            torch.cat([lifts[:, None], self.kept], 1),
        )
        rows.evaluates[:, 0] = False
        return rows

    def table(self, representation: Literal["noise", "data"]) -> Table:
        rows = self.kept.flatten()

        def column(values: Tensor) -> Tensor:
            return values.flatten(0, 1)[rows]

        last = column(self.last)
        x, m, z = column(self.x), column(self.m), column(self.z)
        return Table(
            representation,
            column(self.t),
            Updates.of(x, m, z, active=last),
            Updates.of(x, m, z, active=~last),
            column(self.draw),
            column(self.ends),
            column(self.evaluates),
        )
