"""What a Brownian path is made with, checked at the door."""

from __future__ import annotations

from numbers import Integral

import torch
from torch import Tensor

from sdekit._tensors import as_list, check_number
from sdekit.errors import ArgumentError
from sdekit.noise.keyed import KeyedNoise, check_seed

__all__ = ["check_cells", "check_rows", "check_samples"]


def check_cells(cells: object, t0: float, t1: float) -> int | Tensor | None:
    """`cells` as a number of root cells or as their edges."""
    if cells is None:
        return None
    if isinstance(cells, Integral) and not isinstance(cells, bool):
        if not 1 <= int(cells) < 2**31:
            raise ArgumentError(f"cells must be a number of equal cells from 1 to 2^31 - 1, got {cells}.")
        return int(cells)
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


def check_samples(seed: object, seeds: object, first: int, batch: int) -> tuple[int | None, list[int]]:
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


def check_rows(index: object, batch: int) -> list[int]:
    """Numbers of samples of a batch, int64 (A,), as a list."""
    if not isinstance(index, Tensor) or index.ndim != 1 or index.is_floating_point() or index.dtype == torch.bool:
        given = f"{index.dtype} {tuple(index.shape)}" if isinstance(index, Tensor) else type(index).__name__
        raise ArgumentError(f"rows takes the numbers of samples as an int64 tensor (A,), got {given}.")
    rows: list[int] = index.tolist()
    if not all(0 <= i < batch for i in rows):
        raise ArgumentError(f"rows takes numbers of samples from 0 to {batch - 1}, got {rows}.")
    return rows
