"""A classifier of real digits, by which generated ones are recognised.

A support vector machine with a Gaussian kernel, fitted on the training images of `digits_split` alone (a second,
deterministic); it tells 99 % of the held-out images apart.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from sdekit.errors import ShapeError
from sdekit.training.digits_data import digits_split

__all__ = ["held_out_accuracy", "recognise", "recognition_accuracy"]


@functools.cache
def _classifier() -> Any:
    from sklearn.svm import SVC

    split = digits_split()
    return SVC(C=10.0, gamma=0.02).fit(split.train_images.flatten(1).numpy(), split.train_labels.numpy())


def recognise(images: Tensor) -> Tensor:
    """The digit that each image, (B, 1, 8, 8) with values in [-1, 1], is taken for: (B,) int64.

    Raises:
        ShapeError: if the images are not (B, 1, 8, 8).
    """
    if images.ndim != 4 or images.shape[1:] != (1, 8, 8):
        raise ShapeError(f"expected images of shape (B, 1, 8, 8), got {tuple(images.shape)}.")
    return torch.from_numpy(_classifier().predict(images.detach().cpu().double().flatten(1).numpy()))


def recognition_accuracy(images: Tensor, labels: Tensor) -> float:
    """The fraction of images, (B, 1, 8, 8), that are recognised as their labels, (B,).

    Raises:
        ShapeError: if the shapes do not fit.
    """
    if labels.shape != images.shape[:1]:
        raise ShapeError(f"expected labels of shape ({images.shape[0]},), got {tuple(labels.shape)}.")
    return float((recognise(images) == labels.cpu()).double().mean())


def held_out_accuracy() -> float:
    """The classifier's accuracy on the held-out real digits, which neither it nor the bundled network was fitted on."""
    split = digits_split()
    return recognition_accuracy(split.held_out_images, split.held_out_labels)
