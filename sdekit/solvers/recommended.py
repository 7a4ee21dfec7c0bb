"""The settings that are best at a budget: one name and grid for a number of evaluations, the same on every target."""

from __future__ import annotations

import math
from typing import Any

from sdekit._tensors import check_positive_integer
from sdekit.errors import ArgumentError
from sdekit.grids.fitted import below_ten, noisy_stop_level, stop_level

__all__ = ["recommended"]


def recommended(nfe: int, stochastic: bool = False) -> dict[str, Any]:
    """Keyword arguments for `sample` that spend `nfe` evaluations best: solver, steps, grid, end and options.

        sk.sample(model, 16, seed=0, **sk.solvers.recommended(20))

    They were found on random mixtures and confirmed on others and on the trained digits network; the figures, and how
    they were found, are in docs/adams.md. They are the same for every SDE: all is said in sigma/alpha.

    Args:
        nfe: the evaluations to spend, exactly.
        stochastic: a sampler of the reverse SDE instead of the probability flow.

    Raises:
        ArgumentError: if nfe is not a positive integer, or stochastic is neither True nor False.
    """
    check_positive_integer("nfe", nfe)
    if not isinstance(stochastic, bool):
        raise ArgumentError(f"stochastic must be True or False, got {stochastic!r}.")
    return _stochastic(nfe) if stochastic else _deterministic(nfe)


def _deterministic(nfe: int) -> dict[str, Any]:
    return {
        "solver": "adams",
        "steps": nfe,
        "grid": "fitted",
        "t_end": 0.0,
        "representation": "velocity",
        "clock": "theta",
        "predictor": 4 if nfe > 15 else 3,
        "corrector": 4 if nfe > 15 else 3,
        "damping": 6 / nfe,
        "relief": min(1.0, max(0.0, (nfe - 15) / 10)),
        "cautious_above": 5.0,
        "last": 3,
        "hold": stop_level(nfe) if nfe <= 10 else 0.0,
    }


def _stochastic(nfe: int) -> dict[str, Any]:
    few, k = below_ten(nfe), min(1.0, 10 / nfe)
    if nfe < 10:
        tau2 = 0.25 - 0.15 * few
    elif nfe <= 20:
        tau2 = 0.25 - 0.01 * (nfe - 10)
    else:
        tau2 = min(1.0, 0.15 * (nfe / 20) ** 1.5)
    return {
        "solver": "adams",
        "steps": nfe,
        "grid": "vp_power",
        "t_end": 0.0,
        "representation": "velocity",
        "clock": f"theta/{0.40 - 0.08 * k + 0.19 * few:.12g}",
        # Up to 3 steps are too long for more than one value; the step to 0 of many is long beside those before it.
        "predictor": 3 if nfe > 3 else 1,
        "corrector": 0,
        "last": 2 if nfe > 30 else 0,
        "tau": math.sqrt(tau2),
        "hold": noisy_stop_level(nfe),
    }
