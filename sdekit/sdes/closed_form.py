r"""SDEs to test solvers on whose paths are known in closed form. Those without one are in `hard_problems`.

A solution X_t = u(t, W_t) solves, by Ito's formula,

    dX = (u_t + tr(u_ww) / 2) dt + u_w dW    (Ito),        dX = u_t dt + u_w o dW    (Stratonovich).

Both twins are here: `calculus` chooses the drift, and the solution is the same function of the path.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from sdekit._tensors import as_float64, expand_right
from sdekit.errors import ArgumentError, ShapeError
from sdekit.sdes.base import AbstractSDE, Calculus, NoiseKind
from sdekit.sdes.hard_problems import CubicMultiplicative, DoubleWell, NoncommutativeSDE, StiffLinear
from sdekit.sdes.parametric import Parameter, ParametricSDE, check_entries, elapsed, like, wide

__all__ = [
    "CLOSED_FORM_SDES",
    "ArctanSDE",
    "CommutativeLinearSDE",
    "CubicMultiplicative",
    "DecayingAdditiveSDE",
    "DoubleWell",
    "NoncommutativeSDE",
    "StiffLinear",
    "TanhSDE",
]

_HALF_PI = torch.pi / 2
# Matrices given in float32 commute to that type's rounding (6e-8 a product) times their size, and no better.
_COMMUTE = 1e-6


class _ClosedFormSDE(ParametricSDE):
    """Its solution is a function of the Brownian motion's value."""

    @property
    def _ito(self) -> bool:
        return self.calculus == "ito"

    def _brownian(self, x0: Tensor, w: Tensor) -> Tensor:
        """W_t in float64, of exactly the shape that the noise has: broadcasting would couple samples unseen."""
        expected = self.noise_shape(x0.shape)
        if w.shape != expected:
            raise ShapeError(
                f"the Brownian motion has shape {tuple(w.shape)} for a state of shape {tuple(x0.shape)}; "
                f"with {self.noise} noise expected {expected}."
            )
        return w.double()


def _check_start(x0: Tensor, bound: float, text: str) -> None:
    outside = ~(x0.abs().double() < bound)
    if bool(outside.any()):
        raise ArgumentError(
            f"the closed form needs every entry of x0 strictly between -{text} and {text}; "
            f"{int(outside.sum())} of {x0.numel()} are not, the largest in size {float(x0.abs().max()):.6g}."
        )


def _one_plus(t: Tensor | float, x: Tensor) -> Tensor:
    """1 + t, added in float64 whatever the state, as it broadcasts to x."""
    return expand_right(1 + as_float64(t), x).to(x)


@final
@dataclass(frozen=True, eq=False)
class TanhSDE(_ClosedFormSDE):
    """dX = -a^2 X (1 - X^2) dt + a (1 - X^2) dW (Ito), so that X_t = tanh(a W_t + artanh X_0), |X_0| < 1.

    In Stratonovich form the drift is 0. With noise="scalar" one Brownian motion drives all entries of a sample.

    Source: Kloeden & Platen 1992, section 4.4.
    """

    a: Parameter = 1.0
    calculus: Calculus = "ito"
    noise: NoiseKind = "diagonal"

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        """-a^2 x (1 - x^2), of the shape of x; in Stratonovich form 0."""
        # (1 - x)(1 + x): 1 - x^2 loses half the digits where x is near 1, which is where solutions end.
        return -(like(self.a, x) ** 2) * x * ((1 - x) * (1 + x)) if self._ito else torch.zeros_like(x)

    def diffusion(self, x: Tensor, t: Tensor) -> Tensor:
        """a (1 - x^2), of the shape of x."""
        return like(self.a, x) * ((1 - x) * (1 + x))

    def path(self, x0: Tensor, t: Tensor | float, w: Tensor) -> Tensor:
        """The exact X_t for a Brownian motion whose value at t is w: of the shape of x0, or (B, 1, …, 1) if scalar."""
        elapsed(t, x0)  # checked for a state and a time that mean something; the solution is a function of w alone
        _check_start(x0, 1.0, "1")
        return torch.tanh(wide(self.a, x0) * self._brownian(x0, w) + torch.atanh(x0.double())).to(x0.dtype)


