"""`sdekit likelihood`: log-probabilities with their errors, sample by sample."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sdekit.cli.models import HELP, NamedModel, labels, load_model
from sdekit.cli.output import note, numbers, on_terminal, options, print_json, use_threads
from sdekit.errors import ArgumentError

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from sdekit.likelihood import LogLikelihood

__all__ = ["likelihood"]

_ENDINGS = (".csv", ".parquet", ".json")
_N = 64


def likelihood(
    model: Annotated[str, typer.Option(help=HELP)] = "digits",
    sde: Annotated[
        str | None, typer.Option(help="For an exact target: vp, sub_vp, ve, cosine_vp, edm or flow [default: vp].")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="held-out: the digits kept from training, dequantised. exact: draws of the exact target. Or a file "
            ".npz or .safetensors with an array 'samples' [default: exact for a target, else held-out]."
        ),
    ] = None,
    n: Annotated[
        int | None, typer.Option("-n", "--n", help=f"How many, from the first on [default: {_N}; all of a file].")
    ] = None,
    label: Annotated[
        str | None, typer.Option(help="The class of the density p(x | y): a class, or 'each' for classes in turn.")
    ] = None,
    solver: Annotated[
        str, typer.Option(help="A deterministic solver that sees only a drift: rk4, scipy:RK45, …")
    ] = "rk4",
    steps: Annotated[int | None, typer.Option(help="Of a fixed-step solver [default: 160 evaluations].")] = None,
    option: Annotated[
        list[str] | None, typer.Option("--option", metavar="KEY=VALUE", help="An option of the solver; repeatable.")
    ] = None,
    divergence: Annotated[
        str | None,
        typer.Option(
            help="exact (one backward pass a dimension) or hutchinson (one a probe) [default: exact up to 16 "
            "dimensions without --probes, else hutchinson]."
        ),
    ] = None,
    probes: Annotated[int | None, typer.Option(help="Of hutchinson: independent probes [default: 4].")] = None,
    integration_error: Annotated[
        bool, typer.Option("--integration-error", help="Estimate the solver's error too, by a coarser solve.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of probes, of dequantisation and of exact draws.")] = 0,
    data_range: Annotated[
        str | None,
        typer.Option(
            metavar="LOW,HIGH",
            help="For bits/dim: the range that --levels bins cover, in the units of the data. For the held-out digits "
            "-1.0625,1.0625 with --levels 17.",
        ),
    ] = None,
    levels: Annotated[int | None, typer.Option(help="For bits/dim: the number of bins.")] = None,
    chunk: Annotated[
        int | None, typer.Option(help="At most so many samples at a time; same result up to rounding.")
    ] = None,
    threads: Annotated[int, typer.Option(help="Of torch; the last bits of a network's answers depend on it.")] = 1,
    out: Annotated[Path | None, typer.Option(help="A table to write: .csv, .parquet or .json.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Log-likelihood along the probability flow: the mean with its standard error, and a table of all samples."""
    if (data_range is None) != (levels is None):
        raise ArgumentError("bits/dim need both --data-range LOW,HIGH and --levels; give both or neither.")
    span = None if data_range is None else _bins(numbers("--data-range", data_range), levels)
    _check_out(out)
    use_threads(threads)
    named = load_model(model, sde)
    source = data or ("held-out" if named.target is None else "exact")
    x = _data(source, named, n, seed)
    classes = labels(named, label, len(x))

    from sdekit.likelihood import log_likelihood

    found = log_likelihood(
        named.model,
        x,
        solver=solver,
        steps=steps,
        divergence=divergence,
        probes=probes,
        condition=None if classes is None else {"y": classes},
        integration_error=integration_error,
        seed=seed,
        chunk=chunk,
        progress=on_terminal(),
        **options(option or []),
    )
    table = _table(named, source, x, found, span, levels)
    settings = {
        "command": "likelihood",
        "model": model,
        "sde": named.model.sde.to_dict(),
        "data": source,
        "n": len(x),
        "label": label,
        "solver": solver,
        "options": options(option or []),
        "steps": steps,
        "divergence": found.divergence,
        "integration_error": integration_error,
        "seed": seed,
        "threads": threads,
        "data_range": span,
        "levels": levels,
    }
    results = _summary(table, found)
    if out is not None:
        _write(out, table, settings, results)
    if as_json:
        print_json({"settings": settings, "results": results})
    else:
        _print_summary(model, source, results, found)
    if out is not None:
        note(f"wrote {out}")
    if found.status != "success":
        note(f"sdekit: the solver ended early ({found.status}); those log-probabilities are missing.")
        raise typer.Exit(1)


def _check_out(out: Path | None) -> None:
    from sdekit.experiments.storage import check_writable

    if out is None:
        return
    if out.suffix not in _ENDINGS:
        raise ArgumentError(f"--out {str(out)!r} must end in {', '.join(_ENDINGS)}.")
    check_writable(out.parent)


