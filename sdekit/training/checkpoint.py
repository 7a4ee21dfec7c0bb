"""One file that holds the whole state of a training run, written atomically.

A safetensors file: tensors for the network, its moving average and the optimizer; step, settings and history as JSON in
the header. No pickle is read. There is no random state to keep: the draws of step k follow from the seed and k alone.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from sdekit.errors import ArgumentError

__all__ = ["read_checkpoint", "write_atomically", "write_checkpoint"]


def write_atomically(path: Path, content: bytes) -> None:
    """Write `content` beside `path` and rename it there: a reader finds the old file or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def write_checkpoint(path: Path, tensors: dict[str, dict[str, Tensor]], record: dict[str, Any]) -> None:
    """Write named groups of tensors, as "group/name", and a JSON record, as one file."""
    flat = {f"{group}/{name}": t.detach().contiguous() for group, named in tensors.items() for name, t in named.items()}
    write_atomically(path, save(flat, {"record": json.dumps(record)}))


def read_checkpoint(path: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """What `write_checkpoint` wrote.

    Raises:
        ArgumentError: if there is no such file, or it is not a checkpoint.
    """
    if not path.is_file():
        raise ArgumentError(f"no checkpoint at {path}; start without resuming.")
    groups: dict[str, dict[str, Tensor]] = {}
    try:
        with safe_open(path, "pt") as file:
            record = json.loads((file.metadata() or {})["record"])
            for key in file.keys():  # noqa: SIM118 (safe_open is no mapping)
                group, _, name = key.partition("/")
                groups.setdefault(group, {})[name] = file.get_tensor(key)
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise ArgumentError(f"{path} is not a checkpoint of sdekit ({error}); delete it and start anew.") from None
    return groups, record
