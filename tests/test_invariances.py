"""What a result must not depend on: batch, chunk, shape, watching, earlier calls, the global generator."""

from __future__ import annotations

import gc
import itertools
import math
import random
from typing import Any

import numpy as np
import pytest
import torch
from _helpers import CASES, FIXED, MODEL_NAMES, STOCHASTIC, Case, gaussian_model, is_slow
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import sdekit as sk
from sdekit import grids
from sdekit.errors import ArgumentError, UnsupportedError
from sdekit.sdes import EDMSDE, VPSDE
from sdekit.solvers import Observers, Solver, StepInfo, StepSolver

SDE = VPSDE()
SHAPES = [(1,), (3,), (2, 3, 3), (5, 13)]
pytestmark = pytest.mark.filterwarnings("ignore:the Langevin corrector:UserWarning")  # bits, not laws

# A case whose samples share a step or a norm is excused from the bits: it must say so, and refuse chunks.
INDEPENDENT = [c for c in CASES if not sk.solvers.get(c.name, **c.independent).couples_batch]
ONE_SCIPY = [c for c in INDEPENDENT if not c.name.startswith("scipy:") or c.name == "scipy:RK45"]


def model(shape: tuple[int, ...] | None = None) -> sk.ScoreModel:
    # N(0, 1) on VP: eps = sigma x, elementwise.
    return gaussian_model(SDE, shape=shape)


def run(case: Case, n_or_shape: Any, *, steps: int = 6, shape: tuple[int, ...] = (3,), **kwargs: Any) -> Tensor:
    loose = case.tolerances(1e-3)
    return case.sample(model(shape), n_or_shape, 3 if is_slow(case) else steps, **{**loose, **kwargs}).x


# Alone or in a batch, whole or in chunks ---------------------------------------------------------------------------


def test_all_but_shared_steps_and_batch_norms_are_independent():
    assert {c.name for c in INDEPENDENT} == set(MODEL_NAMES)
    assert sk.solvers.get("scipy:RK45").couples_batch
    assert sk.solvers.get("pc", norms="batch").couples_batch


