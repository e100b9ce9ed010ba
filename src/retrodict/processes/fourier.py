"""Fourier diffusion: a falling MTF and a rising NPS, of the paper or measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.bases import Basis, Fourier
from retrodict.bases.curve import Curve
from retrodict.processes.observation import Moments
from retrodict.processes.process import Law, Process, assemble
from retrodict.processes.slices import MOST_CORRELATION, along, plane_of, slice_mtf, slice_power

__all__ = ["FourierProcess", "ct_filters", "family_to", "fourier", "measured"]


FWHM_TO_SIGMA = 1.0 / (2.0 * math.sqrt(2.0 * math.log(2.0)))


# ---- Fourier diffusion -------------------------------------------------------------------------------------------


def ct_filters(radius: Tensor, wide: float = 3.0, narrow: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """Low-, band- and high-pass filters of eqs. 25-27 at frequency `radius` in cycles/mm.

    point spread functions of full width at half maximum `wide` and `narrow` mm, transfer function
    G(f) = exp(-2 pi^2 sigma^2 f^2), sigma = 0.42466 FWHM (analytic, not the transform of a sampled kernel).
    """

    def gaussian(width: float) -> Tensor:
        return torch.exp(-2 * math.pi**2 * (width * FWHM_TO_SIGMA) ** 2 * radius**2)

    low, middle = gaussian(wide), gaussian(narrow)
    return low, middle - low, 1 - middle


def _ramps(t: Tensor, normalised: bool) -> tuple[Tensor, Tensor]:
    """(q, rho): q falls from 1, rho rises from 0; normalised, q(1) = 0 and rho(1) = 1 exactly."""
    q, rho = torch.exp(-5 * t**2), -torch.expm1(-10 * t**2)
    if normalised:
        q = (q - math.exp(-5.0)) / -math.expm1(-5.0)
        rho = rho / -math.expm1(-10.0)
    return q, rho


def fourier(
    basis: Basis,
    gain_weights: Sequence[float] = (1.0, 0.5, 0.1),
    noise_weights: Sequence[float] = (0.1, 1.0, 0.5),
    fwhm: Sequence[float] = (3.0, 1.0),
    normalised: bool = True,
    **pairing: Any,
) -> Process:
    """Fourier diffusion: an MTF falls and an NPS rises until x_1 is the measurement.

    H = sum_b (w_b + (1 - w_b) q(t)) F_b, Sigma = rho(t) sum_b n_b F_b over the low-, band- and high-pass filters
    (Tivnan et al. 2023, eqs. 25-34).
    `noise_weights` are variances per coefficient in data units squared.  With `normalised` (default) q(1) = 0 and
    rho(1) = 1, so that x_1 has exactly the law of the measurement (eqs. 29-30); the paper's own ramps, q = exp(-5 t^2)
    and rho = 1 - exp(-10 t^2), leave the gain of a pure high-pass coefficient 6 % too large.
    """
    wide, narrow = fwhm

    def terminal(bound: Basis) -> Moments:
        filters = ct_filters(bound.radius(), wide, narrow)
        return _measurement(_weighted(gain_weights, filters), _weighted(noise_weights, filters))

    def family(bound: Basis) -> Law:
        gain, _, noise = terminal(bound)

        def law(t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            q, rho = _ramps(t, normalised)
            return gain + (1 - gain) * q, 0 * t, rho * noise

        return law

    options = {
        "gain_weights": list(gain_weights),
        "noise_weights": list(noise_weights),
        "fwhm": list(fwhm),
        "normalised": normalised,
    }
    defaults = {"conditioning": "terminal", "measurement": terminal}
    return assemble(family, basis, "fourier", options, **{**defaults, **pairing})


def _measurement(gain: Tensor, noise: Tensor) -> Moments:
    return Moments(gain, torch.zeros_like(gain), noise)


def _weighted(weights: Sequence[float], filters: Sequence[Tensor]) -> Tensor:
    return torch.stack([w * f for w, f in zip(weights, filters, strict=True)]).sum(0)


def measured(
    basis: Basis,
    mtf: Any,
    nps: Any,
    unit_scale: float = 1.0,
    slices: Mapping[str, float] | None = None,
    **pairing: Any,
) -> Process:
    """Fourier diffusion that ends at a measured MTF and NPS (`Curve` records or their JSON form).

    H = 1 + (MTF - 1)(1 - q), Sigma = rho NPS / (pixel volume) with the normalised ramps of `fourier`, of which it is
    the form for any instrument (Tivnan et al. 2023, eqs. 31-34 without their filters).  Where the MTF
    exceeds 1 (sharp kernels) the variance follows the clock instead, Sigma = rho (H / MTF)^2 NPS / volume, so that
    the noise-to-signal clock still never decreases.  `unit_scale`: data unit per model unit (NPS / unit_scale^2).

    slices: on three axes, where curves are those of a slice (rows, columns; NPS in unit^2 mm^2), a record of "profile"
    and "correlation" says what happens along the first.  The MTF is that of the slice times `slice_mtf` of the profile
    (full width at half maximum of the slice sensitivity profile, mm), and the noise NPS / (pixel area) times
    `slice_power` of the correlation of the noise of neighboring slices.
    """
    mtf_curve, nps_curve = Curve.parse(mtf, "mtf"), Curve.parse(nps, "nps")
    plane = basis if slices is None else plane_of(basis)
    mtf_curve.require("mtf", plane)
    nps_curve.require("nps", plane)
    between = None if slices is None else _between(slices)

    def terminal(bound: Basis) -> Moments:
        own = bound if between is None else plane_of(bound)
        gain, noise = mtf_curve.on(own), nps_curve.on(own) / (math.prod(own.spacing) * unit_scale**2)
        if between is None:
            return _measurement(gain, noise)
        assert isinstance(bound, Fourier)
        f, (profile, correlation) = along(bound, 0), between
        return _measurement(slice_mtf(f, profile) * gain, slice_power(f, bound.spacing[0], correlation) * noise)

    options = {"mtf": mtf_curve.to_json(), "nps": nps_curve.to_json(), "unit_scale": unit_scale}
    if between is not None:
        options["slices"] = dict(zip(BETWEEN, between, strict=True))
    defaults = {"conditioning": "terminal", "measurement": terminal}
    return assemble(family_to(terminal), basis, "measured", options, **{**defaults, **pairing})


BETWEEN = ("profile", "correlation")


def _between(slices: Mapping[str, float]) -> tuple[float, float]:
    """Profile in mm and correlation of neighbors; `InputError` for what cannot be."""
    if not isinstance(slices, Mapping) or set(slices) != set(BETWEEN):
        raise InputError("slices", repr(slices)[:80], "a record of profile (mm) and correlation")
    numbers: dict[str, float] = {}
    for name, most in zip(BETWEEN, (1000.0, MOST_CORRELATION), strict=True):
        value = slices[name]
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
            raise InputError(f"slices.{name}", repr(value)[:80], f"a number from 0 to {most:g}")
        numbers[name] = float(value)
    return numbers["profile"], numbers["correlation"]


def family_to(terminal: Callable[[Basis], Moments]) -> Callable[[Basis], Law]:
    """The family of laws that ends at the measurements of `terminal(basis)`, as in `measured`."""

    def family(bound: Basis) -> Law:
        gain, _, noise = terminal(bound)

        def law(t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            q, rho = _ramps(t, normalised=True)
            h = gain + (1 - gain) * q
            boost = torch.where(gain > 1, h / torch.where(gain > 1, gain, 1.0), 1.0)
            return h, 0 * t, rho * boost**2 * noise

        return law

    return family


class FourierProcess:
    """Constructors of Fourier diffusion processes for measured instruments."""

    @staticmethod
    def from_measurement(
        mtf: Any, nps: Any, spacing: Sequence[float], size: Sequence[int] = (64, 64), unit_scale: float = 1.0
    ) -> Process:
        """Process whose terminal state has the measured MTF and NPS.

        `mtf`, `nps`: a `Curve` (isotropic: frequency in cycles/mm and value; or two-dimensional) or its JSON record,
        with units; the NPS in unit^2 mm^ndim.  `spacing` in mm per axis, `size` of the grid (change it later with
        `.on(size)`); `unit_scale` as in `measured`.  Raises `InputError` for curves that are negative, not finite,
        without units, or that end before the Nyquist frequency.
        """
        return measured(Fourier(tuple(size), tuple(spacing)), mtf, nps, unit_scale)
