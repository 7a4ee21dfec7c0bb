"""Long likelihood runs: one table whatever the blocks and the interruptions; nothing that was done is lost."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from _helpers import label
from torch import Tensor

import sdekit as sk
from sdekit.errors import ArgumentError, NonFiniteError, ShapeError
from sdekit.experiments import likelihood_run as module
from sdekit.experiments.likelihood_run import likelihood_run, likelihood_table
from sdekit.targets import ring

VP = sk.VPSDE()


class Network:
    """An exact network that counts its calls, and may be made to fail."""

    def __init__(self, fail_at: int | None = None) -> None:
        self._network = ring().score_model(VP).network
        self._fail_at = fail_at
        self.calls = 0

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        self.calls += 1
        if self._fail_at is not None and self.calls > self._fail_at:
            raise KeyboardInterrupt
        return self._network(x, t)

    def __getstate__(self) -> dict[str, object]:
        return {"network": self._network}  # what determines the numbers


def model(network: Network | None = None) -> sk.ScoreModel:
    return sk.ScoreModel(network or Network(), VP, "v", data_std=1.0, shape=(2,))


def data(n: int = 20) -> Tensor:
    return ring().marginal(VP, VP.t_min).sample(n, seed=1)


SETTINGS = {"steps": 12, "divergence": "hutchinson", "probes": 2}


def test_rows_are_what_log_likelihood_gives(tmp_path: Path) -> None:
    x = data()
    run = likelihood_run(model(), x, tmp_path / "a.parquet", block=7, seed=3, **SETTINGS)
    whole = sk.log_likelihood(model(), x, seed=3, **SETTINGS)
    pd.testing.assert_frame_equal(run.table, likelihood_table(whole), check_exact=True)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "a.parquet"), run.table, check_exact=True)
    assert run.table["sample"].tolist() == list(range(20))
    np.testing.assert_array_equal(run.table["total_error"], whole.budget.total.numpy())
    assert set(run.table["status"]) == {"success"}
    assert (run.table["nfe"] == whole.nfe).all()
    assert run.reused == 0
    assert not (tmp_path / "a.parquet.parts").exists()


def test_an_interrupted_run_goes_on_and_ends_in_the_same_table(tmp_path: Path) -> None:
    x, out = data(), tmp_path / "a.parquet"
    dying = Network(fail_at=30)  # 14 evaluations a block: two blocks are done, the third is not
    with pytest.raises(KeyboardInterrupt):
        likelihood_run(model(dying), x, out, block=5, **SETTINGS)
    assert not out.exists()
    assert len(list((tmp_path / "a.parquet.parts").iterdir())) == 2
    network = Network()
    again = likelihood_run(model(network), x, out, block=4, **SETTINGS)  # another block size will do
    assert again.reused == 10
    assert network.calls == 3 * 14  # 10 samples are left: 4, 4 and 2
    expected = likelihood_run(model(), x, tmp_path / "b.parquet", block=20, **SETTINGS)
    pd.testing.assert_frame_equal(again.table, expected.table, check_exact=True)
    finished = Network()
    third = likelihood_run(model(finished), x, out, **SETTINGS)
    assert (finished.calls, third.reused) == (0, 20)


def test_a_part_that_is_not_whole_is_made_again(tmp_path: Path) -> None:
    x, out = data(), tmp_path / "a.parquet"
    with pytest.raises(KeyboardInterrupt):
        likelihood_run(model(Network(fail_at=30)), x, out, block=5, **SETTINGS)
    part = sorted((tmp_path / "a.parquet.parts").iterdir())[0]
    part.write_bytes(part.read_bytes()[:200])
    again = likelihood_run(model(), x, out, block=5, **SETTINGS)
    assert again.reused == 5
    expected = likelihood_run(model(), x, tmp_path / "b.parquet", **SETTINGS)
    pd.testing.assert_frame_equal(again.table, expected.table, check_exact=True)


def test_other_settings_data_or_models_find_nothing_and_overwrite_nothing(tmp_path: Path) -> None:
    x, out = data(), tmp_path / "a.parquet"
    likelihood_run(model(), x, out, **SETTINGS)
    before = out.read_bytes()
    for other, values, settings in (
        (model(), x, {**SETTINGS, "steps": 13}),
        (model(), x + 1, SETTINGS),
        (ring(9).score_model(VP), x, SETTINGS),
        (model(), x, {**SETTINGS, "seed": 4}),
    ):
        with pytest.raises(ArgumentError, match="something else"):
            likelihood_run(other, values, out, **settings)
    out_of_place = tmp_path / "c.parquet"
    out_of_place.write_text("no table")
    with pytest.raises(ArgumentError, match="something else"):
        likelihood_run(model(), x, out_of_place, **SETTINGS)
    assert out.read_bytes() == before


def test_a_sample_that_becomes_non_finite_leaves_the_others(tmp_path: Path) -> None:
    x = data(9)
    x[4] = 1e30

    def network(y: Tensor, t: Tensor) -> Tensor:
        return torch.where(y.abs() > 1e20, math.inf, 0.1 * y)

    bad = sk.ScoreModel(network, VP, "v", data_std=1.0)
    run = likelihood_run(bad, x, tmp_path / "a.parquet", block=6, **SETTINGS)
    assert run.table["sample"].tolist() == list(range(9))
    assert run.table["status"][4].startswith("non-finite at t = ")
    assert math.isnan(run.table["log_prob"][4])
    kept = [i for i in range(9) if i != 4]
    assert run.table["log_prob"][kept].notna().all()
    alone = sk.log_likelihood(bad, x[8:], first=8, **SETTINGS)
    assert float(alone.log_prob) == run.table["log_prob"][8]


def test_a_sample_that_holds_no_number_leaves_the_others(tmp_path: Path) -> None:
    x = data(7)
    x[0, 1], x[5, 0] = math.nan, math.inf
    run = likelihood_run(model(), x, tmp_path / "a.parquet", block=3, **SETTINGS)
    good = [1, 2, 3, 4, 6]
    assert run.table["status"].tolist() == ["success" if i in good else "non-finite data" for i in range(7)]
    assert float(sk.log_likelihood(model(), x[6:], first=6, **SETTINGS).log_prob) == run.table["log_prob"][6]
    whole = likelihood_run(model(), data(7), None, **SETTINGS)
    assert list(run.table) == list(whole.table)
    np.testing.assert_array_equal(run.table["log_prob"][good], whole.table["log_prob"][good])
    none = likelihood_run(model(), torch.full((2, 2), math.nan), tmp_path / "b.parquet", **SETTINGS)
    assert {"std_error", "nfe", "kind"} <= set(none.table)
    assert none.table["nfe"].isna().all()


def test_an_error_that_names_no_sample_is_found_one_by_one() -> None:
    x = data(5)
    x[3] = 7.0

    def function(model: sk.ScoreModel, x: Tensor, **arguments: object) -> sk.LogLikelihood:
        if bool((x == 7.0).any()):
            raise NonFiniteError("adams", 1, 0.5, [])
        return sk.log_likelihood(model, x, **arguments)

    run = likelihood_run(model(), x, None, function=function, block=4, **SETTINGS)
    assert run.table["status"].tolist() == ["success"] * 3 + ["non-finite at t = 0.5", "success"]


def test_data_is_read_by_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Of a memory-mapped array, which may be larger than memory: neither a digest nor a block takes the whole.
    largest = []
    whole = module.fingerprint

    def measured(value: object) -> str:
        largest.append(value.numel() if isinstance(value, Tensor) else 0)
        return whole(value)

    monkeypatch.setattr(module, "_AT_ONCE", 8)
    monkeypatch.setattr(module, "fingerprint", measured)
    x = data(9)
    likelihood_run(model(), x, tmp_path / "a.parquet", block=4, **SETTINGS)
    assert max(largest) == 8
    x[8, 1] += 0.5  # in the last part
    with pytest.raises(ArgumentError, match="something else"):
        likelihood_run(model(), x, tmp_path / "a.parquet", block=4, **SETTINGS)


def test_a_tolerance_that_is_not_met_is_said_row_by_row(tmp_path: Path) -> None:
    run = likelihood_run(
        model(), data(6), tmp_path / "a.parquet", divergence="exact", tolerance=1e-3, max_nfe=80, block=4
    )
    assert set(run.table["status"]) <= {"success", "max_nfe"}
    assert ((run.table["status"] == "success") == run.table["met"]).all()
    assert (run.table["total_error"][run.table["met"]] <= 1e-3).all()
    assert not run.table["met"].all()  # 24 and 48 steps do not do it for all of them


def test_conditions_are_cut_with_the_blocks(tmp_path: Path) -> None:
    base = ring().score_model(VP).network

    def network(y: Tensor, t: Tensor, scale: Tensor) -> Tensor:
        return scale[:, None] * base(y, t)

    scale = torch.linspace(0.8, 1.0, 7)
    conditional = sk.ScoreModel(network, VP, "v", data_std=1.0)
    run = likelihood_run(conditional, data(7), tmp_path / "a.parquet", block=3, condition={"scale": scale}, **SETTINGS)
    whole = sk.log_likelihood(conditional, data(7), condition={"scale": scale}, **SETTINGS)
    np.testing.assert_array_equal(run.table["log_prob"], whole.log_prob.numpy())


@pytest.mark.parametrize(
    ("out", "arguments", "error", "words"),
    [
        ("a.csv", {}, ArgumentError, "parquet"),
        ("", {}, ArgumentError, "parquet"),
        ("a.parquet", {"block": 0}, ArgumentError, "block"),
        ("a.parquet", {"seeds": [1]}, ArgumentError, "leave seeds out"),
        ("a.parquet", {"first": 3}, ArgumentError, "leave first out"),
        ("a.parquet", {"condition": 3}, ArgumentError, "condition"),
        ("a.parquet", {"x": torch.zeros(0, 2)}, ShapeError, "one or more"),
        ("a.parquet", {"solver": "nonsense"}, ArgumentError, "nonsense"),
    ],
    ids=label,
)
def test_arguments_that_make_no_sense(tmp_path: Path, out: str, arguments, error, words: str) -> None:
    network = Network()
    x = arguments.get("x", data(3))
    rest = {name: value for name, value in arguments.items() if name != "x"}
    with pytest.raises(error, match=words):
        likelihood_run(model(network), x, tmp_path / out, **{**SETTINGS, **rest})
    assert network.calls == 0
