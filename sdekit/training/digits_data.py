"""scikit-learn's 8x8 digits, split by a fixed rule into training and held-out images."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["HELD_OUT_RULE", "LEVEL_WIDTH", "DigitsSplit", "dequantise", "digits_split"]

HELD_OUT_RULE = "the 6th, 12th, 18th, … image of each class, in the order of sklearn.datasets.load_digits()"

LEVEL_WIDTH = 0.125
"""The distance of neighbouring grey levels: the levels 0, 1, …, 16 become -1, -0.875, …, 1."""


@dataclass(frozen=True)
class DigitsSplit:
    """Images (n, 1, 8, 8), float32 in [-1, 1], with labels (n,), int64: 1501 for training and 296 held out.

    `held_out_indices` are positions in `sklearn.datasets.load_digits()`.
    """

    train_images: Tensor
    train_labels: Tensor
    held_out_images: Tensor
    held_out_labels: Tensor
    held_out_indices: Tensor


@functools.cache
def digits_split() -> DigitsSplit:
    """The 1797 digits, of which every sixth image of each class is held out: the rule needs no random numbers."""
    from sklearn.datasets import load_digits

    data = load_digits()
    images = torch.tensor(data.images / 8 - 1, dtype=torch.float32).unsqueeze(1)
    labels = torch.tensor(data.target, dtype=torch.int64)
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    for label in range(10):
        held_out[(labels == label).nonzero()[5::6, 0]] = True
    return DigitsSplit(
        images[~held_out], labels[~held_out], images[held_out], labels[held_out], held_out.nonzero()[:, 0]
    )


def dequantise(images: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Images plus uniform noise of one level's width, centred: a density instead of 17 levels, in [-1.0625, 1.0625].

    (Theis et al. 2016, arXiv 1511.01844: a density of dequantised data bounds the discrete likelihood.)
    """
    uniform = torch.rand(images.shape, generator=generator, dtype=images.dtype).to(images.device)
    return images + LEVEL_WIDTH * (uniform - 0.5)
