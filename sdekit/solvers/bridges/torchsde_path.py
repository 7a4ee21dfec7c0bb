"""A Brownian motion, as torchsde asks for one, that knows the one interval of one step."""

from __future__ import annotations

from typing import Any, final

import torch
import torchsde
from torch import Tensor

from sdekit.errors import ArgumentError

__all__ = ["OneStepPath"]


@final
class OneStepPath(torchsde.BaseBrownian):  # type: ignore[misc]
    """W and, where the method needs it, U = int (W - W_t) over [t, s]; any other interval is an error."""

    def __init__(self, t: float, s: float, w: Tensor, u: Tensor | None) -> None:
        super().__init__()
        self._t, self._s, self._w, self._u = t, s, w, u

    def __call__(self, ta: Any, tb: Any = None, return_U: bool = False, return_A: bool = False) -> Any:
        whole = tb is not None and float(ta) == self._t and float(tb) == self._s
        if not whole or return_A or (return_U and self._u is None):
            raise ArgumentError(
                f"torchsde asked for more of the Brownian path than W (and U) on [{self._t}, {self._s}]: [{ta}, {tb}]."
            )
        return (self._w, self._u) if return_U else self._w

    def forget(self) -> None:
        """Let go of W and U. torchsde's srk object refers to itself, and would keep them till a garbage collection."""
        self._w, self._u = self._w.new_empty(0), None

    @property
    def dtype(self) -> torch.dtype:
        return self._w.dtype

    @property
    def device(self) -> torch.device:
        return self._w.device

    @property
    def shape(self) -> torch.Size:
        return self._w.shape

    @property
    def levy_area_approximation(self) -> str:
        return "none" if self._u is None else "space-time"

    def __repr__(self) -> str:
        return f"OneStepPath([{self._t}, {self._s}])"
