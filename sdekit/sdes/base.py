r"""The stochastic differential equation as an object: what every solver may ask of it, and nothing more.

    dX = f(X, t) dt + g(X, t) dW

An SDE knows only itself. Its noise kind says how `g` acts on the increment, its calculus how the equation is read.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any, Literal, final, get_args

import torch
from torch import Tensor

from sdekit._tensors import check_number, check_positive_integer
from sdekit.errors import ArgumentError, ShapeError

__all__ = ["SDE", "AbstractSDE", "Calculus", "NoiseKind"]

NoiseKind = Literal["scalar", "additive", "diagonal", "general"]
Calculus = Literal["ito", "stratonovich"]


class AbstractSDE(abc.ABC):
    """dX = f(X, t) dt + g(X, t) dW, with a declared noise kind and calculus.

    The state x has shape (B, *); t has shape () or (B,). `diffusion` returns, by `noise`:

    - ``"additive"``: g(t), broadcastable to x, the same for every x; dW has the shape of x;
    - ``"diagonal"``: g(x, t), broadcastable to x; dW has the shape of x;
    - ``"scalar"``: g(x, t), broadcastable to x; one Brownian motion per sample, dW of shape (B, 1, …, 1);
    - ``"general"``: g(x, t) of shape (B, *, m); dW of shape (B, m), contracted over m.
    """

    noise: NoiseKind
    calculus: Calculus
    noise_dim: int | None = None

    @abc.abstractmethod
    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        """f(x, t), of the shape of x."""

    @abc.abstractmethod
    def diffusion(self, x: Tensor, t: Tensor) -> Tensor:
        """g(x, t), of the shape that `noise` declares."""

    @abc.abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """A plain dict of JSON values that `sdekit.sdes.from_dict` turns back into an equal SDE."""

    def noise_shape(self, shape: torch.Size | tuple[int, ...]) -> tuple[int, ...]:
        """The shape of a Brownian increment dW for a state of `shape` (B, *)."""
        if self.noise == "scalar":
            return (shape[0], *([1] * (len(shape) - 1)))
        if self.noise == "general":
            if self.noise_dim is None:
                raise ArgumentError("an SDE with general noise must say its number of Brownian motions (noise_dim).")
            return (shape[0], self.noise_dim)
        return tuple(shape)

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        # Through the dict, as equality is: a parameter may be a tensor, whose own hash is its identity.
        return hash(tuple(_hashable(value) for value in self.to_dict().values()))


@final
class SDE(AbstractSDE):
    """An SDE from a drift and a diffusion of the user's own.

    Args:
        drift: f(x, t) -> tensor of the shape of x. A function or an nn.Module.
        diffusion: g(x, t) -> tensor of the shape that `noise` declares (see AbstractSDE). Where it is constant a tensor
            will do, or, unless the noise is general, a number; for general noise a constant tensor broadcasts to
            (B, *, m).
        noise: "scalar", "additive", "diagonal" or "general".
        calculus: "ito" or "stratonovich".
        noise_dim: for general noise, m, the number of Brownian motions.

    Raises:
        ArgumentError: if a function is not callable, or a word is not one of those above.
        ShapeError: by `drift` and `diffusion`, if a function returns a shape other than the one declared; broadcasting
            would make a wrong result of it.
    """

    def __init__(
        self,
        drift: Callable[[Tensor, Tensor], Tensor],
        diffusion: Callable[[Tensor, Tensor], Tensor] | Tensor | float,
        noise: NoiseKind = "diagonal",
        calculus: Calculus = "ito",
        noise_dim: int | None = None,
    ) -> None:
        if not callable(drift):
            raise ArgumentError(f"drift must be a function of (x, t), got {type(drift).__name__}.")
        if noise not in get_args(NoiseKind):
            raise ArgumentError(f"noise must be one of {', '.join(get_args(NoiseKind))}, got {noise!r}.")
        if calculus not in get_args(Calculus):
            raise ArgumentError(f"calculus must be one of {', '.join(get_args(Calculus))}, got {calculus!r}.")
        if (noise == "general") != (noise_dim is not None):
            raise ArgumentError(
                f"noise_dim (the number of Brownian motions) goes with noise='general' and with nothing else; "
                f"got noise={noise!r}, noise_dim={noise_dim!r}."
            )
        self._diffusion: Callable[[Tensor, Tensor], Tensor] | Tensor | float
        if isinstance(diffusion, Tensor) or callable(diffusion):
            self._diffusion = diffusion
        else:
            self._diffusion = check_number("diffusion, being neither a function of (x, t) nor a tensor,", diffusion)
            if noise == "general":
                raise ArgumentError(
                    f"general noise needs a diffusion of shape (B, *, {noise_dim}), got the number {diffusion!r}; give "
                    "a tensor or a function, or noise='additive'."
                )
        self._drift = drift
        self.noise = noise
        self.calculus = calculus
        self.noise_dim = None if noise_dim is None else check_positive_integer("noise_dim", noise_dim)

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        f = _returned("drift", self._drift(x, t), x)
        if f.shape != x.shape:
            raise ShapeError(
                f"the drift returned a tensor of shape {tuple(f.shape)} for a state of shape {tuple(x.shape)}; "
                "expected the same shape."
            )
        return f

    def diffusion(self, x: Tensor, t: Tensor) -> Tensor:
        if isinstance(self._diffusion, float):
            return torch.tensor(self._diffusion, dtype=x.dtype, device=x.device)
        shape = x.shape if self.noise_dim is None else (*x.shape, self.noise_dim)
        if isinstance(self._diffusion, Tensor):
            g = self._diffusion.to(x)
            if self.noise == "general" and broadcasts(g.shape, shape):
                g = g.expand(shape)
        else:
            g = _returned("diffusion", self._diffusion(x, t), x)
        if not (g.shape == shape or (self.noise != "general" and broadcasts(g.shape, shape))):
            what = f"{shape}" if self.noise == "general" else f"a shape that broadcasts to {tuple(shape)}"
            raise ShapeError(
                f"the diffusion has shape {tuple(g.shape)} for a state of shape {tuple(x.shape)}; "
                f"with {self.noise} noise expected {what}."
            )
        return g

    def to_dict(self) -> dict[str, Any]:
        raise ArgumentError("an SDE built from functions cannot be written as a plain dict; keep its code instead.")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SDE):
            return NotImplemented
        mine = (self._drift, self.noise, self.calculus, self.noise_dim)
        theirs = (other._drift, other.noise, other.calculus, other.noise_dim)
        if isinstance(self._diffusion, Tensor) or isinstance(other._diffusion, Tensor):
            return mine == theirs and self._diffusion is other._diffusion
        return mine == theirs and self._diffusion == other._diffusion

    def __hash__(self) -> int:
        # Without the functions: equal ones (two takes of one bound method) may be distinct objects, or unhashable.
        return hash((self.noise, self.calculus, self.noise_dim))

    def __repr__(self) -> str:
        drift = getattr(self._drift, "__name__", type(self._drift).__name__)
        if isinstance(self._diffusion, float):
            diffusion = repr(self._diffusion)
        else:
            diffusion = getattr(self._diffusion, "__name__", type(self._diffusion).__name__)
        size = "" if self.noise_dim is None else f", noise_dim={self.noise_dim}"
        return f"SDE(drift={drift}, diffusion={diffusion}, noise={self.noise!r}, calculus={self.calculus!r}{size})"


def _returned(name: str, value: object, x: Tensor) -> Tensor:
    """What a user's function returned, in the dtype of x (a float64 t of shape (B,) would promote it)."""
    if not isinstance(value, Tensor):
        raise ArgumentError(f"the {name} must return a tensor, got {type(value).__name__}.")
    return value.to(x.dtype)


def broadcasts(shape: torch.Size, to: tuple[int, ...]) -> bool:
    """Whether a tensor of `shape` broadcasts to the shape `to` without enlarging it."""
    if len(shape) > len(to):
        return False
    return all(n in (1, m) for n, m in zip(reversed(shape), reversed(to), strict=False))


def _hashable(value: Any) -> Any:
    return tuple(_hashable(v) for v in value) if isinstance(value, list) else value
