"""Every step of an adaptive solve, each sample with steps of its own."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

__all__ = ["EveryStep"]


@final
class EveryStep:
    """The ends of all accepted steps from x, (B, *), at time `start`, float64 ()."""

    def __init__(self, x: Tensor, start: Tensor) -> None:
        batch = x.shape[0]
        self._rows, self._at, self._x = [torch.arange(batch, device="cpu")], [start.expand(batch)], [x.clone()]

    def add(self, rows: Tensor, stop: Tensor, x: Tensor) -> None:
        """A step of the samples `rows`, int64 (A,), that ends at `stop`, float64 (A,), in x, (A, *)."""
        self._rows.append(rows)
        self._at.append(stop)
        self._x.append(x)

    def trajectory(self, end: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        """The states, (K, B, *), and their times, float64 (K, B), where each sample ended as `end`, (B, *), at `at`.

        K is one more than the most steps that a sample took; one with fewer stays where it ended.
        """
        rows, times, x = torch.cat(self._rows), torch.cat(self._at), torch.cat(self._x)
        batch = len(at)
        order = torch.argsort(rows, stable=True)  # by sample, and in each as they were taken
        counts = torch.bincount(rows, minlength=batch)
        column = torch.arange(len(rows), device="cpu") - (counts.cumsum(0) - counts)[rows[order]]
        # The last is where the sample ended, which may be at an event on the way of its last step.
        before = column < counts[rows[order]] - 1
        order, column = order[before], column[before]
        most = int(counts.max())
        kept, clock = end.expand(most, *end.shape).clone(), at.expand(most, batch).clone()
        place, sample = column.to(x.device), rows[order].to(x.device)
        kept[place, sample] = x[order.to(x.device)]
        clock[column, rows[order]] = times[order]
        return kept, clock
