"""Guidance with weights that are tuned to the spectrum of the data: how right it gets, on Gaussian data.

    python benchmarks/spectral_weights.py             (seconds; writes the table of the document)

Benita, Elad and Keshet (arXiv 2602.07715) write zero-shot posterior samplers for Gaussian data as filters, frequency by
frequency, and choose one number a step so that the average Wasserstein distance to the exact posterior is least. Done
here for two families: `dps`, D' = D + zeta_i (s^2/h) J^T A^T (y - A D)/sigma^2, and `pigdm`, the same with
(A A^T r_i^2 + sigma^2)^-1 in place of zeta_i/sigma^2; ancestral VP steps, evenly in log-SNR. The chain of every
frequency is affine, so mean and variance are exact and their gradient by the weights is, too (L-BFGS, float64).

Data of variance (1 + k)^-2, k < 32; a blur a_k = exp(-(k/10)^2) under white noise of 0.05.  The posterior averages over
measurements; error of the gain in deviations of the posterior, and the variance of the worst frequency over the exact
one.  What is tuned is right for one spectrum, operator, noise and number of steps; `matched` is given none of them.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from retrodict.bases import Pixel
from retrodict.processes.scalar import vp
from retrodict.samplers.plan import make_grid
from tables import replace_block

SIZE, NOISE = 32, 0.05
STEPS = (5, 10, 20, 50, 100)
FAMILIES = ("dps", "pigdm")
RESULT = Path(__file__).parent / "results" / "spectral_weights.json"
PAGE = Path(__file__).resolve().parents[1] / "docs" / "posterior.md"
K = torch.arange(SIZE, dtype=torch.float64)
POWER, BLUR = (1 + K) ** -2.0, torch.exp(-((K / 10) ** 2))
SEEN = BLUR**2 * POWER + NOISE**2
GAIN, LEFT = BLUR * POWER / SEEN, POWER * NOISE**2 / SEEN
"""The exact posterior: mean GAIN y, variance LEFT."""


def law(family: str, weights: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
    """Gain on y and variance `(SIZE,)` of the chain with one weight for each of its steps."""
    process = vp(Pixel((SIZE,)))
    m = process.moments(times)
    h, s2 = m.h.reshape(-1, 1), m.s2.reshape(-1, 1)
    gain, variance = torch.zeros_like(POWER), h[0] ** 2 * POWER + s2[0]
    for i, weight in enumerate(weights):
        filtered = h[i] * POWER / (h[i] ** 2 * POWER + s2[i])  # D = filtered w, and its derivative
        guide = weight / NOISE**2 if family == "dps" else 1 / (BLUR**2 * weight + NOISE**2)
        pull = s2[i] / h[i] * filtered * BLUR * guide
        own, data = filtered * (1 - pull * BLUR), pull  # D' = own w + data y
        q = s2[i + 1] * h[i] ** 2 / (h[i + 1] ** 2 * s2[i])  # r_s / r_t
        keep, pass_on = h[i + 1] / h[i] * q, h[i + 1] * (1 - q)
        gain = (keep + pass_on * own) * gain + pass_on * data
        variance = (keep + pass_on * own) ** 2 * variance + s2[i + 1] * (1 - q)
    return gain, variance


def distance(gain: Tensor, variance: Tensor) -> Tensor:
    """Squared Wasserstein distance to the posterior, averaged over measurements, of the variance of the data."""
    return ((gain - GAIN) ** 2 * SEEN + (variance.sqrt() - LEFT.sqrt()) ** 2).sum() / POWER.sum()


def usual(family: str, times: Tensor) -> Tensor:
    """What is published: the theory form of DPS, and r_t^2 = r/(1 + r), the variance left of data of unit variance."""
    m = vp(Pixel((SIZE,))).moments(times[:-1])
    r = (m.s2 / m.h**2).flatten()
    return torch.ones_like(r) if family == "dps" else r / (1 + r)


def tuned(family: str, times: Tensor) -> Tensor:
    """Weights of the least distance, from two starts: the usual ones (of `dps`, what `pigdm` is where A = 1, which is
    stable) and small ones."""
    best: tuple[float, Tensor] | None = None
    first = usual("pigdm", times)
    first = NOISE**2 / (first + NOISE**2) if family == "dps" else first
    for start in (first, 1e-3 * torch.ones(len(times) - 1, dtype=torch.float64)):
        x = start.log().clone().requires_grad_()
        optimiser = torch.optim.LBFGS([x], max_iter=250, history_size=20, line_search_fn="strong_wolfe")
        found = _descended(optimiser, x, lambda x: distance(*law(family, x.exp(), times)))
        if best is None or found[0] < best[0]:
            best = found
    assert best is not None
    return best[1]


def _descended(optimiser: torch.optim.LBFGS, x: Tensor, loss: Callable[[Tensor], Tensor]) -> tuple[float, Tensor]:
    def closure() -> Tensor:
        optimiser.zero_grad()
        value = loss(x)
        value = torch.where(torch.isfinite(value), value, 1e6 * x.square().sum())
        value.backward()
        return value

    optimiser.step(closure)  # type: ignore[arg-type]
    value = float(loss(x.detach()))
    return (value if math.isfinite(value) else math.inf), x.detach().exp()


def row(family: str, kind: str, steps: int) -> dict[str, float | str | int]:
    """Distance, root mean error of the gain in deviations of the posterior, and the worst variance over the exact."""
    times = make_grid(vp(Pixel((SIZE,))), steps, "logsnr", last=1e-4)
    weights = tuned(family, times) if kind == "tuned" else usual(family, times)
    gain, variance = law(family, weights, times)
    bias = float(((gain - GAIN) ** 2 * SEEN / LEFT).mean().sqrt())
    ratio = variance / LEFT
    worst = float(ratio[(ratio - 1).abs().argmax()])
    return {"family": family, "weights": kind, "steps": steps, "distance": float(distance(gain, variance).sqrt()),
            "bias": bias, "variance": float(variance.sum() / LEFT.sum()), "worst": worst}  # fmt: skip


def shown(x: float) -> str:
    """Three figures, or that it is large."""
    return f"{x:.3g}" if abs(x) < 1e3 else "> 1000"


def table(rows: list[dict[str, float | str | int]]) -> str:
    """Family and weights by steps."""
    lines = [
        "| guidance | weights | " + " | ".join(f"{n} steps" for n in STEPS) + " |",
        "|---" * (2 + len(STEPS)) + "|",
    ]
    for family in FAMILIES:
        for kind in ("usual", "tuned"):
            mine = [r for r in rows if (r["family"], r["weights"]) == (family, kind)]
            cells = [
                f"{shown(float(r['bias']))}, {shown(float(r['variance']))}, {shown(float(r['worst']))}" for r in mine
            ]
            lines.append(f"| {family} | {kind} | " + " | ".join(cells) + " |")
    lines.append("| `matched` | none | " + " | ".join("0, 1, 1" for _ in STEPS) + " |")
    return "\n".join(lines)


def main() -> None:
    """Tune, write and print."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    rows = [row(family, kind, steps) for family in FAMILIES for kind in ("usual", "tuned") for steps in STEPS]
    text = table(rows)
    print(text)
    options.out.write_text(json.dumps({"rows": rows}, indent=1) + "\n")
    if options.out == RESULT:
        replace_block(PAGE, "spectral-weights", text)


if __name__ == "__main__":
    main()
