"""SPaRK, SlowRK, general ShARK, reversible Heun, DRI1 and the implicit methods: orders, laws, stability, refusals."""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from _helpers import FinePath, gaussian_model, slope
from torch import Tensor

import sdekit as sk
from sdekit.dynamics import ForwardSDE
from sdekit.errors import ArgumentError, ConvergenceError, NonFiniteError, UnsupportedError
from sdekit.noise import Increment
from sdekit.sdes import EDMSDE, AbstractSDE
from sdekit.sdes.closed_form import (
    CommutativeLinearSDE,
    CubicMultiplicative,
    DecayingAdditiveSDE,
    DoubleWell,
    NoncommutativeSDE,
    StiffLinear,
    TanhSDE,
)
from sdekit.solvers import StepInfo
from sdekit.solvers.sde.dri1 import few_valued
from sdekit.solvers.sde.newton import eliminate, find_root
from sdekit.solvers.sde.reversible_heun import backward_step, first_state, forward_step

PATHS, FINE = 400, 512
STRATONOVICH = ("spark", "slowrk", "general_shark", "reversible_heun")
NAMES = (*STRATONOVICH, "dri1", "drift_implicit", "skencarp")


class WithoutAreas:
    """W of a path, for methods that ask for nothing else."""

    def __init__(self, path: FinePath) -> None:
        self.path = path

    def __call__(self, t: float, s: float, shape: tuple[int, ...]) -> Tensor:
        i, j = round(t * self.path.fine), round(s * self.path.fine)
        return ((self.path.w[j] - self.path.w[i]) / math.sqrt(abs(s - t))).reshape(shape)


def noise_for(name: str, path: FinePath) -> FinePath | WithoutAreas:
    return path if getattr(sk.solvers.get(name), "areas", 0) else WithoutAreas(path)


def row(*values: float) -> Tensor:
    return torch.tensor([values], dtype=torch.float64).repeat(PATHS, 1)


# Strong order ------------------------------------------------------------------------------------------------------


# Y_1' = cos t + s_1 W', Y_2' = Y_1 + s_2 W' with three noises, seen in curved coordinates: noise that commutes, entries
# coupled, the drift a function of t, and a solution in W_1 and its integral. The drift and the noise do not commute.
S = torch.tensor([[0.4, 0.2, -0.3], [-0.1, 0.4, 0.2]], dtype=torch.float64)


def curve(y: Tensor) -> Tensor:
    first = torch.sinh(y[:, 0])
    return torch.stack([first, y[:, 1] + 0.5 * torch.sin(first)], dim=1)


def curved(calculus: str, falls: bool) -> AbstractSDE:
    def along(x: Tensor, v: Tensor, w: Tensor) -> Tensor:
        """The derivative of `curve` along (v, w)."""
        first = torch.sqrt(1 + x[:, 0] ** 2) * v
        return torch.stack([first, w + 0.5 * torch.cos(x[:, 0]) * first], dim=1)

    def drift(x: Tensor, t: Tensor) -> Tensor:
        a = x[:, 0]
        f = along(x, torch.cos(t.reshape(-1)).expand(len(x)), torch.asinh(a))
        bend = torch.stack([a, 0.5 * (torch.cos(a) * a - torch.sin(a) * (1 + a**2))], dim=1)
        sign = 0.0 if calculus == "stratonovich" else -1.0 if falls else 1.0
        return f + 0.5 * sign * S[0].square().sum() * bend

    def diffusion(x: Tensor, t: Tensor) -> Tensor:
        ones = torch.ones_like(x[:, 0])
        return torch.stack([along(x, v * ones, w * ones) for v, w in S.T], dim=2)

    return sk.SDE(drift, diffusion, "commutative", calculus, noise_dim=3)


def straight_end(y: Tensor, path: FinePath, falls: bool) -> Tensor:
    w, area = path.w[-1] @ S.T, path.area[-1] @ S.T
    if falls:
        first = y[:, 0] - math.sin(1) - w[:, 0]
        return torch.stack([first, y[:, 1] - w[:, 1] - (first + 1 - math.cos(1) + area[:, 0])], dim=1)
    first = y[:, 0] + math.sin(1) + w[:, 0]
    return torch.stack([first, y[:, 1] + w[:, 1] + y[:, 0] + 1 - math.cos(1) + area[:, 0]], dim=1)


@functools.cache
def problem(kind: str, falls: bool = False) -> tuple[AbstractSDE, Tensor, FinePath, Tensor]:
    """An SDE, its start, a path, and the end on it, exact or by many steps; where time falls, that from 1 to 0."""
    calculus = "ito" if kind.startswith("ito ") else "stratonovich"
    word = kind.removeprefix("ito ")
    if word == "additive":
        x, path = row(0.5, 0.1), FinePath((PATHS, 2), FINE, 0, levy=True)
        sde: AbstractSDE = DecayingAdditiveSDE(a=1.5, calculus=calculus)
    elif word == "double well":
        x, path = row(0.5), FinePath((PATHS, 1), FINE, 1, levy=True)
        # Run backwards a well is a hill, and its paths run away: there the drift has the other sign.
        sde = sk.SDE(lambda x, t: x**3 - x, 1.0, noise="additive") if falls else DoubleWell(sigma=1.0)
    elif word in ("scalar", "diagonal"):
        x = row(0.3, -0.2)
        path = FinePath((PATHS, 1 if word == "scalar" else 2), FINE, 2, levy=True)
        sde = TanhSDE(a=0.5, calculus=calculus, noise=word)
    elif word == "curved":
        x, path = curve(row(0.4, -0.3)), FinePath((PATHS, 3), FINE, 6, levy=True)
        sde = curved(calculus, falls)
    elif word == "commutative":
        x, path = row(1.0, -0.5, 0.7), FinePath((PATHS, 2), FINE, 3, levy=True)
        sde = CommutativeLinearSDE(calculus=calculus)
    else:
        x, path = row(1.0, -0.5), FinePath((PATHS, 2), FINE, 4, levy=True)
        sde = NoncommutativeSDE(calculus=calculus)
    if word == "curved":
        end = curve(straight_end(row(0.4, -0.3), path, falls))
    elif word in ("double well", "general") or (falls and calculus == "ito"):
        name = "shark" if word == "double well" else "milstein" if falls else "stochastic_heun"
        t0, t1 = (1.0, 0.0) if falls else (0.0, 1.0)
        end = sk.solve(sde, x, t0=t0, t1=t1, solver=name, steps=FINE, noise=noise_for(name, path)).x
    elif falls and word == "commutative":
        noises = torch.einsum("bj,jik->bik", -path.w[-1], sde.noise_matrices)
        drift = sde.drift_matrix - 0.5 * (sde.noise_matrices @ sde.noise_matrices).sum(0)
        end = (torch.linalg.matrix_exp(noises - drift) @ x[..., None])[..., 0]
    else:  # in Stratonovich's sense the diagonal one has no drift
        end = sde.path(x, 1.0, -path.w[-1] if falls else path.w[-1])
    return sde, x, path, end


