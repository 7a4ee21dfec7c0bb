"""Closed forms against Ito's formula by autograd; Langevin equations against their moments and stationary laws."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import pickle

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from sdekit.errors import ArgumentError, ShapeError
from sdekit.sdes import closed_form
from sdekit.sdes.closed_form import (
    CLOSED_FORM_SDES,
    ArctanSDE,
    CommutativeLinearSDE,
    CubicMultiplicative,
    DecayingAdditiveSDE,
    DoubleWell,
    NoncommutativeSDE,
    StiffLinear,
    TanhSDE,
)
from sdekit.sdes.langevin import OverdampedLangevin, UnderdampedLangevin, quadratic_langevin_moments

CALCULI = ["ito", "stratonovich"]
calculi = pytest.mark.parametrize("calculus", CALCULI)
every = pytest.mark.parametrize("family", CLOSED_FORM_SDES, ids=lambda f: f.__name__)
numbers_only = [f for f in CLOSED_FORM_SDES if f is not CommutativeLinearSDE]
NOW = torch.tensor(0.7, dtype=torch.float64)


def random(*shape: int, low: float = -1.0, high: float = 1.0, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return low + (high - low) * torch.rand(*shape, generator=generator, dtype=torch.float64)


def parameters(family) -> list[str]:
    return [f.name for f in dataclasses.fields(family) if f.name not in ("calculus", "noise")]


def state(family, n: int) -> torch.Tensor:
    return random(n, 3 if family is CommutativeLinearSDE else 2, low=-0.9, high=0.9, seed=9)


# Ito's formula -----------------------------------------------------------------------------------------------------

PATHS = [
    TanhSDE(a=0.8),
    TanhSDE(a=-1.3, noise="scalar"),
    TanhSDE(a=random(20, 1)),
    TanhSDE(a=random(20, 2), noise="scalar"),
    ArctanSDE(a=0.8),
    ArctanSDE(a=1.7, noise="scalar"),
    ArctanSDE(a=random(20, 2)),
    DecayingAdditiveSDE(a=0.7, b=-1.4),
    DecayingAdditiveSDE(a=random(20, 1), b=random(2)),
    CommutativeLinearSDE(),
    CommutativeLinearSDE(torch.diag(random(4)), torch.stack([torch.diag(random(4, seed=s)) for s in range(3)])),
    CommutativeLinearSDE(torch.tensor([[-0.2, 1.0], [-1.0, -0.2]]), torch.tensor([[[0.3, -0.5], [0.5, 0.3]]])),
]


@pytest.mark.parametrize("sde", PATHS, ids=lambda sde: f"{type(sde).__name__}-{sde.noise}")
@pytest.mark.parametrize("per_sample", [False, True], ids=["one-time", "times"])
def test_itos_formula(sde, per_sample):
    """u(t, w) = path(x0, t, w): g = u_w, the Stratonovich drift is u_t, Ito's u_t + tr(u_ww)/2. Sample by sample."""
    n = 20
    d = sde.drift_matrix.shape[0] if isinstance(sde, CommutativeLinearSDE) else 2
    x0 = random(n, d, low=-0.9, high=0.9, seed=1)
    w = random(*sde.noise_shape(x0.shape), low=-1.5, high=1.5, seed=2)
    t = random(n, low=0.05, high=2.0, seed=3) if per_sample else NOW
    x = sde.path(x0, t, w)
    # Samples are independent of one another: the Jacobian of the sum over samples has each sample's own in its row.
    by_w = torch.func.jacrev(lambda v: sde.path(x0, t, v).sum(0))
    first = by_w(w).reshape(d, n, -1)  # d u_i / d w_j of each sample
    second = torch.func.jacrev(by_w)(w).reshape(d, n, first.shape[2], n, first.shape[2])
    laplacian = torch.einsum("inknk->ni", second)
    # Forward in t: a time may be one for all samples.
    tangent = torch.ones_like(t)
    _, u_t = torch.func.jvp(lambda s: sde.path(x0, s, w), (t,), (tangent,))

    g = sde.diffusion(x, t)
    if sde.noise_dim is not None:
        assert g.shape == (n, d, sde.noise_dim)
        torch.testing.assert_close(g, first.permute(1, 0, 2), rtol=1e-10, atol=1e-10)
    else:
        own = first[..., 0].T if sde.noise == "scalar" else torch.einsum("ini->ni", first)
        torch.testing.assert_close(g.expand(n, d), own, rtol=1e-10, atol=1e-10)
        if sde.noise != "scalar":  # nothing off the diagonal
            assert torch.count_nonzero(first) == torch.count_nonzero(own)
    ito = dataclasses.replace(sde, calculus="ito")
    stratonovich = dataclasses.replace(sde, calculus="stratonovich")
    torch.testing.assert_close(stratonovich.drift(x, t), u_t, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(ito.drift(x, t), u_t + laplacian / 2, rtol=1e-10, atol=1e-10)
    for twin in (ito, stratonovich):
        assert torch.equal(twin.path(x0, t, w), x)
        assert torch.equal(twin.diffusion(x, t), g)


@pytest.mark.parametrize("sde", PATHS, ids=lambda sde: f"{type(sde).__name__}-{sde.noise}")
def test_paths_start_at_their_start(sde):
    d = sde.drift_matrix.shape[0] if isinstance(sde, CommutativeLinearSDE) else 2
    x0 = random(20, d, low=-0.9, high=0.9)
    torch.testing.assert_close(sde.path(x0, 0.0, torch.zeros(sde.noise_shape(x0.shape))), x0, rtol=1e-14, atol=1e-15)


def matrix_diffusion(sde, x):
    g = sde.diffusion(x, NOW)
    return torch.diag_embed(g.expand(x.shape)) if sde.noise_dim is None else g


@every
def test_the_twins_differ_by_the_correction(family):
    """f_ito - f_stratonovich = 1/2 sum_j Dg_j g_j, by autograd: for every family, with a closed form or without."""
    x = state(family, 6)
    values = (
        {} if family is CommutativeLinearSDE else {n: random(6, 1, seed=k) for k, n in enumerate(parameters(family))}
    )
    ito, stratonovich = (family(calculus=c, **values) for c in CALCULI)
    g = matrix_diffusion(ito, x)
    full = torch.func.jacrev(lambda y: matrix_diffusion(ito, y).sum(0))(x)  # (d, m, n, d)
    correction = 0.5 * torch.einsum("ijnk,nkj->ni", full, g)
    torch.testing.assert_close(ito.drift(x, NOW) - stratonovich.drift(x, NOW), correction, rtol=1e-12, atol=1e-14)
    if ito.noise == "additive":
        assert torch.count_nonzero(correction) == 0
    else:
        assert correction.abs().max() > 1e-3


@pytest.mark.parametrize(
    ("sde", "commutes"), [(CommutativeLinearSDE(), True), (NoncommutativeSDE(), False)], ids=["commutes", "does-not"]
)
def test_commutativity(sde, commutes):
    """Dg_1 g_2 = Dg_2 g_1, or not."""
    x = state(type(sde), 5)
    g = sde.diffusion(x, NOW)
    full = torch.func.jacrev(lambda y: sde.diffusion(y, NOW).sum(0))(x)
    bracket = torch.einsum("inl,nl->ni", full[:, 0], g[..., 1]) - torch.einsum("inl,nl->ni", full[:, 1], g[..., 0])
    if commutes:
        assert bracket.abs().max() < 1e-15
    else:
        expected = torch.stack([torch.zeros(5).double(), torch.sin(x[:, 0])], dim=1)
        torch.testing.assert_close(bracket, expected, rtol=1e-14, atol=1e-15)


# Laws --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sde",
    [DecayingAdditiveSDE(0.7, -1.2), StiffLinear(30.0, 0.4), StiffLinear(0.0, 0.4), StiffLinear(-0.5, 0.4)],
    ids=repr,
)
def test_moment_equations_give_the_marginal(sde):
    """dm/dt = f(m, t) for a linear drift, dP/dt = 2 f'(t) P + g^2."""
    times = [1e-3, 0.1, 0.7, 2.0]
    points = torch.tensor([[0.0], [1.0]], dtype=torch.float64)

    def rate(t, y):
        now = torch.tensor(t, dtype=torch.float64)
        (f0,), (f1,) = sde.drift(points, now).tolist()
        return [f0 + (f1 - f0) * y[0], 2 * (f1 - f0) * y[1] + float(sde.diffusion(points, now)) ** 2]

    solved = solve_ivp(rate, (0.0, 2.0), [1.3, 0.0], "DOP853", times, rtol=1e-12, atol=1e-14).y
    x0 = torch.full((4, 1), 1.3, dtype=torch.float64)
    mean, std = sde.marginal(x0, torch.tensor(times, dtype=torch.float64))
    np.testing.assert_allclose(mean[:, 0].numpy(), solved[0], rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(std.square().expand(4, 1)[:, 0].numpy(), solved[1], rtol=1e-9, atol=1e-11)


def test_the_decaying_path_has_the_marginal():
    sde = DecayingAdditiveSDE(0.7, -1.2)
    x0 = torch.full((60, 1), 1.5, dtype=torch.float64)
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    weight = torch.tensor(weights / weights.sum())[:, None]
    x = sde.path(x0, 0.7, torch.tensor(nodes)[:, None] * math.sqrt(0.7))
    mean, std = sde.marginal(x0[:1], 0.7)
    assert (weight * x).sum().item() == pytest.approx(mean.item(), rel=1e-12)
    assert (weight * x.square()).sum().item() == pytest.approx(std.item() ** 2 + mean.item() ** 2, rel=1e-12)


def euler(sde, x, t_end, steps, seed=0, taming=False):
    generator = torch.Generator().manual_seed(seed)
    h = t_end / steps
    for i in range(steps):
        t = torch.tensor(i * h, dtype=torch.float64)
        dw = torch.randn(sde.noise_shape(x.shape), generator=generator, dtype=x.dtype) * h**0.5
        f, g = sde.drift(x, t), sde.diffusion(x, t)
        noise = (g * dw[:, None, :]).sum(-1) if sde.noise_dim is not None else g * dw
        x = x + f * h / (1 + h * f.abs() if taming else 1) + noise
    return x


def test_the_entries_of_the_noncommutative_problem_are_ornstein_uhlenbeck():
    n = 20_000
    x0 = torch.tensor([[0.4, -0.8]], dtype=torch.float64)
    sde = NoncommutativeSDE(k=0.5, sigma=0.8)
    x = euler(sde, x0.expand(n, 2), 1.0, 100)
    mean, std = sde.marginal(x0, 1.0)
    # 5 standard errors, and Euler's bias of h k^2/2 = 0.1 % (it is below 0.3 % of the variance).
    assert ((x.mean(0) - mean[0]).abs() <= 5 * std / n**0.5 + 0.002).all()
    np.testing.assert_allclose(x.std(0).numpy(), std.expand(1, 2)[0].numpy(), rtol=5 / (2 * n) ** 0.5 + 0.003)


def test_the_double_well_stays_in_its_law():
    """E[X^2] at a late time against the stationary density by quadrature."""
    sde = DoubleWell(sigma=0.7)
    grid = np.linspace(-4, 4, 4001)
    density = np.exp((grid**2 - grid**4 / 2) / 0.7**2)
    exact = (density * grid**2).sum() / density.sum()
    n = 10_000
    x = euler(sde, random(n, 1, low=-1.2, high=1.2), 5.0, 250)
    # The spread of X^2 is about 0.5; five standard errors of it and Euler's bias of about h.
    assert x.square().mean().item() == pytest.approx(exact, abs=5 * 0.5 / n**0.5 + 0.02)


def test_the_cubic_solution_of_the_whole_path():
    """A fine tamed Euler path against the closed form with its integral, and Euler's own explosion from afar."""
    mu, sigma, n, steps = 0.8, 0.5, 200, 4000
    sde = CubicMultiplicative(mu, sigma)
    x0 = torch.full((n, 1), 1.2, dtype=torch.float64)
    h = 1.0 / steps
    generator = torch.Generator().manual_seed(4)
    dw = torch.stack([torch.randn(n, 1, generator=generator, dtype=torch.float64) for _ in range(steps)]) * h**0.5
    growth = torch.exp((mu - sigma**2 / 2) * h * torch.arange(steps + 1)[:, None, None] + sigma * _from_zero(dw))
    integral = torch.trapezoid(growth.square(), dx=h, dim=0)
    exact = x0 * growth[-1] / torch.sqrt(1 + 2 * x0.square() * integral)
    assert (euler(sde, x0, 1.0, steps, seed=4) - exact).abs().mean() < 0.01  # strong order 1/2 at h = 1/4000
    far = torch.full((n, 1), 20.0, dtype=torch.float64)
    assert not torch.isfinite(euler(sde, far, 1.0, 20)).any()
    assert euler(sde, far, 1.0, 20, taming=True).abs().max() < 50


def _from_zero(dw: torch.Tensor) -> torch.Tensor:
    return torch.cat([torch.zeros_like(dw[:1]), dw.cumsum(0)])


# Parameters, shapes and errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", numbers_only, ids=lambda f: f.__name__)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@calculi
def test_a_batch_of_parameter_sets(family, dtype, calculus):
    """Row i of a batch is the SDE with the i-th parameters; the state keeps its dtype though the parameters do not."""
    names = parameters(family)
    values = [random(3, 1, low=0.1, seed=k) for k in range(len(names))]
    batch = family(**dict(zip(names, values, strict=True)), calculus=calculus)
    x = state(family, 3).to(dtype)

    def results(sde, x, t):
        drawn = [sde.drift(x, t), sde.diffusion(x, t)]
        drawn += list(sde.marginal(x, t)) if hasattr(sde, "marginal") else []
        return [*drawn, sde.path(x, t, x)] if hasattr(sde, "path") else drawn

    for t in (torch.tensor(0.3, dtype=torch.float64), torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)):
        together = results(batch, x, t)
        assert {r.dtype for r in together} == {dtype}
        for i in range(3):
            one = family(**{n: v[i].item() for n, v in zip(names, values, strict=True)}, calculus=calculus)
            alone = results(one, x[i : i + 1], t.expand(3)[i])
            cut = results(batch.rows(slice(i, i + 1), x.shape), x[i : i + 1], t.expand(3)[i])
            tolerance = 8 * torch.finfo(dtype).eps
            for whole, expected, part in zip(together, alone, cut, strict=True):
                shape = (1, 2, 2) if whole.ndim == 3 else (1, 2)
                row = whole.expand(3, *shape[1:])[i : i + 1]
                torch.testing.assert_close(row, expected.expand(shape), rtol=tolerance, atol=tolerance)
                torch.testing.assert_close(part.expand(shape), row, rtol=0, atol=0)


