"""What holds of an exact score, measured on any denoiser: symmetry, trace identities, Fokker-Planck, rank, error.

Everything is in whitened coordinates z = B^-1 [w / s], in which the noise of the state is white and of unit variance:

    S(z) = grad_z log p_t = G(z) - z,      G(z) = B^-1 [(h/s) B D],      A = dG/dz.

For the exact D the matrix A is the covariance of B^-1 [(h/s) u_0] given the state (Tweedie), so it is symmetric and
not negative; for Gaussian data its eigenvalues are h^2 L / (h^2 L + s^2).  The Jacobian of D itself is not symmetric
under colored noise (Horvat and Pfister, ICLR 2024; Vuong et al., TMLR 2025; Chao et al., ICML 2023).  Coefficients that
carry no noise at t are held fixed and take no part.

Every function answers for each item by itself, `(B,)` or `(B, bands)`, so that a batch equals its items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.denoisers.denoiser import Denoiser, GaussianDenoiser
from retrodict.denoisers.spread import CoupledSpread
from retrodict.processes.observation import Cond, Moments, noise_like, ratio, wiener

__all__ = [
    "BandError",
    "Jacobian",
    "Stein",
    "Whitened",
    "fokker_planck",
    "gaussian_of",
    "intrinsic_dimension",
    "jacobian",
    "probes_of",
    "score_error",
    "stein",
    "whitened",
]

Bands = Sequence[tuple[float, float, Tensor]]
"""Lower and upper edge in cycles/mm and mask `(*K)`, as `Basis.bands` gives them."""

STENCIL = ((-2, 1 / 12), (-1, -2 / 3), (1, 2 / 3), (2, -1 / 12))
"""Central difference of fourth order."""


# ---- whitened coordinates --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Whitened:
    """A denoiser at times t `(B,)` as a function of whitened images z `(B, C, *N)`; `held`: what carries no noise."""

    denoiser: Denoiser
    t: Tensor
    cond: Cond
    held: Tensor
    m: Moments

    def image(self, z: Tensor) -> Tensor:
        """The state x_t `(B, C, *N)` at z."""
        process = self.denoiser.process
        w = self.held + self.m.s2.sqrt().to(z.dtype) * process.basis.forward(z)
        return process.to_image(w, self.t, self.cond.image if process.anchored else None)

    def signal(self, z: Tensor) -> Tensor:
        """G(z) = B^-1 [(h/s) B D]: the denoised image in units of the noise."""
        basis = self.denoiser.process.basis
        d = self.denoiser(self.image(z), self.t, self.cond)
        return basis.inverse(ratio(self.m.h, self.m.s2.sqrt()).to(z.dtype) * basis.forward(d))

    def score(self, z: Tensor) -> Tensor:
        """S(z) = G(z) - z."""
        return self.signal(z) - z

    def noisy(self, x: Tensor) -> Tensor:
        """The part of an image `(B, C, *N)` in coefficients that carry noise."""
        basis = self.denoiser.process.basis
        return basis.inverse((self.m.s2 > 0).to(x.dtype) * basis.forward(x))

    def dimension(self, channels: int) -> Tensor:
        """Real degrees of freedom that carry noise, `(B,)`."""
        weight = (self.m.s2 > 0) * self.denoiser.process.basis.multiplicity()
        count = weight.flatten(1).sum(1) * (channels if weight.shape[1] == 1 else 1)
        return count.expand(len(self.t)) if len(count) == 1 else count


def whitened(denoiser: Denoiser, xt: Tensor, t: Tensor, cond: Cond = Cond()) -> tuple[Whitened, Tensor]:
    """The denoiser in whitened coordinates round states xt `(B, C, *N)` at t `(B,)`, and those states as z.

    Raises `InputError` for complex images, whose derivatives have another meaning.
    """
    process = denoiser.process
    if xt.is_complex():
        raise InputError("diagnose", "a denoiser of complex images", "one of real images, or of two real channels")
    m = process.moments(t)
    w = process.to_coefficients(xt, t, cond.image if process.anchored else None)
    z = process.basis.inverse(ratio(torch.ones_like(m.s2), m.s2.sqrt()).to(xt.dtype) * w)
    held = torch.where(m.s2 == 0, w, torch.zeros_like(w))
    return Whitened(denoiser, t, cond, held, m), z


def gaussian_of(denoiser: Denoiser) -> GaussianDenoiser | None:
    """The exact denoiser of Gaussian data with the mean and spectrum that a denoiser knows, or None.

    Not `Denoiser.gaussian`, which is the same construction round it: that of a fault has the fault.
    """
    prior = denoiser.prior()
    return None if prior is None else GaussianDenoiser(denoiser.process, *prior)


def probes_of(like: Tensor, seeds: Tensor, count: int, stream: str = "probe") -> list[Tensor]:
    """Fields of random signs like images `(B, C, *N)`, each item's a function of its seed `(B,)`."""
    fields = (noise_like(like, seeds, stream, k) for k in range(count))
    return [torch.where(x < 0, -1.0, 1.0).to(like) for x in fields]


