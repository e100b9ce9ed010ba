"""Active subsampling: which measurement to take next, by the entropy of what an ensemble predicts of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from retrodict._check import InputError, choice
from retrodict.denoisers.denoiser import Denoiser
from retrodict.physics.measurement import Measurement
from retrodict.posterior.ensemble import Ensemble, sample_posterior

__all__ = ["ENTROPIES", "Acquired", "acquire", "ensemble_entropy"]


def _pairwise(squared: Tensor, sigma: float, scale: float) -> Tensor:
    """-1/P sum_i log 1/P sum_j exp(-d_ij/(scale sigma^2)) over (P, P, L)."""
    count = squared.shape[0]
    inside = torch.logsumexp(-squared / (scale * sigma**2), 1) - math.log(count)
    return -inside.mean(0)


def _variance(squared: Tensor, sigma: float) -> Tensor:
    return squared.mean((0, 1)) / 2


ENTROPIES: dict[str, Callable[[Tensor, float], Tensor]] = {
    "upper": lambda d, sigma: _pairwise(d, sigma, 2.0),
    "lower": lambda d, sigma: _pairwise(d, sigma, 8.0),
    "variance": _variance,
}
"""Scores of candidates from the squared distances `(P, P, L)` of the members' predictions."""


def ensemble_entropy(predicted: Tensor, sigma: float, kind: str = "upper") -> Tensor:
    """Score `(L,)` of L candidates from predictions `(P, L, ...)` of P members, with noise `sigma` per real component.

    "upper", "lower": bounds of the entropy of the mixture 1/P sum_i N(y_i, sigma^2) above that of the noise, in nats:
    -1/P sum_i log 1/P sum_j exp(-d_ij/(2 sigma^2)), and with 8 for 2 (Kolchinsky and Tracey, Entropy 19, 2017).
    "variance": the variance of the members.  The public code of active diffusion subsampling (Nolan et al. 2025, arXiv
    2406.14388) has a plus in the exponent, which is no entropy and prefers outliers.  Raises `InputError` for noise
    that is not positive.
    """
    choice("entropy", kind, ENTROPIES)
    if not (math.isfinite(sigma) and sigma > 0):
        raise InputError("sigma", sigma, "the standard deviation of the noise, above 0")
    if len(predicted) < 2:
        raise InputError("predicted", f"{len(predicted)} members", "at least 2")
    gaps = (predicted[:, None] - predicted[None]).abs().double() ** 2
    return ENTROPIES[kind](gaps.reshape(*gaps.shape[:3], -1).sum(-1), sigma)


class Acquired(NamedTuple):
    """Candidates in the order they were taken, and the ensemble given all of them."""

    order: list[int]
    ensemble: Ensemble


def acquire(
    denoiser: Denoiser,
    measure: Callable[[Sequence[int]], Measurement],
    predict: Callable[[Tensor], Tensor],
    candidates: Sequence[int],
    budget: int,
    sigma: float,
    *,
    first: Sequence[int] = (),
    entropy: str = "upper",
    samples: int = 16,
    seed: int = 0,
    **options: Any,
) -> Acquired:
    """Take `budget` of `candidates` one by one, each where the posterior given the others is the most uncertain.

    `measure(taken)` gives the measurement of those taken, `predict(x)` what every candidate would show of images
    `(P, C, *N)`, `(P, L, ...)` in the order of `candidates`.  `first` are taken before (none: the first one of
    `candidates`).  `options` are those of `sample_posterior`.  Raises `InputError` for a budget
    that there are not enough candidates for.
    """
    order = list(first) or [candidates[0]]
    if not len(order) <= budget <= len(candidates):
        raise InputError("budget", budget, f"{len(order)} to {len(candidates)} candidates")
    settings = {"samples": samples, "seed": seed, **options}
    while len(order) < budget:
        found = sample_posterior(denoiser, measure(order), **settings)
        score = ensemble_entropy(predict(found.samples[:, 0]), sigma, entropy)
        taken = torch.tensor([c in order for c in candidates], device=score.device)
        order.append(candidates[int(torch.where(taken, -torch.inf, score).argmax())])
    return Acquired(order, sample_posterior(denoiser, measure(order), **settings))
