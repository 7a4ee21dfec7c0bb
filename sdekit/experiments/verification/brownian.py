"""A Brownian motion known on a fine grid, with all that coarser ones see of it, and additive SDEs along it."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import final

import numpy as np
import torch
from torch import Tensor

from sdekit.noise import Increment
from sdekit.noise.given_path import GivenPath
from sdekit.noise.splitting import join_equal

__all__ = ["SharedPath", "shared_path"]


@final
class SharedPath:
    """W, H and K of `cells` equal intervals of [0, 1], and of any number n of them that divides it, joined exactly.

    Args:
        shape: (P, *), of the increments.
        cells: the intervals of the finest grid.
        seed: of the draws.
    """

    def __init__(self, shape: tuple[int, ...], cells: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)

        def draws(part: int) -> Tensor:
            z = torch.randn(cells, *shape, generator=generator, dtype=torch.float64)
            return z.mul_(math.sqrt(1 / (part * cells)))

        self.cells = cells
        self._levels = {cells: Increment(draws(1), draws(12), draws(720))}

    def level(self, n: int) -> Increment:
        """The increments over n equal intervals, as tensors (n, P, *)."""
        if n not in self._levels:
            finer = 2 * n if self.cells % (2 * n) == 0 else self.cells
            parts = [value.reshape(n, finer // n, *value.shape[1:]) for value in self.level(finer).values()]
            self._levels[n] = join_equal(Increment(*parts), axis=1)
        return self._levels[n]

    @property
    def end(self) -> Tensor:
        """W at 1, (P, *)."""
        return self.level(1).W[0]

    @functools.lru_cache(maxsize=32)  # noqa: B019  (the few paths there are live as long as the process)
    def given(self, n: int) -> GivenPath:
        """The path as solves of n steps take it."""
        return GivenPath.from_increments(self.times(n), *self.level(n).values())

    def times(self, n: int) -> list[float]:
        """The ends of n equal intervals."""
        times: list[float] = torch.linspace(0, 1, n + 1, dtype=torch.float64).tolist()
        return times

    def integral(self, rate: float) -> Tensor:
        r"""\int_0^1 e^{-rate (1 - s)} dW_s, (P, *), to rounding.

        By the exponential's quadratic about the middle of each fine cell, whose integrals W, H and K give:

            int dW = W,    int (s - mid) dW = -h H,    int (s - mid)^2 dW = h^2 (W/12 + 2 K)
        """
        fine, h = self.level(self.cells), 1 / self.cells
        if fine.H is None or fine.K is None:
            raise ValueError("a shared path has W, H and K.")
        middles = (torch.arange(self.cells, dtype=torch.float64) + 0.5) * h
        weights = torch.exp(-rate * (1 - middles)).reshape(-1, *([1] * (fine.W.ndim - 1)))
        each = fine.W - (rate * h) * fine.H + (0.5 * rate**2 * h**2) * (fine.W / 12 + 2 * fine.K)
        return (weights * each).sum(0)

    def follow(self, drift: Callable[[Tensor], Tensor], g: Tensor | float, x: Tensor) -> Tensor:
        r"""X_1 of dX = f(X) dt + g dW from x, independently of every solver.

        Over a cell W is taken for the cubic with its W, H and K, u being the part of the cell that is over,

            W(u) = u W + 6 u (1 - u) H + 60 u (1 - u)(1 - 2u) K,

        and X(u) = x + g W(u) + h int_0^u f(X) is solved by Gauss collocation in four nodes, iterated twice.

        Args:
            drift: f of states (…, P, *).
            g: of the shape of a state, or a number.
            x: the start, (P, *).
        """
        fine, h = self.level(self.cells), 1 / self.cells
        if fine.H is None or fine.K is None:
            raise ValueError("a shared path has W, H and K.")
        nodes, inner, weights = _gauss_collocation()
        wide = [1] * x.ndim
        u = nodes.reshape(-1, *wide)
        bow, bend = 6 * u * (1 - u), 60 * u * (1 - u) * (1 - 2 * u)
        for w, high, third in zip(fine.W.unbind(0), fine.H.unbind(0), fine.K.unbind(0), strict=True):
            driven = x + g * (u * w + bow * high + bend * third)
            at = driven + (h * u) * drift(x)
            for _ in range(2):
                f = drift(at)
                at = driven + h * torch.einsum("ij,j...->i...", inner, f)
            x = x + g * w + h * torch.einsum("j,j...->...", weights, f)
        return x


@functools.cache
def _gauss_collocation() -> tuple[Tensor, Tensor, Tensor]:
    """Nodes on [0, 1], the integrals of their Lagrange polynomials up to each node, and those up to 1."""
    z, _ = np.polynomial.legendre.leggauss(4)
    nodes = (z + 1) / 2
    powers = np.arange(1, 5)
    lagrange = np.linalg.inv(np.vander(nodes, increasing=True))  # column j: the coefficients of polynomial j
    inner = (nodes[:, None] ** powers / powers) @ lagrange
    weights = (1 / powers) @ lagrange
    return torch.from_numpy(nodes), torch.from_numpy(inner), torch.from_numpy(weights)


@functools.lru_cache(maxsize=16)
def shared_path(shape: tuple[int, ...], cells: int = 512, seed: int = 3) -> SharedPath:
    """The path of that shape."""
    return SharedPath(shape, cells, seed)
