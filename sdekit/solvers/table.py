r"""Coefficient tables.

Most diffusion samplers are linear in the state, the model's values and the noise, with coefficients that depend on the
SDE and the grid alone. A table holds them in float64, computed once a solve. A row is one model evaluation,

    m_0 = model(y, t)                                          in the table's representation (data, noise, …)
    x  <-  A x + sum_j B_j m_{-j} + sum_j C_j z_{-j}           the state
    y  <-  A' x + sum_j B'_j m_{-j} + sum_j C'_j z_{-j}        where the next row evaluates, unless that is x

with m_{-j} the value j evaluations ago and z_{-j} the noise j draws ago. A row may leave the state as it is (an inner
stage), or recompute it with the new value before it predicts (a corrector). A row may also evaluate nothing and move by
noise alone (churn, a restart): then m_{-j} counts from the last evaluation made.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any, final

import torch
from torch import Tensor

from sdekit.errors import ArgumentError
from sdekit.models.predictions import Prediction, check_prediction

__all__ = ["Table", "Updates"]


@final
@dataclass(frozen=True, eq=False)
class Updates:
    """One update a row, as float64 columns, the latest value and draw first.

    Attributes:
        x: A, (R,).
        m: B_0, B_1, …, (R, H).
        z: C_0, C_1, …, (R, Z).
        active: which rows make this update at all, bool (R,).
    """

    x: Tensor
    m: Tensor
    z: Tensor
    active: Tensor

    @staticmethod
    def of(x: Tensor, m: Tensor, z: Tensor | None = None, active: Tensor | None = None) -> Updates:
        """Updates from columns; no noise and every row active unless given."""
        rows = len(x)
        noise = torch.zeros(rows, 0, dtype=torch.float64, device="cpu") if z is None else z
        return Updates(x, m, noise, torch.ones(rows, dtype=torch.bool, device="cpu") if active is None else active)

    @staticmethod
    def none(rows: int) -> Updates:
        """No update in any row."""
        nothing = torch.zeros(rows, dtype=torch.float64, device="cpu")
        return Updates(nothing, nothing[:, None][:, :0], nothing[:, None][:, :0], nothing.bool())

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {"x": self.x.tolist(), "m": self.m.tolist(), "z": self.z.tolist(), "active": self.active.tolist()}

    @staticmethod
    def from_dict(values: dict[str, Any]) -> Updates:
        """The inverse of `to_dict`."""
        rows = len(values["x"])

        def column(name: str) -> Tensor:
            if len(values[name]) != rows:
                raise ArgumentError(f"column {name!r} of a table has {len(values[name])} rows, but 'x' has {rows}.")
            return torch.tensor(values[name], dtype=torch.float64, device="cpu").reshape(rows, -1)

        return Updates(
            column("x")[:, 0], column("m"), column("z"), torch.tensor(values["active"], dtype=torch.bool, device="cpu")
        )

    def shown(self, row: int) -> str:
        """One row as a formula."""
        if not self.active[row]:
            return "-"
        terms = [f"{float(self.x[row]):+.6g} x"]
        for letter, column in (("m", self.m), ("z", self.z)):
            terms += [f"{v:+.6g} {letter}{j or ''}" for j, v in enumerate(column[row].tolist()) if v != 0]
        return " ".join(terms)


@final
@dataclass(frozen=True, eq=False)
class Table:
    """The rows of a whole solve, in columns.

    Attributes:
        representation: what the values m are: "noise", "data", …
        t: the time of each row's evaluation, float64 (R,).
        state: how x moves after it.
        point: where the next row evaluates; an inactive row means at x.
        draw: whether a new z is drawn after the evaluation, before the updates, bool (R,).
        ends_step: whether a step of the grid ends with this row, bool (R,).
        evaluates: whether the model is evaluated in this row, bool (R,); every row does unless given.
    """

    representation: Prediction
    t: Tensor
    state: Updates
    point: Updates
    draw: Tensor
    ends_step: Tensor
    evaluates: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.bool, device="cpu"))

    def __post_init__(self) -> None:
        if not len(self.evaluates):
            object.__setattr__(self, "evaluates", torch.ones_like(self.ends_step))
        check_prediction(self.representation)
        rows = len(self.t)
        columns = {"draw": self.draw, "ends_step": self.ends_step, "evaluates": self.evaluates}
        for name, updates in (("state", self.state), ("point", self.point)):
            columns |= {f"{name}.{f.name}": getattr(updates, f.name) for f in fields(updates)}
        short = [f"{name} {len(column)}" for name, column in columns.items() if len(column) != rows]
        if rows == 0 or short:
            raise ArgumentError(f"every column of a table has a row for each of its {rows} times; {', '.join(short)}.")
        if not bool(self.ends_step[-1]):
            raise ArgumentError("the last row of a table must end a step.")

    @staticmethod
    def one_step(representation: Prediction, times: Tensor, a: Tensor, b: Tensor, c: Tensor | None = None) -> Table:
        """x <- a_i x + b_i m(x, t_i) + c_i z for each step i of `times` (N + 1,); coefficients (N,), float64."""
        rows = len(a)
        state = Updates.of(a, b[:, None], None if c is None else c[:, None])
        every = torch.ones(rows, dtype=torch.bool, device="cpu")
        return Table(representation, times[:-1], state, Updates.none(rows), every if c is not None else ~every, every)

    def __len__(self) -> int:
        return len(self.t)

    @property
    def evaluations(self) -> int:
        """Model evaluations of the whole solve."""
        return int(self.evaluates.sum())

    @property
    def history(self) -> int:
        """How many past values the rows look back to, the newest included."""
        return max(self.state.m.shape[1], self.point.m.shape[1])

    @property
    def noise_history(self) -> int:
        """How many draws the rows look back to."""
        return max(self.state.z.shape[1], self.point.z.shape[1])

    @property
    def is_one_step(self) -> bool:
        """Whether each row is a whole step from the state and one value, all with noise or all without."""
        every = self.state.active & ~self.point.active & self.ends_step & self.evaluates
        drawn = int(self.draw.sum())
        return bool(every.all()) and self.history == 1 and self.noise_history <= 1 and drawn in (0, len(self))

    @property
    def is_multistep(self) -> bool:
        """Whether each row is a whole step from the state and values past and present, with its own draw or none."""
        every = self.state.active & ~self.point.active & self.ends_step & self.evaluates
        return bool(every.all()) and self.noise_history <= 1 and int(self.draw.sum()) in (0, len(self))

    def without_last_noise(self) -> Table:
        """The same table with the last row's fresh noise left out: its mean."""
        if not bool(self.draw[-1]) or not self.state.z.shape[1]:
            raise ArgumentError("the last row of this table draws no noise, so there is none to leave out.")
        z = self.state.z.clone()
        z[-1, 0] = 0.0
        return replace(self, state=replace(self.state, z=z))

    def to_dict(self) -> dict[str, Any]:
        """JSON values; `from_dict` is the inverse."""
        return {
            "representation": self.representation,
            "t": self.t.tolist(),
            "state": self.state.to_dict(),
            "point": self.point.to_dict(),
            "draw": self.draw.tolist(),
            "ends_step": self.ends_step.tolist(),
            "evaluates": self.evaluates.tolist(),
        }

    @staticmethod
    def from_dict(values: dict[str, Any]) -> Table:
        """The table that `to_dict` wrote."""

        def flags(name: str) -> Tensor:
            return torch.tensor(values[name], dtype=torch.bool, device="cpu")

        return Table(
            values["representation"],
            torch.tensor(values["t"], dtype=torch.float64, device="cpu"),
            Updates.from_dict(values["state"]),
            Updates.from_dict(values["point"]),
            flags("draw"),
            flags("ends_step"),
            flags("evaluates"),
        )

    def __str__(self) -> str:
        lines = [f"table in {self.representation}, {self.evaluations} evaluations"]
        for i, t in enumerate(self.t.tolist()):
            point = f"   y <- {self.point.shown(i)}" if self.point.active[i] else ""
            lines.append(f"t = {t:.6g}:  x <- {self.state.shown(i)}{point}")
        return "\n".join(lines)
