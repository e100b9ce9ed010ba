"""What is known of a unit of image values: one table instead of a test for "HU" wherever a number depends on it."""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["UNITS", "Unit", "length_unit", "percentile_of", "unit"]


class Unit(NamedTuple):
    """Numbers that belong to a unit; all in that unit, and None or empty where nothing is known.

    range : (lowest, highest) value that an image is clipped to when it is read; the padding becomes the lowest one.
    air : values below are air, where scanners clip the noise: no place to measure noise.
    outside : values that scanners write outside the reconstruction circle.
    window : (center, width) to show an image with.
    data_range : span of values that PSNR and SSIM refer to.
    empty_below : values below hold nothing to learn from; see `PatchSet`.
    """

    name: str
    range: tuple[float, float] | None = None
    air: float | None = None
    outside: tuple[float, ...] = ()
    window: tuple[float, float] | None = None
    data_range: float | None = None
    empty_below: float | None = None


UNITS: dict[str, Unit] = {
    u.name: u
    for u in (
        Unit(
            "HU",
            range=(-1024.0, 3071.0),  # what a 12 bit CT can hold
            air=-900.0,
            outside=(-1500.0, -2000.0, -2048.0, -3024.0),
            window=(40.0, 400.0),
            data_range=2000.0,
            empty_below=-900.0,
        ),
    )
}


def unit(name: str) -> Unit:
    """Return the row of `name`; a unit that is not in the table has a row of which nothing is known."""
    if percentile_of(name) is not None:
        return Unit(name, window=(0.5, 1.0), data_range=1.0, empty_below=0.05)
    return UNITS.get(name, Unit(name))


def percentile_of(name: str) -> float | None:
    """The percentile of a relative unit, or None of any other: "p99.5" is times the level of the image's own series.

    Values of magnetic resonance have no unit: each series is divided by its own level (`retrodict.data.level`), and
    what a model of such a unit knows is relative to it.
    """
    found = re.fullmatch(r"p(\d{1,2}(?:\.\d{1,3})?|100)", name)
    return None if found is None or float(found[1]) == 0 else float(found[1])


LENGTHS = {
    1.0: ("mm", "millimeter", "millimetre"),
    10.0: ("cm", "centimeter", "centimetre"),
    1000.0: ("m", "meter", "metre"),
    1e-3: ("um", "micron", "micrometer", "micrometre"),
    1e-6: ("nm", "nanometer", "nanometre"),
    1e-7: ("å", "angstrom", "ångström", "ångstrom"),
    1e-9: ("pm", "picometer", "picometre"),
    25.4: ("in", "inch", "inche", '"'),  # the plural is cut at its s
    304.8: ("ft", "foot", "feet"),
    25.4 / 72: ("pt", "point"),
}
"""Words for a length by their mm, in lower case and singular."""


def length_unit(name: object) -> float | None:
    """Return the mm of a unit of length as files spell it, or None for one that is none ("pixel", "s", "").

    Micrometers come with the micro sign, the Greek letter, as an escape of either in any case (Fiji writes \\u00B5m),
    read in a wrong encoding, or as "um"; case and plural do not matter.
    """
    text = re.sub(r"\\+u([0-9a-fA-F]{4})", lambda found: chr(int(found[1], 16)), str(name)).strip().casefold()
    text = re.sub("^â?μ", "u", text)  # casefold makes the Greek letter of the micro sign
    text = text[:-1] if len(text) > 4 and text.endswith("s") else text  # ms is a time
    return next((mm for mm, names in LENGTHS.items() if text in names), None)