def test_linear_matrices_are_shared():
    sde = CommutativeLinearSDE()
    x = state(CommutativeLinearSDE, 2)  # as many samples as noises: the matrices must not be cut with the batch
    assert sde.rows(slice(0, 1), x.shape) is sde
    assert sde.noise_dim == 2
    half = sde.path(x.half(), 0.5, torch.zeros(2, 2).half())
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.double(), sde.path(x, 0.5, torch.zeros(2, 2)), rtol=2e-3, atol=2e-3)


@every
@calculi
def test_plain_values(family, calculus):
    values = {"calculus": calculus}
    if family in (TanhSDE, ArctanSDE):
        values["noise"] = "scalar"
    sde = family(**values)
    plain = json.loads(json.dumps(sde.to_dict()))
    assert plain.pop("type") == family.__name__
    again = family(**{k: torch.tensor(v) if isinstance(v, list) else v for k, v in plain.items()})
    assert again.calculus == calculus
    assert pickle.loads(pickle.dumps(sde)) == copy.deepcopy(sde) == sde
    assert hash(copy.deepcopy(sde)) == hash(sde)
    assert sde != family(calculus="ito" if calculus == "stratonovich" else "stratonovich")
    if family is not CommutativeLinearSDE:
        assert again == sde
        assert eval(repr(sde), vars(closed_form)) == sde
    with pytest.raises(dataclasses.FrozenInstanceError):
        sde.calculus = "ito"


