"""Adaptive steps for any embedded method, on SDEs and ODEs, each sample its own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor

from sdekit._tensors import check_number, check_positive, check_positive_integer, expand_right, per_sample_rms
from sdekit.dynamics import Dynamics
from sdekit.errors import ArgumentError
from sdekit.noise.as_path import as_path
from sdekit.noise.brownian import Increment
from sdekit.sdes import Calculus, NoiseKind
from sdekit.solvers.adaptive_loop import Attempt, Controller, PairStepper, Stopped, run_adaptive
from sdekit.solvers.base import AdaptiveSolver, Observers, Problem
from sdekit.solvers.dense import StepRecorder
from sdekit.solvers.embedded import EmbeddedSolver, Pair
from sdekit.solvers.events import Event, Inside, Interpolated, OnPath, PathHalves, Restepped, locate
from sdekit.solvers.every_step import EveryStep
from sdekit.solvers.solution import Solution, Status
from sdekit.solvers.step import ends_at_zero

if TYPE_CHECKING:
    from sdekit.noise.path import BrownianPath

__all__ = ["Adaptive"]

# Steps grow by the error now and the one before, with the gains that Foster & Jelincic use for SDEs; an ODE's by the
# error alone.
_SDE_GAINS = (0.1, 0.3)


@final
@dataclass(frozen=True, repr=False)
class Adaptive(AdaptiveSolver):
    r"""Any embedded method with the steps that its error estimate asks for, each sample its own.

    A step is accepted where rms(error/(atol + rtol max(|x|, |x'|))) <= 1, over the entries of its sample. On an SDE a
    rejected step is tried again, shorter, on the same Brownian path, bridged: redrawing its noise would favour the
    increments that happen to be accepted, and is badly biased (METHODS: variance 0.177 for 0.2499). The path is that of
    the seed, whatever the tolerance and the method. Steps end where the path is cheap to know, up to a sixteenth away
    from where the controller would have them; the end and the times to be kept are landed on exactly.

    Args:
        method: the embedded method.
        rtol: relative tolerance of a step; 1e-2 for an SDE and 1e-3 for an ODE unless given.
        atol: absolute tolerance of a step; 1e-2 for an SDE and 1e-6 for an ODE unless given.
        h_init: the length of the first step; from the size of the first drift and diffusion unless given.
        h_min: the least step; a sample that would need a shorter one ends with the status "min_step".
        max_nfe: the drift evaluations allowed to each sample, never exceeded; one that would need more ends with status
            "max_nfe" where its last step did, and an event is located as finely as they allow. No limit unless given.
        proportional, integral, derivative: the controller's gains; (0.1, 0.3, 0) for an SDE and (0, 1, 0) for an ODE
            unless given.

    Soderlind 2003 (control); Rackauckas & Nie 2017 (rejection without bias); Foster & Jelincic 2024, arXiv 2311.14201.
    """

    method: EmbeddedSolver
    rtol: float | None = None
    atol: float | None = None
    h_init: float | None = None
    h_min: float = 0.0
    max_nfe: int | None = None
    proportional: float | None = None
    integral: float | None = None
    derivative: float = 0.0

    kind = "step"

    def __post_init__(self) -> None:
        if not isinstance(self.method, EmbeddedSolver):
            raise ArgumentError(f"method must be a solver with an embedded error, got {self.method!r}.")
        rtol, atol = self.tolerances
        if rtol == 0:
            check_positive("atol, where rtol is 0,", atol)
        for name, value in (("rtol", rtol), ("atol", atol), ("h_min", self.h_min)):
            if not check_number(name, value) >= 0:
                raise ArgumentError(f"{name} must be 0 or more, got {value!r}.")
        if self.h_init is not None:
            check_positive("h_init", self.h_init)
        if self.max_nfe is not None:
            check_positive_integer("max_nfe", self.max_nfe)
        check_number("derivative", self.derivative)
        for name in ("proportional", "integral"):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name))

    @property
    def tolerances(self) -> tuple[float, float]:
        """rtol and atol, as they are given or by the kind of the method."""
        rtol, atol = (1e-2, 1e-2) if self.stochastic else (1e-3, 1e-6)
        return rtol if self.rtol is None else self.rtol, atol if self.atol is None else self.atol

    @property
    def name(self) -> str:
        return f"adaptive:{self.method.name}"

    @property
    def stochastic(self) -> bool:
        return self.method.stochastic

    @property
    def order(self) -> float | None:  # type: ignore[override]
        return self.method.order

    @property
    def strong_order(self) -> float | None:  # type: ignore[override]
        return self.method.strong_order

    @property
    def weak_order(self) -> float | None:  # type: ignore[override]
        return self.method.weak_order

    @property
    def strong_orders(self) -> tuple[tuple[NoiseKind, float], ...]:  # type: ignore[override]
        return self.method.strong_orders

    @property
    def weak_orders(self) -> tuple[tuple[NoiseKind, float], ...]:  # type: ignore[override]
        return self.method.weak_orders

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.method.needs

    @property
    def noise_kinds(self) -> tuple[NoiseKind, ...]:  # type: ignore[override]
        return self.method.noise_kinds

    @property
    def calculus(self) -> tuple[Calculus, ...]:  # type: ignore[override]
        return self.method.calculus

    @property
    def differentiates(self) -> bool:  # type: ignore[override]
        return self.method.differentiates

    @property
    def dense(self) -> bool:  # type: ignore[override]
        return self.method.dense_order is not None

    @property
    def reference(self) -> str:  # type: ignore[override]
        return self.method.reference

    def check(self, dynamics: Dynamics) -> None:
        super().check(dynamics)
        self.method.check(dynamics)
        self.method.check_adaptive(dynamics)

    def integrate(self, problem: Problem, observers: Observers | None = None) -> Solution:
        self.check(problem.dynamics)
        # The samples that are under way are gathered from the batch, row by row: with another layout than that of the
        # start, functions may round otherwise.
        problem = replace(problem, x=problem.x.contiguous())
        for t in (float(problem.times[0]), float(problem.times[-1])):
            if ends_at_zero(problem.dynamics, t):
                raise ArgumentError(
                    f"solver {self.name!r} would evaluate the score at t = {t:g}, where sigma = 0 and it is infinite; "
                    "stop short of it, or take a fixed-step solver, which ends there in one exact step."
                )
        watch, times = observers or Observers(), problem.times
        recorder: StepRecorder | None = None
        every = (
            EveryStep(problem.x, times[0]) if watch.trajectory and watch.places is None and len(times) == 2 else None
        )
        saves = watch.trajectory and every is None
        places = times
        if self.dense and watch.event is None:
            # The values at the times between are interpolated: no step is cut short for them.
            places = times[[0, -1]]
            if saves or watch.dense:
                recorder = StepRecorder(times, problem.x, saves=saves, dense=watch.dense)
        dynamics = problem.dynamics.counted()
        autograd = dynamics.needs_autograd or self.differentiates
        with torch.no_grad() if autograd else torch.inference_mode():
            stepper = _EmbeddedStepper(self.method, dynamics, problem, recorder, watch.event, every)
            first: float | Tensor
            if self.h_init is None or self.method.first_is_last:
                f = stepper.begin(problem.x, times[0])
            first = stepper.first_steps(problem.x, f, places, self) if self.h_init is None else self.h_init
            run, kept = run_adaptive(
                self.name,
                stepper,
                self._controller(dynamics, first),
                problem.x,
                places,
                time_of=float,
                max_nfe=self.max_nfe,
                progress=watch.progress,
                spent=stepper.spent,
            )
        failed = torch.tensor([s not in ("success", "event") for s in run.status], dtype=torch.bool, device="cpu")
        stopped = torch.tensor([s == "event" for s in run.status], dtype=torch.bool, device="cpu")
        worst: Status = next((s for s in run.status if s not in ("success", "event")), "success")
        last = float(times[-1])
        if bool(failed.any()):
            last = float(run.at[(run.at - times[-1]).abs().where(failed, -1.0).argmax()])
        elif bool(stopped.all()):
            last = float(run.at[(run.at - times[0]).abs().argmax()])
        if worst == "success" and bool(stopped.any()):
            worst = "event"
        trajectory, trajectory_times = None, None
        if every is not None:
            trajectory, trajectory_times = every.trajectory(run.x, run.at)
        elif watch.trajectory:
            trajectory = torch.stack(kept) if recorder is None else recorder.trajectory(run.x, run.at)
            trajectory_times = times[: len(trajectory)]
        return Solution(
            x=run.x.clone(),
            t=last,
            nfe=run.nfe,
            status=worst,
            times=times,
            trajectory=trajectory,
            trajectory_times=trajectory_times,
            stats={
                "steps": run.accepted.tolist(),
                "rejected": run.rejected.tolist(),
                "status": run.status,
                "t": run.at.tolist(),
            },
            dense=recorder.output(run.at) if recorder is not None and watch.dense else None,
            event_times=None if watch.event is None else run.at.where(stopped, torch.nan),
        )

    def _controller(self, dynamics: Dynamics, first: float | Tensor) -> Controller:
        p, i = _SDE_GAINS if dynamics.stochastic else (0.0, 1.0)
        return Controller(
            *self.tolerances,
            self.method.error_order,
            first,
            smallest=self.h_min,
            proportional=p if self.proportional is None else self.proportional,
            integral=i if self.integral is None else self.integral,
            derivative=self.derivative,
            cautious=not dynamics.stochastic,
            max_factor=5.0 if dynamics.stochastic else 10.0,
        )


@final
class _EmbeddedStepper(PairStepper):
    """An embedded method on some rows of a batch, each from its own time to its own time, on the batch's path."""

    def __init__(
        self,
        method: EmbeddedSolver,
        dynamics: Dynamics,
        problem: Problem,
        recorder: StepRecorder | None,
        event: Event | None,
        every: EveryStep | None,
    ) -> None:
        self._method, self._dynamics, self._shape = method, dynamics, tuple(problem.x.shape)
        self._recorder, self._every = recorder, every
        # Parameters that do not fit are told here.
        self._event = None if event is None else event.rows(slice(None), self._shape[0])
        self._tried: tuple[Tensor, Tensor, Tensor, Pair] | None = None
        # Where a step's evaluations vary they are counted, and told by `taken`.
        self._varies = method.evaluations_per_step is None
        self._counted: int | Tensor = 0
        self.evaluations = 0 if self._varies else method.most_evaluations
        self.reserve = (0 if recorder is None else method.dense_evaluations) + (
            method.most_evaluations if self._varies else 0
        )
        self.spent = 0
        self._firsts: Tensor | None = None
        self._lasts: Tensor | None = None
        self._path: BrownianPath | None = None
        if not dynamics.stochastic:
            self.finest = 1e-18
        else:
            low, high = sorted((float(problem.times[0]), float(problem.times[-1])))
            shape = dynamics.noise_shape(problem.x.shape)
            self._path = as_path(
                problem.noise, shape, low, high, areas=method.areas, dtype=problem.x.dtype, device=problem.x.device
            )
            # Shorter than that, a step may begin and end in one leaf of the path.
            self.finest = max(self.finest, 4 * self._path.quantum / (high - low))
        if event is not None:
            start = problem.times[0].expand(problem.x.shape[0])
            none = torch.zeros(problem.x.shape[0], dtype=torch.float64, device="cpu")
            self._sides = event.side(event.value(problem.x, start), none)
            span = float((problem.times[-1] - problem.times[0]).abs())
            self._least = max(event.tolerance * span, 0.0 if self._path is None else 4 * self._path.quantum)
            if self._path is None and method.dense_order is not None:
                self.reserve += method.dense_evaluations

    def begin(self, x: Tensor, t: Tensor) -> Tensor:
        """The drift at the start, for the first step's length, and where the method takes it as its first stage."""
        f = self._dynamics.drift(x, t.to(x.device).expand(x.shape[0])).clone()
        self.spent = 1
        if self._method.first_is_last:
            self._firsts = f.clone()
        return f

    def first_steps(self, x: Tensor, f: Tensor, times: Tensor, control: Adaptive) -> Tensor:
        """A first step for each sample, (B,): on an SDE, one in which the drift moves x by 0.01 max(tolerance, |x|).

        Sizes are root mean squares over the tolerance. The step is no longer than a hundredth of the span, as the drift
        says nothing of the noise.
        """
        if not self._dynamics.stochastic:
            return self._first_ode_steps(x, f, times, control)
        rtol, atol = control.tolerances
        scale = atol + rtol * x.abs()
        size = 0.01 * per_sample_rms(x / scale).double().clamp(min=1.0)
        by_drift = size / per_sample_rms(f / scale).double().clamp(min=1e-300)
        span = float((times[-1] - times[0]).abs())
        # Never so small that the steps cannot grow to what they should be in a few attempts.
        return torch.nan_to_num(by_drift.cpu(), nan=0.0).clamp(1e-6 * span, 0.01 * span)

    def _first_ode_steps(self, x: Tensor, f: Tensor, times: Tensor, control: Adaptive) -> Tensor:
        """The first steps of Hairer, Norsett & Wanner 1993, section II.4, from an estimate of the second derivative.

        It costs one evaluation more, if so many are allowed; else a hundredth of |x|/|f|.
        """
        span, direction = float((times[-1] - times[0]).abs()), float(torch.sign(times[-1] - times[0]))
        rtol, atol = control.tolerances
        scale = (atol + rtol * x.abs()).clamp(min=torch.finfo(x.dtype).tiny)
        d0, d1 = (per_sample_rms(v / scale).double().cpu() for v in (x, f))
        h = torch.where((d0 < 1e-5) | (d1 < 1e-5), 1e-6 * span, 0.01 * d0 / d1)
        h = h.nan_to_num(1e-6 * span).clamp(1e-12 * span, span)
        if control.max_nfe is not None and control.max_nfe <= self.spent:
            return h
        self.spent += 1
        ahead = (times[0] + direction * h).to(x.device)
        away = expand_right((direction * h).to(device=x.device, dtype=x.dtype), x)
        change = per_sample_rms((self._dynamics.drift(x + away * f, ahead) - f) / scale).double().cpu() / h
        bend = torch.maximum(d1, change)
        trusted = torch.minimum(100 * h, (0.01 / bend) ** (1 / self._method.error_order))
        # A drift of 0 says nothing of the scale of time.
        trusted = torch.where(bend <= 1e-15, 0.1 * span, trusted)
        return torch.where(torch.isfinite(bend), trusted, h).clamp(1e-12 * span, span)

    def _of_rows(self, rows: Tensor) -> Dynamics:
        return self._dynamics if len(rows) == self._shape[0] else self._dynamics.rows(rows, self._shape)

    def attempt(self, x: Tensor, start: Tensor, stop: Tensor, rows: Tensor) -> Attempt:
        dynamics = self._of_rows(rows)
        noise = None if self._path is None else self._path.increments(start, stop, rows)
        t, s = start.to(x.device), stop.to(x.device)
        h = expand_right((stop - start).to(device=x.device, dtype=x.dtype), x)
        whole = len(rows) == self._shape[0]
        first = self._firsts if whole or self._firsts is None else self._firsts[rows]
        calls = dynamics.counter.calls
        pair = self._method.pair(dynamics, x, t, s, h, noise, first)
        if self._varies:
            own = pair.evaluations
            self._counted = dynamics.counter.calls - calls if own is None else own.cpu()
        self._lasts = pair.last
        if self._recorder is not None or self._event is not None or self._every is not None:
            self._tried = (x, start, stop, pair)
        return Attempt(pair.x, pair.error, pair.cruder)

    def place(self, stop: Tensor, within: Tensor) -> Tensor:
        return stop if self._path is None else self._path.near(stop, within)

    def taken(self, rows: Tensor, good: Tensor) -> int | Tensor:
        if self._firsts is not None and self._lasts is not None:
            kept = good.to(rows.device)
            if len(rows) == self._shape[0] and bool(good.all()):
                self._firsts.copy_(self._lasts)
            else:
                self._firsts[rows[kept]] = self._lasts[kept]
        if self._tried is None:
            return self._counted
        x, start, stop, pair = self._tried
        if self._every is not None:
            self._every.add(rows[good.to(rows.device)].cpu(), stop[good], pair.x[good.to(x.device)])
        if self._recorder is None:
            return self._counted
        wanted = good & self._recorder.wants(rows.cpu(), stop)
        if not bool(wanted.any()):
            return self._counted
        which = wanted.nonzero()[:, 0]
        on = which.to(x.device)
        x, start, stop = x[on], start[which], stop[which]
        t, s = start.to(x.device), stop.to(x.device)
        h = expand_right((stop - start).to(device=x.device, dtype=x.dtype), x)
        step = Pair(pair.x[on], pair.error[on], stages=tuple(stage[on] for stage in pair.stages))
        coefficients = self._method.interpolant(self._of_rows(rows[on]), x, t, s, h, step)
        self._recorder.add(rows[on].cpu(), start, stop, x, coefficients)
        return self._counted + self._method.dense_evaluations * wanted.long()

    def stopped(self, rows: Tensor, good: Tensor, left: Tensor | None) -> Stopped | None:
        event = self._event
        if event is None or self._tried is None:
            return None
        x, start, stop, pair = self._tried
        took = good.nonzero()[:, 0]
        samples = rows.cpu()[took]
        value = event.rows(samples, self._shape[0]).value(pair.x[took.to(x.device)], stop[took])
        over = event.passed(self._sides[samples], value)
        sides = self._sides[samples[over]]
        self._sides[samples] = event.side(value, self._sides[samples])
        if not bool(over.any()):
            return None
        which = took[over]
        on = which.to(x.device)
        inside, each = self._inside(rows[on], x[on], start[which], stop[which], pair, on)
        most = None if left is None or each == 0 else left[which] // each
        of = event.rows(samples[over], self._shape[0])
        y, at, made = locate(of, sides, start[which], stop[which], pair.x[on], inside, self._least, most)
        return Stopped(which, y, at, each * made if each else self._method.dense_evaluations)

    def _inside(
        self, rows: Tensor, x: Tensor, start: Tensor, stop: Tensor, pair: Pair, on: Tensor
    ) -> tuple[Inside, int]:
        """The solution inside steps of samples `rows`, from x; and the evaluations of each look at it."""
        dynamics = self._of_rows(rows)
        if self._path is None and self._method.dense_order is not None:
            t, s = start.to(x.device), stop.to(x.device)
            h = expand_right((stop - start).to(device=x.device, dtype=x.dtype), x)
            step = Pair(pair.x[on], pair.error[on], stages=tuple(stage[on] for stage in pair.stages))
            return Interpolated(x, start, stop, self._method.interpolant(dynamics, x, t, s, h, step)), 0

        def stepped(which: Tensor, x: Tensor, t: Tensor, s: Tensor, noise: Increment | None) -> Tensor:
            h = expand_right((s - t).to(device=x.device, dtype=x.dtype), x)
            of = self._of_rows(rows[which.to(rows.device)])
            return self._method.step_formula(of, x, t.to(x.device), s.to(x.device), h, noise)

        if self._path is None:
            return Restepped(x, start, stepped), self._method.most_evaluations
        return OnPath(x, stepped, PathHalves(self._path, rows.cpu())), self._method.most_evaluations
