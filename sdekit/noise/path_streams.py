"""The increments of a Brownian path along a grid, a block of steps at a time."""

from __future__ import annotations

import math
from typing import final

import numpy as np
import torch
from torch import Tensor

from sdekit.errors import ArgumentError
from sdekit.noise.brownian import BrownianStream, Increment
from sdekit.noise.path_cells import CellStream
from sdekit.noise.path_cuts import Cuts
from sdekit.noise.path_tree import Tree
from sdekit.noise.splitting import join_equal, join_ragged

__all__ = ["GridStream", "level_of"]

_BLOCK_BYTES = 1 << 20
_CELLS_A_STEP = 32  # steps of more cells of a wide level are found as intervals, of larger cells where they can be
_HALVES_A_STEP = 4  # likewise of a halved level, on the average: each costs as much as a level of the tree


def level_of(cuts: Cuts, leaves: Tensor) -> int | None:
    """The coarsest level that has all these cuts, where the steps between them are not many cells of it.

    Levels 0, 1, … are the wide ones, and what comes after them those of halves.
    """
    common = int(np.gcd.reduce(leaves.numpy()))
    level = next(i for i in range(len(cuts.radices) + cuts.halvings + 1) if common % cuts.width(i) == 0)
    cells = leaves.diff().abs().double() / cuts.width(level)
    if cells.max() > _CELLS_A_STEP or (level > len(cuts.radices) and cells.mean() > _HALVES_A_STEP):
        return None
    return level


