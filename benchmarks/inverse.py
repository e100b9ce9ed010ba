"""Posterior methods at their defaults, against exact posteriors of Gaussian data and of a mixture.

    python benchmarks/inverse.py --cards [--members 256] [--only matched dps ...]
    python benchmarks/inverse.py --cards --docs

P  64 independent pixels N(0.5, 0.04), half of them seen with noise 0.1, as in the measurements of other libraries.
B  power-law data on 8 x 8 pixels of 1 mm, a Gaussian blur of 2 mm and white noise: diagonal in the Fourier basis.
C  the same data, 26 random numbers of the image with white noise: diagonal in no basis.
M  16 numbers with two modes, at 0 and 3 in two of them, 14 random projections with noise 0.5 (Qiu et al. 2026).

Every denoiser is the exact one of its data, so what is printed is the error of the method.  `gain`: regression of the
mean over members, less the prior mean, on the exact one.  `variance`: trace of the covariance of members over the exact
one; in P of the seen and of the unseen pixels.  M: error of the mean in deviations of the posterior, variance, and the
share of members in the mode whose exact weight is printed.  All figures are of one measurement and `members` members;
standard errors are in the JSON (benchmarks/results/inverse-cards.json).  Samplers of deepinv and azula are rows of the
same table where these are installed (`inverse_peers.py`).
"""

from __future__ import annotations

import argparse
import json
import math
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from inverse_peers import LIBRARIES, version
from retrodict._check import InputError
from retrodict.bases import Fourier, Pixel
from retrodict.denoisers.denoiser import Denoiser, GaussianDenoiser
from retrodict.denoisers.mixture import MixtureDenoiser, MixtureLaw
from retrodict.physics import Blur, GaussianNoise, Mask, Measurement, Space
from retrodict.physics.adapters import MatrixFree
from retrodict.posterior import POSTERIORS, posterior_method
from retrodict.posterior.card import dense_posterior, prior_matrix
from retrodict.processes.scalar import vp
from tables import replace_block

OUT = Path(__file__).resolve().parent / "results" / "inverse-cards.json"
F: dict[str, Any] = {"dtype": torch.float64}
VARIANTS: dict[str, tuple[str, str, dict[str, Any]]] = {"dps weighted": ("dps", "paper", {"form": "weighted"})}
"""Further rows: name of the method, style and options."""
COSTLY = {("daps paper", "C"): "not run: 400 solves at noise 0.007, each of thousands of rounds in double precision"}
"""Rows and cards that take more time than all others together, and why."""


@dataclass
class Card:
    """A test: denoiser, measurement, exact mean `(n,)` and covariance `(n, n)`, prior mean `(n,)`, seen pixels."""

    name: str
    denoiser: Denoiser
    measurement: Measurement
    mean: torch.Tensor
    covariance: torch.Tensor
    prior: torch.Tensor
    seen: torch.Tensor | None = None
    mode: float | None = None


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gaussian_card(name: str, denoiser: GaussianDenoiser, operator: Any, sigma: float, seen: Any = None) -> Card:
    prior, basis = denoiser.prior(), denoiser.process.basis
    z = torch.randn(1, 1, *basis.size, generator=generator(1), **F)
    x = basis.inverse(prior[0] + prior[1].sqrt() * basis.forward(z))
    m = Measurement.simulate(operator, GaussianNoise.white(sigma), x, [0])
    mean, covariance = prior_matrix(posterior_method("matched", denoiser, m))
    exact = dense_posterior(m, mean, covariance)
    return Card(name, denoiser, m, exact.mean, exact.covariance, mean, seen)


def projections(rows: int, size: tuple[int, ...], seed: int) -> MatrixFree:
    n = math.prod(size)
    A = torch.randn(rows, n, generator=generator(seed), **F) / math.sqrt(n)
    return MatrixFree(
        lambda x: (x.flatten(1) @ A.T.to(x)).unsqueeze(1),
        lambda y: (y[:, 0] @ A.to(y)).reshape(-1, 1, *size),
        Space((1, *size)),
        Space((1, rows)),
    )


def cards() -> list[Card]:
    pixels, fourier = Pixel((8, 8)), Fourier((8, 8), (1.0, 1.0))
    flat = torch.full((8, 8), 0.04, **F)
    seen = torch.zeros(8, 8, dtype=torch.bool)
    seen[:, ::2] = True
    p = GaussianDenoiser(vp(pixels), torch.full((8, 8), 0.5, **F), flat)
    L = 1 / (0.02 + fourier.radius() ** 2) / 30
    power = GaussianDenoiser(vp(fourier), torch.zeros_like(L), L)
    blur = Blur.gaussian((8, 8), fwhm=2.0, spacing=(1.0, 1.0))
    return [
        gaussian_card("P", p, Mask(seen), 0.1, seen.flatten()),
        gaussian_card("B", power, blur, 0.2),
        gaussian_card("C", power, projections(26, (8, 8), 3), 0.2),
        mixture_card(),
    ]


