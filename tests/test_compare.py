"""The comparison: counted evaluations, paired starts, intervals and floors, and cells that survive interruptions."""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys
import time
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
import torch

import sdekit as sk
from sdekit.errors import ArgumentError, ShapeError, UnknownNameError, UnsupportedError
from sdekit.experiments.compare import Loop, compare
from sdekit.experiments.fingerprint import fingerprint
from sdekit.experiments.metrics import EnergyDistance, FlowError, MetricValue, MixtureMMD
from sdekit.experiments.statistics import paired_difference
from sdekit.interop.diffusers.score_sde_vp import ScoreSdeVpScheduler

RING = sk.targets.ring()
MODEL = RING.score_model(sk.VPSDE())
SOLVERS = ["euler_maruyama", "heun", "ddim"]


def small(**changes):
    """A comparison of three solvers at two budgets and two seeds; a fraction of a second."""
    settings = {
        "solvers": SOLVERS,
        "nfe": [6, 9],
        "seeds": 2,
        "reference": RING,
        "n": 32,
        "reference_n": 64,
        "flow_steps": 20,
        "floor_repeats": 10,
    } | changes
    models = settings.pop("models", {"ring": MODEL})
    return compare(models, **settings)


def evaluating(function):
    """The function as a loop of `steps` evaluations, which a budget needs."""

    def loop(model, x, steps, seed):
        for _ in range(steps):
            model.score(x, 1.0)
        return function(model, x, steps, seed)

    return Loop(loop)


def numbers(report):
    """What must not depend on when and how the cells were computed: all columns but the time it took."""
    return report.table.drop(columns="seconds"), report.by_seed.drop(columns="seconds")


def assert_same(a, b):
    for mine, its in zip(numbers(a), numbers(b), strict=True):
        pd.testing.assert_frame_equal(mine, its, check_exact=True)


# What is measured ----------------------------------------------------------------------------------------------------


def test_rows_and_counted_evaluations():
    table = small().table
    # Energy distance for three solvers, flow error for the two deterministic ones, two budgets each.
    assert len(table) == 2 * (3 + 2)
    assert set(table[table["metric"] == "flow_error"]["solver"]) == {"heun", "ddim"}
    counted = table.drop_duplicates(["solver", "budget"]).set_index(["solver", "budget"])["nfe"].to_dict()
    assert counted == {
        ("euler_maruyama", 6): 6,
        ("euler_maruyama", 9): 9,
        ("heun", 6): 6,
        ("heun", 9): 8,  # four steps of two; a fifth would go over the budget
        ("ddim", 6): 6,
        ("ddim", 9): 9,
    }
    assert (table["failed"] == 0).all()
    assert (table["seconds"] > 0).all()


def test_every_solver_starts_from_the_draw_of_its_seed():
    """A loop keeps what it was started from; a flow error computed by hand from `sample` is the cell's."""
    started = {}

    def keep(model, x, steps, seed):
        started[seed] = x
        return x

    report = small(solvers=[("keep", evaluating(keep)), "ddim"], nfe=[6], seeds=[3, 8])
    for seed in (3, 8):
        kept = sk.sample(MODEL, 32, "ddim", steps=6, seed=seed, trajectory=True)
        assert torch.equal(started[seed], kept.trajectory[0])
        fine = sk.sample(MODEL, 32, "rk4", steps=20, grid="log_snr", seed=seed)
        expected = FlowError().evaluate(kept.x, fine.x)
        rows = report.by_seed.query("solver == 'ddim' and metric == 'flow_error' and seed == @seed")
        assert rows["value"].item() == expected.value


def test_noise_of_a_stochastic_cell_is_that_of_its_seed():
    class FirstCoordinate(EnergyDistance.__base__):
        name, title, unit, what, needs = "first", "first coordinate", "none", "its mean.", "samples"

        def against(self, reference):
            return lambda x: MetricValue(float(x[:, 0].mean()), None, None, None)

    report = small(solvers=["euler_maruyama"], nfe=[9], metrics=[FirstCoordinate()], seeds=[5])
    expected = sk.sample(MODEL, 32, "euler_maruyama", steps=9, seed=5).x[:, 0].mean()
    assert report.table["value"].item() == float(expected)


