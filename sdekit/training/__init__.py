"""Training: denoising score matching, the loop, and the bundled digits model."""

from sdekit.training.classifier import held_out_accuracy, recognise, recognition_accuracy
from sdekit.training.digits import DigitsRun, DigitsSettings, train_digits
from sdekit.training.digits_data import DigitsSplit, dequantise, digits_split
from sdekit.training.loop import MovingAverage, Training, TrainingSettings, isolated_random, train
from sdekit.training.losses import (
    TimeSampling,
    Weighting,
    draw_times,
    importance_weight,
    loss_weight,
    score_matching_loss,
)

__all__ = [
    "DigitsRun",
    "DigitsSettings",
    "DigitsSplit",
    "MovingAverage",
    "TimeSampling",
    "Training",
    "TrainingSettings",
    "Weighting",
    "dequantise",
    "digits_split",
    "draw_times",
    "held_out_accuracy",
    "importance_weight",
    "isolated_random",
    "loss_weight",
    "recognise",
    "recognition_accuracy",
    "score_matching_loss",
    "train",
    "train_digits",
]
