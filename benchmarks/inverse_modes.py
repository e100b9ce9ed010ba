"""Why a linear update misplaces the modes of a mixture, and what it takes not to.

    python benchmarks/inverse_modes.py [--members 2000] [--steps 16] [--only matched ...] [--case 0 1 2 3]

Card M of `inverse.py` and three like it whose posterior itself has two modes (16 numbers, 14 projections, noise 0.5;
modes 3 or 5 apart in two numbers).  One step of every method: a law N(m, V) of x_0 given x_t and y, x_0 drawn from it,
x_s ~ q(x_s | x_t, x_0).  By matrices: "full", the update of `matched` with the whole covariance of x_0 given x_t;
"oracle", the exact mean and covariance of x_0 given x_t and y.  From the library: matched, pigdm, propagated.  Printed:
error of the mean in deviations of the posterior, variance over the exact one, share of members in the second mode.
"""

from __future__ import annotations

import argparse
import math
import warnings
from typing import Any, NamedTuple

import torch

from inverse import projections
from retrodict.bases import Pixel
from retrodict.denoisers.mixture import MixtureDenoiser, MixtureLaw
from retrodict.physics import GaussianNoise, Measurement
from retrodict.posterior import posterior_method
from retrodict.processes.scalar import vp
from retrodict.samplers.plan import make_grid

F: dict[str, Any] = {"dtype": torch.float64}
N, ROWS, SIGMA, VARIANCE = 16, 14, 0.5, 0.5
CASES = ((3.0, 0), (3.0, 5), (5.0, 5), (5.0, 6))
"""Distance of the modes, and seed of the data."""


class Case(NamedTuple):
    A: torch.Tensor
    means: torch.Tensor
    y: torch.Tensor
    operator: Any


def case(distance: float, seed: int) -> Case:
    operator = projections(ROWS, (N,), 5)
    A = operator.forward(torch.eye(N, **F)[:, None])[:, 0].T
    means = torch.zeros(2, N, **F)
    means[1, [2, 9]] = distance
    draws = (torch.Generator().manual_seed(k + seed) for k in (100, 200))
    if seed == 0:
        x = 0.5 * means[1:2] + 0.7 * torch.randn(1, N, generator=torch.Generator().manual_seed(2), **F)
        y = Measurement.simulate(operator, GaussianNoise.white(SIGMA), x[None], [0]).y[0, 0]
        return Case(A, means, y, operator)
    x = 0.5 * means[1] + math.sqrt(VARIANCE) * torch.randn(N, generator=next(draws), **F)
    return Case(A, means, A @ x + SIGMA * torch.randn(ROWS, generator=next(draws), **F), operator)


