"""The progress bar of a solve, or what stands in for it where none is wanted."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from typing import Any, Protocol, cast, final

__all__ = ["Bar", "progress_bar"]


class Bar(Protocol):
    """What a solve asks of a bar, inside `with`."""

    n: float

    def update(self, n: float) -> object: ...


@final
class _NoBar:
    n: float = 0

    def __enter__(self) -> _NoBar:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def update(self, n: float) -> None:
        self.n += n


def progress_bar(
    wanted: bool, *, total: float, initial: float = 0, name: str = "", unit: str = "step"
) -> AbstractContextManager[Bar]:
    """A tqdm bar on the error stream if it is wanted."""
    if not wanted:
        return _NoBar()
    from tqdm import tqdm

    bar: Any = tqdm(total=total, initial=initial, desc=name, unit=unit, file=sys.stderr, leave=False)
    return cast("AbstractContextManager[Bar]", bar)
