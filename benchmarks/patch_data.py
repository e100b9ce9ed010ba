"""Image sets of the patch-denoising experiment: 28 x 28 images in [-1, 1], split by patient.

organ      the official organamnist.npz, where the user has it (RETRODICT_MEDMNIST names its folder)
crops      abdominal CT crops that mimic it: square crops of 84-200 mm, window [-160, 240] HU -> [-1, 1], averaged over
           areas to 28 x 28, kept where 10-50 % of the pixels are saturated.  Test: one patient (15 slices); training:
           other patients, and MedNIST abdomen slices (8-bit grey) with a random window; validation and calibration
           of the spread: two more patients (chest, head).
pneumonia  PneumoniaMNIST, its own splits
"""

from __future__ import annotations

import os
from pathlib import Path

import nibabel
import numpy as np
import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict._random import key
from retrodict.data import read_medmnist

DATA = Path(__file__).resolve().parents[1].parent / "shared" / "data"
SIDE, WINDOW, SATURATED = 28, (-160.0, 240.0), (0.1, 0.5)
NAMES = ("crops", "pneumonia", "organ")


def area_weights(first: float, width: float, n: int) -> Tensor:
    """Rows `(SIDE, n)` that average [first, first + width] pixels over SIDE equal cells."""
    edges = first + width / SIDE * torch.arange(SIDE + 1, dtype=torch.float64)
    low, high = edges[:-1, None], edges[1:, None]
    pixel = torch.arange(n, dtype=torch.float64)[None]
    overlap = (torch.minimum(high, pixel + 1) - torch.maximum(low, pixel)).clamp_min(0)
    return (overlap / overlap.sum(1, keepdim=True)).float()


def crop(image: Tensor, width: float, place: Tensor) -> Tensor:
    """One square crop of `width` pixels, `place` in [0, 1)^2, averaged over areas to `(SIDE, SIDE)`."""
    h, w = image.shape
    top, left = (float(p) * (n - width) for p, n in zip(place, (h, w), strict=True))
    return area_weights(top, width, h) @ image @ area_weights(left, width, w).T


def window(image: Tensor, low: float, high: float) -> Tensor:
    """Grey window to [-1, 1]."""
    return ((image - low) / (high - low) * 2 - 1).clamp(-1, 1)


def saturated(image: Tensor) -> float:
    """Fraction of pixels at -1 or 1."""
    return float((image.abs() >= 1 - 1e-6).float().mean())


def ct_crops(slices: list[tuple[Tensor, float]], count: int, seed: int) -> tuple[Tensor, list[int]]:
    """`count` crops `(count, 1, 28, 28)` of (image in HU, pixel size in mm), and the slice that each comes from."""
    out, source, draw = [], [], torch.Generator().manual_seed(key(seed, "crops"))
    while len(out) < count:
        u = torch.rand(4, generator=draw, dtype=torch.float64)
        index = int(u[0] * len(slices))
        image, pixel = slices[index]
        width = (84 + 116 * float(u[1])) / pixel
        if width > min(image.shape):
            continue
        patch = crop(window(image, *WINDOW), width, u[2:])
        if SATURATED[0] <= saturated(patch) <= SATURATED[1]:
            out.append(patch)
            source.append(index)
    return torch.stack(out)[:, None], source


def mednist_crops(images: Tensor, count: int, seed: int) -> Tensor:
    """Crops of 8-bit abdomen slices `(n, 64, 64)` with a random window, saturated like the CT crops."""
    out, draw = [], torch.Generator().manual_seed(key(seed, "mednist"))
    while len(out) < count:
        u = torch.rand(6, generator=draw, dtype=torch.float64)
        image = images[int(u[0] * len(images))].float()
        low = 95 + 25 * float(u[4])
        patch = crop(window(image, low, low + 60 + 110 * float(u[5])), 28 + 34 * float(u[1]), u[2:4])
        if SATURATED[0] <= saturated(patch) <= SATURATED[1]:
            out.append(patch)
    return torch.stack(out)[:, None]


