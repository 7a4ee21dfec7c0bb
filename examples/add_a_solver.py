"""Two new solvers, registered and used by name."""

from dataclasses import dataclass

import torch

import sdekit as sk
from sdekit.solvers import StepSolver, Table, TableSolver


@dataclass(frozen=True, repr=False)
class Midpoint(StepSolver):
    """x_s = x_t + h f(x_t + h/2 f(x_t, t), t + h/2): the explicit midpoint rule, for any ODE."""

    name = "my_midpoint"
    stochastic = False
    order = 2.0
    evaluations_per_step = 2
    reference = "Runge 1895"

    def step_formula(self, dynamics, x, t, s, h, noise):
        return x + h * dynamics.drift(x + 0.5 * h * dynamics.drift(x, t), 0.5 * (t + s))


@dataclass(frozen=True, repr=False)
class NoiseEuler(TableSolver):
    """x_b/alpha_b = x_a/alpha_a + (sigma~_b - sigma~_a) eps: Euler in sigma~ = sigma/alpha, as a table."""

    name = "my_noise_euler"
    stochastic = False
    order = 1.0
    evaluations_per_step = 1
    reference = "Song, Meng & Ermon 2021, arXiv 2010.02502"

    def table(self, sde, times):
        alpha, ratio = sde.alpha(times), sde.sigma_ratio(times)
        return Table.one_step("noise", times, alpha[1:] / alpha[:-1], alpha[1:] * ratio.diff())


sk.solvers.register("my_midpoint", Midpoint, "explicit midpoint")
sk.solvers.register("my_noise_euler", NoiseEuler, "Euler in sigma/alpha")

oscillator = sk.ODE(lambda x, t: torch.stack([x[:, 1], -x[:, 0]], dim=1))
end = sk.solve(oscillator, torch.tensor([[1.0, 0.0]]), t0=0.0, t1=torch.pi, solver="my_midpoint", steps=100).x
print(f"half a turn of (1, 0): ({end[0, 0]:+.4f}, {end[0, 1]:+.4f})")

model = sk.targets.ring().score_model(sk.VPSDE())
mine = sk.sample(model, 4, solver="my_noise_euler", steps=50, grid="karras", seed=0).x
theirs = sk.sample(model, 4, solver="ddim", steps=50, grid="karras", seed=0).x
print(f"largest difference to ddim: {(mine - theirs).abs().max():.1e}")
