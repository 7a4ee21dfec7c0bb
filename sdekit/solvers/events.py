r"""Events: where a function of state and time crosses zero, a sample stops, and the crossing is located.

A crossing is seen at the ends of steps: where f(x_t, t) and f(x_s, s) differ in sign there is one between them, and its
place is halved into until it is known to the tolerance. What crosses and comes back within one step is not seen, and of
three crossings within one step any one may be found. For an SDE that happens at every scale: first passages are found
late, and the mean time by a term of order sqrt(h); so small steps are what an event of an SDE needs, however fine the
tolerance (Asmussen, Glynn & Pitman 1995).

Between the ends of a step the solution is

- of an ODE, the method's interpolant, or its step from the same start to the time between;
- of an SDE, the method's steps along the same Brownian path, whose increment over an interval is halved from its exact
  law given the whole (`noise.splitting.halve`), or asked for where the path is a `BrownianPath`. The state at the event
  is where the first of these steps ends past zero: near zero up to the method's error of one step.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, final, get_args

import torch
from torch import Tensor

from sdekit._tensors import check_positive, expand_right
from sdekit.errors import ArgumentError, ShapeError
from sdekit.noise.brownian import Increment
from sdekit.noise.hashed import Elements, normals, sample_keys
from sdekit.noise.splitting import halve
from sdekit.sdes.base import check_parameters, cut_parameters
from sdekit.solvers.dense import interpolate

if TYPE_CHECKING:
    from sdekit.noise.path import BrownianPath

__all__ = [
    "Direction",
    "DrawnHalves",
    "Event",
    "Inside",
    "Interpolated",
    "OnPath",
    "PathHalves",
    "Restepped",
    "locate",
    "names_of",
]

Direction = Literal["any", "up", "down"]
_MOST = 80  # halvings: past what float64 can tell apart


@final
@dataclass(frozen=True)
class Event:
    """A function that ends a sample where it crosses zero.

    Args:
        function: f(x, t) -> (B,) or (B, 1), with x (B, *) and t float64 (B,). It is called with some of the samples, in
            their order, wherever one of them has to be looked at; what differs from sample to sample belongs into
            `parameters`, therefore.
        direction: "up": from below zero to zero or above; "down": the other way; "any": both. A sample that starts at
            zero has crossed nothing yet.
        tolerance: of the time of the crossing, as a part of the whole solve.
        parameters: tensors of shape (B, …), a row for each sample: given to `function` by name, and cut with the batch.
            Not compared where two events are.
    """

    function: Callable[..., Tensor]
    direction: Direction = "any"
    tolerance: float = 1e-8
    parameters: Mapping[str, Tensor] | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise ArgumentError(f"event must be a function of (x, t), got {type(self.function).__name__}.")
        if self.direction not in get_args(Direction):
            raise ArgumentError(f"event_direction must be 'any', 'up' or 'down', got {self.direction!r}.")
        if not check_positive("event_tolerance", self.tolerance) < 1:
            raise ArgumentError(f"event_tolerance is a part of the whole solve, below 1; got {self.tolerance!r}.")
        check_parameters(self.parameters)

    def rows(self, which: slice | Tensor, batch: int) -> Event:
        """The event of some samples of a batch, a slice or their indices, int64 (A,).

        Raises:
            ShapeError: if a parameter has not a row for each of the batch.
        """
        if not self.parameters:
            return self
        return replace(self, parameters=cut_parameters(self.parameters, which, (batch,)))

    def value(self, x: Tensor, t: Tensor) -> Tensor:
        """f of some samples, float64 (A,) on the CPU; NaN where the state is no number."""
        rows = x.shape[0]
        g = self.function(x, t.to(x.device), **(self.parameters or {}))
        if not isinstance(g, Tensor):
            raise ArgumentError(f"the event must return a tensor, got {type(g).__name__}.")
        if not g.is_floating_point():
            raise ArgumentError(
                f"the event must return floating-point numbers that change their sign, got {g.dtype}; in place of a "
                "condition such as x > 1, which is never below zero, return x - 1."
            )
        if tuple(g.shape) not in ((rows,), (rows, 1)):
            raise ShapeError(
                f"the event returned a tensor of shape {tuple(g.shape)} for {rows} sample(s); expected ({rows},): one "
                "number for each. x has shape (B, *) and t shape (B,)."
            )
        g = g.detach().reshape(rows).double().cpu()
        wrong = torch.isnan(g)
        if bool(wrong.any()):
            i = int(wrong.nonzero()[0])
            if bool(torch.isfinite(x[i]).all()):
                raise ArgumentError(f"the event is NaN at a finite state, at t = {float(t[i]):g}.")
        return g

    def passed(self, side: Tensor, value: Tensor) -> Tensor:
        """Whether samples that were on `side` of zero (-1, 0 or 1) have crossed it where f is `value`: bool (A,)."""
        up, down = (side < 0) & (value >= 0), (side > 0) & (value <= 0)
        return up if self.direction == "up" else down if self.direction == "down" else up | down

    @staticmethod
    def side(value: Tensor, before: Tensor) -> Tensor:
        """The side of zero that f is on; the one `before` where it is at zero."""
        return torch.where((value == 0) | torch.isnan(value), before, value.sign())


# The solution inside a step ----------------------------------------------------------------------------------------


class Inside(abc.ABC):
    """The solution inside a step of A samples, halved again and again."""

    @abc.abstractmethod
    def at(self, which: Tensor, start: Tensor, middle: Tensor, stop: Tensor) -> Tensor:
        """The states of samples `which` (int64, of the A) at the middle of the intervals that are left of their steps.

        The times are float64, one for each of `which`.
        """

    def keep(self, which: Tensor, first: Tensor) -> None:
        """Told after `at` for which of these samples (bool) the first half is what is left; the second for the rest."""
        del which, first  # nothing depends on it here


@final
class Interpolated(Inside):
    """By the interpolant of a step from x, (A, *), at start to stop, float64 (A,)."""

    def __init__(self, x: Tensor, start: Tensor, stop: Tensor, coefficients: Sequence[Tensor]) -> None:
        self._x, self._start, self._stop, self._coefficients = x, start, stop, coefficients

    def at(self, which: Tensor, start: Tensor, middle: Tensor, stop: Tensor) -> Tensor:
        theta = (middle - self._start[which]) / (self._stop - self._start)[which]
        on = which.to(self._x.device)
        x = self._x[on]
        weight = expand_right(theta.to(device=x.device, dtype=x.dtype), x)
        return interpolate(x, [c[on] for c in self._coefficients], weight)


Step = Callable[[Tensor, Tensor, Tensor, Tensor, Increment | None], Tensor]
"""(which, x, t, s, noise) -> the state of samples `which` at s from x at t."""


@final
class Restepped(Inside):
    """By the method's step from the same start to the time between: for an ODE."""

    def __init__(self, x: Tensor, start: Tensor, step: Step) -> None:
        self._x, self._start, self._step = x, start, step

    def at(self, which: Tensor, start: Tensor, middle: Tensor, stop: Tensor) -> Tensor:
        return self._step(which, self._x[which.to(self._x.device)], self._start[which], middle, None)


