"""The exceptions: their messages, their kinds, and that they survive a trip between processes."""

from __future__ import annotations

import copy
import pickle

import pytest

from sdekit import errors
from sdekit.errors import (
    ArgumentError,
    NonFiniteError,
    SdekitError,
    ShapeError,
    UnknownNameError,
    UnsupportedError,
    closest_name,
)

NAMES = ["euler", "euler_a", "heun", "dpmpp_2m", "dpmpp_2m_sde", "scipy:RK45", "VPSDE", "SubVPSDE"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("dpmp_2m", "dpmpp_2m"),
        ("DPMPP_2M", "dpmpp_2m"),
        ("eulr", "euler"),
        ("euler-a", "euler_a"),
        ("vpsde", "VPSDE"),
        ("subvp_sde", "SubVPSDE"),
        ("scipy:rk45", "scipy:RK45"),
        ("Scipy:RK4", "scipy:RK45"),
        ("zzz", None),
        ("", None),
    ],
)
def test_closest_name(given, expected):
    assert closest_name(given, NAMES) == expected
    assert closest_name(given, iter(NAMES)) == expected
    assert closest_name(given, []) is None


def test_unknown_name_message():
    near = UnknownNameError("solver", "dpmp_2m", ["heun", "dpmpp_2m"])
    assert str(near) == "unknown solver 'dpmp_2m'; did you mean 'dpmpp_2m'? Known: dpmpp_2m, heun."
    far = UnknownNameError("solver", "zzz", ["heun", "dpmpp_2m"])
    assert str(far) == "unknown solver 'zzz'. Known: dpmpp_2m, heun."
    listed = UnknownNameError("solver", "zzz", ["heun"], listing="`sdekit solvers` lists all 41.")
    assert str(listed) == "unknown solver 'zzz'. `sdekit solvers` lists all 41."
    assert "unknown solver 3" in str(UnknownNameError("solver", 3, (name for name in NAMES)))


def test_non_finite_message_and_fields():
    error = NonFiniteError("heun", 12, 0.25, [3, 4])
    assert (error.solver, error.step, error.time, error.samples) == ("heun", 12, 0.25, [3, 4])
    assert "solver 'heun' reached a non-finite state at step 12 (t = 0.25), in sample(s) 3, 4." in str(error)
    assert "one of the steps 8 to 12" in str(NonFiniteError("heun", 12, 0.25, [3], since=8))
    assert "at step 12 " in str(NonFiniteError("heun", 12, 0.25, [3], since=12))
    assert "0, 1, 2, 3, 4, 5, 6, 7, …" in str(NonFiniteError("heun", 12, 0.25, list(range(9))))
    assert "…" not in str(NonFiniteError("heun", 12, 0.25, list(range(8))))


def test_kinds():
    """Users may catch the built-in kind, or everything of sdekit's."""
    assert issubclass(ArgumentError, ValueError)
    assert issubclass(ShapeError, ArgumentError)
    assert issubclass(UnknownNameError, ArgumentError)
    assert issubclass(UnsupportedError, TypeError)
    assert issubclass(NonFiniteError, ArithmeticError)
    for name in errors.__all__:
        value = getattr(errors, name)
        if isinstance(value, type):
            assert issubclass(value, SdekitError)


@pytest.mark.parametrize(
    "error",
    [
        ArgumentError("a"),
        ShapeError("b"),
        UnsupportedError("c"),
        UnknownNameError("solver", "dpmp_2m", NAMES),
        NonFiniteError("heun", 12, 0.25, [3, 4], since=8),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_survive_pickling(error):
    """An exception that cannot be unpickled breaks the pool of the worker that raised it."""
    error.add_note("in worker 3")
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(again) is type(error)
        assert str(again) == str(error)
        assert vars(again) == vars(error)
