"""What has to hold before a posterior is drawn: a prior and a measurement that are about the same images."""

from __future__ import annotations

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.bases import Pixel
from retrodict.denoisers.denoiser import Denoiser
from retrodict.denoisers.spread import SpectralSpread
from retrodict.physics.measurement import Measurement
from retrodict.physics.operator import Operator, inner
from retrodict.posterior.law import Conditioner, root_of

__all__ = ["FAR", "check_pair", "linearity_error", "prior_distance"]

FAR = 3.0
"""Chi^2 of the data per datum under the Gaussian law of the prior above which they are called outside its range."""

LINEAR = {torch.float64: 1e-9, torch.float32: 1e-3}
"""Largest relative error of A (2 u - 3 v) and of <A u, v>, by precision."""


def check_pair(denoiser: Denoiser, measurement: Measurement, unit: str | None = None) -> None:
    """Raise `InputError` where the prior cannot be that of the measured images; `unit` is that of the prior's images.

    Looked at: the law of the noise, kind and shape of the images, pixel spacing, unit, a measurement that the prior has
    seen already, and (numerically) linearity and adjoint of the operator.
    """
    _ = measurement.law
    operator, basis = measurement.operator, denoiser.process.basis
    domain = operator.domain
    if denoiser.process.pairing.restores:
        found = f"a denoiser whose process is {denoiser.process.pairing.kind}: it has a measurement of its own"
        raise InputError("denoiser", found, "a prior of the image alone", "Train or build it with conditioning none.")
    if tuple(domain.shape[1:]) != tuple(basis.size):
        found, wanted = f"a prior on {basis.size} pixels", f"{domain.shape[1:]}, the images of {operator.name}"
        raise InputError("denoiser", found, wanted, "Use denoiser.on(size).")
    if domain.complex != basis.complex:
        found, wanted = ("complex", "real") if basis.complex else ("real", "complex")
        raise InputError("denoiser", f"a prior of {found} images", f"one of {wanted} images, as {operator.name}")
    if domain.spacing and basis.spacing and len(domain.spacing) == len(basis.spacing):
        near = all(abs(a - b) <= 1e-3 * b for a, b in zip(domain.spacing, basis.spacing, strict=True))
        if not near and not isinstance(basis, Pixel):
            found, wanted = f"a prior of {basis.spacing} mm pixels", f"{domain.spacing} mm, as {operator.name}"
            raise InputError(
                "denoiser spacing", found, wanted, "Resample the measurement's grid, or take another prior."
            )
    if unit is not None and unit != domain.unit:
        hint = "Fold scale and shift into the operator: Affine.rescaled(operator, scale, shift, unit)."
        raise InputError("denoiser unit", repr(unit), f"{domain.unit!r}, the images of {operator.name}", hint)
    _check_linear(operator, measurement.y)


def linearity_error(
    operator: Operator, dtype: torch.dtype = torch.float64, device: str | torch.device = "cpu"
) -> float:
    """Largest relative error of A (2 u - 3 v) = 2 A u - 3 A v of the linear part, and of <A u, w> = <u, A^H w>."""
    part = operator.part
    u, v = (part.domain.white(0, f"linearity-{name}", dtype=dtype).to(device) for name in "uv")
    w = part.range.white(0, "linearity-w", dtype=dtype).to(device)
    a, b, both = part.forward(u), part.forward(v), part.forward(2 * u - 3 * v)
    scale = torch.maximum((2 * a - 3 * b).abs().max(), both.abs().max()).double()
    gap = (both - 2 * a + 3 * b).abs().max().double()
    size = (inner(a, a) * inner(w, w)).sqrt()
    turned = (inner(a, w) - inner(u, part.adjoint(w))).abs()
    return max(float(gap / scale) if scale > 0 else 0.0, float(turned / size) if size > 0 else 0.0)


def _check_linear(operator: Operator, y: Tensor) -> None:
    real = y.real.dtype
    error = linearity_error(operator, real, y.device)
    if not error <= LINEAR[real]:
        found = f"an operator that is off by {error:.2g} from a linear one with this adjoint"
        raise InputError(
            operator.name, found, f"at most {LINEAR[real]:.0e}", "Posterior methods need A linear or affine."
        )


def prior_distance(denoiser: Denoiser, measurement: Measurement) -> float | None:
    """Chi^2 per datum of one item of y under N(A m, A C A^H + Sigma), the Gaussian law of the prior; 1 is expected.

    None where the prior has no mean and variance.
    """
    prior, basis = denoiser.prior(), denoiser.process.basis
    if prior is None:
        return None
    double = measurement.y.dtype in (torch.float64, torch.complex128)
    real = torch.float64 if double else torch.float32
    like = torch.zeros(1, *measurement.operator.domain.shape, dtype=real, device=basis.device)
    if basis.complex:
        like = torch.complex(like, like)
    middle = basis.inverse(prior[0].to(basis.forward(like)) + basis.forward(like))
    table = prior[1].reshape(*[1] * (2 + basis.ndim - prior[1].ndim), *prior[1].shape)
    distance = Conditioner(measurement).squared_distance(middle, root_of(SpectralSpread(basis, table)))
    return float(distance[0]) / measurement.count
