"""The 28 x 28 image sets of MedMNIST v2 (Yang et al., Scientific Data 2023) as one npz file gives them."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from retrodict._check import InputError, choice

__all__ = ["read_medmnist"]

SPLITS = ("train", "val", "test")


def read_medmnist(path: Path | str, part: Literal["train", "val", "test"]) -> Tensor:
    """Grey images of one split of a MedMNIST file such as `organamnist.npz`: `(n, 1, H, W)` float32 in [-1, 1].

    The official files (https://medmnist.com, CC BY 4.0) hold uint8 arrays `train_images`, `val_images`, `test_images`
    of shape (n, H, W); 0 becomes -1 and 255 becomes 1.  Labels are not read.  Raises `InputError` for a file that is
    no npz, lacks the split, or holds something else; object arrays are never unpickled.
    """
    choice("part", part, SPLITS)
    name = f"{part}_images"
    try:
        with np.load(path, allow_pickle=False) as archive:
            if name not in archive:
                found = ", ".join(sorted(archive.files)) or "nothing"
                raise InputError(f"{path}: {name}", f"the arrays {found}", "a MedMNIST file with *_images")
            images = archive[name]
    except FileNotFoundError as error:
        raise InputError(path, "no such file", "a MedMNIST file such as organamnist.npz") from error
    except (ValueError, OSError, zipfile.BadZipFile, EOFError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(path, f"no readable npz ({error})", "a MedMNIST file such as organamnist.npz") from error
    if images.dtype != np.uint8 or images.ndim != 3 or not len(images):
        found = f"{images.dtype} of shape {images.shape}"
        raise InputError(f"{path}: {name}", found, "uint8 grey images (n, H, W)", "Colour sets are not read.")
    return torch.from_numpy(images.astype(np.float32) / 127.5 - 1)[:, None]
