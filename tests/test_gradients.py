"""Gradients through solves: closed forms, finite differences on the same noise, memory, and what is refused."""

from __future__ import annotations

import functools
import math
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from _helpers import gaussian_model, slope
from torch import Tensor, nn

import sdekit as sk
from sdekit.dynamics import as_dynamics
from sdekit.errors import ArgumentError, NonFiniteError, UnknownNameError, UnsupportedError
from sdekit.noise import BrownianPath, noise_source
from sdekit.sdes import VPSDE, GeometricBrownianMotion, OrnsteinUhlenbeck, UnderdampedLangevin
from sdekit.solvers import Solver, StepSolver
from sdekit.solvers.base import Observers, Problem
from sdekit.solvers.gradients import MODES, Differentiable
from sdekit.solvers.sde.reversible_heun import ReversibleHeun

F64 = {"dtype": torch.float64}


def served(solver: Solver) -> bool:
    return isinstance(solver, (StepSolver, ReversibleHeun)) and not solver.adaptive


NAMES = [name for name in sk.solvers.names() if served(sk.solvers.get(name))]
OTHERS = [name for name in sk.solvers.names() if not served(sk.solvers.get(name))]


def number(value: float) -> Tensor:
    return torch.tensor(value, **F64, requires_grad=True)


def modes(name: str) -> tuple[str, ...]:
    return MODES if name == "reversible_heun" else MODES[:2]


# Every step solver ---------------------------------------------------------------------------------------------------


def dynamics(name: str, a: Tensor, b: Tensor) -> Any:
    """A nonlinear problem that the solver serves, with two parameters."""
    solver = sk.solvers.get(name)
    if "underdamped" in solver.needs:
        return UnderdampedLangevin(potential=lambda q: (0.25 * a * q**4 + 0.5 * b * q**2).sum(1), gamma=0.8)
    drift = lambda x, t: -a * torch.sin(x) + 0.3 * torch.cos(3 * t).to(x)  # noqa: E731
    if not solver.stochastic:
        return sk.ODE(lambda x, t: drift(x, t) + b * x / (1 + x * x))
    if "diagonal" in solver.noise_kinds:
        return sk.SDE(drift, lambda x, t: b * torch.sqrt(1 + 0.5 * x * x), "diagonal", solver.calculus[0])
    return sk.SDE(drift, lambda x, t: b * (1 + t).to(x), "additive", solver.calculus[0])


def start(name: str) -> Tensor:
    shape = (3, 2, 2) if "underdamped" in sk.solvers.get(name).needs else (3, 2)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), **F64)


