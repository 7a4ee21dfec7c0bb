"""ODE pairs: their tableaus, their orders, steps by tolerance for each sample, and the solution between steps."""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from _helpers import gaussian_model, slope
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp
from torch import Tensor

import sdekit as sk
from sdekit.errors import ArgumentError, NonFiniteError, SdekitError, ShapeError, UnsupportedError
from sdekit.sdes import EDMSDE, VPSDE
from sdekit.solvers.adaptive import Adaptive
from sdekit.solvers.adaptive_loop import Attempt, Controller
from sdekit.solvers.dense import DenseOutput, interpolate
from sdekit.solvers.ode.base import ExplicitRungeKutta
from sdekit.solvers.ode.pair import ExplicitPair

NAMES = ("bogacki_shampine", "dormand_prince_5", "tsitouras_5", "dormand_prince_8")
PAIRS: list[ExplicitPair] = [sk.solvers.get(name) for name in NAMES]
METHODS: list[ExplicitRungeKutta] = [*PAIRS, *(sk.solvers.get(n) for n in ("euler", "midpoint", "heun", "rk4"))]
SCIPY = {"bogacki_shampine": "RK23", "dormand_prince_5": "RK45", "dormand_prince_8": "DOP853"}
each_pair = pytest.mark.parametrize("name", NAMES)


# Tableaus ----------------------------------------------------------------------------------------------------------

Tree = tuple["Tree", ...]


@functools.cache
def trees(order: int) -> tuple[Tree, ...]:
    """The rooted trees with `order` nodes, each the sorted tuple of its branches."""
    if order == 1:
        return ((),)

    def forests(nodes: int, largest: int) -> list[tuple[Tree, ...]]:
        if nodes == 0:
            return [()]
        return [
            (tree, *rest)
            for size in range(1, min(nodes, largest) + 1)
            for tree in trees(size)
            for rest in forests(nodes - size, size)
        ]

    return tuple({tuple(sorted(forest)) for forest in forests(order - 1, order - 1)})


def density(tree: Tree) -> float:
    return nodes(tree) * math.prod(density(branch) for branch in tree)


def nodes(tree: Tree) -> int:
    return 1 + sum(nodes(branch) for branch in tree)


@dataclass(frozen=True)
class Tableau:
    """A method with the drift at its end and an interpolant's further stages as stages of its own."""

    a: np.ndarray
    c: np.ndarray
    b: np.ndarray
    known: dict[Tree, np.ndarray] = field(default_factory=dict)

    @staticmethod
    def of(method: ExplicitRungeKutta) -> Tableau:
        rows = [(), *method.coefficients]
        nodes = list(method.nodes)
        if isinstance(method, ExplicitPair):
            rows += [method.weights, *method.dense_coefficients]
            nodes += [1.0, *method.dense_nodes]
        n = len(rows)
        a = np.array([[*row, *([0.0] * (n - len(row)))] for row in rows])
        return Tableau(a, np.array(nodes), np.array([*method.weights, *([0.0] * (n - len(method.weights)))]))

    def padded(self, weights: tuple[float, ...]) -> np.ndarray:
        return np.array([*weights, *([0.0] * (len(self.b) - len(weights)))])

    def stages(self, tree: Tree) -> np.ndarray:
        """prod over branches of A stages(branch), at each stage."""
        if tree not in self.known:
            value = np.ones(len(self.b))
            for branch in tree:
                value = value * (self.a @ self.stages(branch))
            self.known[tree] = value
        return self.known[tree]

    def defect(self, weights: np.ndarray, order: int, theta: float = 1.0) -> float:
        """The largest |sum_i w_i stages_i - theta^n / density| over the trees of n <= order nodes."""
        return max(
            abs(float(weights @ self.stages(tree)) - theta**n / density(tree))
            for n in range(1, order + 1)
            for tree in trees(n)
        )

    def largest(self, weights: np.ndarray, order: int) -> float:
        """The largest |sum_i w_i stages_i| over the trees of `order` nodes."""
        return max(abs(float(weights @ self.stages(tree))) for tree in trees(order))


def test_the_trees_are_counted():
    assert [len(trees(n)) for n in range(1, 9)] == [1, 1, 2, 4, 9, 20, 48, 115]
    assert density(((), ())) == 3
    assert density((((),),)) == 6


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_a_row_adds_up_to_its_node(method):
    tableau = Tableau.of(method)
    assert np.abs(tableau.a.sum(1) - tableau.c).max() < 2e-14


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_every_order_condition_holds_up_to_the_order_and_not_beyond(method):
    tableau, order = Tableau.of(method), int(method.order)
    for k in range(1, order + 1):
        assert float(tableau.b @ tableau.c ** (k - 1)) == pytest.approx(1 / k, abs=1e-14)
    assert tableau.defect(tableau.b, order) < 1e-13
    assert tableau.defect(tableau.b, order + 1) > 1e-6
    if isinstance(method, ExplicitPair):
        # A stage of its own makes nothing of the drift at the end: the step has no weight on it.
        assert len(method.weights) == len(method.nodes) == method.evaluations_per_step


@pytest.mark.parametrize("method", PAIRS, ids=lambda m: m.name)
def test_the_error_is_of_its_order(method):
    tableau = Tableau.of(method)
    error = tableau.padded(method.error_weights)
    if not method.cruder_weights:
        below = method.error_order - 1
        assert max(tableau.largest(error, n) for n in range(1, below + 1)) < 1e-14
        assert tableau.largest(error, below + 1) > 1e-4
        return
    # E5 ~ h^6 and E3 ~ h^4: E5^2/E3 ~ h^8.
    cruder = tableau.padded(method.cruder_weights)
    assert max(tableau.largest(error, n) for n in range(1, 6)) < 1e-13
    assert max(tableau.largest(cruder, n) for n in range(1, 4)) < 1e-13
    assert tableau.largest(error, 6) > 1e-6
    assert tableau.largest(cruder, 4) > 1e-4
    assert method.error_order == 2 * 6 - 4


def interpolation_weights(method: ExplicitPair, tableau: Tableau, theta: float) -> np.ndarray:
    """b_i(theta): the interpolant of a step with x = 0 whose h k_i are the unit vectors."""
    unit = torch.eye(len(tableau.b), dtype=torch.float64)
    stages = len(method.nodes)
    change = torch.from_numpy(tableau.b)
    rows = [torch.from_numpy(tableau.padded(row)) for row in method.dense_weights]
    hermite = [change, unit[0] - change, 2 * change - unit[0] - unit[stages]]
    value: Tensor = interpolate(torch.zeros_like(change), [*hermite, *rows], torch.tensor(theta, dtype=torch.float64))
    return value.numpy()


