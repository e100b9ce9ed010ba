"""Order two for steps that draw x_0: what the last step missed is put right by the call that ends it.

A step w' = keep w + data (D + e) + std z holds D for its length.  Were the law of the error exact and Gaussian, the
next answer would be D + E[e | data e + std z]: it follows from the innovation i = data e + std z.  What it differs by,

    R = D(w') - D - E[e | i] ,

is the rest of the answer that is not Gaussian, and zero on Gaussian data.  A rest that grows evenly over the step adds
h' p2(H) R to the state, H the step of the clock of the rule (the second weight of `exponential`).

R tells of the covariance of the error too.  If the error has a part q q^T that its law leaves out, R is nearly
q (q . p) with p = (data^2 v + std^2)^-1 data i, so that q = R / sqrt(p . R) (the symmetric rank-one secant; Broyden
1967, Davidon 1968).  The next draw takes q times one number and the rest of the variance of every coefficient from the
law itself: the variance of each coefficient stays what it was, and what couples them is added.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from retrodict.bases import Basis
from retrodict.denoisers.spread import CoupledSpread
from retrodict.processes.observation import Moments, ratio

__all__ = ["Drawn", "along", "correction", "inner", "secant", "shifted"]


class Drawn(NamedTuple):
    """The last step of a run: its innovation, the answer D it started from (coefficients), the law of the error it
    drew and its weights data and std.
    """

    innovation: Tensor
    image: Tensor
    law: CoupledSpread
    data: Tensor
    std: Tensor


def inner(a: Tensor, b: Tensor, basis: Basis) -> Tensor:
    """Inner products of the images with coefficients a and b, `(B, 1, *1)`."""
    product = (a.conj() * b).real * basis.multiplicity().to(a.real)
    return product.flatten(1).sum(1).reshape(-1, *[1] * (a.ndim - 1))


def correction(drawn: Drawn, image: Tensor) -> Tensor:
    """R `(B, C, *K)`, for the answer `image` (coefficients) to the state at which the step ended."""
    return image - drawn.image - drawn.law.given(drawn.innovation, drawn.data, drawn.std**2)


def secant(drawn: Drawn, rest: Tensor, basis: Basis) -> Tensor:
    """The direction q `(B, C, *K)` of covariance that the law left out, or zero where it left out none."""
    power = drawn.data**2 * drawn.law.power().to(rest.real) + drawn.std**2
    probe = ratio(drawn.data, power).to(rest.real) * drawn.innovation
    told = inner(probe, rest, basis)
    return torch.where(told > 0, rest / told.clamp_min(torch.finfo(told.dtype).tiny).sqrt(), torch.zeros_like(rest))


def along(error: Tensor, power: Tensor, directions: tuple[Tensor, ...], numbers: Tensor) -> Tensor:
    """A draw `error` of a law with variances `power`, `(B, C, *K)`, with covariance q q^T for each of `directions`.

    numbers `(B, directions)`: a standard normal one for each.  What a direction takes of the variance of a coefficient,
    at most all that is left, the rest of the draw gives up.
    """
    left = power.to(error.real).expand(error.shape)
    total, whole = torch.zeros_like(error), left
    for k, q in enumerate(directions):
        taken = torch.minimum(q.abs().square(), left)
        share = ratio(taken.sqrt(), q.abs())
        total = total + share * q * numbers[:, k].reshape(-1, *[1] * (error.ndim - 1)).to(error.real)
        left = left - taken
    return total + ratio(left, whole).sqrt() * error


def shifted(image: Tensor, shift: Tensor, law: CoupledSpread, m: Moments) -> Tensor:
    """The answer (coefficients) to a state that is moved by `shift`: by the slope h v / s^2 of its own law."""
    slope = ratio(m.h * law.power(), m.s2)
    return image + slope.to(shift.real) * shift
