"""Statistics of many paths without keeping them, and expectations to a tolerance."""

from __future__ import annotations

import itertools
import json
import math
import resource
import signal
from statistics import NormalDist

import pytest
import torch

import sdekit as sk
from sdekit.errors import ArgumentError, NonFiniteError, ShapeError, UnknownNameError, UnsupportedError
from sdekit.multilevel_monte_carlo.coupled import CoupledSolves, _joined
from sdekit.multilevel_monte_carlo.estimate import _method
from sdekit.noise import BrownianPath, Increment
from sdekit.running_statistics import QuantileSketch

GBM = sk.GeometricBrownianMotion(0.3, 0.4)
OU = sk.SDE(lambda x, t: -2 * x, 1.0, noise="additive")
ONE = torch.ones(1, 2)


def run(n=20_000, sde=GBM, x0=ONE, **more):
    return sk.ensemble(sde, x0, n, **{"t0": 0.0, "t1": 1.0, "steps": 8, "seed": 3, **more})


def same_bits(a, b):
    return json.dumps(a.statistics.to_dict()) == json.dumps(b.statistics.to_dict())


# Ensembles ----------------------------------------------------------------------------------------------------------


def test_its_paths_are_those_of_solve():
    out = run(5000, keep=True, chunk=999)
    paths = sk.solve(GBM, ONE.expand(5000, 2), t0=0.0, t1=1.0, steps=8, seed=3).x
    assert torch.equal(out.values, paths)
    assert out.count == 5000
    torch.testing.assert_close(out.mean, paths.double().mean(0))
    torch.testing.assert_close(out.variance, paths.double().var(0))
    torch.testing.assert_close(out.std_error, paths.double().std(0) / math.sqrt(5000))
    assert out.evaluations == 5000 * 8
    assert out.status == "success"
    alone = sk.solve(GBM, ONE, t0=0.0, t1=1.0, steps=8, seed=3, first=4321).x
    assert torch.equal(out.values[4321:4322], alone)


@pytest.mark.parametrize("save_at", [None, [0.25, 0.7, 1.0]])
def test_no_bit_depends_on_the_chunk(save_at):
    outs = [run(chunk=chunk, save_at=save_at, quantiles=(0.1, 0.5)) for chunk in (None, 700, 4096, 20_000)]
    assert all(same_bits(outs[0], out) for out in outs[1:])
    assert outs[0].mean.shape == ((2,) if save_at is None else (3, 2))
    assert outs[0].times.tolist() == (save_at or [1.0])


def test_the_moments_of_a_known_law():
    out = run(200_000, x0=torch.ones(1, 1), solver="milstein_free", steps=32, save_at=[0.5, 1.0], quantiles=(0.5,))
    for i, t in enumerate((0.5, 1.0)):
        mean, variance = math.exp(0.3 * t), math.exp(0.6 * t) * math.expm1(0.16 * t)
        assert abs(float(out.mean[i]) - mean) < 4 * float(out.std_error[i]) + 0.004 * mean
        assert abs(float(out.variance[i]) / variance - 1) < 0.03
        assert abs(float(out.quantile(0.5)[i]) / math.exp((0.3 - 0.08) * t) - 1) < 0.01


def test_the_values_at_save_at_are_those_of_solve():
    out = run(100, save_at=[0.3, 0.5], keep=True)  # 0.3 is no place of the grid
    solved = sk.solve(GBM, ONE.expand(100, 2), t0=0.0, t1=1.0, steps=8, seed=3, save_at=[0.3, 0.5])
    assert torch.equal(out.values, solved.trajectory.movedim(0, 1))
    assert out.evaluations == 100 * 5  # it ends at 0.5


def test_a_function_of_the_states():
    end = run(function=lambda x: x[:, 0] > 1.2)
    assert end.mean.shape == ()
    assert 0.4 < float(end.mean) < 0.7
    path = run(save_at=[0.5, 1.0], function=lambda x: x.amax(0), keep=True)
    states = run(save_at=[0.5, 1.0], keep=True).values
    assert torch.equal(path.values, states.amax(1))


