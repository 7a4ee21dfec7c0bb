"""The cells of a Brownian path that queries of any interval have met, kept for later ones."""

from __future__ import annotations

import itertools
import math
from typing import final

import torch
from torch import Tensor

from sdekit.noise.base import NoiseStream
from sdekit.noise.brownian import Increment
from sdekit.noise.path_cuts import RADIX, Cuts
from sdekit.noise.path_draws import Draws, read
from sdekit.noise.splitting import Splitting, join, join_equal

__all__ = ["Tables"]

_TABLE_BYTES = 64 << 20
_MADE_AT_ONCE = 4 << 20  # bytes


class _Table:
    """The children of some cells for the whole batch, the least recently used making room."""

    def __init__(
        self, parents: int, children: int, width: int, capacity: int, values: int, shape: tuple[int, int]
    ) -> None:
        self.parents, self.children, self.width, self.capacity = parents, children, width, capacity
        # Pages that were never written take no memory.
        self.values = [
            torch.empty(capacity, children, *shape, dtype=torch.float64, device="cpu") for _ in range(values)
        ]
        self.bytes = children * math.prod(shape) * 8 * values  # of the children of one parent
        self._slot_of: dict[int, int] = {}

    def slots(self, parents: list[int]) -> dict[int, int]:
        """Where the parents are, of those that are here; they become the most recently used."""
        found = {}
        for parent in parents:
            slot = self._slot_of.pop(parent, None)
            if slot is not None:
                self._slot_of[parent] = found[parent] = slot
        return found

    def place(self, parent: int) -> int:
        """A slot for a parent that is not here."""
        if len(self._slot_of) < self.capacity:
            slot = len(self._slot_of)
        else:
            slot = self._slot_of.pop(next(iter(self._slot_of)))
        self._slot_of[parent] = slot
        return slot


