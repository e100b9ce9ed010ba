"""The exact denoiser of a finite set of images: the law that puts its mass on them, or on small Gaussians round them.

Of data that are N images the posterior is known in closed form, given a state, a measurement or both: N weights.  It is
the law that a network is trained on, and what a network without any generalisation would answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.denoisers.denoiser import Estimate, GaussianDenoiser, Observer
from retrodict.denoisers.spread import SpectralSpread
from retrodict.processes.observation import Cond, Moments, fuse, wiener
from retrodict.processes.process import Process

__all__ = ["EmpiricalDenoiser"]


@dataclass(frozen=True, eq=False)
class EmpiricalDenoiser(Observer):
    """Exact E[x_0 | x_t], variances and weights for data that are `images` `(M, 1, *N)`, each as likely.

    `width`: a number or a spectrum `(*K)`, the variance per coefficient of a Gaussian round every image; with 0 the law
    is the images themselves.  The law of its error holds the variance of each coefficient, as that of a network does,
    and not what couples them.  Memory grows with M times the items of a batch, time with that times the pixels.
    """

    process: Process
    images: Tensor
    width: float | Tensor = 0.0

    def __post_init__(self) -> None:
        """Refuse images of another grid, and what is no variance."""
        wanted = tuple(self.process.basis.size)
        if self.images.ndim != len(wanted) + 2 or tuple(self.images.shape[1:]) != (1, *wanted) or not len(self.images):
            raise InputError("images", f"shape {tuple(self.images.shape)}", f"(M, 1, {', '.join(map(str, wanted))})")
        if not bool(torch.isfinite(self.images).all()):
            raise InputError("images", "NaN or infinity", "finite values")
        least = float(self.width.min()) if isinstance(self.width, Tensor) else float(self.width)
        if not least >= 0:
            raise InputError("width", least, "a variance of at least 0")

    @cached_property
    @torch.inference_mode(mode=False)
    def _atoms(self) -> tuple[Tensor, Tensor]:
        """Coefficients of the images `(M, *K)` and the variance round them `(*K)`, float64."""
        basis = self.process.basis
        width = torch.as_tensor(self.width, dtype=torch.float64, device=basis.device)
        return basis.forward(self.images.double().to(basis.device))[:, 0], width.expand(basis.shape)

    @property
    def modes(self) -> int:
        """The images."""
        return len(self.images)

    def prior(self) -> tuple[Tensor, Tensor]:
        """Mean and variance of every coefficient."""
        atoms, width = self._atoms
        mean = atoms.mean(0)
        return mean, self.process.basis.energy(atoms - mean).mean(0) + width

    def gaussian(self) -> GaussianDenoiser:
        """The exact denoiser of Gaussian data of the same mean and variance."""
        return GaussianDenoiser(self.process, *self.prior())

    def on(self, size: Sequence[int]) -> EmpiricalDenoiser:
        """Itself; images cannot go to another grid."""
        if tuple(size) != self.process.basis.size:
            raise InputError("size", tuple(size), f"{self.process.basis.size}, the grid of the images")
        return self

    def to(self, device: str | torch.device) -> EmpiricalDenoiser:
        """The same denoiser on another device."""
        width = self.width.to(device) if isinstance(self.width, Tensor) else self.width
        return replace(self, process=self.process.to(device), images=self.images.to(device), width=width)

    def weights(self, u: Tensor, m: Moments) -> Tensor:
        """Posterior weights `(B, M)` of the images given an observation, coefficients u `(B, 1, *K)`.

        log w_k = -sum |u - h a_k|^2 / 2 (h^2 width + s^2), by products of matrices; float64.
        """
        atoms, width = self._atoms
        h, s2 = (x.expand(u.shape).double() for x in (m.h, m.s2))
        share = self.process.basis.multiplicity() * h / (h**2 * width + s2)
        energy = self.process.basis.energy(atoms)
        cross = _real(share * u.to(atoms)) @ _real(atoms).T
        return (cross - 0.5 * (share * h).flatten(1) @ energy.flatten(1).T).softmax(1)

    def observe(self, u: Tensor, m: Moments, cond: Cond = Cond()) -> Estimate:
        """Mean, and the variance of every coefficient, given one observation, and first the measurement if shown."""
        basis, (atoms, width) = self.process.basis, self._atoms
        seen = self.process.measurement if self.process.pairing.sees else None
        if seen is not None and cond.image is not None:
            law = Moments(*(x.reshape(*[1] * (u.ndim - x.ndim), *x.shape) for x in seen))
            u, m = fuse(u, m, basis.forward(cond.image), law)
        r = self.weights(u, m)
        gain, within = wiener(m, width)
        # E[u_0] = (1 - g h) sum_k r_k a_k + g u; the energies of differences from the mean do not cancel
        center = (r.to(atoms) @ atoms.flatten(1)).reshape(u.shape)
        part = (r @ basis.energy(atoms).flatten(1)).reshape(u.shape) - basis.energy(center)
        rest = 1 - gain * m.h
        mean = rest.to(u.real) * center.to(u) + gain.to(u.real) * u
        spread = (within + rest**2 * part.clamp_min(0.0)).to(u.real.dtype)
        return Estimate(basis.inverse(mean), SpectralSpread(basis, spread))


def _real(u: Tensor) -> Tensor:
    """Coefficients as rows of real numbers."""
    return (torch.view_as_real(u.resolve_conj()) if u.is_complex() else u).flatten(1)
