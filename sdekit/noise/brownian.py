"""Increments of a Brownian motion along a grid: what a solver of an SDE takes, step after step."""

from __future__ import annotations

import abc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from torch import Tensor

from sdekit.errors import ArgumentError

if TYPE_CHECKING:  # noise.base imports this module: a source makes Brownian streams of its draws
    from sdekit.noise.base import NoiseStream

__all__ = ["BrownianStream", "DrawnStream", "Increment"]


@dataclass(frozen=True)
class Increment:
    r"""A Brownian motion over [t, s], with its space-time Levy areas where they were asked for.

    With h = s - t > 0 and the bridge b_r = W_r - W_t - (r - t)/h (W_s - W_t), after Foster, Lyons and Oberhauser
    (2020, "An optimal polynomial approximation of Brownian motion"):

        W = W_s - W_t                                 ~ N(0, h)
        H = 1/h   \int_t^s b_r dr                     ~ N(0, h/12)
        K = 1/h^2 \int_t^s b_r (h/2 - (r - t)) dr     ~ N(0, h/720)

    independent of one another. Backwards in time (s < t) they are those of [s, t] with W and K of the other sign.
    """

    W: Tensor
    H: Tensor | None = None
    K: Tensor | None = None

    def values(self) -> list[Tensor]:
        """W and the areas that there are, in this order."""
        return [value for value in (self.W, self.H, self.K) if value is not None]

    def __neg__(self) -> Increment:
        """The same interval gone through backwards."""
        return Increment(-self.W, self.H, None if self.K is None else -self.K)


class BrownianStream(abc.ABC):
    """Increments along a grid known beforehand, for one solve."""

    seekable: bool
    position: int = 0

    @abc.abstractmethod
    def next(self) -> Increment:
        """The increment over step `position`, which moves on by one. The next call may overwrite it."""

    @abc.abstractmethod
    def ahead(self, count: int) -> Increment:
        """The increments over the next K' steps, 1 <= K' <= count, as tensors (K', B, *).

        They may be written into, and may be overwritten by the next call.
        """

    def each(self, count: int) -> Iterator[Tensor]:
        """W of each of the next `count` steps, one by one; each may be overwritten by the one after it."""
        for _ in range(count):
            yield self.next().W

    @abc.abstractmethod
    def seek(self, position: int) -> None:
        """Go to step `position`; raises UnsupportedError where draws cannot be made again."""


@final
class DrawnStream(BrownianStream):
    """Independent draws for each step: W, then H, then K, each from a stream of its own that scales its draws.

    Args:
        times: float64 (N + 1,), of the grid.
        streams: one to three, for W, H and K, whose draws are multiplied by sqrt(h), sqrt(h/12) and sqrt(h/720) (the
            `scales` of `NoiseSource.open`).
    """

    def __init__(self, times: Tensor, streams: Sequence[NoiseStream]) -> None:
        if not 1 <= len(streams) <= 3:
            raise ArgumentError(f"a drawn Brownian motion takes one to three streams (W, H, K), got {len(streams)}.")
        self._at, self._after, self._list = times[:-1], times[1:], times.tolist()
        self._streams, self._first = list(streams), streams[0]
        self.seekable = all(stream.seekable for stream in streams)

    def next(self) -> Increment:
        t, s = self._list[self.position], self._list[self.position + 1]
        self.position += 1
        if len(self._streams) == 1:
            return Increment(self._first.next(t, s))
        return Increment(*[stream.next(t, s) for stream in self._streams])

    def ahead(self, count: int) -> Increment:
        if len(self._streams) > 1 or not self._first.several:
            return Increment(*[value.clone()[None] for value in self.next().values()])
        start = self.position
        stop = min(start + count, len(self._list) - 1)
        draws = self._first.block(self._at, self._after, start, stop)
        self.position += len(draws)
        return Increment(draws)

    def each(self, count: int) -> Iterator[Tensor]:
        start = self.position
        for w in self._first.each(self._at, self._after, start, start + count):
            self.position += 1
            yield w
        for stream in self._streams[1:]:
            stream.seek(self.position)

    def seek(self, position: int) -> None:
        for stream in self._streams:
            stream.seek(position)
        self.position = position
