"""The readable functions from a configuration or a file to a result."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from retrodict._check import InputError, Recipe, build
from retrodict._output import said, stamp, write_file
from retrodict._random import key
from retrodict.bases import BASES, Wavelet
from retrodict.bases.curve import Curve
from retrodict.bases.spectrum import Spectrum, band_spectrum, channel_spectrum
from retrodict.data import PatchSet
from retrodict.data.spacings import SpacingSet
from retrodict.denoisers.network import NetDenoiser
from retrodict.models.cascade import is_cascade
from retrodict.models.instrument import AROUND
from retrodict.models.model import MODELS, Intensity, ModelSpec, model_files, read_spec, save_model, shipped
from retrodict.models.tensors import load_weights, read_tensors
from retrodict.nets import JointNet, UNet, WaveletCascade, precision_for
from retrodict.processes.clocks import law_from_json
from retrodict.processes.recipes import process_from_recipe, process_to_recipe
from retrodict.tasks.fit_bands import check_bands
from retrodict.tasks.fit_collection import Sets, body_spectrum, training_sets
from retrodict.tasks.fit_config import FitConfig
from retrodict.tasks.fit_identity import check_finished, identity_of, signature
from retrodict.tasks.fit_joint import joined, noisy_objective
from retrodict.tasks.fit_noise import OwnNoise, calibrated_without_truth, check_noise, clean_spectrum, own_noise
from retrodict.tasks.held_out import by_group, center, evenly, held_out, held_out_over_law, slices_of
from retrodict.tasks.in_use import in_use
from retrodict.tasks.machine import device_named, torch_threads, usable_cores
from retrodict.training.calibrate import calibrate_spread
from retrodict.training.calibrate_law import calibrate_over_law
from retrodict.training.cascade_posterior import cascade_posterior_loss
from retrodict.training.checkpoints import newest
from retrodict.training.loop import Objective, Progress, TrainingOptions, check_resumable, train
from retrodict.training.losses import Batch, Example, denoising_loss

__all__ = ["FitPlan", "batcher", "calibrated", "fit", "options_of", "prepare_fit"]


ENOUGH = 10
"""Held-out patients below which a training on volumes says that they are few."""


@dataclass
class FitPlan:
    """A training run that is ready to start, and what it will cost.

    identity: everything that makes the result what it is (see `fit_identity`).  notes: what a user should know first.
    each: steps of every network of a cascade, coarse first.
    """

    config: FitConfig
    spec: ModelSpec
    training: PatchSet | SpacingSet
    validation: PatchSet | SpacingSet | None
    seconds_per_step: float
    parameters: int
    start_step: int
    start_from: Path | None = None
    identity: dict[str, Any] = field(default_factory=dict, repr=False)
    notes: list[str] = field(default_factory=list)
    device: str = "cpu"
    each: tuple[int, ...] | None = None
    noise: OwnNoise | None = None
    keeps_mean: bool = False

    @property
    def steps(self) -> int:
        """Steps of all networks together."""
        return self.config.training.steps if self.each is None else sum(self.each)

    @property
    def seconds(self) -> float:
        """Estimated seconds for the remaining steps."""
        return self.seconds_per_step * (self.steps - self.start_step)


def prepare_fit(config: FitConfig, folder: Path, base: Path) -> FitPlan:
    """Load the data, estimate the spectrum, build the model and time two steps; nothing is trained yet.

    `base`: folder that a relative `data.root` is relative to.
    """
    check_bands(config)
    noise = own_noise(config, base)  # both before the images are read
    sets = training_sets(config, base)
    training, validation = sets.training, sets.validation
    if noise is not None:
        check_noise(noise, training, validation)
    spec, known = _spec(config, sets, base, noise)
    device = device_named(config.training.device)  # refuse a GPU that is not there now
    if is_cascade(spec.network):
        from retrodict.tasks.fit_cascade import prepare_cascade  # it is made of the parts of this module

        return prepare_cascade(config, folder, training, validation, spec, device)
    denoiser = _built(spec, config)
    parameters = sum(p.numel() for p in denoiser.net.parameters())
    first = _first(config, base)
    if first is not None:
        _start_from(denoiser.net, first)  # refuse a misfit now
    keeps = first is not None and isinstance(denoiser.net, WaveletCascade) and denoiser.net.fixed
    spec = _with_mean_of(spec, first) if keeps and first is not None else spec
    identity = identity_of(config, spec.process, {"training": training, "validation": validation}, first,
                           None if noise is None else noise.card())  # fmt: skip
    start, notes = _start(config, folder, identity)
    spec = replace(spec, card={**spec.card, "run": signature(identity)})
    plan = FitPlan(config, spec, training, validation, 0.0, parameters, start, first, identity, known + notes, device)
    plan.notes += _few(plan)
    plan.noise, plan.keeps_mean = noise, keeps
    with torch_threads(config.training.threads):
        plan.seconds_per_step = _time_step(plan)
    return plan


def _few(plan: FitPlan) -> list[str]:
    """A sentence where so few patients are held out that a verdict on volumes will hardly ever let a deviation pass."""
    if not plan.config.volumes or plan.config.law is None:
        return []
    assert not isinstance(plan.validation, SpacingSet)
    held = set() if plan.validation is None else {name for name, _ in plan.validation.images()}
    if len(held) >= ENOUGH:
        return []
    few = (
        f"{len(held)} held-out patients are few: intervals from them are so wide that restored volumes will have a mean"
    )
    return [f"{few} and mostly no deviation. Name {ENOUGH} or more in data.validation."]


def _start(config: FitConfig, folder: Path, identity: dict[str, Any]) -> tuple[int, list[str]]:
    """The step that the run goes on from, and sentences on checkpoints that are damaged.

    Raises `InputError` where the folder holds checkpoints, or a finished model, of another configuration.
    """
    found, notes = newest(folder)
    if found is None:
        check_finished(model_files(folder / config.name)[1], identity, config.training.steps)
        return 0, notes
    check_resumable(found, options_of(config), identity)
    return found.step, notes


def _built(spec: ModelSpec, config: FitConfig) -> NetDenoiser:
    """With fresh weights, drawn on the CPU, so that they do not depend on the device."""
    training = config.training
    with torch.random.fork_rng(devices=[]):  # the global stream is the caller's
        torch.manual_seed(key(training.seed, "weights") % 2**31)
        return spec.build(config.name, precision_for(training.precision, device_named(training.device)))


def _first(config: FitConfig, base: Path) -> Path | None:
    """The model whose weights a run starts from: a path, or the name of a shipped one where there is no such file."""
    name = config.start_from
    if name is None:
        return None
    return shipped(name) if name in MODELS and not model_files(base / name)[1].exists() else base / name


def _start_from(net: nn.Module, path: Path) -> None:
    """Weights of a model; those of a plain network are the mean of a cascade, which is kept as it is, those of a
    network of two axes those of every slice, and those of one network the score network of two that are joint."""
    weights, record = model_files(path)
    spec = read_spec(record)[0]
    if isinstance(net, JointNet) and spec.network.get("name") != "joint":
        net = net.score
    if isinstance(net, WaveletCascade) and spec.network.get("name") != "wavelet_cascade":
        load_weights(net.mean, read_tensors(weights, net.mean.state_dict()), weights)
        net.mean.requires_grad_(False)
        return
    if isinstance(net, UNet) and net.slices and len(spec.spacing) == 2:
        load_weights(net, net.from_plane(read_tensors(weights, net.plane_state())), weights)
        return
    load_weights(net, read_tensors(weights, net.state_dict()), weights)


def _with_mean_of(spec: ModelSpec, path: Path) -> ModelSpec:
    """The record of a cascade whose mean is that of another model: spectrum and calibration are of that one.

    Raises `InputError` where it was told or trained otherwise.
    """
    own, _ = read_spec(model_files(path)[1])
    laws = [None if x.law is None else law_from_json(x.law, "law") for x in (spec, own)]  # with every default
    if laws[0] != laws[1]:
        raise InputError("law", spec.law, f"{own.law}, as start_from has, whose mean is kept")
    for name in ("level", "bands", "intensity", "channels", "predicts"):
        found, wanted = getattr(spec, name), getattr(own, name)
        if found != wanted:
            raise InputError(name, found, f"{wanted}, as start_from has, whose mean is kept")
    return replace(spec, spectrum=own.spectrum, spread_scale=own.spread_scale)


def fit(
    plan: FitPlan,
    folder: Path,
    *,
    watch: Callable[[Progress], None] | None = None,
    tensorboard: bool = True,
) -> Path:
    """Train to the end (resuming where a killed run stopped) and write `folder/NAME.{safetensors,json}`."""
    write_file(folder / "config.json", plan.config.model_dump_json(indent=1).encode())
    with torch_threads(plan.config.training.threads), _Log(folder, tensorboard) as log:
        if is_cascade(plan.spec.network):
            from retrodict.tasks.fit_cascade import fit_cascade

            return fit_cascade(plan, folder, watch, log)
        average = _trained(plan, folder, watch, log)
        weights, _ = save_model(calibrated(plan, average), average, folder / plan.config.name)
    return weights


def _trained(
    plan: FitPlan, folder: Path, watch: Callable[[Progress], None] | None, log: Callable[[dict[str, Any]], None]
) -> dict[str, Tensor]:
    """The averaged weights after all steps."""
    config = plan.config
    denoiser = _built(plan.spec, config)
    if plan.start_from is not None:
        _start_from(denoiser.net, plan.start_from)
    return train(
        denoiser.to(plan.device),
        _batch(plan, plan.training),
        options_of(config),
        folder,
        validation=None if plan.validation is None else _batch(plan, plan.validation),
        watch=watch,
        log=log,
        objective=_objective(config),
        identity=plan.identity,
        note=lambda sentence: log({"note": sentence}),
    )


def calibrated(plan: FitPlan, average: dict[str, Tensor]) -> ModelSpec:
    """The specification with the error variances calibrated on the validation groups, where there are any.

    Of a mean that is kept the calibration is kept, too; what members look like is of the new networks.
    """
    if plan.validation is None:
        return plan.spec
    # on the CPU, as most who restore with it will use it, and in the precision that is fast there
    denoiser = replace(_built(plan.spec, plan.config), precision=precision_for(plan.config.training.precision))
    denoiser.net.load_state_dict(average)
    if plan.noise is not None:
        assert isinstance(plan.validation, SpacingSet)
        return calibrated_without_truth(plan.spec, denoiser, plan.validation, plan.noise, plan.config)
    # what surrounds a body errs little and says nothing of it
    fuller = replace(plan.validation, max_empty=0.5) if isinstance(plan.validation, SpacingSet) else plan.validation
    batch = batcher(fuller, plan.spec.intensity)
    law, seed = plan.config.clocks(), plan.config.training.seed
    if law is not None:
        pairs, scale = _pairs(plan), denoiser.spread_scale
        if not plan.keeps_mean:
            scale = calibrate_over_law(denoiser, batch, law, seed=seed)
            scale = in_use(replace(denoiser, spread_scale=scale), law, pairs, seed)
        spec = plan.spec if scale is None else replace(plan.spec, spread_scale=asdict(scale))
        record = held_out_over_law(replace(denoiser, spread_scale=scale), law, pairs, seed)
        return spec if record is None else replace(spec, held_out=record.to_json())
    scale = denoiser.spread_scale if plan.keeps_mean else calibrate_spread(denoiser, batch, seed=seed)
    spec = plan.spec if scale is None else replace(plan.spec, spread_scale=asdict(scale))
    encoded = ((name, plan.spec.intensity.encode(image)) for name, image in plan.validation.images())
    record = held_out(replace(denoiser, spread_scale=scale), by_group(encoded), seed)
    return spec if record is None else replace(spec, held_out=record.to_json())


def _pairs(plan: FitPlan) -> dict[str, list[tuple[Tensor, Any]]]:
    """Of every patient who is held out some images in model units, and their spacing in mm (of volumes, by axis)."""
    encode = plan.spec.intensity.encode
    if isinstance(plan.validation, SpacingSet):
        return slices_of(plan.validation.slices, encode)
    found: dict[str, list[tuple[Tensor, Any]]] = {}
    for name, image in [] if plan.validation is None else plan.validation.images():
        found.setdefault(name, []).append((encode(center(image, AROUND[image.ndim - 1])), plan.spec.spacing))
    return {name: evenly(images) for name, images in found.items()}


def options_of(config: FitConfig) -> TrainingOptions:
    """The numbers of the loop, with the number of workers that the device asks for."""
    fields, stated = TrainingOptions.__dataclass_fields__, config.training.model_dump()
    if stated["workers"] is None:  # a CPU trains more slowly than one process cuts patches
        stated["workers"] = 0 if device_named(config.training.device) == "cpu" else max(1, min(8, usable_cores() - 1))
    return TrainingOptions(**{k: v for k, v in stated.items() if k in fields})


def batcher(patches: PatchSet | SpacingSet, intensity: Intensity) -> Batch:
    """Patches in model units; of many spacings with the one that this batch has."""
    if isinstance(patches, PatchSet):
        return lambda keys: intensity.encode(patches.batch(keys))

    def batch(keys: list[int]) -> Example:
        values, spacing = patches.batch(keys)
        return Example(intensity.encode(values), spacing=(spacing, spacing))

    return batch


def _batch(plan: FitPlan, patches: PatchSet | SpacingSet) -> Batch:
    """`batcher`, or that of images with noise of their own."""
    if plan.noise is None:
        return batcher(patches, plan.spec.intensity)
    assert isinstance(patches, SpacingSet)
    return plan.noise.batcher(patches, plan.spec.intensity)


def _objective(config: FitConfig) -> Objective:
    """The loss over the law of the configuration, or of its process; of noisy images that of theirs."""
    law = config.clocks()
    if law is not None and config.data.noise is not None:
        return noisy_objective(law, config.data.noise)
    loss: Any = cascade_posterior_loss if config.network.name == "wavelet_cascade" else denoising_loss
    return loss if law is None else partial(loss, law=law)


def _spectrum(config: FitConfig, training: PatchSet | SpacingSet, intensity: Intensity) -> Spectrum:
    """The statistics of the data: by band of a wavelet basis, else by frequency."""
    if isinstance(training, SpacingSet):
        return body_spectrum(training.slices, intensity, training.size)
    keys = range(256)
    patches = [intensity.encode(training.patch(key(config.training.seed, "spectrum", k))) for k in keys]
    recipe, where = config.process.basis, f"{config.name}: process.basis"
    if recipe.name != "wavelet":
        return channel_spectrum(patches, config.spacing)
    basis = build(BASES, Recipe(recipe.name, recipe.options), where, tuple(config.data.patch), tuple(config.spacing))
    assert isinstance(basis, Wavelet)
    return band_spectrum(patches, basis)


def _of_data(record: dict[str, Any], spectrum: Spectrum) -> dict[str, Any]:
    """The record of a process whose option `spectrum: data` is the spectrum of the data; in its reference, too."""
    options = dict(record.get("options", {}))
    if options.get("spectrum") == "data":
        options["spectrum"] = spectrum.to_json()
    if isinstance(options.get("reference"), dict):
        options["reference"] = _of_data(options["reference"], spectrum)
    return {**record, "options": options}


def _spec(config: FitConfig, sets: Sets, base: Path, noise: OwnNoise | None) -> tuple[ModelSpec, list[str]]:
    """The model before it is trained, and what a user should know of the noise of the images."""
    training, law = sets.training, config.clocks()
    intensity = Intensity(config.intensity.unit, config.intensity.scale, config.intensity.offset)
    spectrum, own, notes = clean_spectrum(_spectrum(config, training, intensity), noise, training)
    record = _of_data(_instrument(config.process.model_dump(), intensity, base), spectrum)
    process = process_from_recipe(record, config.data.patch, config.spacing, f"{config.name}: process")
    spec = ModelSpec(
        process=process_to_recipe(process),
        network=joined(config),
        spectrum=spectrum.to_json(),
        intensity=intensity,
        spacing=tuple(config.spacing),
        size=tuple(config.data.patch),
        predicts=config.predicts,
        bands=config.bands,
        level=config.level,
        channels=training.names,
        law=None if law is None else law.to_json(),
        spacings=training.reach if isinstance(training, SpacingSet) else None,
        card={
            **config.card,
            "name": config.name,
            "started_from": config.start_from,
            "training": config.training.model_dump(),
            "data": _data_card(config, training),
            "validation": _held(config, sets),
            "images": len(training),
            **sets.card,
            **own,
            "versions": stamp()["versions"],
        },
    )
    return spec, notes


def _data_card(config: FitConfig, training: PatchSet | SpacingSet) -> list[dict[str, Any]]:
    """What the card says of the images: the groups as they are written, or else the names of those that were found.

    With tables of images it says nothing of patients: `fit_collection` counts them.
    """
    if config.data.indices:
        return [g.model_dump() for g in config.data.groups]
    if config.data.groups and not config.data.folders and config.data.simulated is None:
        return [g.model_dump() for g in config.data.groups]
    return [{"name": name} for name in dict.fromkeys(name for name, _ in training.images())]


def _held(config: FitConfig, sets: Sets) -> list[str]:
    """Names of the groups that are held out: those of the configuration, or those that its fraction took."""
    stated, validation = config.data.validation, sets.validation
    if isinstance(stated, list):
        return stated
    if isinstance(validation, SpacingSet):
        names = [item.patient for item in validation.slices]
    else:
        names = [] if validation is None else [name for name, _ in validation.images()]
    return list(dict.fromkeys(names))


def _instrument(record: dict[str, Any], intensity: Intensity, base: Path) -> dict[str, Any]:
    """Process record with measured curves read from JSON files (paths relative to the configuration) and the scale of
    the model unit filled in, so that an NPS in data units becomes a variance in model units.
    """
    if record["name"] != "measured":
        instrument = record["options"].get("instrument")
        if isinstance(instrument, dict) and instrument.get("name") == "measured":
            record["options"]["instrument"] = _instrument({"options": {}, **instrument}, intensity, base)
        return record
    options = record["options"]
    scale = options.setdefault("unit_scale", intensity.scale)
    if scale != intensity.scale:
        raise InputError("process.options.unit_scale", scale, f"intensity.scale {intensity.scale} (or leave it out)")
    for name in ("mtf", "nps"):
        if isinstance(options.get(name), str):
            options[name] = Curve.parse(base / options[name], name).to_json()
    return record


def _time_step(plan: FitPlan) -> float:
    """Seconds of one training step, measured on a model that is thrown away."""
    config = plan.config
    denoiser = _built(plan.spec, config).to(plan.device)
    batch = _batch(plan, plan.training)
    objective, times = _objective(config), []
    for trial in range(3):
        keys = [key(trial, "timing", i) for i in range(config.training.batch)]
        start = time.perf_counter()
        made = batch(keys)
        start = time.perf_counter() if options_of(config).workers else start  # then others make it meanwhile
        losses = objective(denoiser, made, torch.tensor(keys, device="cpu"), config.training.loss, 0.1)
        losses.total.mean().backward()
        float(losses.total.detach().mean())  # waits for a GPU
        times.append(time.perf_counter() - start)
    return min(times[1:])


class _Log:
    """JSON lines and, where tensorboard is installed, its event files.

    Raises `OutputError` where a line cannot be written.
    """

    def __init__(self, folder: Path, tensorboard: bool) -> None:
        self._path = folder / "log.jsonl"
        with said(self._path):
            self._stream = self._path.open("a")
        self._writer: Any = None
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:  # an extra; the JSON lines hold the same numbers
                return
            with said(folder / "tensorboard"):
                self._writer = SummaryWriter(str(folder / "tensorboard"))

    def __enter__(self) -> _Log:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # what could not be written has been said
            self._stream.close()
        if self._writer is not None:
            with suppress(OSError):
                self._writer.close()

    def __call__(self, record: dict[str, Any]) -> None:
        with said(self._path):
            self._stream.write(json.dumps(record) + os.linesep)
            self._stream.flush()
        if self._writer is not None and "step" in record:
            for name, value in record.items():
                self._writer.add_scalar(name, value, int(record["step"]))