def measured(name: str, kind: str, falls: bool = False, **options) -> float:
    counts = (8, 16, 32, 64)
    sde, x, path, end = problem(kind, falls)
    t0, t1 = (1.0, 0.0) if falls else (0.0, 1.0)
    run = {"t0": t0, "t1": t1, "solver": name, "noise": noise_for(name, path), **options}
    errors = [float((sk.solve(sde, x, steps=n, **run).x - end).square().mean().sqrt()) for n in counts]
    return slope(list(counts), errors)


# 400 paths give a slope over a factor of 8 to about 0.15. The additive equation is linear, and its noise fades slowly:
# methods of order 1.5 are of order 2 on it.
STRONG = [
    *((name, "additive", 1.8, 2.2) for name in STRATONOVICH),
    *((name, "double well", 1.3, 1.9) for name in ("spark", "slowrk", "general_shark", "skencarp")),
    *((name, kind, 0.8, 1.25) for name in ("spark", "general_shark") for kind in ("scalar", "diagonal", "commutative")),
    ("reversible_heun", "double well", 0.9, 1.6),
    *(("reversible_heun", kind, 0.8, 1.25) for kind in ("scalar", "diagonal", "commutative")),
    # Where the Stratonovich drift is 0 it is of a higher order.
    *(("slowrk", kind, 1.5, 2.7) for kind in ("scalar", "diagonal", "ito diagonal")),
    *(("slowrk", kind, 1.3, 2.0) for kind in ("commutative", "ito commutative")),
    *((name, "general", 0.4, 0.75) for name in STRATONOVICH),
    *((name, "curved", 0.8, 1.25) for name in ("spark", "general_shark", "euler_heun", "milstein")),
    ("slowrk", "curved", 1.3, 1.8),
    ("slowrk", "ito curved", 1.3, 1.8),
    ("drift_implicit", "ito curved", 0.4, 0.75),
    ("spark", "ito scalar", 0.8, 1.25),
    ("skencarp", "additive", 1.8, 2.2),
    ("drift_implicit", "additive", 0.85, 1.2),
    ("drift_implicit", "double well", 0.8, 1.2),
    ("drift_implicit", "ito scalar", 0.4, 0.75),
    ("drift_implicit", "ito diagonal", 0.4, 0.75),
    ("drift_implicit", "ito commutative", 0.4, 0.75),
    ("drift_implicit", "commutative", 0.4, 0.75),
    ("drift_implicit", "ito general", 0.4, 0.75),
]


@pytest.mark.parametrize(("name", "kind", "low", "high"), STRONG)
def test_strong_order_on_shared_paths(name, kind, low, high):
    assert low < measured(name, kind) < high


@pytest.mark.parametrize(
    ("name", "kind", "low", "high"),
    [
        *((name, "double well", 1.3, 1.9) for name in ("spark", "slowrk", "general_shark", "skencarp")),
        *((name, "diagonal", 0.8, 1.25) for name in ("spark", "general_shark", "reversible_heun")),
        ("slowrk", "commutative", 1.3, 2.0),
        ("slowrk", "curved", 1.3, 1.8),
        ("milstein", "ito curved", 0.8, 1.25),
        ("drift_implicit", "double well", 0.8, 1.25),
        ("drift_implicit", "ito diagonal", 0.4, 0.75),
    ],
)
def test_strong_order_where_time_falls(name, kind, low, high):
    assert low < measured(name, kind, falls=True) < high


def test_the_theta_method_of_a_half_is_of_strong_order_1():
    assert 0.85 < measured("drift_implicit", "additive", theta=0.5) < 1.2
    assert 0.85 < measured("drift_implicit", "double well", theta=0.5) < 1.2


def test_a_matrix_of_additive_noise():
    g = torch.tensor([[0.5, -0.3], [0.2, 0.8]], dtype=torch.float64)
    sde = sk.SDE(lambda x, t: torch.sin(x) - x**3, lambda x, t: g.expand(len(x), 2, 2), "additive", noise_dim=2)
    path, x = FinePath((PATHS, 2), FINE, 5, levy=True), row(0.4, -0.1)
    end = sk.solve(sde, x, t0=0.0, t1=1.0, solver="shark", steps=FINE, noise=path).x
    errors = [
        float((sk.solve(sde, x, t0=0.0, t1=1.0, solver="skencarp", steps=n, noise=path).x - end).abs().mean())
        for n in (8, 16, 32)
    ]
    assert slope([8, 16, 32], errors) > 1.3


def test_where_the_drift_is_not_stiff_the_two_skencarps_are_of_one_order():
    # The published weights come to it from h = 1/64 down; on a linear drift they are there before.
    assert 1.8 < measured("skencarp", "additive", variant="published") < 2.2


