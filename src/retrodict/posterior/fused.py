"""State and measurement as one observation: the exact posterior denoiser where one basis makes all diagonal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.bases import Basis, Pixel
from retrodict.denoisers.denoiser import Estimate, GaussianDenoiser, Observer, check_state
from retrodict.denoisers.wrappers import Wrapper
from retrodict.physics.algebra import Scaled
from retrodict.physics.filters import FilterBank
from retrodict.physics.measurement import Measurement
from retrodict.physics.operator import Spectral, scaled_by
from retrodict.processes.observation import Cond, Moments, Pairing, fuse
from retrodict.processes.process import Process

__all__ = ["FusedDenoiser", "coefficients_of"]


def coefficients_of(measurement: Measurement, basis: Basis) -> tuple[Tensor, Moments] | None:
    """A measurement of one item as coefficients `(1, C, *K)` of a basis and their moments y = h u_0 + s z, or None.

    A = L diag(g) B gives L^H (y - b) = g u_0 + L^H n; the phase of g is taken out, so h = |g|.  There is such a form
    where the operator is diagonal in the basis (or a number) and the noise white, or diagonal there too.
    """
    part, factor = measurement.operator.part, 1.0
    while isinstance(part, Scaled):  # the scale of a model that was folded in
        part, factor = part.inner, factor * part.factor
    if isinstance(part, FilterBank):
        return _of_stack(measurement, part, factor, basis)
    form = measurement.operator.part.spectral()
    data, covariance = measurement.gaussian()
    form = None if form is None else _in(form, basis)
    if form is None or form.basis != basis or covariance.channels is not None:
        return None
    if measurement.mask is not None:
        seen = measurement.operator.measured
        if seen is None or not torch.equal(seen.to(measurement.mask), measurement.mask):
            return None
    own = covariance.basis == basis or (covariance.basis is None and isinstance(basis, Pixel))
    if covariance.number is None and (not own or form.left is not None):
        return None
    offset = measurement.operator.offset
    u = form.from_range(data if offset is None else data - offset.to(data))
    size = form.gain.abs()
    turned = torch.where(size > 0, form.gain.conj() / torch.where(size > 0, size, 1.0), 0.0)
    turned = turned.resolve_conj()
    noise = torch.as_tensor(covariance.variance, dtype=torch.float64, device=basis.device)
    h = size.double().to(basis.device)
    return scaled_by(turned, u), Moments(
        h, torch.zeros_like(h), noise.expand(torch.broadcast_shapes(noise.shape, h.shape))
    )


def _of_stack(measurement: Measurement, bank: FilterBank, factor: float, basis: Basis) -> tuple[Tensor, Moments] | None:
    """The same of several filtered images of one: y_j = factor H_j u_0 + n_j with the law of n_j alike for all j.

    sum_j conj(H_j) y_j / h with h^2 = sum_j |H_j|^2 is all that they say of u_0, and its noise is that of one of them:
    stacks of defocused images (TIE) and of sources (IDT of one slice).
    """
    data, covariance = measurement.gaussian()
    table = torch.as_tensor(covariance.variance, dtype=torch.float64, device=basis.device)
    alike = covariance.number is not None or (covariance.basis == basis and tuple(table.shape) == basis.shape)
    if bank.gains.shape[1] != 1 or bank.basis != basis or covariance.channels is not None or not alike:
        return None
    if measurement.mask is not None and not bool((measurement.mask == 1).all()):
        return None
    offset = measurement.operator.offset
    u = basis.forward(data if offset is None else data - offset.to(data))
    gains = factor * bank.gains[:, 0].to(basis.device)
    h = gains.abs().square().sum(0).sqrt()
    weights = torch.where(h > 0, gains.conj() / torch.where(h > 0, h, 1.0), 0.0)
    return scaled_by(weights, u).sum(1, keepdim=True), Moments(h, torch.zeros_like(h), table.expand(h.shape))


def _in(form: Spectral, basis: Basis) -> Spectral:
    """A multiple of the identity is one in every basis."""
    plain = isinstance(form.basis, Pixel) and form.left is None
    if not plain or form.basis == basis or form.basis.size != basis.size:
        return form
    first = form.gain.flatten()[0]
    return Spectral(basis, first.expand(basis.shape)) if bool((form.gain == first).all()) else form


@dataclass(frozen=True)
class _Law:
    """The law of a measurement on the one grid that it was made on."""

    basis: Basis
    moments: Moments

    def __call__(self, basis: Basis) -> Moments:
        if basis.to("cpu") != self.basis.to("cpu"):
            raise InputError("size", basis.size, f"{self.basis.size}, the grid of the measurement")
        return Moments(*(x.to(basis.device) for x in self.moments))


@dataclass(frozen=True)
class FusedDenoiser(Wrapper):
    """E[x_0 | x_t, y] and its law in ONE call of `inner` (identity I5): no guidance, no solve, no gradient.

    State and measurement are independent given x_0, so the two observations are one of a cleaner clock: precisions add.
    `inner` has to answer for any observation (exact denoisers, networks that are told the clock), and its process, the
    operator and the noise have to be diagonal in one basis.  `process` is that of `inner` with the measurement beside
    the chain ("external"), so the public gate judges it, and `restore_batch`, the card and every rule take it; what
    they are given as measured image is `image`.

    Raises `InputError` where there is no such basis, or the network knows its own process alone.
    """

    inner: Observer
    measurement: Measurement

    def __post_init__(self) -> None:
        """Refuse what cannot be fused."""
        if not isinstance(self.inner, Observer) or not self.inner.any_clock:
            found = type(self.inner).__name__
            raise InputError("fuse", found, "a denoiser that answers for any observation (level='clock' for a network)")
        if len(self.measurement) != 1:
            raise InputError("measurement", f"{len(self.measurement)} items", "one", "Use item(i).")
        if self.inner.process.pairing.restores:
            raise InputError("fuse", "a process with a measurement of its own", "one of the image alone")
        if coefficients_of(self.measurement, self.inner.process.basis) is None:
            kind = type(self.inner.process.basis).__name__
            found = f"{self.measurement.operator.name} and its noise, not diagonal in {kind}"
            raise InputError("fuse", found, "process, operator and noise diagonal in one basis", "Use 'matched'.")

    @cached_property
    @torch.inference_mode(mode=False)
    def _seen(self) -> tuple[Tensor, Moments]:
        found = coefficients_of(self.measurement, self.inner.process.basis)
        assert found is not None  # __post_init__ has looked
        return found

    @cached_property
    def process(self) -> Process:  # type: ignore[override]
        """That of the inner denoiser, with the law of the measurement."""
        own = self.inner.process
        return replace(own, pairing=Pairing("external", _Law(own.basis, self._seen[1])), recipe=None)

    @property
    def image(self) -> Tensor:
        """The measurement `(1, C, *N)` as an image whose coefficients are h u_0 + s z."""
        return self.inner.process.basis.inverse(self._seen[0])

    def estimate(self, xt: Tensor, t: Tensor, cond: Cond = Cond()) -> Estimate:
        """One call at the fused observation; the measured image is `cond.image`."""
        process = self.process
        check_state(process, xt, cond)
        assert cond.image is not None  # check_state has looked
        w, basis = process.to_coefficients(xt, t), process.basis
        law = Moments(*(x.reshape(*[1] * (w.ndim - x.ndim), *x.shape) for x in process.measurement or ()))
        return self.inner.observe(*fuse(w, process.moments(t), basis.forward(cond.image).expand_as(w), law))

    def on(self, size: Sequence[int]) -> Self:
        """Itself: a measurement is on one grid."""
        if tuple(size) != self.inner.process.basis.size:
            raise InputError("size", tuple(size), f"{self.inner.process.basis.size}, the grid of the measurement")
        return self

    def gaussian(self) -> GaussianDenoiser | None:
        """The exact denoiser of Gaussian data that is shown the same measurement."""
        prior = self.inner.prior()
        return None if prior is None else GaussianDenoiser(self.process, *prior)
