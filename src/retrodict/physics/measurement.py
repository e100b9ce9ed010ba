"""A measurement: an operator, a law of noise, the data; residual, likelihood, misfit, and the Gaussian posterior."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.physics.conditional import Posterior, Whitened, gain_of, solve
from retrodict.physics.covariance import Covariance
from retrodict.physics.noise import Misfit, Noise, Seeds, noise_like
from retrodict.physics.operator import Operator

__all__ = ["Measurement"]


@dataclass(frozen=True)
class Measurement:
    """y = A x + noise: `operator` A (linear or affine), data `y` `(B, *range.shape)`, `noise` its law.

    `mask` `(*range.shape)` is 1 where something was measured; None: what the operator says of itself (`measured`).
    Whatever lies elsewhere counts nowhere, in no norm and in no number of degrees.  `unit` is that of y, to be compared
    with the operator's; without `noise` only what needs no law can be asked.  Images x are `(B, *domain.shape)`; one
    item of y is compared with any number of images.  All factors are written out: the log-likelihood has its 1/2, its
    Sigma^-1 and its constants.

    Raises `InputError` for data of another shape, kind or unit, data that are NaN where they were measured, a law of
    other units or another shape, and a mask that leaves nothing.
    """

    operator: Operator
    y: Tensor
    noise: Noise | None = None
    mask: Tensor | None = None
    unit: str | None = None

    def __post_init__(self) -> None:
        """Refuse what does not fit together, before anything long is computed."""
        space = self.operator.range
        space.check(self.y, "y")
        if self.unit is not None and self.unit != self._data_unit:
            raise InputError("y unit", repr(self.unit), f"{self._data_unit!r}, as of {self.operator.name}")
        if self.mask is not None:
            self._check_mask(self.mask)
        elif self.operator.measured is not None:
            object.__setattr__(self, "mask", self.operator.measured)
        seen = self.y.abs() if self.mask is None else torch.where(self.mask.to(self.y.device) > 0, self.y.abs(), 0.0)
        if not bool(torch.isfinite(seen).all()):
            raise InputError("y", "NaN or infinity", "finite numbers where the mask says measured")
        if self.noise is not None:
            self._check_noise(self.noise)

    def _check_mask(self, mask: Tensor) -> None:
        shape = self.operator.range.shape
        if mask.is_complex() or tuple(mask.shape) != shape:
            raise InputError("mask", f"{tuple(mask.shape)}, {mask.dtype}", f"0 and 1 of the shape {shape}")
        if not bool(((mask == 0) | (mask == 1)).all()) or not bool((mask == 1).any()):
            raise InputError("mask", "values other than 0 and 1, or nothing measured", "1 where something was measured")

    def _check_noise(self, noise: Noise) -> None:
        space = self.operator.range
        noise.check(space)
        if noise.clean_unit is not None and noise.clean_unit != space.unit:
            hint = "Give the noise in the unit of the data."
            raise InputError("noise unit", repr(noise.clean_unit), f"{space.unit!r}, as of {self.operator.name}", hint)
        covariance = getattr(noise, "covariance", None)
        if self.mask is not None and covariance is not None and not covariance.elementwise:
            alike = covariance.basis is None and bool((self.mask == self.mask[:1]).all())
            if not alike and not bool((self.mask == 1).all()):
                raise InputError(
                    "mask",
                    "samples left out of correlated noise",
                    "independent noise, or a mask that leaves nothing out",
                )

    @classmethod
    def simulate(
        cls, operator: Operator, noise: Noise, x: Tensor, seeds: Seeds, *, step: int = 0, mask: Tensor | None = None
    ) -> Measurement:
        """Data of images x, with noise that is a function of a seed for every item; 0 where nothing is measured."""
        made = cls(operator, operator.forward(x), None, mask)
        noise.check(operator.range)
        y = noise.sample(operator.forward(x), seeds, step=step)
        return cls(operator, made._seen(y), noise, mask)

    # ---- parts -------------------------------------------------------------------------------------------------------

    @property
    def _data_unit(self) -> str:
        law = None if self.noise is None else self.noise.unit
        return self.operator.range.unit if law is None else law

    @property
    def law(self) -> Noise:
        """The noise; `InputError` where none was given."""
        if self.noise is None:
            raise InputError("noise", "none", "a law, such as GaussianNoise.white(sigma)", "Measure it or state it.")
        return self.noise

    def __len__(self) -> int:
        """Number of items."""
        return len(self.y)

    def item(self, i: int) -> Measurement:
        """One item as a measurement of its own."""
        noise = None if self.noise is None else self.noise.item(i, self.y.ndim - 1)
        return replace(self, y=self.y[i : i + 1], noise=noise)

    def _seen(self, y: Tensor) -> Tensor:
        return y if self.mask is None else torch.where(self.mask.to(y.device) > 0, y, 0.0)

    @property
    def about(self) -> dict[str, Any]:
        """What belongs into a record: that of the operator, the law by name, the number of real data of an item."""
        law = None if self.noise is None else type(self.noise).__name__
        return {**self.operator.about, "noise": law, "data": self.count}

    @property
    def count(self) -> int:
        """Real numbers that were measured, of one item."""
        parts = 2 if self.operator.range.complex else 1
        return parts * int(self.mask.sum()) if self.mask is not None else self.operator.range.count

    # ---- residual and likelihood -------------------------------------------------------------------------------------

    def residual(self, x: Tensor) -> Tensor:
        """Y - A x, 0 where nothing was measured."""
        return self._seen(self.y - self.operator.forward(x))

    def relative_residual(self, x: Tensor) -> Tensor:
        """|y - A x| / |y - A 0| over what was measured, `(B,)` float64."""
        first = self.residual(torch.zeros_like(x)).abs().double().flatten(1).norm(dim=1)
        return self.residual(x).abs().double().flatten(1).norm(dim=1) / first

    def log_likelihood(self, x: Tensor) -> Tensor:
        """Log p(y | x), `(B,)` float64, constants included."""
        return self.law.log_likelihood(self.operator.forward(x), self._like(x), self.mask)

    def gradient(self, x: Tensor) -> Tensor:
        """D log p(y | x) / dx = A^H d log p / du."""
        u = self.operator.forward(x)
        return self.operator.adjoint(self.law.gradient(u, self._like(x), self.mask))

    def misfit(self, x: Tensor) -> Misfit:
        """Chi^2 of the residual with its law: mean, variance, p-values."""
        return self.law.misfit(self.operator.forward(x), self._like(x), self.mask)

    def _like(self, x: Tensor) -> Tensor:
        return self.y.expand(len(x), *self.y.shape[1:]) if len(self.y) == 1 else self.y

    # ---- the Gaussian that stands for it -----------------------------------------------------------------------------

    @cached_property
    def _local(self) -> tuple[Tensor, Covariance]:
        data, covariance = self.law.gaussian(self._filled())
        return self._seen(data), covariance

    def _filled(self) -> Tensor:
        """The data with something harmless where nothing was measured."""
        return self.y if self.mask is None else torch.where(self.mask.to(self.y.device) > 0, self.y, 1.0)

    def gaussian(self) -> tuple[Tensor, Covariance]:
        """Data and covariance of the Gaussian law that stands for p(y | u); of Gaussian noise y and Sigma."""
        return self._local

    def whitened(self) -> tuple[Whitened, Tensor]:
        """W A and W (y - b) with W = Sigma^(-1/2) M: least squares of them is the likelihood.  Of one item."""
        if len(self.y) != 1:
            raise InputError("y", f"{len(self.y)} items", "one: items may have weights of their own", "Use item(i).")
        data, covariance = self.gaussian()
        offset = self.operator.offset
        rest = data if offset is None else data - offset.to(data)
        operator = Whitened(self.operator.part, covariance, self.mask)
        return operator, operator.white(rest)

    # ---- the posterior of a Gaussian image ---------------------------------------------------------------------------

    def posterior_mean(
        self, mean: Tensor | float, covariance: Covariance, *, tolerance: float | None = None, rounds: int = 500
    ) -> Posterior:
        """Argmin |y - A x|^2_(Sigma^-1) / 2 + |x - mean|^2_(C^-1) / 2: the mean of x ~ N(mean, C) given y.

        mean + C A^H (A C A^H + Sigma)^-1 (y - A mean), in closed form where one basis makes A, C and Sigma diagonal;
        otherwise by conjugate gradients on (1 + C^1/2 A^H Sigma^-1 A C^1/2) w = C^1/2 A^H Sigma^-1 (y - A mean), whose
        preconditioner is the spectral form of A or its response to a point.  They end where the residual is `tolerance`
        of the first (1e-10 in double, 1e-5 in single precision) or after `rounds`; the record says what is left and
        estimates the error.  Variances of 0 in C are allowed.
        """
        return self._each(mean, covariance, tolerance, rounds, None)

    def posterior_sample(
        self,
        mean: Tensor | float,
        covariance: Covariance,
        seeds: Seeds,
        *,
        step: int = 0,
        tolerance: float | None = None,
        rounds: int = 500,
    ) -> Posterior:
        """Exact draws of x ~ N(mean, C) given y: perturb and solve, one for each seed.

        x' = mean + C^1/2 z_1, y' = y + Sigma^1/2 z_2; the posterior mean of (x', y') has mean and covariance of the
        posterior (Papandreou and Yuille, NeurIPS 2010; Orieux et al., IEEE Trans. Image Process. 21, 2012).  Data of
        one item may be given any number of seeds.
        """
        return self._each(mean, covariance, tolerance, rounds, (seeds, step))

    def guidance(
        self, mean: Tensor | float, covariance: Covariance, *, tolerance: float | None = None, rounds: int = 500
    ) -> Tensor:
        """A^H (A C A^H + Sigma)^-1 (y - A mean), `(B, *domain.shape)`: the gradient of log p(y) by the mean."""
        found = self.posterior_mean(mean, covariance, tolerance=tolerance, rounds=rounds)
        parts = []
        for i, x in enumerate(found.x):
            part = self.item(i if len(self) > 1 else 0)
            operator, data = part.whitened()
            parts.append(operator.adjoint(data - operator.forward(x[None])))
        return torch.cat(parts)

    def expected_misfit(self, covariance: Covariance) -> float | None:
        """E chi^2 of the posterior mean, m - sum |h|^2 C / (|h|^2 C + Sigma), where there is a closed form, else None.

        It is below the m of the true image and of a posterior sample: a mean fits some of the noise.
        """
        form = gain_of(self.item(0), covariance)
        if form is None:
            return None
        taken = form.power / (form.power + form.noise)
        count = form.multiplicity * taken
        whole = (self.operator.domain.shape[0], *form.multiplicity.shape)
        return self.count - float(count.expand(whole).sum())

    def _each(
        self,
        mean: Tensor | float,
        covariance: Covariance,
        tolerance: float | None,
        rounds: int,
        draw: tuple[Seeds, int] | None,
    ) -> Posterior:
        covariance.check(self.operator.domain, "covariance")
        space, count = self.operator.domain, len(self.y)
        if isinstance(mean, Tensor):
            space.check(mean, "mean")
            count = max(count, len(mean))
        count = count if draw is None else max(count, len(draw[0]))
        for what, n in (("y", len(self.y)), ("mean", len(mean) if isinstance(mean, Tensor) else 1)):
            if n not in (1, count):
                raise InputError(what, f"{n} items", f"1 or {count}")
        if draw is not None and len(draw[0]) != count:
            raise InputError("seeds", f"{len(draw[0])} seeds", f"{count}, one for every item")
        done = []
        for i in range(count):
            part = self.item(i if len(self.y) > 1 else 0)
            middle = _image(mean, i, part.y, space.shape, space.complex)
            prior = covariance.item(i, len(space.shape))
            if draw is not None:
                part, middle = part._perturbed(middle, prior, [int(draw[0][i])], draw[1])
            done.append(solve(part, middle, prior, tolerance, rounds))
        return Posterior.join(done)

    def _perturbed(self, mean: Tensor, prior: Covariance, seed: list[int], step: int) -> tuple[Measurement, Tensor]:
        data, covariance = self.gaussian()
        shifted = data + covariance.power(noise_like(data, seed, "posterior-noise", step), 0.5)
        part = replace(self)
        part.__dict__["_local"] = (self._seen(shifted), covariance)
        return part, mean + prior.power(noise_like(mean, seed, "posterior-image", step), 0.5)


def _image(mean: Tensor | float, i: int, like: Tensor, shape: tuple[int, ...], complex: bool) -> Tensor:
    """The prior mean of item i in the precision of the data."""
    double = like.dtype in (torch.float64, torch.complex128)
    real = torch.float64 if double else torch.float32
    dtype = real if not complex else (torch.complex128 if double else torch.complex64)
    if isinstance(mean, Tensor):
        return mean[i if len(mean) > 1 else 0][None].to(dtype=dtype, device=like.device)
    return torch.full((1, *shape), mean, dtype=dtype, device=like.device)
