"""`compare`: many solvers on one or several models, from the same starts, as one table."""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdekit._tensors import check_positive_integer
from sdekit.errors import ArgumentError, UnknownNameError
from sdekit.experiments.contenders import DEFAULT_SOLVERS, Loop, SolverLike
from sdekit.experiments.metrics import BUILT_IN, CONFIDENCE, Metric, MetricValue
from sdekit.experiments.pictures import can_show, picture
from sdekit.experiments.plan import Cell, Plan, make_plan
from sdekit.experiments.provenance import provenance, versions
from sdekit.experiments.session import CellDone, Record, Session
from sdekit.experiments.statistics import Interval, Statistic, mean_with_ci, paired_difference, pareto_front
from sdekit.experiments.storage import CellStore, check_writable, write_atomically
from sdekit.models import ScoreModel
from sdekit.targets import Target

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from PIL import Image
    from rich.console import Console

__all__ = ["CellDone", "Loop", "Report", "compare"]

_NORMAL_QUANTILE = 1.959963984540054
_COLUMNS_ON_SHEET = 10
_TABLE_WIDTH = 100
"""Columns that the printed table needs."""


def compare(
    models: Mapping[str, ScoreModel] | ScoreModel,
    solvers: Sequence[SolverLike] = DEFAULT_SOLVERS,
    nfe: Sequence[int] | NDArray[np.int64] | Tensor = (10, 20, 50),
    seeds: int | Sequence[int] | NDArray[np.int64] | Tensor = 3,
    *,
    reference: Target | Mapping[str, Target] | None = None,
    metrics: Sequence[str | Metric] | Mapping[str, Sequence[str | Metric]] | None = None,
    n: int | Mapping[str, int] = 500,
    tolerances: Sequence[float] | NDArray[np.float64] | Tensor = (1e-1, 1e-2, 1e-4),
    t_end: float | None = None,
    reference_n: int = 2000,
    flow_steps: int = 50,
    floor_repeats: int = 100,
    out: str | Path | None = None,
    workers: int = 1,
    device: torch.device | str = "cpu",
    progress: bool = False,
    callback: Callable[[CellDone], None] | None = None,
    note: str = "",
) -> Report:
    """Run every solver on every model, at every budget and seed, and measure the samples.

    With one seed all solvers start from the same prior draw, the one of `sample(…, seed=seed)`. A budget becomes the
    most steps whose counted evaluations stay within it; the NFE reported is counted in the run itself. A run that
    becomes non-finite, or ends early, is a failed row (NaN) and not an error; so is a flow error whose reference flow
    becomes non-finite.

    Args:
        models: ScoreModels by name, or one. A model with a condition keeps it: batch-first tensors must have n rows.
        solvers: names (`sdekit solvers`, and "diffusers:step_pred"), Solvers, or (label, solver, options), where the
            solver is a name, a Solver or a `Loop`, and the options are the solver's, `grid` and `denoise`.
        nfe: budgets of evaluations for the solvers with fixed steps.
        seeds: how many (0, 1, …), or which.
        reference: the target that the models should sample from, for all of them or by model. Its exact draws are what
            samples are measured against (a new set for each seed) and what the noise floor comes from.
        metrics: names ("energy_distance", "sliced_wasserstein", "mmd", "log_density_gap", "flow_error") or Metrics, for
            all models or by model; energy distance and flow error unless given. The flow error, the distance to a fine
            solve of the probability flow from the same starts, is for deterministic solvers.
        n: samples of each run; at least 8.
        tolerances: rtol = atol of the adaptive solvers given by name; their counted NFE is their place on the axis.
        t_end: where all solves end; `t_min` of each SDE unless given.
        reference_n: exact draws in each reference set.
        flow_steps: RK4 steps, of 4 evaluations, of the fine solve.
        floor_repeats: exact sets behind each noise floor.
        out: a folder. Each finished cell is kept there, and the same call (in any later process) takes it from there.
        workers: cells computed side by side, by threads; torch's own threads are divided among them meanwhile.
        device: where the models live.
        progress: show a bar on the error stream.
        callback: called with a CellDone after each cell; what it raises ends the comparison, finished cells kept.
        note: what a reader of the report should know besides its settings.

    Raises:
        ArgumentError, ShapeError, UnknownNameError: for input that makes no sense, or a folder that cannot be written
            to, before any evaluation.
        UnsupportedError: if a solver cannot serve a model, before any evaluation.
    """
    check_positive_integer("workers", workers)
    plan = make_plan(
        models,
        solvers,
        nfe,
        seeds,
        reference=reference,
        metrics=metrics,
        n=n,
        tolerances=tolerances,
        t_end=t_end,
        reference_n=reference_n,
        flow_steps=flow_steps,
        floor_repeats=floor_repeats,
        device=device,
    )
    session = Session(plan, None if out is None else CellStore(out))
    session.run(workers, progress, callback)
    return Report(plan, session, None if out is None else Path(out), note)


