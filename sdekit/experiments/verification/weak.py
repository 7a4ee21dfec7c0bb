r"""Weak orders without Monte Carlo: expectations of a method's end, exactly, on SDEs whose own are known.

Three kinds of problem, each with a way to the law of N steps:

- an affine SDE, additive noise that fades with time: mean and variance are carried from step to step, or read off a
  whole solve by its responses to single draws;
- an SDE on a circle, a nonlinear drift and diffusion of one variable: a step turns E[phi(X)] as a function of where it
  starts into another such function, a matrix on trigonometric polynomials;
- linear SDEs with matrices, commuting or not: a step turns E[X] and E[X X^T] into linear functions of themselves.

Expectations over one step are sums over Gauss-Hermite nodes of W and H; for a method that takes few-valued variables
from W, over the middles of twelve equal parts of W's law, on which these are constant.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdekit.dynamics import Dynamics
from sdekit.experiments.verification.orders import Order
from sdekit.noise.given_path import GivenPath
from sdekit.sampling import solve
from sdekit.sdes import SDE, AbstractSDE, Calculus, DecayingAdditiveSDE, NoiseKind
from sdekit.solvers import Solver
from sdekit.solvers.step import StepSolver

__all__ = ["Affine", "affine_response", "circle_order", "fading_order", "linear_order"]

COUNTS = (8, 16, 32)
_PARTS = 12
_SAME = 1e-6  # implicit methods end their iterations at about this


# Affine SDEs ---------------------------------------------------------------------------------------------------------


class _Responses:
    """Noise that reads off an affine solve: draw k gives row `rows` + k m + j of the batch a 1 in entry j, else 0."""

    def __init__(self, rows: int) -> None:
        self.rows, self.draws = rows, 0

    def __call__(self, t: float, s: float, shape: tuple[int, ...]) -> Tensor:
        z = torch.zeros(shape, dtype=torch.float64)
        entries = z[0].numel()
        first = self.rows + self.draws * entries
        for j in range(entries if first < shape[0] else 0):
            z[first + j].view(-1)[j] = 1.0
        self.draws += 1
        return z


class Affine:
    """x -> shift + matrix x + spread z with independent standard normals z: a solve of an affine SDE, read off."""

    def __init__(self, shift: Tensor, matrix: Tensor, spread: Tensor) -> None:
        self.shift, self.matrix, self.spread = shift, matrix, spread

    def law(self, mean: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and covariance of the end for a start with these."""
        ends = self.matrix @ covariance @ self.matrix.T + self.spread @ self.spread.T
        return self.shift + self.matrix @ mean, ends


def affine_response(
    dynamics: Dynamics | AbstractSDE, solver: Solver, grid: Sequence[float], shape: tuple[int, ...]
) -> Affine:
    """The solve over `grid` from states of `shape`, without the batch, as an affine map of the flattened state."""
    d = math.prod(shape)

    def run(extra: int) -> tuple[Tensor, int]:
        x = torch.zeros(1 + d + extra, *shape, dtype=torch.float64)
        x[1 : 1 + d] = torch.eye(d, dtype=torch.float64).reshape(d, *shape)
        noise = _Responses(1 + d)
        end = solve(dynamics, x, solver=solver, grid=list(grid), noise=noise).x
        return end.reshape(len(end), d), noise.draws

    _, draws = run(0)
    end, _ = run(draws * d)
    shift = end[0]
    return Affine(shift, (end[1 : 1 + d] - shift).T, (end[1 + d :] - shift).T)


def fading_order(solver: Solver, counts: Sequence[int] = COUNTS) -> Order | None:
    """The weak order on additive noise that fades, by the mean and variance at 1 from a start with a spread.

    A step of a one-step method is x -> a x + b with a number a and a variable b, whose mean and variance are sums over
    nodes: b need not be linear in the noise. Any other method's must be, and its solve is read off as a whole.
    """
    sde = DecayingAdditiveSDE(a=0.8, b=1.0)
    start = torch.tensor([[0.5]], dtype=torch.float64)
    mean, std = (float(value) for value in sde.marginal(start, 1.0))
    errors = []
    for n in counts:
        times = torch.linspace(0, 1, n + 1, dtype=torch.float64).tolist()
        m, v = 0.5, 0.3
        if isinstance(solver, StepSolver):
            for t, s in itertools.pairwise(times):
                step = _affine_step(solver, sde, t, s, m, v)
                if step is None:
                    return None
                m, v = step
        else:
            law = affine_response(sde, solver, times, (1,)).law(start[0], torch.full((1, 1), v, dtype=torch.float64))
            m, v = (float(value) for value in law)
        errors.append(abs(m - mean) + abs(v - (0.15 + std**2)))
    return Order(tuple(counts), tuple(errors))


