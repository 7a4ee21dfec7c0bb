"""The adaptive DPM-Solver: embedded pairs of orders 1 and 2, or 2 and 3, with steps of each sample's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from sdekit._tensors import check_positive, check_positive_integer, expand_right
from sdekit.errors import ArgumentError, NonFiniteError
from sdekit.models.score import ScoreModel
from sdekit.solvers.adaptive_loop import Attempt, Controller, PairStepper, run_adaptive
from sdekit.solvers.base import AdaptiveSolver, Observers, Problem
from sdekit.solvers.solution import Solution, Status, first_bad_samples

__all__ = ["DPMAdaptive"]


@final
@dataclass(frozen=True, repr=False)
class DPMAdaptive(AdaptiveSolver):
    r"""DPM-Solver-12 (pair=2) or DPM-Solver-23 (pair=3) in lambda, the step of every sample chosen by its own error.

    pair=2:  x~_low = x~ + (b - a) e_0;   x~_high is DPM-Solver-2 with r1 = 1/2
    pair=3:  x~_low is DPM-Solver-2 with r1 = 1/3 and x~_high DPM-Solver-3, which share e_0 and e_1

    E = rms((x_high - x_low)/max(atol, rtol max(|x|, |x_high|))) in x = alpha x~;   h <- h 0.9 E^(-1/pair)

    Args:
        pair: 2 or 3, the order of the result; as many evaluations an attempt.
        rtol: relative tolerance of a step.
        atol: absolute tolerance of a step.
        h_init: the first step in lambda.
        max_nfe: the evaluations allowed to each sample, never exceeded; one that would need more ends with status
            "max_nfe" where its last step did. No limit unless given.

    A solve that ends at sigma = 0 goes adaptively to `t_min` of the SDE (a thousandth of T where that is 0), and from
    there in DDIM's step, x~ = D, with one evaluation.

    Lu et al. 2022, arXiv 2206.00927, algorithm of section 3.4 and appendix C.
    """

    pair: int = 3
    rtol: float = 0.05
    atol: float = 0.0078
    h_init: float = 0.05
    max_nfe: int | None = None

    name = "dpm_adaptive"
    kind = "step"
    needs = ("score",)
    reference = "Lu et al. 2022, arXiv 2206.00927"

    def __post_init__(self) -> None:
        if self.pair not in (2, 3) or isinstance(self.pair, bool):
            raise ArgumentError(f"pair must be 2 or 3, got {self.pair!r}.")
        for name in ("rtol", "atol", "h_init"):
            check_positive(name, getattr(self, name))
        if self.max_nfe is not None:
            check_positive_integer("max_nfe", self.max_nfe)

    @property
    def stochastic(self) -> bool:
        return False

    @property
    def order(self) -> float:  # type: ignore[override]
        return float(self.pair)

    def integrate(self, problem: Problem, observers: Observers | None = None) -> Solution:
        self.check(problem.dynamics)
        watch = observers or Observers()
        model = problem.dynamics.counted().model
        if model is None:
            raise ArgumentError(f"{problem.dynamics!r} has no score model.")
        sde, times = model.sde, problem.times
        if float(sde.sigma(times[0])) == 0:
            raise ArgumentError("solver 'dpm_adaptive' cannot start at sigma = 0, an infinite log-SNR; start at t_min.")
        to_zero = float(sde.sigma(times[-1])) == 0
        stops = times
        if to_zero:
            last = min(sde.t_min if sde.t_min > 0 else 1e-3 * sde.t_max, 0.5 * float(times[-2]))
            stops = torch.cat([times[:-1], torch.tensor([last], dtype=torch.float64, device="cpu")])
        places = 0.5 * sde.log_snr(stops)
        pair = _Pair(model, problem.x.shape[0], self.pair)
        with torch.no_grad():
            run, kept = run_adaptive(
                self.name,
                pair,
                Controller(self.rtol, self.atol, float(self.pair), self.h_init, greater=True),
                problem.x,
                places,
                time_of=lambda lam: float(sde.time_of_log_snr(2 * lam)),
                max_nfe=self.max_nfe,
                progress=watch.progress,
            )
            x, arrived = run.x, (run.at == places[-1]).to(run.x.device)
            if to_zero:
                rows = arrived.nonzero()[:, 0]
                within = run.nfe[rows.cpu()] < (self.max_nfe or 2**62)
                for i in rows.cpu()[~within].tolist():
                    run.status[i] = "max_nfe"
                rows = rows[within.to(rows.device)]
                if len(rows):
                    denoised = model.rows(rows, problem.x.shape[0]).denoised(x[rows], stops[-1])
                    bad = first_bad_samples(denoised)
                    if bad:
                        raise NonFiniteError(self.name, len(times), float(stops[-1]), rows.cpu()[bad].tolist())
                    x[rows] = float(sde.alpha(times[-1])) * denoised
                    run.nfe[rows.cpu()] += 1
                if len(kept) == len(times) and len(rows) == len(x):
                    kept[-1] = x.clone()
                elif len(kept) == len(times):
                    kept.pop()
        worst: Status = next((s for s in run.status if s != "success"), "success")
        reached = torch.where(run.at == places[0], times[0], sde.time_of_log_snr(2 * run.at))
        end = float(times[-1]) if worst == "success" else float(reached[(reached - times[-1]).abs().argmax()])
        return Solution(
            x=x,
            t=end,
            nfe=run.nfe,
            status=worst,
            times=times,
            trajectory=torch.stack(kept) if watch.trajectory else None,
            trajectory_times=times[: len(kept)] if watch.trajectory else None,
            stats={"steps": run.accepted.tolist(), "rejected": run.rejected.tolist(), "status": run.status},
        )


@final
class _Pair(PairStepper):
    """DPM-Solver-12 or -23 from lambda to lambda, for some rows of a batch."""

    def __init__(self, model: ScoreModel, batch: int, pair: int) -> None:
        self._model, self._batch, self.evaluations = model, batch, pair

    def attempt(self, x: Tensor, start: Tensor, stop: Tensor, rows: Tensor) -> Attempt:
        sde, h = self._model.sde, stop - start
        model = self._model if len(rows) == self._batch else self._model.rows(rows, self._batch)

        def time(lam: Tensor) -> Tensor:
            return sde.time_of_log_snr(2 * lam)

        def column(values: Tensor) -> Tensor:
            return expand_right(values.to(device=x.device, dtype=x.dtype), x)

        def moved(lam: Tensor, slope: Tensor, correction: Tensor | None = None) -> Tensor:
            """alpha(lam) [x~ + (e^-lam - a) slope + correction]."""
            at = column(sde.alpha(time(lam)) / sde.alpha(time(start))) * x
            at = at + column(sde.alpha(time(lam)) * (torch.exp(-lam) - torch.exp(-start))) * slope
            return at if correction is None else at + correction

        r1 = 1 / 2 if self.evaluations == 2 else 1 / 3
        # Copies: a network may give the same buffer again at its next call.
        e0 = model.noise(x, time(start)).clone()
        e1 = model.noise(moved(start + r1 * h, e0), time(start + r1 * h)).clone()
        second = moved(stop, e0 + (e1 - e0) * (1 / (2 * r1)))
        if self.evaluations == 2:
            return Attempt(second, second - moved(stop, e0))
        r2 = 2 / 3
        middle = start + r2 * h
        bend = sde.alpha(time(middle)) * torch.exp(-middle) * (r2 / r1) * (torch.expm1(r2 * h) / (r2 * h) - 1)
        e2 = model.noise(moved(middle, e0, -column(bend) * (e1 - e0)), time(middle))
        bend = sde.alpha(time(stop)) * torch.exp(-stop) / r2 * (torch.expm1(h) / h - 1)
        third = moved(stop, e0, -column(bend) * (e2 - e0))
        return Attempt(third, third - second)
