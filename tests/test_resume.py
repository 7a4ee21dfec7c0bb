"""Split and resumed solves equal whole ones; solves by hand equal `integrate`; saved states are plain values."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from _helpers import FIXED, SDES, Case, dynamics_for, gaussian_model, is_slow
from hypothesis import given, settings
from hypothesis import strategies as st

import sdekit as sk
from sdekit.errors import ArgumentError, UnsupportedError
from sdekit.noise import GeneratorNoise, KeyedNoise, SeedsNoise
from sdekit.sdes import VPSDE
from sdekit.solvers import HandState, Problem, SolveState

pytestmark = pytest.mark.filterwarnings("ignore:the Langevin corrector:UserWarning")  # bits, not laws
MODEL = gaussian_model(VPSDE(), 0.2, 0.5, shape=(3,))


def count(case: Case) -> int:
    return 6 if is_slow(case) else 20


def run(case: Case, **kwargs: Any) -> sk.solvers.Solution:
    return case.sample(MODEL, 4, count(case), **{"seed": 3, **kwargs})


def through_a_file(state: SolveState) -> SolveState:
    file = io.BytesIO()
    torch.save(state.to_dict(), file)
    file.seek(0)
    return SolveState.from_dict(torch.load(file, weights_only=True))


# Split and resumed -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", FIXED, ids=str)
@pytest.mark.parametrize("sources", [{"seed": 3}, {"seeds": [5, 6, 7, 8]}], ids=["seed", "seeds"])
def test_a_split_solve_is_the_whole_one(case, sources):
    steps = count(case)
    half = steps // 2
    sources = {"seed": None, **sources}
    whole = run(case, trajectory=True, **sources)
    first = run(case, stop=half, **sources)
    assert first.status == "stopped"
    assert first.state.step == half
    assert first.t == first.state.t == float(whole.times[half])
    assert torch.equal(first.x, whole.trajectory[half])
    second = run(case, resume=through_a_file(first.state), trajectory=True, **sources)
    assert second.status == "success"
    assert torch.equal(second.x, whole.x)
    assert torch.equal(second.trajectory, whole.trajectory[half:])
    assert torch.equal(second.trajectory_times, whole.trajectory_times[half:])
    assert second.nfe == whole.nfe
    assert second.stats["steps"] == steps


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    case=st.sampled_from([c for c in FIXED if not is_slow(c)]),
    cuts=st.lists(st.integers(0, 40), max_size=4).map(sorted),
    family=st.integers(0, len(SDES) - 1),
    d=st.sampled_from([1, 3, 64, 1100]),
    first=st.integers(0, 100),
)
def test_split_anywhere_any_number_of_times(case, cuts, family, d, first):
    model = gaussian_model(SDES[family], 0.2, 0.5, shape=(d,))

    def go(**kwargs: Any) -> sk.solvers.Solution:
        return case.sample(model, 2, 40, seed=1, first=first, **kwargs)

    whole, state = go(), None
    for cut in cuts:
        state = through_a_file(go(resume=state, stop=cut).state)
    last = go(resume=state)
    assert torch.equal(last.x, whole.x)
    assert last.nfe == whole.nfe


@pytest.mark.parametrize("case", FIXED, ids=str)
def test_the_final_denoise_comes_once_after_the_last_part(case):
    whole = run(case, denoise=True)
    part = run(case, denoise=True, stop=3)
    assert part.nfe == run(case, stop=3).nfe  # nothing is denoised in between
    rest = run(case, denoise=True, resume=part.state)
    assert torch.equal(rest.x, whole.x)
    assert rest.nfe == whole.nfe


def test_the_last_noise_is_left_out_of_a_resumed_solve_too():
    whole = sk.sample(MODEL, 4, "ancestral", 6, seed=3, denoise="mean")
    part = sk.sample(MODEL, 4, "ancestral", 6, seed=3, denoise="mean", stop=2)
    assert torch.equal(sk.sample(MODEL, 4, "ancestral", 6, seed=3, denoise="mean", resume=part.state).x, whole.x)


def test_a_solve_stopped_by_a_callback_goes_on():
    whole = sk.sample(MODEL, 4, "ancestral", 8, seed=3)
    part = sk.sample(MODEL, 4, "ancestral", 8, seed=3, callback=lambda info: info.stop() if info.step == 3 else None)
    assert part.state.step == 3
    assert torch.equal(sk.sample(MODEL, 4, "ancestral", 8, seed=3, resume=part.state).x, whole.x)


def test_resuming_at_the_end_and_stopping_at_the_start_do_nothing():
    whole = sk.sample(MODEL, 4, "ancestral", 5, seed=3)
    again = sk.sample(MODEL, 4, "ancestral", 5, seed=3, resume=whole.state)
    assert torch.equal(again.x, whole.x)
    assert again.nfe == whole.nfe
    none = sk.sample(MODEL, 4, "ancestral", 5, seed=3, stop=0, trajectory=True)
    assert none.nfe == 0
    assert none.status == "stopped"
    assert none.t == 1.0
    assert none.trajectory.shape == (1, 4, 3)


@pytest.mark.parametrize("name", ["euler_maruyama", "torchsde:srk", "torchsde:reversible_heun", "torchsde:euler"])
def test_a_split_solve_of_an_sde(name):
    sde = sk.SDE(lambda x, t: torch.sin(x), 0.5, noise="additive")
    solve = {"t0": 0.0, "t1": 1.0, "solver": name, "steps": 8, "seed": 1}
    x = torch.ones(3, 2, dtype=torch.float64)
    whole = sk.solve(sde, x, **solve)
    part = sk.solve(sde, x, stop=3, **solve)
    assert torch.equal(sk.solve(sde, x, resume=through_a_file(part.state), **solve).x, whole.x)


def test_save_at_of_a_resumed_solve_keeps_the_times_that_were_asked_for():
    decay, x = sk.ODE(lambda x, t: -x), torch.ones(2, 1, dtype=torch.float64)
    solve = {"t0": 0.0, "t1": 1.0, "solver": "rk4", "steps": 8, "save_at": [0.3, 0.7, 1.0]}
    whole = sk.solve(decay, x, **solve)
    assert whole.trajectory_times.tolist() == [0.3, 0.7, 1.0]
    part = sk.solve(decay, x, stop=5, **solve)
    assert part.trajectory_times.tolist() == [0.3]
    rest = sk.solve(decay, x, resume=part.state, **solve)
    assert rest.trajectory_times.tolist() == [0.7, 1.0]
    assert torch.equal(torch.cat([part.trajectory, rest.trajectory]), whole.trajectory)


# The saved state ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", FIXED, ids=str)
def test_a_saved_state_is_a_plain_value(case):
    state = run(case, stop=2).state
    plain = state.to_dict()
    assert set(plain) == {
        "x",
        "step",
        "t",
        "registers",
        "noise_positions",
        "nfe",
        "solver",
        "dynamics",
        "noise",
        "start",
    }
    json.dumps({k: v for k, v in plain.items() if k not in ("x", "registers")})
    again = through_a_file(state)
    assert again.noise_positions == state.noise_positions
    assert torch.equal(again.x, state.x)
    assert {k: v.tolist() for k, v in again.registers.items()} == {k: v.tolist() for k, v in state.registers.items()}


@pytest.mark.parametrize("case", FIXED, ids=str)
def test_a_saved_state_does_not_move_with_the_solve(case):
    # It holds copies: going on from it, twice, leaves it as it was.
    state = run(case, stop=2).state
    kept = through_a_file(state)
    a, b = run(case, resume=state).x, run(case, resume=state).x
    assert torch.equal(a, b)
    assert torch.equal(state.x, kept.x)
    assert all(torch.equal(v, kept.registers[k]) for k, v in state.registers.items())


# What is refused ---------------------------------------------------------------------------------------------------


def test_a_state_of_another_problem_is_refused():
    state = sk.sample(MODEL, 4, "ancestral", 6, seed=3, stop=3).state
    for kwargs, said in (
        ({"n_or_shape": 5}, "the problem"),
        ({"dtype": torch.float64}, "float64"),
        ({"steps": 7}, "not on this grid"),
        ({"grid": "karras"}, "not on this grid"),
        ({"t_end": 0.1}, "not on this grid"),
    ):
        with pytest.raises(ArgumentError, match=said):
            sk.sample(MODEL, solver="ancestral", seed=3, resume=state, **{"n_or_shape": 4, "steps": 6, **kwargs})


@pytest.mark.parametrize("stop", [-1, 7, 2.5, "3", True])
def test_stop_is_a_number_of_steps(stop):
    with pytest.raises(ArgumentError, match="stop"):
        sk.sample(MODEL, 4, "ancestral", 6, seed=3, stop=stop)


def test_stop_before_the_resumed_step_is_refused():
    state = sk.sample(MODEL, 4, "ancestral", 6, seed=3, stop=3).state
    with pytest.raises(ArgumentError, match="stop must be from 3 to 6"):
        sk.sample(MODEL, 4, "ancestral", 6, seed=3, resume=state, stop=2)


@pytest.mark.parametrize("other", ["ddim", "heun", "rk4", "pc", "torchsde:srk", "torchsde:reversible_heun"])
def test_a_state_of_another_solver_is_refused(other):
    # Neither a KeyError nor, worse, a silent mixture of two methods' registers.
    state = sk.sample(MODEL, 4, "ancestral", 6, seed=3, stop=3).state
    with pytest.raises(ArgumentError, match="state"):
        sk.sample(MODEL, 4, other, 6, grid="uniform", seed=3, resume=state)
    mine = sk.sample(MODEL, 4, other, 6, grid="uniform", seed=3, stop=3).state
    if mine.registers or len(mine.noise_positions) != 1:
        with pytest.raises(ArgumentError, match="state"):
            sk.sample(MODEL, 4, "ancestral", 6, seed=3, resume=mine)


def test_a_state_of_the_same_solver_with_other_options_is_refused():
    state = sk.sample(MODEL, 4, "ddim", 6, eta=0.5, seed=3, stop=3).state
    with pytest.raises(ArgumentError, match=r"eta=0\.5.*eta=1\.0"):
        sk.sample(MODEL, 4, "ddim", 6, eta=1.0, seed=3, resume=state)


@pytest.mark.parametrize("name", ["ancestral", "pc", "torchsde:srk", "euler_maruyama"])
@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        ({"seed": 2}, r"noise KeyedNoise\(seed=3, first=0\), not KeyedNoise\(seed=2"),
        ({"first": 4}, r"first=0\), not .*first=4"),
        ({"seed": None, "seeds": [3, 4, 5, 6]}, r"SeedsNoise\(\[3, 4, 5, 6\]\)"),
        ({"x_T": torch.ones(4, 3), "n_or_shape": None}, "another start"),
        ({"model": gaussian_model(VPSDE(0.1, 20.0, t_min=1e-3), 0.2, 0.6, shape=(3,))}, "dynamics"),
        ({"model": gaussian_model(VPSDE(0.1, 19.0), 0.2, 0.5, shape=(3,))}, r"beta_max=20.*beta_max=19"),
        ({"model": sk.ScoreModel(MODEL.network, VPSDE(), "data", shape=(3,))}, "prediction='data'"),
        ({"model": MODEL.with_condition(y=1)}, r"condition=\[\], not .*condition=\['y'\]"),
    ],
    ids=["seed", "first", "seeds", "start", "data", "SDE", "prediction", "condition"],
)
def test_a_state_of_another_solve_is_refused(name, kwargs, said):
    given = {"model": MODEL, "n_or_shape": 4, "solver": name, "steps": 6, "grid": "uniform", "seed": 3}
    state = through_a_file(sk.sample(**given, stop=3).state)
    with pytest.raises(ArgumentError, match=said):
        sk.sample(**{**given, **kwargs}, resume=state)
    # Again when it was resumed once.
    state = through_a_file(sk.sample(**given, resume=state, stop=5).state)
    with pytest.raises(ArgumentError, match=said):
        sk.sample(**{**given, **kwargs}, resume=state)


def test_a_state_of_one_target_is_not_resumed_on_another():
    ring, moons = sk.targets.ring().score_model(VPSDE()), sk.targets.moons().score_model(VPSDE())
    state = sk.sample(ring, 4, "ddim", 6, seed=3, stop=3).state
    with pytest.raises(ArgumentError, match="dynamics"):
        sk.sample(moons, 4, "ddim", 6, seed=3, resume=state)


def test_an_ode_takes_no_draws_so_its_seed_is_free():
    whole = sk.sample(MODEL, 4, "ddim", 6, seed=3)
    state = sk.sample(MODEL, 4, "ddim", 6, seed=3, stop=3).state
    start = sk.sample(MODEL, 4, "ddim", 6, seed=3, stop=0).x
    assert torch.equal(sk.sample(MODEL, None, "ddim", 6, x_T=start, seed=9, resume=state).x, whole.x)
    nudged = start * (1 + 1e-6)  # the prior may round otherwise on another machine
    assert torch.equal(sk.sample(MODEL, None, "ddim", 6, x_T=nudged, resume=state).x, whole.x)


def test_a_state_saved_by_an_earlier_version_is_taken():
    state = sk.sample(MODEL, 4, "ancestral", 6, seed=3, stop=3).state
    old = {k: v for k, v in state.to_dict().items() if k not in ("dynamics", "noise", "start")}
    again = sk.sample(MODEL, 4, "ancestral", 6, seed=3, resume=SolveState.from_dict(old))
    assert torch.equal(again.x, sk.sample(MODEL, 4, "ancestral", 6, seed=3).x)


def test_dynamics_of_ones_own_are_known_again_in_another_process():
    # Without the addresses that a default repr holds.
    class Own:
        def __call__(self, x, t):
            return -x

    runs = [{"dynamics": sk.SDE(Own(), Own()), "x0": torch.ones(2, 1), "t0": 0.0, "t1": 1.0, "seed": 1} for _ in "ab"]
    state = sk.solve(**runs[0], steps=4, stop=2).state
    assert torch.equal(sk.solve(**runs[1], steps=4, resume=state).x, sk.solve(**runs[0], steps=4).x)
    assert "0x" not in state.dynamics


def test_resume_takes_a_state_and_not_its_dict():
    state = sk.sample(MODEL, 4, "ancestral", 6, seed=3, stop=3).state
    with pytest.raises(ArgumentError, match="from_dict"):
        sk.sample(MODEL, 4, "ancestral", 6, seed=3, resume=state.to_dict())


def test_adaptive_solvers_chunks_and_noise_without_positions_cannot_be_split():
    state = sk.sample(MODEL, 4, "ancestral", 6, seed=3, stop=3).state
    with pytest.raises(UnsupportedError, match="cannot be split"):
        sk.sample(MODEL, 4, "scipy:RK45", seed=3, stop=3)
    with pytest.raises(ArgumentError, match="chunk"):
        sk.sample(MODEL, 4, "ancestral", 6, seed=3, stop=3, chunk=2)
    with pytest.raises(UnsupportedError, match="seed="):
        sk.sample(MODEL, 4, "ancestral", 6, generator=torch.Generator(), resume=state)
    with pytest.raises(UnsupportedError, match="seed="):
        sk.sample(MODEL, None, "ancestral", 6, x_T=torch.ones(4, 3), noise=lambda t, s, n: torch.zeros(n), resume=state)


# By hand -----------------------------------------------------------------------------------------------------------


def problem(case: Case, source: Any = None, steps: int = 5) -> Problem:
    times = torch.linspace(1.0, 0.01, steps + 1, dtype=torch.float64)
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    return Problem(dynamics_for(case.solver, MODEL), x, times, source or KeyedNoise(2))


@pytest.mark.parametrize("case", FIXED, ids=str)
@pytest.mark.parametrize(
    "source",
    [
        lambda: KeyedNoise(2),
        lambda: SeedsNoise([4, 5, 6, 7]),
        lambda: GeneratorNoise(torch.Generator().manual_seed(1)),
        lambda: GeneratorNoise([torch.Generator().manual_seed(i) for i in range(4)]),
    ],
    ids=["seed", "seeds", "generator", "generators"],
)
def test_init_and_step_are_integrate(case, source):
    solver = case.solver
    whole = solver.integrate(problem(case, source()))
    state = solver.init(problem(case, source()))
    assert (state.t, state.nfe) == (1.0, 0)
    for k in range(5):
        assert state.value.step == k
        state = solver.step(state)
    assert torch.equal(state.x, whole.x)
    assert state.t == whole.t
    assert state.nfe == whole.nfe
    with pytest.raises(ArgumentError, match="no step 6"):
        solver.step(state)


@pytest.mark.parametrize("case", FIXED, ids=str)
def test_a_step_by_hand_leaves_the_state_given_as_it_is(case):
    solver = case.solver
    zero = solver.init(problem(case))
    one = solver.step(zero)
    two = solver.step(one)
    kept = one.x.clone()
    three = solver.step(two)
    # Back to any earlier state, in any order.
    assert torch.equal(solver.step(one).x, two.x)
    assert torch.equal(solver.step(two).x, three.x)
    assert torch.equal(solver.step(zero).x, kept)
    assert torch.equal(one.x, kept)
    assert solver.step(one).nfe == two.nfe
    saved = solver.init(problem(case)).at(through_a_file(two.value))
    assert isinstance(saved, HandState)
    assert torch.equal(solver.step(saved).x, three.x)


@pytest.mark.parametrize("case", [c for c in FIXED if not c.options], ids=str)
@pytest.mark.parametrize("seekable", [True, False])
def test_a_state_changed_by_hand_is_the_one_that_is_moved(case, seekable):
    source = KeyedNoise(2) if seekable else GeneratorNoise(torch.Generator().manual_seed(1))
    solver = case.solver
    state = solver.step(solver.init(problem(case, source)))
    changed = state.at(replace(state.value, x=torch.full((4, 3), 0.25)))
    ends = []

    def record(info: sk.solvers.StepInfo) -> None:
        if info.step == 1:
            info.x.fill_(0.25)
        ends.append(info.x.clone())

    again = KeyedNoise(2) if seekable else GeneratorNoise(torch.Generator().manual_seed(1))
    solver.integrate(problem(case, again), sk.solvers.Observers(callback=record))
    assert torch.equal(solver.step(changed).x, ends[1])


def test_a_generator_cannot_step_back_by_hand():
    case = Case("ancestral")
    solver = case.solver
    zero = solver.init(problem(case, GeneratorNoise(torch.Generator())))
    solver.step(zero)
    with pytest.raises(UnsupportedError, match="seed="):
        solver.step(zero)


def test_by_hand_a_state_of_another_solve_is_refused():
    solver = Case("ancestral").solver
    one, other = (solver.init(problem(Case("ancestral"), KeyedNoise(k))) for k in (1, 2))
    later = solver.step(one).value
    assert one.at(later).value is later
    with pytest.raises(ArgumentError, match="noise"):
        other.at(later)


def test_by_hand_a_solver_checks_what_it_is_given():
    with pytest.raises(UnsupportedError, match="integrates an SDE"):
        sk.solvers.Ancestral().init(problem(Case("ddim")))
