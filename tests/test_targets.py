"""Exact targets: densities, scores, denoisers, Jacobians, flows and samples against independent computations."""

from __future__ import annotations

import math
import pickle

import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from sdekit import targets
from sdekit.errors import ArgumentError, ShapeError, UnknownNameError
from sdekit.sdes import DIFFUSION_SDES, EDMSDE, VESDE, VPSDE, DiffusionSDE, FlowSDE, SubVPSDE
from sdekit.targets import Gaussian, GaussianMixture, Target

F64 = torch.float64
ROUNDING = {"rtol": 1e-9, "atol": 1e-9}  # float64 through a few hundred operations on numbers up to about 1e4


def _covariances(count: int, d: int) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    a = torch.randn(count, d, d, generator=generator, dtype=F64)
    return 0.1 * a @ a.mT + 0.02 * torch.eye(d, dtype=F64)


WEIGHTS = torch.tensor([0.1, 0.2, 0.3, 0.15, 0.25], dtype=F64)
MEANS = torch.randn(5, 3, generator=torch.Generator().manual_seed(3), dtype=F64)
COVS = _covariances(5, 3)
VARIANCES = torch.tensor([0.02, 0.05, 0.1, 0.3, 0.7], dtype=F64)

SMALL: dict[str, Target] = {
    "scalar": GaussianMixture(WEIGHTS, MEANS, 0.1),
    "isotropic": GaussianMixture(WEIGHTS, MEANS, VARIANCES),
    "shared": GaussianMixture(WEIGHTS, MEANS, COVS[0]),
    "full": GaussianMixture(WEIGHTS, MEANS, COVS),
    "gaussian_scalar": Gaussian(MEANS[0], 0.3),
    "gaussian_diagonal": Gaussian(MEANS[0], torch.tensor([0.1, 0.5, 2.0], dtype=F64)),
    "gaussian_full": Gaussian(MEANS[0], COVS[1]),
}
NAMED: dict[str, Target] = {name: targets.named(name) for name in ("ring", "moons", "digits")}
EVERY = {**SMALL, **NAMED}

each_small = pytest.mark.parametrize("target", SMALL.values(), ids=SMALL)
each = pytest.mark.parametrize("target", EVERY.values(), ids=EVERY)
each_sde = pytest.mark.parametrize("kind", DIFFUSION_SDES, ids=lambda kind: kind.name)


def noised(target: Target, alpha: Tensor, sigma: Tensor, n: int, seed: int = 0) -> Tensor:
    """n draws of x_t, float64; alpha and sigma are ()."""
    z = torch.randn(n, *target.shape, generator=torch.Generator().manual_seed(seed), dtype=F64)
    return alpha * target.sample(n, seed=seed, dtype=F64) + sigma * z


def at_ratio(sde: DiffusionSDE, ratio: float) -> tuple[Tensor, Tensor, Tensor]:
    """t, alpha and sigma where sigma/alpha = ratio."""
    t = sde.time_of_sigma_ratio(torch.tensor(ratio, dtype=F64))
    return t, sde.alpha(t), sde.sigma(t)


def independent(weights: Tensor, means: Tensor, covs: Tensor) -> MixtureSameFamily:
    """torch.distributions' own mixture of multivariate normals."""
    return MixtureSameFamily(Categorical(weights), MultivariateNormal(means, covs))


def as_matrices(target: Target) -> tuple[Tensor, Tensor, Tensor]:
    """Weights, means and full covariances of a small target, from how it was made."""
    eye = torch.eye(3, dtype=F64)
    one = torch.ones(1, dtype=F64)
    return {
        "scalar": (WEIGHTS, MEANS, 0.1 * eye.expand(5, 3, 3)),
        "isotropic": (WEIGHTS, MEANS, VARIANCES[:, None, None] * eye),
        "shared": (WEIGHTS, MEANS, COVS[0].expand(5, 3, 3)),
        "full": (WEIGHTS, MEANS, COVS),
        "gaussian_scalar": (one, MEANS[:1], 0.3 * eye[None]),
        "gaussian_diagonal": (one, MEANS[:1], torch.diag(torch.tensor([0.1, 0.5, 2.0], dtype=F64))[None]),
        "gaussian_full": (one, MEANS[:1], COVS[1:2]),
    }[next(name for name, value in SMALL.items() if value is target)]


