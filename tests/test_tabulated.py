"""A table as data: saved, loaded, edited, and run like any other solver; what it does on Gaussians; `sdekit table`."""

from __future__ import annotations

import copy
import itertools
import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import sdekit as sk
from sdekit.cli.main import app
from sdekit.errors import ArgumentError, UnknownNameError, UnsupportedError
from sdekit.experiments.tables import SCALES, end_errors, table_figure
from sdekit.sdes import EDMSDE, VPSDE, SubVPSDE
from sdekit.solvers import FixedStepSolver, Tabulated, tabulate

# One of each kind of table.
KINDS = [
    ("ddim", {}),
    ("euler_maruyama", {}),
    ("dpmpp_2m", {}),
    ("unipc", {}),
    ("sa_solver", {}),
    ("heun", {}),
    ("seeds_3", {}),
    ("edm", {}),
    ("restart", {}),
    ("dpmpp_2m_sde", {}),
    ("pndm", {}),
]
IDS = [name for name, _ in KINDS]


def ring(sde=None) -> sk.ScoreModel:
    return sk.targets.ring().score_model(VPSDE() if sde is None else sde)


def table(name: str = "dpmpp_2m", steps: int = 5, **options) -> Tabulated:
    return tabulate(sk.solvers.get(name, **options), VPSDE(), steps)


def sdekit(*arguments, code=0) -> str:
    """Run a command in this process: its output."""
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.stdout + result.stderr
    return result.stdout if code == 0 else result.stderr


