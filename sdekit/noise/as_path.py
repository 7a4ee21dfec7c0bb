"""The Brownian path that a source of noise stands for, where a solver asks for it at times of its own choosing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch

from sdekit.errors import ArgumentError, ShapeError, UnsupportedError
from sdekit.noise.base import NoiseSource
from sdekit.noise.keyed import KeyedNoise, SeedsNoise
from sdekit.noise.torch_generators import GeneratorNoise

if TYPE_CHECKING:
    from sdekit.noise.path import BrownianPath

# Few enough that all of them may be kept, and many enough that adaptive steps seldom go far below them: the fastest
# of 1, 10, 100 and the ten-fold default from (64, 2) to (16, 3072).
_CELLS = 100

__all__ = ["as_path"]


def as_path(
    source: NoiseSource,
    shape: tuple[int, ...],
    t0: float,
    t1: float,
    *,
    areas: int,
    dtype: torch.dtype,
    device: torch.device,
) -> BrownianPath:
    """A path over [t0, t1]: the one given, or the one of the seed or seeds given, with cells=100.

    A torch generator gives the seed of the path, by one draw; a list of generators one seed each.

    Raises:
        UnsupportedError: for a function or given increments, which are not known at any time that a solver may ask for.
        ArgumentError, ShapeError: for a path that does not fit.
    """
    from sdekit.noise.path import BrownianPath

    kind: Literal["space-time", "space-time-time"] = "space-time-time" if areas == 2 else "space-time"
    if isinstance(source, BrownianPath):
        if source.shape != shape:
            raise ShapeError(f"the Brownian path has shape {source.shape}; this solve needs {shape}.")
        if not (source.t0 <= t0 and t1 <= source.t1):
            raise ArgumentError(
                f"the Brownian path spans [{source.t0:g}, {source.t1:g}], the solve [{t0:g}, {t1:g}]; make the path "
                "with t0 and t1 that hold it."
            )
        return source.to(dtype, device)
    if isinstance(source, GeneratorNoise):
        source = source.seeded(shape[0])
    if isinstance(source, KeyedNoise):
        return BrownianPath(
            source.seed, shape, t0, t1, first=source.first, cells=_CELLS, levy_area=kind, dtype=dtype, device=device
        )
    if isinstance(source, SeedsNoise):
        return BrownianPath(
            None, shape, t0, t1, seeds=source.seeds, cells=_CELLS, levy_area=kind, dtype=dtype, device=device
        )
    raise UnsupportedError(
        "a solver that chooses its steps asks for its Brownian path at times that are not known beforehand; give it "
        f"seed=, seeds=, a generator or a BrownianPath, not {type(source).__name__}."
    )
