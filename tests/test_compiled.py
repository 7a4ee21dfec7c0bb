"""Compiled steps: the same numbers to rounding, whatever the number of steps; refused where they cannot serve."""

from __future__ import annotations

import pytest
import torch

import sdekit as sk
from sdekit.errors import UnsupportedError
from sdekit.solvers.compiled import BLOCK

SDE = sk.SDE(
    drift=lambda x, t: torch.sin(t) - x,
    diffusion=lambda x, t: 0.5 * torch.cos(x),
    noise="diagonal",
)
START = torch.linspace(-1, 1, 12).reshape(6, 2)
SPAN = {"t0": 0.0, "t1": 1.0, "solver": "euler_maruyama"}


@pytest.mark.parametrize("steps", [BLOCK - 1, BLOCK, 3 * BLOCK + 7])
def test_the_numbers_are_those_of_the_plain_loop(steps):
    plain = sk.solve(SDE, START, steps=steps, seed=0, **SPAN)
    fast = sk.solve(SDE, START, steps=steps, seed=0, compiled=True, **SPAN)
    assert torch.allclose(fast.x, plain.x, rtol=1e-5, atol=1e-5)
    assert not torch.equal(plain.x, sk.solve(SDE, START, steps=steps, seed=1, **SPAN).x)
    assert fast.nfe == plain.nfe == steps
    # A grid that is not uniform, another start, and a path: the same compiled function.
    times = torch.linspace(0, 1, steps + 1, dtype=torch.float64).square()
    path = sk.BrownianPath(seed=3, shape=START.shape, t0=0.0, t1=1.0)
    run = {"grid": times, "noise": path, "solver": "euler_maruyama"}
    plain, fast = sk.solve(SDE, -START, **run), sk.solve(SDE, -START, compiled=True, **run)
    assert torch.allclose(fast.x, plain.x, rtol=1e-5, atol=1e-5)


def test_it_is_watched_stopped_and_resumed_like_the_plain_loop():
    steps = 2 * BLOCK + 3
    whole = sk.solve(SDE, START, steps=steps, seed=0, compiled=True, **SPAN)
    seen = []
    watched = sk.solve(
        SDE, START, steps=steps, seed=0, compiled=True, callback=lambda info: seen.append(info.step), **SPAN
    )
    assert seen == list(range(1, steps + 1))
    assert torch.allclose(watched.x, whole.x, atol=1e-5)
    half = sk.solve(SDE, START, steps=steps, seed=0, compiled=True, stop=BLOCK + 1, **SPAN)
    rest = sk.solve(SDE, START, steps=steps, seed=0, compiled=True, resume=half.state, **SPAN)
    assert rest.status == "success"
    assert torch.allclose(rest.x, whole.x, atol=1e-5)


def test_what_it_does_not_serve_is_refused():
    model = sk.targets.ring().score_model(sk.VPSDE())
    with pytest.raises(UnsupportedError, match="serves SDEs as they stand"):
        sk.solve(sk.ReverseSDE(model), START, t0=1.0, t1=0.1, steps=5, seed=0, compiled=True)
    with pytest.raises(UnsupportedError, match="step solvers"):
        sk.solve(sk.ProbabilityFlow(model), START, t0=1.0, t1=0.1, solver="ddim", steps=5, compiled=True)
