"""Ornstein-Uhlenbeck and geometric Brownian motion against moment equations, simulation and limits."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
import math
import pickle

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from sdekit import sdes
from sdekit.errors import ArgumentError, ShapeError
from sdekit.sdes import GeometricBrownianMotion, OrnsteinUhlenbeck, from_dict

OUS = [
    OrnsteinUhlenbeck(),
    OrnsteinUhlenbeck(theta=3.0, mu=-0.5, sigma=0.4),
    OrnsteinUhlenbeck(theta=-0.7, mu=0.2, sigma=0.5),  # unstable
    OrnsteinUhlenbeck(theta=0.0, sigma=1.5),  # Brownian motion
]
GBMS = [
    GeometricBrownianMotion(),
    GeometricBrownianMotion(mu=-0.8, sigma=1.1),
    GeometricBrownianMotion(mu=0.3, sigma=0.0),
]
TIMES = [1e-3, 0.1, 0.7, 2.0]
both = pytest.mark.parametrize("sde", [*OUS, *GBMS], ids=repr)


def moments_by_ode(sde, x0: float) -> np.ndarray:
    """E[X] and E[X^2] at TIMES from dE[X]/dt = E[f], dE[X^2]/dt = 2 E[X f] + E[g^2], for f and g affine in x."""
    points = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    now = torch.tensor(0.0, dtype=torch.float64)
    (f0,), (f1,) = sde.drift(points, now).tolist()
    (g0,), (g1,) = sde.diffusion(points, now).expand(2, 1).tolist()

    def rate(_, y):
        first, second = y
        g_squared = g0**2 + 2 * g0 * (g1 - g0) * first + (g1 - g0) ** 2 * second
        return [f0 + (f1 - f0) * first, 2 * (f0 * first + (f1 - f0) * second) + g_squared]

    return solve_ivp(rate, (0.0, TIMES[-1]), [x0, x0 * x0], "DOP853", TIMES, rtol=1e-12, atol=1e-14).y


@both
def test_moment_equations_give_the_marginal(sde):
    x0 = 1.3
    first, second = moments_by_ode(sde, x0)
    mean, std = sde.marginal(torch.full((4, 1), x0, dtype=torch.float64), torch.tensor(TIMES, dtype=torch.float64))
    # 1e-9: rtol = 1e-12 a step; the variance at t = 1e-3 is a difference of terms a thousand times larger.
    np.testing.assert_allclose(mean[:, 0].numpy(), first, rtol=1e-9)
    np.testing.assert_allclose(std.square().expand(4, 1)[:, 0].numpy(), second - first**2, rtol=1e-9, atol=1e-11)


@both
def test_simulated_paths_have_the_marginal(sde):
    """Euler-Maruyama to t = 1."""
    generator = torch.Generator().manual_seed(0)
    n, steps = 20_000, 400
    x = torch.full((n, 1), 1.3)
    for t, s in itertools.pairwise(torch.linspace(0, 1, steps + 1, dtype=torch.float64)):
        x = (
            x
            + sde.drift(x, t) * (s - t)
            + sde.diffusion(x, t) * torch.randn(n, 1, generator=generator) * (s - t).sqrt()
        )
    mean, std = sde.marginal(torch.full((1, 1), 1.3), 1.0)
    # 5 standard errors, and the Euler bias f^2 h/2, at most 1.1 % (theta = 3).
    assert abs(x.mean().item() - mean.item()) <= 5 * std.item() / n**0.5 + 0.012 * abs(mean.item())
    # 5 standard errors of a Gaussian's are 2.5 %; the log-normal with sigma = 1.1 has a kurtosis of 50: 18 %.
    heavy = isinstance(sde, GeometricBrownianMotion) and sde.sigma > 1
    assert x.std().item() == pytest.approx(std.item(), rel=0.18 if heavy else 0.035, abs=1e-6)


def test_ornstein_uhlenbeck_limits():
    x0 = torch.tensor([[2.0]], dtype=torch.float64)
    sde = OrnsteinUhlenbeck(theta=0.5, mu=1.0, sigma=0.3)
    mean, std = sde.marginal(x0, 200.0)  # the stationary law; e^{-100} is nothing
    assert mean.item() == 1.0
    assert std.item() == pytest.approx(0.3, rel=1e-15)  # sigma/sqrt(2 theta)
    mean, std = sde.marginal(x0, 0.0)
    assert (mean.item(), std.item()) == (2.0, 0.0)
    for t in TIMES:
        brownian = math.sqrt(t) * 0.3
        assert OrnsteinUhlenbeck(theta=0.0, sigma=0.3).marginal(x0, t)[1].item() == pytest.approx(brownian, rel=1e-15)
        for theta in (1e-300, 1e-20, -1e-20, 1e-12):
            mean, std = OrnsteinUhlenbeck(theta=theta, sigma=0.3).marginal(x0, t)
            # 1e-11: the first-order term theta t / 2; 1 - exp would be all noise.
            assert std.item() == pytest.approx(brownian, rel=1e-11)
            assert mean.item() == pytest.approx(2.0, rel=1e-11)
    # sigma and -sigma are the same law.
    assert OrnsteinUhlenbeck(sigma=-0.3).marginal(x0, 1.0) == OrnsteinUhlenbeck(sigma=0.3).marginal(x0, 1.0)


@pytest.mark.parametrize("t", [-1.0, torch.tensor([0.5, -0.1])], ids=["number", "batch"])
def test_no_law_of_the_past(t):
    x0 = torch.ones(2, 1)
    for sde in (OrnsteinUhlenbeck(), GeometricBrownianMotion()):
        with pytest.raises(ArgumentError, match="0 or more"):
            sde.marginal(x0, t)
    with pytest.raises(ArgumentError, match="0 or more"):
        GeometricBrownianMotion().path(x0, t, x0)


@pytest.mark.parametrize("t", [1e-6, 1e-5, 1e-4, 1e-3])
def test_float32_near_zero(t):
    x0 = torch.tensor([[2.0]])
    t32 = torch.tensor(t, dtype=torch.float32)
    exact = t32.double().item()
    # 1e-6, as for the diffusion SDEs: one float32 rounding is 6e-8. Series to second order, exact to t^2 = 1e-6 of t.
    std = OrnsteinUhlenbeck(theta=0.5).marginal(x0, t32)[1].item()
    assert std == pytest.approx(math.sqrt(exact * (1 - exact / 2 + exact**2 / 6)), rel=1e-6)
    std = GeometricBrownianMotion(mu=0.0, sigma=1.0).marginal(x0, t32)[1].item()
    assert std == pytest.approx(2 * math.sqrt(exact * (1 + exact / 2 + exact**2 / 6)), rel=1e-6)


def test_geometric_path_is_exact():
    """Against the closed form by hand, and against a fine Milstein integration of the same Brownian path."""
    sde = GeometricBrownianMotion(mu=0.4, sigma=0.6)
    x0 = torch.full((64, 1), 1.5, dtype=torch.float64)
    w = torch.linspace(-2, 2, 64, dtype=torch.float64)[:, None]
    torch.testing.assert_close(sde.path(x0, 0.7, w), 1.5 * torch.exp(0.22 * 0.7 + 0.6 * w), rtol=1e-14, atol=0)

    generator = torch.Generator().manual_seed(0)
    steps = 2000
    dw = torch.randn(steps, 64, 1, generator=generator, dtype=torch.float64) * steps**-0.5
    x = x0
    for k in range(steps):
        x = x * (1 + 0.4 / steps + 0.6 * dw[k] + 0.18 * (dw[k].square() - 1 / steps))
    # Milstein's strong error is of the order h = 5e-4 relative; ten times that. An Ito term of the wrong sign is 40 %.
    torch.testing.assert_close(sde.path(x0, 1.0, dw.sum(0)), x, rtol=5e-3, atol=0)


def test_geometric_path_has_the_marginal():
    sde = GeometricBrownianMotion(mu=0.4, sigma=0.6)
    # Gauss-Hermite quadrature over W_t is exact to rounding for exponentials of this size.
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    w = torch.tensor(nodes)[:, None] * math.sqrt(0.7)
    weight = torch.tensor(weights / weights.sum())[:, None]
    x = sde.path(torch.full((60, 1), 1.5, dtype=torch.float64), 0.7, w)
    mean, std = sde.marginal(torch.full((1, 1), 1.5, dtype=torch.float64), 0.7)
    assert (weight * x).sum().item() == pytest.approx(mean.item(), rel=1e-12)
    assert (weight * x.square()).sum().item() == pytest.approx(std.item() ** 2 + mean.item() ** 2, rel=1e-12)


@pytest.mark.parametrize("family", [OrnsteinUhlenbeck, GeometricBrownianMotion])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_batch_of_parameter_sets(family, dtype):
    """Row i of a batch is the SDE with the i-th parameters; the state keeps its dtype though the parameters do not."""
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(3, 3, 1, generator=generator, dtype=torch.float64)
    names = [f.name for f in dataclasses.fields(family)]
    batch = family(**dict(zip(names, values, strict=False)))
    x = torch.tensor([[0.5, 1.0], [1.5, 2.0], [2.5, 3.0]], dtype=dtype)
    for t in (torch.tensor(0.3, dtype=torch.float64), torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)):
        results = [batch.drift(x, t), batch.diffusion(x, t), *batch.marginal(x, t)]
        if family is GeometricBrownianMotion:
            results.append(batch.path(x, t, x))
        assert {r.dtype for r in results} == {dtype}
        for i in range(3):
            one = family(**{name: value[i].item() for name, value in zip(names, values, strict=False)})
            row, u = x[i : i + 1], t.expand(3)[i]
            alone = [one.drift(row, u), one.diffusion(row, u), *one.marginal(row, u)]
            if family is GeometricBrownianMotion:
                alone.append(one.path(row, u, row))
            for together, expected in zip(results, alone, strict=True):
                # Parameters are rounded to the state's dtype where they multiply it: a few units in its last place.
                tolerance = 8 * torch.finfo(dtype).eps
                expected = expected.expand(row.shape)
                torch.testing.assert_close(
                    together.expand(x.shape)[i : i + 1], expected, rtol=tolerance, atol=tolerance
                )


def test_marginal_shapes():
    x = torch.ones(3, 2, 4, 4)
    for sde in (OrnsteinUhlenbeck(), GeometricBrownianMotion()):
        for t in (0.1, torch.tensor(0.1), torch.tensor([0.1, 0.2, 0.3])):
            mean, std = sde.marginal(x, t)
            assert mean.shape == x.shape
            assert torch.broadcast_shapes(std.shape, x.shape) == x.shape
            assert sde.drift(x, torch.tensor(0.1)).shape == x.shape
        with pytest.raises(ShapeError, match="does not fit a state"):
            sde.marginal(x, torch.ones(2))
        with pytest.raises(ArgumentError, match="floating-point"):
            sde.marginal(torch.ones(2, 2, dtype=torch.int64), 0.1)


def test_parameters_receive_gradients():
    theta = torch.tensor([[0.5], [0.0]], dtype=torch.float64, requires_grad=True)
    _, std = OrnsteinUhlenbeck(theta=theta).marginal(torch.ones(2, 1, dtype=torch.float64), 0.7)
    std.square().sum().backward()
    u = 0.7  # d/dtheta (1 - e^{-2 theta u})/(2 theta)
    expected = (2 * 0.5 * u * math.exp(-2 * 0.5 * u) - (1 - math.exp(-2 * 0.5 * u))) / (2 * 0.5**2)
    assert theta.grad[0].item() == pytest.approx(expected, rel=1e-12)  # rounding
    assert torch.isfinite(theta.grad).all()


@both
def test_plain_values(sde):
    assert eval(repr(sde), vars(sdes)) == sde
    again = from_dict(json.loads(json.dumps(sde.to_dict())))
    assert again == sde
    assert hash(again) == hash(sde)
    assert pickle.loads(pickle.dumps(sde)) == copy.deepcopy(sde) == sde
    with pytest.raises(dataclasses.FrozenInstanceError):
        sde.mu = 1.0
    assert sde.noise_shape((5, 2)) == (5, 2)


def test_equality_is_by_value():
    assert OrnsteinUhlenbeck(theta=1, mu=np.float32(0), sigma=1) == OrnsteinUhlenbeck()
    assert hash(OrnsteinUhlenbeck(theta=1)) == hash(OrnsteinUhlenbeck())
    assert OrnsteinUhlenbeck() != OrnsteinUhlenbeck(theta=2.0)
    assert OrnsteinUhlenbeck() != GeometricBrownianMotion()
    assert len({*OUS, *GBMS}) == len(OUS) + len(GBMS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tensor_parameters_round_trip(dtype):
    sde = OrnsteinUhlenbeck(theta=torch.tensor([[0.1], [0.3]], dtype=dtype), sigma=torch.tensor(0.7, dtype=dtype))
    again = from_dict(json.loads(json.dumps(sde.to_dict())))
    assert again == sde
    assert hash(again) == hash(sde)
    assert again.theta.shape == (2, 1)
    assert sde != OrnsteinUhlenbeck(theta=torch.tensor([[0.1], [0.4]], dtype=dtype), sigma=0.7)


@pytest.mark.parametrize("family", [OrnsteinUhlenbeck, GeometricBrownianMotion])
@pytest.mark.parametrize(
    "bad", [math.nan, math.inf, "a", None, [1.0], torch.tensor([1.0, math.nan]), torch.tensor(1j)], ids=repr
)
def test_bad_parameters(family, bad):
    for name in (f.name for f in dataclasses.fields(family)):
        with pytest.raises(ArgumentError, match=f"^{name} must be"):
            family(**{name: bad})


def test_unknown_parameter_in_a_dict():
    with pytest.raises(ArgumentError, match="does not take these parameters"):
        from_dict({"type": "OrnsteinUhlenbeck", "kappa": 1.0})
