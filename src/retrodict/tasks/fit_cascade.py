"""Training of a cascade by a configuration: its networks one after another, coarse first, each resumable."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from retrodict._check import InputError
from retrodict._random import key
from retrodict.data import PatchSet
from retrodict.data.spacings import SpacingSet
from retrodict.denoisers.cascade import CascadeDenoiser
from retrodict.denoisers.cascade_net import NetModel, RegressionModel
from retrodict.models.cascade import build_cascade
from retrodict.models.model import ModelSpec, model_files, save_model
from retrodict.nets import precision_for
from retrodict.nets.cascade import CascadeNet
from retrodict.tasks.fit import FitPlan, batcher, options_of
from retrodict.tasks.fit_config import FitConfig
from retrodict.tasks.fit_identity import check_finished, identity_of, signature
from retrodict.tasks.machine import device_named, torch_threads
from retrodict.training.cascade import LevelTrainer, calibrate_cascade, level_loss
from retrodict.training.checkpoints import newest
from retrodict.training.loop import Progress, TrainingOptions, check_resumable, train

__all__ = ["fit_cascade", "prepare_cascade", "source_of"]


def prepare_cascade(
    config: FitConfig,
    folder: Path,
    training: PatchSet | SpacingSet,
    validation: PatchSet | SpacingSet | None,
    spec: ModelSpec,
    device: str,
) -> FitPlan:
    """What is done already, and the time of a step; `check_bands` has looked at the configuration.

    Raises `InputError` for checkpoints of another configuration.
    """
    denoiser = _built(spec, config)
    depth, nets = denoiser.views.basis.depth, _model(denoiser).net
    options = {**spec.network["options"], "levels": depth}  # stored, so that other levels are refused by name
    spec = replace(spec, network={**spec.network, "options": options}, bands=0)
    identity = identity_of(config, spec.process, {"training": training, "validation": validation}, None)
    scales, done, notes = _scales(denoiser), 0, []
    each, batches = _each(config, "each", scales, depth), _each(config, "batches", scales, depth)
    for scale, steps, batch in zip(scales, each, batches, strict=True):
        found, damaged = newest(_folder(folder, scale, depth))
        notes += damaged
        if found is not None:
            check_resumable(found, _options(config, scale, steps, batch), {**identity, "scale": scale})
            done += found.step
    if not done:
        check_finished(model_files(folder / config.name)[1], identity, max(each))
    spec = replace(spec, card={**spec.card, "run": signature(identity)})
    parameters = sum(p.numel() for p in nets.parameters())
    plan = FitPlan(config, spec, training, validation, 0.0, parameters, done, None, identity, notes, device, each)
    with torch_threads(config.training.threads):
        seconds = _time_steps(plan, denoiser.to(device), scales, batches)
    plan.seconds_per_step = sum(n * own for n, own in zip(each, seconds, strict=True)) / plan.steps
    return plan


def fit_cascade(
    plan: FitPlan, folder: Path, watch: Callable[[Progress], None] | None, log: Callable[[dict[str, Any]], None]
) -> Path:
    """Train every network to the end, measure the spread on held-out images, and write the model."""
    config = plan.config
    denoiser = _built(plan.spec, config).to(plan.device)
    nets, each, before = _model(denoiser).net, plan.each or (), 0
    validation = None if plan.validation is None else batcher(plan.validation, plan.spec.intensity)
    scales = _scales(denoiser)
    batches = _each(config, "batches", scales, nets.levels)
    for scale, steps, batch in zip(scales, each, batches, strict=True):

        def told(p: Progress, first: int = before) -> None:
            if watch is not None:
                left = p.seconds * (plan.steps - first - p.step)
                watch(p._replace(step=first + p.step, steps=plan.steps, left=left))

        def lines(record: dict[str, Any], scale: int = scale) -> None:
            log({**record, "scale": scale})

        trainer: Any = LevelTrainer.of(denoiser, scale, _crop(plan))
        average = train(
            trainer,
            batcher(plan.training, plan.spec.intensity),
            _options(config, scale, steps, batch),
            _folder(folder, scale, nets.levels),
            validation=validation,
            watch=told,
            log=lines,
            objective=level_loss,
            identity={**plan.identity, "scale": scale},
            note=lambda sentence: log({"note": sentence}),
        )
        nets.net_of(scale).load_state_dict(average)
        before += steps
    spec = plan.spec
    if validation is not None:
        exact = replace(denoiser, model=replace(_model(denoiser), precision="float32"))  # as images are drawn
        factors = _model(calibrate_cascade(exact, validation, config.training.seed, source=source_of(plan))).factors
        assert factors is not None
        spec = replace(spec, spread_scale=factors.to_json())
    weights, _ = save_model(spec, nets.state_dict(), folder / config.name)
    return weights


def _built(spec: ModelSpec, config: FitConfig) -> CascadeDenoiser:
    """With fresh weights, drawn on the CPU, so that they do not depend on the device."""
    with torch.random.fork_rng(devices=[]):  # the global stream is the caller's
        torch.manual_seed(key(config.training.seed, "weights") % 2**31)
        denoiser = build_cascade(spec, config.name)
    precision = precision_for(config.training.precision, device_named(config.training.device))
    return replace(denoiser, model=replace(_model(denoiser), precision=precision))


def _options(config: FitConfig, scale: int, steps: int, batch: int) -> TrainingOptions:
    """Numbers of the loop of one network, with draws of its own."""
    return replace(options_of(config), steps=steps, batch=batch, seed=key(config.training.seed, "scale", scale) % 2**31)


def _each(config: FitConfig, name: str, scales: list[int], depth: int) -> tuple[int, ...]:
    """Steps ("each") or images of a step ("batches") of every network, coarse first: those that the configuration
    lists, or as many for all."""
    training = config.training
    stated = getattr(training, name)
    if stated is None:
        return ({"each": training.steps, "batches": training.batch}[name],) * len(scales)
    if len(stated) != len(scales):
        names = ", ".join(_folder(Path(), scale, depth).name for scale in scales)
        raise InputError(f"training.{name}", stated, f"{len(scales)} numbers: {names}")
    return tuple(stated)


def _model(denoiser: CascadeDenoiser) -> NetModel:
    assert isinstance(denoiser.model, NetModel)
    return denoiser.model


def source_of(plan: FitPlan) -> Callable[[int], str] | None:
    """The group that a held-out patch is of: patches of one patient are not independent."""
    patches = plan.validation
    return (lambda number: patches.place(number).group) if isinstance(patches, PatchSet) else None


def _crop(plan: FitPlan) -> int | None:
    """Side of the parts of a sub-lattice that networks of details are trained on."""
    return CascadeNet.crop_of(plan.spec.network["options"], plan.config.name)


def _scales(denoiser: CascadeDenoiser) -> list[int]:
    """One scale of every network, coarse first; the shared one is that of the finest details."""
    model = _model(denoiser)
    nets = model.net
    if isinstance(model, RegressionModel) and model.silent:  # details that are left out need no training
        return [nets.levels]
    return [nets.levels, 0] if nets.shared else list(range(nets.levels, -1, -1))


def _folder(folder: Path, scale: int, depth: int) -> Path:
    return folder / ("coarse" if scale == depth else f"level-{scale + 1}")


def _time_steps(plan: FitPlan, denoiser: CascadeDenoiser, scales: list[int], batches: tuple[int, ...]) -> list[float]:
    """Seconds of one step of every network, on weights that are thrown away."""
    batch, found = batcher(plan.training, plan.spec.intensity), []
    for scale, count in zip(scales, batches, strict=True):
        trainer, times = LevelTrainer.of(denoiser, scale, _crop(plan)), []
        for trial in range(2):
            keys = [key(trial, "timing", i) for i in range(count)]
            start = time.perf_counter()
            losses = level_loss(trainer, batch(keys), torch.tensor(keys, device="cpu"))
            losses.total.mean().backward()
            float(losses.total.detach().mean())  # waits for a GPU
            times.append(time.perf_counter() - start)
        found.append(min(times))
    return found
