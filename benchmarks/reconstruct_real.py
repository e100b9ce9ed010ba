"""Classical reconstructions of measured data, and of simulated ones of validation patients.

`python benchmarks/reconstruct_real.py OUT [--only helsinki tooth ...] [--data ../shared/data]` writes OUT/*.png,
OUT/reconstruct_real.json, and prints the tables of docs/reconstruction.md.  One thread, about five CPU minutes.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image as Picture

import retrodict
from retrodict import Image, Measurement, ParallelBeam, Radon, even_angles, open_raw
from retrodict.physics.hardening import fit_hardening
from retrodict.physics.noise import GaussianNoise
from retrodict.physics.outline import Disc, outline
from retrodict.tasks.recon_hardening import otsu
from retrodict.tasks.recon_inputs import acquired
from retrodict.tasks.recon_methods import Method
from retrodict.tasks.recon_options import ReconstructOptions

TV = {"iterations": 60, "tolerance": 1e-4, "nonnegative": True}


# ---- words and pictures ----------------------------------------------------------------------------------------------


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def scatter(values: list[float], digits: int = 1) -> str:
    """Mean and standard deviation between patients."""
    return f"{np.mean(values):.{digits}f} ± {np.std(values, ddof=1):.{digits}f}"


def picture(
    path: Path, panels: list[tuple[str, np.ndarray, tuple[float, float]]], width: float = 2.6, aspect: float = 1.0
) -> None:
    figure = Figure(figsize=(width * len(panels), width + 0.35), layout="constrained")
    for axes, (title, image, (low, high)) in zip(np.ravel(figure.subplots(1, len(panels))), panels, strict=True):
        axes.imshow(image, cmap="gray", vmin=low, vmax=high, interpolation="nearest", aspect=aspect)
        axes.set_title(title, loc="left", fontsize=9)
        axes.set_axis_off()
    figure.savefig(path, dpi=110, facecolor="white")


# ---- Helsinki --------------------------------------------------------------------------------------------------------


def matthews(a: np.ndarray, b: np.ndarray) -> float:
    """Matthews correlation of two segmentations, the score of the challenge."""
    return float(np.corrcoef(a.ravel().astype(float), b.ravel().astype(float))[0, 1])


BOUNDED = {"strength": 300.0, "inner": 4, "tolerance": 0.0, "nonnegative": True, "support": "disc",
           "weights": [1.0, 2.0], "direction": "views"}  # fmt: skip
"""Set on the two files of phantom A, and the same for all; the upper bound is the attenuation of the solid disc."""
GRIDS = ((128, 200), (256, 80))
"""Pixels along a side and iterations, from coarse to fine; bins are as wide as pixels."""


def solid_disc(folder: Path) -> dict:
    """The correction that makes line integrals of the solid disc linear in their path.

    The challenge gives its full scan as an uncorrected FBP image in 1/pixel; its line integrals are those of the scan.
    """
    with open_raw(folder / "solid_disc_full_recon_fbp.mat") as raw:
        image = torch.from_numpy(np.array(raw.read("reconFullFbp"), dtype=np.float64))
    row, column = (v.double() for v in torch.meshgrid(*(torch.arange(512),) * 2, indexing="ij"))
    body = image > 0.3 * image.max()
    x, y = column[body].mean() - 255.5, 255.5 - row[body].mean()
    disc = Disc(float(x), float(y), math.sqrt(float(body.sum()) / math.pi))
    image = image * Disc(disc.x, disc.y, disc.radius + 8).mask((512, 512), (1.0, 1.0))
    scan = ParallelBeam(even_angles(12), 500, 1.0)
    p = Radon((512, 512), scan).forward(image[None, None])[0, 0]
    found = fit_hardening(p, disc.lengths(scan) * PIXEL, 3, least=0.26 * disc.radius * PIXEL)
    return {"coefficients": found.correction.coefficients, "attenuation": found.attenuation, "rms_mm": found.rms}


PIXEL = 0.1483223
"""mm of a pixel of 512, and of a bin on the axis of rotation."""


def scan_of(path: Path, size: int, hardening: Sequence[float]) -> Measurement:
    """A file with as many bins as the pixels of `size` have room for, corrected for air and hardening."""
    share = 512 // size
    with open_raw(path) as raw:
        y = raw.read("CtDataLimited.sinogram")
        angles = raw.read("CtDataLimited.parameters.angles")
    y = y.reshape(len(y), -1, share).mean(-1)
    scan = {"beam": "fan", "angles": "a", "angle_unit": "deg", "pitch": 0.2 * share, "source": 410.66,
            "detector": 553.74, "reversed": True, "turn": 180.0}  # fmt: skip
    config = {
        "problem": "tomography",
        "data": "y",
        "scan": scan,
        "image": {"size": size, "spacing": PIXEL * share},
        "counts": {"kind": "line_integrals"},
        "corrections": {"air": 40 // share, "hardening": list(hardening)},
    }
    return acquired({"y": y, "a": angles}, ReconstructOptions(config=config, sigma=0.01))[0].part(0, True)


def scored(image: torch.Tensor, truth: np.ndarray) -> float:
    """The score of the challenge: Matthews correlation of the image above Otsu's threshold, on 512 x 512 pixels."""
    whole = torch.nn.functional.interpolate(image.double(), (512, 512), mode="bilinear")
    return matthews((whole > otsu(whole))[0, 0].numpy(), truth)