@final
class Tables:
    """Values of the cells of wide levels in float64, kept for the whole batch, for queries of any interval.

    Above the root there are levels of ten cells joined, so that a long interval of many root cells is a few cells too.
    Tables are numbered from the top; that of number k holds the children, at level k, of cells of level k - 1.
    """

    def __init__(self, cuts: Cuts, draws: Draws, shape: tuple[int, int], values: int) -> None:
        self._cuts, self._draws, self._shape, self._values = cuts, draws, shape, values
        counts = [cuts.roots]
        while counts[0] > RADIX:
            counts.insert(0, -(-counts[0] // RADIX))
        self.root = len(counts) - 1
        counts += [cuts.count(level) for level in range(1, len(cuts.radices) + 1)]
        widths = [cuts.per_root * RADIX ** (self.root - k) for k in range(self.root + 1)]
        widths += [cuts.width(level) for level in range(1, len(cuts.radices) + 1)]
        self._counts = counts
        self.tables: list[_Table] = []
        left = _TABLE_BYTES
        for k, width in enumerate(widths):
            children = counts[0] if k == 0 else (RADIX if k <= self.root else cuts.radices[k - self.root - 1])
            size = children * math.prod(shape) * 8 * values
            parents = counts[k - 1] if k else 1
            # Two at least: the ends of a step, so that the next step finds its own start here.
            capacity = min(parents, max(2, left // size))
            left = max(0, left - capacity * size)
            self.tables.append(_Table(parents, children, width, capacity, values, shape))
        self._streams: dict[tuple[int, int], NoiseStream] = {}
        self._splitting = {n: Splitting(n, third=values == 3) for n in cuts.radices}

    def fetch(self, k: int, parents: Tensor, rows: Tensor | None, child: Tensor | None = None) -> list[Tensor]:
        """The children, or one of them, of each of some cells (A,), as [(A, n, R, d)] or [(A, R, d)] for W, H and K.

        Args:
            k: of the table.
            parents: int64 (A,).
            rows: the sample wanted of each, int64 (A,), R = 1; or None for the batch, R = B.
            child: which one, int64 (A,); None for all.
        """
        table = self.tables[k]
        distinct, where = torch.unique(parents, return_inverse=True)
        names = distinct.tolist()
        if len(names) <= table.capacity:
            slots = torch.tensor(self._ensure(k, names), device="cpu")[where]
            place = slice(None) if child is None else child
            if rows is None:
                return [value[slots, place] for value in table.values]
            return [value[slots, place, rows].unsqueeze(-2) for value in table.values]
        results: list[Tensor] = []
        for start in range(0, len(names), table.capacity):
            some = ((where >= start) & (where < start + table.capacity)).nonzero()[:, 0]
            found = self.fetch(k, parents[some], *(None if of is None else of[some] for of in (rows, child)))
            results = results or [value.new_empty(len(parents), *value.shape[1:]) for value in found]
            for result, value in zip(results, found, strict=True):
                result.index_copy_(0, some, value)
        return results

    def cells(self, cells: Tensor, rows: Tensor | None) -> Increment:
        """Cells (A,) of the lowest level here: (A, R, d)."""
        n = self.tables[-1].children
        return Increment(*self.fetch(len(self.tables) - 1, cells // n, rows, cells % n))

    def _ensure(self, k: int, parents: list[int]) -> list[int]:
        """The slots of some parents, at most as many as the table holds, which are made where they are not there."""
        table = self.tables[k]
        slots = table.slots(parents)
        missing = [parent for parent in parents if parent not in slots]
        at_once = 1
        if k > self.root:
            at_once = max(1, min(self.tables[k - 1].capacity, _MADE_AT_ONCE // table.bytes))
        for i in range(0, len(missing), at_once):
            some = missing[i : i + at_once]
            made = self._split(k, some) if k > self.root else self._root_or_joined(k, some[0])
            places = [table.place(parent) for parent in some]
            slots.update(zip(some, places, strict=True))
            for value, children in zip(table.values, made, strict=True):
                value[places, : children.shape[1]] = children
                value[places, children.shape[1] :] = 0.0
        return [slots[parent] for parent in parents]

    def _drawn(self, level: int, starts: list[int], count: int) -> list[Tensor]:
        """Normals of cells start … start + count - 1 of a wide level, for each start: [(P, count, B, d)]."""
        drawn = [
            torch.empty(len(starts), count, *self._shape, dtype=torch.float64, device="cpu")
            for _ in range(self._values)
        ]
        for which, normals in enumerate(drawn):
            if (level, which) not in self._streams:
                self._streams[level, which] = self._draws.cells(self._shape, level, which, torch.float32)
            for z, start in zip(normals, starts, strict=True):
                read(self._streams[level, which], start, z)
        return drawn

    def _split(self, k: int, parents: list[int]) -> list[Tensor]:
        """The children of some cells of the root or below it: [(P, n, B, d)]."""
        level, n, above = k - self.root, self.tables[k].children, self.tables[k - 1]
        drawn = self._drawn(level, [parent * n for parent in parents], n)
        grand = sorted({parent // above.children for parent in parents})
        slots = dict(zip(grand, self._ensure(k - 1, grand), strict=True))
        at = [slots[parent // above.children] for parent in parents], [parent % above.children for parent in parents]
        w, h, third = itertools.islice(itertools.chain(drawn, (None, None)), 3)
        if w is not None:
            whole = Increment(*[value[at] for value in above.values])
            self._splitting[n].split_(whole, self._cuts.length(level), w, h, third)
        return drawn

    def _root_or_joined(self, k: int, parent: int) -> list[Tensor]:
        """The children of the cell above them all or of one above the root: [(1, n, B, d)]."""
        if k < self.root:
            return self._joined(k, parent)
        start = parent * self.tables[k].children
        stop = min(start + self.tables[k].children, self._counts[k])
        drawn = self._drawn(0, [start], stop - start)
        lengths = self._cuts.root_lengths.expand(self._cuts.roots)[start:stop].reshape(-1, 1, 1)
        for z, part in zip(drawn, (1, 12, 720), strict=False):
            z *= torch.sqrt(lengths / part)
        return drawn

    def _joined(self, k: int, parent: int) -> list[Tensor]:
        """The children of a parent above the root, each of which is joined from its own children."""
        start = parent * self.tables[k].children
        stop = min(start + self.tables[k].children, self._counts[k])
        joined = [self._join_children(k, cell).values() for cell in range(start, stop)]
        return [torch.stack([values[i] for values in joined])[None] for i in range(self._values)]

    def _join_children(self, k: int, cell: int) -> Increment:
        below = self.tables[k + 1]
        start = cell * below.children
        stop = min(start + below.children, self._counts[k + 1])
        slot = self._ensure(k + 1, [cell])[0]
        children = [value[slot, : stop - start] for value in below.values]
        lengths = self.lengths(k + 1, start, stop)
        if lengths is None and stop * below.width <= self._cuts.leaves:
            return join_equal(Increment(*children), 0)
        # Cells of unequal lengths, or the last of all, which may be shorter than the others.
        ends = torch.arange(start, stop + 1, device="cpu").mul_(below.width).clamp_(max=self._cuts.leaves)
        spans = self._cuts.span(ends[:-1], ends[1:])
        total, length = Increment(*[value[0] for value in children]), spans[0]
        for i in range(1, stop - start):
            total = join(total, length, Increment(*[value[i] for value in children]), spans[i])
            length = length + spans[i]
        return total

    def lengths(self, k: int, start: int, stop: int) -> Tensor | None:
        """Of cells at level k, where they are not all the same."""
        if self._cuts.edges is None:
            return None
        ends = torch.arange(start, stop + 1, device="cpu").mul_(self.tables[k].width).clamp_(max=self._cuts.leaves)
        return self._cuts.span(ends[:-1], ends[1:])
