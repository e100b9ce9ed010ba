"""Tiny models: with a network that answers zero the denoiser is the exact Wiener filter of Gaussian data."""

from __future__ import annotations

import torch

from retrodict.bases import Fourier
from retrodict.bases.spectrum import Spectrum
from retrodict.models.model import Intensity, ModelSpec, load_model, save_model
from retrodict.processes import PROCESSES
from retrodict.processes.fourier import fourier
from retrodict.processes.recipes import external, process_to_recipe

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


def make_model(folder, name="fourier", *, zero=True, **options):
    """Save and load a tiny model; `zero`: a network that answers zero, else one with random weights."""
    record = spec(name, **options)
    torch.manual_seed(0)
    denoiser = record.build("test")
    if not zero:
        for p in denoiser.net.parameters():
            torch.nn.init.normal_(p, std=0.05)
    save_model(record, denoiser.net.state_dict(), folder / "model")
    return load_model(folder / "model")
