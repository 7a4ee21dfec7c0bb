"""Losses against closed forms, the loop's bookkeeping, and the U-Net as a function."""

from __future__ import annotations

import csv
import json
import math
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sdekit.errors import ArgumentError, SdekitError, ShapeError, UnknownNameError
from sdekit.models import ScoreModel
from sdekit.models.predictions import conversion
from sdekit.models.unet import UNet
from sdekit.sdes import EDMSDE, VESDE, VPSDE, CosineVPSDE, DiffusionSDE, FlowSDE, SubVPSDE
from sdekit.training import (
    MovingAverage,
    TrainingSettings,
    dequantise,
    digits_split,
    draw_times,
    held_out_accuracy,
    importance_weight,
    isolated_random,
    loss_weight,
    recognise,
    recognition_accuracy,
    score_matching_loss,
    train,
    train_digits,
)
from sdekit.training.checkpoint import read_checkpoint

SDES = [VPSDE(), SubVPSDE(), CosineVPSDE(), VESDE(), EDMSDE(), FlowSDE()]
PREDICTIONS = ["noise", "data", "score", "v", "velocity"]
MEAN, STD = 0.7, 0.4  # of the Gaussian target


# Losses --------------------------------------------------------------------------------------------------------------


class Affine(nn.Module):
    """o = a x + b: the exact prediction of a Gaussian target at one time, for the right a and b."""

    def __init__(self, slope: float, intercept: float) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(slope, dtype=torch.float64))
        self.b = nn.Parameter(torch.tensor(intercept, dtype=torch.float64))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.a * x + self.b


def exact_affine(sde: DiffusionSDE, prediction: str, t: float) -> Affine:
    """score = -(x - alpha m) / (alpha^2 s^2 + sigma^2), turned into the prediction: [to] = p x + q score."""
    alpha, sigma = float(sde.alpha(t)), float(sde.sigma(t))
    variance = alpha**2 * STD**2 + sigma**2
    p, q = (float(c) for c in conversion("score", prediction, sde, t))  # type: ignore[arg-type]
    return Affine(p - q / variance, q * alpha * MEAN / variance)


def expected_loss(network: nn.Module, sde: DiffusionSDE, prediction: str, t: float, weighting: str) -> Tensor:
    """The loss with x_0 and eps integrated by Gauss-Hermite quadrature: exact, as the loss is quadratic in both."""
    nodes, weights = (torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(4))
    weights = weights / weights.sum()
    x0, noise = (MEAN + STD * nodes).repeat_interleave(4)[:, None], nodes.repeat(4)[:, None]
    model = ScoreModel(network, sde, prediction)  # type: ignore[arg-type]
    times = torch.full((16,), t, dtype=torch.float64)
    each = score_matching_loss(model, x0, times, noise, weighting=weighting)  # type: ignore[arg-type]
    return (weights.repeat_interleave(4) * weights.repeat(4) * each).sum()


@pytest.mark.parametrize("sde", SDES, ids=lambda s: s.name)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_exact_score_of_a_gaussian_minimises_the_loss(sde: DiffusionSDE, prediction: str) -> None:
    t = 0.3 * sde.t_max
    for weighting in ("simple", "likelihood"):
        network = exact_affine(sde, prediction, t)
        loss = expected_loss(network, sde, prediction, t, weighting)
        # A quadratic's gradient is 0 at its minimum; what is left is rounding of terms of the size of the curvature.
        away = exact_affine(sde, prediction, t)
        with torch.no_grad():
            away.a += 0.1
            away.b += 0.1
        slope_away = torch.autograd.grad(expected_loss(away, sde, prediction, t, weighting), list(away.parameters()))
        slope = torch.autograd.grad(loss, list(network.parameters()))
        for here, there in zip(slope, slope_away, strict=True):
            assert abs(here) <= 1e-9 * abs(there)


