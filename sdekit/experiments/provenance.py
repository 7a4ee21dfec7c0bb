"""What made a result: settings, versions and date, to lie beside it. Nothing of the machine it was made on."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy
import torch

__all__ = ["provenance", "versions", "write_beside"]


def versions() -> dict[str, str]:
    """The versions of sdekit and of what it computes with."""
    import sdekit

    return {
        "sdekit": sdekit.__version__,
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "python": platform.python_version(),
    }


def provenance(settings: Mapping[str, Any], results: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Settings (what was asked for), results (what came of it: NFE, status, …), versions and the date in UTC."""
    record: dict[str, Any] = {"settings": dict(settings)}
    if results is not None:
        record["results"] = dict(results)
    return {**record, "versions": versions(), "created": datetime.now(UTC).isoformat(timespec="seconds")}


def write_beside(path: str | Path, record: Mapping[str, Any]) -> Path:
    """Write a record as `<path>.json`, and return that path."""
    beside = Path(f"{path}.json")
    beside.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return beside