def _data(source: str, model: NamedModel, n: int | None, seed: int) -> Tensor:
    """The samples to score, (n, *)."""
    import torch

    if n is not None and n < 1:
        raise ArgumentError(f"--n must be at least 1, got {n}.")
    if source == "exact":
        if model.target is None:
            raise ArgumentError(f"model {model.name!r} is no exact target; give --data held-out or a file.")
        return model.target.sample(n or _N, seed=seed)
    if source == "held-out":
        from sdekit.training.digits_data import dequantise, digits_split

        images = digits_split().held_out_images
        if model.model.shape != tuple(images.shape[1:]):
            raise ArgumentError(f"the held-out digits do not fit model {model.name!r}; give --data exact or a file.")
        count = n or _N
        if count > len(images):
            raise ArgumentError(f"there are {len(images)} held-out digits, but --n {count} was asked for.")
        # Every so many, so that few of them still hold all classes.
        chosen = images[torch.arange(count) * (len(images) // count)]
        return dequantise(chosen, torch.Generator().manual_seed(seed))
    x = _read(Path(source))
    if n is not None and n > len(x):
        raise ArgumentError(f"{source} holds {len(x)} samples, but --n {n} was asked for.")
    return x if n is None else x[:n]


def _read(path: Path) -> Tensor:
    """The array 'samples' of a file, or its only one."""
    import zlib
    from zipfile import BadZipFile

    import numpy
    import torch
    from safetensors import SafetensorError

    if path.suffix not in (".npz", ".safetensors"):
        raise ArgumentError(f"--data is held-out, exact, or a file .npz or .safetensors; got {str(path)!r}.")
    if not path.is_file():
        raise ArgumentError(f"there is no file {str(path)!r}.")
    arrays: dict[str, Any]
    try:
        if path.suffix == ".npz":
            with path.open("rb") as file, numpy.load(file, allow_pickle=False) as archive:
                arrays = dict(archive)
        else:
            from safetensors.numpy import load_file

            arrays = load_file(path)
    except (ValueError, OSError, EOFError, BadZipFile, zlib.error, SafetensorError) as error:
        raise ArgumentError(f"{str(path)!r} cannot be read: {error}.") from None
    if "samples" not in arrays and len(arrays) != 1:
        raise ArgumentError(f"{str(path)!r} must hold an array 'samples'; it holds {', '.join(arrays) or 'none'}.")
    values = arrays["samples"] if "samples" in arrays else next(iter(arrays.values()))
    if values.dtype.kind not in "fiu":
        raise ArgumentError(f"{str(path)!r} must hold an array of real numbers, got one of {values.dtype}.")
    return torch.from_numpy(values).float()


def _table(
    model: NamedModel,
    source: str,
    x: Tensor,
    found: LogLikelihood,
    span: tuple[float, float] | None,
    levels: int | None,
) -> pd.DataFrame:
    import pandas as pd

    columns: dict[str, Any] = {"log_prob": found.log_prob.numpy(), "std_error": found.std_error.numpy()}
    if span is not None and levels is not None:
        columns["bits_per_dim"] = found.bits_per_dim(data_range=span, levels=levels).numpy()
    if model.target is not None and source == "exact":
        columns["exact_log_prob"] = model.target.log_prob(x).numpy()
    for name, error in found.budget.to_dict().items():
        if error is not None and name != "probe":
            columns[f"{name}_error"] = error.numpy()
    return pd.DataFrame(columns).rename_axis("sample").reset_index()


def _bins(span: list[float], levels: int | None) -> tuple[float, float]:
    """The range, checked with the levels before the solve and not after it."""
    from sdekit.likelihood.result import bin_width

    if len(span) != 2:
        raise ArgumentError(f"--data-range takes two numbers, LOW,HIGH; got {len(span)}.")
    bin_width((span[0], span[1]), 1 if levels is None else levels)
    return span[0], span[1]


def _summary(table: pd.DataFrame, found: LogLikelihood) -> dict[str, Any]:
    """Means over the samples, each with its standard error sd/sqrt(n), and the largest error of the trace."""
    nfe = found.nfe
    summary: dict[str, Any] = {"nfe": nfe if isinstance(nfe, int) else [int(k) for k in nfe], "status": found.status}
    for name in ("log_prob", "bits_per_dim", "exact_log_prob"):
        if name in table:
            values = table[name]
            error = float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.nan
            summary[name] = {"mean": float(values.mean()), "standard_error": error}
    summary["largest_std_error"] = float(table["std_error"].max())
    return summary


def _print_summary(model: str, source: str, results: dict[str, Any], found: LogLikelihood) -> None:
    print(f"{model}, {found.log_prob.shape[0]} samples ({source}), {found.divergence}")
    words = {"log_prob": "mean log p", "bits_per_dim": "bits/dim", "exact_log_prob": "exact mean log p"}
    for name, word in words.items():
        if name in results:
            unit = "" if name == "bits_per_dim" else " nats"
            print(f"{word:<18} {results[name]['mean']:.4f} ± {results[name]['standard_error']:.4f}{unit}")
    print("± is one standard error of the mean over samples")
    print()
    print(found.budget)


def _write(out: Path, table: pd.DataFrame, settings: dict[str, Any], results: dict[str, Any]) -> None:
    from sdekit.experiments.provenance import provenance, write_beside

    if out.suffix == ".csv":
        table.to_csv(out, index=False)
    elif out.suffix == ".parquet":
        table.to_parquet(out, index=False)
    else:
        table.to_json(out, orient="records", indent=2, double_precision=15)
    write_beside(out, provenance(settings, results))
