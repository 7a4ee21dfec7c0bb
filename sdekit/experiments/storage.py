"""Results on disk, one file each, so that an interrupted comparison keeps what it finished.

A file is safetensors: tensors, and a JSON record in its header. Its name is a digest of everything that determined the
result. It is written beside its place and renamed, so it is there whole or not at all; one that cannot be read, or
whose checksum is wrong, counts as missing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

from torch import Tensor

from sdekit.errors import ArgumentError
from sdekit.experiments.fingerprint import fingerprint

__all__ = ["CellStore", "Kept", "check_writable", "write_atomically"]

Kept = tuple[dict[str, Any], dict[str, Tensor]]
"""A record and its tensors."""


def check_writable(folder: str | Path) -> Path:
    """The folder, made if it is missing; an ArgumentError if nothing can be written there."""
    path = Path(folder)
    probe = path / f".writable-{os.getpid()}"
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ArgumentError(
            f"cannot write to the folder {str(path)!r} ({error.strerror or error}); choose another."
        ) from None
    return path


def write_atomically(path: Path, content: bytes) -> None:
    """Write `content` beside `path` and rename it there: a reader finds the old file or the new one, never a part."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


@final
class CellStore:
    """Results by key in the subfolder `cells` of a folder.

    Raises:
        ArgumentError: if the folder cannot be written to.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = check_writable(folder)
        self._cells = check_writable(self.folder / "cells")

    def write(self, key: str, record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Keep a record (JSON values) and tensors under a key."""
        from safetensors.torch import save

        plain = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
        header = {"record": json.dumps(record), "checksum": fingerprint([json.dumps(record), plain])}
        write_atomically(self._path(key), save(plain, header))

    def read(self, key: str) -> Kept | None:
        """What was kept under a key, or None if there is nothing whole."""
        from safetensors import SafetensorError, safe_open

        path = self._path(key)
        if not path.is_file():
            return None
        try:
            with safe_open(path, "pt") as file:
                header = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        except SafetensorError:
            return None
        text = header.get("record", "")
        if header.get("checksum") != fingerprint([text, tensors]):
            return None
        record: dict[str, Any] = json.loads(text)
        return record, tensors

    def _path(self, key: str) -> Path:
        return self._cells / f"{key}.safetensors"
