"""Log-likelihoods of a whole dataset: a table on disk, a row for each sample, that a run which dies goes on with.

The samples are taken in blocks. A finished block is a Parquet file of its own in the folder `<out>.parts`, whole or not
there at all; when all are done they become the one table. A block's name starts with a digest of everything that
determines its numbers, so that a run with other settings, another model or other data finds none of them.
"""

from __future__ import annotations

import io
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor

from sdekit._tensors import check_positive_integer
from sdekit.errors import ArgumentError, NonFiniteError, ShapeError
from sdekit.experiments.fingerprint import fingerprint
from sdekit.experiments.provenance import versions
from sdekit.experiments.storage import check_writable, write_atomically
from sdekit.likelihood import DiscreteLogLikelihood, LogLikelihood, log_likelihood
from sdekit.models.score import ScoreModel, conditioned
from sdekit.solvers.progress import progress_bar

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["LikelihoodRun", "likelihood_run", "likelihood_table"]

Found = LogLikelihood | DiscreteLogLikelihood

_ALWAYS = ("sample", "log_prob", "std_error", "nfe", "kind", "divergence", "status")
_AT_ONCE = 2**22  # numbers of x in a part of its digest


@final
@dataclass(frozen=True)
class LikelihoodRun:
    """What a run made.

    Attributes:
        table: a row for each sample: see `likelihood_table`.
        path: the Parquet file that holds it, if one does.
        reused: how many samples an earlier run had done.
    """

    table: pd.DataFrame
    path: Path | None
    reused: int


def likelihood_run(
    model: ScoreModel,
    x: Tensor,
    out: str | Path | None,
    *,
    function: Callable[..., Found] = log_likelihood,
    columns: Callable[[Found, Tensor], Mapping[str, Tensor]] | None = None,
    block: int = 256,
    seed: int = 0,
    progress: bool = False,
    **arguments: Any,
) -> LikelihoodRun:
    """The log-likelihood of every sample of x, in a Parquet table; what was done is kept, whatever ends the run.

    Call it again, with everything as it was, to go on: finished blocks are read, not computed. Row i is what
    `function(model, x[i:i + 1], seed=seed, first=i, …)` gives, so the table depends neither on `block` nor on where a
    run was interrupted, bit for bit where the network works entry by entry and to its rounding elsewhere. A sample
    that holds NaN or infinities, or whose solve becomes non-finite, has a row that says so, and the others go on.

    Of x, a block is taken at a time, and no copy of the whole is made: a memory-mapped array may be larger than memory.

    Args:
        model: the score model.
        x: (n, *), floating point, or whatever `function` takes; it may be memory-mapped.
        out: the table's file, ending in .parquet; written when all is done. None keeps nothing on disk.
        function: `log_likelihood` or `discrete_log_likelihood`.
        columns: more columns of the table: a function of a block's result and its samples.
        block: samples solved at a time and kept together.
        seed: of the probes.
        progress: show a bar.
        arguments: the function's: divergence, probes, tolerance, condition, …

    Raises:
        ArgumentError: if `out` is no such file, cannot be written, or holds the table of another run.
        As `function`: what it says of its settings, before any evaluation; of a block's values, when their turn comes.
        KeyboardInterrupt: on Ctrl-C; finished blocks stay.
    """
    path = None if out is None else _check_out(out)
    if not isinstance(x, Tensor) or x.ndim == 0 or len(x) == 0:
        raise ShapeError(f"x must be a tensor of one or more samples, (n, *), got {getattr(x, 'shape', x)!r}.")
    for name in ("seeds", "generator", "first"):
        if name in arguments:
            raise ArgumentError(f"a run keys every sample by seed and place; leave {name} out.")
    n, block = len(x), check_positive_integer("block", block)
    model = conditioned(model, arguments.pop("condition", None))
    made_of = [model, _in_parts(x), function, columns, seed, sorted(arguments.items()), versions()]
    parts: _Parts | _InMemory = _InMemory() if path is None else _Parts(path, fingerprint(made_of)[:24])
    table = parts.finished()
    if table is not None:
        return LikelihoodRun(table, path, n)
    covered = parts.covered(n)
    reused = int(covered.sum())
    with progress_bar(progress, total=n, initial=reused, unit="sample") as bar:
        for start, stop in _blocks(covered, block):
            parts.write(start, stop, _rows(function, columns, model, x, start, stop, {**arguments, "seed": seed}))
            bar.update(stop - start)
    return LikelihoodRun(parts.finish(), path, reused)


