"""SDEs as torchsde's users write them: an object with `f(t, y)`, `g(t, y)`, `noise_type` and `sde_type`."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, Protocol, final

import torch
from torch import Tensor

from sdekit._tensors import check_positive_integer, check_state
from sdekit.errors import ArgumentError, ShapeError
from sdekit.sdes.base import AbstractSDE, Calculus, NoiseKind

__all__ = ["TorchsdeObject", "TorchsdeStyle", "is_torchsde_style"]

_NOISE_TYPES: tuple[NoiseKind, ...] = ("diagonal", "scalar", "additive", "general")
_SDE_TYPES: tuple[Calculus, ...] = ("ito", "stratonovich")
_METHODS = {
    "drift": "f",
    "diffusion": "g",
    "prior_drift": "h",
    "diffusion_prod": "g_prod",
    "drift_and_diffusion": "f_and_g",
    "drift_and_diffusion_prod": "f_and_g_prod",
}

_Function = Callable[..., Any]


class TorchsdeObject(Protocol):
    """What an object written for torchsde has, besides its functions."""

    noise_type: Any
    sde_type: Any


def is_torchsde_style(what: object) -> bool:
    """Whether it is an object (no class) with `noise_type` and `sde_type`, as torchsde wants one."""
    return not isinstance(what, type) and hasattr(what, "noise_type") and hasattr(what, "sde_type")


@final
class TorchsdeStyle(AbstractSDE):
    """torchsde's kind of SDE object as an AbstractSDE; `solve` makes it of such an object by itself.

    States are (B, d). What the object's g returns, by its `noise_type`: (B, d) for "diagonal", (B, d, 1) for "scalar",
    (B, d, m) for "additive" and "general". Where there is no `f` or no `g`, `f_and_g`, `g_prod` and `f_and_g_prod`
    serve in their place; a matrix is then read off its products with the m unit vectors.

    The functions are given t in the dtype of y, and always as one number, of shape (). Where samples have times of
    their own (under an adaptive solver) they are called through `torch.vmap`, or, where that does not work with them,
    once for each different time.

    Args:
        sde: the object.
        noise_dim: m, the number of Brownian motions of additive and general noise; found by `opened` if None.
        names: the object's own names of its methods, by "drift" (f), "diffusion" (g), "prior_drift" (h),
            "diffusion_prod" (g_prod), "drift_and_diffusion" (f_and_g) and "drift_and_diffusion_prod" (f_and_g_prod).

    Raises:
        ArgumentError: if `noise_type` or `sde_type` is none of torchsde's, or drift or diffusion is missing.
        ShapeError: by `drift` and `diffusion`, if a function returns another shape than these.
    """

    def __init__(self, sde: object, noise_dim: int | None = None, names: Mapping[str, str] | None = None) -> None:
        kind = type(sde).__name__
        for name, known in (("noise_type", _NOISE_TYPES), ("sde_type", _SDE_TYPES)):
            value = getattr(sde, name, None)
            if value not in known:
                raise ArgumentError(f"{name} of {kind} must be one of {', '.join(known)}, got {value!r}.")
        self.original = sde
        self.calculus = sde.sde_type  # type: ignore[attr-defined]
        self.noise = sde.noise_type  # type: ignore[attr-defined]
        self.matrix = self.noise in ("additive", "general")
        self.names = dict(names or {})
        self._own = self._found(sde, self.names)
        if not {"f", "f_and_g", "f_and_g_prod"} & set(self._own):
            raise ArgumentError(f"{kind} has no drift: it must define f, f_and_g or f_and_g_prod, each of (t, y, …).")
        if not {"g", "f_and_g", "g_prod", "f_and_g_prod"} & set(self._own):
            raise ArgumentError(f"{kind} has no diffusion: it must define g, f_and_g, g_prod or f_and_g_prod.")
        if noise_dim is not None and not self.matrix:
            raise ArgumentError(f"noise_dim goes with additive and general noise; {kind} has {self.noise} noise.")
        self.noise_dim = None if noise_dim is None else check_positive_integer("noise_dim", noise_dim)

    @staticmethod
    def _found(sde: object, names: Mapping[str, str]) -> dict[str, _Function]:
        unknown = sorted(set(names) - set(_METHODS))
        if unknown:
            raise ArgumentError(f"names holds {', '.join(map(repr, unknown))}; its keys are {', '.join(_METHODS)}.")
        found: dict[str, _Function] = {}
        for key, name in _METHODS.items():
            method = getattr(sde, names.get(key, name), None)
            if callable(method):
                found[name] = method
            elif key in names:
                raise ArgumentError(f"names says {key!r}: {names[key]!r}, but {type(sde).__name__} has no such method.")
        return found

    def opened(self, x: Tensor, t: float | Tensor) -> TorchsdeStyle:
        """The same with its number of Brownian motions known, from one evaluation of g at (x, t).

        Raises:
            ArgumentError: if x is no state, or the object has nothing from which the number can be told.
            ShapeError: if x or g has not the shape that it should.
        """
        x = check_state("x0", x)
        if x.ndim != 2:
            raise ShapeError(f"an SDE written for torchsde has states of shape (B, d), got x0 of {tuple(x.shape)}.")
        at = torch.as_tensor(t, dtype=torch.float64).to(x.device)
        other = copy.copy(self)
        if self.matrix and self.noise_dim is None:
            if not {"g", "f_and_g"} & set(self._own):
                raise ArgumentError(
                    f"the number of Brownian motions of {self!r} cannot be told from products with its diffusion: "
                    "define g or f_and_g, or give TorchsdeStyle(sde, noise_dim=m)."
                )
            with torch.no_grad():
                g = self._diffusion(x, at.to(x.dtype))
            if g.ndim != 3:
                raise ShapeError(
                    f"g returned a tensor of shape {tuple(g.shape)}; with {self.noise} noise expected "
                    f"({x.shape[0]}, {x.shape[1]}, m)."
                )
            other.noise_dim = g.shape[2]
        with torch.no_grad():
            other.diffusion(x, at)
        return other

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        f = self._at_each(self._drift, x, t)
        if f.shape != x.shape:
            raise ShapeError(f"f returned a tensor of shape {tuple(f.shape)} for y of shape {tuple(x.shape)}.")
        return f

    def prior_drift(self, x: Tensor, t: Tensor) -> Tensor:
        """h(t, y), the drift of the prior, of the shape of x."""
        if "h" not in self._own:
            raise ArgumentError(f"{type(self.original).__name__} has no prior drift: define h, or name it (names=).")
        h = self._at_each(self._own["h"], x, t, swapped=True)
        if h.shape != x.shape:
            raise ShapeError(f"h returned a tensor of shape {tuple(h.shape)} for y of shape {tuple(x.shape)}.")
        return h

    def diffusion(self, x: Tensor, t: Tensor) -> Tensor:
        g = self._at_each(self._diffusion, x, t)
        size = 1 if self.noise == "scalar" else self.noise_dim
        shape = tuple(x.shape) if self.noise == "diagonal" else (*x.shape, size)
        if tuple(g.shape) != shape:
            raise ShapeError(
                f"g returned a tensor of shape {tuple(g.shape)} for y of shape {tuple(x.shape)}; with {self.noise} "
                f"noise expected {shape}."
            )
        return g[..., 0] if self.noise == "scalar" else g

    # The object's own functions, of (y, t) with t of shape () ------------------------------------------------------

    def _drift(self, y: Tensor, t: Tensor) -> Tensor:
        own = self._own
        if "f" in own:
            return _tensor("f", own["f"](t, y))
        if "f_and_g" in own:
            return _tensor("f", own["f_and_g"](t, y)[0])
        return _tensor("f", own["f_and_g_prod"](t, y, y.new_zeros(self._noise_shape(y)))[0])

    def _diffusion(self, y: Tensor, t: Tensor) -> Tensor:
        own = self._own
        if "g" in own:
            return _tensor("g", own["g"](t, y))
        if "f_and_g" in own:
            return _tensor("g", own["f_and_g"](t, y)[1])
        shape = self._noise_shape(y)
        if self.noise == "diagonal":
            return self._product(y, t, y.new_ones(shape))
        unit = torch.eye(shape[1], dtype=y.dtype, device=y.device)
        return torch.stack([self._product(y, t, unit[j].expand(shape)) for j in range(shape[1])], dim=-1)

    def _product(self, y: Tensor, t: Tensor, v: Tensor) -> Tensor:
        own = self._own
        if "g_prod" in own:
            return _tensor("g_prod", own["g_prod"](t, y, v))
        return _tensor("g_prod", own["f_and_g_prod"](t, y, v)[1])

    def _noise_shape(self, y: Tensor) -> tuple[int, int]:
        if self.matrix and self.noise_dim is None:
            raise ArgumentError(f"the number of Brownian motions of {self!r} is not known: give noise_dim=m.")
        of_diagonal = y.shape[1] if self.noise == "diagonal" else 1
        return y.shape[0], self.noise_dim or of_diagonal

    def _at_each(self, function: _Function, x: Tensor, t: Tensor, *, swapped: bool = False) -> Tensor:
        """function(x, t), or function(t, x), for one time or a time for each sample."""
        call: _Function = (lambda y, at: function(at, y)) if swapped else function
        t = t.to(device=x.device, dtype=x.dtype)
        if t.numel() == 1:
            value: Tensor = call(x, t.reshape(()))
            return value if value.dtype == x.dtype else value.to(x.dtype)
        times = t.reshape(-1)
        try:
            value = torch.vmap(lambda y, at: call(y[None], at)[0])(x, times)
        except (RuntimeError, NotImplementedError):  # what the object does cannot be vmapped
            value = self._one_time_after_another(call, x, times)
        return value if value.dtype == x.dtype else value.to(x.dtype)

    @staticmethod
    def _one_time_after_another(call: _Function, x: Tensor, times: Tensor) -> Tensor:
        different, which = torch.unique(times, return_inverse=True)
        rows = [(which == i).nonzero()[:, 0] for i in range(len(different))]
        values = [call(x[own], at) for own, at in zip(rows, different, strict=True)]
        return torch.cat(values)[torch.cat(rows).argsort()]

    def to_dict(self) -> dict[str, Any]:
        raise ArgumentError("an SDE built from an object's functions cannot be written as a plain dict; keep its code.")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TorchsdeStyle):
            return NotImplemented
        mine, theirs = (self.original, self.noise_dim, self.names), (other.original, other.noise_dim, other.names)
        return mine[0] is theirs[0] and mine[1:] == theirs[1:]

    def __hash__(self) -> int:
        return hash((id(self.original), self.noise_dim))

    def __repr__(self) -> str:
        size = "" if self.noise_dim is None else f", noise_dim={self.noise_dim}"
        return f"TorchsdeStyle({type(self.original).__name__}, {self.noise!r}, {self.calculus!r}{size})"


def _tensor(name: str, value: object) -> Tensor:
    if not isinstance(value, Tensor):
        raise ArgumentError(f"{name} must return a tensor, got {type(value).__name__}.")
    return value
