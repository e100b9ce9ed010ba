"""Factors on the predicted spread, measured on held-out data."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from retrodict._random import key
from retrodict.denoisers.denoiser import SpreadScale
from retrodict.denoisers.network import NetDenoiser
from retrodict.training.losses import (
    _band_errors,
    simulate,
)

__all__ = ["calibrate_spread"]


def calibrate_spread(
    denoiser: NetDenoiser, batch: Callable[[list[int]], Tensor], *, levels: int = 8, items: int = 64, seed: int = 0
) -> SpreadScale | None:
    """Factors on the predicted error variances, measured on held-out data: mean e_b^2 / mean p_b per level and band.

    `batch(keys)` gives clean images `(B, 1, *N)` in model units that were not in training; None for a network that
    predicts no variances.  A network knows its error on the images it was trained on; on others it is larger.
    """
    if not denoiser.bands:
        return None
    nodes, factors = [], []
    for number, time in enumerate(torch.logspace(-1.7, 0, levels, dtype=torch.float64)):
        keys = [key(seed, "calibration", number * items + i) for i in range(items)]
        seeds, x0 = torch.tensor(keys), batch(keys)
        t = time.expand(items)
        xt, cond = simulate(denoiser.process, x0, t, seeds)
        with torch.no_grad():
            out, c_out, linear, skip = denoiser.training_terms(xt, t, cond)
            error = x0 - skip - c_out.to(x0) * out[:, :1]
            e2, p, filled = _band_errors(denoiser, error, linear.v, out[:, 1:])
        ratio_b = e2.double().transpose(0, 1).flatten(1).mean(1) / p.double().transpose(0, 1).flatten(1).mean(1)
        factors.append(tuple(float(r) if b in filled else 1.0 for b, r in enumerate(ratio_b)))
        nodes.append(float(denoiser.level(c_out)[0]))
    order = sorted(range(levels), key=lambda i: nodes[i])
    return SpreadScale(tuple(nodes[i] for i in order), tuple(factors[i] for i in order))
