"""Strong errors on shared Brownian paths: beside torchsde's methods at equal steps, and at equal drift evaluations.

    pytest tests/benchmarks/test_strong_errors.py --benchmark-enable -s

Every method is given the same W and H, joined exactly from those of the finest steps. The SDEs, over [0, 1]:

    GBM             dX = 1.5 X dt + 0.5 X dW (Ito), X_0 = 1 and 0.5
    tanh            dX = -X (1 - X^2) a^2 dt + a (1 - X^2) dW (Ito), a = 0.5, X_0 = 0.5 and -0.2
    double well     dX = (X - X^3) dt + 0.6 dW, X_0 = 1.2 and -0.4
    arctan of OU    X = arctan Y, dY = -2 Y dt + 0.8 dW: diagonal noise, X_0 = 0.8 and -0.4
    and the commutative and the general problem of `sdekit verify`.

Errors are root mean squares over 400 paths; orders are slopes, with 95 % of bootstrapped ones.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import pytest
import torch
from torch import Tensor

import sdekit as sk
from sdekit.experiments.verification.brownian import SharedPath
from sdekit.experiments.verification.sde_problems import PROBLEMS, StrongProblem
from sdekit.experiments.verification.strong import StrongOrder, ends_order

torchsde = pytest.importorskip("torchsde")

NAMED = {problem.name: problem for problem in PROBLEMS}
ITO = ("euler_maruyama", "milstein", "milstein_free", "sriw1", "sosri")
STRATONOVICH = ("euler_heun", "stochastic_heun", "stochastic_midpoint", "general_shark", "spark", "slowrk")
THEIRS = {
    "ito": ("euler", "milstein", "srk"),
    "stratonovich": ("euler_heun", "heun", "midpoint", "milstein", "reversible_heun"),
}


class Counted:
    """An SDE as torchsde takes it, which counts its drift's evaluations."""

    def __init__(self, sde: sk.sdes.AbstractSDE) -> None:
        self._sde, self.calls = sde, 0
        self.noise_type, self.sde_type = "diagonal", sde.calculus

    def f(self, t: Tensor, y: Tensor) -> Tensor:
        self.calls += 1
        return self._sde.drift(y, t)

    def g(self, t: Tensor, y: Tensor) -> Tensor:
        return self._sde.diffusion(y, t)


class Motion(torchsde.BaseBrownian):
    """The shared path over n steps, as torchsde asks for it: W and U = int (W_r - W_t) dr = h (W/2 + H)."""

    def __init__(self, path: SharedPath, n: int) -> None:
        super().__init__()
        self._given, self._values = path.given(n), path.level(n).W

    def __call__(self, ta: Any, tb: Any = None, return_U: bool = False, return_A: bool = False) -> Any:
        step = self._given(float(ta), float(tb))
        return (step.W, (float(tb) - float(ta)) * (0.5 * step.W + step.H)) if return_U else step.W

    def __repr__(self) -> str:
        return "Motion()"

    dtype = property(lambda self: self._values.dtype)
    device = property(lambda self: self._values.device)
    shape = property(lambda self: self._values.shape[1:])
    levy_area_approximation = property(lambda self: "space-time")


def ours(
    problem: StrongProblem, name: str, counts: tuple[int, ...], calculus: str | None = None
) -> tuple[StrongOrder, float]:
    """The order, and drift evaluations a step; in the solver's own calculus unless another is named."""
    solver = sk.solvers.get(name)
    sde, spent = problem.sde(calculus or solver.calculus[0]), 0

    def run(path: SharedPath, n: int) -> Tensor:
        nonlocal spent
        out = sk.solve(sde, problem.x0, solver=solver, grid=path.times(n), noise=path.given(n))
        spent += out.nfe
        return out.x

    return ends_order(run, problem.path, problem.exact, counts), spent / sum(counts)


