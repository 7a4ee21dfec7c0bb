r"""Measured orders: by how much the error falls when the steps are halved, on problems whose answers are exact.

All of them run from sigma~ = 150 to 0.1 on the log-SNR grid: from where a low-order first step costs nothing, to where
the data is resolved.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from sdekit.models.score import ScoreModel
from sdekit.sampling import sample
from sdekit.sdes import VPSDE, DiffusionSDE
from sdekit.solvers import FixedStepSolver, Solver
from sdekit.targets import Gaussian, GaussianMixture

__all__ = [
    "Impulses",
    "Order",
    "flow_order",
    "gaussian_end",
    "gaussian_moments",
    "span",
    "strong_order",
    "tolerance_error",
    "weak_order",
]

HIGH, LOW = 150.0, 0.1
_FLOW_COUNTS = (48, 96, 192)
_HIGH_ORDER_COUNTS = (128, 256, 512)
_HIGHER_ORDER_COUNTS = (16, 32, 64)  # from order 5 on: at more steps, errors are those of the images
_WEAK_COUNTS = (64, 128, 256)
_STRONG_COUNTS = (16, 32, 64)
_FINE = 3072  # 6 for each step of the reference, whose stages draw at its halves and thirds
_PATHS = 400


@final
@dataclass(frozen=True)
class Order:
    """A measured order: minus the slope of ln error against ln steps, by least squares."""

    counts: tuple[int, ...]
    errors: tuple[float, ...]

    @property
    def value(self) -> float:
        """The order; infinite where the error has come down to rounding."""
        if min(self.errors) < 1e-13:
            return math.inf
        slope, _ = np.polyfit(np.log(self.counts), np.log(self.errors), 1)
        return -float(slope)


def span(sde: DiffusionSDE) -> tuple[float, float]:
    """The times at which sigma~ is 150 and 0.1, within the SDE's own."""
    high, low = (float(sde.time_of_sigma_ratio(torch.tensor(level, dtype=torch.float64))) for level in (HIGH, LOW))
    return min(high, sde.t_max), low