def likelihood_table(found: Found, first: int = 0) -> pd.DataFrame:
    """A result as a table, a row for each sample.

    Columns: sample (from `first` on), log_prob, std_error, an error for each entry of the budget that is known; of a
    density total_error (`budget.total`), log_prob_0, and met where a tolerance was asked for; of discrete data
    bits_per_dim and effective_samples; then nfe, kind, divergence, and status: "success", or why there is none.
    """
    import pandas as pd

    n = len(found.log_prob)
    columns: dict[str, Any] = {
        "sample": range(first, first + n),
        "log_prob": found.log_prob.cpu().numpy(),
        "std_error": found.std_error.cpu().numpy(),
    }
    good = torch.isfinite(found.log_prob)
    if isinstance(found, DiscreteLogLikelihood):
        columns["bits_per_dim"] = found.bits_per_dim().cpu().numpy()
        columns["effective_samples"] = found.effective_samples.cpu().numpy()
    else:
        columns["total_error"] = found.budget.total.cpu().numpy()
        columns["log_prob_0"] = found.log_prob_0.cpu().numpy()
        if found.budget.met is not None:
            columns["met"], good = found.budget.met.cpu().numpy(), found.budget.met
    for name, error in found.budget.to_dict().items():
        if error is not None and name != "probe":
            columns[f"{name}_error"] = error.cpu().numpy()
    columns["nfe"] = torch.as_tensor(found.nfe).expand(n).cpu().numpy()
    columns["kind"], columns["divergence"] = found.kind, found.divergence
    columns["status"] = ["success" if ok else found.status for ok in good.tolist()]
    return pd.DataFrame(columns)


def _rows(
    function: Callable[..., Found],
    columns: Callable[[Found, Tensor], Mapping[str, Tensor]] | None,
    model: ScoreModel,
    x: Tensor,
    start: int,
    stop: int,
    arguments: dict[str, Any],
) -> pd.DataFrame:
    """The rows of samples start … stop - 1; those whose solve becomes non-finite are said to be so."""
    import pandas as pd

    bad = (~torch.isfinite(x[start:stop]).reshape(stop - start, x[0].numel()).all(1)).nonzero()[:, 0].tolist()
    said = "non-finite data"
    if not bad:
        try:
            found = function(model.part(start, stop, len(x)), x[start:stop], first=start, **arguments)
        except NonFiniteError as error:
            # An error that names no sample may be of any of them: each is then tried by itself.
            if not error.samples and stop - start > 1:
                each = [_rows(function, columns, model, x, i, i + 1, arguments) for i in range(start, stop)]
                return _joined(each)
            bad, said = sorted(error.samples) or [0], f"non-finite at t = {error.time:.6g}"
    if bad:
        tables, at = [], start
        for i in (start + i for i in bad):
            if at < i:
                tables.append(_rows(function, columns, model, x, at, i, arguments))
            tables.append(pd.DataFrame({"sample": [i], "log_prob": [math.nan], "status": [said]}))
            at = i + 1
        if at < stop:
            tables.append(_rows(function, columns, model, x, at, stop, arguments))
        return _joined(tables)
    table = likelihood_table(found, start)
    for name, values in (columns(found, x[start:stop]) if columns is not None else {}).items():
        table[name] = values.cpu().numpy()
    return table