# Without noise -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "order", "options"),
    [
        *((name, 2, {}) for name in STRATONOVICH),
        ("dri1", 3, {}),
        ("drift_implicit", 1, {}),
        ("drift_implicit", 2, {"theta": 0.5}),
        ("skencarp", 3, {}),
        ("skencarp", 3, {"variant": "published"}),
    ],
)
@pytest.mark.parametrize("ends", [(0.0, 1.0), (1.0, 0.0)], ids=["rising", "falling"])
def test_order_where_the_noise_is_0(name, order, options, ends):
    def drift(x: Tensor, t: Tensor) -> Tensor:
        return torch.stack([x[:, 1] * torch.cos(t + x[:, 0]), -x[:, 0] * (1 + t)], dim=1)

    sde = sk.SDE(drift, 0.0, noise="additive")
    x = torch.tensor([[0.7, -0.4]], dtype=torch.float64)
    run = {"t0": ends[0], "t1": ends[1]}
    exact = sk.solve(sk.ODE(drift), x, solver="rk4", steps=400, **run).x
    counts = [16, 32, 64]
    errors = [
        float((sk.solve(sde, x, solver=name, steps=n, seed=0, **run, **options).x - exact).abs().max()) for n in counts
    ]
    assert abs(slope(counts, errors) - order) < 0.25, errors


# DRI1 --------------------------------------------------------------------------------------------------------------

# One normal for each of the six cells that DRI1 cuts the law of W into, and their probabilities.
CELLS = torch.tensor([0.2, 0.7, 1.1, -1.1, 2.0, -2.0], dtype=torch.float64)
CHANCES = torch.tensor([4, 4, 1, 1, 1, 1], dtype=torch.float64) / 12


def test_the_cells_of_the_normal_law():
    assert torch.equal(few_valued(torch.tensor([0.2, -0.2, 0.7, -0.7]))[0], torch.zeros(4))
    value, sign = few_valued(CELLS)
    assert torch.allclose(value, math.sqrt(3) * torch.tensor([0, 0, 1, -1, 1, -1], dtype=torch.float64))
    assert sign.tolist() == [1, -1, 1, 1, -1, -1]
    edges = torch.special.ndtri(torch.tensor([2 / 3, 5 / 6, 11 / 12], dtype=torch.float64))  # of |z|, at 1/3, 2/3, 5/6
    for edge, inside, outside in zip(edges, (0, 1, 2), (1, 2, 4), strict=True):
        below, above = few_valued(edge - 1e-9), few_valued(edge + 1e-9)
        assert (float(below[0]), float(below[1])) == (float(value[inside]), float(sign[inside]))
        assert (float(above[0]), float(above[1])) == (float(value[outside]), float(sign[outside]))
    for power, moment in enumerate((1, 0, 1, 0, 3, 0)):  # those of N(0, 1)
        assert float((CHANCES * value**power).sum()) == pytest.approx(moment, abs=1e-12)
    assert float((CHANCES * sign).sum()) == pytest.approx(0, abs=1e-12)
    for power in (1, 2):
        assert float((CHANCES * sign * value**power).sum()) == pytest.approx(0, abs=1e-12)


def one_step(sde: AbstractSDE, x: Tensor, h: float, m: int) -> tuple[Tensor, Tensor]:
    """All ends of one step of DRI1 from each x, (A, C, d), and their probabilities, (C,)."""
    grid = torch.cartesian_prod(*[torch.arange(6)] * m).reshape(-1, m)
    z, p = CELLS[grid], CHANCES[grid].prod(1)
    start, draws = x.repeat_interleave(len(z), 0), z.repeat(len(x), 1)
    t1 = abs(h)
    ends = (0.0, t1) if h > 0 else (t1, 0.0)
    end = sk.solve(
        sde, start, t0=ends[0], t1=ends[1], solver="dri1", steps=1, noise=lambda t, s, shape: draws.reshape(shape)
    ).x
    return end.reshape(len(x), len(z), -1), p


@pytest.mark.parametrize("sign", [1, -1], ids=["rising", "falling"])
@pytest.mark.parametrize("m", [1, 2, 3])
def test_dri1_is_of_weak_order_2_by_enumeration(m, sign):
    # dX = A X dt + sum_j B_j X dW_j: moments are matrix exponentials, and those of a step exact sums over its values.
    generator = torch.Generator().manual_seed(m)
    a = 0.5 * torch.randn(2, 2, dtype=torch.float64, generator=generator)
    b = 0.4 * torch.randn(m, 2, 2, dtype=torch.float64, generator=generator)
    sde = sk.SDE(lambda x, t: x @ a.T, lambda x, t: torch.einsum("jik,bk->bij", b, x), noise="general", noise_dim=m)
    unit = torch.eye(2, dtype=torch.float64)
    squares = sum(torch.kron(matrix, matrix) for matrix in b)
    mean = torch.linalg.matrix_exp(sign * a)
    second = torch.linalg.matrix_exp(sign * (torch.kron(a, unit) + torch.kron(unit, a)) + squares)
    counts, errors = [4, 8, 16, 32], ([], [])
    for n in counts:
        ends, p = one_step(sde, unit, sign / n, m)  # row j is M e_j
        matrices = ends.permute(1, 2, 0)
        of_mean = torch.einsum("c,cij->ij", p, matrices)
        of_second = torch.einsum("c,cij,ckl->ikjl", p, matrices, matrices).reshape(4, 4)
        for kept, got, exact in zip(errors, (of_mean, of_second), (mean, second), strict=True):
            kept.append(float((torch.matrix_power(got, n) - exact).abs().max()))
    assert 2.7 < slope(counts, errors[0]) < 3.3
    assert 1.8 < slope(counts, errors[1]) < 2.3


@pytest.mark.parametrize("noise", ["scalar", "diagonal"])
def test_one_step_of_dri1_against_quadrature(noise):
    # X_h = tanh(a W + artanh x): E f(X_h) by Gauss-Hermite; a method of weak order 2 errs by h^3 in a step.
    sde = TanhSDE(a=0.6, noise=noise)
    x = torch.tensor([[0.3, -0.5]], dtype=torch.float64)
    nodes, weights = (torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(60))
    weights = weights / weights.sum()
    counts = [4, 8, 16, 32]
    for function in (torch.exp, torch.sin, torch.square):
        errors = []
        for n in counts:
            exact = function(torch.tanh(0.6 * n**-0.5 * nodes[:, None] + torch.atanh(x)))
            ends, p = one_step(sde, x, 1 / n, 1 if noise == "scalar" else 2)
            got = (p[:, None] * function(ends[0])).sum(0)
            errors.append(float((got - (weights[:, None] * exact).sum(0)).abs().max()))
        assert 2.7 < slope(counts, errors) < 3.7, (function, errors)


