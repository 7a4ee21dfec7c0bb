"""The estimators of log p beside the probability flow, by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

from torch import Tensor

from sdekit.errors import ArgumentError, UnknownNameError
from sdekit.grids import Grid
from sdekit.likelihood.ito import Ito
from sdekit.likelihood.prior import PriorKind
from sdekit.likelihood.settings import DEFAULT_SOLVER, make_nodes
from sdekit.likelihood.variational import VariationalBound
from sdekit.models.score import ScoreModel

__all__ = ["Estimator", "check_estimator", "make_estimator"]

Estimator = Literal["flow", "ito", "elbo"]


def check_estimator(estimator: object, repeats: int | None) -> Estimator:
    """`estimator`, one of the three.

    Raises:
        UnknownNameError: if it is not.
        ArgumentError: for `repeats` with another one than "ito".
    """
    if not isinstance(estimator, str) or estimator not in get_args(Estimator):
        raise UnknownNameError("estimator", estimator, get_args(Estimator))
    if repeats is not None and estimator != "ito":
        raise ArgumentError(f"repeats, the number of paths, goes with estimator='ito'; got estimator={estimator!r}.")
    return estimator  # type: ignore[return-value]


def make_estimator(
    estimator: Literal["ito", "elbo"],
    model: ScoreModel,
    span: tuple[float, float],
    prior: PriorKind,
    *,
    steps: int | None,
    grid: str | Grid | Sequence[float] | Tensor | None,
    repeats: int | None,
    progress: bool,
    of_flow: Mapping[str, object],
) -> Ito | VariationalBound:
    """The estimator of this name.

    Args:
        of_flow: arguments that only the flow takes; all must be None or False.

    Raises:
        ArgumentError: if one of them is given, or a number is out of range.
    """
    given = dict(of_flow) if estimator == "ito" else {**of_flow, "grid": grid}
    refused = [name for name, value in given.items() if value is not None and value is not False]
    if refused:
        raise ArgumentError(
            f"estimator={estimator!r} solves no flow and has no trace: it takes no {', '.join(sorted(refused))}. Its "
            f"arguments are steps, {'grid, repeats, ' if estimator == 'ito' else ''}prior and t_eps."
        )
    if estimator == "elbo":
        return VariationalBound(span, prior, 64 if steps is None else steps, progress)
    return Ito(make_nodes(model, DEFAULT_SOLVER, steps, grid, span), prior, 8 if repeats is None else repeats, progress)
