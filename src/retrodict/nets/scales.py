"""Networks one a scale of a Haar transform, coarse to fine, beside one that makes the mean."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from retrodict._check import InputError
from retrodict.nets.network import Network
from retrodict.nets.unet import UNet, blocked
from retrodict.nets.wavelet import haar

__all__ = ["Guide", "WaveletCascade", "analysed"]


class Guide(NamedTuple):
    """What the scales are shown: of images in the Haar basis the detail bands of every scale, finest first,
    `(B, 2^n - 1, C, *M)`, and the coarse image under each of them `(B, C, *M)`; and the logarithm of the local
    deviation of what is wanted at every scale, the coarse one last, `(B, C, *M)`."""

    details: tuple[Tensor, ...]
    coarse: tuple[Tensor, ...]
    local: tuple[Tensor, ...]


def analysed(x: Tensor, levels: int) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Details and coarse images of images `(B, C, *N)`, as `bases.Wavelet("haar")` has them, finest first."""
    ndim, channels = x.ndim - 2, x.shape[1]
    details, coarse = [], []
    for _ in range(levels):
        bands = haar(blocked(x, 2).unflatten(1, (channels, -1)), ndim).transpose(1, 2)
        x = bands[:, 0]
        details.append(bands[:, 1:])
        coarse.append(x)
    return tuple(details), tuple(coarse)


class WaveletCascade(Network):
    """A `UNet` for the mean, and one for every scale of what is left open around it (Guth et al. 2022).

    As an image network it is the `UNet` with the options `mean`.  `at_scale` asks the network of a scale of a Haar
    transform of `levels` levels, which is shown noisy bands, the drawn coarse image under them, the bands of what is
    known, the local deviation of what is wanted, the level of the image and the noise of its scale.  All other options
    are those of the networks of the scales.
    """

    def __init__(
        self,
        *,
        ndim: int = 2,
        in_channels: int,
        out_channels: int,
        levels: int = 3,
        channels: int = 1,
        level_features: int = 1,
        mean: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        if isinstance(levels, bool) or not isinstance(levels, int) or not 1 <= levels <= 6:
            raise InputError("WaveletCascade.levels", levels, "a whole number from 1 to 6")
        self.ndim, self.levels, self.channels = ndim, levels, channels
        self.mean = UNet(ndim=ndim, in_channels=in_channels, out_channels=out_channels, level_features=level_features,
                         **(mean or {}))  # fmt: skip
        each, own, seen = 2**ndim - 1, channels, in_channels + channels  # and the mean itself
        shape = {"ndim": ndim, "level_features": level_features + 1, **options}
        detail = {"in_channels": (each + 1) * (own + seen) + own, "out_channels": 2 * each * own}
        self.details = nn.ModuleList(UNet(**shape, **detail) for _ in range(levels))
        self.coarse = UNet(**shape, in_channels=2 * own + seen, out_channels=2 * own)
        self.circular, self.mapped = self.mean.circular, self.mean.mapped

    @property
    def stride(self) -> int:  # type: ignore[override]
        """Of the coarsest network and that of the mean, in pixels.  Not run on tiles: an image is drawn whole."""
        return math.lcm(2**self.levels * self.coarse.stride, self.mean.stride)

    @property
    def fixed(self) -> bool:
        """Whether the mean is not trained."""
        return not any(p.requires_grad for p in self.mean.parameters())

    def forward(self, x: Tensor, level: Tensor, weights: Tensor | None = None) -> Tensor:
        """The mean and its log-variances; see `UNet.forward`."""
        return self.mean(x, level, weights)

    def at_scale(
        self, scale: int, guide: Guide, noisy: Tensor, coarse: Tensor | None, level: Tensor, log_s: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Answer and log-variance `(B, D, C, *M)` for noisy bands `(B, D, C, *M)`, the drawn coarse image under them
        `(B, C, *M)`, and the logarithm of the noise `(B,)`, of details 0 (finest) to `levels` (the coarse image).
        """
        parts = [noisy.flatten(1, 2), guide.coarse[min(scale, self.levels - 1)], guide.local[scale]]
        if coarse is not None:
            parts += [guide.details[scale].flatten(1, 2), coarse]
        net = self.coarse if scale == self.levels else self.details[scale]
        out = net(torch.cat([p.to(noisy) for p in parts], 1), torch.cat([level, log_s[:, None]], 1))
        return tuple(half.reshape(noisy.shape) for half in out.chunk(2, 1))  # type: ignore[return-value]
