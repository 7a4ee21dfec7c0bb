r"""Noise keyed by (seed, sample index, position): the same draw alone or in a batch, whole or chunked, on any device.

Draws are made in float32 on the CPU, in blocks of S consecutive samples by K consecutive positions, each block
from a Mersenne Twister seeded by a key of (seed, purpose, block of samples, block of positions), and then cut, cast
and moved. S and K depend on the size d of one sample and on nothing else, so any split of a batch sees the same
numbers. Small samples are drawn a whole block at a time. From d = 64 up one position is a fill of its own, about 16,000
numbers, and the K of a block follow one another from the same generator; going back to a position draws those of its
block before it again.

The key is mix(h + i M1 + p M2) with mix the bijective 32-bit mix of MurmurHash3, M1 and M2 odd, i the block of samples
and p that of positions. With one seed for all, h = mix(seed + digest of the purpose); with a seed for each sample, h is
the digest of the purpose and i the seed. (Seeds beyond 32 bits put their high part into the digest.) So within a
purpose no two seeds below 2^32 share a key at the same i and p; within a seed no two blocks do while i < 800,000 and
p < 1,700, which is 27,000 positions or more. Keys have 32 bits, all that a Mersenne Twister is seeded with: among very
many blocks of different seeds a few are bound to be equal somewhere.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from numbers import Integral
from typing import final

import numpy as np
import torch
from torch import Tensor

from sdekit._tensors import as_list
from sdekit.errors import ArgumentError
from sdekit.noise.base import NoiseSource, NoiseStream, Purpose

__all__ = ["KeyedNoise", "SeedsNoise"]

_BLOCK = 16384
_SMALL = 64
_RUN = 16
_KEYS = 256
_LOW = np.uint64(0xFFFFFFFF)


def check_seed(name: str, seed: object) -> int:
    """`seed` as an int of 0 … 2^64 - 1, or an ArgumentError that names it."""
    if isinstance(seed, bool) or not isinstance(seed, Integral) or not 0 <= int(seed) < 2**64:
        raise ArgumentError(f"{name} must be an integer from 0 to 2^64 - 1, got {seed!r}.")
    return int(seed)


def block_sizes(d: int, *, alone: bool) -> tuple[int, int, bool]:
    """(S, K, whole) for samples of d numbers: samples and positions of a block, and whether it is drawn in one fill.

    alone: every sample has its own key.
    """
    if alone:
        positions = min(64, _power_of_two(_BLOCK // d))
        return (1, positions, True) if positions > 1 else (1, _RUN, False)
    if d >= _SMALL:
        # Up to 8 of the larger samples share a fill of at most twice the usual size: a call less for each.
        return max(_power_of_two(_BLOCK // d), min(8, _power_of_two(2 * _BLOCK // d))), _RUN, False
    return _SMALL, min(64, _power_of_two(_BLOCK // (_SMALL * d))), True


def _power_of_two(n: int) -> int:
    return 1 << max(0, n.bit_length() - 1)


def _digest(seed: int, purpose: str) -> int:
    """32 bits from the purpose and the high part of a seed."""
    text = f"{seed >> 32}/{purpose}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=4).digest(), "little")


def _mix(numbers: np.ndarray) -> np.ndarray:
    """A bijection of the 32-bit numbers, as uint64."""
    mixed = numbers & _LOW
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        mixed ^= mixed >> np.uint64(shift)
        mixed = (mixed * np.uint64(factor)) & _LOW
    return mixed ^ (mixed >> np.uint64(16))


@lru_cache(maxsize=256)
def _base(seed: int, purpose: str) -> int:
    """mix(seed + digest of the purpose)."""
    mixed = _mix(np.array([seed & 0xFFFFFFFF], dtype=np.uint64) + np.uint64(_digest(seed, purpose)))
    return int(mixed[0])


def _keys(base: np.ndarray, block: np.ndarray, positions: range) -> list[list[int]]:
    """A 32-bit key for each block of positions (outer) and each (base, block of samples) (inner)."""
    place = np.arange(positions.start, positions.stop, dtype=np.uint64)[:, None] & _LOW
    samples = base.astype(np.uint64) + (block.astype(np.uint64) & _LOW) * np.uint64(0x9E3779B1)
    keys: list[list[int]] = _mix(samples + place * np.uint64(0x85EBCA77)).tolist()
    return keys


@final
class KeyedNoise(NoiseSource):
    """One seed for all samples; sample i of a solve is number first + i of the seed's samples."""

    def __init__(self, seed: int, first: int = 0) -> None:
        self.seed = check_seed("seed", seed)
        if isinstance(first, bool) or not isinstance(first, Integral) or not 0 <= int(first) < 2**32:
            raise ArgumentError(
                f"first (the index of the first sample) must be an integer from 0 to 2^32 - 1, got {first!r}."
            )
        self.first: int = int(first)

    def open(
        self,
        shape: tuple[int, ...],
        *,
        purpose: Purpose,
        dtype: torch.dtype,
        device: torch.device,
        draws: int | None = None,
        scales: Tensor | None = None,
    ) -> NoiseStream:
        samples, positions, whole = block_sizes(math.prod(shape[1:]), alone=False)
        low, high = self.first // samples, (self.first + shape[0] - 1) // samples
        blocks = np.arange(low, high + 1)
        base = np.full(len(blocks), _base(self.seed, purpose), dtype=np.uint64)
        offset = self.first - low * samples
        return _BlockStream(shape, dtype, device, base, blocks, samples, positions, whole, offset, scales)

    def part(self, start: int, stop: int, total: int) -> NoiseSource:
        return KeyedNoise(self.seed, self.first + start)

    def identity(self) -> str:
        return repr(self)

    def __repr__(self) -> str:
        return f"KeyedNoise(seed={self.seed}, first={self.first})"