def process(*arguments, code=0) -> tuple[str, str]:
    """Run a command as a process."""
    done = subprocess.run(
        [sys.executable, "-m", "sdekit", *map(str, arguments)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout, done.stderr


# Round trips ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "options"), KINDS, ids=IDS)
def test_a_table_runs_as_its_solver_to_the_bit_and_so_does_the_file(name, options, tmp_path):
    sde, solver = VPSDE(), sk.solvers.get(name, **options)
    made = tabulate(solver, sde, 6)
    assert (made.stochastic, made.title) == (solver.stochastic, repr(solver))
    path = made.save(tmp_path / f"{name}.json")
    again = Tabulated.load(path)
    assert again.to_dict() == made.to_dict() == json.loads(path.read_text())
    assert Tabulated.from_dict(made.to_dict()).to_dict() == made.to_dict()
    expected = sk.sample(ring(), 5, solver, 6, seed=3)
    for found in (
        sk.sample(ring(), 5, made, seed=3),
        sk.sample(ring(), 5, again, seed=3),
        sk.sample(ring(), 5, f"table:{path}", seed=3),
    ):
        assert torch.equal(found.x, expected.x)
        assert torch.equal(found.times, expected.times)
        assert found.nfe == expected.nfe == made.coefficients.evaluations


def test_tables_to_sigma_0_and_from_elsewhere_too(tmp_path):
    sde = EDMSDE()
    made = tabulate(sk.solvers.get("dpmpp_2m"), sde, 6, "karras", t_start=40.0, t_end=0.0)
    again = Tabulated.load(made.save(tmp_path / "a.json"))
    expected = sk.sample(ring(sde), 5, "dpmpp_2m", 6, grid="karras", t_start=40.0, t_end=0.0, seed=1)
    found = sk.sample(ring(sde), 5, again, seed=1)
    assert torch.equal(found.x, expected.x)
    assert (found.t, found.times[0].item()) == (0.0, 40.0)
    # A grid of the user's own says how many steps there are.
    places = [60.0, 7.0, 0.3]
    made = tabulate(sk.solvers.get("heun"), sde, grid=sk.grids.Custom.of(times=places))
    assert made.times == tuple(places)
    assert torch.equal(sk.sample(ring(sde), 5, made, seed=1).x, sk.sample(ring(sde), 5, "heun", grid=places, seed=1).x)


def test_a_table_is_driven_like_any_solver():
    made, model = table("unipc", 6), ring()
    whole = sk.sample(model, 4, made, seed=0, trajectory=True)
    assert whole.trajectory.shape == (7, 4, 2)
    half = sk.sample(model, 4, made, seed=0, stop=3)
    assert half.status == "stopped"
    assert torch.equal(sk.sample(model, 4, made, seed=0, resume=half.state).x, whole.x)
    assert torch.equal(sk.sample(model, 4, made, seed=0, chunk=3).x, whole.x)
    solved = sk.solve(sk.ProbabilityFlow(model), whole.trajectory[0], solver=made)
    assert torch.equal(solved.x, whole.x)


def test_what_a_table_says():
    made = table("ddim", 2)
    rows = str(made).splitlines()
    assert rows[0] == "DDIM(eta=0.0): table in noise, 2 evaluations"
    assert len(rows) == 3
    assert rows[1].startswith("t = 1:  x <- ")
    # Of a corrector: the state, and the point that the next evaluation is made at.
    assert str(table("unipc", 3)).count("y <- ") == 2
    assert repr(made) == "Tabulated('DDIM(eta=0.0)', 2 steps, 2 evaluations)"


def test_a_table_of_any_sde_runs_on_all():
    made = table("ddim", 4)
    free = Tabulated(made.coefficients, made.times)
    assert torch.equal(sk.sample(ring(), 3, free, seed=0).x, sk.sample(ring(), 3, made, seed=0).x)
    assert torch.isfinite(sk.sample(ring(SubVPSDE()), 3, free, seed=0).x).all()


def test_editing_a_coefficient_changes_the_result(tmp_path):
    made = table("ddim", 4)
    values = made.to_dict()
    values["table"]["state"]["m"][2][0] *= 1.001
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(values))
    before, after = (sk.sample(ring(), 50, solver, seed=0).x for solver in (made, f"table:{path}"))
    change = (after - before).abs().max()
    assert 1e-5 < float(change) < 0.1
    # Another one's: DDIM's table with the last row of Euler's in time is neither.
    assert not torch.equal(before, sk.sample(ring(), 50, "euler", 4, grid="log_snr", variable="t", seed=0).x)


def test_a_sampler_written_as_data_is_the_sampler():
    # Adams-Bashforth 2 in sigma~ for EDM, from its formula by hand: x + (b - a)(e + r (e - e_{-1})/2), r = step ratio.
    sigmas = [10.0, 4.0, 1.5, 0.5]
    m = []
    for i in range(3):
        a, b = sigmas[i], sigmas[i + 1]
        back = 0.0 if i == 0 else (b - a) / (2 * (a - sigmas[i - 1]))
        m.append([(b - a) * (1 + back), -(b - a) * back])
    values = {
        "format": "sdekit table",
        "sde": EDMSDE().to_dict(),
        "times": sigmas,
        "table": {
            "representation": "noise",
            "t": sigmas[:-1],
            "state": {"x": [1.0] * 3, "m": m, "z": [[]] * 3, "active": [True] * 3},
            "point": {"x": [0.0] * 3, "m": [[]] * 3, "z": [[]] * 3, "active": [False] * 3},
            "draw": [False] * 3,
            "ends_step": [True] * 3,
            "evaluates": [True] * 3,
        },
    }
    model = ring(EDMSDE())
    x = 10 * torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mine = sk.sample(model, None, Tabulated.from_dict(values), x_T=x).x
    assert torch.allclose(mine, sk.sample(model, None, "lms", grid=sigmas, values=2, x_T=x).x, rtol=1e-12, atol=1e-13)


# What is refused -----------------------------------------------------------------------------------------------------


def test_another_sde_is_refused():
    made = table()
    with pytest.raises(ArgumentError, match=r"made for .*VPSDE.*not for SubVPSDE"):
        sk.sample(ring(SubVPSDE()), 2, made, seed=0)
    with pytest.raises(ArgumentError, match="made for"):
        sk.sample(ring(VPSDE(beta_max=19.0)), 2, made, seed=0)


@pytest.mark.parametrize(
    "how", [{"steps": 5}, {"steps": 6}, {"grid": "karras", "steps": 5}, {"grid": [1.0, 0.5, 0.001]}]
)
def test_another_grid_is_refused_with_what_to_leave_out(how):
    with pytest.raises(ArgumentError, match=r"grid of 5 steps from t = 1 to 0\.001; leave steps, grid"):
        sk.sample(ring(), 2, table(), seed=0, **how)


@pytest.mark.parametrize("how", [{"t_start": 0.9}, {"t_end": 0.0}])
def test_other_ends_are_refused(how):
    with pytest.raises(ArgumentError, match="the grid given"):
        sk.sample(ring(), 2, table(), seed=0, **how)


def test_options_with_a_table_are_refused(tmp_path):
    path = table().save(tmp_path / "a.json")
    with pytest.raises(ArgumentError, match="a table has no options; got eta"):
        sk.sample(ring(), 2, f"table:{path}", seed=0, eta=0.5)


def test_a_file_that_is_not_there():
    with pytest.raises(ArgumentError, match=r"there is no file 'nothing\.json'"):
        sk.sample(ring(), 2, "table:nothing.json", seed=0)


@pytest.mark.parametrize(
    "text", ["", "not json", "[]", "3", "null", '"table"', "{}", '{"format": "sdekit table"}', '{"format": "other"}']
)
def test_a_file_that_is_no_table(text, tmp_path):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(ArgumentError, match="table"):
        sk.solvers.get(f"table:{path}")


def test_bytes_and_folders_are_no_tables(tmp_path):
    (tmp_path / "a.json").write_bytes(b"\x80\x81")
    for place in (tmp_path / "a.json", tmp_path):
        with pytest.raises(ArgumentError, match="no table in JSON"):
            Tabulated.load(place)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("times",), None),
        (("times",), "abc"),
        (("times",), [1.0, 0.5]),  # a step of a table of five
        (("table",), None),
        (("table", "representation"), "nois"),
        (("table", "ends_step"), [True, True, True, True, False]),
        (("table", "state", "x"), [1.0, 1.0, 1.0, 1.0]),
        (("table", "state", "m"), "abc"),
        (("sde",), {"type": "Nope"}),
        (("sde",), "vp"),
    ],
)
def test_a_table_with_a_part_that_makes_no_sense(place, value):
    values = copy.deepcopy(table().to_dict())
    inner = values
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    with pytest.raises(ArgumentError):
        Tabulated.from_dict(values)


