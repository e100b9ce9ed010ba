"""What an evaluation compares: its configuration, the true and measured images, and the results of every method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_serializer
from torch import Tensor

from retrodict._check import InputError, read_json
from retrodict.data import Image, discover, read
from retrodict.models.instrument import measure
from retrodict.models.model import Model, model_files, open_model
from retrodict.tasks.config_file import Strict, read_config
from retrodict.tasks.options import RestoreOptions, canonical
from retrodict.tasks.prepare import prepared
from retrodict.tasks.restore import restore_image

__all__ = [
    "Disc",
    "EvaluationConfig",
    "Method",
    "Result",
    "Task",
    "instrument_of",
    "load_evaluation",
    "measured_images",
    "method_model",
    "options_of",
    "point",
    "result_of",
    "run",
    "true_images",
]


class Method(Strict):
    """A method: a folder of results, or a model to run here.

    path: folder with NAME_mean, NAME_sd and NAME_sample-000 ... (as `retrodict restore` writes) or with NAME alone, a
    point estimate.  Without a path, `model` is run with the options of `restore`, written beside it: rule, steps,
    samples, ... (`uncertainty: false` is `point: true`).
    """

    name: str
    path: str | None = None
    model: str = "ct"
    options: RestoreOptions = RestoreOptions()
    embeds: ClassVar[Mapping[str, Any]] = {"options": RestoreOptions}

    @classmethod
    def respelled(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """`uncertainty` and `resampling` as the fields that they stand for."""
        return canonical(given)

    @model_serializer
    def _flat(self) -> dict[str, Any]:
        """As it is written: what a reader wants to see of every method, and what differs from the defaults."""
        if self.path is not None:  # made elsewhere: the options here made nothing
            return {"name": self.name, "path": self.path}
        options = self.options
        always = {"rule": options.rule, "steps": options.steps, "samples": options.samples}
        always |= {"uncertainty": not options.point, "seed": options.seed}
        values = {f.name: (getattr(options, f.name), f.default) for f in fields(options)}
        others = {n: v for n, (v, default) in values.items() if v != default and n not in (*always, "point")}
        return {"name": self.name, "path": self.path, "model": self.model, **always, **others}


class Disc(Strict):
    """A disc for the contrast-to-noise ratio, in pixels; the background is the ring from 1.5 to 2.5 radii."""

    row: float
    column: float
    radius: float = Field(gt=1)
    slice: int = 0


class Task(Strict):
    """A low-contrast disc to detect: contrast in the unit of the image, radius in mm, positions (row, column) in px.

    For methods that are run here, the disc's image is added to the first measured image and restored with the same
    seeds: this gives the MTF of instrument and restoration, and with the NPS of the uniform regions d'.
    """

    contrast: float
    radius: float = Field(gt=0, description="mm")
    positions: list[tuple[float, float]] = Field(min_length=1)


class EvaluationConfig(Strict):
    """What to compare: truth, measured images and methods; paths are relative to the file."""

    name: str = "evaluation"
    truth: list[str] = Field(min_length=1)
    measured: str | None = Field(None, description="folder or file of measured images, by the names of the truth")
    simulate: bool = Field(False, description="measure the truth with the instrument of the first model instead")
    methods: list[Method] = Field(min_length=1)
    reference: str | None = Field(None, description="method that the others are compared with (default: the first)")
    data_range: float | None = Field(None, gt=0, description="for PSNR and SSIM; 2000 for HU")
    uniform: list[tuple[int, int, int]] = Field(default_factory=list, description="row, column, size of regions")
    disc: Disc | None = None
    task: Task | None = Field(None, description="needs `uniform`, and methods that are run here")
    patients: str | None = Field(
        None,
        description="how images belong to patients: 'dicom' (PatientID), 'folder' (name of the folder of an image), or "
        "a regular expression whose first group is the patient in the name of an image; without it PatientID, if all "
        "images have one",
    )
    bands: int = Field(6, ge=2, le=32)
    bootstrap: int = Field(2000, ge=100)
    spacing: list[float] | None = None
    unit: str | None = None


def load_evaluation(path: str | Path) -> tuple[EvaluationConfig, Path]:
    """Configuration and the folder that its paths are relative to; every error names file and field."""
    return read_config(EvaluationConfig, path, "evaluation"), Path(path).resolve().parent


# ---- images ------------------------------------------------------------------------------------------------------


def true_images(config: EvaluationConfig, base: Path) -> dict[str, Image]:
    """The true images by name."""
    found: dict[str, Image] = {}
    for path in config.truth:
        for name, image in _read(base / path, config).items():
            if name in found:
                raise InputError(f"truth: {path}", f"a second image named {name!r}", "different names")
            found[name] = image
    if not found:
        raise InputError("truth", "no image", "at least one")
    return found


def measured_images(config: EvaluationConfig, base: Path, truths: Mapping[str, Image]) -> dict[str, Image]:
    """The measured images by the names of the truth, read or simulated; empty where there are none."""
    if config.simulate:
        if config.measured:
            raise InputError("simulate", "true beside measured images", "one of the two")
        first = config.methods[0]
        return {n: _simulated(t, instrument_of(first, t, base), i) for i, (n, t) in enumerate(truths.items())}
    if config.measured is None:
        return {}
    images = _read(base / config.measured, config)
    return {n: _named(images, n, t, config.measured) for n, t in truths.items()}


def instrument_of(method: Method, image: Image, base: Path) -> Model:
    """The model of a method, bound to its curves at the pixels of an image: the instrument that it assumes."""
    options = replace(options_of(method, base), device="cpu")
    return prepared(open_model(method_model(method, base)), options, image.spacing[-2:])[0]


def _simulated(truth: Image, model: Model, index: int) -> Image:
    if truth.values.ndim == 3:
        return measure(truth, model, seed=index)
    flat = Image(truth.values[:, 0], truth.unit, truth.spacing[-2:], truth.format, truth.source)
    slices = [measure(flat.with_values(v[None]), model, seed=1000 * index + z) for z, v in enumerate(truth.values[0])]
    return truth.with_values(torch.stack([s.values[0] for s in slices])[None])


def _named(images: Mapping[str, Image], name: str, truth: Image, where: str) -> Image:
    """Image `name` of a folder, also as NAME-measured or NAME_measured, on the grid of the truth."""
    candidates = (name, f"{name}-measured", f"{name}_measured")
    image = next((images[c] for c in candidates if c in images), None)
    if image is None and len(images) == 1:
        image = next(iter(images.values()))
    if image is None:
        raise InputError(f"measured: {where}", f"no image named {name!r}", f"one of {', '.join(sorted(images)[:5])}")
    return _like(image, truth, where)


def _like(image: Image, truth: Image, where: str) -> Image:
    if image.values.shape != truth.values.shape:
        raise InputError(where, f"shape {tuple(image.values.shape)}", f"that of the truth, {tuple(truth.values.shape)}")
    if image.unit != truth.unit:
        raise InputError(where, f"unit {image.unit!r}", f"{truth.unit!r}, the unit of the truth")
    return image


def method_model(method: Method, base: Path) -> str | Path:
    """Name or path of the model of a method; paths are relative to `base`."""
    path = base / method.model
    return path if model_files(path)[1].exists() else method.model


def _read(path: Path, config: EvaluationConfig) -> dict[str, Image]:
    spacing = None if config.spacing is None else tuple(config.spacing)
    if not path.exists():
        raise InputError(path, "nothing", "a file or a folder")
    options: dict[str, Any] = {"spacing": spacing, "unit": config.unit, "slices": "independent", "allow_gaps": True}
    return {s.name: read(s, **options, clip=False, expect=None).gray() for s in discover(path, results=True)}


# ---- results -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Result:
    """One method on one image, `(*N)`; `samples` `(K, *N)` where they are kept, `members` behind the deviation, `count`
    those whose scatter the error of the mean has a share of (None: none).
    """

    kind: Literal["posterior", "point"]
    mean: Tensor
    sd: Tensor | None = None
    samples: Tensor | None = None
    count: int | None = None
    seconds: float | None = None
    members: int | None = None


def point(image: Image) -> Result:
    """An image as a point estimate."""
    return Result("point", image.values[0])


def result_of(method: Method, name: str, truth: Image, measured: Image | None, base: Path) -> Result:
    """The result of a method on an image: read from its folder, or computed here."""
    return run(method, name, measured, base) if method.path is None else _load(method, name, truth, base)


def run(method: Method, name: str, measured: Image | None, base: Path) -> Result:
    """Restore a measured image with the model and the options of a method."""
    if measured is None:
        raise InputError(f"methods.{method.name}", "no measured image", "measured images, or simulate: true")
    options = options_of(method, base)
    found = restore_image(measured, open_model(method_model(method, base)), options, name=name)
    mean, seconds = found.mean.values[0], found.details["seconds"]
    if found.sd is None:
        return Result("point", mean, seconds=seconds)
    samples = torch.stack([s.values[0] for s in found.samples]) if found.samples else None
    count = found.details["sampling"]["mean_members"]
    return Result("posterior", mean, found.sd.values[0], samples, count, seconds, options.samples)


def options_of(method: Method, base: Path) -> RestoreOptions:
    """The options that a method is run with: members are kept where there are any, curves stand beside the file."""
    stated = method.options
    mtf, nps = _beside(stated.mtf, base), _beside(stated.nps, base)
    return replace(stated, keep_samples=not stated.point, mtf=mtf, nps=nps)


def _beside(curve: Any, base: Path) -> Any:
    """A path that is relative to the file of the configuration; records and curves as they are."""
    return base / curve if isinstance(curve, str | Path) else curve


def _load(method: Method, name: str, truth: Image, base: Path) -> Result:
    folder = base / str(method.path)
    where = f"methods.{method.name}: {folder}"
    if not folder.is_dir():
        raise InputError(where, "no such folder", "a folder of results")
    stems = {s.name: s for s in discover(folder, results=True)}
    values = {n: read(s, slices="independent", allow_gaps=True, clip=False, expect=None, unit=truth.unit,
                      spacing=truth.spacing[-2:] if s.format in ("png", "npz", "tiff") else None).gray()
              for n, s in stems.items() if n == name or n.startswith((f"{name}_", f"{name}-measured_"))}  # fmt: skip

    def part(role: str) -> Tensor | None:
        image = next((v for n, v in values.items() if n.endswith(f"_{role}")), None)
        return None if image is None else _like(image, truth, f"{where}/{name}_{role}").values[0]

    mean = part("mean")
    if mean is None:
        if name not in values:
            raise InputError(where, f"nothing named {name} or {name}_mean", f"results of the image {name}")
        return point(_like(values[name], truth, where))
    members = [v for n, v in sorted(values.items()) if "_sample-" in n]
    samples = torch.stack([_like(m, truth, where).values[0] for m in members]) if len(members) > 1 else None
    sd = part("sd")
    details = _details(folder, name)
    if details.get("kind") == "point" or sd is None:
        return Result("point", mean, None, None, None, details.get("seconds"))
    behind = details.get("members") or (len(members) if samples is not None else None)
    count = details.get("mean_members", behind)
    return Result("posterior", mean, sd, samples, count, details.get("seconds"), behind)


def _details(folder: Path, name: str) -> dict[str, Any]:
    """The record that `retrodict restore` writes beside its images, where it is there."""
    places = (folder / f"{name}_restore.json", folder / f"{name}-measured_restore.json")
    path = next((p for p in places if p.exists() or p.is_symlink()), None)
    if path is None:
        return {}
    record = read_json(path, "the record of a restoration")
    sampling, seconds = record.get("sampling", {}), record.get("seconds")
    members = sampling.get("members") if isinstance(sampling, dict) else sampling
    if not (members is None or (isinstance(members, int) and members > 0)):
        raise InputError(f"{path}: sampling.members", repr(members)[:80], "a number of members")
    if not (seconds is None or isinstance(seconds, int | float)):
        raise InputError(f"{path}: seconds", repr(seconds)[:80], "a number")
    return {"kind": record.get("kind"), "members": members, "seconds": seconds}