@final
class SeedsNoise(NoiseSource):
    """A seed for each sample: sample i of seeds=S is the one sample of seeds=[S[i]]."""

    def __init__(self, seeds: Sequence[int] | np.ndarray | Tensor) -> None:
        listed = as_list(seeds)
        if listed is None:
            raise ArgumentError(f"seeds must be a list of integers, one for each sample, got {seeds!r}.")
        self.seeds = [check_seed(f"seeds[{i}]", s) for i, s in enumerate(listed)]

    def open(
        self,
        shape: tuple[int, ...],
        *,
        purpose: Purpose,
        dtype: torch.dtype,
        device: torch.device,
        draws: int | None = None,
        scales: Tensor | None = None,
    ) -> NoiseStream:
        if len(self.seeds) != shape[0]:
            raise ArgumentError(f"seeds has {len(self.seeds)} entries for a batch of {shape[0]}; give one a sample.")
        samples, positions, whole = block_sizes(math.prod(shape[1:]), alone=True)
        # The purpose is marked as the alone kind, so that seeds=[s] and seed=s are two streams, not halves of one.
        base = np.array([_digest(seed, f"{purpose}/alone") for seed in self.seeds], dtype=np.uint64)
        blocks = np.array([seed & 0xFFFFFFFF for seed in self.seeds], dtype=np.uint64)
        return _BlockStream(shape, dtype, device, base, blocks, samples, positions, whole, 0, scales)

    def part(self, start: int, stop: int, total: int) -> NoiseSource:
        if len(self.seeds) != total:
            raise ArgumentError(f"seeds has {len(self.seeds)} entries for a batch of {total}; give one a sample.")
        return SeedsNoise(self.seeds[start:stop])

    def identity(self) -> str:
        return repr(self)

    def __repr__(self) -> str:
        return f"SeedsNoise({self.seeds!r})"


