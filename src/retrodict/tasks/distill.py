"""A trained model to one to four calls: teacher, student, and the spectrum of their images before and after."""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from retrodict._check import InputError, choice
from retrodict._output import refuse_existing, stamp, write_file
from retrodict._random import key
from retrodict.denoisers.network import NetDenoiser
from retrodict.models.model import Model, load_model, model_files, save_model
from retrodict.processes.observation import wiener
from retrodict.processes.process import Process
from retrodict.samplers.loop import sample, start_state
from retrodict.samplers.plan import Plan, make_grid
from retrodict.samplers.rules.gaussian_ode import gaussian_ode
from retrodict.tasks.fit import batcher
from retrodict.tasks.fit_collection import training_sets
from retrodict.tasks.fit_config import FitConfig, load_config
from retrodict.tasks.machine import torch_threads
from retrodict.training.distill import Leap, consistency_loss, progressive_loss
from retrodict.training.loop import Progress, TrainingOptions, train
from retrodict.training.losses import Batch

__all__ = ["METHODS", "Distilled", "distill", "few_call_plan"]

METHODS = ("progressive", "consistency")

MOST_CALLS = 4

ROUNDS = 3
"""Halvings of a progressive distillation: the first teacher takes calls * 2^ROUNDS steps."""

FINE = 16
"""Steps of the teacher of a consistency distillation."""

JUDGED = 32
"""Images that are drawn to judge, and held-out images that they are compared with."""


@dataclass(frozen=True)
class Distilled:
    """Where the student was written, and the record of it."""

    path: Path
    record: dict[str, Any]


def few_call_plan(process: Process, times: Tensor, variance: Tensor) -> Plan:
    """The plan of a distilled model: steps of the flow between `times` `(n + 1,)`, exact on Gaussian data."""
    return gaussian_ode(process, times, variance, order=1)


