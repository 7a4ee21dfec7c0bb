"""What long runs share: a file that they go on from, a Ctrl-C that waits, and a name for what they compute."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import pickle
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from sdekit.errors import ArgumentError

__all__ = ["RunFile", "fingerprint", "uninterrupted", "without_addresses"]

_SECONDS = 30.0  # between two writes, at least


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """A Ctrl-C within the block waits for its end, so that what the block changes is changed whole.

    Only in the main thread, which alone may handle signals, and only where Ctrl-C means KeyboardInterrupt.
    """
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    asked: list[int] = []
    signal.signal(signal.SIGINT, lambda number, frame: asked.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if asked:
        raise KeyboardInterrupt


@final
class RunFile:
    """A file with the state of a run, written now and then, whole or not at all.

    Args:
        path: the file; None for no file.

    Raises:
        ArgumentError: if its folder cannot be written to, or the path is a folder.
    """

    def __init__(self, path: str | Path | None) -> None:
        self._path = None if path is None else Path(path)
        self._written = time.monotonic()
        if self._path is None:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ArgumentError(f"cannot write to the folder of {str(path)!r} ({error}); choose another.") from None
        if self._path.is_dir() or not os.access(self._path.parent, os.W_OK):
            raise ArgumentError(f"checkpoint must be a file that can be written, got {str(path)!r}.")

    def load(self) -> dict[str, Any] | None:
        """The state in the file; None where there is no file yet.

        Raises:
            ArgumentError: if it holds something else.
        """
        if self._path is None or not self._path.exists():
            return None
        try:
            state = torch.load(self._path, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
            raise ArgumentError(
                f"{str(self._path)!r} is no checkpoint of a run ({error}); give another file."
            ) from None
        if not isinstance(state, dict):
            raise ArgumentError(f"{str(self._path)!r} is no checkpoint of a run; give another file.")
        return state

    def save(self, state: Callable[[], Mapping[str, Any]], *, now: bool = False) -> None:
        """Write the state, if the last time is long enough ago or `now`."""
        if self._path is None or not (now or time.monotonic() - self._written >= _SECONDS):
            return
        content = io.BytesIO()
        torch.save(dict(state()), content)
        partial = self._path.with_name(f"{self._path.name}.{os.getpid()}.partial")
        with partial.open("wb") as file:
            file.write(content.getvalue())
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self._path)
        self._written = time.monotonic()


def fingerprint(*things: Any) -> str:
    """Sixteen hexadecimal digits of all tensors in some objects: their own, those in their dicts, their modules'."""
    digest, seen = hashlib.blake2b(digest_size=8), set[int]()

    def take(name: str, value: Any) -> None:
        if isinstance(value, Tensor):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            plain = value.detach().cpu().contiguous()
            digest.update(plain.flatten().view(torch.uint8).numpy().tobytes())
        elif isinstance(value, Mapping):
            for key in sorted(value, key=str):
                take(f"{name}.{key}", value[key])
        elif isinstance(value, nn.Module):
            take(name, value.state_dict())
        elif type(value).__module__.startswith("sdekit") and hasattr(value, "__dict__") and id(value) not in seen:
            seen.add(id(value))
            take(name, vars(value))

    for i, thing in enumerate(things):
        take(str(i), thing)
    return digest.hexdigest()


def without_addresses(text: str) -> str:
    """The text of a repr, without what changes from one process to the next."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", text)
