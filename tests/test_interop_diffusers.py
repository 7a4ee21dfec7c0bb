"""ScoreSdeVpScheduler: bit parity with diffusers, config files, errors, and the claims of its docstring."""

from __future__ import annotations

import copy
import json
import logging
import math
import pickle
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

import sdekit as sk
from sdekit.errors import ArgumentError, ShapeError, UnsupportedError
from sdekit.interop.diffusers import ScoreSdeVpScheduler

PARAMETERS = ("num_train_timesteps", "beta_min", "beta_max", "sampling_eps")


@pytest.fixture(scope="module")
def theirs():
    """The class of diffusers, from its own module: `diffusers.schedulers` hides it unless transformers is there."""
    return pytest.importorskip("diffusers.schedulers.deprecated.scheduling_sde_vp").ScoreSdeVpScheduler


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network(x: Tensor, t: Tensor) -> Tensor:
    """A toy noise prediction that depends on x and t, in the dtype of x."""
    return torch.tanh(1.3 * x + t.reshape(-1, *[1] * (x.ndim - 1)).to(x.dtype))


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Equal in shape, dtype and value, where NaN equals NaN."""
    return a.dtype == b.dtype and a.shape == b.shape and bool(((a == b) | (a.isnan() & b.isnan())).all())


def trajectory(scheduler, x, *, steps, generators=None, t_dtype=torch.float32, t_shape=(), shift=0.0):
    """Every state and mean of a whole loop, and its global draws starting from a fixed seed."""
    scheduler.set_timesteps(steps)
    torch.manual_seed(5)
    out = []
    for t in scheduler.timesteps:
        time = (t * (1 - shift) + shift * 0.5).to(t_dtype).expand(t_shape)
        x, mean = scheduler.step_pred(network(x, time), x, time, generator=generators)
        out += [x, mean]
    return out


# The same bits as diffusers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3,), (3, 2), (2, 3, 5), (2, 3, 8, 8), (1, 2, 2, 3, 3)])
@pytest.mark.parametrize(
    ("x_dtype", "t_dtype"),
    [
        (torch.float32, torch.float32),
        (torch.float32, torch.float64),
        (torch.float64, torch.float32),
        (torch.float64, torch.float64),
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        # std is 0 in half precision near t = 0: the loop ends in NaN, in both classes at the same places.
        (torch.bfloat16, torch.bfloat16),
        (torch.float16, torch.float16),
    ],
    ids=str,
)
def test_a_loop_of_50_steps_has_the_same_bits(theirs, shape, x_dtype, t_dtype):
    x = torch.randn(shape, generator=generator(0)).to(x_dtype)
    mine, other = generator(1), generator(1)
    ours = trajectory(ScoreSdeVpScheduler(), x, steps=50, generators=mine, t_dtype=t_dtype)
    reference = trajectory(theirs(), x, steps=50, generators=other, t_dtype=t_dtype)
    assert all(same_bits(a, b) for a, b in zip(ours, reference, strict=True))
    assert torch.equal(mine.get_state(), other.get_state())


@pytest.mark.parametrize("t_shape", [(), (1,), (4,), (4, 1), (4, 1, 1)])
@pytest.mark.parametrize("shift", [0.0, 0.37], ids=["on the grid", "off the grid"])
def test_every_form_of_time_has_the_same_bits(theirs, t_shape, shift):
    x = torch.randn(4, 3, 5, generator=generator(0))
    arguments = {"steps": 17, "t_shape": t_shape, "shift": shift}
    ours = trajectory(ScoreSdeVpScheduler(), x, generators=generator(1), **arguments)
    reference = trajectory(theirs(), x, generators=generator(1), **arguments)
    assert all(same_bits(a, b) for a, b in zip(ours, reference, strict=True))


def test_one_time_per_sample_has_the_same_bits(theirs):
    # 1000 different times, so that any change in the order of the float32 operations shows.
    x = torch.randn(1000, 3, generator=generator(0))
    score, t = torch.randn(1000, 3, generator=generator(1)), torch.rand(1000, generator=generator(2)) * 0.999 + 1e-3
    for time in (t, t.reshape(1000, 1), torch.stack([t, t], 1)[:, 0], (t * 3).long() + 1):
        results = []
        for scheduler in (ScoreSdeVpScheduler(), theirs()):
            scheduler.set_timesteps(30)
            results.append(scheduler.step_pred(score, x, time, generator=generator(3)))
        assert all(same_bits(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("steps", [1, 2, 7, 1000])
@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"beta_min": 0.2, "beta_max": 13, "sampling_eps": 1e-5},
        {"beta_min": 0, "beta_max": 7.5, "sampling_eps": 0.3},
        {"beta_min": 2.0, "beta_max": 2.0},
    ],
    ids=str,
)
def test_grid_and_steps_have_the_same_bits_for_any_parameters(theirs, steps, parameters):
    ours, reference = ScoreSdeVpScheduler(**parameters), theirs(**parameters)
    x = torch.randn(2, 3, generator=generator(0))
    pairs = zip(trajectory(ours, x, steps=steps), trajectory(reference, x, steps=steps), strict=True)
    assert all(same_bits(a, b) for a, b in pairs)
    assert same_bits(ours.timesteps, reference.timesteps)


@pytest.mark.parametrize(
    "make",
    [
        lambda: None,
        lambda: generator(3),
        lambda: [generator(3)],
        lambda: [generator(3), generator(4), generator(5)],
        lambda: [generator(3), generator(4), generator(5), generator(6)],
    ],
    ids=["global", "one", "a list of one", "one a sample", "one to spare"],
)
def test_every_kind_of_generator_draws_the_same(theirs, make):
    x = torch.randn(3, 2, 4, generator=generator(0))
    results, states = [], []
    for scheduler in (ScoreSdeVpScheduler(), theirs()):
        generators = make()
        results.append(trajectory(scheduler, x, steps=5, generators=generators))
        used = generators if isinstance(generators, list) else [generators] * (generators is not None)
        states.append([torch.get_rng_state(), *[g.get_state() for g in used]])
    assert all(same_bits(a, b) for a, b in zip(*results, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(*states, strict=True))


def test_strided_states_and_broadcast_scores_have_the_same_bits(theirs):
    image = torch.randn(2, 3, 4, 4, generator=generator(0))
    cases = [
        (image.to(memory_format=torch.channels_last), image),
        (image.transpose(1, 3), image.transpose(1, 3)),
        (image, image[:1]),
        (image, image[:, :1]),
        (image, image[0, 0, 0]),
    ]
    for x, score in cases:
        results = []
        for scheduler in (ScoreSdeVpScheduler(), theirs()):
            scheduler.set_timesteps(10)
            results.append(scheduler.step_pred(score, x, scheduler.timesteps[4], generator=generator(1)))
        assert all(same_bits(a, b) for a, b in zip(*results, strict=True))


def test_gradients_through_a_step_have_the_same_bits(theirs):
    gradients = []
    for scheduler in (ScoreSdeVpScheduler(), theirs()):
        scheduler.set_timesteps(10)
        x = torch.randn(3, 2, generator=generator(0)).requires_grad_()
        t = scheduler.timesteps[3]
        moved, mean = scheduler.step_pred(network(x, t), x, t, generator=generator(1))
        gradients.append(torch.autograd.grad((moved * mean).sum(), x)[0])
    assert same_bits(*gradients)


def test_the_grid_follows_the_default_dtype_as_in_diffusers(theirs):
    ours, reference = ScoreSdeVpScheduler(), theirs()
    torch.set_default_dtype(torch.float64)
    try:
        ours.set_timesteps(9, device="cpu")
        reference.set_timesteps(9, device="cpu")
    finally:
        torch.set_default_dtype(torch.float32)
    assert ours.timesteps.dtype == torch.float64
    assert same_bits(ours.timesteps, reference.timesteps)


# Configs, both ways --------------------------------------------------------------------------------------------------

ARGUMENTS = {"num_train_timesteps": 1000, "beta_min": 0.2, "beta_max": 15, "sampling_eps": 1e-4}


@pytest.mark.parametrize("arguments", [{}, ARGUMENTS, {"beta_max": 12.5}], ids=["defaults", "all", "one"])
@pytest.mark.parametrize("subfolder", [None, "scheduler"])
def test_diffusers_reads_our_saved_config_and_we_read_theirs(theirs, tmp_path, arguments, subfolder):
    ours, reference = ScoreSdeVpScheduler(**arguments), theirs(**arguments)
    expected = {name: reference.config[name] for name in PARAMETERS}

    ours.save_pretrained(tmp_path / "ours" / (subfolder or ""))
    loaded = theirs.from_pretrained(tmp_path / "ours", subfolder=subfolder)
    assert {name: loaded.config[name] for name in PARAMETERS} == expected

    reference.save_pretrained(str(tmp_path / "theirs" / (subfolder or "")))
    back = ScoreSdeVpScheduler.from_pretrained(str(tmp_path / "theirs"), subfolder=subfolder)
    assert {name: back.config[name] for name in PARAMETERS} == expected
    assert len(back) == len(reference)

    texts = [
        Path(tmp_path / who / (subfolder or "") / "scheduler_config.json").read_text() for who in ("ours", "theirs")
    ]
    mine, other = map(json.loads, texts)
    other["_diffusers_version"] = mine["_diffusers_version"]  # the installed release may be newer than 0.42.1
    assert mine == other
    assert texts[0] == json.dumps(mine, indent=2, sort_keys=True) + "\n"


def test_configs_in_memory_pass_both_ways(theirs):
    ours = ScoreSdeVpScheduler(**ARGUMENTS)
    assert {k: theirs.from_config(ours.config).config[k] for k in PARAMETERS} == ARGUMENTS
    assert dict(ScoreSdeVpScheduler.from_config(theirs(**ARGUMENTS).config).config) == ARGUMENTS
    assert dict(ScoreSdeVpScheduler(**theirs(beta_max=9).config).config) == {
        **ScoreSdeVpScheduler().config,
        "beta_max": 9,
    }
    # diffusers marks arguments given by position as defaults, and then drops them itself; they are read here.
    by_position = theirs(*ARGUMENTS.values())
    assert dict(ScoreSdeVpScheduler.from_config(by_position.config).config) == ARGUMENTS


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"num_train_timesteps": 5, "foo": 1},
        {"beta_max": 3.0, "_class_name": "DDPMScheduler", "_diffusers_version": "0.1", "beta_start": 3},
        {"beta_min": 0.3, "num_train_timesteps": 7, "steps_offset": 1, "_use_default_values": ["num_train_timesteps"]},
    ],
    ids=["empty", "unknown entry", "another class", "defaulted entry"],
)
@pytest.mark.parametrize("overrides", [{}, {"beta_min": 0.4, "bar": 3}], ids=["as is", "overridden"])
def test_from_config_is_as_lenient_as_diffusers(theirs, config, overrides):
    ours, left_here = ScoreSdeVpScheduler.from_config(config, return_unused_kwargs=True, **overrides)
    reference, left_there = theirs.from_config(config, return_unused_kwargs=True, **overrides)
    expected = dict(reference.config)
    expected.pop("_use_default_values", None)
    assert dict(ours.config) == expected
    assert left_here == left_there


def test_a_config_of_another_diffusers_scheduler_gives_what_it_gives_there(theirs):
    diffusers = pytest.importorskip("diffusers")
    for other in (diffusers.DDPMScheduler(), diffusers.DDPMScheduler(num_train_timesteps=77)):
        ours, reference = (c.from_config(other.config) for c in (ScoreSdeVpScheduler, theirs))
        assert {k: ours.config[k] for k in PARAMETERS} == {k: reference.config[k] for k in PARAMETERS}
        # …and the extra entries survive the way back.
        assert diffusers.DDPMScheduler.from_config(ours.config).config.beta_schedule == other.config.beta_schedule


# Without diffusers ---------------------------------------------------------------------------------------------------

WITHOUT = """
import importlib.abc, sys

