"""`verify` on SDEs and ODEs of the user's own: each kind of wrong solver is caught, where it should be, right ones not.

The SDEs' solutions that it measures against are checked here by ways of their own.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from dataclasses import dataclass

import pytest
import torch

import sdekit as sk
from sdekit.errors import UnsupportedError
from sdekit.experiments.verification import Finding, verify
from sdekit.experiments.verification.adaptive_sdes import problems_for, rejection_bias
from sdekit.experiments.verification.brownian import SharedPath
from sdekit.experiments.verification.general import general_findings, is_general
from sdekit.experiments.verification.sde_problems import PROBLEMS
from sdekit.experiments.verification.strong import measure
from sdekit.experiments.verification.weak import affine_response, circle_order, linear_order
from sdekit.noise import BrownianPath, Increment
from sdekit.sdes import OrnsteinUhlenbeck
from sdekit.solvers.ode.base import ExplicitRungeKutta
from sdekit.solvers.sde import dri1
from sdekit.solvers.sde.additive import SRA1, ShARK, sra
from sdekit.solvers.sde.heun import StochasticHeun
from sdekit.solvers.sde.langevin import BAOAB, UBU
from sdekit.solvers.sde.milstein import MilsteinFree
from sdekit.solvers.sde.slowrk import SlowRK
from sdekit.solvers.sde.tableau import Row, StochasticRungeKutta
from sdekit.solvers.step import StepSolver, euler_step

F64 = torch.float64


def measured(solver: sk.solvers.Solver, make=None) -> list[Finding]:
    return list(general_findings("mine", solver, make or (lambda **_: solver)))


def failing(findings: list[Finding]) -> set[tuple[str, str]]:
    return {(f.check, f.on) for f in findings if not f.passed}


LIVELY = {("strong order", on) for on in ("OU", "double well")}
ADDITIVE = LIVELY | {("strong order", "decaying noise")}
DIAGONAL = {("strong order", on) for on in ("GBM", "tanh", "arctan of OU")}
SCALAR = {("strong order", "arctan")}
GBM = ("strong order", "GBM")


# Wrong solvers -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class Wrong(StochasticRungeKutta):
    """A method of the tests, additive of order 1.5 unless it says otherwise."""

    name, reference = "wrong", "nobody 2026"
    strong_order, weak_order, evaluations_per_step, areas = 1.5, 2.0, 2, 1
    noise_kinds = ("additive",)


class WithIncrement(Wrong):
    """SRA1 on an increment that is not the one given."""

    tableau = SRA1.tableau

    def step_formula(self, dynamics, x, t, s, h, noise):
        return super().step_formula(dynamics, x, t, s, h, self.changed(noise))


class WrongScale(WithIncrement):
    """H of variance h/3 in place of h/12."""

    def changed(self, noise):
        return Increment(noise.W, 2 * noise.H)


class IndependentArea(WithIncrement):
    """H drawn anew."""

    def changed(self, noise):
        generator = torch.Generator().manual_seed(int(noise.W.abs().sum() * 1e6) % 2**31)
        z = torch.randn(noise.H.shape, generator=generator, dtype=F64)
        return Increment(noise.W, z * noise.H.square().mean().sqrt())


class OppositeArea(WithIncrement):
    """-H for H: the law is right, the path is not."""

    def changed(self, noise):
        return Increment(noise.W, -noise.H)


class WrongCoefficient(Wrong):
    """SRA1 with B0 = 1.4 for 1.5."""

    tableau = sra((0.0, 3 / 4), (1.0, 0.0), ((3 / 4,),), ((1.4,),), (1 / 3, 2 / 3), (1.0, 0.0), (-1.0, 1.0))


class LinearOnly(Wrong):
    """sum alpha B0 = 1 as it should be, sum alpha B0^2 = 2 for 3/2: right where the drift is linear."""

    tableau = sra((0.0, 1.0), (1.0, 0.0), ((1.0,),), ((2.0,),), (1 / 2, 1 / 2), (1.0, 0.0), (-1.0, 1.0))


class WrongNode(Wrong):
    """SRA1 with g(t) in place of g(s) everywhere: right where the noise is constant."""

    tableau = sra((0.0, 3 / 4), (0.0, 0.0), ((3 / 4,),), ((3 / 2,),), (1 / 3, 2 / 3), (1.0, 0.0), (-1.0, 1.0))


class WrongSign(Wrong):
    """Milstein's correction with the other sign."""

    strong_order, weak_order, evaluations_per_step, areas = 1.0, 1.0, 1, 0
    noise_kinds, calculus = ("additive", "diagonal", "scalar"), ("ito",)

    def step_formula(self, dynamics, x, t, s, h, noise):
        euler = euler_step(dynamics, x, t, h, noise)
        return 2 * euler - MilsteinFree().step_formula(dynamics, x, t, s, h, noise)


