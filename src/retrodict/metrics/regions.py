"""Uniform regions: checking those that are given, and finding some."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from retrodict._check import InputError
from retrodict.metrics._arrays import double
from retrodict.metrics.frequency import detrend

__all__ = ["Region", "check_uniform", "cut", "find_uniform", "roughness"]


@dataclass(frozen=True)
class Region:
    """A square of `size` pixels whose first pixel is (`row`, `column`) of slice `slice`."""

    slice: int
    row: int
    column: int
    size: int

    def __str__(self) -> str:
        end = self.row + self.size, self.column + self.size
        return f"slice {self.slice}, rows {self.row}:{end[0]}, columns {self.column}:{end[1]}"


def cut(stack: Tensor, regions: list[Region]) -> Tensor:
    """Regions of a stack (Z, H, W) -> (R, size, size); one that leaves the image is an error."""
    shape = tuple(stack.shape)
    for r in regions:
        if not (0 <= r.slice < shape[0] and 0 <= r.row <= shape[1] - r.size and 0 <= r.column <= shape[2] - r.size):
            raise InputError(f"region {r}", "a square that leaves the image", f"one inside {shape} (Z, H, W)")
    return torch.stack([stack[r.slice, r.row : r.row + r.size, r.column : r.column + r.size] for r in regions])


def roughness(tiles: Tensor) -> Tensor:
    """How far gradients of squares (n, S, S) are from those of noise, `(n, scales)`: 1 for Gaussian noise of any color.

    Root mean square of the differences of neighbors over 1 / 1.1503 of the 75 % quantile of their magnitude, of the
    pixels and of means of 2 x 2 and 4 x 4.  An edge or an insert makes few differences large and leaves the quantile.
    """
    return torch.stack([_gradients(F.avg_pool2d(tiles[:, None], k)[:, 0]) for k in _scales(tiles.shape[-1])], 1)


def _scales(size: int) -> list[int]:
    return [k for k in (1, 2, 4) if size // k >= 4]


def _gradients(x: Tensor) -> Tensor:
    steps = torch.cat([x.diff(dim=1).flatten(1), x.diff(dim=2).flatten(1)], 1)
    usual = steps.abs().kthvalue(int(0.75 * steps.shape[1]), 1).values / 1.1503
    return steps.square().mean(1).sqrt() / usual.clamp_min(1e-300)


def _rough(tiles: Tensor) -> Tensor:
    """Which squares have gradients that noise does not have: beyond 1 + 8 / m, m the pixels or means along a side.

    Fewer than one in a thousand squares of white or CT-like noise is beyond, at any size from 8 pixels on.
    """
    limit = torch.tensor(
        [1 + 8 * k / tiles.shape[-1] for k in _scales(tiles.shape[-1])], dtype=torch.float64, device="cpu"
    )
    return (roughness(tiles) > limit).any(1)


def _cut_off(flat: Tensor) -> Tensor:
    """Which squares (n, S, S) are saturated or clipped: over 1 % and over 8 of the pixels at one extreme."""
    most = torch.stack([(flat == e[:, None, None]).sum((-2, -1)) for e in (flat.amin((-2, -1)), flat.amax((-2, -1)))])
    return (most.amax(0) > 8) & (most.amax(0) > 0.01 * flat[0].numel())


def _kurtosis_limits(size: int) -> tuple[float, float]:
    """Smallest and largest excess kurtosis of the noise of one square; few pixels scatter more."""
    return -0.8 - 4 / size, 3 + 16 / size


def check_uniform(patches: Tensor, regions: list[Region]) -> None:
    """Raise for a region that is saturated, has no noise, or holds structure besides noise and slow shading.

    Structure: the residual of a quadratic surface has gradients that noise does not have (`roughness`), an excess
    kurtosis below -0.8 (two levels: an edge) or above 3 (an insert; both wider for small squares), a pixel beyond 8
    standard deviations, or a standard deviation more than 2 times the median of all regions.  Saturated: more than 1 %
    and more than 8 of the pixels have exactly the smallest or the largest value.
    """
    x = double("regions", patches)
    residual = detrend(x)
    sd = residual.square().mean((-2, -1)).sqrt()
    usual = float(sd.median())
    rough = _rough(residual)
    least, most = _kurtosis_limits(x.shape[-1])
    for patch, noise, s, uneven, region in zip(x, residual, sd.tolist(), rough.tolist(), regions, strict=True):
        where = f"region {region}"
        if float(patch.std()) == 0:
            raise InputError(where, f"the one value {float(patch[0, 0]):g} in every pixel", "a noisy uniform region")
        for name, edge in (("smallest", patch.min()), ("largest", patch.max())):
            share = float((patch == edge).double().mean())
            if share > 0.01 and int((patch == edge).sum()) > 8:
                found = f"{share:.1%} of the pixels at the {name} value {float(edge):g}: saturated or clipped"
                raise InputError(where, found, "values that are not cut off", "Read the image without clipping.")
        kurtosis = float((noise / s).pow(4).mean()) - 3
        worst = float((noise / s).abs().max())
        if uneven or not least <= kurtosis <= most or worst > 8 or s > 2 * usual:
            found = (
                f"structure (standard deviation {s:.3g}, usual {usual:.3g}; excess kurtosis {kurtosis:.2f}; "
                f"largest deviation {worst:.1f} sd; gradients {'beyond' if uneven else 'within'} the law of noise)"
            )
            raise InputError(where, found, "a uniform region", "Move it, make it smaller, or use repeated scans.")


def find_uniform(
    stack: Tensor,
    size: int,
    *,
    count: int = 64,
    lowest: float | None = None,
    level: Tensor | None = None,
    margin: int = 4,
) -> list[Region]:
    """Uniform squares of a stack (Z, H, W), not overlapping, at most `count`, spread over slices.

    Candidates lie on a grid of a quarter of a side; `lowest` (image unit) excludes air, looked up in `level` (Z, H, W)
    where `stack` is a difference of repeats.  A candidate is noise if its surface varies by less than 4 standard
    deviations of what is left, if that has the kurtosis of noise and no pixel beyond 6 standard deviations, and if its
    gradients are those of noise (`roughness`): a square across an edge or in a texture fails there whatever its
    standard deviation.  Structure that passes can only add: the level of noise is found from the floor of all
    candidates (the median of those near the 4th smallest), and squares within a factor of 1.25 of it (1.6 for 8 pixels,
    whose variance scatters more) are uniform.  Where the noise differs from place to place this finds the quiet
    places: give regions to measure others.  Fewer than 2 such squares are an error.
    """
    x = double("image", stack)
    if size % 2 or size < 8 or size + 2 * margin > min(x.shape[-2:]):
        raise InputError("region size", size, f"an even number from 8 to {min(x.shape[-2:]) - 2 * margin}")
    places, sd = _candidates(x, size, margin, lowest, x if level is None else double("level", level))
    if len(places) < 4:
        raise InputError("image", f"{len(places)} squares of {size} pixels that hold nothing but noise (no air, no "
                         "clipping, no structure)", "at least 4", _HINT)  # fmt: skip
    within = max(1.25, 1.1 + 4 / size)
    usual = _noise_level(sd, within)
    uniform = (sd > usual / within) & (sd < usual * within)
    chosen: list[Region] = []
    order = torch.randperm(len(places), generator=torch.Generator().manual_seed(0), device="cpu").tolist()
    for i in order:  # a fixed random order: neither position nor noise decides
        if uniform[i] and not any(_overlap(places[i], other) for other in chosen):
            chosen.append(places[i])
            if len(chosen) == count:
                break
    if len(chosen) < 2:
        found = f"{len(chosen)} uniform squares of {size} pixels that agree on a level of noise ({usual:.3g})"
        raise InputError("image", found, "at least 2", _HINT)
    return sorted(chosen, key=lambda r: (r.slice, r.row, r.column))


_HINT = "Give the regions, use a smaller size, or scan a phantom."


def _candidates(x: Tensor, size: int, margin: int, lowest: float | None, level: Tensor) -> tuple[list[Region], Tensor]:
    """Squares of a grid that hold nothing but noise and slow shading, and the standard deviation of each."""
    places, deviations = [], []
    step = max(2, size // 4)
    least, most = _kurtosis_limits(size)
    for z in range(len(x)):
        inner = x[z, margin : x.shape[1] - margin, margin : x.shape[2] - margin]
        tiles = inner.unfold(0, size, step).unfold(1, size, step)
        columns = tiles.shape[1]
        flat = tiles.reshape(-1, size, size)
        good = ~_cut_off(flat)
        if lowest is not None:
            body = level[z, margin : x.shape[1] - margin, margin : x.shape[2] - margin]
            good &= body.unfold(0, size, step).unfold(1, size, step).mean((-2, -1)).flatten() > lowest
        index = good.nonzero()[:, 0]
        if not len(index):
            continue
        flat = flat[index]
        noise = detrend(flat)
        s = noise.square().mean((-2, -1)).sqrt()
        score = noise / s.clamp_min(1e-300)[:, None, None]
        kurtosis, worst = score.pow(4).mean((-2, -1)) - 3, score.abs().amax((-2, -1))
        surface = flat - noise
        good = (surface.amax((-2, -1)) - surface.amin((-2, -1))) < 4 * s
        good &= (s > 0) & (kurtosis > least + 0.3) & (kurtosis < most - 2) & (worst < 6)
        good[good.clone()] = ~_rough(noise[good])
        places += [Region(z, margin + i // columns * step, margin + i % columns * step, size)
                   for i in index[good].tolist()]  # fmt: skip
        deviations.append(s[good])
    return places, torch.cat(deviations) if deviations else torch.zeros(0, dtype=torch.float64, device="cpu")


def _noise_level(sd: Tensor, within: float) -> float:
    """From the floor upwards: structure can only add; a floor alone would prefer regions that are quiet by chance."""
    floor = float(sd.sort().values[3])
    return float(sd[(sd > floor / within) & (sd < floor * within)].median())


def _overlap(a: Region, b: Region) -> bool:
    return a.slice == b.slice and abs(a.row - b.row) < a.size and abs(a.column - b.column) < a.size
