"""Beam hardening of one material: line integrals of a spectrum made linear in the length of the path.

A beam of several energies gives p(L) = -log(sum w_i exp(-mu_i L)), which grows slower than L: images cup.  For an
object of one material a function of p alone undoes it (Herman, Phys. Med. Biol. 24, 1979).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from retrodict._check import InputError

__all__ = ["Hardening", "HardeningFit", "fit_hardening", "polychromatic"]

ORDERS = (1, 6)
"""Orders of a polynomial that a scan can say something of."""


@dataclass(frozen=True)
class Hardening:
    """The correction p -> a1 p + a2 p^2 + ...: `coefficients` (a1, a2, ...), without unit.

    With a1 = 1 thin objects keep their line integrals: the image is in the attenuation of the beam at the surface.

    Raises `InputError` for coefficients that are none, or a slope at 0 that is not positive.
    """

    coefficients: tuple[float, ...]

    def __post_init__(self) -> None:
        """Refuse what is no correction."""
        given = tuple(float(a) for a in self.coefficients)
        object.__setattr__(self, "coefficients", given)
        if not given or not all(map(math.isfinite, given)) or not given[0] > 0:
            raise InputError("hardening", list(given), "numbers a1, a2, ... of a1 p + a2 p^2 + ..., a1 above 0")

    def __call__(self, values: Tensor) -> Tensor:
        """Corrected line integrals, any shape."""
        out = torch.zeros_like(values)
        for a in reversed(self.coefficients):
            out = (out + a) * values
        return out

    def slope(self, values: Tensor) -> Tensor:
        """The derivative at line integrals: by it a small deviation of the noise grows."""
        out = torch.zeros_like(values)
        for k, a in reversed(list(enumerate(self.coefficients, 1))):
            out = out * values + k * a
        return out

    def check(self, values: Tensor) -> None:
        """Raise `InputError` where the correction falls within the data: it was made for thinner objects."""
        low, high = min(0.0, float(values.min())), float(values.max())
        at = torch.linspace(low, high, 256, dtype=torch.float64, device="cpu")
        falling = at[self.slope(at) <= 0]
        if len(falling):
            found = f"a correction that falls from {float(falling[0]):.4g} on, for line integrals up to {high:.4g}"
            raise InputError("hardening", found, "one that rises over the range of the data", "Fit it to this range.")

    @staticmethod
    def of_spectrum(weights: Sequence[float], attenuation: Sequence[float], reach: float, order: int = 6) -> Hardening:
        """The polynomial for a known spectrum: `weights` of the energies (as detected), `attenuation` of the material
        at them in 1/mm, for paths up to `reach` mm.

        Least squares of L against p at 400 paths; a1 = 1, so the corrected p is L times the mean attenuation.
        """
        length = torch.linspace(0, reach, 401, dtype=torch.float64, device="cpu")[1:]
        return fit_hardening(polychromatic(length, weights, attenuation), length, order).correction


class HardeningFit(NamedTuple):
    """The `correction`, the `attenuation` in 1/mm that it leads to, and how far the paths are from it: `rms` mm."""

    correction: Hardening
    attenuation: float
    rms: float


def polychromatic(length: Tensor, weights: Sequence[float], attenuation: Sequence[float]) -> Tensor:
    """P = -log(sum w_i exp(-mu_i L) / sum w_i) of paths L in mm through one material, any shape.

    Raises `InputError` for weights and attenuations that are not as many, negative, or all 0.
    """
    w, mu = (
        torch.tensor([float(v) for v in part], dtype=torch.float64, device="cpu") for part in (weights, attenuation)
    )
    if len(w) != len(mu) or not len(w) or bool((w < 0).any()) or not float(w.sum()) > 0 or bool((mu < 0).any()):
        found = f"{len(w)} weights and {len(mu)} attenuations, or negative ones"
        raise InputError("spectrum", found, "one weight and one attenuation in 1/mm for every energy")
    logs = (w / w.sum()).log().to(length.device) - mu.to(length.device) * length.double()[..., None]
    return -torch.logsumexp(logs, -1)


def fit_hardening(values: Tensor, lengths: Tensor, order: int = 3, *, least: float = 0.0) -> HardeningFit:
    """The correction under which line integrals `values` are linear in the `lengths` in mm of their paths.

    mu L = p + a2 p^2 + ... by least squares of L over the rays with a path of more than `least` mm, any shape.
    `lengths` come from an object of one material whose shape is known (`Disc.lengths`), or from the forward projection
    of its thresholded image.

    Raises `InputError` for fewer than ten rays a coefficient, and for a correction that falls somewhere in the data.
    """
    if isinstance(order, bool) or not isinstance(order, int) or not ORDERS[0] <= order <= ORDERS[1]:
        raise InputError("order", order, f"a whole number from {ORDERS[0]} to {ORDERS[1]}")
    if values.shape != lengths.shape:
        raise InputError(
            "lengths", f"shape {tuple(lengths.shape)}", f"that of the line integrals {tuple(values.shape)}"
        )
    used = lengths > least
    p, path = values[used].double(), lengths[used].double()
    if len(p) < 10 * order:
        raise InputError("lengths", f"{len(p)} rays through the object", f"at least {10 * order} for order {order}")
    scale = float(p.abs().max())
    design = torch.stack([(p / scale) ** k for k in range(1, order + 1)], 1)
    found = torch.linalg.lstsq(design, path[:, None]).solution[:, 0]
    rms = float((design @ found - path).square().mean().sqrt())
    b = [float(v) / scale**k for k, v in enumerate(found, 1)]
    if not b[0] > 0:
        raise InputError("hardening", f"a slope of {b[0]:.4g} mm at 0", "paths that grow with the line integrals")
    correction = Hardening(tuple(v / b[0] for v in b))
    correction.check(p)
    return HardeningFit(correction, 1 / b[0], rms)
