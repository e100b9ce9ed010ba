"""Steps by the conditional q(x_s | x_t, x_0): DDIM, ancestral, and with x_0 drawn from its law."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from retrodict.processes.process import Process
from retrodict.samplers.plan import Plan, Row

__all__ = ["ancestral", "ddim", "matched"]


def ddim(process: Process, times: Tensor, spectrum: Tensor | None = None, *, eta: float = 0.0) -> Plan:
    """DDIM in the consistent convention (Song, Meng, Ermon 2020), NFE = N; eta = 1 is the ancestral sampler.

    w' = keep w + data D + eta sqrt(V) z with the weights of `Process.conditional`.  Out of the pinned end of a bridge
    the first step draws its noise at any eta.
    """
    if eta:
        process.require_admissible("ddim with eta > 0")
    pinned = process.pinned(times[:1])

    def row(i: int) -> Row:
        t, s = times[i : i + 1], times[i + 1 : i + 2]
        keep, data, std = process.conditional(t, s, eta)
        return Row(float(t), True, (keep,), (data,), (std,) if eta or (pinned and i == 0) else ())

    return Plan(process, times, row, len(times) - 1, len(times) - 1, "ddim", stochastic=eta > 0 or pinned)


def ancestral(process: Process, times: Tensor, spectrum: Tensor | None = None) -> Plan:
    """Ancestral sampling, q(x_s | x_t, x_0 = D): exact mean, too little variance at few steps, NFE = N."""
    return replace(ddim(process, times, eta=1.0), rule="ancestral")


def matched(process: Process, times: Tensor, spectrum: Tensor | None = None) -> Plan:
    """Ancestral steps with x_0 *drawn* from the denoiser's law N(D, Cov[x_0 | x_t]) instead of set to its mean.

    w' = keep w + data (D + e) + sqrt(V) z, so that mean and covariance of w' | w are those of the exact transition
    (law of total variance) at any number of steps.  With the Wiener law of a stored spectrum it integrates the
    Gaussian part of the reverse SDE exactly: keep w + data D is the exact drift with the non-Gaussian rest of the
    whitened score held constant over the step, and V + data^2 v the exact Gaussian noise.  NFE = N.
    """
    process.require_admissible("matched")
    quiet = process.noise_free(times[-1:])

    def row(i: int) -> Row:
        t, s = times[i : i + 1], times[i + 1 : i + 2]
        keep, data, std = process.conditional(t, s, 1.0)
        noise = () if quiet and i == len(times) - 2 else (std,)
        return Row(float(t), True, (keep,), (data,), noise, (data,))

    return Plan(process, times, row, len(times) - 1, len(times) - 1, "matched", stochastic=True, uses_spread=True)
