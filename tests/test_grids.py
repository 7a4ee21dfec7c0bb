"""Grids: strictly monotone for every number of steps, exact at both ends, and where their formulas put them."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
import scipy.integrate
import scipy.optimize
import scipy.stats
import torch
from _helpers import SDE_IDS, SDES, gaussian_model
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from torch import Tensor

import sdekit as sk
from sdekit import grids
from sdekit.errors import ArgumentError, ShapeError, UnknownNameError, UnsupportedError
from sdekit.grids import (
    ALIASES,
    AlignYourSteps,
    ArcLength,
    Beta,
    Cosine,
    Custom,
    Exponential,
    Grid,
    Karras,
    LogSNR,
    Power,
    Quadratic,
    Uniform,
    make_grid,
)
from sdekit.sdes import EDMSDE, VESDE, VPSDE, CosineVPSDE, CustomDiffusionSDE, FlowSDE, OrnsteinUhlenbeck, SubVPSDE

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


OPTIONS = st.one_of(
    st.builds(Power, st.floats(0.5, 4)),
    st.builds(Beta, st.floats(0.4, 4), st.floats(0.4, 2)),
    st.builds(Exponential, st.floats(0.5, 2)),
    st.builds(Karras, st.floats(0.5, 100)),
    st.builds(AlignYourSteps, st.floats(0.01, 100)),
    st.builds(ArcLength, st.floats(0.01, 100)),
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    grid=OPTIONS,
    family=st.integers(0, len(FAMILIES) - 1),
    steps=st.integers(1, 1000),
    ends=st.tuples(*2 * (st.floats(1e-3, 1.0) | st.just(0.0),)),
)
def test_monotone_with_any_options(grid, family, steps, ends):
    sde = FAMILIES[family]
    start, end = (e * sde.t_max for e in ends)
    if abs(start - end) < 1e-3 * sde.t_max:
        return
    times = grid.times(sde, steps, start, end)
    _is_a_grid(times, steps, start, end)
    assert torch.equal(grid.times(sde, steps, end, start), times.flip(0))


@pytest.mark.parametrize("name", grids.names())
def test_one_step_goes_from_the_start_to_the_end(name):
    assert make_grid(name).times(VPSDE(), 1, 1.0, 0.0).tolist() == [1.0, 0.0]


@pytest.mark.parametrize("name", grids.names())
def test_places_depend_on_neither_the_default_device_nor_the_default_dtype(name):
    places = make_grid(name).times(VPSDE(), 7, 1.0, 0.0)
    with torch.device("meta"):
        assert torch.equal(make_grid(name).times(VPSDE(), 7, 1.0, 0.0), places)
    torch.set_default_dtype(torch.float16)
    try:
        assert torch.equal(make_grid(name).times(VPSDE(), 7, 1.0, 0.0), places)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("name", grids.names())
def test_a_learned_schedule_is_a_schedule(name):
    rate = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    sde = CustomDiffusionSDE(lambda t: torch.exp(-rate * t), lambda t: torch.sqrt(-torch.expm1(-2 * rate * t)))
    times = make_grid(name).times(sde, 10, 1.0, 0.0)
    _is_a_grid(times, 10, 1.0, 0.0)
    assert not times.requires_grad


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


@pytest.mark.parametrize("rho", [1.0, 2.0])
def test_exponential_as_in_k_diffusion(rho):
    # get_sigmas_polyexponential: exp(ramp (ln 80 - ln 0.002) + ln 0.002) with the ramp linspace(1, 0, n)^rho, then 0.
    levels = [math.exp((1 - k / 17) ** rho * math.log(80 / 0.002) + math.log(0.002)) for k in range(18)]
    times = make_grid("exponential", rho=rho).times(EDMSDE(), 18, 80.0, 0.0)
    assert torch.allclose(times, torch.tensor([*levels, 0.0], dtype=torch.float64), rtol=1e-12, atol=0)


@pytest.mark.parametrize("sde", FAMILIES, ids=IDS)
def test_exponential_has_equal_ratios_is_log_snr_and_the_limit_of_karras(sde):
    def placed(grid: Grid) -> Tensor:
        return grid.times(sde, 11, sde.t_max, sde.t_min)

    ratio = sde.sigma_ratio(placed(Exponential()))
    assert torch.allclose(ratio[1:] / ratio[:-1], (ratio[-1] / ratio[0]) ** (1 / 11), rtol=1e-9)
    assert torch.allclose(placed(Exponential()), placed(LogSNR()), rtol=1e-10, atol=0)
    # (1 + ln(sigma~)/rho)^rho differs from sigma~ by ln(sigma~)^2/(2 rho)
    near = [(sde.sigma_ratio(placed(Karras(rho))) / ratio).log().abs().max() for rho in (1e3, 1e4, 1e5)]
    assert float(near[0]) < 0.03
    assert float(near[1]) == pytest.approx(float(near[0]) / 10, rel=0.05)
    assert float(near[2]) == pytest.approx(float(near[0]) / 100, rel=0.05)


@pytest.mark.parametrize(("a", "b"), [(0.6, 0.6), (0.4, 1.7), (2.0, 1.0)])
def test_beta_is_at_the_quantiles(a, b):
    times = make_grid("beta", a=a, b=b).times(VPSDE(), 10, 1.0, 0.1)
    quantiles = 0.1 + 0.9 * scipy.stats.beta.ppf(1 - np.arange(11) / 10, a, b)
    assert torch.allclose(times, torch.from_numpy(quantiles), rtol=1e-10, atol=0)
    # The Beta distribution function of the places is uniform: another function of scipy, and the definition.
    assert np.allclose(np.diff(scipy.stats.beta.cdf((times.numpy() - 0.1) / 0.9, a, b)), -0.1, rtol=1e-9)


@pytest.mark.parametrize("ends", [(1.0, 1e-3), (1.0, 0.0), (0.2, 0.7)], ids=str)
@pytest.mark.parametrize("steps", [1, 2, 7, 100])
def test_beta_holds_uniform_and_cosine(steps, ends):
    def placed(grid: Grid) -> Tensor:
        return grid.times(VPSDE(), steps, *ends)

    assert torch.allclose(placed(Beta(1.0, 1.0)), placed(Uniform()), rtol=1e-12, atol=0)
    assert torch.allclose(placed(Beta(0.5, 0.5)), placed(Cosine()), rtol=1e-12, atol=0)
    start, end = ends
    cosines = torch.cos(math.pi * torch.arange(steps + 1, dtype=torch.float64) / steps)
    assert torch.allclose(placed(Cosine()), 0.5 * (start + end) + 0.5 * (start - end) * cosines, atol=1e-14)


@pytest.mark.parametrize("sde", FAMILIES, ids=IDS)
@pytest.mark.parametrize("data_std", [0.1, 1.0, 5.0])
def test_align_your_steps_has_equal_angles(sde, data_std):
    for end in (sde.t_min, 0.0):
        times = AlignYourSteps(data_std).times(sde, 11, sde.t_max, end)
        angle = torch.atan(sde.sigma_ratio(times) / data_std)
        assert torch.allclose(angle.diff(), (angle[-1] - angle[0]).expand(11) / 11, rtol=1e-9)


@pytest.mark.parametrize(("data_std", "low"), [(1.0, 0.002), (0.3, 0.1), (2.0, 0.0)])
def test_align_your_steps_is_what_a_minimiser_finds(data_std, low):
    # KL(N(0, v) || N(0, c^2 + low^2)) of the variance v that DDIM reaches on N(0, c^2), in x/alpha.
    high, c, steps = 80.0, data_std, 4

    def divergence(interior: np.ndarray) -> float:
        levels = [high, *np.exp(interior), low]
        factor = 1.0
        for a, b in itertools.pairwise(levels):
            denoised = c**2 / (c**2 + a**2)  # of x = 1
            factor *= denoised + b * (1 - denoised) / a
        ratio = factor**2 * (c**2 + high**2) / (c**2 + low**2)
        return 0.5 * (ratio - 1 - math.log(ratio))

    start = np.log(np.geomspace(high, max(low, 0.01), steps + 1)[1:-1])
    found = scipy.optimize.minimize(divergence, start, method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-15})
    ours = AlignYourSteps(data_std).times(EDMSDE(), steps, high, low).numpy()
    assert np.allclose(np.exp(found.x), ours[1:-1], rtol=1e-4)
    assert divergence(np.log(ours[1:-1])) <= found.fun * (1 + 1e-9)


@pytest.mark.parametrize("sde", SDES, ids=SDE_IDS)
def test_a_ddim_step_by_an_angle_loses_its_cosine(sde):
    model, start = gaussian_model(sde, 0.0, 0.5), torch.ones(1, 2, dtype=torch.float64)
    for grid, better in ((AlignYourSteps(0.5), None), (AlignYourSteps(1.0), True), (Karras(), True)):
        times = grid.times(sde, 6, sde.t_max, sde.t_min)
        turns = torch.atan(sde.sigma_ratio(times) / 0.5).diff()
        exact = sde.prior_std(sde.t_min, 0.5) / sde.prior_std(sde.t_max, 0.5)
        end = float(sk.sample(model, None, "ddim", 6, grid=grid, x_T=start).x[0, 0])
        assert end / exact == pytest.approx(float(turns.cos().prod()), rel=1e-9)
        if better is None:
            best = end
        else:
            assert end < best < exact


@pytest.mark.parametrize("steps", [1, 3, 20, 1000, 5000])
@pytest.mark.parametrize(
    "sde", [VPSDE(), CosineVPSDE(), VPSDE(beta_min=2.0, beta_max=3.0)], ids=["vp", "cos", "vp-2-3"]
)
def test_arc_length_of_a_circle_is_the_angle(sde, steps):
    for end in (sde.t_min, 0.0):
        arc, angle = (g.times(sde, steps, sde.t_max, end) for g in (ArcLength(), AlignYourSteps()))
        assert torch.allclose(arc, angle, rtol=1e-7, atol=0)


@pytest.mark.parametrize("data_std", [0.1, 1.0, 5.0])
@pytest.mark.parametrize("steps", [1, 3, 20, 1000])
def test_arc_length_of_a_straight_line(steps, data_std):
    def close(a: Tensor, b: Tensor) -> bool:
        return torch.allclose(a, b, rtol=1e-7, atol=0)

    grid = ArcLength(data_std)
    for sde in (EDMSDE(), FlowSDE()):  # sigma = t, and alpha = 1 or 1 - t
        for end in (sde.t_min, 0.0):
            ends = (sde.t_max, end)
            assert close(grid.times(sde, steps, *ends), Uniform().times(sde, steps, *ends))
    ve = VESDE()
    assert close(ve.sigma(grid.times(ve, steps, 1.0, 0.0)), torch.linspace(50, 0.01, steps + 1, dtype=torch.float64))


@pytest.mark.parametrize("data_std", [0.1, 1.0, 5.0])
@pytest.mark.parametrize("end", [0.0, 0.3])
def test_arc_length_against_quadrature(data_std, end):
    # sub-VP: sigma = 1 - alpha^2, so ds = sqrt(c^2 + 4 alpha^2) d alpha. VP: a circle stretched by c, by its angle.
    sub, vp = SubVPSDE(), VPSDE()
    curves = (
        (sub, lambda a: math.sqrt(data_std**2 + 4 * a**2), lambda t: float(sub.alpha(t))),
        (
            vp,
            lambda p: math.hypot(data_std * math.sin(p), math.cos(p)),
            lambda t: math.atan2(float(vp.sigma(t)), float(vp.alpha(t))),
        ),
    )
    for sde, speed, place in curves:
        times = ArcLength(data_std).times(sde, 7, 1.0, end).tolist()
        lengths = [
            abs(scipy.integrate.quad(speed, place(t), place(s), epsabs=1e-13, epsrel=1e-12)[0])
            for t, s in itertools.pairwise(times)
        ]
        assert lengths == pytest.approx([sum(lengths) / 7] * 7, rel=1e-5)


# The end -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["karras", "log_snr", "exponential"])
def test_a_grid_by_noise_level_reaches_sigma_0_from_t_min_in_its_last_step(name):
    sde = VPSDE()
    to_zero, short = make_grid(name).times(sde, 9, 1.0, 0.0), make_grid(name).times(sde, 8, 1.0, sde.t_min)
    assert torch.allclose(to_zero[:-1], short, rtol=1e-12)
    assert float(to_zero[-1]) == 0.0


@pytest.mark.parametrize("name", ["uniform", "power", "quadratic", "beta", "cosine", "align_your_steps", "arc_length"])
@pytest.mark.parametrize("sde", FAMILIES, ids=IDS)
def test_the_other_grids_reach_t_0_as_the_limit_of_small_ends(sde, name):
    to_zero, near = (make_grid(name).times(sde, 9, sde.t_max, end) for end in (0.0, 1e-18 * sde.t_max))
    # power: (1e-18)^(1/2.5) = 6e-8 of the way, eight times over at the last place
    assert torch.allclose(to_zero[:-1], near[:-1], rtol=2e-6, atol=0)


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


@pytest.mark.parametrize("kind", ["times", "sigmas", "log_snrs"])
def test_of_takes_sequences_tensors_and_arrays(kind):
    values = [3.0, 1.0, 0.5]
    vectors = (values, tuple(values), torch.tensor(values), torch.tensor(values).bfloat16(), np.array(values))
    for vector in vectors:
        grid = Custom.of(**{kind: vector})
        assert grid == Custom((3.0, 1.0, 0.5), kind)
        assert hash(grid) == hash(Custom((3.0, 1.0, 0.5), kind))
    assert make_grid(np.array(values)) == Custom.of(times=values)


# Names -------------------------------------------------------------------------------------------------------------


def test_aliases_lead_to_names_and_are_none():
    assert set(ALIASES.values()) <= set(grids.names())
    assert not set(ALIASES) & set(grids.names())
    for alias, name in ALIASES.items():
        assert make_grid(alias) == make_grid(alias.upper()) == make_grid(name)


@pytest.mark.parametrize(
    ("said", "grid"),
    [
        ("Karras", Karras(7.0)),
        ("SGM Uniform", Uniform()),
        ("logSNR", LogSNR()),
        ("log-SNR", LogSNR()),
        ("time_quadratic", Quadratic()),
        ("Polyexponential", Exponential()),
        ("Align Your Steps", AlignYourSteps(1.0)),
        ("KL Optimal", AlignYourSteps(1.0)),
        ("AYS", AlignYourSteps(1.0)),
        ("Beta", Beta(0.6, 0.6)),
    ],
)
def test_names_as_others_write_them(said, grid):
    assert make_grid(said) == grid
    out = sk.sample(gaussian_model(VPSDE(), shape=(2,)), 3, "ddim", steps=4, grid=said)
    assert torch.equal(out.times, grid.times(VPSDE(), 4, 1.0, VPSDE().t_min))


@pytest.mark.parametrize(
    "grid",
    [
        *(make_grid(name) for name in grids.names()),
        *(Karras(5), Power(3), Exponential(2.0), Beta(0.4, 2.0), AlignYourSteps(0.3), ArcLength(0.3)),
        Custom.of(times=[1.0, 0.5]),
        Custom.of(sigmas=[1.0, 0.0]),
        Custom.of(log_snrs=[-1.0, math.inf]),
    ],
    ids=repr,
)
def test_a_grid_is_a_plain_value(grid):
    assert grids.from_dict(json.loads(json.dumps(grid.to_dict()))) == grid
    again = eval(repr(grid), {**vars(grids), "inf": math.inf})
    assert again == grid
    assert hash(again) == hash(grid)


def test_options_by_keyword():
    assert make_grid("karras", rho=5.0) == Karras(5.0) != Karras()
    assert make_grid("lu") == LogSNR() != Exponential()
    assert make_grid("polyexponential", rho=2) == Exponential(2.0)
    assert make_grid("ays", data_std=0.5) == AlignYourSteps(0.5) != ArcLength(0.5)
    assert repr(make_grid("beta", a=1)) == "Beta(a=1.0, b=0.6)"


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
        (lambda: make_grid("log_snrr"), UnknownNameError, "did you mean 'log_snr'"),
        (lambda: make_grid("sgm_unifrom"), UnknownNameError, "did you mean 'sgm_uniform'"),
        (lambda: make_grid("karras", sigma=5.0), ArgumentError, "no option sigma; its options: rho"),
        (lambda: make_grid("beta", a=0.5, c=1.0), ArgumentError, "no option c; its options: a, b"),
        (lambda: make_grid("simple", rho=5.0), ArgumentError, "'uniform' has no option rho; it takes none"),
        (lambda: make_grid(Karras(), rho=5.0), ArgumentError, "options go with the name"),
        (lambda: make_grid([1.0, 0.5], rho=5.0), ArgumentError, "options go with the name"),
        (lambda: make_grid("karras", rho="7"), ArgumentError, "rho must be a finite number above 0"),
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
        (lambda: Exponential(0.0), ArgumentError, "rho"),
        (lambda: Beta(a=0.0), ArgumentError, "a must be"),
        (lambda: Beta(b=math.nan), ArgumentError, "b must be"),
        (lambda: AlignYourSteps(-1.0), ArgumentError, "data_std"),
        (lambda: ArcLength(True), ArgumentError, "data_std"),
        (lambda: Beta(b=0.01).times(VPSDE(), 100, 1.0, 0.0), ArgumentError, "not strictly monotone"),
        (lambda: make_grid(torch.ones(2, 2)), ShapeError, r"vector, got shape \(2, 2\)"),
        (lambda: make_grid([1.0, "half"]), ArgumentError, "must be numbers"),
        (lambda: make_grid([1.0, None]), ArgumentError, "must be numbers"),
        (lambda: Custom("10"), ArgumentError, "sequence of numbers"),
        (lambda: Custom.of(), ArgumentError, "exactly one of times, sigmas and log_snrs; got none"),
        (lambda: Custom.of(times=[1.0, 0.5], sigmas=[1.0, 0.5]), ArgumentError, "got times and sigmas"),
        (lambda: Custom.of(sigmas=[1.0, 1.0]), ArgumentError, "not strictly monotone"),
        (lambda: grids.from_dict({"rho": 7.0}), ArgumentError, "with a 'name'"),
        (lambda: grids.from_dict("karras"), ArgumentError, "with a 'name'"),
        (lambda: grids.from_dict({"name": "karas"}), UnknownNameError, "did you mean 'karras'"),
        (lambda: grids.from_dict({"name": "karras", "power": 7.0}), ArgumentError, "no option power"),
        (lambda: grids.from_dict({"name": "custom", "kind": "times"}), ArgumentError, "needs its 'values'"),
        (lambda: grids.from_dict({"name": "custom", "values": [1, 0], "rho": 1}), ArgumentError, "no option rho"),
        (lambda: Uniform().times(VPSDE(), 3, 0.5, 0.5), ArgumentError, "same time"),
        (lambda: Custom((1.0, 0.5)).times(VPSDE(), 2, 1.0, 0.5), ArgumentError, "1 steps, but steps=2"),
        (lambda: Custom((1.0, 0.5)).times(VPSDE(), 1, 1.0, 0.4), ArgumentError, "from 1 to 0.4"),
        (lambda: LogSNR().times(OrnsteinUhlenbeck(), 3, 1.0, 0.5), UnsupportedError, "uniform"),
        (lambda: Karras().times(None, 3, 1.0, 0.5), UnsupportedError, "uniform"),
        (lambda: ArcLength().times(None, 3, 1.0, 0.5), UnsupportedError, "uniform"),
        (lambda: AlignYourSteps().times(None, 3, 1.0, 0.5), UnsupportedError, "uniform"),
        (lambda: Exponential().times(None, 3, 1.0, 0.5), UnsupportedError, "uniform"),
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


@pytest.mark.parametrize("steps", [3, 5, 10, 11, 20, 50])
def test_fitted_places_have_equal_shares_of_its_density(steps):
    # The formula of the docstring, integrated by scipy between the places.
    sde, k = VPSDE(), max(steps, 4)
    c1, c2, f = 0.37 * math.exp(-12 / k), 3 * math.exp(-3.7 / k), 0.1 * math.exp(3 / k)

    def density(log: float) -> float:
        s = math.exp(log)
        return (f + 1 / (1 + (s / c2) ** 2.6)) / (1 + (c1 / s) ** 0.65)

    levels = sde.sigma_ratio(make_grid("fitted").times(sde, steps, 1.0, 0.0)).tolist()
    end = max(0.18 * k**-1.15, float(sde.sigma_ratio(sde.t_min)))
    assert levels[-1] == 0.0
    if steps > 10:
        assert levels[-2] == pytest.approx(end, rel=1e-9)
    levels[-1] = end  # with 10 steps or fewer, 0 stands in its place
    edges = levels if steps <= 10 else levels[:-1]
    shares = [quad(density, math.log(b), math.log(a))[0] for a, b in itertools.pairwise(edges)]
    assert shares == pytest.approx([sum(shares) / len(shares)] * len(shares), rel=1e-3)  # 4096 cells


@pytest.mark.parametrize("steps", [5, 7, 10, 20])
def test_vp_power_places_follow_their_formula(steps):
    few, k = min(1.0, max(0.0, 10 / steps - 1)), min(1.0, 10 / steps)
    power, w1, w2 = 2.9 + 0.38 * few, 0.08 * k**1.4 + 0.017 * few, 0.035 * k**2 - 0.016 * few
    end = 0.24 / steps if steps >= 10 else 0.024 + 0.006 * few
    sde = VPSDE()  # whose own time it is a power of
    first, last = (float(sde.time_of_sigma_ratio(torch.tensor(s, dtype=torch.float64))) for s in (SIGMA_T, end))
    times = make_grid("vp_power").times(sde, steps, 1.0, 0.0).tolist()
    for i, t in enumerate(times[:-1]):
        u = i / steps + w1 * math.sin(math.pi * i / steps) + w2 * math.sin(2 * math.pi * i / steps)
        assert t == pytest.approx(
            (first ** (1 / power) + (last ** (1 / power) - first ** (1 / power)) * u) ** power, rel=1e-9
        )


SIGMA_T = float(VPSDE().sigma_ratio(1.0))
