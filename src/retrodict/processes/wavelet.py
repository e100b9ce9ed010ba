"""Processes that are diagonal in a wavelet basis: noise with the shape of the bands, and clocks of their own.

With s_b^2 the variance of the data in band b (`spectrum`: a `BandSpectrum`, which a model stores, or a radial one) the
coefficients y = u / s_b have unit variance in every band.  A cascade is no other sampler: with a staggered clock, bands
that are coarser than the active one are noise-free and finer ones erased, so that the joint score of the active band is
its conditional one given the coarser bands, and the ordinary loop generates coarse first, details last.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from retrodict._check import InputError, Recipe, build
from retrodict.bases import Basis, Wavelet
from retrodict.bases.spectrum import Spectrum
from retrodict.processes.process import Law, Process, assemble
from retrodict.processes.scalar import vp

__all__ = [
    "WAVELET_PROCESSES",
    "wavelet_bands",
    "wavelet_cascade",
    "wavelet_normalised",
    "wavelet_residual",
    "wavelet_scaled",
    "wavelet_subspace",
]

_EDGE = 1e-9
"""Windows of a clock meet within this: a time that is a boundary but for round-off is one."""

Given = Spectrum | Mapping[str, Any] | None


def wavelet_bands(basis: Wavelet, decay: float = 10.0, tilt: float = 2.0, **pairing: Any) -> Process:
    """A variance-preserving process whose clock runs at its own speed in every wavelet band.

    h = exp(-a_b t^2 / 2), s^2 = 1 - exp(-a_b t^2), a_b = decay * tilt^(1 - b / levels), b = 0 for the finest details:
    with tilt > 1 fine details drown first and the approximation last.  The order of the bands is that of the factored
    generation of Guth et al. 2022; one chain with a clock a band is ours.  It needs a `Wavelet` basis.
    """

    def family(bound: Basis) -> Law:
        bound = _wavelet("wavelet_bands", bound)
        speed = decay * tilt ** (1 - bound.band().double() / bound.depth)

        def law(t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            return torch.exp(-speed * t**2 / 2), 0 * t, -torch.expm1(-speed * t**2)

        return law

    return assemble(family, basis, "wavelet_bands", {"decay": decay, "tilt": tilt}, **pairing)


def wavelet_normalised(
    basis: Wavelet, horizon: float = 5.0, exponent: float = 2.0, spectrum: Given = None, **pairing: Any
) -> Process:
    """An Ornstein-Uhlenbeck process of coefficients that are divided by the deviation of their band.

    h = exp(-tau), s^2 = s_b^2 (1 - exp(-2 tau)), tau = horizon t^exponent: every band has the signal-to-noise ratio of
    unit data, and the noise is colored like the bands of the data (Guth et al. 2022, section 3, all bands at once).
    `spectrum` holds the s_b; without one they are 1, and it is white.  Defaults: horizon 5 and t squared, those of the
    released code.  It needs a `Wavelet` basis.
    """
    options = _options("wavelet_normalised", basis, horizon, exponent, spectrum)

    def family(bound: Basis) -> Law:
        power = _variances("wavelet_normalised", _wavelet("wavelet_normalised", bound), spectrum)

        def law(t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            tau = horizon * t**exponent
            return torch.exp(-tau), 0 * t, power * -torch.expm1(-2 * tau)

        return law

    return assemble(family, basis, "wavelet_normalised", options, **pairing)


def wavelet_scaled(
    basis: Wavelet, coarse: float = 3.0, beta_min: float = 0.1, beta_max: float = 20.0, **pairing: Any
) -> Process:
    """`vp` of wavelet coefficients of which the coarse band has been divided by a number: WDM.

    log h = -t^2 (b1 - b0)/4 - t b0/2, s^2 = c_b^2 (1 - h^2), c = `coarse` in the coarse band and 1 in the others
    (Friedrich et al. 2024): white noise on (coarse/3, details), in coefficients that are not divided.  Defaults:
    3, published for one Haar level of volumes in [-1, 1], and the linear rate of 1000 steps.  It needs a `Wavelet`
    basis.
    """
    _positive("wavelet_scaled", coarse=coarse)
    _wavelet("wavelet_scaled", basis)

    def family(bound: Basis) -> Law:
        bound = _wavelet("wavelet_scaled", bound)
        scale = torch.where(bound.band() == bound.depth, coarse**2, 1.0).double()
        white = vp(bound, beta_min, beta_max).law

        def law(t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            h, k, s2 = white(t)
            return h, k, s2 * scale

        return law

    options = {"coarse": coarse, "beta_min": beta_min, "beta_max": beta_max}
    return assemble(family, basis, "wavelet_scaled", options, **pairing)


def wavelet_cascade(
    basis: Wavelet,
    horizon: float = 5.0,
    exponent: float = 2.0,
    overlap: float = 0.0,
    drop: bool = True,
    spectrum: Given = None,
    **pairing: Any,
) -> Process:
    """A cascade as one process: every level of a wavelet transform has a window of the clock of its own.

    h = exp(-tau), s^2 = s_b^2 (1 - exp(-2 tau)), tau_b = horizon v_b^exponent, v_b = clip((t (J + 1 + overlap) -
    b)/(1 + overlap), 0, 1), b = 0 for the finest details to J for the coarse band (Guth et al. 2022).  Fine details are
    lost first; the reverse makes the coarse image, then every level given the coarser ones.  `drop`: beyond its window
    a band is gone, h = 0, as in a cascade of separate models; else h = exp(-horizon) is left of it.  `overlap` > 0:
    windows are longer than their distance of one, and the limit of many is `wavelet_normalised`.  `spectrum` holds the
    s_b, 1 without one.  Defaults: horizon 5 and time squared, those of the released code.  It needs a `Wavelet` basis.
    """
    options = _options("wavelet_cascade", basis, horizon, exponent, spectrum)
    if not 0 <= overlap < math.inf:
        raise InputError("process 'wavelet_cascade' overlap", overlap, "a number of at least 0, in windows")

    def family(bound: Basis) -> Law:
        bound = _wavelet("wavelet_cascade", bound)
        power, first = _variances("wavelet_cascade", bound, spectrum), bound.band().double()
        span = bound.depth + 1 + overlap

        def law(t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            place = (t * span - first) / (1 + overlap)
            gone = place > 1 + _EDGE
            # at rest outside its window, derivatives too; at the end of a window it is still in it
            tau = horizon * torch.where(gone, 1.0, torch.where(place > _EDGE, place.clamp(0, 1) ** exponent, 0.0))
            h, s2 = torch.exp(-tau), -torch.expm1(-2 * tau)
            if drop:
                h, s2 = torch.where(gone, 0.0, h), torch.where(gone, 1.0, s2)
            return h, 0 * t, power * s2

        return law

    return assemble(family, basis, "wavelet_cascade", {**options, "overlap": overlap, "drop": drop}, **pairing)


def wavelet_subspace(
    basis: Wavelet,
    times: Sequence[float] | None = None,
    beta_min: float = 0.1,
    beta_max: float = 20.0,
    **pairing: Any,
) -> Process:
    """`vp` that leaves the details of a level out from a time on: diffusion in subspaces.

    log h = -t^2 (b1 - b0)/4 - t b0/2 up to the time of its level and h = 0 beyond it, s^2 = 1 - exp(-t^2 (b1 - b0)/2 -
    t b0) (Jing et al. 2022).  `times`: when the details of levels 1 (finest) to J are dropped, rising; without, level j
    at j/(J + 1).  In the reverse a level is drawn anew at its time from the law of its coefficients.  It needs a
    `Wavelet` basis.
    """
    depth = _wavelet("wavelet_subspace", basis).depth
    ends = [(j + 1) / (depth + 1) for j in range(depth)] if times is None else [float(t) for t in times]
    if len(ends) != depth or not all(0 < t < 1 for t in ends) or sorted(ends) != ends:
        wanted = f"{depth} rising times between 0 and 1, one a level from the finest"
        raise InputError("process 'wavelet_subspace' times", times, wanted)

    def family(bound: Basis) -> Law:
        bound, white = _wavelet("wavelet_subspace", bound), vp(bound, beta_min, beta_max).law
        end = torch.tensor([*ends, math.inf], dtype=torch.float64, device=bound.device)[bound.band()]

        def law(t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            h, k, s2 = white(t)
            return torch.where(t > end + _EDGE, 0.0, h), k, s2

        return law

    options = {"times": None if times is None else ends, "beta_min": beta_min, "beta_max": beta_max}
    return assemble(family, basis, "wavelet_subspace", options, **pairing)


def wavelet_residual(
    basis: Wavelet, reference: str | Mapping[str, Any] = "wavelet_normalised", **pairing: Any
) -> Process:
    """A wavelet process that goes from the image to a condition image instead of to zero.

    h = h_r, k = 1 - h_r, s = s_r of a `reference`, in every band: x_t is around the condition image where the image is
    lost (mean reversion, Luo et al. 2023, in the wavelet basis).  `reference`: a name of a wavelet process, or a record
    {"name", "options"}; the default is `wavelet_normalised`.  It needs a `Wavelet` basis.
    """
    where = "process 'wavelet_residual' reference"
    recipe = Recipe(reference) if isinstance(reference, str) else Recipe.from_json(reference, where)
    own = build({k: v for k, v in WAVELET_PROCESSES.items() if k != "wavelet_residual"}, recipe, where, basis)

    def family(bound: Basis) -> Law:
        inner = own.family(bound)

        def law(t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            h, _, s2 = inner(t)
            return h, 1 - h, s2

        return law

    options = {"reference": recipe.to_json()}
    return assemble(family, basis, "wavelet_residual", options, **{"conditioning": "external", **pairing})


# ---- what they share -------------------------------------------------------------------------------------------------


def _wavelet(name: str, basis: Basis) -> Wavelet:
    if not isinstance(basis, Wavelet):
        raise InputError(f"{name} basis", type(basis).__name__, "a Wavelet basis")
    return basis


def _positive(name: str, **values: float) -> None:
    for field, value in values.items():
        if not 0 < value < math.inf:
            raise InputError(f"process {name!r} {field}", value, "a positive number")


def _known(name: str, spectrum: Given) -> Spectrum | None:
    """A stored spectrum, from itself or its record."""
    if spectrum is None or isinstance(spectrum, Spectrum):
        return spectrum
    return Spectrum.from_json(spectrum, f"process {name!r} spectrum")


def _variances(name: str, basis: Wavelet, spectrum: Given) -> Tensor:
    """s_b^2 of every coefficient, `(*K)` or `(C, *K)`; 1 without a spectrum."""
    known = _known(name, spectrum)
    return torch.ones(basis.size, dtype=torch.float64, device=basis.device) if known is None else known.on(basis)


def _options(name: str, basis: Basis, horizon: float, exponent: float, spectrum: Given) -> dict[str, Any]:
    """Options of a clock with a spectrum, looked at before anything is computed."""
    _positive(name, horizon=horizon)
    if not 1 <= exponent < math.inf:
        raise InputError(f"process {name!r} exponent", exponent, "a number of at least 1")
    known = _known(name, spectrum)
    if known is not None:
        _variances(name, _wavelet(name, basis).small().to("cpu"), known)  # another family or other levels: said here
    record = None if known is None else known.to_json()
    return {"horizon": horizon, "exponent": exponent, "spectrum": record}


WAVELET_PROCESSES: dict[str, Callable[..., Process]] = {
    "wavelet_bands": wavelet_bands,
    "wavelet_normalised": wavelet_normalised,
    "wavelet_scaled": wavelet_scaled,
    "wavelet_cascade": wavelet_cascade,
    "wavelet_subspace": wavelet_subspace,
    "wavelet_residual": wavelet_residual,
}
"""Lines of `PROCESSES` that need a `Wavelet` basis."""
