r"""The training loop: AdamW, a moving average of the weights, gradient clipping, warm-up and cosine decay, resuming.

The random numbers of step k are a function of (seed, k), and of nothing else: a run that was stopped and resumed gives
the weights of an undisturbed run bit for bit (on one machine, with one thread count), and the global random state of
torch is left as it was.
"""

from __future__ import annotations

import contextlib
import copy
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn
from tqdm import tqdm

from sdekit.errors import ArgumentError, SdekitError
from sdekit.training.checkpoint import read_checkpoint, write_checkpoint

__all__ = ["MovingAverage", "Training", "TrainingSettings", "isolated_random", "threads_of", "train"]

Settings = TypeVar("Settings", bound="TrainingSettings")


class TrainingSettings(BaseModel):
    """How a network is trained; every field is checked, and unknown ones are refused. See `checked`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    seed: int = Field(0, ge=0)
    steps: int = Field(4000, ge=1)
    learning_rate: float = Field(2e-3, gt=0)
    warmup_steps: int = Field(200, ge=0)
    weight_decay: float = Field(0.01, ge=0)
    betas: tuple[float, float] = (0.9, 0.99)
    clip_norm: float = Field(1.0, gt=0)
    ema_decay: float = Field(0.999, ge=0, lt=1)
    evaluate_every: int = Field(200, ge=1)
    checkpoint_every: int = Field(500, ge=1)

    @classmethod
    def checked(cls: type[Settings], **values: Any) -> Settings:
        """The settings with these values, or an ArgumentError that names each value at fault."""
        try:
            return cls(**values)
        except ValidationError as error:
            faults = "; ".join(f"{'.'.join(map(str, e['loc']))} = {e['input']!r}: {e['msg']}" for e in error.errors())
            raise ArgumentError(f"training settings: {faults}.") from None

    def rate(self, step: int) -> float:
        """Learning rate of step 0, 1, …: a linear warm-up, then half a cosine that reaches 0 after the last step."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


class MovingAverage:
    """An exponential moving average of a network's parameters, in a network of its own (eval mode, no gradients).

    After update k = 1, 2, …:  e_k = d_k e_{k-1} + (1 - d_k) theta_k,   d_k = min(decay, k / (k + 9)),   e_0 = theta_0.
    The warm-up of d_k lets the average forget the first weights. Buffers are copied.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.decay, self.updates = decay, 0

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Take the network's present parameters in."""
        self.updates += 1
        decay = min(self.decay, self.updates / (self.updates + 9))
        torch._foreach_lerp_(list(self.network.parameters()), list(network.parameters()), 1 - decay)
        for mine, its in zip(self.network.buffers(), network.buffers(), strict=True):
            mine.copy_(its)


class _Interrupt:
    """A Ctrl-C that waits: within the block the first one sets `asked`, and the next one is KeyboardInterrupt again.

    Only in the main thread, which alone may handle signals, and only where Ctrl-C means KeyboardInterrupt.
    """

    def __init__(self, wanted: bool) -> None:
        main = threading.current_thread() is threading.main_thread()
        self._active = wanted and main and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        self.asked = False

    def __enter__(self) -> _Interrupt:
        if self._active:
            signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        if self._active:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _ask(self, *_: object) -> None:
        self.asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextlib.contextmanager
