"""A network that shrinks the bands of a wavelet transform by thresholds that it adapts to what is around a coefficient.

It knows bands and the deviation of the noise in each, and nothing of the transform that made them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from retrodict._check import InputError
from retrodict.nets.unet import CONV, Conv3, silu

__all__ = ["WaveletShrink", "soft"]

SMOOTH = 0.5
"""Width of the corner of the shrinkage, in deviations of the noise: Stein's estimate wants a derivative."""

START = math.log(math.e - 1)
"""softplus of it is 1: a new network has thresholds of one deviation of the noise."""


def soft(u: Tensor, threshold: Tensor, width: float = SMOOTH) -> Tensor:
    """Soft shrinkage whose corner is a hyperbola: u + (|u - T|_w - |u + T|_w) / 2, |x|_w = sqrt(x^2 + w^2).

    Odd and smooth; u for T = 0, u - T sign(u) far outside, next to nothing inside.  With w = 0 it is that of Donoho and
    Johnstone (1995).
    """
    below, above = ((u - threshold) ** 2 + width**2).sqrt(), ((u + threshold) ** 2 + width**2).sqrt()
    return u + 0.5 * (below - above)


class _Level(nn.Module):
    """The bands of one level, in units of their noise."""

    def __init__(self, ndim: int, width: int) -> None:
        super().__init__()
        bands = 2**ndim - 1
        self.stem = Conv3(ndim, 2 * bands, width, circular=True)
        self.middle = Conv3(ndim, width, width, circular=True)
        self.head = Conv3(ndim, width, 2 * bands, circular=True)
        self.threshold = nn.Parameter(torch.full((bands,), START, device="cpu"))
        nn.init.zeros_(self.head.conv.weight)
        nn.init.zeros_(self.head.conv.bias)  # pyright: ignore[reportArgumentType]

    def forward(self, u: Tensor, told: Tensor) -> Tensor:
        """Bands u `(B, D, *M)` over their noise, and a number for each band `(B, D, *1)`."""
        seen = torch.cat([torch.asinh(u), told.expand_as(u)], 1)
        moved, left = self.head(silu(self.middle(silu(self.stem(seen))))).chunk(2, 1)
        start = self.threshold.reshape(-1, *[1] * (u.ndim - 2))
        return soft(u, F.softplus(start + moved)) + left


class WaveletShrink(nn.Module):
    """Denoised detail bands from noisy ones: d -> s [soft(d / s, T) + r], s the deviation of the noise of a band.

    T = softplus(a + c) is a threshold at every coefficient, a a number of the band; c and the residual r come from a
    small network of three convolutions on the bands of the level, asinh(d / s), and of their noise relative to that of
    all bands.  Both start at zero, so that a new network is soft shrinkage at T = 1.  All that it sees is relative to
    the noise: D(c y) = c D(y) where images and noise are multiplied by c > 0.  A band without noise stays as it is.

    Every level has a network of its own; each channel of an image is treated by itself.  It is the adaptive wavelet
    network of WISGM (Wu et al. 2024, IEEE TMI, whose code is not public) as we build it; `denoisers.shrink` puts the
    transform round it.
    """

    def __init__(self, *, ndim: int = 2, levels: int = 3, width: int = 16) -> None:
        super().__init__()
        if ndim not in CONV:
            raise InputError("WaveletShrink.ndim", ndim, "1, 2 or 3")
        for name, value, most in (("levels", levels, 6), ("width", width, 1024)):
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
                raise InputError(f"WaveletShrink.{name}", value, f"a whole number from 1 to {most}")
        self.ndim, self.levels, self.width = ndim, levels, width
        self.each = nn.ModuleList(_Level(ndim, width) for _ in range(levels))

    def forward(self, bands: Sequence[Tensor], noise: Sequence[Tensor]) -> list[Tensor]:
        """Bands of every level, finest first, `(B, D, C, *M)` with D = 2^ndim - 1, and the deviations of their noise
        `(B|1, D, C|1)`, to bands like them.
        """
        if len(bands) != self.levels or len(noise) != self.levels:
            raise InputError("WaveletShrink: bands", f"{len(bands)} levels", f"{self.levels}, as it was made with")
        mean = torch.stack([s.square().mean(1) for s in noise]).mean(0).sqrt()[:, None]  # of all bands, `(B|1, 1, C|1)`
        return [self._level(k, d, s, mean) for k, (d, s) in enumerate(zip(bands, noise, strict=True))]

    def _level(self, number: int, d: Tensor, noise: Tensor, mean: Tensor) -> Tensor:
        """One level; channels go to the items."""
        net, axes = self.each[number], [1] * self.ndim
        dtype = next(net.parameters()).dtype
        clean = noise == 0
        s = torch.where(clean, 1.0, noise)
        told = torch.where(clean, 0.0, (s / torch.where(mean == 0, 1.0, mean)).log())
        shape = (len(d), d.shape[1], d.shape[2])
        s, told, clean = (x.expand(shape).reshape(*shape, *axes).to(d.device) for x in (s, told, clean))
        items = [x.movedim(2, 1).flatten(0, 1).to(dtype) for x in (d / s.to(d), told)]
        out = net(*items).unflatten(0, (shape[0], shape[2])).movedim(1, 2).to(d)
        return torch.where(clean, d, s.to(d) * out)
