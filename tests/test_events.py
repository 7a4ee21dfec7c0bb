"""Events: where they are located, that a sample stops there and changes nothing for another, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from _helpers import gaussian_model
from torch import Tensor

import sdekit as sk
from sdekit.dynamics import ForwardSDE
from sdekit.errors import ArgumentError, NonFiniteError, ShapeError, UnsupportedError
from sdekit.noise import BrownianPath, noise_source
from sdekit.noise.brownian import Increment
from sdekit.noise.given_path import FunctionPath, GivenPath
from sdekit.noise.splitting import join
from sdekit.sdes import SDE, GeometricBrownianMotion, NoncommutativeSDE, OrnsteinUhlenbeck, TanhSDE
from sdekit.solvers.base import Observers, Problem
from sdekit.solvers.event_steps import on_grid
from sdekit.solvers.events import DrawnHalves, Event

F64 = torch.float64
GRAVITY = 9.81
FLIGHTS = torch.tensor([[0.0, 3.0], [1.0, 5.0], [0.0, 100.0], [2.0, 0.0]], dtype=F64)
LANDINGS = ((FLIGHTS[:, 1] + (FLIGHTS[:, 1] ** 2 + 2 * GRAVITY * FLIGHTS[:, 0]).sqrt()) / GRAVITY).tolist()


def fall(x: Tensor, t: Tensor) -> Tensor:
    """Height and velocity."""
    return torch.stack([x[:, 1], torch.full_like(x[:, 1], -GRAVITY)], dim=1)


def height(x: Tensor, t: Tensor) -> Tensor:
    return x[:, 0]


def above(level: float) -> Any:
    return lambda x, t: x[:, 0] - level


DRIFTING = SDE(lambda x, t: torch.ones_like(x), 1.0, "additive")
ADAPTIVE = {"rtol": 1e-2, "atol": 1e-2}

# ODEs -----------------------------------------------------------------------------------------------------------------

ODE_SOLVERS = [
    ("heun", {"steps": 20}, 1e-7),
    ("midpoint", {"steps": 20}, 1e-7),
    ("rk4", {"steps": 7}, 1e-7),
    ("euler", {"steps": 4000}, 2e-3),
    ("tsitouras_5", {"rtol": 1e-8, "atol": 1e-8}, 1e-6),
    ("dormand_prince_5", {"rtol": 1e-8, "atol": 1e-8}, 1e-6),
    ("dormand_prince_8", {"rtol": 1e-8, "atol": 1e-8}, 1e-6),
    ("bogacki_shampine", {"rtol": 1e-8, "atol": 1e-8}, 1e-6),
]


@pytest.mark.parametrize(("name", "how", "near"), ODE_SOLVERS, ids=[s[0] for s in ODE_SOLVERS])
def test_a_ball_stops_where_it_lands(name, how, near):
    out = sk.solve(sk.ODE(fall), FLIGHTS, t0=0, t1=2, solver=name, event=height, event_direction="down", **how)
    for i in (0, 1, 3):
        assert float(out.event_times[i]) == pytest.approx(LANDINGS[i], abs=near)
        assert float(out.x[i, 0]) == pytest.approx(0.0, abs=20 * near)
        assert float(out.x[i, 1]) == pytest.approx(float(FLIGHTS[i, 1]) - GRAVITY * LANDINGS[i], abs=20 * near)
    assert math.isnan(out.event_times[2])  # still on its way up
    assert float(out.x[2, 1]) == pytest.approx(100 - 2 * GRAVITY, rel=1e-9)
    assert out.status == "event"
    assert out.stats["status"] == ["event", "event", "success", "event"]
    assert out.t == 2.0
    assert out.event_times.dtype == F64


def test_all_stopped_is_the_time_of_the_last():
    how = {"t0": 0, "t1": 2, "event": height, "event_direction": "down"}
    for more in ({"solver": "rk4", "steps": 20}, {"solver": "tsitouras_5", "rtol": 1e-8, "atol": 1e-8}):
        out = sk.solve(sk.ODE(fall), FLIGHTS[:2], **how, **more)
        assert out.t == float(out.event_times.max())
        free = sk.solve(sk.ODE(fall), FLIGHTS[2:3], **how, **more)
        assert (free.status, free.t) == ("success", 2.0)
        assert bool(torch.isnan(free.event_times).all())
    assert sk.solve(sk.ODE(fall), FLIGHTS, t0=0, t1=2, solver="rk4", steps=3).event_times is None


@pytest.mark.parametrize("tolerance", [1e-2, 1e-4, 1e-8, 1e-12])
@pytest.mark.parametrize(
    "how", [{"solver": "rk4", "steps": 5}, {"solver": "tsitouras_5", "rtol": 1e-10, "atol": 1e-10}]
)
def test_the_tolerance_is_of_the_time_and_a_part_of_the_solve(how, tolerance):
    out = sk.solve(
        sk.ODE(fall), FLIGHTS[:2], t0=0, t1=2, event=height, event_direction="down", event_tolerance=tolerance, **how
    )
    late = out.event_times - torch.tensor(LANDINGS[:2], dtype=F64)
    assert float(late.abs().max()) <= 2 * tolerance + 1e-9
    assert float(late.min()) > -1e-9  # the state is just past zero
    assert float(out.x[:, 0].max()) <= 1e-9
    # In a clock that runs a thousand times as fast, the same part of a solve a thousandth as long.
    fast = sk.ODE(lambda x, t: 1e3 * fall(x, t))
    out = sk.solve(
        fast, FLIGHTS[:2], t0=0, t1=2e-3, event=height, event_direction="down", event_tolerance=tolerance, **how
    )
    assert float((1e3 * out.event_times - torch.tensor(LANDINGS[:2], dtype=F64)).abs().max()) <= 2 * tolerance + 1e-9


def test_directions_and_a_start_at_zero():
    # x = sin t: zero at 0, pi, 2 pi, 3 pi; a start at zero has crossed nothing.
    ode = sk.ODE(lambda x, t: torch.stack([x[:, 1], -x[:, 0]], 1))
    x0 = torch.tensor([[0.0, 1.0]], dtype=F64)
    for how in ({"solver": "rk4", "steps": 500}, {"solver": "dopri8", "rtol": 1e-10, "atol": 1e-10}):
        for direction, expected in (("any", math.pi), ("down", math.pi), ("up", 2 * math.pi)):
            out = sk.solve(ode, x0, t0=0, t1=10, event=height, event_direction=direction, **how)
            assert float(out.event_times) == pytest.approx(expected, abs=1e-6)
    back = sk.solve(ode, x0, t0=10, t1=0, event=height, event_direction="up", **how)
    assert float(back.event_times) == pytest.approx(10 - (2 * math.pi if math.sin(-1) > 0 else math.pi), abs=1e-6)


def test_backwards_in_time():
    # dx/dt = 1 from x = 2 at t = 2 down to t = 0: x crosses 0.5 at t = 0.5, downwards.
    ode, x0 = sk.ODE(lambda x, t: torch.ones_like(x)), torch.full((1, 1), 2.0, dtype=F64)
    for how in ({"solver": "rk4", "steps": 7}, {"solver": "adaptive:tsitouras_5"}):
        for direction in ("any", "down"):
            out = sk.solve(ode, x0, t0=2, t1=0, event=above(0.5), event_direction=direction, **how)
            assert float(out.event_times) == pytest.approx(0.5, abs=1e-7)
            assert float(out.x) == pytest.approx(0.5, abs=1e-7)
            assert out.t == float(out.event_times)
        assert math.isnan(sk.solve(ode, x0, t0=2, t1=0, event=above(0.5), event_direction="up", **how).event_times)


def test_an_event_of_time_and_one_that_lands_on_a_step():
    ode, x0 = sk.ODE(lambda x, t: -x), torch.ones(3, 1, dtype=F64)
    for how in ({"solver": "rk4", "steps": 8}, {"solver": "adaptive:tsitouras_5"}):
        for at in (0.3, 0.5, 1.0):
            out = sk.solve(ode, x0, t0=0, t1=1, event=lambda x, t, at=at: t - at, **how)
            assert torch.allclose(out.event_times, torch.full((3,), at, dtype=F64), atol=2e-8)
            assert torch.allclose(out.x, torch.full((3, 1), math.exp(-at), dtype=F64), atol=1e-3)


def test_of_several_crossings_the_first_is_taken_and_those_within_a_step_are_not_seen():
    ode, x0 = sk.ODE(lambda x, t: torch.cos(t) * torch.ones_like(x)), torch.full((1, 1), 0.0, dtype=F64)
    first = math.asin(0.5)
    fine = sk.solve(ode, x0, t0=0, t1=20, solver="rk4", steps=400, event=above(0.5))
    assert float(fine.event_times) == pytest.approx(first, abs=1e-6)
    # sin t is above 1/2 from pi/6 to 5 pi/6; a step from 0 to 2.9 passes over.
    coarse = sk.solve(ode, x0, t0=0, t1=2.9, solver="rk4", steps=1, event=above(0.5))
    assert math.isnan(coarse.event_times)


# SDEs -----------------------------------------------------------------------------------------------------------------

SDE_CASES: list[tuple[str, dict[str, Any]]] = [
    ("euler_maruyama", {"steps": 40}),
    ("shark", {"steps": 40}),
    ("sra1", {"steps": 40}),
    ("stochastic_heun", {"steps": 40}),
    ("sriw1", {"steps": 40}),
    ("milstein", {"steps": 40}),
    ("slowrk", {"steps": 40}),
    ("adaptive:sosra", ADAPTIVE),
    ("adaptive:spark", ADAPTIVE),
    ("adaptive:euler_maruyama", ADAPTIVE),
]
IDS = [case[0] for case in SDE_CASES]


@pytest.mark.parametrize(("name", "how"), SDE_CASES, ids=IDS)
def test_a_sample_stops_at_the_level_and_stays(name, how):
    x0 = torch.linspace(-1, 0.5, 30, dtype=F64)[:, None]
    asked = [0.5, 1.0, 2.0]
    out = sk.solve(DRIFTING, x0, t0=0, t1=2, solver=name, seed=0, event=above(1.0), save_at=asked, **how)
    gone = ~torch.isnan(out.event_times)
    assert 5 < int(gone.sum()) < 30
    assert out.stats["status"] == ["event" if g else "success" for g in gone.tolist()]
    # To 2e-8 in time: to some deviations of the noise over it in the state.
    assert float((out.x[gone, 0] - 1).abs().max()) < 1e-3
    assert bool((out.x[gone, 0] >= 1).all())
    assert out.trajectory_times.tolist() == asked
    for t, x in zip(asked, out.trajectory, strict=True):
        stopped = gone & (out.event_times <= t)
        assert torch.equal(x[stopped], out.x[stopped])
        assert bool((x[~stopped, 0] < 1).all())
    assert torch.equal(out.trajectory[-1], out.x)


@pytest.mark.parametrize(("name", "how"), SDE_CASES, ids=IDS)
def test_alone_in_a_batch_and_in_chunks_are_one(name, how):
    x0 = torch.linspace(-0.5, 0.9, 7, dtype=F64)[:, None]
    how = {"t0": 0, "t1": 1, "solver": name, "event": above(1.0), **how}
    whole = sk.solve(DRIFTING, x0, seed=3, **how)
    gone = ~torch.isnan(whole.event_times)
    assert int(gone.sum()) > 0
    cut = sk.solve(DRIFTING, x0, seed=3, chunk=3, **how)
    assert torch.equal(cut.x, whole.x)
    assert (cut.t, cut.status) == (whole.t, whole.status)
    assert torch.equal(cut.event_times.nan_to_num(-1), whole.event_times.nan_to_num(-1))
    each = sk.solve(DRIFTING, x0, seeds=[5, 6, 7, 8, 9, 10, 11], **how)
    for i in range(7):
        own = sk.solve(DRIFTING, x0[i : i + 1], seed=3, first=i, **how)
        assert torch.equal(own.x[0], whole.x[i])
        assert own.event_times.nan_to_num(-1)[0] == whole.event_times.nan_to_num(-1)[i]
        alone = sk.solve(DRIFTING, x0[i : i + 1], seeds=[5 + i], **how)
        assert torch.equal(alone.x[0], each.x[i])


@pytest.mark.parametrize(("name", "how"), SDE_CASES, ids=IDS)
def test_those_that_do_not_stop_are_as_without_the_event(name, how):
    x0 = torch.linspace(-1, 0.9, 12, dtype=F64)[:, None]
    how = {"t0": 0, "t1": 1, "solver": name, "seed": 3, **how}
    free, out = sk.solve(DRIFTING, x0, **how), sk.solve(DRIFTING, x0, event=above(1.0), **how)
    stay = torch.isnan(out.event_times)
    assert torch.allclose(out.x[stay], free.x[stay], rtol=1e-13, atol=1e-14)
    if "steps" not in how:
        assert torch.equal(out.nfe[stay], free.nfe[stay])


def passage_times(n: int, steps: int, solver: str = "euler_maruyama", seed: int = 0) -> Tensor:
    out = sk.solve(
        DRIFTING,
        torch.zeros(n, 1, dtype=F64),
        t0=0,
        t1=12,
        solver=solver,
        steps=steps,
        seed=seed,
        event=above(1.0),
        event_tolerance=1e-5,
    )
    return out.event_times


def test_the_first_passage_of_brownian_motion_with_drift():
    # E tau = a/mu = 1, Var tau = a/mu^3 = 1. Barriers looked at every h lie 0.5826 sqrt(h) further out in the mean
    # (Broadie, Glasserman & Kou 1997), but for what is seen inside the step that crosses.
    n = 2000
    late = []
    for steps in (60, 240):
        h = 12 / steps
        times = passage_times(n, steps)
        assert int(torch.isnan(times).sum()) <= 3  # P(tau > 12) = 6e-4
        mean = float(times.nan_to_num(12.0).mean())
        error = 3.5 / math.sqrt(n)
        assert 1 - error < mean < 1 + 0.5826 * math.sqrt(h) + error
        late.append(mean - 1)
    assert late[1] < 0.75 * late[0]


def test_where_the_crossing_is_looked_for_it_is_brownian():
    # The law of a half given the whole, and of what is drawn where a path has no H: as the direct draws'.
    n, h = 20_000, 0.3
    w = torch.randn(n, 1, generator=torch.Generator().manual_seed(0), dtype=F64) * math.sqrt(h)
    halves = DrawnHalves(Increment(w), torch.full((n,), h, dtype=F64), [f"{i}" for i in range(n)])
    rows, zero = torch.arange(n), torch.zeros(n, dtype=F64)
    first = halves.first(rows, zero, zero + h / 2, zero + h)
    halves.keep(rows, torch.zeros(n, dtype=torch.bool))
    second = Increment(*[v.clone() for v in halves._values])
    whole = join(first, h / 2, second, h / 2)
    assert torch.allclose(whole.W, w, atol=1e-12)
    for value, variance in (
        (first.W, h / 2),
        (second.W, h / 2),
        (first.H, h / 24),
        (second.H, h / 24),
        (whole.H, h / 12),
    ):
        # Five standard errors.
        assert float(value.var()) == pytest.approx(variance, rel=5 * math.sqrt(2 / n))
        assert abs(float(value.mean())) < 5 * math.sqrt(variance / n)
    pairs = [(first.W, second.W), (first.W, first.H), (first.W, second.H), (first.H, second.H), (whole.W, whole.H)]
    for a, b in pairs:
        assert abs(float((a * b).mean())) / float(a.std() * b.std()) < 5 / math.sqrt(n)


def test_on_a_brownian_path_the_event_is_the_paths():
    # dX = dW: the state at the event is the path's value there.
    sde = SDE(lambda x, t: torch.zeros_like(x), 1.0, "additive")
    x0, path = torch.zeros(20, 1, dtype=F64), BrownianPath(0, (20, 1), 0.0, 1.0, dtype=F64, cells=16)
    for how in (
        {"solver": "euler_maruyama", "steps": 16},
        {"solver": "shark", "steps": 13},
        {"solver": "sosra", **ADAPTIVE},
    ):
        out = sk.solve(sde, x0, t0=0, t1=1, noise=path, event=above(0.3), **how)
        gone = ~torch.isnan(out.event_times)
        assert int(gone.sum()) > 3
        value = path(torch.zeros(20, dtype=F64), out.event_times.nan_to_num(1.0)).W
        assert torch.allclose(value[gone], out.x[gone], atol=1e-10)
        part = sk.solve(sde, x0[4:9], t0=0, t1=1, noise=path.part(4, 9, 20), event=above(0.3), **how)
        assert torch.equal(part.x, out.x[4:9])


@pytest.mark.parametrize(
    ("name", "sde"),
    [
        ("euler_maruyama", NoncommutativeSDE()),
        ("stochastic_heun", NoncommutativeSDE(calculus="stratonovich")),
        ("slowrk", TanhSDE(noise="scalar", calculus="stratonovich")),
        ("sriw1", GeometricBrownianMotion(0.5, 0.5)),
        ("milstein_free", TanhSDE()),
        ("stochastic_heun", TanhSDE()),  # converted
        ("tamed_euler", TanhSDE()),
        ("adaptive:spark", NoncommutativeSDE()),
        ("adaptive:sosri", TanhSDE()),
    ],
    ids=str,
)
def test_any_noise_and_any_state(name, sde):
    x0 = torch.full((16, 2), 0.2, dtype=F64)
    how = {"rtol": 0.05, "atol": 0.05} if name.startswith("adaptive") else {"steps": 32}
    how = {
        "t0": 0,
        "t1": 1,
        "solver": name,
        "seed": 1,
        "event": lambda x, t: (x - 0.4).amax(dim=1, keepdim=True),
        **how,
    }
    out = sk.solve(sde, x0, **how)
    gone = ~torch.isnan(out.event_times)
    assert int(gone.sum()) > 3
    # The step that crossed is made again in halves, which differ from it by the method's error of one step.
    assert float((out.x[gone].amax(dim=1) - 0.4).abs().median()) < 1e-3
    assert float((out.x[gone].amax(dim=1) - 0.4).abs().max()) < 0.03
    assert torch.equal(sk.solve(sde, x0, chunk=5, **how).x, out.x)


def test_a_state_with_channels_parameters_for_each_sample_and_float32():
    rate = torch.linspace(0.5, 2, 6)[:, None, None]
    sde = SDE(lambda x, t, rate: rate + 0 * x, 0.5, "additive", parameters={"rate": rate})
    x0 = torch.zeros(6, 2, 3)
    for how in ({"solver": "shark", "steps": 20}, {"solver": "sosra", **ADAPTIVE}):
        how = {"t0": 0, "t1": 1, "seed": 0, "event": lambda x, t: x.amax(dim=(1, 2)) - 1, **how}
        out = sk.solve(sde, x0, **how)
        assert out.x.dtype == torch.float32
        gone = ~torch.isnan(out.event_times)
        assert 2 < int(gone.sum()) <= 6
        assert float((out.x[gone].amax(dim=(1, 2)) - 1).abs().max()) < 2e-3
        assert torch.equal(sk.solve(sde, x0, chunk=4, **how).x, out.x)


LEVELS = torch.tensor([[0.9], [0.05], [9.0], [0.2], [0.4]], dtype=F64)
LEVEL_STOPS = [
    (sk.solvers.get("rk4"), 4),
    (sk.solvers.get("shark"), 40),
    (sk.solvers.get("adaptive:tsitouras_5"), None),
    (sk.solvers.get("adaptive:sosra", rtol=1e-3, atol=1e-3), None),
]


@pytest.mark.parametrize(("solver", "steps"), LEVEL_STOPS, ids=[s[0].name for s in LEVEL_STOPS])
def test_each_sample_may_have_a_level_of_its_own(solver, steps):
    # dx = (0 or 0.3) dW + dt from 0: without noise the sample passes its level L at t = L.
    x0, ones = torch.zeros(5, 2, dtype=F64), torch.ones_like
    sigma = 0.3 if solver.stochastic else 0.0
    dynamics = ForwardSDE(SDE(lambda x, t: ones(x), sigma, "additive")) if sigma else sk.ODE(lambda x, t: ones(x))
    times = torch.linspace(0, 1, 2 if steps is None else steps + 1, dtype=F64)

    def solved(a: int, b: int) -> Any:
        def above(x: Tensor, t: Tensor, level: Tensor) -> Tensor:
            return x[:, :1] - level

        event = Event(above, "up", parameters={"level": LEVELS}).rows(slice(a, b), 5)
        problem = Problem(dynamics, x0[a:b], times, noise_source(seed=7, first=a))
        running = solver if steps is None else on_grid(solver, dynamics, Event(above, "up"))
        return running.integrate(problem, Observers(event=event))

    out = solved(0, 5)
    gone = ~torch.isnan(out.event_times)
    if not sigma:
        assert out.event_times[gone].tolist() == pytest.approx([0.9, 0.05, 0.2, 0.4], abs=1e-7)
    assert gone.tolist() == [bool(out.x[i, 0] >= LEVELS[i, 0]) for i in range(5)]
    assert 3 <= int(gone.sum()) < 5
    assert float((out.x[gone, 0] - LEVELS[gone, 0]).abs().max()) < 1e-3
    for a, b in ((0, 2), (2, 5), (3, 4)):
        part = solved(a, b)
        assert torch.equal(part.x, out.x[a:b])
        assert torch.equal(part.event_times.nan_to_num(-1), out.event_times[a:b].nan_to_num(-1))


@pytest.mark.parametrize("how", [{"solver": "shark", "steps": 40}, {"solver": "sosra", **ADAPTIVE}], ids=str)
def test_levels_are_cut_with_the_batch(how):
    x0, levels = torch.zeros(5, 2, dtype=F64), {"level": LEVELS}
    how = {"t0": 0, "t1": 1, "seed": 3, "event": lambda x, t, level: x[:, :1] - level, **how}
    out = sk.solve(DRIFTING, x0, event_parameters=levels, **how)
    assert 0 < int(torch.isnan(out.event_times).sum()) < 5
    for chunk in (1, 2):
        cut = sk.solve(DRIFTING, x0, event_parameters=levels, chunk=chunk, **how)
        assert torch.equal(cut.x, out.x)
        assert torch.equal(cut.event_times.nan_to_num(-1), out.event_times.nan_to_num(-1))


@pytest.mark.parametrize(("solver", "steps"), LEVEL_STOPS[1:3], ids=["grid", "adaptive"])
def test_parameters_of_an_event_that_do_not_fit(solver, steps):
    dynamics = ForwardSDE(DRIFTING) if solver.stochastic else sk.ODE(fall)
    event = Event(lambda x, t, level: x[:, 0] - level, parameters={"level": torch.ones(3)})
    times = torch.linspace(0, 1, 2 if steps is None else steps + 1, dtype=F64)
    problem = Problem(dynamics, torch.zeros(5, 2), times, noise_source(seed=0))
    running = solver if steps is None else on_grid(solver, dynamics, event)
    with pytest.raises(ShapeError, match=r"parameter 'level' has shape \(3,\) for a batch of 5"):
        running.integrate(problem, Observers(event=event))
    with pytest.raises(ArgumentError, match=r"tensors of shape \(B, …\) by name"):
        Event(height, parameters={"level": 1.0})


def test_given_increments_and_generators():
    times = torch.linspace(0, 1, 17, dtype=F64)
    dw = torch.randn(16, 8, 1, generator=torch.Generator().manual_seed(0), dtype=F64) / 4
    x0 = torch.zeros(8, 1, dtype=F64)
    how = {"solver": "euler_maruyama", "grid": times, "event": above(0.6)}
    out = sk.solve(DRIFTING, x0, noise=GivenPath.from_increments(times, dw), **how)
    gone = ~torch.isnan(out.event_times)
    assert int(gone.sum()) > 0
    for i in range(8):
        own = sk.solve(DRIFTING, x0[i : i + 1], noise=GivenPath.from_increments(times, dw[:, i : i + 1]), **how)
        assert torch.equal(own.x[0], out.x[i])
    # A generator gives the same numbers to the steps, whether there is an event or not.
    plain = sk.solve(DRIFTING, x0, generator=torch.Generator().manual_seed(5), **{**how, "event": None})
    ended = sk.solve(DRIFTING, x0, generator=torch.Generator().manual_seed(5), **how)
    stay = torch.isnan(ended.event_times)
    assert torch.allclose(ended.x[stay], plain.x[stay], rtol=1e-13)
    with pytest.raises(UnsupportedError, match="which a FunctionPath has not"):
        sk.solve(DRIFTING, x0, noise=FunctionPath(lambda t: torch.zeros(8, 1, dtype=F64)), **how)


def test_split_and_resumed():
    x0 = torch.linspace(-1, 0.9, 9, dtype=F64)[:, None]
    how = {"t0": 0, "t1": 1, "solver": "shark", "steps": 20, "seed": 3, "event": above(1.0)}
    whole = sk.solve(DRIFTING, x0, **how)
    half = sk.solve(DRIFTING, x0, stop=7, **how)
    saved = sk.solvers.SolveState.from_dict(half.state.to_dict())
    rest = sk.solve(DRIFTING, x0, resume=saved, **how)
    assert torch.equal(rest.x, whole.x)
    assert torch.equal(rest.event_times.nan_to_num(-1), whole.event_times.nan_to_num(-1))
    assert 0 < int((whole.event_times <= 0.35).sum()) < int((whole.event_times <= 1).sum())
    assert half.stats["status"].count("stopped") > 0
    with pytest.raises(ArgumentError, match="cannot resume"):
        sk.solve(DRIFTING, x0, resume=half.state, **{**how, "event": None})


def test_callbacks_see_the_frozen_state_and_may_move_a_sample_over():
    x0, seen = torch.zeros(3, 1, dtype=F64), []

    def moving(info: Any) -> None:
        seen.append(info.x.clone())
        if info.step == 3:
            info.x[1] = 5.0  # put above the level, not by a step: no crossing

    out = sk.solve(
        sk.ODE(lambda x, t: torch.ones_like(x)),
        x0,
        t0=0,
        t1=2,
        solver="rk4",
        steps=20,
        event=above(1.0),
        callback=moving,
    )
    assert out.event_times.tolist()[::2] == pytest.approx([1.0, 1.0], abs=1e-7)
    assert math.isnan(out.event_times[1])
    assert float(seen[-1][0]) == pytest.approx(1.0, abs=1e-7)


def test_max_nfe_is_never_exceeded_by_looking_for_an_event():
    x0 = torch.linspace(-1, 0.9, 12, dtype=F64)[:, None]
    rows = 0

    def f(x: Tensor, t: Tensor) -> Tensor:
        nonlocal rows
        rows += len(x)
        return torch.ones_like(x)

    sde = SDE(f, 1.0, "additive")
    how = {"t0": 0, "t1": 1, "seed": 0, "event": above(1.0), **ADAPTIVE}
    for name in ("sosra", "shark", "euler_maruyama"):
        for most in (3, 10, 25, 60, 500):
            rows = 0
            out = sk.solve(sde, x0, solver=name, max_nfe=most, **how)
            assert int(out.nfe.max()) <= most
            assert rows == int(out.nfe.sum())
            # A location cut short is still one past the level, on the way of a step.
            gone = ~torch.isnan(out.event_times)
            assert bool((out.x[gone, 0] >= 1).all())
    ode = sk.ODE(f)
    for name in ("dormand_prince_8", "bogacki_shampine"):
        for most in range(13, 34):
            rows = 0
            out = sk.solve(ode, x0[-3:], t0=0, t1=1, solver=f"adaptive:{name}", event=above(1.0), max_nfe=most)
            assert int(out.nfe.max()) <= most
            assert rows == int(out.nfe.sum())


def test_the_reverse_sde_of_a_model_under_an_adaptive_solver():
    model = gaussian_model(sk.VPSDE(), 0.3, 0.5, shape=(2,))
    x0 = torch.randn(20, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
    how = {"t0": 1.0, "t1": 1e-3, "event": lambda x, t: x.norm(dim=1) - 0.3, "event_direction": "down"}
    out = sk.solve(sk.ReverseSDE(model), x0, solver="sosra", seed=0, rtol=0.05, atol=0.05, **how)
    gone = ~torch.isnan(out.event_times)
    assert int(gone.sum()) > 3
    assert float((out.x[gone].norm(dim=1) - 0.3).abs().max()) < 1e-2
    flow = sk.solve(sk.ProbabilityFlow(model), x0, solver="tsitouras_5", rtol=1e-4, **how)
    assert float((flow.x[~torch.isnan(flow.event_times)].norm(dim=1) - 0.3).abs().max()) < 1e-5
    with pytest.raises(UnsupportedError, match="on a grid a model's dynamics run as a table"):
        sk.solve(sk.ProbabilityFlow(model), x0, solver="heun", steps=4, **how)


# What is refused, and what is told ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["scipy:RK45", "torchsde:euler", "reversible_heun", "dri1"])
def test_solvers_that_cannot_stop_say_so(name):
    dynamics: Any = sk.ODE(lambda x, t: -x) if name.startswith("scipy") else OrnsteinUhlenbeck()
    how = {} if name.startswith("scipy") else {"steps": 4, "seed": 0}
    with pytest.raises(UnsupportedError, match=rf"'{name}' cannot stop a sample on the way"):
        sk.solve(dynamics, torch.ones(2, 1), t0=0, t1=1, solver=name, event=height, **how)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"event": 3.0}, "event must be a function of"),
        ({"event": height, "event_direction": "left"}, "event_direction must be 'any', 'up' or 'down', got 'left'"),
        ({"event": height, "event_tolerance": 0.0}, "event_tolerance"),
        ({"event": height, "event_tolerance": 2.0}, "a part of the whole solve, below 1"),
        ({"event_direction": "up"}, "go with event, which is None"),
        ({"event_parameters": {"level": torch.ones(4)}}, "event_parameters go with event, which is None"),
        ({"event": height, "event_parameters": [1.0]}, "parameters must be a dict of tensors by name"),
        ({"event": height, "event_parameters": {"level": torch.ones(3)}}, r"shape \(3,\) for a batch of 4"),
        ({"event": lambda x, t: x}, r"shape \(4, 2\) for 4 sample\(s\); expected \(4,\)"),
        ({"event": lambda x, t: x.sum()}, r"expected \(4,\)"),
        ({"event": lambda x, t: 1.0}, "the event must return a tensor"),
        (
            {"event": lambda x, t: x[:, 0] > 1.5},
            r"got torch\.bool; in place of a condition such as x > 1",
        ),
        ({"event": lambda x, t: x[:, 0].long()}, r"got torch\.int64"),
        ({"event": lambda x, t: x[:, 0] + 0j}, r"got torch\.complex"),
        ({"event": lambda x, t: x[:, 0] * math.nan}, "the event is NaN at a finite state, at t = 0"),
    ],
)
def test_events_that_make_no_sense(how, message):
    for more in ({"solver": "shark", "steps": 4}, {"solver": "sosra", "rtol": 1e-2}):
        with pytest.raises((ArgumentError, ShapeError), match=message):
            sk.solve(OrnsteinUhlenbeck(), torch.ones(4, 2), t0=0, t1=1, seed=0, **more, **how)


def test_what_does_not_go_together():
    how = {"t0": 0, "t1": 1, "event": height}
    ode = sk.ODE(lambda x, t: -x)
    with pytest.raises(UnsupportedError, match="leave out dense=True, or the event"):
        sk.solve(ode, torch.ones(2, 1), solver="tsitouras_5", rtol=1e-3, dense=True, **how)
    with pytest.raises(UnsupportedError, match="event"):
        sk.solve(ode, torch.ones(2, 1), solver="rk4", steps=3, gradient="backprop", **how)
    with pytest.raises(UnsupportedError):
        sk.solve(OrnsteinUhlenbeck(), torch.ones(2, 1), solver="euler_maruyama", steps=3, seed=0, compiled=True, **how)


def test_a_state_that_is_no_number_is_named_as_ever():
    def f(x: Tensor, t: Tensor) -> Tensor:
        return torch.where(t > 0.52, math.nan, x)

    for how in ({"solver": "rk4", "steps": 10}, {"solver": "adaptive:tsitouras_5"}):
        with pytest.raises(NonFiniteError):
            sk.solve(sk.ODE(f), torch.ones(2, 1, dtype=F64), t0=0, t1=1, event=above(9.0), **how)


def test_the_event_is_a_value():
    event = Event(height, "up")
    assert event == Event(height, "up")
    side = torch.tensor([-1.0, -1.0, 1.0, 1.0, 0.0])
    value = torch.tensor([0.0, -1.0, 0.0, -1.0, 1.0])
    assert event.passed(side, value).tolist() == [True, False, False, False, False]
    assert Event(height, "down").passed(side, value).tolist() == [False, False, True, True, False]
    assert Event(height).passed(side, value).tolist() == [True, False, True, True, False]
    assert Event.side(value, side).tolist() == [-1.0, -1.0, 1.0, -1.0, 1.0]
