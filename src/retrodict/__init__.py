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
    "restore_all": "tasks.batch",
    "restore_image": "tasks.restore",
    "open_model": "models.model",
    "prior_of": "models.prior",
    "Restored": "tasks.restore",
    "RestoreOptions": "tasks.options",
    "reconstruct": "tasks.reconstruct",
    "Reconstructed": "tasks.reconstruct",
    "ReconstructOptions": "tasks.recon_options",
    "open_raw": "data.raw",
    "coil_maps": "physics.coils",
    "find_center": "physics.corrections",
    "Hardening": "physics.hardening",
    "fit_hardening": "physics.hardening",
    "outline": "physics.outline",
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
    "seen": "models.provenance",
    "save_model": "models.model",
    # the four nouns and one verb
    "Process": "processes.process",
    "PROCESSES": "processes",
    "FourierProcess": "processes.fourier",
    "external": "processes.recipes",
    "convert_state": "processes.convert",
    "convert_time": "processes.convert",
    "foreign_schedule": "processes.foreign",
    "scheduler_config": "processes.foreign",
    "Foreign": "processes.foreign",
    "path_lengths": "processes.paths",
    "Curve": "bases.curve",
    "Spectrum": "bases.spectrum",
    "radial_spectrum": "bases.spectrum",
    "BandSpectrum": "bases.spectrum",
    "PairedSpectrum": "bases.paired",
    "paired_spectrum": "bases.paired",
    "band_spectrum": "bases.spectrum",
    "Bands": "bases.bands",
    "dwt": "bases.bands",
    "UndecimatedHaar": "bases.redundant",
    "wavelet_tv": "bases.wavelet_tv",
    "wavelet_tv_gradient": "bases.wavelet_tv",
    "Pyramid": "bases.redundant",
    "laplacian_pyramid": "bases.redundant",
    "BASES": "bases",
    "Pixel": "bases",
    "Fourier": "bases",
    "Cosine": "bases",
    "Wavelet": "bases",
    "Orthonormal": "bases",
    "DenseProcess": "processes.general",
    "DenseGaussian": "samplers.general",
    "dense_plan": "samplers.general",
    "dense_sample": "samplers.general",
    "dense_law": "samplers.general",
    "dephased": "processes.general",
    "LogDomain": "processes.multiplicative",
    "GeometricBrownian": "processes.multiplicative",
    "multiplicative_sample": "samplers.multiplicative",
    # the measurement: operators of physics
    "OPERATORS": "physics",
    "Operator": "physics.operator",
    "Space": "physics.operator",
    "MatrixFree": "physics.adapters",
    "Affine": "physics.algebra",
    "Composed": "physics.algebra",
    "Stacked": "physics.algebra",
    "Gram": "physics.algebra",
    "check_adjoint": "physics.operator",
    "Blur": "physics.convolution",
    "Mask": "physics.diagonal",
    "Downsample": "physics.resampling",
    "Crop": "physics.crop",
    "FilterBank": "physics.filters",
    "Radon": "physics.radon",
    "ParallelBeam": "physics.geometry",
    "FanBeam": "physics.geometry",
    "even_angles": "physics.geometry",
    "golden_angles": "physics.geometry",
    "Projection": "physics.projection",
    "ConeBeam": "physics.views",
    "Radiograph": "physics.views",
    "CartesianMRI": "physics.mri",
    "RadialMRI": "physics.mri",
    "sampling": "physics.kspace",
    "tie": "physics.optics",
    "idt": "physics.optics",
    "ultrasound": "physics.ultrasound",
    "emission": "physics.emission",
    "from_deepinv": "physics.adapters",
    "to_deepinv": "physics.adapters",
    # its noise, and the classical reconstructions
    "Measurement": "physics.measurement",
    "Covariance": "physics.covariance",
    "NOISES": "physics",
    "Noise": "physics.noise",
    "Misfit": "physics.noise",
    "GaussianNoise": "physics.noise",
    "PoissonNoise": "physics.counts",
    "TransmissionNoise": "physics.counts",
    "LogPoissonNoise": "physics.counts",
    "MixtureNoise": "physics.mixture_noise",
    "bow_tie": "physics.counts",
    "CLASSICS": "physics.classics",
    "Reconstruction": "physics.classics.result",
    "fbp": "physics.classics.backprojection",
    "fdk": "physics.classics.backprojection",
    "sirt": "physics.classics.algebraic",
    "sart": "physics.classics.algebraic",
    "os_sart": "physics.classics.algebraic",
    "cgls": "physics.classics.algebraic",
    "tikhonov": "physics.classics.algebraic",
    "cg_sense": "physics.classics.algebraic",
    "sense": "physics.classics.linear",
    "g_factor": "physics.classics.linear",
    "wiener": "physics.classics.linear",
    "ml_em": "physics.classics.counts",
    "os_em": "physics.classics.counts",
    "richardson_lucy": "physics.classics.counts",
    "fista": "physics.classics.variational",
    "admm": "physics.classics.variational",
    "choose": "physics.classics.choice",
    "Cond": "processes.observation",
    "Moments": "processes.observation",
    "Pairing": "processes.observation",
    "Denoiser": "denoisers.denoiser",
    "FunctionDenoiser": "denoisers.denoiser",
    "FlowMap": "denoisers.flow_map",
    "NetDenoiser": "denoisers.network",
    "CascadeDenoiser": "denoisers.cascade",
    "CascadePosterior": "denoisers.cascade_posterior",
    "Wrapper": "denoisers.wrappers",
    "Conservative": "denoisers.conservative",
    "Clamped": "denoisers.wrappers",
    "Guided": "denoisers.wrappers",
    "Autoguided": "denoisers.guidance",
    "ClassifierGuided": "denoisers.guidance",
    "guided_law": "denoisers.guidance",
    "Fused": "denoisers.wrappers",
    "Respread": "denoisers.wrappers",
    "Converted": "denoisers.foreign",
    "foreign_denoiser": "denoisers.foreign",
    "LikelihoodGuided": "denoisers.likelihood",
    "UnknownKernel": "denoisers.likelihood",
    "Plan": "samplers",
    "RULES": "samplers",
    # posterior methods: a prior and a measurement
    "POSTERIORS": "posterior",
    "posterior_method": "posterior",
    "sample_posterior": "posterior.ensemble",
    "posterior_verdict": "posterior.ensemble",
    "fit_spectrum": "posterior.empirical",
    "FittedSpectrum": "posterior.empirical",
    "gaussian_prior": "posterior.empirical",
    "Ensemble": "posterior.ensemble",
    "PosteriorDenoiser": "posterior.matched",
    "ConsistentDenoiser": "posterior.consistent",
    "FusedDenoiser": "posterior.fused",
    "JointDenoiser": "posterior.joint",
    "Coupled": "posterior.slices",
    "correlation": "posterior.slices",
    "sample_data": "posterior.data_domain",
    "data_measurement": "posterior.data_domain",
    "acquire": "posterior.active",
    "Acquired": "posterior.active",
    "ensemble_entropy": "posterior.active",
    "affine_card": "posterior.card",
    "dense_posterior": "posterior.card",
    "GRIDS": "samplers.plan",
    "make_grid": "samplers.plan",
    "cascade_grid": "samplers.cascade",
    "cascade_stages": "samplers.cascade",
    "sample_cascade": "samplers.cascade",
    "make_plan": "samplers",
    "whitened_plan": "samplers.whitened",
    "sample": "samplers",
    "step": "samplers.loop",
    "steps": "samplers.loop",
    "choose_start": "samplers.starts",
    "optimal_grid": "samplers.optimal",
    "aligned_grid": "samplers.optimal",
    "principal": "samplers.principal",
    "teleport": "samplers.teleport",
    "teleport_time": "samplers.teleport",
    "teleported": "samplers.teleport",
    "STATEFUL": "samplers.stateful_rules",
    "make_stateful_plan": "samplers.stateful_rules",
    "stateful_sample": "samplers.stateful",
    "log_likelihood": "samplers.likelihood",
    "bits_per_dimension": "samplers.likelihood",
    "Likelihood": "samplers.likelihood",
    "invert": "samplers.inversion",
    "regenerate": "samplers.inversion",
    "round_trip": "samplers.inversion",
    "interpolate": "samplers.inversion",
    "Latent": "samplers.inversion",
    "StatefulRule": "samplers.stateful",
    "StartChoice": "samplers.starts",
    "time_at": "processes.shift",
    "data_from_heads": "denoisers.heads",
    "data_from_label": "denoisers.heads",
    "data_from_resnoise": "denoisers.heads",
    "two_head_step": "denoisers.heads",
    "start_state": "samplers",
    # evidence
    "GaussianDenoiser": "denoisers.denoiser",
    "GaussianLaw": "denoisers.mixture",
    "Uneven": "denoisers.uneven",
    "MixtureDenoiser": "denoisers.mixture",
    "EmpiricalDenoiser": "denoisers.empirical",
    "IndependentDenoiser": "denoisers.scale_mixture",
    "ScaleMixture": "denoisers.scale_mixture",
    "MixtureLaw": "denoisers.mixture",
    "gaussian_card": "samplers.card",
    "card": "samplers.card",
    "dense_card": "samplers.card",
    "gaussian_posterior": "samplers.card",
    "wavelet_card": "tasks.wavelet_card",
    "stationary_levels": "bases.stationary",
    "cascade_of_stationary": "denoisers.cascade",
    "SamplingOptions": "samplers.ensemble",
    "restore_batch": "samplers.ensemble",
    "gate": "samplers.ensemble",
    # training
    "UNet": "nets",
    "Mixer": "nets",
    "network": "nets",
    "index_folder": "tasks.index",
    "FolderIndex": "tasks.index",
    "read_index": "data.index",
    "IndexRow": "data.index",
    "ClockLaw": "processes.clocks",
    "KernelLaw": "processes.whitened",
    "FitConfig": "tasks.fit_config",
    "load_config": "tasks.fit_config",
    "prepare_fit": "tasks.fit",
    "fit": "tasks.fit",
    "diagnose": "tasks.diagnose",
    "diagnosis": "tasks.diagnose",
    "Diagnosis": "tasks.diagnose",
    "distill": "tasks.distill",
    "Distilled": "tasks.distill",
    "generate": "tasks.generate",
    "Generated": "tasks.generate",
    "open_generator": "models.cascade",
    "Ambient": "training.ambient",
    "ambient_mean": "training.ambient",
    "two_looks": "training.ambient",
    "JointScheme": "training.joint",
    "JointNet": "nets",
    "WaveletShrink": "nets",
    "ShrinkDenoiser": "denoisers.shrink",
    # shapes
    "Shape": "shapes.families",
    "draw_shape": "shapes.families",
    "SHAPE_FAMILIES": "shapes.families",
    "Volume": "shapes.volume",
    "distance_of_labels": "shapes.volume",
    "volume_of_shape": "shapes.volume",
    "in_cube": "shapes.volume",
    "Mesh": "shapes.mesh",
    "distance_of_mesh": "shapes.mesh",
    "sample_points": "shapes.mesh",
    "surface": "shapes.surface",
    "read_mesh": "shapes.files",
    "encode_mesh": "shapes.files",
    "shape_sheet": "shapes.picture",
    "generate_shapes": "tasks.shapes",
    "GeneratedShapes": "tasks.shapes",
    "evaluate_shapes": "tasks.shapes",
    "compare_shapes": "tasks.shapes",
    "vary_shape": "tasks.shape_edit",
    "chamfer": "metrics.shapes",
    "earth_mover": "metrics.shapes",
    "sliced_distance": "metrics.shapes",
    "compare_sets": "metrics.shapes",
    "denoising_loss": "training.losses",
    "Structure": "training.structure",
    "labelled": "training.structure",
    "regions": "training.structure",
    "region_codes": "training.structure",
    # the instrument, and judging images
    "measure_nps": "tasks.measure",
    "measure_mtf": "tasks.measure",
    "estimate_instrument": "tasks.estimate",
    "EstimatedInstrument": "tasks.estimate",
    "Measured": "tasks.measure",
    "measure_noise_map": "tasks.measure_map",
    "MeasuredMap": "tasks.measure_map",
    "model_with_instrument": "models.instrument",
    "evaluate": "tasks.evaluate",
    "EvaluationConfig": "tasks.evaluate_methods",
    "load_evaluation": "tasks.evaluate_methods",
    "Evaluation": "tasks.evaluate",
    "evaluate_repeats": "tasks.repeats",
    "Repeats": "tasks.repeats",
    "calibrate": "tasks.calibrate",
    "Calibrated": "tasks.calibrate",
    "Calibration": "tasks.calibration",
    # errors
    "InputError": "_check",
    "NotCalibratedError": "_check",
}

