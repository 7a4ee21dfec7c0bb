"""`verify`: right findings for right solvers, and every kind of wrong one caught by the check that is meant for it."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd
import pytest
import torch
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner

import sdekit as sk
from sdekit.cli.main import app
from sdekit.errors import ArgumentError, UnknownNameError
from sdekit.experiments.verification import Finding, Verification, run, verify
from sdekit.experiments.verification.finiteness import unfinished
from sdekit.experiments.verification.orders import Order, flow_order, gaussian_moments, span, weak_order
from sdekit.experiments.verification.published import references
from sdekit.sdes import EDMSDE, VPSDE, DiffusionSDE
from sdekit.solvers import Table, TableSolver, catalogue
from sdekit.solvers.diffusion.ddim import DDIM
from sdekit.solvers.diffusion.dpm_solver_multi import DPMSolverPP2M, DPMSolverPP3M
from sdekit.solvers.diffusion.levels import Levels
from sdekit.solvers.diffusion.multistep import decay, multistep_table
from sdekit.solvers.diffusion.stages import Stages


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    """What a test registers is gone after it; the command leaves torch's threads alone."""
    monkeypatch.setattr(catalogue, "_CATALOGUE", dict(catalogue._CATALOGUE))
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def few(monkeypatch):
    """Two solves in place of five hundred, where finiteness is not what a test is about."""
    monkeypatch.setattr(run, "unfinished", lambda solver, few=False: (2, []))


def kinds(result: Verification) -> list[tuple[str, str]]:
    return [(f.check, f.on) for f in result.findings]


def failing(result: Verification) -> list[tuple[str, str]]:
    return [(f.check, f.on) for f in result.failures]


# Solvers that are right ----------------------------------------------------------------------------------------------

FLOW = [("limit", "Gaussian"), ("order", "Gaussian"), ("limit", "mixture"), ("order", "mixture")]
LAW = [("limit", "Gaussian"), ("weak order", "Gaussian"), ("strong order", "one Brownian path")]
FINITE = ("finite", "N = 1 … 50, SDEs, grids")
# 50 counts in turn, and 4 on every SDE and grid to both ends.
SOLVES = 50 + 4 * len(sk.sdes.DIFFUSION_SDES) * len(sk.grids.names()) * 2


def test_a_deterministic_solver_has_its_order_on_both_problems_its_formulas_and_its_finiteness():
    given = []
    result = verify(["dpmpp_2m"], each=given.append)
    assert given == result.findings
    formulas = [("published formula", f"variant={variant!r}") for variant in ("midpoint", "exact")]
    assert kinds(result) == [*FLOW, *formulas, FINITE]
    assert result.passed
    assert result.failures == []
    assert result.seconds > 0
    orders = [f for f in result.findings if f.check == "order"]
    assert [f.declared for f in orders] == ["2", "2"]
    assert all(f.order.counts == (48, 96, 192) for f in orders)
    assert all(float(f.measured) == pytest.approx(2, abs=0.15) for f in orders)
    assert result.findings[-1].measured == f"{SOLVES} of {SOLVES} solves"


@pytest.mark.usefixtures("few")
def test_a_stochastic_solver_has_a_weak_and_a_strong_order():
    result = verify(["seeds_2"])
    assert kinds(result) == [*LAW, *(("published formula", f.on) for f in result.findings[3:-1]), FINITE]
    assert len(result.findings) == 4 + len(references("seeds_2"))
    assert result.passed
    weak, strong = result.findings[1:3]
    assert (weak.declared, strong.declared) == ("2", "1")
    assert float(weak.measured) == pytest.approx(2, abs=0.25)
    assert float(strong.measured) == pytest.approx(1, abs=0.3)


@pytest.mark.usefixtures("few")
def test_an_adaptive_solver_is_measured_by_its_tolerance():
    result = verify(["scipy:DOP853"])
    assert kinds(result) == [("tolerance", "Gaussian and mixture"), FINITE]
    assert result.passed
    assert result.findings[0].order is None


@pytest.mark.usefixtures("few")
def test_aliases_count_once():
    result = verify(["ddpm", "ancestral", "DDPM"])
    assert {f.solver for f in result.findings} == {"ancestral"}
    assert len(result.findings) == len(set(kinds(result)))


