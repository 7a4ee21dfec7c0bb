"""What bad input gets: an error at the door, or one that names solver, step and time; networks that misbehave."""

from __future__ import annotations

import math
import pickle
import re
from typing import Any

import pytest
import torch
from _helpers import CASES, FIXED, Case, gaussian_model, is_slow, label
from torch import Tensor

import sdekit as sk
from sdekit.errors import ArgumentError, NonFiniteError, SdekitError, ShapeError, UnsupportedError
from sdekit.sdes import EDMSDE, VPSDE
from sdekit.solvers import StepInfo

pytestmark = pytest.mark.filterwarnings("ignore:the Langevin corrector:UserWarning")
SDE = VPSDE()
DETERMINISTIC = [c for c in FIXED if not c.solver.stochastic]


class Counting:
    """A network that counts its calls; the door is before the first."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        self.calls += 1
        return 0.5 * x


# At the door -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kwargs", "error", "said"),
    [
        ({"n_or_shape": 0}, ArgumentError, "n must be"),
        ({"n_or_shape": -3}, ArgumentError, "n must be"),
        ({"n_or_shape": 2.5}, ShapeError, "2.5"),
        ({"n_or_shape": True}, ShapeError, "True"),
        ({"n_or_shape": "3"}, ShapeError, "'3'"),
        ({"n_or_shape": None}, ArgumentError, "number of samples"),
        ({"n_or_shape": (3, 2)}, ShapeError, r"\(4,\).*\(3, 2\)"),
        ({"n_or_shape": (3, 0)}, ShapeError, r"\(3, 0\)"),
        ({"n_or_shape": ()}, ShapeError, "batch first"),
        ({"x_T": [1.0, 2.0], "n_or_shape": None}, ArgumentError, "x_T must be a torch.Tensor"),
        ({"x_T": torch.ones(3, 4, dtype=torch.int64), "n_or_shape": None}, ArgumentError, r"x_T.float\(\)"),
        ({"x_T": torch.ones(3, 5), "n_or_shape": None}, ShapeError, r"\(4,\)"),
        ({"x_T": torch.ones(3, 4), "n_or_shape": 5}, ShapeError, r"\(3, 4\).*\(5, 4\)"),
        ({"x_T": torch.full((3, 4), math.nan), "n_or_shape": None}, ArgumentError, "x_T holds NaN"),
        ({"x_T": torch.full((3, 4), math.inf), "n_or_shape": None}, ArgumentError, "x_T holds NaN or inf"),
        ({"x_T": torch.ones(0, 4), "n_or_shape": None}, ShapeError, "at least one element"),
        ({"dtype": torch.int32}, ArgumentError, "floating-point"),
        ({"dtype": "float32"}, ArgumentError, "a torch.dtype such as torch.float32, got 'float32'"),
        ({"device": "gpu"}, ArgumentError, "'cpu' or 'cuda:0', got 'gpu'"),
        ({"device": []}, ArgumentError, "device must be"),
        ({"denoise": "yes"}, ArgumentError, "denoise"),
        ({"denoise": 1}, ArgumentError, "denoise"),
        ({"denoise": None}, ArgumentError, "denoise"),
        ({"denoise": "mean", "solver": "ddim"}, ArgumentError, "adds none"),
        ({"denoise": "mean", "solver": "scipy:RK45", "steps": None}, ArgumentError, "adds none"),
        ({"callback": 3}, ArgumentError, "callback"),
        ({"solver": None}, ArgumentError, "by name or as a Solver"),
        ({"solver": sk.solvers.DDIM}, ArgumentError, r"DDIM\(\)"),
        ({"steps": None}, ArgumentError, "needs steps"),
        ({"rtol": 1e-3}, ArgumentError, "tolerances go with an adaptive solver"),
        ({"solver": "scipy:RK45"}, ArgumentError, "takes no steps"),
        ({"solver": "scipy:RK45", "steps": None, "grid": "karras"}, ArgumentError, "takes no grid"),
        ({"t_end": -1e-9}, ArgumentError, "t_end"),
        ({"t_end": 1.1}, ArgumentError, "t_end"),
        ({"t_end": "0.1"}, ArgumentError, "t_end"),
        ({"t_start": None, "t_end": [0.1]}, ArgumentError, "t_end"),
        ({"eta": 0.5}, ArgumentError, "no option 'eta'"),
        ({"seed": 0, "generator": torch.Generator()}, ArgumentError, "seed and generator"),
        ({"seeds": [1, 2]}, ArgumentError, "2 entries for a batch of 3"),
        ({"generator": [torch.Generator()] * 2}, ArgumentError, "2 entries for a batch of 3"),
        ({"condition": 5}, ArgumentError, "condition"),
        ({"condition": {1: 2}}, ArgumentError, "condition must be a dict of the network's keyword arguments"),
        ({"condition": {"y": 2}}, ArgumentError, "with condition 'y': .*it takes x, t"),
    ],
    ids=lambda v: label(v) if isinstance(v, dict) else "",
)
def test_sample_at_the_door(kwargs, error, said):
    network = Counting()
    model = sk.ScoreModel(network, SDE, shape=(4,))
    with pytest.raises(error, match=said):
        sk.sample(model, **{"n_or_shape": 3, "solver": "ancestral", "steps": 5, **kwargs})
    assert network.calls == 0


@pytest.mark.parametrize(
    ("kwargs", "error", "said"),
    [
        ({"t0": None}, ArgumentError, "t0"),
        ({"t1": None}, ArgumentError, "t1"),
        ({"t0": 1.0}, ArgumentError, "same time"),
        ({"t1": math.nan}, ArgumentError, "t1 must be finite"),
        ({"t1": "1"}, ArgumentError, "t1"),
        ({"t0": math.inf}, ArgumentError, "t0 must be finite"),
        ({"steps": None}, ArgumentError, "needs steps"),
        ({"steps": 0}, ArgumentError, "steps"),
        ({"solver": "scipy:RK45", "steps": None, "t0": 1.0}, ArgumentError, "same time"),
        ({"x0": torch.ones(2, 3, dtype=torch.int64)}, ArgumentError, r"x0.float\(\)"),
        ({"x0": torch.tensor(1.0)}, ShapeError, "x0 must have shape"),
        ({"x0": torch.tensor([[math.nan]])}, ArgumentError, "x0 holds NaN"),
        ({"x0": 1.0}, ArgumentError, "x0 must be a torch.Tensor"),
        ({"save_at": [0.5, 1.5]}, ArgumentError, "save_at must hold times from 0 to 1"),
        ({"save_at": []}, ArgumentError, "save_at"),
        ({"save_at": [0.6, 0.5]}, ArgumentError, "direction"),
        ({"save_at": [0.2, 0.2]}, ArgumentError, "monotone"),
        ({"save_at": [math.nan]}, ArgumentError, "save_at"),
        ({"save_at": ["a"]}, ArgumentError, "save_at must be a list of times"),
        ({"save_at": "all"}, ArgumentError, "save_at must be a list of times"),
        ({"grid": "karras"}, UnsupportedError, "noise level"),
        ({"grid": [0.0, 0.5, 0.9], "steps": None}, ArgumentError, "t = 1"),
        ({"callback": "f"}, ArgumentError, "callback"),
    ],
    ids=lambda v: str(v) if isinstance(v, dict) else "",
)
def test_solve_at_the_door(kwargs, error, said):
    calls = []
    ode = sk.ODE(lambda x, t: calls.append(1) or -x)
    run = {"x0": torch.ones(2, 3), "t0": 0.0, "t1": 1.0, "solver": "heun", "steps": 5, **kwargs}
    with pytest.raises(error, match=said):
        sk.solve(ode, run.pop("x0"), **run)
    assert not calls


@pytest.mark.parametrize(
    "kind", [sk.ProbabilityFlow, sk.ReverseSDE, lambda model: model.sde], ids=["flow", "sde", "forward"]
)
@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        ({"t0": 5.0, "t1": 0.1}, r"t0 = 5.0 is outside \[0, T\]"),
        ({"t0": 1.0, "t1": -0.5}, r"t1 = -0.5 is outside \[0, T\]"),
        ({"grid": [5.0, 0.5, 0.1], "steps": None}, r"a time of the grid = 5.0 is outside"),
        ({"grid": [1.0, 0.5, -0.1], "steps": None}, r"a time of the grid = -0.1 is outside"),
    ],
    ids=lambda v: str(v) if isinstance(v, dict) else "",
)
def test_a_diffusion_is_not_solved_outside_its_time(kind, kwargs, said):
    network = Counting()
    dynamics = kind(sk.ScoreModel(network, SDE))
    solver = "euler_maruyama" if getattr(dynamics, "stochastic", True) else "heun"
    with pytest.raises(ArgumentError, match=said):
        sk.solve(dynamics, torch.ones(4, 2), **{"solver": solver, "steps": 5, **kwargs})
    if "grid" not in kwargs and solver == "heun":
        with pytest.raises(ArgumentError, match=said):
            sk.solve(dynamics, torch.ones(4, 2), solver="scipy:RK45", **kwargs)
    assert network.calls == 0


def test_shapes_that_do_not_broadcast():
    run = {"t0": 0.0, "t1": 1.0, "steps": 3, "seed": 0}
    with pytest.raises(ShapeError, match=r"\(3,\).*\(4, 2\)"):
        sk.solve(sk.OrnsteinUhlenbeck(sigma=torch.ones(3)), torch.ones(4, 2), **run)
    with pytest.raises(ShapeError, match=r"\(5, 1\).*\(1, 3\)"):
        sk.solve(sk.OrnsteinUhlenbeck(theta=torch.ones(5, 1)), torch.ones(1, 3), **run)
    with pytest.raises(ShapeError, match=r"\(4, 1\).*\(4, 3\)"):
        sk.solve(sk.SDE(lambda x, t: x[:, :1], 1.0, noise="additive"), torch.ones(4, 3), **run)
    with pytest.raises(ShapeError, match=r"\(2, 3\).*\(4, 3\)"):
        sk.solve(sk.SDE(lambda x, t: x, torch.ones(2, 3), noise="additive"), torch.ones(4, 3), **run)
    for solver in ("euler", "rk4", "scipy:RK45"):
        steps = {} if solver.startswith("scipy") else {"steps": 3}
        for drift, shape in ((lambda x, t: x[:, :1], (4, 3)), (lambda x, t: torch.ones(5, 3), (1, 3))):
            with pytest.raises(ShapeError, match="the drift returned"):
                sk.solve(sk.ODE(drift), torch.ones(shape), t0=0.0, t1=1.0, solver=solver, **steps)
        with pytest.raises(ArgumentError, match="must return a tensor"):
            sk.solve(sk.ODE(lambda x, t: 1.0), torch.ones(4, 3), t0=0.0, t1=1.0, solver=solver, **steps)


@pytest.mark.parametrize("tau", [0.0, -1.0, math.nan, math.inf, "1", None])
def test_tau_is_a_positive_number(tau):
    with pytest.raises(ArgumentError, match="tau"):
        sk.ReverseSDE(gaussian_model(SDE), tau)


def test_a_state_in_a_wider_drift_keeps_its_dtype():
    # A float64 drift for a float32 state must not widen the state on the way.
    ode = sk.ODE(lambda x, t: -x.double())
    for solver in ("euler", "rk4"):
        out = sk.solve(ode, torch.ones(2, 2), t0=0.0, t1=1.0, solver=solver, steps=3, trajectory=True)
        assert out.x.dtype == out.trajectory.dtype == torch.float32


# A network that returns something else -----------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("prediction", ["noise", "score", "velocity"])
@pytest.mark.parametrize(
    ("answer", "error", "said"),
    [
        (lambda x: x[:, :1], ShapeError, r"\(\d, 1\).*\(\d, 16\)"),
        (lambda x: torch.cat([x[:1], x]), ShapeError, r"\(\d, 16\).*\(\d, 16\)"),
        (lambda x: torch.cat([x, x], 1), ShapeError, r"\(\d, 32\)"),
        (lambda x: x.sum(), ShapeError, r"shape \(\)"),
        (lambda x: (x, x), ArgumentError, "tuple"),
        (lambda x: None, ArgumentError, "NoneType"),
    ],
    ids=["narrow", "a sample more", "twice", "number", "tuple", "None"],
)
def test_an_answer_of_another_kind_is_told_at_the_first_call(case, prediction, answer, error, said):
    model = sk.ScoreModel(lambda x, t: answer(x), EDMSDE(), prediction)
    with pytest.raises(error, match=said):
        case.sample(model, (3, 16), 3, seed=0)


@pytest.mark.parametrize("case", [c for c in FIXED if not c.options], ids=str)
@pytest.mark.parametrize("answer", [lambda x: x[:, :1], lambda x: None], ids=["narrow", "None"])
def test_an_answer_of_another_kind_is_told_at_a_later_call_too(case, answer):
    # Broadcasting would make a wrong result of the first without a word.
    calls = []

    def network(x: Tensor, t: Tensor) -> Any:
        calls.append(1)
        return 0.5 * x if len(calls) < 4 else answer(x)

    with pytest.raises(SdekitError, match=r"the network returned"):
        case.sample(sk.ScoreModel(network, EDMSDE()), (3, 16), 6, seed=0)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_networks_own_exceptions_pass_through(case):
    def network(x: Tensor, t: Tensor) -> Tensor:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        case.sample(sk.ScoreModel(network, EDMSDE()), (3, 16), 3, seed=0)


# A network that gives back its input, or the same buffer each time -------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("prediction", ["noise", "data", "velocity"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_network_that_returns_its_own_input(case, prediction, dtype):
    # A solver that works in place must not write into what it reads.
    run = {"seed": 0, "dtype": dtype, "t_end": 0.1, **case.tolerances(1e-2)}
    ends = [
        case.sample(sk.ScoreModel(network, EDMSDE(t_max=3.0), prediction), (3, 16), 4, **run).x
        for network in (lambda x, t: x, lambda x, t: x.clone())
    ]
    assert torch.equal(*ends)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("size", [16, 2048])
def test_a_network_that_returns_a_view_of_its_input(case, size):
    # Not at the input's own address: the last sample, for all of them. Wrong if it is written into before it is read.
    run = {"seed": 0, "t_end": 0.1, **case.tolerances(1e-2)}
    if size > 16 and case.solver.adaptive:
        pytest.skip("an adaptive solver's memory is its own at any size")
    if size > 16 and hasattr(case.solver, "max_iterations"):
        pytest.skip("an implicit solver makes Jacobians, of 2048 by 2048")
    ends = [
        case.sample(sk.ScoreModel(network, EDMSDE(t_max=3.0)), (3, size), 4, **run).x
        for network in (lambda x, t: x[-1:].expand_as(x), lambda x, t: x[-1:].expand_as(x).clone())
    ]
    assert torch.equal(*ends)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("prediction", ["noise", "velocity"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_network_that_returns_the_same_buffer_each_time(case, prediction, dtype):
    # As a captured CUDA graph does: what a solver keeps of an answer it must have copied.
    def answer(x: Tensor, t: Tensor) -> Tensor:
        return torch.tanh(x) + 0.1 * t[:, None]

    buffers: dict[torch.Size, Tensor] = {}

    def buffered(x: Tensor, t: Tensor) -> Tensor:
        buffer = buffers.setdefault(x.shape, torch.empty_like(x))
        return buffer.copy_(answer(x, t))

    run = {"seed": 0, "dtype": dtype, "t_end": 0.1, **case.tolerances(1e-2)}
    ends = [
        case.sample(sk.ScoreModel(network, EDMSDE(t_max=3.0), prediction), (3, 16), 4, **run).x
        for network in (buffered, answer)
    ]
    assert torch.equal(*ends)


@pytest.mark.parametrize("solver", ["euler", "heun", "rk4", "scipy:RK45", "scipy:Radau", "scipy:LSODA", "scipy:BDF"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_drift_that_returns_the_same_buffer_or_its_input(solver, dtype):
    buffer = torch.empty(2, 3, dtype=dtype)
    steps = {} if solver.startswith("scipy") else {"steps": 5}

    def run(drift) -> Tensor:
        x = torch.ones(2, 3, dtype=dtype)
        return sk.solve(sk.ODE(drift), x, t0=0.0, t1=1.0, solver=solver, **steps).x

    assert torch.equal(run(lambda x, t: buffer.copy_(torch.sin(3 * x))), run(lambda x, t: torch.sin(3 * x)))
    assert torch.equal(run(lambda x, t: x), run(lambda x, t: x.clone()))


# A network that returns NaN ----------------------------------------------------------------------------------------


def on_grid(case: Case, network: Any, times: Tensor, **kwargs: Any) -> sk.solvers.Solution:
    model = sk.ScoreModel(network, SDE)
    return sk.sample(model, (3, 16), case.name, grid=times, seed=0, **case.options, **kwargs)


class Breaking:
    """Sound until the time falls below `until`; then `bad` in the samples given."""

    def __init__(self, until: float, bad: float = math.nan, samples: list[int] | None = None) -> None:
        self.until, self.bad, self.samples = until, bad, samples
        self.seen: list[float] = []

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        self.seen.append(float(t[0]))
        out = 0.5 * x
        if self.seen[-1] < self.until:
            out[self.samples if self.samples is not None else slice(None)] = self.bad
        return out


def first_bad_step(case: Case, times: Tensor, until: float) -> int:
    """The first step in which a sound network is asked below `until`."""
    network, found = Breaking(-1.0), []

    def look(info: StepInfo) -> None:
        if not found and min(network.seen) < until:
            found.append(info.step)

    on_grid(case, network, times, callback=look)
    return found[0]


@pytest.mark.parametrize("case", FIXED, ids=str)
def test_a_non_finite_state_names_solver_step_and_time(case):
    steps = 8 if is_slow(case) else 150  # beyond one stride of the loop
    times = torch.linspace(1.0, 0.01, steps + 1, dtype=torch.float64)
    for k, bad in ((0, math.inf), (5, math.nan)) if is_slow(case) else ((0, math.nan), (17, math.inf), (131, math.nan)):
        until = 0.5 * float(times[k] + times[k + 1]) if k else 2.0
        step = first_bad_step(case, times, until)
        for watched in ({}, {"trajectory": True}) if k else ({},):
            with pytest.raises(NonFiniteError) as caught:
                on_grid(case, Breaking(until, bad), times, **watched)
            error = caught.value
            assert (error.solver, error.step) == (case.name, step)
            assert error.time == float(times[step])
            assert error.samples == [0, 1, 2]
            message = f"solver '{case.name}' reached a non-finite state at step {step} (t = {error.time:.6g})"
            assert str(error).startswith(message)
            assert pickle.loads(pickle.dumps(error)).step == step


SOURCES = {
    "global": lambda: {},
    "generator": lambda: {"generator": torch.Generator()},
    "generators": lambda: {"generator": [torch.Generator() for _ in range(3)]},
    "function": lambda: {"noise": lambda t, s, shape: torch.randn(shape)},
}


@pytest.mark.parametrize("name", ["ancestral", "euler_maruyama", "pc", "torchsde:srk"])
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("size", [5, 16], ids=["one draw a call", "several"])
def test_the_step_is_named_whatever_the_noise(name, source, size):
    case = Case(name)
    times = torch.linspace(1.0, 0.01, 21, dtype=torch.float64)
    until = 0.5 * float(times[6] + times[7])
    step = first_bad_step(case, times, until)
    with pytest.raises(NonFiniteError, match=f"at step {step} ") as caught:
        sk.sample(sk.ScoreModel(Breaking(until), SDE), (3, size), name, grid=times, **SOURCES[source]())
    assert caught.value.time == float(times[step])
    assert caught.value.samples == [0, 1, 2]


def test_a_failed_solve_leaves_a_generator_where_a_loop_that_ends_there_would():
    times = torch.linspace(1.0, 0.01, 21, dtype=torch.float64)
    generator, mine = torch.Generator(), torch.Generator()
    model = sk.ScoreModel(Breaking(0.5 * float(times[6] + times[7])), SDE)
    with pytest.raises(NonFiniteError, match="at step 8"):
        sk.sample(model, (3, 16), "ancestral", grid=times, generator=generator)
    for _ in range(1 + 8):  # the prior and eight steps
        torch.randn(3, 16, generator=mine)
    assert torch.equal(generator.get_state(), mine.get_state())


@pytest.mark.parametrize("case", [c for c in FIXED if not c.options], ids=str)
@pytest.mark.parametrize("chunk", [None, 2])
def test_the_samples_named_are_those_of_the_whole_batch(case, chunk):
    times = torch.linspace(1.0, 0.01, 5, dtype=torch.float64)

    def network(x: Tensor, t: Tensor, index: Tensor) -> Tensor:
        return torch.where((index == 3)[:, None], math.nan, 0.5 * x)

    model = sk.ScoreModel(network, SDE, condition={"index": torch.arange(5)})
    with pytest.raises(NonFiniteError, match=re.escape("in sample(s) 3.")) as caught:
        sk.sample(model, (5, 16), case.name, grid=times, seed=0, chunk=chunk)
    assert caught.value.samples == [3]
    assert caught.value.step == 1


@pytest.mark.parametrize("case", [c for c in CASES if not c.options], ids=str)
@pytest.mark.parametrize("chunk", [None, 2])
def test_a_final_denoise_that_is_not_finite_is_an_error_too(case, chunk):
    # The network breaks only at the very end, where nothing but the denoise evaluates.
    sde = EDMSDE(t_min=0.1, t_max=3.0)

    def network(x: Tensor, t: Tensor) -> Tensor:
        bad = torch.arange(len(x)) == len(x) - 1
        return torch.where(bad[:, None] & (armed[0] and float(t[0]) <= 0.5), math.nan, 0.5 * x)

    armed, calls = [False], []
    counting = sk.ScoreModel(lambda x, t: calls.append(1) or network(x, t), sde)
    plain = case.sample(counting, (3, 16), 3, seed=0)
    assert bool(torch.isfinite(plain.x).all())
    total, seen = len(calls), []

    def arming(x: Tensor, t: Tensor) -> Tensor:
        seen.append(1)
        armed[0] = len(seen) > total
        return network(x, t)

    whole = {} if chunk is None or case.solver.adaptive else {"chunk": chunk}
    if whole:  # two chunks: as many calls again before the denoise
        total *= 2
    with pytest.raises(NonFiniteError, match=case.name) as caught:
        case.sample(sk.ScoreModel(arming, sde), (3, 16), 3, seed=0, denoise=True, **whole)
    assert caught.value.time == 0.1
    assert 2 in caught.value.samples


def test_a_state_that_overflows_is_caught_and_one_that_is_large_is_not():
    # A sum that overflows is not yet a state that does.
    large = sk.ScoreModel(lambda x, t: torch.zeros_like(x), EDMSDE())
    x = torch.full((4, 100), 3e38)
    assert torch.equal(sk.sample(large, None, "ddim", 3, x_T=x).x, x)
    growing = sk.ODE(lambda x, t: x * 1e30)
    with pytest.raises(NonFiniteError, match="step 2"):
        sk.solve(growing, torch.ones(2, 2), t0=0.0, t1=1.0, solver="euler", steps=10)


# The final denoise -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("end", [None, 0.0])
def test_denoise_is_the_denoised_of_the_end_state(case, end):
    sde = EDMSDE(t_max=10.0)
    model = gaussian_model(sde, 0.3, 0.5)
    if end == 0.0 and case.name.startswith("adaptive:"):
        with pytest.raises(ArgumentError, match="would evaluate the score at t = 0"):
            case.sample(model, (3, 16), 4, seed=0, t_end=end, denoise=True)
        return
    plain = case.sample(model, (3, 16), 4, seed=0, t_end=end)
    out = case.sample(model, (3, 16), 4, seed=0, t_end=end, denoise=True)
    assert torch.equal(out.x, model.denoised(plain.x, plain.t))
    assert out.stats["denoised"] is True
    if end == 0.0:
        assert torch.allclose(out.x, plain.x, rtol=1e-6)  # D = x at sigma = 0


def test_denoise_waits_for_the_end():
    model = gaussian_model(EDMSDE(), 0.3, 0.5)
    out = sk.sample(model, (3, 2), "scipy:RK45", seed=0, max_nfe=30, denoise=True)
    assert out.status == "max_nfe"
    assert "denoised" not in out.stats


# Times -------------------------------------------------------------------------------------------------------------


def test_the_network_is_asked_at_the_grids_times_and_never_past_its_end():
    seen: list[Tensor] = []

    def network(x: Tensor, t: Tensor) -> Tensor:
        seen.append(t.clone())
        return 0.5 * x

    for dtype in (torch.float32, torch.float64):
        seen.clear()
        out = sk.sample(sk.ScoreModel(network, SDE), (3, 16), "ancestral", 1000, seed=0, dtype=dtype)
        labels = torch.stack([t[0] for t in seen])
        assert torch.equal(labels, out.times[:-1].to(dtype))  # rounded once, no sum of steps
        assert float(labels.min()) > SDE.t_min
        assert all(t.shape == (3,) for t in seen)


def test_labels_of_the_networks_own():
    seen = []
    model = sk.ScoreModel(lambda x, t: seen.append(float(t[0])) or 0.5 * x, SDE, time=lambda t: 999 * t)
    out = sk.sample(model, (3, 16), "ddim", 7, seed=0)
    assert seen == pytest.approx((999 * out.times[:-1]).tolist(), rel=1e-6)  # float32 labels


@pytest.mark.parametrize("solver", ["euler", "euler_maruyama"])
def test_saving_at_places_of_the_grid_adds_no_sliver_of_a_step(solver):
    # 0.3 is not 0 + 3/10 in floating point; a step of 5e-17 between them would cost an evaluation and a draw.
    sde = sk.SDE(lambda x, t: -x, 0.5, noise="additive")
    dynamics = sk.ODE(lambda x, t: -x) if solver == "euler" else sde
    run = {"t0": 0.0, "t1": 1.0, "solver": solver, "steps": 10, "seed": 0}
    x = torch.ones(2, 2, dtype=torch.float64)
    plain = sk.solve(dynamics, x, **run, trajectory=True)
    wanted = [k / 10 for k in (1, 2, 3, 6, 7, 9, 10)]
    saved = sk.solve(dynamics, x, **run, save_at=wanted)
    assert saved.nfe == plain.nfe == 10
    assert torch.equal(saved.x, plain.x)
    assert saved.trajectory_times.tolist() == pytest.approx(wanted, rel=1e-15)
    assert torch.equal(saved.trajectory, plain.trajectory[[1, 2, 3, 6, 7, 9, 10]])


def test_save_at_between_the_places_of_a_grid_is_a_place_of_its_own():
    decay = sk.ODE(lambda x, t: -x)
    x = torch.ones(1, 1, dtype=torch.float64)
    for t0, t1, wanted in ((0.0, 1.0, [0.0, 0.33, 1.0]), (1.0, 0.0, [0.77, 0.1])):
        out = sk.solve(decay, x, t0=t0, t1=t1, solver="rk4", steps=20, save_at=wanted)
        assert out.trajectory_times.tolist() == wanted
        exact = torch.exp(t0 - torch.tensor(wanted, dtype=torch.float64))
        assert torch.allclose(out.trajectory.flatten(), exact, rtol=1e-6)  # h^4 at 20 steps
        inner = [t for t in wanted if t not in (t0, t1, 0.1)]  # 0.1 is a place of the grid
        assert out.nfe == 4 * (20 + len(inner))
