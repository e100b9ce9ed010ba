"""What a process does to an image: gain and noise over time and frequency, and five states of a shipped slice."""

from __future__ import annotations

import math
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from retrodict.bases import Fourier
from retrodict.data import read
from retrodict.processes.observation import noise_like
from retrodict.processes.process import Process
from retrodict.report.process import Profile, process_figure
from retrodict.tasks.processes import described, example, options_of

__all__ = ["picture"]

SIDE, TIMES, BINS = 96, 101, 40

STATES = (0.0, 0.25, 0.5, 0.75, 1.0)


def picture(name: str, options: Mapping[str, Any] | None = None) -> bytes:
    """PNG of process `name` with options: h, s and s/h over time (and frequency), and the states at five times.

    The image is the middle of a shipped chest slice, of mean 0 and standard deviation 1; a condition image is the same
    under a blur of 4 mm.  A process in units of the instrument gets the slice's standard deviation as `unit_scale`.
    """
    x, spacing, sd = _slice()
    known = options_of(name)
    given = {**({"unit_scale": sd} if "unit_scale" in known else {}), **(options or {})}
    process = example(name, given, SIDE, spacing)
    if x.is_complex() != process.basis.complex:
        x = x.to(torch.complex128)
    c = _blurred(x, spacing) if process.anchored else None
    t = torch.tensor(STATES, dtype=torch.float64, device="cpu")
    z = noise_like(x, torch.zeros(1, dtype=torch.int64, device="cpu"), "picture", 0)
    states = torch.cat([process.corrupt(x, time[None], z, c) for time in t])
    entry = described(name)
    return process_figure(name, entry.what, _profile(process), [s[0].real.numpy() for s in states], STATES)


def _slice() -> tuple[Tensor, float, float]:
    """The slice `(1, 1, n, n)`, its spacing in mm, and its standard deviation in HU."""
    image = read(Path(str(resources.files("retrodict") / "assets")) / "chest-1.dcm")
    values = image.values.double()
    top, left = ((n - 2 * SIDE) // 2 for n in values.shape[-2:])
    values = values[0, top : top + 2 * SIDE, left : left + 2 * SIDE].clamp(-1000, 400)
    coarse = values.reshape(SIDE, 2, SIDE, 2).mean((1, 3))
    sd = float(coarse.std())
    return ((coarse - coarse.mean()) / sd)[None, None], 2 * float(image.spacing[-1]), sd


def _blurred(x: Tensor, spacing: float, width: float = 4.0) -> Tensor:
    basis = Fourier((SIDE, SIDE), (spacing,) * 2, complex=x.is_complex())
    gain = torch.exp(-2 * math.pi**2 * width**2 * basis.radius() ** 2)
    return basis.inverse(gain * basis.forward(x))


def _profile(process: Process) -> Profile:
    """Tables over time, and over |f| where they differ between coefficients; at t = 0 and 1 as they are there."""
    t = torch.linspace(0, 1, TIMES, dtype=torch.float64, device="cpu")
    h, k, s2 = process.moments(t)
    gain, pull, noise = (x.reshape(TIMES, -1) for x in (h, k, s2.sqrt()))
    if gain.shape[1] == noise.shape[1] == 1:
        return Profile(t.numpy(), None, gain.numpy(), pull.numpy(), noise.numpy())
    shape = process.basis.shape
    radius = process.basis.radius().flatten()
    edges = torch.linspace(0, float(radius.max()) + 1e-9, BINS + 1, dtype=torch.float64, device="cpu")
    place = (torch.bucketize(radius, edges, right=True) - 1).clamp(0, BINS - 1)
    binned = [_binned(x.expand(TIMES, *shape).reshape(TIMES, -1), place) for x in _full((h, k, s2.sqrt()))]
    middle = 0.5 * (edges[1:] + edges[:-1])
    return Profile(t.numpy(), middle.numpy(), *(x.numpy() for x in binned))


def _full(tables: tuple[Tensor, ...]) -> list[Tensor]:
    """Tables `(T, C, *K)` without the axis of channels: that of the first."""
    return [x[:, 0] for x in tables]


def _binned(table: Tensor, place: Tensor) -> Tensor:
    """Mean over the coefficients of every bin; a bin without one takes the nearest that has some."""
    total = torch.zeros(len(table), BINS, dtype=torch.float64, device="cpu").index_add_(1, place, table)
    count = torch.zeros(BINS, dtype=torch.float64, device="cpu").index_add_(0, place, torch.ones_like(place).double())
    known = count.nonzero().flatten()
    nearest = (torch.arange(BINS, device="cpu")[:, None] - known).abs().argmin(1)
    return (total[:, known] / count[known])[:, nearest]
