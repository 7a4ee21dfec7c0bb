"""Pseudo numerical methods (PNDM): Runge-Kutta and Adams weights on DDIM's transfer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from sdekit.sdes import DiffusionSDE
from sdekit.solvers.diffusion.base import TableSolver
from sdekit.solvers.diffusion.deis import adams_bashforth_row
from sdekit.solvers.diffusion.levels import Levels
from sdekit.solvers.table import Table, Updates

__all__ = ["PNDM"]

_WARM_UP = 3


@final
@dataclass(frozen=True, repr=False)
class PNDM(TableSolver):
    r"""x~_b = x~ + (b - a) e', with e' of the first three steps a Runge-Kutta mean and of the others Adams-Bashforth's:

    e' = (e_1 + 2 e_2 + 2 e_3 + e_4)/6,   e_2 and e_3 at the middle of the step in t, e_4 at its end
    e' = (55 e - 59 e_{-1} + 37 e_{-2} - 9 e_{-3})/24,   with e_1 standing for each of the first three steps

    12 evaluations for the first three steps, then one a step. The weights take equal steps for granted, so the order is
    2 on a smooth grid. A step to sigma = 0 is DDIM's.

    Liu et al. 2022, arXiv 2202.09778, algorithm 2 (F-PNDM).
    """

    name = "pndm"
    order = 2.0
    default_grid = "log_snr"
    reference = "Liu et al. 2022, arXiv 2202.09778"

    @property
    def stochastic(self) -> bool:
        return False

    def table(self, sde: DiffusionSDE, times: Tensor) -> Table:
        levels = Levels(sde, times)
        middles = 0.5 * (times[:-1] + times[1:])[:_WARM_UP]
        halves = (sde.sigma_ratio(middles) - levels.a[:_WARM_UP]).tolist()
        middle, at = middles.tolist(), times.tolist()
        at_middle = sde.alpha(middles).tolist()
        rows = _RowList(levels)
        firsts: list[int] = []
        for i, (move, level) in enumerate(zip((levels.b - levels.a).tolist(), levels.b.tolist(), strict=True)):
            firsts.append(len(rows.t))
            if level == 0:
                rows.step(i, {0: move})
            elif i < _WARM_UP:
                rows.stage(at[i], i, at_middle[i], {0: halves[i]})
                rows.stage(middle[i], i, at_middle[i], {0: halves[i]})
                rows.stage(middle[i], i, rows.alpha[i + 1], {0: move})
                rows.t.append(at[i + 1])
                rows.finish(i, {j: w * move / 6 for j, w in enumerate((1, 2, 2, 1))})
            else:
                weights = adams_bashforth_row(4)
                rows.step(i, {firsts[-1] - firsts[i - j]: w * move for j, w in enumerate(weights)})
        return rows.table()


_Row = tuple[float, dict[int, float]]


class _RowList:
    """The rows of a table one by one: the method's steps differ, and there are four kinds of them."""

    def __init__(self, levels: Levels) -> None:
        self.alpha: list[float] = levels.alpha.tolist()
        self._times: list[float] = levels.times.tolist()
        self.t: list[float] = []
        self._state: list[_Row | None] = []
        self._point: list[_Row | None] = []
        self._ends: list[bool] = []

    def stage(self, t: float, i: int, alpha: float, weights: dict[int, float]) -> None:
        """An evaluation at t, after which the next is made at x~_i + sum_j w_j m_{-j}, where alpha is this."""
        self.t.append(t)
        self._point.append((alpha / self.alpha[i], {j: alpha * w for j, w in weights.items()}))
        self._state.append(None)
        self._ends.append(False)

    def step(self, i: int, weights: dict[int, float]) -> None:
        """An evaluation at the start of step i, after which the step is made."""
        self.t.append(self._times[i])
        self.finish(i, weights)

    def finish(self, i: int, weights: dict[int, float]) -> None:
        """The end of step i after the evaluation whose time was noted last."""
        alpha = self.alpha[i + 1]
        self._state.append((alpha / self.alpha[i], {j: alpha * w for j, w in weights.items()}))
        self._point.append(None)
        self._ends.append(True)

    def table(self) -> Table:
        ends = torch.tensor(self._ends, device="cpu")
        times = torch.tensor(self.t, dtype=torch.float64, device="cpu")
        return Table("noise", times, _updates(self._state), _updates(self._point), torch.zeros_like(ends), ends)


def _updates(rows: list[_Row | None]) -> Updates:
    width = max((1 + max(row[1]) for row in rows if row is not None), default=0)
    x = [1.0 if row is None else row[0] for row in rows]
    m = [[0.0 if row is None else row[1].get(j, 0.0) for j in range(width)] for row in rows]
    weights = torch.tensor(m, dtype=torch.float64, device="cpu").reshape(len(rows), width)
    active = torch.tensor([row is not None for row in rows], device="cpu")
    return Updates.of(torch.tensor(x, dtype=torch.float64, device="cpu"), weights, active=active)
