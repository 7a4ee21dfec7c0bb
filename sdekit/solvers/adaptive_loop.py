r"""The one adaptive loop: per-sample steps with an embedded error, in a clock of the solver's own.

Every sample has its own place and step; what one does changes nothing for another. A step is accepted where the error
norm of its sample,

    E = rms( error / (atol + rtol max(|x|, |x_new|)) ),

is at most 1; or, of a method with a second, cruder estimate, E^2/sqrt(E^2 + E_cruder^2/100) (Hairer, Norsett & Wanner
1993, section II.10). The next is h times

    safety E_n^(-b1/k) E_{n-1}^(-b2/k) E_{n-2}^(-b3/k),   b1 = P + I + D,   b2 = -(P + 2D),   b3 = D,

within [min_factor, max_factor], k the order of the embedded error (Soderlind 2003); after a rejection E^(-1/k) alone.
Samples that have arrived leave the batch: they cost nothing more.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import final

import torch
from torch import Tensor

from sdekit._tensors import expand_right, per_sample_rms
from sdekit.errors import NonFiniteError
from sdekit.solvers.progress import progress_bar
from sdekit.solvers.solution import Status

_NEAR = 1 / 16
_HUGE = 1e300  # the error of a finite step that is too large for its dtype

__all__ = ["AdaptiveRun", "Attempt", "Controller", "PairStepper", "Stopped", "run_adaptive"]


@final
@dataclass(frozen=True)
class Attempt:
    """A step tried for some samples: the state it gives, and its error, both (A, *); a cruder one, if there are two."""

    x: Tensor
    error: Tensor
    cruder: Tensor | None = None


@final
@dataclass(frozen=True)
class Stopped:
    """Samples that stopped inside their steps: which of A, int64 (S,), states, times and evaluations to find them."""

    which: Tensor
    x: Tensor
    at: Tensor
    evaluations: int | Tensor


class PairStepper(abc.ABC):
    """An embedded pair made ready for one problem."""

    evaluations: int
    """Model evaluations of one attempt."""
    reserve: int = 0
    """Those that `taken` may make beyond them."""
    finest: float = 1e-10
    """The shortest step that is tried, as a part of the whole solve."""

    @abc.abstractmethod
    def attempt(self, x: Tensor, start: Tensor, stop: Tensor, rows: Tensor) -> Attempt:
        """The step from `start` to `stop` in the solver's clock, float64 (A,), of samples `rows` of the batch."""

    def place(self, stop: Tensor, within: Tensor) -> Tensor:
        """Where a step planned to end at `stop` had better end, not further than `within` from it: (A,)."""
        return stop

    def taken(self, rows: Tensor, good: Tensor) -> int | Tensor:
        """Told after each attempt which of its rows were accepted, bool (A,).

        Returns the evaluations that this cost, int64 (A,), or 0.
        """
        del rows, good  # nothing is kept between steps here
        return 0

    def stopped(self, rows: Tensor, good: Tensor, left: Tensor | None) -> Stopped | None:
        """Told after `taken`: those of the accepted steps on whose way their samples stopped for good.

        left: the evaluations still allowed to each, int64 (A,); no limit where it is None.
        """
        del rows, good, left  # nothing stops a sample here
        return None


