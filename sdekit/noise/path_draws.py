"""The normals of a Brownian path's samples, a stream for each level of its cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from sdekit.noise.base import NoiseSource, NoiseStream
from sdekit.noise.keyed import KeyedNoise, SeedsNoise

__all__ = ["Draws", "read"]

_CPU = torch.device("cpu")
_NO_TIME = torch.zeros(1, dtype=torch.float64, device="cpu")
_NAMES = "WHK"


@final
class Draws:
    """The normals of a path's samples: of one seed (number after number, or some of them), or of a seed each."""

    def __init__(self, seed: int | None, samples: Sequence[int]) -> None:
        self.seed, self.samples = seed, list(samples)
        self._index: Tensor | None = None
        if seed is None:
            self.source: NoiseSource = SeedsNoise(self.samples)
            return
        low, high = min(self.samples), max(self.samples)
        self.source = KeyedNoise(seed, low)
        self._width = high - low + 1
        if self.samples != list(range(low, high + 1)):
            self._index = torch.tensor(self.samples, device="cpu") - low

    def names(self) -> list[str]:
        """A name for each sample that says what its numbers hang on."""
        if self.seed is None:
            return [f"{seed}/alone" for seed in self.samples]
        return [f"{self.seed}/{number}" for number in self.samples]

    def open(
        self,
        shape: tuple[int, ...],
        purpose: str,
        dtype: torch.dtype,
        device: torch.device,
        draws: int | None = None,
        scales: Tensor | None = None,
    ) -> NoiseStream:
        """As `NoiseSource.open`."""
        all_of = shape if self._index is None else (self._width, *shape[1:])
        stream = self.source.open(all_of, purpose=purpose, dtype=dtype, device=device, draws=draws, scales=scales)
        return stream if self._index is None else _PickedStream(stream, self._index.to(device))

    def cells(
        self, shape: tuple[int, ...], level: int, which: int, dtype: torch.dtype, scales: Tensor | None = None
    ) -> NoiseStream:
        """The normals of a wide level for W, H or K (0, 1, 2): that of cell number `position`."""
        return self.open(shape, f"path {level} {_NAMES[which]}", dtype, _CPU, scales=scales)


@final
class _PickedStream(NoiseStream):
    """Some samples of another stream."""

    seekable = True

    def __init__(self, stream: NoiseStream, index: Tensor) -> None:
        self._stream, self._index = stream, index

    def next(self, t: float, s: float) -> Tensor:
        self.position += 1
        return self._stream.next(t, s).index_select(0, self._index)

    def seek(self, position: int) -> None:
        self._stream.seek(position)
        self.position = position


def read(stream: NoiseStream, start: int, into: Tensor) -> None:
    """Fill `into`, (M, *), with draws number start … start + M - 1."""
    if stream.position != start:
        stream.seek(start)
    done = 0
    while done < len(into):
        draws = stream.ahead(_NO_TIME, _NO_TIME, 0, len(into) - done)
        if len(draws) == 1:
            into[done].copy_(draws[0])
        else:
            torch.stack(draws, out=into[done : done + len(draws)])
        done += len(draws)