def test_a_table_with_a_part_missing():
    for key in ("times", "table"):
        values = table().to_dict()
        del values[key]
        with pytest.raises(ArgumentError, match=f"cannot be read: KeyError: '{key}'"):
            Tabulated.from_dict(values)


@pytest.mark.parametrize("name", ["pc", "torchsde:euler"])
def test_a_solver_without_a_table(name):
    with pytest.raises(UnsupportedError, match="no table"):
        tabulate(sk.solvers.get(name), VPSDE(), 5)


def test_every_table_solver_has_one():
    without = set()
    for name in sk.solvers.names():
        solver = sk.solvers.get(name)
        if isinstance(solver, FixedStepSolver):
            try:
                tabulate(solver, EDMSDE(), 8)
            except UnsupportedError:
                without.add(name)
    solvers = {name: sk.solvers.get(name) for name in sk.solvers.names()}
    fixed = {name: solver for name, solver in solvers.items() if isinstance(solver, FixedStepSolver)}
    # Those that declare none: steps of SDEs, torchsde's, and pc.
    assert without == {name for name, solver in fixed.items() if type(solver).table is FixedStepSolver.table}
    assert not any(fixed[name].kind == "table" for name in without)
    assert {"pc", "torchsde:srk", "sra1", "milstein"} <= without
    assert not {"euler_maruyama", "heun", "tsitouras_5"} & without


