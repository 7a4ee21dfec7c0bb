r"""The target as an object: an exact distribution of the data, and of the data at every noise level."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable
from numbers import Integral
from typing import Any, Self, final

import torch
from torch import Tensor

from sdekit._tensors import as_float64, check_positive_integer
from sdekit.errors import ArgumentError, ShapeError
from sdekit.models import ScoreModel
from sdekit.sdes import DiffusionSDE
from sdekit.targets._constants import Movable

__all__ = ["Target", "column", "levels"]

# Elements of the largest temporary for one chunk of a batch. On the CPU 2 MiB of float64 stay in the cache, which is
# faster than whole batches (1,797 components, batch 5,000: 60 ms against 168 ms); elsewhere it only bounds memory.
_CHUNK_ON_CPU = 2**18
_CHUNK_ELSEWHERE = 2**24


class Target(Movable, abc.ABC):
    """A distribution p_0 of samples of one shape, exact in everything that a sampler or a likelihood may ask of it.

    With x_t = alpha x_0 + sigma eps, every method that takes (alpha, sigma), or (t, sde) for alpha(t) and sigma(t),
    answers about x_t: x is (B, *shape); alpha, sigma and t are numbers or tensors of shape () or (B,). Everything is
    computed in float64 (but that large mixtures weigh their means in float32 where x is no finer); states are returned
    in the dtype of x, log-densities, Jacobians and traces in float64. All of it is differentiable in x. Constants
    follow x to its device.

    These methods raise ShapeError if x is not (B, *shape) or a noise level is neither () nor (B,), and ArgumentError
    if x is not a floating-point tensor.
    """

    shape: tuple[int, ...]
    """The shape of one sample."""
    mean: Tensor
    """E[x_0], of `shape`, float64."""

    def __init__(self, mean: Tensor) -> None:
        self.mean = mean
        self.shape = tuple(mean.shape)
        self._elsewhere: dict[torch.device, Self] = {}

    # What a family gives; in the hooks x is (B, d), alpha and sigma are (1, 1) or (B, 1), all float64 ----------------

    @abc.abstractmethod
    def covariance(self) -> Tensor:
        """Cov[x_0] of the flattened sample: (d, d), float64."""

    @abc.abstractmethod
    def marginal(self, sde: DiffusionSDE, t: float) -> Target:
        """p_t as a target of the same family: the distribution of alpha(t) x_0 + sigma(t) eps.

        Raises:
            ArgumentError: if t is outside [0, T].
        """

    @abc.abstractmethod
    def _sample(self, n: int, generator: torch.Generator | None) -> Tensor:
        """n draws of x_0: (n, d), float64."""

    @abc.abstractmethod
    def _log_prob(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """log p_t(x): (B,)."""

    @abc.abstractmethod
    def _denoised_and_score(
        self, x: Tensor, alpha: Tensor, sigma: Tensor, precision: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        """D(x) and the score, each (B, d), in float64 and right to about the rounding of `precision`."""

    @abc.abstractmethod
    def _jacobian(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """dD/dx: (B, d, d)."""

    @abc.abstractmethod
    def _divergence(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """tr dD/dx: (B,)."""

    @property
    @abc.abstractmethod
    def _width(self) -> int:
        """Elements of the largest temporary that one sample needs."""

    @property
    @abc.abstractmethod
    def _jacobian_width(self) -> int:
        """Elements of the largest temporary that the Jacobian at one sample needs."""

    # The distribution of the data --------------------------------------------------------------------------------

    @property
    def dim(self) -> int:
        """d, the number of coordinates of one sample."""
        return math.prod(self.shape)

    @property
    def data_std(self) -> float:
        """sqrt(mean over coordinates of E[x_i^2]): about 0, not about the mean, as ScoreModel's `data_std` wants."""
        second_moment = self.covariance().diagonal() + self.mean.reshape(-1).square()
        return math.sqrt(float(second_moment.mean()))

    def sample(
        self,
        n: int,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """n independent draws: (n, *shape), drawn in float64 and rounded to `dtype`, on the generator's device.

        A seed gives the same draw each time and leaves the global random state alone; with neither a seed nor a
        generator the draw comes from torch's global generator.

        Raises:
            ArgumentError: if n or the seed is not an integer, both a seed and a generator are given, or the dtype is
                not a floating-point one.
        """
        n = check_positive_integer("n", n)
        if not dtype.is_floating_point:
            raise ArgumentError(f"dtype must be a floating-point dtype, got {dtype}.")
        if seed is not None:
            if generator is not None:
                raise ArgumentError("give a seed or a generator, not both.")
            generator = torch.Generator().manual_seed(_check_seed(seed))
        source = self if generator is None else self._on(generator.device)
        return source._sample(n, generator).to(dtype).reshape(n, *self.shape)

    def log_prob(self, x: Tensor) -> Tensor:
        """log p_0(x) in nats: (B,), float64."""
        here = self._on(x.device)
        return here._in_chunks(here._log_prob, here._width, x, 1.0, 0.0)

    # The distribution of the noised data -------------------------------------------------------------------------

    def log_prob_at(self, x: Tensor, t: Tensor | float, sde: DiffusionSDE) -> Tensor:
        """log p_t(x) in nats: (B,), float64."""
        here = self._on(x.device)
        return here._in_chunks(here._log_prob, here._width, x, *levels(t, sde))

    def denoised(self, x: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Tensor:
        """D = E[x_0 | alpha x_0 + sigma eps = x], of the shape and dtype of x."""
        return self._state(lambda denoised, score, alpha, sigma: denoised, x, alpha, sigma)

    def score(self, x: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Tensor:
        """grad log p_t(x), of the shape and dtype of x; finite at sigma = 0 too."""
        return self._state(lambda denoised, score, alpha, sigma: score, x, alpha, sigma)

    def noise(self, x: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Tensor:
        """eps = -sigma score = E[eps | alpha x_0 + sigma eps = x], of the shape and dtype of x."""
        return self._state(lambda denoised, score, alpha, sigma: -sigma * score, x, alpha, sigma)

    def v(self, x: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Tensor:
        """alpha eps - sigma D, of the shape and dtype of x."""
        return self._state(lambda denoised, score, alpha, sigma: -sigma * (alpha * score + denoised), x, alpha, sigma)

    def denoised_jacobian(self, x: Tensor, t: Tensor | float, sde: DiffusionSDE) -> Tensor:
        """dD/dx = (alpha/sigma^2) Cov[x_0 | x_t = x] over flattened samples: (B, d, d), float64; exact at sigma = 0."""
        here = self._on(x.device)
        return here._in_chunks(here._jacobian, here._jacobian_width, x, *levels(t, sde))

    def divergence(self, x: Tensor, t: Tensor | float, sde: DiffusionSDE) -> Tensor:
        """tr dD/dx at (x, t), the trace that the probability flow's log-density integrates: (B,), float64.

        For Gaussians alpha tr dD/dx lies between 0, where the data is forgotten, and d, at sigma = 0.
        """
        here = self._on(x.device)
        return here._in_chunks(here._divergence, here._width, x, *levels(t, sde))

    def score_model(self, sde: DiffusionSDE) -> ScoreModel:
        """The exact ScoreModel of this target under `sde`, with its `data_std` and `shape`.

        In float32, for data of about unit scale and any sigma/alpha from 1e-4 to 1e2, score and noise agree with
        float64 to 3e-6 of their own rms, and the denoised to 3e-6 of the data's (see the package's docstring).
        """
        return ScoreModel(_ExactNetwork(self, sde), sde, "v", data_std=self.data_std, shape=self.shape)

    # Plumbing ----------------------------------------------------------------------------------------------------

    def _on(self, device: torch.device) -> Self:
        """This target with its constants on `device`, kept for the next call."""
        if device == self.mean.device:
            return self
        if device not in self._elsewhere:
            self._elsewhere[device] = self.to(device)
        return self._elsewhere[device]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_elsewhere": {}}  # a pickled target must load where those devices do not exist

    def _state(
        self,
        answer: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor],
        x: Tensor,
        alpha: Tensor | float,
        sigma: Tensor | float,
    ) -> Tensor:
        """answer(D, score, alpha, sigma), of the shape and dtype of x."""
        here = self._on(x.device)
        precision = torch.float64 if x.dtype == torch.float64 else torch.float32

        def evaluate(x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
            return answer(*here._denoised_and_score(x, alpha, sigma, precision), alpha, sigma)

        return here._in_chunks(evaluate, here._width, x, alpha, sigma).to(x.dtype).reshape(x.shape)

    def _flatten(self, x: Tensor) -> Tensor:
        """x, (B, *shape), as (B, d) in float64."""
        if not x.is_floating_point():
            raise ArgumentError(f"x must be a floating-point tensor, got {x.dtype}; call x.float() first.")
        if x.ndim == 0 or tuple(x.shape[1:]) != self.shape:
            expected = ", ".join(map(str, ("B", *self.shape)))
            raise ShapeError(f"x has shape {tuple(x.shape)}; this target's samples make ({expected}).")
        return x.reshape(x.shape[0], self.dim).to(torch.float64)

    def _in_chunks(
        self,
        function: Callable[[Tensor, Tensor, Tensor], Tensor],
        width: int,
        x: Tensor,
        alpha: Tensor | float,
        sigma: Tensor | float,
    ) -> Tensor:
        """function(x, alpha, sigma) of the flattened batch, a bounded number of samples at a time."""
        flat = self._flatten(x)
        alpha, sigma = column("alpha", alpha, flat), column("sigma", sigma, flat)
        rows = max(1, (_CHUNK_ON_CPU if x.device.type == "cpu" else _CHUNK_ELSEWHERE) // width)
        if flat.shape[0] <= rows:
            return function(flat, alpha, sigma)

        def cut(level: Tensor, start: int) -> Tensor:
            return level if level.shape[0] == 1 else level[start : start + rows]

        starts = range(0, flat.shape[0], rows)
        return torch.cat([function(flat[i : i + rows], cut(alpha, i), cut(sigma, i)) for i in starts])


def _check_seed(seed: object) -> int:
    if isinstance(seed, bool) or not isinstance(seed, Integral):
        raise ArgumentError(f"seed must be an integer or None, got {seed!r}.")
    return int(seed)


def levels(t: Tensor | float, sde: DiffusionSDE) -> tuple[Tensor, Tensor]:
    """alpha(t) and sigma(t) in float64; a time expanded over the batch is evaluated once."""
    if isinstance(t, Tensor) and t.ndim == 1 and t.stride(0) == 0:
        t = t[:1]
    t = as_float64(t)
    return sde.alpha(t), sde.sigma(t)


def column(name: str, level: Tensor | float, x: Tensor) -> Tensor:
    """A noise level of shape () or (B,) as (1, 1) or (B, 1), float64, beside x of shape (B, d)."""
    level = as_float64(level).to(x.device)
    if level.ndim > 1 or level.numel() not in (1, x.shape[0]):
        raise ShapeError(
            f"{name} (or the time it comes from) has shape {tuple(level.shape)} beside a batch of {x.shape[0]}: "
            f"expected () or ({x.shape[0]},)."
        )
    return level.reshape(-1, 1)


@final
class _ExactNetwork:
    """network(x, t) = v, exact; a class rather than a closure so that a model can be pickled to other processes."""

    def __init__(self, target: Target, sde: DiffusionSDE) -> None:
        self.target = target
        self.sde = sde

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        return self.target.v(x, *levels(t, self.sde))

    def __repr__(self) -> str:
        return f"exact v of {self.target!r}"
