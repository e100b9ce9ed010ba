"""Networks: plain modules that map an image and a noise level to an image. They know nothing of diffusion."""

from __future__ import annotations

from collections.abc import Callable

from retrodict.nets.joint import JointNet
from retrodict.nets.mixer import Mixer
from retrodict.nets.network import Network, network
from retrodict.nets.precision import PRECISIONS, precision_for
from retrodict.nets.scales import WaveletCascade
from retrodict.nets.shrink import WaveletShrink
from retrodict.nets.tiles import Tiled
from retrodict.nets.unet import UNet
from retrodict.nets.wavelet import WaveletUNet

__all__ = [
    "NETS",
    "PRECISIONS",
    "JointNet",
    "Mixer",
    "Network",
    "Tiled",
    "UNet",
    "WaveletCascade",
    "WaveletShrink",
    "WaveletUNet",
    "network",
    "precision_for",
]

NETS: dict[str, Callable[..., Network]] = {
    "unet": UNet,
    "mixer": Mixer,
    "wavelet_unet": WaveletUNet,
    "wavelet_cascade": WaveletCascade,
    "joint": JointNet,
}
"""The networks by name, for configurations."""