def test_steps_are_asked_for():
    with pytest.raises(ArgumentError, match="steps"):
        tabulate(sk.solvers.get("ddim"), VPSDE())
    with pytest.raises(ArgumentError):
        tabulate(sk.solvers.get("ddim"), VPSDE(), 0)
    with pytest.raises(UnknownNameError, match="karras"):
        tabulate(sk.solvers.get("ddim"), VPSDE(), 3, "karas")


# On Gaussians --------------------------------------------------------------------------------------------------------


def variance(sde, t: float, s: float) -> float:
    return float((sde.alpha(t) * s).square() + sde.sigma(t).square())


@pytest.mark.parametrize("sde", [VPSDE(), EDMSDE()], ids=lambda sde: sde.name)
def test_end_errors_of_ddim_are_its_recursion(sde):
    # x~_b = x~_a [1 + (b - a) a/(s^2 + a^2)] on N(0, s^2), since eps = a x~/(s^2 + a^2).
    made = tabulate(sk.solvers.DDIM(), sde, 7)
    levels = [float(sde.sigma_ratio(t)) for t in made.times]
    expected = []
    for s in SCALES:
        deviation = math.hypot(s, levels[0])
        for a, b in itertools.pairwise(levels):
            deviation *= 1 + (b - a) * a / (s**2 + a**2)
        expected.append(deviation / math.hypot(s, levels[-1]) - 1)
    # The score of the target is float64; its tables hold 7 rows.
    assert end_errors(made, sde) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_end_errors_of_ancestral_sampling_are_its_recursion():
    # Posterior step with D = x~ s^2/(s^2 + a^2): x~_b = r x~ + (1 - r) D + b sqrt(1 - r) z, r = (b/a)^2.
    sde = VPSDE()
    made = tabulate(sk.solvers.Ancestral(), sde, 9)
    levels = [float(sde.sigma_ratio(t)) for t in made.times]
    expected = []
    scales = (0.1, 1.0, 3.0)
    for s in scales:
        v = s**2 + levels[0] ** 2
        for a, b in itertools.pairwise(levels):
            r = (b / a) ** 2
            v = (r + (1 - r) * s**2 / (s**2 + a**2)) ** 2 * v + b**2 * (1 - r)
        expected.append(math.sqrt(v / (s**2 + levels[-1] ** 2)) - 1)
    assert end_errors(made, sde, scales) == pytest.approx(expected, rel=1e-8, abs=1e-11)


def test_end_errors_know_exact_and_wrong_tables():
    # Exact for unit variance: v = 0 in the angle.
    exact = tabulate(sk.solvers.get("rosenbrock"), VPSDE(), 3)
    assert abs(end_errors(exact, VPSDE(), (1.0,))[0]) < 1e-12
    values = exact.to_dict()
    values["table"]["state"]["x"][1] *= 1.01
    assert end_errors(Tabulated.from_dict(values), VPSDE(), (1.0,))[0] == pytest.approx(0.01, rel=1e-6)


def test_the_picture_shows_the_order():
    figure = table_figure(sk.solvers.get("dpmpp_2m"), VPSDE(), 20)
    left, right = figure.axes
    assert [line.get_label() for line in left.get_lines()] == ["10 steps", "20 steps", "40 steps"]
    assert all(len(line.get_xdata()) == len(SCALES) for line in left.get_lines())
    (curve,) = right.get_lines()
    counts, errors = np.asarray(curve.get_xdata()), np.asarray(curve.get_ydata())
    assert counts.tolist() == [20, 40, 80, 160, 320]
    assert np.log2(errors[-2] / errors[-1]) == pytest.approx(2, abs=0.1)
    assert right.get_title() == f"last slope {np.log2(errors[-2] / errors[-1]):.2f}"


# sdekit table --------------------------------------------------------------------------------------------------------


