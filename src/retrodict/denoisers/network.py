"""A network as a denoiser, preconditioned by the Wiener filter of its process."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from retrodict._check import InputError, choice
from retrodict.bases import Basis, Pixel
from retrodict.bases.paired import PairedSpectrum
from retrodict.bases.spectrum import Spectrum
from retrodict.denoisers.denoiser import (
    ErrorLaw,
    Estimate,
    GaussianDenoiser,
    LinearEstimate,
    Observer,
    check_state,
    linear_estimate,
)
from retrodict.denoisers.predictions import PREDICTIONS, Rate, data_from, rate_of, require_defined
from retrodict.denoisers.spread import (
    LocalSpread,
    SpectralSpread,
    Spread,
    band_filters,
    root_mean,
    shares_of,
    standardized,
)
from retrodict.denoisers.spread_scale import SpreadScale
from retrodict.nets.network import Network, network
from retrodict.nets.tiles import Tiled
from retrodict.processes.observation import Cond, Moments, fuse, ratio
from retrodict.processes.process import Process

__all__ = ["LEVELS", "Level", "NetDenoiser", "Terms", "channels_in", "channels_out"]

SPREADS = ("local", "uncalibrated", "wiener", "none")
"""Error laws of a network: learned and calibrated, learned, that of the Wiener filter, not known."""


# ---- what a network is told of the noise level ----------------------------------------------------------------------


class Level(NamedTuple):
    """Features of the noise level: how many, and the function of (error variance v, data variance, basis, unit).

    `whitened`: the noise estimate is shown with every coefficient over its own s.  All that the network sees is then a
    function of w / h and of the clock r = s^2 / h^2 alone, as E[x_0 | w] is.
    """

    features: int
    of: Callable[[Tensor, Tensor, Basis, float], Tensor]
    whitened: bool = False


def rms_level(v: Tensor, variance: Tensor, basis: Basis, unit: float) -> Tensor:
    """Log of the root mean error of the Wiener filter over the std of the data, `(B, 1)`."""
    scale = root_mean(v, basis) / unit
    return scale.square().mean(1).sqrt().log().reshape(-1, 1)


EDGES = (0.0, 0.04, 0.08, 0.16, 0.32, 0.64)
"""Lower edges of the radial bands of "clock", cycles/mm; the last has no end."""


def clock_level(v: Tensor, variance: Tensor, basis: Basis, unit: float) -> Tensor:
    """`rms_level`, log Wiener error over data power in six radial bands of |f|, log pixel spacing; `(B, 8)`.

    A band that the grid does not reach says that nothing is known there: log 1.
    """
    radius, weight = basis.radius(), basis.multiplicity()
    edges = [*EDGES, float("inf")]
    told = []
    for low, high in itertools.pairwise(edges):
        part = weight * ((radius >= low) & (radius < high))
        power = (variance * part).sum() / (variance.shape[0] if variance.ndim > basis.ndim else 1)
        error = (v * part).flatten(1).sum(1) / v.shape[1]
        told.append(torch.where(power > 0, error / power.clamp_min(1e-300), 1.0).clamp_min(1e-6).log())
    spacing = v.new_full((len(v), 1), sum(math.log(d) for d in basis.spacing) / basis.ndim)
    return torch.cat([rms_level(v, variance, basis, unit), torch.stack(told, -1), spacing], -1)


LEVELS: dict[str, Level] = {"rms": Level(1, rms_level), "clock": Level(8, clock_level, whitened=True)}
"""What a network is told, by name; the first feature is always that of "rms"."""


# ---- the denoiser -------------------------------------------------------------------------------------------------


def channels_in(process: Process, channels: int = 1) -> int:
    """Input channels that `NetDenoiser` gives to a network for data of `channels` channels."""
    return (3 if process.pairing.sees else 2) * channels * (2 if process.basis.complex else 1)


def channels_out(process: Process, channels: int = 1, bands: int = 0) -> int:
    """Output channels that `NetDenoiser` expects of a network: the image, and log-variances in `bands` bands."""
    return channels * (2 if process.basis.complex else 1) + channels * bands


class Terms(NamedTuple):
    """What a loss needs of one pass: network output (the image part and the log-ratios `(B, bands, C, *N)` or None),
    c_out `(B, C|1, *1)`, the linear estimate and its image."""

    out: Tensor
    log_ratio: Tensor | None
    c_out: Tensor
    linear: LinearEstimate
    skip: Tensor


@dataclass(frozen=True, eq=False)
class NetDenoiser(Observer):
    """A network as a denoiser, preconditioned by the Wiener filter of the process.

    `predicts="wiener"`: D = Wiener(x_t) + c_out(t) N_0, where Wiener is the best linear estimate under the stored
    `spectrum`, c_out^2 the mean of its error variance, and N = net(inputs, level).  Otherwise N_0 is one of
    `PREDICTIONS` of the network's output.  Inputs, each of unit scale: the Wiener estimate, the standardized noise
    estimate x_t - h Wiener(x_t), and for external conditioning that of the measurement.  `level` names what the
    network is told (`LEVELS`).  With `bands` > 0 further output channels are log-variances of the error in octave
    bands, relative to the Wiener error (`LocalSpread`).  Complex images are given as real and imaginary channels.

    `spread_scale` multiplies those variances by factors measured on held-out data; `spread` is one of "local"
    (learned, times the factors), "uncalibrated" (learned), "wiener" (that of the Wiener filter) and "none"; None takes
    the best there is.  `unit` is the std of the data on the training grid, a fixed unit of the inputs: on larger grids
    the spectrum holds lower frequencies, and the mean of it would grow.

    `shown`: whether the network has an input for an external measurement; None: as its process says.  One that has
    none and is told the clock serves external processes too: state and measurement are fused to one observation of x_0,
    whose precisions add (identity I5; for white noise and one operator at a time: Exact Posterior Score, arXiv
    2606.17048).

    `paired`: what a condition image of unknown law says of the image, measured on pairs (`paired_spectrum`): the linear
    estimate is then that of x_0 ~ N(mean + g (c - mean of c), V) and not of the data alone.  It is a preconditioning,
    and no law: samples still carry no uncertainty.

    The network maps `(B, inputs, *N)` and level `(B, features)` to `(B, outputs, *N)`; it runs in its own dtype,
    under bfloat16 autocast if `precision="bf16"`; states and tables stay in the dtype of x_t and float64.
    """

    net: Network
    process: Process
    spectrum: Spectrum | None = None
    predicts: str = "wiener"
    level: str = "rms"
    bands: int = 0
    spread_scale: SpreadScale | None = None
    precision: str = "float32"
    unit: float | None = None
    spread: str | None = None
    shown: bool | None = None
    paired: PairedSpectrum | None = None

    def __post_init__(self) -> None:
        """Fill in what follows from the rest and refuse what does not fit."""
        choice("predicts", self.predicts, ("wiener", *PREDICTIONS))
        choice("precision", self.precision, ("float32", "bf16"))
        choice("level", self.level, LEVELS)
        if self.spectrum is None:
            raise InputError("NetDenoiser spectrum", "none", "the Spectrum of the data")
        if self.bands and self.predicts != "wiener":
            raise InputError("bands", self.bands, "0 unless predicts='wiener'")
        if self.bands > 1 and isinstance(self.process.basis, Pixel):
            raise InputError("bands", self.bands, "0 or 1 with the pixel basis, whose coefficients have no frequency")
        spread = self.spread or ("local" if self.bands else "wiener")
        if choice("spread", spread, SPREADS) in ("local", "uncalibrated") and not self.bands:
            raise InputError("spread", repr(spread), "'wiener' or 'none': this network predicts no variances")
        object.__setattr__(self, "spread", spread)
        if self.shown is None:
            object.__setattr__(self, "shown", self.process.pairing.sees)
        if self.paired is not None and (not self.process.pairing.sees or self.process.measurement is not None):
            found = "a measurement of known law" if self.process.pairing.sees else "a process that shows no image"
            raise InputError("paired", found, "one that shows an image whose law is not known, Pairing('external')")
        object.__setattr__(self, "net", self.net if isinstance(self.net, Network) else network(self.net))
        if self.unit is None:
            weight = self.process.basis.multiplicity()
            power = (self._power * weight).sum() / (weight.sum() * (self.spectrum.channels or 1))
            object.__setattr__(self, "unit", float(power.sqrt()))

    @cached_property
    @torch.inference_mode(mode=False)
    def _power(self) -> Tensor:
        return self.spectrum.on(self.process.basis)  # type: ignore[union-attr]

    @property
    def data_power(self) -> Tensor:
        """Variance of the data by coefficient, `(C|1, *K)`."""
        return self._power

    @cached_property
    @torch.inference_mode(mode=False)
    def _mean(self) -> Tensor:
        return self.spectrum.mean_on(self.process.basis)  # type: ignore[union-attr]

    @cached_property
    @torch.inference_mode(mode=False)
    def filters(self) -> Tensor | None:
        """Octave filters of the predicted variances, or None where the network predicts none."""
        return band_filters(self.process.basis, self.bands) if self.bands else None

    @cached_property
    def band_shares(self) -> tuple[float, ...]:
        """Share of the degrees of freedom in each band, found once on the CPU."""
        return shares_of(self.process.basis.to("cpu"), self.bands)

    @property
    def any_clock(self) -> bool:  # type: ignore[override]
        """Whether the network is told the clock of every band, and so answers for any observation."""
        return self.level != "rms"

    @property
    def features(self) -> int:
        """How many features of the noise level the network is told."""
        return LEVELS[self.level].features

    @property
    def multiple(self) -> int:  # type: ignore[override]
        """Every image axis has to be a multiple of the stride of the network."""
        return self.net.stride

    @property
    def error_law(self) -> ErrorLaw:  # type: ignore[override]
        """Its own where the network has learned one (`spread` "local" or "uncalibrated")."""
        return {"wiener": "wiener", "none": "none"}.get(str(self.spread), "own")  # type: ignore[return-value]

    @property
    def border(self) -> tuple[float, ...]:
        """As measured on held-out images (`SpreadScale`)."""
        return self.spread_scale.border if self.spread_scale is not None and self.spread == "local" else ()

    @property
    def margin(self) -> float:
        """As measured on held-out images (`SpreadScale`)."""
        return self.spread_scale.margin if self.spread_scale is not None and self.spread == "local" else 1.0

    def on(self, size: Sequence[int]) -> NetDenoiser:
        """The same network on another grid of the same spacing; weights are shared."""
        return replace(self, process=self.process.on(tuple(size)))

    def to(self, device: str | torch.device) -> NetDenoiser:
        """The same denoiser on another device; the weights are copied there."""
        if torch.device(device) == torch.device(self.process.basis.device):
            return self
        return replace(self, net=copy.deepcopy(self.net).to(device), process=self.process.to(device))

    def at(self, process: Process) -> NetDenoiser:
        """The same network on another process; the Wiener filter, which does most of the work, is that of `process`.

        The network has to have been trained with as many inputs and in the same kind of basis.
        """
        own = self.process
        kinds = [(type(p.basis), p.basis.complex) for p in (process, own)]
        fused = self.any_clock and not self.shown and process.measurement is not None
        if kinds[0] != kinds[1] or (process.pairing.sees != self.shown and not fused):
            found = f"a {process.pairing.kind} process in the {type(process.basis).__name__} basis"
            raise InputError("process", found, f"{own.pairing.kind}, {type(own.basis).__name__}, as in training")
        return replace(self, process=process)

    def with_spread(self, kind: str) -> NetDenoiser:
        """The same denoiser with another error law; see `spread`."""
        return replace(self, spread=kind)

    def tiled(self, tile: int | None) -> NetDenoiser:
        """The same denoiser with the network run on tiles of `tile` pixels a side (None: on the whole image)."""
        net = self.net.net if isinstance(self.net, Tiled) else self.net
        return replace(self, net=net if tile is None else Tiled(net, tile))

    def gaussian(self) -> GaussianDenoiser:
        """The Wiener part alone, which is the exact denoiser of Gaussian data of the stored spectrum."""
        return GaussianDenoiser(self.process, spectrum=self.spectrum)

    # ---- estimates -----------------------------------------------------------------------------------------------

    def estimate(self, xt: Tensor, t: Tensor, cond: Cond = Cond()) -> Estimate:
        """D and the law of its error: xt `(B, C, *N)`, t `(B,)`."""
        linear = self._linear(xt, t, cond)
        if self.predicts == "wiener":
            return self._finish(self._terms(linear), None)
        require_defined(self.predicts, self.process, t)
        return self._finish(self._terms(linear), rate_of(self.process, t))

    def observe(self, u: Tensor, m: Moments, cond: Cond = Cond()) -> Estimate:
        """D given one observation, coefficients u `(B, C, *K)` with moments m: of a state, a measurement, or fused."""
        linear = self._estimated(u, _lifted(m, self.process.ndim), cond)
        return self._finish(self._terms(linear), None)

    def training_terms(self, xt: Tensor, t: Tensor, cond: Cond) -> Terms:
        """What a loss needs, in one pass."""
        return self._terms(self._linear(xt, t, cond))

    def answer(self, terms: Terms, rate: Rate | None = None) -> Tensor:
        """The data prediction D `(B, C, *N)` of a network's output; `rate` is for predictions of rates."""
        if self.predicts == "wiener":
            return terms.skip + terms.c_out.to(terms.skip.real) * terms.out
        linear, basis = terms.linear, self.process.basis
        data = data_from(self.predicts, basis.forward(terms.out), linear.w, linear.m, rate, linear.y)
        return basis.inverse(data.to(linear.w))

    def noise_level(self, terms: Terms) -> Tensor:
        """The noise level log(c_out / std of the data) `(B,)` that factors on the spread are tabulated over."""
        return rms_level(terms.linear.v, self._power, self.process.basis, self.unit)[:, 0]  # type: ignore[arg-type]

    def _finish(self, terms: Terms, rate: Rate | None) -> Estimate:
        image = self.answer(terms, rate)
        return Estimate(image, self._error_law(terms, image))

    def _linear(self, xt: Tensor, t: Tensor, cond: Cond) -> LinearEstimate:
        process = self.process
        check_state(process, xt, cond)
        w, m = process.to_coefficients(xt, t, cond.image if process.anchored else None), process.moments(t)
        if process.pairing.sees and not self.shown and cond.image is not None:
            assert process.measurement is not None  # `at` has looked
            y = process.basis.forward(cond.image).expand_as(w)
            w, m = fuse(w, m, y, _lifted(process.measurement, process.ndim))
            cond = Cond()
        return self._estimated(w, m, cond)

    def _estimated(self, w: Tensor, m: Moments, cond: Cond) -> LinearEstimate:
        if self.paired is None or cond.image is None:
            return linear_estimate(self.process, self._power, self._mean, w, m, cond)
        y, (gain, offset, left) = self.process.basis.forward(cond.image), self._given
        mean = offset.to(w) + gain.to(w.real) * y
        return linear_estimate(self.process, left, mean, w, m, Cond())._replace(y=y)

    @cached_property
    @torch.inference_mode(mode=False)
    def _given(self) -> tuple[Tensor, Tensor, Tensor]:
        """Gain on the condition image, what is added to it, and the variance that it leaves, `(*K)`."""
        paired, basis = self.paired, self.process.basis
        assert paired is not None
        gain, left = paired.on(basis)
        mean, shown = (Spectrum.flat(level).mean_on(basis) for level in (paired.mean, paired.shown))
        return gain, mean - gain * shown, left

    def _terms(self, linear: LinearEstimate, level: Tensor | None = None) -> Terms:
        """One pass; `level` is what the network is told where that is not the noise level alone."""
        basis, v = self.process.basis, linear.v
        skip = basis.inverse(linear.d)
        mean, ratios = self.ask(self._inputs(linear, skip), self._told(v) if level is None else level)
        return Terms(mean, ratios, root_mean(v, basis), linear, skip)

    def _inputs(self, linear: LinearEstimate, skip: Tensor) -> list[Tensor]:
        """What the network is shown, images `(B, C, *N)` of unit scale; `skip` is the image of the linear estimate."""
        w, d, v, y, m = linear
        inputs = [self.unit_image(skip), self._noise(w - m.h.to(w.real.dtype) * d, m.s2 - m.h**2 * v, m)]
        if y is not None:
            inputs.append(self._second(y, d, v))
        return inputs

    def _told(self, v: Tensor) -> Tensor:
        """Level features `(B, F)` of an error variance v `(B, C|1, *K)`."""
        return LEVELS[self.level].of(v, self._power, self.process.basis, self.unit)  # type: ignore[arg-type]

    def ask(self, inputs: list[Tensor], level: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """One call of the network on images `(B, C, *N)`: N_0 `(B, C, *N)` and the log-ratios `(B, bands, C, *N)`.

        level `(B, F)`, or `(B, K, F)` with weights `(B, K, *N)` where it varies over the image.
        """
        first = inputs[0]
        out = self._run(torch.cat([_real(x) for x in inputs], dim=1), level, first.real, weights)
        channels = _real(first).shape[1]
        mean, rest = out.split([channels, out.shape[1] - channels], dim=1)
        ratios = rest.reshape(len(rest), self.bands, first.shape[1], *first.shape[2:]) if self.bands else None
        return _like(mean, first), ratios

    def unit_image(self, x: Tensor) -> Tensor:
        """An image in units of the data: mean 0, std 1."""
        assert self.spectrum is not None
        assert self.unit is not None
        mean = self.spectrum.mean
        return (
            x - (mean if isinstance(mean, float) else self.spectrum.mean_image(self.process.basis).to(x))
        ) / self.unit

    def _noise(self, u: Tensor, variance: Tensor, m: Moments) -> Tensor:
        """The noise estimate, coefficients u of `variance`, as an image of unit scale."""
        basis = self.process.basis
        if not LEVELS[self.level].whitened:
            return standardized(u, variance, basis)
        white = ratio(torch.ones_like(m.s2), m.s2)  # where there is no noise there is nothing to show
        return standardized(white.sqrt().to(u.real) * u, white * variance, basis)

    def _second(self, y: Tensor, d: Tensor, v: Tensor) -> Tensor:
        """What the measurement adds: its standardized noise estimate, or itself where its law is not known."""
        basis, law = self.process.basis, self.process.measurement
        if law is None:
            return self.unit_image(basis.inverse(y))
        return standardized(y - law.h.to(d.real.dtype) * d, law.s2 - law.h**2 * v, basis)

    def _run(self, inputs: Tensor, level: Tensor, like: Tensor, weights: Tensor | None = None) -> Tensor:
        dtype = next((p.dtype for p in self.net.parameters()), inputs.dtype)
        bf16 = self.precision == "bf16"
        level = level.to(inputs).expand(len(inputs), *level.shape[1:]).to(dtype)
        more = () if weights is None else (weights.to(inputs).expand(len(inputs), *weights.shape[1:]).to(dtype),)
        with torch.autocast(inputs.device.type, torch.bfloat16) if bf16 else nullcontext():
            out = self.net(inputs.to(dtype), level, *more).to(like)
        parts = (3 if self.shown else 2) * (2 if self.process.basis.complex else 1)
        channels = channels_out(self.process, inputs.shape[1] // parts, self.bands)
        if out.shape != (len(inputs), channels, *inputs.shape[2:]):
            wanted = (len(inputs), channels, *inputs.shape[2:])
            raise InputError("network", f"an output of shape {tuple(out.shape)}", f"{wanted}")
        return out

    def _error_law(self, terms: Terms, image: Tensor) -> Spread | None:
        if self.spread == "none":
            return None
        basis, v = self.process.basis, terms.linear.v
        if self.spread == "wiener" or self.filters is None or terms.log_ratio is None:
            return SpectralSpread(basis, v)
        log_ratio = terms.log_ratio
        if self.spread_scale is not None and self.spread == "local":
            shift = self.spread_scale.log_at(self.noise_level(terms))[(..., None, *[None] * basis.ndim)]
            log_ratio = self.spread_scale.local(log_ratio, shift, image)
            v = self.spread_scale.variances(v, self._power, basis)
        return LocalSpread(basis, v, log_ratio.clamp(-14.0, 5.0), self.filters)


def _lifted(m: Moments, ndim: int) -> Moments:
    """Tables `(*K)`, as the law of a measurement has them, with axes for items and channels."""
    return Moments(*(x[None, None] if x.ndim <= ndim else x for x in m))


def _real(x: Tensor) -> Tensor:
    """Complex channels as twice as many real ones."""
    return torch.cat([x.real, x.imag], dim=1) if x.is_complex() else x


def _like(x: Tensor, image: Tensor) -> Tensor:
    """Inverse of `_real`, for an image that is as complex as `image`."""
    return torch.complex(*x.chunk(2, dim=1)) if image.is_complex() else x
