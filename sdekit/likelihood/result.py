r"""What a log-likelihood is returned as: the values, how far they can be trusted, and other units."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, final

import torch
from torch import Tensor

from sdekit._tensors import check_number, check_positive_integer
from sdekit.errors import ArgumentError
from sdekit.likelihood.budget import Budget
from sdekit.solvers.solution import Status

__all__ = ["Kind", "LogLikelihood", "bin_width"]

Kind = Literal["exact", "unbiased", "bound", "approximate"]


@final
@dataclass(frozen=True)
class LogLikelihood:
    """The result of `log_likelihood`.

    Attributes:
        log_prob: log-density at t_eps of each sample, in nats with respect to the units of x: float64 (B,). NaN where
            the solve did not reach T.
        std_error: its standard error from what was drawn (probes, paths, times), (B,): 0 with the exact divergence, NaN
            where it cannot be told.
        latent: where the probability flow takes x at T, of the shape and dtype of x; None where no flow was solved.
        nfe: network evaluations, counted at the network; an int, or (B,) where samples differ.
        budget: the errors of log_prob.
        status: "success", or why an adaptive solver ended early.
        divergence: how the trace was had; for estimators without a trace, how they were set.
        dim: d, the number of coordinates of one sample.
        kind: what log_prob is, apart from `budget`: "exact" (the flow with the exact trace), "unbiased" (the flow with
            an estimated trace: log_prob is right in the mean over probes), "bound" (at most log p, in the mean over
            draws) or "approximate" (biased by its steps).
    """

    log_prob: Tensor
    std_error: Tensor
    latent: Tensor | None
    nfe: int | Tensor
    budget: Budget
    status: Status
    divergence: str
    dim: int
    kind: Kind = "unbiased"

    @property
    def log_prob_0(self) -> Tensor:
        """Log-density at t = 0, of the data itself, to first order in t_eps: log_prob - budget.truncation, (B,)."""
        return self.log_prob - self.budget.truncation

    @classmethod
    def join(cls, parts: list[LogLikelihood]) -> LogLikelihood:
        """The results of consecutive samples as one."""
        if len(parts) == 1:
            return parts[0]
        nfe: int | Tensor = parts[0].nfe
        if not all(isinstance(p.nfe, int) and p.nfe == nfe for p in parts):
            nfe = torch.cat([torch.as_tensor(p.nfe).expand(len(p.log_prob)) for p in parts])
        latents = [p.latent for p in parts if p.latent is not None]
        ended: list[Status] = [p.status for p in parts if p.status != "success"]
        return replace(
            parts[0],
            log_prob=torch.cat([p.log_prob for p in parts]),
            std_error=torch.cat([p.std_error for p in parts]),
            latent=torch.cat(latents) if latents else None,
            nfe=nfe,
            budget=Budget.join([p.budget for p in parts]),
            status=ended[0] if ended else "success",
        )

    def bits_per_dim(self, *, data_range: tuple[float, float], levels: int = 1) -> Tensor:
        r"""Bits for each coordinate of data that lies in `data_range` in the units of x, float64 (B,).

            bits/dim = -log2 p(x)/d - log2 w,    w = (high - low)/levels

        w is the width of one bin. With levels=256, the range being covered by 256 bins, it is the code length of 8-bit
        data that was uniformly dequantised (each value spread over its bin): -log2(p w^d)/d. With levels=1, unless
        given, it is -log2 p/d for the data scaled to [0, 1]: nothing is taken to be 8-bit that was not said to be. For
        data in [-1, 1] and 256 levels the last term is +7, for [0, 1] it is +8. Where levels lie *on* both ends, as in
        x = k/127.5 - 1, the bins reach half a bin beyond: data_range=(-1 - 1/255, 1 + 1/255).

        It is for data that is continuous, or was dequantised by hand; `discrete_log_likelihood` takes the levels.

        Raises:
            ArgumentError: if data_range is not two finite numbers, the lower first, or levels is no positive integer.
        """
        return -self.log_prob / (self.dim * math.log(2)) - math.log2(bin_width(data_range, levels))

    def __repr__(self) -> str:
        nfe = self.nfe if isinstance(self.nfe, int) else f"{int(self.nfe.min())} to {int(self.nfe.max())}"
        mean, error = (
            float(self.log_prob.mean()),
            float(torch.sqrt(self.std_error.square().sum()) / len(self.std_error)),
        )
        return (
            f"LogLikelihood({len(self.log_prob)} samples, {self.kind}, mean {mean:.6g} nats, probe error of the mean "
            f"{error:.2g}, divergence={self.divergence}, nfe={nfe}, status={self.status!r})"
        )


def bin_width(data_range: tuple[float, float], levels: int) -> float:
    """The width of each of the `levels` bins that cover `data_range`; raises as `bits_per_dim`."""
    if not isinstance(data_range, (tuple, list)) or len(data_range) != 2:
        raise ArgumentError(f"data_range must be (low, high), the range of the data in x, got {data_range!r}.")
    low, high = (check_number("data_range", bound) for bound in data_range)
    if not low < high:
        raise ArgumentError(f"data_range must be (low, high) with low < high, got {data_range!r}.")
    return (high - low) / check_positive_integer("levels", levels)
