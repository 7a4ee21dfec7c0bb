"""Names from elsewhere: each resolves, to one recipe, that runs; diffusers' classes mean the method they compute."""

from __future__ import annotations

import importlib
import inspect
import math
import re
import warnings
from pathlib import Path

import pytest
import torch
from _helpers import gaussian_model
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import sdekit as sk
from sdekit import grids
from sdekit.errors import ArgumentError, UnknownNameError
from sdekit.sdes import VESDE, VPSDE
from sdekit.solvers import catalogue
from sdekit.solvers.ecosystem import (
    _CLASSES,
    _NAMES,
    ABOUT_THE_MODEL,
    NO_MATTER,
    Recipe,
    _grids,
    _plain,
    _spelled,
    from_diffusers,
    recipe,
    spellings,
)

# numpy 2 warns of how diffusers 0.42 makes arrays of tensors.
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")

# What others call it -------------------------------------------------------------------------------------------------

DISPLAY = {  # AUTOMATIC1111, Forge
    "Euler": Recipe("euler"),
    "Euler a": Recipe("euler_ancestral"),
    "LMS": Recipe("lms"),
    "Heun": Recipe("heun"),
    "DPM2": Recipe("dpm_solver_2"),
    "DPM2 a": Recipe("dpm_2_ancestral"),
    "DPM++ 2S": Recipe("dpmpp_2s"),
    "DPM++ 2S a": Recipe("dpmpp_2s_ancestral"),
    "DPM++ 2M": Recipe("dpmpp_2m"),
    "DPM++ 3M": Recipe("dpmpp_3m"),
    "DPM++ SDE": Recipe("dpmpp_sde"),
    "DPM++ 2M SDE": Recipe("dpmpp_2m_sde"),
    "DPM++ 2M SDE Heun": Recipe("dpmpp_2m_sde", options={"variant": "exact"}),
    "DPM++ 3M SDE": Recipe("dpmpp_3m_sde"),
    "DDIM": Recipe("ddim"),
    "DDPM": Recipe("ancestral"),
    "PLMS": Recipe("ipndm"),
    "UniPC": Recipe("unipc"),
    "Restart": Recipe("restart"),
    "DEIS": Recipe("deis"),
    "SA-Solver": Recipe("sa_solver"),
    "ER SDE": Recipe("er_sde"),
    "SEEDS 2": Recipe("seeds_2"),
    "SEEDS 3": Recipe("seeds_3"),
    "IPNDM": Recipe("ipndm"),
    "IPNDM_V": Recipe("lms"),
}
LISTED = {
    **DISPLAY,
    # k-diffusion
    "sample_euler": Recipe("euler"),
    "sample_euler_ancestral": Recipe("euler_ancestral"),
    "sample_heun": Recipe("heun"),
    "sample_dpm_2": Recipe("dpm_solver_2"),
    "sample_dpm_2_ancestral": Recipe("dpm_2_ancestral"),
    "sample_lms": Recipe("lms"),
    "sample_dpmpp_2s_ancestral": Recipe("dpmpp_2s_ancestral"),
    "sample_dpmpp_sde": Recipe("dpmpp_sde"),
    "sample_dpmpp_2m": Recipe("dpmpp_2m"),
    "sample_dpmpp_2m_sde": Recipe("dpmpp_2m_sde"),
    "sample_dpmpp_3m_sde": Recipe("dpmpp_3m_sde", options={"legacy": True}),
    # ComfyUI, Song et al.
    "euler_ancestral": Recipe("euler_ancestral"),
    "dpm_2_ancestral": Recipe("dpm_2_ancestral"),
    "dpmpp_2m_sde_gpu": Recipe("dpmpp_2m_sde"),
    "dpmpp_2m_sde_heun": Recipe("dpmpp_2m_sde", options={"variant": "exact"}),
    "uni_pc": Recipe("unipc"),
    "uni_pc_bh2": Recipe("unipc", options={"p": 3, "variant": "bh2"}),
    "ddpm": Recipe("ancestral"),
    "er_sde": Recipe("er_sde"),
    "sa_solver": Recipe("sa_solver"),
    "seeds_2": Recipe("seeds_2"),
    "seeds_3": Recipe("seeds_3"),
    "res_multistep": Recipe("dpmpp_2m", options={"variant": "exact"}),
    "euler_a": Recipe("euler_ancestral"),
    "ancestral_sampling": Recipe("ancestral"),
}
ENDINGS = {
    "Karras": "karras",
    "Exponential": "exponential",
    "Beta": "beta",
    "Simple": "uniform",
    "Normal": "uniform",
    "Uniform": "uniform",
    "SGM Uniform": "uniform",
    "DDIM Uniform": "uniform",
    "Align Your Steps": "align_your_steps",
    "AYS": "align_your_steps",
    "Lu": "log_snr",
    "lambda": "log_snr",
    "log-SNR": "log_snr",
    "KL Optimal": "align_your_steps",
    "cosine": "cosine",
}


