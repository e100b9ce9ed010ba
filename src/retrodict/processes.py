"""The forward processes: each is a function that returns a `Process`, and one line in `PROCESSES`.

A process says how an image is degraded, as (h, k, s^2) per coefficient and time; everything else follows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict._recipe import Recipe, build
from retrodict.bases import BASES, Basis, Fourier, Wavelet
from retrodict.curves import Curve
from retrodict.process import Conditioning, Gaussian, Law, Process

__all__ = [
    "PROCESSES",
    "FourierProcess",
    "cosine",
    "ct_filters",
    "external",
    "fourier",
    "mean_reverting",
    "measured",
    "process_from_recipe",
    "process_to_recipe",
    "scalar",
    "sub_vp",
    "ve",
    "vp",
    "wavelet_bands",
]

FWHM_TO_SIGMA = 1.0 / (2.0 * math.sqrt(2.0 * math.log(2.0)))


def _scalar(law: Law) -> Any:
    """A family that is the same at every coefficient of every basis."""
    return lambda basis: law


def vp(basis: Basis, beta_min: float = 0.1, beta_max: float = 20.0, **pairing: Any) -> Process:
    """Variance preserving, linear beta: log h = -t^2 (b1 - b0)/4 - t b0/2, s^2 = 1 - h^2 (Song et al. 2021)."""

    def law(t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        log_h = -(t**2) * (beta_max - beta_min) / 4 - t * beta_min / 2
        return log_h.exp(), 0 * t, -torch.expm1(2 * log_h)

    return _finish(_scalar(law), basis, "vp", {"beta_min": beta_min, "beta_max": beta_max}, **pairing)


def cosine(basis: Basis, offset: float = 0.008, end: float = 0.9999, **pairing: Any) -> Process:
    """Variance preserving with h = cos(a(t)) / cos(a(0)), a = (pi/2) (end t + offset)/(1 + offset).

    Nichol and Dhariwal 2021, eq. 17; `end` < 1 keeps h(1) > 0, so that every conversion stays finite.
    """

    def law(t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        start = 0.5 * math.pi * offset / (1 + offset)
        angle = 0.5 * math.pi * (end * t + offset) / (1 + offset)
        h = torch.cos(angle) / math.cos(start)
        # 1 - h^2 without cancellation: cos^2 a0 - cos^2 a = sin(a - a0) sin(a + a0)
        return h, 0 * t, torch.sin(angle - start) * torch.sin(angle + start) / math.cos(start) ** 2

    return _finish(_scalar(law), basis, "cosine", {"offset": offset, "end": end}, **pairing)


def sub_vp(basis: Basis, beta_min: float = 0.1, beta_max: float = 20.0, **pairing: Any) -> Process:
    """Sub-VP: the gain of `vp`, standard deviation s = 1 - h^2 (Song et al. 2021)."""

    def law(t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        log_h = -(t**2) * (beta_max - beta_min) / 4 - t * beta_min / 2
        return log_h.exp(), 0 * t, torch.expm1(2 * log_h) ** 2

    return _finish(_scalar(law), basis, "sub_vp", {"beta_min": beta_min, "beta_max": beta_max}, **pairing)


def ve(basis: Basis, sigma_min: float = 0.01, sigma_max: float = 50.0, **pairing: Any) -> Process:
    """Variance exploding: h = 1, s = sigma_min (sigma_max / sigma_min)^t, in data units (Song et al. 2021)."""

    def law(t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return torch.ones_like(t), 0 * t, sigma_min**2 * torch.exp(2 * t * math.log(sigma_max / sigma_min))

    return _finish(_scalar(law), basis, "ve", {"sigma_min": sigma_min, "sigma_max": sigma_max}, **pairing)


def scalar(basis: Basis, **pairing: Any) -> Process:
    """The scalar schedule of Fourier diffusion, eqs. 31-32: h = exp(-5 t^2), s^2 = 1 - exp(-10 t^2) (Tivnan 2023).

    It is `vp` with beta(t) = 20 t.
    """

    def law(t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return torch.exp(-5 * t**2), 0 * t, -torch.expm1(-10 * t**2)

    return _finish(_scalar(law), basis, "scalar", {}, **pairing)


def mean_reverting(
    basis: Basis, level: float = 50 / 255, delta: float = 0.005, offset: float = 0.008, **pairing: Any
) -> Process:
    """Mean-reverting (IR-SDE): dx = theta (c - x) dt + sigma dW, h = e^-T, k = 1 - h, s^2 = level^2 (1 - h^2).

    T(t) = log(1/delta) T0(t) / T0(1) with rate theta(t) = 1 - cos^2(((t + offset)/(1 + offset)) pi/2), the continuous
    form of the cosine schedule of Luo et al. 2023 (their 100 discrete rates are samples of it).  `level` is the noise
    standard deviation around the condition image at t = 1, in data units; h(1) = delta.
    """
    rate = math.pi / (1 + offset)  # theta = (1 - cos(rate (t + offset))) / 2

    def integral(t: Tensor) -> Tensor:
        return 0.5 * (t - (torch.sin(rate * (t + offset)) - math.sin(rate * offset)) / rate)

    whole = float(integral(torch.tensor(1.0, dtype=torch.float64)))

    def law(t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        elapsed = -math.log(delta) * integral(t) / whole
        h = torch.exp(-elapsed)
        return h, -torch.expm1(-elapsed), -(level**2) * torch.expm1(-2 * elapsed)

    options = {"level": level, "delta": delta, "offset": offset}
    return _finish(_scalar(law), basis, "mean_reverting", options, **{"conditioning": "external", **pairing})


def wavelet_bands(basis: Wavelet, decay: float = 10.0, tilt: float = 2.0, **pairing: Any) -> Process:
    """A variance-preserving process whose clock runs at its own speed in every wavelet band.

    h = exp(-a_b t^2 / 2), s^2 = 1 - exp(-a_b t^2), a_b = decay * tilt^(1 - b / levels), b = 0 for the finest details:
    with tilt > 1 fine details drown first and the approximation last.
    """

    def family(bound: Basis) -> Law:
        if not isinstance(bound, Wavelet):
            raise InputError("wavelet_bands basis", type(bound).__name__, "a Wavelet basis")
        speed = decay * tilt ** (1 - bound.band().double() / bound.levels)

        def law(t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            return torch.exp(-speed * t**2 / 2), 0 * t, -torch.expm1(-speed * t**2)

        return law

    return _finish(family, basis, "wavelet_bands", {"decay": decay, "tilt": tilt}, **pairing)


# ---- Fourier diffusion -------------------------------------------------------------------------------------------


def ct_filters(radius: Tensor, wide: float = 3.0, narrow: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """Low-, band- and high-pass filters of eqs. 25-27 at frequency `radius` in cycles/mm.

    Gaussian point spread functions of full width at half maximum `wide` and `narrow` mm, transfer function
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
    """Fourier diffusion, eqs. 25-34 (Tivnan et al. 2023): an MTF falls and an NPS rises until x_1 is the measurement.

    H = sum_b (w_b + (1 - w_b) q(t)) F_b, Sigma = rho(t) sum_b n_b F_b over the low-, band- and high-pass filters.
    `noise_weights` are variances per coefficient in data units squared.  With `normalised` (default) q(1) = 0 and
    rho(1) = 1, so that x_1 has exactly the law of the measurement (eqs. 29-30); the paper's own ramps, q = exp(-5 t^2)
    and rho = 1 - exp(-10 t^2), leave the gain of a pure high-pass coefficient 6 % too large.
    """
    wide, narrow = fwhm

    def terminal(bound: Basis) -> Gaussian:
        filters = ct_filters(bound.radius(), wide, narrow)
        return Gaussian(_weighted(gain_weights, filters), _weighted(noise_weights, filters))

    def family(bound: Basis) -> Law:
        gain, noise = terminal(bound)

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
    return _finish(family, basis, "fourier", options, **{**defaults, **pairing})


