"""One likelihood, all of its settings settled: the path, the quadrature along it, and what it is worth."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from sdekit.errors import NonFiniteError
from sdekit.likelihood.budget import Budget
from sdekit.likelihood.path import Nodes, Path, walk
from sdekit.likelihood.prior import Prior, PriorKind, make_prior
from sdekit.likelihood.quadrature import integral, quadrature_weights, standard_error
from sdekit.likelihood.result import LogLikelihood
from sdekit.likelihood.traces import Divergence, Hutchinson, JoinedTraces
from sdekit.models.score import ScoreModel
from sdekit.noise import NoiseSource
from sdekit.sdes import DiffusionSDE
from sdekit.solvers.base import Solver

__all__ = ["Evaluation"]

# The error of a solve is taken for this part of its difference to one with half the steps: what an order of 2 makes.
# The default is of order 4, but not at few steps.
_FINER = 1 / 3


@final
@dataclass(frozen=True)
class Evaluation:
    """How log-likelihoods are had.

    coarse: the solver and the nodes of a second solve, for the integration's error; None for none.
    """

    solver: Solver
    nodes: Nodes
    divergence: Divergence
    prior: PriorKind
    coarse: tuple[Solver, Nodes] | None
    progress: bool = False

    def evaluate(self, model: ScoreModel, x: Tensor, source: NoiseSource, size: int) -> LogLikelihood:
        """The log-likelihoods of x, (B, *), `size` of them at a time."""
        batch = len(x)
        parts = []
        for a in range(0, batch, size):
            b = min(batch, a + size)
            try:
                parts.append(self._together(model.part(a, b, batch), x[a:b], source.part(a, b, batch)))
            except NonFiniteError as error:
                raise error.moved(first=a) from None
        return LogLikelihood.join(parts)

    def _together(self, model: ScoreModel, x: Tensor, source: NoiseSource) -> LogLikelihood:
        batch, d = x.shape[0], x[0].numel()
        traces = self.divergence.open(batch, d, source, x.device)
        prior = make_prior(model, x, self.prior)
        # Two solves are compared under the same fixed probe: its noise then drops out of the difference.
        fixed = None if traces.exact or self.coarse is None else Hutchinson(1, "rademacher", "fixed")
        both = traces if fixed is None else JoinedTraces(traces, fixed.open(batch, d, source, x.device))
        path = walk(model, x, self.nodes, self.solver, both, self.progress)
        weights, k = quadrature_weights(self.nodes.u), traces.columns
        log_prob = _log_prob(model.sde, path, self.nodes, prior, path.columns[:, :k])
        if traces.exact:
            std_error = torch.zeros_like(log_prob)
        else:
            std_error = standard_error(self.nodes.u, weights, path.columns[:, :k], traces.block)
        nfe, integration = path.nfe + prior.evaluations, None
        if self.coarse is not None:
            solver, nodes = self.coarse
            again = (self.divergence if fixed is None else fixed).open(batch, d, source, x.device)
            coarse = walk(model, x, nodes, solver, again, self.progress)
            fine = log_prob if fixed is None else _log_prob(model.sde, path, self.nodes, prior, path.columns[:, k:])
            difference = fine - _log_prob(model.sde, coarse, nodes, prior, coarse.columns)
            integration = _FINER * torch.where(path.finished & coarse.finished, difference.abs(), math.nan)
            nfe = nfe + coarse.nfe
        return LogLikelihood(
            log_prob=torch.where(path.finished, log_prob, math.nan),
            std_error=torch.where(path.finished, std_error, math.nan),
            latent=path.latent.to(x.dtype),
            nfe=nfe,
            budget=Budget(
                probe=torch.where(path.finished, std_error, math.nan),
                integration=integration,
                truncation=path.truncation,
                prior=_prior_bound(model.sde, prior, x, self.nodes.span),
                unknown={} if self.coarse is not None else {"integration": "not asked for: integration_error=True"},
            ),
            status=path.status,
            divergence=repr(self.divergence),
            dim=d,
        )


def _log_prob(sde: DiffusionSDE, path: Path, nodes: Nodes, prior: Prior, columns: Tensor) -> Tensor:
    """log prior(x_T) + d ln(sigma_T/sigma_eps) - int tr J_D du, the trace the mean of columns (n, K, B): (B,)."""
    trace = torch.zeros_like(columns[:, 0])
    for column in columns.unbind(1):
        trace = trace + column
    start, end = nodes.span
    growth = path.latent[0].numel() * math.log(float(sde.sigma(end)) / float(sde.sigma(start)))
    return prior.log_prob(path.latent) + growth - integral(quadrature_weights(nodes.u), trace / columns.shape[1])


def _prior_bound(sde: DiffusionSDE, prior: Prior, x: Tensor, span: tuple[float, float]) -> Tensor:
    """KL(N(alpha_T x_0, sigma_T^2 I) || prior) at x_0 = x/alpha_eps: (B,)."""
    return prior.divergence(x.double() * float(sde.alpha(span[1]) / sde.alpha(span[0])), float(sde.sigma(span[1])))
