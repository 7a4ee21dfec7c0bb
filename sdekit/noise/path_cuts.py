"""Where a Brownian path is cut: a tree of intervals whose leaves are numbered."""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor

from sdekit.errors import ArgumentError

__all__ = ["RADIX", "Cuts"]

RADIX = 10
_LEAVES = 41  # log2 of the number of leaves: their indices stay exact in float64, times in units of the last place too


@final
class Cuts:
    """A mixed-radix tree of intervals: root cells, each cut by `radices` in turn and then in halves, down to leaves.

    Leaves are numbered from 0 at t0; a cell of any level is a run of leaves, and a time is the nearest cut between two
    leaves. So digits are integers, and what is said about times is exact for the rounded ones.
    """

    def __init__(self, t0: float, t1: float, cells: int | Tensor | None) -> None:
        self.t0, self.t1 = t0, t1
        self.edges = cells if isinstance(cells, Tensor) else None  # of root cells of unequal lengths
        self.roots = len(cells) - 1 if isinstance(cells, Tensor) else (cells or RADIX)
        self.radices: tuple[int, ...] = (RADIX,) * 4 if cells is None else ()
        wide = self.roots * math.prod(self.radices)
        self.halvings = max(1, _LEAVES - math.ceil(math.log2(wide)))
        self.per_root = math.prod(self.radices) << self.halvings
        self.leaves = self.roots * self.per_root
        one = torch.tensor([(t1 - t0) / self.roots], dtype=torch.float64, device="cpu")
        lengths: Tensor = one if self.edges is None else self.edges.diff()
        self.root_lengths = lengths
        self.quantum = float(lengths.max()) / self.per_root

    def width(self, level: int) -> int:
        """Leaves of a cell of level 0 (the root), 1, …, the wide ones, and after them those of halves."""
        wide = self.per_root // math.prod(self.radices[:level])
        return wide >> max(0, level - len(self.radices))

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
