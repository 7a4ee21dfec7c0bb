r"""The stochastic differential equation as an object: what every solver may ask of it, and nothing more.

    dX = f(X, t) dt + g(X, t) dW

An SDE knows only itself. Its noise kind says how `g` acts on the increment, its calculus how the equation is read.
"""

from __future__ import annotations

import abc
import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, final, get_args

import torch
from torch import Tensor

from sdekit._tensors import check_number, check_positive_integer, expand_right
from sdekit.errors import ArgumentError, ShapeError

__all__ = ["SDE", "AbstractSDE", "Affine", "Calculus", "NoiseKind"]

NoiseKind = Literal["scalar", "additive", "diagonal", "commutative", "general"]
Calculus = Literal["ito", "stratonovich"]
MATRIX_NOISE: tuple[NoiseKind, ...] = ("commutative", "general")


@final
@dataclass(frozen=True)
class Affine:
    """f = a x + b and g at some times: float64 tensors of their shape."""

    a: Tensor
    b: Tensor
    g: Tensor


class AbstractSDE(abc.ABC):
    """dX = f(X, t) dt + g(X, t) dW, with a declared noise kind and calculus.

    The state x has shape (B, *); t has shape () or (B,). `diffusion` returns, by `noise`:

    - ``"additive"``: g(t), the same for every x: broadcastable to x, with dW of the shape of x; or, where noise_dim = m
      is given, a matrix of shape (B, *, m), with dW of shape (B, m);
    - ``"diagonal"``: g(x, t), broadcastable to x; dW has the shape of x. An entry of g is a function of the same entry
      of x and of t: where it depends on others too, methods of strong order above 1/2, those that take derivatives, and
      the conversion between the calculi need ``"general"``, with the diagonal matrix of g;
    - ``"scalar"``: g(x, t), broadcastable to x; one Brownian motion per sample, dW of shape (B, 1, …, 1);
    - ``"general"``: g(x, t) of shape (B, *, m); dW of shape (B, m), contracted over m;
    - ``"commutative"``: as general, and declared to satisfy (Dg_j) g_k = (Dg_k) g_j for all its columns, so that
      methods of strong order 1 need no Levy areas.

    noise_dim: m where g is a matrix, None elsewhere. needs_autograd: whether evaluating it differentiates, so that
    inference mode must be off.
    """

    noise: NoiseKind
    calculus: Calculus
    noise_dim: int | None = None
    needs_autograd: ClassVar[bool] = True

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
        if self.noise_dim is not None:
            return (shape[0], self.noise_dim)
        if self.noise in MATRIX_NOISE:
            raise ArgumentError(f"an SDE with {self.noise} noise must say its number of Brownian motions (noise_dim).")
        return (shape[0], *([1] * (len(shape) - 1))) if self.noise == "scalar" else tuple(shape)

    def affine(self, t: Tensor) -> Affine | None:
        """a, b and g at the times t, float64 (N,), where f = a(t) x + b(t) and g = g(t), the same for every entry of x.

        None for any other SDE. Such an SDE is solved without a call of its drift.
        """
        return None

    @property
    def constant_diffusion(self) -> float | None:
        """g where it is one number for all x and t, and acts entry by entry; None elsewhere."""
        return None

    def rows(self, which: slice | Tensor, shape: tuple[int, ...]) -> AbstractSDE:
        """The SDE of some samples, a slice or indices, of a state of `shape` (B, *): its parameters cut with the batch.

        An SDE without parameters for each sample is the same for all of them.
        """
        return self

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
        drift: f(x, t) -> tensor of the shape of x. A function or an nn.Module. t is a float64 tensor, of shape (), or
            (B, 1, …, 1) where samples have times of their own, as under an adaptive solver: it broadcasts against x.
        diffusion: g(x, t) -> tensor of the shape that `noise` declares (see AbstractSDE). Where it is constant a tensor
            will do, or, unless it is a matrix, a number; a constant matrix broadcasts to (B, *, m). A constant with all
            of the dimensions has a row for each sample, and is cut with the batch.
        noise: "scalar", "additive", "diagonal", "commutative" or "general".
        calculus: "ito" or "stratonovich".
        noise_dim: m, the number of Brownian motions, for general, commutative and (where g is a matrix) additive noise.
        parameters: tensors of shape (B, …), a row for each sample: both functions are given them by name, cut with the
            batch, so that many parameter sets are solved at once. What all samples share belongs into the functions.

    Raises:
        ArgumentError: if a function is not callable, or a word is not one of those above.
        ShapeError: by `drift` and `diffusion`, if a function returns a shape other than the one declared; broadcasting
            would make a wrong result of it.
    """

    def __init__(
        self,
        drift: Callable[..., Tensor],
        diffusion: Callable[..., Tensor] | Tensor | float,
        noise: NoiseKind = "diagonal",
        calculus: Calculus = "ito",
        noise_dim: int | None = None,
        parameters: Mapping[str, Tensor] | None = None,
    ) -> None:
        if not callable(drift):
            raise ArgumentError(f"drift must be a function of (x, t), got {type(drift).__name__}.")
        if noise not in get_args(NoiseKind):
            raise ArgumentError(f"noise must be one of {', '.join(get_args(NoiseKind))}, got {noise!r}.")
        if calculus not in get_args(Calculus):
            raise ArgumentError(f"calculus must be one of {', '.join(get_args(Calculus))}, got {calculus!r}.")
        if (noise_dim is None and noise in MATRIX_NOISE) or (noise_dim is not None and noise in ("scalar", "diagonal")):
            raise ArgumentError(
                "noise_dim (the number of Brownian motions) goes with a matrix g: always with general and commutative "
                "noise, and with additive noise where g is one; never with scalar and diagonal noise. "
                f"Got noise={noise!r}, noise_dim={noise_dim!r}."
            )
        self._diffusion: Callable[..., Tensor] | Tensor | float
        if isinstance(diffusion, Tensor) or callable(diffusion):
            self._diffusion = diffusion
        else:
            self._diffusion = check_number("diffusion, being neither a function of (x, t) nor a tensor,", diffusion)
            if noise_dim is not None:
                raise ArgumentError(
                    f"{noise} noise with noise_dim needs a diffusion of shape (B, *, {noise_dim}), got the number "
                    f"{diffusion!r}; give "
                    "a tensor or a function, or leave noise_dim out of noise='additive'."
                )
        self._drift = drift
        self.noise = noise
        self.calculus = calculus
        self.noise_dim = None if noise_dim is None else check_positive_integer("noise_dim", noise_dim)
        self._parameters = check_parameters(parameters)

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        f = _returned("drift", self._drift(x, _expanded(t, x), **self._parameters), x)
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
            if self.noise_dim is not None and broadcasts(g.shape, shape):
                g = g.expand(shape)
        else:
            g = _returned("diffusion", self._diffusion(x, _expanded(t, x), **self._parameters), x)
        if not (g.shape == shape or (self.noise_dim is None and broadcasts(g.shape, shape))):
            what = f"{shape}" if self.noise_dim is not None else f"a shape that broadcasts to {tuple(shape)}"
            raise ShapeError(
                f"the diffusion has shape {tuple(g.shape)} for a state of shape {tuple(x.shape)}; "
                f"with {self.noise} noise expected {what}."
            )
        return g

    @property
    def constant_diffusion(self) -> float | None:
        return self._diffusion if isinstance(self._diffusion, float) else None

    def rows(self, which: slice | Tensor, shape: tuple[int, ...]) -> SDE:
        g = self._diffusion
        dimensions = len(shape) + (self.noise_dim is not None)
        constants = isinstance(g, Tensor) and g.ndim == dimensions and g.shape[0] == shape[0] > 1
        if not self._parameters and not constants:
            return self
        other = copy.copy(self)
        other._parameters = cut_parameters(self._parameters, which, shape)
        if isinstance(g, Tensor) and constants:
            other._diffusion = _rows_of(g, which)
        return other

    def to_dict(self) -> dict[str, Any]:
        raise ArgumentError("an SDE built from functions cannot be written as a plain dict; keep its code instead.")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SDE):
            return NotImplemented
        mine = (self._drift, self.noise, self.calculus, self.noise_dim, _identities(self._parameters))
        theirs = (other._drift, other.noise, other.calculus, other.noise_dim, _identities(other._parameters))
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
        size += f", parameters={sorted(self._parameters)}" if self._parameters else ""
        return f"SDE(drift={drift}, diffusion={diffusion}, noise={self.noise!r}, calculus={self.calculus!r}{size})"


def check_parameters(parameters: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    """Parameters for each sample as a dict, or an ArgumentError."""
    if parameters is None:
        return {}
    if not isinstance(parameters, Mapping):
        raise ArgumentError(f"parameters must be a dict of tensors by name, got {type(parameters).__name__}.")
    for name, value in parameters.items():
        if not isinstance(name, str) or not isinstance(value, Tensor) or value.ndim == 0:
            raise ArgumentError(f"parameters hold tensors of shape (B, …) by name; got {name!r}: {value!r}.")
    return dict(parameters)


def cut_parameters(
    parameters: Mapping[str, Tensor], which: slice | Tensor, shape: tuple[int, ...]
) -> dict[str, Tensor]:
    """The rows of some samples of a batch of shape[0].

    Raises:
        ShapeError: if a parameter has not a row for each sample.
    """
    cut = {}
    for name, value in parameters.items():
        if value.shape[0] != shape[0]:
            raise ShapeError(
                f"parameter {name!r} has shape {tuple(value.shape)} for a batch of {shape[0]}: expected a row for each "
                "sample. What all samples share belongs into the functions."
            )
        cut[name] = _rows_of(value, which)
    return cut


def _rows_of(value: Tensor, which: slice | Tensor) -> Tensor:
    return value[which] if isinstance(which, slice) else value[which.to(value.device)]


def _expanded(t: Tensor, x: Tensor) -> Tensor:
    """t as users' functions have it; as it is where it is so already: of a drift that calls another SDE's."""
    as_it_is = t.ndim == x.ndim > 1 and t.shape == (x.shape[0], *([1] * (x.ndim - 1)))
    return t if as_it_is else expand_right(t, x)


def _identities(parameters: Mapping[str, Tensor]) -> tuple[tuple[str, int], ...]:
    return tuple((name, id(value)) for name, value in sorted(parameters.items()))


def _returned(name: str, value: object, x: Tensor) -> Tensor:
    """What a user's function returned, in the dtype of x (a float64 t of shape (B,) would promote it)."""
    if not isinstance(value, Tensor):
        raise ArgumentError(f"the {name} must return a tensor, got {type(value).__name__}.")
    return value if value.dtype == x.dtype else value.to(x.dtype)


def broadcasts(shape: torch.Size, to: tuple[int, ...]) -> bool:
    """Whether a tensor of `shape` broadcasts to the shape `to` without enlarging it."""
    if len(shape) > len(to):
        return False
    return all(n in (1, m) for n, m in zip(reversed(shape), reversed(to), strict=False))


def _hashable(value: Any) -> Any:
    return tuple(_hashable(v) for v in value) if isinstance(value, list) else value
