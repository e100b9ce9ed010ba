"""The files of a reconstruction: image with spacing and unit, truth, record and report; what may be replaced."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from retrodict._output import write_file
from retrodict.data import Image, write
from retrodict.data.formats import known_suffixes, written_suffix
from retrodict.data.formats.nifti import header_in_space

if TYPE_CHECKING:
    from retrodict.tasks.recon_acquired import Acquisition
    from retrodict.tasks.reconstruct import Reconstructed

SHOWN = 24
"""Samples that the page has at most."""

__all__ = ["KIND", "belongs_to", "image_like", "write_parts"]

KIND = "reconstruct"
"""Of the record: NAME_reconstruct.json."""


def image_like(made: Acquisition, values: Tensor, format: str) -> tuple[Image, Image | None]:
    """The image of `values` `(slices, C, *N)`, and the truth where there is one, as a result is written.

    Like the input where that was an image on the same pixels; otherwise in `format`, its middle at 0, rows leading to
    the back and columns to the left of a patient; complex values always as npz.
    """
    values = values.detach().cpu()
    values = values.to(torch.complex64 if values.is_complex() else torch.float32)
    whole = values.transpose(0, 1) if made.stacked and values.shape[0] > 1 else values.transpose(0, 1).flatten(0, 1)
    if made.like is not None:
        return made.like.with_values(whole.reshape(made.like.values.shape), made.unit), None
    spacing = made.spacing if len(made.spacing) == whole.ndim - 1 else (made.slice_spacing, *made.spacing)
    image = _image(whole, made, spacing, "npz" if whole.is_complex() else format)
    if made.truth is None:
        return image, None
    truth = made.truth.reshape(whole.shape).float()
    return image, _image(truth, made, spacing, format)


def _image(values: Tensor, made: Acquisition, spacing: tuple[float, ...], format: str) -> Image:
    image = Image(values, made.unit, spacing, format, made.source)
    return replace(image, header=_nifti(values, spacing)) if format == "nifti" else image


def _nifti(values: Tensor, spacing: tuple[float, ...]) -> Any:
    shape = tuple(values.shape[1:])
    sizes = np.array([*reversed(spacing), 1.0, 1.0][:3]) * np.array([-1, -1, 1])
    counts = np.array([*reversed(shape), 1, 1][:3])
    affine = np.eye(4)
    affine[:3, :3] = np.diag(sizes)
    affine[:3, 3] = -sizes * (counts - 1) / 2
    return header_in_space(shape, spacing, affine)


# ---- what stands there already ---------------------------------------------------------------------------------------


def belongs_to(name: str) -> Callable[[str], bool]:
    """Whether a file name is that of a result of `name`."""
    suffixes = "|".join(re.escape(s) for s in known_suffixes())
    pattern = re.compile(
        rf"{re.escape(name)}_(?:(?:image|magnitude|truth|mean|sd|sample-\d{{3,}})(?:{suffixes})?|reconstruct\.json|report\.html)"
    )
    return lambda file: pattern.fullmatch(file) is not None


# ---- writing ---------------------------------------------------------------------------------------------------------


def write_parts(result: Reconstructed, folder: Path, out: Path) -> list[Path]:
    """Images, record and report in `folder`; the report names the files where they will be, in `out`."""
    from retrodict.report.reconstruction import render  # plotting takes longer to import than all else

    words = f"retrodict reconstruction by {result.method}: point estimate (no uncertainty)"
    parts = [("image", result.image, words)] if result.samples is None else _of_posterior(result)
    if result.image.values.is_complex():
        made = result.acquired
        magnitude = _image(result.image.values.abs(), made, tuple(result.image.spacing), "nifti")
        parts.append(("magnitude", magnitude, f"{words}, magnitude"))
    if result.truth is not None:
        parts.append(("truth", result.truth, "what the measurement was simulated from"))
    written: list[Path] = []
    for role, image, text in parts:
        like = replace(image, source=()) if result.acquired.like is None else image
        destination = folder / f"{result.name}_{role}{written_suffix(like.format)}"
        paths = write(image, destination, like=like, role=role, description=text)
        written += [destination] if destination.is_dir() else paths
    record, page = folder / f"{result.name}_reconstruct.json", folder / f"{result.name}_report.html"
    final = [out / p.name for p in (*written, record, page)]
    details = {**result.details, "files": [p.name for p in final]}
    write_file(record, json.dumps(details, indent=1, default=str).encode())
    write_file(page, render(details, _pictures(result), result.name).encode())
    return [*written, record, page]


def _of_posterior(result: Reconstructed) -> list[tuple[str, Image, str]]:
    """Mean, deviation where the spread is that of the posterior, and samples."""
    words, drawn = f"retrodict reconstruction by {result.method}", result.samples or ()
    if result.kind == "point":
        return [("image", result.image, f"{words}: point estimate (no uncertainty)")]
    parts = [("mean", result.image, f"{words}: mean of {len(drawn)} samples")]
    if result.sd is not None:
        parts.append(("sd", result.sd, f"{words}: deviation of the posterior"))
    return [*parts, *((f"sample-{k:03d}", x, f"{words}: a sample") for k, x in enumerate(drawn))]


def _pictures(result: Reconstructed) -> dict[str, Any]:
    """Arrays for the page, of the slice that is shown."""
    values = result.image.values
    k = result.shown if values.ndim == 4 and result.acquired.count > 1 else values.shape[-3] // 2

    def plane(image: Image) -> np.ndarray:
        found = image.values.abs() if image.values.is_complex() else image.values
        return (found[0, k] if found.ndim == 4 else found[0]).numpy()

    data, rest, seen = result.data, result.residual.values, result.residual.seen
    while data.ndim > 2:
        first = 0 if data.ndim == 3 else data.shape[0] // 2
        middle = data.shape[0] // 2 if data.ndim == 3 and result.acquired.kind == "image" else first
        data, rest, seen = data[middle], rest[middle], seen[middle]
    if data.ndim == 1:
        data, rest, seen = data[None], rest[None], seen[None]
    return {
        "kind": result.acquired.kind,
        "image": plane(result.image),
        "sd": None if result.sd is None else plane(result.sd),
        "samples": [plane(x) for x in (result.samples or ())[:SHOWN]],
        "truth": None if result.truth is None else plane(result.truth),
        "data": data.numpy(),
        "residual": rest.numpy(),
        "seen": seen.numpy(),
        "sample": result.residual.values[result.residual.seen].numpy(),
        "spacing": tuple(result.image.spacing[-2:]),
    }
