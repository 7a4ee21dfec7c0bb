"""The numbers a target is made of: checked, in float64, and moved to a device together."""

from __future__ import annotations

import copy
from typing import Self

import torch
from torch import Tensor

from sdekit.errors import ArgumentError, ShapeError

__all__ = ["Movable", "check_variances", "constant", "eigen"]


class Movable:
    """An object whose tensors, and whose parts' tensors, move to a device together."""

    def to(self, device: torch.device | str) -> Self:
        """The same object with its constants on `device`."""
        moved = copy.copy(self)
        with torch.inference_mode(False):
            for name, value in vars(self).items():
                if isinstance(value, Tensor | Movable):
                    setattr(moved, name, value.to(device))
        return moved


def constant(name: str, value: object) -> Tensor:
    """`value` as a finite float64 tensor of the target's own.

    Made outside inference mode, so that a target built under it still serves autograd.

    Raises:
        ArgumentError: if it cannot be read as numbers, is empty, or holds NaN or infinite values.
    """
    with torch.inference_mode(False):
        try:
            tensor = torch.as_tensor(value, dtype=torch.float64).detach().clone()
        except (TypeError, ValueError, RuntimeError) as error:
            raise ArgumentError(f"{name} must be a tensor or numbers, got {type(value).__name__} ({error}).") from None
        if tensor.numel() == 0 or not bool(torch.isfinite(tensor).all()):
            raise ArgumentError(f"{name} must hold at least one number and no NaN or infinity, got {tensor}.")
        return tensor


def check_variances(name: str, variances: Tensor) -> Tensor:
    """`variances` itself if every one is above 0, else an ArgumentError."""
    least = float(variances.min())
    if least <= 0:
        raise ArgumentError(f"{name} holds variances, which must be above 0; the least given is {least!r}.")
    return variances


def eigen(name: str, cov: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (*, d) and orthonormal eigenvectors (*, d, d), as columns, of covariance matrices (*, d, d).

    Raises:
        ShapeError: if they are not square.
        ArgumentError: if one is not symmetric (to 1e-6 of its largest entry) or not positive definite.
    """
    if cov.ndim < 2 or cov.shape[-1] != cov.shape[-2]:
        raise ShapeError(f"{name} must hold square covariance matrices, got shape {tuple(cov.shape)}.")
    asymmetry = float((cov - cov.mT).abs().max())
    if asymmetry > 1e-6 * float(cov.abs().max()):
        raise ArgumentError(f"{name} must be symmetric; it differs from its transpose by up to {asymmetry:.3g}.")
    values, vectors = torch.linalg.eigh((cov + cov.mT) / 2)
    least = float(values.min())
    if least <= 0:
        raise ArgumentError(f"{name} must be positive definite; its least eigenvalue is {least:.3g}.")
    return values, vectors
