r"""ScoreModel: a network and the SDE it was trained under, answering for the score in every parametrisation.

x_t = alpha D + sigma eps,   s(x, t) = -eps/sigma = (alpha D - x)/sigma^2
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from sdekit._tensors import as_float64, check_number, check_shape
from sdekit.errors import ArgumentError, ShapeError
from sdekit.models.autograd import Differentiating
from sdekit.models.predictions import Prediction, check_prediction, combine, conversion
from sdekit.sdes import DiffusionSDE

__all__ = ["EvaluationCounter", "ScoreModel", "conditioned"]

_STATE_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass
class EvaluationCounter:
    """Network evaluations so far: one per call, whatever the batch."""

    calls: int = 0


@final
class ScoreModel:
    """A network with its SDE and what it predicts.

    Args:
        network: called as network(x, t, **condition) with x of shape (B, *) and t of shape (B,), in the dtype of x
            (float32 at least); returns a tensor of the shape of x.
        sde: the diffusion SDE whose marginals the network knows.
        prediction: what it returns: "score", "noise", "data", "v" or "velocity".
        time: what the network takes as its time, as a function of t (float64, (N,)); t itself unless given.
            For a network trained on 1000 labels: ``time=lambda t: 999 * t``.
        condition: keyword arguments for every call; a tensor whose first dimension is the batch is cut with it, in
            nested dicts, lists and tuples too.
        data_std: the data's standard deviation per coordinate, so that the prior at T can include it (see
            DiffusionSDE.prior_std); 0 is the textbook prior.
        shape: the shape of one sample, if the network has one of its own; `sample(model, n)` then needs no more.
        needs_autograd: True for a network that differentiates inside itself (an energy, a guidance term): gradients are
            recorded while it is called, and its answer is detached where the caller records none.

    Raises:
        ArgumentError: if the network or `time` is not callable, the SDE is not a DiffusionSDE, or a number is out of
            range.
        UnknownNameError: if the prediction is not one of the five.
        ShapeError: if `shape` is not a sequence of positive integers.
    """

    def __init__(
        self,
        network: Callable[..., Tensor],
        sde: DiffusionSDE,
        prediction: Prediction = "noise",
        *,
        time: Callable[[Tensor], Tensor] | None = None,
        condition: Mapping[str, Any] | None = None,
        data_std: float = 0.0,
        shape: tuple[int, ...] | None = None,
        needs_autograd: bool = False,
    ) -> None:
        if not callable(network):
            raise ArgumentError(f"network must be callable as network(x, t), got {type(network).__name__}.")
        if not isinstance(sde, DiffusionSDE):
            raise ArgumentError(f"sde must be a DiffusionSDE (VPSDE, EDMSDE, …), got {sde!r}.")
        if time is not None and not callable(time):
            raise ArgumentError(f"time must be a function of t, got {type(time).__name__}.")
        if condition is not None and not isinstance(condition, Mapping):
            raise ArgumentError(f"condition must be a dict of keyword arguments, got {type(condition).__name__}.")
        if check_number("data_std", data_std) < 0:
            raise ArgumentError(f"data_std must be 0 or more, got {data_std!r}.")
        # On, also where `network` is called bare; a copy's is on already.
        bare = not needs_autograd or isinstance(network, Differentiating)
        self.network: Callable[..., Tensor] = network if bare else Differentiating(network)
        self.sde = sde
        self.prediction: Prediction = check_prediction(prediction)
        self.time = time
        self.condition = dict(condition or {})
        self.data_std = float(data_std)
        self.shape = None if shape is None else check_shape(shape)
        self.needs_autograd = needs_autograd
        self.counter = EvaluationCounter()

    # Evaluations -------------------------------------------------------------------------------------------------

    def raw(self, x: Tensor, label: Tensor) -> Tensor:
        """One counted network call, in the dtype of x: `label` is what `labels` made of t.

        Raises:
            ArgumentError: if the network returns anything but a tensor.
            ShapeError: if it returns one of another shape than x.
        """
        out = self.network(x, label, **self.condition)
        self.counter.calls += 1
        return self.checked(out, x)

    def checked(self, out: object, x: Tensor) -> Tensor:
        """The network's answer at x, in the dtype of x, if it is a tensor of the shape of x; raises as `raw` does."""
        if not isinstance(out, Tensor):
            raise ArgumentError(
                f"the network returned {type(out).__name__}, expected a tensor; wrap it so that it returns only that: "
                "lambda x, t, **condition: network(x, t, **condition)[0]."
            )
        if out.shape != x.shape:
            raise ShapeError(
                f"the network returned a tensor of shape {tuple(out.shape)} for a state of shape {tuple(x.shape)}; "
                "expected the same shape."
            )
        return out.to(x.dtype)

    def labels(self, t: Tensor | float, x: Tensor) -> Tensor:
        """What the network takes for time t (() or (B,)), as (B,) on x's device, float32 at least.

        Raises:
            ShapeError: if t, or what `time` makes of it, is neither one number nor one per sample.
        """
        label = self._one_or_batch("t", as_float64(t), x)
        if self.time is not None:
            label = self._one_or_batch("time(t)", as_float64(self.time(label)), x)
        dtype = x.dtype if x.dtype in (torch.float32, torch.float64) else torch.float32
        return label.to(device=x.device, dtype=dtype).expand(x.shape[0])

    def label_column(self, times: Tensor, x: Tensor) -> Tensor:
        """What the network takes for each of `times` (float64, (N,)), in the dtype and on the device of `labels`.

        Raises:
            ShapeError: if `time` does not make one label of each time.
        """
        label = times if self.time is None else as_float64(self.time(times))
        if label.shape not in (times.shape, ()):
            raise ShapeError(
                f"time(t) has shape {tuple(label.shape)} for {len(times)} times; expected {tuple(times.shape)}."
            )
        dtype = x.dtype if x.dtype in (torch.float32, torch.float64) else torch.float32
        return label.to(device=x.device, dtype=dtype).expand(times.shape)

    @staticmethod
    def _one_or_batch(name: str, t: Tensor, x: Tensor) -> Tensor:
        if t.ndim > 1 or t.numel() not in (1, x.shape[0]):
            raise ShapeError(
                f"{name} has shape {tuple(t.shape)} for a state of shape {tuple(x.shape)}; "
                f"expected () or ({x.shape[0]},)."
            )
        return t.reshape(-1)

    def predict(self, to: Prediction, x: Tensor, t: Tensor | float) -> Tensor:
        """The network's answer at (x, t) as a prediction of the kind `to`: of the shape of x; one evaluation."""
        check_prediction(to)
        out = self.raw(x, self.labels(t, x))
        if to == self.prediction:
            return out
        p, q = conversion(self.prediction, to, self.sde, t)
        return combine(p, x, q, out)

    def score(self, x: Tensor, t: Tensor | float) -> Tensor:
        """grad log p_t(x)."""
        return self.predict("score", x, t)

    def noise(self, x: Tensor, t: Tensor | float) -> Tensor:
        """eps = -sigma(t) score."""
        return self.predict("noise", x, t)

    def denoised(self, x: Tensor, t: Tensor | float) -> Tensor:
        """D = E[x_0 | x_t = x]."""
        return self.predict("data", x, t)

    def v(self, x: Tensor, t: Tensor | float) -> Tensor:
        """alpha eps - sigma D."""
        return self.predict("v", x, t)

    def velocity(self, x: Tensor, t: Tensor | float) -> Tensor:
        """alpha' D + sigma' eps = dx/dt along the probability flow."""
        return self.predict("velocity", x, t)

    # Variants ----------------------------------------------------------------------------------------------------

    @property
    def placement(self) -> tuple[torch.dtype, torch.device]:
        """The dtype and device of the network's first floating-point parameter; float32 on the CPU without one."""
        network = _unwrapped(self.network)
        for parameter in network.parameters() if isinstance(network, torch.nn.Module) else ():
            if parameter.dtype in _STATE_DTYPES:
                return parameter.dtype, parameter.device
        return torch.float32, torch.device("cpu")

    def with_condition(self, **condition: Any) -> ScoreModel:
        """The same model with these keyword arguments for every network call, and a counter of its own."""
        return self._copy({**self.condition, **condition})

    def with_network(self, network: Callable[..., Tensor], *, needs_autograd: bool = False) -> ScoreModel:
        """The same model around another network, which may call this one's; with a counter of its own."""
        return ScoreModel(
            network,
            self.sde,
            self.prediction,
            time=self.time,
            condition=self.condition,
            data_std=self.data_std,
            shape=self.shape,
            needs_autograd=needs_autograd,
        )

    def counted(self) -> ScoreModel:
        """The same model with a counter of its own, at 0: what a solve takes, so that no state stays behind."""
        return self._copy(self.condition)

    def part(self, start: int, stop: int, total: int) -> ScoreModel:
        """The model for samples start … stop - 1 of `total`: batch-first condition tensors are cut accordingly."""
        return self._rows(slice(start, stop), total)

    def rows(self, which: slice | Tensor, total: int) -> ScoreModel:
        """The model for some samples of `total`, a slice or indices, int64 (A,), with the same counter."""
        return self._rows(which, total)

    def _rows(self, which: slice | Tensor, total: int) -> ScoreModel:
        def cut(value: Any) -> Any:
            if isinstance(value, dict):
                return {name: cut(entry) for name, entry in value.items()}
            if type(value) in (list, tuple):
                return type(value)(cut(entry) for entry in value)
            batched = isinstance(value, Tensor) and value.ndim > 0 and value.shape[0] == total
            if not batched:
                return value
            return value[which] if isinstance(which, slice) else value[which.to(value.device)]

        return self._copy({name: cut(value) for name, value in self.condition.items()}, self.counter)

    def _copy(self, condition: Mapping[str, Any], counter: EvaluationCounter | None = None) -> ScoreModel:
        copy = ScoreModel(
            self.network,
            self.sde,
            self.prediction,
            time=self.time,
            condition=condition,
            data_std=self.data_std,
            shape=self.shape,
            needs_autograd=self.needs_autograd,
        )
        if counter is not None:
            copy.counter = counter
        return copy

    def __repr__(self) -> str:
        network = _unwrapped(self.network)
        name = getattr(network, "__name__", type(network).__name__)
        return f"ScoreModel({name}, {self.sde!r}, prediction={self.prediction!r})"


def conditioned(model: ScoreModel, condition: object) -> ScoreModel:
    """The model with these keyword arguments for every network call; the model itself where there are none.

    Raises:
        ArgumentError: if they are no dict of keyword arguments, or the network can be seen not to take them.
    """
    if condition is None:
        return model
    if not isinstance(condition, Mapping) or not all(isinstance(name, str) for name in condition):
        raise ArgumentError(f"condition must be a dict of the network's keyword arguments, got {condition!r}.")
    if not condition:
        return model
    whole = {**model.condition, **condition}
    network = _unwrapped(model.network)
    try:
        signature = inspect.signature(network.forward if isinstance(network, torch.nn.Module) else network)
    except (TypeError, ValueError):  # it does not say what it takes
        return model._copy(whole)
    try:
        signature.bind(None, None, **whole)
    except TypeError as error:
        given = ", ".join(map(repr, whole))
        raise ArgumentError(
            f"the network cannot be called with condition {given}: {error}; it takes {', '.join(signature.parameters)}."
        ) from None
    return model._copy(whole)


def _unwrapped(network: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return network.network if isinstance(network, Differentiating) else network
