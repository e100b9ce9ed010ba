"""Counter-based noise: a draw is a function of (seed, stream, step) alone.

No call touches a global generator, so a result does not depend on batch size, order, chunking or on what was drawn
before it.  Noise is generated on the CPU and moved, so that it does not depend on the device either.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
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


def _keys(seeds: Tensor | Sequence[int], stream: str, step: int) -> np.ndarray:
    """`key` of many seeds at once, `(B,)` uint64."""
    name, number = np.uint64(zlib.crc32(stream.encode())), np.uint64(step & _MASK)
    if isinstance(seeds, Tensor) and seeds.dtype == torch.int64:
        state = seeds.cpu().numpy().astype(np.uint64)  # a negative number as the mask of `key` has it
    else:
        state = np.array([int(seed) & _MASK for seed in seeds], dtype=np.uint64)
    return _mixed(_mixed(_mixed(state) ^ name) ^ number) >> np.uint64(1)


def _mixed(state: np.ndarray) -> np.ndarray:
    """`_mix` of many states; uint64 wraps as the mask does."""
    state = state + np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def _generator(seed: int, stream: str, step: int) -> torch.Generator:
    return torch.Generator().manual_seed(key(seed, stream, step))


def white(seeds: Tensor | Sequence[int], stream: str, step: int, shape: Sequence[int]) -> Tensor:
    """Unit white noise `(B, *shape)` float32, one independent stream for each of the B seeds."""
    settings = {"dtype": torch.float32, "device": "cpu"}  # by name: the caller's defaults change nothing
    items = [torch.randn(*shape, generator=_generator(int(seed), stream, step), **settings) for seed in seeds]
    return torch.stack(items)


def uniform(seeds: Tensor | Sequence[int], stream: str, step: int) -> Tensor:
    """One float64 number in [0, 1) per seed, `(B,)`."""
    return torch.from_numpy(_keys(seeds, stream, step).astype(np.float64) / 2.0**63)


def member_seeds(seed: int, item: int, members: int) -> Tensor:
    """Seeds `(members,)` of the ensemble of one item; member j is the same whatever the number of members."""
    return torch.tensor([key(seed, f"item-{item}", j) for j in range(members)], dtype=torch.int64, device="cpu")
