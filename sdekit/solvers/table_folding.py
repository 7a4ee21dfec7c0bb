r"""What the executor makes of a table before it runs it: fewer registers, and the network's own output in place of m.

A row's value is m = p e + q o, with o the network's output and e where it was evaluated (x or y). Folding puts p and q
into the coefficients, so that the newest value needs no buffer of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from sdekit.solvers.table import Table, Updates

__all__ = ["Folded", "evaluated_at_x", "fold", "single_register", "step_ends"]


def evaluated_at_x(table: Table) -> Tensor:
    """Which rows evaluate at the state, not at a point that the row before it set: bool (R,)."""
    return torch.cat([torch.tensor([True], device="cpu"), ~table.point.active[:-1]])


def step_ends(table: Table) -> Tensor:
    """For each row, which time of the grid ends the step it belongs to, int64 (R,)."""
    return 1 + torch.cumsum(table.ends_step, 0) - table.ends_step.long()


def single_register(table: Table) -> Table:
    r"""The table without its points, where the state can be told from the point; else the table itself.

    A predictor-corrector row corrects the state, x' = A x + sum B_j m_{-j}, and predicts where to evaluate next,
    y' = A' x' + sum B'_j m_{-j}. Then x' = (y' - sum B'_j m_{-j})/A', so the next row can start from y' and one value
    more of the past, and x need not be kept. Likewise for the noise, where each row draws.
    """
    state, point, rows = table.state, table.point, len(table)
    drawing = bool(table.draw.all()) or not bool(table.draw.any())
    pointed = rows > 1 and bool(point.active[:-1].all()) and not bool(point.active[-1])
    whole = bool(state.active.all()) and bool(table.evaluates.all()) and drawing
    if not (pointed and whole) or not bool((point.x[:-1] != 0).all()):
        return table
    ahead = torch.where(point.active, point.x, 1.0)
    # x of the row before = back y + sum e_j m_{-j} + sum f_j z_{-j}, with y where this row evaluates.
    back = torch.cat([torch.ones(1, dtype=torch.float64, device="cpu"), 1 / point.x[:-1]])

    def column(of_state: Tensor, of_point: Tensor) -> Tensor:
        width = max(of_state.shape[1], of_point.shape[1] + 1)
        here, there, before = (torch.zeros(rows, width, dtype=torch.float64, device="cpu") for _ in range(3))
        here[:, : of_state.shape[1]] = of_state
        there[:-1, : of_point.shape[1]] = of_point[:-1]
        before[1:, 1 : of_point.shape[1] + 1] = -back[1:, None] * of_point[:-1]
        terms = (ahead[:, None] * here, ahead[:, None] * state.x[:, None] * before, there)
        total = terms[0] + terms[1] + terms[2]
        # The noise that predictor and corrector share cancels, to rounding: then it is not there.
        return _trimmed(torch.where(total.abs() <= 1e-14 * sum(term.abs() for term in terms), 0.0, total))

    return replace(
        table,
        state=Updates.of(ahead * state.x * back, column(state.m, point.m), column(state.z, point.z)),
        point=Updates.none(rows),
    )


def _trimmed(columns: Tensor) -> Tensor:
    """Without the last columns where they are all 0."""
    used = columns.ne(0).any(dim=0).nonzero()
    return columns[:, : int(used[-1]) + 1 if len(used) else 0]


@final
@dataclass(frozen=True, eq=False)
class Folded:
    """One update a row in terms of registers and the network's output, as float64 columns.

    x <- x_of_x x + x_of_y y + x_of_o o + sum_{j >= 1} m[j - 1] m_{-j} + sum_j z[j] z_{-j}, and y likewise.
    """

    of_x: Tensor
    of_y: Tensor
    of_o: Tensor
    m: Tensor
    z: Tensor
    active: Tensor


def fold(table: Table, p: Tensor, q: Tensor) -> tuple[Folded, Folded, Tensor]:
    """The state's and the point's updates, and which rows must make the point before the state moves, bool (R,).

    Those that evaluate at x and set both: their point is written in terms of the old x, which m contains.
    """
    state, point = table.state, table.point
    at_x = evaluated_at_x(table)
    p, q = torch.where(table.evaluates, p, 0.0), torch.where(table.evaluates, q, 0.0)
    a = torch.where(state.active, state.x, 1.0)
    # A row without an evaluation looks back to the newest value of all; one with an evaluation makes it.
    state_m, state_new = _newest(state.m, table.evaluates)
    point_m, point_new = _newest(point.m, table.evaluates)
    state_m, state_new = state_m * state.active[:, None], torch.where(state.active, state_new, 0.0)
    state_z = state.z * state.active[:, None]
    first = at_x & state.active & point.active & (point_new * p != 0)
    ahead = torch.where(first, point.x, 0.0)
    new = point_new + ahead * state_new
    folded_state = Folded(
        of_x=torch.where(at_x, a + state_new * p, a),
        of_y=torch.where(at_x, 0.0, state_new * p),
        of_o=state_new * q,
        m=state_m,
        z=state_z,
        active=state.active,
    )
    folded_point = Folded(
        of_x=torch.where(first, point.x * a + new * p, point.x + torch.where(at_x, point_new * p, 0.0)),
        of_y=torch.where(at_x, 0.0, point_new * p),
        of_o=new * q,
        m=_sum(point_m, ahead[:, None] * state_m),
        z=_sum(point.z, ahead[:, None] * state_z),
        active=point.active,
    )
    return folded_state, folded_point, first


def _newest(m: Tensor, evaluates: Tensor) -> tuple[Tensor, Tensor]:
    """Weights of the values before the row's own, and of the row's own (0 where it evaluates nothing)."""
    nothing = torch.zeros(len(m), 1, dtype=torch.float64, device="cpu")
    padded = torch.cat([m, nothing], dim=1)
    past = torch.where(evaluates[:, None], torch.cat([padded[:, 1:], nothing], dim=1), padded)
    return _trimmed(past), torch.where(evaluates, padded[:, 0], 0.0)


def _sum(a: Tensor, b: Tensor) -> Tensor:
    width = max(a.shape[1], b.shape[1])
    total = torch.zeros(len(a), width, dtype=torch.float64, device="cpu")
    total[:, : a.shape[1]] += a
    total[:, : b.shape[1]] += b
    return total