class HalfCorrection(WrongSign):
    """Milstein's correction halved: the law is right to first order, the path is not."""

    def step_formula(self, dynamics, x, t, s, h, noise):
        euler = euler_step(dynamics, x, t, h, noise)
        return 0.5 * (euler + MilsteinFree().step_formula(dynamics, x, t, s, h, noise))


class HeunAsIto(Wrong):
    """Heun's method on the Ito drift: it converges to another solution."""

    strong_order, weak_order, areas = 1.0, 1.0, 0
    strong_orders = (("general", 0.5),)
    noise_kinds, calculus = ("additive", "diagonal", "scalar", "commutative", "general"), ("ito",)
    tableau = StochasticHeun.tableau


class Boasting(Wrong):
    """Heun's method, which claims order 1 for general noise too."""

    strong_order, weak_order, areas = 1.0, 1.0, 0
    noise_kinds, calculus = ("additive", "diagonal", "scalar", "commutative", "general"), ("stratonovich",)
    tableau = StochasticHeun.tableau


class WrongArea(Wrong):
    """SlowRK with the H of its last line turned round: what it loses shows where drift and noise do not commute."""

    noise_kinds, calculus = ("diagonal", "scalar"), ("stratonovich",)
    tableau = dataclasses.replace(
        SlowRK.tableau, step=Row(SlowRK.tableau.step.f, SlowRK.tableau.step.w, (0.0, 0.0, 0.0, -2.0, 0.0, 0.0, 2.0))
    )


class WeakBoast(Wrong):
    """Euler-Maruyama, which claims weak order 2 and no strong one."""

    strong_order, areas, evaluations_per_step = None, 0, 1
    noise_kinds, calculus = ("additive", "diagonal", "scalar", "commutative", "general"), ("ito",)

    def step_formula(self, dynamics, x, t, s, h, noise):
        return euler_step(dynamics, x, t, h, noise)


class TooNoisy(WeakBoast):
    """Euler-Maruyama with a hundredth more noise, of any order of accuracy none."""

    weak_order = 1.0

    def step_formula(self, dynamics, x, t, s, h, noise):
        return euler_step(dynamics, x, t, h, Increment(1.01 * noise.W))


MATRICES = {("weak order", "commuting matrices"), ("weak order", "other matrices")}
CIRCLES = {("weak order", f"circle, {noise} noise") for noise in ("diagonal", "scalar")}
CIRCLE, FADING = ("weak order", "circle, additive noise"), ("weak order", "decaying noise")
COMMUTING, GENERAL = ("strong order", "commuting matrices"), ("strong order", "noncommutative")