def test_adaptive_solvers_run_at_each_tolerance_and_report_what_they_counted():
    report = small(solvers=["scipy:RK45", ("tight", "scipy:RK45", {"rtol": 1e-6})], tolerances=[1e-1, 1e-4])
    rows = report.table[report.table["metric"] == "flow_error"]
    loose, tight = rows[rows["solver"] == "scipy:RK45"].to_dict("records")
    assert math.isnan(loose["budget"])
    assert (loose["tolerance"], tight["tolerance"]) == (1e-1, 1e-4)
    counted = [sk.sample(MODEL, 32, "scipy:RK45", rtol=1e-4, atol=1e-4, seed=s).nfe for s in (0, 1)]
    assert tight["nfe"] == np.mean(counted)
    assert tight["nfe"] > loose["nfe"]
    assert tight["value"] < loose["value"]
    # An entry with its own tolerance runs once.
    assert len(rows[rows["solver"] == "tight"]) == 1


def test_tolerances_with_equal_counts_do_not_break_the_report(tmp_path):
    """1e-4 and 1.0001e-4 take the same steps: both stay in the table, and the page shows one."""
    report = small(solvers=["scipy:RK45", "ddim"], tolerances=[1.0001e-4, 1e-4])
    rows = report.table[report.table["solver"] == "scipy:RK45"]
    assert rows["nfe"].nunique() == 1
    assert len(rows) == 2 * 2
    report.save(tmp_path)
    assert set(report.pareto().query("solver == 'scipy:RK45'")["tolerance"]) <= {1e-4}


def test_a_perfect_sampler_is_at_the_floor_and_a_bad_one_is_not():
    def exact(model, x, steps, seed):
        return RING.sample(len(x), seed=1000 + seed)

    def shifted(model, x, steps, seed):
        return exact(model, x, steps, seed) + 0.5

    loops = [("exact", evaluating(exact)), ("shifted", evaluating(shifted))]
    good, bad = small(solvers=loops, n=200, reference_n=400, nfe=[4]).table.to_dict("records")
    # The shift's energy distance is above 0.1 here, the floor about 0.02 wide: far apart, whatever the seed's luck.
    assert good["low"] <= good["floor_high"]
    assert bad["low"] > bad["floor_high"]
    assert good["floor_low"] < 0 < good["floor_high"]


def test_a_floor_is_the_mean_over_seeds_of_what_exact_draws_score():
    """Over more seeds the mean of an unbiased metric is narrower by the root of their number."""
    one = small(solvers=["ddim"], nfe=[6], seeds=1, floor_repeats=200).table.iloc[0]
    four = small(solvers=["ddim"], nfe=[6], seeds=4, floor_repeats=200).table.iloc[0]
    ratio = (one["floor_high"] - one["floor_low"]) / (four["floor_high"] - four["floor_low"])
    # sqrt(4) = 2; widths of 95 % from 200 values are known to about 10 %, and the law's tail is not Gaussian.
    assert 1.5 < ratio < 2.7


def test_a_metric_with_a_target_of_its_own_needs_no_reference():
    """Then there is nothing to draw exactly, and so no floor; with the reference it has one."""
    metric = MixtureMMD(0.5, RING.weights, RING.means, 0.105**2)
    alone = small(solvers=["euler_maruyama"], nfe=[20], reference=None, metrics=[metric]).table
    beside = small(solvers=["euler_maruyama"], nfe=[20], metrics=[metric]).table
    assert alone["floor_high"].isna().all()
    assert (beside["floor_high"] > 0).all()
    assert alone["value"].tolist() == beside["value"].tolist()


def test_errors_combine_over_seeds_as_independent_ones():
    report = small(seeds=3, metrics=["energy_distance", "sliced_wasserstein"], solvers=["ddim"], nfe=[6])
    energy, sliced = report.table.to_dict("records")
    seeds = report.by_seed[report.by_seed["metric"] == "energy_distance"]
    assert energy["value"] == pytest.approx(seeds["value"].mean(), rel=1e-12)
    error = math.sqrt((seeds["standard_error"] ** 2).sum()) / 3
    assert energy["standard_error"] == pytest.approx(error, rel=1e-12)
    assert energy["high"] - energy["value"] == pytest.approx(1.959964 * error, rel=1e-6)
    # A metric without an error of its own: Student's t with 2 degrees of freedom, 4.302653.
    values = report.by_seed[report.by_seed["metric"] == "sliced_wasserstein"]["value"]
    half = 4.302653 * values.std(ddof=1) / math.sqrt(3)
    assert sliced["high"] - sliced["value"] == pytest.approx(half, rel=1e-6)


