"""The work of a comparison: what is kept is read, what is missing is computed, by one thread or several."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdekit.errors import NonFiniteError, SdekitError
from sdekit.experiments.fingerprint import fingerprint
from sdekit.experiments.metrics import Metric, MetricValue, floor
from sdekit.experiments.plan import Cell, Plan, Subject, run_solver, starts
from sdekit.experiments.storage import CellStore, Kept
from sdekit.models import ScoreModel
from sdekit.solvers.catalogue import get
from sdekit.targets import Target

__all__ = ["CellDone", "Record", "Session"]

_IMAGES_KEPT = 40
_POINTS_KEPT = 500
"""How many samples of a run are kept for its sheet."""

_FORMAT = 1
_ADAPTIVE_GUESS = 60.0
_SECONDS_PER_PAIR = 1e-8
"""What an adaptive run is taken to evaluate, and a pair of samples in a floor to cost: for the progress bar only."""


@final
@dataclass(frozen=True)
class CellDone:
    """What the callback of `compare` is told when a cell is finished: the cell, and how many of all are done."""

    cell: Cell
    done: int
    total: int


@final
@dataclass(frozen=True, eq=False)
class Record:
    """The result of a cell: metrics by name, none of them if the run failed, and `status` says why.

    A run that succeeded lacks its flow error where the reference flow is not finite.
    """

    nfe: float
    seconds: float
    status: str
    metrics: dict[str, MetricValue] = field(default_factory=dict)

    def status_of(self, metric: str) -> str:
        """The status, or why a run that succeeded has no value of this metric."""
        lost = self.status == "success" and metric not in self.metrics
        return "the reference flow became non-finite" if lost else self.status


class _Interrupted(SdekitError):
    """Raised inside a worker's network call once the comparison has been told to stop."""


@final
@dataclass(frozen=True)
class _Job:
    name: str
    weight: float
    work: Callable[[], None]
    cell: Cell | None = None


