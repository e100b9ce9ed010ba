"""What an observation of an image is, and the one Gaussian update by it.

A state x_t of a process and a measured image y are the same kind of thing: per coefficient u = h u_0 + k u_c + s z.
`Moments` describes either, `wiener` updates by either, `fuse` joins two, and `Pairing` says where a measured image
stands beside the chain.  The limits h = 0 (erased), s = 0 (noise-free) and both are written out here and nowhere else.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict._random import white
from retrodict.bases import Basis

__all__ = [
    "Cond",
    "Kind",
    "Moments",
    "Pairing",
    "clock",
    "clock_ratio",
    "fuse",
    "lift",
    "log_density",
    "log_snr_step",
    "noise_like",
    "ratio",
    "wiener",
]


class Moments(NamedTuple):
    """Gain h, pull k and variance s2 of an observation u = h u_0 + k u_c + s z, float64, broadcast to `(B, C, *K)`."""

    h: Tensor
    k: Tensor
    s2: Tensor


def lift(t: Tensor, ndim: int) -> Tensor:
    """`(B,)` to `(B, 1, *1)` with `ndim` trailing axes: the only place where singleton axes are inserted."""
    return t.reshape(-1, *([1] * (1 + ndim)))


def ratio(a: Tensor, b: Tensor, otherwise: float = 0.0) -> Tensor:
    """A / b where b is not zero and `otherwise` where it is; no epsilon is added to physics."""
    a, b = torch.broadcast_tensors(a, b)
    return torch.where(b == 0, otherwise, a / torch.where(b == 0, 1.0, b))


def clock(m: Moments) -> Tensor:
    """Noise clock r = s^2 / h^2, infinite where h = 0 (an erased coefficient, noise-free or not).

    A gain whose square is below the smallest number is erased too.
    """
    squared = m.h**2
    return torch.where(squared == 0, torch.inf, ratio(m.s2, squared))


def clock_ratio(clean: Moments, noisy: Moments) -> Tensor:
    """r_clean / r_noisy in [0, 1]: 0 onto s = 0 and out of h = 0; 1 between two erased or two noise-free levels."""
    a, b = clock(clean), clock(noisy)
    erased = torch.where(torch.isinf(a), 1.0, 0.0)
    return torch.where(torch.isinf(b), erased, ratio(a, b, otherwise=1.0))


def log_snr_step(noisy: Moments, clean: Moments) -> Tensor:
    """Dl = log(h/s) at `clean` minus that at `noisy`, >= 0 for a rising clock.

    Infinite onto s = 0 and out of h = 0 (with or without noise); 0 between two noise-free or two erased levels.
    """
    a, b = clean.s2.sqrt(), noisy.s2.sqrt()
    out = (noisy.h == 0) & (clean.h != 0)
    still = ~out & (((a == 0) & (b == 0)) | ((clean.h == 0) & (noisy.h == 0)))
    step = (clean.h.log() - a.log()) - (noisy.h.log() - b.log())
    return torch.where(still, 0.0, torch.where(out, torch.inf, step))


def wiener(m: Moments, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Gain g and variance v of u_0 given an observation u, for u_0 ~ N(mean, L): mean + g (u - h mean).

    g = h L / (h^2 L + s^2), v = L s^2 / (h^2 L + s^2): the one Gaussian update.  A noise-free coefficient (s = 0,
    h > 0) has g = 1/h, v = 0; an erased one (h = 0) has g = 0, v = L, whatever its noise.
    """
    h, s2 = m.h, m.s2
    total = h**2 * variance + s2
    clean = (s2 == 0) & (h != 0)
    gain = torch.where(clean, ratio(torch.ones_like(h), h), ratio(h * variance, total))
    left = torch.where(clean, 0.0, ratio(variance * s2, total))
    return gain, torch.where((h == 0) & (s2 == 0), variance, left)


def fuse(u: Tensor, m: Moments, y: Tensor, n: Moments) -> tuple[Tensor, Moments]:
    """Two independent observations of one image, coefficients u and y `(B, C, *K)`, as one (identity I5).

    Precisions h^2/s^2 add: the fused observation has gain 1 and variance 1 / (1/r_u + 1/r_y).  A noise-free one wins;
    where both are erased nothing is known: gain 0, variance 1, value 0.
    """
    a, b = clock(m), clock(n)
    known, other = ~torch.isinf(a), ~torch.isinf(b)
    total = torch.where(known, a, 0.0) + torch.where(other, b, 0.0)
    # shares of u and y; the precisions themselves, 1/r, overflow where there is next to no noise
    first = torch.where(known, torch.where(other, ratio(b, total, otherwise=1.0), 1.0), 0.0)
    second = torch.where(other, torch.where(known, ratio(a, total), 1.0), 0.0)
    gains = (ratio(share, part.h).to(u.real) for share, part in ((first, m), (second, n)))
    mean = sum(gain * v for gain, v in zip(gains, (u, y), strict=True))
    nothing = ~known & ~other
    variance = torch.where(nothing, 1.0, torch.where(known, first * torch.where(known, a, 0.0), b))
    return mean, Moments(torch.where(nothing, 0.0, torch.ones_like(total)), torch.zeros_like(total), variance)  # type: ignore[return-value]


def log_density(basis: Basis, difference: Tensor, variance: Tensor) -> Tensor:
    """Log N(difference; 0, variance) `(B,)` of coefficients `(B, C, *K)`, every real degree of freedom counted once
    (structured spec, section 1).
    """
    terms = basis.energy(difference) / variance + torch.log(2 * math.pi * variance)
    return -0.5 * (basis.multiplicity() * terms).flatten(1).sum(1)


