"""Orthonormal bases in which gains and variances are element-wise numbers."""

from __future__ import annotations

from retrodict.bases._base import Basis, Pixel
from retrodict.bases.cosine import Cosine
from retrodict.bases.fourier import Fourier
from retrodict.bases.wavelet import Wavelet

__all__ = ["BASES", "Basis", "Cosine", "Fourier", "Pixel", "Wavelet"]

BASES = {"pixel": Pixel, "fourier": Fourier, "cosine": Cosine, "wavelet": Wavelet}
