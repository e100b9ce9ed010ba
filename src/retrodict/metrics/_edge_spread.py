"""From samples of an edge spread to an MTF: shading, bins, derivative, window, transform and bands."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.metrics._resolution import Resolution, few, spread_of, summarize, weights, window_of

__all__ = ["Edge", "resolve"]


@dataclass(frozen=True)
class Edge:
    """Samples of an edge spread: distance (px), value, bootstrap unit, and place (row, column) `(n, 2)` of each."""

    distance: Tensor
    value: Tensor
    unit: Tensor
    place: Tensor
    half: float
    oversampling: int
    window: str

    def surfaces(self, degree: int) -> Tensor:
        """Slow shading `(terms, n)`: row and column, to degree 2 their products too; 1 at the border."""
        low, high = self.place.amin(0), self.place.amax(0)
        row, column = ((self.place - (low + high) / 2) / ((high - low) / 2).clamp_min(1.0)).double().unbind(-1)
        terms = [row, column, row * row, row * column, column * column]
        return torch.stack(terms)[: (0, 2, 5)[degree]]

    def tables(self, surfaces: Tensor) -> Tensor:
        """Sums per unit and bin `(units, 3 + terms, bins)`: value, distance from the middle of the bin, 1, surfaces."""
        over, half = self.oversampling, self.half + 1
        bins = int(2 * half * over) + 1
        place = ((self.distance + half) * over + 0.5).floor().long()
        ok = (place >= 0) & (place < bins)
        _, unit = self.unit.unique(return_inverse=True)
        flat, size = (unit * bins + place)[ok], (int(unit.max()) + 1) * bins
        off = (self.distance[ok] + half) * over - place[ok]
        sums = (torch.bincount(flat, w, size) for w in (self.value[ok], off, torch.ones_like(off), *surfaces[:, ok]))
        return torch.stack([s.reshape(-1, bins) for s in sums], 1)

    def normals(self, surfaces: Tensor, beyond: float) -> tuple[Tensor, Tensor]:
        """Per unit, normal equations `(units, p, p)`, `(units, p)` of level, step and surfaces beside the edge."""
        out = self.distance.abs() > beyond
        step = torch.where(self.distance > 0, 0.5, -0.5)
        design = torch.stack([torch.ones_like(self.distance), step, *surfaces], 1)[out]
        _, unit = self.unit.unique(return_inverse=True)
        units, p = int(unit.max()) + 1, design.shape[1]
        left = torch.zeros(units, p, p, dtype=torch.float64, device="cpu")
        right = torch.zeros(units, p, dtype=torch.float64, device="cpu")
        left.index_add_(0, unit[out], design[:, :, None] * design[:, None, :])
        right.index_add_(0, unit[out], design * self.value[out, None])
        return left, right


def resolve(edge: Edge, pixel: float, bootstrap: int, seed: int, details: dict[str, Any]) -> Resolution:
    """The MTF of an edge spread, with bands over its units."""
    rough = edge.tables(edge.surfaces(0))
    _not_clipped(edge)
    sigma = min(_transform(_profile(rough.sum(0)), replace(edge, window="tukey"), pixel)[2], edge.half / 5)
    beyond = max(0.4 * edge.half, 4 * sigma)  # where the edge itself has ended
    degree = _shading(edge, beyond)
    surfaces = edge.surfaces(degree)
    tables, (left, right) = edge.tables(surfaces), edge.normals(surfaces, beyond)
    units = len(tables)

    def spread(weight: Tensor) -> tuple[Tensor, Tensor]:
        """Edge spread for the weights of the units, and the coefficients of level, step and shading."""
        fit = torch.linalg.lstsq(torch.einsum("u,upq->pq", weight, left), weight @ right).solution
        table = torch.einsum("u,utb->tb", weight, tables)
        return _profile(torch.stack([table[0] - fit[2:] @ table[3:], table[1], table[2]])), fit

    esf, fit = spread(torch.ones(units, dtype=torch.float64, device="cpu"))
    flat = replace(edge, value=edge.value - fit[2:] @ surfaces)
    contrast, noise = _sides(flat)
    _stands_out(contrast, noise, float(rough[:, 2].sum(0).mean()))
    edge = _with_window(edge, esf, pixel)
    frequency, value, sigma = _transform(esf, edge, pixel)
    draws = weights(units, bootstrap, seed)
    curves = torch.stack([_transform(spread(w)[0], edge, pixel)[1] for w in draws])
    details |= {"half_width_px": edge.half, "window": edge.window, "sigma_lsf_px": sigma, "bootstrap_units": units}
    shade = fit[2:] @ surfaces
    details |= {"shading": ("none", "plane", "surface")[degree], "shading_range": float(shade.max() - shade.min())}
    return summarize(frequency, value, value + (curves - value) * few(units), contrast, noise, details)


def _shading(edge: Edge, beyond: float) -> int:
    """Degree of the shading that is there beyond chance (1 in 100 for white noise, more for colored): 0, 1 or 2.

    A slope that is not there triples the error of the step between the sides, which divides the whole curve.
    """
    for degree, terms, limit in ((2, 3, 11.3), (1, 2, 9.2)):  # quantiles of chi^2
        if degree == 2 and beyond > 0.6 * edge.half:  # a narrow rest does not bear a curvature
            continue
        surfaces = edge.surfaces(degree)
        left, right = (part.sum(0) for part in edge.normals(surfaces, beyond))
        inverse = torch.linalg.pinv(left, hermitian=True)
        fit, out = inverse @ right, edge.distance.abs() > beyond
        step = torch.where(edge.distance[out] > 0, 0.5, -0.5)
        residual = edge.value[out] - fit[0] - fit[1] * step - fit[2:] @ surfaces[:, out]
        bend, covariance = fit[-terms:], inverse[-terms:, -terms:] * residual.var()
        if float(bend @ torch.linalg.pinv(covariance, hermitian=True) @ bend) > limit:
            return degree
    return 0


def _stands_out(contrast: float, noise: float, per_bin: float) -> None:
    if contrast == 0 or abs(contrast) < 3 * noise / math.sqrt(max(per_bin, 1.0)):
        found = f"a contrast of {contrast:.3g} in noise of {noise:.3g}"
        raise InputError("edge", found, "a step well above the noise", "Average more slices or rows.")


def _profile(table: Tensor) -> Tensor:
    """Edge spread at the middles of the bins from (3, bins): means sit at the mean distance of their pixels, not at the
    middle of the bin (the rows of a tilted edge do not fill bins evenly; taking them to would add 1 % at Nyquist).
    """
    total, off, count = table
    filled = count > 0
    size = torch.where(filled, count, 1.0)  # counts are weights: below 1 too
    x = torch.arange(len(count), dtype=torch.float64, device="cpu")
    known, mean = (x + off / size)[filled].contiguous(), (total / size)[filled]
    right = torch.searchsorted(known, x).clamp(1, len(known) - 1)
    a, b = known[right - 1], known[right]
    part = (x - a) / (b - a)
    return mean[right - 1] * (1 - part) + mean[right] * part


def _beside(edge: Edge) -> tuple[Tensor, Tensor]:
    """Masks of the outer parts of both sides."""
    masks = edge.distance < -0.6 * edge.half, edge.distance > 0.6 * edge.half
    sizes = [int(m.sum()) for m in masks]
    if min(sizes) < 10:
        raise InputError("edge", f"{sizes[0]} and {sizes[1]} pixels on its sides", "at least 10 on either side")
    return masks


def _not_clipped(edge: Edge) -> None:
    low, high = (edge.value[m] for m in _beside(edge))
    contrast = float(high.mean() - low.mean())
    for side in (low, high):
        share = max(float((side == side.min()).double().mean()), float((side == side.max()).double().mean()))
        if share > 0.05 and float(side.std()) > 1e-3 * abs(contrast):  # without noise all are equal, and rightly
            found = f"{share:.0%} of the pixels of one side at one extreme value: saturated or clipped"
            hint = "Read the image without clipping, or use a softer edge."
            raise InputError("edge", found, "values that are not cut off", hint)


def _sides(edge: Edge) -> tuple[float, float]:
    """Contrast and noise per pixel from the outer parts of both sides, which must be uniform."""
    masks = _beside(edge)
    low, high = (edge.value[m] for m in masks)
    contrast = float(high.mean() - low.mean())
    for mask, side in zip(masks, (low, high), strict=True):
        _, unit = edge.unit[mask].unique(return_inverse=True)
        count = torch.bincount(unit).double()
        means = torch.bincount(unit, side) / count
        drift, noise = float(means.std()), float(side.std()) / math.sqrt(float(count.mean()))
        if drift > 0.1 * abs(contrast) and drift > 2 * noise:
            found = f"a side whose mean varies by {drift:.3g} from place to place, at a contrast of {contrast:.3g}"
            hint = "Something else is there: use a smaller half width or another region."
            raise InputError("edge", found, "uniform material on both sides", hint)
    return contrast, math.sqrt(0.5 * float(low.var() + high.var()))


def _transform(esf: Tensor, edge: Edge, pixel: float) -> tuple[Tensor, Tensor, float]:
    """(frequency in cycles/mm up to Nyquist, MTF, standard deviation of the LSF in px) of an edge spread."""
    over = edge.oversampling
    lsf = 0.5 * over * (esf[2:] - esf[:-2])
    x = (torch.arange(len(lsf), dtype=torch.float64, device="cpu") + 1) / over - (edge.half + 1)
    mass = float(lsf.sum())
    lsf = lsf * math.copysign(1.0, mass)
    near = x.abs() < min(edge.half, 12.0)
    weight = (lsf * near).clamp_min(0)
    middle = float((weight * x).sum() / weight.sum().clamp_min(1e-300))
    taper = window_of(x - middle * (abs(middle) < 1), edge.half, edge.window)
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
    return nodes / pixel, value, spread_of(frequency=nodes, value=value)


def _with_window(edge: Edge, esf: Tensor, pixel: float) -> Edge:
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
