"""A digest of what an object is made of: equal in every process that builds it in the same way.

It reads tensors, plain values, containers, functions (their code, defaults and closures) and the state of objects as
pickle sees it (`__getstate__`). The globals that a function names are not followed.
"""

from __future__ import annotations

import functools
import hashlib
import types
from collections.abc import Callable, Mapping, Set
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdekit.errors import ArgumentError
from sdekit.models import ScoreModel

__all__ = ["fingerprint"]

_PLAIN = (type(None), bool, int, float, complex, str, bytes, types.EllipsisType, torch.dtype, torch.device, np.generic)


def fingerprint(value: object) -> str:
    """The SHA-256 of a value's contents, 64 hexadecimal digits. A ScoreModel's evaluation counter is left out.

    Raises:
        ArgumentError: for an object whose state cannot be read.
    """
    digest = hashlib.sha256()
    _feed(value, digest.update, {})
    return digest.hexdigest()


def _feed(value: Any, update: Callable[[bytes], None], seen: dict[int, Any]) -> None:
    def word(*parts: object) -> None:
        update(("\x1f".join(map(str, parts)) + "\x1e").encode())

    def feed(tag: str, *parts: Any) -> None:
        word(tag, len(parts))
        for part in parts:
            _feed(part, update, seen)

    if isinstance(value, _PLAIN):
        word(type(value).__name__, repr(value))
        return
    if id(value) in seen:
        word("again", list(seen).index(id(value)))
        return
    seen[id(value)] = value  # kept, so that no later object takes its id

    if isinstance(value, Tensor):
        word("tensor", value.dtype, tuple(value.shape))
        update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    elif isinstance(value, np.ndarray) and value.dtype != object:
        word("array", value.dtype, value.shape)
        update(np.ascontiguousarray(value).tobytes())
    elif isinstance(value, Mapping):
        feed("mapping", *(part for key in sorted(value, key=repr) for part in (key, value[key])))
    elif isinstance(value, (list, tuple)):
        feed(type(value).__name__, *value)
    elif isinstance(value, Set):
        word("set", *sorted(map(fingerprint, value)))
    elif isinstance(value, type):
        word("class", value.__module__, value.__qualname__)
    elif isinstance(value, types.CodeType):
        feed("code", value.co_code, value.co_consts, value.co_names)
    elif isinstance(value, types.FunctionType):
        cells = tuple(cell.cell_contents for cell in value.__closure__ or ())
        word("function", value.__module__, value.__qualname__)
        feed("made of", value.__code__, value.__defaults__, value.__kwdefaults__, cells)
    elif isinstance(value, types.MethodType):
        feed("method", value.__func__.__qualname__, value.__self__)
    elif isinstance(value, types.BuiltinFunctionType):
        word("builtin", value.__module__, value.__qualname__)
    elif isinstance(value, functools.partial):
        feed("partial", value.func, value.args, value.keywords)
    elif isinstance(value, ScoreModel):
        feed("model", {name: part for name, part in vars(value).items() if name != "counter"})
    else:
        kind = type(value)
        state = value.__getstate__()
        if state is None and not hasattr(value, "__dict__") and not hasattr(kind, "__slots__"):
            raise ArgumentError(
                f"cannot tell whether a {kind.__module__}.{kind.__qualname__} has changed, so results computed with it "
                "cannot be kept and found again. Wrap it in a torch.nn.Module or a plain class, or run without a "
                "folder (out=None)."
            )
        word("object", kind.__module__, kind.__qualname__)
        feed("state", state)
