"""The command line: what it prints, what it writes, how it fails, and a comparison killed in the middle."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from typer.testing import CliRunner

import sdekit as sk
from sdekit.cli.main import app
from sdekit.cli.output import options


@pytest.fixture(autouse=True)
def one_thread():
    """The commands set torch's threads, as a process of their own may."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def sdekit(*arguments, code=0):
    """Run a command in this process: its output and error streams."""
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.stdout + result.stderr
    return result.stdout, result.stderr


def process(*arguments):
    """The command line of a process of its own."""
    return [sys.executable, "-m", "sdekit", *(str(a) for a in arguments)]


def run(*arguments, code=0):
    """Run a command as a process, its streams being pipes."""
    done = subprocess.run(process(*arguments), capture_output=True, text=True, timeout=120)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout, done.stderr


# solvers -------------------------------------------------------------------------------------------------------------


def test_solvers_as_json_lists_every_name():
    out, err = run("solvers", "--json")
    rows = json.loads(out)
    assert [row["name"] for row in rows] == sk.solvers.names()
    assert all(row["reference"] and row["summary"] for row in rows)
    assert err == ""


def test_solvers_as_a_table():
    out, _ = sdekit("solvers")
    assert all(name in out for name in sk.solvers.names())
    assert "strong 0.5, weak 1" in out


@pytest.mark.parametrize("command", [[], ["solvers"], ["sample"], ["likelihood"], ["compare"], ["train"]])
def test_help(command):
    out, _ = sdekit(*command, "--help")
    assert "Usage" in out


def test_version():
    assert sdekit("--version")[0] == f"sdekit {sk.__version__}\n"


# sample --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["png", "npz", "safetensors"])
def test_samples_are_those_of_the_api_and_reproducible(tmp_path, ending):
    arguments = ["--model", "ring", "--solver", "ddim", "--option", "eta=0.5", "--steps", 7, "--seed", 3, "-n", 12]
    paths = [tmp_path / f"{name}.{ending}" for name in "ab"]
    for path in paths:
        sdekit("sample", *arguments, "--grid", "karras", "--out", path)
    assert paths[0].read_bytes() == paths[1].read_bytes()

    model = sk.targets.ring().score_model(sk.VPSDE())
    x = sk.sample(model, 12, "ddim", steps=7, seed=3, grid="karras", eta=0.5).x
    if ending == "npz":
        with np.load(paths[0]) as file:
            assert np.array_equal(file["samples"], x.numpy())
    elif ending == "safetensors":
        with safe_open(paths[0], "pt") as file:
            assert torch.equal(file.get_tensor("samples"), x)
            assert json.loads(file.metadata()["sdekit"])["settings"]["seed"] == 3
    else:
        with Image.open(paths[0]) as image:
            assert json.loads(image.text["sdekit"])["settings"]["seed"] == 3

    beside = json.loads((tmp_path / f"a.{ending}.json").read_text())
    settings = beside["settings"]
    assert (settings["seed"], settings["solver"], settings["grid"]) == (3, "ddim", "karras")
    assert (settings["steps"], settings["options"], settings["n"]) == (7, {"eta": 0.5}, 12)
    assert settings["threads"] == 1
    assert settings["sde"] == {"type": "VPSDE", "beta_min": 0.1, "beta_max": 20.0, "t_min": 1e-3}
    assert beside["versions"]["sdekit"] == sk.__version__
    assert beside["results"]["nfe"] == 7
    assert beside["created"].endswith("+00:00")


