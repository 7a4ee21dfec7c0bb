"""`sdeint` with torchsde's arguments and return shapes, made of sdekit's steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from sdekit._tensors import as_list, check_number, check_positive, check_state
from sdekit.dynamics import ForwardSDE
from sdekit.errors import ArgumentError, ShapeError, UnsupportedError
from sdekit.interop.torchsde.adaptive import Chosen, Tolerances, choose_steps
from sdekit.interop.torchsde.brownian import TorchsdeNoise
from sdekit.interop.torchsde.logqp import WithLogRatio
from sdekit.interop.torchsde.methods import choose
from sdekit.interop.torchsde.steps import Extra, Outputs, Run, grid
from sdekit.noise import BrownianPath, KeyedNoise, NoiseSource
from sdekit.sdes import AbstractSDE, TorchsdeStyle
from sdekit.solvers.sde.reversible_heun import ReversibleHeun

__all__ = ["Call", "open_call", "refuse_unused", "sdeint"]


def sdeint(
    sde: Any,
    y0: Tensor,
    ts: Tensor | Sequence[float],
    bm: Any = None,
    method: str | None = None,
    dt: float = 1e-3,
    adaptive: bool = False,
    rtol: float = 1e-5,
    atol: float = 1e-4,
    dt_min: float = 1e-5,
    options: Mapping[str, Any] | None = None,
    names: Mapping[str, str] | None = None,
    logqp: bool = False,
    extra: bool = False,
    extra_solver_state: Sequence[Tensor] | None = None,
    **unused: Any,
) -> Any:
    """torchsde's `sdeint`: the states at the times ts, (T, B, d), of an SDE written for torchsde.

    On the same Brownian motion the numbers are torchsde's to rounding, gradients included; values at times between
    steps are on the straight line between the steps' ends, as torchsde's are (`sdekit.solve` with `save_at` has the
    solver's own values there). Different on purpose:

    - 'milstein' with scalar noise takes the derivative of g along g; torchsde takes the transposed Jacobian, which is
      another number unless each g_i is a function of y_i alone (or the Jacobian is symmetric).
    - adaptive=True chooses torchsde's steps, one length for the whole batch (`sdekit.solve` gives each sample its
      own), but cuts them to end at the times ts. 'euler' is refused where the noise is not additive, since it need not
      converge to the solution then; a step that ends in NaN is tried again, shorter. The lengths are constants for the
      gradient.
    - A state that becomes NaN or infinite is an error.
    - 'log_ode', options and arguments that torchsde does not know are refused by name.

    Args:
        sde: an object with `f`, `g`, `noise_type` and `sde_type` (see `sdekit.sdes.TorchsdeStyle`).
        y0: the state at ts[0], (B, d).
        ts: rising times, at which the states are returned.
        bm: sdekit's BrownianPath or a Brownian motion of torchsde's, of shape (B, m), m = d for diagonal noise (d + 1
            with logqp); None takes independent noise from a seed that torch's global generator draws.
        method: "euler", "milstein", "srk", "midpoint", "heun", "euler_heun" or "reversible_heun"; torchsde's default
            for the SDE if None.
        dt: the step; the last one is cut to end at ts[-1]. The first one, if adaptive.
        adaptive: whether steps are chosen by rtol and atol.
        rtol, atol: tolerances of a step, if adaptive.
        dt_min: the least step, if adaptive; a warning says that it was reached.
        options: {"grad_free": True} for a Milstein without derivatives.
        names: the object's own names for its methods, {"drift": "h"} and so on.
        logqp: also return the log-ratio of the path measures of `f` and the prior drift `h` over each interval of ts.
        extra: also return the method's own state at the end, (f, g, z) for reversible_heun and () for the others.
        extra_solver_state: such a state to start from.

    Returns:
        ys (T, B, d); with logqp (ys, log_ratio (T - 1, B)); with extra its tuple after these.

    Raises:
        ArgumentError, ShapeError, UnknownNameError, UnsupportedError: before the first step, for what makes no sense or
            is not there.
        NonFiniteError: if a state becomes NaN or infinite.
    """
    refuse_unused("sdeint", unused)
    call = open_call(sde, y0, ts, bm, method, dt, options, names, logqp, extra_solver_state)
    if adaptive:
        chosen = call.adapted(rtol, atol, dt_min)
        ys, last = chosen.run.values(chosen.outputs) if call.learns() else (chosen.values, chosen.extra)
    else:
        ys, last = call.run.values(call.outputs())
    return call.returned(ys, last if extra else None)


@final
@dataclass(frozen=True)
class Call:
    """The arguments of one call, checked.

    Attributes:
        run: what is solved.
        ts: the times asked for.
        dt: the step.
        logqp: whether the last component is the log-ratio.
    """

    run: Run
    ts: Tensor
    dt: float
    logqp: bool

    def outputs(self) -> Outputs:
        """The values asked for, in steps of dt."""
        noise = self.run.noise
        # Nearer times than that are one to a path.
        least = 2 * noise.quantum if isinstance(noise, BrownianPath) else 0.0
        return Outputs(self.ts, grid(self.ts, self.dt, least))

    def adapted(self, rtol: float, atol: float, dt_min: float) -> Chosen:
        """The solve with its steps chosen.

        Raises:
            UnsupportedError: for 'euler' with noise that is not additive.
        """
        if self.run.name == "euler" and self.run.dynamics.noise != "additive":
            raise UnsupportedError(
                "'euler' with adaptive=True and noise that is not additive need not converge to the Ito solution: "
                "steps chosen by the noise lean it towards another. Take 'srk' or 'milstein', or fixed steps."
            )
        return choose_steps(self.run, self.ts, Tolerances(rtol, atol, self.dt, dt_min))

    def learns(self) -> bool:
        """Whether anything that the solve is made of requires a gradient, which is recorded."""
        if not torch.is_grad_enabled():
            return False
        probe = self.run.steps(self.ts[[0, -1]].double()).probe()
        return any(value.requires_grad for value in (self.run.y0, *probe, *self.run.extra))

    def returned(self, ys: Tensor, extra: Extra | None) -> Any:
        """What torchsde returns of the values at ts."""
        found: list[Any] = [ys]
        if self.logqp:
            found = [ys[..., :-1], ys[..., -1].diff(dim=0)]
        if extra is not None:
            found.append(extra)
        return found[0] if len(found) == 1 else tuple(found)


def open_call(
    sde: Any,
    y0: Tensor,
    ts: Tensor | Sequence[float],
    bm: Any,
    method: str | None,
    dt: float,
    options: Mapping[str, Any] | None,
    names: Mapping[str, str] | None,
    logqp: bool,
    extra: Sequence[Tensor] | None,
) -> Call:
    """The arguments that both calls have, checked before the first step."""
    y0 = check_state("y0", y0)
    if y0.ndim != 2:
        raise ShapeError(f"y0 must have shape (B, d), got {tuple(y0.shape)}.")
    times = _times(ts, y0)
    style = TorchsdeStyle(sde, names=names)
    if bm is not None and style.matrix:
        shape = tuple(getattr(bm, "shape", ()))
        if len(shape) == 2:
            style = TorchsdeStyle(sde, noise_dim=int(shape[1]), names=names)
    opened: AbstractSDE = style.opened(y0, times[0])
    if logqp:
        style.prior_drift(y0, times[0])
        opened = WithLogRatio(style.opened(y0, times[0]))
        y0 = torch.cat([y0, torch.zeros_like(y0[:, :1])], dim=1)
    name, solver = choose(method, opened.noise, opened.calculus, options)
    step = check_positive("dt", dt.item() if isinstance(dt, Tensor) else dt)
    own = tuple(extra or ())
    if own and not isinstance(solver, ReversibleHeun):
        raise UnsupportedError(f"{name!r} keeps no state of its own; leave extra_solver_state out.")
    return Call(Run(solver, name, ForwardSDE(opened), y0, _noise(bm), own), times, step, logqp)


def _times(ts: Tensor | Sequence[float], y0: Tensor) -> Tensor:
    listed = as_list(ts)
    if listed is None or len(listed) < 2:
        raise ArgumentError(f"ts must be a list or a tensor of two or more times, got {ts!r}.")
    if isinstance(ts, Tensor) and ts.requires_grad:
        raise UnsupportedError("ts must not require a gradient; none is passed to it.")
    if not all(math.isfinite(check_number("a time of ts", t)) for t in listed):
        raise ArgumentError(f"ts must be finite, got {listed}.")
    dtype = ts.dtype if isinstance(ts, Tensor) else y0.dtype
    times = torch.tensor(listed, dtype=dtype if dtype in (torch.float32, torch.float64) else torch.float32)
    if not bool((times.diff() > 0).all()):
        raise ArgumentError(f"ts must rise from each time to the next, got {listed}.")
    return times


def _noise(bm: Any) -> NoiseSource:
    if bm is None:
        return KeyedNoise(int(torch.randint(2**62, ())))
    return bm if isinstance(bm, BrownianPath) else TorchsdeNoise(bm)


def refuse_unused(name: str, unused: Mapping[str, Any]) -> None:
    if unused:
        raise ArgumentError(f"{name} has no argument {', '.join(map(repr, sorted(unused)))}.")
