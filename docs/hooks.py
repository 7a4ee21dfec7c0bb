"""What the site makes from the repository: the home page from README.md, the solver table from the catalogue."""

from __future__ import annotations

from pathlib import Path
from typing import Any

README_MARK, TABLE_MARK = "<!-- README -->", "<!-- solver table -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill in the two marks."""
    if README_MARK in markdown:
        readme = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
        markdown = markdown.replace(README_MARK, readme.replace("docs/images/", "images/"))
    return markdown.replace(TABLE_MARK, solver_table()) if TABLE_MARK in markdown else markdown


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
