"""Models: what supplies the score."""

from sdekit.models.bundled import describe, load, names, save
from sdekit.models.predictions import Prediction
from sdekit.models.score import EvaluationCounter, ScoreModel
from sdekit.models.unet import UNet

__all__ = ["EvaluationCounter", "Prediction", "ScoreModel", "UNet", "describe", "load", "names", "save"]