def helsinki(data: Path, out: Path) -> dict:
    """Limited-angle fan beam, coarse grid first, 280 bins on 256 x 256 pixels in the end; scored on 512 x 512."""
    folder, rows, panels = data / "sino_htc2022", [], []
    disc = solid_disc(folder)
    terms, upper = disc["coefficients"], disc["attenuation"]
    print(f"solid disc: coefficients {[round(a, 4) for a in disc['coefficients']]}, {disc['attenuation']:.5f} 1/mm, "
          f"paths within {disc['rms_mm']:.2f} mm")  # fmt: skip
    steps = [f"tv_{n}" for n, _ in GRIDS]
    for name in ("ta_30deg", "ta_sparse121", *(f"tb_{d}deg" for d in (30, 40, 50, 60, 70, 80, 90))):
        truth = np.array(Picture.open(folder / f"{name[:2]}_truth.png")) > 0
        started, image = time.process_time(), None
        row: dict = {"file": name}
        for size, rounds in GRIDS:
            part = scan_of(folder / f"{name}.mat", size, terms)
            if size == GRIDS[-1][0]:
                fbp = Method("fbp", {"filter": "hann"})(part).image
                row |= {"views": part.operator.geometry.views, "fbp": scored(fbp, truth)}
            settings = {**BOUNDED, "upper": upper, "iterations": rounds}
            if image is not None:
                settings["start"] = torch.nn.functional.interpolate(image, (size,) * 2, mode="bilinear")
            found = Method("fista", settings)(part)
            image, history = found.image, found.history[0]
            row[f"tv_{size}"] = scored(image, truth)
        row["residual"] = float(found.residual)
        row["change"] = (history[-11] - history[-1]) / history[-1]
        row["seconds"] = time.process_time() - started
        row["disc_mm"] = 2 * outline("disc", part.y[0, 0], part.operator.geometry).radius
        print(row, flush=True)
        if name == "tb_60deg":
            panels = [(f"FBP: {row['fbp']:.3f}", fbp[0, 0].numpy(), (0, 0.05)),
                      (f"bounded TV: {row[steps[-1]]:.3f}", image[0, 0].numpy(), (0, 0.05)),
                      ("truth", truth.astype(float), (0, 1))]  # fmt: skip
            picture(out / "reconstruct-helsinki.png", panels, 3.2)
        rows.append(row)
    head = ["file", "views", "FBP", *(f"TV, {n} x {n}" for n, _ in GRIDS), "residual", "last 10 rounds", "disc found"]
    cells = [
        [r["file"], str(r["views"]), *(f"{r[k]:.3f}" for k in ("fbp", *steps)), f"{r['residual']:.2%}",
         f"{r['change']:.1%}", f"{r['disc_mm']:.1f} mm"]
        for r in rows
    ]  # fmt: skip
    print(table(head, cells))
    return {"rows": rows, "solid_disc": disc}


# ---- tooth -----------------------------------------------------------------------------------------------------------


