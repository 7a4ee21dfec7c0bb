"""A particle in a double well: the mean time to the top of the barrier, beside its integral, and how it moves after."""

import math

import torch
from scipy.integrate import quad

import sdekit as sk

HEAT = 0.3


def potential(q: float) -> float:
    return q**4 / 4 - q**2 / 2


def exact() -> float:
    """The mean time from the bottom of the left well, -1, to the top, 0 (Kramers 1940)."""

    def below(q: float) -> float:
        return quad(lambda z: math.exp(-potential(z) / HEAT), -4, q)[0]

    return quad(lambda q: math.exp(potential(q) / HEAT) * below(q), -1, 0)[0] / HEAT


well = sk.sdes.OverdampedLangevin(gradient=lambda q: q**3 - q, temperature=HEAT)
start = -torch.ones(4000, 1)
means, errors = [], []
for steps in (400, 1600):
    out = sk.solve(well, start, t0=0.0, t1=60.0, solver="shark", steps=steps, seed=steps, event=lambda x, t: x[:, 0])
    times = out.event_times[out.event_times.isfinite()]  # NaN where the top was not reached
    means.append(float(times.mean()))
    errors.append(float(times.std()) / math.sqrt(len(times)))
    print(f"{steps:5} steps: {means[-1]:.2f} ± {errors[-1]:.2f}, {len(start) - len(times)} paths never came")
# What a path does within a step is not seen, which makes passages late by a multiple of the step's root.
limit, error = 2 * means[1] - means[0], math.hypot(2 * errors[1], errors[0])
print(f"extrapolated to steps of 0: {limit:.2f} ± {error:.2f}; the integral: {exact():.2f}")

# With inertia the state is (B, 2), position and velocity. Its law tends to exp(-F - v^2/(2 u)): F is in units of heat.
inertial = sk.sdes.UnderdampedLangevin(gradient=lambda q: (q**3 - q) / HEAT, gamma=1.0, u=HEAT)
out = sk.ensemble(inertial, torch.tensor([[-1.0, 0.0]]), 50_000, t0=0.0, t1=20.0, steps=200, solver="baoab", seed=0)
print(f"after t = 20: position {out.mean[0]:+.3f}, kinetic energy/heat {out.variance[1] / HEAT:.3f} (1 in theory)")
