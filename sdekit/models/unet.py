r"""A small class-conditional U-Net for images whose sides are multiples of two (built for 8x8 digits).

    x, conv, [blocks], down, [blocks], block, attention, block, [blocks], up, [blocks], conv
                 |             |                                  |            |
                 |             +------------- skip ---------------+            |
                 +---------------------------- skip ---------------------------+

Every block is modulated by one vector: an embedding of the log-SNR plus an embedding of the class (Ho et al. 2020,
arXiv 2006.11239; scale and shift as in Dhariwal & Nichol 2021, arXiv 2105.05233).
"""

from __future__ import annotations

import math
from typing import Any, final

import torch
from torch import Tensor, nn

from sdekit._tensors import check_positive_integer
from sdekit.errors import ArgumentError, ShapeError

__all__ = ["UNet"]

LOG_SNR_LIMIT = 20.0
"""The log-SNR is held within +-20, where sigma/alpha is 4.5e-5 or 2.2e4: t = 0 and pure noise stay finite."""


@final
class UNet(nn.Module):
    """network(x, log_snr, y): x (B, C, H, W), log_snr (B,), y (B,) int64 or None; returns the shape of x.

    The time it takes is the log-SNR, ln(alpha^2/sigma^2), so build the model as
    ``ScoreModel(UNet(), sde, "v", time=sde.log_snr, shape=(1, 8, 8))``. The last layer starts at 0, so that an
    untrained network predicts 0.

    Args:
        image_channels: channels of x.
        channels: width at full resolution; a multiple of `groups`.
        multipliers: the width of each level over `channels`; each level but the first halves H and W.
        blocks: residual blocks a level, down and up each.
        embedding: length of the embedding of log-SNR and class.
        classes: number of classes; the label `classes` itself, or y=None, is the null class (no condition).
        groups: groups of every GroupNorm.
        heads: attention heads at the lowest resolution.
        dropout: probability of dropout inside every block while training.

    Raises:
        ArgumentError: if a size is not a positive integer or does not divide, or dropout is outside [0, 1).
    """

    def __init__(
        self,
        *,
        image_channels: int = 1,
        channels: int = 32,
        multipliers: tuple[int, ...] = (1, 2),
        blocks: int = 1,
        embedding: int = 128,
        classes: int = 10,
        groups: int = 8,
        heads: int = 2,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        sizes = {
            "image_channels": image_channels,
            "channels": channels,
            "blocks": blocks,
            "embedding": embedding,
            "classes": classes,
            "groups": groups,
            "heads": heads,
        }
        for name, size in sizes.items():
            check_positive_integer(name, size)
        widths = [channels * check_positive_integer("each multiplier", m) for m in multipliers]
        if not widths:
            raise ArgumentError("multipliers must name at least one level, got ().")
        if channels % groups or widths[-1] % heads or embedding % 2:
            raise ArgumentError(
                f"groups must divide channels, heads the lowest width, and 2 the embedding; "
                f"got groups={groups}, channels={channels}, heads={heads}, width {widths[-1]}, embedding={embedding}."
            )
        if not 0 <= dropout < 1:
            raise ArgumentError(f"dropout must be in [0, 1), got {dropout!r}.")
        self.config: dict[str, Any] = {**sizes, "multipliers": tuple(multipliers), "dropout": dropout}
        self.image_channels, self.classes, self.reduction = image_channels, classes, 2 ** (len(widths) - 1)

        self.log_snr_embedding = LogSNREmbedding(embedding)
        self.class_embedding = nn.Embedding(classes + 1, embedding)
        self.first = nn.Conv2d(image_channels, widths[0], 3, padding=1)

        def block(width: int, out: int) -> ResidualBlock:
            return ResidualBlock(width, out, embedding, groups, dropout)

        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        width, skips = widths[0], []
        for level, out in enumerate(widths):
            if level:
                self.down.append(Downsample(width))
            for _ in range(blocks):
                self.down.append(block(width, out))
                width = out
                skips.append(width)
        self.middle = nn.ModuleList([block(width, width), Attention(width, groups, heads), block(width, width)])
        for level, out in reversed(list(enumerate(widths))):
            for _ in range(blocks):
                self.up.append(block(width + skips.pop(), out))
                width = out
            if level:
                self.up.append(Upsample(width, widths[level - 1]))
                width = widths[level - 1]
        self.last = nn.Sequential(
            nn.GroupNorm(groups, width), nn.SiLU(), _zeroed(nn.Conv2d(width, image_channels, 3, padding=1))
        )

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """The prediction at x, of its shape; `t` is the log-SNR, () or (B,); y (B,) holds class labels.

        Raises:
            ShapeError: if x is not (B, image_channels, H, W) with H and W multiples of the reduction, or y not (B,).
            ArgumentError: if y is no tensor of integers, or holds a class that there is not.
        """
        if (
            x.ndim != 4
            or x.shape[1] != self.image_channels
            or x.shape[2] % self.reduction
            or x.shape[3] % self.reduction
        ):
            raise ShapeError(
                f"expected x of shape (B, {self.image_channels}, H, W) with H and W multiples of {self.reduction}, "
                f"got {tuple(x.shape)}."
            )
        if y is None:
            y = torch.full((1,), self.classes, dtype=torch.int64, device=x.device)
        elif not isinstance(y, Tensor) or y.dtype not in (torch.int64, torch.int32):
            given = y.dtype if isinstance(y, Tensor) else f"{type(y).__name__} {y!r}"
            raise ArgumentError(
                f"y must be a tensor of integers, one label a sample: torch.tensor([3, …]); got {given}."
            )
        elif y.shape not in ((), (1,), (x.shape[0],)):
            raise ShapeError(f"expected one label y for each of the {x.shape[0]} samples, got shape {tuple(y.shape)}.")
        try:
            embedded = self.class_embedding(y.reshape(-1))
        except IndexError:  # on the CPU; looking first would make a GPU wait
            raise ArgumentError(
                f"y must hold labels from 0 to {self.classes} ({self.classes} is no class), got {y.tolist()}."
            ) from None
        context = self.log_snr_embedding(t.reshape(-1).to(x.dtype)) + embedded
        context = nn.functional.silu(context).expand(x.shape[0], -1)

        h = self.first(x)
        skips = []
        for module in self.down:
            if isinstance(module, ResidualBlock):
                h = module(h, context)
                skips.append(h)
            else:
                h = module(h)
        for module in self.middle:
            h = module(h, context) if isinstance(module, ResidualBlock) else module(h)
        for module in self.up:
            h = module(torch.cat([h, skips.pop()], 1), context) if isinstance(module, ResidualBlock) else module(h)
        out: Tensor = self.last(h)
        return out


class LogSNREmbedding(nn.Module):
    """sin and cos of the log-SNR at geometric frequencies from 1/32 to 2 rad per unit, then two dense layers."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.dense = nn.Sequential(nn.Linear(size, size), nn.SiLU(), nn.Linear(size, size))

    def forward(self, log_snr: Tensor) -> Tensor:
        """(B,) -> (B, size)."""
        frequencies = torch.logspace(-5, 1, self.size // 2, base=2.0, dtype=log_snr.dtype, device=log_snr.device)
        angle = log_snr.clamp(-LOG_SNR_LIMIT, LOG_SNR_LIMIT)[:, None] * frequencies
        out: Tensor = self.dense(torch.cat([torch.sin(angle), torch.cos(angle)], 1))
        return out


class ResidualBlock(nn.Module):
    """h -> skip(h) + conv(dropout(silu((1 + a) norm(conv(silu(norm(h)))) + b))), with (a, b) linear in the context."""

    def __init__(self, width: int, out: int, context: int, groups: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(groups, width), nn.Conv2d(width, out, 3, padding=1)
        self.modulation = nn.Linear(context, 2 * out)
        self.norm2, self.conv2 = nn.GroupNorm(groups, out), _zeroed(nn.Conv2d(out, out, 3, padding=1))
        self.dropout = nn.Dropout(dropout)
        self.skip = nn.Identity() if width == out else nn.Conv2d(width, out, 1)

    def forward(self, h: Tensor, context: Tensor) -> Tensor:
        """(B, width, H, W), (B, context) -> (B, out, H, W)."""
        scale, shift = self.modulation(context)[:, :, None, None].chunk(2, 1)
        inner = self.conv1(nn.functional.silu(self.norm1(h)))
        inner = nn.functional.silu(torch.addcmul(shift, self.norm2(inner), 1 + scale))
        out: Tensor = self.skip(h) + self.conv2(self.dropout(inner))
        return out


class Attention(nn.Module):
    """Self-attention over the pixels: h + W softmax(q k' / sqrt(d)) v.

    Written out, because the fused kernels have no forward-mode derivative, which the exact divergence needs.
    """

    def __init__(self, width: int, groups: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(groups, width)
        self.query_key_value, self.out = nn.Conv2d(width, 3 * width, 1), _zeroed(nn.Conv2d(width, width, 1))

    def forward(self, h: Tensor) -> Tensor:
        """(B, width, H, W) -> the same."""
        b, width, height, breadth = h.shape
        split = self.query_key_value(self.norm(h)).reshape(b, 3, self.heads, width // self.heads, height * breadth)
        q, k, v = split.unbind(1)
        weights = torch.softmax(q.transpose(-1, -2) @ k / math.sqrt(q.shape[2]), -1)
        mixed = (v @ weights.transpose(-1, -2)).reshape(b, width, height, breadth)
        out: Tensor = h + self.out(mixed)
        return out


class Downsample(nn.Module):
    """Halve H and W by a convolution of stride 2."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2, padding=1)

    def forward(self, h: Tensor) -> Tensor:
        """(B, width, H, W) -> (B, width, H/2, W/2)."""
        out: Tensor = self.conv(h)
        return out


class Upsample(nn.Module):
    """Double H and W by repetition, then a convolution."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, out, 3, padding=1)

    def forward(self, h: Tensor) -> Tensor:
        """(B, width, H, W) -> (B, out, 2H, 2W)."""
        doubled = h.repeat_interleave(2, -1).repeat_interleave(2, -2)
        out: Tensor = self.conv(doubled)
        return out


def _zeroed(conv: nn.Conv2d) -> nn.Conv2d:
    """A layer that starts at 0, so that each block starts as its skip connection."""
    nn.init.zeros_(conv.weight)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv
