"""The bar of a solve moves while the solve does, whatever its steps cost."""

from __future__ import annotations

import time

import pytest
import torch
from torch import Tensor

import sdekit as sk
from sdekit.solvers import loop
from sdekit.solvers.progress import progress_bar


@pytest.fixture
def moves(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    found: list[float] = []

    def watched(wanted: bool, **how: object) -> object:
        bar = progress_bar(False, total=1)
        plain = bar.update
        bar.update = lambda n: (found.append(n), plain(n))
        return bar

    monkeypatch.setattr(loop, "progress_bar", watched)
    return found


@pytest.mark.parametrize("seed", [0, None])
def test_the_bar_moves_during_slow_steps_and_seldom_during_quick_ones(moves, seed):
    def drift(x: Tensor, t: Tensor) -> Tensor:
        time.sleep(pause)
        return -x

    sde, x = sk.SDE(drift, 0.5, "additive"), torch.ones(3, 2)
    how = {"t0": 0.0, "t1": 1.0, "seed": seed}
    pause = 0.02
    sk.solve(sde, x, steps=30, progress=True, **how)
    assert moves[0] == 1
    assert max(moves) <= 16  # of 0.02 s: a stride is doubled while it takes less than 0.1 s
    assert sum(moves) == 30
    moves.clear()
    pause = 0.0
    sk.solve(sde, x, steps=2000, progress=True, **how)
    assert sum(moves) == 2000
    assert len(moves) < 100


def test_a_bar_changes_no_number(moves):
    x = torch.ones(3, 2)
    how = {"t0": 0.0, "t1": 1.0, "seed": 0, "steps": 600, "save_at": [0.3, 1.0]}
    plain, shown = (sk.solve(sk.OrnsteinUhlenbeck(), x, progress=p, **how) for p in (False, True))
    assert torch.equal(plain.x, shown.x)
    assert torch.equal(plain.trajectory, shown.trajectory)