@pytest.mark.parametrize(
    ("solver", "caught"),
    [
        # The solution with decaying noise is a function of W alone, and its noise commutes with its drift.
        (WrongScale(), LIVELY | {CIRCLE}),
        (IndependentArea(), LIVELY | {CIRCLE}),
        (OppositeArea(), LIVELY),
        (WrongCoefficient(), ADDITIVE | {CIRCLE, FADING}),
        (LinearOnly(), {("strong order", "double well"), CIRCLE}),
        (WrongNode(), {("strong order", "decaying noise"), FADING}),
        (WrongSign(), DIAGONAL | SCALAR),
        (HalfCorrection(), DIAGONAL - {GBM} | SCALAR),
        (HeunAsIto(), DIAGONAL | SCALAR | {COMMUTING, GENERAL} | CIRCLES | MATRICES),
        (Boasting(), {GENERAL}),
        (WrongArea(), {("strong order", "arctan of OU"), GBM}),
        (WeakBoast(), {FADING, CIRCLE} | CIRCLES | MATRICES),
        (TooNoisy(), {FADING, CIRCLE} | CIRCLES | MATRICES),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, StepSolver) else "",
)
def test_a_wrong_solver_is_caught_where_it_is_wrong(solver, caught):
    assert failing(measured(solver)) == caught


@pytest.mark.parametrize("solver", [SRA1(), ShARK(), MilsteinFree(), StochasticHeun(), SlowRK()], ids=lambda s: s.name)
def test_what_they_are_made_from_passes(solver):
    findings = measured(solver)
    assert failing(findings) == set()
    assert len(findings) >= 5


def test_signs_that_go_together_are_caught_by_matrices_that_do_not_commute(monkeypatch):
    # The law of the pairs: with all signs 1 the variables for the Levy areas are no longer uncorrelated.
    right = dri1.few_valued
    monkeypatch.setattr(dri1, "few_valued", lambda z: (right(z)[0], torch.ones_like(z)))
    assert failing(measured(dri1.DRI1())) == {("weak order", "other matrices")}


class WrongWeights(ExplicitRungeKutta):
    """Heun's nodes, and weights that do not sum sum b c to 1/2."""

    name, reference, order, evaluations_per_step = "wrong", "nobody 2026", 2.0, 2
    nodes, coefficients, weights = (0.0, 1.0), ((1.0,),), (0.45, 0.55)


class WrongTimes(ExplicitRungeKutta):
    """Heun's with the second stage at the wrong time: right where the drift does not depend on it."""

    name, reference, order, evaluations_per_step = "wrong", "nobody 2026", 2.0, 2
    nodes, coefficients, weights = (0.0, 0.5), ((1.0,),), (0.5, 0.5)


def test_wrong_odes():
    assert failing(measured(WrongWeights())) == {("order", "logistic"), ("order", "nonautonomous")}
    assert failing(measured(WrongTimes())) == {("order", "nonautonomous")}


# Langevin ------------------------------------------------------------------------------------------------------------


class WrongLangevin(Wrong):
    needs = ("underdamped",)
    areas, strong_order, weak_order = 2, 2.0, 2.0


class Cold(WrongLangevin):
    """UBU with a thousandth of the noise missing."""

    def step_formula(self, dynamics, x, t, s, h, noise):
        less = Increment(*[0.999 * value for value in noise.values()])
        return UBU().step_formula(dynamics, x, t, s, h, less)


class HalfPath(WrongLangevin):
    """BAOAB, whose law is of order 2, claiming the path too."""

    def step_formula(self, dynamics, x, t, s, h, noise):
        return BAOAB().step_formula(dynamics, x, t, s, h, noise)


LANGEVIN = "Langevin, quadratic"
PATHS = {("strong order", LANGEVIN), ("strong order", "Langevin, double well")}


@pytest.mark.parametrize(
    ("solver", "caught"),
    [(Cold(), PATHS | {("weak order", LANGEVIN), ("stationary order", LANGEVIN)}), (HalfPath(), PATHS), (UBU(), set())],
    ids=["cold", "half", "UBU"],
)
def test_langevin(solver, caught):
    assert failing(measured(solver)) == caught


# Steps by tolerance --------------------------------------------------------------------------------------------------