@pytest.mark.parametrize("sde", SDES, ids=lambda s: s.name)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_likelihood_weighting_is_half_g_squared_of_the_score_error(sde: DiffusionSDE, prediction: str) -> None:
    """min E|s - s*|^2 = E|s*|^2 - E|s|^2 = 1/sigma^2 - 1/(alpha^2 std^2 + sigma^2), whatever the network predicts."""
    t = 0.3 * sde.t_max
    alpha, sigma, g = float(sde.alpha(t)), float(sde.sigma(t)), float(sde.diffusion_coefficient(t))
    least = 0.5 * g**2 * (1 / sigma**2 - 1 / (alpha**2 * STD**2 + sigma**2))
    loss = expected_loss(exact_affine(sde, prediction, t), sde, prediction, t, "likelihood").detach()
    assert float(loss) == pytest.approx(least, rel=1e-9)  # float64, with differences of nearly equal numbers


def test_simple_weighting_is_the_mean_square_of_the_predictions_own_error() -> None:
    sde, x0 = VPSDE(), torch.randn(5, 3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    t = torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
    model = ScoreModel(lambda x, t: torch.zeros_like(x), sde, "v")
    target = sde.alpha(t)[:, None, None] * noise - sde.sigma(t)[:, None, None] * x0
    torch.testing.assert_close(score_matching_loss(model, x0, t, noise), target.square().mean((1, 2)))


def test_likelihood_loss_of_the_exact_score_gives_the_entropy() -> None:
    """In 1-D dH/dt = f + g^2 E s^2 / 2, so H(start) = H(T) + (T - start) L - int (f + g^2/(2 sigma^2)) dt."""
    sde = VPSDE(t_min=0.01)
    nodes, weights = np.polynomial.legendre.leggauss(60)
    first, last = float(sde.log_snr(sde.t_min)), float(sde.log_snr(sde.t_max))
    times = sde.time_of_log_snr(torch.from_numpy(first + (last - first) * (nodes + 1) / 2))
    loss, constant = 0.0, 0.0
    for t, weight in zip(times.tolist(), weights / 2, strict=True):
        to_uniform = float(importance_weight("importance", sde, t))
        with torch.no_grad():
            loss += weight * to_uniform * float(expected_loss(exact_affine(sde, "v", t), sde, "v", t, "likelihood"))
        ratio = float(sde.diffusion_coefficient(t) / sde.sigma(t))
        constant += weight * to_uniform * (float(sde.drift_coefficient(t)) + 0.5 * ratio**2)

    def entropy(t: float) -> float:
        return 0.5 * math.log(2 * math.pi * math.e * float(sde.alpha(t) ** 2 * STD**2 + sde.sigma(t) ** 2))

    length = sde.t_max - sde.t_min
    # Sixty Gauss-Legendre nodes on smooth integrands: the quadrature is exact to about 1e-10.
    assert entropy(sde.t_max) + length * (loss - constant) == pytest.approx(entropy(sde.t_min), abs=1e-8)


@pytest.mark.parametrize("sde", SDES, ids=lambda s: s.name)
def test_drawn_times_follow_their_law(sde: DiffusionSDE) -> None:
    n = 1000
    for sampling, spread in (("uniform", lambda t: t), ("importance", sde.log_snr)):
        t = draw_times(sde, n, sampling, t_min=0.01, generator=torch.Generator().manual_seed(3))  # type: ignore[arg-type]
        ends = spread(torch.tensor([0.01, sde.t_max], dtype=torch.float64))
        place = ((spread(t) - ends[0]) / (ends[1] - ends[0])).sort().values
        # One draw in each n-th of the law: the empirical distribution is within 1/n of it.
        assert float((place - torch.arange(n) / n).abs().max()) <= 1 / n + 1e-9
        mean = (importance_weight(sampling, sde, t, 0.01) * t).mean()  # type: ignore[arg-type]
        # The weighted mean is the uniform one, to the error of a Riemann sum of n terms of size below 30.
        assert float(mean) == pytest.approx((0.01 + sde.t_max) / 2, rel=30 / n)


def test_importance_sampling_makes_the_likelihood_weight_of_the_noise_constant() -> None:
    sde, t = VPSDE(), torch.linspace(0.01, 1, 7, dtype=torch.float64)
    weight = loss_weight("likelihood", "noise", sde, t) * importance_weight("importance", sde, t)
    span = sde.log_snr(sde.t_min) - sde.log_snr(sde.t_max)
    torch.testing.assert_close(weight, torch.full_like(t, float(span) / (2 * (sde.t_max - sde.t_min))))


def test_loss_errors() -> None:
    model, x0, t = ScoreModel(lambda x, t: x, VPSDE()), torch.zeros(2, 3), torch.full((2,), 0.5)
    with pytest.raises(ShapeError, match="noise of shape"):
        score_matching_loss(model, x0, t, torch.zeros(3))
    with pytest.raises(UnknownNameError, match="did you mean 'likelihood'"):
        score_matching_loss(model, x0, t, torch.zeros(2, 3), weighting="likelyhood")  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match="time sampling"):
        draw_times(VPSDE(), 3, "even")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="t_min"):
        draw_times(VPSDE(), 3, t_min=0.0)


