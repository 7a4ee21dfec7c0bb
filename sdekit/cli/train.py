"""`sdekit train`: train the bundled model anew."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from sdekit.cli.output import note, on_terminal, print_json
from sdekit.errors import UnknownNameError

__all__ = ["train"]


def train(
    model: Annotated[str, typer.Argument(help="What to train: digits.")],
    out: Annotated[Path, typer.Option(help="The folder to write: model, losses, samples, checkpoint.")] = Path(
        "runs/train-digits"
    ),
    seed: Annotated[int, typer.Option(help="Of weights, batches, times and noise.")] = 0,
    steps: Annotated[int, typer.Option(help="Steps of the optimizer.")] = 4000,
    weighting: Annotated[str | None, typer.Option(help="Of the loss over time: simple or likelihood.")] = None,
    time_sampling: Annotated[str | None, typer.Option(help="How times are drawn: uniform or importance.")] = None,
    batch_size: Annotated[int, typer.Option(help="Images a step.")] = 128,
    recognised: Annotated[int, typer.Option(help="Digits to generate for the recognition accuracy at the end.")] = 1000,
    threads: Annotated[int, typer.Option(help="Of torch; the last bits of the weights depend on it.")] = 1,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in the folder.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures of the trained model as JSON.")] = False,
) -> None:
    """Train the class-conditional digits network; `sdekit sample --model FOLDER` then samples it.

    Ctrl-C writes the run's state; the same command with --resume goes on from there.
    """
    if model != "digits":
        raise UnknownNameError("model to train", model, ["digits"])
    from sdekit.training import train_digits

    given: dict[str, Any] = {"weighting": weighting, "time_sampling": time_sampling}
    try:
        run = train_digits(
            out,
            seed=seed,
            steps=steps,
            batch_size=batch_size,
            threads=threads,
            recognised=recognised,
            resume=resume,
            progress=on_terminal(),
            **{name: value for name, value in given.items() if value is not None},
        )
    except KeyboardInterrupt:
        begun = (out / "checkpoint.safetensors").is_file()
        kept = f"the run is kept in {out}. The same command with --resume goes on from there."
        note(f"sdekit: interrupted; {kept if begun else 'nothing is kept yet.'}")
        raise typer.Exit(130) from None
    if as_json:
        print_json({"folder": str(run.folder), "seconds": run.seconds, "results": run.results})
        return
    for name, value in run.results.items():
        print(f"{name:<32} {value:.4f}")
    note(f"wrote {run.folder} in {run.seconds:.0f} s")
