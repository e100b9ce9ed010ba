"""Samplers whose numbers depend on the data: norms, inner products, step sizes.

They are no plans, because no table holds their weights, and so they have no Gaussian card: whatever spread their
samples have is not vouched for, and the gate stays shut.  `stateful_sample` runs them as `sample` runs a plan.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict._random import white
from retrodict.denoisers.denoiser import Denoiser
from retrodict.processes.observation import Cond, noise_like
from retrodict.processes.process import Process
from retrodict.samplers.loop import Noise

__all__ = [
    "NO_CARD",
    "STATEFUL_NAMES",
    "Progress",
    "Run",
    "StatefulPlan",
    "StatefulRule",
    "StatefulSamples",
    "item_dot",
    "stateful_sample",
]

STATEFUL_NAMES = ("predictor_corrector", "evodiff", "lml", "dmcmc", "rk45", "adaptive_sde")
"""Names of `STATEFUL`, for those who have to say that one of them is no plan."""

NO_CARD = (
    "its weights depend on the data, so that it has no Gaussian card and nothing vouches for the spread of its samples"
)


class Progress(NamedTuple):
    """Where a run stands: shifted coefficients w `(B, C, *K)` at time t, what the rule remembers, and whether it ended.

    met: False where the rule stopped short of the last time; `told` then says why.
    """

    w: Tensor
    t: float
    memory: Any = None
    done: bool = False
    met: bool = True
    told: str = ""


class StatefulRule(Protocol):
    """A rule that decides from what it has seen.  It is a value: what changes is in `Progress`.

    alone: every item is run by itself, because its steps are its own; otherwise a rule may use per-item numbers only.
    """

    @property
    def alone(self) -> bool:
        """Whether items are run one by one."""
        ...

    def check(self, process: Process, times: Tensor) -> None:
        """Raise `InputError` where the rule lacks what it needs of the process, before anything is drawn."""
        ...

    def begin(self, run: Run, w: Tensor) -> Progress:
        """The state at the first time; may call the denoiser."""
        ...

    def step(self, run: Run, progress: Progress) -> Progress:
        """One step on; may call the denoiser any number of times."""
        ...


@dataclass(frozen=True)
class StatefulPlan:
    """A rule with its options on the times of a process, `(N + 1,)` falling; `name` is its name in `STATEFUL`."""

    process: Process
    times: Tensor
    rule: StatefulRule
    name: str
    spectrum: Tensor | None = None

    def __post_init__(self) -> None:
        """Refuse times that do not fall, and a process that the rule cannot take."""
        times = self.times
        if times.ndim != 1 or len(times) < 2 or times.dtype != torch.float64:
            raise InputError("plan times", f"{tuple(times.shape)} {times.dtype}", "a float64 vector of two or more")
        if not bool((times[1:] < times[:-1]).all()) or float(times[-1]) < 0 or float(times[0]) > 1:
            raise InputError("plan times", times.tolist(), "strictly decreasing times in [0, 1]")
        self.rule.check(self.process, times)


class StatefulSamples(NamedTuple):
    """x `(B, C, *N)`, the last denoised image x0, calls of every item `(B,)`, seeds, and how each item ended.

    reached: the time `(B,)` at which an item stopped; met `(B,)`: whether that is the last of the plan; told: why, for
    every item that stopped short.  kind is "point": the spread of such samples is not an uncertainty.
    """

    x: Tensor
    x0: Tensor
    nfe: Tensor
    seeds: Tensor
    reached: Tensor
    met: Tensor
    told: Mapping[int, str]
    kind: str = "point"


@dataclass
class Run:
    """What a rule may use: the denoiser as a function of coefficients, noise of the seeds, and the plan.

    `calls` counts those made; `image` is the last denoised image.
    """

    denoiser: Denoiser
    plan: StatefulPlan
    seeds: Tensor
    cond: Cond = field(default_factory=Cond)
    noise: Noise = white
    calls: int = 0
    image: Tensor | None = None
    like: Tensor | None = field(default=None, repr=False)

    @property
    def process(self) -> Process:
        """That of the plan."""
        return self.plan.process

    def denoised(self, w: Tensor, t: float | Tensor) -> Tensor:
        """Coefficients of E[x_0 | x_t] `(B, C, *K)` for shifted coefficients w at time t; one call."""
        time = torch.as_tensor(t, dtype=torch.float64, device="cpu").reshape(-1).expand(len(w))
        anchor = self.cond.image if self.process.anchored else None
        xt = self.process.to_image(w, time, anchor)
        mean = self.denoiser(xt, time, self.cond)
        if mean.shape != xt.shape:
            raise InputError(
                "denoiser", f"an estimate of shape {tuple(mean.shape)}", f"{tuple(xt.shape)}, as its input"
            )
        if self.calls == 0 and not bool(torch.isfinite(mean).all()):
            found = "an estimate with NaN or infinite values at the first call"
            raise InputError("denoiser", found, "finite values")
        self.calls += 1
        self.image = mean
        return self.process.basis.forward(mean)

    def white(self, w: Tensor, stream: str, number: int) -> Tensor:
        """White noise of the shape of coefficients w, item i from its seed, the name of the stream and a number."""
        like = self.process.basis.inverse(w)
        return self.process.basis.forward(noise_like(like, self.seeds, stream, number, self.noise))


def item_dot(process: Process, a: Tensor, b: Tensor, channels: bool = False) -> Tensor:
    """Inner product of coefficients per item (and per channel) over real degrees of freedom, `(B, 1, *1)`."""
    terms = (a * b.conj()).real * process.basis.multiplicity().to(a.real)
    axes = tuple(range(2 if channels else 1, a.ndim))
    return terms.sum(axes, keepdim=True)


def stateful_sample(
    denoiser: Denoiser,
    plan: StatefulPlan,
    start: Tensor,
    *,
    seeds: Tensor,
    cond: Cond | None = None,
    noise: Noise = white,
) -> StatefulSamples:
    """Run `plan` from `start`, shifted coefficients `(B, C, *K)` at plan.times[0]; seeds `(B,)`, one per item.

    As `retrodict.sample`: a pure function, in which an item depends on its seed alone, so a batch equals its items.  An
    item that cannot be taken to the last time is returned where it stopped, and `told` says why.
    """
    process, cond = plan.process, Cond() if cond is None else cond
    if process.anchored and cond.image is None:
        raise InputError("sample", "no condition image", "cond with the image that the process is pulled to")
    if denoiser.process.basis != process.basis:
        found, wanted = denoiser.process.basis, process.basis
        raise InputError("sample", f"a denoiser on {found}", f"{wanted}, that of the plan", "Use denoiser.on(size).")
    if len(seeds) != len(start):
        raise InputError("seeds", f"{len(seeds)} seeds", f"one for each of {len(start)} items")
    parts = [slice(i, i + 1) for i in range(len(start))] if plan.rule.alone else [slice(0, len(start))]
    found = [_one(denoiser, plan, start[p], seeds[p], _part(cond, p), noise, p.start) for p in parts]
    x, x0, nfe, reached, met = (torch.cat(values) for values in zip(*(f[:5] for f in found), strict=True))
    told = {k: v for f in found for k, v in f[5].items()}
    return StatefulSamples(x, x0, nfe, seeds, reached, met, told)


def _part(cond: Cond, part: slice) -> Cond:
    return Cond(*(None if x is None else x[part] for x in cond))


def _one(
    denoiser: Denoiser, plan: StatefulPlan, start: Tensor, seeds: Tensor, cond: Cond, noise: Noise, first: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, dict[int, str]]:
    run = Run(denoiser, plan, seeds, cond, noise)
    with torch.no_grad():
        progress = plan.rule.begin(run, start)
        while not progress.done:
            progress = plan.rule.step(run, progress)
        time = torch.full((len(start),), progress.t, dtype=torch.float64, device="cpu")
        x = plan.process.to_image(progress.w, time, cond.image if plan.process.anchored else None)
    calls = torch.full((len(start),), run.calls, dtype=torch.int64, device="cpu")
    met = torch.full((len(start),), progress.met, dtype=torch.bool, device="cpu")
    told = {} if progress.met else {first + i: progress.told for i in range(len(start))}
    return x, x if run.image is None else run.image, calls, time, met, told
