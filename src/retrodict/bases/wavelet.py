"""Orthogonal, periodised wavelet bases in one to three dimensions (Mallat 1989; Daubechies 1988)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import get_args

import torch
from torch import Tensor

from retrodict._check import InputError, choice
from retrodict.bases.bands import Band, join, named, split, stack, unstack
from retrodict.bases.basis import Basis, Fourier
from retrodict.bases.dwt import Alignment, full_precision, levels_of, steps_of, transform
from retrodict.bases.filters import FAMILIES, daubechies, taps

__all__ = ["Wavelet", "band_powers", "daubechies"]


@dataclass(frozen=True)
class Wavelet(Basis):
    """Separable orthogonal wavelet transform with periodic boundaries, packed in place.

    K = N: the approximation of the coarsest level sits in the low-index corner, each finer detail band around it.
    `levels`: of every axis, or one number each (0 leaves an axis as it is); every axis must be divisible by 2**levels,
    which keeps the transform exactly orthogonal.  `family`: "haar", "db1" to "db8", "sym4" to "sym8".  `alignment`:
    where a filter stands; "centered" is PyWavelets' mode "periodization".
    """

    levels: int | tuple[int, ...] = 3
    family: str = "db2"
    alignment: Alignment = "causal"

    def __post_init__(self) -> None:
        """Refuse a grid that the levels do not divide."""
        super().__post_init__()
        choice("Wavelet family", self.family, FAMILIES)
        choice("Wavelet alignment", self.alignment, get_args(Alignment))
        if isinstance(self.levels, Sequence):
            object.__setattr__(self, "levels", tuple(self.levels))
        if any(n % 2**own for n, own in zip(self.size, self.each, strict=True)):
            each = self.levels if isinstance(self.levels, int) else f"levels of {self.levels}"
            raise InputError(
                "Wavelet size", self.size, f"axes divisible by 2**{each}", "Pad the image or use fewer levels."
            )

    @property
    def each(self) -> tuple[int, ...]:
        """Levels of every axis."""
        return levels_of(self.levels, len(self.size), "Wavelet levels")

    @property
    def depth(self) -> int:
        """Levels of the axis that has most."""
        return max(self.each)

    def _corner(self, level: int) -> tuple[slice, ...]:
        widths = (n >> min(level, own) for n, own in zip(self.size, self.each, strict=True))
        return (Ellipsis, *(slice(0, n) for n in widths))  # type: ignore[return-value]

    def small(self) -> Wavelet:
        """One coefficient of the approximation an axis: every band is there."""
        return self.on(tuple(2**own for own in self.each))

    def forward(self, x: Tensor) -> Tensor:
        """`(..., *N)` to packed coefficients `(..., *N)`; half precision is returned in float32."""
        return transform(full_precision(x, "Wavelet input"), steps_of(self.family, self.each, self.alignment))

    def inverse(self, u: Tensor) -> Tensor:
        """Transpose of `forward`."""
        steps = steps_of(self.family, self.each, self.alignment)
        return transform(full_precision(u, "Wavelet input"), steps, inverse=True)

    # ---- bands -------------------------------------------------------------------------------------------------------

    def places(self) -> dict[Band, tuple[slice, ...]]:
        """Where every band (level, name) lies in the coefficients, coarse first; see `retrodict.bases.bands`."""
        return named(self.size, self.each)

    def split(self, u: Tensor) -> dict[Band, Tensor]:
        """Coefficients `(..., *K)` by band: views."""
        return split(u, self.each)

    def join(self, parts: Mapping[Band, Tensor]) -> Tensor:
        """Inverse of `split`."""
        return join(parts, self.each)

    def stack(self, u: Tensor) -> Tensor:
        """Coefficients `(..., C, *K)` as channels of the coarse grid `(..., C prod 2^levels, *K / 2^levels)`."""
        return stack(u, self.each)

    def unstack(self, v: Tensor) -> Tensor:
        """Inverse of `stack`."""
        return unstack(v, self.each)

    def spread(self, values: Mapping[Band, Tensor]) -> Tensor:
        """A number of every band `(...)` as a table `(..., *K)`."""
        first = next(iter(values.values()))
        table = torch.empty((*first.shape, *self.size), dtype=first.dtype, device=self.device)
        for band, place in self.places().items():
            table[(..., *place)] = values[band].to(self.device)[(..., *[None] * len(self.size))]
        return table

    def band(self) -> Tensor:
        """Scale of every coefficient `(*K)` int64: 0 for the finest details, `depth` for the approximation."""
        scale = torch.zeros(self.size, dtype=torch.int64, device=self.device)
        for level in range(1, self.depth + 1):
            scale[self._corner(level)] = level
        return scale

    def tabulate(self, power: Callable[[Tensor], Tensor]) -> Tensor:
        """Variance of every coefficient of stationary, periodic data: that of its band, |filter|^2 times power."""
        partner = Fourier(self.size, self.spacing, self.device, complex=True)
        return self.spread(band_powers(self, partner.tabulate(power)))

    def _frequency(self) -> Tensor:
        """Center frequency of the band of each coefficient: 3/8 of the sampling rate of its level."""
        pitch = max(self.spacing)
        scale = self.band()
        center = 0.375 / pitch * 2.0 ** (-scale.double())
        # the approximation holds everything below the coarsest detail band
        return torch.where(scale == self.depth, 0.125 / pitch * 2.0 ** (1 - self.depth), center)


def band_powers(basis: Wavelet, table: Tensor) -> dict[Band, Tensor]:
    """Variance of the coefficients of every band, of stationary data with a power `(..., *N)` at every frequency of the
    whole discrete Fourier grid of the image, or `(..., *K)` on the half of it that a real image has.

    v_b = mean over frequencies of P(w) prod_axes |F_b(w_axis)|^2, F_b the filter of the band: 1 for white data.
    """
    shares = [_responses(n, own, basis.family) for n, own in zip(basis.size, basis.each, strict=True)]
    last = basis.size[-1]
    if table.shape[-1] == last // 2 + 1 < last:  # the other half is the same
        shares = [*shares[:-1], {k: _folded(share) for k, share in shares[-1].items()}]
    found = {}
    for level, name in basis.places():
        rest = table.double()
        for letter, own, share in zip(reversed(name), reversed(basis.each), reversed(shares), strict=True):
            rest = rest @ share[letter, min(level, own)].to(rest)
        found[level, name] = rest
    return found


def _folded(share: Tensor) -> Tensor:
    """A share of all n frequencies on 0 to n/2, those that stand for two counted twice."""
    half = share[: len(share) // 2 + 1].clone()
    half[1 : (len(share) + 1) // 2] *= 2
    return half


@lru_cache(maxsize=64)
@torch.inference_mode(mode=False)
def _responses(n: int, levels: int, family: str) -> dict[tuple[str, int], Tensor]:
    """|F|^2 / n at the n frequencies of an axis, float64, of the low- and high-pass filter of every level."""
    low = taps(family)
    index = torch.arange(n, dtype=torch.float64, device="cpu")[:, None] * torch.arange(
        len(low), dtype=torch.float64, device="cpu"
    )
    angle = 2 * torch.pi / n
    kept = torch.ones(n, dtype=torch.float64, device="cpu")
    shares = {("a", 0): kept}
    for level in range(1, levels + 1):
        phase = angle * 2 ** (level - 1) * index
        response = (torch.cos(phase) @ low) ** 2 + (torch.sin(phase) @ low) ** 2
        # |h(w)|^2 + |h(w + pi)|^2 = 2, and |g(w)| = |h(w + pi)|
        shares["d", level], shares["a", level] = kept * (2 - response), kept * response
        kept = kept * response
    return {name: share / n for name, share in shares.items()}
