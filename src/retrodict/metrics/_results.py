"""The gate of the calibration tests: samples of a posterior come in, point estimates do not."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from retrodict._check import InputError, NotCalibratedError
from retrodict.metrics._arrays import as_tensor, double

__all__ = ["against", "images", "posterior_samples"]

SPREAD = ("posterior", "sample")


def posterior_samples(result: object, where: str) -> Tensor:
    """Samples (K, ...) of an ensemble in float64, K >= 2.

    `result` is a tensor (K, ...), or a result with the attributes `samples` and `kind`. The kinds "posterior" and
    "sample" pass; a result of any other kind, such as "point", raises `NotCalibratedError`, and one whose samples
    were not kept an `InputError`. A bare tensor carries no kind: it is believed. Unit: that of the samples.
    """
    if isinstance(result, Tensor | np.ndarray):
        x = double(where, as_tensor(result))
    elif hasattr(result, "kind"):
        x = double(where, _kept(result, where))
    else:
        raise InputError(where, type(result).__name__, "a tensor (K, ...) or a result with samples and kind")
    if x.ndim < 1 or len(x) < 2:
        raise InputError(where, f"shape {tuple(x.shape)}", "shape (K, ...) with at least two samples")
    return x


def _kept(result: object, where: str) -> Tensor:
    kind = getattr(result, "kind", None)
    if kind not in SPREAD:
        raise NotCalibratedError(
            f"{where}: found a result of kind {kind!r}; a point estimate has no spread to test. "
            f"Give samples of a posterior (kind {' or '.join(map(repr, SPREAD))})."
        )
    samples = getattr(result, "samples", None)
    if samples is None:
        raise InputError(where, "a result without samples", "the samples (K, ...)", "Keep the samples.")
    return as_tensor(samples)


def against(samples: object, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Samples (K, ...) and the truth (...) they belong to, float64 on one device; unlike shapes are refused."""
    x, t = posterior_samples(samples, "samples"), double("truth", truth)
    if x.shape[1:] != t.shape:
        raise InputError("samples", f"shape {tuple(x.shape)}", f"shape (K, ...) with ... = {tuple(t.shape)}")
    return x, t.to(x.device)


def images(samples: object, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Samples (K, n, H, W) and truth (n, H, W); a channel axis of length 1 is dropped, a single image becomes n = 1."""
    x, t = against(samples, truth)
    if t.ndim == 4 and t.shape[1] == 1:
        x, t = x[:, :, 0], t[:, 0]
    if t.ndim == 2:
        x, t = x[:, None], t[None]
    if t.ndim != 3:
        raise InputError("truth", f"shape {tuple(t.shape)}", "images (n, H, W), (n, 1, H, W) or (H, W)")
    return x, t
