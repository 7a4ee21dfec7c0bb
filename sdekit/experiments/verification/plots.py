"""The picture of `verify`: error against steps, a panel a solver."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from sdekit.experiments.verification.run import Finding

__all__ = ["orders_figure"]

_STYLES = {
    ("order", "Gaussian"): ("#0072B2", "o", "order, Gaussian"),
    ("order", "mixture"): ("#D55E00", "s", "order, mixture"),
    ("weak order", "Gaussian"): ("#009E73", "^", "weak order, Gaussian"),
    ("strong order", "one Brownian path"): ("#CC79A7", "D", "strong order, Gaussian"),
    ("order", "logistic"): ("#56B4E9", "v", "order, logistic"),
    ("strong order", "OU"): ("#000000", "x", "strong order, OU"),
    ("strong order", "double well"): ("#999999", "+", "strong order, double well"),
    ("strong order", "arctan of OU"): ("#E69F00", "P", "strong order, arctan of OU (diagonal)"),
    ("strong order", "commuting matrices"): ("#882255", "p", "strong order, commuting matrices"),
    ("strong order", "noncommutative"): ("#AA4499", "*", "strong order, noncommutative"),
    ("weak order", "circle"): ("#44AA99", "<", "weak order, circle"),
    ("strong order", "Langevin"): ("#000000", "x", "strong order, Langevin"),
    ("stationary order", "Langevin"): ("#44AA99", "<", "stationary order, Langevin"),
}
_COLUMNS = 8


def _style(finding: Finding) -> tuple[str, str, str] | None:
    """Colour, marker and label: those of its problem, whatever is said of it after a comma."""
    return _STYLES.get((finding.check, finding.on.partition(",")[0]))


def orders_figure(findings: Sequence[Finding]) -> Figure:
    """One log-log panel for each solver with a declared order; the declared slope is dashed through the last point."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn = [f for f in findings if f.order is not None and _style(f) is not None]
    names = list(dict.fromkeys(f.solver for f in drawn))
    columns = min(_COLUMNS, max(1, len(names)))
    rows = max(1, math.ceil(len(names) / columns))
    figure = Figure(figsize=(2.3 * columns, 1.9 * rows + 0.5), layout="constrained", dpi=110)
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, columns, squeeze=False)
    handles = {}
    for panel, name in zip(panels.flat, names, strict=False):
        panel.set_title(name, fontsize=8)
        ticks: set[int] = set()
        for f in drawn:
            style = _style(f)
            if f.solver != name or f.order is None or style is None:
                continue
            colour, marker, label = style
            counts, errors = list(f.order.counts), [max(e, 1e-16) for e in f.order.errors]
            (handles[label],) = panel.loglog(counts, errors, color=colour, marker=marker, markersize=3, linewidth=1)
            slope = float(f.declared)
            ticks.update(counts)
            guide = [errors[-1] * (counts[-1] / n) ** slope for n in counts]
            panel.loglog(counts, guide, color=colour, linestyle="--", linewidth=0.7)
        panel.minorticks_off()
        panel.set_xticks(sorted(ticks), [str(n) for n in sorted(ticks)])
        panel.tick_params(labelsize=6)
    for panel in list(panels.flat)[len(names) :]:
        panel.set_axis_off()
    figure.supxlabel("steps", fontsize=8)
    figure.supylabel("error (dashed: the declared order)", fontsize=8)
    if handles:
        figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=4, fontsize=8, frameon=False)
    return figure
