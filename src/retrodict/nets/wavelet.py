"""A U-Net that works on the wavelet bands of its images as channels, at a fraction of the pixels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.nets.network import Network
from retrodict.nets.unet import UNet, blocked, unblocked

__all__ = ["WaveletUNet"]


class WaveletUNet(Network):
    """A `UNet` between an orthonormal Haar transform and its inverse: WaveDiff, and WDM of volumes.

    Every channel becomes the 2^(n levels) bands of its blocks of 2^levels pixels an axis (the Haar packet; with one
    level low- and high-pass bands, LLL to HHH), of which the coarse one is divided by `coarse` on the way in and
    multiplied on the way out; the default 2^(n levels / 2) makes it a mean, of about the size of the image (WDM
    divides volumes by 3).  So convolutions and skips run on (1/2)^(n levels) of the pixels: a fraction of time and
    memory.  Axes of any length that `stride` divides, deeper than wide as well.  All other options are those of `UNet`.
    A `UNet(patch=2)` sees the same numbers in another basis and can learn the same; what differs is where it begins.

    Phung, Dao, Tran 2023 (arXiv 2211.16152); Friedrich et al. 2024 (arXiv 2402.19043), whose process is
    `wavelet_scaled`.  The inner network is `inner`.
    """

    def __init__(
        self,
        *,
        ndim: int = 2,
        in_channels: int,
        out_channels: int,
        levels: int = 1,
        coarse: float | None = None,
        level_features: int = 1,
        **options: Any,
    ) -> None:
        super().__init__()
        if isinstance(levels, bool) or not isinstance(levels, int) or not 1 <= levels <= 4:
            raise InputError("WaveletUNet.levels", levels, "a whole number from 1 to 4")
        self.coarse = float(2 ** (ndim * levels / 2) if coarse is None else coarse)
        if not self.coarse > 0:
            raise InputError("WaveletUNet.coarse", coarse, "a positive number")
        self.ndim, self.levels, self.side = ndim, levels, 2**levels
        self.in_channels, self.out_channels = in_channels, out_channels
        bands = self.side**ndim
        self.inner = UNet(ndim=ndim, in_channels=in_channels * bands, out_channels=out_channels * bands,
                          level_features=level_features, **options)  # fmt: skip
        self.circular, self.mapped = self.inner.circular, True

    @property
    def stride(self) -> int:  # type: ignore[override]
        """That of the inner network, in pixels."""
        return self.side * self.inner.stride

    @property
    def receptive_field(self) -> int:  # type: ignore[override]
        """That of the inner network in blocks, and what is left of a block."""
        return self.side * self.inner.receptive_field + self.side - 1

    def forward(self, x: Tensor, level: Tensor, weights: Tensor | None = None) -> Tensor:
        """Map images x `(B, in_channels, *N)` and their level to `(B, out_channels, *N)`; see `UNet.forward`."""
        if any(n % self.side for n in x.shape[2:]):
            raise InputError("WaveletUNet: the size of x", tuple(x.shape[2:]), f"multiples of {self.stride}")
        cut = blocked(x, self.side).unflatten(1, (x.shape[1], -1))
        bands = self._scaled(haar(cut, self.ndim * self.levels), 1 / self.coarse)
        more = () if weights is None else (blocked(weights, self.side).unflatten(1, (weights.shape[1], -1)).mean(2),)
        out = self.inner(bands.flatten(1, 2), level, *more).unflatten(1, (self.out_channels, -1))
        return unblocked(haar(self._scaled(out, self.coarse), self.ndim * self.levels).flatten(1, 2), self.side)

    def _scaled(self, bands: Tensor, factor: float) -> Tensor:
        return torch.cat([factor * bands[:, :, :1], bands[:, :, 1:]], 2)


def haar(x: Tensor, bits: int) -> Tensor:
    """The orthonormal Walsh-Hadamard transform of `(B, C, 2^bits, ...)` along axis 2, which is its own inverse.

    Of a block of pixels it is the Haar packet, the sum over 2^(bits / 2) first.  Sums and differences of pairs, so
    that an item's bits do not depend on the others.
    """
    size, rest = x.shape[2], x.shape[3:]
    for bit in range(bits):
        a, b = x.reshape(*x.shape[:2], size >> (bit + 1), 2, 1 << bit, *rest).unbind(3)
        x = torch.stack([a + b, a - b], 3).reshape(*x.shape[:2], size, *rest)
    return x * 2.0 ** (-bits / 2)
