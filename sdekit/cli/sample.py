"""`sdekit sample`: samples to a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sdekit.cli.models import HELP, NamedModel, labels, load_model
from sdekit.cli.output import note, on_terminal, options, print_json, use_threads
from sdekit.errors import ArgumentError

if TYPE_CHECKING:
    from torch import Tensor

    from sdekit.solvers import Solver

__all__ = ["sample"]

_ENDINGS = (".png", ".npz", ".safetensors")
_STEPS = 50
_TILES = 1024
"""The most images that one picture shows."""


def sample(
    model: Annotated[str, typer.Option(help=HELP)] = "digits",
    sde: Annotated[
        str | None, typer.Option(help="For an exact target: vp, sub_vp, ve, cosine_vp, edm or flow (default: vp).")
    ] = None,
    solver: Annotated[
        str, typer.Option(help="A name of `sdekit solvers`, or of another library; table:FILE for a saved table.")
    ] = "ddim",
    steps: Annotated[int | None, typer.Option(help=f"Steps of a fixed-step solver (default: {_STEPS}).")] = None,
    n: Annotated[int, typer.Option("-n", "--n", help="How many samples.")] = 64,
    seed: Annotated[int, typer.Option(help="Each sample has its own stream, keyed by seed and index.")] = 0,
    grid: Annotated[
        str | None, typer.Option(help="Where the steps are: uniform, log_snr, karras, align_your_steps, …")
    ] = None,
    label: Annotated[str | None, typer.Option(help="A class, or 'each' for all classes in turn.")] = None,
    option: Annotated[
        list[str] | None, typer.Option("--option", metavar="KEY=VALUE", help="An option of the solver; repeatable.")
    ] = None,
    denoise: Annotated[bool, typer.Option("--denoise", help="End with E[x_0 | x]: one evaluation more.")] = False,
    t_end: Annotated[float | None, typer.Option(help="Where the solve ends (default: t_min of the SDE).")] = None,
    chunk: Annotated[
        int | None, typer.Option(help="At most so many samples at a time; same result up to rounding.")
    ] = None,
    threads: Annotated[int, typer.Option(help="Of torch; the last bits of a network's answers depend on it.")] = 1,
    out: Annotated[Path, typer.Option(help="A file .png, .npz or .safetensors, or a folder for .npz and .png.")] = Path(
        "samples.png"
    ),
    as_json: Annotated[bool, typer.Option("--json", help="Print what was done as JSON.")] = False,
) -> None:
    """Draw samples and save them, with seed, solver, grid and version beside them as FILE.json."""
    use_threads(threads)
    files = _files(out)
    named = load_model(model, sde)
    if files[0].suffix == ".png":
        _check_picture(named)
    classes = labels(named, label, n)

    import sdekit as sk

    found = sk.solvers.recipe(solver)
    chosen = sk.solvers.get(found.solver, **{**found.options, **options(option or [])})
    if steps is None and not chosen.adaptive and chosen.own_grid is None:
        steps = _STEPS
    # A name from elsewhere may stand for a grid and an end too; what the command says goes before it.
    place = grid if grid is not None else found.grid
    t_end = t_end if t_end is not None or grid is not None else found.t_end
    ending = denoise or found.denoise
    solution = sk.sample(
        named.model,
        n,
        solver=chosen,
        steps=steps,
        grid=place,
        t_end=t_end,
        denoise=ending,
        condition=None if classes is None else {"y": classes},
        seed=seed,
        chunk=chunk,
        progress=on_terminal(),
    )
    settings = {
        "command": "sample",
        "model": model,
        "sde": named.model.sde.to_dict(),
        **_solver_settings(chosen, steps, place if place is None or isinstance(place, str) else repr(place)),
        "t_end": named.model.sde.t_min if t_end is None else t_end,
        "denoise": ending,
        "seed": seed,
        "n": n,
        "label": label,
        "threads": threads,
    }
    results = {"nfe": _nfe(solution.nfe), "status": solution.status, "shape": list(solution.x.shape)}
    written = _write(files, named, solution.x, classes, settings, results)
    if as_json:
        print_json({"settings": settings, "results": results, "files": [str(path) for path in written]})
    else:
        print(f"{n} samples of {model} by {chosen.name}: {results['nfe']} evaluations each, seed {seed}")
        shown = _in_picture(solution.x)
        cut = f"; the picture shows the first {shown}" if shown < n and any(p.suffix == ".png" for p in written) else ""
        print("wrote " + ", ".join(map(str, written)) + cut)
    if solution.status != "success":
        note(f"sdekit: the solver ended early ({solution.status}); the samples are not at the end of the solve.")
        raise typer.Exit(1)


def _files(out: Path) -> list[Path]:
    """The files to write: the one named, or those of a folder."""
    from sdekit.experiments.storage import check_writable

    if out.suffix in _ENDINGS and not out.is_dir():
        check_writable(out.parent)
        return [out]
    if out.suffix and not out.is_dir():
        raise ArgumentError(
            f"--out {str(out)!r} ends in {out.suffix!r}; a file ends in {', '.join(_ENDINGS)}, and a folder in nothing."
        )
    check_writable(out)
    return [out / "samples.npz", out / "samples.png"]


def _check_picture(model: NamedModel) -> None:
    from sdekit.experiments.pictures import can_show

    shape = model.model.shape
    if shape is None or not can_show(shape):
        raise ArgumentError(f"samples of shape {shape} have no picture; write .npz or .safetensors.")


def _solver_settings(solver: Solver, steps: int | None, grid: str | None) -> dict[str, Any]:
    plain = (str, int, float, bool, type(None))
    shown = {name: value if isinstance(value, plain) else repr(value) for name, value in solver.options().items()}
    own = None if solver.adaptive else grid or ("its own" if solver.own_grid is not None else solver.default_grid)
    return {"solver": solver.name, "options": shown, "steps": steps, "grid": own}


def _in_picture(x: Tensor) -> int:
    """How many of the samples a picture shows: all points, but not all of many images."""
    return min(len(x), _TILES) if x.ndim == 4 else len(x)


def _nfe(nfe: Any) -> int | list[int]:
    return nfe if isinstance(nfe, int) else [int(k) for k in nfe]


def _write(
    files: list[Path],
    model: NamedModel,
    x: Tensor,
    classes: Tensor | None,
    settings: dict[str, Any],
    results: dict[str, Any],
) -> list[Path]:
    """The samples in each file, and the provenance beside each."""
    import json

    from sdekit.experiments.images import save_png
    from sdekit.experiments.pictures import can_show, picture
    from sdekit.experiments.provenance import provenance, versions, write_beside

    tensors = {"samples": x.contiguous()} | ({} if classes is None else {"labels": classes})
    stamp = json.dumps({"settings": settings, "versions": versions()})
    written = []
    for path in files:
        shown = dict(results)
        if path.suffix == ".npz":
            import numpy

            numpy.savez(path, allow_pickle=False, **{name: t.numpy() for name, t in tensors.items()})
        elif path.suffix == ".safetensors":
            from safetensors.torch import save_file

            save_file(tensors, path, {"sdekit": stamp})
        elif model.model.shape is not None and can_show(model.model.shape):
            shown["in_picture"] = _in_picture(x)
            images = x[: _in_picture(x)]
            columns = 10 if settings["label"] == "each" else None
            save_png(picture(images, columns), path, {"sdekit": stamp})
        else:
            continue
        written += [path, write_beside(path, provenance(settings, shown))]
    return written
