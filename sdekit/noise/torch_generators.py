"""Noise from torch's own generators, drawn exactly as a hand-written loop with `torch.randn` would draw it."""

from __future__ import annotations

import abc
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, final

import torch
from torch import Tensor

from sdekit.errors import ArgumentError, UnsupportedError
from sdekit.noise.base import NoiseSource, NoiseStream, Purpose
from sdekit.noise.keyed import KeyedNoise, SeedsNoise

__all__ = ["GeneratorNoise"]

_AHEAD = 16
_AHEAD_ELEMENTS = 1 << 13


@final
class GeneratorNoise(NoiseSource):
    """One torch.Generator for the batch, a list of one for each sample, or None: torch's global RNG.

    A draw takes from a generator what `torch.randn(shape, generator=g, dtype=x.dtype, device=g.device)` takes (for a
    list: `torch.randn((1, *shape[1:]), …)` for each sample), in the order of the steps; nothing is ever reseeded. A
    solve that fails leaves the generators where a loop that ends at that step would.
    """

    rewindable = True

    def __init__(self, generator: torch.Generator | Sequence[torch.Generator] | None = None) -> None:
        many = isinstance(generator, Sequence)
        each: list[Any] = list(generator) if isinstance(generator, Sequence) else [generator]
        if not all(g is None or isinstance(g, torch.Generator) for g in each) or (many and None in each):
            raise ArgumentError(f"generator must be a torch.Generator, a list of them, or None; got {generator!r}.")
        self._single: torch.Generator | None = None if many else each[0]
        self._each: list[torch.Generator] | None = each if many else None
        self._opened: list[_TorchStream] | None = None

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
        if self._each is not None:
            if len(self._each) != shape[0]:
                raise ArgumentError(
                    f"generator has {len(self._each)} entries for a batch of {shape[0]}; give one a sample."
                )
            stream: _TorchStream = _ListStream(shape, dtype, device, self._each, scales)
        else:
            stream = _SingleStream(shape, dtype, device, self._single, draws, scales)
        if self._opened is not None:
            self._opened.append(stream)
        return stream

    def seeded(self, batch: int) -> KeyedNoise | SeedsNoise:
        """A seed for the whole batch, or one for each sample, drawn from the generators."""
        if self._each is None:
            return KeyedNoise(_draw_seed(self._single))
        if len(self._each) != batch:
            raise ArgumentError(f"generator has {len(self._each)} entries for a batch of {batch}; give one a sample.")
        return SeedsNoise([_draw_seed(generator) for generator in self._each])

    def for_one_solve(self) -> NoiseSource:
        other = GeneratorNoise(self._single if self._each is None else self._each)
        other._opened = []
        return other

    def mark(self) -> Callable[[], None]:
        places = [(stream, stream.position) for stream in self._opened or ()]
        states = [kept for stream, _ in places for kept in stream.states()]

        def back() -> None:
            for restore, state in states:
                restore(state)
            for stream, position in places:
                stream.position = position

        return back

    def part(self, start: int, stop: int, total: int) -> NoiseSource:
        if self._each is not None:
            if len(self._each) != total:
                raise ArgumentError(
                    f"generator has {len(self._each)} entries for a batch of {total}; give one a sample."
                )
            return GeneratorNoise(self._each[start:stop])
        if self._single is not None and (start, stop) != (0, total):
            raise ArgumentError(
                "one generator draws for the whole batch, so a chunked run would draw other numbers; "
                "use seed=, seeds=, or a list of generators with chunk=."
            )
        return self

    def __repr__(self) -> str:
        return f"GeneratorNoise({self._single if self._each is None else self._each!r})"


def _draw_seed(generator: torch.Generator | None) -> int:
    device = "cpu" if generator is None else generator.device
    return int(torch.randint(2**62, (), generator=generator, device=device))


class _TorchStream(NoiseStream):
    seekable = False

    @abc.abstractmethod
    def states(self) -> list[tuple[Callable[[Tensor], object], Tensor]]:
        """For each generator, how its state is set, and the state it is in."""

    def seek(self, position: int) -> None:
        if position != self.position:
            raise UnsupportedError(
                "a torch.Generator cannot go back to an earlier draw; use seed= for a solve that is resumed."
            )


