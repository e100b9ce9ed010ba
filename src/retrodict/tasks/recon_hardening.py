"""Beam hardening of a scan in a file: the correction that its description asks for, and the noise after it."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.physics.classics import fbp
from retrodict.physics.geometry import FanBeam
from retrodict.physics.hardening import Hardening, HardeningFit, fit_hardening
from retrodict.physics.measurement import Measurement
from retrodict.physics.noise import GaussianNoise, Noise
from retrodict.physics.outline import find_disc
from retrodict.physics.radon import Radon
from retrodict.tasks.recon_config import HardeningPart

__all__ = ["Corrected", "hardening_of", "noise_after", "otsu"]


class Corrected(NamedTuple):
    """The correction, and what is to be said of it."""

    correction: Hardening
    about: dict[str, Any]


def hardening_of(part: HardeningPart, values: Tensor, operator: Radon | None) -> Corrected:
    """The correction for line integrals `(views, bins)` of the scan of an operator, which only a fit needs.

    Raises `InputError` for a fit that the scan does not allow, and a correction that falls within the data.
    """
    about: dict[str, Any] = {}
    if part.coefficients is not None:
        correction = Hardening(tuple(part.coefficients))
    elif part.fit is not None:
        assert operator is not None
        found = _disc(part, values, operator) if part.fit == "disc" else _threshold(part, values, operator)
        correction = found.correction
        about |= {"fit": part.fit, "attenuation": found.attenuation, "rms_mm": found.rms}
    else:
        assert part.weights is not None
        assert part.attenuation is not None
        assert part.reach is not None
        correction = Hardening.of_spectrum(part.weights, part.attenuation, part.reach, part.order)
        about["spectrum"] = len(part.weights)
    correction.check(values)
    return Corrected(correction, {"coefficients": list(correction.coefficients), **about})


def _disc(part: HardeningPart, values: Tensor, operator: Radon) -> HardeningFit:
    disc = find_disc(values, operator.geometry)
    # the outermost rays cross the edge within a bin
    return fit_hardening(values, disc.lengths(operator.geometry), part.order, least=0.2 * disc.radius)


def _threshold(part: HardeningPart, values: Tensor, operator: Radon) -> HardeningFit:
    """Paths through the thresholded filtered back-projection, twice: the second image has less of a cup."""
    scan = operator.geometry
    span = max(scan.angles) - min(scan.angles)
    full = math.pi if not isinstance(scan, FanBeam) else math.pi + 2 * float(scan.fan().abs().max())
    if span < full * (1 - 1.5 / max(scan.views, 2)):
        found = f"views over {math.degrees(span):.0f} degrees, which leave the shape of the object open"
        hint = "Use fit disc, or the coefficients of another scan."
        raise InputError("corrections.hardening.fit", "threshold", f"not {found}", hint)
    pixel = min(operator.domain.spacing)
    found, p = None, values
    for _ in range(2):
        image = fbp(Measurement(operator, p[None, None]), filter="hann").image
        body = (image > otsu(image)).to(image)
        found = fit_hardening(values, operator.forward(body)[0, 0], part.order, least=4 * pixel)
        p = found.correction(values)
    assert found is not None
    return found


def otsu(image: Tensor, bins: int = 256) -> float:
    """The threshold that separates two classes best (Otsu, IEEE Trans. Syst. Man Cybern. 9, 1979)."""
    low, high = float(image.min()), float(image.max())
    if not high > low:
        raise InputError("image", f"{low:.4g} everywhere", "two classes to separate")
    counts = torch.histc(image.double().flatten(), bins, low, high)
    middle = low + (torch.arange(bins, dtype=torch.float64, device=counts.device) + 0.5) * (high - low) / bins
    weight, first = counts.cumsum(0), (counts * middle).cumsum(0)
    between = (first[-1] * weight / weight[-1] - first) ** 2 / (weight * (weight[-1] - weight)).clamp_min(1e-300)
    return float(middle[int(between[:-1].argmax())])


def noise_after(noise: Noise | None, correction: Hardening, values: Tensor) -> Noise | None:
    """The law of corrected line integrals, to first order: the deviation of every ray times the slope at its value."""
    if noise is None:
        return None
    clean = values[None, None]
    deviation = noise.variance(clean)[0].double().sqrt() * correction.slope(values.double())
    return GaussianNoise.per_pixel(deviation, "1")
