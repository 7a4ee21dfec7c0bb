"""The page, the plots, the sheets and the printed table: complete, self-contained, and equal to the data."""

from __future__ import annotations

import base64
import io
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from rich.console import Console

from sdekit.errors import ArgumentError, ShapeError, UnknownNameError
from sdekit.experiments.frame import read
from sdekit.experiments.images import save_png, sheet
from sdekit.experiments.metrics import EnergyDistance, Metric
from sdekit.experiments.plots import error_against_nfe, error_against_seconds
from sdekit.experiments.report import print_table, write_report

SOLVERS = {"ddim": "ode", "heun": "ode", "dpmpp_2m": "ode", "unipc": "ode", "ancestral": "sde", "dpmpp_2m_sde": "sde"}
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def comparison(metrics=("energy_distance",), models=("digits (trained)", "digits (exact)")) -> pd.DataFrame:
    """An invented comparison: errors fall as a power of NFE, the noise is 0.001."""
    rng = np.random.default_rng(0)
    rows = []
    for metric in metrics:
        for model in models:
            for k, (solver, kind) in enumerate(SOLVERS.items()):
                for budget in (5, 10, 20, 50):
                    nfe = budget - 1 if solver == "heun" and budget % 2 == 0 else budget
                    value = (0.5 + 0.2 * k) * (5 / nfe) ** (1 + k % 3) + rng.normal(0, 0.001)
                    rows.append(
                        {
                            "model": model,
                            "solver": solver,
                            "kind": kind,
                            "budget": budget,
                            "nfe": nfe,
                            "metric": metric,
                            "value": value,
                            "low": value - 0.002 - 0.05 * abs(value),
                            "high": value + 0.002 + 0.05 * abs(value),
                            "floor_low": -0.003,
                            "floor_high": 0.0035,
                            "seconds": 0.01 * nfe,
                        }
                    )
    return pd.DataFrame(rows)


