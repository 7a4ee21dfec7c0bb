"""torchsde's calls made by sdekit: the same numbers on the same Brownian motion, and its objects as they are."""

from __future__ import annotations

import inspect
import math

import pytest
import torch
import torchsde
from torch import Tensor

import sdekit as sk
from sdekit.errors import ArgumentError, NonFiniteError, ShapeError, UnknownNameError, UnsupportedError
from sdekit.interop.torchsde import TorchsdeNoise, as_torchsde_brownian, sdeint, sdeint_adjoint
from sdekit.noise import BrownianPath
from sdekit.sdes import TorchsdeStyle

BATCH, D, M = 3, 2, 3
DIMS = {"diagonal": D, "scalar": 1, "additive": M, "general": M}
ITO = [("euler", kind) for kind in DIMS] + [
    (m, kind) for m in ("milstein", "srk") for kind in DIMS if kind != "general"
]
STRATONOVICH = [
    *((m, kind) for m in ("midpoint", "heun", "euler_heun", "reversible_heun") for kind in DIMS),
    *(("milstein", kind) for kind in DIMS if kind != "general"),
]
CASES = [(m, kind, "ito", {}) for m, kind in ITO] + [(m, kind, "stratonovich", {}) for m, kind in STRATONOVICH]
CASES += [
    ("milstein", kind, calculus, {"grad_free": True})
    for kind in ("scalar", "additive", "diagonal")
    for calculus in ("ito", "stratonovich")
]


class Equation(torch.nn.Module):
    """A nonlinear SDE with parameters; in float64, and each g_i a function of its own y_i except for general noise."""

    def __init__(self, noise_type: str = "diagonal", sde_type: str = "ito") -> None:
        super().__init__()
        self.noise_type, self.sde_type = noise_type, sde_type
        self.a = torch.nn.Parameter(torch.tensor([0.7, -0.4], dtype=torch.float64))
        self.b = torch.nn.Parameter(torch.tensor(0.3, dtype=torch.float64))

    def f(self, t: Tensor, y: Tensor) -> Tensor:
        assert t.shape == ()
        return torch.sin(self.a * y.flip(1)) - 0.3 * y + 0.1 * t

    def h(self, t: Tensor, y: Tensor) -> Tensor:
        return -0.2 * y + 0.3 * t

    def g(self, t: Tensor, y: Tensor) -> Tensor:
        each = 0.5 + self.b * torch.cos(y) + 0.1 * t
        weights = torch.tensor([[0.3, -0.2, 0.5], [0.1, 0.4, 0.2]], dtype=y.dtype)
        return {
            "diagonal": lambda: each,
            "scalar": lambda: each[..., None],
            "additive": lambda: (weights * (1 + self.b * t)).expand(len(y), D, M),
            "general": lambda: weights + 0.2 * torch.sin(y[:, :1, None] + weights),
        }[self.noise_type]()


def start() -> Tensor:
    return torch.tensor([[0.5, -1.0], [1.2, 0.3], [-0.7, 0.9]], dtype=torch.float64)


def interval(kind: str, t1: float = 1.0, extra: int = 0, **options) -> torchsde.BrownianInterval:
    options = {"levy_area_approximation": "space-time", "dtype": torch.float64, **options}
    return torchsde.BrownianInterval(0.0, t1, size=(BATCH, DIMS[kind] + extra), entropy=7, **options)


# The same numbers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "kind", "calculus", "options"), CASES)
@pytest.mark.parametrize("dt", [0.125, 0.3])
def test_parity_step_for_step(method, kind, calculus, options, dt):
    # dt = 0.3 does not divide 1: the last step is cut, and the times between lie within steps.
    sde, ts, bm = Equation(kind, calculus), torch.tensor([0.0, 0.25, 0.7, 1.0], dtype=torch.float64), interval(kind)
    with torch.no_grad():
        theirs = torchsde.sdeint(sde, start(), ts, bm=bm, method=method, dt=dt, options=dict(options))
        ours = sdeint(sde, start(), ts, bm=bm, method=method, dt=dt, options=options)
    assert ours.shape == (4, BATCH, D)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("method", "kind", "calculus"), [("srk", "diagonal", "ito"), ("heun", "general", "stratonovich")]
)
def test_parity_in_float32_with_times_as_a_list(method, kind, calculus):
    sde, bm = Equation(kind, calculus).float(), interval(kind, dtype=torch.float32)
    with torch.no_grad():
        arguments = {"bm": bm, "method": method, "dt": 0.01}
        theirs = torchsde.sdeint(sde, start().float(), [0.0, 0.55, 1.0], **arguments)
        ours = sdeint(sde, start().float(), [0.0, 0.55, 1.0], **arguments)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("calculus", ["ito", "stratonovich"])
