"""Staged samplers: the table that a formula becomes, churn and restarts, and tables folded into one register."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from _helpers import SDE_IDS, SDES, gaussian_model
from torch import Tensor

import sdekit as sk
from sdekit.errors import ArgumentError
from sdekit.sdes import EDMSDE, VESDE, VPSDE, DiffusionSDE
from sdekit.solvers import Table, Updates
from sdekit.solvers.diffusion.levels import Levels
from sdekit.solvers.diffusion.stages import Line, Stages
from sdekit.solvers.table_folding import single_register

RATIOS = (20.0, 7.5, 3.0, 0.9, 0.3, 0.05)
# Coefficients are made of a few float64 operations.
CLOSE = {"rtol": 1e-12, "atol": 1e-13}


def times_at(sde: DiffusionSDE, *ratios: float) -> Tensor:
    return sde.time_of_sigma_ratio(torch.tensor(ratios, dtype=torch.float64))


def levels_at(sde: DiffusionSDE, *ratios: float) -> Levels:
    return Levels(sde, times_at(sde, *ratios))


def network(x: Tensor, t: Tensor) -> Tensor:
    return torch.tanh(x + 0.3 * t[:, None]) + 0.1 * x


def start(rows: int = 4) -> Tensor:
    return torch.randn(rows, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Draws:
    """Noise that counts itself."""

    def __init__(self) -> None:
        self.times: list[tuple[float, float]] = []
        self.generator = torch.Generator().manual_seed(1)

    def __call__(self, t: float, s: float, shape: tuple[int, ...]) -> Tensor:
        self.times.append((t, s))
        return torch.randn(shape, generator=self.generator, dtype=torch.float64)


# Lines ---------------------------------------------------------------------------------------------------------------


def test_lines_add_subtract_and_scale():
    one, two = torch.ones(3, dtype=torch.float64), torch.full((3,), 2.0, dtype=torch.float64)
    x, m = Line({("x", 0): one}), Line({("m", 0): one})
    column = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    line = 2.0 * x + column * m - 0.5 * (x - m) + x * two
    assert set(line.terms) == {("x", 0), ("m", 0)}
    assert line.terms["x", 0].tolist() == [3.5, 3.5, 3.5]
    assert line.terms["m", 0].tolist() == [1.5, -1.5, 1.0]
    # What a line is made of stays as it was.
    assert x.terms == {("x", 0): one}
    assert one.tolist() == [1, 1, 1]


# A step written by hand ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sde", SDES, ids=SDE_IDS)
def test_the_table_of_a_two_stage_step(sde):
    # u = p x~ + q m_0 at level s;  x~_b = f x~ + g m_0 + k m_1, with columns of any numbers.
    levels = levels_at(sde, *RATIOS)
    p, q, f, g, k = torch.randn(5, len(levels), generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    s = torch.sqrt(levels.a * levels.b)
    step = Stages(levels, "data")
    m0 = step.evaluate(step.x, levels.a)
    m1 = step.evaluate(p * step.x + q * m0, s)
    table = step.table(f * step.x + g * m0 + k * m1)

    assert (table.representation, len(table), table.evaluations) == ("data", 10, 10)
    assert table.ends_step.tolist() == [False, True] * 5
    assert not table.draw.any()
    first, second = slice(0, None, 2), slice(1, None, 2)
    assert table.state.active.tolist() == [False, True] * 5
    assert table.point.active.tolist() == [True, False] * 5
    # The time of the grid itself, to the bit; between, that of the level.
    assert torch.equal(table.t[first], levels.times[:-1])
    assert torch.allclose(table.t[second], sde.time_of_sigma_ratio(s), rtol=1e-12)
    alpha_a, alpha_s, alpha_b = levels.alpha[:-1], sde.alpha(table.t[second]), levels.alpha[1:]
    assert torch.allclose(table.point.x[first], alpha_s * p / alpha_a, **CLOSE)
    assert torch.allclose(table.point.m[first, 0], alpha_s * q, **CLOSE)
    assert torch.allclose(table.state.x[second], alpha_b * f / alpha_a, **CLOSE)
    # The newest value first: m_1 is its own, m_0 the one before.
    assert torch.allclose(table.state.m[second], torch.stack([alpha_b * k, alpha_b * g], 1), **CLOSE)


def test_the_table_of_a_step_with_draws():
    # n = c z_1 belongs to the stage and to the end; z_2 to the end alone.
    levels = levels_at(VPSDE(), *RATIOS)
    s = 0.5 * (levels.a + levels.b)
    step = Stages(levels, "noise")
    m0 = step.evaluate(step.x, levels.a)
    n = 0.3 * step.draw()
    m1 = step.evaluate(step.x + m0 + n, s)
    table = step.table(step.x + m1 + 2.0 * n + 0.7 * step.draw())
    assert table.draw.all()
    assert table.noise_history == 2
    alpha_s, alpha_b = VPSDE().alpha(table.t[1::2]), levels.alpha[1:]
    assert torch.allclose(table.point.z[::2, 0], 0.3 * alpha_s, **CLOSE)
    assert table.point.z[::2, 1].tolist() == [0] * 5
    assert torch.allclose(table.state.z[1::2], torch.stack([0.7 * alpha_b, 0.6 * alpha_b], 1), **CLOSE)


def test_a_draw_between_stages_is_made_once():
    levels = levels_at(VPSDE(), *RATIOS)
    step = Stages(levels, "noise")
    m0 = step.evaluate(step.x, levels.a)
    m1 = step.evaluate(step.x + m0 + step.draw(), levels.b)
    table = step.table(step.x + m1)
    assert table.draw.tolist() == [True, False] * 5


def test_a_stage_at_the_steps_end_is_at_the_grids_own_time():
    sde = VESDE()
    levels = levels_at(sde, *RATIOS)
    table = sk.solvers.Heun().table(sde, levels.times)
    assert torch.equal(table.t[1::2], levels.times[1:])
    step = Stages(levels, "noise")
    m0 = step.evaluate(step.x, levels.a)
    m1 = step.evaluate(step.x + m0, levels.b)
    assert torch.equal(step.table(step.x + m0 + m1).t[1::2], levels.times[1:])


@pytest.mark.parametrize("representation", ["noise", "data"])
def test_a_step_to_sigma_0_is_one_evaluation_and_its_denoised_value(representation):
    sde = VPSDE()
    levels = levels_at(sde, *RATIOS, 0.0)
    step = Stages(levels, representation)
    m0 = step.evaluate(step.x, levels.a)
    m1 = step.evaluate(step.x + m0 + step.draw(), torch.sqrt(levels.a * levels.b))
    table = step.table(step.x + m0 + m1 + step.draw())
    assert (len(table), table.evaluations) == (11, 11)
    assert table.ends_step.tolist() == [False, True] * 5 + [True]
    assert table.draw.tolist() == [True] * 10 + [False]
    assert table.state.z[-1].tolist() == [0, 0]
    assert float(table.t[-1]) == float(levels.times[-2])
    # alpha_b D, with D = x~ - a eps in noise prediction.
    a, alpha_a = RATIOS[-1], float(levels.alpha[-2])
    if representation == "data":
        assert (float(table.state.x[-1]), table.state.m[-1].tolist()) == (0.0, [1.0, 0.0])
    else:
        assert float(table.state.x[-1]) == pytest.approx(1 / alpha_a, rel=1e-14)
        assert table.state.m[-1].tolist() == pytest.approx([-a, 0], rel=1e-12)


@pytest.mark.parametrize("name", ["heun", "dpm_solver_2", "dpm_solver_3", "dpmpp_2s", "seeds_2", "edm", "dpmpp_sde"])
def test_the_last_state_of_a_solve_to_sigma_0_is_the_denoised_one(name):
    model, seen = sk.ScoreModel(network, EDMSDE()), []
    solver = sk.solvers.get(name)

    def look(info):
        if info.step == info.steps - 1:
            seen.append(info.x.clone())

    noise = {"noise": Draws()} if solver.stochastic else {}
    out = sk.sample(model, None, solver, grid=[3.0, 0.9, 0.02, 0.0], x_T=start(), callback=look, **noise)
    # No level of edm's is churned below s_tmin = 0.05.
    assert torch.allclose(out.x, model.denoised(seen[0], 0.02), rtol=1e-11, atol=1e-12)


def test_a_step_whose_restart_is_told_apart_ends_no_step():
    levels = levels_at(VPSDE(), *RATIOS)
    step = Stages(levels, "noise")
    m0 = step.evaluate(step.x, levels.a)
    ends = torch.tensor([True, False, True, False, True])
    table = step.table(step.x + m0, ends_step=ends)
    assert table.ends_step.tolist() == ends.tolist()
    assert table.state.active.all()  # the state moves all the same


# Churn ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sde", SDES, ids=SDE_IDS)
def test_a_lifted_row_draws_and_does_not_evaluate(sde):
    levels = levels_at(sde, *RATIOS)
    lifted = levels.a * torch.tensor([1.0, 1.2, 1.0, 1.5, 1.1], dtype=torch.float64)
    step = Stages(levels, "noise", lifted=lifted, s_noise=1.007)
    e0 = step.evaluate(step.x, lifted)
    table = step.table(step.x + (levels.b - lifted) * e0)
    lifts = [False, True, False, True, True]
    rows = [row for up in lifts for row in (["lift"] if up else []) + ["step"]]
    assert table.evaluates.tolist() == [row == "step" for row in rows]
    assert table.draw.tolist() == [row == "lift" for row in rows]
    assert table.ends_step.tolist() == [row == "step" for row in rows]
    assert table.evaluations == 5
    up = ~table.evaluates
    # From the grid's time to the lifted level's; x = alpha x~ grows as alpha falls.
    assert torch.equal(table.t[up], levels.times[:-1][lifts])
    high = sde.time_of_sigma_ratio(lifted)
    assert torch.allclose(table.t[~up], high, rtol=1e-12)
    alpha = sde.alpha(high)[lifts]
    assert torch.allclose(table.state.x[up], alpha / levels.alpha[:-1][lifts], **CLOSE)
    added = 1.007 * alpha * torch.sqrt(lifted.square() - levels.a.square())[lifts]
    assert torch.allclose(table.state.z[up, 0], added, **CLOSE)
    assert table.state.m[up].eq(0).all()
    assert table.state.z[~up].eq(0).all()
    # A step from a lifted level is the plain step from there.
    expected = levels.alpha[1:] * (levels.b - lifted)
    assert torch.allclose(table.state.m[~up, 0], expected, **CLOSE)


def test_churn_keeps_the_marginal():
    # On N(0, s^2): a lift takes the variance alpha_a^2 (s^2 + a^2) to alpha^2 (s^2 + lifted^2).
    sde, s = VPSDE(), 0.7
    levels = levels_at(sde, *RATIOS)
    lifted = 1.3 * levels.a
    step = Stages(levels, "noise", lifted=lifted)
    table = step.table(step.x + (levels.b - lifted) * step.evaluate(step.x, lifted))
    up = ~table.evaluates
    before = levels.alpha[:-1].square() * (s**2 + levels.a.square())
    after = table.state.x[up].square() * before + table.state.z[up, 0].square()
    assert torch.allclose(after, sde.alpha(table.t[~up]).square() * (s**2 + lifted.square()), rtol=1e-12)


GRID = [80.0, 50.0, 30.0, 5.0, 1.0, 0.05, 0.01, 0.0]


@pytest.mark.parametrize(
    ("low", "high", "churned"),
    [
        (0.05, 50.0, [50.0, 30.0, 5.0, 1.0, 0.05]),  # both ends are inside
        (0.06, 49.0, [30.0, 5.0, 1.0]),
        (0.0, math.inf, [50.0, 30.0, 5.0, 1.0, 0.05, 0.01]),  # not at T, above which there is nothing
        (2.0, 4.0, []),
    ],
)
def test_edm_churns_between_s_tmin_and_s_tmax(low, high, churned):
    draws = Draws()
    model = sk.ScoreModel(network, EDMSDE())
    out = sk.sample(model, None, "edm", grid=GRID, x_T=80 * start(), noise=draws, s_tmin=low, s_tmax=high)
    assert [t for t, _ in draws.times] == churned
    assert out.nfe == 2 * 6 + 1
    # Each draw is for the path up, by 1 + gamma; gamma = sqrt(2) - 1 since 40/7 is more.
    assert [s for _, s in draws.times] == pytest.approx([min(80.0, math.sqrt(2) * t) for t in churned], rel=1e-12)


def test_edms_gamma_is_the_overall_churn_over_the_steps():
    draws = Draws()
    model = sk.ScoreModel(network, EDMSDE())
    sk.sample(model, None, "edm", grid=GRID, x_T=80 * start(), noise=draws, s_churn=1.4)
    assert [s / t for t, s in draws.times] == pytest.approx([1.2] * 5, rel=1e-12)


def test_edm_with_noise_of_no_size_is_heun_from_higher_levels():
    # s_noise = 0: nothing is added, but the step starts from the level above, as algorithm 2 says.
    model, x = sk.ScoreModel(network, EDMSDE()), start()
    grid = [3.0, 1.0, 0.3]
    got = sk.sample(model, None, "edm", grid=grid, x_T=x, noise=Draws(), s_churn=0.4, s_noise=0.0).x

    def slope(y: Tensor, sigma: float) -> Tensor:
        return network(y, torch.full((len(y),), sigma, dtype=y.dtype))

    for a, b in itertools.pairwise(grid):
        high = 1.2 * a
        e0 = slope(x, high)
        x = x + (b - high) * 0.5 * (e0 + slope(x + (b - high) * e0, b))
    assert torch.allclose(got, x, rtol=1e-12, atol=1e-13)


# Restart and PNDM ----------------------------------------------------------------------------------------------------


def test_restart_makes_the_papers_43_evaluations():
    # 17 Heun steps and Euler's to 0: 35. Two restarts of two Heun steps: 8 more.
    model = gaussian_model(EDMSDE(), 0.3, 0.5, shape=(16,))
    draws = Draws()
    out = sk.sample(model, 4, "restart", 18, t_end=0.0, seed=0, dtype=torch.float64)
    assert (out.nfe, model.network.calls) == (43, 43)
    assert len(out.times) == 19
    sk.sample(model, None, "restart", 18, t_end=0.0, x_T=80 * torch.randn(2, 16).double(), noise=draws)
    assert len(draws.times) == 2  # a draw for each restart


@pytest.mark.parametrize(("repeats", "inner"), [(1, 1), (3, 4)])
def test_restart_repeats_as_often_as_it_says(repeats, inner):
    model = gaussian_model(EDMSDE(), shape=(4,))
    # A level within a tenth of s_min = 0.14 is taken for it; otherwise the step that crosses it is made in two.
    for grid, steps in (([80.0, 21.0, 4.0, 0.9, 0.145, 0.02], 5), ([80.0, 21.0, 4.0, 0.9, 0.02], 4 + 1)):
        draws = Draws()
        how = {"repeats": repeats, "restart_steps": inner, "noise": draws, "trajectory": True}
        out = sk.sample(model, 2, "restart", grid=grid, x_T=80 * torch.randn(2, 4).double(), **how)
        assert out.nfe == 2 * steps + 2 * repeats * inner
        assert len(draws.times) == repeats
        assert out.trajectory_times.tolist() == grid  # the user's steps, whatever was between


@pytest.mark.parametrize("levels", [{"s_min": 1e-4}, {"s_min": 0.1, "s_max": 90.0}, {"s_min": 100.0, "s_max": 200.0}])
def test_restart_outside_the_solve_is_refused(levels):
    model = gaussian_model(EDMSDE(), shape=(4,))
    with pytest.raises(ArgumentError, match=r"s_min = .* but the solve runs from sigma/alpha = 80 to 0\.002"):
        sk.sample(model, 2, "restart", 10, seed=0, **levels)
    assert model.network.calls == 0


def test_restart_with_s_max_below_s_min_is_refused():
    with pytest.raises(ArgumentError, match="s_max must be above s_min"):
        sk.solvers.get("restart", s_min=0.3, s_max=0.2)


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 10])
@pytest.mark.parametrize("end", [None, 0.0])
def test_pndm_makes_four_evaluations_in_each_of_three_steps_and_one_in_the_others(steps, end):
    model = gaussian_model(VPSDE(), shape=(2,))
    out = sk.sample(model, 2, "pndm", steps, seed=0, t_end=end)
    runge_kutta = min(3, steps if end is None else steps - 1)  # the step to sigma = 0 is DDIM's
    assert out.nfe == model.network.calls == 4 * runge_kutta + steps - runge_kutta
    if steps >= 4:
        assert out.nfe == 12 + steps - 3


# One register --------------------------------------------------------------------------------------------------------


def read(table: Table, model: sk.ScoreModel, x: Tensor, z: list[Tensor]) -> Tensor:
    """The table's meaning, row by row."""
    at, values, drawn, left = x, [], [], list(z)

    def moved(updates: Updates, row: int, base: Tensor) -> Tensor:
        total = updates.x[row] * base
        for weights, terms in ((updates.m[row], values), (updates.z[row], drawn)):
            for weight, term in zip(weights, terms, strict=False):
                total = total + weight * term
        return total

    for i in range(len(table)):
        values.insert(0, model.predict(table.representation, at, table.t[i]))
        if table.draw[i]:
            drawn.insert(0, left.pop(0))
        if table.state.active[i]:
            x = moved(table.state, i, x)
        at = moved(table.point, i, x) if table.point.active[i] else x
    return at