@final
class Report:
    """What `compare` returns.

    Attributes:
        table: a row for each model, solver, budget (or tolerance) and metric, over all seeds. `value` is the mean over
            the seeds of the metric; `low` and `high` are its 95 % interval, `floor_low` and `floor_high` the middle
            95 % of what exact draws score, `nfe` the evaluations counted, `seconds` the wall-clock time of one run of
            n samples (both means over the seeds). A failed run makes its row's value NaN; `failed` counts them.
        by_seed: the same, a row for each seed.
        settings: what was asked for, as JSON values.
    """

    def __init__(self, plan: Plan, session: Session, folder: Path | None, note: str) -> None:
        self._plan, self._session, self._folder, self._note = plan, session, folder, note

    @functools.cached_property
    def table(self) -> pd.DataFrame:
        import pandas as pd

        return pd.DataFrame(list(self._rows()))

    @functools.cached_property
    def by_seed(self) -> pd.DataFrame:
        import pandas as pd

        return pd.DataFrame(list(self._seed_rows()))

    @functools.cached_property
    def settings(self) -> dict[str, Any]:
        plan = self._plan
        return {
            "models": {
                label: {
                    "sde": repr(s.model.sde),
                    "n": s.n,
                    "condition": sorted(s.model.condition),
                    "reference": None if s.reference is None else repr(s.reference),
                    "metrics": [m.name for m in s.metrics],
                }
                for label, s in plan.subjects.items()
            },
            "solvers": {label: self._settings_of(label) for label in plan.contenders},
            "nfe": list(plan.nfe),
            "tolerances": list(plan.tolerances),
            "seeds": list(plan.seeds),
            "t_end": "t_min of the SDE" if plan.t_end is None else plan.t_end,
            "reference_n": plan.reference_n,
            "flow_reference": f"rk4, {plan.flow_steps} steps, {4 * plan.flow_steps} evaluations",
            "floor_repeats": plan.floor_repeats,
            "device": str(plan.device),
            **({"note": self._note} if self._note else {}),
        }

    def pareto(self, cost: str = "nfe") -> pd.DataFrame:
        """The rows of `table` that no other beats in both error and cost, by model and metric.

        Args:
            cost: "nfe" or "seconds".
        """
        import pandas as pd

        if cost not in ("nfe", "seconds"):
            raise UnknownNameError("cost", cost, ("nfe", "seconds"))
        table = self._measured()
        fronts = []
        for (_, metric), rows in table.groupby(["model", "metric"], sort=False):
            error = rows["value"].abs() if self._kinds()[str(metric)].signed else rows["value"]
            front = pareto_front(np.stack([rows[cost].to_numpy(float), error.to_numpy(float)], axis=1))
            fronts.append(rows.iloc[front])
        return pd.concat(fronts, ignore_index=True)

    def difference(
        self, a: str, b: str, *, nfe: int, metric: str = "energy_distance", model: str | None = None
    ) -> Interval:
        """Error of solver a less that of solver b at a budget, paired sample by sample over all seeds.

        Both started from the same draws and were measured against the same reference, so what they share cancels.

        Raises:
            UnknownNameError: for a name that is not in this comparison.
            ArgumentError: if a run failed, or the metric has no value for each sample.
        """
        first = self._contributions(a, nfe, metric, model)
        second = self._contributions(b, nfe, metric, model)
        statistic: Statistic = "median" if metric == "flow_error" else "mean"
        return paired_difference(first, second, statistic)

    def figures(self) -> dict[str, Figure]:
        """Error against NFE and against seconds, by caption."""
        from sdekit.experiments.plots import error_against_nfe, error_against_seconds

        frame, kinds = self._measured(), tuple(self._kinds().values())
        figures = {
            "Error against network evaluations": error_against_nfe(frame, kinds),
            "Error against seconds": error_against_seconds(frame, kinds),
        }
        for figure in figures.values():
            figure.draw_without_rendering()
            figure.set_layout_engine("none")  # laid out once, not again for each file
        return figures

    def sheets(self) -> dict[str, Image.Image]:
        """Samples of every solver at its largest budget (or least tolerance), the first ones of the first seed.

        For each model exact draws of its reference come first. Models whose samples have no picture have no sheets.
        """
        return dict(self._sheets())

    def print(self, console: Console | None = None) -> None:
        """Print the table: solver, NFE counted, error, its interval, the floor, seconds."""
        from rich.console import Console

        from sdekit.experiments.report import print_table

        if console is None:
            width = Console().width
            # Better a line that a narrow terminal wraps than a number cut short.
            console = Console(width=max(width, _TABLE_WIDTH))
        print_table(self._measured(), console, tuple(self._kinds().values()))

    def save(self, folder: str | Path | None = None) -> Path:
        """Write results (CSV, Parquet), plots (PNG, SVG), sheets (PNG), settings (JSON) and one page with all of it.

        Args:
            folder: where to; the folder of the cells unless given.

        Returns:
            The folder: report.html, results.csv, results.parquet, by_seed.csv, by_seed.parquet, settings.json,
            error_against_nfe.png and .svg, error_against_seconds.png, sheets/.

        Raises:
            ArgumentError: if there is no folder, or it cannot be written to.
        """
        from sdekit.experiments.images import save_png
        from sdekit.experiments.report import write_report

        place = folder if folder is not None else self._folder
        if place is None:
            raise ArgumentError("say where to: report.save(folder).")
        path = check_writable(place)
        for name, frame in (("results", self.table), ("by_seed", self.by_seed)):
            write_atomically(path / f"{name}.csv", frame.to_csv(index=False).encode())
            write_atomically(path / f"{name}.parquet", frame.to_parquet(index=False))
        record = provenance(self.settings)
        write_atomically(path / "settings.json", (json.dumps(record, indent=2) + "\n").encode())
        figures, sheets = self.figures(), self.sheets()
        against_nfe, against_seconds = figures.values()
        against_nfe.savefig(path / "error_against_nfe.png")
        against_nfe.savefig(path / "error_against_nfe.svg", metadata={"Date": None})
        against_seconds.savefig(path / "error_against_seconds.png")
        for caption, image in sheets.items():
            save_png(image, path / "sheets" / f"{_file_name(caption)}.png", {"sdekit": versions()["sdekit"]})
        shown = {**self.settings, "created": record["created"]}
        write_report(path, self._measured(), figures, sheets, shown, versions(), tuple(self._kinds().values()))
        return path

    def __repr__(self) -> str:
        plan = self._plan
        return (
            f"Report({len(plan.contenders)} solvers on {', '.join(plan.subjects)}: {len(self.table)} rows from "
            f"{len(plan.cells)} runs)"
        )

    # Rows --------------------------------------------------------------------------------------------------------

    def _groups(self) -> Iterator[tuple[Cell, Metric, list[Record]]]:
        """For each model, solver, budget and metric: one of its cells, the metric, the records of its seeds."""
        plan, records = self._plan, self._session.records
        for label, subject in plan.subjects.items():
            for metric in subject.metrics:
                for solver in plan.contenders:
                    for cell in plan.cells:
                        if (cell.model, cell.solver, cell.seed) != (label, solver, plan.seeds[0]):
                            continue
                        if metric not in plan.metrics_of(cell):
                            continue
                        same = [
                            Cell(label, solver, seed, cell.budget, cell.steps, cell.tolerance) for seed in plan.seeds
                        ]
                        yield cell, metric, [records[c] for c in same]

    def _rows(self) -> Iterator[dict[str, Any]]:
        floors = self._session.floors
        for cell, metric, records in self._groups():
            values = [r.metrics[metric.name] for r in records if metric.name in r.metrics]
            whole = len(values) == len(records)
            value, error, low, high = _over_seeds(values) if whole else (math.nan,) * 4
            floor_values = floors.get((cell.model, metric.name))
            ends = ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)
            floor = (math.nan, math.nan) if floor_values is None else np.quantile(floor_values, ends)
            yield {
                **self._names(cell),
                "nfe": float(np.mean([r.nfe for r in records])),
                "metric": metric.name,
                "value": value,
                "low": low,
                "high": high,
                "standard_error": error,
                "floor_low": float(floor[0]),
                "floor_high": float(floor[1]),
                "seconds": float(np.mean([r.seconds for r in records])),
                "n": self._plan.subjects[cell.model].n,
                "seeds": len(records),
                "failed": len(records) - len(values),
            }

    def _seed_rows(self) -> Iterator[dict[str, Any]]:
        for cell, metric, records in self._groups():
            for seed, record in zip(self._plan.seeds, records, strict=True):
                found = record.metrics.get(metric.name, MetricValue(math.nan, None, None, None))
                low, high = found.interval or (math.nan, math.nan)
                yield {
                    **self._names(cell),
                    "seed": seed,
                    "nfe": float(record.nfe),
                    "metric": metric.name,
                    "value": found.value,
                    "low": low,
                    "high": high,
                    "standard_error": math.nan if found.standard_error is None else found.standard_error,
                    "seconds": record.seconds,
                    "n": self._plan.subjects[cell.model].n,
                    "status": record.status_of(metric.name),
                }

    def _names(self, cell: Cell) -> dict[str, Any]:
        return {
            "model": cell.model,
            "solver": cell.solver,
            "kind": "sde" if self._plan.solver(cell).stochastic else "ode",
            "budget": math.nan if cell.budget is None else float(cell.budget),
            "steps": math.nan if cell.steps is None else float(cell.steps),
            "tolerance": math.nan if cell.tolerance is None else cell.tolerance,
        }

    def _measured(self) -> pd.DataFrame:
        """The table for reports: of two tolerances that made equally many evaluations only the tighter."""
        key = ["model", "solver", "metric", "budget", "nfe"]
        return self.table.drop_duplicates(key, keep="last").reset_index(drop=True)

    def _kinds(self) -> dict[str, type[Metric]]:
        """The classes of this comparison's metrics by name, those of the package among them."""
        own = {m.name: type(m) for s in self._plan.subjects.values() for m in s.metrics}
        return {**{m.name: m for m in BUILT_IN}, **own}

    def _contributions(self, solver: str, nfe: int, metric: str, model: str | None) -> np.ndarray:
        plan = self._plan
        if model is None and len(plan.subjects) > 1:
            raise ArgumentError(f"say which model: {', '.join(plan.subjects)}.")
        label = next(iter(plan.subjects)) if model is None else model
        for kind, name, known in (("model", label, plan.subjects), ("solver", solver, plan.contenders)):
            if name not in known:
                raise UnknownNameError(kind, name, known)
        cells = [c for c in plan.cells if (c.model, c.solver, c.budget) == (label, solver, nfe)]
        if not cells:
            raise ArgumentError(f"solver {solver!r} was not run at a budget of {nfe!r}; there are {list(plan.nfe)}.")
        parts = []
        for cell in sorted(cells, key=lambda c: plan.seeds.index(c.seed)):
            found = self._session.records[cell].metrics.get(metric)
            if found is None or found.contributions is None:
                raise ArgumentError(f"{cell} has no value of {metric!r} for each sample: {self._why(cell, metric)}.")
            parts.append(found.contributions)
        return np.concatenate(parts)

    def _why(self, cell: Cell, metric: str) -> str:
        if metric not in (m.name for m in self._plan.metrics_of(cell)):
            return "it was not measured"
        status = self._session.records[cell].status_of(metric)
        return "it is measured on the whole set" if status == "success" else status

    def _settings_of(self, label: str) -> dict[str, Any]:
        contender = self._plan.contenders[label]
        solver = contender.at()
        if isinstance(solver, Loop):
            what = {"loop": solver.reference or "a function"}
        else:
            what = {"solver": f"{solver.name} at each tolerance" if contender.takes_tolerance else repr(solver)}
        return {**what, **{name: str(value) for name, value in contender.sampling.items()}}

    def _sheets(self) -> Iterator[tuple[str, Image.Image]]:
        for label, subject in self._plan.subjects.items():
            if not can_show(subject.shape):
                continue
            found = {s: x for (m, s), x in self._session.samples.items() if m == label}
            count = max((len(x) for x in found.values()), default=0)
            if subject.reference is not None and count:
                yield f"{label}: draws of the reference", _picture(subject.reference.sample(count, seed=0))
            for solver in self._plan.contenders:
                if solver in found:
                    yield f"{label}: {solver}, {self._effort(label, solver)}", _picture(found[solver])

    def _effort(self, model: str, solver: str) -> str:
        rows = self.table[(self.table["model"] == model) & (self.table["solver"] == solver)]
        return f"{rows['nfe'].max():.0f} NFE"


def _over_seeds(values: Sequence[MetricValue]) -> tuple[float, float, float, float]:
    """The mean over seeds, its standard error, and its 95 % interval.

    Each seed has its own samples and its own reference, so the errors are independent: se^2 = sum se_i^2 / S^2. A
    metric without a standard error of its own has Student's interval over two seeds or more, and none over one.
    """
    if len(values) == 1:
        only = values[0]
        low, high = only.interval or (math.nan, math.nan)
        return only.value, math.nan if only.standard_error is None else only.standard_error, low, high
    errors = [v.standard_error for v in values if v.standard_error is not None]
    if len(errors) < len(values):
        found = mean_with_ci([v.value for v in values], CONFIDENCE)
        return found.value, found.standard_error, found.low, found.high
    mean = float(np.mean([v.value for v in values]))
    error = math.sqrt(sum(e * e for e in errors)) / len(values)
    return mean, error, mean - _NORMAL_QUANTILE * error, mean + _NORMAL_QUANTILE * error


def _picture(samples: Tensor) -> Image.Image:
    return picture(samples, _COLUMNS_ON_SHEET if samples.ndim == 4 else None)


def _file_name(caption: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "_", caption).strip("_")
