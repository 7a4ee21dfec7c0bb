"""The likelihood and the latents of the bundled digits network."""

import torch

import sdekit as sk
from sdekit.training.digits_data import dequantise, digits_split


def held_out(n: int) -> torch.Tensor:
    """Held-out digits as the network knows them: spread over the width of their grey level."""
    return dequantise(digits_split().held_out_images[:n], torch.Generator().manual_seed(0))


def test_real_digits_are_likelier_than_shuffled_ones() -> None:
    model = sk.models.load("digits")
    real = held_out(24)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(1))
    shuffled = real.flatten(1)[:, order].reshape(real.shape)
    settings = {"divergence": "hutchinson", "probes": 2, "steps": 10, "seed": 0}
    of_real = sk.log_likelihood(model, real, **settings)
    of_shuffled = sk.log_likelihood(model, shuffled, **settings)
    gap = of_real.log_prob - of_shuffled.log_prob
    spread = torch.hypot(of_real.std_error, of_shuffled.std_error)
    # Measured: each of the 24 is likelier by 100 nats or more, with errors of a few nats.
    assert bool((gap > 5 * spread).all())
    assert float(gap.min()) > 20


def test_conditioning_on_its_own_class_makes_a_digit_likelier() -> None:
    model = sk.models.load("digits")
    real, labels = held_out(16), digits_split().held_out_labels[:16]
    settings = {"divergence": "hutchinson", "probes": 1, "steps": 10, "seed": 0}
    own = sk.log_likelihood(model, real, condition={"y": labels}, **settings).log_prob
    other = sk.log_likelihood(model, real, condition={"y": (labels + 3) % 10}, **settings).log_prob
    # The same probes on both sides, so that most of their noise cancels.
    assert float((own > other).double().mean()) >= 0.9


def test_decode_undoes_encode() -> None:
    model = sk.models.load("digits")
    real = held_out(8)
    latent = sk.encode(model, real)
    back = sk.decode(model, latent)
    # Promised: within 1e-3 in every pixel.
    assert float((back - real).abs().max()) < 1e-3
    # And the latent is of the prior: 8 x 64 entries of variance 1 have a mean square within 5 standard errors of 1.
    assert abs(float(latent.square().mean()) - 1) < 5 * (2 / latent.numel()) ** 0.5
