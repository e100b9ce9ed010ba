"""Data left out of a reconstruction and predicted by its samples: a test of their spread that needs no truth.

If x is drawn from p(x | y) and y* was measured of the same object, y* lies in the central 90 % of A* x + noise in 90 %
of cases (Gneiting, Balabdaoui, Raftery 2007).  It holds for what was left out, not for every quantity of the image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict._random import key, uniform
from retrodict.metrics.predictive import predictive_factor, tiled_ratio
from retrodict.physics.measurement import Measurement
from retrodict.tasks.recon_acquired import Acquisition

__all__ = ["HeldOut", "left_out", "predicted", "prediction_said"]

LEVEL = 0.9
"""Of the intervals that are counted."""

CALIBRATION = 24
"""Side of the middle of k-space that coil maps are found from, where the measurement does not say it."""


@dataclass(frozen=True)
class HeldOut:
    """A part of the data that is left out: whole views of a sinogram, samples of k-space with all coils outside the
    middle that coil maps are found from, or pixels; each with probability `share`, drawn from `seed` and the slice.
    """

    share: float
    seed: int = 0

    def kept(self, made: Acquisition) -> Acquisition:
        """What is measured without it."""
        return replace(
            made,
            part=lambda i, whole: self.of(made, i)[0],
            digest=f"{made.digest}, held out {self.share:g} by {self.seed}",
        )

    def of(self, made: Acquisition, i: int) -> tuple[Measurement, Measurement]:
        """Slice i without what is left out, and that alone."""
        part = made.part(i, False)
        out = left_out(part, self.share, self.seed, i, made.kind, int(made.about.get("calibration", CALIBRATION)))
        seen = torch.ones_like(out) if part.mask is None else part.mask.to(out) > 0
        kept, held = seen & ~out, seen & out
        if not bool(kept.any()) or not bool(held.any()):
            found = f"{self.share:g}, which leaves {int(held.sum())} data out and {int(kept.sum())} in"
            raise InputError("hold_out", found, "a share that leaves some of both")
        return tuple(replace(part, mask=m.to(torch.float32)) for m in (kept, held))  # type: ignore[return-value]


def left_out(
    part: Measurement, share: float, seed: int, item: int, kind: str, calibration: int = CALIBRATION
) -> Tensor:
    """Where data are left out, bool `(*range)`."""
    shape = part.operator.range.shape
    device = part.y.device
    if kind == "sinogram":
        draw = _uniform(seed, item, shape[-2])
        return (draw < share).to(device)[:, None].expand(shape).clone()
    plane = shape[-2:] if kind == "k-space" else shape
    out = (_uniform(seed, item, math.prod(plane)) < share).reshape(plane)
    if kind == "k-space":
        y, x = (n // 2 - calibration // 2 for n in plane)
        out[max(0, y) : y + calibration, max(0, x) : x + calibration] = False
    return out.to(device).expand(shape).clone()


def _uniform(seed: int, item: int, count: int) -> Tensor:
    """Numbers of the pair (seed, item), one for each place."""
    first = key(seed, "held-out", item) >> 1
    return uniform(first + torch.arange(count, dtype=torch.int64, device="cpu"), "held-out", 0)


def predicted(samples: Tensor, held: Measurement, kind: str) -> dict[str, Any]:
    """How samples `(K, C, *N)` predict data that they were not drawn from.

    `covered`: share of real data within the central interval of `level` of the predictive law, whose variance is
    (1 + 1/K) s^2 of the predictions plus that of the noise (`predictive_factor`).  `ratio`: squared error of the mean
    prediction over that variance, summed, with the `ratio_error` that the scatter between views (or places) gives it.
    `chi2`: the same over the noise alone, 1 where the image is known.  Independent noise only.
    """
    law, count = held.law, len(samples)
    clean = torch.cat([held.operator.forward(x[None]) for x in samples])
    noise = law.variance(clean.mean(0, keepdim=True))[0].double()
    mean, y = law.mean(clean).mean(0), held.y[0].to(clean)
    error, spread = _parts(y - mean), (1 + 1 / count) * _parts(law.mean(clean)).var(0)
    noise = noise[..., None].expand_as(spread)
    assert held.mask is not None
    seen = held.mask[..., None].expand_as(spread) > 0
    reach = predictive_factor(LEVEL, spread, noise, count) * (spread + noise).sqrt()
    inside = (error.abs() <= reach) & seen
    observed, expected, alone = (_tiles(torch.where(seen, v, 0.0), kind) for v in (error**2, spread + noise, noise))
    used = expected > 0
    found = tiled_ratio(observed[used], expected[used])
    return {
        "data": int(seen.sum()),
        "places": int(used.sum()),
        "level": LEVEL,
        "covered": float(inside.sum() / seen.sum()),
        "ratio": found.value,
        "ratio_error": found.error,
        "chi2": float(observed.sum() / alone.sum()),
        "noise_share": float(alone.sum() / expected.sum()),
    }


def _parts(x: Tensor) -> Tensor:
    """Real and imaginary part, float64, as a last axis of 1 or 2."""
    return torch.view_as_real(x).double() if x.is_complex() else x.double()[..., None]


def _tiles(x: Tensor, kind: str) -> Tensor:
    """Sums `(C, *range, parts)` over what is left out together: views, samples of all coils; else data."""
    if kind == "sinogram":
        return x.movedim(-3, 0).flatten(1).sum(1)
    return x.sum((0, -1)).flatten()


def prediction_said(rows: Sequence[dict[str, Any]], kind: str) -> dict[str, Any]:
    """One record and sentence for all slices; the shares are weighted by numbers of data."""
    total = sum(r["data"] for r in rows)
    mean = {k: sum(r[k] * r["data"] for r in rows) / total for k in ("covered", "ratio", "chi2", "noise_share")}
    error = math.sqrt(sum((r["ratio_error"] * r["data"]) ** 2 for r in rows)) / total
    what = {"sinogram": "views", "k-space": "samples of k-space"}.get(kind, "data")
    places = sum(r["places"] for r in rows)
    said = (
        f"Left out and predicted: {places} {what}, {total:,} numbers; {mean['covered']:.1%} of them lie in their "
        f"{LEVEL:.0%} intervals, and the squared error is {mean['ratio']:.3g} ± {error:.2g} times what the samples and "
        f"the noise predict"
    )
    verdict = ""
    if math.isfinite(error) and abs(mean["ratio"] - 1) > max(0.1, 3 * error):
        verdict = ": the samples spread too little" if mean["ratio"] > 1 else ": the samples spread too much"
    return {**mean, "ratio_error": error, "data": total, "places": places, "level": LEVEL, "said": f"{said}{verdict}.",
            "slices": list(rows)}  # fmt: skip
