"""Posterior methods: denoisers and steps that know a measurement, by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from retrodict._check import InputError, choice
from retrodict.denoisers.denoiser import Denoiser
from retrodict.physics.measurement import Measurement
from retrodict.posterior.carried import Carried
from retrodict.posterior.counted import Counted
from retrodict.posterior.enumerated import Enumerated
from retrodict.posterior.gradient import CalibratedPigdm, Dps, Jacobian, Pigdm
from retrodict.posterior.matched import Fuse, Matched
from retrodict.posterior.messages import Propagated
from retrodict.posterior.method import Kind, Method
from retrodict.posterior.particles import Afdps, Tds
from retrodict.posterior.points import FlowChef, RedDiff, Sharp
from retrodict.posterior.projection import Ald, Ddnm, Ddrm, Mcg, Projected
from retrodict.posterior.proximal import Daps, Dds, DiffPir, ExactDaps, PnpDm
from retrodict.posterior.slices import DiffusionMbir

__all__ = ["POSTERIORS", "Posterior", "posterior_method"]

Maker = Callable[..., Method]


@dataclass(frozen=True)
class Posterior:
    """One line of the table: the classes of each style, where the method comes from, and what it needs.

    `kind` "sample" or "point"; `paper`, `calibrated`: the method as published, and with mean and variance right on
    Gaussian data (None: there is none); `needs`: what a denoiser or measurement has to have; `exact`: when it is;
    `together`: members are particles of one run.
    """

    kind: Kind
    paper: type[Method] | None
    calibrated: type[Method] | None
    source: str
    needs: str
    exact: str
    fixed: tuple[tuple[str, Any], ...] = ()
    together: bool = False

    def styles(self) -> tuple[str, ...]:
        """Those there are, the default first."""
        return tuple(s for s in ("calibrated", "paper") if getattr(self, s) is not None)

    def kinds(self) -> tuple[type[Method], ...]:
        """The classes of all styles."""
        return tuple(c for c in (self.calibrated, self.paper) if c is not None)


LAW, WHITE = "a law of the denoiser's error", "a spectral form, white noise, a scalar process"
GRADIENT = "a denoiser that can be differentiated"

POSTERIORS: dict[str, Posterior] = {
    "matched": Posterior("sample", None, Matched, "this library", LAW, "Gaussian data, any steps, any operator"),
    "fuse": Posterior(
        "sample", None, Fuse, "identity I5; arXiv 2606.17048 for white noise",
        "process, operator and noise diagonal in one basis; a denoiser of any observation", "any data, many steps",
    ),
    "propagated": Posterior(
        "sample", None, Propagated, "this library; expectation propagation: Minka 2001", LAW + ", of any observation",
        "Gaussian data, any steps, any operator; mixtures nearly",
    ),
    "carried": Posterior(
        "sample", None, Carried, "this library; expectation propagation: Minka 2001", LAW + ", of any observation",
        "Gaussian data, any steps, any operator; sparse and heavy-tailed data nearly",
    ),
    "counted": Posterior(
        "sample", None, Counted, "this library; Laplace's method: Tierney and Kadane 1986",
        LAW + "; a law of counts, or of independent Gaussian noise",
        "Gaussian data of many counts or Gaussian noise, any steps, any operator; few counts nearly",
    ),
    "enumerated": Posterior(
        "sample", None, Enumerated, "Bayes' rule",
        "a prior that is a list: images, or Gaussians of one width and Gaussian noise", "any operator; its list",
    ),
    "dps": Posterior("sample", Dps, None, "Chung et al. 2023, arXiv 2209.14687", GRADIENT, "never"),
    "pigdm": Posterior(
        "sample", Pigdm, CalibratedPigdm, "Song, Vahdat, Mardani, Kautz 2023", GRADIENT + ", a scalar process (paper)",
        "paper: white data of variance 1, many steps; calibrated: Gaussian data",
    ),
    "tmpd": Posterior(
        "sample", Jacobian, None, "Boys et al. 2023, arXiv 2310.06721", GRADIENT,
        "independent Gaussian pixels, many steps",
        (("form", "diagonal"),),
    ),
    "mmps": Posterior(
        "sample", Jacobian, None, "Rozet et al. 2024, arXiv 2405.13712", GRADIENT, "Gaussian data, many steps",
        (("form", "full"),),
    ),
    "dds": Posterior(
        "sample", Dds, Matched, "Chung, Lee, Ye 2024, arXiv 2303.05754", "nothing (paper); " + LAW,
        "paper: never; calibrated (gamma = r_t^2/sigma^2, x_0 drawn): is 'matched'",
    ),
    "diffpir": Posterior(
        "sample", DiffPir, Matched, "Zhu et al. 2023, arXiv 2305.08995", "h > 0 (paper); " + LAW,
        "paper: never; calibrated (C = that of the denoiser, x_0 drawn): is 'matched'",
    ),
    "mbir": Posterior(
        "sample", DiffusionMbir, None, "Chung et al. 2023, arXiv 2211.10655 (DiffusionMBIR)",
        "a prior of slices, a measurement whose channels are the slices, h > 0", "never",
    ),
    "ddrm": Posterior("sample", Ddrm, None, "Kawar et al. 2022, arXiv 2201.11793", WHITE, "never"),
    "ddnm": Posterior("sample", Ddnm, None, "Wang, Yu, Zhang 2023, arXiv 2212.00490 (DDNM+)", WHITE, "never"),
    "mcg": Posterior(
        "sample", Mcg, None, "Chung et al. 2022, arXiv 2206.00941", GRADIENT + ", a pseudo-inverse", "never"
    ),
    "projection": Posterior(
        "sample", Projected, None, "Song et al. 2022, arXiv 2111.08005", "a pseudo-inverse", "data without noise",
    ),
    "score_ald": Posterior(
        "sample", Ald, None, "Jalal et al. 2021, arXiv 2108.01368", "white noise, a scalar process",
        "many Langevin steps at the last level",
    ),
    "daps": Posterior(
        "sample", Daps, ExactDaps, "Zhang et al. 2025, arXiv 2407.01521", "h > 0 (paper); " + LAW,
        "paper: never; calibrated: Gaussian data, any steps",
    ),
    "pnp_dm": Posterior(
        "sample", PnpDm, None, "Wu et al. 2024, arXiv 2405.18782", LAW + ", a scalar process", "rho to 0, many rounds",
    ),
    "red_diff": Posterior("point", RedDiff, None, "Mardani et al. 2023, arXiv 2305.04391", "nothing", "no sampler"),
    "flowchef": Posterior("point", FlowChef, None, "Patel et al. 2024, arXiv 2412.00100", "nothing", "no sampler"),
    "sharp": Posterior("point", Sharp, None, "Hu et al. 2024, arXiv 2410.02057", "a law of the noise", "no sampler"),
    "tds": Posterior(
        "sample", Tds, None, "Wu, Trippe et al. 2023, arXiv 2306.17775", GRADIENT, "any data, many particles",
        together=True,
    ),
    "afdps": Posterior(
        "sample", Afdps, None, "Chen, Ren, Min, Ying, Izzo 2025, arXiv 2506.03979", "a scalar process",
        "any data, many particles and steps", together=True,
    ),
}  # fmt: skip
"""Posterior methods by name; the contract of `tests/test_posterior.py` is run for every line."""


def posterior_method(
    name: str, denoiser: Denoiser, measurement: Measurement, *, style: str | None = None, **options: Any
) -> Method:
    """The method `name` of `POSTERIORS` in a style ("calibrated" where there is one, else "paper") with its options.

    Raises `InputError` for a name, a style or an option there is not.
    """
    row = POSTERIORS[choice("posterior", name, POSTERIORS)]
    style = row.styles()[0] if style is None else style
    kind = getattr(row, style, None) if style in ("paper", "calibrated") else None
    if kind is None:
        raise InputError(f"posterior {name!r} style", style, " or ".join(repr(s) for s in row.styles()))
    allowed = set(inspect.signature(kind).parameters) - {"denoiser", "measurement"}
    for option in options:
        if option not in allowed:
            raise InputError(f"posterior {name!r}", f"option {option!r}", ", ".join(sorted(allowed)) or "no option")
    return kind(denoiser, measurement, **{**dict(row.fixed), **options})