# Density ---------------------------------------------------------------------------------------------------------


@each_small
def test_log_prob_at_every_noise_level_is_that_of_torch_distributions(target: Target) -> None:
    weights, means, covs = as_matrices(target)
    sde = VPSDE()
    x = 2 * torch.randn(40, 3, generator=torch.Generator().manual_seed(1), dtype=F64)
    torch.testing.assert_close(target.log_prob(x), independent(weights, means, covs).log_prob(x), **ROUNDING)
    for t in (1e-3, 0.1, 0.4, 1.0):
        alpha, sigma = sde.alpha(t), sde.sigma(t)
        reference = independent(weights, alpha * means, alpha**2 * covs + sigma**2 * torch.eye(3, dtype=F64))
        torch.testing.assert_close(target.log_prob_at(x, t, sde), reference.log_prob(x), **ROUNDING)
        torch.testing.assert_close(target.marginal(sde, t).log_prob(x), reference.log_prob(x), **ROUNDING)


@pytest.mark.parametrize("name", ["ring", "moons"])
@pytest.mark.parametrize("ratio", [0.0, 0.3, 2.0])
def test_density_integrates_to_one(name: str, ratio: float) -> None:
    target, sde = NAMED[name], EDMSDE()
    reach, points = 3.0 + 6 * ratio, 240
    axis = torch.linspace(-reach, reach, points, dtype=F64)
    x = torch.cartesian_prod(axis, axis)
    density = target.log_prob_at(x, ratio, sde).exp()
    cell = float(axis[1] - axis[0]) ** 2
    # The trapezoid rule is exact to exp(-2 pi^2 std^2/h^2) on Gaussians (h = .025, std = .1); 6 std are left out.
    assert float(density.sum()) * cell == pytest.approx(1.0, abs=1e-7)


@each
def test_score_is_the_gradient_of_the_log_density(target: Target) -> None:
    sde = VPSDE()
    for t in (0.01, 0.3, 0.8):
        alpha, sigma = sde.alpha(t), sde.sigma(t)
        x = noised(target, alpha, sigma, 20).requires_grad_(True)
        (gradient,) = torch.autograd.grad(target.log_prob_at(x, t, sde).sum(), x)
        torch.testing.assert_close(target.score(x.detach(), alpha, sigma), gradient, **ROUNDING)


# Denoiser --------------------------------------------------------------------------------------------------------


@each
@pytest.mark.parametrize("ratio", [0.02, 0.5, 5.0])
def test_denoised_noise_and_v_follow_from_the_score(target: Target, ratio: float) -> None:
    _, alpha, sigma = at_ratio(SubVPSDE(), ratio)
    x = noised(target, alpha, sigma, 20)
    score = target.score(x, alpha, sigma)
    denoised = (x + sigma**2 * score) / alpha  # Tweedie
    torch.testing.assert_close(target.denoised(x, alpha, sigma), denoised, **ROUNDING)
    torch.testing.assert_close(target.noise(x, alpha, sigma), -sigma * score, **ROUNDING)
    torch.testing.assert_close(target.v(x, alpha, sigma), -alpha * sigma * score - sigma * denoised, **ROUNDING)


def test_denoised_is_the_mean_of_x0_given_xt_by_quadrature() -> None:
    # In one dimension E[x_0 | x_t] = int x_0 p_0(x_0) N(x_t; alpha x_0, sigma^2) dx_0 / the same without x_0.
    target = GaussianMixture(torch.tensor([0.3, 0.7]), torch.tensor([[-1.0], [0.5]]), torch.tensor([0.04, 0.25]))
    alpha, sigma = 0.8, 0.5
    x0 = torch.linspace(-8, 8, 4001, dtype=F64)
    x = torch.linspace(-2, 2, 9, dtype=F64)
    joint = target.log_prob(x0[:, None]).exp() * torch.exp(-0.5 * ((x[:, None] - alpha * x0) / sigma) ** 2)
    mean = (joint * x0).sum(1) / joint.sum(1)
    variance = (joint * x0**2).sum(1) / joint.sum(1) - mean**2
    torch.testing.assert_close(target.denoised(x[:, None], alpha, sigma)[:, 0], mean, **ROUNDING)
    sde = EDMSDE()  # alpha = 1: x / alpha at noise sigma / alpha has the same posterior
    jacobian = target.denoised_jacobian(x[:, None] / alpha, sigma / alpha, sde)[:, 0, 0]
    torch.testing.assert_close(jacobian, variance / (sigma / alpha) ** 2, **ROUNDING)


