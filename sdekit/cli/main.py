"""The command `sdekit`: its subcommands, and how errors reach the user."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from sdekit.cli.compare import compare
from sdekit.cli.likelihood import likelihood
from sdekit.cli.sample import sample
from sdekit.cli.solvers import solvers
from sdekit.cli.table import table
from sdekit.cli.train import train
from sdekit.cli.verify import verify
from sdekit.errors import SdekitError

__all__ = ["app"]


class _Commands(TyperGroup):
    """The group of commands: an error of sdekit is one line and exit code 2, Ctrl-C exit code 130."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except SdekitError as error:
            print(f"sdekit: {error}", file=sys.stderr)
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            print("sdekit: interrupted.", file=sys.stderr)
            raise typer.Exit(130) from None


app = typer.Typer(
    name="sdekit",
    cls=_Commands,
    help="Sample diffusion models with any solver, compare solvers, and compute likelihoods.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        import sdekit

        print(f"sdekit {sdekit.__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Options before the command; `--version` has done its work by now."""


for command in (solvers, sample, likelihood, compare, train, verify, table):
    app.command()(command)
