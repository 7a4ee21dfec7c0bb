"""The error budget where the target is exact, and likelihoods to a tolerance."""

from __future__ import annotations

import math

import pytest
import torch
from _helpers import label

import sdekit as sk
from sdekit.errors import ArgumentError, NonFiniteError, ShapeError, UnknownNameError, UnsupportedError
from sdekit.likelihood.budget import total_error
from sdekit.likelihood.settings import check_tolerance
from sdekit.targets import Gaussian, GaussianMixture, digits, ring

VP = sk.VPSDE()


def draws(n: int, target=None, seed: int = 1) -> torch.Tensor:
    return (target or ring()).marginal(VP, VP.t_min).sample(n, seed=seed, dtype=torch.float64)


def test_a_known_target_makes_truncation_and_prior_exact() -> None:
    target, x = ring(), draws(40)
    model = target.score_model(VP)
    known = sk.log_likelihood(model, x, target=target, steps=200)
    truncation = target.log_prob_at(x, VP.t_min, VP) - target.log_prob(x)
    assert torch.equal(known.budget.truncation, truncation)
    torch.testing.assert_close(known.log_prob_0, target.log_prob(x), rtol=0, atol=1e-4)  # the flow's error at 200 steps
    guessed = sk.log_likelihood(model, x, steps=200)
    assert torch.equal(known.log_prob, guessed.log_prob)
    # To first order in sigma(t_min)^2/0.105^2 = 1e-2.
    torch.testing.assert_close(guessed.budget.truncation, truncation, rtol=0, atol=2e-3)
    off = target.log_prob_at(known.latent, 1.0, VP) - sk.log_likelihood(model, known.latent, t_eps=0.999).log_prob
    assert float(known.budget.prior.max()) < 1e-3
    assert float(off.abs().max()) < 1e-3


def test_the_prior_entry_of_a_known_target_is_what_the_prior_costs() -> None:
    target, x = digits(), draws(6, digits())
    model = target.score_model(VP)
    how = {"target": target, "steps": 100, "divergence": "exact"}
    standard, matched = (sk.log_likelihood(model, x, prior=kind, **how) for kind in ("standard", "matched"))
    cost = (standard.log_prob - target.log_prob_at(x, VP.t_min, VP)).abs()
    # All of the error but the integration's, 1e-3 at 100 steps: the mean of the digits at T, which the prior lacks.
    torch.testing.assert_close(standard.budget.prior, cost, rtol=0, atol=3e-3)
    assert float(standard.budget.prior.mean()) > 10 * float(matched.budget.prior.mean())


@pytest.mark.parametrize("divergence", ["exact", "hutchinson"])
def test_a_tolerance_is_met_and_what_it_took_is_told(divergence: str) -> None:
    target, x = ring(), draws(64)
    model = target.score_model(VP)
    found = {tol: sk.log_likelihood(model, x, divergence=divergence, tolerance=tol) for tol in (0.1, 0.003)}
    exact = target.log_prob_at(x, VP.t_min, VP)
    for tol, ll in found.items():
        assert ll.status == "success"
        assert bool(ll.budget.met.all())
        assert float(ll.budget.total.max()) <= tol
        error = (ll.log_prob - exact).abs()
        if divergence == "exact":
            assert float(error.max()) <= tol
        else:  # the total is one standard error: 95 % lie within two, and here are 64
            assert float((error <= 2 * tol).double().mean()) > 0.85
    assert float(found[0.003].nfe.double().mean()) > 1.2 * float(found[0.1].nfe.double().mean())
    assert len(found[0.003].nfe.unique()) > 1  # each sample takes what it needs


@pytest.mark.parametrize("sde", [VP, sk.FlowSDE()], ids=lambda sde: sde.name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=label)
def test_the_decoders_bound_of_a_gaussian_is_its_density_draw_by_draw(sde, dtype: torch.dtype) -> None:
    # The posterior of x_0 given x_eps is N(D, s^2 I). Data 30 times as narrow as the noise of t_eps for VP.
    target = Gaussian(torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64), 1e-5)
    model, x = target.score_model(sde), target.sample(20, seed=3, dtype=torch.float64).to(dtype)
    ll = sk.log_likelihood(model, x, truncation="decoder", steps=118)
    # The flow's error, measured 2e-3; float32 rounds x to 1e-7/3e-3 of a standard deviation, and D likewise.
    torch.testing.assert_close(ll.log_prob_0, target.log_prob(x.double()), rtol=0, atol=5e-3)
    first_order = sk.log_likelihood(model, x, steps=118)
    assert torch.equal(first_order.log_prob, ll.log_prob)
    assert float((first_order.log_prob_0 - target.log_prob(x.double())).abs().mean()) > 0.1


