"""Whether what is left of the data is the noise: its size, its whiteness, and its histogram."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from retrodict.physics.measurement import Measurement
from retrodict.physics.noise import GaussianNoise

__all__ = ["Residual", "residual_law", "whitened_residual"]


class Residual(NamedTuple):
    """The residual over its deviation `(*range)` (real, or complex), which samples count, and its figures."""

    values: Tensor
    seen: Tensor
    record: dict[str, Any]


def whitened_residual(measurement: Measurement, image: Tensor) -> Tensor:
    """Sigma^(-1/2) (y - A x) of one item, unit white noise for the true image; without a law over its own rms."""
    rest = measurement.residual(image)
    noise = measurement.noise
    if noise is None:
        parts = torch.view_as_real(rest) if rest.is_complex() else rest
        return rest / parts.square().mean().sqrt().clamp_min(1e-30)
    if isinstance(noise, GaussianNoise):
        return noise.whitened(rest)
    clean = measurement.operator.forward(image)
    return rest / noise.variance(clean).clamp_min(1e-30).sqrt()


def residual_law(measurement: Measurement, image: Tensor) -> Residual:
    """Figures of the residual of one item, to be compared with those of noise.

    `ratio` chi^2 over its mean with its p-values `above` and `below`; `lag` the correlation of neighbors along each of
    the last two axes, within +-`band` (95 %) for white noise; `beyond_3` the share of samples beyond three deviations
    (0.0027).  A free image fits some of the noise: a ratio somewhat below 1 is no fault.
    """
    values = whitened_residual(measurement, image)[0].detach().cpu()
    shape = values.shape
    mask = measurement.mask
    seen = torch.ones(shape, dtype=torch.bool, device="cpu") if mask is None else mask.to("cpu").expand(shape) > 0
    parts = torch.view_as_real(values).movedim(-1, 0) if values.is_complex() else values[None]
    parts = parts.double()
    record: dict[str, Any] = {"samples": int(seen.sum()) * len(parts), "lag": {}}
    if measurement.noise is not None:
        found = measurement.misfit(image)
        record |= {name: float(getattr(found, name)[0]) for name in ("ratio", "above", "below")}
    for name, axis in (("down", -2), ("across", -1)):
        if shape[axis] < 3 or len(shape) + axis < 1 - (len(shape) > 2):
            continue
        record["lag"][name] = _lag(parts, seen, axis)
    used = parts[:, seen]
    record["band"] = 1.96 / math.sqrt(max(1, record["samples"]))
    record["rms"] = float(used.square().mean().sqrt())
    record["beyond_3"] = float((used.abs() > 3).double().mean())
    record["said"] = _said(record)
    return Residual(values, seen, record)


def _lag(parts: Tensor, seen: Tensor, axis: int) -> float:
    """Correlation of neighbors along an axis that both count."""
    n = seen.shape[axis]
    both = seen.narrow(axis, 0, n - 1) & seen.narrow(axis, 1, n - 1)
    if not bool(both.any()):
        return math.nan
    one, other = parts.narrow(axis, 0, n - 1)[:, both], parts.narrow(axis, 1, n - 1)[:, both]
    return float((one * other).mean() / (one.square().mean() * other.square().mean()).sqrt().clamp_min(1e-30))


def _said(record: dict[str, Any]) -> str:
    """One sentence."""
    lags = [v for v in record["lag"].values() if math.isfinite(v)]
    worst = max(lags, key=abs, default=0.0)
    white = abs(worst) <= 3 * record["band"]
    colour = "it is white" if white else f"neighbors are correlated by {worst:+.2f}"
    if "ratio" not in record:
        return f"no law of noise was given to compare the residual with; {colour}"
    ratio = record["ratio"]
    if ratio > 1.05 and record["above"] < 1e-3:
        size = f"the residual is larger than the noise: chi² is {ratio:.3g} times its mean"
    elif ratio < 0.95 and record["below"] < 1e-3:
        size = f"the residual is smaller than the noise: chi² is {ratio:.3g} times its mean, some noise was fitted"
    else:
        size = f"the residual is as large as the noise: chi² is {ratio:.3g} times its mean"
    return f"{size}; {colour}"
