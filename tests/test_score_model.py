"""ScoreModel: conversions between predictions, counted evaluations, labels, conditions, and wrong networks."""

from __future__ import annotations

import itertools
import math
from typing import get_args

import pytest
import torch
from torch import Tensor

from sdekit.errors import ArgumentError, ShapeError, UnknownNameError
from sdekit.models import EvaluationCounter, Prediction, ScoreModel
from sdekit.models.predictions import check_prediction, combine, conversion, target
from sdekit.sdes import (
    DIFFUSION_SDES,
    EDMSDE,
    SDE,
    VESDE,
    VPSDE,
    CosineVPSDE,
    CustomDiffusionSDE,
    FlowSDE,
    SubVPSDE,
)

FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
PREDICTIONS: tuple[Prediction, ...] = get_args(Prediction)
SDES = [
    *(family() for family in DIFFUSION_SDES),
    VPSDE(beta_min=0.5, beta_max=5.0, t_min=1e-4),
    SubVPSDE(beta_min=0.01, beta_max=40.0),
    VESDE(sigma_min=0.002, sigma_max=348.0),
    CosineVPSDE(s=0.1, beta_max=20.0),
    EDMSDE(t_min=1e-4, t_max=1000.0),
    FlowSDE(t_min=1e-5, t_max=0.9999),
    CustomDiffusionSDE(lambda t: torch.exp(-t.square()), torch.sinh, t_max=2.0),
]
every_sde = pytest.mark.parametrize("sde", SDES, ids=repr)


