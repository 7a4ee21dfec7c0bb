"""Brownian paths of the user's own: values or increments on a grid, or a function of time."""

from __future__ import annotations

import abc
import bisect
import copy
import hashlib
import math
from collections.abc import Callable, Sequence
from typing import final

import torch
from torch import Tensor

from sdekit._tensors import as_list, check_number
from sdekit.errors import ArgumentError, ShapeError, UnsupportedError
from sdekit.noise.asked_stream import AskedStream, fitting
from sdekit.noise.base import NoiseSource, NoiseStream, Purpose
from sdekit.noise.brownian import BrownianStream, Increment
from sdekit.noise.splitting import join
from sdekit.noise.step_stream import StepStream

__all__ = ["FunctionPath", "GivenPath"]

_AREA_NAMES = ("W", "the space-time Levy area H", "the space-time-time Levy area K")


class _KnownPath(NoiseSource):
    """What the two have in common: increments over intervals of the caller's, and nothing else that is random."""

    @abc.abstractmethod
    def __call__(self, t: float, s: float | None = None) -> Increment:
        """The increment from t to s."""

    @abc.abstractmethod
    def _available(self) -> int:
        """1 with W alone, 2 with H, 3 with K."""

    @abc.abstractmethod
    def _check_shape(self, shape: tuple[int, ...]) -> None:
        """A ShapeError where an increment has another shape, as far as it is known."""

    @abc.abstractmethod
    def _quantum(self) -> float:
        """How far apart two times may be that count as one."""

    def brownian(
        self,
        shape: tuple[int, ...],
        times: Tensor,
        *,
        areas: int,
        dtype: torch.dtype,
        device: torch.device,
        last_noise: bool = True,
    ) -> BrownianStream:
        self._check_shape(shape)
        if areas + 1 > self._available():
            raise UnsupportedError(
                f"this solver needs {_AREA_NAMES[areas]}, and the {type(self).__name__} has none; give it "
                f"{'W, H and K' if areas == 2 else 'W and H'}, or take a BrownianPath."
            )
        return AskedStream(self, shape, times, areas=areas, dtype=dtype, device=device, last_noise=last_noise)

    def open(
        self,
        shape: tuple[int, ...],
        *,
        purpose: Purpose,
        dtype: torch.dtype,
        device: torch.device,
        draws: int | None = None,
        scales: Tensor | None = None,
    ) -> NoiseStream:
        """For "steps" the increments divided by the root of their lengths; there are no draws for another purpose."""
        if purpose != "steps":
            raise UnsupportedError(
                f"a {type(self).__name__} knows the increments of its path and has no draws for {purpose!r}; give the "
                "start of the solve yourself, or take a BrownianPath."
            )
        self._check_shape(shape)
        shape = tuple(shape)
        return StepStream(lambda t, s: fitting(self(t, s).W, shape, dtype, device), self._quantum(), scales)


