"""A model of every instrument as a prior: the law of its images alone, for measurements of any kind.

The network is told the clock r(f) = s^2 / h^2 of what it sees, so it serves processes that it was not trained on.  As a
prior it gets the plainest one, white noise of sigma_max t on the image itself (Karras et al. 2022), whose levels lie
within the white clocks of its law: from `ClockLaw.noise` up to `hidden` times its largest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch

from retrodict._check import InputError
from retrodict.bases import Fourier
from retrodict.denoisers.cascade_posterior import CascadePosterior
from retrodict.denoisers.network import NetDenoiser
from retrodict.models.model import Model
from retrodict.models.range import at_spacing, far_from, fits
from retrodict.processes.clocks import law_from_json
from retrodict.processes.observation import Moments, fuse
from retrodict.processes.process import Process
from retrodict.processes.scalar import edm

__all__ = ["prior_of", "state_noise", "unlike"]

TIMES = (1.0, 0.5, 0.2, 0.08, 0.03)
"""Of the state, at which its clock fused with the measurement's is compared with those of the training."""

ABOVE = 2.0
"""Largest noise of the state over the deviation of the images: the chain starts at a draw given the data, so more of it
only costs calls.
"""


def prior_of(model: Model, size: Sequence[int], spacing: Sequence[float]) -> NetDenoiser:
    """The denoiser of a model on images of `size` pixels of `spacing` mm, with a process that knows no measurement.

    A model of one instrument or of images generated from nothing serves if its own process has no measurement.  Raises
    `InputError` for a model that is no prior, for another spacing, color images, and sizes that its network has not.
    """
    spacing = tuple(float(d) for d in spacing)
    if len(model.spec.channels) != 1 or model.denoiser.process.basis.complex:
        raise InputError("model", f"channels {', '.join(model.spec.channels)}", "a model of real gray images")
    if len(spacing) != len(model.spec.size):
        found = f"{len(model.spec.size)}-D images, and a measurement of {len(spacing)}-D ones"
        raise InputError("model", found, "a model of as many axes")
    denoiser = _at(model, spacing)
    process = denoiser.process
    if process.pairing.restores:
        if not (denoiser.any_clock and isinstance(process.basis, Fourier)):
            hint = "The shipped model ct is one."
            found = "a model of one instrument, which denoises its own noise alone"
            raise InputError("model", found, "a model of every instrument (level: clock), or of images alone", hint)
        process = edm(process.basis, state_noise(model))
    wrong = [n for n in size if n % denoiser.multiple]
    if wrong:
        raise InputError("image.size", tuple(size), f"multiples of {denoiser.multiple}, as the network takes them")
    if isinstance(denoiser, CascadePosterior):  # posterior methods ask for a covariance, which a cascade has not
        denoiser = replace(denoiser, scale_steps=0)
    return denoiser.at(process).on(tuple(size))


def state_noise(model: Model) -> float:
    """Largest noise of the state in model units: `ABOVE` deviations of the images, and not beyond the law."""
    most = ABOVE * float(model.denoiser.unit or 1.0)
    if model.spec.law is None:
        return most
    law = law_from_json(model.spec.law, f"{model.source}: law")
    return min(most, law.hidden * law.noise[1] / law.scale)


def _at(model: Model, spacing: tuple[float, ...]) -> NetDenoiser:
    own = model.spec.spacing
    if all(math.isclose(a, b, rel_tol=1e-3) for a, b in zip(spacing, own, strict=True)):
        return model.denoiser
    if model.spec.spacings is not None and fits(spacing, model.spec.spacings):
        return at_spacing(model, spacing).denoiser
    shown = " x ".join(f"{s:.4g}" for s in spacing)
    low, high = model.spec.spacings or (min(own), max(own))
    wanted = f"square pixels of {low:.3g} to {high:.3g} mm, which the model knows"
    hint = "Choose pixels by image.spacing; in a simulation they are simulate.refine times those of the image."
    raise InputError("pixel spacing", f"{shown} mm", wanted, hint)


def unlike(model: Model, process: Process, law: Moments) -> str:
    """Why a measurement y = h u_0 + s z in the basis of a prior is not of the kind that the model was trained on.

    For methods that show it to the network, fused with the state; empty where it is, or where the model has no law.
    Looked at are the deviation of its noise per pixel, and the clocks of state and measurement fused, from the first to
    the last, against draws of the law (`retrodict.models.range.far_from`).
    """
    if model.spec.law is None:
        return ""
    known = law_from_json(model.spec.law, f"{model.source}: law")
    weight = process.basis.multiplicity()
    noise = math.sqrt(float((law.s2.expand(weight.shape) * weight).sum() / weight.sum())) * model.intensity.scale
    low, high, unit = *known.noise, model.intensity.unit
    if not low * 0.98 <= noise <= high * 1.02:
        return f"its noise is {noise:.3g} {unit}, and the model was trained on {low:g} to {high:g} {unit}"
    return _clock_unlike(model, process, law)


def _clock_unlike(model: Model, process: Process, law: Moments) -> str:
    """The same of the clocks on the way: of the state at `TIMES` and the measurement, fused."""
    shape, worst = process.basis.shape, None
    y = Moments(*(x.to(torch.float64).expand(shape) for x in law))
    for time in TIMES:
        state = process.moments(torch.tensor([time], dtype=torch.float64, device="cpu"))
        w = Moments(*(x[0, 0].expand(shape) for x in state))
        zero = torch.zeros(shape, dtype=torch.float64, device=y.h.device)
        _, clock = fuse(zero, w, zero, y)
        found = far_from(model, process, clock)
        if found is not None and (worst is None or found[0] - found[1] > worst[0] - worst[1]):
            worst = found
    if worst is None or worst[0] <= worst[1]:
        return ""
    distance, _, (low, high) = worst
    band = f"at {low:g} to {high:g} /mm" if math.isfinite(high) else f"above {low:g} /mm"
    return (
        f"{band} state and measurement together leave {math.exp(distance):.2g} times more or less of the images open "
        "than any observation like them that the model was trained on"
    )