@each
def test_jacobian_and_divergence_are_those_of_the_denoiser(target: Target) -> None:
    sde = VPSDE()
    n = 3
    t = torch.tensor([0.02, 0.3, 0.7], dtype=F64)
    alpha, sigma = sde.alpha(t), sde.sigma(t)
    x = torch.cat([noised(target, a, s, 1, seed=i) for i, (a, s) in enumerate(zip(alpha, sigma, strict=True))])
    # The Jacobian of the batch's sum holds each sample's own: samples do not touch each other.
    summed = torch.func.jacrev(lambda x: target.denoised(x, alpha, sigma).flatten(1).sum(0))(x)
    by_autograd = summed.reshape(target.dim, n, target.dim).transpose(0, 1)
    jacobian = target.denoised_jacobian(x, t, sde)
    torch.testing.assert_close(jacobian, by_autograd, **ROUNDING)
    trace = by_autograd.diagonal(dim1=1, dim2=2).sum(1)
    torch.testing.assert_close(target.divergence(x, t, sde), trace, **ROUNDING)


@each_small
def test_jacobian_and_score_are_finite_and_exact_at_no_noise(target: Target) -> None:
    # At t = 0 the denoiser is the identity and the score that of the data.
    x = target.sample(10, seed=0, dtype=F64)
    sde = VPSDE()
    torch.testing.assert_close(target.denoised(x, 1.0, 0.0), x, **ROUNDING)
    torch.testing.assert_close(target.denoised_jacobian(x, 0.0, sde), torch.eye(3, dtype=F64).expand(10, 3, 3))
    torch.testing.assert_close(target.divergence(x, 0.0, sde), torch.full((10,), 3.0, dtype=F64))
    y = x.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(target.log_prob(y).sum(), y)
    torch.testing.assert_close(target.score(x, 1.0, 0.0), gradient, **ROUNDING)


# The same distribution said in different ways ----------------------------------------------------------------------


def agree(a: Target, b: Target) -> None:
    """Everything about a and b is equal to rounding, with one time for all samples and with one for each."""
    sde = VPSDE()
    x = 1.5 * torch.randn(12, *a.shape, generator=torch.Generator().manual_seed(5), dtype=F64)
    torch.testing.assert_close(a.mean, b.mean, **ROUNDING)
    torch.testing.assert_close(a.covariance(), b.covariance(), **ROUNDING)
    for t in (torch.tensor(0.2, dtype=F64), torch.linspace(0.05, 0.95, 12, dtype=F64)):
        alpha, sigma = sde.alpha(t), sde.sigma(t)
        torch.testing.assert_close(a.log_prob_at(x, t, sde), b.log_prob_at(x, t, sde), **ROUNDING)
        torch.testing.assert_close(a.score(x, alpha, sigma), b.score(x, alpha, sigma), **ROUNDING)
        torch.testing.assert_close(a.denoised(x, alpha, sigma), b.denoised(x, alpha, sigma), **ROUNDING)
        torch.testing.assert_close(a.denoised_jacobian(x, t, sde), b.denoised_jacobian(x, t, sde), **ROUNDING)
        torch.testing.assert_close(a.divergence(x, t, sde), b.divergence(x, t, sde), **ROUNDING)


@pytest.mark.parametrize("name", ["scalar", "isotropic", "shared"])
def test_every_form_of_covariance_agrees_with_full_matrices(name: str) -> None:
    agree(SMALL[name], GaussianMixture(*as_matrices(SMALL[name])))


@pytest.mark.parametrize("cov", [0.3, COVS[2]], ids=["scalar", "full"])
@pytest.mark.parametrize("own", [False, True], ids=["one_for_all", "one_each"])
def test_a_gaussian_is_a_mixture_of_one(cov: Tensor | float, own: bool) -> None:
    covs = torch.as_tensor(cov, dtype=F64)[None] if own else cov
    agree(Gaussian(MEANS[0], cov), GaussianMixture(None, MEANS[:1], covs))


