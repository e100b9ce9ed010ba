"""Shapes drawn from a model, as volumes and closed meshes, and compared with shapes that the model never saw."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from retrodict._check import InputError, choice
from retrodict._output import refuse_existing, stamp, write_folder
from retrodict._random import key
from retrodict.data.patches import split
from retrodict.metrics.shapes import DISTANCES, compare_sets, novelty, pairwise
from retrodict.models.cascade import Generator, is_cascade, open_generator
from retrodict.shapes.files import MESHES, encode_mesh
from retrodict.shapes.mesh import Mesh, sample_points
from retrodict.shapes.picture import shape_sheet
from retrodict.shapes.surface import surface
from retrodict.shapes.volume import Volume, needed
from retrodict.tasks.fit_config import FitConfig
from retrodict.tasks.fit_data import groups_of
from retrodict.tasks.generate import generate

__all__ = [
    "GeneratedShapes",
    "compare_shapes",
    "evaluate_shapes",
    "generate_shapes",
    "open_shapes",
    "shape_sides",
    "surface_or_none",
]

KNOWN = 128
"""Training shapes that novelty looks at: the pairs among them cost most."""

FILES = tuple(name.removeprefix(".") for name in MESHES)
"""What meshes are written as."""


@dataclass(frozen=True)
class GeneratedShapes:
    """Truncated distances and their surfaces; a volume without one (nothing inside) has None.  `record` of the run."""

    volumes: list[Volume]
    meshes: list[Mesh | None]
    record: dict[str, Any]

    def save(self, out: str | Path, files: str = "ply", force: bool = False) -> list[Path]:
        """shape-0000.ply and so on, volumes.npz, shapes.png of the first 36 and shapes.json, in a new folder."""
        choice("files", files, FILES)
        return write_folder(out, self._files(files), force=force)

    def _files(self, files: str) -> Iterator[tuple[str, bytes]]:
        stream = io.BytesIO()
        values = np.stack([v.values for v in self.volumes]).astype(np.float32)
        np.savez_compressed(stream, distance=values, spacing=np.array(self.volumes[0].spacing), unit="mm")
        yield "volumes.npz", stream.getvalue()
        for i, mesh in enumerate(self.meshes):
            if mesh is not None:
                yield f"shape-{i:04d}.{files}", encode_mesh(mesh, f".{files}")
        yield "shapes.png", shape_sheet(self.volumes[:36])
        yield "shapes.json", json.dumps(self.record, indent=1).encode()


def open_shapes(model: str | Path | Generator) -> Generator:
    """A model of shapes; `InputError` for one of anything else."""
    found = model if isinstance(model, Generator) else open_generator(model)
    spec = found.spec
    if spec.intensity.unit != "mm" or len(spec.size) != 3:
        given = f"a model of images in {spec.intensity.unit} with {len(spec.size)} axes"
        raise InputError("model", given, "a model of shapes: distances in mm on three axes")
    return found


def generate_shapes(
    model: str | Path | Generator,
    samples: int = 16,
    *,
    out: str | Path | None = None,
    seed: int = 0,
    steps: int | Sequence[int] | None = None,
    rule: str | None = None,
    batch: int = 8,
    files: str = "ply",
    threads: int | None = None,
    force: bool = False,
    watch: Callable[[int, int], None] | None = None,
) -> GeneratedShapes:
    """Draw `samples` shapes: distances by `generate`, their surfaces by marching cubes (the extra `shapes`).

    Shape i depends on (seed, i) alone.  steps, rule, batch and threads as for `generate`; files: "ply", "obj", "stl" or
    "glb".
    The record says besides how many volumes hold no surface (`empty`) and in how many parts shapes lie.
    """
    choice("files", files, FILES)
    needed("skimage.measure")
    if out is not None:
        needed("trimesh")  # before anything is drawn
        refuse_existing(Path(out), force)
    found = open_shapes(model)
    made = generate(found, samples, seed=seed, steps=steps, rule=rule, batch=batch, threads=threads, watch=watch)
    volumes = [Volume(v[0].double().numpy(), made.spacing) for v in made.images]
    meshes = [surface_or_none(v) for v in volumes]
    network = found.spec.network
    details = network.get("options", {}).get("details", "posterior") if is_cascade(network) else "drawn with the rest"
    record = {**made.record, "details": details, "empty": sum(m is None for m in meshes)}
    result = GeneratedShapes(volumes, meshes, record)
    if out is not None:
        result.save(out, files, force)
    return result


def surface_or_none(volume: Volume) -> Mesh | None:
    """None where nothing is inside, which a generator may well draw."""
    values = volume.values
    return surface(volume) if (values < 0).any() and (values > 0).any() else None


def shape_sides(config: FitConfig, base: Path) -> tuple[list[Mesh], list[Mesh]]:
    """Surfaces of the training and of the held-out shapes of a configuration.

    Raises `InputError` where it names no shapes, or holds none of them out.
    """
    if config.data.shapes is None:
        raise InputError("data.shapes", "none", "shapes: where they are from")
    kept, held = split(groups_of(config, base), config.data.validation, config.training.seed)
    if not held:
        raise InputError("data.validation", config.data.validation, "held-out shapes to compare with, such as 0.2")
    sides = [[surface(_volume(g.images[0])) for g in side] for side in (kept, held)]
    return sides[0], sides[1]


def _same_grid(model: Generator, config: FitConfig) -> None:
    """Raise for shapes of another size or truncation than the model draws: they are apart whatever it has learned."""
    own, other = (
        (tuple(size), tuple(spacing), scale)
        for size, spacing, scale in (
            (model.spec.size, model.spec.spacing, model.spec.intensity.scale),
            (config.data.patch, config.spacing, config.intensity.scale),
        )
    )
    if own != other:
        said = [f"{size} voxels of {spacing} mm, truncated at {scale:g} mm" for size, spacing, scale in (other, own)]
        raise InputError(
            "data.patch", said[0], f"{said[1]}, as the model has", "Use the configuration it was fit with."
        )


def _volume(image: Any) -> Volume:
    return Volume(image.values[0].double().numpy(), image.spacing)


def compare_shapes(
    made: Sequence[Mesh],
    reference: Sequence[Mesh],
    training: Sequence[Mesh] = (),
    *,
    points: int = 512,
    distances: Sequence[str] = ("chamfer", "sliced"),
    seed: int = 0,
) -> dict[str, Any]:
    """MMD, COV and 1-NNA of made against reference surfaces by each distance, with `points` drawn on every surface.

    With `training` shapes also the novelty: the median Chamfer distance to the nearest of them, over the same between
    them.  Every surface has points of its own seed: points that surfaces of one set share would bring them together.
    """
    if len(made) < 2 or len(reference) < 2:
        raise InputError("shapes", f"{len(made)} made and {len(reference)} to compare with", "at least 2 of either")
    _check(points, distances)
    clouds = [
        [torch.from_numpy(sample_points(m, points, key(seed, f"cloud-{name}", i))) for i, m in enumerate(side)]
        for name, side in (("made", made), ("reference", reference), ("training", training))
    ]
    record: dict[str, Any] = {"points": points}
    for name in distances:
        record[name] = asdict(compare_sets(*(pairwise(a, b, name) for a, b in _pairs(clouds))))
    if len(training) > 1:
        record["novelty"] = novelty(pairwise(clouds[0], clouds[2]), pairwise(clouds[2], clouds[2]))
    return record


def _check(points: int, distances: Sequence[str]) -> None:
    for name in distances:
        choice("distance", name, DISTANCES)
    if points < 8:
        raise InputError("points", points, "at least 8")


def _pairs(clouds: list[list[Tensor]]) -> list[tuple[list[Tensor], list[Tensor]]]:
    return [(clouds[0], clouds[1]), (clouds[0], clouds[0]), (clouds[1], clouds[1])]


def evaluate_shapes(
    model: str | Path | Generator,
    config: FitConfig,
    base: Path,
    *,
    samples: int | None = None,
    points: int = 512,
    distances: Sequence[str] = ("chamfer", "sliced"),
    seed: int = 0,
    steps: int | Sequence[int] | None = None,
    threads: int | None = None,
    watch: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Draw as many shapes as the configuration holds out and compare: `compare_shapes`, beside what is reached by as
    many training shapes in place of the drawn ones (`training`: what a perfect generator would).

    base: folder that the paths of the configuration are relative to.  samples: another number of shapes to draw.
    """
    _check(points, distances)
    found = open_shapes(model)
    _same_grid(found, config)
    if samples is not None and samples < 2:
        raise InputError("samples", samples, "at least 2 shapes to compare")
    training, held = shape_sides(config, base)
    drawn = generate_shapes(found, samples or len(held), seed=seed, steps=steps, threads=threads, watch=watch)
    made = [m for m in drawn.meshes if m is not None]
    if len(made) < 2:
        raise InputError("model", f"{len(made)} surfaces in {len(drawn.meshes)} shapes", "a model that draws shapes")
    options: dict[str, Any] = {"points": points, "distances": distances, "seed": seed}
    known = training[: len(held)]
    return {
        "model": found.source,
        "law": drawn.record["law"],
        "details": drawn.record["details"],
        "empty": drawn.record["empty"],
        "reference": len(held),
        "made": compare_shapes(made, held, training[:KNOWN], **options),
        "training": compare_shapes(known, held, **options),
        **stamp(),
    }
