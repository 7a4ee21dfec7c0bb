"""What a trace estimator is given (the Jacobian at one node, through its products) and what it answers."""

from __future__ import annotations

import abc
from typing import ClassVar, final

import torch
from torch import Tensor

from sdekit.errors import ArgumentError
from sdekit.noise import NoiseSource

__all__ = ["Divergence", "Jacobian", "JoinedTraces", "Traces", "inner", "quotient"]


@final
class Jacobian:
    r"""J = dD/dx~ of each sample at one node, known through its products: J^T v = alpha (p v + q (d out/dx)^T v).

    The denoised is D = p x + q out, with `out` the network's own output, and x = alpha x~. One graph, made by one
    evaluation, serves all products.

    Args:
        out: (B, *), made from `x` with its graph kept.
        x: (B, *), a leaf that requires grad.
        alpha, p, q: the numbers above.
        level: sigma~ at this node.
    """

    def __init__(self, out: Tensor, x: Tensor, alpha: float, p: float, q: float, level: float) -> None:
        self._out, self._x = out, x
        self._alpha, self._p, self._q = alpha, p, q
        self.level = level
        self.batch, self.dim = x.shape[0], x[0].numel()
        self.itemsize, self.device = x.element_size(), x.device

    def product(self, vectors: Tensor) -> Tensor:
        """J^T v for one v a sample, (B, d): float64 (B, d)."""
        v = vectors.to(self._x.dtype)
        return self._of_data(v, self._pull(v.reshape(self._x.shape)).reshape(v.shape))

    def products(self, vectors: Tensor) -> Tensor:
        """J^T v for several v a sample at once, (R, B, d), vectorised by torch.vmap: float64 (R, B, d)."""
        v = vectors.to(self._x.dtype)
        if len(v) == 1:
            return self.product(v[0])[None]
        pulled = self._pull(v.reshape(len(v), *self._x.shape), batched=True)
        return self._of_data(v, pulled.reshape(v.shape))

    def _of_data(self, v: Tensor, pulled: Tensor) -> Tensor:
        return self._alpha * (self._p * v.double() + self._q * pulled.double())

    def _pull(self, vectors: Tensor, batched: bool = False) -> Tensor:
        """v^T d out/dx; the graph stays for the next product."""
        product: Tensor | None = None
        if self._out.requires_grad:
            (product,) = torch.autograd.grad(
                self._out, self._x, vectors, retain_graph=True, is_grads_batched=batched, allow_unused=True
            )
        if product is None:
            raise ArgumentError(
                "the network's output does not depend on x as autograd sees it, so its divergence cannot be had; call "
                "the network without torch.no_grad, inference mode, .detach() or numpy inside. "
                "(For one that really is constant in x, add 0 * x.)"
            )
        return product


class Traces(abc.ABC):
    """Answers for one path, node after node.

    Attributes:
        columns: K: how many unbiased estimates are made at each node; their mean is the estimate, and what they differ
            by tells its error. 1 for the exact trace.
        exact: whether there is no error.
        block: how many consecutive nodes, from the first on, have draws that depend on each other; None for all.
    """

    columns: int
    exact: bool = False
    block: int | None = 1

    @abc.abstractmethod
    def at(self, jacobian: Jacobian) -> Tensor:
        """K estimates of tr J of each sample at the next node: float64 (K, B)."""

    @abc.abstractmethod
    def part(self, start: int, stop: int, total: int) -> Traces:
        """The traces of samples start … stop - 1 of `total`, from the first node on: the same as in the whole batch."""


@final
class JoinedTraces(Traces):
    """Two kinds of traces of the same Jacobians, side by side; `block` is that of the first."""

    def __init__(self, left: Traces, right: Traces) -> None:
        self._left, self._right = left, right
        self.columns, self.block = left.columns + right.columns, left.block

    def at(self, jacobian: Jacobian) -> Tensor:
        return torch.cat([self._left.at(jacobian), self._right.at(jacobian)])

    def part(self, start: int, stop: int, total: int) -> Traces:
        return JoinedTraces(self._left.part(start, stop, total), self._right.part(start, stop, total))


class Divergence(abc.ABC):
    """A way to get the trace of a Jacobian.

    Attributes:
        name: what `divergence=` calls it.
    """

    name: ClassVar[str]

    @abc.abstractmethod
    def more(self, factor: int) -> Divergence:
        """The same with `factor` times the probes; itself where it takes none."""

    @abc.abstractmethod
    def products(self, d: int) -> int:
        """Vector-Jacobian products at each node, for samples of d coordinates."""

    @abc.abstractmethod
    def open(self, batch: int, d: int, source: NoiseSource, device: torch.device) -> Traces:
        """The traces for one path of `batch` samples of d coordinates; probes, if there are any, from `source`.

        Raises:
            ArgumentError: if the settings make no sense for d coordinates.
        """


def inner(a: Tensor, b: Tensor) -> Tensor:
    """The inner products of rows, (B, d) with (B, d): (B,)."""
    return (a * b).sum(1)


def quotient(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """a.b/c.c of rows, 0 where c is: (B,)."""
    square = inner(c, c)
    return torch.where(square > 0, inner(a, b) / square, 0.0)
