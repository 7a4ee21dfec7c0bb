"""Adaptive steps on SDEs: no bias by rejection, one path for all tolerances, each sample its own, counts and ends."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from _helpers import gaussian_model
from torch import Tensor

import sdekit as sk
from sdekit.errors import ArgumentError, NonFiniteError, ShapeError, UnsupportedError
from sdekit.noise import BrownianPath
from sdekit.noise.given_path import FunctionPath, GivenPath
from sdekit.sdes import (
    SDE,
    VPSDE,
    CubicMultiplicative,
    DoubleWell,
    GeometricBrownianMotion,
    NoncommutativeSDE,
    OrnsteinUhlenbeck,
    StiffLinear,
    TanhSDE,
)
from sdekit.solvers.adaptive_loop import Attempt, Controller

F64 = torch.float64
NAMES = [
    name
    for name in sk.solvers.names()
    if name.startswith("adaptive:") and sk.solvers.get(name).stochastic and not sk.solvers.get(name).needs
]


def path_of(shape: tuple[int, ...], seed: int | None = 3, **kwargs: Any) -> BrownianPath:
    """The path over [0, 1] that an adaptive solver makes of a seed."""
    return BrownianPath(seed, shape, 0.0, 1.0, cells=100, **{"dtype": F64, **kwargs})


def starts(rows: int, d: int = 1, low: float = -0.7, high: float = 0.7) -> Tensor:
    return torch.linspace(low, high, rows * d, dtype=F64).reshape(rows, d)


def rms(x: Tensor) -> float:
    return float(x.square().mean().sqrt())


class Counted:
    """A drift that counts its calls and the rows they had, and notes the times."""

    def __init__(self, f: Any) -> None:
        self.f, self.calls, self.rows, self.times = f, 0, 0, list[Tensor]()

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        self.calls += 1
        self.rows += x.shape[0]
        self.times.append(t.detach().reshape(-1).clone())
        return self.f(x, t)


def served(name: str) -> Any:
    """An SDE that the method serves, with noise that depends on the state where it may."""
    method = sk.solvers.get(name)
    if name == "adaptive:euler_maruyama" or "diagonal" not in method.noise_kinds:
        return SDE(lambda x, t: torch.sin(2 * x) - x**3, lambda x, t: 0.5 + 0.3 * t, "additive")
    return TanhSDE(a=0.8, calculus=method.calculus[0])


# Rejected steps -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["adaptive:sosra", "adaptive:shark"])
def test_rejected_steps_leave_no_bias(name):
    # METHODS.md 7: dX = -4 X dt + sqrt(2) dW, Var X_1 = 0.2499. Redrawing the noise of a rejected step gives 0.177 at
    # tolerance 0.1 and 0.206 at 0.02.
    n, sde = 10_000, OrnsteinUhlenbeck(theta=4.0, sigma=math.sqrt(2))
    x0 = torch.zeros(n, 1, dtype=F64)
    exact = (1 - math.exp(-8)) / 4
    path = path_of((n, 1), 11)
    # Steps a hundredth long are exact to 1e-4, on the same path; what they have above the law is the sample's luck.
    fine = sk.solve(sde, x0, t0=0, t1=1, solver="shark", steps=100, noise=path).x
    for tolerance, within in ((0.1, 0.03), (0.02, 0.01)):
        out = sk.solve(sde, x0, t0=0, t1=1, solver=name, rtol=0.0, atol=tolerance, seed=11)
        assert sum(out.stats["rejected"]) > 0.1 * sum(out.stats["steps"])
        # Variances of 10,000 have a standard error of 1.4 %; their ratio, on one path, of far less.
        assert float(out.x.var()) == pytest.approx(exact, rel=within + 3 * math.sqrt(2 / n))
        apart = out.x.square() - fine.square()
        error = float(apart.std()) / math.sqrt(n) / exact
        assert abs(float(apart.mean()) / exact) < within - 2 * error, error


# The controller -------------------------------------------------------------------------------------------------------


def test_the_error_is_per_sample_and_scaled():
    control = Controller(0.1, 0.01, 1.5, 1.0)
    before, after = torch.tensor([[1.0, -4.0], [0.0, 0.0]]), torch.tensor([[2.0, 1.0], [0.0, 0.0]])
    error = torch.tensor([[0.42, 0.205], [0.01, -0.01]])
    found = control.error(before, Attempt(after, error))
    expected = [math.sqrt(((0.42 / 0.21) ** 2 + (0.205 / 0.41) ** 2) / 2), 1.0]
    assert found.tolist() == pytest.approx(expected, rel=1e-6)
    assert control.error(before, Attempt(after * math.inf, error)).tolist() == [math.inf, math.inf]


@pytest.mark.parametrize("gains", [(0.0, 1.0, 0.0), (0.1, 0.3, 0.0), (0.2, 0.3, 0.05)], ids=["I", "PI", "PID"])
def test_the_factor_is_the_controllers_formula(gains):
    p, i, d = gains
    order = 1.5
    control = Controller(0.1, 0.1, order, 1.0, proportional=p, integral=i, derivative=d)
    error = torch.tensor([0.5, 0.9, 0.7], dtype=F64)
    earlier = torch.tensor([[0.4, 0.3], [1.0, 1.0], [0.2, 0.9]], dtype=F64)
    expected = [
        0.9 * e ** (-(p + i + d) / order) * a ** ((p + 2 * d) / order) * b ** (-d / order)
        for e, (a, b) in zip(error.tolist(), earlier.tolist(), strict=True)
    ]
    assert control.factor(error, earlier).tolist() == pytest.approx(expected, rel=1e-12)
    # A rejected step is shortened by its own error alone, and never kept as long as it was.
    rejected = control.factor(torch.tensor([2.0, 1.0001, 1e9], dtype=F64), torch.full((3, 2), 1e-3, dtype=F64))
    assert rejected.tolist() == pytest.approx([0.9 * 2 ** (-1 / order), 0.9, 0.2], rel=1e-3)
    # An error of 0 lets it grow by no more than 5 times, and makes nothing infinite.
    assert control.factor(torch.zeros(1, dtype=F64), torch.zeros(1, 2, dtype=F64)).tolist()[0] <= 5.0


def test_gains_are_options():
    sde, x0 = OrnsteinUhlenbeck(), torch.ones(6, 1, dtype=F64)
    how = {"t0": 0, "t1": 1, "solver": "adaptive:sosra", "rtol": 1e-3, "atol": 1e-3, "seed": 0}
    default = sk.solve(sde, x0, **how)
    same = sk.solve(sde, x0, **how, proportional=0.1, integral=0.3)
    other = sk.solve(sde, x0, **how, proportional=0.0, integral=1.0, derivative=0.01)
    assert torch.equal(default.x, same.x)
    assert default.nfe.tolist() != other.nfe.tolist()
    assert torch.allclose(default.x, other.x, atol=5e-3)


# Counts and ends ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_what_is_counted_is_what_the_drift_saw(name):
    sde = served(name)
    drift = Counted(sde.drift)
    counted = SDE(drift, sde.diffusion, sde.noise, sde.calculus)
    out = sk.solve(counted, starts(12), t0=0, t1=1, solver=name, rtol=1e-2, atol=1e-2, seed=0)
    assert out.status == "success"
    assert out.t == 1.0
    steps, rejected = torch.tensor(out.stats["steps"]), torch.tensor(out.stats["rejected"])
    method = sk.solvers.get(name).method
    # One evaluation more for the length of the first step, which is the first stage of a method that shares it.
    if method.evaluations_per_step is not None:  # an implicit one iterates
        assert torch.equal(out.nfe, method.evaluations_per_step * (steps + rejected) + 1)
    # Samples that have arrived are not evaluated any more.
    assert drift.rows == int(out.nfe.sum())
    assert drift.calls < drift.rows
    assert out.stats["status"] == ["success"] * 12
    assert out.stats["t"] == [1.0] * 12
    if name != "adaptive:sosri":  # which looks ahead by 3.75 steps
        assert max(float(t.max()) for t in drift.times) <= 1.0
        assert min(float(t.min()) for t in drift.times) >= 0.0


@pytest.mark.parametrize("most", [1, 2, 5, 20, 45])
@pytest.mark.parametrize("name", NAMES)
def test_max_nfe_is_never_exceeded(name, most):
    sde = served(name)
    drift = Counted(sde.drift)
    counted = SDE(drift, sde.diffusion, sde.noise, sde.calculus)
    how = {"t0": 0, "t1": 1, "solver": name, "rtol": 1e-2, "atol": 1e-2, "seed": 0}
    free = sk.solve(sde, starts(12), **how)
    out = sk.solve(counted, starts(12), **how, max_nfe=most)
    assert int(out.nfe.max()) <= most
    assert drift.rows == int(out.nfe.sum())
    for i in range(12):
        done = int(free.nfe[i]) <= most
        assert out.stats["status"][i] == ("success" if done else "max_nfe")
        assert torch.equal(out.x[i], free.x[i]) == done
        assert (out.stats["t"][i] == 1.0) == done
    assert out.status == ("success" if int(free.nfe.max()) <= most else "max_nfe")
    if out.status == "max_nfe":
        assert out.t == min(out.stats["t"])


def test_a_step_that_would_be_too_short_ends_its_sample():
    # Steps of 1e-3 at least: the noise's part of the error asks for shorter ones.
    sde, x0 = OrnsteinUhlenbeck(theta=5.0, sigma=10.0), starts(8)
    how = {"t0": 0, "t1": 1, "solver": "adaptive:sosra", "rtol": 0.0, "atol": 1e-3, "seed": 0}
    out = sk.solve(sde, x0, **how, h_min=1e-3)
    assert out.status == "min_step"
    assert set(out.stats["status"]) == {"min_step"}
    assert 0 <= out.t < 1
    assert out.t == min(out.stats["t"])
    assert torch.isfinite(out.x).all()
    free = sk.solve(sde, x0, **how)
    assert free.status == "success"
    # The last step, cut short to land, is no reason.
    assert sk.solve(sde, x0, **{**how, "atol": 10.0}, h_min=0.07, h_init=0.07).status == "success"


@pytest.mark.parametrize("back", [False, True], ids=["forwards", "backwards"])
@pytest.mark.parametrize("name", NAMES)
def test_it_lands_on_the_end_and_on_the_times_asked_for(name, back):
    sde, x0 = served(name), starts(5)
    asked = [0.0, 1 / 3, 1 / 3 + 1e-7, 0.77, 1.0]
    asked = asked[::-1] if back else asked
    how = {"t0": asked[0], "t1": asked[-1], "solver": name, "rtol": 1e-2, "atol": 1e-2, "seed": 0}
    out = sk.solve(sde, x0, save_at=asked, **how)
    assert out.t == asked[-1]
    assert out.trajectory_times.tolist() == asked
    assert torch.equal(out.trajectory[0], x0)
    assert torch.equal(out.trajectory[-1], out.x)
    free = sk.solve(sde, x0, **how)
    # The path is the same whether times are asked for or not.
    assert rms(free.x - out.x) < 0.05
    # A step cut short, here to 1e-7, says nothing against the step that was planned.
    extra = torch.tensor(out.stats["steps"]) - torch.tensor(free.stats["steps"])
    assert int(extra.max()) < 12


@pytest.mark.parametrize("back", [False, True], ids=["forwards", "backwards"])
@pytest.mark.parametrize("name", ["adaptive:sosra", "adaptive:tsitouras_5"])
def test_a_trajectory_holds_every_step_of_each_sample(name, back):
    # dX = sigma dW along a path: the state after each step is the path's value there; x' = 1 without noise.
    x0, ode = starts(4), name == "adaptive:tsitouras_5"
    t0, t1 = (1.0, 0.0) if back else (0.0, 1.0)
    how = {"t0": t0, "t1": t1, "solver": name, "rtol": 0.0, "atol": 1e-3, "h_init": 0.3}
    path = path_of((4, 1))
    dynamics = (
        sk.ODE(lambda x, t: torch.cos(9 * t) + 0 * x)
        if ode
        else SDE(lambda x, t: 0 * x, lambda x, t: 1 + t, "additive")
    )
    more = {} if ode else {"noise": path}
    plain = sk.solve(dynamics, x0, **how, **more)
    out = sk.solve(dynamics, x0, trajectory=True, **how, **more)
    assert torch.equal(out.x, plain.x)
    assert torch.equal(out.nfe, plain.nfe)
    steps = torch.tensor(out.stats["steps"])
    assert out.trajectory.shape == (1 + int(steps.max()), 4, 1)
    assert out.trajectory_times.shape == (1 + int(steps.max()), 4)
    assert torch.equal(out.trajectory[0], x0)
    assert torch.equal(out.trajectory[-1], out.x)
    assert out.trajectory_times[0].tolist() == [t0] * 4
    for i in range(4):
        own = out.trajectory_times[: 1 + steps[i], i]
        assert bool((own.diff().sign() == math.copysign(1, t1 - t0)).all())
        assert bool((out.trajectory_times[steps[i] :, i] == t1).all())
        assert bool((out.trajectory[steps[i] :, i] == out.x[i]).all())
        if ode:
            exact = x0[i] + (torch.sin(9 * own) - math.sin(9 * t0))[:, None] / 9
            assert torch.allclose(out.trajectory[: 1 + steps[i], i], exact, atol=2e-2)
    cut = sk.solve(dynamics, x0, trajectory=True, chunk=3, **how, **({} if ode else {"noise": path}))
    assert torch.equal(cut.trajectory, out.trajectory)
    assert torch.equal(cut.trajectory_times, out.trajectory_times)
    # Times that are asked for are kept alone.
    asked = sk.solve(dynamics, x0, trajectory=True, save_at=[t0, t1], **how, **more)
    assert asked.trajectory_times.tolist() == [t0, t1]


def test_every_step_ends_at_the_event():
    sde, x0 = SDE(lambda x, t: 1 + 0 * x, 0.5, "additive"), starts(6)
    how = {"t0": 0, "t1": 1, "solver": "sosra", "rtol": 1e-2, "atol": 1e-2, "seed": 0, "trajectory": True}
    out = sk.solve(sde, x0, event=lambda x, t: x - 0.8, **how)
    gone = ~torch.isnan(out.event_times)
    assert 0 < int(gone.sum()) < 6
    assert torch.equal(out.trajectory[-1], out.x)
    assert torch.equal(out.trajectory_times[-1], out.event_times.nan_to_num(1.0))
    assert bool((out.trajectory_times.diff(dim=0) >= 0).all())


# Each sample its own --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(7,), (7, 1), (7, 2, 3)], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_alone_in_a_batch_and_in_chunks_are_one(name, shape):
    sde = served(name)
    x0 = torch.linspace(-0.7, 0.7, math.prod(shape), dtype=F64).reshape(shape)
    how = {"t0": 0, "t1": 1, "solver": name, "rtol": 1e-2, "atol": 1e-2}
    whole = sk.solve(sde, x0, seed=4, **how)
    cut = sk.solve(sde, x0, seed=4, chunk=3, **how)
    assert torch.equal(cut.x, whole.x)
    if sk.solvers.get(name).method.evaluations_per_step is not None:  # an implicit one iterates until all are solved
        assert torch.equal(cut.nfe, whole.nfe)
    for i in (0, 5):
        own = sk.solve(sde, x0[i : i + 1], seed=4, first=i, **how)
        assert torch.equal(own.x[0], whole.x[i])
        assert own.stats["steps"] == whole.stats["steps"][i : i + 1]


def test_a_hard_sample_beside_an_easy_one_changes_nothing():
    def f(x: Tensor, t: Tensor, k: Tensor) -> Tensor:
        return -k * (x - torch.cos(t))

    k = torch.tensor([[1.0], [1000.0], [2.0]], dtype=F64)
    x0, how = starts(3), {"t0": 0, "t1": 1, "solver": "adaptive:sosra", "rtol": 1e-2, "atol": 1e-2, "seed": 0}
    whole = sk.solve(SDE(f, 0.3, "additive", parameters={"k": k}), x0, **how)
    easy = sk.solve(SDE(f, 0.3, "additive", parameters={"k": k[[0, 0, 2]]}), x0, **how)
    assert int(whole.nfe[1]) > 20 * int(whole.nfe[0])
    assert torch.equal(whole.x[[0, 2]], easy.x[[0, 2]])
    assert torch.equal(whole.nfe[[0, 2]], easy.nfe[[0, 2]])


@pytest.mark.parametrize("name", NAMES)
def test_half_types_keep_their_type(name):
    sde = served(name)
    for dtype in (torch.float32, torch.bfloat16):
        x0 = starts(4, 2).to(dtype)
        out = sk.solve(sde, x0, t0=0, t1=1, solver=name, rtol=0.05, atol=0.05, seed=0)
        assert out.x.dtype == dtype
        assert torch.isfinite(out.x).all()
        wide = sk.solve(sde, x0.double(), t0=0, t1=1, solver=name, rtol=0.05, atol=0.05, seed=0)
        assert rms(out.x.double() - wide.x) < (1e-5 if dtype == torch.float32 else 0.1)


# One path -------------------------------------------------------------------------------------------------------------


def falls(errors: list[float], by: float) -> bool:
    return all(b < by * a for a, b in itertools.pairwise(errors))


@pytest.mark.parametrize("name", ["adaptive:sosri", "adaptive:sriw1", "adaptive:spark", "adaptive:stochastic_heun"])
def test_with_one_seed_the_error_falls_with_the_tolerance_on_closed_forms(name):
    x0 = starts(200)
    w = path_of((200, 1))(1.0).W
    calculus = sk.solvers.get(name).calculus[0]
    errors = []
    for tolerance in (1e-1, 1e-2, 1e-3):
        how = {"t0": 0, "t1": 1, "solver": name, "rtol": tolerance, "atol": tolerance, "seed": 3}
        tanh = TanhSDE(a=0.8, calculus=calculus)
        errors.append(rms(sk.solve(tanh, x0, **how).x - tanh.path(x0, 1.0, w)))
    # The error estimate of a step is of order 1.5, so that the error of all goes as tol^(2/3) at least.
    assert falls(errors, 0.45), errors
    assert errors[-1] < 1e-2


def test_geometric_brownian_motion_on_its_path():
    x0, sde = torch.linspace(0.5, 2, 200, dtype=F64)[:, None], GeometricBrownianMotion(1.5, 0.6)
    w = path_of((200, 1))(1.0).W
    exact = sde.path(x0, 1.0, w)
    for name in ("adaptive:sosri", "adaptive:spark"):  # in the other calculus, too
        errors = []
        for tolerance in (1e-1, 1e-2, 1e-3):
            out = sk.solve(sde, x0, t0=0, t1=1, solver=name, rtol=tolerance, atol=tolerance, seed=3)
            errors.append(rms((out.x - exact) / exact))
        assert falls(errors, 0.45), errors
        assert errors[-1] < 1e-2


def test_ornstein_uhlenbeck_on_its_path():
    sde, x0 = OrnsteinUhlenbeck(theta=2.0), starts(200)
    path = path_of((200, 1))
    exact = sk.solve(sde, x0, t0=0, t1=1, solver="shark", steps=1000, noise=path).x
    for name in ("adaptive:sosra", "adaptive:shark", "adaptive:sra1", "adaptive:euler_maruyama"):
        errors = []
        for tolerance in (1e-1, 1e-2, 1e-3):
            out = sk.solve(sde, x0, t0=0, t1=1, solver=name, rtol=tolerance, atol=tolerance, seed=3)
            errors.append(rms(out.x - exact))
        assert falls(errors, 0.45), errors
        assert errors[-1] < 1e-2


def test_noise_that_does_not_commute_on_its_path():
    sde, x0 = NoncommutativeSDE(calculus="stratonovich"), starts(60, 2)
    path = path_of((60, 2))
    exact = sk.solve(sde, x0, t0=0, t1=1, solver="stochastic_heun", steps=2000, noise=path).x
    errors = []
    for tolerance in (1e-1, 1e-2):
        out = sk.solve(sde, x0, t0=0, t1=1, solver="adaptive:spark", rtol=tolerance, atol=tolerance, seed=3)
        errors.append(rms(out.x - exact))
    # Of order 1/2 in the step, as any method without Levy areas: the tolerance falls as h.
    assert falls(errors, 0.7), errors
    assert errors[-1] < 0.04


def test_backwards_in_time():
    # Stratonovich's solution is a function of the path in either direction.
    sde, x0 = TanhSDE(a=0.8, calculus="stratonovich"), starts(100)
    path = path_of((100, 1))
    back = path(1.0, 0.0).W
    exact = torch.tanh(0.8 * back + torch.atanh(x0))
    errors = []
    for tolerance in (1e-1, 1e-2, 1e-3):
        out = sk.solve(sde, x0, t0=1, t1=0, solver="adaptive:spark", rtol=tolerance, atol=tolerance, seed=3)
        errors.append(rms(out.x - exact))
    assert falls(errors, 0.45), errors
    ou = sk.solve(
        OrnsteinUhlenbeck(theta=0.7),
        torch.zeros(3000, 1),
        t0=1,
        t1=0,
        solver="adaptive:sosra",
        rtol=0.05,
        atol=0.05,
        seed=0,
    )
    # dX = theta X du + dW: variance (e^(2 theta) - 1)/(2 theta); four standard errors are 10 %.
    assert float(ou.x.var()) == pytest.approx(math.expm1(1.4) / 1.4, rel=0.1)


def test_the_sources_of_a_path():
    sde, x0 = OrnsteinUhlenbeck(), starts(4, 2)
    how: dict[str, Any] = {"t0": 0, "t1": 1, "solver": "adaptive:sosra", "rtol": 1e-2, "atol": 1e-2}

    def solved(**kwargs: Any) -> Tensor:
        return sk.solve(sde, x0, **how, **kwargs).x

    seed = solved(seed=5)
    assert torch.equal(seed, solved(noise=path_of((4, 2), 5)))
    assert torch.equal(solved(seeds=[3, 1, 4, 1]), solved(noise=path_of((4, 2), None, seeds=[3, 1, 4, 1])))
    assert torch.equal(solved(seeds=[3, 1, 4, 1])[:2], sk.solve(sde, x0[:2], seeds=[3, 1], **how).x)
    one = [solved(generator=torch.Generator().manual_seed(7)) for _ in range(2)]
    assert torch.equal(*one)
    generator = torch.Generator().manual_seed(7)
    assert not torch.equal(solved(generator=generator), solved(generator=generator))
    each = [torch.Generator().manual_seed(i) for i in (7, 8, 9, 10)]
    listed = solved(generator=each)
    alone = sk.solve(sde, x0[1:2], generator=[torch.Generator().manual_seed(8)], **how).x
    assert torch.equal(listed[1:2], alone)
    torch.manual_seed(0)
    first = solved()
    torch.manual_seed(0)
    assert torch.equal(first, solved())
    assert not torch.equal(first, solved())


@pytest.mark.parametrize(
    "noise",
    [
        lambda t, s, shape: torch.zeros(shape),
        GivenPath([0.0, 0.5, 1.0], torch.zeros(3, 4, 2)),
        FunctionPath(lambda t: torch.zeros(4, 2)),
    ],
    ids=["function", "given", "function path"],
)
def test_noise_that_is_not_known_everywhere_is_refused(noise):
    drift = Counted(lambda x, t: -x)
    with pytest.raises(UnsupportedError, match="give it seed=, seeds=, a generator or a BrownianPath"):
        sk.solve(SDE(drift, 1.0, "additive"), starts(4, 2), t0=0, t1=1, solver="adaptive:sosra", noise=noise)
    assert drift.calls == 0


def test_a_path_much_longer_than_the_solve_still_ends_it():
    # Its leaves are longer than the shortest steps that would be tried: a step never begins and ends in one.
    path = BrownianPath(0, (2, 1), 0.0, 1e9, dtype=F64)
    how = {"t0": 0.0, "t1": 1.0, "solver": "adaptive:sosra", "noise": path}
    assert sk.solve(OrnsteinUhlenbeck(), starts(2), rtol=0.1, atol=0.1, **how).status == "success"
    out = sk.solve(OrnsteinUhlenbeck(), starts(2), rtol=1e-9, atol=1e-9, **how)
    assert out.status == "min_step"


def test_a_path_that_does_not_fit_is_told():
    how = {"solver": "adaptive:sosra", "t0": 0}
    with pytest.raises(ShapeError, match=r"the Brownian path has shape \(3, 2\); this solve needs \(4, 2\)"):
        sk.solve(OrnsteinUhlenbeck(), starts(4, 2), t1=1, noise=BrownianPath(0, (3, 2)), **how)
    with pytest.raises(ArgumentError, match=r"spans \[0, 1\], the solve \[0, 2\]"):
        sk.solve(OrnsteinUhlenbeck(), starts(4, 2), t1=2, noise=BrownianPath(0, (4, 2)), **how)


# What is refused, and hard problems -----------------------------------------------------------------------------------


@pytest.mark.parametrize("sde", [GeometricBrownianMotion(), TanhSDE(), TanhSDE(noise="scalar"), NoncommutativeSDE()])
def test_euler_maruyama_does_not_adapt_to_noise_that_is_not_additive(sde):
    with pytest.raises(UnsupportedError, match=rf"does not adapt its steps to {sde.noise} noise.*Gaines & Lyons 1997"):
        sk.solve(sde, starts(4, 2), t0=0, t1=1, solver="adaptive:euler_maruyama", seed=0)
    with pytest.raises(UnsupportedError, match="adaptive:sosri"):
        sk.solve(sde, starts(4, 2), t0=0, t1=1, solver="euler_maruyama", rtol=1e-2, seed=0)


def test_a_tolerance_makes_a_method_adaptive():
    how = {"t0": 0, "t1": 1, "seed": 0, "rtol": 1e-2, "atol": 1e-3}
    out = sk.solve(OrnsteinUhlenbeck(), starts(4), solver="sosra", **how)
    assert torch.equal(out.x, sk.solve(OrnsteinUhlenbeck(), starts(4), solver="adaptive:sosra", **how).x)


@pytest.mark.parametrize("name", NAMES)
def test_a_drift_that_is_nan_past_a_time_is_named_with_that_time(name):
    sde = served(name)

    def f(x: Tensor, t: Tensor) -> Tensor:
        return torch.where((t > 0.52) & (x > 0), math.nan, sde.drift(x, t))

    x0 = torch.tensor([[0.6], [-0.99], [0.7]], dtype=F64)
    nan = SDE(f, lambda x, t: 1e-3 * sde.diffusion(x, t), sde.noise, sde.calculus)
    with pytest.raises(NonFiniteError) as caught:
        sk.solve(nan, x0, t0=0, t1=1, solver=name, rtol=1e-2, atol=1e-2, seed=0)
    assert caught.value.solver == name
    # That of the last step taken, whose stages may all lie before its end.
    assert 0.519 < caught.value.time < 0.62
    assert set(caught.value.samples) <= {0, 2}
    assert caught.value.samples


def test_a_drift_that_is_nan_throughout_is_told_at_the_start():
    with pytest.raises(NonFiniteError, match=r"at step 1 \(t = 0\), in sample\(s\) 0, 1\."):
        sk.solve(
            SDE(lambda x, t: x * math.nan, 1.0, "additive"), starts(2), t0=0, t1=1, solver="adaptive:sosra", seed=0
        )


@pytest.mark.parametrize("sde", [DoubleWell(), CubicMultiplicative(mu=1.0, sigma=0.5)])
def test_a_superlinear_drift_ends_in_the_right_answer(sde):
    # From 100, where the drift is 1e6: Euler-Maruyama with a hundred steps leaves the numbers.
    x0 = torch.full((16, 1), 100.0, dtype=F64)
    name = "adaptive:sosra" if sde.noise == "additive" else "adaptive:sosri"
    path = BrownianPath(0, (16, 1), 0.0, 1.0, dtype=F64)
    with pytest.raises(NonFiniteError):
        sk.solve(sde, x0, t0=0, t1=1, solver="euler_maruyama", steps=100, noise=path)
    out = sk.solve(sde, x0, t0=0, t1=1, solver=name, rtol=1e-3, atol=1e-3, noise=path)
    assert out.status == "success"
    exact = sk.solve(sde, x0, t0=0, t1=1, solver="tamed_euler", steps=20_000, noise=path).x
    assert rms(out.x - exact) < 0.03


def test_a_stiff_drift_ends_in_the_right_answer():
    sde, x0 = StiffLinear(k=200.0), torch.zeros(2000, 1, dtype=F64)
    out = sk.solve(sde, x0, t0=0, t1=1, solver="adaptive:sosra", rtol=0.03, atol=0.03, seed=0)
    mean, std = sde.marginal(x0, 1.0)
    assert out.status == "success"
    assert float(out.x.mean()) == pytest.approx(float(mean[0]), abs=4 * float(std.max()) / math.sqrt(2000) + 3e-3)
    assert float(out.x.std()) == pytest.approx(float(std.max()), rel=0.12)
    few = sk.solve(sde, x0[:4], t0=0, t1=1, solver="adaptive:sosra", rtol=0.03, atol=0.03, seed=0, max_nfe=100)
    assert few.status == "max_nfe"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rtol": -1.0}, "rtol must be 0 or more"),
        ({"rtol": 0.0, "atol": 0.0}, "atol, where rtol is 0"),
        ({"atol": math.nan}, "atol"),
        ({"h_init": 0.0}, "h_init"),
        ({"h_min": -1.0}, "h_min"),
        ({"max_nfe": 0}, "max_nfe must be an integer of at least 1"),
        ({"integral": "much"}, "integral"),
        ({"method": None}, "no option 'method'"),
    ],
)
def test_options_that_make_no_sense(options, message):
    with pytest.raises(ArgumentError, match=message):
        sk.solvers.get("adaptive:sosra", **options)


@pytest.mark.parametrize("how", [{"steps": 5}, {"grid": "uniform"}])
def test_it_takes_no_grid(how):
    with pytest.raises(ArgumentError, match="chooses its own steps"):
        sk.solve(OrnsteinUhlenbeck(), starts(2), t0=0, t1=1, solver="adaptive:sosra", seed=0, **how)


# The reverse SDE of a model -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sde", [VPSDE(), sk.EDMSDE()], ids=["vp", "edm"])
def test_the_reverse_sde_of_a_model_has_the_datas_law(sde):
    mean, std, n = 0.3, 0.5, 800
    model = gaussian_model(sde, mean, std, shape=(2,))
    out = sk.sample(model, n, solver="adaptive:sosra", rtol=0.02, atol=0.02, seed=0, dtype=F64)
    assert out.status == "success"
    count = 2 * n
    # Four standard errors, and the tolerance.
    assert float(out.x.mean()) == pytest.approx(mean, abs=4 * std / math.sqrt(count) + 5e-3)
    assert float(out.x.std()) == pytest.approx(std, rel=4 / math.sqrt(2 * count) + 0.02)
    part = sk.sample(model, 3, solver="adaptive:sosra", rtol=0.02, atol=0.02, seed=0, first=2, dtype=F64)
    assert torch.equal(part.x, out.x[2:5])


def test_the_reverse_sde_does_not_end_at_sigma_0():
    with pytest.raises(ArgumentError, match="would evaluate the score at t = 0"):
        sk.sample(gaussian_model(sk.EDMSDE(), shape=(2,)), 3, solver="adaptive:sosra", seed=0, t_end=0.0)


def test_the_layout_of_the_start_changes_nothing():
    # Functions round otherwise where tensors are not contiguous: a sample has to be itself in any layout of its batch.
    ode = sk.ODE(lambda x, t: torch.sin(2 * x) - x**3 + torch.exp(-x * x))
    x0 = torch.randn(5, 17, generator=torch.Generator().manual_seed(1), dtype=F64)
    across = x0.T.contiguous().T
    how = {"t0": 0, "t1": 1.5, "solver": "tsitouras_5", "rtol": 1e-4}
    whole = sk.solve(ode, x0, **how)
    assert torch.equal(sk.solve(ode, across, **how).x, whole.x)
    assert torch.equal(sk.solve(ode, across, chunk=2, **how).x, whole.x)
