r"""Grids of times: where a solve steps. Any solver takes any grid.

A grid is an object with one method, `times(sde, steps, start, end)`: `steps + 1` float64 times, strictly monotone, the
first exactly `start` and the last exactly `end`. The formulas are for a solve towards the data (start = T); a solve the
other way takes the same places in the opposite order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
from torch import Tensor

from sdekit.errors import ArgumentError, UnknownNameError
from sdekit.grids.base import Grid, check_monotone
from sdekit.grids.by_noise_level import AlignYourSteps, ArcLength, Exponential, Karras, LogSNR
from sdekit.grids.by_time import Beta, Cosine, Power, Quadratic, Uniform
from sdekit.grids.custom import Custom, Places
from sdekit.grids.fitted import AlongPath, Fitted, VPPower

__all__ = [
    "ALIASES",
    "AlignYourSteps",
    "AlongPath",
    "ArcLength",
    "Beta",
    "Cosine",
    "Custom",
    "Exponential",
    "Fitted",
    "Grid",
    "Karras",
    "LogSNR",
    "Power",
    "Quadratic",
    "Uniform",
    "VPPower",
    "check_monotone",
    "from_dict",
    "make_grid",
    "names",
]

_NAMED: dict[str, type[Grid]] = {
    g.name: g
    for g in (
        *(Uniform, Power, Quadratic, Beta, Cosine),
        *(LogSNR, Exponential, Karras, AlignYourSteps, ArcLength, Fitted, VPPower, AlongPath),
    )
}

ALIASES: dict[str, str] = {
    "linear": "uniform",
    "linspace": "uniform",
    "time_uniform": "uniform",
    "sgm_uniform": "uniform",
    "ddim_uniform": "uniform",
    "simple": "uniform",
    "normal": "uniform",
    "time_quadratic": "quadratic",
    "quad": "quadratic",
    "chebyshev": "cosine",
    "logsnr": "log_snr",
    "lambdas": "log_snr",
    "lu": "log_snr",
    "polyexponential": "exponential",
    "ays": "align_your_steps",
    "kl_optimal": "align_your_steps",
    "arclength": "arc_length",
}
"""What other libraries call these rules. Theirs differ in where they end (a `sigma_min`, then 0); ours end where the
solve ends."""


def names() -> list[str]:
    """The names `make_grid` knows, without the aliases."""
    return sorted(_NAMED)


def make_grid(grid: str | Grid | Places, **options: Any) -> Grid:
    """A Grid from a name or alias and its options, a Grid, or a sequence of times.

    Names are read without regard to case, and "-" and " " as "_": "Align Your Steps" is `align_your_steps`.

    Raises:
        UnknownNameError: if no grid has that name; the message carries the nearest.
        ArgumentError: if an option is unknown to that grid or out of its range, or given without a name.
    """
    if isinstance(grid, str):
        return _named(grid, options)
    if options:
        raise ArgumentError(f"{', '.join(options)}: options go with the name of a grid, not with {grid!r}.")
    if isinstance(grid, Grid):
        return grid
    if isinstance(grid, Tensor | Sequence | np.ndarray):
        return Custom.of(times=grid)  # type: ignore[arg-type]
    raise ArgumentError(f"grid must be a name ({', '.join(names())}), a Grid or a sequence of times; got {grid!r}.")


def _named(name: str, options: Mapping[str, Any]) -> Grid:
    plain = name.lower().replace("-", "_").replace(" ", "_")
    kind = _NAMED.get(ALIASES.get(plain, plain))
    if kind is None:
        raise UnknownNameError("grid", name, {*_NAMED, *ALIASES}, f"Known: {', '.join(names())}.")
    return _build(kind, options)


def _build(kind: type[Grid], options: Mapping[str, Any]) -> Grid:
    allowed = [f.name for f in fields(kind)]  # type: ignore[arg-type]
    unknown = [str(option) for option in options if option not in allowed]
    if unknown:
        takes = f"its options: {', '.join(allowed)}" if allowed else "it takes none"
        raise ArgumentError(f"grid {kind.name!r} has no option {', '.join(unknown)}; {takes}.")
    return kind(**options)


def from_dict(values: Mapping[str, Any]) -> Grid:
    """The grid that `to_dict` wrote.

    Raises:
        ArgumentError: if `values` is not a mapping, "name" is missing, or an option is unknown or out of range.
        UnknownNameError: if no grid has that name.
    """
    if not isinstance(values, Mapping) or not isinstance(values.get("name"), str):
        raise ArgumentError(f"expected a grid's dict, as its to_dict() returns it, with a 'name'; got {values!r}.")
    options = {key: value for key, value in values.items() if key != "name"}
    if values["name"] != Custom.name:
        return _named(values["name"], options)
    if "values" not in options:
        raise ArgumentError("a custom grid's dict needs its 'values'.")
    return _build(Custom, options)
