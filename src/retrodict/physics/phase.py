"""Complex images turned by a phase that is nearly theirs: real and imaginary part as two channels of a real image.

A complex image of a smooth phase phi is x = exp(i phi) (m + i q), with m nearly its magnitude and q small: what the
error of phi leaves.  So a prior of real images serves k-space, beside one that keeps q small: the phase is a soft
constraint (phase constrained reconstruction: Noll, Nishimura and Macovski, IEEE Trans. Medical Imaging 10, 1991; with a
weight on q: Bydder and Robson, Magn. Reson. Med. 53, 2005).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.physics.measurement import Measurement
from retrodict.physics.mri import CartesianMRI
from retrodict.physics.operator import Operator, Table

__all__ = ["Phased", "middle_phase"]

LEAST = 6
"""Samples along both sides of the measured middle: a phase from less is coarser than it is smooth."""


class Phased(Operator):
    """y = A (p (m + i q)): real images (m, q) `(2, *N)` to the data of a linear A of complex ones, |p| = 1 `(*N)`.

    The adjoint is (Re, Im) of conj(p) A^H y, that of the real inner product; the norm is that of A.
    """

    def __init__(self, operator: Operator, phase: Tensor) -> None:
        if not operator.linear or not operator.domain.complex or operator.domain.shape[0] != 1:
            found = f"{operator.name} of images {operator.domain.shape}"
            raise InputError("Phased", found, "a linear operator of complex images (1, ...)")
        if tuple(phase.shape) != operator.domain.shape[1:] or not phase.is_complex():
            raise InputError("phase", f"{tuple(phase.shape)}, {phase.dtype}", f"{operator.domain.shape[1:]}, complex")
        if not float((phase.abs() - 1).abs().max()) < 1e-5:
            raise InputError("phase", "values of another magnitude than 1", "exp(i phi)")
        self.inner, self._phase = operator, Table(phase)
        self.domain = replace(operator.domain, complex=False, shape=(2, *operator.domain.shape[1:]))
        self.range = operator.range

    def _forward(self, x: Tensor) -> Tensor:
        return self.inner.forward(self.joined(x))

    def _adjoint(self, y: Tensor) -> Tensor:
        return self.parted(self.inner.adjoint(y))

    def joined(self, parts: Tensor) -> Tensor:
        """The complex images `(..., 1, *N)` of real ones `(..., 2, *N)`."""
        m, q = parts.split(1, -len(self.domain.shape))
        return self._phase(m) * torch.complex(m.contiguous(), q.contiguous())

    def parted(self, image: Tensor) -> Tensor:
        """Real and imaginary part `(..., 2, *N)` of complex images `(..., 1, *N)`, turned back by the phase."""
        turned = self._phase(image).conj() * image
        return torch.cat([turned.real, turned.imag], -len(self.domain.shape))

    @property
    def phase(self) -> Tensor:
        """P = exp(i phi) `(*N)` complex128."""
        return self._phase.values

    @property
    def about(self) -> Mapping[str, Any]:
        """That of A."""
        return self.inner.about

    @property
    def measured(self) -> Tensor | None:
        """That of A."""
        return self.inner.measured


def middle_phase(measurement: Measurement) -> Tensor:
    """Exp(i phi) `(*N)` complex128 of one item of k-space: that of the image of its fully measured middle.

    The middle is the largest square of samples round the zero frequency without a gap, under a Hann window; coils are
    combined by their maps.  1 where the image is 0.  Raises `InputError` for other operators than `CartesianMRI`, and
    for a middle of fewer than 6 samples.
    """
    operator = measurement.operator
    if not isinstance(operator, CartesianMRI):
        hint = "Give Phased(operator, phase), with a phase of your own."
        raise InputError("operator", operator.name, "CartesianMRI, whose middle tells the phase", hint)
    size, reach = operator.mask.shape, _reach(operator.mask)
    if 2 * min(reach) + 1 < LEAST:
        found = " x ".join(str(2 * r + 1) for r in reach)
        hint = "Take a prior of complex images, or measure the middle of k-space."
        raise InputError("k-space", f"a fully measured middle of {found}", f"at least {LEAST} a side", hint)
    window = torch.ones(size, dtype=torch.float64, device="cpu")
    for axis, (n, r) in enumerate(zip(size, reach, strict=True)):
        k = (torch.arange(n, dtype=torch.float64, device="cpu") - n // 2) / (r + 1)
        taper = torch.where(k.abs() < 1, 0.5 + 0.5 * (math.pi * k).cos(), 0.0)
        window = window * taper.reshape([-1 if a == axis else 1 for a in range(len(size))])
    y = measurement.y[:1].to(torch.complex128)
    image = operator.adjoint(window.to(y.device) * y)[0, 0]
    return torch.where(image != 0, torch.polar(torch.ones_like(image.real), image.angle()), 1.0 + 0j)


def _reach(mask: Tensor) -> list[int]:
    """Samples r on both sides of the middle, by axis, so that the box |k| <= r has no gap.

    The lines through the middle say how far it may reach; then its longest side becomes shorter until it is full.
    """
    middle, reach = [n // 2 for n in mask.shape], []
    for axis, m in enumerate(middle):
        line = mask[tuple(slice(None) if a == axis else c for a, c in enumerate(middle))]
        most = min(m, len(line) - 1 - m)
        reach.append(next((r - 1 for r in range(1, most + 1) if not line[[m - r, m + r]].all()), most))
    while not mask[tuple(slice(m - r, m + r + 1) for m, r in zip(middle, reach, strict=True))].all():
        if max(reach) == 0:
            break
        reach[reach.index(max(reach))] -= 1
    return reach
