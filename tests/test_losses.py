"""Losses of the spread, simulated measurements, and factors on predicted variances: closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from objects import restoring_process
from retrodict._random import white
from retrodict.bases import Fourier, Wavelet
from retrodict.bases.spectrum import Spectrum
from retrodict.denoisers.network import NetDenoiser, channels_in
from retrodict.denoisers.spread import LocalSpread
from retrodict.processes.fourier import fourier
from retrodict.processes.observation import Cond
from retrodict.processes.scalar import vp
from retrodict.training.calibrate import band_leakage, calibrate_spread, unmixed_factors
from retrodict.training.losses import band_errors, denoising_loss, simulate

SPECTRUM = Spectrum.power_law(0.5, 40.0, 0.03, 3.0)
ONE = torch.ones(1, dtype=torch.float64)


class Head(nn.Module):
    """A convolution of one pixel, zero at first; the bias of the variances is `log_ratio`."""

    def __init__(self, inputs: int, log_ratio: torch.Tensor) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, 1 + len(log_ratio), 1).double()
        nn.init.zeros_(self.conv.weight)
        with torch.no_grad():
            self.conv.bias.copy_(torch.cat([torch.zeros(1), log_ratio]))  # type: ignore[union-attr]

    def forward(self, x, level):
        return self.conv(x)


def denoiser_of(process, factors):
    return NetDenoiser(Head(channels_in(process), torch.tensor(factors).log()), process, SPECTRUM, bands=len(factors))


def data(n, basis, seed=0):
    z = white(range(seed, seed + n), "data", 0, (1, *basis.size)).double()
    return basis.inverse(SPECTRUM.mean_on(basis) + SPECTRUM.on(basis).sqrt() * basis.forward(z))


# ---- the likelihood of the spread ---------------------------------------------------------------------------------


def test_the_likelihood_of_a_right_spread_is_one_half_and_least():
    """A zero network on Gaussian data has e^2 = p = 1 in every band: (log p + e^2 / p) / 2 = 1/2."""
    process = fourier(Fourier((16, 16)))
    x0, seeds = data(256, process.basis), torch.arange(256)
    right, half, twice = (
        denoising_loss(denoiser_of(process, (f, f)), x0, seeds).spread.detach() for f in (1.0, 0.5, 2.0)
    )
    assert float(right.mean()) == pytest.approx(0.5, abs=4 * float(right.std()) / 16)
    assert float(half.mean()) == pytest.approx(1 - 0.5 * math.log(2), abs=0.1)
    assert float(half.mean()) > float(right.mean()) < float(twice.mean())


def test_the_spread_is_weighed_and_does_not_touch_the_mean():
    process = fourier(Fourier((8, 8)))
    denoiser, x0, seeds = denoiser_of(process, (1.0, 3.0)), data(4, process.basis), torch.arange(4)
    for weight in (0.0, 0.1, 0.7):
        found = denoising_loss(denoiser, x0, seeds, spread_weight=weight)
        assert torch.allclose(found.total, found.error + weight * found.spread, rtol=1e-12)
    (weights,) = (p for p in denoiser.net.parameters() if p.ndim == 4)
    (gradient,) = torch.autograd.grad(denoising_loss(denoiser, x0, seeds).spread.sum(), weights)
    assert float(gradient[0].abs().max()) == 0.0
    assert float(gradient[1:].abs().max()) > 1e-3


def test_the_noise_of_a_measurement_is_not_that_of_the_state():
    process = restoring_process("vp", (16, 16))
    x0, seeds = torch.zeros(64, 1, 16, 16, dtype=torch.float64), torch.arange(64)
    xt, cond = simulate(process, x0, ONE.expand(64), seeds)
    pair = torch.stack(
        [
            xt.flatten(),
            process.basis.inverse(process.basis.forward(cond.image) / process.measurement.s2.sqrt()).flatten(),
        ]
    )
    assert abs(float(torch.corrcoef(pair)[0, 1])) < 4 / math.sqrt(xt.numel())


# ---- factors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("basis", [Fourier((32, 32)), Wavelet((32, 32), levels=3)])
def test_factors_are_found_although_the_bands_overlap(basis):
    """E e2 of an error of known factors, in closed form from the filters alone, gives the factors back."""
    process = vp(basis)
    denoiser = denoiser_of(process, (1.0, 1.0, 1.0, 1.0))
    terms = denoiser.training_terms(torch.zeros(1, 1, 32, 32, dtype=torch.float64), ONE, Cond())
    filters, weight = denoiser.filters**2, basis.multiplicity() / basis.multiplicity().sum()
    true = torch.tensor([0.3, 2.0, 0.8, 1.5]).double()
    whitened = torch.einsum("b,b...->...", true, filters)  # variance of the error over v
    filled = [b for b, share in enumerate(denoiser.band_shares) if share > 0]
    squares = torch.stack([(weight * f * whitened).sum() / (weight * f).sum() for f in filters[filled]])
    found = unmixed_factors(squares, band_leakage(denoiser, terms)[filled][:, filled])
    assert torch.allclose(found, true[filled], rtol=1e-4)
    if isinstance(basis, Fourier):
        assert not torch.allclose(squares, true[filled], rtol=0.1)  # what a plain ratio would have said


def test_what_leaks_between_bands_is_exact_for_ratios_that_change_from_pixel_to_pixel():
    """Against the energies of draws of the law, one band at a time: all pixels of all noise fields."""
    process = fourier(Fourier((12, 10)))
    denoiser = denoiser_of(process, (1.0, 1.0))
    terms = denoiser.training_terms(torch.zeros(1, 1, 12, 10, dtype=torch.float64), 0.5 * ONE, Cond())
    ratios = 1.5 * torch.randn(1, 2, 1, 12, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    terms = terms._replace(log_ratio=ratios)
    law = LocalSpread(process.basis, terms.linear.v, ratios, denoiser.filters)
    eye = torch.eye(120, dtype=torch.float64).reshape(120, 1, 12, 10)
    known = []
    for b in range(2):
        z = torch.zeros(2, 120, 1, 12, 10, dtype=torch.float64)
        z[b] = eye
        e2, _, _ = band_errors(denoiser, law.draw(z), terms)
        known.append(e2.sum(0).flatten(1).mean(1))
    assert torch.allclose(band_leakage(denoiser, terms), torch.stack(known, 1), rtol=1e-10)


def test_every_level_of_a_calibration_has_draws_of_its_own():
    process = fourier(Fourier((8, 8)))
    denoiser, asked = denoiser_of(process, (1.0, 1.0)), []

    def batch(keys):
        asked.append(tuple(keys))
        return data(len(keys), process.basis)

    scale = calibrate_spread(denoiser, batch, levels=3, items=4)
    assert len({key for keys in asked for key in keys}) == 12
    assert len(scale.level) == 3
    assert list(scale.level) == sorted(scale.level)
