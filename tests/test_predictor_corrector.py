"""Predictor-corrector: the published algorithms, per-sample norms, short grids, any predictor with any corrector."""

from __future__ import annotations

import itertools
import math
import warnings

import pytest
import torch
from _helpers import MODEL_NAMES, SDE_IDS, SDES, gaussian_model
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import sdekit as sk
from sdekit.errors import ArgumentError, UnknownNameError, UnsupportedError
from sdekit.noise import KeyedNoise, NoiseSource, NoiseStream
from sdekit.sdes import EDMSDE, VESDE, VPSDE, DiffusionSDE
from sdekit.solvers import DDIM, AnnealedLangevin, FixedStepSolver, Langevin, PredictorCorrector, ReverseDiffusion

CLOSE = {"rtol": 1e-11, "atol": 1e-11}  # rounding in float64
FIXED_NAMES = [
    n for n in MODEL_NAMES if isinstance(sk.solvers.get(n), FixedStepSolver) and sk.solvers.get(n).kind != "composition"
]


def network(x: Tensor, t: Tensor) -> Tensor:
    return torch.tanh(x + 0.3 * t[:, None]) + 0.1 * x


def start(seed: int = 0) -> Tensor:
    return torch.randn(4, 20, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def vp_abar(t: float) -> float:
    return math.exp(-(0.1 * t + 19.9 * t**2 / 2))


# The published algorithms ------------------------------------------------------------------------------------------


def by_hand(sde: DiffusionSDE, times: list[float], draws: list[Tensor], snr: float, n_steps: int, how: str) -> Tensor:
    """Song et al. 2021, algorithms 2 to 5: at each time n_steps of the corrector, then the predictor of eq. 46."""
    x, z = start(), iter(draws)
    for t, s in itertools.pairwise(times):
        if isinstance(sde, VPSDE):
            std, beta = math.sqrt(1 - vp_abar(t)), 1 - vp_abar(t) / vp_abar(s)  # beta of the discrete step
            alpha = 1 - beta
        else:
            std, alpha = 0.01 * 5000**t, 1.0
        label = torch.full((4,), t, dtype=torch.float64)
        for _ in range(n_steps):
            score, noise = -network(x, label) / std, next(z)
            if how == "ald":
                step = torch.tensor(2 * alpha * (snr * std) ** 2, dtype=torch.float64)
            else:
                norms = [v.flatten(1).norm(dim=1, keepdim=True) for v in (noise, score)]
                if how == "batch":
                    norms = [n.mean() for n in norms]
                step = 2 * alpha * (snr * norms[0] / norms[1]) ** 2
            x = x + step * score + torch.sqrt(2 * step) * noise
        score = -network(x, label) / std
        if isinstance(sde, VPSDE):
            x = (2 - math.sqrt(1 - beta)) * x + beta * score + math.sqrt(beta) * next(z)
        else:
            g2 = (0.01 * 5000**t) ** 2 - (0.01 * 5000**s) ** 2
            x = x + g2 * score + math.sqrt(g2) * next(z)
    return x


@pytest.mark.parametrize("sde", [VPSDE(), VESDE()], ids=["vp", "ve"])
@pytest.mark.parametrize("n_steps", [1, 3])
@pytest.mark.parametrize("how", ["sample", "batch", "ald"])
def test_the_published_algorithm(sde, n_steps, how):
    times = [1.0, 0.6, 0.55, 0.2]
    draws = [start(seed) for seed in range(1, 3 * (n_steps + 1) + 1)]
    following = iter(draws)
    options = {"corrector": "ald"} if how == "ald" else {"corrector": "langevin", "norms": how}
    out = sk.sample(
        sk.ScoreModel(network, sde),
        None,
        "pc",
        grid=times,
        x_T=start(),
        noise=lambda *_: next(following),
        snr=0.13,
        n_steps=n_steps,
        **options,
    )
    assert torch.allclose(out.x, by_hand(sde, times, draws, 0.13, n_steps, how), **CLOSE)
    assert out.nfe == 3 * (n_steps + 1)
    assert next(following, None) is None


def test_the_defaults_are_the_papers():
    assert sk.solvers.get("pc") == PredictorCorrector(ReverseDiffusion(), Langevin(snr=0.16, n_steps=1, norms="sample"))
    assert sk.solvers.get("pc", norms="batch", snr=0.01).corrector == Langevin(0.01, 1, "batch")
    assert sk.solvers.get("pc", predictor="ddpm", corrector="ald").predictor == sk.solvers.Ancestral()
    assert sk.solvers.get("pc", predictor=DDIM(0.5), corrector=AnnealedLangevin(0.2)).predictor == DDIM(0.5)


# Norms -------------------------------------------------------------------------------------------------------------


def test_the_papers_batch_norms_make_a_sample_depend_on_its_batch_and_ours_do_not():
    model = sk.ScoreModel(network, VPSDE())
    for norms, independent in (("sample", True), ("batch", False)):
        whole = sk.sample(model, None, "pc", 4, x_T=start(), seed=0, norms=norms).x
        alone = sk.sample(model, None, "pc", 4, x_T=start()[:1], seed=0, norms=norms).x
        assert torch.allclose(whole[:1], alone, rtol=1e-12, atol=1e-12) == independent


def test_norms_are_taken_in_float32_or_better():
    # 60000 entries of 1000 have the norm 245000, beyond half precision.
    z = torch.full((1, 60000), 1000.0, dtype=torch.float16)
    e = Langevin(snr=1.0).step_size(gaussian_model(VPSDE()), 0.5 * z, z, 0.5, 1.0)
    assert float(e) == pytest.approx(8.0, rel=1e-5)  # 2 (1 z/s)^2, float32 sums


def test_a_sample_without_a_score_is_not_moved_and_the_others_are():
    sde = EDMSDE()
    x = start()
    x[2] = 0.0
    model = sk.ScoreModel(lambda x, t: 0.5 * x, sde)  # the score of the third sample is exactly 0
    out = sk.sample(model, None, "pc", grid=[1.0, 0.5], x_T=x, seed=0, predictor="none").x
    assert torch.equal(out[2], x[2])
    assert bool(torch.isfinite(out).all())
    assert bool((out[0] != x[0]).all())


# Short grids -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sde", SDES, ids=SDE_IDS)
@pytest.mark.parametrize("corrector", ["langevin", "ald"])
def test_no_nan_on_short_grids(sde, corrector):
    # The published factor 1 - beta(t) dt is negative on short VP grids: 1 - 20/2, and its root is NaN.
    model = gaussian_model(sde, 0.2, 0.5)
    for steps in (1, 2, 3, 4, 7):
        for end in (None, 0.0):
            x = sk.sample(model, (3, 20), "pc", steps, seed=0, corrector=corrector, t_end=end).x
            assert bool(torch.isfinite(x).all())


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    steps=st.integers(1, 6),
    snr=st.floats(0.001, 1.0),
    n_steps=st.integers(1, 3),
    corrector=st.sampled_from(["langevin", "ald"]),
    predictor=st.sampled_from(["none", "ddim", "heun", "ancestral", "euler_maruyama", "rk4"]),
    family=st.integers(0, len(SDES) - 1),
)
def test_any_options_are_finite_and_counted(steps, snr, n_steps, corrector, predictor, family):
    model = gaussian_model(SDES[family], 0.2, 0.5)
    out = sk.sample(
        model, (3, 20), "pc", steps, seed=0, corrector=corrector, predictor=predictor, snr=snr, n_steps=n_steps
    )
    assert bool(torch.isfinite(out.x).all())
    each = 0 if predictor == "none" else sk.solvers.get(predictor).evaluations_per_step
    assert out.nfe == steps * (n_steps + each)