def test_starts_and_parameters_of_their_own():
    n = 5000
    x0 = torch.linspace(0.5, 2.0, n)[:, None]
    rates = torch.linspace(-1.0, 1.0, n)[:, None]
    sde = sk.SDE(lambda x, t, rate: rate * x, lambda x, t, rate: 0.1 * x, parameters={"rate": rates})
    out = run(n, sde, x0, keep=True, chunk=640)
    assert torch.equal(out.values, sk.solve(sde, x0, t0=0.0, t1=1.0, steps=8, seed=3).x)


def test_an_adaptive_solver():
    out = run(300, OU, solver="sra1", steps=None, rtol=1e-2, atol=1e-2, save_at=[0.5, 1.0], keep=True, chunk=64)
    whole = run(300, OU, solver="sra1", steps=None, rtol=1e-2, atol=1e-2, save_at=[0.5, 1.0], keep=True)
    assert torch.equal(out.values, whole.values)
    assert out.evaluations == whole.evaluations > 300 * 4
    with pytest.raises(ArgumentError, match="max_nfe"):
        run(300, OU, solver="sra1", steps=None, rtol=1e-6, atol=1e-6, max_nfe=10)


def test_an_object_of_torchsdes():
    class Walk:
        noise_type, sde_type = "general", "ito"

        def f(self, t, y):
            return -y

        def g(self, t, y):
            return torch.tensor([[1.0, 0.5, 0.0], [0.0, 1.0, 1.0]]).expand(len(y), 2, 3)

    out = run(20_000, Walk(), steps=64)
    expected = (1 - math.exp(-2)) / 2 * torch.tensor([1.25, 2.0])
    torch.testing.assert_close(out.variance.float(), expected, rtol=0.05, atol=0)


def test_interrupted_and_resumed_it_ends_with_the_same_bits():
    calls = iter(range(100))

    def looked_at(x):
        if next(calls) == 7:
            raise KeyboardInterrupt
        return x

    arguments = {"chunk": 3000, "quantiles": (0.5,), "keep": True}
    out = run(30_000, function=looked_at, **arguments)
    assert out.status == "interrupted"
    assert 0 < out.count == len(out.values) < 30_000
    torch.testing.assert_close(out.mean, out.values.double().mean(0))

    def looked_at(x):  # of the same name, as the one of a program that is started again
        return x

    rest = run(30_000, function=looked_at, resume=out.state, **arguments)
    whole = run(30_000, function=looked_at, **{**arguments, "chunk": 7000})
    assert same_bits(rest, whole)
    assert torch.equal(rest.values, whole.values)
    more = run(40_000, function=looked_at, resume=json_copy(whole.state), quantiles=(0.5,))
    assert same_bits(more, run(40_000, function=looked_at, quantiles=(0.5,)))


def json_copy(state):
    return json.loads(json.dumps({k: v for k, v in state.items() if k != "values"}))


def test_a_checkpoint_that_a_dead_run_left_is_gone_on_from(tmp_path, monkeypatch):
    monkeypatch.setattr("sdekit._long_runs._SECONDS", 0.0)
    file, calls = tmp_path / "runs" / "paths.pt", iter(range(100))

    def looked_at(x):
        if next(calls) == 4:
            raise RuntimeError("the machine died")
        return x

    arguments = {"chunk": 5000, "keep": True, "quantiles": (0.5,)}
    with pytest.raises(RuntimeError, match="died"):
        run(30_000, function=looked_at, checkpoint=file, **arguments)
    whole = run(30_000, function=looked_at, **arguments)
    rest = run(30_000, function=looked_at, checkpoint=file, **{**arguments, "seed": None})
    assert same_bits(rest, whole)
    assert torch.equal(rest.values, whole.values)
    assert rest.evaluations == (30_000 - 12_288) * 8  # three whole blocks were kept
    assert same_bits(run(30_000, function=looked_at, checkpoint=file, **arguments), whole)  # done: no path is made
    with pytest.raises(ArgumentError, match="problem"):
        run(30_000, function=looked_at, checkpoint=file, steps=9, **arguments)
    (tmp_path / "other").write_text("no checkpoint")
    with pytest.raises(ArgumentError, match="no checkpoint"):
        run(checkpoint=tmp_path / "other")
    with pytest.raises(ArgumentError, match="must be a file"):
        run(checkpoint=tmp_path)

    calls = iter(range(100))
    price = {"t0": 0.0, "t1": 1.0, "solver": "milstein_free", "tolerance": 2e-3, "checkpoint": tmp_path / "price.pt"}
    with pytest.raises(RuntimeError, match="died"):
        sk.multilevel(STOCK, START, lambda x: payoff(looked_at(x)), seed=0, **price)
    made = sk.multilevel(STOCK, START, lambda x: payoff(looked_at(x)), **price)
    alone = {**price, "checkpoint": None}
    assert made.levels == sk.multilevel(STOCK, START, lambda x: payoff(looked_at(x)), seed=0, **alone).levels


