r"""The probability flow in u = ln(sigma/alpha), as any solver of ODEs may integrate it.

With sigma~ = sigma/alpha, x~ = x/alpha, D the denoised x_0 and eps the noise that the model predicts,

    dx~/du = x~ - D = sigma~ eps

(Song et al. 2021, arXiv 2011.13456, appendix D, in this variable).
"""

from __future__ import annotations

import copy
from typing import final

import torch
from torch import Tensor

from sdekit._tensors import expand_right
from sdekit.dynamics import Dynamics
from sdekit.errors import ArgumentError
from sdekit.models.score import ScoreModel
from sdekit.sdes import Calculus

__all__ = ["LogSigmaFlow"]


@final
class LogSigmaFlow(Dynamics):
    """dx~/du = sigma~ eps(alpha x~, t(u)): the state is x~, (B, *).

    Args:
        model: whose flow it is.
        span: the times (t_eps, T) of the data's and the noise's end.
    """

    stochastic = False
    noise = None
    calculus: Calculus = "ito"

    def __init__(self, model: ScoreModel, span: tuple[float, float]) -> None:
        self._model, self._span = model, span
        self.counter = model.counter

    def time(self, u: Tensor) -> Tensor:
        """The t at which ln(sigma/alpha) = u."""
        return self._model.sde.time_of_log_snr(-2 * u).clamp(*self._span)

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        u = t.reshape(-1) if t.ndim else t
        time = self.time(u)
        noise = self._model.noise(expand_right(self._model.sde.alpha(time), x).to(x) * x, time)
        return expand_right(torch.exp(u), x).to(x) * noise

    def diffusion(self, x: Tensor, t: Tensor) -> Tensor:
        raise ArgumentError(f"{self!r} is an ODE: it has no diffusion.")

    def noise_shape(self, shape: torch.Size | tuple[int, ...]) -> tuple[int, ...]:
        raise ArgumentError(f"{self!r} is an ODE: it takes no noise.")

    def counted(self) -> Dynamics:
        return LogSigmaFlow(self._model.counted(), self._span)

    def rows(self, which: slice | Tensor, shape: tuple[int, ...]) -> Dynamics:
        other = copy.copy(self)
        other._model = self._model.rows(which, shape[0])
        other.counter = other._model.counter
        return other

    def __repr__(self) -> str:
        return f"LogSigmaFlow({self._model!r})"
