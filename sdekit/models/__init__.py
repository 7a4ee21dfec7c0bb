"""Models: what supplies the score."""

from sdekit.models.predictions import Prediction
from sdekit.models.score import EvaluationCounter, ScoreModel

__all__ = ["EvaluationCounter", "Prediction", "ScoreModel"]
