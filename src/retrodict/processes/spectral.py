"""Processes whose noise, or whose clock, has a shape over frequency that is chosen and not measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.bases import Basis, Pixel
from retrodict.bases.spectrum import Spectrum
from retrodict.processes.blurring import plain
from retrodict.processes.process import Law, Process, assemble
from retrodict.processes.scalar import vp

__all__ = ["band_noise", "matern", "shortest_path"]

Shape = Callable[[Basis], Tensor]
"""Variance of the noise at every coefficient of a basis, `(*K)`."""

_REFERENCE = 64
"""Pixels an axis of the grid on which a noise is normalised: one for all, so that a law does not depend on the size."""


def _require_frequencies(name: str, basis: Basis) -> None:
    if isinstance(plain(basis), Pixel):
        raise InputError(f"process {name!r}", "the basis Pixel", "one with frequencies: Fourier, Cosine or Wavelet")


def _spectrum(record: Spectrum | Mapping[str, Any] | None, name: str) -> Spectrum | None:
    """A stored spectrum of one row, from itself or its record."""
    where = f"process {name!r} spectrum"
    spectrum = record if record is None or isinstance(record, Spectrum) else Spectrum.from_json(record, where)
    if spectrum is not None and spectrum.channels is not None:
        raise InputError(where, f"{spectrum.channels} channels", "a spectrum of one row, which serves every channel")
    return spectrum


def _colored(shape: Shape, beta_min: float, beta_max: float) -> Callable[[Basis], Law]:
    """`vp` with noise of this shape: h of vp, s^2 = (1 - h^2) W^2."""

    def family(bound: Basis) -> Law:
        power, white = shape(bound), vp(bound, beta_min, beta_max).law

        def law(t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            h, k, s2 = white(t)
            return h, k, s2 * power

        return law

    return family


# ---- frequency-based noise control -----------------------------------------------------------------------------------


def band_noise(
    basis: Basis,
    exponent: float = -0.5,
    floor: float = 0.05,
    decay: float | None = None,
    bands: Sequence[Sequence[float]] | None = None,
    spectrum: Spectrum | Mapping[str, Any] | None = None,
    normalised: bool = True,
    beta_min: float = 0.1,
    beta_max: float = 20.0,
    **pairing: Any,
) -> Process:
    """`vp` with noise that is filtered by a W(f) of one's choice (Jiralerspong et al. 2025, arXiv 2502.10236).

    log h = -t^2 (b1 - b0)/4 - t b0/2, s^2 = (1 - h^2) W^2.  With u = |f| / Nyquist (of the finest axis), W is one of:

    - max(u, `floor`)^`exponent`, the default; exponent 0 is `vp` itself;
    - exp(-`decay` u);
    - sum_i w_i [low_i <= u < high_i] over `bands` of (low, high, w).  Frequencies of no band are masked: they carry no
      noise at any time, and generation from N(0, s^2) leaves them empty ("selective omission");
    - sqrt(L), where `spectrum` is that of the data: every frequency then has the same signal-to-noise ratio.

    `normalised`: the mean of W^2 over the frequencies of 64 pixels an axis is 1, so that the noise of a pixel is that
    of `vp`; the published form does not say.
    """
    _require_frequencies("band_noise", basis)
    chosen = [name for name, v in (("decay", decay), ("bands", bands), ("spectrum", spectrum)) if v is not None]
    if len(chosen) > 1:
        raise InputError("process 'band_noise'", " and ".join(chosen), "one shape of noise")
    if not floor > 0 or not math.isfinite(exponent):
        raise InputError("process 'band_noise'", f"floor {floor:g}, exponent {exponent:g}", "a floor above 0, numbers")
    known, parts = _spectrum(spectrum, "band_noise"), None if bands is None else _bands(bands)

    def shape(bound: Basis) -> Tensor:
        if known is not None:
            return known.on(bound)
        u = bound.radius() * 2 * min(bound.spacing)
        if decay is not None:
            return torch.exp(-2 * decay * u)
        if parts is None:
            return u.clamp_min(floor) ** (2 * exponent)
        return sum((w * ((u >= low) & (u < high)) for low, high, w in parts), start=torch.zeros_like(u)) ** 2

    unit = _normalised(shape) if normalised else shape
    if not float(unit(basis.to("cpu")).sum()) > 0:
        raise InputError("process 'band_noise' bands", bands, "bands that hold a frequency of the grid")
    options = {
        "exponent": exponent,
        "floor": floor,
        "decay": decay,
        "bands": None if parts is None else [list(part) for part in parts],
        "spectrum": None if known is None else known.to_json(),
        "normalised": normalised,
        "beta_min": beta_min,
        "beta_max": beta_max,
    }
    return assemble(_colored(unit, beta_min, beta_max), basis, "band_noise", options, **pairing)


def _bands(bands: Sequence[Sequence[float]]) -> list[tuple[float, float, float]]:
    where = "process 'band_noise' bands"
    if any(len(part) != 3 for part in bands):
        raise InputError(where, bands, "triples of lower edge, upper edge (both in units of Nyquist) and weight")
    triples = [(float(low), float(high), float(w)) for low, high, w in bands]
    if not all(0 <= low < high and 0 <= w < math.inf for low, high, w in triples):
        raise InputError(where, bands, "0 <= lower edge < upper edge and a weight of at least 0")
    return triples


def _normalised(shape: Shape) -> Shape:
    """The shape divided by its mean over the coefficients of a grid of 64 pixels an axis, of the same spacing."""

    def divided(bound: Basis) -> Tensor:
        reference = bound.on((_REFERENCE,) * bound.ndim)
        weight = reference.multiplicity()
        mean = (weight * shape(reference)).sum() / weight.sum()
        return torch.where(mean > 0, shape(bound) / torch.where(mean > 0, mean, 1.0), 0.0)

    return divided


# ---- shortest path ---------------------------------------------------------------------------------------------------


def shortest_path(
    basis: Basis,
    c1: float = 1.59,
    c2: float = 0.0086,
    m: float = 2.0,
    extent: float = 32.0,
    level: float = 1.0,
    spectrum: Spectrum | Mapping[str, Any] | None = None,
    **pairing: Any,
) -> Process:
    """Shortest path diffusion: at every frequency the Fisher geodesic from data to noise (Das et al. 2023).

    h^2 = (L^(1-t) - 1) / (L - 1) (1 - t where L = 1), s^2 = level^2 (1 - h^2), L the variance of the data in units of
    level^2, so that the variance of a state is level^2 L^(1-t): the shortest path between N(0, level^2 L) and N(0,
    level^2) in the Fisher metric.  L is `spectrum` where one is given (that stored with a model, in model units), and
    else c1 / (c2 + |f| extent)^m / level^2: published for images of 32 pixels, |f| in cycles per image, `extent` = 32
    mm.  Frequencies with L > 1 lose the image first: it sharpens.  h(1) = 0.
    """
    _require_frequencies("shortest_path", basis)
    known = _spectrum(spectrum, "shortest_path")
    for name, value in {"c1": c1, "c2": c2, "extent": extent, "level": level}.items():
        if not 0 < value < math.inf:
            raise InputError(f"process 'shortest_path' {name}", value, "a positive number")

    def family(bound: Basis) -> Law:
        power = c1 / (c2 + bound.radius() * extent) ** m if known is None else known.on(bound)
        log = (power / level**2).log()
        flat = log == 0
        log = torch.where(flat, 1.0, log)

        def law(t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            kept = torch.where(flat, 1 - t, torch.expm1((1 - t) * log) / torch.expm1(log))
            # 1 - h^2 without cancellation
            lost = torch.where(flat, t, torch.exp((1 - t) * log) * torch.expm1(t * log) / torch.expm1(log))
            return kept.sqrt(), 0 * t, level**2 * lost

        return law

    options = {"c1": c1, "c2": c2, "m": m, "extent": extent, "level": level}
    options = {**options, "spectrum": None if known is None else known.to_json()}
    return assemble(family, basis, "shortest_path", options, **pairing)


# ---- function space --------------------------------------------------------------------------------------------------


def matern(
    basis: Basis,
    smoothness: float = 2.0,
    length: float = 4.0,
    variance: float = 1.0,
    beta_min: float = 0.1,
    beta_max: float = 20.0,
    **pairing: Any,
) -> Process:
    """`vp` with noise that is a function: a Matern field, trace class, the same on every grid (Lim et al. 2023).

    log h = -t^2 (b1 - b0)/4 - t b0/2, s^2 = (1 - h^2) Q / (pixel volume), Q(f) = C (1/length^2 + (2 pi |f|)^2)^-s with
    s = `smoothness` and C such that the field of the continuum has `variance` (model units squared) at every point: C =
    variance (4 pi)^(n/2) Gamma(s)/Gamma(s - n/2) length^(n - 2s), n axes.  Q is a density over physical frequency, so a
    finer grid of the same extent holds the same field and adds its details; the variance that pixels lack falls as
    N^(n - 2s).  Trace class, and so possible, iff s > n/2 (Hagemann et al. 2023; Pidstrigach et al. 2023).  `length` in
    mm.  The data are functions too: their spectrum is a density (`Spectrum.volume`).
    """
    _require_frequencies("matern", basis)
    axes = plain(basis).ndim
    if not 2 * smoothness > axes:
        raise InputError(
            "process 'matern' smoothness",
            smoothness,
            f"more than {axes / 2:g} on {axes} axes: the noise is no function",
        )
    if not 0 < length < math.inf or not 0 < variance < math.inf:
        raise InputError("process 'matern'", f"length {length:g}, variance {variance:g}", "positive numbers")
    unit = (4 * math.pi) ** (axes / 2) * math.exp(math.lgamma(smoothness) - math.lgamma(smoothness - axes / 2))

    def shape(bound: Basis) -> Tensor:
        decay = (1 + (2 * math.pi * bound.radius() * length) ** 2) ** -smoothness
        return variance * unit * length**axes * decay / math.prod(plain(bound).spacing)

    options = {"smoothness": smoothness, "length": length, "variance": variance}
    options = {**options, "beta_min": beta_min, "beta_max": beta_max}
    return assemble(_colored(shape, beta_min, beta_max), basis, "matern", options, **pairing)
