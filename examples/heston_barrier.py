"""Heston's model: a call beside its Fourier integral, and a barrier option that has no formula, each to a tolerance."""

import math

import numpy as np
import torch
from scipy.integrate import quad

import sdekit as sk

RATE, REVERSION, LONG_RUN, OF_VARIANCE, CORRELATION = 0.03, 2.0, 0.04, 0.4, -0.7
SPOT, STRIKE, BARRIER, YEARS = 100.0, 100.0, 85.0, 1.0


def drift(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    v = x[:, 1].clamp(min=0)  # a step may take the variance below 0, where it does not diffuse ("full truncation")
    return torch.stack([RATE - v / 2, REVERSION * (LONG_RUN - v)], dim=1)


def diffusion(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    root, zero = x[:, 1].clamp(min=0).sqrt(), torch.zeros_like(x[:, 1])
    own = math.sqrt(1 - CORRELATION**2)
    rows = [torch.stack([root, zero], 1), OF_VARIANCE * torch.stack([CORRELATION * root, own * root], 1)]
    return torch.stack(rows, dim=1)


# The state is (ln S, v). Two noises drive it, which do not commute.
heston = sk.SDE(drift, diffusion, noise="general", noise_dim=2)
start = torch.tensor([[math.log(SPOT), LONG_RUN]], dtype=torch.float64)
discount = math.exp(-RATE * YEARS)


def call(x: torch.Tensor) -> torch.Tensor:
    return discount * (x[:, 0].exp() - STRIKE).clamp(min=0)


def down_and_out(states: torch.Tensor) -> torch.Tensor:
    """A call that is void where the price is below the barrier at the end of any month."""
    alive = (states[:, :, 0] > math.log(BARRIER)).all(0)
    return call(states[-1]) * alive


def fourier_call() -> float:
    """S P_1 - K e^{-rT} P_2 by the characteristic function of ln S_T (Heston 1993)."""

    def characteristic(u: complex) -> complex:
        b = REVERSION - 1j * CORRELATION * OF_VARIANCE * u
        d = np.sqrt(b * b + OF_VARIANCE**2 * (1j * u + u * u))
        g, e = (b - d) / (b + d), np.exp(-d * YEARS)
        level = REVERSION * LONG_RUN / OF_VARIANCE**2 * ((b - d) * YEARS - 2 * np.log((1 - g * e) / (1 - g)))
        now = LONG_RUN / OF_VARIANCE**2 * (b - d) * (1 - e) / (1 - g * e)
        return complex(np.exp(1j * u * (math.log(SPOT) + RATE * YEARS) + level + now))

    def probability(shift: complex) -> float:
        norm = characteristic(shift) if shift else 1.0
        waves = lambda u: (np.exp(-1j * u * math.log(STRIKE)) * characteristic(u + shift) / norm / (1j * u)).real  # noqa: E731
        return 0.5 + quad(waves, 1e-8, 200, limit=400)[0] / math.pi

    return SPOT * probability(-1j) - STRIKE * discount * probability(0)


arguments = {"t0": 0.0, "t1": YEARS, "solver": "euler_maruyama", "tolerance": 0.1, "seed": 1}
price = sk.multilevel(heston, start, call, first_steps=16, **arguments)
print(f"call: {price}\nerror {price.value - fourier_call():+.3f}\n")

months = [(k + 1) / 12 * YEARS for k in range(12)]
barrier = sk.multilevel(heston, start, down_and_out, save_at=months, first_steps=12, **arguments)
print(f"down and out: {barrier}")
