"""Targets by name: a ring and two moons in the plane, and scikit-learn's handwritten digits."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from sdekit._tensors import check_positive, check_positive_integer
from sdekit.errors import ArgumentError, UnknownNameError
from sdekit.targets.base import Target
from sdekit.targets.mixture import GaussianMixture

__all__ = ["digits", "moons", "named", "ring"]


def ring(n: int = 8, std: float = 0.105) -> GaussianMixture:
    """n equal Gaussians of standard deviation `std` on a circle, with unit variance in each coordinate.

    The radius is the r with r^2/2 + std^2 = 1; a sample has shape (2,).

    Raises:
        ArgumentError: if n is below 3 (fewer points have no equal variances) or std is not in (0, 1).
    """
    if check_positive_integer("n", n) < 3:
        raise ArgumentError(f"n must be at least 3 for equal variances in both coordinates, got {n!r}.")
    std = _check_std(std)
    angle = 2 * math.pi * torch.arange(n, dtype=torch.float64) / n
    radius = math.sqrt(2 * (1 - std**2))
    return GaussianMixture(None, radius * torch.stack([angle.cos(), angle.sin()], 1), std**2)


def moons(std: float = 0.1, components: int = 100) -> GaussianMixture:
    """Two interleaved half circles as equal Gaussians of standard deviation `std`, with mean 0 and unit variances.

    The means lie evenly on (cos a, sin a) and (1 - cos a, 1/2 - sin a), 0 < a < pi, half of them on each, as in
    scikit-learn's `make_moons`; each coordinate is then shifted and scaled so that its variance with the smoothing is
    1. A sample has shape (2,).

    Raises:
        ArgumentError: if `components` is not an even number of at least 4, or std is not in (0, 1).
    """
    if check_positive_integer("components", components) < 4 or components % 2:
        raise ArgumentError(f"components must be an even number of at least 4, got {components!r}.")
    std = _check_std(std)
    half = components // 2
    a = math.pi * (torch.arange(half, dtype=torch.float64) + 0.5) / half
    upper, lower = torch.stack([a.cos(), a.sin()], 1), torch.stack([1 - a.cos(), 0.5 - a.sin()], 1)
    means = torch.cat([upper, lower])
    means = means - means.mean(0)
    means = means * math.sqrt(1 - std**2) / means.square().mean(0).sqrt()
    return GaussianMixture(None, means, std**2)


def digits(std: float = 0.1) -> GaussianMixture:
    """scikit-learn's 1,797 handwritten digits, pixels in [-1, 1], each smoothed by a Gaussian of `std`.

    A mixture of 1,797 components in 64 dimensions; a sample has shape (1, 8, 8). (Alpaydin & Kaynak 1998, the test
    part of the UCI optical recognition set.)

    Raises:
        ArgumentError: if std is not a finite number above 0.
    """
    std = check_positive("std", std)
    from sklearn.datasets import load_digits  # here, so that `import sdekit` stays fast

    pixels = torch.as_tensor(load_digits().images, dtype=torch.float64)  # 0 to 16
    return GaussianMixture(None, (pixels / 8 - 1)[:, None], std**2)


_NAMED: dict[str, Callable[[], Target]] = {"ring": ring, "moons": moons, "digits": digits}


def named(name: str) -> Target:
    """The target "ring", "moons" or "digits" with its default parameters.

    Raises:
        UnknownNameError: if there is none of that name.
    """
    if name not in _NAMED:
        raise UnknownNameError("target", name, _NAMED)
    return _NAMED[name]()


def _check_std(std: float) -> float:
    std = check_positive("std", std)
    if std >= 1:
        raise ArgumentError(f"std must be below 1, the standard deviation of the whole, got {std!r}.")
    return std
