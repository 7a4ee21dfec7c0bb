"""Methods of strong order 1.5 and weak order 2 for additive noise, whose two readings are one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from sdekit.solvers.sde.tableau import EmbeddedRungeKutta, Row, Tableau

__all__ = ["SOSRA", "SRA1", "SRA3", "ShARK", "sra"]


def sra(
    c0: tuple[float, ...],
    c1: tuple[float, ...],
    a0: tuple[tuple[float, ...], ...],
    b0: tuple[tuple[float, ...], ...],
    alpha: tuple[float, ...],
    beta1: tuple[float, ...],
    beta2: tuple[float, ...],
) -> Tableau:
    r"""The tableau of a method in Rossler's form, with chi_2 = I_(1,0)/h = W/2 + H:

    z_i = x + h sum_j A0_ij f_j + chi_2 sum_j B0_ij g_j
    x_s = x + h sum_j alpha_j f_j + sum_j (beta1_j W + beta2_j chi_2) g_j

    Its error estimate is the difference to the Euler-Maruyama step, whose g is that of the node 0.
    """

    def row(f: tuple[float, ...], of_w: tuple[float, ...], of_chi: tuple[float, ...]) -> Row:
        return Row(f, tuple(w + 0.5 * chi for w, chi in zip(of_w, of_chi, strict=True)), of_chi)

    start = c1.index(0.0)
    euler_f = tuple(a - (j == 0) for j, a in enumerate(alpha))
    euler_g = tuple(b - (j == start) for j, b in enumerate(beta1))
    return Tableau(
        nodes=c0,
        diffusion_nodes=c1,
        stages=tuple(row(a, (0.0,) * len(b), b) for a, b in zip(a0, b0, strict=True)),
        step=row(alpha, beta1, beta2),
        error=row(euler_f, euler_g, beta2),
    )


class _Additive(EmbeddedRungeKutta):
    """What these methods share."""

    strong_order = 1.5
    weak_order = 2.0
    error_order = 1.5
    areas = 1
    noise_kinds = ("additive",)


@final
@dataclass(frozen=True, repr=False)
class SRA1(_Additive):
    r"""z = x + 3/4 f_0 h + 3/2 chi_2 g(s);   x_s = x + (f_0/3 + 2/3 f(z, t + 3h/4)) h + g(s)(W - chi_2) + g(t) chi_2

    chi_2 = W/2 + H. Two drift evaluations.

    Rossler 2010, "Runge-Kutta methods for the strong approximation of solutions of SDEs".
    """

    name = "sra1"
    evaluations_per_step = 2
    reference = "Rossler 2010"
    tableau = sra(
        c0=(0.0, 3 / 4),
        c1=(1.0, 0.0),
        a0=((3 / 4,),),
        b0=((3 / 2,),),
        alpha=(1 / 3, 2 / 3),
        beta1=(1.0, 0.0),
        beta2=(-1.0, 1.0),
    )


@final
@dataclass(frozen=True, repr=False)
class SRA3(_Additive):
    r"""Rossler's SRA3: stages at t, t + h and t + h/2; its drift quadrature is Simpson's: of order 3 without noise.

    Rossler 2010, "Runge-Kutta methods for the strong approximation of solutions of SDEs".
    """

    name = "sra3"
    evaluations_per_step = 3
    reference = "Rossler 2010"
    tableau = sra(
        c0=(0.0, 1.0, 1 / 2),
        c1=(1.0, 0.0, 0.0),
        a0=((1.0,), (1 / 4, 1 / 4)),
        b0=((0.0,), (1.0, 1 / 2)),
        alpha=(1 / 6, 1 / 6, 2 / 3),
        beta1=(1.0, 0.0, 0.0),
        beta2=(-1.0, 1.0, 0.0),
    )


@final
@dataclass(frozen=True, repr=False)
class SOSRA(_Additive):
    r"""Three stages, with coefficients that make its region of stability large: the choice for steps by tolerance.

    Rackauckas & Nie 2020, arXiv 1804.04344.
    """

    name = "sosra"
    evaluations_per_step = 3
    reference = "Rackauckas & Nie 2020, arXiv 1804.04344"
    tableau = sra(
        c0=(0.0, 0.6923962376159507, 1.0),
        c1=(0.0, 0.041248171110700504, 1.0),
        a0=((0.6923962376159507,), (-3.1609142252828395, 4.1609142252828395)),
        b0=((1.3371632704399763,), (1.442371048468624, 1.8632741501139225)),
        alpha=(0.2889874966892885, 0.6859880440839937, 0.025024459226717772),
        beta1=(-16.792534242221663, 17.514995785380226, 0.27753845684143835),
        beta2=(0.4237535769069274, 0.6010381474428539, -1.0247917243497813),
    )


@final
@dataclass(frozen=True, repr=False)
class ShARK(_Additive):
    r"""z_1 = x + g_0 H;   z_2 = x + 5/6 f(z_1, t) h + g_0 (5/6 W + H)
    x_s = x + (2/5 f(z_1, t) + 3/5 f(z_2, t + 5h/6)) h + g_0 W + (g_1 - g_0)(W/2 - H),   g_0 = g(t), g_1 = g(s)

    Two drift evaluations, and the smallest error constant of its kind. Its error estimate is 3/5 (f(z_2) - f(z_1)) h.

    Foster, dos Reis & Strange 2023, arXiv 2210.17543 ("shifted additive-noise Runge-Kutta").
    """

    name = "shark"
    evaluations_per_step = 2
    reference = "Foster, dos Reis & Strange 2023, arXiv 2210.17543"
    tableau = Tableau(
        nodes=(0.0, 0.0, 5 / 6, 1.0),
        stages=(
            Row(h=(1.0,)),
            Row(f=(0.0, 5 / 6), w=(5 / 6,), h=(1.0,)),
            Row(),
        ),
        step=Row(f=(0.0, 2 / 5, 3 / 5), w=(1 / 2, 0.0, 0.0, 1 / 2), h=(1.0, 0.0, 0.0, -1.0)),
        error=Row(f=(0.0, -3 / 5, 3 / 5)),
    )