def test_one_seed_keeps_the_metrics_own_interval():
    report = small(seeds=1, solvers=["ddim"], nfe=[6], metrics=["flow_error", "sliced_wasserstein"])
    flow, sliced = report.table.to_dict("records")
    mine = report.by_seed.iloc[0]
    assert (flow["low"], flow["high"]) == (mine["low"], mine["high"])
    assert math.isnan(sliced["low"])


def test_differences_are_paired():
    """ddim against itself with another label differs by exactly 0; against heun, as by hand and far better than
    unpaired, because both share their starts and references."""
    report = small(solvers=["ddim", ("twin", "ddim", {}), "heun"], nfe=[10], n=100)
    same = report.difference("ddim", "twin", nfe=10)
    assert (same.value, same.low, same.high) == (0, 0, 0)
    found = report.difference("ddim", "heun", nfe=10, metric="flow_error")
    parts = {"ddim": [], "heun": []}
    for seed in (0, 1):
        fine = sk.sample(MODEL, 100, "rk4", steps=20, grid="log_snr", seed=seed).x
        for name, steps in (("ddim", 10), ("heun", 5)):
            x = sk.sample(MODEL, 100, name, steps=steps, seed=seed).x
            parts[name].append(FlowError().evaluate(x, fine).contributions)
    by_hand = paired_difference(np.concatenate(parts["ddim"]), np.concatenate(parts["heun"]), "median")
    assert found == by_hand
    with pytest.raises(UnknownNameError, match="ddim"):
        report.difference("dim", "heun", nfe=10)
    with pytest.raises(ArgumentError, match="budget of 11"):
        report.difference("ddim", "heun", nfe=11)


def test_pareto_front():
    report = small()
    front = report.pareto()
    flow = front[front["metric"] == "flow_error"]
    rows = report.table[report.table["metric"] == "flow_error"]
    for row in rows.to_dict("records"):
        beaten = ((rows["nfe"] <= row["nfe"]) & (rows["value"] < row["value"])).any() or (
            (rows["nfe"] < row["nfe"]) & (rows["value"] <= row["value"])
        ).any()
        on_front = ((flow["solver"] == row["solver"]) & (flow["budget"] == row["budget"])).any()
        assert on_front == (not beaten)
    assert list(flow["nfe"]) == sorted(flow["nfe"])
    assert set(report.pareto("seconds")["metric"]) == {"energy_distance", "flow_error"}
    with pytest.raises(UnknownNameError):
        report.pareto("money")


def test_a_run_that_fails_is_a_row_and_not_an_error(tmp_path):
    solvers = [("explode", evaluating(lambda model, x, steps, seed: x / 0 if seed == 1 else x)), "ddim"]
    report = small(solvers=solvers, out=tmp_path)
    failed, _, fine, _ = report.table[report.table["metric"] == "energy_distance"].to_dict("records")
    assert math.isnan(failed["value"])
    assert (failed["failed"], fine["failed"]) == (1, 0)
    assert np.isfinite(fine["value"])
    assert "NaN" in report.by_seed.query("solver == 'explode' and seed == 1")["status"].iloc[0]
    with pytest.raises(ArgumentError, match="NaN"):
        report.difference("explode", "ddim", nfe=6)
    again = small(solvers=solvers, out=tmp_path, callback=never)
    assert_same(again, report)
    assert (report.save() / "report.html").read_text().count("failed") > 0


def test_a_network_that_diverges_is_a_failed_row():
    model = sk.ScoreModel(lambda x, t: x * 1e30, sk.VPSDE(), "noise", shape=(2,))
    report = small(models={"ring": model}, solvers=["ddim"], nfe=[6], metrics=["energy_distance"])
    assert report.table["failed"].item() == 2
    assert "non-finite" in report.by_seed["status"].iloc[0]


