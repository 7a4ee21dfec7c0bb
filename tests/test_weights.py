"""The weights of linear multistep samplers: closed forms, quadrature by another hand, and what follows from them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from _helpers import SDE_IDS, SDES, Case, end_moments, gaussian_model
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.polynomial import Polynomial
from scipy.integrate import quad
from torch import Tensor

import sdekit as sk
from sdekit.errors import ArgumentError, UnknownNameError
from sdekit.noise import KeyedNoise
from sdekit.sdes import EDMSDE, VESDE, VPSDE, CosineVPSDE, DiffusionSDE, FlowSDE, SubVPSDE
from sdekit.solvers.diffusion.levels import Levels
from sdekit.solvers.diffusion.weights import check_clock, check_representation, integral_weights, order_ramp

# sigma~, by unequal steps from well above the data to well below it.
RATIOS = (20.0, 11.0, 7.5, 3.0, 1.4, 0.9, 0.3, 0.05)
CLOCKS = ("lambda", "sigma", "theta", "theta/0.3", "t", "sigma^0.5", "sigma^2")
REPRESENTATIONS = ("noise", "data", "velocity")


def levels_at(ratios: Sequence[float], sde: DiffusionSDE | None = None) -> Levels:
    """The levels of a grid with these sigma~; EDM's times are they themselves."""
    sde = EDMSDE() if sde is None else sde
    return Levels(sde, sde.time_of_sigma_ratio(torch.tensor(ratios, dtype=torch.float64)))


def reaches_zero(sde: DiffusionSDE) -> bool:
    """Whether sigma is 0 at t = 0; VE's is sigma_min there."""
    return float(sde.sigma(0.0)) == 0


def full(levels: Levels, order: int) -> Tensor:
    return order_ramp(len(levels), order)


def basis(nodes: Sequence[float]) -> list[Polynomial]:
    """The Lagrange polynomials of the nodes."""
    out = []
    for j, node in enumerate(nodes):
        others = [n for k, n in enumerate(nodes) if k != j]
        scale = math.prod(node - n for n in others)
        out.append(Polynomial.fromroots(others) / scale if others else Polynomial([1.0]))
    return out


def past(values: Sequence[float], step: int, order: int, ahead: int = 0) -> list[float]:
    """The nodes of a step, newest first."""
    return [values[step + ahead - j] for j in range(order)]


