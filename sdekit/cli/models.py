"""Models as the command line names them: bundled, exact, or a folder; and the labels they take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sdekit.errors import ArgumentError, UnknownNameError

if TYPE_CHECKING:
    from torch import Tensor

    from sdekit.models import ScoreModel
    from sdekit.targets import Target

__all__ = ["HELP", "NamedModel", "labels", "load_model", "load_models"]

HELP = "A bundled network (digits), an exact target (digits:exact, ring, moons), or the folder of a saved model."

_EXACT = {"digits:exact": "digits", "ring": "ring", "moons": "moons"}


@dataclass(frozen=True)
class NamedModel:
    """A model; `target` is the distribution it is exact for, or None for a network."""

    name: str
    model: ScoreModel
    target: Target | None


def load_model(name: str, sde: str | None) -> NamedModel:
    """The model of that name; `sde` is for an exact target, "vp" unless given.

    Raises:
        UnknownNameError: if nothing has that name.
        ArgumentError: if an SDE is named for a network, which has its own.
    """
    from pathlib import Path

    from sdekit import models, sdes, targets

    if name in _EXACT:
        target = targets.named(_EXACT[name])
        return NamedModel(name, target.score_model(sdes.named(sde or "vp")), target)
    if name not in models.names() and not Path(name).is_dir():
        raise UnknownNameError("model", name, [*models.names(), *_EXACT], "Or give the folder of a saved model.")
    model = models.load(name)
    if sde is not None:
        raise ArgumentError(f"--sde is for exact targets; model {name!r} was trained under {model.sde!r}.")
    return NamedModel(name, model, None)


def load_models(names: list[str], sde: str | None) -> list[NamedModel]:
    """The models of these names; `sde` is for the exact targets among them.

    Raises:
        UnknownNameError: if nothing has one of the names.
        ArgumentError: if a name is given twice, or an SDE to networks alone.
    """
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ArgumentError(f"--models names {', '.join(twice)} twice; name each model once.")
    any_exact = any(name in _EXACT for name in names)
    return [load_model(name, sde if name in _EXACT or not any_exact else None) for name in names]


def labels(model: NamedModel, label: str | None, n: int) -> Tensor | None:
    """The class of each of n samples: one for all, or "each" for the classes in turn; None for no condition.

    Raises:
        ArgumentError: if the model has no classes, or not this one.
    """
    import torch

    if label is None:
        return None
    classes = getattr(model.model.network, "classes", None)
    if not isinstance(classes, int):
        raise ArgumentError(f"model {model.name!r} has no classes; leave out --label.")
    if label == "each":
        return torch.arange(n) % classes
    if not label.isdecimal() or int(label) >= classes:
        raise ArgumentError(f"--label must be from 0 to {classes - 1}, or 'each' for all in turn; got {label!r}.")
    return torch.full((n,), int(label))
