"""Likelihood guidance of structured noise, and the denoiser of a process whose noise kernel is not known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from retrodict._check import InputError, choice
from retrodict.denoisers.denoiser import (
    Denoiser,
    ErrorLaw,
    Estimate,
    GaussianDenoiser,
    Linear,
    check_state,
)
from retrodict.denoisers.mixture import GaussianLaw
from retrodict.denoisers.wrappers import Measured
from retrodict.processes.observation import Cond, Moments, ratio
from retrodict.processes.process import Process

__all__ = ["STATES", "LikelihoodGuided", "UnknownKernel"]

STATES = ("as image", "scaled", "norm")
"""What stands for x_0 in the likelihood of a state; see `LikelihoodGuided`."""


@dataclass(frozen=True)
class LikelihoodGuided(Measured):
    """A denoiser with lambda times the gradient of log p(y | x_t) in its score, y = A x_0 + N(0, Sigma_y) of moments
    `law`, diagonal in the basis (A = h, real); y is an image `(B|1, C, *N)`.

        D' = D + lambda (s^2/h) g,     so that     n' = n + lambda G^2 g,     G^2 = beta K K^T .

    state: what stands for x_0 in the likelihood.  "as image": x_t itself, g = A (y - A x_t)/Sigma_y (Alido et al. 2025,
    algorithm 1, after Jalal et al. 2021).  "scaled": x_t/h, g = (A/h) (y - A x_t/h)/(Sigma_y + A^2 s^2/h^2), exact for
    a prior without information.  "norm", as their code has it, item by item: n' = n + lambda ||n|| v/||v|| with
    v = A (y - A x_t).

    Where Sigma_y has the shape of s^2, s^2/Sigma_y is the same number everywhere and K is never inverted: that is the
    structured prior of the paper.  A coefficient without noise in both takes the largest of these numbers.  `sign`
    "published" goes down the likelihood, as their printed step does.  None of the three is the likelihood of x_t, which
    needs the law of x_0 given x_t; `Fused` is exact.

    Raises `InputError` for a measurement without noise where the process has some.
    """

    strength: float = 1.0
    state: str = "as image"
    sign: str = "corrected"

    def __post_init__(self) -> None:
        """Refuse unknown forms and a likelihood without a density."""
        choice("LikelihoodGuided state", self.state, STATES)
        choice("LikelihoodGuided sign", self.sign, ("corrected", "published"))
        end = self.process.moments(torch.ones(1, dtype=torch.float64, device="cpu"))
        if self.state == "as image" and bool(((self._law.s2 == 0) & (end.s2 > 0)).any()):
            found = "a measurement without noise in coefficients where the process has some"
            raise InputError("LikelihoodGuided", found, "noise wherever the process has noise", "Use Fused.")

    @cached_property
    def _law(self) -> Moments:
        return Moments(*(x[(None,) * (2 + self.process.ndim - x.ndim)] for x in self.law))

    @property
    def error_law(self) -> ErrorLaw:  # type: ignore[override]
        """None: the result is no posterior mean."""
        return "none"

    def _gains(self, m: Moments) -> tuple[Tensor, Tensor]:
        """(a, b) of lambda (s^2/h) g = a y - b w, per coefficient."""
        gain, noise = self._law.h, self._law.s2
        step = self.strength if self.sign == "corrected" else -self.strength
        if self.state == "scaled":
            r = m.s2 / m.h**2
            weight = step * gain * ratio(r, noise + gain**2 * r)
            return weight, weight * gain / m.h
        share = ratio(m.s2, noise)
        share = torch.where((m.s2 == 0) & (noise == 0), share.amax(), share)
        weight = step * share * gain / m.h
        return weight, weight * gain

    def estimate(self, xt: Tensor, t: Tensor, cond: Cond = Cond()) -> Estimate:
        """D' of a state; the law of its error is not known."""
        process = self.process
        check_state(process, xt, cond)
        mean = self.inner(xt, t, cond)
        w, m = process.to_coefficients(xt, t, cond.image if process.anchored else None), process.moments(t)
        y, real = process.basis.forward(self.y), xt.real.dtype
        if self.state == "norm":
            return Estimate(mean + self._by_norm(mean, w, y, m, real), None)
        a, b = (x.to(real) for x in self._gains(m))
        return Estimate(mean + process.basis.inverse(a * y - b * w), None)

    def _by_norm(self, mean: Tensor, w: Tensor, y: Tensor, m: Moments, real: torch.dtype) -> Tensor:
        """(lambda/h) ||h D - x_t|| v/||v||: with G^2/s^2 one number, ||n|| s^2/G^2 = ||h D - x_t||."""
        basis, gain, h = self.process.basis, self._law.h.to(real), m.h.to(real)
        up = basis.inverse(gain * (y - gain * w))
        n = basis.inverse(h * basis.forward(mean) - w)
        axes = tuple(range(1, n.ndim))
        size = ratio(*(torch.linalg.vector_norm(x, dim=axes, keepdim=True) for x in (n, up)))
        step = self.strength if self.sign == "corrected" else -self.strength
        return step * basis.inverse(basis.forward(size * up) / h)

    def linear(self, t: Tensor) -> Linear:
        """The guided denoiser as numbers, where the inner one has them: for exact cards."""
        if self.state == "norm":
            raise InputError("LikelihoodGuided", "the form 'norm', which is not linear", "'as image' or 'scaled'")
        inner: Linear = self.inner.linear(t)  # type: ignore[attr-defined]
        a, b = (x[0, 0] for x in self._gains(self.process.moments(t)))
        return inner._replace(state=inner.state - b, measurement=inner.measurement + a)


