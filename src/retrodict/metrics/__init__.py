"""Measures of images and ensembles. They know tensors, units and spacings, and nothing of how an image was made."""

from retrodict.metrics.calibration import central_factor, coverage, z_scores
from retrodict.metrics.ensemble import Decomposition, Moments, SpreadSkill, decompose, spread_skill
from retrodict.metrics.fidelity import mse, psnr, rmse
from retrodict.metrics.frequency import detrend, nps, radial

__all__ = [
    "Decomposition",
    "Moments",
    "SpreadSkill",
    "central_factor",
    "coverage",
    "decompose",
    "detrend",
    "mse",
    "nps",
    "psnr",
    "radial",
    "rmse",
    "spread_skill",
    "z_scores",
]
