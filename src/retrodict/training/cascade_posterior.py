"""The objective of a posterior that is drawn scale by scale: its mean, its local variance, one scale of its draws."""

from __future__ import annotations

import torch
from torch import Tensor

from retrodict._random import uniform
from retrodict.denoisers.cascade import View
from retrodict.denoisers.cascade_posterior import CascadePosterior, local_deviations, rates
from retrodict.nets import WaveletCascade
from retrodict.processes.observation import noise_like
from retrodict.training.losses import Asked, Example, Losses, ProcessLaw, asked, losses_of

__all__ = ["cascade_posterior_loss"]

LEAST = 0.02
"""Least time of a window that is trained on: s = 0.06."""

START = 0.25
"""Part of the items that are shown where a scale starts: nothing but noise."""


def cascade_posterior_loss(
    denoiser: CascadePosterior,
    batch: Tensor | Example,
    seeds: Tensor,
    weight: str = "unit",
    spread_weight: float = 0.1,
    *,
    law: ProcessLaw | None = None,
) -> Losses:
    """`denoising_loss` of the mean and its variance, and the same of one scale of the error given the coarser ones.

    Of the error r = x_0 - D, which sends no gradient to the mean, the bands y_0 of a scale over their local deviation
    are shown as y = h y_0 + s z beside the clean coarse image of r: mean (N - (y_0 - h y)/s)^2, and `spread_weight`
    times the Gaussian negative log-likelihood of the detached error.  The first seed chooses the scale, so that a batch
    is one pass of one network.  A mean that is not trained (`WaveletCascade.fixed`) has no loss.
    """
    assert isinstance(denoiser.net, WaveletCascade)
    if denoiser.net.fixed:
        with torch.no_grad():
            found = asked(denoiser, batch, seeds, law=law)
        squares, nll = _of_scale(found, seeds)
        return Losses(squares + spread_weight * nll, squares, nll)
    found = asked(denoiser, batch, seeds, law=law)
    mean = losses_of(found.denoiser, found.x0, found.t, found.terms, weight, spread_weight)
    squares, nll = _of_scale(found, seeds)
    return Losses(mean.total + squares + spread_weight * nll, mean.error, mean.spread + nll)


def _of_scale(found: Asked, seeds: Tensor) -> tuple[Tensor, Tensor]:
    """Squared error and negative log-likelihood `(B,)` of one scale."""
    denoiser, x0, _, terms = found
    assert isinstance(denoiser, CascadePosterior)
    assert terms.log_ratio is not None
    mean, views = denoiser.answer(terms).detach(), denoiser.views(terms.linear.v)
    local = local_deviations(terms.log_ratio.detach().clamp(-14.0, 5.0), views.basis.depth)
    scale = int(uniform(seeds[:1], "scale", 0) * (views.basis.depth + 1))
    start = uniform(seeds, "scale-start", 0) < START
    h, s2 = rates(torch.where(start, 1.0, LEAST + (1 - LEAST) * uniform(seeds, "scale-time", 0)))
    h, s2 = (x.to(x0.device) for x in (torch.where(start, 0.0, h), torch.where(start, 1.0, s2)))
    u = views.basis.forward(x0 - mean)
    clean = views.unit(u, scale) / local[scale]
    z = noise_like(clean, seeds, "scale-state", 0)
    gain, root = (x.reshape(-1, *[1] * (clean.ndim - 1)).to(clean) for x in (h, s2.sqrt()))
    view = View(scale, gain * clean + root * z, views.coarse(u, scale), h, s2)
    out, log_ratio = denoiser.at_scale(denoiser.guide(terms, mean, local), view, denoiser.told(terms.linear.v))
    squares = (out - (root * clean - gain * z)).square()  # (y_0 - h y)/s with 1 - h^2 = s^2
    nll = 0.5 * (log_ratio + squares.detach() * (-log_ratio).exp())
    return squares.flatten(1).mean(1), nll.flatten(1).mean(1)
