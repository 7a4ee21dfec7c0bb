"""Which grid each solver does best on: what its default was chosen by.

    pytest tests/benchmarks/test_default_grids.py --benchmark-enable -s

prints, for every solver, the geometric mean over targets, SDEs and budgets of its error on a grid as a ratio to the
best grid of that case; 1 is always the best. The error is the flow error of the deterministic ones, and of the
stochastic ones the greatest error in the variance of Gaussians N(0, s^2), s from 0.1 to 1, exact by the recursion of
the sampler itself. (euler_maruyama serves any SDE, most of which have no noise level: its default is uniform.)
"""

from __future__ import annotations

import math
from collections import defaultdict

import pytest
import torch

import sdekit as sk
from sdekit import grids
from sdekit.experiments.verification.orders import Impulses, gaussian_moments
from sdekit.sdes import EDMSDE, VPSDE, CosineVPSDE, FlowSDE

SOLVERS = [
    name for name in sk.solvers.names() if not (sk.solvers.get(name).stochastic or sk.solvers.get(name).adaptive)
]


def report(ratios: dict[str, dict[str, list[float]]]) -> None:
    for name, by_grid in ratios.items():
        mean = {g: math.exp(sum(r) / len(r)) for g, r in by_grid.items()}
        best = ", ".join(f"{g} {mean[g]:.2f}" for g in sorted(mean, key=mean.__getitem__)[:4])
        own = sk.solvers.get(name).default_grid
        print(f"\n{name:20} default {own} {mean[own]:.2f}; {best}", end="")


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


AFFINE = [
    name for name in sk.solvers.names() if sk.solvers.get(name).stochastic and sk.solvers.get(name).kind == "table"
]


def variance_error(solver: sk.solvers.Solver, sde: sk.DiffusionSDE, steps: int, grid: str) -> float:
    worst = 0.0
    for s in (0.1, 0.3, 0.6, 1.0):
        model = sk.targets.Gaussian(torch.zeros(1), torch.full((1,), s**2, dtype=torch.float64)).score_model(sde)

        def run(x: torch.Tensor, noise: Impulses, model: sk.ScoreModel = model) -> torch.Tensor:
            return sk.sample(model, x_T=x, solver=solver, steps=steps, noise=noise, grid=grid).x

        start, end = (float((sde.alpha(t) * s).square() + sde.sigma(t).square()) for t in (sde.t_max, sde.t_min))
        _, got = gaussian_moments(run, 0.0, start)
        worst = max(worst, abs(math.log(got / end)))
    return worst


def test_default_grids_of_stochastic_solvers(benchmark, capsys: pytest.CaptureFixture[str]) -> None:
    sdes, budgets, solvers = (VPSDE(), EDMSDE(), FlowSDE(), CosineVPSDE()), (20, 50), AFFINE
    if not benchmark.enabled:
        sdes, budgets, solvers = (VPSDE(),), (4,), ["ancestral"]
    ratios: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))

    def once() -> None:
        for name in solvers:
            solver = sk.solvers.get(name)
            for sde in sdes:
                for nfe in budgets:
                    steps = max(1, nfe // (solver.evaluations_per_step or 2))
                    errors = {g: variance_error(solver, sde, steps, g) for g in grids.names()}
                    for g, error in errors.items():
                        ratios[name][g].append(math.log(error / min(errors.values())))

    benchmark.pedantic(once, rounds=1, iterations=1)
    with capsys.disabled():
        if benchmark.enabled:
            report(ratios)
    assert set(ratios) == set(solvers)