def pairs(sde, n: int = 24) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x_0, noise, times between t_min and T inclusive, and x = alpha x_0 + sigma noise: float64, (n, 3)."""
    generator = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, n, 3, generator=generator, dtype=torch.float64)
    t = torch.logspace(math.log10(sde.t_min), math.log10(sde.t_max), n, dtype=torch.float64).clamp(max=sde.t_max)
    return x0, noise, t, sde.alpha(t)[:, None] * x0 + sde.sigma(t)[:, None] * noise


def identity(x: Tensor, t: Tensor) -> Tensor:
    return x


def answering(value: Tensor):
    return lambda x, t: value


# Conversions ---------------------------------------------------------------------------------------------------------


@every_sde
def test_targets_are_their_definitions(sde):
    x0, noise, t, _ = pairs(sde)
    alpha, sigma = sde.alpha(t)[:, None], sde.sigma(t)[:, None]
    expected = {
        "noise": noise,
        "data": x0,
        "score": -noise / sigma,
        "v": alpha * noise - sigma * x0,
        "velocity": sde.alpha_rate(t)[:, None] * x0 + sde.sigma_rate(t)[:, None] * noise,
    }
    for prediction in PREDICTIONS:
        # 1e-14: the same formula, in one order or another.
        torch.testing.assert_close(target(prediction, sde, x0, noise, t), expected[prediction], rtol=1e-14, atol=1e-14)


@every_sde
def test_velocity_is_the_derivative_of_the_path(sde):
    x0, noise, t, _ = pairs(sde)
    u = t.clone().requires_grad_(True)
    path = sde.alpha(u)[:, None] * x0 + sde.sigma(u)[:, None] * noise
    rate = torch.stack([torch.autograd.grad(path[:, i].sum(), u, retain_graph=True)[0] for i in range(3)], 1)
    # 1e-8 of the largest, as in test_sdes.
    atol = 1e-8 * rate.abs().max().item()
    torch.testing.assert_close(target("velocity", sde, x0, noise, t), rate, rtol=1e-8, atol=atol)


@every_sde
@pytest.mark.parametrize(("source", "to"), list(itertools.product(PREDICTIONS, PREDICTIONS)))
def test_all_conversions_agree(sde, source, to):
    """A network that is exact in one prediction is exact in each."""
    x0, noise, t, x = pairs(sde)
    given, expected = (target(p, sde, x0, noise, t) for p in (source, to))
    got = ScoreModel(answering(given), sde, source).predict(to, x, t)
    # 1e-9 of each row: dividing by sigma or alpha, as small as 1e-5 in the table above, costs that many digits.
    scale = expected.abs().amax(1, keepdim=True).clamp(min=1e-3)
    assert ((got - expected).abs() <= 1e-9 * scale).all()
    # And back again.
    back = ScoreModel(answering(got), sde, to).predict(source, x, t)
    scale = given.abs().amax(1, keepdim=True).clamp(min=1e-3)
    assert ((back - given).abs() <= 1e-9 * scale).all()


def test_the_named_methods_are_the_predictions():
    sde = VPSDE()
    x0, noise, t, x = pairs(sde)
    model = ScoreModel(answering(noise), sde)
    for method, prediction in [
        (model.score, "score"),
        (model.noise, "noise"),
        (model.denoised, "data"),
        (model.v, "v"),
        (model.velocity, "velocity"),
    ]:
        torch.testing.assert_close(method(x, t), target(prediction, sde, x0, noise, t), rtol=1e-9, atol=1e-9)


@every_sde
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_score_of_gaussian_data_is_the_gradient_of_its_log_density(sde, prediction):
    """Data N(m, s^2) gives x_t ~ N(alpha m, alpha^2 s^2 + sigma^2), with everything known in closed form."""
    m, s = 0.7, 0.4
    t = torch.tensor([sde.t_min, 0.3 * sde.t_max, sde.t_max], dtype=torch.float64)
    alpha, sigma = sde.alpha(t)[:, None], sde.sigma(t)[:, None]
    variance = alpha.square() * s**2 + sigma.square()
    x = (alpha * m + variance.sqrt() * torch.tensor([[-1.0, 0.5]], dtype=torch.float64)).requires_grad_(True)
    log_density = -0.5 * ((x - alpha * m).square() / variance).sum()
    (score,) = torch.autograd.grad(log_density, x)
    x = x.detach()
    noise = -sigma * score
    # E[x_0 | x] by regression, so that no division by alpha is shared with the code.
    data = m + alpha * s**2 / variance * (x - alpha * m)
    network = answering(target(prediction, sde, data, noise, t))
    # 1e-9, as above; and (alpha D - x)/sigma^2 has lost what the rounding of x is to a small sigma^2.
    tolerance = 1e-9 * (1 + score.abs()) + 8 * torch.finfo(torch.float64).eps / sigma.square()
    assert ((ScoreModel(network, sde, prediction).score(x, t) - score).abs() <= tolerance).all()


def test_conversion_takes_a_number_or_a_batch():
    sde = VPSDE()
    for t, shape in ((0.3, ()), (torch.tensor(0.3), ()), (torch.full((4,), 0.3), (4,))):
        p, q = conversion("noise", "data", sde, t)
        assert p.shape == q.shape == shape
        assert p.dtype == q.dtype == torch.float64
    p, q = conversion("v", "v", sde, 0.3)
    assert (p.item(), q.item()) == (0.0, 1.0)


def test_unknown_predictions():
    model = ScoreModel(identity, VPSDE())
    x = torch.ones(2, 3)
    with pytest.raises(UnknownNameError, match="unknown prediction 'scores'; did you mean 'score'"):
        model.predict("scores", x, 0.5)
    assert model.counter.calls == 0
    with pytest.raises(UnknownNameError, match="did you mean 'velocity'"):
        ScoreModel(identity, VPSDE(), "velocities")
    with pytest.raises(UnknownNameError, match="'eps'"):
        conversion("eps", "data", VPSDE(), 0.5)
    with pytest.raises(UnknownNameError, match="'eps'"):
        conversion("data", "eps", VPSDE(), 0.5)
    with pytest.raises(UnknownNameError, match="'eps'"):
        target("eps", VPSDE(), x, x, 0.5)
    assert check_prediction("v") == "v"


# Dtypes --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_every_answer_has_the_dtype_of_the_state(dtype, prediction):
    x = torch.ones(2, 3, dtype=dtype)
    for answer in FLOATS:
        model = ScoreModel(lambda x, t, answer=answer: x.to(answer), VPSDE(), prediction)
        for to in PREDICTIONS:
            assert model.predict(to, x, 0.5).dtype == dtype
            assert target(to, VPSDE(), x, x, 0.5).dtype == dtype


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_coefficients_beyond_half_precision(dtype):
    """1/sigma^2 = 250000 is infinite in float16; (D - x)/sigma^2 is not."""
    sde = EDMSDE()
    x = torch.full((2, 3), 0.5, dtype=dtype)
    denoised = x + x.new_tensor(2.0**-8)
    score = ScoreModel(answering(denoised), sde, "data").score(x, 0.002)
    # The state and the answer are exact in both dtypes, so only the result is rounded: half a unit in the last place.
    expected = 2.0**-8 / 0.002**2
    assert score.double().numpy() == pytest.approx(expected, rel=torch.finfo(dtype).eps)


def test_half_precision_targets_near_zero():
    """sigma = 1e-7 of sub-VP is nothing in float16, but sigma' is not; v and velocity must not lose alpha."""
    x0, noise = torch.ones(1, 2, dtype=torch.float16), torch.ones(1, 2, dtype=torch.float16)
    sde = SubVPSDE()
    got = target("velocity", sde, x0, noise, 1e-6)
    expected = (sde.alpha_rate(1e-6) + sde.sigma_rate(1e-6)).to(torch.float16)
    assert torch.equal(got, expected.expand(1, 2))


