"""The report of a comparison: one self-contained HTML page, and the same table on a terminal.

The page asks nothing of the network: style and script are inline, pictures and the table's CSV are data URIs.
"""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdekit.experiments.frame import metrics_of, read
from sdekit.experiments.metrics import BUILT_IN, Metric

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from PIL import Image
    from rich.console import Console

__all__ = ["REPORT_NAME", "print_table", "write_report"]

REPORT_NAME = "report.html"

SORTABLE = (
    ("model", "Model"),
    ("solver", "Solver"),
    ("kind", "Kind"),
    ("budget", "Budget"),
    ("nfe", "NFE"),
    ("metric", "Metric"),
    ("value", "Error"),
    ("low", "Low"),
    ("high", "High"),
    ("floor_low", "Floor low"),
    ("floor_high", "Floor high"),
    ("seconds", "Seconds"),
)
"""Columns of the full table, with their headings."""

_WORDS = frozenset({"model", "solver", "kind", "metric"})


@dataclass(frozen=True)
class Cell:
    """One solver at one budget, as the overview shows it."""

    value: str
    interval: str
    nfe: str
    at_floor: bool
    near_best: bool
    failed: bool


@dataclass(frozen=True)
class Overview:
    """Solvers by budgets, for one model and one metric.

    A place holds no cell where the solver was not run, and may hold several where it chose its own NFE.
    """

    model: str
    metric: type[Metric]
    budgets: list[str]
    rows: list[tuple[str, str, list[list[Cell]]]]
    floor: str


def write_report(
    folder: str | Path,
    frame: pd.DataFrame,
    plots: Mapping[str, Figure],
    sheets: Mapping[str, Image.Image],
    settings: Mapping[str, Any],
    versions: Mapping[str, str],
    metrics: Sequence[type[Metric]] = BUILT_IN,
) -> Path:
    """Write `report.html` into the folder (made if missing) and return its path.

    Args:
        folder: where to.
        frame: the columns of `frame.COLUMNS` (and `budget`, if there is one), one row a solver, budget and metric.
        plots: figures by caption.
        sheets: pictures of samples by caption (the solver, and the NFE).
        settings: what was asked for: JSON values, nested mappings welcome.
        versions: of sdekit and of what it ran on, by name.
        metrics: what the names in the column `metric` mean.

    Raises:
        ArgumentError: if the frame lacks a column, has no rows, or has a row twice.
        UnknownNameError: if the frame names a metric that `metrics` lacks.
    """
    from jinja2 import Environment, StrictUndefined

    table = read(frame, metrics)
    named = metrics_of(table, metrics)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    source = resources.files("sdekit.experiments").joinpath("templates/report.html.j2").read_text(encoding="utf-8")
    page = environment.from_string(source).render(
        models=list(table["model"].unique()),
        solvers=list(table["solver"].unique()),
        budgets=[_budget(b) for b in sorted(table["budget"].dropna().unique())],
        metrics=named,
        overviews=list(_overviews(table, named)),
        headings=SORTABLE,
        words=_WORDS,
        rows=[_full_row(row) for row in table.to_dict("records")],
        plots={caption: _data_uri("image/svg+xml", _svg(figure)) for caption, figure in plots.items()},
        sheets={caption: (_data_uri("image/png", _png(image)), image.size) for caption, image in sheets.items()},
        settings=list(_flattened(settings)),
        versions=dict(versions),
        csv=_data_uri("text/csv", frame.to_csv(index=False).encode()),
    )
    path = Path(folder) / REPORT_NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
    return path


