"""A posterior drawn scale by scale: what the Wiener filter leaves open, as a wavelet cascade given the measurement.

With c the Wiener estimate of an observation and v its error variance, r = x_0 - c has the power v and, for Gaussian
data, does not depend on the observation.  It is drawn as Guth et al. (2022) draw images: the coarse band, then at every
scale the details given what is coarser, in units of their deviation, which follows from v; each network is also shown
what is known of its scale, the bands of c and of the noise.  The law of a scale given the coarser ones is reached by a
few steps of an Ornstein-Uhlenbeck process of its own on its sub-lattice, so that a draw costs N/3 calls of the whole
lattice in two dimensions.  The mean E[x_0 | w] is one pass of the same networks, coarse to fine.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.bases import Fourier, Wavelet
from retrodict.bases.wavelet import band_powers
from retrodict.denoisers.cascade import LevelLaw, LevelModel, View, Views
from retrodict.denoisers.network import NetDenoiser, Terms
from retrodict.denoisers.spread import LocalSpread, Spread, root_mean
from retrodict.nets.scales import Guide, WaveletCascade, analysed

__all__ = ["HORIZON", "CascadeDraws", "CascadePosterior", "rates", "residual_views"]

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

    Its variance is that of a `LocalSpread`.  `shift` `(B, C, *N)`: the mean less the Wiener estimate, around which the
    residual is drawn.  `steps` of every scale; a draw takes 2 * steps white fields.
    """

    model: LevelModel
    views: Views
    shift: Tensor
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
            self.views.put(made, scale, self._drawn(scale, self.views.coarse(made, scale), noise))
        return self.views.basis.inverse(made) - self.shift.to(made)

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


@dataclass(frozen=True, eq=False)
class CascadePosterior(NetDenoiser):
    """`NetDenoiser` of a `WaveletCascade`: its mean and local variance, and errors that are drawn scale by scale.

    `scale_steps`: of every scale in a draw of the error; 0 draws from the local law in octave bands instead.  The
    networks have as many octave bands of log-variances as scales, `bands` = levels + 1.  Real images in the Fourier
    basis, predicts "wiener".
    """

    scale_steps: int = 4

    def __post_init__(self) -> None:
        """Refuse what a cascade has not."""
        super().__post_init__()
        if not isinstance(self.net, WaveletCascade):
            raise InputError("CascadePosterior net", type(self.net).__name__, "a WaveletCascade")
        if not isinstance(self.process.basis, Fourier) or self.process.basis.complex:
            raise InputError("CascadePosterior process", type(self.process.basis).__name__, "a Fourier basis, real")
        if self.bands != self.net.levels + 1 or self.predicts != "wiener":
            found = f"bands {self.bands}, predicts {self.predicts!r}"
            raise InputError("CascadePosterior", found, f"bands {self.net.levels + 1}, levels + 1, and 'wiener'")
        if self.scale_steps < 0:
            raise InputError("CascadePosterior scale_steps", self.scale_steps, "at least 0")

    @property
    def features(self) -> int:
        """Those of the level, and the deviation of every band."""
        assert isinstance(self.net, WaveletCascade)
        return super().features + self.net.bands

    def views(self, v: Tensor) -> Views:
        """What the scales see of residuals of power v `(B|1, C|1, *K)`."""
        assert isinstance(self.process.basis, Fourier)
        assert isinstance(self.net, WaveletCascade)
        return residual_views(self.process.basis, v, self.net.levels)

    def _told(self, v: Tensor) -> Tensor:
        """Level features, and the logarithm of the deviation of every band over c_out, coarse first."""
        total = root_mean(v, self.process.basis).square().flatten(1).mean(1)
        share = self.views(v).variances.mean(1) / total[:, None]
        return torch.cat([super()._told(v), 0.5 * share.clamp_min(1e-12).log()], -1)

    def told(self, v: Tensor) -> Tensor:
        """What the networks are told of an observation with the error variance v `(B, C|1, *K)`."""
        return self._told(v)

    def guide(self, terms: Terms) -> Guide:
        """What the scales are shown of an observation."""
        assert isinstance(self.net, WaveletCascade)
        return analysed(torch.cat(self._inputs(terms.linear, terms.skip), 1), self.net.levels)

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
        v = terms.linear.v
        model = _Shown(self, self.guide(terms), self._told(v))
        own = {f.name: getattr(law, f.name) for f in fields(LocalSpread)}
        return CascadeDraws(**own, model=model, views=self.views(v), shift=image - terms.skip, steps=self.scale_steps)
