r"""One solve of the probability flow from the data to the noise, with the trace of its Jacobian at nodes on the way.

The path of the state does not depend on how the trace is had: no probe, and no error of a trace, moves it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor

from sdekit._tensors import is_finite
from sdekit.dynamics import Dynamics, ProbabilityFlow
from sdekit.errors import NonFiniteError
from sdekit.likelihood.defect import Defect
from sdekit.likelihood.flow import LogSigmaFlow
from sdekit.likelihood.traces import Jacobian, Traces
from sdekit.likelihood.traces.base import inner
from sdekit.models.predictions import conversion
from sdekit.models.score import ScoreModel
from sdekit.sampling import solve
from sdekit.sdes import DiffusionSDE
from sdekit.solvers.base import Solver, StepInfo
from sdekit.solvers.solution import Solution, Status, first_bad_samples

__all__ = ["Nodes", "Path", "walk"]


@final
@dataclass(frozen=True)
class Nodes:
    """Where the trace is had: `times` rise from t_eps to T, `u` is ln(sigma/alpha) there, both float64 (n,)."""

    times: Tensor
    u: Tensor

    @property
    def span(self) -> tuple[float, float]:
        """(t_eps, T)."""
        return float(self.times[0]), float(self.times[-1])

    def __len__(self) -> int:
        return len(self.times)


@final
@dataclass(frozen=True)
class Path:
    """What one solve gives.

    Attributes:
        latent: x at T, float64 (B, *).
        columns: K estimates of tr J_D at each node, float64 (n, K, B).
        truncation: log p at t_eps less log p at 0, to first order, (B,).
        defect: how far log p is off for the errors of the state, to first order (`Defect`), signed, (B,); 0 where an
            adaptive solver's steps are not those between nodes.
        nfe: evaluations; an int, or (B,) where samples differ.
        finished: which samples reached T, bool (B,).
        status: "success", or why an adaptive solver ended early.
    """

    latent: Tensor
    columns: Tensor
    truncation: Tensor
    defect: Tensor
    nfe: int | Tensor
    finished: Tensor
    status: Status


def walk(model: ScoreModel, x: Tensor, nodes: Nodes, solver: Solver, traces: Traces, progress: bool = False) -> Path:
    """Solve from x at the first node to the last. The state is float64; the network is called in the dtype of x.

    A fixed-step solver steps from node to node, and its first evaluation in each step is at the node: the trace comes
    from the same evaluation, and one more is made at the end. A solver that chooses its own steps goes first; the nodes
    are then evaluated at the states that it gives there.

    Raises:
        NonFiniteError: names solver, step and t.
    """
    # TableStepper and the steps of ODE methods evaluate first where the step starts; a multistep one only there.
    recorder = _Recorder(model, nodes, traces, x.dtype, solver.name)
    try:
        run = _two_passes if solver.adaptive else _one_pass
        return run(recorder, x, nodes, solver, progress)
    except NonFiniteError as error:
        if "score" in solver.needs or error.time in nodes.times:
            raise
        time = float(LogSigmaFlow(model, nodes.span).time(torch.tensor(error.time, dtype=torch.float64)))
        raise error.moved(time=time) from None


def _one_pass(recorder: _Recorder, x: Tensor, nodes: Nodes, solver: Solver, progress: bool) -> Path:
    model = recorder.watched()
    recorder.defect = Defect(nodes.u)

    def at_next_node(info: StepInfo) -> None:
        recorder.at_node = True

    moving, start, places, scale = _problem(model, x, nodes, solver)
    recorder.at_node = True
    solution = solve(moving, start, solver=solver, grid=places, callback=at_next_node, progress=progress)
    latent = scale * solution.x
    recorder.at_node = True
    model.noise(latent, nodes.span[1])
    everyone = torch.ones(len(x), dtype=torch.bool, device=x.device)
    return recorder.path(latent, solution.nfe + 1, everyone, "success")


def _two_passes(recorder: _Recorder, x: Tensor, nodes: Nodes, solver: Solver, progress: bool) -> Path:
    model, batch = recorder.casting(), len(x)

    def solved(rows: Tensor) -> Solution:
        moving, start, places, _ = _problem(model.rows(rows, batch), x[rows], nodes, solver)
        first, last = float(places[0]), float(places[-1])
        return solve(moving, start, t0=first, t1=last, solver=solver, save_at=places[1:-1], progress=progress)

    everyone = torch.arange(batch, device=x.device)
    solution = solved(everyone)
    finished = _finished(solution)
    _, start, _, scale = _problem(model, x, nodes, solver)
    if not bool(finished.any()):
        return recorder.nothing(scale * solution.x, solution.nfe, solution.status)
    rows = everyone[finished]
    # States are kept as far as all samples came: those that came to the end have theirs without the others.
    whole = solution if bool(finished.all()) else solved(rows)
    assert whole.trajectory is not None  # save_at was given
    watched = recorder.watched()
    for state, time in zip([start[rows], *whole.trajectory, whole.x], nodes.times.tolist(), strict=True):
        alpha = 1.0 if "score" in solver.needs else float(model.sde.alpha(time))  # that state is x, any other's is x~
        point = torch.zeros_like(start)
        point[rows] = alpha * state
        recorder.at_node = True
        watched.noise(point, time)
    return recorder.path(scale * solution.x, solution.nfe + len(nodes), finished, solution.status)


def _problem(model: ScoreModel, x: Tensor, nodes: Nodes, solver: Solver) -> tuple[Dynamics, Tensor, Tensor, float]:
    """Dynamics, start and places for the solver, and the factor from its state to x at the end."""
    if "score" in solver.needs:
        return ProbabilityFlow(model), x.double(), nodes.times, 1.0
    start, end = nodes.span
    return (
        LogSigmaFlow(model, nodes.span),
        x.double() / float(model.sde.alpha(start)),
        nodes.u,
        float(model.sde.alpha(end)),
    )


def _finished(solution: Solution) -> Tensor:
    """Which samples reached the end: bool (B,)."""
    each = solution.stats.get("status", solution.status)
    statuses = each if isinstance(each, list) else [each] * len(solution.x)
    return torch.tensor([status == "success" for status in statuses], device=solution.x.device)


@final
@dataclass
class _Recorder:
    """The model's network, evaluated in the dtype of x; `at_node` says that the next evaluation is at the next node."""

    model: ScoreModel
    nodes: Nodes
    traces: Traces
    dtype: torch.dtype
    solver: str
    at_node: bool = False
    found: list[Tensor] = field(default_factory=list)
    truncation: Tensor | None = None
    defect: Defect | None = None

    def watched(self) -> ScoreModel:
        """The model, whose evaluations at nodes are noted."""
        return self._with(self._evaluate)

    def casting(self) -> ScoreModel:
        """The model, for states in float64."""
        return self._with(self._cast)

    def path(self, latent: Tensor, nfe: int | Tensor, finished: Tensor, status: Status) -> Path:
        """What was found."""
        assert self.truncation is not None  # the first node was evaluated
        defect = torch.zeros_like(self.truncation) if self.defect is None else self.defect.total()
        return Path(latent, torch.stack(self.found), self.truncation, defect, nfe, finished, status)

    def nothing(self, latent: Tensor, nfe: int | Tensor, status: Status) -> Path:
        """What a solve gives that no sample finished."""
        batch, device = len(latent), latent.device
        none = torch.full((batch,), math.nan, dtype=torch.float64, device=device)
        columns = none.expand(len(self.nodes), self.traces.columns, batch)
        return Path(latent, columns, none, none, nfe, torch.zeros(batch, dtype=torch.bool, device=device), status)

    def _with(self, network: Callable[..., Tensor]) -> ScoreModel:
        return self.model.with_network(network, needs_autograd=True)

    def _cast(self, x: Tensor, label: Tensor, /, **condition: Any) -> Tensor:
        point = x.to(self.dtype)
        out = self.model.network(point, self._label(label), **condition)
        return self.model.checked(out, point).to(x.dtype)

    def _label(self, label: Tensor) -> Tensor:
        return label.to(self.dtype if self.dtype in (torch.float32, torch.float64) else torch.float32)

    def _evaluate(self, x: Tensor, label: Tensor, /, **condition: Any) -> Tensor:
        if not self.at_node:
            with torch.no_grad():
                return self._cast(x, label, **condition)
        self.at_node = False
        time = float(self.nodes.times[len(self.found)])
        sde = self.model.sde
        alpha = float(sde.alpha(time))
        p, q = (float(c) for c in conversion(self.model.prediction, "data", sde, time))
        with torch.enable_grad():
            point = x.detach().to(self.dtype).clone().requires_grad_()
            out = self.model.network(point, self._label(label), **condition)
            out = self.model.checked(out, point)
            columns = self.traces.at(Jacobian(out, point, alpha, p, q, float(sde.sigma_ratio(time)))).detach()
        if not is_finite(columns):
            raise NonFiniteError(self.solver, max(len(self.found), 1), time, first_bad_samples(columns.mT))
        self.found.append(columns)
        out = out.detach().to(x.dtype)
        p, q = (float(c) for c in conversion(self.model.prediction, "noise", sde, time))
        flat = x.detach().reshape(len(x), -1)
        noise = p * flat + q * out.reshape(len(x), -1)
        if self.truncation is None:
            self.truncation = _truncation(sde, flat, noise, time, columns)
        if self.defect is not None:
            self.defect.note(flat / alpha, noise)
        return out


def _truncation(sde: DiffusionSDE, x: Tensor, noise: Tensor, time: float, columns: Tensor) -> Tensor:
    """log p_t(x) - log p_0(x) to first order in t: -ln(alpha)(d + x.s) + (|eps|^2 - (d - tr J_D))/2: (B,).

    It integrates d log p_t/dt = -f (d + x.s) + g^2/2 (div s + |s|^2), the Fokker-Planck equation, with p_t held;
    s = -eps/sigma and sigma^2 div s = tr J_D - d.
    """
    d = x.shape[1]
    trace = torch.zeros_like(columns[0])
    for column in columns:
        trace = trace + column / len(columns)
    along = d - inner(x, noise) / float(sde.sigma(time))
    return -math.log(float(sde.alpha(time))) * along + 0.5 * (inner(noise, noise) - d + trace)