# ---- Jacobian --------------------------------------------------------------------------------------------------------


class Jacobian(NamedTuple):
    """Of A = dG/dz, for each item `(B,)`: its trace and the standard error of it over the probes, |A|_F^2,
    |A - A^T|_F^2, and |A - A_Gauss|_F^2, where A_Gauss is that of Gaussian data of its spectrum (nan without)."""

    trace: Tensor
    error: Tensor
    size: Tensor
    skew: Tensor
    added: Tensor

    @property
    def asymmetry(self) -> Tensor:
        """|A - A^T|_F / (2 |A|_F) in [0, 1]: 0 symmetric, 1 antisymmetric."""
        return ratio(self.skew, 4 * self.size).sqrt()

    @property
    def asymmetry_of_rest(self) -> Tensor:
        """The same relative to what the denoiser adds to the Gaussian part, which is symmetric; nan where it adds
        nothing.
        """
        return ratio(self.skew, 4 * self.added, otherwise=torch.nan).sqrt()

    @property
    def stable_rank(self) -> Tensor:
        """(tr A)^2 / |A|_F^2: directions that the denoiser lets through."""
        return ratio(self.trace**2, self.size)


def jacobian(at: Whitened, z: Tensor, probes: Sequence[Tensor]) -> Jacobian:
    """Trace, size and asymmetry of A at z `(B, C, *N)` from probes `(B, C, *N)` of covariance 1 (Hutchinson 1990).

    A probe v costs one forward and one backward product, a = A v and b = A^T v: E v.a = tr A, E|a|^2 = |A|_F^2,
    E|a - b|^2 = |A - A^T|_F^2.  The columns of sqrt(d) times the identity give the exact numbers.
    """
    twin = gaussian_of(at.denoiser)
    back = torch.func.vjp(at.signal, z)[1]
    rows = []
    for v in probes:
        v = at.noisy(v)
        a = torch.func.jvp(at.signal, (z,), (v,))[1]
        b = back(v)[0]
        base = a if twin is None else _linear(at, twin, v)
        rows.append(torch.stack([_dot(v, a), _dot(a, a), _dot(a - b, a - b), _dot(a - base, a - base)]).detach())
    found = torch.stack(rows)  # (K, 4, B)
    trace, size, skew, added = found.mean(0)
    error = found[:, 0].std(0) / len(rows) ** 0.5 if len(rows) > 1 else torch.full_like(trace, torch.nan)
    return Jacobian(trace, error, size, skew, added if twin is not None else torch.full_like(added, torch.nan))


def _linear(at: Whitened, twin: Denoiser, v: Tensor) -> Tensor:
    """A of Gaussian data times v; it is linear, so a difference of two answers is exact."""
    own = Whitened(twin, at.t, at.cond, at.held, at.m)
    zero = torch.zeros_like(v)
    return own.signal(v) - own.signal(zero)


