"""Measures of images and ensembles. They know tensors, units and spacings, and nothing of how an image was made."""

from retrodict.metrics.bands import BandSpreadSkill, band_spread_skill
from retrodict.metrics.bootstrap import bootstrap, paired_bootstrap
from retrodict.metrics.calibration import central_factor, coverage, z_scores
from retrodict.metrics.conformal import (
    image_score,
    miscoverage,
    patients_needed,
    risk_factor,
    risk_patients_needed,
    split_factor,
    standardized,
    upper_bound,
)
from retrodict.metrics.ensemble import Decomposition, SpreadSkill, decompose, spread_skill
from retrodict.metrics.fidelity import mse, psnr, rmse
from retrodict.metrics.frequency import detrend, nps, radial
from retrodict.metrics.misfit import DataMisfit, data_misfit
from retrodict.metrics.noise import NoiseSpectrum, Whiteness, autocorrelation, noise_spectrum, whiteness
from retrodict.metrics.overlap import independent_regions
from retrodict.metrics.predictive import disc_means, predictive_factor, tiled_ratio
from retrodict.metrics.ranks import STATISTICS, RankHistogram, rank_histogram, ranks, simulation_based_calibration
from retrodict.metrics.regions import Region, check_uniform, find_uniform
from retrodict.metrics.reliability import (
    CoverageCurve,
    ReliabilityCurve,
    ZSummary,
    coverage_curve,
    reliability_curve,
    reliability_map,
    z_summary,
)
from retrodict.metrics.resolution import Resolution, circular_edge_mtf, edge_mtf, point_mtf
from retrodict.metrics.response import KnownSystem, Perturbation, draw_disc, known_system, nps_ratio, perturbation_mtf
from retrodict.metrics.similarity import ssim, ssim_map
from retrodict.metrics.tarp import Tarp, tarp
from retrodict.metrics.task import (
    Detectability,
    contrast_to_noise,
    detectability,
    detectability_plane,
    disc_spectrum,
    hotelling_from_samples,
    neq,
)

__all__ = [
    "STATISTICS",
    "BandSpreadSkill",
    "CoverageCurve",
    "DataMisfit",
    "Decomposition",
    "Detectability",
    "KnownSystem",
    "NoiseSpectrum",
    "Perturbation",
    "RankHistogram",
    "Region",
    "ReliabilityCurve",
    "Resolution",
    "SpreadSkill",
    "Tarp",
    "Whiteness",
    "ZSummary",
    "autocorrelation",
    "band_spread_skill",
    "bootstrap",
    "central_factor",
    "check_uniform",
    "circular_edge_mtf",
    "contrast_to_noise",
    "coverage",
    "coverage_curve",
    "data_misfit",
    "decompose",
    "detectability",
    "detectability_plane",
    "detrend",
    "disc_means",
    "disc_spectrum",
    "draw_disc",
    "edge_mtf",
    "find_uniform",
    "hotelling_from_samples",
    "image_score",
    "independent_regions",
    "known_system",
    "miscoverage",
    "mse",
    "neq",
    "noise_spectrum",
    "nps",
    "nps_ratio",
    "paired_bootstrap",
    "patients_needed",
    "perturbation_mtf",
    "point_mtf",
    "predictive_factor",
    "psnr",
    "radial",
    "rank_histogram",
    "ranks",
    "reliability_curve",
    "reliability_map",
    "risk_factor",
    "risk_patients_needed",
    "rmse",
    "simulation_based_calibration",
    "split_factor",
    "spread_skill",
    "ssim",
    "ssim_map",
    "standardized",
    "tarp",
    "tiled_ratio",
    "upper_bound",
    "whiteness",
    "z_scores",
    "z_summary",
]
