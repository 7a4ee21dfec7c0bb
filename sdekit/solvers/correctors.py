r"""Correctors: Markov chain Monte Carlo at a fixed time, with p_t as its stationary law.

    x <- x + e s(x, t) + sqrt(2 e) z,   n_steps times

Song et al. 2021, arXiv 2011.13456, algorithms 4 and 5. a~ = (alpha(t)/alpha(next))^2 is 1 for VE and 1 - beta of the
step for VP, always in (0, 1]: the published 1 - beta(t) dt turns negative, and its root NaN, on short grids.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass, fields
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from sdekit._tensors import check_positive, check_positive_integer, expand_right, per_sample_norm
from sdekit.errors import UnknownNameError
from sdekit.models.score import ScoreModel
from sdekit.noise import NoiseStream

__all__ = ["CORRECTORS", "AnnealedLangevin", "Corrector", "Langevin"]

_FEW_DIMENSIONS = 16


class Corrector(abc.ABC):
    """Moves x at time t without leaving p_t.

    `biased_below` is the size of a sample below which the corrector is known to leave p_t.
    """

    name: ClassVar[str]
    n_steps: int
    couples_batch: bool = False
    biased_below: int = 0

    @abc.abstractmethod
    def step_size(self, model: ScoreModel, score: Tensor, z: Tensor, t: float, contraction: float) -> Tensor | float:
        """e, as (B,) or a number; contraction is a~."""

    def correct(self, model: ScoreModel, x: Tensor, t: float, s: float, noise: NoiseStream) -> None:
        """n_steps corrections of x, in place, before the step from t to s."""
        contraction = float(model.sde.alpha(t) / model.sde.alpha(s)) ** 2
        for _ in range(self.n_steps):
            score = model.score(x, t)
            z = noise.next(t, s)
            e = self.step_size(model, score, z, t, contraction)
            if isinstance(e, Tensor):
                e = expand_right(e.to(x.dtype), x)
                x.add_(e * score).add_(torch.sqrt(2 * e) * z)
            else:
                x.add_(score, alpha=e).add_(z, alpha=(2 * e) ** 0.5)

    def __repr__(self) -> str:
        options: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in options.items())})"


@final
@dataclass(frozen=True, repr=False)
class Langevin(Corrector):
    r"""e = 2 a~ (r ||z|| / ||s||)^2 with r the signal-to-noise ratio `snr`.

    norms="sample": each sample its own norms; norms="batch": the batch means of both, as in the paper's code, which
    makes a sample depend on its batch. A sample whose score is exactly 0 is not moved.

    A sample's own norms concentrate only in many dimensions. In few, e follows the score at x, so that p_t is no longer
    the stationary law: in 2 dimensions at snr = 0.16 samples spread to several times the right deviation. A UserWarning
    says so below 16 dimensions.
    """

    snr: float = 0.16
    n_steps: int = 1
    norms: str = "sample"
    name: ClassVar[str] = "langevin"

    def __post_init__(self) -> None:
        check_positive("snr", self.snr)
        check_positive_integer("n_steps", self.n_steps)
        if self.norms not in ("sample", "batch"):
            raise UnknownNameError("norms", self.norms, ("sample", "batch"))

    @property
    def couples_batch(self) -> bool:  # type: ignore[override]
        return self.norms == "batch"

    @property
    def biased_below(self) -> int:  # type: ignore[override]
        return _FEW_DIMENSIONS if self.norms == "sample" else 0

    def step_size(self, model: ScoreModel, score: Tensor, z: Tensor, t: float, contraction: float) -> Tensor:
        noise_norm, score_norm = per_sample_norm(z), per_sample_norm(score)
        if self.norms == "batch":
            noise_norm, score_norm = noise_norm.mean().expand_as(noise_norm), score_norm.mean().expand_as(score_norm)
        ratio = torch.where(score_norm > 0, self.snr * noise_norm / score_norm, torch.zeros_like(score_norm))
        return 2 * contraction * ratio.square()


@final
@dataclass(frozen=True, repr=False)
class AnnealedLangevin(Corrector):
    r"""e = 2 a~ (r sigma(t))^2 with r = `snr` (Song & Ermon 2019, arXiv 1907.05600)."""

    snr: float = 0.16
    n_steps: int = 1
    name: ClassVar[str] = "ald"

    def __post_init__(self) -> None:
        check_positive("snr", self.snr)
        check_positive_integer("n_steps", self.n_steps)

    def step_size(self, model: ScoreModel, score: Tensor, z: Tensor, t: float, contraction: float) -> float:
        return 2 * contraction * (self.snr * float(model.sde.sigma(t))) ** 2


CORRECTORS: dict[str, type[Corrector]] = {c.name: c for c in (Langevin, AnnealedLangevin)}
