"""Fit an SDE to data by gradients through its solver: an Ornstein-Uhlenbeck process to the moments of observations.

dX = theta (mu - X) dt + sigma dW, started at 0. What is observed are 4,000 paths at three times; the parameters sought
are those whose simulated means and standard deviations are the observed ones.
"""

import torch

import sdekit as sk

TIMES = [0.5, 1.0, 3.0]
TRUE = {"theta": 1.2, "mu": 0.8, "sigma": 0.6}


def moments(values: torch.Tensor) -> torch.Tensor:
    """Mean and standard deviation at each time, (3, 2), of values (3, B, 1)."""
    return torch.stack([values.mean(dim=(1, 2)), values.std(dim=(1, 2))], dim=1)


def simulate(sde: sk.OrnsteinUhlenbeck, paths: int, seed: int, gradient: str | None = None) -> torch.Tensor:
    """The moments of solves from 0, by Euler-Maruyama in 60 steps."""
    start = torch.zeros(paths, 1)
    out = sk.solve(sde, start, t0=0.0, t1=3.0, steps=60, save_at=TIMES, seed=seed, gradient=gradient)
    return moments(out.trajectory)


observed = simulate(sk.OrnsteinUhlenbeck(**TRUE), 4000, seed=0)

# theta and sigma are above 0: their logarithms are what is learned.
log_theta, mu, log_sigma = (torch.zeros((), requires_grad=True) for _ in range(3))
optimizer = torch.optim.Adam([log_theta, mu, log_sigma], lr=0.05)
for step in range(200):
    sde = sk.OrnsteinUhlenbeck(log_theta.exp(), mu, log_sigma.exp())
    # Fresh noise in every step: an unbiased gradient, as in stochastic gradient descent.
    loss = (simulate(sde, 1000, seed=step + 1, gradient="backprop") - observed).square().sum()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 50 == 0:
        print(f"step {step:3d}: loss {loss.item():.4f}")

found = {"theta": log_theta.exp().item(), "mu": mu.item(), "sigma": log_sigma.exp().item()}
for name, value in found.items():
    print(f"{name}: found {value:.3f}, true {TRUE[name]:.3f}")
    if abs(value - TRUE[name]) > 0.1:
        raise SystemExit(f"{name} was not found.")

# A long solve: sqrt(steps) states are kept, and the steps between them made again as the gradient passes.
x0 = torch.ones(1000, 1, requires_grad=True)
long = sk.solve(sde, x0, t0=0.0, t1=3.0, steps=3000, seed=0, gradient="checkpoint")
(slope,) = torch.autograd.grad(long.x.mean(), x0)
print(f"d E[X_3]/dx0 = {slope.sum().item():.4f}; e^(-3 theta) = {(-3 * log_theta.exp()).exp().item():.4f}")
