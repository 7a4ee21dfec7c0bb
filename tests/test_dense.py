"""The dense output of an adaptive solve: what it covers where samples end at different times."""

from __future__ import annotations

import pytest
import torch
from _helpers import gaussian_model

import sdekit as sk
from sdekit.errors import ArgumentError, UnsupportedError

F64 = torch.float64


def test_samples_of_a_model_at_times_asked_for_and_anywhere_between():
    model = gaussian_model(sk.VPSDE(), 0.3, 0.5, shape=(2,))
    how = {"seed": 0, "dtype": F64}
    out = sk.sample(model, 5, "tsitouras_5", rtol=1e-6, atol=1e-8, dense=True, save_at=[0.5, 0.1], **how)
    assert out.trajectory_times.tolist() == [0.5, 0.1]
    assert torch.equal(out.dense([0.5, 0.1]), out.trajectory)
    assert torch.equal(out.dense(out.t), out.x)
    # The flow keeps x in standard deviations of the marginal from its mean.
    start = sk.sample(model, 5, "tsitouras_5", rtol=1e-6, atol=1e-8, trajectory=True, **how).trajectory[0]
    alpha, sigma = (lambda t: model.sde.alpha(t)), (lambda t: model.sde.sigma(t))

    def standard(x: torch.Tensor, t: float) -> torch.Tensor:
        a, s = alpha(torch.tensor(t, dtype=F64)), sigma(torch.tensor(t, dtype=F64))
        return (x - 0.3 * a) / (0.25 * a**2 + s**2).sqrt()

    for t in (0.5, 0.31, 0.1):
        assert torch.allclose(standard(out.dense(t), t), standard(start, 1.0), atol=1e-5)
    for name in ("ddim", "ancestral"):
        kept = sk.sample(model, 5, name, steps=10, save_at=[0.5, 0.1], **how)
        assert kept.trajectory.shape == (2, 5, 2)
        assert kept.trajectory_times.tolist() == [0.5, 0.1]
    with pytest.raises(UnsupportedError, match="'ddim' has no dense output"):
        sk.sample(model, 5, "ddim", steps=10, dense=True)
    with pytest.raises(ArgumentError, match="save_at must run in the direction of the solve"):
        sk.sample(model, 5, "ddim", steps=10, save_at=[0.1, 0.5])


@pytest.mark.parametrize("back", [False, True], ids=["forwards", "backwards"])
@pytest.mark.parametrize("chunk", [None, 1])
def test_it_covers_what_all_samples_reached_and_no_more(back, chunk):
    # dx/dt = -k x: the fast sample is at its limit of evaluations before the slow one.
    rate = torch.tensor([[1.0], [60.0], [5.0]], dtype=F64)
    ode = sk.ODE(lambda x, t, k: -k * x if not back else k * x, parameters={"k": rate})
    t0, t1 = (1.0, 0.0) if back else (0.0, 1.0)
    out = sk.solve(
        ode,
        torch.ones(3, 1, dtype=F64),
        t0=t0,
        t1=t1,
        solver="tsitouras_5",
        rtol=1e-8,
        atol=1e-10,
        max_nfe=140,
        dense=True,
        chunk=chunk,
    )
    assert out.status == "max_nfe"
    assert int(out.nfe.max()) <= 140
    parts = [out.stats] if chunk is None else out.stats["chunks"]
    ends = [t for part in parts for t in part["t"]]
    reached = max(ends) if back else min(ends)
    assert 0.02 < abs(reached - t0) < abs(t1 - t0)
    assert out.dense.span == (t0, reached)
    for t in torch.linspace(t0, reached, 7, dtype=F64).tolist():
        exact = torch.exp(-rate * abs(t - t0))
        assert torch.allclose(out.dense(t), exact, atol=1e-6)
    beyond = reached + 1e-3 * (t1 - t0)
    with pytest.raises(ArgumentError, match=r"as far as all samples came"):
        out.dense(beyond)
