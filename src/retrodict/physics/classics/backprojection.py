"""Filtered back-projection: parallel and fan beams, full and short scans, and Feldkamp's cone beam."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from retrodict._check import InputError, choice
from retrodict.physics.classics.redundancy import angle_steps, redundancy
from retrodict.physics.classics.result import Reconstruction, closed
from retrodict.physics.geometry import FanBeam, ParallelBeam
from retrodict.physics.measurement import Measurement
from retrodict.physics.projection import Projection
from retrodict.physics.radon import Radon
from retrodict.physics.views import ConeBeam

__all__ = ["FILTERS", "fbp", "fdk", "ramp"]

FILTERS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "ram-lak": torch.ones_like,
    "shepp-logan": lambda f: torch.sinc(f / 2),
    "cosine": lambda f: torch.cos(math.pi * f / 2),
    "hamming": lambda f: 0.54 + 0.46 * torch.cos(math.pi * f),
    "hann": lambda f: 0.5 + 0.5 * torch.cos(math.pi * f),
}
"""Windows of the ramp, functions of the frequency over the cutoff (0 beyond it)."""


def ramp(bins: int, pitch: float, filter: str = "ram-lak", cutoff: float = 1.0, *, angular: bool = False) -> Tensor:
    """Transfer function of the filter, `(n // 2 + 1,)` float64 for rows padded to n >= 2 bins, a power of 2.

    The ramp is sampled in space, h(0) = 1 / (4 d^2), h(k d) = -1 / (pi k d)^2 for odd k and 0 for even ones, which
    keeps the mean right, times d (Kak and Slaney, 1988, chapter 3); `angular` is that of a curved detector, with
    -1 / (pi sin(k d))^2.  The window of `filter` is over `cutoff` times the Nyquist frequency.
    """
    choice("filter", filter, FILTERS)
    if not 0 < cutoff <= 1:
        raise InputError("cutoff", cutoff, "a share of the Nyquist frequency, above 0 and at most 1")
    n = 2 ** math.ceil(math.log2(max(2 * bins, 4)))
    k = torch.arange(n, dtype=torch.float64, device="cpu")
    k = torch.minimum(k, n - k)
    # two bins of one row are less than pi apart; what lies beyond that is never touched
    distance = torch.where(k * pitch < 3.1, torch.sin(k * pitch), 1.0) if angular else k * pitch
    odd = k % 2 == 1
    kernel = torch.where(odd, -1 / (math.pi * torch.where(odd, distance, 1.0)) ** 2, 0.0)
    kernel[0] = 1 / (4 * pitch**2)
    frequency = torch.linspace(0, 1, n // 2 + 1, dtype=torch.float64, device="cpu") / cutoff
    window = torch.where(frequency <= 1 + 1e-12, FILTERS[filter](frequency), 0.0)
    return torch.fft.rfft(kernel * pitch).real * window


def _filtered(rows: Tensor, response: Tensor) -> Tensor:
    """Rows `(..., bins)` convolved with the filter, zeros outside."""
    n = 2 * (len(response) - 1)
    return torch.fft.irfft(torch.fft.rfft(rows, n) * response.to(rows), n)[..., : rows.shape[-1]]


def _grid(size: tuple[int, ...], spacing: tuple[float, ...], like: Tensor) -> tuple[Tensor, Tensor]:
    """X of every column and y of every row in mm."""
    settings = {"dtype": torch.float64, "device": "cpu"}
    y = ((size[0] - 1) / 2 - torch.arange(size[0], **settings)) * spacing[0]
    x = (torch.arange(size[1], **settings) - (size[1] - 1) / 2) * spacing[1]
    return x.to(like), y.to(like)


def _interpolated(rows: Tensor, at: Tensor) -> Tensor:
    """Rows `(n, bins)` at fractional bins `(*N)`, linear, 0 outside: `(n, *N)`."""
    padded = torch.nn.functional.pad(rows, (1, 1))
    place = (at + 1).clamp(0, rows.shape[-1] + 1 - 1e-9)
    low = place.floor().long().clamp_max(rows.shape[-1])
    share = place - low
    return torch.lerp(padded[:, low], padded[:, low + 1], share.to(rows))


def _line_integrals(measurement: Measurement) -> Tensor:
    data = measurement.y if measurement.noise is None else measurement.gaussian()[0]
    mask = measurement.mask
    if mask is not None and not bool((mask == 1).all()):
        hint = "Fill them in, or use an iterative method."
        raise InputError("mask", "rays that were not measured", "a complete sinogram for a filter", hint)
    return data


def fbp(measurement: Measurement, *, filter: str = "ram-lak", cutoff: float = 1.0) -> Reconstruction:
    """Filtered back-projection of a `Radon` measurement, in the unit of the image (1/mm of line integrals).

    Parallel: f(x, y) = sum_a (p_a * h)(x cos a + y sin a) step_a. Fan, flat: rows are weighted by R / sqrt(R^2 +
    s^2) on a detector through the axis, filtered, and back-projected with 1 / U^2; curved: by R cos(g), filtered in
    the angle g, with 1 / L^2 of the distance L to the source (Kak and Slaney, 1988, chapter 3). Rays that are
    measured twice share a weight of 1: 1/2 over a full turn, Parker's for a short scan (Parker, Med. Phys. 9, 1982;
    Silver's longer ones, Med. Phys. 27, 2000), smooth ones for a detector off center (Wang, Med. Phys. 29, 2002);
    of less than pi plus the fan what is measured once counts once (Noo et al., Phys. Med. Biol. 47, 2002).
    `filter`: "ram-lak", "shepp-logan", "cosine", "hamming", "hann", over `cutoff` of the Nyquist frequency.
    """
    operator = measurement.operator
    if not isinstance(operator, Radon):
        raise InputError("fbp", operator.name, "the measurement of a Radon operator")
    data = _line_integrals(measurement)
    rows = data.flatten(0, 1)
    beam = operator.geometry
    run = _fan if isinstance(beam, FanBeam) else _parallel
    image = run(rows, beam, operator, filter, cutoff)  # type: ignore[arg-type]
    return closed(measurement, image.reshape(len(data), *operator.domain.shape))


def _parallel(rows: Tensor, beam: ParallelBeam, operator: Radon, filter: str, cutoff: float) -> Tensor:
    rows = _filtered(rows, ramp(beam.bins, beam.pitch, filter, cutoff))
    x, y = _grid(operator.size, operator.domain.spacing, rows)
    first = float(beam.positions()[0])
    out = rows.new_zeros(len(rows), *operator.size)
    for view, (angle, step) in enumerate(zip(beam.angles, angle_steps(beam.angles, math.pi), strict=True)):
        s = (x - beam.center[0]) * math.cos(angle) + (y[:, None] - beam.center[1]) * math.sin(angle)
        out += step * _interpolated(rows[:, view], (s - first) / beam.pitch)
    return out


def _fan(rows: Tensor, beam: FanBeam, operator: Radon, filter: str, cutoff: float) -> Tensor:
    gamma, radius = beam.fan(), beam.source
    weight = redundancy(beam.angles, gamma)
    if beam.curved:
        pitch, first = beam.pitch / beam.detector, float(gamma[0])
        weight = weight * radius * gamma.cos()
    else:
        scale = radius / beam.detector
        s = beam.positions() * scale
        pitch, first = beam.pitch * scale, float(s[0])
        weight = weight * radius / (radius**2 + s**2).sqrt()
    rows = _filtered(rows * weight.to(rows), ramp(beam.bins, pitch, filter, cutoff, angular=beam.curved))
    x, y = _grid(operator.size, operator.domain.spacing, rows)
    x, y = x - beam.center[0], y[:, None] - beam.center[1]
    out = rows.new_zeros(len(rows), *operator.size)
    for view, (b, step) in enumerate(zip(beam.angles, angle_steps(beam.angles, 2 * math.pi), strict=True)):
        depth = radius + x * math.sin(b) - y * math.cos(b)
        across = x * math.cos(b) + y * math.sin(b)
        if beam.curved:
            found = _interpolated(rows[:, view], (torch.atan2(across, depth) - first) / pitch)
            out += step * found / (across**2 + depth**2)
        else:
            found = _interpolated(rows[:, view], (across * radius / depth - first) / pitch)
            out += step * found * (radius / depth) ** 2
    return out


def fdk(measurement: Measurement, *, filter: str = "ram-lak", cutoff: float = 1.0) -> Reconstruction:
    """Feldkamp, Davis and Kress (J. Opt. Soc. Am. A 1, 1984) of a `ConeBeam` measurement: exact in the middle plane.

    Projections are weighted by R / sqrt(R^2 + s^2 + v^2) on a detector through the axis and by the redundancy of a fan,
    filtered along their rows and back-projected with 1 / U^2, U = (R + x sin b - y cos b) / R.
    """
    operator = measurement.operator
    if (
        not isinstance(operator, Projection)
        or not isinstance(operator.geometry, ConeBeam)
        or operator.geometry.parallel
    ):
        raise InputError("fdk", operator.name, "the measurement of a Projection with a ConeBeam")
    beam, data = operator.geometry, _line_integrals(measurement)
    rows = data.flatten(0, 1)
    radius, scale = beam.source, beam.source / beam.detector
    settings = {"dtype": torch.float64, "device": "cpu"}
    v, s = (
        ((torch.arange(n, **settings) - (n - 1) / 2) * d + o) * scale
        for n, d, o in zip(beam.bins, beam.pitch, beam.offset, strict=True)
    )
    weight = radius / (radius**2 + s**2 + v[:, None] ** 2).sqrt()
    weight = weight * redundancy(beam.angles, torch.atan(s / radius))[:, None]
    pitch = [d * scale for d in beam.pitch]
    rows = _filtered(rows * weight.to(rows), ramp(beam.bins[1], pitch[1], filter, cutoff))
    size, spacing = operator.domain.shape[1:], operator.domain.spacing
    x, y = _grid(size[1:], spacing[1:], rows)
    z = (torch.arange(size[0], **settings) - (size[0] - 1) / 2) * spacing[0] - beam.center[2]
    x, y, z = x - beam.center[0], y[:, None] - beam.center[1], z.to(rows)[:, None, None]
    out = rows.new_zeros(len(rows), *size)
    for view, (b, step) in enumerate(zip(beam.angles, angle_steps(beam.angles, 2 * math.pi), strict=True)):
        inverse = radius / (radius + x * math.sin(b) - y * math.cos(b))
        across = ((x * math.cos(b) + y * math.sin(b)) * inverse - float(s[0])) / pitch[1]
        up = (z * inverse - float(v[0])) / pitch[0]
        out += step * _bilinear(rows[:, view], up, across.expand_as(up)) * inverse**2
    return closed(measurement, out.reshape(len(data), *operator.domain.shape))


def _bilinear(rows: Tensor, up: Tensor, across: Tensor) -> Tensor:
    """Projections `(n, rows, columns)` at fractional places, linear in both, 0 outside."""
    height, width = rows.shape[-2:]
    padded = torch.nn.functional.pad(rows, (1, 1, 1, 1))
    places = [(p + 1).clamp(0, n + 1 - 1e-9) for p, n in ((up, height), (across, width))]
    (i, j), (a, b) = (
        [p.floor().long().clamp_max(n) for p, n in zip(places, (height, width), strict=True)],
        [p - p.floor().clamp_max(n) for p, n in zip(places, (height, width), strict=True)],
    )
    top = torch.lerp(padded[:, i, j], padded[:, i, j + 1], b)
    low = torch.lerp(padded[:, i + 1, j], padded[:, i + 1, j + 1], b)
    return torch.lerp(top, low, a)