@final
@dataclass(frozen=True, eq=False)
class ArctanSDE(_ClosedFormSDE):
    """dX = -a^2 sin X cos^3 X dt + a cos^2 X dW (Ito), so that X_t = arctan(a W_t + tan X_0), |X_0| < pi/2.

    In Stratonovich form the drift is 0. With noise="scalar" one Brownian motion drives all entries of a sample.

    Source: Kloeden & Platen 1992, section 4.4.
    """

    a: Parameter = 1.0
    calculus: Calculus = "ito"
    noise: NoiseKind = "diagonal"

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        """-a^2 sin(x) cos(x)^3, of the shape of x; in Stratonovich form 0."""
        return -(like(self.a, x) ** 2) * torch.sin(x) * torch.cos(x) ** 3 if self._ito else torch.zeros_like(x)

    def diffusion(self, x: Tensor, t: Tensor) -> Tensor:
        """a cos(x)^2, of the shape of x."""
        return like(self.a, x) * torch.cos(x) ** 2

    def path(self, x0: Tensor, t: Tensor | float, w: Tensor) -> Tensor:
        """The exact X_t for a Brownian motion whose value at t is w: of the shape of x0, or (B, 1, …, 1) if scalar."""
        elapsed(t, x0)
        _check_start(x0, _HALF_PI, "pi/2")
        return torch.arctan(wide(self.a, x0) * self._brownian(x0, w) + torch.tan(x0.double())).to(x0.dtype)


