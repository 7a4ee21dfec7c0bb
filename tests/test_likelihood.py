"""log_likelihood: against closed forms; its probes and their error; evaluations counted; units; budget; errors."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from torch import Tensor

from sdekit import solvers
from sdekit.dynamics import ProbabilityFlow
from sdekit.errors import ArgumentError, NonFiniteError, ShapeError, UnknownNameError, UnsupportedError
from sdekit.grids import make_grid
from sdekit.likelihood import (
    Exact,
    GaussianControl,
    Hutchinson,
    HutchPP,
    LogLikelihood,
    XTrace,
    log_likelihood,
)
from sdekit.likelihood.flow import LogSigmaFlow
from sdekit.likelihood.settings import DEFAULT_SOLVER, make_nodes
from sdekit.models import Prediction, ScoreModel
from sdekit.sampling import solve
from sdekit.sdes import DIFFUSION_SDES, EDMSDE, VESDE, VPSDE, CustomDiffusionSDE
from sdekit.targets import Gaussian, GaussianMixture, digits, ring

SDES = [
    *(family() for family in DIFFUSION_SDES),
    CustomDiffusionSDE(lambda t: torch.exp(-t.square()), torch.sinh, t_max=2.0),
]
every_sde = pytest.mark.parametrize("sde", SDES, ids=lambda sde: sde.name)
VP = VPSDE()


def gaussian(d: int = 3, seed: int = 0) -> Gaussian:
    """N(m, C) with a full C of eigenvalues from 0.05 to 2."""
    generator = torch.Generator().manual_seed(seed)
    axes = torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64))[0]
    cov = axes @ torch.diag(torch.linspace(0.05, 2.0, d, dtype=torch.float64)) @ axes.T
    return Gaussian(torch.linspace(-0.5, 0.5, d, dtype=torch.float64), 0.5 * (cov + cov.T))


def at_start(target, sde, n: int, seed: int = 1) -> Tensor:
    """Draws of p_t at t_min, float64."""
    return target.marginal(sde, sde.t_min).sample(n, seed=seed, dtype=torch.float64)


def truth(target, sde, x: Tensor) -> Tensor:
    return target.log_prob_at(x, sde.t_min, sde)


def of_flow(target: Gaussian, sde, x: Tensor, data_std: float) -> Tensor:
    """What the flow itself makes of a Gaussian: log p at t_min, "standard" prior in place of p_T at the flow's end."""
    end = target.flow_map(x, sde.t_min, sde.t_max, sde)
    prior = sde.prior_log_prob(end, data_std=data_std)
    return truth(target, sde, x) + prior - target.log_prob_at(end, sde.t_max, sde)


