"""deepinv on the cases of `inverse_real.py`, with the same prior: rows of its table.

`python benchmarks/inverse_real.py --only deepinv`, where it is installed (`constraints-peers.txt`).  deepinv expects
images in [0, 1], operators of norm at most 1 and white noise: it is given x' = (HU + 1000)/2000 and, with W the
weights of the local Gaussian of the counts, y' = W^(1/2) (y - b)/|W^(1/2) A|, whose noise is white.  The denoiser is
the shipped network, told the white noise that deepinv states.  Settings are deepinv's defaults but for the steps.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from retrodict.denoisers.denoiser import Observer
from retrodict.models.model import open_model
from retrodict.models.prior import prior_of
from retrodict.physics.algebra import Affine
from retrodict.physics.measurement import Measurement
from retrodict.processes.observation import Moments

sys.path.insert(0, str(Path(__file__).resolve().parent / "peers"))
F: dict[str, Any] = {"dtype": torch.float64}
LOW, WIDE = -1000.0, 2000.0
"""HU at 0, and from 0 to 1, of the images that deepinv sees."""

SEEN = (2.0, 1500.0)
"""White noise in HU that the network is told at least and at most."""


class Scene:
    """One measurement in the units of deepinv."""

    def __init__(self, part: Measurement, size: tuple[int, ...], shown: Callable[[torch.Tensor], torch.Tensor]) -> None:
        low, high = (float(shown(torch.full((1, 1, 1, 1), v))) for v in (0.0, 1.0))
        self.size, self.calls = size, 0
        affine = Affine.rescaled(part.operator, WIDE / (high - low), (LOW - low) / (high - low), "1")
        data, covariance = part.gaussian()
        self.weight = torch.as_tensor(covariance.variance, **F).rsqrt()
        self.linear, offset = affine.part, affine.offset
        y = data.double() if offset is None else data.double() - offset.double()
        self.norm = 1.0
        self.norm = math.sqrt(self._largest())
        self.y, self.sigma = self.weight * y / self.norm, 1 / self.norm
        model = open_model("ct")
        self.prior = prior_of(model, size, part.operator.domain.spacing)
        assert isinstance(self.prior, Observer)
        self.scale, self.offset = model.intensity.scale, model.intensity.offset

    def _largest(self) -> float:
        x = torch.randn(1, 1, *self.size, generator=torch.Generator().manual_seed(0), **F)
        for _ in range(60):
            x = self.adjoint(self.A(x))
            size = float(x.norm())
            x = x / size
        return size

    def A(self, x: torch.Tensor) -> torch.Tensor:
        return (self.weight * self.linear.forward(x.double().reshape(-1, 1, *self.size)) / self.norm).to(x)

    def adjoint(self, y: torch.Tensor) -> torch.Tensor:
        return self.linear.adjoint(self.weight * y.double() / self.norm).to(y)

    def denoise(self, x: torch.Tensor, a: Any, s: Any) -> torch.Tensor:
        """E[x'_0 | a x'_0 + s z = x] by the network, in its units and its range of noise."""
        self.calls += 1
        a, s = (torch.as_tensor(v, **F).reshape(-1, 1, 1, 1) for v in (a, s))
        factor, shift = WIDE / self.scale, (LOW - self.offset) / self.scale  # u = factor x' + shift
        basis = self.prior.process.basis
        noise = (s * WIDE / a).clamp(*SEEN) * a / self.scale
        ones = torch.ones(1, 1, *[1] * len(basis.shape), **F).expand(len(noise), 1, *basis.shape)
        said = self.prior.observe(
            basis.forward(factor * x.double() + a * shift), Moments(a * ones, 0 * ones, noise**2 * ones)
        )
        return ((said.mean - shift) / factor).to(x)

    def hu(self, x: torch.Tensor) -> torch.Tensor:
        """Samples `(K, H, W)` in HU."""
        return LOW + WIDE * x.detach().double()[:, 0]


def jobs(scene: Scene, members: int) -> Iterator[tuple[str, bool, Callable[[], torch.Tensor]]]:
    """Name, whether it samples, and a run of `members` at once."""
    from run import deepinv_denoiser, generator, import_deepinv

    deepinv = import_deepinv()
    sampling = deepinv.sampling
    noise = deepinv.physics.GaussianNoise(scene.sigma)
    physics = deepinv.physics.LinearPhysics(
        A=lambda x, **_: scene.A(x), A_adjoint=lambda y, **_: scene.adjoint(y), noise_model=noise
    )
    denoiser = deepinv_denoiser(deepinv, scene.denoise)
    y = scene.y.float().expand(members, *scene.y.shape[1:]).clone()
    fidelity = deepinv.optim.data_fidelity.L2()

    def diffpir(steps: int) -> torch.Tensor:
        torch.manual_seed(0)
        return sampling.DiffPIR(denoiser, fidelity, sigma=scene.sigma, max_iter=steps)(y, physics, seed=1)

    def dps(steps: int) -> torch.Tensor:
        torch.manual_seed(0)
        return sampling.DPS(denoiser, num_steps=steps, rng=generator())(y, physics, seed=1)

    def dpir() -> torch.Tensor:
        found = deepinv.optim.DPIR(sigma=scene.sigma, denoiser=denoiser, device="cpu")
        return found(y[:1], physics)

    def matching(steps: int) -> torch.Tensor:
        torch.manual_seed(0)
        model = sampling.PosteriorDiffusion(
            data_fidelity=sampling.MomentMatchingDataFidelity(denoiser=denoiser), denoiser=denoiser,
            sde=sampling.VariancePreservingDiffusion(alpha=1.0),
            solver=sampling.EulerSolver(timesteps=torch.linspace(1, 0.001, steps + 1, **F), rng=generator()),
        )  # fmt: skip
        return model(y, physics, x_init=(members, 1, *scene.size), seed=1)

    yield "DPIR, 8 steps", False, dpir
    for steps in (20, 100):
        yield f"DiffPIR, {steps} steps", True, lambda steps=steps: diffpir(steps)
    yield "DPS, 100 steps", True, lambda: dps(100)
    yield "moment matching, 50 steps", True, lambda: matching(50)
