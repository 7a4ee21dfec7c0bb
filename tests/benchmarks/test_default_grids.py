"""Which grid each deterministic solver does best on: what its default was chosen by.

    pytest tests/benchmarks/test_default_grids.py --benchmark-enable -s

prints, for every solver, the geometric mean over targets, SDEs and budgets of its flow error on a grid as a ratio to
the best grid of that case; 1 is always the best.
"""

from __future__ import annotations

import math
from collections import defaultdict

import pytest
import torch

import sdekit as sk
from sdekit import grids
from sdekit.sdes import EDMSDE, VPSDE, CosineVPSDE, FlowSDE

SOLVERS = [
    name for name in sk.solvers.names() if not (sk.solvers.get(name).stochastic or sk.solvers.get(name).adaptive)
]


def test_default_grids(benchmark, capsys: pytest.CaptureFixture[str]) -> None:
    ratios: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    sdes, budgets, solvers = (VPSDE(), EDMSDE(), FlowSDE(), CosineVPSDE()), (10, 20, 40), SOLVERS
    if not benchmark.enabled:
        sdes, budgets, solvers = (VPSDE(),), (4,), ["ddim"]

    def once() -> None:
        for target in (sk.targets.ring(), sk.targets.moons()):
            for sde in sdes:
                model = target.score_model(sde)
                z = torch.randn(64, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
                x = z * sde.prior_std(None, model.data_std)
                image = sk.sample(model, x_T=x, solver="rk4", steps=800 if benchmark.enabled else 20, grid="log_snr").x
                for name in solvers:
                    solver = sk.solvers.get(name)
                    for nfe in budgets:
                        steps = max(1, nfe // (solver.evaluations_per_step or 1))
                        ends = {g: sk.sample(model, x_T=x, solver=solver, steps=steps, grid=g).x for g in grids.names()}
                        errors = {g: float((e - image).square().mean(1).sqrt().median()) for g, e in ends.items()}
                        for g, error in errors.items():
                            ratios[name][g].append(math.log(error / min(errors.values())))

    benchmark.pedantic(once, rounds=1, iterations=1)
    with capsys.disabled():
        if benchmark.enabled:
            for name, by_grid in ratios.items():
                mean = {g: math.exp(sum(r) / len(r)) for g, r in by_grid.items()}
                best = sorted(mean, key=mean.__getitem__)[:4]
                own = sk.solvers.get(name).default_grid
                print(
                    f"\n{name:16} default {own} {mean[own]:.2f}; " + ", ".join(f"{g} {mean[g]:.2f}" for g in best),
                    end="",
                )
    assert set(ratios) == set(solvers)