@pytest.mark.parametrize("kind", DIMS)
def test_the_default_method_is_torchsdes(kind, calculus):
    sde, bm = Equation(kind, calculus), interval(kind)
    with torch.no_grad():
        theirs = torchsde.sdeint(sde, start(), [0.0, 1.0], bm=bm, dt=0.1)
        torch.testing.assert_close(sdeint(sde, start(), [0.0, 1.0], bm=bm, dt=0.1), theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("method", "kind", "calculus", "options"), CASES)
def test_our_path_drives_torchsde(method, kind, calculus, options):
    path = BrownianPath(3, (BATCH, DIMS[kind]), 0.0, 1.0, dtype=torch.float64)
    sde, ts = Equation(kind, calculus), torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    with torch.no_grad():
        bm = as_torchsde_brownian(path)
        theirs = torchsde.sdeint(sde, start(), ts, bm=bm, method=method, dt=0.0625, options=dict(options))
        ours = sdeint(sde, start(), ts, bm=path, method=method, dt=0.0625, options=options)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_our_path_as_torchsdes_brownian_motion():
    path = BrownianPath(3, (BATCH, D), 0.0, 2.0, dtype=torch.float64)
    bm = as_torchsde_brownian(path)
    assert isinstance(bm, torchsde.BaseBrownian)
    assert (bm.shape, bm.size(), bm.dtype, bm.device.type) == ((BATCH, D), (BATCH, D), torch.float64, "cpu")
    w, u = bm(torch.tensor(0.5), 1.25, return_U=True)
    assert torch.equal(w, path(0.5, 1.25).W)
    torch.testing.assert_close(u, 0.75 * (w / 2 + path(0.5, 1.25).H))
    assert torch.equal(bm(1.5), path(0.0, 1.5).W)
    # U = int (W - W_a) is what the areas of two halves say: U = U1 + U2 + (c - b) W1.
    (w1, u1), (_, u2) = bm(0.5, 1.0, return_U=True), bm(1.0, 1.25, return_U=True)
    torch.testing.assert_close(u, u1 + u2 + 0.25 * w1, rtol=1e-8, atol=1e-8)
    with pytest.raises(UnsupportedError, match="log_ode"):
        bm(0.0, 1.0, return_A=True)
    with pytest.raises(ShapeError, match=r"\(B, m\)"):
        as_torchsde_brownian(BrownianPath(0, (3,)))
    with pytest.raises(ArgumentError, match="expected a BrownianPath"):
        as_torchsde_brownian(3)


def test_the_adjoint_of_torchsde_runs_on_our_path():
    path = BrownianPath(3, (BATCH, D), 0.0, 1.0, dtype=torch.float64)
    sde = Equation("diagonal", "stratonovich")
    y = start().requires_grad_()
    bm = as_torchsde_brownian(path)
    torchsde.sdeint_adjoint(sde, y, [0.0, 1.0], bm=bm, method="reversible_heun", dt=0.125)[-1].sum().backward()
    z = start().requires_grad_()
    sdeint(sde, z, [0.0, 1.0], bm=path, method="reversible_heun", dt=0.125)[-1].sum().backward()
    torch.testing.assert_close(z.grad, y.grad, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", ["diagonal", "scalar", "general", "additive"])
def test_the_log_ratio(kind):
    sde, bm = Equation(kind, "ito"), interval(kind, extra=1 if kind == "diagonal" else 0)
    ts = [0.0, 0.35, 1.0]
    with torch.no_grad():
        arguments = {"bm": bm, "method": "euler", "dt": 0.05, "logqp": True}
        theirs, their_ratio = torchsde.sdeint(sde, start(), ts, **arguments)
        ours, ratio, extra = sdeint(sde, start(), ts, extra=True, **arguments)
    assert ratio.shape == (2, BATCH)
    assert extra == ()
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(ratio, their_ratio, rtol=1e-9, atol=1e-9)


def test_the_log_ratio_where_the_diffusion_is_nearly_0():
    sde, bm = Equation("diagonal", "ito"), interval("diagonal", extra=1)
    sde.g = lambda t, y: torch.tensor([-1e-9, 1e-5], dtype=torch.float64).expand(y.shape)
    sde.h = lambda t, y: sde.f(t, y) - 1e-7  # u is of the size of 1
    arguments = {"bm": bm, "method": "euler", "dt": 0.25, "logqp": True}
    with torch.no_grad():
        _, theirs = torchsde.sdeint(sde, start(), [0.0, 1.0], **arguments)
        _, ours = sdeint(sde, start(), [0.0, 1.0], **arguments)
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9)
        assert float(ours.min()) > 0.4


