"""What is known of a unit of image values: one table instead of a test for "HU" wherever a number depends on it."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["UNITS", "Unit", "unit"]


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
    return UNITS.get(name, Unit(name))
