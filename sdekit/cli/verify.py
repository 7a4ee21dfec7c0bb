"""`sdekit verify`: every claim of every solver, measured."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sdekit.cli.output import console, note, on_terminal, print_json, use_threads

if TYPE_CHECKING:
    from sdekit.experiments.verification import Verification

__all__ = ["verify"]


def verify(
    names: Annotated[list[str] | None, typer.Argument(help="Solvers to verify, by any name; all unless given.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the findings as JSON, CSV, Markdown and a picture.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print every finding as JSON.")] = False,
    threads: Annotated[int, typer.Option(help="Threads for torch.")] = 1,
) -> None:
    """Measure what solvers declare: orders, published formulas, limits, finiteness. Exit code 1 if a claim fails."""
    from sdekit.experiments.verification import verify as run

    use_threads(threads)
    result = run(names or None, progress=on_terminal())
    if out is not None:
        note(f"wrote {result.save(out)}")
    if as_json:
        print_json(result.to_dict())
    else:
        _print(result)
    if not result.passed:
        raise typer.Exit(1)


def _print(result: Verification) -> None:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    rows = result.summary()
    for heading in rows[0]:
        table.add_column(heading, no_wrap=heading == "solver", overflow="fold")
    for row in rows:
        table.add_row(*row.values(), style=None if row["holds"] == "yes" else "bold red")
    screen = console()
    screen.print(table)
    for failure in result.failures:
        screen.print(
            f"FAILED {failure.solver}: {failure.check} on {failure.on}: declared {failure.declared}, "
            f"measured {failure.measured}",
            style="red",
        )
    held = sum(f.passed for f in result.findings)
    screen.print(f"{held} of {len(result.findings)} claims hold, in {result.seconds:.0f} s")
