"""How accurate log-likelihoods are at a cost, and how far their standard errors are to be believed, in full.

    pytest tests/benchmarks/test_likelihood_accuracy.py --benchmark-enable -s

prints the tables of docs/likelihood.md; some minutes. tests/test_likelihood.py checks the same on smaller sets.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import sdekit as sk
from sdekit.likelihood import Divergence, Exact, GaussianControl, Hutchinson, HutchPP, XTrace
from sdekit.sdes import VPSDE
from sdekit.targets import GaussianMixture
from sdekit.training.digits_data import dequantise, digits_split

VP = VPSDE(beta_min=0.1, beta_max=20.0)


def random_mixture(dim: int, modes: int, seed: int) -> GaussianMixture:
    """Modes of scale 1 with deviations from 0.02 to 0.4, of unequal weights: a target that no setting was fitted to."""
    generator = torch.Generator().manual_seed(10_000 + seed)
    means = torch.randn(modes, dim, generator=generator, dtype=torch.float64)
    variances = (0.02 * 20 ** torch.rand(modes, generator=generator, dtype=torch.float64)).square()
    weights = 0.5 + torch.rand(modes, generator=generator, dtype=torch.float64)
    return GaussianMixture(weights / weights.sum(), means, variances)


TARGETS = {
    "ring": sk.targets.ring,
    "moons": sk.targets.moons,
    "mixture, 4-D": lambda: random_mixture(4, 10, 0),
    "mixture, 8-D": lambda: random_mixture(8, 12, 1),
    "mixture, 16-D": lambda: random_mixture(16, 16, 2),
    "digits": sk.targets.digits,
}


class Case:
    """A target's model, draws of p at t_min, each `copies` times, and their log-densities there."""

    def __init__(self, name: str, draws: int, copies: int = 1) -> None:
        self.target = TARGETS[name]()
        self.model = self.target.score_model(VP)
        x = self.target.marginal(VP, VP.t_min).sample(draws, seed=11, dtype=torch.float64)
        self.exact = self.target.log_prob_at(x, VP.t_min, VP).repeat_interleave(copies)
        self.x = x.repeat_interleave(copies, 0)

    def solve(self, **how: Any) -> tuple[sk.LogLikelihood, Tensor]:
        """The result, and its error, log_prob less the exact one."""
        ll = sk.log_likelihood(self.model, self.x, **how)
        return ll, ll.log_prob - self.exact


def middle(error: Tensor) -> str:
    """Mean and median of the absolute error."""
    return f"{float(error.abs().mean()):.1e}/{float(error.abs().median()):.1e}"


