"""Are these images digits? Log-likelihoods of the bundled network as a score, and how well it tells digits from others.

A sample counts as foreign if its log-likelihood is far from that of known digits, on either side (Nalisnick et al.
2019, arXiv 1906.02994): images that are simpler than the data can be more likely than the data.
"""

import torch

import sdekit as sk
from sdekit.training.digits_data import dequantise, digits_split

N = 40
model = sk.models.load("digits")
split = digits_split()
generator = torch.Generator().manual_seed(0)
known = dequantise(split.train_images[:N], generator)
digits = dequantise(split.held_out_images[:N], generator)

order = torch.randperm(64, generator=generator)
others = {
    "shuffled pixels": digits.flatten(1)[:, order].reshape(digits.shape),
    "upside down": digits.flip(2),
    "black and white swapped": -digits,
    "a flat grey": torch.zeros_like(digits) + 0.06 * torch.randn(digits.shape, generator=generator),
}


def score(x: torch.Tensor) -> torch.Tensor:
    return sk.log_likelihood(model, x, steps=20, probes=1, seed=0).log_prob


centre = score(known).median()
of_digits = (score(digits) - centre).abs()
print(f"held-out digits: median |log p - {centre:.0f}| = {of_digits.median():.0f} nats")
print("others                    median   AUROC")
for name, x in others.items():
    of_others = (score(x) - centre).abs()
    # The chance that one of the others is farther off than one of the digits.
    auroc = (of_others[:, None] > of_digits).double().mean()
    print(f"{name:<24} {of_others.median():>7.0f}   {auroc:.3f}")
