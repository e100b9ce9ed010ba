"""Models on disk: NAME.safetensors (weights) beside NAME.json (everything else that is needed to use them)."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors.torch import save as save_tensors
from torch import Tensor

from retrodict._check import InputError, Recipe, build, choice, read_json
from retrodict._output import write_file
from retrodict.bases.paired import PairedSpectrum
from retrodict.bases.spectrum import Spectrum
from retrodict.denoisers.cascade_posterior import CascadePosterior
from retrodict.denoisers.flow_map import FlowMap, features_of
from retrodict.denoisers.network import LEVELS, NetDenoiser, channels_in, channels_out
from retrodict.denoisers.spread_scale import SpreadScale
from retrodict.models.tensors import as_ever, load_weights, read_tensors
from retrodict.nets import NETS, precision_for
from retrodict.processes.clocks import law_from_json
from retrodict.processes.process import Process
from retrodict.processes.recipes import process_from_recipe

__all__ = [
    "MODELS",
    "Intensity",
    "Model",
    "ModelSpec",
    "load_model",
    "model_files",
    "open_model",
    "read_spec",
    "save_model",
    "shipped",
]


FORMAT = "retrodict-model-1"


MOST_PIXELS = 1 << 24
"""Pixels of a training patch (4096 x 4096): a record with more than that is taken for a mistake."""


MOST_PARAMETERS = 1 << 30
"""Parameters of a network: a record with more than that is taken for a mistake, before anything is allocated."""


@dataclass(frozen=True)
class Intensity:
    """Affine map between the unit of the data and the unit of the model: u = (value - offset) / scale."""

    unit: str = "arbitrary"
    scale: float = 1.0
    offset: float = 0.0

    def encode(self, values: Tensor) -> Tensor:
        """Data unit to model unit."""
        return (values - self.offset) / self.scale

    def decode(self, u: Tensor) -> Tensor:
        """Model unit to data unit."""
        return u * self.scale + self.offset


@dataclass(frozen=True)
class ModelSpec:
    """Everything that is needed, beside the weights, to rebuild a model.

    `law`: the law that its observations were drawn from, `{"name": "clocks", "options": {...}}` with every option of
    `processes.clocks.ClockLaw`, or None where it was trained on its `process` alone.  `spacings`: least and largest
    pixel spacing (mm) that it was trained on, or None where that is `spacing`.  `flow_map`: whether its network is told
    the end of a step of the flow beside its beginning (`denoisers.flow_map.FlowMap`).  `paired`: record of a
    `PairedSpectrum`, for a condition image of unknown law.
    """

    process: dict[str, Any]
    network: dict[str, Any]
    spectrum: dict[str, Any]
    intensity: Intensity
    spacing: tuple[float, ...]
    size: tuple[int, ...]
    predicts: str = "wiener"
    bands: int = 0
    level: str = "rms"
    channels: tuple[str, ...] = ("gray",)
    spread_scale: dict[str, Any] | None = None
    held_out: dict[str, Any] | None = None
    law: dict[str, Any] | None = None
    spacings: tuple[float, float] | None = None
    flow_map: bool = False
    paired: dict[str, Any] | None = None
    card: dict[str, Any] = field(default_factory=dict)

    def build(self, where: str = "model", precision: str = "float32") -> NetDenoiser:
        """A denoiser with fresh weights on the training grid."""
        if self.network.get("name") == "cascade":
            found, wanted = "a cascade of networks, which generates images", "a model of one network"
            raise InputError(f"{where}: network", found, wanted, "Use retrodict generate.")
        process = process_from_recipe(self.process, self.size, self.spacing, f"{where}: process")
        _check_law(process, f"{where}: process")
        recipe = Recipe.from_json(self.network, f"{where}: network")
        count, level = len(self.channels), choice(f"{where}: level", self.level, LEVELS)
        shape = {
            "ndim": len(self.size),
            "in_channels": channels_in(process, count),
            "out_channels": channels_out(process, count, self.bands),
            "level_features": features_of(level) if self.flow_map else LEVELS[level].features,
        }
        with torch.device("meta"):  # shapes only: an absurd width costs nothing
            count = sum(p.numel() for p in build(NETS, recipe, f"{where}: network", **shape).parameters())
        if count > MOST_PARAMETERS:
            raise InputError(f"{where}: network", f"{count:.3g} parameters", f"at most {MOST_PARAMETERS:.3g}")
        with as_ever():
            net = build(NETS, recipe, f"{where}: network", **shape)
        spectrum = Spectrum.from_json(self.spectrum, f"{where}: spectrum")
        kind = self._kind(where)
        return kind(
            net,
            process,
            spectrum=spectrum,
            predicts=self.predicts,
            level=self.level,
            bands=self.bands,
            precision=precision,
            spread_scale=self._scale(where),
            paired=None if self.paired is None else PairedSpectrum.from_json(self.paired, f"{where}: paired"),
        )

    def _kind(self, where: str) -> type[NetDenoiser]:
        cascade = self.network.get("name") == "wavelet_cascade"
        if cascade and self.flow_map:
            raise InputError(f"{where}: flow_map", "true, with a wavelet_cascade", "false")
        return FlowMap if self.flow_map else CascadePosterior if cascade else NetDenoiser

    def _scale(self, where: str) -> SpreadScale | None:
        if self.spread_scale is None:
            return None
        try:
            return SpreadScale.from_json(self.spread_scale, self.bands)
        except ValueError as error:
            raise InputError(f"{where}: spread_scale", repr(self.spread_scale)[:80], str(error)) from error


@dataclass(frozen=True)
class Model:
    """A denoiser with its units: what `load_model` returns and `restore` uses."""

    spec: ModelSpec
    denoiser: NetDenoiser
    source: str

    @property
    def intensity(self) -> Intensity:
        """Map between data unit and model unit."""
        return self.spec.intensity


def model_files(path: Path | str) -> tuple[Path, Path]:
    """The files of weights and record of a model; the name may have dots, and may end like either of them."""
    base = Path(path)
    name = base.name.removesuffix(".safetensors") if base.suffix == ".safetensors" else base.name.removesuffix(".json")
    if not name:
        raise InputError(base, "no name of a model", "a path such as models/ct")
    return base.with_name(f"{name}.safetensors"), base.with_name(f"{name}.json")


def save_model(spec: ModelSpec, weights: Mapping[str, Tensor], path: Path | str) -> tuple[Path, Path]:
    """Write PATH.safetensors and PATH.json, each through a temporary name; returns both paths."""
    weights_path, json_path = model_files(path)
    content = save_tensors({name: value.detach().cpu().contiguous() for name, value in weights.items()})
    record = {"format": FORMAT, **asdict(spec), "weights_sha256": hashlib.sha256(content).hexdigest()}
    text = json.dumps(record, indent=1, allow_nan=False).encode()
    write_file(weights_path, content)
    write_file(json_path, text)
    return weights_path, json_path


def load_model(path: Path | str, precision: str = "float32") -> Model:
    """Read a model from PATH(.safetensors|.json).

    Raises `InputError` for a missing file, a pickle, unreadable JSON, a field that cannot be meant, missing or surplus
    tensors, wrong shapes and types, weights that are not finite, and weights of another record.
    """
    weights_path, json_path = model_files(path)
    spec, digest = read_spec(json_path)
    denoiser = spec.build(str(json_path), precision_for(precision))
    load_weights(denoiser.net, read_tensors(weights_path, denoiser.net.state_dict(), digest), weights_path)
    denoiser.net.eval().requires_grad_(False)
    return Model(spec, denoiser, str(json_path.with_name(json_path.name.removesuffix(".json"))))


class _IntensityRecord(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    unit: str = Field("arbitrary", min_length=1, max_length=64)
    scale: float = Field(1.0, gt=0)
    offset: float = 0.0


class _ModelRecord(BaseModel):
    """The fields of a model record whose values are not checked where they are used."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)
    process: dict[str, Any]
    network: dict[str, Any]
    spectrum: dict[str, Any]
    intensity: _IntensityRecord
    spacing: list[Annotated[float, Field(gt=0)]] = Field(min_length=1, max_length=3)
    size: list[Annotated[int, Field(ge=1, le=MOST_PIXELS)]] = Field(min_length=1, max_length=3)
    predicts: str = "wiener"
    bands: int = Field(0, ge=0, le=8)
    level: str = "rms"
    channels: list[Annotated[str, Field(max_length=64)]] = Field(default=["gray"], min_length=1, max_length=1024)
    spread_scale: dict[str, Any] | None = None
    held_out: dict[str, Any] | None = None
    law: dict[str, Any] | None = None
    spacings: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] | None = None
    flow_map: bool = False
    paired: dict[str, Any] | None = None
    card: dict[str, Any] = {}