def test_constant_diffusions():
    x = torch.ones(3, 2)
    for sde in (DoubleWell(0.3), StiffLinear(2.0, -0.3), OverdampedLangevin(quartic_gradient, 0.4)):
        assert sde.diffusion(x, NOW).item() == pytest.approx(sde.constant_diffusion, rel=1e-7)
    assert DoubleWell(torch.ones(3, 1)).constant_diffusion is None
    assert StiffLinear(2.0, torch.ones(3, 1)).constant_diffusion is None
    assert TanhSDE().constant_diffusion is None
    assert UnderdampedLangevin(quartic_gradient).constant_diffusion is None  # it does not act on every entry


def test_noise_shapes():
    assert TanhSDE().noise_shape((5, 2)) == (5, 2)
    assert ArctanSDE(noise="scalar").noise_shape((5, 2, 3)) == (5, 1, 1)
    assert CommutativeLinearSDE().noise_shape((5, 3)) == (5, 2)
    assert NoncommutativeSDE().noise_shape((5, 2)) == (5, 2)


@every
@pytest.mark.parametrize("bad", [math.nan, "a", None, [1.0], torch.tensor([1.0, math.nan]), torch.tensor(1j)], ids=repr)
def test_bad_parameters(family, bad):
    for name in parameters(family):
        with pytest.raises(ArgumentError, match=f"^{name} must be"):
            family(**{name: bad})
    with pytest.raises(ArgumentError, match="calculus must be one of ito, stratonovich, got"):
        family(calculus=bad)


