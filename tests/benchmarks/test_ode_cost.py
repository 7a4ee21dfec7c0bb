"""Adaptive ODE pairs beside scipy's: evaluations and time for an error.

    pytest tests/benchmarks/test_ode_cost.py --benchmark-enable -s

prints, for every pair and problem, the evaluations of a sample and the seconds of the batch that an error of 1e-4 and
of 1e-8 takes, read off between tolerances, as ratios to scipy's method of the same kind. scipy solves the samples one
by one ("alone"), as independent steps ask for, or all as one state ("together"), whose steps are those of the hardest.
torchdiffeq is measured too where it is installed. Nothing is asserted on time: these are measurements.
"""

from __future__ import annotations

import importlib.util
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

import sdekit as sk

KINDS = {
    "bogacki_shampine": "RK23",
    "dormand_prince_5": "RK45",
    "tsitouras_5": "RK45",
    "dormand_prince_8": "DOP853",
}
TARGETS = (1e-4, 1e-8)
SPAN = 10.0


def forced(x: Any, t: Any, lib: Any) -> Any:
    return lib.sin(3 * t) - x


def van_der_pol(x: Any, t: Any, lib: Any) -> Any:
    return lib.stack([x[:, 1], 2 * (1 - x[:, 0] ** 2) * x[:, 1] - x[:, 0]], 1)


def kepler(x: Any, t: Any, lib: Any) -> Any:
    cube = (x[:, :1] ** 2 + x[:, 1:2] ** 2) ** 1.5
    return lib.concatenate([x[:, 2:], -x[:, :2] / cube], 1)


def starts(name: str, rows: int) -> Tensor:
    z = torch.linspace(0.1, 0.6, rows, dtype=torch.float64)[:, None]
    if name == "kepler":  # ellipses of eccentricity z
        return torch.cat([1 - z, 0 * z, 0 * z, torch.sqrt((1 + z) / (1 - z))], dim=1)
    return torch.cat([1 + z, z - 1], dim=1)


PROBLEMS = {"forced": forced, "van_der_pol": van_der_pol, "kepler": kepler}
Run = Callable[[float], tuple[np.ndarray, float, float]]


def ours(name: str, drift: Callable[..., Any], x: Tensor) -> Run:
    def run(tol: float) -> tuple[np.ndarray, float, float]:
        begin = time.perf_counter()
        ode = sk.ODE(lambda y, t: drift(y, t, torch))
        out = sk.solve(ode, x, t0=0.0, t1=SPAN, solver=name, rtol=tol, atol=tol)
        return out.x.numpy(), float(out.nfe.double().mean()), time.perf_counter() - begin

    return run


def scipys(method: str, drift: Callable[..., Any], x: Tensor, together: bool) -> Run:
    def run(tol: float) -> tuple[np.ndarray, float, float]:
        begin = time.perf_counter()
        parts = [x.numpy()] if together else list(x.numpy()[:, None])
        ends, nfe = [], 0
        for part in parts:
            shape = part.shape

            def flat(t: float, y: np.ndarray, shape: tuple[int, ...] = shape) -> np.ndarray:
                return drift(y.reshape(shape), t, np).reshape(-1)

            out = solve_ivp(flat, (0.0, SPAN), part.reshape(-1), method, rtol=tol, atol=tol)
            ends.append(out.y[:, -1].reshape(shape))
            nfe += out.nfev
        return np.concatenate(ends), nfe / len(parts), time.perf_counter() - begin

    return run


def torchdiffeqs(drift: Callable[..., Any], x: Tensor) -> Run:
    odeint = importlib.import_module("torchdiffeq").odeint
    calls = 0

    def counted(t: Tensor, y: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return drift(y, t, torch)

    def run(tol: float) -> tuple[np.ndarray, float, float]:
        nonlocal calls
        begin, calls = time.perf_counter(), 0
        ends = odeint(counted, x, torch.tensor([0.0, SPAN], dtype=x.dtype), rtol=tol, atol=tol, method="dopri5")
        return ends[-1].numpy(), float(calls), time.perf_counter() - begin

    return run


def at_errors(run: Run, exact: np.ndarray, tolerances: list[float]) -> list[tuple[float, float]]:
    """(evaluations, seconds) for each of TARGETS: on straight lines in the logarithms of the errors measured."""
    errors, nfe, seconds = [], [], []
    for tol in tolerances:
        end, evaluations, spent = run(tol)
        errors.append(-math.log(np.abs(end - exact).max()))
        nfe.append(math.log(evaluations))
        seconds.append(math.log(spent))
    order = np.argsort(errors)
    along = np.array(errors)[order]
    return [
        tuple(math.exp(np.interp(-math.log(e), along, np.array(v)[order])) for v in (nfe, seconds)) for e in TARGETS
    ]


@pytest.mark.parametrize("rows", [1, 64])
def test_cost_at_equal_error(rows: int, benchmark, capsys: pytest.CaptureFixture[str]) -> None:
    lines: list[str] = []
    tolerances = [10.0**-k for k in range(3, 12)] if benchmark.enabled else [1e-3]
    problems = PROBLEMS if benchmark.enabled else {"forced": forced}

    def once() -> None:
        for problem, drift in problems.items():
            x = starts(problem, rows)
            exact = scipys("DOP853", drift, x, False)(1e-13)[0]
            for name, method in KINDS.items():
                tols = [t for t in tolerances if t > 1e-10] if method == "RK23" else tolerances
                others = {"scipy alone": scipys(method, drift, x, False)}
                if rows > 1:
                    others["scipy together"] = scipys(method, drift, x, True)
                if name == "dormand_prince_5" and importlib.util.find_spec("torchdiffeq"):
                    others["torchdiffeq"] = torchdiffeqs(drift, x)
                mine = at_errors(ours(name, drift, x), exact, tols)
                for other, run in others.items():
                    theirs = at_errors(run, exact, tols)
                    ratios = [
                        f"{e:g}: {a[0]:6.0f} evaluations, {a[0] / b[0]:.2f} of theirs, {a[1] / b[1]:6.2f} of the time"
                        for e, a, b in zip(TARGETS, mine, theirs, strict=True)
                    ]
                    lines.append(f"{problem:12} {name:17} beside {other:15} {'; '.join(ratios)}")

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        benchmark.pedantic(once, rounds=1, iterations=1)
    finally:
        torch.set_num_threads(threads)
    with capsys.disabled():
        if benchmark.enabled:
            print(f"\n{rows} sample(s): evaluations a sample and seconds of the batch at an error")
            print("\n".join(lines))
    assert lines
