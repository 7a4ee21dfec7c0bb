"""Gradients with memory O(sqrt(N)): states at sqrt(N) places are kept, and the steps between them made again."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, final

import torch
from torch import Tensor

from sdekit.solvers.gradients.once import differentiable_once
from sdekit.solvers.gradients.parameters import check_known, gradients, inputs_of, tensors_in
from sdekit.solvers.gradients.steps import State, Steps, detached

__all__ = ["go_by_segments"]


def go_by_segments(
    steps: Steps, places: list[int], parameters: list[Tensor], moved: Callable[[int], object]
) -> tuple[Tensor, list[Tensor]]:
    """x at the end, and at each of `places` (numbers of steps, 1 or more, in order); autograd follows them all.

    A segment of sqrt(N) steps is one node of the graph: one that held its steps' nodes, without their tensors, would
    still grow like N, and for small states as much as the tensors.

    Args:
        steps: the steps.
        places: after which steps x is wanted besides.
        parameters: tensors that the dynamics depend on, beside those that are found.
        moved: called with the number of steps made, as they are.
    """
    state, kept = steps.begin(), []
    inputs = inputs_of(steps.probe(), [*parameters, *tensors_in(steps.dynamics)])
    size = math.isqrt(max(0, steps.count - 1)) + 1
    for start in range(0, steps.count, size):
        stop = min(start + size, steps.count)
        inside = [place for place in places if start < place <= stop]
        out = _Segment.apply(steps, (start, stop), inside, len(state), *state, *inputs)  # type: ignore[no-untyped-call]
        kept += out[: len(inside)]
        state = out[len(inside) :]
        moved(stop - start)
    return state[0], kept


@final
class _Segment(torch.autograd.Function):
    """Some steps as one node of the graph."""

    @staticmethod
    def forward(
        ctx: Any, steps: Steps, ends: tuple[int, int], places: list[int], size: int, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        # Dropout in a drift is the same when the steps are made again.
        ctx.steps, ctx.ends, ctx.places, ctx.size, ctx.rng = steps, ends, places, size, torch.get_rng_state()
        ctx.save_for_backward(*tensors)
        return tuple(value.clone() for value in _go(steps, ends, places, tensors[:size]))

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        state, inputs = ctx.saved_tensors[: ctx.size], ctx.saved_tensors[ctx.size :]
        with torch.enable_grad(), torch.random.fork_rng(devices=[]):
            torch.set_rng_state(ctx.rng)
            leaves = detached(state)
            outputs = _go(ctx.steps, ctx.ends, ctx.places, leaves)
        check_known(outputs, [*leaves, *inputs])
        found = gradients(outputs, cotangents, [*leaves, *inputs])
        return (None, None, None, None, *found)


def _go(steps: Steps, ends: tuple[int, int], places: list[int], state: State) -> list[Tensor]:
    """x at the places, and the state at the end."""
    kept = []
    with steps.noise_from(ends[0]):
        for k in range(*ends):
            state = steps.one(state, k)
            kept += [state[0]] if k + 1 in places else []
    return [*kept, *state]