class Page(HTMLParser):
    """Checks that every tag is closed in order, and keeps addresses, the rows of #rows, scripts and header cells."""

    VOID = frozenset({"meta", "link", "img", "input", "br"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.rows: list[list[str]] = []
        self.headers: list[dict[str, str | None]] = []
        self.alts: list[str | None] = []
        self.attributes: dict[str, str | None] = {}
        self.text: list[str] = []
        self.inside_rows = False
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if tag == "html":
            self.attributes = given
        if tag not in self.VOID:
            self.open.append(tag)
        self.addresses += [given[name] for name in ("src", "href", "action", "data", "poster") if name in given]
        if tag == "table":
            self.inside_rows = given.get("id") == "rows"
        if tag == "th":
            self.headers.append(given)
        if tag == "img":
            self.alts.append(given.get("alt"))
        if self.inside_rows and tag == "tr":
            self.rows.append([])
        if self.inside_rows and tag == "td":
            self.rows[-1].append(given["data-value"])

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("script", "style"):
            self.text.append(data)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    frame = comparison()
    # A failed run, an estimate below 0, and two that words would order otherwise than numbers.
    frame.loc[5, ["value", "low", "high"]] = np.nan
    frame.loc[7, ["value", "low", "high"]] = [-4e-4, -2e-3, 1e-3]
    frame.loc[8, ["value", "low", "high"]] = [12.5, 12.0, 13.0]
    frame.loc[11, ["value", "low", "high"]] = [2e-5, 1e-5, 3e-5]
    path = write_report(
        tmp_path_factory.mktemp("report"),
        frame,
        {"Error against NFE": error_against_nfe(frame)},
        {"ddim at 10 NFE": sheet(torch.zeros(6, 1, 8, 8))},
        {"seed": 3, "grid": {"name": "log_snr", "points": [1, 2]}, "note": "<script>alert(1)</script>"},
        {"sdekit": "0.1.0", "torch": "2.13.0"},
    )
    return frame, path, path.read_text(encoding="utf-8")


# The page ------------------------------------------------------------------------------------------------------------


def test_page_is_well_formed_and_asks_nothing_of_the_network(written):
    _, path, text = written
    page = Page(text)
    assert path.name == "report.html"
    assert all(address.startswith(("data:", "#")) for address in page.addresses)
    assert not re.search(r"https?:|//[a-z]|@import|url\(|fetch\(|XMLHttpRequest", text)
    pictures = [a for a in page.addresses if a.startswith("data:image/svg")]
    assert len(pictures) == 1
    svg = base64.b64decode(pictures[0].partition(",")[2]).decode()
    # Namespaces are names, not requests; what could be fetched are the references.
    assert all(target.startswith("#") for target in re.findall(r'(?:xlink:)?href="([^"]*)"', svg))


def test_rows_and_csv_equal_the_frame(written):
    frame, _, text = written
    page = Page(text)
    columns = ["model", "solver", "kind", "budget", "nfe", "metric"]
    columns += ["value", "low", "high", "floor_low", "floor_high", "seconds"]
    shown = pd.DataFrame([row for row in page.rows if row], columns=columns)
    csv = next(a for a in page.addresses if a.startswith("data:text/csv"))
    read_back = pd.read_csv(io.BytesIO(base64.b64decode(csv.partition(",")[2])), dtype=str, keep_default_na=False)
    assert list(read_back.columns) == list(frame.columns)
    for found in (shown, read_back):
        assert len(found) == len(frame)
        for name in columns:
            # Both hold the shortest decimals that read back as the same float: equality, not closeness.
            if frame[name].dtype.kind in "fi":
                got = [float(text or "nan") for text in found[name]]
                np.testing.assert_array_equal(got, frame[name].to_numpy(float))
            else:
                assert found[name].tolist() == frame[name].tolist()


def test_page_names_its_contents_accessibly(written):
    _, _, text = written
    page = Page(text)
    assert all(header.get("scope") in ("col", "row") for header in page.headers)
    assert all(page.alts)
    words = " ".join(page.text)
    for expected in ("ddim at 10 NFE", "grid.name", "log_snr", "0.1.0", "noise floor", "To cite", "failed"):
        assert expected in words
    # What a user typed is text, not markup.
    assert "<script>alert(1)</script>" not in text
    assert "&lt;script&gt;alert(1)" in text
    assert 'aria-sort", direction' in text


def test_overview_marks_the_unseparated_and_the_floor(written):
    frame, _, text = written
    marked = read(frame)
    assert text.count('<td class="best">') == marked["near_best"].sum()
    assert text.count('<span class="mark">') == marked["at_floor"].sum() + 1  # and once in the key


def test_equal_input_gives_equal_bytes(written, tmp_path):
    frame, _, _ = written
    pages = [
        write_report(tmp_path / name, frame, {"plot": error_against_nfe(frame)}, {}, {"seed": 0}, {}).read_bytes()
        for name in ("a", "b")
    ]
    assert pages[0] == pages[1]


def test_page_without_plots_and_sheets_has_no_empty_sections(tmp_path):
    text = write_report(tmp_path, comparison(models=("m",)), {}, {}, {}, {}).read_text(encoding="utf-8")
    Page(text)
    assert 'id="plots"' not in text
    assert 'id="samples"' not in text


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium or google-chrome on PATH")
def test_script_runs_and_sorts_in_a_browser(written, tmp_path):
    frame, _, text = written
    watch = """<script>
      document.documentElement.dataset.errors = "";
      const complain = (...words) => { document.documentElement.dataset.errors += words.join(" ") + ";"; };
      addEventListener("error", e => complain(e.message));
      console.error = complain;
    </script>"""
    act = """<script>
      const read = () => [...document.querySelectorAll("#rows tbody tr")].filter(r => !r.hidden)
        .map(r => r.cells[6].dataset.value).join(" ");
      const press = name => document.querySelector(`th[data-name=${name}] button`).click();
      const html = document.documentElement.dataset;
      press("value"); html.up = read();
      press("value"); html.down = read();
      press("solver"); html.solvers = [...document.querySelectorAll("#rows tbody tr")]
        .map(r => r.cells[1].textContent).join(" ");
      const filter = document.getElementById("filter");
      filter.value = "HEUN exact"; filter.dispatchEvent(new Event("input")); html.filtered = read();
      html.sorted = document.querySelector("th[data-name=solver]").getAttribute("aria-sort");
    </script>"""
    page = tmp_path / "page.html"
    page.write_text(text.replace("<head>", "<head>" + watch).replace("</body>", act + "</body>"), encoding="utf-8")
    options = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
        "--disable-component-update --disable-sync --virtual-time-budget=2000 --dump-dom"
    )
    command = [CHROMIUM, *options.split(), f"--user-data-dir={tmp_path / 'profile'}", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    html = Page(done.stdout).attributes
    assert html["data-errors"] == ""
    assert html["data-ready"] == "yes"
    values = frame["value"].dropna().sort_values()
    # The failed run has no value, and is last in both directions.
    assert html["data-up"].split(" ") == [*map(repr, values.tolist()), ""]
    assert html["data-down"].split(" ") == [*map(repr, values.tolist()[::-1]), ""]
    assert html["data-solvers"].split() == sorted(frame["solver"])
    chosen = frame[(frame["solver"] == "heun") & frame["model"].str.contains("exact")]["value"]
    assert html["data-filtered"].split() == [*map(repr, chosen.tolist())]
    assert html["data-sorted"] == "ascending"


# Reading the frame ---------------------------------------------------------------------------------------------------


def small(**columns) -> pd.DataFrame:
    """Three solvers at one budget."""
    base = {
        "model": "m",
        "solver": ["a", "b", "c"],
        "kind": "ode",
        "nfe": 10,
        "metric": "energy_distance",
        "value": [0.1, 0.12, 0.3],
        "low": [0.08, 0.1, 0.28],
        "high": [0.11, 0.14, 0.32],
        "floor_low": -0.05,
        "floor_high": 0.09,
        "seconds": 1.0,
    }
    return pd.DataFrame(base | columns)


def test_marks_follow_the_intervals():
    out = read(small())
    assert out["near_best"].tolist() == [True, True, False]  # b's interval meets a's at 0.1 … 0.11
    assert out["at_floor"].tolist() == [True, False, False]  # only a's reaches down to 0.09
    assert out["budget"].tolist() == [10, 10, 10]


def test_signed_metrics_are_read_by_magnitude():
    out = read(
        small(metric="log_density_gap", value=[-0.1, 0.02, 0.3], low=[-0.12, -0.01, 0.2], high=[-0.08, 0.05, 0.4])
    )
    assert out["size"].tolist() == [0.1, 0.02, 0.3]
    assert out["size_low"].tolist() == [0.08, 0.0, 0.2]
    assert out["size_high"].tolist() == [0.12, 0.05, 0.4]
    assert out["near_best"].tolist() == [False, True, False]
    assert out["at_floor"].tolist() == [True, True, False]


def test_rows_without_interval_or_value():
    nan = float("nan")
    out = read(small(value=[nan, 0.12, 0.12], low=nan, high=nan))
    assert out["near_best"].tolist() == [False, True, True]
    assert out["at_floor"].tolist() == [False, False, False]
    own = read(small(budget=[10, 10, nan], nfe=[10, 10, 37.5]))
    assert own["near_best"].tolist() == [True, True, False]


class Likeness(Metric):
    name = "likeness"
    title = "likeness"
    unit = "none"
    what = "Higher is better."
    lower_is_better = False
    needs = "samples"

    def against(self, reference):
        raise NotImplementedError


def test_higher_can_be_better():
    out = read(small(metric="likeness"), [EnergyDistance, Likeness])
    assert out["near_best"].tolist() == [False, False, True]


@pytest.mark.parametrize(
    ("frame", "error", "words"),
    [
        (small().drop(columns="low"), ArgumentError, "lacks the column.* low"),
        (small().iloc[:0], ArgumentError, "no rows"),
        (small(solver="a"), ArgumentError, "two rows for .*solver='a'"),
        (small(kind="pde"), ArgumentError, "'pde'"),
        (small(metric="energy"), UnknownNameError, "did you mean 'energy_distance'"),
    ],
)
def test_frames_that_cannot_be_read_say_why(frame, error, words):
    with pytest.raises(error, match=words):
        read(frame)


# Plots ---------------------------------------------------------------------------------------------------------------


def test_plot_shows_every_measurement_on_log_axes():
    frame = comparison()
    figure = error_against_nfe(frame)
    assert len(figure.axes) == 2
    for panel, model in zip(figure.axes, ("digits (trained)", "digits (exact)"), strict=True):
        assert (panel.get_xscale(), panel.get_yscale()) == ("log", "log")
        dots = [line for line in panel.lines if line.get_linestyle() == "None" and len(line.get_xdata())]
        solid = {(x, y) for d in dots if d.get_markerfacecolor() != "white" for x, y in d.get_xydata()}
        rows = frame[frame["model"] == model]
        above = rows[rows["value"] > panel.get_ylim()[0] * 1.6]
        assert solid == set(zip(above["nfe"].astype(float), above["value"], strict=True))
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[: len(SOLVERS)] == list(SOLVERS)
    assert "noise floor (exact draws, 95 %)" in labels
    lines = {line.get_label(): line for line in figure.legends[0].get_lines()}
    assert len({(line.get_color(), line.get_marker()) for line in lines.values()}) == len(lines)


def test_estimates_below_zero_are_hollow_on_the_lower_edge():
    figure = error_against_nfe(small(value=[-0.01, 0.12, 0.3], low=[-0.03, 0.1, 0.28], high=[0.01, 0.14, 0.32]))
    panel = figure.axes[0]
    hollow = [line for line in panel.lines if line.get_markerfacecolor() == "white" and len(line.get_xdata())]
    assert len(hollow) == 1
    height = hollow[0].get_ydata()[0]
    assert panel.get_ylim()[0] < height < 0.09  # drawn, and inside the floor


def test_plots_leave_pyplot_alone_and_draw_without_warnings():
    import matplotlib

    before = dict(matplotlib.rcParams)
    frame = comparison(("energy_distance", "log_density_gap"))
    frame.loc[0, ["value", "low", "high"]] = np.nan
    for draw in (error_against_nfe, error_against_seconds):
        buffer = io.BytesIO()
        draw(frame).savefig(buffer, format="png")
        assert Image.open(buffer).size[0] > 800
    assert dict(matplotlib.rcParams) == before
    pyplot = __import__("sys").modules.get("matplotlib.pyplot")
    assert pyplot is None or pyplot.get_fignums() == []


# Sheets --------------------------------------------------------------------------------------------------------------


def test_sheet_places_scales_and_clips():
    images = torch.stack([torch.full((1, 8, 8), v) for v in (-1.0, 0.0, 1.0, 7.0, -7.0)])
    images[1, 0, 0, 0] = 1.0
    pixels = np.asarray(sheet(images, columns=3))
    # 8 pixels become 48, with 2 between and around: 2 + 3 * 50 wide, 2 + 2 * 50 high.
    assert pixels.shape == (102, 152)
    assert (pixels[2:50, 2:50] == 0).all()
    assert (pixels[2:8, 52:58] == 255).all()
    assert (pixels[8:50, 52:100] == 128).all()
    assert (pixels[2:50, 102:150] == 255).all()
    assert (pixels[52:100, 2:50] == 255).all()
    assert (pixels[52:100, 52:100] == 0).all()
    assert (pixels[52:100, 102:150] == 128).all()  # no sixth image: the padding's grey


def test_sheet_keeps_colours_and_large_images():
    images = torch.zeros(2, 3, 64, 50)
    images[0] = torch.tensor([1.0, -1.0, 0.0])[:, None, None]
    picture = sheet(images, columns=2)
    assert (picture.mode, picture.size) == ("RGB", (2 + 2 * 52, 2 + 66))
    assert picture.getpixel((10, 10)) == (255, 0, 128)


def test_png_reads_back_with_its_metadata(tmp_path):
    picture = sheet(torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1)
    path = save_png(picture, tmp_path / "new" / "ddim.png", {"solver": "ddim", "seed": "3"})
    with Image.open(path) as back:
        assert (np.asarray(back) == np.asarray(picture)).all()
        assert back.text == {"solver": "ddim", "seed": "3"}


def test_sheet_refuses_other_shapes():
    with pytest.raises(ShapeError, match=r"\(2, 2, 8, 8\)"):
        sheet(torch.zeros(2, 2, 8, 8))
    with pytest.raises(ArgumentError, match="columns"):
        sheet(torch.zeros(2, 1, 8, 8), 0)


# The printed table ---------------------------------------------------------------------------------------------------


def printed(frame, **options) -> str:
    console = Console(file=io.StringIO(), **options)
    print_table(frame, console)
    return console.file.getvalue()


def test_table_away_from_a_terminal_is_plain_and_whole():
    frame = comparison()
    frame["solver"] = frame["solver"].str.ljust(24, "x")
    text = printed(frame, width=100)
    assert text.isascii()
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 100
    rows = [line.split() for line in text.splitlines() if re.search(r"\b(ode|sde)\b", line)]
    assert [(r[0], r[1], r[2]) for r in rows] == [(s, k, str(n)) for s, k, n in frame[["solver", "kind", "nfe"]].values]
    shown = [float(r[3]) for r in rows]
    # Three significant digits.
    assert shown == pytest.approx(frame["value"].tolist(), rel=0.006)
    assert text.count("at floor") == read(frame)["at_floor"].sum() + 1
    assert "noise floor [-0.00300, 0.00350]" in text


def test_table_on_a_terminal_is_styled():
    text = printed(comparison(), width=100, force_terminal=True, color_system="standard", _environ={})
    assert "\x1b[1m" in text
    assert max(len(re.sub("\x1b\\[[0-9;]*m", "", line)) for line in text.splitlines()) <= 100


def test_table_says_failed_and_keeps_names_with_brackets():
    frame = small(solver=["a[bold]", "b", "c"], value=[float("nan"), 0.1, 0.2])
    text = printed(frame, width=100)
    assert "a[bold]" in text
    assert re.search(r"a\[bold\].*failed", text)
