r"""The bundled model: a class-conditional U-Net trained on scikit-learn's 8x8 digits, by one call.

A training image is x_0 = image in [-1, 1] plus uniform noise of one grey level's width; its label is replaced by the
null class with probability `label_dropout`, so that one network serves p(x | y) and p(x) (Ho & Salimans 2022,
arXiv 2207.12598). The loss is the one of `losses`; what ships is the moving average of the weights.
"""

from __future__ import annotations

import csv
import io
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from sdekit._tensors import check_positive_integer
from sdekit.models import ScoreModel
from sdekit.models.bundled import load, save
from sdekit.models.unet import UNet
from sdekit.sdes import VPSDE, DiffusionSDE
from sdekit.training.checkpoint import write_atomically
from sdekit.training.classifier import held_out_accuracy, recognition_accuracy
from sdekit.training.digits_data import HELD_OUT_RULE, LEVEL_WIDTH, dequantise, digits_split
from sdekit.training.loop import TrainingSettings, isolated_random, threads_of, train
from sdekit.training.losses import TimeSampling, Weighting, draw_times, importance_weight, score_matching_loss

__all__ = ["DigitsRun", "DigitsSettings", "train_digits"]


class DigitsSettings(TrainingSettings):
    """The settings of the loop, of the loss and of the network."""

    batch_size: int = Field(128, ge=1, le=1501)
    weighting: Weighting = "likelihood"
    time_sampling: TimeSampling = "importance"
    label_dropout: float = Field(0.1, ge=0, le=1)
    channels: int = Field(32, ge=8, multiple_of=8)
    dropout: float = Field(0.1, ge=0, lt=1)
    threads: int = Field(1, ge=1)


@dataclass(frozen=True)
class DigitsRun:
    """A trained model, the folder with its files, the figures of its last evaluation, and the seconds it took."""

    model: ScoreModel
    folder: Path
    results: dict[str, float]
    seconds: float


def train_digits(
    out: Path | str,
    *,
    seed: int = 0,
    steps: int = 4000,
    batch_size: int = 128,
    learning_rate: float = 2e-3,
    weighting: Weighting = "likelihood",
    time_sampling: TimeSampling = "importance",
    channels: int = 32,
    dropout: float = 0.1,
    checkpoint_every: int = 500,
    threads: int = 1,
    recognised: int = 1000,
    resume: bool = False,
    progress: bool = True,
) -> DigitsRun:
    """Train the digits model and write it to `out`; the defaults are the bundled model's settings.

    The folder then holds digits.safetensors and digits.json (`sk.models.load(out)` reads them), loss.csv, loss.png,
    samples.png (the classes as columns, eight samples each) and checkpoint.safetensors (the state of the run).

    Args:
        out: the folder.
        seed: of weights, batches, times and noise; the same seed and threads give the same weights.
        steps: of the optimizer.
        batch_size: images a step, at most 1501.
        learning_rate: at its height; see TrainingSettings.rate.
        weighting: of the loss over time, "simple" or "likelihood".
        time_sampling: "uniform", or "importance" (uniform in log-SNR), which suits "likelihood".
        channels: width of the U-Net, a multiple of 8.
        dropout: in its blocks.
        checkpoint_every: steps between two writes of the run's state.
        threads: of torch, during the training; the last bits of the weights depend on it.
        recognised: how many digits to generate for the recognition accuracy.
        resume: continue the run in `out`, which must have the same settings.
        progress: a bar on a terminal.

    Raises:
        ArgumentError: if a setting is out of range, if `out` holds a run and `resume` is False, or if there is none to
            resume.
        SdekitError: if the loss becomes NaN or infinite.
        KeyboardInterrupt: on Ctrl-C, after the step at hand; `resume` goes on from there.
    """
    settings = DigitsSettings.checked(
        seed=seed,
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        weighting=weighting,
        time_sampling=time_sampling,
        channels=channels,
        dropout=dropout,
        checkpoint_every=checkpoint_every,
        threads=threads,
    )
    check_positive_integer("recognised", recognised)
    folder = Path(out)
    sde = VPSDE()
    with isolated_random(settings.seed):
        network = UNet(channels=settings.channels, dropout=settings.dropout)
    with threads_of(settings.threads):
        training = train(
            network,
            _loss(_model(network, sde), settings),
            settings,
            evaluate=lambda average: losses(_model(average, sde), repeats=2),
            checkpoint=folder / "checkpoint.safetensors",
            resume=resume,
            progress=progress,
        )
        model = _model(training.network, sde)
        results = losses(model, repeats=10) | {
            "classifier_held_out_accuracy": held_out_accuracy(),
            "generated_recognised": recognition(model, n=recognised),
        }
        save(model, folder, "digits", _description(settings, training.seconds, results))
        _write_history(folder, training.history)
        write_atomically(
            folder / "samples.png", _sheet(_generate(model, torch.arange(10).repeat(8), seed=0), columns=10)
        )
    return DigitsRun(load(folder), folder, results, training.seconds)


