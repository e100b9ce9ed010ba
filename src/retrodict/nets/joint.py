"""Two networks that are trained together: one that answers, and one that shrinks wavelet bands beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from retrodict._check import choice
from retrodict.nets.mixer import Mixer
from retrodict.nets.network import Network
from retrodict.nets.shrink import WaveletShrink
from retrodict.nets.unet import UNet
from retrodict.nets.wavelet import WaveletUNet

__all__ = ["SCORES", "JointNet"]

SCORES: dict[str, Callable[..., Network]] = {"unet": UNet, "mixer": Mixer, "wavelet_unet": WaveletUNet}
"""Networks that answer, by name."""


class JointNet(Network):
    """A network `score` of any kind of `SCORES`, and a `WaveletShrink` that makes the images it is trained on.

    Called it is its score network; `shrink` is asked by `training.joint` alone, and by who wants it as a denoiser
    (`ShrinkDenoiser`).  shrink: options of the one; all other options are those of the other.
    """

    def __init__(
        self,
        *,
        ndim: int = 2,
        in_channels: int,
        out_channels: int,
        score: str = "unet",
        shrink: Mapping[str, Any] | None = None,
        level_features: int = 1,
        **options: Any,
    ) -> None:
        super().__init__()
        shape = {"ndim": ndim, "in_channels": in_channels, "out_channels": out_channels}
        kind = SCORES[choice("JointNet.score", score, SCORES)]
        self.score = kind(**shape, level_features=level_features, **options)
        self.shrink = WaveletShrink(ndim=ndim, **(shrink or {}))
        self.circular, self.mapped = self.score.circular, self.score.mapped

    @property
    def stride(self) -> int:  # type: ignore[override]
        """That of the score network."""
        return self.score.stride

    @property
    def receptive_field(self) -> int | None:  # type: ignore[override]
        """That of the score network."""
        return self.score.receptive_field

    def forward(self, x: Tensor, level: Tensor, *weights: Tensor) -> Tensor:
        """The score network; see `Network`."""
        return self.score(x, level, *weights)
