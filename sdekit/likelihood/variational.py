r"""The variational bound (ELBO) in continuous time: what denoising errors say about the density.

For the reverse SDE started from the prior, with x~_v = x~ + sqrt(v - v_eps) xi and v = sigma~^2,

    log p~(x~) >= E log prior~(x~_T) - int E[|s~|^2/2 + s~ . xi/sqrt(v - v_eps)] dv

(Song et al. 2021, arXiv 2101.09258, theorem 3; Kingma et al. 2021, arXiv 2107.00630; here from t_eps on and in
x~ = x/alpha). With the exact score it falls short of log p by E log (p_T/prior)(x_T) alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from sdekit._tensors import check_positive_integer, expand_right
from sdekit.likelihood.evaluation import in_chunks
from sdekit.likelihood.forward import checked_noise, estimate, for_wide_states, squares
from sdekit.likelihood.prior import Prior, PriorKind, make_prior
from sdekit.likelihood.quadrature import integral, standard_error
from sdekit.likelihood.result import LogLikelihood
from sdekit.models.score import ScoreModel
from sdekit.noise import NoiseSource
from sdekit.sdes import DiffusionSDE
from sdekit.solvers.progress import progress_bar

__all__ = ["VariationalBound"]


@final
@dataclass(frozen=True)
class VariationalBound:
    r"""The bound, its integral drawn without bias: one time in each of n strata, and a pair xi, -xi there.

    The same bound for the reference N(x~_eps, v I), whose score is known and for which it is an equality, is taken off
    and its value added. In y, where sigma~ = sigma~_eps cosh(y), what remains is bounded at both ends:

        log p~(x~) >= -d/2 ln(2 pi v_eps) + E log (prior~/reference)(x~_T) - int_0^Y E[k |e|^2 + 2 (1 - k^2) e . xi] dy
        x~_v = x~_eps + sigma~_eps sinh(y) xi,    k = tanh(y),    e = k xi - eps(x_v, t)

    (for large y the integrand is the squared error of the noise, per unit of ln sigma~, and falls as (c/sigma~)^2 where
    sigma~ is above c, the size of the data). So the strata are equal in y up to there, and widen with sigma~/c above
    (`_Times`); by xi and -xi the term in e . xi loses its odd part, and beta (|xi|^2 - d), of mean 0, is taken off
    (`_Control`).

    Args:
        span: (t_eps, T).
        prior: the kind of the density at T.
        steps: n; two evaluations each.
        progress: show a bar.
    """

    span: tuple[float, float]
    prior: PriorKind
    steps: int = 64
    progress: bool = False

    def __post_init__(self) -> None:
        check_positive_integer("steps", self.steps)

    def evaluate(self, model: ScoreModel, x: Tensor, source: NoiseSource, size: int) -> LogLikelihood:
        """The bounds for x, (B, *), `size` of them at a time.

        Raises:
            NonFiniteError: if the network's answer is not finite; names the step and t.
        """
        return in_chunks(self._together, model, x, source, size)

    @torch.no_grad()
    def _together(self, model: ScoreModel, x: Tensor, source: NoiseSource) -> LogLikelihood:
        sde, (start, end) = model.sde, self.span
        prior = make_prior(model.counted(), x, self.prior)
        wide = for_wide_states(model, x.dtype)
        low = float(sde.sigma_ratio(start))
        times = _Times(low, float(sde.sigma_ratio(end)), model.data_std, self.steps)
        state = x.double() / float(sde.alpha(start))
        shapes = {"times": (len(x), 1), "forward path": tuple(x.shape)}
        jitter, draws = (
            source.open(shape, purpose=purpose, dtype=torch.float64, device=x.device)
            for purpose, shape in shapes.items()
        )
        control, terms = _Control(x[0].numel()), []
        with progress_bar(self.progress, total=self.steps, initial=0, name="elbo") as bar:
            for i in range(self.steps):
                y, rate = times.drawn(i, torch.special.ndtr(jitter.next(start, end)[:, 0]))  # N(0, 1) to uniform
                xi = draws.next(start, end)
                value = rate * _integrand(wide, state, y, low, xi, self.span, i + 1)
                slope = rate * _slope_of_gaussian(y, low, model.data_std)
                terms.append(control.taken_off(value, slope, squares(xi)))
                bar.update(1)
        values = torch.stack(terms)
        weights = torch.full((self.steps,), times.h, dtype=torch.float64, device="cpu")
        places = times.h * torch.arange(self.steps, dtype=torch.float64, device="cpu")
        d = x[0].numel()
        log_prob = (
            _ends(sde, prior, state, self.span) - integral(weights, values) - d * math.log(float(sde.alpha(start)))
        )
        error = standard_error(places, weights, values[:, None], 1)
        nfe = wide.counter.calls + prior.evaluations
        return estimate(x, log_prob, error, None, prior, sde, self.span, nfe, "bound", repr(self))

    def __repr__(self) -> str:
        return f"VariationalBound(steps={self.steps})"


@final
class _Times:
    r"""n strata of y in [0, Y], sigma~ = low cosh(y), of equal length h in the coordinate

        g = asinh(C) - asinh(C e^-y),    dg/dy = 1/sqrt(1 + (e^y/C)^2),    C = 2 c/low, so that e^y/C ~ sigma~/c

    or in y itself where c, the size of the data, is not known (0).
    """

    def __init__(self, low: float, high: float, size: float, steps: int) -> None:
        self._c = 2 * size / low
        end = math.acosh(high / low)
        self.h = (math.asinh(self._c) - math.asinh(self._c * math.exp(-end)) if self._c else end) / steps

    def drawn(self, stratum: int, place: Tensor) -> tuple[Tensor, Tensor]:
        """y at `place` in [0, 1] of the stratum, and dy/dg there: each (B,)."""
        g = self.h * (stratum + place)
        if not self._c:
            return g, torch.ones_like(g)
        rest = torch.sinh(math.asinh(self._c) - g)  # C e^-y
        return torch.log(self._c / rest), torch.sqrt(1 + rest.square().reciprocal())


@final
class _Control:
    """The control variate beta (|xi|^2 - d), beta from the data's size and from the draws before.

    It is the slope that the value has for a Gaussian, and the slope on |xi|^2, shrunk towards 0, of what the last
    values were beside that.
    """

    def __init__(self, d: int) -> None:
        self._d = d
        self._past: list[tuple[Tensor, Tensor]] = []

    def taken_off(self, value: Tensor, slope: Tensor, square: Tensor) -> Tensor:
        """The value less the control, (B,), for |xi|^2 = square, with the Gaussian's slope; all are then remembered."""
        both, own = torch.zeros_like(value), torch.full_like(value, float(self._d) ** 2)
        for past, of_past in self._past:
            both, own = both + past * of_past, own + of_past.square()
        self._past = [(value - slope * square, square), *self._past[:3]]
        return value - (slope + both / own) * (square - self._d)


