"""`sdekit table`: a solver's coefficients, printed, saved, drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sdekit.cli.output import note, options, print_json

__all__ = ["table"]


def table(
    solver: Annotated[str, typer.Argument(help="A table solver, by any of its names.")],
    steps: Annotated[int, typer.Option(help="Steps of the grid.")] = 10,
    sde: Annotated[str, typer.Option(help="vp, sub_vp, ve, cosine_vp, edm or flow.")] = "vp",
    grid: Annotated[str | None, typer.Option(help="A grid's name; the solver's default unless given.")] = None,
    t_end: Annotated[float | None, typer.Option(help="Where it ends; t_min of the SDE unless given.")] = None,
    option: Annotated[
        list[str] | None, typer.Option(help="An option of the solver, key=value; may be repeated.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Save it as JSON; `--solver table:FILE` runs it.")] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw its stability and order on Gaussians (PNG, SVG, PDF).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Print the coefficient table of a solver for an SDE and a grid; save it to edit and to run."""
    from sdekit.errors import UnsupportedError
    from sdekit.experiments.tables import table_figure
    from sdekit.sdes import named
    from sdekit.solvers import FixedStepSolver, get, recipe, tabulate

    found = recipe(solver)
    chosen = get(found.solver, **{**found.options, **options(option or [])})
    if not isinstance(chosen, FixedStepSolver):
        raise UnsupportedError(f"solver {chosen.name!r} chooses its own steps, and has no table.")
    place, process = found.grid if grid is None else grid, named(sde)
    made = tabulate(chosen, process, steps, place, t_end=t_end)
    if as_json:
        print_json(made.to_dict())
    else:
        print(made)
    if out is not None:
        note(f"wrote {made.save(out)}")
    if plot is not None:
        table_figure(chosen, process, steps, place, t_end).savefig(plot)
        note(f"wrote {plot}")
