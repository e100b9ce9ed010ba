"""The image at a time of the chain between the measurement and its restoration, and whether it is what it should be.

The state x_t of a chain that samples p(x_0 | y) is an image as an instrument with the MTF h(t) and the noise power
s^2(t) of the process would have taken it: less noise and blur than was measured, and less that is only likely than in
a sample of x_0 (Tivnan et al., IEEE TMI 44, 2025, section II).  The promise is a law, so it can be measured: with the
end x_0 of the same chain, x_t - h(t) x_0 has the power s^2(t), and <x_t, x_0> / <x_0, x_0> is h(t).
"""

from __future__ import annotations

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.bases import Fourier
from retrodict.processes.process import Process
from retrodict.samplers.moments import RunningMoments

__all__ = ["BANDS", "StopMoments", "require_stop"]

BANDS = 24
"""The most bands of |f| of equal width up to the Nyquist frequency; no more than half the pixels of a side."""


def require_stop(process: Process) -> None:
    """Raise `InputError` for a process whose states are not images between the measurement and its restoration."""
    if process.anchored or not isinstance(process.basis, Fourier):
        raise InputError("stop", "a process without an MTF and NPS", "one in the Fourier basis, without an anchor")
    if not process.pairing.starts:
        raise InputError("stop", "a process that starts at random", "one that starts at the measurement")


class StopMoments:
    """States at time `stop` of the members of one image, and the powers that tell their MTF and NPS."""

    def __init__(self, process: Process, stop: float) -> None:
        m = process.moments(torch.full((1,), stop, dtype=torch.float64, device="cpu"))
        self.process, self.h, self.s2 = process, m.h, m.s2
        self.moments, self.first = RunningMoments(), None
        self.bands, highest = max(1, min(BANDS, min(process.basis.size) // 2)), 0.5 / max(process.basis.spacing)
        self.edges = torch.linspace(0, highest, self.bands + 1, dtype=torch.float64, device="cpu")
        self.sums = torch.zeros(3, self.bands, dtype=torch.float64, device="cpu")
        self.count = 0

    def add(self, states: Tensor, ends: Tensor, finished: Tensor) -> None:
        """States and ends `(k, C, *N)` on the grid of the process, and the states as they are to be shown."""
        basis = self.process.basis
        if self.first is None:
            self.first = finished[0]
        for image in finished:
            self.moments.add(image)
        u, x = (basis.forward(v.to(torch.complex128 if v.is_complex() else torch.float64)) for v in (states, ends))
        rest = u - self.h.to(u.device) * x
        parts = [(u * x.conj()).real, (x * x.conj()).real, (rest * rest.conj()).real]
        self.sums += torch.stack([self._banded(p.sum((0, 1))) for p in parts])
        self.count += len(states) * states.shape[1]

    def _banded(self, power: Tensor) -> Tensor:
        basis = self.process.basis.to("cpu")
        place = torch.bucketize(basis.radius(), self.edges, right=True) - 1
        inside = (place >= 0) & (place < self.bands)
        values = (power.cpu().expand(basis.shape) * basis.multiplicity())[inside]
        return torch.zeros(self.bands, dtype=torch.float64, device="cpu").index_add_(0, place[inside], values)

    def part(self) -> dict[str, Tensor]:
        """Mean and deviation of the states, the first of them, and `curves` `(5, bands)`: frequency (cycles/mm), MTF
        promised and measured, noise variance per coefficient promised and measured (in model units squared).
        """
        assert self.first is not None
        like = torch.complex64 if self.first.is_complex() else torch.float32
        part = {"image": self.first.to(like), "mean": self.moments.mean.to(like)}
        if self.moments.count > 1:
            part["sd"] = self.moments.variance.sqrt().to(torch.float32)
        one = torch.ones_like(self.process.basis.to("cpu").radius())
        weight, h, s2 = self._banded(one), self.h[0].mean(0).cpu(), self.s2[0].mean(0).cpu()
        weight = weight.clamp_min(1e-300)
        middle = 0.5 * (self.edges[1:] + self.edges[:-1])
        mtf = self.sums[0] / self.sums[1].clamp_min(1e-300)
        halves = 2 if self.process.basis.complex else 1
        noise = self.sums[2] / (weight * self.count * halves)
        promised = [self._banded(h.expand(one.shape)) / weight, self._banded(s2.expand(one.shape)) / weight]
        part["curves"] = torch.stack([middle, promised[0], mtf, promised[1], noise])
        return part
