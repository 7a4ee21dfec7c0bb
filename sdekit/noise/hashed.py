r"""Standard normals by the number: the draw of a key, a level, a cell and an element, computed where it is asked for.

A 64-bit mix (the finaliser of splitmix64: Steele, Lea and Flood 2014, "Fast splittable pseudorandom number
generators") of all these gives two uniforms of 32 bits, and those two normals by the method of Box and Muller (1958),
in float64. Every operation is elementwise, so that a number does not depend on what is computed beside it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable

import torch
from torch import Tensor

__all__ = ["Elements", "normals", "sample_keys"]


def _signed(number: int) -> int:
    """A 64-bit number as torch's int64 holds it."""
    return number - (1 << 64) if number >= 1 << 63 else number


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_FIRST = _signed(0xBF58476D1CE4E5B9)
_SECOND = _signed(0x94D049BB133111EB)
_ODD = _signed(0xD6E8FEB86659FD93)


def _shifted(x: Tensor, by: int) -> Tensor:
    """x >> by of the unsigned number: torch's shift of int64 copies the sign."""
    return (x >> by).bitwise_and_((1 << (64 - by)) - 1)


def _mix_(x: Tensor) -> Tensor:
    """The bijective mix of splitmix64, in place."""
    x ^= _shifted(x, 30)
    x *= _FIRST
    x ^= _shifted(x, 27)
    x *= _SECOND
    x ^= _shifted(x, 31)
    return x


def sample_keys(names: Iterable[str]) -> Tensor:
    """A 64-bit key for each name: int64 (B,)."""
    digests = (hashlib.blake2b(name.encode(), digest_size=8).digest() for name in names)
    return torch.tensor(
        [int.from_bytes(digest, "little", signed=True) for digest in digests], dtype=torch.int64, device="cpu"
    )


class Elements:
    """The places of the d elements of a sample, mixed once."""

    def __init__(self, d: int) -> None:
        self._places = _mix_(torch.arange(1, d + 1, dtype=torch.int64, device="cpu") * _GOLDEN)

    def hashes(self, keys: Tensor, level: int, cells: Tensor) -> Tensor:
        """int64 (*, d), of keys and cells that broadcast to (*), and a level."""
        rows = _mix_(keys + _signed((level * 0x9E3779B97F4A7C15) & (2**64 - 1)))
        rows = _mix_(rows ^ (cells * _ODD))
        return _mix_(rows[..., None] + self._places)


def normals(hashes: Tensor, which: int) -> tuple[Tensor, Tensor]:
    """Two float64 normals for each hash; `which` = 0, 1, … tells several pairs of one hash apart."""
    if which:
        hashes = _mix_(hashes + which * _GOLDEN)
    # Uniforms in the middle of 2^32 equal parts of (0, 1): never 0, and symmetric.
    radius = _shifted(hashes, 32).double().add_(0.5).mul_(2.0**-32).log_().mul_(-2.0).sqrt_()
    angle = (hashes & 0xFFFFFFFF).double().add_(0.5).mul_(2.0 * math.pi * 2.0**-32)
    return radius * angle.cos(), angle.sin_().mul_(radius)