def end(name: str, x: Tensor, a: Tensor, b: Tensor, **how: Any) -> Tensor:
    out = sk.solve(
        dynamics(name, a, b), x, t0=0.0, t1=1.0, solver=name, steps=7, seed=2, save_at=[0.0, 0.5, 1.0], **how
    )
    # The end, and the state on the way.
    return (out.x.square() + out.x).sum() + torch.sin(out.trajectory[1]).sum() + out.trajectory[0].sum()


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_those_of_finite_differences_on_the_same_noise(name):
    x, a, b = start(name).requires_grad_(), number(0.9), number(0.6)
    value = end(name, x, a, b, gradient="backprop")
    torch.testing.assert_close(value, end(name, x, a, b), rtol=1e-13, atol=0)
    got = torch.autograd.grad(value, [x, a, b])
    step, along = 1e-5, torch.cos(torch.arange(x.numel(), **F64)).reshape(x.shape)

    def difference(value: Callable[[float], Tensor]) -> float:
        return float(value(step) - value(-step)) / (2 * step)

    with torch.no_grad():
        by_hand = [
            difference(lambda e: end(name, x + e * along, a, b)),
            difference(lambda e: end(name, x, a + e, b)),
            difference(lambda e: end(name, x, a, b + e)),
        ]
    found = [float((got[0] * along).sum()), float(got[1]), float(got[2])]
    assert found == pytest.approx(by_hand, rel=1e-6, abs=1e-6)
    for mode in modes(name)[1:]:
        again = torch.autograd.grad(end(name, x, a, b, gradient=mode), [x, a, b])
        for one, other in zip(again, got, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_the_numbers_are_those_of_a_solve_without(name):
    x, a, b = start(name).requires_grad_(), number(0.9), number(0.6)
    how = {"t0": 0.0, "t1": 1.0, "solver": name, "steps": 7, "seed": 2}
    plain = sk.solve(dynamics(name, a, b), x, **how)
    assert not plain.x.requires_grad
    for mode in modes(name):
        out = sk.solve(dynamics(name, a, b), x, gradient=mode, **how)
        implicit = hasattr(sk.solvers.get(name), "tolerance")  # in its graph one evaluation more
        assert out.nfe >= plain.nfe if implicit else out.nfe == plain.nfe
        assert out.status == "success"
        assert torch.equal(out.x, plain.x)


@pytest.mark.parametrize("name", OTHERS)
def test_other_solvers_are_refused(name):
    with pytest.raises(UnsupportedError, match="gradient"):
        Differentiable(sk.solvers.get(name), "backprop")


@pytest.mark.parametrize("kind", ["scalar", "additive", "commutative"])
@pytest.mark.parametrize("calculus", ["ito", "stratonovich"])
def test_milstein_differentiates_what_it_differentiates(kind, calculus):
    x, b = torch.randn(4, 2, generator=torch.Generator().manual_seed(1), **F64).requires_grad_(), number(0.4)

    def value(x: Tensor, b: Tensor, **how: Any) -> Tensor:
        def diffusion(x: Tensor, t: Tensor) -> Tensor:
            if kind == "commutative":
                return torch.stack([b * x, 0.3 * torch.ones_like(x) * x], dim=-1)
            return b * (1 + t).to(x) if kind == "additive" else b * torch.sin(x)

        m = 2 if kind == "commutative" else None
        sde = sk.SDE(lambda x, t: -x, diffusion, kind, calculus, m)
        return sk.solve(sde, x, t0=0.0, t1=1.0, solver="milstein", steps=6, seed=0, **how).x.square().sum()

    got = torch.autograd.grad(value(x, b, gradient="checkpoint"), [x, b])
    e, along = 1e-5, torch.ones_like(x)
    by_x = (value(x + e * along, b) - value(x - e * along, b)) / (2 * e)
    by_b = (value(x, b + e) - value(x, b - e)) / (2 * e)
    assert [float(got[0].sum()), float(got[1])] == pytest.approx([float(by_x), float(by_b)], rel=1e-7)


@pytest.mark.parametrize("mode", MODES)
def test_an_sde_of_the_other_calculus_is_converted_differentiably(mode):
    name = "reversible_heun" if mode == "reversible" else "stochastic_heun"
    x, sigma = torch.full((4, 1), 1.1, **F64, requires_grad=True), number(0.5)
    how = {"t0": 0.0, "t1": 1.0, "solver": name, "steps": 9, "seed": 0}
    ito = sk.SDE(lambda x, t: 0.1 * x, lambda x, t: sigma * x)
    out = sk.solve(ito, x, gradient=mode, **how)
    assert out.stats["converted"] == "ito to stratonovich"
    twin = sk.SDE(lambda x, t: (0.1 - 0.5 * sigma**2) * x, lambda x, t: sigma * x, calculus="stratonovich")
    expected = torch.autograd.grad(sk.solve(twin, x, gradient="backprop", **how).x.sum(), [x, sigma])
    for one, other in zip(torch.autograd.grad(out.x.sum(), [x, sigma]), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=0)


# Closed forms --------------------------------------------------------------------------------------------------------


def normal_cdf(z: float) -> float:
    return 0.5 * math.erfc(-z / math.sqrt(2))


def test_delta_and_vega_are_those_of_black_and_scholes():
    # Undiscounted call with interest 0.05: delta = e^{rT} N(d1), vega = S e^{rT} n(d1) sqrt(T).
    spot, strike, rate, vol, count = 100.0, 105.0, 0.05, 0.2, 40_000
    s, sigma = number(spot), number(vol)
    x0 = s.expand(count, 1)
    sde = GeometricBrownianMotion(rate, sigma)
    out = sk.solve(sde, x0, t0=0.0, t1=1.0, solver="milstein", steps=32, seed=0, gradient="checkpoint")
    payoff = torch.relu(out.x - strike)
    delta, vega = torch.autograd.grad(payoff.mean(), [s, sigma])
    d1 = (math.log(spot / strike) + rate + 0.5 * vol**2) / vol
    density = math.exp(-0.5 * d1**2) / math.sqrt(2 * math.pi)
    # Per path: 1{X > K} X/S, and 1{X > K} X (W - sigma T), whose spread gives the Monte Carlo error.
    alive = (out.x > strike).double().detach()
    each = alive * out.x.detach() / spot
    root = math.sqrt(count)
    assert abs(float(delta) - math.exp(rate) * normal_cdf(d1)) < 4 * float(each.std()) / root
    w = (torch.log(out.x.detach() / spot) - rate + 0.5 * vol**2) / vol
    spread = float((alive * out.x.detach() * (w - vol)).std()) / root
    assert abs(float(vega) - spot * math.exp(rate) * density) < 4 * spread
    assert spread < 0.5  # of 39.7


def test_the_derivative_of_each_path_nears_that_of_the_exact_solution():
    # X = x0 exp((mu - sigma^2/2) T + sigma W): dX/dx0 = X/x0, dX/dmu = T X, dX/dsigma = (W - sigma T) X.
    counts, errors = [16, 64, 256], []
    path = BrownianPath(0, (50, 1), 0.0, 1.0, cells=256, dtype=torch.float64)
    w = path(0.0, 1.0).W
    for n in counts:
        x0, mu, sigma = (torch.full((50, 1), v, **F64, requires_grad=True) for v in (1.3, 0.1, 0.4))
        sde = GeometricBrownianMotion(mu, sigma)
        x = sk.solve(sde, x0, t0=0.0, t1=1.0, solver="milstein", steps=n, noise=path, gradient="backprop").x
        by_x0, by_mu, by_sigma = torch.autograd.grad(x.sum(), [x0, mu, sigma])
        torch.testing.assert_close(by_x0, (x / x0).detach(), rtol=1e-13, atol=0)  # of the scheme too: it is linear
        exact = sde.path(x0, 1.0, w).detach()
        by_sigma, by_mu = by_sigma.detach(), by_mu.detach()
        errors.append(float((by_sigma - (w - 0.4) * exact).abs().mean() + (by_mu - exact).abs().mean()))
    assert slope(counts, errors) == pytest.approx(1, abs=0.1)
    assert errors[-1] < 0.01


@pytest.mark.parametrize("mode", ["backprop", "checkpoint"])
def test_an_ou_process_has_the_derivatives_of_its_recursion(mode):
    # x <- (1 - theta h) x + theta mu h + sigma W
    theta, mu, sigma, n = number(1.5), number(0.7), number(0.4), 20
    x0 = torch.randn(6, 1, generator=torch.Generator().manual_seed(3), **F64).requires_grad_()
    sde = OrnsteinUhlenbeck(theta, mu, sigma)
    out = sk.solve(sde, x0, t0=0.0, t1=2.0, steps=n, seed=1, gradient=mode, trajectory=True)
    got = torch.autograd.grad(out.x.sum(), [x0, theta, mu, sigma])
    with torch.no_grad():
        h, path = 2.0 / n, out.trajectory
        decay = 1 - theta * h
        by_theta = sum(decay ** (n - 1 - k) * h * (mu - path[k]).sum() for k in range(n))
        still = sk.solve(OrnsteinUhlenbeck(1.5, 0.7, 0.0), x0, t0=0.0, t1=2.0, steps=n).x
        expected = [decay.pow(n).expand(6, 1), by_theta, 6 * (1 - decay**n), ((out.x - still) / sigma).sum()]
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


# Neural SDEs and where parameters live -------------------------------------------------------------------------------


class Field(nn.Module):
    def __init__(self, width: int, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.net = nn.Sequential(nn.Linear(width + 1, 8), nn.Tanh(), nn.Linear(8, width)).double()

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.net(torch.cat([x, t.to(x).expand(*x.shape[:-1], 1)], dim=-1))


class Spread(Field):
    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        # Diagonal: an entry of g sees its own entry of x alone.
        return 0.3 + 0.2 * torch.sigmoid(self.net[2].bias[:1] * x + self.net[0].bias[0])


def neural() -> tuple[sk.SDE, list[nn.Parameter]]:
    drift, spread = Field(3, 0), Spread(3, 1)
    used = [*drift.parameters(), spread.net[0].bias, spread.net[2].bias]
    return sk.SDE(drift, spread, calculus="stratonovich"), used


@pytest.mark.parametrize(
    ("mode", "name"), [*((mode, "reversible_heun") for mode in MODES), ("checkpoint", "stochastic_heun")]
)
@pytest.mark.parametrize("chunk", [None, 2])
def test_a_neural_sde(mode, name, chunk):
    sde, parameters = neural()
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), **F64)

    def loss(**how: Any) -> Tensor:
        return sk.solve(sde, x, t0=0.0, t1=1.0, solver=name, steps=50, seed=0, **how).x.square().sum()

    got = torch.autograd.grad(loss(gradient=mode, chunk=chunk), parameters)
    expected = torch.autograd.grad(loss(gradient="backprop"), parameters)
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
    along = [torch.cos(torch.arange(p.numel(), **F64)).reshape(p.shape) for p in parameters]
    values, e = [], 1e-5
    for sign in (1, -2):
        with torch.no_grad():
            for p, v in zip(parameters, along, strict=True):
                p.add_(v, alpha=sign * e)
        values.append(float(loss()))
    by_hand = (values[0] - values[1]) / (2 * e)
    assert float(sum((g * v).sum() for g, v in zip(got, along, strict=True))) == pytest.approx(by_hand, rel=1e-6)


