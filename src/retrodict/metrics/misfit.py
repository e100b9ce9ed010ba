"""Whether samples of a posterior fit the data as well as the truth does, no better and no worse."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.metrics._arrays import as_tensor, double
from retrodict.metrics._results import posterior_samples
from retrodict.metrics.ranks import chi_square_sf

__all__ = ["DataMisfit", "data_misfit"]


@dataclass(frozen=True)
class DataMisfit:
    """Misfit over degrees of freedom, no unit, 1 when calibrated: below 1 fits noise, above 1 ignores data.

    `items` (n,): averaged over the K samples; `mean` of them and `standard_error` over items (NaN for one item): the
    estimate. `first`: mean over items of the first sample alone; `z` and the two-sided `p_value` (under "calibrated")
    test it exactly. See `data_misfit`.
    """

    items: Tensor
    mean: float
    standard_error: float
    first: float
    z: float
    p_value: float


def data_misfit(
    samples: object,
    y: Tensor,
    forward: Callable[[Tensor], Tensor],
    whiten: Callable[[Tensor], Tensor],
    dof: int,
) -> DataMisfit:
    """Compare ||whiten(y - forward(x))||^2 of posterior samples with its law, chi-square with `dof` degrees of freedom.

    Shapes: `samples` (K, n, ...), `y` (n, ...) of n independent data sets; `forward` maps float64 (n, ...) to the
    shape of y, `whiten` a residual to values of unit variance, of which each item has `dof` = m independent real ones
    (a complex value counts two, each of unit variance). Formula: misfit = ||whiten(y - forward(x))||^2 / m.
    Given y, a sample has the law of the truth, so that (x_i, y) and (truth, y) have one joint law and the misfit that
    of the noise, for every prior: sum over items of the first samples ~ chi-square with n m degrees of freedom,
    z = (first - 1) / sqrt(2 / (n m)). The K samples of an item share y, so they are not independent: their average
    has mean 1 but not that law, and only sharpens the estimate. No truth is needed; the noise must be Gaussian.
    The posterior mean is expected below 1: a result marked as a point estimate is refused.
    """
    x = posterior_samples(samples, "samples")
    data = _data(y)
    if x.ndim < 2 or data.ndim < 1 or x.shape[1] != len(data):
        raise InputError("y", f"shape {tuple(data.shape)}", f"(n, ...) for samples (K, n, ...) = {tuple(x.shape)}")
    if dof < 1:
        raise InputError("dof", dof, "at least 1")
    misfit = torch.stack([_squares(data, forward(sample), whiten) for sample in x]) / dof
    items, n = misfit.mean(0), len(data)
    error = float(items.std() / math.sqrt(n)) if n > 1 else math.nan
    first = float(misfit[0].mean())
    z = (first - 1) / math.sqrt(2 / (n * dof))
    return DataMisfit(items, float(items.mean()), error, first, z, _two_sided(first * n * dof, n * dof))


def _data(y: Tensor) -> Tensor:
    raw = as_tensor(y).detach()
    if not raw.is_complex():
        return double("y", raw)
    double("y", torch.view_as_real(raw))
    return raw.to(torch.complex128)


def _squares(data: Tensor, predicted: Tensor, whiten: Callable[[Tensor], Tensor]) -> Tensor:
    """Squared length (n,) of the whitened residual."""
    if predicted.shape != data.shape:
        raise InputError("forward", f"shape {tuple(predicted.shape)}", f"the shape of y, {tuple(data.shape)}")
    residual = whiten(data - predicted.to(data.device))
    if len(residual) != len(data):
        raise InputError("whiten", f"shape {tuple(residual.shape)}", f"{len(data)} items")
    return double("whiten", residual.abs()).square().flatten(1).sum(1)


def _two_sided(chi2: float, dof: int) -> float:
    half = torch.tensor([dof / 2, chi2 / 2], dtype=torch.float64, device="cpu")
    lower = float(torch.special.gammainc(half[0], half[1]))
    return min(1.0, 2 * min(lower, chi_square_sf(chi2, dof)))