def _affine_step(
    solver: Solver, sde: AbstractSDE, t: float, s: float, m: float, v: float
) -> tuple[float, float] | None:
    normals, weights = _law_of_noise(solver, 1, (6, 4))
    starts = torch.tensor([[0.0], [1.0], [2.0]], dtype=torch.float64)
    ends = _one_step(solver, sde, starts, t, s, normals, 1)[..., 0]
    if not torch.allclose(ends[2] - ends[1], ends[1] - ends[0], rtol=0, atol=_SAME):
        return None
    b, slope = ends[0], float(ends[1, 0] - ends[0, 0])
    shift = float(b @ weights)
    return slope * m + shift, slope**2 * v + float((b - shift).square() @ weights)


# The law of a step ---------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=32)
def _gauss(nodes: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Nodes and weights for a standard normal."""
    z, w = np.polynomial.hermite_e.hermegauss(nodes)
    return tuple(z.tolist()), tuple((w / w.sum()).tolist())


def _equal_parts() -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The middles, in probability, of equal parts of a standard normal's law."""
    middles = (torch.arange(_PARTS, dtype=torch.float64) + 0.5) / _PARTS
    return tuple(torch.special.ndtri(middles).tolist()), (1 / _PARTS,) * _PARTS


def _areas(solver: Solver) -> int:
    return solver.areas if isinstance(solver, StepSolver) else 0


def _law_of_noise(solver: Solver, m: int, nodes: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Normals for (W_1, …, W_m, H_1, …) as (Q, m (areas + 1)), and the weights, (Q,)."""
    if solver.strong_order is None:
        each = [_equal_parts()] * m
    else:
        each = [_gauss(nodes[0])] * m + [_gauss(nodes[1])] * (m * _areas(solver))
    values = torch.tensor(list(itertools.product(*(z for z, _ in each))), dtype=torch.float64)
    weights = torch.tensor([math.prod(w) for w in itertools.product(*(w for _, w in each))], dtype=torch.float64)
    return values, weights


def _one_step(solver: Solver, sde: AbstractSDE, starts: Tensor, t: float, s: float, normals: Tensor, m: int) -> Tensor:
    """The ends of a step from t to s from each of `starts` (S, d) with each of the normals (Q, …): (S, Q, d)."""
    h = s - t
    rows, each = len(starts), len(normals)
    x = starts[:, None].expand(rows, each, starts.shape[1]).reshape(rows * each, -1)
    z = normals[None].expand(rows, each, normals.shape[1]).reshape(rows * each, -1)
    w = (math.sqrt(h) * z[:, :m])[None]
    area = (math.sqrt(h / 12) * z[:, m : 2 * m])[None] if z.shape[1] > m else torch.zeros_like(w)
    path = GivenPath.from_increments([t, s], w, area, torch.zeros_like(w))
    ends = solve(sde, x, solver=solver, grid=[t, s], noise=path).x
    return ends.reshape(rows, each, -1)


# On a circle ---------------------------------------------------------------------------------------------------------

_MODES = 12


def _circle(noise: NoiseKind, calculus: Calculus) -> AbstractSDE:
    """dX = (0.8 + 0.5 sin X) dt + g dW (Ito), g = 0.6 + 0.3 cos X or, additive, 0.7."""
    if noise == "additive":
        return SDE(lambda x, t: 0.8 + 0.5 * torch.sin(x), 0.7, "additive", calculus)

    def drift(x: Tensor, t: Tensor) -> Tensor:
        f = 0.8 + 0.5 * torch.sin(x)
        return f if calculus == "ito" else f + 0.15 * torch.sin(x) * (0.6 + 0.3 * torch.cos(x))

    return SDE(drift, lambda x, t: 0.6 + 0.3 * torch.cos(x), noise, calculus)


def _circle_exact(noise: NoiseKind, points: Tensor) -> Tensor:
    """E[cos X_1], E[sin X_1] for starts at the points, by the generator on trigonometric polynomials: (S, 2)."""
    k = torch.arange(-_MODES, _MODES + 1, dtype=torch.float64)
    waves = torch.exp(1j * points[:, None] * k)
    first = (waves * (1j * k)) @ waves.conj().T / len(points)
    second = (waves * -(k**2)) @ waves.conj().T / len(points)
    g = torch.full_like(points, 0.7) if noise == "additive" else 0.6 + 0.3 * torch.cos(points)
    generator = (0.8 + 0.5 * torch.sin(points))[:, None] * first.real + 0.5 * (g**2)[:, None] * second.real
    exact: Tensor = torch.linalg.matrix_exp(generator) @ torch.stack([torch.cos(points), torch.sin(points)], dim=1)
    return exact


def circle_order(solver: Solver, noise: NoiseKind, calculus: Calculus, counts: Sequence[int] = COUNTS) -> Order:
    """The weak order on the circle, by the greatest error of E[cos X_1] and E[sin X_1] over all starts."""
    sde = _circle(noise, calculus)
    size = 2 * _MODES + 1
    points = 2 * math.pi * torch.arange(size, dtype=torch.float64) / size
    exact = _circle_exact(noise, points)
    normals, weights = _law_of_noise(solver, 1, (24, 8))
    k = torch.arange(-_MODES, _MODES + 1, dtype=torch.float64)
    interpolate = torch.exp(-1j * k[:, None] * points) / size
    errors = []
    for n in counts:
        ends = _one_step(solver, sde, points[:, None], 0.0, 1 / n, normals, 1)[..., 0]
        means = (torch.exp(1j * ends[..., None] * k) * weights[:, None]).sum(1)
        step = (means @ interpolate).real
        value = torch.stack([torch.cos(points), torch.sin(points)], dim=1)
        got = torch.linalg.matrix_power(step, n) @ value
        errors.append(float((got - exact).abs().max()))
    return Order(tuple(counts), tuple(errors))


# Linear SDEs ---------------------------------------------------------------------------------------------------------


def _matrices(noise: NoiseKind) -> tuple[Tensor, Tensor]:
    """A and B_1, …, B_m of dX = A X dt + sum_j B_j X dW_j (Ito): commuting for commutative noise."""

    def tensor(*rows: Any) -> Tensor:
        return torch.tensor(rows, dtype=torch.float64)

    if noise == "commutative":
        a = tensor([-0.6, 0.4], [-0.4, -0.6])
        return a, torch.stack([tensor([0.4, 0.3], [-0.3, 0.4]), tensor([0.2, -0.5], [0.5, 0.2])])
    a = tensor([-0.6, 0.4], [0.2, -0.3])
    noises = [tensor([0.4, 0.3], [0.1, -0.2]), tensor([0.1, -0.4], [0.5, 0.2]), tensor([-0.3, 0.2], [0.4, 0.3])]
    return a, torch.stack(noises)


def _linear(a: Tensor, b: Tensor, noise: NoiseKind, calculus: Calculus) -> AbstractSDE:
    matrix = a if calculus == "ito" else a - 0.5 * (b @ b).sum(0)
    return SDE(
        lambda x, t: x @ matrix.T,
        lambda x, t: torch.einsum("jik,bk->bij", b, x),
        noise,
        calculus,
        noise_dim=len(b),
    )


def linear_order(solver: Solver, noise: NoiseKind, calculus: Calculus, counts: Sequence[int] = COUNTS) -> Order | None:
    """The weak order on a linear SDE with matrices, by the error of E[X_1] and E[X_1 X_1^T].

    None for a method that is not linear in the state.
    """
    a, b = _matrices(noise)
    if _areas(solver):
        b = b[:2]  # as many nodes as there are in W and H of three motions are too many
    sde, m, d = _linear(a, b, noise, calculus), len(b), len(a)
    eye = torch.eye(d, dtype=torch.float64)
    moments = torch.kron(a, eye) + torch.kron(eye, a) + sum(torch.kron(each, each) for each in b)
    start = torch.tensor([1.0, -0.5], dtype=torch.float64)
    square = torch.kron(start, start)
    exact_first, exact_second = torch.linalg.matrix_exp(a) @ start, torch.linalg.matrix_exp(moments) @ square
    normals, weights = _law_of_noise(solver, m, (6, 4))
    errors = []
    for n in counts:
        # Column k of a draw's matrix is where unit vector k goes.
        ends = _one_step(solver, sde, torch.cat([eye, eye.sum(0, keepdim=True)]), 0.0, 1 / n, normals, m)
        if not torch.allclose(ends[d], ends[:d].sum(0), rtol=0, atol=_SAME):
            return None
        maps = ends[:d].permute(1, 2, 0)
        first = torch.einsum("q,qij->ij", weights, maps)
        second = torch.einsum("q,qik,qjl->ijkl", weights, maps, maps).reshape(d * d, d * d)
        mean, squares = (torch.linalg.matrix_power(each, n) for each in (first, second))
        errors.append(float((mean @ start - exact_first).abs().max() + (squares @ square - exact_second).abs().max()))
    return Order(tuple(counts), tuple(errors))