def print_table(frame: pd.DataFrame, console: Console, metrics: Sequence[type[Metric]] = BUILT_IN) -> None:
    """Print the comparison, a table a model and metric: solver, NFE counted, error, its interval, floor, seconds.

    A star marks the lowest error at each budget and those whose interval meets its interval. 80 columns hold it for
    solver names of up to 24 letters. Away from a terminal it is plain text: words, spaces and no styles.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    rich_text = console.is_terminal
    table = read(frame, metrics)
    for metric in metrics_of(table, metrics):
        for model in table["model"].unique():
            rows = table[(table["model"] == model) & (table["metric"] == metric.name)]
            if not len(rows):
                continue
            shown = Table(
                box=box.SIMPLE_HEAD if rich_text else None,
                header_style="bold" if rich_text else "",
                padding=(0, 1),
                pad_edge=False,
            )
            for heading in ("solver", "kind", "NFE", "error", "", "95 % interval", "floor", "seconds"):
                right = heading in ("NFE", "error", "seconds")
                shown.add_column(heading, justify="right" if right else "left", no_wrap=True)
            for row in rows.to_dict("records"):
                cell = _cell(row)
                style = "bold" if cell.near_best and rich_text else ""
                shown.add_row(
                    Text(str(row["solver"]), style=style),
                    str(row["kind"]),
                    cell.nfe,
                    Text(cell.value, style=style),
                    "*" if cell.near_best else "",
                    Text(cell.interval),
                    "at floor" if cell.at_floor else "",
                    _number(row["seconds"]),
                )
            title = Text(f"{model}: {metric.title}, {_direction(metric)}; {_floor_text(rows)}")
            title.stylize("bold" if rich_text else "")
            console.print(title)
            console.print(shown)
            console.print()
    console.print(
        "*  the best at its budget, or not separated from it by their 95 % intervals\n"
        "at floor  the interval meets what exact draws score: no error can be told from none",
        markup=False,
        highlight=False,
    )


# The page's contents -------------------------------------------------------------------------------------------------


def _overviews(table: pd.DataFrame, metrics: Sequence[type[Metric]]) -> Iterator[Overview]:
    for metric in metrics:
        for model in table["model"].unique():
            rows = table[(table["model"] == model) & (table["metric"] == metric.name)]
            if not len(rows):
                continue
            # NaN (a solver that chooses its own NFE) comes last, once.
            budgets = sorted(rows["budget"].dropna().unique())
            own = [math.nan] if bool(rows["budget"].isna().any()) else []
            lines = []
            for solver in rows["solver"].unique():
                of_solver = rows[rows["solver"] == solver].to_dict("records")
                cells = [_cells_at(of_solver, budget) for budget in [*budgets, *own]]
                lines.append((str(solver), str(of_solver[0]["kind"]), cells))
            yield Overview(str(model), metric, [_budget(b) for b in [*budgets, *own]], lines, _floor_text(rows))


def _cells_at(rows: Sequence[Mapping[Any, Any]], budget: float) -> list[Cell]:
    """The cells of one solver at a budget; NaN asks for those without one."""
    return [_cell(row) for row in rows if row["budget"] == budget or (math.isnan(row["budget"]) and math.isnan(budget))]


def _cell(row: Mapping[Any, Any]) -> Cell:
    failed = math.isnan(row["value"])
    known = not (math.isnan(row["low"]) or math.isnan(row["high"]))
    return Cell(
        value="failed" if failed else _number(row["value"]),
        interval=f"[{_number(row['low'])}, {_number(row['high'])}]" if known and not failed else "no interval",
        nfe=_count(row["nfe"]),
        at_floor=bool(row["at_floor"]),
        near_best=bool(row["near_best"]),
        failed=failed,
    )


def _full_row(row: Mapping[Any, Any]) -> list[tuple[str, str]]:
    """Each column of `SORTABLE` as (exact value to sort by, text to show)."""
    cells = []
    for name, _ in SORTABLE:
        if name in _WORDS:
            cells.append((str(row[name]), str(row[name])))
        elif math.isnan(row[name]):
            cells.append(("", "\u2013"))
        else:
            exact = repr(float(row[name]))
            cells.append((exact, _count(row[name]) if name in ("budget", "nfe") else _number(row[name])))
    return cells


def _floor_text(rows: pd.DataFrame) -> str:
    """The floor of these rows in words; the widest, where they differ."""
    low, high = rows["floor_low"].min(), rows["floor_high"].max()
    if math.isnan(low) or math.isnan(high):
        return "no noise floor"
    return f"noise floor [{_number(low)}, {_number(high)}]"


def _direction(metric: type[Metric]) -> str:
    if metric.signed:
        return "closer to 0 is better"
    return "lower is better" if metric.lower_is_better else "higher is better"


def _budget(value: float) -> str:
    return "own" if math.isnan(value) else _count(value)


def _count(value: float) -> str:
    """A number of evaluations: whole, or a mean over samples to one decimal."""
    if math.isnan(value):
        return "\u2013"
    return f"{value:.0f}" if float(value).is_integer() else f"{value:.1f}"


def _number(value: float) -> str:
    """Three significant digits; powers of ten outside [0.0001, 10000)."""
    if math.isnan(value):
        return "\u2013"
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if 1e-4 <= abs(value) < 1e4:
        return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"
    return f"{value:.2e}"


def _flattened(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """(dotted name, value as text) for every leaf of nested settings."""
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _flattened(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value if isinstance(value, str) else json.dumps(value, default=str)


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _svg(figure: Figure) -> bytes:
    """The figure as SVG, letters as outlines, without a date and with fixed ids: equal figures give equal bytes."""
    import matplotlib

    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "sdekit", "svg.fonttype": "path"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