@pytest.mark.parametrize("method", PAIRS, ids=lambda m: m.name)
def test_the_interpolant_is_of_its_order(method):
    tableau = Tableau.of(method)
    for theta in (0.0, 0.1, 0.37, 0.5, 0.81, 1.0):
        assert tableau.defect(interpolation_weights(method, tableau, theta), method.dense_order, theta) < 2e-13
    middle = interpolation_weights(method, tableau, 0.37)
    assert tableau.defect(middle, method.dense_order + 1, 0.37) > 1e-6


@pytest.mark.parametrize("method", PAIRS, ids=lambda m: m.name)
def test_the_conditions_see_every_coefficient(method):
    # A digit mistyped anywhere is found: each number of the step and its interpolant is moved by 1e-7 of itself.
    def defect(changed: type) -> float:
        other = changed()
        tableau = Tableau.of(other)
        whole = max(tableau.defect(tableau.b, int(other.order)), float(np.abs(tableau.a.sum(1) - tableau.c).max()))
        dense = tableau.defect(interpolation_weights(other, tableau, 0.37), other.dense_order, 0.37)
        error = max(tableau.largest(tableau.padded(other.error_weights), n) for n in (1, 2))
        cruder = 0.0
        if other.cruder_weights:
            cruder = max(tableau.largest(tableau.padded(other.cruder_weights), n) for n in (1, 2))
        return max(whole, dense, error, cruder)

    def flat(name: str, number: int | None, change: float) -> object:
        """The attribute with its number-th value moved."""
        value, k = getattr(method, name), itertools.count()

        def moved(part: object) -> object:
            if isinstance(part, tuple):
                return tuple(moved(p) for p in part)
            return part * (1 + change) if next(k) == number else part

        return moved(value)

    assert defect(type(method)) < 1e-12
    for name in ("coefficients", "weights", "error_weights", "cruder_weights", "dense_weights", "dense_coefficients"):
        for number, value in enumerate(_flattened(getattr(method, name))):
            if value != 0:
                changed = type("Changed", (ExplicitPair,), {**_declared(method), name: flat(name, number, 1e-7)})
                assert defect(changed) > 1e-11, (name, number)


def _flattened(values: object) -> list[float]:
    return [x for part in values for x in _flattened(part)] if isinstance(values, tuple) else [values]


def _declared(method: ExplicitPair) -> dict[str, object]:
    return {k: v for k, v in vars(type(method)).items() if not k.startswith("__")}


# Fixed steps -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Closed:
    """An ODE with its solution from x at time t to time s."""

    name: str
    drift: Callable[[Tensor, Tensor], Tensor]
    flow: Callable[[Tensor, float, float], Tensor]

    @property
    def ode(self) -> sk.ODE:
        return sk.ODE(self.drift)


def _logistic(x: Tensor, t: float, s: float) -> Tensor:
    grown = x * math.exp(s - t)
    return grown / (1 + grown - x)


PROBLEMS = (
    Closed("linear", lambda x, t: -1.3 * x, lambda x, t, s: x * math.exp(-1.3 * (s - t))),
    Closed("logistic", lambda x, t: x * (1 - x), _logistic),
    Closed(
        "nonautonomous",
        lambda x, t: torch.cos(t) * (1 + x * x),
        lambda x, t, s: torch.tan(torch.atan(x) + math.sin(s) - math.sin(t)),
    ),
)


def starts(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.linspace(0.05, 0.4, math.prod(shape), dtype=torch.float64).reshape(shape).to(dtype)


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: p.name)
@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_fixed_steps_are_of_the_order(method, problem):
    x, t, s = starts(3, 2), 0.3, 1.8 if problem.name == "nonautonomous" else 3.3
    counts = {1: [64, 128, 256], 2: [64, 128, 256], 3: [32, 64, 128], 4: [16, 32, 64], 5: [16, 32, 64], 8: [4, 6, 9]}
    n = counts[int(method.order)]
    exact = problem.flow(x, t, s)
    ends = [sk.solve(problem.ode, x, t0=t, t1=s, solver=method, steps=k).x for k in n]
    errors = [float((end - exact).abs().max()) for end in ends]
    # On these problems the leading error may have a small constant: the order shows from above.
    assert method.order - 0.3 < slope(n, errors) < method.order + 0.8, errors


@each_pair
def test_a_step_is_that_of_its_pair_and_no_evaluation_is_wasted(name):
    method, x = sk.solvers.get(name), starts(4, 3)
    calls: list[Tensor] = []

    def drift(y: Tensor, t: Tensor) -> Tensor:
        calls.append(t)
        return torch.sin(y) * t

    ode = sk.ODE(drift)
    t, s = torch.tensor(0.3, dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64)
    alone = method.step_formula(ode, x, t, s, 0.2, None)
    assert len(calls) == method.evaluations_per_step  # the error's is not made
    pair = method.pair(ode, x, t, s, 0.2, None)
    assert torch.equal(pair.x, alone)
    assert torch.equal(pair.last, drift(alone, s))
    calls.clear()
    again = method.pair(ode, x, t, s, 0.2, None, drift(x, t))
    assert len(calls) - 1 == method.evaluations_per_step  # of which the last is the next step's first
    assert torch.equal(again.x, pair.x)
    assert torch.equal(again.error, pair.error)
    assert method.first_is_last
    out = sk.solve(ode, x, t0=0.3, t1=0.5, solver=name, steps=5)
    assert out.nfe == 5 * method.evaluations_per_step


