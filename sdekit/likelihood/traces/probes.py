"""Draws for probes: K vectors of standard normal numbers a node, each sample with a stream of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from sdekit.noise import NoiseSource

__all__ = ["ProbeSource", "Probes", "signs_of"]


@final
@dataclass(frozen=True)
class ProbeSource:
    """Where the probes of `batch` samples of d coordinates come from, `count` at a time."""

    source: NoiseSource
    batch: int
    count: int
    d: int
    device: torch.device

    def open(self) -> Probes:
        """The draws, from the first on."""
        return Probes(self)

    def part(self, start: int, stop: int, total: int) -> ProbeSource:
        """That of samples start … stop - 1 of `total`: the same draws for them as in the whole batch."""
        return ProbeSource(self.source.part(start, stop, total), stop - start, self.count, self.d, self.device)


@final
class Probes:
    """Draws one after another."""

    def __init__(self, of: ProbeSource) -> None:
        # All probes of a sample are one draw, so that a sample has the same ones in any batch.
        shape = (of.batch, of.count, of.d)
        self._stream = of.source.open(shape, purpose="probes", dtype=torch.float64, device=of.device)

    def next(self) -> list[Tensor]:
        """The next `count` draws, each (B, d) in float64, contiguous and the caller's own."""
        drawn = self._stream.next(0.0, 0.0).transpose(0, 1)
        return list(drawn.clone(memory_format=torch.contiguous_format))


def signs_of(draws: list[Tensor]) -> list[Tensor]:
    """+1 or -1 of each entry."""
    return [torch.copysign(torch.ones_like(z), z) for z in draws]