def test_an_unknown_name_is_told_before_any_work():
    seen = []
    with pytest.raises(UnknownNameError, match="did you mean 'ddim'"):
        verify(["heun", "dimm"], each=seen.append)
    assert seen == []


# Solvers that are wrong ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class Wrong(TableSolver):
    """A solver of the tests."""

    name, reference, evaluations_per_step, default_grid = "wrong", "nobody 2026", 1, "log_snr"
    order = 2.0

    @property
    def stochastic(self) -> bool:
        return False

    def table(self, sde: DiffusionSDE, times: Tensor) -> Table:
        raise NotImplementedError


def second_order(levels: Levels, ratio: Callable[[Tensor], Tensor]) -> Table:
    """2M with h/h_{-1}, or what is taken for it, from a function of h."""
    whole = 1 - levels.b / levels.a
    back = torch.zeros_like(levels.h)
    back[1:] = 0.5 * ratio(levels.h)
    back[torch.isinf(levels.lam[1:])] = 0
    return multistep_table(
        levels, "data", decay(levels, "data"), torch.stack([whole * (1 + back), -whole * back], dim=1)
    )


class IndexSlip(Wrong):
    """The value before the newest one is taken a step too old: first order."""

    def table(self, sde, times):
        right = DPMSolverPP2M().table(sde, times)
        m = torch.zeros(len(right), 3, dtype=torch.float64)
        m[:, 0] = right.state.m[:, 0]
        m[2:, 2] = right.state.m[2:, 1]
        m[:2, : right.state.m.shape[1]] = right.state.m[:2]
        return Table.from_dict({**right.to_dict(), "state": {**right.state.to_dict(), "m": m.tolist()}})


class WrongSign(Wrong):
    def table(self, sde, times):
        return second_order(Levels(sde, times), lambda h: -h[1:] / h[:-1])


class Right(Wrong):
    """The same helper as it should be: it passes, so what fails above is the slip."""

    def table(self, sde, times):
        return second_order(Levels(sde, times), lambda h: h[1:] / h[:-1])


@dataclass(frozen=True, repr=False)
class Boasting(Wrong):
    """The published 3M, of second order, claiming third."""

    order = 3.0

    def table(self, sde, times):
        return DPMSolverPP3M(legacy=True).table(sde, times)


class NaNAtOne(Wrong):
    """0/0 where there is one step and no step before it."""

    order = 1.0

    def table(self, sde, times):
        table = DDIM().table(sde, times)
        if len(times) == 2:
            table.state.x[:] = math.nan
        return table


class NoEnd(Wrong):
    """Right but for a step to sigma = 0, where 0 times infinity is left."""

    order = 1.0

    def table(self, sde, times):
        levels, table = Levels(sde, times), DDIM().table(sde, times)
        table.state.m[:, 0] += 0 * levels.lam[1:]
        return table


@dataclass(frozen=True, repr=False)
class Close(Wrong):
    """2M with one coefficient wrong by 1e-7."""

    variant: str = "midpoint"

    def table(self, sde, times):
        table = DPMSolverPP2M(self.variant).table(sde, times)
        table.state.m[1:2, 0] *= 1 + 1e-7
        return table


class Biased(Wrong):
    """A coefficient that is wrong by 1/500 in every step: it adds up to another limit."""

    order = None

    def table(self, sde, times):
        table = DDIM().table(sde, times)
        table.state.x.mul_(1.002)
        return table


class IndependentStages(Wrong):
    """SEEDS-2 with a draw of its own for the stage: its law is of first order."""

    order, weak_order = None, 2.0
    evaluations_per_step = 2

    @property
    def stochastic(self) -> bool:
        return True

    def table(self, sde, times):
        levels, c = Levels(sde, times), 0.5
        step = Stages(levels, "data")

        def left(fraction):
            return torch.exp(-2 * fraction * levels.h)

        def fresh(fraction):
            return torch.exp(-levels.inside(fraction)) * torch.sqrt(-torch.expm1(-2 * fraction * levels.h))

        d0 = step.evaluate(step.x, levels.a)
        stage = left(c) * step.x + (1 - left(c)) * d0 + fresh(c) * step.draw()
        d1 = step.evaluate(stage, torch.exp(-levels.inside(c)))
        slope = 1 + torch.expm1(-2 * levels.h) / (2 * levels.h)
        end = left(1.0) * step.x + (1 - left(1.0)) * d0 + slope / c * (d1 - d0)
        return step.table(end + fresh(1.0) * step.draw())