# Closed forms --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ahead", [0, 1])
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_the_noise_in_sigma_is_the_integral_of_the_lagrange_polynomial(order, ahead):
    levels = levels_at(RATIOS)
    found = integral_weights(levels, "noise", "sigma", full(levels, order), ahead=ahead)
    for i in range(order - 1, len(levels)):
        a, b = RATIOS[i], RATIOS[i + 1]
        expected = [p.integ()(b) - p.integ()(a) for p in basis(past(RATIOS, i, order, ahead))]
        # The polynomials of four such nodes have entries of up to 1e2 times their integral.
        assert found[i].tolist() == pytest.approx(expected, rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("ahead", [0, 1])
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_the_velocity_in_theta_is_the_integral_of_the_lagrange_polynomial(order, ahead):
    levels = levels_at(RATIOS)
    theta = [math.atan(r) for r in RATIOS]
    found = integral_weights(levels, "velocity", "theta", full(levels, order), ahead=ahead)
    for i in range(order - 1, len(levels)):
        expected = [p.integ()(theta[i + 1]) - p.integ()(theta[i]) for p in basis(past(theta, i, order, ahead))]
        assert found[i].tolist() == pytest.approx(expected, rel=1e-9, abs=1e-12)


def moments(rate: float, count: int) -> list[float]:
    """rate int_0^1 e^{-rate (1 - u)} u^k du = k! rate phi_{k+1}(-rate), by the recursion of the phi functions."""
    z, phi = -rate, math.exp(-rate)
    out = []
    for k in range(count):
        phi = (phi - 1 / math.factorial(k)) / z
        out.append(math.factorial(k) * rate * phi)
    return out


@pytest.mark.parametrize("ahead", [0, 1])
@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_the_data_in_lambda_is_given_by_phi_functions(order, tau, ahead):
    levels = levels_at(RATIOS)
    lam = [-math.log(r) for r in RATIOS]
    taus = torch.full((len(levels),), tau, dtype=torch.float64)
    found = integral_weights(levels, "data", "lambda", full(levels, order), ahead=ahead, tau=taus)
    for i in range(order - 1, len(levels)):
        h = lam[i + 1] - lam[i]
        nodes = [(node - lam[i]) / h for node in past(lam, i, order, ahead)]
        moment = moments((1 + tau**2) * h, order)
        expected = [sum(c * m for c, m in zip(p.coef, moment, strict=False)) for p in basis(nodes)]
        # The recursion loses a digit or so a round where rate < 1.
        assert found[i].tolist() == pytest.approx(expected, rel=1e-9, abs=1e-10)


@pytest.mark.parametrize("representation", ["data", "velocity"])
def test_without_tau_is_with_tau_0(representation):
    levels = levels_at(RATIOS)
    zero = torch.zeros(len(levels), dtype=torch.float64)
    with_tau = integral_weights(levels, representation, "sigma", full(levels, 3), tau=zero)
    assert torch.equal(integral_weights(levels, representation, "sigma", full(levels, 3)), with_tau)


def test_each_step_has_the_tau_it_is_given():
    levels = levels_at(RATIOS)
    tau = torch.linspace(0, 1.2, len(levels), dtype=torch.float64)
    mixed = integral_weights(levels, "data", "lambda", full(levels, 2), tau=tau)
    for i in range(len(levels)):
        alone = integral_weights(levels, "data", "lambda", full(levels, 2), tau=torch.full_like(tau, float(tau[i])))
        assert torch.equal(mixed[i], alone[i])


# By another quadrature -----------------------------------------------------------------------------------------------


def kernel(representation: str, tau: float, end: float) -> Callable[[float], float]:
    """The integrand's weight as a function of lambda, from the equations of `weights`."""
    if representation == "noise":  # dsigma~
        return lambda lam: -math.exp(-lam)
    if representation == "velocity":  # dtheta, theta = arctan e^{-lambda}
        last = math.cos(math.atan(math.exp(-end)))
        return lambda lam: -(1 + tau**2) / (2 * math.cosh(lam)) * (math.cos(math.atan(math.exp(-lam))) / last) ** tau**2
    return lambda lam: (1 + tau**2) * math.exp(-(1 + tau**2) * (end - lam))


def clock_value(clock: str, sde: DiffusionSDE, lam: float) -> float:
    ratio = math.exp(-lam)
    if clock == "t":
        return float(sde.time_of_sigma_ratio(torch.tensor(ratio, dtype=torch.float64)))
    if clock.startswith("theta/"):
        return math.atan(ratio / float(clock.removeprefix("theta/")))
    plain = {"lambda": lam, "sigma": ratio, "theta": math.atan(ratio)}
    return plain[clock] if clock in plain else ratio ** float(clock.removeprefix("sigma^"))


def by_quad(
    sde: DiffusionSDE, ratios: Sequence[float], step: int, how: tuple[str, str, int, int], tau: float
) -> list[float]:
    representation, clock, order, ahead = how
    lam = [-math.log(r) for r in ratios]
    weight = kernel(representation, tau, lam[step + 1])
    polynomials = basis([clock_value(clock, sde, place) for place in past(lam, step, order, ahead)])

    def integral(p: Polynomial) -> float:
        def integrand(place: float) -> float:
            return weight(place) * p(clock_value(clock, sde, place))

        value, _ = quad(integrand, lam[step], lam[step + 1], epsabs=1e-13, epsrel=1e-12)
        return value

    return [integral(p) for p in polynomials]


@pytest.mark.parametrize("sde", [VPSDE(), SubVPSDE(), VESDE(), FlowSDE(), CosineVPSDE()], ids=lambda sde: sde.name)
@pytest.mark.parametrize("representation", REPRESENTATIONS)
@pytest.mark.parametrize("clock", [c for c in CLOCKS if c != "sigma"])
def test_quadrature_by_scipy_agrees(clock, representation, sde):
    levels = levels_at(RATIOS, sde)
    tau = 0.0 if representation == "noise" else 0.7
    taus = torch.full((len(levels),), tau, dtype=torch.float64)
    # Predictor and corrector, of odd and even order, at both ends of the grid.
    for order, ahead, step in ((3, 0, 2), (2, 1, len(levels) - 1)):
        found = integral_weights(levels, representation, clock, full(levels, order), ahead=ahead, tau=taus)
        expected = by_quad(sde, RATIOS, step, (representation, clock, order, ahead), tau)
        size = sum(map(abs, expected))
        assert found[step].tolist() == pytest.approx(expected, rel=1e-8, abs=1e-10 * size)


def test_a_long_step_is_integrated_too():
    # 9 units of lambda in one step: more than one panel of the quadrature.
    ratios = (80.0, 40.0, 0.005)
    levels = levels_at(ratios)
    for representation, clock in itertools.product(REPRESENTATIONS, ("theta", "sigma^0.5")):
        found = integral_weights(levels, representation, clock, full(levels, 2))
        expected = by_quad(EDMSDE(), ratios, 1, (representation, clock, 2, 0), 0.0)
        assert found[1].tolist() == pytest.approx(expected, rel=1e-9)


def test_a_kernel_of_the_users_own():
    # int e^{-2 l} (-sigma~ polynomial) dl with sigma~ = e^{-l}: the integral of s^2 ds/s = (b^2 - a^2)/2 for order 1.
    levels = levels_at(RATIOS)
    found = integral_weights(levels, "data", "sigma", full(levels, 2), kernel=lambda lam: -torch.exp(-2 * lam))
    a, b = levels.a, levels.b
    assert torch.allclose(found.sum(1), (b.square() - a.square()) / 2, rtol=1e-12)
    first = found[:, 0] * levels.a
    first[1:] += found[1:, 1] * levels.a[:-1]
    # A straight line in sigma~ is integrated exactly where two values are at hand.
    assert torch.allclose(first[1:], ((b**3 - a**3) / 3)[1:], rtol=1e-11)


# A polynomial of degree below the order is integrated exactly -----------------------------------------------------


gaps = st.lists(st.floats(0.15, 1.2), min_size=5, max_size=6)
slopes = st.lists(st.floats(-2, 2), min_size=4, max_size=4)


def exact_monomial(representation: str, clock: str, ratios: list[float], k: int) -> float:
    """The integral over the last step of clock^k."""
    a, b = ratios[-2], ratios[-1]
    if representation == "velocity":  # in theta
        return (math.atan(b) ** (k + 1) - math.atan(a) ** (k + 1)) / (k + 1)
    power = 1.0 if clock == "sigma" else float(clock.removeprefix("sigma^"))
    return (b ** (k * power + 1) - a ** (k * power + 1)) / (k * power + 1)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    gaps=gaps,
    coefficients=slopes,
    order=st.integers(1, 4),
    ahead=st.sampled_from([0, 1]),
    how=st.sampled_from([("noise", "sigma"), ("noise", "sigma^0.5"), ("noise", "sigma^2"), ("velocity", "theta")]),
    rising=st.booleans(),
)
def test_a_polynomial_of_degree_below_the_order_is_exact(gaps, coefficients, order, ahead, how, rising):
    representation, clock = how
    ratios = [4 * math.exp(-total) for total in itertools.accumulate([0.0, *gaps])]
    ratios = ratios[::-1] if rising else ratios
    levels = levels_at(ratios)
    weights = integral_weights(levels, representation, clock, full(levels, order), ahead=ahead)[-1]
    nodes = [clock_value(clock, levels.sde, -math.log(r)) for r in past(ratios, len(levels) - 1, order, ahead)]
    terms = [(c, k) for k, c in enumerate(coefficients[:order])]
    values = [sum(c * node**k for c, k in terms) for node in nodes]
    found = sum(w * v for w, v in zip(weights.tolist(), values, strict=True))
    expected = sum(c * exact_monomial(representation, clock, ratios, k) for c, k in terms)
    # Rounding of the sum's own terms, and of the Lagrange basis on unequal nodes.
    size = sum(abs(w) for w in weights.tolist()) * sum(abs(c) * max(nodes) ** k for c, k in terms)
    assert found == pytest.approx(expected, abs=1e-11 * size + 1e-14)