def _joined(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """All rows in order, with the columns of a sample that has a likelihood: those of one that has none are empty."""
    import pandas as pd

    whole = pd.concat(tables, ignore_index=True).sort_values("sample", ignore_index=True)
    columns: list[list[str]] = [list(_ALWAYS), *(table.columns.tolist() for table in tables)]
    return whole.reindex(columns=max(columns, key=len))


def _in_parts(x: Tensor) -> list[str]:
    """What x is, by parts: a digest of the whole would copy it."""
    rows = max(1, _AT_ONCE // max(1, x[0].numel()))
    return [str((x.dtype, tuple(x.shape))), *(fingerprint(x[a : a + rows]) for a in range(0, len(x), rows))]


def _blocks(covered: Tensor, block: int) -> Iterator[tuple[int, int]]:
    """What is not covered yet, in blocks of neighbours."""
    missing = torch.nn.functional.pad((~covered).to(torch.int8), (1, 1))
    edges = missing.diff().nonzero()[:, 0].tolist()  # where a stretch begins, and where it ends
    for start, stop in zip(edges[::2], edges[1::2], strict=True):
        for a in range(start, stop, block):
            yield a, min(stop, a + block)


def _check_out(out: str | Path) -> Path:
    path = Path(out)
    if path.suffix != ".parquet":
        raise ArgumentError(f"out must be a file that ends in .parquet, got {str(out)!r}.")
    if path.is_dir():
        raise ArgumentError(f"out is a folder, {str(out)!r}; give a file in it.")
    check_writable(path.parent)
    return path


_DIGEST = "sdekit digest"


@final
class _InMemory:
    """Finished blocks that nothing is kept of."""

    def __init__(self) -> None:
        self._tables: list[pd.DataFrame] = []

    def finished(self) -> None:
        """Nothing is, before it is made."""

    def covered(self, n: int) -> Tensor:
        """No sample, bool (n,)."""
        return torch.zeros(n, dtype=torch.bool)

    def write(self, start: int, stop: int, table: pd.DataFrame) -> None:
        """Take a block's rows."""
        self._tables.append(table)

    def finish(self) -> pd.DataFrame:
        """All rows."""
        return _joined(self._tables)


@final
class _Parts:
    """The table of a run and its finished blocks, on disk."""

    def __init__(self, path: Path, digest: str) -> None:
        self._path, self._digest = path, digest
        self._folder = path.with_name(f"{path.name}.parts")

    def finished(self) -> pd.DataFrame | None:
        """The whole table, if this very run made it.

        Raises:
            ArgumentError: if the file holds another.
        """
        if not self._path.exists():
            return None
        found = _read(self._path)
        if found is None or found[1] != self._digest:
            raise ArgumentError(
                f"{str(self._path)!r} holds something else: the table of another model, other data or other settings. "
                "Give another file, or remove that one."
            )
        return found[0]

    def covered(self, n: int) -> Tensor:
        """Which samples have rows already, bool (n,)."""
        covered = torch.zeros(n, dtype=torch.bool)
        for _, start, stop in self._files():
            covered[start:stop] = True
        return covered

    def write(self, start: int, stop: int, table: pd.DataFrame) -> None:
        """Keep the rows of samples start … stop - 1."""
        check_writable(self._folder)
        write_atomically(self._folder / f"{self._digest}-{start}-{stop}.parquet", _parquet(table, self._digest))

    def finish(self) -> pd.DataFrame:
        """All rows, written as the table; the parts are removed."""
        whole = _joined([found[0] for path, _, _ in self._files() if (found := _read(path)) is not None])
        write_atomically(self._path, _parquet(whole, self._digest))
        shutil.rmtree(self._folder)
        return whole

    def _files(self) -> list[tuple[Path, int, int]]:
        """Whole parts of this run: file, first sample, one past the last."""
        files = []
        for path in sorted(self._folder.glob(f"{self._digest}-*-*.parquet")):
            if _read(path) is not None:
                start, stop = (int(word) for word in path.stem.split("-")[1:])
                files.append((path, start, stop))
        return files


def _parquet(table: pd.DataFrame, digest: str) -> bytes:
    import pyarrow as pa
    from pyarrow import parquet

    whole = pa.Table.from_pandas(table, preserve_index=False)
    whole = whole.replace_schema_metadata({**(whole.schema.metadata or {}), _DIGEST: digest})
    content = io.BytesIO()
    parquet.write_table(whole, content)
    return content.getvalue()


def _read(path: Path) -> tuple[pd.DataFrame, str] | None:
    """A table and its digest; None where the file cannot be read as one."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
    except (OSError, pa.ArrowException):
        return None
    metadata = table.schema.metadata or {}
    return table.to_pandas(), metadata.get(_DIGEST.encode(), b"").decode()
