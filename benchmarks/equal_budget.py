"""Networks that differ in one thing and share the rest: training for `instruments.py` and `worth.py`.

Data, network, optimizer, steps, batch and seeds are those of configs/any-scanner.yaml.  A run is killed and started
again at will: every network has its folder of checkpoints, and a finished one is only read.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from retrodict._check import InputError, read_json
from retrodict._output import write_file
from retrodict._random import key, uniform
from retrodict.bases import Basis, Fourier
from retrodict.bases.spectrum import Spectrum
from retrodict.data.spacings import SpacingSet
from retrodict.denoisers.network import NetDenoiser
from retrodict.denoisers.spread_scale import SpreadScale
from retrodict.models.model import Intensity, Model, ModelSpec
from retrodict.models.tensors import load_weights, read_tensors
from retrodict.nets import Network
from retrodict.processes.clocks import ClockLaw, at_rest
from retrodict.processes.fourier import measured
from retrodict.processes.process import Process
from retrodict.tasks.fit_collection import Sets, body_spectrum, training_sets
from retrodict.tasks.fit_config import FitConfig, load_config
from retrodict.tasks.held_out import slices_of
from retrodict.tasks.in_use import in_use
from retrodict.training.calibrate_law import calibrate_over_law
from retrodict.training.loop import Objective, Progress, TrainingOptions, train
from retrodict.training.losses import Batch, Example, ProcessLaw, denoising_loss
from scanners import Scanner, curves

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "any-scanner.yaml"


# ---- laws of observations --------------------------------------------------------------------------------------------


@lru_cache(maxsize=256)
def instrument(scanner: Scanner, basis: Fourier, scale: float) -> Process:
    """The process that ends at a scanner, on a grid of square pixels."""
    return measured(basis, *curves(scanner, basis.spacing[0]), unit_scale=scale)


@dataclass(frozen=True)
class RampLaw:
    """Clocks of one scanner alone, a `ProcessLaw`: its end with probability `end`, else a uniform time of its ramp.

    `end` and the least time are those of the instruments of `ClockLaw`, so that a specialist sees the ramp as the
    network of every instrument does.  With `end` 1 it is the measurement alone.
    """

    scanner: Scanner
    scale: float
    end: float = 0.4

    def clocks(self, basis: Basis, seeds: Tensor) -> Tensor:
        """R `(B, 1, *K)` in model units squared."""
        assert isinstance(basis, Fourier)
        u = uniform(seeds, "ramp-time", 0)
        t = torch.where(uniform(seeds, "ramp-end", 0) < self.end, 1.0, 0.03 + 0.97 * u)
        return instrument(self.scanner, basis, self.scale).clock(t)

    def __call__(self, basis: Basis, seeds: Tensor) -> Process:
        """A process at rest with one clock for every seed."""
        return at_rest(basis, self.clocks(basis, seeds))

    def instrument(self, basis: Basis, seed: int) -> Process:
        """The scanner, whatever the seed."""
        assert isinstance(basis, Fourier)
        return instrument(self.scanner, basis, self.scale)

    def to_json(self) -> dict[str, Any]:
        return {"name": "ramp", "options": {**self.scanner._asdict(), "scale": self.scale, "end": self.end}}


# ---- training --------------------------------------------------------------------------------------------------------


@dataclass
class Budget:
    """What all networks share.  `out` holds a folder for each, and the spectrum.

    start: a model whose weights every network starts from, instead of random ones.  precision: "float32" or "bf16", of
    the training alone.
    """

    config: FitConfig
    options: TrainingOptions
    out: Path
    device: str = "cpu"
    given_spectrum: Path | None = None
    start: Model | None = None
    precision: str = "float32"
    _sets: Sets | None = field(default=None, repr=False)

    @property
    def intensity(self) -> Intensity:
        stated = self.config.intensity
        return Intensity(stated.unit, stated.scale, stated.offset)

    @property
    def sets(self) -> Sets:
        """The images, read when they are first needed."""
        if self._sets is None:
            print("reading the images", flush=True)
            self._sets = training_sets(self.config, CONFIG.parent)
        return self._sets

    @cached_property
    def spectrum(self) -> Spectrum:
        """That of the model they start from, or of the training images, kept in the folder; the same for all."""
        if self.start is not None:
            return Spectrum.from_json(self.start.spec.spectrum, "spectrum")
        path = self.given_spectrum or self.out / "spectrum.json"
        if not path.exists():
            training = self.sets.training
            assert isinstance(training, SpacingSet)
            found = body_spectrum(training.slices, self.intensity, training.size)
            write_file(path, json.dumps(found.to_json(), indent=1).encode())
        return Spectrum.from_json(read_json(path, "a spectrum"), str(path))

    def fresh(self, bands: int) -> NetDenoiser:
        """A network whose weights are those that every other network starts from, but for its last layer."""
        config = self.config
        spec = ModelSpec(
            process={**config.process.model_dump(), "basis": {"name": "fourier", "options": {}}},
            network=config.network.model_dump(),
            spectrum=self.spectrum.to_json(),
            intensity=self.intensity,
            spacing=tuple(config.spacing),
            size=tuple(config.data.patch),
            bands=bands,
            level="clock",
        )
        torch.manual_seed(key(self.options.seed, "weights") % 2**31)
        return spec.build("network").to(self.device)

    def trained(
        self,
        name: str,
        law: ProcessLaw,
        *,
        objective: Objective | None = None,
        bands: int = 4,
        wrap: Callable[[Network], Network] | None = None,
    ) -> NetDenoiser:
        """The network of a law: trained, resumed, or as it is there; with averaged weights."""
        denoiser = replace(self.fresh(bands), precision=self.precision)
        if self.start is not None:
            denoiser.net.load_state_dict(self.start.denoiser.net.state_dict())
        if wrap is not None:
            denoiser = replace(denoiser, net=wrap(denoiser.net))
        chosen = objective or _over(law)
        identity = {
            "name": name,
            "law": json.dumps(law.to_json(), sort_keys=True),  # type: ignore[attr-defined]
            "network": self.config.network.model_dump(),
            "data": self.config.data.model_dump(),
            "spectrum": json.dumps(self.spectrum.to_json()),
            "bands": bands,
        }
        if self.start is not None:
            identity["start"] = hashlib.sha256(save(dict(self.start.denoiser.net.state_dict()))).hexdigest()
        folder = self.out / name
        folder.mkdir(parents=True, exist_ok=True)
        average = train(
            denoiser, self._batch(), self.options, folder, objective=chosen, identity=identity, watch=_Told(name)
        )
        denoiser.net.load_state_dict(average)
        return replace(denoiser, net=denoiser.net.eval().requires_grad_(False), precision="float32")

    def started(self, bands: int = 4) -> NetDenoiser:
        """The network that all others start from, as it is."""
        assert self.start is not None
        denoiser = self.fresh(bands)
        denoiser.net.load_state_dict(self.start.denoiser.net.state_dict())
        return replace(denoiser, net=denoiser.net.eval().requires_grad_(False))

    def loaded(self, path: Path, bands: int = 4) -> NetDenoiser:
        """The averaged weights of a checkpoint, or of a model."""
        denoiser = self.fresh(bands)
        weights = path / "average.safetensors" if path.is_dir() else path.with_suffix(".safetensors")
        load_weights(denoiser.net, read_tensors(weights, denoiser.net.state_dict()), weights)
        return replace(denoiser, net=denoiser.net.eval().requires_grad_(False))

    def calibrated(
        self, name: str, denoiser: NetDenoiser, law: ProcessLaw, patients: Sequence[str] | None = None, tag: str = "all"
    ) -> NetDenoiser:
        """With the factors on its spread measured on validation patients (all, or those named), as `retrodict fit` does
        (a law of white noise alone has no instruments to look at); kept in its folder.
        """
        path = self.out / name / f"factors-{tag}.json"
        if not path.exists():
            held, seed = self._held_out(patients), self.options.seed
            scale = calibrate_over_law(denoiser, _encoded(held, self.intensity), law, seed=seed)
            if isinstance(law, RampLaw) or (isinstance(law, ClockLaw) and law.white < 1):
                scale = in_use(
                    replace(denoiser, spread_scale=scale), law, slices_of(held.slices, self.intensity.encode), seed
                )
            assert scale is not None
            path.parent.mkdir(parents=True, exist_ok=True)
            write_file(path, json.dumps(asdict(scale)).encode())
        scale = SpreadScale.from_json(read_json(path, "factors on a spread"), denoiser.bands)
        return replace(denoiser, spread_scale=scale)

    def _batch(self) -> Batch:
        """Read only if a step is made."""
        return lambda keys: _encoded(self.sets.training, self.intensity)(keys)


def _over(law: ProcessLaw) -> Objective:
    return lambda denoiser, batch, seeds, loss, weight: denoising_loss(denoiser, batch, seeds, loss, weight, law=law)


def _encoded(patches: Any, intensity: Intensity) -> Callable[[list[int]], Example]:
    def batch(keys: list[int]) -> Example:
        values, spacing = patches.batch(keys)
        return Example(intensity.encode(values), spacing=(spacing, spacing))

    return batch


class _Told:
    """A line every few hundred steps."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, p: Progress) -> None:
        if p.step % 200 == 0 or p.step == p.steps:
            print(f"  {self.name}: step {p.step} of {p.steps}, loss {p.loss:.3f}, {p.seconds:.2f} s a step, "
                  f"{p.left / 60:.0f} min left", flush=True)  # fmt: skip


