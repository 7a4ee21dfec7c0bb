"""The bundled digits model: its files, its description, its losses and its samples; saving and loading."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

import sdekit as sk
from sdekit.errors import ArgumentError, UnknownNameError, UnsupportedError
from sdekit.models import ScoreModel, bundled
from sdekit.models.unet import UNet
from sdekit.sampling import sample
from sdekit.sdes import VESDE, VPSDE
from sdekit.training import dequantise, digits_split, recognise, recognition_accuracy
from sdekit.training.digits import losses


@pytest.fixture(scope="module")
def model() -> ScoreModel:
    return bundled.load("digits")


def unet_model(**arguments: object) -> ScoreModel:
    sde = VPSDE(beta_max=15.0)
    network = UNet(channels=16, multipliers=(1, 2, 2), dropout=0.2)
    for parameter in network.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    return ScoreModel(network, sde, "noise", time=sde.log_snr, data_std=0.5, shape=(1, 8, 8), **arguments)  # type: ignore[arg-type]


# The bundled model ---------------------------------------------------------------------------------------------------


def test_the_files_are_what_they_say(model: ScoreModel) -> None:
    assert bundled.names() == ["digits"]
    config = bundled.describe("digits")
    assert isinstance(model.network, UNet)
    assert config["network"] == {"type": "UNet", **model.network.config, "multipliers": [1, 2]}
    assert model.sde == VPSDE()
    assert model.sde.to_dict() == config["sde"]
    assert (model.prediction, config["prediction"]) == ("v", "v")
    assert model.shape == (1, 8, 8)
    assert config["data"]["held_out_indices"] == digits_split().held_out_indices.tolist()
    assert not model.network.training
    assert not any(p.requires_grad for p in model.network.parameters())
    assert all(p.dtype == torch.float32 for p in model.network.parameters())
    data = Path(bundled.__file__).with_name("data")
    assert (data / "digits.safetensors").stat().st_size < 4e6


def test_loading_draws_no_random_numbers_and_casts() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    wide = bundled.load("digits", dtype=torch.float64)
    assert torch.equal(torch.get_rng_state(), before)
    x = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0.1, 0.5, 1.0])
    narrow = bundled.load("digits").noise(x, t)
    # float32 keeps 7 digits; a dozen layers lose two of them.
    torch.testing.assert_close(narrow.double(), wide.noise(x.double(), t.double()), rtol=1e-4, atol=1e-4)


def test_samples_take_the_dtype_of_the_weights() -> None:
    wide = bundled.load("digits", dtype=torch.float64)
    out = sk.sample(wide, 2, "ddim", 3, seed=0)
    assert out.x.dtype == torch.float64
    narrow = sk.sample(bundled.load("digits"), 2, "ddim", 3, seed=0)
    assert narrow.x.dtype == torch.float32
    torch.testing.assert_close(out.x.float(), narrow.x, rtol=0, atol=1e-4)
    table = sk.compare({"a": wide}, ["ddim"], [3], 1, n=8, flow_steps=3, progress=True).table
    assert math.isfinite(table["value"].item())


def test_losses_are_those_reported_and_the_model_is_not_overfitted(model: ScoreModel) -> None:
    reported, measured = bundled.describe("digits")["results"], losses(model, repeats=2)
    for name, value in measured.items():
        # Two passes of 296 images against the reported ten: the mean's standard error is below 2 %.
        assert value == pytest.approx(reported[name], rel=0.06), name
    for weighting in ("simple", "likelihood"):
        assert reported[f"held_out_{weighting}"] < 1.1 * reported[f"train_{weighting}"]


def test_generated_digits_are_recognised_as_their_class(model: ScoreModel) -> None:
    labels = torch.arange(200) % 10
    images = sample(model, 200, solver="ddim", steps=30, seed=1, condition={"y": labels}, progress=False).x
    assert recognition_accuracy(images, labels) >= 0.97  # 0.995 measured; 0.989 of 1000
    assert bundled.describe("digits")["results"]["generated_recognised"] >= 0.97
    # Neither one image per class (distances within a class: 0.91 of those of real digits) ...
    split = digits_split()
    spread = [
        torch.pdist(images[labels == digit].flatten(1)).mean()
        / torch.pdist(split.held_out_images[split.held_out_labels == digit].flatten(1)).mean()
        for digit in range(10)
    ]
    assert 0.8 < float(torch.stack(spread).mean()) < 1.2
    # ... nor copies of training images (median distance to the nearest: 1.0 of that of held-out digits).
    train = split.train_images.flatten(1)
    held_out = dequantise(split.held_out_images, torch.Generator().manual_seed(0)).flatten(1)
    nearest = [torch.cdist(some, train).min(1).values.median() for some in (images.flatten(1), held_out)]
    assert float(nearest[0] / nearest[1]) > 0.85


def test_null_class_generates_all_digits(model: ScoreModel) -> None:
    images = sample(model, 200, solver="ddim", steps=30, seed=2, progress=False).x
    counts = torch.bincount(recognise(images), minlength=10)
    # 200 draws of ten equally likely classes: a count is 20 +- 4.2, and outside 5 to 40 once in 1e4 runs.
    assert int(counts.min()) >= 5
    assert int(counts.max()) <= 40


# Saving and loading --------------------------------------------------------------------------------------------------


def test_saved_model_loads_to_the_same_function(tmp_path: Path) -> None:
    model = unet_model()
    model.network.eval()  # type: ignore[attr-defined]
    assert bundled.save(model, tmp_path / "mine", "mine", {"note": "for a test"}) == tmp_path / "mine"
    loaded = bundled.load(tmp_path / "mine")
    x, t = torch.zeros(2, 1, 8, 8), torch.tensor([0.2, 0.7])
    y = torch.tensor([1, 2])
    assert torch.equal(loaded.with_condition(y=y).score(x, t), model.with_condition(y=y).score(x, t))
    assert (loaded.sde, loaded.data_std, loaded.shape, loaded.prediction) == (model.sde, 0.5, (1, 8, 8), "noise")
    assert bundled.describe(str(tmp_path / "mine"))["note"] == "for a test"
    shutil.move(tmp_path / "mine" / "mine.json", tmp_path / "mine" / "config.json")
    shutil.move(tmp_path / "mine" / "mine.safetensors", tmp_path / "mine" / "model.safetensors")
    assert torch.equal(bundled.load(tmp_path / "mine").score(x, t), model.score(x, t))


def test_time_itself_is_saved_too(tmp_path: Path) -> None:
    model = unet_model()
    plain = ScoreModel(model.network, VESDE(), "data", shape=(1, 8, 8))
    loaded = bundled.load(bundled.save(plain, tmp_path))
    assert loaded.time is None
    assert loaded.sde == VESDE()


def test_what_cannot_be_saved_is_refused(tmp_path: Path) -> None:
    model = unet_model()
    with pytest.raises(UnsupportedError, match="got Identity"):
        bundled.save(ScoreModel(nn.Identity(), VPSDE(), shape=(1, 8, 8)), tmp_path)
    with pytest.raises(UnsupportedError, match=r"sde\.log_snr"):
        bundled.save(ScoreModel(model.network, VPSDE(), time=lambda t: 999 * t, shape=(1, 8, 8)), tmp_path)
    with pytest.raises(UnsupportedError, match=r"a condition \(y\)"):
        bundled.save(model.with_condition(y=torch.zeros(1)), tmp_path)
    with pytest.raises(ArgumentError, match="sample shape"):
        bundled.save(ScoreModel(model.network, VPSDE()), tmp_path)
    with pytest.raises(ArgumentError, match="must not hold sde"):
        bundled.save(model, tmp_path, info={"sde": 1})
    assert not list(tmp_path.iterdir())


def test_loading_errors(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'digits'"):
        bundled.load("digit")
    with pytest.raises(ArgumentError, match="there is no folder"):
        bundled.load(tmp_path / "nowhere")
    with pytest.raises(ArgumentError, match="found none"):
        bundled.load(tmp_path)
    bundled.save(unet_model(), tmp_path, "a")
    bundled.save(unet_model(), tmp_path, "b")
    with pytest.raises(ArgumentError, match=r"found a\.json, b\.json"):
        bundled.load(tmp_path)
    (tmp_path / "b.json").unlink()
    config = json.loads((tmp_path / "a.json").read_text())

    def change(**values: object) -> None:
        (tmp_path / "a.json").write_text(json.dumps({k: v for k, v in (config | values).items() if v is not None}))

    for values, error, message in (
        ({"format": 2}, ArgumentError, "format 1"),
        ({"shape": None}, ArgumentError, "lacks 'shape'"),
        ({"time": "sigma"}, UnknownNameError, "network time"),
        ({"prediction": "noize"}, UnknownNameError, "did you mean 'noise'"),
        ({"network": {"type": "Unet"}}, UnknownNameError, "did you mean 'UNet'"),
        ({"network": config["network"] | {"channels": 32}}, ArgumentError, "do not fit"),
        ({"network": config["network"] | {"depth": 3}}, ArgumentError, "do not fit"),
        ({"sde": {"type": "GeometricBrownianMotion", "mu": 0.1, "sigma": 0.2}}, ArgumentError, "not a diffusion SDE"),
    ):
        change(**values)
        with pytest.raises(error, match=message):
            bundled.load(tmp_path)
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(ArgumentError, match="is not JSON"):
        bundled.load(tmp_path)