def test_error_against_evaluations(benchmark, capsys: pytest.CaptureFixture[str]) -> None:
    # With the exact trace; every evaluation is counted, those of the last node and of the prior too.
    # Of digits, one path in a hundred passes so near between two of them that it is the mean by itself.
    budgets = (20, 30, 40, 60, 80, 120, 200) if benchmark.enabled else (20,)
    tolerances = (1e-2, 1e-3, 1e-4, 1e-5) if benchmark.enabled else (1e-2,)
    lines: list[str] = []
    errors: list[float] = []

    def once() -> None:
        for name, draws in (("ring", 512), ("digits", 64)):
            case = Case(name, draws if benchmark.enabled else 2)
            for label, how in {"default": {}, "rk4, log_snr": {"solver": "rk4", "grid": "log_snr"}}.items():
                each = 4 if "solver" in how else 1
                row = []
                for n in budgets:
                    ll, error = case.solve(steps=(n - 2) // each, divergence="exact", **how)
                    assert ll.nfe <= n
                    row.append(f"{n}:{middle(error)}")
                    errors.append(float(error.abs().mean()))
                lines.append(f"  {name:7}{label:14}" + " ".join(row))
            row = []
            for tolerance in tolerances:
                ll, error = case.solve(
                    solver="scipy:RK45", rtol=tolerance, atol=tolerance, steps=32, divergence="exact", per_sample=True
                )
                row.append(f"{float(torch.as_tensor(ll.nfe).double().mean()):.0f}:{middle(error)}")
                errors.append(float(error.abs().mean()))
            lines.append(f"  {name:7}scipy:RK45    " + " ".join(row) + " (33 of them nodes)")

    benchmark.pedantic(once, rounds=1, iterations=1)
    with capsys.disabled():
        if benchmark.enabled:
            print("\nabsolute error in nats with the exact trace, evaluations:mean/median", *lines, sep="\n")
    assert all(math.isfinite(e) for e in errors)


def estimators(target: GaussianMixture) -> dict[str, Divergence]:
    control = GaussianControl(target.covariance())
    ones: dict[str, Divergence] = {"exact": Exact()}
    for along in ("fixed", "independent"):
        for distribution in ("rademacher", "gaussian"):
            ones[f"{distribution}, {along}"] = Hutchinson(1, distribution, along)
    ones["hadamard"] = Hutchinson(1, "hadamard")
    ones["adapted"] = Hutchinson(1, "adapted")
    for distribution in ("rademacher", "gaussian", "hadamard", "adapted"):
        ones[f"{distribution}, control"] = Hutchinson(1, distribution, control=control)
    return ones


def test_error_with_one_product_an_evaluation(benchmark, capsys: pytest.CaptureFixture[str]) -> None:
    # 120 evaluations: 118 steps, the last node, the prior.
    sizes = {"ring": 512, "mixture, 16-D": 256, "digits": 96} if benchmark.enabled else {"ring": 4}
    steps = 118 if benchmark.enabled else 10
    rows: dict[str, list[str]] = {}

    def once() -> None:
        for name, draws in sizes.items():
            case = Case(name, draws)
            few = Case(name, min(draws, 32))
            for label, divergence in estimators(case.target).items():
                ll, error = (few if label == "exact" else case).solve(divergence=divergence, steps=steps)
                assert ll.nfe == steps + 2
                rows.setdefault(label, []).append(f"{float(error.square().mean().sqrt()):10.4f}")
            # Several products at a node: as many evaluations, and as few nodes as make 120 products of them.
            for several in (Hutchinson(2), Hutchinson(4), HutchPP(3), XTrace(4)):
                label = f"{several.name}, {several.products(64)}"
                for kind, n in (
                    (f"{label} each, 120 nodes", steps),
                    (f"{label} each, 120 in all", steps // several.products(64)),
                ):
                    text = "-"
                    if not (isinstance(several, XTrace) and name == "ring"):  # two normal vectors span the plane
                        _, error = case.solve(divergence=several, steps=n)
                        text = f"{float(error.square().mean().sqrt()):.4f}"
                    rows.setdefault(kind, []).append(f"{text:>10}")

    benchmark.pedantic(once, rounds=1, iterations=1)
    with capsys.disabled():
        if benchmark.enabled:
            print(f"\nrms error in nats at 120 evaluations, one product each unless said: {', '.join(sizes)}")
            for label, row in rows.items():
                print(f"  {label:36}", *row)
    assert all(len(row) == len(sizes) for row in rows.values())


def test_probes_on_the_bundled_network(benchmark, capsys: pytest.CaptureFixture[str]) -> None:
    # Against the exact trace of the same solve: a trained network's Jacobian is noisier than an exact target's.
    draws, steps, seeds = (32, 118, 6) if benchmark.enabled else (2, 6, 1)
    model = sk.models.load("digits")
    x = dequantise(digits_split().held_out_images[:draws], torch.Generator().manual_seed(0))
    rows: dict[str, list[str]] = {}

    def once() -> None:
        exact = sk.log_likelihood(model, x, divergence="exact", steps=steps).log_prob
        for kind in ("adapted", "rademacher", "hadamard"):
            for probes in (1, 2):
                how: dict[str, Any] = {"probe_distribution": kind, "probes": probes, "steps": steps}
                found = [sk.log_likelihood(model, x, seed=seed, **how).log_prob for seed in range(seeds)]
                error = float((torch.cat(found) - exact.repeat(seeds)).square().mean().sqrt())
                assert error > 0
                rows.setdefault(kind, []).append(f"{error:8.3f}")

    benchmark.pedantic(once, rounds=1, iterations=1)
    with capsys.disabled():
        if benchmark.enabled:
            print(
                "\nrms difference in nats to the exact trace on the digits network, 120 evaluations: 1 probe, 2 probes"
            )
            for kind, row in rows.items():
                print(f"  {kind:12}", *row)
    assert all(len(row) == 2 for row in rows.values())


def test_coverage_of_standard_errors(benchmark, capsys: pytest.CaptureFixture[str]) -> None:
    kinds: dict[str, Divergence] = {f"adapted, {k}": Hutchinson(k) for k in (1, 2, 3, 4)}
    kinds |= {f"rademacher, {k}": Hutchinson(k, "rademacher") for k in (1, 2)}
    kinds |= {"gaussian, 2": Hutchinson(2, "gaussian"), "hadamard, 2": Hutchinson(2, "hadamard")}
    kinds |= {
        "rademacher fixed, 4": Hutchinson(4, "rademacher", "fixed"),
        "hutch++, 6": HutchPP(6),
        "xtrace, 6": XTrace(6),
    }
    # 1000 or more errors of each: coverage to 1.5 %; copies of a draw are samples with probes of their own.
    sizes = dict.fromkeys(TARGETS, (128, 8)) | {"digits": (64, 8)}
    if not benchmark.enabled:
        sizes, kinds = {"ring": (4, 2)}, {"adapted, 2": Hutchinson(2)}
    rows: dict[str, list[str]] = {}

    def once() -> None:
        for name, (draws, copies) in sizes.items():
            case = Case(name, draws, copies)
            for label, divergence in kinds.items():
                for steps in (58, 118):
                    text = "-"
                    if not (isinstance(divergence, (HutchPP, XTrace)) and case.x[0].numel() < 4):
                        if name == "digits" and steps == 118 and divergence.products(64) > 4:
                            rows.setdefault(f"{label}, {steps} steps", []).append(f"{text:>9}")
                            continue
                        ll, error = case.solve(divergence=divergence, steps=steps, seed=3)
                        z = error.abs() / ll.std_error
                        text = " ".join(f"{100 * float((z <= limit).double().mean()):4.1f}" for limit in (1.0, 1.96))
                    rows.setdefault(f"{label}, {steps} steps", []).append(f"{text:>9}")

    benchmark.pedantic(once, rounds=1, iterations=1)
    with capsys.disabled():
        if benchmark.enabled:
            print(f"\n% of errors within 1 and 1.96 standard errors: {' | '.join(sizes)}")
            for label, row in rows.items():
                print(f"  {label:28}", " | ".join(row))
    assert all(len(row) == len(sizes) for row in rows.values())
