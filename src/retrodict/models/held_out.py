"""How well held-out patients fit a model and its instrument: what an image to come is compared with."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from retrodict._check import InputError

__all__ = ["HeldOut", "scatter", "spread_on_patients"]


STAGES = ("one_call", "sampled")


QUIET = 1500.0
"""Power of the data over that of the noise in the lowest band above which an instrument is quiet."""


@dataclass(frozen=True)
class HeldOut:
    """Mean and scatter of the logs of the misfit ratios over images of patients that were not in training.

    `edges`: of the bands, cycles/mm; none where the record is of many instruments, whose bands are counted from the
    highest; `quiet` is then that of instruments of so little noise that the data fill their lowest band more than
    `QUIET` times over, where a small fault of the prior is a large part of the noise.  `one_call` and `sampled` are
    (mean, sd), a number for each band and one for the unevenness of the noise: of one call of the network, and of
    members of the default ensemble.  Every patient counts alike.  `pixels`, `tiles`: looked at in each image, on
    average.
    """

    edges: tuple[float, ...]
    patients: int
    images: int
    pixels: int
    tiles: int
    one_call: tuple[tuple[float, ...], tuple[float, ...]]
    sampled: tuple[tuple[float, ...], tuple[float, ...]]
    quiet: HeldOut | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain record."""
        return asdict(self)

    def of_bands(self, contents: Sequence[float]) -> HeldOut | None:
        """The record for an instrument of these contents of its bands (data over noise), the lowest first; None where
        it has fewer bands.
        """
        if self.quiet is not None and contents[0] > QUIET:
            return self.quiet.of_bands(contents)
        count, have = len(contents), len(self.one_call[0]) - 1
        if count > have:
            return None
        pairs = [tuple(row[have - count :] for row in getattr(self, name)) for name in STAGES]
        return replace(self, one_call=pairs[0], sampled=pairs[1])

    @classmethod
    def from_json(cls, record: Any, where: str) -> HeldOut:
        """Inverse of `to_json`; `where` names the file or field in errors."""
        try:
            edges = tuple(float(x) for x in record["edges"])
            counts = [int(record[name]) for name in ("patients", "images", "pixels", "tiles")]
            pairs = [tuple(tuple(float(x) for x in row) for row in record[name]) for name in STAGES]
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise InputError(where, repr(record)[:80], "a record of held-out patients") from error
        numbers = [x for pair in pairs for row in pair for x in row]
        rows = [len(row) for pair in pairs for row in pair]
        if (
            min(counts) < 1
            or counts[0] < 2
            or any(len(p) != 2 for p in pairs)
            or len(set(rows)) != 1
            or (edges and rows[0] != len(edges))
        ):
            raise InputError(
                where, "numbers that do not match", "means and scatters of every band, of 2 patients or more"
            )
        if not all(math.isfinite(x) for x in (*edges, *numbers)) or any(x < 0 for p in pairs for x in p[1]):
            raise InputError(where, "numbers that are not finite, or a negative scatter", "finite ones")
        quiet = record.get("quiet")
        other = None if quiet is None else cls.from_json(quiet, f"{where}.quiet")
        return cls(edges, *counts, *pairs, other)  # type: ignore[arg-type]


def scatter(patients: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Mean over patients, and the standard deviation of an image of another patient around it.

    `patients`: the numbers of the images of each.  Patients count alike; the mean square over the images of a patient
    holds the scatter within it too, and n / (n - 1) pays for the mean.
    """
    n = len(patients)
    mean = sum(sum(p) / len(p) for p in patients) / n
    square = sum(sum((x - mean) ** 2 for x in p) / len(p) for p in patients) / n
    return mean, math.sqrt(square * n / (n - 1))


def spread_on_patients(card: Mapping[str, Any], task: str) -> dict[str, Any] | None:
    """SSR^2, squared error over stated variance, of a model on patients it has not seen: from its card, in a sentence.

    `task` "restore" or "reconstruct".  The card holds `spread_on_patients`: of each task `ssr2` (mean, deviation
    between patients), `patients`, and `of`, what was measured.  None where the card does not say, and for a distilled
    model, whose spread is another.
    """
    found = card.get("spread_on_patients", {}).get(task) if "distilled" not in card else None
    if not isinstance(found, Mapping):
        return None
    mean, deviation = (float(v) for v in found["ssr2"])
    said = (
        f"On {found['patients']} patients not seen in training ({found['of']}) the squared error was {mean:.2f} ± "
        f"{deviation:.2f} times the stated variance (SSR², mean and deviation between patients)."
    )
    return {**found, "said": said}
