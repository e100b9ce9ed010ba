"""The CT patients of the benchmarks: tables of images with a split by patient, beside the repository."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from retrodict.data.collection import Slice, row_slices
from retrodict.data.index import read_index

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
SETS = ("ct_tcga_lung", "ct_nysbu_chest", "ct_sts_extremity", "ct_liver_lung_tcia3", "ct_kernel_pairs_lungdx")


def body_corner(values: Tensor, side: int) -> tuple[int, int]:
    """First row and column of the `side` x `side` pixels of HU `(..., H, W)` in the middle of the body."""
    body = (values.reshape(-1, *values.shape[-2:])[0] > -300).double()
    corner = []
    for axis, n in enumerate(body.shape):
        weight = body.sum(1 - axis)
        middle = float((weight * torch.arange(n)).sum() / weight.sum().clamp_min(1))
        corner.append(min(max(0, round(middle) - side // 2), n - side))
    return corner[0], corner[1]


def there() -> bool:
    """Whether the tables are there."""
    return all((DATA / name / "index.csv").is_file() for name in SETS)


def slices(split: str, most_noise: float = 16.0) -> list[Slice]:
    """Axial slices of the patients of a split ("train" or "validation") whose own noise is at most `most_noise` HU."""
    rows = [row for name in SETS for row in read_index(DATA / name / "index.csv")]
    kept = [r for r in rows if r.split == split and r.orientation == "axial" and (r.noise or 0) <= most_noise]
    return list(row_slices(kept))
