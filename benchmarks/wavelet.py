"""Claims of the wavelet processes, in closed form on Gaussian data: the table of docs/processes/wavelet.md.

    python benchmarks/wavelet.py            # print; --write puts it into the page

Data are stationary, P(w) = c / (xi^3 + |w|^3) with xi = 2 pi / L and mean 1, on 16 x 16 pixels, in db4 of three levels.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
from torch import Tensor

from retrodict import BandSpectrum, Wavelet
from retrodict.bases.wavelet import band_powers
from retrodict.processes.process import Process
from retrodict.processes.scalar import vp
from retrodict.processes.wavelet import WAVELET_PROCESSES, wavelet_cascade, wavelet_normalised, wavelet_scaled
from retrodict.samplers import make_plan
from retrodict.samplers.card import gaussian_card

PAGE = Path(__file__).resolve().parents[1] / "docs" / "processes" / "wavelet.md"
BEGIN, END = "<!-- claims:begin -->\n", "<!-- claims:end -->\n"


def table(size: tuple[int, ...], eta: float) -> Tensor:
    """The power spectrum on the whole Fourier grid, mean 1."""
    axes = [2 * math.pi * torch.fft.fftfreq(n, dtype=torch.float64) for n in size]
    w = torch.stack(torch.meshgrid(*axes, indexing="ij")).square().sum(0).sqrt()
    power = 1 / ((2 * math.pi / size[0]) ** eta + w**eta)
    return power / power.mean()


def error(process: Process, rule: str, steps: int, variance: Tensor) -> float:
    """Largest relative error of the variance of a coefficient, from the exact start."""
    times = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    card = gaussian_card(make_plan(rule, process, times, variance), variance)
    m = process.moments(torch.ones(1, dtype=torch.float64))
    found = card.variance + card.start**2 * (m.h**2 * variance + m.s2)[0, 0]
    return float((found / variance - 1).abs().max())


def condition(basis: Wavelet, power: Tensor) -> tuple[float, float]:
    """Condition number of the covariance of pixels, and of all coefficients over the deviations of their bands."""
    n = math.prod(basis.size)
    unit = torch.eye(n, dtype=torch.float64).reshape(n, *basis.size)
    root = torch.fft.ifft2(power.sqrt() * torch.fft.fft2(unit)).real
    known = basis.spread(band_powers(basis, power)).sqrt()
    values = torch.linalg.svdvals((basis.forward(root) / known).reshape(n, n)) ** 2
    return float(power.max() / power.min()), float(values.max() / values.min())


def claims() -> list[tuple[str, bool, str]]:
    """Claim, whether it held, and the figure."""
    basis = Wavelet((16, 16), levels=3, family="db4")
    power = table(basis.size, 3)
    values = band_powers(basis, power)
    known = BandSpectrum.of(basis, 0.0, torch.stack(list(values.values())))
    L = known.on(basis)
    made = {name: WAVELET_PROCESSES[name](basis, conditioning="none") for name in WAVELET_PROCESSES}
    made["wavelet_normalised"] = wavelet_normalised(basis, spectrum=known)
    made["wavelet_cascade"] = wavelet_cascade(basis, spectrum=known)
    worst = max(error(p, "matched", n, L) for p in made.values() for n in (1, 2, 7, 12))
    rows = [
        ("all: `matched` has the law of the data, 1 to 12 steps, bands at rest included", worst < 1e-9, f"{worst:.0e}")
    ]
    wide = band_powers(Wavelet((256, 256), levels=5, family="db4"), table((256, 256), 3))
    growth = [float(wide[j + 1, "dd"] / wide[j, "dd"]) for j in (1, 2, 3)]
    rows.append(
        (
            "variances of bands grow as 2^eta a level (eta = 3, 256 x 256 pixels)",
            all(7 < g < 8.2 for g in growth),
            ", ".join(f"{g:.2f}" for g in growth),
        )
    )
    spread = {name: made[name].clock_spread for name in ("wavelet_normalised", "wavelet_scaled")}
    own = made["wavelet_normalised"].moments(torch.full((1,), 0.5, dtype=torch.float64))
    snr = own.h**2 * L / own.s2
    flat = float(snr.max() / snr.min()) - 1
    rows.append(
        (
            "`wavelet_normalised`: every band has one signal-to-noise ratio",
            flat < 1e-12,
            f"largest / smallest - 1 = {flat:.0e}; log clocks are {spread['wavelet_normalised']:.1f} apart",
        )
    )
    a, b = (error(p, "ancestral", 32, L) for p in (made["wavelet_normalised"], vp(basis)))
    rows.append(
        (
            "`wavelet_normalised`: 32 ancestral steps are closer to the law of the data than those of `vp`",
            a < b,
            f"{a:.3f} against {b:.3f}",
        )
    )
    per, whole = (error(wavelet_cascade(basis, spectrum=known), "ancestral", 4 * n, L) for n in (8, 16))
    rows.append(("`wavelet_cascade`: 8 steps a window against 16, same rule", whole < per, f"{per:.3f}, {whole:.3f}"))
    scaled = wavelet_scaled(Wavelet((16, 16), levels=1, family="haar"))
    m, white = (p.moments(torch.full((1,), 0.3, dtype=torch.float64)) for p in (scaled, vp(scaled.basis)))
    off = float((m.s2[0, 0, :8, :8] / 9 - white.s2).abs().max())
    rows.append(("`wavelet_scaled` is `vp` of (coarse/3, details)", off < 1e-14, f"off by {off:.0e}"))
    for family in ("db4", "haar"):
        pixel, joint = condition(Wavelet((16, 16), levels=4, family=family), power)
        rows.append(
            (
                f"all bands together, normalised, are well conditioned: {family}",
                joint < 30,
                f"{joint:.1f} (pixels {pixel:.0f})",
            )
        )
    return rows


def main() -> None:
    """Print or write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    lines = ["| claim | held or not | figure |", "|---|---|---|"]
    lines += [f"| {claim} | {'held' if held else 'not held'} | {figure} |" for claim, held, figure in claims()]
    text = "\n".join(lines) + "\n"
    print(text)
    if arguments.write:
        before, rest = PAGE.read_text().split(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}{text}{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    main()
