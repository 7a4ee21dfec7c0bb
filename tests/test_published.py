"""Each named diffusion sampler against a second writing of its published formula."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import sdekit as sk
from sdekit.experiments.verification.published import REFERENCES, Reference, check, compare, irregular_times, references
from sdekit.sdes import EDMSDE, VESDE, VPSDE, CosineVPSDE, DiffusionSDE, FlowSDE, SubVPSDE

# An SDE and the grid's end; None is t_min.
SETTINGS: dict[str, tuple[DiffusionSDE, float | None]] = {
    "vp": (VPSDE(), None),
    "edm_to_0": (EDMSDE(), 0.0),
    "sub_vp": (SubVPSDE(), None),
    "vp_to_0": (VPSDE(), 0.0),
}

# No sampler of kind "table" on a score model goes without a reference.
# `adams` with settings that its own references cover.
WITHOUT_REFERENCE = {"recommended", "recommended_sde"}


def labels(reference: Reference) -> str:
    return reference.label


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("reference", REFERENCES, ids=labels)
def test_sampler_is_its_published_formula(reference: Reference, setting: str) -> None:
    sde, end = SETTINGS[setting]
    found = compare(reference, sde, end=end)
    assert found.difference < reference.tolerance
    assert found.evaluations == found.reference_evaluations


@pytest.mark.parametrize("sde", [VESDE(), CosineVPSDE(), FlowSDE(t_max=0.99)], ids=lambda sde: sde.name)
@pytest.mark.parametrize("name", sorted({reference.name for reference in REFERENCES}))
def test_first_reference_of_each_name_on_other_sdes(name: str, sde: DiffusionSDE) -> None:
    reference = references(name)[0]
    # The cosine schedule's clip leaves a kink in t(lambda), which the quadrature of the clock t sees to 1e-7.
    kinked = name == "adams" and isinstance(sde, CosineVPSDE)
    assert check(reference, sde) < (1e-6 if kinked else reference.tolerance)


@pytest.mark.parametrize("steps", [1, 2, 3, 11])
@pytest.mark.parametrize("name", sorted({reference.name for reference in REFERENCES}))
def test_other_numbers_of_steps(name: str, steps: int) -> None:
    reference = references(name)[-1]
    assert check(reference, EDMSDE(), steps, end=0.0, seed=3) < reference.tolerance


def test_every_named_table_has_a_reference() -> None:
    named = {d["name"] for d in sk.solvers.describe() if d["kind"] == "table" and "score" in d["needs"]}
    have = {reference.name for reference in REFERENCES}
    assert named - have == WITHOUT_REFERENCE
    assert {"euler_maruyama", "euler", "heun", "rk4"} <= have
    assert have <= set(sk.solvers.names())


def test_every_option_is_set_by_some_reference() -> None:
    for d in sk.solvers.describe():
        mine = references(d["name"])
        if mine:
            assert set(d["options"]) <= {key for reference in mine for key in reference.options}, d["name"]


def test_references_are_distinct() -> None:
    assert len({reference.label for reference in REFERENCES}) == len(REFERENCES)
    assert all(reference.source for reference in REFERENCES)


@pytest.mark.parametrize("level", [0.145, 0.128])
def test_restart_takes_a_level_of_the_grid_near_by(level: float) -> None:
    reference = references("restart")[0]
    times = torch.tensor([80.0, 21.0, 4.0, 0.9, level, 0.02, 0.0], dtype=torch.float64)
    found = compare(reference, EDMSDE(), times=times)
    assert found.difference < reference.tolerance
    assert found.evaluations == found.reference_evaluations == 11 + 2 * 4
    sde = VPSDE()
    times = irregular_times(sde, 6)
    times[4] = sde.time_of_sigma_ratio(level)
    assert check(reference, sde, times=times) < reference.tolerance


# A formula that is wrong in one place: the run of another sampler under this one's name and options.
WRONG = [
    ("ddim(eta=1.0)", "ddim(eta=0.5)"),
    ("ancestral(variance=posterior)", "ancestral(variance=forward)"),
    ("ancestral(variance=posterior)", "reverse_diffusion"),
    ("lms(values=4)", "ipndm(values=4)"),
    ("pndm", "ipndm(values=4)"),
    ("dpmpp_2m(variant=midpoint)", "dpmpp_2m(variant=exact)"),
    ("dpmpp_3m(legacy=False)", "dpmpp_3m(legacy=True)"),
    ("dpm_solver_3m(legacy=False)", "dpm_solver_3m(legacy=True)"),
    ("er_sde(values=3, legacy=False)", "er_sde(values=3, legacy=True)"),
    ("unipc(p=3, variant=bh1, prediction=data)", "unipc(p=3, variant=bh1, prediction=noise)"),
    ("unipc(p=3, variant=bh2, prediction=data)", "unip(p=3, variant=bh2, prediction=data)"),
    ("seeds_2(c=0.5, eta=1.0)", "dpmpp_sde(r=0.5, eta=1.0)"),
    ("deis(values=3, variant=rho_ab)", "deis(values=3, variant=t_ab)"),
    ("rho_rk(method=heun)", "rho_rk(method=midpoint)"),
]


@pytest.mark.parametrize(("name", "other"), WRONG)
def test_a_wrong_formula_is_caught(name: str, other: str) -> None:
    by_label = {reference.label: reference for reference in REFERENCES}
    right, wrong = by_label[name], replace(by_label[name], run=by_label[other].run)
    assert check(right) < right.tolerance
    assert check(wrong) > 1e4 * wrong.tolerance


def test_a_small_slip_is_caught() -> None:
    """One part in a million of the noise, and a draw out of order."""
    right = next(reference for reference in REFERENCES if reference.label == "dpmpp_sde(r=0.5, eta=1.0)")

    def scaled(model, sde, times, x, draw):
        return right.run(model, sde, times, x, lambda: (1 + 1e-6) * draw())

    def swapped(model, sde, times, x, draw):
        draws = [draw() for _ in range(2 * len(times))]
        order = iter(draws[i ^ 1] for i in range(len(draws)))
        return right.run(model, sde, times, x, lambda: next(order))

    assert check(replace(right, run=scaled)) > 100 * right.tolerance
    assert check(replace(right, run=swapped)) > 0.01
