"""An MLP-mixer: a network without convolutions, in which every pixel reaches every other from the first block on."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from retrodict._check import InputError
from retrodict.nets.network import Network
from retrodict.nets.unet import Embedding, blocked, silu, unblocked

__all__ = ["Mixer"]


class Mixing(nn.Module):
    """Two residual layers: an MLP over the blocks, the same for every channel, and one over the channels of a block.

    `x` is (B, tokens, C); `film` (B, 4 C) scales and shifts what each of them sees.  The norm is over the channels of
    one block, as in the U-Net, so that no statistic over space or over the batch is taken.
    """

    def __init__(self, tokens: int, channels: int, hidden: int, token_hidden: int) -> None:
        super().__init__()
        self.channels = channels
        self.across = nn.ModuleList((nn.Linear(tokens, token_hidden), nn.Linear(token_hidden, tokens)))
        self.within = nn.ModuleList((nn.Linear(channels, hidden), nn.Linear(hidden, channels)))

    def forward(self, x: Tensor, film: Tensor) -> Tensor:
        scale, shift, other_scale, other_shift = film.to(x.dtype)[:, None].chunk(4, -1)
        h = torch.addcmul(shift, F.layer_norm(x, (self.channels,)), 1 + scale).transpose(1, 2)
        x = x + self.across[1](silu(self.across[0](h))).transpose(1, 2)
        h = torch.addcmul(other_shift, F.layer_norm(x, (self.channels,)), 1 + other_scale)
        return x + self.within[1](silu(self.within[0](h)))


class Mixer(Network):
    """An MLP-mixer (Tolstikhin et al. 2021), told the noise level by features that scale and shift every layer.

    An image is cut into blocks of `patch` pixels an axis, each of which becomes a vector of `width` numbers by one
    matrix.  Then come `depth` pairs of two-layer perceptrons: over the blocks (`token_hidden` units, the same for every
    channel) and over the channels (`hidden` times `width` units, the same for every block).  Nothing in it is local
    and nothing is shared between neighbours but the cut into blocks, so it serves to tell what convolutions are worth.

    `size`: pixels an axis of the images, one number or one for each axis, a multiple of `patch`.  It is part of the
    weights: a mixer answers for this size alone and says so for another.  The last matrix starts at zero, so a new
    network answers zero.  `receptive_field` is None: it looks at the whole image and cannot be run on tiles.
    """

    receptive_field = None

    def __init__(
        self,
        *,
        ndim: int = 2,
        in_channels: int,
        out_channels: int,
        size: int | Sequence[int] = 64,
        patch: int = 4,
        width: int = 128,
        depth: int = 4,
        hidden: int = 2,
        token_hidden: int = 256,
        level_features: int = 1,
        embedding: int = 128,
    ) -> None:
        super().__init__()
        if ndim not in (1, 2, 3):
            raise InputError("Mixer.ndim", ndim, "1, 2 or 3")
        self.size = (size,) * ndim if isinstance(size, int) else tuple(size)
        counts = {"in_channels": in_channels, "out_channels": out_channels, "patch": patch, "width": width,
                  "depth": depth, "hidden": hidden, "token_hidden": token_hidden, "level_features": level_features,
                  "embedding": embedding}  # fmt: skip
        for name, value in counts.items():
            if value < 1:
                raise InputError(f"Mixer.{name}", value, "a whole number of at least 1")
        if len(self.size) != ndim or any(n < 1 or n % patch for n in self.size):
            raise InputError("Mixer.size", size, f"multiples of the patch {patch}, one number or {ndim}")
        self.ndim, self.in_channels, self.out_channels = ndim, in_channels, out_channels
        self.patch, self.level_features, self.width = patch, level_features, width
        self.stride = patch
        pixels, tokens = patch**ndim, math.prod(n // patch for n in self.size)
        self.embed = Embedding(level_features, embedding, 4 * width * depth)
        self.stem = nn.Linear(in_channels * pixels, width)
        self.mix = nn.ModuleList(Mixing(tokens, width, hidden * width, token_hidden) for _ in range(depth))
        self.head = nn.Linear(width, out_channels * pixels)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        """Map images `x` (B, in_channels, *size) and their `level` (B, level_features) to (B, out_channels, *size)."""
        if x.ndim != self.ndim + 2 or x.shape[1] != self.in_channels or tuple(x.shape[2:]) != self.size:
            want = f"(B, {self.in_channels}, {', '.join(map(str, self.size))}): a mixer answers for one image size"
            raise InputError("Mixer: the shape of x", tuple(x.shape), want)
        if level.shape != (x.shape[0], self.level_features):
            raise InputError("Mixer: the shape of level", tuple(level.shape), (x.shape[0], self.level_features))
        with torch.autocast(x.device.type, enabled=False):
            films = self.embed(level).split(4 * self.width, -1)
        h = self.stem(blocked(x, self.patch).flatten(2).transpose(1, 2))
        for block, film in zip(self.mix, films, strict=True):
            h = block(h, film)
        h = self.head(F.layer_norm(h, (self.width,))).transpose(1, 2)
        h = h.unflatten(2, [n // self.patch for n in self.size])
        return unblocked(h, self.patch).to(x.dtype)
