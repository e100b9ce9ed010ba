"""Rules on laws of several modes whose posterior is known: variance along the modes, mean, and weights of the modes.

    python benchmarks/modes.py [--calls 2 4 8 16] [--items 8] [--members 1500] [--components 8] [--write]

Four laws on 16 x 16 pixels, measured by the paper's instrument with so much noise that the modes cannot be told apart:
`disc` (a bright or a dark disc), `field` (a random field or its negative, 30 : 70), `images` (one of twelve pictures)
and `scales` (Gaussian data of one of four strengths: coefficients correlated across bands).  The denoiser is exact; the
law of its error holds the variance of each coefficient, as that of a network does, and not what couples them; `full`
draws x_0 from the whole covariance, which no network tells.

For each rule and number of calls of a member, over measurements drawn from the law: the variance of the samples along
the direction in which the posterior is widest, and in all, over the exact one; squared error of their mean over the
posterior variance; and the distance in total variation between their modes and the exact weights.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from retrodict._random import member_seeds
from retrodict.bases import Fourier
from retrodict.denoisers.denoiser import Estimate
from retrodict.denoisers.mixture import MixtureDenoiser, MixtureLaw
from retrodict.processes.fourier import fourier
from retrodict.processes.observation import Cond, Moments
from retrodict.processes.process import Process
from retrodict.samplers.ensemble import SamplingOptions, draw, plan_for
from retrodict.samplers.principal import principal
from tables import replace_block

SIDE = 16
ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "benchmarks" / "results" / "modes.json"
RULES = {
    "matched": ("matched", 0, False),
    "matched2": ("matched2", 0, False),
    "matched2, components": ("matched2", 1, False),
    "sde_dpmpp2m": ("sde_dpmpp2m", 0, False),
    "matched, full covariance": ("matched", 0, True),
}
"""Label: rule, whether components are looked for, and whether the denoiser tells its whole covariance."""


# ---- laws ----------------------------------------------------------------------------------------------------------


def _pictures(kind: str) -> tuple[Tensor, Tensor]:
    """Weights `(M,)` and pictures `(M, SIDE, SIDE)`."""
    generator = torch.Generator().manual_seed({"disc": 0, "field": 1, "images": 2, "scales": 3}[kind])
    y, x = (v.double() for v in torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij"))
    if kind == "disc":
        disc = ((y - 7.5) ** 2 + (x - 7.5) ** 2 < 20).double() - 0.3
        return torch.tensor([0.5, 0.5]).double(), 0.6 * torch.stack([disc, -disc])
    if kind == "field":
        field = 0.4 * torch.randn(SIDE, SIDE, generator=generator, dtype=torch.float64)
        return torch.tensor([0.3, 0.7]).double(), torch.stack([field, -field])
    if kind == "scales":
        return torch.full((4,), 0.25).double(), torch.zeros(4, SIDE, SIDE).double()
    pictures = torch.zeros(12, SIDE, SIDE).double()
    for picture in pictures:
        for _ in range(3):
            a, b, size, value = torch.rand(4, generator=generator, dtype=torch.float64).tolist()
            picture += (value - 0.3) * ((y - SIDE * a) ** 2 + (x - SIDE * b) ** 2 < (2 + 5 * size) ** 2)
    return torch.full((12,), 1 / 12).double(), pictures


def law_of(kind: str, basis: Fourier) -> MixtureLaw:
    """The law on `basis`."""
    weights, pictures = _pictures(kind)
    power = 1 / (1 + (basis.radius() / 0.05) ** 2) ** 1.5
    scale = torch.tensor({"scales": [0.02, 0.1, 0.5, 2.0]}.get(kind, [0.02] * len(weights))).double()
    return MixtureLaw(basis, weights, basis.forward(pictures), scale[:, None, None] * power)


def process_of(law: MixtureLaw, apart: float, basis: Fourier) -> Process:
    """The paper's instrument with so much noise that modes are `apart` deviations of the measurement in the mean."""
    low, high = 1e-4, 1e4
    for _ in range(50):
        level = math.sqrt(low * high)
        m = fourier(basis, noise_weights=(0.1 * level, level, 0.5 * level)).measurement
        assert m is not None
        total = m.h**2 * law.spectra[0] + m.s2
        between = [
            float((basis.energy(m.h * (a - b)) / total * basis.multiplicity()).sum().sqrt())
            for i, a in enumerate(law.means)
            for b in law.means[:i]
        ]
        low, high = (level, high) if sum(between) / len(between) > apart else (low, level)
    return fourier(basis, noise_weights=(0.1 * low, low, 0.5 * low), conditioning="terminal")


