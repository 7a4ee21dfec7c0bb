r"""An interval of Brownian motion cut into parts, and parts joined: exact, with the space-time Levy areas.

Let n children of length d make a parent of length h = n d, all with (W, H, K) as `Increment` defines them. With
i = 1 … n,

    c_i = (n/2 - i + 1/2)/n,     p_i = c_i/n,
    q_i = [-i (n - i)/2 + (n - 2 i + 1)/4]/n^2 + (1 - 1/n^2)/12,

inserting the children's bridges into the definitions of the parent's gives

    W = sum_i w_i,     H = c.w + (1/n) sum_i h_i,     K = q.w + p.h + (1/n^2) sum_i k_i.

The vectors 1, c and q are orthogonal to one another, and so are 1 and p. The children are independent beforehand, with
variances d, d/12 and d/720; a parent's value is therefore a noisy look at one orthogonal direction of its children at
a time, and the children given their parent are Gaussian direction by direction. Along a unit vector v/|v| with prior
variance s^2, seen through y = v.x + noise of variance e^2, the value is N(s^2 |v| y/Y, s^2 e^2/Y), Y = s^2 |v|^2 + e^2
being the parent's own variance; every other direction keeps its prior. W needs no draws of H for that, nor H of K.

Sums over children are additions one after another: a reduction chooses its order of summation by the layout of its
argument, and a sample would not have the same bits alone and in a batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from sdekit.errors import ArgumentError
from sdekit.noise.brownian import Increment

__all__ = ["Splitting", "halve", "join", "join_equal", "join_ragged", "join_range", "weights"]


def weights(n: int) -> tuple[list[float], list[float], list[float]]:
    """(c, q, p) of n equal children."""
    c = [(n / 2 - i + 0.5) / n for i in range(1, n + 1)]
    q = [(-i * (n - i) / 2 + (n - 2 * i + 1) / 4) / n**2 + (1 - 1 / n**2) / 12 for i in range(1, n + 1)]
    return c, q, [x / n for x in c]


def _total(each: Sequence[Tensor]) -> Tensor:
    total = each[0] + each[1] if len(each) > 1 else each[0].clone()
    for x in each[2:]:
        total += x
    return total


def _weighted(each: Sequence[Tensor], by: Sequence[float]) -> Tensor:
    total = each[0] * by[0]
    for x, weight in zip(each[1:], by[1:], strict=True):
        total.add_(x, alpha=weight)
    return total


@final
class Splitting:
    """n equal children of a parent, drawn from their exact law given the parent's (W, H), or (W, H, K)."""

    def __init__(self, n: int, *, third: bool) -> None:
        if n < 2:
            raise ArgumentError(f"an interval is split into at least 2 parts, got {n}.")
        self.n, self.third = n, third
        self._c, self._q, self._p = weights(n)
        self._cc, self._qq, self._pp = (sum(x * x for x in v) for v in (self._c, self._q, self._p))
        # The part of a direction's draw that is taken away: 1 - sqrt(e^2/Y), with the variances in units of d.
        self._less_c = 1 - math.sqrt(1 - self._cc * 12 / n)
        self._less_q = 1 - math.sqrt(1 - self._qq * 720 / n)
        look, noise = self._pp / 12, 1 / (720 * n**3)
        self._less_p = 1 - math.sqrt(noise / (look + noise))
        self._gain_p = (1 / 12) / (look + noise)

    def split_(self, parent: Increment, length: float, w: Tensor, h: Tensor | None, k: Tensor | None) -> None:
        """Turn standard normals (P, n, *) into the children of parents (P, *), in place.

        Args:
            parent: its W and H, and with `third` its K.
            length: of one child.
            w: normals for W.
            h: normals for H, or None where only W is wanted.
            k: normals for K, which goes with h.
        """
        each = w.unbind(1)
        cw, qw = self._split_w(parent, math.sqrt(length), each)
        if h is None or parent.H is None:
            return
        mean = parent.H - cw
        rest = None if qw is None or parent.K is None else parent.K - qw
        k_sum = self._split_h(mean, rest, math.sqrt(length / 12), h.unbind(1))
        if k is not None and k_sum is not None:
            _set_total(k.unbind(1), math.sqrt(length / 720), k_sum)

    def _split_w(self, parent: Increment, scale: float, each: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
        """The W of the children; returns c.w and q.w."""
        n, high, third = self.n, parent.H, parent.K
        if high is None or (self.third and third is None):
            raise ArgumentError("a parent is split by its W and H (and K, with third): one of them is missing.")
        cz = _weighted(each, self._c)
        along_c = (high * (12 / n)).add_(cz, alpha=-scale * self._less_c / self._cc)
        along_q = cq = None
        if self.third and third is not None:
            qz = _weighted(each, self._q)
            # Two halves say nothing about K by their W: q = 0.
            lost = scale * self._less_q / self._qq if self._qq > 0 else 0.0
            along_q = (third * (720 / n)).add_(qz, alpha=-lost)
            cq = (qz * scale).add_(along_q, alpha=self._qq)
        along_1 = (parent.W / n).add_(_total(each), alpha=-scale / n)
        for i, x in enumerate(each):
            torch.add(along_1, x, alpha=scale, out=x)
            x.add_(along_c, alpha=self._c[i])
            if along_q is not None and self._q[i] != 0:
                x.add_(along_q, alpha=self._q[i])
        return (cz * scale).add_(along_c, alpha=self._cc), cq

    def _split_h(self, mean: Tensor, rest: Tensor | None, scale: float, each: Sequence[Tensor]) -> Tensor | None:
        """The H of the children, from their mean and rest = p.h + (1/n^2) sum k; returns sum k where rest is given."""
        if rest is None:
            _set_total(each, scale, mean * self.n)
            return None
        pz = _weighted(each, self._p)
        along_p = (rest * self._gain_p).add_(pz, alpha=-scale * self._less_p / self._pp)
        ph = (pz * scale).add_(along_p, alpha=self._pp)
        _set_total(each, scale, mean * self.n)
        for i, x in enumerate(each):
            x.add_(along_p, alpha=self._p[i])
        return (rest - ph).mul_(self.n**2)


def _set_total(each: Sequence[Tensor], scale: float, total: Tensor) -> None:
    """Turn standard normals into scale * them, given that their sum is `total`."""
    n = len(each)
    shift = (total / n).add_(_total(each), alpha=-scale / n)
    for x in each:
        torch.add(shift, x, alpha=scale, out=x)


def halve(parent: Increment, scale: Tensor, z: Sequence[Tensor]) -> tuple[Increment, Increment]:
    r"""The two halves of an interval, as (mean, deviation): the first is mean + deviation, the second the difference.

    They take as many normals as they are free: two, or three with K. With h the parent's length and x1, x2, x3
    standard normals,

        w = W/2 +- x,   x = 3H/2 + sqrt(h)/4 x1,      h = H - x/2 +- e,   e = sqrt(h/48) x2,

    which is the midpoint rule of Foster and others (arXiv 2405.06464), and with K

        e = 15K/4 + sqrt(h/768) x2,      k = 2K - e/2 +- sqrt(h/2880) x3.

    Args:
        parent: its W and H, and K if the halves shall have it.
        scale: sqrt(h), which broadcasts.
        z: the normals.
    """
    if parent.H is None:
        raise ArgumentError("an interval is halved by its W and H; H is missing.")
    x = z[0] * (scale / 4) + parent.H * 1.5
    mean, half = parent.H - x / 2, parent.W / 2
    if parent.K is None:
        return Increment(half, mean), Increment(x, z[1] * (scale / math.sqrt(48)))
    e = z[1] * (scale / math.sqrt(768)) + parent.K * 3.75
    return Increment(half, mean, parent.K * 2 - e / 2), Increment(x, e, z[2] * (scale / math.sqrt(2880)))


def join(
    first: Increment, h1: Tensor | float, second: Increment, h2: Tensor | float, order: Tensor | float = 1.0
) -> Increment:
    r"""An interval of length h1 and its neighbour of length h2 as one.

    From \int W dr and \int r W dr of the two, with a = h1/(h1 + h2) and b = h2/(h1 + h2):

        W = W1 + W2
        H = a H1 + b H2 + (b W1 - a W2)/2
        K = a^2 K1 + b^2 K2 + a b (H1 - H2)/2 + (b - a)(b W1 - a W2)/12

    An interval of length 0, whose values are 0, leaves the other as it is, to the bit.

    Args:
        first: the interval of length h1.
        h1: a number, or a tensor that broadcasts.
        second: the interval of length h2.
        h2: likewise.
        order: 1 where the second follows the first, -1 where it comes before it.
    """
    w = first.W + second.W
    if first.H is None or second.H is None:
        return Increment(w)
    one, two = (torch.as_tensor(x, dtype=w.dtype, device=w.device) for x in (h1, h2))
    whole = (one + two).clamp_min(torch.finfo(w.dtype).tiny)
    a, b = one / whole, two / whole
    skew = first.W * b - second.W * a
    h = (first.H * a + second.H * b) + skew * (order / 2)
    if first.K is None or second.K is None:
        return Increment(w, h)
    k = first.K * (a * a) + second.K * (b * b)
    k = k + (first.H - second.H) * (a * b * order / 2) + skew * ((b - a) / 12)
    return Increment(w, h, k)


def join_range(children: Increment, start: Tensor, stop: Tensor) -> Increment:
    """Children start … stop - 1 (int64 (A,), start < stop) of equal ones (A, n, *), as one interval: (A, *)."""
    n = children.W.shape[1]
    wide = (-1, n) + (1,) * (children.W.ndim - 2)
    m = (stop - start).double()[:, None]
    j = torch.arange(1, n + 1, device="cpu") - start[:, None]
    inside = ((j > 0) & (j <= m)).double()
    j = j.double()
    w = _total((children.W * inside.view(wide)).unbind(1))
    if children.H is None:
        return Increment(w)
    c = (m / 2 - j + 0.5) / m * inside
    h = _total((children.W * c.view(wide) + children.H * (inside / m).view(wide)).unbind(1))
    if children.K is None:
        return Increment(w, h)
    q = ((-j * (m - j) / 2 + (m - 2 * j + 1) / 4) / m**2 + (1 - 1 / m**2) / 12) * inside
    k = children.W * q.view(wide) + children.H * (c / m).view(wide) + children.K * (inside / m**2).view(wide)
    return Increment(w, h, _total(k.unbind(1)))


def join_ragged(cells: Increment, lengths: Tensor, edges: Tensor) -> Increment:
    """Neighbours (M, *) of some lengths (M,), as the S intervals of cells edges[i] … edges[i + 1] - 1: (S, *)."""
    first, counts = edges[:-1], edges.diff()
    shape = (-1,) + (1,) * (cells.W.ndim - 1)
    lengths = lengths.to(cells.W.dtype).view(shape)
    total, length = Increment(*[value[first] for value in cells.values()]), lengths[first]
    for i in range(1, int(counts.max())):
        some = (counts > i).nonzero()[:, 0]
        at = first[some] + i
        here = Increment(*[value[some] for value in total.values()])
        joined = join(here, length[some], Increment(*[value[at] for value in cells.values()]), lengths[at])
        for value, new in zip(total.values(), joined.values(), strict=True):
            value.index_copy_(0, some, new)
        length.index_add_(0, some, lengths[at])
    return total


def join_equal(children: Increment, axis: int) -> Increment:
    """n equal neighbours along `axis` as one interval."""
    w = children.W.unbind(axis)
    n = len(w)
    if n == 1:
        return Increment(*[value.select(axis, 0) for value in children.values()])
    total = _total(w)
    if children.H is None:
        return Increment(total)
    c, q, p = weights(n)
    h = children.H.unbind(axis)
    high = _weighted(w, c).add_(_total(h), alpha=1 / n)
    if children.K is None:
        return Increment(total, high)
    k = children.K.unbind(axis)
    third = _weighted(w, q).add_(_weighted(h, p)).add_(_total(k), alpha=1 / n**2)
    return Increment(total, high, third)
