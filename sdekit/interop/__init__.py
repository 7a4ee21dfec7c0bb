"""Adapters that speak other libraries' interfaces, each usable without the library it stands in for."""

from sdekit.interop import diffusers

__all__ = ["diffusers"]
