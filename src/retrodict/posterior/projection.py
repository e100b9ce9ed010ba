"""Posterior methods in the singular vectors of the operator, and those that act on the noisy state: DDRM, DDNM+, the
projection of Song et al., MCG and Score-ALD.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.physics.operator import Spectral, scaled_by
from retrodict.posterior.gradient import Gradient
from retrodict.posterior.method import Draw, Method, ancestral_step, in_precision, number_clock
from retrodict.processes.observation import ratio

__all__ = ["Ald", "Ddnm", "Ddrm", "Mcg", "Projected"]


@dataclass(frozen=True, eq=False)
class _Spectral(Method):
    """Methods that need A = L diag(sv) B and white noise."""

    @cached_property
    def form(self) -> Spectral:
        """The singular values; `InputError` where there is no closed form or the noise is not white."""
        form = self.measurement.operator.part.spectral()
        if form is None:
            found = f"{self.measurement.operator.name}, which has no spectral form"
            raise InputError(type(self).__name__.lower(), found, "an operator with one", "Use 'matched' or 'dds'.")
        if self.sigma is None:
            raise InputError(type(self).__name__.lower(), "noise that is not white", "GaussianNoise.white(sigma)")
        return form

    @cached_property
    def sigma(self) -> float | None:
        """Standard deviation of white noise, or None."""
        number = self.measurement.gaussian()[1].number
        return None if number is None else math.sqrt(number)

    def observed(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """U^H y / sv `(1, C, *K)` and sd = sigma/sv `(*K)`, infinite where sv = 0."""
        form, offset = self.form, self.measurement.operator.offset
        y = self.measurement.y if offset is None else self.measurement.y - offset.to(self.measurement.y)
        gain, size = form.gain, form.gain.abs()
        seen = size > 1e-9 * size.max()
        inverse = (
            torch.where(seen, ratio(gain.conj(), size**2), 0.0)
            if not gain.is_complex()
            else torch.where(seen, gain.conj() / torch.where(seen, size**2, 1.0), 0.0)
        )
        u = scaled_by(inverse.resolve_conj(), form.from_range(y.to(like)))
        return u, torch.where(seen, self.sigma / torch.where(seen, size, 1.0), torch.inf)  # type: ignore[operator]


@dataclass(frozen=True, eq=False)
class Ddrm(_Spectral):
    """Denoising diffusion restoration models (Kawar et al. 2022, arXiv 2201.11793), in the singular vectors of A.

    With x/h for a state and sigma = s/h: not measured: N(D + sqrt(1 - eta^2) sigma (x_t - D)/sigma_t, eta^2 sigma^2);
    sigma < sd: N(D + sqrt(1 - eta^2) sigma (y - D)/sd, eta^2 sigma^2); else N((1 - eta_b) D + eta_b y,
    sigma^2 - eta_b^2 sd^2), sd = sigma_y/sv.  A restorer: its variance depends on the number of steps.
    """

    eta: float = 0.85
    eta_b: float = 1.0
    steps: ClassVar[int] = 20

    def start(self, like: Tensor, draw: Draw) -> Tensor:
        """N(y, sigma_1^2 - sd^2) where the noise allows it, else N(0, sigma_1^2)."""
        one = torch.ones(len(like), dtype=torch.float64, device="cpu")
        sigma = number_clock(self.process, one, "ddrm").sqrt()
        seen, sd = self.observed(like)
        z = self.form.basis.forward(draw(1)[0])
        known = sigma >= sd
        spread = torch.where(known, (sigma**2 - torch.where(known, sd, 0.0) ** 2).clamp_min(0.0).sqrt(), sigma)
        u = torch.where(known, seen, 0.0) + spread.to(like.real) * z
        return self._noisy(u, one)

    def _noisy(self, u: Tensor, t: Tensor) -> Tensor:
        """Coefficients in the scale of the image to a state."""
        x = self.form.basis.inverse(u)
        return self.process.to_image(self.process.moments(t).h.to(x.real) * self.process.basis.forward(x), t)

    def step(self, x: Tensor, t: Tensor, s: Tensor, draw: Draw) -> Tensor:
        """One call."""
        basis, process = self.form.basis, self.process
        before, sigma = (number_clock(process, v, "ddrm").sqrt() for v in (t, s))
        scale = ratio(torch.ones_like(before), process.moments(t).h.flatten(1)[:, :1].reshape(before.shape))
        u, d = basis.forward(scale.to(x.real) * x), basis.forward(self.denoiser(x, t))
        (seen, sd), z, keep = self.observed(x), basis.forward(draw(1)[0]), math.sqrt(1 - self.eta**2)
        real = x.real.dtype
        free = d + (keep * sigma / before).to(real) * (u - d) + (self.eta * sigma).to(real) * z
        measured = torch.isfinite(sd)
        width = torch.where(measured, sd, 1.0)
        below = d + (keep * sigma / width).to(real) * (seen - d) + (self.eta * sigma).to(real) * z
        rest = (sigma**2 - self.eta_b**2 * width**2).clamp_min(0.0).sqrt().to(real)
        above = (1 - self.eta_b) * d + self.eta_b * seen + rest * z
        return self._noisy(torch.where(measured, torch.where(sigma < width, below, above), free), s)


@dataclass(frozen=True, eq=False)
class Ddnm(_Spectral):
    """DDNM+ (Wang, Yu, Zhang 2023, arXiv 2212.00490), the rule of their SVD code, in singular vectors.

    x_s = h [D - lam A^+ (A D - y)] + d1 z + d2 e.  With a = h_s, sigma = s_s: sigma >= a sd: lam = 1,
    d1^2 = sigma^2 - a^2 sd^2; below: lam = sigma sqrt(1 - eta^2)/(a sd), d1 = eta sigma; not measured: d1 = eta sigma,
    d2 = sigma sqrt(1 - eta^2).  The same recursion as DDRM with eta_b = 1, written by another group.
    """

    eta: float = 0.85

    def step(self, x: Tensor, t: Tensor, s: Tensor, draw: Draw) -> Tensor:
        """One call."""
        basis, process = self.form.basis, self.process
        mean = self.denoiser(x, t)
        mt, ms = process.moments(t), process.moments(s)
        e = basis.forward(ratio(torch.ones_like(mt.s2), mt.s2.sqrt()).to(x.real) * (x - mt.h.to(x.real) * mean))
        a, sigma = ms.h, ms.s2.sqrt()
        (seen, sd), d, z = self.observed(x), basis.forward(mean), basis.forward(draw(1)[0])
        measured, keep = torch.isfinite(sd), math.sqrt(1 - self.eta**2)
        width = a * torch.where(measured, sd, 0.0)
        full = measured & (sigma >= width)
        share = torch.where(full, 1.0, torch.where(measured, ratio(sigma * keep, width), 0.0))
        d1 = torch.where(full, (sigma**2 - width**2).clamp_min(0.0).sqrt(), self.eta * sigma)
        d2 = torch.where(measured, 0.0, keep * sigma)
        real = x.real.dtype
        u = a.to(real) * (d + share.to(real) * torch.where(measured, seen - d, 0.0)) + d1.to(real) * z + d2.to(real) * e
        return basis.inverse(u)


@dataclass(frozen=True, eq=False)
class Projected(Method):
    """The projection of Song et al. (2022, arXiv 2111.08005): before every step the measured part of the state becomes
    `weight` y_t + (1 - weight) of itself, y_t = h y + s A z.  For data without noise.
    """

    weight: float = 1.0

    def replaced(self, x: Tensor, t: Tensor, z: Tensor) -> Tensor:
        """X + weight A^+ (y_t - A x)."""
        m, operator = self.process.moments(t), self.measurement.operator
        y = (
            self.measurement.y
            if operator.offset is None
            else self.measurement.y - operator.offset.to(self.measurement.y)
        )
        full = operator.part.pinv(y.to(x)) + torch.zeros_like(x)
        basis = self.process.basis
        noisy = basis.inverse(m.h.to(x.real) * basis.forward(full) + m.s2.sqrt().to(x.real) * basis.forward(z))
        return x + self.weight * operator.part.pinv(operator.part.forward(noisy - x))

    def step(self, x: Tensor, t: Tensor, s: Tensor, draw: Draw) -> Tensor:
        """Projection, then an ancestral step."""
        x = self.replaced(x, t, draw(1)[0])
        x = ancestral_step(self.process, x, t, s, self.denoiser(x, t), draw(1)[0])
        return self.replaced(x, s, draw(1)[0]) if float(s.max()) == 0 else x


@dataclass(frozen=True, eq=False)
class Mcg(Gradient):
    """Manifold constrained gradient (Chung et al. 2022, arXiv 2206.00941): the gradient of DPS in the null space of A,
    and the measured part replaced by y_s = h y + s A z.
    """

    strength: float = 1.0

    def step(self, x: Tensor, t: Tensor, s: Tensor, draw: Draw) -> Tensor:
        """One call, one gradient."""
        mean, _, pullback = self.evaluated(x, t)
        part = self.measurement.operator.part
        rest = in_precision(self.measurement.residual(in_precision(mean, self.measurement.y)), mean)
        size = torch.linalg.vector_norm(rest.flatten(1), dim=1).reshape(-1, *[1] * (rest.ndim - 1))
        g = pullback(part.adjoint(torch.where(size > 0, rest / torch.where(size > 0, size, 1.0), 0.0)))
        new = ancestral_step(self.process, x, t, s, mean, draw(1)[0])
        new = new + self.strength * (g - part.pinv(part.forward(g)))
        return Projected(self.denoiser, self.measurement).replaced(new, s, draw(1)[0])


@dataclass(frozen=True, eq=False)
class Ald(Method):
    """Score-ALD: the likelihood of the noisy state, y = A x_t/h + N(0, Sigma + (r ||A||^2) 1) (Jalal et al. 2021, arXiv
    2108.01368).

    "langevin": `rounds` steps a level, x <- x + a (score + likelihood) + sqrt(2 a) z, a = `rate` s^2; the level is the
    law p_t(x_t) p(y | x_t) of a flat prior, and the last one the posterior.  "drift": the same guidance in an ancestral
    step.  Their code rescales the likelihood by the norm of the score of a whole batch and aims at no law.
    """

    form: str = "langevin"
    rounds: int = 3
    rate: float = 0.1

    @property
    def calls(self) -> int:  # type: ignore[override]
        """Those of the Langevin steps and of the move to the next level."""
        return self.rounds + 1 if self.form == "langevin" else 1

    @cached_property
    def _square(self) -> float:
        return self.measurement.operator.part.norm() ** 2

    def guided(self, x: Tensor, t: Tensor) -> Tensor:
        """(s^2/h) of the gradient of the log-likelihood in x_t: what D gains."""
        r = number_clock(self.process, t, "score_ald")
        sigma = self.measurement.gaussian()[1].number
        if sigma is None:
            raise InputError("score_ald", "noise that is not white", "GaussianNoise.white(sigma)")
        h = self.process.moments(t).h.flatten(1)[:, :1].reshape(r.shape)
        rest = in_precision(self.measurement.residual(in_precision(x / h.to(x.real), self.measurement.y)), x)
        up = self.measurement.operator.adjoint(rest)
        return (r / (sigma + r * self._square)).to(x.real) * up

    def step(self, x: Tensor, t: Tensor, s: Tensor, draw: Draw) -> Tensor:
        """One call, or `rounds`."""
        process = self.process
        if self.form == "drift":
            return ancestral_step(process, x, t, s, self.denoiser(x, t) + self.guided(x, t), draw(1)[0])
        for _ in range(self.rounds):
            mean = self.denoiser(x, t) + self.guided(x, t)
            m = process.moments(t)
            drift = process.basis.inverse(m.h.to(x.real) * process.basis.forward(mean) - process.basis.forward(x))
            noise = (2 * self.rate * m.s2).sqrt().to(x.real) * process.basis.forward(draw(1)[0])
            x = x + self.rate * drift + process.basis.inverse(noise)
        return ancestral_step(process, x, t, s, self.denoiser(x, t) + self.guided(x, t), draw(1)[0], 0.0)