class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("diffusers", "huggingface_hub", "transformers"):
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Block())
import torch
from sdekit.interop.diffusers import ScoreSdeVpScheduler

scheduler = ScoreSdeVpScheduler.from_config({"beta_max": 15})
scheduler.save_pretrained(sys.argv[1])
scheduler = ScoreSdeVpScheduler.from_pretrained(sys.argv[1])
scheduler.set_timesteps(20)
x = torch.randn(2, 3)
for t in scheduler.timesteps:
    x, mean = scheduler.step_pred(torch.tanh(x), x, t)
try:
    import diffusers
except ImportError:
    print(scheduler.config.beta_max, len(scheduler), bool(mean.isfinite().all()))
"""


def test_it_works_without_diffusers(tmp_path):
    run = subprocess.run([sys.executable, "-c", WITHOUT, str(tmp_path)], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (0, "15 2000 True\n"), run.stderr


def test_one_step_is_the_formula_of_the_docstring():
    scheduler = ScoreSdeVpScheduler(beta_min=0.3, beta_max=11, sampling_eps=0.02)
    scheduler.set_timesteps(40)
    x, score = torch.randn(2, 5, 3, generator=generator(0), dtype=torch.float64).unbind()
    t = torch.linspace(0.02, 1, 5, dtype=torch.float64)
    moved, mean = scheduler.step_pred(score, x, t, generator=generator(1))

    z = torch.randn(5, 3, generator=generator(1), dtype=torch.float64).numpy()
    for i in range(5):
        beta = 0.3 + 10.7 * float(t[i])
        std = math.sqrt(-math.expm1(-(0.3 * float(t[i]) + 10.7 * float(t[i]) ** 2 / 2)))
        reverse_drift = -beta / 2 * x[i].numpy() + beta * score[i].numpy() / std
        expected = x[i].numpy() - reverse_drift / 40
        # Float64 rounding, of values of order 1 to 30; std cancels to no worse than 1e-14 at t = 0.02.
        np.testing.assert_allclose(mean[i].numpy(), expected, rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(moved[i].numpy(), expected + math.sqrt(beta / 40) * z[i], rtol=1e-12, atol=1e-13)


def test_the_grid_runs_from_one_to_eps_and_len_is_the_training_steps():
    scheduler = ScoreSdeVpScheduler(num_train_timesteps=321, sampling_eps=0.01)
    assert scheduler.timesteps is None
    scheduler.set_timesteps(np.int64(4))
    torch.testing.assert_close(scheduler.timesteps, torch.tensor([1.0, 0.67, 0.34, 0.01]))
    assert (len(scheduler), scheduler.order, scheduler.config_name) == (321, 1, "scheduler_config.json")


def test_a_number_for_t_is_a_time_of_the_grid():
    scheduler = ScoreSdeVpScheduler()
    scheduler.set_timesteps(4)
    x = torch.ones(2, 3)
    by_number = scheduler.step_pred(x, x, 0.37, generator=generator(0))
    by_tensor = scheduler.step_pred(x, x, torch.tensor(0.37), generator=generator(0))
    assert all(same_bits(a, b) for a, b in zip(by_number, by_tensor, strict=True))


def test_a_tuple_of_generators_is_a_list_of_them():
    scheduler = ScoreSdeVpScheduler()
    scheduler.set_timesteps(4)
    x = torch.ones(2, 3)
    a, _ = scheduler.step_pred(x, x, 0.37, generator=(generator(0), generator(1)))
    b, _ = scheduler.step_pred(x, x, 0.37, generator=[generator(0), generator(1)])
    assert torch.equal(a, b)


# What the docstring says about euler_maruyama ------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [10, 50, 1000, 4000])
def test_the_steps_cover_one_and_the_grid_covers_one_minus_eps(steps):
    scheduler = ScoreSdeVpScheduler()
    scheduler.set_timesteps(steps)
    t = scheduler.timesteps.double()
    # With no score the mean is x (1 - beta dt/2), so it tells dt.
    ones = torch.ones(steps, 1, dtype=torch.float64)
    _, mean = scheduler.step_pred(0 * ones, ones, t, generator=generator(0))
    dt = (1 - mean[:, 0]) * 2 / (0.1 + 19.9 * t)
    # float64 rounding of 1 - mean, over a mean - 1 of at least 1e-5; the times are float32 (6e-8).
    torch.testing.assert_close(dt, torch.full_like(dt, -1 / steps), rtol=1e-9, atol=0)
    assert float(dt.sum()) == pytest.approx(-1.0, rel=1e-9)
    assert float(t[0] - t[-1]) == pytest.approx(1 - 1e-3, abs=1e-7)
    assert float(t[-1] + dt[-1]) == pytest.approx(1e-3 - 1 / steps, abs=1e-7)
    clock = 1 - torch.arange(steps, dtype=torch.float64) / steps
    assert float((clock - t).abs().max()) == pytest.approx(abs(1 / steps - 1e-3), abs=2e-7)


@pytest.mark.parametrize(("steps", "agree"), [(50, True), (49, False)])
def test_it_is_euler_maruyama_from_one_to_zero_where_steps_are_one_over_eps(steps, agree):
    scheduler = ScoreSdeVpScheduler(sampling_eps=0.02)
    scheduler.set_timesteps(steps)
    model = sk.ScoreModel(network, sk.VPSDE(), prediction="noise")
    start = torch.randn(3, 2, generator=generator(0), dtype=torch.float64)
    x, draws = start, generator(1)
    for t in torch.linspace(1, 0.02, steps, dtype=torch.float64):
        x, mean = scheduler.step_pred(network(x, t), x, t, generator=draws)

    def solved(denoise: bool | str) -> Tensor:
        arguments = {"solver": "euler_maruyama", "steps": steps, "grid": "uniform", "x_T": start, "t_end": 0.0}
        return sk.sample(model, **arguments, generator=generator(1), denoise=denoise).x

    # 50 float64 steps of states of order 1 agree to rounding; one step less shifts the states by per cents.
    assert torch.allclose(x, solved(False), rtol=1e-11, atol=1e-12) == agree
    assert torch.allclose(mean, solved("mean"), rtol=1e-11, atol=1e-12) == agree


def test_the_error_of_the_step_length_does_not_vanish_as_the_steps_grow():
    """The chain is linear for Gaussian data, so its variance follows v <- f^2 v + beta/N with f read off one call."""
    data_std = 2.0

    def marginal(t: Tensor) -> tuple[Tensor, Tensor]:
        integral = 0.1 * t + 19.9 * t**2 / 2
        variance = torch.exp(-integral) * data_std**2 - torch.expm1(-integral)
        return variance, torch.sqrt(-torch.expm1(-integral))

    def terminal_std(t: Tensor, length: Tensor, factors: Tensor) -> float:
        variance = 1.0
        for factor, added in zip(factors.tolist(), ((0.1 + 19.9 * t) * length).tolist(), strict=True):
            mean_variance = factor**2 * variance
            variance = mean_variance + added
        return math.sqrt(mean_variance)

    steps = 20000
    scheduler = ScoreSdeVpScheduler()
    scheduler.set_timesteps(steps)
    t = torch.linspace(1, 1e-3, steps, dtype=torch.float64)
    variance, std = marginal(t)
    ones = torch.ones(steps, 1, dtype=torch.float64)
    _, mean = scheduler.step_pred((std / variance)[:, None], ones, t, generator=generator(0))
    ours = terminal_std(t, torch.full_like(t, 1 / steps), mean[:, 0])

    points = torch.linspace(1, 1e-3, steps + 1, dtype=torch.float64)
    t, gap = points[:-1], points[:-1] - points[1:]
    variance, _ = marginal(t)
    beta = 0.1 + 19.9 * t
    consistent = terminal_std(t, gap, 1 + gap * beta * (0.5 - 1 / variance))

    truth = math.sqrt(float(marginal(torch.tensor(1e-3, dtype=torch.float64))[0]))
    assert truth == pytest.approx(1.99992, abs=5e-6)
    assert ours == pytest.approx(2.00077, abs=5e-6)
    # Euler-Maruyama's own error at 20000 steps is 4e-5; at 200000 it is 4e-6.
    assert consistent == pytest.approx(truth, abs=5e-5)


def test_the_float32_std_loses_the_digits_that_the_docstring_says():
    def relative_error(low: float, high: float) -> float:
        t = torch.logspace(math.log10(low), math.log10(high), 200_000, dtype=torch.float64).float()
        scheduler = ScoreSdeVpScheduler()
        scheduler.set_timesteps(1)
        # At x = 0 with dt = -1 the mean is -beta score/std: with a float64 score, std comes out as it was computed.
        ones = torch.ones(t.shape[0], 1, dtype=torch.float64)
        _, mean = scheduler.step_pred(ones, 0 * ones, t, generator=generator(0))
        std = -(0.1 + t * 19.9).double() / mean[:, 0]
        integral = 0.1 * t.double() + 19.9 * t.double() ** 2 / 2
        return float((std / torch.sqrt(-torch.expm1(-integral)) - 1).abs().max())

    # Rounding to half an ulp just below 1, 3e-8, of the exponential, over 2 std^2 = 2.2e-4 and 2e-6.
    assert relative_error(1e-3, 1.0) == pytest.approx(1.4e-4, rel=0.05)
    assert relative_error(1e-5, 1e-3) == pytest.approx(1.44e-2, rel=0.05)


@pytest.mark.parametrize(("dtype", "zero_up_to"), [(torch.bfloat16, 0.0098), (torch.float16, 0.0020)], ids=str)
def test_a_half_precision_time_near_zero_is_not_finite(dtype, zero_up_to):
    scheduler = ScoreSdeVpScheduler()
    scheduler.set_timesteps(10)
    t = torch.linspace(1e-3, 0.05, 20_000).to(dtype).unique()
    ones = torch.ones(t.shape[0], 1)
    _, mean = scheduler.step_pred(ones, ones, t, generator=generator(0))
    bad = ~mean[:, 0].isfinite()
    assert float(t[bad].max()) == pytest.approx(zero_up_to, rel=0.02)
    half, _ = scheduler.step_pred(ones.to(dtype), ones.to(dtype), scheduler.timesteps[3])
    assert half.dtype == torch.float32


# The config object ---------------------------------------------------------------------------------------------------


def test_the_config_is_a_read_only_dict_with_attributes():
    scheduler = ScoreSdeVpScheduler(beta_max=15)
    config = scheduler.config
    assert isinstance(config, dict)
    assert config.beta_max == config["beta_max"] == 15
    assert dict(config) == {"num_train_timesteps": 2000, "beta_min": 0.1, "beta_max": 15, "sampling_eps": 1e-3}
    with pytest.raises(AttributeError, match="did you mean 'beta_max'"):
        _ = config.beta_mx
    for change in (
        lambda: setattr(config, "beta_max", 3),
        lambda: config.__setitem__("beta_max", 3),
        lambda: config.__delitem__("beta_max"),
        lambda: delattr(config, "beta_max"),
        lambda: config.pop("beta_max"),
        lambda: config.popitem(),
        lambda: config.update(beta_max=3),
        lambda: config.setdefault("new", 3),
        lambda: config.clear(),
        lambda: config.__ior__({"beta_max": 3}),
    ):
        with pytest.raises(UnsupportedError, match="read-only"):
            change()
    assert config.beta_max == 15


def test_register_to_config_changes_the_next_step():
    scheduler = ScoreSdeVpScheduler()
    scheduler.register_to_config(sampling_eps=0.5, note="mine")
    scheduler.set_timesteps(3)
    assert scheduler.timesteps.tolist() == [1.0, 0.75, 0.5]
    assert scheduler.config.note == "mine"
    with pytest.raises(ArgumentError, match="sampling_eps"):
        scheduler.register_to_config(sampling_eps=2)
    assert scheduler.config.sampling_eps == 0.5


def test_copies_and_pickles_are_equal_and_independent():
    scheduler = ScoreSdeVpScheduler(beta_max=15)
    scheduler.set_timesteps(3)
    for twin in (copy.deepcopy(scheduler), pickle.loads(pickle.dumps(scheduler))):
        assert twin.config == scheduler.config
        assert twin.config.beta_max == 15
        assert torch.equal(twin.timesteps, scheduler.timesteps)
        twin.set_timesteps(5)
    assert len(scheduler.timesteps) == 3


def test_saved_and_loaded_without_diffusers(tmp_path):
    scheduler = ScoreSdeVpScheduler(num_train_timesteps=np.int64(10), beta_min=np.float32(0.25), beta_max=3)
    scheduler.register_to_config(table=np.arange(3), origin=Path("a") / "b")
    scheduler.save_config(tmp_path / "model" / "scheduler")
    file = tmp_path / "model" / "scheduler" / "scheduler_config.json"
    assert json.loads(file.read_text()) == {
        "_class_name": "ScoreSdeVpScheduler",
        "_diffusers_version": "0.42.1",
        "num_train_timesteps": 10,
        "beta_min": 0.25,
        "beta_max": 3,
        "sampling_eps": 1e-3,
        "table": [0, 1, 2],
        "origin": "a/b",
    }
    for loaded in (
        ScoreSdeVpScheduler.from_pretrained(tmp_path / "model", subfolder="scheduler"),
        ScoreSdeVpScheduler.from_pretrained(
            str(tmp_path / "model" / "scheduler"), local_files_only=True, revision=None
        ),
        ScoreSdeVpScheduler.from_pretrained(file),
        ScoreSdeVpScheduler.from_config(ScoreSdeVpScheduler.load_config(tmp_path / "model", "scheduler")),
    ):
        assert loaded.to_json_string() == file.read_text()
        assert loaded.compatibles == [ScoreSdeVpScheduler]
    assert repr(scheduler) == "ScoreSdeVpScheduler " + file.read_text()
    changed, unused = ScoreSdeVpScheduler.from_pretrained(
        tmp_path / "model", "scheduler", return_unused_kwargs=True, beta_max=4, other=1
    )
    assert changed.config.beta_max == 4
    assert unused["other"] == 1


def test_a_missing_subfolder_falls_back_aloud(tmp_path, caplog):
    ScoreSdeVpScheduler(beta_max=15).save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING):
        loaded = ScoreSdeVpScheduler.from_pretrained(tmp_path, subfolder="scheduler")
    assert loaded.config.beta_max == 15
    assert "reading" in caplog.text


def test_an_unexpected_config_entry_is_ignored_aloud(caplog):
    with caplog.at_level(logging.WARNING):
        ScoreSdeVpScheduler.from_config({"beta_start": 1, "_class_name": "DDPMScheduler"})
        assert caplog.text == ""
        scheduler = ScoreSdeVpScheduler.from_config({"beta_start": 1})
    assert "beta_start" in caplog.text
    assert scheduler.config.beta_start == 1


# Errors --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"num_train_timesteps": 0}, "num_train_timesteps"),
        ({"num_train_timesteps": 10.5}, "num_train_timesteps"),
        ({"beta_min": -0.1}, "beta_min"),
        ({"beta_min": 21.0}, "beta_min <= beta_max"),
        ({"beta_min": 0.0, "beta_max": 0.0}, "beta_max > 0"),
        ({"beta_max": math.inf}, "beta_max must be a finite number"),
        ({"beta_max": "20"}, "beta_max must be a finite number"),
        ({"beta_min": True}, "beta_min must be a finite number"),
        ({"sampling_eps": 0.0}, "sampling_eps"),
        ({"sampling_eps": 1}, "sampling_eps"),
        ({"sampling_eps": math.nan}, "sampling_eps"),
    ],
    ids=str,
)
def test_parameters_out_of_range(parameters, message):
    with pytest.raises(ArgumentError, match=message):
        ScoreSdeVpScheduler(**parameters)
    with pytest.raises(ArgumentError, match=message):
        ScoreSdeVpScheduler.from_config(parameters)


def test_unknown_keywords_are_named_with_the_nearest_known(tmp_path):
    with pytest.raises(UnsupportedError, match="did you mean 'beta_max'"):
        ScoreSdeVpScheduler(beta_mx=3)
    with pytest.raises(TypeError, match="'wxyzq'"):
        ScoreSdeVpScheduler.from_config({}, wxyzq=3)
    ScoreSdeVpScheduler().save_pretrained(tmp_path)
    with pytest.raises(UnsupportedError, match="did you mean 'sampling_eps'"):
        ScoreSdeVpScheduler.from_pretrained(tmp_path, sampling_epsilon=3)


@pytest.mark.parametrize("steps", [0, -3, 2.0, True, None])
def test_set_timesteps_needs_a_positive_integer(steps):
    with pytest.raises(ArgumentError, match="num_inference_steps"):
        ScoreSdeVpScheduler().set_timesteps(steps)


def test_step_pred_before_set_timesteps():
    x = torch.zeros(2, 3)
    with pytest.raises(ValueError, match="set_timesteps"):
        ScoreSdeVpScheduler().step_pred(x, x, torch.tensor(0.5))


@pytest.mark.parametrize(
    ("score", "x", "t"),
    [
        ((2, 4), (2, 3), ()),
        ((3, 3), (2, 3), ()),
        ((2,), (2, 1), ()),  # would silently give (2, 2)
        ((2, 3), (2, 3), (3,)),
        ((1, 3), (1, 3), (4,)),
        ((2, 3), (2, 3), (2, 3)),
        ((2, 3), (2, 3), (0,)),
        ((), (), ()),
    ],
    ids=str,
)
def test_shapes_that_do_not_fit(score, x, t):
    scheduler = ScoreSdeVpScheduler()
    scheduler.set_timesteps(3)
    with pytest.raises(ShapeError, match="do not broadcast to x"):
        scheduler.step_pred(torch.zeros(score), torch.zeros(x), torch.full(t, 0.5))


def test_arguments_that_are_no_float_tensors():
    scheduler = ScoreSdeVpScheduler()
    scheduler.set_timesteps(3)
    x = torch.zeros(2, 3)
    with pytest.raises(ArgumentError, match=r"x must be a floating-point tensor, got torch\.int64"):
        scheduler.step_pred(x, x.long(), 0.5)
    with pytest.raises(ArgumentError, match=r"score must be a torch\.Tensor, got ndarray"):
        scheduler.step_pred(x.numpy(), x, 0.5)


def test_too_few_generators():
    scheduler = ScoreSdeVpScheduler()
    scheduler.set_timesteps(3)
    x = torch.zeros(3, 2)
    for generators in ([], [generator(0), generator(1)]):
        with pytest.raises(ArgumentError, match=f"got {len(generators)} generators for 3 samples"):
            scheduler.step_pred(x, x, 0.5, generator=generators)


def test_a_cpu_generator_serves_any_device_and_no_other_does():
    scheduler = ScoreSdeVpScheduler()
    scheduler.set_timesteps(3, device="meta")
    x = torch.zeros(2, 3, device="meta")
    moved, _ = scheduler.step_pred(x, x, scheduler.timesteps[0], generator=generator(0))
    assert moved.device == x.device

    scheduler.set_timesteps(3)
    elsewhere = SimpleNamespace(device=torch.device("cuda", 0))  # stands for a generator where there may be no GPU
    for generators in (elsewhere, [elsewhere] * 2):
        with pytest.raises(ArgumentError, match="a generator on cuda:0 cannot draw for a state on cpu"):
            scheduler.step_pred(torch.zeros(2, 3), torch.zeros(2, 3), 0.5, generator=generators)


def test_from_config_needs_a_mapping(tmp_path):
    for config in (None, str(tmp_path), 3):
        with pytest.raises(ArgumentError, match="from_pretrained"):
            ScoreSdeVpScheduler.from_config(config)


def test_from_pretrained_says_that_it_reads_local_folders_only(tmp_path):
    for path in ("google/ddpm-celebahq-256", "", tmp_path / "missing"):
        with pytest.raises(ArgumentError, match=r"only local folders are read.*hf download"):
            ScoreSdeVpScheduler.from_pretrained(path)
    with pytest.raises(ArgumentError, match="path of a local folder"):
        ScoreSdeVpScheduler.from_pretrained(None)
    with pytest.raises(ArgumentError, match=r"no file .*scheduler_config\.json"):
        ScoreSdeVpScheduler.from_pretrained(tmp_path, subfolder="scheduler")


@pytest.mark.parametrize(("text", "message"), [("{", "not valid JSON"), ("[1]", "holds a JSON list"), ("\xff", "JSON")])
def test_a_broken_config_file(tmp_path, text, message):
    (tmp_path / "scheduler_config.json").write_text(text, encoding="latin-1")
    with pytest.raises(ArgumentError, match=message):
        ScoreSdeVpScheduler.from_pretrained(tmp_path)


def test_what_cannot_be_saved(tmp_path):
    scheduler = ScoreSdeVpScheduler()
    (tmp_path / "file").touch()
    with pytest.raises(ArgumentError, match="needs a folder"):
        scheduler.save_pretrained(tmp_path / "file")
    with pytest.raises(UnsupportedError, match="hf upload"):
        scheduler.save_pretrained(tmp_path, push_to_hub=True)
    scheduler.register_to_config(network=object())
    with pytest.raises(ArgumentError, match="no JSON form"):
        scheduler.save_pretrained(tmp_path / "new")
    assert not (tmp_path / "new").exists()
