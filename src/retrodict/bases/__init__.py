"""Orthonormal bases in which gains and variances are element-wise numbers; spectra and curves over frequency."""

from __future__ import annotations

from retrodict.bases.basis import Basis, Cosine, Fourier, Pixel
from retrodict.bases.composite import ChannelMix, Stack
from retrodict.bases.orthonormal import Orthonormal
from retrodict.bases.wavelet import Wavelet

__all__ = ["BASES", "Basis", "ChannelMix", "Cosine", "Fourier", "Orthonormal", "Pixel", "Stack", "Wavelet"]

BASES = {"pixel": Pixel, "fourier": Fourier, "cosine": Cosine, "wavelet": Wavelet}
"""Bases by name, for recipes; `Stack` and `ChannelMix` are built round one of them, `Orthonormal`
round a matrix, in Python."""