def test_a_diagonal_gaussian_agrees_with_its_matrix() -> None:
    variances = torch.tensor([0.1, 0.5, 2.0])
    agree(Gaussian(MEANS[0], variances), Gaussian(MEANS[0], torch.diag(variances)))


def test_equal_weights_are_the_default_and_zero_weights_are_left_out() -> None:
    agree(GaussianMixture(None, MEANS, COVS), GaussianMixture(torch.full((5,), 0.2), MEANS, COVS))
    weights = torch.tensor([0.5, 0.0, 0.5], dtype=F64)
    for covs, kept in ((0.1, 0.1), (VARIANCES[:3], VARIANCES[:3:2]), (COVS[:3], COVS[:3:2])):
        with_zero = GaussianMixture(weights, MEANS[:3], covs)
        agree(with_zero, GaussianMixture(None, MEANS[:3:2], kept))
        y = MEANS[1:2].clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(with_zero.log_prob(y).sum(), y)
        assert bool(torch.isfinite(gradient).all())


def test_images_agree_with_their_flattened_selves() -> None:
    means = MEANS.reshape(5, 1, 3, 1)
    image, flat = GaussianMixture(WEIGHTS, means, COVS), SMALL["full"]
    x = image.sample(6, seed=0, dtype=F64)
    assert x.shape == (6, 1, 3, 1)
    assert image.mean.shape == image.shape == (1, 3, 1)
    torch.testing.assert_close(x.flatten(1), flat.sample(6, seed=0, dtype=F64))
    torch.testing.assert_close(image.log_prob(x), flat.log_prob(x.flatten(1)))
    torch.testing.assert_close(image.denoised(x, 0.7, 0.6).flatten(1), flat.denoised(x.flatten(1), 0.7, 0.6))
    assert image.denoised_jacobian(x, 0.3, VPSDE()).shape == (6, 3, 3)
    gaussian = Gaussian(means[0], COVS[0])
    assert gaussian.flow_map(x, 0.3, 0.0, VPSDE()).shape == (6, 1, 3, 1)


@each
def test_a_sample_does_not_depend_on_its_batch(target: Target) -> None:
    # 700 digits are five chunks of a batch; alone, two samples are less than one. Matrix products of other sizes
    # round differently, hence not bit for bit.
    sde = VPSDE()
    t = torch.linspace(0.01, 0.99, 700, dtype=F64)
    x = torch.randn(700, *target.shape, generator=torch.Generator().manual_seed(2), dtype=F64)
    some = [3, 650]
    for shared in (False, True):
        u = t[300] if shared else t
        of_some = t[300] if shared else t[some]
        alone = target.log_prob_at(x[some], of_some, sde)
        torch.testing.assert_close(target.log_prob_at(x, u, sde)[some], alone, **ROUNDING)
        alone = target.score(x[some], sde.alpha(of_some), sde.sigma(of_some))
        torch.testing.assert_close(target.score(x, sde.alpha(u), sde.sigma(u))[some], alone, **ROUNDING)
    few = target.denoised_jacobian(x[640:660], t[640:660], sde)
    torch.testing.assert_close(few[10:11], target.denoised_jacobian(x[650:651], t[650:651], sde), **ROUNDING)


# Samples and moments ---------------------------------------------------------------------------------------------


@each
def test_samples_have_the_moments_that_the_target_states(target: Target) -> None:
    n = 20_000
    x = target.sample(n, seed=0, dtype=F64).flatten(1)
    mean, covariance = target.mean.flatten(), target.covariance()
    variances = covariance.diagonal()
    assert bool(((x.mean(0) - mean).abs() <= 5 * (variances / n).sqrt()).all())
    # Standard errors of products from the samples' own fourth moments; 6 of them, for 2,080 skewed products of pixels.
    centred = x - mean
    error = (centred.T @ centred / n - covariance).abs()
    fourth = centred.square().T @ centred.square() / n
    assert bool((error <= 6 * ((fourth - covariance.square()) / n).sqrt()).all())
    assert target.data_std == pytest.approx(float(x.square().mean().sqrt()), rel=0.02)


