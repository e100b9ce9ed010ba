"""A new sampler: rows of numbers; the loop, the card and the seeds follow."""

import torch

from retrodict import Pixel, gaussian_card, make_grid
from retrodict.processes.scalar import vp
from retrodict.samplers import Plan, Row


def renoise(process, times):
    """Jump to the denoised image and add completely fresh noise: a popular shortcut, shown to lose variance."""

    def row(i):
        now, after = times[i : i + 1], times[i + 1 : i + 2]
        m = process.moments(after)
        zero = torch.zeros_like(m.h)
        return Row(float(now), True, keep=(zero,), data=(m.h,), noise=(m.s2.sqrt(),))

    return Plan(process, times, row, length=len(times) - 1, nfe=len(times) - 1, rule="renoise", stochastic=True)


process = vp(Pixel((3,)))
variances = torch.tensor([0.01, 0.25, 1.0], dtype=torch.float64)
for steps in (20, 100, 1000):
    plan = renoise(process, make_grid(process, steps, "logsnr", first=1e-3))
    print(
        f"{steps:>5} steps: variance over the exact one",
        (gaussian_card(plan, variances).variance / variances).numpy().round(3),
    )