# The loop ------------------------------------------------------------------------------------------------------------


class Interrupted(Exception):
    pass


def tiny_network() -> nn.Module:
    with isolated_random(7):
        return nn.Sequential(nn.Linear(3, 8), nn.SiLU(), nn.Dropout(0.3), nn.Linear(8, 3))


def tiny_run(
    settings: TrainingSettings,
    checkpoint: Path | None = None,
    stop_at: int | None = None,
    resume: bool = False,
    ctrl_c_at: int | None = None,
) -> tuple[nn.Module, nn.Module, list[dict[str, float]]]:
    network, calls = tiny_network(), 0

    def loss(generator: torch.Generator) -> Tensor:
        nonlocal calls
        calls += 1
        if stop_at is not None and calls > stop_at:
            raise Interrupted
        if calls == ctrl_c_at:
            signal.raise_signal(signal.SIGINT)
        x = torch.randn(16, 3, generator=generator)
        return (network(x) - x.roll(1, 1)).square().mean()

    def evaluate(average: nn.Module) -> dict[str, float]:
        return {"ones": float(average(torch.ones(1, 3)).sum())}  # the average takes no gradients

    run = train(network, loss, settings, evaluate=evaluate, checkpoint=checkpoint, resume=resume, progress=False)
    return network, run.network, run.history


SETTINGS = TrainingSettings(steps=23, learning_rate=0.05, warmup_steps=4, evaluate_every=6, checkpoint_every=5, seed=11)


def test_interrupted_and_resumed_equals_undisturbed_bit_for_bit(tmp_path: Path) -> None:
    whole = tiny_run(SETTINGS)
    file = tmp_path / "checkpoint.safetensors"
    with pytest.raises(Interrupted):
        tiny_run(SETTINGS, file, stop_at=13)  # the last state written is that after step 10
    with pytest.raises(Interrupted):
        tiny_run(SETTINGS, file, stop_at=8, resume=True)  # and now that after step 15
    torch.randn(5)  # the global random state plays no part
    resumed = tiny_run(SETTINGS, file, resume=True)
    for mine, its in zip(whole[:2], resumed[:2], strict=True):
        for name, value in mine.state_dict().items():
            assert torch.equal(value, its.state_dict()[name]), name
    assert whole[2] == resumed[2]
    assert [row["step"] for row in resumed[2]] == [6, 12, 18, 23]
    again = tiny_run(SETTINGS, file, resume=True)  # a finished run: nothing left to do
    assert again[2] == whole[2]
    assert torch.equal(again[1].state_dict()["0.weight"], whole[1].state_dict()["0.weight"])


def test_ctrl_c_writes_the_state_after_the_step_at_hand(tmp_path: Path) -> None:
    whole, file = tiny_run(SETTINGS), tmp_path / "checkpoint.safetensors"
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a runner in the background ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            tiny_run(SETTINGS, file, ctrl_c_at=13)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert read_checkpoint(file)[1]["step"] == 13
    resumed = tiny_run(SETTINGS, file, resume=True)
    assert resumed[2] == whole[2]
    assert torch.equal(resumed[1].state_dict()["0.weight"], whole[1].state_dict()["0.weight"])


def test_training_depends_on_the_seed_and_leaves_the_global_random_state() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = tiny_run(SETTINGS)[0].state_dict()["0.weight"]
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert torch.equal(tiny_run(SETTINGS)[0].state_dict()["0.weight"], first)
    other = SETTINGS.model_copy(update={"seed": 12})
    assert not torch.equal(tiny_run(other)[0].state_dict()["0.weight"], first)


