"""Principal components of the posterior: directions in which the error of an answer is coupled.

The covariance of x_0 given a state w is s^2/h times the Jacobian of the denoiser (Tweedie), so it is applied to a
direction by one more call at a state that is moved along it.  A few rounds of Lanczos' method find the directions
of largest variance (posterior principal components: Manor and Michaeli, ICLR 2024, who use subspace iterations), here
relative to the variances that the denoiser itself states: what is wanted is what couples the coefficients.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.denoisers.denoiser import Denoiser, Estimate
from retrodict.denoisers.spread import CoupledSpread
from retrodict.processes.observation import Cond, noise_like, ratio

__all__ = ["lanczos", "principal"]

MOVE = 0.1
"""By how much of the noise of the state a probe moves it."""


def principal(
    denoiser: Denoiser,
    xt: Tensor,
    t: Tensor,
    seeds: Tensor,
    count: int,
    cond: Cond = Cond(),
    said: Estimate | None = None,
) -> tuple[Tensor, ...]:
    """Directions q `(B, C, *K)`, at most `count`, with Cov[x_0 | x_t] nearly diag(v) + sum q q^T less their diagonal.

    xt `(B, C, *N)` at t `(B,)`; v is the variance per coefficient that the denoiser states.  count + 1 calls; each item
    has its own rounds, which start from a white field of its seed `(B,)`.  Directions come in falling order.  `said`:
    what the denoiser says there, where that is known: one call less.

    Raises `InputError` where the denoiser does not know the law of its error.
    """
    process, basis = denoiser.process, denoiser.process.basis
    with torch.no_grad():
        said = said or denoiser.estimate(xt, t, cond)
    if not isinstance(said.spread, CoupledSpread):
        found = "a denoiser that does not know the law of its error per coefficient"
        raise InputError("components", found, "one with a spectrum or a spread")
    m = process.moments(t)
    root = said.spread.power().clamp_min(0).sqrt().to(xt.real)
    inverse, noise = ratio(torch.ones_like(root), root), ratio(m.s2, m.h).to(xt.real)
    center, std = basis.forward(said.mean), m.s2.sqrt().to(xt.real)
    state = process.to_coefficients(xt, t, cond.image if process.anchored else None)

    def applied(field: Tensor) -> Tensor:
        """v^-1/2 Cov v^-1/2 of a white field `(B, C, *N)`, of unit norm."""
        probe = noise * inverse * basis.forward(field)
        size = (
            ratio(probe, std.expand(probe.shape).to(probe.real))
            .abs()
            .square()
            .mean(tuple(range(1, probe.ndim)), keepdim=True)
            .sqrt()
        )
        move = ratio(torch.full_like(size, MOVE), size)
        moved = process.to_image(state + move * probe, t, cond.image if process.anchored else None)
        with torch.no_grad():
            change = basis.forward(denoiser(moved, t, cond)) - center
        return basis.inverse(inverse * change / move)

    fields, table = lanczos(applied, noise_like(xt, seeds, "components", 0), count)
    values, vectors = torch.linalg.eigh(table)
    found = []
    for k in range(values.shape[1] - 1, -1, -1):
        weight = (values[:, k] - 1).clamp_min(0).sqrt()
        ritz = sum(vectors[:, j, k].reshape(-1, *[1] * (xt.ndim - 1)).to(xt.real) * f for j, f in enumerate(fields))
        found.append(weight.reshape(-1, *[1] * (xt.ndim - 1)).to(xt.real) * root * basis.forward(ritz))  # type: ignore[arg-type]
    return tuple(found)


def lanczos(applied: Callable[[Tensor], Tensor], start: Tensor, count: int) -> tuple[list[Tensor], Tensor]:
    """Orthonormal fields and the table `(B, count, count)` of the operator between them, orthogonalised in full."""
    fields, images = [_unit(start)], []
    for k in range(count):
        images.append(applied(fields[k]))
        if k + 1 < count:
            rest = images[k]
            for _ in range(2):
                for f in fields:
                    rest = rest - _dot(f, rest) * f
            fields.append(_unit(rest))
    rows = [torch.stack([_dot(f, image).flatten() for f in fields], -1).double() for image in images]
    table = torch.stack(rows, 1)
    return fields, 0.5 * (table + table.mT)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a.conj() * b).real.flatten(1).sum(1).reshape(-1, *[1] * (a.ndim - 1))


def _unit(x: Tensor) -> Tensor:
    size = _dot(x, x).sqrt()
    return torch.where(size > 0, x / size.clamp_min(torch.finfo(size.dtype).tiny), torch.zeros_like(x))