def threads_of(count: int) -> Iterator[None]:
    """Within the block torch computes with so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True)
class Training:
    """A finished run: the averaged network, a row of figures for every evaluation, and the seconds it took."""

    network: nn.Module
    history: list[dict[str, float]]
    seconds: float


@contextlib.contextmanager
def isolated_random(seed: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Within the block torch's default generators (CPU and `device`) start from `seed`; after it they are as before."""
    device = torch.device(device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


def train(
    network: nn.Module,
    loss: Callable[[torch.Generator], Tensor],
    settings: TrainingSettings,
    *,
    evaluate: Callable[[nn.Module], dict[str, float]] | None = None,
    checkpoint: Path | str | None = None,
    resume: bool = False,
    progress: bool = True,
) -> Training:
    """Minimise `loss` over the network's parameters; the network itself is trained in place.

    Args:
        network: its parameters are what is trained.
        loss: called once a step with a CPU generator; draws its batch with it and returns the scalar loss.
        settings: see TrainingSettings; `checkpoint_every` and `evaluate_every` count steps.
        evaluate: called with the averaged network; its figures join the row of the history.
        checkpoint: the file that holds the run's state, if one is wanted. Ctrl-C then ends the run after the step at
            hand, with its state written.
        resume: continue from that file; the settings must be those it was written with.
        progress: a bar on a terminal; none where the output is not one.

    Raises:
        ArgumentError: if a checkpoint is already there and `resume` is False, or there is none to resume,
            or it belongs to other settings or another network.
        SdekitError: if the loss becomes NaN or infinite.
        KeyboardInterrupt: on Ctrl-C.
    """
    path = None if checkpoint is None else Path(checkpoint)
    average = MovingAverage(network, settings.ema_decay)
    optimizer = torch.optim.AdamW(
        network.parameters(), settings.learning_rate, settings.betas, weight_decay=settings.weight_decay, fused=True
    )
    history: list[dict[str, float]] = []
    start, total, seconds = 0, 0.0, 0.0
    if resume:
        if path is None:
            raise ArgumentError("resume=True needs the checkpoint to resume from.")
        record = _restore(path, settings, network, average, optimizer)
        history, start, total, seconds = (record[k] for k in ("history", "step", "total", "seconds"))
    elif path is not None and path.exists():
        raise ArgumentError(f"{path} holds a run already; resume it, delete it, or choose another place.")

    began = time.perf_counter() - seconds
    parameters = list(network.parameters())
    device = parameters[0].device
    bar = tqdm(range(start, settings.steps), initial=start, total=settings.steps, disable=None if progress else True)
    with _Interrupt(path is not None) as interrupt:
        for step in bar:
            network.train()
            rate = settings.rate(step)
            for group in optimizer.param_groups:
                group["lr"] = rate
            draws, layers = (int(s) for s in np.random.SeedSequence((settings.seed, step)).generate_state(2))
            optimizer.zero_grad()
            with isolated_random(layers, device):  # dropout has no generator argument
                value = loss(torch.Generator().manual_seed(draws))
                value.backward()  # type: ignore[no-untyped-call]
            current = value.item()
            if not math.isfinite(current):
                raise SdekitError(
                    f"the training loss became {current} at step {step + 1}; lower learning_rate (now {rate:.3g}) or "
                    "clip_norm, or check the data."
                )
            nn.utils.clip_grad_norm_(parameters, settings.clip_norm)
            optimizer.step()
            average.update(network)
            total += current

            done = step + 1
            if done % settings.evaluate_every == 0 or done == settings.steps:
                since = done - (int(history[-1]["step"]) if history else 0)
                row = {"step": done, "learning_rate": rate, "loss": total / since}
                history.append(row | (evaluate(average.network) if evaluate else {}))
                total = 0.0
                bar.set_postfix(loss=f"{row['loss']:.4f}")
            asked = interrupt.asked  # once, so that it is never raised without the state being written
            if path is not None and (asked or done % settings.checkpoint_every == 0 or done == settings.steps):
                _store(path, settings, network, average, optimizer, done, history, total, time.perf_counter() - began)
            if asked:
                raise KeyboardInterrupt
    network.eval()
    return Training(average.network, history, time.perf_counter() - began)


def _store(
    path: Path,
    settings: TrainingSettings,
    network: nn.Module,
    average: MovingAverage,
    optimizer: torch.optim.Optimizer,
    step: int,
    history: list[dict[str, float]],
    total: float,
    seconds: float,
) -> None:
    names = [name for name, _ in network.named_parameters()]
    states: dict[int, dict[str, Tensor]] = optimizer.state_dict()["state"]
    tensors = {
        "network": dict(network.state_dict()),
        "average": dict(average.network.state_dict()),
        "optimizer": {f"{names[i]}/{key}": t for i, state in states.items() for key, t in state.items()},
    }
    record = {
        "settings": settings.model_dump(mode="json"),
        "step": step,
        "updates": average.updates,
        "history": history,
        "total": total,
        "seconds": seconds,
    }
    write_checkpoint(path, tensors, record)


def _restore(
    path: Path,
    settings: TrainingSettings,
    network: nn.Module,
    average: MovingAverage,
    optimizer: torch.optim.Optimizer,
) -> dict[str, Any]:
    tensors, record = read_checkpoint(path)
    mine, its = settings.model_dump(mode="json"), record["settings"]
    if mine != its:
        differing = [f"{k} (was {its.get(k)!r}, now {mine.get(k)!r})" for k in mine | its if mine.get(k) != its.get(k)]
        raise ArgumentError(f"{path} was written with other settings: {', '.join(differing)}; resume with the same.")
    try:
        network.load_state_dict(tensors["network"])
        average.network.load_state_dict(tensors["average"])
    except RuntimeError as error:
        raise ArgumentError(f"{path} holds another network than the one given: {error}") from None
    average.updates = record["updates"]
    states: dict[int, dict[str, Tensor]] = {}
    for i, (name, _) in enumerate(network.named_parameters()):
        prefix = f"{name}/"
        states[i] = {k.removeprefix(prefix): t for k, t in tensors["optimizer"].items() if k.startswith(prefix)}
    optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})
    return record
