r"""Latents: the point at T that the probability flow joins to each data point, and back.

The flow dx/dt = f x - g^2 s/2 is a bijection, so `encode` (t_eps to T) and `decode` (T to t_eps) are each other's
inverses up to the error of the solver (Song et al. 2021, arXiv 2011.13456, section 4.3).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from sdekit._tensors import check_positive_integer, check_state
from sdekit.dynamics import ProbabilityFlow
from sdekit.errors import ArgumentError, SdekitError, ShapeError, UnsupportedError
from sdekit.grids import Grid, make_grid
from sdekit.models.score import ScoreModel, conditioned
from sdekit.sampling import solve
from sdekit.solvers.base import Solver
from sdekit.solvers.catalogue import get

__all__ = ["RoundTrip", "decode", "encode", "interpolate", "round_trip"]

GridLike = str | Grid | Sequence[float] | Tensor

_EVALUATIONS = 200
_TOLERANCE = 1e-6


def encode(
    model: ScoreModel,
    x: Tensor,
    *,
    solver: str | Solver = "rk4",
    steps: int | None = None,
    grid: GridLike | None = None,
    t_eps: float | None = None,
    condition: Mapping[str, Any] | None = None,
    chunk: int | None = None,
    progress: bool = False,
    **options: Any,
) -> Tensor:
    """The latent of each sample: where the probability flow takes x, understood at t_eps, at T.

    Args:
        model: the score model.
        x: (B, *), floating point.
        solver: any deterministic solver, by name or object; "scipy:RK45" and its like choose their own steps, by name
            with rtol = atol = 1e-6 unless one of them is given: a round trip then comes back to within 1e-3.
        steps: of a fixed-step solver; as many as make 200 evaluations unless given.
        grid: where a fixed-step solver steps; uniform in log-SNR unless given.
        t_eps: the time of the data; `t_min` of the SDE unless given.
        condition: keyword arguments for every network call; batch-first tensors are cut with the batch.
        chunk: solve at most so many samples at a time; the same results, as `solve` says.
        progress: show a bar.
        options: the solver's own, where it is given by name (`rtol`, `atol`, `per_sample`, …).

    Returns:
        x at T, of the shape and dtype of x; for data of the model it is about normal, with the prior's standard
        deviation `model.sde.prior_std(data_std=model.data_std)`.

    Raises:
        ArgumentError, ShapeError, UnknownNameError: for input that makes no sense, before any evaluation.
        UnsupportedError: if the solver is stochastic.
        NonFiniteError: if the state becomes non-finite.
        SdekitError: if an adaptive solver stops before the end.
    """
    return _move(model, x, False, solver, steps, grid, t_eps, condition, chunk, progress, options)


def decode(
    model: ScoreModel,
    z: Tensor,
    *,
    solver: str | Solver = "rk4",
    steps: int | None = None,
    grid: GridLike | None = None,
    t_eps: float | None = None,
    condition: Mapping[str, Any] | None = None,
    chunk: int | None = None,
    progress: bool = False,
    **options: Any,
) -> Tensor:
    """The data of each latent: where the probability flow takes z, understood at T, at t_eps. The inverse of `encode`.

    Arguments and errors are those of `encode`.
    """
    return _move(model, z, True, solver, steps, grid, t_eps, condition, chunk, progress, options)


def interpolate(
    model: ScoreModel,
    a: Tensor,
    b: Tensor,
    n: int,
    *,
    solver: str | Solver = "rk4",
    steps: int | None = None,
    grid: GridLike | None = None,
    t_eps: float | None = None,
    condition: Mapping[str, Any] | None = None,
    chunk: int | None = None,
    progress: bool = False,
    **options: Any,
) -> Tensor:
    r"""n samples on the way from each sample of a to that of b, (n, B, *), both ends included.

    The latents z_a and z_b of a and b are joined by spherical interpolation, with theta the angle between them,

        z(w) = [sin((1 - w) theta) z_a + sin(w theta) z_b]/sin(theta),    w = 0 … 1,

    which keeps to the norms where the prior has its mass, and decoded. Where sin(theta) is 0, as for parallel latents
    or those of one coordinate, it is the straight line.

    Args:
        model: the score model.
        a, b: (B, *), of one shape and dtype.
        n: how many samples of each pair, the first a and the last b themselves up to the solver's error; at least 2.
        condition: as in `encode`, for the pairs (B).
        chunk: samples (of the n B) solved at a time.
        solver, steps, grid, t_eps, progress, options: as in `encode`.

    Raises: as `encode`.
    """
    if check_positive_integer("n", n) < 2:
        raise ArgumentError(f"n counts both ends, so it must be at least 2, got {n!r}.")
    a, b = check_state("a", a), check_state("b", b)
    if a.shape != b.shape or a.dtype != b.dtype:
        raise ShapeError(
            f"a and b must be of one shape and dtype, got {tuple(a.shape)} {a.dtype} and {tuple(b.shape)} {b.dtype}."
        )
    model = conditioned(model, condition)
    how = (solver, steps, grid, t_eps, None, chunk, progress, options)
    z_a, z_b = _move(model, a, False, *how), _move(model, b, False, *how)
    z = _spherical(z_a, z_b, torch.linspace(0, 1, n, dtype=torch.float64, device=a.device))
    several = model.with_condition(**_tiled(model.condition, a.shape[0], n))
    return _move(several, z.flatten(0, 1), True, *how).reshape(z.shape)


@final
@dataclass(frozen=True)
class RoundTrip:
    """How well `decode` undoes `encode`, sample by sample, and whether the latents are of the prior.

    Attributes:
        latent: the latents, of the shape and dtype of x.
        back: the samples decoded from them.
        largest: max |back - x|, float64 (B,).
        rms: root mean square of back - x, float64 (B,).
        latent_rms: root mean square of the latent over the prior's standard deviation, float64 (B,): 1 up to about
            sqrt(1/(2d)) for data that the model knows; far from 1 for other data.
    """

    latent: Tensor
    back: Tensor
    largest: Tensor
    rms: Tensor
    latent_rms: Tensor

    def __str__(self) -> str:
        lines = ["of each sample                     median    largest"]
        for words, values in (
            ("largest error of a coordinate", self.largest),
            ("rms error", self.rms),
            ("rms of the latent, prior's = 1", self.latent_rms),
        ):
            lines.append(f"{words:<32} {float(values.median()):>9.3g} {float(values.max()):>10.3g}")
        return "\n".join(lines)


def round_trip(
    model: ScoreModel,
    x: Tensor,
    *,
    solver: str | Solver = "rk4",
    steps: int | None = None,
    grid: GridLike | None = None,
    t_eps: float | None = None,
    condition: Mapping[str, Any] | None = None,
    chunk: int | None = None,
    progress: bool = False,
    **options: Any,
) -> RoundTrip:
    """Encode, decode, and compare: what the solver's error costs a latent.

    Arguments and errors are those of `encode`.
    """
    how = (solver, steps, grid, t_eps, condition, chunk, progress, options)
    latent = _move(model, x, False, *how)
    back = _move(model, latent, True, *how)
    off = (back.double() - x.detach().double()).reshape(len(x), -1)
    return RoundTrip(
        latent=latent,
        back=back,
        largest=off.abs().amax(1),
        rms=off.square().mean(1).sqrt(),
        latent_rms=latent.double().reshape(len(x), -1).square().mean(1).sqrt()
        / model.sde.prior_std(data_std=model.data_std),
    )


def _move(
    model: ScoreModel,
    x: Tensor,
    to_data: bool,
    solver: str | Solver,
    steps: int | None,
    grid: GridLike | None,
    t_eps: float | None,
    condition: Mapping[str, Any] | None,
    chunk: int | None,
    progress: bool,
    options: Mapping[str, Any],
) -> Tensor:
    """x along the probability flow, between t_eps and T."""
    name = "z" if to_data else "x"
    if not isinstance(model, ScoreModel):
        raise ArgumentError(
            f"model must be a ScoreModel, got {type(model).__name__}; wrap it: ScoreModel(network, sde)."
        )
    x = check_state(name, x)
    if model.shape is not None and tuple(x.shape[1:]) != model.shape:
        raise ShapeError(f"the model's samples have shape {model.shape}, but {name} has shape {tuple(x.shape)}.")
    if isinstance(solver, Solver) and options:
        raise ArgumentError(
            f"unknown argument(s) {', '.join(map(repr, sorted(options)))}: options of a solver given as an object are "
            "set where it is made."
        )
    chosen = solver if isinstance(solver, Solver) else get(solver, **options)
    tolerances = {"rtol", "atol"} & chosen.options().keys()
    if isinstance(solver, str) and tolerances and not tolerances & options.keys():
        chosen = get(solver, **options, **dict.fromkeys(tolerances, _TOLERANCE))
    if chosen.stochastic:
        raise UnsupportedError(
            f"latents are joined to data by the probability flow, an ODE; solver {chosen.name!r} is stochastic. "
            "Take 'rk4', 'heun', or an adaptive one such as 'scipy:RK45'."
        )
    sde = model.sde
    low = sde.check_time("t_eps", sde.t_min if t_eps is None else t_eps)
    model = conditioned(model, condition)
    if not chosen.adaptive:
        grid = make_grid("log_snr" if grid is None else grid)
        if steps is None and grid.fixed_steps is None:
            if chosen.evaluations_per_step is None:
                raise ArgumentError(f"solver {chosen.name!r} needs steps=…, the number of steps of its grid.")
            steps = -(-_EVALUATIONS // chosen.evaluations_per_step)
    t0, t1 = (sde.t_max, low) if to_data else (low, sde.t_max)
    flow = ProbabilityFlow(model)
    solution = solve(flow, x, t0=t0, t1=t1, solver=chosen, steps=steps, grid=grid, chunk=chunk, progress=progress)
    if solution.status != "success":
        raise SdekitError(
            f"solver {chosen.name!r} ended with status {solution.status!r} at t = {solution.t:g}, before t = {t1:g}; "
            "take a larger max_nfe or looser tolerances."
        )
    return solution.x


def _spherical(a: Tensor, b: Tensor, weights: Tensor) -> Tensor:
    """Points at the fractions `weights`, (n,), of the great circle from each a to each b, (B, *): (n, B, *)."""
    flat_a, flat_b = a.double().reshape(len(a), -1), b.double().reshape(len(b), -1)
    # Kahan's form of the angle, exact for nearly parallel vectors too.
    unit_a, unit_b = torch.nn.functional.normalize(flat_a), torch.nn.functional.normalize(flat_b)
    theta = 2 * torch.atan2((unit_a - unit_b).norm(dim=1), (unit_a + unit_b).norm(dim=1))
    w = weights[:, None]
    sine = torch.sin(theta)
    straight = sine < 1e-7
    safe = torch.where(straight, 1.0, sine)
    of_a = torch.where(straight, 1 - w, torch.sin((1 - w) * theta) / safe)
    of_b = torch.where(straight, w.expand_as(of_a), torch.sin(w * theta) / safe)
    points = of_a[..., None] * flat_a + of_b[..., None] * flat_b
    return points.to(a.dtype).reshape(len(weights), *a.shape)


def _tiled(condition: Mapping[str, Any], batch: int, times: int) -> dict[str, Any]:
    """The condition for `times` copies of the batch, one after another."""

    def tile(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: tile(entry) for name, entry in value.items()}
        if type(value) in (list, tuple):
            return type(value)(tile(entry) for entry in value)
        batched = isinstance(value, Tensor) and value.ndim > 0 and value.shape[0] == batch
        return torch.cat([value] * times) if batched else value

    return {name: tile(value) for name, value in condition.items()}