def test_redrawn_noise_is_caught(monkeypatch):
    # Each attempt draws anew, as if what a rejection has shown were forgotten.
    generator = torch.Generator().manual_seed(1)

    def redrawn(self, t, s, rows):
        z = torch.randn(2, len(rows), *self.shape[1:], generator=generator, dtype=F64)
        root = (s - t).abs().sqrt().reshape(-1, *([1] * (len(self.shape) - 1)))
        return Increment(z[0] * root, z[1] * root / math.sqrt(12))

    monkeypatch.setattr(BrownianPath, "increments", redrawn)
    make = functools.partial(sk.solvers.get, "adaptive:stochastic_heun")
    findings = measured(make(), make)
    assert failing(findings) == {(f.check, f.on) for f in findings}
    assert abs(float(findings[-1].measured.split()[1]) - 1) > 0.1


def test_the_bias_is_none_on_one_path():
    ratio, deviation = rejection_bias(sk.solvers.get("sra1", rtol=0.02, atol=0.02))
    assert abs(ratio - 1) < 0.01 + 3 * deviation


def test_a_tolerance_that_is_ignored_is_caught():
    fixed = sk.solvers.get("adaptive:sra1", rtol=1e-2, atol=1e-2)
    assert failing(measured(fixed)) == {("tolerance", "decaying noise")}
    ode = sk.solvers.get("adaptive:tsitouras_5", rtol=1e-3, atol=1e-3)
    assert failing(measured(ode)) == {("tolerance", "logistic"), ("tolerance", "nonautonomous")}


def test_what_a_solver_refuses_to_adapt_to_is_not_measured():
    assert list(problems_for(sk.solvers.get("adaptive:euler_maruyama"))) == ["decaying noise"]
    assert list(problems_for(sk.solvers.get("adaptive:spark"))) == ["decaying noise", "tanh"]


# What it is measured on ----------------------------------------------------------------------------------------------


def test_levels_of_a_shared_path_are_one_path():
    path = SharedPath((3, 2), 16, seed=0)
    for n in (1, 4):
        whole, given = path.level(n), path.given(16)
        for i in range(n):
            step = given(i / n, (i + 1) / n)
            for mine, joined in zip(whole.values(), step.values(), strict=True):
                assert torch.allclose(mine[i], joined, rtol=0, atol=1e-14)
    assert torch.allclose(path.end, path.level(16).W.sum(0), rtol=0, atol=1e-14)
    many = SharedPath((4000,), 4, seed=1).level(2)
    for value, part in zip(many.values(), (2, 24, 1440), strict=True):
        assert float(value.square().mean()) == pytest.approx(1 / part, rel=0.05)


def test_a_path_is_followed_to_the_solution_of_a_linear_equation():
    path = SharedPath((50, 2), 256, seed=2)
    x0 = torch.full((50, 2), 1.5, dtype=F64)
    end = path.follow(lambda x: -2 * x, 0.8, x0)
    assert torch.allclose(end, math.exp(-2) * x0 + 0.8 * path.integral(2.0), rtol=0, atol=1e-7)
    law = OrnsteinUhlenbeck(2.0, 0.0, 0.8).marginal(x0[:1], 1.0)[1]
    many = SharedPath((20000,), 8, seed=3).integral(2.0) * 0.8
    assert float(many.std()) == pytest.approx(float(law), rel=0.02)


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: p.name)
def test_solutions_are_those_that_fine_solves_tend_to(problem):
    # Both readings, each by a method of its own.
    for calculus, name in (("ito", "euler_maruyama"), ("stratonovich", "stochastic_heun")):
        n = 512
        sde, path = problem.sde(calculus), problem.path
        end = sk.solve(sde, problem.x0, solver=name, grid=path.times(n), noise=path.given(n)).x
        error = float((end - problem.exact).square().mean().sqrt())
        assert error < 0.05 * float(problem.exact.square().mean().sqrt()), (calculus, error)


