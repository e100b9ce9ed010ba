"""Physics of the measurement: operators, laws of noise, measurements, classics; know nothing of diffusion."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from retrodict.physics.adapters import (
    AstraRadon,
    MatrixFree,
    from_deepinv,
    from_leap,
    from_mri_nufft,
    from_tomosipo,
    to_deepinv,
)
from retrodict.physics.algebra import Adjoint, Affine, Composed, Gram, Scaled, Stacked, Sum, normalized
from retrodict.physics.classics import CLASSICS, Reconstruction
from retrodict.physics.conditional import Posterior
from retrodict.physics.convolution import Blur, gaussian_psf
from retrodict.physics.counts import LogPoissonNoise, PoissonNoise, TransmissionNoise, bow_tie
from retrodict.physics.covariance import Covariance
from retrodict.physics.diagonal import Diagonal, Identity, Mask, hazed, random_mask
from retrodict.physics.emission import emission
from retrodict.physics.filters import FilterBank
from retrodict.physics.geometry import FanBeam, ParallelBeam, even_angles, golden_angles
from retrodict.physics.kspace import MASKS, Sampling, sampling
from retrodict.physics.measurement import Measurement
from retrodict.physics.mixture_noise import MixtureNoise
from retrodict.physics.mri import CartesianMRI, RadialMRI, birdcage, spokes
from retrodict.physics.noise import GaussianNoise, Misfit, Noise
from retrodict.physics.operator import Operator, Space, Spectral, adjoint_error, check_adjoint, inner
from retrodict.physics.optics import idt, idt_transfer, tie
from retrodict.physics.phase import Phased, middle_phase
from retrodict.physics.projection import Projection, attenuation
from retrodict.physics.radon import Radon
from retrodict.physics.resampling import Downsample
from retrodict.physics.slices import Slices, volume_of
from retrodict.physics.ultrasound import beside, pulse_echo, ultrasound
from retrodict.physics.views import ConeBeam, Radiograph

__all__ = [
    "CLASSICS",
    "MASKS",
    "NOISES",
    "OPERATORS",
    "Adjoint",
    "Affine",
    "AstraRadon",
    "Blur",
    "CartesianMRI",
    "Composed",
    "ConeBeam",
    "Covariance",
    "Diagonal",
    "Downsample",
    "FanBeam",
    "FilterBank",
    "GaussianNoise",
    "Gram",
    "Identity",
    "LogPoissonNoise",
    "Mask",
    "MatrixFree",
    "Measurement",
    "Misfit",
    "MixtureNoise",
    "Noise",
    "Operator",
    "ParallelBeam",
    "Phased",
    "PoissonNoise",
    "Posterior",
    "Projection",
    "RadialMRI",
    "Radiograph",
    "Radon",
    "Reconstruction",
    "Sampling",
    "Scaled",
    "Slices",
    "Space",
    "Spectral",
    "Stacked",
    "Sum",
    "TransmissionNoise",
    "adjoint_error",
    "attenuation",
    "beside",
    "birdcage",
    "bow_tie",
    "check_adjoint",
    "emission",
    "even_angles",
    "from_deepinv",
    "from_leap",
    "from_mri_nufft",
    "from_tomosipo",
    "gaussian_psf",
    "golden_angles",
    "hazed",
    "idt",
    "idt_transfer",
    "inner",
    "middle_phase",
    "normalized",
    "pulse_echo",
    "random_mask",
    "sampling",
    "spokes",
    "tie",
    "to_deepinv",
    "ultrasound",
    "volume_of",
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
    "filter_bank": FilterBank,
    "tie": tie,
    "idt": idt,
    "cartesian_mri": CartesianMRI,
    "radial_mri": RadialMRI,
    "ultrasound": ultrasound,
    "emission": emission,
}
"""Constructors by name; every entry has a case in `tests/physics_cases.py` and with it the tests of the contract."""

NOISES: Mapping[str, Callable[..., Noise]] = {
    "gaussian": GaussianNoise,
    "white": GaussianNoise.white,
    "per_pixel": GaussianNoise.per_pixel,
    "stationary": GaussianNoise.stationary,
    "coils": GaussianNoise.coils,
    "poisson": PoissonNoise,
    "transmission": TransmissionNoise,
    "log_poisson": LogPoissonNoise,
    "mixture": MixtureNoise,
}
"""Laws of noise by name; every entry has a case in `tests/noise_cases.py` and with it the tests of the contract."""
