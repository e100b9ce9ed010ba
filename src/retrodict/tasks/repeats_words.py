"""What a test with repeats found, as a record and in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from retrodict.metrics.prediction import student_quantile
from retrodict.metrics.predictive import TiledRatio, tiled_ratio
from retrodict.metrics.ranks import rank_histogram
from retrodict.tasks.repeats_law import DISCS, LEVELS, STRIDE, Laws, Seen, Tally
from retrodict.tasks.repeats_match import ODD, Difference
from retrodict.tasks.tissues import classes_of

__all__ = ["BLIND", "LEVEL", "Judgment", "figures", "judgment"]


LEVEL = 0.01
"""Probability that a posterior that is right fails in any band (Bonferroni)."""


TOLERATED = 0.05
"""Relative difference of power below which nothing is said, however sure it is."""


SHARED = 0.05
"""Correlation of the noise of two scans from which on they are not independent."""


MOSTLY_NOISE = 0.5
"""Power of the blurred object over that of the noise below which a band is mostly noise."""


BLIND = (
    "The test compares prior and instrument together with a second scan of the same object. It sees the spread only "
    "where the noise of scan 2 is not much larger than it (the column 'sees'), after the blur: what the instrument "
    "erases no scan can test. It does not see an error that both scans share, such as a wrong MTF, a streak or a bias "
    "of the reconstruction, nor objects unlike this one."
)
"""What a reader has to know of the test."""


def figures(seen: Seen, laws: Laws, unit: str, scale: float) -> dict[str, Any]:
    """Bands, classes, discs and ranks as a record; powers in the square of the `unit`, which a model unit is `scale`
    of.
    """
    two, pixels = laws.law(2), int(seen.bands.count[0].sum())
    edges = list(pairwise(laws.edges))
    bands = []
    for k, (low, high) in enumerate(edges):
        least = math.sqrt(laws.log_variance(laws.filters[k] ** 2 * two.s2, pixels))
        row = {"low": low, "high": high, **_row(seen.bands, k, scale, least)}
        bands.append({**row, "shared": _shared(seen, k, laws, least)})
    names = [*classes_of(torch.zeros(8, device="cpu"), unit)[0], "all"]
    classes = [{"name": n, **_row(seen.classes, k, scale)} for k, n in enumerate(names)]
    discs = [{"mm": d, **_row(t, 0, scale)} for d, t in zip(DISCS, seen.discs, strict=True)]
    return {
        "bands": bands,
        "classes": [c for c in classes if c["values"] > 0],
        "discs": [d for d in discs if d["values"] > 0],
        "ranks": _ranks(seen.ranks),
        "pixels": pixels,
    }


def _row(tally: Tally, k: int, scale: float, least: float = 0.0) -> dict[str, Any]:
    """One row: powers a value, ratio with band, share, spread ratio with band, and coverage."""
    used = tally.count[k] > 0
    observed, posterior, noise = (x[k][used] for x in (tally.observed, tally.posterior, tally.noise))
    count = float(tally.count[k].sum())
    total = float((posterior + noise).sum())
    found = tiled_ratio(observed, posterior + noise, least)
    share = float(posterior.sum()) / total if total > 0 else math.nan
    inside = [float(level[k].sum()) / count for level in tally.inside] if count else []
    low, high = found.band()
    return {
        "values": int(count),
        "tiles": found.tiles,
        "observed": _mean(observed, count) * scale**2,
        "posterior": _mean(posterior, count) * scale**2,
        "noise": _mean(noise, count) * scale**2,
        "ratio": found.value,
        "error": found.error,
        "lower": low,
        "upper": high,
        "p_value": found.p_value,
        "share": share,
        **_spread(found, share),
        "coverage": dict(zip(map(str, LEVELS), inside, strict=False)),
    }


def _mean(x: Tensor, count: float) -> float:
    return float(x.sum()) / count if count else math.nan


def _spread(found: TiledRatio, share: float) -> dict[str, float]:
    """The variance of the posterior that would explain scan 2, over that of the members, and what change is seen."""
    if not share > 0:
        return {"spread": math.nan, "spread_lower": math.nan, "spread_upper": math.nan, "sees": math.inf}
    low, high = found.band()
    reach = student_quantile(LEVEL / 2, found.tiles - 1) * found.error if found.tiles > 1 else math.nan
    return {
        "spread": 1 + (found.value - 1) / share,
        "spread_lower": 1 + (low - 1) / share,
        "spread_upper": 1 + (high - 1) / share,
        "sees": reach / share,
    }


def _shared(seen: Seen, k: int, laws: Laws, least: float) -> dict[str, float]:
    """Correlation of the noise of the scans in a band: slope of e on r, in deviations of the noise."""
    one, two = laws.law(1), laws.law(2)
    powers = [laws.power(laws.filters[k] ** 2 * law.s2) for law in (one, two)]
    unit = math.sqrt(powers[0] / powers[1]) if min(powers) > 0 else math.nan
    total = float(seen.own[k].sum())
    if not total > 0:
        return {"value": math.nan, "error": math.nan}
    noise = math.sqrt(float(seen.bands.observed[k].sum()) / total / 2) * least  # least = sqrt(2 / degrees of freedom)
    found = tiled_ratio(seen.cross[k], seen.own[k], noise, center=0.0)
    return {"value": unit * found.value, "error": unit * found.error}


def _ranks(counts: Tensor) -> dict[str, Any] | None:
    if int(counts.sum()) < 20:
        return None
    flat = torch.repeat_interleave(torch.arange(len(counts), device="cpu"), counts)
    found = rank_histogram(flat, len(counts) - 1, bins=len(counts))
    return {"counts": counts.tolist(), "p_value": found.p_value, "stride": STRIDE}


# ---- the judgment ----------------------------------------------------------------------------------------------------


class Judgment(NamedTuple):
    """In a word (`title`: "fits", "too narrow", "too wide", "mixed", "no repeats"), why (`reasons`), what else is to be
    known (`notes`), and all of it in a line (`text`).
    """

    title: str
    reasons: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def text(self) -> str:
        """The judgment in a line."""
        return f"{self.title}: {'; '.join(self.reasons)}" if self.reasons else self.title

    def to_json(self) -> dict[str, Any]:
        """Plain record."""
        return {"title": self.title, "text": self.text, "reasons": list(self.reasons), "notes": list(self.notes),
                "cannot_see": BLIND}  # fmt: skip


def judgment(record: dict[str, Any], difference: Difference, *, stated: bool) -> Judgment:
    """Judge the figures; `stated`: the noise of scan 2 was told, and not taken for that of scan 1."""
    shared = _pooled_shared(record["bands"])
    apart = _apart(difference, shared, stated)
    if apart:
        return Judgment("no repeats", (apart,), ("The figures below do not test the posterior.",))
    notes = _powers(record["bands"])
    level = LEVEL / len(record["bands"])
    failed = [b for b in record["bands"] if b["p_value"] < level and abs(b["ratio"] - 1) > TOLERATED]
    if shared[0] > SHARED and shared[0] > 4 * shared[1]:
        notes = (
            *notes,
            f"What the mean leaves of scan 1 comes again in scan 2 (slope {shared[0]:.2f} ± {shared[1]:.2f}) though "
            "their noise is independent: the mean misses structure of the object.",
        )
    if not failed:
        return Judgment("fits", (), notes)
    over = [b["ratio"] > 1 for b in failed]
    title = "too narrow" if all(over) else "too wide" if not any(over) else "mixed"
    return Judgment(title, tuple(map(_reason, failed)), notes)


def _reason(band: dict[str, Any]) -> str:
    where = f"at {band['low']:.2f} to {band['high']:.2f} /mm scan 2 differs from its prediction by {band['ratio']:.3g} "
    where += "times the power that is predicted"
    if band["sees"] < 1:
        return f"{where} (a posterior variance of {max(0.0, band['spread']):.2g} times the stated one would explain it)"
    return f"{where}, which is nearly all noise: the law of the noise of scan 2 does not hold"


def _powers(bands: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    seeing = [b for b in bands if b["sees"] < 1]
    if not seeing:
        return ("No band sees even a doubled variance of the posterior: only the instrument was tested.",)
    blind = [f"{b['low']:.2f} to {b['high']:.2f}" for b in bands if not b["sees"] < 1]
    best = min(seeing, key=lambda b: b["sees"])
    text = (
        f"Most is seen at {best['low']:.2f} to {best['high']:.2f} /mm, where {best['share']:.0%} of the predicted "
        f"variance is the posterior's and an error of {best['sees']:.0%} of it would be found."
    )
    return (text, *([f"At {', '.join(blind)} /mm only the instrument is tested."] if blind else []))


def _pooled_shared(bands: Sequence[dict[str, Any]]) -> tuple[float, float]:
    """Correlation of the noise over all bands, weighted by what is known of each, and its error."""
    known = [(b["shared"]["value"], b["shared"]["error"]) for b in bands if b["shared"]["error"] > 0]
    weight = sum(1 / e**2 for _, e in known)
    return (sum(v / e**2 for v, e in known) / weight, 1 / math.sqrt(weight)) if weight > 0 else (0.0, math.inf)


def _apart(difference: Difference, shared: tuple[float, float], stated: bool) -> str:
    """Why two scans are no repeats with the noise that was stated; empty where they are."""
    level = LEVEL / len(difference.ratios)
    off = [r.p_value < level and abs(r.value - 1) > TOLERATED for r in difference.ratios]
    noisy = [k for k, c in enumerate(difference.content) if c < MOSTLY_NOISE]
    level_of_noise = [difference.ratios[k].value for k in noisy]
    middle = sorted(level_of_noise)[len(level_of_noise) // 2] if noisy else math.nan
    if any(difference.ratios[k].value < 1 and off[k] for k in noisy):
        if shared[0] > SHARED and shared[0] > 4 * shared[1]:
            return (
                f"the scans share noise (correlation {shared[0]:.2f} ± {shared[1]:.2f}): they are no independent "
                "measurements, such as two reconstructions of the same raw data"
            )
        return _noise_words(middle, stated)
    if noisy and all(off[k] for k in noisy):
        return _noise_words(middle, stated)
    changed = [r.value for r, far in zip(difference.ratios, off, strict=True) if far and r.value > 1]
    spot = difference.worst
    if changed or spot.p_value < ODD:
        where = f"row {spot.row}, column {spot.column}" + (f" of slice {spot.slice + 1}" if spot.slice else "")
        most = f"up to {max(changed):.3g} times its power; " if changed else ""
        return (
            f"the scans differ by more than their noise ({most}{spot.times_noise:.3g} times round {where}): the object "
            "moved or changed"
        )
    return ""


def _noise_words(times: float, stated: bool) -> str:
    text = f"the difference of the scans has {times:.3g} times the power of their noise"
    if not stated and 2 * times > 1:
        return f"{text}: noise {math.sqrt(2 * times - 1):.2f} times as strong in scan 2 would explain it; state it"
    return f"{text}: the law of the noise of scan 2 does not hold"