def tooth(data: Path, out: Path) -> dict:
    """Counts with flats and darks; the judge is what every third view, held out, says of the image of the others."""
    fields = (
        "scan.pitch=2",
        "scan.center=find",
        "corrections.rings=9",
        "image.size=320",
        "image.spacing=2",
        "slices=[0, 1]",
    )
    with open_raw(data / "sino_tooth_aps" / "tooth.h5") as raw:
        arrays = {
            n: raw.read(n) for n in ("exchange/data", "exchange/data_white", "exchange/data_dark", "exchange/theta")
        }
    binned = {n: a.reshape(*a.shape[:-1], 320, 2).mean(-1) if a.ndim == 3 else a for n, a in arrays.items()}
    found, _, _ = acquired(binned, ReconstructOptions(field=fields))
    whole = found.part(0, True)
    geometry, operator = whole.operator.geometry, whole.operator
    kept = [v for v in range(geometry.views) if v % 3 != 1]
    left = [v for v in range(geometry.views) if v % 3 == 1]
    parts = {}
    for name, views in (("fit", kept), ("held", left)):
        part = Radon(operator.size, geometry.subset(views), spacing=operator.domain.spacing)
        parts[name] = Measurement(part, whole.y[:, :, views], whole.noise)
    rows, panels = [], []
    for label, method, settings in (
        ("FBP, ramp", "fbp", {}),
        ("FBP, Hann", "fbp", {"filter": "hann"}),
        ("SIRT, 100", "sirt", {"iterations": 100, "nonnegative": True}),
        ("CGLS, 12", "cgls", {"iterations": 12}),
        ("TV", "fista", {"strength": 300.0, **TV}),
    ):
        done = retrodict.reconstruct(parts["fit"], method=method, set=settings)
        image = done.image.values[None]
        held = parts["held"].misfit(image)
        air = float(image[0, 0, 20:60, 140:180].std())
        rows.append(
            {
                "method": label,
                "residual": float(parts["fit"].relative_residual(image)),
                "held_residual": float(parts["held"].relative_residual(image)),
                "held_chi2": float(held.ratio),
                "air_sd": air,
            }
        )
        if label in ("FBP, ramp", "FBP, Hann", "SIRT, 100", "TV"):
            panels.append(
                (f"{label}: held out {rows[-1]['held_residual']:.2%}", image[0, 0].numpy()[60:260, 60:260], (0, 0.004))
            )
    picture(out / "reconstruct-tooth.png", panels)
    head = ["method (121 views)", "residual", "60 views held out", "their chi² / m", "deviation in air"]
    print(table(head, [[r["method"], f"{r['residual']:.2%}", f"{r['held_residual']:.2%}", f"{r['held_chi2']:.2f}",
                        f"{r['air_sd']:.2e} 1/bin"] for r in rows]))  # fmt: skip
    return {"rows": rows, "notes": list(found.notes), "about": found.about}


# ---- k-space ---------------------------------------------------------------------------------------------------------


def kspace(data: Path, out: Path) -> dict:
    """Eight coils, an eighth of k-space; a tenth of the samples outside the middle is held out."""
    k = torch.from_numpy(np.load(data / "mr_kspace_brain_8ch" / "cartesian_ksp.npy"))
    known = k.abs().amax(0) > 0
    middle = torch.zeros_like(known)
    middle[115 - 12 : 115 + 12, 90 - 12 : 90 + 12] = True
    draw = torch.rand(known.shape, generator=torch.Generator().manual_seed(0)) < 0.1
    held = known & ~middle & draw
    arrays = {"kspace": (k * ~held).numpy()}
    measurement = acquired(arrays, ReconstructOptions(sigma="estimate"))[0].part(0, False)
    operator = measurement.operator
    test = retrodict.CartesianMRI(held.double(), maps=operator.maps)
    other = Measurement(test, (k * held)[None].to(torch.complex64), measurement.noise)
    rows, panels = [], []
    for label, method, settings in (
        ("zero-filled", None, {}),
        ("CG-SENSE, 5", "cg_sense", {"iterations": 5}),
        ("CG-SENSE, 15", "cg_sense", {"iterations": 15}),
        ("CG-SENSE, 50", "cg_sense", {"iterations": 50}),
        ("TV", "fista", {"strength": 30.0, "iterations": 60, "tolerance": 1e-4}),
        (
            "wavelets",
            "fista",
            {"strength": 30.0, "penalty": "wavelet", "levels": 1, "iterations": 60, "tolerance": 1e-4},
        ),
    ):
        if method is None:
            image = operator.adjoint(measurement.y)
        else:
            image = retrodict.reconstruct(measurement, method=method, set=settings).image.values[None]
        row = {"method": label, "held_residual": float(other.relative_residual(image))}
        row |= {"residual": float(measurement.relative_residual(image))}
        rows.append(row)
        if label in ("zero-filled", "CG-SENSE, 15", "TV", "wavelets"):
            shown = image[0, 0].abs().numpy()
            panels.append(
                (f"{label}: held out {row['held_residual']:.0%}", shown, (0, float(np.percentile(shown, 99.7))))
            )
    picture(out / "reconstruct-kspace.png", panels)
    about = dict(operator.about)
    print(f"acceleration {about['acceleration']:.2f} after {int(held.sum())} samples were held out")
    shown = [[r["method"], f"{r['residual']:.1%}", f"{r['held_residual']:.1%}"] for r in rows]
    print(table(["method", "residual", "samples held out"], shown))
    return {"rows": rows, "acceleration": about["acceleration"], "held": int(held.sum())}


