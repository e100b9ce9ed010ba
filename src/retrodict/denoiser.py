"""Denoisers: E[x_0 | x_t], and, where known, the law of the error around it.

A denoiser is called as `denoiser(xt, t, cond) -> D`; one that also knows its error offers
`estimate(xt, t, cond) -> Estimate(mean, spread)`, from which stochastic rules draw x_0.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from retrodict._check import InputError, choice
from retrodict.bases import Basis
from retrodict.predict import PREDICTIONS, to_data
from retrodict.process import Moments, Process, ratio, wiener
from retrodict.spectrum import Spectrum
from retrodict.tiles import tiled_apply

__all__ = [
    "Cond",
    "Denoiser",
    "Estimate",
    "FunctionDenoiser",
    "LinearEstimate",
    "LocalSpread",
    "NetDenoiser",
    "SpectralSpread",
    "Spread",
    "SpreadScale",
    "band_filters",
    "channels_in",
    "linear_estimate",
]


class Cond(NamedTuple):
    """The only carrier of conditions: a condition image `(B, C, *N)` and a condition vector `(B, F)`."""

    image: Tensor | None = None
    vector: Tensor | None = None


class Spread(Protocol):
    """The law of x_0 - D: how to turn white noise fields into a draw of the error."""

    @property
    def fields(self) -> int:
        """Number of white noise fields that a draw takes."""
        ...

    def draw(self, z: Tensor) -> Tensor:
        """White noise `(fields, B, C, *N)` to an error image `(B, C, *N)`."""
        ...

    def variance(self) -> Tensor:
        """Variance of the error per pixel, `(B, C, *N)`."""
        ...


class Estimate(NamedTuple):
    """E[x_0 | x_t] `(B, C, *N)` and the law of the error around it, or None where it is not known."""

    mean: Tensor
    spread: Spread | None


class Denoiser(Protocol):
    """E[x_0 | x_t, cond]: xt `(B, C, *N)`, t `(B,)` -> `(B, C, *N)`."""

    @property
    def process(self) -> Process:
        """The process whose states it denoises."""
        ...

    def __call__(self, xt: Tensor, t: Tensor, cond: Cond = Cond()) -> Tensor: ...


# ---- error laws ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SpectralSpread:
    """A stationary error: variance v `(B|1, 1, *K)` per coefficient of `basis`."""

    basis: Basis
    v: Tensor
    fields: int = 1

    def draw(self, z: Tensor) -> Tensor:
        """One white field, colored by sqrt(v)."""
        return self.basis.inverse(self.v.sqrt().to(z.real) * self.basis.forward(z[0]))

    def variance(self) -> Tensor:
        """The same at every pixel of the grid: the mean of v over degrees of freedom."""
        mean = _power(self.v, self.basis)
        return mean.reshape(-1, 1, *([1] * len(self.basis.size))).expand(-1, 1, *self.basis.size)


@dataclass(frozen=True)
class LocalSpread:
    """A locally stationary error: in band b its variance is exp(log_ratio_b(x)) times that of spectrum v.

    error = sum_b exp(log_ratio_b / 2) * B^-1 [F_b sqrt(v) B z_b], with sum_b F_b^2 = 1, so that log_ratio = 0 is
    exactly the stationary law of v.  `log_ratio` is `(B, bands, *N)`, `filters` `(bands, *K)`, v `(B|1, 1, *K)`.
    """

    basis: Basis
    v: Tensor
    log_ratio: Tensor
    filters: Tensor

    @property
    def fields(self) -> int:
        """One white field per band."""
        return len(self.filters)

    def draw(self, z: Tensor) -> Tensor:
        """White noise `(bands, B, C, *N)` to an error `(B, C, *N)`."""
        total = torch.zeros_like(z[0])
        root = self.v.sqrt()
        for b, noise in enumerate(z):
            colored = self.basis.inverse((root * self.filters[b]).to(z.real) * self.basis.forward(noise))
            total = total + (0.5 * self.log_ratio[:, b : b + 1]).exp() * colored
        return total

    def variance(self) -> Tensor:
        """Sum over bands of the local ratio times the mean variance of the band."""
        bands = [_power(self.v * f**2, self.basis) for f in self.filters]
        power = torch.stack(bands, dim=1).to(self.log_ratio)
        power = power.reshape(*power.shape, *([1] * len(self.basis.size)))
        return (self.log_ratio.exp() * power).sum(1, keepdim=True)


@dataclass(frozen=True)
class SpreadScale:
    """Factors on the predicted error variance, measured on held-out data: one per level and band.

    `level` (n,) rising, the noise level log(c_out / std) that the network sees; `factor` (n, bands).  Linear in level
    and log factor between nodes, constant beyond them.
    """

    level: tuple[float, ...]
    factor: tuple[tuple[float, ...], ...]

    def log_at(self, level: Tensor) -> Tensor:
        """Log of the factors at levels `(B,)` -> `(B, bands)`."""
        nodes = torch.tensor(self.level, dtype=torch.float64)
        values = torch.tensor(self.factor, dtype=torch.float64).log()
        query = level.double().clamp(nodes[0], nodes[-1])
        left = (torch.searchsorted(nodes, query, right=True) - 1).clamp(0, len(nodes) - 2)
        part = ((query - nodes[left]) / (nodes[left + 1] - nodes[left]))[:, None]
        return values[left] * (1 - part) + values[left + 1] * part


def _power(v: Tensor, basis: Basis) -> Tensor:
    """Mean over real degrees of freedom of v `(B, C|1, *K)` -> `(B,)`."""
    weight = basis.multiplicity()
    spread = (v * weight).expand(v.shape[0], v.shape[1], *basis.shape)
    return spread.flatten(1).sum(1) / (weight.sum() * v.shape[1])


def band_filters(basis: Basis, bands: int) -> Tensor:
    """Octave filters F_b `(bands, *K)`, sum_b F_b^2 = 1: cosine ramps in log2 |f| one octave wide.

    The edges lie at Nyquist / 2, / 4, ...; the last filter holds everything below the lowest edge.
    """
    radius = basis.radius()
    nyquist = 0.5 / min(basis.spacing)
    octave = torch.log2((radius / nyquist).clamp_min(2.0**-40))
    remaining, filters = torch.ones_like(radius), []
    for b in range(bands - 1):
        above = ((octave + b + 1) + 0.5).clamp(0, 1)  # 0 half an octave below the edge 2^-(b+1), 1 half above
        high = torch.sin(0.5 * math.pi * above)
        filters.append(remaining * high)
        remaining = remaining * torch.cos(0.5 * math.pi * above)
    return torch.stack([*filters, remaining])


# ---- the Gaussian part --------------------------------------------------------------------------------------------


class LinearEstimate(NamedTuple):
    """The best linear estimate from x_t (and an external measurement): coefficients and variances.

    w: shifted coefficients of x_t; d: estimate; v: its error variance `(B, 1, *K)` float64; y: coefficients of the
    measurement, or None; m: moments.
    """

    w: Tensor
    d: Tensor
    v: Tensor
    y: Tensor | None
    m: Moments


def linear_estimate(
    process: Process, spectrum: Tensor, mean: Tensor, xt: Tensor, t: Tensor, cond: Cond
) -> LinearEstimate:
    """Wiener estimate of u_0 ~ N(mean, spectrum) from x_t and, for external conditioning with a known law, from y.

    x_t and y are independent given x_0, so the second is a Kalman update of the first, per coefficient.
    """
    m = process.moments(t)
    anchor = cond.image if process.anchored else None
    w = process.to_coefficients(xt, t, anchor)
    mean = mean.to(w)
    g, v = wiener(m, spectrum)
    d = mean + g.to(xt) * (w - m.h.to(xt) * mean)
    if process.conditioning != "external" or cond.image is None:
        return LinearEstimate(w, d, v, None, m)
    y = process.basis.forward(cond.image)
    if process.measured is None:  # how y came about is not known: only a network can use it
        return LinearEstimate(w, d, v, y, m)
    gain, noise = process.measured
    kalman = ratio(v * gain, gain**2 * v + noise)
    d = d + kalman.to(xt) * (y - gain.to(xt) * d)
    return LinearEstimate(w, d, v * (1 - kalman * gain), y, m)


# ---- denoisers ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FunctionDenoiser:
    """Any callable (xt, t) -> D as a denoiser of `process`; with `spectrum`, the Wiener filter gives its error law."""

    function: Callable[[Tensor, Tensor], Tensor]
    process: Process
    spectrum: Spectrum | None = None

    def __call__(self, xt: Tensor, t: Tensor, cond: Cond = Cond()) -> Tensor:
        """D = function(xt, t)."""
        return self.function(xt, t)

    def estimate(self, xt: Tensor, t: Tensor, cond: Cond = Cond()) -> Estimate:
        """D with the error variance L s^2 / (h^2 L + s^2) of the Gaussian part, where a spectrum is known."""
        if self.spectrum is None:
            return Estimate(self(xt, t, cond), None)
        _, v = wiener(self.process.moments(t), self.spectrum.on(self.process.basis))
        return Estimate(self(xt, t, cond), SpectralSpread(self.process.basis, v))


def channels_in(process: Process) -> int:
    """Input channels that `NetDenoiser` gives to a network for one-channel data."""
    return 3 if process.conditioning == "external" else 2


class NetDenoiser(nn.Module):
    """A network as a denoiser, preconditioned by the Wiener filter of the process.

    `predicts="wiener"`: D = Wiener(x_t) + c_out(t) N_0, where Wiener is the best linear estimate under the stored
    `spectrum`, c_out^2 the mean of its error variance, and N = net(inputs, level) has 1 + `bands` channels.  Inputs,
    each of unit scale: the Wiener estimate, the standardized noise estimate x_t - h Wiener(x_t), and for external
    conditioning that of the measurement.  level = log(c_out / std of the data).  With `bands` > 0 the further channels
    are log-variances of the error in octave bands, relative to the Wiener error (`LocalSpread`).

    `spread_scale` multiplies those variances by factors measured on held-out data.

    Otherwise `predicts` is one of `PREDICTIONS` and the network sees x_t / sqrt(h^2 L + s^2) (averaged over
    coefficients), with the condition image as further channel.

    The network maps `(B, inputs, *N)` and level `(B, 1)` to `(B, 1 + bands, *N)`; it runs in its own dtype, under
    bfloat16 autocast if `precision="bf16"`; states and tables stay in the dtype of x_t and float64.
    """

    def __init__(
        self,
        net: nn.Module,
        process: Process,
        *,
        spectrum: Spectrum,
        predicts: str = "wiener",
        bands: int = 0,
        precision: str = "float32",
        spread_scale: SpreadScale | None = None,
    ) -> None:
        super().__init__()
        choice("predicts", predicts, ("wiener", *PREDICTIONS))
        choice("precision", precision, ("float32", "bf16"))
        if bands and predicts != "wiener":
            raise InputError("bands", bands, "0 unless predicts='wiener'")
        self.net, self.predicts, self.bands, self.precision = net, predicts, bands, precision
        self.spectrum, self.spread_scale = spectrum, spread_scale
        self.spread_kind = "local" if bands else "wiener"
        self.tile: int | None = None
        self._bind(process)
        # a fixed unit of the network's inputs: on larger grids L holds lower frequencies, and its mean would grow
        self._data_std = float(((self._power * self._weight).sum() / self._weight.sum()).sqrt())

    def _bind(self, process: Process) -> None:
        self.process = process
        self._power = self.spectrum.on(process.basis)
        self._mean = self.spectrum.mean_on(process.basis)
        self._weight = process.basis.multiplicity()
        self._filters = band_filters(process.basis, self.bands) if self.bands else None

    def on(self, size: Sequence[int]) -> NetDenoiser:
        """The same network on another grid of the same spacing; weights are shared."""
        other = copy.copy(self)
        other._bind(self.process.on(tuple(size)))
        return other

    def bound_to(self, process: Process) -> NetDenoiser:
        """The same network on another process; the Wiener filter, which does most of the work, is that of `process`."""
        if process.conditioning != self.process.conditioning or type(process.basis) is not type(self.process.basis):
            found = f"a {process.conditioning} process in the {type(process.basis).__name__} basis"
            wanted = f"{self.process.conditioning}, {type(self.process.basis).__name__}, as in training"
            raise InputError("process", found, wanted)
        other = copy.copy(self)
        other._bind(process)
        return other

    def with_spread(self, kind: str) -> NetDenoiser:
        """The same denoiser with another error law.

        "local": learned, times the factors measured on held-out data; "uncalibrated": learned, without them; "wiener":
        that of the Wiener filter; "none": not known.
        """
        choice("spread", kind, ("local", "uncalibrated", "wiener", "none"))
        if kind in ("local", "uncalibrated") and not self.bands:
            raise InputError("spread", repr(kind), "'wiener' or 'none': this network predicts no variances")
        other = copy.copy(self)
        other.spread_kind = kind
        return other

    def tiled(self, tile: int | None) -> NetDenoiser:
        """The same denoiser with the network run on tiles of `tile` pixels a side (None: on the whole image)."""
        other = copy.copy(self)
        other.tile = tile
        return other

    def forward(self, xt: Tensor, t: Tensor, cond: Cond = Cond()) -> Tensor:
        """E[x_0 | x_t, cond]: xt `(B, 1, *N)`, t `(B,)` -> `(B, 1, *N)`."""
        return self.estimate(xt, t, cond).mean

    def estimate(self, xt: Tensor, t: Tensor, cond: Cond = Cond()) -> Estimate:
        """D and the law of its error."""
        self._check(xt, cond)
        if self.predicts != "wiener":
            return self._estimate_plain(xt, t, cond)
        linear = linear_estimate(self.process, self._power, self._mean, xt, t, cond)
        out, scale = self._raw(linear, xt)
        mean = self.process.basis.inverse(linear.d) + scale.to(xt) * out[:, :1]
        return Estimate(mean, self._spread(linear.v, out[:, 1:], scale))

    def gaussian(self, xt: Tensor, t: Tensor, cond: Cond = Cond()) -> Tensor:
        """The Wiener estimate alone, `(B, 1, *N)`."""
        self._check(xt, cond)
        linear = linear_estimate(self.process, self._power, self._mean, xt, t, cond)
        return self.process.basis.inverse(linear.d)

    def training_terms(self, xt: Tensor, t: Tensor, cond: Cond) -> tuple[Tensor, Tensor, LinearEstimate, Tensor]:
        """(raw network output, c_out `(B, 1, *1)`, linear estimate, its image): what a loss needs, in one pass."""
        self._check(xt, cond)
        linear = linear_estimate(self.process, self._power, self._mean, xt, t, cond)
        out, scale = self._raw(linear, xt)
        return out, scale, linear, self.process.basis.inverse(linear.d)

    def _check(self, xt: Tensor, cond: Cond) -> None:
        process = self.process
        if tuple(xt.shape[2:]) != tuple(process.basis.size):
            raise InputError(
                "denoiser input",
                tuple(xt.shape),
                f"(B, 1, {', '.join(map(str, process.basis.size))})",
                "Use denoiser.on(size) for another grid.",
            )
        if process.conditioning == "terminal" and cond.image is not None:
            raise InputError(
                "denoiser condition",
                "a measurement image",
                "none for a terminal process",
                "x_1 is the measurement already; a second look would count it twice.",
            )
        if process.conditioning == "external" and cond.image is None:
            raise InputError("denoiser condition", "none", "the measurement: the process is external")

    def _raw(self, linear: LinearEstimate, xt: Tensor) -> tuple[Tensor, Tensor]:
        """Network output `(B, 1 + bands, *N)` and c_out `(B, 1, *1)`."""
        basis, (w, d, v, y, m) = self.process.basis, linear
        c_out = self._rms(v)
        inputs = [
            (basis.inverse(d) - self.spectrum.mean) / self._data_std,
            self._standard(w - m.h.to(xt) * d, m.s2 - m.h**2 * v),
        ]
        if y is not None:
            inputs.append(self._second(y, d, v))
        return self._network(torch.cat(inputs, dim=1), self.level(c_out)[:, None], xt), c_out

    def _second(self, y: Tensor, d: Tensor, v: Tensor) -> Tensor:
        """What the measurement adds: its standardized noise estimate, or itself where its law is not known."""
        if self.process.measured is None:
            return (self.process.basis.inverse(y) - self.spectrum.mean) / self._data_std
        gain, noise = self.process.measured
        return self._standard(y - gain.to(d.real) * d, noise - gain**2 * v)

    def _standard(self, u: Tensor, variance: Tensor) -> Tensor:
        """Image of coefficients u over the square root of the mean of their variance."""
        scale = self._rms(variance.clamp_min(0.0).expand(len(u), -1, *self.process.basis.shape))
        image = self.process.basis.inverse(u)
        return image * ratio(torch.ones_like(scale), scale).to(image)

    def _rms(self, v: Tensor) -> Tensor:
        v = v.expand(v.shape[0], 1, *self.process.basis.shape)
        mean = (v * self._weight).flatten(1).sum(1) / self._weight.sum()
        return mean.sqrt().reshape(-1, 1, *([1] * self.process.ndim))

    def _network(self, inputs: Tensor, level: Tensor, like: Tensor) -> Tensor:
        dtype = next(self.net.parameters()).dtype
        context = torch.autocast(inputs.device.type, torch.bfloat16) if self.precision == "bf16" else nullcontext()
        level = level.to(inputs).expand(len(inputs), -1).to(dtype)

        def run(x: Tensor) -> Tensor:
            with context:
                return self.net(x.to(dtype), level).to(like)

        if self.tile is None or all(n <= self.tile for n in inputs.shape[2:]):
            return run(inputs)
        net: Any = self.net
        for needed in ("receptive_field", "stride"):
            if not hasattr(net, needed):
                raise InputError("tile", f"a network without {needed!r}", "one that knows its receptive field")
        circular = bool(getattr(net, "circular", False))
        return tiled_apply(run, inputs, tile=self.tile, halo=net.receptive_field, stride=net.stride, circular=circular)

    def level(self, c_out: Tensor) -> Tensor:
        """Noise level log(c_out / std of the data) `(B,)` that the network is told."""
        return (c_out / self._data_std).log().reshape(-1)

    def _spread(self, v: Tensor, log_ratio: Tensor, c_out: Tensor) -> Spread | None:
        if self.spread_kind == "none":
            return None
        if self.spread_kind in ("local", "uncalibrated") and self._filters is not None:
            if self.spread_scale is not None and self.spread_kind == "local":
                shift = self.spread_scale.log_at(self.level(c_out)).to(log_ratio)
                log_ratio = log_ratio + shift.reshape(*shift.shape, *([1] * self.process.ndim))
            return LocalSpread(self.process.basis, v, log_ratio.clamp(-14.0, 5.0), self._filters)
        return SpectralSpread(self.process.basis, v)

    def _estimate_plain(self, xt: Tensor, t: Tensor, cond: Cond) -> Estimate:
        process, basis = self.process, self.process.basis
        m = process.moments(t)
        w = process.to_coefficients(xt, t, cond.image if process.anchored else None)
        size = self._rms(m.h**2 * self._power + m.s2)
        inputs = [(basis.inverse(w) / size.to(xt))]
        if cond.image is not None:
            inputs.append((cond.image - self.spectrum.mean) / self._data_std)
        level = (m.h**2 * self._power / (m.h**2 * self._power + m.s2)).expand(len(xt), 1, *basis.shape)
        out = self._network(
            torch.cat(inputs, dim=1), (1 - self._rms(level) ** 2).clamp_min(1e-9).log().reshape(-1, 1), xt
        )
        mean = basis.inverse(to_data(self.predicts, process, basis.forward(out), w, t).to(w))
        _, v = wiener(m, self._power)
        return Estimate(mean, None if self.spread_kind == "none" else SpectralSpread(basis, v))
