"""What a simulated step costs, beside a hand-written in-place Euler-Maruyama step and torchsde in the same run.

    pytest tests/benchmarks/test_sde_cost.py --benchmark-enable -s

prints medians of ratios: Ornstein-Uhlenbeck at two sizes, with seeded noise, on Brownian paths, compiled, and through
torchsde; then the ratio, and the peak of memory, from 100 to 100,000 steps. Nothing here is asserted on time.
"""

from __future__ import annotations

import gc
import statistics
import subprocess
import sys
import time
import warnings

import pytest
import torch

import sdekit as sk

SIZES = {(64, 2): 1000, (256, 64): 1000}
OU = sk.OrnsteinUhlenbeck(theta=1.0, mu=0.0, sigma=0.5)
ROUNDS = 11


def hand_written(shape: tuple[int, ...], steps: int) -> None:
    """z.normal_, then x scaled, plus the drift's term, plus the noise's, each in place."""
    x, z, o = torch.randn(shape), torch.empty(shape), torch.randn(shape)
    with torch.no_grad():
        for _ in range(steps):
            z.normal_()
            x.mul_(0.999).add_(o, alpha=0.001).add_(z, alpha=0.01)


def ours(x: torch.Tensor, steps: int, sde=OU, solver: str = "euler_maruyama", **options) -> None:
    sk.solve(sde, x, t0=0.0, t1=1.0, solver=solver, steps=steps, **options)


def torchsde_euler(x: torch.Tensor, steps: int) -> None:
    import torchsde

    class Equation(torch.nn.Module):
        noise_type, sde_type = "diagonal", "ito"

        def f(self, t, y):
            return -y

        def g(self, t, y):
            return torch.full_like(y, 0.5)

    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torchsde.sdeint(Equation(), x, torch.tensor([0.0, 1.0]), dt=1 / steps, method="euler")


def seconds(run, *args) -> float:
    start = time.perf_counter()
    run(*args)
    return time.perf_counter() - start


def contenders(shape: tuple[int, ...], steps: int, compiled: bool) -> dict[str, object]:
    x = torch.randn(shape)
    own = sk.SDE(drift=lambda x, t: -x, diffusion=0.5, noise="additive")
    made = {
        "euler_maruyama, seed": lambda: ours(x, steps, seed=0),
        "euler_maruyama, global RNG": lambda: ours(x, steps),
        "euler_maruyama, seed, own drift": lambda: ours(x, steps, sde=own, seed=0),
        "euler_maruyama, BrownianPath": lambda: ours(x, steps, noise=sk.BrownianPath(seed=0, shape=shape)),
        "euler_maruyama, BrownianPath(cells=N)": lambda: ours(
            x, steps, noise=sk.BrownianPath(seed=0, shape=shape, cells=steps)
        ),
        "euler_maruyama, BrownianPath(cells=N/8)": lambda: ours(
            x, steps, noise=sk.BrownianPath(seed=0, shape=shape, cells=steps // 8)
        ),
        "euler_maruyama, BrownianPath off its cuts": lambda: ours(
            x, steps, noise=sk.BrownianPath(seed=0, shape=shape, cells=3)
        ),
        "shark, seed": lambda: ours(x, steps, solver="shark", seed=0),
        "torchsde euler": lambda: torchsde_euler(x, steps),
    }
    if compiled:
        ours(x, 64, seed=0, compiled=True)  # compiles
        made["euler_maruyama, seed, compiled"] = lambda: ours(x, steps, seed=0, compiled=True)
    return made


@pytest.mark.parametrize("shape", list(SIZES), ids=str)
def test_cost_per_step(shape: tuple[int, ...], benchmark, capsys: pytest.CaptureFixture[str]) -> None:
    steps = SIZES[shape] if benchmark.enabled else 50
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        made = contenders(shape, steps, compiled=benchmark.enabled and shape == (64, 2))
        ratios: dict[str, list[float]] = {name: [] for name in made}

        def once() -> None:
            for name, run in made.items():
                base = seconds(hand_written, shape, steps)
                ratios[name].append(seconds(run) / base)

        benchmark.pedantic(once, rounds=ROUNDS if benchmark.enabled else 1, iterations=1)
    finally:
        torch.set_num_threads(threads)
    medians = {name: statistics.median(r) for name, r in ratios.items()}
    benchmark.extra_info.update({"size": str(shape), "ratio to a hand-written step": medians})
    with capsys.disabled():
        if benchmark.enabled:
            print(f"\n{shape}, {steps} steps: cost per step as a ratio to the hand-written step")
            for name, value in medians.items():
                print(f"  {name:40} {value:.2f}")
    assert all(r > 0 for r in medians.values())


@pytest.mark.parametrize("shape", list(SIZES), ids=str)
def test_cost_from_a_hundred_to_a_hundred_thousand_steps(
    shape: tuple[int, ...], benchmark, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = (100, 1000, 10_000, 100_000) if benchmark.enabled else (50, 100)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    x = torch.randn(shape)
    rows: dict[str, list[float]] = {"seed": [], "BrownianPath": [], "BrownianPath(cells=N)": []}

    def once() -> None:
        for steps in counts:
            sources = {
                "seed": {"seed": 0},
                "BrownianPath": {"noise": sk.BrownianPath(seed=0, shape=shape)},
                "BrownianPath(cells=N)": {"noise": sk.BrownianPath(seed=0, shape=shape, cells=steps)},
            }
            few = min(steps, 2000)  # what is compared with need not run so long
            rounds = 7 if steps <= 1000 else 3 if steps <= 10_000 else 1
            for name, source in sources.items():
                found = []
                for _ in range(rounds):
                    base = seconds(hand_written, shape, few) / few
                    found.append(seconds(lambda n=steps, s=source: ours(x, n, **s)) / steps / base)
                rows[name].append(statistics.median(found))

    try:
        benchmark.pedantic(once, rounds=1, iterations=1)
    finally:
        torch.set_num_threads(threads)
    benchmark.extra_info.update({"size": str(shape), "steps": counts, "ratios": rows})
    with capsys.disabled():
        if benchmark.enabled:
            print(f"\n{shape}: cost per step as a ratio to the hand-written step, at {counts} steps")
            for name, values in rows.items():
                print(f"  {name:24} " + "  ".join(f"{v:.2f}" for v in values))
    assert all(v > 0 for values in rows.values() for v in values)


PEAK = """
import resource, torch, sdekit as sk
torch.set_num_threads(1)
x = torch.zeros(64, 2)
def run(n):
    noise = sk.BrownianPath(seed=0, shape=(64, 2)) if {path} else None
    sk.solve(sk.OrnsteinUhlenbeck(), x, t0=0.0, t1=1.0, steps=n, noise=noise, seed=None if {path} else 0)
run(100)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
run({steps})
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("path", [False, True], ids=["seed", "path"])
def test_memory_does_not_grow_with_the_steps(path: bool, benchmark, capsys: pytest.CaptureFixture[str]) -> None:
    """The draws of 100,000 steps would be 51 MB; what grows is the grid, 8 bytes a step in a few forms."""
    steps = 100_000

    def peak() -> int:
        code = PEAK.format(path=path, steps=steps)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        return int(done.stdout)

    grown = benchmark.pedantic(peak, rounds=1, iterations=1)
    gc.collect()
    with capsys.disabled():
        if benchmark.enabled:
            print(
                f"\n100,000 steps at (64, 2), {'path' if path else 'seed'}: peak memory grows by {grown / 1024:.1f} MB"
            )
    assert grown < 40 * 1024