class Halves(abc.ABC):
    """The Brownian increments of A samples over what is left of their steps, halved again and again."""

    @abc.abstractmethod
    def first(self, which: Tensor, start: Tensor, middle: Tensor, stop: Tensor) -> Increment:
        """The increments of samples `which` over the first half."""

    def keep(self, which: Tensor, first: Tensor) -> None:
        """As `Inside.keep`."""
        del which, first  # nothing depends on it here


@final
class PathHalves(Halves):
    """Those of a path that knows every time; `rows` are the samples' numbers in it, int64 (A,)."""

    def __init__(self, path: BrownianPath, rows: Tensor) -> None:
        self._path = path.rows(rows)

    def first(self, which: Tensor, start: Tensor, middle: Tensor, stop: Tensor) -> Increment:
        return self._path.increments(start, middle, which)


@final
class DrawnHalves(Halves):
    """Those of increments that are known over the whole step alone: drawn from their law given the whole.

    The normals are those of the number of the sample and the step, so that they are the same alone and in any batch.

    Args:
        whole: the increments over the step, (A, *); what H is lacking is drawn first.
        lengths: of the step, float64 (A,).
        names: what tells each sample and its step from any other.
    """

    def __init__(self, whole: Increment, lengths: Tensor, names: Sequence[str]) -> None:
        w = whole.W
        self._shape, self._dtype, self._device = tuple(w.shape[1:]), w.dtype, w.device
        values = [v.reshape(len(names), -1).double().cpu().clone() for v in whole.values()]
        self._keys, self._elements = sample_keys(names), Elements(math.prod(self._shape))
        self._lengths, self._level = lengths.abs().clone(), 0
        if len(values) == 1:
            (z, _), scale = self._normals(torch.arange(len(names)), 1), (self._lengths / 12).sqrt()[:, None]
            values.append(z * scale)
        self._values = values
        self._pending: tuple[Increment, Increment] | None = None

    def _normals(self, which: Tensor, pairs: int) -> list[Tensor]:
        hashes = self._elements.hashes(self._keys[which], self._level, torch.zeros_like(which))
        self._level += 1
        return [z for pair in range(pairs) for z in normals(hashes, pair)]

    def first(self, which: Tensor, start: Tensor, middle: Tensor, stop: Tensor) -> Increment:
        whole = Increment(*[v[which] for v in self._values])
        scale = self._lengths[which].sqrt()[:, None]
        self._pending = halve(whole, scale, self._normals(which, len(self._values) - 1))
        mean, deviation = self._pending
        halves = [m + d for m, d in zip(mean.values(), deviation.values(), strict=True)]
        shape = (len(which), *self._shape)
        return Increment(*[v.reshape(shape).to(device=self._device, dtype=self._dtype) for v in halves])

    def keep(self, which: Tensor, first: Tensor) -> None:
        if self._pending is None:
            return
        sign = torch.where(first, 1.0, -1.0).double()[:, None]
        for value, mean, deviation in zip(self._values, *(pending.values() for pending in self._pending), strict=True):
            value[which] = mean + sign * deviation
        self._lengths[which] /= 2