@each_small
def test_samples_follow_the_density(target: Target) -> None:
    # E[log p] under samples is the negative entropy, which torch.distributions' own samples estimate too.
    torch.manual_seed(0)
    own = target.log_prob(target.sample(20_000, seed=1, dtype=F64))
    other = target.log_prob(independent(*as_matrices(target)).sample((20_000,)))
    error = math.sqrt(float(own.var() + other.var()) / 20_000)
    assert abs(float(own.mean() - other.mean())) < 4.5 * error


@each_sde
def test_marginal_is_what_simulating_the_sde_gives(kind: type[DiffusionSDE]) -> None:
    sde, target = kind(), SMALL["full"]
    n, steps = 40_000, 200
    end = float(sde.time_of_sigma_ratio(torch.tensor(1.0, dtype=F64)))
    generator = torch.Generator().manual_seed(0)
    x = target.sample(n, generator=generator, dtype=F64)
    h = end / steps
    for i in range(steps):
        middle = torch.tensor((i + 0.5) * h, dtype=F64)  # coefficients at the midpoint: O(h^2) bias, below 1e-3 here
        z = torch.randn(x.shape, generator=generator, dtype=F64)
        x = x + h * sde.drift(x, middle) + math.sqrt(h) * sde.diffusion(x, middle) * z
    marginal = target.marginal(sde, end)
    variances = marginal.covariance().diagonal()
    assert bool(((x.mean(0) - marginal.mean).abs() <= 5 * (variances / n).sqrt()).all())
    error = (torch.cov(x.T, correction=0) - marginal.covariance()).abs()
    assert bool((error <= 5 * math.sqrt(2 / n) * torch.outer(variances, variances).sqrt()).all())
    exact = marginal.log_prob(marginal.sample(n, generator=generator, dtype=F64))
    simulated = marginal.log_prob(x)
    assert abs(float(simulated.mean() - exact.mean())) < 5 * math.sqrt(float(simulated.var() + exact.var()) / n)


def test_seeds_repeat_a_draw_and_leave_the_global_state_alone() -> None:
    target = SMALL["full"]
    torch.manual_seed(11)
    before = torch.get_rng_state()
    a, b = target.sample(5, seed=0), target.sample(5, seed=0)
    generator = torch.Generator().manual_seed(0)
    c = target.sample(5, generator=generator)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(a, b)
    assert torch.equal(a, c)
    assert not torch.equal(a, target.sample(5, generator=generator))
    assert not torch.equal(a, target.sample(5, seed=1))
    first, second = target.sample(5), target.sample(5)
    assert not torch.equal(first, second)
    torch.set_rng_state(before)
    assert torch.equal(first, target.sample(5))


