"""What solvers declare, measured: `verify` and its parts."""

from sdekit.experiments.verification.run import Finding, Verification, verify

__all__ = ["Finding", "Verification", "verify"]
