"""The affine-Gaussian forward process, diagonal in a basis: the mathematics everything else is written against.

Per coefficient, with z white, x_0 the clean image and c a condition image,

    B x_t = h(t) B x_0 + k(t) B c + s(t) z .

All coefficient tables are float64 and broadcast to `(B, 1, *K)`; times are float64 `(B,)` in [0, 1], 0 = clean.
Per coefficient the process is a variance-exploding one with its own clock r = s^2 / h^2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from retrodict._check import InputError, Recipe
from retrodict.bases import Basis

__all__ = ["Cond", "Gaussian", "Moments", "Process", "Rates", "lift", "ratio", "wiener"]


Law = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]
"""t, float64, shaped to broadcast over (B, 1, *K) -> (h, k, s2)."""


Conditioning = Literal["none", "terminal", "external"]


class Moments(NamedTuple):
    """Gain h, pull k and variance s2 of x_t, float64, each broadcastable to `(B, 1, *K)`."""

    h: Tensor
    k: Tensor
    s2: Tensor


class Rates(NamedTuple):
    """Drift F = h'/h and diffusion G^2 = (s^2)' - 2 F s^2 of dw = F w dt + G dW, and their ingredients."""

    F: Tensor
    G2: Tensor
    dh: Tensor
    dk: Tensor
    ds2: Tensor


class Gaussian(NamedTuple):
    """A known Gaussian measurement law y = gain x_0 + noise, per coefficient, `(*K)` float64."""

    gain: Tensor
    variance: Tensor


def lift(t: Tensor, ndim: int) -> Tensor:
    """`(B,)` to `(B, 1, *1)` with `ndim` trailing axes: the only place where singleton axes are inserted."""
    return t.reshape(-1, *([1] * (1 + ndim)))


def ratio(a: Tensor, b: Tensor, otherwise: float = 0.0) -> Tensor:
    """A / b where b is not zero and `otherwise` where it is; no epsilon is added to physics."""
    a, b = torch.broadcast_tensors(a, b)
    return torch.where(b == 0, otherwise, a / torch.where(b == 0, 1.0, b))


def wiener(moments: Moments, spectrum: Tensor) -> tuple[Tensor, Tensor]:
    """Gain g and variance v of u_0 | w_t for u_0 ~ N(m, L): mean m + g (w_t - h m), g = h L / (h^2 L + s^2).

    v = L s^2 / (h^2 L + s^2).  A noise-free coefficient (s = 0, h > 0) has g = 1/h, v = 0; an erased one (h = 0) has
    g = 0, v = L, whatever its variance.
    """
    h, s2 = moments.h, moments.s2
    total = h**2 * spectrum + s2
    clean = (s2 == 0) & (h != 0)
    gain = torch.where(clean, ratio(torch.ones_like(h), h), ratio(h * spectrum, total))
    variance = torch.where(clean, 0.0, ratio(spectrum * s2, total))
    return gain, torch.where((h == 0) & (s2 == 0), spectrum, variance)


@dataclass(frozen=True)
class Process:
    """One forward process bound to a basis.

    `family(basis)` returns its law (h, k, s^2)(t).  `conditioning` says what stands at t = 1 and what a network sees:

    - "none": x_1 is noise; the network sees x_t.
    - "terminal": x_1 *is* the measurement; the network sees x_t only.  The chain is Markov, so a second look at the
      measurement would count it twice (Tivnan et al. 2023, option 2).
    - "external": x_1 is noise (around k c); the network sees x_t and the measurement, and sampling starts from noise.

    `measurement(basis)` is the law y = gain x_0 + noise of an external (or the terminal) measurement where known.
    `memory(basis)` is the noise-memory gain A(t) with Cov(x_s, x_t | x_0) = (A_t / A_s) s_s^2 for s < t; None is the
    Markov choice A = h.
    """

    family: Callable[[Basis], Law]
    basis: Basis
    conditioning: Conditioning = "none"
    measurement: Callable[[Basis], Gaussian] | None = None
    memory: Callable[[Basis], Callable[[Tensor], Tensor]] | None = None
    recipe: Recipe | None = None

    # ---- the law -------------------------------------------------------------------------------------------------

    @cached_property
    def law(self) -> Law:
        """The law bound to this basis."""
        return self.family(self.basis)

    @cached_property
    def measured(self) -> Gaussian | None:
        """The measurement law bound to this basis, or None where it is not known."""
        return None if self.measurement is None else self.measurement(self.basis)

    @property
    def ndim(self) -> int:
        """Number of image axes."""
        return len(self.basis.size)

    def on(self, size: tuple[int, ...]) -> Process:
        """The same process on another image grid of the same spacing."""
        return self if tuple(size) == tuple(self.basis.size) else replace(self, basis=self.basis.on(tuple(size)))

    def moments(self, t: Tensor) -> Moments:
        """h, k, s^2 at times t `(B,)`."""
        return Moments(*(value.double() for value in self.law(lift(t.double(), self.ndim))))

    def rates(self, t: Tensor) -> Rates:
        """Drift and diffusion at t `(B,)` by forward-mode differentiation of the law in float64.

        F = h'/h, G^2 = (s^2)' - 2 F s^2 = h^2 dr/dt (Fourier diffusion, eqs. 11-13).  Round-off below
        1e-8 max G^2 is clamped to zero; a negative G^2 beyond that is kept, and `markov` is then False.
        """
        time = lift(t.double(), self.ndim)
        (h, _, s2), (dh, dk, ds2) = torch.func.jvp(self.law, (time,), (torch.ones_like(time),))[:2]
        drift = ratio(dh, h, otherwise=-torch.inf)
        squared = ds2 - 2 * torch.where(torch.isfinite(drift), drift, 0.0) * s2
        tiny = (squared < 0) & (squared > -1e-8 * squared.abs().max().clamp_min(1e-300))
        return Rates(drift, torch.where(tiny, 0.0, squared), dh, dk, ds2)

    def clock(self, t: Tensor) -> Tensor:
        """Noise clock r = s^2 / h^2 per coefficient, infinite where h = 0."""
        m = self.moments(t)
        return torch.where(m.h == 0, torch.inf, ratio(m.s2, m.h**2))

    def memory_gain(self, t: Tensor) -> Tensor:
        """A(t); equals h for a Markov process."""
        if self.memory is None:
            return self.moments(t).h
        return self.memory(self.basis)(lift(t.double(), self.ndim)).double()

    @cached_property
    def markov(self) -> bool:
        """Whether r never decreases in t at any coefficient, on 1001 times: SDE and ancestral steps exist iff so."""
        return self.first_decrease is None

    @cached_property
    def first_decrease(self) -> tuple[int, float] | None:
        """(flat coefficient index, time) of the first decrease of s^2/A^2, or None where there is none.

        A process from the dictionary is a function of frequency or band, not of the grid: it is checked on at most 64
        pixels an axis.  A law of the user's own is checked at every coefficient.
        """
        small = tuple(min(n, 64) for n in self.basis.size)
        if self.recipe is not None and small != tuple(self.basis.size):
            return self.on(small).first_decrease
        previous = None
        for t in torch.linspace(0, 1, 1001, dtype=torch.float64):
            s2, gain = self.moments(t[None]).s2, self.memory_gain(t[None])
            clock = torch.where(gain == 0, torch.inf, ratio(s2, gain**2)).expand(1, 1, *self.basis.shape)
            if previous is not None:
                drop = torch.where(torch.isfinite(clock) | torch.isfinite(previous), previous - clock, 0.0)
                bad = drop > 1e-10 * torch.where(torch.isfinite(previous), previous, 0.0).abs().clamp_min(1e-300)
                bad &= drop > 1e-13
                if bool(bad.any()):
                    return int(bad.reshape(-1).nonzero()[0]), float(t)
            previous = clock
        return None

    def require_markov(self, what: str) -> None:
        """Raise where stochastic steps are not defined."""
        if not self.markov:
            index, time = self.first_decrease  # type: ignore[misc]
            raise InputError(
                what,
                f"a process whose noise clock decreases (coefficient {index}, t = {time:.3f})",
                "a clock s^2/h^2 that never decreases",
                "Deterministic rules (ddim with eta 0, dpmpp2m, gaussian_ode) remain defined.",
            )

    # ---- states --------------------------------------------------------------------------------------------------

    def corrupt(self, x0: Tensor, t: Tensor, z: Tensor, c: Tensor | None = None) -> Tensor:
        """x_t = B^-1 [h B x_0 + k B c + s B z]; x0, z `(B, C, *N)`, t `(B,)` -> `(B, C, *N)`."""
        m = self.moments(t)
        u = m.h.to(x0) * self.basis.forward(x0) + m.s2.sqrt().to(x0) * self.basis.forward(z)
        return self.to_image(u, t, c)

    def to_image(self, w: Tensor, t: Tensor, c: Tensor | None = None) -> Tensor:
        """Shifted coefficients w = u - k B c `(B, C, *K)` to the image x_t `(B, C, *N)`."""
        return self.basis.inverse(w) if c is None else self.basis.inverse(w + self._pull(t, c))

    def to_coefficients(self, xt: Tensor, t: Tensor, c: Tensor | None = None) -> Tensor:
        """Image x_t `(B, C, *N)` to shifted coefficients w = u - k B c `(B, C, *K)`."""
        u = self.basis.forward(xt)
        return u if c is None else u - self._pull(t, c)

    def _pull(self, t: Tensor, c: Tensor) -> Tensor:
        return self.moments(t).k.to(c) * self.basis.forward(c)

    @cached_property
    def anchored(self) -> bool:
        """Whether k(t) is not zero everywhere, so that the state is pulled towards a condition image."""
        return bool((self.moments(torch.tensor([0.5, 1.0])).k != 0).any())

    def start(
        self,
        z: Tensor,
        *,
        measurement: Tensor | None = None,
        mean: Tensor | float = 0.0,
        spectrum: Tensor | None = None,
    ) -> Tensor:
        """Shifted coefficients w_1 `(B, C, *K)` at t = 1 from white noise z `(B, C, *N)`.

        terminal: w_1 is the measurement itself.  Otherwise w_1 = h m + sqrt(s^2 + h^2 L) z, the exact marginal for
        data N(m, L) (`spectrum` = L `(*K)`, `mean` = m in coefficients), or N(0, s^2) without a spectrum.
        """
        one = torch.ones(len(z), dtype=torch.float64)
        if self.conditioning == "terminal":
            if measurement is None:
                raise InputError("start", "no measurement", "the measured image: this process starts at it (terminal)")
            return self.to_coefficients(measurement, one)
        if self.anchored and measurement is None:
            raise InputError("start", "no condition image", "the image that this mean-reverting process is pulled to")
        m = self.moments(one)
        variance = m.s2 if spectrum is None else m.s2 + m.h**2 * spectrum
        noise = variance.sqrt().to(z) * self.basis.forward(z)
        return noise if isinstance(mean, float) and mean == 0.0 else noise + m.h.to(z) * mean

    # ---- transitions ---------------------------------------------------------------------------------------------

    def transition(self, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """H_D = h_t / h_s and Sigma_D = s_t^2 - H_D^2 s_s^2 of w_t | w_s, s < t (eqs. 7-8)."""
        ms, mt = self.moments(s), self.moments(t)
        gain = ratio(mt.h, ms.h)
        return gain, mt.s2 - gain**2 * ms.s2

    def conditional(self, t: Tensor, s: Tensor, eta: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
        """Weights (keep, data, std) of q(w_s | w_t, u_0) = N(keep w_t + data u_0, std^2), s < t.

        With q = r_s / r_t and V = s_s^2 (1 - q): std = eta sqrt(V), keep = (s_s/s_t) sqrt(1 - eta^2 (1 - q)),
        data = h_s - keep h_t.  eta = 1 is the exact (ancestral) conditional, eta = 0 the deterministic member; each
        preserves the marginals (Song, Meng, Ermon 2020, eq. 7, per coefficient).  Degenerate coefficients: clean at
        t (s_t = 0 < h_t) keep h_s/h_t; erased at t (h_t = 0) have q = 0.
        """
        mt, ms = self.moments(t), self.moments(s)
        rt = torch.where(mt.h == 0, torch.inf, ratio(mt.s2, mt.h**2))
        rs = torch.where(ms.h == 0, torch.inf, ratio(ms.s2, ms.h**2))
        q = torch.where(torch.isinf(rt), torch.where(torch.isinf(rs), 1.0, 0.0), ratio(rs, rt))
        memory = q if self.memory is None else self._memory_ratio(t, s, mt, ms)
        shrink = (1 - eta**2 * (1 - memory)).clamp_min(0.0).sqrt()
        keep = ratio(ms.s2, mt.s2).sqrt() * shrink
        data = ms.h * (1 - q.clamp_min(0.0).sqrt() * shrink)
        std = eta * (ms.s2 * (1 - memory)).clamp_min(0.0).sqrt()
        clean = (mt.s2 == 0) & (mt.h != 0)
        keep = torch.where(clean, ratio(ms.h, mt.h), keep)
        data = torch.where(clean, 0.0, torch.where(mt.h == 0, ms.h, data))
        return keep, data, torch.where(clean, ms.s2.sqrt(), std)

    def _memory_ratio(self, t: Tensor, s: Tensor, mt: Moments, ms: Moments) -> Tensor:
        """exp(-2 dX) = (A_t^2 s_s^2) / (A_s^2 s_t^2), the correlation that survives from s to t."""
        return ratio(self.memory_gain(t) ** 2 * ms.s2, self.memory_gain(s) ** 2 * mt.s2)


# ---- assembly ----------------------------------------------------------------------------------------------------


def _finish(
    family: Any,
    basis: Basis,
    name: str,
    options: dict[str, Any],
    conditioning: Conditioning = "none",
    measurement: Any = None,
    **unknown: Any,
) -> Process:
    """Assemble the process and the recipe that rebuilds it."""
    if unknown:
        raise InputError(f"process {name!r}", f"option {sorted(unknown)[0]!r}", "a documented option")
    if conditioning not in ("none", "terminal", "external"):
        raise InputError(f"process {name!r} conditioning", conditioning, "none, terminal or external")
    recipe = Recipe(name, {**options, "conditioning": conditioning})
    return Process(family, basis, conditioning, measurement, recipe=recipe)


class Cond(NamedTuple):
    """The only carrier of conditions: a condition image `(B, C, *N)` and a condition vector `(B, F)`."""

    image: Tensor | None = None
    vector: Tensor | None = None
