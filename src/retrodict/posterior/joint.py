"""Two unknown images with a prior each, seen in one measurement: y = A x + n with n structured, such as haze."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.bases.spectrum import Spectrum
from retrodict.denoisers.denoiser import Denoiser, ErrorLaw, Estimate, GaussianDenoiser
from retrodict.denoisers.spread import SpectralSpread, Spread
from retrodict.processes.observation import Cond
from retrodict.processes.process import Process

__all__ = ["PHASE_ERROR", "JointDenoiser", "with_imaginary"]

PHASE_ERROR = 0.2
"""Deviation, in rad, of the phase by which complex images are turned, as a prior states it."""


@dataclass(frozen=True)
class JointDenoiser(Denoiser):
    """Independent images side by side as the channels of one, u = (x, h): each channel has a prior of its own.

    With an operator that sees both, A_u = (A, gamma) (`retrodict.physics.beside`), every posterior method draws x and
    h jointly: their errors are anti-correlated, since only the sum was seen.  The unknown-as-one form of the joint
    posterior sampling of Stevens et al. (2023, arXiv 2302.05290, 2307.11204), whose guidance by J^T 1 is exact for
    diagonal Jacobians alone.  `parts`: denoisers of `channels` channels each, with one process.
    """

    parts: tuple[Denoiser, ...]
    channels: int = 1

    def __post_init__(self) -> None:
        """Refuse priors that do not share their states."""
        if len(self.parts) < 2:
            raise InputError("JointDenoiser parts", f"{len(self.parts)} denoisers", "at least two")
        t = torch.tensor([0.3, 1.0], dtype=torch.float64, device="cpu")
        first = self.parts[0].process
        for other in (part.process for part in self.parts[1:]):
            alike = first.basis == other.basis
            if not alike or not all(torch.equal(a, b) for a, b in zip(first.moments(t), other.moments(t), strict=True)):
                raise InputError("JointDenoiser parts", "denoisers of other processes", "one process and grid for all")

    @property
    def process(self) -> Process:  # type: ignore[override]
        """The one of all parts."""
        return self.parts[0].process

    @property
    def spectrum(self) -> Spectrum | Tensor | None:  # type: ignore[override]
        """None: see `prior`."""
        return None

    @property
    def multiple(self) -> int:  # type: ignore[override]
        """The largest of the parts."""
        return max(part.multiple for part in self.parts)

    @property
    def error_law(self) -> ErrorLaw:  # type: ignore[override]
        """The weakest of the parts."""
        laws = [part.error_law for part in self.parts]
        return next(law for law in ("none", "wiener", "own") if law in laws)

    @property
    def modes(self) -> int | None:
        """Every mode of one part goes with every one of the others."""
        counts = [part.modes for part in self.parts]
        known = [count for count in counts if count is not None]
        return math.prod(known) if len(known) == len(counts) else None

    def prior(self) -> tuple[Tensor, Tensor] | None:
        """Mean and variance of every coefficient, `(C, *K)`, channels of all parts in a row."""
        tables = [part.prior() for part in self.parts]
        known = [t for t in tables if t is not None]
        if len(known) < len(tables):
            return None
        mean, variance = (torch.cat([self._wide(t[i]) for t in known]) for i in (0, 1))
        return mean, variance

    def _wide(self, table: Tensor) -> Tensor:
        return table.expand(self.channels, *self.process.basis.shape)

    def estimate(self, xt: Tensor, t: Tensor, cond: Cond = Cond()) -> Estimate:
        """Every part on its channels."""
        if xt.shape[1] != self.channels * len(self.parts):
            found = f"{xt.shape[1]} channels"
            raise InputError("denoiser input", found, f"{self.channels} for each of {len(self.parts)} priors")
        found = [part.estimate(x, t, cond) for part, x in zip(self.parts, self._split(xt), strict=True)]
        laws = [f.spread for f in found]
        mean = torch.cat([f.mean for f in found], 1)
        known = tuple(law for law in laws if law is not None)
        return Estimate(mean, self._law(known, len(xt)) if len(known) == len(laws) else None)

    def _split(self, x: Tensor) -> tuple[Tensor, ...]:
        return x.split(self.channels, 1)

    def _law(self, laws: tuple[Spread, ...], items: int) -> Spread:
        basis = self.process.basis
        tables = [law.v for law in laws if isinstance(law, SpectralSpread) and law.basis == basis]
        if len(tables) == len(laws):
            wide = [v.expand(max(len(v), 1), self.channels, *basis.shape) for v in tables]
            rows = max(len(v) for v in wide)
            return SpectralSpread(basis, torch.cat([v.expand(rows, *v.shape[1:]) for v in wide], 1))
        return _Beside(laws, self.channels)

    def on(self, size: Sequence[int]) -> Self:
        """All parts on another grid."""
        return replace(self, parts=tuple(part.on(size) for part in self.parts))

    def to(self, device: str | torch.device) -> Self:
        """All parts on another device."""
        return replace(self, parts=tuple(part.to(device) for part in self.parts))

    def gaussian(self) -> Denoiser | None:
        """The exact denoiser of Gaussian data of the same means and variances."""
        prior = self.prior()
        return None if prior is None else GaussianDenoiser(self.process, *prior)


@dataclass(frozen=True)
class _Beside:
    """Error laws of channels that do not know of each other."""

    laws: tuple[Spread, ...]
    channels: int

    @property
    def fields(self) -> int:
        return max(law.fields for law in self.laws)

    def draw(self, z: Tensor) -> Tensor:
        parts = z.split(self.channels, 2)
        return torch.cat([law.draw(part[: law.fields]) for law, part in zip(self.laws, parts, strict=True)], 1)

    def variance(self) -> Tensor:
        return torch.cat([law.variance() for law in self.laws], 1)


def with_imaginary(real: Denoiser, error: float = PHASE_ERROR) -> JointDenoiser:
    """A prior of real images m as one of (m, q), the parts of complex images that were turned by a phase.

    q = m sin(error of the phase) is taken as Gaussian, of the spectrum of m and mean 0, with `error`^2 times the mean
    square of a pixel of m.  For operators such as `physics.Phased`.  `InputError` for a prior that has no spectrum.
    """
    law, basis = real.prior(), real.process.basis
    if law is None or basis.complex:
        raise InputError("denoiser", "a prior without a spectrum, or of complex images", "one of real images, with it")
    mean, variance = (x.to(torch.float64) for x in law)
    weight = basis.multiplicity().to(variance)
    pixel = (variance.expand(weight.shape) * weight).sum()
    share = error**2 * (1 + mean.abs().square().sum() / pixel)
    return JointDenoiser((real, GaussianDenoiser(real.process, torch.zeros_like(mean), share * variance)))