def test_digits_by_label_into_a_folder(tmp_path):
    out = tmp_path / "new" / "folder"
    arguments = ["--model", "digits", "--steps", 4, "-n", 20, "--label", "each", "--denoise", "--t-end", 0.01]
    words, _ = sdekit("sample", *arguments, "--chunk", 7, "--out", out, "--json")
    assert sorted(p.name for p in out.iterdir()) == [
        "samples.npz",
        "samples.npz.json",
        "samples.png",
        "samples.png.json",
    ]
    said = json.loads(words)
    assert said["results"]["nfe"] == 5  # four steps and the denoised end
    with np.load(out / "samples.npz") as file:
        assert file["labels"].tolist() == list(range(10)) * 2
        labels = torch.arange(20) % 10
        x = sk.sample(
            sk.models.load("digits"),
            20,
            "ddim",
            steps=4,
            seed=0,
            denoise=True,
            t_end=0.01,
            condition={"y": labels},
        ).x
        # A network's rounding may differ between a chunk and the whole batch.
        assert np.allclose(file["samples"], x.numpy(), atol=1e-4)
    # Ten digits a row, two rows, 48 pixels and 2 between.
    with Image.open(out / "samples.png") as image:
        assert image.size == (10 * 50 + 2, 2 * 50 + 2)


def test_a_picture_that_holds_not_all_says_so(tmp_path):
    words, _ = sdekit("sample", "--steps", 1, "-n", 1025, "--out", tmp_path / "a.png")
    assert words.endswith("a.png.json; the picture shows the first 1024\n")
    assert json.loads((tmp_path / "a.png.json").read_text())["results"]["in_picture"] == 1024
    words, _ = sdekit("sample", "--model", "ring", "--steps", 1, "-n", 1025, "--out", tmp_path / "b.png")
    assert words.endswith("b.png.json\n")  # points are all shown


def test_adaptive_solvers_take_tolerances_and_another_sde(tmp_path):
    out = tmp_path / "a.npz"
    arguments = ["--model", "moons", "--sde", "edm", "--solver", "scipy:RK45", "--option", "rtol=1e-3", "-n", 8]
    said = json.loads(sdekit("sample", *arguments, "--out", out, "--json")[0])
    assert said["settings"]["options"]["rtol"] == 1e-3
    assert said["settings"]["steps"] is None
    assert said["results"]["nfe"] > 10


def test_a_run_that_ends_early_says_so(tmp_path):
    arguments = ["--model", "ring", "--solver", "scipy:RK45", "--option", "max_nfe=10", "-n", 8]
    _, err = sdekit("sample", *arguments, "--out", tmp_path / "a.npz", code=1)
    assert "max_nfe" in err


# likelihood ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["csv", "parquet", "json"])
def test_likelihood_of_an_exact_target(tmp_path, ending):
    out = tmp_path / f"ll.{ending}"
    arguments = ["--model", "ring", "-n", 20, "--solver", "rk4", "--steps", 80, "--divergence", "exact"]
    words, _ = sdekit("likelihood", *arguments, "--seed", 5, "--out", out)
    table = {"csv": pd.read_csv, "parquet": pd.read_parquet, "json": pd.read_json}[ending](out)
    assert len(table) == 20
    # RK4 with 320 evaluations, at t_min instead of 0: a few thousandths of a nat, the truncation's first order known.
    corrected = table["log_prob"] - table["truncation_error"]
    assert np.allclose(corrected, table["exact_log_prob"], atol=0.02)
    ring = sk.targets.ring()
    assert np.allclose(table["exact_log_prob"], ring.log_prob(ring.sample(20, seed=5)).numpy(), atol=1e-12)
    assert f"{table['log_prob'].mean():.4f} ± {table['log_prob'].std() / math.sqrt(20):.4f}" in words
    beside = json.loads((tmp_path / f"ll.{ending}.json").read_text())
    assert beside["settings"]["steps"] == 80
    assert (beside["settings"]["integration_error"], beside["settings"]["threads"]) == (False, 1)
    assert beside["results"]["nfe"] == {"mean": 322, "largest": 322}  # one at the end, one for the prior
    assert beside["results"]["kind"] == "exact"
    assert (table["nfe"] == 322).all()
    assert np.allclose(table["log_prob_0"], corrected, atol=1e-12)


