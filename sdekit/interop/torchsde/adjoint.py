"""`sdeint_adjoint`: the same states, with gradients that need little memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sdekit.errors import ArgumentError, UnsupportedError
from sdekit.interop.torchsde.forward import integrate, open_call

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

    The gradient is that of the steps themselves, as backpropagation through `sdeint` gives it, to rounding: the forward
    pass keeps the state at every sqrt(N)-th step, and the backward pass makes the steps between them again on the same
    noise (checkpointing). torchsde solves a backward SDE instead, whose gradient has an error of its own; it is exact
    there for reversible_heun alone. So every method serves, with its own gradient, at one more forward pass, and
    `adjoint_method` and its kin have nothing to choose: given values that are not the defaults they are refused.

    Args:
        sde: as in `sdeint`, and likewise y0, ts, bm, method, dt, options, names, logqp, extra and extra_solver_state.
        y0: the state at ts[0].
        ts: rising times.
        bm: the Brownian motion.
        method: torchsde's name, or None.
        adjoint_method: None, or "adjoint_reversible_heun" beside method="reversible_heun".
        dt: the step.
        adaptive, adjoint_adaptive: False.
        rtol, atol, dt_min: for adaptive steps: not used.
        adjoint_rtol, adjoint_atol: their defaults.
        options: of the method.
        adjoint_options: none.
        adjoint_params: None, or tensors among which are all parameters of `sde` that require a gradient.
        names: of the object's methods.
        logqp: whether the log-ratio is returned.
        extra: whether the method's own state is.
        extra_solver_state: such a state to start from.

    Returns: as `sdeint`.

    Raises: as `sdeint`.
    """
    if unused:
        raise ArgumentError(f"sdeint_adjoint has no argument {', '.join(map(repr, sorted(unused)))}.")
    if adaptive or adjoint_adaptive:
        raise UnsupportedError("sdeint_adjoint takes fixed steps: adaptive=True gives no gradients here.")
    if (rtol, atol, dt_min) != (1e-5, 1e-4, 1e-5):
        raise UnsupportedError("rtol, atol and dt_min go with adaptive=True, which gives no gradients here.")
    if (adjoint_rtol, adjoint_atol) != (1e-5, 1e-4) or adjoint_options:
        raise UnsupportedError(f"adjoint_rtol, adjoint_atol and adjoint_options have no meaning: {_BACKWARD}.")
    pair = ("reversible_heun", "adjoint_reversible_heun")
    if adjoint_method is not None and (method, adjoint_method) != pair:
        raise UnsupportedError(f"adjoint_method={adjoint_method!r} has no meaning: {_BACKWARD}. Leave it out.")
    if adjoint_params is not None and isinstance(sde, torch.nn.Module):
        given = {id(p) for p in adjoint_params}
        if any(p.requires_grad and id(p) not in given for p in sde.parameters()):
            raise UnsupportedError(
                "adjoint_params leaves parameters of sde out that require a gradient, and they would be given one; "
                "call .requires_grad_(False) on those."
            )
    call = open_call(sde, y0, ts, bm, method, dt, options, names, logqp)
    ys, last = integrate(call, extra_solver_state, save_memory=torch.is_grad_enabled())
    return call.returned(ys, last if extra else None)
