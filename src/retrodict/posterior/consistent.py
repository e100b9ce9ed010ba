"""Data consistency inside a chain: a denoiser whose every answer is moved towards the measurement (CDDB, DDNM, CG).

A hook for models that know another condition than the measurement, such as a bridge from A^+ y that was trained for
one operator: it serves every rule and process.  The answer is no posterior mean any more, and its error has no law.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from retrodict._check import InputError, choice
from retrodict.denoisers.denoiser import Denoiser, ErrorLaw, Estimate
from retrodict.denoisers.wrappers import Wrapper
from retrodict.physics.measurement import Measurement
from retrodict.posterior.law import Conditioner, flat_root
from retrodict.processes.observation import Cond

__all__ = ["ConsistentDenoiser"]

FORMS = ("gradient", "range", "prox")


@dataclass(frozen=True)
class ConsistentDenoiser(Wrapper):
    """D' = D moved towards the data y of a measurement y = A x + n, before a rule makes its step.

    "gradient": D' = D + 2 step A^H (y - A D) / max(1, |A|^2), the step that CDDB takes inside a bridge (Chung, Kim, Ye
    2023, arXiv 2305.19809; their step is 1, at which the factor 2 of the square overshoots where |A| = 1: a residual
    r becomes (1 - 2 step |A|^2) r).  "range": D' = D + A^+ (y - A D), so that A D' = y wherever A reaches (Wang, Yu,
    Zhang 2023, DDNM).  Both take y as free of noise.  "prox": the image nearest to D that fits noisy data, the minimum
    of |x - D|^2 / step + (y - A x)^H Sigma^-1 (y - A x), by conjugate gradients; `step` is then a variance in the unit
    of the image, squared.  For a posterior of noisy data see `PosteriorDenoiser`.

    x_t `(B, C, *N)`, the measurement one item on the same grid.  `error_law` is "none".  Raises `InputError` for a
    measurement of another grid, more than one item, a step that is not positive, an unknown form, and "prox" without a
    law of the noise.
    """

    measurement: Measurement
    step: float = 1.0
    form: str = "gradient"

    def __post_init__(self) -> None:
        """Refuse what does not fit the inner denoiser."""
        choice("ConsistentDenoiser form", self.form, FORMS)
        grid = self.measurement.operator.domain.shape[1:]
        if tuple(grid) != tuple(self.process.basis.size):
            raise InputError("measurement", f"images of {tuple(grid)}", f"{tuple(self.process.basis.size)}, the grid")
        if len(self.measurement.y) != 1:
            raise InputError("measurement", f"{len(self.measurement.y)} items", "one, for all states of a batch")
        if not self.step > 0:
            raise InputError("step", self.step, "a positive number")
        if self.form == "prox":
            _ = self.measurement.law

    @cached_property
    def _conditioner(self) -> Conditioner:
        return Conditioner(self.measurement)

    @property
    def error_law(self) -> ErrorLaw:  # type: ignore[override]
        """None: what is moved towards noisy data has no law that anybody stated."""
        return "none"

    def on(self, size: Sequence[int]) -> Self:
        """Itself: a measurement is on one grid."""
        if tuple(size) != self.process.basis.size:
            raise InputError("size", tuple(size), f"{self.process.basis.size}, the grid of the measurement")
        return self

    def gaussian(self) -> Denoiser | None:
        """None: it is no exact denoiser of anything."""
        return None

    def estimate(self, xt: Tensor, t: Tensor, cond: Cond = Cond()) -> Estimate:
        """D' without a law of its error."""
        mean = self.inner(xt, t, cond)
        if self.form == "prox":
            flat = torch.full((1, 1, *self.process.basis.shape), self.step, dtype=torch.float64, device=mean.device)
            return Estimate(self._conditioner.mean(mean, flat_root(self.process.basis, flat)), None)
        exact = mean.to(torch.complex128 if mean.is_complex() else torch.float64)
        return Estimate(mean + self._move(self.measurement.residual(exact)).to(mean), None)

    def _move(self, residual: Tensor) -> Tensor:
        operator = self.measurement.operator.part
        if self.form == "range":
            return operator.pinv(residual)
        return 2 * self.step * operator.adjoint(residual) / max(1.0, operator.norm() ** 2)
