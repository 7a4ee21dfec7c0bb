"""Euler-Maruyama in place: a stepper for any SDE, and one for drifts a(t) x + b(t), whose step needs no call at all."""

from __future__ import annotations

from typing import final

import torch

from sdekit.sdes.base import Affine
from sdekit.solvers.base import Problem
from sdekit.solvers.step import GridStepper, apply_diffusion
from sdekit.solvers.table_columns import scalar_column, scalars, storage

__all__ = ["AffineEulerStepper", "EulerStepper"]


@final
class EulerStepper(GridStepper):
    """x += f h; x += g W, with f and g taken before x moves."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        dynamics = problem.dynamics
        self._matrix = dynamics.noise_dim is not None
        self._constant = dynamics.constant_diffusion

    def advance(self, start: int, stop: int) -> None:
        x, dynamics, constant, place = self._x, self._dynamics, self._constant, storage(self._x)
        clock = self._clock[start:stop].unbind(0)
        for t, h, w in zip(clock, self._steps[start:stop], self.stream.each(stop - start), strict=True):
            f = dynamics.drift(x, t)
            if storage(f) == place and f is not x:
                f = f.clone()  # a view of x, which is about to move
            if constant is not None:
                x.add_(f, alpha=h).add_(w, alpha=constant)
                continue
            g = dynamics.diffusion(x, t)
            if self._matrix:
                noise = apply_diffusion(dynamics, g, w, x)
                x.add_(f, alpha=h).add_(noise)
                continue
            if storage(g) == place:
                g = g.clone()
            x.add_(f, alpha=h).addcmul_(g, w)


@final
class AffineEulerStepper(GridStepper):
    """x <- (1 + a h) x + b h + g W, the coefficients known beforehand."""

    def __init__(self, problem: Problem, affine: Affine) -> None:
        super().__init__(problem)
        h = problem.times.diff()
        of_x = 1 + affine.a * h
        self._of_x: list[float] = of_x.tolist()
        self._scalars = scalar_column(of_x, self._x)  # x times a 0-d tensor costs less than x times a number
        self._shift: list[float] = (affine.b * h).tolist()
        self._of_w: list[float] = affine.g.tolist()
        self._shifts = any(self._shift)
        self._unscaled = all(g == 1 for g in self._of_w)

    def advance(self, start: int, stop: int) -> None:
        x, shifts = self._x, self._shift[start:stop]
        factors = self._of_x[start:stop] if self._unscaled else scalars(self._scalars[start:stop])
        draws = self.stream.each(stop - start)
        for a, b, g, w in zip(factors, shifts, self._of_w[start:stop], draws, strict=True):
            if self._unscaled:
                torch.add(w, x, alpha=a, out=x)
            else:
                x.mul_(a).add_(w, alpha=g)
            if self._shifts:
                x.add_(b)
        self._dynamics.counter.calls += stop - start
