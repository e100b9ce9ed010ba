"""A measurement whose noise is not equally strong everywhere: y = h x_0 + m(x) n, n stationary with the NPS.

m is the noise map (dose modulation, the g-factor of parallel imaging, the centre of a body); no basis makes such a
measurement diagonal.  Three things are done about it.

- The linear estimate is exact.  With data N(mean, L), H and N the blur and the noise as operators and M = diag(m),
  E = mean + L H' (H L H' + M N M)^-1 (y - H mean), by conjugate gradients, for which the filter at the middle level of
  the noise is nearly the inverse.
- The law of the error is that of the few levels, blended: sum_k w_k(x) B^-1 sqrt(v_k) B z with one white field z.  The
  weights are those of a map that is smoothed by the first-order response of the posterior variance to the noise,
  d log var(x) / d log m(x') = 2 a(x - x') b(x - x') / sum(2 a b), a the kernel of v h and b that of the gain
  v h / s^2; so variances are right to first order in the changes of log m (compared with the dense posterior in the
  tests).
- The network is told the level of every pixel: one embedding for each of the few levels, blended by the same weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.bases import Fourier
from retrodict.bases.solve import Solution, conjugate_gradients
from retrodict.denoisers.blend import BlendedSpread
from retrodict.denoisers.denoiser import Estimate, GaussianDenoiser, Observer
from retrodict.denoisers.network import LEVELS, NetDenoiser
from retrodict.denoisers.spread import root_mean
from retrodict.processes.observation import Moments, noise_like, ratio, wiener

__all__ = ["MOST", "Levels", "Uneven", "UnevenLaw", "levels_of"]

RATIO = 1.75
"""Ratio of neighboring levels of the bank: a finer bank changes variances by less than 0.5 %."""

MOST = 20.0
"""Ratio of the largest to the smallest factor of a map."""

TOLERANCE, ROUNDS = 1e-6, 300
"""Residual of the conjugate gradients over the first, and the most rounds; 20 are usual, 60 for a factor of 10."""


class Levels(NamedTuple):
    """A few levels `(K,)` of the noise, and their weights `(B, K, *N)` at every pixel, which sum to 1."""

    level: Tensor
    weights: Tensor


def levels_of(log_map: Tensor, level: Tensor) -> Tensor:
    """Weights `(B, K, *N)` of levels `(K,)`, rising, at a map `(B, 1, *N)` of log noise: linear in the logarithm."""
    if len(level) == 1:
        return torch.ones_like(log_map)
    nodes, inner = level.log(), torch.minimum(torch.maximum(log_map, level[0].log()), level[-1].log())
    left = (torch.searchsorted(nodes, inner.contiguous(), right=True) - 1).clamp(0, len(nodes) - 2)
    part = (inner - nodes[left]) / (nodes[left + 1] - nodes[left])
    index = torch.arange(len(nodes), device=log_map.device).reshape(1, -1, *[1] * (log_map.ndim - 2))
    return torch.where(index == left, 1 - part, torch.where(index == left + 1, part, 0.0))


# ---- the Gaussian part ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class UnevenLaw:
    """The joint law of data N(mean, variance) and y = h x_0 + factor B^-1 s B z, on the Fourier `basis`.

    `mean`, `variance` `(*K)` or `(C, *K)`, moments `m` `(*K)`; `factor` `(B|1, 1, *N)` float64, positive.
    """

    basis: Fourier
    mean: Tensor
    variance: Tensor
    m: Moments
    factor: Tensor

    @cached_property
    def bank(self) -> Levels:
        """Levels over the range of the map, at most `RATIO` apart, and their weights; one where it is constant."""
        low, high = (float(x) for x in (self.factor.amin(), self.factor.amax()))
        count = 1 + math.ceil(math.log(high / low) / math.log(RATIO) - 1e-9)
        settings = {"dtype": torch.float64, "device": self.factor.device}
        level = torch.logspace(math.log10(low), math.log10(high), count, **settings)
        level[0] = low
        return Levels(level, levels_of(self.factor.log(), level))

    @cached_property
    def errors(self) -> Tensor:
        """Error variance of the Wiener filter at every level, `(K, C|1, *K)`."""
        return self._at_levels(1)

    def _at_levels(self, which: int) -> Tensor:
        rows = []
        for level in self.bank.level:
            table = wiener(Moments(self.m.h, self.m.k, level**2 * self.m.s2), self.variance)[which]
            rows.append(table.expand(*self.variance.shape).reshape(-1, *self.basis.shape))
        return torch.stack(rows)

    @cached_property
    def local(self) -> Levels:
        """The same levels with weights of the map that the posterior variance responds to, to first order."""
        level, weights = self.bank
        if len(level) == 1:
            return self.bank
        spectrum = self._forward(self.factor.log())
        smooth = torch.zeros_like(self.factor)
        for k, (gain, v) in enumerate(zip(self._at_levels(0), self.errors, strict=True)):
            smooth = smooth + weights[:, k : k + 1] * self._real(self._response(gain, v) * spectrum)
        return Levels(level, levels_of(smooth, level))

    def _response(self, gain: Tensor, v: Tensor) -> Tensor:
        """Transfer function `(*K)` of d log var(0) / d log m(x) over its sum, of all channels together."""
        point = torch.zeros(1, 1, *self.basis.size, dtype=torch.float64, device=self.factor.device)
        point[(0, 0, *[0] * self.basis.ndim)] = 1.0
        unit = self._forward(point)
        a, b = (self._real(table * unit) for table in (v * self.m.h, gain))
        kernel = (a * b).sum(1, keepdim=True)
        return self._forward(kernel / kernel.sum()) * math.sqrt(math.prod(self.basis.size))

    def _forward(self, x: Tensor) -> Tensor:
        return self.basis.forward(x.to(torch.complex128) if self.basis.complex else x)

    def _real(self, u: Tensor) -> Tensor:
        x = self.basis.inverse(u)
        return x.real if x.is_complex() else x

    def filtered(self, table: Tensor, x: Tensor) -> Tensor:
        """B^-1 table B x."""
        return self.basis.inverse(table * self.basis.forward(x))

    def covariance(self, x: Tensor) -> Tensor:
        """(H L H' + M N M) x of an image `(1, C, *N)`: the covariance of y."""
        signal = self.filtered(self.m.h**2 * self.variance, x)
        return signal + self.factor * self.filtered(self.m.s2, self.factor * x)

    def nearly_inverse(self, x: Tensor) -> Tensor:
        """(H L H' + level^2 N)^-1 x at the middle of the range of the map.

        A bank of such filters, blended by the map, needs a third of the rounds where the map is smooth and three times
        as many where it has steps, and costs as many filters a round as it has levels.
        """
        level = self.bank.level[0] * self.bank.level[-1]
        total = self.m.h**2 * self.variance + level * self.m.s2
        return self.filtered(ratio(torch.ones_like(total), total), x)

    def solved(self, rest: Tensor, tolerance: float = TOLERANCE) -> Solution:
        """The answer x of covariance(x) = rest, one image `(1, C, *N)`."""
        return conjugate_gradients(self.covariance, self.nearly_inverse, rest, tolerance, ROUNDS)

    def solved_within(
        self,
        rest: Tensor,
        placed: Callable[[Tensor], Tensor],
        cropped: Callable[[Tensor], Tensor],
        tolerance: float = TOLERANCE,
    ) -> Solution:
        """The same of a part of the image: x of cropped(covariance(placed(x))) = rest."""
        operator, guess = self.covariance, self.nearly_inverse
        return conjugate_gradients(
            lambda x: cropped(operator(placed(x))), lambda x: cropped(guess(placed(x))), rest, tolerance, ROUNDS
        )

    @staticmethod
    def exact(y: Tensor) -> Tensor:
        """The image in double precision."""
        return y.to(torch.complex128 if y.is_complex() else torch.float64)

    def center(self, like: Tensor) -> Tensor:
        """The mean of y, `(1, C, *N)`."""
        mean = (self.m.h * self.mean).expand(like.shape[1], *self.basis.shape)[None]
        return self.basis.inverse(mean.to(self.basis.forward(like)))

    def moved(self, rest: Tensor, tolerance: float = TOLERANCE) -> Tensor:
        """L H' (H L H' + M N M)^-1 rest: what the linear estimate changes by where y changes by `rest`."""
        found = self.solved(rest, tolerance)
        if found.left > 1e-2:
            raise InputError(
                "noise map",
                f"a map for which the linear estimate is not found in {ROUNDS} rounds (residual {found.left:.1g})",
                "one that varies less",
            )
        return self.basis.inverse(self.m.h * self.variance * self.basis.forward(found.x))

    def estimate(self, y: Tensor) -> Tensor:
        """E[x_0 | y] `(1, C, *N)` of one measured image, exact for Gaussian data to the residual of the solution."""
        mean = self.mean.expand(y.shape[1], *self.basis.shape)[None]
        return self.basis.inverse(mean.to(self.basis.forward(y))) + self.moved(y - self.center(y))

    def draw(self, like: Tensor, seeds: Tensor, stream: str) -> Tensor:
        """A measured image of the law, `(1, C, *N)`, from the noise of `seeds` `(1,)`."""
        z = [noise_like(like, seeds, stream, k) for k in range(2)]
        signal = self.filtered((self.m.h**2 * self.variance).sqrt(), z[0])
        return self.center(like) + signal + self.factor * self.filtered(self.m.s2.sqrt(), z[1])

    def blended(self, table: Tensor) -> Tensor:
        """Positive numbers `(K, *rest)` of the levels at every pixel, `(1, *rest, *N)`: linear in the logarithms."""
        return torch.einsum("kr,bk...->br...", table.log().flatten(1), self.local.weights).exp().unflatten(
            1, table.shape[1:]
        )  # fmt: skip


# ---- the denoiser ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Uneven:
    """E[x_0 | y] and the law of its error from one call, for a measured image whose noise is `factor` times that of
    the process of `inner`: the instant mode of a noise map.

    `inner`: `GaussianDenoiser`, or a `NetDenoiser` that is told the clock (level "clock"), of a terminal process in the
    Fourier basis with a known law of the measurement.  `factor` `(1, 1, *N)`, positive, on the grid of `inner`: one
    map for one image, because the levels of the bank follow from its range.
    """

    inner: Observer
    factor: Tensor

    def __post_init__(self) -> None:
        """Refuse what has no noise map: other bases and processes, networks of one noise level, other grids."""
        process, inner = self.inner.process, self.inner
        if type(process.basis) is not Fourier:
            raise InputError("noise map", f"a {type(process.basis).__name__} basis", "a process in the Fourier basis")
        if process.measurement is None or inner.prior() is None or not process.pairing.starts:
            found = f"a {process.pairing.kind} process" + ("" if process.measurement else " of an unknown law")
            raise InputError("noise map", found, "a terminal process whose NPS is known, and the spectrum of the data")
        if not isinstance(inner, GaussianDenoiser | NetDenoiser) or not inner.any_clock:
            wanted = (
                "a network that is told the clock (level 'clock'): it has to answer for every strength of the noise"
            )
            raise InputError("noise map", f"a model that knows its own noise alone ({type(inner).__name__})", wanted)
        if isinstance(inner, NetDenoiser) and not inner.net.mapped:
            raise InputError("noise map", f"a network {type(inner.net).__name__} of one level an image",
                             "one that is 'mapped', such as UNet")  # fmt: skip
        if tuple(self.factor.shape) != (1, 1, *process.basis.size):
            raise InputError("noise map", tuple(self.factor.shape), f"{(1, 1, *process.basis.size)}")
        low, high = float(self.factor.min()), float(self.factor.max())
        if not (0 < low <= high < math.inf):
            raise InputError("noise map", f"values from {low:.3g} to {high:.3g}", "finite values above 0")
        if high > MOST * low:
            raise InputError("noise map", f"values that differ by a factor of {high / low:.3g}", f"at most {MOST:g}")

    @cached_property
    def law(self) -> UnevenLaw:
        """The joint law of the Gaussian part."""
        prior, process = self.inner.prior(), self.inner.process
        assert prior is not None
        assert process.measurement is not None
        basis = process.basis
        assert isinstance(basis, Fourier)
        factor = self.factor.to(basis.device, torch.float64)
        return UnevenLaw(basis, *prior, process.measurement, factor)

    def observe(self, y: Tensor) -> Estimate:
        """D and the law of its error given one measured image `(1, C, *N)` in model units."""
        if y.shape[0] != 1 or tuple(y.shape[2:]) != self.law.basis.size:
            raise InputError("measured", tuple(y.shape), f"(1, C, {', '.join(map(str, self.law.basis.size))})")
        exact = self.law.exact(y)
        skip = self.law.estimate(exact)
        if isinstance(self.inner, NetDenoiser):
            return self._learned(self.inner, exact, skip, y)
        return Estimate(skip.to(y), BlendedSpread(self.law.basis, self.law.errors, self.law.local.weights))

    def _learned(self, net: NetDenoiser, y: Tensor, skip: Tensor, like: Tensor) -> Estimate:
        law, basis = self.law, self.law.basis
        prior = net.prior()
        assert prior is not None
        assert net.unit is not None
        inputs = [net.unit_image(skip), self._noise(y, skip)]
        level = LEVELS[net.level].of(law.errors, prior[1], basis, net.unit)  # (K, features)
        one = len(law.bank.level) == 1
        told, weights = (level, None) if one else (level[None], law.local.weights)
        out, log_ratio = net.ask([x.to(like) for x in inputs], told, weights)
        scale = law.blended(root_mean(law.errors, basis).flatten(1))
        mean = skip.to(like) + scale.to(like.real) * out
        if net.spread == "none":
            return Estimate(mean, None)
        if net.spread == "wiener" or log_ratio is None or net.filters is None:
            return Estimate(mean, BlendedSpread(basis, law.errors, law.local.weights))
        errors = law.errors
        if net.spread_scale is not None and net.spread == "local":
            factors = law.blended(net.spread_scale.log_at(level[:, 0]).exp())
            log_ratio = net.spread_scale.local(log_ratio, factors.log().unsqueeze(2), mean)
            errors = net.spread_scale.variances(errors, prior[1], basis)
        spread = BlendedSpread(basis, errors, law.local.weights, log_ratio.clamp(-14.0, 5.0), net.filters)
        return Estimate(mean, spread)

    def _noise(self, y: Tensor, skip: Tensor) -> Tensor:
        """The noise estimate (y - H skip) / m, whitened by the NPS and of unit scale, `(1, C, *N)`."""
        law = self.law
        rest = (y - law.filtered(law.m.h, skip)) / law.factor
        white = ratio(torch.ones_like(law.m.s2), law.m.s2)
        image = law.filtered(white.sqrt(), rest)
        levels = law.bank.level.reshape(-1, 1, *[1] * law.basis.ndim)
        left = (law.m.s2 - ratio(law.m.h**2 * law.errors, levels**2)) * white
        scale = root_mean(left.clamp_min(0.0), law.basis).flatten(1)
        return image * law.blended(ratio(torch.ones_like(scale), scale).clamp_min(1e-300))