def test_a_reference_flow_that_is_not_finite_makes_failed_rows(tmp_path):
    # The loop keeps to times at which the network is sound; the flow does not.
    network = sk.ScoreModel(
        lambda x, t: torch.where(t[:, None] < 0.5, math.nan, 0.0) * x, sk.VPSDE(), "noise", shape=(2,)
    )

    def early(model, x, steps, seed):
        return sum(model.denoised(x, 1.0) for _ in range(steps))

    solvers = ["ddim", ("early", Loop(early, stochastic=False))]
    report = small(models={"a": network}, solvers=solvers, nfe=[6], metrics=None, out=tmp_path)
    rows = {(row["solver"], row["metric"]): row for row in report.table.to_dict("records")}
    failed = {key: row["failed"] for key, row in rows.items()}
    assert failed == {
        ("ddim", "energy_distance"): 2,
        ("ddim", "flow_error"): 2,
        ("early", "energy_distance"): 0,
        ("early", "flow_error"): 2,
    }
    assert math.isnan(rows["early", "flow_error"]["value"])
    status = report.by_seed.query("solver == 'early'").set_index("metric")["status"]
    assert set(status["energy_distance"]) == {"success"}
    assert set(status["flow_error"]) == {"the reference flow became non-finite"}
    with pytest.raises(ArgumentError, match="reference flow became non-finite"):
        report.difference("early", "early", nfe=6, metric="flow_error")
    report.save()
    assert_same(small(models={"a": network}, solvers=solvers, nfe=[6], metrics=None, out=tmp_path), report)


def test_numbers_may_come_as_arrays_and_tensors():
    listed = small(solvers=["ddim", "scipy:RK45"], nfe=[6, 9], seeds=[3, 4], tolerances=[0.1, 0.01])
    for kind in (np.array, torch.tensor):
        given = {"nfe": kind([6, 9]), "seeds": kind([3, 4]), "tolerances": kind([0.1, 0.01])}
        table = small(solvers=["ddim", "scipy:RK45"], **given).table
        assert list(table["nfe"]) == list(listed.table["nfe"])
        assert list(table["budget"].dropna()) == list(listed.table["budget"].dropna())


# step_pred -----------------------------------------------------------------------------------------------------------


def test_step_pred_is_the_schedulers_own_arithmetic():
    """Against the formula of the class, in float64: x_new = x - (b x/2 - b eps/std) dt + sqrt(-b dt) z, dt = -1/N."""
    steps, seed = 12, 4
    start = sk.sample(MODEL, 16, "ddim", steps=1, seed=seed, trajectory=True).trajectory[0]
    found = sk.experiments.contenders.step_pred(MODEL.counted(), start, steps, seed)
    generator = torch.Generator().manual_seed(seed)
    x = mean = start.double()
    for t in torch.linspace(1, 1e-3, steps).double():
        beta = 0.1 + 19.9 * t
        std = torch.sqrt(-torch.expm1(-(t**2) * 19.9 / 2 - t * 0.1))
        mean = x + (beta * x / 2 - beta * MODEL.noise(x, t) / std) / steps
        x = mean + torch.sqrt(beta / steps) * torch.randn(x.shape, generator=generator).double()
    # float32 against float64 over 12 steps, the scheduler's std being 1.4e-4 off near t = 0 (its docstring).
    torch.testing.assert_close(found.double(), mean, rtol=2e-3, atol=2e-3)
    assert ScoreSdeVpScheduler().config.sampling_eps == MODEL.sde.t_min


def test_step_pred_stands_in_a_comparison_with_counted_evaluations():
    table = small(solvers=["diffusers:step_pred", "euler_maruyama"]).table
    assert list(table["nfe"]) == [6, 9, 6, 9]
    assert set(table["kind"]) == {"sde"}
    with pytest.raises(UnsupportedError, match="VP SDE"):
        small(models=RING.score_model(sk.EDMSDE()), solvers=["diffusers:step_pred"])


# Files ---------------------------------------------------------------------------------------------------------------


