"""Adapters that speak other libraries' interfaces, each usable without the library it stands in for."""

from sdekit.interop import diffusers, torchsde

__all__ = ["diffusers", "torchsde"]
