"""One claim, and what was measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from sdekit.experiments.verification.orders import Order

__all__ = ["Finding"]


@final
@dataclass(frozen=True)
class Finding:
    """One claim of one solver, and what was measured.

    Attributes:
        solver: its name.
        check: "order", "weak order", "strong order", "stationary order", "published formula", "limit", "tolerance",
            "rejection" or "finite".
        on: the problem.
        declared: the claim.
        measured: what was found; of a strong order on a plain SDE with its interval, "1.52 [1.49, 1.55]".
        passed: whether the claim holds.
        order: the errors behind a measured order.
    """

    solver: str
    check: str
    on: str
    declared: str
    measured: str
    passed: bool
    order: Order | None = None