# Constants -----------------------------------------------------------------------------------------------------------


def total(levels: Levels, representation: str, tau: float) -> Tensor:
    """What the integral of the kernel is."""
    if representation == "noise":
        return levels.b - levels.a
    if representation == "velocity":
        a, b = torch.arctan(levels.a), torch.arctan(levels.b)
        # int 2 cos(theta)/cos(theta_b) dtheta for tau = 1.
        return b - a if tau == 0 else 2 * (torch.sin(b) - torch.sin(a)) / torch.cos(b)
    return 1 - (levels.b / levels.a) ** (1 + tau**2)


@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("representation", REPRESENTATIONS)
@pytest.mark.parametrize("sde", SDES, ids=SDE_IDS)
def test_the_weights_of_a_constant_add_up_to_the_kernels_integral(sde, representation, clock):
    for ratios in (RATIOS, RATIOS[::-1], *([(*RATIOS, 0.0)] if reaches_zero(sde) else [])):
        levels = levels_at(ratios, sde)
        for order, ahead, tau in ((1, 0, 0.0), (3, 0, 1.0), (4, 1, 0.0), (2, 1, 1.0)):
            if ahead and ratios[-1] == 0 and clock == "lambda":
                continue  # a corrector at infinite lambda; no table uses it
            tau = 0.0 if representation == "noise" else tau
            taus = torch.full((len(levels),), tau, dtype=torch.float64)
            weights = integral_weights(levels, representation, clock, full(levels, order), ahead=ahead, tau=taus)
            expected = total(levels, representation, tau)
            # The terms are larger than their sum, by a few tens where four nodes are unequal.
            error = (weights.sum(1) - expected).abs() / weights.abs().sum(1)
            assert float(error.max()) < 1e-10


