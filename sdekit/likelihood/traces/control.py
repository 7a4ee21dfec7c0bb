r"""A control variate for traces: the Jacobian of the denoiser of a Gaussian, whose trace is known.

For data N(m, C), J_G = C (C + sigma~^2 I)^-1. With any beta that does not know v, v^T (J - beta J_G) v + beta tr J_G
has the mean of v^T J v; its variance is least near beta = <J, J_G>/<J_G, J_G>, which products at past nodes estimate:
at nodes whose draws do not depend on v.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from sdekit.errors import ArgumentError, ShapeError
from sdekit.likelihood.traces.base import inner

__all__ = ["GaussianControl", "OpenControl"]

_REMEMBERED = 4  # nodes


@final
@dataclass(frozen=True, eq=False)
class GaussianControl:
    """The Gaussian N(m, C): only its covariance matters.

    Args:
        covariance: C over flattened samples, (d, d), symmetric, no eigenvalue below 0.

    Raises:
        ShapeError, ArgumentError: if it is none.
    """

    covariance: Tensor

    def __post_init__(self) -> None:
        c = self.covariance
        if not isinstance(c, Tensor) or c.ndim != 2 or c.shape[0] != c.shape[1]:
            raise ShapeError(f"covariance must be a (d, d) tensor, got {getattr(c, 'shape', type(c).__name__)!r}.")
        c = c.detach().double()
        size = float(c.abs().max())
        if not bool(torch.isfinite(c).all()) or float((c - c.mT).abs().max()) > 1e-6 * size:
            raise ArgumentError("covariance must be finite and symmetric.")
        c = 0.5 * (c + c.mT)
        values = torch.linalg.eigvalsh(c)
        if float(values[0]) < -1e-5 * float(values[-1]):  # less is the rounding of a covariance in float32
            raise ArgumentError("covariance must have no eigenvalue below 0; is it a covariance? (`fit` makes one.)")
        object.__setattr__(self, "covariance", c)

    @classmethod
    def fit(cls, data: Tensor) -> GaussianControl:
        """The Gaussian of the data's own covariance; data (n, *), n of at least 2.

        Raises:
            ShapeError: for fewer samples.
        """
        if not isinstance(data, Tensor) or data.ndim < 2 or len(data) < 2:
            raise ShapeError("a covariance needs at least two samples: data of shape (n, *), n >= 2.")
        flat = data.detach().double().reshape(len(data), -1)
        centred = flat - flat.mean(0)
        return cls(centred.mT @ centred / (len(data) - 1))

    def open(self, d: int, device: torch.device, block: int | None = 1) -> OpenControl:
        """The control for one path of samples of d coordinates, with draws that depend on each other in blocks."""
        if len(self.covariance) != d:
            raise ShapeError(f"the control is a Gaussian of {len(self.covariance)} coordinates, the samples have {d}.")
        values, vectors = torch.linalg.eigh(self.covariance.to(device))
        return OpenControl(values.clamp(min=0), vectors, block)


@final
class OpenControl:
    """The control on one path.

    Args:
        values, vectors: eigenvalues and eigenvectors of C.
        block: how many consecutive nodes have draws that depend on each other; None for all. beta comes from the last
            nodes before the block, and is 1, as for data that is this Gaussian, where there are none.
    """

    def __init__(self, values: Tensor, vectors: Tensor, block: int | None) -> None:
        self._values, self._vectors, self._block = values, vectors, block
        self._node = 0
        self._past: list[tuple[Tensor, Tensor]] = []
        self._beta: Tensor | None = None

    def corrected(
        self, forms: list[Tensor], probes: list[Tensor], products: list[Tensor], level: float
    ) -> list[Tensor]:
        """The forms v^T J v with beta (tr J_G - v^T J_G v) added, at noise level sigma~."""
        shrunk = self._values / (self._values + level**2)
        # Vector by vector: products with the whole batch at once would round according to its size.
        of_gaussian = [torch.stack([self._vectors @ (shrunk * (self._vectors.mT @ row)) for row in v]) for v in probes]
        if self._block is not None and self._node % self._block == 0:
            self._beta = self._learnt()
        self._node += 1
        beta = torch.ones_like(forms[0]) if self._beta is None else self._beta
        trace = float(shrunk.sum())
        corrected = [form + beta * (trace - inner(v, g)) for form, v, g in zip(forms, probes, of_gaussian, strict=True)]
        both = [inner(w, g) for w, g in zip(products, of_gaussian, strict=True)]
        own = [inner(g, g) for g in of_gaussian]
        self._past = [(_total(both), _total(own)), *self._past[: _REMEMBERED - 1]]
        return corrected

    def again(self) -> OpenControl:
        """The same for another path."""
        return OpenControl(self._values, self._vectors, self._block)

    def _learnt(self) -> Tensor | None:
        if not self._past:
            return None
        both, own = _total([b for b, _ in self._past]), _total([o for _, o in self._past])
        return torch.where(own > 0, both / own, 0.0)


def _total(values: list[Tensor]) -> Tensor:
    total = values[0]
    for value in values[1:]:
        total = total + value
    return total
