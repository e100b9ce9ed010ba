"""Variations of a shape that is given: it is carried part of the way to noise, and drawn anew from there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from retrodict._check import InputError, choice
from retrodict._output import stamp
from retrodict._random import key
from retrodict.denoisers.cascade import CascadeDenoiser
from retrodict.models.cascade import Generator
from retrodict.processes.observation import noise_like
from retrodict.samplers.cascade import cascade_grid
from retrodict.samplers.loop import sample
from retrodict.samplers.plan import make_grid
from retrodict.samplers.rules import RULES, make_plan
from retrodict.shapes.volume import Volume
from retrodict.tasks.machine import torch_threads
from retrodict.tasks.shape_data import volume_of
from retrodict.tasks.shapes import GeneratedShapes, open_shapes, surface_or_none

__all__ = ["vary_shape"]


def vary_shape(
    model: str | Path | Generator,
    shape: str | Path | Volume,
    samples: int = 8,
    *,
    strength: float,
    seed: int = 0,
    steps: int | Sequence[int] | None = None,
    rule: str = "matched",
    inside: list[int] | None = None,
    spacing: tuple[float, ...] | None = None,
    threads: int | None = None,
) -> GeneratedShapes:
    """Draw `samples` shapes like a given one: x_t of it at the time `strength`, then the ordinary loop from there
    (Meng et al. 2022).

    shape: a mesh or label volume in a file (`inside` its labels, `spacing` of one that states none), or its distance on
    the grid of the model.  strength in (0, 1]: in a cascade of J levels j/(J + 1) keeps the levels coarser than j as
    they are and draws j levels of details given them, so J/(J + 1) keeps the coarse shape; 1 keeps nothing.

    Raises `InputError` for a shape of another grid, and for a strength below the first step.
    """
    found = open_shapes(model)
    side, pitch = found.spec.size[0], found.spec.spacing[0]
    rule = choice("rule", rule, RULES)
    if not 0 < strength <= 1:
        raise InputError("strength", strength, "a number above 0, at most 1")
    if samples < 1:
        raise InputError("samples", samples, "at least 1")
    volume = shape if isinstance(shape, Volume) else volume_of(shape, side, pitch, inside=inside, given=spacing)
    if volume.values.shape != tuple(found.spec.size) or any(abs(s / pitch - 1) > 1e-6 for s in volume.spacing):
        wanted = f"{found.spec.size} of {pitch:g} mm, the grid of the model"
        raise InputError("shape", f"{volume.values.shape} of {volume.spacing} mm", wanted)
    denoiser, clip = found.denoiser, found.spec.intensity.scale
    times = _times(denoiser, rule, steps, strength)
    prior = denoiser.prior()
    plan = make_plan(rule, denoiser.process, times, None if prior is None else prior[1])
    seeds = torch.tensor([key(seed, "vary", i) for i in range(samples)], dtype=torch.int64, device="cpu")
    given = torch.from_numpy(volume.truncated(clip).values).float()
    x0 = found.spec.intensity.encode(given)[None, None].expand(samples, -1, -1, -1, -1)
    with torch_threads(threads), torch.no_grad():
        t = times[:1].expand(samples)
        state = denoiser.process.corrupt(x0, t, noise_like(x0, seeds, "start", 0))
        x = sample(denoiser, plan, denoiser.process.to_coefficients(state, t), seeds=seeds).x
    made = [Volume(v[0].double().numpy(), volume.spacing) for v in found.spec.intensity.decode(x)]
    meshes = [surface_or_none(v) for v in made]
    record = {"model": found.source, "strength": strength, "time": float(times[0]), "rule": rule, "seed": seed}
    empty = sum(m is None for m in meshes)
    return GeneratedShapes(made, meshes, {**record, "steps": len(plan), "empty": empty, **stamp()})


def _times(denoiser: object, rule: str, steps: int | Sequence[int] | None, strength: float) -> torch.Tensor:
    """The grid of the rule from the last time that is not above `strength`."""
    number = RULES[rule].steps if steps is None else steps
    process = denoiser.process  # type: ignore[attr-defined]
    if isinstance(denoiser, CascadeDenoiser):
        times = cascade_grid(process, number)
    elif isinstance(number, int):
        times = make_grid(process, number, RULES[rule].grid, spectrum=(denoiser.prior() or (0, None))[1])  # type: ignore[attr-defined]
    else:
        raise InputError("steps", list(number), "one number: only a cascade has levels")
    kept = times[times <= strength + 1e-9]
    if len(kept) < 2:
        raise InputError("strength", strength, f"at least {float(times[-2]):.3g}, the last step of the grid")
    return kept
