"""Sources of noise: seeds, torch generators, functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sdekit.errors import ArgumentError
from sdekit.noise.base import NoiseSource, NoiseStream, Purpose
from sdekit.noise.brownian import BrownianStream, DrawnStream, Increment
from sdekit.noise.function import FunctionNoise
from sdekit.noise.given_path import FunctionPath, GivenPath
from sdekit.noise.keyed import KeyedNoise, SeedsNoise
from sdekit.noise.path import BrownianPath
from sdekit.noise.torch_generators import GeneratorNoise

__all__ = [
    "BrownianPath",
    "BrownianStream",
    "DrawnStream",
    "FunctionNoise",
    "FunctionPath",
    "GeneratorNoise",
    "GivenPath",
    "Increment",
    "KeyedNoise",
    "NoiseSource",
    "NoiseStream",
    "Purpose",
    "SeedsNoise",
    "noise_source",
]


def noise_source(
    *,
    seed: int | None = None,
    seeds: Sequence[int] | None = None,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
    noise: NoiseSource | Callable[[float, float, tuple[int, ...]], Tensor] | None = None,
    first: int = 0,
) -> NoiseSource:
    """The source that at most one of these names; with none of them, torch's global RNG.

    Raises:
        ArgumentError: if more than one is given, or `first` without `seed`.
    """
    given = [
        name
        for name, value in (("seed", seed), ("seeds", seeds), ("generator", generator), ("noise", noise))
        if value is not None
    ]
    if len(given) > 1:
        raise ArgumentError(f"give one of seed, seeds, generator and noise; got {' and '.join(given)}.")
    if first and seed is None:
        raise ArgumentError("first (the index of the first sample) goes with seed and with nothing else.")
    if seed is not None:
        return KeyedNoise(seed, first)
    if seeds is not None:
        return SeedsNoise(seeds)
    if isinstance(noise, NoiseSource):
        return noise
    if noise is not None:
        return FunctionNoise(noise)
    return GeneratorNoise(generator)
