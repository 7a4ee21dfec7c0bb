"""Tables: each sampler's one step against its published formula, the identities between samplers, and the executor."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from _helpers import SDE_IDS, SDES, gaussian_model
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp
from torch import Tensor

import sdekit as sk
from sdekit.errors import ArgumentError, UnknownNameError, UnsupportedError
from sdekit.models.predictions import Prediction, conversion
from sdekit.noise import KeyedNoise
from sdekit.sdes import EDMSDE, VESDE, VPSDE, DiffusionSDE
from sdekit.solvers import EulerMaruyama, Observers, Problem, StepSolver, Table, TableSolver, Updates
from sdekit.solvers.diffusion.base import Transition
from sdekit.solvers.step import StepStepper

# Rounding: some tens of float64 operations on numbers of about 1.
CLOSE = {"rtol": 1e-11, "atol": 1e-11}
PREDICTIONS = ("noise", "data", "score", "v", "velocity")


def network(x: Tensor, t: Tensor) -> Tensor:
    """Nonlinear in x, and different at every time: it shows where it was evaluated."""
    return torch.tanh(x + 0.3 * t[:, None]) + 0.1 * x


def eps(x: Tensor, t: float) -> Tensor:
    return network(x, torch.full((len(x),), t, dtype=x.dtype))


def start(seed: int = 0, rows: int = 5) -> Tensor:
    return torch.randn(rows, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def stepped(sde: DiffusionSDE, times: list[float], solver: str, z: list[Tensor] | None = None, **options) -> Tensor:
    """The end of a solve over these times, with these draws."""
    draws = iter(z or [])
    noise = {} if z is None else {"noise": lambda t, s, shape: next(draws)}
    x = sk.sample(sk.ScoreModel(network, sde), None, solver, grid=times, x_T=start(), **noise, **options).x
    assert next(draws, None) is None
    return x


# One step against the published formula ----------------------------------------------------------------------------

T, S = 0.7, 0.45
Z = start(1)


def vp_abar(t: float) -> float:
    """exp(-int beta), beta from 0.1 to 20 linearly."""
    return math.exp(-(0.1 * t + 19.9 * t**2 / 2))


def ve_sigma(t: float) -> float:
    return 0.01 * 5000.0**t


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim(eta):
    # Song, Meng & Ermon 2021, eq. 12 and 16, with their alpha_t the cumulative product, here abar.
    now, then, x, e = vp_abar(T), vp_abar(S), start(), eps(start(), T)
    v = eta * math.sqrt((1 - then) / (1 - now)) * math.sqrt(1 - now / then)
    expected = math.sqrt(then) * (x - math.sqrt(1 - now) * e) / math.sqrt(now) + math.sqrt(1 - then - v**2) * e + v * Z
    got = stepped(VPSDE(), [T, S], "ddim", [Z] if eta else None, eta=eta)
    assert torch.allclose(got, expected, **CLOSE)


def test_ancestral_vp_is_ddpm_and_songs_predictor():
    x, e = start(), eps(start(), T)
    beta = 1 - vp_abar(T) / vp_abar(S)  # of the discrete step
    score = -e / math.sqrt(1 - vp_abar(T))
    mean = (x + beta * score) / math.sqrt(1 - beta)  # Ho et al. 2020, eq. 11; Song et al. 2021, eq. 4
    posterior = (1 - vp_abar(S)) / (1 - vp_abar(T)) * beta  # Ho et al. 2020, eq. 7
    assert torch.allclose(stepped(VPSDE(), [T, S], "ancestral", [Z]), mean + math.sqrt(posterior) * Z, **CLOSE)
    got = stepped(VPSDE(), [T, S], "ancestral", [Z], variance="forward")
    assert torch.allclose(got, mean + math.sqrt(beta) * Z, **CLOSE)


def test_ancestral_ve():
    # Song et al. 2021, eq. 47 (appendix F).
    x, a2, b2 = start(), ve_sigma(T) ** 2, ve_sigma(S) ** 2
    score = -eps(x, T) / math.sqrt(a2)
    expected = x + (a2 - b2) * score + math.sqrt(b2 * (a2 - b2) / a2) * Z
    assert torch.allclose(stepped(VESDE(), [T, S], "ancestral", [Z]), expected, **CLOSE)


def test_reverse_diffusion():
    # Song et al. 2021, eq. 46 and algorithms 2 and 3.
    x, e = start(), eps(start(), T)
    beta = 1 - vp_abar(T) / vp_abar(S)
    score = -e / math.sqrt(1 - vp_abar(T))
    expected = (2 - math.sqrt(1 - beta)) * x + beta * score + math.sqrt(beta) * Z
    assert torch.allclose(stepped(VPSDE(), [T, S], "reverse_diffusion", [Z]), expected, **CLOSE)
    a2, b2 = ve_sigma(T) ** 2, ve_sigma(S) ** 2
    expected = x + (a2 - b2) * (-e / math.sqrt(a2)) + math.sqrt(a2 - b2) * Z
    assert torch.allclose(stepped(VESDE(), [T, S], "reverse_diffusion", [Z]), expected, **CLOSE)


def test_euler_maruyama():
    # dx = [f x - g^2 s] dt + g dW with dt < 0, Song et al. 2021, eq. 6.
    x, dt = start(), S - T
    beta = 0.1 + 19.9 * T
    score = -eps(x, T) / math.sqrt(1 - vp_abar(T))
    expected = x + (-0.5 * beta * x - beta * score) * dt + math.sqrt(beta) * math.sqrt(-dt) * Z
    assert torch.allclose(stepped(VPSDE(), [T, S], "euler_maruyama", [Z]), expected, **CLOSE)
    g2 = 2 * math.log(5000.0) * ve_sigma(T) ** 2
    expected = x - g2 * (-eps(x, T) / ve_sigma(T)) * dt + math.sqrt(g2 * -dt) * Z
    assert torch.allclose(stepped(VESDE(), [T, S], "euler_maruyama", [Z]), expected, **CLOSE)


def test_heun_is_algorithm_1_of_edm():
    # Karras et al. 2022, algorithm 1 with sigma(t) = t, s(t) = 1; the last step, to sigma = 0, is Euler's.
    sigmas = [10.0, 4.0, 1.0, 0.0]

    def slope(x: Tensor, sigma: float) -> Tensor:
        denoised = x - sigma * eps(x, sigma)
        return (x - denoised) / sigma

    x = start()
    for a, b in itertools.pairwise(sigmas):
        d = slope(x, a)
        y = x + (b - a) * d
        x = x + (b - a) * 0.5 * (d + slope(y, b)) if b > 0 else y
    assert torch.allclose(stepped(EDMSDE(), sigmas, "heun"), x, **CLOSE)


def test_euler_and_rk4_in_sigma():
    # dx/dsigma = eps for sigma(t) = t, s(t) = 1.
    x, a, h = start(), 10.0, -6.0
    assert torch.allclose(stepped(EDMSDE(), [a, a + h], "euler"), x + h * eps(x, a), **CLOSE)
    k1 = eps(x, a)
    k2 = eps(x + h / 2 * k1, a + h / 2)
    k3 = eps(x + h / 2 * k2, a + h / 2)
    k4 = eps(x + h * k3, a + h)
    expected = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    assert torch.allclose(stepped(EDMSDE(), [a, a + h], "rk4"), expected, **CLOSE)


def test_euler_heun_and_rk4_in_t():
    # dx/dt = f x - g^2 s/2, Song et al. 2021, eq. 13, for VP.
    def flow(x: Tensor, t: float) -> Tensor:
        beta = 0.1 + 19.9 * t
        return -0.5 * beta * x + 0.5 * beta * eps(x, t) / math.sqrt(1 - vp_abar(t))

    x, h, middle = start(), S - T, 0.5 * (S + T)
    k1 = flow(x, T)
    assert torch.allclose(stepped(VPSDE(), [T, S], "euler", variable="t"), x + h * k1, **CLOSE)
    heun = x + h / 2 * (k1 + flow(x + h * k1, S))
    assert torch.allclose(stepped(VPSDE(), [T, S], "heun", variable="t"), heun, **CLOSE)
    k2 = flow(x + h / 2 * k1, middle)
    k3 = flow(x + h / 2 * k2, middle)
    k4 = flow(x + h * k3, S)
    expected = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    assert torch.allclose(stepped(VPSDE(), [T, S], "rk4", variable="t"), expected, **CLOSE)


# Identities --------------------------------------------------------------------------------------------------------


def sampled(sde: DiffusionSDE, solver: str, steps: int = 9, grid: str = "quadratic", **options) -> Tensor:
    model = sk.ScoreModel(network, sde)
    noise = KeyedNoise(3) if sk.solvers.get(solver, **options).stochastic else None
    return sk.sample(model, None, solver, steps, grid=grid, x_T=start(), noise=noise, **options).x


@pytest.mark.parametrize("sde", SDES, ids=SDE_IDS)
def test_ddim_with_eta_1_is_ancestral(sde):
    a, b = sampled(sde, "ddim", eta=1.0), sampled(sde, "ancestral")
    assert torch.allclose(a, b, rtol=1e-9, atol=1e-9 * float(a.abs().max()))  # 1 - shrink cancels in both, differently


@pytest.mark.parametrize("sde", SDES, ids=SDE_IDS)
def test_ddim_is_euler_in_sigma(sde):
    a, b = sampled(sde, "ddim"), sampled(sde, "euler", variable="sigma")
    assert torch.allclose(a, b, rtol=1e-10, atol=1e-10 * float(a.abs().max()))


@pytest.mark.parametrize("sde", SDES, ids=SDE_IDS)
def test_ancestral_is_the_first_order_exponential_step_with_tau_1(sde):
    # x~_b = r x~_a + (1 - r) D + b sqrt(1 - e^{-2h}) z, h = ln(a/b), r = e^{-2h} = (b/a)^2.
    t, s = 0.7 * sde.t_max, 0.3 * sde.t_max
    ends = torch.tensor([t, s], dtype=torch.float64)
    (alpha_a, alpha_b), (a, b) = sde.alpha(ends), sde.sigma_ratio(ends)
    x = start()
    denoised = (x - a * alpha_a * eps(x, t)) / alpha_a
    r = (b / a) ** 2
    expected = alpha_b * (r * x / alpha_a + (1 - r) * denoised + b * torch.sqrt(1 - r) * Z)
    assert torch.allclose(stepped(sde, [t, s], "ancestral", [Z]), expected, **CLOSE)


@pytest.mark.parametrize("sde", SDES, ids=SDE_IDS)
def test_a_transition_is_the_forward_sde(sde):
    # Composition: over a step x_a | x_0 is x_b | x_0 moved on; and the moments obey m' = f m, v' = 2 f v + g^2.
    times = torch.linspace(0.9, 0.1, 5, dtype=torch.float64) * sde.t_max
    step = Transition(sde, times)
    assert torch.allclose(step.mean * sde.alpha(times[1:]), sde.alpha(times[:-1]), rtol=1e-12)
    whole = step.mean.square() * sde.sigma(times[1:]).square() + step.variance
    assert torch.allclose(whole, sde.sigma(times[:-1]).square(), rtol=1e-12)

    def moments(t, y):
        f, g = float(sde.drift_coefficient(t)), float(sde.diffusion_coefficient(t))
        return [f * y[0], 2 * f * y[1] + g**2]

    for k in range(4):
        ends = (float(times[k + 1]), float(times[k]))
        m, v = solve_ivp(moments, ends, [1.0, 0.0], rtol=1e-10, atol=1e-14).y[:, -1]
        assert float(step.mean[k]) == pytest.approx(m, rel=1e-7)  # what the integration is good to
        assert float(step.variance[k]) == pytest.approx(v, rel=1e-7)
    # The posterior of x_b given x_a and x_0: precisions add.
    precision = 1 / sde.sigma(times[1:]).square() + step.mean.square() / step.variance
    assert torch.allclose(step.posterior_std.square(), 1 / precision, rtol=1e-10)


class _ByStep(StepSolver):
    """Euler-Maruyama by its step formula, whatever the dynamics."""

    name, kind, reference, stochastic = "by_step", "step", "", True

    def step_formula(self, dynamics, x, t, s, h, noise):
        return EulerMaruyama().step_formula(dynamics, x, t, s, h, noise)


@pytest.mark.parametrize("tau", [1.0, 0.4, 2.0])
@pytest.mark.parametrize("sde", SDES, ids=SDE_IDS)
def test_euler_maruyama_by_table_and_by_step_agree(sde, tau):
    dynamics = sk.ReverseSDE(sk.ScoreModel(network, sde), tau)
    span = {"t0": 0.8 * sde.t_max, "t1": 0.05 * sde.t_max, "steps": 20, "seed": 5}
    table = sk.solve(dynamics, start(), solver="euler_maruyama", **span)
    step = sk.solve(dynamics, start(), solver=_ByStep(), **span)
    assert isinstance(_ByStep().stepper(Problem(dynamics, start(), table.times, KeyedNoise(5))), StepStepper)
    assert table.nfe == step.nfe == 20
    # 20 steps of rounding, amplified by the flow's largest coefficient.
    assert torch.allclose(table.x, step.x, rtol=1e-9, atol=1e-10 * float(step.x.abs().max()))


@pytest.mark.parametrize("sde", SDES, ids=SDE_IDS)
@pytest.mark.parametrize("name", ["euler", "heun", "rk4"])
def test_runge_kutta_by_table_and_by_step_agree(name, sde):
    model = sk.ScoreModel(network, sde)
    flow = sk.ODE(lambda x, t: model.velocity(x, t))  # the same dynamics, seen only as a function
    span = {"t0": 0.8 * sde.t_max, "t1": 0.05 * sde.t_max, "steps": 12, "grid": "uniform"}
    by_step = sk.solve(flow, start(), solver=name, **span).x
    by_table = sk.solve(sk.ProbabilityFlow(model), start(), solver=name, variable="t", **span).x
    assert torch.allclose(by_table, by_step, rtol=1e-9, atol=1e-10 * float(by_step.abs().max()))


@pytest.mark.parametrize("sde", SDES, ids=SDE_IDS)
@pytest.mark.parametrize("solver", ["ddim", "ancestral", "euler_maruyama", "heun", "rk4"])
def test_what_the_network_predicts_makes_no_difference(solver, sde):
    model = gaussian_model(sde, 0.3, 0.6)

    def asked(prediction: Prediction) -> sk.ScoreModel:
        return sk.ScoreModel(lambda x, t: model.predict(prediction, x, t), sde, prediction)

    grid = [0.9 * sde.t_max, 0.5 * sde.t_max, 0.1 * sde.t_max]
    noise = KeyedNoise(1) if sk.solvers.get(solver).stochastic else None
    ends = [sk.sample(asked(p), None, solver, grid=grid, x_T=start(), noise=noise).x for p in PREDICTIONS]
    for end in ends[1:]:
        assert torch.allclose(end, ends[0], rtol=1e-8, atol=1e-8)  # conversions through 1/sigma and back


# The executor against a plain reading of the table -----------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class Fixed(TableSolver):
    """A solver whose table is given."""

    given: Table

    name, reference = "fixed", ""

    @property
    def stochastic(self) -> bool:
        return bool(self.given.draw.any())

    def table(self, sde: DiffusionSDE, times: Tensor) -> Table:
        return self.given


def read(table: Table, model: sk.ScoreModel, x: Tensor, noise: Callable[[int], Tensor]) -> Tensor:
    """The table's meaning, row by row, with every value and draw kept."""
    at, values, drawn = x, [], []
    for i in range(len(table)):
        if table.evaluates[i]:
            values.insert(0, model.predict(table.representation, at, table.t[i]))
        if table.draw[i]:
            drawn.insert(0, noise(len(drawn)))

        def updated(updates: Updates, base: Tensor, i: int = i) -> Tensor:
            terms = [m * v for m, v in zip(updates.m[i], values, strict=False)]
            terms += [c * z for c, z in zip(updates.z[i], drawn, strict=False)]
            return updates.x[i] * base + sum(terms)

        if table.state.active[i]:
            x = updated(table.state, x)
        at = updated(table.point, x) if table.point.active[i] else x
    return at