def test_one_step_of_dri1_on_noise_that_does_not_commute():
    # E f(X_h) = f + h L f + h^2/2 L L f + O(h^3), L the generator, by autodiff.
    sde = NoncommutativeSDE()
    x = torch.tensor([0.4, -0.3], dtype=torch.float64)
    t = torch.zeros((), dtype=torch.float64)

    def generator(f):
        def applied(y: Tensor) -> Tensor:
            g = sde.diffusion(y[None], t)[0]
            hessian = torch.func.hessian(f)(y)
            return torch.func.grad(f)(y) @ sde.drift(y[None], t)[0] + 0.5 * (g * (hessian @ g)).sum()

        return applied

    counts = [8, 16, 32, 64]
    for f in (lambda y: y[0] * y[1], lambda y: torch.exp(y[0] - y[1]), lambda y: y[0] ** 3 * y[1]):
        first, second = generator(f)(x), generator(generator(f))(x)
        errors = []
        for n in counts:
            ends, p = one_step(sde, x[None], 1 / n, 2)
            got = (p * torch.stack([f(y) for y in ends[0]])).sum()
            errors.append(float((got - f(x) - first / n - second / (2 * n**2)).abs()))
        assert 2.7 < slope(counts, errors) < 3.4, errors


def test_dri1_on_additive_noise():
    # dX = -k X dt + g(t) dW: Gaussian, with two moments known.
    sde = DecayingAdditiveSDE(a=0.8)
    x = torch.tensor([[0.4]], dtype=torch.float64)
    counts, errors = [4, 8, 16, 32], []
    for n in counts:
        ends, p = one_step(sde, x, 1 / n, 1)
        mean, std = sde.marginal(x, 1 / n)
        got = (p * ends[0, :, 0] ** 2).sum()
        errors.append(float((got - mean**2 - std**2).abs()))
    assert slope(counts, errors) > 2.7, errors
    calls = []
    counted = sk.SDE(lambda x, t: -x, lambda x, t: calls.append(1) or 1 + 0 * t, noise="additive")
    assert sk.solve(counted, torch.ones(2, 1), t0=0.0, t1=1.0, solver="dri1", steps=5, seed=0).nfe == 15
    assert len(calls) == 10


@pytest.mark.parametrize("m", [1, 2, 3])
def test_what_dri1_evaluates(m):
    calls = []
    g = torch.full((2, m), 0.3)

    def diffusion(x: Tensor, t: Tensor) -> Tensor:
        calls.append(1)
        return g.expand(len(x), 2, m) * x[:, :1, None]

    sde = sk.SDE(lambda x, t: -x, diffusion, noise="general", noise_dim=m)
    assert sk.solve(sde, torch.ones(3, 2), t0=0.0, t1=1.0, solver="dri1", steps=4, seed=0).nfe == 12
    assert len(calls) == 4 * (3 if m == 1 else 4 * m + 1)


# Reversible Heun ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("falls", [False, True])
@pytest.mark.parametrize("kind", ["additive", "scalar", "diagonal", "commutative", "general"])
def test_reversible_heun_goes_there_and_back(kind, falls, per_sample):
    sde, x, path, _ = problem(kind)
    dynamics, n = ForwardSDE(sde), 128
    places = [k / n for k in range(n + 1)]
    if falls:
        places.reverse()
    clock = [torch.tensor(t, dtype=torch.float64) for t in places]
    h: float | Tensor = -1 / n if falls else 1 / n
    if per_sample:
        clock = [t.expand(PATHS) for t in clock]
        h = torch.full((PATHS, 1), h, dtype=torch.float64)
    w = [path.w[round(s * FINE)] - path.w[round(t * FINE)] for t, s in itertools.pairwise(places)]
    states = [first_state(dynamics, x, clock[0])]
    for k in range(n):
        states.append(forward_step(dynamics, states[-1], clock[k + 1], h, w[k]))
    back = states[-1]
    for k in reversed(range(n)):
        back = backward_step(dynamics, back, clock[k], h, w[k])
        for value in ("x", "x_hat", "f", "g"):
            assert float((getattr(back, value) - getattr(states[k], value)).abs().max()) < 1e-12
    if not per_sample:
        run = {"t0": places[0], "t1": places[-1], "solver": "reversible_heun", "steps": n}
        assert torch.allclose(sk.solve(sde, x, noise=WithoutAreas(path), **run).x, states[-1].x, rtol=0, atol=1e-12)


def test_reversible_heun_begins_anew_where_the_state_is_changed():
    sde, run = TanhSDE(calculus="stratonovich"), {"solver": "reversible_heun", "seed": 3}
    x = torch.full((4, 3), 0.2, dtype=torch.float64)

    def replaced(info: StepInfo) -> None:
        if info.step == 4:
            info.x.fill_(0.1)

    times = [k / 10 for k in range(11)]
    a = sk.solve(sde, x, grid=times, callback=replaced, **run)
    b = sk.solve(sde, 2 * x, grid=times, callback=replaced, **run)
    assert torch.equal(a.x, b.x)
    assert a.nfe == 12  # ten steps, and two starts
    half = sk.solve(sde, x, grid=times, stop=4, **run)
    assert set(half.state.registers) >= {"x_hat", "f", "g"}
    whole = sk.solve(sde, x, grid=times, **run)
    assert torch.equal(sk.solve(sde, x, grid=times, resume=half.state, **run).x, whole.x)
    # A change of the saved state is one too.
    changed = replace(half.state, x=torch.full_like(x, 0.1))
    assert torch.equal(sk.solve(sde, x, grid=times, resume=changed, **run).x, a.x)
    by_hand = sk.solvers.get("reversible_heun")
    state = by_hand.init(sk.solvers.Problem(ForwardSDE(sde), x, whole.times, sk.noise.KeyedNoise(3)))
    for _ in range(10):
        state = by_hand.step(state)
    assert torch.equal(state.x, whole.x)
    assert state.nfe == whole.nfe == 11


