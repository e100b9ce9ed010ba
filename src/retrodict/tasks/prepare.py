"""A model made ready for an image: its instrument, tiles, error law and device; and what must hold of the image."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

import torch

from retrodict._check import InputError, NotCalibratedError, choice
from retrodict.bases import Fourier
from retrodict.data import Image
from retrodict.models.instrument import as_scanned, model_with_instrument
from retrodict.models.model import Model, open_model
from retrodict.models.range import at_spacing, neighbor, slices_outside
from retrodict.nets import precision_for
from retrodict.processes import PROCESSES
from retrodict.processes.process import Process
from retrodict.processes.recipes import external
from retrodict.tasks.machine import device_named
from retrodict.tasks.options import RestoreOptions

__all__ = ["check_image", "model_card", "model_channels", "prepared"]


def model_card(name: str = "ct") -> dict[str, Any]:
    """What is known of a model, for people: source, spacing (mm), unit, process, and the card of its training."""
    opened = open_model(name)
    spec = opened.spec
    head = {"source": opened.source, "spacing_mm": spec.spacings or spec.spacing, "unit": opened.intensity.unit}
    what = {"process": spec.process} if spec.law is None else {"instruments": "every one of its law", "law": spec.law}
    card = {k: v for k, v in spec.card.items() if not k.endswith("_images")}  # digests are for programs
    return {**head, **what, **card}


def prepared(
    model: Model, options: RestoreOptions, spacing: tuple[float, ...] | None = None
) -> tuple[Model, dict[str, Any]]:
    """The model with what the options say of it, and the record of it.

    spacing: pixel spacing in mm of the image, of which a model of every instrument is brought to the grid; without it
    nothing is known of the image, and curves are not put on such a model yet.

    Raises `NotCalibratedError` where an uncertainty is asked of an instrument that the calibration does not hold for.
    """
    device = device_named(options.device)
    if model.spec.law is not None:
        bound, record = _of_every_instrument(model, options, spacing)
    elif options.process is not None:
        hint = "Its process is the one that it was trained on."
        raise InputError("process", f"{options.process!r} for a model of one instrument", "a model of every one", hint)
    else:
        bound, record = _with_instrument(model, options.mtf, options.nps, not options.point)
    denoiser = bound.denoiser
    if options.precision != "auto":  # else as the model was opened
        denoiser = replace(denoiser, precision=precision_for(options.precision, device))
    if options.tile is not None:
        denoiser = denoiser.tiled(options.tile)
    if options.spread is not None:
        denoiser = denoiser.with_spread(options.spread)
    return _on_device(replace(bound, denoiser=denoiser), device), {
        "device": device,
        "precision": denoiser.precision,
        **record,
    }


def _of_every_instrument(
    model: Model, options: RestoreOptions, spacing: tuple[float, ...] | None
) -> tuple[Model, dict[str, Any]]:
    """The model at the spacing of an image and bound to the curves, which have to be of the kind of its training."""
    needed = ("nps",) if as_scanned(model) else ("mtf", "nps")
    missing = [name for name in needed if getattr(options, name) is None]
    if missing and not options.estimate_instrument:
        raise InputError(
            missing[0],
            "nothing: this model serves every instrument, so it has to be told which one",
            "the measured curve of the scanner and protocol",
            "Measure phantom scans with 'retrodict measure mtf' and 'retrodict measure nps', or give "
            "{estimate_instrument} to find it in the image itself.",
            estimate_instrument=True,
        )
    if spacing is None:
        return model, {}
    moved = model if model.spec.spacings is None else at_spacing(model, spacing)
    slices = _slices(moved, options)
    bound, _ = model_with_instrument(moved, options.mtf, options.nps, slices)
    found = neighbor(bound)
    assert found is not None
    why = found.why or ("" if slices is None else slices_outside(bound, **slices))
    if why and not options.point:
        raise NotCalibratedError(
            f"The measured instrument is not of the kind that the model was trained on: {why}. Check unit and spacing "
            "of the curves, train a model over a law that holds it (retrodict fit), or ask for a point estimate "
            "({point}).",
            point=True,
        )
    if options.process is not None:
        bound = replace(bound, denoiser=bound.denoiser.at(_chain(options.process, bound.denoiser.process)))
    nearest_slices = {} if slices is None else {"slices": slices}
    files = ["MTF 1" if options.mtf is None else str(options.mtf), str(options.nps)]
    nearest = {"distance": found.distance, "limit": found.limit, "noise": found.noise, "in_range": not why, "why": why}
    return bound, {"instrument": {**nearest, **nearest_slices, "files": files}}


def _slices(model: Model, options: RestoreOptions) -> dict[str, float] | None:
    """What the options say of the third axis; None for a model of slices, which has none."""
    stated = {"profile": options.slice_profile, "correlation": options.slice_correlation}
    if len(model.spec.size) != 3:
        extra = next((name for name, value in stated.items() if value is not None), None)
        if extra is not None:
            raise InputError(f"slice_{extra}", stated[extra], "nothing: this model restores slices one by one")
        return None
    missing = [name for name, value in stated.items() if value is None]
    if missing:
        found = "nothing: the curves say what happens in the plane of a slice alone"
        if missing[0] == "profile":
            what, hint = "the width of the slice sensitivity profile at half maximum in mm", "Give {slice_profile}."
            raise InputError("slice_profile", found, what, hint, slice_profile=model.spec.spacing[0])
        what = "the correlation of the noise of neighboring slices, 0 where they are independent"
        raise InputError("slice_correlation", found, what, "Give {slice_correlation}.", slice_correlation=0)
    return {name: float(value) for name, value in stated.items() if value is not None}


def _chain(name: str, instrument: Process) -> Process:
    """The process of that name in the basis of an instrument, from noise and with its measurement beside the chain."""
    alone = [n for n, build in PROCESSES.items() if "mtf" not in inspect.signature(build).parameters]
    known = [n for n in alone if _from_noise(n)]
    return external(PROCESSES[choice("process", name, known)](instrument.basis), instrument)


def _from_noise(name: str) -> bool:
    """Whether a process exists in the basis of instruments and starts from noise alone."""
    try:
        return PROCESSES[name](Fourier((8, 8))).pairing.kind == "none"
    except InputError:  # one of another basis
        return False


def _with_instrument(model: Model, mtf: Any, nps: Any, uncertainty: bool) -> tuple[Model, dict[str, Any]]:
    """The model bound to measured curves, and the record of how far they are from those of the training."""
    if mtf is None and nps is None:
        return model, {}
    bound, agreement = model_with_instrument(model, mtf, nps)
    if uncertainty and not agreement.holds:
        raise NotCalibratedError(
            f"The measured instrument is not the one that the model was calibrated for: {agreement}. "
            "Train on for it (retrodict fit with start_from and the measured curves, some hundred steps), or ask for a "
            "point estimate ({point}).",
            point=True,
        )
    record = {"noise_ratio": agreement.noise_ratio, "mtf_difference": agreement.mtf_difference}
    return bound, {"instrument": {**record, "calibration_holds": agreement.holds, "files": [str(mtf), str(nps)]}}


# ---- where it runs -----------------------------------------------------------------------------------------------


def _on_device(model: Model, device: str) -> Model:
    return model if device == "cpu" else replace(model, denoiser=model.denoiser.to(device))


# ---- what an image must be ---------------------------------------------------------------------------------------


def model_channels(model: Model) -> int:
    """Channels of the images that a model restores."""
    return len(model.spec.channels)


def check_image(image: Image, model: Model, name: str) -> None:
    """Raise `InputError` where channels, unit, values or axes are not those that the model restores."""
    where = str(image.source[0]) if image.source else name
    channels = model_channels(model)
    if image.values.shape[0] != channels:
        wanted = "one channel" if channels == 1 else f"{channels} channels"
        raise InputError(where, f"{image.values.shape[0]} channels", wanted)
    if image.values.is_complex() != model.denoiser.process.basis.complex:
        found, wanted = ("complex", "real") if image.values.is_complex() else ("real", "complex")
        raise InputError(where, f"{found} pixels", f"{wanted} ones, as the model was trained on")
    if image.unit != model.intensity.unit:
        wanted = model.intensity.unit
        hint = "Give {unit} if that is what the values are." if image.unit == "arbitrary" else ""
        raise InputError(where, f"values in {image.unit!r}", f"{wanted!r}, the unit of the model", hint, unit=wanted)
    if not bool(torch.isfinite(image.values).all()):
        raise InputError(where, "NaN or infinite pixels", "finite pixels")
    ndim = len(model.spec.size)
    if image.values.ndim - 1 < ndim:
        raise InputError(where, f"a {image.values.ndim - 1}-D image", f"{ndim} axes for this model")