def test_bad_words_and_matrices():
    with pytest.raises(ArgumentError, match="noise must be one of diagonal, scalar, got 'general'"):
        TanhSDE(noise="general")
    with pytest.raises(ArgumentError, match="drift_matrix must be a tensor, got float"):
        CommutativeLinearSDE(drift_matrix=1.0)
    with pytest.raises(ShapeError, match=r"got \(3, 3\) and \(3, 3\)"):
        CommutativeLinearSDE(noise_matrices=torch.eye(3))
    clashing = torch.tensor([[[0.0, 1.0], [0.0, 0.0]], [[0.0, 0.0], [1.0, 0.0]]])
    with pytest.raises(ArgumentError, match=r"noise_matrices\[0\] and noise_matrices\[1\] do not"):
        CommutativeLinearSDE(torch.eye(2), clashing)
    with pytest.raises(ShapeError, match=r"states of shape \(B, 3\), got \(4, 2\)"):
        CommutativeLinearSDE().drift(torch.ones(4, 2), NOW)
    with pytest.raises(ShapeError, match=r"states of shape \(B, 2\), got \(4, 3\)"):
        NoncommutativeSDE().diffusion(torch.ones(4, 3), NOW)
    with pytest.raises(ShapeError, match="does not broadcast"):
        DoubleWell(torch.ones(5, 1)).diffusion(torch.ones(4, 3), NOW)


