"""The instrument of an image without curves: MTF and NPS found from the image itself, with bands, labelled as such."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from retrodict._check import InputError, NotCalibratedError
from retrodict._output import staged, write_file
from retrodict.bases import Fourier
from retrodict.bases.curve import Curve
from retrodict.data import Image
from retrodict.data.units import unit as unit_named
from retrodict.metrics.blind import BlindFit, fit_patches
from retrodict.metrics.blind_law import PatchLaw
from retrodict.metrics.patch_power import PatchPower, patch_power
from retrodict.models.model import Model, open_model
from retrodict.samplers.misfit import flat_pixels
from retrodict.tasks.estimate_prior import kernel_family, prior_of
from retrodict.tasks.estimate_record import METHOD, curve_record, summary_of
from retrodict.tasks.inputs import open_image
from retrodict.tasks.options import RestoreOptions
from retrodict.tasks.prepare import check_image, prepared
from retrodict.tasks.scan import check_targets

__all__ = ["EstimatedInstrument", "check_estimate", "estimate_instrument", "estimated", "instrument_of"]


SIZE = 32
"""Side of a patch in pixels."""

SLICES = 12
"""Slices of a series that are looked at, evenly spaced."""

OWN = 0.009
"""Error of the noise that the structure of patients adds, in units of the model: 1.8 HU among training patients."""

LEAST = 0.0025
"""Noise, in units of the model, below which it cannot be told from structure: 0.5 HU."""

FAINT = 0.05
"""Noise, in units of the model, that structure of real patients was taken for: 10 HU."""

LEAST_PATCHES = 20
LOOSEST = 2.5
"""Ratio of the limits of the noise from which it is unknown."""

WIDEST = 2.5
"""Ratio of the limits of the MTF's 50 % frequency from which the resolution is unknown."""

DIRECTIONS = 16
"""Directions between the axes over which a two-dimensional curve is averaged."""

LEAST_EDGES = 5
UNEVEN, STRETCHED, TAILED = 0.5, 1.5, 1.0
"""Scatter of the log noise variance, ratio of the noise between directions, and excess kurtosis, that are said."""


@dataclass(frozen=True)
class EstimatedInstrument:
    """An instrument estimated from an image: `mtf` and `nps`, records that `restore` and `FourierProcess` take.

    A curve that was given is None here.  `summary`: numbers with their bands.  `unknown`: why no posterior may rest on
    it (empty: one may).  `warnings`: what else to know.  `figure`: what the picture shows.
    """

    mtf: dict[str, Any] | None
    nps: dict[str, Any] | None
    summary: dict[str, Any]
    unknown: str = ""
    warnings: tuple[str, ...] = ()
    figure: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def curves(self) -> dict[str, Curve]:
        """The estimated curves by name."""
        return {name: Curve.parse(getattr(self, name), name) for name in ("mtf", "nps") if getattr(self, name)}

    @property
    def text(self) -> str:
        """One line for people: what was estimated, with the numbers."""
        return "instrument: estimated from the image itself (" + ", ".join(self.numbers) + ")"

    @property
    def said(self) -> tuple[str, ...]:
        """What the verdict of a restoration with it has to carry."""
        return (self.text, *([self.unknown] if self.unknown else []), *self.warnings)

    def bound(
        self, model: Model, options: RestoreOptions, spacing: tuple[float, ...] | None = None
    ) -> tuple[Model, dict[str, Any]]:
        """The model with these curves, ready for the options and for pixels of `spacing` mm, and the record of it.

        Raises `NotCalibratedError` where the resolution is unknown and an uncertainty is asked for.
        """
        if self.unknown and not options.point:
            raise NotCalibratedError(
                f"{self.text}; {self.unknown}. Give a measured MTF ({{mtf}}), or ask for a point estimate ({{point}}).",
                mtf="mtf.json",
                point=True,
            )
        given = replace(options, estimate_instrument=False, **self.curves)
        ready, about = prepared(model, given, spacing)
        files = [str(c) if isinstance(c, str | Path) else None for c in (options.mtf, options.nps)]
        record = {"source": METHOD, "text": self.text, "unknown": self.unknown, "warnings": list(self.warnings)}
        about["instrument"] = {**about["instrument"], "files": files, "estimate": {**record, **self.summary}}
        return replace(ready, source=f"{model.source} at an instrument estimated from the image"), about

    @property
    def numbers(self) -> list[str]:
        """The numbers with their 95 % bands."""
        out, unit = [], self.summary["unit"]
        if self.nps is not None:
            out.append("noise {:.3g} {} [{:.3g}, {:.3g}]".format(*_three(self.summary["noise_sd"], unit)))
        if self.mtf is not None:
            value, _, low, high = _three(self.summary["mtf50"], unit)
            out.append(f"MTF 50 % at {value:.3g} /mm [{low:.3g}, {high:.3g}]")
        return out

    def save(self, path: str | Path, *, plot: bool = True, force: bool = False) -> list[Path]:
        """Write NAME-mtf.json and NAME-nps.json (those that were estimated) for PATH NAME.json, and NAME.png."""
        names = [n for n in ("mtf", "nps") if getattr(self, n) is not None]
        files = check_estimate(path, mtf=self.mtf is None or None, nps=self.nps is None or None, plot=plot, force=force)
        with staged(files[0].parent, Path(path).stem, force=True) as staging:
            for name, file in zip(names, files, strict=False):
                write_file(staging / file.name, json.dumps(getattr(self, name), indent=1).encode())
            if plot:
                from retrodict.report.measurement import estimated_figure

                write_file(staging / files[-1].name, estimated_figure(self.figure))
        return files


