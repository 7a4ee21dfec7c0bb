"""Grids: strictly monotone for every number of steps, exact at both ends, and where their formulas put them."""

from __future__ import annotations

import math

import pytest
import torch
from _helpers import SDE_IDS, SDES, gaussian_model
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import sdekit as sk
from sdekit import grids
from sdekit.errors import ArgumentError, UnknownNameError, UnsupportedError
from sdekit.grids import Custom, Karras, LogSNR, Power, Quadratic, Uniform, make_grid
from sdekit.sdes import EDMSDE, VPSDE, CustomDiffusionSDE, OrnsteinUhlenbeck

CUSTOM = CustomDiffusionSDE(lambda t: torch.exp(-t.square()), lambda t: torch.sinh(2 * t), t_max=2.0, t_min=1e-3)
FAMILIES = [*SDES, CUSTOM]
IDS = [*SDE_IDS, "custom"]
EVERY_COUNT = [*range(1, 51), 64, 99, 100, 101, 127, 128, 199, 250, 256, 499, 500, 512, 750, 999, 1000]


def _is_a_grid(times: Tensor, steps: int, start: float, end: float) -> None:
    assert times.dtype == torch.float64
    assert times.shape == (steps + 1,)
    assert float(times[0]) == start
    assert float(times[-1]) == end
    gaps = times.diff() if start < end else -times.diff()
    assert bool((gaps > 0).all())


@pytest.mark.parametrize("name", grids.names())
@pytest.mark.parametrize("sde", FAMILIES, ids=IDS)
def test_monotone_and_exact_at_its_ends_for_every_count(sde, name):
    grid = make_grid(name)
    for steps in EVERY_COUNT if sde is not CUSTOM else EVERY_COUNT[::5]:  # its inverse is a bisection
        for end in (sde.t_min, 0.0):
            _is_a_grid(grid.times(sde, steps, sde.t_max, end), steps, sde.t_max, end)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    name=st.sampled_from(grids.names()),
    family=st.integers(0, len(FAMILIES) - 1),
    steps=st.integers(1, 1000),
    ends=st.tuples(*2 * (st.floats(1e-6, 1.0) | st.just(0.0),)),
)
def test_monotone_between_any_two_times_in_either_direction(name, family, steps, ends):
    sde = FAMILIES[family]
    start, end = (e * sde.t_max for e in ends)
    if abs(start - end) < 1e-6 * sde.t_max:  # so close that 1000 places between them may be equal in float64
        return
    times = make_grid(name).times(sde, steps, start, end)
    _is_a_grid(times, steps, start, end)
    assert torch.equal(make_grid(name).times(sde, steps, end, start), times.flip(0))


def test_a_hundred_thousand_steps():
    for name in grids.names():
        _is_a_grid(make_grid(name).times(VPSDE(), 100_000, 1.0, 1e-3), 100_000, 1.0, 1e-3)


# Formulas ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sde", FAMILIES, ids=IDS)
def test_formulas(sde):
    high, low, n = sde.t_max, sde.t_min, 13
    i = torch.arange(n + 1, dtype=torch.float64) / n

    def placed(name: str | grids.Grid) -> Tensor:
        return make_grid(name).times(sde, n, high, low)

    def close(a: Tensor, b: Tensor) -> bool:
        return torch.allclose(a, b, rtol=1e-10, atol=0)  # the inverses of the schedules are good to about 1e-12

    assert close(placed("uniform"), high + i * (low - high))
    assert close(placed("quadratic"), (math.sqrt(high) + i * (math.sqrt(low) - math.sqrt(high))) ** 2)
    assert close(placed(Power(3.0)), (high ** (1 / 3) + i * (low ** (1 / 3) - high ** (1 / 3))) ** 3)
    assert close(placed(Power(1.0)), placed("uniform"))
    assert close(placed(Power(2.0)), placed(Quadratic()))
    snr = sde.log_snr(placed("log_snr"))
    assert torch.allclose(snr.diff(), (snr[-1] - snr[0]).expand(n) / n, rtol=1e-8)
    for rho in (7.0, 3.0):
        root = sde.sigma_ratio(placed(Karras(rho))) ** (1 / rho)
        assert torch.allclose(root.diff(), (root[-1] - root[0]).expand(n) / n, rtol=1e-8)


