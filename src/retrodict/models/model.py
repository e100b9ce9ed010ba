"""Models on disk: NAME.safetensors (weights) beside NAME.json (everything else that is needed to use them)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from retrodict._check import InputError, Recipe, build, choice
from retrodict._output import write_file
from retrodict.bases.spectrum import Spectrum
from retrodict.denoisers.network import LEVELS, NetDenoiser, SpreadScale, channels_in, channels_out
from retrodict.nets import NETS, precision_for
from retrodict.processes.recipes import process_from_recipe

__all__ = ["MODELS", "Intensity", "Model", "ModelSpec", "load_model", "open_model", "read_tensors", "save_model"]


FORMAT = "retrodict-model-1"


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
    """Everything that is needed, beside the weights, to rebuild a model."""

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
    card: dict[str, Any] = field(default_factory=dict)

    def build(self, where: str = "model", precision: str = "float32") -> NetDenoiser:
        """A denoiser with fresh weights on the training grid."""
        process = process_from_recipe(self.process, self.size, self.spacing, f"{where}: process")
        recipe = Recipe.from_json(self.network, f"{where}: network")
        count = len(self.channels)
        shape = {
            "ndim": len(self.size),
            "in_channels": channels_in(process, count),
            "out_channels": channels_out(process, count, self.bands),
            "level_features": LEVELS[choice(f"{where}: level", self.level, LEVELS)].features,
        }
        with torch.device("cpu"):  # whatever the default device of the caller is
            net = build(NETS, recipe, f"{where}: network", **shape)
        spectrum = Spectrum.from_json(self.spectrum, f"{where}: spectrum")
        return NetDenoiser(
            net,
            process,
            spectrum=spectrum,
            predicts=self.predicts,
            level=self.level,
            bands=self.bands,
            precision=precision,
            spread_scale=self._scale(where),
        )

    def _scale(self, where: str) -> SpreadScale | None:
        if self.spread_scale is None:
            return None
        try:
            level, factor = self.spread_scale["level"], self.spread_scale["factor"]
            scale = SpreadScale(tuple(map(float, level)), tuple(tuple(map(float, row)) for row in factor))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{where}: spread_scale", repr(self.spread_scale)[:80], "level and factor") from error
        if len(level) < 2 or any(len(row) != self.bands for row in factor) or len(level) != len(factor):
            raise InputError(f"{where}: spread_scale", "tables that do not match", f"{self.bands} factors per level")
        return scale


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


def save_model(spec: ModelSpec, weights: Mapping[str, Tensor], path: Path | str) -> tuple[Path, Path]:
    """Write PATH.safetensors and PATH.json, each through a temporary name; returns both paths."""
    base = Path(path).with_suffix("") if Path(path).suffix in (".safetensors", ".json") else Path(path)
    tensors = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    record = {"format": FORMAT, **asdict(spec)}
    weights_path, json_path = base.with_suffix(".safetensors"), base.with_suffix(".json")
    write_file(weights_path, save_tensors(tensors))
    write_file(json_path, json.dumps(record, indent=1).encode())
    return weights_path, json_path


def load_model(path: Path | str, precision: str = "float32") -> Model:
    """Read a model from PATH(.safetensors|.json).

    Raises `InputError` for a missing file, a pickle, unreadable JSON, missing or surplus tensors and wrong shapes.
    """
    base = Path(path).with_suffix("") if Path(path).suffix in (".safetensors", ".json") else Path(path)
    spec = _read_spec(base.with_suffix(".json"))
    weights_path = base.with_suffix(".safetensors")
    denoiser = spec.build(str(base.with_suffix(".json")), precision_for(precision))
    load_weights(denoiser.net, read_tensors(weights_path), weights_path)
    denoiser.net.eval().requires_grad_(False)
    return Model(spec, denoiser, str(base))


def load_weights(net: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Copy `tensors` into `net` after checking names and shapes."""
    own = net.state_dict()
    missing, surplus = sorted(set(own) - set(tensors)), sorted(set(tensors) - set(own))
    if missing or surplus:
        what = f"no tensor {missing[0]!r}" if missing else f"a tensor {surplus[0]!r} that the network lacks"
        raise InputError(path, what, f"exactly the {len(own)} tensors of the network in the JSON file")
    for name, value in own.items():
        if tensors[name].shape != value.shape:
            raise InputError(f"{path}: {name}", f"shape {tuple(tensors[name].shape)}", f"shape {tuple(value.shape)}")
    net.load_state_dict({name: tensors[name].to(own[name].dtype) for name in own})


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file; nothing is ever unpickled."""
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise InputError(path, "no such file", "a safetensors file") from error
    if data[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        raise InputError(path, "a pickle (it could run code)", "a safetensors file", "Convert it where it was made.")
    try:
        return load_tensors(data)
    except SafetensorError as error:
        raise InputError(path, f"a damaged file ({error})", "a safetensors file") from error


def _read_spec(path: Path) -> ModelSpec:
    try:
        record = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise InputError(path, "no such file", "the JSON file beside the weights") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(path, f"unreadable JSON ({error})", "a model record") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise InputError(f"{path}: format", repr(record.get("format") if isinstance(record, dict) else None), FORMAT)
    record = {k: v for k, v in record.items() if k != "format"}
    known = set(ModelSpec.__dataclass_fields__)
    if set(record) - known or {"process", "network", "spectrum", "intensity", "spacing", "size"} - set(record):
        wrong = sorted(
            (set(record) - known)
            | (known - set(record) - {"predicts", "bands", "level", "channels", "card", "spread_scale"})
        )
        raise InputError(f"{path}: {wrong[0]}", "an unknown or missing field", f"the fields {', '.join(sorted(known))}")
    return ModelSpec(
        **{
            **record,
            "intensity": Intensity(**record["intensity"]),
            "spacing": tuple(record["spacing"]),
            "size": tuple(record["size"]),
            "channels": tuple(record.get("channels", ("gray",))),
        }
    )


MODELS = {"ct": "ct-fourier"}
"""Models that ship with the package, by short name."""


def open_model(model: str | Path | Model, precision: str = "auto") -> Model:
    """A shipped model by name ("ct"), or one from a path; models pass through.

    `precision` "auto" is the faster one of this machine (`retrodict.nets.precision_for`).
    """
    if isinstance(model, Model):
        return model
    if str(model) in MODELS:
        return load_model(Path(str(resources.files("retrodict") / "assets" / MODELS[str(model)])), precision)
    path = Path(model)
    if not path.with_suffix(".json").exists() and not path.exists() and len(path.parts) == 1:
        raise InputError("model", repr(str(model)), f"a path, or a shipped model: {', '.join(MODELS)}")
    return load_model(path, precision)