def updated(c: Case, logs: torch.Tensor, means: torch.Tensor, v: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and covariance given y of a mixture with log weights `(B, 2)`, means `(B, 2, N)` and variance v."""
    S = v * c.A @ c.A.T + SIGMA**2 * torch.eye(ROWS, **F)
    K = v * torch.linalg.solve(S, c.A).T
    rest = c.y - means @ c.A.T
    w = (logs - 0.5 * (rest * torch.linalg.solve(S, rest.mT).mT).sum(-1)).softmax(1)
    moved = means + rest @ K.T
    gap = moved[:, 1] - moved[:, 0]
    V = v * (torch.eye(N, **F) - K @ c.A) + (w[:, 0] * w[:, 1])[:, None, None] * gap[:, :, None] * gap[:, None, :]
    return (w[..., None] * moved).sum(1), V


def by_matrices(c: Case, kind: str, steps: int, members: int) -> torch.Tensor:
    """Members `(members, N)` by the laws of "full" or "oracle"."""
    process, g = vp(Pixel((N,))), torch.Generator().manual_seed(0)
    spread = VARIANCE + (c.means - c.means.mean(0)).square().mean(0)
    m = process.moments(make_grid(process, steps, "logsnr", spectrum=spread))
    h, s2 = m.h.flatten(), m.s2.flatten()
    x = torch.randn(members, N, generator=g, **F) * s2[0].sqrt() + h[0] * c.means.mean(0)
    for i in range(steps):
        total = h[i] ** 2 * VARIANCE + s2[i]
        gain, v = h[i] * VARIANCE / total, float(VARIANCE * s2[i] / total)
        rest = x[:, None] - h[i] * c.means
        logs, means = -0.5 * rest.square().sum(-1) / total, c.means + gain * rest
        if kind == "oracle":
            mean, V = updated(c, logs, means, v)
        else:
            w, gap = logs.softmax(1), means[:, 1] - means[:, 0]
            center = (w[..., None] * means).sum(1)
            C = v * torch.eye(N, **F) + (w[:, 0] * w[:, 1])[:, None, None] * gap[:, :, None] * gap[:, None, :]
            S = c.A @ C @ c.A.T + SIGMA**2 * torch.eye(ROWS, **F)
            K = torch.linalg.solve(S, c.A @ C).mT
            mean, V = center + (K @ (c.y - center @ c.A.T)[..., None])[..., 0], C - K @ c.A @ C
        root = torch.linalg.cholesky(0.5 * (V + V.mT) + 1e-12 * torch.eye(N, **F))
        x0 = mean + (root @ torch.randn(members, N, 1, generator=g, **F))[..., 0]
        keep, data, std = process.conditional(*(t.expand(1) for t in _pair(process, steps, spread, i)), 1.0)
        x = keep.flatten() * x + data.flatten() * x0 + std.flatten() * torch.randn(members, N, generator=g, **F)
    return x


def _pair(process: Any, steps: int, spread: torch.Tensor, i: int) -> tuple[torch.Tensor, torch.Tensor]:
    times = make_grid(process, steps, "logsnr", spectrum=spread)
    return times[i], times[i + 1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=2000)
    parser.add_argument("--steps", type=int, help="default: 16, and 10 for propagated, which has two calls a step")
    parser.add_argument("--only", nargs="*", default=["matched", "full", "pigdm", "propagated", "oracle"])
    parser.add_argument("--case", nargs="*", type=int, default=[0, 1, 2, 3])
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    for number in args.case:
        c = case(*CASES[number])
        logs = torch.zeros(1, 2, **F)
        mean, V = updated(c, logs, c.means[None], VARIANCE)
        S = VARIANCE * c.A @ c.A.T + SIGMA**2 * torch.eye(ROWS, **F)
        odds = [float(-0.5 * (c.y - c.A @ mu) @ torch.linalg.solve(S, c.y - c.A @ mu)) for mu in c.means]
        print(f"modes {CASES[number][0]:g} apart, exact share {torch.tensor(odds).softmax(0)[1]:.3f}", flush=True)
        law = MixtureLaw(Pixel((N,)), torch.tensor([0.5, 0.5], **F), c.means, torch.full((2, N), VARIANCE, **F))
        m = Measurement(c.operator, c.y[None, None], GaussianNoise.white(SIGMA))
        for name in args.only:
            if name in ("full", "oracle"):
                x, calls = by_matrices(c, name, args.steps or 16, args.members), args.steps or 16
            else:
                with torch.no_grad():
                    method = posterior_method(name, MixtureDenoiser(vp(Pixel((N,))), law), m)
                    run = method.run(torch.arange(args.members), steps=args.steps, dtype=torch.float64)
                x, calls = run.x.flatten(1), run.calls
            trace, middle = float(V[0].trace()), 0.5 * CASES[number][0]
            figures = float((x.mean(0) - mean[0]).norm()) / trace**0.5, float(x.var(0).sum()) / trace
            share = float((x[:, [2, 9]].mean(1) > middle).double().mean())
            print(f"  {name:11s} {calls:3d} calls  {figures[0]:.3f}  {figures[1]:.3f}  {share:.3f}", flush=True)


if __name__ == "__main__":
    main()
