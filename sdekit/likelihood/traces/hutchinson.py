r"""Hutchinson's estimate v^T J v, E[v v^T] = I, and how to choose v better than independently.

The variance of v = Q s with s of independent signs and Q orthogonal is 2 sum_{i != j} (Q^T J Q)_ij^2 for a symmetric J:
it depends on the basis alone, and is 0 in that of J's eigenvectors. Along a path J changes little from node to node,
and the products J v of past nodes show its dominant directions; so Q can follow them.
"""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass, replace
from typing import Literal, final, get_args

import torch
from torch import Tensor

from sdekit._tensors import check_positive_integer
from sdekit.errors import ArgumentError, UnknownNameError
from sdekit.likelihood.traces.base import Divergence, Jacobian, Traces, inner
from sdekit.likelihood.traces.control import GaussianControl, OpenControl
from sdekit.likelihood.traces.directions import Directions
from sdekit.likelihood.traces.probes import Probes, ProbeSource, signs_of
from sdekit.noise import NoiseSource

__all__ = ["Along", "Distribution", "Hutchinson"]

Distribution = Literal["adapted", "rademacher", "gaussian", "hadamard"]
Along = Literal["independent", "fixed"]


@final
@dataclass(frozen=True)
class Hutchinson(Divergence):
    """v^T J v with random probes v (Hutchinson 1990, doi 10.1080/03610919008812866).

    Args:
        probes: K, probes at each node; what they differ by at each node tells the standard error. From one, it is told
            by how much the values scatter along the path, which is rougher.
        distribution: "adapted" (ours; no paper): signs in an orthogonal basis whose first vectors follow the dominant
            directions of J, as the products at past nodes show them; two nodes at a time share the basis, and every
            second sign is turned at the second. Unbiased, since the basis knows nothing of the signs.
            "hadamard": a randomly signed row of a Hadamard matrix at each node, a new one each time until all were
            there. "rademacher": independent signs. "gaussian": independent normal numbers.
        along: "independent" draws anew at each node (with "adapted" and "hadamard", as they say), so that errors
            average along the path; "fixed" keeps one draw for the whole path (Grathwohl et al. 2019, arXiv 1810.01367),
            for "rademacher" and "gaussian".
        control: a Gaussian whose Jacobian, of known trace, is subtracted first.
    """

    probes: int = 2
    distribution: Distribution = "adapted"
    along: Along = "independent"
    control: GaussianControl | None = None

    name = "hutchinson"

    def __post_init__(self) -> None:
        check_positive_integer("probes", self.probes)
        if self.distribution not in get_args(Distribution):
            raise UnknownNameError("distribution of probes", self.distribution, get_args(Distribution))
        if self.along not in get_args(Along):
            raise UnknownNameError("placement of probes along the path", self.along, get_args(Along))
        if self.along == "fixed" and self.distribution in ("adapted", "hadamard"):
            raise ArgumentError(
                f"{self.distribution!r} probes change along the path; probes_along='fixed' goes with "
                "probe_distribution='rademacher' or 'gaussian'."
            )
        if self.control is not None and not isinstance(self.control, GaussianControl):
            raise ArgumentError(f"control must be a GaussianControl or None, got {self.control!r}.")

    def more(self, factor: int) -> Divergence:
        return replace(self, probes=factor * self.probes)

    def products(self, d: int) -> int:
        return self.probes

    def open(self, batch: int, d: int, source: NoiseSource, device: torch.device) -> Traces:
        chooser = _chooser(self, ProbeSource(source, batch, self.probes, d, device))
        control = None if self.control is None else self.control.open(d, device, chooser.block)
        return _HutchinsonTraces(chooser, control)


def _chooser(settings: Hutchinson, draws: ProbeSource) -> _Chooser:
    if settings.distribution == "adapted":
        return _Adapted(draws)
    if settings.distribution == "hadamard":
        return _Hadamard(draws)
    return _Independent(draws, settings.distribution, settings.along)


@final
class _HutchinsonTraces(Traces):
    def __init__(self, chooser: _Chooser, control: OpenControl | None) -> None:
        self._chooser, self._control = chooser, control
        self.columns, self.block = chooser.count, chooser.block

    def at(self, jacobian: Jacobian) -> Tensor:
        probes = self._chooser.next()
        products = [jacobian.product(v) for v in probes]
        self._chooser.learn(probes, products)
        forms = [inner(v, w) for v, w in zip(probes, products, strict=True)]
        if self._control is not None:
            forms = self._control.corrected(forms, probes, products, jacobian.level)
        return torch.stack(forms)

    def part(self, start: int, stop: int, total: int) -> Traces:
        control = None if self._control is None else self._control.again()
        return _HutchinsonTraces(self._chooser.part(start, stop, total), control)