@each_pair
def test_a_models_flow_runs_as_a_table_in_either_variable(name):
    sde = VPSDE()
    model, x = gaussian_model(sde, 0.3, 0.5), starts(4, 3)
    grid = [0.8, 0.5, 0.3, 0.2]
    method = sk.solvers.get(name, variable="t")
    table = sk.sample(model, None, method, x_T=x, grid=grid)
    steps = sk.solve(sk.ODE(lambda y, t: model.velocity(y, t.reshape(-1)[0])), x, grid=grid, solver=method)
    assert torch.allclose(table.x, steps.x, rtol=1e-12, atol=1e-13)
    assert table.nfe == steps.nfe
    # In sigma~ = sigma/alpha: d(x/alpha)/d sigma~ = eps.
    ratios = sde.sigma_ratio(torch.tensor(grid, dtype=torch.float64))

    def slope_of(y: Tensor, ratio: Tensor) -> Tensor:
        t = float(sde.time_of_sigma_ratio(ratio))
        return model.noise(float(sde.alpha(t)) * y, torch.tensor(t, dtype=torch.float64))

    alphas = [float(sde.alpha(t)) for t in (grid[0], grid[-1])]
    steps = sk.solve(sk.ODE(slope_of), x / alphas[0], grid=ratios, solver=name)
    table = sk.sample(model, None, name, x_T=x, grid=grid)
    assert torch.allclose(table.x, alphas[1] * steps.x, rtol=1e-12, atol=1e-13)
    # To sigma = 0 the last step is Euler's: no stage is evaluated there.
    end = sk.sample(model, None, name, 3, x_T=x, t_end=0.0)
    assert end.nfe == 2 * method.evaluations_per_step + 1
    assert bool(torch.isfinite(end.x).all())


# Names -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("bosh3", "bogacki_shampine"),
        ("bs3", "bogacki_shampine"),
        ("dopri5", "dormand_prince_5"),
        ("tsit5", "tsitouras_5"),
        ("dopri8", "dormand_prince_8"),
        ("DOP853", "dormand_prince_8"),
    ],
)
def test_names(alias, name):
    assert sk.solvers.get(alias) == sk.solvers.get(name)
    tolerant = sk.solvers.get(alias, rtol=1e-5)
    assert tolerant == sk.solvers.get(f"adaptive:{name}", rtol=1e-5) == sk.solvers.get(f"adaptive:{alias}", rtol=1e-5)
    assert isinstance(tolerant, Adaptive)
    assert tolerant.name == f"adaptive:{name}"
    assert tolerant.order == sk.solvers.get(name).order
    assert tolerant.dense
    assert not sk.solvers.get(name).dense


def test_adaptive_is_a_prefix_of_embedded_methods_only():
    for name in ("adaptive:rk4", "adaptive:ddpm", "adaptive:", "adaptive:adaptive:tsit5", "adaptive:scipy:RK45"):
        with pytest.raises(SdekitError, match="unknown solver"):
            sk.solvers.get(name)


def test_the_names_of_ode_methods_stand_for_their_stochastic_namesakes_on_an_sde():
    sde = sk.SDE(lambda x, t: -x, lambda x, t: 0.3 * x, calculus="stratonovich")
    for name, other in (("midpoint", "stochastic_midpoint"), ("heun", "stochastic_heun")):
        run = {"t0": 0.0, "t1": 1.0, "steps": 5, "seed": 0}
        a, b = (sk.solve(sde, starts(3, 2), solver=n, **run).x for n in (name, other))
        assert torch.equal(a, b)
        assert not torch.equal(a, sk.solve(sk.ODE(lambda x, t: -x), starts(3, 2), solver=name, **run).x)


# Steps by tolerance, beside scipy's ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Known:
    """A problem for both libraries: a drift of one sample as numpy writes it, and as torch does over a batch."""

    name: str
    numpy: Callable[[float, np.ndarray], np.ndarray]
    torch: Callable[[Tensor, Tensor], Tensor]
    x0: tuple[float, ...]

    @functools.cached_property
    def end(self) -> np.ndarray:
        return solve_ivp(self.numpy, (0, 10), self.x0, "DOP853", rtol=1e-13, atol=1e-13).y[:, -1]

    def solve(self, name: str, tol: float, **more: object) -> sk.solvers.Solution:
        x = torch.tensor([self.x0], dtype=torch.float64)
        return sk.solve(sk.ODE(self.torch), x, t0=0.0, t1=10.0, solver=name, rtol=tol, atol=tol, **more)


KNOWN = (
    Known("forced", lambda t, y: np.sin(3 * t) - y, lambda x, t: torch.sin(3 * t) - x, (1.0, 2.0, -1.0)),
    Known(
        "van_der_pol",
        lambda t, y: np.array([y[1], 2 * (1 - y[0] ** 2) * y[1] - y[0]]),
        lambda x, t: torch.stack([x[:, 1], 2 * (1 - x[:, 0] ** 2) * x[:, 1] - x[:, 0]], dim=1),
        (2.0, 0.0),
    ),
    Known(
        "kepler",
        lambda t, y: np.concatenate([y[2:], -y[:2] / (y[:2] @ y[:2]) ** 1.5]),
        lambda x, t: torch.cat([x[:, 2:], -x[:, :2] / x[:, :2].square().sum(1, keepdim=True) ** 1.5], dim=1),
        (0.5, 0.0, 0.0, math.sqrt(3.0)),
    ),
)


@pytest.mark.parametrize("problem", KNOWN, ids=lambda p: p.name)
@pytest.mark.parametrize("name", SCIPY)
def test_as_scipys_at_the_same_tolerance(name, problem):
    for tol in (1e-3, 1e-6, 1e-9)[: 2 if name == "bogacki_shampine" else 3]:
        theirs = solve_ivp(problem.numpy, (0, 10), problem.x0, SCIPY[name], rtol=tol, atol=tol, dense_output=True)
        times = np.linspace(0, 10, 41)
        ours = problem.solve(name, tol, dense=True, save_at=times)
        extra = (
            3 * ours.stats["steps"][0] if name == "dormand_prince_8" else 0
        )  # of the interpolant; scipy has them too
        assert int(ours.nfe) - extra == pytest.approx(theirs.nfev - extra, rel=0.2)
        errors = [np.abs(end - problem.end).max() for end in (ours.x[0].numpy(), theirs.y[:, -1])]
        assert errors[0] < 2 * errors[1]
        # The steps are the same, up to rounding, and so is what lies between them.
        apart = 1e-7 * np.abs(theirs.sol(times)).max()
        assert np.abs(ours.dense(times)[:, 0].numpy() - theirs.sol(times).T).max() < apart
        assert torch.equal(ours.dense(times), ours.dense(torch.from_numpy(times)))
        assert torch.allclose(ours.trajectory, ours.dense(times), rtol=1e-14, atol=1e-14)


