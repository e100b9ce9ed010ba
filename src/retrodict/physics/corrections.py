"""Raw readings of a tomograph made into line integrals: flat field, gain, dead bins, rings, center of rotation.

Functions of tensors in float64; each returns what it did, so that a record can say it.  Views are the second to last
axis and bins the last one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from retrodict._check import InputError

__all__ = [
    "Center",
    "Gain",
    "Transmission",
    "dead_bins",
    "fill",
    "find_center",
    "noise_level",
    "photon_gain",
    "remove_air",
    "remove_rings",
    "transmission",
]


class Gain(NamedTuple):
    """`gain` readings per photon and the deviation `electronic` of a dark reading, from repeated flats and darks."""

    gain: float
    electronic: float


class Transmission(NamedTuple):
    """Line integrals `values` `(views, bins)`, the readings `open_beam` `(bins,)` without an object, and `starved`
    `(views, bins)`: rays with a reading of at most `least` above the dark.
    """

    values: Tensor
    open_beam: Tensor
    starved: Tensor


class Center(NamedTuple):
    """The axis of rotation in bins from the first one, by two methods, and how well the first fits (0 to 1)."""

    bin: float
    by_moments: float
    explained: float


# ---- readings --------------------------------------------------------------------------------------------------------


def photon_gain(flats: Tensor, darks: Tensor) -> Gain:
    """Readings per photon of a linear detector: (var F - var D) / (mean F - mean D), the median over bins.

    `flats` and `darks` `(n, bins)`, at least three of each.  Every flat is first divided by its own mean, so that a
    beam whose strength drifts from one flat to the next is no noise (Janesick, Photon Transfer, SPIE, 2007).
    """
    for name, stack in (("flats", flats), ("darks", darks)):
        if stack.ndim != 2 or len(stack) < 3:
            found = f"{len(stack)} readings of a bin" if stack.ndim == 2 else f"shape {tuple(stack.shape)}"
            raise InputError(name, found, "at least three, for their variance", "Or give the gain.")
    dark = darks.mean(0)
    level = (flats - dark).mean(1, keepdim=True)
    signal = (flats - dark) / level * level.mean()
    electronic = darks.var(0).median().sqrt()
    ratio = (signal.var(0) - darks.var(0)) / signal.mean(0)
    gain = float(ratio[signal.mean(0) > 0].median())
    if not gain > 0:
        found = f"a variance of {gain:.3g} times the mean"
        raise InputError("flats", found, "more noise than the darks have", "Give the gain.")
    return Gain(gain, float(electronic))


def transmission(
    counts: Tensor, flat: Tensor | float, dark: Tensor | float = 0.0, *, least: float = 1.0
) -> Transmission:
    """-log((I - D) / (F - D)) of readings I `(views, bins)`, open beam F and dark D (numbers or `(bins,)`).

    A reading of less than `least` above the dark counts as `least`, and is `starved`.
    """
    dark_, flat_ = (torch.as_tensor(v, dtype=torch.float64, device="cpu") for v in (dark, flat))
    net = counts.double() - dark_
    beam = (flat_ - dark_).expand(counts.shape[-1]).clone()
    safe = beam.clamp_min(least)
    return Transmission((safe / net.clamp_min(least)).log(), beam, net < least)


def dead_bins(beam: Tensor, values: Tensor, *, low: float = 0.1) -> Tensor:
    """Which bins say nothing, `(bins,)` bool: an open beam of less than `low` of the median of 31 neighbors, or the
    same value in every view, or one that is no number.  A detector that sees no beam at all over a stretch is not dead.
    """
    near = _running_median(beam.double(), 31)
    stuck = values.std(-2) == 0 if values.shape[-2] > 2 else torch.zeros_like(beam, dtype=torch.bool)
    lit = values.abs().amax(-2) > 0
    return (beam < low * near) | (stuck & lit) | ~torch.isfinite(values).all(-2)


def fill(values: Tensor, missing: Tensor) -> Tensor:
    """Values `(views, bins)` with what is `missing` (same shape, or `(bins,)`) interpolated along the bins."""
    gone = missing.expand(values.shape)
    if not bool(gone.any()):
        return values
    out = values.clone()
    at = torch.arange(values.shape[-1], dtype=torch.float64, device="cpu")
    for view in torch.nonzero(gone.any(-1)).flatten().tolist():
        bad = gone[view]
        good = torch.nonzero(~bad).flatten()
        if not len(good):
            raise InputError("sinogram", f"view {view} without a single usable bin", "at least one")
        right = torch.searchsorted(good, torch.nonzero(bad).flatten())
        low, high = good[(right - 1).clamp_min(0)], good[right.clamp_max(len(good) - 1)]
        place = at[bad]
        share = torch.where(high > low, (place - low) / (high - low).clamp_min(1), 0.0)
        out[view, bad] = torch.lerp(values[view, low], values[view, high], share.to(values.dtype))
    return out


def remove_air(values: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Line integrals `(..., views, bins)` less those of air, and what was taken off `(..., views, bins)`.

    In every view the line through the medians of the `width` first and last bins, which the object does not shade: a
    beam whose strength drifts between flats and view leaves an offset there, attenuation all over the image.

    Raises `InputError` for a width below 1 or above a quarter of the bins, and where the object reaches these bins.
    """
    bins = values.shape[-1]
    if isinstance(width, bool) or not isinstance(width, int) or not 1 <= width <= bins // 4:
        raise InputError("air", width, f"1 to {bins // 4} bins at each end of a view, which see air alone")
    ends = [values[..., :width].median(-1).values, values[..., -width:].median(-1).values]
    highest = float(values.max())
    shaded = max(float(end.max()) for end in ends)
    if shaded > 0.1 * highest:
        found = f"line integrals of {shaded:.4g} in the outer {width} bins, of {highest:.4g} at most"
        raise InputError("air", found, "bins that see air alone", "Give fewer, or 0 if the object fills the field.")
    middle = (width - 1) / 2
    at = (torch.arange(bins, dtype=torch.float64, device=values.device) - middle) / (bins - 1 - 2 * middle)
    line = ends[0][..., None] + (ends[1] - ends[0])[..., None] * at.to(values)
    return values - line, line