def test_combine_is_per_sample():
    x, y = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.ones(2, 2)
    p, q = torch.tensor([1.0, 10.0], dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64)
    assert torch.equal(combine(p, x, q, y), torch.tensor([[1.5, 2.5], [30.5, 40.5]]))


# Counting ------------------------------------------------------------------------------------------------------------


def test_every_network_call_is_counted_once():
    calls = []

    def network(x, t):
        calls.append(t)
        return x

    model = ScoreModel(network, VPSDE())
    x = torch.ones(7, 3)
    for k, method in enumerate((model.score, model.noise, model.denoised, model.v, model.velocity), start=1):
        method(x, 0.5)
        assert len(calls) == model.counter.calls == k
    model.raw(x, model.labels(0.5, x))
    model.labels(0.5, x)
    repr(model)
    assert len(calls) == model.counter.calls == 6


def test_variants_and_their_counters():
    model = ScoreModel(identity, VPSDE())
    x = torch.ones(4, 3)
    model.noise(x, 0.5)
    fresh = model.counted()
    assert fresh.counter == EvaluationCounter(0)
    fresh.noise(x, 0.5)
    fresh.noise(x, 0.5)
    assert (model.counter.calls, fresh.counter.calls) == (1, 2)
    part = fresh.part(0, 2, 4)
    part.noise(x[:2], 0.5)
    assert part.counter is fresh.counter  # the parts of one solve are counted together
    assert (model.counter.calls, fresh.counter.calls) == (1, 3)
    assert model.with_condition().counter.calls == 0


def test_variants_keep_everything_else():
    def double(t):
        return 2 * t

    model = ScoreModel(
        identity,
        EDMSDE(),
        "data",
        time=double,
        condition={"a": 1},
        data_std=0.5,
        shape=[3, 4],
        needs_autograd=True,
    )
    for variant in (model.counted(), model.with_condition(b=2), model.part(0, 1, 2)):
        assert variant.network is model.network
        assert variant.sde is model.sde
        assert (variant.prediction, variant.time, variant.data_std) == ("data", double, 0.5)
        assert (variant.shape, variant.needs_autograd) == ((3, 4), True)
        assert variant.condition["a"] == 1
    assert model.condition == {"a": 1}


# Conditions ----------------------------------------------------------------------------------------------------------


def test_conditions_reach_the_network():
    seen = []

    def network(x, t, label=None, scale=1.0):
        seen.append((label, scale))
        return x

    x = torch.ones(2, 3)
    model = ScoreModel(network, VPSDE(), condition={"scale": 3.0})
    model.noise(x, 0.5)
    other = model.with_condition(label="cat")
    other.noise(x, 0.5)
    other.with_condition(scale=4.0).noise(x, 0.5)
    model.noise(x, 0.5)
    assert seen == [(None, 3.0), ("cat", 3.0), ("cat", 4.0), (None, 3.0)]


def test_the_condition_is_copied():
    condition = {"a": 1}
    model = ScoreModel(identity, VPSDE(), condition=condition)
    condition["a"] = 2
    assert model.condition == {"a": 1}


