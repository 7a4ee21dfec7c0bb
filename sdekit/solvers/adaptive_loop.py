r"""The one adaptive loop: per-sample steps with an embedded error, in a clock of the solver's own.

Every sample has its own place and step; what one does changes nothing for another. A step is accepted where the error
norm of its sample,

    E = rms( (x_high - x_low) / max(atol, rtol max(|x|, |x_high|)) ),

is at most 1, and the next is h min(max_factor, max(min_factor, safety E^(-1/k))), k the order of the embedded error.
Samples that have arrived leave the batch: they cost nothing more.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from sdekit._tensors import per_sample_rms
from sdekit.errors import NonFiniteError
from sdekit.solvers.progress import progress_bar
from sdekit.solvers.solution import Status

__all__ = ["AdaptiveRun", "Attempt", "Controller", "PairStepper", "run_adaptive"]


@final
@dataclass(frozen=True)
class Attempt:
    """A step tried for some samples: the state it gives, (A, *), and another whose difference is its error."""

    high: Tensor
    low: Tensor


class PairStepper(abc.ABC):
    """An embedded pair made ready for one problem."""

    evaluations: int
    """Model evaluations of one attempt."""

    @abc.abstractmethod
    def attempt(self, x: Tensor, start: Tensor, stop: Tensor, rows: Tensor) -> Attempt:
        """The step from `start` to `stop` in the solver's clock, float64 (A,), of samples `rows` of the batch."""


@final
@dataclass(frozen=True)
class Controller:
    """How steps are accepted and chosen; `order` is that of the embedded error."""

    rtol: float
    atol: float
    order: float
    first: float
    safety: float = 0.9
    min_factor: float = 0.2
    max_factor: float = 5.0

    def error(self, before: Tensor, attempt: Attempt) -> Tensor:
        """E of each sample, (A,), float64; infinite where the step is not finite."""
        scale = (self.rtol * torch.maximum(before.abs(), attempt.high.abs())).clamp(min=self.atol)
        error = per_sample_rms((attempt.high - attempt.low) / scale).double().cpu()
        return torch.where(torch.isfinite(error), error, torch.inf)

    def factor(self, error: Tensor) -> Tensor:
        """By how much the next step is longer than the one with this error."""
        grown = self.safety * error.clamp(min=1e-12) ** (-1 / self.order)
        return grown.clamp(self.min_factor, self.max_factor)


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
) -> tuple[AdaptiveRun, list[Tensor]]:
    """Move x, (B, *), through the `places` of the clock, float64 (K,); each is landed on exactly.

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
        torch.full((batch,), controller.first, dtype=torch.float64, device="cpu"),
        zeros.clone(),
        zeros.clone(),
        zeros.clone(),
        ["success"] * batch,
    )
    kept = [x.clone()]
    spent = torch.zeros(batch, dtype=torch.bool, device="cpu")
    total = abs(float(places[-1] - places[0]))
    smallest = 1e-10 * total
    with progress_bar(progress, total=1.0, name=name, unit="T") as bar:
        for end in places[1:].tolist():
            active = (~spent).nonzero()[:, 0]
            while len(active):
                if max_nfe is not None:
                    over = run.nfe[active] + stepper.evaluations > max_nfe
                    for i in active[over].tolist():
                        run.status[i], spent[i] = "max_nfe", True
                    active = active[~over]
                    if not len(active):
                        break
                start = run.at[active]
                left = (end - start).abs()
                # A last step of a rounding error's length is not left over.
                length = torch.where(run.step[active] >= left * (1 - 1e-9), left, run.step[active])
                stop = torch.where(length == left, end, start + direction * length)
                rows = active.to(x.device)
                before = run.x[rows]
                attempt = stepper.attempt(before, start, stop, rows)
                error = controller.error(before, attempt)
                run.nfe[active] += stepper.evaluations
                good = error <= 1
                if bool((torch.isinf(error) & (length <= smallest)).any()):
                    bad = active[torch.isinf(error) & (length <= smallest)]
                    raise NonFiniteError(
                        name, int(run.accepted[bad[0]]) + 1, time_of(float(run.at[bad[0]])), bad.tolist()
                    )
                taken = active[good]
                run.x[rows[good.to(x.device)]] = attempt.high[good.to(x.device)]
                run.at[taken] = stop[good]
                run.accepted[taken] += 1
                run.rejected[active[~good]] += 1
                proposed = length * controller.factor(error)
                # A step cut short to land says nothing against the step that was planned.
                cut = good & (length < run.step[active])
                run.step[active] = torch.where(cut, torch.maximum(proposed, run.step[active]), proposed)
                bar.update(float((run.at - places[0]).abs().mean()) / total - bar.n)
                active = active[run.at[active] != end]
            if not bool(spent.any()):
                kept.append(run.x.clone())
    return run, kept
