"""From a prior and a measurement to an ensemble: mean, deviation, samples, and whether they fit the data."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict._random import member_seeds
from retrodict.denoisers.denoiser import Denoiser
from retrodict.physics.measurement import Measurement
from retrodict.posterior import POSTERIORS, posterior_method
from retrodict.posterior.card import affine_card, dense_posterior, prior_matrix
from retrodict.posterior.check import FAR, check_pair, prior_distance
from retrodict.posterior.counted import Counted
from retrodict.posterior.enumerated import Enumerated
from retrodict.posterior.gradient import CalibratedPigdm
from retrodict.posterior.matched import Fuse, Matched
from retrodict.posterior.messages import Propagated
from retrodict.posterior.method import Drawn, Method
from retrodict.posterior.proximal import ExactDaps
from retrodict.samplers.judge import DENSE_LIMIT, VARIANCE_LIMIT, is_wiener_filter, judge
from retrodict.samplers.plan import make_grid
from retrodict.samplers.rules import make_plan

__all__ = ["Ensemble", "Verdict", "posterior_verdict", "sample_posterior"]


@dataclass(frozen=True)
class Verdict:
    """Whether the spread of a method is that of the posterior, and how that is known."""

    calibrated: bool
    reason: str


Kind = Literal["posterior", "uncalibrated", "point"]


@dataclass(frozen=True)
class Ensemble:
    """What is known of images `(B, C, *N)` from measurements of B items, in the unit of the prior.

    `kind` "posterior": `mean`, `sd` (unbiased over members) and `samples` `(K, B, C, *N)` stand for p(x | y).
    "uncalibrated": samples of a method whose spread is not that of the posterior, or that fit the data of an item far
    worse than a true image would (chi^2 above 3); `sd` only where it was asked for.
    "point": one image, no uncertainty.  `reason` says how that is known.  `misfit` `(K, B)`: chi^2 of every sample per
    real datum; of posterior samples it has the law of the true image, mean 1 and deviation `misfit_sd`.  `warnings`:
    what speaks against the result.  `calls`, `gradients`: of the denoiser, a member.
    """

    mean: Tensor
    sd: Tensor | None
    samples: Tensor
    kind: Kind
    method: str
    style: str
    reason: str
    misfit: Tensor
    misfit_sd: float
    warnings: tuple[str, ...]
    calls: int
    gradients: int
    seeds: list[list[int]]
    seconds: float
    details: dict[str, Any] = field(default_factory=dict)


def sample_posterior(
    denoiser: Denoiser,
    measurement: Measurement,
    method: str = "auto",
    *,
    style: str | None = None,
    samples: int = 16,
    steps: int | None = None,
    seed: int = 0,
    items: list[int] | None = None,
    chunk: int = 8,
    unit: str | None = None,
    uncalibrated: bool = False,
    watch: Callable[[int, int], None] | None = None,
    **options: Any,
) -> Ensemble:
    """Draw `samples` images of p(x | y) for every item of a measurement, with a denoiser as prior.

    `method` is a name of `POSTERIORS`; "auto" takes "enumerated" where the prior is a list of images or of Gaussians of
    one width; else "fuse" where process, operator and noise are diagonal in one basis; else "propagated" where the
    prior is known to be a mixture (`Denoiser.modes`), whose weights "matched" does not find; else "matched".  `style`
    "paper" or "calibrated" (None: calibrated where there is one).  `steps` None: the default of the method; `options`
    are those of the method.  Item b uses the seed stream `items[b]` (default b); a sample depends on (seed, item,
    member) alone.  `unit`: that of the prior's images, compared with the operator's.  `uncalibrated`: a deviation also
    of methods whose spread is not that of the posterior.  `watch(done, total)`.

    Raises `InputError` for a prior of other images, noise that is not known, an operator that is not linear, options
    that a method does not have.  Warns, in `warnings` and by `warnings.warn`, of data outside the range of the prior,
    of a method that fits one Gaussian to a prior of several modes, and of samples that do not fit the data as a true
    image would.
    """
    started = time.perf_counter()
    if samples < 1 or chunk < 1:
        raise InputError("samples", (samples, chunk), "at least one sample, and at least one at a time")
    if items is not None and len(items) != len(measurement):
        raise InputError("items", f"{len(items)} numbers", f"{len(measurement)}, one for every item")
    first = measurement.item(0)
    check_pair(denoiser, first, unit)
    name = _auto(denoiser, first) if method == "auto" else method
    made = posterior_method(name, denoiser, first, style=style, **options)
    checked = posterior_verdict(made, steps, dense=False)
    if made.kind == "point":
        samples = 1
    found, seeds, said = [], [], _moded(made)
    for b in range(len(measurement)):
        part = measurement.item(b)
        said += _outside(denoiser, part, b)
        stream = member_seeds(seed, items[b] if items else b, samples)
        seeds.append(stream.tolist())
        own = made.given(part)
        found.append(_members(own, stream, steps, chunk, watch, b, len(measurement)))
        solver = vars(own).get("conditioner")  # of methods that solve
        said += [f"measurement {b}: {solver.unsolved}"] if solver is not None and solver.unsolved else []
    x = torch.stack([f.x for f in found], 1)
    misfit, width = _misfit(measurement, x)
    _require_sane(name, x, misfit)
    kind: Kind = "point" if made.kind == "point" else "posterior" if checked.calibrated else "uncalibrated"
    said += _unfit(misfit, width, kind)
    for text in said:
        warnings.warn(text, stacklevel=2)
    kind, reason = _stamped(kind, checked.reason, misfit, width)
    sd = x.double().var(0).sqrt().to(x.real) if not x.is_complex() and samples > 1 else None
    if x.is_complex() and samples > 1:
        sd = (0.5 * (x.real.double().var(0) + x.imag.double().var(0))).sqrt().to(x.real)
    if kind == "point" or (kind == "uncalibrated" and not uncalibrated):
        sd = None
    details: dict[str, Any] = {"steps": len(made.times(steps)) - 1, **measurement.about}
    evidence = [f.log_evidence for f in found]
    if evidence[0] is not None:
        details["log_evidence"] = evidence
    mean = _mean(found)
    seconds = time.perf_counter() - started
    calls, gradients = found[0].calls, found[0].gradients
    return Ensemble(
        mean, sd, x, kind, name, made.style, reason, misfit, width, tuple(said), calls, gradients, seeds,
        seconds, details,
    )  # fmt: skip


def _auto(denoiser: Denoiser, measurement: Measurement) -> str:
    """The first that is defined: of a known mixture "enumerated", then "fuse", and of a mixture "propagated"."""
    for name in ("enumerated", "fuse", "propagated") if _several(denoiser) else ("fuse",):
        try:
            posterior_method(name, denoiser, measurement)
        except InputError:
            continue
        return name
    return "matched"


def _several(denoiser: Denoiser) -> bool:
    return denoiser.modes is not None and denoiser.modes > 1


def _one_gaussian(method: Method) -> bool:
    """Whether a method stands a Gaussian for all modes of a prior that is known to have several."""
    return type(method) in (Matched, ExactDaps, CalibratedPigdm, Counted) and _several(method.denoiser)


def _moded(method: Method) -> list[str]:
    """No figure of the result shows that it is wrong: samples of the wrong modes fit the data as well."""
    if isinstance(method, Propagated) and _several(method.denoiser):
        return [
            f"the prior is a mixture of {method.denoiser.modes}, whose weights {_name_of(method)!r} finds nearly, and "
            "not where y leaves one mode of many: compare with twice the steps"
        ]
    if not _one_gaussian(method):
        return []
    return [
        f"the prior is a mixture of {method.denoiser.modes}, and method {_name_of(method)!r} fits one Gaussian to it "
        "at every step: the modes do not get their weights, nor the samples their spread, and their misfit does not "
        "show it: use 'auto', 'enumerated', 'fuse', 'propagated' or 'carried'"
    ]


def _members(
    method: Method,
    seeds: Tensor,
    steps: int | None,
    chunk: int,
    watch: Callable[[int, int], None] | None,
    item: int,
    count: int,
) -> Drawn:
    """All members of an item; particles are drawn together, others `chunk` at a time."""
    width = len(seeds) if POSTERIORS[_name_of(method)].together else chunk
    parts = []
    dtype = torch.float64 if method.measurement.y.dtype in (torch.float64, torch.complex128) else torch.float32
    with torch.no_grad():
        for first in range(0, len(seeds), width):
            parts.append(method.run(seeds[first : first + width], steps=steps, dtype=dtype))
            if watch is not None:
                watch(item * len(seeds) + min(first + width, len(seeds)), count * len(seeds))
    return parts[0]._replace(x=torch.cat([p.x for p in parts]))


def _name_of(method: Method) -> str:
    return next(name for name, row in POSTERIORS.items() if type(method) in row.kinds())


ASTRAY = 1e6
"""Chi^2 per datum beyond which a sample is not a bad one, but the end of a chain that diverged."""


def _require_sane(name: str, x: Tensor, misfit: Tensor) -> None:
    """Raise where a chain diverged: an image of such numbers is nobody's posterior."""
    for b in range(x.shape[1]):
        worst = float(misfit[:, b].max()) if bool(torch.isfinite(misfit[:, b]).all()) else float("nan")
        if bool(torch.isfinite(x[:, b]).all()) and worst <= ASTRAY:
            continue
        found = "samples that are not finite" if worst != worst else f"samples with a chi^2 of {worst:.1e} per datum"
        hint = "Its steps are not stable for this prior, operator and noise: use 'matched', or more steps."
        raise InputError(f"measurement {b}: method {name!r}", found, "a chain that does not diverge", hint)