__all__ = ["__version__", *sorted(_PUBLIC)]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'retrodict' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"retrodict.{_PUBLIC[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__


if TYPE_CHECKING:  # the same list for editors and type checkers; tests/test_docs.py compares the two
    from retrodict._check import InputError as InputError
    from retrodict._check import NotCalibratedError as NotCalibratedError
    from retrodict.bases import BASES as BASES
    from retrodict.bases import Cosine as Cosine
    from retrodict.bases import Fourier as Fourier
    from retrodict.bases import Orthonormal as Orthonormal
    from retrodict.bases import Pixel as Pixel
    from retrodict.bases import Wavelet as Wavelet
    from retrodict.bases.bands import Bands as Bands
    from retrodict.bases.bands import dwt as dwt
    from retrodict.bases.curve import Curve as Curve
    from retrodict.bases.paired import PairedSpectrum as PairedSpectrum
    from retrodict.bases.paired import paired_spectrum as paired_spectrum
    from retrodict.bases.redundant import Pyramid as Pyramid
    from retrodict.bases.redundant import UndecimatedHaar as UndecimatedHaar
    from retrodict.bases.redundant import laplacian_pyramid as laplacian_pyramid
    from retrodict.bases.spectrum import BandSpectrum as BandSpectrum
    from retrodict.bases.spectrum import Spectrum as Spectrum
    from retrodict.bases.spectrum import band_spectrum as band_spectrum
    from retrodict.bases.spectrum import radial_spectrum as radial_spectrum
    from retrodict.bases.stationary import stationary_levels as stationary_levels
    from retrodict.bases.wavelet_tv import wavelet_tv as wavelet_tv
    from retrodict.bases.wavelet_tv import wavelet_tv_gradient as wavelet_tv_gradient
    from retrodict.data import Image as Image
    from retrodict.data import discover as discover
    from retrodict.data import read as read
    from retrodict.data import resample as resample
    from retrodict.data import write as write
    from retrodict.data.index import IndexRow as IndexRow
    from retrodict.data.index import read_index as read_index
    from retrodict.data.raw import open_raw as open_raw
    from retrodict.denoisers.cascade import CascadeDenoiser as CascadeDenoiser
    from retrodict.denoisers.cascade import cascade_of_stationary as cascade_of_stationary
    from retrodict.denoisers.cascade_posterior import CascadePosterior as CascadePosterior
    from retrodict.denoisers.conservative import Conservative as Conservative
    from retrodict.denoisers.denoiser import Denoiser as Denoiser
    from retrodict.denoisers.denoiser import FunctionDenoiser as FunctionDenoiser
    from retrodict.denoisers.denoiser import GaussianDenoiser as GaussianDenoiser
    from retrodict.denoisers.empirical import EmpiricalDenoiser as EmpiricalDenoiser
    from retrodict.denoisers.flow_map import FlowMap as FlowMap
    from retrodict.denoisers.foreign import Converted as Converted
    from retrodict.denoisers.foreign import foreign_denoiser as foreign_denoiser
    from retrodict.denoisers.guidance import Autoguided as Autoguided
    from retrodict.denoisers.guidance import ClassifierGuided as ClassifierGuided
    from retrodict.denoisers.guidance import guided_law as guided_law
    from retrodict.denoisers.heads import data_from_heads as data_from_heads
    from retrodict.denoisers.heads import data_from_label as data_from_label
    from retrodict.denoisers.heads import data_from_resnoise as data_from_resnoise
    from retrodict.denoisers.heads import two_head_step as two_head_step
    from retrodict.denoisers.likelihood import LikelihoodGuided as LikelihoodGuided
    from retrodict.denoisers.likelihood import UnknownKernel as UnknownKernel
    from retrodict.denoisers.mixture import GaussianLaw as GaussianLaw
    from retrodict.denoisers.mixture import MixtureDenoiser as MixtureDenoiser
    from retrodict.denoisers.mixture import MixtureLaw as MixtureLaw
    from retrodict.denoisers.network import NetDenoiser as NetDenoiser
    from retrodict.denoisers.scale_mixture import IndependentDenoiser as IndependentDenoiser
    from retrodict.denoisers.scale_mixture import ScaleMixture as ScaleMixture
    from retrodict.denoisers.shrink import ShrinkDenoiser as ShrinkDenoiser
    from retrodict.denoisers.uneven import Uneven as Uneven
    from retrodict.denoisers.wrappers import Clamped as Clamped
    from retrodict.denoisers.wrappers import Fused as Fused
    from retrodict.denoisers.wrappers import Guided as Guided
    from retrodict.denoisers.wrappers import Respread as Respread
    from retrodict.denoisers.wrappers import Wrapper as Wrapper
    from retrodict.metrics.shapes import chamfer as chamfer
    from retrodict.metrics.shapes import compare_sets as compare_sets
    from retrodict.metrics.shapes import earth_mover as earth_mover
    from retrodict.metrics.shapes import sliced_distance as sliced_distance
    from retrodict.models.cascade import open_generator as open_generator
    from retrodict.models.instrument import model_with_instrument as model_with_instrument
    from retrodict.models.model import Intensity as Intensity
    from retrodict.models.model import Model as Model
    from retrodict.models.model import ModelSpec as ModelSpec
    from retrodict.models.model import load_model as load_model
    from retrodict.models.model import open_model as open_model
    from retrodict.models.model import save_model as save_model
    from retrodict.models.prior import prior_of as prior_of
    from retrodict.models.provenance import seen as seen
    from retrodict.nets import JointNet as JointNet
    from retrodict.nets import Mixer as Mixer
    from retrodict.nets import UNet as UNet
    from retrodict.nets import WaveletShrink as WaveletShrink
    from retrodict.nets import network as network
    from retrodict.physics import NOISES as NOISES
    from retrodict.physics import OPERATORS as OPERATORS
    from retrodict.physics.adapters import MatrixFree as MatrixFree
    from retrodict.physics.adapters import from_deepinv as from_deepinv
    from retrodict.physics.adapters import to_deepinv as to_deepinv
    from retrodict.physics.algebra import Affine as Affine
    from retrodict.physics.algebra import Composed as Composed
    from retrodict.physics.algebra import Gram as Gram
    from retrodict.physics.algebra import Stacked as Stacked
    from retrodict.physics.classics import CLASSICS as CLASSICS
    from retrodict.physics.classics.algebraic import cg_sense as cg_sense
    from retrodict.physics.classics.algebraic import cgls as cgls
    from retrodict.physics.classics.algebraic import os_sart as os_sart
    from retrodict.physics.classics.algebraic import sart as sart
    from retrodict.physics.classics.algebraic import sirt as sirt
    from retrodict.physics.classics.algebraic import tikhonov as tikhonov
    from retrodict.physics.classics.backprojection import fbp as fbp
    from retrodict.physics.classics.backprojection import fdk as fdk
    from retrodict.physics.classics.choice import choose as choose
    from retrodict.physics.classics.counts import ml_em as ml_em
    from retrodict.physics.classics.counts import os_em as os_em
    from retrodict.physics.classics.counts import richardson_lucy as richardson_lucy
    from retrodict.physics.classics.linear import g_factor as g_factor
    from retrodict.physics.classics.linear import sense as sense
    from retrodict.physics.classics.linear import wiener as wiener
    from retrodict.physics.classics.result import Reconstruction as Reconstruction
    from retrodict.physics.classics.variational import admm as admm
    from retrodict.physics.classics.variational import fista as fista
    from retrodict.physics.coils import coil_maps as coil_maps
    from retrodict.physics.convolution import Blur as Blur
    from retrodict.physics.corrections import find_center as find_center
    from retrodict.physics.counts import LogPoissonNoise as LogPoissonNoise
    from retrodict.physics.counts import PoissonNoise as PoissonNoise
    from retrodict.physics.counts import TransmissionNoise as TransmissionNoise
    from retrodict.physics.counts import bow_tie as bow_tie
    from retrodict.physics.covariance import Covariance as Covariance
    from retrodict.physics.crop import Crop as Crop
    from retrodict.physics.diagonal import Mask as Mask
    from retrodict.physics.emission import emission as emission
    from retrodict.physics.filters import FilterBank as FilterBank
    from retrodict.physics.geometry import FanBeam as FanBeam
    from retrodict.physics.geometry import ParallelBeam as ParallelBeam
    from retrodict.physics.geometry import even_angles as even_angles
    from retrodict.physics.geometry import golden_angles as golden_angles
    from retrodict.physics.hardening import Hardening as Hardening
    from retrodict.physics.hardening import fit_hardening as fit_hardening
    from retrodict.physics.kspace import sampling as sampling
    from retrodict.physics.measurement import Measurement as Measurement
    from retrodict.physics.mixture_noise import MixtureNoise as MixtureNoise
    from retrodict.physics.mri import CartesianMRI as CartesianMRI
    from retrodict.physics.mri import RadialMRI as RadialMRI
    from retrodict.physics.noise import GaussianNoise as GaussianNoise
    from retrodict.physics.noise import Misfit as Misfit
    from retrodict.physics.noise import Noise as Noise
    from retrodict.physics.operator import Operator as Operator
    from retrodict.physics.operator import Space as Space
    from retrodict.physics.operator import check_adjoint as check_adjoint
    from retrodict.physics.optics import idt as idt
    from retrodict.physics.optics import tie as tie
    from retrodict.physics.outline import outline as outline
    from retrodict.physics.projection import Projection as Projection
    from retrodict.physics.radon import Radon as Radon
    from retrodict.physics.resampling import Downsample as Downsample
    from retrodict.physics.ultrasound import ultrasound as ultrasound
    from retrodict.physics.views import ConeBeam as ConeBeam
    from retrodict.physics.views import Radiograph as Radiograph
    from retrodict.posterior import POSTERIORS as POSTERIORS
    from retrodict.posterior import posterior_method as posterior_method
    from retrodict.posterior.active import Acquired as Acquired
    from retrodict.posterior.active import acquire as acquire
    from retrodict.posterior.active import ensemble_entropy as ensemble_entropy
    from retrodict.posterior.card import affine_card as affine_card
    from retrodict.posterior.card import dense_posterior as dense_posterior
    from retrodict.posterior.consistent import ConsistentDenoiser as ConsistentDenoiser
    from retrodict.posterior.data_domain import data_measurement as data_measurement
    from retrodict.posterior.data_domain import sample_data as sample_data
    from retrodict.posterior.empirical import FittedSpectrum as FittedSpectrum
    from retrodict.posterior.empirical import fit_spectrum as fit_spectrum
    from retrodict.posterior.empirical import gaussian_prior as gaussian_prior
    from retrodict.posterior.ensemble import Ensemble as Ensemble
    from retrodict.posterior.ensemble import posterior_verdict as posterior_verdict
    from retrodict.posterior.ensemble import sample_posterior as sample_posterior
    from retrodict.posterior.fused import FusedDenoiser as FusedDenoiser
    from retrodict.posterior.joint import JointDenoiser as JointDenoiser
    from retrodict.posterior.matched import PosteriorDenoiser as PosteriorDenoiser
    from retrodict.posterior.slices import Coupled as Coupled
    from retrodict.posterior.slices import correlation as correlation
    from retrodict.processes import PROCESSES as PROCESSES
    from retrodict.processes.clocks import ClockLaw as ClockLaw
    from retrodict.processes.convert import convert_state as convert_state
    from retrodict.processes.convert import convert_time as convert_time
    from retrodict.processes.foreign import Foreign as Foreign
    from retrodict.processes.foreign import foreign_schedule as foreign_schedule
    from retrodict.processes.foreign import scheduler_config as scheduler_config
    from retrodict.processes.fourier import FourierProcess as FourierProcess
    from retrodict.processes.general import DenseProcess as DenseProcess
    from retrodict.processes.general import dephased as dephased
    from retrodict.processes.multiplicative import GeometricBrownian as GeometricBrownian
    from retrodict.processes.multiplicative import LogDomain as LogDomain
    from retrodict.processes.observation import Cond as Cond
    from retrodict.processes.observation import Moments as Moments
    from retrodict.processes.observation import Pairing as Pairing
    from retrodict.processes.paths import path_lengths as path_lengths
    from retrodict.processes.process import Process as Process
    from retrodict.processes.recipes import external as external
    from retrodict.processes.shift import time_at as time_at
    from retrodict.processes.whitened import KernelLaw as KernelLaw
    from retrodict.samplers import RULES as RULES
    from retrodict.samplers import Plan as Plan
    from retrodict.samplers import make_plan as make_plan
    from retrodict.samplers import sample as sample
    from retrodict.samplers import start_state as start_state
    from retrodict.samplers.card import card as card
    from retrodict.samplers.card import dense_card as dense_card
    from retrodict.samplers.card import gaussian_card as gaussian_card
    from retrodict.samplers.card import gaussian_posterior as gaussian_posterior
    from retrodict.samplers.cascade import cascade_grid as cascade_grid
    from retrodict.samplers.cascade import cascade_stages as cascade_stages
    from retrodict.samplers.cascade import sample_cascade as sample_cascade
    from retrodict.samplers.ensemble import SamplingOptions as SamplingOptions
    from retrodict.samplers.ensemble import gate as gate
    from retrodict.samplers.ensemble import restore_batch as restore_batch
    from retrodict.samplers.general import DenseGaussian as DenseGaussian
    from retrodict.samplers.general import dense_law as dense_law
    from retrodict.samplers.general import dense_plan as dense_plan
    from retrodict.samplers.general import dense_sample as dense_sample
    from retrodict.samplers.inversion import Latent as Latent
    from retrodict.samplers.inversion import interpolate as interpolate
    from retrodict.samplers.inversion import invert as invert
    from retrodict.samplers.inversion import regenerate as regenerate
    from retrodict.samplers.inversion import round_trip as round_trip
    from retrodict.samplers.likelihood import Likelihood as Likelihood
    from retrodict.samplers.likelihood import bits_per_dimension as bits_per_dimension
    from retrodict.samplers.likelihood import log_likelihood as log_likelihood
    from retrodict.samplers.loop import step as step
    from retrodict.samplers.loop import steps as steps
    from retrodict.samplers.multiplicative import multiplicative_sample as multiplicative_sample
    from retrodict.samplers.optimal import aligned_grid as aligned_grid
    from retrodict.samplers.optimal import optimal_grid as optimal_grid
    from retrodict.samplers.plan import GRIDS as GRIDS
    from retrodict.samplers.plan import make_grid as make_grid
    from retrodict.samplers.principal import principal as principal
    from retrodict.samplers.starts import StartChoice as StartChoice
    from retrodict.samplers.starts import choose_start as choose_start
    from retrodict.samplers.stateful import StatefulRule as StatefulRule
    from retrodict.samplers.stateful import stateful_sample as stateful_sample
    from retrodict.samplers.stateful_rules import STATEFUL as STATEFUL
    from retrodict.samplers.stateful_rules import make_stateful_plan as make_stateful_plan
    from retrodict.samplers.teleport import teleport as teleport
    from retrodict.samplers.teleport import teleport_time as teleport_time
    from retrodict.samplers.teleport import teleported as teleported
    from retrodict.samplers.whitened import whitened_plan as whitened_plan
    from retrodict.shapes.families import SHAPE_FAMILIES as SHAPE_FAMILIES
    from retrodict.shapes.families import Shape as Shape
    from retrodict.shapes.families import draw_shape as draw_shape
    from retrodict.shapes.files import encode_mesh as encode_mesh
    from retrodict.shapes.files import read_mesh as read_mesh
    from retrodict.shapes.mesh import Mesh as Mesh
    from retrodict.shapes.mesh import distance_of_mesh as distance_of_mesh
    from retrodict.shapes.mesh import sample_points as sample_points
    from retrodict.shapes.picture import shape_sheet as shape_sheet
    from retrodict.shapes.surface import surface as surface
    from retrodict.shapes.volume import Volume as Volume
    from retrodict.shapes.volume import distance_of_labels as distance_of_labels
    from retrodict.shapes.volume import in_cube as in_cube
    from retrodict.shapes.volume import volume_of_shape as volume_of_shape
    from retrodict.tasks.batch import restore_all as restore_all
    from retrodict.tasks.calibrate import Calibrated as Calibrated
    from retrodict.tasks.calibrate import calibrate as calibrate
    from retrodict.tasks.calibration import Calibration as Calibration
    from retrodict.tasks.diagnose import Diagnosis as Diagnosis
    from retrodict.tasks.diagnose import diagnose as diagnose
    from retrodict.tasks.diagnose import diagnosis as diagnosis
    from retrodict.tasks.distill import Distilled as Distilled
    from retrodict.tasks.distill import distill as distill
    from retrodict.tasks.estimate import EstimatedInstrument as EstimatedInstrument
    from retrodict.tasks.estimate import estimate_instrument as estimate_instrument
    from retrodict.tasks.evaluate import Evaluation as Evaluation
    from retrodict.tasks.evaluate import evaluate as evaluate
    from retrodict.tasks.evaluate_methods import EvaluationConfig as EvaluationConfig
    from retrodict.tasks.evaluate_methods import load_evaluation as load_evaluation
    from retrodict.tasks.fit import fit as fit
    from retrodict.tasks.fit import prepare_fit as prepare_fit
    from retrodict.tasks.fit_config import FitConfig as FitConfig
    from retrodict.tasks.fit_config import load_config as load_config
    from retrodict.tasks.generate import Generated as Generated
    from retrodict.tasks.generate import generate as generate
    from retrodict.tasks.index import FolderIndex as FolderIndex
    from retrodict.tasks.index import index_folder as index_folder
    from retrodict.tasks.measure import Measured as Measured
    from retrodict.tasks.measure import measure_mtf as measure_mtf
    from retrodict.tasks.measure import measure_nps as measure_nps
    from retrodict.tasks.measure_map import MeasuredMap as MeasuredMap
    from retrodict.tasks.measure_map import measure_noise_map as measure_noise_map
    from retrodict.tasks.options import RestoreOptions as RestoreOptions
    from retrodict.tasks.recon_options import ReconstructOptions as ReconstructOptions
    from retrodict.tasks.reconstruct import Reconstructed as Reconstructed
    from retrodict.tasks.reconstruct import reconstruct as reconstruct
    from retrodict.tasks.repeats import Repeats as Repeats
    from retrodict.tasks.repeats import evaluate_repeats as evaluate_repeats
    from retrodict.tasks.restore import Restored as Restored
    from retrodict.tasks.restore import restore as restore
    from retrodict.tasks.restore import restore_image as restore_image
    from retrodict.tasks.shape_edit import vary_shape as vary_shape
    from retrodict.tasks.shapes import GeneratedShapes as GeneratedShapes
    from retrodict.tasks.shapes import compare_shapes as compare_shapes
    from retrodict.tasks.shapes import evaluate_shapes as evaluate_shapes
    from retrodict.tasks.shapes import generate_shapes as generate_shapes
    from retrodict.tasks.wavelet_card import wavelet_card as wavelet_card
    from retrodict.training.ambient import Ambient as Ambient
    from retrodict.training.ambient import ambient_mean as ambient_mean
    from retrodict.training.ambient import two_looks as two_looks
    from retrodict.training.joint import JointScheme as JointScheme
    from retrodict.training.losses import denoising_loss as denoising_loss
    from retrodict.training.structure import Structure as Structure
    from retrodict.training.structure import labelled as labelled
    from retrodict.training.structure import region_codes as region_codes
    from retrodict.training.structure import regions as regions
