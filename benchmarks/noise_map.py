"""Noise that varies over the image: how near one call comes to the posterior, and what more calls and no map do.

    python benchmarks/noise_map.py                         # against dense posteriors of Gaussian data
    python benchmarks/noise_map.py --weights average.safetensors --spectrum spectrum.json    # and on patients

1. Dense Gaussian posterior of 32 x 32 pixels whose noise changes by a factor within some pixels: error of the mean of
   the blended bank (in posterior deviations; that of the exact solution is its tolerance), and the variance map of the
   blended law over the exact one, with the map as it is and smoothed by its response.
2. The sampler `matched` with a denoiser that knows the map at every time: mean and variance of what a run returns.
3. Validation patients, noise three times stronger in the centre than at the rim: with the map, with its root mean
   square, and (as control) with even noise of the local level.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from retrodict.bases import Fourier
from retrodict.bases.curve import Curve
from retrodict.bases.spectrum import Spectrum
from retrodict.denoisers.blend import BlendedSpread
from retrodict.denoisers.denoiser import Denoiser, Estimate, GaussianDenoiser
from retrodict.denoisers.network import NetDenoiser
from retrodict.denoisers.uneven import Uneven, UnevenLaw
from retrodict.models.model import Intensity, ModelSpec
from retrodict.processes.fourier import measured
from retrodict.processes.observation import Cond, Moments, noise_like
from retrodict.processes.process import Process
from retrodict.samplers import make_plan
from retrodict.samplers.card import dense_card
from retrodict.samplers.margin import frame_of
from retrodict.samplers.plan import make_grid
from retrodict.samplers.uneven import instant_with_map

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
SETS = ("ct_tcga_lung", "ct_nysbu_chest", "ct_sts_extremity", "ct_liver_lung_tcia3", "ct_kernel_pairs_lungdx")
SPECTRUM = Spectrum.power_law(1.0, 40.0, 0.03, 3.0)
SPACING = 0.8


def instrument(basis: Fourier, noise: float, scale: float = 1.0) -> Process:
    """A soft kernel: MTF 0.5 at 0.45 /mm, ramp-type NPS of `noise` (data unit) a pixel."""
    f = torch.linspace(0, 1.5, 301, dtype=torch.float64)
    grid = Fourier((128, 128), basis.spacing)
    shape = _shape(grid.radius())
    level = float((shape * grid.multiplicity()).sum() / 128**2)
    nps = noise**2 * math.prod(basis.spacing) / level * _shape(f)
    mtf = torch.exp(-math.log(2) * (f / 0.45) ** 2)
    return measured(basis, Curve.isotropic(f, mtf, "1"), Curve.isotropic(f, nps, "HU^2 mm^2"), scale)


def _shape(f: Tensor) -> Tensor:
    return (f / 0.3) * torch.exp(-((f / 0.5) ** 2)) + 0.05


def wave(size: tuple[int, int], ratio: float, width: float) -> Tensor:
    """A map `(1, 1, *size)` that changes by `ratio` within `width` pixels, twice over the image."""
    n = size[-1]
    x = (torch.arange(n, dtype=torch.float64) - n / 2 + 0.5).abs()
    part = ((x - n / 4) / width + 0.5).clamp(0, 1)
    return (math.log(ratio) * 0.5 * torch.cos(math.pi * part)).exp().expand(1, 1, *size).clone()


# ---- 1. dense -------------------------------------------------------------------------------------------------------


def dense(basis: Fourier, table: Tensor) -> Tensor:
    """B^-1 table B as a matrix."""
    n = math.prod(basis.size)
    unit = torch.eye(n, dtype=torch.float64).reshape(n, 1, *basis.size)
    return basis.inverse(table * basis.forward(unit)).reshape(n, n).T


@dataclass
class Oracle:
    """Gain on y, covariance of y and of x given y, of Gaussian data with moments m and a noise map."""

    gain: Tensor
    covariance: Tensor
    left: Tensor

    @classmethod
    def of(cls, basis: Fourier, power: Tensor, m: Moments, factor: Tensor) -> Oracle:
        """By dense linear algebra in float64."""
        blur, prior, weight = dense(basis, m.h), dense(basis, power), factor.flatten()
        covariance = blur @ prior @ blur.T + weight[:, None] * dense(basis, m.s2) * weight[None]
        gain = torch.linalg.solve(covariance, blur @ prior).T
        return cls(gain, covariance, prior - gain @ blur @ prior)

    def off(self, gain: Tensor) -> float:
        """Root mean square error of another gain in posterior deviations."""
        wrong = gain - self.gain
        return float(((wrong @ self.covariance * wrong).sum(1) / self.left.diagonal()).mean().sqrt())


def bank_gain(law: UnevenLaw) -> Tensor:
    """The blended bank of Wiener filters as a matrix."""
    total, power = 0.0, law.variance
    for level, weight in zip(law.bank.level, law.bank.weights[0], strict=True):
        gain = law.m.h * power / (law.m.h**2 * power + level**2 * law.m.s2)
        total = total + weight.flatten()[:, None] * dense(law.basis, gain)
    return torch.as_tensor(total)


def oracle_table() -> list[dict[str, float]]:
    """How far the blends are from the dense posterior."""
    rows, basis = [], Fourier((32, 32), (SPACING, SPACING))
    head = f"{'noise':>6} {'ratio':>6} {'within px':>9} {'K':>3} {'mean, bank':>11} {'mean, exact':>12}"
    print(f"{head} {'variance, raw map':>19} {'smoothed map':>16} {'5 x 5 means':>16}")
    for noise in (0.1, 0.5, 2.0):
        for ratio, width in ((3.0, 16), (3.0, 8), (3.0, 4), (3.0, 1), (10.0, 16), (10.0, 8)):
            denoiser = GaussianDenoiser(instrument(basis, noise), spectrum=SPECTRUM)
            uneven = Uneven(denoiser, wave(basis.size, ratio, width))
            law = uneven.law
            oracle = Oracle.of(basis, law.variance, law.m, law.factor)
            y = law.draw(torch.zeros(1, 1, 32, 32, dtype=torch.float64), torch.tensor([0]), "y")
            mean, spread = uneven.observe(y)
            assert isinstance(spread, BlendedSpread)
            exact = (SPECTRUM.mean + oracle.gain @ (y - law.center(y)).flatten()).reshape(y.shape)
            error = float(((mean - exact) / oracle.left.diagonal().sqrt().reshape(y.shape)).square().mean().sqrt())
            ratios = [s.variance().flatten() / oracle.left.diagonal()
                      for s in (replace(spread, weights=law.bank.weights), spread)]  # fmt: skip
            means = _of_means(spread, oracle.left)
            row = {"noise": noise, "ratio": ratio, "width": width, "levels": len(law.bank.level)}
            row |= {"bank": oracle.off(bank_gain(law)), "exact": error}
            for name, found in (("raw", ratios[0]), ("smooth", ratios[1]), ("means", means)):
                row |= {f"{name}_min": float(found.min()), f"{name}_max": float(found.max())}
            rows.append(row)
            print(f"{noise:6g} {ratio:6g} {width:9d} {row['levels']:3d} {row['bank']:11.3f} {error:12.1e} "
                  f"{row['raw_min']:9.3f} {row['raw_max']:9.3f} {row['smooth_min']:8.3f} {row['smooth_max']:7.3f} "
                  f"{row['means_min']:8.3f} {row['means_max']:7.3f}")  # fmt: skip
    return rows


def _of_means(spread: BlendedSpread, left: Tensor) -> Tensor:
    """Variance of means of 5 x 5 pixels under the blended law over the exact one."""
    n = len(left)
    side = math.isqrt(n)
    units = torch.eye(n, dtype=torch.float64).reshape(1, n, 1, side, side)
    root = spread.draw(units).reshape(n, side, side)
    kernel = [torch.roll(root, (a, b), (1, 2)) for a in range(-2, 3) for b in range(-2, 3)]
    own = (torch.stack(kernel).mean(0) ** 2).sum(0).flatten()
    matrix = left.reshape(side, side, side, side)
    mean = torch.stack([torch.roll(matrix, (a, b), (0, 1)) for a in range(-2, 3) for b in range(-2, 3)]).mean(0)
    mean = torch.stack([torch.roll(mean, (a, b), (2, 3)) for a in range(-2, 3) for b in range(-2, 3)]).mean(0)
    return own / mean.reshape(n, n).diagonal()


# ---- 2. more calls --------------------------------------------------------------------------------------------------


class AlongTheWay(Denoiser):
    """Exact mean and blended error law of states x_t = h_t x_0 + m(x) s_t n of Gaussian data."""

    def __init__(self, process: Process, factor: Tensor) -> None:
        self.process, self.spectrum, self.factor = process, SPECTRUM, factor
        self.known: dict[float, tuple[Tensor, UnevenLaw]] = {}

    def estimate(self, xt: Tensor, t: Tensor, cond: Cond = Cond()) -> Estimate:
        """By the dense gain of the time."""
        basis, at = self.process.basis, float(t[0]) if len(t) else 1.0
        assert isinstance(basis, Fourier)
        if at not in self.known:
            m = Moments(*(x[0, 0] for x in self.process.moments(torch.tensor([at], dtype=torch.float64))))
            power, mean = SPECTRUM.on(basis), SPECTRUM.mean_on(basis)
            law = UnevenLaw(basis, mean, power, m, self.factor)
            self.known[at] = (Oracle.of(basis, power, m, self.factor).gain, law)
        gain, law = self.known[at]
        mean = SPECTRUM.mean + ((xt - law.center(xt)).flatten(1) @ gain.T).reshape(xt.shape)
        return Estimate(mean, BlendedSpread(basis, law.errors, law.local.weights))

    def on(self, size: object) -> Denoiser:
        """One grid."""
        return self

    def to(self, device: object) -> Denoiser:
        """One device."""
        return self


def many_calls() -> list[dict[str, float]]:
    """What `matched` makes of a map at several numbers of calls: the dense card of the real loop."""
    rows, basis = [], Fourier((12, 12), (SPACING, SPACING))
    process = instrument(basis, 0.5)
    print(f"\n{'calls':>6} {'ratio':>6} {'mean, deviations':>17} {'variance over exact':>20}")
    for ratio in (1.0, 1.5, 3.0):
        factor = wave(basis.size, ratio, 6)
        assert process.measurement is not None
        oracle = Oracle.of(basis, SPECTRUM.on(basis), process.measurement, factor)
        for calls in (1, 4, 8):
            denoiser = AlongTheWay(process, factor)
            times = make_grid(process, calls, "energy", spectrum=SPECTRUM.on(basis))
            plan = make_plan("matched", process, times, SPECTRUM.on(basis))
            gain, covariance = dense_card(plan, denoiser)
            found = covariance.diagonal() / oracle.left.diagonal()
            rows.append({"ratio": ratio, "calls": calls, "mean": oracle.off(gain), "low": float(found.min()),
                         "high": float(found.max())})  # fmt: skip
            print(f"{calls:6d} {ratio:6g} {rows[-1]['mean']:17.3f} {rows[-1]['low']:10.3f} {rows[-1]['high']:9.3f}")
    return rows


# ---- 3. patients ----------------------------------------------------------------------------------------------------


def clock_model(weights: Path, spectrum: Path) -> tuple[NetDenoiser, Intensity]:
    """The denoiser of every instrument from its weights and the spectrum of its training data."""
    from safetensors.torch import load_file

    intensity = Intensity("HU", 200.0, -1000.0)
    options = {"width": 32, "multipliers": [1, 2, 4], "blocks": 1, "patch": 2, "activation": "relu", "padding": "zeros"}
    spec = ModelSpec(
        process={"name": "fourier", "options": {}, "basis": {"name": "fourier", "options": {}}},
        network={"name": "unet", "options": options},
        spectrum=json.loads(spectrum.read_text()),
        intensity=intensity,
        spacing=(1.0, 1.0),
        size=(64, 64),
        bands=4,
        level="clock",
    )
    denoiser = spec.build("model")
    denoiser.net.load_state_dict(load_file(weights))
    denoiser.net.eval().requires_grad_(False)
    return denoiser, intensity


def patients(most: int, side: int = 256) -> list[tuple[str, Tensor, float]]:
    """One axial slice, cut to its middle, of validation patients whose own noise is below 16 HU."""
    found: dict[str, tuple[str, Tensor, float]] = {}
    for name in SETS:
        index = DATA / name / "index.csv"
        if not index.is_file():
            continue
        with open(index) as stream:
            rows = [r for r in csv.DictReader(stream) if r["split"] == "validation" and r["orientation"] == "axial"]
        rows = [r for r in rows if float(r["noise_hu"] or "nan") <= 16]
        for patient in dict.fromkeys(r["patient"] for r in rows):
            own = [r for r in rows if r["patient"] == patient]
            row = own[len(own) // 2]
            with np.load(DATA / name / row["file"], allow_pickle=False) as archive:
                hu = torch.from_numpy(archive[row["key"]][int(row["index"])].astype(np.float32)).clamp(-1024, 3071)
            top, left = ((n - side) // 2 for n in hu.shape)
            if min(top, left) >= 0:
                cut = hu[top : top + side, left : left + side]
                found[patient] = (patient, cut, float(json.loads(row["pixel_spacing_mm"])[0]))
    return list(found.values())[:most]


def on_patients(weights: Path, spectrum: Path, noise: float, most: int) -> list[dict[str, float]]:
    """Error (HU) and mean square error over mean variance, in the centre and at the rim."""
    model, intensity = clock_model(weights, spectrum)
    rows = []
    for number, (_, hu, pixel) in enumerate(patients(most)):
        basis = Fourier(tuple(hu.shape), (pixel, pixel))
        process = instrument(basis, noise, intensity.scale)
        x0 = intensity.encode(hu.double())[None, None]
        z = noise_like(x0, torch.tensor([number]), "noise-map", 0)
        assert process.measurement is not None
        blurred = basis.inverse(process.measurement.h * basis.forward(x0))
        even = basis.inverse(process.measurement.s2.sqrt() * basis.forward(z))
        y, x = torch.meshgrid(*(torch.linspace(-1, 1, n, dtype=torch.float64) for n in hu.shape), indexing="ij")
        radius = (y**2 + x**2).sqrt()
        factor = torch.exp(math.log(3.0) * (0.5 - radius.clamp(max=1) ** 2))[None, None]
        parts = {"centre": radius < 0.35, "rim": (radius > 0.75) & (radius < 1.0)}
        frame = frame_of(tuple(hu.shape), basis, 16, model.multiple)
        bound = model.at(process).on(frame.size)
        one = torch.ones_like(factor)
        local = {p: float((factor[0, 0][at] ** 2).mean().sqrt()) for p, at in parts.items()}
        rms = float((factor**2).mean().sqrt())
        cases = {"map": (factor, factor, parts), "one level": (factor, rms * one, parts)}
        cases |= {f"even, {p}": (local[p] * one, local[p] * one, {p: at}) for p, at in parts.items()}
        row: dict[str, float] = {}
        for name, (true, told, where) in cases.items():
            measured_image = (blurred + true * even).float()
            found = instant_with_map(bound, measured_image, told, frame, torch.tensor([number]))
            assert found.variance is not None
            error = (found.mean.double() - x0)[0, 0] ** 2 * intensity.scale**2
            variance = found.variance.double()[0, 0] * intensity.scale**2
            for part, at in where.items():
                at = at & (hu > -950)
                row[f"{name.split(',')[0]}: rms {part}"] = float(error[at].mean().sqrt())
                row[f"{name.split(',')[0]}: SSR2 {part}"] = float(variance[at].mean() / error[at].mean())
        rows.append(row)
    print(f"\n{len(rows)} validation patients, noise {noise:g} HU times a map of ratio 3, mean (scatter of patients)")
    for name in rows[0]:
        values = torch.tensor([r[name] for r in rows], dtype=torch.float64)
        print(f"{name:24s} {float(values.mean()):8.3f} ({float(values.std()):.3f})")
    return rows


def main() -> None:
    """Print the tables; write them where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, help="average.safetensors of a model of every instrument")
    parser.add_argument("--spectrum", type=Path, help="the spectrum of its training data (JSON)")
    parser.add_argument("--noise", type=float, default=30.0, help="HU a pixel where the map is 1")
    parser.add_argument("--patients", type=int, default=12)
    parser.add_argument("--only", choices=("dense", "calls", "patients"))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    record: dict[str, object] = {}
    if options.only in (None, "dense"):
        record["dense"] = oracle_table()
    if options.only in (None, "calls"):
        record["calls"] = many_calls()
    if options.only in (None, "patients") and options.weights and options.spectrum:
        record["patients"] = on_patients(options.weights, options.spectrum, options.noise, options.patients)
    if options.out:
        options.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