def test_part_cuts_what_is_batched():
    batched = torch.arange(6)
    images = torch.arange(24).reshape(6, 2, 2)
    shared = torch.arange(5)
    model = ScoreModel(
        identity,
        VPSDE(),
        condition={
            "labels": batched,
            "images": images,
            "shared": shared,
            "scalar": torch.tensor(6),
            "text": "abcdef",
            "nested": {"labels": batched, "pair": (batched, shared), "list": [images]},
        },
    )
    cut = model.part(2, 5, 6).condition
    assert torch.equal(cut["labels"], torch.tensor([2, 3, 4]))
    assert torch.equal(cut["images"], images[2:5])
    assert torch.equal(cut["nested"]["labels"], batched[2:5])
    assert torch.equal(cut["nested"]["pair"][0], batched[2:5])
    assert torch.equal(cut["nested"]["list"][0], images[2:5])
    assert cut["shared"] is cut["nested"]["pair"][1] is shared
    assert cut["scalar"].item() == 6
    assert cut["text"] == "abcdef"
    assert model.condition["labels"] is batched


def test_parts_together_are_the_whole():
    shift = torch.arange(6, dtype=torch.float64)[:, None]
    model = ScoreModel(lambda x, t, shift: x * t[:, None] + shift, VPSDE(), condition={"shift": shift})
    x = torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    t = torch.linspace(0.1, 0.9, 6, dtype=torch.float64)
    whole = model.score(x, t)
    parts = [model.part(a, b, 6).score(x[a:b], t[a:b]) for a, b in ((0, 1), (1, 4), (4, 6))]
    assert torch.equal(torch.cat(parts), whole)


# Labels --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_labels_are_one_time_per_sample(dtype, expected):
    seen = []

    def network(x, t):
        seen.append(t)
        return x

    model = ScoreModel(network, VPSDE())
    x = torch.ones(4, 2, 3, dtype=dtype)
    value = 0.0012345  # in bfloat16 it would be 0.00123596
    for t in (value, torch.tensor(value, dtype=torch.float64), torch.full((4,), value, dtype=torch.float64)):
        model.noise(x, t)
        assert seen[-1].shape == (4,)
        assert seen[-1].dtype == expected
        assert torch.equal(seen[-1], torch.full((4,), value, dtype=expected))
    varied = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    model.noise(x, varied)
    assert torch.equal(seen[-1], varied.to(expected))