def _mean(found: list[Drawn]) -> Tensor:
    """Mean over members of every item, `(B, C, *N)`; float64 sums."""
    wide = torch.complex128 if found[0].x.is_complex() else torch.float64
    return torch.stack([f.x.to(wide).mean(0) for f in found]).to(found[0].x)


def _misfit(measurement: Measurement, x: Tensor) -> tuple[Tensor, float]:
    """Chi^2 over its mean `(K, B)` and the deviation it has for the true image."""
    rows, width = [], 0.0
    for b in range(x.shape[1]):
        part = measurement.item(b)
        y = part.y.to(device=x.device)
        found = [
            replace(part, y=y).misfit(member[None].to(y.dtype if y.is_complex() == x.is_complex() else x.dtype))
            for member in x[:, b]
        ]
        rows.append(torch.cat([f.ratio for f in found]))
        width = float((found[0].variance.sqrt() / found[0].mean).max())
    return torch.stack(rows, 1), width


def _outside(denoiser: Denoiser, measurement: Measurement, item: int) -> list[str]:
    distance = prior_distance(denoiser, measurement)
    if distance is None or distance <= FAR:
        return []
    return [
        f"measurement {item}: chi^2 of the data under the prior is {distance:.3g} per datum, where 1 is expected and "
        f"{FAR:g} is the limit: they are outside the range of this prior (unit, scale, offset, or other images)"
    ]


