"""The small helpers below everything: expansion to the right, per-sample norms, argument checks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sdekit._tensors import (
    as_float64,
    check_number,
    check_positive,
    check_positive_integer,
    check_shape,
    check_state,
    expand_right,
    per_sample_norm,
    per_sample_rms,
)
from sdekit.errors import ArgumentError, ShapeError


def test_expand_right():
    like = torch.zeros(3, 2, 4)
    assert expand_right(torch.tensor(1.0), like).shape == ()
    assert expand_right(torch.tensor([1.0, 2.0, 3.0]), like).shape == (3, 1, 1)
    assert expand_right(torch.ones(1), like).shape == (1, 1, 1)
    assert expand_right(torch.ones(3), torch.zeros(3)).shape == (3,)
    values = torch.tensor([1.0, 2.0, 3.0])
    assert torch.equal((expand_right(values, like) * torch.ones_like(like))[:, 1, 2], values)
    for bad in (torch.ones(2), torch.ones(3, 1), torch.ones(3, 2, 4)):
        with pytest.raises(ShapeError, match=r"expected \(\) or \(3,\)"):
            expand_right(bad, like)
    with pytest.raises(ShapeError, match="does not fit a state"):
        expand_right(torch.ones(2), torch.tensor(1.0))


def test_per_sample_norms_do_not_mix_samples():
    x = torch.tensor([[[3.0, 4.0]], [[0.0, 0.0]], [[math.nan, 1.0]]])
    norm = per_sample_norm(x)
    assert norm[:2].tolist() == [5.0, 0.0]
    assert norm[2].isnan()
    assert per_sample_rms(x)[0].item() == pytest.approx(5 / math.sqrt(2), rel=1e-6)  # float32
    assert per_sample_norm(torch.tensor([-2.0, 3.0])).tolist() == [2.0, 3.0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64])
def test_norms_of_narrow_states_are_float32(dtype):
    norm = per_sample_norm(torch.full((2, 10_000), 100, dtype=dtype))  # the square of the norm is beyond float16
    assert norm.dtype == torch.float32
    assert norm.tolist() == [10_000.0, 10_000.0]
    assert per_sample_norm(torch.ones(2, 4, dtype=torch.float64)).dtype == torch.float64


def test_as_float64():
    for t in (1, 0.1, np.float32(0.5), torch.tensor(3), torch.tensor(0.1)):
        assert as_float64(t).dtype == torch.float64
        assert as_float64(t).shape == ()
    assert as_float64(0.1).item() == 0.1
    t = torch.ones(2, dtype=torch.float64)
    assert as_float64(t) is t
    with torch.device("meta"):
        assert as_float64(0.1).device.type == "cpu"


def test_check_positive_integer():
    assert check_positive_integer("steps", np.int64(3)) == 3
    assert type(check_positive_integer("steps", np.int64(3))) is int
    for bad in (0, -1, 2.0, "3", True, None):
        with pytest.raises(ArgumentError, match="steps must be an integer of at least 1, got"):
            check_positive_integer("steps", bad)


def test_check_numbers():
    assert check_positive("s", np.float32(0.5)) == check_number("s", np.float32(0.5)) == 0.5
    assert check_number("s", -2) == -2.0
    assert type(check_number("s", -2)) is type(check_positive("s", 2)) is float
    for bad in (math.nan, math.inf, "1", True, None, 1j, torch.tensor(1.0)):
        with pytest.raises(ArgumentError, match="s must be a finite number, got"):
            check_number("s", bad)
        with pytest.raises(ArgumentError, match="s must be a finite number above 0, got"):
            check_positive("s", bad)
    for bad in (0, -1.0):
        with pytest.raises(ArgumentError, match="above 0"):
            check_positive("s", bad)


def test_check_shape():
    assert check_shape([2, np.int64(3)]) == (2, 3)
    assert check_shape(torch.Size([2, 3])) == (2, 3)
    for bad in ((), (0,), (2, -1), (2.0,), "ab", 3, None):
        with pytest.raises(ShapeError, match="a shape is a sequence of positive integers"):
            check_shape(bad)


def test_check_state():
    x = torch.ones(2, 3, dtype=torch.bfloat16)
    assert check_state("x", x) is x
    with pytest.raises(ArgumentError, match=r"x must be a torch.Tensor of shape \(B, \*\), got list"):
        check_state("x", [1.0])
    with pytest.raises(ArgumentError, match=r"got torch.int64; call x.float\(\) first"):
        check_state("x", torch.ones(2, dtype=torch.int64))
    for bad in (torch.tensor(1.0), torch.ones(0, 2)):
        with pytest.raises(ShapeError, match="at least one element"):
            check_state("x", bad)
    for bad in (math.nan, math.inf):
        with pytest.raises(ArgumentError, match="x holds NaN or infinite values"):
            check_state("x", torch.tensor([[1.0, bad]]))
