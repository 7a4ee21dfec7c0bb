r"""Score models on disk: the ones that come with the package, and the user's own.

A model is a pair of files in one folder: `<name>.safetensors` (weights) and `<name>.json` (network, SDE, prediction,
time, data_std, shape, and how it was trained); `model.safetensors` with `config.json` is read too.
"""

from __future__ import annotations

import importlib.resources
import json
import os
from collections.abc import Mapping
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError

from sdekit.errors import ArgumentError, UnknownNameError, UnsupportedError
from sdekit.models.autograd import Differentiating
from sdekit.models.score import ScoreModel
from sdekit.models.unet import UNet
from sdekit.sdes import DiffusionSDE, from_dict

__all__ = ["describe", "load", "names", "save"]

_FORMAT = 1
_NETWORKS: dict[str, type[UNet]] = {"UNet": UNet}


def names() -> list[str]:
    """The names of the bundled models."""
    return sorted(file.name.removesuffix(".json") for file in _bundle().iterdir() if file.name.endswith(".json"))


def describe(name: str | Path) -> dict[str, Any]:
    """The JSON description of a bundled model, or of the model in a folder: its settings, training and figures.

    Raises: as `load`.
    """
    return _read(name)[0]


def load(name: str | Path, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> ScoreModel:
    """A bundled model by its name, or the model in a folder by its path: in eval mode, without gradients.

    A bundled name comes before a folder of that name in the working directory; write "./digits" for the folder.

    Raises:
        UnknownNameError: if the name is neither bundled nor a folder.
        ArgumentError: if the folder holds no model or several, or its files do not fit each other.
    """
    config, weights = _read(name)
    try:
        network_config = dict(config["network"])
        kind = network_config.pop("type")
        sde, prediction, time = from_dict(config["sde"]), config["prediction"], config["time"]
        data_std, shape = float(config["data_std"]), tuple(config["shape"])
    except KeyError as error:
        raise ArgumentError(f"the description of model {str(name)!r} lacks {error}.") from None
    if kind not in _NETWORKS:
        raise UnknownNameError("network type", kind, _NETWORKS)
    if time not in ("t", "log_snr"):
        raise UnknownNameError("network time", time, ("t", "log_snr"))
    if not isinstance(sde, DiffusionSDE):
        raise ArgumentError(f"the model {str(name)!r} names {type(sde).__name__}, which is not a diffusion SDE.")
    try:
        with torch.device("meta"):  # no memory and no random numbers for weights that are replaced at once
            network = _NETWORKS[kind](**network_config)
        network.load_state_dict(safetensors.torch.load(weights), assign=True)
    except (TypeError, RuntimeError, SafetensorError) as error:
        raise ArgumentError(f"the weights of model {str(name)!r} do not fit its description: {error}") from None
    network = network.to(device=device, dtype=dtype).eval().requires_grad_(False)
    return ScoreModel(
        network,
        sde,
        prediction,
        time=sde.log_snr if time == "log_snr" else None,
        data_std=data_std,
        shape=shape,
    )


def save(model: ScoreModel, folder: str | Path, name: str = "model", info: Mapping[str, Any] | None = None) -> Path:
    """Write a model as `<name>.safetensors` and `<name>.json`, which `load` reads back; returns the folder.

    Args:
        model: its network one of sdekit's own, its time t itself or `sde.log_snr`, without a condition.
        folder: made if it is not there.
        name: of the two files.
        info: further JSON values for the description, such as how the model was trained.

    Raises:
        UnsupportedError: if the model holds what a file cannot: another network, function of time, or a condition.
        ArgumentError: if the model has no sample shape, or `info` would replace part of the description.
    """
    network = model.network.network if isinstance(model.network, Differentiating) else model.network
    if not isinstance(network, UNet):
        raise UnsupportedError(
            f"only {', '.join(_NETWORKS)} networks can be saved with their description, got {type(network).__name__}; "
            "save others with torch.save and keep their code."
        )
    if model.time is not None and model.time != model.sde.log_snr:
        raise UnsupportedError("a model's time can be saved if it is None or sde.log_snr, not another function.")
    if model.condition:
        raise UnsupportedError(
            f"a condition ({', '.join(model.condition)}) cannot be saved; save the model without it."
        )
    if model.shape is None:
        raise ArgumentError("the model needs a sample shape to be saved: ScoreModel(…, shape=(1, 8, 8)).")
    config = {
        "format": _FORMAT,
        "network": {"type": type(network).__name__, **network.config},
        "sde": model.sde.to_dict(),
        "prediction": model.prediction,
        "time": "t" if model.time is None else "log_snr",
        "data_std": model.data_std,
        "shape": list(model.shape),
    }
    clash = sorted(config.keys() & (info or {}).keys())
    if clash:
        raise ArgumentError(f"info must not hold {', '.join(clash)}: the model itself gives them.")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
    (folder / f"{name}.safetensors").write_bytes(safetensors.torch.save(weights))
    (folder / f"{name}.json").write_text(json.dumps({**config, **(info or {})}, indent=2) + "\n", encoding="utf-8")
    return folder


def _bundle() -> Traversable:
    return importlib.resources.files("sdekit.models") / "data"


def _read(name: str | Path) -> tuple[dict[str, Any], bytes]:
    """The description and the weights, as they are in the files."""
    if isinstance(name, str) and name in names():
        files = _bundle() / f"{name}.json", _bundle() / f"{name}.safetensors"
    elif Path(name).is_dir():
        files = _pair(Path(name))
    elif isinstance(name, Path) or os.sep in name:
        raise ArgumentError(
            f"there is no folder {name}; give a bundled name ({', '.join(names())}) or a model's folder."
        )
    else:
        raise UnknownNameError("model", name, names())
    try:
        config = json.loads(files[0].read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ArgumentError(f"{files[0]} is not JSON: {error}.") from None
    if not isinstance(config, dict) or config.get("format") != _FORMAT:
        raise ArgumentError(f"{files[0]} does not describe a model in format {_FORMAT}, the one this version reads.")
    return config, files[1].read_bytes()


def _pair(folder: Path) -> tuple[Path, Path]:
    """The one pair of description and weights in a folder."""
    stems = sorted(p.stem for p in folder.glob("*.json") if p.with_suffix(".safetensors").is_file())
    pairs = [(folder / f"{stem}.json", folder / f"{stem}.safetensors") for stem in stems]
    if (folder / "config.json").is_file() and (folder / "model.safetensors").is_file():
        pairs.append((folder / "config.json", folder / "model.safetensors"))
    if len(pairs) != 1:
        found = "none" if not pairs else ", ".join(description.name for description, _ in pairs)
        raise ArgumentError(
            f"expected one model in {folder}: <name>.json beside <name>.safetensors, or config.json beside "
            f"model.safetensors; found {found}."
        )
    return pairs[0]
