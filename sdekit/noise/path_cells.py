"""The cells of one level of a Brownian path, a block of neighbours at a time."""

from __future__ import annotations

import itertools
from typing import final

import torch
from torch import Tensor

from sdekit.noise.brownian import Increment
from sdekit.noise.path_cuts import RADIX, Cuts
from sdekit.noise.path_draws import Draws, read
from sdekit.noise.splitting import Splitting

__all__ = ["CellStream"]


@final
class CellStream:
    """The cells of one wide level, a block of neighbours at a time, in the precision of a state.

    A block is the children of `parents` cells of the level above, which comes from a stream of its own; so any block
    costs its own draws and its share of those above it, and memory does not grow with the number of cells.
    """

    def __init__(
        self, cuts: Cuts, draws: Draws, shape: tuple[int, int], level: int, dtype: torch.dtype, values: int, full: int,
        parents: int,
    ) -> None:  # fmt: skip
        """values: 1 for W, 2 with H, 3 with K; full: as many as the path has."""
        self._cuts, self._level, self.count = cuts, level, cuts.count(level)
        radix = cuts.radices[level - 1] if level else 1
        # A root cell has no parent: its blocks have whole runs of positions (see noise.keyed).
        self.size = min(self.count, parents * radix if level else -(-parents * RADIX // 16) * 16)
        self._above = CellStream(cuts, draws, shape, level - 1, dtype, full, full, parents) if level else None
        self._splitting = Splitting(radix, third=full == 3) if level else None
        self._streams = [draws.cells(shape, level, which, dtype) for which in range(values)]
        self._buffers = [torch.empty(self.size, *shape, dtype=dtype, device="cpu") for _ in range(values)]
        self._at = -1

    def forget(self) -> None:
        """Make the next block anew, because its buffers may have been written into."""
        self._at = -1

    def block(self, index: int) -> Increment:
        """Cells index * size … of the level, as buffers (at most size, B, d)."""
        start = index * self.size
        stop = min(start + self.size, self.count)
        buffers = [buffer[: stop - start] for buffer in self._buffers]
        if index != self._at:
            for stream, buffer in zip(self._streams, buffers, strict=True):
                read(stream, start, buffer)
            self._make(start, stop, buffers)
            self._at = index
        return Increment(*buffers)

    def _make(self, start: int, stop: int, buffers: list[Tensor]) -> None:
        """Turn normals into the values of cells start … stop - 1."""
        if self._above is None or self._splitting is None:
            lengths = self._cuts.root_lengths
            lengths = lengths.expand(self.count)[start:stop].reshape(-1, 1, 1)
            for buffer, part in zip(buffers, (1, 12, 720), strict=False):
                buffer.mul_(torch.sqrt(lengths / part).to(buffer.dtype))
            return
        n = self._splitting.n
        first, last = start // n, stop // n
        index = first // self._above.size
        offset = first - index * self._above.size
        parents = [value[offset : offset + last - first] for value in self._above.block(index).values()]
        children = [buffer.view(last - first, n, *buffer.shape[1:]) for buffer in buffers]
        w, h, k = itertools.islice(itertools.chain(children, (None, None)), 3)
        if w is not None:
            self._splitting.split_(Increment(*parents), self._cuts.length(self._level), w, h, k)