@pytest.mark.parametrize("kind", DIMS)
def test_a_reversible_solve_goes_on_from_its_extra_state(kind):
    sde, bm = Equation(kind, "stratonovich"), interval(kind)
    arguments = {"bm": bm, "method": "reversible_heun", "dt": 0.125, "extra": True}
    with torch.no_grad():
        whole, last = sdeint(sde, start(), [0.0, 1.0], **arguments)
        theirs, their_last = torchsde.sdeint(sde, start(), [0.0, 1.0], **arguments)
        half, state = sdeint(sde, start(), [0.0, 0.5], **arguments)
        rest, _ = sdeint(sde, half[-1], [0.5, 1.0], extra_solver_state=state, **arguments)
        anew, _ = sdeint(sde, half[-1], [0.5, 1.0], **arguments)
    for mine, other in zip((whole, *last), (theirs, *their_last), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(rest[-1], whole[-1], rtol=1e-12, atol=1e-12)
    assert not torch.allclose(anew[-1], whole[-1], rtol=1e-8)


def test_names():
    class Named:
        noise_type, sde_type = "diagonal", "ito"

        def __init__(self):
            self.equation = Equation()

        def drift(self, t, y):
            return self.equation.f(t, y)

        def noise(self, t, y):
            return self.equation.g(t, y)

    named = {"drift": "drift", "diffusion": "noise"}
    bm = interval("diagonal")
    with torch.no_grad():
        plain = sdeint(Equation(), start(), [0.0, 1.0], bm=bm, dt=0.25)
        assert torch.equal(sdeint(Named(), start(), [0.0, 1.0], bm=bm, dt=0.25, names=named), plain)
    with pytest.raises(ArgumentError, match="Named has no drift"):
        sdeint(Named(), start(), [0.0, 1.0])
    with pytest.raises(ArgumentError, match="names holds 'drfit'"):
        sdeint(Named(), start(), [0.0, 1.0], names={"drfit": "drift"})
    with pytest.raises(ArgumentError, match="no such method"):
        sdeint(Named(), start(), [0.0, 1.0], names={"drift": "nothing"})


# Gradients ----------------------------------------------------------------------------------------------------------


def gradients(call, sde, *args, **kwargs):
    y = start().requires_grad_()
    sde.zero_grad()
    out = call(sde, y, *args, **kwargs)
    (out * torch.linspace(0.5, 1.5, out.numel(), dtype=out.dtype).reshape(out.shape)).sum().backward()
    # Where g does not see a parameter there is none.
    zero = torch.zeros((), dtype=torch.float64)
    return [y.grad, *(zero if p.grad is None else p.grad.clone() for p in sde.parameters())]


@pytest.mark.parametrize(("method", "kind", "calculus", "options"), CASES)
def test_gradients_are_those_of_torchsdes_backpropagation(method, kind, calculus, options):
    sde, bm, ts = Equation(kind, calculus), interval(kind), torch.tensor([0.0, 0.45, 1.0], dtype=torch.float64)
    arguments = {"bm": bm, "method": method, "dt": 0.125}
    theirs = gradients(torchsde.sdeint, sde, ts, options=dict(options), **arguments)
    ours = gradients(sdeint, sde, ts, options=options, **arguments)
    little = gradients(sdeint_adjoint, sde, ts, options=options, **arguments)
    assert any(float(p.abs().sum()) > 0.01 for p in ours)
    for mine, less, other in zip(ours, little, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(less, mine, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("solver", "method", "gradient"),
    [
        ("stochastic_heun", "heun", "backprop"),
        ("stochastic_heun", "heun", "checkpoint"),
        ("reversible_heun", "reversible_heun", "reversible"),
    ],
)
def test_solve_differentiates_the_object_too(solver, method, gradient):
    path, sde = BrownianPath(0, (BATCH, D), dtype=torch.float64), Equation("diagonal", "stratonovich")

    def solved(sde, y, ts, **_):
        return sk.solve(sde, y, t0=0.0, t1=1.0, solver=solver, steps=8, noise=path, gradient=gradient).x

    def called(sde, y, ts, **_):
        return sdeint(sde, y, ts, bm=path, method=method, dt=0.125)[-1]

    for mine, same in zip(gradients(solved, sde, [0.0, 1.0]), gradients(called, sde, [0.0, 1.0]), strict=True):
        torch.testing.assert_close(mine, same, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("method", "calculus"), [("heun", "stratonovich"), ("reversible_heun", "stratonovich"), ("srk", "ito")]
)
def test_the_adjoint_gives_no_second_derivative_and_says_so(method, calculus):
    sde, y = Equation("diagonal", calculus), start().requires_grad_()
    arguments = {"bm": interval("diagonal"), "method": method, "dt": 0.25}
    for call in (sdeint, sdeint_adjoint):
        end = call(sde, y, [0.0, 1.0], **arguments)[-1].sum()
        if call is sdeint_adjoint:
            with pytest.raises(UnsupportedError, match="first derivatives alone"):
                torch.autograd.grad(end, y, create_graph=True)
            continue
        (first,) = torch.autograd.grad(end, y, create_graph=True)
        assert bool(torch.autograd.grad(first.sum(), y)[0].abs().sum() > 0)


def test_the_adjoint_finds_what_an_object_holds_beside_its_parameters():
    # As in a latent SDE, whose drift sees what an encoder made of the data.
    sde, encoder = Equation("diagonal", "stratonovich"), torch.nn.Linear(2, 2, dtype=torch.float64)
    plain, found = sde.f, []
    for call, method in ((sdeint, "heun"), (sdeint_adjoint, "heun"), (sdeint_adjoint, "reversible_heun")):
        sde.context = encoder(start()).tanh()
        sde.f = lambda t, y: plain(t, y) + sde.context * y
        out = call(sde, start(), [0.0, 1.0], bm=interval("diagonal"), method=method, dt=0.02)
        encoder.zero_grad()
        out.square().sum().backward()
        found.append(encoder.weight.grad.clone())
    torch.testing.assert_close(found[1], found[0], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found[2], found[0], rtol=1e-2, atol=1e-2)  # another method


def test_steps_that_rounding_leaves_short_of_the_end_are_made_on_a_path():
    # 2000 times 1/2000 is 1 - 1e-13, nearer to 1 than a path tells apart.
    path, sde = BrownianPath(0, (BATCH, D), dtype=torch.float64), Equation("diagonal", "stratonovich")
    with torch.no_grad():
        out = sdeint(sde, start(), [0.0, 1.0], bm=path, method="euler_heun", dt=1 / 2000)
        same = sk.solve(sde, start(), t0=0.0, t1=1.0, solver="euler_heun", steps=2000, noise=path).x
    torch.testing.assert_close(out[-1], same, rtol=1e-9, atol=1e-9)


def test_the_adjoint_keeps_few_nodes():
    def nodes(tensor: Tensor) -> int:
        seen, waiting = set(), [tensor.grad_fn]
        while waiting:
            node = waiting.pop()
            if node is not None and node not in seen:
                seen.add(node)
                waiting += [following for following, _ in node.next_functions]
        return len(seen)

    counts = {}
    for method in ("heun", "reversible_heun"):
        for n in (100, 400):
            arguments = {"bm": BrownianPath(0, (BATCH, D), dtype=torch.float64), "method": method, "dt": 1 / n}
            sde = Equation("diagonal", "stratonovich")
            counts[method, n] = nodes(sdeint_adjoint(sde, start().requires_grad_(), [0.0, 1.0], **arguments))
    assert counts["heun", 400] < 2.5 * counts["heun", 100] < 250  # sqrt(400)/sqrt(100) is 2
    assert counts["reversible_heun", 400] == counts["reversible_heun", 100] < 60


def test_the_adjoint_keeps_few_states():
    sde, kept = Equation(), {}
    for call in (sdeint, sdeint_adjoint):
        sizes = []

        def keep(t, sizes=sizes):
            sizes.append(t.numel() if t.is_floating_point() else 0)
            return t

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            call(
                sde, start().requires_grad_(), [0.0, 1.0], bm=BrownianPath(0, (BATCH, D), dtype=torch.float64), dt=0.01
            )
        kept[call.__name__] = sum(sizes)
    assert kept["sdeint_adjoint"] < kept["sdeint"] / 20


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"adjoint_adaptive": True}, "solves no SDE of its own"),
        ({"adjoint_method": "milstein"}, "adjoint_method='milstein'"),
        ({"adjoint_options": {"grad_free": True}}, "adjoint_options"),
        ({"adjoint_params": ()}, "adjoint_params leaves"),
        ({"unknown": 3}, "'unknown'"),
    ],
)
def test_what_the_adjoint_refuses(arguments, said):
    with pytest.raises((UnsupportedError, ArgumentError), match=said):
        sdeint_adjoint(Equation(), start(), [0.0, 1.0], **arguments)