def _slope_of_gaussian(y: Tensor, low: float, size: float) -> Tensor:
    """d integrand/d|xi|^2 for data N(., c^2 I), for which e = k c^2/(c^2 + v) xi and terms without xi: (B,)."""
    k = torch.tanh(y)
    e = k * size**2 / (size**2 + (low * torch.cosh(y)).square())
    return k * e.square() + 2 * (1 - k.square()) * e


def _integrand(
    model: ScoreModel, state: Tensor, y: Tensor, low: float, xi: Tensor, span: tuple[float, float], step: int
) -> Tensor:
    """k |e|^2 + 2 (1 - k^2) e . xi at y, (B,), the mean of what xi and -xi give: (B,)."""
    sde = model.sde
    time = sde.time_of_sigma_ratio(low * torch.cosh(y)).clamp(*span)
    alpha, distance = (expand_right(value, state) for value in (sde.alpha(time), low * torch.sinh(y)))
    k = torch.tanh(y)
    total = torch.zeros_like(y)
    for direction in (xi, -xi):
        noise = checked_noise(model, alpha * (state + distance * direction), time, "elbo", step)
        e = expand_right(k, state) * direction - noise
        total = total + k * squares(e) + 2 * (1 - k.square()) * (e * direction).reshape(len(e), -1).sum(1)
    return 0.5 * total


def _ends(sde: DiffusionSDE, prior: Prior, state: Tensor, span: tuple[float, float]) -> Tensor:
    """log reference(x~_eps) + E log (prior~/reference)(x~_T), x~_T ~ N(x~_eps, (v_T - v_eps) I): (B,)."""
    d = state[0].numel()
    low, high = (float(sde.sigma_ratio(t)) ** 2 for t in span)
    alpha, spread = float(sde.alpha(span[1])), high - low
    at_start = -0.5 * d * math.log(2 * math.pi * low)
    # E log N(x; m, s^2 I) for x ~ N(c, w I) is log N(c; m, s^2 I) - d w/(2 s^2).
    of_prior = prior.log_prob(alpha * state) - 0.5 * d * alpha**2 * spread / prior.std.square() + d * math.log(alpha)
    of_reference = -0.5 * d * (math.log(2 * math.pi * high) + spread / high)
    return at_start + of_prior - of_reference
