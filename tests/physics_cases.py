"""Small operators of every kind, by the name of their constructor; what a table entry brings its tests with."""

from __future__ import annotations

import math

import torch

from retrodict.bases import Fourier
from retrodict.physics import (
    OPERATORS,
    ConeBeam,
    FanBeam,
    ParallelBeam,
    Radiograph,
    Radon,
    birdcage,
    even_angles,
    golden_angles,
    pulse_echo,
    random_mask,
    sampling,
    spokes,
)

MICROSCOPE = {"wavelength": 6.3e-4, "aperture": 0.25, "index": 1.33, "thickness": 5e-3, "spacing": (8e-4, 7e-4)}


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _complex(*shape):
    return torch.complex(noise(*shape), noise(*shape, seed=1))


CASES: dict[str, list] = {
    "identity": [lambda f: f((5, 4)), lambda f: f((3,), complex=True, channels=2)],
    "diagonal": [lambda f: f(noise(5, 4), channels=3), lambda f: f(_complex(3, 4, 2), complex=True)],
    "mask": [
        lambda f: f(random_mask((7, 5), 0.4), channels=2),
        lambda f: f(random_mask((7, 5), 0.4), compact=True),
        lambda f: f(random_mask((4, 3, 5), 0.3), compact=True, complex=True),
    ],
    "haze": [lambda f: f(noise(5, 4).abs(), beta=0.3, airlight=(0.9, 0.8, 1.0), channels=3)],
    "blur": [
        lambda f: f((9, 8), noise(3, 5), channels=2),
        lambda f: f((9, 8), noise(4, 2), boundary="zero"),
        lambda f: f((9, 8), noise(4, 3), boundary="valid", center=(0, 2)),
        lambda f: f((5, 6, 4), noise(3, 2, 3), boundary="valid"),
        lambda f: f((7,), noise(15), boundary="zero"),
        lambda f: f((7, 6), _complex(3, 3), complex=True),
        lambda f: f((6, 5), _complex(3, 4), complex=True, boundary="zero"),
    ],
    "gaussian_blur": [lambda f: f((12, 11), 2.5, spacing=(0.7, 1.1)), lambda f: f((5, 6, 7), 2.0, boundary="zero")],
    "mtf_blur": [
        lambda f: f((8, 9), 1 / (1 + Fourier((8, 9), (0.5, 0.5)).radius() ** 2), spacing=(0.5, 0.5)),
        lambda f: f((8, 7), Fourier((8, 7), complex=True).forward(_complex(8, 7)), complex=True),
    ],
    "downsample": [
        lambda f: f((8, 12), 2),
        lambda f: f((9, 10), (3, 2), filter="bicubic", channels=2),
        lambda f: f((6, 9), 3, filter="gaussian", complex=True),
        lambda f: f((4, 6, 8), 2, filter="linear"),
        lambda f: f((8, 6), 2, filter=noise(3, 3)),
    ],
    "radon": [
        lambda f: f((9, 9), ParallelBeam(even_angles(12), 14, 1.0)),  # every symmetry
        lambda f: f(
            (8, 11), ParallelBeam(even_angles(5, start=0.1), 12, 0.9, offset=0.3), spacing=(1.2, 0.8), channels=2
        ),
        lambda f: f((7, 8), ParallelBeam(golden_angles(6), 9, 1.5, center=(0.7, -0.4)), memory=0),
        lambda f: f((8, 8), FanBeam(even_angles(8, 2 * math.pi), 11, 1.6, source=20.0, detector=30.0)),
        lambda f: f(
            (8, 7), FanBeam(even_angles(5, 2.0), 10, 1.5, 0.4, (0.3, 0.5), 20.0, 25.0, True), spacing=(0.9, 1.1)
        ),
    ],
    "projection": [
        lambda f: f((5, 6, 7), ConeBeam((0.0, 0.9, 4.0), (4, 8), (1.5, 1.3), 20.0, 30.0), spacing=(1.2, 1.0, 0.9)),
        lambda f: f(
            (6, 5, 5), ConeBeam((0.3, 2.0), (5, 7), (1.5, 1.3), 20.0, 30.0, (0.2, 0.4), (1, 0.5, 0.3)), memory=0
        ),
        lambda f: f((5, 5, 6), Radiograph([(0.1, -0.4, 0.8), (1.0, 0.2, 0.0)], (4, 5), (2.0, 2.0), parallel=True)),
        lambda f: f((4, 6, 5), Radiograph([(0.5, 0.0, 3.0)], (6, 5), (2.0, 1.8)), channels=2),
    ],
    "filter_bank": [
        lambda f: f((6, 5), _complex(2, 3, 6, 3)),
        lambda f: f((6, 8), _complex(3, 2, 6, 5)),
        lambda f: f((4, 5), _complex(2, 1, 4, 5), complex=True),
    ],
    "tie": [
        lambda f: f((8, 9), (0.01, -0.02), wavelength=5e-4, spacing=(1e-3, 1.2e-3)),
        lambda f: f((8, 8), (0.01, 0.03, 0.2), wavelength=5e-4, spacing=(1e-3, 1e-3), kind="ctf"),
        lambda f: f((7, 8), (0.01,), wavelength=5e-4, spacing=(1e-3, 1e-3), kind="laplacian"),
    ],
    "idt": [
        lambda f: f((9, 8), ((0.0, 0.0), (200.0, -150.0), (-90.0, 310.0)), (-0.01, 0.02), **MICROSCOPE),
        lambda f: f((8, 8), ((0.0, 0.0), (200.0, -150.0)), (0.0, 0.02), **MICROSCOPE, absorption=False),
    ],
    "cartesian_mri": [
        lambda f: f(sampling("random", (8, 10), 2.5, center=0.2)),
        lambda f: f(sampling("equispaced", (7, 9), 2, center=0.2), maps=birdcage((7, 9), 4)),
        lambda f: f(random_mask((4, 5, 3), 0.5)),
    ],
    "radial_mri": [
        lambda f: f((8, 7), spokes(5, 9), method="direct"),
        lambda f: f((6, 7), spokes(6, 8), maps=birdcage((6, 7), 3), method="direct"),
        lambda f: f((9,), spokes(2, 6)[:, :1], method="direct"),
        lambda f: f((4, 5, 3), 0.5 * noise(20, 3).clamp(-6, 6), method="direct"),
    ],
    "ultrasound": [
        lambda f: f((20, 9), pulse_echo(3e6, 0.6, 0.8, (0.05, 0.3)), spacing=(0.05, 0.3)),
        lambda f: f((12, 9), noise(5, 3), haze=0.4),
    ],
    "emission": [
        lambda f: f(
            Radon((8, 8), ParallelBeam(even_angles(6), 11, 1.0), unit="kBq/mL"),
            attenuation=0.01 * noise(8, 8).abs(),
            sensitivity=noise(6, 11).abs(),
            randoms=0.3,
            scatter=noise(6, 11).abs(),
        )
    ],
}


def operators():
    """(id, operator) of every case."""
    for name, cases in CASES.items():
        for i, make in enumerate(cases):
            yield f"{name}-{i}", make(OPERATORS[name])


def matrix(operator) -> torch.Tensor:
    """The dense real matrix of the linear part, complex numbers as two real rows or columns."""
    part = operator.part

    def real(x):
        return torch.view_as_real(x).flatten(1) if x.is_complex() else x.flatten(1)

    unit = torch.eye(part.domain.count, dtype=torch.float64)
    if part.domain.complex:
        unit = torch.view_as_complex(unit.reshape(len(unit), -1, 2).contiguous())
    return real(part.forward(unit.reshape(-1, *part.domain.shape))).T