# ---- rings -----------------------------------------------------------------------------------------------------------


def remove_rings(values: Tensor, width: int = 9) -> tuple[Tensor, Tensor]:
    """The sinogram without stripes along the views, and the stripe of every bin `(bins,)` that was taken off.

    Stripe = mean over views minus its running median over `width` bins: a wrong gain of a bin is the same in all views
    and makes a ring (Boin and Haibel, Opt. Express 14, 2006).  Structures that are narrower than `width` / 2 bins and
    as round as a ring go too.
    """
    if width < 3 or width % 2 == 0:
        raise InputError("rings", width, "an odd number of bins, at least 3")
    mean = values.mean(-2)
    stripe = mean - _running_median(mean, width)
    return values - stripe, stripe


def _running_median(line: Tensor, width: int) -> Tensor:
    """Median over `width` neighbors; at the ends over those that there are."""
    half = width // 2
    padded = torch.nn.functional.pad(line, (half, half), value=math.nan)
    return padded.unfold(-1, width, 1).nanmedian(-1).values


# ---- center of rotation ----------------------------------------------------------------------------------------------


def moments(values: Tensor, angles: Sequence[float]) -> tuple[float, float]:
    """The axis in bins by the center of mass c(a) = axis + x cos a + y sin a of parallel views, and the share of the
    variance of c that this explains: the first condition of Helgason and Ludwig.
    """
    at = torch.arange(values.shape[-1], dtype=torch.float64, device="cpu")
    mass = values.double().sum(-1)
    if not bool((mass > 0).all()):
        return math.nan, math.nan
    found = (values.double() * at).sum(-1) / mass
    a = torch.tensor(angles, dtype=torch.float64, device="cpu")
    design = torch.stack([torch.ones_like(a), a.cos(), a.sin()], 1)
    solution = torch.linalg.lstsq(design, found[:, None]).solution[:, 0]
    rest = found - design @ solution
    spread = (found - found.mean()).square().sum()
    return float(solution[0]), float(1 - rest.square().sum() / spread) if spread > 0 else 1.0