def _volume(name: str) -> list[tuple[Tensor, float]]:
    volume = nibabel.load(DATA / "ct_body_totalsegmentator" / name)  # type: ignore[attr-defined]
    values = torch.from_numpy(np.asarray(volume.dataobj).astype(np.float32))
    return [(values[:, :, k], float(volume.header.get_zooms()[0])) for k in range(values.shape[2])]


def _test_patient() -> list[tuple[Tensor, float]]:
    archive = np.load(DATA / "ct_body_totalsegmentator" / "example_ct_dicom_hu.npz")
    return [(torch.from_numpy(x.astype(np.float32)), float(archive["pixel_spacing_mm"][0])) for x in archive["hu"]]


def _head() -> list[tuple[Tensor, float]]:
    from retrodict.data import read

    image = read(DATA / "ct_head_ge", slices="independent", allow_gaps=True)
    return [(x, image.spacing[-1]) for x in image.values[0]]


def _chest() -> list[tuple[Tensor, float]]:
    from retrodict.data import read

    image = read(DATA / "ct_lung3d_elastix" / "3DCT_lung_registered.mha", unit="HU")
    return [(x, image.spacing[-1]) for x in image.values[0][10:-10]]


def _dcmqi() -> list[tuple[Tensor, float]]:
    from retrodict.data import read

    image = read(DATA / "ct_abdomen_dcmqi", slices="independent", allow_gaps=True)
    return [(x, image.spacing[-1]) for x in image.values[0]]


def require(path: Path, what: str) -> None:
    """Say what is missing and where it would have to be."""
    if not path.exists():
        raise InputError(path, "no such file", what)


def load(name: str, part: str, count: int = 0) -> tuple[Tensor, list[int]]:
    """Images `(n, 1, 28, 28)` of set `name`, part "train", "val" or "test", and a patient or slice number for each."""
    if name == "organ":
        path = Path(os.environ.get("RETRODICT_MEDMNIST", ".")) / "organamnist.npz"
        require(path, "organamnist.npz of MedMNIST (https://medmnist.com); RETRODICT_MEDMNIST names its folder")
        images = read_medmnist(path, part)  # type: ignore[arg-type]
    elif name == "pneumonia":
        path = DATA / "xray_pneumoniamnist28" / "pneumoniamnist_subset.npz"
        require(path, "the shared data")
        images = read_medmnist(path, part)  # type: ignore[arg-type]
    else:
        return _crops(part, count)
    return images[: count or None], list(range(len(images)))


def _crops(part: str, count: int) -> tuple[Tensor, list[int]]:
    require(DATA / "ct_body_totalsegmentator", "the shared data")
    if part == "test":
        return ct_crops(_test_patient(), count or 512, 1)
    mednist = np.load(DATA / "mednist_ct64" / "abdomenct.npz")
    grey = torch.from_numpy(mednist["images"][mednist["first_occurrence"]])
    cut = int(0.9 * len(grey))  # contiguous: neighbours are the same patient
    if part == "val":  # CT of neither training nor test
        return ct_crops([*_chest(), *_head() * 2], count or 512, 2)
    body = ct_crops([*_volume("example_ct.nii.gz"), *_dcmqi() * 8], 14000, 3)[0]
    chest = ct_crops(
        [(x, s) for n in ("thorax_aorta_ct_cropped", "thorax_pulmonary_ct_cropped") for x, s in _volume(f"{n}.nii.gz")],
        3000,
        4,
    )[0]
    images = torch.cat([body, chest, mednist_crops(grey[:cut], 14000, 5)])
    return images, list(range(len(images)))


def turned(images: Tensor, keys: list[int], flips: bool) -> Tensor:
    """Images of `keys` with a random mirror and quarter turn each (a mirror only left-right without `flips`)."""
    out = []
    for k in keys:
        draw = torch.Generator().manual_seed(key(k, "item") % 2**62)
        index = int(torch.randint(len(images), (1,), generator=draw))
        quarter, mirror = torch.randint(0, 4, (2,), generator=draw).tolist()
        image = images[index]
        image = image.flip(-1) if mirror % 2 else image
        out.append(torch.rot90(image, quarter, (-2, -1)) if flips else image)
    return torch.stack(out)
