"""Uniform regions: checking those that are given, and finding some."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.metrics._arrays import double
from retrodict.metrics.frequency import detrend

__all__ = ["Region", "check_uniform", "cut", "find_uniform"]


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


def check_uniform(patches: Tensor, regions: list[Region]) -> None:
    """Raise for a region that is saturated, has no noise, or holds structure besides noise and slow shading.

    Structure: the residual of a quadratic surface has an excess kurtosis below -0.8 (two levels: an edge) or above 3
    (an insert), a pixel beyond 8 standard deviations, or a standard deviation more than 2 times the median of all
    regions.  Saturated: more than 1 % of the pixels have exactly the smallest or the largest value.
    """
    x = double("regions", patches)
    residual = detrend(x)
    sd = residual.square().mean((-2, -1)).sqrt()
    usual = float(sd.median())
    for patch, noise, s, region in zip(x, residual, sd.tolist(), regions, strict=True):
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
        if not -0.8 <= kurtosis <= 3 or worst > 8 or s > 2 * usual:
            found = (
                f"structure (standard deviation {s:.3g}, usual {usual:.3g}; excess kurtosis {kurtosis:.2f}; "
                f"largest deviation {worst:.1f} sd)"
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

    Candidates lie on a grid of half a side; `lowest` (image unit) excludes air, looked up in `level` (Z, H, W) where
    `stack` is a difference of repeats.  Structure can only add to the standard deviation of the quadratic residual, so
    the level of noise is found from the floor of all candidates (the median of those within 30 % of the 4th smallest);
    squares within 25 % of it, whose surface varies by less than 4 standard deviations, with excess kurtosis in
    [-0.5, 1] and no pixel beyond 6 standard deviations, are uniform.  Where the noise differs from place to
    place this finds the quiet places: give regions to measure others.
    """
    x = double("image", stack)
    if size % 2 or size < 8 or size + 2 * margin > min(x.shape[-2:]):
        raise InputError("region size", size, f"an even number from 8 to {min(x.shape[-2:]) - 2 * margin}")
    places, sd, usable = _candidates(x, size, margin, lowest, x if level is None else double("level", level))
    if int(usable.sum()) < 4:
        raise InputError("image", f"{int(usable.sum())} candidate squares of {size} pixels that are not air or clipped",
                         "at least 4", "Give the regions, or use a smaller size.")  # fmt: skip
    usual = _noise_level(sd[usable])
    uniform = usable & (sd > usual / 1.25) & (sd < usual * 1.25)
    chosen: list[Region] = []
    order = torch.randperm(len(places), generator=torch.Generator().manual_seed(0), device="cpu").tolist()
    for i in order:  # a fixed random order: neither position nor noise decides
        if uniform[i] and not any(_overlap(places[i], other) for other in chosen):
            chosen.append(places[i])
            if len(chosen) == count:
                break
    if len(chosen) < 2:
        found = f"{len(chosen)} uniform squares of {size} pixels"
        raise InputError("image", found, "at least 2", "Give the regions, use a smaller size, or scan a phantom.")
    return sorted(chosen, key=lambda r: (r.slice, r.row, r.column))


def _candidates(
    x: Tensor, size: int, margin: int, lowest: float | None, level: Tensor
) -> tuple[list[Region], Tensor, Tensor]:
    """Squares on a grid, their residual standard deviation, and whether one may be used at all."""
    places, deviations, usable = [], [], []
    step = size // 2
    for z in range(len(x)):
        inner = x[z, margin : x.shape[1] - margin, margin : x.shape[2] - margin]
        tiles = inner.unfold(0, size, step).unfold(1, size, step)
        rows, columns = tiles.shape[:2]
        flat = tiles.reshape(-1, size, size)
        noise = detrend(flat)
        s = noise.square().mean((-2, -1)).sqrt()
        safe = s.clamp_min(1e-300)
        kurtosis = (noise / safe[:, None, None]).pow(4).mean((-2, -1)) - 3
        worst = (noise / safe[:, None, None]).abs().amax((-2, -1))
        surface = flat - noise
        good = (surface.amax((-2, -1)) - surface.amin((-2, -1))) < 4 * s
        good &= (s > 0) & (kurtosis > -0.5) & (kurtosis < 1) & (worst < 6)
        for edge in (flat.amin((-2, -1)), flat.amax((-2, -1))):
            good &= (flat == edge[:, None, None]).double().mean((-2, -1)) <= 0.01
        if lowest is not None:
            body = level[z, margin : x.shape[1] - margin, margin : x.shape[2] - margin]
            good &= body.unfold(0, size, step).unfold(1, size, step).reshape(-1, size, size).mean((-2, -1)) > lowest
        places += [Region(z, margin + i * step, margin + j * step, size) for i in range(rows) for j in range(columns)]
        deviations.append(s)
        usable.append(good)
    return places, torch.cat(deviations), torch.cat(usable)


def _noise_level(sd: Tensor) -> float:
    """From the floor upwards: a floor alone would prefer regions that are quiet by chance."""
    floor = float(sd.sort().values[3])
    return float(sd[(sd > floor / 1.3) & (sd < floor * 1.3)].median())


def _overlap(a: Region, b: Region) -> bool:
    return a.slice == b.slice and abs(a.row - b.row) < a.size and abs(a.column - b.column) < a.size