@pytest.mark.parametrize("target", [SMALL["gaussian_full"], SMALL["scalar"]], ids=["gaussian", "mixture"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_draw_is_the_same_one_in_every_dtype(target: Target, dtype: torch.dtype) -> None:
    x = target.sample(4, seed=0, dtype=dtype)
    assert x.dtype == dtype
    assert torch.equal(x, target.sample(4, seed=0, dtype=F64).to(dtype))
    assert target.score(x, 0.9, 0.4).dtype == dtype
    assert target.log_prob(x).dtype == F64


# The probability flow of a Gaussian ------------------------------------------------------------------------------


@each_sde
@pytest.mark.parametrize("name", ["gaussian_diagonal", "gaussian_full"])
def test_flow_map_is_the_probability_flow(kind: type[DiffusionSDE], name: str) -> None:
    sde, target = kind(), SMALL[name]
    assert isinstance(target, Gaussian)
    t, alpha, sigma = at_ratio(sde, 3.0)
    x = noised(target, alpha, sigma, 4)

    def flow(time: float, flat: object) -> object:
        u = torch.tensor(time, dtype=F64)
        y = torch.as_tensor(flat, dtype=F64).reshape(x.shape)
        score = target.score(y, sde.alpha(u), sde.sigma(u))
        return (sde.drift_coefficient(u) * y - 0.5 * sde.diffusion_coefficient(u) ** 2 * score).flatten().numpy()

    for end in (float(at_ratio(sde, 0.2)[0]), 0.0):  # sigma(0) = 0 but for VE, where it is sigma_min
        solved = solve_ivp(flow, (float(t), end), x.flatten().numpy(), rtol=1e-10, atol=1e-11, method="DOP853")
        reference = torch.as_tensor(solved.y[:, -1]).reshape(x.shape)
        # scipy's error accumulates to some tens of its tolerance.
        torch.testing.assert_close(target.flow_map(x, t, end, sde), reference, rtol=1e-8, atol=1e-8)


def test_flow_map_composes_inverts_and_takes_a_time_per_sample() -> None:
    sde, target = VPSDE(), SMALL["gaussian_full"]
    assert isinstance(target, Gaussian)
    x = target.marginal(sde, 0.9).sample(6, seed=0, dtype=F64)
    whole = target.flow_map(x, 0.9, 0.0, sde)
    torch.testing.assert_close(target.flow_map(target.flow_map(x, 0.9, 0.4, sde), 0.4, 0.0, sde), whole, **ROUNDING)
    torch.testing.assert_close(target.flow_map(whole, 0.0, 0.9, sde), x, **ROUNDING)
    t = torch.linspace(0.2, 0.9, 6, dtype=F64)
    each_alone = torch.cat([target.flow_map(x[i : i + 1], t[i], 0.1, sde) for i in range(6)])
    torch.testing.assert_close(target.flow_map(x, t, 0.1, sde), each_alone, **ROUNDING)


# Score models ----------------------------------------------------------------------------------------------------

WIDE = [
    VESDE(sigma_min=1e-4, sigma_max=100.0),
    EDMSDE(t_min=1e-4, t_max=100.0),
    VPSDE(t_min=1e-9),
    FlowSDE(t_min=1e-5, t_max=0.9999),
]


@each
@pytest.mark.parametrize("sde", WIDE, ids=lambda sde: sde.name)
@pytest.mark.parametrize("ratio", [1e-4, 1e-2, 0.3, 1.0, 10.0, 100.0])
def test_float32_models_are_exact_at_every_noise_level(target: Target, sde: DiffusionSDE, ratio: float) -> None:
    """Relative to the rms of what is predicted, at points of p_t and at points of the prior of the same size."""
    t, alpha, sigma = at_ratio(sde, ratio)
    model = target.score_model(sde)
    inside = noised(target, alpha, sigma, 60)
    z = torch.randn(inside.shape, generator=torch.Generator().manual_seed(9), dtype=F64)
    for x in (inside.float(), (z * torch.hypot(alpha * target.data_std, sigma)).float()):
        for name in ("score", "noise", "denoised"):
            answer = getattr(model, name)(x, t)
            assert answer.dtype == torch.float32
            reference = getattr(target, name)(x.double(), alpha, sigma)
            error = float((answer.double() - reference).abs().max() / reference.square().mean().sqrt())
            # A dozen float32 roundings (6e-8) at the largest coordinate, 4 rms; VE turns the rounding of t into
            # ln(1e6) times as much in sigma. Measured: 1.3e-6 at most.
            assert error < 3e-6, (name, error)


@each
def test_score_model_states_the_target(target: Target) -> None:
    model = target.score_model(VPSDE())
    assert model.shape == target.shape
    assert model.data_std == target.data_std
    x = target.sample(3, seed=0, dtype=F64)
    before = model.counter.calls
    torch.testing.assert_close(
        model.score(x, 0.3), target.score(x, VPSDE().alpha(0.3), VPSDE().sigma(0.3)), rtol=1e-9, atol=1e-9
    )
    assert model.counter.calls == before + 1


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")  # torch's own, in jvp
@each_small
def test_models_work_under_inference_mode_pickling_and_nested_transforms(target: Target) -> None:
    sde = VPSDE()
    model = pickle.loads(pickle.dumps(target.score_model(sde)))
    x = target.sample(4, seed=0, dtype=F64)
    t = torch.linspace(0.1, 0.9, 4, dtype=F64)
    with torch.inference_mode():
        inside = model.denoised(x, t)
    torch.testing.assert_close(inside, model.denoised(x, t))
    alone = torch.func.vmap(lambda x, t: model.denoised(x[None], t)[0])(x, t)
    torch.testing.assert_close(inside, alone, **ROUNDING)
    basis = torch.eye(3, dtype=F64)[:, None, :].expand(3, 4, 3)
    columns = torch.func.vmap(lambda e: torch.func.jvp(lambda x: model.denoised(x, t), (x,), (e,))[1])(basis)
    torch.testing.assert_close(columns.permute(1, 2, 0), target.denoised_jacobian(x, t, sde), **ROUNDING)


def test_targets_built_under_inference_mode_serve_autograd() -> None:
    with torch.inference_mode():
        built = [
            Gaussian(MEANS[0].clone(), COVS[0].clone()),
            *(GaussianMixture(WEIGHTS, MEANS, c) for c in (0.1, COVS)),
        ]
    for target in built:
        x = torch.zeros(2, 3, dtype=F64, requires_grad=True)
        target.denoised(x, 0.8, 0.6).sum().backward()
        assert x.grad is not None


@each
def test_constants_follow_the_state_to_its_device(target: Target) -> None:
    # The meta device computes shapes only, and refuses to mix with tensors elsewhere.
    x = torch.empty(3, *target.shape, device="meta")
    sde = VPSDE()
    size = len(pickle.dumps(target))
    assert target.score_model(sde).denoised(x, 0.3).shape == x.shape
    assert target.log_prob(x).device == x.device
    assert target.divergence(x, 0.3, sde).shape == (3,)
    assert target.denoised_jacobian(x, 0.3, sde).shape == (3, target.dim, target.dim)
    assert target.mean.device.type == "cpu"
    assert len(pickle.dumps(target)) == size  # copies for other devices stay out of what other processes load


def test_the_target_keeps_its_own_copy_of_what_it_was_given() -> None:
    means = MEANS.clone()
    target = GaussianMixture(None, means, 0.1)
    before = target.log_prob(MEANS)
    means.zero_()
    assert torch.equal(target.log_prob(MEANS), before)


# Ready-made targets ----------------------------------------------------------------------------------------------


def test_ring_and_moons_have_unit_variance_per_coordinate() -> None:
    for target in (targets.ring(), targets.ring(n=5, std=0.4), targets.moons(), targets.moons(std=0.3, components=20)):
        torch.testing.assert_close(target.covariance().diagonal(), torch.ones(2, dtype=F64))
        torch.testing.assert_close(target.mean, torch.zeros(2, dtype=F64), rtol=0, atol=1e-14)
        assert target.data_std == pytest.approx(1.0, abs=1e-12)


def test_ring_is_a_ring_of_eight() -> None:
    ring = targets.ring()
    radius = math.sqrt(2 * (1 - 0.105**2))  # radius^2/2 + std^2 = 1
    torch.testing.assert_close(ring.means.norm(dim=1), torch.full((8,), radius, dtype=F64))
    neighbours = (ring.means - ring.means.roll(1, 0)).norm(dim=1)
    torch.testing.assert_close(neighbours, torch.full((8,), 2 * radius * math.sin(math.pi / 8), dtype=F64))


def test_moons_are_smooth_along_their_arcs() -> None:
    # Along an arc the means are closer than about one std, so the density hardly ripples from mean to midpoint.
    moons = targets.moons()
    middle = moons.means[10:40]
    between = (middle[1:] + middle[:-1]) / 2
    assert float((moons.log_prob(between) - moons.log_prob(middle[1:])).abs().max()) < 0.1


def test_digits_are_the_images_smoothed() -> None:
    from sklearn.datasets import load_digits

    digits = NAMED["digits"]
    assert isinstance(digits, GaussianMixture)
    assert digits.shape == (1, 8, 8)
    assert digits.dim == 64
    pixels = torch.as_tensor(load_digits().data) / 8 - 1
    assert float(pixels.min()) == -1
    assert float(pixels.max()) == 1
    assert torch.equal(digits.means.flatten(1), pixels)
    expected = torch.cov(pixels.T, correction=0) + 0.01 * torch.eye(64, dtype=F64)
    torch.testing.assert_close(digits.covariance(), expected)
    assert digits.sample(3, seed=0).shape == (3, 1, 8, 8)
    wider = targets.digits(std=0.2).covariance() - digits.covariance()
    torch.testing.assert_close(wider, 0.03 * torch.eye(64, dtype=F64))


def test_names() -> None:
    for name, target in NAMED.items():
        assert repr(targets.named(name)) == repr(target)
    with pytest.raises(UnknownNameError, match="did you mean 'moons'"):
        targets.named("moon")


# Bad input -------------------------------------------------------------------------------------------------------

INDEFINITE = torch.diag(torch.tensor([1.0, 1.0, -0.1]))
ASYMMETRIC = torch.eye(3) + 0.1 * torch.ones(3, 3).triu(1)


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: GaussianMixture([0.5, 0.6, -0.1], MEANS[:3], 1.0), ArgumentError, "least given is -0.1"),
        (lambda: GaussianMixture([0.5, 0.6], MEANS[:2], 1.0), ArgumentError, "sum to 1, got 1.1"),
        (lambda: GaussianMixture([0.5, 0.5], MEANS[:3], 1.0), ShapeError, r"expected \(3,\)"),
        (lambda: GaussianMixture(None, torch.zeros(3), 1.0), ShapeError, r"means must have shape"),
        (lambda: GaussianMixture(None, MEANS, torch.ones(3)), ShapeError, "torch.diag"),
        (lambda: GaussianMixture(None, MEANS, torch.eye(4)), ShapeError, r"covs has shape \(4, 4\)"),
        (lambda: GaussianMixture(None, MEANS, 0.0), ArgumentError, "must be above 0"),
        (lambda: GaussianMixture(None, MEANS, -VARIANCES), ArgumentError, "least given is -0.7"),
        (lambda: GaussianMixture(None, MEANS, INDEFINITE), ArgumentError, "positive definite.*-0.1"),
        (lambda: GaussianMixture(None, MEANS, INDEFINITE.expand(5, 3, 3)), ArgumentError, "positive definite"),
        (lambda: GaussianMixture(None, MEANS / 0, 1.0), ArgumentError, "no NaN or infinity"),
        (lambda: GaussianMixture(None, "means", 1.0), ArgumentError, "means must be a tensor or numbers, got str"),
        (lambda: Gaussian(torch.zeros(3), INDEFINITE), ArgumentError, "positive definite"),
        (lambda: Gaussian(torch.zeros(3), ASYMMETRIC), ArgumentError, "symmetric"),
        (lambda: Gaussian(torch.zeros(3), -1.0), ArgumentError, "above 0"),
        (lambda: Gaussian(torch.zeros(3), torch.ones(2)), ShapeError, r"cov has shape \(2,\)"),
        (lambda: Gaussian(torch.zeros(3), torch.tensor(math.nan)), ArgumentError, "no NaN"),
        (lambda: Gaussian(torch.tensor(0.0), 1.0), ShapeError, "mean must have"),
        (lambda: targets.ring(n=2), ArgumentError, "at least 3"),
        (lambda: targets.ring(std=1.5), ArgumentError, "below 1"),
        (lambda: targets.moons(components=7), ArgumentError, "even number"),
        (lambda: targets.digits(std=0.0), ArgumentError, "above 0"),
    ],
)
def test_bad_distributions_are_refused_with_a_reason(make: object, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        make()  # type: ignore[operator]


@pytest.mark.parametrize(
    ("ask", "error", "says"),
    [
        (lambda t: t.log_prob(torch.zeros(2, 4)), ShapeError, r"\(2, 4\).*\(B, 3\)"),
        (lambda t: t.score(torch.zeros(3), 1.0, 1.0), ShapeError, r"\(B, 3\)"),
        (lambda t: t.log_prob(torch.zeros(2, 3, dtype=torch.int64)), ArgumentError, "floating-point"),
        (lambda t: t.denoised(torch.zeros(2, 3), torch.ones(3), 1.0), ShapeError, r"alpha .*expected \(\) or \(2,\)"),
        (lambda t: t.log_prob_at(torch.zeros(2, 3), torch.ones(3), VPSDE()), ShapeError, r"the time.*\(2,\)"),
        (lambda t: t.marginal(VPSDE(), 1.5), ArgumentError, r"outside \[0, T\]"),
        (lambda t: t.sample(0), ArgumentError, "at least 1"),
        (lambda t: t.sample(2, seed=0.5), ArgumentError, "seed must be an integer"),
        (lambda t: t.sample(2, seed=0, generator=torch.Generator()), ArgumentError, "not both"),
        (lambda t: t.sample(2, dtype=torch.int32), ArgumentError, "floating-point dtype"),
    ],
)
@pytest.mark.parametrize("target", [SMALL["gaussian_full"], SMALL["full"]], ids=["gaussian", "mixture"])
def test_bad_questions_are_refused_with_a_reason(
    target: Target, ask: object, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        ask(target)  # type: ignore[operator]