class Counting:
    """A network that counts its own calls and the rows in them."""

    def __init__(self, network) -> None:
        self.network = network
        self.calls = self.rows = 0

    def __call__(self, x: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
        self.calls += 1
        self.rows += len(x)
        return self.network(x, t, **condition)


def counting(target, sde=VP) -> tuple[ScoreModel, Counting]:
    exact = target.score_model(sde)
    counter = Counting(exact.network)
    return ScoreModel(counter, sde, "v", data_std=exact.data_std, shape=exact.shape), counter


# Closed forms --------------------------------------------------------------------------------------------------------


@every_sde
def test_the_density_of_a_gaussian_is_exact_under_every_sde(sde) -> None:
    target = gaussian()
    model = target.score_model(sde)
    x = at_start(target, sde, 5)
    ll = log_likelihood(model, x, prior="standard")
    assert ll.nfe == 59
    # Order 4 with 58 steps over 10 to 14 units of u; measured 3e-5 (VP).
    torch.testing.assert_close(ll.log_prob, of_flow(target, sde, x, model.data_std), rtol=0, atol=1e-4)
    torch.testing.assert_close(ll.latent, target.flow_map(x, sde.t_min, sde.t_max, sde), rtol=1e-4, atol=1e-4)
    assert torch.equal(ll.std_error, torch.zeros(5, dtype=torch.float64))


DETERMINISTIC = [
    name
    for name, solver in ((name, solvers.get(name)) for name in solvers.names())
    if not solver.stochastic and not set(solver.needs) - {"score"}
]
FIRST_ORDER = ("euler", "ddim")


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_any_deterministic_solver_of_the_catalogue_gives_the_same_density(name: str) -> None:
    target = ring()
    model, network = counting(target)
    x = at_start(target, VP, 2)
    solver = solvers.get(name)
    how = {} if solver.adaptive else {"steps": 400 if name in FIRST_ORDER else 100}
    ll = log_likelihood(model, x, solver=name, **how)
    assert ll.status == "success"
    # 100 steps, 400 of order 1 (Euler's has an error of 0.3 in the trace's path), or tolerances of 1e-5; the others are
    # within 0.07 (heun, midpoint). A node or a weight out of place costs more.
    tolerance = 0.4 if name == "euler" else 0.1
    torch.testing.assert_close(ll.log_prob, truth(target, VP, x), rtol=0, atol=tolerance)
    expected = target_flow_end(target, x)
    torch.testing.assert_close(ll.latent, expected, rtol=0, atol=tolerance)
    nfe = ll.nfe if isinstance(ll.nfe, int) else int(ll.nfe.max())
    assert nfe <= network.calls  # adaptive samples that are done early are left out of later calls
    if solver.evaluations_per_step is not None and not solver.adaptive:
        assert nfe == network.calls


def target_flow_end(target, x: Tensor) -> Tensor:
    """Where the flow of the target's VP model takes x at T, by another way than the likelihood's."""
    flow = ProbabilityFlow(target.score_model(VP))
    return solve(flow, x, t0=VP.t_min, t1=1.0, solver="dormand_prince_8", grid="log_snr", steps=100).x


@pytest.mark.parametrize("name", ["euler_maruyama", "dpmpp_2m_sde", "shark", "ubu"])
def test_solvers_of_other_equations_say_so(name: str) -> None:
    model, network = counting(ring())
    with pytest.raises(UnsupportedError, match="probability flow, an ODE"):
        log_likelihood(model, torch.zeros(2, 2), solver=name, steps=10)
    assert network.calls == 0


@pytest.mark.parametrize(
    ("solver", "order"), [("euler", 1), ("ddim", 1), ("heun", 2), ("dpmpp_2m", 2), (None, 4), ("rk4", 4)]
)
def test_fixed_step_solvers_converge_at_their_order(solver: str | None, order: int) -> None:
    target = gaussian()
    x = at_start(target, VP, 8)
    model = target.score_model(VP)
    expected = of_flow(target, VP, x, model.data_std)
    coarse, fine = (
        (log_likelihood(model, x, solver=solver, steps=n, grid="log_snr", prior="standard").log_prob - expected)
        .abs()
        .mean()
        for n in (100, 200)
    )
    # The slope at a finite step: measured 0.8 (euler) and within 0.25 of the order (others).
    assert float(torch.log2(coarse / fine)) == pytest.approx(order, abs=0.35)


@pytest.mark.parametrize("sde", [VP, EDMSDE()], ids=repr)
def test_the_density_of_the_ring(sde) -> None:
    target = ring()
    x = at_start(target, sde, 64)
    ll = log_likelihood(target.score_model(sde), x)
    assert ll.nfe == 60
    # 60 evaluations: measured 8e-5 (VP) and 1e-4 (EDM) nats; promised: 1e-3.
    assert float((ll.log_prob - truth(target, sde, x)).abs().mean()) < 3e-4


def test_the_density_of_the_digits() -> None:
    # 64 dimensions, exact trace, 60 evaluations: measured 0.003 nats, promised 0.02 in the mean.
    target = digits()
    x = at_start(target, VP, 2)
    ll = log_likelihood(target.score_model(VP), x, divergence="exact")
    assert ll.nfe == 60
    assert float((ll.log_prob - truth(target, VP, x)).abs().mean()) < 0.02


def correlated_mixture(dim: int, modes: int, scale: float, seed: int) -> GaussianMixture:
    """Unequal weights, and full covariances with deviations from 0.02 to 0.5 times the scale."""
    generator = torch.Generator().manual_seed(seed)
    means = scale * torch.randn(modes, dim, generator=generator, dtype=torch.float64)
    weights = 0.1 + torch.rand(modes, generator=generator, dtype=torch.float64).square()
    axes = torch.linalg.qr(torch.randn(modes, dim, dim, generator=generator, dtype=torch.float64))[0]
    sizes = scale * 0.02 * 25 ** torch.rand(modes, dim, generator=generator, dtype=torch.float64)
    covariances = axes @ torch.diag_embed(sizes.square()) @ axes.mT
    return GaussianMixture(weights / weights.sum(), means, 0.5 * (covariances + covariances.mT))


@every_sde
@pytest.mark.parametrize("scale", [0.05, 1.0, 5.0])
def test_mixtures_of_any_scale_under_every_sde_and_what_is_told_of_their_error(sde, scale: float) -> None:
    target = correlated_mixture(8, 8, scale, 5)
    x = at_start(target, sde, 24)
    ll = log_likelihood(target.score_model(sde), x, target=target, integration_error=True)
    error = (ll.log_prob - truth(target, sde, x)).abs()
    # 60 evaluations; measured 2e-4 to 4e-3, and 9e-3 (VE at 5, most of it the prior's).
    assert float(error.median()) < 0.02
    assert ll.budget.integration is not None
    # The prior's error is exact where the target is given; the integration's, of what two ways tell, the larger.
    assert float((error <= 3 * ll.budget.integration + ll.budget.prior).double().mean()) > 0.9


def test_log_prob_0_is_the_density_of_the_data_itself() -> None:
    target = ring()
    x = target.sample(32, seed=3, dtype=torch.float64)
    sde = EDMSDE()  # sigma of t_min: 0.002, a fiftieth of what the ring varies over
    ll = log_likelihood(target.score_model(sde), x, steps=300)
    exact = target.log_prob(x)
    assert torch.equal(ll.log_prob_0, ll.log_prob - ll.budget.truncation)
    # What is left is of second order in (0.002/0.105)^2 = 4e-4, and the integration's own error.
    left, all_of_it = (ll.log_prob_0 - exact).abs().max(), (ll.log_prob - exact).abs().max()
    assert float(left) < 0.02 * float(all_of_it)


def test_one_dimension_integrates_to_one_whatever_the_network_knows() -> None:
    # Any smooth field's flow is a bijection of the line, so its density integrates to 1, score or no score.
    x = torch.linspace(-6, 6, 1201, dtype=torch.float64)
    model = ScoreModel(lambda x, t: torch.tanh(2 * x + 0.3 * t), VESDE(sigma_max=10.0), "data")
    ll = log_likelihood(model, x, t_eps=0.45, steps=60, prior="standard")
    assert ll.log_prob.shape == (1201,)
    total = float(torch.trapezoid(ll.log_prob.exp(), x))
    # Spacing 0.01 for a smooth density of width sigma(t_eps) = 0.2, and order 4 with h = 0.06.
    assert total == pytest.approx(1.0, abs=1e-5)


def test_the_latent_is_where_the_probability_flow_ends() -> None:
    target = ring()
    x = at_start(target, VP, 6)
    ll = log_likelihood(target.score_model(VP), x)
    torch.testing.assert_close(ll.latent, target_flow_end(target, x), rtol=0, atol=2e-4)


def test_the_flow_in_log_sigma_is_the_probability_flow() -> None:
    target = ring()
    model = target.score_model(VP)
    flow = LogSigmaFlow(model, (VP.t_min, 1.0))
    t, step = 0.3, 1e-4
    a, b = (torch.tensor(v, dtype=torch.float64) for v in (t - step, t + step))
    ratio = torch.log(VP.sigma_ratio(b)) - torch.log(VP.sigma_ratio(a))
    x = at_start(target, VP, 3)
    middle = torch.tensor(t, dtype=torch.float64)
    u = torch.log(VP.sigma_ratio(middle))
    assert float(flow.time(u)) == pytest.approx(t, abs=1e-9)
    # d(x/alpha)/dt of the flow in t, by the quotient rule, against drift times du/dt, both by central differences.
    moving = ProbabilityFlow(model).drift(x, middle) / VP.alpha(middle)
    falling = x * (1 / VP.alpha(b) - 1 / VP.alpha(a)) / (2 * step)
    torch.testing.assert_close(
        flow.drift(x / VP.alpha(middle), u) * ratio / (2 * step), moving + falling, rtol=1e-5, atol=1e-5
    )
    with pytest.raises(ArgumentError, match="ODE"):
        flow.diffusion(x, u)
    with pytest.raises(ArgumentError, match="ODE"):
        flow.noise_shape(x.shape)


@pytest.mark.parametrize("prediction", get_args(Prediction))
def test_every_prediction_gives_the_same_density(prediction: Prediction) -> None:
    target = gaussian()
    exact = target.score_model(VP)
    model = ScoreModel(
        lambda x, t: exact.predict(prediction, x, t), VP, prediction, data_std=exact.data_std, shape=exact.shape
    )
    x = at_start(target, VP, 3)
    # The same numbers but for float64 rounding, magnified by 1/sigma^2 = 1e4 where the score is what is predicted.
    a, b = (log_likelihood(m, x, steps=10, prior="standard").log_prob for m in (model, exact))
    torch.testing.assert_close(a, b, rtol=0, atol=1e-9)
    # Unless asked for, the prior is matched where the network knows the data's mean at T.
    known = prediction not in ("noise", "score")
    assert log_likelihood(model, x, steps=10).nfe == 11 + known


def test_the_prior_holds_the_data() -> None:
    # VE with sigma_max = 2 and data N(0, I): p_T = N(0, 5 I), and N(0, 4 I) would be off by 0.11 nats a coordinate.
    sde = VESDE(sigma_max=2.0)
    target = Gaussian(torch.zeros(4, dtype=torch.float64), 1.0)
    x = at_start(target, sde, 5)
    exact = target.score_model(sde)
    for prior in ("standard", "matched"):
        ll = log_likelihood(exact, x, prior=prior)
        torch.testing.assert_close(ll.log_prob, truth(target, sde, x), rtol=0, atol=1e-5)
    textbook = log_likelihood(ScoreModel(exact.network, sde, "v"), x, prior="standard")
    assert float((textbook.log_prob - ll.log_prob).abs().max()) > 0.1


def test_the_matched_prior_has_the_mean_of_the_data() -> None:
    # A mean of 1.5 in each coordinate that VE's sigma_T = 2 does not drown: N(0, (E x^2 + 4) I) costs half a nat.
    sde = VESDE(sigma_max=2.0)
    target = Gaussian(torch.full((4,), 1.5, dtype=torch.float64), 0.25)
    model = target.score_model(sde)
    x = at_start(target, sde, 200)
    matched, standard = (log_likelihood(model, x, prior=prior) for prior in ("matched", "standard"))
    exact = truth(target, sde, x)
    # D(0, T) = m C^-1 ... shrinks the mean by sigma_T^2 = 4 against 0.25: m 4/4.25; the rest is left over.
    error = (matched.log_prob - exact).abs().mean()
    assert float(error) < 0.1 * float((standard.log_prob - exact).abs().mean())
    assert float(matched.budget.prior.mean()) < float(standard.budget.prior.mean())
    assert (matched.nfe, standard.nfe) == (60, 59)


def test_t_eps_is_where_the_density_is_had() -> None:
    target = ring()
    x = at_start(target, VP, 8)
    for t in (1e-4, 0.2):
        ll = log_likelihood(target.score_model(VP), x, t_eps=t)
        torch.testing.assert_close(ll.log_prob, target.log_prob_at(x, t, VP), rtol=0, atol=1e-3)


@pytest.mark.parametrize("grid", ["karras", "log_snr", "power"])
def test_any_grid_serves(grid: str) -> None:
    target = gaussian()
    x = at_start(target, VP, 3)
    model = target.score_model(VP)
    ll = log_likelihood(model, x, grid=grid, steps=120, prior="standard")
    # Wherever the steps are, they converge to the same: measured up to 2e-5 (karras).
    torch.testing.assert_close(ll.log_prob, of_flow(target, VP, x, model.data_std), rtol=0, atol=1e-4)


@pytest.mark.parametrize("sde", [VP, EDMSDE()], ids=lambda sde: sde.name)
@pytest.mark.parametrize(("scale", "steps"), [(1.0, 58), (0.1, 20), (5.0, 200)])
def test_the_default_grid_has_equal_shares_of_its_density_at_the_scale_of_the_data(sde, scale, steps) -> None:
    model = ScoreModel(lambda x, t: x, sde, "v", data_std=scale)
    nodes = make_nodes(model, DEFAULT_SOLVER, steps, None, (sde.t_min, sde.t_max))
    assert len(nodes) == steps + 1
    torch.testing.assert_close(nodes.u, -0.5 * sde.log_snr(nodes.times))
    shares = []
    for a, b in zip(nodes.u[:-1].tolist(), nodes.u[1:].tolist(), strict=True):
        level = torch.exp(torch.linspace(a, b, 101, dtype=torch.float64))
        rise, fall = 1 + (0.15 * scale / level).square(), 1 + (level / (2 * scale)).square()
        shares.append(torch.trapezoid(0.1 + 6 / steps + 1 / (rise * fall), dx=(b - a) / 100))
    # Places are interpolated in a table of 4096 cells: a share of a two-hundredth is 20 of them.
    torch.testing.assert_close(torch.stack(shares), torch.stack(shares).mean().expand(steps), rtol=1e-3, atol=0)


def test_the_users_own_places() -> None:
    target = gaussian()
    x = at_start(target, VP, 3)
    places = torch.linspace(math.sqrt(VP.t_min), 1.0, 31, dtype=torch.float64).square()
    places[0], places[-1] = VP.t_min, 1.0
    model = target.score_model(VP)
    ll = log_likelihood(model, x, grid=places)
    assert ll.nfe == 32  # 30 steps, the end, the prior
    assert torch.equal(ll.log_prob, log_likelihood(model, x, grid=places.flip(0)).log_prob)
    with pytest.raises(ArgumentError, match="runs from"):
        log_likelihood(model, x, grid=places[1:])


def test_states_of_any_shape() -> None:
    flat = gaussian(6)
    shaped = Gaussian(flat.mean.reshape(2, 3), flat.covariance())
    x = at_start(flat, VP, 4)
    for divergence in ("exact", "hutchinson"):
        a = log_likelihood(flat.score_model(VP), x, divergence=divergence, steps=10)
        b = log_likelihood(shaped.score_model(VP), x.reshape(4, 2, 3), divergence=divergence, steps=10)
        assert torch.equal(a.log_prob, b.log_prob)
        assert b.latent.shape == (4, 2, 3)
        assert (a.dim, b.dim) == (6, 6)


def test_float32_states_keep_their_dtype_and_log_probs_are_float64() -> None:
    target = ring()
    x = at_start(target, VP, 16)
    model = target.score_model(VP)
    wide, narrow = log_likelihood(model, x), log_likelihood(model, x.float())
    assert narrow.latent.dtype == torch.float32
    assert narrow.log_prob.dtype == torch.float64
    # float32 rounding of x = 1 at t_min, 6e-8, against sigma_eps = 0.01 and a density that varies over 0.1.
    torch.testing.assert_close(narrow.log_prob, wide.log_prob, rtol=0, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("solver", [None, "rk4", "scipy:RK45"])
def test_the_network_is_called_in_the_dtype_of_x(solver: str | None, dtype: torch.dtype) -> None:
    seen: set[tuple[torch.dtype, torch.dtype]] = set()

    def network(x: Tensor, t: Tensor) -> Tensor:
        seen.add((x.dtype, t.dtype))
        return 0.5 * x

    x = torch.ones(2, 3, dtype=dtype)
    ll = log_likelihood(ScoreModel(network, VP, "data"), x, solver=solver, steps=4)
    # A half-precision label of time would be one of half precision in time.
    assert seen == {(dtype, torch.float64 if dtype == torch.float64 else torch.float32)}
    assert (ll.log_prob.dtype, ll.std_error.dtype, ll.latent.dtype) == (torch.float64, torch.float64, dtype)


def test_conditions_reach_the_network_and_are_cut_with_the_batch() -> None:
    means = torch.tensor([[0.0, 0.0], [1.0, -1.0], [-2.0, 0.5]], dtype=torch.float64)
    each = [Gaussian(m, 0.3) for m in means]
    network = each[0].score_model(VP)

    def shifted(x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        """v of N(m, 0.3 I) from that of N(0, 0.3 I): v(x) = v_0(x - alpha m) - sigma m."""
        a, s = VP.alpha(t[:1]), VP.sigma(t[:1])
        return network.raw(x - a * means[label], t) - s * means[label]

    model = ScoreModel(shifted, VP, "v", data_std=1.0)
    label = torch.tensor([2, 0, 1, 1])
    x = torch.stack([at_start(each[k], VP, 1, seed=i)[0] for i, k in enumerate(label.tolist())])
    expected = torch.cat([of_flow(each[k], VP, x[i : i + 1], 1.0) for i, k in enumerate(label.tolist())])
    ll = log_likelihood(model, x, condition={"label": label}, prior="standard")
    torch.testing.assert_close(ll.log_prob, expected, rtol=0, atol=1e-4)  # 59 evaluations
    again = log_likelihood(model.with_condition(label=label), x, prior="standard", chunk=3)
    assert torch.equal(again.log_prob, ll.log_prob)


def test_it_works_under_inference_mode_and_leaves_no_graph() -> None:
    target = ring()
    model = target.score_model(VP)
    x = at_start(target, VP, 3).requires_grad_()
    expected = log_likelihood(model, x, steps=5)
    assert not expected.log_prob.requires_grad
    assert not expected.latent.requires_grad
    with torch.inference_mode():
        inner = log_likelihood(model, x.clone(), steps=5)
    assert torch.equal(inner.log_prob, expected.log_prob)


# The probes ----------------------------------------------------------------------------------------------------------


def integrated_jacobian(target: Gaussian, sde) -> Tensor:
    """int J_D du = sum over the axes of C of [u - ln(c + e^{2u})/2] q q^T: (d, d); J_D = C (C + sigma~^2)^{-1}."""
    values, axes = torch.linalg.eigh(target.covariance())
    low, high = (-0.5 * float(sde.log_snr(t)) for t in (sde.t_min, sde.t_max))

    def antiderivative(u: float) -> Tensor:
        return u - 0.5 * torch.log(values + math.exp(2 * u))

    return axes @ torch.diag(antiderivative(high) - antiderivative(low)) @ axes.T


@pytest.mark.parametrize("distribution", ["rademacher", "gaussian"])
def test_fixed_probes_have_the_variance_of_hutchinsons_estimate(distribution: str) -> None:
    # On a Gaussian, log p is an exact part less v^T M v with a known M; its mean and variance are closed forms.
    target = gaussian(5)
    n, probes = 4000, 2
    x = at_start(target, VP, 1).expand(n, 5)
    model = target.score_model(VP)
    exact = log_likelihood(model, x[:1], divergence="exact", steps=40)
    ll = log_likelihood(
        model, x, probes=probes, probe_distribution=distribution, probes_along="fixed", steps=40, seed=3
    )
    m = integrated_jacobian(target, VP)
    square = float(m.square().sum())
    variance = 2 * (square if distribution == "gaussian" else square - float(m.diagonal().square().sum())) / probes
    assert float(ll.log_prob.var()) == pytest.approx(variance, rel=0.15)  # sd of a variance of 4000: 2 to 5 %
    bias = float(ll.log_prob.mean() - exact.log_prob[0])
    assert abs(bias) < 4 * math.sqrt(variance / n)
    # One degree of freedom for each: twofold the spread, as far as it may be widened, wherever there is any.
    assert float(ll.std_error.square().mean()) == pytest.approx(4 * variance, rel=0.15)


@pytest.mark.parametrize("distribution", ["rademacher", "gaussian", "adapted", "hadamard"])
def test_probes_are_unbiased_and_more_of_them_are_better(distribution: str) -> None:
    target = ring()
    n = 2000
    x = at_start(target, VP, 1).expand(n, 2)
    model = target.score_model(VP)
    exact = float(log_likelihood(model, x[:1], steps=40).log_prob)
    spread = {}
    for probes in (1, 4):
        ll = log_likelihood(model, x, probes=probes, probe_distribution=distribution, steps=40, seed=5)
        spread[probes] = float(ll.log_prob.std())
        assert abs(float(ll.log_prob.mean()) - exact) < 4 * spread[probes] / math.sqrt(n)
    # As 1/sqrt(K): a factor of 2, to the 2 % of a standard deviation of 2000; four also find the directions better.
    assert spread[1] / spread[4] > 1.8


@pytest.mark.parametrize("probes", [1, 2, 4])
@pytest.mark.parametrize("distribution", ["adapted", "rademacher"])
def test_the_standard_error_is_calibrated(distribution: str, probes: int) -> None:
    # A mixture that nothing was fitted to, in 6 dimensions; 300 samples of 2 seeds.
    generator = torch.Generator().manual_seed(17)
    means = torch.randn(9, 6, generator=generator, dtype=torch.float64)
    target = GaussianMixture(None, means, 0.05)
    x = at_start(target, VP, 300)
    model = target.score_model(VP)
    exact = log_likelihood(model, x, steps=100).log_prob
    z = torch.cat(
        [
            (ll.log_prob - exact).abs() / ll.std_error
            for ll in (
                log_likelihood(model, x, probes=probes, probe_distribution=distribution, steps=100, seed=seed)
                for seed in (1, 2)
            )
        ]
    )
    # Promised 64 to 72 and 93 to 97 %; 600 of them tell it to 2 and 1 %, and one probe is rougher.
    assert 0.60 < float((z < 1).double().mean()) < 0.78
    assert 0.89 < float((z < 1.96).double().mean()) < 0.985


def test_adapted_probes_beat_all_others_at_one_product_an_evaluation() -> None:
    target = ring()
    x = at_start(target, VP, 300)
    model = target.score_model(VP)
    exact = log_likelihood(model, x, steps=118).log_prob

    def error(distribution: str, along: str = "independent") -> float:
        ll = log_likelihood(
            model,
            x,
            probes=1,
            probe_distribution=distribution,
            probes_along=along,
            steps=118,  # type: ignore[arg-type]
        )
        assert ll.nfe == 120
        return float((ll.log_prob - exact).square().mean().sqrt())

    fixed, independent = error("rademacher", "fixed"), error("rademacher")
    hadamard, adapted = error("hadamard"), error("adapted")
    # Measured 0.97, 0.17, 0.013 and 0.0054; promised for the best: 0.02.
    assert fixed > 2 * independent
    assert independent > 5 * hadamard
    assert hadamard > 1.5 * adapted
    assert adapted < 0.02


def test_a_control_helps_where_the_jacobian_is_like_a_gaussians() -> None:
    # On a Gaussian of the same covariance, J - J_G is 0 and beta finds 1 at the second node.
    target = gaussian(20)
    model = target.score_model(VP)
    x = at_start(target, VP, 40)
    exact = log_likelihood(model, x, divergence="exact").log_prob
    control = GaussianControl(target.covariance())
    fitted = GaussianControl.fit(target.sample(20_000, seed=1, dtype=torch.float64))

    def error(control: GaussianControl | None) -> float:
        ll = log_likelihood(model, x, probes=1, probe_distribution="rademacher", control=control)
        return float((ll.log_prob - exact).square().mean().sqrt())

    none = error(None)
    assert error(control) < 0.05 * none
    assert error(fitted) < 0.1 * none


def test_one_probe_has_no_standard_error_where_it_cannot_be_told() -> None:
    target = ring()
    x = at_start(target, VP, 3)
    model = target.score_model(VP)
    # All of one draw; or fewer blocks of two nodes than the five that a scatter needs.
    fixed = {"probe_distribution": "rademacher", "probes_along": "fixed"}
    for how in ({**fixed, "steps": 40}, {"steps": 7}):
        ll = log_likelihood(model, x, probes=1, **how)
        assert bool(ll.std_error.isnan().all())
        assert bool(ll.log_prob.isfinite().all())
        assert "nan" in str(ll.budget)
    assert bool(log_likelihood(model, x, probes=1, steps=9).std_error.isfinite().all())


def test_rademacher_probes_are_exact_for_a_diagonal_jacobian() -> None:
    target = Gaussian(torch.zeros(4, dtype=torch.float64), torch.tensor([0.1, 0.5, 1.0, 2.0], dtype=torch.float64))
    x = at_start(target, VP, 3)
    model = target.score_model(VP)
    exact = log_likelihood(model, x, steps=30).log_prob
    # The adapted basis starts from the standard one, which these are the eigenvectors of, and leaves it as soon as
    # products mix them: only "rademacher" and "hadamard" keep to it.
    for distribution in ("rademacher", "hadamard"):
        ll = log_likelihood(model, x, probe_distribution=distribution, steps=30)
        torch.testing.assert_close(ll.log_prob, exact, rtol=0, atol=1e-12)
        assert float(ll.std_error.max()) < 1e-12


def test_exact_traces_in_several_rows_at_once() -> None:
    target = gaussian(5)
    x = at_start(target, VP, 3)
    model = target.score_model(VP)
    one, three, all_five = (
        log_likelihood(model, x, divergence=Exact(rows), steps=10).log_prob for rows in (1, 3, None)
    )
    torch.testing.assert_close(three, one, rtol=0, atol=1e-12)  # vmapped products round otherwise
    torch.testing.assert_close(all_five, one, rtol=0, atol=1e-12)


def test_the_divergence_chosen_is_named() -> None:
    small, large = gaussian(3), Gaussian(torch.zeros(40, dtype=torch.float64), 1.0)
    x = at_start(small, VP, 2)
    model = small.score_model(VP)
    assert log_likelihood(model, x, steps=2).divergence == repr(Exact())
    assert log_likelihood(model, x, steps=2, probes=3).divergence == repr(Hutchinson(3))
    kind = log_likelihood(model, x, steps=2, probe_distribution="gaussian").divergence
    assert kind == repr(Hutchinson(2, "gaussian", "independent"))
    ll = log_likelihood(large.score_model(VP), at_start(large, VP, 2), steps=2)
    assert ll.divergence == repr(Hutchinson(2, "adapted", "independent"))
    for name, chosen in (("hutch++", HutchPP()), ("xtrace", XTrace())):
        ll = log_likelihood(large.score_model(VP), at_start(large, VP, 2), steps=2, divergence=name)
        assert ll.divergence == repr(chosen)
    assert log_likelihood(model, x, steps=2, divergence=HutchPP(3)).divergence == repr(HutchPP(3))


# Alone, in a batch, beside an outlier, in chunks ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "how",
    [
        {"steps": 20},
        {"steps": 20, "probes": 1},
        {"steps": 20, "probes": 2, "integration_error": True},
        {"steps": 20, "probes": 2, "probe_distribution": "hadamard"},
        {"steps": 8, "probes_along": "fixed", "probe_distribution": "gaussian"},
        {"steps": 8, "probes": 1, "control": GaussianControl(torch.eye(2)), "probe_distribution": "rademacher"},
        {"steps": 8, "divergence": HutchPP(3)},
        {"solver": "rk4", "steps": 8, "integration_error": True},
        {"solver": "heun", "steps": 8, "divergence": "hutchinson"},
        {"solver": "unipc", "steps": 8, "divergence": "hutchinson"},
        {"solver": "scipy:RK45", "per_sample": True, "divergence": "hutchinson", "rtol": 1e-3, "atol": 1e-3},
        {"solver": "adaptive:tsitouras_5", "steps": 12, "probes": 2, "integration_error": True},
    ],
    ids=lambda how: "-".join(map(str, how.values()))[:60],
)
def test_a_sample_is_the_same_alone_in_chunks_and_beside_an_outlier(how) -> None:
    target = ring()
    model = target.score_model(VP)
    x = at_start(target, VP, 7)
    x[6] = 50.0
    whole = log_likelihood(model, x, seed=4, **how)
    chunked = log_likelihood(model, x, seed=4, chunk=3, **how)
    alone = log_likelihood(model, x[2:3], seed=4, first=2, **how)
    for name in ("log_prob", "std_error", "latent"):
        torch.testing.assert_close(getattr(chunked, name), getattr(whole, name), rtol=0, atol=0, equal_nan=True)
        torch.testing.assert_close(getattr(alone, name), getattr(whole, name)[2:3], rtol=0, atol=0, equal_nan=True)
    for name, value in whole.budget.to_dict().items():
        other = alone.budget.to_dict()[name]
        assert (value is None) == (other is None), name
        if value is not None and other is not None:
            torch.testing.assert_close(other, value[2:3], rtol=0, atol=0, equal_nan=True)
    nfe = whole.nfe if isinstance(whole.nfe, int) else int(whole.nfe[2])
    assert int(alone.nfe) == nfe


def test_seeds_and_generators() -> None:
    target = ring()
    model = target.score_model(VP)
    x = at_start(target, VP, 4)

    def of(x: Tensor, **source) -> Tensor:
        return log_likelihood(model, x, probes=2, steps=4, **source).log_prob

    assert torch.equal(of(x), of(x, seed=0))
    assert not torch.equal(of(x), of(x, seed=1))
    assert torch.equal(of(x, seeds=[5, 6, 7, 8])[2:3], of(x[2:3], seeds=[7]))
    one = torch.Generator().manual_seed(0)
    first, second = of(x, generator=one), of(x, generator=one)
    assert not torch.equal(first, second)
    assert torch.equal(first, of(x, generator=torch.Generator().manual_seed(0)))
    before = torch.get_rng_state()
    of(x)
    assert torch.equal(torch.get_rng_state(), before)


# What it cost --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("solver", "per_step"), [(None, 1), ("euler", 1), ("heun", 2), ("unipc", 1), ("rk4", 4)])
@pytest.mark.parametrize("divergence", ["exact", "hutchinson"])
def test_one_network_call_an_evaluation(solver: str | None, per_step: int, divergence: str) -> None:
    model, network = counting(ring())
    x = at_start(ring(), VP, 3)
    ll = log_likelihood(model, x, solver=solver, steps=7, divergence=divergence)
    assert ll.nfe == 7 * per_step + 2 == network.calls  # the last node, and the mean of the prior
    network.calls = 0
    ll = log_likelihood(model, x, solver=solver, steps=7, divergence=divergence, prior="standard")
    assert ll.nfe == 7 * per_step + 1 == network.calls
    network.calls = 0
    ll = log_likelihood(model, x, solver=solver, steps=7, divergence=divergence, integration_error=True)
    assert ll.nfe == (7 + 4) * per_step + 4 == network.calls  # 7 steps, and 4 over every second node
    network.calls = 0
    ll = log_likelihood(model, x, solver=solver, divergence=divergence)
    steps = max(58 // per_step, 32)
    assert ll.nfe == steps * per_step + 2 == network.calls


@pytest.mark.parametrize("prior", ["standard", "matched"])
def test_the_models_own_counter_is_left_alone(prior) -> None:
    model, _ = counting(ring())
    log_likelihood(model, at_start(ring(), VP, 2), steps=3, prior=prior, integration_error=True)
    assert model.counter.calls == 0


def test_adaptive_evaluations_and_chunks_are_counted() -> None:
    model, network = counting(ring())
    x = at_start(ring(), VP, 4)
    ll = log_likelihood(model, x, solver="scipy:RK45", rtol=1e-3, atol=1e-3, steps=20)
    assert ll.nfe == network.calls
    network.calls = network.rows = 0
    ll = log_likelihood(model, x, solver="scipy:RK45", per_sample=True, rtol=1e-3, atol=1e-3, steps=20)
    assert isinstance(ll.nfe, Tensor)
    # The 21 nodes and the prior are evaluated for all four at once.
    assert int(ll.nfe.sum()) == network.rows
    assert network.calls == network.rows - 3 * 22
    network.calls = network.rows = 0
    ll = log_likelihood(model, x, steps=3, chunk=2)
    assert (ll.nfe, network.calls, network.rows) == (5, 10, 20)


def test_an_adaptive_solver_is_asked_for_its_state_at_the_nodes() -> None:
    # The trace's quadrature converges with the nodes while the solve, at one tolerance, stays the same.
    target = ring()
    model = target.score_model(VP)
    x = at_start(target, VP, 6)
    exact = truth(target, VP, x)
    tight = {"solver": "scipy:DOP853", "rtol": 1e-8, "atol": 1e-8}
    few, many = (log_likelihood(model, x, steps=steps, **tight) for steps in (16, 64))
    torch.testing.assert_close(few.latent, many.latent, rtol=0, atol=1e-6)
    assert float((many.log_prob - exact).abs().max()) < 0.05 * float((few.log_prob - exact).abs().max())
    grid = log_likelihood(model, x, steps=64, grid="log_snr", **tight)
    torch.testing.assert_close(grid.log_prob, many.log_prob, rtol=0, atol=2e-3)


def test_a_coupled_solve_that_ends_early_ends_for_all() -> None:
    target = ring()
    x = at_start(target, VP, 2)
    ll = log_likelihood(target.score_model(VP), x, solver="scipy:RK45", max_nfe=30)
    assert ll.status == "max_nfe"
    assert bool(ll.log_prob.isnan().all())
    assert bool(ll.std_error.isnan().all())


@pytest.mark.parametrize(
    "how",
    [
        {"solver": "scipy:RK45", "per_sample": True},
        {"solver": "adaptive:tsitouras_5"},
    ],
    ids=["scipy", "own"],
)
def test_the_last_evaluation_allowed_is_said_to_be_the_last(how) -> None:
    target = ring()
    x = at_start(target, VP, 2)
    model = target.score_model(VP)
    x[1] *= 0.1  # one of the two needs fewer steps
    free = log_likelihood(model, x, **how)
    assert isinstance(free.nfe, Tensor)
    limit = int(free.nfe.min()) - 66  # of the solve alone: 65 nodes and the prior come after it
    ll = log_likelihood(model, x, max_nfe=limit, **how)
    assert ll.status == "max_nfe"
    assert torch.equal(ll.log_prob.isnan(), free.nfe > limit + 66)
    assert torch.equal(ll.std_error.isnan(), ll.log_prob.isnan())
    assert int(ll.log_prob.isnan().sum()) == 1
    done = ~ll.log_prob.isnan()
    assert torch.equal(ll.log_prob[done], free.log_prob[done])


def test_progress_changes_no_number(capsys: pytest.CaptureFixture[str]) -> None:
    target = ring()
    x = at_start(target, VP, 2)
    model = target.score_model(VP)
    shown = log_likelihood(model, x, steps=4, progress=True)
    assert "adams" in capsys.readouterr().err
    assert torch.equal(shown.log_prob, log_likelihood(model, x, steps=4).log_prob)


# The budget ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("divergence", ["exact", "hutchinson"])
@pytest.mark.parametrize(("solver", "steps"), [(None, 96), ("heun", 64), ("rk4", 80)])
def test_the_integration_error_is_about_the_error_made(solver: str | None, steps: int, divergence: str) -> None:
    target = ring()
    x = at_start(target, VP, 64)
    model = target.score_model(VP)
    ll = log_likelihood(model, x, solver=solver, divergence=divergence, steps=steps, integration_error=True)
    exact = log_likelihood(model, x, solver=solver, divergence="exact", steps=steps).log_prob
    made = float((exact - truth(target, VP, x)).abs().mean())
    assert ll.budget.integration is not None
    told = float(ll.budget.integration.mean())
    # A third of the difference to half the steps: right for order 2, 5 times too much for order 4. Measured 5 (adams),
    # 0.66 (heun, whose error falls as order 1.4 here) and 7 (rk4).
    assert 0.5 * made < told < 15 * made
    # Without the noise of the probes, which is larger than it, in the difference.
    if divergence == "hutchinson" and solver is None:
        assert told < 0.5 * float((ll.log_prob - exact).square().mean().sqrt())


def test_without_a_second_solve_the_integration_error_is_that_of_the_state() -> None:
    target = ring()
    x = at_start(target, VP, 64)
    model = target.score_model(VP)
    for steps in (20, 58):
        alone = log_likelihood(model, x, steps=steps)
        both = log_likelihood(model, x, steps=steps, integration_error=True)
        assert alone.budget.integration is not None
        assert both.budget.integration is not None
        assert bool((alone.budget.integration <= both.budget.integration).all())
        assert float(alone.budget.integration.max()) > 0
        made = (alone.log_prob - truth(target, VP, x)).abs()
        worst = int(made.argmax())
        # First order, where the error is largest: it is told within a factor of 4.
        assert float(made[worst]) / 4 < float(alone.budget.integration[worst]) < 4 * float(made[worst])
    adaptive = log_likelihood(model, x, solver="adaptive:tsitouras_5")
    assert adaptive.budget.integration is None
    assert "integration_error=True" in str(adaptive.budget)


def test_the_integration_error_of_an_adaptive_solve() -> None:
    target = ring()
    x = at_start(target, VP, 16)
    model = target.score_model(VP)
    ll = log_likelihood(model, x, solver="scipy:RK45", rtol=1e-4, atol=1e-4, integration_error=True)
    loose = log_likelihood(model, x, solver="scipy:RK45", rtol=1e-3, atol=1e-3, grid=every_second(64))
    assert ll.budget.integration is not None
    torch.testing.assert_close(ll.budget.integration, (loose.log_prob - ll.log_prob).abs() / 3, rtol=0, atol=1e-12)
    made = (ll.log_prob - truth(target, VP, x)).abs().mean()
    assert float(ll.budget.integration.mean()) > 0.8 * float(made)


def every_second(steps: int) -> Tensor:
    """Every second node of the default grid."""
    return make_grid("along_path").times(VP, steps, VP.t_min, VP.t_max)[::2]


@every_sde
def test_truncation_is_the_first_order_change_from_the_data(sde) -> None:
    # On a Gaussian log p_t(x) - log p_0(x) is known, so the estimate's error can be seen to be of second order: it
    # falls four times as fast as sigma~^2 does (VP and its like), or alpha's departure from 1 (sub-VP, flow).
    target = gaussian()
    x = target.sample(6, seed=2, dtype=torch.float64)
    errors, changes = [], []
    for t in (4e-4 * sde.t_max, 1e-4 * sde.t_max) if not isinstance(sde, VESDE) else (0.05, 0.0):
        ll = log_likelihood(target.score_model(sde), x, t_eps=t, steps=2)
        change = target.log_prob_at(x, t, sde) - target.log_prob(x)
        errors.append(float((ll.budget.truncation - change).abs().max()))
        changes.append(float(change.abs().max()))
    ratio = changes[0] / changes[1]
    assert errors[0] / errors[1] > 0.7 * ratio**2
    assert errors[0] < 0.1 * changes[0]


@pytest.mark.parametrize("sde", [VESDE(sigma_max=4.0), VPSDE(beta_max=5.0)], ids=repr)
def test_the_prior_bound_bounds_the_priors_error(sde) -> None:
    target = GaussianMixture(None, torch.tensor([[-1.5], [1.5]], dtype=torch.float64), 0.04)
    model = target.score_model(sde)
    x = at_start(target, sde, 2000)
    ll = log_likelihood(model, x, steps=40)
    error = ll.log_prob - truth(target, sde, x)
    # E[log p_T - log prior] = KL(p_T || prior), from 0 to the bound.
    kl = float(-error.mean())
    assert kl + 4 * float(error.std()) / math.sqrt(2000) >= 0
    assert kl < float(ll.budget.prior.mean())
    # The bound is E KL(N(alpha_T x_0, sigma_T^2) || prior) = ln(1 + SNR_T data_std^2)/2, by the definition of data_std.
    expected = 0.5 * math.log1p(model.data_std**2 * math.exp(float(sde.log_snr(sde.t_max))))
    assert float(ll.budget.prior.mean()) == pytest.approx(expected, rel=0.02)


def test_the_budget_prints_a_line_for_each_entry() -> None:
    target = ring()
    ll = log_likelihood(target.score_model(VP), at_start(target, VP, 3), steps=4)
    lines = str(ll.budget).splitlines()
    assert [line.split()[0] for line in lines] == ["error", "probe", "integration", "truncation", "prior"]
    assert "integration_error=True" in lines[2]
    assert "Exact" in repr(ll)
    assert "nfe=6" in repr(ll)


# Units ---------------------------------------------------------------------------------------------------------------


def of_log_prob(log_prob: Tensor, dim: int) -> LogLikelihood:
    target = ring()
    ll = log_likelihood(target.score_model(VP), at_start(target, VP, len(log_prob)), steps=1)
    return LogLikelihood(log_prob, ll.std_error, ll.latent, ll.nfe, ll.budget, ll.status, ll.divergence, dim)


def test_bits_per_dim_of_a_uniform_density() -> None:
    # Data uniform on its range in d = 3 has p = (high - low)^-d: 8 bits for 256 levels, 0 for one.
    ll = of_log_prob(torch.tensor([-3 * math.log(2.0)], dtype=torch.float64), dim=3)
    assert float(ll.bits_per_dim(data_range=(-1, 1), levels=256)) == pytest.approx(8.0, abs=1e-12)
    assert float(ll.bits_per_dim(data_range=(-1, 1), levels=16)) == pytest.approx(4.0, abs=1e-12)
    assert float(ll.bits_per_dim(data_range=(-1.0, 1.0))) == pytest.approx(0.0, abs=1e-12)
    # The familiar offset of 8-bit data in [-1, 1]: -log2 p/d + 7.
    zero = of_log_prob(torch.zeros(1, dtype=torch.float64), dim=3)
    assert float(zero.bits_per_dim(data_range=(-1, 1), levels=256)) == pytest.approx(7.0, abs=1e-12)


def test_bits_per_dim_does_not_depend_on_the_units_of_x() -> None:
    sde = EDMSDE(t_min=1e-3, t_max=5000.0)
    scale, shift = 3.0, 2.0
    unit, moved = (Gaussian(torch.full((4,), m, dtype=torch.float64), c) for m, c in ((0.0, 0.25), (shift, 2.25)))
    x = unit.sample(5, seed=0, dtype=torch.float64)
    bits = log_likelihood(unit.score_model(sde), x, steps=60).bits_per_dim(data_range=(-1, 1), levels=256)
    other = log_likelihood(moved.score_model(sde), scale * x + shift, steps=60)
    # The noise of t_min is 1e-3 in both units, which differ by 3; a prior about 0 misses the shift by 2/5000 of z.
    torch.testing.assert_close(other.bits_per_dim(data_range=(-1, 5), levels=256), bits, rtol=0, atol=1e-3)
    closed = (0.5 * (x / 0.5).square() + 0.5 * math.log(2 * math.pi * 0.25)).mean(1) / math.log(2) + 7
    torch.testing.assert_close(bits, closed, rtol=0, atol=1e-3)


def test_the_range_of_the_data_is_never_assumed() -> None:
    ll = of_log_prob(torch.zeros(1, dtype=torch.float64), dim=3)
    with pytest.raises(TypeError, match="data_range"):
        ll.bits_per_dim()  # type: ignore[call-arg]
    for wrong in ((1, -1), (0, 0), (0, math.inf), 256, (0, 1, 2)):
        with pytest.raises(ArgumentError, match="data_range"):
            ll.bits_per_dim(data_range=wrong)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="levels"):
        ll.bits_per_dim(data_range=(0, 1), levels=0)


# Errors --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"divergence": "hutchison"}, UnknownNameError, "did you mean 'hutchinson'"),
        ({"divergence": 3}, ArgumentError, "divergence"),
        ({"probes": 0}, ArgumentError, "probes"),
        ({"probe_distribution": "normal"}, UnknownNameError, "normal"),
        ({"probes_along": "path"}, UnknownNameError, "path"),
        ({"divergence": "exact", "probes": 4}, ArgumentError, "hutchinson"),
        ({"divergence": Hutchinson(2), "probes": 4}, ArgumentError, "probes"),
        ({"divergence": "hutch++", "probe_distribution": "gaussian"}, ArgumentError, "hutchinson"),
        ({"divergence": "hutch++", "probes": 2}, ArgumentError, "at least 3"),
        ({"divergence": "hutch++", "probes": 6}, ArgumentError, "exact"),
        ({"divergence": "xtrace", "probes": 5}, ArgumentError, "even"),
        ({"divergence": "xtrace", "probes": 4}, ArgumentError, "exact"),
        ({"probes_along": "fixed"}, ArgumentError, "rademacher"),
        ({"probes_along": "fixed", "probe_distribution": "hadamard"}, ArgumentError, "rademacher"),
        ({"control": torch.eye(2)}, ArgumentError, "GaussianControl"),
        ({"control": GaussianControl(torch.eye(3))}, ShapeError, "3 coordinates, the samples have 2"),
        ({"divergence": "exact", "control": GaussianControl(torch.eye(2))}, ArgumentError, "control"),
        ({"prior": "normal"}, UnknownNameError, "standard"),
        ({"solver": "rk4", "rtol": 1e-3}, ArgumentError, "rtol"),
        ({"solver": solvers.RK4(), "variable": "t"}, ArgumentError, "set where it is made"),
        ({"rtol": 1e-3}, ArgumentError, "solver given by name"),
        ({"solver": "euler_maruyama", "steps": 10}, UnsupportedError, "stochastic"),
        ({"solver": "ubu", "steps": 10}, UnsupportedError, "other dynamics|stochastic"),
        ({"solver": "rk44"}, UnknownNameError, "rk4"),
        ({"grid": "karas"}, UnknownNameError, "karras"),
        ({"steps": 0}, ArgumentError, "steps"),
        ({"steps": 1, "integration_error": True}, ArgumentError, "at least 2"),
        ({"t_eps": 0.0}, ArgumentError, "t_eps"),
        ({"t_eps": 1.0}, ArgumentError, "t_eps"),
        ({"t_eps": 2.0}, ArgumentError, "t_eps"),
        ({"seed": 1, "seeds": [1, 2]}, ArgumentError, "one of seed"),
        ({"condition": 5}, ArgumentError, "condition must be a dict"),
        ({"solver": "scipy:RK45", "chunk": 1}, UnsupportedError, "per_sample"),
    ],
    ids=str,
)
def test_arguments_that_make_no_sense(arguments, error, words: str) -> None:
    model, network = counting(ring())
    with pytest.raises(error, match=words):
        log_likelihood(model, torch.zeros(2, 2), **arguments)
    assert network.calls == 0


