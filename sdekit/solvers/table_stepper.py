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
from sdekit.solvers.table import Table
from sdekit.solvers.table_columns import Columns, scalar_column, scalars, storage
from sdekit.solvers.table_folding import fold, single_register, step_ends

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
        table = single_register(table)
        self._times = table.t
        # A row's noise is that of the path from its time to the next row's, or to the end of the step.
        self._after = torch.where(table.ends_step, problem.times[step_ends(table)], table.t.roll(-1))
        self._label_column = model.label_column(table.t, self._x)
        p, q = conversion(model.prediction, table.representation, model.sde, table.t)
        self._stream: NoiseStream | None = None
        self._y: Tensor | None = None
        self._at_y = False
        self._values: list[Tensor] = []
        self._noises: list[Tensor] = []
        self._network = partial(model.network, **model.condition) if model.condition else model.network
        if table.is_one_step:
            self._prepare_one_step(table, problem, p, q)
            self._run = self._run_one_step
        elif table.is_multistep:
            self._prepare_multistep(table, problem, p, q)
            self._run = self._run_multistep
        else:
            self._prepare_general(table, problem, p, q)
            self._run = self._run_general

    # One value a step: x <- A x + B o + C z in the network's own output, two fused passes -------------------------

    def _prepare_one_step(self, table: Table, problem: Problem, p: Tensor, q: Tensor) -> None:
        b = table.state.m[:, 0]
        fold_a = table.state.x + b * p
        self._fold_a: list[float] = fold_a.tolist()
        self._fold_b: list[float] = (b * q).tolist()
        self._scalar_column = scalar_column(fold_a, self._x)
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
        return answer.clone() if storage(answer) == storage(x) else answer

    def _run_without_noise(self, start: int, stop: int) -> None:
        x, network, place, shape = self._x, self._network, storage(self._x), self._x.shape
        factors, weights = scalars(self._scalar_column[start:stop]), self._fold_b[start:stop]
        for label, scalar, weight in zip(self._labels(start, stop), factors, weights, strict=True):
            o = network(x, label)
            if o.__class__ is not Tensor or o.shape != shape or storage(o) == place:
                o = self._apart(o, x)
            x.mul_(scalar).add_(o, alpha=weight)

    def _run_with_noise(self, stream: NoiseStream, start: int, stop: int) -> None:
        x, network, place, shape, add = self._x, self._network, storage(self._x), self._x.shape, torch.add
        labels, fold_a, fold_b = self._labels(start, stop), self._fold_a[start:stop], self._fold_b[start:stop]
        draws = stream.each(self._times, self._after, start, stop)
        for label, a, b in zip(labels, fold_a, fold_b, strict=True):
            # The network first: it may draw from the same generator, as in a plain loop it would.
            o = network(x, label)
            if o.__class__ is not Tensor or o.shape != shape or storage(o) == place:
                o = self._apart(o, x)
            add(next(draws), x, alpha=a, out=x).add_(o, alpha=b)

    def _run_with_draws_ahead(self, stream: NoiseStream, start: int, stop: int) -> None:
        """Several draws at hand: each becomes the next state in turn, which on small states is cheaper than an addition
        into a third tensor. The state is copied out before the draws are overwritten.
        """
        x, network, size = self._x, self._network, self._x.numel()
        labels, fold_a, fold_b = self._labels(start, stop), self._fold_a, self._fold_b
        i = start
        o: Any = x
        try:
            while i < stop:
                draws = stream.ahead(self._times, self._after, i, stop)
                j = i + len(draws)
                for z, label, a, b in zip(draws, labels[i - start : j - start], fold_a[i:j], fold_b[i:j], strict=True):
                    o = network(x, label)
                    # The step writes into the draw and reads x, so that an answer that is x is safe. Of as many numbers
                    # in another shape, or no tensor at all, torch will not add: that is looked into below.
                    if o.numel() != size:
                        o = self._model.checked(o, x)
                    x = z.add_(x, alpha=a)
                    x.add_(o, alpha=b)
                x = self._x.copy_(x)
                i = j
        except (AttributeError, RuntimeError, TypeError):
            self._model.checked(o, self._x)  # says what is wrong with the answer, if that is what it is
            raise

    # One evaluation a step, at the state, and past values: x <- A x + B_0 o + sum_{j >= 1} B_j m_{-j} + C z ---------

    def _prepare_multistep(self, table: Table, problem: Problem, p: Tensor, q: Tensor) -> None:
        state, _, _ = fold(table, p, q)
        self._keep_values(state.m.shape[1], p, q)
        self._fold_a, self._fold_b = state.of_x.tolist(), state.of_o.tolist()
        self._past: list[list[float]] = (state.m * self._factors(table, state.m.shape[1])).tolist()
        self._scalar_column = scalar_column(state.of_x, self._x)
        if table.noise_history:
            self._stream = _open(problem, len(table), scales=state.z[:, 0])

    def _run_multistep(self, start: int, stop: int) -> None:
        x, network, shape, place = self._x, self._network, self._x.shape, storage(self._x)
        values, past, count = self._values, self._past, len(self._values)
        stream, fold_a, fold_b = self._stream, self._fold_a, self._fold_b
        draws = None if stream is None else stream.each(self._times, self._after, start, stop)
        factors = scalars(self._scalar_column[start:stop]) if draws is None else fold_a[start:stop]
        for i, label, scalar in zip(range(start, stop), self._labels(start, stop), factors, strict=True):
            o = network(x, label)
            if o.__class__ is not Tensor or o.shape != shape or storage(o) == place:
                o = self._apart(o, x)
            self._keep(i, i, o, x)
            if draws is None:
                x.mul_(scalar)
            else:
                torch.add(next(draws), x, alpha=fold_a[i], out=x)
            x.add_(o, alpha=fold_b[i])
            for j, weight in enumerate(past[i], 1):
                if weight != 0:
                    x.add_(values[(i - j) % count], alpha=weight)
        self._model.counter.calls += stop - start

    def _keep_values(self, past: int, p: Tensor, q: Tensor) -> None:
        """Buffers for the values that later rows look back to."""
        self._values = [torch.zeros_like(self._x) for _ in range(past + 1)] if past else []
        # m = p e + q o is kept in one pass, over the greater of p and q: what it is short of goes into the weights.
        of_o = q.abs() >= p.abs()
        self._factor = torch.where(of_o, q, p)
        self._kept_of_o: list[bool] = of_o.tolist()
        self._ratio: list[float] = torch.where(of_o, p / q, q / p).tolist()

    def _factors(self, table: Table, past: int) -> Tensor:
        """What the values that row i looks back to, m_{-1}, m_{-2}, …, were kept short of: (R, past)."""
        made = table.evaluates.nonzero()[:, 0]
        number = torch.cumsum(table.evaluates, 0) - table.evaluates.long()
        looked_at = number[:, None] - torch.arange(1, past + 1, device="cpu")
        # A row before the first evaluation looks at nothing: its weight is 0.
        return self._factor[made[looked_at.clamp(min=0)]]

    def _keep(self, number: int, i: int, o: Tensor, at: Tensor) -> None:
        """m = p e + q o of row i, the evaluation of this number, into its buffer, over the greater of p and q."""
        if not self._values:
            return
        value, ratio = self._values[number % len(self._values)], self._ratio[i]
        if ratio == 0:
            value.copy_(o if self._kept_of_o[i] else at)
        elif self._kept_of_o[i]:
            torch.add(o, at, alpha=ratio, out=value)
        else:
            torch.add(at, o, alpha=ratio, out=value)

    # Any table: a state x and a point y -----------------------------------------------------------------------------

    def _prepare_general(self, table: Table, problem: Problem, p: Tensor, q: Tensor) -> None:
        x = self._x
        state, point, first = fold(table, p, q)
        past = max(state.m.shape[1], point.m.shape[1])
        self._keep_values(past, p, q)
        factors = self._factors(table, past)
        # A state that is kept, and a point that starts from itself, are not scaled by a factor of x.
        self._state = Columns(state, factors, x, state.active & (state.of_x != 1))
        self._point = Columns(point, factors, x, point.active & (point.of_y == 0))
        self._point_first: list[bool] = first.tolist()
        if bool(table.point.active.any()):
            self._y = torch.zeros_like(x)
        self._evaluates: list[bool] = table.evaluates.tolist()
        self._evaluated: list[int] = (torch.cumsum(table.evaluates, 0) - table.evaluates.long()).tolist()
        self._drawing = table.draw
        self._draw: list[bool] = table.draw.tolist()
        self._drawn: list[int] = torch.cumsum(table.draw, 0).tolist()
        draws = self._drawn[-1]
        if draws:
            self._stream = _open(problem, draws)
            used = [c[:, 1:] for c in (state.z, point.z)] + [c[~table.draw] for c in (state.z, point.z)]
            if any(bool(c.ne(0).any()) for c in used):
                self._noises = [torch.zeros_like(x) for _ in range(table.noise_history + 1)]

    def _run_general(self, start: int, stop: int) -> None:
        x, y, raw = self._x, self._x if self._y is None else self._y, self._model.raw
        noises, values, state, point = self._noises, self._values, self._state, self._point
        places = (storage(x), storage(y))
        labels = self._labels(start, stop)
        draws = None if self._stream is None else self._following(self._stream, start, stop)
        state_scales, point_scales = state.scales(start, stop), point.scales(start, stop)
        at_y, o, z = self._at_y, x, x
        for i, label in zip(range(start, stop), labels, strict=True):
            if self._evaluates[i]:
                at = y if at_y else x
                o = raw(at, label)
                if storage(o) in places:
                    o = o.clone()
                if values:
                    self._keep(self._evaluated[i], i, o, at)
            if self._draw[i] and draws is not None:
                z = next(draws)
                if noises:
                    z = noises[(self._drawn[i] - 1) % len(noises)].copy_(z)
            at_y = point.active[i]
            if at_y and self._point_first[i]:
                self._set_point(y, x, o, z, point_scales, i)
            if state.active[i]:
                if state.scaled[i]:
                    x.mul_(next(state_scales))
                if state.of_y[i] != 0:
                    x.add_(y, alpha=state.of_y[i])
                if state.of_o[i] != 0:
                    x.add_(o, alpha=state.of_o[i])
                if state.looks_back[i]:
                    self._add_past(x, state, z, i)
            if at_y and not self._point_first[i]:
                self._set_point(y, x, o, z, point_scales, i)
        self._at_y = at_y

    def _set_point(self, y: Tensor, x: Tensor, o: Tensor, z: Tensor, scales: Iterator[Any], i: int) -> None:
        """y <- y_of_x x + y_of_y y + … of row i."""
        point = self._point
        if point.scaled[i]:
            torch.mul(x, next(scales), out=y)
        else:
            y.mul_(point.of_y[i]).add_(x, alpha=point.of_x[i])
        if point.of_o[i] != 0:
            y.add_(o, alpha=point.of_o[i])
        if point.looks_back[i]:
            self._add_past(y, point, z, i)

    def _add_past(self, to: Tensor, columns: Columns, z: Tensor, i: int) -> None:
        """to += sum_{j >= 1} B_j m_{-j} + sum_j C_j z_{-j} of row i."""
        values, noises = self._values, self._noises
        for j, weight in enumerate(columns.m[i], 1):
            if weight != 0:
                to.add_(values[(self._evaluated[i] - j) % len(values)], alpha=weight)
        for j, weight in enumerate(columns.z[i]):
            if weight != 0:
                to.add_(noises[(self._drawn[i] - 1 - j) % len(noises)] if noises else z, alpha=weight)

    def _following(self, stream: NoiseStream, start: int, stop: int) -> Iterator[Tensor]:
        """The draws of these rows, one by one; made when they are asked for."""
        drawing = self._drawing[start:stop]
        at, after = self._times[start:stop][drawing], self._after[start:stop][drawing]
        return stream.each(at, after, 0, len(at))

    # The stepper's contract ---------------------------------------------------------------------------------------

    @property
    def x(self) -> Tensor:
        # Between steps a predicted point is the state a user expects; the corrected x follows at the next evaluation.
        return self._y if self._at_y and self._y is not None else self._x

    def advance(self, start: int, stop: int) -> None:
        self._run(self._ends[start], self._ends[stop])

    def registers(self) -> dict[str, Tensor]:
        kept = {f"value_{j}": v for j, v in enumerate(self._values)}
        kept |= {f"noise_{j}": z for j, z in enumerate(self._noises)}
        if self._at_y:
            kept["base"] = self._x
        return kept

    def noise_positions(self) -> tuple[int, ...]:
        return () if self._stream is None else (self._stream.position,)

    def restore(self, state: SolveState) -> None:
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


def _open(problem: Problem, draws: int, scales: Tensor | None = None) -> NoiseStream:
    x = problem.x
    return problem.noise.open(
        tuple(x.shape), purpose="steps", dtype=x.dtype, device=x.device, draws=draws, scales=scales
    )
