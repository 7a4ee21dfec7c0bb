"""Held-out digits under the bundled network: bits a pixel with their error, and their classes by Bayes' rule."""

import sys

import torch

import sdekit as sk
from sdekit.training.digits_data import dequantise, digits_split

n = int(sys.argv[1]) if len(sys.argv) > 1 else 30
model = sk.models.load("digits")
split = digits_split()
images, labels = split.held_out_images[:n], split.held_out_labels[:n]
bins = {"data_range": (-1.0625, 1.0625), "levels": 17}  # 17 grey levels, the outer ones at -1 and 1

x = dequantise(images, torch.Generator().manual_seed(0))
ll = sk.log_likelihood(model, x, seed=0)
bits = ll.bits_per_dim(**bins)
of_probes = float(ll.std_error.square().sum().sqrt() / n / 64 / torch.log(torch.tensor(2.0)))
print(f"{n} digits, one draw each in its bins, {ll.nfe} evaluations: {bits.mean():.4f} bits/dim")
print(f"  ± {bits.std() / n**0.5:.4f} from the choice of digits, ± {of_probes:.4f} from the probes")

found = sk.classify(model, x, range(10), probes=1, steps=20, seed=0)
right = (found.index == labels).double()
print(f"class by Bayes' rule: {right.mean():.3f} right, median margin {found.margin.median():.1f} nats")
for i in (right == 0).nonzero()[:, 0].tolist():
    print(f"  digit {i}, a {labels[i]}, was taken for a {found.predicted[i]} by {found.margin[i]:.1f} nats")
