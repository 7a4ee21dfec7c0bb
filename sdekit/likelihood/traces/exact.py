"""The exact trace."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from sdekit._tensors import check_positive_integer
from sdekit.likelihood.traces.base import Divergence, Jacobian, Traces
from sdekit.noise import NoiseSource

__all__ = ["Exact"]

# Elements that a backward pass holds for each element of the state, about: what `memory` reckons with.
_HELD = 32


@final
@dataclass(frozen=True)
class Exact(Divergence):
    """The sum of the Jacobian's diagonal, by d vector-Jacobian products with unit vectors.

    Args:
        rows: products made at once, vectorised by torch.vmap, which needs a network whose backward pass vmap can
            handle; 1 makes them one by one. As many as `memory` lets unless given.
        memory: bytes that the products at once may take, reckoned as 32 elements for each element of the state.
    """

    rows: int | None = None
    memory: int = 2**28

    name = "exact"

    def __post_init__(self) -> None:
        if self.rows is not None:
            check_positive_integer("rows", self.rows)
        check_positive_integer("memory", self.memory)

    def more(self, factor: int) -> Divergence:
        return self

    def products(self, d: int) -> int:
        return d

    def open(self, batch: int, d: int, source: NoiseSource, device: torch.device) -> Traces:
        return _ExactTraces(self)


@final
class _ExactTraces(Traces):
    columns = 1
    exact = True

    def __init__(self, settings: Exact) -> None:
        self._settings = settings

    def at(self, jacobian: Jacobian) -> Tensor:
        d, batch = jacobian.dim, jacobian.batch
        rows = self._settings.rows
        if rows is None:
            rows = max(1, self._settings.memory // (_HELD * jacobian.itemsize * batch * d))
        trace: Tensor | None = None
        for i in range(0, d, rows):
            n = min(rows, d - i)
            unit = torch.zeros(n, d, dtype=torch.float64, device=jacobian.device)
            unit.diagonal(i).fill_(1)
            products = jacobian.products(unit[:, None].expand(n, batch, d))
            for j, product in enumerate(products):
                entry = product[:, i + j]
                trace = entry.clone() if trace is None else trace + entry
        assert trace is not None  # d is 1 or more
        return trace[None]

    def part(self, start: int, stop: int, total: int) -> Traces:
        return self