CORRECTED = [
    ("unipc", {"p": 1}),
    ("unipc", {"p": 2}),
    ("unipc", {"p": 3, "prediction": "noise"}),
    ("sa_solver", {"sigma_low": 0.0, "sigma_high": 1e9}),
    ("sa_solver", {}),
    ("sa_solver", {"predictor": 3, "corrector": 1}),
    ("adams", {}),
    ("adams", {"representation": "data", "clock": "theta", "predictor": 2, "corrector": 3, "tau": 0.6}),
    ("adams", {"representation": "noise", "clock": "sigma^0.5", "predictor": 4, "corrector": 2}),
]
CORRECTED_IDS = [f"{name}-{'-'.join(map(str, options.values()))}" for name, options in CORRECTED]


@pytest.mark.parametrize(("name", "options"), CORRECTED, ids=CORRECTED_IDS)
def test_a_predictor_corrector_needs_one_register(name, options):
    sde = VPSDE()
    times = times_at(sde, *RATIOS, *(r / 3 for r in RATIOS[-1:]))
    table = sk.solvers.get(name, **options).table(sde, times)
    assert table.point.active.tolist() == [True] * (len(table) - 1) + [False]
    folded = single_register(table)
    assert not folded.point.active.any()
    assert folded.is_multistep
    # The predictor's values reach one further back, seen from the next row.
    used = [int(m.ne(0).any(0).nonzero().max()) + 1 for m in (table.state.m, table.point.m)]
    assert folded.history == max(used[0], used[1] + 1)
    model, x = sk.ScoreModel(network, sde), start()
    z = [
        torch.randn(x.shape, generator=torch.Generator().manual_seed(i), dtype=torch.float64) for i in range(len(table))
    ]
    a, b = read(table, model, x, z), read(folded, model, x, z)
    assert torch.allclose(b, a, rtol=1e-11, atol=1e-11 * float(a.abs().max()))


@pytest.mark.parametrize("tau", [0.3, 1.0])
def test_the_noise_that_predictor_and_corrector_share_cancels(tau):
    # The corrected state has the same z as the predicted point: from that point on, only the row's own draw is new.
    table = sk.solvers.get("sa_solver", tau=tau).table(VPSDE(), times_at(VPSDE(), *RATIOS))
    assert table.noise_history == 2
    folded = single_register(table)
    assert folded.noise_history == 1
    # z of the folded row is that of the predictor.
    assert torch.equal(folded.state.z[:-1, 0], table.point.z[:-1, 0])


@pytest.mark.parametrize("name", ["ddim", "dpmpp_2m", "heun", "seeds_2", "edm"])
def test_other_tables_stay_as_they_are(name):
    table = sk.solvers.get(name).table(VPSDE(), times_at(VPSDE(), *RATIOS))
    assert single_register(table) is table