@final
class _BlockStream(NoiseStream):
    """Fills one or K positions at a time and hands out prepared views, so that a draw costs a list look-up."""

    seekable = True

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        device: torch.device,
        base: np.ndarray,
        blocks: np.ndarray,
        samples: int,
        positions: int,
        whole: bool,
        offset: int,
        scales: Tensor | None,
    ) -> None:
        self._base, self._blocks = base, blocks
        # A block drawn whole is seeded and filled at once, so one generator serves all of them; where the positions
        # of a block follow one another, each block of samples keeps its own generator between them.
        self._positions, self._run = (positions, 1) if whole else (1, positions)
        own = 1 if whole else len(blocks)
        self._generators = [torch.Generator(device="cpu") for _ in range(own)] * (len(blocks) // own)
        self._many = self._positions > 1
        n, d = shape[0], math.prod(shape[1:])
        drawn = torch.empty(len(blocks), self._positions, samples, d, dtype=torch.float32, device="cpu")
        self._fills = list(drawn.reshape(len(blocks), -1).unbind(0))
        self._running = -1  # the position that the generators come to next, where they run on
        in_place = dtype == torch.float32 and device.type == "cpu"
        # Views of what was drawn where strides allow it; otherwise one copy a fill, into (K, B, d).
        self._copies: list[tuple[Tensor, Tensor]] = []
        if len(blocks) == 1 or not self._many:
            views = drawn.transpose(0, 1).view(self._positions, len(blocks) * samples, d)[:, offset : offset + n]
        elif samples == 1:
            views = drawn[:, :, 0].transpose(0, 1)
        else:
            views = torch.empty(self._positions, n, d, dtype=torch.float32, device="cpu")
            by_position = drawn.transpose(0, 1)
            row = 0
            for b in range(len(blocks)):
                start = offset if b == 0 else 0
                stop = min(samples, start + n - row)
                self._copies.append((views[:, row : row + stop - start], by_position[:, b, start:stop]))
                row += stop - start
        # Scales are applied in float32 where the state is no wider: for single positions by the draw itself, which
        # costs nothing; otherwise to the block. A float64 state takes float32 draws scaled in float64.
        self._deviations: list[float] | None = None
        self._scales: Tensor | None = None
        self._drawn = self._scaled = views
        if scales is not None:
            if not self._many and dtype != torch.float64:
                self._deviations = scales.tolist()
            else:
                whole_blocks = scales.new_zeros(-(-len(scales) // self._positions) * self._positions)
                whole_blocks[: len(scales)] = scales
                self._scales = whole_blocks.view(-1, self._positions, 1, 1)
        self._cast: Tensor | None = None
        if not in_place:
            self._cast = views = torch.empty(views.shape, dtype=dtype, device=device)
            if dtype == torch.float64:
                self._scaled = self._cast
        if self._scales is not None:
            self._scales = self._scales.to(device=self._scaled.device, dtype=self._scaled.dtype)
        self._whole = views.view(self._positions, *shape)
        self._views: list[Tensor] = []  # made when they are asked for: dear where whole blocks are taken
        self.several = self._many and self._whole[0].is_contiguous()
        self._filled, self._taken = -1, 0
        self._keys: list[list[int]] = []
        self._keyed = range(0)

    def next(self, t: float, s: float) -> Tensor:
        block, place = divmod(self.position, self._positions)
        if block != self._filled or place < self._taken or not self._views:
            self._fill(block)
            self._split()
        self.position += 1
        return self._views[place]

    def each(self, at: Tensor, after: Tensor, start: int, stop: int) -> Iterator[Tensor]:
        if self._many or self._copies or self._cast is not None or self._scales is not None:
            yield from super().each(at, after, start, stop)
            return
        # One position a block, drawn in place: nothing but the fills.
        view, pairs = self._whole[0], list(zip(self._fills, self._generators, strict=True))
        deviations, run, self._filled = self._deviations, self._run, -1
        for position in range(self.position, self.position + stop - start):
            if position != self._running or position % run == 0:
                self._go_to(position)
            deviation = 1.0 if deviations is None else deviations[position]
            for fill, generator in pairs:
                fill.normal_(0.0, deviation, generator=generator)
            self._running = self.position = position + 1
            yield view

    def ahead(self, at: Tensor, after: Tensor, start: int, stop: int) -> list[Tensor]:
        place = self.position % self._positions
        self._take(stop - start)
        self._split()
        return self._views[place : self._taken]

    def _split(self) -> None:
        self._views = self._views or list(self._whole.unbind(0))

    def _take(self, most: int) -> None:
        """Make the next draws, at most so many; whoever takes them may write into them."""
        block, place = divmod(self.position, self._positions)
        if block != self._filled or place < self._taken:
            self._fill(block)
        count = min(most, self._positions - place)
        self.position += count
        self._taken = place + count

    def block(self, at: Tensor, after: Tensor, start: int, stop: int) -> Tensor:
        place = self.position % self._positions
        self._take(stop - start)
        return self._whole[place : self._taken]

    def seek(self, position: int) -> None:
        self.position = position

    def _keys_at(self, block: int) -> list[int]:
        """The key of each block of samples at a block of positions."""
        if block not in self._keyed:  # keys are cheap by the hundred and dear one by one
            self._keyed = range(block, block + max(1, min(_KEYS, 8 + 2 * block) // len(self._fills)))
            self._keys = _keys(self._base, self._blocks, self._keyed)
        return self._keys[block - self._keyed.start]

    def _go_to(self, block: int) -> None:
        """Make the generators ready for a block: seeded, and where they run on, past the positions before it."""
        key_of, place = divmod(block, self._run)
        for fill, generator, key in zip(self._fills, self._generators, self._keys_at(key_of), strict=True):
            generator.manual_seed(key)
            for _ in range(place):
                fill.normal_(generator=generator)
        self._running = block

    def _fill(self, block: int) -> None:
        deviation = 1.0 if self._deviations is None else self._deviations[block]
        if self._many:
            for fill, generator, key in zip(self._fills, self._generators, self._keys_at(block), strict=True):
                fill.normal_(0.0, deviation, generator=generator.manual_seed(key))
        else:
            if block != self._running or block % self._run == 0:
                self._go_to(block)
            for fill, generator in zip(self._fills, self._generators, strict=True):
                fill.normal_(0.0, deviation, generator=generator)
            self._running = block + 1
        for to, source in self._copies:
            to.copy_(source)
        narrow = self._scaled is self._drawn
        if self._scales is not None and narrow:
            self._scaled.mul_(self._scales[block])
        if self._cast is not None:
            self._cast.copy_(self._drawn)
        if self._scales is not None and not narrow:
            self._scaled.mul_(self._scales[block])
        self._filled, self._taken = block, 0