# Rows ----------------------------------------------------------------------------------------------------------------


def test_the_order_grows_as_the_past_fills():
    assert order_ramp(5, 3).tolist() == [1, 2, 3, 3, 3]
    assert order_ramp(2, 3).tolist() == [1, 2]
    assert order_ramp(5, 3, first=2).tolist() == [2, 2, 3, 3, 3]
    assert order_ramp(3, 1).tolist() == [1, 1, 1]


def test_a_row_takes_no_more_values_than_its_order():
    levels = levels_at(RATIOS)
    orders = torch.tensor([1, 2, 1, 3, 0, 2, 3])
    weights = integral_weights(levels, "noise", "theta", orders)
    assert weights.shape == (7, 3)
    assert weights.ne(0).sum(1).tolist() == orders.tolist()
    for i, order in enumerate(orders.tolist()):
        if order:
            same = integral_weights(levels, "noise", "theta", full(levels, order))
            assert torch.equal(weights[i, :order], same[i])


def test_a_step_looks_at_its_own_past_alone():
    levels, changed = levels_at(RATIOS), levels_at((50.0, *RATIOS[1:-1], 0.01))
    a, b = (integral_weights(one, "velocity", "sigma", full(one, 3)) for one in (levels, changed))
    # The longest step of a grid sets how finely all are summed: equal to the rounding of that.
    assert torch.allclose(a[3:-1], b[3:-1], rtol=1e-13, atol=0)
    assert not torch.allclose(a[2], b[2], rtol=1e-6)  # three values, the first among them
    assert not torch.allclose(a[-1], b[-1], rtol=1e-6)


# To sigma = 0 --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("representation", REPRESENTATIONS)
def test_lambda_holds_the_newest_value_to_sigma_0(representation):
    levels = levels_at((*RATIOS, 0.0))
    last = integral_weights(levels, representation, "lambda", full(levels, 4))[-1]
    assert last[1:].tolist() == [0, 0, 0]
    assert float(last[0]) == pytest.approx(float(total(levels, representation, 0.0)[-1]), rel=1e-13)


