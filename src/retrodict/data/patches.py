"""Training data: groups that are never split, and patches drawn from them by number."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from retrodict._check import InputError, choice
from retrodict._random import key as random_key
from retrodict.data.image import Image, Source
from retrodict.data.io import discover, read
from retrodict.data.resample import resample_axes
from retrodict.data.turn import components, turned
from retrodict.data.units import UNITS

__all__ = ["Group", "PatchSet", "Place", "split"]


TOLERANCE = 0.02  # relative; spacings closer than this are the same grid


@dataclass(frozen=True)
class Group:
    """Images that belong together (one patient, one series) and so stay on one side of every split.

    paths : files, folders or glob patterns ("**" searches subfolders); images : images already in memory.
    axis : the axis of N that is cut into slices when a volume is used in 2D (0 gives the (H, W) slices).
    keep : (start, stop) along that axis, to make several groups of one stack whose neighbors belong together.
    spacing, unit, expect : as for `read`.
    """

    name: str
    paths: tuple[str | Path | Source, ...] = ()
    images: tuple[Image, ...] = ()
    axis: int = 0
    keep: tuple[int, int] | None = None
    spacing: tuple[float, ...] | None = None
    unit: str | None = None
    expect: str | None = "CT"

    def sources(self) -> list[Source]:
        """Return the sources of `paths` in a fixed order; a pattern that matches nothing is an `InputError`."""
        found: dict[tuple[Path, ...], Source] = {}
        for item in self.paths:
            for source in [item] if isinstance(item, Source) else _matching(str(item), self.name):
                found.setdefault(source.paths, source)
        return list(found.values())


def _matching(pattern: str, name: str) -> list[Source]:
    if not glob.has_magic(pattern) or Path(pattern).exists():
        return _some(discover(pattern), pattern, name)
    sources = []
    for path in sorted(glob.glob(pattern, recursive=True)):
        try:
            sources += discover(path)
        except InputError as error:
            if "unknown format" not in error.found:  # a pattern may well match a README next to the images
                raise
    return _some(sources, pattern, name)


def _some(sources: list[Source], pattern: str, name: str) -> list[Source]:
    if not sources:
        raise InputError(f"group {name}", f"no image at {pattern!r}", "at least one")
    return sources


def split(groups: Sequence[Group], validation: Sequence[str] | float, seed: int = 0) -> tuple[list[Group], list[Group]]:
    """Return (training, validation) groups; slices of one group never end up on both sides.

    validation : names of groups, or the fraction of the groups to draw with `seed` (at least one if above zero; the
    draw does not depend on the order of `groups`). Two groups of one name, one file in two groups (unless they `keep`
    different parts of it) and nothing left to train on are `InputError`s.
    """
    names = [g.name for g in groups]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise InputError("groups", f"the name {twice[0]!r} twice", "a different name for each group")
    _check_disjoint(groups)
    held = _drawn(names, validation, seed) if isinstance(validation, int | float) else set(validation)
    for name in sorted(held):
        choice("validation", name, names)
    if len(held) == len(names):
        raise InputError("validation", f"all {len(names)} groups", "at least one group left to train on")
    return [g for g in groups if g.name not in held], [g for g in groups if g.name in held]


def _drawn(names: list[str], fraction: float, seed: int) -> set[str]:
    if not 0 <= fraction < 1:
        raise InputError("validation", str(fraction), "a fraction from 0 to below 1, or names of groups")
    count = max(1, round(fraction * len(names))) if fraction else 0
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed), device="cpu").tolist()
    return {sorted(names)[i] for i in order[:count]}


def _check_disjoint(groups: Sequence[Group]) -> None:
    owners: dict[Path, list[Group]] = {}
    for group in groups:
        for path in {p.resolve() for source in group.sources() for p in source.paths}:
            for other in owners.setdefault(path, []):
                if not _apart(group, other):
                    found = f"{path} in the groups {other.name!r} and {group.name!r}"
                    raise InputError(
                        "groups", found, "every file in one group", "Otherwise validation sees training data."
                    )
            owners[path].append(group)


def _apart(one: Group, two: Group) -> bool:
    if one.keep is None or two.keep is None or one.axis != two.axis:
        return False
    return one.keep[1] <= two.keep[0] or two.keep[1] <= one.keep[0]


@dataclass(frozen=True)
class _Stack:
    """Images of one grid: values (K, C, *N) with N the axes of a patch, their spacing in mm, and names like "yx"."""

    group: str
    values: Tensor
    spacing: tuple[float, ...]
    axes: str

    @property
    def grid(self) -> tuple[int, ...]:
        return tuple(self.values.shape[2:])


@dataclass(frozen=True)
class Place:
    """Where a patch was cut: the group, the index of the image in it, the first pixel, and the spacing in mm."""

    group: str
    index: int
    offset: tuple[int, ...]
    spacing: tuple[float, ...]


@dataclass
class PatchSet:
    """Slices or volumes in memory, from which patches are cut by number.

    groups : what to load. size : pixels per axis of a patch; ndim : 2 or 3.
    spacing : the grid in mm to bring images to (one number, or one per axis), or None to leave each on its own. A finer
        image is averaged down to it. For one that is coarser along any axis, `coarser` says "keep" (stay on its own
        grid), "resample" (interpolate; adds no detail) or "refuse" (`InputError`).
    small : an image smaller than the patch is continued by reflection ("reflect") or left out with a note ("skip").
    flips, rotations : mirror along each axis, turn by multiples of 90 degrees in the last two axes, each with equal
        probability; only half turns where rows and columns differ in size or spacing.
    empty_below, max_empty : a patch with more than this fraction of pixels below `empty_below` in every channel (in the
        unit of the images; -900 HU is air) is drawn again, up to `tries` times; the fullest of them is used if all are
        empty. Complex images are never empty.
    balance : "pixels" draws every pixel equally often, "groups" every group.
    seed : another seed gives other patches for the same numbers.
    channels : the number that every image must have; None takes what the first image has. Channels called "dz", "dy",
        "dx" are the components of a vector along the axes: mirrored and turned as vectors, not only moved.

    `unit` and `names` (of the channels) are those of all images; `notes` says what was resampled, kept, continued or
    left out.
    """

    groups: Sequence[Group]
    size: int | tuple[int, ...] = 64
    ndim: int = 2
    spacing: float | tuple[float, ...] | None = None
    coarser: str = "keep"
    small: str = "reflect"
    flips: bool = True
    rotations: bool = True
    empty_below: float | None = UNITS["HU"].empty_below
    max_empty: float = 0.9
    tries: int = 8
    balance: str = "pixels"
    seed: int = 0
    channels: int | None = 1
    notes: list[str] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        """Load everything; `InputError` for a file that cannot be read, mixed units or channels, or nothing left."""
        choice("coarser", self.coarser, ("keep", "resample", "refuse"))
        choice("small", self.small, ("reflect", "skip"))
        choice("balance", self.balance, ("pixels", "groups"))
        if self.ndim not in (2, 3):
            raise InputError("ndim", self.ndim, "2 or 3")
        self.size = _per_axis("size", self.size, self.ndim)
        self._target = None if self.spacing is None else _per_axis("spacing", self.spacing, self.ndim)
        self.unit = ""
        self.names: tuple[str, ...] = ()
        self._stacks: list[_Stack] = []
        for group in self.groups:
            for image in self._images(group):
                self._add(group, image)
        if not self._stacks:
            raise InputError("groups", "no image to cut patches from", "at least one", " ".join(self.notes[:3]))
        self._weights = self._stack_weights().cumsum(0)

    def __len__(self) -> int:
        """Return the number of images: slices in 2D, volumes in 3D."""
        return sum(len(s.values) for s in self._stacks)

    def images(self) -> list[tuple[str, Tensor]]:
        """Return (group, image (C, *N)) for every image on the grid it has here; tensors share memory."""
        return [(s.group, v) for s in self._stacks for v in s.values]

    def patch(self, key: int) -> Tensor:
        """Return patch number `key` as (C, *size), float32 or complex64; a number always gives the same patch."""
        stack, place, turn = self._draw(key)
        return turned(self._cut(stack, place), turn, self.names, stack.axes).contiguous()

    def batch(self, keys: Sequence[int]) -> Tensor:
        """Return the patches of several numbers as (len(keys), C, *size)."""
        return torch.stack([self.patch(k) for k in keys])

    def place(self, key: int) -> Place:
        """Return where patch number `key` comes from."""
        return self._draw(key)[1]

    def number(self, key: int) -> int:
        """Return the number of the stack of images, in the order of loading, that patch number `key` comes from."""
        stack = self._draw(key)[0]
        return next(i for i, own in enumerate(self._stacks) if own is stack)

    def _images(self, group: Group) -> list[Image]:
        # Slices used in 2D need neither a regular distance nor all their neighbors.
        mode = "independent" if self.ndim == 2 and group.axis == 0 else "volume"
        options = {"spacing": group.spacing, "unit": group.unit, "expect": group.expect, "slices": mode}
        loaded = [read(s, **options, allow_gaps=self.ndim == 2) for s in group.sources()]
        return [*loaded, *group.images]

    def _add(self, group: Group, image: Image) -> None:
        where = f"group {group.name}" + (f", {image.source[0]}" if image.source else "")
        if self.unit and image.unit != self.unit:
            raise InputError(where, f"unit {image.unit!r}", f"{self.unit!r}, the unit of the images before it")
        self._check_channels(image, where)
        self.unit, self.names = image.unit, image.channels
        values, spacing, axes = self._planes(group, image, where)
        values, spacing = self._regrid(values, spacing, where)
        grid = tuple(values.shape[2:])
        if any(n < s for n, s in zip(grid, self._size, strict=True)):
            found = f"{where}: {grid} is smaller than the patch {self._size}"
            self.notes.append(f"{found}, {'continued by reflection' if self.small == 'reflect' else 'left out'}.")
            if self.small == "skip":
                return
            values = _reflected(values, self._size)
        self._stacks.append(_Stack(group.name, values, spacing, axes))

    def _check_channels(self, image: Image, where: str) -> None:
        count = len(image.channels)
        if self.channels is not None and count != self.channels:
            raise InputError(where, f"{count} channels", "one" if self.channels == 1 else self.channels)
        if self.names and image.channels != self.names:
            raise InputError(where, f"channels {image.channels}", f"{self.names}, those of the images before it")
        before = self._stacks[0].values if self._stacks else image.values
        if image.values.is_complex() != before.is_complex():
            kinds = ["complex" if v.is_complex() else "real" for v in (image.values, before)]
            raise InputError(where, f"{kinds[0]} values", f"{kinds[1]} ones, as in the images before it")

    @property
    def _size(self) -> tuple[int, ...]:
        assert isinstance(self.size, tuple)
        return self.size

    def _planes(self, group: Group, image: Image, where: str) -> tuple[Tensor, tuple[float, ...], str]:
        """Return (K, C, *N), spacing and axes of N: a volume becomes its slices in 2D and stays whole in 3D."""
        values, spacing = image.values, image.spacing
        if self.ndim == 3:
            if len(spacing) != 3 or not image.regular:
                raise InputError(where, "slices", "a volume with a slice spacing", "Use ndim=2.")
            return values[None], spacing, "zyx"
        if len(spacing) == 2:
            return values[None], spacing, "yx"
        if not 0 <= group.axis <= 2:
            raise InputError(where, f"axis {group.axis}", "0, 1 or 2")
        values = values.movedim(1 + group.axis, 0)
        if group.keep is not None:
            values = values[slice(*group.keep)].clone()  # a view would keep the whole stack in memory
            if len(values) == 0:
                raise InputError(where, f"keep {group.keep}", f"a part of 0 to {image.values.shape[1 + group.axis]}")
        rest = [i for i in range(3) if i != group.axis]
        return values, tuple(spacing[i] for i in rest), "".join("zyx"[i] for i in rest)

    def _regrid(self, values: Tensor, spacing: tuple[float, ...], where: str) -> tuple[Tensor, tuple[float, ...]]:
        target = self._target
        if target is None or all(abs(s / t - 1) <= TOLERANCE for s, t in zip(spacing, target, strict=True)):
            return values, spacing
        coarse = any(s / t - 1 > TOLERANCE for s, t in zip(spacing, target, strict=True))
        found = f"{where}: spacing {_mm(spacing)}"
        if coarse and self.coarser == "refuse":
            raise InputError(where, f"spacing {_mm(spacing)}", f"{_mm(target)} or finer", 'Or give coarser="keep".')
        if coarse and self.coarser == "keep":
            self.notes.append(f"{found} is coarser than {_mm(target)} and was kept.")
            return values, spacing
        values, actual = resample_axes(values, spacing, target)
        self.notes.append(f"{found} was resampled to {_mm(actual)}.")
        return values, actual

    def _stack_weights(self) -> Tensor:
        pixels = torch.tensor([s.values[:, 0].numel() for s in self._stacks], dtype=torch.float64, device="cpu")
        if self.balance == "pixels":
            return pixels / pixels.sum()
        names = [s.group for s in self._stacks]
        total = {n: sum(float(p) for m, p in zip(names, pixels, strict=True) if m == n) for n in set(names)}
        return torch.stack([p / total[n] for n, p in zip(names, pixels, strict=True)]) / len(total)

    def _draw(self, key: int) -> tuple[_Stack, Place, tuple[int, ...]]:
        """Return the stack, the place and the turn of a patch; a function of `key` and `seed` only."""
        generator = torch.Generator().manual_seed(random_key(self.seed, "patch", key))
        best: tuple[float, _Stack, Place] | None = None
        for _ in range(max(1, self.tries)):
            stack, place = self._candidate(generator)
            empty = self._empty(stack, place)
            if best is None or empty < best[0]:
                best = (empty, stack, place)
            if empty <= self.max_empty:
                break
        assert best is not None
        return best[1], best[2], self._turn(generator, best[1])

    def _candidate(self, generator: torch.Generator) -> tuple[_Stack, Place]:
        uniform = torch.rand(2 + self.ndim, generator=generator, dtype=torch.float64, device="cpu")
        which = min(int(torch.searchsorted(self._weights, uniform[0], right=True)), len(self._stacks) - 1)
        stack = self._stacks[which]
        free = [n - s + 1 for n, s in zip(stack.grid, self._size, strict=True)]
        offset = tuple(int(u * f) for u, f in zip(uniform[2:].tolist(), free, strict=True))
        return stack, Place(stack.group, int(uniform[1] * len(stack.values)), offset, stack.spacing)

    def _cut(self, stack: _Stack, place: Place) -> Tensor:
        window = tuple(slice(o, o + s) for o, s in zip(place.offset, self._size, strict=True))
        return stack.values[(place.index, slice(None), *window)]

    def _empty(self, stack: _Stack, place: Place) -> float:
        if self.empty_below is None or stack.values.is_complex():
            return 0.0
        return float((self._cut(stack, place) < self.empty_below).all(0).float().mean())

    def _turn(self, generator: torch.Generator, stack: _Stack) -> tuple[int, ...]:
        """Return (quarter turns, mirror of each axis), all drawn so that a switch changes nothing else."""
        *mirrors, quarter = torch.randint(0, 4, (self.ndim + 1,), generator=generator, device="cpu").tolist()
        dy, dx = stack.spacing[-2:]
        square = self._size[-1] == self._size[-2] and abs(dy / dx - 1) <= TOLERANCE
        # One component without the other has nothing to turn into.
        square &= len(components(stack.axes[-2:]) & set(self.names)) != 1
        quarter = (quarter if square else 2 * (quarter % 2)) if self.rotations else 0
        return (quarter, *(m % 2 if self.flips else 0 for m in mirrors))


def _per_axis(name: str, value: float | tuple, ndim: int) -> tuple:
    numbers = (value,) * ndim if isinstance(value, int | float) else tuple(value)
    if len(numbers) != ndim or not all(n > 0 for n in numbers):
        raise InputError(name, value, f"a positive number, or {ndim} of them")
    return numbers


def _mm(spacing: tuple[float, ...]) -> str:
    return " x ".join(f"{s:.4g}" for s in spacing) + " mm"


def _reflected(values: Tensor, size: tuple[int, ...]) -> Tensor:
    """Continue (K, C, *N) by reflection, as often as needed, to at least `size`; the image stays in the middle."""
    for axis, want in enumerate(size, start=2):
        count = values.shape[axis]
        if count < want:
            period = max(1, 2 * (count - 1))
            index = (torch.arange(want, device="cpu") - (want - count) // 2) % period
            values = values.index_select(axis, torch.where(index < count, index, period - index))
    return values