def test_karras_as_published():
    # Karras et al. 2022, eq. 5 and table 1: N = 18 noise levels from 80 to 0.002 with rho = 7, then 0.
    levels = [(80 ** (1 / 7) + k / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7 for k in range(18)]
    times = make_grid("karras").times(EDMSDE(), 18, 80.0, 0.0)
    assert torch.allclose(times, torch.tensor([*levels, 0.0], dtype=torch.float64), rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", ["karras", "log_snr"])
def test_a_grid_by_noise_level_reaches_sigma_0_from_t_min_in_its_last_step(name):
    sde = VPSDE()
    to_zero, short = make_grid(name).times(sde, 9, 1.0, 0.0), make_grid(name).times(sde, 8, 1.0, sde.t_min)
    assert torch.allclose(to_zero[:-1], short, rtol=1e-12)
    assert float(to_zero[-1]) == 0.0


# Custom grids ------------------------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    values=st.lists(st.floats(0.001, 1.0), min_size=2, max_size=60, unique=True).map(sorted),
    falling=st.booleans(),
    family=st.integers(0, len(FAMILIES) - 1),
)
def test_any_monotone_times_are_a_grid(values, falling, family):
    sde = FAMILIES[family]
    times = [sde.t_max * v for v in (values[::-1] if falling else values)]
    if len(set(times)) < len(times):  # equal after the multiplication
        return
    resolved = make_grid(times).resolve(sde)
    assert resolved.tolist() == times
    assert make_grid(torch.tensor(times, dtype=torch.float64)).resolve(sde).tolist() == times
    assert make_grid(times).times(sde, len(times) - 1, times[0], times[-1]).tolist() == times


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    values=st.lists(st.floats(0.001, 1.0), min_size=2, max_size=10),
    place=st.integers(0, 8),
    bad=st.sampled_from(["repeat", "turn", "nan", "inf"]),
)
def test_times_that_turn_or_repeat_or_are_not_finite_are_refused(values, place, bad):
    times = sorted(set(values), reverse=True)
    if len(times) < 3:
        return
    k = place % (len(times) - 1)
    turned = times[0] + 1 if k else times[-1] - 1
    times.insert(k + 1, {"repeat": times[k], "turn": turned, "nan": math.nan, "inf": -math.inf}[bad])
    with pytest.raises(ArgumentError, match=r"monotone|non-finite"):
        make_grid(times)


@pytest.mark.parametrize("sde", FAMILIES, ids=IDS)
def test_noise_levels_of_the_users_own(sde):
    places = torch.linspace(1.0, 0.05, 7, dtype=torch.float64) * sde.t_max * 0.9
    ratios, snrs = sde.sigma_ratio(places), sde.log_snr(places)
    for grid in (Custom(tuple(ratios.tolist()), "sigmas"), Custom(tuple(snrs.tolist()), "log_snrs")):
        assert grid.fixed_steps == 6
        assert torch.allclose(grid.resolve(sde), places, rtol=1e-8)  # what the schedules' inverses are tested to


def test_sigma_0_is_a_place_like_any_other():
    for values, kind in (((10.0, 1.0, 0.0), "sigmas"), ((-4.0, 0.0, math.inf), "log_snrs")):
        assert float(Custom(values, kind).resolve(EDMSDE())[-1]) == 0.0


def test_the_solve_takes_the_users_grid():
    model = gaussian_model(VPSDE(), shape=(2,))
    times = [1.0, 0.6, 0.55, 0.2, 0.01]
    for grid in (times, torch.tensor(times, dtype=torch.float64), Custom(tuple(times))):
        out = sk.sample(model, 3, "ddim", grid=grid, seed=0)
        assert out.times.tolist() == times
        assert out.t == 0.01
        assert out.nfe == 4
    assert torch.equal(out.x, sk.sample(model, 3, "ddim", steps=4, grid=times, t_start=1.0, t_end=0.01, seed=0).x)