def check_estimate(
    path: str | Path, *, mtf: Any = None, nps: Any = None, plot: bool = True, force: bool = False
) -> list[Path]:
    """The files of an estimate beside an `mtf` or `nps` that is known (not None); raises where it cannot write one."""
    names = [name for name, known in (("mtf", mtf), ("nps", nps)) if known is None]
    return check_targets(path, [f"-{n}.json" for n in names] + ([".png"] if plot else []), force=force)


def _three(value: dict[str, float], unit: str) -> tuple[float, str, float, float]:
    return value["value"], unit, value["lower"], value["upper"]


def estimate_instrument(
    source: Any,
    *,
    model: str | Path | Model = "ct",
    mtf: Any = None,
    nps: Any = None,
    seed: int = 0,
    **changes: Any,
) -> EstimatedInstrument:
    """MTF and NPS of the image at `source` (as `restore` takes it), from the image itself.

    Patches without contrast show the noise; edges show the blur, relative to images as `model` was trained on.  Both
    curves are maxima of a likelihood, NPS = sd^2 x (ramp, window, white floor) and MTF = exp(-ln 2 (f / half)^power)
    with the lift of a sharp kernel, families of `ClockLaw`; what distinguishes one patient from another has the scatter
    between patients as its prior (`retrodict.metrics.blind_law`).  The NPS is that of all noise in the image.  Bands
    are 95 %.  mtf, nps: a curve that is known, so that only the other is estimated.  changes: of `RestoreOptions`, for
    reading: spacing, unit, expect, allow_gaps.

    Raises `InputError` for an image that the model does not take (another unit, channels, NaN), and where nothing can
    be known: no noise, clipped or constant everywhere, fewer than 20 patches of 32 pixels, images that are not 2-D
    slices of one real channel.
    """
    loaded = open_model(model)
    image, name = open_image(source, RestoreOptions.of({"expect": None, **changes}), loaded)
    check_image(image, loaded, name)
    return estimated(image, loaded, mtf=mtf, nps=nps, seed=seed, name=name)


def instrument_of(image: Image, model: Model, options: RestoreOptions, name: str) -> EstimatedInstrument | None:
    """What a restoration with `options` has to estimate of an image on the grid of the model; None without that."""
    if not options.estimate_instrument:
        return None
    return estimated(image, model, mtf=options.mtf, nps=options.nps, seed=options.seed, name=name)


def estimated(
    image: Image, model: Model, *, mtf: Any = None, nps: Any = None, seed: int = 0, name: str = "image"
) -> EstimatedInstrument:
    """As `estimate_instrument`, of an image in memory, on the grid that it has."""
    where = str(image.source[0]) if image.source else name
    if mtf is not None and nps is not None:
        raise InputError("estimate_instrument", "an MTF and an NPS beside it", "at most one of them: nothing is left")
    stack, spacing = _stack(image, model, where)
    kernel = kernel_family(image.source)
    law = _law(model, spacing, kernel, mtf, nps)
    flat = flat_pixels(stack[:, None])
    try:
        data = patch_power(stack, spacing, SIZE, flat)
    except InputError as error:
        hint = "Measure the instrument on a phantom (retrodict measure) and give its curves."
        raise InputError(where, error.found, error.expected, hint) from error
    data = _body(data, image.unit, where)
    _refuse_noiseless(stack, data, where)
    fit = fit_patches(data, law, scatter=OWN * model.intensity.scale, seed=seed)
    _refuse_unlike(fit, model, where)
    return _told(fit, data, image, stack, kernel, model.intensity.scale)


# ---- what is looked at -------------------------------------------------------------------------------------------


