"""A solver's own cost, the network free, beside a hand-written in-place Euler-Maruyama step in the same run.

    pytest tests/benchmarks/test_step_cost.py --benchmark-enable -s

prints the median of ratios for each solver and size: per step for the solvers of one evaluation a step, and for every
table sampler per evaluation. Nothing here is asserted on time: these are measurements.
"""

from __future__ import annotations

import statistics
import time

import pytest
import torch

import sdekit as sk

SIZES = {"tiny": (64, 2), "small": (256, 64), "image": (16, 3, 32, 32), "large": (64, 3, 32, 32)}
STEPS = {"tiny": 10000, "small": 500, "image": 200, "large": 60}
SOLVERS = {
    "euler_maruyama, seed": ("euler_maruyama", {"seed": 0}),
    "euler_maruyama, global RNG": ("euler_maruyama", {}),
    "ancestral, seed": ("ancestral", {"seed": 0}),
    "reverse_diffusion, seed": ("reverse_diffusion", {"seed": 0}),
    "ddim eta=1, seed": ("ddim", {"eta": 1.0, "seed": 0}),
    "ddim": ("ddim", {}),
    "euler": ("euler", {}),
    "heun": ("heun", {}),
}
ROUNDS = 11


def hand_written(shape: tuple[int, ...], steps: int) -> None:
    """z.normal_, then x scaled, plus the drift's term, plus the noise's, each in place."""
    x, z, o = torch.randn(shape), torch.empty(shape), torch.randn(shape)
    with torch.no_grad():
        for _ in range(steps):
            z.normal_()
            x.mul_(0.999).add_(o, alpha=0.001).add_(z, alpha=0.01)


def seconds(run, *args) -> float:
    start = time.perf_counter()
    run(*args)
    return time.perf_counter() - start


@pytest.mark.parametrize("size", SIZES)
def test_cost_per_step(size: str, benchmark, capsys: pytest.CaptureFixture[str]) -> None:
    shape, steps = SIZES[size], STEPS[size]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        output = torch.randn(shape)
        model = sk.ScoreModel(lambda x, t: output, sk.VPSDE(), prediction="noise")
        start = torch.randn(shape)
        ratios: dict[str, list[float]] = {name: [] for name in SOLVERS}

        def once() -> None:
            for name, (solver, options) in SOLVERS.items():
                base = seconds(hand_written, shape, steps)
                mine = seconds(lambda s=solver, o=options: sk.sample(model, solver=s, steps=steps, x_T=start, **o))
                ratios[name].append(mine / base)

        benchmark.pedantic(once, rounds=ROUNDS if benchmark.enabled else 1, iterations=1)
    finally:
        torch.set_num_threads(threads)
    medians = {name: statistics.median(r) for name, r in ratios.items()}
    benchmark.extra_info.update({"size": str(shape), "ratio to a hand-written step": medians})
    with capsys.disabled():
        if benchmark.enabled:
            print(f"\n{size} {shape}, {steps} steps: cost per step as a ratio to the hand-written step")
            for name, value in medians.items():
                print(f"  {name:28} {value:.2f}")
    assert all(r > 0 for r in medians.values())


SAMPLERS = [name for name in sk.solvers.names() if sk.solvers.get(name).kind == "table"]


@pytest.mark.parametrize("size", ["small", "image", "large"])
def test_cost_of_every_table_sampler(size: str, benchmark, capsys: pytest.CaptureFixture[str]) -> None:
    shape, steps = SIZES[size], STEPS[size]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        output, start = torch.randn(shape), torch.randn(shape)
        model = sk.ScoreModel(lambda x, t: output, sk.VPSDE(), prediction="noise")
        ratios: dict[str, list[float]] = {name: [] for name in SAMPLERS}

        def once() -> None:
            for name in SAMPLERS:
                noise = {"seed": 0} if sk.solvers.get(name).stochastic else {}
                base = seconds(hand_written, shape, steps)
                begin = time.perf_counter()
                nfe = sk.sample(model, solver=name, steps=steps, x_T=start, **noise).nfe
                ratios[name].append((time.perf_counter() - begin) / base * steps / nfe)

        benchmark.pedantic(once, rounds=7 if benchmark.enabled else 1, iterations=1)
    finally:
        torch.set_num_threads(threads)
    medians = {name: statistics.median(r) for name, r in ratios.items()}
    benchmark.extra_info.update({"size": str(shape), "ratio to a hand-written step, per evaluation": medians})
    with capsys.disabled():
        if benchmark.enabled:
            print(f"\n{size} {shape}, {steps} steps: cost per evaluation as a ratio to the hand-written step")
            for name, value in medians.items():
                print(f"  {name:28} {value:.2f}")
    assert all(r > 0 for r in medians.values())