def distill(
    model: str | Path,
    config: str | Path | FitConfig,
    out: str | Path,
    *,
    method: str = "progressive",
    calls: int = 1,
    steps: int = 1000,
    batch: int = 16,
    learning_rate: float = 3e-4,
    seed: int = 0,
    threads: int | None = None,
    force: bool = False,
    watch: Callable[[Progress], None] | None = None,
) -> Distilled:
    """Train a student of `calls` calls from a model that generates, on the images that `config` names, and judge both.

    "progressive": three rounds, in each of which a step of the student learns two of its teacher, of `steps` each.
    "consistency": the student learns to say from every state of a trajectory the same image; one call.  `out` is the
    path of the new model; its run, which goes on where it was stopped, is kept in OUT.run.  The record holds, for
    teacher and student at `calls` calls and the teacher at its many, the variance of 32 drawn images over that of
    held-out images by band, and the distance of the end from that of the teacher's many calls from the same start.

    A student is no score: its card says for which times it was made, `generate` uses those alone, and it states no
    uncertainty.  Raises `InputError` for a model without a card (nobody could say which images are held out), for one
    that restores (its posterior would become a point), for one that is distilled already, and for numbers that cannot
    be meant, before anything is trained.
    """
    choice("method", method, METHODS)
    most = MOST_CALLS if method == "progressive" else 1
    for where, value, last in (("calls", calls, most), ("steps", steps, 10**7), ("batch", batch, 4096)):
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= last:
            raise InputError(where, value, f"a whole number from 1 to {last}")
    teacher = _teacher(load_model(model))
    path = model_files(out)[0]
    refuse_existing(path, force)
    settings = config if isinstance(config, FitConfig) else load_config(config)
    base = Path(".") if isinstance(config, FitConfig) else Path(config).resolve().parent
    sets = training_sets(settings, base)
    if sets.validation is None:
        raise InputError("config: data.validation", "nothing held out", "patients to judge the student on")
    images, held = (batcher(s, teacher.intensity) for s in (sets.training, sets.validation))
    options = TrainingOptions(steps=steps, batch=batch, learning_rate=learning_rate, warmup=min(50, steps), seed=seed,
                              ema=0.99, checkpoint_every=max(1, steps // 4), validate_every=steps)  # fmt: skip
    folder = path.with_suffix(".run")
    with torch_threads(threads):
        student = _trained(teacher.denoiser, images, held, options, folder, method, calls, watch)
        judged = _judged(teacher.denoiser, student, held, method, calls, seed)
    times = make_grid(student.process, calls, "time").tolist()
    about = {"method": method, "calls": calls, "times": times, "teacher": teacher.source, "steps": steps, **judged}
    card = {**teacher.spec.card, "distilled": about}
    spec = replace(teacher.spec, spread_scale=None, held_out=None, card=card)
    save_model(spec, student.net.state_dict(), path)
    record = {**about, "kind": "point", "uncertainty": UNCERTAINTY, **stamp()}
    write_file(path.with_suffix(".distill.json"), json.dumps(record, indent=1).encode())
    return Distilled(path, record)


UNCERTAINTY = "none: the end is a function of the start, and the student is not the mean of any posterior"


def _teacher(model: Model) -> Model:
    if not model.spec.card:
        found = "no card, so nobody can say which images it was trained on"
        raise InputError(f"{model.source}: card", found, "the card that retrodict fit writes", "Train it with fit.")
    if "distilled" in model.spec.card:
        raise InputError(f"{model.source}: card", "a model that is distilled already", "the teacher of it")
    kind = model.denoiser.process.pairing.kind
    if kind != "none":
        hint = "For few calls with a posterior use retrodict restore --rule matched --steps 1."
        raise InputError("model", f"a model that restores ({kind})", "one that generates: no measurement enters", hint)
    return model


def _trained(
    teacher: NetDenoiser,
    images: Batch,
    held: Batch,
    options: TrainingOptions,
    folder: Path,
    method: str,
    calls: int,
    watch: Callable[[Progress], None] | None,
) -> NetDenoiser:
    """The student after all its rounds, each resumable."""
    rounds = ROUNDS if method == "progressive" else 1
    for number in range(rounds):
        student = replace(teacher, net=_free(teacher))
        objective = _objective(teacher, method, calls * 2 ** (rounds - 1 - number))
        average = train(
            student, images, options, folder / f"round-{number}", validation=held, watch=watch, objective=objective,
            identity={"method": method, "calls": calls, "round": number},
        )  # fmt: skip
        student.net.load_state_dict(average)
        student.net.eval().requires_grad_(False)
        teacher = replace(student)
    return teacher


def _free(teacher: NetDenoiser) -> Any:
    return copy.deepcopy(teacher.net).requires_grad_(True)


def _objective(teacher: NetDenoiser, method: str, calls: int) -> Any:
    """The loss of a student of `calls` calls (consistency: of one)."""
    process = teacher.process
    if method == "consistency":
        times = make_grid(process, FINE, "time")
        ends = [_leap(teacher, float(t), 0.0) for t in times[:-1]]
        return partial(consistency_loss, teacher=teacher, steps=_leaps(teacher, times), ends=ends)
    coarse, fine = make_grid(process, calls, "time"), _leaps(teacher, make_grid(process, 2 * calls, "time"))
    pairs = [tuple(fine[2 * i : 2 * i + 2]) for i in range(calls)]
    return partial(progressive_loss, teacher=teacher, coarse=_leaps(teacher, coarse), fine=pairs)


def _leaps(denoiser: NetDenoiser, times: Tensor) -> list[Leap]:
    return [_leap(denoiser, float(t), float(s)) for t, s in itertools.pairwise(times)]


def _leap(denoiser: NetDenoiser, t: float, s: float) -> Leap:
    process, variance = denoiser.process, denoiser.data_power
    times = torch.tensor([t, s], dtype=torch.float64, device="cpu")
    row = few_call_plan(process, times, variance)[0]
    left = wiener(process.moments(times[:1]), variance)[1]
    weight = process.basis.multiplicity()
    size = (row.data[0] ** 2 * left * weight).sum() / (weight.sum() * left.shape[1])
    return Leap(t, s, row.keep[0], row.data[0], float(size))


# ---- before and after ------------------------------------------------------------------------------------------------


def _judged(
    teacher: NetDenoiser, student: NetDenoiser, held: Batch, method: str, calls: int, seed: int
) -> dict[str, Any]:
    """Spectra of drawn images over that of held-out images, and distances from the end of the teacher's many calls."""
    keys = [key(seed, "held-out", i) for i in range(JUDGED)]
    drawn_of = held(keys)
    truth = drawn_of if isinstance(drawn_of, Tensor) else drawn_of.x0
    many = calls * 2**ROUNDS if method == "progressive" else FINE
    seeds = torch.tensor([key(seed, "judge", i) for i in range(JUDGED)], device="cpu")
    far = _drawn(teacher, many, seeds, truth)
    out: dict[str, Any] = {"held_out_images": JUDGED, "many": many}
    found = (("teacher_many", far), ("before", _drawn(teacher, calls, seeds, truth)),
             ("after", _drawn(student, calls, seeds, truth)))  # fmt: skip
    for name, images in found:
        distance = (images - far).flatten(1).norm(dim=1) / (far - far.mean()).flatten(1).norm(dim=1)
        out[name] = {"variance": _ratios(teacher, images, truth), "distance": float(distance.mean())}
    return out


def _drawn(denoiser: NetDenoiser, calls: int, seeds: Tensor, like: Tensor) -> Tensor:
    process, (mean, variance) = denoiser.process, denoiser.prior() or (0.0, denoiser.data_power)
    plan = few_call_plan(process, make_grid(process, calls, "time"), variance)
    start = start_state(process, seeds, tuple(like.shape[1:]), mean=mean, spectrum=variance, dtype=like.dtype)
    with torch.no_grad():
        return sample(denoiser, plan, start, seeds=seeds).x


def _ratios(denoiser: NetDenoiser, images: Tensor, truth: Tensor) -> list[dict[str, Any]]:
    """Variance by band over that of held-out images round the mean of the model."""
    basis, (mean, _) = denoiser.process.basis, denoiser.prior() or (torch.zeros((), device="cpu"), None)
    weight, rows = basis.multiplicity(), []
    both = (basis.forward(x) for x in (images, truth))
    power = [(basis.energy(u - mean.to(u)) * weight).sum((0, 1)) / len(u) for u in both]
    for low, high, mask in basis.bands(4, highest=0.5 / max(basis.spacing)):
        rows.append({"band": [low, high], "ratio": float((power[0] * mask).sum() / (power[1] * mask).sum())})
    return rows
