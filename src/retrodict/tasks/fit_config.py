"""Configuration of a training run: a YAML file, validated, with `--set a.b=c` overrides."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from retrodict._check import InputError
from retrodict.data.units import percentile_of
from retrodict.nets.joint import SCORES
from retrodict.processes.clocks import ClockLaw, law_from_json
from retrodict.tasks.config_file import Strict, read_config

__all__ = ["DataConfig", "FitConfig", "GroupConfig", "NoiseConfig", "ShapesConfig", "TrainingConfig", "load_config"]


Positive = Annotated[float, Field(gt=0)]


MOST_STEPS = 1_000_000_000
"""More steps than that are taken for a mistake."""


MOST_VALUES = 1 << 28
"""Values of a batch (1 GiB as float32): more are taken for a mistake."""


MOST_CLIP = 4
"""Sides of a cube of shapes over the distance that is kept: below it nothing is far from a surface."""


class RecipeConfig(Strict):
    """An entry of a dictionary and its options."""

    name: str
    options: dict[str, Any] = Field(default_factory=dict)


class ProcessConfig(RecipeConfig):
    """A forward process; `basis` is the basis in which it is diagonal."""

    basis: RecipeConfig = RecipeConfig(name="fourier")


class IntensityConfig(Strict):
    """u = (value - offset) / scale, value in `unit`."""

    unit: str = Field("HU", description="p99.5: relative to the 99.5th percentile of each series")
    scale: float = Field(200.0, gt=0)
    offset: float = -1000.0


class GroupConfig(Strict):
    """One patient or series: it is on one side of the split as a whole."""

    name: str
    paths: list[str] = Field(min_length=1, description="files, folders or globs, relative to data.root")
    spacing: list[Positive] | None = Field(None, description="mm, for files that have none")
    unit: str | None = None


class SimulatedConfig(Strict):
    """Simulated slices of bodies in HU (`retrodict.data.simulated`), each a group by itself."""

    images: int = Field(32, ge=1, le=4096)
    side: int = Field(128, ge=16, le=1024, description="pixels along each axis")
    seed: int = Field(0, ge=0, lt=1 << 62)


class ShapesConfig(Strict):
    """Shapes as truncated signed distances in mm (`retrodict.shapes`): procedural ones, or those of files.

    Every shape is a group by itself, and every file one shape of one patient.
    """

    images: int = Field(0, ge=0, le=1 << 16, description="number of procedural shapes")
    families: list[str] = Field(default_factory=list, description="of procedural shapes; all without")
    turned: bool = Field(True, description="procedural shapes in random directions, else along the axes")
    seed: int = Field(0, ge=0, lt=1 << 62)
    labels: list[str] = Field(default_factory=list, description="folders of label volumes, relative to data.root")
    inside: list[int] | None = Field(None, description="labels that are the inside; all but 0 without")
    meshes: list[str] = Field(default_factory=list, description="folders of meshes (PLY, OBJ, STL) in mm")
    clip: float = Field(3.0, gt=0, le=64, description="where distances are truncated, voxels")

    @model_validator(mode="after")
    def _something(self) -> ShapesConfig:
        if not (self.images or self.labels or self.meshes):
            raise InputError("images", "0, and no labels or meshes", "images, labels or meshes: where shapes are from")
        return self


class SpacingsConfig(Strict):
    """Pixel spacings of the batches of a training over a `law`; each batch has one."""

    least: float = Field(0.4, gt=0, description="mm; slices of finer pixels are left out")
    most: float = Field(1.5, gt=0, description="mm; slices of coarser pixels are left out")
    copies: int = Field(1, ge=0, le=16, description="how often a slice is averaged down to a coarser spacing")

    @model_validator(mode="after")
    def _rising(self) -> SpacingsConfig:
        if self.least > self.most:
            raise InputError("least", self.least, f"at most {self.most}, as most says")
        return self


class NoiseConfig(Strict):
    """The noise of training images that are not clean (`retrodict.training.ambient`): a measured NPS, or white."""

    nps: str | None = Field(None, description="file of the NPS (retrodict measure nps), relative to data.root")
    std: Positive | None = Field(None, description="of white noise, in the unit of the images")
    level: Literal["stated", "index"] = Field(
        "stated", description="index: each image has the noise of its row (column noise), in the shape of nps, or white"
    )
    style: Literal["ambient", "paper", "joint"] = Field(
        "ambient",
        description="paper: SURE-Score; joint: WISGM, a wavelet network beside the model; both biased, to compare with",
    )
    feedback: float | None = Field(
        None, ge=0, le=10, description="joint: weight of the distance to what the model refines; without it 0.1"
    )
    feedback_after: int | None = Field(
        None, ge=0, le=MOST_STEPS, description="joint: steps of training before that; without it 1000"
    )

    @model_validator(mode="after")
    def _one(self) -> NoiseConfig:
        for name in ("feedback", "feedback_after"):
            if getattr(self, name) is not None and self.style != "joint":
                raise InputError(name, getattr(self, name), f"style: joint, not {self.style}")
        if self.nps is not None and self.std is not None:
            raise InputError("std", f"{self.std:g} beside nps", "nps or std: an NPS holds its level")
        if self.level == "index" and self.std is not None:
            raise InputError("std", f"{self.std:g} beside level: index", "no std: every row has its own")
        if self.level == "stated" and self.nps is None and self.std is None:
            raise InputError("nps", "none, and no std", "nps: the file of a measured NPS, or std: white noise")
        return self


class DataConfig(Strict):
    """Where clean images come from and how patches are cut: `indices`, `folders`, `groups`, `simulated`,
    `shapes`, or several."""

    root: str = Field(".", description="folder that paths are relative to, itself relative to the configuration")
    folders: list[str] = Field(
        default_factory=list,
        description="folders of images; every folder in one of them is a patient, and so is every file directly in it",
    )
    indices: list[str] = Field(
        default_factory=list, description="tables of images (`retrodict data index`); who is held out stands in them"
    )
    orientation: Literal["axial", "coronal", "sagittal", "oblique"] | None = Field(
        None, description="of rows of a table; those that state none are taken"
    )
    most_noise: Positive | None = Field(
        None, description="rows of a table whose own noise is above it are left out; those that state none are taken"
    )
    leave_out: list[str] = Field(default_factory=list, description="patients of the tables that nothing may see")
    slices: int | None = Field(None, ge=1, le=1 << 20, description="most slices of a series, evenly spaced")
    groups: list[GroupConfig] = Field(default_factory=list, description="patients or series by name")
    simulated: SimulatedConfig | None = None
    shapes: ShapesConfig | None = None
    spacing: list[Positive] | None = Field(None, description="mm, for files that have none")
    unit: str | None = Field(None, description="for files that have none")
    modality: str | None = Field("CT", description="Modality of DICOM files; null takes any")
    validation: list[str] | Annotated[float, Field(ge=0, lt=1)] = Field(
        default_factory=list, description="names of the groups held out, or the fraction of them; not for indices"
    )
    noise: NoiseConfig | None = Field(None, description="of images that are not clean; without it they are")
    spacings: SpacingsConfig | None = Field(None, description="with a law: of the batches")
    balance: Literal["pixels", "patients"] | None = Field(
        None, description="what is drawn equally often; without it patients with a law, else pixels"
    )
    patch: list[Annotated[int, Field(ge=1, le=4096)]] = Field(
        default_factory=lambda: [64, 64], min_length=1, max_length=3
    )
    coarser: Literal["keep", "resample", "refuse"] = "keep"
    turn: bool = Field(
        True,
        description="patches are mirrored and turned by quarters; false: as they are, to generate what has an upright",
    )
    channels: int = Field(1, ge=1, le=1024, description="channels of the images, such as 3 for color")

    @model_validator(mode="after")
    def _something(self) -> DataConfig:
        others = bool(self.folders or self.groups or self.simulated or self.shapes)
        if not (others or self.indices):
            raise InputError(
                "folders",
                "none, and no groups or indices",
                "indices, folders, groups, simulated or shapes: where images are",
            )
        if self.validation and not others:
            raise InputError(
                "validation", self.validation, "nothing with indices: their column split says who is held out"
            )
        twice = next((name for name in self.indices if self.indices.count(name) > 1), None)
        if twice is not None:
            raise InputError("indices", f"{twice!r} twice", "every table once")
        for name in ("orientation", "most_noise"):
            if getattr(self, name) is not None and not self.indices:
                raise InputError(name, getattr(self, name), "indices: it is their column that is looked at")
        return self


class TrainingConfig(Strict):
    """Numbers of the loop (see `retrodict.train.TrainingOptions`)."""

    steps: int = Field(2000, gt=0, le=MOST_STEPS)
    each: list[Annotated[int, Field(gt=0, le=MOST_STEPS)]] | None = Field(
        None, description="steps of every network of a cascade, coarse first, instead of `steps`"
    )
    batch: int = Field(16, gt=0, le=1 << 20)
    batches: list[Annotated[int, Field(gt=0, le=1 << 20)]] | None = Field(
        None, description="images of a step of every network of a cascade, coarse first, instead of `batch`"
    )
    learning_rate: float = Field(1e-3, gt=0)
    warmup: int = Field(200, ge=0, le=MOST_STEPS)
    decay: float = Field(0.2, ge=0, le=1)
    weight_decay: float = Field(0.0, ge=0)
    ema: float = Field(0.999, ge=0, lt=1)
    clip: float = Field(1.0, gt=0)
    seed: int = Field(0, ge=-(1 << 63), lt=1 << 63)
    loss: str = "unit"
    spread_weight: float = Field(0.1, ge=0)
    checkpoint_every: int = Field(500, gt=0)
    validate_every: int = Field(500, gt=0)
    log_every: int = Field(20, gt=0)
    precision: Literal["auto", "float32", "bf16"] = "auto"
    threads: int | None = Field(None, gt=0, le=4096)
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto is cuda where there is one")
    workers: int | None = Field(
        None, ge=0, le=256, description="processes that cut patches ahead; without it 0 on a CPU, up to 8 for a GPU"
    )


class FitConfig(Strict):
    """Everything a training run needs."""

    name: str = Field(
        pattern=r"^[\w][\w.+ -]{0,99}$", description="of the files of the model: letters, digits, and . + - _ or spaces"
    )
    spacing: list[Positive] = Field(min_length=1, max_length=3, description="mm per axis that the model works at")
    intensity: IntensityConfig = Field(default_factory=lambda: IntensityConfig.model_validate({}))
    process: ProcessConfig
    law: RecipeConfig | None = Field(
        None, description="of observations to train over instead of the process alone: clocks (every instrument)"
    )
    network: RecipeConfig = RecipeConfig(name="unet")
    start_from: str | None = Field(
        None, description="model whose weights to start from: a path relative to this file, or a shipped one by name"
    )
    predicts: str = "wiener"
    bands: int = Field(4, ge=0, le=8)
    level: str = Field("rms", description="what the network is told of the noise: rms, or clock (any process)")
    data: DataConfig
    training: TrainingConfig = Field(default_factory=lambda: TrainingConfig.model_validate({}))
    card: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _fits(self) -> FitConfig:
        """What two fields say together."""
        if self.name.endswith((".json", ".safetensors")):
            raise InputError("name", repr(self.name), "a name without the extension of a file of the model")
        if len(self.spacing) != len(self.data.patch):
            raise InputError("data.patch", f"{len(self.data.patch)} axes", f"{len(self.spacing)}, as spacing has")
        values = max(self.training.batches or [self.training.batch]) * self.data.channels * math.prod(self.data.patch)
        if values > MOST_VALUES:
            raise InputError("training.batch", f"{values} values in a batch", f"at most {MOST_VALUES}")
        for name, usual in (("each", "steps"), ("batches", "batch")):
            if getattr(self.training, name) is not None and self.network.name != "cascade":
                found = f"numbers for each network of {self.network.name!r}"
                raise InputError(f"training.{name}", found, f"network: {{name: cascade}}; others have training.{usual}")
        if self.law is not None:
            self._check_law()
        elif self.data.spacings is not None:
            raise InputError("data.spacings", "spacings without a law", "law: {name: clocks}, or no spacings")
        if percentile_of(self.intensity.unit) is not None:
            self._check_relative()
        if self.data.noise is not None:
            self._check_noise()
        self._check_joint()
        if not self.data.turn and self.law is not None:
            raise InputError("data.turn", "false, with a law", "true: a model that restores knows no upright")
        if self.data.slices is not None and self.law is None and not self.data.indices:
            raise InputError("data.slices", self.data.slices, "indices, or a law")
        if self.data.shapes is not None:
            self._check_shapes(self.data.shapes)
        if self.data.indices and len(self.data.patch) != 2:
            raise InputError("data.patch", f"{len(self.data.patch)} axes", "2: tables list slices")
        return self

    def _check_relative(self) -> None:
        """What has a unit of its own says nothing of images that are divided by their level."""
        unit = self.intensity.unit
        if self.law is None and not self.data.indices:
            found = f"{unit!r}, relative to each series, without tables and without a law"
            raise InputError("intensity.unit", found, "data.indices, or law: {name: clocks}")
        for name in ("noise", "most_noise"):
            if getattr(self.data, name) is not None:
                found = f"a level in the unit of the images beside {unit!r}, to which they are brought"
                raise InputError(f"data.{name}", found, "none: each series has a level of its own")
        if self.intensity.offset != 0:
            raise InputError("intensity.offset", self.intensity.offset, f"0 with the relative unit {unit!r}")

    def _check_joint(self) -> None:
        """The joint scheme has a network of its own: the score network that is named here, and one of wavelets."""
        joint = self.data.noise is not None and self.data.noise.style == "joint"
        if self.network.name == "joint" and not joint:
            raise InputError("network.name", "'joint'", "data.noise.style: joint, which trains both of its networks")
        if not joint:
            return
        if self.network.name not in ("joint", *SCORES):
            raise InputError("network.name", repr(self.network.name), f"with style: joint one of {', '.join(SCORES)}")
        if self.network.name != "joint" and any(n % 2 for n in self.data.patch):
            raise InputError("data.patch", self.data.patch, "even numbers with style: joint, for its wavelets")

    def _check_noise(self) -> None:
        """What noisy images ask of the rest."""
        if self.law is None:
            raise InputError("data.noise", "noisy images without a law", "law: {name: clocks}, and level: clock")
        if self.network.name == "cascade" or self.predicts != "wiener":
            raise InputError("predicts", f"{self.network.name}, {self.predicts}", "'wiener' and no cascade: data.noise")
        if self.training.loss != "unit":
            raise InputError("training.loss", repr(self.training.loss), "'unit' with data.noise")
        stated = self.data.spacings
        if stated is not None and "copies" in stated.model_fields_set and stated.copies:
            raise InputError("data.spacings.copies", stated.copies, "0 with data.noise: averaging changes an NPS")
        if self.data.noise is not None and self.data.noise.level == "index" and not self.data.indices:
            raise InputError("data.noise.level", "'index' without tables", "data.indices")

    @property
    def copies(self) -> int:
        """How often a slice is averaged down to a coarser spacing; noisy ones never are."""
        if self.data.noise is not None:
            return 0
        return 1 if self.data.spacings is None else self.data.spacings.copies

    def _check_shapes(self, shapes: ShapesConfig) -> None:
        """A cube of equal voxels, in units of the distance that is kept."""
        if len(self.data.patch) != 3 or len(set(self.data.patch)) != 1 or len(set(self.spacing)) != 1:
            found = f"{self.data.patch} of {self.spacing} mm"
            raise InputError("data.patch", found, "three equal numbers, and three of spacing, with shapes")
        if self.data.patch[0] < MOST_CLIP * shapes.clip:
            wanted = f"at least {MOST_CLIP} times data.shapes.clip, {shapes.clip:g} voxels"
            raise InputError("data.patch", self.data.patch[0], wanted)
        clip = shapes.clip * self.spacing[0]
        if (self.intensity.unit, self.intensity.offset) != ("mm", 0) or abs(self.intensity.scale / clip - 1) > 1e-6:
            found = f"{self.intensity.unit}, scale {self.intensity.scale:g}, offset {self.intensity.offset:g}"
            wanted = f"unit mm, scale {clip:g} (data.shapes.clip voxels of spacing) and offset 0 with shapes"
            raise InputError("intensity", found, wanted)

    def _check_law(self) -> None:
        self.clocks()  # a law that cannot be built
        if self.level != "clock":
            raise InputError("level", repr(self.level), "'clock': with a law the network is told the clock")
        if len(self.data.patch) not in (2, 3) or self.data.patch[-1] != self.data.patch[-2]:
            raise InputError("data.patch", self.data.patch, "rows and columns of equal number with a law, and slices")
        if self.volumes:
            self._check_volumes()
        elif self.data.coarser != "keep":
            raise InputError("data.coarser", repr(self.data.coarser), "'keep': with a law data.spacings says the rest")
        if self.data.channels != 1:
            raise InputError("data.channels", self.data.channels, "1: a law is for gray images")
        if self.process.basis != RecipeConfig(name="fourier"):
            raise InputError("process.basis", self.process.basis.name, "fourier, without options, with a law")
        least, most = self.spacings
        if not self.volumes and not all(least <= s <= most for s in self.spacing):
            raise InputError("spacing", self.spacing, f"mm within data.spacings, {least:g} to {most:g}")

    @property
    def volumes(self) -> bool:
        """Whether the model is one of volumes."""
        return len(self.data.patch) == 3

    def _check_volumes(self) -> None:
        """Volumes of a law have one grid, that of the model."""
        if self.data.coarser == "keep":
            wanted = "'refuse' or 'resample': all volumes of a law are on the grid of the model"
            raise InputError("data.coarser", "'keep', with three axes and a law", wanted)
        for name in ("spacings", "noise", "slices"):
            if getattr(self.data, name) is not None:
                raise InputError(f"data.{name}", "a value beside three axes", "none: it is for slices")
        if percentile_of(self.intensity.unit) is not None:
            raise InputError(
                "intensity.unit", repr(self.intensity.unit), "a unit of its own, with three axes and a law"
            )

    @property
    def spacings(self) -> tuple[float, float]:
        """Least and largest spacing of a training over a law, mm."""
        stated = self.data.spacings or SpacingsConfig.model_validate({})
        return stated.least, stated.most

    def clocks(self) -> ClockLaw | None:
        """The law in the unit of the model, or None; `InputError` for one that cannot be built."""
        if self.law is None:
            return None
        scale = self.law.options.get("scale", self.intensity.scale)
        if scale != self.intensity.scale:
            raise InputError("law.options.scale", scale, f"intensity.scale {self.intensity.scale} (or leave it out)")
        return law_from_json({"name": self.law.name, "options": {**self.law.options, "scale": scale}}, "law")


def load_config(path: Path | str, overrides: Iterable[str] = ()) -> FitConfig:
    """Read a YAML file, apply `a.b=value` overrides (YAML values) and validate; every error names file and field."""
    return read_config(FitConfig, path, "configuration", overrides)
