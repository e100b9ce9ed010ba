"""A small measurement for every classical reconstruction, with options, by the name of the method."""

from __future__ import annotations

import math

import torch

from physics_cases import noise
from retrodict.bases import Fourier
from retrodict.physics import (
    Blur,
    CartesianMRI,
    ConeBeam,
    Covariance,
    FanBeam,
    GaussianNoise,
    Measurement,
    ParallelBeam,
    PoissonNoise,
    Projection,
    RadialMRI,
    Radon,
    birdcage,
    emission,
    even_angles,
    sampling,
    spokes,
)

SIZE = (8, 8)
PARALLEL = Radon(SIZE, ParallelBeam(even_angles(9), 13, 1.0))
FAN = Radon(SIZE, FanBeam(even_angles(12, 2 * math.pi), 15, 1.6, source=20.0, detector=30.0))
CONE = Projection((3, 6, 6), ConeBeam(even_angles(8, 2 * math.pi), (5, 11), (1.5, 1.5), 20.0, 30.0))
PET = emission(Radon(SIZE, ParallelBeam(even_angles(8), 13, 1.0), unit="kBq/mL"), sensitivity=30.0, randoms=4.0)
MICROSCOPE = Blur.gaussian(SIZE, 2.0, unit="counts")
EVERY_SECOND = torch.zeros(6, 8)
EVERY_SECOND[1::2] = 1
SENSE = CartesianMRI(EVERY_SECOND, maps=birdcage((6, 8), 4))
RANDOM = CartesianMRI(sampling("random", (6, 8), 2, center=0.25), maps=birdcage((6, 8), 3))
RADIAL = RadialMRI((6, 6), spokes(7, 8), maps=birdcage((6, 6), 3), method="direct")


def gaussian(operator, sigma=0.05, count=2):
    x = torch.cat([operator.domain.white(5, "image", i) for i in range(count)])
    return Measurement.simulate(operator, GaussianNoise.white(sigma), x, range(count))


def poisson(operator, count=2):
    x = 20 + 30 * torch.cat([operator.domain.white(5, "image", i) for i in range(count)]).abs()
    return Measurement.simulate(operator, PoissonNoise(), x, range(count))


def prior():
    basis = Fourier(SIZE)
    return Covariance(0.05 + 1 / (1 + (basis.radius() / 0.15) ** 2), basis)


CASES = {
    "fbp": [(lambda: gaussian(PARALLEL), {"filter": "hann"}), (lambda: gaussian(FAN), {"cutoff": 0.8})],
    "fdk": [(lambda: gaussian(CONE), {})],
    "sirt": [(lambda: gaussian(PARALLEL), {"iterations": 5}), (lambda: gaussian(CONE), {"iterations": 3})],
    "sart": [(lambda: gaussian(FAN), {"iterations": 2, "nonnegative": True})],
    "os_sart": [(lambda: gaussian(PARALLEL), {"iterations": 3, "subsets": 4})],
    "cgls": [(lambda: gaussian(PARALLEL), {"iterations": 6}), (lambda: gaussian(RADIAL), {"iterations": 6})],
    "tikhonov": [(lambda: gaussian(PARALLEL), {"strength": 100.0}), (lambda: gaussian(MICROSCOPE), {"strength": 1.0})],
    "wiener": [(lambda: gaussian(MICROSCOPE), {"prior": prior()})],
    "ml_em": [(lambda: poisson(PET), {"iterations": 4})],
    "os_em": [(lambda: poisson(PET), {"iterations": 2, "subsets": 4})],
    "richardson_lucy": [(lambda: poisson(MICROSCOPE), {"iterations": 4})],
    "fista": [
        (lambda: gaussian(PARALLEL), {"strength": 5.0, "iterations": 10}),
        (lambda: gaussian(RANDOM), {"strength": 5.0, "iterations": 5, "penalty": "wavelet", "levels": 1}),
    ],
    "admm": [
        (lambda: gaussian(PARALLEL), {"strength": 5.0, "iterations": 10, "nonnegative": True}),
        (lambda: gaussian(RANDOM), {"strength": 5.0, "iterations": 5, "penalty": "wavelet", "levels": 1}),
    ],
    "sense": [(lambda: gaussian(SENSE), {})],
    "cg_sense": [(lambda: gaussian(RANDOM), {}), (lambda: gaussian(RADIAL), {"strength": 0.5})],
}


def steps(*shape):
    """An image of few edges and a little noise."""
    x = 0.02 * noise(1, 1, *shape)
    x[..., shape[0] // 3 :, : shape[1] // 2] += 1.0
    return x