def test_time_is_what_the_network_takes():
    seen = []

    def network(x, t):
        seen.append(t)
        return x

    def time(t):
        assert t.dtype == torch.float64
        assert t.ndim == 1  # so that t[:, None] and tables work whether t is () or (B,)
        return 999 * t

    sde = VPSDE()
    model = ScoreModel(network, sde, time=time)
    x = torch.ones(2, 3)
    score = model.score(x, 0.5)
    assert torch.equal(seen[-1], torch.full((2,), 499.5))
    model.score(x, torch.tensor([0.1, 0.2]))
    torch.testing.assert_close(seen[-1], torch.tensor([99.9, 199.8]))
    # Only the label changes: the conversion is at t itself. 1e-6 is float32 rounding.
    torch.testing.assert_close(score, -x / sde.sigma(0.5).float(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("time", [None, lambda t: 999 * t, lambda t: 3.0])
@pytest.mark.parametrize("dtype", FLOATS)
def test_a_column_of_labels_is_the_label_of_each_time(time, dtype):
    model = ScoreModel(identity, VPSDE(), time=time)
    x = torch.ones(2, 3, dtype=dtype)
    times = torch.tensor([0.9, 0.5, 0.0012345], dtype=torch.float64)
    column = model.label_column(times, x)
    assert torch.equal(column, torch.stack([model.labels(t, x)[0] for t in times]))
    assert column.dtype == model.labels(0.5, x).dtype


def test_a_column_of_labels_of_the_wrong_shape():
    for wrong in (lambda t: t[:1], lambda t: t[:, None], lambda t: t.expand(2, 3)):
        with pytest.raises(ShapeError, match=r"time\(t\) has shape .* for 3 times; expected \(3,\)"):
            ScoreModel(identity, VPSDE(), time=wrong).label_column(torch.rand(3).double(), torch.ones(2, 3))


def test_labels_of_the_wrong_shape():
    x = torch.ones(4, 3)
    model = ScoreModel(identity, VPSDE())
    for t in (torch.ones(3), torch.ones(4, 1)):
        with pytest.raises(ShapeError, match=r"t has shape .* for a state of shape \(4, 3\); expected \(\) or \(4,\)"):
            model.noise(x, t)
    wrong = ScoreModel(identity, VPSDE(), time=lambda t: t.expand(3))
    with pytest.raises(ShapeError, match=r"time\(t\) has shape \(3,\)"):
        wrong.noise(x, 0.5)
    assert model.counter.calls == wrong.counter.calls == 0


# Wrong networks and arguments ----------------------------------------------------------------------------------------


def test_networks_that_return_something_else():
    x = torch.ones(4, 3)
    with pytest.raises(ShapeError, match=r"network returned a tensor of shape \(4,\) for a state of shape \(4, 3\)"):
        ScoreModel(lambda x, t: x[:, 0], VPSDE()).score(x, 0.5)
    with pytest.raises(ShapeError, match="expected the same shape"):  # it would broadcast
        ScoreModel(lambda x, t: x[:1], VPSDE()).score(x, 0.5)
    with pytest.raises(ArgumentError, match="network returned tuple, expected a tensor"):
        ScoreModel(lambda x, t: (x,), VPSDE()).score(x, 0.5)


def test_errors_of_the_network_are_its_own():
    model = ScoreModel(lambda x, t: 1 / 0, VPSDE())
    with pytest.raises(ZeroDivisionError):
        model.score(torch.ones(1, 1), 0.5)
    with pytest.raises(TypeError, match="label"):
        ScoreModel(lambda x, t: x, VPSDE(), condition={"label": 1}).score(torch.ones(1, 1), 0.5)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((3, VPSDE()), {}, r"network must be callable as network\(x, t\), got int"),
        ((torch.sin, SDE(torch.sin, 1.0)), {}, r"sde must be a DiffusionSDE .* got SDE\("),
        ((torch.sin, VPSDE), {}, "sde must be a DiffusionSDE"),
        ((torch.sin, VPSDE()), {"data_std": -1.0}, "data_std must be 0 or more, got -1.0"),
        ((torch.sin, VPSDE()), {"data_std": math.nan}, "data_std must be a finite number"),
        ((torch.sin, VPSDE()), {"data_std": "a"}, "data_std must be a finite number"),
        ((torch.sin, VPSDE()), {"time": 999.0}, "time must be a function of t, got float"),
        ((torch.sin, VPSDE()), {"condition": "abc"}, "condition must be a dict of keyword arguments, got str"),
        ((torch.sin, VPSDE()), {"shape": 3}, "a shape is a sequence of positive integers"),
        ((torch.sin, VPSDE()), {"shape": (3, 0)}, "a shape is a sequence of positive integers"),
        ((torch.sin, VPSDE(), "noize"), {}, "unknown prediction 'noize'; did you mean 'noise'"),
    ],
)
def test_bad_arguments(arguments, options, message):
    with pytest.raises(ArgumentError, match=message):
        ScoreModel(*arguments, **options)


def test_gradients_pass_through():
    """The score is differentiable in x: what likelihoods and guidance need."""
    sde = VPSDE()
    model = ScoreModel(lambda x, t: x.pow(3), sde)
    x = torch.tensor([[0.5, -1.0]], dtype=torch.float64, requires_grad=True)
    model.score(x, 0.5).sum().backward()
    torch.testing.assert_close(x.grad, -3 * x.detach().square() / sde.sigma(0.5), rtol=1e-14, atol=0)  # rounding


def test_repr():
    assert repr(ScoreModel(identity, FlowSDE(), "v")) == (
        "ScoreModel(identity, FlowSDE(t_min=0.001, t_max=0.999), prediction='v')"
    )
    assert repr(ScoreModel(torch.nn.Identity(), EDMSDE())).startswith("ScoreModel(Identity, EDMSDE(")
