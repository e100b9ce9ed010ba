"""retrodict: image restoration with an uncertainty that is right.

Score-based diffusion whose forward process has the physics of the instrument: its blur (MTF) and its colored noise
(NPS).  This module is the complete public list; names are resolved on first use, so that importing stays cheap.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from retrodict._version import __version__

_PUBLIC = {
    # files and one-line use
    "restore": "restoring",
    "restore_all": "restoring",
    "open_model": "restoring",
    "Restored": "restoring",
    "Image": "data",
    "read": "data",
    "write": "data",
    "discover": "data",
    "resample": "data",
    # models
    "Model": "checkpoint",
    "ModelSpec": "checkpoint",
    "Intensity": "checkpoint",
    "load_model": "checkpoint",
    "save_model": "checkpoint",
    # the four nouns and one verb
    "Process": "process",
    "PROCESSES": "processes",
    "FourierProcess": "processes",
    "external": "processes",
    "Curve": "curves",
    "Spectrum": "spectrum",
    "radial_spectrum": "spectrum",
    "BASES": "bases",
    "Pixel": "bases",
    "Fourier": "bases",
    "Cosine": "bases",
    "Wavelet": "bases",
    "Cond": "denoiser",
    "Denoiser": "denoiser",
    "FunctionDenoiser": "denoiser",
    "NetDenoiser": "denoiser",
    "Plan": "samplers",
    "RULES": "samplers",
    "GRIDS": "grids",
    "make_grid": "grids",
    "make_plan": "samplers",
    "sample": "samplers",
    "start_state": "samplers",
    # evidence
    "GaussianDenoiser": "gaussian",
    "GaussianLaw": "gaussian",
    "MixtureDenoiser": "gaussian",
    "MixtureLaw": "gaussian",
    "gaussian_card": "samplers.card",
    "gaussian_posterior": "samplers.card",
    "SamplingOptions": "restoration",
    "restore_batch": "restoration",
    "gate": "restoration",
    # training
    "UNet": "nets",
    "FitConfig": "config",
    "load_config": "config",
    "prepare_fit": "fitting",
    "fit": "fitting",
    "denoising_loss": "losses",
    # the instrument, and judging images
    "measure_nps": "measuring",
    "measure_mtf": "measuring",
    "Measured": "measuring",
    "model_with_instrument": "instrument",
    "evaluate": "evaluating",
    "EvaluationConfig": "evaluating",
    "load_evaluation": "evaluating",
    "Evaluation": "evaluating",
    # errors
    "InputError": "_check",
    "NotCalibratedError": "_check",
}

__all__ = ["__version__", *sorted(_PUBLIC)]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'retrodict' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"retrodict.{_PUBLIC[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__


if TYPE_CHECKING:
    from retrodict.restoring import restore as restore
