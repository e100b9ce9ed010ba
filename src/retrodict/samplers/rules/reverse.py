"""The reverse of the forward step: the predictor of score SDE."""

from __future__ import annotations

import torch
from torch import Tensor

from retrodict.processes.observation import Moments, ratio
from retrodict.processes.process import Process
from retrodict.samplers.plan import Plan, Row, denoise_row

__all__ = ["reverse_diffusion", "reverse_weights"]


def reverse_weights(m: Moments, gain: Tensor, variance: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weights (keep, data, noise) of the step that undoes w_t = gain w_s + sqrt(variance) z at a state with moments m.

    w' = (2 - gain) w + variance (h D - w)/s^2 + sqrt(variance) z.
    """
    pull = ratio(variance, m.s2)
    return 2 - gain - pull, pull * m.h, variance.clamp_min(0.0).sqrt()


def reverse_diffusion(process: Process, times: Tensor, spectrum: Tensor | None = None, *, final: bool = True) -> Plan:
    """Reverse-diffusion sampler (Song et al. 2021, appendix E), NFE = N, order 1.

    The forward transition w_t = gain w_s + sqrt(variance) z is run backwards with the score in the place of the noise.
    With `final` the step onto t = 0 returns D.  Where a coefficient is erased or noise-free the step is the exact
    conditional.
    """
    process.require_markov("reverse_diffusion")
    last = len(times) - 2

    def row(i: int) -> Row:
        t, s = times[i : i + 1], times[i + 1 : i + 2]
        if final and i == last and float(s) == 0:
            return denoise_row(float(t))
        m = process.moments(t)
        weights, exact = reverse_weights(m, *process.transition(s, t)), process.conditional(t, s)
        keep, data, noise = (torch.where((m.h == 0) | (m.s2 == 0), e, w) for e, w in zip(exact, weights, strict=True))
        return Row(float(t), True, (keep,), (data,), (noise,))

    return Plan(process, times, row, last + 1, last + 1, "reverse_diffusion", stochastic=True)
