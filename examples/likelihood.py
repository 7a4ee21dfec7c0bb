"""The log-likelihood of points on a ring of eight Gaussians, with its standard error, beside the exact density."""

import sdekit as sk

target = sk.targets.ring()
model = target.score_model(sk.VPSDE())
x = target.sample(6, seed=0)

exact = target.log_prob(x)
traced = sk.log_likelihood(model, x, divergence="exact")
estimated = sk.log_likelihood(model, x, divergence="hutchinson", probes=2, seed=0)

print(f"{traced.nfe} evaluations a sample; nats, at t = 0")
print("  exact   trace   2 probes +- error")
for i in range(len(x)):
    print(
        f"{exact[i]:7.4f} {traced.log_prob_0[i]:7.4f}    {estimated.log_prob_0[i]:7.4f} +- {estimated.std_error[i]:.4f}"
    )
print(f"bits/dim of the ring scaled from [-2, 2] to [0, 1]: {traced.bits_per_dim(data_range=(-2, 2)).mean():.3f}")
print(estimated.budget)
