"""What the site makes from the repository: the home page from README.md, the solver table from the catalogue.

Examples are taken in by pymdownx.snippets; a page that lacks the code of one that it names is an error.
"""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

README_MARK, TABLE_MARK = "<!-- README -->", "<!-- solver table -->"
VERIFIED_MARK = "<!-- verification table -->"
ROOT = Path(__file__).parent.parent


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill in the two marks."""
    if README_MARK in markdown:
        readme = (ROOT / "README.md").read_text(encoding="utf-8")
        markdown = markdown.replace(README_MARK, readme.replace("docs/images/", "images/"))
    if VERIFIED_MARK in markdown:
        markdown = markdown.replace(VERIFIED_MARK, (ROOT / "docs/verified.txt").read_text(encoding="utf-8"))
    return markdown.replace(TABLE_MARK, solver_table()) if TABLE_MARK in markdown else markdown


def on_page_content(content: str, page: Any, **_: Any) -> None:
    """Raise ValueError if an example that the page's source takes in is not in the page itself."""
    text = html.unescape(re.sub(r"<[^>]*>", "", content))
    for block in re.findall(r"^```python\n(.*?)^```", page.markdown, re.MULTILINE | re.DOTALL):
        for name in re.findall(r"examples/\w+\.py", block):
            if (ROOT / name).read_text(encoding="utf-8").strip() not in text:
                raise ValueError(
                    f"{page.file.src_uri} lacks the code of {name}; take it in by the line {name} between two lines "
                    "--8<--, which the formatter of code blocks leaves as they are."
                )


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
