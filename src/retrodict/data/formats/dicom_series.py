"""What the slices of one DICOM image must have in common: size, plane, distances, and nothing missing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from retrodict._check import InputError
from retrodict.data.formats.dicom_frames import of_frame

__all__ = ["Slice", "check_alike", "check_numbers", "in_order", "slice_spacing"]


@dataclass(frozen=True)
class Slice:
    """One frame: values (H, W) float32 in `unit`, padding (H, W) bool or None, and its place in the patient.

    dataset : the header of its file, without pixels; frame : its place in that file; level : value of the padding or
    nan; spacing : (dy, dx) in mm, None where the user gives it; position (3,) in mm and axes (6,), the direction
    cosines of the rows and of the columns, are nan where the file has none.
    """

    path: Path
    dataset: Dataset
    frame: int
    frames: int
    values: np.ndarray
    padding: np.ndarray | None
    level: float
    unit: str
    spacing: tuple[float, float] | None
    position: np.ndarray
    axes: np.ndarray
    instance: int | None

    @property
    def normal(self) -> np.ndarray:
        """Unit vector (3,) across the slice."""
        return np.cross(self.axes[:3], self.axes[3:])

    @property
    def placed(self) -> bool:
        """Whether the file says where in the patient the slice is."""
        return bool(np.isfinite(self.position).all() and np.isfinite(self.axes).all())

    @property
    def name(self) -> str:
        """File, and frame where it has several."""
        return self.path.name if self.frames == 1 else f"{self.path.name} frame {self.frame + 1}"


DIFFERENT = (
    "EchoTime", "EffectiveEchoTime", "TemporalPositionIdentifier", "TemporalPositionIndex", "TriggerTime",
    "DiffusionBValue", "NominalPercentageOfCardiacPhase", "ConvolutionKernel", "AcquisitionNumber", "StackID",
    "ImageType", "AcquisitionTime",
)  # fmt: skip
"""What images at one place may differ in, the most telling one first."""


def check_alike(slices: list[Slice], independent: bool) -> None:
    """Raise one `InputError` that names the files whose size, pixel spacing or orientation is not that of the rest."""
    folder = slices[0].path.parent

    def same(described: list[str], expected: str) -> None:
        _check_same(folder, [s.name for s in slices], described, expected)

    same([f"{s.values.shape[0]} x {s.values.shape[1]} pixels" for s in slices], "of one size")
    same([f"unit {s.unit}" for s in slices], "of one modality")
    if slices[0].spacing is not None:
        same(_labels(slices, "PixelSpacing", lambda s: np.array(s.spacing)), "of one pixel spacing")
    if not all(s.placed for s in slices):
        return
    if independent:
        # Blocks of different gantry tilt may be mixed where no slice depends on its neighbor; different planes may not.
        crossed = ["parallel" if s.normal @ slices[0].normal > 0.8 else "another plane" for s in slices]
        same(crossed, "in about the same plane")
    else:
        same(_labels(slices, "orientation", lambda s: s.axes), "of one orientation")


def _labels(slices: list[Slice], what: str, of: Callable[[Slice], np.ndarray]) -> list[str]:
    """Describe each slice by the first slice whose numbers agree with its own to one part in a thousand."""
    kinds: list[np.ndarray] = []
    labels = []
    for one in slices:
        kind = next((k for k in kinds if np.allclose(of(one), k, rtol=1e-3, atol=1e-3)), None)
        if kind is None:
            kinds.append(kind := of(one))
        labels.append(f"{what} " + " x ".join(f"{v:.4g}" for v in kind))
    return labels


def _check_same(folder: Path, names: list[str], described: list[str], expected: str) -> None:
    kinds: dict[str, list[str]] = {}
    for name, text in zip(names, described, strict=True):
        kinds.setdefault(text, []).append(name)
    if len(kinds) == 1:
        return
    parts = [f"{len(names)} slice(s) with {text} ({_listed(names)})" for text, names in kinds.items()]
    raise InputError(folder, "; ".join(parts), f"slices all {expected}", "Leave out the files that do not belong.")


def _listed(names: Sequence[str], most: int = 4) -> str:
    more = f", and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def in_order(slices: list[Slice]) -> list[Slice]:
    """Sort by the position along the normal of the first slice; two slices at one position are an `InputError`.

    Slices without a position stay in the order of their numbers, or of their file.
    """
    if not all(s.placed for s in slices):
        return sorted(slices, key=lambda s: (s.instance is None, s.instance or 0, s.path.name, s.frame))
    normal = slices[0].normal
    ordered = sorted(slices, key=lambda s: (float(s.position @ normal), s.path.name, s.frame))
    for one, two in pairwise(ordered):
        if abs(float((two.position - one.position) @ normal)) < 1e-3:
            place = f"{float(one.position @ normal):.3f} mm"
            found = f"{one.name} and {two.name} at the same position {place}{_difference(one, two)}"
            raise InputError(one.path.parent, found, "one file per position", "Leave one of them out.")
    return ordered


def _difference(one: Slice, two: Slice) -> str:
    """Say in what two slices at one position differ, as far as the header knows: echo, time point, kernel, ..."""
    for keyword in DIFFERENT:
        a, b = (of_frame(s.dataset, s.frame, keyword) for s in (one, two))
        if a is not None and b is not None and a != b:
            return f" ({keyword} {a} and {b})"
    return ""


INDEPENDENT = 'To restore the slices one by one, read it with slices="independent" (restore always does).'


def slice_spacing(slices: list[Slice]) -> float:
    """Return the distance between slices in mm; a hole, an uneven or a sheared stack is an `InputError`."""
    normal, folder = slices[0].normal, slices[0].path.parent
    places = np.array([s.position for s in slices])
    gaps = np.diff(places @ normal)
    middle = float(np.median(gaps))
    tolerance = max(0.02 * middle, 0.01)
    uneven = np.flatnonzero(np.abs(gaps - middle) > tolerance)
    if uneven.size:
        steps = gaps / middle
        where = "; ".join(f"{gaps[i]:.2f} mm between {slices[i].name} and {slices[i + 1].name}" for i in uneven[:4])
        more = f"; {uneven.size - 4} more" if uneven.size > 4 else ""
        holes = bool(np.all((np.round(steps[uneven]) >= 2) & (np.abs(steps - np.round(steps))[uneven] < 0.1)))
        kind = "missing slices: " if holes else "uneven slice distances: "
        raise InputError(folder, f"{kind}{where}{more}", f"{middle:.2f} mm between all slices", INDEPENDENT)
    _check_shear(places, slices)
    return float(np.mean(gaps))


def _check_shear(places: np.ndarray, slices: list[Slice]) -> None:
    # With a tilted gantry the stack is a sheared box; its columns through the slices are not columns in the patient.
    offset = places - places[0]
    axes = slices[0].axes.reshape(2, 3)  # direction of increasing column, then of increasing row
    dy, dx = slices[0].spacing or (1.0, 1.0)
    drift = np.abs(offset @ axes.T) / np.array([dx, dy])
    if drift.max() > 0.5:
        found = f"slices shifted against each other by up to {drift.max():.1f} pixels (tilted gantry)"
        raise InputError(slices[0].path.parent, found, "slices stacked along their normal", INDEPENDENT)


def check_numbers(slices: list[Slice], known: set[int]) -> None:
    """Raise an `InputError` that names the slices missing from the InstanceNumbers, where there are such numbers.

    known : numbers of files that were left out and so are not missing.
    """
    numbers = sorted({s.instance for s in slices if s.instance is not None})
    if len(numbers) != len(slices) or len(numbers) < 3:
        return
    numbers = sorted({*numbers, *(n for n in known if numbers[0] < n < numbers[-1])})
    steps = np.diff(numbers)
    usual = float(np.median(steps))
    holes = [(numbers[i], numbers[i + 1]) for i in np.flatnonzero(steps > 1.5 * usual)]
    if holes:
        where = "; ".join(f"nothing between InstanceNumber {a} and {b}" for a, b in holes[:4])
        hint = "If the files were left out on purpose, give {allow_gaps}."
        found, wanted = f"missing slices: {where}", "every slice of the series"
        raise InputError(slices[0].path.parent, found, wanted, hint, allow_gaps=True)