def test_an_order_comes_with_the_interval_of_its_paths():
    generator = torch.Generator().manual_seed(4)
    counts = (8, 16, 32)
    noisy = [n**-1.5 * torch.randn(400, generator=generator, dtype=F64) for n in counts]
    found = measure(torch.stack(noisy).square(), counts)
    low, high = found.interval
    assert low < 1.5 < high
    assert 0.05 < high - low < 0.3
    assert low < found.order.value < high
    assert str(found) == f"{found.order.value:.2f} [{low:.2f}, {high:.2f}]"
    # The same numbers, four times: half as wide an interval.
    more = measure(torch.stack(noisy).square().repeat(1, 4), counts).interval
    assert more[1] - more[0] == pytest.approx((high - low) / 2, rel=0.2)
    assert measure(torch.stack(noisy).square(), counts) == found


def test_a_path_that_ends_nowhere_has_no_order():
    assert measure(torch.tensor([[1.0, math.inf], [1.0, 2.0]], dtype=F64), (8, 16)).interval == (-math.inf, -math.inf)


def test_an_affine_solve_is_read_off():
    # Euler-Maruyama on dX = -X dt + dW, two steps of 1/2: X_2 = X/4 + (z_1/2 + z_2) sqrt(1/2).
    read = affine_response(OrnsteinUhlenbeck(), sk.solvers.get("euler_maruyama"), [0.0, 0.5, 1.0], (1,))
    assert float(read.shift[0]) == 0
    assert float(read.matrix[0, 0]) == pytest.approx(0.25)
    assert read.spread[0].tolist() == pytest.approx([0.5 * math.sqrt(0.5), math.sqrt(0.5)])
    mean, covariance = read.law(torch.tensor([2.0], dtype=F64), torch.tensor([[3.0]], dtype=F64))
    assert (float(mean[0]), float(covariance[0, 0])) == pytest.approx((0.5, 3 / 16 + 0.125 + 0.5))


def test_weak_errors_are_those_of_many_paths():
    # Euler-Maruyama's on the circle, from x = 0 with 8 steps, by a simulation of 400,000.
    from sdekit.experiments.verification import weak

    exact = weak._circle_exact("diagonal", torch.arange(25, dtype=F64) * (2 * math.pi / 25))
    worst = circle_order(sk.solvers.get("euler_maruyama"), "diagonal", "ito", (8,)).errors[0]
    x = torch.zeros(400_000, 1, dtype=F64)
    end = sk.solve(weak._circle("diagonal", "ito"), x, t0=0, t1=1, steps=8, seed=0).x
    error = max(abs(float(torch.cos(end).mean() - exact[0, 0])), abs(float(torch.sin(end).mean() - exact[0, 1])))
    assert error < worst + 3 * math.sqrt(0.5 / len(x))
    assert error > 0.3 * worst


def test_a_tamed_method_is_measured_where_it_need_not_be_linear():
    solver = sk.solvers.get("tamed_euler")
    assert linear_order(solver, "general", "ito") is None
    weak = [f.on for f in measured(solver) if f.check == "weak order"]
    assert weak == [f"circle, {noise} noise" for noise in ("scalar", "additive", "diagonal")]


# What is found and said ----------------------------------------------------------------------------------------------


def test_two_calculi_are_measured_each_by_its_own():
    on = [f.on for f in measured(MilsteinFree()) if f.check == "strong order"]
    assert on[:5] == ["OU", "decaying noise", "double well", "GBM, Ito", "GBM, Stratonovich"]


def test_orders_are_declared_by_the_kind_of_noise():
    spark = sk.solvers.get("spark")
    kinds = ("additive", "scalar", "diagonal", "commutative", "general")
    assert [spark.strong_order_for(kind) for kind in kinds] == [1.5, 1.0, 1.0, 1.0, 0.5]
    assert [spark.weak_order_for(kind) for kind in kinds] == [2.0, 1.0, 1.0, 1.0, 1.0]
    assert sk.solvers.get("spark", rtol=0.1).strong_order_for("general") == 0.5
    row = next(d for d in sk.solvers.describe() if d["name"] == "spark")
    assert row["orders"] == "strong 1 (additive 1.5, general 0.5), weak 1 (additive 2)"
    assert row["strong_orders"] == {"additive": 1.5, "general": 0.5}