def test_a_condition_that_the_network_does_not_take() -> None:
    with pytest.raises(ArgumentError, match="with condition 'y'"):
        log_likelihood(ring().score_model(VP), torch.zeros(2, 2), condition={"y": 1})


def test_states_that_make_no_sense() -> None:
    model = ring().score_model(VP)
    with pytest.raises(ShapeError, match=r"\(2,\)"):
        log_likelihood(model, torch.zeros(4, 3))
    with pytest.raises(ArgumentError, match="NaN"):
        log_likelihood(model, torch.tensor([[0.0, math.nan]]))
    with pytest.raises(ArgumentError, match="floating-point"):
        log_likelihood(model, torch.zeros(2, 2, dtype=torch.int64))
    with pytest.raises(ArgumentError, match="ScoreModel"):
        log_likelihood(lambda x, t: x, torch.zeros(2, 2))  # type: ignore[arg-type]


@pytest.mark.parametrize("hidden", [lambda x: x.detach(), torch.zeros_like], ids=["detached", "constant"])
@pytest.mark.parametrize("divergence", ["exact", "hutchinson"])
def test_a_network_that_autograd_cannot_see_through(hidden, divergence: str) -> None:
    weight = torch.ones(2, requires_grad=True)  # a graph, but none that leads to x
    for network in (lambda x, t: hidden(x), lambda x, t: hidden(x) * weight):
        with pytest.raises(ArgumentError, match="does not depend on x"):
            log_likelihood(ScoreModel(network, VP), torch.ones(3, 2), divergence=divergence, steps=2)


@pytest.mark.parametrize("solver", ["rk4", "scipy:RK45"])
def test_a_non_finite_state_names_the_time(solver: str) -> None:
    def network(x: Tensor, t: Tensor) -> Tensor:
        bad = (t > 0.5) & (torch.arange(len(x)) == 1)
        return torch.where(bad[:, None], math.nan, x)

    with pytest.raises(NonFiniteError) as caught:
        log_likelihood(ScoreModel(network, VP), torch.ones(3, 2), solver=solver)
    assert caught.value.solver == solver
    assert caught.value.samples == [1]
    # t itself, not ln(sigma/alpha): the end of the step in which t passes 0.5.
    assert 0.49 < caught.value.time < 0.6