# What is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [0, -3, 2.5, "10", None, True, math.nan], ids=repr)
def test_the_number_of_steps_is_a_positive_integer(steps):
    with pytest.raises(ArgumentError, match="steps"):
        Uniform().times(VPSDE(), steps, 1.0, 0.0)
    with pytest.raises(ArgumentError, match="steps"):
        sk.sample(gaussian_model(VPSDE(), shape=(2,)), 3, "ddim", steps=steps)


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (lambda: make_grid("karas"), UnknownNameError, "did you mean 'karras'"),
        (lambda: make_grid("log-snr"), UnknownNameError, "did you mean 'log_snr'"),
        (lambda: make_grid(5), ArgumentError, "grid must be"),
        (lambda: make_grid(None), ArgumentError, "grid must be"),
        (lambda: make_grid([1.0]), ArgumentError, "at least 2"),
        (lambda: make_grid([]), ArgumentError, "at least 2"),
        (lambda: make_grid([1.0, 0.5, 0.5, 0.1]), ArgumentError, r"times\[1\] = 0.5 and times\[2\] = 0.5"),
        (lambda: make_grid([1.0, 0.5, 0.7, 0.1]), ArgumentError, r"times\[1\] = 0.5 and times\[2\] = 0.7"),
        (lambda: Custom((1.0, 0.5), "sigma"), UnknownNameError, "did you mean 'sigmas'"),
        (lambda: Karras(rho=0.0), ArgumentError, "rho"),
        (lambda: Power(-1.0), ArgumentError, "power"),
        (lambda: Power(math.inf), ArgumentError, "power"),
        (lambda: Uniform().times(VPSDE(), 3, 0.5, 0.5), ArgumentError, "same time"),
        (lambda: Custom((1.0, 0.5)).times(VPSDE(), 2, 1.0, 0.5), ArgumentError, "1 steps, but steps=2"),
        (lambda: Custom((1.0, 0.5)).times(VPSDE(), 1, 1.0, 0.4), ArgumentError, "from 1 to 0.4"),
        (lambda: LogSNR().times(OrnsteinUhlenbeck(), 3, 1.0, 0.5), UnsupportedError, "uniform"),
        (lambda: Karras().times(None, 3, 1.0, 0.5), UnsupportedError, "uniform"),
        (lambda: Custom((3.0, 1.0), "sigmas").resolve(OrnsteinUhlenbeck()), UnsupportedError, "uniform"),
    ],
)
def test_errors(make, error, said):
    with pytest.raises(error, match=said):
        make()


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        ({"grid": [0.1, 0.5, 1.0]}, "must fall"),
        ({"grid": [1.0, 0.5, 0.1], "steps": 3}, "2 steps, but steps=3"),
        ({"grid": [1.0, 0.5, 0.1], "t_end": 0.2}, "ends at t = 0.1"),
        ({"grid": [0.9, 0.5, 0.1], "t_start": 1.0}, "starts at t = 0.9"),
        ({"grid": [2.0, 0.5, 0.1]}, "outside"),
        ({"grid": [1.0, 0.5, -0.1]}, "outside"),
        ({"grid": "karras"}, "steps"),
        ({"grid": "karras", "steps": 5, "t_end": 1.0}, "down to t_end"),
        ({"steps": 5, "t_end": -0.1}, "t_end"),
        ({"steps": 5, "t_end": 1.5}, "t_end"),
        ({"steps": 5, "t_end": math.nan}, "t_end"),
        ({"steps": 5, "t_start": 0.0}, "t_start"),
        ({"steps": 5, "t_start": 2.0}, "t_start"),
        ({"steps": 5, "t_start": 0.3, "t_end": 0.5}, "down to t_end"),
    ],
    ids=str,
)
def test_what_sample_refuses(kwargs, said):
    with pytest.raises(ArgumentError, match=said):
        sk.sample(gaussian_model(VPSDE(), shape=(2,)), 3, "ddim", **kwargs)


# A consistent dt ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["euler", "heun", "rk4"])
@pytest.mark.parametrize("steps", [1, 7, 100])
def test_steps_cover_exactly_the_time_from_start_to_end(solver, steps):
    # dt = 1/N on a grid spaced (1 - eps)/(N - 1), or a step past eps, would not add up to t1 - t0.
    def unit_speed(x: Tensor, t: Tensor) -> Tensor:
        return torch.ones_like(x)

    x = torch.zeros(1, 1, dtype=torch.float64)
    for t0, t1 in ((1.0, 1e-3), (0.25, 3.0)):
        for grid in ("uniform", "quadratic", "power"):
            end = sk.solve(sk.ODE(unit_speed), x, t0=t0, t1=t1, solver=solver, steps=steps, grid=grid).x
            assert float(end) == pytest.approx(t1 - t0, rel=1e-13)  # the rounding of up to 100 additions


@pytest.mark.parametrize("steps", [1, 7, 100])
def test_the_increments_have_the_variance_of_the_time_covered(steps):
    brownian = sk.SDE(drift=lambda x, t: torch.zeros_like(x), diffusion=1.0, noise="additive")
    x = torch.zeros(4000, 1, dtype=torch.float64)
    for t0, t1 in ((0.25, 3.0), (3.0, 0.25)):
        end = sk.solve(brownian, x, t0=t0, t1=t1, steps=steps, grid="quadratic", seed=1).x
        # 4 standard errors of a variance from 4000 samples
        assert float(end.var()) == pytest.approx(2.75, rel=4 * math.sqrt(2 / 4000))