def test_tsitouras_costs_no_more_than_dormand_prince_on_the_whole():
    # Evaluations to the power 5 times error: the same for all tolerances, of a method of order 5.
    def cost(name: str) -> float:
        logs = []
        for problem in KNOWN:
            for tol in (1e-4, 1e-5, 1e-6, 1e-7):
                out = problem.solve(name, tol)
                logs.append(math.log(np.abs(out.x[0].numpy() - problem.end).max()) / 5 + math.log(int(out.nfe)))
        return math.exp(sum(logs) / len(logs))

    assert cost("tsit5") < 1.02 * cost("dopri5")


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: p.name)
@each_pair
def test_the_error_follows_the_tolerance_down_to_rounding(name, problem):
    x, t, s = starts(3, 2), 0.3, 1.8
    exact = problem.flow(x, t, s)
    # At 1e-6 DOP853's estimate of one step vanishes by accident, and the error is 200 times that; scipy's is the same.
    for tol in (1e-3, 1e-7, 1e-9, 1e-12):
        if name == "bogacki_shampine" and tol < 1e-9:
            continue
        out = sk.solve(problem.ode, x, t0=t, t1=s, solver=name, rtol=tol, atol=tol)
        error = float((out.x - exact).abs().max())
        assert error < 10 * tol
        assert out.status == "success"


def test_a_loose_tolerance_is_absolute_or_relative_as_asked():
    ode, x = sk.ODE(lambda x, t: torch.cos(t) * x), starts(3, 2)
    small, large = (sk.solve(ode, c * x, t0=0.0, t1=5.0, solver="tsit5", rtol=1e-5, atol=0.0) for c in (1.0, 1024.0))
    assert torch.equal(1024 * small.x, large.x)
    assert torch.equal(small.nfe, large.nfe)
    absolute = sk.solve(ode, 1024 * x, t0=0.0, t1=5.0, solver="tsit5", rtol=0.0, atol=1e-5)
    assert (absolute.nfe > large.nfe).all()


def test_an_entry_that_stays_at_zero_with_a_relative_tolerance():
    # 0 of 0 is no error.
    x = torch.tensor([[0.0, 1.0], [0.0, 0.0]], dtype=torch.float64)
    out = sk.solve(sk.ODE(lambda y, t: -y), x, t0=0.0, t1=1.0, solver="tsit5", rtol=1e-8, atol=0.0)
    assert out.status == "success"
    assert torch.allclose(out.x, x * math.exp(-1), rtol=1e-7)


# The controller ------------------------------------------------------------------------------------------------------


def factors(errors: list[float], before: tuple[float, float] = (1.0, 1.0), **gains: float) -> list[float]:
    controller = Controller(1e-3, 1e-6, 5.0, 0.1, **gains)
    error = torch.tensor(errors, dtype=torch.float64)
    return controller.factor(error, torch.tensor(before, dtype=torch.float64).expand(len(errors), 2)).tolist()


def test_a_step_grows_where_the_error_is_small_and_shrinks_where_it_is_large():
    assert factors([0.5]) == [pytest.approx(0.9 * 0.5**-0.2)]
    assert factors([2.0]) == [pytest.approx(0.9 * 2.0**-0.2)]
    assert factors([0.0, 1e-30, math.inf, 1e9, 1.0]) == [5.0, 5.0, 0.2, 0.2, 0.9]
    assert factors([0.0], max_factor=10.0) == [10.0]
    ups = factors([1e-3, 1e-2, 0.1, 0.5, 0.9, 1.1, 3.0, 30.0])
    assert ups == sorted(ups, reverse=True)


def test_the_gains_are_soderlinds():
    p, i, d = 0.2, 0.4, 0.1
    expected = 0.9 * 0.5 ** (-(p + i + d) / 5) * 0.7 ** ((p + 2 * d) / 5) * 0.3 ** (-d / 5)
    got = factors([0.5], (0.7, 0.3), proportional=p, integral=i, derivative=d)
    assert got == [pytest.approx(expected)]
    # After a rejection the error alone decides, whatever came before; and the step is shorter.
    rejected = factors([4.0], (0.7, 0.3), proportional=p, integral=i, derivative=d)
    assert rejected == [pytest.approx(0.9 * 4.0**-0.2)]


def test_the_error_of_a_step_that_is_no_number_is_infinite_and_of_any_other_finite():
    controller = Controller(0.0, 1e-300, 5.0, 0.1)
    x = torch.zeros(5, 2, dtype=torch.float64)
    state, error = x.clone(), x.clone()
    state[1, 0], error[2, 1], state[3, 1], error[4, 0] = math.nan, math.nan, math.inf, 1e100
    got = controller.error(x, Attempt(state, error))
    assert got[0] == 0
    assert torch.isinf(got[1:4]).all()
    assert 1e10 < got[4] < math.inf
    joined = controller.error(x[:1], Attempt(x[:1], x[:1] + 3e-300, x[:1] + 40e-300))
    assert float(joined) == pytest.approx(3 * 3 / 5)


@pytest.mark.parametrize(
    ("gains", "more"), [({}, 1.0), ({"proportional": 0.3, "integral": 0.4}, 1.6), ({"derivative": 0.1}, 1.6)]
)
def test_any_stable_gains_reach_the_tolerance(gains, more):
    problem = KNOWN[1]
    plain = problem.solve("tsit5", 1e-6)
    out = problem.solve("tsit5", 1e-6, **gains)
    assert np.abs(out.x[0].numpy() - problem.end).max() < 1e-4
    assert int(out.nfe) <= more * int(plain.nfe)
    assert sum(out.stats["rejected"]) < sum(out.stats["steps"])


def test_the_first_step_is_the_one_given():
    seen: list[Tensor] = []

    def drift(x: Tensor, t: Tensor) -> Tensor:
        seen.append(t.reshape(-1)[0])
        return -x

    sk.solve(sk.ODE(drift), starts(2, 1), t0=0.0, t1=1.0, solver="bs3", rtol=1e-1, atol=1e-1, h_init=0.25)
    assert [float(t) for t in seen[:4]] == [0.0, 0.125, 0.1875, 0.25]