def losses(model: ScoreModel, *, repeats: int) -> dict[str, float]:
    """The conditional losses on training and held-out images, under both weightings, on fixed times and noise.

    The same number of training images as there are held-out ones, spread over the set. Each of the `repeats` draws new
    times and noise from a fixed seed, the same for both sets: only the images differ.
    """
    split = digits_split()
    n = len(split.held_out_labels)
    spread = torch.arange(n) * (len(split.train_labels) // n)
    sets = {
        "train": (split.train_images[spread], split.train_labels[spread]),
        "held_out": (split.held_out_images, split.held_out_labels),
    }
    samplings: dict[Weighting, TimeSampling] = {"simple": "uniform", "likelihood": "importance"}
    return {
        f"{name}_{weighting}": _mean_loss(model, images, labels, weighting, sampling, repeats)
        for weighting, sampling in samplings.items()
        for name, (images, labels) in sets.items()
    }


def recognition(model: ScoreModel, *, n: int, seed: int = 0) -> float:
    """The fraction of n generated digits, the classes in turn, that the classifier recognises (DDIM, 50 steps)."""
    labels = torch.arange(n) % 10
    return recognition_accuracy(_generate(model, labels, seed), labels)


def _model(network: nn.Module, sde: DiffusionSDE) -> ScoreModel:
    images = digits_split().train_images
    rms = float((images.double().square().mean() + LEVEL_WIDTH**2 / 12).sqrt())
    return ScoreModel(network, sde, "v", time=sde.log_snr, data_std=round(rms, 4), shape=(1, 8, 8))


def _loss(model: ScoreModel, settings: DigitsSettings) -> Callable[[torch.Generator], Tensor]:
    split = digits_split()

    def loss(generator: torch.Generator) -> Tensor:
        batch = torch.randperm(len(split.train_labels), generator=generator)[: settings.batch_size]
        dropped = torch.rand(len(batch), generator=generator) < settings.label_dropout
        labels = split.train_labels[batch].masked_fill(dropped, model.network.classes)  # type: ignore[attr-defined]
        x0 = dequantise(split.train_images[batch], generator)
        t = draw_times(model.sde, len(batch), settings.time_sampling, generator=generator)
        noise = torch.randn(x0.shape, generator=generator)
        each = score_matching_loss(model.with_condition(y=labels), x0, t, noise, weighting=settings.weighting)
        return (each * importance_weight(settings.time_sampling, model.sde, t).to(each.dtype)).mean()

    return loss


@torch.inference_mode()
def _mean_loss(
    model: ScoreModel, images: Tensor, labels: Tensor, weighting: Weighting, sampling: TimeSampling, repeats: int
) -> float:
    conditional = model.with_condition(y=labels)
    total = 0.0
    for repeat in range(repeats):
        generator = torch.Generator().manual_seed(repeat)
        t = draw_times(model.sde, len(images), sampling, generator=generator)
        t = t[torch.randperm(len(t), generator=generator)]  # the images are in no random order, the times are sorted
        x0 = dequantise(images, generator)
        noise = torch.randn(x0.shape, generator=generator)
        each = score_matching_loss(conditional, x0, t, noise, weighting=weighting).double()
        total += float((each * importance_weight(sampling, model.sde, t)).mean())
    return total / repeats


def _generate(model: ScoreModel, labels: Tensor, seed: int) -> Tensor:
    from sdekit.sampling import sample

    return sample(model, len(labels), solver="ddim", steps=50, seed=seed, condition={"y": labels}, progress=False).x


def _description(settings: DigitsSettings, seconds: float, results: dict[str, float]) -> dict[str, Any]:
    import numpy
    import sklearn

    import sdekit

    return {
        "classes": list(range(10)),
        "null_class": 10,
        "data": {
            "source": "sklearn.datasets.load_digits()",
            "scaling": "grey level / 8 - 1, in [-1, 1]",
            "dequantisation": f"uniform noise of width {LEVEL_WIDTH} (one grey level), centred",
            "held_out_rule": HELD_OUT_RULE,
            "held_out_indices": digits_split().held_out_indices.tolist(),
        },
        "training": {
            **settings.model_dump(mode="json"),
            "seconds": round(seconds, 1),
        },
        "results": {name: round(value, 5) for name, value in results.items()},
        "versions": {
            "sdekit": sdekit.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": numpy.__version__,
            "scikit-learn": sklearn.__version__,
        },
    }


def _write_history(folder: Path, history: list[dict[str, float]]) -> None:
    """loss.csv and loss.png."""
    from matplotlib.figure import Figure

    text = io.StringIO()
    table = csv.DictWriter(text, list(history[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(history)
    write_atomically(folder / "loss.csv", text.getvalue().encode())

    figure = Figure(figsize=(9, 3.5), layout="constrained")
    for axes, weighting in zip(figure.subplots(1, 2), ("simple", "likelihood"), strict=True):
        for name, label in (("train", "training images"), ("held_out", "held-out images")):
            axes.plot([row["step"] for row in history], [row[f"{name}_{weighting}"] for row in history], label=label)
        axes.set(xlabel="step", ylabel=f"loss, {weighting} weighting")
        axes.legend()
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=120)
    write_atomically(folder / "loss.png", image.getvalue())


def _sheet(images: Tensor, columns: int, scale: int = 4) -> bytes:
    """A PNG of images (B, 1, H, W) in [-1, 1], row by row, each pixel `scale` wide, white digits on black."""
    from PIL import Image

    grey = ((images.squeeze(1).clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    framed = nn.functional.pad(grey, (1, 1, 1, 1))
    rows = [torch.cat(list(framed[i : i + columns]), 1) for i in range(0, len(framed), columns)]
    sheet = torch.cat(rows, 0).repeat_interleave(scale, 0).repeat_interleave(scale, 1)
    file = io.BytesIO()
    Image.fromarray(sheet.numpy()).save(file, format="PNG")
    return file.getvalue()
