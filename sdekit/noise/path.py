r"""A Brownian motion that is the same whoever asks, whatever is asked for, and in whatever order.

`BrownianPath` is a tree of intervals (`path_cells.Cuts`). Its root cells are independent; every cell is cut into equal
children, whose (W, H), or (W, H, K), come from their exact law given the parent's (`splitting`). The upper levels draw
from the streams of `noise.keyed`, a stream for each level and the number of the cell as position; so a grid whose steps
are such cells is gone through at little more than the cost of its draws. The lower levels, halves of halves, take their
normals from `noise.hashed`, by the number of the cell. Any interval is a few cells of each level, joined: exact in law
and jointly with every other interval, and no query changes another.

The tree is after Jelinčič, Foster and Kidger (2024, "Single-seed generation of Brownian paths and integrals for
adaptive and high order SDE solvers", arXiv 2405.06464); the space-time Levy areas after Foster, Lyons and Oberhauser
(2020), see `Increment`.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Literal, final

import torch
from torch import Tensor

from sdekit._tensors import as_float64, as_list, check_device, check_dtype, check_number, check_shape
from sdekit.errors import ArgumentError, ShapeError, UnsupportedError
from sdekit.noise.base import NoiseSource, NoiseStream, Purpose
from sdekit.noise.brownian import BrownianStream, DrawnStream, Increment
from sdekit.noise.hashed import Elements, normals, sample_keys
from sdekit.noise.keyed import KeyedNoise, check_seed
from sdekit.noise.path_cells import CellStream, Cuts, Draws, Tables
from sdekit.noise.splitting import halve, join, join_equal, join_range

__all__ = ["BrownianPath", "StepStream"]

_BLOCK_BYTES = 1 << 20
_CELLS_A_STEP = 32  # a step of more cells than this is asked for by queries, which take larger cells where they can
_CPU = torch.device("cpu")
_AREAS = ("space-time", "space-time-time")

Area = Literal["space-time", "space-time-time"]


@final
class BrownianPath(NoiseSource):
    """A Brownian motion W over [t0, t1] for each entry of `shape`, with its space-time Levy area H (and K).

    `path(t, s)` is its increment from t to s, in either direction, for floats or a time of its own for each sample;
    `path(t)` is that from t0 to t. Given to a solve as its noise, it drives every solver with the same motion: a solve
    with fewer steps sees sums of the increments that one with more steps sees, and a solve backwards in time goes the
    same path back. A sample's motion has the same bits alone, in a batch and in a chunk.

    By default a path has cuts at 10, 100, … 100,000 equal parts, where increments are cheap, and then halves of halves,
    about 2^41 leaves in all; `quantum` is the length of a leaf. A time stands for the nearest cut between leaves, and
    the law is exact for these. A query is computed in float64 and rounded to `dtype` at its end.

    Args:
        seed: one seed for all samples; sample i is number first + i of the seed's.
        shape: (B, *), of W.
        t0: where it starts.
        t1: where it ends, t1 > t0.
        seeds: a seed for each sample, in place of `seed`: sample i of seeds=S is the one of seeds=[S[i]].
        cells: n for n equal root cells, or their edges as rising times from t0 to t1. A grid whose steps are root cells
            costs what independent draws cost. The motion depends on it.
        levy_area: "space-time" for W and H, "space-time-time" for W, H and K. The motion depends on it.
        dtype: of what queries return; torch's default if None. The motion does not depend on it, up to rounding.
        device: of what queries return. Draws are made on the CPU.
        first: the number of the first sample, with `seed`.

    Raises:
        ArgumentError: for an argument out of its range; ShapeError for a shape that is none.
    """

    def __init__(
        self,
        seed: int | None = None,
        shape: Sequence[int] = (),
        t0: float = 0.0,
        t1: float = 1.0,
        *,
        seeds: Sequence[int] | None = None,
        cells: int | Sequence[float] | Tensor | None = None,
        levy_area: Area = "space-time",
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
        first: int = 0,
    ) -> None:
        self.shape = check_shape(shape)
        self.t0, self.t1 = check_number("t0", t0), check_number("t1", t1)
        if not self.t0 < self.t1:
            raise ArgumentError(
                f"a Brownian path needs t0 < t1, got t0 = {t0!r} and t1 = {t1!r}; queries go both ways."
            )
        if levy_area not in _AREAS:
            raise ArgumentError(f"levy_area must be one of {', '.join(map(repr, _AREAS))}, got {levy_area!r}.")
        self.levy_area: Area = levy_area
        self.dtype = torch.get_default_dtype() if dtype is None else check_dtype(dtype)
        self.device = check_device(device)
        self._cuts = Cuts(self.t0, self.t1, _check_cells(cells, self.t0, self.t1))
        self._seed, samples = _check_samples(seed, seeds, first, self.shape[0])
        self._set_samples(samples)

    def _set_samples(self, samples: list[int]) -> None:
        self.shape = (len(samples), *self.shape[1:])
        self._draws = Draws(self._seed, samples)
        self._flat = (len(samples), math.prod(self.shape[1:]))
        self._all = torch.arange(len(samples), device="cpu")
        self._keys = sample_keys(self._draws.names())
        self._elements = Elements(self._flat[1])
        self._tables: Tables | None = None

    @property
    def quantum(self) -> float:
        """The length of the (longest) leaves: times nearer to each other than that may be one."""
        return self._cuts.quantum

    @property
    def _values(self) -> int:
        return 3 if self.levy_area == "space-time-time" else 2

    # Queries -------------------------------------------------------------------------------------------------------

    def __call__(self, t: float | Tensor, s: float | Tensor | None = None) -> Increment:
        """The increment from t to s, or with one argument from t0 to t; floats, or float64 tensors of shape (B,)."""
        if s is None:
            t, s = self.t0, t
        return self.increments(self._times("t", t), self._times("s", s), self._all)

    def increments(self, t: Tensor, s: Tensor, rows: Tensor) -> Increment:
        """The increments from t[i] to s[i] of sample rows[i], of shape (A, *).

        Args:
            t: float64 (A,).
            s: float64 (A,).
            rows: int64 (A,), numbers of samples of this path.
        """
        start, stop, rows = self._cuts.leaf(t.to(_CPU)), self._cuts.leaf(s.to(_CPU)), rows.to(_CPU)
        found = self._between(torch.minimum(start, stop), torch.maximum(start, stop), rows)
        back = start > stop
        if bool(back.any()):
            sign = 1.0 - 2.0 * back.double()[:, None]
            found = Increment(found.W * sign, found.H, None if found.K is None else found.K * sign)
        shape = (len(rows), *self.shape[1:])
        return Increment(*[v.reshape(shape).to(device=self.device, dtype=self.dtype) for v in found.values()])

    def near(self, t: Tensor, within: Tensor) -> Tensor:
        """For each time, that of the coarsest cut within `within` (or half a leaf) of it: float64.

        A step that ends there costs fewer levels of the tree.
        """
        leaf = self._cuts.leaf(t.to(_CPU))
        within = torch.maximum(within.to(_CPU, torch.float64), torch.full_like(t, self.quantum, device=_CPU))
        best, left = leaf.clone(), torch.ones_like(leaf, dtype=torch.bool)
        for width in self._all_widths():
            cut = ((leaf + width // 2) // width * width).clamp_(max=self._cuts.leaves)
            fits = left & ((self._cuts.time(cut) - t.to(_CPU)).abs() <= within)
            best = torch.where(fits, cut, best)
            left &= ~fits
            if not bool(left.any()):
                break
        return self._cuts.time(best).to(t.device)

    def _all_widths(self) -> list[int]:
        """Leaves of a cell at every level, from the top."""
        tables = self._opened_tables().tables
        return [table.width for table in tables] + [1 << i for i in reversed(range(self._cuts.halvings))]

    def _times(self, name: str, t: float | Tensor) -> Tensor:
        if not isinstance(t, Tensor):
            check_number(name, t)
        times = as_float64(t)
        if times.shape not in ((), (1,), (self.shape[0],)):
            raise ShapeError(
                f"{name} must be a number or a tensor of shape ({self.shape[0]},), a time for each sample, "
                f"got shape {tuple(times.shape)}."
            )
        return times.expand(self.shape[0])

    @torch.inference_mode(False)
    def _opened_tables(self) -> Tables:
        if self._tables is None:
            self._tables = Tables(self._cuts, self._draws, self._flat, self._values)
        return self._tables

    # What is kept for later queries must be of use outside inference mode too, as for solvers that differentiate.
    @torch.inference_mode(False)
    def _between(self, start: Tensor, stop: Tensor, rows: Tensor) -> Increment:
        """The values over leaves start … stop - 1 of some samples, float64 (A, d).

        At each level [start, stop) holds the whole cells lo … hi - 1. Those that it did not hold at the level above lie
        next to them on the left, among the children of the cell before, or on the right, among those of the cell after;
        where it held none and no cut either, they count as the right ones. The left and the right pieces of all
        samples, 2 A sides, are gathered together, and each side's are joined from the middle outwards.
        """
        count = len(rows)
        sides = _Sides(count, self._flat[1], self._values)
        tables = self._opened_tables()
        both = torch.cat([rows, rows])
        lo = hi = torch.zeros_like(start)
        for k, table in enumerate(tables.tables):
            above_lo, above_hi = lo, hi
            lo, hi = (start + (table.width - 1)) // table.width, stop // table.width
            if k == 0:
                parents = torch.zeros_like(both)
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
        self._add_halves(sides, start, stop, both)
        return sides.whole()

    def _add_cells(self, sides: _Sides, k: int, parents: Tensor, first: Tensor, last: Tensor, rows: Tensor) -> None:
        """Join cells first … last - 1 of the level of table k to each side that has some."""
        some = (last > first).nonzero()[:, 0]
        if len(some) == 0:
            return
        tables = self._opened_tables()
        table = tables.tables[k]
        parents, first, last, rows = parents[some], first[some], last[some], rows[some]
        children = Increment(*tables.fetch(k, parents, rows))
        base = parents * table.children
        if self._cuts.edges is None:
            piece = join_range(children, first - base, last - base)
        else:
            piece = self._join_unequal(table.width, children, base, first, last)
        ends = (cut.mul(table.width).clamp_(max=self._cuts.leaves) for cut in (first, last))
        sides.add(piece, self._cuts.span(*ends)[:, None], some)

    def _join_unequal(self, width: int, children: Increment, base: Tensor, first: Tensor, last: Tensor) -> Increment:
        total = Increment(*[torch.zeros_like(value[:, 0]) for value in children.values()])
        length = torch.zeros(len(base), 1, dtype=torch.float64, device="cpu")
        for i in range(children.W.shape[1]):
            cell = base + i
            inside = ((cell >= first) & (cell < last)).double()[:, None]
            ends = (cut.mul(width).clamp_(max=self._cuts.leaves) for cut in (cell, cell + 1))
            span = self._cuts.span(*ends)[:, None] * inside
            total = join(total, length, Increment(*[value[:, i] * inside for value in children.values()]), span)
            length = length + span
        return total

    def _add_halves(self, sides: _Sides, start: Tensor, stop: Tensor, rows: Tensor) -> None:
        """Join what lies below the tables: the halves of halves between the middle and each side's end.

        A side is known by a leaf within the cell that is cut: that before `start`, or that at `stop`. A half that does
        not hold that leaf is whole, and lies towards the middle, where it is the second on the left or the first on the
        right; both sides have the same cell until a cut comes between them.
        """
        tables = self._opened_tables()
        table, k = tables.tables[-1], len(tables.tables) - 1
        count, width = len(start), table.width
        some = torch.cat([start % width != 0, stop % width != 0]).nonzero()[:, 0]
        left = some < count
        own = torch.cat([start - 1, stop])[some]
        other = torch.cat([stop, start - 1])[some]
        rows = rows[some]
        cell = own // width
        children = tables.fetch(k, cell // table.children, rows)
        at = torch.arange(len(some), device="cpu")
        value = Increment(*[v[at, cell % table.children] for v in children])
        leaf = self._cuts.leaf_length(own // self._cuts.per_root)[:, None]
        keys, ends = self._keys[rows], torch.where(left, 0, 1)
        for level in range(self._cuts.halvings):
            middle, deviation = halve(value, (leaf * width).sqrt(), self._halving_normals(keys, level, cell))
            apart = cell != other // width
            width //= 2
            cell = own // width
            second = cell & 1
            sign = (1 - 2 * second).double()[:, None]
            whole = (apart & (second == ends)).double()[:, None]
            turned = [v * sign for v in deviation.values()]
            piece = Increment(*[(m - v) * whole for m, v in zip(middle.values(), turned, strict=True)])
            sides.add(piece, leaf * width * whole, some)
            value = Increment(*[m + v for m, v in zip(middle.values(), turned, strict=True)])
            if not bool(((own + left) % width).any()):
                return

    def _halving_normals(self, keys: Tensor, level: int, cells: Tensor) -> list[Tensor]:
        hashes = self._elements.hashes(keys, level, cells)
        return [z for which in range(self._values - 1) for z in normals(hashes, which)]

    # A grid known beforehand ---------------------------------------------------------------------------------------

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
        self._check_shape(shape)
        if areas + 1 > self._values:
            raise UnsupportedError(
                "this solver needs the space-time-time Levy area K, and the Brownian path has no more than H; make it "
                "with levy_area='space-time-time'."
            )
        times = times.to(_CPU, torch.float64)
        leaves = self._cuts.leaf(times)
        steps = leaves.diff()
        if len(steps) == 0 or not (bool((steps > 0).all()) or bool((steps < 0).all())):
            raise ArgumentError(
                "a grid on a Brownian path must rise or fall from each time to the next, by the path's quantum "
                f"({self.quantum:.3g}) or more; got {times.tolist()[:8]}{' …' if len(times) > 8 else ''}."
            )
        level = self._level_of(leaves)
        if level == 0 and torch.equal(leaves, torch.arange(self._cuts.roots + 1, device="cpu") * self._cuts.per_root):
            return self._root_stream(times, areas, dtype, device, last_noise)
        return _GridStream(self, times, leaves, level, areas, dtype, device, last_noise)

    def _level_of(self, leaves: Tensor) -> int | None:
        """The coarsest wide level that has all these cuts, where no step is many cells of it."""
        for level in range(len(self._cuts.radices) + 1):
            width = self._cuts.width(level)
            if bool((leaves % width == 0).all()):
                uneven = level == 0 and self._cuts.edges is not None
                most = int((leaves.diff().abs() // width).max())
                return level if most <= (1 if uneven else _CELLS_A_STEP) else None
        return None

    def _root_stream(
        self, times: Tensor, areas: int, dtype: torch.dtype, device: torch.device, last_noise: bool
    ) -> DrawnStream:
        """Steps that are the root cells: their draws, handed through."""
        lengths = self._cuts.root_lengths.expand(self._cuts.roots).clone()
        if not last_noise:
            lengths[-1] = 0.0
        streams = []
        for which, part in zip(range(areas + 1), (1, 12, 720), strict=False):
            purpose, scales = f"path 0 {'WHK'[which]}", torch.sqrt(lengths / part)
            streams.append(self._draws.open(self.shape, purpose, dtype, device, len(lengths), scales))
        return DrawnStream(times, streams)

    def _check_shape(self, shape: tuple[int, ...]) -> None:
        if tuple(shape) != self.shape:
            raise ShapeError(
                f"this Brownian path has shape {self.shape} and was asked for a motion of shape {tuple(shape)}; make "
                "it with the shape of the noise, which is that of x0 unless the noise has fewer or more dimensions."
            )

    # As a source of noise ------------------------------------------------------------------------------------------

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
        """For "steps" the increments divided by the root of their lengths; for another purpose draws of the seed."""
        if purpose != "steps":
            if shape[0] != self.shape[0]:
                self._check_shape(shape)
            return self._draws.open(shape, purpose, dtype, device, draws, scales)
        self._check_shape(shape)
        path = self.to(dtype, device)
        return StepStream(lambda t, s: path(t, s).W, self.quantum, scales)

    def part(self, start: int, stop: int, total: int) -> BrownianPath:
        if total != self.shape[0]:
            raise ArgumentError(f"the Brownian path has {self.shape[0]} samples for a batch of {total}.")
        return self._of_samples(self._draws.samples[start:stop])

    def rows(self, index: Tensor) -> BrownianPath:
        """The path of some samples, int64 (A,), which keep their numbers."""
        samples = self._draws.samples
        return self._of_samples([samples[i] for i in index.tolist()])

    def to(self, dtype: torch.dtype, device: torch.device | str) -> BrownianPath:
        """The same path, whose queries return another dtype or on another device."""
        other = copy.copy(self)
        other.dtype, other.device = check_dtype(dtype), check_device(device)
        return other

    def _of_samples(self, samples: list[int]) -> BrownianPath:
        if not samples:
            raise ArgumentError("a Brownian path needs at least one sample, and none is left.")
        other = copy.copy(self)
        other._set_samples(samples)
        return other

    def identity(self) -> str:
        edges = self._cuts.edges
        cells = "" if edges is None else hashlib.blake2b(edges.numpy().tobytes(), digest_size=16).hexdigest()
        named = f"cells={self._cuts.roots}/{self._cuts.radices}/{cells}"
        samples = self._draws.samples
        return (
            f"BrownianPath(seed={self._seed}, samples={samples}, shape={self.shape}, t0={self.t0!r}, t1={self.t1!r}, "
            f"{named}, levy_area={self.levy_area!r})"
        )

    def __repr__(self) -> str:
        samples = self._draws.samples
        if self._seed is None:
            who = f"seeds={samples}"
        elif samples == list(range(samples[0], samples[0] + len(samples))):
            who = f"seed={self._seed}" + (f", first={samples[0]}" if samples[0] else "")
        else:
            who = f"seed={self._seed}, samples={samples}"
        if self._cuts.edges is not None:
            cells = f", cells=<{self._cuts.roots + 1} times>"
        else:
            cells = "" if self._cuts.radices else f", cells={self._cuts.roots}"
        return (
            f"BrownianPath({who}, shape={self.shape}, t0={self.t0!r}, t1={self.t1!r}{cells}, "
            f"levy_area={self.levy_area!r}, dtype={self.dtype})"
        )


class _Sides:
    """What has been joined so far on the left (A) and on the right (A) of the middles of A intervals."""

    def __init__(self, count: int, d: int, values: int) -> None:
        self._count = count
        self._values = Increment(*[torch.zeros(2 * count, d, dtype=torch.float64, device="cpu") for _ in range(values)])
        self._length = torch.zeros(2 * count, 1, dtype=torch.float64, device="cpu")
        self._order = torch.ones(
            2 * count, 1, dtype=torch.float64, device="cpu"
        )  # left pieces come before what is there
        self._order[:count] = -1.0

    def add(self, piece: Increment, length: Tensor, some: Tensor) -> None:
        """Join a piece to the outer end of each of some sides; one of length 0 changes nothing."""
        if len(some) == len(self._length):
            self._values = join(self._values, self._length, piece, length, self._order)
            self._length = self._length + length
            return
        here = Increment(*[value[some] for value in self._values.values()])
        joined = join(here, self._length[some], piece, length, self._order[some])
        for value, new in zip(self._values.values(), joined.values(), strict=True):
            value.index_copy_(0, some, new)
        self._length.index_add_(0, some, length)

    def whole(self) -> Increment:
        n = self._count
        left, right = (Increment(*[v[half] for v in self._values.values()]) for half in (slice(n), slice(n, None)))
        return join(left, self._length[:n], right, self._length[n:])


@final
class _GridStream(BrownianStream):
    """Increments along a grid, some steps at a time: of the cells of one level, or by queries."""

    seekable = True

    def __init__(
        self,
        path: BrownianPath,
        times: Tensor,
        leaves: Tensor,
        level: int | None,
        areas: int,
        dtype: torch.dtype,
        device: torch.device,
        last_noise: bool,
    ) -> None:
        self._path, self._steps, self._last_noise = path, len(leaves) - 1, last_noise
        self._areas, self._dtype, self._device = areas, dtype, device
        self._falls = bool(leaves[0] > leaves[-1])
        self._leaves = leaves.flip(0) if self._falls else leaves  # rising
        # Half types are no good for sums: float32, rounded at the end.
        self._wide = torch.float64 if dtype == torch.float64 else torch.float32
        state = math.prod(path._flat) * self._wide.itemsize
        self._cells: CellStream | None = None
        if level is None:
            self._run = max(1, min(1024, 2 * _BLOCK_BYTES // (80 * math.prod(path._flat))))
        else:
            self._cells = _cell_stream(path, level, self._wide, areas + 1, state, self._falls)
            self._edges: list[int] = (self._leaves // path._cuts.width(level)).tolist()
            counts = {b - a for a, b in itertools.pairwise(self._edges)}
            self._each = counts.pop() if len(counts) == 1 else None  # cells of every step, where it is one number
            self._run = max(1, self._cells.size // (self._each or 1))
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
        if self._cells is None:
            start = at // self._run * self._run
            stop = min(start + self._run, self._steps)
            block = self._asked(start, stop)
        elif self._each == 1:
            start, stop, block = self._whole_cells(self._cells, at)
        else:
            start = at // self._run * self._run
            stop = min(start + self._run, self._steps)
            block = self._joined(self._cells, start, stop)
        shape = (stop - start, *self._path.shape)
        values = [value.reshape(shape) for value in block.values()]
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
        offset = self._edges[0]
        index = (offset + at) // cells.size
        first = index * cells.size
        start, stop = max(0, first - offset), min(self._steps, first + cells.size - offset)
        cells.forget()
        values = cells.block(index).values()
        return start, stop, Increment(*[value[start + offset - first : stop + offset - first] for value in values])

    def _joined(self, cells: CellStream, start: int, stop: int) -> Increment:
        """Steps of several cells each."""
        edges = self._edges[start : stop + 1]
        buffers = [
            torch.empty(edges[-1] - edges[0], *self._path._flat, dtype=self._wide, device="cpu")
            for _ in range(self._areas + 1)
        ]
        at = edges[0]
        while at < edges[-1]:
            index = at // cells.size
            end = min((index + 1) * cells.size, edges[-1])
            for buffer, value in zip(buffers, cells.block(index).values(), strict=True):
                buffer[at - edges[0] : end - edges[0]] = value[at - index * cells.size : end - index * cells.size]
            at = end
        if self._each is not None:
            return join_equal(Increment(*[b.view(stop - start, self._each, *b.shape[1:]) for b in buffers]), 1)
        spans = [slice(a - edges[0], b - edges[0]) for a, b in itertools.pairwise(edges)]
        steps = [join_equal(Increment(*[buffer[span] for buffer in buffers]), 0).values() for span in spans]
        return Increment(*[torch.stack(value) for value in zip(*steps, strict=True)])

    def _asked(self, start: int, stop: int) -> Increment:
        """Steps whose ends are no cuts of a wide level, by queries of the whole batch."""
        batch = len(self._path._all)
        first, last = (self._leaves[i : i + stop - start].repeat_interleave(batch) for i in (start, start + 1))
        found = self._path._between(first, last, self._path._all.repeat(stop - start))
        return Increment(*[value.to(self._wide) for value in found.values()[: self._areas + 1]])


def _cell_stream(
    path: BrownianPath, level: int, dtype: torch.dtype, values: int, state: int, falls: bool
) -> CellStream:
    # Going backwards costs least where blocks are whole runs of 16 positions (noise.keyed): 40 is two and a half.
    least = 4 if falls else 1
    parents = min(1000, max(least, _BLOCK_BYTES // (10 * state)))
    return CellStream(path._cuts, path._draws, path._flat, level, dtype, values, path._values, parents)


@final
class StepStream(NoiseStream):
    """A path's increments as draws: (W_s - W_t)/sqrt|s - t| for steps that do not overlap.

    Args:
        increment: (t, s) -> W_s - W_t.
        quantum: times nearer than that may be one.
        scales: as in `NoiseSource.open`.
    """

    seekable = True

    def __init__(self, increment: Callable[[float, float], Tensor], quantum: float, scales: Tensor | None) -> None:
        self._increment, self._quantum = increment, quantum
        self._scales = None if scales is None else scales.tolist()
        self._before: tuple[float, float] | None = None

    def next(self, t: float, s: float) -> Tensor:
        low, high = min(t, s), max(t, s)
        if not high > low:
            raise ArgumentError(f"a draw from a Brownian path is over a step from t to s != t, got t = s = {t!r}.")
        if self._before is not None:
            overlap = min(high, self._before[1]) - max(low, self._before[0])
            if overlap > self._quantum:
                raise UnsupportedError(
                    f"two draws were asked for over the same time: [{low:g}, {high:g}] after [{self._before[0]:g}, "
                    f"{self._before[1]:g}]. On a Brownian path they are one number; a solver that needs several "
                    "independent draws a step takes seed=, seeds= or a generator."
                )
        self._before = low, high
        scale = (1.0 if self._scales is None else self._scales[self.position]) / math.sqrt(high - low)
        self.position += 1
        return self._increment(t, s) * scale

    def seek(self, position: int) -> None:
        self.position, self._before = position, None


def _check_cells(cells: object, t0: float, t1: float) -> int | Tensor | None:
    """`cells` as a number of root cells or as their edges."""
    if cells is None:
        return None
    if isinstance(cells, int) and not isinstance(cells, bool):
        if not 1 <= cells < 2**31:
            raise ArgumentError(f"cells must be a number of equal cells from 1 to 2^31 - 1, got {cells}.")
        return cells
    listed = as_list(cells)
    if listed is None or len(listed) < 2:
        raise ArgumentError(f"cells must be a number of equal cells, or their edges from t0 to t1, got {cells!r}.")
    edges = torch.tensor(
        [check_number(f"cells[{i}]", time) for i, time in enumerate(listed)], dtype=torch.float64, device="cpu"
    )
    if not bool((edges.diff() > 0).all()):
        raise ArgumentError("cells (the edges of root cells) must rise from each time to the next, without repeats.")
    if (listed[0], listed[-1]) != (t0, t1):
        raise ArgumentError(
            f"cells (the edges of root cells) must go from t0 = {t0!r} to t1 = {t1!r}, "
            f"got {listed[0]!r} to {listed[-1]!r}."
        )
    return edges


def _check_samples(seed: object, seeds: object, first: int, batch: int) -> tuple[int | None, list[int]]:
    """The seed, if there is one for all, and the number of each sample, or its seed."""
    if (seed is None) == (seeds is None):
        raise ArgumentError(f"give one of seed and seeds, got {'neither' if seed is None else 'both'}.")
    if seeds is None:
        checked = KeyedNoise(check_seed("seed", seed), first)
        return checked.seed, list(range(checked.first, checked.first + batch))
    if first:
        raise ArgumentError("first (the index of the first sample) goes with seed and with nothing else.")
    listed = as_list(seeds)
    if listed is None:
        raise ArgumentError(f"seeds must be a list of integers, one for each sample, got {seeds!r}.")
    if len(listed) != batch:
        raise ArgumentError(f"seeds has {len(listed)} entries for a batch of {batch}; give one a sample.")
    return None, [check_seed(f"seeds[{i}]", one) for i, one in enumerate(listed)]
