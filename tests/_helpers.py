"""What the tests of the solver core share: exact models that cost nothing, cases over the catalogue, noise by hand."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

import sdekit as sk
from sdekit.sdes import DIFFUSION_SDES, DiffusionSDE
from sdekit.solvers import FixedStepSolver, Solver

SDES: list[DiffusionSDE] = [family() for family in DIFFUSION_SDES]
SDE_IDS = [sde.name for sde in SDES]


# Models ------------------------------------------------------------------------------------------------------------


class GaussianNetwork:
    """eps = sigma (x - alpha m) / (alpha^2 s^2 + sigma^2) for data N(m, s^2) in every coordinate.

    The coefficients are numbers, the same for the whole batch, and what is done to x is elementwise: a sample's value
    has the same bits alone and in any batch.
    """

    def __init__(self, sde: DiffusionSDE, mean: float = 0.0, std: float = 1.0) -> None:
        self.sde, self.mean, self.std = sde, mean, std
        self.calls = 0
        self.levels = functools.lru_cache(maxsize=None)(self._levels)

    def _levels(self, t: float) -> tuple[float, float]:
        return float(self.sde.alpha(t)), float(self.sde.sigma(t))

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        self.calls += 1
        times = t.tolist()
        if times.count(times[0]) == len(times):
            shift, slope = self.line(times[0])
            return (x - shift) * slope
        # Samples at times of their own, as an adaptive solver has them: the same numbers, as columns.
        lines = torch.tensor([self.line(time) for time in times], dtype=torch.float64, device=x.device).to(x.dtype)
        shift, slope = (column.reshape(-1, *([1] * (x.ndim - 1))) for column in lines.unbind(1))
        return (x - shift) * slope

    def line(self, t: float) -> tuple[float, float]:
        """eps = (x - shift) slope."""
        alpha, sigma = self.levels(t)
        return alpha * self.mean, sigma / (alpha**2 * self.std**2 + sigma**2)


def gaussian_model(
    sde: DiffusionSDE, mean: float = 0.0, std: float = 1.0, shape: tuple[int, ...] | None = None
) -> sk.ScoreModel:
    """The exact model of N(mean, std^2) in every coordinate; `model.network.calls` counts its calls."""
    network = GaussianNetwork(sde, mean, std)
    return sk.ScoreModel(network, sde, "noise", data_std=math.hypot(mean, std), shape=shape)


# The catalogue -----------------------------------------------------------------------------------------------------


# Steps of a tolerance on an SDE are many: one that a few dozen meet.
LOOSE = {"rtol": 0.1, "atol": 0.1}


@dataclass(frozen=True)
class Case:
    """One solver with its options; `independent` adds what makes a sample's result independent of its batch."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def solver(self) -> Solver:
        return sk.solvers.get(self.name, **self.options)

    @property
    def independent(self) -> dict[str, Any]:
        allowed = {f.name for f in fields(self.solver)} if is_dataclass(self.solver) else set()
        return {**self.options, **({"per_sample": True} if "per_sample" in allowed else {})}

    def tolerances(self, tolerance: float) -> dict[str, float]:
        """rtol and atol, for a solver that takes them; loose ones on an SDE, where steps are many."""
        if not self.solver.adaptive:
            return {}
        return dict(LOOSE) if self.solver.stochastic else {"rtol": tolerance, "atol": tolerance}

    def steps(self, n: int) -> dict[str, Any]:
        """steps=n, for a solver that takes it."""
        return {} if self.solver.adaptive else {"steps": n}

    def sample(self, model: sk.ScoreModel, n_or_shape: Any, steps: int, **kwargs: Any) -> sk.solvers.Solution:
        return sk.sample(model, n_or_shape, self.name, **self.steps(steps), **{**self.independent, **kwargs})

    def __str__(self) -> str:
        return "-".join([self.name, *(f"{k}={v}" for k, v in self.options.items())])


# One default case for each name, so that a solver joins the tests by joining the catalogue, and the options that
# change what a solver computes.
VARIANTS = (
    Case("ancestral", {"variance": "forward"}),
    Case("ddim", {"eta": 0.5}),
    Case("ddim", {"eta": 1.0}),
    Case("dpmpp_2m", {"variant": "exact"}),
    Case("dpmpp_3m", {"legacy": True}),
    Case("dpm_solver_3m", {"legacy": True}),
    Case("unipc", {"p": 3, "variant": "bh1"}),
    Case("unipc", {"p": 1, "prediction": "noise"}),
    Case("deis", {"variant": "t_ab", "values": 2}),
    Case("adams", {"representation": "data", "clock": "theta", "predictor": 2, "corrector": 0, "tau": 0.5}),
    Case("adams", {"representation": "noise", "clock": "sigma^0.5", "predictor": 2, "corrector": 3}),
    Case("dpmpp_2m_sde", {"eta": 0.5, "variant": "exact"}),
    Case("sa_solver", {"predictor": 2, "corrector": 2, "sigma_low": 0.0, "sigma_high": 1e9}),
    Case("er_sde", {"legacy": True}),
    Case("edm", {"s_churn": 0.0}),
    Case("edm", {"method": "euler"}),
    Case("euler", {"variable": "t"}),
    Case("heun", {"variable": "t"}),
    Case("rk4", {"variable": "t"}),
    Case("pc", {"corrector": "ald", "n_steps": 2}),
    Case("pc", {"corrector": "none"}),
    Case("pc", {"predictor": "none", "corrector": "ald"}),
    Case("pc", {"predictor": "heun", "corrector": "ald", "snr": 0.05}),
    Case("pc", {"predictor": "dpmpp_2m", "corrector": "ald", "snr": 0.05}),
    Case("pc", {"predictor": "seeds_2", "corrector": "ald", "snr": 0.05}),
)
# The names that serve a score model: all but those made for one equation.
MODEL_NAMES = [name for name in sk.solvers.names() if sk.solvers.get(name).serves_models]


