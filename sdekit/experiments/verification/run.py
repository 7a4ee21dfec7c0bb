"""`verify`: what every solver claims, measured."""

from __future__ import annotations

import functools
import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from sdekit.errors import ArgumentError
from sdekit.experiments.verification.findings import Finding
from sdekit.experiments.verification.finiteness import unfinished
from sdekit.experiments.verification.general import general_findings, is_general
from sdekit.experiments.verification.orders import (
    Order,
    flow_order,
    gaussian_end,
    strong_order,
    tolerance_error,
    weak_order,
)
from sdekit.experiments.verification.published import REFERENCES, check
from sdekit.solvers import FixedStepSolver, Solver, entries, resolve
from sdekit.solvers.progress import progress_bar

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["Finding", "Verification", "verify"]

# A measured order may fall so far short of the declared one: the slope is that of finite steps.
_SHORT = 0.25
_RIGHT = 0.05
_LOOSE = 0.05  # the tolerance at which steps by tolerance are tried for finiteness
_SLOW_COUNTS = (16, 32, 64)  # for solvers that take a millisecond a step


@final
@dataclass(frozen=True)
class Verification:
    """The findings of a run of `verify`."""

    findings: list[Finding]
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether every claim holds."""
        return all(f.passed for f in self.findings)

    @property
    def failures(self) -> list[Finding]:
        """The claims that do not hold."""
        return [f for f in self.findings if not f.passed]

    @property
    def table(self) -> pd.DataFrame:
        """One row a finding."""
        import pandas as pd

        return pd.DataFrame([{k: v for k, v in asdict(f).items() if k != "order"} for f in self.findings])

    def summary(self) -> list[dict[str, str]]:
        """One row a solver: what was declared and measured, in words."""
        rows = []
        for name in dict.fromkeys(f.solver for f in self.findings):
            mine = [f for f in self.findings if f.solver == name]
            orders = [f for f in mine if f.check.endswith("order") or f.check in ("tolerance", "rejection")]
            rows.append(
                {
                    "solver": name,
                    "declared": "; ".join(dict.fromkeys(f"{f.check} {f.declared}" for f in orders)),
                    "measured": _measured(orders),
                    "formula": next((f.measured for f in mine if f.check == "published formula"), ""),
                    "finite": next((f.measured for f in mine if f.check == "finite"), ""),
                    "holds": "yes" if all(f.passed for f in mine) else "NO",
                }
            )
        return rows

    def markdown(self) -> str:
        """The summary as a Markdown table."""
        rows = self.summary()
        heads = list(rows[0])
        lines = [" | ".join(heads), " | ".join("---" for _ in heads)]
        lines += [" | ".join(row[head] for head in heads) for row in rows]
        return "\n".join(f"| {line} |" for line in lines) + "\n"

    def plot(self) -> Figure:
        """Error against steps for every measured order, with the declared slope through the last point."""
        from sdekit.experiments.verification.plots import orders_figure

        return orders_figure(self.findings)

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {"passed": self.passed, "seconds": self.seconds, "findings": [asdict(f) for f in self.findings]}

    def save(self, folder: str | Path) -> Path:
        """Write verify.json, verify.csv, verify.md and verify.png into a folder, made where it is missing."""
        import json

        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        (place / "verify.json").write_text(json.dumps(self.to_dict(), indent=2))
        (place / "verify.md").write_text(self.markdown())
        self.table.to_csv(place / "verify.csv", index=False)
        self.plot().savefig(place / "verify.png")
        return place


def _measured(findings: Sequence[Finding]) -> str:
    """In a summary: each with its problem, and with the check, and the order that was declared, where these change."""
    said, before = [], ""
    for finding in findings:
        check_ = f"{finding.check} {finding.declared}" if finding.check.endswith("order") else finding.check
        named = "" if check_ == before else f"{check_}: "
        said.append(f"{named}{finding.on} {finding.measured}")
        before = check_
    return "; ".join(said)


def verify(
    names: Sequence[str] | None = None, *, progress: bool = False, each: Callable[[Finding], None] | None = None
) -> Verification:
    """Measure what solvers declare, in float64: orders, published formulas, the limit, finiteness.

    Args:
        names: which, by any of their names; all of the catalogue unless given.
        progress: show a bar.
        each: called with each finding as it is made.

    Raises:
        UnknownNameError: for a name that no solver has, before any work.
    """
    chosen = [e.name for e in entries()] if names is None else [resolve(name).name for name in names]
    if not chosen:
        raise ArgumentError("names is empty: there is nothing to verify; leave it out for all of the catalogue.")
    findings: list[Finding] = []
    started = time.perf_counter()
    with progress_bar(progress, total=len(chosen), name="verify", unit="solver") as bar, warnings.catch_warnings():
        # Langevin's warning of its bias in few dimensions is not what is measured here.
        warnings.filterwarnings("ignore", message="the Langevin corrector")
        for name in dict.fromkeys(chosen):
            for finding in _findings(name):
                findings.append(finding)
                if each is not None:
                    each(finding)
            bar.update(1)
    return Verification(findings, time.perf_counter() - started)


def _findings(name: str) -> Iterator[Finding]:
    entry = resolve(name)
    solver, make = entry.make(**entry.fixed), functools.partial(entry.make, **entry.fixed)
    if is_general(solver):
        yield from _guarded(name, "plain SDEs and ODEs", general_findings(name, solver, make))
    if not solver.serves_models:
        return
    yield from _guarded(name, "orders and limit", _on_models(name, solver, make))
    yield from _guarded(name, "published formula", _published(name))
    yield from _guarded(name, "finite", _finite(name, solver, make))


def _on_models(name: str, solver: Solver, make: Callable[..., Solver]) -> Iterator[Finding]:
    """Orders, limits and tolerances on diffusion models."""
    if solver.adaptive:
        yield from () if solver.stochastic else _tolerance(name, make)
    elif not solver.stochastic:
        yield from _flow(name, solver)
    elif is_general(solver) and not _by_table(solver):
        yield _simulated(name, gaussian_end(solver, d=1, samples=12800))
    else:
        yield from _law(name, solver, _is_slow(name))


def _is_slow(name: str) -> bool:
    return name.startswith("torchsde:")


def _by_table(solver: Solver) -> bool:
    """Whether its steps on a model are a table, and so affine in state and noise."""
    return type(solver).table is not FixedStepSolver.table if isinstance(solver, FixedStepSolver) else False


def _guarded(name: str, check_: str, found: Iterator[Finding]) -> Iterator[Finding]:
    """The findings; a solver that breaks while it is measured is one that fails, and the others are still measured."""
    try:
        yield from found
    except Exception as error:
        yield Finding(name, check_, "as it is run", "no error", f"{type(error).__name__}: {error}", False)


def _published(name: str) -> Iterator[Finding]:
    for reference in REFERENCES:
        if reference.name == name:
            error = check(reference)
            said = ", ".join(f"{k}={v!r}" for k, v in reference.options.items()) or "as it is"
            yield Finding(
                name, "published formula", said, reference.source, f"{error:.0e}", error <= reference.tolerance
            )


def _finite(name: str, solver: Solver, make: Callable[..., Solver]) -> Iterator[Finding]:
    if solver.adaptive and solver.stochastic:
        solver = make(rtol=_LOOSE, atol=_LOOSE)
    few = _is_slow(name) or (is_general(solver) and solver.stochastic and (solver.adaptive or not _by_table(solver)))
    made, bad = unfinished(solver, few=few)
    measured = f"{made} of {made} solves" if not bad else f"{len(bad)} of {made} failed; first: {bad[0]}"
    yield Finding(name, "finite", "N = 1 … 50, SDEs, grids", "finite", measured, not bad)


def _flow(name: str, solver: Solver) -> Iterator[Finding]:
    for on, order in zip(("Gaussian", "mixture"), flow_order(solver), strict=True):
        last = order.errors[-1]
        yield Finding(name, "limit", on, "the exact flow", f"{last:.0e}", last < _RIGHT, order)
        if solver.order is not None:
            yield _order(name, "order", on, solver.order, order)


def _law(name: str, solver: Solver, slow: bool) -> Iterator[Finding]:
    if solver.kind == "composition":  # not affine in its state: by simulation
        yield _simulated(name, gaussian_end(solver))
        return
    order = weak_order(solver, counts=_SLOW_COUNTS) if slow else weak_order(solver)
    last = order.errors[-1]
    yield Finding(name, "limit", "Gaussian", "the law", f"{last:.0e}", last < _RIGHT, order)
    if solver.weak_order is not None:
        yield _order(name, "weak order", "Gaussian", solver.weak_order, order)
    if solver.strong_order is not None and isinstance(solver, FixedStepSolver):
        strong = strong_order(solver)
        if strong is not None:
            yield _order(name, "strong order", "one Brownian path", solver.strong_order, strong)


def _simulated(name: str, found: tuple[float, float]) -> Finding:
    error, noise = found
    return Finding(name, "limit", "Gaussian", "the law", f"{error:.0e}", error < 3 * noise + 2 * _RIGHT)


def _order(name: str, check_: str, on: str, declared: float, order: Order) -> Finding:
    found = order.value
    # A strong order is the average over 400 paths: a little more room.
    room = _SHORT if check_ != "strong order" else _SHORT + 0.05
    return Finding(name, check_, on, f"{declared:g}", f"{found:.2f}", found >= declared - room, order)


def _tolerance(name: str, make: Callable[..., Solver]) -> Iterator[Finding]:
    tolerances = (1e-4, 1e-6, 1e-8)
    errors = [tolerance_error(make(rtol=tol, atol=tol)) for tol in tolerances]
    holds = errors[0] < 0.05 and errors[-1] < 1e-5 and errors[-1] < errors[0] / 100
    said = ", ".join(f"{e:.0e}" for e in errors)
    declared = "errors fall with " + ", ".join(f"{t:.0e}" for t in tolerances)
    yield Finding(name, "tolerance", "Gaussian and mixture", declared, said, holds and math.isfinite(errors[-1]))
