"""Stationary periodic data in a wavelet basis, exactly: what a level is, given the coarse image under it.

Of data with power P(w) at the frequencies of a grid, the bands of one level are jointly stationary on the sub-lattice:
at each of its frequencies k they have the covariance (Guth et al. 2022; Mallat 2009, section 7.2)

    C_ab(k) = 2^-n sum_(e in {0,1}^n) F_a(w_k + pi e) P(w_k + pi e) conj F_b(w_k + pi e) ,    w_k = 2 pi k / L ,

F_a the filters of the band, so that the coarse image has the power C_ll and the details given it are Gaussian with the
mean C_hl / C_ll times it and the covariance C_hh - C_hl C_ll^-1 C_lh.  No matrix is larger than the 2^n bands.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.bases.dwt import steps_of
from retrodict.bases.wavelet import Wavelet

__all__ = ["StationaryLevel", "power_law", "stationary_levels"]


@dataclass(frozen=True, eq=False)
class StationaryLevel:
    """Details of one level given the coarse image of the level, per frequency of its sub-lattice `(*M)`.

    names: of the D detail bands, in the order of `Wavelet.places`.  power `(*M)`: of the coarse image.  variances
    `(D,)` of the bands.  In units of the deviations of the bands: regression `(*M, D)` complex on the coarse image, and
    covariance `(*M, D, D)` complex of what is left, for orthonormal discrete Fourier transforms.
    """

    names: tuple[str, ...]
    power: Tensor
    variances: Tensor
    regression: Tensor
    covariance: Tensor

    @cached_property
    def modes(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues `(*M, D)` and eigenvectors `(*M, D, D)` of the covariance."""
        values, vectors = torch.linalg.eigh(self.covariance)
        return values.clamp_min(0.0), vectors

    @cached_property
    def mean_energy(self) -> Tensor:
        """Mean square of the conditional mean along every eigenvector, `(*M, D)`."""
        turned = torch.einsum("...ia,...i->...a", self.modes[1].conj(), self.regression)
        return turned.abs() ** 2 * self.power[..., None]


def stationary_levels(basis: Wavelet, power: Tensor) -> list[StationaryLevel]:
    """Every level of `basis`, finest first, for data with `power` `(*N)` on the discrete Fourier grid of the image.

    Raises `InputError` for a basis that does not split every axis at every level, and a power of another shape, that
    is not positive, or that differs at w and -w.
    """
    if len(set(basis.each)) != 1:
        raise InputError("stationary levels", f"levels {basis.each}", "as many levels along every axis")
    table = power.to("cpu", torch.float64)
    if tuple(table.shape) != tuple(basis.size):
        raise InputError("stationary levels power", tuple(table.shape), f"{tuple(basis.size)}, the grid of the basis")
    axes = tuple(range(table.ndim))
    mirrored = table.flip(axes).roll((1,) * table.ndim, axes)
    if not bool((table > 0).all()) or not torch.allclose(table, mirrored, rtol=1e-9, atol=0):
        raise InputError("stationary levels power", "a table that no real data have", "positive, alike at w and -w")
    steps = steps_of(basis.family, basis.each, basis.alignment)
    found = []
    for _ in range(basis.depth):
        found.append(_level(table, steps.low, steps.high, steps.start))
        table = found[-1].power
    return found


def _level(table: Tensor, low: tuple[float, ...], high: tuple[float, ...], start: int) -> StationaryLevel:
    ndim, half = table.ndim, [n // 2 for n in table.shape]
    answers = [{"a": _response(n, low, start), "d": _response(n, high, start)} for n in table.shape]
    names = list(map("".join, itertools.product("ad", repeat=ndim)))
    cosets = list(itertools.product((0, 1), repeat=ndim))
    filters = torch.stack([torch.stack([_product(answers, name, e, half) for e in cosets]) for name in names])
    powers = torch.stack(
        [table[tuple(slice(c * m, (c + 1) * m) for c, m in zip(e, half, strict=True))] for e in cosets]
    )
    joint = torch.einsum("ae...,e...,be...->...ab", filters, powers.to(filters), filters.conj()) / 2**ndim
    coarse = joint[..., 0, 0].real
    variances = joint.diagonal(dim1=-2, dim2=-1).real.reshape(-1, len(names)).mean(0)[1:]
    scale = variances.rsqrt()
    cross = joint[..., 1:, 0] * scale
    details = joint[..., 1:, 1:] * scale[:, None] * scale
    left = details - cross[..., :, None] * cross[..., None, :].conj() / coarse[..., None, None]
    return StationaryLevel(tuple(names[1:]), coarse, variances, cross / coarse[..., None], left)


def _response(n: int, taps: tuple[float, ...], start: int) -> Tensor:
    """F(w) = sum_i f_i exp(i w (start + i)) at the n frequencies of an axis, `(2, n/2)`: halves of the circle."""
    place = torch.arange(len(taps), dtype=torch.float64, device="cpu") + start
    angle = 2 * math.pi / n * torch.arange(n, dtype=torch.float64, device="cpu")[:, None] * place
    weights = torch.tensor(taps, dtype=torch.float64, device="cpu")
    return torch.complex(torch.cos(angle) @ weights, torch.sin(angle) @ weights).reshape(2, n // 2)


def _product(answers: list[dict[str, Tensor]], name: str, coset: tuple[int, ...], half: list[int]) -> Tensor:
    """The filter of a band at the frequencies of one coset, `(*M)`."""
    total = torch.ones([1] * len(half), dtype=torch.complex128, device="cpu")
    for axis, (letter, e) in enumerate(zip(name, coset, strict=True)):
        total = total * answers[axis][letter][e].reshape([-1 if a == axis else 1 for a in range(len(half))])
    return total


def power_law(size: tuple[int, ...], exponent: float) -> Tensor:
    """P(w) = c / (xi^eta + |w|^eta), xi = 2 pi / L, of mean 1 on the discrete Fourier grid `(*N)`: a field whose
    correlation length is the size of the image (wavelet specification of the package after Guth et al. 2022).
    """
    axes = [2 * math.pi * torch.fft.fftfreq(n, dtype=torch.float64, device="cpu") for n in size]
    w = torch.stack(torch.meshgrid(*axes, indexing="ij")).square().sum(0).sqrt()
    power = 1 / ((2 * math.pi / size[0]) ** exponent + w**exponent)
    return power / power.mean()
