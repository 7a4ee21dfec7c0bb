"""The exceptions sdekit raises: each says what was given, what was expected, and how to mend it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

__all__ = [
    "ArgumentError",
    "ConvergenceError",
    "NonFiniteError",
    "SdekitError",
    "ShapeError",
    "UnknownNameError",
    "UnsupportedError",
    "closest_name",
]


class SdekitError(Exception):
    """Base class of every exception that sdekit raises on purpose."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Exception pickles as a call of the class with its message, which the constructors below do not take; without
        # this, an error raised in a worker process is lost on its way to the parent.
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(kind: type[SdekitError], args: tuple[Any, ...], attributes: dict[str, Any]) -> SdekitError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(attributes)
    return error


class ArgumentError(SdekitError, ValueError):
    """An argument is out of its range, missing, or meaningless beside the others."""


class ShapeError(ArgumentError):
    """A tensor has a shape that does not fit."""


class UnknownNameError(ArgumentError):
    """A name that no catalogue holds; the message carries the nearest known name."""

    def __init__(self, kind: str, given: object, known: Iterable[str], listing: str = "") -> None:
        known = sorted(known)
        near = closest_name(str(given), known)
        hint = f"; did you mean {near!r}?" if near else "."
        where = f" {listing}" if listing else f" Known: {', '.join(known)}."
        super().__init__(f"unknown {kind} {given!r}{hint}{where}")


class UnsupportedError(SdekitError, TypeError):
    """A solver was asked to serve dynamics (or options) that it declares it cannot serve."""


class NonFiniteError(SdekitError, ArithmeticError):
    """A state became NaN or infinite; `solver`, `step` and `time` say where.

    `step` counts from 1: it is the step after which the state was found non-finite, and `time` is that step's end.
    """

    def __init__(self, solver: str, step: int, time: float, samples: list[int], since: int | None = None) -> None:
        self.solver, self.step, self.time, self.samples, self.since = solver, step, time, samples, since
        where = f"step {step}" if since is None or since == step else f"one of the steps {since} to {step}"
        shown = ", ".join(map(str, samples[:8])) + (", …" if len(samples) > 8 else "")
        super().__init__(
            f"solver {solver!r} reached a non-finite state at {where} (t = {time:.6g}), in sample(s) {shown}. "
            "Check that the drift, or the network, is finite there; or take more steps, a smaller tolerance, or, for a "
            "drift that is stiff or grows fast, 'drift_implicit' or 'tamed_euler'."
        )

    def among(self, rows: list[int]) -> NonFiniteError:
        """The same error, its samples being some of a batch: sample i is number rows[i] there."""
        return NonFiniteError(self.solver, self.step, self.time, [rows[i] for i in self.samples], self.since)

    def moved(self, first: int = 0, time: float | None = None) -> NonFiniteError:
        """The same error with its samples counted from `first`, or at another clock's time."""
        samples = [first + i for i in self.samples]
        return NonFiniteError(self.solver, self.step, self.time if time is None else time, samples, self.since)


class ConvergenceError(SdekitError, ArithmeticError):
    """The equations of an implicit step were not solved; `solver`, `step`, `time` and `samples` say where.

    `step` counts from 1, and `time` is that step's end; step is None where a step was made outside a solve.
    """

    def __init__(self, solver: str, time: float, samples: list[int], iterations: int, step: int | None = None) -> None:
        self.solver, self.time, self.samples, self.iterations, self.step = solver, time, samples, iterations, step
        where = "a step" if step is None else f"step {step}"
        shown = ", ".join(map(str, samples[:8])) + (", …" if len(samples) > 8 else "")
        super().__init__(
            f"solver {solver!r} did not solve the equations of {where} (to t = {time:.6g}) in {iterations} iterations, "
            f"in sample(s) {shown}. Take more steps, a larger max_iterations or tolerance; and check that torch can "
            "differentiate the drift: the derivative must be finite, and one that detaches x, or leaves torch, has the "
            "derivative 0 for it."
        )

    def at_step(self, step: int) -> ConvergenceError:
        """The same error with its step."""
        return ConvergenceError(self.solver, self.time, self.samples, self.iterations, step)

    def moved(self, first: int) -> ConvergenceError:
        """The same error with its samples counted from `first`."""
        samples = [first + i for i in self.samples]
        return ConvergenceError(self.solver, self.time, samples, self.iterations, self.step)


def closest_name(given: str, known: Iterable[str]) -> str | None:
    """The known name nearest to `given` by edit similarity, upper and lower case alike, or None if nothing is near."""
    by_folded = {name.lower(): name for name in known}
    matches = difflib.get_close_matches(given.lower(), list(by_folded), n=1, cutoff=0.5)
    return by_folded[matches[0]] if matches else None