@final
@dataclass(frozen=True)
class Controller:
    """How steps are accepted and chosen; `order` is that of the embedded error.

    greater: scale errors by max(atol, rtol |x|) instead of the sum, as the DPM-Solver paper does.
    first: the first step of each sample, (B,) or one number for all.
    smallest: a step shorter than this is not tried; its sample ends with the status "min_step".
    cautious: the step after one that was rejected at first is no longer than it.
    """

    rtol: float
    atol: float
    order: float
    first: float | Tensor
    smallest: float = 0.0
    proportional: float = 0.0
    integral: float = 1.0
    derivative: float = 0.0
    greater: bool = False
    safety: float = 0.9
    min_factor: float = 0.2
    max_factor: float = 5.0
    cautious: bool = False

    def error(self, before: Tensor, attempt: Attempt) -> Tensor:
        """E of each sample, (A,), float64; infinite where the step or its error is not finite, and nowhere else."""
        relative = self.rtol * torch.maximum(before.abs(), attempt.x.abs())
        scale = relative.clamp(min=self.atol) if self.greater else relative + self.atol
        # Where atol is 0 an entry may stay at 0 with no error: 0, not 0/0.
        scale = scale.clamp(min=torch.finfo(scale.dtype).tiny)
        error = per_sample_rms(attempt.error / scale).double().cpu()
        if attempt.cruder is not None:
            cruder = per_sample_rms(attempt.cruder / scale).double().cpu()
            error = error * (error / torch.hypot(error, 0.1 * cruder).clamp(min=1e-300))
        # A step of two infinite states may have an error of 0/0 or a finite one: only a finite state is accepted.
        finite = torch.isfinite((attempt.x + attempt.error).reshape(len(error), -1)).all(dim=1).cpu()
        return torch.where(finite, error.nan_to_num(_HUGE, _HUGE), torch.inf)

    def factor(self, error: Tensor, earlier: Tensor) -> Tensor:
        """By how much the next step is longer than the one with this error, (A,); `earlier` are the two before, (A, 2).

        After a rejection (error > 1) it is shorter.
        """
        p, i, d = self.proportional, self.integral, self.derivative
        now, before = error.clamp(min=1e-12), earlier.clamp(min=1e-12)
        grown = self.safety * now ** (-(p + i + d) / self.order)
        if p or d:
            grown = grown * before[:, 0] ** ((p + 2 * d) / self.order) * before[:, 1] ** (-d / self.order)
        shrunk = (self.safety * now ** (-1 / self.order)).clamp(max=self.safety)
        return torch.where(error <= 1, grown, shrunk).clamp(self.min_factor, self.max_factor)


@final
@dataclass
class AdaptiveRun:
    """Where every sample stands: states, places in the clock, evaluations, accepted and rejected steps, each (B,)."""

    x: Tensor
    at: Tensor
    step: Tensor
    nfe: Tensor
    accepted: Tensor
    rejected: Tensor
    status: list[Status]


@final
@dataclass
class _Ways:
    """What the loop keeps of the samples that are under way, (A, …): apart from the rest, whom it need not look up."""

    x: Tensor
    at: Tensor
    step: Tensor
    nfe: Tensor
    accepted: Tensor
    rejected: Tensor
    errors: Tensor
    retried: Tensor

    @staticmethod
    def of(run: AdaptiveRun, errors: Tensor, retried: Tensor, rows: Tensor) -> _Ways:
        here = run.x[rows.to(run.x.device)]
        parts = (run.at, run.step, run.nfe, run.accepted, run.rejected, errors, retried)
        return _Ways(here, *(part[rows] for part in parts))

    def cut(self, which: Tensor) -> _Ways:
        """Those of a mask, or of indices."""
        return _Ways(self.x[which.to(self.x.device)], *(getattr(self, f.name)[which] for f in fields(self)[1:]))

    def store(
        self, run: AdaptiveRun, errors: Tensor, retried: Tensor, rows: Tensor, status: Status = "success"
    ) -> None:
        """Put back what belongs to the samples `rows`, who stop here."""
        run.x[rows.to(run.x.device)] = self.x
        parts = (run.at, run.step, run.nfe, run.accepted, run.rejected, errors, retried)
        for part, f in zip(parts, fields(self)[1:], strict=True):
            part[rows] = getattr(self, f.name)
        for i in rows.tolist():
            run.status[i] = status


