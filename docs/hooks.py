"""Puts the solver table, read from the catalogue, where a page has the line `<!-- solver table -->`."""

from __future__ import annotations

from typing import Any

MARK = "<!-- solver table -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    return markdown.replace(MARK, solver_table()) if MARK in markdown else markdown


def solver_table() -> str:
    """The catalogue as a Markdown table."""
    from sdekit.solvers import describe

    head = (
        "| name | integrates | order | NFE a step | default grid | what it is | source |\n|---|---|---|---|---|---|---|"
    )
    rows = []
    for d in describe():
        names = f"`{d['name']}`" + "".join(f"<br>`{a}`" for a in d["aliases"])
        nfe = "varies" if d["evaluations_per_step"] is None else d["evaluations_per_step"]
        grid = "chooses its own steps" if d["adaptive"] else d["default_grid"]
        cells = (names, d["integrates"], d["orders"] or "-", nfe, grid, d["summary"], d["reference"])
        rows.append("| " + " | ".join(str(c) for c in cells) + " |")
    return "\n".join([head, *rows])
