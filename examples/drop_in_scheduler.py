"""diffusers' ScoreSdeVpScheduler without diffusers: only the import changes. Data N(1.5, 0.5^2), exact network."""

import torch

# was: from diffusers.schedulers import ScoreSdeVpScheduler
from sdekit.interop.diffusers import ScoreSdeVpScheduler

data_mean, data_std = 1.5, 0.5


def network(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """E[z | x_t = x] for x_t = alpha x_0 + sigma z."""
    log_alpha = -0.25 * t**2 * 19.9 - 0.05 * t
    alpha, sigma = torch.exp(log_alpha), torch.sqrt(-torch.expm1(2 * log_alpha))
    return sigma * (x - alpha * data_mean) / (alpha**2 * data_std**2 + sigma**2)


scheduler = ScoreSdeVpScheduler()
scheduler.set_timesteps(200)
generator = torch.Generator().manual_seed(0)
x = torch.randn(20_000, 1, generator=generator)
for t in scheduler.timesteps:
    x, x_mean = scheduler.step_pred(network(x, t), x, t, generator=generator)

print(f"mean {x_mean.mean():.3f}, truth {data_mean:.3f}")
print(f"std  {x_mean.std():.3f}, truth {data_std:.3f}")
