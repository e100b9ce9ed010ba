"""How long the way from image to terminal state is: in closed form, on Gaussian data."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import torch
from torch import Tensor

from retrodict.processes.observation import ratio
from retrodict.processes.process import Process

__all__ = ["Paths", "path_lengths"]


class Paths(NamedTuple):
    """Lengths of every step between the given times `(steps,)`, float64; sums over steps are lengths of the path.

    fisher: of the law N(0, M), M = h^2 L + s^2, in the Fisher metric of one image, sqrt(sum_k w_k (d log M_k)^2 / 2).
    transport: of the law in the image metric (Wasserstein), rms per pixel, sqrt(mean_k (d sqrt M_k)^2): what the
    probability flow moves a pixel.  update: rms change of a pixel from x_t to x_s by the reverse chain,
    E|x_s - x_t|^2 = M_s + M_t - 2 Cov(x_s, x_t).
    `fisher_shortest` and `transport_shortest`: the distances of the two ends in the same metrics.
    """

    fisher: Tensor
    transport: Tensor
    update: Tensor
    fisher_shortest: float
    transport_shortest: float


def path_lengths(process: Process, spectrum: Tensor, times: Tensor) -> Paths:
    """Lengths of the path of Gaussian data with variance `spectrum` `(*K)` between `times` `(steps + 1,)`.

    Each step is measured along the geodesic between its ends, so that sums converge to the lengths of the path from
    below as steps are added; `update` of the reverse chain does not converge: white noise has no length.  The pull to a
    condition image and the mean of the data are left out.  Noise is remembered as the process says (`memory`).
    """
    weight = process.basis.multiplicity()
    total = weight.sum()

    def rms(squares: Tensor) -> Tensor:
        return ((weight * squares).sum() / total).sqrt()

    def law(t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        m = process.moments(t[None])
        s2 = m.s2.expand(1, 1, *process.basis.shape)[0, 0]
        h, gain = m.h[0, 0], process.memory_gain(t[None])[0, 0]
        return h, s2, gain, h**2 * spectrum + s2

    fisher, transport, update = [], [], []
    states = [law(t) for t in times.flip(0)]
    for (h, s2, gain, power), (h_next, _, gain_next, power_next) in itertools.pairwise(states):
        fisher.append((total / 2).sqrt() * rms((power_next / power).log() ** 2))
        transport.append(rms((power_next.sqrt() - power.sqrt()) ** 2))
        together = h * h_next * spectrum + ratio(gain_next, gain) * s2
        update.append(rms((power + power_next - 2 * together).clamp_min(0.0)))
    first, last = states[0][3], states[-1][3]
    shortest = float((total / 2).sqrt() * rms((last / first).log() ** 2))
    lengths = [torch.stack(part).flip(0).cpu() for part in (fisher, transport, update)]
    straight = float(rms((last.sqrt() - first.sqrt()) ** 2))
    return Paths(lengths[0], lengths[1], lengths[2], shortest, straight)