@functools.lru_cache(maxsize=16)
def _flow_problems(sde: DiffusionSDE) -> tuple[Tensor, tuple[tuple[ScoreModel, Tensor], ...]]:
    """Eight starts, and for a Gaussian and a mixture the model and the exact images."""
    from scipy.integrate import solve_ivp

    start, end = span(sde)
    gaussian = Gaussian(torch.tensor([0.5, -1.0]), torch.tensor([0.3, 0.6]))
    mixture = GaussianMixture(torch.tensor([0.3, 0.7]), torch.tensor([[0.5, -1.0], [-0.5, 0.6]]), 0.3)
    x = torch.randn(8, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * float(sde.sigma(start))
    model = mixture.score_model(sde)
    first, last = (float(sde.sigma_ratio(t)) for t in (start, end))

    def slope(log_ratio: float, y: np.ndarray) -> np.ndarray:
        # dx~/dln sigma~ = sigma~ eps
        ratio = math.exp(log_ratio)
        t = float(sde.time_of_sigma_ratio(torch.tensor(ratio, dtype=torch.float64)))
        scaled = torch.from_numpy(y).reshape(8, 2) * float(sde.alpha(t))
        rate: np.ndarray = (ratio * model.noise(scaled, t)).reshape(-1).numpy()
        return rate

    solved: Any = solve_ivp(
        slope,
        (math.log(first), math.log(last)),
        (x / float(sde.alpha(start))).reshape(-1).numpy(),
        method="DOP853",
        rtol=1e-12,
        atol=1e-13,
    )
    image = torch.from_numpy(solved.y[:, -1].copy()).reshape(8, 2) * float(sde.alpha(end))
    return x, ((gaussian.score_model(sde), gaussian.flow_map(x, start, end, sde)), (model, image))


def flow_order(solver: Solver, sde: DiffusionSDE | None = None, counts: Sequence[int] | None = None) -> list[Order]:
    """Orders on a Gaussian and on a mixture, by the RMS distance to the exact flow images of the same starts."""
    sde = VPSDE() if sde is None else sde
    if counts is None:
        order = solver.order or 0
        counts = _FLOW_COUNTS if order < 4 else _HIGH_ORDER_COUNTS if order < 5 else _HIGHER_ORDER_COUNTS
    start, end = span(sde)
    x, problems = _flow_problems(sde)
    orders = []
    for model, image in problems:
        errors = []
        for n in counts:
            end_state = sample(model, None, solver, n, x_T=x, t_start=start, t_end=end, grid="log_snr").x
            errors.append(float((end_state - image).square().mean().sqrt()))
        orders.append(Order(tuple(counts), tuple(errors)))
    return orders


def tolerance_error(solver: Solver, sde: DiffusionSDE | None = None) -> float:
    """The greater RMS distance to the exact images of the two problems, for a solver that chooses its steps."""
    sde = VPSDE() if sde is None else sde
    start, end = span(sde)
    x, problems = _flow_problems(sde)
    ends = [(sample(model, None, solver, x_T=x, t_start=start, t_end=end).x, image) for model, image in problems]
    return max(float((got - image).square().mean().sqrt()) for got, image in ends)


# Weak order ----------------------------------------------------------------------------------------------------------

_MEAN, _STD = 1.5, 0.7


class Impulses:
    """Noise that reads off an affine sampler: in draw k only row k + 2 is 1, all else 0."""

    def __init__(self) -> None:
        self.draws = 0

    def __call__(self, t: float, s: float, shape: tuple[int, ...]) -> Tensor:
        z = torch.zeros(shape, dtype=torch.float64)
        if self.draws + 2 < shape[0]:
            z[self.draws + 2] = 1.0
        self.draws += 1
        return z


def gaussian_moments(
    run: Callable[[Tensor, Impulses], Tensor], mean: float, variance: float, shift: float = 0.0
) -> tuple[float, float]:
    """Mean and variance at the end of an affine sampler from N(mean, variance), exactly: no Monte Carlo.

    With starts 0, 1, 0, 0, … the ends are m, m + A and m + C_k, and the sampler maps N(mu, v) to
    N(m + A mu, A^2 v + sum_k C_k^2).
    """
    counting = Impulses()
    run(torch.zeros(1, 1, dtype=torch.float64), counting)
    x = torch.zeros(2 + counting.draws, 1, dtype=torch.float64)
    x[1] = 1.0
    end = run(x, Impulses())[:, 0]
    m, a, c = float(end[0]), float(end[1] - end[0]), end[2:] - end[0]
    return m + a * mean, a**2 * variance + float(c.square().sum())


def weak_order(solver: Solver, sde: DiffusionSDE | None = None, counts: Sequence[int] = _WEAK_COUNTS) -> Order:
    """The order of the error in mean and variance on a Gaussian, by the exact recursion of the sampler itself."""
    sde = VPSDE() if sde is None else sde
    start, end = span(sde)
    model = Gaussian(torch.tensor([_MEAN]), torch.tensor([_STD**2])).score_model(sde)

    def moments(t: float) -> tuple[float, float]:
        alpha, sigma = float(sde.alpha(t)), float(sde.sigma(t))
        return alpha * _MEAN, (alpha * _STD) ** 2 + sigma**2

    errors = []
    for n in counts:

        def run(x: Tensor, noise: Impulses, n: int = n) -> Tensor:
            return sample(model, None, solver, n, x_T=x, noise=noise, t_start=start, t_end=end, grid="log_snr").x

        got = gaussian_moments(run, *moments(start))
        errors.append(sum(abs(a - b) for a, b in zip(got, moments(end), strict=True)))
    return Order(tuple(counts), tuple(errors))


def gaussian_end(
    solver: Solver, sde: DiffusionSDE | None = None, steps: int = 200, *, d: int = 64, samples: int = 200
) -> tuple[float, float]:
    """By simulation, where a sampler is not affine: the error of mean and deviation, in deviations, and its noise."""
    sde = VPSDE() if sde is None else sde
    start, end = span(sde)
    model = Gaussian(torch.full((d,), _MEAN), torch.full((d,), _STD**2)).score_model(sde)
    x = sample(model, samples, solver, steps, seed=0, t_start=start, t_end=end, grid="log_snr", dtype=torch.float64).x
    alpha, sigma = float(sde.alpha(end)), float(sde.sigma(end))
    std = math.hypot(alpha * _STD, sigma)
    error = max(abs(float(x.mean()) - alpha * _MEAN) / std, abs(float(x.std()) / std - 1))
    return error, 1 / math.sqrt(d * samples)


# Strong order --------------------------------------------------------------------------------------------------------


def strong_order(solver: FixedStepSolver, sde: DiffusionSDE | None = None) -> Order | None:
    """The order of E|X_N - X| on one Brownian path for all step sizes, X by 512 steps; None without a noise clock."""
    sde = VPSDE() if sde is None else sde
    start, end = span(sde)
    lam = 0.5 * sde.log_snr(torch.tensor([start, end], dtype=torch.float64))
    fine = torch.linspace(float(lam[0]), float(lam[1]), _FINE + 1, dtype=torch.float64)
    clock = solver.noise_clock(sde, sde.time_of_log_snr(2 * fine))
    if clock is None:
        return None
    generator = torch.Generator().manual_seed(1)
    steps = torch.randn(_FINE, _PATHS, 1, generator=generator, dtype=torch.float64)
    moves = steps * clock.diff().abs().sqrt()[:, None, None]
    path = torch.cat([torch.zeros(1, _PATHS, 1, dtype=torch.float64), moves.cumsum(0)])

    def place(t: float) -> int:
        at = 0.5 * float(sde.log_snr(torch.tensor(t, dtype=torch.float64)))
        return round((at - float(lam[0])) / float(lam[1] - lam[0]) * _FINE)

    def noise(t: float, s: float, shape: tuple[int, ...]) -> Tensor:
        i, j = place(t), place(s)
        between = abs(float(clock[j] - clock[i]))
        return (path[j] - path[i]) / math.sqrt(between) if between > 0 else torch.zeros(shape, dtype=torch.float64)

    model = Gaussian(torch.tensor([0.5]), torch.tensor([0.7])).score_model(sde)
    x = torch.full((_PATHS, 1), 1.5 * float(sde.sigma(start)), dtype=torch.float64)

    def run(n: int) -> Tensor:
        return sample(model, None, solver, n, x_T=x, noise=noise, t_start=start, t_end=end, grid="log_snr").x

    reference = run(_FINE // 6)
    errors = [float((run(n) - reference).abs().mean()) for n in _STRONG_COUNTS]
    return Order(_STRONG_COUNTS, tuple(errors))
