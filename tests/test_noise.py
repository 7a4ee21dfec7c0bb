"""Sources of noise: the same draw however a batch is cut, independent standard normals, torch's own order of draws."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from _helpers import label
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

import sdekit as sk
from sdekit.errors import ArgumentError, ShapeError, UnsupportedError
from sdekit.noise import (
    FunctionNoise,
    GeneratorNoise,
    KeyedNoise,
    NoiseSource,
    NoiseStream,
    SeedsNoise,
    noise_source,
)
from sdekit.noise.keyed import _BlockStream

CPU = torch.device("cpu")
# One size for each layout of a block: many samples and positions, one or the other, one large sample.
SIZES = [(1,), (3,), (8,), (2, 32), (5, 5, 5), (1024,), (3, 32, 32), (20000,)]


def opened(source: NoiseSource, shape: tuple[int, ...], dtype: torch.dtype = torch.float32, **kwargs) -> NoiseStream:
    return source.open(shape, **{"purpose": "steps", "dtype": dtype, "device": CPU, **kwargs})


def at(time: float, count: int) -> Tensor:
    return torch.full((count,), time, dtype=torch.float64)


def draws(source: NoiseSource, shape: tuple[int, ...], count: int, start: int = 0, **kwargs) -> Tensor:
    stream = opened(source, shape, **kwargs)
    if start:
        stream.seek(start)
    return torch.stack([stream.next(1.0, 0.0).clone() for _ in range(count)])


# Seeds: how a batch is cut does not matter ------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_first_samples_of_a_larger_batch_are_the_smaller_batch(size):
    n = 3 if math.prod(size) > 1000 else 7
    assert torch.equal(draws(KeyedNoise(5), (2 * n, *size), 3)[:, :n], draws(KeyedNoise(5), (n, *size), 3))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    size=st.sampled_from([(), (1,), (5,), (63,), (64,), (2, 40), (1023,), (1025,)]),
    n=st.integers(1, 150),
    cut=st.tuples(st.integers(0, 149), st.integers(1, 150)),
    position=st.integers(0, 70),
    first=st.integers(0, 200),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
)
def test_a_part_is_that_slice_of_the_whole(size, n, cut, position, first, dtype):
    start, stop = sorted((cut[0] % n, 1 + (cut[1] - 1) % n))
    stop = max(stop, start + 1)
    for source in (KeyedNoise(3, first), SeedsNoise([first + 7 * i for i in range(n)])):
        whole = draws(source, (n, *size), 2, start=position, dtype=dtype)
        part = draws(source.part(start, stop, n), (stop - start, *size), 2, start=position, dtype=dtype)
        assert torch.equal(part, whole[:, start:stop])


def test_first_is_an_offset_into_the_samples_of_a_seed():
    assert torch.equal(draws(KeyedNoise(1), (200, 4), 5)[:, 130:], draws(KeyedNoise(1, 130), (70, 4), 5))


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_each_of_several_seeds_is_that_seed_alone(size):
    seeds = [4, 0, 2**64 - 1, 4, 2**32]
    together = draws(SeedsNoise(seeds), (5, *size), 3)
    for i, seed in enumerate(seeds):
        assert torch.equal(together[:, i : i + 1], draws(SeedsNoise([seed]), (1, *size), 3))
    assert torch.equal(together[:, 0], together[:, 3])


@pytest.mark.parametrize("source", [KeyedNoise(2), SeedsNoise([5, 6, 7])], ids=repr)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_seeking_gives_the_draw_of_that_position(source, size):
    straight = draws(source, (3, *size), 70 if math.prod(size) < 100 else 20)
    stream = opened(source, (3, *size))
    for position in (len(straight) - 1, 0, 17, 16, 3, 4):
        stream.seek(position)
        assert torch.equal(stream.next(1.0, 0.0), straight[position])
        assert stream.position == position + 1


def test_seeds_may_come_as_an_array_or_a_tensor():
    for seeds in (np.array([5, 6, 7]), torch.tensor([5, 6, 7]), (5, 6, 7)):
        assert SeedsNoise(seeds).seeds == [5, 6, 7]
    for wrong in (np.array([[5]]), np.array([0.5]), torch.tensor(5), "567"):
        with pytest.raises(ArgumentError, match="seeds"):
            SeedsNoise(wrong)


@pytest.mark.parametrize("source", [KeyedNoise(2), SeedsNoise([5, 6, 7]), GeneratorNoise()], ids=repr)
@pytest.mark.parametrize("size", [(1,), (16,), (100,), (1100,)], ids=str)
def test_draws_ahead_are_the_next_draws_and_may_be_overwritten(source, size):
    def fresh() -> NoiseStream:
        torch.manual_seed(0)  # for the stream that has no seed of its own
        return opened(source, (3, *size), draws=70)

    stream = fresh()
    straight = [stream.next(1.0, 0.0).clone() for _ in range(70)]
    stream, k = fresh(), 0
    while k < 70:
        wanted = 1 + k % 5
        got = stream.ahead(at(1.0, 70), at(0.0, 70), k, min(70, k + wanted))
        assert 1 <= len(got) <= wanted
        for z in got:
            assert torch.equal(z, straight[k])
            z.zero_()
            k += 1
        assert stream.position == k
    if stream.seekable:
        for position in (1, 40, 39, 2):
            stream.seek(position)
            assert torch.equal(stream.next(1.0, 0.0), straight[position])
        for take in (lambda: stream.ahead(at(1.0, 70), at(0.0, 70), 0, 1)[0], lambda: stream.next(1.0, 0.0)):
            stream.seek(3)
            assert torch.equal(take(), straight[3])
            stream.ahead(at(1.0, 70), at(0.0, 70), 4, 6)[0].zero_()
            stream.seek(4)
            assert torch.equal(take(), straight[4])


@pytest.mark.parametrize("source", [KeyedNoise(2), SeedsNoise([5, 6, 7])], ids=repr)
@pytest.mark.parametrize("size", [(1,), (100,), (1100,)], ids=str)
def test_draws_one_by_one_are_the_next_draws(source, size):
    straight = draws(source, (3, *size), 40)
    stream = opened(source, (3, *size), draws=40)
    assert torch.equal(stream.next(1.0, 0.0), straight[0])
    for k, z in enumerate(stream.each(at(1.0, 40), at(0.0, 40), 1, 20), start=1):
        assert torch.equal(z, straight[k])
    for position in (0, 19, 20, 5):
        stream.seek(position)
        assert torch.equal(stream.next(1.0, 0.0), straight[position])


def test_draws_taken_one_at_a_time_cost_no_more_than_draws_taken_together(monkeypatch):
    # As many fills for a solve that is watched at each step as for one that is not.
    filled: list[int] = []
    fill = _BlockStream._fill
    monkeypatch.setattr(_BlockStream, "_fill", lambda self, block: filled.append(block) or fill(self, block))

    def fills(most: int) -> list[int]:
        filled.clear()
        stream, k = opened(SeedsNoise(range(5)), (5, 20), draws=200), 0
        while k < 200:
            k += len(stream.ahead(at(1.0, 200), at(0.0, 200), k, min(200, k + most)))
        return list(filled)

    assert 1 < len(fills(200)) < 50
    assert fills(1) == fills(7) == fills(200)


# Seeds: the numbers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("alone", [False, True])
def test_draws_are_standard_normal(size, alone):
    n = max(2, 4000 // math.prod(size))
    source: NoiseSource = SeedsNoise(range(n)) if alone else KeyedNoise(0)
    sample = draws(source, (n, *size), 10).double().flatten().numpy()
    # The seeds are fixed, so that this is one decision: at p = 1e-3 a right generator fails in one code change of 1000.
    assert stats.kstest(sample, "norm").pvalue > 1e-3
    assert abs(sample.mean()) < 4 / math.sqrt(len(sample))
    assert abs(sample.var() - 1) < 4 * math.sqrt(2 / len(sample))


def _correlations(rows: Tensor) -> Tensor:
    """Correlations of all pairs of rows, scaled to be about N(0, 1) for independent rows."""
    pairs = torch.corrcoef(rows.double())
    return pairs[*torch.triu_indices(*pairs.shape, offset=1)] * math.sqrt(rows.shape[1])


@pytest.mark.parametrize("alone", [False, True])
def test_positions_and_samples_are_independent(alone):
    n, d, count = 40, 64, 40
    source: NoiseSource = SeedsNoise(range(n)) if alone else KeyedNoise(11)
    z = draws(source, (n, d), count)
    across_positions = _correlations(z.reshape(count, -1))
    across_samples = _correlations(z.transpose(0, 1).reshape(n, -1))
    for correlations in (across_positions, across_samples):
        # 780 pairs: the greatest of so many |N(0, 1)| is below 4.5 but once in 200 draws of the seeds, which are fixed.
        assert float(correlations.abs().max()) < 4.5
        assert abs(float(correlations.square().mean()) - 1) < 0.25  # 5 standard errors: sqrt(2/780) = 0.05
    # Squares as well: a shared scale or a sign flip leaves the correlation of the numbers themselves at 0.
    assert float(_correlations(z.square().reshape(count, -1)).abs().max()) < 4.5


def test_seeds_and_purposes_are_independent():
    purposes = ("prior", "steps", "corrector", "probes")
    rows = [draws(KeyedNoise(s), (50, 20), 4, purpose=p).flatten() for s in range(6) for p in purposes]
    rows += [draws(SeedsNoise(range(50)), (50, 20), 4, purpose=p).flatten() for p in purposes]
    assert float(_correlations(torch.stack(rows)).abs().max()) < 4.5  # 378 pairs


def _distinct(rows: Tensor) -> int:
    return len(np.unique(rows.numpy(), axis=0))


def test_no_two_samples_of_many_seeds_are_equal():
    # 32-bit hashes of the seeds would make some of these equal: 30311 and 73025 once had the same prior draw.
    seeds = [*range(20000), *range(30000, 31000), *range(73000, 74000)]
    rows = draws(SeedsNoise(seeds), (len(seeds), 4), 1, purpose="prior")[0]
    assert _distinct(rows) == len(seeds)


def test_no_two_blocks_of_one_seed_or_of_many_are_equal():
    one = draws(KeyedNoise(9), (512, 4), 200)  # 8 blocks of samples, several of positions
    assert _distinct(one.reshape(-1, 4)) == 512 * 200
    seeds = [*range(1500), 2**32 - 1, 2**32, 2**63, 2**64 - 1]
    purposes = ("prior", "steps", "corrector", "probes")
    many = torch.stack([draws(KeyedNoise(s), (1, 4), 1, purpose=p)[0, 0] for s in seeds for p in purposes])
    assert _distinct(many) == len(seeds) * len(purposes)
    alone = torch.cat([draws(SeedsNoise(range(500)), (500, 4), 130, purpose=p) for p in purposes])
    assert _distinct(alone.reshape(-1, 4)) == 500 * 130 * 4


def test_a_seed_for_all_and_the_same_seed_alone_are_two_streams():
    together, alone = draws(KeyedNoise(3), (1, 100), 1), draws(SeedsNoise([3]), (1, 100), 1)
    assert not torch.isclose(together, alone).any()


@pytest.mark.parametrize("size", [(2,), (100,), (2000,)], ids=str)
def test_wider_and_narrower_states_take_the_same_numbers(size):
    narrow = draws(KeyedNoise(1), (5, *size), 4)
    assert torch.equal(draws(KeyedNoise(1), (5, *size), 4, dtype=torch.float64), narrow.double())
    assert torch.equal(draws(KeyedNoise(1), (5, *size), 4, dtype=torch.bfloat16), narrow.bfloat16())


def test_draws_do_not_depend_on_the_default_dtype():
    expected = draws(KeyedNoise(1), (5, 3), 4)
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(draws(KeyedNoise(1), (5, 3), 4), expected)
        assert torch.equal(draws(SeedsNoise([1, 2]), (2, 3), 1)[0, :1], draws(SeedsNoise([1]), (1, 3), 1)[0])
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", [(3,), (70,), (1500,)], ids=str)
@pytest.mark.parametrize("kind", ["seed", "seeds", "generator", "generators", "function"])
def test_scales_multiply_draw_by_draw(kind, size, dtype):
    scales = torch.linspace(0.0, 2.0, 37, dtype=torch.float64).flip(0)  # more than one block; the last is 0

    def source() -> NoiseSource:
        g = [torch.Generator().manual_seed(i) for i in range(3)]
        generator = torch.Generator().manual_seed(8)
        return {
            "seed": KeyedNoise(4),
            "seeds": SeedsNoise([1, 2, 3]),
            "generator": GeneratorNoise(generator),
            "generators": GeneratorNoise(g),
            "function": FunctionNoise(lambda t, s, shape: torch.randn(shape, generator=generator, dtype=dtype)),
        }[kind]

    plain = draws(source(), (3, *size), 37, dtype=dtype, draws=37)
    scaled = draws(source(), (3, *size), 37, dtype=dtype, draws=37, scales=scales)
    expected = plain.double() * scales.reshape(-1, 1, *([1] * len(size)))
    # The product is rounded once, and in bfloat16 a draw once before it.
    rounding = {torch.float32: 2**-23, torch.float64: 2**-52, torch.bfloat16: 2**-7}[dtype]
    assert torch.allclose(scaled.double(), expected, rtol=rounding, atol=1e-12)
    assert torch.equal(scaled[-1], torch.zeros_like(scaled[-1]))


@pytest.mark.parametrize("source", [KeyedNoise(0), SeedsNoise([0, 1, 2])], ids=repr)
def test_seeded_draws_leave_every_global_generator_alone(source):
    torch.manual_seed(5)
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    draws(source, (3, 4), 20)
    source.prior((3, 4), t=1.0, dtype=torch.float32, device=CPU)
    assert torch.equal(torch.get_rng_state(), before)
    assert (np.random.get_state()[1] == numpy_before).all()  # noqa: NPY002


def test_a_prior_is_a_tensor_of_its_own():
    source = KeyedNoise(0)
    x = source.prior((3, 4), t=1.0, dtype=torch.float32, device=CPU)
    kept = x.clone()
    source.prior((3, 4), t=1.0, dtype=torch.float32, device=CPU).zero_()
    assert torch.equal(x, kept)


# Generators: as a loop with torch.randn ----------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(16,), (4, 4), (8, 2, 3), (3, 5), (1, 1), (2, 3, 16, 16), (1, 40000)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("told", [True, False], ids=["count known", "count unknown"])
def test_one_generator_draws_as_randn_does(shape, dtype, told):
    mine, theirs = (torch.Generator().manual_seed(12) for _ in range(2))
    got = draws(GeneratorNoise(mine), shape, 37, dtype=dtype, draws=37 if told else None)
    expected = torch.stack([torch.randn(shape, generator=theirs, dtype=dtype) for _ in range(37)])
    assert torch.equal(got, expected)
    assert torch.equal(mine.get_state(), theirs.get_state())


@pytest.mark.parametrize("size", [(16,), (5,), (3, 4, 4)], ids=str)
def test_a_list_of_generators_draws_sample_by_sample(size):
    mine, theirs = ([torch.Generator().manual_seed(s) for s in (3, 1, 3)] for _ in range(2))
    got = draws(GeneratorNoise(mine), (3, *size), 6, draws=6)
    expected = torch.stack([torch.cat([torch.randn((1, *size), generator=g) for g in theirs]) for _ in range(6)])
    assert torch.equal(got, expected)
    assert all(torch.equal(a.get_state(), b.get_state()) for a, b in zip(mine, theirs, strict=True))


def test_without_a_seed_the_global_generator_is_used_and_not_reseeded():
    torch.manual_seed(77)
    got = draws(noise_source(), (4, 4), 5, draws=5)
    after = torch.get_rng_state()
    torch.manual_seed(77)
    expected = torch.stack([torch.randn(4, 4) for _ in range(5)])
    assert torch.equal(got, expected)
    assert torch.equal(after, torch.get_rng_state())
    assert not torch.equal(draws(noise_source(), (4, 4), 5, draws=5), got)


@pytest.mark.parametrize("shape", [(4, 4), (3, 5)], ids=str)
def test_nothing_is_drawn_that_was_not_asked_for(shape):
    mine, theirs = (torch.Generator().manual_seed(12) for _ in range(2))
    for _ in range(2):
        stream = opened(GeneratorNoise(mine), shape, draws=30)
        taken = 1
        stream.next(1.0, 0.9)
        while taken < 6:
            taken += len(stream.ahead(at(1.0, 30), at(0.9, 30), taken, 6))
        for _ in range(6):
            torch.randn(shape, generator=theirs)
        assert torch.equal(mine.get_state(), theirs.get_state())


def test_a_generator_cannot_go_back():
    stream = opened(GeneratorNoise(torch.Generator()), (4, 4), draws=30)
    stream.next(1.0, 0.9)
    stream.seek(1)
    with pytest.raises(UnsupportedError, match="use seed="):
        stream.seek(0)


def test_chunks_need_generators_that_know_their_sample():
    generators = [torch.Generator().manual_seed(i) for i in range(4)]
    part = GeneratorNoise(generators).part(1, 3, 4)
    expected = torch.cat([torch.randn(1, 5, generator=torch.Generator().manual_seed(i)) for i in (1, 2)])
    assert torch.equal(draws(part, (2, 5), 1)[0], expected)
    with pytest.raises(ArgumentError, match="4 entries for a batch of 7"):
        GeneratorNoise(generators).part(0, 3, 7)
    with pytest.raises(ArgumentError, match="use seed="):
        GeneratorNoise(torch.Generator()).part(0, 3, 7)
    assert isinstance(GeneratorNoise(torch.Generator()).part(0, 7, 7), GeneratorNoise)


# A function of the user's own ---------------------------------------------------------------------------------------


def test_a_function_is_asked_for_each_step_in_turn():
    asked = []

    def function(t: float, s: float, shape: tuple[int, ...]) -> Tensor:
        asked.append((t, s, shape))
        return torch.full(shape, float(len(asked)), dtype=torch.float64)

    source = noise_source(noise=function)
    stream = opened(source, (2, 3))
    assert torch.equal(stream.next(1.0, 0.5), torch.full((2, 3), 1.0))
    assert torch.equal(stream.next(0.5, 0.0), torch.full((2, 3), 2.0))
    assert asked == [(1.0, 0.5, (2, 3)), (0.5, 0.0, (2, 3))]
    assert source.prior((2, 3), t=0.7, dtype=torch.float32, device=CPU).dtype == torch.float32
    assert asked[-1] == (0.7, 0.7, (2, 3))
    with pytest.raises(UnsupportedError, match="seed="):
        stream.seek(0)
    with pytest.raises(ArgumentError, match="seed="):
        source.part(0, 1, 2)


def test_what_a_function_returns_is_not_written_into():
    buffer = torch.ones(2, 3)
    stream = opened(FunctionNoise(lambda t, s, shape: buffer), (2, 3))
    stream.ahead(at(1.0, 1), at(0.0, 1), 0, 1)[0].zero_()
    FunctionNoise(lambda t, s, shape: buffer).prior((2, 3), t=1.0, dtype=torch.float32, device=CPU).zero_()
    assert torch.equal(buffer, torch.ones(2, 3))


@pytest.mark.parametrize("returned", [torch.zeros(3, 2), torch.zeros(1, 3), 0.5, None], ids=str)
def test_a_function_that_returns_another_shape_is_told(returned):
    stream = opened(FunctionNoise(lambda t, s, shape: returned), (2, 3))
    with pytest.raises(ShapeError, match=r"\(2, 3\)"):
        stream.next(1.0, 0.5)


# What is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"seed": 0, "seeds": [1]}, "seed and seeds"),
        ({"generator": torch.Generator(), "noise": torch.randn}, "generator and noise"),
        ({"first": 3}, "first"),
        ({"first": 3, "seeds": [1]}, "first"),
        ({"seed": -1}, "-1"),
        ({"seed": 2**64}, "2\\^64 - 1"),
        ({"seed": 1.0}, "1.0"),
        ({"seed": True}, "True"),
        ({"seeds": [0, "a"]}, r"seeds\[1\].*'a'"),
        ({"seeds": "12"}, "seeds"),
        ({"seeds": 7}, "seeds"),
        ({"seed": 0, "first": -1}, "first"),
        ({"seed": 0, "first": 2**70}, "first"),
        ({"seed": 0, "first": 0.5}, "first"),
        ({"generator": 5}, "generator"),
        ({"generator": [torch.Generator(), None]}, "generator"),
        ({"generator": "cpu"}, "generator"),
        ({"noise": 5}, "noise"),
    ],
    ids=label,
)
def test_what_names_no_source_is_refused(given, said):
    with pytest.raises(ArgumentError, match=said):
        noise_source(**given)


@pytest.mark.parametrize("given", [{"seeds": [1, 2]}, {"generator": [torch.Generator()] * 2}], ids=["seeds", "list"])
def test_a_list_must_have_an_entry_for_each_sample(given):
    with pytest.raises(ArgumentError, match="2 entries for a batch of 3"):
        opened(noise_source(**given), (3, 2))


def test_seed_0_is_valid_and_a_numpy_integer_is_an_integer():
    zero = draws(noise_source(seed=0), (2, 2), 1)
    assert torch.equal(zero, draws(noise_source(seed=np.int64(0)), (2, 2), 1))
    assert not torch.equal(zero, draws(noise_source(seed=1), (2, 2), 1))


def test_a_network_that_draws_from_the_global_rng_sees_what_a_plain_loop_would():
    # Dropout between the steps: a draw of noise made ahead of its time would change the network's.
    model = sk.ScoreModel(lambda x, t: torch.nn.functional.dropout(x, 0.5), sk.VPSDE())
    start = torch.randn((4, 16), generator=torch.Generator().manual_seed(1))
    torch.manual_seed(0)
    found = sk.sample(model, x_T=start, solver="euler_maruyama", steps=5)
    torch.manual_seed(0)
    x, times = start.clone(), found.times
    for t, s in itertools.pairwise(times):
        drift = sk.ReverseSDE(model).drift(x, t)
        x = (
            x
            + drift * (s - t).float()
            + model.sde.diffusion_coefficient(t).float() * (t - s).sqrt() * torch.randn(4, 16)
        )
    assert torch.allclose(found.x, x.float(), atol=1e-5)  # float32 rounding over 5 steps