@final
class GivenPath(_KnownPath):
    """A Brownian path known at some times: its values, and the Levy areas between them where they are known.

    Increments can be asked for between any two of these times; those between more distant ones are joined, exactly.

    Args:
        times: of the values, rising or falling, (K + 1,).
        W: the values, (K + 1, B, *); where the path starts does not matter.
        H: the space-time Levy areas of the K intervals, (K, B, *).
        K: the space-time-time Levy areas of the K intervals, (K, B, *), with H; for falling times those of the path
            gone through backwards (see `Increment`).

    Raises:
        ArgumentError: for times that neither rise nor fall, or K without H; ShapeError for a shape that does not fit.
    """

    def __init__(
        self, times: Sequence[float] | Tensor, W: Tensor, H: Tensor | None = None, K: Tensor | None = None
    ) -> None:
        listed = _check_times(times)
        if not isinstance(W, Tensor) or W.ndim < 2 or len(W) != len(listed):
            raise ShapeError(
                f"W must be a tensor of shape ({len(listed)}, B, *), a value for each of the times, got "
                f"{tuple(W.shape) if isinstance(W, Tensor) else type(W).__name__}."
            )
        self._set(listed, Increment(W.diff(dim=0), H, K))

    @classmethod
    def from_increments(
        cls, times: Sequence[float] | Tensor, dW: Tensor, H: Tensor | None = None, K: Tensor | None = None
    ) -> GivenPath:
        """The path of increments over K intervals, (K, B, *), from each of K + 1 times to the next."""
        path = cls.__new__(cls)
        path._set(_check_times(times), Increment(dW, H, K))
        return path

    def _set(self, times: list[float], steps: Increment) -> None:
        if steps.K is not None and steps.H is None:
            raise ArgumentError("K was given without H; a solver that needs K needs both.")
        count, shape = len(times) - 1, tuple(steps.W.shape) if isinstance(steps.W, Tensor) else ()
        for name, value in (("dW", steps.W), ("H", steps.H), ("K", steps.K)):
            if value is None:
                continue
            fits = isinstance(value, Tensor) and value.ndim >= 2 and len(value) == count and value.shape == shape
            if not fits:
                given = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
                raise ShapeError(
                    f"{name} must be a tensor of shape ({count}, B, *), one for each interval between the "
                    f"{count + 1} times{'' if name == 'dW' else ' and as W'}, got {given}."
                )
            if not value.is_floating_point() or not bool(torch.isfinite(value).all()):
                raise ArgumentError(f"{name} must hold finite floating-point numbers.")
        if times[0] > times[-1]:
            back = -steps
            steps = Increment(*[value.flip(0) for value in back.values()])
            times = times[::-1]
        self._times, self._steps = times, steps

    def __call__(self, t: float, s: float | None = None) -> Increment:
        """The increment from t to s, in either direction, or with one argument from the first time to t."""
        if s is None:
            t, s = self._times[0], t
        start, stop = self._place(t), self._place(s)
        if start > stop:
            return -self._joined(stop, start)
        return self._joined(start, stop)

    def _joined(self, start: int, stop: int) -> Increment:
        values = self._steps.values()
        if start == stop:
            return Increment(*[torch.zeros_like(value[0]) for value in values])
        total, length = Increment(*[value[start] for value in values]), self._times[start + 1] - self._times[start]
        for i in range(start + 1, stop):
            step = self._times[i + 1] - self._times[i]
            total = join(total, length, Increment(*[value[i] for value in values]), step)
            length += step
        return total

    def _place(self, t: float) -> int:
        """Which of the times t is."""
        t = check_number("a time", t.item() if isinstance(t, Tensor) and t.ndim == 0 else t)
        i = bisect.bisect_left(self._times, t, hi=len(self._times) - 1)
        if i > 0 and t - self._times[i - 1] < self._times[i] - t:
            i -= 1
        if abs(self._times[i] - t) > self._quantum():
            raise ArgumentError(
                f"this path is not known at time {t!r}; the nearest of its {len(self._times)} times is "
                f"{self._times[i]!r}. Take steps that end at its times, or a BrownianPath, which knows every time."
            )
        return i

    def _quantum(self) -> float:
        return 8 * math.ulp(max(abs(self._times[0]), abs(self._times[-1])))

    def _available(self) -> int:
        return len(self._steps.values())

    def _check_shape(self, shape: tuple[int, ...]) -> None:
        known = tuple(self._steps.W.shape[1:])
        if known != tuple(shape):
            raise ShapeError(f"the given path has values of shape {known}; this solve needs {tuple(shape)}.")

    def part(self, start: int, stop: int, total: int) -> GivenPath:
        if self._steps.W.shape[1] != total:
            raise ArgumentError(f"the given path has {self._steps.W.shape[1]} samples for a batch of {total}.")
        return self.rows(torch.arange(start, stop, device="cpu"))

    def rows(self, index: Tensor) -> GivenPath:
        """The path of some samples, int64 (A,)."""
        other = copy.copy(self)
        other._steps = Increment(*[value[:, index.to(value.device)] for value in self._steps.values()])
        return other

    def identity(self) -> str:
        digest = hashlib.blake2b(repr(self._times).encode(), digest_size=16)
        for value in self._steps.values():
            digest.update(value.detach().cpu().double().contiguous().numpy().tobytes())
        return f"GivenPath({len(self._times)} times, {tuple(self._steps.W.shape[1:])}, {digest.hexdigest()})"

    def __repr__(self) -> str:
        areas = ("W", "W and H", "W, H and K")[self._available() - 1]
        return (
            f"GivenPath({areas} of shape {tuple(self._steps.W.shape[1:])} at {len(self._times)} times from "
            f"{self._times[0]:g} to {self._times[-1]:g})"
        )


@final
class FunctionPath(_KnownPath):
    """A Brownian path as a function w(t) -> tensor of shape (B, *), for any t that a solver asks for; W only.

    Raises:
        ArgumentError: if w is no function; ShapeError if it returns another shape than the solve needs.
    """

    def __init__(self, w: Callable[[float], Tensor]) -> None:
        if not callable(w):
            raise ArgumentError(f"w must be a function of a time that returns a tensor, got {w!r}.")
        self._w = w
        self._samples: Tensor | None = None
        self._batch: int | None = None
        self._last: tuple[float, Tensor] | None = None  # a step starts where the one before it ended

    def __call__(self, t: float, s: float | None = None) -> Increment:
        """w(s) - w(t); with one argument w(t)."""
        if s is None:
            return Increment(self._value(t))
        before = self._value(t)
        return Increment(self._value(s) - before)

    def _value(self, t: float) -> Tensor:
        t = check_number("a time", t.item() if isinstance(t, Tensor) and t.ndim == 0 else t)
        if self._last is None or self._last[0] != t:
            value = self._w(t)
            if not isinstance(value, Tensor) or value.ndim == 0 or self._batch not in (None, value.shape[0]):
                given = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
                wanted = "B" if self._batch is None else self._batch
                raise ShapeError(f"w(t) must return a tensor of shape ({wanted}, *), got {given} at t = {t:g}.")
            # A copy, for a function that writes into one tensor again and again.
            value = value.clone() if self._samples is None else value[self._samples.to(value.device)]
            self._last = t, value
        return self._last[1]

    def _quantum(self) -> float:
        return 0.0

    def _available(self) -> int:
        return 1

    def _check_shape(self, shape: tuple[int, ...]) -> None:
        """Nothing is known before the function is called."""

    def part(self, start: int, stop: int, total: int) -> FunctionPath:
        other = self.rows(torch.arange(start, stop, device="cpu"))
        if self._samples is None:
            other._batch = total
        return other

    def rows(self, index: Tensor) -> FunctionPath:
        """The path of some samples, int64 (A,)."""
        other = copy.copy(self)
        other._samples = index if self._samples is None else self._samples[index]
        other._last = None
        return other

    def __repr__(self) -> str:
        return f"FunctionPath({self._w!r})"


def _check_times(times: object) -> list[float]:
    listed = as_list(times)
    if listed is None or len(listed) < 2:
        raise ArgumentError(f"times must be a list of two or more numbers, got {times!r}.")
    checked = [check_number(f"times[{i}]", time) for i, time in enumerate(listed)]
    steps = torch.tensor(checked, dtype=torch.float64, device="cpu").diff()
    if not (bool((steps > 0).all()) or bool((steps < 0).all())):
        raise ArgumentError(f"times must rise or fall from each to the next, without repeats, got {times!r}.")
    return checked
