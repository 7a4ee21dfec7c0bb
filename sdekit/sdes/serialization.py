"""SDEs from plain dicts and from short names: the inverses of `sde.to_dict()` and `sde.name`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast, get_args

import torch

from sdekit.errors import ArgumentError, UnknownNameError
from sdekit.sdes.base import AbstractSDE, Calculus
from sdekit.sdes.calculus import Reread
from sdekit.sdes.classical import GeometricBrownianMotion, OrnsteinUhlenbeck
from sdekit.sdes.closed_form import CLOSED_FORM_SDES
from sdekit.sdes.diffusion import DiffusionSDE
from sdekit.sdes.flow import FlowSDE
from sdekit.sdes.ve import EDMSDE, VESDE
from sdekit.sdes.vp import VPSDE, CosineVPSDE, SubVPSDE

__all__ = ["DIFFUSION_SDES", "from_dict", "named"]

DIFFUSION_SDES: tuple[type[DiffusionSDE], ...] = (VPSDE, SubVPSDE, VESDE, CosineVPSDE, EDMSDE, FlowSDE)
_TYPES: dict[str, type[AbstractSDE]] = {
    **{c.__name__: c for c in DIFFUSION_SDES},
    **{c.__name__: c for c in CLOSED_FORM_SDES},
    "OrnsteinUhlenbeck": OrnsteinUhlenbeck,
    "GeometricBrownianMotion": GeometricBrownianMotion,
}


def from_dict(values: Mapping[str, Any]) -> AbstractSDE:
    """The SDE that `to_dict` wrote. A parameter that is a list becomes a float64 tensor.

    Raises:
        ArgumentError: if `values` is not a mapping, "type" is missing, or a parameter is unknown or out of range.
        UnknownNameError: if no SDE has that type.
    """
    if not isinstance(values, Mapping):
        raise ArgumentError(f"expected an SDE's dict, as its to_dict() returns it; got {type(values).__name__}.")
    parameters = dict(values)
    kind = parameters.pop("type", None)
    if kind is None:
        raise ArgumentError(f"an SDE's dict needs a 'type', one of {', '.join(sorted(_TYPES))}; got {dict(values)!r}.")
    if kind == "Reread":
        calculus = parameters.get("calculus")
        falling = parameters.pop("falling", False)
        if set(parameters) != {"calculus", "sde"} or calculus not in get_args(Calculus) or falling not in (False, True):
            raise ArgumentError(f"a Reread's dict holds 'sde', 'calculus' and 'falling'; got {parameters!r}.")
        return Reread(from_dict(parameters["sde"]), cast("Calculus", calculus), bool(falling))
    if not isinstance(kind, str) or kind not in _TYPES:
        raise UnknownNameError("SDE type", kind, _TYPES)
    try:
        tensors = {k: torch.tensor(v, dtype=torch.float64) if isinstance(v, list) else v for k, v in parameters.items()}
        return _TYPES[kind](**tensors)
    except ArgumentError:
        raise
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"{kind} does not take these parameters: {parameters!r} ({error}).") from None


def named(name: str) -> DiffusionSDE:
    """A diffusion SDE with its default parameters by its short name: vp, sub_vp, ve, cosine_vp, edm or flow."""
    by_name = {c.name: c for c in DIFFUSION_SDES}
    if name not in by_name:
        raise UnknownNameError("SDE", name, by_name)
    return by_name[name]()
