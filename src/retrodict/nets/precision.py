"""Which precision a network runs faster in on this machine: asked of the backend, or timed once a process."""

from __future__ import annotations

import time
from functools import cache

import torch

from retrodict._check import choice

__all__ = ["PRECISIONS", "precision_for"]

PRECISIONS = ("auto", "float32", "bf16")
"""Names of precisions; "auto" is the faster one of the machine."""


def precision_for(name: str, device: str = "cpu") -> str:
    """ "float32" or "bf16" for a name in `PRECISIONS` on a device.

    A processor without bfloat16 units computes in it many times slower than in float32, so "auto" takes bfloat16 only
    where the processor (or the GPU) says that it has them.
    """
    choice("precision", name, PRECISIONS)
    if name != "auto":
        return name
    return "bf16" if _has_bf16(torch.device(device).type) else "float32"


@cache
def _has_bf16(device: str) -> bool:
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device != "cpu":
        return False
    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError):  # another build of torch: nobody to ask
        return _seconds(torch.bfloat16) < _seconds(torch.float32)


def _seconds(dtype: torch.dtype) -> float:
    """Shortest of three runs of one small convolution."""
    x, w = torch.ones(1, 32, 64, 64, dtype=dtype, device="cpu"), torch.ones(32, 32, 3, 3, dtype=dtype, device="cpu")
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        torch.nn.functional.conv2d(x, w, padding=1)
        best = min(best, time.perf_counter() - start)
    return best
