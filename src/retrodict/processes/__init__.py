"""The forward processes: each is a function that returns a `Process`, and one line in `PROCESSES`.

A process says how an image is degraded, as (h, k, s^2) per coefficient and time; everything else follows.
"""

from __future__ import annotations

from retrodict.processes.blurring import blurring, ihdm, soft
from retrodict.processes.bridges import bridge, brownian_bridge, ddbm_ve, ddbm_vp, goub, i2sb, unidb
from retrodict.processes.discrete import discrete
from retrodict.processes.fourier import fourier, measured
from retrodict.processes.multiplicative import geometric
from retrodict.processes.residual import mean_reverting
from retrodict.processes.scalar import (
    cosine,
    edm,
    encoder_decoder,
    latent_flow,
    rectified_flow,
    scalar,
    sub_vp,
    trigonometric,
    ve,
    vp,
    zero_snr,
)
from retrodict.processes.shift import anchored_flow, denoising_sde, ir_sde, rddm, resfusion, resshift
from retrodict.processes.spectral import band_noise, matern, shortest_path
from retrodict.processes.wavelet import WAVELET_PROCESSES
from retrodict.processes.whitened import whitened

__all__ = ["PROCESSES"]

PROCESSES = {
    "vp": vp,
    "cosine": cosine,
    "sub_vp": sub_vp,
    "ve": ve,
    "scalar": scalar,
    "zero_snr": zero_snr,
    "edm": edm,
    "discrete": discrete,
    "rectified_flow": rectified_flow,
    "trigonometric": trigonometric,
    "latent_flow": latent_flow,
    "encoder_decoder": encoder_decoder,
    "geometric": geometric,
    "mean_reverting": mean_reverting,
    "ir_sde": ir_sde,
    "denoising_sde": denoising_sde,
    "rddm": rddm,
    "resfusion": resfusion,
    "resshift": resshift,
    "anchored_flow": anchored_flow,
    "bridge": bridge,
    "brownian_bridge": brownian_bridge,
    "i2sb": i2sb,
    "ddbm_ve": ddbm_ve,
    "ddbm_vp": ddbm_vp,
    "goub": goub,
    "unidb": unidb,
    **WAVELET_PROCESSES,
    "whitened": whitened,
    "fourier": fourier,
    "measured": measured,
    "blurring": blurring,
    "ihdm": ihdm,
    "soft": soft,
    "band_noise": band_noise,
    "shortest_path": shortest_path,
    "matern": matern,
}
