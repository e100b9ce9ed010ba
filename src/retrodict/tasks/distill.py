"""A trained model to one to four calls: teacher, student, and the spectrum of their images before and after."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from retrodict._check import InputError, choice
from retrodict._output import refuse_existing, stamp, write_file
from retrodict._random import key
from retrodict.denoisers.network import NetDenoiser
from retrodict.models.model import Model, load_model, model_files, save_model
from retrodict.samplers.loop import sample, start_state
from retrodict.samplers.plan import make_grid
from retrodict.tasks.distill_methods import METHODS, few_calls, objective, student_of
from retrodict.tasks.fit import batcher
from retrodict.tasks.fit_collection import training_sets
from retrodict.tasks.fit_config import FitConfig, load_config
from retrodict.tasks.machine import torch_threads
from retrodict.training.loop import Progress, TrainingOptions, train
from retrodict.training.losses import Batch

__all__ = ["Distilled", "distill"]

JUDGED = 32
"""Images that are drawn to judge, and held-out images that they are compared with."""


@dataclass(frozen=True)
class Distilled:
    """Where the student was written, and the record of it."""

    path: Path
    record: dict[str, Any]


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
    "consistency": the student learns to say from every state of a trajectory the same image; one call.
    "trajectory" and "average_velocity": the student is told where a step ends, too, and takes any number of calls up to
    4; it learns from the steps of the teacher, or that its end stays the same along the flow.  "mmd": the images of the
    student are to have the law of the real ones, by a kernel; no end of the teacher is asked for.  `out` is the path of
    the new model; its run, which goes on where it was stopped, is kept in OUT.run.  The record holds, for
    teacher and student at `calls` calls and the teacher at its many, the variance of 32 drawn images over that of
    held-out images by band, and the distance of the end from that of the teacher's many calls from the same start.

    A student is no score: its card says for which times it was made, `generate` uses those alone, and it states no
    uncertainty.  Raises `InputError` for a model without a card (nobody could say which images are held out), for one
    that restores (its posterior would become a point), for one that is distilled already, and for numbers that cannot
    be meant, before anything is trained.
    """
    choice("method", method, METHODS)
    for where, value, last in (("calls", calls, METHODS[method].most), ("steps", steps, 10**7), ("batch", batch, 4096)):
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
        student = _trained(teacher, images, held, options, folder, method, calls, watch)
        judged = _judged(teacher.denoiser, student, held, method, calls, seed)
    times = make_grid(student.process, calls, "time").tolist()
    about = {"method": method, "calls": calls, "times": times, "teacher": teacher.source, "steps": steps, **judged}
    card = {**teacher.spec.card, "distilled": about}
    flow_map = METHODS[method].flow_map
    spec = replace(teacher.spec, spread_scale=None, held_out=None, flow_map=flow_map, card=card)
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
    model: Model,
    images: Batch,
    held: Batch,
    options: TrainingOptions,
    folder: Path,
    method: str,
    calls: int,
    watch: Callable[[Progress], None] | None,
) -> NetDenoiser:
    """The student after all its rounds, each resumable."""
    teacher, rounds = model.denoiser, METHODS[method].rounds
    for number in range(rounds):
        student = student_of(teacher, model.spec, METHODS[method])
        average = train(
            student, images, options, folder / f"round-{number}", validation=held, watch=watch,
            objective=objective(teacher, method, calls * 2 ** (rounds - 1 - number)),
            identity={"method": method, "calls": calls, "round": number},
        )  # fmt: skip
        student.net.load_state_dict(average)
        student.net.eval().requires_grad_(False)
        teacher = replace(student)
    return teacher


# ---- before and after ------------------------------------------------------------------------------------------------


def _judged(
    teacher: NetDenoiser, student: NetDenoiser, held: Batch, method: str, calls: int, seed: int
) -> dict[str, Any]:
    """Spectra of drawn images over that of held-out images, and distances from the end of the teacher's many calls."""
    keys = [key(seed, "held-out", i) for i in range(JUDGED)]
    drawn_of = held(keys)
    truth = drawn_of if isinstance(drawn_of, Tensor) else drawn_of.x0
    many = METHODS[method].many(calls)
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
    bound, plan = few_calls(denoiser, make_grid(process, calls, "time"))
    start = start_state(process, seeds, tuple(like.shape[1:]), mean=mean, spectrum=variance, dtype=like.dtype)
    with torch.no_grad():
        return sample(bound, plan, start, seeds=seeds).x


def _ratios(denoiser: NetDenoiser, images: Tensor, truth: Tensor) -> list[dict[str, Any]]:
    """Variance by band over that of held-out images round the mean of the model."""
    basis, (mean, _) = denoiser.process.basis, denoiser.prior() or (torch.zeros((), device="cpu"), None)
    weight, rows = basis.multiplicity(), []
    both = (basis.forward(x) for x in (images, truth))
    power = [(basis.energy(u - mean.to(u)) * weight).sum((0, 1)) / len(u) for u in both]
    for low, high, mask in basis.bands(4, highest=0.5 / max(basis.spacing)):
        rows.append({"band": [low, high], "ratio": float((power[0] * mask).sum() / (power[1] * mask).sum())})
    return rows