@pytest.mark.parametrize("ahead", [0, 1])
@pytest.mark.parametrize("clock", [c for c in CLOCKS if c != "lambda"])
@pytest.mark.parametrize("representation", REPRESENTATIONS)
def test_other_clocks_carry_their_polynomial_to_sigma_0(representation, clock, ahead):
    # The integral to a level so low that nothing is missing.
    there, near = levels_at((*RATIOS, 0.0)), levels_at((*RATIOS, 1e-12))
    at, beside = (integral_weights(one, representation, clock, full(one, 3), ahead=ahead)[-1] for one in (there, near))
    assert bool(torch.isfinite(at).all())
    assert at.ne(0).all()
    # sigma^0.5 at 1e-12 is 1e-6 from its value at 0.
    assert torch.allclose(at, beside, rtol=1e-4 if clock == "sigma^0.5" else 1e-9, atol=1e-5 * float(at.abs().max()))


def test_the_noise_in_sigma_to_0_is_still_exact():
    levels = levels_at((*RATIOS, 0.0))
    found = integral_weights(levels, "noise", "sigma", full(levels, 3))[-1]
    expected = [p.integ()(0.0) - p.integ()(RATIOS[-1]) for p in basis(past((*RATIOS, 0.0), 7, 3))]
    assert found.tolist() == pytest.approx(expected, rel=1e-10)


# The SDE does not matter, nor the direction --------------------------------------------------------------------------


@pytest.mark.parametrize("clock", [c for c in CLOCKS if c != "t"])
@pytest.mark.parametrize("representation", REPRESENTATIONS)
def test_the_weights_depend_on_the_noise_levels_alone(representation, clock):
    first, *others = (
        integral_weights(levels, representation, clock, full(levels, 3))
        for levels in (levels_at(RATIOS, sde) for sde in SDES)
    )
    for weights in others:
        # sigma~ comes back from its time to 1e-13 or so, and the nodes' differences amplify that.
        assert torch.allclose(weights, first, rtol=1e-9, atol=1e-11)


def test_the_clock_t_knows_its_sde():
    vp, ve = (integral_weights(one, "noise", "t", full(one, 2)) for one in (levels_at(RATIOS, s) for s in SDES[:3:2]))
    assert not torch.allclose(vp[1:], ve[1:], rtol=1e-2)


@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("representation", ["noise", "velocity"])
def test_a_step_up_is_minus_the_step_down(representation, clock):
    # The trapezium of the two ends of a step: the same line, integrated the other way.
    down, up = levels_at(RATIOS, VPSDE()), levels_at(RATIOS[::-1], VPSDE())
    falls, rises = (integral_weights(one, representation, clock, full(one, 2) * 0 + 2, ahead=1) for one in (down, up))
    assert torch.allclose(rises, -falls.flip(0).flip(1), rtol=1e-10)


# What is refused -----------------------------------------------------------------------------------------------------


def test_names():
    assert [check_clock(c) for c in CLOCKS] == list(CLOCKS)
    assert [check_representation(r) for r in REPRESENTATIONS] == list(REPRESENTATIONS)
    with pytest.raises(UnknownNameError, match="did you mean 'sigma'"):
        check_clock("sgma")
    with pytest.raises(UnknownNameError, match="unknown representation 'eps'"):
        check_representation("eps")
    for bad in ("sigma^", "sigma^0", "sigma^-1", "sigma^x", "sigma^inf", "sigma^nan", "theta/", "theta/0", "theta/-2"):
        with pytest.raises(ArgumentError, match=r"number in clock .* must be above 0"):
            check_clock(bad)
    with pytest.raises(UnknownNameError):
        check_clock(3)


# Samplers that are one method under two names ------------------------------------------------------------------------


def network(x: Tensor, t: Tensor) -> Tensor:
    return torch.tanh(x + 0.3 * t[:, None]) + 0.1 * x


def ratios_for(sde: DiffusionSDE, zero: bool) -> Tensor:
    ratios = [*RATIOS, 0.0] if zero else list(RATIOS)
    return sde.time_of_sigma_ratio(torch.tensor(ratios, dtype=torch.float64))


