"""The tidy table of a comparison: its columns, and what may be read off them.

One row is one solver at one budget on one model, by one metric.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sdekit.errors import ArgumentError, UnknownNameError
from sdekit.experiments.metrics import BUILT_IN, Metric

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["COLUMNS", "check_frame", "metrics_of", "read"]

COLUMNS = (
    "model",
    "solver",
    "kind",
    "nfe",
    "metric",
    "value",
    "low",
    "high",
    "floor_low",
    "floor_high",
    "seconds",
)
"""model, solver: names. kind: "ode" or "sde". nfe: network evaluations counted. metric: its name. value: the error; NaN
for a run that failed. low, high: its confidence interval; NaN where there is none. floor_low, floor_high: the metric
between exact sets; NaN where there is no floor. seconds: wall-clock time. A column `budget`, the NFE asked for (NaN for
a solver that chooses its own), may stand beside them; without it the counted NFE is the budget."""


def check_frame(frame: pd.DataFrame) -> None:
    """Raise an ArgumentError unless the frame has the columns of `COLUMNS`, a row at least, and no cell twice."""
    missing = [name for name in COLUMNS if name not in frame.columns]
    if missing:
        raise ArgumentError(f"the table lacks the column(s) {', '.join(missing)}; it needs {', '.join(COLUMNS)}.")
    if len(frame) == 0:
        raise ArgumentError("the table has no rows; a report needs one solver at one budget at least.")
    wrong = sorted({str(kind) for kind in frame["kind"]} - {"ode", "sde"})
    if wrong:
        raise ArgumentError(f"kind must be 'ode' or 'sde', got {', '.join(map(repr, wrong))}.")
    key = [name for name in ("model", "metric", "solver", "budget", "nfe") if name in frame.columns]
    twice = frame[frame.duplicated(key)]
    if len(twice):
        row = ", ".join(f"{name}={twice.iloc[0][name]!r}" for name in key)
        raise ArgumentError(f"two rows for {row}; average over seeds first: one row a solver, budget and metric.")


def metrics_of(frame: pd.DataFrame, metrics: Sequence[type[Metric]] = BUILT_IN) -> list[type[Metric]]:
    """The metrics that the frame names, in the frame's order; an UnknownNameError if `metrics` lacks one."""
    known = {metric.name: metric for metric in metrics}
    for name in frame["metric"].unique():
        if name not in known:
            raise UnknownNameError("metric", name, known)
    return [known[name] for name in frame["metric"].unique()]


def read(frame: pd.DataFrame, metrics: Sequence[type[Metric]] = BUILT_IN) -> pd.DataFrame:
    """The frame with what a reader wants to know of each row, in new columns.

    - `budget`: the column of that name, or the NFE counted;
    - `size`, `size_low`, `size_high`, `size_floor_low`, `size_floor_high`: the error, its interval and its floor; for a
      signed metric, their magnitudes (an interval that holds 0 has a magnitude from 0);
    - `at_floor`: whether the interval meets the floor, so that the error cannot be told from none;
    - `near_best`: whether the interval meets that of the best value at this model, metric and budget; never for a
      solver that chooses its own NFE, which has no peers.

    Where there is no interval the value stands for it. A failed run (a NaN value) is neither at the floor nor best.
    """
    import numpy as np

    check_frame(frame)
    out = frame.reset_index(drop=True)
    if "budget" not in out.columns:
        out["budget"] = out["nfe"]
    signed = out["metric"].isin([m.name for m in metrics_of(out, metrics) if m.signed])
    higher = out["metric"].isin([m.name for m in metrics_of(out, metrics) if not m.lower_is_better])

    def magnitude(low: pd.Series, high: pd.Series) -> tuple[pd.Series, pd.Series]:
        nearest = np.maximum(np.maximum(low, -high), 0.0)
        return low.mask(signed, nearest), high.mask(signed, np.maximum(-low, high))

    out["size"] = out["value"].mask(signed, out["value"].abs())
    out["size_low"], out["size_high"] = magnitude(out["low"], out["high"])
    out["size_floor_low"], out["size_floor_high"] = magnitude(out["floor_low"], out["floor_high"])
    low, high = out["size_low"].fillna(out["size"]), out["size_high"].fillna(out["size"])
    out["at_floor"] = np.where(higher, high >= out["size_floor_low"], low <= out["size_floor_high"])

    out["near_best"] = False
    for _, rows in out[out["value"].notna()].groupby(["model", "metric", "budget"]):
        here_low, here_high = low[rows.index], high[rows.index]
        if bool(higher[rows.index[0]]):
            near = here_high >= here_low.iloc[int(rows["size"].argmax())]
        else:
            near = here_low <= here_high.iloc[int(rows["size"].argmin())]
        out.loc[rows.index, "near_best"] = near
    return out
