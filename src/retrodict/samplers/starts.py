"""The start of a deterministic sampler as a parameter that all images share, and how much of a good one transfers.

Ma et al. 2024 ("optimal boundary conditions"): run one solver from K starts on n reference pairs, keep the start of the
smallest mean distance, use it for every new image.  The score of start k on image i is a_i + b_k + c_ki: only b_k
transfers to an image that was not looked at.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.denoisers.denoiser import Denoiser
from retrodict.samplers.loop import sample, start_state
from retrodict.samplers.plan import Plan

__all__ = ["StartChoice", "choose_start"]


class StartChoice(NamedTuple):
    """The chosen seed, and the scores `(K, n)` of every start on every reference image.

    share: var b / (var b + var c), the part of the variance between starts that is the same for all images (an unbiased
    estimate of either; may fall below 0 where there is none).  expected_gain: sqrt(2 log K) sd(b), what the best of K
    starts can be expected to gain on a new image, in the unit of the distance.
    """

    seed: int
    scores: Tensor
    share: float
    expected_gain: float


def squared(x: Tensor, truth: Tensor) -> Tensor:
    """Mean squared error `(n,)`."""
    return (x - truth).square().flatten(1).mean(1)


def choose_start(
    denoiser: Denoiser,
    plan: Plan,
    measured: Tensor,
    truth: Tensor,
    *,
    seeds: Sequence[int],
    distance: Callable[[Tensor, Tensor], Tensor] = squared,
) -> StartChoice:
    """The seed whose start, shared by all images, is nearest to the truth on average over reference pairs.

    measured, truth: `(n, C, *N)`, n >= 2 pairs; seeds: K >= 2 candidates, each the noise of every image alike (of the
    start, and of the first step out of a pinned end).  `distance` (x, truth) -> `(n,)`.  K n runs.  The seed is what
    to keep: `start_state` makes its noise on any size.  Not for uncertainties: all images and repeats share one draw.
    With the squared error the best start of Gaussian data is none, z = 0: the posterior mean, a blur.
    """
    process = denoiser.process
    if process.pairing.starts:
        raise InputError("choose_start", "a process that starts at the measurement", "one that starts from noise")
    if plan.uses_spread or (plan.stochastic and not process.pinned(plan.times[:1])):
        raise InputError("choose_start plan", f"the stochastic rule {plan.rule!r}", "a deterministic one", "Use ddim.")
    if len(set(seeds)) < 2 or len(set(seeds)) != len(seeds):
        raise InputError("choose_start seeds", list(seeds), "two different seeds or more")
    if measured.shape != truth.shape or len(truth) < 2:
        found = f"measured {tuple(measured.shape)} and true {tuple(truth.shape)} images"
        raise InputError("choose_start", found, "two pairs or more of one shape")
    scores = torch.stack([_scores(denoiser, plan, measured, truth, seed, distance) for seed in seeds])
    share, gain = _transfer(scores)
    return StartChoice(int(seeds[int(scores.mean(1).argmin())]), scores, share, gain)


def _scores(
    denoiser: Denoiser,
    plan: Plan,
    measured: Tensor,
    truth: Tensor,
    seed: int,
    distance: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    process, (mean, spectrum) = denoiser.process, denoiser.prior() or (0.0, None)
    alike = torch.full((len(measured),), seed, dtype=torch.int64, device="cpu")
    start = start_state(
        process,
        alike,
        tuple(measured.shape[1:]),
        measurement=measured,
        mean=mean,
        spectrum=spectrum,
        dtype=measured.dtype,
    )
    cond = process.pairing.cond(measured)
    return distance(sample(denoiser, plan, start, seeds=alike, cond=cond).x, truth).double().cpu()


def _transfer(scores: Tensor) -> tuple[float, float]:
    """Share of b in the variance between starts, and sqrt(2 log K) sd(b), from a table `(K, n)` without replicates."""
    count, images = scores.shape
    rows, columns = scores.mean(1, keepdim=True), scores.mean(0, keepdim=True)
    rest = float((scores - rows - columns + scores.mean()).square().sum() / ((count - 1) * (images - 1)))
    common = float(rows.var()) - rest / images
    share = common / (common + rest) if common + rest > 0 else 0.0
    return share, math.sqrt(2 * math.log(count) * max(common, 0.0))