@pytest.mark.parametrize("name", LISTED)
def test_a_listed_name_means_this(name):
    assert recipe(name) == LISTED[name]


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_grids_name_may_follow_any_name(ending):
    for name, expected in LISTED.items():
        for joint in (" ", "_"):
            assert recipe(f"{name}{joint}{ending}") == Recipe(expected.solver, ENDINGS[ending], expected.options)


def test_the_names_of_the_catalogue_mean_themselves():
    for entry in catalogue.entries():
        for name in (entry.name, *entry.aliases):
            assert recipe(name) == recipe(name.upper()) == Recipe(entry.name)


def test_names_that_need_a_solver_are_known_with_it_alone():
    held = "dpm_adaptive" in sk.solvers.names()
    assert ("sample_dpm_adaptive" in spellings()) == held
    if held:
        assert recipe("DPM adaptive").solver == "dpm_adaptive"


def test_a_solver_added_later_is_known_and_comes_first(monkeypatch):
    monkeypatch.setattr(catalogue, "_CATALOGUE", dict(catalogue._CATALOGUE))
    catalogue.register("uni-pc", sk.solvers.DDIM(), "mine")
    assert recipe("uni-pc") == recipe("Uni-PC") == Recipe("uni-pc")
    assert recipe("uni_pc") == Recipe("unipc")


def test_no_spelling_has_two_meanings():
    found: dict[str, Recipe] = {}
    everything = list(_spelled())
    for name, meaning in everything:
        assert found.setdefault(_plain(name), meaning) == meaning, name
    for name, meaning in everything:
        for ending, grid in _grids().items():
            with_grid = Recipe(meaning.solver, grid, meaning.options, meaning.t_end, meaning.denoise)
            assert found.setdefault(_plain(name) + ending, with_grid) == with_grid, (name, ending)


def test_a_recipe_is_the_callers_own():
    recipe("DPM++ 2M SDE Heun").options["variant"] = "midpoint"
    recipe("DPM++ 2M SDE Heun Karras").options.clear()
    assert recipe("DPM++ 2M SDE Heun").options == {"variant": "exact"}


# Spelling ------------------------------------------------------------------------------------------------------------


@st.composite
def misspelled(draw: st.DrawFn) -> tuple[str, str]:
    name = draw(st.sampled_from(spellings()))
    if draw(st.booleans()) and not catalogue.get(recipe(name).solver, **recipe(name).options).adaptive:
        name += " " + draw(st.sampled_from(list(ENDINGS)))
    written = ""
    for letter in name:
        if letter in " _-":
            written += draw(st.sampled_from(("", " ", "_", "-", "  ", " - ")))
        elif letter == "+":
            written += draw(st.sampled_from("+pP"))
        else:
            written += draw(st.sampled_from((letter.lower(), letter.upper())))
    return name, draw(st.sampled_from(("", " "))) + written + draw(st.sampled_from(("", " ", "\n")))


@given(misspelled())
def test_case_and_separators_do_not_matter(pair):
    assert recipe(pair[1]) == recipe(pair[0])


@pytest.mark.parametrize(
    ("given", "near"),
    [
        ("eulr", "'euler'"),
        ("DPM++ 2M Karas", "2M karras'"),
        ("unipcc", "'unipc'"),
        ("DPMSolverMultistep", "'DPMSolverMultistepScheduler'"),
        ("sample_dpmpp_2n", "'sample_dpmpp_2m'"),
    ],
)
def test_an_unknown_name_says_what_is_near(given, near):
    with pytest.raises(UnknownNameError, match=f"unknown solver .*did you mean .*{re.escape(near)}") as caught:
        recipe(given)
    assert "`sdekit solvers`" in str(caught.value)
    assert "docs/names.md" in str(caught.value)