def test_every_order_that_is_declared_by_kind_is_of_a_kind_that_is_served():
    for name in sk.solvers.names():
        solver = sk.solvers.get(name)
        for kind, order in (*solver.strong_orders, *solver.weak_orders):
            assert kind in solver.noise_kinds, name
            assert order > 0


def test_general_solvers_are_those_that_need_no_score():
    names = {name for name in sk.solvers.names() if is_general(sk.solvers.get(name))}
    assert {"euler_maruyama", "rk4", "baoab", "adaptive:sosra", "adaptive:tsitouras_5"} <= names
    assert not names & {"ddim", "pc", "scipy:RK45", "torchsde:srk", "recommended"}


def test_a_langevin_method_is_verified_on_langevin_equations_alone():
    result = verify(["baoab"])
    assert result.passed
    assert [f.on.partition(",")[0] for f in result.findings] == ["Langevin"] * 4
    (row,) = result.summary()
    assert row["declared"] == "strong order 1; weak order 2; stationary order 2"
    strong, weak = row["measured"].split("; weak order 2: ")
    assert strong.startswith("strong order 1: Langevin, quadratic ")
    assert "; Langevin, double well " in strong
    assert weak == "Langevin, quadratic 2.00; stationary order 2: Langevin, quadratic 2.00"
    assert result.plot().axes[0].get_title() == "baoab"


def test_a_solver_of_sdes_by_name(monkeypatch):
    from sdekit.experiments.verification import run

    monkeypatch.setattr(run, "unfinished", lambda solver, few=False: (2, []))
    result = verify(["sra1"])
    checks = [(f.check, f.on) for f in result.findings]
    assert checks == [
        ("strong order", "OU"),
        ("strong order", "decaying noise"),
        ("strong order", "double well"),
        ("weak order", "decaying noise"),
        ("weak order", "circle, additive noise"),
        ("limit", "Gaussian"),
        ("finite", "N = 1 … 50, SDEs, grids"),
    ]
    assert result.passed


def test_a_method_that_looks_past_its_step_is_not_tried_on_models():
    checks = {f.check for f in verify(["adaptive:sosri"]).findings}
    assert checks == {"tolerance", "rejection"}


def test_a_method_that_must_not_adapt_says_so():
    # What `problems_for` goes by.
    with pytest.raises(UnsupportedError, match="does not adapt"):
        sk.solve(PROBLEMS[4].sde("ito"), torch.zeros(2, 1), t0=0, t1=1, solver="adaptive:euler_maruyama")


def test_the_noncommutative_solution_is_as_near_as_its_paths_tell():
    """From W and H of n cells it misses what is left of the Levy area; H with the other sign, three times that."""
    problem = next(problem for problem in PROBLEMS if problem.noise == "general")
    for cells in (16, 64):
        coarse = SharedPath(problem.noise_shape, cells, 0)
        coarse._levels = {cells: problem.path.level(cells)}
        missed = (problem.solution(coarse) - problem.exact).square().mean(0).sqrt()
        assert missed[0] < 0.1 / cells  # a Wiener integral: to second order
        assert 0.3 < missed[1] / math.sqrt(1 / (12 * cells)) < 0.8


@pytest.mark.parametrize(("errors", "holds"), [([9e-3, 8e-3, 7e-3], False), ([9e-3, 4e-3, 2e-3], True)])
def test_errors_that_hardly_fall_with_the_tolerance_do_not_hold(errors, holds, monkeypatch):
    from sdekit.experiments.verification import general

    left = iter(errors)
    monkeypatch.setattr(general, "problems_for", lambda solver: {"one": None})
    monkeypatch.setattr(general, "tolerance_error_on", lambda sde, solver: next(left))
    monkeypatch.setattr(general, "rejection_bias", lambda solver: (1.0, 0.0))
    make = functools.partial(sk.solvers.get, "adaptive:sosra")
    found = [f for f in general_findings("adaptive:sosra", make(), make) if f.check == "tolerance"]
    assert [f.passed for f in found] == [holds]
