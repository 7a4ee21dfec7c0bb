"""SDEs of the user's own: kinds of noise, calculi, states, parameters and paths, with every solver that serves them.

Parametrised over the catalogue, so that a solver joins these tests by joining it.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from _helpers import slope
from torch import Tensor

import sdekit as sk
from sdekit.errors import ArgumentError, NonFiniteError, ShapeError, UnsupportedError
from sdekit.noise import BrownianPath
from sdekit.noise.given_path import FunctionPath, GivenPath
from sdekit.sdes import (
    SDE,
    ArctanSDE,
    CommutativeLinearSDE,
    CubicMultiplicative,
    DecayingAdditiveSDE,
    DoubleWell,
    GeometricBrownianMotion,
    NoncommutativeSDE,
    OrnsteinUhlenbeck,
    StiffLinear,
    TanhSDE,
)
from sdekit.sdes.calculus import (
    Reread,
    as_ito,
    as_stratonovich,
    correction,
    derivative_along,
    diagonal_derivative,
)
from sdekit.solvers import FixedStepSolver

F64 = torch.float64


def _general(name: str) -> bool:
    solver = sk.solvers.get(name)
    return isinstance(solver, FixedStepSolver) and solver.kind == "step" and solver.stochastic and not solver.needs


NAMES = [name for name in sk.solvers.names() if _general(name)]
WEAK = [name for name in NAMES if sk.solvers.get(name).strong_order is None]  # these follow no path
KINDS = ("scalar", "additive", "diagonal", "commutative", "general")


def solvers_of(kind: str, calculus: str | None = None) -> list[str]:
    """The names of the solvers that declare this kind, and in the calculus itself where one is named."""
    chosen = [n for n in NAMES if kind in sk.solvers.get(n).noise_kinds]
    return chosen if calculus is None else [n for n in chosen if calculus in sk.solvers.get(n).calculus]


def path_of(shape: tuple[int, ...], seed: int = 0, cells: int = 256, t1: float = 1.0, **kwargs: Any) -> BrownianPath:
    """A path with W, H and K in float64, cheap on grids of powers of two."""
    kwargs = {"levy_area": "space-time-time", "dtype": F64, **kwargs}
    return BrownianPath(seed, shape, 0.0, t1, cells=cells, **kwargs)


# Problems ------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Known:
    """An SDE with a start and its solution at t = 1 as a function of the Brownian motion there."""

    sde: Any
    x0: Tensor
    end: Callable[[Tensor], Tensor]

    @property
    def noise_shape(self) -> tuple[int, ...]:
        return self.sde.noise_shape(self.x0.shape)


def _start(low: float, high: float, rows: int, d: int) -> Tensor:
    return torch.linspace(low, high, rows * d, dtype=F64).reshape(rows, d)


def _faded(x0: Tensor, matrix: Tensor) -> Known:
    # X_t = (X_0 + G W_t)/sqrt(1 + t)
    def drift(x: Tensor, t: Tensor) -> Tensor:
        return -x / (2 * (1 + t))

    def diffusion(x: Tensor, t: Tensor) -> Tensor:
        g = matrix / (1 + torch.as_tensor(t, dtype=F64).reshape(-1, 1, 1)).sqrt()
        return g.expand(*x.shape, matrix.shape[1])

    sde = SDE(drift, diffusion, "additive", noise_dim=matrix.shape[1])
    return Known(sde, x0, lambda w: (x0 + (matrix * w[:, None, :]).sum(-1)) / math.sqrt(2))


def known(kind: str, calculus: str, rows: int = 96) -> Known:
    """A problem with this noise, read in this calculus."""
    if kind == "additive":
        sde: Any = DecayingAdditiveSDE(a=0.5, calculus=calculus)
    elif kind == "additive matrix":
        matrix = torch.tensor([[0.5, 0.2, -0.4], [0.0, 0.7, 0.3]], dtype=F64)
        return _faded(_start(-1, 1, rows, 2), matrix)
    elif kind == "commutative":
        sde = CommutativeLinearSDE(calculus=calculus)
        return Known(sde, _start(-1, 1, rows, 3), lambda w: sde.path(_start(-1, 1, rows, 3), 1.0, w))
    else:
        sde = TanhSDE(a=0.8, calculus=calculus, noise=kind)
    x0 = _start(-0.7, 0.7, rows, 2)
    return Known(sde, x0, lambda w: sde.path(x0, 1.0, w))


# Kinds of noise ------------------------------------------------------------------------------------------------------

CASES = [
    (name, kind, calculus)
    for kind in ("scalar", "additive", "additive matrix", "diagonal", "commutative")
    for calculus in ("ito", "stratonovich")
    for name in solvers_of(kind.split(maxsplit=1)[0])
    if name not in WEAK and not (kind == "additive matrix" and calculus == "stratonovich")
]


@pytest.mark.parametrize(("name", "kind", "calculus"), CASES)
def test_every_solver_converges_to_the_solution_on_its_path(name, kind, calculus):
    # In its own calculus, and in the other, whose drift is converted.
    problem = known(kind, calculus)
    path = path_of(problem.noise_shape)
    exact = problem.end(path(1.0).W)
    counts, errors = [16, 64, 256], []
    for n in counts:
        out = sk.solve(problem.sde, problem.x0, t0=0, t1=1, solver=name, steps=n, noise=path)
        errors.append(float((out.x - exact).square().mean().sqrt()))
        converted = kind != "additive" and kind != "additive matrix" and calculus not in sk.solvers.get(name).calculus
        assert ("converted" in out.stats) == converted
    # Strong order 1/2 at least on any of them: 16 times as many steps, a quarter of the error; and of the declared
    # order, of which additive noise gives half an order more to Euler-Maruyama.
    declared = sk.solvers.get(name).strong_order
    assert errors[2] < 0.1, errors
    assert slope(counts, errors) > 0.8 * declared, errors


@functools.cache
def _fine_general() -> tuple[Tensor, BrownianPath, Tensor]:
    x0, path = _start(-1, 1, 128, 2), path_of((128, 2), cells=2048)
    return x0, path, sk.solve(NoncommutativeSDE(), x0, t0=0, t1=1, solver="euler_maruyama", steps=2048, noise=path).x


@pytest.mark.parametrize("calculus", ["ito", "stratonovich"])
@pytest.mark.parametrize("name", [name for name in solvers_of("general") if name not in WEAK])
def test_general_noise_converges_on_its_path(name, calculus):
    sde = NoncommutativeSDE(calculus=calculus)
    x0, path, exact = _fine_general()
    errors = []
    for n in (8, 128):
        out = sk.solve(sde, x0, t0=0, t1=1, solver=name, steps=n, noise=path)
        errors.append(float((out.x - exact).square().mean().sqrt()))
    # Order 1/2: 16 times as many steps, a quarter of the error.
    assert errors[1] < 0.4 * errors[0], errors
    assert errors[1] < 0.08, errors


def _contract(g: Tensor, w: Tensor) -> Tensor:
    return g * w if g.ndim <= w.ndim else (g * w[:, None, :]).sum(-1)


Functions = tuple[Callable[[Tensor, float], Tensor], Callable[[Tensor, float], Tensor]]


def _by_hand(name: str, fg: Functions, x: Tensor, t: float, h: float, w: Tensor, area: Tensor) -> Tensor:
    """One step of a method as its paper writes it."""
    f, g = fg
    s = t + h
    if name == "euler_maruyama":
        return x + f(x, t) * h + _contract(g(x, t), w)
    if name == "tamed_euler":
        size = f(x, t).norm(dim=1, keepdim=True)
        return x + f(x, t) * h / (1 + abs(h) * size) + _contract(g(x, t), w)
    if name == "stochastic_heun":
        y = x + f(x, t) * h + _contract(g(x, t), w)
        return x + (f(x, t) + f(y, s)) * h / 2 + _contract((g(x, t) + g(y, s)) / 2, w)
    if name == "stochastic_midpoint":
        y = x + f(x, t) * h / 2 + _contract(g(x, t), w) / 2
        return x + f(y, t + h / 2) * h + _contract(g(y, t + h / 2), w)
    if name == "euler_heun":
        y = x + _contract(g(x, t), w)
        return x + f(x, t) * h + _contract((g(x, t) + g(y, s)) / 2, w)
    if name == "sra1":
        chi = w / 2 + area
        z = x + 0.75 * f(x, t) * h + 1.5 * _contract(g(x, s), chi)
        drift = (f(x, t) + 2 * f(z, t + 0.75 * h)) * h / 3
        return x + drift + _contract(g(x, s), w - chi) + _contract(g(x, t), chi)
    if name == "shark":
        y = x + _contract(g(x, t), area)
        z = x + 5 / 6 * f(y, t) * h + _contract(g(x, t), 5 / 6 * w + area)
        drift = (0.4 * f(y, t) + 0.6 * f(z, t + 5 / 6 * h)) * h
        return x + drift + _contract(g(x, t), w) + _contract(g(x, s) - g(x, t), w / 2 - area)
    if name == "general_shark":
        y = x + _contract(g(x, t), area)
        z = x + 5 / 6 * f(y, t) * h + _contract(g(y, t), 5 / 6 * w) + _contract(g(x, t), area)
        end = x + (0.4 * f(y, t) + 0.6 * f(z, t + 5 / 6 * h)) * h
        return end + _contract(g(y, t), 0.4 * w + 1.2 * area) + _contract(g(z, t + 5 / 6 * h), 0.6 * w - 1.2 * area)
    if name == "milstein_free":
        r = math.sqrt(abs(h))
        y = x + f(x, t) * h
        if g(x, t).ndim > 2:
            return y + _contract(g(x, t), w)  # additive
        return y + g(x, t) * w + (g(y + g(x, t) * r, t) - g(x, t)) * (w * w - abs(h)) / (2 * r)
    raise NotImplementedError(name)


BY_HAND = (
    "euler_maruyama",
    "tamed_euler",
    "stochastic_heun",
    "stochastic_midpoint",
    "euler_heun",
    "sra1",
    "shark",
    "general_shark",
    "milstein_free",
)


def _functions(kind: str, matrix: bool) -> Functions:
    """Drift and diffusion of this noise for states (B, 2), both depending on time."""

    def f(x: Tensor, t: float) -> Tensor:
        return torch.sin(x.flip(1)) - (1 + t) * x

    def g(x: Tensor, t: float) -> Tensor:
        if kind == "additive" and not matrix:
            return (1 + t) * torch.tensor([0.3, 0.5], dtype=F64)
        if kind == "additive":
            return ((1 + t) * torch.tensor([[0.3, 0.5, 0.1], [0.2, -0.4, 0.6]], dtype=F64)).expand(*x.shape, 3)
        if kind in ("diagonal", "scalar"):
            return 0.4 * torch.cos(x) + 0.2 * t
        return 0.4 * torch.stack([torch.cos(x), torch.sin(x.flip(1)), x + t], dim=-1)

    return f, g


@pytest.mark.parametrize("back", [False, True], ids=["forwards", "backwards"])
@pytest.mark.parametrize(
    ("name", "kind", "matrix"),
    [
        (name, kind, matrix)
        for name in BY_HAND
        for kind in sk.solvers.get(name).noise_kinds
        for matrix in (False, True)
        if kind == "additive" or matrix == (kind in ("commutative", "general"))
    ],
)
def test_a_solve_is_the_loop_written_by_hand(name, kind, matrix, back):
    solver = sk.solvers.get(name)
    f, g = _functions(kind, matrix)
    sde = SDE(f, g, kind, solver.calculus[0], noise_dim=3 if matrix else None)
    x0 = _start(-1, 1, 4, 2)
    path = path_of(sde.noise_shape(x0.shape), seed=3)
    times = torch.linspace(*((1, 0) if back else (0, 1)), 9, dtype=F64)
    out = sk.solve(sde, x0, solver=name, grid=times, noise=path)
    x = x0
    for t, s in zip(times[:-1].tolist(), times[1:].tolist(), strict=True):
        step = path(t, s)
        x = _by_hand(name, (f, g), x, t, s - t, step.W, step.H)
    assert torch.allclose(out.x, x, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", KINDS)
def test_noise_that_is_not_served_is_refused_by_name_before_any_evaluation(name, kind):
    calls = 0

    def counted(x: Tensor, t: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return x

    matrix = kind in ("commutative", "general")
    g = (lambda x, t: torch.stack([x, x], -1)) if matrix else counted
    sde = SDE(counted, g, kind, noise_dim=2 if matrix else None)
    solver = sk.solvers.get(name)
    if kind in solver.noise_kinds:
        sk.solve(sde, torch.ones(2, 1, dtype=F64), t0=0, t1=0.1, solver=name, steps=2, seed=0)
        assert calls > 0
        return
    with pytest.raises(UnsupportedError, match=f"solver '{name}' .*{kind} noise"):
        sk.solve(sde, torch.ones(2, 1, dtype=F64), t0=0, t1=0.1, solver=name, steps=2, seed=0)
    assert calls == 0


def test_what_milstein_says_of_general_noise_names_what_serves():
    with pytest.raises(UnsupportedError, match=r"Levy areas.*noise='commutative'.*'spark'.*'dri1'"):
        sk.solve(NoncommutativeSDE(), torch.ones(2, 2), t0=0, t1=1, solver="milstein", steps=2, seed=0)


# States, types and times ---------------------------------------------------------------------------------------------


def _elementwise(kind: str, calculus: str = "ito") -> SDE:
    if kind == "additive":
        return SDE(lambda x, t: torch.sin(x) - t * x, 0.3, kind, calculus)
    return SDE(lambda x, t: torch.sin(x) - t * x, lambda x, t: 0.3 * torch.cos(x) + 0.1 * t, kind, calculus)


@pytest.mark.parametrize("shape", [(6,), (6, 1), (2, 3), (1, 2, 3), (1, 3, 2, 1)], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_a_state_of_any_shape(name, shape):
    kind = "diagonal" if "diagonal" in sk.solvers.get(name).noise_kinds else "additive"
    sde = _elementwise(kind)
    x0, steps = torch.linspace(-1, 1, 6, dtype=F64), torch.linspace(0, 1, 6, dtype=F64)
    path = path_of((6,), 1)
    each = [path(t, s) for t, s in zip(steps[:-1].tolist(), steps[1:].tolist(), strict=True)]

    def solved(shape: tuple[int, ...]) -> Tensor:
        given = [torch.stack([getattr(step, k) for step in each]).reshape(5, *shape) for k in "WHK"]
        return sk.solve(
            sde, x0.reshape(shape), solver=name, grid=steps, noise=GivenPath.from_increments(steps, *given)
        ).x

    if name == "tamed_euler":  # tamed by the size of a sample's drift: only a sample's shape is free
        assert torch.allclose(solved((2, 3, 1)), solved((2, 3)).reshape(2, 3, 1), rtol=1e-14, atol=1e-15)
        return
    whole = solved(shape)
    assert whole.shape == shape
    # The equations of an implicit step are solved up to a tolerance for each sample.
    near = 1e-7 if hasattr(sk.solvers.get(name), "tolerance") else 1e-14
    assert torch.allclose(whole.reshape(-1), solved((6,)), rtol=near, atol=near)


@pytest.mark.parametrize("kind", ["commutative", "general", "additive"])
def test_a_matrix_of_noise_for_a_state_with_channels(kind):
    # (B, C, H, W) with g (B, C, H, W, m) is (B, C H W) with g (B, C H W, m).
    def g(x: Tensor, t: Tensor) -> Tensor:
        y = torch.zeros_like(x) if kind == "additive" else x
        return torch.stack([0.3 + 0.1 * y, 0.2 - 0.1 * y], -1)

    sde = SDE(lambda x, t: -x, g, kind, noise_dim=2)
    x0 = torch.linspace(-1, 1, 24, dtype=F64).reshape(2, 2, 2, 3)
    for name in solvers_of(kind):
        wide = sk.solve(sde, x0, t0=0, t1=1, solver=name, steps=4, seed=1).x
        flat = sk.solve(sde, x0.reshape(2, 12), t0=0, t1=1, solver=name, steps=4, seed=1).x
        assert torch.allclose(wide.reshape(2, 12), flat, rtol=1e-13, atol=1e-14), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_any_floating_type(name, dtype):
    for kind in ("scalar", "additive", "diagonal", "commutative", "general"):
        if kind not in sk.solvers.get(name).noise_kinds:
            continue
        matrix = kind in ("commutative", "general")
        seen = set()

        def f(x: Tensor, t: Tensor, seen: set[torch.dtype] = seen) -> Tensor:
            seen.add(t.dtype)
            return torch.sin(x) - t * x

        g: Any = (lambda x, t: torch.stack([0.3 * x, 0.1 * x], -1)) if matrix else lambda x, t: 0.3 * torch.cos(x)
        if kind == "additive":
            g = 0.3
        sde = SDE(f, g, kind, noise_dim=2 if matrix else None)
        x0 = torch.linspace(-1, 1, 8).reshape(4, 2)
        exact = sk.solve(sde, x0.double(), t0=0, t1=1, solver=name, steps=8, seed=0).x
        out = sk.solve(sde, x0.to(dtype), t0=0, t1=1, solver=name, steps=8, seed=0).x
        assert out.dtype == dtype
        assert seen == {F64}  # the time is never rounded to the state's type
        # A few roundings of each of 8 steps.
        assert float((out.double() - exact).abs().max()) < 60 * torch.finfo(dtype).eps, (kind, name)


@pytest.mark.parametrize("name", solvers_of("additive"))
def test_backwards_the_law_is_that_of_the_equation_turned_round(name):
    # dX = -theta X dt + dW from t = 1 to 0 is dX = theta X du + dW in u = 1 - t: variance (e^(2 theta) - 1)/(2 theta).
    out = sk.solve(
        OrnsteinUhlenbeck(theta=0.7), torch.zeros(4000, 1, dtype=F64), t0=1, t1=0, solver=name, steps=40, seed=5
    )
    expected = math.expm1(1.4) / 1.4
    # Four standard errors of a variance of 4000 are 9 %, and Euler's bias 2 %.
    assert float(out.x.var()) == pytest.approx(expected, rel=0.11)
    assert abs(float(out.x.mean())) < 4 * math.sqrt(expected / 4000)


@pytest.mark.parametrize(
    ("name", "kind"),
    [(name, "additive") for name in solvers_of("additive")]
    + [(name, "diagonal") for name in solvers_of("diagonal", "stratonovich")],
)
def test_there_and_back_on_one_path(name, kind):
    # In Stratonovich's reading an SDE is the same backwards in time: the way back undoes the way there, up to the
    # method's error. In Ito's it is not: the correction of the drift would change its sign.
    sde = _elementwise(kind, "stratonovich")
    x0 = _start(-1, 1, 64, 2)
    path, errors = path_of((64, 2), 2), []
    for n in (16, 128):
        there = sk.solve(sde, x0, t0=0, t1=1, solver=name, steps=n, noise=path).x
        back = sk.solve(sde, there, t0=1, t1=0, solver=name, steps=n, noise=path).x
        errors.append(float((back - x0).square().mean().sqrt()))
    assert errors[1] < 0.02
    assert errors[1] < 0.3 * errors[0] or errors[1] < 1e-12


# Parameters ----------------------------------------------------------------------------------------------------------


class _Module(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rate = torch.nn.Parameter(torch.tensor(0.7, dtype=F64))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return -self.rate * x


def test_modules_functions_and_numbers_are_one_sde():
    x0 = _start(-1, 1, 4, 2)
    how = {"t0": 0, "t1": 1, "steps": 8, "seed": 0, "solver": "shark"}
    ends = [
        sk.solve(sde, x0, **how).x
        for sde in (
            SDE(_Module(), 0.3, "additive"),
            SDE(lambda x, t: -0.7 * x, torch.tensor(0.3, dtype=F64), "additive"),
            SDE(lambda x, t: -0.7 * x, lambda x, t: torch.tensor(0.3), "additive"),
            OrnsteinUhlenbeck(0.7, 0.0, 0.3),
            OrnsteinUhlenbeck(torch.full((4, 1), 0.7, dtype=F64), 0.0, torch.full((4, 1), 0.3, dtype=F64)),
        )
    ]
    for end in ends[1:]:
        assert not end.requires_grad
        assert torch.allclose(end, ends[0], rtol=1e-7)  # 0.3 of float32 in one of them


def _sets(kind: str) -> tuple[Any, list[Any], int]:
    """An SDE with a parameter set a sample, and the SDE of each set alone."""
    n = 5
    rate, size = torch.linspace(0.2, 2, n, dtype=F64)[:, None], torch.linspace(0.1, 0.6, n, dtype=F64)[:, None]
    if kind == "classical":
        one = [OrnsteinUhlenbeck(rate[i : i + 1], 0.0, size[i : i + 1]) for i in range(n)]
        return OrnsteinUhlenbeck(rate, 0.0, size), one, n

    def f(x: Tensor, t: Tensor, rate: Tensor, size: Tensor) -> Tensor:
        return -rate * x + t

    def g(x: Tensor, t: Tensor, rate: Tensor, size: Tensor) -> Tensor:
        if kind == "additive":
            return size + 0 * rate
        return size * torch.cos(x) if kind == "diagonal" else torch.stack([size * torch.cos(x), size * x], -1)

    m = 2 if kind == "general" else None

    def made(a: Tensor, b: Tensor) -> SDE:
        return SDE(f, g, kind, noise_dim=m, parameters={"rate": a, "size": b})

    return made(rate, size), [made(rate[i : i + 1], size[i : i + 1]) for i in range(n)], n


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (name, kind)
        for kind in ("classical", "additive", "diagonal", "general")
        for name in solvers_of("additive" if kind == "classical" else kind)
    ],
)
def test_a_batch_of_parameter_sets_is_one_solve_for_each(name, kind):
    sde, alone, n = _sets(kind)
    x0 = _start(-1, 1, n, 2)
    how = {"t0": 0, "t1": 1, "solver": name, "steps": 7, "seed": 3}
    whole = sk.solve(sde, x0, **how).x
    assert torch.equal(whole, sk.solve(sde, x0, chunk=2, **how).x)
    for i in range(n):
        own = sk.solve(alone[i], x0[i : i + 1], first=i, **how).x
        assert torch.equal(own[0], whole[i])
    if kind == "classical":  # numbers have shorter ways through torch, which may round otherwise
        rate, size = float(sde.theta[2]), float(sde.sigma[2])
        own = sk.solve(OrnsteinUhlenbeck(rate, 0.0, size), x0[2:3], first=2, **how).x
        assert torch.allclose(own[0], whole[2], rtol=1e-13)


@pytest.mark.parametrize("name", ["adaptive:sosra", "adaptive:spark", "adaptive:sosri"])
def test_a_batch_of_parameter_sets_under_an_adaptive_solver(name):
    kind = {"adaptive:sosra": "additive", "adaptive:spark": "general", "adaptive:sosri": "diagonal"}[name]
    sde, alone, n = _sets(kind)
    x0 = _start(-1, 1, n, 2)
    how = {"t0": 0, "t1": 1, "solver": name, "seed": 3, "rtol": 1e-2, "atol": 1e-2}
    whole = sk.solve(sde, x0, **how)
    assert len(set(whole.nfe.tolist())) > 1  # so that some leave the batch before others
    assert torch.equal(whole.x, sk.solve(sde, x0, chunk=2, **how).x)
    for i in range(n):
        own = sk.solve(alone[i], x0[i : i + 1], first=i, **how)
        assert torch.equal(own.x[0], whole.x[i])
        assert int(own.nfe[0]) == int(whole.nfe[i])


def test_a_constant_diffusion_with_a_row_for_each_sample_is_cut_with_the_batch():
    rows = torch.linspace(0.1, 0.9, 5, dtype=F64)
    matrix = rows[:, None, None] * torch.tensor([[1.0, 0.5, 0.0], [0.0, 1.0, -1.0]], dtype=F64)
    for g, m in ((rows[:, None], None), (matrix, 3)):
        sde, x0 = SDE(lambda x, t: -x, g, "additive", noise_dim=m), _start(-1, 1, 5, 2)
        how = {"t0": 0, "t1": 1, "solver": "sra1", "steps": 4, "seed": 0}
        whole = sk.solve(sde, x0, **how).x
        assert torch.equal(sk.solve(sde, x0, chunk=2, **how).x, whole)
        tolerant = {"t0": 0, "t1": 1, "solver": "sosra", "rtol": 1e-3, "atol": 1e-3, "seed": 0}
        ends = sk.solve(sde, x0, **tolerant)
        assert len(set(ends.nfe.tolist())) > 1  # so that some leave the batch before others
        for i in range(5):
            alone = SDE(lambda x, t: -x, g[i : i + 1], "additive", noise_dim=m)
            assert torch.equal(sk.solve(alone, x0[i : i + 1], first=i, **how).x[0], whole[i])
            assert torch.equal(sk.solve(alone, x0[i : i + 1], first=i, **tolerant).x[0], ends.x[i])
    # A constant that all samples share stays whole.
    shared = SDE(lambda x, t: -x, torch.tensor([0.3, 0.6], dtype=F64), "additive")
    assert shared.rows(slice(0, 1), (2, 2)) is shared


def test_closed_form_sdes_take_a_batch_of_parameters():
    a = torch.linspace(0.2, 1, 4, dtype=F64)[:, None]
    x0 = _start(-0.5, 0.5, 4, 2)
    how = {"t0": 0, "t1": 1, "solver": "sriw1", "steps": 5, "seed": 3}
    for family in (TanhSDE, ArctanSDE):
        whole = sk.solve(family(a=a), x0, **how).x
        for i in range(4):
            assert torch.equal(sk.solve(family(a=a[i : i + 1]), x0[i : i + 1], first=i, **how).x[0], whole[i])


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"rate": torch.ones(3, 1)}, "parameter 'rate' has shape \\(3, 1\\) for a batch of 4"),
        ({"rate": torch.ones(())}, "parameters hold tensors of shape"),
        ({"rate": 0.3}, "parameters hold tensors of shape"),
        ([("rate", torch.ones(4, 1))], "parameters must be a dict"),
    ],
)
def test_parameters_that_do_not_fit_are_told_at_the_door(parameters, message):
    calls = 0

    def f(x: Tensor, t: Tensor, rate: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return -rate * x

    with pytest.raises(ArgumentError, match=message):
        sk.solve(SDE(f, 1.0, "additive", parameters=parameters), torch.ones(4, 2), t0=0, t1=1, steps=2, seed=0)
    with pytest.raises(ArgumentError, match=message):
        sk.solve(sk.ODE(f, parameters=parameters), torch.ones(4, 2), t0=0, t1=1, solver="rk4", steps=2)
    assert calls == 0


@pytest.mark.parametrize("shape", [(3, 1), (5, 1), (4,), (4, 2, 1)], ids=str)
def test_a_classical_parameter_that_does_not_broadcast_is_told(shape):
    with pytest.raises(ShapeError, match="does not broadcast to the state's"):
        sk.solve(OrnsteinUhlenbeck(torch.ones(shape)), torch.ones(4, 2), t0=0, t1=1, steps=2, seed=0)
    with pytest.raises(ShapeError, match="does not broadcast to the state's"):  # a chunk of 3 would fit (3, 1)
        sk.solve(OrnsteinUhlenbeck(torch.ones(shape)), torch.ones(4, 2), t0=0, t1=1, steps=2, seed=0, chunk=3)


@pytest.mark.parametrize(
    ("drift", "diffusion", "noise", "dim", "message"),
    [
        (lambda x, t: x[:, :1], 1.0, "diagonal", None, "the drift returned a tensor of shape"),
        (lambda x, t: 0.0, 1.0, "diagonal", None, "the drift must return a tensor"),
        (lambda x, t: x, lambda x, t: torch.ones(3), "diagonal", None, "a shape that broadcasts to"),
        (lambda x, t: x, lambda x, t: x, "general", 2, r"expected \(4, 2, 2\)"),
        (lambda x, t: x, lambda x, t: 1.0, "diagonal", None, "the diffusion must return a tensor"),
    ],
)
def test_functions_that_return_another_shape_are_told(drift, diffusion, noise, dim, message):
    with pytest.raises(ArgumentError, match=message):
        sk.solve(SDE(drift, diffusion, noise, noise_dim=dim), torch.ones(4, 2), t0=0, t1=1, steps=2, seed=0)


@pytest.mark.parametrize(
    ("noise", "dim"), [("general", None), ("commutative", None), ("scalar", 2), ("diagonal", 2), ("general", 0)]
)
def test_noise_dim_goes_with_a_matrix(noise, dim):
    with pytest.raises(ArgumentError, match="noise_dim"):
        SDE(lambda x, t: x, lambda x, t: x, noise, noise_dim=dim)


# Calculus ------------------------------------------------------------------------------------------------------------

TWINS = {
    "tanh": (TanhSDE(a=0.7), TanhSDE(a=0.7, calculus="stratonovich"), _start(-0.8, 0.8, 8, 2)),
    "tanh scalar": (
        TanhSDE(a=0.7, noise="scalar"),
        TanhSDE(a=0.7, noise="scalar", calculus="stratonovich"),
        _start(-0.8, 0.8, 8, 2),
    ),
    "arctan": (ArctanSDE(a=0.7), ArctanSDE(a=0.7, calculus="stratonovich"), _start(-1, 1, 8, 2)),
    "commutative": (CommutativeLinearSDE(), CommutativeLinearSDE(calculus="stratonovich"), _start(-1, 1, 8, 3)),
    "general": (NoncommutativeSDE(), NoncommutativeSDE(calculus="stratonovich"), _start(-1, 1, 8, 2)),
    "cubic": (CubicMultiplicative(), CubicMultiplicative(calculus="stratonovich"), _start(-1, 1, 8, 2)),
    "additive": (DecayingAdditiveSDE(), DecayingAdditiveSDE(calculus="stratonovich"), _start(-1, 1, 8, 2)),
    "gbm": (
        GeometricBrownianMotion(0.3, 0.5),
        SDE(lambda x, t: (0.3 - 0.5 * 0.25) * x, lambda x, t: 0.5 * x, "diagonal", "stratonovich"),
        _start(0.5, 2, 8, 2),
    ),
}


@pytest.mark.parametrize("name", TWINS)
@pytest.mark.parametrize(
    "t", [torch.tensor(0.4, dtype=F64), torch.linspace(0.1, 0.8, 8, dtype=F64)], ids=["one", "each"]
)
def test_conversion_gives_the_drift_derived_by_hand(name, t):
    ito, stratonovich, x = TWINS[name]
    assert torch.allclose(as_stratonovich(ito).drift(x, t), stratonovich.drift(x, t), rtol=1e-12, atol=1e-14)
    assert torch.allclose(as_ito(stratonovich).drift(x, t), ito.drift(x, t), rtol=1e-12, atol=1e-14)
    assert torch.equal(as_ito(stratonovich).diffusion(x, t), stratonovich.diffusion(x, t))
    assert as_stratonovich(ito).calculus == "stratonovich"
    assert as_ito(stratonovich).noise == stratonovich.noise
    assert as_ito(stratonovich).noise_shape(x.shape) == stratonovich.noise_shape(x.shape)


def test_conversion_undone_is_the_object_itself():
    ito, stratonovich, _ = TWINS["tanh"]
    assert as_ito(ito) is ito
    assert as_ito(as_stratonovich(ito)) is ito
    assert as_stratonovich(as_ito(stratonovich)) is stratonovich
    assert as_stratonovich(ito) == as_stratonovich(ito) != ito
    assert len({as_stratonovich(ito), as_stratonovich(ito)}) == 1
    assert "stratonovich" in repr(as_stratonovich(ito))


def test_the_correction_of_a_matrix_is_the_sum_over_columns_of_jacobian_times_column():
    def g(x: Tensor, t: Tensor) -> Tensor:
        a, b = x[:, :1], x[:, 1:]
        return torch.stack([torch.cat([a * b, a], 1), torch.cat([b.sin(), a * a], 1), torch.cat([b, b * b], 1)], -1)

    sde = SDE(lambda x, t: x, g, "general", noise_dim=3)
    x = _start(-1, 1, 4, 2)
    t = torch.tensor(0.0, dtype=F64)
    expected = torch.zeros_like(x)
    for i in range(4):
        columns = g(x[i : i + 1], t)[0]
        jacobian = torch.autograd.functional.jacobian(lambda y: g(y[None], t)[0], x[i])  # (2, 3, 2)
        for j in range(3):
            expected[i] += 0.5 * jacobian[:, j] @ columns[:, j]
    assert torch.allclose(correction(sde, x, t), expected, rtol=1e-13, atol=1e-14)


def test_the_two_readings_are_two_solutions_and_conversion_is_told():
    x0 = torch.ones(2000, 1, dtype=F64)
    sde = GeometricBrownianMotion(0.0, 1.0)
    path = path_of((2000, 1))
    how = {"t0": 0, "t1": 1, "steps": 256, "noise": path}
    exact = sde.path(x0, 1.0, path(1.0).W)
    ito = sk.solve(sde, x0, solver="stochastic_heun", **how)
    assert ito.stats["converted"] == "ito to stratonovich"
    assert float((ito.x / exact - 1).square().mean().sqrt()) < 0.02
    read = SDE(lambda x, t: 0 * x, lambda x, t: x, "diagonal", "stratonovich")
    out = sk.solve(read, x0, solver="euler_maruyama", **how)
    assert out.stats["converted"] == "stratonovich to ito"
    assert float((out.x / path(1.0).W.exp() - 1).square().mean().sqrt()) < 0.1
    assert "converted" not in sk.solve(sde, x0, solver="euler_maruyama", **how).stats
    assert "converted" not in sk.solve(read, x0, solver="milstein", **how).stats


def test_a_conversion_is_told_of_chunks_too():
    x0 = torch.ones(4, 1, dtype=F64)
    how = {"t0": 0, "t1": 1, "steps": 8, "seed": 0, "solver": "stochastic_heun"}
    whole, cut = (sk.solve(GeometricBrownianMotion(), x0, chunk=c, **how) for c in (None, 3))
    assert cut.stats["converted"] == "ito to stratonovich"
    assert torch.equal(whole.x, cut.x)


_LEARNED = torch.tensor(0.5, dtype=F64, requires_grad=True)


@pytest.mark.parametrize(
    ("diffusion", "message"),
    [
        (lambda x, t: 0.5 * x.detach(), "torch sees no derivative"),
        (lambda x, t: torch.from_numpy(0.5 * x.detach().numpy().copy()), "torch sees no derivative|cannot be differ"),
        (
            lambda x, t: torch.tensor(0.5 * x.tolist()[0][0]).expand(x.shape),
            "torch sees no derivative|cannot be differ",
        ),
        (lambda x, t: torch.from_numpy(0.5 * x.numpy()), "cannot be differentiated by torch"),
        # That its parameter requires a gradient hides nothing.
        (lambda x, t: _LEARNED * x.detach(), "torch sees no derivative"),
    ],
    ids=["detached", "numpy", "python", "raw numpy", "detached beside a parameter"],
)
def test_a_diffusion_that_torch_cannot_follow_is_refused(diffusion, message):
    sde = SDE(lambda x, t: x, diffusion, "diagonal")
    with pytest.raises(UnsupportedError, match=message):
        sk.solve(sde, torch.ones(2, 1, dtype=F64), t0=0, t1=1, solver="stochastic_heun", steps=2, seed=0)


def _volatility(x: Tensor, t: Tensor) -> Tensor:
    # Heston's: the diffusion of the price depends on the variance too.
    root = x[:, 1:].sqrt()
    return torch.cat([root * x[:, :1], 0.3 * root], dim=1)


@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
def test_diagonal_noise_whose_entries_are_coupled_is_not_converted_entry_by_entry(dtype):
    x0 = torch.tensor([[1.0, 0.2], [0.5, 0.3]], dtype=dtype)
    how = {"t0": 0, "t1": 1, "steps": 4, "seed": 0}
    diagonal = SDE(lambda x, t: 0.1 - x, _volatility, "diagonal")
    with pytest.raises(UnsupportedError, match=r"declared diagonal, but an entry.*torch\.diag_embed"):
        sk.solve(diagonal, x0, solver="slowrk", **how)
    with pytest.raises(UnsupportedError, match="or other samples"):
        sk.solve(SDE(lambda x, t: -x, lambda x, t: x + x.mean(0), "diagonal"), x0, solver="slowrk", **how)
    matrix = SDE(lambda x, t: 0.1 - x, lambda x, t: torch.diag_embed(_volatility(x, t)), "general", noise_dim=2)
    # What was advised is the same SDE, and is converted by the right derivatives.
    t = torch.tensor(0.0, dtype=dtype)
    price, variance = x0.unbind(1)
    by_hand = torch.stack([variance * price / 2, torch.full_like(price, 0.09 / 4)], dim=1)
    assert torch.allclose(correction(matrix, x0, t), by_hand, rtol=1e-5)
    assert bool(sk.solve(diagonal, x0, solver="euler_maruyama", **how).x.isfinite().all())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, F64], ids=str)
@pytest.mark.parametrize(
    "diffusion",
    [
        lambda x, t: x.sin().square() + x.cos().square(),  # its derivative is nothing but rounding
        lambda x, t: 100 + 1e-3 * x,
        lambda x, t: (1 - x) * (1 + x),
        lambda x, t: x.abs().sqrt(),  # of derivative infinity at 0
        lambda x, t: 1e3 * torch.tanh(5 * x) + t,
        lambda x, t: torch.tensor([0.1, 2.0, 0.0, 1.0], dtype=x.dtype) * x,
        lambda x, t: x.square().cumsum(1).diff(dim=1, prepend=torch.zeros_like(x[:, :1])),
    ],
)
def test_diagonal_noise_of_its_own_entries_is_converted(diffusion, dtype):
    x0 = torch.linspace(-1, 1, 44).reshape(11, 4)
    x0[5] = torch.tensor([0.0, 1e-3, 50.0, -50.0])
    sde = as_stratonovich(SDE(lambda x, t: -x, diffusion, "diagonal"))
    sde.check(x0.to(dtype), torch.tensor(0.5, dtype=F64))


@pytest.mark.parametrize("name", ["milstein", "milstein_free"])
def test_milstein_refuses_coupled_entries_where_its_correction_would_be_wrong(name):
    x0 = torch.tensor([[1.0, 0.2], [0.5, 0.3]], dtype=F64)
    how = {"t0": 0, "t1": 1, "steps": 4, "seed": 0, "solver": name}
    with pytest.raises(UnsupportedError, match="declared diagonal, but an entry"):
        sk.solve(SDE(lambda x, t: 0.1 - x, _volatility, "diagonal", "stratonovich"), x0, **how)
    own = SDE(lambda x, t: 0.1 - x, lambda x, t: 0.1 * x, "diagonal", "stratonovich")
    assert bool(sk.solve(own, x0, **how).x.isfinite().all())


def test_a_state_that_grows_as_no_equation_should_is_said_to_do_so():
    stiff = SDE(lambda x, t: -1e4 * x, lambda x, t: 0.1 + 0 * x, "diagonal")
    x0 = torch.ones(3, 1, dtype=F64)
    with pytest.warns(RuntimeWarning, match=r"'euler_maruyama' ended with a state of size .*e\+1\d\d, from one of 1\."):
        sk.solve(stiff, x0, t0=0, t1=1, solver="euler_maruyama", steps=50, seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sk.solve(stiff, x0, t0=0, t1=1, solver="drift_implicit", steps=50, seed=0)
        sk.solve(SDE(lambda x, t: 20 * x, 0.1, "additive"), x0, t0=0, t1=1, steps=50, seed=0)  # e^20 is meant


def test_implicit_steps_in_inference_mode():
    sde, x0 = SDE(lambda x, t: -50 * x.pow(3) - x, 0.2, "additive"), _start(-0.5, 0.5, 3, 2)
    for name in ("drift_implicit", "skencarp"):
        how = {"t0": 0, "t1": 1, "steps": 5, "seed": 0, "solver": name}
        expected = sk.solve(sde, x0, **how).x
        with torch.inference_mode():
            assert torch.equal(sk.solve(sde, x0.clone(), **how).x, expected)


@pytest.mark.parametrize("name", ["slowrk", "milstein"])
def test_derivatives_of_the_diffusion_in_inference_mode(name):
    how = {"t0": 0, "t1": 1, "steps": 4, "seed": 0, "solver": name}
    for sde in (TanhSDE(), TanhSDE(noise="scalar"), _elementwise("diagonal", "stratonovich"), CommutativeLinearSDE()):
        x0 = _start(-0.5, 0.5, 3, 3)
        expected = sk.solve(sde, x0, **how).x
        with torch.inference_mode():
            assert torch.equal(sk.solve(sde, x0.clone(), **how).x, expected)


@pytest.mark.parametrize("noise", ["scalar", "diagonal"])
def test_derivatives_of_the_diffusion_leave_no_graph(noise):
    # A graph from step to step would be memory that grows with their number.
    sde, x = SDE(lambda x, t: -x, lambda x, t: _LEARNED * x, noise), _start(1, 2, 2, 2)
    t = torch.tensor(0.0, dtype=F64)
    for recorded in (False, True):
        with torch.set_grad_enabled(recorded):
            found = diagonal_derivative(sde, x, t) if noise == "diagonal" else derivative_along(sde, x, t, x)
            assert all(value.requires_grad == recorded for value in found)
            assert correction(sde, x, t).requires_grad == recorded


def test_only_an_sde_is_converted():
    with pytest.raises(ArgumentError, match=r"got float.*TorchsdeStyle\(sde\)"):
        as_ito(3.0)


def test_a_diffusion_that_does_not_change_with_x_is_converted_to_itself():
    # Declared diagonal, though it is additive: torch sees no derivative, and there is none.
    sde = SDE(lambda x, t: -x, lambda x, t: 0.5 + 0 * x.detach(), "diagonal")
    x0 = torch.ones(3, 2, dtype=F64)
    how = {"t0": 0, "t1": 1, "steps": 4, "seed": 0, "solver": "stochastic_heun"}
    additive = SDE(lambda x, t: -x, 0.5, "additive")
    assert torch.allclose(sk.solve(sde, x0, **how).x, sk.solve(additive, x0, **how).x, rtol=1e-15)


@pytest.mark.parametrize(
    ("name", "stands_for"),
    [
        ("euler", "euler_maruyama"),
        ("heun", "stochastic_heun"),
        ("midpoint", "stochastic_midpoint"),
        ("Heun", "stochastic_heun"),
    ],
)
def test_names_of_ode_methods_stand_for_their_namesakes_on_an_sde(name, stands_for):
    x0 = torch.ones(3, 2, dtype=F64)
    how = {"t0": 0, "t1": 1, "steps": 8, "seed": 0}
    for sde in (GeometricBrownianMotion(), TanhSDE(0.3, calculus="stratonovich")):
        given = x0 * 0.5
        assert torch.equal(sk.solve(sde, given, solver=name, **how).x, sk.solve(sde, given, solver=stands_for, **how).x)
    ode = sk.ODE(lambda x, t: -x)
    assert float(sk.solve(ode, x0, t0=0, t1=1, steps=8, solver=name).x[0, 0]) == pytest.approx(math.exp(-1), abs=0.03)


def test_an_ode_method_as_an_object_does_not_serve_an_sde():
    with pytest.raises(UnsupportedError, match="integrates an ODE"):
        sk.solve(OrnsteinUhlenbeck(), torch.ones(2, 1), t0=0, t1=1, solver=sk.solvers.get("heun"), steps=2, seed=0)


def test_rereading_keeps_parameters_for_each_sample():
    sde = SDE(
        lambda x, t, a: -x,
        lambda x, t, a: a * torch.cos(x),
        "diagonal",
        "stratonovich",
        parameters={"a": torch.linspace(0, 1, 5, dtype=F64)[:, None]},
    )
    x0 = _start(-1, 1, 5, 2)
    how = {"t0": 0, "t1": 1, "solver": "euler_maruyama", "steps": 4, "seed": 0}
    assert torch.equal(sk.solve(sde, x0, chunk=2, **how).x, sk.solve(sde, x0, **how).x)
    whole = as_ito(sde)
    assert isinstance(whole, Reread)
    part = whole.rows(torch.tensor([1, 3]), (5, 2))
    t = torch.tensor(0.0, dtype=F64)
    assert torch.equal(part.drift(x0[[1, 3]], t), whole.drift(x0, t)[[1, 3]])


# Brownian paths ------------------------------------------------------------------------------------------------------


def _served(name: str) -> Any:
    """An SDE that a solver serves, and is not additive where it serves more."""
    return _elementwise("diagonal" if "diagonal" in sk.solvers.get(name).noise_kinds else "additive")


@pytest.mark.parametrize("name", [name for name in NAMES if name not in WEAK])
def test_every_solver_takes_a_path_and_twice_the_steps_are_nearer(name):
    sde, x0 = _served(name), _start(-0.5, 0.5, 128, 1)
    path = path_of((128, 1), 4)
    ends = [sk.solve(sde, x0, t0=0, t1=1, solver=name, steps=n, noise=path).x for n in (8, 16, 128, 256)]
    coarse, fine = (float((ends[i + 1] - ends[i]).square().mean().sqrt()) for i in (0, 2))
    assert fine < 0.5 * coarse
    # Steps that are no cells of the path, too.
    odd = sk.solve(sde, x0, t0=0, t1=1, solver=name, steps=37, noise=path).x
    assert float((odd - ends[3]).square().mean().sqrt()) < coarse


@pytest.mark.parametrize("steps", [8, 7])
@pytest.mark.parametrize("name", NAMES)
def test_on_a_path_alone_in_a_batch_and_in_chunks_are_one(name, steps):
    sde, x0 = _served(name), _start(-0.5, 0.5, 5, 2)
    path = path_of((5, 2), 4, cells=8)
    how = {"t0": 0, "t1": 1, "solver": name, "steps": steps}
    whole = sk.solve(sde, x0, noise=path, **how).x
    assert torch.equal(sk.solve(sde, x0, noise=path, chunk=2, **how).x, whole)
    for i in range(5):
        assert torch.equal(sk.solve(sde, x0[i : i + 1], noise=path.part(i, i + 1, 5), **how).x[0], whole[i])
        own = path_of((1, 2), 4, cells=8, first=i)
        assert torch.equal(sk.solve(sde, x0[i : i + 1], noise=own, **how).x[0], whole[i])


@pytest.mark.parametrize("name", NAMES)
def test_given_paths_are_the_path_they_were_taken_from(name):
    sde, x0 = _served(name), _start(-0.5, 0.5, 3, 2)
    path, times = path_of((3, 2), 4), torch.linspace(0, 1, 9, dtype=F64)
    steps = [path(t, s) for t, s in zip(times[:-1].tolist(), times[1:].tolist(), strict=True)]
    w, h, k = (torch.stack([getattr(step, a) for step in steps]) for a in "WHK")
    values = torch.cat([torch.zeros_like(w[:1]), w.cumsum(0)])
    expected = sk.solve(sde, x0, solver=name, grid=times, noise=path).x
    for given in (GivenPath.from_increments(times, w, h, k), GivenPath(times, values, h, k)):
        assert torch.allclose(sk.solve(sde, x0, solver=name, grid=times, noise=given).x, expected, atol=1e-13)
    function = FunctionPath(lambda t: path(0.0, t).W)
    if getattr(sk.solvers.get(name), "areas", 0) == 0:
        assert torch.allclose(sk.solve(sde, x0, solver=name, grid=times, noise=function).x, expected, atol=1e-13)
    else:
        with pytest.raises(UnsupportedError, match=r"this solver needs the space-time Levy area H|needs W, H and K"):
            sk.solve(sde, x0, solver=name, grid=times, noise=function)


@pytest.mark.parametrize("steps", [8, 7])
@pytest.mark.parametrize("name", NAMES)
def test_a_solve_on_a_path_can_be_split_and_resumed(name, steps):
    sde, x0 = _served(name), _start(-0.5, 0.5, 3, 2)
    how = {"t0": 0, "t1": 1, "solver": name, "steps": steps, "noise": path_of((3, 2), 4, cells=8)}
    whole = sk.solve(sde, x0, **how)
    half = sk.solve(sde, x0, stop=3, **how)
    rest = sk.solve(sde, x0, resume=half.state, **how)
    assert torch.equal(rest.x, whole.x)
    assert rest.nfe == whole.nfe
    with pytest.raises(ArgumentError, match="the noise"):
        sk.solve(sde, x0, resume=half.state, **{**how, "noise": path_of((3, 2), 5, cells=8)})


@pytest.mark.parametrize("name", ["sra1", "shark", "euler_maruyama", "adaptive:sosra"])
def test_values_kept_lie_on_the_path(name):
    # dX = dW: the value at any time is the path's.
    sde, path = SDE(lambda x, t: 0 * x, 1.0, "additive"), path_of((3, 2), 4)
    how = {"steps": 16} if not name.startswith("adaptive") else {"rtol": 1e-3, "atol": 1e-3}
    asked = [0.0, 0.1, 0.25, 0.7123, 1.0]
    out = sk.solve(sde, torch.zeros(3, 2, dtype=F64), t0=0, t1=1, solver=name, save_at=asked, noise=path, **how)
    assert out.trajectory_times.tolist() == asked
    for t, x in zip(asked, out.trajectory, strict=True):
        assert torch.allclose(x, path(0.0, t).W, atol=1e-12)


def test_a_path_of_another_shape_or_span_is_told():
    sde, x0 = TanhSDE(noise="scalar"), torch.zeros(3, 2, dtype=F64)
    how = {"t0": 0, "t1": 1, "solver": "milstein", "steps": 4}
    with pytest.raises(ShapeError, match=r"shape \(3, 2\).*shape \(3, 1\)"):
        sk.solve(sde, x0, noise=path_of((3, 2)), **how)
    sk.solve(sde, x0, noise=path_of((3, 1)), **how)
    with pytest.raises(ArgumentError):
        sk.solve(sde, x0, noise=path_of((3, 1)), **{**how, "t1": 1.5})


# Hard drifts ---------------------------------------------------------------------------------------------------------


def test_a_superlinear_drift_ends_in_the_right_answer_or_is_named():
    x0 = torch.full((64, 1), 40.0, dtype=F64)
    how = {"t0": 0, "t1": 1, "steps": 64, "seed": 0}
    for sde in (DoubleWell(), CubicMultiplicative()):
        with pytest.raises(
            NonFiniteError, match=r"'euler_maruyama' reached a non-finite state at step \d+ \(t = "
        ) as e:
            sk.solve(sde, x0, solver="euler_maruyama", **how)
        assert e.value.step <= 10
        tamed = sk.solve(sde, x0, solver="tamed_euler", **{**how, "steps": 512}).x
        assert float(tamed.abs().max()) < 6


def test_a_stiff_drift_with_too_long_steps_is_named():
    with pytest.raises(NonFiniteError, match="take more steps"):
        sk.solve(StiffLinear(k=1e4), torch.ones(4, 1), t0=0, t1=1, solver="euler_maruyama", steps=200, seed=0)


@pytest.mark.parametrize("name", NAMES)
def test_a_drift_that_is_nan_past_a_time_is_named_with_its_step(name):
    kind = "diagonal" if "diagonal" in sk.solvers.get(name).noise_kinds else "additive"
    g: Any = (lambda x, t: 0.1 * x) if kind == "diagonal" else 0.1

    def f(x: Tensor, t: Tensor) -> Tensor:
        return torch.where((t > 0.52) & (x > 0), math.nan, -x)

    x0 = torch.tensor([[5.0], [-5.0], [6.0]], dtype=F64)
    with pytest.raises(NonFiniteError) as caught:
        sk.solve(SDE(f, g, kind), x0, t0=0, t1=1, solver=name, steps=10, seed=0)
    assert caught.value.solver == name
    assert caught.value.step in ((3,) if name == "sosri" else (5, 6, 7))  # sosri evaluates 3.75 steps ahead
    assert caught.value.time == pytest.approx(caught.value.step / 10)
    assert caught.value.samples == [0, 2]


@pytest.mark.parametrize("name", ["slowrk", "spark", "stochastic_heun", "general_shark", "euler_maruyama", "sriw1"])
@pytest.mark.parametrize("calculus", ["ito", "stratonovich"])
def test_a_converted_sde_is_the_same_with_time_running_down(name, calculus):
    # In the time u that has passed dX = -mu X du + sigma X dB: E X = e^(-mu u), and e^(-mu u + sigma^2 u/2) where it is
    # read in Stratonovich's sense. 4 standard errors of 20,000 samples, and 1 % for the steps.
    mu, sigma, n = 0.5, 0.8, 20_000
    sde = sk.SDE(lambda x, t: mu * x, lambda x, t: sigma * x, calculus=calculus)
    start = torch.ones(n, 1, dtype=torch.float64)
    for t0, t1, sign in ((1.0, 0.0, -1.0), (0.0, 1.0, 1.0)):
        out = sk.solve(sde, start, t0=t0, t1=t1, solver=name, steps=50, seed=1)
        exact = math.exp(sign * mu + (0.5 * sigma**2 if calculus == "stratonovich" else 0.0))
        error = abs(float(out.x.mean()) - exact) / exact
        assert error < 4 * math.sqrt(math.expm1(sigma**2) / n) + 0.01
    assert ("converted" in out.stats) == (calculus not in sk.solvers.get(name).calculus)


def test_a_drift_and_a_diffusion_may_be_views_of_the_state():
    start = torch.tensor([[1.0, 2.0, 3.0], [0.5, -1.0, 4.0]], dtype=torch.float64)
    run = {"t0": 0.0, "t1": 1.0, "solver": "euler_maruyama", "steps": 5, "seed": 0}
    turned = torch.tensor([2, 0, 1])
    views = (
        (lambda x, t: x, lambda x, t: x),
        (lambda x, t: x[:, :1].expand(x.shape), lambda x, t: x[:, 1:2]),
        (lambda x, t: x[:, 2:].expand(x.shape), lambda x, t: x),
    )
    for f, g in views:
        viewed = sk.solve(sk.SDE(f, g), start, **run).x
        copied = sk.solve(sk.SDE(lambda x, t, f=f: f(x, t).clone(), lambda x, t, g=g: g(x, t).clone()), start, **run).x
        assert torch.equal(viewed, copied)
    rolled = sk.solve(sk.SDE(lambda x, t: x[:, turned], 0.1, noise="additive"), start, **run).x
    assert bool(torch.isfinite(rolled).all())