def test_training_lowers_the_loss() -> None:
    history = tiny_run(SETTINGS.model_copy(update={"steps": 120}))[2]
    # 0.81 over the first six steps and 0.16 over the last six; predicting 0 costs 1.
    assert history[0]["loss"] > 0.6
    assert history[-1]["loss"] < 0.3


def test_moving_average_follows_its_formula() -> None:
    network = nn.Linear(1, 1, bias=False)
    average = MovingAverage(network, decay=0.4)
    expected = float(network.weight.detach())
    for k in range(1, 12):
        with torch.no_grad():
            network.weight.fill_(float(k * k))
        average.update(network)
        d = min(0.4, k / (k + 9))
        expected = d * expected + (1 - d) * k * k
        assert float(average.network.weight) == pytest.approx(expected, rel=1e-6)  # float32
    assert not average.network.weight.requires_grad
    assert not average.network.training


def test_learning_rate_warms_up_and_falls_to_zero() -> None:
    settings = TrainingSettings(steps=101, learning_rate=2.0, warmup_steps=10)
    assert settings.rate(0) == pytest.approx(0.2)
    assert settings.rate(9) == settings.rate(10) == pytest.approx(2.0)
    assert settings.rate(10 + 91 // 3) == pytest.approx(1 + math.cos(math.pi * 30 / 91))
    assert settings.rate(101) == pytest.approx(0.0)


def test_gradients_are_clipped() -> None:
    network = nn.Linear(1, 1, bias=False)
    seen: list[float] = []
    network.weight.register_hook(lambda g: seen.append(float(g)))

    def loss(generator: torch.Generator) -> Tensor:
        return 1e3 * network.weight.square().sum()

    clipped: list[float] = []
    original = torch.optim.AdamW.step
    settings = TrainingSettings(steps=1, clip_norm=0.5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            torch.optim.AdamW, "step", lambda self: clipped.append(float(network.weight.grad)) or original(self)
        )
        train(network, loss, settings, progress=False)
    assert abs(seen[0]) > 0.5
    assert abs(clipped[0]) == pytest.approx(0.5, rel=1e-4)  # torch adds 1e-6 to the norm


def test_loop_errors(tmp_path: Path) -> None:
    file = tmp_path / "checkpoint.safetensors"
    with pytest.raises(ArgumentError, match="no checkpoint at"):
        tiny_run(SETTINGS, file, resume=True)
    with pytest.raises(ArgumentError, match="needs the checkpoint"):
        tiny_run(SETTINGS, resume=True)
    tiny_run(SETTINGS, file)
    with pytest.raises(ArgumentError, match="holds a run already"):
        tiny_run(SETTINGS, file)
    with pytest.raises(ArgumentError, match=r"seed \(was 11, now 12\)"):
        tiny_run(SETTINGS.model_copy(update={"seed": 12}), file, resume=True)
    network = nn.Linear(2, 2)
    with pytest.raises(ArgumentError, match="another network"):
        train(network, lambda g: network.weight.sum(), SETTINGS, checkpoint=file, resume=True, progress=False)
    file.write_bytes(b"no checkpoint")
    with pytest.raises(ArgumentError, match="is not a checkpoint"):
        tiny_run(SETTINGS, file, resume=True)
    network = nn.Linear(1, 1)
    with pytest.raises(SdekitError, match="became nan at step 1"):
        train(network, lambda g: network.weight.sum() * math.nan, SETTINGS, progress=False)
    with pytest.raises(ArgumentError, match=r"learning_rate = -1.0: .*; stepz = 3"):
        TrainingSettings.checked(learning_rate=-1.0, stepz=3)


def test_bar_is_silent_where_there_is_no_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    network = tiny_network()
    train(network, lambda g: network(torch.ones(1, 3)).square().sum(), TrainingSettings(steps=2))
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


# Digits --------------------------------------------------------------------------------------------------------------


def test_digits_split_is_disjoint_complete_and_stratified() -> None:
    from sklearn.datasets import load_digits

    split, data = digits_split(), load_digits()
    assert split.train_images.shape == (1501, 1, 8, 8)
    assert split.held_out_images.shape == (296, 1, 8, 8)
    held = split.held_out_indices.numpy()
    assert np.array_equal(data.target[held], split.held_out_labels.numpy())
    assert np.array_equal(data.images[held] / 8 - 1, split.held_out_images[:, 0].numpy())
    rest = np.delete(np.arange(1797), held)
    assert np.array_equal(data.images[rest] / 8 - 1, split.train_images[:, 0].numpy())
    for digit in range(10):
        places = np.flatnonzero(data.target == digit)
        assert np.array_equal(places[np.isin(places, held)], places[5::6])


def test_dequantisation_is_one_level_wide_and_centred() -> None:
    images = digits_split().train_images
    noise = dequantise(images, torch.Generator().manual_seed(0)) - images
    assert float(noise.abs().max()) <= 0.0625 + 1e-6
    # 96,064 uniform draws of standard deviation 0.0361: standard errors are 1.2e-4 of the mean, 5e-5 of the deviation.
    assert abs(float(noise.mean())) < 6e-4
    assert float(noise.std()) == pytest.approx(0.125 / math.sqrt(12), abs=3e-4)


def test_classifier_knows_held_out_digits_and_not_inverted_ones() -> None:
    split = digits_split()
    assert held_out_accuracy() >= 0.98  # 0.990 measured, that is 3 errors in 296
    assert recognise(split.held_out_images).dtype == torch.int64
    # Wrong labels are counted as wrong: 3 images in 296 may be taken for the wrong digit that the shifted label names.
    assert recognition_accuracy(split.held_out_images, (split.held_out_labels + 1) % 10) <= 3 / 296
    with pytest.raises(ShapeError, match="images of shape"):
        recognise(torch.zeros(2, 8, 8))
    with pytest.raises(ShapeError, match="labels of shape"):
        recognition_accuracy(torch.zeros(2, 1, 8, 8), torch.zeros(3, dtype=torch.int64))


def test_train_digits_writes_a_folder_that_loads_and_resumes(tmp_path: Path) -> None:
    from sdekit.models import bundled

    with pytest.raises(ArgumentError, match="channels = 12"):
        train_digits(tmp_path, channels=12)
    tiny = {"seed": 3, "steps": 4, "batch_size": 8, "channels": 8, "checkpoint_every": 2, "recognised": 10}
    run = train_digits(tmp_path, **tiny)
    written = {p.name for p in tmp_path.iterdir()}
    assert written == {
        "digits.safetensors",
        "digits.json",
        "loss.csv",
        "loss.png",
        "samples.png",
        "checkpoint.safetensors",
    }
    config = json.loads((tmp_path / "digits.json").read_text())
    assert config["training"]["steps"] == 4
    assert config["training"]["threads"] == 1
    assert config["data"]["held_out_indices"] == digits_split().held_out_indices.tolist()
    assert config["results"].keys() == run.results.keys()
    with (tmp_path / "loss.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["4"]
    assert math.isfinite(float(rows[0]["held_out_likelihood"]))
    weights = (tmp_path / "digits.safetensors").read_bytes()
    again = train_digits(tmp_path, **tiny, resume=True)
    assert (tmp_path / "digits.safetensors").read_bytes() == weights
    x, t = torch.zeros(2, 1, 8, 8), torch.tensor([0.2, 0.7])
    assert torch.equal(again.model.score(x, t), bundled.load(tmp_path).score(x, t))


# The network ---------------------------------------------------------------------------------------------------------


def small_unet(**arguments: object) -> UNet:
    """A U-Net whose zeroed layers are not 0, so that every part shows in the output."""
    with isolated_random(1):
        network = UNet(channels=16, embedding=32, **arguments)  # type: ignore[arg-type]
        for parameter in network.parameters():
            parameter.data += 0.05 * torch.randn(parameter.shape)
    return network.eval()


def inputs(batch: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(batch, 1, 8, 8, generator=generator)
    return x, torch.linspace(-9, 9, batch), torch.arange(batch) % 10


def test_unet_shapes_dtypes_and_start() -> None:
    x, t, y = inputs()
    network = small_unet()
    assert network(x, t, y).shape == x.shape
    assert network(x, t[:1].squeeze(0)).shape == x.shape
    assert small_unet(image_channels=3, multipliers=(1, 2, 2), blocks=2)(torch.zeros(2, 3, 16, 8), t[:2]).shape[1:] == (
        3,
        16,
        8,
    )
    wide = small_unet().double()(x.double(), t.double(), y)
    assert wide.dtype == torch.float64
    # float32 keeps 7 digits; a dozen layers lose two of them.
    torch.testing.assert_close(network(x, t, y).double(), wide, rtol=1e-4, atol=1e-5)
    assert float(UNet()(x, t, y).detach().abs().max()) == 0.0
    assert bool(torch.isfinite(network(x, torch.full((5,), math.inf))).all())


def test_unet_knows_its_condition_and_its_time() -> None:
    x, t, y = inputs()
    network = small_unet()
    assert torch.equal(network(x, t), network(x, t, torch.full((5,), 10)))
    assert torch.equal(network(x, t, y)[2], network(x, t, y.flip(0))[2])  # the same label in the middle
    changed = (network(x, t, y) - network(x, t, (y + 1) % 10)).flatten(1).abs().amax(1)
    assert bool((changed > 1e-4).all())
    changed = (network(x, t, y) - network(x, t + 0.5, y)).flatten(1).abs().amax(1)
    assert bool((changed > 1e-4).all())


def test_unet_gives_the_same_alone_and_in_a_batch() -> None:
    x, t, y = inputs()
    network = small_unet()
    whole = network(x, t, y)
    for i in range(5):
        # Other kernels may serve other batch sizes: equal to float32 rounding.
        torch.testing.assert_close(network(x[i : i + 1], t[i : i + 1], y[i : i + 1])[0], whole[i], rtol=1e-4, atol=1e-5)


# torch warns about itself when it loads its forward-mode formulas for the first time.
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
def test_unet_under_transforms() -> None:
    x, _, y = inputs(3)
    network = small_unet().double()
    model = ScoreModel(network, VPSDE(), "v", time=VPSDE().log_snr, condition={"y": y})
    x, time = x.double(), torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    with torch.inference_mode():
        inferred = model.score(x, time)
    torch.testing.assert_close(inferred, model.score(x, time).detach())
    tangents = torch.randn(4, *x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def push(v: Tensor) -> Tensor:
        return torch.func.jvp(lambda z: model.score(z, time), (x,), (v,))[1]

    forward = torch.func.vmap(push)(tangents)
    h = 1e-6
    for v, jv in zip(tangents, forward, strict=True):
        difference = (model.score(x + h * v, time) - model.score(x - h * v, time)).detach() / (2 * h)
        # Central differences in float64: truncation h^2 and rounding 1e-16/h, against scores of size up to 20.
        torch.testing.assert_close(jv.detach(), difference, rtol=1e-5, atol=1e-6)
    leaf = x.clone().requires_grad_(True)
    (backward,) = torch.autograd.grad((model.score(leaf, time) * tangents[0]).sum(), leaf)
    assert float((backward * tangents[1]).sum().detach()) == pytest.approx(
        float((forward[1] * tangents[0]).sum().detach()), rel=1e-9
    )


def test_unet_dropout_acts_in_training_only() -> None:
    x, t, y = inputs()
    network = small_unet(dropout=0.5)
    assert torch.equal(network(x, t, y), network(x, t, y))
    with isolated_random(0):
        network.train()
        assert not torch.equal(network(x, t, y), network(x, t, y))


def test_unet_errors() -> None:
    network = small_unet()
    with pytest.raises(ShapeError, match="multiples of 2"):
        network(torch.zeros(1, 1, 7, 8), torch.zeros(1))
    with pytest.raises(ShapeError, match="one label y for each"):
        network(torch.zeros(3, 1, 8, 8), torch.zeros(3), torch.zeros(2, dtype=torch.int64))
    for label in (3, [1, 2, 3], torch.ones(3)):
        with pytest.raises(ArgumentError, match="y must be a tensor of integers"):
            network(torch.zeros(3, 1, 8, 8), torch.zeros(3), label)
    for label in (torch.tensor(11), torch.tensor([0, 77, 1]), torch.tensor([-1])):
        with pytest.raises(ArgumentError, match=r"labels from 0 to 10 \(10 is no class\)"):
            network(torch.zeros(3, 1, 8, 8), torch.zeros(3), label)
    for wrong in ({"channels": 20}, {"channels": 0}, {"dropout": 1.0}, {"multipliers": ()}, {"heads": 5}):
        with pytest.raises(ArgumentError):
            UNet(**wrong)  # type: ignore[arg-type]