@pytest.mark.parametrize("name", ["", " ", "karras", "euler karras karras", "heunpp2", "DPM++", "LCMScheduler"])
def test_what_is_no_name_is_refused(name):
    with pytest.raises(UnknownNameError):
        recipe(name)


def test_arguments_of_another_kind_are_refused():
    with pytest.raises(ArgumentError, match="from_diffusers"):
        recipe({"_class_name": "DDIMScheduler"})  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="chooses its own steps"):
        recipe("scipy:RK45 Karras")


# Recipes run ---------------------------------------------------------------------------------------------------------


def distinct() -> list[Recipe]:
    found: list[Recipe] = []
    for _, meaning in _spelled():
        if meaning not in found and catalogue.get(meaning.solver, **meaning.options).serves_models:
            found.append(meaning)
    return found


def runs(meaning: Recipe, steps: int = 4) -> None:
    solver = catalogue.get(meaning.solver, **meaning.options)
    # ScoreSdeVe's model is a VE model; the other SDE whose T reaches EDM's levels serves every other.
    model = gaussian_model(VESDE() if meaning.solver == "pc" else VPSDE(), 0.3, 0.6, (16,))
    solution = sk.sample(model, 2, **({} if solver.adaptive else {"steps": steps}), seed=1, **meaning.kwargs())
    assert solution.status == "success"
    assert bool(torch.isfinite(solution.x).all())
    if not solver.adaptive:
        assert len(solution.times) == steps + 1
    if meaning.t_end is not None:
        assert solution.t == meaning.t_end


@pytest.mark.parametrize("meaning", distinct(), ids=lambda r: " ".join(str(v) for v in r.kwargs().values()))
def test_a_recipe_runs(meaning):
    runs(meaning)


@pytest.mark.parametrize("name", DISPLAY)
def test_a_recipe_runs_on_every_grid(name):
    for grid in grids.names():
        runs(recipe(f"{name} {grid}"))


def test_kwargs_hold_what_the_name_sets_and_no_more():
    assert recipe("Euler").kwargs() == {"solver": "euler"}
    assert recipe("DPM++ 2M SDE Heun Karras").kwargs() == {
        "solver": "dpmpp_2m_sde",
        "grid": "karras",
        "variant": "exact",
    }
    assert recipe("EulerDiscreteScheduler").kwargs() == {"solver": "euler", "grid": "uniform", "t_end": 0.0}


# diffusers' configs --------------------------------------------------------------------------------------------------

DEPRECATED = {"KarrasVeScheduler": "scheduling_karras_ve", "ScoreSdeVpScheduler": "scheduling_sde_vp"}


def theirs(name: str) -> type:
    diffusers = pytest.importorskip("diffusers")
    if name in DEPRECATED:
        return getattr(importlib.import_module(f"diffusers.schedulers.deprecated.{DEPRECATED[name]}"), name)
    return getattr(diffusers, name)


def quiet(scheduler: object) -> Recipe:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*clip_sample")
        return from_diffusers(scheduler)


@pytest.mark.parametrize("name", _CLASSES)
def test_a_class_means_its_default_config(name):
    scheduler = theirs(name)()
    saved = {**scheduler.config, "_class_name": name, "_diffusers_version": "0.42.1"}
    assert recipe(name) == quiet(scheduler) == quiet(saved)
    for key, value in _CLASSES[name].defaults.items():
        assert scheduler.config[key] == value


