"""What a solve returns, and the state it can be resumed from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from sdekit.solvers.dense import DenseOutput

__all__ = ["Solution", "SolveState", "Status"]

Status = Literal["success", "stopped", "max_nfe", "min_step", "event", "failed"]


@dataclass(frozen=True)
class SolveState:
    """Where a fixed-step solve stands after `step` steps: a plain value that can be saved and loaded.

    Attributes:
        x: the state, (B, *).
        step: steps done.
        t: the time reached.
        registers: the solver's own tensors (past evaluations, an evaluation point), by name.
        noise_positions: draws taken from each noise stream.
        nfe: evaluations counted so far.
        solver: the solver that stands here, with its options, as its `repr` writes it.
        dynamics: what is solved, as text: the SDE, the prediction, the sample's shape; not the network's weights.
        noise: the seed or seeds of the draws, as text; "" where none are taken, or they come from elsewhere.
        start: two numbers by which the start of the solve is known again.

    The last four are compared, where they are known, when the solve goes on.
    """

    x: Tensor
    step: int
    t: float
    registers: dict[str, Tensor] = field(default_factory=dict)
    noise_positions: tuple[int, ...] = ()
    nfe: int = 0
    solver: str = ""
    dynamics: str = ""
    noise: str = ""
    start: tuple[float, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Tensors and plain values only: fit for `torch.save` and for loading with `weights_only=True`."""
        return {
            "x": self.x,
            "step": self.step,
            "t": self.t,
            "registers": dict(self.registers),
            "noise_positions": list(self.noise_positions),
            "nfe": self.nfe,
            "solver": self.solver,
            "dynamics": self.dynamics,
            "noise": self.noise,
            "start": list(self.start),
        }

    @staticmethod
    def from_dict(values: dict[str, Any]) -> SolveState:
        """The inverse of `to_dict`."""
        tuples = {name: tuple(values.get(name, ())) for name in ("noise_positions", "start")}
        return SolveState(**{**values, **tuples})


@dataclass(frozen=True)
class Solution:
    """The result of a solve.

    Attributes:
        x: the end state, (B, *).
        t: the time reached.
        nfe: network (or drift) evaluations, counted at the call; an int, or (B,) where samples differ.
        status: "success"; "stopped" by a callback or at `stop`; "max_nfe", "min_step" or "failed" for an adaptive
            solver; "event" where some sample has stopped at an event and none has failed (`stats["status"]` tells).
        times: the grid that was used, float64 (N + 1,); for an adaptive solver its first and last time.
        trajectory: the states at `trajectory_times`, (K, B, *), if a trajectory was asked for.
        trajectory_times: float64 (K,); or (K, B) where every step of an adaptive solve was kept, as each sample has its
            own. A sample that has fewer than others stays where it ended.
        stats: what the solver counted besides (rejected steps, …).
        state: what `resume=` takes, for a fixed-step solver.
        event_times: where each sample stopped at the event asked for, float64 (B,), NaN for those that did not.
        dense: the solution at any time of the solve, if asked for: dense(t) is (B, *), or (K, B, *) for K times.
    """

    x: Tensor
    t: float
    nfe: int | Tensor
    status: Status
    times: Tensor
    trajectory: Tensor | None = None
    trajectory_times: Tensor | None = None
    stats: dict[str, Any] = field(default_factory=dict)
    state: SolveState | None = None
    dense: DenseOutput | None = None
    event_times: Tensor | None = None

    def __repr__(self) -> str:
        nfe = self.nfe if isinstance(self.nfe, int) else f"{int(self.nfe.min())} to {int(self.nfe.max())}"
        shape = tuple(self.x.shape)
        return f"Solution(x: {shape} {self.x.dtype}, t={self.t:g}, nfe={nfe}, status={self.status!r})"


def first_bad_samples(x: Tensor) -> list[int]:
    """Indices of the samples of x, (B, *), that hold a non-finite value."""
    bad = ~torch.isfinite(x.reshape(x.shape[0], -1)).all(dim=1)
    return [int(i) for i in bad.nonzero().flatten()]