class _Chooser(abc.ABC):
    """Chooses the probes of each node, K of them, each (B, d) in float64."""

    count: int
    block: int | None

    def __init__(self, draws: ProbeSource) -> None:
        self._draws = draws
        self._probes: Probes = draws.open()
        self.count = draws.count

    @abc.abstractmethod
    def next(self) -> list[Tensor]:
        """The probes of the next node."""

    @abc.abstractmethod
    def learn(self, probes: list[Tensor], products: list[Tensor]) -> None:
        """Take note of the products J^T v at this node."""

    @abc.abstractmethod
    def part(self, start: int, stop: int, total: int) -> _Chooser:
        """The same for samples start … stop - 1 of `total`, from the first node on."""


@final
class _Independent(_Chooser):
    def __init__(self, draws: ProbeSource, distribution: Distribution, along: Along) -> None:
        super().__init__(draws)
        self._distribution: Distribution = distribution
        self._along: Along = along
        self._kept: list[Tensor] | None = None
        self.block = None if along == "fixed" else 1

    def next(self) -> list[Tensor]:
        if self._kept is not None:
            return self._kept
        normal = self._probes.next()
        drawn = signs_of(normal) if self._distribution == "rademacher" else normal
        if self._along == "fixed":
            self._kept = drawn
        return drawn

    def learn(self, probes: list[Tensor], products: list[Tensor]) -> None:
        """These probes follow nothing."""

    def part(self, start: int, stop: int, total: int) -> _Chooser:
        return _Independent(self._draws.part(start, stop, total), self._distribution, self._along)


@final
class _Hadamard(_Chooser):
    r"""v_i = s h_i: rows h of a Hadamard matrix of 2^m >= d columns, the first d of them, and signs s.

    Rows are taken in an order of their own for each sample, drawn anew with the signs once all 2^m were there. Summed
    over all rows, off-diagonal entries of a constant J cancel.
    """

    def __init__(self, draws: ProbeSource) -> None:
        super().__init__(draws)
        self._size = 2 ** math.ceil(math.log2(draws.d))
        self._node = 0
        self._signs: list[Tensor] = []
        self._shift: list[Tensor] = []
        self._column = torch.arange(draws.d, device=draws.device)
        self.block = self._size

    def next(self) -> list[Tensor]:
        row = self._node % self._size
        if row == 0:
            drawn = self._probes.next()
            self._signs = signs_of(drawn)
            # The signs of the first entries, as bits, say which row comes first: exclusive or with it is a permutation.
            bits = self._size.bit_length() - 1
            powers = 2 ** torch.arange(bits, device=self._draws.device)
            again = signs_of(self._probes.next())
            self._shift = [((s[:, :bits] > 0).long() * powers[: s[:, :bits].shape[1]]).sum(1) for s in again]
        self._node += 1
        return [
            s * _parity_sign((row ^ shift)[:, None] & self._column)
            for s, shift in zip(self._signs, self._shift, strict=True)
        ]

    def learn(self, probes: list[Tensor], products: list[Tensor]) -> None:
        """These probes follow nothing."""

    def part(self, start: int, stop: int, total: int) -> _Chooser:
        return _Hadamard(self._draws.part(start, stop, total))


def _parity_sign(bits: Tensor) -> Tensor:
    """(-1)^(number of ones), float64: the entries h_ij = (-1)^(ones of i and j) of Sylvester's Hadamard matrix."""
    shift = 32
    while shift:
        bits = bits ^ (bits >> shift)
        shift //= 2
    return 1.0 - 2.0 * (bits & 1).double()


@final
class _Adapted(_Chooser):
    """Signs in a basis that follows J, two nodes at a time."""

    def __init__(self, draws: ProbeSource) -> None:
        super().__init__(draws)
        self._node = 0
        self._signs: list[Tensor] = []
        self._turn = 1.0 - 2.0 * (torch.arange(draws.d, device=draws.device) % 2).double()
        self._directions = Directions(min(4 * draws.count, 8))
        self.block = 2

    def next(self) -> list[Tensor]:
        if self._node % 2 == 0:
            self._signs = signs_of(self._probes.next())
            self._directions.refresh()
        signs = self._signs if self._node % 2 == 0 else [s * self._turn for s in self._signs]
        self._node += 1
        return [self._directions.basis_times(s) for s in signs]

    def learn(self, probes: list[Tensor], products: list[Tensor]) -> None:
        for v, w in zip(probes, products, strict=True):
            self._directions.note(v, w)

    def part(self, start: int, stop: int, total: int) -> _Chooser:
        return _Adapted(self._draws.part(start, stop, total))
