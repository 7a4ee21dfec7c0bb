"""torchsde's calls, made by sdekit: its arguments, names, numbers and return shapes; and Brownian motions both ways."""

from sdekit.interop.torchsde.adjoint import sdeint_adjoint
from sdekit.interop.torchsde.brownian import TorchsdeNoise, as_torchsde_brownian
from sdekit.interop.torchsde.forward import sdeint

__all__ = ["TorchsdeNoise", "as_torchsde_brownian", "sdeint", "sdeint_adjoint"]
