"""Coefficients as the executor of tables reads them: plain lists, and factors as 0-d tensors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, final

import torch
from torch import Tensor

from sdekit.solvers.table_folding import Folded

__all__ = ["Columns", "scalar_column", "scalars", "storage"]


@final
class Columns:
    """A folded update as plain lists, for the executor; `scaled` tells which rows multiply by a factor of x."""

    def __init__(self, update: Folded, factors: Tensor, x: Tensor, scaled: Tensor) -> None:
        self.of_x: list[float] = update.of_x.tolist()
        self.of_y: list[float] = update.of_y.tolist()
        self.of_o: list[float] = update.of_o.tolist()
        self.active: list[bool] = update.active.tolist()
        self.scaled: list[bool] = scaled.tolist()
        self._scaled, self._scale = scaled, scalar_column(update.of_x, x)
        m = update.m * factors[:, : update.m.shape[1]]
        looks_back = (m != 0).any(1) | (update.z != 0).any(1)
        self.looks_back: list[bool] = looks_back.tolist()
        # Lists of lists are dear for many rows: only where a row looks back.
        wanted = bool(looks_back.any())
        self.m: list[list[float]] = m.tolist() if wanted else []
        self.z: list[list[float]] = update.z.tolist() if wanted else []

    def scales(self, start: int, stop: int) -> Iterator[Any]:
        """The factors of those rows that are scaled."""
        return iter(scalars(self._scale[start:stop][self._scaled[start:stop].to(self._scale.device)]))


def storage(x: Tensor) -> int:
    """Where the memory of x begins, whatever part of it x views."""
    return x.untyped_storage().data_ptr()


def scalar_column(values: Tensor, x: Tensor) -> Tensor:
    """Factors for `mul_` in the state's precision and place; in float64 on the CPU for half-precision states."""
    if x.dtype in (torch.float32, torch.float64):
        return values.to(device=x.device, dtype=x.dtype)
    return values


def scalars(column: Tensor) -> list[Any]:
    """The factors of some rows: 0-d tensors, several times cheaper than floats on small states.

    Half-precision states take floats: a 0-d tensor would be rounded to half first. They are made for the rows at hand
    only, so that memory does not grow with the number of steps.
    """
    if column.dtype == torch.float64 and column.device.type == "cpu":
        floats: list[float] = column.tolist()
        return floats
    return list(column.unbind(0))
