"""What a reference is: a name, its options, and its formula as a loop; and the comparison with the solver."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor

from sdekit.models.score import ScoreModel
from sdekit.sampling import sample
from sdekit.sdes import VPSDE, DiffusionSDE

__all__ = [
    "Comparison",
    "Draw",
    "Function",
    "Model",
    "Reference",
    "Run",
    "check",
    "compare",
    "irregular_times",
    "network",
]


Model = Callable[[Tensor, float], Tensor]
Draw = Callable[[], Tensor]
Run = Callable[[Model, DiffusionSDE, Tensor, Tensor, Draw], Tensor]
Function = Callable[[float], float]


# What a reference is -----------------------------------------------------------------------------------------------


@final
@dataclass(frozen=True)
class Reference:
    """One sampler with its options, and its formula as a loop.

    run(model, sde, times, x, draw) -> the end state, where model(x, t) is eps at the float time t, times and x are
    float64, and draw() is the next standard normal draw of the shape of x, in the order in which the solver asks.
    `tolerance` is relative to the end state's largest entry.
    """

    name: str
    run: Run = field(repr=False)
    source: str
    options: Mapping[str, Any] = field(default_factory=dict)
    tolerance: float = 1e-10

    @property
    def label(self) -> str:
        """`name` or `name(option=value, …)`."""
        inside = ", ".join(f"{key}={value}" for key, value in self.options.items())
        return f"{self.name}({inside})" if inside else self.name


@final
@dataclass(frozen=True)
class Comparison:
    """A solver beside its reference: the difference of the end states, and the evaluations each made."""

    difference: float
    evaluations: int
    reference_evaluations: int


def network(x: Tensor, t: Tensor) -> Tensor:
    """tanh(x + 0.3 t) + 0.1 x: nonlinear, and different at every time, so that it shows where it was evaluated."""
    return torch.tanh(x + 0.3 * t[:, None]) + 0.1 * x


def irregular_times(sde: DiffusionSDE, steps: int, end: float | None = None) -> Tensor:
    """A falling grid of unequal steps in log sigma~, float64 (steps + 1,); `end` is t_min unless given, or 0."""
    end = sde.t_min if end is None else end
    if end == 0 and steps == 1:
        return torch.tensor([sde.t_max, end], dtype=torch.float64)
    inner = steps if end > 0 else steps - 1  # the step to sigma = 0 comes after the others
    high = math.log(float(sde.sigma(sde.t_max) / sde.alpha(sde.t_max)))
    low = math.log(float(sde.sigma(end) / sde.alpha(end))) if end > 0 else math.log(0.03)
    places = [(i + 0.3 * math.sin(2.0 * i) * (0 < i < inner)) / inner for i in range(inner + 1)]
    times = [float(sde.time_of_log_snr(-2 * (high + u * (low - high)))) for u in places]
    times[0] = sde.t_max
    return torch.tensor([*times[:inner], end] if end > 0 else [*times, end], dtype=torch.float64)


def compare(
    reference: Reference,
    sde: DiffusionSDE | None = None,
    steps: int = 6,
    *,
    end: float | None = None,
    times: Tensor | None = None,
    seed: int = 0,
) -> Comparison:
    """Run the solver of that name and the reference from one start, with the same draws; VPSDE() unless given."""
    sde = VPSDE() if sde is None else sde
    times = irregular_times(sde, steps, end) if times is None else times
    generator = torch.Generator().manual_seed(seed)
    shape = (4, 3)
    x = torch.randn(shape, generator=generator, dtype=torch.float64) * sde.prior_std(float(times[0]))

    def draws() -> Draw:
        stream = torch.Generator().manual_seed(seed + 1)
        return lambda: torch.randn(shape, generator=stream, dtype=torch.float64)

    calls = 0

    def model(state: Tensor, t: float) -> Tensor:
        nonlocal calls
        calls += 1
        return network(state, torch.full((len(state),), t, dtype=state.dtype))

    draw = draws()
    solution = sample(
        ScoreModel(network, sde),
        None,
        reference.name,
        grid=times,
        x_T=x,
        noise=lambda t, s, shape: draw(),
        **reference.options,
    )
    expected = reference.run(model, sde, times, x.clone(), draws())
    difference = float((solution.x - expected).abs().max() / expected.abs().max())
    return Comparison(difference, int(solution.nfe), calls)


def check(
    reference: Reference,
    sde: DiffusionSDE | None = None,
    steps: int = 6,
    *,
    end: float | None = None,
    times: Tensor | None = None,
    seed: int = 0,
) -> float:
    """`compare(…).difference`: the largest difference of the end states, relative to the largest entry."""
    return compare(reference, sde, steps, end=end, times=times, seed=seed).difference
