"""Images with their geometry: finding, reading, resampling and writing them, and patches of them to train on."""

from retrodict._check import OutputError
from retrodict.data.acquisition import acquisition, fingerprints
from retrodict.data.formats.dicom_private import deidentified
from retrodict.data.image import Image, Source
from retrodict.data.io import Found, LeftOut, discover, find, read, write
from retrodict.data.medmnist import read_medmnist
from retrodict.data.patches import Group, PatchSet, split
from retrodict.data.resample import resample

__all__ = [
    "Found",
    "Group",
    "Image",
    "LeftOut",
    "OutputError",
    "PatchSet",
    "Source",
    "acquisition",
    "deidentified",
    "discover",
    "find",
    "fingerprints",
    "read",
    "read_medmnist",
    "resample",
    "split",
    "write",
]
