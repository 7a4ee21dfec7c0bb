"""scipy's adaptive ODE solvers behind the solver contract."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from sdekit._tensors import check_positive, check_positive_integer
from sdekit.dynamics import ProbabilityFlow
from sdekit.errors import ArgumentError, NonFiniteError, UnknownNameError
from sdekit.solvers.base import AdaptiveSolver, Observers, Problem
from sdekit.solvers.progress import progress_bar
from sdekit.solvers.solution import Solution, Status, first_bad_samples

__all__ = ["METHODS", "ScipyODE"]

METHODS = ("RK45", "RK23", "DOP853", "LSODA", "Radau", "BDF")
# LSODA and BDF vary theirs.
_ORDERS = {"RK45": 5.0, "RK23": 3.0, "DOP853": 8.0, "Radau": 5.0}


@final
@dataclass(frozen=True, repr=False)
class ScipyODE(AdaptiveSolver):
    r"""A method of scipy.integrate on the flattened state, in float64, in either direction of time.

    The model is evaluated in the state's own dtype. The error norm is scipy's: the root mean square over *all* entries
    of the state it is given, so a batch shares its steps (`couples_batch`); per_sample=True solves each sample on its
    own, which costs as many solves and makes a sample's result independent of its batch.

    Args:
        method: RK45, RK23, DOP853, LSODA, Radau or BDF.
        rtol: relative tolerance of a step.
        atol: absolute tolerance of a step.
        max_nfe: the evaluations allowed, never exceeded; a solve that would need more ends with status "max_nfe" where
            its last whole step did. No limit unless given.
        per_sample: solve sample by sample.

    Virtanen et al. 2020, doi 10.1038/s41592-019-0686-2.
    """

    method: str = "RK45"
    rtol: float = 1e-5
    atol: float = 1e-5
    max_nfe: int | None = None
    per_sample: bool = False

    kind = "bridge"
    reference = "Virtanen et al. 2020, doi 10.1038/s41592-019-0686-2"

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UnknownNameError("scipy method", self.method, METHODS)
        check_positive("rtol", self.rtol)
        check_positive("atol", self.atol)
        if self.max_nfe is not None:
            check_positive_integer("max_nfe", self.max_nfe)

    @property
    def stochastic(self) -> bool:
        return False

    @property
    def order(self) -> float | None:  # type: ignore[override]
        return _ORDERS.get(self.method)

    @property
    def couples_batch(self) -> bool:
        return not self.per_sample

    @property
    def name(self) -> str:
        return f"scipy:{self.method}"

    def integrate(self, problem: Problem, observers: Observers | None = None) -> Solution:
        self.check(problem.dynamics)
        _check_ends(problem)
        watch = observers or Observers()
        if not self.per_sample:
            return self._solve(problem, watch)
        batch = problem.x.shape[0]
        counted = problem.dynamics.counted()
        parts = []
        for i in range(batch):
            one = Problem(
                counted.rows(slice(i, i + 1), tuple(problem.x.shape)),
                problem.x[i : i + 1],
                problem.times,
                problem.noise,
            )
            parts.append(self._solve(one, watch, i))
        statuses = [p.status for p in parts]
        # Samples that were stopped early have kept fewer times: the trajectory has those that all of them reached.
        kept = [p.trajectory for p in parts if p.trajectory is not None]
        reached = min(map(len, kept), default=0)
        worst: Status = next((s for s in statuses if s != "success"), "success")
        end = float(problem.times[-1])
        return Solution(
            x=torch.cat([p.x for p in parts]),
            t=max((p.t for p in parts), key=lambda t: abs(t - end)),
            nfe=torch.tensor([int(p.nfe) for p in parts], device="cpu"),
            status=worst,
            times=problem.times,
            trajectory=torch.cat([k[:reached] for k in kept], dim=1) if kept else None,
            trajectory_times=problem.times[:reached] if kept else None,
            stats={"steps": [p.stats["steps"] for p in parts], "status": statuses},
        )

    def _solve(self, problem: Problem, watch: Observers, first: int = 0) -> Solution:
        """One solve of all samples of `problem`; `first` is the index of the first of them in the user's batch."""
        import scipy.integrate

        dynamics, x0 = problem.dynamics.counted(), problem.x
        steps_done = 0

        def derivative(t: float, y: np.ndarray) -> np.ndarray:
            if self.max_nfe is not None and dynamics.counter.calls >= self.max_nfe:
                raise _Exhausted
            x = torch.from_numpy(y).to(device=x0.device, dtype=x0.dtype).reshape(x0.shape)
            with torch.no_grad():
                dx = dynamics.drift(x, torch.tensor(t, dtype=torch.float64, device=x0.device))
            # A copy: scipy keeps it, and a network may give the same buffer again at its next call.
            flat: np.ndarray = dx.detach().to(device="cpu", dtype=torch.float64, copy=True).reshape(-1).numpy()
            if not np.isfinite(flat).all():
                raise NonFiniteError(self.name, steps_done + 1, t, [first + i for i in first_bad_samples(dx)])
            return flat

        times = problem.times.tolist()
        start, end = times[0], times[-1]
        make: Any = getattr(scipy.integrate, self.method)
        y0 = x0.detach().to(device="cpu", dtype=torch.float64).reshape(-1).numpy().copy()
        structure = _jacobian_structure(self.method, x0.shape)
        status: Status = "success"
        reached, at = y0.copy(), start
        kept = [y0] if watch.trajectory else []
        wanted = times[1:]
        with progress_bar(watch.progress, total=1.0, name=self.name, unit="T") as bar, suppress(_Exhausted):
            status = "max_nfe"  # what it is if one of these calls is refused an evaluation
            solver = make(derivative, start, y0, end, rtol=self.rtol, atol=self.atol, **structure)
            while solver.status == "running":
                solver.step()
                if solver.status == "failed":
                    break
                steps_done += 1
                reached, at = solver.y.copy(), float(solver.t)
                bar.update(abs(at - start) / abs(end - start) - bar.n)
                if watch.trajectory:
                    inside = None
                    while wanted and (wanted[0] - at) * solver.direction <= 0:
                        if wanted[0] == at:
                            kept.append(reached)
                        else:
                            inside = inside or solver.dense_output()
                            kept.append(inside(wanted[0]))
                        wanted.pop(0)
            status = "failed" if solver.status == "failed" else "success"

        def state(y: np.ndarray) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(y)).to(device=x0.device, dtype=x0.dtype).reshape(x0.shape)

        return Solution(
            x=state(reached),
            t=at,
            nfe=dynamics.counter.calls,
            status=status,
            times=problem.times,
            trajectory=torch.stack([state(y) for y in kept]) if kept else None,
            trajectory_times=problem.times[: len(kept)] if kept else None,
            stats={"steps": steps_done},
        )