def test_csv_parquet_and_table_hold_the_same_rows(tmp_path):
    report = small()
    folder = report.save(tmp_path / "new" / "folder")
    for name, frame in (("results", report.table), ("by_seed", report.by_seed)):
        parquet = pd.read_parquet(folder / f"{name}.parquet")
        pd.testing.assert_frame_equal(parquet, frame, check_exact=True)
        with (folder / f"{name}.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert list(rows[0]) == list(frame.columns)
        for text, row in zip(rows, frame.to_dict("records"), strict=True):
            for column, value in row.items():
                written = text[column] if isinstance(value, str) else float(text[column] or "nan")
                assert written == value or (math.isnan(value) and math.isnan(written))
    settings = json.loads((folder / "settings.json").read_text())
    assert settings["settings"]["nfe"] == [6, 9]
    assert settings["versions"]["sdekit"] == sk.__version__
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert all(solver in page for solver in SOLVERS)
    for picture in ("error_against_nfe.png", "error_against_nfe.svg", "error_against_seconds.png"):
        assert (folder / picture).stat().st_size > 1000
    # One sheet for each solver and one for the reference.
    assert len(list((folder / "sheets").glob("*.png"))) == 4


def test_sheets_show_the_first_samples_of_the_first_seed():
    target = sk.targets.Gaussian(torch.zeros(1, 4, 4), 0.25)
    model = target.score_model(sk.VPSDE())
    report = small(models=model, reference=target, solvers=["ddim"], seeds=[7, 9])
    captions = list(report.sheets())
    assert captions == ["model: draws of the reference", "model: ddim, 9 NFE"]
    expected = sk.experiments.images.sheet(sk.sample(model, 32, "ddim", steps=9, seed=7).x, 10)
    assert report.sheets()["model: ddim, 9 NFE"].tobytes() == expected.tobytes()


def never(cell):
    raise AssertionError(f"computed anew: {cell}")


@pytest.mark.parametrize("workers", [1, 2])
def test_an_interrupted_comparison_keeps_its_cells_and_goes_on(tmp_path, workers):
    finished = []

    def stop_at_five(done):
        finished.append(done)
        if done.done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        small(out=tmp_path, callback=stop_at_five, workers=workers)
    assert [d.total for d in finished] == [12] * 5

    rest = []
    resumed = small(out=tmp_path, callback=rest.append, workers=workers)
    # Workers may have finished more cells while the interrupt was on its way.
    assert len(rest) <= 12 - 5
    if workers == 1:
        assert len(rest) == 12 - 5
        assert {d.cell for d in finished}.isdisjoint(d.cell for d in rest)
    assert_same(resumed, small())
    assert_same(small(out=tmp_path, callback=never), resumed)


def test_an_interrupt_does_not_wait_for_long_runs(tmp_path):
    """A run of ten seconds is under way in the other thread when it comes: it ends at its next evaluation."""

    def slow(model, x, steps, seed):
        for _ in range(steps if steps > 3 else 0):
            model.score(x, 1.0)
            time.sleep(0.02)
        return x

    def interrupt(done):
        raise KeyboardInterrupt

    solvers = [("slow", evaluating(slow)), "ddim"]
    begin = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        small(solvers=solvers, nfe=[500], seeds=1, metrics=["energy_distance"], workers=2, callback=interrupt)
    assert time.perf_counter() - begin < 8  # 10 for the slow run alone


def test_samples_for_a_sheet_are_made_where_none_were_kept(tmp_path):
    """Only the largest budget's samples are kept; when a smaller one becomes the largest, its first seed runs again."""
    small(out=tmp_path)
    computed = []
    report = small(out=tmp_path, nfe=[6], callback=computed.append)
    assert [(d.cell.solver, d.cell.seed) for d in computed] == [(s, 0) for s in SOLVERS]
    assert list(report.sheets()) == ["ring: draws of the reference", *(f"ring: {s}, 6 NFE" for s in SOLVERS)]


def test_workers_change_no_number():
    assert_same(small(workers=3), small())


def test_only_what_changed_is_computed_again(tmp_path):
    def cells(**changes):
        computed = []
        small(out=tmp_path, callback=lambda done: computed.append((done.cell.solver, done.cell.budget)), **changes)
        return computed

    assert len(cells()) == 12
    assert cells() == []
    assert cells(workers=2, solvers=[("renamed", "heun"), "ddim", "euler_maruyama"]) == []
    # A new budget: its own cells, and for their sheets none of the others.
    assert sorted(cells(nfe=[6, 9, 12])) == [(s, 12) for s in sorted(SOLVERS) for _ in range(2)]
    assert set(cells(solvers=["ddim", ("eta", "ddim", {"eta": 0.5})])) == {("eta", 6), ("eta", 9)}
    assert set(cells(solvers=["ddim", ("g", "ddim", {"grid": "karras"})])) == {("g", 6), ("g", 9)}
    assert len(cells(seeds=3)) == 6
    assert len(cells(n=33)) == 12
    assert len(cells(metrics=["energy_distance"])) == 12 - 4  # stochastic solvers had no other metric
    assert len(cells(reference=sk.targets.ring(std=0.2))) == 12
    assert len(cells(models={"ring": sk.targets.ring(std=0.2).score_model(sk.VPSDE())})) == 12
    assert len(cells(models={"ring": RING.score_model(sk.VPSDE(beta_max=10.0))})) == 12


def test_weights_are_part_of_what_determines_a_cell(tmp_path):
    class Linear(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.tensor(1.0), requires_grad=False)

        def forward(self, x, t):
            return self.weight * x

    network = Linear()
    models = {"linear": sk.ScoreModel(network, sk.VPSDE(), "noise", shape=(2,))}
    small(models=models, out=tmp_path)
    small(models=models, out=tmp_path, callback=never)
    network.weight += 0.01
    computed = []
    small(models=models, out=tmp_path, callback=computed.append)
    assert len(computed) == 12


@pytest.mark.parametrize("damage", ["cut", "flip", "empty"])
def test_a_damaged_cell_is_computed_again(tmp_path, damage):
    report = small(out=tmp_path)
    files = sorted((tmp_path / "cells").glob("*.safetensors"))
    for path in files:
        content = bytearray(path.read_bytes())
        if damage == "cut":
            content = content[: len(content) // 2]
        elif damage == "flip":
            content[-3] ^= 1
        else:
            content = bytearray()
        path.write_bytes(content)
    computed = []
    again = small(out=tmp_path, callback=computed.append)
    assert len(computed) == 12
    assert_same(again, report)


def test_a_folder_that_cannot_be_written_is_refused_before_any_work(tmp_path):
    def network(x, t):
        raise AssertionError("evaluated")

    (tmp_path / "file").write_text("")
    model = sk.ScoreModel(network, sk.VPSDE(), shape=(2,))
    for place in (tmp_path / "file", tmp_path / "file" / "folder"):
        with pytest.raises(ArgumentError, match="cannot write to the folder"):
            small(models={"ring": model}, out=place)
    with pytest.raises(ArgumentError, match="say where to"):
        small(solvers=["ddim"], nfe=[6], seeds=1).save()


# What makes no sense -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"solvers": []}, "solvers is empty"),
        ({"solvers": "ddim"}, r"write \['ddim'\]"),
        ({"solvers": ["dimm"]}, "did you mean 'ddim'"),
        ({"solvers": ["diffusers:step_prd"]}, "did you mean 'diffusers:step_pred'"),
        ({"solvers": ["ddim", "ddim"]}, "given twice"),
        ({"solvers": [("a", "ddim", {"etta": 1})]}, "no option 'etta'"),
        ({"solvers": [("a", sk.solvers.DDIM(), {"eta": 1})]}, "takes no options"),
        ({"solvers": [("a", "ddim", {"grid": [1.0, 0.5, 0.1]})]}, "not a list of times"),
        ({"solvers": [Loop(lambda m, x, n, s: x)]}, "needs a label"),
        ({"solvers": [("idle", Loop(lambda m, x, n, s: x)), "ddim"], "nfe": [6]}, None),
        ({"solvers": [3]}, "a solver is a name"),
        ({"nfe": []}, "nfe must be a list"),
        ({"nfe": [6, 6]}, "twice"),
        ({"nfe": [1]}, "solver 'heun' needs 2 evaluations for one step, more than the budget of 1"),
        ({"seeds": 0}, "seeds must be an integer of at least 1"),
        ({"seeds": [-1]}, "integers of at least 0"),
        ({"seeds": np.array([1, 1])}, "twice"),
        ({"seeds": 1.5}, "seeds must be a list"),
        ({"nfe": np.array([[6]])}, "nfe must be a list"),
        ({"n": 4}, "n must be at least 8"),
        ({"metrics": ["energy"]}, "unknown metric 'energy'"),
        ({"metrics": []}, "metrics is a list"),
        ({"metrics": ["flow_error"]}, "nothing would be measured for solver 'euler_maruyama'"),
        ({"reference": None}, "Give a reference"),
        ({"reference": None, "metrics": ["energy_distance"]}, "needs a reference"),
        ({"reference": {"other": RING}}, "reference is given by model"),
        ({"reference": RING.sample(10, seed=0)}, "must be a target"),
        ({"reference": sk.targets.Gaussian(torch.zeros(3), 1.0)}, "its reference draws"),
        ({"tolerances": [0.0]}, "a tolerance must be"),
        ({"tolerances": 1e-3}, r"write \[0.001\]"),
        ({"solvers": [("a", "scipy:RK45", {"grid": "karras"})]}, "takes no grid"),
        ({"solvers": [("a", "scipy:RK45", {"denoise": "mean"})]}, "adds none"),
        ({"solvers": ["scipy:RK45"], "t_end": 0.0}, "infinite velocity at t = 0"),
        ({"workers": 0}, "workers must be"),
        ({"floor_repeats": 1}, "floor_repeats"),
        ({"models": {}}, "models is empty"),
        ({"models": {"a": RING}}, "maps names to ScoreModels"),
    ],
)
def test_mistakes_are_named(changes, message):
    if message is None:  # a loop that evaluates nothing has no budget
        message = "makes no evaluation a step"
    with pytest.raises((ArgumentError, UnknownNameError, ShapeError), match=message):
        small(**changes)