# Composition -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("corrector", ["langevin", "ald", "none"])
@pytest.mark.parametrize("predictor", [*FIXED_NAMES, "none"])
def test_any_predictor_with_any_corrector(predictor, corrector):
    if predictor == corrector == "none":
        with pytest.raises(ArgumentError, match="both none"):
            sk.solvers.get("pc", predictor=predictor, corrector=corrector)
        return
    model = gaussian_model(VPSDE(), 0.2, 0.5)
    out = sk.sample(model, (3, 20), "pc", 4, seed=0, predictor=predictor, corrector=corrector)
    assert bool(torch.isfinite(out.x).all())
    solver = sk.solvers.get("pc", predictor=predictor, corrector=corrector)
    alone = None if predictor == "none" else sk.solvers.get(predictor)
    assert solver.stochastic == (corrector != "none" or (alone is not None and alone.stochastic))
    if corrector == "none":  # the composition with nothing is the predictor
        same = sk.sample(model, (3, 20), predictor, 4, seed=0, grid="uniform")
        assert torch.allclose(out.x, same.x, rtol=1e-6, atol=1e-6)
        assert out.nfe == same.nfe
    both = sk.sample(model, (3, 20), PredictorCorrector(solver.predictor, solver.corrector), 4, seed=0)
    assert torch.equal(both.x, out.x)