@pytest.fixture
def ctrl_c():
    """Ctrl-C means KeyboardInterrupt, also in a process that was started to ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_waits_until_the_statistics_are_whole(monkeypatch, ctrl_c):
    """Ctrl-C within an update left moments and sketch of different counts, which nothing could resume from."""
    taken = QuantileSketch._add
    calls = iter(range(100))

    def add(self, x):  # the moments have been taken in already
        if next(calls) == 2:
            signal.raise_signal(signal.SIGINT)
        taken(self, x)

    monkeypatch.setattr(QuantileSketch, "_add", add)
    out = run(30_000, chunk=4096, quantiles=(0.5,))
    assert out.status == "interrupted"
    assert out.count == 3 * 4096
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert same_bits(run(30_000, chunk=4096, quantiles=(0.5,), resume=out.state), run(30_000, quantiles=(0.5,)))


@pytest.mark.parametrize("kind", ["parameters", "module"])
def test_other_parameters_are_another_problem(kind):
    def sde(value):
        if kind == "module":
            drift = torch.nn.Linear(2, 2)
            torch.nn.init.constant_(drift.weight, value)
            net = Drift(drift)
            return sk.SDE(net, 0.3, "additive")
        rates = torch.full((5000, 1), value)
        return sk.SDE(lambda x, t, rate: -rate * x, 0.3, "additive", parameters={"rate": rates})

    torch.manual_seed(0)
    state = run(5000, sde(0.5)).state
    torch.manual_seed(0)
    run(5000, sde(0.5), resume=state)
    with pytest.raises(ArgumentError, match="problem"):
        run(5000, sde(0.6), resume=state)


class Drift(torch.nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x, t):
        return self.layer(x)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"steps": 9}, "problem"),
        ({"x0": 2 * ONE}, "problem"),
        ({"seed": 4}, "seed 3, not 4"),
        ({"quantiles": (0.5,)}, "quantiles"),
        ({"n": 100}, "n is 100"),
        ({"keep": True}, "keep=True"),
        ({"resume": 3}, "resume takes"),
    ],
)
def test_what_cannot_be_resumed(more, said):
    state = run().state
    with pytest.raises(ArgumentError, match=said):
        run(**{"resume": state, **more})


@pytest.mark.parametrize(
    ("more", "error", "said"),
    [
        ({"n": 0}, ArgumentError, "n must be"),
        ({"x0": torch.ones(3, 2)}, ShapeError, "one state"),
        ({"steps": None}, ArgumentError, "steps"),
        ({"solver": "milstien"}, UnknownNameError, "milstein"),
        ({"solver": "rk4"}, UnsupportedError, "an ODE"),
        ({"save_at": [2.0]}, ArgumentError, "save_at"),
        ({"function": lambda x: x.sum()}, ShapeError, "must return"),
        ({"function": lambda x: 1j * x}, ShapeError, "real tensor"),
        ({"function": 3}, ArgumentError, "must be a function"),
        ({"chunk": 0}, ArgumentError, "chunk"),
        ({"eta": 1.0}, ArgumentError, "'eta'"),
        ({"quantiles": (2.0,)}, ArgumentError, "quantile"),
    ],
)
def test_errors_come_before_the_first_path(more, error, said):
    def drift(x, t):
        raise RuntimeError("a step was made")

    with pytest.raises(error, match=said):
        run(**{"sde": sk.SDE(drift, lambda x, t: x), **more})


def test_a_path_that_blows_up_is_named_by_its_number():
    sde = sk.SDE(lambda x, t: torch.where(x[:, :1] > 50, math.inf, 0.0) + 0 * x, 0.1)
    x0 = torch.ones(5000, 1)
    x0[4567] = 100.0
    with pytest.raises(NonFiniteError) as caught:
        run(5000, sde, x0, chunk=1000)
    assert caught.value.samples == [4567]


def test_memory_does_not_grow_with_the_paths():
    x0 = torch.ones(1, 4, dtype=torch.float64)
    run(200_000, x0=x0, steps=2, save_at=[0.5, 1.0])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run(1_000_000, x0=x0, steps=2, save_at=[0.5, 1.0])  # its states would take 64 MB
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 60_000  # kB


def test_without_a_seed_the_global_generator_gives_one():
    torch.manual_seed(0)
    a, b = run(100, seed=None), run(100, seed=None)
    torch.manual_seed(0)
    assert same_bits(run(100, seed=None), a)
    assert a.seed != b.seed
    assert same_bits(run(100, seed=b.seed), b)


def test_progress(capsys):
    run(1000, progress=True)
    sk.multilevel(OU, ONE, lambda x: x[:, 0], t0=0.0, t1=1.0, solver="sra1", tolerance=0.1, progress=True)
    assert "ensemble" in (said := capsys.readouterr().err)
    assert "multilevel" in said


# Multilevel ---------------------------------------------------------------------------------------------------------

START = torch.ones(1, 1, dtype=torch.float64)
STOCK = sk.GeometricBrownianMotion(0.05, 0.2)


def payoff(x):
    return math.exp(-0.05) * (x[:, 0] - 1).clamp(min=0)


def call_price():
    normal, up = NormalDist(), (0.05 + 0.02) / 0.2
    return normal.cdf(up) - math.exp(-0.05) * normal.cdf(up - 0.2)


PROBLEMS = {
    "call": (STOCK, payoff, call_price(), "milstein_free", 3e-3),
    "mean": (sk.GeometricBrownianMotion(0.4, 0.3), lambda x: x[:, 0], math.exp(0.4), "milstein_free", 0.02),
    "ou": (OU, lambda x: x[:, 0] ** 2, math.exp(-4) + (1 - math.exp(-4)) / 4, "sra1", 0.01),
    "euler": (STOCK, payoff, call_price(), "euler_maruyama", 3e-3),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_error_is_below_the_tolerance_as_often_as_promised(name):
    sde, function, exact, solver, tolerance = PROBLEMS[name]
    arguments = {"t0": 0.0, "t1": 1.0, "solver": solver, "tolerance": tolerance}
    outs = [sk.multilevel(sde, START, function, seed=seed, **arguments) for seed in range(30)]
    errors = torch.tensor([out.value - exact for out in outs])
    # 95 % promised: of 30, 4 or more are outside with probability 0.06 if it is kept to exactly. The bias estimate is
    # on the safe side, so that hardly any is.
    assert int((errors.abs() > tolerance).sum()) <= 2
    assert all(out.status == "success" and out.error <= 1.02 * tolerance for out in outs)
    # The standard errors are those of the values.
    ratio = float(errors.std()) / (sum(out.std_error for out in outs) / 30)
    assert 0.65 < ratio < 1.4
    assert all(abs(float(errors.mean())) < 2 * out.bias + out.std_error for out in outs)


def test_the_cost_goes_like_the_tolerance_squared():
    costs, savings = [], []
    for tolerance in (2e-3, 1e-3, 5e-4):
        out = sk.multilevel(STOCK, START, payoff, t0=0.0, t1=1.0, solver="milstein_free", tolerance=tolerance, seed=0)
        costs.append(out.evaluations)
        savings.append(out.saving)
        assert abs(out.value - call_price()) < tolerance
    rate = math.log2(costs[2] / costs[0]) / 2
    assert 1.6 < rate < 2.3
    assert savings[0] < savings[1] < savings[2]
    assert savings[2] > 6
    assert "times as many" in str(out)
    assert out.evaluations == sum(level.samples * level.evaluations for level in out.levels)


@pytest.mark.parametrize(("solver", "order"), [("milstein_free", 1.0), ("milstein", 1.0), ("euler_maruyama", 0.5)])
def test_the_variance_of_the_differences_falls_by_the_strong_order(solver, order):
    solves = made_solves(STOCK, solver)
    found = [solves.samples(level, 0, 4000) for level in range(7)]
    variances = [float(d.var()) for d, _, _, _ in found[2:]]
    rate = math.log2(variances[0] / variances[-1]) / (len(variances) - 1) / 2
    assert abs(rate - order) < 0.15
    assert [evaluations for _, _, _, evaluations in found[:3]] == [2, 4 + 2, 8 + 4]
    assert abs(float(found[-1][1].mean()) - call_price()) < 0.01


def made_solves(sde, solver, ends=(0.0, 1.0), function=payoff, refinement=2, first_steps=2, x0=START, save_at=None):
    dynamics, method = _method(sk.dynamics.as_dynamics(sde, x0), x0, ends, solver, {})
    return CoupledSolves(dynamics, method, x0, function, ends, first_steps, refinement, save_at, 0)


@pytest.mark.parametrize("ends", [(0.0, 1.0), (1.0, 0.0)])
@pytest.mark.parametrize("refinement", [2, 3])
def test_both_solves_of_a_difference_are_on_one_path(ends, refinement):
    # With W and H, in both directions of time: the order 1.5 of SRA1 shows that the areas are joined aright.
    sde = sk.SDE(lambda x, t: torch.sin(3 * x) - x, lambda x, t: 1 + 0.5 * torch.sin(4 * t), noise="additive")
    solves = made_solves(sde, "sra1", ends, lambda x: x[:, 0], refinement)
    variances = [float(solves.samples(level, 0, 2000)[0].var()) for level in range(1, 4)]
    rate = math.log(variances[-2] / variances[-1], refinement) / 2
    assert rate > 1.3


@pytest.mark.parametrize("falls", [False, True])
def test_joined_increments_are_the_paths_own(falls):
    path = BrownianPath(0, (3, 2), dtype=torch.float64)
    cuts = [0.25, 0.3, 0.35, 0.4]
    cuts = cuts[::-1] if falls else cuts
    parts = [path(a, b) for a, b in itertools.pairwise(cuts)]
    whole, expected = _joined(parts, falls=falls), path(cuts[0], cuts[-1])
    torch.testing.assert_close(whole.W, expected.W, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(whole.H, expected.H, rtol=1e-9, atol=1e-9)
    assert isinstance(whole, Increment)


def test_other_refinements_general_noise_and_the_same_seed():
    class Walk:
        noise_type, sde_type = "general", "stratonovich"

        def f(self, t, y):
            return -y

        def g(self, t, y):
            return torch.tensor([[1.0, 0.5, 0.0], [0.0, 1.0, 1.0]], dtype=y.dtype).expand(len(y), 2, 3)

    arguments = {"t0": 0.0, "t1": 1.0, "solver": "stochastic_heun", "refinement": 4, "tolerance": 0.03}
    x0 = torch.zeros(1, 2, dtype=torch.float64)
    out = sk.multilevel(Walk(), x0, lambda x: x[:, 1] ** 2, seed=1, **arguments)
    assert abs(out.value - (1 - math.exp(-2))) < 0.03
    assert [level.steps for level in out.levels[:3]] == [2, 8, 32]
    assert sk.multilevel(Walk(), x0, lambda x: x[:, 1] ** 2, seed=1, **arguments) == out


def test_too_few_levels_are_said():
    sde = sk.GeometricBrownianMotion(2.0, 0.1)
    arguments = {"t0": 0.0, "t1": 1.0, "solver": "euler_maruyama", "first_steps": 1, "tolerance": 0.02, "seed": 0}
    out = sk.multilevel(sde, START, lambda x: x[:, 0], max_levels=3, **arguments)
    assert out.status == "max_levels"
    assert out.bias > 0.02
    assert abs(out.value - math.exp(2.0)) < 3 * out.error


@pytest.mark.parametrize(
    ("more", "error", "said"),
    [
        ({"tolerance": 0.0}, ArgumentError, "tolerance"),
        ({"confidence": 1.0}, ArgumentError, "confidence"),
        ({"x0": torch.ones(2, 1)}, ShapeError, "one state"),
        ({"t1": 0.0}, ArgumentError, "same time"),
        ({"solver": "rk4"}, UnsupportedError, "step solver for SDEs"),
        ({"solver": "scipy:RK45"}, UnsupportedError, "step solver"),
        ({"solver": "dri1"}, UnsupportedError, "no strong order"),
        ({"sde": sk.SDE(lambda x, t, r: r * x, 0.1, parameters={"r": torch.ones(3, 1)})}, ShapeError, "parameter 'r'"),
        ({"max_evaluations": 0}, ArgumentError, "max_evaluations"),
        ({"resume": {"seed": 0}}, ArgumentError, "resume takes"),
        ({"save_at": []}, ArgumentError, "save_at must hold"),
        ({"refinement": 1}, ArgumentError, "refinement"),
        ({"first_steps": 0}, ArgumentError, "first_steps"),
        ({"max_levels": 1}, ArgumentError, "max_levels"),
        ({"function": lambda x: x}, ShapeError, r"\(2,\)"),
        ({"function": lambda x: x[:, 0] / 0}, ArgumentError, "NaN or infinite"),
        ({"sde": sk.ODE(lambda x, t: x)}, UnsupportedError, "expectations of an SDE"),
        ({"noise": 1}, ArgumentError, "'noise'"),
    ],
)
def test_multilevel_errors_come_before_the_first_path(more, error, said):
    def drift(x, t):
        raise RuntimeError("a step was made")

    arguments = {"sde": sk.SDE(drift, lambda x, t: x), "x0": START, "function": payoff, "t0": 0.0, "t1": 1.0}
    with pytest.raises(error, match=said):
        sk.multilevel(**{**arguments, "tolerance": 0.01, **more})


def test_a_path_that_blows_up_is_an_error_of_its_level():
    sde = sk.SDE(lambda x, t: -(x**5) * 1e3, 1.0)
    with pytest.raises(NonFiniteError, match=r"level 0.*"):
        sk.multilevel(sde, 10 * START, payoff, t0=0.0, t1=1.0, solver="euler_maruyama", first_steps=8, tolerance=0.1)


def test_multilevel_values_on_the_way():
    # E[max(X_1/2, X_1)] of a walk without drift: (E|X_1 - X_1/2|)/2 by symmetry = sqrt(1/2) sqrt(2/pi)/2.
    walk, x0 = sk.SDE(lambda x, t: 0 * x, 1.0, noise="additive"), torch.zeros(1, 1, dtype=torch.float64)
    arguments = {"t0": 0.0, "t1": 1.0, "solver": "euler_maruyama", "seed": 0}
    out = sk.multilevel(walk, x0, lambda x: x[:, :, 0].amax(0), save_at=[0.5, 1.0], tolerance=0.02, **arguments)
    assert abs(out.value - 0.5 * math.sqrt(1 / math.pi)) < 0.02
    # The same times at every level: those of OU, whose law at 1/2 is known, and the start.
    solves = made_solves(OU, "sra1", function=lambda x: x[1, :, 0] - x[0, :, 0], first_steps=4, save_at=[0.0, 0.5])
    for level in range(3):
        d, p, _, _ = solves.samples(level, 0, 20_000)
        assert abs(float(p.mean()) + 1 - math.exp(-1)) < 4 * float(p.std()) / math.sqrt(20_000) + 0.01
        if level:
            assert float(d.var()) < 0.01 * float(p.var())
    with pytest.raises(ArgumentError, match=r"equal steps of the coarsest level end.*\[0.3\]"):
        sk.multilevel(walk, x0, lambda x: x[0, :, 0], save_at=[0.3, 1.0], tolerance=0.02, **arguments)
    with pytest.raises(ArgumentError, match="in the order"):
        sk.multilevel(walk, x0, lambda x: x[0, :, 0], save_at=[1.0, 0.5], tolerance=0.02, **arguments)


def test_multilevel_interrupted_and_resumed_ends_with_the_same_bits(monkeypatch):
    monkeypatch.setattr("sdekit.multilevel_monte_carlo.levels._ENTRIES", 1 << 13)

    def interrupted_at(count):
        calls = iter(range(10_000))

        def looked_at(x):
            if next(calls) == count:
                raise KeyboardInterrupt
            return payoff(x)

        return looked_at

    arguments = {"t0": 0.0, "t1": 1.0, "solver": "milstein_free", "tolerance": 1e-3, "seed": 0}
    whole = sk.multilevel(STOCK, START, interrupted_at(-1), **arguments)
    for count in (2, 4, 9, 30):
        out = sk.multilevel(STOCK, START, interrupted_at(count), **arguments)
        assert out.status == "interrupted"
        assert math.isfinite(out.value)
        assert 0 < out.evaluations < whole.evaluations
        rest = sk.multilevel(
            STOCK, START, interrupted_at(-1), resume=json.loads(json.dumps(out.state)), **{**arguments, "seed": None}
        )
        assert rest == whole
    # To a smaller tolerance it goes on from a run that is done.
    rough = sk.multilevel(STOCK, START, interrupted_at(-1), **{**arguments, "tolerance": 4e-3})
    fine = sk.multilevel(STOCK, START, interrupted_at(-1), resume=rough.state, **arguments)
    assert fine.status == "success"
    assert abs(fine.value - call_price()) < 1e-3
    with pytest.raises(ArgumentError, match="has the problem"):
        sk.multilevel(OU, START, interrupted_at(-1), resume=rough.state, **arguments)
    with pytest.raises(ArgumentError, match="has the problem"):
        sk.multilevel(STOCK, 2 * START, interrupted_at(-1), resume=rough.state, **arguments)
    # Nothing done yet is said, too.
    none = sk.multilevel(STOCK, START, interrupted_at(1), **arguments)
    assert math.isnan(none.value)
    assert none.error == math.inf
    assert none.status == "interrupted"


def test_multilevel_keeps_to_its_evaluations():
    arguments = {"t0": 0.0, "t1": 1.0, "solver": "milstein_free", "seed": 0, "tolerance": 1e-4}
    out = sk.multilevel(STOCK, START, payoff, max_evaluations=200_000, **arguments)
    assert out.status == "max_evaluations"
    assert 60_000 < out.evaluations <= 200_000
    assert out.error > 1e-4
    assert abs(out.value - call_price()) < out.error


@pytest.mark.parametrize(
    ("function", "sde"),
    [
        # P(X > 2.5) is 3e-6: none of a hundred thousand paths is likely to be there.
        (lambda x: 1e6 * (x[:, 0] > 2.5), STOCK),
        # E exp(W^2) of W of variance 0.36 is 1.89; its variance is infinite.
        (lambda x: torch.exp(x[:, 0] ** 2), sk.SDE(lambda x, t: 0 * x, 0.6, noise="additive")),
    ],
)
def test_tails_too_heavy_for_an_error_are_said(function, sde):
    arguments = {"t0": 0.0, "t1": 1.0, "tolerance": 0.05, "max_evaluations": 1_000_000}
    x0 = START if sde is STOCK else 0 * START
    outs = [sk.multilevel(sde, x0, function, seed=seed, **arguments) for seed in range(4)]
    assert all(out.status in ("heavy_tails", "max_evaluations") for out in outs)


def test_a_variance_carried_by_few_samples_is_taken_for_larger():
    # Of the first 1000 samples one or two are 1, and tell next to nothing of the variance.
    rare = sk.SDE(lambda x, t: 0 * x, 1.0, noise="additive")
    arguments = {"t0": 0.0, "t1": 1.0, "solver": "euler_maruyama", "tolerance": 2e-3}
    exact = 1 - NormalDist().cdf(3.0)
    for seed in range(8):
        out = sk.multilevel(rare, 0 * START, lambda x: (x[:, 0] > 3.0).double(), seed=seed, **arguments)
        assert abs(out.value - exact) < 2e-3
        # Searched until there are more than a hundred of them, which tell the variance to a tenth.
        first = out.levels[0]
        assert first.samples == 100_000
        assert first.variance_error < 0.1 * first.variance
        assert out.std_error**2 > 0.999 * (first.variance + first.variance_error) / first.samples


def test_multilevel_refuses_coupled_entries_where_milstein_would_be_wrong():
    coupled = sk.SDE(
        lambda x, t: 0 * x,
        lambda x, t: torch.stack([x[:, 1] * x[:, 0], 0.5 * x[:, 1]], 1),
        "diagonal",
        "stratonovich",
    )
    x0 = torch.tensor([[1.0, 0.6]], dtype=torch.float64)
    with pytest.raises(UnsupportedError, match="declared diagonal, but an entry"):
        sk.multilevel(coupled, x0, lambda x: x[:, 0], tolerance=0.1, t0=0.0, t1=1.0, solver="milstein_free", seed=0)