@final
class OnPath(Inside):
    """By the method's steps along the halves of the step's Brownian increment, each from where the last one ended."""

    def __init__(self, x: Tensor, step: Step, halves: Halves) -> None:
        self._x, self._step, self._halves = x.clone(), step, halves
        self._middle = x

    def at(self, which: Tensor, start: Tensor, middle: Tensor, stop: Tensor) -> Tensor:
        noise = self._halves.first(which, start, middle, stop)
        self._middle = self._step(which, self._x[which.to(self._x.device)], start, middle, noise)
        return self._middle

    def keep(self, which: Tensor, first: Tensor) -> None:
        self._halves.keep(which, first)
        on = (~first).to(self._x.device)
        self._x[which.to(self._x.device)[on]] = self._middle[on]


# Locating ----------------------------------------------------------------------------------------------------------


def locate(
    event: Event,
    side: Tensor,
    start: Tensor,
    stop: Tensor,
    x: Tensor,
    inside: Inside,
    least: float,
    most: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Where A samples that were on `side` of zero at `start` and have crossed it at `stop`, as x, crossed it.

    Args:
        event: what they cross, with the parameters of these A.
        side: -1 or 1, (A,).
        start: float64 (A,).
        stop: float64 (A,).
        x: the states at `stop`, (A, *).
        inside: the solution in between.
        least: how near the time shall be known.
        most: halvings allowed to each, int64 (A,); no limit unless given.

    Returns:
        The states just past zero, (A, *), their times, float64 (A,), and the halvings made, int64 (A,).
    """
    x, start, stop = x.clone(), start.clone(), stop.clone()
    made = torch.zeros(len(start), dtype=torch.int64, device="cpu")
    limit = torch.full_like(made, _MOST) if most is None else most.clamp(max=_MOST)
    while True:
        middle = start + (stop - start) / 2
        wide = ((stop - start).abs() > least) & (made < limit) & (middle != start) & (middle != stop)
        which = wide.nonzero()[:, 0]
        if not len(which):
            return x, stop, made
        between = middle[which]
        y = inside.at(which, start[which], between, stop[which])
        first = event.passed(side[which], event.rows(which, len(made)).value(y, between))
        inside.keep(which, first)
        made[which] += 1
        on = first.to(x.device)
        x[which.to(x.device)[on]] = y[on]
        stop[which[first]] = between[first]
        start[which[~first]] = between[~first]


def names_of(source: Any, rows: Tensor, step: int, whole: Increment) -> list[str]:
    """What tells each of some samples, int64 (A,), and its step from any other, whatever its batch.

    By its seed and number; where there is none, by the bits of its own increment, (A, *).
    """
    seed, first, seeds = (getattr(source, name, None) for name in ("seed", "first", "seeds"))
    if seed is not None and first is not None:
        return [f"{seed}/{first + i}/events/{step}" for i in rows.tolist()]
    if seeds is not None:
        return [f"{seeds[i]}/alone/events/{step}" for i in rows.tolist()]
    values = whole.W.reshape(len(rows), -1).double().cpu().contiguous().numpy()
    return [f"{row.tobytes().hex()}/events/{step}" for row in values]
