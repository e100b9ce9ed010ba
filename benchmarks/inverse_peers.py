"""deepinv and azula on the cards of `inverse.py`, with the same exact denoisers: rows of its table.

`python benchmarks/inverse.py --cards --only deepinv azula`, where they are installed (`constraints-peers.txt`);
elsewhere their rows say that they are absent.  They expect images in a range (deepinv [0, 1], azula about [-1, 1]) and
operators of norm at most 1, so they are given x' = center + scale x and y' = (scale y + A center)/|A| with the same
signal to noise; results are scaled back.  Settings are the defaults of each library; the number of steps is printed.
Their denoiser is D(x', alpha, sigma), of this package's exact one by `observe`.
"""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from retrodict.physics import Mask
from retrodict.processes.observation import Moments

sys.path.insert(0, str(Path(__file__).resolve().parent / "peers"))
F: dict[str, Any] = {"dtype": torch.float64}
SPREAD = {"deepinv": (0.5, 0.15), "azula": (0.0, 0.3)}
"""Middle and deviation of the data in the range of each library."""

Job = tuple[str, int, Callable[[], torch.Tensor]]


class Scaled:
    """A card in the units of a library; images are `(B, 1, *N)`."""

    def __init__(self, card: Any, library: str) -> None:
        self.card, self.basis = card, card.denoiser.process.basis
        mean, variance = card.denoiser.prior()
        pixel = self.basis.inverse(mean[None, None].to(self.basis.forward(torch.zeros(1, 1, *self.basis.size, **F))))
        weight = self.basis.multiplicity()
        sd = float((variance * weight).sum() / weight.sum()) ** 0.5
        center, wanted = SPREAD[library]
        self.scale = wanted / sd
        self.shift = center - self.scale * float(pixel.mean())
        self.operator = card.measurement.operator
        unit = [self.operator.forward(x[None]) for x in torch.eye(self.count, **F).reshape(-1, 1, *self.basis.size)]
        self.matrix = torch.cat([u.flatten(1) for u in unit]).T
        self.norm = float(torch.linalg.matrix_norm(self.matrix, 2))
        constant = self.operator.forward(torch.full((1, 1, *self.basis.size), self.shift, **F))
        self.y = (self.scale * card.measurement.y + constant) / self.norm
        sigma = float(torch.as_tensor(card.measurement.gaussian()[1].variance).flatten()[0]) ** 0.5
        self.sigma = self.scale * sigma / self.norm

    @property
    def count(self) -> int:
        """Pixels."""
        return int(torch.tensor(self.basis.size).prod())

    def A(self, x: torch.Tensor) -> torch.Tensor:
        return (self.operator.forward(x.double()) / self.norm).to(x)

    def adjoint(self, y: torch.Tensor) -> torch.Tensor:
        return (self.operator.adjoint(y.double()) / self.norm).to(y)

    def denoise(self, x: torch.Tensor, a: Any, s: Any) -> torch.Tensor:
        """E[x'_0 | a x'_0 + s z = x]."""
        a, s = (torch.as_tensor(v, **F).reshape(-1, *[1] * (x.ndim - 1)) for v in (a, s))
        u = self.basis.forward((x.double() - a * self.shift) / self.scale)
        ones = torch.ones(1, 1, *self.basis.shape, **F)
        clean = self.card.denoiser.observe(u, Moments(a * ones, 0 * ones, (s / self.scale) ** 2 * ones)).mean
        return (self.scale * clean + self.shift).to(x)

    def back(self, x: torch.Tensor) -> torch.Tensor:
        """Pixels in a row, in the units of the card."""
        return (x.double().flatten(1) - self.shift) / self.scale


