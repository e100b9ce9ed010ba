"""Fine-tuning of a chain of few steps by the distance of its images from real ones, not by those of a teacher."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.denoisers.network import NetDenoiser
from retrodict.processes.observation import noise_like, ratio
from retrodict.training.distill import flow_step
from retrodict.training.losses import Losses, example

__all__ = ["mmd_loss", "mmd_squared", "whitened_pixels"]


def mmd_squared(found: Tensor, real: Tensor) -> Tensor:
    """Unbiased squared maximum mean discrepancy of features `(m, d)` and `(n, d)`, kernel (<f, g>/d + 1)^3.

    Sums over pairs of one set leave out a vector with itself, so it may be negative.  For N(0, a I) and N(0, b I) its
    expectation is 3 (a - b)^2 / d (Binkowski et al. 2018; Aiello, Valsesia and Magli 2023, eq. 4).
    """
    if len(found) < 2 or len(real) < 2:
        raise InputError("batch", min(len(found), len(real)), "at least 2 images: a distance of laws needs several")

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / a.shape[1] + 1) ** 3

    own = [(k.sum() - k.diagonal().sum()) / (len(x) * (len(x) - 1))
           for x in (found, real) for k in (kernel(x, x),)]  # fmt: skip
    return own[0] + own[1] - 2 * kernel(found, real).mean()


def whitened_pixels(denoiser: NetDenoiser, images: Tensor) -> Tensor:
    """Features `(B, d)` float64: pixels with every coefficient over its deviation in the data, mean 0.

    No network of photographs decides what matters, and every frequency counts alike.
    """
    basis, mean = denoiser.process.basis, (denoiser.prior() or (torch.zeros((), device="cpu"),))[0]
    power = denoiser.data_power
    u = (basis.forward(images.double()) - mean) * ratio(torch.ones_like(power), power.sqrt())
    white = basis.inverse(u)
    return torch.cat([white.real, white.imag], 1).flatten(1) if white.is_complex() else white.flatten(1)


def mmd_loss(
    student: NetDenoiser,
    batch: Any,
    seeds: Tensor,
    weight: str = "unit",
    spread_weight: float = 0.0,
    *,
    times: Tensor,
) -> Losses:
    """Distance of the images of a chain of few steps from a batch of real ones (Aiello, Valsesia and Magli 2023).

    The chain between `times`, which fall, runs with gradients through all its calls, from noise that is a function of
    the seeds.  A distance of two laws belongs to a batch: every item has the same loss, and alone none.
    """
    made = example(batch, student)
    process, (mean, variance) = student.process, student.prior() or (0.0, student.data_power)
    w = process.start(noise_like(made.x0, seeds, "mmd-start", 0), None, mean, variance)
    for t, s in itertools.pairwise(times):
        w = flow_step(student, w, t.expand(len(w)), s.expand(len(w)))
    end = times[-1:].expand(len(w))
    features = [whitened_pixels(student, x) for x in (process.to_image(w, end), made.x0)]
    error = mmd_squared(*features).to(made.x0).expand(len(seeds))
    return Losses(error, error, torch.zeros_like(error))
