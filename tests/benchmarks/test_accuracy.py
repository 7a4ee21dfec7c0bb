"""How good the recommended settings are, in full: flow errors at a budget, and samples against exact ones.

    pytest tests/benchmarks/test_accuracy.py --benchmark-enable -s

prints the tables of docs/adams.md; a few minutes. tests/test_recommended.py checks the same on smaller sets.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

import sdekit as sk
from sdekit.experiments.metrics import EnergyDistance, SlicedWasserstein
from sdekit.sdes import VPSDE
from sdekit.solvers import recommended

PUBLIC = {"ring": (0.023, 0.0065, 7.7e-4, 5.8e-5), "digits": (0.029, 0.0095, 1.4e-3, 4.6e-4)}
BUDGETS = (5, 10, 20, 50)


def flow(name: str, starts: int) -> tuple[sk.ScoreModel, Tensor, Tensor]:
    """A model, starts, and their images under the exact flow to sigma = 0."""
    sde = VPSDE()
    model = getattr(sk.targets, name)().score_model(sde)
    z = torch.randn(starts, *model.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    x = z * sde.prior_std(None, model.data_std)
    low = float(sde.time_of_sigma_ratio(torch.tensor(1e-5, dtype=torch.float64)))
    near = sk.sample(model, x_T=x, solver="rk4", steps=800, grid="log_snr", t_end=low).x
    return model, x, model.denoised(near, low)


def test_flow_error_at_a_budget(benchmark, capsys: pytest.CaptureFixture[str]) -> None:
    rows: dict[str, list[float]] = {}

    def once() -> None:
        for name, starts in (("ring", 512), ("digits", 64), ("moons", 512)):
            model, x, image = flow(name, starts if benchmark.enabled else 8)
            ends = [sk.sample(model, x_T=x, **recommended(n)).x for n in BUDGETS]
            rows[name] = [float((e - image).square().flatten(1).mean(1).sqrt().median()) for e in ends]

    benchmark.pedantic(once, rounds=1, iterations=1)
    with capsys.disabled():
        if benchmark.enabled:
            print(f"\nflow error at NFE {BUDGETS}, and as a ratio to the best public figure")
            for name, errors in rows.items():
                ratios = [f"{e / p:.3f}" for e, p in zip(errors, PUBLIC[name], strict=True)] if name in PUBLIC else []
                print(f"  {name:8}", " ".join(f"{e:.2e}" for e in errors), " ", *ratios)
            pairs = zip(rows["ring"], PUBLIC["ring"], rows["digits"], PUBLIC["digits"], strict=True)
            print(
                "  geometric mean of ring and digits:",
                " ".join(f"{math.sqrt(a / b * c / d):.3f}" for a, b, c, d in pairs),
            )
    assert all(math.isfinite(e) for errors in rows.values() for e in errors)


@pytest.mark.parametrize("name", ["ring", "digits"])
def test_ten_evaluations_against_exact_samples(name: str, benchmark, capsys: pytest.CaptureFixture[str]) -> None:
    n, nulls, seeds, references = (10_000, 20, 5, 5) if benchmark.enabled else (200, 3, 1, 1)
    target = getattr(sk.targets, name)()
    model = target.score_model(VPSDE())
    found: dict[str, list[float]] = {}

    def exact(seed: int, count: int = n) -> Tensor:
        return target.sample(count, seed=seed).flatten(1)

    def once() -> None:
        own = target.log_prob(target.sample(20 * n, seed=7).double())
        samples = [
            sk.sample(model, n, seed=s, chunk=2500, **recommended(10, stochastic=True)).x.flatten(1)
            for s in range(seeds)
        ]
        for metric in (EnergyDistance(), SlicedWasserstein(directions=64)):
            # Exact sets and samples by the same statistic: the mean distance to the same exact references.
            measures = [metric.against(exact(3000 + r)) for r in range(references)]
            null, scores = (
                [float(np.mean([measure(x).value for measure in measures])) for x in sets]
                for sets in (map(exact, range(1000, 1000 + nulls)), samples)
            )
            found[metric.name] = [(v - float(np.mean(null))) / float(np.std(null, ddof=1)) for v in scores]
        found["mean log-density"] = [
            float(
                (target.log_prob(x.double().reshape(-1, *target.shape)).mean() - own.mean())
                / (own.std() / math.sqrt(n))
            )
            for x in samples
        ]

    benchmark.pedantic(once, rounds=1, iterations=1)
    with capsys.disabled():
        if benchmark.enabled:
            print(
                f"\n{name}: NFE 10, n = {n}, {seeds} seeds, {references} references each; standard errors of exact sets"
            )
            for metric_name, z in found.items():
                print(f"  {metric_name:20}", " ".join(f"{v:+.1f}" for v in z))
    assert all(math.isfinite(v) for z in found.values() for v in z)


def test_distance_on_the_digits_network(benchmark, capsys: pytest.CaptureFixture[str]) -> None:
    # To a 500-evaluation solve from the same start: the median RMS distance per pixel.
    model = sk.models.load("digits")
    n = 64 if benchmark.enabled else 2
    budgets = BUDGETS if benchmark.enabled else (5,)
    rivals = (
        ("ddim", None),
        ("ddim", "quadratic"),
        ("dpmpp_2m", "log_snr"),
        ("dpmpp_2m", None),
        ("unipc", "log_snr"),
        ("unipc", None),
        ("heun", "log_snr"),
    )
    rows: dict[str, list[float]] = {}

    def once() -> None:
        x = torch.randn(n, *model.shape, generator=torch.Generator().manual_seed(9)) * model.sde.prior_std(
            None, model.data_std
        )
        labels = {"y": torch.arange(n) % 10}
        fine = {"solver": "dpmpp_2m", "steps": 500 if benchmark.enabled else 20, "grid": "log_snr"}

        def end(**how) -> Tensor:
            return sk.sample(model, x_T=x, condition=labels, **how).x

        def distance(a: Tensor, b: Tensor) -> float:
            return float((a - b).square().flatten(1).mean(1).sqrt().median())

        # All end at t_min: below it the network was not trained, and what is 0 there depends on who extrapolates.
        at_t_min = end(**fine)
        rows["recommended"] = [distance(end(**{**recommended(k), "t_end": None}), at_t_min) for k in budgets]
        for name, grid in rivals:
            each = sk.solvers.get(name).evaluations_per_step
            rows[f"{name}, {grid or 'its own grid'}"] = [
                distance(end(solver=name, steps=k // each, grid=grid), at_t_min) for k in budgets
            ]

    benchmark.pedantic(once, rounds=1, iterations=1)
    with capsys.disabled():
        if benchmark.enabled:
            print(f"\ndigits network: distance to 500 evaluations at NFE {budgets}")
            for name, errors in rows.items():
                print(f"  {name:24}", " ".join(f"{e:.2e}" for e in errors))
    assert all(math.isfinite(e) for errors in rows.values() for e in errors)


def random_mixture(dim: int, modes: int, seed: int) -> sk.targets.GaussianMixture:
    """Modes of scale 1 with deviations from 0.02 to 0.4, of unequal weights: a target that no setting was fitted to."""
    generator = torch.Generator().manual_seed(10_000 + seed)
    means = torch.randn(modes, dim, generator=generator, dtype=torch.float64)
    variances = (0.02 * 20 ** torch.rand(modes, generator=generator, dtype=torch.float64)).square()
    weights = 0.5 + torch.rand(modes, generator=generator, dtype=torch.float64)
    return sk.targets.GaussianMixture(weights / weights.sum(), means, variances)


def test_flow_error_on_mixtures_of_no_name(benchmark, capsys: pytest.CaptureFixture[str]) -> None:
    cases = [(2, 8), (8, 12), (64, 24)] if benchmark.enabled else [(2, 3)]
    budgets, seeds = (BUDGETS, 4) if benchmark.enabled else ((5,), 1)
    rivals = (("dpmpp_2m", None), ("unipc", None), ("unipc", "log_snr"), ("heun", None))
    logs: dict[str, list[list[float]]] = {}
    sde = VPSDE()

    def once() -> None:
        for dim, modes in cases:
            for seed in range(seeds):
                model = random_mixture(dim, modes, seed).score_model(sde)
                z = torch.randn(128, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
                x = z * sde.prior_std(None, model.data_std)
                low = float(sde.time_of_sigma_ratio(torch.tensor(1e-5, dtype=torch.float64)))
                steps = 600 if benchmark.enabled else 20
                near = sk.sample(model, x_T=x, solver="rk4", steps=steps, grid="log_snr", t_end=low).x
                image = model.denoised(near, low)

                def error(image: Tensor = image, model: sk.ScoreModel = model, x: Tensor = x, **how) -> float:
                    end = sk.sample(model, x_T=x, **how).x
                    return math.log(float((end - image).square().mean(1).sqrt().median()))

                logs.setdefault("recommended", []).append([error(**recommended(n)) for n in budgets])
                for name, grid in rivals:
                    each = sk.solvers.get(name).evaluations_per_step
                    row = [error(solver=name, steps=n // each, grid=grid, t_end=0.0) for n in budgets]
                    logs.setdefault(f"{name}, {grid or 'its own grid'}", []).append(row)

    benchmark.pedantic(once, rounds=1, iterations=1)
    means = {name: np.exp(np.mean(rows, axis=0)) for name, rows in logs.items()}
    with capsys.disabled():
        if benchmark.enabled:
            print(f"\nrandom mixtures {cases}, {seeds} each: flow error at NFE {budgets}, geometric mean")
            for name, values in means.items():
                print(f"  {name:24}", " ".join(f"{v:.2e}" for v in values))
    assert all(np.isfinite(v).all() for v in means.values())
