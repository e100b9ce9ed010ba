"""Models of a relative unit ("p99.5"), whose images were divided by the level of their series, at a level.

A prior p(u) of images u = x / c is one of the images x themselves, p(x / c) / c^n.  So nothing of an image or of a
measurement is scaled: the scale of the model is multiplied by c, with everything that is counted in its unit, and from
then on it is a model of the unit of the image.  Of a Gaussian prior N(m, S) mean and covariance become c m and c^2 S,
and the posterior of c times the data with c times the noise is c times the posterior.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from retrodict._check import InputError
from retrodict.data.image import Image
from retrodict.data.level import level_of
from retrodict.data.units import percentile_of
from retrodict.models.model import Intensity, Model

__all__ = ["at_level", "at_level_of", "level_record"]


def at_level(model: Model, unit: str, level: float) -> Model:
    """A model of a relative unit as one of images in `unit`, whose series have the level `level` in it.

    Raises `InputError` for a model whose unit is not relative, and for a level that is not a positive number.
    """
    own = model.intensity
    if percentile_of(own.unit) is None:
        raise InputError("model", f"a model of images in {own.unit!r}", "one of a relative unit, such as p99.5")
    if not 0 < level < float("inf"):
        raise InputError("level", level, f"a positive number in {unit!r}")
    law = model.spec.law
    if law is not None:
        options = dict(law["options"])
        options |= {"scale": options["scale"] * level, "noise": [level * x for x in options["noise"]]}
        law = {**law, "options": options}
    intensity = Intensity(unit, own.scale * level, own.offset * level)
    return replace(model, spec=replace(model.spec, intensity=intensity, law=law))


def at_level_of(model: Model, image: Image, name: str) -> tuple[Model, dict[str, Any]]:
    """The model at the level of an image, and what the record says of it; others pass through, with nothing to say."""
    percentile = percentile_of(model.intensity.unit)
    if percentile is None or image.unit == model.intensity.unit:
        return model, {}
    level = level_of([image.values], percentile, str(image.source[0]) if image.source else name)
    return at_level(model, image.unit, level), {"level": level_record(percentile, level, image.unit, "the image")}


def level_record(percentile: float, level: float, unit: str, source: str) -> dict[str, Any]:
    """What a record says of a level: JSON types."""
    return {"percentile": percentile, "value": level, "unit": unit, "of": source}
