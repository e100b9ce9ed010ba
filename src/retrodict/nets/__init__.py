"""Networks: plain modules that map an image and a noise level to an image. They know nothing of diffusion."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from retrodict.nets.unet import UNet

__all__ = ["NETS", "UNet"]

NETS: dict[str, Callable[..., nn.Module]] = {"unet": UNet}
"""The networks by name, for configurations."""