def test_the_last_step_to_sigma_0_is_eulers():
    model = gaussian_model(EDMSDE(), 0.3, 0.5)
    x = torch.linspace(-3, 3, 8, dtype=torch.float64).reshape(4, 2)
    for name in NAMES:
        run = {"x_T": x, "grid": [3.0, 2.0, 1.0, 0.0], "seed": 1, "trajectory": True}
        out = sk.sample(model, None, name, **run)
        dynamics, before = sk.ReverseSDE(model), out.trajectory[-2]
        t = torch.tensor(1.0, dtype=torch.float64)
        f, g = dynamics.drift(before, t), dynamics.diffusion(before, t)
        noise = sk.noise.KeyedNoise(1).brownian(
            (4, 2), out.times, areas=0, dtype=torch.float64, device=torch.device("cpu")
        )
        noise.seek(2)
        assert torch.allclose(out.x, before - f + g * noise.next().W, rtol=1e-12), name


# Implicit methods --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["drift_implicit", "skencarp"])
def test_a_stiff_drift(name):
    sde, n = StiffLinear(k=1000.0, sigma=0.5), 20  # k h = 50
    x = torch.full((1000, 1), 3.0, dtype=torch.float64)
    out = sk.solve(sde, x, t0=0.0, t1=1.0, solver=name, steps=n, seed=0, trajectory=True)
    assert float(out.trajectory.abs().max()) < 3.01
    mean, std = sde.marginal(x, 1.0)
    # The deviation is not resolved: it is damped, to less than the exact one of 0.011.
    assert abs(float(out.x.mean() - mean.mean())) < 1e-3
    assert 0.1 * float(std.max()) < float(out.x.std()) < float(std.max())
    for explicit in ("euler_maruyama", "shark", "sosra"):
        with pytest.raises(NonFiniteError, match="step"):
            sk.solve(sde, x, t0=0.0, t1=100.0, solver=explicit, steps=20 * 100, seed=0)


def stationary_ratio(name: str, kh: float, **options) -> float:
    """The stationary variance that a method gives dX = -k X dt + dW, over the exact 1/(2 k): from one affine step."""
    h = kh
    sde = sk.OrnsteinUhlenbeck(1.0, 0.0, 1.0)
    x = torch.tensor([[1.0], [0.0], [0.0]], dtype=torch.float64)
    draws = [torch.tensor([[0.0], [1.0], [0.0]]), torch.tensor([[0.0], [0.0], [1.0]])]  # W, then H, of deviation 1
    out = sk.solve(sde, x, t0=0.0, t1=h, solver=name, steps=1, noise=lambda t, s, shape: draws.pop(0), **options).x
    r, w, area = out[:, 0].tolist()
    return 2 * (w**2 + area**2) / (1 - r**2)


@pytest.mark.parametrize(
    ("kh", "stable", "published"),
    [(0.01, 1.0000, None), (0.1, 1.0001, 1.042), (1.0, 0.9933, 6.3), (10.0, 0.532, 890), (100.0, 0.079, 1.6e4)],
)
def test_skencarps_stationary_variance(kh, stable, published):
    assert stationary_ratio("skencarp", kh) == pytest.approx(stable, abs=5e-4)
    if published is not None:
        assert stationary_ratio("skencarp", kh, variant="published") == pytest.approx(published, rel=0.02)


def test_the_theta_methods_stationary_variance():
    # x' = (x + W)/(1 + k h): 2/(2 + k h); with theta = 1/2 it is 1, whatever the step.
    for kh in (0.1, 1.0, 50.0):
        assert stationary_ratio("drift_implicit", kh) == pytest.approx(2 / (2 + kh), rel=1e-10)
        assert stationary_ratio("drift_implicit", kh, theta=0.5) == pytest.approx(1.0, rel=1e-10)


def test_a_step_of_the_theta_method():
    # x' = x + h [theta f(x') + (1 - theta) f(x)] + g W, with f = -x: linear.
    sde, x = sk.OrnsteinUhlenbeck(1.0, 0.0, 0.5), torch.tensor([[2.0]], dtype=torch.float64)
    for theta in (0.3, 0.7, 1.0):
        run = {"t0": 0.0, "t1": 0.4, "solver": "drift_implicit", "steps": 1, "theta": theta}
        out = sk.solve(sde, x, noise=lambda t, s, shape: torch.full(shape, 1.5, dtype=torch.float64), **run).x
        exact = (2 - 0.4 * (1 - theta) * 2 + 0.5 * 1.5 * math.sqrt(0.4)) / (1 + 0.4 * theta)
        assert float(out) == pytest.approx(exact, rel=1e-12)


def test_what_is_stiff_is_not_magnified_in_skencarps_error():
    # A state off the slow solution by 0.001: with k h = 1e4 its explicit stage is off by 10.
    sde, x = StiffLinear(k=1e5, sigma=0.5), torch.tensor([[1.001]], dtype=torch.float64)
    t, s = (torch.tensor(u, dtype=torch.float64) for u in (0.0, 0.1))
    none = torch.zeros(1, 1, dtype=torch.float64)
    pair = sk.solvers.get("skencarp").pair(ForwardSDE(sde), x, t, s, 0.1, Increment(none, none))
    assert 1e-5 < float(pair.error.abs()) < 2e-4
    assert float((pair.x - math.cos(0.1)).abs()) < 1e-3


def test_steps_by_tolerance_on_a_stiff_drift():
    sde, x = StiffLinear(k=1000.0), torch.full((6, 1), 3.0, dtype=torch.float64)
    run = {"t0": 0.0, "t1": 1.0, "solver": "skencarp", "rtol": 1e-3, "atol": 1e-3, "seed": 0}
    out = sk.solve(sde, x, **run)
    assert out.status == "success"
    assert max(out.stats["steps"]) < 100  # an explicit method needs 500 for stability alone
    assert float((out.x - math.cos(1.0)).abs().max()) < 0.05
    assert bool((out.nfe > 6 * torch.tensor(out.stats["steps"])).all())
    alone = sk.solve(sde, x[:1], **{**run, "first": 3})
    assert torch.equal(alone.x[0], out.x[3])
    assert int(alone.nfe) == int(out.nfe[3])  # though others of its batch iterate longer
    limited = sk.solve(sde, x, **run, max_nfe=100)
    assert limited.status == "max_nfe"
    assert int(limited.nfe.max()) <= 100


