"""Physics of the measurement: operators with units and exact adjoints; know nothing of diffusion."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from retrodict.physics.algebra import Adjoint, Affine, Composed, Gram, Scaled, Stacked, Sum, normalized
from retrodict.physics.convolution import Blur, gaussian_psf
from retrodict.physics.diagonal import Diagonal, Identity, Mask, hazed, random_mask
from retrodict.physics.geometry import FanBeam, ParallelBeam, even_angles, golden_angles
from retrodict.physics.operator import Operator, Space, Spectral, adjoint_error, check_adjoint, inner
from retrodict.physics.projection import Projection, attenuation
from retrodict.physics.radon import Radon
from retrodict.physics.resampling import Downsample
from retrodict.physics.views import ConeBeam, Radiograph

__all__ = [
    "OPERATORS",
    "Adjoint",
    "Affine",
    "Blur",
    "Composed",
    "ConeBeam",
    "Diagonal",
    "Downsample",
    "FanBeam",
    "Gram",
    "Identity",
    "Mask",
    "Operator",
    "ParallelBeam",
    "Projection",
    "Radiograph",
    "Radon",
    "Scaled",
    "Space",
    "Spectral",
    "Stacked",
    "Sum",
    "adjoint_error",
    "attenuation",
    "check_adjoint",
    "even_angles",
    "gaussian_psf",
    "golden_angles",
    "hazed",
    "inner",
    "normalized",
    "random_mask",
]

OPERATORS: Mapping[str, Callable[..., Operator]] = {
    "identity": Identity,
    "diagonal": Diagonal,
    "mask": Mask,
    "haze": hazed,
    "blur": Blur,
    "gaussian_blur": Blur.gaussian,
    "mtf_blur": Blur.mtf,
    "downsample": Downsample,
    "radon": Radon,
    "projection": Projection,
}
"""Constructors by name; every entry has a case in `tests/physics_cases.py` and with it the tests of the contract."""