def azula_jobs(card: Any, members: int) -> Iterator[Job]:
    """azula's posterior denoisers and DPS, 64 steps each."""
    from azula import sample
    from azula.guidance.diffpir import DiffPIRDenoiser
    from azula.guidance.dps import DPSSampler
    from azula.guidance.mmps import MMPSDenoiser
    from azula.guidance.tmpd import TMPDenoiser
    from azula.linalg.covariance import IsotropicCovariance

    from run import azula_denoiser

    scene = Scaled(card, "azula")
    size, n = scene.basis.size, scene.count

    def operator(x: torch.Tensor) -> torch.Tensor:
        return scene.A(x.reshape(-1, 1, *size)).flatten(1)

    exact = azula_denoiser(lambda x, a, s: scene.denoise(x.reshape(-1, 1, *size), a, s).reshape(x.shape))
    y, var = scene.y.reshape(1, -1).expand(members, -1), torch.tensor(scene.sigma**2, **F)
    ddpm = sample.DDPMSampler
    makers: dict[str, Callable[[int], Any]] = {
        "MMPS": lambda k: ddpm(MMPSDenoiser(exact, y, operator, IsotropicCovariance(var)), steps=k, silent=True),
        "TMPD": lambda k: ddpm(TMPDenoiser(exact, y, operator, var), steps=k, silent=True),
        "DiffPIR": lambda k: ddpm(DiffPIRDenoiser(exact, y, operator, var), steps=k, silent=True),
        "DPS": lambda k: DPSSampler(exact, y, operator, steps=k, silent=True),
    }

    def run(make: Callable[[int], Any], steps: int) -> torch.Tensor:
        torch.manual_seed(0)
        sampler = make(steps)
        sampler.dtype = torch.float64
        return scene.back(sampler(torch.randn(members, n, **F)))

    for name, make in makers.items():
        yield name, 64, lambda make=make: run(make, 64)


def deepinv_jobs(card: Any, members: int) -> Iterator[Job]:
    """deepinv's samplers; images of one axis are given a second one."""
    from run import deepinv_denoiser, generator, import_deepinv

    deepinv = import_deepinv()
    sampling, scene = deepinv.sampling, Scaled(card, "deepinv")
    size = scene.basis.size
    plane = size if len(size) == 2 else (4, 4)

    def inside(x: torch.Tensor) -> torch.Tensor:
        return x.reshape(-1, 1, *size)

    noise = deepinv.physics.GaussianNoise(scene.sigma)
    physics = deepinv.physics.LinearPhysics(
        A=lambda x, **_: scene.A(inside(x)),
        A_adjoint=lambda y, **_: scene.adjoint(y).reshape(-1, 1, *plane),
        noise_model=noise,
    )
    denoiser = deepinv_denoiser(deepinv, lambda x, a, s: scene.denoise(inside(x), a, s).reshape(x.shape))
    y = scene.y.float().expand(members, *scene.y.shape[1:]).clone()

    def diffusion(fidelity: Any, last: float, solver: Any) -> Callable[[int], Any]:
        def make(n: int) -> Any:
            times = torch.linspace(1, last, n + 1, **F)
            return sampling.PosteriorDiffusion(
                data_fidelity=fidelity, denoiser=denoiser, sde=sampling.VariancePreservingDiffusion(alpha=1.0),
                solver=solver(timesteps=times, rng=generator()),
            )  # fmt: skip

        return make

    matching = sampling.MomentMatchingDataFidelity(denoiser=denoiser)
    l2 = deepinv.optim.data_fidelity.L2()
    makers: dict[str, tuple[int, Callable[[int], Any]]] = {
        "moment matching": (200, diffusion(matching, 0.001, sampling.EulerSolver)),
        "PiGDM": (200, diffusion(sampling.PiGDMDataFidelity(denoiser=denoiser), 0.001, sampling.EulerSolver)),
        "ALD": (200, diffusion(sampling.ALDDataFidelity(), 0.001, sampling.EulerSolver)),
        "DPS": (1000, lambda n: sampling.DPS(denoiser, num_steps=n, rng=generator())),
        "DiffPIR": (100, lambda n: sampling.DiffPIR(denoiser, l2, sigma=scene.sigma, max_iter=n)),
        "DDRM": (100, lambda n: sampling.DDRM(denoiser, sigmas=torch.linspace(1, 0, n).tolist())),
    }

    def run(name: str, make: Callable[[int], Any], steps: int) -> torch.Tensor:
        torch.manual_seed(0)
        model, used = make(steps), physics
        if name == "DDRM":
            if not isinstance(scene.operator, Mask):
                raise NotImplementedError("DDRM needs a singular value decomposition: only the mask has one here")
            seen = scene.card.seen.reshape(1, 1, *plane).float()
            used = deepinv.physics.Inpainting((1, *plane), mask=seen, noise_model=noise)
        if isinstance(model, sampling.PosteriorDiffusion):
            return scene.back(model(y, used, x_init=(members, 1, *plane), seed=1))
        return scene.back(model(y, used, seed=1))

    for name, (steps, make) in makers.items():
        yield name, steps, lambda name=name, make=make, steps=steps: run(name, make, steps)


LIBRARIES = {"deepinv": deepinv_jobs, "azula": azula_jobs}


def version(library: str) -> str | None:
    """That which is installed, or None."""
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None
