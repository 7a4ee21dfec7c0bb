r"""Traces of Jacobians, exact or estimated, from one graph: one network evaluation, then vector-Jacobian products.

    exact         tr J = sum_i e_i^T J e_i                              d products
    Hutchinson    tr J ~ v^T J v,  E[v v^T] = I                         one product a probe

A *divergence* is what the user chooses, an immutable object. *Traces* are a divergence opened for one solve.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import Literal, final, get_args

import torch
from torch import Tensor

from sdekit._tensors import check_positive_integer
from sdekit.errors import ArgumentError, UnknownNameError
from sdekit.noise import NoiseSource, NoiseStream

__all__ = [
    "DIVERGENCES",
    "Along",
    "Distribution",
    "Divergence",
    "Exact",
    "Hutchinson",
    "JoinedTraces",
    "Traces",
    "column_mean",
]

Distribution = Literal["rademacher", "gaussian"]
Along = Literal["independent", "fixed"]


class Traces(abc.ABC):
    """Answers v_k^T J v_k and |v_k|^2 for K sets of probes, J = d out/dx: lives for one solve."""

    columns: int

    @abc.abstractmethod
    def __call__(self, out: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """The forms v_k^T J v_k and the squares |v_k|^2 of each sample: two float64 tensors, (B, K).

        For a J' = p I + q J the forms are p |v_k|^2 + q v_k^T J v_k; their mean over k estimates tr J'.

        Args:
            out: (B, *), made from x with its graph kept.
            x: (B, *), a leaf that requires grad.
        """

    @abc.abstractmethod
    def part(self, start: int, stop: int, total: int) -> Traces:
        """The traces of samples start … stop - 1 of `total`: the same for them as in the whole batch."""


class Divergence(abc.ABC):
    """A way to get the trace of a Jacobian."""

    name: str

    @abc.abstractmethod
    def open(self, shape: tuple[int, ...], source: NoiseSource, *, dtype: torch.dtype, device: torch.device) -> Traces:
        """The traces for one solve of a state of `shape` (B, *); probes, if there are any, come from `source`."""


@final
@dataclass(frozen=True)
class Exact(Divergence):
    """The sum of the Jacobian's diagonal, by d vector-Jacobian products with unit vectors.

    Args:
        rows: products made at once, vectorised by torch.vmap. More rows are faster for small networks and on GPUs, and
            take memory for as many backward passes; they need a network whose backward pass vmap can handle.
    """

    rows: int = 1

    name = "exact"

    def __post_init__(self) -> None:
        check_positive_integer("rows", self.rows)

    def open(self, shape: tuple[int, ...], source: NoiseSource, *, dtype: torch.dtype, device: torch.device) -> Traces:
        return _ExactTraces(self.rows)


@final
@dataclass(frozen=True)
class Hutchinson(Divergence):
    """v^T J v with random probes v (Hutchinson 1990, doi 10.1080/03610919008812866).

    Args:
        probes: K, the number of independent sets of probes; the standard error comes from their spread.
        distribution: "rademacher" (entries of +-1: least variance, 2 sum_{i != j} J_ij^2 for a symmetric J) or
            "gaussian" (variance 2 sum_ij J_ij^2).
        along: "fixed" keeps one draw of each probe for the whole solve; "independent" draws anew at each evaluation, so
            that errors average along the path instead of adding up. Adaptive solvers need "fixed". None: "independent"
            for a fixed-step solver, "fixed" for an adaptive one.
    """

    probes: int = 4
    distribution: Distribution = "rademacher"
    along: Along | None = None

    name = "hutchinson"

    def __post_init__(self) -> None:
        check_positive_integer("probes", self.probes)
        if self.distribution not in get_args(Distribution):
            raise UnknownNameError("distribution of probes", self.distribution, get_args(Distribution))
        if self.along is not None and self.along not in get_args(Along):
            raise UnknownNameError("placement of probes along the path", self.along, get_args(Along))

    def placed(self, adaptive: bool) -> Hutchinson:
        """The same with `along` settled for a solver of this kind.

        Raises:
            ArgumentError: for independent probes with an adaptive solver.
        """
        if adaptive and self.along == "independent":
            raise ArgumentError(
                "probes drawn anew at each evaluation (probes_along='independent') make the right-hand side random, "
                "and an adaptive solver would refine its steps on that noise without end; take probes_along='fixed', "
                "or a fixed-step solver such as 'rk4'."
            )
        return Hutchinson(self.probes, self.distribution, self.along or ("fixed" if adaptive else "independent"))

    def open(self, shape: tuple[int, ...], source: NoiseSource, *, dtype: torch.dtype, device: torch.device) -> Traces:
        if self.along is None:
            raise ArgumentError("along is not settled: call placed(adaptive) first.")
        probes = _Probes(self.probes, self.distribution, shape, source, dtype, device)
        return _FixedTraces(probes.next()) if self.along == "fixed" else _IndependentTraces(probes)


DIVERGENCES: dict[str, type[Exact] | type[Hutchinson]] = {"exact": Exact, "hutchinson": Hutchinson}


@final
class JoinedTraces(Traces):
    """Two kinds of traces of the same graph, side by side."""

    def __init__(self, left: Traces, right: Traces) -> None:
        self._left, self._right = left, right
        self.columns = left.columns + right.columns

    def __call__(self, out: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        (forms, squares), (more_forms, more_squares) = self._left(out, x), self._right(out, x)
        return torch.cat([forms, more_forms], 1), torch.cat([squares, more_squares], 1)

    def part(self, start: int, stop: int, total: int) -> Traces:
        return JoinedTraces(self._left.part(start, stop, total), self._right.part(start, stop, total))


@final
class _ExactTraces(Traces):
    columns = 1

    def __init__(self, rows: int) -> None:
        self._rows = rows

    def __call__(self, out: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        batch, d = x.shape[0], x[0].numel()
        trace = torch.zeros(batch, dtype=torch.float64, device=x.device)
        for i in range(0, d, self._rows):
            n = min(self._rows, d - i)
            unit = torch.zeros(n, d, dtype=x.dtype, device=x.device)
            unit.diagonal(i).fill_(1)
            vectors = unit.reshape(n, 1, *x.shape[1:]).expand(n, *x.shape)
            if n == 1:
                products = _vector_jacobian(out, x, vectors[0])[None]
            else:
                products = _vector_jacobian(out, x, vectors, batched=True)
            for j, product in enumerate(products.reshape(n, batch, d)):
                trace += product[:, i + j].double()
        return trace[:, None], torch.full_like(trace, d)[:, None]

    def part(self, start: int, stop: int, total: int) -> Traces:
        return self


@final
class _Probes:
    """Draws of K probes a sample, (K, B, *)."""

    def __init__(
        self,
        count: int,
        distribution: Distribution,
        shape: tuple[int, ...],
        source: NoiseSource,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.count = count
        self._settings = (distribution, source, dtype, device)
        self._shape = shape
        self._stream: NoiseStream | None = None

    def next(self) -> Tensor:
        distribution, source, dtype, device = self._settings
        batch, *sample = self._shape
        if self._stream is None:
            # The probes of one sample are one draw, so that a sample has the same probes in any batch.
            self._stream = source.open((batch, self.count, *sample), purpose="probes", dtype=dtype, device=device)
        # A copy, since the stream overwrites its draws; contiguous, since strides choose kernels that round otherwise.
        z = self._stream.next(0.0, 0.0).transpose(0, 1).clone(memory_format=torch.contiguous_format)
        return torch.copysign(torch.ones_like(z), z) if distribution == "rademacher" else z

    def part(self, start: int, stop: int, total: int) -> _Probes:
        distribution, source, dtype, device = self._settings
        shape = (stop - start, *self._shape[1:])
        return _Probes(self.count, distribution, shape, source.part(start, stop, total), dtype, device)


@final
class _FixedTraces(Traces):
    """The same probes, (K, B, *), at every evaluation."""

    def __init__(self, probes: Tensor) -> None:
        self._probes = probes
        self.columns = len(probes)

    def __call__(self, out: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        return _forms(out, x, self._probes)

    def part(self, start: int, stop: int, total: int) -> Traces:
        return _FixedTraces(self._probes[:, start:stop])


@final
class _IndependentTraces(Traces):
    """New probes at every evaluation."""

    def __init__(self, probes: _Probes) -> None:
        self._probes = probes
        self.columns = probes.count

    def __call__(self, out: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        return _forms(out, x, self._probes.next())

    def part(self, start: int, stop: int, total: int) -> Traces:
        return _IndependentTraces(self._probes.part(start, stop, total))


def column_mean(values: Tensor) -> Tensor:
    """The mean of each row of (B, K), column by column, so that it rounds alike whatever B is: (B,)."""
    total = torch.zeros_like(values[:, 0])
    for column in values.unbind(1):
        total = total + column
    return total / values.shape[1]


def _forms(out: Tensor, x: Tensor, probes: Tensor) -> tuple[Tensor, Tensor]:
    """v_k^T J v_k and |v_k|^2 for the probes v, (K, B, *): two float64 tensors, (B, K)."""
    forms = [_inner(_vector_jacobian(out, x, v), v) for v in probes]
    return torch.stack(forms, 1), torch.stack([_inner(v, v) for v in probes], 1)


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """The inner product of each sample, in float64: (B,)."""
    return (a.double() * b.double()).reshape(a.shape[0], -1).sum(1)


def _vector_jacobian(out: Tensor, x: Tensor, vectors: Tensor, batched: bool = False) -> Tensor:
    """v^T d out/dx, of the shape of `vectors`; the graph stays for the next product."""
    product: Tensor | None = None
    if out.requires_grad:
        (product,) = torch.autograd.grad(
            out, x, vectors, retain_graph=True, is_grads_batched=batched, allow_unused=True
        )
    if product is None:
        raise ArgumentError(
            "the network's output does not depend on x as autograd sees it, so its divergence cannot be had; call the "
            "network without torch.no_grad, inference mode, .detach() or numpy inside. "
            "(For one that really is constant in x, add 0 * x.)"
        )
    return product
