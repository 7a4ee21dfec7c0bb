"""SDEs that are given by a few numbers, or by a batch of them."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, get_args

import torch
from torch import Tensor

from sdekit._tensors import as_float64, check_number, expand_right
from sdekit.errors import ArgumentError, ShapeError
from sdekit.sdes.base import AbstractSDE, Calculus, NoiseKind, broadcasts

__all__ = ["ConstantNoise", "Parameter", "ParametricSDE", "check_entries", "elapsed", "like", "wide"]

Parameter = float | Tensor

_ENTRY_BY_ENTRY: tuple[NoiseKind, ...] = ("diagonal", "scalar")


class ParametricSDE(AbstractSDE):
    """Parameters are numbers or tensors broadcastable to x (a batch of parameter sets is a tensor of shape (B, 1)).

    A subclass is a dataclass of them; `calculus` and, where it is a field, `noise` are words.
    """

    calculus: Calculus = "ito"
    needs_autograd = False

    def __post_init__(self) -> None:
        words = {"calculus": get_args(Calculus), "noise": _ENTRY_BY_ENTRY}
        for f in fields(self):  # type: ignore[arg-type]
            value = getattr(self, f.name)
            if f.name in words:
                if value not in words[f.name]:
                    raise ArgumentError(f"{f.name} must be one of {', '.join(words[f.name])}, got {value!r}.")
            elif not isinstance(value, Tensor):
                object.__setattr__(self, f.name, check_number(f.name, value))
            elif value.is_complex() or not bool(torch.isfinite(value).all()):
                raise ArgumentError(f"{f.name} must be real and finite, got {value!r}.")

    def rows(self, which: slice | Tensor, shape: tuple[int, ...]) -> ParametricSDE:
        def cut(value: Parameter) -> Parameter:
            # Broadcasting counts dimensions from the right: only a parameter with all of them has a batch.
            if not isinstance(value, Tensor) or value.ndim < len(shape) or value.shape[0] == 1:
                return value
            if not broadcasts(value.shape, shape):
                raise _unfitting(value, shape)
            return value[which] if isinstance(which, slice) else value[which.to(value.device)]

        values = {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]
        changed = {name: cut(value) for name, value in values.items()}
        return self if all(changed[n] is values[n] for n in values) else replace(self, **changed)  # type: ignore[type-var]

    def to_dict(self) -> dict[str, Any]:
        """{"type": class name, …parameters}, all JSON values: a tensor becomes nested lists."""

        def plain(value: Parameter) -> Any:
            return value.tolist() if isinstance(value, Tensor) else value

        values = {f.name: plain(getattr(self, f.name)) for f in fields(self)}  # type: ignore[arg-type]
        return {"type": type(self).__name__, **values}


class ConstantNoise(ParametricSDE):
    """What SDEs with the noise sigma dW share."""

    sigma: Parameter
    noise: NoiseKind = "additive"

    def diffusion(self, x: Tensor, t: Tensor) -> Tensor:
        """sigma, as () or of its own shape."""
        return torch.as_tensor(like(self.sigma, x), dtype=x.dtype, device=x.device)

    @property
    def constant_diffusion(self) -> float | None:
        """sigma, where it is a number."""
        return None if isinstance(self.sigma, Tensor) else self.sigma


def like(value: Parameter, x: Tensor) -> Parameter:
    """A parameter in the dtype and on the device of x: a float64 one of shape (B, 1) would promote the state."""
    if not isinstance(value, Tensor):
        return value
    if not broadcasts(value.shape, x.shape):
        raise _unfitting(value, tuple(x.shape))
    return value.to(x)


def _unfitting(value: Tensor, shape: tuple[int, ...]) -> ShapeError:
    return ShapeError(f"a parameter has shape {tuple(value.shape)}, which does not broadcast to the state's, {shape}.")


def wide(value: Parameter, x: Tensor) -> Tensor:
    """A parameter in float64 on the device of x."""
    return torch.as_tensor(value, dtype=torch.float64, device=x.device)


def elapsed(t: Tensor | float, x: Tensor) -> Tensor:
    """The time since x, in float64 as it broadcasts to x."""
    if not x.is_floating_point():
        raise ArgumentError(f"the state must be a floating-point tensor, got {x.dtype}; call .float() first.")
    u = as_float64(t)
    if bool((u < 0).any()):
        raise ArgumentError(f"t is the time since x0, 0 or more; got {t!r}.")
    return expand_right(u.to(x.device), x)


def check_entries(x: Tensor, d: int, who: str) -> None:
    """Raise ShapeError unless x is (B, d)."""
    if x.ndim != 2 or x.shape[1] != d:
        raise ShapeError(f"{who} has states of shape (B, {d}), got {tuple(x.shape)}.")
