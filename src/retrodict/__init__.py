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
    "restore": "tasks.restore",
    "restore_all": "tasks.restore",
    "open_model": "models.model",
    "Restored": "tasks.restore",
    "RestoreOptions": "tasks.options",
    "Image": "data",
    "read": "data",
    "write": "data",
    "discover": "data",
    "resample": "data",
    # models
    "Model": "models.model",
    "ModelSpec": "models.model",
    "Intensity": "models.model",
    "load_model": "models.model",
    "save_model": "models.model",
    # the four nouns and one verb
    "Process": "processes.process",
    "PROCESSES": "processes",
    "FourierProcess": "processes.fourier",
    "external": "processes.recipes",
    "Curve": "bases.curve",
    "Spectrum": "bases.spectrum",
    "radial_spectrum": "bases.spectrum",
    "BASES": "bases",
    "Pixel": "bases",
    "Fourier": "bases",
    "Cosine": "bases",
    "Wavelet": "bases",
    "Cond": "processes.observation",
    "Denoiser": "denoisers.denoiser",
    "FunctionDenoiser": "denoisers.denoiser",
    "NetDenoiser": "denoisers.network",
    "Plan": "samplers",
    "RULES": "samplers",
    "GRIDS": "samplers.plan",
    "make_grid": "samplers.plan",
    "make_plan": "samplers",
    "sample": "samplers",
    "start_state": "samplers",
    # evidence
    "GaussianDenoiser": "denoisers.denoiser",
    "GaussianLaw": "denoisers.mixture",
    "MixtureDenoiser": "denoisers.mixture",
    "MixtureLaw": "denoisers.mixture",
    "gaussian_card": "samplers.card",
    "gaussian_posterior": "samplers.card",
    "SamplingOptions": "samplers.ensemble",
    "restore_batch": "samplers.ensemble",
    "gate": "samplers.ensemble",
    # training
    "UNet": "nets",
    "FitConfig": "tasks.fit_config",
    "load_config": "tasks.fit_config",
    "prepare_fit": "tasks.fit",
    "fit": "tasks.fit",
    "denoising_loss": "training.losses",
    # the instrument, and judging images
    "measure_nps": "tasks.measure",
    "measure_mtf": "tasks.measure",
    "Measured": "tasks.measure",
    "model_with_instrument": "models.instrument",
    "evaluate": "tasks.evaluate",
    "EvaluationConfig": "tasks.evaluate_methods",
    "load_evaluation": "tasks.evaluate_methods",
    "Evaluation": "tasks.evaluate",
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
    from retrodict.tasks.restore import restore as restore
