"""The training loop: one function, resumable at any moment and bit-identical when resumed.

Every batch, time and noise field is a function of (seed, step), so the state of a run is the weights, their running
average, the optimizer's moments and a step number.
"""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from safetensors.torch import save
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from retrodict._check import InputError
from retrodict._output import recover
from retrodict._random import key
from retrodict.denoisers.network import NetDenoiser
from retrodict.models.tensors import load_weights
from retrodict.training.checkpoints import Checkpoint, differing, newest, save_checkpoint
from retrodict.training.losses import Batch, Example, Losses, denoising_loss, state_noise

__all__ = ["FREE", "Objective", "Progress", "Stepped", "TrainingOptions", "check_resumable", "train"]


Objective = Callable[[NetDenoiser, Any, Tensor, str, float], Losses]
"""(denoiser, clean images, seeds, `TrainingOptions.loss`, `spread_weight`) to the losses of each item."""


@runtime_checkable
class Stepped(Protocol):
    """An objective that changes as the training goes on: a function of the step, so that a run can be resumed."""

    def at_step(self, step: int) -> Objective:
        """The objective of a step, counted from 0.  Held-out images are valued by the one that was given."""
        ...


@dataclass(frozen=True)
class TrainingOptions:
    """Numbers of a training run; `steps` optimizer steps of `batch` items each.

    workers: processes that make the batches ahead; 0 makes each where it is used.  The batches are the same.
    """

    steps: int = 2000
    batch: int = 16
    learning_rate: float = 1e-3
    warmup: int = 200
    decay: float = 0.2
    weight_decay: float = 0.0
    ema: float = 0.999
    clip: float = 1.0
    seed: int = 0
    loss: str = "unit"
    spread_weight: float = 0.1
    checkpoint_every: int = 500
    validate_every: int = 500
    log_every: int = 20
    workers: int = 0


class Progress(NamedTuple):
    """What a training run reports: step done, steps in all, loss, seconds a step, seconds left, validation loss."""

    step: int
    steps: int
    loss: float
    seconds: float
    left: float
    validation: float | None


def train(
    denoiser: NetDenoiser,
    batch: Batch,
    options: TrainingOptions,
    folder: Path,
    *,
    validation: Batch | None = None,
    watch: Callable[[Progress], None] | None = None,
    log: Callable[[dict[str, float]], None] | None = None,
    objective: Objective = denoising_loss,
    identity: Mapping[str, Any] | None = None,
    note: Callable[[str], None] | None = None,
) -> dict[str, Tensor]:
    """Train `denoiser.net` and return the averaged weights; continues from the newest whole checkpoint in `folder`.

    identity: JSON values by name, of everything else that makes the result what it is; a checkpoint of another run is
    refused by the names that differ.  note: told of checkpoints that are damaged and passed over.

    AdamW with linear warm-up, constant rate and a linear fall to zero over the last `decay` of the steps; gradient
    norm clipped to `clip`; exponential average of the weights with warm-up min(ema, (1 + n)/(10 + n)).
    """
    from accelerate import Accelerator

    accelerator = Accelerator(mixed_precision="no", cpu=denoiser.process.basis.device == "cpu")
    optimizer = _optimizer(denoiser, options)
    net, optimizer = accelerator.prepare(denoiser.net, optimizer)
    denoiser = replace(denoiser, net=net)
    average = {name: value.detach().clone() for name, value in accelerator.unwrap_model(net).state_dict().items()}
    identity = {} if identity is None else identity
    recover(folder)  # what a run that was killed while writing left
    found, damaged = newest(folder)
    for sentence in damaged if note is not None else ():
        note(sentence)  # type: ignore[misc]
    step = 0
    if found is not None:
        check_resumable(found, options, identity)
        step = _resume(accelerator.unwrap_model(net), optimizer, average, found)
    durations: list[float] = []
    ahead = accelerator.device.type != "cpu"  # a number asked of a GPU makes it wait: only where it is wanted
    start = time.perf_counter()
    for keys, made in batches(batch, options, step):
        losses = _step(denoiser, keys, made, optimizer, accelerator, options, step, objective)
        step += 1
        _average(average, accelerator.unwrap_model(net).state_dict(), options.ema, step)
        last = step == options.steps
        valued = validation is not None and (step % options.validate_every == 0 or last)
        saved = step % options.checkpoint_every == 0 or last
        logged = step % options.log_every == 0 or valued
        loss = None if ahead and not (saved or logged) else _finite(losses, step)
        durations = [*durations[-49:], time.perf_counter() - start]
        if loss is None:
            start = time.perf_counter()
            continue
        value = _validate(denoiser, validation, average, options, objective) if valued and validation else None
        if saved and accelerator.is_main_process:
            files = _state(accelerator.unwrap_model(net), optimizer, average)
            save_checkpoint(folder, step, files, vars(options), identity)
        if log is not None and logged:
            log({"step": step, "seconds": durations[-1], **loss, **({} if value is None else {"validation": value})})
        if watch is not None:
            pace = statistics.fmean(durations) if ahead else statistics.median(durations)
            watch(Progress(step, options.steps, loss["loss"], pace, pace * (options.steps - step), value))
        start = time.perf_counter()  # a step is from here: making its batch is part of it
    return average