@final
class GridStream(BrownianStream):
    """Increments along a grid whose times are the cuts `leaves`, which rise or fall.

    Where its steps are a few cells each of one level of the tree, the cells are made in a row; where they are not, the
    steps are found as any interval is.

    Args:
        tree: of the path.
        shape: (B, *).
        leaves: int64 (N + 1,).
        areas: how many of H and K are wanted.
        dtype: of the increments.
        device: of the increments.
        last_noise: whether the last step has any.
    """

    seekable = True

    def __init__(
        self,
        tree: Tree,
        shape: tuple[int, ...],
        leaves: Tensor,
        *,
        areas: int,
        dtype: torch.dtype,
        device: torch.device,
        last_noise: bool,
    ) -> None:
        cuts, self._tree, self._shape, self._steps = tree.cuts, tree, shape, len(leaves) - 1
        self._areas, self._dtype, self._device, self._last_noise = areas, dtype, device, last_noise
        self._falls = bool(leaves[0] > leaves[-1])
        self._leaves = leaves.flip(0) if self._falls else leaves  # rising
        # Half types are no good for sums: float32, rounded at the end.
        self._wide = torch.float64 if dtype == torch.float64 else torch.float32
        size = math.prod(shape)
        self._cells: CellStream | None = None
        self._level = level_of(cuts, leaves)
        self._run = _steps_at_once(size)
        if self._level is not None:
            self._width = cuts.width(self._level)
            self._edges = self._leaves // self._width
            counts = self._edges.diff()
            equal = (bool((counts == counts[0]).all()) and cuts.edges is None) or bool((counts == 1).all())
            self._each = int(counts[0]) if equal else None  # cells of every step, where it is one number
            if self._level <= len(cuts.radices):
                # Going backwards costs least where blocks are whole runs of 16 positions (noise.keyed): 40 is 2.5.
                parents = min(1000, max(4 if self._falls else 1, _BLOCK_BYTES // (10 * size * self._wide.itemsize)))
                self._cells = tree.stream(self._level, self._wide, areas + 1, parents)
                self._run = self._cells.size
            self._run = max(1, int(self._run / float(counts.double().mean())))
        self._first = self._loaded = 0  # the steps first … first + loaded - 1 are in `block`
        self._block, self._views = Increment(leaves), list[Increment]()

    def next(self) -> Increment:
        i = self.position - self._first
        if not 0 <= i < len(self._views):
            i = self._place()
            each = (value.unbind(0) for value in self._block.values())
            self._views = [Increment(*values) for values in zip(*each, strict=True)]
        self.position += 1
        return self._views[i]

    def ahead(self, count: int) -> Increment:
        i = self._place()
        stop = min(i + count, self._loaded)
        self.position += stop - i
        return Increment(*[value[i:stop] for value in self._block.values()])

    def seek(self, position: int) -> None:
        if position != self.position:
            self._loaded, self._views = 0, []  # what was handed out may have been written into
            self.position = position

    def _place(self) -> int:
        """Where step `position` is in the block, which is loaded where it is not there."""
        if not 0 <= self.position - self._first < self._loaded:
            self._load()
        return self.position - self._first

    def _load(self) -> None:
        """The block of steps that holds `position`."""
        if not 0 <= self.position < self._steps:
            raise ArgumentError(f"step {self.position} was asked for on a grid of {self._steps} steps.")
        at = self._steps - 1 - self.position if self._falls else self.position
        if self._cells is not None and self._each == 1:
            start, stop, block = self._whole_cells(self._cells, at)
        else:
            start = at // self._run * self._run
            stop = min(start + self._run, self._steps)
            block = self._steps_between(start, stop)
        values = [value.reshape(stop - start, *self._shape) for value in block.values()[: self._areas + 1]]
        if self._falls:
            start, stop = self._steps - stop, self._steps - start
            values = [value.flip(0) if i == 1 else value.flip(0).neg_() for i, value in enumerate(values)]
        values = [value.to(device=self._device, dtype=self._dtype) for value in values]
        if stop == self._steps and not self._last_noise:
            for value in values:
                value[-1] = 0.0
        self._first, self._loaded, self._block, self._views = start, stop - start, Increment(*values), []

    def _whole_cells(self, cells: CellStream, at: int) -> tuple[int, int, Increment]:
        """The steps, one cell each, of the block of cells that holds step `at`."""
        offset = int(self._edges[0])
        index = (offset + at) // cells.size
        first = index * cells.size
        start, stop = max(0, first - offset), min(self._steps, first + cells.size - offset)
        cells.forget()
        values = cells.block(index).values()
        return start, stop, Increment(*[value[start + offset - first : stop + offset - first] for value in values])

    def _steps_between(self, start: int, stop: int) -> Increment:
        """Steps number start … stop - 1."""
        if self._level is None:
            return self._tree.along(self._leaves[start : stop + 1])
        edges = self._edges[start : stop + 1]
        first, last = int(edges[0]), int(edges[-1])
        if self._cells is None:
            cells = self._tree.halves(self._level - len(self._tree.cuts.radices), first, last)
        else:
            cells = self._copied(self._cells, first, last)
        if self._each is not None:
            return join_equal(Increment(*[v.view(stop - start, self._each, *v.shape[1:]) for v in cells.values()]), 1)
        root = torch.arange(first, last, device="cpu") * self._width // self._tree.cuts.per_root
        return join_ragged(cells, self._tree.cuts.leaf_length(root) * self._width, edges - first)

    def _copied(self, cells: CellStream, first: int, last: int) -> Increment:
        """Cells first … last - 1, from as many blocks as it takes."""
        shape = last - first, *self._tree.shape
        buffers = [torch.empty(shape, dtype=self._wide, device="cpu") for _ in range(self._areas + 1)]
        at = first
        while at < last:
            index = at // cells.size
            end = min((index + 1) * cells.size, last)
            for buffer, value in zip(buffers, cells.block(index).values(), strict=True):
                buffer[at - first : end - first] = value[at - index * cells.size : end - index * cells.size]
            at = end
        return Increment(*buffers)


def _steps_at_once(size: int) -> int:
    """How many steps of a state of that size are found together: few of a large one, and what stays in the cache."""
    small, large = (2 * _BLOCK_BYTES // (80 * size), 16 * _BLOCK_BYTES // (80 * size))
    return max(1, min(1024, small), min(16, large))
