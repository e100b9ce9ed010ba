"""What a posterior method is: a step from x_t to x_s that knows a measurement, and the loop that repeats it."""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, Literal, NamedTuple, Protocol, Self

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict._random import white
from retrodict.bases import Pixel
from retrodict.denoisers.denoiser import Denoiser, Estimate
from retrodict.denoisers.spread import SpectralSpread, Spread
from retrodict.physics.measurement import Measurement
from retrodict.posterior.law import Conditioner, root_of
from retrodict.processes.observation import noise_like, ratio
from retrodict.processes.process import Process
from retrodict.samplers.loop import Noise, Step
from retrodict.samplers.plan import make_grid

__all__ = [
    "Draw",
    "Drawn",
    "Kind",
    "Method",
    "ancestral_step",
    "drawn_step",
    "in_precision",
    "noise_of",
    "number_clock",
    "renoise_step",
]

Kind = Literal["sample", "point"]


class Draw(Protocol):
    """Where a step takes its noise from: every call gives fresh fields."""

    def __call__(self, fields: int) -> Tensor:
        """White noise `(fields, B, C, *N)`."""
        ...


class Drawn(NamedTuple):
    """x `(B, C, *N)` in the unit of the denoiser; `mean`, the last E[x_0 | x_t, y] where the method has one; calls of
    the denoiser per item, forward and (gradients) backward; log weights `(B,)` float64 of particles and their
    log-evidence, else None.
    """

    x: Tensor
    mean: Tensor | None
    calls: int
    gradients: int
    log_weights: Tensor | None = None
    log_evidence: float | None = None


@dataclass(frozen=True, eq=False)
class Method(ABC):
    """A posterior method with a denoiser and a measurement of one item; write `step`.

    `kind` "sample": an ensemble of runs stands for the posterior (well or badly, see the card); "point": it does not.
    `style`: "paper" as published, "calibrated" where mean and variance are right on Gaussian data.  `grid`, `steps`:
    defaults.  `calls`, `gradients`: evaluations of the denoiser a step takes, and derivatives of it.
    """

    denoiser: Denoiser
    measurement: Measurement

    kind: ClassVar[Kind] = "sample"
    style: ClassVar[str] = "paper"
    grid: ClassVar[str] = "time"
    steps: ClassVar[int] = 100
    calls: ClassVar[int] = 1
    gradients: ClassVar[int] = 0
    conditional_start: ClassVar[bool] = False

    @abstractmethod
    def step(self, x: Tensor, t: Tensor, s: Tensor, draw: Draw) -> Tensor:
        """x_t `(B, C, *N)` to x_s, times `(B,)` float64 with s < t, which may differ between items."""

    def stepper(self) -> Callable[[Tensor, Tensor, Tensor, Draw], Tensor]:
        """The steps of one run: `step`, or a function that remembers from one to the next."""
        return self.step

    @property
    def process(self) -> Process:
        """That of the denoiser."""
        return self.denoiser.process

    @cached_property
    def conditioner(self) -> Conditioner:
        """The measurement as an update of Gaussian laws."""
        return Conditioner(self.measurement)

    def given(self, measurement: Measurement) -> Self:
        """The same method with another measurement."""
        return replace(self, measurement=measurement)

    def times(self, steps: int | None = None) -> Tensor:
        """Times `(steps + 1,)` from 1 down to 0 on the grid of the method."""
        prior = self.denoiser.prior()
        return make_grid(self.process, steps or self.steps, self.grid, spectrum=None if prior is None else prior[1])

    def start(self, like: Tensor, draw: Draw) -> Tensor:
        """x_1 `(B, C, *N)`: from the exact marginal of the prior, or where `conditional_start` of the posterior.

        The second is h x_0 + s z with x_0 drawn from the Gaussian law of the prior given y: p(x_1 | y) for Gaussian
        data.  Without a spectrum it is N(0, s^2), and what h(1) keeps of the image is missing.
        """
        process, prior = self.process, self.denoiser.prior()
        coupled = getattr(self.denoiser, "prior_law", None)
        one = torch.ones(len(like), dtype=torch.float64, device="cpu")
        if coupled is not None and self.conditional_start:
            middle, law = coupled()
            c = self.conditioner
            x0 = c.drawn(middle.to(like).expand_as(like), draw(law.fields + c.extra), law.fields, root_of(law))
            return process.corrupt(x0, one, draw(1)[0])
        if prior is None or not self.conditional_start:
            mean, variance = prior or (0.0, None)
            return process.to_image(process.start(draw(1)[0], None, mean, variance), one)
        return process.corrupt(self.prior_draw(like, draw), one, draw(1)[0])

    def prior_draw(self, like: Tensor, draw: Draw) -> Tensor:
        """x_0 from the Gaussian law of the prior given y."""
        prior, basis = self.denoiser.prior(), self.process.basis
        assert prior is not None
        zero = torch.zeros_like(basis.forward(like))
        middle = basis.inverse(prior[0].to(zero) + zero)
        table = prior[1].reshape(*[1] * (2 + basis.ndim - prior[1].ndim), *prior[1].shape)
        law = SpectralSpread(basis, table)
        c = self.conditioner
        return c.drawn(middle, draw(1 + c.extra), 1, root_of(law))

    def run(
        self,
        seeds: Tensor,
        *,
        steps: int | None = None,
        dtype: torch.dtype = torch.float32,
        noise: Noise = white,
        watch: Callable[[Step], None] | None = None,
    ) -> Drawn:
        """Run from t = 1 to 0, an item for each of `seeds` `(B,)`; noise is a function of (seed, step) alone."""
        times, like, step = self.times(steps), self.like(len(seeds), dtype), self.stepper()
        x = self.start(like, noise_of(like, seeds, 0, noise))
        for i, (t, s) in enumerate(itertools.pairwise(times)):
            x = step(x, t.expand(len(x)), s.expand(len(x)), noise_of(like, seeds, i + 1, noise))
            if i == 0 and not bool(torch.isfinite(x.abs()).all()):
                raise InputError("posterior", "NaN or infinity at the first step", "a denoiser with finite answers")
            if watch is not None:
                watch(Step(i + 1, len(times) - 1, (i + 1) * self.calls))
        count = len(times) - 1
        return Drawn(x, None, count * self.calls, count * self.gradients)

    def like(self, items: int, dtype: torch.dtype) -> Tensor:
        """Zeros `(B, C, *N)` that say shape, precision and place of the images."""
        space, basis = self.measurement.operator.domain, self.process.basis
        if space.complex:
            dtype = torch.complex128 if dtype in (torch.float64, torch.complex128) else torch.complex64
        return torch.zeros(items, *space.shape, dtype=dtype, device=basis.device)


