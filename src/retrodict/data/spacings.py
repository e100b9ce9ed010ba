"""Patches of many patients at many spacings, one spacing a batch: for a model that serves all of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from retrodict._check import InputError, choice
from retrodict._random import uniform
from retrodict.data.collection import Slice
from retrodict.data.patches import TOLERANCE, Group, PatchSet
from retrodict.data.resample import resample_axes

__all__ = ["SpacingSet", "bin_of", "by_spacing", "center_of"]


STEP = 0.04
"""Ratio, less one, of neighboring spacings of a batch: images are at most 2 % from the spacing of theirs."""


def bin_of(spacing: float) -> int:
    """Number of a spacing on the logarithmic grid."""
    return round(math.log(spacing) / STEP)


def center_of(number: int) -> float:
    """Spacing of a bin."""
    return math.exp(number * STEP)


def by_spacing(found: Sequence[Slice], size: int, most: float, copies: int = 1) -> dict[int, list[Slice]]:
    """Slices by bin: each as it is, and `copies` times averaged down to coarser pixels of at most `most` mm.

    The spacing of copy c of slice i is d (most / d)^(0.15 + 0.85 u) with u uniform, a function of i and c alone.  A
    copy smaller than `size` pixels is left out.
    """
    out: dict[int, list[Slice]] = {}
    for number, item in enumerate(found):
        own = math.sqrt(math.prod(item.spacing))
        out.setdefault(bin_of(own), []).append(item)
        for copy in range(copies):
            u = float(uniform([number], "coarser", copy)[0])
            target = own * (most / own) ** (0.15 + 0.85 * u)
            values, spacing = resample_axes(item.image.values, item.spacing, (target, target))
            if min(values.shape[-2:]) >= size and abs(spacing[0] / spacing[1] - 1) < TOLERANCE:
                image = replace(item.image, values=values, spacing=spacing)
                out.setdefault(bin_of(math.sqrt(math.prod(spacing))), []).append(replace(item, image=image))
    return out


@dataclass
class SpacingSet:
    """Patches from slices of many spacings; a batch has one, drawn for it.

    slices : at least one, of square pixels within `spacings`; others are left out with a note.
    size : pixels along both sides of a patch.  spacings : (least, most) in mm.  copies : see `by_spacing`.
    balance : "patients" draws a spacing as often as patients have slices of it, and then each of those patients
        equally often; "pixels" draws every pixel equally often.
    seed : another seed gives other patches for the same numbers.  empty_below, max_empty : as in `PatchSet`.

    `reach` is the (least, most) spacing of a batch; `notes` says what was left out.
    """

    slices: Sequence[Slice]
    size: int = 64
    spacings: tuple[float, float] = (0.4, 1.5)
    copies: int = 1
    balance: str = "patients"
    seed: int = 0
    empty_below: float | None = None
    max_empty: float = 0.9
    notes: list[str] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        """Sort by spacing; `InputError` where nothing is left."""
        choice("balance", self.balance, ("patients", "pixels"))
        self.slices = [item for item in self.slices if self._fits(item)]
        if not self.slices:
            found = " ".join(_counted(self.notes)[:3]) or "nothing"
            expected = f"square pixels of {self.spacings[0]:g} to {self.spacings[1]:g} mm, {self.size} or more a side"
            raise InputError("data", f"no slice to train on ({found})", expected)
        self.notes = _counted(self.notes)
        self._bins = sorted(by_spacing(self.slices, self.size, self.spacings[1], self.copies).items())
        self._sets = [self._patches(items) for _, items in self._bins]
        weights = torch.tensor([self._weight(items) for _, items in self._bins], dtype=torch.float64, device="cpu")
        self._share = weights.cumsum(0) / weights.sum()
        self.unit, self.names = self._sets[0].unit, self._sets[0].names

    def __len__(self) -> int:
        """Number of slices, without the copies."""
        return len(self.slices)

    @property
    def patients(self) -> list[str]:
        """Names in order."""
        return sorted({item.patient for item in self.slices})

    @property
    def reach(self) -> tuple[float, float]:
        """Least and largest spacing of a batch."""
        return center_of(self._bins[0][0]), center_of(self._bins[-1][0])

    def images(self) -> list[tuple[str, Tensor]]:
        """(patient, values `(C, H, W)`) of every slice; tensors share memory."""
        return [(item.patient, item.image.values) for item in self.slices]

    def batch(self, keys: Sequence[int]) -> tuple[Tensor, float]:
        """Patches `(len(keys), C, size, size)`, and the spacing of them all in mm, which the first key draws."""
        place = self._place(keys)
        return self._sets[place].batch(keys), center_of(self._bins[place][0])

    def levels(self, keys: Sequence[int]) -> list[float | None]:
        """Noise of the slice that each patch of `batch(keys)` was cut from, where it is known."""
        place = self._place(keys)
        items = self._bins[place][1]
        ordered = [i.noise for n in sorted({i.patient for i in items}) for i in items if i.patient == n]
        return [ordered[self._sets[place].number(k)] for k in keys]

    def _place(self, keys: Sequence[int]) -> int:
        u = uniform(list(keys[:1]), "spacing", 0)[0]
        return min(int(torch.searchsorted(self._share, u, right=True)), len(self._bins) - 1)

    def _fits(self, item: Slice) -> bool:
        (dy, dx), (least, most) = item.spacing, self.spacings
        if abs(dy / dx - 1) >= TOLERANCE:
            self.notes.append("pixels that are not square")
        elif not least * (1 - TOLERANCE) <= math.sqrt(dy * dx) <= most * (1 + TOLERANCE):
            self.notes.append(f"a spacing outside {least:g} to {most:g} mm")
        elif min(item.image.values.shape[-2:]) < self.size:
            self.notes.append(f"fewer than {self.size} pixels along a side")
        else:
            return True
        return False

    def _patches(self, items: list[Slice]) -> PatchSet:
        names = sorted({item.patient for item in items})
        groups = [Group(n, images=tuple(i.image for i in items if i.patient == n)) for n in names]
        balance = "groups" if self.balance == "patients" else "pixels"
        channels = items[0].image.values.shape[0]
        return PatchSet(groups, self.size, seed=self.seed, balance=balance, empty_below=self.empty_below,
                        max_empty=self.max_empty, channels=channels)  # fmt: skip

    def _weight(self, items: list[Slice]) -> float:
        if self.balance == "patients":
            return len({item.patient for item in items})
        return sum(item.image.values[0].numel() for item in items)


def _counted(reasons: Sequence[str]) -> list[str]:
    """One sentence for each reason."""
    return [f"{reasons.count(r)} slices left out: {r}." for r in dict.fromkeys(reasons)]
