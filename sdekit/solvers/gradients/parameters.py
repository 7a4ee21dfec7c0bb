"""Which tensors the dynamics depend on: found by looking through the objects, and by the graph of a step."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from types import FunctionType, MethodType

import torch
from torch import Tensor

from sdekit._tensors import Edge, graph_edge, graph_leaves
from sdekit.dynamics import Dynamics
from sdekit.errors import UnsupportedError
from sdekit.models.score import ScoreModel
from sdekit.sdes import AbstractSDE

__all__ = ["check_known", "gradients", "inputs_of", "tensors_in"]


def tensors_in(what: object) -> list[Tensor]:
    """The tensors that require gradients in dynamics: in fields, modules, containers, closures, and names of functions.

    Not everything is seen (a tensor that a function takes from an object of its own, say): see `inputs_of`.
    """
    found: dict[int, Tensor] = {}
    seen: set[int] = set()
    waiting: list[object] = [what]
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, Tensor):
            if thing.requires_grad:
                found[id(thing)] = thing
        else:
            waiting.extend(_parts(thing))
    return list(found.values())


def _parts(thing: object) -> Iterable[object]:
    if isinstance(thing, torch.nn.Module):
        return [*thing.parameters(), *thing.buffers()]
    if isinstance(thing, Mapping):
        return list(thing.values())
    if isinstance(thing, (list, tuple, set, frozenset)):
        return list(thing)
    if isinstance(thing, (Dynamics, AbstractSDE, ScoreModel)):
        return list(vars(thing).values())
    if isinstance(thing, MethodType):
        return [thing.__func__, *_own(thing.__self__)]
    if isinstance(thing, functools.partial):
        return [thing.func, *thing.args, *thing.keywords.values()]
    if isinstance(thing, FunctionType):
        return list(_names(thing))
    return _own(thing) if callable(thing) and not isinstance(thing, type) else ()


def _own(thing: object) -> list[object]:
    return [thing] if isinstance(thing, torch.nn.Module) else list(getattr(thing, "__dict__", {}).values())


def _names(function: FunctionType) -> Iterator[object]:
    """What a function closes over, its defaults, and the tensors, modules and functions of its file that it names."""
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not yet assigned
            continue
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()
    if function.__module__.split(".")[0] in ("torch", "sdekit"):
        return
    for name in function.__code__.co_names:
        value = function.__globals__.get(name)
        if isinstance(value, (Tensor, torch.nn.Module, FunctionType, Mapping, list, tuple)):
            yield value


def inputs_of(outputs: Iterable[Tensor], known: Iterable[Tensor]) -> list[Tensor]:
    """The tensors by which a step's gradient goes on: of those known, and the leaves that it reaches besides.

    None of them is made from another, so that no part of a gradient is counted twice.
    """
    outputs = list(outputs)
    candidates = {id(tensor): tensor for tensor in known}
    while True:
        cuts = {graph_edge(tensor): tensor for tensor in candidates.values() if tensor.grad_fn is not None}
        leaves, _ = graph_leaves(outputs, set(cuts))
        ends = {**leaves, **{id(t): t for t in candidates.values() if t.grad_fn is None}}
        made = next((t for edge, t in cuts.items() if _made_from(t, set(cuts) - {edge}, ends)), None)
        if made is None:
            return [*ends.values(), *cuts.values()]
        del candidates[id(made)]


def _made_from(tensor: Tensor, cuts: set[Edge], ends: Mapping[int, Tensor]) -> bool:
    leaves, met = graph_leaves([tensor], cuts)
    return bool(met) or any(key in ends for key in leaves)


def check_known(outputs: Iterable[Tensor], known: Iterable[Tensor]) -> None:
    """Raise UnsupportedError if steps depend on a leaf that is not among the inputs: it would get no gradient."""
    known = list(known)
    leaves, _ = graph_leaves(outputs, {graph_edge(tensor) for tensor in known if tensor.grad_fn is not None})
    for tensor in known:
        leaves.pop(id(tensor), None)
    if leaves:
        shapes = ", ".join(str(tuple(leaf.shape)) for leaf in leaves.values())
        raise UnsupportedError(
            f"the dynamics depend on tensors that were not found at the start of the solve (of shape {shapes}), and "
            "that would get no gradient; pass them by gradient_parameters=[…], or take gradient='backprop'."
        )


def gradients(
    outputs: Iterable[Tensor], cotangents: Iterable[Tensor], inputs: list[Tensor]
) -> tuple[Tensor | None, ...]:
    """The gradients with respect to the inputs, None where the outputs do not depend on one."""
    pairs = [(out, cotangent) for out, cotangent in zip(outputs, cotangents, strict=True) if out.requires_grad]
    # The graph is kept: what lies behind an input that is no leaf is needed by the other steps too.
    return torch.autograd.grad(
        [out for out, _ in pairs],
        inputs,
        [cotangent for _, cotangent in pairs],
        allow_unused=True,
        retain_graph=True,
    )
