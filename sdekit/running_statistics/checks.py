"""What running statistics check at the door: chunks, shapes, fractions, and saved dicts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from sdekit.errors import ArgumentError, ShapeError

__all__ = [
    "check_chunk",
    "check_count",
    "check_entries",
    "check_entry_shape",
    "check_fraction",
    "check_fractions",
    "check_keys",
    "check_level",
    "check_mergeable",
    "check_natural",
]

_SHOWN = 5  # places of non-finite values that an error names


def check_chunk(x: object, shape: tuple[int, ...]) -> Tensor:
    """A chunk of samples as float64 on the CPU, or an error."""
    if not isinstance(x, Tensor):
        raise ArgumentError(f"a chunk must be a torch.Tensor of shape (B, *{shape}), got {type(x).__name__}.")
    if x.is_complex():
        raise ArgumentError(f"a chunk must be real, got {x.dtype}; give .real and .imag, or .abs().")
    if x.ndim != len(shape) + 1 or x.shape[0] == 0 or x.shape[1:] != shape:
        expected = ", ".join(["B", *map(str, shape)])
        raise ShapeError(f"a chunk must have shape ({expected}) with at least one sample, got {tuple(x.shape)}.")
    wide = x.detach().to("cpu", torch.float64)
    finite = torch.isfinite(wide)
    if not bool(finite.all()):
        bad = torch.nonzero(~finite)
        places = ", ".join(str(tuple(place)) for place in bad[:_SHOWN].tolist())
        more = ", …" if bad.shape[0] > _SHOWN else ""
        samples = int((~finite).reshape(x.shape[0], -1).any(1).sum())
        raise ArgumentError(
            f"{bad.shape[0]} of {x.numel()} values are NaN or infinite, in {samples} of {x.shape[0]} samples, at "
            f"{places}{more} (sample first). Nothing of the chunk was taken in; leave those samples out."
        )
    return wide


def check_entry_shape(shape: object) -> tuple[int, ...]:
    if (
        not isinstance(shape, Sequence)
        or isinstance(shape, str)
        or not all(isinstance(n, Integral) and not isinstance(n, bool) and int(n) > 0 for n in shape)
    ):
        raise ShapeError(
            f"the shape of one sample is a sequence of positive integers, () for plain numbers; got {shape!r}."
        )
    return tuple(int(n) for n in shape)


def check_fraction(q: object) -> float:
    if isinstance(q, bool) or not isinstance(q, Real) or not 0 <= float(q) <= 1:
        raise ArgumentError(f"a quantile is a number from 0 to 1, got {q!r}.")
    return float(q)


def check_fractions(quantiles: object) -> tuple[float, ...]:
    if not isinstance(quantiles, Sequence) or isinstance(quantiles, str):
        raise ArgumentError(f"quantiles must be a sequence of numbers from 0 to 1, got {quantiles!r}.")
    return tuple(check_fraction(q) for q in quantiles)


def check_count(what: str, count: int, least: int) -> None:
    if count < least:
        needs = "one sample" if least == 1 else "two samples"
        raise ArgumentError(f"{what} needs at least {needs}; there have been {count}.")


def check_mergeable(mine: Any, other: Any) -> None:
    if type(other) is not type(mine):
        raise ArgumentError(f"expected another {type(mine).__name__} to merge, got {type(other).__name__}.")
    if other.shape != mine.shape:
        raise ShapeError(f"statistics of one shape can be merged; these have {mine.shape} and {other.shape}.")


def check_keys(kind: str, values: object, keys: tuple[str, ...]) -> None:
    if not isinstance(values, Mapping) or set(values) != set(keys):
        got = sorted(map(str, values)) if isinstance(values, Mapping) else type(values).__name__
        raise ArgumentError(f"the dict of a {kind}, as its to_dict() returns it, has {', '.join(keys)}; got {got}.")


def check_natural(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < 0:
        raise ArgumentError(f"{name} must be an integer of at least 0, got {value!r}.")
    return int(value)


def check_level(values: object, entries: int) -> Tensor:
    """A sketch's level, (entries, values)."""
    try:
        level = torch.tensor(values, dtype=torch.float64, device="cpu")
    except (TypeError, ValueError, RuntimeError) as error:
        raise ArgumentError(f"levels must hold a list of numbers for each entry: {error}.") from None
    if level.ndim != 2 or level.shape[0] != entries:
        raise ArgumentError(f"a level must hold {entries} lists of one length, got the shape {tuple(level.shape)}.")
    return level


def check_entries(name: str, values: object, shape: tuple[int, ...]) -> Tensor:
    try:
        return torch.tensor(values, dtype=torch.float64, device="cpu").reshape(shape)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ArgumentError(f"{name} must be {math.prod(shape)} numbers in a list: {error}.") from None