class _Ahead(torch.utils.data.Dataset):
    """Batches by their keys, for processes that make them ahead."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    def __getitem__(self, keys: list[int]) -> tuple[list[int], Example]:
        made = self.batch(keys)
        made = made if isinstance(made, Example) else Example(made)
        return keys, made._replace(white=state_noise(made.x0, torch.tensor(keys, device="cpu")))


def batches(batch: Batch, options: TrainingOptions, first: int) -> Iterator[tuple[list[int], Any]]:
    """Keys and batch of every step from `first` on, made here or by `options.workers` processes ahead."""
    every = (_keys(options, step, options.batch) for step in range(first, options.steps))
    if not options.workers or first >= options.steps:
        return ((keys, batch(keys)) for keys in every)
    loader = torch.utils.data.DataLoader(
        _Ahead(batch),
        batch_size=None,
        sampler=every,  # type: ignore[arg-type]  # any iterable is one
        num_workers=options.workers,
        prefetch_factor=8,
        generator=torch.Generator(),  # the global one is the caller's
        multiprocessing_context="fork" if sys.platform.startswith("linux") else None,
        worker_init_fn=_alone,
    )
    return iter(loader)


def _alone(_: int) -> None:
    torch.set_num_threads(1)


def _optimizer(denoiser: NetDenoiser, options: TrainingOptions) -> torch.optim.AdamW:
    return torch.optim.AdamW(
        denoiser.net.parameters(), lr=options.learning_rate, betas=(0.9, 0.99), weight_decay=options.weight_decay
    )


def rate(options: TrainingOptions, step: int) -> float:
    """Learning rate of a step."""
    rise = min(1.0, (step + 1) / max(1, options.warmup))
    fall = min(1.0, (options.steps - step) / max(1.0, options.decay * options.steps))
    return options.learning_rate * rise * fall


def _keys(options: TrainingOptions, step: int, count: int, stream: str = "item") -> list[int]:
    return [key(options.seed, stream, step * count + i) for i in range(count)]


def _step(
    denoiser: NetDenoiser,
    keys: list[int],
    made: Any,
    optimizer: Any,
    accelerator: Any,
    options: TrainingOptions,
    step: int,
    objective: Objective,
) -> dict[str, Tensor]:
    for group in optimizer.param_groups:
        group["lr"] = rate(options, step)
    objective = objective.at_step(step) if isinstance(objective, Stepped) else objective
    losses = objective(denoiser, made, torch.tensor(keys, device="cpu"), options.loss, options.spread_weight)
    total = losses.total.mean()
    optimizer.zero_grad(set_to_none=True)
    accelerator.backward(total)
    norm = accelerator.clip_grad_norm_(denoiser.net.parameters(), options.clip)
    if total.device.type == "cpu":
        _finite({"loss": total.detach()}, step + 1)
    optimizer.step()
    return {
        "loss": total.detach(),
        "error": losses.error.detach().mean(),
        "spread": losses.spread.detach().mean(),
        "gradient": norm,
    }


def _finite(losses: Mapping[str, Tensor], step: int) -> dict[str, float]:
    """The numbers of a step; `InputError` for a loss that is none.  On a GPU it may be one of some steps before: from
    the first of them on every loss is NaN.
    """
    loss = {name: float(value) for name, value in losses.items()}
    if not math.isfinite(loss["loss"]):
        raise InputError("training", f"a loss of {loss['loss']} at step {step}", "a finite loss", "Lower the rate.")
    return loss


def _average(average: dict[str, Tensor], weights: dict[str, Tensor], ema: float, step: int) -> None:
    decay = min(ema, (1 + step) / (10 + step))
    names = [name for name, value in weights.items() if value.is_floating_point()]
    get_ema_multi_avg_fn(decay)([average[n] for n in names], [weights[n] for n in names], None)  # type: ignore[arg-type]
    for name in weights.keys() - set(names):
        average[name].copy_(weights[name])


@torch.no_grad()
def _validate(
    denoiser: NetDenoiser,
    validation: Batch,
    average: dict[str, Tensor],
    options: TrainingOptions,
    objective: Objective,
) -> float:
    """Mean total loss of the averaged weights on a fixed set of held-out draws."""
    own = {name: value.clone() for name, value in denoiser.net.state_dict().items()}
    denoiser.net.load_state_dict(average)
    values = []
    for block in range(4):
        keys = _keys(options, block, options.batch, "validation")
        loss = objective(
            denoiser, validation(keys), torch.tensor(keys, device="cpu"), options.loss, options.spread_weight
        )
        values.append(float(loss.total.mean()))
    denoiser.net.load_state_dict(own)
    return sum(values) / len(values)


# ---- the state of a run ----------------------------------------------------------------------------------------------

FREE = ("checkpoint_every", "validate_every", "log_every", "workers")
"""Options that do not change the result of a run."""


def check_resumable(found: Checkpoint, options: TrainingOptions, identity: Mapping[str, Any]) -> None:
    """Raise `InputError`, with the names that differ, where a checkpoint is not of the run that is to be continued.

    `FREE` options may change, and `steps` as long as the rate has not begun to fall, because until then a longer or
    shorter run has been the same.
    """
    stated = found.record["options"]
    changed = [k for k in differing(stated, vars(options)) if k not in FREE]
    if "steps" in changed and _before_the_fall(found.step, options, stated.get("steps")):
        changed.remove("steps")
    changed += [k for k in differing(found.record["identity"], identity) if k.removeprefix("training.") not in changed]
    if changed:
        more = "" if len(changed) <= 6 else f" and {len(changed) - 6} more"
        raise InputError(
            found.path,
            f"a checkpoint of another configuration: {', '.join(changed[:6])}{more}",
            "the configuration that the run was started with",
            "Use another output folder, or remove the old one.",
        )


def _before_the_fall(step: int, options: TrainingOptions, steps: Any) -> bool:
    return isinstance(steps, int) and step <= (1 - options.decay) * min(options.steps, steps)


def _state(net: torch.nn.Module, optimizer: Any, average: dict[str, Tensor]) -> dict[str, bytes]:
    """Weights, their average and the moments of the optimizer, as files."""
    moments = {
        f"{index}.{name}": value.contiguous()
        for index, state in optimizer.state_dict()["state"].items()
        for name, value in state.items()
    }
    return {
        "weights.safetensors": save({k: v.contiguous() for k, v in net.state_dict().items()}),
        "average.safetensors": save(average),
        "optimizer.safetensors": save(moments),
    }


def _resume(net: torch.nn.Module, optimizer: Any, average: dict[str, Tensor], found: Checkpoint) -> int:
    """Put the state of a checkpoint in place and return its step."""
    load_weights(net, found.tensors("weights"), found.path / "weights.safetensors")
    mean = found.tensors("average")
    for name, value in average.items():
        value.copy_(_as(mean, name, value, found.path / "average.safetensors"))
    state_dict = optimizer.state_dict()
    state_dict["state"] = {}
    for name, value in found.tensors("optimizer").items():
        index, field = name.split(".", 1)
        state_dict["state"].setdefault(int(index), {})[field] = value
    optimizer.load_state_dict(state_dict)
    return found.step


def _as(tensors: Mapping[str, Tensor], name: str, like: Tensor, path: Path) -> Tensor:
    if name not in tensors or tensors[name].shape != like.shape:
        found = "nothing" if name not in tensors else f"shape {tuple(tensors[name].shape)}"
        raise InputError(f"{path}: {name}", found, f"shape {tuple(like.shape)}")
    return tensors[name]
