"""The Euler-Maruyama scheduler of diffusers for the variance-preserving SDE (Song et al. 2021, arXiv 2011.13456)."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, Self, final, overload

import torch
from torch import Tensor

from sdekit._tensors import check_positive_integer
from sdekit.errors import ArgumentError, ShapeError, UnsupportedError
from sdekit.interop.diffusers.config import CONFIG_NAME, Config, read_config, reject_unknown, split_config, to_json

__all__ = ["ScoreSdeVpScheduler"]

Generators = torch.Generator | Sequence[torch.Generator]

_PARAMETERS: Final = ("num_train_timesteps", "beta_min", "beta_max", "sampling_eps")

# What diffusers' from_pretrained takes for a download; beside a local folder they mean nothing, there as here.
_DOWNLOAD_OPTIONS: Final = frozenset(
    {
        "cache_dir",
        "force_download",
        "local_dir",
        "local_dir_use_symlinks",
        "local_files_only",
        "mirror",
        "proxies",
        "revision",
        "token",
        "user_agent",
    }
)


@final
class ScoreSdeVpScheduler:
    r"""Drop-in for diffusers' `ScoreSdeVpScheduler`: same calls, same config files, on the CPU the same bits.

    With b = beta_min, B = beta_max, eps = sampling_eps and N = num_inference_steps, `set_timesteps(N)` lays the grid

        t_i = 1 - i (1 - eps)/(N - 1),   i = 0, …, N - 1,

    and `step_pred` takes one step of dt = -1/N at the time t it is given:

        beta  = b + (B - b) t
        std   = sqrt(1 - exp(2 l)),   l = -t^2 (B - b)/4 - t b/2
        s     = -score/std                       (`score` is the network's noise prediction, not a score)
        mean  = x + (-beta x/2 - beta s) dt
        x_new = mean + sqrt(beta) sqrt(-dt) z,   z ~ N(0, I)

    It exists so that scripts and papers built on that class run unchanged. It keeps its peculiarities, and so differs
    from the solver `euler_maruyama`, which takes N steps over N + 1 grid points, each as long as the gap it crosses:

    - Step and grid disagree. The grid covers 1 - eps in gaps of (1 - eps)/(N - 1), the steps cover 1 in total. The
      last step starts at eps and ends at eps - 1/N: at -0.019 for N = 50 and eps = 1e-3. The state has moved for
      i/N when the coefficients are taken at t_i, up to |1/N - eps| away; the two agree only for N = 1/eps, where
      this is `euler_maruyama` from 1 to 0.
      The error does not vanish as N grows: with eps = 1e-3, exact noise predictions and data N(0, 2^2), the standard
      deviation tends to 2.00077, where the marginal at eps has 1.99992; `euler_maruyama` tends to the latter.
    - `std` is computed in the dtype of t by a difference that cancels near t = 0. In float32 its relative error
      reaches 1.4e-4 for t in [1e-3, 1] and 1.4 % for t in [1e-5, 1e-3]; sdekit's SDEs use expm1 in float64.
      With t in bfloat16, std is 0 for t up to 0.0098 (float16: 0.0020) and the step is no longer finite. `timesteps`
      are float32: with them a state in half precision comes back as float32.
    - Noise is added in the last step too: take the second result, the mean, as the sample, which is what
      `sample(…, denoise="mean")` returns.
    - All samples share one random stream unless `generator` is a list, so a sample depends on its batch; `sample(…,
      seed=…)` gives each its own.

    The reference is diffusers 0.42. Where it lets a mistake pass, this class raises: parameters out of range,
    shapes that would enlarge x, changes to the config in place, unknown keywords of `from_config`. `from_pretrained`
    reads local folders only, and its errors are ArgumentError where those of diffusers are OSError.

    Args:
        num_train_timesteps: the scheduler's `len`; sampling does not use it.
        beta_min: beta(0), at least 0.
        beta_max: beta(1), above 0 and at least beta_min.
        sampling_eps: the last grid time, in (0, 1).
        private: entries whose name starts with an underscore are kept in the config, so `cls(**config)` works.

    Raises:
        ArgumentError: if a parameter is out of its range.
        UnsupportedError: if a keyword is unknown.
    """

    config_name: ClassVar[str] = CONFIG_NAME
    order: ClassVar[int] = 1

    timesteps: Tensor | None
    """The grid, (N,), or None before `set_timesteps`; another 1-D tensor may be put here, N is its length."""

    def __init__(
        self,
        num_train_timesteps: int = 2000,
        beta_min: float = 0.1,
        beta_max: float = 20,
        sampling_eps: float = 1e-3,
        **private: Any,
    ) -> None:
        reject_unknown(type(self).__name__, (name for name in private if not name.startswith("_")), _PARAMETERS)
        self.timesteps = None
        self._config = Config()
        self.register_to_config(
            num_train_timesteps=num_train_timesteps,
            beta_min=beta_min,
            beta_max=beta_max,
            sampling_eps=sampling_eps,
            **private,
        )

    # Sampling ----------------------------------------------------------------------------------------------------

    def set_timesteps(self, num_inference_steps: int, device: str | torch.device | None = None) -> None:
        """Lay the grid of `num_inference_steps` times from 1 to sampling_eps, as `timesteps` on `device`.

        Raises:
            ArgumentError: if `num_inference_steps` is not an integer of at least 1.
        """
        steps = check_positive_integer("num_inference_steps", num_inference_steps)
        self.timesteps = torch.linspace(1, self.config.sampling_eps, steps, device=device)

    def step_pred(
        self, score: Tensor, x: Tensor, t: Tensor | float, generator: Generators | None = None
    ) -> tuple[Tensor, Tensor]:
        """One step from time t to t - 1/N; the class docstring has the formula.

        Args:
            score: the network's noise prediction at (x, t), of a shape that broadcasts to that of x.
            x: the state, (B, *).
            t: the time: one value or one per sample, usually an entry of `timesteps`; need not lie on the grid.
            generator: one generator, or a list with one for each sample (of which a list of one serves them all).
                Without it the draw is from torch's global generator.

        Returns:
            The state after the step and its mean before noise was added, each (B, *).

        Raises:
            ArgumentError: before `set_timesteps`, or if an argument is no float tensor or a generator does not fit.
            ShapeError: if the shapes of score, t and x do not broadcast to that of x.
        """
        if self.timesteps is None:
            raise ArgumentError("call set_timesteps(num_inference_steps) before step_pred: a step is 1/N long.")
        _check_float_tensor("score", score)
        _check_float_tensor("x", x)
        if not isinstance(t, Tensor):
            t = torch.as_tensor(t, dtype=self.timesteps.dtype, device=x.device)
        _check_shapes(score, x, t)
        config = self.config
        slope = config.beta_max - config.beta_min
        dt = -1.0 / len(self.timesteps)

        # The order of these operations, and the dtypes and shapes they act on, are what makes the bits equal.
        log_alpha = -0.25 * t**2 * slope - 0.5 * t * config.beta_min
        std = torch.sqrt(1.0 - torch.exp(2.0 * log_alpha))
        beta = _per_sample(config.beta_min + t * slope, x.ndim)
        diffusion = torch.sqrt(beta)

        true_score = score / -_per_sample(std, score.ndim)
        drift = -0.5 * beta * x - diffusion**2 * true_score
        mean = x + drift * dt
        return mean + diffusion * math.sqrt(-dt) * _normal_like(x, generator), mean

    def __len__(self) -> int:
        """`num_train_timesteps`."""
        return int(self.config.num_train_timesteps)

    # Config ------------------------------------------------------------------------------------------------------

    @property
    def config(self) -> Config:
        """The parameters, and whatever else the config was loaded with; read-only."""
        return self._config

    @property
    def compatibles(self) -> list[type[Self]]:
        """The classes that take this config as it stands: this one."""
        return [type(self)]

    def register_to_config(self, **values: Any) -> None:
        """Replace the config by one with these entries changed or added.

        Raises:
            ArgumentError: if a parameter is out of its range.
        """
        # diffusers marks in memory which values were defaults; here every value is the one in use.
        values.pop("_use_default_values", None)
        config = Config({**self._config, **values})
        _check_parameters(config)
        self._config = config

    @overload
    @classmethod
    def from_config(
        cls, config: Mapping[str, Any] | None = None, return_unused_kwargs: Literal[False] = False, **overrides: Any
    ) -> Self: ...

    @overload
    @classmethod
    def from_config(
        cls, config: Mapping[str, Any] | None = None, *, return_unused_kwargs: Literal[True], **overrides: Any
    ) -> tuple[Self, dict[str, Any]]: ...

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any] | None = None, return_unused_kwargs: bool = False, **overrides: Any
    ) -> Self | tuple[Self, dict[str, Any]]:
        """A scheduler from a dict or from another scheduler's `.config` (this class's or one of diffusers).

        Entries that are no parameter of this class stay in the new scheduler's config and are otherwise ignored, with a
        logged warning unless `_class_name` says that the config is another scheduler's.

        Args:
            config: the entries.
            return_unused_kwargs: return also a dict of the unknown keywords and the extra entries.
            overrides: parameters that replace those of the config.

        Raises:
            ArgumentError: if config is no mapping, or a parameter is out of its range.
            UnsupportedError: if a keyword is unknown and `return_unused_kwargs` is False.
        """
        return cls._build(config, overrides, return_unused_kwargs)

    @classmethod
    def load_config(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], subfolder: str | None = None
    ) -> dict[str, Any]:
        """The entries of the scheduler_config.json in a local folder, as a dict for `from_config`.

        Raises:
            ArgumentError: if there is no such file, or if it does not hold a JSON object.
        """
        return read_config(pretrained_model_name_or_path, subfolder)

    @overload
    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        subfolder: str | None = None,
        return_unused_kwargs: Literal[False] = False,
        **overrides: Any,
    ) -> Self: ...

    @overload
    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        subfolder: str | None = None,
        *,
        return_unused_kwargs: Literal[True],
        **overrides: Any,
    ) -> tuple[Self, dict[str, Any]]: ...

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        subfolder: str | None = None,
        return_unused_kwargs: bool = False,
        **overrides: Any,
    ) -> Self | tuple[Self, dict[str, Any]]:
        """A scheduler from the scheduler_config.json in a local folder, written by this class or by diffusers.

        Args:
            pretrained_model_name_or_path: the folder (or the file itself). Nothing is downloaded.
            subfolder: the folder inside it that holds the file, such as "scheduler"; if it holds none, the outer
                folder's file is read, as in diffusers, with a logged warning.
            return_unused_kwargs: see `from_config`.
            overrides: parameters that replace those of the file. diffusers' options of a download (`cache_dir`,
                `local_files_only`, `revision`, `token`, …) are accepted and mean nothing for a local folder.

        Raises:
            ArgumentError: if there is no such file, or it does not hold a JSON object, or a parameter is out of range.
            UnsupportedError: if a keyword is unknown and `return_unused_kwargs` is False.
        """
        config = cls.load_config(pretrained_model_name_or_path, subfolder)
        overrides = {name: value for name, value in overrides.items() if name not in _DOWNLOAD_OPTIONS}
        return cls._build(config, overrides, return_unused_kwargs)

    @classmethod
    def _build(
        cls, config: Mapping[str, Any] | None, overrides: Mapping[str, Any], return_unused_kwargs: bool
    ) -> Self | tuple[Self, dict[str, Any]]:
        if not isinstance(config, Mapping):
            raise ArgumentError(
                f"from_config takes a dict or another scheduler's config, got {config!r}; "
                "for a folder, use from_pretrained."
            )
        arguments, unknown, extras = split_config(config, overrides, cls.__name__, _PARAMETERS)
        if not return_unused_kwargs:
            reject_unknown(f"{cls.__name__}.from_config", unknown, _PARAMETERS)
        scheduler = cls(**arguments)
        scheduler.register_to_config(**extras)
        return (scheduler, {**unknown, **extras}) if return_unused_kwargs else scheduler

    def save_pretrained(self, save_directory: str | os.PathLike[str], push_to_hub: bool = False) -> None:
        """Write scheduler_config.json into a folder, made if it is missing; `from_pretrained` here and there reads it.

        Raises:
            ArgumentError: if the path is a file, or a config entry has no JSON form.
            UnsupportedError: if asked to push to the Hub.
        """
        if push_to_hub:
            raise UnsupportedError(
                "save_pretrained writes to a local folder only; upload it with `hf upload REPO_ID FOLDER`."
            )
        folder = Path(save_directory)
        if folder.is_file():
            raise ArgumentError(f"save_pretrained needs a folder, got the file {str(folder)!r}.")
        text = self.to_json_string()
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CONFIG_NAME).write_text(text, encoding="utf-8")

    save_config = save_pretrained

    def to_json_string(self) -> str:
        """The text of scheduler_config.json.

        Raises:
            ArgumentError: if a config entry has no JSON form.
        """
        return to_json(self.config, type(self).__name__)

    def __repr__(self) -> str:
        return f"{type(self).__name__} {self.to_json_string()}"


def _check_parameters(config: Config) -> None:
    check_positive_integer("num_train_timesteps", config.num_train_timesteps)
    for name in ("beta_min", "beta_max", "sampling_eps"):
        value = config[name]
        if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
            raise ArgumentError(f"{name} must be a finite number, got {value!r}.")
    if not 0 <= config.beta_min <= config.beta_max or config.beta_max == 0:
        raise ArgumentError(
            f"expected 0 <= beta_min <= beta_max and beta_max > 0, got beta_min={config.beta_min!r}, "
            f"beta_max={config.beta_max!r}."
        )
    if not 0 < config.sampling_eps < 1:
        raise ArgumentError(f"sampling_eps must lie in (0, 1), got {config.sampling_eps!r}.")


def _check_float_tensor(name: str, value: object) -> None:
    if not isinstance(value, Tensor):
        raise ArgumentError(f"{name} must be a torch.Tensor, got {type(value).__name__}.")
    if not value.is_floating_point():
        raise ArgumentError(f"{name} must be a floating-point tensor, got {value.dtype}; call {name}.float() first.")


def _check_shapes(score: Tensor, x: Tensor, t: Tensor) -> None:
    times = t.numel()
    if x.ndim > 0 and score.shape == x.shape and times in (1, x.shape[0]):
        return
    per_sample = ((times, *(1,) * (tensor.ndim - 1)) for tensor in (score, x))
    try:
        shape = torch.broadcast_shapes(score.shape, x.shape, *per_sample)  # type: ignore[no-untyped-call]
    except RuntimeError:
        shape = None
    if x.ndim == 0 or shape != x.shape:
        raise ShapeError(
            f"score of shape {tuple(score.shape)} and t of shape {tuple(t.shape)} do not broadcast to x of shape "
            f"{tuple(x.shape)}; expected x (B, *), score of the same shape, and t with one value or B values."
        )


def _per_sample(value: Tensor, ndim: int) -> Tensor:
    """A value per sample, of any shape with one or B entries, as (B, 1, …, 1) with `ndim` dimensions."""
    # A single time becomes (1, …, 1) and not (): only tensors with dimensions take part in type promotion.
    return value.reshape(-1, *[1] * (ndim - 1))


def _normal_like(x: Tensor, generator: Generators | None) -> Tensor:
    """Standard normal noise of the shape, dtype and device of x, drawn as diffusers draws it."""
    if isinstance(generator, Sequence) and len(generator) == 1:
        generator = generator[0]
    if not isinstance(generator, Sequence):
        return torch.randn(x.shape, generator=generator, dtype=x.dtype, device=_draw_device(x, generator)).to(x.device)
    batch, one = x.shape[0], (1, *x.shape[1:])
    if len(generator) < batch:
        raise ArgumentError(f"got {len(generator)} generators for {batch} samples; expected one, or one for each.")
    device = _draw_device(x, generator[0])
    draws = [torch.randn(one, generator=g, dtype=x.dtype, device=device) for g in generator[:batch]]
    return torch.cat(draws).to(x.device)


def _draw_device(x: Tensor, generator: torch.Generator | None) -> torch.device:
    """Where to draw: beside x, or on the CPU for a CPU generator, whose noise is then moved."""
    if generator is None or generator.device.type == x.device.type:
        return x.device
    if generator.device.type == "cpu":
        return generator.device
    raise ArgumentError(
        f"a generator on {generator.device} cannot draw for a state on {x.device}; "
        f"use one on {x.device.type} or on the CPU."
    )