def _stamped(kind: Kind, reason: str, misfit: Tensor, width: float) -> tuple[Kind, str]:
    """Kind and reason of samples that may fit the data far worse than a true image: then they are no posterior of them,
    however right the method.
    """
    worst = float(misfit.mean(0).max())
    if kind != "posterior" or worst <= max(FAR, 1 + 5 * width):
        return kind, reason
    found = f"chi^2 of the samples is {worst:.3g} per datum, where 1 is expected and {FAR:g} is the limit"
    return "uncalibrated", f"{found}: prior, operator or noise is not that of the data, so this is not their posterior"


def _unfit(misfit: Tensor, width: float, kind: str) -> list[str]:
    """Samples that fit the data worse, or better, than a true image does: 5 deviations and 5 %."""
    out = []
    for b, value in enumerate(misfit.mean(0).tolist()):
        if kind == "posterior" and abs(value - 1) > max(0.05, 5 * width):
            word = (
                "worse than a true image would: prior, operator or noise is not that of the data"
                if value > 1
                else ("better than a true image would: they fit noise, or the noise is stated too large")
            )
            out.append(f"measurement {b}: chi^2 of the samples is {value:.3g} per datum: they fit the data {word}")
    return out


# ---- the verdict -----------------------------------------------------------------------------------------------------