# ---- identities of an exact score ------------------------------------------------------------------------------------


class Stein(NamedTuple):
    """Of each item: -S.P_b(z - c)/d_b of every band `(B, bands)`, mean 1 over states of p_t for an exact score;
    the rotations S.K(z - c) `(B, axes)`, mean 0; what they are measured by, |S|^2 and |K(z - c)|^2; and
    (tr A - d + |S|^2)/d `(B,)`, mean 0.
    """

    bands: Tensor
    turn: Tensor
    score2: Tensor
    turned2: Tensor
    hyvarinen: Tensor


def stein(at: Whitened, z: Tensor, bands: Bands, trace: Tensor) -> Stein:
    """Stein's identity E[S.F + div F] = 0 over states of p_t, for three fields F.

    F = P_b (z - c), the part in a band, sees an error of the transport; F = K (z - c) with K the antisymmetric central
    difference along an axis sees a rotation, which leaves the marginals alone; F = S needs tr A `(B,)` and is the
    identity of Hyvarinen (2005).  c is the mean of p_t where the data have a known one, else 0.
    """
    basis, prior = at.denoiser.process.basis, at.denoiser.prior()
    with torch.no_grad():
        s = at.noisy(at.score(z))
    center = torch.zeros_like(z)
    if prior is not None:
        shift = ratio(at.m.h, at.m.s2.sqrt()) * prior[0]
        center = basis.inverse(shift.to(basis.forward(z)).expand(basis.forward(z).shape))
    y = at.noisy(z - center)
    weight = basis.multiplicity() * (at.m.s2 > 0)
    product = (basis.forward(s).conj() * basis.forward(y)).real * weight
    count = weight.expand(product.shape)
    parts = [-ratio(_in(product, mask), _in(count, mask)) for _, _, mask in bands]
    turned = [0.5 * (y.roll(1, k) - y.roll(-1, k)) for k in range(2, y.ndim)]
    d = at.dimension(z.shape[1])
    return Stein(
        torch.stack(parts, 1),
        torch.stack([_dot(s, x) for x in turned], 1),
        _dot(s, s),
        torch.stack([_dot(x, x) for x in turned], 1),
        (trace - d + _dot(s, s)) / d,
    )


def intrinsic_dimension(at: Whitened, z: Tensor, trace: Tensor) -> Tensor:
    """Local dimension `(B,)` of the data at clean images, z of w = h B x_0 without noise: tr A + |S|^2.

    As FLIPD (Kamkari et al. 2024): d + s^2 (tr grad S_w + |S_w|^2), here for a noise of any color.  It counts the
    directions whose deviation is above the noise of t: a curve over t, not a number.
    """
    with torch.no_grad():
        s = at.noisy(at.score(z))
    return trace + _dot(s, s)


