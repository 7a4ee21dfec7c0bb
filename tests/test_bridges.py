"""Bridges: what scipy and torchsde make of the dynamics is what they make of them when called directly."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
import torchsde
from _helpers import gaussian_model
from scipy import integrate
from torch import Tensor

import sdekit as sk
from sdekit.errors import ArgumentError, NonFiniteError, UnknownNameError
from sdekit.sdes import EDMSDE, VPSDE, FlowSDE
from sdekit.solvers.bridges.torchsde_path import OneStepPath

METHODS = ("RK45", "RK23", "DOP853", "LSODA", "Radau", "BDF")
TORCHSDE = ("euler", "milstein", "srk", "heun", "midpoint", "reversible_heun")
RING = sk.targets.ring()


def start(n: int = 3, seed: int = 0, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(n, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# scipy -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("sde", [VPSDE(), FlowSDE()], ids=["vp", "flow"])
def test_scipy_called_directly(method, sde):
    model = RING.score_model(sde)
    calls = 0

    def velocity(t: float, y: np.ndarray) -> np.ndarray:
        nonlocal calls
        calls += 1
        return model.velocity(torch.from_numpy(y).reshape(1, 2), t).reshape(-1).numpy()

    x, span = start(1), (sde.t_max, sde.t_min)
    direct = integrate.solve_ivp(velocity, span, x[0].numpy(), method, rtol=1e-6, atol=1e-7)
    out = sk.sample(model, None, f"scipy:{method}", x_T=x, rtol=1e-6, atol=1e-7)
    assert out.x.tolist() == [direct.y[:, -1].tolist()]
    assert out.nfe == calls
    assert out.stats["steps"] == len(direct.t) - 1
    assert out.status == "success"
    assert out.t == sde.t_min


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_is_one_system_and_per_sample_many(method):
    model, x = RING.score_model(EDMSDE()), start(3, scale=80.0)

    def velocity(t: float, y: np.ndarray) -> np.ndarray:
        return model.velocity(torch.from_numpy(y).reshape(-1, 2), t).reshape(-1).numpy()

    tolerances = {"rtol": 1e-5, "atol": 1e-5}
    out = sk.sample(model, None, f"scipy:{method}", x_T=x, **tolerances)
    assert isinstance(out.nfe, int)
    if method not in ("LSODA", "Radau", "BDF"):  # these are told that samples do not mix, and evaluate less
        direct = integrate.solve_ivp(velocity, (80.0, 0.002), x.flatten().numpy(), method, **tolerances)
        assert out.x.flatten().tolist() == direct.y[:, -1].tolist()
        assert out.nfe == direct.nfev
    each = sk.sample(model, None, f"scipy:{method}", x_T=x, per_sample=True, **tolerances)
    for i in range(3):
        alone = sk.sample(model, None, f"scipy:{method}", x_T=x[i : i + 1], **tolerances)
        assert torch.equal(each.x[i : i + 1], alone.x)
        assert int(each.nfe[i]) == alone.nfe
    assert each.nfe.shape == (3,)
    assert each.stats["status"] == ["success"] * 3
    assert float((each.x - out.x).abs().max()) < 1e-2  # both within a hundred steps' worth of tolerance


@pytest.mark.parametrize("method", METHODS)
def test_the_tolerance_controls_the_error(method):
    sde = EDMSDE(t_max=10.0)
    target = sk.targets.Gaussian(torch.tensor([0.5, -1.0]), torch.tensor([0.3, 0.6]))
    x = start(2, scale=10.0)
    exact = target.flow_map(x, 10.0, sde.t_min, sde)
    errors = []
    for tolerance in (1e-3, 1e-6, 1e-9):
        out = sk.sample(target.score_model(sde), None, f"scipy:{method}", x_T=x, rtol=tolerance, atol=tolerance)
        errors.append(float((out.x - exact).abs().max()))
        assert errors[-1] < 300 * tolerance  # local errors add up over some tens of steps
    assert errors[0] > 10 * errors[1] > 100 * errors[2]


@pytest.mark.parametrize("method", METHODS)
def test_the_state_is_float64_inside_and_the_model_sees_the_states_own_dtype(method):
    seen = []
    model = RING.score_model(EDMSDE())

    def network(x: Tensor, t: Tensor) -> Tensor:
        seen.append(x.dtype)
        return model.network(x, t)

    x = start(2, scale=80.0)
    wide = sk.sample(model, None, f"scipy:{method}", x_T=x, rtol=1e-5, atol=1e-5)
    out = sk.sample(sk.ScoreModel(network, EDMSDE(), "v"), None, f"scipy:{method}", x_T=x.float(), rtol=1e-5, atol=1e-5)
    assert set(seen) == {torch.float32}
    assert out.x.dtype == torch.float32
    # Were the state kept in float32, hundreds of steps of it would lose a few digits more than the model's rounding.
    assert float((out.x.double() - wide.x).abs().max()) < 1e-3


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("per_sample", [False, True])
def test_max_nfe_is_enforced_and_the_status_says_so(method, per_sample):
    model, x = RING.score_model(EDMSDE()), start(3, scale=80.0)
    run = {"x_T": x, "rtol": 1e-9, "atol": 1e-9, "max_nfe": 60, "per_sample": per_sample}
    out = sk.sample(model, None, f"scipy:{method}", trajectory=True, **run)
    assert out.status == "max_nfe"
    assert 0.002 < out.t < 80.0
    nfe = [out.nfe] if isinstance(out.nfe, int) else out.nfe.tolist()
    assert nfe == [60] * len(nfe)  # every one of them was wanted, and none more was made
    assert bool(torch.isfinite(out.x).all())
    assert len(out.trajectory) == len(out.trajectory_times) == 1  # t_end was not reached
    assert sk.sample(model, None, f"scipy:{method}", **{**run, "max_nfe": 10**6, "rtol": 1e-3}).status == "success"


@pytest.mark.parametrize("method", METHODS)
def test_one_evaluation_is_too_few_to_start_with_and_said_so(method):
    x = start(3, scale=80.0)
    out = sk.sample(RING.score_model(EDMSDE()), None, f"scipy:{method}", x_T=x, max_nfe=1)
    assert (out.status, out.nfe, out.t) == ("max_nfe", 1, 80.0)
    assert torch.equal(out.x, x)


def test_samples_that_stop_at_different_times():
    # The first sample is easy, the second stiff: it runs out, and the solution says how far it got.
    stiff = sk.ODE(lambda x, t: -x * torch.where(x > 5, 1e4, 1.0))
    x = torch.tensor([[1.0], [10.0]], dtype=torch.float64)
    run = {"t0": 0.0, "t1": 1.0, "solver": "scipy:RK45", "per_sample": True, "max_nfe": 40, "rtol": 1e-6, "atol": 1e-12}
    for start_values, last in ((x, 1), (x.flip(0), 0)):
        out = sk.solve(stiff, start_values, save_at=[0.25, 0.5, 1.0], **run)
        alone = sk.solve(stiff, start_values[last : last + 1], **{**run, "per_sample": False})
        assert out.status == "max_nfe"
        assert out.stats["status"][last] == "max_nfe"
        assert out.stats["status"][1 - last] == "success"
        assert out.t == alone.t < 1.0
        assert len(out.trajectory) == len(out.trajectory_times)
        assert float(out.x[1 - last]) == pytest.approx(math.exp(-1.0), rel=1e-4)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("per_sample", [False, True])
def test_save_at_is_the_dense_output(method, per_sample):
    decay = sk.ODE(lambda x, t: -x)
    x, wanted = torch.tensor([[1.0], [2.0]], dtype=torch.float64), [0.1, 0.35, 0.7, 1.0]
    run = {"t0": 0.0, "t1": 1.0, "solver": f"scipy:{method}", "rtol": 1e-8, "atol": 1e-10, "per_sample": per_sample}
    out = sk.solve(decay, x, save_at=wanted, **run)
    assert out.trajectory_times.tolist() == wanted
    assert out.trajectory.shape == (4, 2, 1)
    exact = x * torch.exp(-torch.tensor(wanted, dtype=torch.float64))[:, None, None]
    assert torch.allclose(out.trajectory, exact, rtol=1e-5)  # the interpolants are of lower order than the steps
    assert torch.equal(out.trajectory[-1], out.x)
    plain = sk.solve(decay, x, **run)
    assert torch.equal(plain.x, out.x)  # what is kept does not steer the steps
    nfe = (plain.nfe, out.nfe) if not per_sample else (int(plain.nfe.sum()), int(out.nfe.sum()))
    assert nfe[1] >= nfe[0]
    if method != "DOP853":  # its interpolant costs evaluations of its own, which are counted
        assert nfe[1] == nfe[0]
    times, states = [0.0, *wanted], [x, *out.trajectory]
    both = sk.solve(decay, x, save_at=times, **run)
    assert torch.equal(both.trajectory, torch.stack(states))


def test_save_at_backwards_in_time():
    out = sk.solve(
        sk.ODE(lambda x, t: -x),
        torch.ones(1, 1, dtype=torch.float64),
        t0=1.0,
        t1=0.0,
        solver="scipy:DOP853",
        rtol=1e-9,
        atol=1e-9,
        save_at=[0.75, 0.2],
    )
    assert out.trajectory.flatten().tolist() == pytest.approx([math.exp(0.25), math.exp(0.8)], rel=1e-6)


@pytest.mark.parametrize("sde", [VPSDE(), EDMSDE(t_max=10.0), FlowSDE()], ids=["vp", "edm", "flow"])
@pytest.mark.parametrize("solver", ["scipy:RK45", "scipy:DOP853", "scipy:LSODA", "heun", "rk4", "ddim"])
def test_encode_then_decode_is_the_identity(solver, sde):
    flow = sk.ProbabilityFlow(RING.score_model(sde))
    x = RING.sample(4, seed=0, dtype=torch.float64)
    adaptive = solver.startswith("scipy")
    run = {"rtol": 1e-8, "atol": 1e-8} if adaptive else {"steps": 200, "grid": "log_snr"}
    latent = sk.solve(flow, x, t0=sde.t_min, t1=sde.t_max, solver=solver, **run).x
    back = sk.solve(flow, latent, t0=sde.t_max, t1=sde.t_min, solver=solver, **run).x
    assert float((latent - x).abs().max()) > 0.1
    # A first order method errs by about 1/N of the flow's length each way, one of order 2 by far less.
    assert float((back - x).abs().max()) < {"ddim": 0.3, "heun": 2e-2}.get(solver, 1e-4)


def test_tolerances_and_limits_are_checked():
    for name, value in (("rtol", 0.0), ("rtol", -1.0), ("atol", math.nan), ("max_nfe", 0), ("max_nfe", 1.5)):
        with pytest.raises(ArgumentError, match=name):
            sk.solvers.get("scipy:RK45", **{name: value})
    with pytest.raises(UnknownNameError, match="'RK45'"):
        sk.solvers.ScipyODE("RK46")
    with pytest.raises(UnknownNameError, match="'milstein'"):
        sk.solvers.TorchsdeSDE("milsten")
    with pytest.raises(ArgumentError, match="takes no steps"):
        sk.sample(RING.score_model(VPSDE()), 3, "scipy:RK45", steps=10)
    with pytest.raises(ArgumentError, match="takes no grid"):
        sk.sample(RING.score_model(VPSDE()), 3, "scipy:RK45", grid="karras")


@pytest.mark.parametrize("method", METHODS)
def test_a_non_finite_drift_names_the_time_and_the_sample(method):
    def blow_up(x: Tensor, t: Tensor) -> Tensor:
        return torch.where((x > 1.5) & (t > 0.3), torch.nan, -torch.ones_like(x) * 0.1)

    x = torch.tensor([[1.0], [1.0], [3.0]], dtype=torch.float64)
    for per_sample in (False, True):
        with pytest.raises(NonFiniteError, match=f"scipy:{method}") as caught:
            sk.solve(sk.ODE(blow_up), x, t0=0.0, t1=1.0, solver=f"scipy:{method}", per_sample=per_sample)
        assert caught.value.samples == [2]
        assert 0.3 < caught.value.time <= 1.0


def test_an_implicit_method_evaluates_by_the_sample_and_not_by_the_batch():
    # A Jacobian of 30 samples of 2 coordinates costs 2 evaluations more, not 60.
    model = gaussian_model(EDMSDE(t_max=10.0), 0.2, 0.5)
    few, many = (sk.sample(model, (n, 2), "scipy:Radau", seed=0).nfe for n in (2, 30))
    assert many < 1.5 * few


# torchsde ----------------------------------------------------------------------------------------------------------


class Equation(torch.nn.Module):
    """A problem as a user of torchsde would write it: diagonal noise, flat states."""

    noise_type = "diagonal"

    def __init__(self, calculus: str) -> None:
        super().__init__()
        self.sde_type = calculus

    def f(self, t: Tensor, y: Tensor) -> Tensor:
        return torch.sin(y) * (1 + t)

    def g(self, t: Tensor, y: Tensor) -> Tensor:
        return 0.3 * torch.cos(y) + 0.1 * t


class Increments(torchsde.BaseBrownian):
    """The Brownian motion with given increments on a grid of equal steps, and its space-time area."""

    def __init__(self, w: Tensor, h: Tensor, dt: float) -> None:
        super().__init__()
        self.w, self.h, self.dt = w, h, dt

    def __call__(self, ta, tb=None, return_U=False, return_A=False):
        k = round(float(ta) / self.dt)
        w = self.w[k] * math.sqrt(self.dt)
        u = self.dt * (0.5 * w + self.h[k] * math.sqrt(self.dt / 12))
        return (w, u) if return_U else w

    def __repr__(self) -> str:
        return "Increments"

    dtype, device, shape, levy_area_approximation = torch.float64, torch.device("cpu"), (5, 2), "space-time"


@pytest.mark.parametrize("method", TORCHSDE)
def test_torchsde_called_directly(method):
    calculus = "ito" if method in ("euler", "milstein", "srk") else "stratonovich"
    equation, steps = Equation(calculus), 8
    draws = torch.randn(2 * steps, 5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    w, h = (draws[0::2], draws[1::2]) if method == "srk" else (draws[:steps], draws[steps:])
    path = Increments(w, h, 1 / steps)
    y = start(5)
    span = torch.tensor([0.0, 1.0], dtype=torch.float64)
    direct = torchsde.sdeint(equation, y, span, bm=path, method=method, dt=1 / steps)[-1]
    following = iter(draws)
    sde = sk.SDE(lambda x, t: equation.f(t, x), lambda x, t: equation.g(t, x), calculus=calculus)
    out = sk.solve(sde, y, t0=0.0, t1=1.0, solver=f"torchsde:{method}", steps=steps, noise=lambda *_: next(following))
    assert torch.allclose(out.x, direct, rtol=1e-12, atol=1e-12)
    assert out.nfe == steps * sk.solvers.get(f"torchsde:{method}").evaluations_per_step + (method == "reversible_heun")


@pytest.mark.parametrize("method", TORCHSDE)
@pytest.mark.parametrize("shape", [(4,), (4, 3), (4, 2, 3), (2, 3, 2, 2)], ids=str)
def test_torchsde_takes_states_of_any_shape(method, shape):
    sde = sk.SDE(lambda x, t: -x, 0.5, noise="additive")
    x = torch.linspace(-1, 1, math.prod(shape), dtype=torch.float64).reshape(shape)
    out = sk.solve(sde, x, t0=0.0, t1=1.0, solver=f"torchsde:{method}", steps=4, seed=1)
    assert out.x.shape == shape
    flat = sk.solve(sde, x.reshape(shape[0], -1), t0=0.0, t1=1.0, solver=f"torchsde:{method}", steps=4, seed=1)
    assert torch.equal(out.x.reshape(shape[0], -1), flat.x)


@pytest.mark.parametrize("method", TORCHSDE)
def test_torchsde_in_either_direction_and_on_any_grid(method):
    # dx = -x dt backwards from 1 to 0 grows by e; with no noise to speak of the grid decides the rest.
    sde = sk.SDE(lambda x, t: -x, 1e-12, noise="additive")
    x = torch.ones(1, 1, dtype=torch.float64)
    places = (torch.arange(201, dtype=torch.float64) / 200) ** 2
    for times, expected in ((places, math.exp(-1.0)), (places.flip(0), math.exp(1.0))):
        out = sk.solve(sde, x, solver=f"torchsde:{method}", grid=times, seed=0)
        assert float(out.x) == pytest.approx(expected, rel=1e-2)  # Euler's at 200 steps: h, twice as long at the end


@pytest.mark.parametrize("method", TORCHSDE)
@pytest.mark.parametrize("noise", ["scalar", "general"])
def test_torchsde_and_the_kinds_of_noise(method, noise):
    if noise == "general" and method in ("milstein", "srk"):
        return
    calculus = "ito" if method in ("euler", "milstein", "srk") else "stratonovich"
    x = torch.ones(3000, 2, dtype=torch.float64)
    if noise == "scalar":
        sde = sk.SDE(lambda x, t: -x, lambda x, t: 0.4 * torch.ones_like(x), noise="scalar", calculus=calculus)
        covariance = torch.tensor([[0.16, 0.16], [0.16, 0.16]], dtype=torch.float64)
    else:
        matrix = torch.tensor([[0.4, 0.0, 0.1], [0.2, 0.3, 0.0]], dtype=torch.float64)
        sde = sk.SDE(lambda x, t: -x, matrix, noise="general", calculus=calculus, noise_dim=3)
        covariance = matrix @ matrix.T
    out = sk.solve(sde, x, t0=0.0, t1=1.0, solver=f"torchsde:{method}", steps=20, seed=2).x
    # Ornstein-Uhlenbeck: mean e^-1, covariance (1 - e^-2)/2 g g^T; 4 standard errors of 3000 and 5 % for the steps.
    assert torch.allclose(out.mean(0), torch.full((2,), math.exp(-1.0), dtype=torch.float64), atol=0.03)
    expected = 0.5 * (1 - math.exp(-2.0)) * covariance
    assert torch.allclose(torch.cov(out.T), expected, rtol=4 * math.sqrt(2 / 3000) + 0.06, atol=0.004)


@pytest.mark.parametrize("method", TORCHSDE)
def test_no_crash_at_interval_ends(method):
    # Times that are not exact in binary, and a grid whose sums round: torchsde must never ask for more than the step.
    sde = sk.SDE(lambda x, t: -x, 0.1, noise="additive")
    for t0, t1, steps in ((0.1, 0.7, 7), (1.0, 1e-5, 3), (0.3, 0.3 + 1e-9, 3), (1e6, 1e6 + 1, 3)):
        out = sk.solve(sde, torch.ones(2, 2), t0=t0, t1=t1, solver=f"torchsde:{method}", steps=steps, seed=0)
        assert out.status == "success"
        assert out.t == t1


def test_a_hundred_thousand_steps():
    sde = sk.SDE(lambda x, t: torch.zeros_like(x), 1.0, noise="additive")
    out = sk.solve(sde, torch.zeros(1, 1), t0=0.0, t1=1.0, solver="euler_maruyama", steps=100_000, seed=0)
    assert out.nfe == 100_000
    assert abs(float(out.x)) < 5  # N(0, 1)


def test_the_path_answers_only_for_its_own_step():
    w = torch.ones(2, 1)
    path = OneStepPath(0.25, 0.5, w, None)
    assert torch.equal(path(torch.tensor(0.25), torch.tensor(0.5)), w)
    assert path.levy_area_approximation == "none"
    for ask in ((0.25, 0.4), (0.2, 0.5), (0.25, None)):
        with pytest.raises(ArgumentError, match="asked for more"):
            path(*ask)
    with pytest.raises(ArgumentError, match="asked for more"):
        path(0.25, 0.5, return_U=True)
    both = OneStepPath(0.25, 0.5, w, 2 * w)
    assert torch.equal(both(0.25, 0.5, return_U=True)[1], 2 * w)
    assert both.levy_area_approximation == "space-time"


def test_torchsde_draws_nothing_of_its_own():
    sde = sk.SDE(lambda x, t: -x, 0.5, noise="additive")
    before = torch.get_rng_state()
    for method in TORCHSDE:
        sk.solve(sde, torch.ones(2, 2), t0=0.0, t1=1.0, solver=f"torchsde:{method}", steps=3, seed=0)
    assert torch.equal(before, torch.get_rng_state())


def test_scipy_and_torchsde_are_loaded_only_by_their_bridges():
    code = """
import sys, torch, sdekit as sk
sde = sk.VPSDE()
sk.sample(sk.ScoreModel(lambda x, t: x, sde), (2, 3), 'ddim', 3, seed=0)
sk.sample(sk.ScoreModel(lambda x, t: x, sde), (2, 3), 'euler_maruyama', 3, seed=0)
print([name for name in ('scipy.integrate', 'torchsde', 'sklearn', 'pandas', 'matplotlib') if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"
