"""How many regions are independent: squares that overlap, and slices that share their data."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from retrodict.metrics._arrays import double
from retrodict.metrics.frequency import detrend
from retrodict.metrics.regions import Region

__all__ = ["independent_regions", "slice_correlation"]


REACH = 16  # slices over which the noise may be correlated


def independent_regions(stacks: Sequence[Tensor], regions: Sequence[Sequence[Region]]) -> tuple[float, list[float]]:
    """How many independent regions the spectra of `regions` of each stack (Z, H, W) are worth, and `slice_correlation`.

    Periodograms of two fields of correlation r have the correlation r^2, so that n of them count as
    n^2 / sum_ij r_ij^2; r is the share of the area that two squares have in common times the correlation of their
    slices (Welch, IEEE Trans. Audio Electroacoust. 15, 1967, for overlapping segments).  Stacks are independent.
    """
    along = slice_correlation(stacks, regions)
    count, total = 0, 0.0
    for places in regions:
        at = torch.tensor([[r.slice, r.row, r.column] for r in places], dtype=torch.float64, device="cpu")
        apart = (at[:, None] - at[None]).abs()
        common = (1 - apart[..., 1:] / places[0].size).clamp_min(0).prod(-1)
        steps = apart[..., 0].long()
        slices = torch.tensor([1.0, *along], dtype=torch.float64, device="cpu")
        near = torch.where(steps < len(slices), slices[steps.clamp(max=len(slices) - 1)], 0.0)
        count += len(places)
        total += float((common * near).square().sum())
    return count**2 / total, along


def slice_correlation(stacks: Sequence[Tensor], regions: Sequence[Sequence[Region]]) -> list[float]:
    """Correlation of the noise at the same place 1, 2, ... slices apart, to where it is lost in its own scatter.

    Of squares whose partner in the other slice is as noisy (within 1.5): one that holds an edge there says nothing.
    """
    found: list[float] = []
    depth = max(len(s) for s in stacks)
    for step in range(1, min(REACH, depth - 1) + 1):
        sums = torch.zeros(3, dtype=torch.float64, device="cpu")
        pixels = 0
        for stack, places in zip(stacks, regions, strict=True):
            for a, b in _partners(stack, places, step):
                sums += torch.stack([(a * b).sum(), a.square().sum(), b.square().sum()])
                pixels += a.numel()
        if not pixels or float(sums[1] * sums[2]) == 0:
            break
        r = float(sums[0] / (sums[1] * sums[2]).sqrt())
        # colored noise has fewer degrees of freedom than pixels: a correlation below this is not told from none
        if abs(r) < 8 / pixels**0.5:
            break
        found.append(r)
    return found


def _partners(stack: Tensor, places: Sequence[Region], step: int) -> list[tuple[Tensor, Tensor]]:
    """Noise of squares and of the same squares `step` slices on, where both are alike."""
    pairs = [r for r in places if r.slice + step < len(stack)]
    if not pairs:
        return []
    x = double("image", stack)
    both = []
    for shift in (0, step):
        cuts = [x[r.slice + shift, r.row : r.row + r.size, r.column : r.column + r.size] for r in pairs]
        both.append(detrend(torch.stack(cuts)))
    ratio = both[0].std((-2, -1)) / both[1].std((-2, -1)).clamp_min(1e-300)
    alike = (ratio > 1 / 1.5) & (ratio < 1.5)
    return list(zip(both[0][alike], both[1][alike], strict=True))
