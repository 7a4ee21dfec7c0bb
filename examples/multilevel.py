"""A call option on a geometric Brownian motion, to a tolerance: multilevel Monte Carlo beside the closed form."""

import math
from statistics import NormalDist

import torch

import sdekit as sk

rate, volatility, strike = 0.05, 0.2, 1.0
stock = sk.GeometricBrownianMotion(rate, volatility)
start = torch.ones(1, 1, dtype=torch.float64)


def payoff(x: torch.Tensor) -> torch.Tensor:
    return math.exp(-rate) * (x[:, 0] - strike).clamp(min=0)


normal = NormalDist()
up = (rate + volatility**2 / 2) / volatility
exact = normal.cdf(up) - strike * math.exp(-rate) * normal.cdf(up - volatility)
for tolerance in (4e-3, 2e-3, 1e-3):
    price = sk.multilevel(stock, start, payoff, t0=0.0, t1=1.0, solver="milstein_free", tolerance=tolerance, seed=0)
    print(f"tolerance {tolerance:g}: {price}\nerror {price.value - exact:+.1e}\n")

paths = sk.ensemble(stock, start, 200_000, t0=0.0, t1=1.0, solver="milstein_free", steps=16, seed=0, function=payoff)
print(
    f"plain Monte Carlo: {float(paths.mean):.5f} ± {1.96 * float(paths.std_error):.5f}, {paths.evaluations} evaluations"
)
