"""The wavelet network as a map of noisy images, and as a denoiser."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.bases import Basis, Fourier, Wavelet
from retrodict.bases.wavelet import band_powers
from retrodict.denoisers.denoiser import Estimate, Observer
from retrodict.nets.shrink import WaveletShrink
from retrodict.processes.observation import Cond, Moments, clock, ratio
from retrodict.processes.process import Process

__all__ = ["FAMILY", "ShrinkDenoiser", "band_noise_of", "shrunk", "spread_shifts"]

FAMILY = "db4"
"""Wavelets of eight taps (Daubechies 1988)."""


def shrunk(net: WaveletShrink, y: Tensor, noise: Tensor, basis: Basis, shifts: Tensor) -> Tensor:
    """D_w(y) `(B, C, *N)` of noisy images y like it, the mean over shifts `(B|1, K, n)` of W^T net(W y), W a periodic
    orthonormal transform of the image that is moved by a shift (cycle spinning, Coifman and Donoho 1995).

    noise: variances `(B|1, C|1, *K)` in `basis`, a `Fourier` one or one in which they are all equal.  The coarse band
    is passed on as it is.

    Raises `InputError` for a size that 2^levels does not divide and for noise whose bands are not known.
    """
    wavelet = _wavelet(net, basis)
    deviations = _by_level(band_noise_of(noise, basis, wavelet), net.levels)
    moves = shifts.expand(len(y), -1, -1)
    count, axes = moves.shape[1], tuple(range(1, y.ndim - 1))
    moved = torch.stack([torch.roll(x, s, axes) for x, own in zip(y, moves.tolist(), strict=True) for s in own])
    repeated = [s.expand(len(y), *s.shape[1:]).repeat_interleave(count, 0).sqrt().to(y) for s in deviations]
    parts = wavelet.split(wavelet.forward(moved))
    names = _names(net)
    found = net([torch.stack([parts[band] for band in own], 1) for own in names], repeated)
    parts |= {band: x for own, d in zip(names, found, strict=True) for band, x in zip(own, d.unbind(1), strict=True)}
    out = wavelet.inverse(wavelet.join(parts)).unflatten(0, (len(y), count))
    back = [[torch.roll(x, [-k for k in s], axes) for x, s in zip(items, own, strict=True)]
            for items, own in zip(out, moves.tolist(), strict=True)]  # fmt: skip
    return torch.stack([torch.stack(items).mean(0) for items in back])


def band_noise_of(noise: Tensor, basis: Basis, wavelet: Wavelet) -> dict[tuple[int, str], Tensor]:
    """Variance `(B|1, C|1)` in every band of stationary noise of variances `(B|1, C|1, *K)` in a basis."""
    if isinstance(basis, Fourier):
        return band_powers(wavelet, noise)
    flat = noise.flatten(2)
    if bool((flat != flat[..., :1]).any()):
        found = f"noise that differs between coefficients of the {type(basis).__name__} basis"
        raise InputError("noise", found, "one by frequency (the Fourier basis), or white noise")
    return dict.fromkeys(wavelet.places(), flat[..., 0].double())


def spread_shifts(count: int, levels: int, ndim: int) -> Tensor:
    """So many shifts `(1, count, ndim)` of 0 to 2^levels - 1 pixels an axis, evenly spread: additive recurrences of the
    generalized golden ratio (Roberts 2018)."""
    root = 2.0
    for _ in range(64):
        root = (1 + root) ** (1 / (ndim + 1))
    steps = torch.tensor([root ** -(k + 1) for k in range(ndim)], dtype=torch.float64, device="cpu")
    place = torch.arange(count, dtype=torch.float64, device="cpu")[:, None] * steps
    return (place.remainder(1) * 2**levels).floor().long()[None]


@dataclass(frozen=True, eq=False)
class ShrinkDenoiser(Observer):
    """A `WaveletShrink` as a denoiser of observations without blur or with one that erases nothing.

    It is shown w / h with the noise clock r = s^2 / h^2, and answers the mean over `shifts` shifts of the image.  It
    knows no law of its error.  The network of a model that was trained by `data.noise.style: joint` is
    `model.denoiser.net.shrink`.
    """

    net: WaveletShrink
    process: Process
    shifts: int = 16
    error_law = "none"

    def __post_init__(self) -> None:
        """Refuse what it cannot be shown."""
        if not isinstance(self.net, WaveletShrink):
            found = type(self.net).__name__
            raise InputError("ShrinkDenoiser net", found, "a WaveletShrink, such as net.shrink of a joint training")
        if not 1 <= self.shifts <= 4096:
            raise InputError("ShrinkDenoiser shifts", self.shifts, "a whole number of at least 1")
        if self.process.pairing.sees:
            raise InputError("ShrinkDenoiser process", "one that shows a second image", "one of a single observation")
        _wavelet(self.net, self.process.basis)

    @property
    def multiple(self) -> int:  # type: ignore[override]
        """2^levels."""
        return 2**self.net.levels

    def observe(self, u: Tensor, m: Moments, cond: Cond = Cond()) -> Estimate:
        """The mean over the shifts.  Raises `InputError` where the observation has erased a coefficient."""
        basis, noise = self.process.basis, clock(m)
        if bool(noise.isinf().any()):
            raise InputError("ShrinkDenoiser", "an observation that has erased coefficients", "one that holds them all")
        y = basis.inverse(ratio(torch.ones_like(m.h), m.h).to(u.real) * u)
        total = torch.zeros_like(y)
        for shift in spread_shifts(self.shifts, self.net.levels, basis.ndim).unbind(1):
            total = total + shrunk(self.net, y, noise, basis, shift[:, None])
        return Estimate(total / self.shifts, None)

    def on(self, size: Sequence[int]) -> ShrinkDenoiser:
        """The same network on another grid."""
        return replace(self, process=self.process.on(tuple(size)))

    def to(self, device: str | torch.device) -> ShrinkDenoiser:
        """The same denoiser on another device; the weights are copied there."""
        if torch.device(device) == torch.device(self.process.basis.device):
            return self
        return replace(self, net=copy.deepcopy(self.net).to(device), process=self.process.to(device))

    def at(self, process: Process) -> ShrinkDenoiser:
        """The same network on another process."""
        return replace(self, process=process)


def _wavelet(net: WaveletShrink, basis: Basis) -> Wavelet:
    if len(basis.size) != net.ndim or any(n % 2**net.levels for n in basis.size) or basis.complex:
        kind = "complex " if basis.complex else ""
        found, wanted = f"{kind}images of {tuple(basis.size)}", f"{net.ndim} axes, multiples of {2**net.levels}, real"
        raise InputError("wavelet network: the size of x", found, wanted, "Pad the image, or make it of fewer levels.")
    return Wavelet(basis.size, basis.spacing, basis.device, levels=net.levels, family=FAMILY, alignment="centered")


def _names(net: WaveletShrink) -> list[list[tuple[int, str]]]:
    """Detail bands of every level, finest first."""
    letters = ["".join(x) for x in itertools.product("ad", repeat=net.ndim)][1:]
    return [[(level, name) for name in letters] for level in range(1, net.levels + 1)]


def _by_level(noise: dict[tuple[int, str], Tensor], levels: int) -> list[Tensor]:
    """Variances `(B|1, D, C|1)` of the detail bands of every level."""
    ndim = len(next(iter(noise))[1])
    letters = ["".join(x) for x in itertools.product("ad", repeat=ndim)][1:]
    return [torch.stack([noise[level, name] for name in letters], 1) for level in range(1, levels + 1)]
