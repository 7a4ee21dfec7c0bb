"""Small tensor helpers that every layer may use: expansion to the right, per-sample norms, argument checks."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdekit.errors import ArgumentError, ShapeError

__all__ = [
    "Edge",
    "as_float64",
    "as_list",
    "check_device",
    "check_dtype",
    "check_number",
    "check_positive",
    "check_positive_integer",
    "check_shape",
    "check_state",
    "expand_right",
    "graph_edge",
    "graph_leaves",
    "is_finite",
    "per_sample_norm",
    "per_sample_rms",
]

Edge = tuple[Any, int]  # a node of autograd's graph, and which of its outputs


def expand_right(a: Tensor, like: Tensor) -> Tensor:
    """View `a`, of shape () or (B,), as (B, 1, …, 1), so that it broadcasts against `like`, of shape (B, *)."""
    if a.ndim == 0:
        return a
    if a.ndim == 1 and like.ndim >= 1 and a.shape[0] in (1, like.shape[0]):
        return a.reshape(a.shape[0], *([1] * (like.ndim - 1)))
    raise ShapeError(
        f"a per-sample value of shape {tuple(a.shape)} does not fit a state of shape {tuple(like.shape)}: "
        f"expected () or ({like.shape[0] if like.ndim else 'B'},)."
    )


def per_sample_norm(x: Tensor) -> Tensor:
    """Euclidean norm of each sample of x, of shape (B, *), in float32 or better: (B,)."""
    wide = x if x.dtype in (torch.float32, torch.float64) else x.float()
    norm: Tensor = torch.linalg.vector_norm(wide.reshape(x.shape[0], -1), dim=1)
    return norm


def per_sample_rms(x: Tensor) -> Tensor:
    """Root mean square of each sample of x, of shape (B, *): (B,)."""
    return per_sample_norm(x) / math.sqrt(max(1, x[0].numel()))


def as_float64(t: Tensor | float) -> Tensor:
    """t as a float64 tensor on its own device (schedules are always evaluated in float64)."""
    if isinstance(t, Tensor):
        return t.double()
    return torch.tensor(float(t), dtype=torch.float64, device="cpu")  # whatever the default device


def as_list(values: object) -> list[Any] | None:
    """A sequence, a numpy array or a tensor, of one dimension, as a list; None for anything else, text too."""
    if isinstance(values, Tensor | np.ndarray):
        listed: list[Any] = values.tolist()
        return listed if values.ndim == 1 else None
    return list(values) if isinstance(values, Sequence) and not isinstance(values, str) else None


def check_dtype(dtype: object) -> torch.dtype:
    """`dtype` as a floating-point type of torch, or an ArgumentError."""
    if not isinstance(dtype, torch.dtype):
        raise ArgumentError(f"dtype must be a torch.dtype such as torch.float32, got {dtype!r}.")
    if not dtype.is_floating_point:
        raise ArgumentError(f"dtype must be a floating-point type, got {dtype}.")
    return dtype


def check_device(device: torch.device | str) -> torch.device:
    """`device` as a torch.device, or an ArgumentError."""
    try:
        return torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ArgumentError(
            f"device must be one of torch's, such as 'cpu' or 'cuda:0', got {device!r}: {error}"
        ) from None


def check_positive_integer(name: str, value: object) -> int:
    """`value` as an int of at least 1, or an ArgumentError that names it."""
    if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < 1:
        raise ArgumentError(f"{name} must be an integer of at least 1, got {value!r}.")
    return int(value)


def check_positive(name: str, value: object) -> float:
    """`value` as a finite float above 0, or an ArgumentError that names it."""
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(float(value)) or float(value) <= 0:
        raise ArgumentError(f"{name} must be a finite number above 0, got {value!r}.")
    return float(value)


def check_number(name: str, value: object) -> float:
    """`value` as a finite float, or an ArgumentError that names it."""
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(float(value)):
        raise ArgumentError(f"{name} must be a finite number, got {value!r}.")
    return float(value)


def check_shape(shape: object) -> tuple[int, ...]:
    """`shape` as a tuple of positive ints with a leading batch dimension, or a ShapeError."""
    if (
        not isinstance(shape, Sequence)
        or len(shape) == 0
        or not all(isinstance(n, Integral) and int(n) > 0 for n in shape)
    ):
        raise ShapeError(f"a shape is a sequence of positive integers (batch first), got {shape!r}.")
    return tuple(int(n) for n in shape)


def graph_edge(tensor: Tensor) -> Edge:
    """Where a tensor that is no leaf stands in autograd's graph."""
    return tensor.grad_fn, tensor.output_nr


def graph_leaves(outputs: Iterable[Tensor], cuts: Collection[Edge] = ()) -> tuple[dict[int, Tensor], set[Edge]]:
    """The leaves that autograd reaches from `outputs`, by id, without going beyond `cuts`; and the cuts that it met."""
    leaves: dict[int, Tensor] = {}
    met: set[Edge] = set()
    seen: set[Any] = set()
    waiting: list[Edge] = []
    for output in outputs:
        if output.grad_fn is not None:
            waiting.append(graph_edge(output))
        elif output.requires_grad:
            leaves[id(output)] = output
    while waiting:
        edge = waiting.pop()
        node = edge[0]
        if edge in cuts:
            met.add(edge)
        elif node not in seen:
            seen.add(node)
            variable = getattr(node, "variable", None)
            if isinstance(variable, Tensor):
                leaves[id(variable)] = variable
            waiting.extend(following for following in node.next_functions if following[0] is not None)
    return leaves, met


def is_finite(x: Tensor) -> bool:
    """Whether every entry of x is finite, by one reduction where it is."""
    return math.isfinite(float(x.detach().sum())) or bool(torch.isfinite(x).all())


def check_state(name: str, x: object) -> Tensor:
    """`x` as a floating-point tensor of shape (B, *) with finite entries, or an error that names it."""
    if not isinstance(x, Tensor):
        raise ArgumentError(f"{name} must be a torch.Tensor of shape (B, *), got {type(x).__name__}.")
    if not x.is_floating_point():
        raise ArgumentError(f"{name} must be a floating-point tensor, got {x.dtype}; call {name}.float() first.")
    if x.ndim == 0 or x.numel() == 0:
        raise ShapeError(f"{name} must have shape (B, *) with at least one element, got {tuple(x.shape)}.")
    if not is_finite(x):
        raise ArgumentError(f"{name} holds NaN or infinite values; every entry must be finite.")
    return x