# Fingerprints --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Box:
    value: object


def test_fingerprints_tell_contents_apart():
    def made(k):
        return lambda x: x * k

    values = [
        0,
        False,
        0.0,
        "0",
        b"0",
        None,
        [0],
        (0,),
        {"a": 0},
        {"b": 0},
        {0},
        torch.zeros(1),
        torch.zeros(1, dtype=torch.float64),
        torch.zeros(1, 1),
        torch.ones(1),
        np.zeros(1),
        Box(0),
        Box(1),
        Box(Box(0)),
        made(1),
        made(2),
        lambda x: x + 1,
        sk.VPSDE(),
        sk.VPSDE(beta_max=10.0),
        sk.VPSDE().log_snr,
        sk.VPSDE(beta_max=10.0).log_snr,
        RING,
        sk.targets.ring(std=0.2),
        MODEL,
        MODEL.with_condition(y=torch.zeros(3)),
        torch.nn.Linear(2, 2),
        torch.nn.Linear(2, 2),  # other random weights
    ]
    digests = [fingerprint(v) for v in values]
    assert len(set(digests)) == len(values)
    assert [fingerprint(v) for v in values] == digests
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint(made(3)) == fingerprint(made(3))
    evaluated = MODEL.counted()
    evaluated.score(torch.zeros(1, 2), 0.5)
    assert fingerprint(evaluated) == fingerprint(MODEL)
    loop = []
    loop.append(loop)
    assert fingerprint(loop) == fingerprint(loop)
    with pytest.raises(ArgumentError, match="out=None"):
        fingerprint(object())


def test_fingerprints_are_equal_in_another_process():
    made = "sk.models.load('digits').with_condition(y=torch.arange(3)), {'c', 'a', 'b'}, sk.solvers.get('pc')"
    code = f"""
import sys, torch, sdekit as sk
from sdekit.experiments.fingerprint import fingerprint
print(fingerprint([{made}, sk.targets.moons().log_prob]))
"""
    here = fingerprint(
        [
            sk.models.load("digits").with_condition(y=torch.arange(3)),
            {"c", "a", "b"},
            sk.solvers.get("pc"),
            sk.targets.moons().log_prob,
        ]
    )
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert there.stdout.strip() == here
