"""Configuration of a training run: a YAML file, validated, with `--set a.b=c` overrides."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from retrodict._check import InputError

__all__ = ["DataConfig", "FitConfig", "GroupConfig", "TrainingConfig", "load_config"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RecipeConfig(_Strict):
    """An entry of a dictionary and its options."""

    name: str
    options: dict[str, Any] = Field(default_factory=dict)


class ProcessConfig(RecipeConfig):
    """A forward process; `basis` is the basis in which it is diagonal."""

    basis: RecipeConfig = RecipeConfig(name="fourier")


class IntensityConfig(_Strict):
    """u = (value - offset) / scale, value in `unit`."""

    unit: str = "HU"
    scale: float = Field(200.0, gt=0)
    offset: float = -1000.0


class GroupConfig(_Strict):
    """One patient or series: it is on one side of the split as a whole."""

    name: str
    paths: list[str] = Field(min_length=1, description="files, folders or globs, relative to data.root")
    spacing: list[float] | None = Field(None, description="mm, for files that have none")
    unit: str | None = None


class DataConfig(_Strict):
    """Where clean images come from and how patches are cut."""

    root: str = "."
    groups: list[GroupConfig] = Field(min_length=1)
    validation: list[str] = Field(default_factory=list, description="names of the groups held out")
    patch: list[int] = Field(default_factory=lambda: [64, 64], min_length=1, max_length=3)
    coarser: Literal["keep", "resample", "refuse"] = "keep"


class TrainingConfig(_Strict):
    """Numbers of the loop (see `retrodict.train.TrainingOptions`)."""

    steps: int = Field(2000, gt=0)
    batch: int = Field(16, gt=0)
    learning_rate: float = Field(1e-3, gt=0)
    warmup: int = Field(200, ge=0)
    decay: float = Field(0.2, ge=0, le=1)
    weight_decay: float = Field(0.0, ge=0)
    ema: float = Field(0.999, ge=0, lt=1)
    clip: float = Field(1.0, gt=0)
    seed: int = 0
    loss: str = "unit"
    spread_weight: float = Field(0.1, ge=0)
    checkpoint_every: int = Field(500, gt=0)
    validate_every: int = Field(500, gt=0)
    log_every: int = Field(20, gt=0)
    precision: Literal["float32", "bf16"] = "float32"
    threads: int | None = Field(None, gt=0)


class FitConfig(_Strict):
    """Everything a training run needs."""

    name: str
    spacing: list[float] = Field(min_length=1, max_length=3, description="mm per axis that the model works at")
    intensity: IntensityConfig = Field(default_factory=lambda: IntensityConfig.model_validate({}))
    process: ProcessConfig
    network: RecipeConfig = RecipeConfig(name="unet")
    start_from: str | None = Field(None, description="model whose weights to start from, relative to this file")
    predicts: str = "wiener"
    bands: int = Field(4, ge=0, le=8)
    data: DataConfig
    training: TrainingConfig = Field(default_factory=lambda: TrainingConfig.model_validate({}))
    card: dict[str, Any] = Field(default_factory=dict)


def load_config(path: Path | str, overrides: Iterable[str] = ()) -> FitConfig:
    """Read a YAML file, apply `a.b=value` overrides (YAML values) and validate; every error names file and field."""
    path = Path(path)
    try:
        record = yaml.safe_load(path.read_text())
    except FileNotFoundError as error:
        raise InputError(path, "no such file", "a YAML configuration") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(path, f"unreadable YAML ({str(error).splitlines()[0]})", "a YAML configuration") from error
    if not isinstance(record, dict):
        raise InputError(path, type(record).__name__, "a YAML mapping")
    for override in overrides:
        _override(record, override)
    try:
        return FitConfig.model_validate(record)
    except ValidationError as error:
        raise _first(path, error) from error


def _override(record: dict[str, Any], text: str) -> None:
    name, equals, value = text.partition("=")
    if not equals:
        raise InputError(f"--set {text}", "no '='", "a.b=value")
    *parents, last = name.split(".")
    for parent in parents:
        record = record.setdefault(parent, {})
        if not isinstance(record, dict):
            raise InputError(f"--set {name}", f"{parent!r}, which is no mapping", "a path of mappings")
    record[last] = yaml.safe_load(value)


def _first(path: Path, error: ValidationError) -> InputError:
    item = error.errors()[0]
    where = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(item["loc"][-1]), _fields(FitConfig, item["loc"][:-1]), n=1)
        return InputError(
            f"{path}: {where}", "an unknown key", "a known key", f"Did you mean {near[0]!r}?" if near else ""
        )
    return InputError(f"{path}: {where}", repr(item.get("input"))[:80], item["msg"])


def _fields(model: Any, parts: Iterable[Any]) -> list[str]:
    for part in parts:
        if isinstance(part, str) and part in model.model_fields:
            inner = model.model_fields[part].annotation
            inner = next(iter(getattr(inner, "__args__", ())), inner)
            if not hasattr(inner, "model_fields"):
                return []
            model = inner
    return list(model.model_fields)