def test_bad_paths():
    x0 = torch.full((4, 2), 0.5)
    with pytest.raises(ShapeError, match=r"shape \(4, 1\) for a state of shape \(4, 2\).*expected \(4, 2\)"):
        TanhSDE().path(x0, 1.0, torch.zeros(4, 1))
    with pytest.raises(ShapeError, match=r"expected \(4, 1\)"):
        ArctanSDE(noise="scalar").path(x0, 1.0, torch.zeros(4, 2))
    with pytest.raises(ArgumentError, match=r"between -1 and 1; 2 of 8 are not, the largest in size 1"):
        TanhSDE().path(torch.tensor([[1.0, 0.2], [-1.0, 0.0], [0.1, 0.1], [0.9, 0.9]]), 1.0, x0)
    with pytest.raises(ArgumentError, match="between -pi/2 and pi/2"):
        ArctanSDE().path(2 * torch.ones(1, 1), 1.0, torch.zeros(1, 1))
    for sde in (TanhSDE(), ArctanSDE(), DecayingAdditiveSDE()):
        with pytest.raises(ArgumentError, match="0 or more"):
            sde.path(x0, -1.0, x0)
        with pytest.raises(ArgumentError, match="floating-point"):
            sde.path(torch.zeros(4, 2, dtype=torch.int64), 1.0, x0)


