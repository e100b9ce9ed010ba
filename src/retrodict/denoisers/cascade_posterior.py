"""A posterior drawn scale by scale: what the mean leaves open, as a wavelet cascade given the observation.

A network makes the mean D = E[x_0 | w] and the local variance of its error in octave bands, as `NetDenoiser` does.  The
error r = x_0 - D itself is drawn as Guth et al. (2022) draw images: the coarse band, then at every scale the details
given what is coarser, each over its deviation, which follows from the error variance v(f) of the Wiener filter and the
local ratios.  The network of a scale is also shown what is known there: the bands of D, of the Wiener estimate and of
the noise.  The law of a scale given the coarser ones is reached by a few steps of an Ornstein-Uhlenbeck process of its
own on its sub-lattice.  On Gaussian data r has the power v and depends on no observation.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from retrodict._check import InputError
from retrodict.bases import Fourier, Wavelet
from retrodict.bases.wavelet import band_powers
from retrodict.denoisers.cascade import LevelLaw, LevelModel, View, Views
from retrodict.denoisers.network import NetDenoiser, Terms
from retrodict.denoisers.spread import LocalSpread, Spread
from retrodict.nets.scales import Guide, WaveletCascade, analysed

__all__ = ["HORIZON", "CascadeDraws", "CascadePosterior", "local_deviations", "rates", "residual_views"]

HORIZON, EXPONENT = 5.0, 2.0
"""tau = HORIZON v^EXPONENT at the time v of a window: those of `wavelet_cascade`."""

LEAST, LARGEST = -14.0, 5.0
"""Of the log-variance of a coefficient."""


def rates(v: Tensor) -> tuple[Tensor, Tensor]:
    """Gain h and noise variance s^2 of a band of unit variance at times v of its window, each like v."""
    tau = HORIZON * v**EXPONENT
    return torch.exp(-tau), -torch.expm1(-2 * tau)


def residual_views(basis: Fourier, v: Tensor, levels: int) -> Views:
    """Residuals of power v `(B|1, C|1, *K)` as what the scales of a Haar transform see, bands over their deviation."""
    wavelet = Wavelet(basis.size, basis.spacing, basis.device, levels=levels, family="haar")
    powers = band_powers(wavelet, v)
    variances = torch.stack([powers[band] for band in wavelet.places()], -1).clamp_min(1e-30)
    return Views(wavelet, variances, torch.zeros(1, dtype=torch.float64, device=basis.device))


@dataclass(frozen=True, eq=False)
class CascadeDraws(LocalSpread):
    """The law of the error of a posterior mean, drawn scale by scale: `model` answers for one of them at a time.

    Its variance is that of a `LocalSpread`.  local: of every scale, the coarse one last, the deviation of its bands
    over that of the stationary law, `(B, 1, C, *M)`.  `steps` of every scale; a draw takes 2 * steps white fields.
    """

    model: LevelModel
    views: Views
    local: tuple[Tensor, ...]
    steps: int = 4

    @property
    def fields(self) -> int:
        """Where a scale starts, and what every step draws and adds."""
        return 2 * self.steps

    def draw(self, z: Tensor) -> Tensor:
        """White noise `(2 steps, B, C, *N)` to an error `(B, C, *N)`."""
        white = [self.views.basis.forward(field) for field in z]
        made = torch.zeros_like(white[0])
        for scale in range(self.views.basis.depth, -1, -1):
            noise = [self.views.bands(field, scale) for field in white]
            drawn = self._drawn(scale, self.views.coarse(made, scale), noise)
            self.views.put(made, scale, self.local[scale].to(drawn) * drawn)
        return self.views.basis.inverse(made)

    def _drawn(self, scale: int, coarse: Tensor | None, noise: list[Tensor]) -> Tensor:
        """Bands `(B, D, C, *M)` of a scale given the coarse image: ancestral steps, each from a draw of its law."""
        times = torch.linspace(1, 0, self.steps + 1, dtype=torch.float64, device="cpu")
        h, s2 = rates(times)
        h[0], s2[0] = 0.0, 1.0  # the start knows nothing
        y = noise[0]
        for i in range(self.steps):
            seen = View(scale, y, coarse, *(x[i].expand(len(y)).to(y.device) for x in (h, s2)))
            law = self.model.answer(seen)
            made = (law.mean + law.draw(noise[2 * i + 1])).to(y)
            if i == self.steps - 1:
                break
            kept = float(s2[i + 1] * h[i] ** 2 / (h[i + 1] ** 2 * s2[i]))  # r_s / r_t
            keep, rest = math.sqrt(kept * float(s2[i + 1] / s2[i])), math.sqrt((1 - kept) * float(s2[i + 1]))
            y = keep * y + (1 - kept) * float(h[i + 1]) * made + rest * noise[2 * i + 2]
        return made  # type: ignore[possibly-undefined]


@dataclass(frozen=True, eq=False)
class _Shown:
    """The networks of the scales with what they are shown of one observation: a `LevelModel`."""

    denoiser: CascadePosterior
    guide: Guide
    level: Tensor
    multiple: int = 1

    def answer(self, view: View) -> LevelLaw:
        """The law of the clean bands, h y + s N for the answer N, with its log-variance over s^2."""
        out, log_ratio = self.denoiser.at_scale(self.guide, view, self.level)
        y = view.noisy
        h, s = (x.reshape(-1, *[1] * (y.ndim - 1)).to(y) for x in (view.h, view.s2.sqrt()))
        root = s * (0.5 * log_ratio).exp()
        return LevelLaw(h * y + s * out, lambda z: root * z, root.square().flatten(3).mean(3))

    def on(self, basis: Wavelet) -> _Shown:
        """Itself: what was shown is of one grid."""
        return self

    def to(self, device: str | torch.device) -> _Shown:
        """Itself, on the device of the observation."""
        return self


def local_deviations(log_ratio: Tensor, levels: int) -> tuple[Tensor, ...]:
    """Of log-ratios of variances in octave bands `(B, bands, C, *N)`, finest first, deviations at every scale
    `(B, 1, C, *M)`: the root of the mean ratio of the pixels under a coefficient; the last band is that of what is
    coarser, too.
    """
    ndim, last = log_ratio.ndim - 3, log_ratio.shape[1] - 1
    pool = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}[ndim]
    sides = [2 ** min(scale + 1, levels) for scale in range(levels + 1)]
    return tuple(pool(log_ratio[:, min(scale, last)].exp(), side).sqrt()[:, None] for scale, side in enumerate(sides))


@dataclass(frozen=True, eq=False)
class CascadePosterior(NetDenoiser):
    """`NetDenoiser` of a `WaveletCascade`: the mean and local variance of one network, and errors drawn scale by scale.

    `scale_steps`: of every scale in a draw of the error; 0 draws from the local law in octave bands instead.  Real
    images in the Fourier basis, predicts "wiener", with `bands` of log-variances.
    """

    scale_steps: int = 4

    def __post_init__(self) -> None:
        """Refuse what a cascade has not."""
        super().__post_init__()
        if not isinstance(self.net, WaveletCascade):
            raise InputError("CascadePosterior net", type(self.net).__name__, "a WaveletCascade")
        known = 1 if self.spectrum is None else self.spectrum.channels or 1
        if self.net.channels != known:
            wanted = f"{known}, the channels of the data"
            raise InputError("CascadePosterior network.options.channels", self.net.channels, wanted)
        if not isinstance(self.process.basis, Fourier) or self.process.basis.complex:
            raise InputError("CascadePosterior process", type(self.process.basis).__name__, "a Fourier basis, real")
        if not self.bands or self.predicts != "wiener":
            found = f"bands {self.bands}, predicts {self.predicts!r}"
            raise InputError("CascadePosterior", found, "bands of at least 1, and 'wiener'")
        if self.scale_steps < 0:
            raise InputError("CascadePosterior scale_steps", self.scale_steps, "at least 0")

    @property
    def draw_calls(self) -> int:
        """Every step runs the network of every scale once, which together cost about as much as a call."""
        return self.scale_steps

    def views(self, v: Tensor) -> Views:
        """What the scales see of errors of power v `(B|1, C|1, *K)`."""
        assert isinstance(self.process.basis, Fourier)
        assert isinstance(self.net, WaveletCascade)
        return residual_views(self.process.basis, v, self.net.levels)

    def told(self, v: Tensor) -> Tensor:
        """What the networks are told of an observation with the error variance v `(B, C|1, *K)`."""
        return self._told(v)

    def guide(self, terms: Terms, mean: Tensor, local: tuple[Tensor, ...]) -> Guide:
        """What the scales are shown of an observation and its mean `(B, C, *N)`."""
        assert isinstance(self.net, WaveletCascade)
        shown = [*self._inputs(terms.linear, terms.skip), self.unit_image(mean)]
        return Guide(*analysed(torch.cat(shown, 1), self.net.levels), tuple(x[:, 0].log() for x in local))

    def at_scale(self, guide: Guide, view: View, level: Tensor) -> tuple[Tensor, Tensor]:
        """Answer N and log-variance `(B, D, C, *M)` of the network of a scale, in its precision."""
        assert isinstance(self.net, WaveletCascade)
        y = view.noisy
        dtype = next((p.dtype for p in self.net.parameters()), y.dtype)
        shown = Guide(*(tuple(x.to(dtype) for x in part) for part in guide))
        coarse = None if view.coarse is None else view.coarse.to(dtype)
        log_s = 0.5 * view.s2.clamp_min(1e-20).log()
        told = level.to(dtype).expand(len(y), level.shape[1])
        with torch.autocast(y.device.type, torch.bfloat16) if self.precision == "bf16" else nullcontext():
            out, ratio = self.net.at_scale(view.scale, shown, y.to(dtype), coarse, told, log_s.to(dtype))
        return out.to(y), ratio.to(y).clamp(LEAST, LARGEST)

    def _error_law(self, terms: Terms, image: Tensor) -> Spread | None:
        law = super()._error_law(terms, image)
        if not isinstance(law, LocalSpread) or self.scale_steps == 0:
            return law
        assert isinstance(self.net, WaveletCascade)
        ratios = law.log_ratio if law.log_ratio.ndim == self.process.ndim + 3 else law.log_ratio.unsqueeze(2)
        local = local_deviations(ratios, self.net.levels)
        model = _Shown(self, self.guide(terms, image, local), self.told(terms.linear.v))
        own = {f.name: getattr(law, f.name) for f in fields(LocalSpread)}
        return CascadeDraws(**own, model=model, views=self.views(law.v), local=local, steps=self.scale_steps)