# Entries that see one another, without a product of matrices, which would depend on the batch.
COUPLED = sk.SDE(lambda x, t: -4 * x - x**3 + 2 * torch.sin(x.roll(1, -1)) - x.roll(2, -1), 0.3, noise="additive")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("d", [1, 3, 5, 19])
@pytest.mark.parametrize("name", ["drift_implicit", "skencarp"])
def test_a_sample_alone_has_the_bits_that_it_has_in_a_batch(name, d, dtype):
    x = torch.linspace(-3, 3, 13 * d, dtype=dtype).reshape(13, d)
    run = {"t0": 0.0, "t1": 2.0, "solver": name, "steps": 5}
    whole = sk.solve(COUPLED, x, seed=4, **run)
    for i in (0, 5, 12):
        assert torch.equal(sk.solve(COUPLED, x[i : i + 1], seed=4, first=i, **run).x[0], whole.x[i])
    assert torch.equal(sk.solve(COUPLED, x, seed=4, chunk=4, **run).x, whole.x)
    assert whole.x.dtype == dtype


@pytest.mark.parametrize("name", NAMES)
def test_states_of_any_shape_and_single_precision(name):
    def drift(x: Tensor, t: Tensor) -> Tensor:
        return -x - 0.1 * x**3

    sde = sk.SDE(drift, 0.3, noise="additive")
    x = torch.linspace(-1, 1, 48, dtype=torch.float64).reshape(2, 24)
    run = {"t0": 0.0, "t1": 1.0, "solver": name, "steps": 4, "seed": 0}
    flat = sk.solve(sde, x, **run).x
    for shape in ((2, 4, 6), (2, 2, 3, 4)):
        assert torch.equal(sk.solve(sde, x.reshape(shape), **run).x.reshape(2, 24), flat)
    narrow = sk.solve(sde, x.float(), **run).x
    assert narrow.dtype == torch.float32
    assert torch.allclose(narrow.double(), flat, atol=1e-5)


def test_elimination():
    generator = torch.Generator().manual_seed(0)
    for d in (1, 2, 7, 30):
        matrix = torch.randn(9, d, d, dtype=torch.float64, generator=generator)
        right = torch.randn(9, d, 2, dtype=torch.float64, generator=generator)
        assert torch.allclose(eliminate(matrix, right), torch.linalg.solve(matrix, right), rtol=1e-8, atol=1e-9)
    swapped = torch.tensor([[[0.0, 1.0], [2.0, 0.0]]])  # needs its rows exchanged
    assert eliminate(swapped, torch.tensor([[[3.0], [4.0]]]))[0, :, 0].tolist() == [2.0, 3.0]


def test_newton_counts_its_evaluations():
    calls = []
    sde = sk.SDE(lambda x, t: calls.append(1) or -x - x**3, 0.3, noise="additive")
    for name in ("drift_implicit", "skencarp"):
        calls.clear()
        out = sk.solve(sde, torch.ones(3, 2), t0=0.0, t1=1.0, solver=name, steps=5, seed=0)
        assert out.nfe == len(calls) > 10
    # A linear drift: one iteration solves, the next finds that it did.
    out = sk.solve(sk.OrnsteinUhlenbeck(), torch.ones(3, 2), t0=0.0, t1=1.0, solver="drift_implicit", steps=5, seed=0)
    assert out.nfe == 10


@pytest.mark.parametrize("name", ["drift_implicit", "skencarp"])
def test_a_jacobian_serves_a_step(name):
    seen = {"values": 0, "jacobians": 0}

    def drift(x: Tensor, t: Tensor) -> Tensor:
        seen["jacobians" if x.requires_grad else "values"] += 1
        return x - x**3

    sde, x = sk.SDE(drift, 0.5, noise="additive"), torch.linspace(-1, 1, 10, dtype=torch.float64).reshape(5, 2)
    out = sk.solve(sde, x, t0=0.0, t1=1.0, solver=name, steps=20, seed=0)
    assert out.nfe == seen["values"] + seen["jacobians"]
    assert seen["jacobians"] == 20
    # What is left of 60 stages, each to 1e-8.
    close = sk.solve(sde, x, t0=0.0, t1=1.0, solver=name, steps=20, seed=0, tolerance=1e-14)
    assert float((out.x - close.x).abs().max()) < 60e-8


def test_newton_solves_to_its_tolerance():
    # Rates from 0.3 to 0.01, the starts too far away for the first Jacobian to do.
    dynamics = ForwardSDE(sk.SDE(lambda x, t: -torch.sinh(x) + torch.sin(3 * x.roll(1, 1)), 0.1, noise="additive"))
    base, t = torch.linspace(-6, 6, 60, dtype=torch.float64).reshape(20, 3), torch.zeros((), dtype=torch.float64)
    for c in (0.01, 0.1, 0.3):
        exact = find_root(dynamics, base, c, t, base, tolerance=1e-15, max_iterations=100).u
        assert torch.allclose(exact - c * dynamics.drift(exact, t), base, rtol=1e-13, atol=1e-13)
        for tolerance in (1e-2, 1e-4, 1e-8):
            root = find_root(dynamics, base, c, t, base, tolerance=tolerance, max_iterations=50)
            assert bool(root.converged.all())
            error = (root.u - exact).abs().amax(1) / torch.maximum(exact.abs().amax(1), base.abs().amax(1))
            assert float(error.max()) < 4 * tolerance
            # A Jacobian of another place must not let it end too early.
            far = torch.eye(3, dtype=torch.float64).expand(20, 3, 3) * 1e-6
            root = find_root(dynamics, base, c, t, base, tolerance=tolerance, max_iterations=50, inverse=far)
            error = (root.u - exact).abs().amax(1) / torch.maximum(exact.abs().amax(1), base.abs().amax(1))
            assert float(error.max()) < 4 * tolerance


