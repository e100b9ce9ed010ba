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
from retrodict.processes.observation import wiener
from retrodict.processes.process import Process

__all__ = ["Neighbor", "at_spacing", "neighbor", "outside", "serves_every_instrument", "spacing_range"]

DRAWS, SIDE = 1000, 48
"""Clocks that stand for the law, and the side of the grid on which they are compared."""

NEAR = 0.95
"""Part of the draws of the law that count as being of its kind."""


def serves_every_instrument(model: Model) -> bool:
    """Whether a model was trained over a law of clocks, and so has no instrument of its own."""
    return model.spec.law is not None


# ---- pixels -------------------------------------------------------------------------------------------------------


def spacing_range(model: Model) -> tuple[float, float] | None:
    """Least and largest pixel spacing (mm) that a model restores at; None where it has but one."""
    return model.spec.spacings


ISOTROPIC = 0.02
"""Relative difference of row and column spacing up to which pixels are square."""


def at_spacing(model: Model, spacing: tuple[float, ...]) -> Model:
    """The model on a grid of another spacing (mm), which has to be one that it was trained on."""
    allowed = model.spec.spacings
    square = max(spacing) / min(spacing) - 1 <= ISOTROPIC
    if allowed is None or not square or not _within(spacing, allowed):
        shown = " x ".join(f"{s:.4g}" for s in spacing)
        wanted = "the spacing of the model" if allowed is None else f"square pixels of {allowed[0]:g} to {allowed[1]:g}"
        raise InputError("pixel spacing", f"{shown} mm", f"{wanted} mm")
    process = model.denoiser.process
    moved = replace(process, basis=replace(process.basis, spacing=tuple(spacing)))
    denoiser = replace(model.denoiser, process=moved)
    return replace(model, spec=replace(model.spec, spacing=tuple(spacing)), denoiser=denoiser)


def _within(spacing: tuple[float, ...], allowed: tuple[float, float]) -> bool:
    low, high = allowed
    return all(low * (1 - ISOTROPIC) <= s <= high * (1 + ISOTROPIC) for s in spacing)


# ---- clocks -------------------------------------------------------------------------------------------------------


class Neighbor(NamedTuple):
    """How far the nearest clock of a law is: the log of the ratio of Wiener errors in the band where it is largest.

    `limit`: the same for nearly all draws of the law; `band`: edges in cycles/mm; `error`: Wiener error over the power
    of the data there.  `noise`: std per pixel in the unit of the data over all frequencies, and `noises` its range in
    the law.
    """

    distance: float
    limit: float
    band: tuple[float, float]
    error: float
    noise: float
    noises: tuple[float, float]


def neighbor(model: Model, process: Process | None = None) -> Neighbor | None:
    """The nearest clock of the law of a model to the end of a process (default its own); None without a law."""
    if model.spec.law is None:
        return None
    bound = (process or model.denoiser.process).to("cpu").on((SIDE,) * model.denoiser.process.ndim)
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
    return Neighbor(float(gaps[nearest].max()), limit, (edges[worst], edges[worst + 1]), error, noise, law.noise)


def outside(model: Model, process: Process | None = None) -> str:
    """Why an instrument is not of the kind that the model was trained on, in words; empty where it is."""
    found = neighbor(model, process)
    if found is None:
        return ""
    low, high = found.noises
    unit = model.intensity.unit
    if not low * 0.98 <= found.noise <= high * 1.02:
        return f"its noise is {found.noise:.3g} {unit}, and the model was trained on {low:g} to {high:g} {unit}"
    if found.distance <= found.limit:
        return ""
    low, high = found.band
    band = f"at {low:g} to {high:g} /mm" if math.isfinite(high) else f"above {low:g} /mm"
    times = math.exp(found.distance)
    return (
        f"{band} it leaves {found.error:.2g} of the power of the images open, {times:.2g} times more or less than any "
        "instrument like it that the model was trained on"
    )


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