@final
class _SingleStream(_TorchStream):
    """Draws up to 16 steps in one call where that gives the very numbers that as many calls would give.

    torch fills contiguous float32 CPU tensors of 16 or more numbers in groups of 16, so a fill of several draws equals
    the draws one by one if each is a multiple of 16 long. Nothing is drawn that was not asked for: a solve that a
    callback ends, or `stop`, leaves the generator where a loop that breaks would.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        device: torch.device,
        generator: torch.Generator | None,
        draws: int | None,
        scales: Tensor | None,
    ) -> None:
        self._generator = generator
        self._source_device = device if generator is None else generator.device
        size = math.prod(shape)
        whole = dtype == torch.float32 and self._source_device.type == "cpu" and size % 16 == 0
        # The global RNG is everyone's, the network's dropout too: there a draw ahead of its time would change theirs.
        mine = whole and generator is not None
        self._ahead = max(1, min(_AHEAD, _AHEAD_ELEMENTS // size, draws or 1)) if mine else 1
        self.several = self._ahead > 1
        self._drawn = torch.empty(self._ahead, *shape, dtype=dtype, device=self._source_device)
        self._views = list(self._drawn.unbind(0))
        self._moved = None if self._source_device == device else torch.empty(shape, dtype=dtype, device=device)
        self._scales: Tensor | None = None
        self._deviations: list[float] | None = None
        if scales is not None and self._ahead == 1:
            self._deviations = scales.tolist()  # the draw itself scales, at no cost of a pass
        elif scales is not None:
            scale = scales.to(device=self._source_device, dtype=torch.promote_types(dtype, torch.float32))
            self._scales = scale.reshape(-1, *([1] * len(shape)))

    def next(self, t: float, s: float) -> Tensor:
        z = self._draw(1)[0]
        return z if self._moved is None else self._moved.copy_(z)

    def ahead(self, at: Tensor, after: Tensor, start: int, stop: int) -> list[Tensor]:
        if self._moved is not None:
            return super().ahead(at, after, start, stop)
        return self._draw(min(self._ahead, stop - start))

    def states(self) -> list[tuple[Callable[[Tensor], object], Tensor]]:
        if self._generator is not None:
            return [(self._generator.set_state, self._generator.get_state())]
        device = self._source_device
        if device.type == "cpu":
            return [(torch.set_rng_state, torch.get_rng_state())]
        module = torch.get_device_module(device)
        return [(functools.partial(module.set_rng_state, device=device), module.get_rng_state(device))]

    def _draw(self, count: int) -> list[Tensor]:
        deviation = 1.0 if self._deviations is None else self._deviations[self.position]
        drawn = self._drawn[:count].normal_(0.0, deviation, generator=self._generator)
        if self._scales is not None:
            drawn.mul_(self._scales[self.position : self.position + count])
        self.position += count
        return self._views[:count]


@final
class _ListStream(_TorchStream):
    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        device: torch.device,
        generators: list[torch.Generator],
        scales: Tensor | None,
    ) -> None:
        self._generators = generators
        self._scales = None if scales is None else scales.tolist()
        self._z = torch.empty(shape, dtype=dtype, device=device)
        self._rows = list(self._z[:, None].unbind(0))
        self._on_device = all(g.device == device for g in generators)

    def states(self) -> list[tuple[Callable[[Tensor], object], Tensor]]:
        return [(g.set_state, g.get_state()) for g in self._generators]

    def next(self, t: float, s: float) -> Tensor:
        for row, generator in zip(self._rows, self._generators, strict=True):
            if self._on_device:
                row.normal_(generator=generator)
            else:
                there = torch.empty(row.shape, dtype=row.dtype, device=generator.device)
                row.copy_(there.normal_(generator=generator))
        if self._scales is not None:
            self._z.mul_(self._scales[self.position])
        self.position += 1
        return self._z