def test_the_decoders_bound_where_the_data_is_finer_than_the_noise_that_is_left() -> None:
    target = narrow(0.003)  # and sigma at t_min is 0.01
    model, x = target.score_model(VP), target.sample(100, seed=3, dtype=torch.float64)
    gap = target.log_prob(x) - sk.log_likelihood(model, x, truncation="decoder", steps=118).log_prob_0
    # Measured 1e-3 at most, where the first order is off by 1.2 in the mean square.
    assert float(gap.abs().max()) < 0.01


def test_the_decoders_bound_is_below_where_the_posterior_is_no_gaussian() -> None:
    target, t = ring(), 0.2  # sigma/alpha = 0.72 there: of several modes
    model, x = target.score_model(VP), target.sample(400, seed=3, dtype=torch.float64)
    ll = sk.log_likelihood(model, x, truncation="decoder", t_eps=t)
    gap = target.log_prob(x) - ll.log_prob_0
    # By hand, from other draws: E log p_t(x_t) + log N(x; D, s^2 I) - log N(x_t; alpha x, sigma^2 I).
    alpha, sigma = float(VP.alpha(t)), float(VP.sigma(t))
    xi = torch.randn(400, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    point = (alpha * x + sigma * xi).requires_grad_()
    mean = model.denoised(point, t)
    trace = sum(torch.autograd.grad(mean[:, i].sum(), point, retain_graph=True)[0][:, i] for i in range(2))
    s = (sigma**2 / alpha * trace / 2).sqrt()[:, None]  # s^2 = (sigma/alpha)^2 tr(dD/dx~)/2, x~ = x/alpha
    log_normal = torch.distributions.Normal(mean, s).log_prob(x).sum(1)
    noise = torch.distributions.Normal(alpha * x, sigma).log_prob(point).sum(1)
    by_hand = target.log_prob(x) - (target.log_prob_at(point.detach(), t, VP) + log_normal - noise).detach()
    assert float(gap.mean()) == pytest.approx(float(by_hand.mean()), abs=4 * float(by_hand.std()) / 20)
    assert float(gap.mean()) > 4 * float(gap.std()) / 20  # a bound in the mean: single draws may lie above


def test_a_sample_with_a_decoder_is_bit_equal_alone_and_its_evaluations_are_counted() -> None:
    exact, calls = ring().score_model(VP), []

    def network(x, t):
        calls.append(1)
        return exact.network(x, t)

    model, x = sk.ScoreModel(network, VP, "v", data_std=1.0), draws(5)
    x[1] = 40.0
    how = {"truncation": "decoder", "steps": 12, "divergence": "hutchinson"}
    whole = sk.log_likelihood(model, x, **how)
    assert whole.nfe == len(calls) == 3 * 14 + 2
    alone = sk.log_likelihood(model, x[3:4], first=3, **how)
    assert torch.equal(alone.log_prob_0, whole.log_prob_0[3:4])
    assert torch.equal(sk.log_likelihood(model, x, chunk=2, **how).log_prob_0, whole.log_prob_0)


def narrow(std: float = 0.02) -> GaussianMixture:
    generator = torch.Generator().manual_seed(5)
    means = 1.5 * torch.randn(5, 2, generator=generator, dtype=torch.float64)
    return GaussianMixture(torch.full((5,), 0.2, dtype=torch.float64), means, torch.full((5,), std**2).double())


def test_the_integration_entry_also_sees_errors_that_half_the_steps_make_alike() -> None:
    # The difference alone is up to 5 times too small at 58 steps, and 21 times at 24.
    target = narrow()
    x = draws(300, target)
    exact = target.log_prob_at(x, VP.t_min, VP)
    for steps, most in ((58, 2.0), (24, 8.0)):
        ll = sk.log_likelihood(target.score_model(VP), x, steps=steps, integration_error=True)
        assert float(((ll.log_prob - exact).abs() / ll.budget.total).max()) < most


def test_samples_said_to_be_within_a_tolerance_are_so() -> None:
    # Narrow components, which 48 steps miss for some samples. Stopping at the first small difference let 10 % exceed.
    target = narrow()
    x = draws(300, target)
    ll = sk.log_likelihood(target.score_model(VP), x, tolerance=1e-3)
    assert bool(ll.budget.met.all())
    error = (ll.log_prob - target.log_prob_at(x, VP.t_min, VP)).abs()
    assert float((error > 1e-3).double().mean()) <= 0.02
    assert float(error.max()) <= 3e-3


def test_one_difference_is_not_enough_to_meet_a_tolerance() -> None:
    ll = sk.log_likelihood(ring().score_model(VP), draws(4), tolerance=0.5, max_nfe=50)  # 12 and 24 steps, no more
    assert ll.status == "max_nfe"
    assert not bool(ll.budget.met.any())
    assert bool(torch.isfinite(ll.budget.integration).all())


def test_evaluations_are_those_of_the_network() -> None:
    exact = ring().score_model(VP)
    rows = torch.zeros(5, dtype=torch.int64)

    def network(x, t, number):
        rows.index_add_(0, number, torch.ones_like(number))
        return exact.network(x, t)

    model = sk.ScoreModel(network, VP, "v", data_std=1.0)
    ll = sk.log_likelihood(model, draws(5), tolerance=0.002, condition={"number": torch.arange(5)})
    assert torch.equal(ll.nfe, rows)


def test_bits_per_dim_are_another_unit() -> None:
    x, model = draws(8), ring().score_model(VP)
    bits = sk.log_likelihood(model, x, tolerance=0.01, tolerance_unit="bits/dim")
    nats = sk.log_likelihood(model, x, tolerance=0.01 * 2 * math.log(2))
    assert torch.equal(bits.log_prob, nats.log_prob)
    assert torch.equal(bits.nfe, nats.nfe)


@pytest.mark.parametrize("divergence", ["exact", "hutchinson"])
def test_a_sample_goes_its_own_way_to_a_tolerance(divergence: str) -> None:
    x, model = draws(7), ring().score_model(VP)
    x[3] = 40.0  # an outlier, which takes its own time
    how = {"divergence": divergence, "tolerance": 0.04, "seed": 2}
    whole = sk.log_likelihood(model, x, **how)
    for i in (0, 2, 6):
        alone = sk.log_likelihood(model, x[i : i + 1], first=i, **how)
        assert torch.equal(alone.log_prob, whole.log_prob[i : i + 1])
        assert torch.equal(alone.std_error, whole.std_error[i : i + 1])
        assert alone.nfe.tolist() == whole.nfe[i : i + 1].tolist()
    assert torch.equal(sk.log_likelihood(model, x, chunk=3, **how).log_prob, whole.log_prob)


def test_a_tolerance_out_of_reach_is_said() -> None:
    ll = sk.log_likelihood(ring().score_model(VP), draws(4), tolerance=1e-12, max_nfe=200)
    assert ll.status == "max_nfe"
    assert not bool(ll.budget.met.any())
    assert int(ll.nfe.max()) <= 200
    assert bool(torch.isfinite(ll.log_prob).all())


def test_more_probes_where_steps_suffice() -> None:
    # A linear network has constant J with large off-diagonal entries: the path is easy, the probes are not.
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(24, 24, generator=generator, dtype=torch.float64) / 8

    def network(x, t):
        return (x[:, :, None] * mix).sum(1)

    model = sk.ScoreModel(network, VP, "v", data_std=1.0)
    x = torch.randn(3, 24, generator=generator, dtype=torch.float64)
    how = {"divergence": "hutchinson", "probe_distribution": "gaussian"}
    ll = sk.log_likelihood(model, x, tolerance=0.2, max_nfe=8000, **how)
    exact = sk.log_likelihood(model, x, divergence="exact", steps=384)
    assert bool(ll.budget.met.all())
    assert int(ll.nfe.min()) > 2 * 384  # past the levels of steps
    assert float(((ll.log_prob - exact.log_prob).abs() / ll.std_error).max()) < 4


def test_adaptive_solvers_go_to_a_tolerance_by_theirs() -> None:
    target, x = ring(), draws(6)
    ll = sk.log_likelihood(target.score_model(VP), x, solver="adaptive:tsitouras_5", tolerance=0.01)
    assert float((ll.log_prob - target.log_prob_at(x, VP.t_min, VP)).abs().max()) < 0.01


def test_samples_that_an_adaptive_solver_does_not_finish_leave_the_others_as_they_are() -> None:
    target, x = ring(), draws(12)
    model = target.score_model(VP)
    whole = sk.log_likelihood(model, x, solver="adaptive:tsitouras_5")
    some = sk.log_likelihood(model, x, solver="adaptive:tsitouras_5", max_nfe=int(whole.nfe.double().median()) - 66)
    done = torch.isfinite(some.log_prob)
    assert some.status == "max_nfe"
    assert 0 < int(done.sum()) < 12
    assert torch.equal(some.log_prob[done], whole.log_prob[done])
    assert torch.isnan(some.std_error[~done]).all()
    none = sk.log_likelihood(model, x, solver="adaptive:tsitouras_5", max_nfe=40)
    assert torch.isnan(none.log_prob).all()


def test_a_sample_that_becomes_non_finite_is_named_by_its_place() -> None:
    def network(x, t):
        return torch.where(x.abs() > 1e20, math.inf, 0.1 * x)

    x = draws(5)
    x[3] = 1e25
    with pytest.raises(NonFiniteError) as raised:
        sk.log_likelihood(sk.ScoreModel(network, VP, "v", data_std=1.0), x, tolerance=0.01)
    assert raised.value.samples == [3]


def test_a_sample_that_goes_on_alone_is_named_by_its_place() -> None:
    exact = ring().score_model(VP)

    def network(x, t, number):
        alone = (number == 3) & (len(x) < 5)  # once others have what they need
        return torch.where(alone[:, None], math.inf, exact.network(x, t))

    x = draws(5)
    x[3] = 40.0  # takes more steps than the others
    model = sk.ScoreModel(network, VP, "v", data_std=1.0)
    with pytest.raises(NonFiniteError) as raised:
        sk.log_likelihood(model, x, tolerance=0.05, condition={"number": torch.arange(5)})
    assert raised.value.samples == [3]


def test_a_tolerance_in_bits_is_of_all_dimensions() -> None:
    assert check_tolerance(0.01, "bits/dim", None, {}, 64) == (0.01 * 64 * math.log(2), 3000)
    assert check_tolerance(0.01, "nats", 50, {}, 64) == (0.01, 50)


def test_the_total_is_of_probes_and_integration_and_the_prior() -> None:
    probe, integration, prior = (torch.tensor([v], dtype=torch.float64) for v in (3.0, 4.0, 0.5))
    assert float(total_error(probe, integration, prior)) == 5.5
    assert float(total_error(probe, None, prior)) == 3.5


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"tolerance": 0.0}, ArgumentError, "tolerance"),
        ({"tolerance": 0.1, "steps": 5}, ArgumentError, "steps cannot be combined"),
        ({"tolerance": 0.1, "integration_error": True}, ArgumentError, "integration_error cannot be combined"),
        ({"tolerance": 0.1, "solver": "scipy:RK45", "rtol": 1e-3}, ArgumentError, "rtol cannot be combined"),
        ({"tolerance": 0.1, "tolerance_unit": "bits"}, UnknownNameError, "bits/dim"),
        ({"tolerance_unit": "bits/dim"}, ArgumentError, "tolerance"),
        ({"tolerance": 0.1, "max_nfe": 0}, ArgumentError, "max_nfe"),
        ({"max_nfe": 100}, ArgumentError, "max_nfe"),
        ({"target": ring().score_model(VP)}, ArgumentError, "exact target"),
        ({"target": digits()}, ShapeError, "the target's samples"),
        ({"estimator": "elbo", "tolerance": 0.1}, ArgumentError, "tolerance"),
        ({"truncation": "second_order"}, UnknownNameError, "decoder"),
        ({"truncation": "decoder", "tolerance": 0.1}, ArgumentError, "combined with tolerance"),
        ({"truncation": "decoder", "target": ring()}, ArgumentError, "combined with target"),
        ({"truncation": "decoder", "estimator": "elbo"}, ArgumentError, "truncation"),
        ({"estimator": "ito", "target": ring()}, ArgumentError, "target"),
        ({"solver": "ddim", "eta": 1.0, "tolerance": 0.1}, (ArgumentError, UnsupportedError), "eta|stochastic"),
    ],
    ids=label,
)
def test_arguments_that_make_no_sense(arguments, error, words: str) -> None:
    calls = []

    def network(x, t):
        calls.append(1)
        return x

    with pytest.raises(error, match=words):
        sk.log_likelihood(sk.ScoreModel(network, VP, "v"), torch.zeros(2, 2), **arguments)
    assert not calls


def test_the_grid_by_name_is_the_default_one_and_fixed_places_go_with_no_tolerance() -> None:
    x, model = 3 * draws(3), sk.ScoreModel(lambda x, t: 0.5 * x, VP, "v", data_std=3.0)
    assert torch.equal(sk.log_likelihood(model, x, grid="along_path").log_prob, sk.log_likelihood(model, x).log_prob)
    other = sk.log_likelihood(model, x, grid=sk.grids.AlongPath(1.0))
    assert not torch.equal(other.log_prob, sk.log_likelihood(model, x).log_prob)
    places = torch.linspace(VP.t_min, 1.0, 20, dtype=torch.float64)
    with pytest.raises(ArgumentError, match="fixed places cannot be combined with tolerance"):
        sk.log_likelihood(model, x, grid=places, tolerance=0.1)
