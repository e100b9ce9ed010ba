"""Blur and noise that vary over the image, 32 x 32: the process of any operators beside a stationary Fourier process.

    python benchmarks/general_operator.py [--patients N] [--members K]

The blur grows from 0.3 pixels (standard deviation) in the centre to 1.2 at the rim; the noise, colored by a ramp, is
three times as strong in the centre as in the corners.  H(t) = 1 + t (H_1 - 1), Sigma(t) = t Sigma_1: neither symmetric
nor commuting.  The prior is Gaussian with the radial spectrum of training patients, on a grid that goes on beyond the
patch.

exact         the Gaussian posterior by one update, and the law of four steps of the sampler of matrices beside it
T17           the corrected and the printed diffusion of appendix B of Fourier diffusion, on random matrices
closed form   expected squared error of each estimator over the variance that it states, for data of the prior
patients      four patches of every validation patient, measured once; SSR^2 = squared error over stated variance
mean blur and noise   the same prior with a stationary instrument: the mean over pixels of the blur and of the noise
stationary Fourier    the same on a periodic grid: what a Fourier process makes of the patch without a margin
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable
from pathlib import Path

import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from torch import Tensor

from patient_slices import body_corner, slices, there
from retrodict._random import key, white
from retrodict.bases import Fourier
from retrodict.bases.spectrum import Spectrum, radial_spectrum
from retrodict.processes.general import DenseProcess, root_of
from retrodict.processes.observation import Moments, wiener
from retrodict.samplers.general import DenseGaussian, dense_law, dense_plan, dense_sample

OUT = Path(__file__).parent / "results" / "general_operator.json"
PICTURE = Path(__file__).resolve().parents[1] / "docs" / "images" / "general-operator.png"
SIDE, NOISE, WINDOW = 32, 40.0, (-160, 240)
N = SIDE**2


# ---- the instrument -------------------------------------------------------------------------------------------------


def radius() -> Tensor:
    """Distance from the centre over that of the corners, `(n,)`."""
    line = (torch.arange(SIDE, dtype=torch.float64) - (SIDE - 1) / 2) / ((SIDE - 1) / 2)
    y, x = torch.meshgrid(line, line, indexing="ij")
    return ((y**2 + x**2) / 2).sqrt().reshape(-1)


def blur() -> Tensor:
    """H_1 `(n, n)`: every pixel a Gaussian mean of its neighbors, of its own width; no image beyond the rim."""
    place = torch.cartesian_prod(torch.arange(SIDE), torch.arange(SIDE)).double()
    width = 0.3 + 0.9 * radius() ** 2
    weight = torch.exp(-torch.cdist(place, place).square() / (2 * width[:, None] ** 2))
    return weight / weight.sum(1, keepdim=True)


def dense(table: Tensor, basis: Fourier) -> Tensor:
    """B^-1 diag(table) B."""
    unit = torch.eye(N, dtype=torch.float64).reshape(N, 1, SIDE, SIDE)
    return basis.inverse(table * basis.forward(unit)).reshape(N, N).T


def noise(basis: Fourier) -> tuple[Tensor, Tensor, Tensor]:
    """Sigma_1 in HU^2, the factor of every pixel `(n,)` and the stationary part `(*K)`: mean variance NOISE^2."""
    ramp = 0.1 + basis.radius()
    power = ramp / ((ramp * basis.multiplicity()).sum() / N)
    factor = 3 ** (0.5 - radius())
    factor = factor / factor.square().mean().sqrt()
    return NOISE**2 * factor[:, None] * dense(power, basis) * factor, factor, NOISE**2 * power


def process_of(h: Tensor, s: Tensor) -> DenseProcess:
    """H(t) = 1 + t (H_1 - 1), Sigma(t) = t Sigma_1."""
    unit = torch.eye(N, dtype=torch.float64)
    return DenseProcess(lambda t: (unit + t * (h - unit), torch.zeros_like(unit), t * s), (SIDE, SIDE))


def beyond(spectrum: Spectrum) -> Tensor:
    """Covariance `(n, n)` of a patch of an image that goes on beyond it: that of a grid of twice the side, cut out."""
    wide = Fourier((2 * SIDE, 2 * SIDE))
    line = wide.inverse(spectrum.on(wide).to(torch.complex128)) / (2 * SIDE)
    place = torch.cartesian_prod(torch.arange(SIDE), torch.arange(SIDE))
    apart = (place[:, None] - place[None]).remainder(2 * SIDE)
    return line[apart[..., 0], apart[..., 1]]


def mean_point(h: Tensor) -> Tensor:
    """The mean over pixels of the blur, centred on pixel 0 of a periodic grid, `(SIDE, SIDE)`."""
    rolled = [torch.roll(x.reshape(SIDE, SIDE), (-(i // SIDE), -(i % SIDE)), (0, 1)) for i, x in enumerate(h)]
    return torch.stack(rolled).mean(0)


def mean_blur(h: Tensor) -> Tensor:
    """The mean blur as a matrix `(n, n)` that ends at the rim, as H_1 does."""
    point, place = mean_point(h), torch.cartesian_prod(torch.arange(SIDE), torch.arange(SIDE))
    apart = place[None] - place[:, None]
    near = (apart.abs() < SIDE // 2).all(-1)
    weight = point[apart[..., 0] % SIDE, apart[..., 1] % SIDE] * near
    return weight / weight.sum(1, keepdim=True)


def stationary(h: Tensor, power: Tensor, basis: Fourier) -> Moments:
    """The Fourier process that is nearest: the transfer function of the mean blur, and the mean noise power."""
    gain = (basis.forward(mean_point(h)[None, None]) * SIDE)[0, 0].real
    return Moments(gain, torch.zeros_like(gain), power)


# ---- appendix B ------------------------------------------------------------------------------------------------------


def appendix(n: int = 16) -> tuple[float, float]:
    """Largest error of the corrected and of the printed G G^T of dx = M x dt + Q^(1/2) dw."""
    draw = torch.Generator().manual_seed(0)
    a, b = (torch.randn(n, n, generator=draw, dtype=torch.float64) for _ in range(2))
    drift, diffusion = -a @ a.T / n + 0.5 * (b - b.T), b @ b.T / n
    process = DenseProcess.linear(drift, diffusion)
    rates, s = process.rates(0.7), process.moments(0.7).S
    printed = rates.GG + s @ rates.F.T - rates.F @ s  # Sigma' - 2 F Sigma
    return float((rates.GG - diffusion).abs().max()), float((printed - diffusion).abs().max())


# ---- patients --------------------------------------------------------------------------------------------------------


def patches(split: str, most: int) -> dict[str, Tensor]:
    """Four patches `(4, n)` in HU from the middle of the body of one slice of each patient."""
    out: dict[str, Tensor] = {}
    for item in slices(split):
        values = item.image.values[0, 0] if item.image.values.ndim == 4 else item.image.values.reshape(
            -1, *item.image.values.shape[-2:])[0]  # fmt: skip
        if item.patient in out or len(out) >= most or min(values.shape) < 2 * SIDE:
            continue
        y, x = body_corner(values, 2 * SIDE)
        crop = values[y : y + 2 * SIDE, x : x + 2 * SIDE].double().clamp(-1024, 1500)
        out[item.patient] = crop.reshape(2, SIDE, 2, SIDE).permute(0, 2, 1, 3).reshape(4, N)
    return out


def spectrum_of(train: Iterable[Tensor]) -> Spectrum:
    return radial_spectrum([x.reshape(SIDE, SIDE) for four in train for x in four], (1.0, 1.0), bins=12)


def mean_sd(values: list[float]) -> str:
    x = torch.tensor(values, dtype=torch.float64)
    return f"{float(x.mean()):.2f} ± {float(x.std()):.2f}"


def figures(found: dict[str, dict[str, list[float]]]) -> Table:
    table = Table(title="Validation patients: mean ± SD between patients")
    for name in ("estimator", "RMS error, HU", "error²/Fourier, paired", "SSR²", "SSR² centre", "SSR² rim"):
        table.add_column(name, justify="left" if name == "estimator" else "right")
    for name, rows in found.items():
        table.add_row(name, *(mean_sd(rows[k]) for k in ("rms", "paired", "ssr2", "centre", "rim")))
    return table


# ---- the command -----------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patients", type=int, default=12)
    parser.add_argument("--members", type=int, default=16)
    options = parser.parse_args()
    torch.set_num_threads(1)
    console, started, record = Console(width=120), time.process_time(), {}
    assert there(), "the CT sets are not beside the repository (../shared/data)"
    basis = Fourier((SIDE, SIDE))
    corrected, printed = appendix()
    console.print(f"appendix B, 16-d: largest error of G G^T, corrected {corrected:.1e}, as printed {printed:.2f}")

    prior = spectrum_of(patches("train", 40).values())
    variance, center = prior.on(basis), float(prior.mean)
    c, h, (s, factor, power) = beyond(prior), blur(), noise(basis)
    process, mean = process_of(h, s), torch.full((N,), center, dtype=torch.float64)
    asymmetry, commutator = float((h - h.T).abs().max()), float((h @ s - s @ h).norm() / (h @ s).norm())
    console.print(f"H_1: |H - H^T| up to {asymmetry:.2f}; |HS - SH| / |HS| = {commutator:.2f}; "
                  f"noise {float(NOISE * factor.min()):.0f} to {float(NOISE * factor.max()):.0f} HU")  # fmt: skip
    console.print(f"Markov: {process.markov}   ({time.process_time() - started:.0f} s)")

    gain, left = process.update(c, 1.0)
    denoiser, plan = DenseGaussian(process, mean, c), dense_plan(process, [1.0, 0.6, 0.3, 0.1, 0.0])
    law = dense_law(denoiser, plan)
    exact = {
        "gain": float((law.start - gain).abs().max() / gain.abs().max()),
        "covariance": float((law.covariance - left).abs().max() / left.abs().max()),
    }
    console.print(f"four steps against the posterior: gain {exact['gain']:.1e}, covariance {exact['covariance']:.1e} "
                  f"of the largest   ({time.process_time() - started:.0f} s)")  # fmt: skip

    fixed, unit = stationary(h, power, basis), torch.eye(N, dtype=torch.float64)
    k, v = wiener(fixed, variance)
    simple = DenseProcess(lambda t: (mean_blur(h), torch.zeros_like(h), dense(power, basis)), (SIDE, SIDE))
    said = {"general operator": (gain, left, h), "mean blur and noise": (*simple.update(c, 1.0), simple.moments(1.0).H),
            "stationary Fourier": (dense(k, basis), dense(v, basis), dense(fixed.h, basis))}  # fmt: skip
    inner, outer = radius() < 0.35, radius() > 0.65
    closed = Table(title="Closed form, data of the prior: expected error² over stated variance")
    for name in ("estimator", "RMS error, HU", "everywhere", "centre", "rim"):
        closed.add_column(name, justify="left" if name == "estimator" else "right")
    for name, (own, stated, _) in said.items():
        rest = own @ h - unit
        e, w = torch.diagonal(rest @ c @ rest.T + own @ s @ own.T), torch.diagonal(stated)
        shares = [float(e[m].sum() / w[m].sum()) for m in (torch.ones_like(inner), inner, outer)]
        closed.add_row(name, f"{float(e.mean().sqrt()):.2f}", *(f"{x:.3f}" for x in shares))
        record[f"closed, {name}"] = {"rms": float(e.mean().sqrt()), "ssr2": shares}
    console.print(closed)

    root = root_of(s)
    found = {n: {k: [] for k in ("rms", "paired", "ssr2", "centre", "rim")} for n in [*said, "its sampler"]}
    shown, most = None, 0  # the patch with most pixels in the window
    for number, (patient, truth) in enumerate(patches("validation", options.patients).items()):
        z = white([key(0, "general", number)], "measurement", 0, (4, N))[0].double()
        y = truth @ h.T + z @ root.T
        rows = {n: (mean + (y - mean @ assumed.T) @ own.T, torch.diagonal(stated).expand(4, N))
                for n, (own, stated, assumed) in said.items()}  # fmt: skip
        seeds = torch.tensor([key(0, patient, i) for i in range(4 * options.members)])
        members = dense_sample(denoiser, plan, y.repeat_interleave(options.members, 0), seeds)
        members, share = members.reshape(4, options.members, N), 1 + 1 / options.members
        rows["its sampler"] = members.mean(1), members.var(1) * share
        worse = float((rows["stationary Fourier"][0] - truth).square().mean())
        for name, (x, w) in rows.items():
            e = (x - truth).square()
            found[name]["rms"].append(float(e.mean().sqrt()))
            found[name]["paired"].append(float(e.mean()) / worse)
            for part, mask in (("ssr2", slice(None)), ("centre", inner), ("rim", outer)):
                found[name][part].append(float(e[:, mask].sum() / w[:, mask].sum()))
        inside = int(((truth[0] > WINDOW[0]) & (truth[0] < WINDOW[1])).sum())
        if shown is None or inside > most:
            most = inside
            pairs = [(rows[n][0][0], rows[n][1][0].sqrt()) for n in ("general operator", "mean blur and noise")]
            shown = (truth[0], y[0], *pairs[0], *pairs[1])
        print(f"  {patient} ({time.process_time() - started:.0f} s)", flush=True)
    console.print(figures(found))
    OUT.write_text(
        json.dumps({"appendix": [corrected, printed], "exact": exact, **record, "patients": found}, indent=1)
    )
    if shown is not None:
        draw(shown)


def draw(panels: tuple[Tensor, ...]) -> None:
    """Truth, measured, and mean and deviation of both."""
    names = ("Truth", "Measured", "General operator", "its deviation", "Mean blur, noise", "its deviation")
    figure = Figure(figsize=(13.2, 2.75), dpi=100, facecolor="white", layout="constrained")
    for ax, name, values in zip(figure.subplots(1, 6), names, panels, strict=True):
        deviation = "deviation" in name
        low, high = (0, max(float(p.max()) for p in (panels[3], panels[5]))) if deviation else WINDOW
        picture = ax.imshow(values.reshape(SIDE, SIDE), cmap="inferno" if deviation else "gray", vmin=low, vmax=high)
        ax.set_title(name, fontsize=10)
        ax.set_axis_off()
        if deviation:
            bar = figure.colorbar(picture, ax=ax, shrink=0.75)
            bar.set_label("HU", fontsize=8)
            bar.ax.tick_params(labelsize=7)
    figure.savefig(PICTURE)
    print(f"wrote {PICTURE.name} and {OUT.name}")


if __name__ == "__main__":
    main()
