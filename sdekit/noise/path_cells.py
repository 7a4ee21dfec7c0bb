"""The cells that a Brownian path is made of: where they are cut, their draws, and their values a block at a time."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from sdekit.errors import ArgumentError
from sdekit.noise.base import NoiseSource, NoiseStream
from sdekit.noise.brownian import Increment
from sdekit.noise.keyed import KeyedNoise, SeedsNoise
from sdekit.noise.splitting import Splitting, join, join_equal

__all__ = ["CellStream", "Cuts", "Draws", "Tables"]

_CPU = torch.device("cpu")
_TEN = 10
_LEAVES = 41  # log2 of the number of leaves: their indices stay exact in float64, times in units of the last place too
_TABLE_BYTES = 64 << 20
_MADE_AT_ONCE = 4 << 20  # bytes
_NO_TIME = torch.zeros(1, dtype=torch.float64, device="cpu")
_NAMES = "WHK"


@final
class Cuts:
    """A mixed-radix tree of intervals: root cells, each cut by `radices` in turn and then in halves, down to leaves.

    Leaves are numbered from 0 at t0; a cell of any level is a run of leaves, and a time is the nearest cut between two
    leaves. So digits are integers, and what is said about times is exact for the rounded ones.
    """

    def __init__(self, t0: float, t1: float, cells: int | Tensor | None) -> None:
        self.t0, self.t1 = t0, t1
        self.edges = cells if isinstance(cells, Tensor) else None  # of root cells of unequal lengths
        self.roots = len(cells) - 1 if isinstance(cells, Tensor) else (cells or _TEN)
        self.radices: tuple[int, ...] = (_TEN,) * 4 if cells is None else ()
        wide = self.roots * math.prod(self.radices)
        self.halvings = max(1, _LEAVES - math.ceil(math.log2(wide)))
        self.per_root = math.prod(self.radices) << self.halvings
        self.leaves = self.roots * self.per_root
        one = torch.tensor([(t1 - t0) / self.roots], dtype=torch.float64, device="cpu")
        lengths: Tensor = one if self.edges is None else self.edges.diff()
        self.root_lengths = lengths
        self.quantum = float(lengths.max()) / self.per_root

    def width(self, level: int) -> int:
        """Leaves of a cell of wide level 0 (the root), 1, …"""
        return self.per_root // math.prod(self.radices[:level])

    def count(self, level: int) -> int:
        """Cells of wide level 0, 1, …"""
        return self.roots * math.prod(self.radices[:level])

    def length(self, level: int) -> float:
        """Of a cell of a wide level, where all have the same."""
        return (self.t1 - self.t0) / self.count(level)

    def leaf(self, t: Tensor) -> Tensor:
        """The cut nearest to each time, as a number of leaves from t0; ArgumentError for a time outside the path."""
        slack = max(self.quantum, 8 * math.ulp(max(abs(self.t0), abs(self.t1))))
        if not bool(((t >= self.t0 - slack) & (t <= self.t1 + slack)).all()):
            wrong = t[~((t >= self.t0 - slack) & (t <= self.t1 + slack))].flatten()[0]
            raise ArgumentError(
                f"time {float(wrong)!r} is outside this path, which spans [{self.t0!r}, {self.t1!r}]; make "
                "the path with t0 and t1 that hold every time that is asked for."
            )
        t = t.clamp(self.t0, self.t1)
        if self.edges is None:
            return ((t - self.t0) / (self.t1 - self.t0) * self.leaves).round_().long()
        root = (torch.searchsorted(self.edges, t, right=True) - 1).clamp_(0, self.roots - 1)
        part = (t - self.edges[root]) / self.root_lengths[root]
        return root * self.per_root + (part * self.per_root).round_().long()

    def time(self, leaf: Tensor) -> Tensor:
        """The time of a cut: float64."""
        if self.edges is None:
            t = self.t0 + leaf.double() / self.leaves * (self.t1 - self.t0)
            return torch.where(leaf == self.leaves, torch.full_like(t, self.t1), t)
        root = (leaf // self.per_root).clamp_(0, self.roots - 1)
        part = (leaf - root * self.per_root).double() / self.per_root
        t = self.edges[root] + part * self.root_lengths[root]
        return torch.where(part == 1, self.edges[root + 1], t)

    def leaf_length(self, root: Tensor) -> Tensor:
        """The length of a leaf in each of some root cells: float64."""
        each = self.root_lengths.expand(self.roots) if self.edges is None else self.root_lengths
        return each[root.clamp(0, self.roots - 1)] / self.per_root

    def span(self, start: Tensor, stop: Tensor) -> Tensor:
        """The length from one cut to another, which are in one root cell or at the ends of some: float64."""
        if self.edges is None:
            return (stop - start).double() * ((self.t1 - self.t0) / self.leaves)
        first, last = start // self.per_root, stop // self.per_root
        inside = (stop - start).double() * self.leaf_length(first)
        across = self.edges[last] - self.edges[first]
        return torch.where((start % self.per_root == 0) & (stop % self.per_root == 0), across, inside)


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


def _read(stream: NoiseStream, start: int, into: Tensor) -> None:
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
        self.size = min(self.count, parents * radix if level else -(-parents * _TEN // 16) * 16)
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
                _read(stream, start, buffer)
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
        while counts[0] > _TEN:
            counts.insert(0, -(-counts[0] // _TEN))
        self.root = len(counts) - 1
        counts += [cuts.count(level) for level in range(1, len(cuts.radices) + 1)]
        widths = [cuts.per_root * _TEN ** (self.root - k) for k in range(self.root + 1)]
        widths += [cuts.width(level) for level in range(1, len(cuts.radices) + 1)]
        self._counts = counts
        self.tables: list[_Table] = []
        left = _TABLE_BYTES
        for k, width in enumerate(widths):
            children = counts[0] if k == 0 else (_TEN if k <= self.root else cuts.radices[k - self.root - 1])
            size = children * math.prod(shape) * 8 * values
            parents = counts[k - 1] if k else 1
            # Two at least: the ends of a step, so that the next step finds its own start here.
            capacity = min(parents, max(2, left // size))
            left = max(0, left - capacity * size)
            self.tables.append(_Table(parents, children, width, capacity, values, shape))
        self._streams: dict[tuple[int, int], NoiseStream] = {}
        self._splitting = {n: Splitting(n, third=values == 3) for n in cuts.radices}

    def fetch(self, k: int, parents: Tensor, rows: Tensor) -> list[Tensor]:
        """The children of one parent for each of some samples: [(A, n, d)] for W, H and K."""
        table = self.tables[k]
        distinct, where = torch.unique(parents, return_inverse=True)
        names = distinct.tolist()
        if len(names) <= table.capacity:
            slots = torch.tensor(self._ensure(k, names), device="cpu")[where]
            return [value[slots, :, rows] for value in table.values]
        results = [
            torch.empty(len(rows), table.children, self._shape[1], dtype=torch.float64, device="cpu")
            for _ in table.values
        ]
        for start in range(0, len(names), table.capacity):
            some = ((where >= start) & (where < start + table.capacity)).nonzero()[:, 0]
            for result, value in zip(results, self.fetch(k, parents[some], rows[some]), strict=True):
                result.index_copy_(0, some, value)
        return results

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
                _read(self._streams[level, which], start, z)
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