def noise_of(like: Tensor, seeds: Tensor, step: int, noise: Noise = white) -> Draw:
    """Fresh white fields of a step: those of call j are the stream "posterior-j"."""
    count = 0

    def draw(fields: int) -> Tensor:
        nonlocal count
        wide = like.unsqueeze(1).expand(len(like), fields, *like.shape[1:])
        z = noise_like(wide, seeds, f"posterior-{count}", step, noise)
        count += 1
        return z.transpose(0, 1)

    return draw


# ---- kernels ---------------------------------------------------------------------------------------------------------


def in_precision(x: Tensor, like: Tensor) -> Tensor:
    """X in the precision and on the device of `like`, real or complex as it is: of real images data may be complex."""
    double = like.dtype in (torch.float64, torch.complex128)
    real, whole = (torch.float64, torch.complex128) if double else (torch.float32, torch.complex64)
    return x.to(dtype=whole if x.is_complex() else real, device=like.device)


def ancestral_step(
    process: Process, x: Tensor, t: Tensor, s: Tensor, mean: Tensor, z: Tensor | None, eta: float = 1.0
) -> Tensor:
    """x_s ~ q(x_s | x_t, x_0 = mean), the consistent DDIM kernel; eta = 1 is ancestral sampling."""
    keep, data, std = process.conditional(t, s, eta)
    w = keep.to(x.real) * process.to_coefficients(x, t) + data.to(x.real) * process.basis.forward(mean)
    if z is not None and eta:
        w = w + std.to(x.real) * process.basis.forward(z)
    return process.to_image(w, s)


def drawn_step(process: Process, x: Tensor, t: Tensor, s: Tensor, law: Estimate, draw: Draw) -> Tensor:
    """x_s ~ q(x_s | x_t, x_0) with x_0 drawn from the law (rule "matched"): exact at any number of steps."""
    spread = spread_of(law.spread)
    x0 = law.mean + spread.draw(draw(spread.fields))
    return ancestral_step(process, x, t, s, x0, draw(1)[0])


def renoise_step(
    process: Process, x: Tensor, t: Tensor, s: Tensor, mean: Tensor, known: Tensor, z: Tensor, fresh: float
) -> Tensor:
    """h_s mean + s_s (sqrt(1 - f^2) e + f z) with e = (x_t - h_t known)/s_t: the kernel of DDRM, DDNM, DDS, DiffPIR.

    `fresh` f is the share of new noise.  With f > 0 it does not keep the marginals: its variance is too small at any
    number of steps (1/2 of the exact one at f = 1), as a property of the published methods.
    """
    mt, ms, basis = process.moments(t), process.moments(s), process.basis
    e = ratio(torch.ones_like(mt.s2), mt.s2.sqrt()).to(x.real) * (
        process.to_coefficients(x, t) - mt.h.to(x.real) * basis.forward(known)
    )
    noise = math.sqrt(max(0.0, 1 - fresh**2)) * e + fresh * basis.forward(z)
    return process.to_image(ms.h.to(x.real) * basis.forward(mean) + ms.s2.sqrt().to(x.real) * noise, s)


def spread_of(spread: Spread | None) -> Spread:
    """The law of an error; `InputError` where a denoiser knows none."""
    if spread is None:
        hint = "Give it a spectrum, train it with bands, or take a method of style 'paper'."
        raise InputError("denoiser", "one that does not know the law of its error", "one that does", hint)
    return spread


def number_clock(process: Process, t: Tensor, what: str) -> Tensor:
    """R = s^2/h^2 as one number an item, `(B, 1, *1)`; `InputError` for a process whose coefficients differ."""
    r = process.clock(t)
    if r.numel() > len(r) and not isinstance(process.basis, Pixel):
        flat = r.flatten(1)
        if not torch.allclose(flat, flat[:, :1].expand_as(flat), rtol=1e-9, atol=0):
            hint = "Take 'vp', 've', 'cosine' or another scalar process, or 'matched', which takes any."
            raise InputError(what, "a process whose clock differs between coefficients", "one clock for all", hint)
    return r.flatten(1)[:, :1].reshape(-1, *[1] * (r.ndim - 1))
