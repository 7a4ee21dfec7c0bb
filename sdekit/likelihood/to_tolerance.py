r"""A log-likelihood to a tolerance: more steps, then more probes, for the samples that need them.

    level 0, 1, 2, …    steps 24, 48, 96, …    each compared with the level below for the integration's error

Each sample goes its own way, decided by its own numbers alone, so that its result does not depend on its batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from sdekit.errors import NonFiniteError
from sdekit.likelihood.budget import Budget, total_error
from sdekit.likelihood.evaluation import Estimate, Evaluation, in_chunks
from sdekit.likelihood.result import LogLikelihood
from sdekit.likelihood.rows import SomeRows
from sdekit.models.score import ScoreModel
from sdekit.noise import NoiseSource

__all__ = ["ToTolerance"]

_MOST_LEVELS = 5  # 384 steps: beyond, twice the probes do more than twice the steps, unless it is the steps that lack


@final
@dataclass(frozen=True)
class ToTolerance:
    """Solves until `budget.total` of each sample is at most `tolerance`, or its evaluations are spent.

    The integration's error is taken from two differences between levels, the larger of the last and a quarter of the
    one before, as an order of 2 divides them: where thousands of samples stop as soon as one difference is small, it
    is so by chance for some.

    Args:
        tolerance: in nats.
        max_nfe: no solve is begun that would take a sample's evaluations, all solves together, above it.
        at: the evaluation at a level, with so many times the probes.
    """

    tolerance: float
    max_nfe: int
    at: Callable[[int, int], Evaluation]

    def evaluate(self, model: ScoreModel, x: Tensor, source: NoiseSource, size: int) -> LogLikelihood:
        """The log-likelihoods of x, (B, *), `size` of them at a time."""
        return in_chunks(self._together, model, x, source, size)

    def _together(self, model: ScoreModel, x: Tensor, source: NoiseSource) -> LogLikelihood:
        batch, table = len(x), _Table(x)
        while len(plans := table.pending()):
            for level, factor in plans:
                rows = table.rows(level, factor)
                evaluation = self.at(level, factor)
                try:
                    found = evaluation.estimate(
                        model.rows(rows, batch), x[rows], SomeRows(source, rows.cpu(), batch), compared=True
                    )
                except NonFiniteError as error:
                    raise error.among(rows.tolist()) from None
                table.note(rows, level, found)
                self._decide(table, rows, level, factor, found)
        return table.result(self.at(0, 1), self.tolerance)

    def _decide(self, table: _Table, rows: Tensor, level: int, factor: int, found: Estimate) -> None:
        """What comes next for these samples: nothing, more steps, or more probes."""
        total = total_error(table.std_error[rows], table.integration[rows], table.prior[rows])
        integration = table.integration[rows]
        lacking_steps = ~(integration <= 0.5 * self.tolerance) | (level < _MOST_LEVELS)
        nfe = torch.as_tensor(found.nfe, device=rows.device).expand(len(rows))
        affordable = table.nfe[rows] + torch.where(lacking_steps, 2 * nfe, nfe) <= self.max_nfe
        more = ~(total <= self.tolerance) & affordable & found.path.finished
        table.active[rows] = more
        table.level[rows] = torch.where(more & lacking_steps, level + 1, level)
        table.factor[rows] = torch.where(more & ~lacking_steps, 2 * factor, factor)


@final
@dataclass
class _Table:
    """What is known of each sample so far."""

    x: Tensor
    active: Tensor = field(init=False)
    level: Tensor = field(init=False)
    factor: Tensor = field(init=False)
    nfe: Tensor = field(init=False)
    log_prob: Tensor = field(init=False)
    std_error: Tensor = field(init=False)
    difference: Tensor = field(init=False)
    integration: Tensor = field(init=False)
    truncation: Tensor = field(init=False)
    prior: Tensor = field(init=False)
    compared: Tensor = field(init=False)
    compared_level: Tensor = field(init=False)
    latent: Tensor = field(init=False)

    def __post_init__(self) -> None:
        batch, device = len(self.x), self.x.device
        self.active = torch.ones(batch, dtype=torch.bool, device=device)
        self.level = torch.zeros(batch, dtype=torch.int64, device=device)
        self.factor = torch.ones_like(self.level)
        self.nfe = torch.zeros_like(self.level)
        self.compared_level = torch.full_like(self.level, -1)
        nothing = torch.full((batch,), math.nan, dtype=torch.float64, device=device)
        self.log_prob, self.std_error, self.truncation = nothing.clone(), nothing.clone(), nothing.clone()
        self.prior, self.compared = nothing.clone(), nothing.clone()
        # The integration's error from the last difference alone, and from the last two: infinite before there are any.
        self.difference = torch.full_like(nothing, math.inf)
        self.integration = self.difference.clone()
        self.latent = torch.full_like(self.x, math.nan)

    def pending(self) -> list[tuple[int, int]]:
        """The (level, factor) that samples wait for."""
        waiting = torch.stack([self.level, self.factor], 1)[self.active]
        return sorted({(int(a), int(b)) for a, b in waiting.tolist()})

    def rows(self, level: int, factor: int) -> Tensor:
        """The samples that wait for it."""
        return (self.active & (self.level == level) & (self.factor == factor)).nonzero()[:, 0]

    def note(self, rows: Tensor, level: int, found: Estimate) -> None:
        """Keep an estimate; one at a new level is compared with those before it."""
        if level > 0:
            fresh = self.compared_level[rows] == level - 1
            error, before = found.error_beside(self.compared[rows]), self.difference[rows]
            self.integration[rows] = torch.where(fresh, torch.maximum(error, before / 4), self.integration[rows])
            self.difference[rows] = torch.where(fresh, error, before)
        self.compared[rows], self.compared_level[rows] = found.compared, level
        self.log_prob[rows], self.std_error[rows] = found.log_prob, found.std_error
        self.truncation[rows], self.prior[rows] = found.truncation, found.prior
        self.latent[rows] = found.path.latent.to(self.latent.dtype)
        self.nfe[rows] += torch.as_tensor(found.nfe, device=rows.device)

    def result(self, how: Evaluation, tolerance: float) -> LogLikelihood:
        """All samples' last estimates."""
        met = total_error(self.std_error, self.integration, self.prior) <= tolerance
        integration = torch.where(torch.isinf(self.integration), self.difference, self.integration)
        integration = torch.where(torch.isinf(integration), math.nan, integration)
        return LogLikelihood(
            log_prob=self.log_prob,
            std_error=self.std_error,
            latent=self.latent,
            nfe=self.nfe,
            budget=Budget(self.std_error, integration, self.truncation, self.prior, met=met),
            status="success" if bool(met.all()) else "max_nfe",
            divergence=repr(how.divergence),
            dim=self.x[0].numel(),
            kind=how.kind,
        )