@dataclass(frozen=True)
class UnknownKernel(Denoiser):
    """E[x_0 | x_t] where the noise of x_t was drawn from one of several processes and it is not said which: what a
    network that is not told the kernel learns.  For Gaussian data of `data`.

    D = sum_k p(k | x_t) D_k.  With kernels of one schedule G^2/s^2 is a number, so the averaged whitened score follows
    from D without a kernel, and by linearity of the continuity equation its flow carries the mixture of the marginals
    exactly.  The reverse SDE does not: its diffusion would have to be that of the one kernel.  `process` is the
    schedule itself (`vp`), which plans are made for; deterministic rules alone are exact.
    """

    process: Process
    processes: tuple[Process, ...]
    data: GaussianLaw
    weights: tuple[float, ...] = ()
    error_law: ErrorLaw = "none"

    def __post_init__(self) -> None:
        """Refuse weights that do not fit, and processes of another schedule."""
        if not self.processes or len(self.weights or self.processes) != len(self.processes):
            raise InputError("UnknownKernel weights", self.weights, f"one for each of {len(self.processes)} processes")
        t = torch.tensor([0.3, 1.0], dtype=torch.float64, device="cpu")
        gain = self.process.moments(t).h
        for process in self.processes:
            h = process.moments(t).h
            if process.basis != self.process.basis or not torch.allclose(h, gain.expand_as(h), rtol=1e-12):
                raise InputError("UnknownKernel processes", "another gain or basis", "those of its schedule")

    def estimate(self, xt: Tensor, t: Tensor, cond: Cond = Cond()) -> Estimate:
        """The average over what is known of the kernel."""
        check_state(self.process, xt, cond)
        u = self.process.basis.forward(xt)
        prior = torch.tensor(self.weights or [1.0] * len(self.processes), dtype=torch.float64, device=xt.device)
        moments = [process.moments(t) for process in self.processes]
        logs = torch.stack([self.data.log_evidence(u, m) for m in moments], 1) + (prior / prior.sum()).log()
        share = logs.softmax(1).to(xt.real.dtype)
        answers = [GaussianDenoiser(p, self.data.mean, self.data.spectrum)(xt, t) for p in self.processes]
        lifted = [len(u), *[1] * (xt.ndim - 1)]
        return Estimate(sum(share[:, k].reshape(lifted) * d for k, d in enumerate(answers)), None)  # type: ignore[arg-type]

    def on(self, size: Sequence[int]) -> Self:
        """Itself; a law in tables cannot go to another grid."""
        if tuple(size) != self.process.basis.size:
            raise InputError("size", tuple(size), f"{self.process.basis.size}, the grid of the law")
        return self

    def to(self, device: str | torch.device) -> Self:
        """The same denoiser on another device."""
        data = GaussianLaw(self.data.basis.to(device), self.data.mean.to(device), self.data.spectrum.to(device))
        moved = tuple(process.to(device) for process in self.processes)
        return replace(self, process=self.process.to(device), processes=moved, data=data)
