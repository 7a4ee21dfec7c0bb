"""What a source of noise promises: standard normal draws of the state's shape, one after another.

A *source* is what the user gives (a seed, generators, a function). A *stream* is the source opened for one solve: it
hands out draw after draw and knows its position, so that a solve can be saved, resumed and replayed.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator
from typing import ClassVar

import torch
from torch import Tensor

from sdekit.noise.brownian import BrownianStream, DrawnStream, Increment

__all__ = ["BrownianStream", "DrawnStream", "Increment", "NoiseSource", "NoiseStream", "Purpose"]

Purpose = str  # "prior", "steps", "areas", "corrector", "probes", …: each has draws of its own


class NoiseStream(abc.ABC):
    """Draws z_0, z_1, … of one shape, each of independent N(0, 1) entries.

    `several` says whether `ahead` makes several draws at once, each contiguous; where it does not, take `each`.
    """

    seekable: bool
    several: bool = False
    position: int = 0

    @abc.abstractmethod
    def next(self, t: float, s: float) -> Tensor:
        """The next draw, for the step from time t to time s.

        The tensor may be overwritten by the next call: copy what must stay.
        """

    def each(self, at: Tensor, after: Tensor, start: int, stop: int) -> Iterator[Tensor]:
        """The next draws one by one, for the steps from at[k] to after[k] (float64, (R,)), start <= k < stop.

        Each may be overwritten by the one after it.
        """
        for t, s in zip(at[start:stop].tolist(), after[start:stop].tolist(), strict=True):
            yield self.next(t, s)

    def ahead(self, at: Tensor, after: Tensor, start: int, stop: int) -> list[Tensor]:
        """One or more of the draws that `each` would make, at most stop - start.

        They may be written into, and may be overwritten by the next call.
        """
        return [self.next(float(at[start]), float(after[start]))]

    def block(self, at: Tensor, after: Tensor, start: int, stop: int) -> Tensor:
        """What `ahead` would make, stacked: (K, B, *), 1 <= K <= stop - start."""
        return torch.stack(self.ahead(at, after, start, stop))

    @abc.abstractmethod
    def seek(self, position: int) -> None:
        """Go to draw number `position`; raises UnsupportedError where draws cannot be made again."""


class NoiseSource(abc.ABC):
    """Where noise comes from; opened once for each purpose of a solve.

    `rewindable` says whether `mark` serves streams that cannot seek.
    """

    rewindable: ClassVar[bool] = False

    def for_one_solve(self) -> NoiseSource:
        """The source that one solve opens its streams from, so that `mark` knows which they are."""
        return self

    def mark(self) -> Callable[[], None]:
        """A function that brings the streams opened here back to where they stand now."""
        return lambda: None

    def identity(self) -> str:
        """What determines the draws, as text; "" where that cannot be told."""
        return ""

    @abc.abstractmethod
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
        """A stream of draws of `shape` (B, *).

        Args:
            shape: of one draw.
            purpose: what it is for; each purpose has draws of its own.
            dtype: of the draws.
            device: of the draws.
            draws: how many will be asked for, where it is known.
            scales: float64 (draws,): draw k is multiplied by scales[k], at no cost of a pass where it can be.
        """

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
        """Brownian increments of `shape` (B, *) along a grid, with as many levels of Levy areas as asked for.

        W ~ N(0, |h|), H ~ N(0, |h|/12), K ~ N(0, |h|/720), independent, from draws for "steps", "areas" and "third
        areas": the same W whether areas are asked for or not.

        Args:
            times: the grid, float64 (N + 1,).
            areas: 0: W; 1: W and H; 2: W, H and K.
            last_noise: whether the last step has any.
        """
        spans = times.diff().abs()
        if not last_noise:
            spans[-1] = 0.0
        streams = [
            self.open(
                shape, purpose=purpose, dtype=dtype, device=device, draws=len(spans), scales=torch.sqrt(spans / part)
            )
            for purpose, part in (("steps", 1), ("areas", 12), ("third areas", 720))[: areas + 1]
        ]
        return DrawnStream(times, streams)

    @abc.abstractmethod
    def part(self, start: int, stop: int, total: int) -> NoiseSource:
        """The source for samples start … stop - 1 of `total`: the same draws for them as in the whole batch."""

    def prior(self, shape: tuple[int, ...], *, t: float, dtype: torch.dtype, device: torch.device) -> Tensor:
        """One standard normal draw for the start of a solve at time t, as a tensor of its own."""
        return self.open(shape, purpose="prior", dtype=dtype, device=device, draws=1).next(t, t).clone()
