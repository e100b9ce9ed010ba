"""Modulation transfer functions: slanted edge, circular edge (task transfer function), wire or bead.

All three end in a line or point spread function, a window, a Fourier transform and a division by what the method itself
blurs.  Frequencies are in cycles/mm.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from retrodict._check import InputError, choice
from retrodict._random import key
from retrodict.metrics._arrays import double
from retrodict.metrics.bootstrap import stretch
from retrodict.metrics.frequency import Spacing, _pair

__all__ = ["Resolution", "circular_edge_mtf", "crossing", "edge_mtf", "point_mtf"]

Window = Literal["auto", "hann", "tukey"]


@dataclass(frozen=True)
class Resolution:
    """A measured MTF: `frequency` (n,) cycles/mm from 0 to Nyquist, `value`, `lower`, `upper` (n,), 1 at zero.

    `lower`, `upper`: 95 % bootstrap band.  `mtf50`, `mtf10`: (value, lower, upper) of the frequencies where the curve
    first falls below 50 % and 10 %, cycles/mm (NaN: not within Nyquist).  `contrast` and `noise` of what was imaged, in
    image units; for a non-linear method the curve holds for these only.  `details`: angle, center, window, ...
    """

    frequency: Tensor
    value: Tensor
    lower: Tensor
    upper: Tensor
    mtf50: tuple[float, float, float]
    mtf10: tuple[float, float, float]
    contrast: float
    noise: float
    details: dict[str, Any] = field(default_factory=dict)


def crossing(frequency: Tensor, value: Tensor, level: float) -> float:
    """First frequency at which the curve falls below `level`, by linear interpolation; NaN where it never does."""
    below = (value < level).nonzero()
    if not len(below) or int(below[0]) == 0:
        return math.nan
    i = int(below[0])
    part = float((value[i - 1] - level) / (value[i - 1] - value[i]))
    return float(frequency[i - 1]) + part * float(frequency[i] - frequency[i - 1])


# ---- slanted edge ------------------------------------------------------------------------------------------------


def edge_mtf(
    image: Tensor,
    spacing: Spacing,
    *,
    oversampling: int = 4,
    half_width: float | None = None,
    window: Window = "auto",
    bootstrap: int = 200,
    seed: int = 0,
) -> Resolution:
    """MTF across a straight edge in an image (H, W) or in slices of the same edge (S, H, W).

    After ISO 12233: (1) derivative along rows, (2) edge of each row from the smoothed derivative, robust line,
    (3) three refinements of windowed centroids around the line, (4) signed distances binned at 1/`oversampling` px,
    (5) central difference, (6) window of half width h px, (7) |DFT| / [sinc(2 f/over) sinc(f/over)].
    `half_width` None takes the widest window up to 32 px; window "auto" is Hann where that is wide enough, else Tukey
    (flat over 3/4 of the width: less bias, more noise).  The edge must be 1-30 degrees off a pixel axis.  Bands:
    bootstrap over rows (and slices).  Spacing must be square.

    Raises `InputError` for what is no edge: rows that do not agree on a line, a contrast lost in the noise, clipped
    sides, an angle out of range, or a window too narrow for the spread found (bias above 1 %; spec: h > 22 sigma).
    """
    choice("window", window, ("auto", "hann", "tukey"))
    pixel = _square(spacing)
    x = _slices(image)
    if _across(x) < 0:
        x = x.transpose(-1, -2)
    found = [_straight(s) for s in x]  # (intercept, slope): column of the edge at row r is intercept + slope r
    angle = math.degrees(math.atan(sum(slope for _, slope in found) / len(found)))
    if not 1 <= abs(angle) <= 30:
        hint = "Tilt the edge by 2 to 10 degrees: without a tilt there is no sampling finer than a pixel."
        raise InputError("edge", f"an angle of {angle:.2f} degrees to the pixel axis", "1 to 30 degrees", hint)
    distance, values, row = _distances(x, found)
    half = _half_width(x, found, half_width)
    inside = distance.abs() <= half + 2
    esf = _Edge(distance[inside], values[inside], row[inside], half, oversampling, window)
    details = {"kind": "edge", "angle_degrees": angle, "rows": int(row.max()) + 1, "slices": len(x)}
    return _resolve(esf, pixel, bootstrap, seed, details)


def _square(spacing: Spacing) -> float:
    dy, dx = _pair(spacing)
    if abs(dy / dx - 1) > 1e-3:
        raise InputError("spacing", f"{dy:g} x {dx:g} mm", "square pixels", "Resample the image first.")
    return math.sqrt(dy * dx)


def _slices(image: Tensor) -> Tensor:
    x = double("image", image)
    x = x[None] if x.ndim == 2 else x
    if x.ndim != 3 or min(x.shape[-2:]) < 16:
        raise InputError("image", f"shape {tuple(image.shape)}", "(H, W) or (S, H, W) with at least 16 x 16 pixels")
    return x


def _across(x: Tensor) -> float:
    """Positive where the mean slice changes more along columns than along rows."""
    mean = x.mean(0)
    smooth = F.avg_pool2d(mean[None], 5, 1)[0]
    return float(smooth.diff(dim=1).abs().mean() - smooth.diff(dim=0).abs().mean())


def _straight(image: Tensor) -> tuple[float, float]:
    """(intercept, slope) of the edge of one slice (H, W): robust line, then windowed centroids."""
    height, width = image.shape
    slope_sign = 1.0 if float(image[:, -width // 4 :].mean() - image[:, : width // 4].mean()) > 0 else -1.0
    derivative = slope_sign * _central(image)
    smooth = F.avg_pool2d(F.pad(derivative[None, None], (2, 2, 4, 4), mode="replicate"), (9, 5), 1)[0, 0]
    rows = torch.arange(height, dtype=torch.float64, device="cpu")
    place = smooth.argmax(1).double()
    kept = torch.ones(height, dtype=torch.bool, device="cpu")
    intercept, slope = _line(rows, place)
    for _ in range(3):
        residual = (place - intercept - slope * rows).abs()
        mad = float(residual[kept].median()) * 1.4826
        kept = residual <= min(max(3 * mad, 1.0), max(3.0, 0.05 * width))  # rows of noise alone agree on nothing
        intercept, slope = _line(rows[kept], place[kept])
    if float(kept.double().mean()) < 0.6 or height < 16:
        share = float(kept.double().mean())
        found = f"rows of which only {share:.0%} agree on where the edge is"
        raise InputError("edge", found, "one straight edge through all rows", "Choose a region with one edge in it.")
    columns = torch.arange(width, dtype=torch.float64, device="cpu")
    half = min(16.0, width / 2 - 2)
    for _ in range(3):
        offset = columns[None] - (intercept + slope * rows)[:, None]
        taper = torch.where(offset.abs() < half, torch.cos(math.pi * offset / (2 * half)) ** 2, 0.0)
        mass = (derivative * taper).sum(1)
        good = kept & (mass > 0.2 * float(mass[kept].median()))
        center = (derivative * taper * columns).sum(1) / torch.where(mass == 0, 1.0, mass)
        intercept, slope = _line(rows[good], center[good])
    return intercept, slope


def _central(image: Tensor) -> Tensor:
    out = torch.zeros_like(image)
    out[:, 1:-1] = 0.5 * (image[:, 2:] - image[:, :-2])
    return out


def _line(x: Tensor, y: Tensor) -> tuple[float, float]:
    mx, my = x.mean(), y.mean()
    slope = float(((x - mx) * (y - my)).sum() / (x - mx).square().sum().clamp_min(1e-300))
    return float(my - slope * mx), slope


def _distances(x: Tensor, lines: list[tuple[float, float]]) -> tuple[Tensor, Tensor, Tensor]:
    """Signed distance to the line in px, value, and number of the row (slice-wise) of every pixel."""
    count, height, width = x.shape
    rows = torch.arange(height, dtype=torch.float64, device="cpu")[:, None]
    columns = torch.arange(width, dtype=torch.float64, device="cpu")[None]
    parts = [(columns - (a + b * rows)) / math.sqrt(1 + b * b) for a, b in lines]
    row = torch.arange(count * height, device="cpu").reshape(count, height, 1).expand(-1, -1, width)
    return torch.stack(parts).flatten(), x.flatten(), row.flatten()


def _half_width(x: Tensor, lines: list[tuple[float, float]], wanted: float | None) -> float:
    """Half width of the window in px: as wide as the region allows on both sides of the edge, at most 32."""
    width, last = x.shape[-1], x.shape[-2] - 1
    room = min(min(a + b * r, width - 1 - a - b * r) for a, b in lines for r in (0, last))
    if wanted is not None:
        if wanted > room:
            raise InputError("half width", f"{wanted:g} px", f"at most {room:.0f} px, the room beside the edge")
        return wanted
    if room < 6:
        raise InputError("edge", f"{room:.1f} px beside it", "at least 6 px on both sides", "Use a wider region.")
    return min(32.0, math.floor(room))


# ---- circular edge -----------------------------------------------------------------------------------------------


def circular_edge_mtf(
    image: Tensor,
    spacing: Spacing,
    *,
    radius: float | None = None,
    oversampling: int = 4,
    half_width: float | None = None,
    window: Window = "auto",
    bootstrap: int = 200,
    seed: int = 0,
) -> Resolution:
    """Task transfer function at the rim of a disc insert in an image (H, W) or in slices (S, H, W) of it.

    Edge spread from distances to the center (Richard et al., Med. Phys. 39, 2012), binned as in `edge_mtf`.  The center
    is the centroid of the insert over its background, refined on the mean slice; `radius` (mm) None is estimated.
    Bands: bootstrap over angular sectors of 10 degrees (and slices).  Many slices are needed at low contrast.
    """
    choice("window", window, ("auto", "hann", "tukey"))
    pixel = _square(spacing)
    x = _slices(image)
    center, r0 = _disc(x.mean(0), None if radius is None else radius / pixel)
    _same_radius(x, r0)
    rows = torch.arange(x.shape[1], dtype=torch.float64, device="cpu")[:, None] - center[0]
    columns = torch.arange(x.shape[2], dtype=torch.float64, device="cpu")[None] - center[1]
    distance = torch.hypot(rows, columns) - r0
    room = min(center[0], center[1], x.shape[1] - 1 - center[0], x.shape[2] - 1 - center[1]) - r0
    half = min(32.0, math.floor(min(room, r0 - 1))) if half_width is None else half_width
    if half < 4 or half > min(room, r0):
        found = f"{room:.1f} px outside and {r0:.1f} px inside the rim"
        raise InputError("insert", found, f"at least {max(half, 4):g} px on both sides", "Use a larger region.")
    sector = (torch.atan2(rows, columns) / (2 * math.pi) * 36).floor().long() % 36
    unit = sector[None] + 36 * torch.arange(len(x), device="cpu")[:, None, None]
    inside = (distance.abs() <= half + 2).expand_as(x)
    spread = distance.expand_as(x)[inside]
    esf = _Edge(spread, x[inside], unit.expand_as(x)[inside], half, oversampling, window)
    details = {"kind": "circular edge", "center_px": list(center), "radius_mm": r0 * pixel, "slices": len(x)}
    return _resolve(esf, pixel, bootstrap, seed, details)


def _disc(mean: Tensor, radius: float | None) -> tuple[tuple[float, float], float]:
    """Centre (row, column) and radius in px of a disc on a uniform background."""
    height, width = mean.shape
    border = torch.cat([mean[:3].flatten(), mean[-3:].flatten(), mean[:, :3].flatten(), mean[:, -3:].flatten()])
    background, noise = float(border.median()), float(border.std())
    # the level of the insert from its middle: the center of a region holds the insert
    core = mean[height // 2 - height // 10 : height // 2 + height // 10 + 1,
                width // 2 - width // 10 : width // 2 + width // 10 + 1]  # fmt: skip
    contrast = float(core.median()) - background
    if abs(contrast) < 4 * max(noise, 1e-300) / math.sqrt(core.numel()) + 1e-12 or abs(contrast) < noise:
        found = f"a contrast of {contrast:.3g} in noise of {noise:.3g}"
        raise InputError("insert", found, "a disc that stands out from its background in the mean of all slices",
                         "Average more slices, or center the region on the insert.")  # fmt: skip
    rows = torch.arange(height, dtype=torch.float64, device="cpu")[:, None]
    columns = torch.arange(width, dtype=torch.float64, device="cpu")[None]
    smooth = F.avg_pool2d(F.pad(mean[None, None], (2, 2, 2, 2), mode="replicate"), 5, 1)[0, 0]
    level = ((smooth - background) / contrast).clamp(0, 1)
    inside = _connected(level > 0.5)
    area = float(inside.double().sum())
    if area < 30 or area > 0.7 * inside.numel():
        raise InputError("insert", f"{area:.0f} px at its level", "a disc within the region", "Check the region.")
    r = math.sqrt(area / math.pi) if radius is None else radius
    cy, cx = float((rows * inside).sum() / area), float((columns * inside).sum() / area)
    for _ in range(3):  # centroid of the mean within 1.5 radii: no bias from a threshold
        near = (torch.hypot(rows - cy, columns - cx) < 1.4 * r).double()
        weight = ((mean - background) / contrast) * near
        mass = float(weight.sum())
        cy, cx = float((rows * weight).sum()) / mass, float((columns * weight).sum()) / mass
    extent = torch.stack([(rows - cy).square() * inside, (columns - cx).square() * inside]).sum((-2, -1)) / area
    if float(extent.max() / extent.min()) > 1.3:
        raise InputError("insert", "a shape that is not round", "a circular insert", "Use a straight edge instead.")
    return (cy, cx), r


def _same_radius(x: Tensor, r0: float) -> None:
    """Refuse slices of a sphere or cone: their rim moves from slice to slice, which the mean would blur."""
    for i, s in enumerate(x if len(x) > 1 else x[:0]):
        try:
            r = _disc(s, None)[1]
        except InputError:  # too noisy alone: nothing can be said
            continue
        if abs(r - r0) > max(1.0, 0.03 * r0):
            found = f"a radius of {r:.1f} px in slice {i} of the range and {r0:.1f} px in their mean"
            hint = "A sphere is sharp at its equator only: give that one slice."
            raise InputError("insert", found, "a cylinder, with the same rim in all slices", hint)


def _connected(mask: Tensor) -> Tensor:
    """The part of a mask (H, W) that is connected to its middle."""
    seed = torch.zeros_like(mask)
    seed[mask.shape[0] // 2, mask.shape[1] // 2] = True
    while True:
        grown = (F.max_pool2d(seed[None].double(), 3, 1, 1)[0] > 0) & mask
        if bool((grown == seed).all()):
            return seed
        seed = grown


# ---- from an edge spread to an MTF -------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Edge:
    """Samples of an edge spread: distance (px), value, and the bootstrap unit of each."""

    distance: Tensor
    value: Tensor
    unit: Tensor
    half: float
    oversampling: int
    window: str

    def tables(self) -> Tensor:
        """Per unit and bin: sum of values, sum of distances from the middle of the bin, count `(units, 3, bins)`."""
        over, half = self.oversampling, self.half + 1
        bins = int(2 * half * over) + 1
        place = ((self.distance + half) * over + 0.5).floor().long()
        ok = (place >= 0) & (place < bins)
        _, unit = self.unit[ok].unique(return_inverse=True)
        flat, size = unit * bins + place[ok], (int(unit.max()) + 1) * bins
        off = (self.distance[ok] + half) * over - place[ok]
        sums = (torch.bincount(flat, w, size) for w in (self.value[ok], off, torch.ones_like(off)))
        return torch.stack([s.reshape(-1, bins) for s in sums], 1)


def _resolve(edge: _Edge, pixel: float, bootstrap: int, seed: int, details: dict[str, Any]) -> Resolution:
    tables = edge.tables()
    esf = _profile(tables.sum(0))
    contrast, noise = _sides(edge)
    if abs(contrast) < 3 * noise / math.sqrt(max(float(tables[:, 2].sum(0).mean()), 1.0)) or contrast == 0:
        found = f"a contrast of {contrast:.3g} in noise of {noise:.3g}"
        raise InputError("edge", found, "a step well above the noise", "Average more slices or rows.")
    edge = _with_window(edge, esf, pixel)
    frequency, value, sigma = _transform(esf, edge, pixel)
    draw = torch.Generator().manual_seed(key(seed, "bootstrap"))
    pick = torch.randint(len(tables), (bootstrap, len(tables)), generator=draw, device="cpu")
    curves = torch.stack([_transform(_profile(tables[p].sum(0)), edge, pixel)[1] for p in pick])
    details |= {"half_width_px": edge.half, "window": edge.window, "sigma_lsf_px": sigma}
    return _summarize(frequency, value, curves, len(tables), contrast, noise, details)


def _profile(table: Tensor) -> Tensor:
    """Edge spread at the middles of the bins from (3, bins): means sit at the mean distance of their pixels, not at the
    middle of the bin (the rows of a tilted edge do not fill bins evenly; taking them to would add 1 % at Nyquist).
    """
    total, off, count = table
    filled = count > 0
    x = torch.arange(len(count), dtype=torch.float64, device="cpu")
    known, mean = (x + off / count.clamp_min(1))[filled].contiguous(), (total / count.clamp_min(1))[filled]
    right = torch.searchsorted(known, x).clamp(1, len(known) - 1)
    a, b = known[right - 1], known[right]
    part = (x - a) / (b - a)
    return mean[right - 1] * (1 - part) + mean[right] * part


def _sides(edge: _Edge) -> tuple[float, float]:
    """Contrast and noise per pixel from the outer parts of both sides, which must be uniform and not clipped."""
    masks = (edge.distance < -0.6 * edge.half, edge.distance > 0.6 * edge.half)
    low, high = (edge.value[m] for m in masks)
    if len(low) < 10 or len(high) < 10:
        raise InputError("edge", f"{len(low)} and {len(high)} pixels on its sides", "at least 10 on either side")
    contrast = float(high.mean() - low.mean())
    for mask, side in zip(masks, (low, high), strict=True):
        share = max(float((side == side.min()).double().mean()), float((side == side.max()).double().mean()))
        if share > 0.05 and float(side.std()) > 1e-3 * abs(contrast):  # without noise all are equal, and rightly
            found = f"{share:.0%} of the pixels of one side at one extreme value: saturated or clipped"
            hint = "Read the image without clipping, or use a softer edge."
            raise InputError("edge", found, "values that are not cut off", hint)
        _, unit = edge.unit[mask].unique(return_inverse=True)
        count = torch.bincount(unit).double()
        means = torch.bincount(unit, side) / count
        drift, noise = float(means.std()), float(side.std()) / math.sqrt(float(count.mean()))
        if drift > 0.1 * abs(contrast) and drift > 2 * noise:
            found = f"a side whose mean varies by {drift:.3g} from row to row, at a contrast of {contrast:.3g}"
            hint = "Something else is there: use a smaller half width or another region."
            raise InputError("edge", found, "uniform material on both sides", hint)
    return contrast, math.sqrt(0.5 * float(low.var() + high.var()))


def _transform(esf: Tensor, edge: _Edge, pixel: float) -> tuple[Tensor, Tensor, float]:
    """(frequency in cycles/mm up to Nyquist, MTF, standard deviation of the LSF in px) of an edge spread."""
    over = edge.oversampling
    lsf = 0.5 * over * (esf[2:] - esf[:-2])
    x = (torch.arange(len(lsf), dtype=torch.float64, device="cpu") + 1) / over - (edge.half + 1)
    mass = float(lsf.sum())
    lsf = lsf * math.copysign(1.0, mass)
    near = x.abs() < min(edge.half, 12.0)
    weight = (lsf * near).clamp_min(0)
    middle = float((weight * x).sum() / weight.sum().clamp_min(1e-300))
    taper = _window(x - middle * (abs(middle) < 1), edge.half, edge.window)
    windowed = lsf * taper
    size = 1 << math.ceil(math.log2(max(16 * len(lsf), 4096)))
    spectrum = torch.fft.rfft(windowed, n=size).abs()
    f = torch.arange(len(spectrum), dtype=torch.float64, device="cpu") * over / size  # cycles per px
    blur = torch.sinc(2 * f / over) * torch.sinc(f / over)
    nodes = torch.linspace(0, 0.5, 129, dtype=torch.float64, device="cpu")
    step = over / size
    left = (nodes / step).long().clamp(max=len(f) - 2)
    part = nodes / step - left
    mtf = spectrum / blur.clamp_min(0.05) / spectrum[0]
    value = mtf[left] * (1 - part) + mtf[left + 1] * part
    return nodes / pixel, value, _width(frequency=nodes, value=value)


def _width(frequency: Tensor, value: Tensor) -> float:
    """Standard deviation in px of the Gaussian with the same frequency of half height (robust to noisy tails)."""
    half = crossing(frequency, value, 0.5)
    return 0.1873906251 / half if math.isfinite(half) else 0.1873906251 / 0.5


def _window(x: Tensor, half: float, name: str) -> Tensor:
    u = (x / half).abs()
    if name == "hann":
        return torch.where(u < 1, torch.cos(0.5 * math.pi * u) ** 2, 0.0)
    flat = 0.75  # Tukey with a taper over the outer quarter
    ramp = torch.cos(0.5 * math.pi * ((u - flat) / (1 - flat)).clamp(0, 1)) ** 2
    return torch.where(u < flat, 1.0, ramp)


def _with_window(edge: _Edge, esf: Tensor, pixel: float) -> _Edge:
    """The edge with the window decided.  A Hann window narrows the LSF: its variance by about (pi sigma / 2 h)^2."""
    names = ("hann", "tukey") if edge.window == "auto" else (edge.window,)
    for name in names:
        tried = replace(edge, window=name)
        sigma = _transform(esf, tried, pixel)[2]
        needed = (22 / math.sqrt(2) if name == "hann" else 5) * sigma
        if edge.half >= needed:
            return tried
    found = f"a window of half width {edge.half:.0f} px for a spread of standard deviation {sigma:.2f} px"
    hint = "Use a region with more room beside the edge" + (", or window 'tukey'." if names == ("hann",) else ".")
    raise InputError("edge", found, f"at least {needed:.0f} px (bias of the curve below 1 %)", hint)


def _summarize(
    frequency: Tensor,
    value: Tensor,
    curves: Tensor,
    units: int,
    contrast: float,
    noise: float,
    details: dict[str, Any],
) -> Resolution:
    curves = value + (curves - value) * stretch(units)
    quantiles = torch.quantile(curves, torch.tensor([0.025, 0.975], dtype=torch.float64, device="cpu"), dim=0)
    summary = []
    for level in (0.5, 0.1):
        each = torch.tensor([crossing(frequency, c, level) for c in curves], dtype=torch.float64, device="cpu")
        each = each[torch.isfinite(each)]
        value_at = crossing(frequency, value, level)
        if len(each) < 0.9 * len(curves) or not math.isfinite(value_at):
            summary.append((value_at, math.nan, math.nan))
        else:
            low, high = torch.quantile(each, torch.tensor([0.025, 0.975], dtype=torch.float64, device="cpu")).tolist()
            summary.append((value_at, low, high))
    return Resolution(frequency, value, quantiles[0], quantiles[1], summary[0], summary[1], contrast, noise, details)


# ---- wire or bead ------------------------------------------------------------------------------------------------


def point_mtf(
    image: Tensor,
    spacing: Spacing,
    *,
    diameter: float = 0.0,
    half_width: float | None = None,
    bootstrap: int = 200,
    seed: int = 0,
) -> Resolution:
    """MTF of a thin wire (seen end-on) or bead in an image (H, W) or slices (S, H, W): 2-D transform of its image.

    The background is the median beyond the window; the transform about the centroid, within a Hann disc of
    `half_width` px (default: what fits), is averaged over angles and divided by that of a disc of `diameter` (mm),
    2 J1(pi D f) / (pi D f).  Bands: bootstrap over slices, or over angular sectors of a single slice.
    """
    pixel = _square(spacing)
    x = _slices(image)
    center, contrast, background, noise = _spot(x.mean(0))
    room = min(center[0], center[1], x.shape[1] - 1 - center[0], x.shape[2] - 1 - center[1])
    half = math.floor(room) - 2 if half_width is None else half_width
    if half < 5 or half > room:
        raise InputError("wire or bead", f"{room:.1f} px around it", "at least 7 px", "Use a larger region.")
    rows = torch.arange(x.shape[1], dtype=torch.float64, device="cpu") - center[0]
    columns = torch.arange(x.shape[2], dtype=torch.float64, device="cpu") - center[1]
    distance = torch.hypot(rows[:, None], columns[None])
    taper = _window(distance, half, "hann")
    nodes = torch.linspace(0, 0.5, 65, dtype=torch.float64, device="cpu")
    angles = (torch.arange(36, dtype=torch.float64, device="cpu") + 0.5) * (math.pi / 36)
    each = []
    for s in x:
        outer = s[distance > half]
        psf = (s - (outer.median() if len(outer) > 20 else background)) * taper
        each.append(_radial_transform(psf, rows, columns, nodes, angles))
    transform = torch.stack(each)  # (S, angles, nodes)
    disc = _disc_transform(nodes / pixel, diameter)
    if diameter and float(disc[-1]) < 0.3:
        raise InputError("diameter", f"{diameter:g} mm", f"less than {1.5 * pixel:g} mm for {pixel:g} mm pixels")

    def curve(part: Tensor) -> Tensor:
        mean = part.mean((0, 1))
        return mean / mean[0] / disc

    draw = torch.Generator().manual_seed(key(seed, "bootstrap"))
    units = transform if len(x) >= 4 else transform.reshape(-1, 1, len(nodes))
    pick = torch.randint(len(units), (bootstrap, len(units)), generator=draw, device="cpu")
    curves = torch.stack([curve(units[p]) for p in pick])
    value = curve(transform)
    sigma = _width(nodes, value)
    if half < 22 * sigma / math.sqrt(2):
        found = f"a window of half width {half:g} px for a spread of standard deviation {sigma:.2f} px"
        raise InputError("wire or bead", found, f"at least {22 * sigma / math.sqrt(2):.0f} px", "Use a larger region.")
    details = {"kind": "point", "center_px": list(center), "half_width_px": half, "diameter_mm": diameter}
    details |= {"slices": len(x), "window": "hann", "sigma_lsf_px": sigma}
    return _summarize(nodes / pixel, value, curves, len(units), contrast, noise, details)


def _spot(mean: Tensor) -> tuple[tuple[float, float], float, float, float]:
    """Centre, peak contrast, background and noise of a small bright or dark spot."""
    background = float(mean.median())
    noise = 1.4826 * float((mean - background).abs().median())
    deviation = mean - background
    peak = int(deviation.abs().argmax())
    cy, cx = divmod(peak, mean.shape[1])
    contrast = float(deviation.flatten()[peak])
    if abs(contrast) < 8 * noise or contrast == 0:
        found = f"a largest deviation of {contrast:.3g} in noise of {noise:.3g}"
        raise InputError("wire or bead", found, "a point that stands out", "Average more slices.")
    top = float((deviation.sign() * deviation.abs() >= 0.999 * abs(contrast)).double().sum())
    if contrast > 0 and top >= 4:
        raise InputError("wire or bead", f"{top:.0f} pixels at its peak value: saturated", "one peak pixel",
                         "Use a thinner wire or a scan that is not clipped.")  # fmt: skip
    rows = torch.arange(mean.shape[0], dtype=torch.float64, device="cpu")[:, None]
    columns = torch.arange(mean.shape[1], dtype=torch.float64, device="cpu")[None]
    y, x = float(cy), float(cx)
    for _ in range(5):
        near = _window(torch.hypot(rows - y, columns - x), 6.0, "hann")
        weight = deviation * near / contrast
        mass = float(weight.sum())
        y, x = float((rows * weight).sum()) / mass, float((columns * weight).sum()) / mass
    return (y, x), contrast, background, noise


def _radial_transform(psf: Tensor, rows: Tensor, columns: Tensor, nodes: Tensor, angles: Tensor) -> Tensor:
    """Real part of the 2-D transform about the center at polar frequencies: (angles, nodes)."""
    fy = (nodes[None] * torch.sin(angles)[:, None]).flatten()
    fx = (nodes[None] * torch.cos(angles)[:, None]).flatten()
    left = torch.exp(-2j * math.pi * fy[:, None] * rows[None])
    right = torch.exp(-2j * math.pi * fx[:, None] * columns[None])
    value = ((left @ psf.to(torch.complex128)) * right).sum(1).real
    return value.reshape(len(angles), len(nodes))


def _disc_transform(frequency: Tensor, diameter: float) -> Tensor:
    x = math.pi * diameter * frequency
    return torch.where(x == 0, 1.0, 2 * torch.special.bessel_j1(x) / torch.where(x == 0, 1.0, x))