# ---- ultrasound ------------------------------------------------------------------------------------------------------


def ultrasound(data: Path, out: Path) -> dict:
    """Plane-wave RF of one frame, delayed and summed, then deconvolved; the rows above the disc give the noise."""
    with open_raw(data / "us_rf_disk_must" / "PWI_disk.mat") as raw:
        rf = raw.read("RF").astype(np.float64)
        fs, fc, pitch, speed, t0 = (float(raw.read(f"param.{n}")) for n in ("fs", "fc", "pitch", "c", "t0"))
    lines = beamformed(rf[:, :, 0], fs, fc, pitch, speed, t0)
    first = torch.from_numpy(lines / np.std(lines)).float()[None, None]
    dz, dx = 1e3 * speed / fs / 2 / 2, 1e3 * pitch
    sigma = float(first[..., :60, :].std())
    pulse = pulse_of(fc, fs, speed, dz, dx)
    operator = retrodict.ultrasound(first.shape[-2:], pulse, spacing=(dz, dx))
    measurement = Measurement(operator, first, GaussianNoise.white(sigma))
    rows, panels = [], []
    log = {"delay and sum": first}
    for label, method, settings in (
        ("Tikhonov", "tikhonov", {"strength": 100.0}),
        (
            "wavelets",
            "fista",
            {"strength": 30.0, "penalty": "wavelet", "levels": 2, "iterations": 60, "tolerance": 1e-4},
        ),
    ):
        log[label] = retrodict.reconstruct(measurement, method=method, set=settings).image.values[None]
    for label, image in log.items():
        row = {"method": label, "axial_mm": width(image, -2) * dz, "lateral_mm": width(image, -1) * dx}
        if label != "delay and sum":
            row |= {"residual": float(measurement.relative_residual(image))}
            row |= {"chi2": float(measurement.misfit(image).ratio)}
        rows.append(row)
        envelope = 20 * np.log10(np.abs(analytic(image[0, 0].numpy())) + 1e-12)
        panels.append((label, envelope - envelope.max(), (-45.0, 0.0)))
    picture(out / "reconstruct-ultrasound.png", panels, 2.4, dz / dx)
    print(f"noise of {sigma:.3f} of the deviation of the image, in the rows above the disc")
    cells = []
    for r in rows:
        judged = [f"{r['residual']:.0%}", f"{r['chi2']:.2f}"] if "chi2" in r else ["", ""]
        cells.append([r["method"], f"{r['axial_mm']:.2f} mm", f"{r['lateral_mm']:.2f} mm", *judged])
    print(table(["method", "axial width", "lateral width", "residual", "chi² / m"], cells))
    return {"rows": rows, "noise": sigma}


