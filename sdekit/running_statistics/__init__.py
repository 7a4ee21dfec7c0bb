"""Statistics over an ensemble too large to keep: fed in chunks, merged across workers, saved and resumed.

Means and variances follow Welford (1962) and Chan, Golub & LeVeque (1979). Quantiles come from a sketch that knows a
bound on its own error.
"""

from __future__ import annotations

from sdekit.running_statistics.moments import Welford
from sdekit.running_statistics.quantile_sketch import QuantileSketch
from sdekit.running_statistics.statistics import RunningStatistics

__all__ = ["QuantileSketch", "RunningStatistics", "Welford"]