# ---- the whole covariance ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Whole:
    """The law of the error of a mixture, with what couples the coefficients."""

    basis: Fourier
    roots: Tensor
    within: Tensor

    @property
    def fields(self) -> int:
        return 2

    def draw(self, z: Tensor) -> Tensor:
        numbers = z[1].flatten(1)[:, : self.roots.shape[1]].reshape(len(z[1]), -1, 1, 1, 1)
        total = (self.roots * numbers).sum(1) + self.within.sqrt() * self.basis.forward(z[0])
        return self.basis.inverse(total)

    def variance(self) -> Tensor:
        raise NotImplementedError


class WholeMixture(MixtureDenoiser):
    """A mixture that tells the whole covariance of its error."""

    def observe(self, u: Tensor, m: Moments, cond: Cond = Cond()) -> Estimate:
        """Mean, and a law with a direction for each mode."""
        weights, laws = self._updated(u, m, cond)
        share = weights.reshape(*weights.shape, 1, 1, 1)
        means = torch.stack([law.mean.expand(u.shape) for law in laws], 1)
        spectra = torch.stack([law.spectrum.expand(u.shape[0], 1, *law.spectrum.shape[-2:]) for law in laws], 1)
        mean = (share * means).sum(1)
        roots = share.sqrt() * (means - mean[:, None])
        return Estimate(self.process.basis.inverse(mean), _Whole(self.process.basis, roots, (share * spectra).sum(1)))  # type: ignore[arg-type]


# ---- figures -------------------------------------------------------------------------------------------------------


def exact(law: MixtureLaw, y: Tensor, m: Moments) -> tuple[Tensor, Tensor, Tensor]:
    """Weights of the modes, mean `(n,)` and covariance `(n, n)` of the posterior, in pixels."""
    basis, n = law.basis, SIDE * SIDE
    weights, laws = law.posterior(y, m)
    units = torch.eye(n, dtype=torch.float64).reshape(n, 1, SIDE, SIDE)
    means = torch.stack([basis.inverse(part.mean).flatten() for part in laws])
    mean = (weights[0][:, None] * means).sum(0)
    total = torch.zeros(n, n).double()
    for weight, part, own in zip(weights[0], laws, means, strict=True):
        total += weight * basis.inverse(part.spectrum * basis.forward(units)).reshape(n, n)
        total += weight * torch.outer(own - mean, own - mean)
    return weights[0], mean, total