def test_newton_on_the_samples_that_still_move_gives_the_bits_of_all():
    seen = []

    def drift(x: Tensor, t: Tensor, rate: Tensor) -> Tensor:
        seen.append(len(x))
        return -rate * torch.sinh(x) + torch.sin(x.roll(1, 1)) + t

    rate = torch.tensor([[0.1], [3.0], [30.0], [1.0]], dtype=torch.float64)
    dynamics = ForwardSDE(sk.SDE(drift, 0.1, noise="additive", parameters={"rate": rate}))
    base = torch.tensor([[0.01, 0.02], [3.0, 1.0], [4.0, -4.0], [0.1, 0.0]], dtype=torch.float64)
    c, s = torch.tensor([[0.1], [0.2], [0.05], [0.1]], dtype=torch.float64), torch.linspace(0, 1, 4).double()
    how = {"tolerance": 1e-10, "max_iterations": 50}
    for inverse in (None, torch.eye(2, dtype=torch.float64).expand(4, 2, 2)):
        seen.clear()
        whole = find_root(dynamics, base, c, s, base, inverse=inverse, **how)
        assert set(seen) == {4}
        seen.clear()
        few = find_root(dynamics, base, c, s, base, inverse=inverse, compact=True, **how)
        assert sum(seen) == int(few.evaluations.sum()) < 4 * len(seen)
        for name in ("u", "converged", "evaluations", "inverse"):
            assert torch.equal(getattr(whole, name), getattr(few, name)), name
        image = base + c * dynamics.drift(few.u, s)
        assert torch.allclose(image, few.u, rtol=0, atol=1e-7)