MULTISTEP, SINGLESTEP = "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler"


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        ("DDIMScheduler", {"set_alpha_to_one": False}, Recipe("ddim", "uniform")),
        (
            "DDPMScheduler",
            {"variance_type": "fixed_large"},
            Recipe("ancestral", "uniform", {"variance": "forward"}, 0.0, "mean"),
        ),
        ("PNDMScheduler", {"skip_prk_steps": True}, Recipe("ipndm", "uniform")),
        ("EulerDiscreteScheduler", {"use_karras_sigmas": True}, Recipe("euler", "karras", {}, 0.0)),
        (
            "EulerDiscreteScheduler",
            {"use_exponential_sigmas": True, "final_sigmas_type": "sigma_min"},
            Recipe("euler", "exponential"),
        ),
        ("HeunDiscreteScheduler", {"use_beta_sigmas": True}, Recipe("heun", "beta", {}, 0.0)),
        (MULTISTEP, {"use_lu_lambdas": True}, Recipe("dpmpp_2m", "log_snr", {}, 0.0)),
        (MULTISTEP, {"use_flow_sigmas": True}, Recipe("dpmpp_2m", "uniform", {}, 0.0)),
        (MULTISTEP, {"solver_order": 1}, Recipe("ddim", "uniform", {}, 0.0)),
        (MULTISTEP, {"solver_type": "heun"}, Recipe("dpmpp_2m", "uniform", {"variant": "exact"}, 0.0)),
        (MULTISTEP, {"solver_order": 3}, Recipe("dpmpp_3m", "uniform", {"legacy": True}, 0.0)),
        (
            MULTISTEP,
            {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"},
            Recipe("dpm_solver_2m", "uniform"),
        ),
        (MULTISTEP, {"algorithm_type": "sde-dpmsolver++"}, Recipe("dpmpp_2m_sde", "uniform", {}, 0.0)),
        (
            MULTISTEP,
            {"algorithm_type": "sde-dpmsolver++", "solver_order": 3},
            Recipe("dpmpp_3m_sde", "uniform", {}, 0.0),
        ),
        (
            SINGLESTEP,
            {"solver_order": 3, "algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"},
            Recipe("dpm_solver_3", "uniform"),
        ),
        (SINGLESTEP, {"algorithm_type": "sde-dpmsolver++"}, Recipe("dpmpp_sde", "uniform", {}, 0.0)),
        ("DEISMultistepScheduler", {"solver_order": 3}, Recipe("dpm_solver_3m", "uniform")),
        (
            "UniPCMultistepScheduler",
            {"solver_order": 3, "solver_type": "bh1", "predict_x0": False},
            Recipe("unipc", "uniform", {"prediction": "noise", "p": 3, "variant": "bh1"}, 0.0),
        ),
        (
            "SASolverScheduler",
            {"predictor_order": 3, "corrector_order": 4},
            Recipe("sa_solver", "uniform", {"predictor": 3, "corrector": 4}),
        ),
        ("EDMEulerScheduler", {"rho": 5.0}, Recipe("euler", grids.Karras(rho=5.0), {}, 0.0)),
        (
            "EDMDPMSolverMultistepScheduler",
            {"sigma_schedule": "exponential"},
            Recipe("dpmpp_2m", "exponential", {}, 0.0),
        ),
    ],
)
def test_settings_are_read(name, settings, expected):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # algorithm_type="dpmsolver" is deprecated there
        scheduler = theirs(name)(**settings)
    assert quiet(scheduler) == quiet({"_class_name": name, **settings}) == expected
    runs(expected)


def test_eta_is_read_for_ddim():
    assert from_diffusers({"_class_name": "DDIMScheduler", "eta": 0.5}).options == {"eta": 0.5}
    with pytest.raises(ArgumentError, match="eta must be from 0"):
        from_diffusers({"_class_name": "DDIMScheduler", "eta": 2.0})


def test_a_config_of_stable_diffusion_is_read():
    saved = {
        "_class_name": "EulerDiscreteScheduler",
        "_diffusers_version": "0.19.0.dev0",
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "clip_sample": False,
        "interpolation_type": "linear",
        "num_train_timesteps": 1000,
        "prediction_type": "epsilon",
        "sample_max_value": 1.0,
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
        "steps_offset": 1,
        "timestep_spacing": "leading",
        "trained_betas": None,
        "use_karras_sigmas": False,
    }
    assert from_diffusers(saved) == Recipe("euler", "uniform", {}, 0.0)


