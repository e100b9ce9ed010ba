"""Factors on a predicted error variance, measured on held-out data: by noise level and by frequency."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from retrodict.bases import Basis
from retrodict.processes.observation import ratio

__all__ = ["SpectrumScale", "SpreadScale", "hats"]


def hats(nodes: Sequence[float], at: Tensor) -> Tensor:
    """Weights `(n, *at)` of linear interpolation between rising nodes, constant beyond them; they sum to 1."""
    place = torch.tensor(list(nodes), dtype=torch.float64, device=at.device)
    query = torch.minimum(torch.maximum(at.double(), place[0]), place[-1]).contiguous()
    left = (torch.searchsorted(place, query, right=True) - 1).clamp(0, len(place) - 2)
    part = (query - place[left]) / (place[left + 1] - place[left])
    out = torch.zeros(len(place), *at.shape, dtype=torch.float64, device=at.device)
    return out.scatter_(0, left[None], (1 - part)[None]).scatter_(0, left[None] + 1, part[None])


@dataclass(frozen=True)
class SpectrumScale:
    """Factors on the spectrum v of the error of a Wiener filter, by frequency and by how little is known there.

    `radius` (n,): |f| in units of the Nyquist frequency of the finest axis.  `unknown` (m,): v over the power of the
    data, 0 where the observation tells all and 1 where it tells nothing.  `factor` (n, m), linear between.
    """

    radius: tuple[float, ...]
    unknown: tuple[float, ...]
    factor: tuple[tuple[float, ...], ...]

    def at(self, unknown: Tensor, basis: Basis) -> Tensor:
        """Factors where `unknown` of the data is not known, `(..., *K)`."""
        table = torch.tensor(self.factor, dtype=torch.float64, device=unknown.device)
        radius = hats(self.radius, basis.radius() * 2 * min(basis.spacing))
        across = torch.einsum("nm,n...->m...", table, radius)
        parts = [weight * row for weight, row in zip(hats(self.unknown, unknown), across, strict=True)]
        return torch.stack(parts).sum(0)


@dataclass(frozen=True)
class IntensityScale:
    """Factors on the error variance of a pixel by what the denoised image shows there: bone errs more than it says.

    `intensity` (n,) rising, in model units; `factor` (n,).  Linear in intensity and log factor between nodes, constant
    beyond them.  A function of the answer and not of the truth, so it is known where it is used.
    """

    intensity: tuple[float, ...]
    factor: tuple[float, ...]

    def log_at(self, image: Tensor) -> Tensor:
        """Log of the factors at every pixel of a real image, of its shape, float64."""
        values = torch.tensor(self.factor, dtype=torch.float64, device=image.device).log()
        return torch.einsum("n...,n->...", hats(self.intensity, image), values)


@dataclass(frozen=True)
class SpreadScale:
    """Factors on the predicted error variance, measured on held-out data: one per level and band.

    `level` (n,) rising, the noise level log(c_out / std) that the network sees; `factor` (n, bands).  Linear in level
    and log factor between nodes, constant beyond them.  `spectrum`, where there is one, is multiplied to
    them: it says how the error of one level is spread over the frequencies of a band.  `border`: factors on what one
    call says of the outermost pixel, the next, and so on; a margin that nobody measured misleads a network there.
    `margin`: the deviation of the margins that are drawn, over that of their Gaussian law: a network takes the texture
    of a Gaussian margin for what it sees, and errs more for it than for what goes on beyond a real image.
    `intensity`, where there is one, is multiplied to all of them, pixel by pixel.
    """

    level: tuple[float, ...]
    factor: tuple[tuple[float, ...], ...]
    spectrum: SpectrumScale | None = None
    border: tuple[float, ...] = ()
    margin: float = 1.0
    intensity: IntensityScale | None = None

    def log_at(self, level: Tensor) -> Tensor:
        """Log of the factors at levels `(B,)` -> `(B, bands)`."""
        values = torch.tensor(self.factor, dtype=torch.float64, device=level.device).log()
        return torch.einsum("nb,na->ba", hats(self.level, level), values)

    def local(self, log_ratio: Tensor, shift: Tensor, image: Tensor) -> Tensor:
        """Log-ratios `(B, bands, C, *N)` with the factors: `shift` that of the level, and that of the denoised `image`
        `(B, C, *N)`.
        """
        log_ratio = log_ratio + shift.to(log_ratio)
        if self.intensity is None or image.is_complex():
            return log_ratio
        return log_ratio + self.intensity.log_at(image).to(log_ratio)[:, None]

    def variances(self, v: Tensor, power: Tensor, basis: Basis) -> Tensor:
        """The spectrum of the error, v `(B|1, C|1, *K)`, as held-out data have it; power is that of the data."""
        if self.spectrum is None:
            return v
        return v * self.spectrum.at(ratio(v, power.expand_as(v), otherwise=1.0), basis)

    @staticmethod
    def from_json(record: Any, bands: int) -> SpreadScale:
        """From what `dataclasses.asdict` made of it; `ValueError` says what does not fit."""
        try:
            level, factor = _row(record["level"]), _table(record["factor"])
            spectrum, border = record.get("spectrum"), _row(record.get("border") or ())
            margin, tissue = float(record.get("margin", 1.0)), record.get("intensity")
            tissue = tissue and IntensityScale(_row(tissue["intensity"]), _row(tissue["factor"]))
            shape = spectrum and SpectrumScale(
                _row(spectrum["radius"]), _row(spectrum["unknown"]), _table(spectrum["factor"])
            )
        except (AttributeError, KeyError, TypeError, OverflowError) as error:
            raise ValueError("level and factor") from error
        _check(level, factor, bands)
        if shape:
            _check(shape.radius, shape.factor, len(shape.unknown))
            _check(shape.unknown, shape.factor[:1] * len(shape.unknown), len(shape.unknown))
        if tissue:
            _check(tissue.intensity, tuple((x,) for x in tissue.factor), 1)
        if not all(0 < x < math.inf for x in border):
            raise ValueError("positive factors at the border")
        if not 0 <= margin < math.inf:
            raise ValueError("a factor on the margin that is not negative")
        return SpreadScale(level, factor, shape or None, border, margin, tissue or None)


def _row(values: Any) -> tuple[float, ...]:
    return tuple(map(float, values))


def _table(rows: Any) -> tuple[tuple[float, ...], ...]:
    return tuple(map(_row, rows))


def _check(nodes: tuple[float, ...], factor: tuple[tuple[float, ...], ...], columns: int) -> None:
    every = [x for row in factor for x in row]
    rising = all(b > a for a, b in pairwise(nodes))
    if not rising or not all(map(math.isfinite, (*nodes, *every))) or min(every, default=1.0) <= 0:
        raise ValueError("nodes that rise and positive factors")
    if len(nodes) < 2 or len(factor) != len(nodes) or any(len(row) != columns for row in factor):
        raise ValueError(f"{columns} factors per node, and at least two nodes")
