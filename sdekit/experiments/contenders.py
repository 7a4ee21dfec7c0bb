"""The solvers that a comparison sets side by side, and loops of one's own beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast, final

import torch
from torch import Tensor

from sdekit.errors import ArgumentError, UnknownNameError, UnsupportedError
from sdekit.grids import Custom, Grid, make_grid
from sdekit.models import ScoreModel
from sdekit.sdes import VPSDE
from sdekit.solvers import AdaptiveSolver, Solver, names, recipe
from sdekit.solvers.catalogue import get

__all__ = ["DEFAULT_SOLVERS", "LOOPS", "Contender", "Loop", "SolverLike", "contenders", "known_names", "step_pred"]

DEFAULT_SOLVERS = (
    "diffusers:step_pred",
    "euler_maruyama",
    "ancestral",
    "pc",
    "torchsde:heun",
    "ddim",
    "heun",
    "scipy:RK45",
    "recommended",
)
"""Five stochastic and three deterministic solvers, from the field's usual choices, and our own."""


@final
@dataclass(frozen=True)
class Loop:
    """A sampling loop of one's own, to stand beside the solvers of the catalogue.

    Args:
        function: called as function(model, x, steps, seed), with x of shape (B, *) drawn from the prior at T; returns
            the samples, of the shape of x. It calls the model and draws from generators that it seeds itself. The
            model's evaluations are counted.
        stochastic: False if it follows the probability flow, so that the flow error means something.
        reference: authors, year, arXiv id.
    """

    function: Callable[[ScoreModel, Tensor, int, int], Tensor]
    stochastic: bool = True
    reference: str = ""

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise ArgumentError(
                f"a Loop's function is called as function(model, x, steps, seed); got {self.function!r}."
            )


def step_pred(model: ScoreModel, x: Tensor, steps: int, seed: int) -> Tensor:
    """The loop of diffusers' ScoreSdeVpScheduler: set_timesteps(steps), step_pred at each time, the last mean.

    It steps by 1/N over a grid with gaps of (1 - eps)/(N - 1), and so ends at eps - 1/N; see
    `sdekit.interop.diffusers.ScoreSdeVpScheduler`. The noise is one stream for the whole batch.

    Raises:
        UnsupportedError: if the model's SDE is not a VPSDE.
    """
    from sdekit.interop.diffusers.score_sde_vp import ScoreSdeVpScheduler

    sde = model.sde
    if not isinstance(sde, VPSDE):
        raise UnsupportedError(f"'diffusers:step_pred' knows the VP SDE only; the model has {sde!r}.")
    scheduler = ScoreSdeVpScheduler(beta_min=sde.beta_min, beta_max=sde.beta_max, sampling_eps=sde.t_min)
    scheduler.set_timesteps(steps, device=x.device)
    generator = torch.Generator().manual_seed(seed)
    mean = x
    for t in cast("Tensor", scheduler.timesteps):
        x, mean = scheduler.step_pred(model.noise(x, t), x, t, generator)
    return mean


LOOPS: dict[str, Loop] = {
    "diffusers:step_pred": Loop(step_pred, reference="Song et al. 2021, arXiv 2011.13456, as in diffusers")
}
"""Loops that a comparison knows by name, beside the catalogue's solvers."""

SolverLike = str | Solver | Loop | Sequence[Any]


@final
@dataclass(frozen=True)
class Contender:
    """One entry of a comparison.

    Attributes:
        label: its name in tables and plots; unique.
        sampling: what else `sample` is told: grid, denoise.
    """

    label: str
    make: Callable[..., Solver | Loop] = field(repr=False)
    takes_tolerance: bool
    sampling: Mapping[str, Any] = field(default_factory=dict)

    def at(self, tolerance: float | None = None) -> Solver | Loop:
        """The solver; one that takes a tolerance, at rtol = atol = tolerance."""
        return self.make() if tolerance is None else self.make(rtol=tolerance, atol=tolerance)


def known_names() -> list[str]:
    """Every name that `contenders` takes, without aliases."""
    return [*LOOPS, *names()]


