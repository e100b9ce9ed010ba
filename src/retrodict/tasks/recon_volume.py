"""`reconstruct --posterior --coupling`: all slices of a volume drawn together, by a prior of slices coupled along z."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from retrodict._check import InputError
from retrodict.physics.measurement import Measurement
from retrodict.physics.operator import Operator
from retrodict.physics.slices import volume_of
from retrodict.posterior.check import FAR, prior_distance
from retrodict.posterior.ensemble import sample_posterior
from retrodict.posterior.slices import Coupled, correlation
from retrodict.tasks.machine import free_memory
from retrodict.tasks.recon_acquired import Acquisition
from retrodict.tasks.recon_cost import volume_bytes
from retrodict.tasks.recon_posterior import Drawing, Inner, PosteriorSolver
from retrodict.tasks.recon_priors import NetworkPrior

__all__ = ["draw_volume", "require_volume"]

METHODS = ("auto", "matched")
"""Posterior methods whose spread is right for coupled slices."""

NETWORKS = False
"""Whether the prior of a network may be coupled.  The correction between slices is that of Gaussian volumes; it takes
the answer of a trained network off the data (`benchmarks/inverse_volumes.py --network`: error 1.00 instead of 0.20)."""

CHUNK = 8
"""Samples that are drawn at a time where they fit into the memory."""


def require_volume(solver: PosteriorSolver, made: Acquisition) -> None:
    """Raise what keeps the slices of an acquisition from being drawn together; nothing where they are not to be."""
    if solver.coupling is None:
        return
    if made.count < 2:
        raise InputError("coupling", "one slice", "a volume of at least two slices, whose neighbors are correlated")
    if not made.stacked:
        raise InputError("coupling", f"{made.count} images that are no volume", "slices of one volume, in their order")
    if isinstance(solver.prior, NetworkPrior) and not NETWORKS:
        hint = "Leave {coupling} out to draw slices one by one, or give the spectrum of images by {prior_spectrum}."
        raise InputError("coupling", "the prior of a network", "a Gaussian prior, for which it is exact", hint,
                         coupling=solver.coupling, prior_spectrum="fit")  # fmt: skip
    if solver.method not in METHODS:
        hint = "Leave {coupling} out to draw slices one by one."
        raise InputError("method_posterior", repr(solver.method), "matched, for slices that are coupled", hint,
                         coupling=solver.coupling)  # fmt: skip
    part = made.part(0, False)
    if part.operator.domain.complex:
        raise InputError("coupling", "complex images", "real ones: no coupling of complex slices is known")
    if not part.gaussian()[1].elementwise:
        hint = "Leave {coupling} out to draw slices one by one."
        raise InputError("coupling", "noise that is correlated between samples", "independent noise", hint,
                         coupling=solver.coupling)  # fmt: skip
    _ = _coupled(solver, solver._pair(part, made.spacing, rough=True)[0], made.count)
    _chunk(part, made.count, solver.samples)


def _coupled(solver: PosteriorSolver, denoiser: Any, count: int) -> Coupled:
    """The prior of the volume: neighbors correlated by `coupling`, others by its powers."""
    assert solver.coupling is not None
    return Coupled(denoiser, correlation(count, -1.0 / math.log(solver.coupling), 1.0))


def _chunk(part: Measurement, count: int, samples: int) -> int:
    """Samples at a time for which the memory suffices; `InputError` where it does for none."""
    free = free_memory()
    most = min(CHUNK, samples)
    if free is None:
        return most
    one, kept = volume_bytes(part, count, samples)
    fits = int((free - kept) // one)
    if fits < 1:
        found = f"a volume of {count} slices, {(kept + one) / 1e9:.1f} GB, and {free / 1e9:.1f} GB of free memory"
        hint = "Choose fewer of them by the entry slices, or leave {coupling} out to draw slices one by one."
        raise InputError("coupling", found, "a volume that fits into the memory", hint, coupling=0.8)
    return min(most, fits)


def draw_volume(
    solver: PosteriorSolver,
    parts: Sequence[Measurement],
    spacing: Sequence[float],
    watch: Callable[[int, int], None] | None = None,
) -> list[Drawing]:
    """Samples of the volume as a `Drawing` for every slice; sample k of all slices is one volume.

    `watch(done, total)` samples.  The noise of the volume is that of the seed stream 0.  Warnings of the volume are
    those of the first slice; misfits are of every slice.
    """
    denoiser, known, inner = _known(solver, parts, spacing)
    options = dict(solver.settings)
    style = options.pop("style", None)
    prior = _coupled(solver, denoiser, len(parts))
    volume = volume_of(known)
    said = _outside(denoiser, known)
    found = sample_posterior(
        prior,
        volume,
        "matched",
        style=style,
        samples=solver.samples,
        steps=solver._steps(options, prior, volume, style),
        seed=solver.seed,
        chunk=_chunk(parts[0], len(parts), solver.samples),
        watch=watch,
        **options,
    )
    said += [text.removeprefix("measurement 0: ") for text in found.warnings]
    samples, mean = (solver._back(x, inner) for x in (found.samples[:, 0], found.mean))
    out = []
    for k, part in enumerate(parts):
        own, image = samples[:, k : k + 1], mean[:, k : k + 1]
        about = solver._about(found, said if k == 0 else [])
        about["misfit"], about["misfit_sd"] = _misfit(part, own)
        about["coupling"] = solver.coupling
        ended = (f"{found.calls} calls",)
        out.append(Drawing(
            image, part.relative_residual(image), part.misfit(image).ratio, (found.details["steps"],), ended,
            kind=found.kind, samples=own[:, None], about=about,
        ))  # fmt: skip
    return out


def _known(
    solver: PosteriorSolver, parts: Sequence[Measurement], spacing: Sequence[float]
) -> tuple[Any, list[Measurement], Inner]:
    """The prior of slices, and all measurements in its unit; an operator that slices share is folded once."""
    denoiser, first, inner = solver._pair(parts[0], spacing)
    folded: dict[int, Operator] = {id(parts[0].operator): first.operator}
    known = [first]
    for part in parts[1:]:
        own = folded.get(id(part.operator))
        if own is None:
            own = folded[id(part.operator)] = solver._pair(part, spacing, rough=True)[1].operator
        known.append(replace(part, operator=own))
    return denoiser, known, inner


def _misfit(part: Measurement, samples: Tensor) -> tuple[float, float]:
    """Chi^2 over its mean, of the samples `(K, 1, H, W)` of a slice, and the deviation it has for the true image."""
    found = [part.misfit(x[None].to(part.y)) for x in samples]
    mean = sum(float(f.ratio) for f in found) / len(found)
    return mean, max(float((f.variance.sqrt() / f.mean).max()) for f in found)


def _outside(denoiser: Any, known: Sequence[Measurement]) -> list[str]:
    """What speaks against the data of each slice, by the prior of slices."""
    out = []
    for k, part in enumerate(known):
        distance = prior_distance(denoiser, part)
        if distance is not None and distance > FAR:
            out.append(
                f"slice {k}: chi^2 of the data under the prior is {distance:.3g} per datum, where 1 is expected and "
                f"{FAR:g} is the limit: they are outside the range of this prior"
            )
    for text in out:
        warnings.warn(text, stacklevel=3)
    return out
