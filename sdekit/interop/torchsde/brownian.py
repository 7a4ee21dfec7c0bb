r"""Brownian motions between the libraries: torchsde's as a source of noise here, ours as a BaseBrownian there.

torchsde speaks of W and U = \int_t^s (W_r - W_t) dr = h (W/2 + H), so that H = U/h - W/2.
"""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor

from sdekit.errors import ArgumentError, ShapeError, UnsupportedError
from sdekit.noise import BrownianPath, BrownianStream, Increment, NoiseSource, NoiseStream, Purpose
from sdekit.noise.asked_stream import AskedStream

__all__ = ["TorchsdeNoise", "as_torchsde_brownian", "is_torchsde_brownian"]


def is_torchsde_brownian(what: object) -> bool:
    """Whether it answers as torchsde's Brownian motions do."""
    return callable(what) and hasattr(what, "levy_area_approximation") and hasattr(what, "shape")


@final
class TorchsdeNoise(NoiseSource):
    """A torchsde Brownian motion (BrownianInterval, BrownianPath, BrownianTree, …) as noise for a fixed grid.

    Args:
        bm: the motion, of shape (B, m).
        rows: which of its samples these are.

    Raises:
        ArgumentError: if bm is none; by `brownian`, UnsupportedError if it lacks the space-time area that a method
            needs (levy_area_approximation="space-time" has it), ShapeError if it is of another shape.
    """

    def __init__(self, bm: Any, rows: slice | None = None) -> None:
        if not is_torchsde_brownian(bm):
            raise ArgumentError(
                f"bm must be a Brownian motion of torchsde's, or sdekit's BrownianPath; got {type(bm).__name__}."
            )
        self._bm, self._rows = bm, rows

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
        raise UnsupportedError(
            "a Brownian motion of torchsde's serves the solvers that ask for increments (euler_maruyama, milstein, "
            f"sriw1, …), not one that asks for draws ({purpose!r}); take seed= there."
        )

    def brownian(
        self,
        shape: tuple[int, ...],
        times: Tensor,
        *,
        areas: int,
        dtype: torch.dtype,
        device: torch.device,
        last_noise: bool = True,
    ) -> BrownianStream:
        total = int(self._bm.shape[0])
        own = range(total)[self._rows] if self._rows is not None else range(total)
        if (len(own), *self._bm.shape[1:]) != tuple(shape):
            raise ShapeError(
                f"the Brownian motion bm has shape {tuple(self._bm.shape)}, but the noise is of shape {tuple(shape)} "
                "(batch, number of Brownian motions)."
            )
        if areas > 1:
            raise UnsupportedError("this solver needs the area K, which torchsde's Brownian motions do not have.")
        if areas == 1 and self._bm.levy_area_approximation == "none":
            raise UnsupportedError(
                "this method needs the space-time Levy area; make the Brownian motion with "
                "levy_area_approximation='space-time'."
            )
        return AskedStream(
            lambda t, s: self._increment(t, s, areas),
            shape,
            times,
            areas=areas,
            dtype=dtype,
            device=device,
            last_noise=last_noise,
        )

    def _increment(self, t: float, s: float, areas: int) -> Increment:
        """W, and H where it is asked for, from t to s."""
        low, high = min(t, s), max(t, s)
        if areas:
            w, u = self._bm(low, high, return_U=True)
            found = Increment(self._mine(w), self._mine(u / (high - low) - 0.5 * w))
        else:
            found = Increment(self._mine(self._bm(low, high)))
        return found if t < s else -found

    def _mine(self, value: Tensor) -> Tensor:
        return value if self._rows is None else value[self._rows]

    def part(self, start: int, stop: int, total: int) -> TorchsdeNoise:
        first = 0 if self._rows is None else self._rows.start
        return TorchsdeNoise(self._bm, slice(first + start, first + stop))


def as_torchsde_brownian(path: BrownianPath) -> Any:
    """sdekit's BrownianPath as a torchsde.BaseBrownian: `torchsde.sdeint(sde, y0, ts, bm=as_torchsde_brownian(path))`.

    It gives W and U, so that every method of torchsde's but log_ode takes it; both libraries then follow one path.

    Args:
        path: of shape (B, m).

    Raises:
        ArgumentError: if path is no BrownianPath; ShapeError if its shape is not (B, m).
    """
    from sdekit.interop.torchsde.outgoing import PathForTorchsde

    if not isinstance(path, BrownianPath):
        raise ArgumentError(f"expected a BrownianPath of sdekit's, got {type(path).__name__}.")
    if len(path.shape) != 2:
        raise ShapeError(f"torchsde takes Brownian motions of shape (B, m); this path has shape {path.shape}.")
    return PathForTorchsde(path)
