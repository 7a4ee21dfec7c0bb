"""Work-precision plots from the tidy table: error against NFE, and against seconds, with intervals and the noise floor.

The figures are matplotlib `Figure` objects of their own: nothing is drawn on, or left in, pyplot's global state.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sdekit.experiments.frame import metrics_of, read
from sdekit.experiments.metrics import BUILT_IN, Metric

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["error_against_nfe", "error_against_seconds"]

# Okabe and Ito (2008), distinguishable by colour-blind readers; its yellow, too faint on white, made a dark ochre, and
# a wine red put between. Markers are more, and a number prime to the colours, so that pairs repeat only after 88.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#882255", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h")
_DASHES = {"ode": "-", "sde": (0, (4, 2))}


def error_against_nfe(frame: pd.DataFrame, metrics: Sequence[type[Metric]] = BUILT_IN) -> Figure:
    """Error against the network evaluations counted, log-log: a column of panels a model, a row a metric.

    One line a solver, its confidence interval as a band, solid for an ODE and dashed for an SDE; the noise floor in
    grey. An estimate at or below 0, which a log axis cannot hold, is a hollow marker on the lower edge. A signed metric
    is drawn by its magnitude, hollow where it is below 0. Failed runs (NaN) are left out.

    Args:
        frame: the columns of `frame.COLUMNS`, one row a solver, budget and metric.
        metrics: what the names in the column `metric` mean.

    Raises:
        ArgumentError: if a column is missing, or a row is there twice.
        UnknownNameError: if the frame names a metric that `metrics` lacks.
    """
    return _draw(frame, metrics, "nfe", "network evaluations (NFE, counted)")


def error_against_seconds(frame: pd.DataFrame, metrics: Sequence[type[Metric]] = BUILT_IN) -> Figure:
    """Error against wall-clock seconds, otherwise as `error_against_nfe`: the work-precision diagram of one machine."""
    return _draw(frame, metrics, "seconds", "seconds")


def _draw(frame: pd.DataFrame, metrics: Sequence[type[Metric]], x: str, x_label: str) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    table = read(frame, metrics)
    models, named = list(table["model"].unique()), metrics_of(table, metrics)
    solvers = list(table["solver"].unique())
    figure = Figure(figsize=(4.7 * len(models) + 2.3, 3.9 * len(named) + 0.3), layout="constrained", dpi=120)
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(named), len(models), squeeze=False, sharex="col", sharey="row")
    handles: dict[str, Any] = {}
    for column, model in enumerate(models):
        # Set and not found: a column with one place only has limits that differ by rounding, which divides by zero.
        places = table.loc[(table["model"] == model) & table["value"].notna(), x]
        if len(places):
            pad = max((places.max() / places.min()) ** 0.05, 1.2)
            panels[0, column].set(xscale="log", xlim=(places.min() / pad, places.max() * pad))
    for row, metric in enumerate(named):
        of_metric = table[table["metric"] == metric.name]
        bottom = _lower_edge(of_metric)
        for column, model in enumerate(models):
            panel = panels[row, column]
            rows = of_metric[of_metric["model"] == model]
            if not len(rows):
                panel.set_axis_off()
                continue
            handles |= _panel(panel, rows, x, bottom, solvers)
            panel.set_title(f"{model}: {metric.title}", fontsize=10)
            panel.set_ylabel(f"|{metric.title}|" if metric.signed else metric.title)
        # Only now: fixing one end of a shared axis stops it from growing with the panels still to come.
        panels[row, 0].set_ylim(bottom=bottom / 1.6)
    for column in panels.T:
        lowest = [panel for panel in column if panel.axison][-1]
        lowest.set_xlabel(x_label)
        lowest.tick_params(labelbottom=True)
        _plain_ticks(lowest)
    for row in panels:
        first = next(panel for panel in row if panel.axison)
        first.tick_params(labelleft=True)
    notes = [label for label in handles if label not in solvers]
    handles = {label: handles[label] for label in [s for s in solvers if s in handles] + notes}
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="outside right upper",
        frameon=False,
        fontsize=9,
        title="solid: ODE, dashed: SDE",
        alignment="left",
        handlelength=3,
        ncols=1 + len(handles) // (16 * len(named)),
    )
    return figure


def _lower_edge(rows: pd.DataFrame) -> float:
    """The least error that the log axis shows: the least positive one, or where there is a floor, within it.

    The edge is at most a third of the floor's top, so that an estimate below 0 is drawn inside the floor, and at least
    a thirtieth of it, since how far below the floor an estimate falls says nothing.
    """
    errors = rows.loc[rows["size"] > 0, "size"]
    tops = rows.loc[rows["size_floor_high"] > 0, "size_floor_high"]
    least = float(errors.min()) if len(errors) else 1.0
    return min(max(least, float(tops.min()) / 30), float(tops.min()) / 3) if len(tops) else least


def _panel(panel: Axes, rows: pd.DataFrame, x: str, bottom: float, solvers: list[str]) -> dict[str, Any]:
    """Draw one model's rows for one metric; the legend's handles by label."""
    handles: dict[str, Any] = {}
    hollow: Any = None
    panel.set(xscale="log", yscale="log")
    for solver, group in rows[rows["value"].notna()].groupby("solver", sort=False):
        line = group.sort_values(x)
        k = solvers.index(str(solver))
        colour, marker = _COLOURS[k % len(_COLOURS)], _MARKERS[k % len(_MARKERS)]
        height = line["size"].clip(lower=bottom)
        style: dict[str, Any] = {"color": colour, "linestyle": _DASHES[line["kind"].iloc[0]], "linewidth": 1.4}
        panel.plot(line[x], height, zorder=3, **style)
        solid = (line["value"] > 0) & (line["size"] >= bottom)
        dots: dict[str, Any] = {"color": colour, "marker": marker, "markersize": 5, "linestyle": ""}
        panel.plot(line[x][solid], height[solid], zorder=4, **dots)
        panel.plot(line[x][~solid], height[~solid], markerfacecolor="white", zorder=4, **dots)
        low, high = line["size_low"].clip(lower=bottom), line["size_high"].clip(lower=bottom)
        panel.fill_between(line[x], low, high, color=colour, alpha=0.15, linewidth=0, zorder=2)
        # A band has no width at a single point, and little at an end: bars say the same there.
        panel.vlines(line[x], low, high, color=colour, alpha=0.5, linewidth=1, zorder=2)
        handles[str(solver)] = panel.plot([], [], marker=marker, markersize=5, **style)[0]
        if not solid.all():
            hollow = panel.plot([], [], marker="o", color="0.3", markerfacecolor="white", linestyle="", markersize=5)[0]
    top = rows["size_floor_high"].max()
    if top > 0:
        band = panel.axhspan(
            max(bottom / 2, float(rows["size_floor_low"].min())), top, color="0.6", alpha=0.3, zorder=1
        )
        handles["noise floor (exact draws, 95 %)"] = band
    if hollow is not None:
        handles["hollow: below 0 (or below the axis)"] = hollow
    panel.grid(True, which="major", color="0.9", linewidth=0.8, zorder=0)
    panel.spines[["top", "right"]].set_visible(False)
    return handles


def _plain_ticks(panel: Axes) -> None:
    """Tick 1, 2, 5, 10, … in plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panel.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    panel.xaxis.set_minor_formatter(NullFormatter())
