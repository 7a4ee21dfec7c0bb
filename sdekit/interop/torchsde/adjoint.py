"""`sdeint_adjoint`: the same states, with gradients that need little memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sdekit.errors import UnsupportedError
from sdekit.interop.torchsde.forward import open_call, refuse_unused
from sdekit.solvers.sde.reversible_heun import ReversibleHeun

__all__ = ["sdeint_adjoint"]

_BACKWARD = "the backward pass makes the forward steps again and differentiates them; it solves no SDE of its own"


def sdeint_adjoint(
    sde: Any,
    y0: Tensor,
    ts: Tensor | Sequence[float],
    bm: Any = None,
    method: str | None = None,
    adjoint_method: str | None = None,
    dt: float = 1e-3,
    adaptive: bool = False,
    adjoint_adaptive: bool = False,
    rtol: float = 1e-5,
    adjoint_rtol: float = 1e-5,
    atol: float = 1e-4,
    adjoint_atol: float = 1e-4,
    dt_min: float = 1e-5,
    options: Mapping[str, Any] | None = None,
    adjoint_options: Mapping[str, Any] | None = None,
    adjoint_params: Sequence[Tensor] | None = None,
    names: Mapping[str, str] | None = None,
    logqp: bool = False,
    extra: bool = False,
    extra_solver_state: Sequence[Tensor] | None = None,
    **unused: Any,
) -> Any:
    """torchsde's `sdeint_adjoint`: as `sdeint`, with memory for about 2 sqrt(N) of N steps instead of all of them.

    The gradient is that of the steps themselves, as backpropagation through `sdeint` gives it: the forward pass keeps
    the state at every sqrt(N)-th step, and the backward pass makes the steps between them again on the same noise
    (checkpointing), at one more forward pass. 'reversible_heun' keeps nothing but its end, and undoes its steps one by
    one (see `gradient=` of `sdekit.solve`). torchsde solves a backward SDE instead, whose gradient has an error of its
    own except for reversible_heun. So every method serves, with its own gradient, and `adjoint_method` and its kin have
    nothing to choose: where they would have changed torchsde's result they are refused. Second derivatives are to be
    had from `sdeint`; and 'reversible_heun' with `extra` or `extra_solver_state` keeps the graph of all steps.

    Args:
        sde: as in `sdeint`, and likewise y0, ts, bm, method, dt, options, names, logqp, extra and extra_solver_state.
        y0: the state at ts[0].
        ts: rising times.
        bm: the Brownian motion.
        method: torchsde's name, or None.
        adjoint_method: None, or "adjoint_reversible_heun" beside method="reversible_heun".
        dt: the step.
        adaptive, rtol, atol, dt_min: as in `sdeint`; the gradient is that of the steps chosen.
        adjoint_adaptive: False.
        adjoint_rtol, adjoint_atol: of adjoint_adaptive; not used.
        options: of the method.
        adjoint_options: none.
        adjoint_params: tensors that `sde` depends on, all of its parameters that require a gradient among them; most
            are found where this is None, and an error in the backward pass tells of one that is not.
        names: of the object's methods.
        logqp: whether the log-ratio is returned.
        extra: whether the method's own state is.
        extra_solver_state: such a state to start from.

    Returns: as `sdeint`.

    Raises: as `sdeint`.
    """
    refuse_unused("sdeint_adjoint", unused)
    if adjoint_adaptive or adjoint_options:
        raise UnsupportedError(f"adjoint_adaptive and adjoint_options have no meaning: {_BACKWARD}. Leave them out.")
    pair = ("reversible_heun", "adjoint_reversible_heun")
    if adjoint_method is not None and (method, adjoint_method) != pair:
        raise UnsupportedError(f"adjoint_method={adjoint_method!r} has no meaning: {_BACKWARD}. Leave it out.")
    parameters = [p for p in adjoint_params or () if p.requires_grad]
    if adjoint_params is not None and isinstance(sde, torch.nn.Module):
        given = {id(p) for p in parameters}
        if any(p.requires_grad and id(p) not in given for p in sde.parameters()):
            raise UnsupportedError(
                "adjoint_params leaves parameters of sde out that require a gradient, and they would be given one; "
                "call .requires_grad_(False) on those."
            )
    call = open_call(sde, y0, ts, bm, method, dt, options, names, logqp, extra_solver_state)
    run, outputs = call.run, None
    if adaptive:
        chosen = call.adapted(rtol, atol, dt_min)
        if not call.learns():
            return call.returned(chosen.values, chosen.extra if extra else None)
        run, outputs = chosen.run, chosen.outputs
    outputs = outputs or call.outputs()
    if not torch.is_grad_enabled() or (isinstance(run.method, ReversibleHeun) and (extra or run.extra)):
        ys, last = run.values(outputs)
    else:
        ys, last = run.values_in_little_memory(outputs, parameters), ()
    return call.returned(ys, last if extra else None)