class Recording(NoiseSource):
    """KeyedNoise that writes down what it hands out for the steps, before scaling."""

    def __init__(self) -> None:
        self.steps: list[Tensor] = []

    def open(self, shape, *, purpose, dtype, device, draws=None, scales=None):
        stream = KeyedNoise(0).open(shape, purpose=purpose, dtype=dtype, device=device, draws=draws)
        return RecordingStream(stream, scales, self.steps if purpose == "steps" else [])

    def part(self, start, stop, total):
        return self


class RecordingStream(NoiseStream):
    seekable = False

    def __init__(self, stream: NoiseStream, scales: Tensor | None, record: list[Tensor]) -> None:
        self.stream, self.record = stream, record
        self.scales = [1.0] * 100 if scales is None else scales.tolist()

    def next(self, t, s):
        z = self.stream.next(t, s).clone()
        self.record.append(z)
        self.position += 1
        return z * self.scales[self.position - 1]

    def seek(self, position):
        raise UnsupportedError("recorded once")


def test_streams_of_predictor_and_corrector_are_apart():
    # With a seed the predictor's draws are those it makes alone, whatever the corrector does.
    model, alone, both = gaussian_model(VPSDE(), 0.2, 0.5), Recording(), Recording()
    a = sk.sample(model, None, "reverse_diffusion", 5, x_T=start(), noise=alone).x
    assert torch.equal(a, sk.sample(model, None, "reverse_diffusion", 5, x_T=start(), seed=0).x)
    sk.sample(model, None, "pc", 5, x_T=start(), noise=both)
    assert len(both.steps) == 5
    assert torch.equal(torch.stack(both.steps), torch.stack(alone.steps))


