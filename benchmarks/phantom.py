"""Metrology: known curves recovered, and real scans measured.

    python benchmarks/phantom.py [--pictures docs/images]

First table: synthetic edges, wires and noise whose truth is known; largest error of the curve below Nyquist, and how
often the 95 % band holds the truth.  Second table: the plastic head phantom (Philips), whose spherical insert gives an
MTF at its equator, and uniform regions of three CT sets.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from retrodict.metrics.noise import noise_spectrum, ring_average
from retrodict.metrics.resolution import edge_mtf, point_mtf
from retrodict.tasks.measure import measure_mtf, measure_nps

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"
RESULTS = Path(__file__).parent / "results"
PHANTOM = DATA / "ct_headphantom_philips" / "head_phantom_5mm_hu.npz"
SETS = {
    "head phantom, Philips, STD BRAIN 5 mm": (PHANTOM, {"regions": [(262, 232)], "slices": (0, 7)}),
    "abdomen, Siemens, 3 mm": (DATA / "ct_body_totalsegmentator" / "example_ct_dicom_hu.npz", {}),
    "head, GE HiSpeed, STD+": (DATA / "ct_head_ge", {}),
    "abdomen, GE LightSpeed, STANDARD 1.25 mm": (DATA / "ct_abdomen_dcmqi", {}),
}
INSERT = {"kind": "disc", "region": (136, 237, 154, 255), "slices": (16, 17), "half_width": 20.0}


def gaussian(frequency: Tensor, sigma: float) -> Tensor:
    """Transform of a Gaussian of standard deviation `sigma`."""
    return torch.exp(-2 * math.pi**2 * sigma**2 * frequency**2)


def synthetic_edge(sigma: float, noise: float, seed: int) -> Tensor:
    """256 x 128 erf edge of 1000 HU, 5 degrees; sigma in px."""
    rows = torch.arange(256, dtype=torch.float64)[:, None] - 128
    columns = torch.arange(128, dtype=torch.float64)[None] - 64.3
    distance = columns * math.cos(math.radians(5)) - rows * math.sin(math.radians(5))
    draw = torch.Generator().manual_seed(seed)
    step = 500 * (1 + torch.erf(distance / (sigma * math.sqrt(2))))
    return step + noise * torch.randn(256, 128, generator=draw, dtype=torch.float64)


def synthetic_point(sigma: float, noise: float, seed: int) -> Tensor:
    """Eight slices of a Gaussian wire image."""
    axis = torch.arange(96, dtype=torch.float64)
    psf = torch.exp(-((axis[:, None] - 47.7) ** 2 + (axis[None] - 48.2) ** 2) / (2 * sigma**2))
    draw = torch.Generator().manual_seed(seed)
    return 1000 * psf + noise * torch.randn(8, 96, 96, generator=draw, dtype=torch.float64)


def recovered(name: str, trials: int) -> dict:
    """Errors over `trials` noise draws of one kind of object."""
    errors, held = [], []
    for seed in range(trials):
        if name.startswith("edge"):
            noise = 0.0 if "noise-free" in name else 20.0
            r = edge_mtf(synthetic_edge(0.6, noise, seed), 1.0, half_width=16, bootstrap=100, seed=seed)
            truth = gaussian(r.frequency, 0.6)
        elif name.startswith("wire"):
            r = point_mtf(synthetic_point(0.8, 5.0, seed), 1.0, bootstrap=100, seed=seed)
            truth = gaussian(r.frequency, 0.8)
        else:
            r, truth = _noise(seed)
        errors.append((r.value - truth) / (truth if name.startswith("NPS") else 1.0))
        held.append(((r.lower <= truth) & (truth <= r.upper)).double())
        if "noise-free" in name:
            break
    error, inside = torch.stack(errors), torch.stack(held)
    return {
        "object": name,
        "trials": len(errors),
        "largest_mean_error": float(error.mean(0).abs().max()),
        "largest_sd": float(error.std(0).max()) if len(errors) > 1 else 0.0,
        "band_holds_truth": float(inside[:, 1:].mean()) if len(errors) > 1 else None,
    }


def _noise(seed: int):
    f = torch.fft.fftfreq(64, 0.5, dtype=torch.float64)
    nps = 30 * torch.hypot(f[:, None], f[None]) * torch.exp(-2 * torch.hypot(f[:, None], f[None])) + 1
    draw = torch.Generator().manual_seed(seed)
    z = torch.randn(40, 64, 64, generator=draw, dtype=torch.float64)
    fields = torch.fft.ifft2(torch.fft.fft2(z) * (nps.sqrt() / 0.5)).real
    return noise_spectrum(fields, 0.5, how="mean", bootstrap=200, seed=seed), ring_average(nps, 0.5)[1]


def real(pictures: Path | None) -> list[dict]:
    """NPS of every set, and the MTF of the phantom."""
    rows = []
    for name, (path, options) in SETS.items():
        if not path.exists():
            print(f"{name}: {path.name} is not there")
            continue
        m = measure_nps(path, **options)
        s, tags = m.record["summary"], m.record["provenance"]["acquisition"]
        rows.append({"set": name, "pixel_mm": m.record["provenance"]["pixel_spacing_mm"][1], **s,
                     "white_p": m.record["whiteness"]["p_value"], "kernel": tags.get("kernel", "")})  # fmt: skip
        _picture(m, pictures, "nps-" + name.split(",")[0].replace(" ", "-") + f"-{len(rows)}")
    if PHANTOM.exists():
        m = measure_mtf(PHANTOM, **INSERT)
        rows.append({"set": "head phantom: MTF, equator of a spherical insert", **m.record["summary"]})
        _picture(m, pictures, "mtf-head-phantom")
    return rows


def _picture(measured, folder: Path | None, name: str) -> None:
    if folder is not None:
        from retrodict.report.measurement import measured_figure

        (folder / f"{name}.png").write_bytes(measured_figure(measured))


def render(truth: list[dict], rows: list[dict]) -> list[Table]:
    """Both tables."""
    first = Table(title="Known curves (errors: MTF absolute, NPS relative)")
    for column in ("object", "trials", "largest bias", "largest sd", "95 % band holds"):
        first.add_column(column, justify="left" if column == "object" else "right")
    for r in truth:
        holds = "" if r["band_holds_truth"] is None else f"{r['band_holds_truth']:.1%}"
        first.add_row(r["object"], str(r["trials"]), f"{r['largest_mean_error']:.4f}", f"{r['largest_sd']:.4f}", holds)
    second = Table(title="Real scans")
    for column in ("set", "pixel mm", "regions", "noise HU", "f_av /mm", "f_peak /mm", "MTF50 /mm", "MTF10 /mm"):
        second.add_column(column, justify="left" if column == "set" else "right")
    for r in rows:
        if "mtf50" in r:
            bands = [f"{v['value']:.3f} [{v['lower']:.3f}, {v['upper']:.3f}]" for v in (r["mtf50"], r["mtf10"])]
            second.add_row(r["set"], "", "", "", "", "", *bands)
        else:
            numbers = [f"{r[k]:.3g}" for k in ("noise_sd", "average_frequency", "peak_frequency")]
            second.add_row(r["set"], f"{r['pixel_mm']:.3f}", str(r["regions"]), *numbers, "", "")
    return [first, second]


def main() -> None:
    """Measure, print, store."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--pictures", type=Path, help="folder for pictures of the real scans")
    parser.add_argument("--json", type=Path, default=RESULTS / "phantom.json")
    arguments = parser.parse_args()
    kinds = ("edge, noise-free", "edge, 20 HU noise on 1000 HU", "wire, 5 HU noise on 1000 HU", "NPS, 40 regions of 64")
    truth = [recovered(k, arguments.trials) for k in kinds]
    rows = real(arguments.pictures)
    arguments.json.write_text(json.dumps({"synthetic": truth, "real": rows}, indent=1))
    for table in render(truth, rows):
        Console(width=140).print(table)


if __name__ == "__main__":
    main()
