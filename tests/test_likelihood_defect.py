"""What errors of the state make of a log-likelihood: against a loop of its own, and against the errors themselves."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import Tensor

import sdekit as sk
from sdekit.likelihood import Exact, Hutchinson
from sdekit.likelihood.defect import Defect
from sdekit.likelihood.path import Path, walk
from sdekit.likelihood.quadrature import interval_weights, quadrature_weights
from sdekit.likelihood.settings import DEFAULT_SOLVER, make_nodes
from sdekit.models import Prediction, ScoreModel
from sdekit.noise import noise_source
from sdekit.sdes import EDMSDE, VPSDE, FlowSDE, SubVPSDE
from sdekit.solvers import get
from sdekit.targets import Gaussian, digits, ring

VP = VPSDE()


def places(n: int, seed: int = 0) -> Tensor:
    lengths = 1 + torch.rand(n - 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    u = torch.cat([torch.zeros(1, dtype=torch.float64), lengths.cumsum(0)])
    return 3 * u / u[-1] - 2


def noted(u: Tensor, x: Tensor, noise: Tensor) -> Tensor:
    defect = Defect(u)
    for a, b in zip(x, noise, strict=True):
        defect.note(a, b)
    return defect.total()


def path_of(model: ScoreModel, x: Tensor, steps: int = 58, solver: str | None = None, divergence=None) -> Path:
    chosen = DEFAULT_SOLVER if solver is None else get(solver)
    nodes = make_nodes(model, chosen, steps, None, (model.sde.t_min, model.sde.t_max))
    traces = (divergence or Hutchinson(1)).open(len(x), x[0].numel(), noise_source(seed=0), x.device)
    return walk(model, x, nodes, chosen, traces)


def at_start(target, sde, n: int) -> Tensor:
    return target.marginal(sde, sde.t_min).sample(n, seed=1, dtype=torch.float64)


def error(target, model: ScoreModel, x: Tensor, steps: int = 58, solver: str | None = None) -> Tensor:
    """log_prob less the exact one, with the exact trace."""
    ll = sk.log_likelihood(model, x, solver=solver, steps=steps, divergence=Exact(), prior="standard")
    return ll.log_prob - target.log_prob_at(x, model.sde.t_min, model.sde)


@pytest.mark.parametrize("n", [2, 3, 5, 6, 7, 20])
def test_the_sum_over_intervals(n: int) -> None:
    u = places(n)
    x, noise = torch.randn(2, n, 3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = torch.zeros(3, dtype=torch.float64)
    points = min(n, 6)
    for i in range(n - 1):
        first = min(max(i - (points // 2 - 1), 0), n - points)
        near = range(first, first + points)
        step = x[i + 1] - x[i]
        for j in near:  # the integral of Lagrange's polynomial, by Simpson's rule on many intervals
            s = torch.linspace(float(u[i]), float(u[i + 1]), 401, dtype=torch.float64)
            basis = torch.ones_like(s)
            for k in near:
                if k != j:
                    basis = basis * (s - u[k]) / (u[j] - u[k])
            simpson = torch.ones(401, dtype=torch.float64)
            simpson[1:-1:2], simpson[2:-1:2] = 4.0, 2.0
            weight = float((simpson * basis).sum() * (s[1] - s[0]) / 3)
            step = step - weight * torch.exp(u[j]) * noise[j]
        expected = expected - (noise[i + 1] * step).sum(1) / torch.exp(u[i + 1])
    torch.testing.assert_close(noted(u, x, noise), expected, rtol=1e-8, atol=1e-8)


def test_a_path_that_follows_its_flow_has_none() -> None:
    u = places(15)
    velocity = (u**5 - 2 * u**2 + 1)[:, None, None] * torch.tensor([[1.0, -2.0], [0.5, 3.0]], dtype=torch.float64)
    integral = (u**6 / 6 - 2 * u**3 / 3 + u)[:, None, None] * torch.tensor([[1.0, -2.0], [0.5, 3.0]]).double()
    noise = velocity / torch.exp(u)[:, None, None]
    assert float(noted(u, integral, noise).abs().max()) < 1e-9
    integral[8:] += 0.01  # a jump, and no more: its product with the score, there
    expected = -0.01 * noise[8].sum(1) / torch.exp(u[8])
    torch.testing.assert_close(noted(u, integral, noise), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("sde", "solver", "steps"),
    [
        *((sde, *how) for sde in (VP, SubVPSDE(), EDMSDE(), FlowSDE()) for how in (("ddim", 200), ("heun", 100))),
        (VP, "euler", 200),
        (VP, None, 400),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_it_is_the_error_that_the_state_makes(sde, solver: str | None, steps: int) -> None:
    # On a Gaussian the end of the exact flow is known, and so what the state's own error does to log p.
    target = Gaussian(torch.zeros(3, dtype=torch.float64), torch.tensor([0.05, 0.3, 1.0], dtype=torch.float64))
    model = target.score_model(sde)
    x = at_start(target, sde, 8)
    path = path_of(model, x, steps, solver)
    end = target.flow_map(x, sde.t_min, sde.t_max, sde)
    made = target.log_prob_at(path.latent, sde.t_max, sde) - target.log_prob_at(end, sde.t_max, sde)
    scale = float(made.abs().max())
    # Errors of 1.4 (Euler), 0.05 (DDIM), 0.4 (Heun) and 2e-7 nats (Adams): measured within 13 %.
    assert float((path.defect - made).abs().max()) < 0.2 * scale
    assert scale > 1e-7


def test_every_prediction_and_dtype_tells_the_same() -> None:
    target = ring()
    exact = target.score_model(VP)
    x = at_start(target, VP, 6)
    expected = path_of(exact, x).defect
    for prediction in get_args(Prediction):
        model = ScoreModel(
            lambda x, t, kind=prediction: exact.predict(kind, x, t), VP, prediction, data_std=exact.data_std
        )
        torch.testing.assert_close(path_of(model, x).defect, expected, rtol=1e-6, atol=1e-9)
    # float32: 6e-8 of x against sigma_eps = 0.01, at 58 steps.
    torch.testing.assert_close(path_of(exact, x.float()).defect, expected, rtol=1e-2, atol=1e-5)


def test_the_trace_and_the_batch_do_not_matter() -> None:
    target = ring()
    model = target.score_model(VP)
    x = at_start(target, VP, 5)
    x[4] = 50.0
    whole = path_of(model, x).defect
    assert torch.equal(path_of(model, x, divergence=Exact()).defect, whole)
    assert torch.equal(path_of(model, x[2:3]).defect, whole[2:3])


@pytest.mark.parametrize("name", ["scipy:RK45", "adaptive:tsitouras_5"])
def test_steps_that_are_not_from_node_to_node_are_not_judged(name: str) -> None:
    target = ring()
    x = at_start(target, VP, 2)
    assert torch.equal(path_of(target.score_model(VP), x, 16, name).defect, torch.zeros(2, dtype=torch.float64))


@pytest.mark.parametrize("sde", [VP, EDMSDE()], ids=lambda sde: sde.name)
def test_it_sees_errors_that_half_the_steps_make_alike(sde) -> None:
    # Inside the ring, and half way between digits, the flow to the noise has rates of 40 and more: steps that are too
    # long for it err by tens and hundreds of nats, whether they are 29 or 58, and their difference says less than 5.
    inside = 0.35 * at_start(ring(), sde, 16)
    x = at_start(digits(), sde, 6)
    for target, between in ((ring(), inside), (digits(), 0.5 * (x + x.flip(0)))):
        model = target.score_model(sde)
        made = error(target, model, between).abs()
        coarse = error(target, model, between, 29).abs()
        assert float(made.min()) > 5.0
        assert float(((made - coarse) / 3).abs().mean()) < 0.3 * float(made.mean())
        told = path_of(model, between).defect.abs()
        assert bool((told > made).all())
        ll = sk.log_likelihood(model, between, prior="standard", integration_error=True)
        assert ll.budget.integration is not None
        assert bool((ll.budget.integration > 0.9 * told).all())
        assert bool((told < 6 * made).all())


def test_the_intervals_together_are_the_quadrature() -> None:
    u = places(17)
    near, weights = interval_weights(u)
    assert near.shape == weights.shape == (16, 6)
    torch.testing.assert_close(weights.sum(1), u.diff())
    total = torch.zeros(17, dtype=torch.float64).index_add(0, near.reshape(-1), weights.reshape(-1))
    assert torch.equal(total, quadrature_weights(u))
