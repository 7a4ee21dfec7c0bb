r"""Newton's method for the stages of implicit methods: u = base + c f(u, s), each sample by itself.

    u <- u - M^{-1} (u - base - c f(u, s)),   M = 1 - c J,   J = df/du of the sample, by autodiff

J costs one backward pass for each entry of a sample, far more than f. So M^{-1} is kept, for the next iterations and
for the next stages of the step (of the same c), and made anew only for a sample whose iteration has become slow.

A sample that has converged is left as it is, and one that keeps its M^{-1} keeps its bits: what a sample goes through
does not depend on the others of its batch. The linear systems are solved by elimination with numbers, sample beside
sample: the kernels of `torch.linalg.solve` give a matrix other bits alone than in a batch.

It is for states of up to a few hundred entries; samples of more than 2048 are refused.

Hairer & Wanner 1996, section IV.8.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor

from sdekit._tensors import check_positive, check_positive_integer
from sdekit.dynamics import Dynamics
from sdekit.errors import ConvergenceError, UnsupportedError
from sdekit.solvers.fixed_step import FixedStepSolver

if TYPE_CHECKING:
    from sdekit.solvers.base import Observers, Problem
    from sdekit.solvers.solution import Solution, SolveState

__all__ = ["ImplicitSolver", "Root", "eliminate", "find_root"]

_LARGEST = 2048
_SLOW = 0.1  # the rate of convergence above which a Jacobian is made anew


@final
@dataclass(frozen=True)
class Root:
    """Where Newton's method ended.

    Attributes:
        u: the solution, (B, *).
        converged: whether each sample's iterations came to rest, bool (B,). One whose drift became NaN or infinite
            counts as such: the loop finds it, and names the step. One whose Jacobian did, or whose M is singular, does
            not.
        evaluations: of the drift, that each sample's own iterations took, int64 (B,).
        inverse: M^{-1} of each sample, (B, d, d), for a next stage.
    """

    u: Tensor
    converged: Tensor
    evaluations: Tensor
    inverse: Tensor


def find_root(
    dynamics: Dynamics,
    base: Tensor,
    c: float | Tensor,
    s: Tensor,
    guess: Tensor,
    *,
    tolerance: float,
    max_iterations: int,
    inverse: Tensor | None = None,
    compact: bool = False,
) -> Root:
    r"""The solution u of u = base + c f(u, s).

    With the largest entry |d_n| of the n-th change of a sample and its rate r = |d_n|/|d_(n-1)|, what is left is about
    r/(1 - r) |d_n|. A sample has converged where that is at most `tolerance` times the largest entry of u and base;
    where |d_n| itself is, at an iteration with a Jacobian of its own; or where its changes, of the size of the state's
    rounding, fall no more. Its M^{-1} is made anew where r > 1/10; and where r > 1 or the drift is not finite after a
    change by an old one, that change is taken back first.
    Under autograd the root is differentiable once, by the implicit function theorem, at two evaluations more.

    Args:
        dynamics: whose drift f is; its own copy of a sample must see no other sample.
        base: (B, *).
        c: a number, or (B, 1, …, 1).
        s: the time of the stage, float64, () or (B,).
        guess: where to begin, (B, *).
        tolerance: see above.
        max_iterations: the most iterations.
        inverse: M^{-1} of each sample from an earlier stage, (B, d, d); made at `guess` unless given.
        compact: evaluate the drift for those samples alone that have not converged, by `Dynamics.rows`. Else for all,
            as a drift may rely on where fixed steps are made, and leave the others as they are.

    Raises:
        UnsupportedError: for samples of more than 2048 entries.
    """
    check_size(base)
    u, rest = guess.detach().clone(), base.detach()
    batch, d = u.shape[0], u[0].numel()
    least = 8 * torch.finfo(u.dtype).eps
    rows = torch.arange(batch, device=u.device)  # of those that have not converged
    slow = torch.full((batch,), inverse is None, device=u.device)
    lost = torch.zeros_like(slow)
    inverse = u.new_zeros(batch, d, d, dtype=_wide(u)) if inverse is None else inverse.clone()
    evaluations = torch.zeros_like(rows)
    old = torch.zeros_like(slow)  # whether the last change was by an M^{-1} of another place
    earlier = u
    before = torch.full((batch,), torch.nan, dtype=_wide(u), device=u.device)  # no rate yet
    for _ in range(max_iterations):
        whole = not compact or len(rows) == batch
        part = dynamics if whole else dynamics.rows(rows, tuple(u.shape))
        point, at = (u, s) if whole else (u[rows], _of(s, rows))
        fresh = slow[rows]
        if bool(fresh.any()):
            f, jacobian = _drift_and_jacobian(part, point, at)
            made = _inverse(jacobian[rows] if whole else jacobian, _of(c, rows))
            inverse[rows[fresh]] = made[fresh]
        else:
            f = part.drift(point, at).detach()
        f = f[rows] if whole else f
        y, x = u[rows], rest[rows]
        change = _times(inverse[rows], _flat(y - x - _of(c, rows) * f))
        y = y - change.reshape(y.shape).to(y.dtype)
        size = change.abs().amax(1)
        scale = torch.maximum(_flat(y).abs().amax(1), _flat(x).abs().amax(1))
        rate = size / before[rows]
        astray = old[rows] & ~fresh & ~(rate <= 1)
        y = torch.where(_column(astray, y), earlier[rows], y)
        small = (size <= least * scale) | (rate * size <= tolerance * (1 - rate) * scale)
        small |= fresh & (size <= tolerance * scale)
        stalled = fresh & (size <= least**0.5 * scale) & (rate >= 0.5)
        broken = ~torch.isfinite(size) & ~astray
        earlier, u = u, u.index_copy(0, rows, y)  # not in place: the drift may have kept what it was given
        before[rows] = torch.where(astray, torch.nan, size)
        slow[rows], old[rows] = astray | (rate > _SLOW), ~(fresh | astray)
        lost[rows] = broken & torch.isfinite(_flat(f)).all(1)
        evaluations[rows] += 1
        rows = rows[~((small | stalled) & ~astray | broken)]
        if len(rows) == 0:
            break
    lost[rows] = True
    if torch.is_grad_enabled():
        calls = dynamics.counter.calls
        u = _with_gradient(dynamics, u, base, c, s)
        evaluations = evaluations + (dynamics.counter.calls - calls)
    return Root(u, ~lost, evaluations, inverse)


def check_size(x: Tensor) -> None:
    """Raise UnsupportedError for a state whose Jacobian would be too large."""
    if x[0].numel() > _LARGEST:
        raise UnsupportedError(
            "an implicit method solves linear systems with each sample's Jacobian, and serves samples of up to "
            f"{_LARGEST} entries; got {x[0].numel()}. Take an explicit one, such as 'euler_maruyama' or 'tamed_euler'."
        )


def _with_gradient(dynamics: Dynamics, u: Tensor, base: Tensor, c: float | Tensor, s: Tensor) -> Tensor:
    """u, with the derivative of M^{-1} (base + c f) for constant u and M, M at u: that of the solution."""
    image = base + c * dynamics.drift(u, s)
    if not image.requires_grad:
        return u
    _, jacobian = _drift_and_jacobian(dynamics, u, s)
    along = _times(_inverse(jacobian, c), _flat(image)).reshape(u.shape).to(u.dtype)
    return u + (along - along.detach())


def _drift_and_jacobian(dynamics: Dynamics, u: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """f, (B, *), and its derivative in each sample's own entries, (B, d, d): row i is the gradient of f_i."""
    # Off, since in inference mode torch records nothing, and the derivative would be 0.
    with torch.inference_mode(False), torch.enable_grad():
        point = (u.clone() if u.is_inference() else u.detach()).requires_grad_()
        f = dynamics.drift(point, s.clone() if s.is_inference() else s)
        rows = _flat(f)
        jacobian = torch.zeros(*rows.shape, rows.shape[1], dtype=rows.dtype, device=u.device)
        if f.requires_grad:
            for i in range(rows.shape[1]):
                (row,) = torch.autograd.grad(rows[:, i].sum(), point, retain_graph=True, allow_unused=True)
                if row is not None:
                    jacobian[:, i] = _flat(row)
    return f.detach().clone(), jacobian