def default_case(name: str) -> Case:
    solver = sk.solvers.get(name)
    return Case(name, dict(LOOSE) if solver.adaptive and solver.stochastic else {})


CASES = (*(default_case(name) for name in MODEL_NAMES), *VARIANTS)
FIXED = tuple(case for case in CASES if isinstance(case.solver, FixedStepSolver))
STOCHASTIC = tuple(case for case in FIXED if case.solver.stochastic)
SLOW = ("torchsde:", "drift_implicit", "skencarp")  # a millisecond a step, or several: fewer of everything


def is_slow(case: Case) -> bool:
    return case.name.startswith(SLOW)


def label(value: object) -> str:
    """A parameter as a test's name, without addresses: workers side by side must call a test the same."""
    return re.sub(r" at 0x[0-9a-f]+", "", str(value))


def few_dimensions(test: Callable[..., None]) -> Callable[..., None]:
    """Langevin warns of its bias below 16 dimensions; a test that checks bits or counts may ignore it."""
    import pytest

    return pytest.mark.filterwarnings("ignore:the Langevin corrector:UserWarning")(test)


def dynamics_for(solver: Solver, model: sk.ScoreModel) -> sk.ReverseSDE | sk.ProbabilityFlow:
    return sk.ReverseSDE(model) if solver.stochastic else sk.ProbabilityFlow(model)


# Noise by hand -----------------------------------------------------------------------------------------------------


class FinePath:
    """Brownian paths on a fine grid over [0, 1]: a noise function whose coarse increments are sums of the fine ones.

    The call for (t, s) gives (W(s) - W(t))/sqrt|s - t|; with `levy`, a second call for the same step gives
    H/sqrt(h/12), H = (1/h) int (W(r) - W(t) - (r - t)/h dW) dr, of the piecewise linear path.
    """

    def __init__(self, shape: tuple[int, ...], fine: int, seed: int, *, levy: bool = False) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.fine, self.levy = fine, levy
        steps = torch.randn(fine, *shape, generator=generator, dtype=torch.float64) / math.sqrt(fine)
        self.w = torch.cat([torch.zeros(1, *shape, dtype=torch.float64), steps.cumsum(0)])
        areas = 0.5 * (self.w[:-1] + self.w[1:]) / fine
        # The fine cells have a bridge of their own: int over a cell = trapezium + N(0, h^3/12).
        own = torch.randn(fine, *shape, generator=generator, dtype=torch.float64) * (1 / fine) ** 1.5 / math.sqrt(12)
        self.area = torch.cat([torch.zeros(1, *shape, dtype=torch.float64), (areas + own).cumsum(0)])
        self._waiting: tuple[float, float] | None = None

    def __call__(self, t: float, s: float, shape: tuple[int, ...]) -> Tensor:
        i, j = round(t * self.fine), round(s * self.fine)
        h = abs(s - t)
        dw = self.w[j] - self.w[i]
        if self.levy and self._waiting == (t, s):
            self._waiting = None
            mean = (self.area[j] - self.area[i]) / (s - t) - self.w[i]  # (1/h) int (W(r) - W(t)) dr
            return ((mean - 0.5 * dw) / math.sqrt(h / 12)).reshape(shape)
        self._waiting = (t, s)
        return (dw / math.sqrt(h)).reshape(shape)


class Impulses:
    """Noise for a batch that reads off an affine sampler: in draw k only row k + 2 is 1, all else is 0.

    With x_T = 0, 1, 0, 0, … the ends are m, m + A and m + C_k: the sampler maps N(mu, v) to exactly
    N(m + A mu, A^2 v + sum_k C_k^2).
    """

    def __init__(self) -> None:
        self.draws = 0

    def __call__(self, t: float, s: float, shape: tuple[int, ...]) -> Tensor:
        z = torch.zeros(shape, dtype=torch.float64)
        z[self.draws + 2] = 1.0
        self.draws += 1
        return z


def end_moments(
    case: Case, model: sk.ScoreModel, steps: int, mean: float, variance: float, draws_per_step: int = 1, **kwargs: Any
) -> tuple[float, float]:
    """Exact mean and variance at the end of an affine sampler started from N(mean, variance); no Monte Carlo."""
    rows = 2 + draws_per_step * steps
    x = torch.zeros(rows, 1, dtype=torch.float64)
    x[1] = 1.0
    impulses = Impulses()
    noise = {"noise": impulses} if case.solver.stochastic else {}
    end = sk.sample(model, None, case.name, steps, x_T=x, **noise, **{**case.options, **kwargs}).x[:, 0]
    if case.solver.stochastic and impulses.draws != draws_per_step * steps:
        raise ValueError(f"{case} drew {impulses.draws} times in {steps} steps.")
    m, a, c = float(end[0]), float(end[1] - end[0]), end[2:] - end[0]
    return m + a * mean, a**2 * variance + float(c.square().sum())


def slope(counts: list[int], errors: list[float]) -> float:
    """Minus the least-squares slope of ln error against ln count: the measured order."""
    x = torch.tensor([math.log(n) for n in counts], dtype=torch.float64)
    y = torch.tensor([math.log(e) for e in errors], dtype=torch.float64)
    x = x - x.mean()
    return -float((x * (y - y.mean())).sum() / x.square().sum())
