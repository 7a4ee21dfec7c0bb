"""Bayes' rule on conditional likelihoods."""

from __future__ import annotations

import math

import pytest
import torch
from _helpers import label
from torch import Tensor

import sdekit as sk
from sdekit.errors import ArgumentError, ShapeError
from sdekit.targets import Gaussian
from sdekit.training.digits_data import dequantise, digits_split

VP = sk.VPSDE()
MEANS = torch.tensor([[0.0, 0.0], [1.0, -1.0], [-2.0, 0.5]], dtype=torch.float64)


def three_gaussians() -> sk.ScoreModel:
    """p(x | y) = N(m_y, 0.3 I), exact: v of N(m, 0.3 I) is v_0(x - alpha m) - sigma m."""
    centred = Gaussian(MEANS[0], 0.3).score_model(VP)

    def network(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        a, s = VP.alpha(t[:1]), VP.sigma(t[:1])
        return centred.raw(x - a * MEANS[y], t) - s * MEANS[y]

    return sk.ScoreModel(network, VP, "v", data_std=math.sqrt(0.3 + float(MEANS.square().mean())))


def test_the_posterior_is_bayes_rule_on_the_exact_densities() -> None:
    model = three_gaussians()
    x = torch.randn(40, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 1.5
    prior = [0.2, 0.5, 0.3]
    found = sk.classify(model, x, [2, 0, 1], class_probs=prior, t_eps=1e-4)
    exact = torch.stack([Gaussian(MEANS[k], 0.3).log_prob_at(x, 1e-4, VP) for k in (2, 0, 1)], 1)
    joint = exact + torch.tensor(prior, dtype=torch.float64).log()
    # The flow's error, 1e-4 nats for these, and the Gaussian prior at T, below 1e-3.
    torch.testing.assert_close(found.log_probs, exact, rtol=0, atol=2e-3)
    torch.testing.assert_close(found.log_posterior, torch.log_softmax(joint, 1), rtol=0, atol=4e-3)
    torch.testing.assert_close(found.log_prob, torch.logsumexp(joint, 1), rtol=0, atol=2e-3)
    assert found.classes == (2, 0, 1)
    assert found.predicted == [(2, 0, 1)[i] for i in joint.argmax(1).tolist()]
    torch.testing.assert_close(found.log_posterior.exp().sum(1), torch.ones(40, dtype=torch.float64))
    assert repr(found).startswith("Classification(40 samples, 3 classes, smallest margin ")
    two = joint.sort(1, descending=True).values
    torch.testing.assert_close(found.margin, two[:, 0] - two[:, 1], rtol=0, atol=4e-3)


def test_classes_share_their_probes() -> None:
    # J does not depend on the class here, so that with shared probes the noise cancels from differences altogether.
    model = three_gaussians()
    x = torch.randn(16, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    exact = sk.classify(model, x, range(3), divergence="exact")
    probed = sk.classify(model, x, range(3), divergence="hutchinson", probes=1, probe_distribution="gaussian")
    assert float((probed.log_probs - exact.log_probs).abs().mean()) > 0.05  # Gaussian probes have noise of their own
    torch.testing.assert_close(probed.log_posterior, exact.log_posterior, rtol=0, atol=1e-8)
    assert bool((probed.margin_error > 0).all())


def test_held_out_digits_are_classified() -> None:
    split = digits_split()
    x = dequantise(split.held_out_images[:30], torch.Generator().manual_seed(0))
    found = sk.classify(sk.models.load("digits"), x, range(10), probes=1, steps=12, chunk=30)
    accuracy = float((found.index == split.held_out_labels[:30]).double().mean())
    # Measured 0.99 of 100 at 20 steps; 0.9 is what is promised.
    assert accuracy > 0.9


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"classes": [1]}, ArgumentError, "two or more different"),
        ({"classes": [1, 1]}, ArgumentError, "two or more different"),
        ({"classes": [0.5, 1]}, ArgumentError, "two or more different"),
        ({"classes": 3}, ArgumentError, "sequence of integers"),
        ({"class_probs": [0.5, 0.5]}, ShapeError, "each of the 3"),
        ({"class_probs": [0.5, 0.5, 0.5]}, ArgumentError, "sum 1"),
        ({"class_probs": [1.0, 0.0, 0.0]}, ArgumentError, "above 0"),
        ({"condition": {"y": torch.zeros(2, dtype=torch.int64)}}, ArgumentError, "gives 'y' too"),
        ({"generator": torch.Generator()}, ArgumentError, "other probes"),
    ],
    ids=label,
)
def test_arguments_that_make_no_sense(arguments, error, words: str) -> None:
    arguments = {"classes": range(3), **arguments}
    calls = []

    def network(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        calls.append(1)
        return x

    model = sk.ScoreModel(network, VP, "v")
    with pytest.raises(error, match=words):
        sk.classify(model, torch.zeros(2, 2), **arguments)
    assert not calls