# ---- the measured image ------------------------------------------------------------------------------------------


class Cond(NamedTuple):
    """The only carrier of conditions: a condition image `(B, C, *N)` and a condition vector `(B, F)`."""

    image: Tensor | None = None
    vector: Tensor | None = None


Kind = Literal["none", "terminal", "external"]


@lru_cache(maxsize=64)
@torch.inference_mode(mode=False)  # tables outlive the call that first asks for them
def _law_on(law: Callable[[Basis], Moments], basis: Basis) -> Moments:
    return law(basis)


@dataclass(frozen=True)
class Pairing:
    """Where a measured image y stands beside the chain, and its law.

    - "none": there is none; x_1 is noise.
    - "terminal": x_1 *is* the measurement; the network sees x_t only.  The chain is Markov, so a second look at the
      measurement would count it twice (Tivnan et al. 2023, option 2).
    - "external": x_1 is noise (around k c); the network sees x_t and the measurement, and sampling starts from noise.

    `law(basis)` is y = h x_0 + s z per coefficient, where it is known.
    """

    kind: Kind = "none"
    law: Callable[[Basis], Moments] | None = None

    @property
    def sees(self) -> bool:
        """Whether a denoiser is shown the measurement beside the state."""
        return self.kind == "external"

    @property
    def starts(self) -> bool:
        """Whether the chain starts at the measurement itself."""
        return self.kind == "terminal"

    @property
    def restores(self) -> bool:
        """Whether there is a measurement at all."""
        return self.kind != "none"

    def moments(self, basis: Basis) -> Moments | None:
        """The law of y on `basis`, or None where it is not known; computed once a basis."""
        return None if self.law is None else _law_on(self.law, basis)

    def cond(self, y: Tensor | None) -> Cond:
        """What a denoiser may see of y."""
        return Cond(image=y) if self.sees else Cond()

    def simulate(self, x0: Tensor, basis: Basis, seeds: Tensor) -> Tensor:
        """Measure x0 `(B, C, *N)` with the noise of `seeds` `(B,)`; refuses where the law is not known."""
        m = self.moments(basis)
        if m is None:
            raise InputError(
                "measurement",
                "a process that does not know the law of its measurement",
                "one that does, or pairs of clean and measured images",
                "Build it with external(process, instrument), or give y beside x_0.",
            )
        noise = basis.forward(noise_like(x0, seeds, "measurement", 0))
        return basis.inverse(m.h.to(x0.real) * basis.forward(x0) + m.s2.sqrt().to(x0.real) * noise)

    def given(self, mean: Tensor, variance: Tensor, y: Tensor, basis: Basis) -> tuple[Tensor, Tensor]:
        """Mean and variance of coefficients u_0 ~ N(mean, variance) once the measured image y is known too.

        Unchanged where y is the start of the chain (it is in the state already) or its law is unknown.
        """
        m = None if self.starts else self.moments(basis)
        if m is None:
            return mean, variance
        gain, left = wiener(m, variance)
        u, real = basis.forward(y), y.real.dtype
        mean = mean.to(u)
        return mean + gain.to(real) * (u - m.h.to(real) * mean), left

    def log_likelihood(self, x: Tensor, y: Tensor, basis: Basis) -> Tensor:
        """Log p(y | x) `(B,)`, constants included, of the coefficients that carry noise: one that does not is a
        constraint and has no density.
        """
        m = self._known(basis)
        noisy = m.s2 > 0
        residual = torch.where(noisy, self._residual(x, y, m, basis), 0.0)
        terms = basis.energy(residual) / torch.where(noisy, m.s2, 1.0) + torch.log(
            2 * math.pi * torch.where(noisy, m.s2, 1.0)
        )
        return -0.5 * (basis.multiplicity() * noisy * terms).flatten(1).sum(1)

    def misfit(self, x: Tensor, y: Tensor, basis: Basis) -> Tensor:
        """Chi^2 of y - h x per real degree of freedom that carries noise `(B,)`; 1 is expected of the truth."""
        m = self._known(basis)
        weight = basis.multiplicity() * (m.s2 > 0)
        terms = weight * ratio(basis.energy(self._residual(x, y, m, basis)), m.s2)
        return terms.flatten(1).sum(1) / (weight.sum() * (x.shape[1] if weight.ndim == basis.ndim else 1))

    def _known(self, basis: Basis) -> Moments:
        m = self.moments(basis)
        if m is None:
            raise InputError("measurement", "an unknown law", "a process that knows the law of its measurement")
        return m

    @staticmethod
    def _residual(x: Tensor, y: Tensor, m: Moments, basis: Basis) -> Tensor:
        return basis.forward(y) - m.h.to(x.real) * basis.forward(x)


def noise_like(x: Tensor, seeds: Tensor, stream: str, step: int, draw: Callable[..., Tensor] = white) -> Tensor:
    """White noise of the shape, dtype and device of x `(B, C, *N)`: unit variance per real component, one stream for
    each of `seeds`.
    """
    if not x.is_complex():
        return draw(seeds, stream, step, x.shape[1:]).to(x)
    real = draw(seeds, stream, step, x.shape[1:]).to(x.real)
    return torch.complex(real, draw(seeds, f"{stream}-imaginary", step, x.shape[1:]).to(x.real))
