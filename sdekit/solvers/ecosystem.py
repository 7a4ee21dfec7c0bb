"""Names from elsewhere: what other libraries call a sampler, as a solver of the catalogue, a grid and options.

A bare sampler's name leaves the grid and the end to the solver and the caller. A name that ends with a grid's
("DPM++ 2M Karras") sets the grid. A class of diffusers owns its timesteps, so it sets grid and end.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, final

from sdekit import grids
from sdekit.errors import ArgumentError, UnknownNameError, closest_name
from sdekit.grids import Grid, Karras
from sdekit.solvers import catalogue

__all__ = ["Recipe", "from_diffusers", "recipe", "spellings"]


@final
@dataclass(frozen=True)
class Recipe:
    """What a name means: a solver of the catalogue, a grid (None: the solver's own), the solver's options; and, only
    where the name says so, where the solve ends and how.
    """

    solver: str
    grid: str | Grid | None = None
    options: dict[str, Any] = field(default_factory=dict)
    t_end: float | None = None
    denoise: bool | str = False

    def kwargs(self) -> dict[str, Any]:
        """What `sdekit.sample(model, n, steps=…, **recipe.kwargs())` takes; only what the name sets."""
        hints = {"grid": self.grid, "t_end": self.t_end, "denoise": self.denoise or None}
        return {"solver": self.solver, **{k: v for k, v in hints.items() if v is not None}, **self.options}


# Names: AUTOMATIC1111, ComfyUI, k-diffusion, the papers ------------------------------------------------------------
# The catalogue's own names and aliases, in any spelling, come first and are not repeated here. Where a library's
# function differs from the method, its function name (`sample_…`) means the function, a display name the method.

_NAMES: tuple[tuple[str, dict[str, Any], tuple[str, ...]], ...] = (
    ("euler", {}, ("sample_euler", "k_euler")),
    ("euler_ancestral", {}, ("Euler a", "sample_euler_ancestral", "k_euler_ancestral")),
    ("heun", {}, ("sample_heun", "k_heun")),
    ("lms", {}, ("sample_lms", "k_lms")),
    ("dpm_solver_2", {}, ("DPM2", "sample_dpm_2", "k_dpm_2")),
    ("dpm_2_ancestral", {}, ("DPM2 a", "sample_dpm_2_ancestral", "k_dpm_2_ancestral", "k_dpm_2_a")),
    ("dpm_adaptive", {}, ("DPM adaptive", "sample_dpm_adaptive", "k_dpm_adaptive")),
    ("dpmpp_2s", {}, ("DPM++ 2S", "DPM-Solver++ 2S")),
    ("dpmpp_2s_ancestral", {}, ("DPM++ 2S a", "sample_dpmpp_2s_ancestral", "k_dpmpp_2s_ancestral", "k_dpmpp_2s_a")),
    ("dpmpp_2m", {}, ("DPM++ 2M", "sample_dpmpp_2m", "k_dpmpp_2m", "DPM-Solver++ 2M")),
    ("dpmpp_2m", {"variant": "exact"}, ("res_multistep", "sample_res_multistep")),
    ("dpmpp_3m", {}, ("DPM++ 3M", "DPM-Solver++ 3M")),
    ("dpmpp_sde", {}, ("DPM++ SDE", "sample_dpmpp_sde", "k_dpmpp_sde", "dpmpp_sde_gpu")),
    (
        "dpmpp_2m_sde",
        {},
        ("DPM++ 2M SDE", "sample_dpmpp_2m_sde", "k_dpmpp_2m_sde", "dpmpp_2m_sde_gpu", "SDE-DPM-Solver++ 2M"),
    ),
    ("dpmpp_2m_sde", {"variant": "exact"}, ("DPM++ 2M SDE Heun", "k_dpmpp_2m_sde_heun", "dpmpp_2m_sde_heun_gpu")),
    ("dpmpp_3m_sde", {}, ("DPM++ 3M SDE", "k_dpmpp_3m_sde", "dpmpp_3m_sde_gpu")),
    ("dpmpp_3m_sde", {"legacy": True}, ("sample_dpmpp_3m_sde",)),
    ("ipndm", {}, ("PLMS",)),
    ("unipc", {"p": 3, "variant": "bh1"}, ("uni_pc_bh1",)),
    ("unipc", {"p": 3, "variant": "bh2"}, ("uni_pc_bh2",)),
    ("restart", {}, ("restart_sampler",)),
)
_MORE_GRIDS = {"lambda": "log_snr"}

# Classes of diffusers ----------------------------------------------------------------------------------------------


@final
@dataclass(frozen=True)
class _Scheduler:
    """A class: the recipe for each value of the settings `by`, what it renames to options, its grid and its end."""

    recipes: dict[tuple[Any, ...], Recipe]
    by: tuple[str, ...] = ()
    defaults: dict[str, Any] = field(default_factory=dict)  # of its settings that matter here
    renamed: dict[str, str] = field(default_factory=dict)
    grid: str | None = "uniform"
    switches: bool = False  # whether it has use_karras_sigmas and the like
    to_zero: bool = True  # whether it ends at sigma = 0, unless a setting says
    about_model: tuple[str, ...] = ()


def _only(solver: str, **options: Any) -> dict[tuple[Any, ...], Recipe]:
    return {(): Recipe(solver, options=options)}


_DDIM, _DDPM = Recipe("ddim"), Recipe("ddim", options={"eta": 1.0})
_EXACT, _LEGACY = {"variant": "exact"}, {"legacy": True}
_MULTISTEP: dict[tuple[Any, ...], Recipe] = {
    **{("dpmsolver++", 1, kind): _DDIM for kind in ("midpoint", "heun")},
    ("dpmsolver++", 2, "midpoint"): Recipe("dpmpp_2m"),
    ("dpmsolver++", 2, "heun"): Recipe("dpmpp_2m", options=_EXACT),
    **{("dpmsolver++", 3, kind): Recipe("dpmpp_3m", options=_LEGACY) for kind in ("midpoint", "heun")},
    **{("dpmsolver", 1, kind): _DDIM for kind in ("midpoint", "heun")},
    ("dpmsolver", 2, "midpoint"): Recipe("dpm_solver_2m"),
    ("dpmsolver", 2, "heun"): Recipe("dpm_solver_2m", options=_EXACT),
    **{("dpmsolver", 3, kind): Recipe("dpm_solver_3m", options=_LEGACY) for kind in ("midpoint", "heun")},
    **{("sde-dpmsolver++", 1, kind): _DDPM for kind in ("midpoint", "heun")},
    ("sde-dpmsolver++", 2, "midpoint"): Recipe("dpmpp_2m_sde"),
    ("sde-dpmsolver++", 2, "heun"): Recipe("dpmpp_2m_sde", options=_EXACT),
    **{("sde-dpmsolver++", 3, kind): Recipe("dpmpp_3m_sde") for kind in ("midpoint", "heun")},
}
_SINGLESTEP: dict[tuple[Any, ...], Recipe] = {
    **{("dpmsolver++", 1, kind): _DDIM for kind in ("midpoint", "heun")},
    ("dpmsolver++", 2, "midpoint"): Recipe("dpmpp_2s"),
    ("dpmsolver++", 2, "heun"): Recipe("seeds_2", options={"eta": 0.0}),
    **{("dpmsolver", 1, kind): _DDIM for kind in ("midpoint", "heun")},
    ("dpmsolver", 2, "midpoint"): Recipe("dpm_solver_2"),
    ("dpmsolver", 3, "midpoint"): Recipe("dpm_solver_3"),
    **{("sde-dpmsolver++", 1, kind): _DDPM for kind in ("midpoint", "heun")},
    ("sde-dpmsolver++", 2, "midpoint"): Recipe("dpmpp_sde"),
    ("sde-dpmsolver++", 2, "heun"): Recipe("seeds_2"),
}
_DPM = ("algorithm_type", "solver_order", "solver_type")
_DPM_DEFAULTS = {"algorithm_type": "dpmsolver++", "solver_order": 2, "solver_type": "midpoint"}
_ZERO = {"final_sigmas_type": "zero"}
_EDM = {"sigma_schedule": "karras", "rho": 7.0}
_RANGE = ("sigma_min", "sigma_max")
_DDIM_CLASS = _Scheduler(_only("ddim"), defaults={"set_alpha_to_one": True}, renamed={"eta": "eta"})
_DDPM_CLASS = _Scheduler(
    {
        ("fixed_small",): Recipe("ancestral"),
        ("fixed_small_log",): Recipe("ancestral"),
        ("fixed_large",): Recipe("ancestral", options={"variance": "forward"}, denoise="mean"),
    },
    ("variance_type",),
    {"variance_type": "fixed_small"},
)
_CLASSES: dict[str, _Scheduler] = {
    "DDIMScheduler": _DDIM_CLASS,
    "DDIMParallelScheduler": _DDIM_CLASS,
    "DDPMScheduler": _DDPM_CLASS,
    "DDPMParallelScheduler": _DDPM_CLASS,
    "PNDMScheduler": _Scheduler(
        {(False,): Recipe("pndm"), (True,): Recipe("ipndm")},
        ("skip_prk_steps",),
        {"skip_prk_steps": False, "set_alpha_to_one": False},
    ),
    "IPNDMScheduler": _Scheduler(_only("ipndm"), grid=None),
    "EulerDiscreteScheduler": _Scheduler(_only("euler"), defaults=_ZERO, switches=True),
    "EulerAncestralDiscreteScheduler": _Scheduler(_only("euler_ancestral")),
    "HeunDiscreteScheduler": _Scheduler(_only("heun"), switches=True),
    "LMSDiscreteScheduler": _Scheduler(_only("lms"), switches=True),
    "KDPM2DiscreteScheduler": _Scheduler(_only("dpm_solver_2"), switches=True),
    "KDPM2AncestralDiscreteScheduler": _Scheduler(_only("dpm_2_ancestral"), switches=True),
    "DPMSolverMultistepScheduler": _Scheduler(_MULTISTEP, _DPM, {**_DPM_DEFAULTS, **_ZERO}, switches=True),
    "DPMSolverSinglestepScheduler": _Scheduler(_SINGLESTEP, _DPM, {**_DPM_DEFAULTS, **_ZERO}, switches=True),
    "DPMSolverSDEScheduler": _Scheduler(_only("dpmpp_sde"), switches=True),
    "DEISMultistepScheduler": _Scheduler(  # it interpolates in log(sigma/alpha), which is lambda
        {
            ("deis", 1, "logrho"): _DDIM,
            ("deis", 2, "logrho"): Recipe("dpm_solver_2m", options=_EXACT),
            ("deis", 3, "logrho"): Recipe("dpm_solver_3m"),
        },
        _DPM,
        {"algorithm_type": "deis", "solver_order": 2, "solver_type": "logrho"},
        switches=True,
        to_zero=False,
    ),
    "UniPCMultistepScheduler": _Scheduler(
        {(True,): Recipe("unipc"), (False,): Recipe("unipc", options={"prediction": "noise"})},
        ("predict_x0",),
        {"predict_x0": True, "solver_order": 2, "solver_type": "bh2", **_ZERO},
        {"solver_order": "p", "solver_type": "variant"},
        switches=True,
    ),
    "SASolverScheduler": _Scheduler(
        {("data_prediction",): Recipe("sa_solver")},
        ("algorithm_type",),
        {"algorithm_type": "data_prediction", "predictor_order": 2, "corrector_order": 2},
        {"predictor_order": "predictor", "corrector_order": "corrector"},
        switches=True,
        to_zero=False,
    ),
    "ScoreSdeVeScheduler": _Scheduler(
        _only("pc", predictor="reverse_diffusion", corrector="langevin", norms="batch"),
        defaults={"snr": 0.15, "correct_steps": 1},
        renamed={"snr": "snr", "correct_steps": "n_steps"},
        to_zero=False,
        about_model=_RANGE,
    ),
    "ScoreSdeVpScheduler": _Scheduler(_only("euler_maruyama"), to_zero=False),
    "KarrasVeScheduler": _Scheduler(
        _only("edm"),
        defaults={"s_churn": 80, "s_min": 0.05, "s_max": 50, "s_noise": 1.007},
        renamed={"s_churn": "s_churn", "s_min": "s_tmin", "s_max": "s_tmax", "s_noise": "s_noise"},
        grid="exponential",
        about_model=_RANGE,
    ),
    "EDMEulerScheduler": _Scheduler(_only("euler"), defaults={**_ZERO, **_EDM}, about_model=_RANGE),
    "EDMDPMSolverMultistepScheduler": _Scheduler(
        {key: found for key, found in _MULTISTEP.items() if key[0] != "dpmsolver"},
        _DPM,
        {**_DPM_DEFAULTS, **_ZERO, **_EDM},
        about_model=_RANGE,
    ),
    "CosineDPMSolverMultistepScheduler": _Scheduler(
        {key[1:]: found for key, found in _MULTISTEP.items() if key[:1] == ("sde-dpmsolver++",) and key[1] < 3},
        _DPM[1:],
        {"solver_order": 2, "solver_type": "midpoint", **_ZERO, **_EDM, "sigma_schedule": "exponential"},
        about_model=_RANGE,
    ),
    "FlowMatchEulerDiscreteScheduler": _Scheduler(_only("euler"), switches=True),
    "FlowMatchHeunDiscreteScheduler": _Scheduler(_only("heun", variable="t")),
}
_SWITCHES = {
    "use_karras_sigmas": "karras",
    "use_exponential_sigmas": "exponential",
    "use_beta_sigmas": "beta",
    "use_lu_lambdas": "log_snr",
}
_ENDS: dict[str, dict[Any, float | None]] = {
    "final_sigmas_type": {"zero": 0.0, "sigma_min": None},
    "set_alpha_to_one": {True: 0.0, False: None},
}

ABOUT_THE_MODEL = frozenset(
    {
        *("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "beta_min", "beta_max"),
        *("rescale_betas_zero_snr", "prediction_type", "variance_type", "timestep_type", "sigma_data"),
        "use_flow_sigmas",
    }
)
"""Settings of a scheduler that say what the network was trained on: here the SDE's and the ScoreModel's."""

NO_MATTER = frozenset(
    {
        *("dynamic_thresholding_ratio", "sample_max_value", "clip_sample_range"),
        *("base_shift", "max_shift", "base_image_seq_len", "max_image_seq_len", "time_shift_type"),
        *("steps_offset", "lower_order_final", "euler_at_final", "sampling_eps"),
        *("skip_prk_steps", "set_alpha_to_one"),
    }
)
"""Settings that matter only beside one that is refused; or at the very ends of the grid, where sdekit keeps its own
rule; or that configs of Stable Diffusion carry on from another class, which diffusers ignores too."""

_LIMIT = "wrap the network so that it limits its answer"
_OWN_GRID = "pass grid=sdekit.grids.Custom.of(sigmas=scheduler.sigmas)"
_REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "timestep_spacing": (("linspace", "leading", "trailing"), _OWN_GRID),
    "interpolation_type": (("linear",), _OWN_GRID),
    "use_dynamic_shifting": ((False,), _OWN_GRID),
    "shift": ((1.0,), _OWN_GRID),
    "flow_shift": ((1.0,), _OWN_GRID),
    "shift_terminal": ((None,), _OWN_GRID),
    "sigma_min": ((None,), _OWN_GRID),
    "sigma_max": ((None,), _OWN_GRID),
    "lambda_min_clipped": ((-math.inf,), "pass t_start=… to sample"),
    "thresholding": ((False,), _LIMIT),
    "invert_sigmas": ((False,), "turn the network's time round with ScoreModel(time=…)"),
    "stochastic_sampling": ((False,), "take a stochastic solver, such as 'er_sde'"),
    "solver_p": ((None,), "give that solver's own name"),
    "disable_corrector": (([], ()), "'unip' is the predictor alone"),
    "tau_func": ((None,), "'sa_solver' takes tau, sigma_low and sigma_high"),
    "noise_sampler_seed": ((None,), "pass seed=… to sample"),
}
"""The values that pass, and what to do instead of the others."""

# Functions ---------------------------------------------------------------------------------------------------------


def recipe(name: str) -> Recipe:
    """The recipe of a sampler's name, in the spelling of any library: its case, spaces, "_", "-" and brackets do not
    matter, and "+" is "p". The names: docs/names.md.

    Raises:
        UnknownNameError: if there is none; the message carries the nearest.
        ArgumentError: if it is no string, or names a grid for a solver that chooses its own steps.
    """
    if not isinstance(name, str):
        raise ArgumentError(f"a sampler is given by name, got {name!r}; from_diffusers takes a scheduler's config.")
    if name.startswith("table:"):
        return Recipe(name)
    here = name.lower()
    for entry in catalogue.entries():
        if here in (spelling.lower() for spelling in (entry.name, *entry.aliases)):
            return Recipe(entry.name)
    known, key = _known(), _plain(name)
    found = known.get(key)
    if found is not None:
        return replace(found, options=dict(found.options))
    places = _grids()
    for ending in sorted((e for e in places if key.endswith(e)), key=len, reverse=True):
        base = known.get(key[: -len(ending)])
        if base is not None:
            if catalogue.get(base.solver, **base.options).adaptive:
                raise ArgumentError(f"solver {base.solver!r} chooses its own steps; {name!r} names a grid for it.")
            return replace(base, grid=places[ending], options=dict(base.options))
    where = f"`sdekit solvers` lists all {len(catalogue.names())}, docs/names.md the names of other libraries."
    raise UnknownNameError("solver", name, _near(name), where)


def from_diffusers(scheduler: object) -> Recipe:
    """The recipe of a diffusers scheduler: the object, or a config with its "_class_name" (scheduler_config.json).

    A config may hold `eta`, for DDIMScheduler. What is about the model (ABOUT_THE_MODEL) belongs to the SDE here and
    passes. Two things pass with a warning: clip_sample=True, which limits the network's answer, and settings that only
    other classes have, which diffusers does not use either.

    Raises:
        ArgumentError: if it is neither, or a setting is unknown, or has a value that is not available here.
        UnknownNameError: if the class is not among the known ones.
    """
    config = getattr(scheduler, "config", scheduler)
    name = type(scheduler).__name__ if config is not scheduler else None
    if not isinstance(config, Mapping) or not isinstance(name or config.get("_class_name"), str):
        raise ArgumentError(
            "expected a scheduler of diffusers, or its config with '_class_name' (a config in memory may lack it: pass "
            f"the scheduler itself); got {scheduler!r}."
        )
    return _of_config(str(name or config["_class_name"]), config)


def _of_config(name: str, config: Mapping[str, Any]) -> Recipe:
    if name not in _CLASSES:
        raise UnknownNameError("scheduler class", name, _CLASSES)
    kind = _CLASSES[name]
    values = {**kind.defaults, **config}
    _check_settings(name, kind, values)
    chosen = tuple(values[key] for key in kind.by)
    base = next((found for key, found in kind.recipes.items() if key == chosen), None)
    if base is None:
        rows = (f"({_settings(kind.by, key)})" for key in kind.recipes)
        raise ArgumentError(f"{name} is not available with {_settings(kind.by, chosen)}; only {', '.join(rows)}.")
    options = {option: values[key] for key, option in kind.renamed.items() if key in values}
    made = replace(base, options={**base.options, **options}, grid=_grid(name, kind, values), t_end=_end(kind, values))
    catalogue.get(made.solver, **made.options)  # checks the values
    return made


def spellings() -> list[str]:
    """Every name that `recipe` knows, without the grids that may follow it."""
    return [name for name, _ in _spelled()]


def _spelled() -> Iterator[tuple[str, Recipe]]:
    here = set()
    for entry in catalogue.entries():
        here.add(entry.name)
        for spelling in (entry.name, *entry.aliases):
            yield spelling, Recipe(entry.name)
    for solver, options, others in _NAMES:
        if solver in here:
            for spelling in others:
                yield spelling, Recipe(solver, options=options)
    yield from _of_classes().items()


@cache
def _of_classes() -> dict[str, Recipe]:
    return {name: _of_config(name, {}) for name in _CLASSES}


def _known() -> dict[str, Recipe]:
    """Recipes by what `_plain` leaves of their names; the catalogue's, which come first, win."""
    known: dict[str, Recipe] = {}
    for name, found in _spelled():
        known.setdefault(_plain(name), found)
    return known


def _plain(name: str) -> str:
    return re.sub(r"[\s_\-()]+", "", name.lower().replace("+", "p"))


def _grids() -> dict[str, str]:
    named = {**{name: name for name in grids.names()}, **grids.ALIASES, **_MORE_GRIDS}
    return {_plain(spelling): grid for spelling, grid in named.items()}


def _near(name: str) -> list[str]:
    """The spellings to compare an unknown name with: all, and the nearest followed by a grid's name near the end's."""
    plain = spellings()
    *first, last = re.split(r"[\s_\-]+", name.strip())
    base = closest_name(" ".join(first), plain)
    ending = closest_name(last, [*grids.names(), *grids.ALIASES, *_MORE_GRIDS])
    return [*plain, *([f"{base} {ending}"] if base and ending else [])]


def _check_settings(name: str, kind: _Scheduler, values: Mapping[str, Any]) -> None:
    own = {*kind.defaults, *kind.renamed, *kind.about_model, *ABOUT_THE_MODEL, *NO_MATTER}
    others = {*_SWITCHES, *(key for k in _CLASSES.values() for key in (*k.defaults, *k.renamed))}
    if kind.switches:
        own |= set(_SWITCHES)
    unused = []
    for key, value in values.items():
        if key.startswith("_") or key in own or (key in _SWITCHES and not value):
            continue
        if key == "clip_sample":
            if value:
                warnings.warn(f"{name}: sdekit does not apply clip_sample=True; {_LIMIT}.", stacklevel=4)
        elif key in _REFUSED:
            accepted, instead = _REFUSED[key]
            if value not in accepted:
                raise ArgumentError(f"{name}: {key}={value!r} is not available here; {instead}.")
        elif key in others:
            unused.append(key)
        else:
            near = closest_name(key, {*own, *others, *_REFUSED, "clip_sample"})
            raise ArgumentError(f"{name} has no setting {key!r}" + (f"; did you mean {near!r}?" if near else "."))
    if unused:
        warnings.warn(f"{name} does not use {', '.join(unused)}, in diffusers as here.", stacklevel=4)


def _settings(keys: tuple[str, ...], values: tuple[Any, ...]) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in zip(keys, values, strict=True))


def _grid(name: str, kind: _Scheduler, values: Mapping[str, Any]) -> str | Grid | None:
    on = [key for key in _SWITCHES if kind.switches and values.get(key)]
    if len(on) > 1:
        raise ArgumentError(f"{name}: {' and '.join(on)} exclude each other.")
    if on:
        return _SWITCHES[on[0]]
    if "sigma_schedule" not in kind.defaults:
        return kind.grid
    schedule, rho = values["sigma_schedule"], values["rho"]
    if schedule not in ("karras", "exponential"):
        raise ArgumentError(f"{name}: sigma_schedule must be 'karras' or 'exponential', got {schedule!r}.")
    return Karras(rho=rho) if schedule == "karras" and rho != 7.0 else str(schedule)


def _end(kind: _Scheduler, values: Mapping[str, Any]) -> float | None:
    for key, ends in _ENDS.items():
        if key in kind.defaults:
            at = values[key]
            if at not in list(ends):
                raise ArgumentError(f"{key} must be one of {list(ends)}, got {at!r}.")
            return ends[at]
    return 0.0 if kind.to_zero else None