def test_what_passes_unused_is_warned_of():
    with pytest.warns(UserWarning, match="does not apply clip_sample"):
        from_diffusers(theirs("DDIMScheduler")())
    multistep = theirs(MULTISTEP)(solver_order=3, use_karras_sigmas=True)
    euler = theirs("EulerDiscreteScheduler").from_config(multistep.config)
    with pytest.warns(UserWarning, match="EulerDiscreteScheduler does not use solver_order"):
        assert from_diffusers(euler) == Recipe("euler", "karras", {}, 0.0)
    with pytest.warns(UserWarning, match="DDIMScheduler does not use use_karras_sigmas"):
        assert from_diffusers({"_class_name": "DDIMScheduler", "use_karras_sigmas": True}).grid == "uniform"


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        (MULTISTEP, {"solver_order": 4}, "not available with .*solver_order=4.*only .*solver_order=3"),
        (MULTISTEP, {"algorithm_type": "sde-dpmsolver"}, "'sde-dpmsolver'"),
        (MULTISTEP, {"solver_order": [2]}, "not available"),
        (MULTISTEP, {"thresholding": True}, "thresholding=True is not available here; wrap the network"),
        (MULTISTEP, {"lambda_min_clipped": -5.1}, "t_start"),
        (MULTISTEP, {"use_karras_sigmas": True, "use_beta_sigmas": True}, "exclude each other"),
        (MULTISTEP, {"final_sigmas_type": "denoise"}, "final_sigmas_type must be one of"),
        (MULTISTEP, {"solver_oder": 2}, "no setting 'solver_oder'; did you mean 'solver_order'"),
        (MULTISTEP, {"timestep_spacing": "cubic"}, "timestep_spacing='cubic'"),
        ("EulerDiscreteScheduler", {"sigma_max": 10.0}, "Custom.of"),
        ("UniPCMultistepScheduler", {"solver_order": 9}, "p must be from 1"),
        ("UniPCMultistepScheduler", {"disable_corrector": [0]}, "'unip' is the predictor alone"),
        ("DDPMScheduler", {"variance_type": "learned"}, "variance_type='learned'"),
        ("EDMEulerScheduler", {"sigma_schedule": "cosine"}, "sigma_schedule must be"),
        ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}, "shift=3.0"),
        ("FlowMatchEulerDiscreteScheduler", {"stochastic_sampling": True}, "stochastic"),
    ],
)
def test_settings_that_are_not_available_are_refused(name, settings, message):
    with pytest.raises(ArgumentError, match=message):
        from_diffusers({"_class_name": name, **settings})


def test_what_is_no_config_is_refused():
    for wrong in ({}, {"_class_name": 3}, "DDIMScheduler", None, [1]):
        with pytest.raises(ArgumentError, match="_class_name"):
            from_diffusers(wrong)
    with pytest.raises(UnknownNameError, match="did you mean 'DDIMScheduler'"):
        from_diffusers({"_class_name": "DDIMSchedule"})


def test_settings_that_pass_are_named_once():
    used = {key for kind in _CLASSES.values() for key in (*kind.by, *kind.renamed)}
    assert not ABOUT_THE_MODEL & NO_MATTER
    assert used & (ABOUT_THE_MODEL | NO_MATTER) <= {"variance_type", "skip_prk_steps"}  # DDPM's and PNDM's own


# The same numbers as diffusers ---------------------------------------------------------------------------------------
# Data N(0.3, 0.6^2); both start from the same state and see the exact noise prediction at the same sigma/alpha. The
# state of diffusers is x in some classes, x/alpha in others. VPSDE with beta_max = 21 has all of its noise levels.