def _weighted(weights: Sequence[float], filters: Sequence[Tensor]) -> Tensor:
    return torch.stack([w * f for w, f in zip(weights, filters, strict=True)]).sum(0)


def measured(basis: Basis, mtf: Any, nps: Any, unit_scale: float = 1.0, **pairing: Any) -> Process:
    """Fourier diffusion that ends at a *measured* MTF and NPS (`Curve` records or their JSON form).

    H = 1 + (MTF - 1)(1 - q), Sigma = rho NPS / (pixel volume) with the normalised ramps of `fourier`.  Where the MTF
    exceeds 1 (sharp kernels) the variance follows the clock instead, Sigma = rho (H / MTF)^2 NPS / volume, so that
    the noise-to-signal clock still never decreases.  `unit_scale`: data unit per model unit (NPS / unit_scale^2).
    """
    mtf_curve, nps_curve = Curve.parse(mtf, "mtf"), Curve.parse(nps, "nps")
    mtf_curve.require("mtf", basis)
    nps_curve.require("nps", basis)

    def terminal(bound: Basis) -> Gaussian:
        volume = math.prod(bound.spacing)
        return Gaussian(mtf_curve.on(bound), nps_curve.on(bound) / (volume * unit_scale**2))

    def family(bound: Basis) -> Law:
        gain, noise = terminal(bound)

        def law(t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            q, rho = _ramps(t, normalised=True)
            h = gain + (1 - gain) * q
            boost = torch.where(gain > 1, h / torch.where(gain > 1, gain, 1.0), 1.0)
            return h, 0 * t, rho * boost**2 * noise

        return law

    options = {"mtf": mtf_curve.to_json(), "nps": nps_curve.to_json(), "unit_scale": unit_scale}
    defaults = {"conditioning": "terminal", "measurement": terminal}
    return _finish(family, basis, "measured", options, **{**defaults, **pairing})


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


# ---- assembly ----------------------------------------------------------------------------------------------------


def _finish(
    family: Any,
    basis: Basis,
    name: str,
    options: dict[str, Any],
    conditioning: Conditioning = "none",
    measurement: Any = None,
    **unknown: Any,
) -> Process:
    """Assemble the process and the recipe that rebuilds it."""
    if unknown:
        raise InputError(f"process {name!r}", f"option {sorted(unknown)[0]!r}", "a documented option")
    if conditioning not in ("none", "terminal", "external"):
        raise InputError(f"process {name!r} conditioning", conditioning, "none, terminal or external")
    recipe = Recipe(name, {**options, "conditioning": conditioning})
    return Process(family, basis, conditioning, measurement, recipe=recipe)


PROCESSES = {
    "vp": vp,
    "cosine": cosine,
    "sub_vp": sub_vp,
    "ve": ve,
    "scalar": scalar,
    "mean_reverting": mean_reverting,
    "wavelet_bands": wavelet_bands,
    "fourier": fourier,
    "measured": measured,
}


def external(process: Process, instrument: Process) -> Process:
    """`process` started from noise, with the measurement of `instrument` seen by the network (option 1).

    The law of the measurement, y = MTF x_0 + noise, comes from the terminal law of `instrument`.
    """
    if instrument.measurement is None or instrument.recipe is None or process.recipe is None:
        raise InputError("external instrument", instrument.recipe, "a process with a measurement law")
    options = {**process.recipe.options, "conditioning": "external", "instrument": instrument.recipe.to_json()}
    return replace(
        process,
        conditioning="external",
        measurement=instrument.measurement,
        recipe=Recipe(process.recipe.name, options),
    )


def process_from_recipe(record: dict[str, Any], size: Sequence[int], spacing: Sequence[float], where: str) -> Process:
    """Rebuild a process from `{"name", "options", "basis": {"name", "options"}}` on a grid."""
    basis_recipe = Recipe.from_json(record.get("basis", {"name": "fourier"}), f"{where}.basis")
    basis = build(BASES, basis_recipe, f"{where}.basis", tuple(size), tuple(spacing))
    recipe = Recipe.from_json({k: v for k, v in record.items() if k != "basis"}, where)
    instrument = recipe.options.get("instrument") if isinstance(recipe.options, dict) else None
    plain = Recipe(recipe.name, {k: v for k, v in recipe.options.items() if k != "instrument"})
    process = build(PROCESSES, plain, where, basis)
    if instrument is None:
        return process
    inner = build(PROCESSES, Recipe.from_json(instrument, f"{where}.instrument"), f"{where}.instrument", basis)
    return external(process, inner)


def process_to_recipe(process: Process) -> dict[str, Any]:
    """Inverse of `process_from_recipe`; the grid itself is not part of the recipe."""
    if process.recipe is None:
        raise InputError("process", "one without a recipe", "one built by a function in PROCESSES")
    name = next(key for key, kind in BASES.items() if type(process.basis) is kind)
    fields = {k: v for k, v in vars(process.basis).items() if k in ("levels", "family")}
    return {**process.recipe.to_json(), "basis": {"name": name, "options": fields}}
