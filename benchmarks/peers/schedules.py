"""Schedules of diffusers beside ours: tables, times, a whole DDIM run of its own scheduler, and our file read by it.

    .venv-peers/bin/python benchmarks/peers/schedules.py        (made by 'make bench-peers')

For every scheduler: largest relative difference of alphas_cumprod at the discrete steps (diffusers computes its tables
in float32), timesteps of 10 steps that differ, and the largest difference of a sample of DDIM with the exact network of
Gaussian data, its own loop against `ddim` on `Foreign.grid`. Exit code 1 where one is larger than float32 explains.
"""

from __future__ import annotations

import sys

import diffusers
import torch
from rich.console import Console
from rich.table import Table

from retrodict.bases import Pixel
from retrodict.denoisers.foreign import foreign_denoiser
from retrodict.processes.foreign import Foreign, foreign_schedule, scheduler_config
from retrodict.processes.scalar import cosine
from retrodict.samplers import make_plan, sample

VARIANCE = torch.tensor([0.04, 0.25, 1.0, 4.0], dtype=torch.float64)
BASIS, STEPS, LIMIT = Pixel((4,)), 10, 1e-4
DDIM = {"clip_sample": False, "timestep_spacing": "trailing"}
CASES = [
    ("DDIMScheduler", {**DDIM, "beta_schedule": "linear"}),
    ("DDIMScheduler", {**DDIM, "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}),
    ("DDIMScheduler", {**DDIM, "beta_schedule": "squaredcos_cap_v2"}),
    ("DDIMScheduler", {**DDIM, "prediction_type": "v_prediction", "rescale_betas_zero_snr": True}),
    ("DDIMScheduler", {**DDIM, "timestep_spacing": "leading", "steps_offset": 1}),
    ("DDPMScheduler", {"beta_schedule": "sigmoid", "timestep_spacing": "linspace"}),
    ("DPMSolverMultistepScheduler", {}),
    ("DPMSolverMultistepScheduler", {"timestep_spacing": "leading"}),
    ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}),
    ("EDMEulerScheduler", {}),
]


def network(schedule: Foreign, kind: str):
    """The exact network of data N(0, VARIANCE) for a table, in the convention `kind`."""

    def answer(x: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        m = schedule.process.moments(schedule.times(timestep.reshape(-1).double()))
        h, s = m.h.reshape(-1, 1, 1).to(x), m.s2.sqrt().reshape(-1, 1, 1).to(x)
        data = h * VARIANCE.to(x) / (h**2 * VARIANCE.to(x) + s**2) * x
        noise = (x - h * data) / s
        return h * noise - s * data if kind == "v_prediction" else noise

    return answer


def same_run(theirs, schedule: Foreign, kind: str) -> float:
    """Largest difference of their DDIM loop and our rule, from one start, in float64 states."""
    f, x = network(schedule, kind), torch.linspace(-1.5, 1.5, 4, dtype=torch.float64).reshape(1, 1, 4)
    plan = make_plan("ddim", schedule.process, schedule.grid(STEPS))
    ours = sample(foreign_denoiser(f, schedule), plan, x, seeds=torch.tensor([0])).x
    theirs.set_timesteps(STEPS)
    for t in theirs.timesteps:
        x = theirs.step(f(x, t), t, x).prev_sample
    return float((ours - x).abs().max())


def row(name: str, options: dict) -> tuple[str, float | None, float, float | None]:
    """Differences of one scheduler."""
    theirs = getattr(diffusers, name)(**options)
    schedule = foreign_schedule({**dict(theirs.config), "_class_name": name}, BASIS)
    table = None
    if schedule.kind == "discrete":
        known = theirs.alphas_cumprod.double()
        m = schedule.process.moments(schedule.times(torch.arange(schedule.steps)))
        known[-1] = 0.0 if options.get("rescale_betas_zero_snr") else known[-1]  # some versions write 2^-24 there
        table = float(((m.h.flatten() ** 2 - known).abs() / known.clamp_min(1e-6)).max())
    theirs.set_timesteps(STEPS)
    grid = schedule.grid(STEPS)[: -1 if schedule.grid(STEPS)[-1] == 0 else None]
    ours, told = schedule.timesteps(grid), theirs.timesteps.double()
    times = float((ours[len(ours) - len(told) :] - told).abs().max())
    trailing = name == "DDIMScheduler" and options["timestep_spacing"] == "trailing"
    return name, table, times, same_run(theirs, schedule, schedule.config["prediction_type"]) if trailing else None


def main() -> None:
    """Print all, and what diffusers reads of a file of ours."""
    table = Table(title=f"diffusers {diffusers.__version__} beside retrodict")
    for column in ("scheduler", "alphas_cumprod", "timesteps", "DDIM sample"):
        table.add_column(column)
    worst = 0.0
    for name, options in CASES:
        found = row(name, options)
        said = ", ".join(f"{v}" for k, v in options.items() if k in ("beta_schedule", "timestep_spacing", "shift"))
        table.add_row(f"{name} {said}", *("" if v is None else f"{v:.1e}" for v in found[1:]))
        worst = max(worst, *(v for v in found[1:] if v is not None))
    record = scheduler_config(cosine(BASIS))
    theirs = diffusers.DDIMScheduler.from_config(record)
    ours = cosine(BASIS).moments((torch.arange(1000, dtype=torch.float64) + 1) / 1000).h.flatten() ** 2
    written = float(((theirs.alphas_cumprod.double() - ours).abs() / ours.clamp_min(1e-6)).max())
    table.add_row("our cosine, read by DDIMScheduler", f"{written:.1e}", "", "")
    Console(width=110).print(table)
    sys.exit(max(worst, written) > LIMIT)


if __name__ == "__main__":
    main()
