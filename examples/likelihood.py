"""The log-likelihood of points on a ring of eight Gaussians, with its standard error, beside the exact density."""

import sdekit as sk

target = sk.targets.ring()
model = target.score_model(sk.VPSDE())
x = target.sample(6, seed=0)

exact = target.log_prob(x)
traced = sk.log_likelihood(model, x, divergence="exact")
estimated = sk.log_likelihood(model, x, divergence="hutchinson", probes=8, seed=0)

print(f"{traced.nfe} evaluations a sample; nats")
print("  exact   trace  8 probes +- error")
for i in range(len(x)):
    print(f"{exact[i]:7.3f} {traced.log_prob[i]:7.3f}   {estimated.log_prob[i]:7.3f} +- {estimated.std_error[i]:.3f}")
print(f"bits/dim of the ring scaled from [-2, 2] to [0, 1]: {traced.bits_per_dim(data_range=(-2, 2)).mean():.3f}")