def test_likelihood_takes_the_divergence_that_the_api_does():
    arguments = ["likelihood", "--model", "ring", "-n", 2, "--steps", 3, "--json"]
    for given, found in (
        ([], "Exact"),
        (["--probes", 2], "Hutchinson"),
        (["--divergence", "hutchinson"], "Hutchinson"),
    ):
        said = json.loads(sdekit(*arguments, *given)[0])
        assert said["settings"]["divergence"].startswith(found)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("bad.npz", b"PK\x03\x04garbage"),
        ("empty.npz", b""),
        ("bad.safetensors", b"garbage"),
        ("empty.safetensors", b""),
        ("text.npz", np.array(["a", "b"])),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_likelihood_of_a_file_that_is_none(tmp_path, name, content):
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.savez(path, samples=content)
    _, err = sdekit("likelihood", "--model", "ring", "--data", path, code=2)
    assert err.startswith(f"sdekit: {str(path)!r} ")
    assert err.count("\n") == 1


def test_likelihood_of_a_file_in_bits_per_dim(tmp_path):
    x = sk.targets.ring().sample(6, seed=1)
    np.savez(tmp_path / "data.npz", x.numpy())
    arguments = ["--model", "ring", "--data", tmp_path / "data.npz", "-n", 5, "--probes", 2, "--steps", 10]
    said = json.loads(sdekit("likelihood", *arguments, "--data-range", "-3,3", "--levels", 12, "--json")[0])["results"]
    expected = sk.log_likelihood(
        sk.targets.ring().score_model(sk.VPSDE()), x[:5], steps=10, divergence="hutchinson", probes=2, seed=0
    )
    assert said["log_prob"]["mean"] == pytest.approx(float(expected.log_prob.mean()), rel=1e-12)
    # -log2 p/d - log2 w with w = 6/12.
    bits = -float(expected.log_prob.mean()) / (2 * math.log(2)) + 1
    assert said["bits_per_dim"]["mean"] == pytest.approx(bits, rel=1e-12)
    assert said["errors"]["std_error"]["largest"] > 0


def test_likelihood_of_a_file_larger_than_memory(tmp_path):
    x = sk.targets.ring().sample(3, seed=1)
    with (tmp_path / "data.npy").open("wb") as file:
        shape = (2**38, 2)  # 2 TiB of which 24 bytes are written
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
        file.write(x.numpy().tobytes())
        try:
            file.truncate(file.tell() + 2**41 - 24)
        except OSError as error:
            pytest.skip(f"no sparse files here: {error}")
    arguments = ["likelihood", "--model", "ring", "--data", tmp_path / "data.npy", "-n", 3, "--steps", 5, "--json"]
    said = json.loads(sdekit(*arguments)[0])["results"]
    expected = sk.log_likelihood(sk.targets.ring().score_model(sk.VPSDE()), x, steps=5)
    assert said["log_prob"]["mean"] == pytest.approx(float(expected.log_prob.mean()), rel=1e-12)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", ">i4", "int64"])
def test_likelihood_of_levels_in_a_file(tmp_path, dtype):
    levels = np.array([[2, 9], [3, 3]])
    np.save(tmp_path / "data.npy", levels.astype(dtype))
    bins = ["--data-range", "-3,3", "--levels", 12, "--dequantisation", "uniform"]
    said = json.loads(
        sdekit("likelihood", "--model", "ring", "--data", tmp_path / "data.npy", *bins, "--steps", 8, "--json")[0]
    )["results"]
    expected = sk.discrete_log_likelihood(
        sk.targets.ring().score_model(sk.VPSDE()),
        torch.from_numpy(levels),
        levels=12,
        data_range=(-3.0, 3.0),
        steps=8,
    )
    assert said["log_prob"]["mean"] == pytest.approx(float(expected.log_prob.mean()), rel=1e-12)