def mixture_card() -> Card:
    n, rows, sigma = 16, 14, 0.5
    basis, operator = Pixel((n,)), projections(rows, (n,), 5)
    means = torch.zeros(2, n, **F)
    means[1, [2, 9]] = 3.0
    law = MixtureLaw(basis, torch.tensor([0.5, 0.5], **F), means, torch.full((2, n), 0.5, **F))
    x = means[1:2] * 0.5 + 0.7 * torch.randn(1, n, generator=generator(2), **F)
    m = Measurement.simulate(operator, GaussianNoise.white(sigma), x[None], [0])
    parts = [dense_posterior(m, mean, 0.5 * torch.eye(n, **F)) for mean in means]
    units = torch.eye(n, **F)[:, None]
    A = operator.forward(units)[:, 0].T
    total = torch.distributions.MultivariateNormal(
        torch.zeros(rows, **F), 0.5 * A @ A.T + sigma**2 * torch.eye(rows, **F)
    )
    logs = torch.stack([total.log_prob(m.y[0, 0] - A @ mean) for mean in means])
    w = logs.softmax(0)
    mean = torch.stack([w[k] * parts[k].mean for k in range(2)]).sum(0)
    gaps = [part.mean - mean for part in parts]
    covariance = torch.stack([w[k] * (parts[k].covariance + torch.outer(gaps[k], gaps[k])) for k in range(2)]).sum(0)
    return Card("M", MixtureDenoiser(vp(basis), law), m, mean, covariance, law.moments()[0], mode=float(w[1]))


def measured(card: Card, name: str, style: str, members: int, **options: Any) -> dict[str, Any]:
    """Figures of a method on a card."""
    try:
        method = posterior_method(name, card.denoiser, card.measurement, style=style, **options)
        started = time.perf_counter()
        with torch.no_grad():
            run = method.run(torch.arange(members), dtype=torch.float64)
    except InputError as error:
        return {"refused": str(error)}
    found = {"calls": run.calls, "gradients": run.gradients, "seconds": round(time.perf_counter() - started, 2)}
    return judged(card, run.x.flatten(1), found)


def judged(card: Card, x: torch.Tensor, found: dict[str, Any]) -> dict[str, Any]:
    """`found` with the figures of members `(K, n)`."""
    members = len(x)
    if not bool(torch.isfinite(x.square().sum())):
        return {**found, "refused": "it diverged"}
    mean, variance, exact = x.mean(0), x.var(0), card.covariance.diagonal()
    shift = card.mean - card.prior
    found["gain"] = float((mean - card.prior) @ shift / (shift @ shift))
    found["gain_error"] = float((shift @ card.covariance @ shift).sqrt() / (shift @ shift) / math.sqrt(members))
    parts = {"variance": torch.ones_like(exact, dtype=torch.bool)}
    if card.seen is not None:
        parts = {"variance": card.seen, "unseen": ~card.seen}
    for key, part in parts.items():
        found[key] = float(variance[part].sum() / exact[part].sum())
    spread = (card.covariance**2).sum().sqrt() / exact.sum()
    found["variance_error"] = float(math.sqrt(2 / members) * spread)
    found["bias"] = float(((mean - card.mean).square().sum() / exact.sum()).sqrt())
    if card.mode is not None:
        found["mode"] = float((x[:, [2, 9]].mean(1) > 1.5).double().mean())
        found["exact_mode"] = card.mode
    return found


def shown(found: dict[str, Any], card: Card) -> str:
    if "refused" in found:
        return "-"
    if card.mode is not None:
        return f"{found['bias']:.2f} {found['variance']:.2f} {found['mode']:.2f}"
    unseen = f" {found['unseen']:.2f}" if "unseen" in found else ""
    return f"{found['gain']:.2f} {found['variance']:.3f}{unseen}"


def jobs(only: list[str] | None) -> list[tuple[str, str, str, dict[str, Any]]]:
    """Label, method, style and options of every row that was asked for."""
    rows = [(f"{n} {style}", n, style, {}) for n, row in POSTERIORS.items() for style in row.styles()]
    rows += [(label, *given) for label, given in VARIANTS.items()]
    return [row for row in rows if not only or row[1] in only or row[0] in only]


