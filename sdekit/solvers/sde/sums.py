"""Sums x + h sum_j a_j f_j + sum_j (w_j W + h_j H) g_j in as few operations as torch has for them."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from sdekit.dynamics import Dynamics
from sdekit.solvers.step import apply_diffusion

__all__ = ["Sum"]


@final
class Sum:
    """A tensor of its own, made by the first term: x + …, or, without x, the terms alone."""

    def __init__(self, dynamics: Dynamics, like: Tensor, x: Tensor | None = None) -> None:
        self._dynamics, self._like, self._x = dynamics, like, x
        self._own: Tensor | None = None

    @property
    def value(self) -> Tensor:
        """The sum so far; x itself where there is no term yet."""
        if self._own is not None:
            return self._own
        return torch.zeros_like(self._like) if self._x is None else self._x

    def add_drift(self, f: Tensor, weight: float, h: float | Tensor) -> None:
        """Add weight h f; h is a number, or (B, 1, …, 1)."""
        if weight == 0:
            return
        if self._own is None and self._x is not None:
            x = self._x
            self._own = torch.addcmul(x, f, h, value=weight) if isinstance(h, Tensor) else x.add(f, alpha=weight * h)
        elif self._own is None:
            self._own = f * (weight * h)
        elif isinstance(h, Tensor):
            self._own.addcmul_(f, h, value=weight)
        else:
            self._own.add_(f, alpha=weight * h)

    def add_noise(self, g: Tensor | float, on: Tensor, weight: float = 1.0) -> None:
        """Add weight g `on`; g a number, or as the dynamics' diffusion gives it, and `on` of the noise's shape."""
        if weight == 0:
            return
        if isinstance(g, float):
            self._start().add_(on, alpha=weight * g)
        elif self._dynamics.noise_dim is None:
            self._start().addcmul_(g, on, value=weight)
        else:
            self._start().add_(apply_diffusion(self._dynamics, g, on, self._like), alpha=weight)

    def _start(self) -> Tensor:
        if self._own is None:
            self._own = torch.zeros_like(self._like) if self._x is None else self._x.clone()
        return self._own