def test_likelihood_of_samples_that_have_none(tmp_path):
    np.save(tmp_path / "data.npy", np.full((2, 2), np.nan))
    arguments = ["likelihood", "--model", "ring", "--data", tmp_path / "data.npy"]
    out, err = sdekit(*arguments, "--json", code=1)
    said = json.loads(out)["results"]
    assert (said["samples"], said["without_success"], said["nfe"]) == (2, 2, None)
    assert "2 of 2 samples are without success" in err
    assert "Traceback" not in sdekit(*arguments, code=1)[1]


def test_likelihood_to_a_tolerance_and_by_other_estimators(tmp_path):
    ring = ["likelihood", "--model", "ring", "-n", 6, "--json"]
    met = json.loads(sdekit(*ring, "--tolerance", 0.01, "--unit", "bits/dim")[0])["results"]
    assert met["errors"]["total_error"]["largest"] <= 0.01 * 2 * math.log(2)
    assert met["without_success"] == 0
    out, err = sdekit(*ring, "--tolerance", 1e-9, "--max-nfe", 60, code=1)
    assert json.loads(out)["results"]["without_success"] == 6
    assert "6 of 6 samples are without success" in err
    said = {name: json.loads(sdekit(*ring, "--estimator", name)[0])["results"] for name in ("ito", "elbo")}
    assert {name: results["kind"] for name, results in said.items()} == {"ito": "approximate", "elbo": "bound"}
    for results in said.values():  # no trace, so no truncation, and nothing to correct for it
        assert "log_prob_0" not in results
        assert "truncation_error" not in results["errors"]


def test_likelihood_bounds_the_truncation():
    ring = ["likelihood", "--model", "ring", "-n", 6, "--steps", 58, "--json", "--truncation", "decoder"]
    said = json.loads(sdekit(*ring)[0])["results"]
    assert said["nfe"]["mean"] == 3 * 60 + 2
    assert said["log_prob_0"]["mean"] == pytest.approx(said["exact_log_prob"]["mean"], abs=1e-3)


def test_help_of_likelihood_says_what_is_not_given():
    out, _ = sdekit("likelihood", "--help")
    assert out.count("default:") > 12  # brackets would be taken for markup, and left out


