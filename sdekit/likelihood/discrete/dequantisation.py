"""Noise within a bin: how it is drawn, and its density."""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from sdekit._tensors import check_positive

__all__ = ["Dequantisation", "TruncatedNormal", "Uniform"]


class Dequantisation(abc.ABC):
    """A density q of u in [-w/2, w/2]^d, its coordinates independent.

    Attributes:
        name: what `dequantisation=` calls it.
    """

    name: ClassVar[str]

    @abc.abstractmethod
    def draw(self, z: Tensor, width: float) -> tuple[Tensor, Tensor]:
        """u, (B, *), and log q(u), (B,), from standard normal z (B, *), float64, each u increasing in its z."""


@final
@dataclass(frozen=True)
class Uniform(Dequantisation):
    """q = w^-d."""

    name = "uniform"

    def draw(self, z: Tensor, width: float) -> tuple[Tensor, Tensor]:
        u = width * (torch.special.ndtr(z) - 0.5)
        return u, torch.full((len(z),), -z[0].numel() * math.log(width), dtype=torch.float64, device=z.device)


@final
@dataclass(frozen=True)
class TruncatedNormal(Dequantisation):
    r"""q = prod_i N(u_i; 0, s^2)/erf(a/sqrt 2),    a = w/(2 s)

    With s = sigma~(t_eps), x + u is distributed as the noised data that the model was trained on, but for what leaves
    the bin, so that for truly discrete data p is close to a multiple of q in the bin (Zheng et al. 2023,
    arXiv 2305.03935). No training.

    Args:
        std: s.
    """

    std: float

    name = "truncated_normal"

    def __post_init__(self) -> None:
        check_positive("std", self.std)

    def draw(self, z: Tensor, width: float) -> tuple[Tensor, Tensor]:
        a = width / (2 * self.std)
        mass = math.erf(a / math.sqrt(2))
        # In the lower half, where the distribution function keeps its digits; the sign comes after.
        below = 0.5 * math.erfc(a / math.sqrt(2)) + mass * torch.special.ndtr(-z.abs())
        standard = torch.copysign(torch.special.ndtri(below), z)
        d = z[0].numel()
        log_q = -0.5 * standard.reshape(len(z), -1).square().sum(1)
        return self.std * standard, log_q - d * (0.5 * math.log(2 * math.pi) + math.log(self.std) + math.log(mass))