def theirs(problem: StrongProblem, method: str, calculus: str, counts: tuple[int, ...]) -> tuple[StrongOrder, float]:
    sde = Counted(problem.sde(calculus))

    def run(path: SharedPath, n: int) -> Tensor:
        with torch.no_grad():
            ts = torch.tensor([0.0, 1.0], dtype=torch.float64)
            return torchsde.sdeint(sde, problem.x0, ts, bm=Motion(path, n), method=method, dt=1 / n)[-1]

    found = ends_order(run, problem.path, problem.exact, counts)
    return found, sde.calls / sum(counts)


@pytest.mark.parametrize("on", ["GBM", "tanh"])
def test_beside_torchsde_at_equal_steps(on: str, benchmark, capsys: pytest.CaptureFixture[str]) -> None:
    problem = NAMED[on]
    counts = (32, 64, 128, 256, 512) if benchmark.enabled else (64, 128)
    rows: dict[str, tuple[StrongOrder, float]] = {}

    def once() -> None:
        for calculus, methods in THEIRS.items():
            rows.update({f"torchsde {m}, {calculus}": theirs(problem, m, calculus, counts) for m in methods})
        rows.update({name: ours(problem, name, counts) for name in (*ITO, *STRATONOVICH)})
        rows["slowrk, Ito converted"] = ours(problem, "slowrk", counts, "ito")

    benchmark.pedantic(once, rounds=1, iterations=1)
    errors = {name: order.order.errors[-1] for name, (order, _) in rows.items()}
    benchmark.extra_info.update({"problem": on, "errors": errors})
    if benchmark.enabled:
        with capsys.disabled():
            print(f"\n{on}, h = 1/{counts[-1]}: RMS error, order, drift evaluations a step")
            for name, (order, evaluations) in rows.items():
                print(f"  {name:34} {errors[name]:.2e}  {order}  {evaluations:.1f}")
    # What is promised: no worse than torchsde's srk, at 4 drift evaluations a step or fewer.
    limit = errors["torchsde srk, ito"]
    for name in ("slowrk", "slowrk, Ito converted"):
        assert errors[name] <= limit
        assert rows[name][1] <= 4


EVALUATIONS = 384  # over [0, 1]: as many steps of one evaluation, 128 of three, …
KINDS = ("double well", "arctan of OU", "commuting matrices", "noncommutative")


@functools.cache
def divided(on: str) -> StrongProblem:
    """The problem on a path of steps of which 384, 192, 128 and 96 are whole numbers."""
    return dataclasses.replace(NAMED[on], cells=EVALUATIONS * (16 if on == "noncommutative" else 4))


SERVING = [
    name
    for name in sk.solvers.names()
    if (solver := sk.solvers.get(name)).kind == "step"
    and solver.stochastic
    and not solver.adaptive
    and solver.serves_models | (name == "sosri")
    and solver.strong_order is not None
    and solver.evaluations_per_step is not None
]


def test_errors_at_equal_drift_evaluations(benchmark, capsys: pytest.CaptureFixture[str]) -> None:
    table: dict[str, dict[str, float]] = {}
    chosen = SERVING if benchmark.enabled else ["euler_maruyama", "sra1", "spark"]

    def once() -> None:
        for on in KINDS:
            problem = divided(on)
            for name in chosen:
                solver = sk.solvers.get(name)
                if problem.noise in solver.noise_kinds:
                    steps = EVALUATIONS // (solver.evaluations_per_step or 1)
                    found, _ = ours(problem, name, (steps,))
                    table.setdefault(name, {})[on] = found.order.errors[0]

    benchmark.pedantic(once, rounds=1, iterations=1)
    benchmark.extra_info.update({"errors": table})
    if benchmark.enabled:
        with capsys.disabled():
            print(f"\n| solver | {' | '.join(KINDS)} |\n|---|{'---|' * len(KINDS)}")
            for name, errors in table.items():
                cells = [f"{errors[on]:.1e}" if on in errors else "" for on in KINDS]
                print(f"| `{name}` | {' | '.join(cells)} |")
    assert table["sra1"]["double well"] < 0.1 * table["euler_maruyama"]["double well"]
    assert table["spark"]["noncommutative"] < table["euler_maruyama"]["noncommutative"]
