"""The record of held-out patients: how the checks of a verdict come out where the instrument is right."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple, TypeVar

from torch import Tensor

from retrodict._check import InputError, NotCalibratedError
from retrodict._random import key
from retrodict.data.collection import Slice
from retrodict.denoisers.network import NetDenoiser
from retrodict.models.held_out import QUIET, HeldOut, scatter
from retrodict.models.instrument import AROUND, measured_inside
from retrodict.processes.clocks import ClockLaw
from retrodict.samplers.ensemble import SamplingOptions, restore_batch
from retrodict.samplers.margin import MARGIN
from retrodict.samplers.misfit import BandMisfit, bands_of, flat_pixels, one_call

__all__ = [
    "SIDES",
    "Row",
    "Spacing",
    "along",
    "by_group",
    "center",
    "evenly",
    "held_out",
    "held_out_as_measured",
    "held_out_over_law",
    "numbers_of",
    "record_of",
    "rows_of",
    "slices_of",
]


SIDES = {1: 128, 2: 128, 3: 64}
"""Largest side in pixels, by axes, of the part of an image that is measured: a larger image scatters less, and of one
of less than twice the reach of the bands (`samplers.misfit.reach`) nothing is looked at."""

T = TypeVar("T")

Spacing = float | tuple[float, ...]
"""Of square pixels, or one for each axis; mm."""


IMAGES = 2
"""Images of a patient that are measured."""


class Row(NamedTuple):
    """One image: logs of the ratios of one call of the network and of members, pixels and tiles that were looked at."""

    one_call: list[float]
    sampled: list[float]
    pixels: int
    tiles: int


def held_out(denoiser: NetDenoiser, patients: Mapping[str, Sequence[Tensor]], seed: int = 0) -> HeldOut | None:
    """Measure images of held-out patients by the instrument of the model, and check them.

    patients: of each, clean images `(C, *N)` in model units at the spacing of the model; the first `IMAGES` are used.
    None for fewer than two patients, whose scatter nobody can tell, or a process whose measurement is not known.
    """
    if len(patients) < 2 or denoiser.process.measurement is None:
        return None
    return record_of(list(rows_of(denoiser, patients, seed).values()), bands_of(denoiser).edges)


def held_out_over_law(
    denoiser: NetDenoiser, law: ClockLaw, patients: Mapping[str, Sequence[tuple[Tensor, Spacing]]], seed: int = 0
) -> HeldOut | None:
    """`held_out` of a model of every instrument: each image is measured by instruments of its own, drawn from `law`,
    one of much noise and one of little.

    patients: of each, pairs of a clean image `(C, *N)` in model units and its pixel spacing in mm.
    """
    options = SamplingOptions(samples=2, keep_samples=True)
    found: dict[bool, list[list[Row]]] = {False: [], True: []}
    for number, images in enumerate(patients.values()):
        for quiet, every in found.items():
            rows = []
            for i, (image, spacing) in enumerate(images[:IMAGES]):
                drawn = _drawn(denoiser, law, spacing, key(seed, f"patient-{number}", i), quiet)
                rows += [] if drawn is None else [_row(drawn[0], image, drawn[1], options)]
            every.append([row for row in rows if row is not None])
    loud, quiet = (_record_by_number([rows for rows in found[kind] if rows]) for kind in (False, True))
    return None if loud is None else replace(loud, quiet=quiet)


def held_out_as_measured(patients: Mapping[str, Sequence[tuple[NetDenoiser, Tensor]]], seed: int = 0) -> HeldOut | None:
    """`held_out` of scans as they are: nothing is simulated, and no clean image is needed.

    patients: of each, pairs of the denoiser at the instrument of a scan and the scan `(C, *N)` in model units.
    """
    options = SamplingOptions(samples=2, keep_samples=True)
    found = []
    for number, images in enumerate(patients.values()):
        rows = []
        for i, (bound, image) in enumerate(images[:IMAGES]):
            own = key(seed, f"patient-{number}", i)
            rows.append(_row_of(bound, center(image)[None], own, replace(options, seed=own)))
        found.append([row for row in rows if row is not None])
    return _record_by_number([rows for rows in found if rows])


def _drawn(
    denoiser: NetDenoiser, law: ClockLaw, spacing: Spacing, seed: int, quiet: bool
) -> tuple[NetDenoiser, int] | None:
    """The denoiser at an instrument of the law that is quiet, or is not (`models.held_out.QUIET`), and its seed; None
    where 200 draws have none.
    """
    process = denoiser.process
    basis = replace(process.basis, spacing=along(spacing, process.ndim))
    for trial in range(200):
        own = key(seed, "instrument", trial)
        bound = denoiser.at(law.instrument(basis, own))
        if (bands_of(bound).content[0] > QUIET) == quiet:
            return bound, own
    return None


def _record_by_number(patients: Sequence[Sequence[Row]]) -> HeldOut | None:
    """Mean and scatter over patients, band by band counted from the highest; the last number is the unevenness.  None
    for fewer than two patients.
    """
    if len(patients) < 2:
        return None
    every = [row for rows in patients for row in rows]
    pairs = []
    for stage in ("one_call", "sampled"):
        most = max(len(getattr(row, stage)) for row in every)
        columns = []
        for back in range(most, 0, -1):
            numbers = [[x[-back] for row in rows if len(x := getattr(row, stage)) >= back] for rows in patients]
            numbers = [row for row in numbers if row]
            if len(numbers) >= 2:
                columns.append(scatter(numbers))
        pairs.append(tuple(zip(*columns, strict=True)))
    pixels, tiles = (round(sum(getattr(row, n) for row in every) / len(every)) for n in ("pixels", "tiles"))
    return HeldOut((), len(patients), len(every), pixels, tiles, *pairs)


def rows_of(
    denoiser: NetDenoiser, patients: Mapping[str, Sequence[Tensor]], seed: int = 0, members: int = 2
) -> dict[str, list[Row]]:
    """The numbers of every image of every patient; patients of whom nothing can be looked at are left out.

    Without `members` nothing is sampled: the numbers of one call stand for theirs.
    """
    options = None if members < 2 else SamplingOptions(samples=members, seed=seed, keep_samples=True)
    found: dict[str, list[Row]] = {}
    for number, (name, images) in enumerate(patients.items()):
        rows = [_row(denoiser, x, key(seed, f"patient-{number}", i), options) for i, x in enumerate(images[:IMAGES])]
        found[name] = [row for row in rows if row is not None]
    return {name: rows for name, rows in found.items() if rows}


def record_of(patients: Sequence[Sequence[Row]], edges: tuple[float, ...]) -> HeldOut | None:
    """Mean and scatter over patients, each counted alike; None for fewer than two."""
    if len(patients) < 2:
        return None
    every = [row for rows in patients for row in rows]
    pairs = []
    for stage in ("one_call", "sampled"):
        numbers = [[getattr(row, stage) for row in rows] for rows in patients]
        pairs.append(
            tuple(zip(*(scatter([[x[k] for x in rows] for rows in numbers]) for k in range(len(edges))), strict=True))
        )
    pixels, tiles = (round(sum(getattr(row, n) for row in every) / len(every)) for n in ("pixels", "tiles"))
    return HeldOut(edges, len(patients), len(every), pixels, tiles, *pairs)


def _row(denoiser: NetDenoiser, x0: Tensor, seed: int, options: SamplingOptions | None) -> Row | None:
    """The numbers of an image; None where no pixel of it can be looked at."""
    return _row_of(
        denoiser, center(measured_inside(denoiser.process, x0[None], seed, AROUND[x0.ndim - 1])[0])[None], seed, options
    )


def _row_of(denoiser: NetDenoiser, y: Tensor, seed: int, options: SamplingOptions | None) -> Row | None:
    """The numbers of a measured image y `(1, C, *N)`."""
    margin = MARGIN[denoiser.process.ndim]
    misfit = BandMisfit(denoiser, y, flat_pixels(y), margin)
    sample = one_call(denoiser, y, margin=margin, seed=seed)[1]
    if sample is None or misfit.counts[0] == 0:
        return None
    one = numbers_of(misfit, sample)
    if options is None:
        return Row(one, one, misfit.counts[0], max(1, misfit.tiles[0]))
    try:
        members = restore_batch(denoiser, y, replace(options, seed=seed, margin=margin)).samples
    except (NotCalibratedError, InputError):  # a model without a posterior sampler has no members to look at
        return Row(one, one, misfit.counts[0], max(1, misfit.tiles[0]))
    assert members is not None
    return Row(one, numbers_of(misfit, members[:, 0]), misfit.counts[0], max(1, misfit.tiles[0]))


def numbers_of(misfit: BandMisfit, samples: Tensor) -> list[float]:
    """Logs of the ratios of samples `(k, C, *N)` of the first measured image, averaged; 0 where one is not defined."""
    ratios = misfit.ratios(samples, 0)
    found = [*ratios.bands.mean(0).tolist(), float(ratios.uneven.mean())]
    return [math.log(x) if 0 < x < math.inf else 0.0 for x in found]


def along(spacing: Spacing, ndim: int) -> tuple[float, ...]:
    """A spacing for every axis."""
    return (spacing,) * ndim if isinstance(spacing, float | int) else spacing


def center(x: Tensor, more: int = 0) -> Tensor:
    """The middle of an image `(C, *N)`: at most `SIDES` pixels along every axis, and `more` on both sides."""
    side = SIDES[x.ndim - 1] + 2 * more
    cuts = [slice(max(0, (n - side) // 2), max(0, (n - side) // 2) + side) for n in x.shape[1:]]
    return x[(slice(None), *cuts)]


def by_group(images: Iterable[tuple[str, Tensor]]) -> dict[str, list[Tensor]]:
    """Images `(C, *N)` of every group, `IMAGES` of them evenly spaced."""
    every: dict[str, list[Tensor]] = {}
    for name, image in images:
        every.setdefault(name, []).append(image)
    return {name: evenly(row) for name, row in every.items()}


def slices_of(items: Iterable[Slice], encode: Callable[[Tensor], Tensor]) -> dict[str, list[tuple[Tensor, Spacing]]]:
    """Of every patient some slices in model units with their pixel spacing in mm; encode: of values."""
    every: dict[str, list[tuple[Tensor, Spacing]]] = {}
    for item in items:
        own = encode(item.image.values), math.sqrt(math.prod(item.spacing))
        every.setdefault(item.patient, []).append(own)
    return {name: evenly(row) for name, row in every.items()}


def evenly(images: list[T]) -> list[T]:
    """`IMAGES` of a patient, the middles of as many parts: those at an end of a stack are not like the others."""
    count = min(IMAGES, len(images))
    return [images[(2 * k + 1) * len(images) // (2 * count)] for k in range(count)]