def test_near_the_ends():
    """1 - x^2 near 1 in float32, against float64: written as (1 - x)(1 + x) it keeps its digits."""
    x = torch.tensor([[1 - 2**-20]])
    assert TanhSDE().diffusion(x, NOW).item() == pytest.approx(TanhSDE().diffusion(x.double(), NOW).item(), rel=1e-6)


# Langevin ----------------------------------------------------------------------------------------------------------


def quartic(x):
    return (x**4 / 4 + x**2).flatten(1).sum(1)


def quartic_gradient(x):
    return x**3 + 2 * x


@pytest.mark.parametrize("shape", [(3, 2), (3, 2, 4), (3, 2, 2, 5)])
def test_underdamped_by_hand(shape):
    x = random(*shape)
    sde = UnderdampedLangevin(quartic_gradient, gamma=0.7, u=1.3)
    f = sde.drift(x, NOW)
    assert torch.equal(f[:, 0], x[:, 1])
    torch.testing.assert_close(f[:, 1], -0.7 * x[:, 1] - 1.3 * quartic_gradient(x[:, 0]))
    g = sde.diffusion(x, NOW)
    assert g.shape == (1, 2, *[1] * (len(shape) - 2))
    assert g.flatten().tolist() == [0.0, math.sqrt(2 * 0.7 * 1.3)]
    assert sde.noise_shape(x.shape) == shape
    if len(shape) == 2:
        return
    by_potential = UnderdampedLangevin(gamma=0.7, u=1.3, potential=quartic)
    torch.testing.assert_close(by_potential.drift(x, NOW), f, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_potentials_in_every_mode(mode):
    sde = OverdampedLangevin(potential=quartic, temperature=0.4)
    with mode():
        x = random(3, 2).clone()
        f = sde.drift(x, NOW)
    assert not f.requires_grad
    torch.testing.assert_close(f.clone(), -quartic_gradient(x.clone()), rtol=1e-13, atol=1e-14)
    assert sde.diffusion(x.float(), NOW).item() == pytest.approx(math.sqrt(0.8))
    assert sde.diffusion(x.float(), NOW).dtype == torch.float32


def test_potentials_are_differentiable_again():
    x = random(3, 2).requires_grad_(True)
    OverdampedLangevin(potential=quartic).drift(x, NOW).sum().backward()
    torch.testing.assert_close(x.grad, -(3 * x.detach() ** 2 + 2))


@pytest.mark.parametrize("k", [2.0, 0.0, -0.3])
@pytest.mark.parametrize("t", [0.0, 1e-4, 0.3, 3.0])
def test_quadratic_moments_by_ode(k, t):
    gamma, u = 0.7, 1.6
    sde = UnderdampedLangevin(lambda x: k * x, gamma=gamma, u=u)
    a = torch.func.jacrev(lambda y: sde.drift(y[None], NOW)[0])(torch.zeros(2, dtype=torch.float64)).numpy()
    g = sde.diffusion(torch.zeros(1, 2, dtype=torch.float64), NOW).flatten().numpy()
    m0, c0 = np.array([0.4, -1.0]), np.array([[0.5, 0.1], [0.1, 0.3]])

    def rate(_, y):
        c = y[2:].reshape(2, 2)
        return np.concatenate([a @ y[:2], (a @ c + c @ a.T + np.diag(g**2)).ravel()])

    y = solve_ivp(rate, (0.0, t), [*m0, *c0.ravel()], "DOP853", rtol=1e-12, atol=1e-14).y[:, -1]
    mean, covariance = quadratic_langevin_moments(k, t, torch.tensor(m0), torch.tensor(c0), gamma, u)
    np.testing.assert_allclose(mean.numpy(), y[:2], rtol=1e-10)
    np.testing.assert_allclose(covariance.numpy().ravel(), y[2:], rtol=1e-10)


def test_quadratic_moments_at_both_ends():
    gamma, u, k, t = 0.7, 1.6, 2.0, 1e-5
    _, c = quadratic_langevin_moments(k, t, torch.zeros(2), None, gamma, u)
    # Series in t: 2 gamma u (t^3/3, t^2/2, t), relative error of the order gamma t; differences would lose all digits.
    leading = 2 * gamma * u * torch.tensor([[t**3 / 3, t**2 / 2], [t**2 / 2, t]], dtype=torch.float64)
    torch.testing.assert_close(c, leading, rtol=2 * gamma * t, atol=0)
    mean, c = quadratic_langevin_moments(k, 1e4, torch.ones(2), None, gamma, u)
    torch.testing.assert_close(c, torch.diag(torch.tensor([1 / k, u], dtype=torch.float64)), rtol=1e-10, atol=1e-12)
    assert mean.abs().max() < 1e-12


def test_langevin_values():
    one, two = UnderdampedLangevin(quartic_gradient, 2.0), UnderdampedLangevin(quartic_gradient, gamma=2)
    assert one == two
    assert hash(one) == hash(two)
    assert one != UnderdampedLangevin(quartic_gradient)
    assert one != OverdampedLangevin(quartic_gradient)
    assert repr(one) == "UnderdampedLangevin(gradient=quartic_gradient, gamma=2.0, u=1.0)"
    assert repr(OverdampedLangevin(potential=quartic)) == "OverdampedLangevin(potential=quartic, temperature=1.0)"
    assert pickle.loads(pickle.dumps(one)) == copy.deepcopy(one) == one
    with pytest.raises(ArgumentError, match="no plain dict"):
        one.to_dict()


@pytest.mark.parametrize("family", [UnderdampedLangevin, OverdampedLangevin])
def test_langevin_errors(family):
    with pytest.raises(ArgumentError, match="got neither"):
        family()
    with pytest.raises(ArgumentError, match="got both"):
        family(quartic_gradient, potential=quartic)
    with pytest.raises(ArgumentError, match="gradient must be a function of the position, got float"):
        family(1.0)
    x = random(3, 2, 4)
    with pytest.raises(ShapeError, match=r"gradient returned a tensor of shape \(3,\)"):
        family(quartic).drift(x, NOW)
    with pytest.raises(ArgumentError, match="gradient must return a tensor, got float"):
        family(lambda x: 1.0).drift(x, NOW)
    with pytest.raises(ShapeError, match=r"potential returned a tensor of shape \(3, .*expected one number a sample"):
        family(potential=quartic_gradient).drift(x, NOW)
    with pytest.raises(ArgumentError, match="autograd cannot follow"):
        family(potential=lambda x: quartic(x.detach())).drift(x, NOW)


def test_more_langevin_errors():
    for bad in (0.0, -1.0, math.nan, "a"):
        for name in ("gamma", "u"):
            with pytest.raises(ArgumentError, match=f"^{name} must be a finite number above 0"):
                UnderdampedLangevin(quartic_gradient, **{name: bad})
        with pytest.raises(ArgumentError, match=r"^temperature must be"):
            OverdampedLangevin(quartic_gradient, bad)
    for shape in ((3,), (3, 3), (2, 4, 2)):
        with pytest.raises(ShapeError, match=r"shape \(B, 2, \*\), position and velocity"):
            UnderdampedLangevin(quartic_gradient).drift(torch.ones(shape), NOW)
    with pytest.raises(ArgumentError, match="0 or more"):
        quadratic_langevin_moments(1.0, -1.0, torch.zeros(2))
    with pytest.raises(ShapeError, match=r"covariance of shape \(2, 2\)"):
        quadratic_langevin_moments(1.0, 1.0, torch.zeros(2), torch.zeros(2))
