"""The methods of `reconstruct`: names, settings by text, and what they cost; each takes a measurement of one item.

A method returns a `Reconstruction`, whose `kind` is "point".  Whatever takes a `Measurement` and returns one can stand
beside the classics, a sampler of the posterior too.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args, get_type_hints

import torch

from retrodict._check import InputError, choice
from retrodict.bases.spectrum import Spectrum, radial_spectrum
from retrodict.data import read
from retrodict.physics.classics import CLASSICS, Reconstruction, choose
from retrodict.physics.classics.choice import METHODS as CHOSEN
from retrodict.physics.classics.choice import RULES_OF_CHOICE
from retrodict.physics.measurement import Measurement
from retrodict.tasks.config_file import overridden
from retrodict.tasks.recon_bounds import check_named, named

__all__ = ["DEFAULTS", "WHOLE", "Method", "settings_of"]

DEFAULTS = {
    "tomography": "fbp",
    "cone": "fdk",
    "kspace": "cg_sense",
    "deblur": "richardson_lucy",
    "inpaint": "admm",
    "super_resolution": "admm",
}
"""The method of a problem where none is named."""

WHOLE = ("fbp", "fdk")
"""Methods that need data without gaps."""

SPAN = (1e-7, 10.0)
"""Strengths that a rule of choice looks at, times the largest |A^H Sigma^-1 y|."""


def settings_of(texts: Sequence[str] | Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a method from a mapping, or from `name=value` with YAML values."""
    if isinstance(texts, Mapping):
        return dict(texts)
    record: dict[str, Any] = {}
    for text in texts:
        overridden(record, text)
    return record


@dataclass(frozen=True)
class Method:
    """A classic by name with settings that are known to be its own; call it with a measurement of one item.

    `strength` "morozov" or "l_curve" lets the data choose it (without one, Morozov's rule); `start` is the name of a
    method whose image comes first; `support` may be "disc" or "hull", by the shadow of a scan, `direction` "views", and
    `support`, `lower` and `upper` an image file; `prior` of the Wiener filter is a `Spectrum`, or an image file that
    has one.

    Raises `InputError` for names and kinds of values that the method does not know.
    """

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Compare the settings with the signature."""
        choice("method", self.name, CLASSICS)
        known = _signature(self.name)
        for name, value in self.settings.items():
            choice(f"set {name}", name, [*known, *(("low", "high", "points", "accuracy") if self._can_choose else ())])
            if name in known:
                _check(name, value, known[name])

    @property
    def _can_choose(self) -> bool:
        return self.name in CHOSEN

    @property
    def rule(self) -> str | None:
        """The rule that chooses the strength, or None."""
        if not self._can_choose:
            return None
        strength = self.settings.get("strength", "morozov")
        return strength if isinstance(strength, str) else None

    def require(self, measurement: Measurement) -> None:
        """Raise what a look at the measurement shows: a rule or an end that needs a law of noise without one."""
        if measurement.noise is None and self.rule == "morozov":
            hint = "Give {sigma}, set strength to a number, or to l_curve."
            raise InputError(
                "noise", "none", "its level, for Morozov's rule to choose a strength by", hint, sigma="estimate"
            )
        if measurement.noise is None and self.settings.get("discrepancy") is not None:
            hint = "Give {sigma}, or leave discrepancy out."
            raise InputError("noise", "none", "its level, for iterations to end at it", hint, sigma="estimate")

    def __call__(self, measurement: Measurement) -> Reconstruction:
        """Reconstruct one item."""
        options = named(self.settings, measurement)
        if isinstance(options.get("start"), str):
            options["start"] = CLASSICS[options["start"]](measurement).image
        if self.name == "wiener":
            options["prior"] = _prior(options.get("prior"), measurement)
        if self.rule is None:
            return CLASSICS[self.name](measurement, **options)
        options.pop("strength", None)
        scale = _scale(measurement)
        options = {"low": SPAN[0] * scale, "high": SPAN[1] * scale, "accuracy": 0.02, **options}
        if self.name in ("fista", "admm"):
            options = {"iterations": 100, "tolerance": 1e-4, **options}
        return choose(measurement, method=self.name, rule=self.rule, **options)

    def applications(self) -> int:
        """Pairs of forward and adjoint that one item takes, roughly and from above."""
        defaults = {n: p.default for n, p in inspect.signature(CLASSICS[self.name]).parameters.items()}
        rounds = self.settings.get("iterations", defaults.get("iterations", 1))
        rounds = rounds if isinstance(rounds, int) else 1
        if self.name == "admm":
            rounds *= 4
        if self.rule is not None:
            rounds = min(rounds, 100 if self.name != "tikhonov" else rounds) * 14
        extra = 1 if self.name in ("fbp", "fdk", "wiener", "sense") else rounds
        return extra + (60 if self.name == "fista" else 2)


def _scale(measurement: Measurement) -> float:
    """The largest |A^H Sigma^-1 y|."""
    operator, data = measurement.whitened()
    return max(float(operator.adjoint(data).abs().max()), 1e-30)


def _signature(name: str) -> dict[str, Any]:
    """Keyword settings of a method and their types."""
    function = CLASSICS[name]
    hints = get_type_hints(function)
    names = [p.name for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
    return {n: hints.get(n, Any) for n in names if n != "mean"}


def _check(name: str, value: Any, hint: Any) -> None:
    where = f"set {name}"
    if check_named(name, value):
        return
    if name == "weights":
        if not (value is None or isinstance(value, list | tuple)):
            raise InputError(where, repr(value), "a list of numbers, one for each axis, such as [1, 3]")
        return
    if name == "start":
        if isinstance(value, str):
            choice(where, value, CLASSICS)
        elif not isinstance(value, torch.Tensor):
            raise InputError(where, repr(value), f"one of {', '.join(CLASSICS)}")
        return
    if name == "strength" and isinstance(value, str):
        choice(where, value, RULES_OF_CHOICE)
        return
    kinds = [k for k in (get_args(hint) or (hint,)) if k in (int, float, bool, str, type(None))]
    if not kinds:
        return
    fits = any(
        (k is bool and isinstance(value, bool))
        or (k is int and isinstance(value, int) and not isinstance(value, bool))
        or (k is float and isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value))
        or (k is str and isinstance(value, str))
        or (k is type(None) and value is None)
        for k in kinds
    )
    if not fits:
        words = {int: "a whole number", float: "a number", bool: "true or false", str: "a name", type(None): "null"}
        raise InputError(where, repr(value), " or ".join(words[k] for k in kinds))


def _prior(given: Any, measurement: Measurement) -> Spectrum:
    if isinstance(given, Spectrum):
        return given
    if given is None:
        hint = "Set prior to an image file that resembles what is expected."
        raise InputError("set prior", "none", "the spectrum of what is expected", hint)
    spacing = measurement.operator.domain.spacing
    image = read(given, expect=None, clip=False).gray()
    stack = image.values.reshape(-1, *image.values.shape[-len(spacing) :])
    return radial_spectrum(list(stack), tuple(image.spacing[-len(spacing) :]))


Solver = Callable[[Measurement], Reconstruction]
"""What the task calls: a measurement of one item to its reconstruction."""
