"""`sdekit compare`: solvers side by side, as a table and a page."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sdekit.cli.models import NamedModel, load_models
from sdekit.cli.output import names, note, numbers, on_terminal, print_json, use_threads, whole_numbers
from sdekit.errors import ArgumentError

if TYPE_CHECKING:
    from sdekit.experiments.compare import CellDone
    from sdekit.targets import Target

__all__ = ["compare"]

_OF_NETWORK = 150
_OF_TARGET = 1000
_MOST_WORKERS = 8


def compare(
    models: Annotated[
        str, typer.Option(help="Models, by commas: digits, digits:exact, ring, moons, or folders of saved models.")
    ] = "digits,digits:exact",
    sde: Annotated[str | None, typer.Option(help="Of the exact targets (default: vp).")] = None,
    solvers: Annotated[
        str | None,
        typer.Option(help="Solvers, by commas; 'diffusers:step_pred' beside those of `sdekit solvers`."),
    ] = None,
    nfe: Annotated[str, typer.Option(help="Budgets of network evaluations, by commas.")] = "5,10,20,50",
    tolerances: Annotated[str, typer.Option(help="rtol = atol of adaptive solvers, by commas.")] = "1e-1,1e-2,1e-4",
    seeds: Annotated[int, typer.Option(help="How many seeds; all solvers share the starts of each.")] = 2,
    seed: Annotated[int, typer.Option(help="The first seed.")] = 0,
    n: Annotated[
        int | None,
        typer.Option(
            "-n", "--n", help=f"Samples a run (default: {_OF_NETWORK} of a network, {_OF_TARGET} of a target)."
        ),
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(help="Metrics, by commas: energy_distance, sliced_wasserstein, mmd, log_density_gap, flow_error."),
    ] = None,
    reference: Annotated[
        str | None, typer.Option(help="The target that networks are measured against: digits, ring or moons.")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Runs side by side (default: the number of cores).")] = None,
    out: Annotated[Path, typer.Option(help="The folder to write; the same command goes on where it stopped.")] = Path(
        "runs/compare"
    ),
    as_json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON instead of a table.")] = False,
) -> None:
    """Compare solvers from the same starts at equal evaluations; write a table, plots, sheets and one HTML page.

    Finished runs are kept in the folder, so an interrupted comparison resumes with the same command.
    """
    begin = time.perf_counter()
    from sdekit._tensors import check_positive_integer
    from sdekit.experiments.compare import compare as run
    from sdekit.experiments.contenders import DEFAULT_SOLVERS

    use_threads(1)  # in each run, so that the numbers do not depend on how many cores there are
    workers = min(_MOST_WORKERS, os.cpu_count() or 1) if workers is None else workers
    for option, value in (("--seeds", seeds), ("--n", 1 if n is None else n), ("--workers", workers)):
        check_positive_integer(option, value)
    chosen = load_models(names(models), sde)
    if not chosen:
        raise ArgumentError("--models is empty; name at least one, such as digits.")
    counts = {m.name: n or (_OF_NETWORK if m.target is None else _OF_TARGET) for m in chosen}
    if reference is not None and all(m.target is not None for m in chosen):
        raise ArgumentError(
            f"--reference is for networks; {', '.join(m.name for m in chosen)} are measured against themselves."
        )
    given = None if metrics is None else names(metrics)
    done = [0, 0]

    def count(cell: CellDone) -> None:
        done[:] = cell.done, cell.total

    try:
        report = run(
            {m.name: m.model for m in chosen},
            solvers=DEFAULT_SOLVERS if solvers is None else names(solvers),
            nfe=whole_numbers("--nfe", nfe),
            seeds=[seed + k for k in range(seeds)],
            reference={m.name: _reference(m, reference) for m in chosen},
            metrics={m.name: _metrics(m) if given is None else given for m in chosen},
            n=counts,
            tolerances=numbers("--tolerances", tolerances),
            out=out,
            workers=workers,
            progress=on_terminal(),
            callback=count,
            note=_note(chosen),
        )
    except KeyboardInterrupt:
        kept = f"{done[0]} of {done[1]} runs are kept" if done[1] else "finished runs are kept"
        note(f"sdekit: interrupted; {kept} in {out}. The same command goes on from there.")
        raise typer.Exit(130) from None
    report.save()
    if as_json:
        print_json(report.table.to_dict("records"))
    else:
        report.print()
    note(f"wrote {out / 'report.html'} and the rest of {out} in {time.perf_counter() - begin:.0f} s")


def _reference(model: NamedModel, name: str | None) -> Target:
    """What a model's samples are measured against."""
    from sdekit import targets

    if model.target is not None:
        return model.target
    if name is None and model.name != "digits":
        raise ArgumentError(f"say what {model.name!r} should sample from: --reference digits, ring or moons.")
    if name in (None, "digits"):
        from sdekit.training.digits_data import LEVEL_WIDTH

        return targets.digits(std=LEVEL_WIDTH / 12**0.5)
    return targets.named(name)


def _note(models: list[NamedModel]) -> str:
    """How networks are run and measured, which their settings alone do not say."""
    lines = []
    if any(getattr(m.model.network, "classes", None) is not None for m in models):
        lines.append(
            "Class-conditional networks are run without a class, so that their samples are independent, as the "
            "intervals and the floor assume; with classes in turn the energy distance of a perfect sampler is below 0."
        )
    if any(m.target is None and m.name == "digits" for m in models):
        lines.append(
            "The digits network is measured against scikit-learn's 1797 digits, each with Gaussian noise of the "
            "standard deviation of the dequantisation that it was trained with (0.036); so its energy distance holds "
            "the network's own error as well as the solver's, its flow error the solver's alone."
        )
    return " ".join(lines)


def _metrics(model: NamedModel) -> list[str]:
    shared = ["energy_distance", "flow_error"]
    return shared if model.target is None else [*shared, "log_density_gap"]
