"""`sdekit likelihood`: log-probabilities with their errors, sample by sample."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, final

import typer

from sdekit.cli.models import HELP, NamedModel, labels, load_model
from sdekit.cli.output import note, numbers, on_terminal, options, print_json, use_threads
from sdekit.errors import ArgumentError

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from sdekit.likelihood import DiscreteLogLikelihood, LogLikelihood
    from sdekit.models import ScoreModel
    from sdekit.targets import Target

__all__ = ["likelihood"]

_ENDINGS = (".csv", ".parquet", ".json")
_N = 64


def likelihood(
    model: Annotated[str, typer.Option(help=HELP)] = "digits",
    sde: Annotated[
        str | None, typer.Option(help="For an exact target: vp, sub_vp, ve, cosine_vp, edm or flow (default: vp).")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="held-out: the digits kept from training, spread over their bins unless --dequantisation says how. "
            "exact: draws of the exact target. Or a file .npz, .npy or .safetensors with an array 'samples'; a .npy is "
            "read as it is needed, so it may be larger than memory; whole numbers are levels with --dequantisation "
            "(default: exact for a target, else held-out)."
        ),
    ] = None,
    n: Annotated[
        int | None, typer.Option("-n", "--n", help=f"How many, from the first on (default: {_N}; all of a file).")
    ] = None,
    label: Annotated[
        str | None, typer.Option(help="The class of the density p(x | y): a class, or 'each' for classes in turn.")
    ] = None,
    estimator: Annotated[
        str, typer.Option(help="flow: the probability flow. ito: along SDE paths, approximate. elbo: a lower bound.")
    ] = "flow",
    repeats: Annotated[int | None, typer.Option(help="Of ito: paths a sample (default: 8).")] = None,
    solver: Annotated[
        str | None, typer.Option(help="Any deterministic solver: rk4, scipy:RK45, … (default: adams of order 4).")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Of a fixed-step solver (default: 60 evaluations).")] = None,
    option: Annotated[
        list[str] | None, typer.Option("--option", metavar="KEY=VALUE", help="An option of the solver; repeatable.")
    ] = None,
    divergence: Annotated[
        str | None,
        typer.Option(
            help="exact (one backward pass a dimension), hutchinson, hutch++ or xtrace (one a probe) (default: exact "
            "up to 16 dimensions without --probes, else hutchinson)."
        ),
    ] = None,
    probes: Annotated[int | None, typer.Option(help="Backward passes at each node (default: 2).")] = None,
    probe_distribution: Annotated[
        str | None, typer.Option(help="Of hutchinson: adapted, rademacher, gaussian or hadamard (default: adapted).")
    ] = None,
    integration_error: Annotated[
        bool, typer.Option("--integration-error", help="Estimate the solver's error too, by a coarser solve.")
    ] = False,
    tolerance: Annotated[
        float | None, typer.Option(help="Spend steps and probes until each sample's total error is at most this.")
    ] = None,
    unit: Annotated[str, typer.Option(help="Of --tolerance: nats or bits/dim.")] = "nats",
    max_nfe: Annotated[
        int | None, typer.Option(help="With --tolerance: evaluations a sample at most (default: 3000).")
    ] = None,
    t_eps: Annotated[float | None, typer.Option(help="Where the density is had (default: t_min of the SDE).")] = None,
    truncation: Annotated[
        str | None,
        typer.Option(
            help="How log p at t = 0 is had from that at t-eps: first_order, or a decoder's bound for two more solves "
            "(default: exact for a target, else first_order)."
        ),
    ] = None,
    prior: Annotated[
        str | None, typer.Option(help="standard or matched (default: by what the model predicts).")
    ] = None,
    dequantisation: Annotated[
        str | None,
        typer.Option(
            help="uniform or truncated_normal: bound log P of discrete data, whose bins --data-range and --levels name."
        ),
    ] = None,
    samples: Annotated[int | None, typer.Option(help="Of --dequantisation: draws a sample (default: 1).")] = None,
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
    block: Annotated[
        int, typer.Option(help="Samples solved at a time, and kept together in a .parquet run; same result.")
    ] = 256,
    threads: Annotated[int, typer.Option(help="Of torch; the last bits of a network's answers depend on it.")] = 1,
    out: Annotated[
        Path | None,
        typer.Option(
            help="A table to write: .parquet keeps every finished block, and goes on where it was interrupted when the "
            "command is run again; .csv and .json are written at the end."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Log-likelihood of each sample, with its errors: the mean with its standard error, and a table of all samples."""
    if (data_range is None) != (levels is None):
        raise ArgumentError("bits/dim need both --data-range LOW,HIGH and --levels; give both or neither.")
    span = None if data_range is None else _bins(numbers("--data-range", data_range), levels)
    if dequantisation is None and samples is not None:
        raise ArgumentError("--samples goes with --dequantisation uniform or truncated_normal.")
    if dequantisation is not None and span is None:
        raise ArgumentError("--dequantisation needs the bins: give --data-range LOW,HIGH and --levels.")
    _check_out(out)
    use_threads(threads)
    named = load_model(model, sde)
    source = data or ("held-out" if named.target is None else "exact")
    x = _data(source, named, n, seed, spread=dequantisation is None)
    classes = labels(named, label, len(x))
    given: dict[str, Any] = {
        "estimator": None if estimator == "flow" else estimator,
        "repeats": repeats,
        "solver": solver,
        "steps": steps,
        "divergence": divergence,
        "probes": probes,
        "probe_distribution": probe_distribution,
        "integration_error": integration_error or None,
        "tolerance": tolerance,
        "tolerance_unit": None if unit == "nats" else unit,
        "max_nfe": max_nfe,
        "t_eps": t_eps,
        "truncation": truncation,
        "prior": prior,
        "target": named.target if estimator == "flow" and truncation is None else None,
        "condition": None if classes is None else {"y": classes},
        **options(option or []),
    }
    given = {name: value for name, value in given.items() if value is not None}
    if dequantisation is not None:
        given |= {"levels": levels, "data_range": span, "dequantisation": dequantisation, "samples": samples or 1}
    more = _More(
        bins=None if span is None or levels is None or dequantisation is not None else (span, levels),
        exact=named.target if source == "exact" else None,
    )
    table = _run(named, x, given, more, seed, block, out)
    results = _summary(table)
    settings = {
        "command": "likelihood",
        "model": model,
        "sde": named.model.sde.to_dict(),
        "data": source,
        "n": len(x),
        "label": label,
        "estimator": estimator,
        "integration_error": integration_error,
        **{name: value for name, value in given.items() if name not in ("condition", "target")},
        "divergence": results["divergence"],
        "seed": seed,
        "threads": threads,
        "data_range": span,
        "levels": levels,
    }
    if out is not None:
        _write(out, table, settings, results)
    if as_json:
        print_json({"settings": settings, "results": results})
    else:
        _print_summary(model, source, results)
    if out is not None:
        note(f"wrote {out}")
    missing = int((table["status"] != "success").sum())
    if missing:
        note(f"sdekit: {missing} of {len(table)} samples are without success: see the column 'status'.")
        raise typer.Exit(1)