@final
@dataclass(frozen=True, eq=False)
class DecayingAdditiveSDE(_ClosedFormSDE):
    """dX = (b/sqrt(1 + t) - X/(2 (1 + t))) dt + a b/sqrt(1 + t) dW: additive noise that fades, from t = 0.

    X_t = (X_0 + b (t + a W_t)) / sqrt(1 + t),    X_t | X_0 ~ N((X_0 + b t)/sqrt(1 + t), a^2 b^2 t/(1 + t))

    The noise is additive, so that both calculi have one drift.

    Source: Kloeden & Platen 1992, section 4.4.
    """

    a: Parameter = 0.5
    b: Parameter = 1.0
    calculus: Calculus = "ito"
    noise = "additive"

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        """b/sqrt(1 + t) - x/(2 (1 + t)), of the shape of x."""
        u = _one_plus(t, x)
        return like(self.b, x) * u.rsqrt() - x / (2 * u)

    def diffusion(self, x: Tensor, t: Tensor) -> Tensor:
        """a b/sqrt(1 + t), of the shape in which a, b and t broadcast."""
        return like(self.a, x) * like(self.b, x) * _one_plus(t, x).rsqrt()

    def path(self, x0: Tensor, t: Tensor | float, w: Tensor) -> Tensor:
        """The exact X_t for a Brownian motion whose value at t is w (of the shape of x0), started at t = 0."""
        u = elapsed(t, x0)
        a, b = wide(self.a, x0), wide(self.b, x0)
        return ((x0.double() + b * (u + a * self._brownian(x0, w))) * (1 + u).rsqrt()).to(x0.dtype)

    def marginal(self, x0: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of X_t | X_0 = x0 (Gaussian), broadcastable to x0."""
        u = elapsed(t, x0)
        a, b = wide(self.a, x0), wide(self.b, x0)
        mean = (x0.double() + b * u) * (1 + u).rsqrt()
        return mean.to(x0.dtype), ((a * b).abs() * torch.sqrt(u / (1 + u))).to(x0.dtype)


def _circulant(*first_row: float) -> Tensor:
    row = torch.tensor(first_row, dtype=torch.float64, device="cpu")
    return torch.stack([row.roll(i) for i in range(len(first_row))])


def _default_drift() -> Tensor:
    return _circulant(-0.6, 0.4, 0.0)


def _default_noises() -> Tensor:
    return torch.stack([_circulant(0.3, 0.4, 0.0), _circulant(0.1, -0.2, 0.5)])


@final
@dataclass(frozen=True, eq=False)
class CommutativeLinearSDE(_ClosedFormSDE):
    """dX = A X dt + sum_j B_j X dW_j (Ito) with matrices that commute: commutative noise, entries coupled.

    X_t = exp((A - sum_j B_j^2 / 2) t + sum_j B_j W_j(t)) X_0

    In Stratonovich form the drift is (A - sum_j B_j^2 / 2) X. The state is (B, d), g is (B, d, m), dW is (B, m). By
    default d = 3 and m = 2, with circulant matrices, which all commute.

    Args:
        drift_matrix: A, of shape (d, d).
        noise_matrices: B_1, …, B_m, of shape (m, d, d). All samples share the matrices.
        calculus: "ito" or "stratonovich".

    Raises:
        ArgumentError: if two of the matrices do not commute: the closed form would be wrong, and so would the noise
            kind.

    Source: Arnold 1974, section 8.5; Kloeden & Platen 1992, section 4.8.
    """

    drift_matrix: Tensor = field(default_factory=_default_drift)
    noise_matrices: Tensor = field(default_factory=_default_noises)
    calculus: Calculus = "ito"
    noise = "commutative"

    def __post_init__(self) -> None:
        super().__post_init__()
        a, b = self.drift_matrix, self.noise_matrices
        for name, value in (("drift_matrix", a), ("noise_matrices", b)):
            if not isinstance(value, Tensor):
                raise ArgumentError(f"{name} must be a tensor, got {type(value).__name__}.")
        if a.ndim != 2 or a.shape[0] != a.shape[1] or b.ndim != 3 or b.shape[1:] != a.shape or 0 in b.shape:
            raise ShapeError(
                "expected drift_matrix of shape (d, d) and noise_matrices of shape (m, d, d), "
                f"got {tuple(a.shape)} and {tuple(b.shape)}."
            )
        _check_commuting(torch.cat([a[None].double(), b.double()]))
        object.__setattr__(self, "noise_dim", b.shape[0])

    def rows(self, which: slice | Tensor, shape: tuple[int, ...]) -> CommutativeLinearSDE:
        """Itself: all samples share the matrices, whose first dimension is none of the batch."""
        return self

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        """A x, or (A - sum_j B_j^2 / 2) x in Stratonovich form: (B, d)."""
        check_entries(x, self.drift_matrix.shape[0], "this CommutativeLinearSDE")
        matrix = self.drift_matrix if self._ito else self._stratonovich_matrix(x)
        return x @ matrix.to(x).T

    def diffusion(self, x: Tensor, t: Tensor) -> Tensor:
        """B_j x in column j: (B, d, m)."""
        check_entries(x, self.drift_matrix.shape[0], "this CommutativeLinearSDE")
        return torch.einsum("jik,bk->bij", self.noise_matrices.to(x), x)

    def path(self, x0: Tensor, t: Tensor | float, w: Tensor) -> Tensor:
        """The exact X_t, (B, d), for Brownian motions whose values at t are w, of shape (B, m)."""
        check_entries(x0, self.drift_matrix.shape[0], "this CommutativeLinearSDE")
        u = elapsed(t, x0)
        noises = self.noise_matrices.to(device=x0.device, dtype=torch.float64)
        exponent = torch.einsum("bj,jik->bik", self._brownian(x0, w), noises)
        exponent = exponent + u.reshape(-1, 1, 1) * self._stratonovich_matrix(x0)
        flow: Tensor = torch.linalg.matrix_exp(exponent)
        return torch.einsum("bik,bk->bi", flow, x0.double()).to(x0.dtype)

    def _stratonovich_matrix(self, x: Tensor) -> Tensor:
        noises = self.noise_matrices.to(device=x.device, dtype=torch.float64)
        return self.drift_matrix.to(noises) - 0.5 * (noises @ noises).sum(0)


def _check_commuting(matrices: Tensor) -> None:
    """That each two of the matrices, of shape (n, d, d), commute."""
    products = matrices[:, None] @ matrices[None, :]
    sizes = torch.linalg.matrix_norm(matrices)
    off = torch.linalg.matrix_norm(products - products.transpose(0, 1))
    bad = off > _COMMUTE * sizes[:, None] * sizes[None, :]
    if bool(bad.any()):
        names = ["drift_matrix", *(f"noise_matrices[{j}]" for j in range(matrices.shape[0] - 1))]
        i, j = torch.nonzero(bad)[0].tolist()
        raise ArgumentError(
            f"the matrices must commute, but {names[i]} and {names[j]} do not: |AB - BA| = {float(off[i, j]):.3g}. "
            "For matrices that do not, use SDE(…, noise='general') and a fine reference."
        )


CLOSED_FORM_SDES: tuple[type[AbstractSDE], ...] = (
    TanhSDE,
    ArctanSDE,
    DecayingAdditiveSDE,
    CommutativeLinearSDE,
    NoncommutativeSDE,
    DoubleWell,
    StiffLinear,
    CubicMultiplicative,
)
