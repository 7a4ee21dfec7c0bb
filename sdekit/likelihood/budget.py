r"""Where the error of a log-likelihood comes from."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, final

import torch
from torch import Tensor

__all__ = ["Budget", "total_error"]

_MEANING = {
    "probe": "standard error from what was drawn: probes, paths or times",
    "integration": "from the state's errors on its path; with integration_error=True from half the steps too",
    "truncation": "log p at t_eps less log p at t = 0, to first order or bounded",
    "prior": "bound, in the mean over data, on what the prior at T being a Gaussian costs",
}


@final
@dataclass(frozen=True)
class Budget:
    r"""The errors of a log-likelihood, sample by sample, in nats: float64 (B,), or None where it was not asked for.

    Attributes:
        probe: one standard error of log_prob from the random probes (`standard_error`): 0 with the exact trace, NaN
            with a single probe fixed along the path, whose error cannot be told.
        integration: |log p - log p'|/3, where log p' comes from half the steps (an adaptive solver: ten times rtol and
            atol), both under one probe held fixed so that its noise drops out. For a method of order 2 that is the
            error; for one of a higher order it is more than the error. With fixed steps it is not less than what the
            errors of the state along the path make of log p (`likelihood.defect`): half the steps may err alike. With
            a tolerance, not less than a quarter of what it was at half the steps either. Without a second solve it is
            those errors of the state alone, which know nothing of the quadrature of the trace; None with a solver that
            chooses its own steps.
        truncation: log p_{t_eps}(x) - log p_0(x), what is due to the density being that of the data with the noise of
            t_eps still in it. To first order in t, from the first evaluation,
            -ln(alpha)(d + x.s) + (|eps|^2 - (d - tr J_D))/2,   s = -eps/sigma;
            signed; it means what it says where the data's density is smooth at the scale sigma(t_eps). With
            truncation="decoder": log p_{t_eps}(x) less a lower bound on log p_0(x).
        prior: KL(N(alpha_T x_0, sigma_T^2 I) || prior) at x_0 = x/alpha(t_eps). Its mean over the data bounds
            KL(p_T || prior), the mean error of log p that comes from taking the prior for p_T.
            Where log_likelihood was told the target that the model is exact for, truncation is exact, and prior is
            |log p_T(x_T) - log prior(x_T)|.
        unknown: why an entry is None.
        met: which samples' total is within the tolerance asked for, told from three solves or more, bool (B,); None
            where none was.

    The model's own error, of its score against the data's, is in none of them; nor is that of treating discrete data
    as continuous.
    """

    probe: Tensor
    integration: Tensor | None
    truncation: Tensor
    prior: Tensor
    unknown: dict[str, str] = field(default_factory=dict)
    met: Tensor | None = None

    @property
    def total(self) -> Tensor:
        """sqrt(probe^2 + integration^2) + prior, (B,): the error of log_prob as the density at t_eps, so without
        `truncation`; what is None counts as 0.
        """
        return total_error(self.probe, self.integration, self.prior)

    @classmethod
    def join(cls, parts: list[Budget]) -> Budget:
        """The budgets of consecutive samples as one."""

        def joined(name: str) -> Tensor | None:
            values = [getattr(part, name) for part in parts]
            return None if values[0] is None else torch.cat(values)

        entries: dict[str, Any] = {f.name: joined(f.name) for f in fields(cls) if f.name != "unknown"}
        return cls(**entries, unknown=parts[0].unknown)

    def to_dict(self) -> dict[str, Tensor | None]:
        """The four entries by name."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("unknown", "met")}

    def __str__(self) -> str:
        lines = ["error in nats         mean  largest"]
        for name, value in self.to_dict().items():
            if value is None:
                lines.append(f"{name:<12} {'-':>13} {'-':>8}  {self.unknown[name]}")
            else:
                mean, largest = float(value.mean()), float(value.abs().max())
                lines.append(f"{name:<12} {mean:>13.3g} {largest:>8.3g}  {_MEANING[name]}")
        return "\n".join(lines)


def total_error(probe: Tensor, integration: Tensor | None, prior: Tensor) -> Tensor:
    """sqrt(probe^2 + integration^2) + prior, (B,)."""
    # Not torch.hypot, which rounds otherwise at the end of a batch than within it.
    squares = probe.square() if integration is None else probe.square() + integration.square()
    return torch.sqrt(squares) + prior