def run_cards(members: int, only: list[str] | None, out: Path) -> None:
    console, every = Console(width=120), cards()
    table = Table(title=f"Posterior methods at their defaults, {members} members: 1 is exact")
    heads = {
        "P": "P gain var unseen",
        "B": "B gain var",
        "C": "C gain var",
        "M": f"M bias var mode ({every[3].mode:.2f})",
    }
    for head in ("method", "style", "calls", *heads.values(), "s"):
        table.add_column(head, justify="left" if head in ("method", "style") else "right")
    record = {}
    if only and out.exists():
        record = json.loads(out.read_text(encoding="utf-8"))
    for label, name, style, options in jobs(only):
        count = min(members, 2) if POSTERIORS[name].kind == "point" else members
        found: dict[str, Any] = {}
        for card in every:  # kept as soon as it is there
            costly = COSTLY.get((label, card.name))
            found[card.name] = {"refused": costly} if costly else measured(card, name, style, count, **options)
            record[label] = {"members": count, **found}
            out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        calls = next((f["calls"] for f in found.values() if "calls" in f), "-")
        seconds = sum(f.get("seconds", 0.0) for f in found.values())
        cells = [shown(found[card.name], card) for card in every]
        kind = "point" if POSTERIORS[name].kind == "point" else style
        table.add_row(name, kind, str(calls), *cells, f"{seconds:.0f}")
        console.print(f"{label}: " + " | ".join(cells) + f" | {seconds:.0f} s", highlight=False)
    for library in LIBRARIES:
        if not only or library in only:
            run_peer(library, members, every, record, table, console)
            out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    console.print(table)


def run_peer(
    library: str, members: int, every: list[Card], record: dict[str, Any], table: Table, console: Console
) -> None:
    """Rows of another library, or one that says that it is absent."""
    number = version(library)
    if number is None:
        table.add_row(library, "absent", *[""] * 6)
        return
    every_job = {card.name: {n: (steps, job) for n, steps, job in LIBRARIES[library](card, members)} for card in every}
    for name in every_job["P"]:
        row: dict[str, Any] = {"members": members, "version": number}
        for card in every:
            steps, job = every_job[card.name][name]
            started = time.perf_counter()
            try:
                x = job()
                seconds = round(time.perf_counter() - started, 2)
                row[card.name] = judged(card, x.detach(), {"calls": steps, "seconds": seconds})
            except Exception as error:  # whatever a library cannot do is a finding of this table
                row[card.name] = {"refused": f"{type(error).__name__}: {error}"[:200]}
        record[f"{library} {name}"] = row
        cells = [shown(row[card.name], card) for card in every]
        spent = f"{sum(row[card.name].get('seconds', 0.0) for card in every):.0f}"
        table.add_row(name, library, str(every_job["P"][name][0]), *cells, spent)
        console.print(f"{library} {name}: " + " | ".join(cells) + f" | {spent} s", highlight=False)


def written(record: dict[str, Any]) -> str:
    """The table of the documents: calibrated methods, published ones, those of other libraries, point methods."""
    lines = ["| method | style | calls | members | P | B | C | M |", "|---|---|---:|---:|---|---|---|---|"]
    ranked = sorted(record.items(), key=lambda item: _rank(item[0]))  # stable: otherwise as they were measured
    for label, row in ranked:
        first, _, rest = label.partition(" ")
        peer, point = first in LIBRARIES, first in POSTERIORS and POSTERIORS[first].kind == "point"
        name = f"{first} {row['version']}: {rest}" if peer else f"`{first}`"
        style = first if peer else "one image" if point else "paper, counts" if rest == "weighted" else rest
        calls = next((str(row[c]["calls"]) for c in "PBCM" if "calls" in row[c]), "-")
        cells = [_written(row[c], c, point) for c in "PBCM"]
        lines.append("| " + " | ".join([name, style, calls, str(row["members"]), *cells]) + " |")
    return "\n".join(lines)


def _rank(label: str) -> int:
    first, _, rest = label.partition(" ")
    if first in LIBRARIES:
        return 2
    return 3 if POSTERIORS[first].kind == "point" else int(rest != "calibrated")


def _written(found: dict[str, Any], card: str, point: bool) -> str:
    if "refused" in found:
        return "diverges" if found["refused"] == "it diverged" else "-"
    keys = ["bias", "variance", "mode"] if card == "M" else ["gain", "variance", "unseen"]
    return " / ".join(f"{found[key]:.2f}" for key in keys[: 1 if point else 3] if key in found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--cards", action="store_true", required=True, help="Gaussian and mixture cards of every method"
    )
    parser.add_argument("--members", type=int, default=256)
    parser.add_argument("--only", nargs="*", choices=sorted([*POSTERIORS, *LIBRARIES, *(row[0] for row in jobs(None))]),
                        metavar="NAME", help="methods, or one style of them as in the JSON: 'daps paper'")  # fmt: skip
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--docs", action="store_true", help="write the table of what is in the JSON, and run nothing")
    args = parser.parse_args()
    if args.docs:
        record = json.loads(args.out.read_text(encoding="utf-8"))
        replace_block(Path(__file__).resolve().parents[1] / "docs" / "posterior.md", "inverse-cards", written(record))
        return
    warnings.simplefilter("ignore")
    run_cards(args.members, args.only, args.out)


if __name__ == "__main__":
    main()
