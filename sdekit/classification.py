r"""Bayes' rule on conditional likelihoods: which class a sample belongs to, from p(x | class) of one model.

P(c | x) = p(x | c) P(c)/sum_c' p(x | c') P(c')

(With bounds in place of likelihoods: Li et al. 2023, arXiv 2303.16203; Clark & Jaini 2023, arXiv 2303.15233.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from sdekit._tensors import check_state
from sdekit.errors import ArgumentError, ShapeError
from sdekit.likelihood import LogLikelihood, log_likelihood
from sdekit.models.score import ScoreModel

__all__ = ["Classification", "classify"]


@final
@dataclass(frozen=True)
class Classification:
    """What Bayes' rule makes of the likelihoods.

    Attributes:
        classes: the C classes, in the order of the columns.
        log_probs: log p(x | c) in nats, float64 (B, C).
        std_errors: their standard errors, (B, C).
        log_posterior: log P(c | x), (B, C).
        log_prob: log p(x) = log sum_c P(c) p(x | c), (B,).
        likelihoods: what `log_likelihood` returned, class by class.
    """

    classes: tuple[Any, ...]
    log_probs: Tensor
    std_errors: Tensor
    log_posterior: Tensor
    log_prob: Tensor
    likelihoods: tuple[LogLikelihood, ...]

    @property
    def index(self) -> Tensor:
        """The column of the likeliest class, int64 (B,)."""
        return self.log_posterior.argmax(1)

    @property
    def predicted(self) -> list[Any]:
        """The likeliest class of each sample."""
        return [self.classes[i] for i in self.index.tolist()]

    @property
    def margin(self) -> Tensor:
        """log P(c | x) of the likeliest class less that of the next, in nats, (B,)."""
        best = self.log_posterior.topk(2, dim=1).values
        return best[:, 0] - best[:, 1]

    @property
    def margin_error(self) -> Tensor:
        """The standard error of `margin` were the two likelihoods' errors independent, (B,): more than it is, since all
        classes share their probes.
        """
        errors = self.std_errors.gather(1, self.log_posterior.topk(2, dim=1).indices)
        return torch.sqrt(errors.square().sum(1))

    def __repr__(self) -> str:
        return (
            f"Classification({len(self.log_prob)} samples, {len(self.classes)} classes, smallest margin "
            f"{float(self.margin.min()):.3g} nats, of {self.likelihoods[0]!r} and the others)"
        )


def classify(
    model: ScoreModel,
    x: Tensor,
    classes: Sequence[Any],
    *,
    name: str = "y",
    class_probs: Sequence[float] | Tensor | None = None,
    **arguments: Any,
) -> Classification:
    r"""The class of each sample, by Bayes' rule from p(x | class).

    All classes have the same probes for a sample, so that their noise cancels from the differences of likelihoods as
    far as the Jacobians are alike.

    Args:
        model: a score model whose network takes the class of each sample as a keyword argument.
        x: (B, *), floating point.
        classes: two or more integers, which the network takes as an int64 tensor (B,).
        name: of the keyword argument.
        class_probs: P(c), one for each class, above 0, with the sum 1; equal ones unless given.
        arguments: of `log_likelihood`: divergence, probes, steps, seed, chunk, …; `condition` for what else the network
            takes.

    Raises:
        ArgumentError, ShapeError: for input that makes no sense, before any evaluation; and as `log_likelihood`, which
            also tells of a class that the network has not, when its turn comes.
    """
    x = check_state("x", x)
    kinds = _classes(classes)
    log_prior = _log_prior(class_probs, len(kinds))
    other = arguments.pop("condition", None) or {}
    if name in other:
        raise ArgumentError(f"condition gives {name!r} too, which is the class; leave it out, or name another.")
    if arguments.get("generator") is not None:
        raise ArgumentError("a generator would give every class other probes; give a seed.")
    found = []
    for kind in kinds:
        labels = torch.full((len(x),), kind, dtype=torch.int64, device=x.device)
        found.append(log_likelihood(model, x, condition={**other, name: labels}, **arguments))
    log_probs = torch.stack([each.log_prob for each in found], 1)
    joint = log_probs + log_prior.to(x.device)
    log_prob = torch.logsumexp(joint, 1)
    return Classification(
        classes=kinds,
        log_probs=log_probs,
        std_errors=torch.stack([each.std_error for each in found], 1),
        log_posterior=joint - log_prob[:, None],
        log_prob=log_prob,
        likelihoods=tuple(found),
    )


def _classes(classes: Sequence[Any]) -> tuple[int, ...]:
    try:
        kinds = tuple(int(c) for c in classes)
    except (TypeError, ValueError):
        raise ArgumentError(f"classes must be a sequence of integers, got {classes!r}.") from None
    if len(kinds) < 2 or len(set(kinds)) != len(kinds) or any(k != c for k, c in zip(kinds, classes, strict=True)):
        raise ArgumentError(f"classes must be two or more different integers, got {classes!r}.")
    return kinds


def _log_prior(class_probs: Sequence[float] | Tensor | None, count: int) -> Tensor:
    """log P(c), float64 (C,)."""
    if class_probs is None:
        return torch.full((count,), -math.log(count), dtype=torch.float64)
    prior = torch.as_tensor(class_probs, dtype=torch.float64)
    if prior.shape != (count,):
        raise ShapeError(f"class_probs must hold one number for each of the {count} classes, got {tuple(prior.shape)}.")
    if not bool((prior > 0).all()) or abs(float(prior.sum()) - 1) > 1e-6:
        raise ArgumentError(f"class_probs must be above 0 and have the sum 1, got {prior.tolist()}.")
    return torch.log(prior)
