"""What `reconstruct --posterior` takes for a prior: a network, or a Gaussian law of images by their power spectrum."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch

from retrodict._check import InputError
from retrodict.bases import Fourier
from retrodict.bases.spectrum import Spectrum, density_spectrum
from retrodict.data import discover, read
from retrodict.data.collection import evenly
from retrodict.data.level import level_of
from retrodict.data.units import percentile_of
from retrodict.denoisers.denoiser import Denoiser
from retrodict.models.held_out import spread_on_patients
from retrodict.models.model import Model, open_model
from retrodict.models.prior import prior_of, state_noise, unlike
from retrodict.models.relative import at_level, level_record
from retrodict.physics.classics import cgls
from retrodict.physics.measurement import Measurement
from retrodict.posterior.empirical import FittedSpectrum, basis_of, first_law, fit_spectrum, gaussian_prior
from retrodict.posterior.joint import with_imaginary
from retrodict.posterior.moments import DENSE
from retrodict.processes.observation import Moments
from retrodict.processes.process import Process
from retrodict.tasks.recon_acquired import Acquisition

__all__ = ["FIT", "FittedPrior", "ImagesPrior", "NetworkPrior", "Prior", "prior_for"]

log = logging.getLogger("retrodict")

FIT = "fit"
"""The value of `prior_spectrum` that takes the spectrum from the measurement."""


class Prior(Protocol):
    """What the solver asks of a prior.

    Its images are u = (value - offset) / scale of values in `unit`; sides are multiples of `multiple`.  `calls`: steps
    that are enough, None for those of the method.  `words` goes into the sentence on the result.  `phased`: its images
    are real, and complex ones come as two channels, turned by their phase (`physics.phase`).
    """

    @property
    def unit(self) -> str: ...
    @property
    def scale(self) -> float: ...
    @property
    def offset(self) -> float: ...
    @property
    def multiple(self) -> int: ...
    @property
    def calls(self) -> int | None: ...
    @property
    def words(self) -> str: ...
    @property
    def phased(self) -> bool: ...

    def look(self, part: Measurement) -> None:
        """Raise what can be said before anything is drawn."""

    def denoiser(self, size: Sequence[int], spacing: Sequence[float], complex: bool, rough: bool = False) -> Denoiser:
        """The prior on a grid; `rough`: one like it that costs nothing, to check with."""
        ...

    def unlike(self, process: Process, law: Moments) -> str:
        """Why a measurement that is shown to the network is not of a kind it knows; empty where it is."""
        ...

    def digest(self) -> list[Any]:
        """What the result depends on."""
        ...

    def warnings(self) -> list[str]:
        """What speaks against the prior."""
        ...

    def record(self) -> dict[str, Any]:
        """What is written about it."""
        ...


# ---- a network -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NetworkPrior:
    """A model of every instrument, or of images alone; of a relative unit at the `level` of the measurement."""

    model: Model
    calls: int | None = None
    words: str = ""
    phased: bool = True
    level: Mapping[str, Any] | None = None

    @property
    def unit(self) -> str:
        """That of the model."""
        return self.model.intensity.unit

    @property
    def scale(self) -> float:
        """Data units per model unit."""
        return self.model.intensity.scale

    @property
    def offset(self) -> float:
        """Value of model zero."""
        return self.model.intensity.offset

    @property
    def multiple(self) -> int:
        """That of the network."""
        return self.model.denoiser.multiple

    def look(self, part: Measurement) -> None:
        """A network has nothing to find out."""

    def denoiser(self, size: Sequence[int], spacing: Sequence[float], complex: bool, rough: bool = False) -> Denoiser:
        """The network as a prior; of complex images that are turned by their phase, with one of what that leaves."""
        found = prior_of(self.model, size, spacing)
        return with_imaginary(found) if complex else found

    def unlike(self, process: Process, law: Moments) -> str:
        """By the law of noise that it was trained on."""
        return unlike(self.model, process, law)

    def warnings(self) -> list[str]:
        """None of its own."""
        return []

    def digest(self) -> list[Any]:
        """Record and weights."""
        total = hashlib.sha256()
        for name, value in sorted(self.model.denoiser.net.state_dict().items()):
            total.update(
                name.encode() + value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
            )
        return [asdict(self.model.spec), total.hexdigest()]

    def record(self) -> dict[str, Any]:
        """Where it is from, and the noise of its states."""
        state = {"process": "white noise, sigma_max t", "sigma_max": state_noise(self.model)}
        spread = spread_on_patients(self.model.spec.card, "reconstruct")
        level = {} if self.level is None else {"level": dict(self.level)}
        return {"model": self.model.source, "state": state, "spread_on_patients": spread, **level}


# ---- a Gaussian law --------------------------------------------------------------------------------------------------


WILD = 0.5
"""Change of the spectrum in the last round of a fit beyond which there is none."""

OFF, BLUNT = 1.0, 0.3
"""Error of the solves of a fit, in deviations of the posterior, beyond which its spectrum is not to be believed, and
beyond which it is said: a variance that is too large by its square raises the spectrum wherever little was seen.
"""


@dataclass(frozen=True)
class _GaussianPrior:
    """What Gaussian priors share: exact in one call, on any grid, in the unit of the results."""

    unit: str
    scale: float = 1.0
    offset: float = 0.0
    multiple: int = 1
    calls: int | None = 1
    phased: bool = False

    @property
    def law(self) -> Spectrum:
        """Mean and variance of every frequency."""
        raise NotImplementedError

    def look(self, part: Measurement) -> None:
        """Nothing to find out beforehand."""

    def denoiser(self, size: Sequence[int], spacing: Sequence[float], complex: bool, rough: bool = False) -> Denoiser:
        """The exact denoiser of its images."""
        return gaussian_prior(self.law, Fourier(tuple(size), tuple(spacing), complex=complex))

    def unlike(self, process: Process, law: Moments) -> str:
        """It answers for any observation."""
        return ""

    def warnings(self) -> list[str]:
        """None of its own."""
        return []

    def _record(self, source: str) -> dict[str, Any]:
        return {"model": None, "prior": {"kind": "Gaussian", "spectrum_from": source, **self.law.to_json()}}


@dataclass(frozen=True)
class FittedPrior(_GaussianPrior):
    """The spectrum that one measured slice is most likely under (`fit_spectrum`), for all of them."""

    measurement: Measurement | None = field(default=None, repr=False)
    words: str = " of a Gaussian prior, whose spectrum was found from these data,"

    @cached_property
    def found(self) -> FittedSpectrum:
        """The fit, made when it is first asked for."""
        assert self.measurement is not None
        found = fit_spectrum(self.measurement)
        end = "settled" if found.settled else f"not settled: the last round changed it by {found.change:.0%}"
        log.info("spectrum of the prior: %d rounds, %s", found.rounds, end)
        if found.error > OFF:
            said = f"data steps that are off by {found.error:.2g} deviations of the posterior after their last round"
            hint = ("The system (a limited angle, little noise) is too ill-conditioned for solves: take at most "
                    f"{math.isqrt(DENSE)} pixels a side, where the fit is by matrices, or give images.")  # fmt: skip
            raise InputError("prior-spectrum fit", said, f"at most {OFF:g}", hint)
        if found.change > WILD:
            where, wanted = "prior-spectrum fit", f"at most {WILD:.0%}"
            hint = ("The data do not determine it: give a larger deviation of the noise (what the pixels cannot "
                    "explain counts as noise), or images.")  # fmt: skip
            raise InputError(where, f"a spectrum that changed by {found.change:.0%} in the last round", wanted, hint)
        return found

    @property
    def law(self) -> Spectrum:
        """As fitted."""
        return self.found.spectrum

    def denoiser(self, size: Sequence[int], spacing: Sequence[float], complex: bool, rough: bool = False) -> Denoiser:
        """On the grid of the measurement, whose images are in the unit of its operator."""
        assert self.measurement is not None
        basis = basis_of(self.measurement)
        law = first_law(self.measurement).spectrum(basis) if rough else self.law
        return gaussian_prior(law, basis)

    def look(self, part: Measurement) -> None:
        """Data that are no more than their noise have no spectrum."""
        first_law(part)

    def warnings(self) -> list[str]:
        """A fit that did not settle, or whose data steps did not."""
        found, out = self.found, []
        if found.error > BLUNT:
            off = f"the data steps of the fit of the spectrum are off by {found.error:.2g} deviations of the posterior"
            out.append(f"{off}: the spectrum is too high where little was seen")
        if found.settled:
            return out
        return [
            *out,
            f"the spectrum of the prior did not settle in {found.rounds} rounds (the last changed it by "
            f"{found.change:.0%}): the data determine it badly, or a larger deviation of the noise is the true one",
        ]

    def digest(self) -> list[Any]:
        """The data are in the digest of the measurement."""
        return ["fitted spectrum"]

    def record(self) -> dict[str, Any]:
        """The law, and how the fit ended."""
        found = self.found
        law = {"amplitude": found.law.amplitude, "corner_per_mm": found.law.corner, "exponent": found.law.exponent}
        end: dict[str, Any] = {"rounds": found.rounds, "settled": found.settled, "last_change": found.change}
        end["error"] = found.error
        record = self._record("the measurement itself")
        assert self.measurement is not None
        unit = self.measurement.operator.domain.unit
        return {**record, "prior": {**record["prior"], "unit": unit, "power_law": law, "fit": end}}


@dataclass(frozen=True)
class ImagesPrior(_GaussianPrior):
    """The spectrum of images, as a density, so that it holds for every pixel size."""

    spectrum: Spectrum = field(default_factory=Spectrum.flat)
    source: str = ""
    words: str = " of a Gaussian prior, with the spectrum of other images,"

    @property
    def law(self) -> Spectrum:
        """As given."""
        return self.spectrum

    def denoiser(self, size: Sequence[int], spacing: Sequence[float], complex: bool, rough: bool = False) -> Denoiser:
        """The exact denoiser; `InputError` for complex images, whose phase no image has."""
        if complex:
            hint = "Give {prior_spectrum}: it is then found from the data."
            raise InputError("prior_spectrum", "images, which are real", "complex ones, as k-space has", hint,
                             prior_spectrum=FIT)  # fmt: skip
        return super().denoiser(size, spacing, complex, rough)

    def digest(self) -> list[Any]:
        """The spectrum."""
        return [self.spectrum.to_json()]

    def record(self) -> dict[str, Any]:
        """Spectrum and where it is from."""
        return self._record(self.source)


def prior_for(made: Acquisition, model: Any, prior_spectrum: str | None) -> Prior:
    """The prior that was asked for; raises `InputError` for one in another unit than the results.

    One of a relative unit is brought to the level of the measurement, and so to the unit of the results.
    """
    if prior_spectrum is None:
        opened = open_model("ct" if model is None else model)
        unit = opened.intensity.unit
        if percentile_of(unit) is not None and made.unit != unit:
            level = _level(made, unit)
            return NetworkPrior(at_level(opened, made.unit, level["value"]), level=level)
        if made.unit != unit:
            hint = "Set image.unit=HU, and image.water to the attenuation of water at the energy of the beam."
            other = (
                "Take another prior, give the image in its unit, or {prior_spectrum}: a Gaussian prior from the data."
            )
            hint = hint if unit == "HU" and made.unit == "1/mm" else other
            raise InputError("image.unit", repr(made.unit), f"{unit!r}, the unit of the model", hint,
                             prior_spectrum=FIT)  # fmt: skip
        return NetworkPrior(opened)
    if prior_spectrum == FIT:
        return FittedPrior(made.unit, measurement=made.part(made.count // 2, False))
    spectrum, source = _spectrum_of(Path(prior_spectrum), made)
    return ImagesPrior(made.unit, spectrum=spectrum, source=source)


LOOKED_AT, ROUNDS = 5, 10
"""Slices by which the level of a measurement is found, and rounds of conjugate gradients for each."""


def _level(made: Acquisition, unit: str) -> dict[str, Any]:
    """The level of a measurement in the unit of its results, as the record says it: that of a classical
    reconstruction of at most five slices, evenly spaced, by rounds that end where they fit the noise.
    """
    percentile, images = percentile_of(unit), []
    assert percentile is not None
    for i in evenly(made.count, LOOKED_AT):
        part = made.part(i, False)
        found = cgls(part, iterations=ROUNDS, discrepancy=None if part.noise is None else 1.0)
        images.append(made.shown(found.image))
    level = level_of(images, percentile, "the measurement")
    slices = "a slice" if len(images) == 1 else f"{len(images)} slices"
    said = f"a reconstruction of {slices} by conjugate gradients"
    log.info("level of the measurement: %.4g %s, percentile %g of %s", level, made.unit, percentile, said)
    return level_record(percentile, level, made.unit, said)


def _spectrum_of(path: Path, made: Acquisition) -> tuple[Spectrum, str]:
    """Of the images of a file or a folder, every file alike; planes of volumes."""
    if not path.exists():
        raise InputError("prior_spectrum", f"{path}, which is not there", f"{FIT}, or images of this kind of object")
    groups = []
    for source in discover(path):
        image = read(source, expect=None, slices="independent")
        if image.unit != made.unit:
            hint = "The spectrum has to be in the unit of the result."
            raise InputError(f"prior_spectrum: {source.name}", repr(image.unit), f"{made.unit!r}", hint)
        if len(image.values) != 1:
            raise InputError(f"prior_spectrum: {source.name}", f"{len(image.values)} channels", "gray images")
        dy, dx = image.spacing[-2:]
        if not math.isclose(dy, dx, rel_tol=0.02):
            raise InputError(f"prior_spectrum: {source.name}", f"pixels of {dy:g} x {dx:g} mm", "square pixels")
        planes = image.values[0].reshape(-1, *image.values.shape[-2:])
        groups.append([(plane, float(dx)) for plane in planes])
    if not groups:
        raise InputError("prior_spectrum", f"{path}, without an image", "images of this kind of object")
    return density_spectrum(groups), f"{len(groups)} images of {path.name}"
