"""The log-probability of discrete data under a score model, by dequantisation."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sdekit._tensors import check_positive_integer
from sdekit.errors import ArgumentError, UnknownNameError
from sdekit.likelihood.compute import log_likelihood
from sdekit.likelihood.discrete.bins import Bins
from sdekit.likelihood.discrete.dequantisation import Dequantisation, TruncatedNormal, Uniform
from sdekit.likelihood.discrete.importance import weighted
from sdekit.likelihood.discrete.result import DiscreteBudget, DiscreteLogLikelihood
from sdekit.likelihood.result import LogLikelihood
from sdekit.likelihood.settings import check_span
from sdekit.models.score import ScoreModel
from sdekit.noise import noise_source
from sdekit.sdes import DiffusionSDE

__all__ = ["discrete_log_likelihood"]

_NAMES = (Uniform.name, TruncatedNormal.name)


def discrete_log_likelihood(
    model: ScoreModel,
    x: Tensor,
    *,
    levels: int,
    data_range: tuple[float, float],
    dequantisation: str | Dequantisation = "uniform",
    samples: int = 1,
    t_eps: float | None = None,
    seed: int | None = None,
    seeds: Sequence[int] | None = None,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
    first: int = 0,
    **arguments: Any,
) -> DiscreteLogLikelihood:
    r"""A lower bound on the log-probability of each discrete sample, with its errors.

    A level k is a bin of width w about its centre c_k. With p~ the model's density of x_eps/alpha_eps, its probability
    is P(k) = int p~(c_k + u) du over the bin, and with u_1 … u_K drawn from a density q in the bin,

        log P(k) >= E log (1/K) sum_i p~(c_k + u_i)/q(u_i),    p~(x) = p(alpha_eps x) alpha_eps^d

    (K = 1: Theis et al. 2016, arXiv 1511.01844; K > 1: Burda et al. 2016, arXiv 1509.00519; truncated normal q: Zheng
    et al. 2023, arXiv 2305.03935). The bound tightens with K to P itself. Each draw costs a `log_likelihood`. Where its
    trace is estimated and K > 1, half the variance of its noise is taken off each log p~: a weight is then unbiased,
    and the bound one in spite of the noise.

    A uniform draw may lie far off what the model takes for data, where a flow needs more steps than on it: look at
    `budget.integration` (integration_error=True), or ask for a tolerance.

    Args:
        model: the score model.
        x: (B, *): values at the centres of bins, floating point, or levels 0 … levels - 1, integer. The network is
            called in the dtype of x; for integers in that of its parameters.
        levels: how many bins cover the range.
        data_range: (low, high), the outer edges of the bins in the units of the model. For 8-bit data scaled as
            k/127.5 - 1, whose levels lie on -1 and 1, that is (-1 - 1/255, 1 + 1/255).
        dequantisation: "uniform", or "truncated_normal" with the standard deviation sigma~(t_eps), or a `Uniform` or
            `TruncatedNormal`. The second is the better one for a model that was trained on the discrete values
            themselves, the first for one that spreads them over their bins. Both give lower bounds, so the higher one
            counts.
        samples: K.
        t_eps: where the density is had; `t_min` of the SDE unless given.
        seed: of the draws and the probes: every sample its own streams, keyed by (seed, first + index); the draws of a
            smaller K are the first of a larger. 0 unless one of seed, seeds and generator is given.
        seeds, generator, first: as in `sample`.
        arguments: of `log_likelihood`.

    Raises:
        ArgumentError, ShapeError, UnknownNameError, UnsupportedError: for input that makes no sense (values of x off
            the bins are named), before any evaluation; and as `log_likelihood`.
        NonFiniteError: as `log_likelihood`.
    """
    if not isinstance(model, ScoreModel):
        raise ArgumentError(
            f"model must be a ScoreModel, got {type(model).__name__}; wrap it: ScoreModel(network, sde)."
        )
    if "truncation" in arguments:
        raise ArgumentError("P of discrete data is bounded with the noise of t_eps in it; leave truncation out.")
    bins = Bins(levels, data_range)
    level = bins.levels_of(x)
    dtype = x.dtype if x.is_floating_point() else model.placement[0]
    bins.check_dtype(dtype)
    count = check_positive_integer("samples", samples)
    start, _ = check_span(model.sde, t_eps)
    noise = _check_dequantisation(dequantisation, model.sde, start)
    if seed is None and seeds is None and generator is None:
        seed = 0
    source = noise_source(seed=seed, seeds=seeds, generator=generator, first=first)
    draws = source.open(tuple(x.shape), purpose="dequantisation", dtype=torch.float64, device=x.device)
    centres, alpha, d = bins.centres(level), float(model.sde.alpha(start)), math.prod(x.shape[1:])
    found: list[LogLikelihood] = []
    logs: list[Tensor] = []
    for i in range(count):
        u, log_q = noise.draw(draws.next(0.0, 0.0), bins.width)
        if seed is not None:
            arguments = {**arguments, "seed": _seed_of_draw(seed, i), "first": first}
        elif seeds is not None:
            arguments = {**arguments, "seeds": [_seed_of_draw(s, i) for s in seeds]}
        else:
            arguments = {**arguments, "generator": generator}
        ll = log_likelihood(model, (alpha * (centres + u)).to(dtype), t_eps=start, **arguments)
        found.append(ll)
        logs.append(ll.log_prob + d * math.log(alpha) - log_q)
    return _joined(found, torch.stack(logs), noise, bins, d)


def _check_dequantisation(given: object, sde: DiffusionSDE, start: float) -> Dequantisation:
    if isinstance(given, Dequantisation):
        return given
    if not isinstance(given, str):
        raise ArgumentError(f"dequantisation must be one of {', '.join(_NAMES)}, or a Dequantisation; got {given!r}.")
    if given not in _NAMES:
        raise UnknownNameError("dequantisation", given, _NAMES)
    return Uniform() if given == Uniform.name else TruncatedNormal(float(sde.sigma_ratio(start)))


def _seed_of_draw(seed: int, i: int) -> int:
    """A seed of its own for the probes of draw i."""
    return int.from_bytes(hashlib.blake2b(f"{int(seed)}/{i}".encode(), digest_size=8).digest(), "little")


def _joined(
    found: list[LogLikelihood], logs: Tensor, noise: Dequantisation, bins: Bins, d: int
) -> DiscreteLogLikelihood:
    errors = torch.stack([ll.std_error for ll in found])
    of = weighted(logs, errors)
    integrations = [ll.budget.integration for ll in found if ll.budget.integration is not None]
    nfe: int | Tensor = found[0].nfe
    for ll in found[1:]:
        nfe = nfe + ll.nfe
    return DiscreteLogLikelihood(
        log_prob=of.bound,
        std_error=of.std_error,
        bound_of_one=of.one,
        effective_samples=of.effective,
        nfe=nfe,
        budget=DiscreteBudget(
            dequantisation=of.gap,
            probe=torch.sqrt(of.mean(of.shares * errors.square())),
            integration=of.mean(torch.stack(integrations)) if integrations else None,
            prior=of.mean(torch.stack([ll.budget.prior for ll in found])),
            unknown=found[0].budget.unknown,
        ),
        status=next((ll.status for ll in found if ll.status != "success"), "success"),
        kind="approximate" if found[0].kind == "approximate" else "bound",
        divergence=found[0].divergence,
        dequantisation=repr(noise),
        samples=len(found),
        levels=bins.levels,
        data_range=bins.data_range,
        dim=d,
    )
