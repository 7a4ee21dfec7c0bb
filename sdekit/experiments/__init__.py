"""Experiments: comparisons of samplers, their metrics, statistics, plots and reports."""

from sdekit.experiments.compare import Loop, Report, compare

__all__ = ["Loop", "Report", "compare"]
