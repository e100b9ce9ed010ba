"""The affine-Gaussian process of any operators, by dense matrices: the reference for every process that is diagonal.

For images of n pixels in a row, with z white, x_0 the clean image and c a condition image,

    x_t = H(t) x_0 + K(t) c + Sigma(t)^(1/2) z ,        H, K, Sigma (n, n), which need not commute.

Fourier diffusion (Tivnan et al. 2023), appendix B, corrected: with F = H' H^-1 the diffusion of dx = F x dt + G dw is
G G^T = Sigma' - F Sigma - Sigma F^T = H (d/dt H^-1 Sigma H^-T) H^T.  The printed Sigma' - 2 F Sigma, and squares of H,
hold only where H is symmetric and commutes with Sigma.  Everything costs O(n^3): for small images.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.bases import Fourier, Orthonormal
from retrodict.processes.observation import Kind, Moments, Pairing, ratio
from retrodict.processes.process import Process

__all__ = ["DenseMoments", "DenseProcess", "DenseRates", "dephased", "inverse_of", "root_of"]

TIMES = 33
"""Times at which the order of the clocks, or a common basis, is looked at."""


class DenseMoments(NamedTuple):
    """H, K and Sigma `(n, n)` float64 (complex128 for complex operators) of an observation."""

    H: Tensor
    K: Tensor
    S: Tensor


class DenseRates(NamedTuple):
    """Drift F = H' H^-1 and diffusion G G^T = Sigma' - F Sigma - Sigma F^T, `(n, n)`."""

    F: Tensor
    GG: Tensor


def _spectral(matrix: Tensor, function: Callable[[Tensor], Tensor], known: float = 1e-13) -> Tensor:
    """A function of a Hermitian matrix on the eigenvalues above `known` times the largest, and 0 on the others."""
    values, vectors = torch.linalg.eigh(0.5 * (matrix + matrix.mH))
    above = values > known * values.abs().max().clamp_min(1e-300)
    return (vectors * torch.where(above, function(torch.where(above, values, 1.0)), 0.0)) @ vectors.mH


def inverse_of(matrix: Tensor) -> Tensor:
    """The inverse of a covariance `(n, n)`, and 0 in directions without variance."""
    return _spectral(matrix, lambda v: 1 / v)


def root_of(matrix: Tensor) -> Tensor:
    """The symmetric square root of a covariance `(n, n)`."""
    return _spectral(matrix, torch.sqrt)


def _inverted(matrix: Tensor) -> Tensor:
    """The inverse of a square matrix, and its pseudo-inverse where there is none."""
    found, flaw = torch.linalg.inv_ex(matrix)
    unit = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    if int(flaw) == 0 and bool((matrix @ found - unit).abs().max() < 1e-9):
        return found
    return torch.linalg.pinv(matrix, rtol=1e-13)


@dataclass(frozen=True, eq=False)
class DenseProcess:
    """One forward process of any operators on images of `size`, n = prod(size) pixels.

    law(t) -> (H, K, Sigma), matrices `(n, n)` of a float64 time `()` in [0, 1], differentiable in it.  memory(t) is the
    matrix A(t) with Cov(x_s, x_t | x_0) = Sigma_s (A_t A_s^-1)^T for s < t; None is the Markov choice A = H.
    """

    law: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]
    size: tuple[int, ...]
    memory: Callable[[Tensor], Tensor] | None = None

    @classmethod
    def of(cls, process: Process) -> DenseProcess:
        """The matrices of a process that is diagonal in a basis: H = B^-1 diag(h) B, and K, Sigma and A alike.

        Real images; of a basis that mixes channels, all channels in a row.  Raises `InputError` for complex images.
        """
        basis = process.basis
        if basis.complex:
            raise InputError("DenseProcess", "a process of complex images", "one of real images")
        shape = (basis.channels or 1, *basis.size)
        n = math.prod(shape)
        unit = torch.eye(n, dtype=torch.float64, device=basis.device).reshape(n, *shape)

        def matrix(table: Tensor) -> Tensor:
            return basis.inverse(table * basis.forward(unit)).reshape(n, n).T

        def law(t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            h, k, s2 = process.moments(t.reshape(1))
            return matrix(h), matrix(k), matrix(s2)

        memory = None if process.memory is None else lambda t: matrix(process.memory_gain(t.reshape(1)))
        return cls(law, shape if basis.channels else tuple(basis.size), memory)

    @classmethod
    def linear(cls, drift: Tensor, diffusion: Tensor, size: Sequence[int] = ()) -> DenseProcess:
        """The process of dx = M x dt + Q^(1/2) dw with constant matrices: H = expm(t M), Sigma = int_0^t H Q H^T.

        Both come from one exponential of a block matrix (Van Loan, IEEE Trans. Automatic Control 23, 1978).
        """
        n = len(drift)
        block = torch.cat([torch.cat([-drift, diffusion], 1), torch.cat([torch.zeros_like(drift), drift.mH], 1)])

        def law(t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            whole = torch.linalg.matrix_exp(t * block)
            h = whole[n:, n:].mH
            return h, torch.zeros_like(h), h @ whole[:n, n:]

        return cls(law, tuple(size) or (n,))

    # ---- the law -------------------------------------------------------------------------------------------------

    @property
    def n(self) -> int:
        """Number of pixels."""
        return math.prod(self.size)

    def moments(self, t: float) -> DenseMoments:
        """H, K, Sigma at a time in [0, 1]."""
        return DenseMoments(*self.law(self._time(t)))

    @staticmethod
    def _time(t: float) -> Tensor:
        return torch.tensor(float(t), dtype=torch.float64, device="cpu")

    def rates(self, t: float) -> DenseRates:
        """F and G G^T at t, by forward-mode differentiation of the law.

        Raises `InputError` where H has no inverse: the drift is infinite there, and only `conditional` is defined.
        """
        time = self._time(t)
        (h, _, s), (dh, _, ds) = torch.func.jvp(self.law, (time,), (torch.ones_like(time),))[:2]
        if not float(torch.linalg.cond(h)) < 1e13:  # not a number for no image at all
            hint = "Use a rule made of conditionals: matched, ancestral or ddim."
            raise InputError("drift", f"an operator H without an inverse at t = {float(t):.3g}", "one with it", hint)
        drift = torch.linalg.solve(h, dh, left=False)
        return DenseRates(drift, ds - drift @ s - s @ drift.mH)

    def clock(self, t: float) -> Tensor:
        """R = H^-1 Sigma H^-T, the covariance of the noise as seen in the image: a process is Markov iff R rises."""
        h, _, s = self.moments(t)
        return torch.linalg.solve(h, torch.linalg.solve(h, s).mH).mH

    @cached_property
    def first_decrease(self) -> tuple[float, float] | None:
        """(time, least eigenvalue of the covariance of the step over its largest variance) where the forward step is
        first no covariance, on `TIMES` times, or None.
        """
        times = torch.linspace(0, 1, TIMES, dtype=torch.float64, device="cpu").tolist()
        for s, t in itertools.pairwise(times):
            step = self.transition(s, t)[1]
            scale = float(torch.diagonal(self.moments(t).S).abs().max().clamp_min(1e-300))
            lifted = 0.5 * (step + step.mH) + 1e-10 * scale * torch.eye(self.n, dtype=step.dtype, device=step.device)
            if int(torch.linalg.cholesky_ex(lifted)[1]) != 0:
                return t, float(torch.linalg.eigvalsh(lifted).min()) / scale - 1e-10
        return None

    @property
    def markov(self) -> bool:
        """Whether stochastic steps exist: R never decreases (in the order of covariances)."""
        return self.first_decrease is None

    def require_markov(self, what: str) -> None:
        """Raise where stochastic steps are not defined."""
        if self.first_decrease is not None:
            t, least = self.first_decrease
            found = f"a process whose forward step is no covariance at t = {t:.3f} (least eigenvalue {least:.1g})"
            raise InputError(what, found, "a clock that never decreases", "The rule 'ddim' remains defined.")

    # ---- transitions ---------------------------------------------------------------------------------------------

    def _gain(self, s: float, t: float) -> Tensor:
        """A_t A_s^-1 (of H for a Markov process); the pseudo-inverse where it has none."""
        of = (lambda u: self.moments(u).H) if self.memory is None else lambda u: self.memory(self._time(u))  # type: ignore[misc]
        return of(t) @ _inverted(of(s))

    def transition(self, s: float, t: float) -> tuple[Tensor, Tensor]:
        """H_D = H_t H_s^-1 and Sigma_D = Sigma_t - H_D Sigma_s H_D^T of x_t | x_s, s < t, less the pull."""
        gain = self._gain(s, t)
        return gain, self.moments(t).S - gain @ self.moments(s).S @ gain.mH

    def conditional(self, t: float, s: float, eta: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
        """Weights (keep, data, covariance) of q(w_s | w_t, x_0) = N(keep w_t + data x_0, covariance), s < t.

        w is the state less the pull.  eta = 1 is the exact conditional, keep = Sigma_s H_D^T Sigma_t^-1; every eta has
        keep Sigma_t keep^T + eta^2 V = Sigma_s and so the marginals, V the exact covariance.  Of the keeps that do,
        keep = (Sigma_s - eta^2 V)^(1/2) U Sigma_t^(-1/2) with U orthogonal, that one is taken which is nearest to the
        flow of the stochastic equation with the share eta of its noise, so that eta = 0 tends to the probability flow.
        In directions without noise at t, where x_0 is known, keep is H_s H_t^-1; where there is nothing of x_0
        either, the state is drawn anew at any eta.
        """
        mt, ms = self.moments(t), self.moments(s)
        gain = self._gain(s, t)
        inverse = inverse_of(mt.S)
        exact = ms.S @ gain.mH @ inverse
        covariance = ms.S - exact @ mt.S @ exact.mH
        keep = exact if eta == 1 else self._turned(exact, gain, eta, ms.S - eta**2 * covariance, mt.S)
        silent = torch.eye(len(inverse), dtype=inverse.dtype, device=inverse.device) - inverse @ mt.S
        known = _inverted(mt.H)
        keep = keep + ms.H @ known @ silent
        pinned = silent - known @ mt.H @ silent
        return keep, ms.H - keep @ mt.H, eta**2 * covariance + (1 - eta**2) * pinned @ ms.S @ pinned.mH

    @staticmethod
    def _turned(exact: Tensor, gain: Tensor, eta: float, left: Tensor, noise: Tensor) -> Tensor:
        """The keep of `conditional` for eta < 1: `left` = Sigma_s - eta^2 V, `noise` = Sigma_t."""
        share = 0.5 * (1 + eta**2)  # of G G^T Sigma^-1 in the drift
        flow = share * exact + (1 - share) * _inverted(gain)
        root = root_of(left)
        first, _, second = torch.linalg.svd(root @ flow @ root_of(noise))
        return root @ first @ second @ _spectral(noise, lambda v: v**-0.5)

    # ---- Gaussian data -------------------------------------------------------------------------------------------

    def posterior(self, mean: Tensor, covariance: Tensor, w: Tensor, t: float) -> tuple[Tensor, Tensor]:
        """Mean `(B, n)` and covariance `(n, n)` of x_0 ~ N(mean, covariance) given states w `(B, n)` less the pull."""
        gain, left = self.update(covariance, t)
        h = self.moments(t).H
        return mean + (w - mean @ h.mT) @ gain.mT, left

    def update(self, covariance: Tensor, t: float) -> tuple[Tensor, Tensor]:
        """Gain C H^T (H C H^T + Sigma)^-1 on w - H mean, and covariance of x_0 ~ N(mean, C) given w, `(n, n)`."""
        h, _, s = self.moments(t)
        gain = covariance @ h.mH @ inverse_of(h @ covariance @ h.mH + s)
        rest = torch.eye(len(h), dtype=h.dtype, device=h.device) - gain @ h
        return gain, rest @ covariance @ rest.mH + gain @ s @ gain.mH

    # ---- a common basis --------------------------------------------------------------------------------------------

    def diagonal(self, spacing: Sequence[float] = (), conditioning: Kind = "none") -> Process:
        """The same process as a `Process` in the basis of the common eigenvectors, with every rule of the package.

        `conditioning` "terminal": its state at t = 1 is the measurement.  Raises `InputError` where there is no such
        basis, because H or Sigma is not symmetric or they do not commute, and where H has a negative eigenvalue.
        """
        times = torch.linspace(0, 1, TIMES, dtype=torch.float64, device="cpu").tolist()
        tables = [m for t in times for m in self.moments(t) if float(m.abs().max()) > 0]
        scaled = [m / m.abs().max() for m in tables]
        if any(m.is_complex() for m in scaled):
            raise InputError("common basis", "complex operators", "real ones", "See dephased for complex responses.")
        mixed = sum(math.cos(1 + 2.4 * i) * m for i, m in enumerate(scaled))  # equal only where all of them are
        assert isinstance(mixed, Tensor)
        rows = torch.linalg.eigh(0.5 * (mixed + mixed.mT))[1].mT
        away = max(float((d - torch.diag(torch.diagonal(d))).abs().max()) for d in (rows @ m @ rows.T for m in scaled))
        if away > 1e-9:
            found = f"operators with no common orthonormal basis (off the diagonal {away:.1g} of the largest)"
            raise InputError("common basis", found, "symmetric ones that commute", "Use dense_plan and dense_sample.")
        basis = Orthonormal.of(rows, self.size, spacing)
        least = min(float(((rows @ self.moments(t).H) * rows).sum(1).min()) for t in times)
        if least < -1e-12:
            raise InputError("common basis", f"an eigenvalue of H of {least:.3g}", "none below 0")

        def table(t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            found = [[((rows @ m) * rows).sum(1) for m in self.law(x)] for x in t.reshape(-1)]
            shape = (len(found), 1, *self.size)
            h, k, s2 = (torch.stack([row[i] for row in found]).reshape(shape) for i in range(3))
            return h, k, s2.clamp_min(0.0)

        end = Moments(*(x[0, 0] for x in table(torch.ones(1, dtype=torch.float64, device="cpu"))))
        pairing = Pairing(conditioning, None if conditioning == "none" else lambda basis: end)
        return Process(lambda basis: table, basis, pairing)


def dephased(y: Tensor, response: Tensor, basis: Fourier) -> tuple[Tensor, Tensor]:
    """A measured image whose response is complex, as one whose gain is real: y `(B, C, *N)` -> (image, gain `(*K)`).

    y = F^-1 [H F x + s z] with H = |H| e^(i phi), `response` `(*K)`, a blur that is not symmetric (motion) or off
    centre.  The image F^-1 e^(-i phi) F y has gain |H| and the same noise, because phases turn white noise into white
    noise; so every process and sampler of real gains serves it, the conditional with the gain conj(H_t / H_s) of the
    structured case among them.  Raises `InputError` where a frequency that is its own mirror image (0, Nyquist) has a
    phase: no real blur has one.
    """
    if tuple(response.shape) != basis.shape:
        raise InputError("response", tuple(response.shape), f"{basis.shape}, one for every frequency")
    gain = response.abs()
    phase = torch.where(gain == 0, 1.0, response * ratio(torch.ones_like(gain), gain))
    turn = phase.conj()
    unit = torch.zeros(1, 1, *basis.size, dtype=torch.float64, device=basis.device)
    unit[(0, 0, *[0] * basis.ndim)] = 1.0
    white = basis.forward(basis.inverse(turn * basis.forward(unit)))
    if not torch.allclose(white, turn * basis.forward(unit), atol=1e-9):
        raise InputError("response", "one that no real blur has", "the transform of a real point response")
    return basis.inverse(turn.to(basis.forward(y)) * basis.forward(y)), gain
