"""A table as data: saved, loaded, edited, and run as a solver like any other."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from sdekit.errors import ArgumentError
from sdekit.grids import Custom, Grid, check_monotone, make_grid
from sdekit.sdes import DiffusionSDE, from_dict
from sdekit.solvers.diffusion.base import TableSolver
from sdekit.solvers.fixed_step import FixedStepSolver
from sdekit.solvers.table import Table

__all__ = ["Tabulated", "tabulate"]

_FORMAT = "sdekit table"


@final
@dataclass(frozen=True, repr=False)
class Tabulated(TableSolver):
    """The solver of one table, for the SDE and the grid that it was made for.

        mine = sk.solvers.tabulate(sk.solvers.get("dpmpp_2m"), sde, steps=10)    # print it, change it
        mine.save("mine.json")
        sk.sample(model, 16, solver="table:mine.json")    # or sk.solvers.Tabulated.load("mine.json")

    Args:
        coefficients: the table.
        times: its grid, from noise to data.
        sde: the SDE as a plain dict (`sde.to_dict()`); a solve of another SDE is refused. None: of any.
        title: whose table it is.

    Raises:
        ArgumentError: if the table does not end as many steps as the grid has.
    """

    coefficients: Table
    times: tuple[float, ...]
    sde: dict[str, Any] | None = None
    title: str = ""

    name = "tabulated"
    reference = "a table of the user's own, 2026"

    def __post_init__(self) -> None:
        ended = int(self.coefficients.ends_step.sum())
        if ended != len(self.times) - 1:
            raise ArgumentError(f"the table ends {ended} steps, but its grid has {len(self.times) - 1}.")
        table = self.coefficients
        numbers = [table.t, *(getattr(u, name) for u in (table.state, table.point) for name in ("x", "m", "z"))]
        if not all(bool(torch.isfinite(column).all()) for column in numbers):
            raise ArgumentError("the table holds a coefficient or a time that is not finite.")
        drawn = torch.cumsum(table.draw, 0)
        for updates in (table.state, table.point):
            looked_back = (updates.z != 0) & (torch.arange(updates.z.shape[1], device="cpu") >= drawn[:, None])
            if bool(looked_back.any()):
                raise ArgumentError(
                    f"row {int(looked_back.any(1).nonzero()[0, 0])} of the table uses a draw that no row has made; set "
                    "'draw' where noise is drawn."
                )
        check_monotone(torch.tensor(self.times, dtype=torch.float64, device="cpu"), "the table's grid")

    @property
    def stochastic(self) -> bool:
        return bool(self.coefficients.draw.any())

    @property
    def own_grid(self) -> Grid:
        return Custom(self.times)

    def options(self) -> dict[str, Any]:
        """Whose table it is and how many steps it makes; the coefficients are not options."""
        return {"title": self.title, "steps": len(self.times) - 1}

    def table(self, sde: DiffusionSDE, times: Tensor) -> Table:
        if self.sde is not None and sde.to_dict() != self.sde:
            raise ArgumentError(f"this table was made for {self.sde}, not for {sde!r}; make one with `tabulate`.")
        if tuple(times.tolist()) != self.times:
            raise ArgumentError(
                f"this table was made for a grid of {len(self.times) - 1} steps from t = {self.times[0]:g} to "
                f"{self.times[-1]:g}; leave steps, grid, t_start and t_end out."
            )
        for t in self.coefficients.t.tolist():
            sde.check_time("a time at which the table evaluates", t)
        return self.coefficients

    def to_dict(self) -> dict[str, Any]:
        """JSON values; `from_dict` is the inverse."""
        return {
            "format": _FORMAT,
            "title": self.title,
            "sde": self.sde,
            "times": list(self.times),
            "table": self.coefficients.to_dict(),
        }

    @staticmethod
    def from_dict(values: dict[str, Any]) -> Tabulated:
        """The solver that `to_dict` wrote.

        Raises:
            ArgumentError: if it is not one, or the table does not fit its grid.
        """
        if not isinstance(values, dict) or values.get("format") != _FORMAT:
            raise ArgumentError(f'a table is a dict with "format": "{_FORMAT}", as Tabulated.save writes it.')
        sde = values.get("sde")
        if sde is not None:
            from_dict(sde)  # an SDE that sdekit knows
        try:
            table = Table.from_dict(values["table"])
            return Tabulated(table, tuple(float(t) for t in values["times"]), sde, str(values.get("title", "")))
        except ArgumentError:
            raise
        except (KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:
            raise ArgumentError(f"the table cannot be read: {type(error).__name__}: {error}.") from None

    def save(self, path: str | Path) -> Path:
        """Write the table as JSON."""
        place = Path(path)
        place.write_text(json.dumps(self.to_dict(), indent=1))
        return place

    @staticmethod
    def load(path: str | Path) -> Tabulated:
        """The table in a file that `save` wrote.

        Raises:
            ArgumentError: if there is no such file, or it holds no table.
        """
        try:
            values = json.loads(Path(path).read_text())
        except FileNotFoundError:
            raise ArgumentError(f"there is no file {str(path)!r}.") from None
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ArgumentError(f"{str(path)!r} holds no table in JSON: {error}.") from None
        return Tabulated.from_dict(values)

    def __str__(self) -> str:
        return f"{self.title or self.name}: {self.coefficients}"

    def __repr__(self) -> str:
        return f"Tabulated({self.title!r}, {len(self.times) - 1} steps, {self.coefficients.evaluations} evaluations)"


def tabulate(
    solver: FixedStepSolver,
    sde: DiffusionSDE,
    steps: int | None = None,
    grid: str | Grid | None = None,
    t_start: float | None = None,
    t_end: float | None = None,
) -> Tabulated:
    """The table of a solver, as a solver of its own that can be printed, saved, changed and run.

    Args:
        solver: a table solver, a Runge-Kutta method, or Euler-Maruyama.
        sde: for which SDE.
        steps: how many steps; may be left out with a Custom grid.
        grid: where they are; the solver's default unless given.
        t_start, t_end: from T to `t_min` unless given.

    Raises:
        UnsupportedError: if the solver is not linear in its state, values and draws, and so has no table.
    """
    place = make_grid(solver.default_grid if grid is None else grid)
    count = steps if place.fixed_steps is None else place.fixed_steps
    if count is None:
        raise ArgumentError("give steps, the number of steps of the table.")
    if isinstance(place, Custom):
        times = place.resolve(sde)
    else:
        start = sde.t_max if t_start is None else sde.check_time("t_start", t_start, zero=False)
        times = place.times(sde, count, start, sde.t_min if t_end is None else sde.check_time("t_end", t_end))
    return Tabulated(solver.table(sde, times), tuple(times.tolist()), sde.to_dict(), repr(solver))
