"""Networks that differentiate inside themselves, called where gradients are off."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import torch
from torch import Tensor

__all__ = ["Differentiating"]


@final
class Differentiating:
    """The network with gradients recorded while it is called, and an answer that carries none.

    Where gradients are recorded anyway, as in a likelihood, it is the network itself. All else is the network's.
    """

    def __init__(self, network: Callable[..., Tensor]) -> None:
        self.network = network

    def __call__(self, x: Tensor, t: Tensor, **condition: Any) -> Tensor:
        if torch.is_grad_enabled() and not torch.is_inference_mode_enabled():
            return self.network(x, t, **condition)
        with torch.inference_mode(False), torch.enable_grad():
            out = self.network(_recordable(x), _recordable(t), **condition)
        return out.detach() if isinstance(out, Tensor) else out

    def __getattr__(self, name: str) -> Any:
        if name == "network" or name.startswith("__"):  # asked for while a copy is made, before there is a network
            raise AttributeError(name)
        return getattr(self.network, name)

    def __repr__(self) -> str:
        return repr(self.network)


def _recordable(x: Tensor) -> Tensor:
    """x, which the network may ask to require gradients without the caller's tensor doing so."""
    return x.clone() if x.is_inference() else x.detach()
