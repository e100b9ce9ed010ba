"""A Gaussian prior from one measurement alone: the power law of images that the data are most likely under."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.bases import Fourier
from retrodict.bases.spectrum import Spectrum
from retrodict.denoisers.denoiser import GaussianDenoiser
from retrodict.physics.measurement import Measurement
from retrodict.posterior.moments import DenseMoments, PosteriorMoments, SolvedMoments
from retrodict.processes.scalar import edm

__all__ = ["FittedSpectrum", "PowerLaw", "basis_of", "first_law", "fit_spectrum", "gaussian_prior"]

BINS, NODES = 64, 96
"""Annuli of the periodogram, and nodes of the spectrum."""

EXPONENT = (3.0, 1.0)
"""Mean and deviation of the exponent of L before the data: that of images of objects with edges."""

SOLVED, CAP = 0.1, 300
"""Error of a solve of the fit in deviations of the posterior, and its rounds at most: what is fitted is three numbers.
"""

LOOSE = 0.3
"""The same error beyond which matrices take over, where the image is small enough: draws that are off by e deviations
have a variance that is too large by e^2, the fit raises L by as much where little was seen, and the next system is
worse.  A fit that runs away so ends in a white spectrum."""

STEP = torch.tensor([2.0, 1.0, 1.0], dtype=torch.float64, device="cpu")
"""Largest step of log amplitude, log corner and exponent in a round."""

WIDEST = 2.0
"""Standard deviations of the state over those of the images at t = 1 (`gaussian_prior`)."""


class PowerLaw(NamedTuple):
    """L(f) = amplitude / (1 + (f/corner)^2)^(exponent/2) around the constant `mean`; f in cycles/mm, L per coefficient
    and real component.
    """

    mean: float
    amplitude: float
    corner: float
    exponent: float

    def at(self, radius: Tensor) -> Tensor:
        """L of frequencies."""
        return self.amplitude * (1 + (radius / self.corner) ** 2) ** (-self.exponent / 2)

    def spectrum(self, basis: Fourier) -> Spectrum:
        """As a `Spectrum`, with nodes over the frequencies of a grid."""
        radius = basis.radius()
        top = float(radius.max())
        low = 0.5 * float(radius[radius > 0].min())
        nodes = torch.logspace(math.log10(low), math.log10(1.01 * top), NODES, dtype=torch.float64, device="cpu")
        return Spectrum(self.mean, tuple(nodes.tolist()), tuple(self.at(nodes).tolist()))


@dataclass(frozen=True)
class FittedSpectrum:
    """The law that was found, as a `Spectrum`, after `rounds`; `settled` where the last one changed it by less than was
    asked for (in the logarithm of L, anywhere on the grid: `change`).  `error`: of the solves of the last round, root
    mean square in deviations of the posterior; 0 where they were matrices.
    """

    spectrum: Spectrum
    law: PowerLaw
    rounds: int
    settled: bool
    change: float
    error: float = 0.0


def basis_of(measurement: Measurement) -> Fourier:
    """The Fourier basis of the measured images, complex where they are."""
    domain = measurement.operator.domain
    size = domain.shape[1:]
    if domain.shape[0] != 1:
        raise InputError("images", f"{domain.shape[0]} channels", "one, for a Gaussian prior of a spectrum")
    spacing = domain.spacing if len(domain.spacing) == len(size) else (1.0,) * len(size)
    return Fourier(tuple(size), tuple(spacing), complex=domain.complex)


def gaussian_prior(spectrum: Spectrum, basis: Fourier) -> GaussianDenoiser:
    """The exact denoiser of Gaussian images of a spectrum, with the plainest process: white noise up to `WIDEST` times
    their deviation.  Posterior methods that are exact on Gaussian data are exact with it in one call.
    """
    power = spectrum.on(basis)
    weight = basis.multiplicity()
    deviation = math.sqrt(float((power * weight).sum() / weight.sum()))
    return GaussianDenoiser(edm(basis, WIDEST * deviation), spectrum=spectrum)


def fit_spectrum(
    measurement: Measurement,
    *,
    rounds: int = 15,
    members: int = 3,
    seed: int = 0,
    tolerance: float = 0.05,
) -> FittedSpectrum:
    """The power law N(mean, L(f)) of the images that makes the measurement most likely (empirical Bayes).

    Maximizes p(y | amplitude, corner, exponent) by scoring.  With m and V(f) mean and variance of the posterior under
    the law so far, J = d log L / d theta and n(f) real numbers at f,

        gradient = 1/2 sum n ((|m - mean|^2 + V)/L - 1) J,    information = 1/2 sum n (1 - V/L)^2 J J^T,

    the first exact (Fisher's identity), the second where operator and noise are diagonal.  m and `members` draws that
    give V are one batch of solves, with the same random numbers in every round, so the rounds settle; where these do
    not end (a limited angle) and the image has at most 2500 real numbers, m and V are exact, by matrices.  A round that
    turns back on the one before halves the step.  The exponent has a weak law of its own, `EXPONENT`, for data that see
    one end of the spectrum only.  Real images have the mean of m, complex ones 0.  Ends after `rounds`, or where log L
    would change by less than `tolerance` at every frequency.

    The measurement has one item and a law of noise; images are in the unit of its operator.  What this cannot know:
    that images are neither Gaussian nor stationary.  `error` of the result says whether the solves are to be believed.
    Raises `InputError` for data that are no more than their noise.
    """
    if rounds < 1 or members < 1:
        raise InputError("rounds, members", (rounds, members), "at least one of each")
    measurement = _double(measurement)  # strong data make systems that single precision does not solve
    like = _zeros(measurement, 1)
    basis = basis_of(measurement).to(like.device)
    moments: PosteriorMoments = SolvedMoments(measurement, like, basis, members, seed, rounds=CAP, enough=SOLVED)
    law, change, done, rate = first_law(measurement), math.inf, 0, 1.0
    radius, last = basis.radius(), torch.zeros(3, dtype=torch.float64, device="cpu")
    while done < rounds and change >= tolerance:
        found = moments(law.mean, law.at(radius))
        if moments.error > LOOSE and DenseMoments.serves(measurement):
            moments = DenseMoments(measurement, like, basis)
            found = moments(law.mean, law.at(radius))
        step, mean = _scored(law, *found, basis)
        rate = 0.5 * rate if float(step @ last) < 0 else rate
        new, last = _moved(law, mean, rate * step, radius), step
        change = float((new.at(radius) / law.at(radius)).log()[radius > 0].abs().max()) / rate
        law, done = new, done + 1
    return FittedSpectrum(law.spectrum(basis), law, done, change < tolerance, change, moments.error)


def _double(measurement: Measurement) -> Measurement:
    y = measurement.y
    return replace(measurement, y=y.to(torch.complex128 if y.is_complex() else torch.float64))


def _zeros(measurement: Measurement, count: int) -> Tensor:
    """Images `(count, 1, *N)` in double precision, where the data are."""
    domain = measurement.operator.domain
    kind = torch.complex128 if domain.complex else torch.float64
    return torch.zeros(count, *domain.shape, dtype=kind, device=measurement.y.device)


def first_law(measurement: Measurement) -> PowerLaw:
    """A law to begin with: the constant that fits the data best (0 of complex images), and 1/f^3 beyond four times the
    lowest frequency, as strong as what that leaves: the power of A x in the whitened data is what they have beyond that
    of the noise.
    """
    basis = basis_of(measurement).to(measurement.y.device)
    operator, y = _double(measurement).whitened()
    mean = 0.0
    if not basis.complex:
        one = operator.forward(_zeros(measurement, 1) + 1.0)
        size = float(one.abs().square().sum())
        mean = float((one.conj() * y).real.sum()) / size if size > 0 else 0.0
        y = y - mean * one
    radius = basis.radius()
    start = PowerLaw(mean, 1.0, 4 * float(radius[radius > 0].min()), 3.0)
    probes = torch.cat([operator.domain.white(k, "first-law") for k in range(4)]).to(_zeros(measurement, 1))
    images = operator.forward(basis.inverse(start.at(radius).sqrt() * basis.forward(probes)))
    power = float(images.abs().square().sum()) / len(probes)
    have, noise = float(y.abs().square().sum()), measurement.count
    if not have > 1.01 * noise or not power > 0:
        found = f"data whose power beside a constant is {have / noise:.3g} times that of their noise"
        raise InputError("spectrum of the prior", found, "more than the noise, or there is no image to learn from")
    return start._replace(amplitude=(have - noise) / power)


# ---- the law of a periodogram ----------------------------------------------------------------------------------------


def _scored(law: PowerLaw, x: Tensor, spread: Tensor, basis: Fourier) -> tuple[Tensor, float]:
    """A step of scoring of (log amplitude, log corner, exponent) from `law`, whose posterior has mean x `(1, 1, *N)`
    and variances `spread` `(*K)`, and the mean of x.
    """
    mean = 0.0 if basis.complex else float(x.double().mean())
    middle = basis.energy(basis.forward(x - mean)).double().mean((0, 1)).cpu()
    radius, weight = basis.radius().cpu(), basis.multiplicity().cpu()
    inside = radius > 0
    f, (m, v), n = _annuli(radius[inside], torch.stack([middle, spread.cpu()])[:, inside], weight[inside])
    at, ratio = law.at(f), (f / law.corner) ** 2
    jacobian = torch.stack([torch.ones_like(f), law.exponent * ratio / (1 + ratio), -0.5 * torch.log1p(ratio)])
    gradient = 0.5 * (n * ((m + v) / at - 1) * jacobian).sum(1)
    known = (1 - v / at).clamp(0.0, 1.0)
    information = 0.5 * (n * known**2 * jacobian) @ jacobian.T
    center, width = EXPONENT
    gradient[2] += (center - law.exponent) / width**2
    information[2, 2] += 1 / width**2
    information += 1e-9 * information.diagonal().max() * torch.eye(3, dtype=torch.float64, device="cpu")
    step = torch.linalg.solve(information, gradient)
    low, high = (math.log(bound / law.corner) for bound in _corners(radius))
    if not low <= float(step[1]) <= high:
        step = _held(information, gradient, min(max(float(step[1]), low), high))
    return step * min(1.0, float((STEP / step.abs().clamp_min(1e-12)).min())), mean


def _moved(law: PowerLaw, mean: float, step: Tensor, radius: Tensor) -> PowerLaw:
    """The law a step further, its corner and exponent within what a grid of frequencies can tell."""
    low, high = _corners(radius)
    corner = min(max(law.corner * math.exp(float(step[1])), low), high)
    exponent = min(max(law.exponent + float(step[2]), 0.2), 12.0)
    return PowerLaw(mean, law.amplitude * math.exp(float(step[0])), corner, exponent)


def _corners(radius: Tensor) -> tuple[float, float]:
    """Least and largest corner: beyond them the law on this grid is a power of f, or white, wherever the corner is."""
    return 0.5 * float(radius[radius > 0].min()), 4 * float(radius.max())


def _held(information: Tensor, gradient: Tensor, corner: float) -> Tensor:
    """The step of amplitude and exponent where the corner moves by `corner`, to its bound: beyond it amplitude and
    corner are one number, and would run away together.
    """
    free = torch.tensor([0, 2], device="cpu")
    step = torch.full((3,), corner, dtype=torch.float64, device="cpu")
    step[free] = torch.linalg.solve(information[free][:, free], gradient[free] - information[free, 1] * corner)
    return step


def _annuli(radius: Tensor, powers: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean frequency, mean of each row of `powers` and real numbers of logarithmic annuli that hold any."""
    edges = torch.logspace(
        math.log10(0.999 * float(radius.min())), math.log10(1.001 * float(radius.max())), BINS + 1,
        dtype=torch.float64, device="cpu",
    )  # fmt: skip
    place = torch.bucketize(radius, edges) - 1
    f, n = torch.zeros(2, BINS, dtype=torch.float64, device="cpu")
    s = torch.zeros(len(powers), BINS, dtype=torch.float64, device="cpu")
    f.index_add_(0, place, weight * radius)
    s.index_add_(1, place, weight * powers)
    n.index_add_(0, place, weight)
    kept = n > 0
    return f[kept] / n[kept], s[:, kept] / n[kept], n[kept]
