r"""From the Ito reading of an SDE to the Stratonovich reading and back, by differentiating its diffusion.

    dX = f dt + g dW (Ito)   is   dX = (f - c) dt + g o dW (Stratonovich),   c = 1/2 sum_j (D g_j) g_j

over the columns g_j of g, D g_j the Jacobian in x (Stratonovich 1966; Kloeden & Platen 1992, section 4.9). With
diagonal noise c_i = 1/2 g_i dg_i/dx_i; with additive noise c = 0 and the two readings are one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, final

import torch
from torch import Tensor

from sdekit.errors import ArgumentError, UnsupportedError
from sdekit.sdes.base import AbstractSDE, Calculus

__all__ = [
    "Reread",
    "as_ito",
    "as_stratonovich",
    "check_own_entries",
    "correction",
    "derivative_along",
    "diagonal_derivative",
]

_STEP = 1e-3


class HasDiffusion(Protocol):
    """An SDE, or dynamics."""

    def diffusion(self, x: Tensor, t: Tensor) -> Tensor:
        """g(x, t)."""


def derivative_along(sde: HasDiffusion, x: Tensor, t: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """g(x, t) and its derivative in x along v, (D g) v, both of the shape of g; v has the shape of x.

    Raises:
        UnsupportedError: if torch cannot differentiate the diffusion.
    """
    recorded = torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
    try:
        with torch.inference_mode(False), torch.set_grad_enabled(recorded):
            x, t, v = _recordable(x), _recordable(t), _recordable(v)
            g, along = torch.func.jvp(lambda y: sde.diffusion(y, t), (x,), (v,))[:2]
    except RuntimeError as error:
        raise _not_differentiable(sde, error) from error
    return g, along


def diagonal_derivative(sde: HasDiffusion, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """g(x, t) and dg_i/dx_i of a diffusion whose entries each see their own entry of x: the gradient of their sum.

    Where gradients are on, the derivative is differentiable again.

    Raises:
        UnsupportedError: if torch cannot differentiate the diffusion.
    """
    again = torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
    try:
        with torch.inference_mode(False), torch.enable_grad():
            x, t = _recordable(x), _recordable(t)
            point = x if again and x.requires_grad else x.detach().requires_grad_()
            g = sde.diffusion(point, t)
            if not g.requires_grad:
                return g, torch.zeros_like(x)
            (slope,) = torch.autograd.grad(g.expand(x.shape).sum(), point, create_graph=again, allow_unused=True)
    except RuntimeError as error:
        raise _not_differentiable(sde, error) from error
    return (g if again else g.detach()), (torch.zeros_like(x) if slope is None else slope)


def check_own_entries(sde: HasDiffusion, x: Tensor, t: Tensor) -> None:
    """Raise UnsupportedError if an entry of the diffusion, at (x, t), depends on other entries of x than its own.

    Of g_i that see x_i alone, sum_i w_i g_i has the gradient w_i dg_i/dx_i for any weights w.
    """
    g, slope = _gradients_of_sums(sde, x, t, torch.ones_like)
    _, weighted = _gradients_of_sums(sde, x, t, _weights)
    if slope is None or weighted is None:
        return
    expected = _weights(x) * slope
    # Rounding: of the gradients, and, where they are differences of what is larger, of the size of g/x.
    scale = weighted.abs() + expected.abs() + g.abs().max() / x.abs().max().clamp(min=1.0)
    bad = (weighted - expected).abs() > 10 * torch.finfo(x.dtype).eps ** 0.5 * scale
    if bool(bad.any()):
        raise UnsupportedError(
            f"the noise of {sde!r} is declared diagonal, but an entry of its diffusion depends on other entries of x "
            "(or other samples), so that its derivative is not entry by entry and the result would be wrong. Declare "
            "noise='general' with noise_dim=d and return torch.diag_embed(g); or take a solver of the SDE's own "
            "calculus that takes no derivatives, such as 'euler_maruyama' (Ito) or 'stochastic_heun' (Stratonovich)."
        )


def _weights(x: Tensor) -> Tensor:
    """Different numbers for the entries of x, of its shape: no two of them are in a simple relation."""
    return torch.arange(1, x.numel() + 1, device=x.device).cos().to(x.dtype).reshape(x.shape)


def _gradients_of_sums(
    sde: HasDiffusion, x: Tensor, t: Tensor, weights: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor | None]:
    """g(x, t), expanded to x where it acts entry by entry, and the gradient in x of the weighted sum of its entries.

    The gradient is None where autograd does not reach x.
    """
    try:
        with torch.enable_grad():
            point = x.detach().clone().requires_grad_()
            g = sde.diffusion(point, t)
            g = g if g.ndim > x.ndim else g.expand(x.shape)
            if not g.requires_grad:
                return g, None
            total = (g * weights(g.detach())).sum()
            (slope,) = torch.autograd.grad(total, point, allow_unused=True)
    except RuntimeError as error:
        raise _not_differentiable(sde, error) from error
    return g.detach(), slope


def _recordable(x: Tensor) -> Tensor:
    """x, copied where it was made in inference mode: autograd takes no such tensor, and the derivative would be 0."""
    return x.clone() if x.is_inference() else x


def _not_differentiable(sde: HasDiffusion, error: RuntimeError) -> UnsupportedError:
    return UnsupportedError(
        f"the diffusion of {sde!r} cannot be differentiated by torch ({str(error).splitlines()[0]}). Write it in torch "
        "operations on x, or take a solver that does not differentiate it, such as 'milstein_free'."
    )


def correction(sde: AbstractSDE, x: Tensor, t: Tensor) -> Tensor:
    """c = 1/2 sum_j (D g_j) g_j, of the shape of x: what the Ito drift has over the Stratonovich drift.

    Raises:
        UnsupportedError: if torch cannot differentiate the diffusion.
    """
    if sde.noise == "additive":
        return torch.zeros_like(x)
    if sde.noise == "diagonal":
        g, slope = diagonal_derivative(sde, x, t)
        return 0.5 * g * slope
    g = sde.diffusion(x, t)
    if sde.noise_dim is None:
        _, along = derivative_along(sde, x, t, g.expand(x.shape))
        return (0.5 * along).expand(x.shape)
    total = torch.zeros_like(x)
    for j in range(sde.noise_dim):
        _, along = derivative_along(sde, x, t, g[..., j])
        total = total + along[..., j]
    return 0.5 * total


@final
class Reread(AbstractSDE):
    """The SDE with the same solutions, written in the other calculus; its drift is corrected at each evaluation.

    falling: for a solve with time running down. There dX = f dt + g dW reads, in the time u that has passed,
    dX = -f du + g dB, and what corrects -f has the other sign for f.
    """

    def __init__(self, sde: AbstractSDE, calculus: Calculus, falling: bool = False) -> None:
        self.original = sde
        self.noise, self.noise_dim, self.calculus, self.falling = sde.noise, sde.noise_dim, calculus, falling
        self._sign = 1.0 if (calculus == "ito") != falling else -1.0

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return self.original.drift(x, t) + self._sign * correction(self.original, x, t)

    def diffusion(self, x: Tensor, t: Tensor) -> Tensor:
        return self.original.diffusion(x, t)

    def rows(self, which: slice | Tensor, shape: tuple[int, ...]) -> AbstractSDE:
        return Reread(self.original.rows(which, shape), self.calculus, self.falling)

    def check(self, x: Tensor, t: Tensor) -> None:
        """Raise UnsupportedError where the correction would be wrong, as far as x, (B, *), and t show it.

        That is, if torch cannot differentiate the diffusion; if it changes with x unseen by autograd (it detaches x, or
        computes in numpy), so that its derivative is 0 for torch; or if it is declared diagonal and its entries depend
        on other entries of x.
        """
        if self.noise == "additive":
            return
        correction(self.original, x, t)
        with torch.inference_mode(False):
            x, t = _recordable(x), _recordable(t)
            g, slope = _gradients_of_sums(self.original, x, t, torch.ones_like)
            if slope is None:
                self._check_unseen(x, t, g)
            elif self.noise == "diagonal":
                check_own_entries(self.original, x, t)

    def _check_unseen(self, x: Tensor, t: Tensor, g: Tensor) -> None:
        moved = x + _STEP * x.abs().clamp(min=1.0)
        with torch.no_grad():
            if torch.equal(self.original.diffusion(moved, t).expand(g.shape), g):
                return
        raise UnsupportedError(
            f"the diffusion of {self.original!r} changes with x, but torch sees no derivative (does it detach x, "
            f"or leave torch?), so the {self.original.calculus} drift cannot be turned into the {self.calculus} "
            f"one. Write it in torch operations on x, or take a solver of the {self.original.calculus} calculus."
        )

    def to_dict(self) -> dict[str, Any]:
        values = {"type": "Reread", "calculus": self.calculus, "sde": self.original.to_dict()}
        return {**values, "falling": True} if self.falling else values

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Reread):
            return NotImplemented
        mine, theirs = (self.calculus, self.falling), (other.calculus, other.falling)
        return mine == theirs and self.original == other.original

    def __hash__(self) -> int:
        return hash((self.calculus, self.original))

    def __repr__(self) -> str:
        return f"{self.original!r} in the {self.calculus} sense{', time falling' if self.falling else ''}"


def as_calculus(sde: AbstractSDE, calculus: Calculus, falling: bool = False) -> AbstractSDE:
    """The SDE with the same solutions whose `calculus` is this one; itself where it is already.

    falling: whether it is for a solve with time running down.
    """
    if not isinstance(sde, AbstractSDE):
        raise ArgumentError(
            f"expected an SDE, got {type(sde).__name__}; an object written for torchsde is TorchsdeStyle(sde) first."
        )
    if sde.calculus == calculus:
        return sde
    if isinstance(sde, Reread) and sde.falling == falling:
        return sde.original
    return Reread(sde, calculus, falling)


def as_ito(sde: AbstractSDE) -> AbstractSDE:
    """The SDE with the same solutions, read in Ito's sense; itself where it is already.

    Raises:
        ArgumentError: if it is no SDE.
    """
    return as_calculus(sde, "ito")


def as_stratonovich(sde: AbstractSDE) -> AbstractSDE:
    """The SDE with the same solutions, read in Stratonovich's sense; itself where it is already.

    Raises:
        ArgumentError: if it is no SDE.
    """
    return as_calculus(sde, "stratonovich")
