"""Mirroring and turning images; the components of a vector field turn with the grid."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["components", "turned"]


def components(axes: str) -> set[str]:
    """Return the channel names of vector components along axes such as "yx": dy and dx."""
    return {f"d{axis}" for axis in axes}


def turned(image: Tensor, turn: tuple[int, ...], names: tuple[str, ...], axes: str) -> Tensor:
    """Mirror (C, *N) along axes, then turn it in the last two.

    turn : quarter turns, from the last axis but one towards the last, and for each axis of N whether to mirror it.
    names : of the channels; axes : names of the axes of N, such as "zyx". The channel "dy" is a component along y; one
    of the last two without the other can be turned by half turns only.
    """
    quarter, *mirrors = turn
    flipped = [place for place, mirror in enumerate(mirrors, start=1) if mirror]
    moved = torch.rot90(image.flip(flipped) if flipped else image, quarter, (-2, -1))
    for place in flipped:
        moved = _negated(moved, names, f"d{axes[place - 1]}")
    down, across = f"d{axes[-2]}", f"d{axes[-1]}"
    if quarter >= 2:
        moved = _negated(_negated(moved, names, down), names, across)
    if quarter % 2:  # what pointed down points across, and what pointed across points up
        moved = _negated(_swapped(moved, names, down, across), names, down)
    return moved


def _negated(image: Tensor, names: tuple[str, ...], component: str) -> Tensor:
    if component not in names:
        return image
    signs = torch.ones(len(names), device="cpu").index_fill_(
        0, torch.tensor(names.index(component), device="cpu"), -1.0
    )
    return image * signs.reshape(-1, *[1] * (image.ndim - 1))


def _swapped(image: Tensor, names: tuple[str, ...], one: str, two: str) -> Tensor:
    if not {one, two} <= set(names):
        return image
    return image[[names.index({one: two, two: one}.get(name, name)) for name in names]]
