"""A network as a denoiser, preconditioned by the Wiener filter of its process."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from retrodict._check import InputError, choice
from retrodict.bases.spectrum import Spectrum
from retrodict.denoisers.denoiser import (
    Estimate,
    LinearEstimate,
    LocalSpread,
    SpectralSpread,
    Spread,
    SpreadScale,
    band_filters,
    linear_estimate,
)
from retrodict.denoisers.predictions import PREDICTIONS, to_data
from retrodict.nets.tiles import tiled_apply
from retrodict.processes.process import Cond, Process, ratio, wiener

__all__ = ["NetDenoiser", "channels_in"]


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
