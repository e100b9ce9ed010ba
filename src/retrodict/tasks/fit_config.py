"""Configuration of a training run: a YAML file, validated, with `--set a.b=c` overrides."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from retrodict.tasks.config_file import Strict, read_config

__all__ = ["DataConfig", "FitConfig", "GroupConfig", "TrainingConfig", "load_config"]


class RecipeConfig(Strict):
    """An entry of a dictionary and its options."""

    name: str
    options: dict[str, Any] = Field(default_factory=dict)


class ProcessConfig(RecipeConfig):
    """A forward process; `basis` is the basis in which it is diagonal."""

    basis: RecipeConfig = RecipeConfig(name="fourier")


class IntensityConfig(Strict):
    """u = (value - offset) / scale, value in `unit`."""

    unit: str = "HU"
    scale: float = Field(200.0, gt=0)
    offset: float = -1000.0


class GroupConfig(Strict):
    """One patient or series: it is on one side of the split as a whole."""

    name: str
    paths: list[str] = Field(min_length=1, description="files, folders or globs, relative to data.root")
    spacing: list[float] | None = Field(None, description="mm, for files that have none")
    unit: str | None = None


class DataConfig(Strict):
    """Where clean images come from and how patches are cut."""

    root: str = "."
    groups: list[GroupConfig] = Field(min_length=1)
    validation: list[str] = Field(default_factory=list, description="names of the groups held out")
    patch: list[int] = Field(default_factory=lambda: [64, 64], min_length=1, max_length=3)
    coarser: Literal["keep", "resample", "refuse"] = "keep"
    channels: int = Field(1, ge=1, description="channels of the images, such as 3 for color")


class TrainingConfig(Strict):
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
    precision: Literal["auto", "float32", "bf16"] = "auto"
    threads: int | None = Field(None, gt=0)


class FitConfig(Strict):
    """Everything a training run needs."""

    name: str
    spacing: list[float] = Field(min_length=1, max_length=3, description="mm per axis that the model works at")
    intensity: IntensityConfig = Field(default_factory=lambda: IntensityConfig.model_validate({}))
    process: ProcessConfig
    network: RecipeConfig = RecipeConfig(name="unet")
    start_from: str | None = Field(None, description="model whose weights to start from, relative to this file")
    predicts: str = "wiener"
    bands: int = Field(4, ge=0, le=8)
    level: str = Field("rms", description="what the network is told of the noise: rms, or clock (any process)")
    data: DataConfig
    training: TrainingConfig = Field(default_factory=lambda: TrainingConfig.model_validate({}))
    card: dict[str, Any] = Field(default_factory=dict)


def load_config(path: Path | str, overrides: Iterable[str] = ()) -> FitConfig:
    """Read a YAML file, apply `a.b=value` overrides (YAML values) and validate; every error names file and field."""
    return read_config(FitConfig, path, "configuration", overrides)
