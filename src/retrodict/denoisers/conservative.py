"""A denoiser whose score is the gradient of one scalar energy, by construction."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.denoisers.denoiser import Denoiser, Estimate
from retrodict.denoisers.diagnostics import Whitened, gaussian_of, whitened
from retrodict.denoisers.wrappers import Wrapper
from retrodict.processes.observation import Cond, ratio

__all__ = ["Conservative"]


@dataclass(frozen=True)
class Conservative(Wrapper):
    """`inner` with what it adds to the Gaussian part replaced by the gradient of an energy.

    In whitened coordinates z (`retrodict.denoisers.diagnostics`), with G of `inner`, G_W of Gaussian data of its
    spectrum and R the rest,

        G'(z) = G_W(z) + grad_z [ 1/2 (z - c).R(z) ],    R = G - G_W,    c = B^-1 [(h/s) m],

    so its Jacobian is symmetric whatever the network (Salimans and Ho 2021 take -|z - G|^2/2, which is not exact on
    Gaussian data).  Gaussian data keep their exact denoiser.  A rest that is linear in z - c along rays becomes
    (R + J^T (z - c))/2, its symmetric part; where `inner` is a gradient of degree one nothing changes.  A call costs a
    backward pass; it can be trained through, as a parametrisation, by calling it.  The law of the error is that of
    `inner`, which was not measured for this mean.

    Raises `InputError` for an inner denoiser that knows no spectrum of its data.
    """

    def __post_init__(self) -> None:
        """Refuse a denoiser that has no Gaussian part to leave alone."""
        if self.inner.prior() is None:
            raise InputError("Conservative", "a denoiser that knows no spectrum of its data", "one with a spectrum")

    def estimate(self, xt: Tensor, t: Tensor, cond: Cond = Cond()) -> Estimate:
        """D' and the law of the error of `inner`: xt `(B, C, *N)`, t `(B,)`."""
        said = self.inner.estimate(xt, t, cond)
        twin, prior = gaussian_of(self.inner), self.inner.prior()
        assert twin is not None
        assert prior is not None
        at, z = whitened(self.inner, xt, t, cond)
        base = Whitened(twin, at.t, at.cond, at.held, at.m)
        basis, m = self.process.basis, at.m
        shift = (ratio(m.h, m.s2.sqrt()) * prior[0]).to(basis.forward(z))
        center = basis.inverse(shift.expand(basis.forward(z).shape))

        def energy(x: Tensor) -> Tensor:
            return 0.5 * ((x - center) * at.noisy(at.signal(x) - base.signal(x))).sum()

        signal = base.signal(z) + torch.func.grad(energy)(z)
        own = ratio(m.s2.sqrt(), m.h).to(z.dtype) * basis.forward(signal)
        told = (m.s2 > 0) & (m.h != 0)  # what carries no noise, or no image, has no score to speak of
        mean = basis.inverse(torch.where(told, own, basis.forward(said.mean)))
        return Estimate(mean, said.spread)

    def gaussian(self) -> Denoiser | None:
        """That of `inner`."""
        return self.inner.gaussian()
