"""Compiled steps: the same numbers to rounding, whatever the number of steps; refused where they cannot serve."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import sdekit as sk
from sdekit.errors import NonFiniteError, ShapeError, UnsupportedError
from sdekit.solvers import compiled

SDE = sk.SDE(
    drift=lambda x, t: torch.sin(t) - x,
    diffusion=lambda x, t: 0.5 * torch.cos(x),
    noise="diagonal",
)
START = torch.linspace(-1, 1, 12).reshape(6, 2)
SPAN = {"t0": 0.0, "t1": 1.0, "solver": "euler_maruyama"}
BLOCK = 12


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Shorter blocks, which are compiled sooner, and none left from before."""
    monkeypatch.setattr(compiled, "BLOCK", BLOCK)
    compiled._blocks.clear()
    yield
    compiled._blocks.clear()


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Every compilation, by its number of nodes; the graphs are run as they are."""
    found: list[int] = []

    def backend(graph, inputs):
        found.append(len(graph.graph.nodes))
        return graph.forward

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    return found


def both(sde: object, x: Tensor = START, **how: object) -> tuple[sk.Solution, sk.Solution]:
    how = {"seed": 0, **SPAN, **how}
    return sk.solve(sde, x, **how), sk.solve(sde, x, compiled=True, **how)


def same(sde: object, x: Tensor = START, **how: object) -> None:
    plain, fast = both(sde, x, **how)
    near = 1e-12 if x.dtype == torch.float64 else 1e-5
    torch.testing.assert_close(fast.x, plain.x, rtol=near, atol=near)
    assert (fast.nfe, fast.status, fast.x.dtype) == (plain.nfe, plain.status, plain.x.dtype)
    assert not torch.equal(plain.x, x)


@pytest.mark.parametrize("steps", [1, BLOCK - 1, BLOCK, 3 * BLOCK + 7, 2 * BLOCK + 9, 300])
def test_the_numbers_are_those_of_the_plain_loop(steps, graphs):
    same(SDE, steps=steps)
    # A grid that is not uniform, falls, another start, and a path: the same compiled function.
    times = torch.linspace(1, 0, steps + 1, dtype=torch.float64).square()
    path = sk.BrownianPath(seed=3, shape=START.shape, t0=0.0, t1=1.0)
    same(SDE, -START, grid=times, noise=path, t0=None, t1=None, seed=None)
    assert len(graphs) == (0 if steps == 1 else 1)


def test_sixty_four_steps_compiled_in_earnest():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "BLOCK", 64)
        same(SDE, steps=150)


@pytest.mark.parametrize("name", ["euler_maruyama", "tamed_euler", "milstein_free", "sriw1", "sosri", "dri1"])
def test_solvers(name, graphs):
    for dtype in (torch.float32, torch.float64):
        same(SDE, START.to(dtype), solver=name, steps=2 * BLOCK + 9)
    assert len(graphs) == 2


@pytest.mark.parametrize(
    ("name", "kind", "calculus"),
    [
        *((name, "diagonal", "stratonovich") for name in ("stochastic_heun", "stochastic_midpoint", "euler_heun")),
        *((name, "diagonal", "stratonovich") for name in ("general_shark", "spark", "slowrk")),
        *((name, "additive", "ito") for name in ("sra1", "sra3", "sosra", "shark")),
    ],
)
def test_tableaus(name, kind, calculus, graphs):
    noisy = {"diagonal": lambda x, t: 0.5 * torch.cos(x), "additive": lambda x, t: 0.5 + t}[kind]
    same(sk.SDE(lambda x, t: torch.sin(t) - x, noisy, kind, calculus), solver=name, steps=BLOCK + 9)
    assert len(graphs) == 1


@pytest.mark.parametrize("kind", ["scalar", "additive", "matrix", "commutative", "general", "linear"])
def test_kinds_of_noise(kind, graphs):
    def drift(x: Tensor, t: Tensor) -> Tensor:
        return torch.sin(t) - x

    x = START.reshape(3, 2, 2)
    sde = {
        "scalar": lambda: sk.SDE(drift, lambda x, t: 0.5 * torch.cos(x), "scalar"),
        "additive": lambda: sk.SDE(drift, lambda x, t: torch.cos(t), "additive"),
        "matrix": lambda: sk.SDE(drift, torch.ones(3, 2, 2, 3), "additive", noise_dim=3),
        "commutative": lambda: sk.SDE(drift, lambda x, t: torch.stack([x, x], -1), "commutative", noise_dim=2),
        "general": lambda: sk.SDE(
            drift, lambda x, t: torch.stack([torch.sin(x), x, torch.cos(x)], -1), "general", noise_dim=3
        ),
        "linear": lambda: sk.OrnsteinUhlenbeck(1.0, 0.3, 0.5),
    }[kind]()
    same(sde, x, steps=2 * BLOCK + 9)
    assert len(graphs) == 1


def test_a_module_that_learns_is_not_compiled_again(graphs):
    network = nn.Linear(2, 2)
    sde = sk.SDE(lambda x, t: network(x), 0.5, noise="additive")
    same(sde, steps=BLOCK)
    with torch.no_grad():
        network.weight.mul_(-3)
    same(sde, steps=BLOCK)
    assert len(graphs) == 1


def test_rows_of_parameters_are_not_compiled_in(graphs):
    drift, diffusion = lambda x, t, k: torch.sin(t) - k * x, lambda x, t, k: 0.5 * k * torch.cos(x)
    ends = []
    for scale in (1.0, -2.0):
        rows = scale * torch.linspace(0.5, 1.5, 6)[:, None]
        sde = sk.SDE(drift, diffusion, parameters={"k": rows})
        for chunk in (None, 3):
            same(sde, steps=2 * BLOCK, chunk=chunk)
        ends.append(sk.solve(sde, START, steps=BLOCK, seed=0, compiled=True, **SPAN).x)
    assert not torch.allclose(*ends)
    assert len(graphs) == 2  # one for each size of a batch


def test_there_is_no_end_to_the_shapes_and_sdes(graphs, monkeypatch):
    # Torch by itself compiles the code of a function eight times, and then fails.
    monkeypatch.setattr(compiled, "BLOCK", 2)
    for n in range(1, 6):
        same(SDE, START[:n], steps=2)
        same(sk.OrnsteinUhlenbeck(0.1 * n), steps=2)
    assert len(graphs) == 10
    assert len(compiled._blocks) == 8
    same(sk.OrnsteinUhlenbeck(0.5), steps=2)
    assert len(graphs) == 10


def test_what_functions_close_over_may_change(graphs, monkeypatch):
    scale, word = 1.0, ""

    def drift(x: Tensor, t: Tensor) -> Tensor:
        return (torch.sin(t) - x) * scale if word else -scale * x

    monkeypatch.setattr(compiled, "BLOCK", 2)
    sde = sk.SDE(drift, 0.5, noise="additive")
    for k in range(10):
        scale, word = 1 + 0.1 * k, "a" * k  # text is compiled in
        same(sde, steps=2)
    assert len(graphs) >= 10


def test_it_is_watched_stopped_and_resumed_like_the_plain_loop(graphs):
    steps = 2 * BLOCK + 3
    whole = sk.solve(SDE, START, steps=steps, seed=0, compiled=True, **SPAN)
    seen: list[int] = []
    watched = sk.solve(
        SDE, START, steps=steps, seed=0, compiled=True, callback=lambda info: seen.append(info.step), **SPAN
    )
    assert seen == list(range(1, steps + 1))
    assert torch.allclose(watched.x, whole.x, atol=1e-5)
    for stop in (BLOCK - 3, BLOCK + 9):
        half = sk.solve(SDE, START, steps=steps, seed=0, compiled=True, stop=stop, **SPAN)
        assert (half.status, half.nfe) == ("stopped", stop)
        rest = sk.solve(SDE, START, steps=steps, seed=0, compiled=True, resume=half.state, **SPAN)
        assert (rest.status, rest.nfe) == ("success", steps)
        assert torch.allclose(rest.x, whole.x, atol=1e-5)
    plain, fast = both(SDE, steps=steps, save_at=[0.0, 0.31, 0.9])
    torch.testing.assert_close(fast.trajectory, plain.trajectory, rtol=1e-5, atol=1e-5)


def test_a_drift_that_has_no_value_past_the_end(graphs):
    # Of the last block a part is not used: its steps stand at the end, where this drift is infinite.
    bridge = sk.SDE(lambda x, t: (1 - x) / (1 - t), 0.5, noise="additive")
    same(bridge, steps=BLOCK + 9)


@pytest.mark.parametrize("steps", [BLOCK + 9, 5])
def test_a_state_that_is_not_finite_names_its_step(steps, graphs):
    sde = sk.SDE(lambda x, t: torch.where(t > 0.47, x * torch.inf, -x), 0.5, noise="additive")
    found = []
    for fast in (False, True):
        with pytest.raises(NonFiniteError) as error:
            sk.solve(sde, START, steps=steps, seed=0, compiled=fast, **SPAN)
        found.append(error.value.step)
    assert found[0] == found[1]


def test_gradients_off_and_in_inference_mode(graphs):
    x = START.clone().requires_grad_()
    with torch.inference_mode():
        same(SDE, START.clone(), steps=BLOCK)
    same(SDE, x, steps=BLOCK)


def test_what_it_does_not_serve_is_refused(graphs):
    model = sk.targets.ring().score_model(sk.VPSDE())
    with pytest.raises(UnsupportedError, match="serves SDEs as they stand"):
        sk.solve(sk.ReverseSDE(model), START, t0=1.0, t1=0.1, steps=5, seed=0, compiled=True)
    with pytest.raises(UnsupportedError, match="step solvers"):
        sk.solve(sk.ProbabilityFlow(model), START, t0=1.0, t1=0.1, solver="ddim", steps=5, compiled=True)
    how = {"t0": 0.0, "t1": 1.0, "steps": 5, "seed": 0, "compiled": True}
    for name in ("milstein", "drift_implicit", "stochastic_heun"):  # the last with the SDE converted
        with pytest.raises(UnsupportedError, match="derivatives"):
            sk.solve(SDE, START, solver=name, **how)
    langevin = sk.sdes.UnderdampedLangevin(lambda q: q)
    for name in ("baoab", "ubu", "quicsort"):
        with pytest.raises(UnsupportedError, match="needs more"):
            sk.solve(langevin, START.reshape(3, 2, 2), solver=name, **how)


def test_what_torch_cannot_compile_is_told_with_its_reason(graphs):
    def drift(x: Tensor, t: Tensor) -> Tensor:
        return -x if float(x.sum()) > 0 else x

    with pytest.raises(UnsupportedError, match="leave out compiled=True"):
        sk.solve(sk.SDE(drift, 0.5, "additive"), START, steps=BLOCK, seed=0, compiled=True, **SPAN)
    # An error of the drift's own is told as it is.
    with pytest.raises(ShapeError, match="expected the same shape"):
        sk.solve(sk.SDE(lambda x, t: x[:1], 0.5, "additive"), START, steps=BLOCK, seed=0, compiled=True, **SPAN)