def posterior_verdict(method: Method, steps: int | None = None, *, dense: bool = True) -> Verdict:
    """Whether the spread of `method` is that of the posterior.

    Of "fuse" the public gate decides.  Of other calibrated methods: with the Gaussian twin of the denoiser they are
    exact for any linear operator; with `dense` that is checked as matrices on grids of at most `DENSE_LIMIT` pixels, in
    seconds.  Of the denoiser itself one thing is asked: that the law it states for its error is its own.
    """
    if method.kind == "point":
        return Verdict(False, "a point method: it gives one image, and its scatter means nothing")
    if method.style == "paper":
        return Verdict(False, "as published: its mean and spread are not those of the posterior (docs/posterior.md)")
    if isinstance(method, Enumerated):
        return Verdict(True, "exact: every image or Gaussian of the prior has its weight by Bayes' rule")
    if isinstance(method, Fuse):
        grid, count = method.grid, steps or method.steps

        def build(process: Any, spectrum: Tensor | None) -> Any:
            return make_plan("matched", process, make_grid(process, count, grid, spectrum=spectrum), spectrum)

        found = judge(method.fused, build)
        return Verdict(found.passed, found.reason)
    denoiser = method.denoiser
    if _one_gaussian(method) and not isinstance(method, Counted):
        return Verdict(False, f"one Gaussian at every step, and the prior is a mixture of {denoiser.modes}")
    if denoiser.error_law == "none":
        return Verdict(False, "the denoiser does not know the law of its error")
    if denoiser.error_law == "wiener" and not is_wiener_filter(denoiser, method.times(steps)):
        return Verdict(False, "the law of the error is that of the Wiener filter, and the denoiser is not that filter")
    return _dense(method, steps, dense)


def _dense(method: Method, steps: int | None, dense: bool) -> Verdict:
    twin, space = method.denoiser.gaussian(), method.measurement.operator.domain
    if twin is None or (twin.prior() is None and not hasattr(twin, "prior_law")):
        return Verdict(False, "the denoiser knows no spectrum of the data, so its spread cannot be checked")
    if twin.prior() is None:
        return Verdict(True, "exact on Gaussian volumes that are separable, at any number of steps, by construction")
    if isinstance(method, Counted) and not method.gaussian_law:
        said = "the law of the counts enters with slope, curvature and third derivative, at every call anew"
        return Verdict(True, f"{said}; exact for Gaussian data of many counts, nearly for few (docs/posterior.md)")
    if not dense or math.prod(space.shape) > DENSE_LIMIT or space.complex or method.process.basis.device != "cpu":
        return Verdict(True, "exact on Gaussian data at any number of steps and any linear operator, by construction")
    mine = replace(method, denoiser=twin)
    mean, covariance = prior_matrix(mine)
    exact = dense_posterior(method.measurement, mean, covariance)
    got = affine_card(mine, steps)
    values, vectors = torch.linalg.eigh(exact.covariance)
    root = vectors[:, values > 1e-12 * values.max()] / values[values > 1e-12 * values.max()].sqrt()
    ratios = torch.linalg.eigvalsh(root.T @ got.covariance @ root)
    worst = float(ratios[(ratios - 1).abs().argmax()])
    reason = f"on Gaussian data with this operator its variance is {worst:.4f} of the exact one in the worst direction"
    return Verdict(abs(worst - 1) <= VARIANCE_LIMIT, reason)
