"""Gradients through reversible Heun: the solve is gone through backwards, and nothing of it is kept but its end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import torch
from torch import Tensor

from sdekit.errors import UnsupportedError
from sdekit.noise import Increment
from sdekit.solvers.gradients.once import differentiable_once
from sdekit.solvers.gradients.parameters import check_known, gradients, inputs_of, tensors_in
from sdekit.solvers.gradients.steps import State, Steps, detached
from sdekit.solvers.sde.reversible_heun import ReversibleState, backward_step, forward_step

__all__ = ["go_reversibly"]

# Draws that are made at once, since streams are made to be read forwards.
_BLOCK = 32


def go_reversibly(
    steps: Steps, places: list[int], parameters: list[Tensor], moved: Callable[[int], object]
) -> tuple[Tensor, list[Tensor]]:
    """x at the end, and at each of `places` (numbers of steps, 1 or more, in order); autograd follows them all.

    Args:
        steps: those of reversible Heun.
        places: after which steps x is wanted besides.
        parameters: tensors that the dynamics depend on, beside those that are found.
        moved: called with the number of steps made, as they are.
    """
    before = torch.get_rng_state()
    start = steps.begin()
    if not torch.equal(torch.get_rng_state(), before):
        raise UnsupportedError(
            "the drift or diffusion draws random numbers (dropout?), so that steps cannot be undone; switch that off "
            "(module.eval()), or take gradient='checkpoint'."
        )
    if steps.whole == 0:
        return steps.one(start, 0)[0], []
    # x0 goes in as the state; the dynamics may be made from it besides.
    known = [*parameters, *tensors_in(steps.dynamics), *([start[0]] if start[0].requires_grad else [])]
    inputs = inputs_of(start[2:], known)
    inner = [place for place in places if place <= steps.whole]
    x, *kept = _Reversible.apply(steps, inner, moved, len(start), *start, *inputs)  # type: ignore[no-untyped-call]
    if steps.whole < steps.count:
        x = steps.one((x,), steps.whole)[0]
        kept += [x for place in places if place == steps.count]
    return x, kept


@final
class _Reversible(torch.autograd.Function):
    """All steps of reversible Heun as one node of the graph."""

    @staticmethod
    def forward(
        ctx: Any, steps: Steps, places: list[int], moved: Callable[[int], object], size: int, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        state, inputs = tensors[:size], tensors[size:]
        kept = []
        for first in range(0, steps.whole, _BLOCK):
            with steps.noise_from(first):
                for k in range(first, min(first + _BLOCK, steps.whole)):
                    state = steps.one(state, k)
                    kept += [state[0].clone()] if k + 1 in places else []
                    moved(1)
        ctx.steps, ctx.places, ctx.size = steps, places, size
        # The start is saved too, for what is said of a second derivative.
        ctx.save_for_backward(*state, *inputs, tensors[0])
        return (state[0].clone(), *kept)

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, of_end: Tensor, *of_kept: Tensor) -> tuple[Tensor | None, ...]:
        steps: Steps = ctx.steps
        saved = ctx.saved_tensors
        state, inputs = saved[: ctx.size], saved[ctx.size : -1]
        cotangents = (of_end, *(torch.zeros_like(value) for value in state[1:]))
        wanted = dict(zip(ctx.places, of_kept, strict=True))
        totals: list[Tensor | None] = [None] * len(inputs)
        for first in reversed(range(0, steps.whole, _BLOCK)):
            noises = _draws(steps, first, min(first + _BLOCK, steps.whole))
            for k in reversed(range(first, first + len(noises))):
                if k + 1 in wanted:
                    cotangents = (cotangents[0] + wanted[k + 1], *cotangents[1:])
                state, cotangents, each = _back(steps, state, cotangents, inputs, k, noises[k - first].W)
                totals = [_sum(total, new) for total, new in zip(totals, each, strict=True)]
        return (None, None, None, None, *cotangents, *totals)


def _draws(steps: Steps, start: int, stop: int) -> list[Increment]:
    with steps.noise_from(start):
        draws = [steps.draw() for _ in range(start, stop)]
    return [draw for draw in draws if draw is not None]


def _back(
    steps: Steps, after: State, cotangents: State, inputs: tuple[Tensor, ...], k: int, w: Tensor
) -> tuple[State, State, list[Tensor | None]]:
    """Step k undone: the state before it, and the gradients with respect to that and to the inputs."""
    dynamics, h = steps.dynamics, steps.lengths[k]
    with torch.no_grad():
        before = backward_step(dynamics, ReversibleState(*after), steps.clock[k], h, w)
    with torch.enable_grad():
        leaves = detached((before.x, before.x_hat, before.f, before.g))
        again = forward_step(dynamics, ReversibleState(*leaves), steps.clock[k + 1], h, w)
    outputs = [again.x, again.x_hat, again.f, again.g]
    check_known(outputs, [*leaves, *inputs])
    found = gradients(outputs, cotangents, [*leaves, *inputs])
    size = len(leaves)
    of_state = tuple(
        torch.zeros_like(leaf) if grad is None else grad for leaf, grad in zip(leaves, found[:size], strict=True)
    )
    return tuple(leaf.detach() for leaf in leaves), of_state, list(found[size:])


def _sum(total: Tensor | None, new: Tensor | None) -> Tensor | None:
    return new if total is None else total if new is None else total + new
