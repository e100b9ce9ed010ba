"""Times within a step, for rules that call the denoiser there."""

from __future__ import annotations

import torch
from torch import Tensor

from retrodict.processes.process import Process
from retrodict.samplers.plan import mean_log_clock

__all__ = ["stand_in", "times_at", "times_within"]


def stand_in(process: Process) -> Process:
    """The process on a small grid on the CPU, where facts about it are looked up."""
    return process._small.to("cpu")


def times_within(process: Process, times: Tensor, part: float) -> Tensor:
    """For every step of the grid `(N + 1,)` the time `(N,)` that is a part of it on, in the mean log clock.

    Where the step ends at a noise-free state, which has no log clock, it is that part of the step in t.
    """
    small = stand_in(process)
    values = mean_log_clock(small, times)
    wanted = values[:-1] * (1 - part) + values[1:] * part
    found = _bisected(small, times[1:], times[:-1], wanted)
    plain = times[:-1] * (1 - part) + times[1:] * part
    inside = (found > times[1:]) & (found < times[:-1])
    inside[-1] &= not process.noise_free(times[-1:])
    return torch.where(inside, found, plain)


def times_at(process: Process, log_clock: Tensor) -> Tensor:
    """Times `(n,)` of at most 1 at which the mean log clock takes the values `(n,)`."""
    zero = torch.zeros_like(log_clock)
    return _bisected(stand_in(process), zero, zero + 1, log_clock)


def _bisected(process: Process, low: Tensor, high: Tensor, wanted: Tensor) -> Tensor:
    for _ in range(54):
        middle = 0.5 * (low + high)
        below = mean_log_clock(process, middle) < wanted
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return 0.5 * (low + high)