# A corrector leaves p_t as it is ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("corrector", "options"), [("langevin", {}), ("langevin", {"norms": "batch"}), ("ald", {})], ids=str
)
def test_a_corrector_alone_goes_to_the_marginal_and_stays(corrector, options):
    # Times so close that it is one: from a wrong start N(0, 0.5^2) to p_t in 64 dimensions.
    sde = VPSDE()
    model = gaussian_model(sde, 1.0, 0.6)
    times = torch.linspace(0.5, 0.499, 400, dtype=torch.float64)
    x = 0.5 * torch.randn(100, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    out = sk.sample(model, None, "pc", grid=times, x_T=x, seed=1, predictor="none", corrector=corrector, **options).x
    alpha, sigma = float(sde.alpha(0.5)), float(sde.sigma(0.5))
    std = math.hypot(0.6 * alpha, sigma)
    # The unadjusted chain's variance is 1/(1 - e/(2 v)) of p_t's: 1 to 3 % for steps of 2 snr^2; 4 standard errors.
    assert abs(float(out.mean()) - alpha) < std * 4 / math.sqrt(6400)
    assert abs(float(out.std()) / std - 1) < 0.03 + 4 / math.sqrt(2 * 6400)


def test_the_bias_in_few_dimensions_is_told():
    model = gaussian_model(VPSDE())
    with pytest.warns(UserWarning, match="biased for samples of 2 numbers.*ald.*batch"):
        sk.sample(model, (3, 2), "pc", 2, seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sk.sample(model, (3, 2), "pc", 2, seed=0, corrector="ald")
        sk.sample(model, (3, 2), "pc", 2, seed=0, norms="batch")
        sk.sample(model, (3, 16), "pc", 2, seed=0)


def test_denoise_is_computed_from_the_last_state_and_mean_leaves_out_the_predictors_noise():
    model = sk.ScoreModel(network, VPSDE())
    run = {"grid": [1.0, 0.5, 0.1], "x_T": start(), "seed": 0}
    plain = sk.sample(model, None, "pc", **run)
    denoised = sk.sample(model, None, "pc", denoise=True, **run)
    assert torch.allclose(denoised.x, model.denoised(plain.x, 0.1), **CLOSE)
    assert denoised.nfe == plain.nfe + 1
    mean = sk.sample(model, None, "pc", denoise="mean", **run)
    assert mean.nfe == plain.nfe
    last = (plain.x - mean.x) / math.sqrt(1 - vp_abar(0.5) / vp_abar(0.1))  # the draw left out
    assert float(last.std()) == pytest.approx(1.0, abs=4 / math.sqrt(2 * 80))  # 80 standard normals
    for options in ({"predictor": "none"}, {"predictor": "heun"}):
        with pytest.raises(ArgumentError, match="adds none"):
            sk.sample(model, None, "pc", denoise="mean", **run, **options)


# What is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"corrector": "langevine"}, UnknownNameError, "did you mean 'langevin'"),
        ({"predictor": "ancestrl"}, UnknownNameError, "did you mean 'ancestral'"),
        ({"predictor": "scipy:RK45"}, ArgumentError, "chooses its own steps"),
        ({"predictor": "pc"}, ArgumentError, "predictor-corrector itself"),
        ({"predictor": 3}, ArgumentError, "predictor must be"),
        ({"corrector": 3}, ArgumentError, "corrector must be"),
        ({"corrector": "ald", "norms": "batch"}, ArgumentError, "'ald' has no option norms"),
        ({"corrector": Langevin(), "snr": 0.1}, ArgumentError, "snr go with a corrector's name"),
        ({"corrector": "none", "n_steps": 2}, ArgumentError, "n_steps go with a corrector's name"),
        ({"norms": "samples"}, UnknownNameError, "did you mean 'sample'"),
        ({"snr": 0.0}, ArgumentError, "snr"),
        ({"snr": -1.0}, ArgumentError, "snr"),
        ({"snr": math.nan}, ArgumentError, "snr"),
        ({"n_steps": 0}, ArgumentError, "n_steps"),
        ({"n_steps": 1.5}, ArgumentError, "n_steps"),
        ({"corector": "ald"}, ArgumentError, "no option 'corector'"),
    ],
    ids=str,
)
def test_options_that_make_no_sense(options, error, said):
    with pytest.raises(error, match=said):
        sk.sample(gaussian_model(VPSDE()), (3, 20), "pc", 3, **options)


def test_it_needs_a_score_model_and_the_reverse_sde():
    x = torch.ones(2, 20)
    with pytest.raises(UnsupportedError, match="score"):
        sk.solve(sk.OrnsteinUhlenbeck(), x, t0=1.0, t1=0.1, solver="pc", steps=3)
    with pytest.raises(UnsupportedError, match="tau"):
        sk.solve(sk.ReverseSDE(gaussian_model(VPSDE()), 0.5), x, t0=1.0, t1=0.1, solver="pc", steps=3)
    with pytest.raises(UnsupportedError, match="rises"):
        sk.solve(sk.ReverseSDE(gaussian_model(VPSDE())), x, t0=0.1, t1=1.0, solver="pc", steps=3)