# What is refused ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"method": "log_ode"}, UnsupportedError, "Levy areas of pairs"),
        ({"method": "adjoint_reversible_heun"}, UnsupportedError, "backward half"),
        ({"method": "miltsein"}, UnknownNameError, "did you mean 'milstein'"),
        ({"method": "heun"}, UnsupportedError, "serves stratonovich SDEs"),
        ({"options": {"grad_free": True}}, ArgumentError, "no options"),
        ({"method": "milstein", "options": {"gradfree": True}}, ArgumentError, "'gradfree'"),
        ({"dt": 0.0}, ArgumentError, "dt must be"),
        ({"dt": 1e-18}, ArgumentError, "too short"),
        ({"bm": 3}, ArgumentError, "bm must be a Brownian motion"),
        ({"bm": "wide"}, ShapeError, r"bm has shape \(3, 5\)"),
        ({"bm": "plain"}, UnsupportedError, "space-time"),
        ({"max_steps": 3}, ArgumentError, "'max_steps'"),
        ({"extra_solver_state": (1, 2, 3)}, UnsupportedError, "no state of its own"),
        ({"adaptive": True, "method": "euler"}, UnsupportedError, "need not converge to the Ito solution"),
        ({"adaptive": True, "rtol": -1.0}, ArgumentError, "rtol must be 0 or more"),
        ({"adaptive": True, "dt_min": 0.0}, ArgumentError, "dt_min must be"),
        ({"adaptive": True, "ts": [1.0, 2.0], "dt": 1e-17, "dt_min": 1e-18}, ArgumentError, "too short"),
        ({"ts": [0.0, 0.0]}, ArgumentError, "must rise"),
        ({"ts": [0.0]}, ArgumentError, "two or more"),
        ({"y0": torch.ones(3)}, ShapeError, r"\(B, d\)"),
    ],
)
def test_refused_by_name(arguments, error, said):
    if arguments.get("bm") == "wide":
        arguments = {"bm": torchsde.BrownianInterval(0.0, 1.0, size=(3, 5), levy_area_approximation="space-time")}
    if arguments.get("bm") == "plain":
        arguments = {"bm": torchsde.BrownianInterval(0.0, 1.0, size=(BATCH, D))}
    arguments = {"sde": Equation(), "y0": start(), "ts": [0.0, 1.0], **arguments}
    with pytest.raises(error, match=said):
        sdeint(**arguments)


