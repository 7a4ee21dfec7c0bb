"""Two solves of one SDE on one Brownian path, with r^l M_0 steps and with r times fewer."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import final

import torch
from torch import Tensor

from sdekit._tensors import is_finite
from sdekit.dynamics import ForwardSDE
from sdekit.errors import ArgumentError, NonFiniteError, ShapeError
from sdekit.noise import BrownianStream, Increment, KeyedNoise
from sdekit.noise.splitting import join_equal
from sdekit.solvers.solution import first_bad_samples
from sdekit.solvers.step import StepSolver

__all__ = ["CoupledSolves"]


@final
class CoupledSolves:
    """Samples of P_l, and of P_{l-1} on the same path.

    Args:
        dynamics: what is solved, in a calculus of the solver's.
        solver: by what.
        x0: the start, (1, *).
        function: P: of the end state (B, *), or of those at `save_at`, (T, B, *); returns (B,).
        ends: t0 and t1.
        first_steps: M_0.
        refinement: r.
        save_at: times at ends of the coarsest steps, in the order of the solve; None for the end alone.
        seed: of the noise.

    Raises:
        ArgumentError, ShapeError: for what the function returns at x0, and for times that are no ends of steps.
    """

    def __init__(
        self,
        dynamics: ForwardSDE,
        solver: StepSolver,
        x0: Tensor,
        function: Callable[[Tensor], Tensor],
        ends: tuple[float, float],
        first_steps: int,
        refinement: int,
        save_at: Sequence[float] | Tensor | None,
        seed: int,
    ) -> None:
        self.dynamics, self.solver, self.x0, self.function = dynamics, solver, x0, function
        self.ends, self.first_steps, self.refinement, self.seed = ends, first_steps, refinement, seed
        self.places = None if save_at is None else _places(save_at, ends, first_steps)
        self._guard = torch.no_grad if dynamics.needs_autograd or solver.differentiates else torch.inference_mode
        with torch.no_grad():
            probe = x0.expand(2, *x0.shape[1:])
            self._values([probe] * len(self.places or [0]), "x0")

    def steps(self, level: int) -> int:
        """The steps of a level's finer solve."""
        return int(self.first_steps * self.refinement**level)

    def samples(self, level: int, start: int, n: int) -> tuple[Tensor, Tensor, bool, int]:
        """P_l - P_{l-1} and P_l of n paths, float64 (n,); whether their ends differ; a path's drift evaluations."""
        with self._guard():
            fine, coarse, evaluations = self._solved(level, start, n)
            p = self._values(fine, f"level {level}")
            d = p - self._values(coarse, f"level {level}") if level else p
            return d, p, bool((fine[-1] != fine[-1][:1]).any()), evaluations

    def _values(self, states: list[Tensor], where: str) -> Tensor:
        x = states[-1] if self.places is None else torch.stack(states)
        p, n = self.function(x), len(states[-1])
        if not isinstance(p, Tensor) or tuple(p.shape) != (n,) or p.is_complex():
            given = f"{p.dtype} {tuple(p.shape)}" if isinstance(p, Tensor) else type(p).__name__
            raise ShapeError(f"the function must return a real tensor of shape ({n},) for {n} states, got {given}.")
        if not is_finite(p):
            raise ArgumentError(f"the function returned NaN or infinite values at states of {where}.")
        return p.double()

    def _solved(self, level: int, start: int, n: int) -> tuple[list[Tensor], list[Tensor], int]:
        """The states of n paths at the times asked for, with the level's steps and with those of the level below."""
        t0, t1 = self.ends
        count, r = self.steps(level), self.refinement if level else 1
        times = torch.linspace(t0, t1, count + 1, dtype=torch.float64, device="cpu")
        dynamics = self.dynamics.counted()
        x = self.x0.expand(n, *self.x0.shape[1:]).clone()
        noise = KeyedNoise(_level_seed(self.seed, level), start)
        stream = noise.brownian(
            dynamics.noise_shape(x.shape), times, areas=self.solver.areas, dtype=x.dtype, device=x.device
        )
        clock, h = times.to(x.device), (t1 - t0) / count
        each = count // self.first_steps
        wanted = [place * each for place in (self.places or [self.first_steps])]
        fine, coarse = x, x
        kept: tuple[list[Tensor], list[Tensor]] = ([x] * wanted.count(0), [x] * wanted.count(0))
        for k in range(0, count, r):
            group = []
            for i in range(k, k + r):
                noise_now = _next(stream, copied=r > 1)
                group.append(noise_now)
                fine = self.solver.step_formula(dynamics, fine, clock[i], clock[i + 1], h, noise_now)
            if level:
                coarse = self.solver.step_formula(
                    dynamics, coarse, clock[k], clock[k + r], h * r, _joined(group, falls=h < 0)
                )
            self._check(fine, level, k + r, float(times[k + r]), start)
            for _ in range(wanted.count(k + r)):
                kept[0].append(fine)
                kept[1].append(coarse)
        self._check(coarse, level, count // r, t1, start)
        return *kept, dynamics.counter.calls

    def _check(self, x: Tensor, level: int, step: int, t: float, start: int) -> None:
        if not is_finite(x):
            name = f"{self.solver.name} at level {level}"
            raise NonFiniteError(name, step, t, first_bad_samples(x)).moved(first=start)


def _places(save_at: Sequence[float] | Tensor, ends: tuple[float, float], first_steps: int) -> list[int]:
    """The steps of the coarsest level after which the times are reached."""
    times = [float(t) for t in torch.as_tensor(save_at, dtype=torch.float64).flatten()]
    exact = [(t - ends[0]) / (ends[1] - ends[0]) * first_steps for t in times]
    places = [round(place) for place in exact]
    off = [t for t, p, q in zip(times, exact, places, strict=True) if not (abs(p - q) < 1e-6 and 0 <= q <= first_steps)]
    if not times or off or places != sorted(places):
        raise ArgumentError(
            f"save_at must hold times at which the {first_steps} equal steps of the coarsest level end, in the order "
            f"of the solve; got {times}{f', of which {off} are none' if off else ''}. Choose first_steps= to suit."
        )
    return places


def _next(stream: BrownianStream, *, copied: bool) -> Increment:
    """The next increment, copied where it is looked at again after the one that follows."""
    found = stream.next()
    return Increment(*[value.clone() for value in found.values()]) if copied else found


def _joined(group: list[Increment], *, falls: bool) -> Increment:
    """Increments one after another as one. Where time falls they are joined as they lie in time."""
    ordered = [-one for one in reversed(group)] if falls else group
    columns = zip(*[one.values() for one in ordered], strict=True)
    whole = join_equal(Increment(*[torch.stack(values) for values in columns]), 0)
    return -whole if falls else whole


def _level_seed(seed: int, level: int) -> int:
    """A seed for each level, whose samples are then independent of the others'."""
    return int.from_bytes(hashlib.blake2b(f"{seed} level {level}".encode(), digest_size=7).digest(), "big")