def test_likelihood_of_discrete_data(tmp_path):
    bins = ["--data-range", "-1.0625,1.0625", "--levels", 17, "--dequantisation", "truncated_normal", "--samples", 2]
    arguments = ["likelihood", "-n", 3, "--steps", 6, "--probes", 1, *bins]
    said = json.loads(sdekit(*arguments, "--json", "--out", tmp_path / "a.parquet")[0])
    assert said["results"]["kind"] == "bound"
    table = pd.read_parquet(tmp_path / "a.parquet")
    assert np.allclose(table["bits_per_dim"], -table["log_prob"] / (64 * math.log(2)))
    assert said["results"]["bits_per_dim"]["mean"] == pytest.approx(table["bits_per_dim"].mean())
    assert (table["effective_samples"] >= 1).all()
    assert said["settings"]["samples"] == 2


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_likelihood_interrupted_goes_on_with_the_same_command(tmp_path):
    x = sk.targets.ring().sample(400, seed=1)
    np.save(tmp_path / "data.npy", x.numpy())
    out = tmp_path / "ll.parquet"
    arguments = ["likelihood", "--model", "ring", "--data", tmp_path / "data.npy", "--block", 8, "--steps", 200]
    child = subprocess.Popen(
        process(*arguments, "--out", out),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    parts = tmp_path / "ll.parquet.parts"
    deadline = time.monotonic() + 100
    while time.monotonic() < deadline and len(list(parts.glob("*.parquet"))) < 3 and child.poll() is None:
        time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 130
    assert "run the same command again to go on" in err
    assert "Traceback" not in err
    assert not out.exists()
    kept = len(list(parts.glob("*.parquet")))
    _, err = sdekit(*arguments, "--out", out)
    assert f"{8 * kept} of 400 samples were done before" in err
    assert not parts.exists()
    table = pd.read_parquet(out)
    expected = sk.log_likelihood(sk.targets.ring().score_model(sk.VPSDE()), x, steps=200)
    assert table["sample"].tolist() == list(range(400))
    assert np.array_equal(table["log_prob"], expected.log_prob.numpy())


def test_likelihood_of_samples_that_sample_wrote(tmp_path):
    sdekit("sample", "--model", "digits", "-n", 2, "--steps", 3, "--label", 7, "--out", tmp_path / "a.safetensors")
    arguments = ["--data", tmp_path / "a.safetensors", "--steps", 2, "--probes", 1, "--label", 7]
    said = json.loads(sdekit("likelihood", *arguments, "--json")[0])
    assert math.isfinite(said["results"]["log_prob"]["mean"])
    held_out = json.loads(sdekit("likelihood", "-n", 2, "--steps", 2, "--probes", 1, "--json")[0])
    assert held_out["settings"]["data"] == "held-out"


# compare -------------------------------------------------------------------------------------------------------------

TINY = ["--models", "ring,moons", "--solvers", "ddim,diffusers:step_pred", "--nfe", "5,10", "--seeds", 1, "-n", 64]
TINY += ["--metrics", "energy_distance"]


def test_compare_writes_its_folder_and_prints_its_rows(tmp_path):
    out, err = sdekit("compare", *TINY, "--out", tmp_path)
    assert "moons: energy distance" in out
    assert "ring: energy distance" in out
    assert "diffusers:step_pred" in out
    assert "noise floor" in out
    assert "report.html" in err
    expected = {"report.html", "results.csv", "results.parquet", "settings.json", "error_against_nfe.png", "sheets"}
    assert expected <= {p.name for p in tmp_path.iterdir()}
    # Again: nothing is computed, and the rows as JSON are those of the file.
    cells = {p: p.stat().st_mtime_ns for p in (tmp_path / "cells").iterdir()}
    rows = json.loads(sdekit("compare", *TINY, "--out", tmp_path, "--json")[0])
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "cells").iterdir()} == cells
    frame = pd.read_parquet(tmp_path / "results.parquet")
    assert [row["value"] for row in rows] == frame["value"].tolist()
    assert {row["tolerance"] for row in rows} == {None}
    assert set(frame["metric"]) == {"energy_distance"}
    note = json.loads((tmp_path / "settings.json").read_text())["settings"]
    assert note["seeds"] == [0]


def test_compare_measures_networks_against_real_digits(tmp_path):
    arguments = ["--models", "digits", "--solvers", "ddim,heun", "--nfe", "4,6", "--seeds", 2, "--seed", 4, "-n", 8]
    sdekit("compare", *arguments, "--out", tmp_path)
    settings = json.loads((tmp_path / "settings.json").read_text())["settings"]
    assert settings["seeds"] == [4, 5]
    assert settings["models"]["digits"]["condition"] == []
    assert "run without a class" in settings["note"]
    assert "1797 digits" in settings["note"]


SLOW = ["--models", "digits:exact", "--solvers", "ddim,heun,ancestral", "--nfe", "40,240", "--seeds", 2, "-n", 300]


