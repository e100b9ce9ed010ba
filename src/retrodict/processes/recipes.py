"""Processes with an external measurement, and to and from the records that files hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from retrodict._check import InputError, Recipe, build
from retrodict.bases import BASES
from retrodict.processes import PROCESSES
from retrodict.processes.observation import Pairing
from retrodict.processes.process import Process

__all__ = ["external", "process_from_recipe", "process_to_recipe"]


def external(process: Process, instrument: Process) -> Process:
    """`process` started from noise, with the measurement of `instrument` seen by the network (option 1).

    The law of the measurement, y = MTF x_0 + noise, comes from the terminal law of `instrument`.
    """
    if instrument.pairing.law is None or instrument.recipe is None or process.recipe is None:
        raise InputError("external instrument", instrument.recipe, "a process with a measurement law")
    options = {**process.recipe.options, "conditioning": "external", "instrument": instrument.recipe.to_json()}
    pairing = Pairing("external", instrument.pairing.law)
    return replace(process, pairing=pairing, recipe=Recipe(process.recipe.name, options))


def process_from_recipe(record: dict[str, Any], size: Sequence[int], spacing: Sequence[float], where: str) -> Process:
    """Rebuild a process from `{"name", "options", "basis": {"name", "options"}}` on a grid."""
    basis_recipe = Recipe.from_json(record.get("basis", {"name": "fourier"}), f"{where}.basis")
    basis = build(BASES, basis_recipe, f"{where}.basis", tuple(size), tuple(spacing))
    recipe = Recipe.from_json({k: v for k, v in record.items() if k != "basis"}, where)
    instrument = recipe.options.get("instrument") if isinstance(recipe.options, dict) else None
    plain = Recipe(recipe.name, {k: v for k, v in recipe.options.items() if k != "instrument"})
    process = build(PROCESSES, plain, where, basis)
    if instrument is None:
        return process
    inner = build(PROCESSES, Recipe.from_json(instrument, f"{where}.instrument"), f"{where}.instrument", basis)
    return external(process, inner)


def process_to_recipe(process: Process) -> dict[str, Any]:
    """Inverse of `process_from_recipe`; the grid itself is not part of the recipe."""
    if process.recipe is None:
        raise InputError("process", "one without a recipe", "one built by a function in PROCESSES")
    name = next(key for key, kind in BASES.items() if type(process.basis) is kind)
    every = vars(process.basis)
    fields = {k: v for k, v in every.items() if k in ("levels", "family") or (k == "complex" and v)}
    if every.get("alignment", "causal") != "causal":  # records of before have none
        fields["alignment"] = every["alignment"]
    if isinstance(every.get("levels"), tuple):
        fields["levels"] = list(every["levels"])
    return {**process.recipe.to_json(), "basis": {"name": name, "options": fields}}
