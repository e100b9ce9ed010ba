"""The last factor on the predicted spread: that with which it is right as images are restored."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from retrodict._random import key
from retrodict.denoisers.network import NetDenoiser, rms_level
from retrodict.denoisers.spread_scale import IntensityScale, SpreadScale, hats
from retrodict.models.instrument import AROUND, measured_inside
from retrodict.processes.observation import Moments, noise_like, wiener
from retrodict.processes.process import Process
from retrodict.samplers.ensemble import SamplingOptions, restore_batch, unchecked
from retrodict.samplers.margin import MARGIN, depth_of
from retrodict.tasks.held_out import IMAGES, SIDES, Spacing, along, center

__all__ = ["Instruments", "by_intensity", "in_use"]


class Instruments(Protocol):
    """A law of instruments: of a seed one process that ends at it, as `ClockLaw` has them."""

    def instrument(self, basis: Any, seed: int) -> Process: ...


INSTRUMENTS = {1: 4, 2: 4, 3: 2}
"""Instruments of the law that measure every image, by its axes: a volume says more than an image."""

BORDER = 8
"""Pixels that have factors of their own: one call knows one margin around an image, and a network takes it for a
measurement."""

NODES = (0.05, 0.25, 0.5, 0.75, 0.95)
"""Quantiles of the noise level between which the factor is a line."""

TIMES = (0.1, 0.2, 0.35, 0.6)
"""Of states on the way from the measurement to the image, whose errors count as that at the measurement does."""

REACH = {1: 16, 2: 16, 3: 8}
"""Pixels, by axes, at the border of a state that are not looked at: it is taken as periodic."""

LEAST, MOST = 0.7, 1.5
"""Of the factor: more says that something else is wrong."""

LEAST_BORDER, MOST_BORDER = 1.0, 4.0
"""Of the factors at the border."""

RING = (4, 12)
"""Distances from the border at which margins widen what a chain draws and nothing but margins does."""

SHOWN = (0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97, 0.99)
"""Quantiles of what restored pixels show between which their factor is a line: bone is a thirtieth of a chest."""

ROUNDS = 5
"""Of fitting the factors by intensity, whose nodes share pixels; after four none moves by a percent."""

MEMBERS, CALLS = 4, 2
"""Of the chains that tell the share of the deviation that margins get."""


def in_use(
    denoiser: NetDenoiser, law: Instruments, patients: Mapping[str, Sequence[tuple[Tensor, Spacing]]], seed: int = 0
) -> SpreadScale | None:
    """The factors of `denoiser`, times a function of the noise level that makes SSR^2 = 1 where patients count alike.

    The factors by level and frequency (`training.calibrate_law`) come from patches that are periodic, of states
    anywhere along their ramps, and count by their error.  A restoration meets instruments at their ends, on images
    that are not periodic; and a patient who errs little counts as much as another.  So the middle of every image is
    measured by instruments of the law, restored by one call, and squared error over variance, averaged over a patient's
    images, is fitted by a broken line over the level (least squares).  A restoration of several calls passes states of
    less noise, so these are looked at too, on the instrument's ramp at `TIMES`.  Within `BORDER` pixels of a border
    the factors are ratios of what was found to what was predicted at that distance, every image counted alike that
    goes on beyond what is restored of it: one that is mirrored there is no image.  Before that the share of the
    deviation with which margins are drawn is found at the distances `RING`, where chains tell it: `_share`.  At last,
    with all of these in place, pixels get a factor by what the restored image shows there: `_by_intensity`.

    patients: of each, pairs of a clean image `(C, *N)` in model units and its pixel spacing in mm.  The factors stay as
    they are for fewer than two patients, and where the denoiser gives no uncertainty to measure.
    """
    scale = denoiser.spread_scale
    if scale is None or len(patients) < 2:
        return scale
    # chains of volumes would take most of the time of a calibration: their margins keep the whole deviation
    share = 1.0 if denoiser.process.ndim == 3 else _share(denoiser, law, patients, seed)
    plain = replace(denoiser, spread_scale=replace(scale, border=(), margin=share))
    depths, rows = torch.zeros(2, BORDER, dtype=torch.float64, device="cpu"), []
    for n, images in enumerate(patients.values()):
        found, deep = _rows(plain, law, images[:IMAGES], key(seed, f"in-use-{n}"))
        rows, depths = [*rows, found], depths + deep
    rows = [r for r in rows if len(r)]
    if not rows:
        return scale
    weight = torch.cat([torch.full((len(r),), 1 / len(r), dtype=torch.float64, device="cpu") for r in rows])
    nodes, values = _broken_line(torch.cat(rows), weight)
    at = torch.tensor(scale.level, dtype=torch.float64, device="cpu")
    found = torch.einsum("k,kn->n", values, hats(nodes, at)).clamp(LEAST, MOST)
    factors = zip(found.tolist(), scale.factor, strict=True)
    ratios = (depths[0] / depths[1].clamp_min(1e-30)).clamp(LEAST_BORDER, MOST_BORDER)
    border = tuple(ratios.tolist()) if bool(depths[1].any()) else ()
    factor = tuple(tuple(f * x for x in row) for f, row in factors)
    scale = replace(scale, factor=factor, border=border, margin=share)
    return replace(scale, intensity=by_intensity(replace(denoiser, spread_scale=scale), law, patients, seed))


def by_intensity(
    denoiser: NetDenoiser, law: Instruments, patients: Mapping[str, Sequence[tuple[Tensor, Spacing]]], seed: int = 0
) -> IntensityScale | None:
    """Factors on the variance of a pixel by what the restored image shows there: squared error over variance.

    The middle of every image, measured by instruments of the law and restored by one call, beyond `BORDER` pixels of
    its border; every patient counts alike, whatever the size of the errors.  Nodes are quantiles `SHOWN` of the
    restored pixels, and the factors are fitted in turn to the ratio of found to predicted, each with the others in
    place.  None for data of several channels and complex ones, and where there is no uncertainty to measure.
    """
    scale = denoiser.spread_scale
    single = all(len(image) == 1 and not image.is_complex() for images in patients.values() for image, _ in images)
    if scale is None or len(patients) < 2 or not single:
        return None
    plain, parts = replace(denoiser, spread_scale=replace(scale, intensity=None)), []
    for n, images in enumerate(patients.values()):
        found = list(_pixels(plain, law, images[:IMAGES], key(seed, f"intensity-{n}")))
        parts += [torch.cat([pixels, torch.full_like(pixels[:1], 1 / len(found))]) for pixels in found]
    if not parts:
        return None
    shown, error, variance, weight = torch.cat(parts, 1).double()
    nodes: list[float] = []
    for node in np.quantile(shown.numpy(), SHOWN).tolist():
        nodes += [node] if not nodes or node > nodes[-1] + 1e-3 * float(shown.std()) else []
    if len(nodes) < 2:
        return None
    near, found = hats(nodes, shown), torch.zeros(len(nodes), dtype=torch.float64, device="cpu")
    for _ in range(ROUNDS):
        said = near @ (weight * variance * (found @ near).exp())
        found = (found + (near @ (weight * error) / said).log()).clamp(math.log(LEAST), math.log(MOST))
    return IntensityScale(tuple(nodes), tuple(found.exp().tolist()))


def _pixels(
    denoiser: NetDenoiser, law: Instruments, images: Sequence[tuple[Tensor, Spacing]], seed: int
) -> Iterator[Tensor]:
    """What the restored pixels of every image show under every instrument, squared error and variance, `(3, pixels)`,
    the latter two over the mean variance of the image.
    """
    for i, (image, spacing) in enumerate(images):
        for own, bound in _instruments(denoiser, law, spacing, seed, i):
            y, truth = _measured(bound.process, image, own), center(image)
            result = restore_batch(bound, y[None], _once(bound.process.ndim, own))
            if result.sd is None:
                continue
            inside = _beyond(truth.shape[1:])
            mean, variance = result.mean[0].cpu()[inside].double(), result.sd[0].cpu()[inside].double() ** 2
            error = (mean - truth[inside].to(mean)) ** 2
            yield torch.stack([x.flatten() for x in (mean, error / variance.mean(), variance / variance.mean())])


def _instruments(
    denoiser: NetDenoiser, law: Instruments, spacing: Spacing, seed: int, index: int
) -> Iterator[tuple[int, NetDenoiser]]:
    """A seed and the denoiser of each of `INSTRUMENTS` instruments of the law at a pixel spacing."""
    basis = replace(denoiser.process.basis, spacing=along(spacing, denoiser.process.ndim))
    for k in range(INSTRUMENTS[denoiser.process.ndim]):
        own = key(seed, f"instrument-{k}", index)
        yield own, denoiser.at(law.instrument(basis, own))


def _measured(process: Process, image: Tensor, seed: int) -> Tensor:
    """The middle of an image `(C, *N)`, as it is measured."""
    return center(measured_inside(process, image[None], seed, AROUND[image.ndim - 1])[0])


def _once(ndim: int, seed: int) -> SamplingOptions:
    """One call."""
    return SamplingOptions(samples=2, instant=True, seed=seed, margin=MARGIN[ndim])


def _beyond(size: Sequence[int]) -> tuple[Any, ...]:
    """The part of an image `(C, *size)` that is farther than `BORDER` pixels from its border, where it is large."""
    return (..., *(slice(BORDER, -BORDER) if n > 4 * BORDER else slice(None) for n in size))


def _share(
    denoiser: NetDenoiser, law: Instruments, patients: Mapping[str, Sequence[tuple[Tensor, Spacing]]], seed: int
) -> float:
    """Deviation of the margins, over that of their Gaussian law, with which chains are as wide near a border as inside.

    The variance at the distances `RING`, over that inside, is v_0 without random margins and v_1 with those of the law;
    between them it is v_0 + share^2 (v_1 - v_0), and it is to be that of the squared error.  1 where it does not tell.
    """
    total, scale = torch.zeros(3, dtype=torch.float64, device="cpu"), denoiser.spread_scale
    assert scale is not None
    ends = [replace(denoiser, spread_scale=replace(scale, border=(), margin=m)) for m in (0.0, 1.0)]
    for n, images in enumerate(patients.values()):
        for image, spacing in images[:1]:
            basis = replace(denoiser.process.basis, spacing=along(spacing, denoiser.process.ndim))
            for k in range(INSTRUMENTS[denoiser.process.ndim]):
                own = key(seed, f"margin-{n}", k)
                total += _ring(ends, law.instrument(basis, own), image, own)
    error, none, whole = total.tolist()
    return min(1.0, max(0.0, (error - none) / (whole - none))) ** 0.5 if whole > 1.02 * none else 1.0


def _ring(ends: Sequence[NetDenoiser], process: Process, image: Tensor, seed: int) -> Tensor:
    """Squared error, and variance with either margin, at the distances `RING` over the same inside, `(3,)`; 0 of an
    image `(C, *N)` that does not go on beyond what is restored of it.
    """
    truth = center(image)
    short = any(n < m + AROUND[image.ndim - 1] for n, m in zip(image.shape[1:], truth.shape[1:], strict=True))
    reach = REACH[truth.ndim - 1]
    depth = depth_of(truth.shape[1:], reach, range(truth.ndim - 1))
    inside, ring = depth >= reach, (depth >= RING[0]) & (depth < RING[1])
    nothing = torch.zeros(3, dtype=torch.float64, device="cpu")
    if short or not bool(inside.any()):
        return nothing
    y, found = _measured(process, image, seed), []
    options = SamplingOptions(samples=MEMBERS, steps=CALLS, seed=seed, margin=MARGIN[truth.ndim - 1])
    for end in ends:
        result = unchecked(end.at(process), y[None], options)
        found += [result["sd"]] if found else [result["mean"] - truth, result["sd"]]
    squares = ((x.double() ** 2).mean(0).cpu() for x in found)
    return torch.stack([x[ring].mean() / x[inside].mean() for x in squares])


def _rows(
    denoiser: NetDenoiser, law: Instruments, images: Sequence[tuple[Tensor, Spacing]], seed: int
) -> tuple[Tensor, Tensor]:
    """Noise level, and squared error over variance, of every image under every instrument, `(n, 2)`; and both within
    `BORDER` pixels of a border, `(2, BORDER)`, the error over its mean inside and the variance over its own.
    """
    found = []
    depths = torch.zeros(2, BORDER, dtype=torch.float64, device="cpu")
    for i, (image, spacing) in enumerate(images):
        for own, bound in _instruments(denoiser, law, spacing, seed, i):
            y, truth = _measured(bound.process, image, own), center(image)
            result = restore_batch(bound, y[None], _once(bound.process.ndim, own))
            if result.sd is None:
                continue
            inside = _beyond(truth.shape[1:])
            squares = [(x.double() ** 2).cpu() for x in (result.mean[0] - truth, result.sd[0])]
            error, variance = (x[inside].mean() for x in squares)
            found.append(torch.stack([_level(bound.on(tuple(y.shape[1:]))), error / variance]))
            found += _on_the_way(bound, image, own)
            if all(n >= m + AROUND[image.ndim - 1] for n, m in zip(image.shape[1:], truth.shape[1:], strict=True)):
                depths += torch.stack([_by_depth(x / x[inside].mean()) for x in squares])
    rows = torch.stack(found) if found else torch.zeros(0, 2, dtype=torch.float64, device="cpu")
    return rows, depths


def _on_the_way(denoiser: NetDenoiser, image: Tensor, seed: int) -> list[Tensor]:
    """Noise level, and squared error over variance inside, of the states of an image `(C, *N)` at `TIMES`."""
    multiple, whole, found = denoiser.multiple, image[None], []
    reach = REACH[image.ndim - 1]
    most = SIDES[image.ndim - 1] + 2 * reach
    size = [min(n, most) // multiple * multiple for n in image.shape[1:]]
    starts = [(n - m) // 2 for n, m in zip(image.shape[1:], size, strict=True)]
    cut = (..., *(slice(a, a + m) for a, m in zip(starts, size, strict=True)))
    process, part, truth = denoiser.process.on(tuple(image.shape[1:])), denoiser.on(size), whole[cut]
    inside = (..., *(slice(reach, -reach) if n > 3 * reach else slice(None) for n in size))
    for number, time in enumerate(TIMES):
        t = torch.tensor([time], dtype=torch.float64, device="cpu")
        z = noise_like(whole, torch.tensor([seed], device="cpu"), "in-use", number)
        with torch.no_grad():
            said = part.estimate(process.corrupt(whole, t, z)[cut], t)
        if said.spread is None:
            return []
        error = (said.mean - truth)[inside].double().square().mean()
        variance = said.spread.variance().expand_as(truth.real)[inside].double().mean()
        found.append(torch.stack([_level_of(part, part.process.moments(t)), (error / variance).cpu()]))
    return found


def _by_depth(x: Tensor) -> Tensor:
    """Means of an image `(C, *N)` over the pixels at distances 0 to `BORDER` - 1 from the border; 0 where none are."""
    flat, places = x.mean(0).flatten(), depth_of(x.shape[1:], BORDER, range(x.ndim - 1)).flatten()
    total, count = (torch.zeros(BORDER + 1, dtype=torch.float64, device="cpu").index_add_(0, places, v)
                    for v in (flat, torch.ones_like(flat)))  # fmt: skip
    return (total / count.clamp_min(1))[:BORDER]


def _level(denoiser: NetDenoiser) -> Tensor:
    """What `NetDenoiser.noise_level` is of a measurement on this grid."""
    assert denoiser.process.measurement is not None
    return _level_of(denoiser, denoiser.process.measurement)


def _level_of(denoiser: NetDenoiser, law: Moments) -> Tensor:
    """What `NetDenoiser.noise_level` is of an observation with these moments."""
    basis, power = denoiser.process.basis, denoiser.data_power
    assert denoiser.unit is not None
    v = wiener(law, power)[1].reshape(1, -1, *basis.shape)
    return rms_level(v, power, basis, denoiser.unit)[0, 0].cpu()


def _broken_line(rows: Tensor, weight: Tensor) -> tuple[list[float], Tensor]:
    """Nodes (levels) and values of the ratio as a broken line, by weighted least squares."""
    level, ratio = rows.double().unbind(1)
    nodes: list[float] = []
    for node in torch.quantile(level, torch.tensor(NODES, dtype=torch.float64, device="cpu")).tolist():
        nodes.append(max(node, *(n + 1e-6 for n in nodes[-1:]), -math.inf))
    matrix, mean = hats(nodes, level).T, (weight * ratio).sum() / weight.sum()
    held = 1e-3 * weight.sum() * torch.eye(len(nodes), dtype=torch.float64, device="cpu")  # without images: the mean
    square = (matrix * weight[:, None]).T @ matrix + held
    return nodes, mean + torch.linalg.solve(square, matrix.T @ (weight * (ratio - mean)))