def started(folder, enough):
    """A comparison in a process of its own, once it has kept so many cells."""
    arguments = process("compare", *SLOW, "--workers", 1, "--out", folder)
    # A runner in the background has SIGINT ignored, and its children inherit that: give the child its own again.
    child = subprocess.Popen(
        arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 100
    while time.monotonic() < deadline and child.poll() is None:
        if len(list(folder.glob("cells/*.safetensors"))) >= enough:
            return child
        time.sleep(0.01)
    child.kill()
    raise AssertionError(f"the comparison ended or hung: {child.communicate()}")


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_compare_interrupted_and_killed_goes_on_with_the_same_command(tmp_path):
    # Six files come before the cells: two floors for each of two seeds, and two reference flows.
    child = started(tmp_path, enough=8)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 130
    assert "The same command goes on from there." in err
    assert "Traceback" not in err
    kept = {p: p.read_bytes() for p in tmp_path.glob("cells/*.safetensors")}
    assert not (tmp_path / "report.html").exists()

    child = started(tmp_path, enough=len(kept) + 2)
    child.kill()
    child.communicate(timeout=60)
    after = {p: p.read_bytes() for p in tmp_path.glob("cells/*.safetensors")}
    assert len(after) > len(kept)

    sdekit("compare", *SLOW, "--workers", 1, "--out", tmp_path)
    # What was kept was read and not written anew.
    final = {p: p.read_bytes() for p in tmp_path.glob("cells/*.safetensors")}
    assert all(final[p] == content for p, content in after.items())
    target = sk.targets.digits()
    undisturbed = sk.compare(
        {"digits:exact": target.score_model(sk.VPSDE())},
        solvers=["ddim", "heun", "ancestral"],
        nfe=[40, 240],
        seeds=2,
        reference=target,
        metrics=["energy_distance", "flow_error", "log_density_gap"],
        n=300,
    ).table
    found = pd.read_parquet(tmp_path / "results.parquet")
    pd.testing.assert_frame_equal(found.drop(columns="seconds"), undisturbed.drop(columns="seconds"), check_exact=True)


# train ---------------------------------------------------------------------------------------------------------------


def test_train_resume_and_use(tmp_path):
    folder = tmp_path / "model"
    tiny = ["train", "digits", "--out", folder, "--steps", 2, "--batch-size", 8, "--recognised", 4]
    said = json.loads(sdekit(*tiny, "--json")[0])
    assert said["results"]["generated_recognised"] in (0, 0.25, 0.5, 0.75, 1)
    weights = (folder / "digits.safetensors").read_bytes()
    _, err = sdekit(*tiny, code=2)
    assert err.startswith("sdekit: ")
    sdekit(*tiny, "--resume")
    assert (folder / "digits.safetensors").read_bytes() == weights
    arguments = ["--model", folder, "--steps", 2, "-n", 2, "--out", tmp_path / "a.npz"]
    sdekit("sample", *arguments)
    _, err = sdekit("compare", "--models", folder, "--out", tmp_path / "c", code=2)
    assert "--reference" in err


def test_train_interrupted_is_kept_with_its_threads(tmp_path, monkeypatch):
    from sdekit.training import digits

    calls, original = [], digits.score_matching_loss

    def loss(*args, **kwargs):
        calls.append(torch.get_num_threads())
        if len(calls) == 2:
            signal.raise_signal(signal.SIGINT)
        return original(*args, **kwargs)

    monkeypatch.setattr(digits, "score_matching_loss", loss)
    tiny = ["train", "digits", "--steps", 4, "--batch-size", 8, "--recognised", 4, "--out", tmp_path]
    threads = torch.get_num_threads()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a runner in the background ignores it
    try:
        _, err = sdekit(*tiny, "--threads", 2, code=130)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert calls == [2, 2]  # the step at hand was finished, and no other begun
    assert torch.get_num_threads() == threads
    assert (
        err
        == f"sdekit: interrupted; the run is kept in {tmp_path}. The same command with --resume goes on from there.\n"
    )
    _, err = sdekit(*tiny, "--resume", code=2)
    assert "threads (was 2, now 1)" in err
    assert len(calls) == 2


# Mistakes ------------------------------------------------------------------------------------------------------------


def test_an_error_of_a_process_is_one_line_and_code_2(tmp_path):
    out, err = run("sample", "--solver", "dimm", "--out", tmp_path / "a.png", code=2)
    assert out == ""
    assert err.startswith("sdekit: unknown solver 'dimm'; did you mean 'ddim'?")
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sample", "--out", "a.jpg"], ".png, .npz, .safetensors"),
        (["sample", "--model", "digts"], "did you mean 'digits'"),
        (["sample", "--model", "digits", "--sde", "ve"], "trained under"),
        (["sample", "--model", "ring", "--sde", "vee"], "unknown SDE"),
        (["sample", "--model", "ring", "--label", "3"], "no classes"),
        (["sample", "--label", "10"], "from 0 to 9"),
        (["sample", "--option", "eta"], "key=value"),
        (["sample", "--option", "eta=0", "--option", "eta=1"], "given twice"),
        (["sample", "--option", "etta=1"], "no option 'etta'"),
        (["sample", "--solver", "scipy:RK45", "--steps", "3"], "takes no steps"),
        (["sample", "--grid", "karas"], "did you mean 'karras'"),
        (["sample", "-n", "0"], "at least 1"),
        (["sample", "--threads", "0"], "--threads"),
        (["likelihood", "--levels", "17"], "both --data-range"),
        (["likelihood", "--data-range", "-1", "--levels", "17"], "two numbers"),
        (["likelihood", "--data", "nothing.npz", "--data-range", "1,-1", "--levels", "17"], "low < high"),
        (["likelihood", "--data", "nothing.npz", "--data-range", "-1,1", "--levels", "0"], "levels must be"),
        (["likelihood", "--samples", "3"], "--samples goes with"),
        (["likelihood", "--dequantisation", "uniform"], "needs the bins"),
        (["likelihood", "--estimator", "flows"], "flow"),
        (["likelihood", "--model", "ring", "--unit", "bits/dim"], "tolerance"),
        (["likelihood", "--out", "a.txt"], ".csv, .parquet, .json"),
        (["likelihood", "--data", "nothing.npz"], "no file"),
        (["likelihood", "--data", "exact"], "no exact target"),
        (["likelihood", "--model", "ring", "--data", "held-out"], "do not fit"),
        (["likelihood", "-n", "297"], "296 held-out digits"),
        (["compare", "--nfe", "5,x"], "--nfe takes integers"),
        (["compare", "--models", ","], "--models is empty"),
        (["compare", "--models", "ring", "--solvers", "rk4", "--nfe", "3"], "needs 4 evaluations"),
        (["compare", "--seeds", "0"], "--seeds must be an integer of at least 1"),
        (["compare", "--seeds", "-1"], "--seeds must be an integer of at least 1"),
        (["compare", "--models", "ring", "-n", "0"], "--n must be an integer of at least 1"),
        (["compare", "--models", "ring", "--workers", "0"], "--workers must be an integer of at least 1"),
        (["compare", "--models", "digits", "--sde", "ve"], "--sde is for exact targets"),
        (["compare", "--models", "ring", "--reference", "moons"], "--reference is for networks"),
        (["compare", "--models", "ring", "--reference", "nonsense"], "--reference is for networks"),
        (["compare", "--models", "digits,ring", "--reference", "mons"], "did you mean 'moons'"),
        (["compare", "--models", "ring,moons,ring"], "--models names ring twice"),
        (["compare", "--models", "ring", "--metrics", ","], "metrics is a list"),
        (["train", "cifar"], "unknown model to train"),
        (["train", "digits", "--weighting", "best"], "weighting"),
        (["train", "digits", "--threads", "0"], "threads = 0"),
        (["sample", "--nonsense"], "No such option"),
        (["smaple"], "No such command"),
    ],
)
def test_mistakes_are_named(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out, err = sdekit(*arguments, code=2)
    assert message in err
    assert "Traceback" not in err
    assert out == ""


def test_options_are_typed():
    assert options(["a=1", "b=1e-3", "c=true", "d=none", "e=x=y", "f=-2"]) == {
        "a": 1,
        "b": 1e-3,
        "c": True,
        "d": None,
        "e": "x=y",
        "f": -2,
    }
