"""Networks one a scale of a Haar transform, coarse to fine: each sees its bands and the image under them."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from retrodict._check import InputError
from retrodict.nets.network import Network
from retrodict.nets.unet import UNet, blocked, unblocked
from retrodict.nets.wavelet import haar

__all__ = ["Guide", "WaveletCascade", "analysed", "composed"]


class Guide(NamedTuple):
    """Images in the Haar basis: detail bands of every scale, finest first, `(B, 2^n - 1, C, *M)`, and the coarse image
    under each of them `(B, C, *M)`."""

    details: tuple[Tensor, ...]
    coarse: tuple[Tensor, ...]


def analysed(x: Tensor, levels: int) -> Guide:
    """Images `(B, C, *N)` in the orthonormal Haar basis, in which `bases.Wavelet("haar")` has them."""
    ndim, channels = x.ndim - 2, x.shape[1]
    details, coarse = [], []
    for _ in range(levels):
        bands = haar(blocked(x, 2).unflatten(1, (channels, -1)), ndim).transpose(1, 2)
        x = bands[:, 0]
        details.append(bands[:, 1:])
        coarse.append(x)
    return Guide(tuple(details), tuple(coarse))


def composed(coarse: Tensor, details: Tensor) -> Tensor:
    """The image `(B, C, *N)` of a coarse one `(B, C, *M)` and its detail bands `(B, 2^n - 1, C, *M)`."""
    ndim = coarse.ndim - 2
    bands = torch.cat([coarse[:, None], details], 1).transpose(1, 2)
    return unblocked(haar(bands, ndim).flatten(1, 2), 2)


class WaveletCascade(Network):
    """A `UNet` for every scale of a Haar transform of `levels` levels, coarse to fine.

    As an image network it maps (x `(B, in, *N)`, level `(B, F + bands)`) to a mean and log-variances: the coarse
    network sees the coarse image of x, that of a scale of details its bands, the coarse image under them and the *mean*
    that the coarser networks have made of it.  The last `bands` features are logarithms of the deviation of what is
    wanted in every band, coarse first, by which each output is multiplied.  Of the `levels + 2` groups of output
    channels the first is the image; the others are log-variances of octave bands, finest first.

    As the cascade of a chain (`at_scale`) the network of a scale is shown noisy bands, the *drawn* coarse image under
    them, and the noise level.  Guth et al. 2022, conditioned on a measurement by what is known of it at every scale.
    """

    def __init__(
        self,
        *,
        ndim: int = 2,
        in_channels: int,
        out_channels: int,
        levels: int = 3,
        level_features: int = 1,
        **options: Any,
    ) -> None:
        super().__init__()
        if isinstance(levels, bool) or not isinstance(levels, int) or not 1 <= levels <= 6:
            raise InputError("WaveletCascade.levels", levels, "a whole number from 1 to 6")
        if out_channels % (levels + 2):
            found = f"{out_channels} output channels with {levels} levels"
            raise InputError("WaveletCascade", found, f"an image and bands: {levels + 1} variances a channel")
        self.ndim, self.levels, self.channels = ndim, levels, out_channels // (levels + 2)
        self.each = 2**ndim - 1  # bands of details a scale
        self.features, self.bands = level_features, self.each * levels + 1
        shape = {"ndim": ndim, "level_features": level_features + self.bands + 2, **options}
        own, seen = self.channels, in_channels
        detail = {"in_channels": (self.each + 1) * (own + seen), "out_channels": 2 * self.each * own}
        self.details = nn.ModuleList(UNet(**shape, **detail) for _ in range(levels))
        self.coarse = UNet(**shape, in_channels=own + seen, out_channels=2 * own)
        self.circular = self.coarse.circular

    @property
    def stride(self) -> int:  # type: ignore[override]
        """That of the coarsest network, in pixels.  It is not run on tiles: a drawn image is drawn whole."""
        return 2**self.levels * self.coarse.stride

    def forward(self, x: Tensor, level: Tensor, weights: Tensor | None = None) -> Tensor:
        """Means and log-variances `(B, out, *N)` of what is wanted, given images x `(B, in, *N)`."""
        if weights is not None:
            raise InputError("WaveletCascade", "a level that varies over the image", "one level an image")
        if any(n % self.stride for n in x.shape[2:]):
            raise InputError("WaveletCascade: the size of x", tuple(x.shape[2:]), f"multiples of {self.stride}")
        guide, scales = analysed(x, self.levels), self._scales(level)
        nothing = x.new_zeros(len(x), 1, self.channels, *guide.coarse[-1].shape[2:])
        mean, ratio = self._mean(self.levels, guide, nothing, None, level)
        image, octaves = scales[self.levels] * mean, [ratio.mean(1)]
        image = image[:, 0]
        for scale in range(self.levels - 1, -1, -1):
            nothing = image.new_zeros(len(x), self.each, self.channels, *image.shape[2:])
            mean, ratio = self._mean(scale, guide, nothing, image, level)
            image = composed(image, scales[scale] * mean)
            octaves.append(ratio.mean(1))
        wide = [self._enlarged(o, tuple(x.shape[2:])) for o in reversed(octaves)]
        return torch.cat([image, *wide], 1)

    def _mean(
        self, scale: int, guide: Guide, nothing: Tensor, coarse: Tensor | None, level: Tensor
    ) -> tuple[Tensor, Tensor]:
        told = level.new_tensor([0.0, 0.0]).expand(len(level), 2)  # all noise, and coarser scales known by their mean
        return self._run(scale, guide, nothing, coarse, torch.cat([level, told], 1))

    def at_scale(
        self, scale: int, guide: Guide, noisy: Tensor, coarse: Tensor | None, level: Tensor, log_s: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Answer and log-variance `(B, D, C, *M)` for noisy bands `(B, D, C, *M)`, the drawn coarse image under them
        `(B, C, *M)`, and the logarithm of the noise `(B,)`, of details 0 (finest) to `levels` (the coarse image).
        """
        told = torch.stack([log_s.to(level), torch.ones_like(log_s).to(level)], 1)
        return self._run(scale, guide, noisy, coarse, torch.cat([level, told], 1))

    def _run(
        self, scale: int, guide: Guide, noisy: Tensor, coarse: Tensor | None, level: Tensor
    ) -> tuple[Tensor, Tensor]:
        parts = [noisy.flatten(1, 2), guide.coarse[min(scale, self.levels - 1)]]
        if coarse is not None:
            parts += [guide.details[scale].flatten(1, 2), coarse]
        net = self.coarse if scale == self.levels else self.details[scale]
        out = net(torch.cat([p.to(noisy) for p in parts], 1), level)
        return tuple(half.reshape(noisy.shape) for half in out.chunk(2, 1))  # type: ignore[return-value]

    def _scales(self, level: Tensor) -> list[Tensor]:
        """Deviations of the bands `(B, D, 1, *1)`, finest scale first and the coarse band last."""
        values = level[:, self.features :].exp()[(..., *[None] * (1 + self.ndim))]
        details = values[:, 1:].split(self.each, 1)  # coarse first
        return [*reversed(details), values[:, :1]]

    def _enlarged(self, x: Tensor, size: tuple[int, ...]) -> Tensor:
        mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[self.ndim]
        return F.interpolate(x, size, mode=mode, align_corners=False)