def beamformed(rf: np.ndarray, fs: float, fc: float, pitch: float, speed: float, t0: float) -> np.ndarray:
    """Delay and sum of a plane wave, f-number 1.5: lines below the elements, samples half of the RF's apart.

    The RF is sampled at 4/3 of its frequency: the band above 0 is seen at fc - fs, so the half of the spectrum below 0
    is taken, shifted to its baseband, delayed there, and its phase is put back.
    """
    count, elements = rf.shape
    at = np.arange(count) / fs + t0
    spectrum = np.fft.fft(rf, axis=0)
    spectrum[: count // 2 + 1] = 0
    base = 2 * np.fft.ifft(spectrum, axis=0) * np.exp(-2j * np.pi * fc * at)[:, None]
    x = (np.arange(elements) - (elements - 1) / 2) * pitch
    z = (np.arange(2 * count) / (2 * fs) + t0) * speed / 2
    out = np.zeros((len(z), elements), complex)
    for e in range(elements):
        delay = (z[:, None] + np.sqrt(z[:, None] ** 2 + (x[None, :] - x[e]) ** 2)) / speed
        near = np.abs(x[None, :] - x[e]) <= z[:, None] / 3
        parts = [np.interp(delay, at, part, left=0, right=0) for part in (base[:, e].real, base[:, e].imag)]
        out += near * (parts[0] + 1j * parts[1]) * np.exp(2j * np.pi * fc * delay)
    return out.real / math.sqrt(elements)


def pulse_of(fc: float, fs: float, speed: float, dz: float, dx: float) -> torch.Tensor:
    """A Gaussian pulse at the center frequency, 60 % wide, and a lateral Gaussian of 0.6 mm."""
    z, x = (torch.arange(-12, 13, dtype=torch.float64) * dz, torch.arange(-3, 4, dtype=torch.float64) * dx)
    length = 1e3 * speed / fc / 0.6 / 2
    axial = torch.cos(4 * math.pi * z * fc / (1e3 * speed)) * torch.exp(-4 * math.log(2) * (z / length) ** 2)
    psf = axial[:, None] * torch.exp(-4 * math.log(2) * (x / 0.6) ** 2)
    return psf / psf.square().sum().sqrt()


def analytic(lines: np.ndarray) -> np.ndarray:
    n = lines.shape[0]
    step = np.zeros(n)
    step[0], step[1 : (n + 1) // 2] = 1, 2
    return np.fft.ifft(np.fft.fft(lines, axis=0) * step[:, None], axis=0)


def width(image: torch.Tensor, axis: int) -> float:
    """Full width at half maximum of the autocorrelation of the envelope inside the disc (its speckle), in samples."""
    e = np.abs(analytic(image[0, 0].numpy()))[160:400, 40:84]
    e = e - e.mean()
    n = e.shape[axis]
    power = np.abs(np.fft.fft(e, 2 * n, axis=axis)) ** 2
    line = np.fft.ifft(power, axis=axis).real.sum(1 - axis % 2)[:n]
    line = line / line[0]
    k = int(np.argmax(line < 0.5))
    return 2 * (k - 1 + (line[k - 1] - 0.5) / (line[k - 1] - line[k]))


# ---- patients --------------------------------------------------------------------------------------------------------


def patients(folder: Path, split: str, most: int) -> list[tuple[str, np.ndarray, tuple[float, float]]]:
    """One slice of each patient of a split: the middle of those that are listed first for it."""
    seen: dict[str, list[dict]] = {}
    for row in csv.DictReader((folder / "index.csv").open()):
        if row["split"] == split and row["orientation"] == "axial":
            seen.setdefault(row["patient"], []).append(row)
    out = []
    for name, rows in sorted(seen.items())[:most]:
        row = rows[len(rows) // 2]
        image = np.load(folder / row["file"])[row["key"]]
        image = image[int(row["index"])] if image.ndim == 3 else image
        spacing = tuple(json.loads(row["pixel_spacing_mm"]))
        out.append((name, image.astype(np.float32), spacing))
    return out


CT = {
    "low dose: 180 views, 10,000 photons": {"views": 180, "dose": 1e4, "electronic": 5.0},
    "sparse: 60 of 720 views, 100,000 photons": {"views": 60, "dose": 1e5, "electronic": 5.0},
}
CT_METHODS = (
    ("FBP, ramp", "fbp", {}),
    ("FBP, Hann", "fbp", {"filter": "hann"}),
    ("CGLS, to the noise", "cgls", {"iterations": 40, "discrepancy": 1.0}),
    ("TV", "fista", {"strength": 10000.0, "iterations": 50, "tolerance": 1e-4, "nonnegative": True, "start": "fbp"}),
)


def compared(
    sets: list, problem: str, cases: dict, methods: tuple, out: Path, window: tuple[float, float]
) -> list[dict]:
    """Every case and method on every patient: error against the mean of the fine pixels, by patient."""
    rows = []
    for case, simulate in cases.items():
        panels: list = []
        found: dict[str, dict[str, list[float]]] = {label: {"errors": [], "misfits": []} for label, _, _ in methods}
        for i, (_, image) in enumerate(sets):
            field = [f"simulate.{k}={v}" for k, v in {**simulate, "seed": i}.items()]
            made = acquired(image, ReconstructOptions(simulate=True, problem=problem, field=field))[0]
            truth, part = made.truth[0], made.part(0, True)
            scale = 1.0 if image.unit == "HU" else float(truth.max()) / 100
            for label, method, settings in methods:
                done = Method(method, settings)(part)
                shown = made.shown(done.image)[0, 0]
                shown = shown.abs() if shown.is_complex() else shown
                found[label]["errors"].append(float((shown - truth).double().square().mean().sqrt()) / scale)
                found[label]["misfits"].append(float(done.misfit[0]))
                if i == 0:
                    limits = window if window != (0, 1) else (0.0, 0.8 * float(truth.max()))
                    panels.append((f"{label}: {found[label]['errors'][0]:.1f}", shown.numpy(), limits))
                    last = ("truth", truth.numpy(), limits)
        rows += [{"case": case, "method": label, "patients": len(sets), **figures} for label, figures in found.items()]
        picture(out / f"reconstruct-{problem}-{len(rows) // len(methods)}.png", [*panels, last], 2.3)
    return rows


def ct(data: Path, out: Path) -> dict:
    """Validation patients of ct_tcga_lung: 256 x 256 pixels (means of 2 x 2) measured, 128 x 128 reconstructed."""
    found = patients(data / "ct_tcga_lung", "validation", 8) or patients(data / "ct_tcga_lung", "val", 8)
    sets = []
    for name, x, spacing in found:
        small = np.clip(x, -1024, 3071).reshape(256, 2, 256, 2).mean((1, 3))
        sets.append((name, Image.of(small, unit="HU", spacing=[2 * d for d in spacing])))
    rows = compared(sets, "tomography", CT, CT_METHODS, out, (-160.0, 240.0))
    print(table(["scan", "method", "rms error, HU (± between patients)", "chi² / m"],
                [[r["case"], r["method"], scatter(r["errors"]), scatter(r["misfits"], 2)] for r in rows]))  # fmt: skip
    return {"rows": rows, "patients": [n for n, _ in sets]}


MRI = {f"{a}x, 8 coils": {"acceleration": a, "coils": 8, "sigma": 0.01, "center": c} for a, c in ((4, 0.08), (8, 0.04))}
MRI_METHODS = (
    ("CG-SENSE, 10", "cg_sense", {"iterations": 10}),
    ("CG-SENSE, to the noise", "cg_sense", {"iterations": 50, "discrepancy": 1.0}),
    ("TV", "fista", {"strength": 40.0, "iterations": 80, "tolerance": 1e-4}),
    ("wavelets", "fista", {"strength": 40.0, "penalty": "wavelet", "iterations": 80, "tolerance": 1e-4}),
)


def mri(data: Path, out: Path) -> dict:
    """Validation patients of mr_t1_sts, scaled to a 99th percentile of 1; errors in percent of the largest value."""
    found = patients(data / "mr_t1_sts", "validation", 8) or patients(data / "mr_t1_sts", "val", 8)
    sets = []
    for name, x, spacing in found:
        image = x[: x.shape[0] // 16 * 16, : x.shape[1] // 16 * 16]
        sets.append((name, Image.of(image / np.percentile(image, 99), unit="arbitrary", spacing=spacing)))
    rows = compared(sets, "kspace", MRI, MRI_METHODS, out, (0, 1))
    cells = [[r["case"], r["method"], scatter(r["errors"], 2), scatter(r["misfits"], 2)] for r in rows]
    print(table(["scan", "method", "rms error, % of the largest (± between patients)", "chi² / m"], cells))
    return {"rows": rows, "patients": [n for n, _ in sets]}


PARTS = {"helsinki": helsinki, "tooth": tooth, "kspace": kspace, "ultrasound": ultrasound, "ct": ct, "mri": mri}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "reconstruct_real.json"
    record = json.loads(file.read_text()) if file.exists() else {}
    for name in options.only:
        started = time.process_time()
        print(f"\n### {name}\n", flush=True)
        record[name] = PARTS[name](options.data, options.out)
        record[name]["cpu_seconds"] = time.process_time() - started
        print(f"\n{record[name]['cpu_seconds']:.0f} CPU seconds", flush=True)
        file.write_text(json.dumps(record, indent=1, default=str))


if __name__ == "__main__":
    main()