def contenders(solvers: SolverLike | Sequence[SolverLike]) -> list[Contender]:
    """What a user lists as solvers, checked.

    Each is a name, a Solver, a Loop, or (label, name or Solver or Loop[, options]). Options are those of the solver,
    where it is given by name, and `grid` and `denoise` of `sample`.

    Raises:
        ArgumentError: for an entry of another form, an unknown option, or a label used twice.
        UnknownNameError: for an unknown name.
    """
    if isinstance(solvers, (str, Solver, Loop)) or not isinstance(solvers, Sequence):
        raise ArgumentError(f"solvers is a list of names or Solvers, got {solvers!r}; write [{solvers!r}].")
    out = [_contender(entry) for entry in solvers]
    if not out:
        raise ArgumentError("solvers is empty; give at least one, such as 'ddim'.")
    labels = [c.label for c in out]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise ArgumentError(
            f"solver label(s) {', '.join(map(repr, twice))} given twice; tell them apart with (label, solver, options)."
        )
    return out


def _contender(entry: Any) -> Contender:
    label: str | None = None
    options: dict[str, Any] = {}
    if isinstance(entry, Sequence) and not isinstance(entry, str):
        if len(entry) not in (2, 3) or not isinstance(entry[0], str) or not entry[0]:
            raise ArgumentError(f"a solver is a name, a Solver, a Loop or (label, solver[, options]); got {entry!r}.")
        label, given = entry[0], entry[1]
        if len(entry) == 3:
            if not isinstance(entry[2], Mapping):
                raise ArgumentError(f"the options of {label!r} must be a dict, got {entry[2]!r}.")
            options = dict(entry[2])
    else:
        given = entry
    sampling: dict[str, Any] = {name: options.pop(name) for name in ("grid", "denoise") if name in options}
    if "grid" in sampling:
        _check_grid(sampling["grid"])
    if isinstance(given, str) and given not in LOOPS:
        return _by_name(given, label, options, sampling)
    found: Solver | Loop = LOOPS[given] if isinstance(given, str) else given
    if not isinstance(found, (Solver, Loop)):
        raise ArgumentError(f"a solver is a name, a Solver or a Loop; got {given!r}.")
    if options:
        what = "a loop" if isinstance(found, Loop) else "a solver given as an object"
        raise ArgumentError(
            f"{what} takes no options here, got {', '.join(sorted(options))}; set them where it is made."
        )
    if isinstance(found, Loop) and sampling:
        raise ArgumentError(f"a loop lays its own grid; it takes no {', '.join(sampling)}.")
    if isinstance(given, Loop) and label is None:
        raise ArgumentError("a Loop needs a label: give (label, loop).")
    name = label or (given if isinstance(given, str) else str(getattr(found, "name", "")))
    return Contender(name, lambda: found, takes_tolerance=False, sampling=sampling)


def _by_name(name: str, label: str | None, options: dict[str, Any], sampling: dict[str, Any]) -> Contender:
    try:
        found = recipe(name)
    except UnknownNameError:
        listing = f"`sdekit solvers` lists them; a comparison also knows {', '.join(LOOPS)}."
        raise UnknownNameError("solver", name, known_names(), listing) from None
    if isinstance(found.grid, Custom):
        raise ArgumentError(f"{name!r} names a grid of its own; a comparison chooses the number of steps.")
    if found.grid is not None:
        sampling = {"grid": found.grid, **sampling}
    if found.denoise is not False:
        sampling = {"denoise": found.denoise, **sampling}
    options = {**found.options, **options}
    solver = get(found.solver, **options)
    own_tolerance = {"rtol", "atol"} & options.keys()
    # A name of the catalogue's is labelled by it, whatever its case; one from elsewhere keeps its own.
    ours = found == type(found)(found.solver)
    return Contender(
        label or (found.solver if ours else name),
        lambda **tolerances: get(found.solver, **options, **tolerances),
        takes_tolerance=isinstance(solver, AdaptiveSolver) and not own_tolerance,
        sampling=sampling,
    )


def _check_grid(grid: str | Grid | Sequence[float] | Tensor) -> None:
    if isinstance(make_grid(grid), Custom):
        raise ArgumentError(
            "a comparison chooses the number of steps, so its grid is a rule (a name, or a Grid such as "
            "sk.grids.Karras(rho=5)), not a list of times."
        )
