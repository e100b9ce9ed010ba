"""Train the networks of the patch-denoising experiment; a run that was stopped goes on where it was.

    python benchmarks/patch_train.py crops|pneumonia|organ [--steps N]
    python benchmarks/patch_train.py plain|deck|repaired          the ablation of the frequency loss, on the CT crops

One network for every noise level from 0.02 to 20 (variance exploding, DCT basis: mirror boundaries).  The ablation is
trained in the setting of the deck (cosine schedule, noise-prediction error) with one of three losses.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import asdict, replace
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from patch_data import load, turned
from retrodict._random import key
from retrodict.bases import Cosine
from retrodict.bases.spectrum import radial_spectrum
from retrodict.denoisers.network import NetDenoiser
from retrodict.models.model import Intensity, ModelSpec, load_model, save_model
from retrodict.processes.recipes import process_to_recipe
from retrodict.processes.scalar import cosine, ve
from retrodict.training.calibrate import calibrate_spread
from retrodict.training.loop import TrainingOptions, train
from retrodict.training.losses import Losses, denoising_loss, draw_times, simulate

RUNS = Path(__file__).resolve().parents[1] / "runs"
ABLATION = ("plain", "deck", "repaired")
STEPS = {"crops": 6000, "pneumonia": 2500, "organ": 6000, **dict.fromkeys(ABLATION, 500)}


def frequency_loss(kind: str):
    """Noise-prediction error, plus the deck's loss on |FFT| ("deck"), or its repair ("repaired")."""

    def objective(denoiser: NetDenoiser, x0: Tensor, seeds: Tensor, weight: str, spread_weight: float) -> Losses:
        t = draw_times(seeds)
        xt, cond = simulate(denoiser.process, x0, t, seeds)
        mean = denoiser.answer(denoiser.training_terms(xt, t, cond))
        m = denoiser.process.moments(t)
        snr = (m.h**2 / m.s2).to(x0).reshape(-1, 1, 1, 1)
        noise_error = (snr * (mean - x0) ** 2).flatten(1).mean(1)
        spectra = torch.fft.fft2(mean), torch.fft.fft2(x0)
        if kind == "deck":  # magnitudes, unnormalised transform, every time alike
            extra = (spectra[0].abs() - spectra[1].abs()).abs().flatten(1).mean(1)
        else:  # complex difference, orthonormal, weighted min(SNR, 5): a pixel error by Parseval
            difference = (spectra[0] - spectra[1]).abs() ** 2 / math.prod(x0.shape[2:])
            extra = (snr.clamp_max(5.0) * difference).flatten(1).mean(1)
        total = noise_error + (0.0 if kind == "plain" else 0.1) * extra
        return Losses(total, noise_error, torch.zeros_like(total))

    return objective


def specification(name: str, images: Tensor) -> ModelSpec:
    """Process, network and spectrum of one of the networks."""
    basis = Cosine((28, 28))
    spectrum = radial_spectrum([x[0] for x in images[:2000]], (1.0, 1.0))
    ablation = name in ABLATION
    process = cosine(basis, end=0.995) if ablation else ve(basis, sigma_min=0.02, sigma_max=20.0)
    options = {"width": 48, "multipliers": [1, 2, 3], "blocks": 1, "attention": True, "padding": "zeros"}
    return ModelSpec(
        process=process_to_recipe(process),
        network={"name": "unet", "options": options},
        spectrum=spectrum.to_json(),
        intensity=Intensity("window [-1, 1]"),
        spacing=(1.0, 1.0),
        size=(28, 28),
        bands=0 if ablation else 3,
        card={"name": f"patch-{name}", "steps": STEPS[name]},
    )


def fit(name: str, steps: int, threads: int) -> Path:
    """Train network `name` under runs/ and return the path of the model."""
    torch.set_num_threads(threads)
    data = "crops" if name in ABLATION else name
    images, _ = load(data, "train")
    held, _ = load(data, "val", 512)
    flips = data != "pneumonia"
    spec = specification(name, images)
    torch.manual_seed(key(0, "weights") % 2**31)
    denoiser = spec.build(name, "bf16")
    folder = RUNS / f"patch-{name}"
    print(f"{name}: {sum(p.numel() for p in denoiser.net.parameters()):,} parameters, {len(images)} images")
    options = TrainingOptions(steps=steps, batch=64, learning_rate=1e-3, decay=0.3, checkpoint_every=250)

    def watch(p):
        if p.step % 100 == 0 or p.validation is not None:
            left = f"{p.left / 60:.0f} min left"
            print(f"{p.step:6d} loss {p.loss:.4f} {p.seconds:.2f} s/step {left} {p.validation or ''}", flush=True)

    average = train(
        denoiser,
        lambda keys: turned(images, keys, flips),
        options,
        folder,
        validation=lambda keys: turned(held, keys, flips),
        watch=watch,
        objective=frequency_loss(name) if name in ABLATION else denoising_loss,
    )
    return save_model(calibrated(spec, name, average), average, folder / f"patch-{name}")[0]


def calibrated(spec: ModelSpec, name: str, weights: dict[str, Tensor]) -> ModelSpec:
    """The specification with the spread calibrated on the held-out images of the set."""
    if not spec.bands:
        return spec
    held, _ = load(name, "val", 512)
    denoiser = replace(spec, spread_scale=None).build(name)
    denoiser.net.load_state_dict(weights)
    scale = calibrate_spread(denoiser, lambda keys: turned(held, keys, name != "pneumonia"), items=256)
    return replace(spec, spread_scale=None if scale is None else asdict(scale))


def recalibrate(name: str) -> Path:
    """Calibrate the spread of a trained model anew."""
    path = RUNS / f"patch-{name}" / f"patch-{name}"
    model = load_model(path)
    weights = model.denoiser.net.state_dict()
    return save_model(calibrated(model.spec, name, weights), weights, path)[0]


def main() -> None:
    """Train and say where the model is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=list(STEPS))
    parser.add_argument("--steps", type=int)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--calibrate-only", action="store_true", help="only calibrate the spread of a trained model")
    arguments = parser.parse_args()
    if arguments.calibrate_only:
        Console().print(f"model {recalibrate(arguments.name)}")
        return
    Console().print(f"model {fit(arguments.name, arguments.steps or STEPS[arguments.name], arguments.threads)}")


if __name__ == "__main__":
    main()
