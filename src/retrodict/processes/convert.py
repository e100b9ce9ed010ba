"""From one scalar convention to another by equal log-SNR.

E[x_0 | x_t] of a scalar process depends on the state only through x_t / h and the clock s/h.  So a state of one process
is a state of any other at the time of equal clock, times h'/h; VP, VE, EDM and rectified flow are one process in four
scales and speeds (spec-samplers 1; Karras et al. 2022, appendix C).
"""

from __future__ import annotations

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.processes.observation import lift, ratio
from retrodict.processes.process import Process

__all__ = ["convert_state", "convert_time", "log_snr", "require_scalar", "time_at"]


def _pair(process: Process, t: Tensor) -> tuple[Tensor, Tensor]:
    """H and s `(B,)` of a scalar process at t `(B,)`."""
    m = process.moments(t)
    if m.h.numel() != len(t) or m.s2.numel() != len(t):
        name = "one" if process.recipe is None else repr(process.recipe.name)
        raise InputError(
            "process",
            f"{name} whose clock differs between coefficients",
            "a scalar process: one gain and one noise for all",
            "A denoiser that is told the clock (level 'clock') goes to any process by `denoiser.at(process)`.",
        )
    return m.h.reshape(-1), m.s2.sqrt().reshape(-1)


def require_scalar(process: Process) -> None:
    """Raise where a process is not the same at every coefficient, or is pulled to a condition image."""
    _pair(process, torch.tensor([0.5], dtype=torch.float64, device="cpu"))
    if process.anchored:
        raise InputError("process", "one that is pulled to a condition image", "a scalar process with k = 0")


def log_snr(process: Process, t: Tensor) -> Tensor:
    """log(h/s) `(B,)` at times `(B,)`: infinite where s = 0, minus infinite where h = 0."""
    h, s = _pair(process, t)
    return h.log() - s.log()


def time_at(process: Process, level: Tensor) -> Tensor:
    """Times `(B,)` in [0, 1] at which a scalar process has log(h/s) = level `(B,)`, by bisection to round-off.

    Raises `InputError` for a level that the process does not reach.
    """
    level = level.double()
    ends = log_snr(process, torch.tensor([0.0, 1.0], dtype=torch.float64, device="cpu")).to(level.device)
    beyond = (level > ends[0] + 1e-12) | (level < ends[1] - 1e-12)
    if bool(beyond.any()):
        worst = float(level[beyond][0])
        raise InputError(
            "log-SNR",
            f"{worst:.4g}",
            f"one between {float(ends[1]):.4g} and {float(ends[0]):.4g}, which the process reaches",
            "Choose a process with a larger range, such as another sigma_min or sigma_max.",
        )
    low, high = torch.zeros_like(level), torch.ones_like(level)
    for _ in range(64):
        middle = 0.5 * (low + high)
        late = log_snr(process, middle).to(level.device) < level
        low, high = torch.where(late, low, middle), torch.where(late, middle, high)
    found = 0.5 * (low + high)
    return torch.where(level >= ends[0], 0.0, torch.where(level <= ends[1], 1.0, found))


def convert_time(t: Tensor, source: Process, target: Process) -> Tensor:
    """Times `(B,)` of `target` at which it is as noisy as `source` at t `(B,)`."""
    return time_at(target, log_snr(source, t))


def convert_state(x: Tensor, t: Tensor, source: Process, target: Process) -> tuple[Tensor, Tensor]:
    """A state x `(B, C, *N)` of `source` at t `(B,)` as a state of `target`, and its time there.

    x' = x h'/h at the time of equal log(h/s); x s'/s where nothing of the image is left in either.  Exact for scalar
    processes without a pull; others are refused.
    """
    later = convert_time(t, source, target)
    (h, s), (h1, s1) = _pair(source, t), _pair(target, later)
    scale = torch.where(h == 0, ratio(s1, s), ratio(h1, h))
    return x * lift(scale, x.ndim - 2).to(x.real), later