@pytest.mark.parametrize("case", ONE_SCIPY, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_each_of_several_seeds_is_that_seed_alone(case, shape):
    seeds = [7, 0, 12345678901, 3, 7]
    together = run(case, 5, seeds=seeds, shape=shape)
    for i in (0, 2):
        assert torch.equal(together[i], run(case, 1, seeds=[seeds[i]], shape=shape)[0])
    assert torch.equal(together[0], together[4])
    assert not torch.equal(together[0], together[1])


@pytest.mark.parametrize("case", ONE_SCIPY, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_batch_is_the_first_of_a_larger_one(case, shape):
    larger = run(case, 12, seed=5, shape=shape)
    assert torch.equal(run(case, 7, seed=5, shape=shape), larger[:7])
    assert torch.equal(run(case, 4, seed=5, first=7, shape=shape), larger[7:11])
    assert torch.equal(run(case, 1, seed=5, first=11, shape=shape), larger[11:])


@pytest.mark.parametrize(
    ("case", "chunk"), [(c, 3) for c in INDEPENDENT] + [(c, k) for k in (1, 5) for c in ONE_SCIPY], ids=str
)
def test_chunks_are_the_whole(case, chunk):
    whole = run(case, 7, seed=5)
    assert torch.equal(run(case, 7, seed=5, chunk=chunk), whole)
    seeds = list(range(7))
    assert torch.equal(run(case, 7, seeds=seeds, chunk=chunk), run(case, 7, seeds=seeds))
    if chunk == 3 and case.solver.stochastic:
        lists = [[torch.Generator().manual_seed(i) for i in range(7)] for _ in range(2)]
        assert torch.equal(run(case, 7, generator=lists[0], chunk=chunk), run(case, 7, generator=lists[1]))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    case=st.sampled_from([c for c in INDEPENDENT if not is_slow(c) and not c.name.startswith("scipy:")]),
    n=st.integers(2, 80),
    d=st.integers(1, 40),
    cut=st.integers(1, 79),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_any_cut_of_any_batch(case, n, d, cut, dtype):
    # Vector instructions work on some elements and leave a rest: no size may give other bits.
    whole = run(case, n, seed=1, shape=(d,), steps=4, dtype=dtype)
    cut = min(cut, n - 1)
    assert torch.equal(run(case, n - cut, seed=1, first=cut, shape=(d,), steps=4, dtype=dtype), whole[cut:])
    assert torch.equal(run(case, n, seed=1, chunk=cut, shape=(d,), steps=4, dtype=dtype), whole)


@pytest.mark.parametrize("target", ["ring", "moons"])
@pytest.mark.parametrize("name", ["ddim", "ancestral", "heun"])
def test_an_exact_target_alone_and_in_a_batch(name, target):
    exact = sk.targets.named(target).score_model(SDE)
    whole = sk.sample(exact, 9, name, 8, seed=2).x
    for i in (0, 4, 8):
        alone = sk.sample(exact, 1, name, 8, seed=2, first=i).x[0]
        # To rounding: the target's own sums over components are matrix products, whose order depends on the batch.
        assert torch.allclose(alone, whole[i], rtol=1e-4, atol=1e-5)


def test_chunks_of_what_couples_samples_are_refused():
    for name, options in (("scipy:RK45", {}), ("pc", {"norms": "batch"})):
        steps = {} if name.startswith("scipy") else {"steps": 3}
        with pytest.raises(UnsupportedError, match=r"couples.*per_sample=True, norms='sample'"):
            sk.sample(model((3,)), 7, name, seed=0, chunk=3, **steps, **options)
        sk.sample(model((3,)), 7, name, seed=0, chunk=7, **steps, **options)
    with pytest.raises(ArgumentError, match="use seed="):
        sk.sample(model((3,)), 7, "ancestral", 3, generator=torch.Generator(), chunk=3)
    with pytest.raises(ArgumentError, match="use seed="):
        sk.sample(model((3,)), 7, "ancestral", 3, noise=lambda t, s, shape: torch.zeros(shape), chunk=3)
    for chunk in (0, -1, 2.5, "3"):
        with pytest.raises(ArgumentError, match="chunk"):
            sk.sample(model((3,)), 7, "ancestral", 3, seed=0, chunk=chunk)


def test_conditions_are_cut_with_the_batch():
    def network(x: Tensor, t: Tensor, label: Tensor, table: dict[str, Any]) -> Tensor:
        assert label.shape == (len(x),)
        assert table["rows"][0].shape == (len(x), 3)
        return 0.1 * x * label[:, None] + table["rows"][0] * table["scale"]

    condition = {
        "label": torch.arange(7.0),
        "table": {"rows": [torch.arange(21.0).reshape(7, 3)], "scale": torch.tensor(0.1)},
    }
    conditional = sk.ScoreModel(network, SDE, shape=(3,))
    whole = sk.sample(conditional, 7, "ancestral", 4, seed=0, condition=condition, denoise=True).x
    parts = sk.sample(conditional, 7, "ancestral", 4, seed=0, condition=condition, chunk=2, denoise=True).x
    assert torch.equal(whole, parts)


# Shapes and dtypes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=str)
def test_states_of_any_shape_agree_after_a_reshape(case):
    flat = run(case, 4, seed=3, shape=(24,))
    for shape in ((2, 12), (3, 2, 4), (1, 2, 3, 4)):
        assert torch.equal(run(case, 4, seed=3, shape=shape).reshape(4, 24), flat)


@pytest.mark.parametrize("case", [c for c in FIXED if c.name != "pc" and not c.options], ids=str)
def test_a_state_without_a_sample_dimension(case):
    flat = sk.sample(model(), (5, 1), case.name, 3, seed=3).x
    assert torch.equal(sk.sample(model(), (5,), case.name, 3, seed=3).x, flat[:, 0])


@pytest.mark.parametrize("case", FIXED, ids=str)
def test_a_start_of_any_strides(case):
    x = torch.randn(4, 6, 5, generator=torch.Generator().manual_seed(0))
    strided = torch.randn(4, 5, 6).mT.copy_(x)
    run_from = {"seed": 0, **case.options}
    a, b = (sk.sample(model(), None, case.name, 3, x_T=start, **run_from).x for start in (x, strided))
    assert not strided.is_contiguous()
    assert torch.equal(a, b)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_float32_is_float64_to_rounding(case):
    wide = run(case, 5, seed=3, dtype=torch.float64)
    narrow = run(case, 5, seed=3, dtype=torch.float32)
    assert wide.dtype == torch.float64
    assert narrow.dtype == torch.float32
    # The draws are the same numbers; a handful of steps amplifies float32 rounding to about 1e-5 of the state. An
    # adaptive solver's steps differ within its tolerance.
    tolerance = 1e-2 if case.solver.adaptive else 2e-5
    if case.name == "dormand_prince_8":
        tolerance = 2e-4  # its coefficients, of both signs, go up to 43
    assert torch.allclose(narrow.double(), wide, rtol=tolerance, atol=tolerance * float(wide.abs().max()))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_half_precision_states_keep_their_dtype_and_a_full_precision_time(case):
    seen = []

    def network(x: Tensor, t: Tensor) -> Tensor:
        seen.append((x.dtype, t.dtype))
        return x * SDE.sigma(t.double()).to(x.dtype)[:, None]

    half = sk.ScoreModel(network, SDE, shape=(16,))
    loose = case.tolerances(1e-1) or {"grid": "log_snr"}
    # So many steps that none is unstable: with a dozen, inner steps and correctors in eps magnify any rounding.
    out = case.sample(half, 4, 3 if is_slow(case) else 25, seed=3, dtype=torch.bfloat16, **loose)
    assert out.x.dtype == torch.bfloat16
    assert set(seen) == {(torch.bfloat16, torch.float32)}
    full = case.sample(sk.ScoreModel(network, SDE, shape=(16,)), 4, 3 if is_slow(case) else 25, seed=3, **loose).x
    # bfloat16 has 8 bits: a few steps of it are good to a few per cent of the state's scale; those of many stages,
    # whose coefficients of both signs go up to 13 and 43, to a little more.
    # The same for sosra's, up to 17, and for the many steps of an adaptive solve.
    many = case.name == "sosra" or (case.solver.adaptive and case.solver.stochastic)
    bound = 0.2 if many or (case.solver.order or 0) >= 5 else 0.1
    apart = (out.x.float() - full).abs()
    # A normal near a quantile may round to its other side, and be another of few values: of few of 1600 draws.
    worst = apart.quantile(0.95) if case.name == "dri1" else apart.max()
    assert float(worst) < bound * float(full.abs().max())


def test_the_start_given_is_not_written_into():
    for case in CASES:
        x = torch.full((3, 16), 0.5)
        case.sample(model(), None, 3, x_T=x, seed=0)
        assert torch.equal(x, torch.full((3, 16), 0.5)), case


# The start ---------------------------------------------------------------------------------------------------------


def test_the_prior_is_drawn_at_the_actual_start_with_the_datas_deviation():
    sde = EDMSDE()
    data = gaussian_model(sde, 0.0, 3.0, shape=(40,))
    for start in (None, 10.0, 0.5):
        starts = sk.sample(data, 500, "ddim", 1, seed=0, t_start=start, trajectory=True).trajectory[0]
        expected = math.hypot(3.0, 80.0 if start is None else start)
        # 4 standard errors of the deviation of 20000 draws
        assert float(starts.std()) == pytest.approx(expected, rel=4 / math.sqrt(2 * 20000))


def test_a_start_and_a_seed_give_the_draw_of_that_seed():
    drawn = sk.sample(model((3,)), 4, "ancestral", 5, seed=9, trajectory=True)
    given = sk.sample(model((3,)), None, "ancestral", 5, seed=9, x_T=drawn.trajectory[0])
    assert torch.equal(drawn.x, given.x)


def test_a_model_that_knows_its_shape_takes_a_number_and_another_takes_a_shape():
    a = sk.sample(model((2, 3)), 4, "ddim", 3, seed=0).x
    assert torch.equal(a, sk.sample(model((2, 3)), (4, 2, 3), "ddim", 3, seed=0).x)
    assert torch.equal(a, sk.sample(model(), (4, 2, 3), "ddim", 3, seed=0).x)
    assert torch.equal(a, sk.sample(model(), torch.Size([4, 2, 3]), "ddim", 3, seed=0).x)


# Watching changes no number ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", FIXED, ids=str)
def test_progress_callback_and_trajectory_change_nothing(case, capsys):
    plain = run(case, 4, seed=3)
    seen = []
    assert torch.equal(run(case, 4, seed=3, progress=True), plain)
    assert "step" in capsys.readouterr().err
    assert torch.equal(run(case, 4, seed=3, callback=lambda info: seen.append(info.step)), plain)
    assert torch.equal(run(case, 4, seed=3, trajectory=True), plain)
    assert capsys.readouterr().err == ""
    assert seen == list(range(1, len(seen) + 1))


@pytest.mark.parametrize("case", [c for c in CASES if c.solver.adaptive], ids=str)
def test_adaptive_solvers_show_progress_and_call_no_callback(case, capsys):
    assert torch.equal(run(case, 3, seed=3, progress=True), run(case, 3, seed=3))
    assert "T" in capsys.readouterr().err
    with pytest.raises(UnsupportedError, match="callback"):
        run(case, 3, seed=3, callback=print)


@pytest.mark.parametrize("case", FIXED, ids=str)
def test_a_callback_is_called_once_a_step_with_the_state_and_the_time(case):
    steps = 3 if is_slow(case) else 6
    calls = []
    out = case.sample(
        model((3,)),
        4,
        steps,
        seed=3,
        trajectory=True,
        callback=lambda info: calls.append((info.step, info.steps, info.t, info.x.clone())),
    )
    assert [c[:3] for c in calls] == [(k, steps, float(out.times[k])) for k in range(1, steps + 1)]
    assert torch.equal(torch.stack([c[3] for c in calls]), out.trajectory[1:])
    assert torch.equal(out.trajectory_times, out.times)
    assert out.trajectory.shape == (steps + 1, 4, 3)
    assert torch.equal(out.trajectory[-1], out.x)
    assert out.t == out.times[-1] == SDE.t_min
    assert out.status == "success"


@pytest.mark.parametrize("case", FIXED, ids=str)
def test_a_callback_may_change_the_state(case):
    steps = 3 if is_slow(case) else 6

    def replace(info: StepInfo) -> None:
        if info.step == steps - 1:
            info.x.copy_(torch.full_like(info.x, 0.25))

    changed = case.sample(model((3,)), 4, steps, seed=3, callback=replace, trajectory=True)
    assert torch.equal(changed.trajectory[-2], torch.full((4, 3), 0.25))
    other = case.sample(model((3,)), 4, steps, seed=3, callback=replace, x_T=torch.ones(4, 3))
    remembers = case.name == "torchsde:reversible_heun" or case.options.get("predictor") == "dpmpp_2m"
    if not remembers and sk.solvers.get(case.name).kind != "table":
        # A one-step method has forgotten where it came from.
        assert torch.equal(changed.x, other.x)
    assert not torch.equal(changed.x, run(case, 4, seed=3))


class OwnEuler(StepSolver):
    """A step solver of the user's own, which runs a model's flow by its formula and not as a table."""

    name, kind, reference, stochastic = "own", "step", "", False

    def step_formula(self, dynamics, x, t, s, h, noise):
        return x + h * dynamics.drift(x, t)

    def options(self):
        return {}


def test_a_callback_may_change_the_state_of_a_solver_of_the_users_own():
    run_it = {"x_T": torch.ones(4, 3), "steps": 5, "grid": "uniform"}
    plain = sk.sample(model(), None, OwnEuler(), **run_it).x
    assert torch.equal(sk.sample(model(), None, OwnEuler(), callback=lambda info: None, **run_it).x, plain)
    doubled = sk.sample(model(), None, OwnEuler(), callback=lambda info: info.x.mul_(2), **run_it).x
    assert torch.allclose(doubled, 2**5 * plain, rtol=1e-6)  # the flow of N(0, 1) is linear
    table = sk.sample(model(), None, "euler", variable="t", **run_it).x
    assert torch.allclose(plain, table, rtol=1e-5)


@pytest.mark.parametrize("case", FIXED, ids=str)
def test_a_callback_may_stop_the_solve(case):
    steps = 3 if is_slow(case) else 6
    whole = case.sample(model((3,)), 4, steps, seed=3, trajectory=True)
    out = case.sample(
        model((3,)), 4, steps, seed=3, trajectory=True, callback=lambda info: info.stop() if info.step == 2 else None
    )
    assert out.status == "stopped"
    assert out.t == float(whole.times[2])
    assert torch.equal(out.x, whole.trajectory[2])
    assert torch.equal(out.trajectory, whole.trajectory[:3])
    assert out.nfe < whole.nfe


def test_stopped_at_the_end_is_success():
    out = sk.sample(model((3,)), 4, "ddim", 3, seed=0, callback=lambda info: info.stop() if info.step == 3 else None)
    assert out.status == "success"


# No state between calls --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_solver_object_and_a_model_keep_nothing(case):
    m, solver = model((16,)), sk.solvers.get(case.name, **case.independent)
    before = dict(vars(solver))
    first = sk.sample(m, 3, solver, seed=0, **case.steps(3)).x
    sk.sample(gaussian_model(EDMSDE(), shape=(2, 16)), 5, solver, seed=4, **case.steps(4))
    assert torch.equal(sk.sample(m, 3, solver, seed=0, **case.steps(3)).x, first)
    assert vars(solver) == before
    assert m.counter.calls == 0


@pytest.mark.parametrize("case", CASES, ids=str)
def test_with_a_seed_no_global_generator_is_touched(case):
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    a = run(case, 3, seed=0)
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]
    torch.manual_seed(2)
    assert torch.equal(run(case, 3, seed=0), a)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_neither_the_default_dtype_nor_the_default_device_matters(case):
    plain = run(case, 3, seed=0, shape=(16,))
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(run(case, 3, seed=0, shape=(16,)), plain)
    finally:
        torch.set_default_dtype(torch.float32)
    torch.set_default_device("meta")  # anything made there holds no numbers
    try:
        assert torch.equal(run(case, 3, seed=0, shape=(16,)), plain)
    finally:
        torch.set_default_device(None)


# Generators: as a hand-written loop --------------------------------------------------------------------------------


def draws_of(case: Case, steps: int) -> int:
    """How often a case draws in `steps` steps, the prior not counted."""
    solver = case.solver
    if case.name == "pc":
        predictor, corrector = solver.predictor, solver.corrector
        moving = 0
        if predictor and predictor.stochastic:
            moving = int(predictor.table(SDE, default_times(predictor, steps)).draw.sum()) // steps
        each = (corrector.n_steps if corrector else 0) + moving
    elif solver.kind == "table":
        return int(solver.table(SDE, default_times(solver, steps)).draw.sum())
    else:
        each = {"torchsde:srk": 2}.get(case.name, 1 + getattr(solver, "areas", 0))
    return each * steps


def default_times(solver: Solver, steps: int) -> Tensor:
    return grids.make_grid(solver.default_grid).times(SDE, steps, SDE.t_max, SDE.t_min)


@pytest.mark.parametrize("case", STOCHASTIC, ids=str)
@pytest.mark.parametrize("shape", [(4, 3), (4, 8)], ids=["odd size", "multiple of 16"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("kind", ["one", "each", "global"])
def test_generators_are_consumed_as_by_randn(case, shape, dtype, kind):
    # The prior first, then draw after draw in the order of the steps, and not one number more.
    steps = 3 if is_slow(case) else 20
    torch.manual_seed(6)
    mine = {
        "one": torch.Generator().manual_seed(6),
        "each": [torch.Generator().manual_seed(i) for i in range(4)],
        "global": None,
    }[kind]
    got = case.sample(model(), shape, steps, generator=mine, dtype=dtype).x
    state = torch.get_rng_state()

    torch.manual_seed(6)
    one, each = torch.Generator().manual_seed(6), [torch.Generator().manual_seed(i) for i in range(4)]
    count = 0

    def by_hand(*_: Any) -> Tensor:
        nonlocal count
        count += 1
        if kind == "each":
            return torch.cat([torch.randn((1, *shape[1:]), generator=g, dtype=dtype) for g in each])
        return torch.randn(shape, generator=one if kind == "one" else None, dtype=dtype)

    x = by_hand() * SDE.prior_std(1.0, 1.0)
    expected = case.sample(model(), None, steps, x_T=x, noise=by_hand).x
    assert count == 1 + draws_of(case, steps)
    assert torch.equal(state, torch.get_rng_state())
    if kind == "one":
        assert torch.equal(mine.get_state(), one.get_state())
    if kind == "each":
        assert all(torch.equal(a.get_state(), b.get_state()) for a, b in zip(mine, each, strict=True))
    # Where a draw is scaled, and in which order three terms are added, is the executor's: rounding.
    rounding = 1e-5 if dtype == torch.float32 else 1e-13
    assert torch.allclose(got, expected, rtol=rounding, atol=rounding)


@pytest.mark.parametrize("shape", [(4, 3), (4, 8)], ids=["odd size", "multiple of 16"])
@pytest.mark.parametrize("how", ["stop", "callback"])
@pytest.mark.parametrize("name", ["ancestral", "euler_maruyama", "pc", "torchsde:euler"])
def test_a_solve_that_ends_early_consumes_what_it_used(name, how, shape):
    # As a loop that breaks: the next draw from the user's generator is the one that follows the last used.
    mine, theirs = (torch.Generator().manual_seed(6) for _ in range(2))
    early = {"stop": 5} if how == "stop" else {"callback": lambda info: info.stop() if info.step == 5 else None}
    out = sk.sample(model(), shape, name, 20, generator=mine, **early)
    assert out.status == "stopped"
    for _ in range(1 + (10 if name == "pc" else 5)):
        torch.randn(shape, generator=theirs)
    assert torch.equal(mine.get_state(), theirs.get_state())


def test_without_a_seed_two_runs_differ_and_manual_seed_repeats_them():
    torch.manual_seed(3)
    a, b = (sk.sample(model((3,)), 4, "ancestral", 5).x for _ in range(2))
    torch.manual_seed(3)
    assert torch.equal(sk.sample(model((3,)), 4, "ancestral", 5).x, a)
    assert not torch.equal(a, b)


def test_deterministic_solvers_with_a_start_draw_nothing():
    before = torch.get_rng_state()
    for case in CASES:
        if not case.solver.stochastic:
            case.sample(model(), None, 4, x_T=torch.ones(3, 2))
    assert torch.equal(before, torch.get_rng_state())


def test_a_loop_by_hand_with_one_generator():
    # The loop a user would write for Euler-Maruyama on the reverse SDE, in float64.
    g = torch.Generator().manual_seed(4)
    x = torch.randn(5, 3, generator=g, dtype=torch.float64)
    times = torch.linspace(1.0, 1e-3, 31, dtype=torch.float64).tolist()
    for t, s in itertools.pairwise(times):
        beta, dt = 0.1 + 19.9 * t, s - t
        score = -x
        x = (
            x
            + (-0.5 * beta * x - beta * score) * dt
            + math.sqrt(beta * -dt) * torch.randn(5, 3, generator=g, dtype=x.dtype)
        )
    mine = torch.Generator().manual_seed(4)
    textbook = sk.ScoreModel(
        lambda x, t: x * float(SDE.sigma(float(t[0]))), SDE
    )  # no data_std: the prior is N(0, sigma^2)
    out = sk.sample(textbook, (5, 3), "euler_maruyama", 30, generator=mine, dtype=torch.float64)
    prior = SDE.prior_std(1.0)
    assert prior == pytest.approx(1.0, abs=1e-4)  # the loop starts from N(0, 1)
    assert torch.allclose(out.x, x, rtol=1e-4, atol=1e-4)
    assert torch.equal(mine.get_state(), g.get_state())


# Noise that survives a change of step count ------------------------------------------------------------------------


def test_a_noise_function_gives_one_path_to_all_step_sizes():
    w = torch.cat(
        [torch.zeros(1, 5, 2), torch.randn(64, 5, 2, generator=torch.Generator().manual_seed(0)).cumsum(0) / 8]
    )
    w = w.double()

    def noise(t: float, s: float, shape: tuple[int, ...]) -> Tensor:
        return (w[round(64 * s)] - w[round(64 * t)]) / math.sqrt(s - t)

    brownian = sk.SDE(lambda x, t: torch.zeros_like(x), 2.0, noise="additive")
    x0 = torch.zeros(5, 2, dtype=torch.float64)
    for steps in (1, 4, 64):
        end = sk.solve(brownian, x0, t0=0.0, t1=1.0, steps=steps, noise=noise).x
        assert torch.allclose(end, 2 * w[-1], rtol=1e-12, atol=1e-12)


# Memory ------------------------------------------------------------------------------------------------------------


def _live_bytes() -> int:
    storages = {}
    for thing in gc.get_objects():
        if issubclass(type(thing), Tensor):  # isinstance would ask objects for a __class__ that warns
            storage = thing.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


@pytest.mark.parametrize(
    "case", [c for c in FIXED if not c.options and c.name not in ("drift_implicit", "skencarp")], ids=str
)  # implicit methods refuse a state of so many entries
def test_memory_does_not_grow_with_the_steps(case):
    d = 20000
    few, many = (3, 7) if is_slow(case) else (40, 150)
    base = gaussian_model(SDE)

    def live(steps: int) -> int:
        """Bytes of all tensors alive at the last call."""
        calls, seen = 0, 0
        last = case.sample(base, (1, 2), steps, seed=0).nfe

        def network(x: Tensor, t: Tensor) -> Tensor:
            nonlocal calls, seen
            calls += 1
            if calls == last:
                seen = _live_bytes()
            return base.network(x, t)

        gc.freeze()  # what was there before is not counted
        gc.disable()  # a cycle that waits for a collection is memory that grows
        try:
            case.sample(sk.ScoreModel(network, SDE), (1, d), steps, seed=0)
        finally:
            gc.enable()
            gc.unfreeze()
        return seen

    # Less than one state of 80 kB: schedules and labels are a few numbers a step.
    assert live(many) - live(few) < 4 * d


def test_nothing_of_the_states_is_kept_unless_a_trajectory_is_asked_for():
    out = sk.sample(model((1000,)), 2, "ancestral", 30, seed=0)
    assert out.trajectory is None
    assert out.trajectory_times is None
    held = {t.untyped_storage().data_ptr(): t.numel() for t in (out.x, out.state.x, *out.state.registers.values())}
    assert sum(held.values()) <= 2 * 2000


# Watching from outside ---------------------------------------------------------------------------------------------


def test_observers_are_off_by_default(capsys):
    assert Observers() == Observers(False, None, False)
    sk.sample(model((3,)), 2, "ddim", 3, seed=0)
    assert capsys.readouterr().err == ""


def test_gradients_are_not_recorded_and_the_users_mode_is_left_as_it_was():
    weight = torch.ones((), requires_grad=True)
    learned = sk.ScoreModel(lambda x, t: weight * x, SDE, shape=(16,))
    for case in CASES:
        x = case.sample(learned, 2, 3, seed=0).x
        assert not x.requires_grad, case
        assert not x.is_inference(), case
        assert torch.is_grad_enabled()
        (x * weight).sum().backward()  # the result is an ordinary tensor


def test_a_network_that_differentiates_inside_itself():
    def energy_network(x: Tensor, t: Tensor) -> Tensor:
        with torch.enable_grad():
            y = x.detach().requires_grad_(True)
            (score,) = torch.autograd.grad(-0.5 * y.square().sum(), y)
        return score

    def bare_network(x: Tensor, t: Tensor) -> Tensor:
        # Without enable_grad of its own, and asking it of the very tensor that it is given.
        (score,) = torch.autograd.grad(-0.5 * x.requires_grad_().square().sum(), x)
        return score

    plain = sk.ScoreModel(lambda x, t: -x, SDE, "score", shape=(16,))
    for network in (energy_network, bare_network):
        energy = sk.ScoreModel(network, SDE, "score", shape=(16,), needs_autograd=True)
        assert network.__name__ in repr(energy)
        # One that detaches its state has no derivative of its own, which implicit methods need.
        for case in (c for c in CASES if not c.solver.differentiates):
            a, b = (case.sample(m, 2, 3, seed=0, denoise=True).x for m in (energy, plain))
            assert torch.equal(a, b), case
            assert not a.requires_grad, case
        for solver in ("ddim", "rk4", "pc", "scipy:RK45"):  # under inference mode, too
            steps = {} if solver.startswith("scipy") else {"steps": 3}
            with torch.inference_mode():
                a, b = (sk.sample(m, 2, solver, **steps, seed=0).x for m in (energy, plain))
            assert torch.equal(a, b), solver
        state = sk.solvers.Heun().init(
            sk.solvers.Problem(
                sk.ProbabilityFlow(energy),
                torch.ones(2, 16),
                torch.tensor([1.0, 0.5], dtype=torch.float64),
                sk.noise.KeyedNoise(0),
            )
        )
        assert not sk.solvers.Heun().step(state).x.requires_grad
        assert torch.equal(sk.encode(energy, torch.ones(2, 16)), sk.encode(plain, torch.ones(2, 16)))


def test_a_likelihood_sees_through_a_network_that_differentiates():
    def energy_network(x: Tensor, t: Tensor) -> Tensor:
        y = x if x.requires_grad else x.requires_grad_()
        (score,) = torch.autograd.grad(-0.5 * y.square().sum(), y, create_graph=True)
        return score

    energy = sk.ScoreModel(energy_network, SDE, "score", shape=(3,), needs_autograd=True)
    plain = sk.ScoreModel(lambda x, t: -x, SDE, "score", shape=(3,))
    a, b = (sk.log_likelihood(m, torch.ones(2, 3), steps=5).log_prob for m in (energy, plain))
    assert torch.equal(a, b)
