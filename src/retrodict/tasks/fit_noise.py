"""Training images that are noisy themselves: what a configuration says of their noise, and what follows from it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict._random import key
from retrodict.bases import Fourier
from retrodict.bases.curve import Curve
from retrodict.bases.spectrum import Spectrum
from retrodict.data.collection import Slice
from retrodict.data.spacings import SpacingSet
from retrodict.denoisers.network import NetDenoiser
from retrodict.models.instrument import AS_SCANNED
from retrodict.models.model import Intensity, ModelSpec
from retrodict.processes.clocks import at_rest
from retrodict.processes.fourier import measured
from retrodict.processes.observation import lift, noise_like
from retrodict.tasks.fit_config import FitConfig
from retrodict.tasks.held_out import IMAGES, center, held_out_as_measured
from retrodict.training.ambient import own_error
from retrodict.training.calibrate_law import calibrate_over_law, inside
from retrodict.training.losses import Batch, Example

__all__ = ["OwnNoise", "calibrated_without_truth", "clean_spectrum", "cut_variance", "own_noise"]


LEFT = 0.01
"""Least power of clean data, over that of the noisy images, where nothing is left when the noise is taken off."""


@dataclass(frozen=True)
class OwnNoise:
    """The noise of training images: a measured NPS, or white of one standard deviation, in the unit of the images.

    by_image: whether the level of each image is that of its row in the table; a curve then gives the shape alone.
    scale: unit of the images per model unit.
    """

    nps: Curve | None
    std: float | None
    by_image: bool
    scale: float

    def variance(self, basis: Fourier, levels: Tensor | None = None) -> Tensor:
        """Noise variance of every coefficient of a patch, `(B|1, 1, *K)` in model units squared.

        levels: standard deviation of each image `(B,)` where they have their own.
        """
        if self.nps is None:
            one = torch.full(basis.shape, (self.std or 1.0) ** 2, dtype=torch.float64, device=basis.device)
        else:
            one = cut_variance(self.nps, basis)
        one = one[None, None] / self.scale**2
        if levels is None:
            return one
        weight = basis.multiplicity() / basis.multiplicity().sum()
        return one / ((one * weight).sum() * self.scale**2) * lift(levels.double() ** 2, basis.ndim).to(basis.device)

    def density(self, frequency: Tensor, spacing: float, level: float | None) -> Tensor:
        """NPS at |f| in model units squared times mm^2, of one image."""
        flat = self.nps is None
        value = torch.full_like(frequency, ((self.std or 1.0) * spacing) ** 2) if flat else self.nps.at(frequency)  # type: ignore[union-attr]
        if self.by_image:
            assert level is not None
            basis = Fourier((64, 64), (spacing, spacing))
            value = value * level**2 / (_mean(self.variance(basis), basis) * self.scale**2)
        return value / self.scale**2

    def batcher(self, patches: SpacingSet, intensity: Intensity) -> Batch:
        """Noisy patches in model units, with the spacing of the batch and the variance of their noise."""
        tables: dict[float, Tensor] = {}

        def batch(keys: list[int]) -> Example:
            values, spacing = patches.batch(keys)
            basis = Fourier(tuple(values.shape[2:]), (spacing, spacing))
            if self.by_image:
                levels = torch.tensor(patches.levels(keys), dtype=torch.float64, device="cpu")
                noise = self.variance(basis, levels)
            else:
                if spacing not in tables:
                    tables[spacing] = self.variance(basis)
                noise = tables[spacing].expand(len(keys), 1, *basis.shape)
            return Example(intensity.encode(values), spacing=basis.spacing, noise=noise)

        return batch

    def card(self) -> dict[str, Any]:
        """What the record of a model says of the noise that it was trained through."""
        curve = None if self.nps is None else self.nps.to_json()
        return {"nps": curve, "std": self.std, "level": "index" if self.by_image else "stated"}


def own_noise(config: FitConfig, base: Path) -> OwnNoise | None:
    """What `data.noise` says; None where images are clean.

    Raises `InputError` for a file that is not there, a curve that ends below the Nyquist frequency of the finest pixels
    that may come, or one of two axes.
    """
    stated = config.data.noise
    if stated is None:
        return None
    by_image, curve = stated.level == "index", None
    if stated.nps is not None:
        path = base / config.data.root / stated.nps
        if not path.is_file():
            hint = f"Measure it with retrodict measure nps; it lies in data.root (now {config.data.root!r}), "
            found, wanted = f"no file {path}", "the NPS of the scans, as retrodict measure nps writes it"
            raise InputError("data.noise.nps", found, wanted, hint + "or give --set data.root=/path/to/the/images.")
        try:
            curve = Curve.parse(path, "nps")
        except InputError as error:
            where = error.where if str(path) in error.where else f"data.noise.nps: {path}: {error.where}"
            raise InputError(where, error.found, error.expected, error.hint) from error
        if len(curve.frequency) > 1:
            raise InputError("data.noise.nps", "a curve of two axes", "an isotropic one: patches are turned")
    return OwnNoise(curve, stated.std, by_image, config.intensity.scale)


def check_noise(noise: OwnNoise, *sides: Any) -> None:
    """Raise `InputError` before anything is computed where the noise does not fit the slices of a `SpacingSet`."""
    for patches in sides:
        if not isinstance(patches, SpacingSet):
            continue
        if noise.nps is not None:
            finest = min(math.sqrt(math.prod(s.spacing)) for s in patches.slices)
            noise.nps.require("nps", Fourier((patches.size, patches.size), (finest, finest)))
        silent = next((s for s in patches.slices if not s.noise), None) if noise.by_image else None
        if silent is not None:
            found = f"no noise in the row of {silent.where or silent.patient}"
            raise InputError(
                "data.noise.level", found, "a number in the column noise of every row", "Or level: stated."
            )


# ---- spectra ---------------------------------------------------------------------------------------------------------


def cut_variance(nps: Curve, basis: Fourier) -> Tensor:
    """Variance of every coefficient `(*K)` of stationary noise of density `nps` that is cut to the grid of `basis`.

    A cut is not periodic: the NPS is seen through the window of the patch, sum_l C(l) prod_i (1 - |l_i| / n_i)
    exp(-2 pi i k l / n), with C its covariance, taken from a grid twice as large.  The mean over coefficients is that
    of the NPS.  Coefficients are still taken as independent, which of a cut they are but nearly.
    """
    double = basis.on(tuple(2 * n for n in basis.size))
    covariance = torch.fft.irfftn(nps.on(double) / math.prod(basis.spacing), s=double.size, norm="backward")
    for axis, n in enumerate(basis.size):
        lag = torch.arange(2 * n, dtype=torch.float64, device=basis.device)
        triangle = 1 - torch.minimum(lag, 2 * n - lag) / n
        covariance = covariance * triangle.reshape([-1 if i == axis else 1 for i in range(basis.ndim)])
        covariance = sum(covariance.narrow(axis, k * n, n) for k in (0, 1))  # type: ignore[assignment]
    return torch.fft.rfftn(covariance).real.clamp_min(0)


def clean_spectrum(noisy: Spectrum, noise: OwnNoise | None, patches: Any) -> tuple[Spectrum, dict[str, Any], list[str]]:
    """The spectrum of clean images from that of noisy ones, what the card says of it, and sentences for the user.

    The mean NPS of the patients, each counted once, is taken off the power at every frequency; where less than `LEFT`
    of the power would be left, that is left, and said.  Without noise it is the spectrum itself.

    Raises `InputError` where the noise has as much power as the images.
    """
    if noise is None or not isinstance(patches, SpacingSet):
        return noisy, {}, []
    frequency = torch.tensor(noisy.frequency, dtype=torch.float64, device="cpu")
    total = torch.tensor(noisy.power, dtype=torch.float64, device="cpu")
    own = _mean_density(noise, patches.slices, frequency)
    left = torch.maximum(total - own, LEFT * total)
    share = torch.trapezoid(own * frequency, frequency) / torch.trapezoid(
        total * frequency, frequency
    )  # of the variance
    if share >= 1:
        found = f"noise of {float(share):.3g} times the variance of the images"
        raise InputError(
            "data.noise", found, "less than the images have", "Is it the NPS of these scans, in their unit?"
        )
    hidden = [float(f) for f, gone in zip(frequency, total - own < LEFT * total, strict=True) if gone]
    ratio = float((total / own)[own > 0].min()) if bool((own > 0).any()) else math.inf
    notes = [f"Noise is {100 * float(share):.0f} % of the variance of the images."]
    if hidden:
        notes.append(f"At {len(hidden)} of {len(frequency)} frequencies, from {hidden[0]:.3g} cycles/mm, noise is all "
                     "that the images hold: what is clean there cannot be learned.")  # fmt: skip
    if ratio < 0.7:
        notes.append(f"The images hold as little as {ratio:.2f} of the stated noise at some frequency: air that is "
                     "clipped, or the NPS of another kernel or dose.")  # fmt: skip
    said = {"share_of_variance": float(share), "nothing_left_at": hidden, "least_power_over_noise": ratio}
    card = {"noise": {**noise.card(), "spectrum": said, "calibration": NOT_CALIBRATED}}
    return replace(noisy, power=tuple(left.tolist())), card, notes


def _mean_density(noise: OwnNoise, slices: Sequence[Slice], frequency: Tensor) -> Tensor:
    """The NPS of the slices that reach a frequency, patients counted once, `(n,)`."""
    patients: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for item in slices:
        spacing = math.sqrt(math.prod(item.spacing))
        reaches = (frequency <= 0.5 * math.sqrt(2) / spacing).double()
        pair = noise.density(frequency, spacing, item.noise) * reaches, reaches
        patients.setdefault(item.patient, []).append(pair)
    sums = [[torch.stack([pair[k] for pair in rows]).mean(0) for rows in patients.values()] for k in (0, 1)]
    value, count = (torch.stack(x).sum(0) for x in sums)
    return torch.where(count > 0, value / count.clamp_min(1e-300), 0.0)


# ---- after the training ----------------------------------------------------------------------------------------------


def calibrated_without_truth(
    spec: ModelSpec, denoiser: NetDenoiser, validation: SpacingSet, noise: OwnNoise, config: FitConfig
) -> ModelSpec:
    """The specification with factors on the spread that are measured on noisy held-out images, and the check of them.

    The record of held-out patients is that of the scans as they are.  There are no clean images, which the factors in
    use need, and the card says so.
    """
    law, seed = config.clocks(), config.training.seed
    assert law is not None
    fuller = replace(validation, max_empty=0.5)
    scale = calibrate_over_law(denoiser, noise.batcher(fuller, spec.intensity), law, seed=seed)
    denoiser = replace(denoiser, spread_scale=scale)
    found = checked(denoiser, validation.slices, spec.intensity, noise, seed)
    scans: dict[str, list[tuple[NetDenoiser, Tensor]]] = {}
    for item in validation.slices:
        pair = at_own_noise(denoiser, item, noise), spec.intensity.encode(item.image.values)
        scans.setdefault(item.patient, []).append(pair)
    record = held_out_as_measured(scans, seed)
    own = {**spec.card["noise"], "calibration": {**CALIBRATION, "at_own_noise": found}}
    card = {**spec.card, "noise": own}
    spread = None if scale is None else asdict(scale)
    return replace(spec, spread_scale=spread, held_out=None if record is None else record.to_json(), card=card)


def at_own_noise(denoiser: NetDenoiser, item: Slice, noise: OwnNoise) -> NetDenoiser:
    """The denoiser at the process that ends at a scan: an MTF of 1, and its NPS."""
    spacing = math.sqrt(math.prod(item.spacing))
    nodes = torch.linspace(0, 0.75 / spacing, 151, dtype=torch.float64, device="cpu")
    curve = Curve.isotropic(nodes, noise.density(nodes, spacing, item.noise), "unit^2 mm^2")
    return denoiser.at(measured(replace(denoiser.process.basis, spacing=(spacing, spacing)), AS_SCANNED, curve))


CALIBRATION = {
    "truth": "none",
    "measured": "held-out noisy images: a second look of known noise above their own noise, Stein's estimate at it",
    "below_own_noise": "not measured; the factors at the own noise are continued",
    "bias": "no clean image was seen; check with retrodict evaluate --repeats",
}
"""What the card says of a spread that was calibrated without truth."""

NOT_CALIBRATED = {"truth": "none", "measured": "nothing: no patient was held out", "spread": "not calibrated"}
"""What it says where no patient was held out."""


def checked(
    denoiser: NetDenoiser, slices: Sequence[Slice], intensity: Intensity, noise: OwnNoise, seed: int = 0
) -> dict[str, Any] | None:
    """Squared error over stated variance of one call at the own noise, by patient: {"ssr2", "sd", "patients"}.

    The error is Stein's estimate, without a clean image; 1 is calibrated, above 1 too sure.  None for fewer than two
    patients, or for a denoiser without a law of its error.
    """
    sums: dict[str, list[float]] = {}
    counts: dict[str, int] = {}
    for number, item in enumerate(slices):
        if counts.get(item.patient, 0) == IMAGES:
            continue
        counts[item.patient] = counts.get(item.patient, 0) + 1
        pair = _own_ratio(denoiser, item, intensity, noise, key(seed, "own-noise", number))
        if pair is None:
            return None
        sums[item.patient] = [a + b for a, b in zip(sums.get(item.patient, [0.0, 0.0]), pair, strict=True)]
    if len(sums) < 2:
        return None
    ratios = torch.tensor([error / variance for error, variance in sums.values()], dtype=torch.float64, device="cpu")
    return {"ssr2": float(ratios.mean()), "sd": float(ratios.std()), "patients": len(ratios)}


def _own_ratio(
    denoiser: NetDenoiser, item: Slice, intensity: Intensity, noise: OwnNoise, seed: int
) -> tuple[float, float] | None:
    """Squared error and stated variance of one slice, both seen through the window that leaves out its border."""
    spacing = math.sqrt(math.prod(item.spacing))
    y = center(intensity.encode(item.image.values))
    size = tuple(n // denoiser.multiple * denoiser.multiple for n in y.shape[1:])
    y = y[(slice(None), *(slice(n) for n in size))][None]
    basis = Fourier(size, (spacing, spacing))
    level = torch.tensor([item.noise or 0.0], dtype=torch.float64, device="cpu") if noise.by_image else None
    table, t = noise.variance(basis, level), torch.ones(1, dtype=torch.float64, device="cpu")
    bound, window = replace(denoiser.at(at_rest(basis, table)), precision="float32"), inside(basis)
    with torch.no_grad():
        spread = bound.estimate(y, t).spread
        if spread is None:
            return None
        probes = [noise_like(y, torch.tensor([seed], device="cpu"), "probe", k) for k in range(2)]
        errors = [own_error(lambda x: bound.estimate(x, t).mean, y, table, p, basis, window)[1] for p in probes]
    error = sum(float((e * basis.multiplicity()).sum()) for e in errors) / len(errors)
    return error, float((window**2 * spread.variance().expand_as(y).double()).sum())


def _mean(table: Tensor, basis: Fourier) -> float:
    weight = basis.multiplicity()
    return float((table * weight).sum() / weight.sum())