def run_adaptive(
    name: str,
    stepper: PairStepper,
    controller: Controller,
    x: Tensor,
    places: Tensor,
    *,
    time_of: Callable[[float], float],
    max_nfe: int | None = None,
    progress: bool = False,
    spent: int = 0,
) -> tuple[AdaptiveRun, list[Tensor]]:
    """Move x, (B, *), through the `places` of the clock, float64 (K,); each is landed on exactly.

    `spent` is what each sample has evaluated before.

    Returns where every sample ended, and the states at the places that all samples reached, the first included.

    Raises:
        NonFiniteError: where a step stays non-finite however small it is made; names the time by `time_of(place)`.
    """
    batch = x.shape[0]
    direction = 1.0 if places[-1] > places[0] else -1.0
    zeros = torch.zeros(batch, dtype=torch.int64, device="cpu")
    run = AdaptiveRun(
        x.clone(),
        torch.full((batch,), float(places[0]), dtype=torch.float64, device="cpu"),
        torch.as_tensor(controller.first, dtype=torch.float64, device="cpu").expand(batch).clone(),
        zeros + spent,
        zeros.clone(),
        zeros.clone(),
        ["success"] * batch,
    )
    kept = [x.clone()]
    infinity = torch.tensor(torch.inf, dtype=torch.float64, device="cpu")
    total = abs(float(places[-1] - places[0]))
    least = max(stepper.finest * total, controller.smallest)
    moving = torch.arange(batch, device="cpu")  # the samples that can go on
    errors = torch.ones(batch, 2, dtype=torch.float64, device="cpu")
    retried = torch.zeros(batch, dtype=torch.bool, device="cpu")
    ended = 0  # samples that have stopped at an event, and are where they stay
    with progress_bar(progress, total=1.0, name=name, unit="T") as bar:
        for end in places[1:].tolist():
            active, ways = moving, _Ways.of(run, errors, retried, moving)
            on = [moving[:0]]
            while len(active):
                if max_nfe is not None:
                    over = ways.nfe + (stepper.evaluations + stepper.reserve) > max_nfe
                    if bool(over.any()):
                        ways.cut(over).store(run, errors, retried, active[over], "max_nfe")
                        active, ways = active[~over], ways.cut(~over)
                        continue
                start = ways.at
                left = (end - start).abs()
                # No step is so short that the clock would hardly notice.
                smallest = (10 * (torch.nextafter(start.abs(), infinity) - start.abs())).clamp(min=least)
                planned = torch.maximum(ways.step, smallest)
                # No last step of a rounding error's length is left over.
                lands = planned >= left * (1 - 1e-9)
                stop = stepper.place(start + direction * torch.minimum(planned, left), _NEAR * planned)
                lands |= (end - stop) * direction <= 1e-9 * planned
                stop = torch.where(lands, end, stop)
                length = (stop - start).abs()
                attempt = stepper.attempt(ways.x, start, stop, active.to(x.device))
                error = controller.error(ways.x, attempt)
                good = error <= 1
                ways.nfe += stepper.evaluations
                ways.nfe += stepper.taken(active.to(x.device), good)
                at_least = length <= smallest * (1 + _NEAR)
                hopeless = torch.isinf(error) & at_least
                if bool(hopeless.any()):
                    bad = int(hopeless.nonzero()[0])
                    raise NonFiniteError(
                        name, int(ways.accepted[bad]) + 1, time_of(float(start[bad])), active[hopeless].tolist()
                    )
                ways.x = torch.where(expand_right(good.to(x.device), x[: len(active)]), attempt.x, ways.x)
                ways.at = torch.where(good, stop, start)
                ways.accepted += good
                ways.rejected += ~good
                proposed = length * controller.factor(error, ways.errors)
                if controller.cautious:
                    proposed = torch.where(ways.retried, torch.minimum(proposed, length), proposed)
                    ways.retried = ~good
                # A step cut short to land says nothing against the step that was planned, and nothing of what follows.
                cut = good & lands & (length < planned)
                ways.step = torch.where(cut, torch.maximum(proposed, planned), proposed)
                told = torch.stack([error, ways.errors[:, 0]], dim=1)
                ways.errors = torch.where((good & ~cut)[:, None], told, ways.errors)
                if progress:
                    run.at[active] = ways.at
                    bar.update(float((run.at - places[0]).abs().mean()) / total - bar.n)
                arrived, stuck = ways.at == end, ~good & at_least
                done = arrived | stuck
                allowed = None if max_nfe is None else max_nfe - ways.nfe
                stopped = stepper.stopped(active.to(x.device), good, allowed)
                if stopped is not None:
                    which = stopped.which
                    ways.x[which.to(x.device)], ways.at[which] = stopped.x, stopped.at
                    ways.nfe[which] += stopped.evaluations
                    ways.cut(which).store(run, errors, retried, active[which], "event")
                    arrived[which], done[which] = False, True
                    ended += len(which)
                if bool(done.any()):
                    ways.cut(arrived).store(run, errors, retried, active[arrived])
                    ways.cut(stuck).store(run, errors, retried, active[stuck], "min_step")
                    on.append(active[arrived])
                    active, ways = active[~done], ways.cut(~done)
            moving = torch.cat(on).sort().values
            if len(moving) + ended == batch:
                kept.append(run.x.clone())
    return run, kept
