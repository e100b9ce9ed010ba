"""What a condition image of unknown law says of the image beside it, from pairs: a gain and a residual power by
frequency.

A network that is shown a degraded image c whose law nobody knows is best preconditioned around what c says linearly,
and not around the mean of the data: x_0 | c ~ N(mean + g (c - mean of c), V) per coefficient, with g and V measured on
pairs.  g = 1 is the residual preconditioning of mean-reverting processes and bridges (V = E|x_0 - c|^2; residual spec
1.4, in the manner of Karras et al. 2022, appendix B.6); the g of least squares leaves V = L - |cov|^2 / L_c, never
more.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.bases.basis import Basis, Cosine, Fourier
from retrodict.bases.spectrum import annuli, hann

__all__ = ["PairedSpectrum", "paired_spectrum"]


@dataclass(frozen=True)
class PairedSpectrum:
    """x_0 | c ~ N(mean + gain (c - shown), power) over |f|, in model units; see `paired_spectrum`.

    `mean` of the images and `shown` of the condition images; `frequency` (n,) in cycles/mm, rising; `gain` (n,) and
    `power` (n,) > 0 per real degree of freedom, linear in log f between nodes (power in log-log), constant beyond them.
    """

    mean: float
    shown: float
    frequency: tuple[float, ...]
    gain: tuple[float, ...]
    power: tuple[float, ...]

    def __post_init__(self) -> None:
        """Refuse tables that do not fit together."""
        count = len(self.frequency)
        numbers = (self.mean, self.shown, *self.frequency, *self.gain, *self.power)
        if count < 2 or len(self.gain) != count or len(self.power) != count or not all(map(math.isfinite, numbers)):
            raise InputError("PairedSpectrum", "tables that do not match", "finite numbers, one each a frequency")
        rising = all(b > a for a, b in zip(self.frequency, self.frequency[1:], strict=False))
        if not rising or self.frequency[0] <= 0 or min(self.power) <= 0:
            raise InputError("PairedSpectrum", "frequencies that do not rise, or no power", "positive, rising numbers")

    def on(self, basis: Basis) -> tuple[Tensor, Tensor]:
        """Gain and residual variance of every coefficient `(*K)`, float64.

        Raises `InputError` where a gain that depends on the frequency meets a basis without frequencies.
        """
        flat = max(self.gain) == min(self.gain)
        if not flat and not isinstance(basis, Fourier | Cosine):
            found = f"a {type(basis).__name__} basis"
            raise InputError("PairedSpectrum", found, "Fourier or Cosine, in which a gain over |f| is diagonal",
                             "paired_spectrum(..., regress=False) has a gain of 1, which any basis takes.")  # fmt: skip
        gain = torch.full(basis.shape, self.gain[0], dtype=torch.float64, device=basis.device)
        return (gain if flat else basis.tabulate(lambda f: self._at(f, self.gain))), basis.tabulate(self._power)

    def _power(self, radius: Tensor) -> Tensor:
        return self._at(radius, [math.log(p) for p in self.power]).exp()

    def _at(self, radius: Tensor, values: Sequence[float]) -> Tensor:
        x = torch.tensor(self.frequency, dtype=torch.float64, device="cpu").log().to(radius.device)
        y = torch.tensor(values, dtype=torch.float64, device="cpu").to(radius.device)
        query = radius.log().clamp(float(x[0]), float(x[-1]))
        left = (torch.searchsorted(x, query, right=True) - 1).clamp(0, len(x) - 2)
        return y[left] + (y[left + 1] - y[left]) / (x[left + 1] - x[left]) * (query - x[left])

    def to_json(self) -> dict[str, Any]:
        """Plain record."""
        tables = {"frequency": list(self.frequency), "gain": list(self.gain), "power": list(self.power)}
        return {"mean": self.mean, "shown": self.shown, **tables}

    @classmethod
    def from_json(cls, record: Any, where: str) -> PairedSpectrum:
        """Inverse of `to_json`; `where` names the file or field in errors."""
        try:
            tables = (tuple(map(float, record[name])) for name in ("frequency", "gain", "power"))
            return cls(float(record["mean"]), float(record["shown"]), *tables)
        except (InputError, AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
            wanted = "a record with mean, shown, frequency, gain and power that match"
            raise InputError(where, repr(record)[:80], wanted) from error


def paired_spectrum(
    pairs: Iterable[tuple[Tensor, Tensor]], spacing: Sequence[float], *, regress: bool = True, bins: int = 32
) -> PairedSpectrum:
    """Measure g(f) and V(f) on pairs (image, condition image), each `(*N)` of pixels of `spacing` mm.

    With U and C the transforms of both about their means, under a Hann window: g = Re E[U C*] / E|C|^2 and
    V = E|U - g C|^2 over logarithmic annuli of all pairs; regress=False has g = 1.

    Raises `InputError` for no pairs, and for a pair that differs in size or is complex.
    """
    stack = [(x.double(), c.double()) for x, c in _checked(pairs, len(spacing))]
    count = sum(x.numel() for x, _ in stack)
    mean, shown = (float(sum(float(pair[k].sum()) for pair in stack) / count) for k in (0, 1))
    edges = annuli([tuple(x.shape) for x, _ in stack], spacing, bins)
    sums = torch.zeros(5, bins, dtype=torch.float64, device="cpu")  # |U|^2, |C|^2, Re U C*, |f|, count
    for x, c in stack:
        basis, window = Fourier(tuple(x.shape), tuple(spacing)), hann(x.shape)
        u, v = (basis.forward((part - level) * window) for part, level in ((x, mean), (c, shown)))
        share = 1 / (window**2).mean()
        terms = [share * u.abs() ** 2, share * v.abs() ** 2, share * (u * v.conj()).real, basis.radius()]
        place = torch.bucketize(basis.radius(), edges) - 1
        inside = (place >= 0) & (place < bins)
        weight = basis.multiplicity()[inside]
        for row, term in zip(sums, [*terms, torch.ones_like(basis.radius())], strict=True):
            row.index_add_(0, place[inside], weight * term[inside])
    own, other, cross, radius, number = sums[:, sums[4] > 0]
    gain = torch.where(other > 0, cross / other.clamp_min(1e-300), 0.0) if regress else torch.ones_like(own)
    floor = 1e-12 * float(own.sum() / number.sum()) or 1e-300
    left = ((own - 2 * gain * cross + gain**2 * other) / number).clamp_min(floor)
    return PairedSpectrum(mean, shown, *(tuple(v.tolist()) for v in (radius / number, gain, left)))


def _checked(pairs: Iterable[tuple[Tensor, Tensor]], ndim: int) -> list[tuple[Tensor, Tensor]]:
    made = list(pairs)
    if not made:
        raise InputError("paired_spectrum", "no pairs", "at least one")
    for i, (x, c) in enumerate(made):
        if x.shape != c.shape or x.ndim != ndim or x.is_complex() or c.is_complex():
            found = f"shapes {tuple(x.shape)} and {tuple(c.shape)}"
            raise InputError(f"paired_spectrum pair {i}", found, f"two real images of one size with {ndim} axes")
    return made
