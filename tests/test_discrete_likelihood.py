"""discrete_log_likelihood: against the probabilities of bins; K draws; probes' noise; units; what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from _helpers import gaussian_model
from torch import Tensor

from sdekit.errors import ArgumentError, ShapeError, UnknownNameError
from sdekit.likelihood import Exact, Hutchinson, TruncatedNormal, Uniform, discrete_log_likelihood, log_likelihood
from sdekit.likelihood.discrete.importance import weighted
from sdekit.sdes import EDMSDE, VPSDE, FlowSDE
from sdekit.targets import Gaussian, GaussianMixture

VP = VPSDE()
RANGE = (-1.0, 1.0)


def centres(levels: Tensor, of: int, data_range: tuple[float, float] = RANGE) -> Tensor:
    low, high = data_range
    return low + (levels.double() + 0.5) * (high - low) / of


def log_mass(low: Tensor, high: Tensor) -> Tensor:
    """log of the standard normal probability of [low, high], in the tail where it is small."""
    flip = low > 0
    a, b = torch.where(flip, -high, low), torch.where(flip, -low, high)
    return torch.log(torch.special.ndtr(b) - torch.special.ndtr(a))


def spikes(std: float, levels: int = 8) -> tuple[GaussianMixture, Tensor]:
    """A mixture on the line with one component at the centre of each bin, of weights 1, 2, …; and the weights."""
    weights = torch.arange(1, levels + 1, dtype=torch.float64)
    weights = weights / weights.sum()
    means = centres(torch.arange(levels), levels)[:, None]
    return GaussianMixture(weights, means, torch.full((levels,), std**2, dtype=torch.float64)), weights


def log_p_of_spikes(std: float, levels: int, k: Tensor, sigma: float) -> Tensor:
    """log of the mass that the mixture under noise of standard deviation sigma has in the bins k, (n,)."""
    _, weights = spikes(std, levels)
    w, s = 2.0 / levels, math.hypot(std, sigma)
    means = centres(torch.arange(levels), levels)
    gap = (centres(k, levels)[:, None] - means) / s
    return torch.logsumexp(torch.log(weights) + log_mass(gap - w / 2 / s, gap + w / 2 / s), 1)


# Against closed forms ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dequantisation", ["uniform", "truncated_normal"])
@pytest.mark.parametrize("sde", [VP, FlowSDE(), EDMSDE()], ids=lambda sde: sde.name)
def test_one_draw_has_the_mean_of_the_closed_form(sde, dequantisation: str) -> None:
    # N(m, c I) in 2 dimensions: a coordinate E log p~(x + u) = -((x - m)^2 + E u^2)/(2 V) - log(2 pi V)/2, V = c + s^2.
    n, levels, t = 4000, 8, 0.02
    w, s = 2 / levels, float(sde.sigma_ratio(t))
    target = Gaussian(torch.tensor([0.2, -0.1], dtype=torch.float64), 0.1)
    k = torch.tensor([2, 6])
    x = centres(k, levels)
    if dequantisation == "uniform":
        square, entropy = w**2 / 12, math.log(w)
    else:
        a = w / (2 * s)
        mass = math.erf(a / math.sqrt(2))
        square = s**2 * (1 - 2 * a * math.exp(-(a**2) / 2) / math.sqrt(2 * math.pi) / mass)
        entropy = square / (2 * s**2) + math.log(s * mass * math.sqrt(2 * math.pi))
    variance = 0.1 + s**2
    each = -((x - target.mean).square() + square) / (2 * variance) - 0.5 * math.log(2 * math.pi * variance) + entropy
    ll = discrete_log_likelihood(
        target.score_model(sde),
        k.expand(n, 2),
        levels=levels,
        data_range=RANGE,
        dequantisation=dequantisation,
        t_eps=t,
        steps=60,
        grid="log_snr",
    )
    # Four standard errors of the mean of 4000, and the flow's own error: 60 steps, below 5e-4 a coordinate.
    assert float(ll.log_prob.mean() - each.sum()) == pytest.approx(0, abs=4 * float(ll.log_prob.std()) / n**0.5 + 1e-3)
    exact = log_mass((x - w / 2 - target.mean) / variance**0.5, (x + w / 2 - target.mean) / variance**0.5).sum()
    assert float(each.sum()) < float(exact)
    assert torch.isnan(ll.std_error).all()  # one draw does not tell its spread
    assert torch.isnan(ll.budget.dequantisation).all()
    assert ll.kind == "bound"


def test_the_bound_tightens_with_the_draws_and_the_budget_says_how_far_it_is() -> None:
    # Bins as wide as 2.5 standard deviations: the gap of one draw is 0.5 nats in 2 dimensions.
    n, levels, std = 1500, 8, 0.1
    target, _ = spikes(std, levels)
    model = target.score_model(VP)
    k = torch.arange(levels).repeat(n // levels)[:, None]
    log_p = log_p_of_spikes(std, levels, k[:, 0], float(VP.sigma_ratio(VP.t_min)))
    gaps, said = {}, {}
    for samples in (1, 4, 16):
        ll = discrete_log_likelihood(model, k, levels=levels, data_range=RANGE, samples=samples, steps=40)
        error = ll.log_prob - log_p
        gaps[samples] = -float(error.mean())
        assert gaps[samples] > -4 * float(error.std()) / n**0.5 - 2e-3  # the flow's error: measured below 1e-3
        torch.testing.assert_close(ll.bits_per_dim(), -ll.log_prob / math.log(2))
        if samples > 1:
            said[samples] = float(ll.budget.dequantisation.mean())
            # The standard error is that of the scatter about the mean of each level; widened by 1.73 (4 draws).
            widened = {4: 3**0.5, 16: (15 / 13) ** 0.5}[samples]
            scatter = torch.stack([error[k[:, 0] == i].std() for i in range(levels)]).square().mean().sqrt()
            assert float(ll.std_error.square().mean().sqrt()) == pytest.approx(widened * float(scatter), rel=0.15)
            assert 1 <= float(ll.effective_samples.min()) <= float(ll.effective_samples.max()) <= samples
            torch.testing.assert_close(ll.bound_of_one.mean(), log_p.mean() - gaps[1], rtol=0, atol=0.02)
    assert gaps[1] > gaps[4] > gaps[16] - 5e-3
    assert gaps[4] < gaps[1] / 2.5
    assert said[4] == pytest.approx(gaps[4], rel=0.5, abs=3e-3)  # of order 1/K
    assert said[16] == pytest.approx(gaps[16], rel=0.5, abs=3e-3)


def test_the_truncated_normal_is_the_better_one_for_discrete_data_and_uniform_for_smooth_data() -> None:
    k = torch.arange(8).repeat(40)[:, None]
    sigma = float(VP.sigma_ratio(VP.t_min))  # 0.01, a bin being 0.25

    def gap(std: float, dequantisation: str) -> float:
        target, _ = spikes(std)
        # Narrow components need many steps: at 60 the flow's density between them is off by nats.
        ll = discrete_log_likelihood(
            target.score_model(VP), k, levels=8, data_range=RANGE, dequantisation=dequantisation, steps=300
        )
        return float((log_p_of_spikes(std, 8, k[:, 0], sigma) - ll.log_prob).mean())

    # Discrete: p in the bin is a multiple of q, so the bound is an equality (measured 3e-4, of the flow).
    assert abs(gap(1e-4, "truncated_normal")) < 2e-3
    assert gap(1e-4, "uniform") > 3
    # Smooth: p is nearly flat in the bin, and the truncated normal costs its own narrowness, log w - entropy = 1.7.
    assert abs(gap(0.3, "uniform")) < 0.05
    assert gap(0.3, "truncated_normal") == pytest.approx(
        math.log(0.25) - 0.5 * math.log(2 * math.pi * math.e * sigma**2), abs=0.1
    )


def test_the_probabilities_of_all_levels_add_up() -> None:
    target = GaussianMixture(
        torch.tensor([0.3, 0.7], dtype=torch.float64),
        torch.tensor([[-0.5], [0.3]], dtype=torch.float64),
        torch.tensor([0.02, 0.01], dtype=torch.float64),
    )
    times = 100
    ll = discrete_log_likelihood(
        target.score_model(VP), torch.arange(17).repeat(times)[:, None], levels=17, data_range=(-1.5, 1.5), samples=4
    )
    # The range holds all but 1e-9 of the mass, and the estimates of P are unbiased.
    each = ll.log_prob.exp().reshape(times, 17).sum(1)
    assert float(each.mean()) == pytest.approx(1.0, abs=4 * float(each.std()) / times**0.5)
    assert float(each.std()) / times**0.5 < 0.01


@pytest.mark.parametrize(
    ("levels", "data_range"), [(256, (-1.0, 1.0)), (256, (0.0, 1.0)), (17, (-1.0625, 1.0625)), (1000, (-20.0, 5.0))]
)
def test_bits_do_not_depend_on_the_units(levels: int, data_range: tuple[float, float]) -> None:
    # The same distribution over levels, N(0.4, 0.1^2) of the range, in four units; 3 coordinates.
    low, high = data_range
    width = high - low
    target = Gaussian(torch.full((3,), low + 0.4 * width, dtype=torch.float64), (0.1 * width) ** 2)
    sde = EDMSDE(t_min=1e-4 * width, t_max=50.0 * width)
    k = torch.tensor([[0.41, 0.3, 0.55], [0.2, 0.45, 0.4]]).mul(levels).long()
    model = target.score_model(sde)
    settings = {"levels": levels, "data_range": data_range, "samples": 4, "grid": "log_snr"}
    ll = discrete_log_likelihood(model, k, **settings)
    edges = torch.stack([k, k + 1]).double() / levels
    s = math.hypot(0.1, 1e-4)
    log_p = log_mass((edges[0] - 0.4) / s, (edges[1] - 0.4) / s).sum(1)
    # A bin of 17 is 0.6 standard deviations wide: 4 draws leave 0.03 nats; 60 steps of the flow, 1e-3.
    torch.testing.assert_close(ll.log_prob, log_p, rtol=0, atol=0.15 if levels == 17 else 0.02)
    torch.testing.assert_close(ll.bits_per_dim(), -ll.log_prob / (3 * math.log(2)))
    values = centres(k, levels, data_range)
    same = discrete_log_likelihood(model, values, **settings)
    # Integers go through the network in float32, the type of a network without parameters.
    torch.testing.assert_close(same.log_prob, ll.log_prob, rtol=0, atol=1e-3)
    # And it is what log_likelihood calls bits/dim of dequantised data, there in the units of a density.
    density = log_likelihood(model, values, grid="log_snr").bits_per_dim(data_range=data_range, levels=levels)
    torch.testing.assert_close(density, same.bits_per_dim(), rtol=0, atol=0.1)


# Draws and probes ----------------------------------------------------------------------------------------------------


def test_noise_of_the_probes_does_not_raise_the_bound() -> None:
    # A correlated Gaussian in 6 dimensions, one probe at a time: 0.3 nats of noise in each density.
    generator = torch.Generator().manual_seed(0)
    axes = torch.linalg.qr(torch.randn(6, 6, generator=generator, dtype=torch.float64))[0]
    cov = axes @ torch.diag(torch.tensor([0.01, 0.02, 0.05, 0.2, 0.5, 1.0], dtype=torch.float64)) @ axes.T
    model = Gaussian(torch.zeros(6, dtype=torch.float64), 0.5 * (cov + cov.T)).score_model(VP)
    n, samples = 1500, 6
    k = torch.full((n, 6), 32)
    settings = {"levels": 64, "data_range": RANGE, "samples": samples, "steps": 50}
    exact = discrete_log_likelihood(model, k, divergence=Exact(), **settings)
    noisy = discrete_log_likelihood(model, k, divergence=Hutchinson(1, "rademacher", "independent"), **settings)
    difference = noisy.log_prob - exact.log_prob
    noise = noisy.budget.probe
    error = float(difference.std()) / n**0.5
    # Without care the noise raises the mean by half the variance of one density times 1 - 1/K.
    raised = 0.5 * float(difference.var()) * samples * (1 - 1 / samples)
    taken_off = 0.5 * float(noise.square().mean()) * samples
    assert raised > 8 * error
    assert float(difference.mean()) < 4 * error
    assert float(difference.mean()) == pytest.approx(raised - taken_off, abs=4 * error + 0.1 * raised)
    assert float(noise.square().mean().sqrt()) == pytest.approx(float(difference.std()), rel=0.2)
    assert torch.equal(exact.budget.probe, torch.zeros(n, dtype=torch.float64))
    # One draw, its noise known: still no error of the whole, since that of the draw is not.
    assert torch.isnan(discrete_log_likelihood(model, k[:3], **{**settings, "samples": 1}).std_error).all()


def test_log_weights_and_their_mean() -> None:
    logs = torch.tensor([[0.0, -1000.0], [math.log(3.0), 0.0], [0.0, 0.0]], dtype=torch.float64)
    of = weighted(logs, torch.zeros_like(logs))
    torch.testing.assert_close(of.bound, torch.tensor([math.log(5 / 3), math.log(2 / 3)], dtype=torch.float64))
    torch.testing.assert_close(of.effective, torch.tensor([25 / 11, 2.0], dtype=torch.float64))
    # By hand: the bounds without one draw are log 2, 0, log 2.
    middle = 2 * math.log(2) / 3
    assert float(of.gap[0]) == pytest.approx(2 * (math.log(5 / 3) - middle))
    spread = math.sqrt(2 / 3 * (2 * (math.log(2) - middle) ** 2 + middle**2))
    assert float(of.std_error[0]) == pytest.approx(2 * spread)  # widened twofold, for two degrees of freedom
    assert bool(torch.isfinite(of.gap).all())
    # Errors of one density not known: the bound stands, its error is not known.
    unknown = weighted(logs, torch.full_like(logs, math.nan))
    torch.testing.assert_close(unknown.bound, of.bound)
    assert torch.isnan(unknown.std_error).all()


def test_draws_of_both_kinds_follow_their_densities() -> None:
    z = torch.randn(200_000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for noise in (Uniform(), TruncatedNormal(0.1), TruncatedNormal(0.01), TruncatedNormal(1e3)):
        u, log_q = noise.draw(z, 0.25)
        assert float(u.abs().max()) <= 0.125
        # E 1/q is the width of the bin (nearly all of it, where q is narrow), and the mean is 0.
        if noise != TruncatedNormal(0.01):
            assert float(torch.exp(-log_q).mean()) == pytest.approx(0.25, rel=0.02)
        assert abs(float(u.mean())) < 4 * float(u.std()) / 200_000**0.5
    # Narrow: a plain normal; wide: uniform, to the digits of float64.
    torch.testing.assert_close(TruncatedNormal(0.001).draw(z, 0.25)[0], 0.001 * z, rtol=1e-11, atol=0)
    torch.testing.assert_close(TruncatedNormal(1e3).draw(z, 0.25)[0], Uniform().draw(z, 0.25)[0], rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("dequantisation", ["uniform", "truncated_normal"])
def test_a_sample_is_the_same_alone_beside_an_outlier_and_in_chunks(dequantisation: str) -> None:
    model = gaussian_model(VP, 0.1, 0.5, shape=(2, 3))
    k = torch.randint(0, 16, (5, 2, 3), generator=torch.Generator().manual_seed(0))
    k[3] = 15
    settings = {
        "levels": 16,
        "data_range": (-2.0, 2.0),
        "dequantisation": dequantisation,
        "samples": 3,
        "probes": 2,
        "steps": 12,
    }
    whole = discrete_log_likelihood(model, k, seed=7, first=10, **settings)
    chunks = discrete_log_likelihood(model, k, seed=7, first=10, chunk=2, **settings)
    for i in range(5):
        alone = discrete_log_likelihood(model, k[i : i + 1], seed=7, first=10 + i, **settings)
        for name in ("log_prob", "std_error", "bound_of_one", "effective_samples"):
            assert torch.equal(getattr(alone, name)[0], getattr(whole, name)[i])
            assert torch.equal(getattr(chunks, name)[i], getattr(whole, name)[i])
        assert torch.equal(alone.budget.dequantisation[0], whole.budget.dequantisation[i])
    assert not torch.equal(whole.log_prob, discrete_log_likelihood(model, k, seed=8, first=10, **settings).log_prob)
    each = discrete_log_likelihood(model, k, seeds=[5, 6, 7, 8, 9], **settings)
    assert torch.equal(each.log_prob[2:3], discrete_log_likelihood(model, k[2:3], seeds=[7], **settings).log_prob)
    drawn = [
        discrete_log_likelihood(model, k, generator=torch.Generator().manual_seed(1), **settings).log_prob
        for _ in range(2)
    ]
    assert torch.equal(*drawn)


def test_draws_of_few_are_the_first_of_many_and_have_probes_of_their_own() -> None:
    model = gaussian_model(VP, 0.1, 0.5)
    k = torch.tensor([[3, 4, 9]])
    settings = {"levels": 16, "data_range": (-2.0, 2.0), "steps": 12}
    one = discrete_log_likelihood(model, k, **settings)
    two = discrete_log_likelihood(model, k, samples=2, **settings)
    other = 2 * two.bound_of_one - one.log_prob  # the second draw's log-weight
    torch.testing.assert_close(two.log_prob, torch.logaddexp(one.log_prob, other) - math.log(2))
    assert abs(float(other - one.log_prob)) > 1e-6


def test_evaluations_are_counted_over_all_draws_and_the_budget_is_complete() -> None:
    model = gaussian_model(VP, 0.1, 0.5)
    k = torch.tensor([[3, 4, 9], [1, 1, 1]])
    one = log_likelihood(model, centres(k, 16), steps=12, integration_error=True)
    ll = discrete_log_likelihood(
        model, centres(k, 16), levels=16, data_range=RANGE, samples=3, steps=12, integration_error=True
    )
    assert ll.nfe == 3 * one.nfe
    assert set(ll.budget.to_dict()) == {"dequantisation", "probe", "integration", "prior"}
    assert all(value is not None and value.shape == (2,) for value in ll.budget.to_dict().values())
    torch.testing.assert_close(ll.budget.prior, one.budget.prior, rtol=0.05, atol=1e-6)
    assert "dequantisation" in str(ll.budget)
    assert "bits/dim" in repr(ll)
    adaptive = discrete_log_likelihood(model, k, levels=16, data_range=RANGE, solver="adaptive:tsitouras_5")
    assert "not known" in str(adaptive.budget)


def test_a_tolerance_reaches_every_draw() -> None:
    target, _ = spikes(0.04)
    k = torch.arange(8)[:, None]
    settings = {"levels": 8, "data_range": RANGE, "samples": 2}
    coarse = discrete_log_likelihood(target.score_model(VP), k, steps=24, **settings)
    ll = discrete_log_likelihood(target.score_model(VP), k, tolerance=0.01, **settings)
    fine = discrete_log_likelihood(target.score_model(VP), k, steps=1000, **settings)
    # Uniform draws lie up to 3 standard deviations off the components: few steps are wrong there.
    assert float((coarse.log_prob - fine.log_prob).abs().max()) > 0.1
    assert float((ll.log_prob - fine.log_prob).abs().max()) < 0.01
    assert isinstance(ll.nfe, Tensor)
    assert ll.nfe.shape == (8,)
    assert ll.status == "success"
    assert "nfe=" in repr(ll)


# What is refused -----------------------------------------------------------------------------------------------------


def calls(model) -> int:
    return model.counter.calls + model.network.calls


def test_values_off_the_bins_are_told_before_any_evaluation() -> None:
    model = gaussian_model(VP)
    on_both_ends = (torch.arange(256) / 127.5 - 1)[:, None]
    with pytest.raises(ArgumentError, match=r"250 of 256 .* half a bin beyond, data_range=\(-1.0039.*, 1.0039"):
        discrete_log_likelihood(model, on_both_ends, levels=256, data_range=RANGE)
    with pytest.raises(ArgumentError, match=r"1 of 2 .* for instance 0.3: .* centre at 0.25"):
        discrete_log_likelihood(model, torch.tensor([[0.25, 0.3]]), levels=4, data_range=RANGE)
    with pytest.raises(ArgumentError, match="1 of 2"):
        discrete_log_likelihood(model, torch.tensor([[0.25, 1.25]]), levels=4, data_range=RANGE)
    with pytest.raises(ArgumentError, match="levels from 0 to 4; with levels=4 they are 0 to 3"):
        discrete_log_likelihood(model, torch.tensor([[0, 4]]), levels=4, data_range=RANGE)
    with pytest.raises(ArgumentError, match="levels from -1"):
        discrete_log_likelihood(model, torch.tensor([[-1, 3]]), levels=4, data_range=RANGE)
    with pytest.raises(ArgumentError, match="too coarse for bins"):
        discrete_log_likelihood(model, torch.zeros(1, 1, dtype=torch.bfloat16), levels=255, data_range=RANGE)
    with pytest.raises(ArgumentError, match="integer levels"):
        discrete_log_likelihood(model, torch.zeros(1, 1, dtype=torch.bool), levels=2, data_range=RANGE)
    with pytest.raises(ShapeError):
        discrete_log_likelihood(model, torch.zeros(0, 1, dtype=torch.int64), levels=2, data_range=RANGE)
    assert calls(model) == 0


def test_the_usual_scalings_of_images_are_taken_where_the_range_is_right() -> None:
    model = gaussian_model(VP)
    k = torch.tensor([[0, 17, 255]])
    edges = {"ends": (-1 - 1 / 255, 1 + 1 / 255), "unit": (-0.5 / 255, 1 + 0.5 / 255), "centres": RANGE}
    scaled = {"ends": k / 127.5 - 1, "unit": k / 255, "centres": (k + 0.5) / 128 - 1}
    for name, data_range in edges.items():
        a = discrete_log_likelihood(model, scaled[name], levels=256, data_range=data_range, steps=4)
        b = discrete_log_likelihood(model, k, levels=256, data_range=data_range, steps=4)
        assert torch.equal(a.log_prob, b.log_prob)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"levels": 0}, "levels must be"),
        ({"data_range": (1.0, 0.0)}, "low < high"),
        ({"samples": 0}, "samples must be"),
        ({"dequantisation": "unifrom"}, "did you mean 'uniform'"),
        ({"dequantisation": 3}, "dequantisation must be"),
        ({"stepps": 3}, "stepps"),
        ({"seed": 1, "seeds": [1]}, "one of seed"),
        ({"t_eps": 0.0}, "t_eps"),
        ({"chunk": 0}, "chunk"),
    ],
)
def test_input_that_makes_no_sense_is_told_before_any_evaluation(wrong: dict, message: str) -> None:
    model = gaussian_model(VP)
    with pytest.raises(ArgumentError, match=message):
        discrete_log_likelihood(model, torch.tensor([[1]]), **{"levels": 4, "data_range": RANGE, **wrong})
    assert calls(model) == 0


def test_the_noise_of_t_eps_is_not_taken_off_again() -> None:
    model = gaussian_model(VP, 0.0, 0.5, shape=(2,))
    with pytest.raises(ArgumentError, match="leave truncation out"):
        discrete_log_likelihood(model, torch.zeros(1, 2).long(), levels=2, data_range=RANGE, truncation="decoder")


def test_a_model_is_a_score_model_and_names_are_known() -> None:
    with pytest.raises(ArgumentError, match="ScoreModel"):
        discrete_log_likelihood(lambda x, t: x, torch.tensor([[1]]), levels=4, data_range=RANGE)  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError):
        discrete_log_likelihood(
            gaussian_model(VP), torch.tensor([[1]]), levels=4, data_range=RANGE, dequantisation="normal"
        )
    with pytest.raises(ArgumentError, match="std"):
        TruncatedNormal(0.0)
