"""Factors on the predicted spread, measured on held-out data."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from retrodict._random import key
from retrodict.bases import Fourier
from retrodict.denoisers.network import NetDenoiser, Terms
from retrodict.denoisers.predictions import rate_of
from retrodict.denoisers.spread_scale import SpreadScale
from retrodict.processes.observation import ratio
from retrodict.training.losses import Batch, band_errors, band_overlap, example, simulate

__all__ = ["autocorrelation", "band_leakage", "calibrate_spread", "scattered", "unmixed_factors"]

ROUNDS = 100


def calibrate_spread(
    denoiser: NetDenoiser, batch: Batch, *, levels: int = 8, items: int = 64, seed: int = 0
) -> SpreadScale | None:
    """Factors on the predicted error variances, measured on held-out data, per level and band.

    `batch(keys)` gives clean images `(B, C, *N)` in model units, or an `Example`, that were not in training; the
    result is None for a network that predicts no variances.  A network knows its error on the images it was trained
    on; on others it is larger.

    The filters of the bands overlap, so the squared error found in a band is a mixture of the variances of several:
    e2_a = sum_b T_ab rho_b with T = `band_leakage`, solved for the factors rho (`unmixed_factors`).
    """
    if not denoiser.bands:
        return None
    nodes, factors = [], []
    for number, time in enumerate(torch.logspace(-1.7, 0, levels, dtype=torch.float64, device="cpu")):
        keys = [key(seed, "calibration", number * items + i) for i in range(items)]
        seeds, (x0, y, *_) = torch.tensor(keys, device="cpu"), example(batch(keys), denoiser)
        t = time.expand(items)
        xt, cond = simulate(denoiser.process, x0, t, seeds, y)
        with torch.no_grad():
            terms = denoiser.training_terms(xt, t, cond)
            e2, _, filled = band_errors(denoiser, x0 - denoiser.answer(terms, rate_of(denoiser.process, t)), terms)
            found = unmixed_factors(_band_mean(e2)[filled], band_leakage(denoiser, terms)[filled][:, filled])
        factors.append(tuple(float(found[filled.index(b)]) if b in filled else 1.0 for b in range(denoiser.bands)))
        nodes.append(float(denoiser.noise_level(terms)[0]))
    order = sorted(range(levels), key=lambda i: nodes[i])
    return SpreadScale(tuple(nodes[i] for i in order), tuple(factors[i] for i in order))


def unmixed_factors(squares: Tensor, leakage: Tensor) -> Tensor:
    """Positive factors rho `(n,)` with leakage rho = squares, where there are any: squares `(n,)`, leakage `(n, n)`.

    Rounds of rho <- rho squares / (leakage rho), from 1: positive from round to round; two are within a percent for
    octave bands.
    """
    rho = torch.ones_like(squares)
    for _ in range(ROUNDS):
        rho = rho * ratio(squares, leakage @ rho, otherwise=1.0)
    return rho


def band_leakage(denoiser: NetDenoiser, terms: Terms) -> Tensor:
    """Mean square that the predicted error of band b leaves in band a, T `(bands, bands)` float64, as `band_errors`
    measures it.

    Predicted is sigma_b(x) n_b, with n_b stationary of spectrum F_b^2 v.  In the Fourier basis its mean power spectrum
    is that of n_b convolved with that of sigma_b, and T_ab = sum_f F_a^2 S_b / v exactly, however fast sigma_b changes
    from pixel to pixel.  In other bases sigma_b counts as constant.
    """
    basis, filters, v = denoiser.process.basis, denoiser.filters, terms.linear.v
    assert filters is not None
    assert terms.log_ratio is not None
    variance = terms.log_ratio.clamp(-14.0, 5.0).double().exp()  # (B, bands, C, *N)
    if not isinstance(basis, Fourier):
        return band_overlap(denoiser) * _band_mean(variance)
    weight, shares = basis.multiplicity() / basis.multiplicity().sum(), denoiser.band_shares
    columns = []
    for b, square in enumerate(filters**2):
        power = scattered(basis, autocorrelation(variance[:, b].sqrt(), basis.ndim), v * square)
        whitened = ratio(power, v.expand_as(power)).mean((0, 1)) * weight
        columns.append(
            torch.stack([(f * whitened).sum() / max(s, 1e-300) for f, s in zip(filters**2, shares, strict=True)])
        )
    return torch.stack(columns, 1)


def autocorrelation(sigma: Tensor, ndim: int) -> Tensor:
    """Of fields `(..., *N)` over the periodic grid of their last `ndim` axes, in the mean over pixels."""
    axes = tuple(range(-ndim, 0))
    return torch.fft.ifftn(torch.fft.fftn(sigma, dim=axes).abs() ** 2, dim=axes).real / math.prod(sigma.shape[-ndim:])


def scattered(basis: Fourier, together: Tensor, spectrum: Tensor) -> Tensor:
    """Mean power spectrum `(B, C, *K)` of sigma(x) n: `autocorrelation` of sigma `(B, C, *N)`, n of spectrum
    `(B|1, C|1, *K)`.
    """
    axes = tuple(range(-basis.ndim, 0))
    if basis.complex:
        return torch.fft.fftn(together * torch.fft.ifftn(spectrum, dim=axes), dim=axes).real
    covariance = torch.fft.irfftn(spectrum.to(torch.complex128), s=basis.size, dim=axes)
    return torch.fft.rfftn(together * covariance, dim=axes).real


def _band_mean(x: Tensor) -> Tensor:
    """Mean over all but the bands of x `(B, bands, C, *N)`."""
    return x.double().transpose(0, 1).flatten(1).mean(1)
