"""Running a network on tiles: images too large for memory, equal to the whole where the receptive field allows.

Only the network is tiled.  The state, its noise field and every transform stay those of the whole image, so tiles
share one noise field by construction.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.nets.network import Network

__all__ = ["Tiled", "tiled_apply"]


class _Span(NamedTuple):
    """One tile along one axis: pixels to read, where the inner part begins in them, and where it goes."""

    read: Tensor
    inner: slice
    target: slice


def tiled_apply(
    function: Callable[[Tensor], Tensor], x: Tensor, *, tile: int, halo: int, stride: int, circular: bool
) -> Tensor:
    """Apply a convolutional map `(B, C, *N)` -> `(B, C', *N)` tile by tile.

    Every tile of `tile` pixels a side is seen with `halo` more on each side (wrapped if `circular`, cut at the image
    edge otherwise); tiles start at multiples of `stride`.  Equal to `function(x)` if halo is at least its receptive
    field and every axis is a multiple of `stride`.
    """
    if tile < stride:
        raise InputError("tile", tile, f"at least the stride {stride} of the network")
    tile, halo = -(-tile // stride) * stride, -(-halo // stride) * stride
    out: Tensor | None = None
    for spans in itertools.product(*(list(_spans(n, tile, halo, circular, x.device)) for n in x.shape[2:])):
        piece = x
        for axis, span in enumerate(spans, start=2):
            piece = piece.index_select(axis, span.read)
        result = function(piece)
        if out is None:
            out = result.new_empty(x.shape[0], result.shape[1], *x.shape[2:])
        out[(Ellipsis, *(s.target for s in spans))] = result[(Ellipsis, *(s.inner for s in spans))]
    assert out is not None
    return out


def _spans(n: int, tile: int, halo: int, circular: bool, device: torch.device) -> Iterator[_Span]:
    for start in range(0, n, tile):
        stop = min(start + tile, n)
        if circular:
            read, begin = torch.arange(start - halo, stop + halo, device=device) % n, halo
        else:
            first = max(0, start - halo)
            read, begin = torch.arange(first, min(n, stop + halo), device=device), start - first
        yield _Span(read, slice(begin, begin + stop - start), slice(start, stop))


class Tiled(Network):
    """A network run on tiles of `tile` pixels a side; the weights are those of `net`.

    Raises where the network does not know its receptive field.
    """

    def __init__(self, net: Network, tile: int) -> None:
        super().__init__()
        if net.receptive_field is None:
            raise InputError("tile", "a network without 'receptive_field'", "one that knows its receptive field")
        self.net, self.tile = net, tile
        self.stride, self.receptive_field, self.circular = net.stride, net.receptive_field, net.circular
        self.mapped = net.mapped

    def forward(self, x: Tensor, level: Tensor, weights: Tensor | None = None) -> Tensor:
        """As `net`, tile by tile; the weights of a map of levels are cut as the image is."""
        if all(n <= self.tile for n in x.shape[2:]):
            return self.net(x, level) if weights is None else self.net(x, level, weights)
        settings = {"tile": self.tile, "halo": self.receptive_field, "stride": self.stride, "circular": self.circular}
        if weights is None:
            return tiled_apply(lambda piece: self.net(piece, level), x, **settings)  # type: ignore[arg-type]
        channels = x.shape[1]

        def mapped(piece: Tensor) -> Tensor:
            return self.net(piece[:, :channels], level, piece[:, channels:])

        return tiled_apply(mapped, torch.cat([x, weights.to(x)], 1), **settings)  # type: ignore[arg-type]
