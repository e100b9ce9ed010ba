"""A law of clocks: what a denoiser that serves every instrument and every process is trained on.

E[x_0 | w] of an observation w = h x_0 + s z depends on the process only through w / h and the clock r(f) = s^2 / h^2.
So a clock is drawn for every item: white noise, an instrument anywhere along its ramp, a random smooth curve, or two
of them fused, whose precisions add (1/r = 1/r_1 + 1/r_2).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from retrodict._check import InputError, Recipe, build
from retrodict._random import uniform
from retrodict.bases import Basis, Fourier
from retrodict.processes.fourier import family_to
from retrodict.processes.observation import Moments, Pairing
from retrodict.processes.process import Process
from retrodict.processes.slices import along, slice_mtf, slice_power

__all__ = ["LAWS", "ClockLaw", "at_rest", "law_from_json"]


@dataclass(frozen=True)
class _AtRest(Process):
    """A process that is pulled to no condition image: nobody has to look at 21 times of every batch to know it."""

    @property
    def anchored(self) -> bool:  # type: ignore[override]
        return False


def at_rest(basis: Basis, clocks: Tensor) -> Process:
    """A process that stands still: h = 1, k = 0, s^2 = clocks `(B, C|1, *K)` at all times, on the grid of `basis`."""
    clocks = clocks.to(basis.device)

    def family(bound: Basis) -> Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]:
        if bound != basis:
            raise InputError("at_rest", f"another grid {bound.size}", f"the grid {basis.size} of the clocks")
        return lambda t: (1 + 0 * (t + clocks), 0 * t, clocks + 0 * t)

    return _AtRest(family, basis)


@dataclass(frozen=True)
class ClockLaw:
    """Random clocks r(f) for a basis with frequencies; a `ProcessLaw`: `law(basis, seeds)`.

    `noise`: range of the noise std per pixel in data units; `scale`: data units per model unit; `resolution`: range of
    the frequency (cycles/mm) at which an MTF falls to a half.  `white`, `smooth` and `fused` are probabilities; the
    rest are instruments.  A tenth of the white clocks reach up to `hidden` times the largest noise, as the start of a
    generative process does.  Every draw is a function of its seed.

    On three axes (slices, rows, columns) an instrument is that of a slice times `processes.slices`: a profile whose
    width at half maximum is within `profile`, in distances of slices, and noise whose correlation between neighboring
    slices is 0 for the part `independent` of the instruments and up to `overlap` for the others.
    """

    noise: tuple[float, float] = (2.0, 250.0)
    scale: float = 1.0
    resolution: tuple[float, float] = (0.15, 1.1)
    white: float = 0.2
    smooth: float = 0.15
    fused: float = 0.2
    hidden: float = 60.0
    profile: tuple[float, float] = (0.0, 2.0)
    independent: float = 0.5
    overlap: float = 0.7

    def __post_init__(self) -> None:
        """Refuse ranges that are none and probabilities that do not fit in one."""
        for name in ("noise", "resolution"):
            low, high = map(float, getattr(self, name))
            object.__setattr__(self, name, (low, high))  # a list, from a record, is as good
            if not 0 < low <= high < math.inf:
                raise InputError(f"ClockLaw.{name}", (low, high), "a range of positive numbers")
        low, high = map(float, self.profile)
        object.__setattr__(self, "profile", (low, high))
        if not 0 <= low <= high < math.inf:
            raise InputError("ClockLaw.profile", (low, high), "a range of widths in distances of slices, from 0")
        if not (0 <= self.independent <= 1 and 0 <= self.overlap < 1):
            found = (self.independent, self.overlap)
            raise InputError("ClockLaw: independent, overlap", found, "a probability, and a correlation below 1")
        if not 0 < self.scale < math.inf:
            raise InputError("ClockLaw.scale", self.scale, "a positive number of data units per model unit")
        if not 1 <= self.hidden < math.inf:
            raise InputError("ClockLaw.hidden", self.hidden, "a number of at least 1")
        parts = (self.white, self.smooth, self.fused)
        if not (all(part >= 0 for part in parts) and sum(parts) <= 1):
            raise InputError("ClockLaw: white, smooth, fused", parts, "probabilities that sum to at most 1")

    def to_json(self) -> dict[str, Any]:
        """`{"name": "clocks", "options": {...}}` with every option; `law_from_json` is the inverse."""
        record = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
        return {"name": "clocks", "options": record}

    def __call__(self, basis: Basis, seeds: Tensor) -> Process:
        """A process at rest, h = 1 and s^2 = r, with one clock for every seed."""
        return at_rest(basis, self.clocks(basis, seeds))

    def clocks(self, basis: Basis, seeds: Tensor) -> Tensor:
        """R `(B, 1, *K)` float64 in model units squared, one for each of `seeds` `(B,)`."""
        first, second = self._single(basis, seeds, 0), self._single(basis, seeds, 1)
        fused = _lift(uniform(seeds, "clock-fused", 0) < self.fused, basis)
        return torch.where(fused, 1 / (1 / first + 1 / second), first)[:, None]

    def instrument(self, basis: Basis, seed: int) -> Process:
        """A process that starts at the measurements of one instrument of the law; the same on grids of every size."""

        def terminal(bound: Basis) -> Moments:
            mtf, noise = self._end(_Draw(torch.tensor([seed], device="cpu"), 0, bound))
            return Moments(mtf[0], torch.zeros_like(mtf[0]), noise[0])

        return Process(family_to(terminal), basis, Pairing("terminal", terminal), grid_free=True)

    def _single(self, basis: Basis, seeds: Tensor, number: int) -> Tensor:
        draw = _Draw(seeds, number, basis)
        kind, alone = draw("kind"), (1 - self.fused) or 1.0
        white, smooth = self.white / alone, (self.white + self.smooth) / alone
        parts = self._white(draw), self._smooth(draw), self._instrument(draw)
        return torch.where(kind < white, parts[0], torch.where(kind < smooth, parts[1], parts[2]))

    def _variance(self, draw: _Draw) -> Tensor:
        return (draw.between("noise", *self.noise, log=True) / self.scale) ** 2

    def _white(self, draw: _Draw) -> Tensor:
        far = torch.where(draw("far") < 0.1, draw.between("hidden", 1.0, self.hidden, log=True) ** 2, 1.0)
        return (self._variance(draw) * far).expand(-1, *draw.basis.shape)

    def _smooth(self, draw: _Draw) -> Tensor:
        """Log r is a broken line over |f| with normal heights."""
        nodes, radius = (0.0, 0.1, 0.25, 0.5, 0.9, 1.5), draw.stretched_radius()
        heights = [1.5 * draw.normal(f"height-{k}") for k in range(len(nodes))]
        curve = torch.zeros_like(radius)
        for k, height in enumerate(heights):
            curve = curve + height * _tent(radius, nodes, k)
        return self._variance(draw) * curve.exp()

    def _instrument(self, draw: _Draw) -> Tensor:
        """Somewhere along the ramps of `processes.fourier.measured`, at an end of its own."""
        mtf, noise = self._end(draw)
        t = torch.where(draw("end") < 0.4, 1.0, draw.between("time", 0.03, 1.0))
        q = (torch.exp(-5 * t**2) - math.exp(-5.0)) / -math.expm1(-5.0)
        rho = -torch.expm1(-10 * t**2) / -math.expm1(-10.0)
        h = mtf + (1 - mtf) * q
        return torch.where(mtf > 1, rho * noise / mtf**2, rho * noise / h**2)

    def _end(self, draw: _Draw) -> tuple[Tensor, Tensor]:
        """MTF and variance of the noise `(B, *K)` of an instrument."""
        f = draw.radius()
        mtf = self._mtf(draw, f)
        shape = self._nps(draw, f, mtf)
        if draw.basis.ndim == 3:
            through, together = self._through(draw)
            mtf, shape = mtf * through, shape * together
        return mtf, self._variance(draw) * _normal_shape(shape, draw.basis)

    def _through(self, draw: _Draw) -> tuple[Tensor, Tensor]:
        """What slices do: MTF and power of the noise along the first axis `(B, *K)`."""
        fz, distance = draw.frequency(0), draw.basis.spacing[0]
        width = distance * draw.between("profile", *self.profile)
        apart = draw("apart") < self.independent
        correlation = torch.where(apart, 0.0, draw.between("overlap", 0.0, self.overlap))
        return slice_mtf(fz, width), slice_power(fz, distance, correlation)

    def _mtf(self, draw: _Draw, f: Tensor) -> Tensor:
        """exp(-ln 2 (f / f_half)^p), with a floor or the lift of a sharp kernel now and then."""
        half, power = draw.between("half", *self.resolution, log=True), draw.between("power", 1.2, 3.0)
        fall = torch.exp(-math.log(2.0) * (f / half) ** power)
        floor = torch.where(draw("floored") < 0.3, draw.between("floor", 0.0, 0.12), 0.003)
        lift = torch.where(draw("sharp") < 0.35, draw.between("lift", 0.0, 0.7), 0.0)
        centre, wide = draw.between("centre", 0.15, 0.5), draw.between("wide", 0.08, 0.25)
        return (floor + (1 - floor) * fall) * (1 + lift * torch.exp(-(((f - centre) / wide) ** 2)))

    def _nps(self, draw: _Draw, f: Tensor, mtf: Tensor) -> Tensor:
        """A ramp that a window, or the MTF itself, ends, on a small white floor: noise of filtered backprojection."""
        ramp = (f / 0.3) ** draw.between("ramp", 0.3, 1.6) + draw.between("base", 0.0, 0.3)
        window = torch.exp(-((f / draw.between("window", 0.25, 1.3, log=True)) ** draw.between("edge", 1.5, 4.0)))
        window = torch.where(draw("kernel") < 0.5, mtf**2, window)
        shape = ramp * window
        floor = draw.between("white floor", 1e-3, 0.2, log=True)
        return shape + floor * shape.flatten(1).mean(1).reshape(-1, *[1] * draw.basis.ndim)


class _Draw:
    """Numbers `(B, *1)` of one clock of every item, each by its name."""

    def __init__(self, seeds: Tensor, number: int, basis: Basis) -> None:
        self.seeds, self.number, self.basis = seeds, number, basis

    def __call__(self, name: str) -> Tensor:
        return _lift(uniform(self.seeds, f"clock-{name}", self.number), self.basis)

    def between(self, name: str, low: float, high: float, *, log: bool = False) -> Tensor:
        u = self(name)
        return low * (high / low) ** u if log else low + (high - low) * u

    def normal(self, name: str) -> Tensor:
        return math.sqrt(2.0) * torch.erfinv((2 * self(name) - 1).clamp(-0.9999, 0.9999))

    def radius(self) -> Tensor:
        """|f| in the plane `(B, *K)`, for three items in ten stretched along an axis of their own.

        On one axis, and in a basis without signed frequencies, nothing is stretched; there all axes are of the plane.
        """
        basis = self.basis
        if not isinstance(basis, Fourier) or basis.ndim == 1:
            return basis.radius().expand(len(self.seeds), *basis.shape)
        axes = basis.frequencies()[-2:]
        own = basis.radius() if basis.ndim == 2 else (axes[0] ** 2 + axes[1] ** 2).sqrt()
        plain = own.expand(len(self.seeds), *basis.shape)
        angle, stretch = math.pi * self("angle"), torch.exp(self.between("stretch", -0.35, 0.35))
        along = axes[0] * angle.cos() + axes[1] * angle.sin()
        across = axes[1] * angle.cos() - axes[0] * angle.sin()
        return torch.where(self("stretched") < 0.3, ((along * stretch) ** 2 + (across / stretch) ** 2).sqrt(), plain)

    def stretched_radius(self) -> Tensor:
        """|f| of all axes `(B|1, *K)`, on three axes with the first one stretched."""
        if self.basis.ndim != 3:
            return self.basis.radius()
        across, fz = self.basis.radius() ** 2 - self.frequency(0) ** 2, self.frequency(0)
        return (across.clamp_min(0) + (fz * self.between("through", 0.5, 2.0, log=True)) ** 2).sqrt()

    def frequency(self, axis: int) -> Tensor:
        """Frequency along an axis, which broadcasts with `(*K)`; on three axes the basis has to be `Fourier`."""
        if not isinstance(self.basis, Fourier):
            found = f"a {type(self.basis).__name__} basis of three axes"
            raise InputError("ClockLaw", found, "a Fourier basis: an instrument knows slices from rows")
        return along(self.basis, axis)


def _lift(x: Tensor, basis: Basis) -> Tensor:
    return x.to(basis.device, non_blocking=True).reshape(-1, *[1] * basis.ndim)


def _tent(radius: Tensor, nodes: tuple[float, ...], k: int) -> Tensor:
    """Linear from 1 at node k to 0 at its neighbors; constant beyond the outermost."""
    rise = 1.0 if k == 0 else ((radius - nodes[k - 1]) / (nodes[k] - nodes[k - 1])).clamp(0, 1)
    fall = 0.0 if k == len(nodes) - 1 else ((radius - nodes[k]) / (nodes[k + 1] - nodes[k])).clamp(0, 1)
    return torch.zeros_like(radius) + rise - fall


def _normal_shape(shape: Tensor, basis: Basis) -> Tensor:
    """`shape` `(B, *K)` over its mean over degrees of freedom."""
    weight = basis.multiplicity()
    mean = (shape * weight).flatten(1).sum(1) / weight.sum()
    return shape / mean.reshape(-1, *[1] * basis.ndim)


LAWS = {"clocks": ClockLaw}
"""Laws of observations by the name that a record has for them."""


def law_from_json(record: dict[str, Any], where: str) -> ClockLaw:
    """A law from `{"name", "options"}`; `where` names the file or field in the `InputError` of a bad one."""
    return build(LAWS, Recipe.from_json(record, where), where)