def checkpoint_options(folder: Path) -> TrainingOptions | None:
    """The options under which a network of every instrument was trained as far as its checkpoint; None for a model.

    A run that was stopped before its rate began to fall is, up to there, a shorter one whose rate never falls.
    """
    if not folder.is_dir():
        return None
    record = read_json(folder / "state.json", "the record of a checkpoint")
    options, step = TrainingOptions(**record["options"]), int(record["step"])
    if step == options.steps:
        return options
    if step > (1 - options.decay) * options.steps:
        expected = f"one of before the rate falls ({(1 - options.decay) * options.steps:.0f} steps), or of the end"
        raise InputError(f"{folder}: step", f"{step} of {options.steps}", expected)
    return replace(options, steps=step, decay=0.0)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of both programs."""
    parser.add_argument("out", type=Path, help="folder of networks and results; what is there is not done again")
    parser.add_argument("--steps", type=int, default=4000, help="of training, of every network")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda")
    parser.add_argument("--threads", type=int, default=1, help="of torch on a CPU")
    parser.add_argument("--general", type=Path, metavar="PATH", help="network of every instrument: a checkpoint's "
                        "folder, whose steps and options all others then have, or a model")  # fmt: skip
    parser.add_argument("--spectrum", type=Path, help="spectrum that --general was trained with, where it is not in "
                        "PATH.json")  # fmt: skip
    parser.add_argument("--most", type=int, default=99, help="validation patients to measure")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", dest="words",
                        help="override a field of configs/any-scanner.yaml")  # fmt: skip


def budget(given: argparse.Namespace, data: Path) -> Budget:
    """From the flags; prints where the general network was trained otherwise."""
    torch.set_num_threads(given.threads)
    config = load_config(CONFIG, [f"data.root={data}", *given.words])
    stated = config.training.model_dump()
    fields = TrainingOptions.__dataclass_fields__
    warmup = min(stated["warmup"], max(1, given.steps // 10))
    options = TrainingOptions(
        **{k: v or 0 for k, v in {**stated, "steps": given.steps, "warmup": warmup}.items() if k in fields}
    )
    spectrum = given.spectrum
    if given.general is not None:
        found = checkpoint_options(given.general)
        if found is not None and found.steps != given.steps:
            sys.exit(f"--general {given.general} is a checkpoint of step {found.steps}: say --steps {found.steps}, so "
                     "that all networks have as many")  # fmt: skip
        if found is None:
            record = read_json(given.general.with_suffix(".json"), "the record of a model")
            trained = record.get("card", {}).get("training", {}).get("steps")
            print(f"note: {given.general} is a model of {trained} steps; the others have {given.steps}, and the price "
                  "of generality is not one at equal budget unless these agree", flush=True)  # fmt: skip
            if spectrum is None:
                spectrum = given.out / "spectrum.json"
                write_file(spectrum, json.dumps(record["spectrum"], indent=1).encode())
        elif spectrum is None:
            sys.exit("--general with a checkpoint needs --spectrum FILE, the spectrum that it was trained with")
        options = found or options
    given.out.mkdir(parents=True, exist_ok=True)
    return Budget(config, options, given.out, given.device, spectrum)
