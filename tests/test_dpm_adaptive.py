"""The adaptive DPM-Solver: its error, its bookkeeping for each sample, where it lands and how it gives up."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from _helpers import SDE_IDS, SDES, GaussianNetwork, gaussian_model
from torch import Tensor

import sdekit as sk
from sdekit.errors import ArgumentError, NonFiniteError, SdekitError
from sdekit.sdes import EDMSDE, VPSDE, DiffusionSDE

MEAN, STD = 0.3, 0.5
PAIRS = (2, 3)


class Recorder:
    """A network that notes the batch and the times of every call."""

    def __init__(self, network: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.network = network
        self.batches: list[int] = []
        self.times: list[Tensor] = []

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        self.batches.append(len(x))
        self.times.append(t.clone())
        return self.network(x, t)


def recorded(sde: DiffusionSDE) -> tuple[sk.ScoreModel, Recorder]:
    network = Recorder(GaussianNetwork(sde, MEAN, STD))
    return sk.ScoreModel(network, sde), network


def starts(rows: int = 6, d: int = 3, seed: int = 0) -> Tensor:
    return torch.randn(rows, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def uneven(sde: DiffusionSDE, rows: int = 6) -> Tensor:
    """Starts of very different size, which take different steps."""
    return starts(rows) * sde.prior_std() * torch.logspace(-1, 1, rows, dtype=torch.float64)[:, None]


def exact(x: Tensor, t: float, s: float, sde: DiffusionSDE) -> Tensor:
    return sk.targets.Gaussian(torch.full((x.shape[1],), MEAN, dtype=torch.float64), STD**2).flow_map(x, t, s, sde)


# Error ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sde", SDES, ids=SDE_IDS)
@pytest.mark.parametrize("pair", PAIRS)
def test_the_error_falls_with_the_tolerance(pair, sde):
    model, x = gaussian_model(sde, MEAN, STD), starts() * sde.prior_std()
    image = exact(x, sde.t_max, sde.t_min, sde)
    errors, work = [], []
    for tolerance in (1e-3, 1e-4, 1e-5) if pair == 2 else (1e-5, 1e-6, 1e-7):
        out = sk.sample(model, None, "dpm_adaptive", x_T=x, pair=pair, rtol=tolerance, atol=tolerance)
        errors.append(float((out.x - image).abs().max()))
        work.append(float(out.nfe.double().mean()))
        # The tolerance is of one step; the errors of all add up, to a few times as much.
        assert errors[-1] < 10 * tolerance
    # E is that of the lower order p - 1: steps go as tol^(1/p), and the error of the result, of order p, as tol.
    assert errors[2] < 0.05 * errors[0]
    assert work[2] / work[1] == pytest.approx(10 ** (1 / pair), rel=0.2)


def test_the_higher_pair_is_cheaper_where_it_is_exact():
    model, x = gaussian_model(VPSDE(), MEAN, STD), starts()
    second, third = (sk.sample(model, None, "dpm_adaptive", x_T=x, pair=p, rtol=1e-5, atol=1e-5) for p in PAIRS)
    assert (third.nfe < second.nfe / 2).all()


@pytest.mark.parametrize("pair", PAIRS)
def test_one_step_is_the_papers(pair):
    # Tolerances so loose that one attempt crosses all, of h_init's length.
    sde, x = EDMSDE(), starts()
    t, s = 3.0, 1.1

    def eps(y: Tensor, sigma: float) -> Tensor:
        return torch.tanh(y + 0.3 * sigma) + 0.1 * y

    model = sk.ScoreModel(lambda y, at: eps(y, float(at[0])), sde)
    how = {"pair": pair, "rtol": 1e3, "atol": 1e3, "h_init": 10.0}
    out = sk.sample(model, None, "dpm_adaptive", x_T=x, t_start=t, t_end=s, **how)
    named, options = ("dpm_solver_2", {"r1": 0.5}) if pair == 2 else ("dpm_solver_3", {})
    expected = sk.sample(model, None, named, grid=[t, s], x_T=x, **options).x
    assert out.nfe.tolist() == [pair] * 6
    assert torch.allclose(out.x, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("pair", PAIRS)
def test_the_error_estimate_is_the_difference_of_the_pair(pair):
    # The loosest tolerance that accepts one step is the RMS of high - low, written by the fixed solvers.
    sde, x = EDMSDE(), starts(1)
    t, s = 3.0, 1.1
    model = sk.ScoreModel(lambda y, at: torch.tanh(y + 0.3 * at[:, None]) + 0.1 * y, sde)
    two = [("ddim", {}), ("dpm_solver_2", {})] if pair == 2 else [("dpm_solver_2", {"r1": 1 / 3}), ("dpm_solver_3", {})]
    a, b = (sk.sample(model, None, name, grid=[t, s], x_T=x, **options).x for name, options in two)
    error = float((b - a).square().mean().sqrt())

    def rejected(atol: float) -> int:
        how = {"pair": pair, "rtol": 1e-300, "atol": atol, "h_init": 10.0}
        return sk.sample(model, None, "dpm_adaptive", x_T=x, t_start=t, t_end=s, **how).stats["rejected"][0]

    assert rejected(error * (1 + 1e-9)) == 0
    assert rejected(error * (1 - 1e-9)) > 0


def test_a_relative_tolerance_is_relative():
    # Data N(0, s^2) and a start scaled by 1000: the flow is linear, so the steps are the same with rtol alone.
    model = gaussian_model(VPSDE(), 0.0, STD)
    x = starts()
    small, large = (sk.sample(model, None, "dpm_adaptive", x_T=c * x, rtol=1e-3, atol=1e-300) for c in (1.0, 1024.0))
    assert torch.equal(small.nfe, large.nfe)
    assert torch.equal(1024 * small.x, large.x)
    absolute = sk.sample(model, None, "dpm_adaptive", x_T=1024 * x, rtol=1e-300, atol=1e-3)
    assert (absolute.nfe > small.nfe).all()


# Each sample for itself ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("end", [None, 0.0])
@pytest.mark.parametrize("pair", PAIRS)
def test_a_sample_alone_and_in_a_batch_is_the_same_to_the_bit(pair, end, dtype):
    model = gaussian_model(VPSDE(), MEAN, STD)
    x = uneven(VPSDE()).to(dtype)
    how = {"pair": pair, "rtol": 1e-3, "atol": 1e-3, "t_end": end}
    together = sk.sample(model, None, "dpm_adaptive", x_T=x, **how)
    assert len(set(together.nfe.tolist())) > 1  # they do take different steps
    for i in (0, 2, 5):
        alone = sk.sample(model, None, "dpm_adaptive", x_T=x[i : i + 1], **how)
        assert torch.equal(alone.x[0], together.x[i])
        assert alone.nfe.tolist() == together.nfe[i : i + 1].tolist()
        assert alone.stats["steps"] == together.stats["steps"][i : i + 1]
    chunks = sk.sample(model, None, "dpm_adaptive", x_T=x, chunk=4, **how)
    assert torch.equal(chunks.x, together.x)
    assert torch.equal(chunks.nfe, together.nfe)


@pytest.mark.parametrize("end", [None, 0.0])
@pytest.mark.parametrize("pair", PAIRS)
def test_every_evaluation_is_counted_for_the_samples_it_was_made_for(pair, end):
    sde = VPSDE()
    model, network = recorded(sde)
    out = sk.sample(model, None, "dpm_adaptive", x_T=uneven(sde), pair=pair, rtol=1e-4, atol=1e-5, t_end=end)
    assert sum(network.batches) == int(out.nfe.sum())
    last = 0 if end is None else 1
    steps, rejected = torch.tensor(out.stats["steps"]), torch.tensor(out.stats["rejected"])
    assert torch.equal(out.nfe, pair * (steps + rejected) + last)
    assert rejected.sum() > 0
    # Who has arrived leaves the batch: it never grows but for the one evaluation at the end of all.
    moving = network.batches[: len(network.batches) - last]
    assert moving == sorted(moving, reverse=True)
    assert (moving[0], moving[-1]) == (6, int((out.nfe == out.nfe.max()).sum()))
    if last:
        assert network.batches[-1] == 6


def test_who_has_arrived_waits_at_a_time_to_be_kept():
    # At each place all wait for the slowest, and all go on from there.
    sde = VPSDE()
    model, network = recorded(sde)
    flow = sk.ProbabilityFlow(model)
    x = uneven(sde)
    how = {"t0": 1.0, "t1": sde.t_min, "rtol": 1e-4, "atol": 1e-5, "solver": "dpm_adaptive"}
    out = sk.solve(flow, x, save_at=[0.3, 0.02], **how)
    assert sum(network.batches) == int(out.nfe.sum())
    for place in (1.0, 0.3, 0.02):
        together = [t for t in network.times if bool(((t - place).abs() < 1e-9).all())]
        assert [len(t) for t in together if len(t) == 6]
    assert min(network.batches) < 6


def test_conditions_go_with_their_rows():
    # Each sample's class shifts its mean: the classes must leave the batch with their samples.
    sde = VPSDE()
    means = torch.tensor([-1.0, 0.0, 2.0], dtype=torch.float64)
    seen = []

    def network(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        seen.append((len(x), len(y)))
        alpha, sigma = sde.alpha(t)[:, None], sde.sigma(t)[:, None]
        return sigma * (x - alpha * means[y][:, None]) / (alpha**2 * STD**2 + sigma**2)

    classes = torch.tensor([0, 2, 1, 0, 2, 1])
    model = sk.ScoreModel(network, sde)
    x = uneven(sde)
    how = {"rtol": 1e-6, "atol": 1e-6}
    out = sk.sample(model, None, "dpm_adaptive", x_T=x, condition={"y": classes}, t_end=0.0, **how)
    assert all(a == b for a, b in seen)
    assert {a for a, _ in seen} > {6}
    for i, y in enumerate(classes.tolist()):
        target = sk.targets.Gaussian(torch.full((3,), float(means[y]), dtype=torch.float64), STD**2)
        image = target.flow_map(x[i : i + 1], 1.0, sde.t_min, sde)
        # From t_min, DDIM's step to the data: D of the exact image.
        alpha, sigma = float(sde.alpha(sde.t_min)), float(sde.sigma(sde.t_min))
        denoised = (image - sigma * network(image, torch.tensor([sde.t_min]).double(), classes[i : i + 1])) / alpha
        assert torch.allclose(out.x[i : i + 1], denoised, rtol=1e-4, atol=1e-4)


# A limit of evaluations ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [None, 0.0])
@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("most", [1, 2, 7, 30])
def test_max_nfe_is_never_exceeded(most, pair, end):
    sde = VPSDE()
    model, network = recorded(sde)
    out = sk.sample(model, None, "dpm_adaptive", x_T=uneven(sde), pair=pair, max_nfe=most, t_end=end)
    assert int(out.nfe.max()) <= most
    assert sum(network.batches) == int(out.nfe.sum())
    assert torch.isfinite(out.x).all()
    free = sk.sample(model, None, "dpm_adaptive", x_T=uneven(sde), pair=pair, t_end=end)
    for i, status in enumerate(out.stats["status"]):
        done = int(free.nfe[i]) <= most
        assert status == ("success" if done else "max_nfe")
        assert torch.equal(out.x[i], free.x[i]) == done
    assert out.status == ("success" if int(free.nfe.max()) <= most else "max_nfe")


def test_a_limit_that_stops_some_and_not_others():
    model, x = gaussian_model(VPSDE(), MEAN, STD), uneven(VPSDE())
    free = sk.sample(model, None, "dpm_adaptive", x_T=x, rtol=1e-4, atol=1e-5)
    between = sorted(free.nfe.tolist())[3]
    out = sk.sample(model, None, "dpm_adaptive", x_T=x, rtol=1e-4, atol=1e-5, max_nfe=between, trajectory=True)
    assert 0 < out.stats["status"].count("success") < 6
    assert out.status == "max_nfe"
    assert out.t > VPSDE().t_min
    assert len(out.trajectory) == len(out.trajectory_times) == 1  # not all reached the end
    with pytest.raises(SdekitError, match="ended with status 'max_nfe'"):
        sk.decode(model, x, solver="dpm_adaptive", max_nfe=between)


def test_one_evaluation_short_of_the_denoised_end():
    # The way to t_min fits, the last evaluation does not.
    model, x = gaussian_model(EDMSDE(), MEAN, STD), 80 * starts(1)
    whole = sk.sample(model, None, "dpm_adaptive", x_T=x, t_end=0.0)
    short = sk.sample(model, None, "dpm_adaptive", x_T=x, t_end=0.0, max_nfe=int(whole.nfe[0]) - 1)
    assert (short.status, short.stats["status"]) == ("max_nfe", ["max_nfe"])
    assert int(short.nfe[0]) == int(whole.nfe[0]) - 1
    assert short.t == pytest.approx(EDMSDE().t_min, rel=1e-12)
    assert torch.equal(short.x, sk.sample(model, None, "dpm_adaptive", x_T=x).x)


# Where it lands ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("up", [False, True])
@pytest.mark.parametrize("sde", SDES, ids=SDE_IDS)
def test_it_lands_on_the_times_asked_for_in_both_directions(sde, up):
    model, network = recorded(sde)
    ends = (sde.t_min, sde.t_max) if up else (sde.t_max, sde.t_min)
    asked = [ends[0], 0.6 * sde.t_max, 0.2 * sde.t_max, ends[1]]
    asked = sorted(asked, reverse=not up)
    x = starts() * (0.7 if up else sde.prior_std())
    how = {"t0": ends[0], "t1": ends[1], "rtol": 1e-6, "atol": 1e-6}
    out = sk.solve(sk.ProbabilityFlow(model), x, solver="dpm_adaptive", save_at=asked, **how)
    assert out.trajectory_times.tolist() == asked
    assert (out.t, out.status) == (ends[1], "success")
    for time, state in zip(asked, out.trajectory, strict=True):
        image = exact(x, ends[0], time, sde)
        # Tolerances of 1e-6 a step, of states as large as the prior on the way up.
        assert torch.allclose(state, image, rtol=1e-4, atol=1e-4)
    assert torch.equal(out.trajectory[0], x)
    assert torch.equal(out.trajectory[-1], out.x)
    # Nothing is evaluated beyond an end.
    seen = torch.cat(network.times)
    assert min(ends) * (1 - 1e-9) <= float(seen.min())
    assert float(seen.max()) <= max(ends) * (1 + 1e-9)


def test_a_place_on_the_way_changes_no_more_than_the_tolerance():
    model, x = gaussian_model(VPSDE(), MEAN, STD), starts()
    flow = sk.ProbabilityFlow(model)
    how = {"t0": 1.0, "t1": 1e-3, "solver": "dpm_adaptive", "rtol": 1e-5, "atol": 1e-5}
    free, kept = sk.solve(flow, x, **how), sk.solve(flow, x, save_at=[0.5, 0.5 - 1e-7, 0.1], **how)
    assert torch.allclose(kept.x, free.x, atol=1e-4)
    # A step cut short (here to 1e-7) says nothing against the length planned: a place costs a step more, or two with
    # one rejected. Growing again from 1e-7 by five each time would take eight.
    assert (kept.nfe - free.nfe <= 3 * 5).all()


def test_a_trajectory_holds_both_ends():
    model, x = gaussian_model(VPSDE(), MEAN, STD), starts()
    out = sk.sample(model, None, "dpm_adaptive", x_T=x, trajectory=True)
    assert out.trajectory_times.tolist() == [1.0, VPSDE().t_min]
    assert torch.equal(out.trajectory, torch.stack([x, out.x]))


def test_encode_and_decode_are_inverses():
    model = gaussian_model(VPSDE(), MEAN, STD)
    x = MEAN + STD * starts()
    z = sk.encode(model, x, solver="dpm_adaptive")
    assert torch.allclose(z, exact(x, VPSDE().t_min, 1.0, VPSDE()), atol=1e-4)
    assert torch.allclose(sk.decode(model, z, solver="dpm_adaptive"), x, atol=1e-4)


@pytest.mark.parametrize("sde", [VPSDE(), EDMSDE()], ids=lambda sde: sde.name)
def test_to_sigma_0_the_last_evaluation_is_the_denoised_one(sde):
    model = gaussian_model(sde, MEAN, STD)
    x = uneven(sde)
    out = sk.sample(model, None, "dpm_adaptive", x_T=x, t_end=0.0, trajectory=True)
    to_t_min = sk.sample(model, None, "dpm_adaptive", x_T=x)
    assert torch.equal(out.nfe, to_t_min.nfe + 1)
    assert out.t == 0.0
    assert torch.allclose(out.x, model.denoised(to_t_min.x, sde.t_min), rtol=1e-13, atol=1e-14)
    assert out.trajectory_times.tolist() == [sde.t_max, 0.0]
    assert torch.equal(out.trajectory[-1], out.x)


def test_a_start_at_sigma_0_is_refused():
    model = gaussian_model(EDMSDE())
    with pytest.raises(ArgumentError, match="cannot start at sigma = 0"):
        sk.solve(sk.ProbabilityFlow(model), starts(), t0=0.0, t1=1.0, solver="dpm_adaptive")
    assert model.network.calls == 0


# What is no number, and what is refused ------------------------------------------------------------------------------


def test_a_network_that_is_nan_below_a_time_is_named():
    sde = VPSDE()

    def network(x: Tensor, t: Tensor) -> Tensor:
        good = 0.5 * x
        return torch.where((t < 0.25)[:, None] & (x[:, :1] > -10), torch.nan, good)

    x = starts()
    x[2] = -100.0  # this one is finite everywhere
    with pytest.raises(NonFiniteError, match=r"solver 'dpm_adaptive' reached a non-finite state at step \d+") as caught:
        sk.sample(sk.ScoreModel(network, sde), None, "dpm_adaptive", x_T=x)
    error = caught.value
    assert error.solver == "dpm_adaptive"
    assert error.time == pytest.approx(0.25, abs=1e-3)
    assert 2 not in error.samples
    assert set(error.samples) <= {0, 1, 3, 4, 5}


def test_a_network_that_is_nan_throughout_is_told_at_the_start():
    model = sk.ScoreModel(lambda x, t: x * math.nan, VPSDE())
    with pytest.raises(NonFiniteError, match=r"at step 1 \(t = 1\), in sample\(s\) 0, 1, 2, 3, 4, 5\."):
        sk.sample(model, None, "dpm_adaptive", x_T=starts())


def test_an_overflow_on_the_way_is_a_step_rejected():
    # Too long a first step is made again, shorter: not an error.
    model = sk.ScoreModel(lambda x, t: torch.where(x.abs() > 1e3, torch.inf, 0.3 * x), EDMSDE())
    x = starts()
    out = sk.sample(model, None, "dpm_adaptive", x_T=x, t_start=2.0, h_init=50.0)
    assert torch.isfinite(out.x).all()


@pytest.mark.parametrize("pair", PAIRS)
def test_a_network_may_answer_in_one_buffer(pair):
    sde = VPSDE()
    plain, buffer = GaussianNetwork(sde, MEAN, STD), torch.empty(6, 3, dtype=torch.float64)

    def network(x: Tensor, t: Tensor) -> Tensor:
        return buffer[: len(x)].copy_(plain(x, t))

    x = uneven(sde)
    expected = sk.sample(sk.ScoreModel(plain, sde), None, "dpm_adaptive", x_T=x, pair=pair)
    assert torch.equal(sk.sample(sk.ScoreModel(network, sde), None, "dpm_adaptive", x_T=x, pair=pair).x, expected.x)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pair": 1}, "pair must be 2 or 3"),
        ({"pair": 4}, "pair must be 2 or 3"),
        ({"pair": True}, "pair must be 2 or 3"),
        ({"rtol": 0.0}, "rtol must be a finite number above 0"),
        ({"rtol": math.nan}, "rtol"),
        ({"atol": -1.0}, "atol"),
        ({"atol": "tight"}, "atol"),
        ({"h_init": 0.0}, "h_init"),
        ({"h_init": math.inf}, "h_init"),
        ({"max_nfe": 0}, "max_nfe must be an integer of at least 1"),
        ({"max_nfe": 10.5}, "max_nfe"),
        ({"eta": 1.0}, "no option 'eta'"),
    ],
)
def test_options_that_make_no_sense(options, message):
    with pytest.raises(ArgumentError, match=message):
        sk.solvers.get("dpm_adaptive", **options)


@pytest.mark.parametrize("how", [{"steps": 5}, {"grid": "karras"}])
def test_it_takes_no_grid(how):
    with pytest.raises(ArgumentError, match="chooses its own steps"):
        sk.sample(gaussian_model(VPSDE()), (2, 1), "dpm_adaptive", seed=0, **how)


def test_a_denoise_at_the_end_that_is_not_finite_is_an_error():
    sde = sk.EDMSDE()
    model = sk.ScoreModel(
        lambda x, t: torch.where((t <= 1.01 * sde.t_min)[:, None] & (x.cumsum(0) != x), math.nan, 0.5 * x),
        sde,
        shape=(2,),
    )
    with pytest.raises(NonFiniteError, match="dpm_adaptive") as caught:
        sk.sample(model, 3, "dpm_adaptive", seed=0, t_end=0.0)
    assert caught.value.time == pytest.approx(sde.t_min)
    assert caught.value.samples == [1, 2]