def _inverse(jacobian: Tensor, c: float | Tensor) -> Tensor:
    """(1 - c J)^{-1}, (B, d, d)."""
    unit = torch.eye(jacobian.shape[-1], dtype=jacobian.dtype, device=jacobian.device)
    factor = c.detach().reshape(-1, 1, 1) if isinstance(c, Tensor) else c
    return eliminate(unit - factor * jacobian, unit.expand(jacobian.shape))


def _times(matrix: Tensor, vector: Tensor) -> Tensor:
    """The products of matrices (B, d, d) and vectors (B, d), column by column: a sample's bits are its own."""
    total = matrix[..., 0] * vector[:, 0, None]
    for j in range(1, vector.shape[1]):
        total = total + matrix[..., j] * vector[:, j, None]
    return total


def eliminate(matrix: Tensor, right: Tensor) -> Tensor:
    """The solutions x, (B, d, r), of the systems matrix x = right, by Gaussian elimination with row pivots.

    Each product and sum is of numbers side by side, so that a sample's bits are its own. A singular matrix gives values
    that are not finite.
    """
    work = torch.cat([matrix, right], dim=-1)
    each, d = torch.arange(len(work), device=work.device), work.shape[1]
    for k in range(d):
        pivot = work[:, k:, k].abs().argmax(1) + k
        row = work[each, pivot]
        work[each, pivot] = work[:, k].clone()
        work[:, k] = row
        if k + 1 < d:
            ratio = work[:, k + 1 :, k] / row[:, k, None]
            work[:, k + 1 :, k:] = work[:, k + 1 :, k:] - ratio[..., None] * row[:, None, k:]
    x = work[..., d:].clone()
    for k in reversed(range(d)):
        x[:, k] = x[:, k] / work[:, k, k, None]
        x[:, :k] = x[:, :k] - work[:, :k, k, None] * x[:, None, k]
    return x


