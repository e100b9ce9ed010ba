"""Algorithm 1 of whitened-score diffusion on TIE and IDT stacks of Gaussian phases, in closed form.

    python benchmarks/whitened_optics.py

32 x 32 pixels of 1 um: TIE by the contrast transfer of two defocused images (0.05 and -0.1 mm), IDT of one slice by six
sources within an aperture of 0.25; noise of 0.3 of the norm of the operator, white or through a Gaussian kernel of 3
pixels with a fifth of white noise ("kernel").  Error of one run over that of the exact posterior mean, expected over
phases, noise and starts (a draw of the posterior has 1.41), where the stack sees something; 200 steps.
"structured": the kernel of the noise in the process; "isotropic": none.  Nothing is drawn.  `fuse` is exact here.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch

from retrodict.bases import Fourier
from retrodict.denoisers.denoiser import GaussianDenoiser
from retrodict.denoisers.likelihood import LikelihoodGuided
from retrodict.physics import GaussianNoise, Measurement, idt, tie
from retrodict.posterior.fused import coefficients_of
from retrodict.processes.observation import Moments, wiener
from retrodict.processes.process import Process
from retrodict.processes.scalar import vp
from retrodict.processes.whitened import kernel_power, whitened
from retrodict.samplers.card import card
from retrodict.samplers.whitened import whitened_plan

OUT = Path(__file__).resolve().parent / "results" / "whitened-optics.json"
F64: dict[str, Any] = {"dtype": torch.float64}
SIDE, PIXEL, KERNEL, WHITE, STEPS = 32, 1e-3, 3e-3, 0.2, 200
BASIS = Fourier((SIDE, SIDE), (PIXEL, PIXEL))
ROWS = [
    *((f"algorithm 1, lambda {k:g}", k, "as image", "corrected") for k in (0.1, 0.5, 1.0, 2.0)),
    ("algorithm 1, printed sign, lambda 0.5", 0.5, "as image", "published"),
    ("x/a with its variance", 1.0, "scaled", "corrected"),
]


def stacks() -> dict[str, Any]:
    """The two operators, phase to stack."""
    ring = [(200.0 * math.sin(a), 200.0 * math.cos(a)) for a in (0.3, 1.3, 2.3, 3.3, 4.3, 5.3)]
    return {
        "TIE": tie((SIDE, SIDE), [0.05, -0.1], wavelength=5e-4, spacing=(PIXEL, PIXEL), kind="ctf"),
        "IDT": idt(
            (SIDE, SIDE), ring, [0.02], wavelength=5e-4, aperture=0.25, spacing=(PIXEL, PIXEL), index=1.33,
            thickness=5e-3, absorption=False,
        ),
    }  # fmt: skip


def error(
    start: torch.Tensor, gain: torch.Tensor, first: torch.Tensor, power: torch.Tensor, law: Moments, left: Any = 0.0
) -> float:
    """Root mean square of start w_1 + gain y - x over the frequencies that the stack sees; `left`: variance added."""
    squares = (1 - gain * law.h) ** 2 * power + gain**2 * law.s2 + start**2 * first + left
    weight = BASIS.multiplicity().expand(power.shape) * (law.h > 1e-9 * law.h.max())
    return math.sqrt(float((squares * weight).sum() / weight.sum()))


def main() -> None:
    """A row a method, a column an operator and a noise."""
    power = 1 / (0.05 + (BASIS.radius() / 500) ** 2)
    shape = kernel_power(BASIS, torch.tensor([[KERNEL, KERNEL]], **F64), white=WHITE)[0, 0]
    processes: dict[str, Process] = {"structured": whitened(BASIS, KERNEL, white=WHITE), "isotropic": vp(BASIS)}
    times = torch.linspace(1, 0, STEPS + 1, **F64)
    found: dict[str, dict[str, float]] = {}
    for name, operator in stacks().items():
        level = 0.3 * float(operator.norm())
        for noise, table in (("kernel", level**2 * shape), ("white", torch.full(BASIS.shape, level**2, **F64))):
            zero = torch.zeros(1, *operator.range.shape, **F64)
            m = Measurement(operator, zero, GaussianNoise.stationary(BASIS, table))
            stack = coefficients_of(m, BASIS)
            assert stack is not None
            y, law = BASIS.inverse(stack[0]), stack[1]
            gain, _ = wiener(law, power)
            none = torch.zeros_like(gain)
            best = error(none, gain, none, power, law)
            for kind, process in processes.items():
                inner = GaussianDenoiser(process, 0.0, power)
                first = process.moments(torch.ones(1, **F64)).s2[0, 0]
                for label, strength, state, sign in ROWS:
                    made = LikelihoodGuided(inner, y, law, strength, state, sign)
                    done = card(whitened_plan(process, times), made)
                    ratio = error(done.start, done.measurement, first, power, law, done.variance) / best
                    found.setdefault(f"{kind}, {label}", {})[f"{name}, {noise}"] = ratio
    OUT.write_text(json.dumps({"command": "python benchmarks/whitened_optics.py", "ratios": found}, indent=1) + "\n")
    heads = list(next(iter(found.values())))
    print("| process, likelihood | " + " | ".join(heads) + " |\n|" + "---|" * (len(heads) + 1))
    for label, row in found.items():
        cells = (f"{v:.2f}" if math.isfinite(v) and v < 100 else "diverges" for v in row.values())
        print(f"| {label} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
