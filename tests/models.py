"""Tiny models: with a network that answers zero the denoiser is the exact Wiener filter of Gaussian data."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from retrodict.bases import Fourier
from retrodict.bases.spectrum import Spectrum
from retrodict.data import Image
from retrodict.models.held_out import HeldOut
from retrodict.models.model import Intensity, ModelSpec, load_model, save_model
from retrodict.processes import PROCESSES
from retrodict.processes.fourier import fourier
from retrodict.processes.observation import noise_like
from retrodict.processes.recipes import external, process_to_recipe
from retrodict.samplers.misfit import BandMisfit

SPECTRUM = Spectrum.power_law(0.5, 40.0, 0.03, 3.0)


def spec(name="fourier", *, bands=2, padding="circular", size=(32, 32)) -> ModelSpec:
    """A specification in HU = 100 u."""
    basis = Fourier(size)
    process = PROCESSES[name](basis)
    if process.pairing.kind == "none":
        process = external(process, fourier(basis))
    return ModelSpec(
        process=process_to_recipe(process),
        network={"name": "unet", "options": {"width": 8, "multipliers": [1, 2], "padding": padding}},
        spectrum=SPECTRUM.to_json(),
        intensity=Intensity("HU", 100.0, 0.0),
        spacing=(1.0,) * len(size),
        size=size,
        bands=bands,
    )


def law_of(denoiser, size=(64, 64), patients=40) -> HeldOut:
    """The record of patients who scatter as little as the noise makes them."""
    misfit = BandMisfit(denoiser, torch.zeros(1, 1, *size), torch.zeros(1, *size, dtype=torch.bool))
    sd = (*(math.sqrt(v) for v in misfit.variances(0)), math.sqrt(2 / (misfit.tiles[0] - 1)))
    pair = ((0.0,) * len(sd), sd)
    return HeldOut(misfit.bands.edges, patients, patients, misfit.counts[0], misfit.tiles[0], pair, pair)


def field(size=(64, 60), seed=0):
    """Gaussian data `(1, *size)` of the spectrum, in model units."""
    basis = Fourier(size)
    z = noise_like(torch.zeros(1, 1, *size, dtype=torch.float64), torch.tensor([seed]), "data", 0)
    return basis.inverse(SPECTRUM.mean_on(basis) + SPECTRUM.on(basis).sqrt() * basis.forward(z))[0].float()


def scan(size=(64, 60), seed=0, *, noise=1.0, spacing=(1.0, 1.0)) -> Image:
    """An image in HU that the instrument of "fourier" measured, with noise `noise` times as strong as its own."""
    process = fourier(Fourier(size))
    x0 = field(size, seed)[None] - 5  # somewhere below 0 HU, as there is in any CT
    blurred = process.basis.inverse(process.measurement.h.float() * process.basis.forward(x0))
    y = process.pairing.simulate(x0, process.basis, torch.tensor([seed]))
    return Image(100 * (blurred + noise * (y - blurred))[0], "HU", spacing, "npz", ())


def make_model(folder, name="fourier", *, zero=True, **options):
    """Save and load a tiny model; `zero`: a network that answers zero, else one with random weights."""
    record = spec(name, **options)
    torch.manual_seed(0)
    denoiser = record.build("test")
    if not zero:
        for p in denoiser.net.parameters():
            torch.nn.init.normal_(p, std=0.05)
    if len(record.size) == 2:
        record = replace(record, held_out=law_of(denoiser).to_json())
    save_model(record, denoiser.net.state_dict(), folder / "model")
    return load_model(folder / "model")