MEAN, STD, SDE = 0.3, 0.6, VPSDE(beta_max=21.0)
START = torch.randn(64, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def exact_noise(x: Tensor, ratio: float) -> Tensor:
    """eps at x = alpha x_0 + sigma eps, alpha^2 + sigma^2 = 1."""
    alpha = 1 / math.sqrt(1 + ratio**2)
    sigma = ratio * alpha
    return sigma * (x - alpha * MEAN) / (alpha**2 * STD**2 + sigma**2)


def of_diffusers(
    scheduler, steps: int, x: Tensor, leave: int = 0, noise: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """What the scheduler makes of x in all steps but the last `leave`, and the levels it goes through."""
    scheduler.set_timesteps(steps)
    if not hasattr(scheduler, "sigmas"):  # DDIM
        products = scheduler.alphas_cumprod.double()[scheduler.timesteps]
        levels = torch.cat([((1 - products) / products).sqrt(), torch.zeros(1, dtype=torch.float64)])
    else:
        levels = scheduler.sigmas.double()
    scaled = "Discrete" in type(scheduler).__name__  # x/alpha
    x = x * math.sqrt(1 + float(levels[0]) ** 2) if scaled else x.clone()
    for k, t in enumerate(scheduler.timesteps[: len(scheduler.timesteps) - leave]):
        scheduler.scale_model_input(x, t)
        if hasattr(scheduler, "step_index") and scheduler.step_index is None:
            scheduler._init_step_index(t)
        k = scheduler.step_index if hasattr(scheduler, "step_index") else k
        between = hasattr(scheduler, "sigmas_interpol") and not scheduler.state_in_first_order
        level = float(scheduler.sigmas_interpol[k]) if between else float(levels[k])
        eps = exact_noise(x / math.sqrt(1 + level**2) if scaled else x, level)
        draw = {} if noise is None else {"variance_noise": noise[k]}
        x = scheduler.step(eps, t, x, **draw).prev_sample
    levels = torch.unique_consecutive(levels)
    levels = levels[: len(levels) - leave]
    return x / math.sqrt(1 + float(levels[-1]) ** 2) if scaled else x, levels


def of_sdekit(meaning: Recipe, levels: Tensor, x: Tensor, noise: Tensor | None = None) -> Tensor:
    model = gaussian_model(SDE, MEAN, STD)
    draws = iter(()) if noise is None else iter(noise)
    kwargs = {} if noise is None else {"noise": lambda t, s, shape: next(draws)}
    grid = sk.grids.Custom.of(sigmas=levels)
    return sk.sample(model, None, meaning.solver, x_T=x, grid=grid, **kwargs, **meaning.options).x


def difference(scheduler, steps: int, dtype: torch.dtype = torch.float64, leave: int = 0, **draws: Tensor) -> float:
    x = START.to(dtype)
    end, levels = of_diffusers(scheduler, steps, x, leave, **draws)
    return float((of_sdekit(quiet(scheduler), levels, x, **draws) - end).abs().max())


@pytest.mark.parametrize("steps", [5, 10, 20])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("DDIMScheduler", {"clip_sample": False}),
        ("EulerDiscreteScheduler", {}),
        ("EulerDiscreteScheduler", {"use_karras_sigmas": True}),
        ("HeunDiscreteScheduler", {}),
        ("KDPM2DiscreteScheduler", {}),
        (MULTISTEP, {}),
        ("UniPCMultistepScheduler", {}),
    ],
    ids=lambda v: v if isinstance(v, str) else "-".join(v),
)
def test_the_same_numbers_as_diffusers(name, settings, dtype, steps):
    # Measured: at most 6e-7 from a float64 start and 2e-6 from a float32 one; diffusers keeps its sigmas in float32.
    assert difference(theirs(name)(**settings), steps, dtype) < 1e-5


@pytest.mark.parametrize("steps", [5, 10, 20])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_lms_is_that_of_diffusers_but_for_the_step_to_zero(dtype, steps):
    # diffusers goes on with order 4 on the step to sigma = 0; here that step takes the newest value alone.
    scheduler = theirs("LMSDiscreteScheduler")
    assert difference(scheduler(), steps, dtype, leave=1) < 1e-5
    assert 1e-4 < difference(scheduler(), steps, dtype) < 1e-3


