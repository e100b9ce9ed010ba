"""Factors on the predicted spread, measured on held-out data."""

from __future__ import annotations

import torch
from torch import Tensor

from retrodict._random import key
from retrodict.denoisers.network import NetDenoiser, SpreadScale
from retrodict.denoisers.predictions import rate_of
from retrodict.training.losses import Batch, band_errors, example, simulate

__all__ = ["calibrate_spread"]


def calibrate_spread(
    denoiser: NetDenoiser, batch: Batch, *, levels: int = 8, items: int = 64, seed: int = 0
) -> SpreadScale | None:
    """Factors on the predicted error variances, measured on held-out data: mean e_b^2 / mean p_b per level and band.

    `batch(keys)` gives clean images `(B, C, *N)` in model units, or an `Example`, that were not in training; the
    result is None for a network that predicts no variances.  A network knows its error on the images it was trained
    on; on others it is larger.
    """
    if not denoiser.bands:
        return None
    nodes, factors = [], []
    for number, time in enumerate(torch.logspace(-1.7, 0, levels, dtype=torch.float64, device="cpu")):
        keys = [key(seed, "calibration", number * items + i) for i in range(items)]
        seeds, (x0, y, _) = torch.tensor(keys, device="cpu"), example(batch(keys), denoiser)
        t = time.expand(items)
        xt, cond = simulate(denoiser.process, x0, t, seeds, y)
        with torch.no_grad():
            terms = denoiser.training_terms(xt, t, cond)
            e2, p, filled = band_errors(denoiser, x0 - denoiser.answer(terms, rate_of(denoiser.process, t)), terms)
        ratio_b = _band_mean(e2) / _band_mean(p)
        factors.append(tuple(float(r) if b in filled else 1.0 for b, r in enumerate(ratio_b)))
        nodes.append(float(denoiser.noise_level(terms)[0]))
    order = sorted(range(levels), key=lambda i: nodes[i])
    return SpreadScale(tuple(nodes[i] for i in order), tuple(factors[i] for i in order))


def _band_mean(x: Tensor) -> Tensor:
    """Mean over all but the bands of x `(B, bands, C, *N)`."""
    return x.double().transpose(0, 1).flatten(1).mean(1)