@final
class Session:
    """Everything computed for a plan: `records` by cell, `floors` by (model, metric), `samples` by (model, solver)."""

    def __init__(self, plan: Plan, store: CellStore | None) -> None:
        self.plan, self._store = plan, store
        self.records: dict[Cell, Record] = {}
        self.samples: dict[tuple[str, str], Tensor] = {}
        self._floor_values: dict[tuple[str, str, int], NDArray[np.float64]] = {}
        # None for a flow error whose reference flow is not finite: the network's fault, so a failed row.
        self._measures: dict[tuple[str, str, int], Callable[[Tensor], MetricValue] | None] = {}
        self._stop = threading.Event()
        self._keys = _Keys(plan) if store is not None else None
        self._shown = _shown(plan)

    def _read(self, key: Callable[[_Keys], str]) -> Kept | None:
        """What the folder holds under a key, if there is a folder."""
        return None if self._store is None or self._keys is None else self._store.read(key(self._keys))

    def _write(self, key: Callable[[_Keys], str], record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        if self._store is not None and self._keys is not None:
            self._store.write(key(self._keys), record, tensors)

    @property
    def floors(self) -> dict[tuple[str, str], NDArray[np.float64]]:
        """What exact draws score, averaged over the seeds as the errors are: (floor_repeats,) by (model, metric)."""
        pairs = {(model, metric) for model, metric, _ in self._floor_values}
        return {p: np.mean([self._floor_values[*p, s] for s in self.plan.seeds], axis=0) for p in pairs}

    def run(self, workers: int, progress: bool, callback: Callable[[CellDone], None] | None) -> None:
        """Compute what is missing. Raises what the callback raises, KeyboardInterrupt included; finished cells stay."""
        missing = [cell for cell in self.plan.cells if not self._read_cell(cell)]
        cost: dict[str, float] = {}
        if progress and missing:
            cost = {s.label: _seconds_per_evaluation(s, self.plan.device) for s in self.plan.subjects.values()}

        def weight(cell: Cell) -> float:
            evaluations = cell.budget if cell.budget is not None else _ADAPTIVE_GUESS
            return evaluations * self.plan.subjects[cell.model].n * cost.get(cell.model, 0.0)

        opening = [*self._floor_jobs(), *self._preparations(missing, cost)]
        cells = [_Job(str(cell), weight(cell), self._cell_work(cell), cell) for cell in missing]
        total, done = len(self.plan.cells), len(self.plan.cells) - len(missing)
        with _bar(progress, opening + cells, done, total) as bar, _threads_shared_by(workers):

            def finished(job: _Job) -> None:
                nonlocal done
                done += job.cell is not None
                bar(job, done)
                if callback is not None and job.cell is not None:
                    callback(CellDone(job.cell, done, total))

            for stage in (opening, cells):
                self._run_jobs(stage, workers, finished)

    def _run_jobs(self, jobs: list[_Job], workers: int, finished: Callable[[_Job], None]) -> None:
        if workers == 1:
            for job in jobs:
                job.work()
                finished(job)
            return
        executor = ThreadPoolExecutor(workers, thread_name_prefix="sdekit-compare")
        try:
            futures = {executor.submit(job.work): job for job in jobs}
            for future in as_completed(futures):
                future.result()
                finished(futures[future])
        except BaseException:
            self._stop.set()
            raise
        finally:
            executor.shutdown(wait=True, cancel_futures=True)

    # Before the cells --------------------------------------------------------------------------------------------

    def _floor_jobs(self) -> list[_Job]:
        plan, jobs = self.plan, []
        for subject in plan.subjects.values():
            target = subject.reference
            if target is None:
                continue
            pairs = plan.floor_repeats * subject.n * (subject.n + plan.reference_n)
            for metric in subject.metrics:
                for seed in plan.seeds if metric.needs != "reference_flow" else ():
                    if not self._read_floor(subject, metric, seed):
                        name = f"{subject.label}, noise floor of {metric.title}, seed {seed}"
                        work = self._floor_work(subject, target, metric, seed)
                        jobs.append(_Job(name, pairs * _SECONDS_PER_PAIR, work))
        return jobs

    def _preparations(self, missing: list[Cell], cost: Mapping[str, float]) -> list[_Job]:
        """References that the missing cells are measured against: exact draws, and flows solved finely."""
        wanted = dict.fromkeys((c.model, m.name, c.seed) for c in missing for m in self.plan.metrics_of(c))
        jobs = []
        for label, name, seed in wanted:
            subject = self.plan.subjects[label]
            metric = next(m for m in subject.metrics if m.name == name)
            flow = metric.needs == "reference_flow"
            what = f"{label}, {'reference flow' if flow else f'reference for {metric.title}'}, seed {seed}"
            weight = 4 * self.plan.flow_steps * subject.n * cost.get(label, 0.0) if flow else 0.0
            jobs.append(_Job(what, weight, self._preparation_work(subject, metric, seed)))
        return jobs

    def _floor_work(self, subject: Subject, target: Target, metric: Metric, seed: int) -> Callable[[], None]:
        def work() -> None:
            found = floor(
                metric,
                lambda n, s: target.sample(n, seed=s),
                subject.n,
                self.plan.floor_repeats,
                seed=_other_seed(seed, "floor"),
                reference=self._reference(subject, metric, seed),
            )
            self._floor_values[subject.label, metric.name, seed] = found.values
            values = torch.from_numpy(found.values)
            self._write(lambda keys: keys.floor(subject, metric, seed), {"metric": metric.name}, {"values": values})

        return work

    def _read_floor(self, subject: Subject, metric: Metric, seed: int) -> bool:
        found = self._read(lambda keys: keys.floor(subject, metric, seed))
        if found is None:
            return False
        self._floor_values[subject.label, metric.name, seed] = found[1]["values"].numpy()
        return True

    def _preparation_work(self, subject: Subject, metric: Metric, seed: int) -> Callable[[], None]:
        def work() -> None:
            key = subject.label, metric.name, seed
            try:
                flow = metric.needs == "reference_flow"
                reference = self._flow(subject, seed) if flow else self._reference(subject, metric, seed)
            except NonFiniteError:
                self._measures[key] = None
            else:
                self._measures[key] = metric.against(reference)

        return work

    def _reference(self, subject: Subject, metric: Metric, seed: int) -> Tensor | None:
        """The exact draws that this seed's samples are measured against."""
        if subject.reference is None or metric.needs not in ("samples", "log_prob"):
            return None
        return subject.reference.sample(self.plan.reference_n, seed=_other_seed(seed, "reference"))

    def _flow(self, subject: Subject, seed: int) -> Tensor:
        """The probability flow's image of the seed's starts: RK4 with `flow_steps` steps, 4 evaluations each."""
        found = self._read(lambda keys: keys.flow(subject, seed))
        if found is not None:
            return found[1]["x"]
        x = starts(self.plan, subject, seed)
        model = self._watched(subject.model)
        end = run_solver(
            get("rk4"),
            model,
            x,
            steps=self.plan.flow_steps,
            seed=seed,
            t_end=self.plan.t_end,
            sampling={"grid": "log_snr"},
        ).x.cpu()
        self._write(lambda keys: keys.flow(subject, seed), {"solver": "rk4", "steps": self.plan.flow_steps}, {"x": end})
        return end

    # The cells ---------------------------------------------------------------------------------------------------

    def _cell_work(self, cell: Cell) -> Callable[[], None]:
        def work() -> None:
            record, x = self._compute(cell)
            if x is not None and cell in self._shown:
                count = _IMAGES_KEPT if x.ndim == 4 else _POINTS_KEPT
                self._write_samples(cell, x[:count].clone())
            self._write_cell(cell, record)

        return work

    def _compute(self, cell: Cell) -> tuple[Record, Tensor | None]:
        plan = self.plan
        subject, contender = plan.subjects[cell.model], plan.contenders[cell.solver]
        x = starts(plan, subject, cell.seed)
        begin = time.perf_counter()
        try:
            out = run_solver(
                plan.solver(cell),
                self._watched(subject.model),
                x,
                steps=cell.steps,
                seed=cell.seed,
                t_end=plan.t_end,
                sampling=contender.sampling,
            )
        except NonFiniteError as error:
            return Record(float("nan"), time.perf_counter() - begin, str(error)), None
        end = out.x.cpu()
        seconds = time.perf_counter() - begin
        if out.status != "success":
            return Record(out.nfe, seconds, f"the solver ended early: {out.status}"), None
        if not bool(torch.isfinite(end).all()):
            return Record(out.nfe, seconds, "samples hold NaN or infinite values"), None
        measures = {m.name: self._measures[cell.model, m.name, cell.seed] for m in plan.metrics_of(cell)}
        return Record(out.nfe, seconds, "success", {name: f(end) for name, f in measures.items() if f}), end

    def _watched(self, model: ScoreModel) -> ScoreModel:
        """The model with a network that raises once the comparison is to stop, so that no worker outlives it."""
        network, stop = model.network, self._stop

        def watched(x: Tensor, t: Tensor, **condition: Any) -> Tensor:
            if stop.is_set():
                raise _Interrupted("the comparison was stopped.")
            return network(x, t, **condition)

        return model.with_network(watched, needs_autograd=model.needs_autograd)

    def _write_cell(self, cell: Cell, record: Record) -> None:
        self.records[cell] = record
        metrics = {
            name: {"value": m.value, "standard_error": m.standard_error, "interval": m.interval}
            for name, m in record.metrics.items()
        }
        fields = {"cell": str(cell), "nfe": record.nfe, "seconds": record.seconds, "status": record.status}
        contributions = {
            name: torch.from_numpy(m.contributions) for name, m in record.metrics.items() if m.contributions is not None
        }
        self._write(lambda keys: keys.cell(cell), {**fields, "metrics": metrics}, contributions)

    def _read_cell(self, cell: Cell) -> bool:
        found = self._read(lambda keys: keys.cell(cell))
        if found is None:
            return False
        record, contributions = found
        if cell in self._shown and record["status"] == "success":
            kept = self._read(lambda keys: keys.samples(cell))
            if kept is None:
                return False
            self.samples[cell.model, cell.solver] = kept[1]["x"]
        metrics = {
            name: MetricValue(
                m["value"],
                m["standard_error"],
                None if m["interval"] is None else (m["interval"][0], m["interval"][1]),
                contributions[name].numpy() if name in contributions else None,
            )
            for name, m in record["metrics"].items()
        }
        self.records[cell] = Record(record["nfe"], record["seconds"], record["status"], metrics)
        return True

    def _write_samples(self, cell: Cell, x: Tensor) -> None:
        self.samples[cell.model, cell.solver] = x
        self._write(lambda keys: keys.samples(cell), {"cell": str(cell)}, {"x": x})


@final
class _Keys:
    """Digests of everything that determines a result, labels left out: equal keys, equal results."""

    def __init__(self, plan: Plan) -> None:
        import sdekit

        self._plan = plan
        self._common = {
            "format": _FORMAT,
            "sdekit": sdekit.__version__,
            "t_end": plan.t_end,
            "device": str(plan.device),
            "flow_steps": plan.flow_steps,
            "reference_n": plan.reference_n,
        }
        self._models = {label: fingerprint(s.model) for label, s in plan.subjects.items()}
        self._references = {label: fingerprint(s.reference) for label, s in plan.subjects.items()}

    def cell(self, cell: Cell) -> str:
        plan = self._plan
        return self._key(
            "cell",
            plan.subjects[cell.model],
            cell.seed,
            model=self._models[cell.model],
            solver=plan.solver(cell),
            sampling=dict(plan.contenders[cell.solver].sampling),
            steps=cell.steps,
            metrics={m.name: m for m in plan.metrics_of(cell)},
        )

    def samples(self, cell: Cell) -> str:
        return f"{self.cell(cell)}.samples"

    def flow(self, subject: Subject, seed: int) -> str:
        return self._key("flow", subject, seed, model=self._models[subject.label])

    def floor(self, subject: Subject, metric: Metric, seed: int) -> str:
        return self._key("floor", subject, seed, metric=metric, repeats=self._plan.floor_repeats)

    def _key(self, kind: str, subject: Subject, seed: int, **what: Any) -> str:
        reference = self._references[subject.label]
        own = {"kind": kind, "seed": seed, "n": subject.n, "shape": subject.shape, "reference": reference}
        return fingerprint({**self._common, **own, **what})[:32]


def _shown(plan: Plan) -> set[Cell]:
    """The cells whose samples go on a sheet: each solver's first seed, at the largest budget or least tolerance."""
    best: dict[tuple[str, str], Cell] = {}
    for cell in plan.cells:
        pair = (cell.model, cell.solver)
        if cell.seed != plan.seeds[0]:
            continue
        rank = (cell.budget or 0, -(cell.tolerance or 0.0))
        if pair not in best or rank > (best[pair].budget or 0, -(best[pair].tolerance or 0.0)):
            best[pair] = cell
    return set(best.values())


def _other_seed(seed: int, purpose: str) -> int:
    """A seed of its own for each purpose, so that exact draws share nothing with the starts."""
    return int(np.random.SeedSequence([seed, *purpose.encode()]).generate_state(1)[0])


def _seconds_per_evaluation(subject: Subject, device: torch.device) -> float:
    """A rough cost, for the progress bar."""
    batch = min(subject.n, 16)
    model = subject.model.part(0, batch, subject.n)
    x = torch.zeros(batch, *subject.shape, dtype=model.placement[0], device=device)
    with torch.no_grad():
        model.predict(model.prediction, x, model.sde.t_max)  # the first call is slower
        begin = time.perf_counter()
        model.predict(model.prediction, x, model.sde.t_max)
    return (time.perf_counter() - begin) / batch


@contextmanager
def _threads_shared_by(workers: int) -> Iterator[None]:
    """torch's own threads divided among the workers: more threads than cores wait for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, before // workers))
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _bar(wanted: bool, jobs: list[_Job], done: int, total: int) -> Iterator[Callable[[_Job, int], None]]:
    """A bar of estimated work on the error stream, or nothing."""
    if not wanted:
        yield lambda job, done: None
        return
    import sys

    from tqdm import tqdm

    layout = "{percentage:3.0f}% |{bar:24}| {elapsed} < {remaining}  {desc}"
    whole = sum(job.weight for job in jobs) or 1.0
    with tqdm(total=whole, bar_format=layout, file=sys.stderr, leave=False, dynamic_ncols=True) as bar:
        bar.set_description_str(f"{done} of {total} cells kept" if done else f"{total} cells")

        def advance(job: _Job, done: int) -> None:
            bar.set_description_str(f"{done} of {total} cells; {job.name}", refresh=False)
            bar.update(job.weight)

        yield advance
