"""What a restoration of a large image will take, before it begins: memory, time, and tiles where they are needed."""

from __future__ import annotations

import math
import time
import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from retrodict._check import InputError
from retrodict.denoisers.denoiser import Denoiser
from retrodict.denoisers.network import NetDenoiser, channels_in
from retrodict.nets.tiles import Tiled
from retrodict.tasks.machine import free_memory

__all__ = ["Forecast", "fitted"]

LARGE = 768**2
"""Pixels (or voxels) of an image from which on its cost is forecast; below, it is over before one could read it."""

NETWORK_MEMORY = 2**30
"""Bytes of activations up to which a network runs on the whole image; beyond, on tiles.

A fixed number, and not a part of the memory that is free: the same image has the same result on every machine.
"""

TABLES = 260
"""Bytes a pixel of everything but the network: states, spectra, Wiener estimates in float64.

The highest of the sums of live tensors of runs at 512^2 and 1024^2 was 195 beside the network; with one copy more for
the member before and after `finish`.
"""


@dataclass(frozen=True)
class Forecast:
    """Bytes at the peak, seconds for the whole image (slices, members and steps), side of a tile (None: whole)."""

    bytes: int
    seconds: float
    tile: int | None

    def __str__(self) -> str:
        """As a person reads it."""
        minutes = self.seconds / 60
        took = f"{self.seconds:.0f} s" if minutes < 2 else f"{minutes:.0f} min" if minutes < 90 else ""
        tiles = f"; the network runs on tiles of {self.tile} pixels" if self.tile else ""
        return f"about {self.bytes / 1e9:.1f} GB of memory and {took or f'{minutes / 60:.1f} h'}{tiles}"


def fitted(denoiser: Denoiser, size: tuple[int, ...], calls: int, where: object) -> tuple[Denoiser, Forecast | None]:
    """The denoiser as it takes an image of `size` (border and all), and what `calls` of its network take.

    Its network runs on tiles where its activations would pass `NETWORK_MEMORY`; None for a small image, and for a
    denoiser without a network.  Raises `InputError` where the memory that is free does not suffice.
    """
    pixels = math.prod(size)
    if pixels < LARGE or not isinstance(denoiser, NetDenoiser):
        return denoiser, None
    each, seconds = _probe(denoiser)
    reach = denoiser.net.receptive_field
    if each * pixels > NETWORK_MEMORY and not isinstance(denoiser.net, Tiled) and reach is not None:
        side = int((NETWORK_MEMORY / each) ** (1 / len(size))) - 2 * reach
        denoiser = denoiser.tiled(max(64, side // 64 * 64))
    tile, seen = None, pixels
    if isinstance(denoiser.net, Tiled):
        tile, halo = denoiser.net.tile, 2 * (reach or 0)
        seen = min(pixels, math.prod(min(n, tile) + halo for n in size))
        seconds *= math.prod((min(n, tile) + halo) / min(n, tile) for n in size)
    cost = Forecast(int(seen * each + pixels * TABLES), seconds * pixels * calls, tile)
    free = free_memory() if denoiser.process.basis.device == "cpu" else None
    if free is not None and cost.bytes > free:
        found = f"{' x '.join(map(str, size))} pixels and {free / 1e9:.1f} GB of free memory"
        wanted = f"at least the {cost.bytes / 1e9:.1f} GB that it takes"
        smaller = tile is None or tile > 256
        hint = "Give {tile} to run the network on smaller tiles." if smaller else "Restore parts of it."
        raise InputError(where, found, wanted, hint, tile=256)
    return denoiser, cost


def _probe(denoiser: NetDenoiser) -> tuple[float, float]:
    """Bytes of activations and seconds a pixel of one network call, from a call on a small image."""
    net = denoiser.net.net if isinstance(denoiser.net, Tiled) else denoiser.net
    side = {1: 4096, 2: 128, 3: 32}[denoiser.process.ndim]
    side += -side % net.stride
    device = torch.device(denoiser.process.basis.device)
    dtype = next((p.dtype for p in net.parameters()), torch.float32)
    channels = channels_in(denoiser.process, denoiser.spectrum.channels or 1 if denoiser.spectrum else 1)
    x = torch.zeros(1, channels, *(side,) * denoiser.process.ndim, dtype=dtype, device=device)
    level = torch.zeros(1, denoiser.features, dtype=dtype, device=device)
    settings = {"device_type": device.type, "dtype": torch.bfloat16, "enabled": denoiser.precision == "bf16"}
    with torch.no_grad(), torch.autocast(**settings):  # type: ignore[arg-type]
        with _Live() as live:
            net(x, level)
        started = time.perf_counter()
        net(x, level)
    return live.peak / x[0, 0].numel(), (time.perf_counter() - started) / x[0, 0].numel()


class _Live(TorchFunctionMode):
    """Counts the bytes of tensors that are alive at once, as operations make them."""

    def __init__(self) -> None:
        super().__init__()
        self.peak, self._now, self._known = 0, 0, set[int]()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for found in out if isinstance(out, tuple | list) else (out,):
            if isinstance(found, torch.Tensor):
                self._count(found.untyped_storage())
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        name, size = storage._cdata, storage.nbytes()
        if name not in self._known:
            self._known.add(name)
            self._now += size
            self.peak = max(self.peak, self._now)
            weakref.finalize(storage, self._gone, name, size)

    def _gone(self, name: int, size: int) -> None:
        self._known.discard(name)
        self._now -= size
