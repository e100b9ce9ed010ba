"""A law of noise of every kind, with clean data, by the name of its constructor."""

from __future__ import annotations

import torch

from physics_cases import noise
from retrodict.bases import Fourier
from retrodict.physics import NOISES, Covariance, GaussianNoise, Noise, PoissonNoise

SHAPE = (2, 5, 6)


def real(low=0.5, high=2.0):
    return low + (high - low) * torch.rand(*SHAPE, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def whole():
    return torch.complex(real(), real().flip(-1))


def hermitian(n=2):
    a = torch.complex(noise(n, n), noise(n, n, seed=1))
    return a @ a.mH + torch.eye(n, dtype=torch.complex128)


def nps(complex=False):
    basis = Fourier(SHAPE[1:], (0.7, 0.9), complex=complex)
    return basis, 0.1 + 1 / (1 + 4 * basis.radius() ** 2)


def _stationary(f, complex=False):
    return f(*nps(complex))


def _mixed(f):
    return f([0.8, 0.2], [GaussianNoise.white(0.3), GaussianNoise.white(2.0)])


CASES: dict[str, list] = {
    "gaussian": [
        (lambda f: f(Covariance(nps()[1] * torch.tensor([1.0, 2.0])[:, None, None], nps()[0])), real),
        (lambda f: f(Covariance(nps()[1], nps()[0], hermitian().real)), real),
        (lambda f: f(Covariance(nps(True)[1], nps(True)[0], hermitian())), whole),
    ],
    "white": [(lambda f: f(0.3), real), (lambda f: f(1.7, unit="1"), whole)],
    "per_pixel": [(lambda f: f(real()), real), (lambda f: f(real()[:1]), whole)],
    "stationary": [(_stationary, real), (lambda f: _stationary(f, True), whole)],
    "coils": [(lambda f: f(hermitian()), whole)],
    "poisson": [
        (lambda f: f(), lambda: real(30, 200)),
        (lambda f: f(gain=2.5), lambda: real(90, 300)),
        (lambda f: f(gain=2.0, electronic=4.0), lambda: real(60, 300)),
    ],
    "transmission": [
        (lambda f: f(400.0), real),
        (lambda f: f(200 + 500 * torch.rand(6, dtype=torch.float64), background=real(1, 9), electronic=3.0), real),
    ],
    "log_poisson": [
        (lambda f: f(3000.0), real),
        (lambda f: f(5000.0, background=20.0, electronic=3.0), real),
    ],
    "mixture": [
        (_mixed, real),
        (_mixed, whole),
        (lambda f: f([0.7, 0.3], [PoissonNoise(), PoissonNoise(electronic=9.0)]), lambda: real(30, 90)),
    ],
}


def laws() -> dict[str, tuple[Noise, torch.Tensor]]:
    """(law, one clean item `(1, *shape)`) of every case."""
    found = {}
    for name, cases in CASES.items():
        for i, (make, clean) in enumerate(cases):
            torch.manual_seed(0)
            found[f"{name}-{i}"] = make(NOISES[name]), clean()[None]
    return found