@each_pair
def test_loose_tolerances_cross_in_a_step(name):
    out = sk.solve(sk.ODE(lambda x, t: -x), starts(2, 3), t0=0.0, t1=0.1, solver=name, rtol=1e3, atol=1e3, h_init=1.0)
    assert out.stats["steps"] == [1, 1]
    fixed = sk.solve(sk.ODE(lambda x, t: -x), starts(2, 3), t0=0.0, t1=0.1, solver=name, steps=1)
    assert torch.allclose(out.x, fixed.x, rtol=1e-14, atol=0)
    assert out.nfe.tolist() == [1 + sk.solvers.get(name).evaluations_per_step] * 2


# Each sample for itself ----------------------------------------------------------------------------------------------


class Rows:
    """x' = -rate x + cos t, a rate for each sample; counts the rows of its calls, and notes the times."""

    def __init__(self, rates: list[float]) -> None:
        self.parameters = {"rate": torch.tensor(rates, dtype=torch.float64)[:, None]}
        self.rows, self.times = 0, []

    def __call__(self, x: Tensor, t: Tensor, rate: Tensor) -> Tensor:
        assert x.shape[0] == rate.shape[0]
        self.rows += len(x)
        self.times.append(t.reshape(-1).clone())
        return torch.cos(t) - rate * x

    @property
    def ode(self) -> sk.ODE:
        return sk.ODE(self, self.parameters)


RATES = [60.0, 1.0, 0.1, 200.0, 3.0]


@each_pair
def test_a_stiff_sample_changes_no_bit_of_an_easy_ones(name):
    run = {"t0": 0.0, "t1": 2.0, "solver": name, "rtol": 1e-5, "atol": 1e-8, "save_at": [0.3, 1.7], "dense": True}
    x = starts(5, 3)
    rows = Rows(RATES)
    whole = sk.solve(rows.ode, x, **run)
    for i in range(5):
        alone = sk.solve(Rows(RATES[i : i + 1]).ode, x[i : i + 1], **run)
        assert torch.equal(alone.x, whole.x[i : i + 1])
        assert torch.equal(alone.trajectory, whole.trajectory[:, i : i + 1])
        assert torch.equal(alone.dense([0.1, 1.1]), whole.dense([0.1, 1.1])[:, i : i + 1])
        assert int(alone.nfe) == int(whole.nfe[i])
        assert alone.stats["steps"] == whole.stats["steps"][i : i + 1]
    assert whole.nfe[3] > 5 * whole.nfe[2]
    # A sample that has arrived costs nothing more, and every row of every call is somebody's.
    assert rows.rows == int(whole.nfe.sum())
    parts = sk.solve(Rows(RATES).ode, x, chunk=2, **run)
    assert torch.equal(parts.x, whole.x)
    assert torch.equal(parts.nfe, whole.nfe)
    assert torch.equal(parts.dense([0.1, 1.1]), whole.dense([0.1, 1.1]))


@each_pair
def test_the_end_is_landed_on(name):
    for t0, t1 in ((0.0, 1.0), (0.1, 0.7), (1.0, -0.3), (-5.0, 1e-3)):
        rows = Rows(RATES[1:3])
        out = sk.solve(rows.ode, starts(2, 3), t0=t0, t1=t1, solver=name, rtol=1e-6, atol=1e-6)
        assert out.t == t1
        assert out.stats["t"] == [t1, t1]
        times = torch.cat(rows.times)
        low, high = min(t0, t1), max(t0, t1)
        assert float(times.min()) == low
        assert float(times.max()) == high


@each_pair
def test_evaluations_are_never_more_than_allowed(name):
    whole = sk.solve(Rows(RATES).ode, starts(5, 3), t0=0.0, t1=2.0, solver=name, rtol=1e-5, atol=1e-8)
    for allowed in (1, 2, 3, 7, 14, 16, 20, 30, 100, int(whole.nfe[1]), int(whole.nfe[1]) - 1, int(whole.nfe.max())):
        for more in ({}, {"dense": True}):
            rows = Rows(RATES)
            how = {"rtol": 1e-5, "atol": 1e-8, "max_nfe": allowed, **more}
            out = sk.solve(rows.ode, starts(5, 3), t0=0.0, t1=2.0, solver=name, **how)
            assert int(out.nfe.max()) <= allowed
            assert rows.rows == int(out.nfe.sum())
            arrived = [t == 2.0 for t in out.stats["t"]]
            assert out.stats["status"] == ["success" if a else "max_nfe" for a in arrived]
            assert out.status == ("success" if all(arrived) else "max_nfe")
            assert out.t == min(out.stats["t"])
            if not more and allowed > 2:  # with one evaluation the second, for the first step's length, is not made
                done = torch.tensor(arrived)
                assert torch.equal(out.x[done], whole.x[done])
                assert arrived == (whole.nfe <= allowed).tolist()
            if more:
                assert out.dense.span == (0.0, out.t)
                assert torch.equal(out.dense(0.0), starts(5, 3))
                inside = out.dense(0.5 * out.t)
                assert bool(torch.isfinite(inside).all())


def test_a_least_step():
    run = {"t0": 0.0, "t1": 2.0, "solver": "tsit5", "rtol": 1e-8, "atol": 1e-8}
    out = sk.solve(Rows(RATES).ode, starts(5, 3), h_min=0.01, **run)
    assert out.status == "min_step"
    assert out.stats["status"] == ["min_step", "success", "success", "min_step", "success"]
    assert out.stats["t"][1] == 2.0
    assert torch.equal(out.x[0], starts(5, 3)[0])  # where its last accepted step ended: it has none
    assert out.t == 0.0


@each_pair
def test_a_solution_that_ends_in_a_pole_ends_there(name):
    # x' = x^2 from 1 and from 1/4: poles at t = 1 and t = 4. The clock, not a floor on the step, is what gives out.
    x = torch.tensor([[1.0], [0.25]], dtype=torch.float64)
    out = sk.solve(sk.ODE(lambda x, t: x * x), x, t0=0.0, t1=2.0, solver=name, rtol=1e-6, atol=1e-6)
    assert out.status == "min_step"
    assert out.stats["status"] == ["min_step", "success"]
    assert out.t == pytest.approx(1.0, abs=1e-4)
    assert float(out.x[0]) > 1e10
    assert float(out.x[1]) == pytest.approx(0.5, rel=1e-5)