@final
@dataclass(frozen=True)
class _More:
    """Further columns: bits per dimension of the density, where bins are given, and an exact target's log-density."""

    bins: tuple[tuple[float, float], int] | None
    exact: Target | None

    def __call__(self, found: LogLikelihood | DiscreteLogLikelihood, x: Tensor) -> dict[str, Tensor]:
        from sdekit.likelihood import LogLikelihood

        columns = {}
        if self.bins is not None and isinstance(found, LogLikelihood):
            columns["bits_per_dim"] = found.bits_per_dim(data_range=self.bins[0], levels=self.bins[1])
        if self.exact is not None:
            columns["exact_log_prob"] = self.exact.log_prob(x)
        return columns


def _run(
    named: NamedModel, x: Tensor, given: dict[str, Any], more: _More, seed: int, block: int, out: Path | None
) -> pd.DataFrame:
    """The table of all samples; kept block by block where it goes to a .parquet file."""
    from sdekit.experiments.likelihood_run import likelihood_run

    function = _of_levels if "dequantisation" in given else _of_densities
    kept = out if out is not None and out.suffix == ".parquet" else None
    try:
        run = likelihood_run(
            named.model,
            x,
            kept,
            function=function,
            columns=more,
            block=block,
            seed=seed,
            progress=on_terminal(),
            **given,
        )
    except KeyboardInterrupt:
        if kept is not None:
            note(f"interrupted: finished blocks are kept beside {kept}; run the same command again to go on.")
        raise
    if run.reused:
        note(f"{run.reused} of {len(x)} samples were done before.")
    return run.table


def _of_densities(model: ScoreModel, x: Tensor, **arguments: Any) -> LogLikelihood:
    """Log-likelihoods of a block of whatever numbers a file holds."""
    from sdekit.likelihood import log_likelihood

    return log_likelihood(model, x.float(), **arguments)


def _of_levels(model: ScoreModel, x: Tensor, **arguments: Any) -> DiscreteLogLikelihood:
    """The same of discrete data: whole numbers are levels, others the centres of bins."""
    from sdekit.likelihood import discrete_log_likelihood

    return discrete_log_likelihood(model, x.float() if x.is_floating_point() else x.long(), **arguments)


def _check_out(out: Path | None) -> None:
    from sdekit.experiments.storage import check_writable

    if out is None:
        return
    if out.suffix not in _ENDINGS:
        raise ArgumentError(f"--out {str(out)!r} must end in {', '.join(_ENDINGS)}.")
    check_writable(out.parent)


