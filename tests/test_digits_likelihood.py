"""The likelihood and the latents of the bundled digits network."""

import math

import torch

import sdekit as sk
from sdekit.training.digits_data import LEVEL_WIDTH, dequantise, digits_split


def held_out(n: int) -> torch.Tensor:
    """Held-out digits as the network knows them: spread over the width of their grey level."""
    return dequantise(digits_split().held_out_images[:n], torch.Generator().manual_seed(0))


def test_real_digits_are_likelier_than_shuffled_ones() -> None:
    model = sk.models.load("digits")
    real = held_out(12)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(1))
    shuffled = real.flatten(1)[:, order].reshape(real.shape)
    settings = {"probes": 2, "steps": 32, "seed": 0}
    of_real = sk.log_likelihood(model, real, **settings)
    of_shuffled = sk.log_likelihood(model, shuffled, **settings)
    gap = of_real.log_prob - of_shuffled.log_prob
    spread = torch.hypot(of_real.std_error, of_shuffled.std_error)
    # Measured: each of them is likelier by 100 nats or more, with errors of a few nats.
    assert bool((gap > 5 * spread).all())
    assert float(gap.min()) > 20


def test_conditioning_on_its_own_class_makes_a_digit_likelier() -> None:
    model = sk.models.load("digits")
    real, labels = held_out(16), digits_split().held_out_labels[:16]
    settings = {"probes": 1, "steps": 32, "seed": 0}
    own = sk.log_likelihood(model, real, condition={"y": labels}, **settings).log_prob
    other = sk.log_likelihood(model, real, condition={"y": (labels + 3) % 10}, **settings).log_prob
    # The same probes on both sides, so that most of their noise cancels.
    assert float((own > other).double().mean()) >= 0.9


def test_the_standard_error_is_that_to_the_exact_trace() -> None:
    model = sk.models.load("digits")
    copies = 12
    x = held_out(2)
    exact = sk.log_likelihood(model, x, divergence="exact", steps=32)
    assert not bool(exact.std_error.any())
    ll = sk.log_likelihood(model, x.repeat_interleave(copies, 0), steps=32, seed=3)
    z = (ll.log_prob - exact.log_prob.repeat_interleave(copies)) / ll.std_error
    # 24 of them tell the root mean square, 1 where the errors are right, to 0.15 and a little more.
    assert 0.5 < float(z.square().mean().sqrt()) < 1.5
    assert float(z.abs().max()) < 4.5


def test_bits_per_dim_of_held_out_digits_come_with_a_standard_error() -> None:
    model = sk.models.load("digits")
    ll = sk.log_likelihood(model, held_out(12), steps=40)
    bits = ll.bits_per_dim(data_range=(-1 - LEVEL_WIDTH / 2, 1 + LEVEL_WIDTH / 2), levels=17)
    error = ll.std_error / (64 * math.log(2))
    # Measured 1.8 bits a pixel, of the 4.09 that 17 levels would take unpredicted; the probes' error is 0.03 of a bit.
    assert 1.2 < float(bits.mean()) < 2.6
    assert float(error.max()) < 0.1
    assert float(error.min()) > 0


def test_decode_undoes_encode() -> None:
    model = sk.models.load("digits")
    real = held_out(8)
    latent = sk.encode(model, real)
    back = sk.decode(model, latent)
    # Promised: within 1e-3 in every pixel.
    assert float((back - real).abs().max()) < 1e-3
    # And the latent is of the prior: 8 x 64 entries of variance 1 have a mean square within 5 standard errors of 1.
    assert abs(float(latent.square().mean()) - 1) < 5 * (2 / latent.numel()) ** 0.5
