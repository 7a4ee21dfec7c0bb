"""`python -m sdekit` is the command `sdekit`."""

from sdekit.cli.main import app

app()
