"""What a model of every instrument was trained on, and whether an instrument and a pixel spacing are of that kind.

A denoiser that is told the clock r(f) = s^2 / h^2 answers for every process that is diagonal in its basis, but it has
seen only clocks of its law (`processes.clocks.ClockLaw`) and pixels of certain sizes.  An instrument is of the kind if
among draws of the law at its spacing there is one that leaves the Wiener filter nearly the same error in every band of
frequency: as near as draws of the law themselves have a neighbor.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.bases.spectrum import Spectrum
from retrodict.denoisers.network import EDGES, LEVELS, NetDenoiser
from retrodict.models.model import Model
from retrodict.processes.clocks import law_from_json
from retrodict.processes.observation import Moments, wiener
from retrodict.processes.process import Process

__all__ = ["Neighbor", "at_spacing", "far_from", "fits", "neighbor", "outside"]

DRAWS, SIDE = 1000, {1: 48, 2: 48, 3: 20}
"""Clocks that stand for the law, and by axes the side of the grid on which they are compared."""

NEAR = 0.95
"""Part of the draws of the law that count as being of its kind."""


# ---- pixels -------------------------------------------------------------------------------------------------------


ISOTROPIC = 0.02
"""Relative difference of row and column spacing up to which pixels are square, and beyond the range that counts as in
it.
"""


def fits(spacing: tuple[float, ...], allowed: tuple[float, float]) -> bool:
    """Whether pixels (mm) are square and within a range."""
    low, high = allowed[0] * (1 - ISOTROPIC), allowed[1] * (1 + ISOTROPIC)
    return max(spacing) / min(spacing) - 1 <= ISOTROPIC and low <= min(spacing) and max(spacing) <= high


def at_spacing(model: Model, spacing: tuple[float, ...]) -> Model:
    """The model on a grid of another spacing (mm), which has to be one that it was trained on."""
    allowed = model.spec.spacings
    if allowed is None or not fits(spacing, allowed):
        shown = " x ".join(f"{s:.4g}" for s in spacing)
        wanted = "the spacing of the model" if allowed is None else f"square pixels of {allowed[0]:g} to {allowed[1]:g}"
        raise InputError("pixel spacing", f"{shown} mm", f"{wanted} mm")
    process = model.denoiser.process
    moved = replace(process, basis=replace(process.basis, spacing=tuple(spacing)))
    denoiser = replace(model.denoiser, process=moved)
    return replace(model, spec=replace(model.spec, spacing=tuple(spacing)), denoiser=denoiser)


# ---- clocks -------------------------------------------------------------------------------------------------------


class Neighbor(NamedTuple):
    """How far the nearest clock of a law is: the log of the ratio of Wiener errors in the band where it is largest.

    `limit`: the same for nearly all draws of the law; `band`: edges in cycles/mm; `error`: Wiener error over the power
    of the data there.  `noise`: std per pixel in the `unit` of the data over all frequencies, and `noises` its range in
    the law.
    """

    distance: float
    limit: float
    band: tuple[float, float]
    error: float
    noise: float
    noises: tuple[float, float]
    unit: str

    @property
    def why(self) -> str:
        """Why the instrument is not of the kind that the law holds, in words; empty where it is."""
        low, high = self.noises
        if not low * 0.98 <= self.noise <= high * 1.02:
            unit = self.unit
            return f"its noise is {self.noise:.3g} {unit}, and the model was trained on {low:g} to {high:g} {unit}"
        if self.distance <= self.limit:
            return ""
        low, high = self.band
        band = f"at {low:g} to {high:g} /mm" if math.isfinite(high) else f"above {low:g} /mm"
        times = math.exp(self.distance)
        return (
            f"{band} it leaves {self.error:.2g} of the power of the images open, {times:.2g} times more or less than "
            "any instrument like it that the model was trained on"
        )


def neighbor(model: Model, process: Process | None = None) -> Neighbor | None:
    """The nearest clock of the law of a model to the end of a process (default its own); None without a law."""
    if model.spec.law is None:
        return None
    bound = _compared((process or model.denoiser.process).to("cpu"))
    law = law_from_json(model.spec.law, f"{model.source}: law")
    m = bound.measurement
    if m is None:
        raise InputError("model", "a process without a measurement law", "one that ends at an MTF and NPS")
    told = _told(model.denoiser, bound, m.s2, m.h)
    table, limit = _table(_Key(model.spec.law, model.spec.spectrum, bound, model.denoiser))
    gaps = (table - told).abs()
    nearest = int(gaps.amax(1).argmin())
    worst = int(gaps[nearest].argmax())
    edges = (*EDGES, math.inf)
    weight = bound.basis.multiplicity()
    noise = math.sqrt(float((m.s2.expand(bound.basis.shape) * weight).sum() / weight.sum())) * model.intensity.scale
    error = math.exp(float(told[0, worst]))
    band, unit = (edges[worst], edges[worst + 1]), model.intensity.unit
    return Neighbor(float(gaps[nearest].max()), limit, band, error, noise, law.noise, unit)


def far_from(model: Model, process: Process, m: Moments) -> tuple[float, float, tuple[float, float]] | None:
    """How far the nearest clock of the law of a model is from observations w = h u_0 + s z; the limit of `Neighbor`;
    and the band of frequency where it is farthest.

    `m`: moments `(*K)` on the grid of `process`, which has no measurement: of one, or of a state and a measurement that
    are fused.  None for a model without a law.
    """
    if model.spec.law is None:
        return None
    bound = process.to("cpu")
    told = _told(model.denoiser, bound, m.s2.to("cpu"), m.h.to("cpu"))
    table, limit = _table(_Key(model.spec.law, model.spec.spectrum, _compared(bound), model.denoiser))
    gaps = (table - told).abs()
    nearest = int(gaps.amax(1).argmin())
    worst, edges = int(gaps[nearest].argmax()), (*EDGES, math.inf)
    return float(gaps[nearest].max()), limit, (edges[worst], edges[worst + 1])


def outside(model: Model, process: Process | None = None) -> str:
    """Why an instrument is not of the kind that the model was trained on, in words; empty where it is, or unknown."""
    found = neighbor(model, process)
    return "" if found is None else found.why


def slices_outside(model: Model, profile: float, correlation: float) -> str:
    """Why slices of a profile (mm) and a correlation of neighbors are not of the kind of the law, in words, or ""."""
    law, distance = law_from_json(model.spec.law or {}, f"{model.source}: law"), model.spec.spacing[0]
    low, high = (width * distance for width in law.profile)
    if not 0.98 * low <= profile <= 1.02 * high:
        return f"its slice profile is {profile:g} mm wide, and the model was trained on {low:.3g} to {high:.3g} mm"
    if correlation > law.overlap + 0.02:
        known = f"and the model was trained on up to {law.overlap:g}"
        return f"the noise of its neighboring slices has a correlation of {correlation:g}, {known}"
    return ""


def _compared(process: Process) -> Process:
    """On the grid on which clocks are compared."""
    return process.on((SIDE[process.ndim],) * process.ndim)


class _Key:
    """What the table of a law depends on, to look it up by."""

    def __init__(self, law: dict[str, Any], spectrum: dict[str, Any], process: Process, denoiser: NetDenoiser) -> None:
        self.law, self.process, self.denoiser = law, process, denoiser
        self.text = repr((law, spectrum, process.basis.size, process.basis.spacing))

    def __hash__(self) -> int:
        return hash(self.text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and other.text == self.text


@lru_cache(maxsize=8)
def _table(key: _Key) -> tuple[Tensor, float]:
    """Log Wiener errors `(DRAWS, bands)` of clocks of the law, and how near nearly all of them have a neighbor."""
    law, basis = law_from_json(key.law, "law"), key.process.basis
    seeds = torch.arange(DRAWS, device="cpu")
    told = torch.cat([_told(key.denoiser, key.process, law.clocks(basis, part), None) for part in seeds.split(250)])
    apart = torch.stack([(told - row).abs().amax(1) for row in told])
    apart.fill_diagonal_(math.inf)
    return told, float(apart.amin(1).quantile(NEAR))


def _told(denoiser: NetDenoiser, process: Process, s2: Tensor, h: Tensor | None) -> Tensor:
    """What the network is told of the bands, `(B, bands)`, for noise s2 and MTF h (None: 1)."""
    basis = process.basis
    assert isinstance(denoiser.spectrum, Spectrum)
    power = denoiser.spectrum.on(basis)
    s2 = s2.reshape(-1, 1, *s2.shape[-basis.ndim :]).expand(-1, 1, *basis.shape)
    gain = torch.ones_like(s2) if h is None else h.expand_as(s2)
    law = process.moments(torch.ones(1, dtype=torch.float64, device="cpu"))._replace(h=gain, s2=s2)
    _, v = wiener(law, power)
    assert denoiser.unit is not None
    return LEVELS["clock"].of(v, power, basis, denoiser.unit)[:, 1:-1]
