"""The one executor of coefficient tables: in place, without allocation or synchronisation in a step."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, final

import torch
from torch import Tensor

from sdekit.errors import ArgumentError
from sdekit.models.predictions import conversion
from sdekit.models.score import ScoreModel
from sdekit.noise import NoiseStream
from sdekit.solvers.base import Problem, Stepper
from sdekit.solvers.solution import SolveState
from sdekit.solvers.table import Table, Updates

__all__ = ["TableStepper"]


@final
class TableStepper(Stepper):
    """Runs a table: the one executor, in place, without allocation or synchronisation in a step."""

    def __init__(self, table: Table, problem: Problem, model: ScoreModel) -> None:
        self.times = problem.times
        self._model = model
        self._x = problem.x.clone(memory_format=torch.contiguous_format)
        self._ends = [0, *(table.ends_step.nonzero()[:, 0] + 1).tolist()]
        if len(self._ends) != len(problem.times):
            raise ArgumentError(
                f"the table ends {len(self._ends) - 1} steps, but the grid has {len(problem.times) - 1}."
            )
        self._times = table.t
        step_of_row = torch.cumsum(table.ends_step, 0) - table.ends_step.long()
        self._after = problem.times[step_of_row + 1]
        self._label_column = model.label_column(table.t, self._x)
        p, q = conversion(model.prediction, table.representation, model.sde, table.t)
        self._stream: NoiseStream | None = None
        self._y: Tensor | None = None
        self._at_y = False
        self._network = partial(model.network, **model.condition) if model.condition else model.network
        self._one_step = table.is_one_step
        self._bare = self._one_step
        if self._one_step:
            self._prepare_one_step(table, problem, p, q)
            self._run = self._run_one_step
        elif table.history == 1 and not bool(table.draw.any()) and _keeps_x(table, p):
            self._bare = True
            self._prepare_two_registers(table, p, q)
            self._run = self._run_two_registers
        else:
            self._prepare_general(table, problem, p, q)
            self._run = self._run_general

    # One value a step: x <- A x + B o + C z in the network's own output, two fused passes -------------------------

    def _prepare_one_step(self, table: Table, problem: Problem, p: Tensor, q: Tensor) -> None:
        b = table.state.m[:, 0]
        fold_a = table.state.x + b * p
        self._fold_a: list[float] = fold_a.tolist()
        self._fold_b: list[float] = (b * q).tolist()
        self._scalar_column = _scalar_column(fold_a, self._x)
        if table.noise_history:
            self._stream = _open(problem, len(table), scales=table.state.z[:, 0])

    def _run_one_step(self, start: int, stop: int) -> None:
        # Bare calls of the network, counted together; an answer that is not plainly right goes through `_apart`.
        if self._stream is None:
            self._run_without_noise(start, stop)
        elif self._stream.several:
            self._run_with_draws_ahead(self._stream, start, stop)
        else:
            self._run_with_noise(self._stream, start, stop)
        self._model.counter.calls += stop - start

    def _labels(self, start: int, stop: int) -> list[Tensor]:
        """What the network takes as t in these rows, as (B,) views of one small tensor.

        Of a copy made here: in inference mode it is an inference tensor, whose views cost a third less.
        """
        column = self._label_column[start:stop].clone()
        return list(column[:, None].expand(-1, self._x.shape[0]).unbind(0))

    def _apart(self, o: Any, x: Tensor) -> Tensor:
        """The answer, checked; a copy where it is the input given back, which must not be written into while read."""
        answer = self._model.checked(o, x)
        return answer.clone() if _storage(answer) == _storage(x) else answer

    def _run_without_noise(self, start: int, stop: int) -> None:
        x, network, place, shape = self._x, self._network, _storage(self._x), self._x.shape
        scalars, weights = _scalars(self._scalar_column[start:stop]), self._fold_b[start:stop]
        for label, scalar, weight in zip(self._labels(start, stop), scalars, weights, strict=True):
            o = network(x, label)
            if o.__class__ is not Tensor or o.shape != shape or _storage(o) == place:
                o = self._apart(o, x)
            x.mul_(scalar).add_(o, alpha=weight)

    def _run_with_noise(self, stream: NoiseStream, start: int, stop: int) -> None:
        x, network, place, shape, add = self._x, self._network, _storage(self._x), self._x.shape, torch.add
        labels, fold_a, fold_b = self._labels(start, stop), self._fold_a[start:stop], self._fold_b[start:stop]
        draws = stream.each(self._times, self._after, start, stop)
        for label, a, b in zip(labels, fold_a, fold_b, strict=True):
            # The network first: it may draw from the same generator, as in a plain loop it would.
            o = network(x, label)
            if o.__class__ is not Tensor or o.shape != shape or _storage(o) == place:
                o = self._apart(o, x)
            add(next(draws), x, alpha=a, out=x).add_(o, alpha=b)

    def _run_with_draws_ahead(self, stream: NoiseStream, start: int, stop: int) -> None:
        """Several draws at hand: each becomes the next state in turn, which on small states is cheaper than an addition
        into a third tensor. The state is copied out before the draws are overwritten.
        """
        x, network, shape = self._x, self._network, self._x.shape
        labels, fold_a, fold_b = self._labels(start, stop), self._fold_a, self._fold_b
        i = start
        while i < stop:
            draws = stream.ahead(self._times, self._after, i, stop)
            j = i + len(draws)
            for z, label, a, b in zip(draws, labels[i - start : j - start], fold_a[i:j], fold_b[i:j], strict=True):
                o = network(x, label)
                # The step writes into the draw and reads x, so that an answer that is x is safe.
                if o.__class__ is not Tensor or o.shape != shape:
                    o = self._model.checked(o, x)
                x = z.add_(x, alpha=a)
                x.add_(o, alpha=b)
            x = self._x.copy_(x)
            i = j

    # No value kept and no noise (two-stage Runge-Kutta): x and y in the network's own output -----------------------

    def _prepare_two_registers(self, table: Table, p: Tensor, q: Tensor) -> None:
        r"""With m = p e + q o, e the place of the evaluation (x or y):

            x' = A x + B m,    y' = A' x' + B' m

        is folded into x, y and o. Where e = x, x' = (A + B p) x + B q o, and the x in m is got back from x'.
        """
        self._y = torch.zeros_like(self._x)
        state, point = table.state, table.point
        a = torch.where(state.active, state.x, 1.0)
        b = torch.where(state.active, state.m[:, 0], 0.0)
        a_point, b_point = point.x, point.m[:, 0]
        at_x = _evaluated_at_x(table)
        folded = torch.where(at_x, a + b * p, a)
        back = torch.where(at_x & (p != 0), b_point * p / folded, 0.0)
        self._x_of_x = folded.tolist()
        self._x_of_y = torch.where(at_x, 0.0, b * p).tolist()
        self._x_of_o = (b * q).tolist()
        self._y_of_x = (a_point + back).tolist()
        self._y_of_y = torch.where(at_x, 0.0, b_point * p).tolist()
        self._y_of_o = (b_point * q - back * b * q).tolist()
        self._x_scalars = _scalar_column(folded, self._x)
        self._y_scalars = _scalar_column(a_point + back, self._x)
        self._pointed: list[bool] = point.active.tolist()

    def _run_two_registers(self, start: int, stop: int) -> None:
        x, y, raw = self._x, self._y, self._model.raw
        if y is None:
            return
        labels = self._labels(start, stop)
        x_scalars, y_scalars = _scalars(self._x_scalars[start:stop]), _scalars(self._y_scalars[start:stop])
        for i in range(start, stop):
            at = y if self._at_y else x
            o = raw(at, labels[i - start])
            if _storage(o) in (_storage(x), _storage(y)):
                o = o.clone()
            if self._x_of_x[i] != 1:
                x.mul_(x_scalars[i - start])
            if self._x_of_o[i] != 0:
                x.add_(o, alpha=self._x_of_o[i])
            if self._x_of_y[i] != 0:
                x.add_(y, alpha=self._x_of_y[i])
            self._at_y = self._pointed[i]
            if self._at_y:
                if self._y_of_y[i] != 0:
                    y.mul_(self._y_of_y[i]).add_(x, alpha=self._y_of_x[i])
                else:
                    torch.mul(x, y_scalars[i - start], out=y)
                y.add_(o, alpha=self._y_of_o[i])

    # Any table --------------------------------------------------------------------------------------------------

    def _prepare_general(self, table: Table, problem: Problem, p: Tensor, q: Tensor) -> None:
        x = self._x
        self._p: list[float] = p.tolist()
        self._q: list[float] = q.tolist()
        self._values = [torch.zeros_like(x) for _ in range(table.history)]
        self._noises = [torch.zeros_like(x) for _ in range(table.noise_history)]
        if bool(table.point.active.any()):
            self._y = torch.zeros_like(x)
        draws = int(table.draw.sum())
        if draws:
            self._stream = _open(problem, draws)
        self._drawing = table.draw
        self._draw: list[bool] = table.draw.tolist()
        self._drawn: list[int] = torch.cumsum(table.draw, 0).tolist()
        self._state, self._point = _Columns(table.state, x), _Columns(table.point, x)

    def _run_general(self, start: int, stop: int) -> None:
        x, y, raw = self._x, self._y, self._model.raw
        values, noises, state, point = self._values, self._noises, self._state, self._point
        labels = self._labels(start, stop)
        draws = None if self._stream is None else self._following(self._stream, start, stop)
        state_x, point_x = _scalars(state.x[start:stop]), _scalars(point.x[start:stop])
        for i in range(start, stop):
            at = y if self._at_y and y is not None else x
            o = raw(at, labels[i - start])
            value, p, q = values[i % len(values)], self._p[i], self._q[i]
            if p != 0:
                torch.mul(o, q, out=value).add_(at, alpha=p)
            elif q != 1:
                torch.mul(o, q, out=value)
            else:
                value.copy_(o)
            if self._draw[i] and draws is not None:
                noises[(self._drawn[i] - 1) % len(noises)].copy_(next(draws))
            if state.active[i]:
                x.mul_(state_x[i - start])
                self._add(x, state, i)
            self._at_y = point.active[i]
            if self._at_y and y is not None:
                torch.mul(x, point_x[i - start], out=y)
                self._add(y, point, i)

    def _following(self, stream: NoiseStream, start: int, stop: int) -> Iterator[Tensor]:
        """The draws of these rows, one by one; made when they are asked for."""
        drawing = self._drawing[start:stop]
        at, after = self._times[start:stop][drawing], self._after[start:stop][drawing]
        return stream.each(at, after, 0, len(at))

    def _add(self, to: Tensor, columns: _Columns, i: int) -> None:
        """to += sum_j B_j m_{-j} + sum_j C_j z_{-j} of row i."""
        values, noises = self._values, self._noises
        for j, weight in enumerate(columns.m[i]):
            if weight != 0:
                to.add_(values[(i - j) % len(values)], alpha=weight)
        for j, weight in enumerate(columns.z[i]):
            if weight != 0:
                to.add_(noises[(self._drawn[i] - 1 - j) % len(noises)], alpha=weight)

    # The stepper's contract ---------------------------------------------------------------------------------------

    @property
    def x(self) -> Tensor:
        # Between steps a predicted point is the state a user expects; the corrected x follows at the next evaluation.
        return self._y if self._at_y and self._y is not None else self._x

    def advance(self, start: int, stop: int) -> None:
        self._run(self._ends[start], self._ends[stop])

    def registers(self) -> dict[str, Tensor]:
        if self._bare:
            return {}
        kept = {f"value_{j}": v for j, v in enumerate(self._values)}
        kept |= {f"noise_{j}": z for j, z in enumerate(self._noises)}
        if self._at_y:
            kept["base"] = self._x
        return kept

    def noise_positions(self) -> tuple[int, ...]:
        return () if self._stream is None else (self._stream.position,)

    def restore(self, state: SolveState) -> None:
        if not self._bare:
            self._at_y = "base" in state.registers
            for j, v in enumerate(self._values):
                v.copy_(state.registers[f"value_{j}"])
            for j, z in enumerate(self._noises):
                z.copy_(state.registers[f"noise_{j}"])
            if self._at_y:
                self._x.copy_(state.registers["base"])
        self.x.copy_(state.x)
        if self._stream is not None:
            self._stream.seek(*state.noise_positions)

    @property
    def replayable(self) -> bool:
        return self._stream is None or self._stream.seekable


@final
class _Columns:
    """Updates as plain lists, for the executor."""

    def __init__(self, updates: Updates, x: Tensor) -> None:
        self.x = _scalar_column(updates.x, x)
        self.m: list[list[float]] = updates.m.tolist()
        self.z: list[list[float]] = updates.z.tolist()
        self.active: list[bool] = updates.active.tolist()


def _storage(x: Tensor) -> int:
    """Where the memory of x begins, whatever part of it x views."""
    return x.untyped_storage().data_ptr()


def _open(problem: Problem, draws: int, scales: Tensor | None = None) -> NoiseStream:
    x = problem.x
    return problem.noise.open(
        tuple(x.shape), purpose="steps", dtype=x.dtype, device=x.device, draws=draws, scales=scales
    )


def _evaluated_at_x(table: Table) -> Tensor:
    """Which rows evaluate at the state, not at a point that the row before it set."""
    return torch.cat([torch.tensor([True], device="cpu"), ~table.point.active[:-1]])


def _keeps_x(table: Table, p: Tensor) -> bool:
    """Whether the old x can be got back from the new one wherever a point needs it: A + B p is not 0 there."""
    state = table.state
    folded = torch.where(state.active, state.x + state.m[:, 0] * p, 1.0)
    return not bool((_evaluated_at_x(table) & table.point.active & (p != 0) & (folded == 0)).any())


def _scalar_column(values: Tensor, x: Tensor) -> Tensor:
    """Factors for `mul_` in the state's precision and place; in float64 on the CPU for half-precision states."""
    if x.dtype in (torch.float32, torch.float64):
        return values.to(device=x.device, dtype=x.dtype)
    return values


def _scalars(column: Tensor) -> list[Any]:
    """The factors of some rows: 0-d tensors, several times cheaper than floats on small states.

    Half-precision states take floats: a 0-d tensor would be rounded to half first. They are made for the rows at hand
    only, so that memory does not grow with the number of steps.
    """
    if column.dtype == torch.float64 and column.device.type == "cpu":
        floats: list[float] = column.tolist()
        return floats
    return list(column.unbind(0))
