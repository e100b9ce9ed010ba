"""What may be said of a restoration: a posterior, one with a warning, or a point estimate, and the checks behind it.

Every image is compared with the instrument of its model twice: before the sampling, by a sample that costs one call of
the network, and after it, by the members.  What is compared is the power of y - h x with that of the noise
(`retrodict.samplers.misfit`), which is 1 within a known sampling error.  Between patients it scatters a little more:
as much as images of held-out patients did (`retrodict.models.held_out`); where that is not known, by no more than the
data could fill the band, or the gate lets pass.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from retrodict.metrics.prediction import Prediction
from retrodict.models.held_out import HeldOut
from retrodict.samplers.judge import VARIANCE_LIMIT
from retrodict.samplers.misfit import BandMisfit

__all__ = ["BLIND", "LEVEL", "Check", "Verdict", "band_names", "in_words", "predictions"]


LEVEL = 0.01
"""Probability that an image that fits fails one of its checks, all of them together (Bonferroni)."""


WHOLE = "noise over the image"
"""Name of the check of the noise of one place against that of another."""


BLIND = (
    "The checks see the noise: its strength, its color and whether it is the same everywhere. They hardly see the blur "
    "(an MTF of 1 mm more or less passes), nor whether the object is like those of the training."
)
"""What a reader has to know of the checks."""


@dataclass(frozen=True)
class Check:
    """One number that was compared with its law: `found` within (`low`, `high`) at the level, and its p value."""

    name: str
    stage: str
    found: float
    low: float
    high: float
    p: float
    level: float
    item: int = 0

    @property
    def passed(self) -> bool:
        """Whether the number is one that an image that fits would show."""
        return self.p >= self.level

    def to_json(self) -> dict[str, Any]:
        """Plain record."""
        names = ("name", "stage", "item", "found", "low", "high", "p", "level", "passed")
        return {name: _plain(getattr(self, name)) for name in names}


def _plain(value: Any) -> Any:
    """JSON has no infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


@dataclass(frozen=True)
class Verdict:
    """What a result is, in words (`text`) and as a record (`to_json`), and the checks that were made.

    `kind`: "posterior" or "point"; `reasons`: why it is no posterior; `warnings`: where or in what it is not.

    `asked`: a point estimate was asked for.  `notes` say what the judgment rests on.
    """

    kind: str = "point"
    reasons: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    checks: tuple[Check, ...] = ()
    notes: tuple[str, ...] = ()
    asked: bool = False

    @property
    def text(self) -> str:
        """The verdict in one line."""
        if self.kind == "posterior":
            return f"posterior with a warning: {'; '.join(self.warnings)}" if self.warnings else "posterior"
        if self.asked and not self.reasons:
            more = f"; warning: {'; '.join(self.warnings)}" if self.warnings else ""
            return f"point estimate: asked for{more}"
        return f"point estimate: not calibrated because {'; '.join((*self.reasons, *self.warnings))}"

    @property
    def title(self) -> str:
        """The verdict without its reasons."""
        if self.kind == "posterior":
            return "posterior with a warning" if self.warnings else "posterior"
        return "point estimate: not calibrated" if self.reasons else "point estimate"

    def to_json(self) -> dict[str, Any]:
        """Plain record for NAME_restore.json and the report."""
        return {
            "text": self.text,
            "title": self.title,
            "kind": self.kind,
            "reasons": list(self.reasons),
            "warnings": list(self.warnings),
            "checks": [c.to_json() for c in self.checks],
            "notes": list(self.notes),
            "cannot_see": BLIND,
        }


# ---- the law of the numbers --------------------------------------------------------------------------------------


def predictions(misfit: BandMisfit, item: int, held: HeldOut | None, stage: str) -> list[Prediction]:
    """What the logs of the ratios of an image may be: of every band, and of the unevenness."""
    laws, tiles = misfit.variances(item), misfit.tiles[item]
    laws = [*laws, 2 / max(1, tiles - 1)]
    if held is not None:
        mean, sd = getattr(held, stage)
        smaller = [max(1.0, held.pixels / max(1, misfit.counts[item]))] * len(misfit.bands.content)
        smaller.append(max(1.0, held.tiles / max(1, tiles)))
        whole = [s**2 * (1 + 1 / held.patients) * f for s, f in zip(sd, smaller, strict=True)]
        scales = [math.sqrt(max(a, b)) for a, b in zip(whole, laws, strict=True)]
        return [
            Prediction(m, s, held.patients - 1, upper=k == len(mean) - 1)
            for k, (m, s) in enumerate(zip(mean, scales, strict=True))
        ]
    filled = [max(math.log1p(c), math.log1p(VARIANCE_LIMIT)) for c in misfit.bands.content]
    most = max(filled[1:]) if len(filled) > 1 else filled[0]
    slack = [*filled, math.log1p(most**2 / misfit.tile_variance)]
    return [
        Prediction(0.0, math.sqrt(v), slack=s, upper=k == len(laws) - 1)
        for k, (v, s) in enumerate(zip(laws, slack, strict=True))
    ]


def band_names(edges: Sequence[float]) -> list[str]:
    """Names of the bands and of the unevenness."""
    pairs = pairwise(edges)
    return [*(f"noise at {a:.2f} to {b:.2f} /mm" for a, b in pairs), WHOLE]


# ---- words -------------------------------------------------------------------------------------------------------


def in_words(failed: Sequence[Check], items: int) -> str:
    """The worst of the checks that failed, as a reason."""
    bands = [c for c in failed if c.name != WHOLE] or failed
    worst = max(bands, key=_excess)
    of = f" in slice {worst.item + 1}" if items > 1 else ""
    expected = f"({_span(worst)} expected, {worst.stage})"
    if worst.name == WHOLE:
        return (
            f"the noise is not the same all over the image{of}: its level scatters {worst.found:.3g} times as much as "
            f"the instrument of the model makes it {expected}"
        )
    where = worst.name.removeprefix("noise")
    return (
        f"the noise{where}{of} has {worst.found:.3g} times the power that the instrument of the model makes {expected}"
    )


def _excess(check: Check) -> float:
    """How far a number lies outside its interval, as a log ratio."""
    found = math.log(max(check.found, 1e-12))
    return max(found - math.log(check.high), math.log(check.low) - found if check.low > 0 else -math.inf)


def _span(check: Check) -> str:
    return f"up to {check.high:.3g}" if check.low == 0 else f"{check.low:.3g} to {check.high:.3g}"