def end(solver: str, sde: DiffusionSDE, times: Tensor, **options) -> Tensor:
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noise = KeyedNoise(3) if sk.solvers.get(solver, **options).stochastic else None
    model = sk.ScoreModel(network, sde)
    return sk.sample(model, None, solver, grid=times, x_T=x * sde.prior_std(float(times[0])), noise=noise, **options).x


Named = tuple[str, dict[str, object]]


def adams(representation: str, clock: str, predictor: int, corrector: int, tau: float = 0.0) -> Named:
    how = {"representation": representation, "clock": clock, "predictor": predictor, "corrector": corrector}
    return "adams", {**how, "tau": tau}


EVERYWHERE = {"sigma_low": 0.0, "sigma_high": 1e9}
# Each row is one method; `to_zero` where it is the same in a step to sigma = 0 too.
SAME: dict[str, tuple[bool, list[Named]]] = {
    "first order": (
        True,
        [
            ("ddim", {}),
            ("euler", {}),
            ("deis", {"values": 1}),
            ("deis", {"values": 1, "variant": "t_ab"}),
            ("lms", {"values": 1}),
            ("ipndm", {"values": 1}),
            ("unip", {"p": 1}),
            ("unip", {"p": 1, "prediction": "noise"}),
            adams("noise", "theta", 1, 0),
            adams("data", "t", 1, 0),
            ("edm", {"s_churn": 0.0, "method": "euler"}),
            ("euler_ancestral", {"eta": 0.0}),
        ],
    ),
    "AB in sigma, 2": (False, [adams("noise", "sigma", 2, 0), ("deis", {"values": 2}), ("lms", {"values": 2})]),
    "AB in sigma, 3": (False, [adams("noise", "sigma", 3, 0), ("deis", {"values": 3}), ("lms", {"values": 3})]),
    "AB in sigma, 4": (False, [adams("noise", "sigma", 4, 0), ("deis", {"values": 4}), ("lms", {"values": 4})]),
    "AB in t": (False, [adams("noise", "t", 3, 0), ("deis", {"values": 3, "variant": "t_ab"})]),
    "data in lambda, 2": (True, [adams("data", "lambda", 2, 0), ("dpmpp_2m", {"variant": "exact"})]),
    "data in lambda, 3": (True, [adams("data", "lambda", 3, 0), ("dpmpp_3m", {}), ("dpmpp_3m_sde", {"eta": 0.0})]),
    "noise in lambda, 2": (True, [adams("noise", "lambda", 2, 0), ("dpm_solver_2m", {"variant": "exact"})]),
    "noise in lambda, 3": (True, [adams("noise", "lambda", 3, 0), ("dpm_solver_3m", {})]),
    "velocity in lambda": (True, [adams("velocity", "lambda", 3, 0), ("rosenbrock", {"values": 3})]),
    "predictor-corrector": (
        True,
        [adams("data", "lambda", 3, 4), ("sa_solver", {"tau": 0.0, "predictor": 3, "corrector": 4})],
    ),
    "predictor-corrector with noise": (
        True,
        [adams("data", "lambda", 3, 4, 1.0), ("sa_solver", {"tau": 1.0, "predictor": 3, "corrector": 4, **EVERYWHERE})],
    ),
    "2M": (True, [("dpmpp_2m", {}), ("dpmpp_2m_sde", {"eta": 0.0})]),
    "2M with noise": (True, [adams("data", "lambda", 2, 0, 0.5), ("dpmpp_2m_sde", {"eta": 0.25, "variant": "exact"})]),
    "3M with noise": (True, [adams("data", "lambda", 3, 0, 1.0), ("dpmpp_3m_sde", {})]),
    "2S": (
        True,
        [
            ("dpmpp_2s", {"r": 0.5}),
            ("dpmpp_sde", {"eta": 0.0, "r": 0.5}),
            ("dpmpp_2s_ancestral", {"eta": 0.0}),
        ],
    ),
    "midpoint in noise": (True, [("dpm_solver_2", {"r1": 0.5}), ("dpm_2_ancestral", {"eta": 0.0})]),
    "Heun": (True, [("heun", {}), ("edm", {"s_churn": 0.0}), ("rho_rk", {"method": "heun"})]),
    "RK4": (False, [("rk4", {}), ("rho_rk", {"method": "rk4"})]),
    "ancestral": (
        True,
        [
            ("ancestral", {}),
            ("ddim", {"eta": 1.0}),
            ("euler_ancestral", {}),
            adams("data", "lambda", 1, 0, 1.0),
        ],
    ),
}