def find_center(values: Tensor, angles: Sequence[float], *, reach: float = 0.15) -> Center:
    """The axis of rotation of parallel views `(views, bins)` that cover half a turn.

    Two views half a turn apart are mirror images: p(s, a + pi) = p(-s, a).  The axis is the middle of the mirror for
    which the two views nearest to half a turn (the first one turned by what is missing, linearly) differ least, found
    to a hundredth of a bin by Fourier shifts within `reach` of the width round the middle.  The center of mass gives a
    second value, and says how consistent the angles are.

    Raises `InputError` for views that do not come within 5 degrees of half a turn.
    """
    a = torch.tensor(angles, dtype=torch.float64, device="cpu")
    gap = ((a[:, None] - a[None, :]).abs() - math.pi).abs()
    first, second = divmod(int(gap.argmin()), len(a))
    if float(gap.min()) > math.radians(5):
        found = f"no two views closer to half a turn than {180 - math.degrees(float(gap.min())):.0f} degrees"
        hint = "Give the center in bins."
        raise InputError("center", found, "views that cover 180 degrees, to find the axis in", hint)
    first, second = sorted((first, second), key=lambda v: float(a[v]))
    one, other = _turned(values.double(), a, first, float(a[second]) - math.pi), values[second].double()
    bins = len(one)
    coarse = torch.arange(-int(reach * bins), int(reach * bins) + 1, dtype=torch.float64, device="cpu")
    shift = _best(one, other, 2 * coarse)
    for step in (0.25, 0.02):
        near = torch.arange(-8, 9, dtype=torch.float64, device="cpu") * step
        shift = _best(one, other, shift + 2 * near)
    by_moments, explained = moments(values, angles)
    return Center((bins - 1) / 2 + shift / 2, by_moments, explained)


def _turned(values: Tensor, angles: Tensor, view: int, wanted: float) -> Tensor:
    """The view at an angle near that of `view`, by the line through it and its nearest neighbor in angle."""
    gaps = (angles - angles[view]).abs()
    gaps[gaps == 0] = math.inf
    near = int(gaps.argmin())
    step = float(angles[near] - angles[view])
    share = (wanted - float(angles[view])) / step if abs(step) < math.radians(5) else 0.0
    return values[view] + share * (values[near] - values[view])


def _best(one: Tensor, other: Tensor, shifts: Tensor) -> float:
    """The shift of the mirrored second view by which it resembles the first most, over the bins that both have."""
    bins = len(one)
    n = 2 ** math.ceil(math.log2(2 * bins))
    wave = torch.fft.rfft(other.flip(0), n)
    k = torch.fft.rfftfreq(n, dtype=torch.float64, device="cpu")
    at = torch.arange(bins, dtype=torch.float64, device="cpu")
    errors = []
    for shift in shifts.tolist():
        moved = torch.fft.irfft(wave * torch.polar(torch.ones_like(k), -2 * math.pi * k * shift), n)[:bins]
        shared = (at - shift >= 0) & (at - shift <= bins - 1)
        errors.append(float((one - moved)[shared].square().mean()))
    return float(shifts[min(range(len(errors)), key=errors.__getitem__)])


# ---- noise -----------------------------------------------------------------------------------------------------------


def noise_level(values: Tensor, axes: Sequence[int] = (-1,)) -> float:
    """The deviation of white noise by the median of |second differences| along `axes`, / (0.6745 sqrt(6)^n).

    For data that change slowly from sample to sample; edges are in the minority and do not count.  Complex values give
    the deviation of a real component.
    """
    parts = [values.real, values.imag] if values.is_complex() else [values]
    found = []
    for part in parts:
        difference = part.double()
        for axis in axes:
            difference = difference.diff(n=2, dim=axis)
        found.append(float(difference.abs().median()) / (0.6745 * math.sqrt(6) ** len(axes)))
    return sum(found) / len(found)
