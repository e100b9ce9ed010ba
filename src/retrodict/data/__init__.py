"""Images with their geometry: finding, reading, resampling and writing them, and patches of them to train on."""

from retrodict.data._acquisition import acquisition, fingerprints
from retrodict.data._image import Image, OutputError, Source
from retrodict.data._resample import resample
from retrodict.data.io import discover, read, write
from retrodict.data.medmnist import read_medmnist
from retrodict.data.sets import Group, PatchSet, split

__all__ = [
    "Group",
    "Image",
    "OutputError",
    "PatchSet",
    "Source",
    "acquisition",
    "discover",
    "fingerprints",
    "read",
    "read_medmnist",
    "resample",
    "split",
    "write",
]
