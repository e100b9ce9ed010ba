"""What a network has to say of itself, and how any module becomes one."""

from __future__ import annotations

from torch import Tensor, nn

from retrodict._check import InputError

__all__ = ["Network", "network"]


class Network(nn.Module):
    """A module (x `(B, Ci, *N)`, level `(B, F)`) -> `(B, Co, *N)` that knows how far it looks.

    One that is `mapped` also takes several levels of each item, `(B, K, F)`, and their weights `(B, K, *N)` at every
    pixel, which are not negative and sum to 1: the level then varies over the image.

    `stride`: every image axis has to be a multiple of it.  `receptive_field`: the farthest pixel that still changes an
    output pixel, None where it is the whole image; only with it can the network be run on tiles.  `circular`: whether
    what lies outside an image is the image again.  It knows nothing of diffusion.
    """

    stride: int = 1
    receptive_field: int | None = None
    circular: bool = False
    mapped: bool = False


class _Adapted(Network):
    def __init__(self, module: nn.Module, stride: int, receptive_field: int | None, circular: bool) -> None:
        super().__init__()
        self.module = module
        self.stride, self.receptive_field, self.circular = stride, receptive_field, circular

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        return self.module(x, level)


def network(
    module: nn.Module, *, stride: int = 1, receptive_field: int | None = None, circular: bool = False
) -> Network:
    """Any `torch.nn.Module` that maps (x, level) to an image, with what it does not say of itself; see `Network`."""
    if not isinstance(module, nn.Module):
        raise InputError("network", type(module).__name__, "a torch.nn.Module called as module(x, level)")
    if stride < 1 or (receptive_field is not None and receptive_field < 0):
        raise InputError("network", f"stride {stride}, receptive field {receptive_field}", "positive whole numbers")
    return module if isinstance(module, Network) else _Adapted(module, stride, receptive_field, circular)
