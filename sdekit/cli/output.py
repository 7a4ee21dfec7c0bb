"""What the commands share: where words go, how values are read and written."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sdekit.errors import ArgumentError

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "console",
    "names",
    "note",
    "numbers",
    "on_terminal",
    "options",
    "print_json",
    "use_threads",
    "whole_numbers",
]

_WIDTH = 120
"""Columns of a table that no terminal bounds."""


def console() -> Console:
    """The console for tables on the output stream; away from a terminal, plain text of a fixed width."""
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=_WIDTH)


def note(text: str) -> None:
    """A line for a person, on the error stream, so that the output stream stays a program's."""
    print(text, file=sys.stderr)


def on_terminal() -> bool:
    """Whether a progress bar would be seen."""
    return sys.stderr.isatty()


def print_json(value: Any) -> None:
    """A value as JSON on the output stream; NaN and infinities, which JSON lacks, as null."""
    print(json.dumps(_plain(value), indent=2))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def use_threads(count: int) -> None:
    """Have torch compute with so many threads."""
    import torch

    from sdekit._tensors import check_positive_integer

    torch.set_num_threads(check_positive_integer("--threads", count))


def options(pairs: Sequence[str]) -> dict[str, Any]:
    """`key=value` pairs, the values typed: integers, numbers, true, false, none; all else is text.

    Raises:
        ArgumentError: for a pair without "=", or a key given twice.
    """
    out: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise ArgumentError(f"--option takes key=value, such as eta=0.5; got {pair!r}.")
        if key in out:
            raise ArgumentError(f"option {key!r} is given twice.")
        out[key] = _typed(text)
    return out


def _typed(text: str) -> Any:
    words: dict[str, Any] = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def names(text: str) -> list[str]:
    """Words separated by commas."""
    return [word.strip() for word in text.split(",") if word.strip()]


def whole_numbers(name: str, text: str) -> list[int]:
    """Integers separated by commas; an ArgumentError that names the option otherwise."""
    return [int(value) for value in _parsed(name, text, int, "integers")]


def numbers(name: str, text: str) -> list[float]:
    """Numbers separated by commas; an ArgumentError that names the option otherwise."""
    return _parsed(name, text, float, "numbers")


def _parsed(name: str, text: str, kind: type, what: str) -> list[Any]:
    try:
        return [kind(word) for word in names(text)]
    except ValueError:
        raise ArgumentError(f"{name} takes {what} separated by commas, such as 1,2; got {text!r}.") from None
