r"""The probability flow with the change of its log-density beside it, in u = ln(sigma/alpha).

With sigma~ = sigma/alpha, x~ = x/alpha, D the denoised x_0 and eps the noise that the model predicts,

    dx~/du = x~ - D = sigma~ eps
    dl/du  = tr J_D,    J_D = dD/dx~

so that the linear part of the flow is exact and only tr J_D, which goes from d at the data to 0 at the noise, is left
to a quadrature (Song et al. 2021, arXiv 2011.13456, appendix D, in this variable).
"""

from __future__ import annotations

import copy
from typing import final

import torch
from torch import Tensor

from sdekit.dynamics import Dynamics
from sdekit.errors import ArgumentError
from sdekit.likelihood.divergence import Traces, column_mean
from sdekit.models.predictions import conversion
from sdekit.models.score import ScoreModel
from sdekit.sdes import Calculus

__all__ = ["AugmentedFlow"]


@final
class AugmentedFlow(Dynamics):
    """The state (x~, l_1, …, l_K), flat: (B, d + K), float64; the network is evaluated in the dtype of x.

    One network evaluation gives both D and the products with J_D.

    Args:
        model: whose flow it is.
        traces: how tr J_D is had; each of its K columns is integrated on its own.
        shape: of x, (B, *).
        dtype: of x.
        span: the times (t_eps, T) of the data's and the noise's end.
        truncation: (B,), float64, where a solve leaves the change of log-density between t = 0 and its start, to first
            order (see Budget.truncation); it comes from the first evaluation and so costs nothing.
    """

    stochastic = False
    noise = None
    calculus: Calculus = "ito"

    def __init__(
        self,
        model: ScoreModel,
        traces: Traces,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        span: tuple[float, float],
        truncation: Tensor,
    ) -> None:
        self._model, self._traces = model, traces
        self._sample_shape, self._dtype, self._span = shape[1:], dtype, span
        self._truncation = truncation
        self._first = True
        self.counter = model.counter

    def time(self, u: Tensor) -> Tensor:
        """The t at which ln(sigma/alpha) = u."""
        return self._model.sde.time_of_log_snr(-2 * u).clamp(*self._span)

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        state, u, sde, kind = x, t, self._model.sde, self._model.prediction
        time = self.time(u)
        alpha = _column(sde.alpha(time))
        with torch.enable_grad():
            d = state.shape[1] - self._traces.columns
            point = (alpha * state[:, :d]).to(self._dtype).reshape(-1, *self._sample_shape).detach().requires_grad_()
            out = self._model.raw(point, self._model.labels(time, point))
            forms, squares = self._traces(out, point)
        wide_point, wide_out = (v.detach().double().reshape(len(state), d) for v in (point, out))

        def converted(to: str, x: Tensor, o: Tensor) -> Tensor:
            p, q = conversion(kind, to, sde, time)  # type: ignore[arg-type]
            return _column(p) * x + _column(q) * o

        noise = converted("noise", wide_point, wide_out)
        trace = alpha * converted("data", squares, forms)
        if self._first:
            self._first = False
            self._truncation.copy_(_truncation(sde.log_alpha(time), sde.sigma(time), wide_point, noise, trace))
        return torch.cat([_column(torch.exp(u)) * noise, trace], 1)

    def diffusion(self, x: Tensor, t: Tensor) -> Tensor:
        raise ArgumentError(f"{self!r} is an ODE: it has no diffusion.")

    def noise_shape(self, shape: torch.Size | tuple[int, ...]) -> tuple[int, ...]:
        raise ArgumentError(f"{self!r} is an ODE: it takes no noise.")

    def counted(self) -> Dynamics:
        batch = len(self._truncation)
        # Traces of their own, so that a second solve of the same flow draws the same probes.
        return self._with(self._model.counted(), self._traces.part(0, batch, batch), self._truncation)

    def rows(self, which: slice | Tensor, shape: tuple[int, ...]) -> Dynamics:
        if not isinstance(which, slice):
            raise ArgumentError("the augmented flow is cut into slices of its batch only: its probes are drawn so.")
        start, stop, _ = which.indices(shape[0])
        model, traces = self._model.part(start, stop, shape[0]), self._traces.part(start, stop, shape[0])
        return self._with(model, traces, self._truncation[start:stop])

    def _with(self, model: ScoreModel, traces: Traces, truncation: Tensor) -> Dynamics:
        other = copy.copy(self)
        other._model, other._traces, other._truncation, other._first = model, traces, truncation, True
        other.counter = model.counter
        return other

    def __repr__(self) -> str:
        return f"AugmentedFlow({self._model!r})"


def _column(coefficient: Tensor) -> Tensor:
    """() as it is, (B,) as (B, 1)."""
    return coefficient[:, None] if coefficient.ndim else coefficient


def _truncation(log_alpha: Tensor, sigma: Tensor, x: Tensor, noise: Tensor, trace: Tensor) -> Tensor:
    """log p_t(x) - log p_0(x) to first order in t: -ln(alpha)(d + x.s) + (|eps|^2 - (d - tr J_D))/2: (B,).

    It integrates d log p_t/dt = -f (d + x.s) + g^2/2 (div s + |s|^2), the Fokker-Planck equation, with p_t held;
    s = -eps/sigma and sigma^2 div s = tr J_D - d.
    """
    d = x.shape[1]
    along = d - (x * noise).sum(1) / sigma
    return -log_alpha * along + 0.5 * (noise.square().sum(1) - d + column_mean(trace))