def read_spec(path: Path) -> tuple[ModelSpec, str | None]:
    """The record, and the checksum of the weights that it belongs to where it has one."""
    record = read_json(path, "the JSON file beside the weights of a model")
    if record.get("format") != FORMAT:
        raise InputError(f"{path}: format", repr(record.get("format"))[:80], FORMAT)
    digest = record.get("weights_sha256")
    record = {k: v for k, v in record.items() if k not in ("format", "weights_sha256")}
    known = sorted(ModelSpec.__dataclass_fields__)
    for name in record:
        choice(path.name, name, known)
    try:
        checked = _ModelRecord.model_validate(record)
    except ValidationError as error:
        item = error.errors()[0]
        where = ".".join(map(str, item["loc"]))
        raise InputError(f"{path}: {where}", repr(item.get("input"))[:80], item["msg"]) from error
    if len(checked.size) != len(checked.spacing) or math.prod(checked.size) > MOST_PIXELS:
        found = f"size {checked.size} and spacing {checked.spacing}"
        raise InputError(f"{path}: size", found, f"one number for each axis, and at most {MOST_PIXELS} pixels")
    _check_range(checked, path)
    own = {name: getattr(checked, name) for name in _ModelRecord.model_fields if name in record}
    own |= {name: tuple(own[name]) for name in ("spacing", "size", "channels") if name in own}
    return ModelSpec(**{**record, **own, "intensity": Intensity(**checked.intensity.model_dump())}), digest