def _stack(image: Image, model: Model, where: str) -> tuple[Tensor, tuple[float, float]]:
    """Slices (Z, H, W), evenly spaced, and their pixel spacing."""
    if len(model.spec.size) != 2 or image.values.shape[0] != 1 or image.values.is_complex():
        raise InputError(where, "an image or a model of another kind", "slices of one real channel and a 2-D model",
                         "Give {mtf} and {nps}.", mtf="mtf.json", nps="nps.json")  # fmt: skip
    spacing = image.spacing[-2:]
    if not all(math.isfinite(s) and s > 0 for s in spacing):
        raise InputError(where, "no pixel spacing", "an image with spacing", "Give {spacing} in mm.", spacing=...)
    values = image.values[0].double().cpu()
    values = values.reshape(-1, *values.shape[-2:])
    if len(values) > SLICES:
        values = values[torch.linspace(0, len(values) - 1, SLICES, device="cpu").round().long()]
    return values, (float(spacing[0]), float(spacing[1]))


def _body(data: PatchPower, unit: str, where: str) -> PatchPower:
    """Patches of the body: the noise of air outside it is another, and clipped by most scanners."""
    air = unit_named(unit).air
    kept = torch.ones(len(data.mean), dtype=torch.bool, device="cpu") if air is None else data.mean > air - 50
    if int(kept.sum()) < LEAST_PATCHES:
        found = f"{int(kept.sum())} patches of {SIZE} pixels that carry noise (no air, no clipping)"
        hint = "Give {mtf} and {nps}."
        raise InputError(where, found, f"at least {LEAST_PATCHES}", hint, mtf="mtf.json", nps="nps.json")
    names = ("power", "place", "mean", "sectors")
    return replace(data, **{n: getattr(data, n)[kept] for n in names})


def _refuse_noiseless(stack: Tensor, data: PatchPower, where: str) -> None:
    """Raise where the quietest patches hold no more than the rounding of the values."""
    steps = stack.flatten()[: 1 << 18].unique().diff()
    step = float(steps.min()) if len(steps) else 0.0
    area = math.prod(data.spacing)
    # the quietest tenth of the patches, over all rings: the variance per pixel that their power amounts to
    level = (data.power * data.bins).sum(1) / data.bins.sum() / area
    quiet = math.sqrt(float(level.quantile(0.1)))
    scale = float(stack.std())
    if quiet < 1.2 * step / math.sqrt(12) or quiet < 1e-4 * scale:
        raise InputError(where, f"no noise to be seen (at most {quiet:.2g} in the quietest tenth of the image)",
                         "an image with noise", "There is nothing to restore, or it was smoothed away.")  # fmt: skip


def _law(model: Model, spacing: tuple[float, float], kernel: tuple[str, str] | None, mtf: Any, nps: Any) -> PatchLaw:
    center, precision = prior_of(kernel)
    basis = Fourier((64, 64), spacing)
    given: dict[str, Callable[[Tensor], Tensor]] = {}
    for name, record in (("mtf", mtf), ("nps", nps)):
        if record is not None:
            curve = Curve.parse(record, name)
            curve.require(name, basis)
            given[name] = _radial(curve)
    return PatchLaw(_density(model), spacing, center, precision, **given)


def _radial(curve: Curve) -> Callable[[Tensor], Tensor]:
    """A curve as a function of |f| `(n,)`, beyond its last node the last value: of a two-dimensional one the mean over
    directions."""

    def at(f: Tensor) -> Tensor:
        if len(curve.frequency) == 1:
            return curve.at(f)
        angle = (torch.arange(DIRECTIONS, dtype=torch.float64, device="cpu") + 0.5) * (math.pi / 2 / DIRECTIONS)
        return curve.at(f[:, None] * angle.sin(), f[:, None] * angle.cos()).mean(1)

    return at


def _density(model: Model) -> Callable[[Tensor], Tensor]:
    """Power density of the data of a model, unit^2 mm^2, over |f|."""
    spectrum = model.denoiser.spectrum
    assert spectrum is not None  # a network denoiser has one
    volume = math.prod(model.spec.spacing) if spectrum.volume is None else spectrum.volume
    scale = model.intensity.scale**2 * volume
    f = torch.tensor(spectrum.frequency, dtype=torch.float64, device="cpu").log()
    power = torch.tensor(spectrum.power, dtype=torch.float64, device="cpu").log()

    def at(query: Tensor) -> Tensor:
        x = query.log().clamp(max=float(f[-1]))
        left = (torch.searchsorted(f, x, right=True) - 1).clamp(0, len(f) - 2)
        slope = (power[left + 1] - power[left]) / (f[left + 1] - f[left])
        return (power[left] + slope * (x - f[left])).exp() * scale

    return at


# ---- what is said ------------------------------------------------------------------------------------------------