def test_evaluations_are_those_that_a_sample_itself_needs():
    sde = sk.SDE(lambda x, t: -30 * torch.sinh(x), 0.3, noise="additive")
    x, t = torch.tensor([[0.01], [1.0], [4.0]], dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    solver, w = sk.solvers.get("skencarp"), torch.full((3, 1), 0.1, dtype=torch.float64)

    def step(rows: slice) -> tuple[Tensor, Tensor, Tensor]:
        dynamics = ForwardSDE(sde)
        h = torch.full((len(x[rows]), 1), 0.01, dtype=torch.float64)
        noise = Increment(w[rows], 0.1 * w[rows])
        pair = solver.pair(dynamics, x[rows], t[rows], t[rows] + 0.01, h, noise)
        assert pair.evaluations.max() <= dynamics.counter.calls
        return pair.x, pair.error, pair.evaluations

    whole = step(slice(0, 3))
    assert len(set(whole[2].tolist())) > 1
    for i in range(3):
        for value, alone in zip(whole, step(slice(i, i + 1)), strict=True):
            assert torch.equal(alone[0], value[i])


def test_steps_by_tolerance_with_a_matrix_of_additive_noise():
    # Step lengths beside noise of another shape than the state's.
    def diffusion(x: Tensor, t: Tensor) -> Tensor:
        return torch.stack([0.3 + 0.1 * t + 0 * x, 0.2 - 0.1 * t + 0 * x, 0.1 + 0 * x], dim=-1)

    sde = sk.SDE(lambda x, t: torch.sin(x) - x**3, diffusion, "additive", noise_dim=3)
    x = torch.linspace(-1, 1, 24, dtype=torch.float64).reshape(4, 6)
    names = [f"adaptive:{name}" for name in ("sriw1", "sosri", "sosra", "spark", "skencarp", "euler_maruyama")]
    for name in names:
        run = {"t0": 0.0, "t1": 1.0, "solver": name, "rtol": 1e-2, "atol": 1e-2, "seed": 0}
        flat = sk.solve(sde, x, **run).x
        assert torch.equal(sk.solve(sde, x.reshape(4, 2, 3), **run).x.reshape(4, 6), flat), name
        assert sk.solve(sde, x[:, 0], **run).x.shape == (4,)


def test_a_superlinear_drift():
    sde = CubicMultiplicative()
    x = torch.full((200, 1), 30.0, dtype=torch.float64)
    run = {"t0": 0.0, "t1": 1.0, "steps": 16, "seed": 0}
    out = sk.solve(sde, x, solver="drift_implicit", trajectory=True, **run)
    assert float(out.trajectory[1:].abs().max()) < 30
    assert 0.3 < float(out.x.abs().mean()) < 3
    with pytest.raises(NonFiniteError):
        sk.solve(sde, x, solver="euler_maruyama", **run)


@pytest.mark.parametrize("name", ["drift_implicit", "skencarp"])
def test_where_newton_fails_the_error_names_the_step(name):
    def drift(x: Tensor, t: Tensor) -> Tensor:
        stiff = torch.where(x > 4, 1000.0, 1.0) if float(t.max()) > 0.55 else 1.0
        return -stiff * x.detach()

    sde = sk.SDE(drift, 0.1, noise="additive")
    x = torch.ones(6, 1, dtype=torch.float64)
    x[4] = 20.0
    run = {"t0": 0.0, "t1": 1.0, "solver": name, "steps": 10, "seed": 0}
    for extra in ({}, {"chunk": 3}):
        with pytest.raises(ConvergenceError, match=rf"'{name}' did not solve .* step 6 \(to t = 0.6\).* 4\. Take") as e:
            sk.solve(sde, x, **run, **extra)
        assert (e.value.step, e.value.samples, e.value.solver) == (6, [4], name)
        assert e.value.time == pytest.approx(0.6)
    assert bool(torch.isfinite(sk.solve(sde, x[:4], **run).x).all())  # without a derivative, but not stiff
    nan = sk.SDE(lambda x, t: -x if float(t.max()) < 0.45 else x * math.nan, 0.1, noise="additive")
    with pytest.raises(NonFiniteError, match="step 5"):
        sk.solve(nan, x, **run)


@pytest.mark.parametrize("name", ["drift_implicit", "skencarp"])
def test_a_derivative_that_is_not_finite_is_not_taken_for_a_drift(name):
    # The value is finite, and its derivative is 0 * NaN: of the branch that was not taken.
    root = sk.SDE(lambda x, t: torch.where(x > 0, -torch.sqrt(x), -x), 0.1, noise="additive")
    x = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    with pytest.raises(ConvergenceError, match=r"step 1 .* 1\. .*differentiate the drift"):
        sk.solve(root, x, t0=0.0, t1=1.0, solver=name, steps=50, seed=0)


@pytest.mark.parametrize("name", ["drift_implicit", "skencarp"])
def test_an_implicit_step_is_differentiable(name):
    solver = sk.solvers.get(name, tolerance=1e-12)
    t, s = torch.tensor(0.0, dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64)
    w = torch.tensor([[0.3, -0.2]], dtype=torch.float64)

    def step(x: Tensor, rate: Tensor, sigma: Tensor) -> Tensor:
        sde = sk.SDE(lambda y, t: -rate * y - y**3 + 0.5 * y.roll(1, -1), lambda y, t: sigma + t, noise="additive")
        return solver.step_formula(ForwardSDE(sde), x, t, s, 0.5, Increment(w, 0.1 * w))

    x = torch.tensor([[0.8, -0.5]], dtype=torch.float64, requires_grad=True)
    rate = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    sigma = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(step, (x, rate, sigma))
    with torch.no_grad():
        plain = step(x, rate, sigma)
    assert torch.equal(step(x, rate, sigma), plain)


def test_a_path_serves_solvers_that_differentiate_after_others():
    # Others run in inference mode; what the path keeps for them must not be of that mode.
    path = sk.noise.BrownianPath(0, (40, 1), 0.0, 1.0, dtype=torch.float64)
    t = torch.zeros(40, dtype=torch.float64)
    rows = torch.arange(40)
    with torch.inference_mode():
        for k in range(16):
            path.increments(t + k / 16, t + k / 16 + 1e-6, rows)
    fresh = sk.noise.BrownianPath(0, (40, 1), 0.0, 1.0, dtype=torch.float64)
    for k in range(100):
        a, b = t + k / 100, t + k / 100 + 1e-6
        assert torch.equal(path.increments(a, b, rows).W, fresh.increments(a, b, rows).W)


# Refusals ----------------------------------------------------------------------------------------------------------


def test_who_serves_what():
    ito, general = TanhSDE(), NoncommutativeSDE()
    for name in STRATONOVICH:
        with pytest.raises(UnsupportedError, match="stratonovich"):
            sk.solvers.get(name).check(ForwardSDE(ito))
        sk.solvers.get(name).check(ForwardSDE(NoncommutativeSDE(calculus="stratonovich")))
    for name in ("dri1", "drift_implicit"):
        with pytest.raises(UnsupportedError, match="ito solution"):
            sk.solvers.get(name).check(ForwardSDE(TanhSDE(calculus="stratonovich")))
        sk.solvers.get(name).check(ForwardSDE(general))
    with pytest.raises(UnsupportedError, match="additive"):
        sk.solvers.get("skencarp").check(ForwardSDE(ito))
    for name in NAMES:
        with pytest.raises(UnsupportedError, match="an SDE"):
            sk.solvers.get(name).check(sk.ODE(lambda x, t: x))
    assert sk.solvers.get("dri1").strong_order is None
    assert sk.solvers.get("dri1").weak_order == 2.0
    assert sk.solvers.get("drift_implicit").differentiates
    assert sk.solvers.get("adaptive:skencarp").differentiates
    assert sk.solve(ito, torch.zeros(2, 1), t0=0, t1=1, solver="spark", steps=2, seed=0).stats["converted"]


@pytest.mark.parametrize(
    ("name", "options", "match"),
    [
        ("drift_implicit", {"theta": 0}, "euler_maruyama"),
        ("drift_implicit", {"theta": 1.5}, "theta must be above 0 and at most 1"),
        ("drift_implicit", {"theta": "half"}, "theta"),
        ("drift_implicit", {"tolerance": 0.0}, "tolerance"),
        ("drift_implicit", {"max_iterations": 2.5}, "max_iterations"),
        ("skencarp", {"variant": "good"}, "variant must be 'stable' or 'published'"),
        ("skencarp", {"max_iterations": 0}, "max_iterations"),
    ],
)
def test_options_that_make_no_sense(name, options, match):
    with pytest.raises(ArgumentError, match=match):
        sk.solvers.get(name, **options)


@pytest.mark.parametrize("name", ["drift_implicit", "skencarp"])
def test_a_state_too_large_for_its_jacobian_is_refused(name):
    calls = []
    sde = sk.SDE(lambda x, t: calls.append(1) or -x, 0.1, noise="additive")
    with pytest.raises(UnsupportedError, match="up to 2048 entries; got 2049"):
        sk.solve(sde, torch.zeros(1, 2049), t0=0.0, t1=1.0, solver=name, steps=2, seed=0)
    assert not calls


def test_a_drift_that_gives_its_buffer_again():
    for name in NAMES:
        buffer = torch.empty(3, 2, dtype=torch.float64)

        def in_place(x: Tensor, t: Tensor, buffer: Tensor = buffer) -> Tensor:
            if x.requires_grad or torch.is_grad_enabled():
                return -x - 0.2 * x**3
            return buffer.copy_(-x - 0.2 * x**3)

        run = {"t0": 0.0, "t1": 1.0, "solver": name, "steps": 4, "seed": 0}
        x = torch.ones(3, 2, dtype=torch.float64)
        kept = sk.solve(sk.SDE(in_place, 0.3, noise="additive"), x, **run).x
        assert torch.equal(kept, sk.solve(sk.SDE(lambda x, t: -x - 0.2 * x**3, 0.3, noise="additive"), x, **run).x)


def test_every_method_is_there_by_class():
    for name in sk.solvers.names():
        solver = sk.solvers.get(name)
        if solver.kind == "step" and not solver.adaptive:
            assert getattr(sk.solvers, type(solver).__name__) is type(solver)
            assert type(solver).__name__ in sk.solvers.__all__
