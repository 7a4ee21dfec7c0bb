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
    default_grid = "uniform"
    reference = "Liu et al. 2022, arXiv 2202.09778"

    @property
    def stochastic(self) -> bool:
        return False

    def table(self, sde: DiffusionSDE, times: Tensor) -> Table:
        levels = Levels(sde, times)
        rows = _RowList(levels)
        firsts: list[int] = []
        for i in range(len(levels)):
            to_zero = bool(levels.b[i] == 0)
            move = levels.b[i] - levels.a[i]
            firsts.append(len(rows.t))
            if to_zero:
                rows.step(i, {0: move})
            elif i < _WARM_UP:
                middle = 0.5 * (times[i] + times[i + 1])
                half = sde.sigma_ratio(middle) - levels.a[i]
                rows.stage(times[i], i, middle, {0: half})
                rows.stage(middle, i, middle, {0: half})
                rows.stage(middle, i, times[i + 1], {0: move})
                rows.t.append(times[i + 1])
                rows.finish(i, {j: w * move / 6 for j, w in enumerate((1, 2, 2, 1))})
            else:
                here = firsts[-1]
                weights = adams_bashforth_row(4)
                rows.step(i, {here - firsts[i - j]: w * move for j, w in enumerate(weights)})
        return rows.table()


class _RowList:
    """The rows of a table one by one: the method's steps differ, and there are four kinds of them."""

    def __init__(self, levels: Levels) -> None:
        self._levels = levels
        self.t: list[Tensor] = []
        self._state: list[tuple[Tensor, dict[int, Tensor]] | None] = []
        self._point: list[tuple[Tensor, dict[int, Tensor]] | None] = []
        self._ends: list[bool] = []

    def stage(self, t: Tensor, i: int, to: Tensor, weights: dict[int, Tensor]) -> None:
        """An evaluation at t, after which the next is made at x~_i + sum_j w_j m_{-j}, at time `to`."""
        alpha = self._levels.sde.alpha(to)
        self.t.append(t)
        self._point.append((alpha / self._levels.alpha[i], {j: alpha * w for j, w in weights.items()}))
        self._state.append(None)
        self._ends.append(False)

    def step(self, i: int, weights: dict[int, Tensor]) -> None:
        """An evaluation at the start of step i, after which the step is made."""
        self.t.append(self._levels.times[i])
        self.finish(i, weights)

    def finish(self, i: int, weights: dict[int, Tensor]) -> None:
        """The end of step i after the evaluation whose time was noted last."""
        alpha = self._levels.alpha[i + 1]
        self._state.append((alpha / self._levels.alpha[i], {j: alpha * w for j, w in weights.items()}))
        self._point.append(None)
        self._ends.append(True)

    def table(self) -> Table:
        ends = torch.tensor(self._ends, device="cpu")
        return Table(
            "noise",
            torch.stack(self.t),
            _updates(self._state),
            _updates(self._point),
            torch.zeros_like(ends),
            ends,
        )


def _updates(rows: list[tuple[Tensor, dict[int, Tensor]] | None]) -> Updates:
    width = max((1 + max(row[1]) for row in rows if row is not None), default=0)
    x = torch.ones(len(rows), dtype=torch.float64, device="cpu")
    m = torch.zeros(len(rows), width, dtype=torch.float64, device="cpu")
    for k, row in enumerate(rows):
        if row is not None:
            x[k] = row[0]
            for j, weight in row[1].items():
                m[k, j] = weight
    active = torch.tensor([row is not None for row in rows], device="cpu")
    return Updates.of(x, m, active=active)