def _data(source: str, model: NamedModel, n: int | None, seed: int, spread: bool) -> Tensor:
    """The samples to score, (n, *); `spread` says whether held-out digits are spread over their bins."""
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
        return dequantise(chosen, torch.Generator().manual_seed(seed)) if spread else chosen
    x = _read(Path(source))
    if n is not None and n > len(x):
        raise ArgumentError(f"{source} holds {len(x)} samples, but --n {n} was asked for.")
    return x if n is None else x[:n]


def _read(path: Path) -> Tensor:
    """The array 'samples' of a file, or its only one; of a .npy no more than is looked at."""
    import warnings
    import zlib
    from zipfile import BadZipFile

    import numpy
    import torch
    from safetensors import SafetensorError

    if path.suffix not in (".npz", ".npy", ".safetensors"):
        raise ArgumentError(f"--data is held-out, exact, or a file .npz, .npy or .safetensors; got {str(path)!r}.")
    if not path.is_file():
        raise ArgumentError(f"there is no file {str(path)!r}.")
    arrays: dict[str, Any]
    try:
        if path.suffix == ".npz":
            with path.open("rb") as file, numpy.load(file, allow_pickle=False) as archive:
                arrays = dict(archive)
        elif path.suffix == ".npy":
            arrays = {"samples": numpy.load(path, mmap_mode="r", allow_pickle=False)}
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
    if values.ndim == 0 or values.size == 0:
        raise ArgumentError(f"{str(path)!r} must hold one or more samples, (n, *); its array is {values.shape}.")
    if not values.dtype.isnative:
        values = values.astype(values.dtype.newbyteorder("="))
    with warnings.catch_warnings():
        # The file is mapped for reading only, and nothing writes to its numbers.
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(values)


def _bins(span: list[float], levels: int | None) -> tuple[float, float]:
    """The range, checked with the levels before the solve and not after it."""
    from sdekit.likelihood.result import bin_width

    if len(span) != 2:
        raise ArgumentError(f"--data-range takes two numbers, LOW,HIGH; got {len(span)}.")
    bin_width((span[0], span[1]), 1 if levels is None else levels)
    return span[0], span[1]


def _summary(table: pd.DataFrame) -> dict[str, Any]:
    """Means over the samples, each with its standard error sd/sqrt(n), and the errors' means and largest values.

    What is known of no sample is left out; of std_error it is said that it is not.
    """
    import numpy

    nfe = table["nfe"].dropna()
    summary: dict[str, Any] = {
        "samples": len(table),
        "without_success": int((table["status"] != "success").sum()),
        "nfe": {"mean": float(nfe.mean()), "largest": int(nfe.max())} if len(nfe) else None,
        "kind": _only(table["kind"]),
        "divergence": _only(table["divergence"]),
    }
    for name in _WORDS:
        if name in table and table[name].notna().any():
            values = table[name].dropna()
            error = float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.nan
            summary[name] = {"mean": float(values.mean()), "standard_error": error}
    known = table["std_error"].dropna()
    summary["probe_error_of_the_mean"] = float(numpy.sqrt((known**2).sum())) / max(len(known), 1)
    errors = ["std_error", *(c for c in table if str(c).endswith("_error") and c != "std_error")]
    summary["errors"] = {
        name: {"mean": float(table[name].mean()), "largest": float(table[name].abs().max())}
        for name in errors
        if name == "std_error" or table[name].notna().any()
    }
    return summary


def _only(values: pd.Series[Any]) -> Any:
    """The value that all rows have; None where there is none."""
    known = values.dropna().unique()
    return known[0] if len(known) == 1 else None


_WORDS = {
    "log_prob": ("mean log p", " nats"),
    "log_prob_0": ("to t = 0", " nats"),
    "exact_log_prob": ("exact at t = 0", " nats"),
    "bits_per_dim": ("bits/dim", ""),
}


def _print_summary(model: str, source: str, results: dict[str, Any]) -> None:
    print(f"{model}, {results['samples']} samples ({source}), {results['kind']}, {results['divergence']}")
    for name, (word, unit) in _WORDS.items():
        if name in results:
            print(f"{word:<18} {results[name]['mean']:.4f} ± {results[name]['standard_error']:.4f}{unit}")
    print("± is one standard error of the mean over samples")
    if results["nfe"] is not None:
        print(f"evaluations a sample: {results['nfe']['mean']:.0f} in the mean, {results['nfe']['largest']} at most")
    print()
    print(f"{'error in nats':<24} {'mean':>10} {'largest':>10}")
    for name, value in results["errors"].items():
        print(f"{name:<24} {value['mean']:>10.3g} {value['largest']:>10.3g}")


def _write(out: Path, table: pd.DataFrame, settings: dict[str, Any], results: dict[str, Any]) -> None:
    from sdekit.experiments.provenance import provenance, write_beside

    if out.suffix == ".csv":
        table.to_csv(out, index=False)
    elif out.suffix == ".json":
        table.to_json(out, orient="records", indent=2, double_precision=15)
    write_beside(out, provenance(settings, results))
