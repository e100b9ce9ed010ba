"""Networks of a cascade: one for the coarse image, and one for each level of details or one that they share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from retrodict._check import InputError, choice
from retrodict.nets.network import Network

__all__ = ["DETAILS", "CascadeNet"]

DETAILS = ("posterior", "regression", "none")
"""What becomes of the details given the coarse image: drawn, their mean, or nothing at all."""


class CascadeNet(Network):
    """Scale 0 (finest details) to `levels` (the coarse image), each a network of the sub-lattice of its level.

    make(**shape) builds a network of `in_channels`, `out_channels`, `level_features` and `ndim`; with `shared` all
    levels of details have one, which is also told the scale.  Each puts out the image and a log-variance of every
    channel.  It is called as (x `(B, Ci, *M)`, level `(B, 1)`, scale).
    """

    def __init__(
        self, make: Callable[..., Network], *, levels: int, ndim: int = 2, channels: int = 1, shared: bool = False
    ) -> None:
        super().__init__()
        if isinstance(levels, bool) or not isinstance(levels, int) or not 1 <= levels <= 16:
            raise InputError("CascadeNet.levels", levels, "a whole number from 1 to 16")
        self.levels, self.ndim, self.channels, self.shared = levels, ndim, channels, bool(shared)
        bands = 2**ndim - 1
        detail = {
            "ndim": ndim,
            "in_channels": (bands + 1) * channels,
            "out_channels": 2 * bands * channels,
            "level_features": 2 if shared else 1,
        }
        self.details = nn.ModuleList(make(**detail) for _ in range(1 if shared else levels))
        self.coarse = make(ndim=ndim, in_channels=channels, out_channels=2 * channels, level_features=1)

    def net_of(self, scale: int) -> nn.Module:
        """The network of a scale."""
        return self.coarse if scale == self.levels else self.details[0 if self.shared else scale]

    def forward(self, x: Tensor, level: Tensor, scale: int) -> Tensor:  # type: ignore[override]
        """The answer of the network of a scale, `(B, Co, *M)`."""
        if self.shared and scale < self.levels:
            told = torch.full_like(level[:, :1], 4.0 * scale / self.levels - 2.0)
            level = torch.cat([level, told], 1)
        return self.net_of(scale)(x, level)

    @classmethod
    def options_of(cls, options: Mapping[str, Any], where: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """The options of the cascade itself (levels, shared) and the record of the network of a level."""
        unknown = set(options) - {"levels", "shared", "net", "details", "crop"}
        if unknown:
            raise InputError(f"{where}: network.options", sorted(unknown)[0], "levels, shared, net, details or crop")
        inner = options.get("net", {"name": "unet"})
        return {k: v for k, v in options.items() if k not in ("net", "details", "crop")}, dict(inner)

    @staticmethod
    def details_of(options: Mapping[str, Any], where: str) -> str:
        """What the options say of details: a name of `DETAILS`, "posterior" where they say nothing."""
        return choice(f"{where}: network.options.details", options.get("details", "posterior"), DETAILS)

    @staticmethod
    def crop_of(options: Mapping[str, Any], where: str) -> int | None:
        """The side, in places of its sub-lattice, of the part that a network of details is trained on; None: all."""
        crop = options.get("crop")
        if crop is not None and (isinstance(crop, bool) or not isinstance(crop, int) or crop < 1):
            raise InputError(f"{where}: network.options.crop", crop, "a whole number of at least 1, or nothing")
        return crop
