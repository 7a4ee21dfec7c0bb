r"""An orthogonal basis whose first vectors follow the dominant directions of a slowly changing J.

From pairs (v_i, w_i = J v_i) of past nodes, with W their matrix and G = (V^T W + W^T V)/2, Nystroem's approximation is
J ~ W G^+ W^T (Nystroem 1930; for randomised v: Tropp et al. 2017, arXiv 1706.05736); its eigenvectors are the columns
of W G^(-1/2) E, E those of G^(-1/2) W^T W G^(-1/2). A network's J may have negative eigenvalues: |G| then stands for G,
which keeps the range. Householder reflections make the first basis vectors of those whose eigenvalues stand out,
exactly orthogonal whatever the pairs were, and leave the others near the standard basis (Householder 1958).
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from sdekit.likelihood.traces.base import inner

__all__ = ["Directions"]

_SMALLEST = 1e-3  # eigenvalues of G below this part of the largest are rounding, or a J that changed meanwhile
_TURNED = 1e-6  # the same as a part of |V||W|, where J turns every v into a direction orthogonal to it

# Followed directions turn the basis: where J is near diagonal in the standard one, as a network's is at low noise, that
# makes noise, so that only those are followed that stand out by this factor (measured in docs/likelihood.md).
_STANDS_OUT = 4.0
_LEAST_LEVEL = 0.1  # of the mean eigenvalue


@final
class Directions:
    """The basis, made anew from the latest pairs by each `refresh`; the standard basis before there are any.

    Args:
        most: how many pairs are remembered, and the most directions that are followed.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._pairs: list[tuple[Tensor, Tensor]] = []
        self._reflectors: list[Tensor] = []

    def note(self, v: Tensor, w: Tensor) -> None:
        """Remember w = J v, both (B, d); the oldest pair is forgotten where there are too many."""
        self._pairs = [(v, w), *self._pairs[: self._most - 1]]

    def refresh(self) -> None:
        """Take the basis from what is remembered now."""
        if self._pairs:
            self._reflectors = _reflectors(_dominant(self._pairs))

    def basis_times(self, s: Tensor) -> Tensor:
        """Q s, (B, d)."""
        for h in reversed(self._reflectors):
            s = s - (2 * inner(h, s))[:, None] * h
        return s


def _dominant(pairs: list[tuple[Tensor, Tensor]]) -> list[Tensor]:
    """Multiples of the eigenvectors of Nystroem's J, the largest eigenvalue first, each (B, d)."""
    vs = [v for v, _ in pairs]
    size = torch.stack([w.abs().amax(1) for _, w in pairs]).amax(0)
    ws = [w / torch.where(size > 0, size, 1.0)[:, None] for _, w in pairs]  # only directions count
    crossed, squares = _gram(vs, ws), _gram(ws, ws)
    values, vectors = torch.linalg.eigh(0.5 * (crossed + crossed.mT))
    values = values.abs()
    lengths = torch.sqrt(_total([inner(v, v) for v in vs]) * _total([inner(w, w) for w in ws]))[:, None]
    floor = _SMALLEST * values.amax(1, keepdim=True) + _TURNED * lengths
    root = vectors * torch.rsqrt(torch.where(floor > 0, values + floor, 1.0))[:, None, :]
    found, turned = torch.linalg.eigh(_product(_product(root.mT, squares), root))
    weights = _product(root, turned).flip(2) * _standing_out(found.flip(1), vs, ws)[:, None, :]
    columns = []
    for j in range(len(pairs)):
        column = torch.zeros_like(ws[0])
        for i, w in enumerate(ws):
            column = column + weights[:, i, j, None] * w
        columns.append(column)
    return columns


def _standing_out(values: Tensor, vs: list[Tensor], ws: list[Tensor]) -> Tensor:
    """1 for the eigenvalues of Nystroem's J, (B, m), that stand out of the others', 0 for those that do not.

    The others' level is what the mean of v^T J v, the trace, leaves for each of them.
    """
    d, m = vs[0].shape[1], len(vs)
    trace = _total([inner(v, w) for v, w in zip(vs, ws, strict=True)]).abs() / m
    found = values.clamp(min=0)
    rest = (trace - _total(list(found.unbind(1)))).clamp(min=0) / d
    level = torch.maximum(rest, _LEAST_LEVEL * trace / d)
    return (found > _STANDS_OUT * level[:, None]).double()


def _reflectors(columns: list[Tensor]) -> list[Tensor]:
    """Unit vectors h_1, h_2, …: (I - 2 h_1 h_1^T)(I - 2 h_2 h_2^T)… has the columns' directions first, up to signs."""
    reflectors: list[Tensor] = []
    d = columns[0].shape[1]
    for j, column in enumerate(columns[: d - 1]):
        for h in reflectors:
            column = column - (2 * inner(h, column))[:, None] * h
        below = column.clone()
        below[:, :j] = 0
        length = torch.sqrt(inner(below, below))
        below[:, j] += torch.copysign(length, below[:, j])
        norm = torch.sqrt(inner(below, below))
        # A column of zeros gives no direction, and no reflection.
        reflectors.append(torch.where(norm > 0, 1 / norm, 0.0)[:, None] * below)
    return reflectors


def _total(values: list[Tensor]) -> Tensor:
    total = values[0]
    for value in values[1:]:
        total = total + value
    return total


def _gram(left: list[Tensor], right: list[Tensor]) -> Tensor:
    """The inner products of each sample, (B, m, n)."""
    return torch.stack([torch.stack([inner(a, b) for b in right], 1) for a in left], 1)


def _product(a: Tensor, b: Tensor) -> Tensor:
    """The matrix product of each sample, summed in one order whatever the batch is."""
    total = a[:, :, 0, None] * b[:, 0, None, :]
    for i in range(1, a.shape[2]):
        total = total + a[:, :, i, None] * b[:, i, None, :]
    return total
