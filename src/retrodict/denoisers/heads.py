"""What published restoration networks say, as data predictions: conversions that need more than a name.

Those that a state and its condition image decide are rows of `retrodict.denoisers.predictions`.  Here are the others:
a label whose scale is the schedule's own, a resnoise of a coarse grid, and two heads that need not agree.
"""

from __future__ import annotations

from torch import Tensor

from retrodict._check import InputError
from retrodict.processes.observation import Moments, ratio
from retrodict.processes.process import Process

__all__ = ["data_from_heads", "data_from_label", "data_from_resnoise", "two_head_step"]


def data_from_label(out: Tensor, xt: Tensor, scale: float | Tensor) -> Tensor:
    """D = x_t - scale q for q = (x_t - x_0)/scale, `(B, C, *N)`: I2SB with scale = sqrt(S u) (Liu et al. 2023)."""
    return xt - scale * out


def data_from_resnoise(out: Tensor, w: Tensor, m: Moments, anchor: Tensor, weight: float | Tensor) -> Tensor:
    """D of a resnoise r = eps + weight (c - u_0), all in coefficients `(B, C, *K)` (Shi et al. 2024, eq. 11).

    `weight` is that of the grid of the training, (1 - sqrt(alpha_i)) s_i/beta_i, which tends to s/2 on fine grids (the
    row "resnoise" of `PREDICTIONS`) and is far from it on coarse ones.  Refused where h + s weight = 0.
    """
    s = m.s2.sqrt()
    below = m.h + s * weight
    if below.device.type != "meta" and bool((below == 0).any()):
        raise InputError("resnoise", "a coefficient with h + s weight = 0", "one that the prediction determines")
    return (w - s * out + s * weight * anchor) / below


def data_from_heads(residual: Tensor, noise: Tensor, w: Tensor, m: Moments, anchor: Tensor) -> Tensor:
    """D = x_t - k R - s eps of RDDM's two heads, in coefficients; w is the shifted state, x_t = w + k c.

    (Liu et al. 2024, SM-Res-N).  It is x_0 if both are right; D may contradict c - R, and then `two_head_step` and a
    rule with one denoiser part.  `residual` alone: prediction "residual"; `noise` alone: "eps".
    """
    return w + m.k * anchor - m.k * residual - m.s2.sqrt() * noise


def two_head_step(
    process: Process,
    residual: Tensor,
    noise: Tensor,
    w: Tensor,
    t: Tensor,
    s: Tensor,
    anchor: Tensor,
    z: Tensor | None = None,
    eta: float = 0.0,
) -> Tensor:
    """RDDM's own step with two heads (Liu et al. 2024, eq. 15): shifted coefficients at s < t, times `(1,)`.

    x_s = D + k_s R + sqrt(s_s^2 - v) eps + sqrt(v) z, v = eta s_s^2 (1 - s_s^2/s_t^2), D by `data_from_heads`; their
    eta is linear in the variance, the square of that of `ddim`.  With R = c - D it is that step.  eta > 0 needs `z`.
    """
    if not 0 <= eta <= 1 or (eta > 0 and z is None):
        raise InputError("two_head_step eta", eta, "a number from 0 to 1, with white noise z above 0")
    mt, ms = process.moments(t), process.moments(s)
    data = data_from_heads(residual, noise, w, mt, anchor)
    drawn = eta * ms.s2 * (1 - ratio(ms.s2, mt.s2))
    x = data + ms.k * residual + (ms.s2 - drawn).sqrt() * noise
    if z is not None:
        x = x + drawn.sqrt() * z
    return x - ms.k * anchor
