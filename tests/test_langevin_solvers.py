"""BAOAB, UBU and QUICSORT: orders on one path, laws for any step, exactness without a force, and what they refuse."""

from __future__ import annotations

import functools
import math

import pytest
import torch
from _helpers import slope
from torch import Tensor

import sdekit as sk
from sdekit.errors import ArgumentError, UnsupportedError
from sdekit.noise import BrownianPath, Increment
from sdekit.sdes import OverdampedLangevin, UnderdampedLangevin
from sdekit.sdes.langevin import quadratic_langevin_moments
from sdekit.solvers import StepInfo, StepSolver
from sdekit.solvers.sde.langevin import BAOAB, QUICSORT, UBU

NAMES = [name for name in sk.solvers.names() if "underdamped" in sk.solvers.get(name).needs]
PROBLEMS = {"quadratic": lambda q: 1.7 * q, "double well": lambda q: q**3 - q}
K = 1.7


def quadratic(gamma: float = 1.0, u: float = 1.0, k: float = K) -> UnderdampedLangevin:
    return UnderdampedLangevin(lambda q: k * q, gamma, u)


def free(gamma: float, u: float = 1.0) -> UnderdampedLangevin:
    return UnderdampedLangevin(torch.zeros_like, gamma, u)


def start(batch: int, *shape: int, seed: int = 0) -> Tensor:
    return torch.randn(batch, 2, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_catalogue_has_three():
    assert NAMES == ["baoab", "ubu", "quicsort"]


# Orders --------------------------------------------------------------------------------------------------------------


@functools.cache
def on_one_path(problem: str, t0: float, t1: float) -> tuple[UnderdampedLangevin, BrownianPath, Tensor, Tensor]:
    """The equation, a path, a start and the end of the finest solve, which is QUICSORT's: order 3, whoever asks."""
    sde = UnderdampedLangevin(PROBLEMS[problem])
    path = BrownianPath(3, (300, 2, 1), 0.0, 1.0, cells=512, levy_area="space-time-time", dtype=torch.float64)
    x = start(300, 1)
    return sde, path, x, sk.solve(sde, x, t0=t0, t1=t1, solver="quicsort", steps=512, noise=path).x


COUNTS = {"baoab": [16, 32, 64, 128], "ubu": [8, 16, 32, 64], "quicsort": [8, 16, 32, 64]}


@pytest.mark.parametrize(("t0", "t1"), [(0.0, 1.0), (1.0, 0.0)], ids=["forwards", "backwards"])
@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("name", NAMES)
def test_strong_order(name, problem, t0, t1):
    sde, path, x, end = on_one_path(problem, t0, t1)
    declared = sk.solvers.get(name).strong_order
    for row in (0, 1):
        errors = []
        for n in COUNTS[name]:
            found = sk.solve(sde, x, t0=t0, t1=t1, solver=name, steps=n, noise=path).x
            errors.append(float((found - end)[:, row].square().mean().sqrt()))
        assert slope(COUNTS[name], errors) == pytest.approx(declared, abs=0.25), (row, errors)


def linear_step(solver: StepSolver, sde: UnderdampedLangevin, h: float) -> tuple[Tensor, Tensor]:
    """The step (x, v) -> A (x, v) + B z on a quadratic potential, z the six normals behind W, H and K of both rows."""
    levels = solver.areas + 1
    cases = torch.zeros(2 + 2 * levels, 2, dtype=torch.float64)
    cases[0, 0] = cases[1, 1] = 1.0
    noise = torch.zeros(3, 2 + 2 * levels, 2, dtype=torch.float64)
    for level, part in zip(range(levels), (1, 12, 720), strict=False):
        noise[level, 2 + 2 * level, 0] = noise[level, 3 + 2 * level, 1] = math.sqrt(abs(h) / part)
    increment = Increment(*noise[:levels])
    t = torch.zeros((), dtype=torch.float64)
    end = solver.step_formula(sk.ForwardSDE(sde), cases, t, t + h, h, increment)
    return end[:2].T, end[2:].T


def covariance_after(a: Tensor, b: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """A^n and the covariance after n steps from a point."""
    power, total, each = torch.eye(2, dtype=torch.float64), torch.zeros(2, 2, dtype=torch.float64), b @ b.T
    for _ in range(steps):
        total = a @ total @ a.T + each
        power = a @ power
    return power, total


@pytest.mark.parametrize("name", NAMES)
def test_weak_order_exactly_on_a_quadratic(name):
    solver, sde = sk.solvers.get(name), quadratic()
    exact, spread = quadratic_langevin_moments(K, 1.0, torch.tensor([0.8, -0.3]))
    counts = [8, 16, 32]
    errors = []
    for n in counts:
        power, covariance = covariance_after(*linear_step(solver, sde, 1 / n), n)
        mean = power @ torch.tensor([0.8, -0.3], dtype=torch.float64)
        errors.append(float((mean - exact).norm() + (covariance - spread).norm()))
    assert slope(counts, errors) == pytest.approx(solver.weak_order, abs=0.15)


@pytest.mark.parametrize("name", ["baoab", "ubu"])
def test_weak_order_in_a_double_well(name):
    # E V^2 on one path with a fine solve: so 20,000 samples tell errors of 1e-3.
    sde = UnderdampedLangevin(PROBLEMS["double well"])
    path = BrownianPath(5, (20_000, 2), 0.0, 1.0, cells=16, levy_area="space-time-time", dtype=torch.float64)
    x = torch.tensor([1.5, 0.0], dtype=torch.float64).expand(20_000, 2)
    fine = sk.solve(sde, x, t0=0.0, t1=1.0, solver="quicsort", steps=16, noise=path).x[:, 1]
    counts, errors = [2, 4, 8], []
    for n in counts:
        end = sk.solve(sde, x, t0=0.0, t1=1.0, solver=name, steps=n, noise=path).x[:, 1]
        errors.append(abs(float((end.square() - fine.square()).mean())))
    assert slope(counts, errors) == pytest.approx(2, abs=0.3), errors


# Laws ----------------------------------------------------------------------------------------------------------------


def stationary(name: str, h: float, gamma: float = 1.0, u: float = 1.0) -> Tensor:
    a, b = linear_step(sk.solvers.get(name), quadratic(gamma, u), h)
    whole = torch.eye(4, dtype=torch.float64) - torch.kron(a, a)
    return torch.linalg.solve(whole, (b @ b.T).reshape(-1)).reshape(2, 2)


@pytest.mark.parametrize("h", [0.1, 0.5, 1.0])
def test_baoab_has_the_positions_of_a_quadratic_exactly(h):
    found = stationary("baoab", h, gamma=0.7, u=1.3)
    assert float(found[0, 0]) == pytest.approx(1 / K, rel=1e-12)
    assert float(found[0, 1]) == pytest.approx(0, abs=1e-12)


def halves_from_quadrature(gamma: float, h: float) -> Tensor:
    """The covariance of (S_x, S_v) without a force and with rho = 1, over h, in closed form."""
    e, z = math.exp(-gamma * h), gamma * h
    xx = (z - 2 * (1 - e) + (1 - e * e) / 2) / gamma**3
    return torch.tensor([[xx, (1 - e) ** 2 / (2 * gamma**2)], [0, (1 - e * e) / (2 * gamma)]], dtype=torch.float64)


def ubu_stationary(h: float, gamma: float, u: float) -> Tensor:
    """That of UBU with two halves drawn from their exact laws."""
    e, move = math.exp(-gamma * h / 2), -math.expm1(-gamma * h / 2) / gamma
    flow = torch.tensor([[1, move], [0, e]], dtype=torch.float64)
    kick = torch.tensor([[1, 0], [-h * u * K, 1]], dtype=torch.float64)
    upper = halves_from_quadrature(gamma, h / 2) * (2 * gamma * u)
    each = upper + upper.T - torch.diag(upper.diag())
    a, first = flow @ kick @ flow, flow @ kick
    noise = first @ each @ first.T + each
    whole = torch.eye(4, dtype=torch.float64) - torch.kron(a, a)
    return torch.linalg.solve(whole, noise.reshape(-1)).reshape(2, 2)


@pytest.mark.parametrize(("gamma", "h"), [(1.0, 0.1), (1.0, 0.8), (0.05, 0.5), (6.0, 0.9), (40.0, 0.5), (200.0, 0.3)])
def test_ubu_has_the_law_of_two_exact_halves_for_any_step(gamma, h):
    found, exact = stationary("ubu", h, gamma), ubu_stationary(h, gamma, 1.0)
    torch.testing.assert_close(found, exact, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(("name", "order"), [("ubu", 2), ("quicsort", 3)])
def test_the_stationary_variance_nears_the_exact_one(name, order):
    counts = [4, 8, 16]
    errors = [abs(float(stationary(name, 1 / n)[0, 0]) - 1 / K) for n in counts]
    assert slope(counts, errors) > order - 0.2, errors
    assert errors[0] < 0.02


@pytest.mark.parametrize("name", NAMES)
def test_the_stationary_law_by_simulation(name):
    sde = quadratic(gamma=0.8, u=1.2)
    x = sk.solve(sde, torch.zeros(20_000, 2, 1), t0=0.0, t1=20.0, solver=name, steps=80, seed=2).x[..., 0].double()
    found = torch.stack([x[:, 0].var(), x[:, 1].var(), (x[:, 0] * x[:, 1]).mean()])
    expected = stationary(name, 0.25, gamma=0.8, u=1.2)
    # A variance of 20,000 samples has the relative error 0.01.
    torch.testing.assert_close(
        found, torch.stack([expected[0, 0], expected[1, 1], expected[0, 1]]), rtol=0.04, atol=0.04
    )


# Without a force -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("gamma", "h"), [(1.0, 0.5), (1e-9, 0.5), (3.0, 2.0), (30.0, 1.0)])
def test_ubu_is_exact_for_a_free_particle(gamma, h):
    a, b = linear_step(UBU(), free(gamma), h)
    flow = torch.tensor([[1, -math.expm1(-gamma * h) / gamma], [0, math.exp(-gamma * h)]], dtype=torch.float64)
    torch.testing.assert_close(a, flow, rtol=1e-13, atol=1e-14)
    if gamma > 1e-3:
        upper = halves_from_quadrature(gamma, h)
        exact = upper + upper.T - torch.diag(upper.diag())
    else:  # the limit: Brownian motion and its integral
        exact = torch.tensor([[h**3 / 3, h**2 / 2], [h**2 / 2, h]], dtype=torch.float64)
    torch.testing.assert_close(b @ b.T, 2 * gamma * exact, rtol=1e-8 if gamma < 1e-3 else 1e-11, atol=0)


@pytest.mark.parametrize("name", ["ubu", "quicsort"])
def test_a_free_particle_does_not_depend_on_the_steps(name):
    # Given one path, W, H and K are all that a free particle takes: what is left is of order h^{7/2}.
    sde, x = free(1.0), start(50, 3)
    path = BrownianPath(1, (50, 2, 3), 0.0, 1.0, cells=64, levy_area="space-time-time", dtype=torch.float64)
    coarse, fine = (sk.solve(sde, x, t0=0.0, t1=1.0, solver=name, steps=n, noise=path).x for n in (8, 64))
    assert float((coarse - fine).abs().max()) < {"ubu": 4e-5, "quicsort": 1e-3}[name]


def test_baoab_has_the_exact_velocities_of_a_free_particle():
    for gamma, h in ((0.5, 0.3), (50.0, 1.0), (1e-8, 0.3)):
        a, b = linear_step(BAOAB(), free(gamma, u=1.4), h)
        assert float(a[1, 1]) == pytest.approx(math.exp(-gamma * h), rel=1e-14)
        assert float((b @ b.T)[1, 1]) == pytest.approx(-1.4 * math.expm1(-2 * gamma * h), rel=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_a_vanishing_friction_loses_no_digits(name):
    # gamma -> 0 is Hamilton's equation: there and back.
    sde, x = quadratic(gamma=1e-13), start(4, 2)
    there = sk.solve(sde, x, t0=0.0, t1=1.0, solver=name, steps=200, seed=0).x
    energy = (K * x[:, 0] ** 2 + x[:, 1] ** 2).sum()
    assert float((K * there[:, 0] ** 2 + there[:, 1] ** 2).sum()) == pytest.approx(float(energy), rel=1e-4)
    a, _ = linear_step(sk.solvers.get(name), free(1e-13), 0.5)
    torch.testing.assert_close(a, torch.tensor([[1, 0.5], [0, 1]], dtype=torch.float64), rtol=1e-12, atol=1e-15)


# How they are used ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "calls"), [("baoab", 11), ("ubu", 10), ("quicsort", 20)])
def test_gradients_are_counted_and_reused(name, calls):
    seen = []

    def gradient(q: Tensor) -> Tensor:
        seen.append(q)
        return K * q

    out = sk.solve(UnderdampedLangevin(gradient), start(2), t0=0.0, t1=1.0, solver=name, steps=10, seed=0)
    assert out.nfe == len(seen) == calls


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(), (3,), (2, 5)])
@pytest.mark.parametrize("name", NAMES)
def test_the_same_bits_alone_in_a_batch_and_in_chunks(name, shape, dtype):
    sde, x = UnderdampedLangevin(PROBLEMS["double well"]), start(5, *shape).to(dtype)
    how = {"t0": 0.0, "t1": 1.0, "solver": name, "steps": 7}
    whole = sk.solve(sde, x, seed=4, **how).x
    assert whole.dtype == dtype
    assert torch.equal(sk.solve(sde, x, seed=4, chunk=2, **how).x, whole)
    for i in range(5):
        assert torch.equal(sk.solve(sde, x[i : i + 1], seed=4, first=i, **how).x[0], whole[i])


@pytest.mark.parametrize("name", NAMES)
def test_split_and_resumed_as_one(name):
    sde, x = UnderdampedLangevin(PROBLEMS["double well"]), start(3, 2)
    how = {"t0": 0.0, "t1": 1.0, "solver": name, "steps": 8, "seed": 1}
    whole = sk.solve(sde, x, **how)
    half = sk.solve(sde, x, stop=3, **how)
    again = sk.solve(sde, x, resume=half.state, **how)
    assert torch.equal(again.x, whole.x)
    assert again.nfe == whole.nfe
    kept = sk.solve(sde, x, trajectory=True, **how)
    assert torch.equal(kept.x, whole.x)
    assert kept.nfe == whole.nfe


def test_a_callback_that_moves_the_state_gets_the_force_where_it_moved_it():
    sde, x = UnderdampedLangevin(PROBLEMS["double well"]), start(3)

    def push(info: StepInfo) -> None:
        if info.step == 4:
            info.x[:, 0] += 1.0

    how = {"solver": "baoab", "seed": 1}
    pushed = sk.solve(sde, x, t0=0.0, t1=1.0, steps=8, callback=push, **how).x
    half = sk.solve(sde, x, t0=0.0, t1=1.0, steps=8, stop=4, **how).x
    half[:, 0] += 1.0
    # The same noise in the second half, by a fresh solve of the same grid from the moved state.
    times = torch.linspace(0, 1, 9, dtype=torch.float64)
    problem = sk.solvers.Problem(sk.ForwardSDE(sde), half, times, sk.noise.KeyedNoise(1))
    stepper = BAOAB().stepper(problem)
    stepper._stream.seek(4)
    stepper.advance(4, 8)
    assert torch.equal(stepper.x, pushed)


@pytest.mark.parametrize("name", NAMES)
def test_a_potential_will_do(name):
    how = {"t0": 0.0, "t1": 1.0, "solver": name, "steps": 5, "seed": 3}
    by_gradient = sk.solve(quadratic(), start(4, 2), **how).x
    potential = UnderdampedLangevin(potential=lambda q: 0.5 * K * q.square().sum(1))
    torch.testing.assert_close(sk.solve(potential, start(4, 2), **how).x, by_gradient)


@pytest.mark.parametrize("name", NAMES)
def test_other_equations_are_refused(name):
    with pytest.raises(UnsupportedError, match="UnderdampedLangevin"):
        sk.solve(sk.sdes.OrnsteinUhlenbeck(), torch.zeros(3, 2), t0=0.0, t1=1.0, solver=name, steps=4)
    with pytest.raises(UnsupportedError, match="UnderdampedLangevin"):
        sk.solve(OverdampedLangevin(lambda q: q), torch.zeros(3, 2), t0=0.0, t1=1.0, solver=name, steps=4)
    with pytest.raises(UnsupportedError, match="integrates an SDE"):
        sk.solve(sk.ODE(lambda x, t: -x), torch.zeros(3, 2), t0=0.0, t1=1.0, solver=name, steps=4)
    with pytest.raises(sk.errors.ShapeError, match="position and velocity"):
        sk.solve(quadratic(), torch.zeros(3, 4), t0=0.0, t1=1.0, solver=name, steps=4)


@pytest.mark.parametrize("solver", [BAOAB(), UBU(), QUICSORT()], ids=lambda s: s.name)
def test_a_step_by_hand_says_what_it_lacks(solver):
    dynamics, x = sk.ForwardSDE(quadratic()), start(3)
    t = torch.zeros((), dtype=torch.float64)
    with pytest.raises(ArgumentError, match="needs W"):
        solver.step_formula(dynamics, x, t, t + 0.1, 0.1, None)
    if solver.areas:
        with pytest.raises(ArgumentError, match="W, H and K"):
            solver.step_formula(dynamics, x, t, t + 0.1, 0.1, Increment(x, x))
    with pytest.raises(UnsupportedError, match="one length"):
        solver.step_formula(dynamics, x, t, t + 0.1, torch.full((3, 1), 0.1), Increment(x, x, x))
