"""The power spectrum of the data: the mean and the variance of every coefficient, in model units.

It is a first-class, stored quantity: the Wiener filter of a process, its exact-in-the-Gaussian-part rules and the
Gaussian card all follow from it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.bases import Basis, Fourier, Wavelet
from retrodict.bases.bands import Band, named

__all__ = ["BandSpectrum", "Spectrum", "band_spectrum", "channel_spectrum", "density_spectrum", "radial_spectrum"]


@dataclass(frozen=True)
class Spectrum:
    """Mean of the data and isotropic variance per real degree of freedom over |f|, in model units.

    `frequency` (n,) in cycles/mm, rising and positive; `power` (n,) > 0.  Between nodes the power law is interpolated
    (linear in log-log); below the first node it is continued with its first slope, above the last it is constant.
    For data of several channels `mean` (C,) and `power` (C, n) have one entry or row for each; channels are taken as
    uncorrelated.  Correlated ones are rotated by their basis (`ChannelMix`): rows of `power` are then those of the
    rotated channels, entries of `mean` still those of the image.

    A finer grid spreads the same image over more coefficients.  `volume` is the pixel volume (mm^n) that `power` holds
    for: on a grid of another spacing L = power * volume / (its pixel volume), the same density for each.  None: `power`
    is that of every grid.
    """

    mean: float | tuple[float, ...]
    frequency: tuple[float, ...]
    power: tuple[float, ...] | tuple[tuple[float, ...], ...]
    volume: float | None = None

    @classmethod
    def flat(cls, mean: float = 0.0, variance: float = 1.0) -> Spectrum:
        """White data N(mean, variance)."""
        return cls(mean, (1e-3, 10.0), (variance, variance))

    @classmethod
    def power_law(cls, mean: float, amplitude: float, corner: float, exponent: float) -> Spectrum:
        """L(f) = amplitude / (1 + (f / corner)^2)^(exponent / 2)."""
        nodes = torch.logspace(-4, 1, 200, dtype=torch.float64, device="cpu")
        power = amplitude / (1 + (nodes / corner) ** 2) ** (exponent / 2)
        return cls(mean, tuple(nodes.tolist()), tuple(power.tolist()))

    @classmethod
    def stack(cls, parts: Sequence[Spectrum]) -> Spectrum:
        """One spectrum for each channel; all on the same frequencies."""
        if len({part.frequency for part in parts}) != 1:
            raise InputError("Spectrum.stack", "spectra on different frequencies", "the same frequencies")
        means = tuple(float(part.mean) for part in parts)  # type: ignore[arg-type]
        return cls(means, parts[0].frequency, tuple(part.power for part in parts))  # type: ignore[arg-type]

    @property
    def channels(self) -> int | None:
        """Number of channels, or None where one row stands for any."""
        return None if isinstance(self.mean, float | int) else len(self.mean)

    def on(self, basis: Basis) -> Tensor:
        """Variance L of every coefficient, `(*K)` or `(C, *K)` float64; the average over frequencies for pixels."""
        scale = 1.0 if self.volume is None else self.volume / math.prod(basis.spacing)
        return basis.tabulate(self._interpolate) * scale

    def mean_on(self, basis: Basis) -> Tensor:
        """Coefficients of the constant image `mean`, `(*K)` or `(C, *K)`."""
        mean = self.mean_image(basis)
        lead = mean.shape[: mean.ndim - basis.ndim] or (() if basis.channels is None else (basis.channels,))
        mean = mean.expand(*lead, *basis.size).contiguous()
        return basis.forward(mean.to(torch.complex128) if basis.complex else mean)

    def mean_image(self, basis: Basis) -> Tensor:
        """The mean, shaped to broadcast over images `(C, *N)`, float64 on the device of the basis."""
        mean = torch.tensor(self.mean, dtype=torch.float64, device="cpu").to(basis.device, non_blocking=True)
        return mean[(..., *[None] * basis.ndim)]

    def _interpolate(self, radius: Tensor) -> Tensor:
        nodes = (torch.tensor(v, dtype=torch.float64, device="cpu").log() for v in (self.frequency, self.power))
        x, y = (v.to(radius.device, non_blocking=True) for v in nodes)
        query = torch.minimum(radius.log(), x[-1])
        left = (torch.searchsorted(x, query, right=True) - 1).clamp(0, len(x) - 2)
        slope = (y[..., left + 1] - y[..., left]) / (x[left + 1] - x[left])
        return (y[..., left] + slope * (query - x[left])).exp()

    def to_json(self) -> dict[str, Any]:
        """Plain record."""
        record = {"mean": _lists(self.mean), "frequency": list(self.frequency), "power": _lists(self.power)}
        return record if self.volume is None else {**record, "volume": self.volume}

    @classmethod
    def from_json(cls, record: Any, where: str) -> Spectrum:
        """Inverse of `to_json`; `where` names the file or field in errors.  One with "wavelet" is a `BandSpectrum`."""
        if isinstance(record, dict) and "wavelet" in record:
            return BandSpectrum._of_record(record, where)
        try:
            volume = record.get("volume")
            spectrum = cls(
                _numbers(record["mean"]),
                tuple(map(float, record["frequency"])),
                _numbers(record["power"]),
                None if volume is None else float(volume),
            )
            spectrum._check(where)
        except InputError:
            raise
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise InputError(where, repr(record)[:80], "a record with mean, frequency and power") from error
        return spectrum

    def _check(self, where: str) -> None:
        rows: Any = (self.power,) if self.channels is None else self.power
        means: Any = (self.mean,) if self.channels is None else self.mean
        if len(means) != len(rows) or not all(isinstance(row, tuple) for row in rows):
            raise InputError(where, "mean and power that do not match", "one mean and one row of power a channel")
        if any(len(row) != len(self.frequency) or len(row) < 2 or min(row) <= 0 for row in rows):
            raise InputError(where, "frequency and power that do not match", "equally many positive values")
        if not all(map(math.isfinite, (*self.frequency, *means, *(v for row in rows for v in row)))):
            raise InputError(where, "NaN or infinity", "finite numbers")
        if self.frequency[0] <= 0 or not all(b > a for a, b in itertools.pairwise(self.frequency)):
            raise InputError(f"{where}.frequency", "frequencies that do not rise", "positive numbers, each larger")
        if self.volume is not None and not 0 < self.volume < math.inf:
            raise InputError(f"{where}: volume", self.volume, "a positive number of mm^n")


@dataclass(frozen=True)
class BandSpectrum(Spectrum):
    """Mean of the data and variance of every band of a wavelet transform, in model units: the statistics of a process
    that is diagonal in that basis.

    `family` and `levels` of the basis; `variances`: one number a band in the order of `retrodict.bases.bands.named`
    (coarse first), or a row for each channel.  On a `Wavelet` basis of this family and these levels, on any grid, `on`
    gives them as they are; another `Wavelet` is refused, and other bases are given the radial spectrum through the mean
    of every level.  The mean is that of the image: it is in the coarse band alone, details have none.
    """

    family: str = "db2"
    levels: tuple[int, ...] = ()
    variances: tuple[float, ...] | tuple[tuple[float, ...], ...] = ()

    @classmethod
    def of(cls, basis: Wavelet, mean: float | Sequence[float], variances: Any) -> BandSpectrum:
        """From numbers: variances `(bands,)` or `(C, bands)` of the bands of `basis.places()`, in their order."""
        table = torch.as_tensor(variances, dtype=torch.float64, device="cpu")
        if table.ndim not in (1, 2) or table.shape[-1] != len(basis.places()):
            wanted = f"one of each of the {len(basis.places())} bands, or a row for each channel"
            raise InputError("BandSpectrum variances", tuple(table.shape), wanted)
        means = float(mean) if isinstance(mean, int | float) else tuple(float(m) for m in mean)
        frequency, power = _through_levels(basis, table)
        values = _numbers(table.tolist())
        spectrum = cls(means, frequency, power, None, basis.family, basis.each, values)
        spectrum._check("BandSpectrum")
        return spectrum

    def on(self, basis: Basis) -> Tensor:
        """Variance of every coefficient, `(*K)` or `(C, *K)` float64."""
        if not isinstance(basis, Wavelet):
            return super().on(basis)
        if (basis.family, basis.each) != (self.family, self.levels):
            found = f"a Wavelet basis of {basis.family!r} with levels {basis.each}"
            raise InputError("BandSpectrum", found, f"the one it was measured in: {self.family!r}, {self.levels}")
        table = torch.tensor(self.variances, dtype=torch.float64, device=basis.device)
        return basis.spread(dict(zip(basis.places(), table.unbind(-1), strict=True)))

    def to_json(self) -> dict[str, Any]:
        """Plain record; the bands by name, such as "2ad"."""
        names = [f"{level}{name}" for level, name in self._bands()]
        rows = [self.variances] if self.channels is None else self.variances
        table = [dict(zip(names, row, strict=True)) for row in rows]  # type: ignore[arg-type]
        wavelet = {"family": self.family, "levels": list(self.levels), "variances": table}
        return {**super().to_json(), "wavelet": wavelet}

    def _bands(self) -> list[Band]:
        return list(named([2**own for own in self.levels], self.levels))

    @classmethod
    def _of_record(cls, record: dict[str, Any], where: str) -> BandSpectrum:
        radial = Spectrum.from_json({k: v for k, v in record.items() if k != "wavelet"}, where)
        try:
            wavelet = record["wavelet"]
            levels = tuple(int(n) for n in wavelet["levels"])
            basis = Wavelet(tuple(2**own for own in levels), levels=levels, family=wavelet["family"])
            names = [f"{level}{name}" for level, name in basis.places()]
            rows = tuple(tuple(float(row[name]) for name in names) for row in wavelet["variances"])
            values = rows[0] if radial.channels is None else rows
            parts = (radial.mean, radial.frequency, radial.power, radial.volume)
            spectrum = cls(*parts, basis.family, levels, values)
        except InputError:
            raise
        except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
            wanted = "family, levels, and a variance of every band for each channel"
            raise InputError(f"{where}.wavelet", repr(record["wavelet"])[:80], wanted) from error
        spectrum._check(where)
        return spectrum

    def _check(self, where: str) -> None:
        super()._check(where)
        rows: Any = (self.variances,) if self.channels is None else self.variances
        count = 1 if self.channels is None else self.channels
        if len(rows) != count or any(not isinstance(r, tuple) or len(r) != len(self._bands()) for r in rows):
            raise InputError(f"{where}.wavelet", "variances that do not match the bands", f"{count} of each band")
        if not all(0 < v < math.inf for row in rows for v in row):
            raise InputError(f"{where}.wavelet", "a variance that is not positive", "positive numbers")


def _through_levels(basis: Wavelet, table: Tensor) -> tuple[tuple[float, ...], Any]:
    """The radial spectrum through the mean variance of every level, lowest frequency first."""
    small = basis.small()
    scale, radius, table = small.band(), small.radius(), table.to("cpu")
    places = dict(zip(small.places(), table.unbind(-1), strict=True))
    spread = small.to("cpu").spread(places)
    masks = [scale.cpu() == level for level in range(basis.depth, -1, -1)]
    frequency = tuple(float(radius.cpu()[mask][0]) for mask in masks)
    return frequency, _numbers(torch.stack([spread[..., mask].mean(-1) for mask in masks], -1).tolist())


def band_spectrum(images: Iterable[Tensor], basis: Wavelet) -> BandSpectrum:
    """Mean and variance of every wavelet band of images `(*N)`, or of each channel of images `(C, *N)`.

    Over all coefficients of a band in all images, in float64, about the mean of all pixels of the channel; images may
    differ in size.  Of complex images the variance is that of a real component, and the mean that of the real part.
    A band that holds next to nothing has 1e-12 of the mean power.

    Raises `InputError` where there is no image, or one whose size the levels do not divide.
    """
    stack = [image.double() if not image.is_complex() else image.to(torch.complex128) for image in images]
    if not stack:
        raise InputError("band_spectrum", "no images", "at least one")
    plain = stack[0].ndim == basis.ndim
    rows = [image[None] if plain else image for image in stack]
    if any(image.ndim != basis.ndim + 1 or len(image) != len(rows[0]) for image in rows):
        found = sorted({tuple(image.shape) for image in stack})
        raise InputError("band_spectrum", found, f"images of {basis.ndim} axes, or all with equally many channels")
    axes = tuple(range(1, basis.ndim + 1))
    mean = sum(image.real.sum(axes) for image in rows) / sum(image[0].numel() for image in rows)
    assert isinstance(mean, Tensor)
    energy: dict[Band, Tensor] = {}
    count: dict[Band, int] = {}
    for image in rows:
        own = replace(basis.on(tuple(image.shape[1:])).to(image.device), complex=image.is_complex())
        u = own.forward(image - mean[(..., *[None] * basis.ndim)])
        for band, part in own.split(own.energy(u)).items():
            energy[band] = energy.get(band, 0.0) + part.sum(axes)
            count[band] = count.get(band, 0) + part[0].numel()
    table = torch.stack([energy[band] / count[band] for band in basis.places()], -1).cpu()
    weight = torch.tensor([count[band] for band in basis.places()], dtype=torch.float64, device="cpu")
    power = (table * weight).sum(-1, keepdim=True) / weight.sum()
    table = torch.maximum(table, 1e-12 * torch.where(power > 0, power, 1.0))
    single = len(mean) == 1
    means = float(mean[0]) if single else mean.tolist()
    return BandSpectrum.of(basis, means, table[0] if single else table)


def _lists(value: Any) -> Any:
    return [_lists(v) for v in value] if isinstance(value, tuple) else value


def _numbers(value: Any) -> Any:
    return tuple(_numbers(v) for v in value) if isinstance(value, list | tuple) else float(value)


def radial_spectrum(images: Iterable[Tensor], spacing: Sequence[float], bins: int = 32) -> Spectrum:
    """Estimate a `Spectrum` from images `(*N)` of equal spacing, in the unit of the images.

    The periodogram of each image minus the common mean, under a Hann window (so that the periodic seam does not leak
    into high frequencies), averaged over logarithmic annuli and over images with their numbers of coefficients.
    """
    stack = list(images)
    if not stack:
        raise InputError("radial_spectrum", "no images", "at least one")
    if any(image.is_complex() for image in stack):
        raise InputError("radial_spectrum", "complex images", "real ones", "channel_spectrum takes complex ones.")
    stack = [image.double() for image in stack]
    mean = float(sum(float(x.sum()) for x in stack) / sum(x.numel() for x in stack))
    edges = annuli([tuple(x.shape) for x in stack], spacing, bins)
    power, radius, count = torch.zeros(3, bins, dtype=torch.float64, device="cpu")
    for image in stack:
        basis = Fourier(tuple(image.shape), tuple(spacing))
        window = hann(image.shape)
        energy = basis.forward((image - mean) * window).abs() ** 2 / (window**2).mean()
        place = torch.bucketize(basis.radius(), edges) - 1
        inside = (place >= 0) & (place < bins)
        weight, place = basis.multiplicity()[inside], place[inside]
        power.index_add_(0, place, weight * energy[inside])
        radius.index_add_(0, place, weight * basis.radius()[inside])
        count.index_add_(0, place, weight)
    kept = count > 0
    floor = 1e-12 * float(power.sum() / count.sum())
    values = (power[kept] / count[kept]).clamp_min(floor)
    return Spectrum(mean, tuple((radius[kept] / count[kept]).tolist()), tuple(values.tolist()))


def density_spectrum(groups: Iterable[Sequence[tuple[Tensor, float]]], bins: int = 40) -> Spectrum:
    """The spectrum of images of several spacings as one density, `Spectrum.volume` = 1 mm^n.

    groups: of each, images `(*N)` and their pixel spacing in mm, equal along all axes; every group (a patient) counts
    once, however many images it has, and the mean is that of all images.  The periodogram under a Hann window, times
    the pixel volume, averaged over logarithmic annuli from half the lowest frequency of the longest image to the corner
    of the finest grid.

    Raises `InputError` where there is no image.
    """
    parts = [[(image.double(), float(spacing)) for image, spacing in group] for group in groups]
    every = [pair for group in parts for pair in group]
    if not every:
        raise InputError("density_spectrum", "no images", "at least one")
    mean = float(sum(image.mean() for image, _ in every) / len(every))
    lowest = 0.5 / max(max(image.shape) * spacing for image, spacing in every)
    highest = 1.02 * max(0.5 * math.sqrt(image.ndim) / spacing for image, spacing in every)
    edges = torch.logspace(math.log10(lowest), math.log10(highest), bins + 1, dtype=torch.float64, device="cpu")
    power, radius, count = torch.zeros(3, bins, dtype=torch.float64, device="cpu")
    for group in parts:
        for image, spacing in group:
            basis, window = Fourier(tuple(image.shape), (spacing,) * image.ndim), hann(image.shape)
            energy = basis.forward((image - mean) * window).abs() ** 2 / (window**2).mean() * spacing**image.ndim
            place = torch.bucketize(basis.radius(), edges) - 1
            inside = (place >= 0) & (place < bins)
            weight, place = basis.multiplicity()[inside] / len(group), place[inside]
            power.index_add_(0, place, weight * energy[inside])
            radius.index_add_(0, place, weight * basis.radius()[inside])
            count.index_add_(0, place, weight)
    kept = count > 0
    values = (power[kept] / count[kept]).clamp_min(1e-12 * float(power.sum() / count.sum()))
    return Spectrum(mean, tuple((radius[kept] / count[kept]).tolist()), tuple(values.tolist()), 1.0)


def channel_spectrum(images: Sequence[Tensor], spacing: Sequence[float], bins: int = 32) -> Spectrum:
    """`radial_spectrum` of images `(C, *N)`: one row for data of one channel, one each for several.

    Of complex images the power is that of a real component, and the mean that of the real part.
    """
    rows = [_component_spectrum([x[c] for x in images], spacing, bins) for c in range(images[0].shape[0])]
    return rows[0] if len(rows) == 1 else Spectrum.stack(rows)


def _component_spectrum(images: Sequence[Tensor], spacing: Sequence[float], bins: int) -> Spectrum:
    if not images[0].is_complex():
        return radial_spectrum(images, spacing, bins)
    real, imaginary = (radial_spectrum([part(x) for x in images], spacing, bins) for part in (torch.real, torch.imag))
    power = tuple(0.5 * (a + b) for a, b in zip(real.power, imaginary.power, strict=True))  # type: ignore[operator]
    return Spectrum(real.mean, real.frequency, power)


def annuli(shapes: Sequence[Sequence[int]], spacing: Sequence[float], bins: int) -> Tensor:
    """Edges `(bins + 1,)` in cycles/mm, even in log |f|, from below the fundamental of the longest image up."""
    longest = max(max(n * d for n, d in zip(shape, spacing, strict=True)) for shape in shapes)
    ends = 0.9 / longest, 0.5 / min(spacing) * math.sqrt(len(spacing))
    return torch.logspace(math.log10(ends[0]), math.log10(ends[1]), bins + 1, device="cpu").double()


def hann(shape: Sequence[int]) -> Tensor:
    """A Hann window `(*shape)`, float64, that is not zero anywhere."""
    window = torch.ones(tuple(shape), dtype=torch.float64, device="cpu")
    for axis, n in enumerate(shape):
        taper = torch.hann_window(n + 2, periodic=False, dtype=torch.float64, device="cpu")[1:-1]
        window = window * taper.reshape([-1 if i == axis else 1 for i in range(len(shape))])
    return window
