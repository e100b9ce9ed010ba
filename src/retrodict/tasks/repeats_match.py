"""Whether two scans are repeats of one object: by what their files say, and by what their difference holds.

The difference of two scans has no object in it, whatever the prior: it is the noise of both, or they are no repeats.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pydicom
import torch
from pydicom.errors import InvalidDicomError
from torch import Tensor

from retrodict._check import InputError
from retrodict.data import Image, acquisition
from retrodict.metrics.predictive import TiledRatio, tiled_ratio
from retrodict.tasks.repeats_law import TILE, Laws, Place

__all__ = ["ODD", "Difference", "Pair", "differences", "refuse_other_files", "refuse_other_places"]


SHIFT, SURE = 0.1, 4.0
"""Pixels that a scan may have moved, and standard errors beyond which it has."""


ODD = 1e-4
"""Probability of a tile in true repeats below which it says that the object moved or changed."""


LIKE = 0.5
"""Share of the expected correlation of two scans below which they show two objects."""


# ---- what the files say --------------------------------------------------------------------------------------------


def refuse_other_files(images: Sequence[tuple[str, Image]], *, own_blur: bool) -> None:
    """Raise `InputError` for scans that cannot be repeats of the first, by grid, unit, spacing, pixels or header.

    `own_blur`: the MTF of the repeats was given, so that another kernel is theirs to have.
    """
    (_, first), *others = images
    for name, image in others:
        _refuse_grid(name, image, first)
        if torch.equal(image.values, first.values):
            raise InputError(name, "the pixels of scan 1 once more", "a second scan, with noise of its own")
        _refuse_header(name, image, first, own_blur)


def _refuse_grid(name: str, image: Image, first: Image) -> None:
    pairs: list[tuple[str, Any, Any]] = [
        ("{} pixels", tuple(image.values.shape[1:]), tuple(first.values.shape[1:])),
        ("values in {!r}", image.unit, first.unit),
        ("channels {}", image.channels, first.channels),
    ]
    for words, found, wanted in pairs:
        if found != wanted:
            raise InputError(name, words.format(found), f"{words.format(wanted)}, as scan 1")
    spacing = list(zip(image.spacing[-2:], first.spacing[-2:], strict=True))
    if any(abs(a / b - 1) > 1e-3 for a, b in spacing):
        found, wanted = ([f"{s:.5g}" for s in i.spacing[-2:]] for i in (image, first))
        raise InputError(
            name, f"pixels of {' x '.join(found)} mm", f"{' x '.join(wanted)} mm, as scan 1",
            "Reconstruct both scans on one grid.",
        )  # fmt: skip


def _refuse_header(name: str, image: Image, first: Image, own_blur: bool) -> None:
    own, wanted = (_header(i) for i in (image, first))
    if own is None or wanted is None:
        return
    for tag, words in (("PatientID", "patient"), ("Modality", "modality"), ("BodyPartExamined", "body part")):
        a, b = (str(h.get(tag, "") or "") for h in (own, wanted))
        if a and b and a != b:
            found = f"another {words}" + ("" if tag == "PatientID" else f", {a}")
            raise InputError(name, found, f"the {words} of scan 1" + ("" if tag == "PatientID" else f", {b}"))
    _refuse_position(name, own, wanted)
    kernels = [acquisition(i.source[:1]).get("kernel") for i in (image, first)]
    if all(kernels) and kernels[0] != kernels[1] and not own_blur:
        raise InputError(
            name, f"kernel {kernels[0]}", f"{kernels[1]}, the kernel of scan 1",
            "A kernel has an MTF and an NPS: give {repeat_mtf} and {repeat_nps}.", repeat_mtf=..., repeat_nps=...,
        )  # fmt: skip


def _refuse_position(name: str, own: Any, wanted: Any) -> None:
    """In one frame of reference, slices stand where they stand."""
    if own.get("FrameOfReferenceUID") != wanted.get("FrameOfReferenceUID"):
        return
    try:
        a, b = ([float(v) for v in h.get("ImagePositionPatient") or ()] for h in (own, wanted))
    except (TypeError, ValueError):
        return
    if len(a) == len(b) == 3 and math.dist(a, b) > 0.5:
        raise InputError(name, f"a first slice {math.dist(a, b):.3g} mm away", "the position of scan 1")


def _header(image: Image) -> Any:
    if not image.format.startswith("dicom") or not image.source:
        return None
    tags = ["PatientID", "Modality", "BodyPartExamined", "FrameOfReferenceUID", "ImagePositionPatient"]
    try:
        return pydicom.dcmread(Path(image.source[0]), stop_before_pixels=True, specific_tags=tags)
    except (OSError, InvalidDicomError):
        return None


# ---- what their difference holds ------------------------------------------------------------------------------------


class Spot(NamedTuple):
    """Slice, row and column of the middle of a tile, the power of the difference there over that of its noise in the
    band where it is least like it, and the probability of such a tile anywhere in true repeats.
    """

    slice: int
    row: int
    column: int
    times_noise: float
    p_value: float


@dataclass(frozen=True)
class Difference:
    """Power of the difference over that of the noise of both, band by band, and the place of the worst tile.

    `content`: power of the blurred data over that of the noise, from the prior's spectrum.
    """

    ratios: tuple[TiledRatio, ...]
    content: tuple[float, ...]
    worst: Spot

    def to_json(self) -> dict[str, Any]:
        """Plain record."""
        return {
            "ratio": [r.value for r in self.ratios],
            "error": [r.error for r in self.ratios],
            "p_value": [r.p_value for r in self.ratios],
            "content": list(self.content),
            "worst_tile": self.worst._asdict(),
        }


class Pair(NamedTuple):
    """Slices `(Z, H, W)` of two scans in model units, where they are looked at, and the prior `(*K)` of the data."""

    y1: Tensor
    y2: Tensor
    seen: Tensor
    mean: Tensor
    variance: Tensor


def differences(laws: Laws, pair: Pair, known: Tensor | None = None) -> Difference:
    """The difference of two scans against the law of their noise, less what of it is `known` `(Z, H, W)`."""
    a, b, noise = laws.difference_law()
    one = laws.law(1)
    observed: list[list[Tensor]] = [[] for _ in laws.filters]
    counts: list[Tensor] = []
    for z, (y1, y2, seen) in enumerate(zip(pair.y1, pair.y2, pair.seen, strict=True)):
        place = Place.of(seen)
        d = a * laws.coefficients(y2[None]) - b * laws.coefficients(y1[None])
        d = d if known is None else d - laws.coefficients(known[z : z + 1])
        counts.append(place.sums(torch.ones_like(y1)))
        for k, f in enumerate(laws.filters):
            observed[k].append(place.sums(laws.pixels(f * d)[0] ** 2))
    count, rows = torch.cat(counts), [torch.cat(o) for o in observed]
    powers = [laws.power(f**2 * noise) for f in laws.filters]
    pixels = int(count.sum())
    errors = [math.sqrt(laws.log_variance(f**2 * noise, pixels)) for f in laws.filters]
    ratios = [tiled_ratio(o, p * count, e) for o, p, e in zip(rows, powers, errors, strict=True)]
    content = [laws.power(f**2 * one.h**2 * pair.variance) / laws.power(f**2 * one.s2) for f in laws.filters]
    return Difference(tuple(ratios), tuple(content), _worst(rows, powers, count, laws, noise))


def _worst(rows: list[Tensor], powers: list[float], count: Tensor, laws: Laws, noise: Tensor) -> Spot:
    """The tile, at least half of it seen, where the difference is least like its noise.

    The power of a tile in a band follows a chi-square law, whose cube root is nearly normal (Wilson and Hilferty 1931).
    """
    full = count >= TILE**2 / 2
    levels, scores = [], []
    for o, p, f in zip(rows, powers, laws.filters, strict=True):
        level = o / (p * count.clamp_min(1))
        width = laws.log_variance(f**2 * noise, TILE**2) / 9  # 2 / (9 degrees of freedom)
        levels.append(level)
        scores.append((level ** (1 / 3) - (1 - width)) / math.sqrt(width))
    score = torch.where(full, torch.stack(scores), -math.inf)
    best = score.amax(0)
    at = int(best.argmax())
    band = int(score[:, at].argmax())
    tiles, wide = laws.tiles
    row, column = divmod(at % (tiles * wide), wide)
    p = 0.5 * math.erfc(float(best[at]) / math.sqrt(2)) * max(1, int(full.sum())) * len(rows)
    middle = TILE // 2
    return Spot(at // (tiles * wide), row * TILE + middle, column * TILE + middle, float(levels[band][at]), min(1.0, p))


def refuse_other_places(laws: Laws, pair: Pair, name: str, spacing: Sequence[float]) -> dict[str, Any]:
    """Raise `InputError` where scan 2 shows another object, or the same at another place; else what was found.

    The place is found twice: by the best overlap within a quarter of the image, and below a pixel by the regression of
    the difference on the gradient of the object, whose error follows from the law of the noise.
    """
    wiener = _wiener(laws, pair)
    far, like, expected = _overlap(laws, pair, wiener)
    if expected > LIKE and like < LIKE * expected:
        found = f"an image that correlates by {like:.2f} with scan 1, where {expected:.2f} is expected"
        raise InputError(name, found, "a second scan of the same object and slice")
    found = _shift(laws, pair, wiener)
    shift, error = found.pixels.tolist(), found.error.tolist()
    moved = any(abs(s) > SHIFT and abs(s) > SURE * e for s, e in zip(shift, error, strict=True))
    # a change in one place may look like a shift, which would not explain it
    explained = moved and differences(laws, pair, found.explains).worst.p_value > ODD
    if any(far) or explained:
        by = far if any(far) else shift
        axes = zip(by, spacing, ("down", "to the right"), strict=True)
        words = " and ".join(f"{s * p:.2g} mm {axis}" for s, p, axis in axes)
        raise InputError(
            name, f"the object of scan 1, moved by {words}", "scans of an object that did not move",
            "Register the scans before they are reconstructed, or scan again: interpolation would change the noise.",
        )  # fmt: skip
    return {"shift_px": shift, "shift_error_px": error, "correlation": like, "correlation_expected": expected}


def _wiener(laws: Laws, pair: Pair) -> Tensor:
    """h_1 times the linear estimate of the object from scan 1, coefficients `(Z, *K)`."""
    m = laws.law(1)
    total = m.h**2 * pair.variance + m.s2
    gain = torch.where(total > 0, m.h * pair.variance / total, 0.0)
    center = m.h * pair.mean
    return m.h * (pair.mean + gain * (laws.coefficients(pair.y1) - center))


def _overlap(laws: Laws, pair: Pair, wiener: Tensor) -> tuple[tuple[int, int], float, float]:
    """Whole pixels by which scan 2 has moved, its correlation with scan 1 there, and that of true repeats."""
    one, two = laws.law(1), laws.law(2)
    total = one.h**2 * pair.variance + one.s2
    low = torch.where(total > 0, one.h**2 * pair.variance / total, 0.0)  # where the object is stronger than the noise
    a, b = (_centered(laws.pixels(low * laws.coefficients(y)), pair.seen) for y in (pair.y1, pair.y2))
    noise = [laws.power(low**2 * law.s2) for law in (one, two)]
    free = [max(0.0, 1 - n / max(_power(x, pair.seen), 1e-300)) for n, x in zip(noise, (a, b), strict=True)]
    at, still = _peak(a, b), _correlation(a, b, pair.seen)
    moved = _correlation(a, torch.roll(b, (-at[0], -at[1]), (-2, -1)), pair.seen)
    if moved > still + 0.05 and moved > LIKE:
        return at, moved, math.sqrt(free[0] * free[1])
    return (0, 0), still, math.sqrt(free[0] * free[1])


def _centered(x: Tensor, seen: Tensor) -> Tensor:
    weight = seen.double()
    middle = (x * weight).sum((-2, -1), keepdim=True) / weight.sum((-2, -1), keepdim=True).clamp_min(1)
    return (x - middle) * weight


def _power(x: Tensor, seen: Tensor) -> float:
    return float((x * seen).square().sum() / seen.sum().clamp_min(1))


def _correlation(a: Tensor, b: Tensor, seen: Tensor) -> float:
    both = [_centered(x, seen) for x in (a, b)]
    under = math.sqrt(float(both[0].square().sum()) * float(both[1].square().sum()))
    return float((both[0] * both[1]).sum()) / under if under > 0 else 0.0


def _peak(a: Tensor, b: Tensor) -> tuple[int, int]:
    """Shift in pixels, at most a quarter of the image, with the largest overlap of the gradients."""
    rows, columns = (torch.fft.fftfreq(n, dtype=torch.float64, device="cpu") for n in a.shape[-2:])
    weight = rows[:, None] ** 2 + columns[None] ** 2
    overlap = torch.fft.ifft2(weight * torch.fft.fft2(a).conj() * torch.fft.fft2(b)).real.sum(0)
    far = [(torch.fft.fftfreq(n, 1 / n, device="cpu").abs() > n / 4) for n in a.shape[-2:]]
    overlap = overlap.masked_fill(far[0][:, None] | far[1][None], -math.inf)
    row, column = divmod(int(overlap.argmax()), overlap.shape[1])
    signed = [k - n if k > n // 2 else k for k, n in zip((row, column), overlap.shape, strict=True)]
    return signed[0], signed[1]


class Shift(NamedTuple):
    """Shift `(2,)` in pixels, its standard error, and what it explains of the difference `(Z, H, W)`."""

    pixels: Tensor
    error: Tensor
    explains: Tensor


def _shift(laws: Laws, pair: Pair, wiener: Tensor) -> Shift:
    """Least squares of y_2 - y_1 = -shift . gradient + noise."""
    a, b, noise = laws.difference_law()
    d = laws.pixels(a * laws.coefficients(pair.y2) - b * laws.coefficients(pair.y1))
    clean = laws.pixels(a * wiener) if laws.same_blur else laws.pixels(laws.law(2).h * wiener)
    slopes = torch.stack(torch.gradient(clean, dim=(-2, -1)), 1)
    g = slopes * pair.seen[:, None]
    normal = torch.einsum("ziyx,zjyx->ij", g, g)
    field = laws.pixels_of_noise(g, noise)
    middle = torch.einsum("ziyx,zjyx->ij", field, g)
    if float(torch.linalg.matrix_rank(normal)) < 2:  # nothing that could be seen to move
        none = torch.zeros(2, dtype=torch.float64, device="cpu")
        return Shift(none, none + math.inf, torch.zeros_like(d))
    inverse = torch.linalg.inv(normal)
    found = -inverse @ torch.einsum("ziyx,zyx->i", g, d)
    error = (inverse @ middle @ inverse).diagonal().sqrt()
    return Shift(found, error, -torch.einsum("ziyx,i->zyx", slopes, found))
