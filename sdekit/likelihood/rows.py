"""Some samples of a batch, with the draws that they have in it."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from sdekit.noise import NoiseSource, NoiseStream

__all__ = ["SomeRows"]


@final
class SomeRows(NoiseSource):
    """The draws of the samples `rows`, int64 (A,), of a batch of `total`; all are drawn, and theirs kept."""

    def __init__(self, source: NoiseSource, rows: Tensor, total: int) -> None:
        self._source, self._rows, self._total = source, rows, total

    def open(
        self,
        shape: tuple[int, ...],
        *,
        purpose: str,
        dtype: torch.dtype,
        device: torch.device,
        draws: int | None = None,
        scales: Tensor | None = None,
    ) -> NoiseStream:
        whole = self._source.open(
            (self._total, *shape[1:]), purpose=purpose, dtype=dtype, device=device, draws=draws, scales=scales
        )
        return _SomeRowsStream(whole, self._rows.to(device))

    def part(self, start: int, stop: int, total: int) -> NoiseSource:
        return SomeRows(self._source, self._rows[start:stop], self._total)


@final
class _SomeRowsStream(NoiseStream):
    def __init__(self, whole: NoiseStream, rows: Tensor) -> None:
        self._whole, self._rows = whole, rows
        self.seekable = whole.seekable

    def next(self, t: float, s: float) -> Tensor:
        drawn = self._whole.next(t, s)[self._rows]
        self.position = self._whole.position
        return drawn

    def seek(self, position: int) -> None:
        self._whole.seek(position)
        self.position = position