def test_the_command_as_a_process_prints_saves_and_draws(tmp_path):
    out, picture = tmp_path / "mine.json", tmp_path / "mine.png"
    arguments = ["dpmpp_2m", "--steps", 4, "--option", "variant=exact", "--out", out, "--plot", picture]
    said, words = process("table", *arguments)
    made = tabulate(sk.solvers.get("dpmpp_2m", variant="exact"), VPSDE(), 4)
    assert said.rstrip("\n") == str(made)
    assert words.splitlines() == [f"wrote {out}", f"wrote {picture}"]
    assert json.loads(out.read_text()) == made.to_dict()
    with Image.open(picture) as image:
        image.verify()
        assert image.width > image.height > 200


def test_the_command_as_json():
    values = json.loads(sdekit("table", "DPM++ 2M Karras", "--sde", "edm", "--steps", 3, "--t-end", 0, "--json"))
    expected = tabulate(sk.solvers.get("dpmpp_2m"), EDMSDE(), 3, "karras", t_end=0.0)
    assert values == expected.to_dict()
    assert Tabulated.from_dict(values).times[-1] == 0.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["scipy:RK45"], "chooses its own steps"),
        (["dpm_adaptive"], "chooses its own steps"),
        (["pc"], "has no table"),
        (["dimm"], "did you mean 'ddim'"),
        (["ddim", "--sde", "vpp"], "unknown SDE"),
        (["ddim", "--grid", "karas"], "did you mean 'karras'"),
        (["ddim", "--steps", "0"], "steps"),
        (["ddim", "--option", "etta=1"], "no option 'etta'"),
    ],
)
def test_mistakes_at_the_command_line(arguments, message):
    err = sdekit("table", *arguments, code=2)
    assert message in err
    assert err.count("\n") == 1


def test_samples_by_a_table_as_a_process(tmp_path):
    path = table("unipc", 6).save(tmp_path / "mine.json")
    arguments = ["sample", "--model", "ring", "--solver", f"table:{path}", "-n", 4, "--seed", 2]
    said = json.loads(process(*arguments, "--out", tmp_path / "a.npz", "--json")[0])
    assert said["results"]["nfe"] == 6
    with np.load(tmp_path / "a.npz") as file:
        assert np.array_equal(file["samples"], sk.sample(ring(), 4, "unipc", 6, seed=2).x.numpy())
    _, words = process(*arguments, "--grid", "karras", "--steps", 6, "--out", tmp_path / "b.npz", code=2)
    assert "this table was made for a grid of 6 steps" in words


def test_a_table_by_name_at_the_command_line_needs_a_file():
    err = sdekit("sample", "--model", "ring", "--solver", "table:nothing.json", code=2)
    assert "there is no file 'nothing.json'" in err


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda d: d["table"]["t"].pop(), "row for each"),
        (lambda d: d["table"]["draw"].pop(), "row for each"),
        (lambda d: d["table"]["state"]["active"].pop(), "row for each"),
        (lambda d: d["table"]["state"].update(m=d["table"]["state"]["m"] * 2), "rows"),
        (lambda d: d["table"]["state"]["x"].__setitem__(0, math.nan), "not finite"),
        (lambda d: d["table"]["state"].update(z=[[1.0]] * len(d["times"][1:])), "draw that no row has made"),
        (lambda d: d["times"].__setitem__(1, 2.0), "not strictly monotone"),
    ],
)
def test_a_table_that_does_not_hang_together_is_refused(edit, says):
    values = table().to_dict()
    edit(values)
    with pytest.raises(ArgumentError, match=says):
        Tabulated.from_dict(values)


def test_a_time_outside_the_sdes_own_is_refused():
    values = table().to_dict()
    values["table"]["t"][1] = 7.0
    with pytest.raises(ArgumentError, match="evaluates = 7"):
        sk.sample(ring(), 2, Tabulated.from_dict(values), seed=0)
