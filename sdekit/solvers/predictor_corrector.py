"""Predictor-corrector sampling: any predictor with any corrector; either may be none."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import final

from torch import Tensor

from sdekit.dynamics import Dynamics, ProbabilityFlow, ReverseSDE
from sdekit.errors import ArgumentError, UnsupportedError
from sdekit.models.score import ScoreModel
from sdekit.noise import NoiseStream
from sdekit.solvers.base import Problem, Stepper
from sdekit.solvers.correctors import CORRECTORS, Corrector, Langevin
from sdekit.solvers.diffusion.base import require_falling
from sdekit.solvers.diffusion.reverse_diffusion import ReverseDiffusion
from sdekit.solvers.fixed_step import FixedStepSolver
from sdekit.solvers.solution import SolveState

__all__ = ["PredictorCorrector"]


@final
@dataclass(frozen=True, repr=False)
class PredictorCorrector(FixedStepSolver):
    """At each time t of the grid, first the corrector at t, then the predictor's step from t to the next time.

    Args:
        predictor: a fixed-step solver that serves score models, of either kind (its own dynamics are chosen for it), or
            None: the corrector alone walks down the times.
        corrector: a Corrector, or None.

    Song et al. 2021, arXiv 2011.13456, algorithm 1 in the order of its published code: correct, then predict.
    """

    predictor: FixedStepSolver | None = field(default_factory=ReverseDiffusion)
    corrector: Corrector | None = field(default_factory=Langevin)

    name = "pc"
    kind = "composition"
    needs = ("score",)
    reference = "Song et al. 2021, arXiv 2011.13456"

    def __post_init__(self) -> None:
        if self.predictor is None and self.corrector is None:
            raise ArgumentError("predictor and corrector are both none: nothing would move.")
        if self.predictor is not None and not isinstance(self.predictor, FixedStepSolver):
            raise ArgumentError(f"predictor must be a fixed-step solver or None, got {self.predictor!r}.")
        if isinstance(self.predictor, PredictorCorrector):
            raise ArgumentError("the predictor is a predictor-corrector itself; give its predictor instead.")
        if self.corrector is not None and not isinstance(self.corrector, Corrector):
            raise ArgumentError(
                f"corrector must be a Corrector ({', '.join(sorted(CORRECTORS))}) or None, got {self.corrector!r}."
            )

    @property
    def stochastic(self) -> bool:
        return self.corrector is not None or (self.predictor is not None and self.predictor.stochastic)

    @property
    def evaluations_per_step(self) -> int | None:  # type: ignore[override]
        predicting = 0 if self.predictor is None else self.predictor.evaluations_per_step
        correcting = 0 if self.corrector is None else self.corrector.n_steps
        return None if predicting is None else predicting + correcting

    @property
    def couples_batch(self) -> bool:
        coupled = self.corrector is not None and self.corrector.couples_batch
        return coupled or (self.predictor is not None and self.predictor.couples_batch)

    @property
    def differentiates(self) -> bool:  # type: ignore[override]
        return self.predictor is not None and self.predictor.differentiates

    def check(self, dynamics: Dynamics) -> None:
        super().check(dynamics)
        if isinstance(dynamics, ReverseSDE) and dynamics.tau != 1.0:
            raise UnsupportedError(f"solver 'pc' targets the reverse SDE with tau = 1, not tau = {dynamics.tau:g}.")
        if self.predictor is not None and dynamics.model is not None:
            self.predictor.check(self._dynamics(dynamics.model))

    def _dynamics(self, model: ScoreModel) -> Dynamics:
        stochastic = self.predictor is not None and self.predictor.stochastic
        return ReverseSDE(model) if stochastic else ProbabilityFlow(model)

    def stepper(self, problem: Problem) -> Stepper:
        model = problem.dynamics.model
        if model is None:
            raise UnsupportedError(f"{problem.dynamics!r} has no score model to correct with.")
        require_falling(self, problem)
        if not problem.last_noise and (self.predictor is None or not self.predictor.stochastic):
            raise ArgumentError(
                "denoise='mean' leaves out the noise of the predictor's last step, and the predictor "
                f"{self.predictor!r} adds none; take denoise=True."
            )
        if self.predictor is None:
            inner: Stepper = _Standing(problem)
        else:
            inner = self.predictor.stepper(
                Problem(self._dynamics(model), problem.x, problem.times, problem.noise, problem.last_noise)
            )
        stream = None
        if self.corrector is not None:
            x = problem.x
            d = x[0].numel()
            if d < self.corrector.biased_below:
                warnings.warn(
                    f"the Langevin corrector with per-sample norms is biased for samples of {d} numbers (its step "
                    "follows the score at each sample); take corrector='ald', or norms='batch' as in the paper's code.",
                    UserWarning,
                    stacklevel=2,
                )
            stream = problem.noise.open(tuple(x.shape), purpose="corrector", dtype=x.dtype, device=x.device)
        return _CorrectingStepper(inner, self.corrector, model, stream)


@final
class _CorrectingStepper(Stepper):
    def __init__(
        self, inner: Stepper, corrector: Corrector | None, model: ScoreModel, stream: NoiseStream | None
    ) -> None:
        self.times = inner.times
        self._inner, self._corrector, self._model, self._stream = inner, corrector, model, stream
        self._floats: list[float] = inner.times.tolist()

    @property
    def x(self) -> Tensor:
        return self._inner.x

    def advance(self, start: int, stop: int) -> None:
        at = self._floats
        for k in range(start, stop):
            if self._corrector is not None and self._stream is not None:
                self._corrector.correct(self._model, self._inner.x, at[k], at[k + 1], self._stream)
            self._inner.advance(k, k + 1)

    def registers(self) -> dict[str, Tensor]:
        return self._inner.registers()

    def noise_positions(self) -> tuple[int, ...]:
        mine = () if self._stream is None else (self._stream.position,)
        return (*mine, *self._inner.noise_positions())

    def restore(self, state: SolveState) -> None:
        positions = state.noise_positions
        if self._stream is not None:
            self._stream.seek(positions[0])
            positions = positions[1:]
        self._inner.restore(SolveState(state.x, state.step, state.t, state.registers, positions, state.nfe))

    @property
    def replayable(self) -> bool:
        return (self._stream is None or self._stream.seekable) and self._inner.replayable


@final
class _Standing(Stepper):
    """The predictor that is none: it keeps the state."""

    def __init__(self, problem: Problem) -> None:
        self.times = problem.times
        self._x = problem.x.clone()

    @property
    def x(self) -> Tensor:
        return self._x

    def advance(self, start: int, stop: int) -> None:
        return None

    def registers(self) -> dict[str, Tensor]:
        return {}

    def noise_positions(self) -> tuple[int, ...]:
        return ()

    def restore(self, state: SolveState) -> None:
        self._x.copy_(state.x)

    @property
    def replayable(self) -> bool:
        return True