def test_parameters_fill_the_grad_of_an_optimizer():
    sde, parameters = neural()
    for mode in MODES:
        for p in parameters:
            p.grad = None
        x = torch.zeros(4, 3, **F64)
        sk.solve(sde, x, t0=0.0, t1=1.0, solver="reversible_heun", steps=5, seed=0, gradient=mode).x.sum().backward()
        assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in parameters)


LOG_SIGMA = number(-0.7)


def heun(sde: Any, wanted: list[Tensor], mode: str, x: Tensor | None = None, **how: Any) -> tuple[Tensor, ...]:
    start = torch.full((4, 2), 0.8, **F64) if x is None else x
    out = sk.solve(sde, start, t0=0.0, t1=1.0, solver="reversible_heun", steps=40, seed=0, gradient=mode, **how)
    # Kept: what the parameters were made from is there for the next solve.
    return torch.autograd.grad(out.x.square().sum(), wanted, retain_graph=True)


def same(sde: Any, wanted: list[Tensor], **how: Any) -> None:
    expected = heun(sde, wanted, "backprop", **how)
    assert all(bool(g.abs().sum() > 0) for g in expected)
    for mode in MODES[1:]:
        for one, other in zip(heun(sde, wanted, mode, **how), expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def stratonovich(drift: Any, diffusion: Any, **how: Any) -> sk.SDE:
    return sk.SDE(drift, diffusion, calculus="stratonovich", **how)


def test_parameters_wherever_they_live():
    a, log_b = number(0.5), number(-1.0)
    # In a closure: a leaf, and one made from a leaf, whose graph is gone through once.
    passes: list[Tensor] = []

    class Exponential(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x.exp())
            return x.exp()

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            passes.append(grad)
            return grad * ctx.saved_tensors[0]

    b = Exponential.apply(log_b)
    sde = stratonovich(lambda x, t: -a * x, lambda x, t: b * torch.cos(x))
    assert len(heun(sde, [a, log_b], "reversible")) == 2
    assert len(passes) == 1
    same(stratonovich(lambda x, t: -a * x, lambda x, t: log_b.exp() * torch.cos(x)), [a, log_b])
    # Made of a leaf that is used besides: nothing is counted twice.
    c = a.exp()
    same(stratonovich(lambda x, t: -a * c * x, lambda x, t: c * a * torch.cos(x)), [a])
    d = c * 2
    same(stratonovich(lambda x, t: -d * x, lambda x, t: c * torch.cos(x)), [a])
    # A name of the file, a partial, a method, an instance.
    same(stratonovich(lambda x, t: -a * x, lambda x, t: LOG_SIGMA.exp() * torch.cos(x)), [a, LOG_SIGMA])
    same(stratonovich(functools.partial(lambda x, t, k: -k * x, k=a), lambda x, t: 0.3 * torch.cos(x)), [a])

    class Mine:
        def __init__(self) -> None:
            self.k = a * 2

        def drift(self, x: Tensor, t: Tensor) -> Tensor:
            return -self.k * x

    same(stratonovich(Mine().drift, lambda x, t: 0.3 * torch.cos(x)), [a])
    # A row for each sample, and fields.
    rows = torch.linspace(0.1, 0.7, 4, **F64)[:, None].requires_grad_()
    sde = stratonovich(lambda x, t, k: -k * x, lambda x, t, k: 0.3 * torch.cos(x), parameters={"k": rows})
    same(sde, [rows])
    same(sde, [rows], chunk=3)
    same(OrnsteinUhlenbeck(a, 0.3, b), [a, log_b])
    same(GeometricBrownianMotion(a * 0.1, b), [a, log_b])


def test_a_start_that_the_dynamics_depend_on_too():
    p = number(0.5)
    x = p * torch.ones(4, 2, **F64)
    same(stratonovich(lambda y, t: -p * y, lambda y, t: 0.3 * x * torch.cos(y)), [p], x=x)
    x0 = torch.full((4, 2), 0.7, **F64, requires_grad=True)
    same(stratonovich(lambda y, t: -x0 * y, lambda y, t: 0.3 * torch.cos(y)), [x0], x=x0)


class Box:
    """What a search does not look into."""

    __slots__ = ("value",)

    def __init__(self, value: Tensor) -> None:
        self.value = value


def test_a_parameter_that_shows_late_is_told_and_can_be_given():
    box, a = Box(number(0.4)), number(0.5)
    late = stratonovich(lambda x, t: -(box.value if t > 0.5 else a) * x, lambda x, t: 0.3 * torch.cos(x))
    expected = heun(late, [a, box.value], "backprop")
    for mode in MODES[1:]:
        with pytest.raises(UnsupportedError, match="gradient_parameters"):
            heun(late, [a, box.value], mode)
        given = heun(late, [a, box.value], mode, gradient_parameters=[box.value])
        for one, other in zip(given, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=0)
    # What a search sees is found however late it shows: a module's, say.
    network = nn.Linear(2, 2).double()
    late = stratonovich(lambda x, t: network(x) if t > 0.5 else -a * x, lambda x, t: 0.3 * torch.cos(x))
    same(late, [a, network.weight, network.bias])
    # One that the start shows is found by its graph.
    same(stratonovich(lambda x, t: -box.value * x, lambda x, t: 0.3 * torch.cos(x)), [box.value])


def test_a_potential_of_parameters_from_a_start_without_gradient():
    # The first force is at a position that requires none.
    k = number(1.3)
    sde = UnderdampedLangevin(potential=lambda q: 0.5 * k * q.square().sum(1))
    twin = UnderdampedLangevin(lambda q: k * q)
    x = torch.ones(3, 2, 2, **F64)
    for name in ("baoab", "ubu", "quicsort", "euler_maruyama"):
        got = [
            torch.autograd.grad(
                sk.solve(s, x, t0=0.0, t1=0.5, solver=name, steps=3, seed=0, gradient="backprop").x.sum(), [k]
            )[0]
            for s in (sde, twin)
        ]
        torch.testing.assert_close(got[0], got[1], rtol=1e-12, atol=0)
    still = UnderdampedLangevin(potential=lambda q: 0.5 * q.square().sum(1))
    assert not still.drift(x, torch.zeros(())).requires_grad


# Score models --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["euler_maruyama", "stochastic_heun", "reversible_heun"])
@pytest.mark.parametrize("t_end", [1e-3, 0.0])
def test_through_the_reverse_sde_of_a_model(name, t_end):
    model = gaussian_model(VPSDE(), 0.3, 0.5)
    x = torch.randn(3, 2, generator=torch.Generator().manual_seed(0), **F64).requires_grad_()
    how = {"t0": 1.0, "t1": t_end, "solver": name, "steps": 12, "seed": 1}
    for mode in modes(name):
        out = sk.solve(sk.ReverseSDE(model), x, gradient=mode, save_at=[0.5, t_end], **how)
        plain = sk.solve(sk.ReverseSDE(model), x, save_at=[0.5, t_end], **how)
        torch.testing.assert_close(out.x, plain.x, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(out.trajectory, plain.trajectory, rtol=1e-10, atol=1e-10)
        (got,) = torch.autograd.grad(out.trajectory[1].sum(), x)
        moved = sk.solve(sk.ReverseSDE(model), x + 1e-4, save_at=[0.5], **how).x  # the model is linear
        torch.testing.assert_close(got, (moved - plain.x) / 1e-4, rtol=1e-6, atol=1e-8)


def test_through_a_probability_flow():
    model = gaussian_model(VPSDE(), 0.3, 0.5)
    x = torch.randn(3, 2, **F64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    how = {"t0": 1.0, "t1": 1e-3, "solver": "heun", "steps": 12, "variable": "t"}
    out = sk.solve(sk.ProbabilityFlow(model), x, gradient="checkpoint", **how)
    plain = sk.solve(sk.ProbabilityFlow(model), x, **how)
    torch.testing.assert_close(out.x, plain.x, rtol=1e-10, atol=1e-10)
    (got,) = torch.autograd.grad(out.x.sum(), x)
    moved = sk.solve(sk.ProbabilityFlow(model), x + 1e-4, **how).x
    torch.testing.assert_close(got, (moved - plain.x) / 1e-4, rtol=1e-6, atol=1e-8)
    with pytest.raises(UnsupportedError, match="variable='t'"):
        sk.solve(sk.ProbabilityFlow(model), x, gradient="backprop", **{**how, "variable": "sigma"})


# Memory --------------------------------------------------------------------------------------------------------------


class Counted(torch.autograd.Function):
    """The identity, whose node of the graph is counted as long as it lives."""

    alive = 0
    most = 0

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        class Marker:
            pass

        ctx.marker = Marker()
        Counted.alive += 1
        Counted.most = max(Counted.most, Counted.alive)
        weakref.finalize(ctx.marker, Counted.died)
        return x.clone()

    @staticmethod
    def died() -> None:
        Counted.alive -= 1

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


def most_alive(mode: str, steps: int) -> int:
    """The most steps whose graphs live at once in a solve and its gradient."""
    Counted.alive = Counted.most = 0
    sde = stratonovich(lambda x, t: -Counted.apply(x), lambda x, t: 0.3 * torch.cos(x))
    x = torch.ones(2, 1, **F64, requires_grad=True)
    how = {"t0": 0.0, "t1": 1.0, "solver": "reversible_heun", "steps": steps, "seed": 0, "gradient": mode}
    sk.solve(sde, x, **how).x.sum().backward()
    assert Counted.alive == 0
    return Counted.most


def test_the_memory_of_the_graph():
    grown = {mode: [most_alive(mode, n) for n in (64, 256)] for mode in MODES}
    assert grown["backprop"] == [65, 257]
    assert grown["checkpoint"] == [9, 17]
    assert max(grown["reversible"]) <= 4


def test_checkpoints_keep_sqrt_n_states_and_no_noise():
    def bytes_saved(mode: str, steps: int) -> int:
        """What the graph holds after the solve."""
        sizes: dict[int, int] = {}

        def pack(x: Tensor) -> Tensor:
            sizes[x.data_ptr()] = x.numel() * x.element_size()
            return x

        x = torch.ones(100, 10, **F64, requires_grad=True)
        sde = GeometricBrownianMotion(0.1, 0.3)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            out = sk.solve(sde, x, t0=0.0, t1=1.0, solver="milstein", steps=steps, seed=0, gradient=mode)
        assert out.x.requires_grad
        return sum(sizes.values())

    assert bytes_saved("backprop", 400) >= 400 * 8000
    assert bytes_saved("checkpoint", 400) <= 21 * 8000


# Noise ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["global", "generator", "generators", "seeds", "path"])
@pytest.mark.parametrize("mode", ["checkpoint", "reversible"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_noise_is_made_again_from_any_source_that_can(kind, mode, dtype):
    a = torch.tensor(0.5, dtype=dtype, requires_grad=True)
    sde = stratonovich(lambda x, t: -a * x, lambda x, t: 0.3 * torch.cos(x))
    x = torch.ones(4, 16, dtype=dtype)

    def run(mode: str) -> tuple[Tensor, Tensor]:
        torch.manual_seed(5)
        generators = [torch.Generator().manual_seed(i) for i in range(4)]
        source: dict[str, Any] = {
            "global": {},
            "generator": {"generator": generators[0]},
            "generators": {"generator": generators},
            "seeds": {"seeds": [4, 3, 2, 1]},
            "path": {"noise": BrownianPath(1, (4, 16), 0.0, 1.0, dtype=dtype)},
        }[kind]
        out = sk.solve(sde, x, t0=0.0, t1=1.0, solver="reversible_heun", steps=70, gradient=mode, **source)
        between = [torch.randn(3), torch.randn(3, generator=generators[0])]  # the gradient disturbs no generator
        (grad,) = torch.autograd.grad(out.x.sum(), a)
        after = [torch.randn(3), torch.randn(3, generator=generators[0])]
        return grad, torch.cat([*between, *after])

    (got, drawn), (expected, drawn_too) = run(mode), run("backprop")
    tight = dtype == torch.float64
    torch.testing.assert_close(got, expected, rtol=1e-11 if tight else 1e-4, atol=1e-12 if tight else 1e-5)
    assert torch.equal(drawn, drawn_too)


def test_dropout_in_a_drift_is_the_same_when_made_again():
    a = number(0.5)
    sde = sk.SDE(lambda x, t: -a * torch.dropout(x, 0.5, train=True), lambda x, t: 0.3 * torch.cos(x))

    def run(mode: str) -> Tensor:
        torch.manual_seed(2)
        out = sk.solve(sde, torch.ones(4, 3, **F64), t0=0.0, t1=1.0, steps=9, seed=0, gradient=mode)
        return torch.autograd.grad(out.x.sum(), a)[0]

    torch.testing.assert_close(run("checkpoint"), run("backprop"), rtol=1e-12, atol=0)


def test_a_noise_function_serves_backprop_alone():
    x = torch.ones(2, 1, **F64, requires_grad=True)
    how = {"t0": 0.0, "t1": 1.0, "steps": 4, "noise": lambda t, s, shape: torch.ones(shape)}
    assert sk.solve(OrnsteinUhlenbeck(), x, gradient="backprop", **how).x.requires_grad
    with pytest.raises(UnsupportedError, match=r"second time.*seed="):
        sk.solve(OrnsteinUhlenbeck(), x, gradient="checkpoint", **how)


# Use and errors ------------------------------------------------------------------------------------------------------


def test_a_trajectory_is_differentiable():
    x = torch.ones(2, 1, **F64, requires_grad=True)
    for mode in MODES[:2]:
        out = sk.solve(OrnsteinUhlenbeck(), x, t0=0.0, t1=1.0, steps=10, seed=0, gradient=mode, trajectory=True)
        assert out.trajectory.shape == (11, 2, 1)
        for k in (0, 4, 10):
            (grad,) = torch.autograd.grad(out.trajectory[k].sum(), x, retain_graph=True)
            torch.testing.assert_close(grad, torch.full_like(x, 0.9**k), rtol=1e-13, atol=0)


def test_without_being_asked_there_is_no_graph():
    x = torch.ones(2, 1, requires_grad=True)
    for sde in (OrnsteinUhlenbeck(), OrnsteinUhlenbeck(number(1.0)), GeometricBrownianMotion(), neural()[0]):
        shape = torch.ones(2, 3, **F64, requires_grad=True) if isinstance(sde, sk.SDE) else x
        name = "stochastic_heun" if isinstance(sde, sk.SDE) else "euler_maruyama"
        out = sk.solve(sde, shape, t0=0.0, t1=1.0, solver=name, steps=3, save_at=[0.0, 0.5])
        assert not out.x.requires_grad
        assert not out.trajectory.requires_grad


def test_inside_no_grad_it_is_recorded_all_the_same():
    x = torch.ones(2, 1, requires_grad=True)
    with torch.no_grad():
        out = sk.solve(OrnsteinUhlenbeck(), x, t0=0.0, t1=1.0, steps=3, gradient="backprop")
    assert out.x.requires_grad
    with torch.inference_mode(), pytest.raises(ArgumentError, match="inference mode"):
        sk.solve(OrnsteinUhlenbeck(), x, t0=0.0, t1=1.0, steps=3, gradient="backprop")


def test_a_bar_is_shown(capsys):
    x = torch.ones(2, 1, requires_grad=True)
    for mode in MODES:
        how = {"solver": "reversible_heun", "steps": 5, "seed": 0, "gradient": mode, "progress": True}
        sk.solve(OrnsteinUhlenbeck(), x, t0=0.0, t1=1.0, **how)
        assert "reversible_heun:" in capsys.readouterr().err


@pytest.mark.parametrize("mode", MODES)
def test_nothing_that_requires_gradients_is_an_error(mode):
    with pytest.raises(ArgumentError, match="requires_grad_"):
        sk.solve(
            OrnsteinUhlenbeck(), torch.ones(2, 1), t0=0.0, t1=1.0, solver="reversible_heun", steps=3, gradient=mode
        )


@pytest.mark.parametrize("mode", MODES)
def test_a_state_that_is_not_finite_names_its_step(mode):
    x = torch.ones(3, 1, requires_grad=True)
    sde = stratonovich(lambda x, t: x / 0 if t > 0.45 else -x, lambda x, t: 0 * x)
    with pytest.raises(NonFiniteError) as error:
        sk.solve(sde, x, t0=0.0, t1=1.0, solver="reversible_heun", steps=10, seed=0, gradient=mode)
    assert error.value.step == 5


def test_what_is_refused():
    x = torch.ones(2, 1, requires_grad=True)
    ou = OrnsteinUhlenbeck()

    def solve(sde: Any = ou, **how: Any) -> None:
        sk.solve(sde, x, **{"t0": 0.0, "t1": 1.0, "gradient": "backprop", **how})

    with pytest.raises(UnknownNameError, match="backprop"):
        solve(steps=3, gradient="back")
    with pytest.raises(UnsupportedError, match="chooses its own steps"):
        solve(solver="sosra", rtol=1e-3)
    with pytest.raises(UnsupportedError, match="'reversible_heun'"):
        solve(steps=3, gradient="reversible")
    with pytest.raises(UnsupportedError, match="no sequence of steps"):
        solve(sk.ReverseSDE(gaussian_model(VPSDE())), solver="ancestral", steps=3, t0=1.0, t1=0.1)
    for name, value in (("callback", lambda info: None), ("stop", 2), ("compiled", True)):
        with pytest.raises(UnsupportedError, match=f"{name} cannot be combined"):
            solve(steps=3, **{name: value})
    with pytest.raises(UnsupportedError, match="resume cannot be combined"):
        solve(steps=3, resume=sk.solve(ou, x, t0=0.0, t1=1.0, steps=3, stop=1).state)
    with pytest.raises(ArgumentError, match="gradient is None"):
        solve(steps=3, gradient=None, gradient_parameters=[x])
    for wrong in (x, [torch.ones(2)], ["sigma"]):
        with pytest.raises(ArgumentError, match="gradient_parameters"):
            solve(steps=3, gradient_parameters=wrong)


@pytest.mark.parametrize("mode", MODES[1:])
def test_a_second_derivative_is_refused_however_it_is_asked_for(mode):
    # Torch's own mark for this leaves it out in silence where the first derivative is met in a sum.
    x, a = torch.ones(3, 1, **F64, requires_grad=True), number(0.4)
    sde = stratonovich(lambda x, t: -a * torch.sin(x), lambda x, t: 0.3 * torch.cos(x))
    how = {"t0": 0.0, "t1": 1.0, "solver": "reversible_heun", "steps": 9, "seed": 0}

    def first(mode: str) -> tuple[Tensor, ...]:
        end = sk.solve(sde, x, gradient=mode, **how).x
        return torch.autograd.grad(end.sum(), [x, a], create_graph=True)

    for one, other in zip(first(mode), first("backprop"), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=0)
    for of, wanted in ((0, x), (1, a), (0, a), (1, x)):
        with pytest.raises(UnsupportedError, match=r"second derivative.*backprop"):
            torch.autograd.grad(first(mode)[of].sum() + wanted.square().sum(), wanted)
    with pytest.raises(UnsupportedError, match=r"second derivative.*backprop"):
        first(mode)[1].backward()


@pytest.mark.parametrize("name", ["euler_maruyama", "stochastic_heun", "reversible_heun", "baoab"])
def test_a_solver_called_by_itself_gives_no_graph(name):
    solver, shape = sk.solvers.get(name), (2, 2, 2)
    sde = OrnsteinUhlenbeck() if name != "baoab" else UnderdampedLangevin(lambda q: q)
    times = torch.linspace(0, 1, 5, dtype=torch.float64)
    x = torch.ones(shape, requires_grad=True)
    problem = Problem(as_dynamics(sde), x, times, noise_source(seed=0))
    out = solver.integrate(problem, Observers(trajectory=True))
    state = solver.step(solver.init(problem))
    for value in (out.x, out.trajectory, out.state.x, state.x):
        assert not value.requires_grad
    assert x.requires_grad
