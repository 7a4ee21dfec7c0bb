r"""What a table does, seen without a network: exactly on Gaussians, and against its own steps.

On data N(m, s^2) every table is affine in its state and draws, so that the mean and variance of its end are exact.
Their error against the data's scale s shows where the table is stable and where it is wrong; against the number of
steps, its order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from sdekit.experiments.verification.orders import Impulses, gaussian_moments
from sdekit.grids import Grid
from sdekit.models import ScoreModel
from sdekit.sampling import sample
from sdekit.sdes import DiffusionSDE
from sdekit.solvers import FixedStepSolver, Tabulated, tabulate
from sdekit.targets import Gaussian

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["end_errors", "table_figure"]

SCALES = tuple(float(s) for s in torch.logspace(-3, 1, 41, dtype=torch.float64))


def end_errors(table: Tabulated, sde: DiffusionSDE, scales: Sequence[float] = SCALES) -> list[float]:
    """The relative error of the deviation at the end, for data N(0, s^2) of each scale s; the sign says which way."""
    start, end = table.times[0], table.times[-1]
    errors = []
    for scale in scales:
        model = Gaussian(torch.zeros(1), torch.full((1,), scale**2, dtype=torch.float64)).score_model(sde)

        def run(x: torch.Tensor, noise: Impulses, model: ScoreModel = model) -> torch.Tensor:
            return sample(model, None, table, x_T=x, noise=noise).x

        def variance(t: float, scale: float = scale) -> float:
            return float((sde.alpha(t) * scale).square() + sde.sigma(t).square())

        _, got = gaussian_moments(run, 0.0, variance(start))
        errors.append(math.sqrt(got / variance(end)) - 1)
    return errors


def table_figure(
    solver: FixedStepSolver, sde: DiffusionSDE, steps: int, grid: str | Grid | None = None, t_end: float | None = None
) -> Figure:
    """Two panels: the error of the end's deviation against the data's scale, and against the steps for s = 1/2.

    The first for `steps` and for its half and double: growth without bound at a scale is instability there.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained", dpi=120)
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for n in (max(1, steps // 2), steps, 2 * steps):
        errors = end_errors(tabulate(solver, sde, n, grid, t_end=t_end), sde)
        left.loglog(SCALES, [max(abs(e), 1e-16) for e in errors], label=f"{n} steps")
    left.set_xlabel("scale s of the data N(0, s²)")
    left.set_ylabel("relative error of the end's deviation")
    left.legend(frameon=False, fontsize=8)
    counts = [steps * 2**k for k in range(5)]
    by_steps = [abs(end_errors(tabulate(solver, sde, n, grid, t_end=t_end), sde, (0.5,))[0]) for n in counts]
    right.loglog(counts, [max(e, 1e-16) for e in by_steps], marker="o")
    right.set_xticks(counts, [str(n) for n in counts])
    right.minorticks_off()
    right.set_xlabel("steps (s = 1/2)")
    right.set_title(f"last slope {math.log2(by_steps[-2] / by_steps[-1]):.2f}" if min(by_steps[-2:]) > 0 else "exact")
    figure.suptitle(f"{solver!r} on {sde!r}", fontsize=9)
    return figure