def _check_range(record: _ModelRecord, path: Path) -> None:
    """Raise for a law of observations that cannot be built or has another unit, and for spacings that fall."""
    if record.spacings is not None and record.spacings[0] > record.spacings[1]:
        raise InputError(f"{path}: spacings", list(record.spacings), "the least and the largest spacing in mm")
    if record.law is None:
        return
    law = law_from_json(record.law, f"{path}: law")
    if not math.isclose(law.scale, record.intensity.scale, rel_tol=1e-9):
        raise InputError(f"{path}: law.options.scale", law.scale, f"intensity.scale {record.intensity.scale}")


def _check_law(process: Process, where: str) -> None:
    """Raise for a process of options that give no numbers, before a network is built for it."""
    try:
        law = process.moments(torch.tensor([0.5, 1.0], dtype=torch.float64, device="cpu"))
    except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RuntimeError, MemoryError) as error:
        raise InputError(
            where, f"options for which it has no law ({error})", "options that this process knows"
        ) from error
    if not all(bool(torch.isfinite(part).all()) for part in (law.h, law.k, law.s2)):
        raise InputError(where, "options for which its law is not finite", "options that give numbers")


MODELS = {"ct": "ct", "ct-simulated": "ct-fourier"}
"""Models that ship with the package, by short name: "ct" serves every instrument, by its measured MTF and NPS;
"ct-simulated" knows the simulated one of Tivnan et al. (2023) with 170 HU of noise."""


def shipped(name: str) -> Path:
    """Where a shipped model lies, by its short name."""
    return Path(str(resources.files("retrodict") / "assets" / MODELS[choice("model", name, MODELS)]))


def open_model(model: str | Path | Model, precision: str = "auto") -> Model:
    """A shipped model by name ("ct"), or one from a path; models pass through.

    `precision` "auto" is the faster one of this machine (`retrodict.nets.precision_for`).
    """
    if isinstance(model, Model):
        return model
    if str(model) in MODELS:
        return load_model(shipped(str(model)), precision)
    path = Path(model)
    if len(path.parts) <= 1 and not any(map(_is_there, (path, *model_files(path)))):
        raise InputError("model", repr(str(model)), f"a path, or a shipped model: {', '.join(MODELS)}")
    return load_model(path, precision)


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that is too long, or has a zero byte
        return False
