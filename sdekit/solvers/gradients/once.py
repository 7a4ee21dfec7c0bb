"""Gradients that have no gradient of their own, and say so."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, final

import torch
from torch import Tensor

from sdekit.errors import UnsupportedError

__all__ = ["differentiable_once"]

Backward = Callable[..., tuple[Tensor | None, ...]]


def differentiable_once(backward: Backward) -> Backward:
    """The `backward` of a torch.autograd.Function, whose gradients raise UnsupportedError if they are differentiated.

    `torch.autograd.function.once_differentiable` cuts them off instead: torch.autograd.grad never comes to its error,
    and leaves the second derivative out of a sum. Here the way on leads to all that the function saved.
    """

    @functools.wraps(backward)
    def marked(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        with torch.no_grad():
            found = backward(ctx, *cotangents)
        if not torch.is_grad_enabled():  # nobody has asked for a graph (create_graph=True)
            return found
        reached = (*cotangents, *ctx.saved_tensors)
        return tuple(None if each is None else _Marked.apply(each, *reached) for each in found)  # type: ignore[no-untyped-call]

    return marked


@final
class _Marked(torch.autograd.Function):
    """A gradient, and what it depends on."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, *reached: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        raise UnsupportedError(
            "a second derivative of a solve was asked for; gradient='backprop' alone has one, 'checkpoint' and "
            "'reversible' have none."
        )
