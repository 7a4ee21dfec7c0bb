"""`sdekit solvers`: the catalogue."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from sdekit.cli.output import console, print_json

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["solvers"]


def solvers(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON with everything that each solver declares.")
    ] = False,
) -> None:
    """List every solver: its names, kind, order, evaluations a step, what it integrates, and where it is from."""
    from sdekit.solvers import describe

    rows = describe()
    if as_json:
        print_json(rows)
        return
    _print_table(rows)


_INTEGRATES = {"yes": "SDE", "no": "ODE"}


def _print_table(rows: list[dict[str, Any]]) -> None:
    what = _table("solver", "kind", "integrates", "order", "NFE/step", "grid", "also called")
    source = _table("solver", "what it is", "needs", "options", "reference")
    for row in rows:
        each = "adaptive" if row["adaptive"] else row["evaluations_per_step"]
        what.add_row(
            row["name"],
            row["kind"],
            _INTEGRATES.get(row["stochastic"], "either"),
            row["orders"],
            "varies" if each is None else str(each),
            row["default_grid"] or "",
            ", ".join(row["aliases"]),
        )
        needs, options = ", ".join(row["needs"]), ", ".join(row["options"])
        source.add_row(row["name"], row["summary"], needs, options, row["reference"])
    out = console()
    for table in (what, source):
        out.print(table)


def _table(*headings: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for heading in headings:
        table.add_column(heading, no_wrap=heading in ("solver", "order"), overflow="fold")
    return table