def fokker_planck(
    denoiser: Denoiser, xt: Tensor, t: Tensor, probe: Tensor, cond: Cond = Cond(), dt: float = 1e-3
) -> Tensor:
    """Residual of the Fokker-Planck equation of the score, relative to its change in time, `(B,)`; 0 for an exact one.

        e = d_t S - grad [ 1/2 tr(G^2 dS/dw) + 1/2 S.G^2 S - (F w).S ],     |s e| / |s d_t S|

    (Lai et al. 2023), with the trace by one probe `(B, C, *N)` of random signs.  The states have to be float64, and the
    network too: d_t is a central difference of fourth order.  nan where the process erases a coefficient (F infinite).
    t lies at least 2 dt inside (0, 1).
    """
    process, basis = denoiser.process, denoiser.process.basis
    if bool((t < 2 * dt).any()) or bool((t > 1 - 2 * dt).any()):
        raise InputError("t", float(t[0]), f"a time from {2 * dt:g} to {1 - 2 * dt:g}: the difference needs room")
    anchor = cond.image if process.anchored else None
    image = basis.inverse(process.to_coefficients(xt, t, anchor))
    rates, m = process.rates(t), process.moments(t)
    if not bool(torch.isfinite(rates.F).all()):
        return torch.full((len(xt),), torch.nan, dtype=torch.float64, device=xt.device)

    def score(x: Tensor, time: Tensor) -> Tensor:
        n, w = process.moments(time), basis.forward(x)
        d = basis.forward(denoiser(process.to_image(w, time, anchor), time, cond))
        return basis.inverse(ratio(n.h * d - w, n.s2.expand(w.shape).to(w)))

    def energy(x: Tensor) -> Tensor:
        s, change = torch.func.jvp(lambda y: score(y, t), (x,), (probe,))[:2]
        terms = 0.5 * probe * times(rates.G2, change) + 0.5 * s * times(rates.G2, s) - times(rates.F, x) * s
        return terms.sum()

    def times(table: Tensor, x: Tensor) -> Tensor:
        return basis.inverse(table.to(x.dtype) * basis.forward(x))

    gradient = torch.func.grad(energy)(image)
    with torch.no_grad():
        change = torch.stack([c * score(image, t + k * dt) for k, c in STENCIL]).sum(0) / dt
        std = m.s2.sqrt()
        left, scale = times(std, change - gradient), times(std, change)
    return ratio(_dot(left, left), _dot(scale, scale)).sqrt()


# ---- error -----------------------------------------------------------------------------------------------------------


class BandError(NamedTuple):
    """Of each item and band `(B, bands)`, sums over the band: |D - x_0|^2, what the Wiener filter would have and what
    the denoiser states of it (nan where unknown), (x_0 - D).(D - m) and |D - m|^2."""

    error: Tensor
    wiener: Tensor
    stated: Tensor
    along: Tensor
    moved: Tensor

    def pooled(self) -> BandError:
        """Sums over items, `(bands,)`."""
        return BandError(*(x.sum(0) for x in self))

    @property
    def excess(self) -> Tensor:
        """A share of the error that an exact denoiser cannot have: 0 for E[x_0 | x_t], whose error is orthogonal to
        every function of the state.  (E (x_0 - D).(D - m))^2 / (E|D - m|^2 E|x_0 - D|^2) is what the best multiple of
        D - m would remove, so at least that share of the error is an error of the score.  Of pooled sums.
        """
        return ratio(self.along**2, self.moved * self.error)


def score_error(denoiser: Denoiser, x0: Tensor, xt: Tensor, t: Tensor, bands: Bands, cond: Cond = Cond()) -> BandError:
    """The error of D at states xt of known images x0 `(B, C, *N)`, by band."""
    process, basis = denoiser.process, denoiser.process.basis
    with torch.no_grad():
        said = denoiser.estimate(xt, t, cond)
    u, d = basis.forward(x0), basis.forward(said.mean)
    weight, prior = basis.multiplicity(), denoiser.prior()
    nothing = torch.full(u.shape, torch.nan, dtype=torch.float64, device=u.device)
    left, mean = nothing, torch.zeros_like(weight)
    if prior is not None:
        mean = prior[0]
        left = wiener(process.moments(t), prior[1])[1]
        if process.pairing.sees and cond.image is not None and process.measurement is not None:
            left = wiener(process.measurement, left)[1]
    stated = said.spread.power() if isinstance(said.spread, CoupledSpread) else nothing
    moved = d - mean.to(d)
    parts = (
        basis.energy(d - u),
        left.expand(u.shape),
        stated.expand(u.shape),
        ((u - d).conj() * moved).real,
        basis.energy(moved),
    )
    return BandError(*(torch.stack([_in(weight * x, mask) for _, _, mask in bands], 1) for x in parts))


def _in(table: Tensor, mask: Tensor) -> Tensor:
    """Sum `(B,)` over the coefficients of a band and all channels."""
    return (table * mask).flatten(1).sum(1)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).flatten(1).sum(1)