def _refuse_unlike(fit: BlindFit, model: Model, where: str) -> None:
    """Raise where the noise is too weak to tell from structure."""
    value, low, high = fit.noise_sd()
    if fit.law.nps is None and not (value > LEAST * model.intensity.scale and math.isfinite(high)):
        raise InputError(where, f"no noise to be seen (about {value:.2g} {model.intensity.unit})",
                         "an image with noise", "There is nothing to restore, or it was smoothed away.")  # fmt: skip
    if fit.law.nps is None and high > LOOSEST * low:
        found = f"a noise somewhere between {low:.2g} and {high:.2g} {model.intensity.unit}"
        raise InputError(where, found, "an image whose noise can be told from its structure",
                         "Was it interpolated or processed? Give {nps}.", nps="nps.json")  # fmt: skip


def _told(
    fit: BlindFit,
    data: PatchPower,
    image: Image,
    stack: Tensor,
    kernel: tuple[str, str] | None,
    scale: float,
) -> EstimatedInstrument:
    law = fit.law
    f = torch.linspace(0, 0.75 / min(data.spacing), 121, dtype=torch.float64, device="cpu")
    summary = summary_of(fit, data, image, kernel)
    mtf = None if law.mtf is not None else curve_record("mtf", f, fit.mtf(f), "1", summary, image)
    nps = None if law.nps is not None else curve_record("nps", f, fit.nps(f), f"{image.unit}^2 mm^2", summary, image)
    shown = {"image": stack[len(stack) // 2], "mtf": mtf, "nps": nps, "unit": image.unit, "misfit": fit.misfit,
             "places": [p for p in fit.quiet_places if p[0] == len(stack) // 2], "size": SIZE}  # fmt: skip
    tails = _tails(stack, data)
    summary["tails"] = tails
    unknown = "" if mtf is None else _unknown(fit, data, kernel)
    if nps is not None:
        unknown = _faint(fit, law, image.unit, scale) or unknown
    return EstimatedInstrument(mtf, nps, summary, unknown, tuple(_warnings(fit, data, kernel, tails)), shown)


def _faint(fit: BlindFit, law: PatchLaw, unit: str, scale: float) -> str:
    """Why a weak noise is not known; empty where it is strong enough."""
    value, least = fit.noise_sd()[0], FAINT * scale
    if law.nps is not None or value >= least:
        return ""
    return (
        f"noise unknown: structure of patients passes for noise of up to {least:.3g} {unit}, and {value:.3g} was found"
    )


def _tails(stack: Tensor, data: PatchPower) -> float:
    """Excess kurtosis of second differences in the quieter fifth of the patches, each over its own deviation."""
    level = data.power[:, data.frequency > 0.4 * data.frequency[-1]].mean(1)
    chosen = data.place[level <= level.quantile(0.2)]
    found = []
    for z, row, column in chosen.tolist():
        x = stack[z, row : row + data.size, column : column + data.size]
        second = 4 * x[1:-1, 1:-1] - x[:-2, 1:-1] - x[2:, 1:-1] - x[1:-1, :-2] - x[1:-1, 2:]
        found.append(second.pow(4).mean() / second.square().mean().square().clamp_min(1e-300) - 3)
    return float(torch.stack(found).median())


def _unknown(fit: BlindFit, data: PatchPower, kernel: tuple[str, str] | None) -> str:
    """Why no posterior may rest on the estimated resolution; empty where the header names a standard kernel.

    Within its band the MTF is what it may be, but a posterior takes one curve for the truth: with a half at 1.5 times
    the true frequency, errors were three times the deviation, and the residual showed nothing of it.
    """
    _, low, high = fit.mtf50()
    if kernel is not None and kernel[1] == "standard":
        return ""  # the blur of such kernels is that of the images of a training
    if fit.edges < LEAST_EDGES:
        return f"resolution unknown: {fit.edges:.0f} patches of the image show edges"
    between = f"the MTF falls to a half somewhere between {low:.2g} and {high:.2g} cycles/mm"
    if high > WIDEST * low and low < 0.5 / max(data.spacing):
        return f"resolution unknown: {between}"
    return f"resolution estimated: {between}, and a deviation would not hold that error"


def _warnings(fit: BlindFit, data: PatchPower, kernel: tuple[str, str] | None, tails: float) -> Sequence[str]:
    out = []
    if kernel is not None and fit.law.mtf is None:
        out.append(f"the kernel {kernel[0]} in the header was taken as a hint of the resolution")
    if tails > TAILED:
        out.append(f"the noise is not Gaussian (excess kurtosis {tails:.2g}): the image was smoothed or processed")
    end = 1.3 * fit.value("window")
    if fit.law.nps is None and end < 0.25 / max(data.spacing):
        out.append(
            f"the noise ends at {end:.2g} cycles/mm, below half of the Nyquist frequency: interpolated or smoothed"
        )
    if fit.uneven > UNEVEN:
        out.append(f"the noise is not the same everywhere: its variance scatters by {fit.uneven:.0%}")
    if fit.anisotropy > STRETCHED and fit.quiet >= LEAST_PATCHES:
        out.append(f"the noise is {fit.anisotropy:.2g} times as strong in one direction as in another")
    return out