def figures(kind: str, label: str, calls: int, given: argparse.Namespace) -> list[list[float]]:
    """Of every measurement: variance along, variance in all, squared error of the mean, total variation, and the share
    of the variance that lies along the direction.
    """
    rule, wanted, whole = RULES[label]
    basis = Fourier((SIDE, SIDE))
    law = law_of(kind, basis)
    process = fourier(basis, noise_weights=(0.01, 0.1, 0.05), conditioning="terminal")
    if kind != "scales":
        process = process_of(law, 2.5 if kind == "images" else 2.0, basis)
    m = process.measurement
    assert m is not None
    denoiser = (WholeMixture if whole else MixtureDenoiser)(process, law)
    components = given.components if wanted else 0
    options = SamplingOptions(rule=rule, steps=calls, components=components)
    plan = plan_for(process, options, law.moments()[1])
    rows = []
    for item in range(given.items):
        generator = torch.Generator().manual_seed(item)
        mode = int(torch.multinomial(law.weights, 1, generator=generator))
        u0 = law.means[mode] + law.spectra[mode].sqrt() * _field(basis, generator)
        y = basis.inverse(m.h * u0 + m.s2.sqrt() * _field(basis, generator)).reshape(1, 1, SIDE, SIDE)
        weights, mean, covariance = exact(law, basis.forward(y), m)
        values, vectors = torch.linalg.eigh(covariance)
        found: tuple[Tensor, ...] = ()
        if components:
            found = principal(denoiser, y, torch.ones(1).double(), torch.tensor([item]), components)
        x = draw(denoiser, plan, y, member_seeds(0, item, given.members), directions=found).x
        error = x.flatten(1) - mean
        total = float(values.sum())
        nearly = Moments(torch.ones_like(m.h), torch.zeros_like(m.h), torch.full_like(m.s2, 1e-12))
        modes = law.posterior(basis.forward(x), nearly)[0].mean(0)
        rows.append(
            [
                float((error @ vectors[:, -1]).var() / values[-1]),
                float(error.var(0).sum() / total),
                float(error.mean(0).square().sum() / total),
                float((modes - weights).abs().sum() / 2),
                float(values[-1] / total),
            ]
        )
    return rows


def _field(basis: Fourier, generator: torch.Generator) -> Tensor:
    return basis.forward(torch.randn(SIDE, SIDE, dtype=torch.float64, generator=generator))


def summary(rows: list[list[float]]) -> dict[str, float]:
    """Means over measurements; the variance along the direction weighed by its share of the posterior's."""
    table = torch.tensor(rows, dtype=torch.float64)
    along = float((table[:, 0] * table[:, 4]).sum() / table[:, 4].sum())
    scatter = float(table[:, 0].std() / math.sqrt(len(table)))
    names = ("total", "mean", "modes", "share")
    return {"along": along, "error": scatter, **dict(zip(names, table.mean(0)[1:].tolist(), strict=True))}


def table(found: dict[str, dict[str, dict[str, float]]]) -> str:
    """The table of the documents."""
    laws = list(found)
    labels = list(found[laws[0]])
    lines = ["| rule, calls of a member | " + " | ".join(laws) + " |", "|---|" + "---|" * len(laws)]
    for label in labels:
        cells = [
            f"{found[k][label]['along']:.2f} / {found[k][label]['total']:.2f} / {found[k][label]['modes']:.3f}"
            for k in laws
        ]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Print a line for each law, rule and number of calls."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", nargs="+", type=int, default=[4, 8, 16])
    parser.add_argument("--laws", nargs="+", default=["disc", "field", "images", "scales"])
    parser.add_argument("--rules", nargs="+", default=list(RULES), choices=list(RULES))
    parser.add_argument("--items", type=int, default=8)
    parser.add_argument("--members", type=int, default=1500)
    parser.add_argument("--components", type=int, default=8)
    parser.add_argument("--write", action="store_true", help="keep the figures and put the table into the documents")
    given = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, dict[str, dict[str, float]]] = {}
    run: Callable[..., list[list[float]]] = figures
    for kind in given.laws:
        found[kind] = {}
        for label in given.rules:
            for calls in given.calls:
                told = summary(run(kind, label, calls, given))
                found[kind][f"{label}, {calls}"] = told
                print(
                    f"{kind:<8}{label:<26}{calls:>3} calls  along {told['along']:.3f} +- {told['error']:.3f}  "
                    f"total {told['total']:.3f}  mean {told['mean']:.4f}  modes {told['modes']:.3f}  "
                    f"share {told['share']:.2f}",
                    flush=True,
                )
    if given.write:
        OUT.write_text(json.dumps({"members": given.members, "items": given.items, "rows": found}, indent=1))
        replace_block(ROOT / "docs" / "concepts-samplers.md", "modes", table(found))


if __name__ == "__main__":
    main()