def _wide(x: Tensor) -> torch.dtype:
    """The dtype of the linear algebra: that of x, float32 at least."""
    return x.dtype if x.dtype in (torch.float32, torch.float64) else torch.float32


def _flat(x: Tensor) -> Tensor:
    return x.reshape(x.shape[0], -1).to(_wide(x))


def _column(flags: Tensor, like: Tensor) -> Tensor:
    return flags.reshape(-1, *([1] * (like.ndim - 1)))


def _of(value: Any, rows: Tensor) -> Any:
    """A number or a tensor () as it is, the rows of one of (B, …)."""
    return value[rows] if isinstance(value, Tensor) and value.ndim > 0 else value


class ImplicitSolver(FixedStepSolver):
    """What implicit methods share: the options of Newton's method, and the error where it does not converge."""

    tolerance: float
    max_iterations: int
    differentiates = True

    def check_options(self) -> None:
        """Raise ArgumentError for options that make no sense."""
        check_positive("tolerance", self.tolerance)
        check_positive_integer("max_iterations", self.max_iterations)

    def root(
        self,
        dynamics: Dynamics,
        base: Tensor,
        c: float | Tensor,
        s: Tensor,
        guess: Tensor,
        inverse: Tensor | None = None,
        compact: bool = False,
    ) -> Root:
        """`find_root` with the options of this solver."""
        limit, most = float(self.tolerance), int(self.max_iterations)
        return find_root(
            dynamics, base, c, s, guess, tolerance=limit, max_iterations=most, inverse=inverse, compact=compact
        )

    def require(self, converged: Tensor, s: Tensor) -> None:
        """Raise ConvergenceError for the samples that have not converged in the step to s."""
        if not bool(converged.all()):
            samples = (~converged).nonzero()[:, 0].tolist()
            raise ConvergenceError(self.name, float(s.reshape(-1)[0]), samples, self.max_iterations)

    def integrate(
        self,
        problem: Problem,
        observers: Observers | None = None,
        *,
        resume: SolveState | None = None,
        stop: int | None = None,
    ) -> Solution:
        check_size(problem.x)
        try:
            return super().integrate(problem, observers, resume=resume, stop=stop)
        except ConvergenceError as error:
            raise error.at_step(int((problem.times - error.time).abs().argmin())) from None
