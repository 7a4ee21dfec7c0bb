"""encode, decode and interpolate: against a closed-form flow, round trips, chunks, conditions and errors."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sdekit.errors import ArgumentError, SdekitError, ShapeError, UnknownNameError, UnsupportedError
from sdekit.latents import decode, encode, interpolate, round_trip
from sdekit.likelihood import log_likelihood
from sdekit.models import ScoreModel, bundled
from sdekit.sampling import sample
from sdekit.sdes import DIFFUSION_SDES, EDMSDE, VPSDE
from sdekit.solvers import ScipyODE
from sdekit.targets import Gaussian, digits, ring

every_sde = pytest.mark.parametrize("sde", [family() for family in DIFFUSION_SDES], ids=lambda sde: sde.name)
VP = VPSDE()


def gaussian() -> Gaussian:
    cov = torch.tensor([[1.0, 0.6, 0.0], [0.6, 0.5, -0.2], [0.0, -0.2, 0.8]], dtype=torch.float64)
    return Gaussian(torch.tensor([0.3, -0.5, 0.1], dtype=torch.float64), cov)


@every_sde
def test_encode_and_decode_are_the_flow_of_a_gaussian(sde) -> None:
    target = gaussian()
    model = target.score_model(sde)
    x = target.sample(6, seed=0, dtype=torch.float64)
    z = encode(model, x)
    # RK4 with 50 steps uniform in log-SNR: measured up to 1.4e-4 of the latent's scale (sub-VP).
    scale = sde.prior_std(data_std=model.data_std)
    torch.testing.assert_close(z, target.flow_map(x, sde.t_min, sde.t_max, sde), rtol=0, atol=3e-4 * scale)
    torch.testing.assert_close(decode(model, z), target.flow_map(z, sde.t_max, sde.t_min, sde), rtol=0, atol=3e-4)


@every_sde
def test_round_trips_on_the_ring(sde) -> None:
    # A flow that pulls eight modes apart: measured up to 6e-4 (flow), 1e-4 (VP).
    target = ring()
    x = target.sample(64, seed=1)
    model = target.score_model(sde)
    torch.testing.assert_close(decode(model, encode(model, x)), x, rtol=0, atol=2e-3)


def test_a_round_trip_on_the_digits_network() -> None:
    model = bundled.load("digits")
    x = digits().sample(2, seed=3)
    back = decode(model, encode(model, x))
    assert back.dtype == x.dtype
    torch.testing.assert_close(back, x, rtol=0, atol=1e-3)  # the requirement; measured 4e-6


@pytest.mark.parametrize("solver", ["heun", "scipy:RK45", "ddim"])
def test_any_deterministic_solver_serves(solver: str) -> None:
    target = gaussian()
    model = target.score_model(VP)
    x = target.sample(4, seed=0)
    # First order is what ddim has: 200 steps over ten units of ln(sigma/alpha) leave a few per cent.
    tolerance = 0.1 if solver == "ddim" else 2e-3
    torch.testing.assert_close(decode(model, encode(model, x, solver=solver), solver=solver), x, rtol=0, atol=tolerance)


def test_an_adaptive_round_trip_is_close_without_tolerances_being_named() -> None:
    model = ring().score_model(VP)
    x = ring().sample(64, seed=0)
    by_default = encode(model, x, solver="scipy:RK45")
    torch.testing.assert_close(decode(model, by_default, solver="scipy:RK45"), x, rtol=0, atol=2e-4)
    assert torch.equal(by_default, encode(model, x, solver="scipy:RK45", rtol=1e-6, atol=1e-6))
    loose = encode(model, x, solver=ScipyODE("RK45"))  # an object is taken as it is
    assert torch.equal(loose, encode(model, x, solver="scipy:RK45", rtol=1e-5, atol=1e-5))
    assert not torch.equal(loose, by_default)


def test_decode_is_what_sample_does_from_the_same_start() -> None:
    model = ring().score_model(VP)
    z = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    expected = sample(model, solver="rk4", x_T=z, steps=20, grid="karras").x
    assert torch.equal(decode(model, z, solver="rk4", steps=20, grid="karras"), expected)


def test_the_latent_is_that_of_the_likelihood() -> None:
    model = ring().score_model(VP)
    x = ring().sample(5, seed=1, dtype=torch.float64)
    # Two forms of the flow, each within 1e-4 of it at 200 and 800 evaluations.
    torch.testing.assert_close(
        encode(model, x, steps=200), log_likelihood(model, x, steps=200).latent, rtol=0, atol=1e-5
    )


def test_t_eps_is_the_time_of_the_data() -> None:
    target = gaussian()
    model = target.score_model(VP)
    x = target.sample(3, seed=0, dtype=torch.float64)
    z = encode(model, x, t_eps=0.3)
    torch.testing.assert_close(z, target.flow_map(x, 0.3, 1.0, VP), rtol=0, atol=5e-6)  # a short, smooth way
    torch.testing.assert_close(decode(model, z, t_eps=0.3), x, rtol=0, atol=1e-6)


def shifted_model() -> ScoreModel:
    """Data N(m_label, 0.25 I) for three labels."""
    means = torch.tensor([[0.0, 0.0], [1.0, -1.0], [-2.0, 0.5]])
    centred = Gaussian(torch.zeros(2), 0.25).score_model(VP)

    def network(x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        a, s = VP.alpha(t[:1]), VP.sigma(t[:1])
        return centred.raw(x - a * means[label], t) - s * means[label]

    return ScoreModel(network, VP, "v", shape=(2,))


def test_conditions_chunks_and_batches() -> None:
    model = shifted_model()
    label = torch.tensor([0, 2, 1, 1])
    x = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    whole = encode(model, x, condition={"label": label})
    assert torch.equal(whole, encode(model.with_condition(label=label), x, chunk=3))
    for i in range(4):
        assert torch.equal(whole[i : i + 1], encode(model, x[i : i + 1], condition={"label": label[i : i + 1]}))
    assert not torch.equal(whole, encode(model, x, condition={"label": label.flip(0)}))
    back = decode(model, whole, condition={"label": label}, chunk=2)
    torch.testing.assert_close(back, x, rtol=0, atol=1e-3)


# Interpolation -------------------------------------------------------------------------------------------------------


def test_interpolation_joins_latents_on_the_sphere() -> None:
    target = gaussian()
    model = target.score_model(VP)
    a, b = target.sample(8, seed=0, dtype=torch.float64).split(4)
    path = interpolate(model, a, b, 5)
    assert path.shape == (5, 4, 3)
    torch.testing.assert_close(path[0], a, rtol=0, atol=1e-4)
    torch.testing.assert_close(path[-1], b, rtol=0, atol=1e-4)
    # Halfway on the great circle: (z_a + z_b)/(2 cos(theta/2)), from the definition of the angle.
    z_a, z_b = (target.flow_map(x, VP.t_min, 1.0, VP) for x in (a, b))
    cosine = (z_a * z_b).sum(1) / (z_a.norm(dim=1) * z_b.norm(dim=1))
    middle = (z_a + z_b) / (2 * torch.cos(0.5 * torch.acos(cosine)))[:, None]
    torch.testing.assert_close(path[2], target.flow_map(middle, 1.0, VP.t_min, VP), rtol=0, atol=1e-4)


def test_equal_steps_turn_by_equal_angles() -> None:
    model = Gaussian(torch.zeros(2, dtype=torch.float64), 1.0).score_model(VP)  # VP keeps N(0, I): z = x
    a, b = (
        torch.tensor([[1.0, 0.0]], dtype=torch.float64),
        torch.tensor([[-1.0, 1.0]], dtype=torch.float64) / math.sqrt(2),
    )
    path = interpolate(model, a, b, 4)[:, 0]
    angle = torch.atan2(path[:, 1], path[:, 0])
    torch.testing.assert_close(angle, torch.linspace(0, 0.75 * math.pi, 4, dtype=torch.float64), rtol=0, atol=1e-5)
    torch.testing.assert_close(path.norm(dim=1), torch.ones(4, dtype=torch.float64), rtol=0, atol=1e-5)


def test_latents_without_an_angle_are_joined_by_a_line() -> None:
    model = Gaussian(torch.zeros(1, dtype=torch.float64), 1.0).score_model(VP)
    a, b = (
        torch.tensor([[-1.0], [0.5], [2.0]], dtype=torch.float64),
        torch.tensor([[1.0], [0.5], [1.0]], dtype=torch.float64),
    )
    path = interpolate(model, a, b, 3)
    torch.testing.assert_close(path[1], 0.5 * (a + b), rtol=0, atol=1e-5)


def test_interpolation_keeps_pairs_and_conditions_together() -> None:
    model = shifted_model()
    label = torch.tensor([0, 2, 1])
    a, b = torch.randn(2, 3, 2, generator=torch.Generator().manual_seed(0))
    whole = interpolate(model, a, b, 4, condition={"label": label})
    assert torch.equal(whole, interpolate(model.with_condition(label=label), a, b, 4, chunk=5))
    for i in range(3):
        alone = interpolate(model, a[i : i + 1], b[i : i + 1], 4, condition={"label": label[i : i + 1]})
        assert torch.equal(whole[:, i : i + 1], alone)


# Errors --------------------------------------------------------------------------------------------------------------


def test_errors_before_any_evaluation() -> None:
    model = ring().score_model(VP).counted()
    x = torch.zeros(2, 2)
    for call in (lambda **k: encode(model, x, **k), lambda **k: decode(model, x, **k)):
        with pytest.raises(UnsupportedError, match="stochastic"):
            call(solver="euler_maruyama", steps=5)
        with pytest.raises(UnknownNameError, match="rk4"):
            call(solver="rk44")
        with pytest.raises(ArgumentError, match="chooses its own steps"):
            call(solver="scipy:RK45", steps=5)
        with pytest.raises(ArgumentError, match="rtol"):
            call(rtol=1e-3)
        with pytest.raises(ArgumentError, match="t_eps"):
            call(t_eps=-0.1)
        with pytest.raises(ArgumentError, match="condition must be a dict"):
            call(condition=5)
        with pytest.raises(ArgumentError, match="with condition 'y'"):
            call(condition={"y": 5})
    with pytest.raises(ShapeError, match=r"z has shape \(2, 3\)"):
        decode(model, torch.zeros(2, 3))
    with pytest.raises(ArgumentError, match="ScoreModel"):
        encode(lambda x, t: x, x)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="at least 2"):
        interpolate(model, x, x, 1)
    with pytest.raises(ArgumentError, match="condition must be a dict"):
        interpolate(model, x, x, 2, condition=5)  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match="one shape and dtype"):
        interpolate(model, x, x[:1], 3)
    assert model.counter.calls == 0


def test_a_solve_that_does_not_arrive_is_an_error() -> None:
    with pytest.raises(SdekitError, match="max_nfe"):
        encode(ring().score_model(VP), torch.zeros(2, 2), solver="scipy:RK45", max_nfe=10)


def test_the_round_trip_is_reported() -> None:
    target = ring()
    model = target.score_model(VPSDE())
    x = target.marginal(VPSDE(), 1e-3).sample(12, seed=2)
    trip = round_trip(model, x, steps=100)
    assert torch.equal(trip.latent, encode(model, x, steps=100))
    assert torch.equal(trip.back, decode(model, trip.latent, steps=100))
    off = (trip.back.double() - x.double()).abs()
    assert torch.equal(trip.largest, off.amax(1))
    torch.testing.assert_close(trip.rms, off.square().mean(1).sqrt())
    # Two coordinates of N(0, 1): their mean square over 12 samples is 1 within 4 standard errors, sqrt(2/24).
    assert abs(float(trip.latent_rms.square().mean()) - 1) < 4 * math.sqrt(2 / 24)
    wide = target.score_model(EDMSDE())
    of_wide = round_trip(wide, x, steps=10)
    rms = of_wide.latent.double().square().mean(1).sqrt() / math.hypot(80, wide.data_std)  # sigma_T is 80, alpha 1
    torch.testing.assert_close(of_wide.latent_rms, rms)
    coarse = round_trip(model, x, steps=10)
    assert float(coarse.largest.max()) > 10 * float(trip.largest.max())
    assert "rms error" in str(trip)