@st.composite
def tables(draw: st.DrawFn) -> tuple[Table, Tensor]:
    """A random table of a few steps with its grid."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))

    def numbers(*shape: int) -> Tensor:
        # Not small ones alone: exact zeros are skipped by the executor, and must be.
        values = torch.randn(shape, generator=generator, dtype=torch.float64)
        return values * (torch.rand(shape, generator=generator) > 0.2)

    def flags(n: int) -> Tensor:
        return torch.rand(n, generator=generator) > 0.5

    steps = draw(st.integers(1, 6))
    rows_of = [draw(st.integers(1, 3)) for _ in range(steps)]
    rows = sum(rows_of)
    ends = torch.zeros(rows, dtype=torch.bool)
    ends[torch.tensor(rows_of).cumsum(0) - 1] = True
    history = draw(st.integers(1, 4))
    noise = draw(st.sampled_from(["none", "every row", "some rows"]))
    depth = 0 if noise == "none" else draw(st.integers(1, 3))
    drawing = {"none": torch.zeros(rows).bool(), "every row": torch.ones(rows).bool(), "some rows": flags(rows)}[noise]
    if noise == "some rows":
        drawing[0] = True

    # Rows that evaluate nothing: none, some, or (a predictor-corrector) none with a point after every row but the last.
    kind = draw(st.sampled_from(["every row evaluates", "some rows evaluate", "predictor-corrector"]))
    evaluates = flags(rows) if kind == "some rows evaluate" else torch.ones(rows).bool()
    # What a table looks back to exists: nothing before the first evaluation, nothing before the first draw.
    past = torch.arange(history)[None] < evaluates.cumsum(0)[:, None]
    drawn = torch.arange(depth)[None] < drawing.cumsum(0)[:, None]

    def updates(active: Tensor) -> Updates:
        return Updates(numbers(rows), numbers(rows, history) * past, numbers(rows, depth) * drawn, active)

    state = draw(st.sampled_from([torch.ones(rows).bool(), flags(rows)]))
    point = draw(st.sampled_from([torch.zeros(rows).bool(), flags(rows)]))
    if kind == "predictor-corrector":
        state, point = torch.ones(rows).bool(), torch.arange(rows) < rows - 1
    t = torch.rand(rows, generator=generator, dtype=torch.float64) * 0.8 + 0.1
    representation = draw(st.sampled_from(PREDICTIONS))
    table = Table(representation, t, updates(state), updates(point), drawing, ends, evaluates)
    return table, torch.linspace(1.0, 0.1, steps + 1, dtype=torch.float64)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(case=tables(), prediction=st.sampled_from(PREDICTIONS), watched=st.booleans())
def test_the_executor_does_what_the_table_says(case, prediction, watched):
    table, times = case
    model = sk.ScoreModel(network, VPSDE(), prediction)
    x = start(rows=2)
    stream = KeyedNoise(0).open(tuple(x.shape), purpose="steps", dtype=x.dtype, device=x.device)
    z = [stream.next(0.0, 0.0).clone() for _ in range(int(table.draw.sum()))]
    expected = read(table, model, x, lambda k: z[k])
    solver = Fixed(table)
    dynamics = sk.ReverseSDE(model) if solver.stochastic else sk.ProbabilityFlow(model)
    # Watched, the executor is driven step by step; otherwise over all steps at once.
    out = solver.integrate(Problem(dynamics, x, times, KeyedNoise(0)), Observers(trajectory=watched))
    assert out.nfe == table.evaluations
    assert torch.allclose(out.x, expected, rtol=1e-9, atol=1e-9 * (1 + float(expected.abs().max())))


@pytest.mark.parametrize("solver", [sk.solvers.DDIM(), sk.solvers.Ancestral(), sk.solvers.ReverseDiffusion()], ids=repr)
def test_a_table_through_json(solver):
    times = torch.tensor([1.0, 0.6, 0.1], dtype=torch.float64)
    table = solver.table(VPSDE(), times)
    again = Table.from_dict(json.loads(json.dumps(table.to_dict())))
    assert again.to_dict() == table.to_dict()
    assert again.is_one_step
    assert again.noise_history == int(solver.stochastic)
    model = sk.ScoreModel(network, VPSDE())
    dynamics = sk.ReverseSDE(model) if solver.stochastic else sk.ProbabilityFlow(model)
    problem = Problem(dynamics, start(), times, KeyedNoise(0))
    assert torch.equal(Fixed(again).integrate(problem).x, solver.integrate(problem).x)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(case=tables())
def test_any_table_through_json(case):
    table, _ = case
    again = Table.from_dict(json.loads(json.dumps(table.to_dict())))
    assert again.to_dict() == table.to_dict()
    assert (again.history, again.noise_history, len(again)) == (table.history, table.noise_history, len(table))


def test_a_table_reads_as_formulas():
    table = Table.one_step(
        "noise", torch.tensor([1.0, 0.5]).double(), torch.tensor([2.0]).double(), torch.tensor([-0.25]).double()
    )
    assert str(table) == "table in noise, 1 evaluations\nt = 1:  x <- +2 x -0.25 m"
    stochastic = sk.solvers.Ancestral().table(VPSDE(), torch.tensor([1.0, 0.5, 0.0]).double())
    assert str(stochastic).count("z") == 1  # the last step, to sigma = 0, adds none
    assert len(stochastic) == 2


def test_a_table_that_does_not_fit_is_refused():
    times = torch.tensor([1.0, 0.6, 0.1], dtype=torch.float64)
    table = sk.solvers.DDIM().table(VPSDE(), times)
    model = sk.ScoreModel(network, VPSDE())
    with pytest.raises(ArgumentError, match="ends 2 steps, but the grid has 1"):
        Fixed(table).integrate(Problem(sk.ProbabilityFlow(model), start(), times[:2], KeyedNoise(0)))
    with pytest.raises(ArgumentError, match="last row"):
        replace(table, ends_step=torch.tensor([True, False]))
    with pytest.raises(UnknownNameError, match="'noise'"):
        replace(table, representation="nois")
    with pytest.raises(ArgumentError, match="no noise"):
        table.without_last_noise()


# The last step's noise ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ancestral", "reverse_diffusion", "euler_maruyama", "ddim", "torchsde:euler"])
def test_denoise_mean_is_the_mean_of_the_last_step(name):
    options = {"eta": 1.0} if name == "ddim" else {}
    model = sk.ScoreModel(network, VPSDE())
    given = [start(1), start(2), start(3)]

    def run(z: list[Tensor], **kwargs) -> Tensor:
        draws = iter(z)
        return sk.sample(
            model, None, name, grid=[1.0, 0.6, 0.3, 0.1], x_T=start(), noise=lambda *_: next(draws), **kwargs, **options
        ).x

    mean = run(given, denoise="mean")
    assert torch.allclose(mean, 0.5 * (run(given) + run([*given[:2], -given[2]])), **CLOSE)
    assert torch.equal(mean, run([*given[:2], torch.zeros_like(given[2])]))


def test_a_reverse_table_needs_falling_times_and_tau_1():
    model, x = sk.ScoreModel(network, VPSDE()), start()
    for name in ("ancestral", "reverse_diffusion", "euler_maruyama", "pc", "torchsde:euler"):
        with pytest.raises(UnsupportedError, match="rises"):
            sk.solve(sk.ReverseSDE(model), x, t0=0.1, t1=1.0, solver=name, steps=3)
    for name in ("ancestral", "reverse_diffusion", "pc"):
        with pytest.raises(UnsupportedError, match="tau"):
            sk.solve(sk.ReverseSDE(model, 0.5), x, t0=1.0, t1=0.1, solver=name, steps=3)
    with pytest.raises(UnsupportedError, match="tau"):
        sk.solve(sk.ReverseSDE(model, 0.5), x, t0=1.0, t1=0.1, solver="ddim", eta=1.0, steps=3)


def test_conversion_is_what_the_tables_fold_in():
    # One step of DDIM in another representation, folded by hand: x <- A x + B (p x + q o).
    sde = VPSDE()
    times = torch.tensor([T, S], dtype=torch.float64)
    table = sk.solvers.DDIM().table(sde, times)
    p, q = conversion("v", "noise", sde, times[:1])
    x = start()
    o = network(x, torch.full((5,), T, dtype=torch.float64))
    expected = table.state.x[0] * x + table.state.m[0, 0] * (p * x + q * o)
    got = sk.sample(sk.ScoreModel(network, sde, "v"), None, "ddim", grid=times, x_T=x).x
    assert torch.allclose(got, expected, **CLOSE)