@pytest.mark.parametrize(
    ("name", "settings", "bound"),
    [
        (MULTISTEP, {"solver_type": "heun"}, 1e-5),
        (MULTISTEP, {"solver_order": 3}, 2e-5),  # legacy: half the D2 term
        (MULTISTEP, {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"}, 1e-5),
        ("DEISMultistepScheduler", {}, 1e-5),
        ("DEISMultistepScheduler", {"solver_order": 3}, 3e-5),
        ("UniPCMultistepScheduler", {"solver_order": 3, "final_sigmas_type": "sigma_min"}, 1e-5),
        (
            "UniPCMultistepScheduler",
            {"solver_type": "bh1", "predict_x0": False, "final_sigmas_type": "sigma_min"},
            1e-5,
        ),
    ],
)
def test_the_other_orders_and_kinds_too(name, settings, bound):
    # lower_order_final would lower the order of the last steps; here only a step to sigma = 0 is of order 1. diffusers
    # computes the weights in float32, where those of order 3 lose digits: hence the bounds.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # algorithm_type="dpmsolver" is deprecated there
        scheduler = theirs(name)(lower_order_final=False, **settings)
    assert difference(scheduler, 10) < bound


@pytest.mark.parametrize("kind", ["midpoint", "heun"])
@pytest.mark.parametrize("order", [1, 2])
def test_the_stochastic_ones_with_the_same_noise(order, kind):
    noise = torch.randn(20, *START.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    scheduler = theirs(MULTISTEP)(algorithm_type="sde-dpmsolver++", solver_order=order, solver_type=kind)
    assert difference(scheduler, 20, noise=noise) < 1e-5


def test_the_third_order_sde_of_diffusers_has_the_wrong_sign():
    """Half of the exact weight of D2 is 1/2 + (1 - e^{-k} - k)/k^2 with k = 2 h; diffusers has -1/2 + the same."""
    noise = torch.randn(320, *START.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def end(order: int) -> tuple[Tensor, Tensor]:
        scheduler = theirs(MULTISTEP)(algorithm_type="sde-dpmsolver++", solver_order=order)
        return of_diffusers(scheduler, 320, START, noise=noise)

    (second, levels), (third, _) = end(2), end(3)
    ours = of_sdekit(recipe("DPM++ 3M SDE"), levels, START, noise)
    assert float((ours - second).abs().max()) < 0.1
    assert float((third - second).abs().max()) > 0.3
    legacy = of_sdekit(recipe("sample_dpmpp_3m_sde"), levels, START, noise)
    assert float((ours - legacy).abs().max()) < 0.1


def test_sa_solver_counts_its_orders_as_diffusers_does():
    scheduler = theirs("SASolverScheduler")(
        predictor_order=3, corrector_order=4, tau_func=lambda t: 0, lower_order_final=False
    )
    end, levels = of_diffusers(scheduler, 20, START)
    meaning = Recipe("sa_solver", options={"predictor": 3, "corrector": 4, "tau": 0.0})
    assert float((of_sdekit(meaning, levels, START) - end).abs().max()) < 5e-5  # its weights are float32


def test_deis_of_diffusers_is_not_the_rho_ab_of_the_paper():
    scheduler = theirs("DEISMultistepScheduler")(lower_order_final=False)
    end, levels = of_diffusers(scheduler, 10, START)
    paper = of_sdekit(Recipe("deis", options={"values": 2}), levels, START)
    assert float((paper - end).abs().max()) > 1e-3


# The page ------------------------------------------------------------------------------------------------------------

PAGE = Path(__file__).parent.parent / "docs" / "names.md"


def rows(heading: str) -> list[list[str]]:
    """The cells of the table under a heading, its head and rule left out."""
    text = PAGE.read_text(encoding="utf-8").split(f"## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def code(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def options(cell: str) -> dict[str, object]:
    return eval(f"dict({', '.join(code(cell))})", {"__builtins__": {}, "dict": dict})  # our own page


def test_the_page_lists_every_name_with_its_recipe():
    listed = set()
    for names, solver, extra in rows("Samplers"):
        for name in code(names):
            listed.add(name)
            if code(solver)[0] in sk.solvers.names():
                assert recipe(name) == Recipe(code(solver)[0], options=options(extra)), name
    assert listed >= {name for _, _, others in _NAMES for name in others}
    assert listed >= set(DISPLAY)


def test_the_page_lists_every_class_with_its_recipe():
    listed = []
    for name, solver, grid, end, extra in rows("Classes of diffusers"):
        meaning = Recipe(code(solver)[0], (code(grid) or [None])[0], options(extra), 0.0 if code(end) else None)
        for each in code(name):
            assert recipe(each) == meaning
            listed.append(each)
    assert sorted(listed) == sorted(_CLASSES)


def test_the_page_lists_every_grid_with_its_names():
    listed = {name: code(grid)[0] for names, grid in rows("Grids") for name in code(names)}
    assert listed.items() >= ENDINGS.items()
    assert {_plain(name): grid for name, grid in listed.items()} == _grids()


def test_recipes_settings_exist_in_diffusers():
    """No setting of the tables is one that the installed release does not know."""
    for name, kind in _CLASSES.items():
        known = set(inspect.signature(theirs(name).__init__).parameters)
        assert {*kind.defaults, *kind.renamed, *kind.about_model} - {"eta"} <= known, name