def test_every_argument_of_torchsdes_is_one_of_ours():
    for theirs, ours in ((torchsde.sdeint, sdeint), (torchsde.sdeint_adjoint, sdeint_adjoint)):
        expected = {n: p.default for n, p in inspect.signature(theirs).parameters.items() if n != "unused_kwargs"}
        found = {n: p.default for n, p in inspect.signature(ours).parameters.items() if n != "unused"}
        assert found == expected
        assert list(found) == list(expected)


def test_a_nonfinite_state_is_an_error():
    sde = Equation()
    sde.f = lambda t, y: torch.where(t > 0.5, math.nan, y)
    with pytest.raises(NonFiniteError, match=r"torchsde euler.* in sample\(s\) 0"):
        sdeint(sde, start(), [0.0, 1.0], method="euler", dt=0.1)


def test_without_a_motion_the_global_generator_seeds_one():
    sde = Equation()
    draws = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        with torch.no_grad():
            draws.append(sdeint(sde, start(), [0.0, 1.0], dt=0.1))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


# Steps by tolerance -------------------------------------------------------------------------------------------------

ADAPTIVE = [case for case in CASES if case[0] != "euler" or case[1] == "additive"]


@pytest.mark.parametrize(("method", "kind", "calculus", "options"), ADAPTIVE)
def test_adaptive_steps_are_torchsdes(method, kind, calculus, options):
    sde, ts = Equation(kind, calculus), torch.tensor([0.0, 1.0], dtype=torch.float64)
    # Some steps are rejected, and later ones grow.
    arguments = {"method": method, "dt": 0.5, "adaptive": True, "rtol": 1e-2, "atol": 1e-2, "dt_min": 1e-4}
    theirs = gradients(torchsde.sdeint, sde, ts, bm=interval(kind), options=dict(options), **arguments)
    ours = gradients(sdeint, sde, ts, bm=interval(kind), options=options, **arguments)
    little = gradients(sdeint_adjoint, sde, ts, bm=interval(kind), options=options, **arguments)
    for mine, less, other in zip(ours, little, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(less, mine, rtol=1e-9, atol=1e-9)
    with torch.no_grad():
        their_end = torchsde.sdeint(sde, start(), ts, bm=interval(kind), options=dict(options), **arguments)
        bm = interval(kind)
        end, extra = sdeint(sde, start(), ts, bm=bm, options=options, extra=True, **arguments)
    torch.testing.assert_close(end, their_end, rtol=1e-9, atol=1e-9)
    assert len(extra) == (3 if method == "reversible_heun" else 0)


@pytest.mark.parametrize(
    ("method", "calculus"), [("srk", "ito"), ("heun", "stratonovich"), ("reversible_heun", "stratonovich")]
)
def test_adaptive_values_are_the_solvers_own_at_times_within(method, calculus):
    sde = Equation("diagonal", calculus)
    path = BrownianPath(0, (BATCH, D), dtype=torch.float64)
    ts = [0.0, 0.0625, 0.5, 0.875, 1.0]
    arguments = {"bm": path, "method": method, "dt": 0.2, "adaptive": True, "rtol": 1e-3, "atol": 1e-3}
    with torch.no_grad():
        out = sdeint(sde, start(), ts, **arguments)
        fine = sdeint(sde, start(), ts, bm=path, method=method, dt=2.0**-9)
    assert out.shape == (5, BATCH, D)
    # The error of a step is held to 1e-3; straight lines over steps of 0.2 are 0.2 off.
    torch.testing.assert_close(out, fine, rtol=0, atol=0.01)
    learned = sdeint(sde, start(), ts, **arguments)
    assert learned.requires_grad
    torch.testing.assert_close(learned.detach(), out, rtol=1e-12, atol=1e-12)
    # Without a motion, on the path of a seed.
    assert sdeint(sde, start(), ts, **{**arguments, "bm": None}).shape == (5, BATCH, D)


def test_steps_cut_at_times_asked_for_do_not_shorten_those_after():
    sde, calls = Equation(), []
    sde.f = lambda t, y: calls.append(float(t)) or -0.1 * y
    ts = [*torch.linspace(0.0, 0.1, 51).tolist(), 1.0]
    with torch.no_grad():
        sdeint(sde, start(), ts, dt=0.5, adaptive=True, rtol=0.5, atol=0.5, method="milstein")
    # Two or three steps of three evaluations are left after 0.1; growing again from 0.002 by 1.4 takes 15 steps.
    assert len([t for t in calls if t >= 0.1]) < 15


def test_the_least_step_is_told_of_as_torchsde_does():
    sde, arguments = Equation(), {"adaptive": True, "rtol": 0.0, "atol": 1e-6, "dt": 0.5, "dt_min": 0.25}
    with torch.no_grad():
        with pytest.warns(UserWarning, match="Hitting minimum"):
            theirs = torchsde.sdeint(sde, start(), [0.0, 1.0], bm=interval("diagonal"), **arguments)
        with pytest.warns(UserWarning, match="t = 0 would be shorter than dt_min = 0.25"):
            ours = sdeint(sde, start(), [0.0, 1.0], bm=interval("diagonal"), **arguments)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_hard_drifts_in_adaptive_steps():
    sde = Equation()
    sde.f = lambda t, y: y - 50 * y**3  # from 3 and in steps of 0.5 it is infinite after three
    y0, bm = torch.full((BATCH, D), 30.0, dtype=torch.float64), interval("diagonal")
    with torch.no_grad():
        with pytest.raises(NonFiniteError, match=r"torchsde srk.* at step 2"):
            sdeint(sde, y0, [0.0, 1.0], bm=bm, dt=0.5)
        end = sdeint(sde, y0, [0.0, 1.0], bm=bm, dt=0.5, adaptive=True, rtol=1e-2, atol=1e-2)[-1]
    assert float(end.abs().max()) < 2
    sde.f = lambda t, y: torch.where(t > 0.5, math.nan, -y)
    arguments = {"bm": bm, "dt": 0.1, "adaptive": True, "rtol": 0.1, "atol": 0.1, "dt_min": 1e-3}
    said = pytest.raises(NonFiniteError, match=r"torchsde srk.*\(t = 0\.50")
    with torch.no_grad(), pytest.warns(UserWarning, match=r"dt_min = 0\.001"), said as caught:
        sdeint(sde, start(), [0.0, 1.0], **arguments)
    assert caught.value.step > 3


# Its objects as they are --------------------------------------------------------------------------------------------


class WithBase(torchsde.SDEStratonovich):
    def __init__(self, kind):
        super().__init__(kind)
        self.equation = Equation(kind)

    def f(self, t, y):
        return self.equation.f(t, y)

    def g(self, t, y):
        return self.equation.g(t, y)


@pytest.mark.parametrize("kind", DIMS)
def test_solve_takes_the_object_as_it_is(kind):
    sde = Equation(kind, "stratonovich")
    path = BrownianPath(0, (BATCH, DIMS[kind]), dtype=torch.float64)
    out = sk.solve(sde, start(), t0=0.0, t1=1.0, solver="stochastic_heun", steps=8, noise=path)
    with torch.no_grad():
        same = sdeint(sde, start(), [0.0, 1.0], bm=path, method="heun", dt=0.125)[-1]
    torch.testing.assert_close(out.x, same, rtol=1e-12, atol=1e-12)
    assert out.nfe == 16
    based = sk.solve(WithBase(kind), start(), grid=[0.0, 0.5, 1.0], solver="stochastic_heun", noise=path)
    assert based.x.shape == (BATCH, D)


@pytest.mark.parametrize("kind", DIMS)
def test_the_other_functions_that_torchsde_knows(kind):
    plain = Equation(kind)

    class Only:
        noise_type, sde_type = kind, "ito"

    def product(g, v):
        return g * v if kind == "diagonal" else (g @ v[..., None])[..., 0]

    both, products, joint = Only(), Only(), Only()
    both.f_and_g = lambda t, y: (plain.f(t, y), plain.g(t, y))
    products.f, products.g_prod = plain.f, lambda t, y, v: product(plain.g(t, y), v)
    joint.f_and_g_prod = lambda t, y, v: (plain.f(t, y), product(plain.g(t, y), v))
    x, t = start(), torch.tensor(0.3, dtype=torch.float64)
    reference = TorchsdeStyle(plain).opened(x, 0.0)
    size = DIMS[kind] if kind in ("additive", "general") else None
    assert reference.noise_dim == size
    for what in (both, products, joint):
        style = TorchsdeStyle(what, noise_dim=size).opened(x, 0.0)
        torch.testing.assert_close(style.drift(x, t), reference.drift(x, t))
        torch.testing.assert_close(style.diffusion(x, t), reference.diffusion(x, t))
    if size is not None:
        with pytest.raises(ArgumentError, match="noise_dim=m"):
            sk.solve(products, x, t0=0.0, t1=1.0, steps=4)
        assert sdeint(products, x, [0.0, 1.0], bm=interval(kind), method="euler", dt=0.1).shape == (2, BATCH, D)


@pytest.mark.parametrize("item", [False, True])
@pytest.mark.parametrize("kind", DIMS)
def test_times_of_their_own(kind, item):
    # As an adaptive solver has them; `item` for an object that reads its time as a number, which vmap cannot.
    sde = Equation(kind)
    if item:
        f, g = sde.f, sde.g
        sde.f = lambda t, y: f(torch.tensor(t.item()), y)
        sde.g = lambda t, y: g(torch.tensor(t.item()), y)
    style = TorchsdeStyle(sde).opened(start(), 0.0)
    t = torch.tensor([0.1, 0.7, 0.1], dtype=torch.float64)
    for function in (style.drift, style.diffusion):
        alone = torch.cat([function(start()[i : i + 1], t[i]) for i in range(BATCH)])
        torch.testing.assert_close(function(start(), t), alone, rtol=1e-14, atol=1e-14)


def test_an_adaptive_solver_takes_the_object():
    sde = Equation("general", "stratonovich")
    out = sk.solve(sde, start(), t0=0.0, t1=1.0, solver="adaptive:stochastic_heun", rtol=1e-3, atol=1e-3, seed=0)
    alone = sk.solve(sde, start()[:1], t0=0.0, t1=1.0, solver="adaptive:stochastic_heun", rtol=1e-3, atol=1e-3, seed=0)
    torch.testing.assert_close(out.x[:1], alone.x, rtol=1e-12, atol=1e-12)


def test_the_adapter_says_what_is_wrong():
    class Bare:
        noise_type, sde_type = "diagonal", "ito"

    wrong = Equation("diagonal")
    wrong.g = lambda t, y: y[..., None]
    for what, said in (
        (Bare(), "has no drift"),
        (Equation("white"), "noise_type of Equation must be one of"),
        (Equation("diagonal", "backward"), "sde_type of Equation must be one of"),
        (wrong, r"g returned a tensor of shape \(3, 2, 1\)"),
    ):
        with pytest.raises(ArgumentError, match=said):
            sk.solve(what, start(), t0=0.0, t1=1.0, steps=4)
    with pytest.raises(ShapeError, match=r"\(B, d\)"):
        sk.solve(Equation(), torch.ones(3), t0=0.0, t1=1.0, steps=4)
    with pytest.raises(ArgumentError, match="noise_dim goes with"):
        TorchsdeStyle(Equation(), noise_dim=2)
    sde = Equation("general")
    assert TorchsdeStyle(sde, 3) == TorchsdeStyle(sde, 3) != TorchsdeStyle(sde, 2)
    assert hash(TorchsdeStyle(sde, 3)) == hash(TorchsdeStyle(sde, 3))
    with pytest.raises(ArgumentError, match="plain dict"):
        TorchsdeStyle(sde).to_dict()


def test_torchsdes_motion_as_noise_of_solve():
    bm, sde = interval("diagonal"), Equation()
    both = sk.solve(sde, start(), t0=0.0, t1=1.0, solver="milstein", steps=8, noise=TorchsdeNoise(bm))
    cut = sk.solve(sde, start(), t0=0.0, t1=1.0, solver="milstein", steps=8, noise=TorchsdeNoise(bm), chunk=2)
    assert torch.equal(both.x, cut.x)
    back = sk.solve(sde, both.x, t0=1.0, t1=0.0, solver="srk", steps=512, noise=TorchsdeNoise(bm))
    assert bool(back.x.isfinite().all())
    # A Stratonovich SDE goes back on its path to where it came from, up to the method's error.
    sde, how = Equation("diagonal", "stratonovich"), {"solver": "stochastic_heun", "noise": TorchsdeNoise(bm)}
    there = sk.solve(sde, start(), t0=0.0, t1=1.0, steps=256, **how).x
    torch.testing.assert_close(sk.solve(sde, there, t0=1.0, t1=0.0, steps=256, **how).x, start(), rtol=0, atol=0.02)