class TooNoisy(Wrong):
    """Ancestral sampling with a tenth more noise: another law."""

    order, weak_order = None, None

    @property
    def stochastic(self) -> bool:
        return True

    def table(self, sde, times):
        table = sk.solvers.Ancestral().table(sde, times)
        table.state.z.mul_(1.1)
        return table


ORDERS = [("order", "Gaussian"), ("order", "mixture")]


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize(
    ("solver", "caught", "measured"),
    [
        (Right(), [], None),
        (IndexSlip(), ORDERS, 1.0),
        (WrongSign(), ORDERS, 1.0),
        (Boasting(), ORDERS, 2.0),
        (IndependentStages(), [("weak order", "Gaussian")], 1.0),
        (Biased(), [("limit", "Gaussian"), ("limit", "mixture")], None),
        (TooNoisy(), [("limit", "Gaussian")], None),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, Wrong) else "",
)
def test_a_wrong_solver_is_caught_by_the_check_for_it(solver, caught, measured):
    sk.solvers.register("mine", solver)
    result = verify(["mine"])
    assert failing(result) == caught
    assert result.passed == (not caught)
    if measured is not None:
        assert [float(f.measured) for f in result.failures] == pytest.approx([measured] * len(caught), abs=0.3)


@pytest.mark.parametrize(
    ("solver", "where"), [(NaNAtOne(), "'steps': 1, "), (NoEnd(), "end 0.0")], ids=["one step", "sigma 0"]
)
def test_a_solver_that_is_not_finite_everywhere_is_caught(solver, where):
    sk.solvers.register("mine", solver)
    result = verify(["mine"])
    assert failing(result) == [FINITE]
    (failure,) = result.failures
    assert where in failure.measured
    assert f"of {SOLVES} failed; first: " in failure.measured
    assert "non-finite" in failure.measured


def test_finiteness_tries_every_count_sde_grid_and_end():
    tried = []

    class Watching(NaNAtOne):
        def table(self, sde, times):
            tried.append((sde.name, len(times) - 1, float(times[-1]) == 0))
            return DDIM().table(sde, times)

    made, bad = unfinished(Watching())
    assert (made, bad) == (SOLVES, [])
    assert len(tried) == SOLVES
    names = {family().name for family in sk.sdes.DIFFUSION_SDES}
    for n in (1, 2, 3, 7):
        assert {(name, at_0) for name, steps, at_0 in tried if steps == n} == {(a, b) for a in names for b in (0, 1)}
    assert {steps for _, steps, _ in tried} == set(range(1, 51))


@pytest.mark.usefixtures("few")
def test_a_wrong_coefficient_is_caught_by_the_published_formula():
    # Second order with the right limit: only its formulas tell that it is not the one of its name.
    sk.solvers.register("dpmpp_2m", Close, replace=True)
    result = verify(["dpmpp_2m"])
    formulas = [("published formula", f"variant={variant!r}") for variant in ("midpoint", "exact")]
    assert failing(result) == formulas
    assert all(1e-9 < float(f.measured) < 1e-6 for f in result.failures)


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("fixed", [1e-3, 1e-8])
def test_an_adaptive_solver_that_ignores_its_tolerance_is_caught(fixed):
    # However tight its own may be: its errors do not fall.
    ignoring = sk.solvers.get("scipy:DOP853", rtol=fixed, atol=fixed)
    catalogue._CATALOGUE["mine"] = catalogue.Entry("mine", lambda rtol=0.1, atol=0.1: ignoring, "")
    assert failing(verify(["mine"])) == [("tolerance", "Gaussian and mixture")]


# What orders are measured on -----------------------------------------------------------------------------------------


def test_an_order_is_the_slope_and_infinite_at_rounding():
    assert Order((8, 16, 32), (0.8, 0.1, 0.0125)).value == pytest.approx(3)
    assert Order((8, 16, 32), (1e-3, 1e-14, 1e-15)).value == math.inf


