"""Counter-based noise: a draw is a function of (seed, stream, step) alone.

No call touches a global generator, so a result does not depend on batch size, order, chunking or on what was drawn
before it.  Noise is generated on the CPU and moved, so that it does not depend on the device either.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["key", "member_seeds", "uniform", "white"]

_MASK = (1 << 64) - 1


def _mix(state: int) -> int:
    """One round of the splitmix64 finalizer (Steele, Lea, Flood 2014): a bijection that scatters nearby integers."""
    state = (state + 0x9E3779B97F4A7C15) & _MASK
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
    return state ^ (state >> 31)


def key(seed: int, stream: str, step: int = 0) -> int:
    """63-bit key of one draw."""
    return _mix(_mix(_mix(seed & _MASK) ^ zlib.crc32(stream.encode())) ^ (step & _MASK)) >> 1


def _generator(seed: int, stream: str, step: int) -> torch.Generator:
    return torch.Generator().manual_seed(key(seed, stream, step))


def white(seeds: Tensor | Sequence[int], stream: str, step: int, shape: Sequence[int]) -> Tensor:
    """Unit white noise `(B, *shape)` float32, one independent stream for each of the B seeds."""
    settings = {"dtype": torch.float32, "device": "cpu"}  # by name: the caller's defaults change nothing
    items = [torch.randn(*shape, generator=_generator(int(seed), stream, step), **settings) for seed in seeds]
    return torch.stack(items)


def uniform(seeds: Tensor | Sequence[int], stream: str, step: int) -> Tensor:
    """One float64 number in [0, 1) per seed, `(B,)`."""
    return torch.tensor([key(int(seed), stream, step) / 2.0**63 for seed in seeds], dtype=torch.float64, device="cpu")


def member_seeds(seed: int, item: int, members: int) -> Tensor:
    """Seeds `(members,)` of the ensemble of one item; member j is the same whatever the number of members."""
    return torch.tensor([key(seed, f"item-{item}", j) for j in range(members)], dtype=torch.int64, device="cpu")
