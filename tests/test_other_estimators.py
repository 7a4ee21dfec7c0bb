"""The Ito estimator and the variational bound: against closed forms; errors, streams, counting; what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from _helpers import gaussian_model
from torch import Tensor

from sdekit.errors import ArgumentError, NonFiniteError, UnknownNameError
from sdekit.likelihood import Ito, LogLikelihood, VariationalBound, discrete_log_likelihood, log_likelihood
from sdekit.likelihood.estimators import check_estimator, make_estimator
from sdekit.likelihood.settings import check_span
from sdekit.models import ScoreModel
from sdekit.noise import KeyedNoise, SeedsNoise
from sdekit.sdes import DIFFUSION_SDES, VPSDE, CustomDiffusionSDE, DiffusionSDE
from sdekit.targets import Gaussian, digits, ring

VP = VPSDE()
SDES = [
    *(family() for family in DIFFUSION_SDES),
    CustomDiffusionSDE(lambda t: torch.exp(-t.square()), torch.sinh, t_max=2.0),
]
every_sde = pytest.mark.parametrize("sde", SDES, ids=lambda sde: sde.name)
both = pytest.mark.parametrize("name", ["ito", "elbo"])


def gaussian() -> Gaussian:
    """N(m, C) with a full C of eigenvalues 0.05, 0.5 and 2."""
    generator = torch.Generator().manual_seed(0)
    axes = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))[0]
    cov = axes @ torch.diag(torch.tensor([0.05, 0.5, 2.0], dtype=torch.float64)) @ axes.T
    return Gaussian(torch.tensor([-0.5, 0.0, 0.5], dtype=torch.float64), 0.5 * (cov + cov.T))


def at_start(target, sde: DiffusionSDE, n: int) -> Tensor:
    return target.marginal(sde, sde.t_min).sample(n, seed=1, dtype=torch.float64)


def made(name: str, sde: DiffusionSDE, steps: int | None = None, prior: str = "standard", **options):
    settings = {"grid": None, "repeats": None, "progress": False, "of_flow": {}, **options}
    span = check_span(sde, settings.pop("t_eps", None))
    model = ScoreModel(lambda x, t: x, sde, "v")  # of no scale of its own
    return make_estimator(name, model, span, prior, steps=steps, **settings)  # type: ignore[arg-type]


def run(how, model: ScoreModel, x: Tensor, seed: int = 0, first: int = 0, size: int | None = None) -> LogLikelihood:
    return how.evaluate(model, x, KeyedNoise(seed, first), len(x) if size is None else size)


def bound_of_exact_score(
    target: Gaussian, sde: DiffusionSDE, x: Tensor, data_std: float, t_eps: float | None = None
) -> Tensor:
    """log p_eps(x) - E log (p_T/prior)(x_T) with x_T = (alpha_T/alpha_eps) x + noise: closed form for one x, (d,)."""
    a, b = sde.t_min if t_eps is None else t_eps, sde.t_max
    ratio = float(sde.alpha(b) / sde.alpha(a))
    variance = float(sde.sigma(b)) ** 2 - ratio**2 * float(sde.sigma(a)) ** 2
    end = target.marginal(sde, b)
    mean, precision = ratio * x, torch.linalg.inv(end.covariance())
    # E log N(x_T; m, V) = log N(E x_T; m, V) - tr(V^-1 Cov x_T)/2.
    of_data = target.log_prob_at(mean[None], b, sde)[0] - 0.5 * variance * precision.trace()
    std = sde.prior_std(None, data_std)
    of_prior = sde.prior_log_prob(mean[None], data_std=data_std)[0] - 0.5 * len(x) * variance / std**2
    return target.log_prob_at(x[None], a, sde)[0] - of_data + of_prior


# The variational bound -----------------------------------------------------------------------------------------------


@every_sde
def test_the_bound_of_an_exact_score_is_log_p_less_what_the_prior_costs(sde: DiffusionSDE) -> None:
    target, n = gaussian(), 3000
    network = target.score_model(sde).network
    x = at_start(target, sde, 2)[1]
    # With a prior that leaves the data out, and times that know nothing of its size; and with both, 0.7 of the true.
    for size, most in ((0.0, 0.1), (0.7, 0.05)):
        # However few times are drawn: the integral is drawn without bias, not approximated.
        bound = run(made("elbo", sde, 12), ScoreModel(network, sde, "v", data_std=size), x.expand(n, 3))
        error = float(bound.log_prob.std()) / n**0.5
        assert error < most
        expected = float(bound_of_exact_score(target, sde, x, size))
        assert float(bound.log_prob.mean()) == pytest.approx(expected, abs=4 * error)
        assert (bound.kind, bound.latent, bound.status) == ("bound", None, "success")


def test_a_prior_that_misses_the_data_lowers_the_bound_by_what_the_closed_form_says() -> None:
    sde, n = VPSDE(beta_max=1.0), 4000  # alpha_T = 0.76
    target = gaussian()
    x = torch.tensor([1.0, -1.0, 1.5], dtype=torch.float64)
    expected = float(bound_of_exact_score(target, sde, x, 0.0))
    truth = float(target.log_prob_at(x[None], sde.t_min, sde))
    assert abs(truth - expected) > 0.2
    bound = run(made("elbo", sde, 24), ScoreModel(target.score_model(sde).network, sde, "v"), x.expand(n, 3))
    error = float(bound.log_prob.std()) / n**0.5
    assert float(bound.log_prob.mean()) == pytest.approx(expected, abs=4 * error)
    assert abs(truth - expected) > 10 * error


@both
def test_the_density_is_had_where_it_is_asked_for(name: str) -> None:
    # Half way: alpha_eps = 0.8 and a noise that is a tenth of that at T, where all that is small at t_min shows.
    sde, n, t_eps = VPSDE(beta_max=1.0), 4000, 0.7
    target = gaussian()
    x = torch.tensor([1.0, -1.0, 1.5], dtype=torch.float64)
    expected = float(bound_of_exact_score(target, sde, x, 0.7, t_eps))
    model = ScoreModel(target.score_model(sde).network, sde, "v", data_std=0.7)
    options = {"repeats": 1, "grid": "log_snr"} if name == "ito" else {}
    ll = run(made(name, sde, 24, t_eps=t_eps, **options), model, x.expand(n, 3))
    error = float(ll.log_prob.std()) / n**0.5
    # The steps of Ito are short here: 0.02 of u each, so an error of h/4 of that in 3 dimensions.
    assert float(ll.log_prob.mean()) == pytest.approx(expected, abs=4 * error + (0.01 if name == "ito" else 0))


def test_a_wrong_score_has_the_bound_of_song() -> None:
    # eps = g x, whatever t. The formula of Song et al., theorem 3, in v = sigma~^2, by quadrature.
    n, g = 4000, 0.3
    x = torch.tensor([0.7, -0.4], dtype=torch.float64)
    model = ScoreModel(lambda x, t: g * x, VP, "noise", data_std=1.0)
    low, high = (float(VP.sigma_ratio(t)) ** 2 for t in (VP.t_min, VP.t_max))
    places, weights = np.polynomial.legendre.leggauss(200)
    u = 0.5 * (math.log(high) * (places + 1) + math.log(low) * (1 - places))
    integral = 0.0
    for v, weight in zip(np.exp(u), weights * 0.5 * math.log(high / low) * np.exp(u), strict=True):
        slope = g * float(VP.alpha(VP.time_of_sigma_ratio(torch.tensor(v**0.5, dtype=torch.float64)))) / v**0.5
        second = float(x.square().sum()) / float(VP.alpha(VP.t_min)) ** 2 + 2 * (v - low)  # E |x~_v|^2
        integral += weight * (0.5 * slope**2 * second - 2 * slope)  # E |s~|^2/2 + div s~, s~ = -slope x~
    ends = bound_of_exact_score(Gaussian(torch.zeros(2, dtype=torch.float64), 1.0), VP, x, 1.0)
    of_one = Gaussian(torch.zeros(2, dtype=torch.float64), 1.0)
    # E log prior~(x~_T), from the exact N(0, I), whose bound is an equality: log p = E log prior~ - (its integral).
    own = 0.0
    for v, weight in zip(np.exp(u), weights * 0.5 * math.log(high / low) * np.exp(u), strict=True):
        second = float(x.square().sum()) / float(VP.alpha(VP.t_min)) ** 2 + 2 * (v - low)
        own += weight * (0.5 * second / (1 + v) ** 2 - 2 / (1 + v))
    torch.testing.assert_close(ends, of_one.log_prob_at(x[None], VP.t_min, VP)[0])
    expected = float(ends) + own - integral
    bound = run(made("elbo", VP, 48), model, x.expand(n, 2))
    error = float(bound.log_prob.std()) / n**0.5
    assert float(bound.log_prob.mean()) == pytest.approx(expected, abs=4 * error)
    assert expected < float(ends) - 10 * error  # worse than the exact score of the same data


def test_the_standard_error_of_the_bound_is_calibrated() -> None:
    target = ring()
    x = at_start(target, VP, 1200)
    bound = run(made("elbo", VP, 96), target.score_model(VP), x)
    error = bound.log_prob - target.log_prob_at(x, VP.t_min, VP)  # the prior's part: below 1e-4 here
    covered = [float((error.abs() < k * bound.std_error).double().mean()) for k in (1.0, 2.0)]
    # 68 and 95 % were the errors normal, and within 2 % for the number of samples; leaning to the safe side.
    assert 0.64 < covered[0] < 0.75
    assert 0.91 < covered[1] < 0.98
    assert torch.equal(bound.budget.probe, bound.std_error)
    assert bound.budget.integration is None
    assert "without bias" in str(bound.budget)


def test_the_error_of_the_bound_falls_with_the_times_and_in_many_dimensions() -> None:
    target = digits()
    x = at_start(target, VP, 24)
    truth = target.log_prob_at(x, VP.t_min, VP)
    error = {}
    for steps in (16, 64):
        bound = run(made("elbo", VP, steps), target.score_model(VP), x)
        error[steps] = float((bound.log_prob - truth).square().mean().sqrt())
    # 64 dimensions; measured 8.5 and 2.2 nats. Strata: the error falls faster than 1/sqrt(n), by 2.
    assert error[64] < 3.5
    assert error[16] > 2 * error[64]


# The Ito estimator ---------------------------------------------------------------------------------------------------


def test_the_mean_of_ito_errs_by_h_from_below_and_one_path_by_its_root() -> None:
    target, n = gaussian(), 2000
    model = target.score_model(VP)
    x = at_start(target, VP, n)
    truth = target.log_prob_at(x, VP.t_min, VP)
    bias, spread = {}, {}
    for steps in (15, 30, 60):
        ll = run(made("ito", VP, steps, grid="log_snr", repeats=2), model, x)
        error = ll.log_prob - truth
        bias[steps], spread[steps] = float(error.mean()), float(error.std())
        assert bias[steps] < -4 * spread[steps] / n**0.5
    assert bias[30] / bias[60] == pytest.approx(2, abs=0.5)
    assert spread[30] / spread[60] == pytest.approx(math.sqrt(2), abs=0.2)
    # Extrapolated in h, the truth: what is left is of order h^2.
    assert 2 * bias[60] - bias[30] == pytest.approx(0, abs=0.25 * abs(bias[60]) + 8 * spread[30] / n**0.5)


@every_sde
def test_ito_converges_to_log_p_under_every_sde(sde: DiffusionSDE) -> None:
    target, n = gaussian(), 300
    x = at_start(target, sde, n)
    model = target.score_model(sde)
    ll = run(made("ito", sde, 240, grid="log_snr", repeats=1), model, x)
    expected = torch.stack([bound_of_exact_score(target, sde, row, model.data_std) for row in x])
    error = ll.log_prob - expected
    # Of first order: 240 steps over up to 14 units of u in 3 dimensions; measured up to -0.05.
    assert float(error.mean()) == pytest.approx(0, abs=0.1 + 4 * float(error.std()) / n**0.5)
    assert torch.isnan(ll.std_error).all()  # one path does not tell its spread
    assert (ll.kind, ll.latent) == ("approximate", None)


def test_ito_is_itos_formula() -> None:
    # Written out in t: d log p = s . dx + (div f + f . s - g^2 |s|^2/2) dtau along the reversed path.
    target, n, steps = gaussian(), 1000, 4000
    x = at_start(target, VP, 1)[0].expand(n, 3)
    times = torch.exp(torch.linspace(math.log(VP.t_min), 0, steps + 1, dtype=torch.float64))
    generator = torch.Generator().manual_seed(3)
    total, state = torch.zeros(n, dtype=torch.float64), x
    for t, s in zip(times[:-1].tolist(), times[1:].tolist(), strict=True):
        ratio = float(VP.alpha(s) / VP.alpha(t))
        std = math.sqrt(float(VP.sigma(s)) ** 2 - ratio**2 * float(VP.sigma(t)) ** 2)
        after = ratio * state + std * torch.randn(n, 3, generator=generator, dtype=torch.float64)
        score = target.score(after, VP.alpha(s), VP.sigma(s))
        f, g2 = float(VP.drift_coefficient(s)), float(VP.diffusion_coefficient(s)) ** 2
        total += (score * (state - after)).sum(1)
        total += (3 * f + f * (after * score).sum(1) - 0.5 * g2 * score.square().sum(1)) * (s - t)
        state = after
    written = total + target.log_prob_at(state, 1.0, VP)
    ll = run(made("ito", VP, 120, repeats=1), target.score_model(VP), x[:500])
    truth = float(target.log_prob_at(x[:1], VP.t_min, VP))
    # Both are right to within their steps, of first order: 4000 plain ones err by 0.09, 120 of ours by 0.04.
    assert float(written.mean()) == pytest.approx(truth, abs=0.12)
    assert float(ll.log_prob.mean()) == pytest.approx(float(written.mean()), abs=0.15)
    assert float(ll.log_prob.std()) < 4 * float(written.std())


def test_the_budget_of_ito_tells_its_errors() -> None:
    target = digits()
    x = at_start(target, VP, 12)
    ll = run(made("ito", VP, 40, repeats=16), target.score_model(VP), x)
    bias = target.log_prob_at(x, VP.t_min, VP) - ll.log_prob
    assert ll.budget.integration is not None
    # The difference to half the steps, measured 1.4 times the error: of first order, seen at large steps.
    assert 0.7 < float(ll.budget.integration.mean() / bias.mean()) < 2.5
    again = [run(made("ito", VP, 40, repeats=2), target.score_model(VP), x, seed) for seed in range(12)]
    scatter = float(torch.stack([each.log_prob for each in again]).var(0).mean().sqrt())
    # From the scatter of means of 2 paths, 1/sqrt(8) of it for 16; widened as Student's t, by 1.07, and twofold for 2.
    assert float(ll.std_error.square().mean().sqrt()) == pytest.approx(scatter / 8**0.5 * (15 / 13) ** 0.5, rel=0.3)
    of_two = torch.stack([each.std_error for each in again]).square().mean().sqrt()
    assert float(of_two) == pytest.approx(2 * scatter, rel=0.3)
    # Of two paths, by hand: s/sqrt(2) with s^2 = 2 (f_1 - m)^2, and twice that.
    one = run(made("ito", VP, 40, repeats=1), target.score_model(VP), x, 0)
    torch.testing.assert_close(again[0].std_error, 2 * (one.log_prob - again[0].log_prob).abs())


# Both ----------------------------------------------------------------------------------------------------------------


@both
def test_a_sample_is_the_same_alone_beside_an_outlier_and_in_chunks(name: str) -> None:
    model = gaussian_model(VP, 0.1, 0.5, shape=(2, 3))
    x = torch.randn(7, 2, 3, generator=torch.Generator().manual_seed(0))
    x[3] = 50.0
    how = made(name, VP, 9)
    whole, chunks = run(how, model, x, 7, 10), run(how, model, x, 7, 10, size=2)
    for i in range(7):
        alone = run(how, model, x[i : i + 1], 7, 10 + i)
        for value in ("log_prob", "std_error"):
            assert torch.equal(getattr(alone, value)[0], getattr(whole, value)[i])
            assert torch.equal(getattr(chunks, value)[i], getattr(whole, value)[i])
    assert not torch.equal(whole.log_prob, run(how, model, x, 8, 10).log_prob)
    each = how.evaluate(model, x, SeedsNoise(range(7)), 7)
    assert torch.equal(each.log_prob[4:5], how.evaluate(model, x[4:5], SeedsNoise([4]), 1).log_prob)


@both
@pytest.mark.parametrize("prior", ["standard", "matched"])
def test_every_call_of_the_network_is_counted(name: str, prior: str) -> None:
    model = gaussian_model(VP, 0.1, 0.5)
    x = torch.zeros(5, 2)
    options = {"repeats": 3} if name == "ito" else {}
    ll = run(made(name, VP, 9, prior, **options), model, x)
    assert ll.nfe == model.network.calls == (27 if name == "ito" else 18) + (prior == "matched")
    assert model.counter.calls == 0  # the model's own counter is left alone


@both
def test_priors_conditions_and_dtypes(name: str) -> None:
    target = gaussian()
    exact = target.score_model(VP)

    def shifted(x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        """v of the data moved by `label`: v(x) = v_0(x - alpha label) - sigma label."""
        a, s = VP.alpha(t)[:, None], VP.sigma(t)[:, None]
        return exact.network((x - a * label), t) - s * label

    by = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(4, 3)
    x = at_start(target, VP, 4)
    moved = x + float(VP.alpha(VP.t_min)) * by
    how = made(name, VP, 12, "matched")
    plain = run(how, ScoreModel(exact.network, VP, "v", data_std=3.0), x)
    model = ScoreModel(shifted, VP, "v", data_std=3.0, condition={"label": by})
    along = run(how, model, moved, size=3)
    # Everything moves with the data: paths and the mean of the prior, but not its width (1e-4 at alpha_T = 0.007).
    torch.testing.assert_close(along.log_prob, plain.log_prob, rtol=0, atol=1e-3)
    seen = set()

    def noting(x: Tensor, t: Tensor) -> Tensor:
        seen.update((x.dtype, t.dtype))
        return exact.network(x, t)

    single = run(how, ScoreModel(noting, VP, "v", data_std=3.0), x.float())
    assert seen == {torch.float32}
    assert single.log_prob.dtype == torch.float64
    torch.testing.assert_close(single.log_prob, plain.log_prob, rtol=0, atol=1e-2)  # 6e-8/sigma_eps, times |eps| and 3


@both
def test_a_network_that_fails_is_named_with_its_sample(name: str) -> None:
    def failing(x: Tensor, t: Tensor) -> Tensor:
        return torch.where((x.abs() > 1e6) | (t[:, None] > 0.5) & (x[:, :1] > 40), math.nan, 0.3 * x)

    model = ScoreModel(failing, VP, "noise", data_std=1.0)
    x = torch.zeros(5, 2, dtype=torch.float64)
    x[3] = 1e6
    with pytest.raises(NonFiniteError) as caught:
        run(made(name, VP, 12), model, x, size=2)
    assert caught.value.samples == [3]
    assert caught.value.solver == name


@both
def test_no_gradient_is_recorded_and_networks_that_differentiate_serve(name: str) -> None:
    def energy(x: Tensor, t: Tensor) -> Tensor:
        with torch.enable_grad():
            y = x.detach().requires_grad_()
            (slope,) = torch.autograd.grad((0.2 * y.square()).sum(), y)
        return slope

    x = torch.ones(3, 2, dtype=torch.float64).requires_grad_()
    plain = ScoreModel(lambda x, t: 0.4 * x, VP, "noise")
    differentiating = ScoreModel(energy, VP, "noise", needs_autograd=True)
    a, b = run(made(name, VP, 5), plain, x), run(made(name, VP, 5), differentiating, x)
    torch.testing.assert_close(a.log_prob, b.log_prob)
    assert not a.log_prob.requires_grad
    assert torch.isnan(a.log_prob_0).all()  # no trace, so no correction to t = 0


def test_one_call_has_all_estimators_and_says_what_each_is() -> None:
    target = ring()
    model = target.score_model(VP)
    x = at_start(target, VP, 5)
    settings = {"seed": 3, "first": 2, "prior": "standard", "t_eps": 0.01}
    bound = log_likelihood(model, x, estimator="elbo", steps=6, chunk=2, **settings)
    assert torch.equal(bound.log_prob, run(made("elbo", VP, 6, t_eps=0.01), model, x, 3, 2).log_prob)
    with torch.inference_mode():
        ito = log_likelihood(model, x, estimator="ito", steps=6, grid="karras", repeats=3, chunk=2, **settings)
    how = made("ito", VP, 6, grid="karras", repeats=3, t_eps=0.01)
    assert torch.equal(ito.log_prob, run(how, model, x, 3, 2).log_prob)
    kinds = {
        "exact": log_likelihood(model, x, steps=6),
        "unbiased": log_likelihood(model, x, steps=6, probes=2),
        "bound": bound,
        "approximate": ito,
    }
    assert {name: ll.kind for name, ll in kinds.items()} == {name: name for name in kinds}
    assert torch.equal(log_likelihood(model, x, steps=6, chunk=2).latent, kinds["exact"].latent)
    labelled = ScoreModel(
        lambda x, t: model.network(x, t / 999), VP, "v", time=lambda t: 999 * t, data_std=model.data_std
    )
    again = log_likelihood(labelled, x, estimator="elbo", steps=6, **settings)
    torch.testing.assert_close(again.log_prob, bound.log_prob, rtol=0, atol=1e-9)  # rounding of t in float64
    for wrong in ({"solver": "rk4"}, {"probes": 2}, {"tolerance": 0.1}, {"integration_error": True}, {"rtol": 1e-3}):
        with pytest.raises(ArgumentError, match="it takes no"):
            log_likelihood(model, x, estimator="elbo", **wrong)  # type: ignore[arg-type]


def test_discrete_data_by_any_estimator() -> None:
    # One coordinate N(0, 0.3^2) and bins as wide: log P in closed form; all within their own errors.
    model = gaussian_model(VP, 0.0, 0.3)
    n = 200
    k = torch.full((n, 1), 4)  # [0, 0.3] of 8 bins over [-1.2, 1.2]
    s = math.hypot(0.3, float(VP.sigma_ratio(VP.t_min)))
    log_p = math.log(0.5 * math.erf(0.3 / s / math.sqrt(2)))
    for name, kind, options in (("elbo", "bound", {"steps": 48}), ("ito", "approximate", {"steps": 60, "repeats": 4})):
        ll = discrete_log_likelihood(model, k, levels=8, data_range=(-1.2, 1.2), samples=8, estimator=name, **options)
        assert ll.kind == kind
        error = float(ll.log_prob.std()) / n**0.5
        # Below log P by the noise of a density over 2 K, and for Ito by its steps: 0.1 in all.
        assert -0.1 - 4 * error < float(ll.log_prob.mean()) - log_p < 4 * error


def test_progress_is_shown_and_repr_says_how(capsys: pytest.CaptureFixture[str]) -> None:
    model = gaussian_model(VP)
    for name, how in (("ito", "Ito(steps=4, repeats=8)"), ("elbo", "VariationalBound(steps=4)")):
        ll = run(made(name, VP, 4, progress=True), model, torch.zeros(1, 2))
        assert name in capsys.readouterr().err
        assert ll.divergence == how
        assert ll.kind in repr(ll)


def test_names_and_arguments_are_checked() -> None:
    assert check_estimator("flow", None) == "flow"
    assert check_estimator("ito", 3) == "ito"
    with pytest.raises(UnknownNameError, match="did you mean 'ito'"):
        check_estimator("itoo", None)
    with pytest.raises(UnknownNameError):
        check_estimator(None, None)
    for name in ("flow", "elbo"):
        with pytest.raises(ArgumentError, match="repeats, the number of paths, goes with estimator='ito'"):
            check_estimator(name, 3)
    refusals: list[tuple[Callable[[], object], str]] = [
        (lambda: made("ito", VP, 1), "steps of at least 2"),
        (lambda: made("ito", VP, 0), "steps must be"),
        (lambda: made("elbo", VP, 0), "steps must be"),
        (lambda: made("ito", VP, 5, repeats=0), "repeats must be"),
        (lambda: made("elbo", VP, 5, grid="karras"), "takes no grid. Its arguments are steps, prior and t_eps"),
        (
            lambda: made("ito", VP, 5, of_flow={"probes": 3, "solver": "rk4", "control": None, "compared": False}),
            "takes no probes, solver. Its arguments are steps, grid, repeats, prior",
        ),
    ]
    for call, message in refusals:
        with pytest.raises(ArgumentError, match=message):
            call()
    assert isinstance(made("ito", VP), Ito)
    assert isinstance(made("elbo", VP), VariationalBound)
