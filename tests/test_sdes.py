"""Diffusion SDEs against calculus, simulation and decimal arithmetic; user-defined SDEs; plain dicts and names."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
import math
import pickle
from decimal import Decimal, localcontext

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp
from torch import Tensor

from sdekit import sdes
from sdekit.errors import ArgumentError, ShapeError, UnknownNameError
from sdekit.sdes import (
    DIFFUSION_SDES,
    EDMSDE,
    SDE,
    VESDE,
    VPSDE,
    CosineVPSDE,
    CustomDiffusionSDE,
    DiffusionSDE,
    FlowSDE,
    OrnsteinUhlenbeck,
    SubVPSDE,
    from_dict,
    named,
)

FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def _decay(t: Tensor) -> Tensor:
    return torch.exp(-t.square() - 0.1 * t)


def _growth(t: Tensor) -> Tensor:
    return torch.sinh(2 * t)


DECAYING = CustomDiffusionSDE(_decay, _growth, t_max=2.0)
CONSTANT_ALPHA = CustomDiffusionSDE(torch.ones_like, lambda t: t + t**3, t_max=3.0)
FAMILIES: list[DiffusionSDE] = [
    *(family() for family in DIFFUSION_SDES),
    VPSDE(beta_min=0.5, beta_max=5.0, t_min=1e-4),
    VPSDE(beta_min=2, beta_max=2),
    SubVPSDE(beta_min=0.01, beta_max=40.0),
    VESDE(sigma_min=0.002, sigma_max=348.0),
    CosineVPSDE(s=0.1, beta_max=20.0),
    CosineVPSDE(beta_max=1e6),
    EDMSDE(t_min=1e-4, t_max=1000.0),
    FlowSDE(t_min=1e-5, t_max=0.9999),
]
SDES = [*FAMILIES, DECAYING, CONSTANT_ALPHA]
every_sde = pytest.mark.parametrize("sde", SDES, ids=repr)
every_family = pytest.mark.parametrize("sde", FAMILIES, ids=repr)
every_default = pytest.mark.parametrize("sde", [*FAMILIES[: len(DIFFUSION_SDES)], DECAYING], ids=repr)


def times(sde: DiffusionSDE, n: int = 200) -> Tensor:
    """Times dense near both ends of (0, T], in float64."""
    low = torch.logspace(-6, 0, n, dtype=torch.float64)
    high = 1 - torch.logspace(-6, -1, n // 2, dtype=torch.float64)
    return torch.cat([low, high]).sort().values * sde.t_max


def derivative(function, t: Tensor) -> Tensor:
    u = t.clone().requires_grad_(True)
    value = function(u)
    if not value.requires_grad:  # a constant
        return torch.zeros_like(t)
    return torch.autograd.grad(value.sum(), u)[0]


# What the families define, against calculus --------------------------------------------------------------------------


@every_family
def test_drift_and_diffusion_follow_from_alpha_and_sigma(sde):
    t = times(sde)
    f = derivative(sde.log_alpha, t)
    g_squared = derivative(lambda u: sde.sigma(u).square(), t) - 2 * f * sde.sigma(t).square()
    # 1e-8: the identity holds exactly; for CosineVPSDE(beta_max=1e6) alpha falls to 3e-6 and costs 11 digits of f.
    torch.testing.assert_close(sde.drift_coefficient(t), f, rtol=1e-8, atol=0)
    torch.testing.assert_close(sde.diffusion_coefficient(t).square(), g_squared, rtol=1e-8, atol=0)


def test_custom_drift_and_diffusion_equal_hand_derivatives():
    t = times(DECAYING)
    f = -2 * t - 0.1
    g_squared = 4 * torch.sinh(2 * t) * torch.cosh(2 * t) - 2 * f * torch.sinh(2 * t).square()
    # 1e-12: float64 rounding through exp and log, and alpha = exp(-4.2) at T.
    torch.testing.assert_close(DECAYING.drift_coefficient(t), f, rtol=1e-12, atol=0)
    torch.testing.assert_close(DECAYING.diffusion_coefficient(t).square(), g_squared, rtol=1e-12, atol=0)
    torch.testing.assert_close(DECAYING.sigma_rate(t), 2 * torch.cosh(2 * t), rtol=1e-12, atol=0)


@every_sde
def test_alpha_rate_and_sigma_rate_are_derivatives(sde):
    t = times(sde)
    # 1e-8, as above; relative to sigma for the sigma_rate of saturated schedules, a difference of large terms near T.
    torch.testing.assert_close(sde.alpha_rate(t), derivative(sde.alpha, t), rtol=1e-8, atol=1e-13)
    rate = derivative(sde.sigma, t)
    scale = sde.drift_coefficient(t).abs() * sde.sigma(t)
    assert ((sde.sigma_rate(t) - rate).abs() <= 1e-8 * rate.abs() + 1e-13 * scale).all()


@every_sde
def test_log_snr_rate_is_minus_g_squared_over_sigma_squared(sde):
    t = times(sde)
    expected = -(sde.diffusion_coefficient(t) / sde.sigma(t)).square()
    # 1e-8, as above.
    torch.testing.assert_close(derivative(sde.log_snr, t), expected, rtol=1e-8, atol=0)


@pytest.mark.parametrize("sde", [SubVPSDE(), EDMSDE(), FlowSDE(), VESDE()], ids=repr)
def test_rates_are_finite_at_zero(sde):
    step = 1e-9
    rate = (sde.sigma(step) - sde.sigma(0.0)) / step
    # 1e-6: the error of the one-sided difference is step sigma''/2, plus rounding of VE's sigma_min over the step.
    assert sde.sigma_rate(0.0).item() == pytest.approx(rate.item(), rel=1e-6)
    assert math.isfinite(sde.alpha_rate(0.0).item())


def test_custom_rates_do_not_depend_on_the_grad_mode():
    t = torch.tensor([0.1, 0.7], dtype=torch.float64)
    expected = DECAYING.drift_coefficient(t)
    with torch.no_grad():
        assert torch.equal(DECAYING.drift_coefficient(t), expected)
    with torch.inference_mode():
        assert torch.equal(DECAYING.drift_coefficient(t.clone()), expected)
    assert not expected.requires_grad


def test_custom_rates_can_be_differentiated_again():
    t = torch.tensor([0.1, 0.7], dtype=torch.float64, requires_grad=True)
    (second,) = torch.autograd.grad(DECAYING.drift_coefficient(t).sum(), t)
    # f = -2t - 0.1; 1e-12 is rounding.
    torch.testing.assert_close(second, torch.full_like(t, -2.0), rtol=1e-12, atol=0)


def test_custom_sde_agrees_with_the_family_it_spells_out():
    vp = VPSDE()

    def alpha(t):
        return torch.exp(-0.05 * t - 4.975 * t**2)

    def sigma(t):
        return torch.sqrt(-torch.expm1(-0.1 * t - 9.95 * t**2))

    custom = CustomDiffusionSDE(alpha, sigma)
    t = torch.logspace(-6, 0, 100, dtype=torch.float64)
    for quantity in ("alpha", "sigma", "log_snr", "drift_coefficient", "diffusion_coefficient", "sigma_rate"):
        # 1e-10: g^2 is a difference of autograd terms that cancel to six digits near T.
        torch.testing.assert_close(getattr(custom, quantity)(t), getattr(vp, quantity)(t), rtol=1e-10, atol=0)


# ... and against simulation ------------------------------------------------------------------------------------------


@every_sde
def test_moment_equations_give_the_marginal(sde):
    """dm/dt = f m and dv/dt = 2 f v + g^2, through `drift` and `diffusion`, from X_0 = 1 (VE: from sigma_min)."""
    start = sde.t_min if isinstance(sde, CustomDiffusionSDE) else 0.0
    one = torch.ones(1, 1, dtype=torch.float64)

    def moments(t, y):
        f, g = sde.drift(one, t).item(), sde.diffusion(one, t).item()
        return [f * y[0], 2 * f * y[1] + g * g]

    ends = [0.01 * sde.t_max, 0.3 * sde.t_max, 0.9 * sde.t_max, sde.t_max]
    first = [sde.alpha(start).item(), sde.sigma(start).item() ** 2]
    # max_step: the cosine schedule's beta has a kink where it is clipped, which large steps would straddle.
    solution = solve_ivp(
        moments, (start, sde.t_max), first, "LSODA", ends, rtol=1e-10, atol=1e-16, max_step=0.02 * sde.t_max
    )
    mean, std = sde.marginal(torch.ones(4, 1, dtype=torch.float64), torch.tensor(ends, dtype=torch.float64))
    # 1e-6: rtol = 1e-10 a step, some thousand steps, and the mean's decay by up to 1e-6 amplifies atol.
    np.testing.assert_allclose(solution.y[0], mean[:, 0].numpy(), rtol=1e-6)
    np.testing.assert_allclose(solution.y[1], std[:, 0].square().numpy(), rtol=1e-6)


@every_default
def test_simulated_paths_have_the_marginal(sde):
    """Euler-Maruyama, forward in time to 0.9 T."""
    generator = torch.Generator().manual_seed(0)
    n, steps, end = 8192, 1000, 0.9 * sde.t_max
    start = sde.t_min if isinstance(sde, CustomDiffusionSDE) else 0.0
    x0 = torch.full((n, 1), 1.5)
    mean, std = sde.marginal(x0, start)
    x = mean + std * torch.randn(n, 1, generator=generator)  # VE starts at sigma_min, the others at a point
    grid = torch.linspace(start, end, steps + 1, dtype=torch.float64)
    for t, s in itertools.pairwise(grid):
        noise = torch.randn(n, 1, generator=generator)
        x = x + sde.drift(x, t) * (s - t) + sde.diffusion(x, t) * noise * (s - t).sqrt()
    mean, std = sde.marginal(x0, end)
    # Mean: 5 standard errors, and the Euler bias T f^2/2 h, at most 1 % of a mean below 1.5.
    assert abs((x.mean() - mean[0, 0]).item()) <= 5 * std.item() / n**0.5 + 0.015 * mean[0, 0].item()
    # Standard deviation: 5 standard errors of 1/sqrt(2 n) are 3.9 %, the Euler bias 1 % (VE: ln(5000) h = 0.8 %).
    assert x.std().item() == pytest.approx(std.item(), rel=0.05)


# log-SNR and its inverse ---------------------------------------------------------------------------------------------


@every_sde
def test_log_snr_falls_strictly(sde):
    t = torch.cat([torch.zeros(1, dtype=torch.float64), times(sde).unique()])
    log_snr = sde.log_snr(t)
    assert (log_snr.diff() < 0).all()
    assert (sde.sigma_ratio(t).diff() > 0).all()
    # 1e-12: rounding of log and exp at |log-SNR| up to 30.
    torch.testing.assert_close(log_snr, -2 * torch.log(sde.sigma_ratio(t)), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(sde.alpha(t), torch.exp(sde.log_alpha(t)), rtol=1e-15, atol=0)


@every_sde
def test_time_of_log_snr_inverts_log_snr(sde):
    t = times(sde)
    # 1e-9 relative; VE at t = 1e-6 has log-SNR = 9.2 - 17 t, so one rounding of it moves t by 1e-10 relative.
    torch.testing.assert_close(sde.time_of_log_snr(sde.log_snr(t)), t, rtol=1e-9, atol=0)
    torch.testing.assert_close(sde.time_of_sigma_ratio(sde.sigma_ratio(t)), t, rtol=1e-9, atol=0)


@every_sde
def test_inverse_at_the_extremes(sde):
    if sde.sigma(0.0).item() == 0.0:
        assert sde.log_snr(0.0).item() == math.inf
        assert sde.time_of_log_snr(math.inf).item() == 0.0
        assert sde.time_of_sigma_ratio(0.0).item() == 0.0
    else:  # VE: the noise of time 0 is sigma_min, and no noise at all lies infinitely far before it
        assert isinstance(sde, VESDE)
        assert sde.time_of_sigma_ratio(sde.sigma_min).item() == pytest.approx(0.0, abs=1e-15)
        assert sde.time_of_log_snr(math.inf).item() == -math.inf
    assert sde.time_of_log_snr(sde.log_snr(sde.t_max)).item() == pytest.approx(sde.t_max, rel=1e-12)
    assert math.isnan(sde.time_of_log_snr(math.nan).item())


def test_custom_inverse_is_held_at_the_ends():
    beyond = DECAYING.log_snr(DECAYING.t_max) - 1
    assert DECAYING.time_of_log_snr(beyond).item() == DECAYING.t_max
    assert DECAYING.time_of_log_snr(1e9).item() == pytest.approx(0.0, abs=1e-59)  # 2 * 2^-200


# Precision -----------------------------------------------------------------------------------------------------------


def _decimal_cos(x: Decimal) -> Decimal:
    total, term, k = Decimal(0), Decimal(1), 0
    while abs(term) > Decimal("1e-45"):
        total += term
        k += 2
        term *= -x * x / (k * (k - 1))
    return total


def _decimal_alpha_sigma(sde: DiffusionSDE, t: Decimal) -> tuple[Decimal, Decimal]:
    """The textbook formulas as they stand, in 40 digits, so that no cancellation matters."""
    one = Decimal(1)
    match sde:
        case VPSDE() | SubVPSDE():
            low, high = Decimal(sde.beta_min), Decimal(sde.beta_max)
            b = low * t + (high - low) * t * t / 2
            sigma = (one - (-b).exp()).sqrt() if isinstance(sde, VPSDE) else one - (-b).exp()
            return (-b / 2).exp(), sigma
        case VESDE():
            low, high = Decimal(sde.sigma_min), Decimal(sde.sigma_max)
            return one, low * ((high / low).ln() * t).exp()
        case EDMSDE():
            return one, t
        case FlowSDE():
            return one - t, t
        case CosineVPSDE():
            s, half_pi = Decimal(sde.s), Decimal("1.5707963267948966192313216916397514420985847")
            alpha = _decimal_cos((t + s) / (1 + s) * half_pi) / _decimal_cos(s / (1 + s) * half_pi)
            return alpha, (one - alpha * alpha).sqrt()
    raise AssertionError(sde)


def reference(sde: DiffusionSDE, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """alpha, sigma and log-SNR at these exact times, correctly rounded to float64."""
    rows = []
    with localcontext() as context:
        context.prec = 40
        for value in t.tolist():
            alpha, sigma = _decimal_alpha_sigma(sde, Decimal(value))
            rows.append((float(alpha), float(sigma), float(2 * (alpha / sigma).ln())))
    return tuple(torch.tensor(rows, dtype=torch.float64).T)


@every_family
def test_float64_schedules_match_decimal_arithmetic(sde):
    # Before the cosine schedule's clip; to 0.9 T, beyond which cos(theta) loses digits to the rounding of theta.
    t = torch.logspace(-8, math.log10(0.9), 60, dtype=torch.float64) * sde.t_max
    if isinstance(sde, CosineVPSDE):
        t = t[t < 0.98 * sde._clip_time]
    alpha, sigma, log_snr = reference(sde, t)
    # 1e-13: a few dozen roundings; absolute for the log-SNR, which passes through 0.
    torch.testing.assert_close(sde.alpha(t), alpha, rtol=1e-13, atol=0)
    torch.testing.assert_close(sde.sigma(t), sigma, rtol=1e-13, atol=0)
    torch.testing.assert_close(sde.log_snr(t), log_snr, rtol=1e-13, atol=1e-13)


@every_family
def test_float32_near_zero(sde):
    t = torch.logspace(-6, -3, 100, dtype=torch.float32)
    alpha, sigma, log_snr = reference(sde, t)
    x0 = torch.full((100, 2), 3.0)
    mean, std = sde.marginal(x0, t)
    # 1e-6 is what the docs promise; sqrt(1 - exp(-B)) in float32 is wrong by 1 % here. One float32 rounding is 6e-8.
    for got, exact in (
        (sde.alpha(t), alpha),
        (sde.sigma(t), sigma),
        (sde.log_snr(t), log_snr),
        (mean[:, 1], 3 * alpha),
        (std[:, 0], sigma),
    ):
        assert got.dtype == torch.float32
        torch.testing.assert_close(got.double(), exact, rtol=1e-6, atol=0)


@every_default
def test_schedules_are_evaluated_in_float64(sde):
    """A float32 time gives the float64 value of that time, rounded once: bit for bit."""
    t = times(sde).float()
    t = t[t <= sde.t_max]
    for method in ("log_alpha", "alpha", "sigma", "sigma_ratio", "log_snr", "drift_coefficient", "sigma_rate"):
        schedule = getattr(sde, method)
        assert torch.equal(schedule(t), schedule(t.double()).float())
    log_snr = sde.log_snr(t)
    assert torch.equal(sde.time_of_log_snr(log_snr), sde.time_of_log_snr(log_snr.double()).float())


def test_cosine_schedule_holds_beta_after_the_clip():
    sde = CosineVPSDE(beta_max=20.0)
    t = torch.linspace(sde._clip_time, 1.0, 20, dtype=torch.float64)
    # 1e-12: rounding of tan near 10.
    torch.testing.assert_close(-2 * sde.drift_coefficient(t), torch.full_like(t, 20.0), rtol=1e-12, atol=0)
    decay = sde.log_alpha(t) - sde.log_alpha(t[0])
    torch.testing.assert_close(decay, -10.0 * (t - t[0]), rtol=1e-12, atol=1e-12)
    before = torch.linspace(0, sde._clip_time - 1e-6, 50, dtype=torch.float64)
    assert (-2 * sde.drift_coefficient(before) < 20.0).all()


# Shapes and dtypes ---------------------------------------------------------------------------------------------------


@every_default
@pytest.mark.parametrize("shape", [(3,), (3, 2), (3, 2, 4, 5)])
@pytest.mark.parametrize("dtype", FLOATS)
def test_shapes_and_dtypes(sde, shape, dtype):
    x = torch.ones(shape, dtype=dtype)
    column = (3, *([1] * (len(shape) - 1)))
    per_sample = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    for t, std_shape in ((torch.tensor(0.1, dtype=torch.float64), ()), (0.1, ()), (per_sample, column)):
        mean, std = sde.marginal(x, t)
        drift, diffusion = sde.drift(x, t), sde.diffusion(x, t)
        assert mean.shape == drift.shape == x.shape
        assert std.shape == diffusion.shape == std_shape
        assert {a.dtype for a in (mean, std, drift, diffusion)} == {dtype}
    # Per-sample times are per sample: each row equals the same row alone.
    mean, std = sde.marginal(x, per_sample)
    for i, t in enumerate(per_sample):
        alone_mean, alone_std = sde.marginal(x[i : i + 1], t)
        assert torch.equal(mean[i : i + 1], alone_mean)
        assert torch.equal(std[i].reshape(()), alone_std)


@every_default
def test_schedules_keep_the_shape_and_dtype_of_t(sde):
    methods = ("alpha", "sigma", "log_snr", "sigma_ratio", "drift_coefficient", "diffusion_coefficient", "sigma_rate")
    for method in methods:
        assert getattr(sde, method)(torch.full((2, 3), 0.5, dtype=torch.float32)).shape == (2, 3)
        assert getattr(sde, method)(torch.tensor(0.5, dtype=torch.float32)).dtype == torch.float32
        assert getattr(sde, method)(0.5).dtype == torch.float64
        assert getattr(sde, method)(torch.zeros((), dtype=torch.int64) + 0).dtype == torch.float64


@every_default
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_half_precision_state_does_not_round_the_time(sde, dtype):
    x = torch.ones(2, 3, dtype=dtype)
    t = torch.linspace(0.0012345, 0.87654, 40, dtype=torch.float64) * sde.t_max
    got = torch.stack([torch.stack([sde.marginal(x, u)[1], sde.drift(x, u)[0, 0], sde.diffusion(x, u)]) for u in t], 1)

    def at(t: Tensor) -> Tensor:
        return torch.stack([sde.sigma(t), sde.drift_coefficient(t), sde.diffusion_coefficient(t)]).to(dtype)

    assert torch.equal(got, at(t))
    # So that the test can fail: in bfloat16 a time moves by up to 0.4 %, and no schedule forgives all forty.
    assert not torch.equal(got, at(t.to(dtype).double()))


@every_default
def test_a_time_that_does_not_fit_the_batch(sde):
    x = torch.ones(3, 2)
    for t in (torch.ones(2), torch.ones(3, 1)):
        with pytest.raises(ShapeError, match="does not fit a state"):
            sde.marginal(x, t)
        with pytest.raises(ShapeError, match="does not fit a state"):
            sde.drift(x, t)


def test_an_integer_state_is_refused():
    with pytest.raises(ArgumentError, match="floating-point"):
        VPSDE().marginal(torch.ones(2, 2, dtype=torch.int64), 0.1)


# The prior -----------------------------------------------------------------------------------------------------------


@every_sde
@pytest.mark.parametrize("data_std", [0.0, 0.7])
@pytest.mark.parametrize("fraction", [None, 0.3])
def test_prior_log_prob_is_the_gaussian(sde, data_std, fraction):
    t = None if fraction is None else fraction * sde.t_max
    at = sde.t_max if t is None else t
    std = math.sqrt(sde.alpha(at).item() ** 2 * data_std**2 + sde.sigma(at).item() ** 2)
    assert sde.prior_std(t, data_std) == pytest.approx(std, rel=1e-14)  # rounding
    x = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(1)) * std
    expected = torch.distributions.Normal(0.0, torch.tensor(std, dtype=torch.float64)).log_prob(x.double())
    got = sde.prior_log_prob(x, t=t, data_std=data_std)
    assert got.dtype == torch.float64
    torch.testing.assert_close(got, expected.sum((1, 2)), rtol=1e-12, atol=1e-12)  # rounding


@every_default
def test_prior_draws(sde):
    x = sde.prior((50_000, 2), data_std=0.5, generator=torch.Generator().manual_seed(3))
    # 5 standard errors with 1e5 numbers: std/sqrt(n) = 1.6 % of std for the mean, 1.1 % for the standard deviation.
    std = sde.prior_std(data_std=0.5)
    assert abs(x.mean().item()) < 0.016 * std
    assert x.std().item() == pytest.approx(std, rel=0.012)
    again = sde.prior((50_000, 2), data_std=0.5, generator=torch.Generator().manual_seed(3))
    assert torch.equal(x, again)
    assert sde.prior((2, 3), dtype=torch.bfloat16).dtype == torch.bfloat16
    assert sde.prior(torch.Size([2, 3])).shape == (2, 3)


def test_prior_uses_the_global_generator_and_leaves_its_seed_alone():
    torch.manual_seed(11)
    expected = torch.randn(2, 3), torch.randn(2, 3)
    torch.manual_seed(11)
    sde = EDMSDE()
    assert torch.equal(sde.prior((2, 3)), expected[0] * 80.0)
    assert torch.equal(torch.randn(2, 3), expected[1])
    torch.manual_seed(11)
    sde.prior((2, 3), generator=torch.Generator().manual_seed(0))
    assert torch.equal(torch.randn(2, 3), expected[0])


def test_prior_refuses_what_makes_no_sense():
    sde = VPSDE()
    for bad in ((), (0, 2), (2.0, 2), 5, "ab"):
        with pytest.raises(ShapeError, match="sequence of positive integers"):
            sde.prior(bad)
    for bad in (-1.0, math.nan, math.inf, "a"):
        with pytest.raises(ArgumentError, match="data_std"):
            sde.prior_std(data_std=bad)
    for bad in (-0.1, 1.1, math.nan):
        with pytest.raises(ArgumentError, match=r"t = .* is outside \[0, T\] with T = 1"):
            sde.prior_std(bad)
    with pytest.raises(ArgumentError, match="standard deviation 0"):
        sde.prior_log_prob(torch.ones(1, 1), t=0.0)


def test_check_time():
    sde = EDMSDE()
    assert sde.check_time("t", 80) == 80.0
    assert sde.check_time("t", 0) == 0.0
    assert sde.check_time("t", math.nextafter(80.0, 81.0)) == 80.0  # the rounding of exp(ln 80) is still T
    with pytest.raises(ArgumentError, match="start = 80"):
        sde.check_time("start", 80 * (1 + 1e-9))
    with pytest.raises(ArgumentError, match=r"start = 0.0 is outside \(0, T\]"):
        sde.check_time("start", 0, zero=False)
    with pytest.raises(ArgumentError, match=r"start = 81\.0"):
        sde.check_time("start", 81)


# Plain values --------------------------------------------------------------------------------------------------------


@every_family
def test_repr_dict_equality_hash_copy(sde):
    assert eval(repr(sde), vars(sdes)) == sde
    plain = json.loads(json.dumps(sde.to_dict()))
    assert from_dict(plain) == sde
    assert hash(from_dict(plain)) == hash(sde)
    assert pickle.loads(pickle.dumps(sde)) == copy.deepcopy(sde) == sde
    assert sde != OrnsteinUhlenbeck()
    assert sde != "VPSDE()"
    with pytest.raises(dataclasses.FrozenInstanceError):
        sde.t_min = 0.5


def test_sdes_differ_by_type_and_by_parameters():
    assert len(set(FAMILIES)) == len(FAMILIES)
    assert VPSDE() != SubVPSDE()
    assert VPSDE(beta_max=19.0) != VPSDE()


def test_parameters_become_plain_floats():
    sde = VPSDE(beta_min=np.float32(0.5), beta_max=20, t_min=np.float64(0.001))
    assert repr(sde) == "VPSDE(beta_min=0.5, beta_max=20.0, t_min=0.001)"
    assert {type(v) for k, v in sde.to_dict().items() if k != "type"} == {float}
    assert VPSDE(beta_max=20) == VPSDE(beta_max=20.0)
    assert hash(VPSDE(beta_max=20)) == hash(VPSDE(beta_max=20.0))
    assert hash(VPSDE(t_min=-0.0)) == hash(VPSDE(t_min=0.0))


def test_custom_sde_compares_by_its_functions():
    assert CustomDiffusionSDE(_decay, _growth, t_max=2) == DECAYING
    assert hash(CustomDiffusionSDE(_decay, _growth, t_max=2)) == hash(DECAYING)
    assert CustomDiffusionSDE(_decay, _growth, t_max=1) != DECAYING
    assert VPSDE() != DECAYING
    assert repr(DECAYING) == "CustomDiffusionSDE(alpha=_decay, sigma=_growth, t_max=2.0, t_min=0.001)"
    with pytest.raises(ArgumentError, match="cannot be written as a plain dict"):
        DECAYING.to_dict()


def test_named():
    for family in DIFFUSION_SDES:
        assert named(family.name) == family()
    assert [family.name for family in DIFFUSION_SDES] == ["vp", "sub_vp", "ve", "cosine_vp", "edm", "flow"]
    with pytest.raises(UnknownNameError, match="unknown SDE 'cosine'; did you mean 'cosine_vp'"):
        named("cosine")


def test_from_dict_errors():
    with pytest.raises(ArgumentError, match="needs a 'type'"):
        from_dict({"beta_min": 0.1})
    with pytest.raises(UnknownNameError, match="did you mean 'VPSDE'"):
        from_dict({"type": "vpsde"})
    with pytest.raises(UnknownNameError, match="unknown SDE type"):
        from_dict({"type": ["VPSDE"]})
    with pytest.raises(ArgumentError, match=r"VPSDE does not take these parameters.*beta_maximum"):
        from_dict({"type": "VPSDE", "beta_maximum": 3.0})
    with pytest.raises(ArgumentError, match="beta_max must be"):
        from_dict({"type": "VPSDE", "beta_max": [1.0, 2.0]})
    with pytest.raises(ArgumentError, match="does not take these parameters"):
        from_dict({"type": "OrnsteinUhlenbeck", "theta": [[1.0], [1.0, 2.0]]})
    with pytest.raises(ArgumentError, match="expected an SDE's dict"):
        from_dict("VPSDE")


def _same(x: float) -> float:
    return x


BAD = [
    (lambda: VPSDE(beta_min=-1.0), "beta_min must be a finite number above 0, got -1.0"),
    (lambda: VPSDE(beta_min=True), "beta_min"),
    (lambda: VPSDE(beta_max=math.inf), "beta_max must be a finite number"),
    (lambda: VPSDE(beta_min=3.0, beta_max=2.0), "beta_min <= beta_max, got 3.0 and 2.0"),
    (lambda: VPSDE(t_min=1.0), "t_min < t_max, got t_min=1.0"),
    (lambda: VPSDE(t_min=-0.1), "t_min"),
    (lambda: VPSDE(t_min="a"), "t_min must be a finite number, got 'a'"),
    (lambda: VPSDE(t_min=math.nan), "t_min"),
    (lambda: SubVPSDE(beta_max=torch.tensor(3.0)), "beta_max must be a finite number, got tensor"),
    (lambda: SubVPSDE(beta_min=0.0), "beta_min"),
    (lambda: VESDE(sigma_min=0.0), "sigma_min must be a finite number above 0"),
    (lambda: VESDE(sigma_max=0.01), "sigma_min < sigma_max"),
    (lambda: VESDE(sigma_max=None), "sigma_max"),
    (lambda: EDMSDE(t_max=0.0), "t_max must be"),
    (lambda: EDMSDE(t_min=100.0), "t_min=100.0, t_max=80.0"),
    (lambda: CosineVPSDE(s=0.0), "s must be a finite number above 0"),
    (lambda: CosineVPSDE(beta_max=0.01), "beta_max = 0.01 is below"),
    (lambda: FlowSDE(t_max=1.0), "singular at t = 1: t_max must be below 1, got 1.0"),
    (lambda: FlowSDE(t_max="a"), "t_max must be a finite number"),
    (lambda: FlowSDE(t_min=0.9995), "t_min"),
    (lambda: CustomDiffusionSDE(1.0, torch.sin), "alpha and sigma must be functions"),
    (lambda: CustomDiffusionSDE(torch.cos, lambda t: 1.0), r"sigma\(t\) must return a tensor, got float"),
    (lambda: CustomDiffusionSDE(torch.sum, torch.sin), r"alpha\(t\) must have the shape of t"),
    (lambda: CustomDiffusionSDE(torch.cos, torch.cos), "with sigma/alpha increasing"),
    (lambda: CustomDiffusionSDE(torch.neg, torch.sin), "must be positive"),
    (lambda: CustomDiffusionSDE(torch.cos, torch.sin, t_max="a"), "t_max"),
    (lambda: CustomDiffusionSDE(torch.cos, torch.sin, t_max=1.0, t_min=2.0), "t_min"),
    (lambda: SDE(3.0, 1.0), "drift must be a function of"),
    (lambda: SDE(_same, "a"), "diffusion, being neither a function"),
    (lambda: SDE(_same, math.nan), "diffusion"),
    (
        lambda: SDE(_same, 1.0, noise="white"),
        "noise must be one of scalar, additive, diagonal, commutative, general, got 'white'",
    ),
    (lambda: SDE(_same, 1.0, calculus="itô"), "calculus must be one of ito, stratonovich"),
    (lambda: SDE(_same, _same, noise="general"), "noise_dim"),
    (lambda: SDE(_same, _same, noise="scalar", noise_dim=2), "noise_dim"),
    (lambda: SDE(_same, _same, noise="general", noise_dim=0), "noise_dim must be an integer of at least 1, got 0"),
    (lambda: SDE(_same, 1.0, noise="general", noise_dim=2), "general noise with noise_dim needs a diffusion of shape"),
]


@pytest.mark.parametrize(("make", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_parameters(make, message):
    with pytest.raises(ArgumentError, match=message):
        make()


# Random parameters ---------------------------------------------------------------------------------------------------


def between(low: float, high: float) -> st.SearchStrategy[float]:
    """Floats spread evenly in their logarithm."""
    return st.floats(math.log(low), math.log(high)).map(math.exp)


def linear_beta(family):
    return st.builds(
        lambda low, rise, t_min: family(low, low + rise, t_min),
        between(1e-3, 10),
        between(1e-6, 100),
        between(1e-9, 0.1),
    )


random_sde = st.one_of(
    linear_beta(VPSDE),
    linear_beta(SubVPSDE),
    st.builds(lambda low, ratio: VESDE(low, low * ratio), between(1e-4, 10), between(1.5, 1e5)),
    st.builds(CosineVPSDE, s=between(1e-4, 0.5), beta_max=between(20, 1e5)),
    st.builds(EDMSDE, t_min=between(1e-6, 0.1), t_max=between(0.2, 1e4)),
    st.builds(FlowSDE, t_min=between(1e-9, 0.1), t_max=st.floats(0.2, 0.99999)),
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(random_sde)
def test_any_valid_parameters(sde):
    assert eval(repr(sde), vars(sdes)) == sde
    again = from_dict(json.loads(json.dumps(sde.to_dict())))
    assert again == sde
    assert hash(again) == hash(sde)

    t = times(sde, 40)
    log_snr, f, g = sde.log_snr(t), sde.drift_coefficient(t), sde.diffusion_coefficient(t)
    assert (log_snr.diff() < 0).all()
    slope = (g / sde.sigma(t)).square()
    # Inverse: 1e-9, plus what 8 roundings of a log-SNR of this size (VE: of ln sigma_min) amount to in t.
    rounding = 8 * 2.3e-16 * (1 + log_snr.abs() + 20 * isinstance(sde, VESDE)) / slope
    assert ((sde.time_of_log_snr(log_snr) - t).abs() <= 1e-9 * t + rounding).all()
    # Drift and diffusion against autograd. 1e-7: alpha falls to 1e-5 with beta_max = 1e5 and costs ten digits of f.
    torch.testing.assert_close(f, derivative(sde.log_alpha, t), rtol=1e-7, atol=0)
    g_squared = derivative(lambda u: sde.sigma(u).square(), t) - 2 * f * sde.sigma(t).square()
    torch.testing.assert_close(g.square(), g_squared, rtol=1e-7, atol=0)


# SDEs of the user's own ----------------------------------------------------------------------------------------------


def _drift(x: Tensor, t: Tensor) -> Tensor:
    return -x * t


def test_user_sde_passes_its_functions_through():
    x, t = torch.tensor([[1.0, 2.0]]), torch.tensor(0.5)
    sde = SDE(_drift, lambda x, t: x * t, calculus="stratonovich")
    assert torch.equal(sde.drift(x, t), torch.tensor([[-0.5, -1.0]]))
    assert torch.equal(sde.diffusion(x, t), torch.tensor([[0.5, 1.0]]))
    assert (sde.noise, sde.calculus, sde.noise_dim) == ("diagonal", "stratonovich", None)
    network = torch.nn.Bilinear(2, 1, 2)
    module = SDE(lambda x, t: network(x, t.expand(1, 1)), network)
    assert torch.equal(module.drift(x, t), network(x, torch.tensor([[0.5]])))


@pytest.mark.parametrize(
    ("noise", "m", "shape", "expected"),
    [
        ("additive", None, (5, 3), (5, 3)),
        ("diagonal", None, (5, 3, 2, 2), (5, 3, 2, 2)),
        ("scalar", None, (5, 3), (5, 1)),
        ("scalar", None, (5, 3, 2, 2), (5, 1, 1, 1)),
        ("general", 4, (5, 3), (5, 4)),
        ("general", 4, (5, 3, 2, 2), (5, 4)),
    ],
)
def test_noise_shape(noise, m, shape, expected):
    sde = SDE(_drift, _drift, noise, noise_dim=m)
    assert sde.noise_shape(shape) == sde.noise_shape(torch.Size(shape)) == expected


@pytest.mark.parametrize("dtype", FLOATS)
def test_constant_diffusions_take_the_dtype_of_the_state(dtype):
    x, t = torch.ones(5, 3, dtype=dtype), torch.tensor(0.0)
    number = SDE(_drift, 2, "additive").diffusion(x, t)
    assert (number.dtype, number.shape, number.item()) == (dtype, (), 2.0)
    row = SDE(_drift, torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64), "additive").diffusion(x, t)
    assert (row.dtype, row.shape) == (dtype, (3,))
    matrix = torch.arange(6, dtype=torch.float64).reshape(3, 2)
    spread = SDE(_drift, matrix, "general", noise_dim=2).diffusion(x, t)
    assert (spread.dtype, spread.shape) == (dtype, (5, 3, 2))
    assert torch.equal(spread[4], matrix.to(dtype))


def test_a_float64_time_does_not_promote_the_state():
    x, t = torch.ones(5, 3), torch.full((5,), 0.1, dtype=torch.float64)
    sde = SDE(lambda x, t: -x * t, lambda x, t: t.sin())  # t comes as (5, 1)
    assert sde.drift(x, t).dtype == sde.diffusion(x, t).dtype == torch.float32


def test_wrong_shapes_and_types_of_user_functions():
    x, t = torch.ones(5, 3), torch.tensor(0.1)
    with pytest.raises(ShapeError, match=r"drift returned a tensor of shape \(5,\) for a state of shape \(5, 3\)"):
        SDE(lambda x, t: x[:, 0], 1.0).drift(x, t)
    with pytest.raises(ArgumentError, match="drift must return a tensor, got int"):
        SDE(lambda x, t: 0, 1.0).drift(x, t)
    # (5,) against (5, 1) would broadcast to (5, 5) without a word.
    with pytest.raises(ShapeError, match=r"diagonal noise expected a shape that broadcasts to \(5, 1\)"):
        SDE(_drift, lambda x, t: x[:, 0]).diffusion(torch.ones(5, 1), t)
    with pytest.raises(ShapeError, match=r"general noise expected \(5, 3, 2\)"):
        SDE(_drift, lambda x, t: x, "general", noise_dim=2).diffusion(x, t)
    with pytest.raises(ShapeError, match=r"general noise expected \(5, 3, 2\)"):
        SDE(_drift, torch.ones(4, 2), "general", noise_dim=2).diffusion(x, t)
    with pytest.raises(ShapeError, match="broadcasts"):
        SDE(_drift, torch.ones(2, 5, 3), "additive").diffusion(x, t)


def test_user_sde_as_a_value():
    sde = SDE(_drift, 0.5, "additive")
    assert repr(sde) == "SDE(drift=_drift, diffusion=0.5, noise='additive', calculus='ito')"
    general = SDE(torch.nn.Identity(), _drift, "general", "stratonovich", noise_dim=2)
    assert repr(general) == (
        "SDE(drift=Identity, diffusion=_drift, noise='general', calculus='stratonovich', noise_dim=2)"
    )
    assert SDE(_drift, float("0.5"), "additive") == sde
    assert hash(SDE(_drift, float("0.5"), "additive")) == hash(sde)
    assert SDE(_drift, 0.6, "additive") != sde
    assert SDE(_drift, 0.5, "diagonal") != sde
    constant = torch.ones(2)
    assert SDE(_drift, constant) == SDE(_drift, constant)
    assert SDE(_drift, constant) != SDE(_drift, torch.ones(2))
    owner = torch.nn.Identity()  # two takes of one bound method are equal but not identical
    assert SDE(owner.forward, 1.0) == SDE(owner.forward, 1.0)
    assert hash(SDE(owner.forward, 1.0)) == hash(SDE(owner.forward, 1.0))
    assert sde != VPSDE()
    with pytest.raises(ArgumentError, match="cannot be written as a plain dict"):
        sde.to_dict()
