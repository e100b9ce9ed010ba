"""The CT patients of the benchmarks: tables of images with a split by patient, beside the repository."""

from __future__ import annotations

from pathlib import Path

from retrodict.data.collection import Slice, row_slices
from retrodict.data.index import read_index

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
SETS = ("ct_tcga_lung", "ct_nysbu_chest", "ct_sts_extremity", "ct_liver_lung_tcia3", "ct_kernel_pairs_lungdx")


def there() -> bool:
    """Whether the tables are there."""
    return all((DATA / name / "index.csv").is_file() for name in SETS)


def slices(split: str, most_noise: float = 16.0) -> list[Slice]:
    """Axial slices of the patients of a split ("train" or "validation") whose own noise is at most `most_noise` HU."""
    rows = [row for name in SETS for row in read_index(DATA / name / "index.csv")]
    kept = [r for r in rows if r.split == split and r.orientation == "axial" and (r.noise or 0) <= most_noise]
    return list(row_slices(kept))
