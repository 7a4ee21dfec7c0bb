r"""A Brownian motion that is the same whoever asks, whatever is asked for, and in whatever order.

`BrownianPath` is a tree of intervals (`path_cuts.Cuts`). Its root cells are independent; every cell is cut into equal
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
import math
from collections.abc import Sequence
from typing import Literal, final

import torch
from torch import Tensor

from sdekit._tensors import as_float64, check_device, check_dtype, check_number, check_shape
from sdekit.errors import ArgumentError, ShapeError, UnsupportedError
from sdekit.noise.base import NoiseSource, NoiseStream, Purpose
from sdekit.noise.brownian import BrownianStream, DrawnStream, Increment
from sdekit.noise.path_arguments import check_cells, check_rows, check_samples
from sdekit.noise.path_cuts import Cuts
from sdekit.noise.path_draws import Draws
from sdekit.noise.path_streams import GridStream
from sdekit.noise.path_tree import Tree
from sdekit.noise.step_stream import StepStream

__all__ = ["BrownianPath"]

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
            costs what independent draws cost, and one of a few cells a step their sums; for several grids give all
            their times together. A query draws every cell that it spans. The motion depends on it.
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
        self._cuts = Cuts(self.t0, self.t1, check_cells(cells, self.t0, self.t1))
        self._seed, samples = check_samples(seed, seeds, first, self.shape[0])
        self._set_samples(samples)

    def _set_samples(self, samples: list[int]) -> None:
        self.shape = (len(samples), *self.shape[1:])
        self._draws = Draws(self._seed, samples)
        d = math.prod(self.shape[1:])
        self._tree = Tree(self._cuts, self._draws, (len(samples), d), 2 if self.levy_area == "space-time" else 3)

    @property
    def quantum(self) -> float:
        """The length of the (longest) leaves: times nearer to each other than that may be one."""
        return self._cuts.quantum

    # Queries -------------------------------------------------------------------------------------------------------

    def __call__(self, t: float | Tensor, s: float | Tensor | None = None) -> Increment:
        """The increment from t to s, or with one argument from t0 to t; floats, or float64 tensors of shape (B,)."""
        if s is None:
            start, stop = self._times("t0", self.t0), self._times("t", t)
        else:
            start, stop = self._times("t", t), self._times("s", s)
        if start.numel() == stop.numel() == 1:
            return self._asked(start.reshape(1), stop.reshape(1), None)
        batch = self.shape[0]
        return self._asked(start.expand(batch), stop.expand(batch), torch.arange(batch, device="cpu"))

    def increments(self, t: Tensor, s: Tensor, rows: Tensor) -> Increment:
        """The increments from t[i] to s[i] of sample rows[i], of shape (A, *).

        Args:
            t: float64 (A,).
            s: float64 (A,).
            rows: int64 (A,), numbers of samples of this path.
        """
        return self._asked(t, s, rows.to(_CPU))

    def _asked(self, t: Tensor, s: Tensor, rows: Tensor | None) -> Increment:
        """For a time each of some samples, or one (1,) for the batch."""
        start, stop = self._cuts.leaf(t.to(_CPU)), self._cuts.leaf(s.to(_CPU))
        found = self._tree.between(torch.minimum(start, stop), torch.maximum(start, stop), rows)
        back = start > stop
        if bool(back.any()):
            sign = 1.0 - 2.0 * back.double()[:, None, None]
            found = Increment(found.W * sign, found.H, None if found.K is None else found.K * sign)
        shape = (self.shape[0] if rows is None else len(rows), *self.shape[1:])
        return Increment(*[v.reshape(shape).to(device=self.device, dtype=self.dtype) for v in found.values()])

    def near(self, t: Tensor, within: Tensor) -> Tensor:
        """For each time, that of the coarsest cut within `within` (or half a leaf) of it: float64.

        A step that ends there costs fewer levels of the tree.
        """
        leaf = self._cuts.leaf(t.to(_CPU))
        within = torch.maximum(within.to(_CPU, torch.float64), torch.full_like(t, self.quantum, device=_CPU))
        best, left = leaf.clone(), torch.ones_like(leaf, dtype=torch.bool)
        for width in self._tree.widths():
            cut = ((leaf + width // 2) // width * width).clamp_(max=self._cuts.leaves)
            fits = left & ((self._cuts.time(cut) - t.to(_CPU)).abs() <= within)
            best = torch.where(fits, cut, best)
            left &= ~fits
            if not bool(left.any()):
                break
        return self._cuts.time(best).to(t.device)

    def _times(self, name: str, t: float | Tensor) -> Tensor:
        if not isinstance(t, Tensor):
            check_number(name, t)
        times = as_float64(t)
        if times.shape not in ((), (1,), (self.shape[0],)):
            raise ShapeError(
                f"{name} must be a number or a tensor of shape ({self.shape[0]},), a time for each sample, "
                f"got shape {tuple(times.shape)}."
            )
        return times

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
        if areas + 1 > self._tree.values:
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
        if torch.equal(leaves, torch.arange(self._cuts.roots + 1, device="cpu") * self._cuts.per_root):
            return self._root_stream(times, areas, dtype, device, last_noise)
        return GridStream(
            self._tree, self.shape, leaves, areas=areas, dtype=dtype, device=device, last_noise=last_noise
        )

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
        """The path of some samples, int64 (A,), which keep their numbers.

        Raises:
            ArgumentError: for an index that is none of this path's samples, or for none at all.
        """
        samples = self._draws.samples
        return self._of_samples([samples[i] for i in check_rows(index, len(samples))])

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
