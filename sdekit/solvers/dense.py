r"""Dense output: the solution of an ODE between the steps that a solver took, each sample its own.

A step from t to s of length h carries x_t and F_0 … F_p; with theta = (r - t)/h

    x_r = x_t + theta (F0 + (1 - theta) (F1 + theta (F2 + (1 - theta) (F3 + …))))

(Hairer, Norsett & Wanner 1993, section II.6). F0 = x_s - x_t, so that both ends are those of the step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from sdekit._tensors import expand_right
from sdekit.errors import ArgumentError

__all__ = ["DenseOutput", "StepRecorder", "interpolate"]


def interpolate(x: Tensor, coefficients: Sequence[Tensor], theta: Tensor) -> Tensor:
    """x_r of the formula above; theta broadcasts against x, and 0 gives x itself."""
    rest, total = 1 - theta, torch.zeros_like(x)
    for j in reversed(range(len(coefficients))):
        total = (total + coefficients[j]) * (rest if j % 2 else theta)
    return x + total


@final
@dataclass(frozen=True, eq=False)
class DenseOutput:
    """The solution at any time of the solve: `dense(t)` is (B, *) at one time and (K, B, *) at K of them.

    Attributes:
        span: the first time and the last that all samples reached.
        bounds: the times at which each sample's steps end, times the direction of the solve; (B, M), the rest infinite.
        rows: where each of these steps is in the next three, (B, M).
        starts: the time each step starts at and its signed length, float64 (S, 2).
        x: the state at the start of each step, (S, *).
        coefficients: F_0 … F_p of each step, each (S, *).
    """

    span: tuple[float, float]
    bounds: Tensor
    rows: Tensor
    starts: Tensor
    x: Tensor
    coefficients: tuple[Tensor, ...]

    def __call__(self, t: float | Sequence[float] | Tensor) -> Tensor:
        """The states at t.

        Raises:
            ArgumentError: if t is no time or list of times, or is outside of `span`: there is no extrapolation.
        """
        try:
            times = torch.as_tensor(t, dtype=torch.float64, device="cpu")
        except (TypeError, ValueError, RuntimeError):
            raise ArgumentError(f"a dense output is called with a time or a list of times, got {t!r}.") from None
        if times.ndim > 1:
            raise ArgumentError(f"a dense output takes one time or a list of them, got a shape {tuple(times.shape)}.")
        low, high = sorted(self.span)
        if not bool(((times >= low) & (times <= high)).all()):
            raise ArgumentError(
                f"this dense output holds the times from {self.span[0]:g} to {self.span[1]:g}, as far as all samples "
                f"came; got {t!r}. Solve further to have more."
            )
        wanted = times.reshape(-1)
        batch, count = self.bounds.shape[0], len(wanted)
        direction = 1.0 if self.span[1] >= self.span[0] else -1.0
        at = torch.searchsorted(self.bounds, (direction * wanted).expand(batch, count).contiguous())
        steps = self.rows.gather(1, at).T.reshape(-1)
        theta = ((wanted[:, None] - self.starts[steps, 0].reshape(count, batch)).reshape(-1)) / self.starts[steps, 1]
        place = steps.to(self.x.device)
        x = self.x[place]
        theta = expand_right(theta.to(device=x.device, dtype=x.dtype), x)
        values = interpolate(x, [c[place] for c in self.coefficients], theta).reshape(count, batch, *self.x.shape[1:])
        return values if times.ndim else values[0]

    def __repr__(self) -> str:
        steps = torch.isfinite(self.bounds).sum(dim=1)
        return f"DenseOutput({self.span[0]:g} to {self.span[1]:g}, {int(steps.min())} to {int(steps.max())} steps)"

    @staticmethod
    def join(parts: Sequence[DenseOutput]) -> DenseOutput:
        """The dense outputs of consecutive samples as one; its span is what all of them reached."""
        first = parts[0]
        longest = max(p.bounds.shape[1] for p in parts)
        sizes = [len(p.x) for p in parts]
        offsets = [sum(sizes[:k]) for k in range(len(parts))]
        return DenseOutput(
            min((p.span for p in parts), key=lambda span: abs(span[1] - span[0])),
            torch.cat([_padded(p.bounds, longest, torch.inf) for p in parts]),
            torch.cat([_padded(p.rows + o, longest, 0) for p, o in zip(parts, offsets, strict=True)]),
            torch.cat([p.starts for p in parts]),
            torch.cat([p.x for p in parts]),
            tuple(torch.cat([p.coefficients[j] for p in parts]) for j in range(len(first.coefficients))),
        )


def _padded(values: Tensor, width: int, rest: float) -> Tensor:
    return torch.nn.functional.pad(values, (0, width - values.shape[1]), value=rest)


@final
@dataclass(frozen=True)
class _Steps:
    """Accepted steps of some samples: their indices, start and stop times, states and coefficients."""

    rows: Tensor
    start: Tensor
    stop: Tensor
    x: Tensor
    coefficients: tuple[Tensor, ...]


@final
class StepRecorder:
    """What is kept of the steps of an adaptive solve: the states at its `times`, all steps for a dense output, or both.

    times: float64 (K,), the first and the last those of the solve.
    """

    def __init__(self, times: Tensor, x: Tensor, *, saves: bool, dense: bool) -> None:
        self._times, self._x, self._dense = times, x, dense
        self._direction = 1.0 if times[-1] > times[0] else -1.0
        between = times[1:-1] if saves else times[:0]
        # The last of them, never due, stands for the end, which is landed on.
        self._due = torch.cat(
            [self._direction * between, torch.full((1,), torch.inf, dtype=torch.float64, device="cpu")]
        )
        self._next = torch.zeros(len(x), dtype=torch.int64, device="cpu")
        self._kept = x.new_empty(len(between), *x.shape)
        self._steps: list[_Steps] = []

    def wants(self, rows: Tensor, stop: Tensor) -> Tensor:
        """Which of the samples `rows`, now stepping to `stop`, pass a time to be kept; all of them for dense output."""
        if self._dense:
            return torch.ones_like(rows, dtype=torch.bool)
        return self._due[self._next[rows]] <= self._direction * stop

    def add(self, rows: Tensor, start: Tensor, stop: Tensor, x: Tensor, coefficients: tuple[Tensor, ...]) -> None:
        """A step of the samples `rows`, (A,), from `start` to `stop`; of those that `wants` said, all of them."""
        if self._dense:
            self._steps.append(_Steps(rows, start, stop, x, coefficients))
        inside = self._due[self._next[rows]] <= self._direction * stop
        while bool(inside.any()):
            which = inside.nonzero()[:, 0]
            samples, place = rows[which], self._next[rows[which]]
            theta = (self._direction * self._due[place] - start[which]) / (stop - start)[which]
            on = which.to(x.device)
            weight = expand_right(theta.to(device=x.device, dtype=x.dtype), x[on])
            values = interpolate(x[on], [c[on] for c in coefficients], weight)
            self._kept[place.to(x.device), samples.to(x.device)] = values
            self._next[samples] += 1
            inside = self._due[self._next[rows]] <= self._direction * stop

    def trajectory(self, end: Tensor, at: Tensor) -> Tensor:
        """The states at the times that all samples reached, the first included; `end` are those at the times `at`."""
        kept = self._kept[: int(self._next.min())]
        whole = bool((at == self._times[-1]).all())
        return torch.cat([self._x[None], kept, *([end[None]] if whole else [])])

    def output(self, at: Tensor) -> DenseOutput:
        """The dense output of all steps; `at` is where each sample ended."""
        start, batch = float(self._times[0]), len(self._x)
        reached = float(self._direction * (self._direction * at).min())
        # A sample that took no step is at its start: a step of no change, for its rows to point at.
        still = (at == start).nonzero()[:, 0]
        here = torch.full((len(still),), start, dtype=torch.float64, device="cpu")
        x = self._x[still.to(self._x.device)]
        width = len(self._steps[0].coefficients) if self._steps else 1
        parts = [*self._steps, _Steps(still, here, here + self._direction, x, (torch.zeros_like(x),) * width)]
        rows, starts, stops = (torch.cat([getattr(p, name) for p in parts]) for name in ("rows", "start", "stop"))
        order = torch.argsort(rows, stable=True)  # by sample, and in each as they were taken
        counts = torch.bincount(rows, minlength=batch)
        column = torch.arange(len(rows), device="cpu") - (counts.cumsum(0) - counts)[rows[order]]
        bounds = torch.full((batch, int(counts.max())), torch.inf, dtype=torch.float64, device="cpu")
        where = torch.zeros(bounds.shape, dtype=torch.int64, device="cpu")
        bounds[rows[order], column] = self._direction * stops[order]
        where[rows[order], column] = order
        return DenseOutput(
            (start, reached),
            bounds,
            where,
            torch.stack([starts, stops - starts], dim=1),
            torch.cat([p.x for p in parts]),
            tuple(torch.cat([p.coefficients[j] for p in parts]) for j in range(width)),
        )