def test_orders_are_those_of_the_span_on_any_sde():
    # The same levels from 150 to 0.1: the same errors in x~ whatever the SDE, up to alpha and to T where that is lower.
    start, end = span(VPSDE())
    assert [float(VPSDE().sigma_ratio(t)) for t in (start, end)] == pytest.approx([150, 0.1], rel=1e-9)
    assert span(EDMSDE())[0] == EDMSDE().t_max
    for order in flow_order(sk.solvers.Heun(), EDMSDE(), (24, 48)):
        assert order.value == pytest.approx(2, abs=0.15)


def test_gaussian_moments_are_those_of_a_recursion():
    # x' = 0.5 x + 1 + 0.2 z_1, then x'' = 2 x' - 0.3 z_2.
    def step(x: Tensor, noise: Callable[..., Tensor]) -> Tensor:
        x = 0.5 * x + 1 + 0.2 * noise(0.0, 0.0, tuple(x.shape))
        return 2 * x - 0.3 * noise(0.0, 0.0, tuple(x.shape))

    mean, variance = gaussian_moments(step, 3.0, 4.0)
    assert mean == pytest.approx(2 * (1.5 + 1))
    assert variance == pytest.approx(4.0 + 0.4**2 + 0.3**2)


def test_the_weak_order_of_ancestral_sampling_is_that_of_its_closed_recursion():
    # m' = r m + (1 - r) E D and v' = k^2 v + b^2 (1 - r), r = (b/a)^2, on N(1.5, 0.7^2): METHODS' recursion, by hand.
    sde, counts = VPSDE(), (16, 32)
    found = weak_order(sk.solvers.Ancestral(), sde, counts)
    start, end = span(sde)
    for n, error in zip(counts, found.errors, strict=True):
        times = sk.grids.make_grid("log_snr").times(sde, n, start, end)
        ratio, s2, mean = sde.sigma_ratio(times).tolist(), 0.49, 1.5
        m, v = mean, s2 + ratio[0] ** 2
        for a, b in zip(ratio[:-1], ratio[1:], strict=True):  # noqa: RUF007
            r = (b / a) ** 2
            k = r + (1 - r) * s2 / (s2 + a**2)
            m, v = k * m + (1 - r) * mean * a**2 / (s2 + a**2), k**2 * v + b**2 * (1 - r)
        alpha = float(sde.alpha(end))
        expected = alpha * abs(m - mean) + alpha**2 * abs(v - s2 - ratio[-1] ** 2)
        assert error == pytest.approx(expected, rel=1e-7)


# What is made of the findings ----------------------------------------------------------------------------------------


@pytest.fixture
def result() -> Verification:
    slopes = Order((48, 96, 192), (1e-2, 2.5e-3, 6e-4))
    return Verification(
        [
            Finding("good", "order", "Gaussian", "2", "2.02", True, slopes),
            Finding("good", "order", "mixture", "2", "2.03", True, slopes),
            Finding("good", "published formula", "as it is", "Someone 2020", "3e-15", True),
            Finding("good", "finite", "all", "finite", "530 of 530 solves", True),
            Finding("bad", "weak order", "Gaussian", "2", "1.01", False, Order((64, 128, 256), (1e-2, 5e-3, 2.5e-3))),
            Finding("bad", "finite", "all", "finite", "530 of 530 solves", True),
        ],
        12.5,
    )


def test_the_markdown_has_one_row_a_solver(result):
    lines = result.markdown().splitlines()
    assert lines == [
        "| solver | declared | measured | formula | finite | holds |",
        "| --- | --- | --- | --- | --- | --- |",
        "| good | order 2 | order 2: Gaussian 2.02; mixture 2.03 | 3e-15 | 530 of 530 solves | yes |",
        "| bad | weak order 2 | weak order 2: Gaussian 1.01 |  | 530 of 530 solves | NO |",
    ]


def test_the_table_and_the_dict_have_every_finding(result):
    assert len(result.table) == 6
    assert list(result.table.columns) == ["solver", "check", "on", "declared", "measured", "passed"]
    values = json.loads(json.dumps(result.to_dict()))
    assert (values["passed"], values["seconds"], len(values["findings"])) == (False, 12.5, 6)
    assert values["findings"][0]["order"] == {"counts": [48, 96, 192], "errors": [1e-2, 2.5e-3, 6e-4]}


