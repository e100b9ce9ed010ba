"""The options of a restoration, written down once: Python, the command line and evaluations take them from here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from operator import not_
from typing import Annotated, Any, NamedTuple, get_type_hints

from retrodict._check import InputError, choice

__all__ = ["Option", "RestoreOptions", "canonical", "described"]


class Option(NamedTuple):
    """What is said of a field, here and in the help of the command line, and the least value that it takes."""

    help: str
    least: int | None = None


@dataclass(frozen=True)
class RestoreOptions:
    """How an image is restored; every field is a keyword of `restore` and a flag of the command line.

    `mtf` and `nps` are paths, records or curves, `calibration` is a path or a record; `noise_map` is a path, an
    `Image`, or an array on the pixels of the image; `steps` and `grid` None are those of the rule, `spread` None is the
    error law of the model.  `tile` None runs the network on tiles where it would take more than 1 GiB otherwise.
    `estimate_instrument`: curves that are not given are found in each input (`estimate_instrument`), and said to be so.
    `expect` None (or "any") reads DICOM files of every modality.  `threads` holds for the call alone.

    Raises `InputError` for numbers below their bound.
    """

    samples: Annotated[int, Option("Members of the ensemble.", least=1)] = 8
    steps: Annotated[int | None, Option("Steps of the sampler per member (default of the rule).", least=1)] = None
    rule: Annotated[str, Option("Sampler; see 'retrodict bench gaussian-card'.")] = "matched"
    grid: Annotated[str | None, Option("Time grid of the sampler (default of the rule).")] = None
    components: Annotated[
        int, Option("Directions of covariance looked for at the measurement, with --rule matched2.", least=0)
    ] = 0
    instant: Annotated[bool, Option("Mean, deviation and members from one call of the network.")] = False
    stop_at: Annotated[
        float | None, Option("Give the image at this time too, between 0 (restored) and 1 (as measured).")
    ] = None
    seed: Annotated[int, Option("Seed of the whole run.")] = 0
    keep_samples: Annotated[bool, Option("Write every member too.")] = False
    point: Annotated[bool, Option("A point estimate, without an uncertainty map.")] = False
    spacing: Annotated[
        Sequence[float] | None, Option("Pixel spacing in mm (rows,columns) for files that have none.")
    ] = None
    unit: Annotated[str | None, Option("Unit of the values for files that have none, such as HU.")] = None
    expect: Annotated[str | None, Option("Modality of DICOM files, such as MR; any takes every one.")] = "CT"
    deidentify: Annotated[
        bool, Option("Remove names, IDs, dates and free text from DICOM results (PS3.15 Annex E), not from pixels.")
    ] = False
    resample: Annotated[bool, Option("Bring images of another pixel spacing to the model's and back.")] = False
    allow_gaps: Annotated[bool, Option("Accept a series with missing slices.")] = False
    tile: Annotated[int | None, Option("Run the network on tiles of this side.", least=64)] = None
    spread: Annotated[
        str | None, Option("Error law of the denoiser: local, uncalibrated, wiener or none (default of the model).")
    ] = None
    mtf: Annotated[Any, Option("Measured MTF of the instrument (retrodict measure mtf).")] = None
    nps: Annotated[Any, Option("Measured NPS of the instrument (retrodict measure nps).")] = None
    slice_profile: Annotated[
        float | None,
        Option("Full width at half maximum of the slice sensitivity profile in mm, for a model of volumes."),
    ] = None
    slice_correlation: Annotated[
        float | None,
        Option("Correlation of the noise of neighboring slices (0: independent), for a model of volumes."),
    ] = None
    process: Annotated[
        str | None,
        Option("Process of the chain, such as vp or ve, instead of the instrument's own."),
    ] = None
    noise_map: Annotated[
        Any, Option("Map of the noise over the image (retrodict measure noise-map), with instant.")
    ] = None
    noise_map_unit: Annotated[
        str | None, Option("Unit of a noise map whose file has none: 1 (times the instrument's) or that of the values.")
    ] = None
    estimate_instrument: Annotated[
        bool, Option("Estimate the MTF and NPS that are not given from every input itself; no phantom needed.")
    ] = False
    calibration: Annotated[Any, Option("Factors of 'retrodict calibrate': write intervals with their guarantee.")] = (
        None
    )
    device: Annotated[str, Option("auto, cpu or cuda; auto is cuda where there is one.")] = "auto"
    precision: Annotated[str, Option("auto, float32 or bf16; auto is the faster one of this machine.")] = "auto"
    threads: Annotated[
        int | None, Option("CPU threads, at most the cores that there are (default: all of them).", least=1)
    ] = None

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be meant."""
        for name, (option, _) in described().items():
            value = getattr(self, name)
            if option.least is not None and value is not None and value < option.least:
                raise InputError(name, value, f"at least {option.least}")
        if self.estimate_instrument and self.mtf is not None and self.nps is not None:
            raise InputError(
                "estimate_instrument", "an MTF and an NPS beside it", "at most one of them: nothing is left to estimate"
            )

    @classmethod
    def of(cls, changes: Mapping[str, Any], extra: Sequence[str] = ()) -> RestoreOptions:
        """The defaults with `changes`; an unknown name is answered with the nearest, of these or of `extra`."""
        known = canonical(changes)
        for name in known:
            choice("option", name, [*described(), *ALSO_CALLED, *extra])
        return cls(**known)


ALSO_CALLED: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "resampling": ("resample", bool),
    "uncertainty": ("point", not_),
}
"""Other names of fields in Python and in evaluations: the field, and its value from theirs."""


def canonical(changes: Mapping[str, Any]) -> dict[str, Any]:
    """`changes` under the names of the fields; unknown names stay as they are."""
    out: dict[str, Any] = {}
    for name, value in changes.items():
        field, turn = ALSO_CALLED.get(name, (name, None))
        if turn is not None and isinstance(value, str):
            raise InputError(name, repr(value), "true or false")
        if field in out:
            raise InputError(name, f"both {name!r} and {field!r}", "one of the two")
        out[field] = value if turn is None else turn(value)
    return out


@cache
def described() -> dict[str, tuple[Option, Any]]:
    """Of every field its `Option` and its bare type."""
    hints = get_type_hints(RestoreOptions, include_extras=True)
    return {f.name: (hints[f.name].__metadata__[0], hints[f.name].__origin__) for f in fields(RestoreOptions)}