@each_pair
def test_a_drift_that_is_no_number_is_named_with_its_time(name):
    def drift(x: Tensor, t: Tensor) -> Tensor:
        return torch.where((t > 0.5) & (x[:, :1] > 0), torch.nan, -x)

    x = starts(3, 2)
    x[1] = -1.0
    with pytest.raises(NonFiniteError, match=rf"solver 'adaptive:{name}' reached a non-finite state at step") as caught:
        sk.solve(sk.ODE(drift), x, t0=0.0, t1=1.0, solver=name, rtol=1e-6, atol=1e-6)
    assert caught.value.time == pytest.approx(0.5, abs=1e-9)
    assert caught.value.samples in ([0], [2], [0, 2])
    with pytest.raises(NonFiniteError, match=r"at step 1 \(t = 0\)"):
        sk.solve(sk.ODE(lambda x, t: x * math.nan), x, t0=0.0, t1=1.0, solver=name, rtol=1e-6)


@each_pair
def test_a_step_into_where_there_is_no_drift_is_made_again_shorter(name):
    # x' = -sqrt(x) is not a number below 0, and x = (1 - t/2)^2 comes near.
    x = torch.ones(2, 1, dtype=torch.float64)
    ode = sk.ODE(lambda x, t: -torch.sqrt(x))
    out = sk.solve(ode, x, t0=0.0, t1=1.99, solver=name, rtol=1e-8, atol=1e-10, h_init=1.9)
    assert out.status == "success"
    assert torch.allclose(out.x, torch.full_like(x, (1 - 1.99 / 2) ** 2), rtol=1e-3)


@each_pair
def test_a_drift_that_is_no_number_at_the_end_of_a_step_rejects_it(name):
    # It is the next step's first: taken over, there would be no way on.
    calls = itertools.count(1)
    last = 1 + sk.solvers.get(name).evaluations_per_step

    def drift(x: Tensor, t: Tensor) -> Tensor:
        return x * math.nan if next(calls) == last else -x

    out = sk.solve(sk.ODE(drift), starts(2, 2), t0=0.0, t1=1.0, solver=name, rtol=1e-4, h_init=0.1)
    assert out.stats["rejected"] == [1, 1]
    assert torch.allclose(out.x, starts(2, 2) * math.exp(-1), rtol=1e-3)


# Time, dtype and shape -----------------------------------------------------------------------------------------------


@each_pair
@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: p.name)
def test_there_and_back(name, problem):
    x = starts(3, 2)
    run = {"solver": name, "rtol": 1e-8, "atol": 1e-8}
    there = sk.solve(problem.ode, x, t0=0.3, t1=1.5, **run)
    back = sk.solve(problem.ode, there.x, t0=1.5, t1=0.3, **run, save_at=[1.0, 0.5], dense=True)
    assert torch.allclose(back.x, x, rtol=1e-5)
    assert torch.allclose(back.dense(0.7), problem.flow(x, 0.3, 0.7), rtol=1e-5)
    assert torch.allclose(back.trajectory[0], problem.flow(x, 0.3, 1.0), rtol=1e-5)
    assert back.trajectory_times.tolist() == [1.0, 0.5]


