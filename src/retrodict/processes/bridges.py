"""Bridges: a reference process that is made to end at the condition image.

A reference x_t = h_r x_0 + k_r c + s_r z, seen through x_1 = c up to a variance 1/gamma, is again affine and Gaussian.
With q(t) = (h_r(1)/h_r(t))^2 s_r^2(t) / (s_r^2(1) + 1/gamma),

    h = h_r (1 - q),   k = k_r + q (h_r/h_r(1)) (1 - k_r(1)),   s^2 = s_r^2 (1 - q),

and Markov, as the reference is.  gamma infinite pins the end: h = s = 0 at t = 1, the state is c, and the first step of
every sampler draws its noise.  Any basis does: a Fourier or wavelet reference gives a Fourier or wavelet bridge.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from retrodict._check import InputError, Recipe, build
from retrodict.bases import Basis
from retrodict.processes.process import Law, Process, assemble
from retrodict.processes.scalar import _scalar, vp
from retrodict.processes.shift import check_positive, check_whole, ir_sde

__all__ = ["bridge", "brownian_bridge", "ddbm_ve", "ddbm_vp", "goub", "i2sb", "unidb"]


def pinned(law: Law, gamma: float = math.inf) -> Law:
    """The law of the bridge of a reference law; see the head of this module."""

    def bridged(t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        (h, k, s2), (h1, k1, v1) = law(t), law(torch.ones_like(t))
        share = (h1 / h) ** 2 * (s2 / (v1 + 1 / gamma))
        return h * (1 - share), k + share * (h / h1) * (1 - k1), s2 * (1 - share)

    return bridged


def _bridge_of(
    reference: Callable[[Basis], Law], basis: Basis, name: str, options: dict[str, Any], gamma: float, pairing: Any
) -> Process:
    return assemble(
        lambda bound: pinned(reference(bound), gamma), basis, name, options, **{"conditioning": "external", **pairing}
    )


def bridge(
    basis: Basis, reference: str | Mapping[str, Any] = "vp", gamma: float | None = None, **pairing: Any
) -> Process:
    """The bridge of any process to the condition image: h = h_r (1 - q), s^2 = s_r^2 (1 - q), q = SNR_r(1)/SNR_r(t).

    k = k_r + q (h_r/h_r(1)) (1 - k_r(1)); h = s = 0 and k = 1 at t = 1 (Zhou et al. 2024, eq. 8, per coefficient).
    `reference`: a name of `PROCESSES`, or a record {"name", "options"}, Markov and with h_r(1) > 0.  `gamma`: a penalty
    on the end, 1/(data units)^2, in place of a pin (UniDB, Zhu et al. 2025): q times g/(1 + g), g = gamma s_r^2(1).
    """
    from retrodict.processes import PROCESSES  # a table of which this function is a line

    where = "process 'bridge' reference"
    recipe = Recipe(reference) if isinstance(reference, str) else Recipe.from_json(reference, where)
    own = build(PROCESSES, recipe, where, basis)
    if not own.markov:
        raise InputError(where, f"{recipe.name!r}, which is not Markov", "a Markov process", "Use vp, ve or ir_sde.")
    end = own._small.moments(torch.ones(1, dtype=torch.float64, device="cpu"))
    if bool((end.h == 0).any()) or bool((end.s2 == 0).any()):
        raise InputError(
            where, f"{recipe.name!r}, with h = 0 or s = 0 at t = 1", "h > 0 and s > 0 at every coefficient"
        )
    if gamma is not None:
        check_positive("bridge", "gamma", gamma)
    options = {"reference": recipe.to_json(), "gamma": gamma}
    return _bridge_of(own.family, basis, "bridge", options, math.inf if gamma is None else gamma, pairing)


def brownian_bridge(basis: Basis, variance: float = 2.0, **pairing: Any) -> Process:
    """Brownian bridge: h = 1 - u, k = u, s^2 = variance u (1 - u), u = t^2, Markov, pinned at the condition image.

    BBDM (Li et al. 2023, eq. 4) with variance 2 and u = 0.001 .. 0.999; a stochastic interpolant of noise sqrt(u (1 -
    u)).  The time t is a label: with u = t^2 the noise is linear in it at the clean end.  `variance`: data units^2.
    """
    check_positive("brownian_bridge", "variance", variance)
    options = {"variance": variance}
    return _bridge_of(
        _scalar(lambda t: (1 + 0 * t, 0 * t, variance * t**2)), basis, "brownian_bridge", options, math.inf, pairing
    )


def i2sb(basis: Basis, beta_max: float = 0.3, steps: int = 1000, **pairing: Any) -> Process:
    """Image-to-image bridge (I2SB): h = 1 - u, k = u, s^2 = S u (1 - u), u = (1/S) int_0^t beta, Markov, pinned.

    sqrt(beta_j) is linear from 0.01 to sqrt(beta_max/1000) over `steps` indices, of which the first half is used and
    mirrored; S is the whole sum, 0.1410 for beta_max 0.3 (Liu et al. 2023, eq. 11 and released code).  A Brownian
    bridge in the time u.
    """
    check_positive("i2sb", "beta_max", beta_max)
    check_whole("i2sb", "steps", steps, 2)
    a = 0.01
    b = (math.sqrt(beta_max / 1000) - a) / (steps - 1)

    def first(n: Tensor) -> Tensor:  # sum_{j < n} (a + b j)^2
        return n * (a**2 + (n - 1) * (a * b + b**2 * (2 * n - 1) / 6))

    whole = 2 * float(first(torch.tensor(steps / 2, dtype=torch.float64, device="cpu")))

    def law(t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        n = steps * t
        return 1 + 0 * t, 0 * t, torch.where(n <= steps / 2, first(n), whole - first(steps - n))

    return _bridge_of(_scalar(law), basis, "i2sb", {"beta_max": beta_max, "steps": steps}, math.inf, pairing)


def ddbm_ve(basis: Basis, sigma_max: float = 80.0, **pairing: Any) -> Process:
    """Bridge of ve (DDBM-VE): h = 1 - u^2, k = u^2, s = sigma_max u sqrt(1 - u^2), u = t^3, of h = 1, s = sigma_max u.

    Zhou et al. 2024, table 1; `sigma_max` in data units.  The time t is a label: u = t^3 gives small noise its share of
    it, as the grids of that paper do.  Markov, pinned.
    """
    check_positive("ddbm_ve", "sigma_max", sigma_max)
    law = _scalar(lambda t: (1 + 0 * t, 0 * t, sigma_max**2 * t**6))
    return _bridge_of(law, basis, "ddbm_ve", {"sigma_max": sigma_max}, math.inf, pairing)


def ddbm_vp(basis: Basis, beta_min: float = 0.1, beta_max: float = 2.1, **pairing: Any) -> Process:
    """Bridge of vp (DDBM-VP): h = h_r (1 - q), k = (h_r/h_r(1)) q, s^2 = (1 - h_r^2)(1 - q), q as in `bridge`.

    Zhou et al. 2024, table 1, with beta_d = 2 and beta_min = 0.1.  Markov, pinned; k is not 1 - h.
    """
    check_positive("ddbm_vp", "beta_max", beta_max)
    options = {"beta_min": beta_min, "beta_max": beta_max}
    return _bridge_of(vp(basis, beta_min, beta_max).family, basis, "ddbm_vp", options, math.inf, pairing)


def goub(
    basis: Basis,
    level: float = 30 / 255,
    delta: float = 0.005,
    steps: int = 100,
    schedule: str = "cosine",
    **pairing: Any,
) -> Process:
    """Bridge of ir_sde (GOUB): h = e^-T v(t, 1)/v(0, 1), k = 1 - h, s^2 = v(0, t) v(t, 1)/v(0, 1), Markov, pinned.

    v(a, b) = level^2 (1 - e^(-2 (T_b - T_a))), the variance that the reference gains from a to b (Yue et al. 2024,
    proposition 3.2); options as those of `ir_sde`.
    """
    reference = ir_sde(basis, level, delta, steps, schedule)
    options = {"level": level, "delta": delta, "steps": steps, "schedule": schedule}
    return _bridge_of(reference.family, basis, "goub", options, math.inf, pairing)


def unidb(
    basis: Basis,
    level: float = 30 / 255,
    delta: float = 0.005,
    gamma: float = 1e7,
    steps: int = 100,
    schedule: str = "cosine",
    **pairing: Any,
) -> Process:
    """UniDB: `goub` with a penalty gamma on the end instead of a pin, h = e^-T (1 + gamma v(t, 1))/(1 + gamma v(0, 1)).

    k = 1 - h, s^2 = v(0, t) (1 + gamma v(t, 1))/(1 + gamma v(0, 1)) (Zhu et al. 2025; the released code has this h with
    the variance of gamma infinite, which is no process).  s(1) > 0; gamma in 1/(data units)^2.  Markov.
    """
    check_positive("unidb", "gamma", gamma)
    reference = ir_sde(basis, level, delta, steps, schedule)
    options = {"level": level, "delta": delta, "gamma": gamma, "steps": steps, "schedule": schedule}
    return _bridge_of(reference.family, basis, "unidb", options, gamma, pairing)
