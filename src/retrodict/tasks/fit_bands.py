"""What a wavelet basis and a cascade ask of a configuration: said in its own words, before an image is read."""

from __future__ import annotations

from retrodict._check import InputError, Recipe, build
from retrodict.bases import BASES, Wavelet
from retrodict.models.cascade import is_cascade
from retrodict.tasks.fit_config import FitConfig

__all__ = ["check_bands"]


def check_bands(config: FitConfig) -> None:
    """Raise `InputError`, by field, for patches that the levels do not divide and for what a cascade has not."""
    if config.process.basis.name == "wavelet":
        _basis(config)
    if is_cascade(config.network.model_dump()):
        _cascade(config)


def _basis(config: FitConfig) -> None:
    recipe, where = config.process.basis, f"{config.name}: process.basis"
    try:
        basis = build(BASES, Recipe(recipe.name, recipe.options), where, tuple(config.data.patch))
    except InputError as error:
        if error.where == "Wavelet size":
            wanted, hint = f"{error.expected}, the levels of process.basis", "Use other patches or fewer levels."
            raise InputError("data.patch", config.data.patch, wanted, hint) from error
        if error.where == "Wavelet levels":
            raise InputError("process.basis.options.levels", error.found, error.expected) from error
        raise
    if is_cascade(config.network.model_dump()) and isinstance(basis, Wavelet) and len(set(basis.each)) != 1:
        raise InputError("process.basis.options.levels", list(basis.each), "one number: a cascade has equal axes")


def _cascade(config: FitConfig) -> None:
    process = config.process
    if process.name != "wavelet_cascade" or process.basis.name != "wavelet":
        found = f"{process.name} in the basis {process.basis.name}"
        raise InputError("process", found, "wavelet_cascade in the basis wavelet, with the network cascade")
    if process.options.get("spectrum") != "data":
        found = process.options.get("spectrum", "nothing")
        raise InputError("process.options.spectrum", found, "'data' with a cascade: the variances of the bands")
    for where, value, usual in (("predicts", config.predicts, "wiener"), ("level", config.level, "rms")):
        if value != usual:
            raise InputError(where, repr(value), f"{usual!r} with a cascade")
    if config.law is not None or config.start_from is not None:
        raise InputError("law" if config.law is not None else "start_from", "one", "none with a cascade")
    if config.training.loss != "unit":
        raise InputError("training.loss", repr(config.training.loss), "'unit' with a cascade")