@pytest.mark.parametrize("shape", [(3,), (3, 1), (2, 3, 2), (1, 2, 1, 3)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@each_pair
def test_any_shape_in_either_precision(name, dtype, shape):
    x = starts(*shape, dtype=dtype)
    tol = 1e-5 if dtype == torch.float32 else 1e-8
    how = {"solver": name, "rtol": tol, "atol": tol, "save_at": [0.0, 0.25, 1.0], "dense": True}
    out = sk.solve(sk.ODE(lambda x, t: -torch.sin(t) * x), x, t0=0.0, t1=1.0, **how)
    assert out.x.dtype == out.dense(0.5).dtype == out.trajectory.dtype == dtype
    assert out.dense(0.5).shape == x.shape
    assert out.dense([0.5, 0.1, 0.9]).shape == (3, *shape)
    assert torch.equal(out.trajectory[0], x)
    assert torch.equal(out.trajectory[-1], out.x)
    for t, got in ((1.0, out.x), (0.25, out.trajectory[1]), (0.5, out.dense(0.5))):
        assert torch.allclose(got, x * math.exp(math.cos(t) - 1), rtol=50 * tol, atol=50 * tol)
    for value in (out.x, out.trajectory, out.dense(0.5)):
        assert not value.is_inference()


@each_pair
def test_no_drift_moves_nothing_at_little_cost(name):
    x = starts(3, 2)
    out = sk.solve(sk.ODE(lambda x, t: torch.zeros_like(x)), x, t0=0.0, t1=7.0, solver=name, rtol=1e-9, dense=True)
    assert torch.equal(out.x, x)
    assert torch.equal(out.dense(3.0), x)
    assert max(out.stats["steps"]) <= 3


@pytest.mark.parametrize("length", [1e-100, 1e-13, 1e-6, 1.0, 1e6, 1e12])
@pytest.mark.parametrize("start", [0.0, 1.0, -1e6])
@each_pair
def test_spans_of_any_length(name, start, length):
    # x' = scale/(scale + t - start)^2 over any span that the clock can tell; near t = 0 it can tell any.
    t1 = start + length
    if t1 - start <= 0:
        return
    length = t1 - start
    scale = min(1.0, length) if start == 0 else 1.0

    def drift(x: Tensor, t: Tensor) -> Tensor:
        return (1 / scale) / (1 + (t - start) / scale) ** 2 * torch.ones_like(x)

    tol = 1e-4 if name == "bogacki_shampine" else 1e-7
    x = starts(2, 2)
    out = sk.solve(sk.ODE(drift), x, t0=start, t1=t1, solver=name, rtol=tol, atol=tol)
    assert out.status == "success"
    assert out.t == t1
    assert torch.allclose(out.x, x + (1 - 1 / (1 + length / scale)), rtol=50 * tol, atol=50 * tol)
    assert int(out.nfe.max()) < 3000


def test_a_network_may_answer_in_one_buffer():
    buffer = torch.empty(4, 3, dtype=torch.float64)

    def drift(x: Tensor, t: Tensor) -> Tensor:
        return buffer[: len(x)].copy_(torch.sin(t) - x * x)

    for name in NAMES:
        run = {"t0": 0.0, "t1": 3.0, "solver": name, "rtol": 1e-6, "dense": True, "save_at": [1.0, 2.0]}
        a = sk.solve(sk.ODE(drift), starts(4, 3), **run)
        b = sk.solve(sk.ODE(lambda x, t: torch.sin(t) - x * x), starts(4, 3), **run)
        assert torch.equal(a.x, b.x)
        assert torch.equal(a.trajectory, b.trajectory)
        assert torch.equal(a.dense([0.5, 2.5]), b.dense([0.5, 2.5]))


def test_the_flow_of_a_model():
    model, x = gaussian_model(EDMSDE(), 0.3, 0.5, shape=(2,)), 80 * starts(3, 2)
    target = sk.targets.Gaussian(torch.full((2,), 0.3, dtype=torch.float64), 0.25)
    for name in NAMES:
        out = sk.solve(sk.ProbabilityFlow(model), x, t0=80.0, t1=0.01, solver=name, rtol=1e-6, atol=1e-6, dense=True)
        assert torch.allclose(out.x, target.flow_map(x, 80.0, 0.01, EDMSDE()), rtol=1e-3)
        assert torch.allclose(out.dense(5.0), target.flow_map(x, 80.0, 5.0, EDMSDE()), rtol=1e-4)
        with pytest.raises(ArgumentError, match="sigma = 0"):
            sk.solve(sk.ProbabilityFlow(model), x, t0=80.0, t1=0.0, solver=name, rtol=1e-6)


# Between steps -------------------------------------------------------------------------------------------------------


@each_pair
def test_dense_output_is_of_its_order(name):
    # One step of length h: the interpolant's own error, beside the exact flow, falls like h^(order + 1) inside it.
    problem, x = PROBLEMS[2], torch.tensor([[0.2], [-0.4]], dtype=torch.float64)
    lengths = [0.5, 0.5 / 1.5, 0.5 / 1.5**2]
    errors = []
    for h in lengths:
        how = {"rtol": 1e9, "atol": 1e9, "h_init": 10.0}
        dense = sk.solve(problem.ode, x, t0=0.1, t1=0.1 + h, solver=name, **how, dense=True).dense
        inside = [0.1 + h * c for c in (0.2, 0.4, 0.6, 0.8)]
        exact = torch.stack([problem.flow(x, 0.1, t) for t in inside])
        errors.append(float((dense(inside) - exact).abs().max()))
    measured = slope([1 / h for h in lengths], errors)
    order = sk.solvers.get(name).dense_order
    assert order + 1 - 0.5 < measured < order + 1 + 1.2, errors


@each_pair
def test_dense_output_joins_its_steps_smoothly(name):
    run = {"t0": 0.0, "t1": 10.0, "solver": name, "rtol": 1e-5, "atol": 1e-5, "dense": True}
    x = torch.tensor([[2.0, 0.0], [0.5, 1.0]], dtype=torch.float64)
    ode = sk.ODE(KNOWN[1].torch)
    out = sk.solve(ode, x, **run)
    dense = out.dense
    assert torch.equal(dense(0.0), x)
    assert torch.allclose(dense(10.0), out.x, rtol=1e-14, atol=1e-14)
    for i in range(2):
        ends = dense.bounds[i][torch.isfinite(dense.bounds[i])][:-1]
        before, at, after = (dense(ends + d)[:, i] for d in (-1e-6, 0.0, 1e-6))
        assert float((before + after - 2 * at).abs().max()) < 1e-9  # no jump, and no kink
        drift = ode.drift(at, ends)
        assert torch.allclose((after - before) / 2e-6, drift, rtol=1e-4, atol=1e-4)


@each_pair
def test_saving_and_dense_output_change_no_number(name):
    run = {"t0": 0.0, "t1": 2.0, "solver": name, "rtol": 1e-6, "atol": 1e-6}
    x = starts(5, 3)
    plain = sk.solve(Rows(RATES).ode, x, **run)
    times = torch.linspace(0, 2, 101, dtype=torch.float64)
    saved = sk.solve(Rows(RATES).ode, x, **run, save_at=times)
    dense = sk.solve(Rows(RATES).ode, x, **run, dense=True)
    both = sk.solve(Rows(RATES).ode, x, **run, dense=True, save_at=[0.5])
    ends = sk.solve(Rows(RATES).ode, x, **run, trajectory=True)
    for other in (saved, dense, both, ends):
        assert torch.equal(other.x, plain.x)
        assert other.stats["steps"] == plain.stats["steps"]
        assert other.stats["rejected"] == plain.stats["rejected"]
    assert plain.dense is None
    assert saved.dense is None
    assert plain.trajectory is None
    assert torch.equal(ends.trajectory[[0, -1]], torch.stack([x, plain.x]))
    assert torch.equal(saved.trajectory[1:-1], dense.dense(times[1:-1]))
    assert torch.equal(both.trajectory[0], dense.dense(0.5))
    assert torch.equal(saved.trajectory_times, times)
    extra = sk.solvers.get(name).dense_evaluations
    assert extra == (3 if name == "dormand_prince_8" else 0)
    steps = torch.tensor(plain.stats["steps"])
    assert torch.equal(dense.nfe, plain.nfe + extra * steps)
    assert torch.equal(both.nfe, dense.nfe)
    assert (saved.nfe <= dense.nfe).all()
    assert torch.equal(sk.solve(Rows(RATES).ode, x, **run, save_at=[0.5]).nfe, plain.nfe + extra)


def test_a_trajectory_holds_the_times_that_all_samples_reached():
    times = torch.linspace(0, 2, 21, dtype=torch.float64)
    how = {"solver": "tsit5", "rtol": 1e-6, "atol": 1e-6, "max_nfe": 200, "save_at": times}
    out = sk.solve(Rows(RATES).ode, starts(5, 3), t0=0.0, t1=2.0, **how)
    assert out.status == "max_nfe"
    assert torch.equal(out.trajectory_times, times[times <= out.t])
    whole = sk.solve(Rows(RATES).ode, starts(5, 3), t0=0.0, t1=2.0, **{**how, "max_nfe": None})
    assert torch.equal(out.trajectory, whole.trajectory[: len(out.trajectory)])


def test_what_a_dense_output_is_asked():
    x = starts(5, 3)
    out = sk.solve(Rows(RATES).ode, x, t0=0.0, t1=2.0, solver="tsit5", rtol=1e-5, dense=True)
    dense = out.dense
    assert dense([]).shape == (0, 5, 3)
    assert dense(1).shape == (5, 3)
    assert torch.equal(dense(torch.tensor(0.3)), dense(float(torch.tensor(0.3))))
    assert torch.equal(dense([0.3, 0.1, 0.3]), torch.stack([dense(0.3), dense(0.1), dense(0.3)]))
    for bad in (-0.1, 2.0001, math.nan, math.inf, [0.5, 3.0]):
        with pytest.raises(ArgumentError, match="holds the times from 0 to 2"):
            dense(bad)
    for bad in ("now", None, object(), [[0.1]], [0.1, "x"]):
        with pytest.raises(ArgumentError, match="dense output"):
            dense(bad)
    assert repr(dense).startswith("DenseOutput(0 to 2, ")
    dense(0.5).mul_(2)  # a tensor of its own
    assert torch.equal(dense(0.0), x)


def test_dense_output_where_there_is_none_is_refused():
    x, calls = starts(3, 2), []
    sde = sk.SDE(lambda x, t: calls.append(1) or -x, 0.3, noise="additive")
    ode = sk.ODE(lambda x, t: calls.append(1) or -x)
    run = {"t0": 0.0, "t1": 1.0, "dense": True}
    for solver in (("euler_maruyama", {"steps": 3}), ("adaptive:sosra", {}), ("sosra", {"rtol": 1e-2})):
        with pytest.raises(UnsupportedError, match="the value is random, and lives on the Brownian path"):
            sk.solve(sde, x, solver=solver[0], **run, **solver[1])
    for solver in (("tsit5", {"steps": 3}), ("rk4", {"steps": 3}), ("scipy:RK45", {})):
        with pytest.raises(UnsupportedError, match=r"has no dense output\. Take an adaptive ODE method"):
            sk.solve(ode, x, solver=solver[0], **run, **solver[1])
    with pytest.raises(ArgumentError, match="dense must be True or False"):
        sk.solve(ode, x, solver="tsit5", rtol=1e-3, t0=0.0, t1=1.0, dense=1)
    with pytest.raises(UnsupportedError, match="no interpolation"):
        sk.solvers.EulerMaruyama().interpolant(ode, x, None, None, 0.1, None)
    assert not calls


def test_dense_outputs_join():
    parts = [
        sk.solve(Rows([r]).ode, starts(1, 2), t0=0.0, t1=end, solver="tsit5", rtol=1e-6, dense=True).dense
        for r, end in ((1.0, 2.0), (200.0, 1.0), (0.1, 3.0))
    ]
    joined = DenseOutput.join(parts)
    assert joined.span == (0.0, 1.0)
    assert torch.equal(joined([0.2, 0.9]), torch.cat([p([0.2, 0.9]) for p in parts], dim=1))
    with pytest.raises(ArgumentError, match="from 0 to 1"):
        joined(1.5)


# Arguments -----------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    name=st.sampled_from(NAMES),
    t0=st.floats(-3, 3),
    length=st.floats(1e-6, 4),
    backwards=st.booleans(),
    exponent=st.floats(-9, -2),
    shape=st.lists(st.integers(1, 3), min_size=1, max_size=3),
    inside=st.lists(st.floats(0, 1), max_size=4),
)
def test_whatever_is_asked_the_solution_is_that_of_the_equation(name, t0, length, backwards, exponent, shape, inside):
    x = starts(*shape)
    t1 = t0 - length if backwards else t0 + length
    tol = 10.0 ** (max(exponent, -7) if name == "bogacki_shampine" else exponent)
    out = sk.solve(sk.ODE(lambda x, t: torch.cos(t) * x), x, t0=t0, t1=t1, solver=name, rtol=tol, atol=tol, dense=True)
    low, high = min(t0, t1), max(t0, t1)
    times = [min(max(t0 + (t1 - t0) * c, low), high) for c in inside]
    for t, got in zip([t1, *times], [out.x, *out.dense(times)], strict=True):
        assert torch.allclose(got, x * math.exp(math.sin(t) - math.sin(t0)), rtol=200 * tol, atol=200 * tol)
    assert out.status == "success"


RUBBISH = [None, "x", -1, 0, -0.5, math.nan, math.inf, [], (), {}, 1.5, 2, True, 1e300, b"x"]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    name=st.sampled_from(NAMES),
    option=st.sampled_from(
        [
            "rtol",
            "atol",
            "h_init",
            "h_min",
            "max_nfe",
            "proportional",
            "integral",
            "derivative",
            "save_at",
            "dense",
            "t1",
        ]
    ),
    value=st.sampled_from(RUBBISH),
)
def test_an_argument_is_taken_or_refused_with_a_reason(name, option, value):
    run = {"t0": 0.0, "t1": 1.0, "solver": name, "rtol": 1e-3, "max_nfe": 500, option: value}
    with contextlib.suppress(SdekitError):
        assert bool(torch.isfinite(sk.solve(sk.ODE(lambda x, t: -x), starts(2, 2), **run).x).all())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rtol": -1.0}, "rtol must be 0 or more, got -1.0"),
        ({"atol": math.nan}, "atol must be a finite number"),
        ({"rtol": 0.0, "atol": 0.0}, "atol, where rtol is 0"),
        ({"h_init": 0.0}, "h_init must be a finite number above 0"),
        ({"h_min": -1.0}, "h_min must be 0 or more"),
        ({"max_nfe": 2.5}, "max_nfe must be an integer of at least 1"),
        ({"integral": "x"}, "integral must be a finite number"),
        ({"variable": "t"}, "has no option 'variable'"),
        ({"steps": 3}, "chooses its own steps"),
        ({"grid": "karras"}, "chooses its own steps"),
        ({"t1": 0.0}, "starts and ends at the same time"),
        ({"save_at": [2.0]}, "save_at must hold times from 0 to 1"),
    ],
)
def test_options_that_make_no_sense(options, message):
    with pytest.raises(ArgumentError, match=message):
        sk.solve(sk.ODE(lambda x, t: -x), starts(2, 2), **{"t0": 0.0, "t1": 1.0, "rtol": 1e-3, **options}, solver="bs3")


def test_a_drift_of_another_shape_is_told():
    with pytest.raises(ShapeError, match=r"a tensor of shape \(2, 1\) for a state of shape \(2, 2\)"):
        sk.solve(sk.ODE(lambda x, t: x[:, :1]), starts(2, 2), t0=0.0, t1=1.0, solver="tsit5", rtol=1e-3)
