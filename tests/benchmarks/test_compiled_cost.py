"""What a step of a compiled solve costs, beside a hand-written in-place Euler-Maruyama step in the same run.

    pytest tests/benchmarks/test_compiled_cost.py --benchmark-enable -s

prints medians of ratios at (64, 2), one thread, noise by seed, set-up included: compiled, and not. The solve
that compiles is timed by itself. Nothing here is asserted on time.
"""

from __future__ import annotations

import statistics
import time

import pytest
import torch

import sdekit as sk

SHAPE = (64, 2)
OU = sk.OrnsteinUhlenbeck(theta=1.0, mu=0.0, sigma=0.5)
OWN = sk.SDE(drift=lambda x, t: torch.sin(t) - x, diffusion=lambda x, t: 0.5 * torch.cos(x), noise="diagonal")
ROUNDS = {1000: 41, 10_000: 11}


def hand_written(steps: int) -> None:
    """z.normal_, then x scaled, plus the drift's term, plus the noise's, each in place."""
    x, z, o = torch.randn(SHAPE), torch.empty(SHAPE), torch.randn(SHAPE)
    with torch.no_grad():
        for _ in range(steps):
            z.normal_()
            x.mul_(0.999).add_(o, alpha=0.001).add_(z, alpha=0.01)


def ours(x: torch.Tensor, steps: int, sde: sk.sdes.AbstractSDE, compiled: bool) -> None:
    sk.solve(sde, x, t0=0.0, t1=1.0, solver="euler_maruyama", steps=steps, seed=0, compiled=compiled)


def seconds(run, *args) -> float:
    start = time.perf_counter()
    run(*args)
    return time.perf_counter() - start


@pytest.mark.parametrize("steps", list(ROUNDS))
def test_cost_of_a_compiled_step(steps: int, benchmark, capsys: pytest.CaptureFixture[str]) -> None:
    rounds, steps = (ROUNDS[steps], steps) if benchmark.enabled else (1, 4)  # so few are not compiled
    x, threads = torch.randn(SHAPE), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        made = {
            "linear drift, compiled": lambda: ours(x, steps, OU, True),
            "linear drift": lambda: ours(x, steps, OU, False),
            "own drift, compiled": lambda: ours(x, steps, OWN, True),
            "own drift": lambda: ours(x, steps, OWN, False),
        }
        first = {name: seconds(run) for name, run in made.items() if name.endswith("compiled")}
        ratios: dict[str, list[float]] = {name: [] for name in made}

        def once() -> None:
            for name, run in made.items():
                base = seconds(hand_written, steps)
                ratios[name].append(seconds(run) / base)

        benchmark.pedantic(once, rounds=rounds, iterations=1)
    finally:
        torch.set_num_threads(threads)
    medians = {name: statistics.median(r) for name, r in ratios.items()}
    benchmark.extra_info.update({"size": str(SHAPE), "steps": steps, "ratio to a hand-written step": medians})
    with capsys.disabled():
        if benchmark.enabled:
            print(f"\n{SHAPE}, {steps} steps: cost per step of euler_maruyama as a ratio to the hand-written step")
            for name, value in medians.items():
                found = f"  (its first solve {first[name]:.1f} s)" if name in first else ""
                print(f"  {name:24} {value:.2f}{found}")
    assert all(r > 0 for r in medians.values())
