r"""Newton's method for the stages of implicit methods: u = base + c f(u, s), each sample by itself.

    u <- u - (1 - c J)^{-1} (u - base - c f(u, s)),   J = df/du of the sample, by autodiff

A sample that has converged is left as it is, so that its bits do not depend on how long the others of its batch take.
The linear systems are solved by elimination with numbers, sample beside sample: the kernels of `torch.linalg.solve`
give a matrix other bits alone than in a batch.

An iteration costs one evaluation, and one backward pass for each entry of a sample: it is for states of up to a few
hundred entries, and samples of more than 2048 are refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

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


@final
@dataclass(frozen=True)
class Root:
    """Where Newton's method ended.

    Attributes:
        u: the solution, (B, *).
        converged: whether each sample's iterations came to rest, bool (B,). One whose values became NaN or infinite
            counts as such: the loop finds it, and names the step.
    """

    u: Tensor
    converged: Tensor


def find_root(
    dynamics: Dynamics,
    base: Tensor,
    c: float | Tensor,
    s: Tensor,
    guess: Tensor,
    *,
    tolerance: float,
    max_iterations: int,
) -> Root:
    """The solution u of u = base + c f(u, s).

    A sample has converged where an iteration moved no entry by more than `tolerance` times the largest of u and base;
    or by more than the state's rounding, no further than half as much as the iteration before.
    Under autograd it is differentiable once, by the implicit function theorem, at one evaluation more.

    Args:
        dynamics: whose drift f is; its own copy of a sample must see no other sample.
        base: (B, *).
        c: a number, or (B, 1, …, 1).
        s: the time of the stage, float64, () or (B,).
        guess: where to begin, (B, *).
        tolerance: see above.
        max_iterations: the most iterations.

    Raises:
        UnsupportedError: for samples of more than 2048 entries.
    """
    check_size(base)
    u, rest = guess.detach().clone(), base.detach()
    factor = c.detach().reshape(-1, 1, 1) if isinstance(c, Tensor) else c
    rounding = torch.finfo(u.dtype).eps
    moving = torch.ones(u.shape[0], dtype=torch.bool, device=u.device)
    before = torch.full((u.shape[0],), torch.inf, dtype=_wide(u), device=u.device)
    for _ in range(max_iterations):
        f, jacobian = _drift_and_jacobian(dynamics, u, s)
        matrix = torch.eye(jacobian.shape[-1], dtype=jacobian.dtype, device=u.device) - factor * jacobian
        change = eliminate(matrix, _flat(u - rest - c * f)[..., None])[..., 0]
        u = torch.where(_column(moving, u), u - change.reshape(u.shape).to(u.dtype), u)
        size = change.abs().amax(1)
        scale = torch.maximum(_flat(u).abs().amax(1), _flat(rest).abs().amax(1))
        small = size <= max(tolerance, 8 * rounding) * scale
        stalled = (size <= rounding**0.5 * scale) & (size >= 0.5 * before)
        moving = moving & ~(small | stalled | ~torch.isfinite(size))
        before = size
        if not bool(moving.any()):
            break
    if torch.is_grad_enabled():
        u = _with_gradient(dynamics, u, base, c, s, matrix)
    return Root(u, ~moving)


def check_size(x: Tensor) -> None:
    """Raise UnsupportedError for a state whose Jacobian would be too large."""
    if x[0].numel() > _LARGEST:
        raise UnsupportedError(
            "an implicit method solves linear systems with each sample's Jacobian, and serves samples of up to "
            f"{_LARGEST} entries; got {x[0].numel()}. Take an explicit one, such as 'euler_maruyama' or 'tamed_euler'."
        )


def _with_gradient(dynamics: Dynamics, u: Tensor, base: Tensor, c: float | Tensor, s: Tensor, matrix: Tensor) -> Tensor:
    """u, with the derivative of (1 - c J)^{-1} (base + c f) for constant u and J: that of the solution."""
    moved = base + c * dynamics.drift(u, s)
    if not moved.requires_grad:
        return u
    unit = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    inverse = eliminate(matrix, unit.expand(matrix.shape))
    along = (inverse * _flat(moved)[:, None, :]).sum(-1).reshape(u.shape).to(u.dtype)
    return u + (along - along.detach())


def _drift_and_jacobian(dynamics: Dynamics, u: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """f, (B, *), and its derivative in each sample's own entries, (B, d, d): row i is the gradient of f_i."""
    with torch.enable_grad():
        point = u.detach().requires_grad_()
        f = dynamics.drift(point, s)
        rows = _flat(f)
        jacobian = torch.zeros(*rows.shape, rows.shape[1], dtype=rows.dtype, device=u.device)
        if f.requires_grad:
            for i in range(rows.shape[1]):
                (row,) = torch.autograd.grad(rows[:, i].sum(), point, retain_graph=True, allow_unused=True)
                if row is not None:
                    jacobian[:, i] = _flat(row)
    return f.detach().clone(), jacobian


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


class ImplicitSolver(FixedStepSolver):
    """What implicit methods share: the options of Newton's method, and the error where it does not converge."""

    tolerance: float
    max_iterations: int
    differentiates = True

    def check_options(self) -> None:
        """Raise ArgumentError for options that make no sense."""
        check_positive("tolerance", self.tolerance)
        check_positive_integer("max_iterations", self.max_iterations)

    def root(self, dynamics: Dynamics, base: Tensor, c: float | Tensor, s: Tensor, guess: Tensor) -> Root:
        """`find_root` with the options of this solver."""
        return find_root(dynamics, base, c, s, guess, tolerance=self.tolerance, max_iterations=int(self.max_iterations))

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
