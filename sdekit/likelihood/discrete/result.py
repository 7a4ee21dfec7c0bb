"""What the log-probability of discrete data is returned as."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import final

import torch
from torch import Tensor

from sdekit.likelihood.result import Kind
from sdekit.solvers.solution import Status

__all__ = ["DiscreteBudget", "DiscreteLogLikelihood"]

_MEANING = {
    "dequantisation": "how far the bound lies below log P, from the spread of its draws",
    "probe": "standard error from the probes, or what else the estimator draws",
    "integration": "of the solves, as in the budget of log_likelihood",
    "prior": "as in the budget of log_likelihood",
}


@final
@dataclass(frozen=True)
class DiscreteBudget:
    """The errors of a discrete log-probability in nats: float64 (B,), or None where it was not asked for.

    Attributes:
        dequantisation: an estimate of log P less the mean of the bound, by the jackknife over the K draws; NaN with one
            draw. It knows of the bin only what the draws saw: too little where `effective_samples` is near 1, and
            nothing of mass where q has next to none (a truncated normal much narrower than the bin, for a density
            that fills it).
        probe: one standard error of log_prob from the densities' own draws, probes above all.
        integration, prior: the weighted mean of those of the K densities.
        unknown: why an entry is None.

    P is the model's at t_eps: what its noise there carries from bin to bin is in none of them, and neither is the
    model's own error.
    """

    dequantisation: Tensor
    probe: Tensor
    integration: Tensor | None
    prior: Tensor
    unknown: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Tensor | None]:
        """The four entries by name."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "unknown"}

    def __str__(self) -> str:
        lines = ["error in nats           mean  largest"]
        for name, value in self.to_dict().items():
            if value is None:
                lines.append(f"{name:<14} {'-':>13} {'-':>8}  {self.unknown[name]}")
            else:
                mean, largest = float(value.mean()), float(value.abs().max())
                lines.append(f"{name:<14} {mean:>13.3g} {largest:>8.3g}  {_MEANING[name]}")
        return "\n".join(lines)


@final
@dataclass(frozen=True)
class DiscreteLogLikelihood:
    """The result of `discrete_log_likelihood`.

    Attributes:
        log_prob: a lower bound, in the mean over draws, on log P of each discrete sample, in nats: float64 (B,).
        std_error: its standard error from all that was drawn, dequantisation and probes, (B,); NaN with one draw.
        bound_of_one: the mean of the K one-draw bounds, (B,): what samples=1 would give in the mean.
        effective_samples: 1/sum of the squared normalised weights, 1 to K, (B,); near 1 the bound is that of its best
            draw, and more draws would raise it.
        nfe: network evaluations, counted at the network, of all draws; an int, or (B,) where samples differ.
        budget: the errors of log_prob.
        status: "success", or how a solve ended early.
        kind: "bound"; "approximate" where the densities are.
        divergence: how the traces were had.
        dequantisation, samples, levels, data_range: as given.
        dim: d, the number of coordinates of one sample.
    """

    log_prob: Tensor
    std_error: Tensor
    bound_of_one: Tensor
    effective_samples: Tensor
    nfe: int | Tensor
    budget: DiscreteBudget
    status: Status
    kind: Kind
    divergence: str
    dequantisation: str
    samples: int
    levels: int
    data_range: tuple[float, float]
    dim: int

    def bits_per_dim(self) -> Tensor:
        """-log2 P/d, (B,): the length of a code for the levels, whatever the units of x."""
        return -self.log_prob / (self.dim * math.log(2))

    def __repr__(self) -> str:
        nfe = self.nfe if isinstance(self.nfe, int) else f"{int(self.nfe.min())} to {int(self.nfe.max())}"
        error = float(torch.sqrt(self.std_error.square().sum()) / len(self.std_error))
        return (
            f"DiscreteLogLikelihood({len(self.log_prob)} samples, {self.kind}, mean {float(self.log_prob.mean()):.6g} "
            f"nats or {float(self.bits_per_dim().mean()):.4g} bits/dim, error of the mean {error:.2g} nats, "
            f"{self.dequantisation} with {self.samples} draw(s), nfe={nfe}, status={self.status!r})"
        )
