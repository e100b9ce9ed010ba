"""Exact inversion of deterministic samplers: an image to its noise and back to round-off, and between two images.

BDIA (Zhang, Lewis, Kleijn 2024) and EDICT (Wallace et al. 2023) are maps of *two* states that can be undone by algebra;
so the noise of an image is two states, too.  The last step, from the last time to the image itself, is the flow of
Gaussian data, a linear map without a call.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from retrodict._check import InputError, choice
from retrodict.denoisers.denoiser import Denoiser
from retrodict.processes.flow import flow_weights
from retrodict.processes.observation import Cond, ratio
from retrodict.processes.process import Process
from retrodict.samplers.plan import make_grid
from retrodict.samplers.rules.bdia import FORMS, bdia_weights, reference_spectrum
from retrodict.samplers.teleport import teleport_weights

__all__ = ["METHODS", "Latent", "interpolate", "invert", "regenerate", "round_trip"]

METHODS = ("bdia", "edict")

LIMIT = {torch.float32: 1e4, torch.float64: 1e10}
"""How much an inversion may amplify round-off, gamma^-N, before it is refused."""


@dataclass(frozen=True)
class Latent:
    """The noise of images: two states `(B, C, *K)`, shifted coefficients, and how they were made.

    bdia: the states at times[0] and times[1]; edict: the two coupled states at times[0].  `times` `(N + 1,)` fall;
    `strength` is gamma or p; `form` as in rule `bdia`; nfe: calls that were made.
    """

    first: Tensor
    second: Tensor
    times: Tensor
    method: str
    strength: float
    form: str
    nfe: int


def invert(
    denoiser: Denoiser,
    x: Tensor,
    *,
    steps: int = 40,
    times: Tensor | None = None,
    method: str = "bdia",
    strength: float | None = None,
    form: str = "ddim",
    cond: Cond | None = None,
) -> Latent:
    """The noise that images x `(B, C, *N)` are generated from: `regenerate` gives them back to round-off.

    times: falling, the last one with noise; by default `steps` of the log-SNR grid.  method "bdia": one call a step,
    strength = gamma (default 1); "edict": two calls, strength = p (default 0.93), the eps form as published.  form: the
    one-call step of "bdia", "ddim" or "gaussian" (exact for Gaussian data of the denoiser's spectrum).  cond: as for
    `sample`, and the same for `regenerate`.

    Raises `InputError` for gamma^-N beyond 1e10 (1e4 in float32), which would turn round-off into noise, and for a
    process that ends pinned (a bridge), or with an erased coefficient for "edict", whose step divides by h.
    """
    method = choice("method", method, METHODS)
    run, cond = _Run.of(denoiser, x, times, steps, method, strength, form, cond), Cond() if cond is None else cond
    w = run.from_image(x)
    if method == "edict":
        a, b = w, w
        for i in range(run.count - 1, -1, -1):
            a, b = run.couple_back(i, a, b)
        return Latent(a, b, run.times, method, run.strength, form, run.calls)
    newer, now = w, run.plain_up(w)
    for i in range(run.count - 1, 0, -1):
        newer, now = now, run.leap_back(i, now, newer)
    return Latent(now, newer, run.times, method, run.strength, form, run.calls)


def regenerate(denoiser: Denoiser, latent: Latent, *, cond: Cond | None = None) -> Tensor:
    """The images `(B, C, *N)` of a `Latent`, by the same denoiser under the same conditions."""
    settings = (latent.times, 0, latent.method, latent.strength, latent.form, cond)
    run = _Run.of(denoiser, latent.first, *settings)
    a, b = latent.first, latent.second
    if latent.method == "edict":
        for i in range(run.count):
            a, b = run.couple(i, a, b)
        return run.to_image(a)
    for i in range(1, run.count):
        a, b = b, run.leap(i, b, a)
    return run.to_image(b)


def round_trip(denoiser: Denoiser, x: Tensor, **options: object) -> Tensor:
    """Largest error of any pixel of each image `(B,)` after `invert` (which has the options) and `regenerate`."""
    latent = invert(denoiser, x, **options)  # type: ignore[arg-type]
    back = regenerate(denoiser, latent, cond=options.get("cond"))  # type: ignore[arg-type]
    return (back - x).abs().flatten(1).amax(1).double()


def interpolate(denoiser: Denoiser, x_a: Tensor, x_b: Tensor, count: int, **options: object) -> Tensor:
    """Images `(count, B, C, *N)` from x_a to x_b, both of them among it: invert, turn from one noise to the other,
    generate.  `options` are those of `invert`.

    The noises are whitened per coefficient, v = (w - h m)/sqrt(h^2 L + s^2), and turned by the angle between them, item
    by item (slerp); so where both are noise of the process, what is between them is, with its variance in every
    coefficient.  On Gaussian data the images between independent ones have the spectrum of the data.
    """
    if count < 2:
        raise InputError("interpolate count", count, "at least 2: both ends are among the images")
    if x_a.shape != x_b.shape:
        raise InputError("interpolate", f"images of {tuple(x_a.shape)} and {tuple(x_b.shape)}", "one shape")
    one, other = (invert(denoiser, x, **options) for x in (x_a, x_b))  # type: ignore[arg-type]
    run = _Run.of(denoiser, one.first, one.times, 0, one.method, one.strength, one.form, options.get("cond"))
    angle = run.angle(one.first, other.first)
    images = []
    for part in torch.linspace(0, 1, count, dtype=torch.float64, device="cpu").tolist():
        weights = _turn(angle, part)
        second = 0 if one.method == "edict" else 1
        first = run.mixed(0, one.first, other.first, weights)
        between = replace(one, first=first, second=run.mixed(second, one.second, other.second, weights))
        images.append(regenerate(denoiser, between, cond=options.get("cond")))  # type: ignore[arg-type]
    return torch.stack(images)


def _turn(angle: Tensor, part: float) -> tuple[Tensor, Tensor]:
    """Weights of the two ends at a part of the angle; straight on where they are (nearly) parallel."""
    straight = angle.sin().abs() < 1e-6
    whole = torch.where(straight, 1.0, angle.sin())
    a = torch.where(straight, 1 - part, ((1 - part) * angle).sin() / whole)
    return a, torch.where(straight, part, (part * angle).sin() / whole)


# ---- the maps --------------------------------------------------------------------------------------------------------


@dataclass
class _Run:
    """Steps of both methods, down and up, in shifted coefficients."""

    denoiser: Denoiser
    times: Tensor
    strength: float
    reference: Tensor
    mean: Tensor
    variance: Tensor
    cond: Cond
    calls: int = 0

    @classmethod
    def of(
        cls,
        denoiser: Denoiser,
        x: Tensor,
        times: Tensor | None,
        steps: int,
        method: str,
        strength: float | None,
        form: str,
        cond: object,
    ) -> _Run:
        process, cond = denoiser.process, cond if isinstance(cond, Cond) else Cond()
        if times is None:
            least = float(make_grid(process, 2, "logsnr")[1])
            times = make_grid(process, steps, "logsnr", last=least)
        strength = {"bdia": 1.0, "edict": 0.93}[method] if strength is None else strength
        _check(process, x, times, method, strength, form, cond)
        prior = denoiser.prior()
        reference = reference_spectrum(process, None if prior is None else prior[1], form)
        one = torch.ones(1, dtype=torch.float64, device=process.basis.device)
        mean, variance = (0 * one, one) if prior is None else prior
        if cond.image is not None and process.pairing.sees:
            mean, variance = process.pairing.given(mean, variance, cond.image, process.basis)
        return cls(denoiser, times, strength, reference, mean, variance, cond)

    @property
    def process(self) -> Process:
        return self.denoiser.process

    @property
    def count(self) -> int:
        return len(self.times) - 1

    def at(self, i: int) -> Tensor:
        """Time i as `(1,)`; counted from the end where i is negative."""
        i %= len(self.times)
        return self.times[i : i + 1]

    def denoised(self, w: Tensor, i: int) -> Tensor:
        """Coefficients of D at time i; one call."""
        time = self.at(i).expand(len(w))
        anchor = self.cond.image if self.process.anchored else None
        self.calls += 1
        with torch.no_grad():
            return self.process.basis.forward(self.denoiser(self.process.to_image(w, time, anchor), time, self.cond))

    def _ends(self, w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Psi and offset m of w_0 = psi w_last + offset m, in the dtype of the state; psi is never 0."""
        zero = torch.zeros(1, dtype=torch.float64, device="cpu")
        psi, offset = teleport_weights(self.process, self.at(-1), zero, self.variance.clamp_min(1e-12))
        real = w.real.dtype
        return psi.to(real), offset.to(real) * self.mean.to(w), zero

    def to_image(self, w: Tensor) -> Tensor:
        """The state at the last time to the image, by the flow of Gaussian data."""
        psi, offset, zero = self._ends(w)
        return self.process.to_image(psi * w + offset, zero, self.cond.image if self.process.anchored else None)

    def from_image(self, x: Tensor) -> Tensor:
        """The image to the state at the last time."""
        zero = torch.zeros(1, dtype=torch.float64, device="cpu")
        u = self.process.to_coefficients(x, zero, self.cond.image if self.process.anchored else None)
        psi, offset, _ = self._ends(u)
        return (u - offset) / psi

    def plain_up(self, w: Tensor) -> Tensor:
        """One plain step from the last time to the one before."""
        keep, data = flow_weights(self.process, self.at(-1), self.at(-2), self.reference)
        return keep.to(w.real.dtype) * w + data.to(w.real.dtype) * self.denoised(w, -1)

    def _leap(self, i: int, w: Tensor) -> tuple[Tensor, Tensor]:
        """What the state at time i adds to a leap over it, and the weight of the other state."""
        weights = bdia_weights(self.process, self.at(i - 1), self.at(i), self.at(i + 1), self.strength, self.reference)
        keep, old, data = (x.to(w.real.dtype) for x in weights)
        return keep * w + data * self.denoised(w, i), old

    def leap(self, i: int, w: Tensor, older: Tensor) -> Tensor:
        """The state at time i + 1 from those at i and i - 1."""
        known, old = self._leap(i, w)
        return known + old * older

    def leap_back(self, i: int, w: Tensor, newer: Tensor) -> Tensor:
        """The state at time i - 1 from those at i and i + 1."""
        known, old = self._leap(i, w)
        return (newer - known) / old

    def _shares(self, i: int, w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A = h'/h, b = s' - a s and its form in D: eps = (y - h D)/s."""
        m, n = self.process.moments(self.at(i)), self.process.moments(self.at(i + 1))
        a, s = ratio(n.h, m.h), m.s2.sqrt()
        b = ratio(n.s2.sqrt() - a * s, s)
        return tuple(x.to(w.real.dtype) for x in (a, b, m.h))  # type: ignore[return-value]

    def couple(self, i: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """A step of EDICT."""
        a, b, h = self._shares(i, x)
        p = self.strength
        x = a * x + b * (y - h * self.denoised(y, i))
        y = a * y + b * (x - h * self.denoised(x, i))
        x = p * x + (1 - p) * y
        return x, p * y + (1 - p) * x

    def couple_back(self, i: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Its inverse."""
        a, b, h = self._shares(i, x)
        p = self.strength
        y = (y - (1 - p) * x) / p
        x = (x - (1 - p) * y) / p
        y = (y - b * (x - h * self.denoised(x, i))) / a
        return (x - b * (y - h * self.denoised(y, i))) / a, y

    def _law(self, i: int, w: Tensor) -> tuple[Tensor, Tensor]:
        m, real = self.process.moments(self.at(i)), w.real.dtype
        return m.h.to(real) * self.mean.to(w), (m.h**2 * self.variance + m.s2).sqrt().to(real)

    def angle(self, a: Tensor, b: Tensor) -> Tensor:
        """Angle between two whitened noises of each item `(B, 1, *1)`."""
        mean, root = self._law(0, a)
        weight = self.process.basis.multiplicity().to(root)
        one, other = (torch.where(root == 0, 0.0, (w - mean) / root) for w in (a, b))
        axes = tuple(range(1, a.ndim))
        pairs = ((one, other), (one, one), (other, other))
        dots = [(weight * (x * y.conj()).real).sum(axes, keepdim=True) for x, y in pairs]
        return ratio(dots[0], (dots[1] * dots[2]).sqrt(), otherwise=1.0).clamp(-1, 1).acos()

    def mixed(self, i: int, a: Tensor, b: Tensor, weights: tuple[Tensor, Tensor]) -> Tensor:
        """Two states at time i about their mean, with weights."""
        mean, _ = self._law(i, a)
        return mean + weights[0] * (a - mean) + weights[1] * (b - mean)


def _check(process: Process, x: Tensor, times: Tensor, method: str, strength: float, form: str, cond: Cond) -> None:
    choice("form", form, FORMS)
    if not 0 < strength <= 1:
        raise InputError(f"{method} strength", strength, "a number in (0, 1]: 0 forgets the past and cannot be undone")
    if times.ndim != 1 or len(times) < 3 or not bool((times[1:] < times[:-1]).all()) or float(times[0]) > 1:
        raise InputError("invert times", times.tolist(), "three falling times or more in (0, 1]")
    if process.noise_free(times[-1:]):
        found = f"{float(times[-1]):g}, where the state carries no noise"
        raise InputError("invert times, the last", found, "a time with noise, as make_grid(..., last=1e-3) has")
    if process.anchored and cond.image is None:
        raise InputError("invert", "no condition image", "cond with the image that the process is pulled to")
    if process.pinned(times[:1]):
        found = "a bridge: its end is one point, and no image can be found from it"
        raise InputError("invert", found, "a process that ends in noise")
    if method == "edict" and process.erases(times[:1]):
        found = "a process that erases coefficients, which its step divides by"
        raise InputError("method 'edict'", found, "h above 0 at the first time", "Use method='bdia'.")
    inner = times[:-1]
    if any(bool((process.moments(t[None]).s2 == 0).any()) for t in inner[1:]):
        found = "coefficients that carry no noise, which no step back moves"
        raise InputError("invert", found, "a process with noise in every coefficient")
    growth = strength ** -(len(times) - 1) if method == "bdia" else 1.0
    most = LIMIT.get(x.real.dtype, 1e4)
    if growth > most:
        found = f"{strength}, which amplifies round-off by {growth:.1e} over {len(times) - 1} steps"
        raise InputError("bdia strength", found, f"at most {most:.0e} in this precision", "Use strength=1.")
    if not math.isfinite(growth):
        raise InputError("bdia strength", strength, "a number nearer to 1")
