"""The figures of an evaluation: the metrics of one image, pooled curves, and both over all images.

A new metric is a function of a `Case` and a line of `METRICS`; tables, differences, pages and the terminal follow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.data import Image
from retrodict.data.units import unit
from retrodict.metrics import coverage, psnr, rmse
from retrodict.metrics.bands import band_spread_skill
from retrodict.metrics.bootstrap import bootstrap, paired_bootstrap
from retrodict.metrics.frequency import nps, radial
from retrodict.metrics.ranks import rank_histogram, ranks
from retrodict.metrics.reliability import reliability_curve
from retrodict.metrics.similarity import ssim
from retrodict.tasks.evaluate_methods import EvaluationConfig, Result

__all__ = [
    "CURVES",
    "METRICS",
    "Case",
    "Judged",
    "Metric",
    "Pool",
    "PooledCurve",
    "case_of",
    "differences",
    "judge",
    "stacked",
    "summary",
]


@dataclass(frozen=True)
class Case:
    """One method on one image, as slices `(Z, H, W)` in float64; what is not there is None.

    `samples` `(K, Z, H, W)`; `count` members behind mean and sd; `pixel` mm of (row, column); `unit` of the values.
    """

    config: EvaluationConfig
    truth: Tensor
    mean: Tensor
    sd: Tensor | None = None
    samples: Tensor | None = None
    count: int | None = None
    measured: Tensor | None = None
    pixel: tuple[float, float] = (1.0, 1.0)
    unit: str = ""

    @property
    def data_range(self) -> float | None:
        """The stated span of values, or that of the unit."""
        return self.config.data_range or unit(self.unit).data_range


def case_of(result: Result, truth: Image, measured: Image | None, config: EvaluationConfig) -> Case:
    """The case of a result beside its truth and measurement."""
    samples = result.samples
    return Case(
        config,
        stacked(truth.values[0].double()),
        stacked(result.mean.double()),
        None if result.sd is None else stacked(result.sd.double()),
        None if samples is None else (samples if samples.ndim == 4 else samples[:, None]).double(),
        result.count,
        None if measured is None else stacked(measured.values[0].double()),
        (float(truth.spacing[-2]), float(truth.spacing[-1])),
        truth.unit,
    )


def stacked(values: Tensor) -> Tensor:
    """Slices `(Z, H, W)` of an image `(H, W)` or a volume."""
    return values if values.ndim == 3 else values[None]


# ---- the metrics -------------------------------------------------------------------------------------------------


def _psnr(case: Case) -> float | None:
    limit = case.data_range
    return None if limit is None else psnr(case.mean, case.truth, data_range=limit)


def _ssim(case: Case) -> float | None:
    limit = case.data_range
    return None if limit is None else ssim(case.mean, case.truth, data_range=limit)


def _error_and_spread(case: Case) -> tuple[float, float, float] | None:
    """Mean squared error, mean variance, and the share of it that K members add to the error of their mean."""
    if case.sd is None:
        return None
    error, spread = float((case.mean - case.truth).square().mean()), float(case.sd.square().mean())
    if spread <= 0:
        raise InputError("sd", "a stated deviation of zero everywhere", "a posterior, or a point estimate without sd")
    return error, spread, 1 / case.count if case.count else 0.0


def _bias(case: Case) -> float | None:
    found = _error_and_spread(case)
    return None if found is None else math.sqrt(max(found[0] - found[1] * found[2], 0.0))


def _spread(case: Case) -> float | None:
    found = _error_and_spread(case)
    return None if found is None else math.sqrt(found[1])


def _ssr(case: Case) -> RootRatio | None:
    found = _error_and_spread(case)
    return None if found is None else RootRatio(found[0], (1 + found[2]) * found[1])


def _covered(level: float) -> Callable[[Case], float | None]:
    def of(case: Case) -> float | None:
        if case.sd is None:
            return None
        return float(coverage(case.mean, case.sd, case.truth, (level,), count=case.count)[0])

    return of


def _noise_ratio(case: Case) -> float | None:
    if case.measured is None or not case.config.uniform:
        return None
    parts = [_uniform(case, stack) for stack in (case.mean, case.measured)]
    deviation = [float((f - f.mean((-2, -1), keepdim=True)).square().mean().sqrt()) for f in parts]
    return deviation[0] / deviation[1]


def _uniform(case: Case, stack: Tensor) -> Tensor:
    """The uniform regions of every slice `(R, size, size)`."""
    sizes = [s for _, _, s in case.config.uniform] * len(stack)
    parts = [z[r : r + s, c : c + s] for z in stack for r, c, s in case.config.uniform]
    if any(p.shape != (s, s) for p, s in zip(parts, sizes, strict=True)):
        raise InputError("uniform", case.config.uniform, f"row, column, size within {tuple(stack.shape[1:])}")
    return torch.stack(parts)


def _cnr(case: Case) -> float | None:
    disc = case.config.disc
    if disc is None:
        return None
    plane = case.mean[disc.slice]
    rows = torch.arange(plane.shape[0], dtype=torch.float64, device="cpu")[:, None] - disc.row
    columns = torch.arange(plane.shape[1], dtype=torch.float64, device="cpu")[None] - disc.column
    r = torch.hypot(rows, columns)
    inside, ring = r <= disc.radius, (r >= 1.5 * disc.radius) & (r <= 2.5 * disc.radius)
    if int(inside.sum()) < 5 or int(ring.sum()) < 10:
        raise InputError("disc", disc.model_dump(), "a disc and a ring around it inside the image")
    return float((plane[inside].mean() - plane[ring].mean()).abs() / plane[ring].std())


class RootRatio(float):
    """The root of a ratio, which remembers numerator and denominator so that images can be pooled."""

    parts: tuple[float, float]

    def __new__(cls, over: float, under: float) -> RootRatio:
        """sqrt(over / under)."""
        value = super().__new__(cls, math.sqrt(over / under))
        value.parts = (over, under)
        return value


class Pool(NamedTuple):
    """Values of n images to one: `data` of a value, and the `statistic` of the stacked data `(n, ...)`."""

    data: Callable[[Any], Any]
    statistic: Callable[[Tensor], Tensor]


mean = Pool(float, lambda x: x.mean(0))


root_ratio = Pool(lambda v: v.parts, lambda x: (x[..., 0].sum(0) / x[..., 1].sum(0)).sqrt())
"""Root of summed numerators over summed denominators: a mean of ratios would not be 1 for a calibrated ensemble."""


class Metric(NamedTuple):
    """A column of the table: short name, meaning, its value of a case (None: this case has none), and how it pools."""

    title: str
    meaning: str
    of: Callable[[Case], float | None]
    pool: Pool = mean


METRICS: dict[str, Metric] = {
    "rmse": Metric("RMSE", "root mean squared error, in the unit of the image", lambda c: rmse(c.mean, c.truth)),
    "psnr": Metric("PSNR", "dB, for the stated data range", _psnr),
    "ssim": Metric("SSIM", "7 x 7 window, mean over slices", _ssim),
    "bias": Metric("bias", "root of the error of the mean, its share of K members taken off", _bias),
    "spread": Metric("spread", "root mean variance of the ensemble", _spread),
    "ssr": Metric("SSR", "error of the mean over spread, 1 is calibrated", _ssr, root_ratio),
    "cover68": Metric("in 68 %", "truth inside the central 68 % interval", _covered(0.68)),
    "cover95": Metric("in 95 %", "truth inside the central 95 % interval", _covered(0.95)),
    "noise_ratio": Metric(
        "noise", "standard deviation in the uniform regions over that of the measured image", _noise_ratio
    ),
    "cnr": Metric("CNR", "contrast to noise of the stated disc", _cnr),
}
"""Columns of the table, in order; only those that can be had are shown."""


# ---- curves ------------------------------------------------------------------------------------------------------


_LEVELS = tuple(round(0.05 * k, 2) for k in range(1, 20))


_STRIDE = 8


def _levels(case: Case) -> list[float] | None:
    return None if case.sd is None else coverage(case.mean, case.sd, case.truth, _LEVELS, count=case.count).tolist()


def _pool_levels(found: list[list[float]]) -> dict[str, Any]:
    return {"nominal": list(_LEVELS), "observed": np.mean(found, 0).tolist()}


def _bands(case: Case) -> dict[str, Any] | None:
    if case.samples is None:
        return None
    bands = band_spread_skill(case.samples, case.truth, case.pixel, case.config.bands, bootstrap=100)
    head = {"low": bands.frequency_low.tolist(), "high": bands.frequency_high.tolist(), "count": len(case.samples)}
    return {**head, "skill": bands.skill.tolist(), "spread": bands.spread.tolist()}


def _pool_bands(found: list[dict[str, Any]]) -> dict[str, Any]:
    skill, spread = (np.sum([b[k] for b in found], 0) for k in ("skill", "spread"))
    count = max(b["count"] for b in found)
    ratio = np.sqrt(skill / ((1 + 1 / count) * spread))
    return {"low": found[0]["low"], "high": found[0]["high"], "ssr": ratio.tolist()}


def _rank_counts(case: Case) -> list[int] | None:
    """Ranks of the truth at every 8th pixel (neighbors are not independent), as counts 0 ... K."""
    if case.samples is None:
        return None
    thinned = (v[..., ::_STRIDE, ::_STRIDE] for v in (case.samples, case.truth))
    return torch.bincount(ranks(*thinned).flatten().long(), minlength=len(case.samples) + 1).tolist()


def _pool_ranks(found: list[list[int]]) -> dict[str, Any]:
    total = np.sum(found, 0)
    flat = torch.repeat_interleave(torch.arange(len(total), device="cpu"), torch.tensor(total, device="cpu"))
    return {"counts": total.tolist(), "p_value": rank_histogram(flat, len(total) - 1).p_value, "stride": _STRIDE}


def _reliability(case: Case) -> dict[str, Any] | None:
    samples = case.samples  # some pixels are constant where the field of view ends
    if samples is None or len(samples) < 4 or not bool((samples.var(0) > 0).all()):
        return None
    curve = reliability_curve(samples, case.truth, bins=8)
    return {"predicted": curve.predicted.tolist(), "observed": curve.observed.tolist()}


def _pool_reliability(found: list[dict[str, Any]]) -> dict[str, Any]:
    return {k: np.mean([c[k] for c in found], 0).tolist() for k in ("predicted", "observed")}


def _nps(case: Case) -> dict[str, Any] | None:
    if case.measured is None or not case.config.uniform:
        return None
    parts = _uniform(case, case.mean)
    frequency, value = radial(nps(parts, case.pixel), case.pixel, parts.shape[-1] // 2)
    return {"frequency": frequency.tolist(), "value": value.tolist()}


def _pool_nps(found: list[dict[str, Any]]) -> dict[str, Any]:
    return {"frequency": found[0]["frequency"], "value": np.mean([s["value"] for s in found], 0).tolist()}


class PooledCurve(NamedTuple):
    """A curve of a method: what an image gives to it (None: nothing), and the curve of what all images gave."""

    of: Callable[[Case], Any]
    pool: Callable[[list[Any]], dict[str, Any]]


CURVES: dict[str, PooledCurve] = {
    "coverage": PooledCurve(_levels, _pool_levels),
    "bands": PooledCurve(_bands, _pool_bands),
    "ranks": PooledCurve(_rank_counts, _pool_ranks),
    "reliability": PooledCurve(_reliability, _pool_reliability),
    "nps": PooledCurve(_nps, _pool_nps),
}
"""Curves of the report, by their key in the record."""


# ---- over all images ---------------------------------------------------------------------------------------------


class Judged(NamedTuple):
    """One method on one image: `row` of the table (image, method, kind, metrics, seconds), and its part of curves."""

    row: dict[str, Any]
    curves: dict[str, Any]


def judge(image: str, method: str, result: Result, case: Case, patient: str | None = None) -> Judged:
    """Every metric and curve that the case has."""
    row: dict[str, Any] = {"image": image, "method": method, "kind": result.kind, "slices": len(case.truth)}
    row |= {} if patient is None else {"patient": patient}
    row |= {} if result.members is None else {"members": result.members}
    values = {name: metric.of(case) for name, metric in METRICS.items()}
    row |= {name: value for name, value in values.items() if value is not None}
    if result.seconds is not None:
        row["seconds"] = result.seconds
    curves = {name: curve.of(case) for name, curve in CURVES.items()}
    return Judged(row, {name: part for name, part in curves.items() if part is not None})


def summary(name: str, judged: Sequence[Judged], count: int) -> dict[str, Any]:
    """Pooled figures of one method with bands of `count` bootstrap draws, and its pooled curves.

    Where the rows tell their `patient`, images are averaged within a patient first; patients are the items then.
    """
    figures = {}
    for column, metric in METRICS.items():
        rows = [j.row for j in judged if column in j.row]
        if rows:
            figures[column] = _pooled(metric.pool, [r[column] for r in rows], count, _items(rows))
    found = {name: [j.curves[name] for j in judged if name in j.curves] for name in CURVES}
    curves = {name: CURVES[name].pool(parts) for name, parts in found.items() if parts}
    return {"name": name, "kind": judged[0].row["kind"], "summary": figures, **curves}


def _items(rows: Sequence[dict[str, Any]]) -> list[Any]:
    """What is independent: the patient of each row, or its image where patients are not told."""
    return [r.get("patient", r["image"]) for r in rows]


def _within(data: Tensor, items: Sequence[Any]) -> Tensor:
    """Mean over the rows of data (n, ...) that belong to one item: (items, ...), in order of appearance."""
    number = {item: i for i, item in enumerate(dict.fromkeys(items))}
    place = torch.tensor([number[i] for i in items], device="cpu")
    return torch.stack([data[place == k].mean(0) for k in range(len(number))])


def _pooled(pool: Pool, values: Sequence[float], count: int, items: Sequence[Any]) -> dict[str, float | int | None]:
    data = _within(torch.tensor([pool.data(v) for v in values], dtype=torch.float64, device="cpu"), items)
    found: dict[str, float | int | None] = {"value": float(pool.statistic(data)), "lower": None, "upper": None}
    each = torch.stack([pool.statistic(d[None]) for d in data])
    found |= {"sd": float(each.std()) if len(each) > 1 else None, "n": len(data)}
    if len(data) < 3:  # two items give no error bar
        return found
    band = bootstrap(data, pool.statistic, seed=0, count=count)
    return found | {"lower": float(band.lower), "upper": float(band.upper)}


def differences(
    names: Sequence[str], reference: str, rows: Sequence[dict[str, Any]], count: int
) -> list[dict[str, Any]]:
    """Method minus reference, paired by image and averaged within patients, for every metric that both have."""
    table = {(r["image"], r["method"]): r for r in rows}
    images = {r["image"]: r.get("patient", r["image"]) for r in rows}
    out = []
    for name in (n for n in names if n != reference):
        for column in METRICS:
            pairs = [(table[i, name].get(column), table[i, reference].get(column), p) for i, p in images.items()]
            both = [(a, b, p) for a, b, p in pairs if a is not None and b is not None]
            if len({p for _, _, p in both}) < 3:
                continue
            items = [p for _, _, p in both]
            a, b = (
                _within(torch.tensor([v[k] for v in both], dtype=torch.float64, device="cpu"), items) for k in (0, 1)
            )
            found = paired_bootstrap(a, b, seed=0, count=count)
            out.append({"method": name, "metric": column, "difference": float(found.value), "lower": float(found.lower),
                        "upper": float(found.upper), "p_value": float(found.p_value), "images": len(both),
                        "n": len(a)})  # fmt: skip
    return out
