"""The site: pages hold the examples that they name."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [path for path in sorted((ROOT / "docs").glob("*.md")) if "examples/" in path.read_text(encoding="utf-8")]


def hooks():
    spec = importlib.util.spec_from_file_location("hooks", ROOT / "docs" / "hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def page(source):
    return SimpleNamespace(markdown=source, file=SimpleNamespace(src_uri="page.md"))


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_a_page_takes_its_examples_in(path):
    # As a page is built where the tools are there, and by hand where they are not.
    source = path.read_text(encoding="utf-8")
    assert not re.findall(r"--8\s+<|<\s+--", source)
    taken = re.findall(r"^--8<--\n(examples/\w+\.py)\n--8<--$", source, re.MULTILINE)
    assert taken
    assert all((ROOT / name).is_file() for name in taken)
    markdown = pytest.importorskip("markdown")
    pytest.importorskip("pymdownx")
    extensions = ["pymdownx.highlight", "pymdownx.superfences", "pymdownx.snippets"]
    settings = {"pymdownx.snippets": {"base_path": [str(ROOT)], "check_paths": True}}
    built = markdown.markdown(source, extensions=extensions, extension_configs=settings)
    hooks().on_page_content(built, page=page(source))


@pytest.mark.parametrize("name", ["general-sdes.md", "ensembles.md", "gradients.md", "likelihood.md"])
def test_the_code_of_a_page_runs(name, capsys):
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / name).read_text(encoding="utf-8"), re.M | re.S)
    space: dict[str, object] = {}
    for block in blocks:
        if "--8<--" not in block:  # examples are run whole, elsewhere
            exec(compile(block, name, "exec"), space)
    assert space


def test_a_page_without_its_example_is_an_error():
    # What a formatter once made of --8<-- "examples/own_sde.py", taken for an expression.
    source = '```python\n--8 < --"examples/own_sde.py"\n```\n'
    with pytest.raises(ValueError, match=r"page.md lacks the code of examples/own_sde.py"):
        hooks().on_page_content("<pre>--8 &lt; --&quot;examples/own_sde.py&quot;</pre>", page=page(source))


def test_the_readme_measures_digits_by_their_own_bins():
    from sdekit.likelihood.result import bin_width
    from sdekit.training.digits_data import LEVEL_WIDTH

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(r"bits_per_dim\(data_range=\((.*?), (.*?)\), levels=(\d+)\)", readme)
    low, high, levels = float(found[1]), float(found[2]), int(found[3])
    assert bin_width((low, high), levels) == LEVEL_WIDTH
    assert (low + LEVEL_WIDTH / 2, high - LEVEL_WIDTH / 2) == (-1, 1)  # where the end levels lie