def test_what_is_saved_can_be_read(result, tmp_path):
    folder = result.save(tmp_path / "new" / "folder")
    assert sorted(p.name for p in folder.iterdir()) == ["verify.csv", "verify.json", "verify.md", "verify.png"]
    assert json.loads((folder / "verify.json").read_text()) == json.loads(json.dumps(result.to_dict()))
    assert pd.read_csv(folder / "verify.csv")["passed"].tolist() == result.table["passed"].tolist()
    assert (folder / "verify.md").read_text() == result.markdown()
    with Image.open(folder / "verify.png") as image:
        image.verify()


def test_the_picture_has_a_panel_a_solver_with_its_errors_and_the_declared_slope(result):
    panels = [panel for panel in result.plot().axes if panel.get_title()]
    assert [panel.get_title() for panel in panels] == ["good", "bad"]
    measured, guide = panels[1].get_lines()
    assert list(measured.get_ydata()) == [1e-2, 5e-3, 2.5e-3]
    # Slope 2 through the last point.
    assert list(guide.get_ydata()) == pytest.approx([16 * 2.5e-3, 4 * 2.5e-3, 2.5e-3])
    assert len(panels[0].get_lines()) == 4


# sdekit verify -------------------------------------------------------------------------------------------------------


def test_the_command_as_a_process(tmp_path):
    folder = tmp_path / "verified"
    done = subprocess.run(
        [sys.executable, "-m", "sdekit", "verify", "ddim", "edm_heun", "--json", "--out", folder],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    values = json.loads(done.stdout)
    assert values["passed"] is True
    assert {f["solver"] for f in values["findings"]} == {"ddim", "heun"}
    assert done.stderr == f"wrote {folder}\n"
    assert json.loads((folder / "verify.json").read_text())["findings"] == values["findings"]
    assert len((folder / "verify.md").read_text().splitlines()) == 4
    with Image.open(folder / "verify.png") as image:
        image.verify()


BAD = """
from sdekit.cli.main import app
from sdekit.experiments.verification import run
from sdekit.solvers import DDIM, TableSolver, register


class Claims(TableSolver):
    name, reference, order, stochastic = "claims", "nobody 2026", 2.0, False

    def table(self, sde, times):
        return DDIM().table(sde, times)


register("claims", Claims())
run.unfinished = lambda solver, few=False: (1, [])
app(["verify", "claims"])
"""


def test_a_claim_that_fails_is_named_and_the_exit_code_is_1():
    done = subprocess.run([sys.executable, "-c", BAD], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1, done.stderr
    assert "FAILED claims: order on Gaussian: declared 2, measured 0.9" in done.stdout
    assert "FAILED claims: order on mixture" in done.stdout
    assert "3 of 5 claims hold" in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.usefixtures("few")
def test_the_table_of_the_command():
    done = CliRunner().invoke(app, ["verify", "ddim", "ddpm"])
    assert done.exit_code == 0
    assert all(word in done.stdout for word in ("ddim", "ancestral", "order 1", "strong order 1", "claims hold"))


def test_an_unknown_name_at_the_command_line():
    done = CliRunner().invoke(app, ["verify", "dimm"])
    assert done.exit_code == 2
    assert "sdekit: unknown solver 'dimm'; did you mean 'ddim'?" in done.stderr
    assert done.stdout == ""


@dataclass(frozen=True, repr=False)
class Breaking(TableSolver):
    """DDIM that cannot be made for many steps."""

    name, reference, order, evaluations_per_step, stochastic = "breaking", "nobody 2026", 1.0, 1, False

    def table(self, sde, times):
        if len(times) > 40:
            raise IndexError("too many")
        return sk.solvers.DDIM().table(sde, times)


def test_a_solver_that_breaks_is_a_finding_and_the_others_are_measured(monkeypatch):
    monkeypatch.setattr(catalogue, "_CATALOGUE", dict(catalogue._CATALOGUE))
    sk.solvers.register("breaking", Breaking)
    result = verify(["breaking", "euler"])
    assert not result.passed
    assert {f.solver for f in result.failures} == {"breaking"}
    assert any("IndexError: too many" in f.measured for f in result.failures)
    assert any(f.solver == "euler" and f.check == "order" and f.passed for f in result.findings)


def test_nothing_to_verify_is_said():
    with pytest.raises(ArgumentError, match="empty"):
        verify([])