class _Exhausted(Exception):
    """All the evaluations allowed are made."""


def _check_ends(problem: Problem) -> None:
    """Raise ArgumentError if the flow of a model starts or ends where its velocity is infinite."""
    if not isinstance(problem.dynamics, ProbabilityFlow):
        return
    model = problem.dynamics.model
    for t in (float(problem.times[0]), float(problem.times[-1])):
        if not math.isfinite(float(model.sde.sigma_rate(t))):
            raise ArgumentError(
                f"the probability flow of {model.sde!r} in t has an infinite velocity at t = {t:g}, where an adaptive "
                f"solver would evaluate it; stop short of it, at {model.sde.t_min or 1e-5:g} for example, or take a "
                "fixed-step solver such as 'heun', which ends there in one exact step."
            )


def _jacobian_structure(method: str, shape: torch.Size) -> dict[str, Any]:
    """What an implicit method may know: samples do not mix, so the batch's Jacobian is block-diagonal.

    With it a Jacobian costs as many evaluations as one sample has entries, not as the batch has.
    """
    batch, d = shape[0], math.prod(shape[1:])
    if batch == 1 or method not in ("Radau", "BDF", "LSODA"):
        return {}
    if method == "LSODA":
        return {"lband": d - 1, "uband": d - 1}
    import scipy.sparse

    return {"jac_sparsity": scipy.sparse.kron(scipy.sparse.identity(batch), np.ones((d, d)), format="csc")}
