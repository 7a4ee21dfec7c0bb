"""Classes of Hugging Face diffusers, rebuilt to the same results; diffusers itself need not be installed."""

from sdekit.interop.diffusers.score_sde_vp import ScoreSdeVpScheduler

__all__ = ["ScoreSdeVpScheduler"]
