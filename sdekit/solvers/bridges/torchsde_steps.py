"""torchsde's fixed-step methods behind the solver contract."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from sdekit._tensors import as_float64
from sdekit.dynamics import Dynamics, ReverseSDE
from sdekit.errors import UnknownNameError, UnsupportedError
from sdekit.sdes import Calculus
from sdekit.solvers.base import Problem, Stepper
from sdekit.solvers.diffusion.base import require_falling
from sdekit.solvers.fixed_step import FixedStepSolver
from sdekit.solvers.solution import SolveState

__all__ = ["METHODS", "TorchsdeSDE"]

METHODS: dict[str, tuple[Calculus, ...]] = {
    "euler": ("ito",),
    "milstein": ("ito", "stratonovich"),
    "srk": ("ito",),
    "heun": ("stratonovich",),
    "midpoint": ("stratonovich",),
    "reversible_heun": ("stratonovich",),
}
_EVALUATE_AT_END = ("srk", "heun", "reversible_heun")
# Strong orders for diagonal noise, and drift evaluations a step, as measured by the tests.
_STRONG_ORDERS = {"euler": 0.5, "milstein": 1.0, "srk": 1.5, "heun": 1.0, "midpoint": 1.0, "reversible_heun": 1.0}
# reversible_heun makes one more in its first step.
_EVALUATIONS = {"euler": 1, "milstein": 1, "srk": 4, "heun": 2, "midpoint": 2, "reversible_heun": 1}


@final
@dataclass(frozen=True, repr=False)
class TorchsdeSDE(FixedStepSolver):
    r"""One step of a torchsde method for each step of the grid.

    torchsde steps forward in time with one step size; here every step is a call of its own, in the elapsed time
    |t - start|, so that any grid and either direction work. The noise is sdekit's: the increments W, and for srk the
    integrals U = int (W - W_t) = h (W/2 + H), H ~ N(0, h/12), come from the solve's own stream, so that a seed gives
    the same sample alone and in a batch. With additive noise an Ito and a Stratonovich equation are the same, so each
    method is given the calculus it wants; with other noise the dynamics must be of the method's own. Where a reverse
    SDE ends at sigma = 0, which has no score, a method that would evaluate there makes an Euler step last.

    Li et al. 2020, arXiv 2001.01328; Kidger et al. 2021, arXiv 2105.13493 (reversible_heun).
    """

    method: str = "euler"

    kind = "bridge"
    weak_order = 1.0
    reference = "Li et al. 2020, arXiv 2001.01328"

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UnknownNameError("torchsde method", self.method, METHODS)

    @property
    def stochastic(self) -> bool:
        return True

    @property
    def name(self) -> str:
        return f"torchsde:{self.method}"

    @property
    def strong_order(self) -> float:  # type: ignore[override]
        return _STRONG_ORDERS[self.method]

    @property
    def evaluations_per_step(self) -> int:  # type: ignore[override]
        return _EVALUATIONS[self.method]

    @property
    def differentiates(self) -> bool:  # type: ignore[override]
        # Its Milstein's takes derivatives by autograd, which inference mode makes 0 without a word.
        return self.method == "milstein"

    @property
    def calculus(self) -> tuple[Calculus, ...]:  # type: ignore[override]
        return METHODS[self.method]

    def check(self, dynamics: Dynamics) -> None:
        super().check(dynamics)
        if dynamics.noise_dim is not None and self.method in ("milstein", "srk"):
            raise UnsupportedError(f"solver {self.name!r} serves no general (matrix) noise; 'torchsde:euler' does.")

    def stepper(self, problem: Problem) -> Stepper:
        if isinstance(problem.dynamics, ReverseSDE):
            require_falling(self, problem)
        return _TorchsdeStepper(self, problem)


@final
class _TorchsdeStepper(Stepper):
    def __init__(self, solver: TorchsdeSDE, problem: Problem) -> None:
        self.times = problem.times
        self._method = solver.method
        self._x = problem.x.clone()
        self._floats: list[float] = problem.times.tolist()
        start = self._floats[0]
        self._elapsed = [abs(t - start) for t in self._floats]
        sign = 1.0 if self._floats[-1] > start else -1.0
        served = METHODS[solver.method]
        calculus = problem.dynamics.calculus if problem.dynamics.calculus in served else served[0]
        self._equation = _Equation(problem.dynamics, tuple(problem.x.shape), calculus, start, sign)
        self._extra: tuple[Tensor, ...] | None = None
        dynamics = problem.dynamics
        to_zero = isinstance(dynamics, ReverseSDE) and float(dynamics.model.sde.sigma(self._floats[-1])) == 0
        self._euler_last = to_zero and solver.method in _EVALUATE_AT_END
        self._stream = problem.noise.brownian(
            problem.dynamics.noise_shape(problem.x.shape),
            problem.times,
            areas=1 if solver.method == "srk" else 0,
            dtype=problem.x.dtype,
            device=problem.x.device,
            last_noise=problem.last_noise,
        )

    @property
    def x(self) -> Tensor:
        return self._x

    def advance(self, start: int, stop: int) -> None:
        import torchsde

        from sdekit.solvers.bridges.torchsde_path import OneStepPath

        for k in range(start, stop):
            t, s = self._elapsed[k], self._elapsed[k + 1]
            w, u = self._increment(s - t)
            y = self._x.reshape(self._x.shape[0], -1)
            self._equation.begin(y, known=self._extra is not None)
            if self._euler_last and k == len(self._floats) - 2:
                self._move(self._equation.euler(t, s, y, w))
                continue
            path = OneStepPath(t, s, w, u)
            result = torchsde.sdeint(
                self._equation,
                y,
                torch.tensor([t, s], dtype=torch.float64, device=y.device),
                bm=path,
                method=self._method,
                dt=2 * (s - t),  # longer than the span: torchsde cuts it to one step that ends exactly there
                extra=self._method == "reversible_heun",
                extra_solver_state=self._extra,
            )
            path.forget()
            if self._method == "reversible_heun":
                states, self._extra = result
            else:
                states = result
            self._move(states[-1])

    def _move(self, y: Tensor) -> None:
        # Copied, not kept: a callback may write into it, which a tensor made in inference mode does not allow.
        self._x.copy_(y.reshape(self._x.shape))

    def _increment(self, h: float) -> tuple[Tensor, Tensor | None]:
        """W, and U = int (W - W_t) = h (W/2 + H) where the method needs it, as tensors of their own."""
        made = self._stream.next()
        w = self._flat(made.W).clone()
        return w, None if made.H is None else h * (0.5 * w + self._flat(made.H))

    @staticmethod
    def _flat(z: Tensor) -> Tensor:
        return z.reshape(z.shape[0], -1)

    def registers(self) -> dict[str, Tensor]:
        return {} if self._extra is None else {f"extra_{i}": e for i, e in enumerate(self._extra)}

    def noise_positions(self) -> tuple[int, ...]:
        return (self._stream.position,)

    def restore(self, state: SolveState) -> None:
        self._x = state.x.clone()
        self._extra = tuple(state.registers[f"extra_{i}"].clone() for i in range(len(state.registers))) or None
        self._stream.seek(*state.noise_positions)

    @property
    def replayable(self) -> bool:
        return self._stream.seekable


class _Equation(torch.nn.Module):
    """The dynamics as torchsde wants them: flat states, time that rises from 0."""

    def __init__(
        self, dynamics: Dynamics, shape: tuple[int, ...], calculus: Calculus, start: float, sign: float
    ) -> None:
        super().__init__()
        self.dynamics, self.shape, self.start, self.sign = dynamics, shape, start, sign
        self._values: dict[tuple[float, int], tuple[Tensor, Tensor]] = {}
        self._probe: Tensor | None = None
        # torchsde's "additive" is a matrix; an elementwise g(t) is its "diagonal".
        elementwise = "scalar" if dynamics.noise == "scalar" else "diagonal"
        self.noise_type = elementwise if dynamics.noise_dim is None else "general"
        self.sde_type = calculus

    def _state(self, y: Tensor) -> Tensor:
        return y.reshape(self.shape)

    def _time(self, elapsed: Tensor | float) -> Tensor:
        return self.start + self.sign * as_float64(elapsed)

    def begin(self, y: Tensor, *, known: bool) -> None:
        """Before each step, from y; known: the method's own state holds the drift that its step starts with."""
        self._values.clear()
        self._probe = y if known else None

    def euler(self, t: float, s: float, y: Tensor, w: Tensor) -> Tensor:
        """One step of Euler's method from t to s, for elementwise noise."""
        at = torch.tensor(t, dtype=torch.float64, device="cpu")
        self._probe = None
        return y + self.f(at, y) * (s - t) + self.g(at, y) * w

    def f(self, t: Tensor, y: Tensor) -> Tensor:
        # torchsde looks at the drift's shape before each call of sdeint, at the very point where the step begins, and
        # its srk evaluates each stage several times. No point is evaluated twice, nor for its shape alone.
        if y is self._probe:
            return y
        key = (float(t), id(y))
        if key not in self._values:
            value = self.sign * self.dynamics.drift(self._state(y), self._time(t)).reshape(y.shape)
            self._values[key] = (y, value)  # with y, so that no other tensor takes its id
        return self._values[key][1]

    def g(self, t: Tensor, y: Tensor) -> Tensor:
        x = self._state(y)
        g = self.dynamics.diffusion(x, self._time(t))
        if self.noise_type == "general":
            return g.reshape(y.shape[0], -1, g.shape[-1])
        flat = g.expand(x.shape).reshape(y.shape)
        return flat[..., None] if self.noise_type == "scalar" else flat
