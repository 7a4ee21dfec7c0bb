"""The values of any intervals of a Brownian path: cells of its tree, joined."""

from __future__ import annotations

import functools
from typing import final

import torch
from torch import Tensor

from sdekit.noise.brownian import Increment
from sdekit.noise.hashed import Elements, normals, sample_keys
from sdekit.noise.path_cells import CellStream
from sdekit.noise.path_cuts import Cuts
from sdekit.noise.path_draws import Draws
from sdekit.noise.path_tables import Tables
from sdekit.noise.splitting import halve, join, join_range

__all__ = ["Tree"]


@final
class Tree:
    """A path's cells, for some samples of d numbers each.

    Values are float64 (S, R, d) for S intervals: R = B, the whole batch, or R = 1, a sample for each interval.

    Args:
        cuts: where the cells are.
        draws: of B samples.
        shape: (B, d).
        values: 2 for W and H, 3 with K.
    """

    def __init__(self, cuts: Cuts, draws: Draws, shape: tuple[int, int], values: int) -> None:
        self.cuts, self.draws, self.shape, self.values = cuts, draws, shape, values
        self._elements = Elements(shape[1])

    # Made when they are first wanted: a grid of wide cells can do without.
    @functools.cached_property
    def _keys(self) -> Tensor:
        return sample_keys(self.draws.names())

    @functools.cached_property
    def _tables(self) -> Tables:
        return Tables(self.cuts, self.draws, self.shape, self.values)

    def __getstate__(self) -> dict[str, object]:
        """Without what can be made again: a path that has been used is copied and sent as small as a new one."""
        return {name: value for name, value in self.__dict__.items() if name not in ("_keys", "_tables")}

    @torch.inference_mode(False)
    def widths(self) -> list[int]:
        """Leaves of a cell at every level, from the top."""
        return [table.width for table in self._tables.tables] + [1 << i for i in reversed(range(self.cuts.halvings))]

    def stream(self, level: int, dtype: torch.dtype, values: int, parents: int) -> CellStream:
        """The cells of a wide level in a row, with the first of W, H and K, as `CellStream`."""
        return CellStream(self.cuts, self.draws, self.shape, level, dtype, values, self.values, parents)

    # What is kept for later queries must be of use outside inference mode too, as for solvers that differentiate.
    @torch.inference_mode(False)
    def between(self, start: Tensor, stop: Tensor, rows: Tensor | None = None) -> Increment:
        """The intervals of leaves start[i] … stop[i] - 1, int64 (S,), of the batch or of sample rows[i]."""
        return self._intervals(torch.cat([start, stop]), len(start), rows)

    @torch.inference_mode(False)
    def along(self, cuts: Tensor) -> Increment:
        """The intervals from each of some rising cuts, int64 (S + 1,), to the next, of the batch.

        As `between`, to the bit; what surrounds a cut is made once for the two intervals that meet there.
        """
        return self._intervals(cuts, len(cuts) - 1, None)

    @torch.inference_mode(False)
    def halves(self, halvings: int, first: int, last: int) -> Increment:
        """Cells first … last - 1 of the level that many halvings below the tables, of the batch."""
        ranges = [(first, last)]
        for _ in range(halvings):
            first, last = first >> 1, (last + 1) >> 1
            ranges.append((first, last))
        first, last = ranges.pop()
        cells, width = torch.arange(first, last, device="cpu"), 1 << self.cuts.halvings
        value = self._tables.cells(cells, None)
        leaf = self.cuts.leaf_length(cells * width // self.cuts.per_root)[:, None, None]
        for level in range(halvings):
            middle, deviation = halve(value, (leaf * width).sqrt(), self._normals(level, cells, None))
            above, (first, last) = 2 * first, ranges.pop()
            kept, width = slice(first - above, last - above), width // 2
            pairs = zip(middle.values(), deviation.values(), strict=True)
            value = Increment(*[torch.stack([m + v, m - v], 1).flatten(0, 1)[kept] for m, v in pairs])
            leaf = leaf.repeat_interleave(2, 0)[kept]
            cells = torch.arange(first, last, device="cpu")
        return value

    def _normals(self, level: int, cells: Tensor, rows: Tensor | None) -> list[Tensor]:
        """The normals that halve some cells (S,) of a level below the tables."""
        keys = self._keys[None, :] if rows is None else self._keys[rows][:, None]
        hashes = self._elements.hashes(keys, level, cells[:, None])
        return [z for which in range(self.values - 1) for z in normals(hashes, which)]

    def _intervals(self, ends: Tensor, count: int, rows: Tensor | None) -> Increment:
        """S = count intervals, of which number i goes from ends[i] to ends[len(ends) - S + i].

        At each level an interval holds the whole cells lo … hi - 1. Those that it did not hold at the level above lie
        next to them on the left, among the children of the cell before, or on the right, among those of the cell after;
        where it held none and no cut either, they count as the right ones. The left and the right pieces of all
        intervals, 2 S sides, are gathered together, and each side's are joined from the middle outwards.
        """
        start, stop = ends[:count], ends[len(ends) - count :]
        sides = _Sides(count, (self.shape[0] if rows is None else 1, self.shape[1]), self.values)
        both = None if rows is None else torch.cat([rows, rows])
        lo = hi = torch.zeros_like(start)
        for k, table in enumerate(self._tables.tables):
            above_lo, above_hi = lo, hi
            lo, hi = (start + (table.width - 1)) // table.width, stop // table.width
            if k == 0:
                parents = torch.zeros(2 * count, dtype=torch.int64, device="cpu")
                first, last = torch.cat([lo, lo]), torch.cat([lo, hi])
            else:
                n = table.children
                parents = torch.cat([above_lo - 1, above_hi])
                apart = above_lo <= above_hi
                first = torch.cat([lo, torch.maximum(above_hi * n, lo)])
                last = torch.cat([torch.where(apart, above_lo * n, lo), hi])
            self._add_cells(sides, k, parents, first, last, both)
            if not bool(((lo * table.width != start) | (hi * table.width != stop)).any()):
                return sides.whole()
        self._add_halves(sides, ends, count, both)
        return sides.whole()

    def _add_cells(
        self, sides: _Sides, k: int, parents: Tensor, first: Tensor, last: Tensor, rows: Tensor | None
    ) -> None:
        """Join cells first … last - 1 of the level of table k to each side that has some."""
        some = (last > first).nonzero()[:, 0]
        if len(some) == 0:
            return
        table = self._tables.tables[k]
        parents, first, last = parents[some], first[some], last[some]
        children = Increment(*self._tables.fetch(k, parents, None if rows is None else rows[some]))
        base = parents * table.children
        if self.cuts.edges is None:
            piece = join_range(children, first - base, last - base)
        else:
            piece = self._join_unequal(table.width, children, base, first, last)
        ends = (cut.mul(table.width).clamp_(max=self.cuts.leaves) for cut in (first, last))
        sides.add(piece, self.cuts.span(*ends)[:, None, None], some)

    def _join_unequal(self, width: int, children: Increment, base: Tensor, first: Tensor, last: Tensor) -> Increment:
        total = Increment(*[torch.zeros_like(value[:, 0]) for value in children.values()])
        length = torch.zeros(len(base), 1, 1, dtype=torch.float64, device="cpu")
        for i in range(children.W.shape[1]):
            cell = base + i
            inside = ((cell >= first) & (cell < last)).double()[:, None, None]
            ends = (cut.mul(width).clamp_(max=self.cuts.leaves) for cut in (cell, cell + 1))
            span = self.cuts.span(*ends)[:, None, None] * inside
            total = join(total, length, Increment(*[value[:, i] * inside for value in children.values()]), span)
            length = length + span
        return total

    def _add_halves(self, sides: _Sides, ends: Tensor, count: int, rows: Tensor | None) -> None:
        """Join what lies below the tables: the halves of halves next to the ends of the intervals.

        Of the two halves of the cell that an end lies in, that without it is whole: a piece of the interval which ends
        there if it is the first, of the one which starts there if it is the second, unless that interval has its other
        end in the same cell. Where the end is the middle, both are pieces.
        """
        width, shift = 1 << self.cuts.halvings, len(ends) - count
        left = (ends % width != 0).nonzero()[:, 0]
        end = ends[left]
        value = self._tables.cells(end // width, None if rows is None else rows[left])
        leaf = self.cuts.leaf_length(end // self.cuts.per_root)[:, None, None]
        for level in range(self.cuts.halvings):
            cell = end // width
            normals = self._normals(level, cell, None if rows is None else rows[left])
            middle, deviation = halve(value, (leaf * width).sqrt(), normals)
            stop, start = ends[(left + shift).clamp_(max=len(ends) - 1)], ends[(left - shift).clamp_(min=0)]
            starting = (left < count) & (stop // width != cell)
            ending = (left >= shift) & ((start - 1) // width != cell)
            width //= 2
            inside = end - cell * (2 * width)
            second = inside > width  # the half where the end is; the first, if it is the middle
            sign = (1 - 2 * second.long()).double()[:, None, None]
            turned = [v * sign for v in deviation.values()]
            value = Increment(*[m + v for m, v in zip(middle.values(), turned, strict=True)])
            other = Increment(*[m - v for m, v in zip(middle.values(), turned, strict=True)])
            before, at_middle = left + (count - shift), inside == width
            length = leaf * width
            for piece, side, here in (
                (other, torch.where(second, before, left), torch.where(second, ending, starting)),
                (value, before, ending & at_middle),
            ):
                to = here.nonzero()[:, 0]
                if len(to):
                    sides.add(Increment(*[v[to] for v in piece.values()]), length[to], side[to])
            on = (~at_middle).nonzero()[:, 0]
            if len(on) == 0:
                return
            if len(on) < len(left):
                left, end, leaf = left[on], end[on], leaf[on]
                value = Increment(*[v[on] for v in value.values()])


class _Sides:
    """What has been joined so far on the left (S) and on the right (S) of the middles of S intervals."""

    def __init__(self, count: int, shape: tuple[int, int], values: int) -> None:
        self._count = count
        zeros = [torch.zeros(2 * count, *shape, dtype=torch.float64, device="cpu") for _ in range(values)]
        self._values = Increment(*zeros)
        self._length = torch.zeros(2 * count, 1, 1, dtype=torch.float64, device="cpu")
        self._order = torch.ones(2 * count, 1, 1, dtype=torch.float64, device="cpu")
        self._order[:count] = -1.0  # left pieces come before what is there

    def add(self, piece: Increment, length: Tensor, to: Tensor) -> None:
        """Join a piece to the outer end of each of some sides, int64, each of them once."""
        here = Increment(*[value[to] for value in self._values.values()])
        joined = join(here, self._length[to], piece, length, self._order[to])
        for value, new in zip(self._values.values(), joined.values(), strict=True):
            value.index_copy_(0, to, new)
        self._length.index_add_(0, to, length)

    def whole(self) -> Increment:
        n = self._count
        left, right = (Increment(*[v[half] for v in self._values.values()]) for half in (slice(n), slice(n, None)))
        return join(left, self._length[:n], right, self._length[n:])