@pytest.mark.parametrize("sde", [VPSDE(), VESDE(), FlowSDE()], ids=lambda sde: sde.name)
@pytest.mark.parametrize("method", SAME)
def test_one_method_has_one_result(method, sde):
    to_zero, named = SAME[method]
    for zero in (False, True)[: 1 + (to_zero and reaches_zero(sde))]:
        times = ratios_for(sde, zero)
        first, *others = (end(name, sde, times, **options) for name, options in named)
        for (name, options), other in zip(named[1:], others, strict=True):
            # Seven steps of rounding; what is 1 - r in one is written by a, b or expm1 in another.
            assert torch.allclose(other, first, rtol=1e-9, atol=1e-9 * float(first.abs().max())), (name, options, zero)


def test_dpmpp_2m_is_not_its_exact_variant():
    # The comparison above can fail: midpoint and exact weights differ by a per cent or so here.
    times = ratios_for(VPSDE(), False)
    a, b = end("dpmpp_2m", VPSDE(), times), end("dpmpp_2m", VPSDE(), times, variant="exact")
    assert not torch.allclose(a, b, rtol=1e-4)


@pytest.mark.parametrize("sde", [VPSDE(), EDMSDE()], ids=lambda sde: sde.name)
def test_unip_and_unipc_are_adams_once_their_order_is_reached(sde):
    # At order 2 (of the predictor) and 1 (of the corrector) the paper takes rho = 1/2, in the ramp too.
    times = ratios_for(sde, False)
    tables = [sk.solvers.get(name, **options).table(sde, times) for name, options in _UNIFIED]
    for paper, ours in zip(tables[::2], tables[1::2], strict=True):
        assert torch.allclose(paper.state.x, ours.state.x, rtol=1e-13)
        # Row i of a corrector corrects step i - 1.
        assert torch.allclose(paper.state.m[3:], ours.state.m[3:], rtol=1e-12, atol=1e-14)
        assert torch.allclose(paper.point.m[2:], ours.point.m[2:], rtol=1e-12, atol=1e-14)
        assert not torch.allclose(paper.state.m[1], ours.state.m[1], rtol=1e-3)


_UNIFIED = (
    ("unip", {"p": 3}),
    adams("data", "lambda", 3, 0),
    ("unip", {"p": 3, "prediction": "noise", "variant": "bh1"}),
    adams("noise", "lambda", 3, 0),
    ("unipc", {"p": 3}),
    adams("data", "lambda", 3, 4),
    ("unipc", {"p": 3, "prediction": "noise"}),
    adams("noise", "lambda", 3, 4),
)


