"""Shared input checks: everything the metrics touch becomes finite float64 of one shape."""

from __future__ import annotations

import torch
from torch import Tensor

from retrodict._check import InputError


def as_tensor(values: object) -> Tensor:
    """A tensor as it is, an array on the CPU; `torch.as_tensor` moves either to the default device of the caller."""
    return values if isinstance(values, Tensor) else torch.as_tensor(values, device="cpu")


def double(where: str, values: Tensor) -> Tensor:
    """Return `values` as float64; refuse empty or non-finite values, which would make every number NaN in silence."""
    raw = as_tensor(values).detach()
    # Apple's GPU has no float64; the sums then run on the CPU rather than in float32.
    out = (raw.cpu() if raw.device.type == "mps" else raw).to(torch.float64)
    if out.numel() == 0:
        raise InputError(where, f"an empty array of shape {tuple(out.shape)}", "at least one value")
    if not bool(torch.isfinite(out).all()):
        bad = int((~torch.isfinite(out)).sum())
        raise InputError(where, f"{bad} non-finite values", "finite values", "Mask or crop them first.")
    return out


def same_shape(first: str, a: Tensor, second: str, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return both as float64; refuse unlike shapes, because broadcasting would average the wrong pairs."""
    x, y = double(first, a), double(second, b)
    if x.shape != y.shape:
        raise InputError(second, f"shape {tuple(y.shape)}", f"the shape of {first}, {tuple(x.shape)}")
    return x, y.to(x.device)
