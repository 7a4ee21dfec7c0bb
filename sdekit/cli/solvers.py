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


_INTEGRATES = {"yes": "SDE", "no": "ODE", "by eta": "either"}


def _print_table(rows: list[dict[str, Any]]) -> None:
    what = _table("solver", "integrates", "order", "NFE/step", "grid", "what it is")
    source = _table("solver", "kind", "also called", "needs", "options", "reference")
    for row in rows:
        each = "adaptive" if row["adaptive"] else row["evaluations_per_step"]
        grid = row["default_grid"] or ""
        kind = _INTEGRATES[row["stochastic"]]
        what.add_row(row["name"], kind, row["orders"], "varies" if each is None else str(each), grid, row["summary"])
        lists = (", ".join(row[name]) for name in ("aliases", "needs", "options"))
        source.add_row(row["name"], row["kind"], *lists, row["reference"])
    out = console()
    for table in (what, source):
        out.print(table)


def _table(*headings: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for heading in headings:
        table.add_column(heading, no_wrap=heading in ("solver", "integrates", "NFE/step", "grid", "kind"))
    return table
