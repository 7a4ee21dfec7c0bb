"""Scheduler configs in diffusers' format: the read-only mapping in memory and scheduler_config.json on disk."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath
from typing import Any, Final, NoReturn, final

from sdekit.errors import ArgumentError, UnsupportedError, closest_name

__all__ = ["CONFIG_NAME", "DIFFUSERS_VERSION", "Config", "read_config", "reject_unknown", "split_config", "to_json"]

CONFIG_NAME: Final = "scheduler_config.json"

# Written as `_diffusers_version`: the release whose results and file format these schedulers reproduce.
DIFFUSERS_VERSION: Final = "0.42.1"

# In a config of diffusers that is still in memory, this key lists the parameters that the caller did not name.
_DEFAULTED: Final = "_use_default_values"

_log = logging.getLogger("sdekit.interop.diffusers")


@final
class Config(dict[str, Any]):
    """A read-only dict whose entries are attributes too: `config["beta_min"]` and `config.beta_min`.

    It is a dict so that diffusers' own `from_config` accepts it.

    Raises:
        UnsupportedError: on any attempt to change it.
        AttributeError: if no entry has the name asked for.
    """

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        near = closest_name(name, self)
        raise AttributeError(f"the config has no entry {name!r}" + (f"; did you mean {near!r}?" if near else "."))

    def _refuse(self, *_args: Any, **_kwargs: Any) -> NoReturn:
        raise UnsupportedError(
            "a scheduler's config is read-only: build another scheduler with `from_config(config, name=value)`, "
            "or change this one with `register_to_config(name=value)`."
        )

    __setattr__ = __delattr__ = __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self) -> tuple[type[Config], tuple[dict[str, Any]]]:
        # The default way to copy or unpickle a dict sets its items one by one.
        return Config, (dict(self),)


def split_config(
    config: Mapping[str, Any], overrides: Mapping[str, Any], class_name: str, parameters: Iterable[str]
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """What a scheduler takes from a config and from keywords that override it, and what is left over.

    Entries that are no parameter of this scheduler are kept as extras, so that a config can pass through it on the way
    to another scheduler. A config of another class gives only the values its caller had named, as in diffusers: the
    defaults of a DDPM scheduler are not this scheduler's.

    Returns:
        Arguments of the scheduler; keywords it does not know; extra entries of the config.
    """
    parameters = tuple(parameters)
    own = {key for key in config if not key.startswith("_")} == set(parameters)
    defaulted = () if own else config.get(_DEFAULTED, ())
    values = {key: value for key, value in config.items() if key != _DEFAULTED and key not in defaulted}

    arguments = {key: value for key, value in {**values, **overrides}.items() if key in parameters}
    unknown = {key: value for key, value in overrides.items() if key not in parameters}
    extras = {key: value for key, value in values.items() if key not in arguments}

    unexpected = [key for key in extras if not key.startswith("_")]
    if unexpected and config.get("_class_name", class_name) == class_name:
        _log.warning("%s does not use these entries of its config: %s.", class_name, ", ".join(unexpected))
    if "_class_name" in extras:
        extras["_class_name"] = class_name
    return arguments, unknown, extras


def reject_unknown(call: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raise UnsupportedError if `given` holds a keyword outside `known`, naming the nearest that is known."""
    known = sorted(known)
    for name in given:
        if name not in known:
            near = closest_name(name, known)
            hint = f"did you mean {near!r}?" if near else f"known: {', '.join(known)}."
            raise UnsupportedError(f"{call} got an unknown keyword {name!r}; {hint}")


def to_json(config: Mapping[str, Any], class_name: str) -> str:
    """The text of scheduler_config.json: the entries, the class and the diffusers version, sorted by key.

    Raises:
        ArgumentError: if an entry has no JSON form.
    """
    entries = {**config, "_class_name": class_name, "_diffusers_version": DIFFUSERS_VERSION}
    return json.dumps(entries, indent=2, sort_keys=True, default=_plain) + "\n"


def read_config(path: str | os.PathLike[str] | None, subfolder: str | None = None) -> dict[str, Any]:
    """The entries of a scheduler_config.json, from the file itself or from a local folder that holds it.

    With a subfolder, its file is read if there is one, else the folder's own (as in diffusers, but with a logged
    warning).

    Raises:
        ArgumentError: if there is no such file, or if it does not hold a JSON object.
    """
    file = _find_config(path, subfolder)
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ArgumentError(
            f"{str(file)!r} is not valid JSON ({error}); write it again with save_pretrained."
        ) from error
    if not isinstance(entries, dict):
        raise ArgumentError(f"{str(file)!r} holds a JSON {type(entries).__name__}; expected an object of parameters.")
    return entries


def _find_config(path: str | os.PathLike[str] | None, subfolder: str | None) -> Path:
    if not isinstance(path, str | os.PathLike):
        raise ArgumentError(f"expected the path of a local folder that holds {CONFIG_NAME}, got {path!r}.")
    place = Path(path)
    if place.is_file():
        return place
    if not os.path.isdir(path):  # Path("") would be the current folder
        raise ArgumentError(
            f"no local folder {str(path)!r}: only local folders are read, nothing is downloaded. To use a repository "
            "of the Hugging Face Hub, download it first: `hf download REPO_ID --local-dir FOLDER`, then give FOLDER."
        )
    wanted = place / (subfolder or "") / CONFIG_NAME
    if wanted.is_file():
        return wanted
    if not (place / CONFIG_NAME).is_file():
        raise ArgumentError(f"no file {str(wanted)!r}; expected a folder written by save_pretrained.")
    _log.warning("no %s; reading %s instead.", wanted, place / CONFIG_NAME)
    return place / CONFIG_NAME


def _plain(value: object) -> Any:
    """JSON form of what the json module does not know: arrays, tensors and their scalars as numbers, paths as text."""
    if isinstance(value, PurePath):
        return value.as_posix()
    if hasattr(value, "tolist"):
        return value.tolist()
    raise ArgumentError(f"a config entry of type {type(value).__name__} has no JSON form: {value!r}.")