@pytest.mark.parametrize("values", [2, 3, 4])
def test_ipndm_is_lms_where_the_steps_are_equal(values):
    sde = VESDE()
    times = sde.time_of_sigma_ratio(torch.linspace(10.0, 1.0, 10, dtype=torch.float64))
    a, b = end("ipndm", sde, times, values=values), end("lms", sde, times, values=values)
    # VE's times give the levels back to 1e-13 of their steps.
    assert torch.allclose(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("c", [0.5, 0.8])
def test_seeds_2_without_noise_is_the_exponential_runge_kutta_step(c):
    # x~_b = r x~ + (1 - r) D_0 + [1 - (1 - r)/h] (D_1 - D_0)/c, Hochbruck & Ostermann 2010, eq. 2.34.
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * RATIOS[0]
    start = x.clone()

    def denoised(y: Tensor, sigma: float) -> Tensor:
        return y - sigma * network(y, torch.full((5,), sigma, dtype=y.dtype))

    for a, b in itertools.pairwise(RATIOS):
        h = math.log(a / b)
        s = a * math.exp(-c * h)
        d0 = denoised(x, a)
        d1 = denoised(s / a * x + (1 - s / a) * d0, s)
        x = b / a * x + (1 - b / a) * d0 + (1 - (1 - b / a) / h) / c * (d1 - d0)
    model = sk.ScoreModel(network, EDMSDE())
    got = sk.sample(model, None, "seeds_2", grid=list(RATIOS), x_T=start, eta=0.0, c=c).x
    assert torch.allclose(got, x, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("sde", SDES, ids=SDE_IDS)
@pytest.mark.parametrize("clock", ["lambda", "theta/0.3"])
def test_the_velocity_in_the_angle_is_exact_for_unit_gaussians(sde, clock):
    # v = 0 there: x^ stays as it is, in however few steps.
    start, last = (float(sde.time_of_sigma_ratio(torch.tensor(r, dtype=torch.float64))) for r in (20.0, 0.05))
    x = torch.linspace(-2, 2, 5, dtype=torch.float64)[:, None]
    model = gaussian_model(sde)
    out = sk.sample(model, None, "adams", 2, clock=clock, x_T=x, t_start=start, t_end=last, grid="log_snr").x

    def deviation(t: float) -> float:
        return math.hypot(float(sde.alpha(t)), float(sde.sigma(t)))

    assert torch.allclose(out, x * deviation(last) / deviation(start), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("tau", [0.5, 1.0])
def test_with_noise_too_the_velocity_is_exact_for_unit_gaussians(tau):
    # The noise keeps the variance that the decay loses, in however few steps: read off without Monte Carlo.
    case = Case("adams", {"representation": "velocity", "tau": tau})
    sde = VPSDE()
    times = sde.time_of_sigma_ratio(torch.tensor([20.0, 0.9, 0.05], dtype=torch.float64))
    mean, variance = end_moments(case, gaussian_model(sde), 2, 0.0, 1.0, grid=times)
    # VP of unit data has variance 1 at all times.
    assert mean == pytest.approx(0, abs=1e-12)
    assert variance == pytest.approx(1, rel=1e-12)


def test_an_adams_that_holds_its_last_level_is_that_to_the_level():
    # x~ at sigma~ = 0.02 is taken for that at 0, where alpha = 1.
    sde = VPSDE()
    level = sde.time_of_sigma_ratio(torch.tensor([0.02], dtype=torch.float64))
    times, zero = ratios_for(sde, False), torch.zeros(1, dtype=torch.float64)
    held = end("adams", sde, torch.cat([times, zero]), hold=0.02)
    expected = end("adams", sde, torch.cat([times, level])) / sde.alpha(level)
    assert torch.allclose(held, expected, rtol=1e-11, atol=1e-11)


def test_an_encode_by_adams_is_undone_by_its_decode():
    # A multistep method on a rising grid: forth and back differ by both errors, which fall with the order's power.
    model = gaussian_model(VPSDE(), 0.3, 0.5)
    x = torch.tensor([[-1.0], [0.2], [1.7]], dtype=torch.float64)
    errors = []
    for steps in (40, 80):
        how = {"solver": "adams", "steps": steps, "predictor": 2, "corrector": 0, "representation": "noise"}
        errors.append(float((sk.decode(model, sk.encode(model, x, **how), **how) - x).abs().max()))
    assert errors[1] < 1e-2
    assert np.log2(errors[0] / errors[1]) > 1.6


@pytest.mark.parametrize("name", ["lms", "deis", "dpmpp_2m", "unipc", "adams", "dpm_solver_2", "rosenbrock"])
def test_a_solve_from_sigma_0_is_refused_where_its_first_step_has_no_length(name):
    model = sk.targets.ring().score_model(sk.EDMSDE())
    calls = []
    watched = sk.ScoreModel(lambda x, t: calls.append(1) or model.noise(x, t), model.sde)
    with pytest.raises(ArgumentError, match=r"sigma = 0.*start at t_min"):
        sk.solve(sk.ProbabilityFlow(watched), torch.ones(2, 2), solver=name, grid=[0.0, 1.0, 4.0])
    assert not calls
