"""An SDE of one's own: a stochastic pendulum, solved by name, forward and with values kept on the way."""

import torch

import sdekit as sk


def drift(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    angle, speed = x[:, :1], x[:, 1:]
    return torch.cat([speed, -torch.sin(angle) - 0.1 * speed], dim=1)


pendulum = sk.SDE(drift=drift, diffusion=torch.tensor([0.0, 0.3]), noise="additive", calculus="ito")
start = torch.tensor([[1.0, 0.0]]).repeat(1000, 1)
out = sk.solve(pendulum, start, t0=0.0, t1=10.0, solver="euler_maruyama", steps=1000, seed=0, save_at=[2.5, 5.0, 10.0])
for t, x in zip(out.trajectory_times.tolist(), out.trajectory, strict=True):
    print(f"t = {t:4.1f}: angle {x[:, 0].mean():+.3f} ± {x[:, 0].std():.3f}")
