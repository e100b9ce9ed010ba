"""The dispatcher of a wavelet cascade: a joint denoiser made of one model a level, each on its own sub-lattice.

In a window of the clock of `wavelet_cascade` the bands of one scale carry noise, the coarser ones are clean and the
finer ones erased, so E[u_0 | u_t] is u_t on the coarser bands, the mean of the data on the finer ones, and on the
active bands the conditional mean given the clean coarse image (Guth et al. 2022).  A model of a level sees its
sub-lattice alone: noisy details over the deviations of their bands, and the coarse image of the level over its own.  So
the ordinary loop runs a cascade, and its cost in evaluations of the whole lattice is near N/3 in two dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.bases import Wavelet
from retrodict.bases.spectrum import BandSpectrum, Spectrum
from retrodict.bases.stationary import StationaryLevel, stationary_levels
from retrodict.denoisers.denoiser import Denoiser, Estimate, GaussianDenoiser, check_state
from retrodict.processes.observation import Cond
from retrodict.processes.process import Process
from retrodict.processes.wavelet import wavelet_cascade

__all__ = ["CascadeDenoiser", "LevelLaw", "LevelModel", "StationaryModel", "View", "Views", "cascade_of_stationary"]


class View(NamedTuple):
    """What a model of a level is shown: scale (0 finest details ... J the coarse band), noisy bands `(B, D, C, *M)` in
    units of their deviations, the clean coarse image `(B, C, *M)` in units of its own (None for the coarse band), and
    gain and noise variance `(B,)` float64 of the bands.
    """

    scale: int
    noisy: Tensor
    coarse: Tensor | None
    h: Tensor
    s2: Tensor


class LevelLaw(NamedTuple):
    """The law of the clean bands: mean `(B, D, C, *M)`, white noise like it to an error, and the error variance
    of a coefficient as mean over the band, `(B, D, C)`."""

    mean: Tensor
    draw: Callable[[Tensor], Tensor]
    variance: Tensor


class LevelModel(Protocol):
    """What answers for the levels."""

    @property
    def multiple(self) -> int:
        """What a side of every sub-lattice has to be a multiple of."""
        ...

    def answer(self, view: View) -> LevelLaw:
        """The law of the clean bands of `view`."""
        ...

    def on(self, basis: Wavelet) -> LevelModel:
        """The same model on another grid."""
        ...

    def to(self, device: str | torch.device) -> LevelModel:
        """The same model on another device."""
        ...


# ---- sub-lattices ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Views:
    """Coefficients of a `Wavelet` basis as what the levels see, in units of their deviations, and back.

    variances `(B|1, C|1, bands)` float64, in the order of `Wavelet.places`; mean `(C|1,)` of the image.
    """

    basis: Wavelet
    variances: Tensor
    mean: Tensor

    def __post_init__(self) -> None:
        """Refuse levels that differ between axes: a sub-lattice then has no scale."""
        if len(set(self.basis.each)) != 1:
            raise InputError("cascade basis", f"levels {self.basis.each}", "as many levels along every axis")

    @classmethod
    @torch.inference_mode(mode=False)
    def of(cls, basis: Wavelet, spectrum: BandSpectrum) -> Views:
        """In units of a spectrum, the same for all items."""
        table = torch.tensor(spectrum.variances, dtype=torch.float64, device=basis.device)
        mean = torch.as_tensor(spectrum.mean, dtype=torch.float64, device=basis.device).reshape(-1)
        return cls(basis, table.reshape(1, -1, table.shape[-1]), mean)

    @cached_property
    @torch.inference_mode(mode=False)
    def _scales(self) -> tuple[dict[int, Tensor], dict[int, Tensor], Tensor]:
        """Deviations `(B|1, D, C|1, *1)` of the bands of a scale and `(B|1, C|1, *1)` of its coarse image; mean
        `(C|1, *1)`."""
        ones, table = [1] * self.basis.ndim, self.variances
        bands, depth, power = list(self.basis.places()), self.basis.depth, table[..., 0]
        deviations = {depth: table[:, None, :, 0].sqrt()[(..., *[None] * len(ones))]}
        coarse = {}
        for level in range(depth, 0, -1):
            own = [i for i, (j, name) in enumerate(bands) if j == level and "d" in name]
            coarse[level - 1] = power.sqrt()[(..., *[None] * len(ones))]
            deviations[level - 1] = table[..., own].movedim(-1, 1).sqrt()[(..., *[None] * len(ones))]
            power = (power + table[..., own].sum(-1)) / (len(own) + 1)
        return deviations, coarse, self.mean.reshape(-1, *ones)

    def deviation(self, scale: int) -> Tensor:
        """Of the bands of a scale, `(B|1, D, C|1, *1)`."""
        return self._scales[0][scale]

    def level(self, scale: int) -> int:
        """Level of the bands of a scale: the coarse band is of the last one."""
        return min(scale + 1, self.basis.depth)

    def places(self, scale: int) -> list[tuple[slice, ...]]:
        """Where the bands of a scale lie in the coefficients."""
        coarse = scale == self.basis.depth
        return [
            place
            for (level, name), place in self.basis.places().items()
            if level == self.level(scale) and ("d" not in name) == coarse
        ]

    def bands(self, u: Tensor, scale: int) -> Tensor:
        """The bands of a scale of coefficients `(B, C, *K)`, `(B, D, C, *M)`."""
        return torch.stack([u[(..., *place)] for place in self.places(scale)], 1)

    def center(self, scale: int) -> Tensor | float:
        """Mean of the bands of a scale: nothing but for the coarse one."""
        level = self.basis.depth
        return self._scales[2] * 2 ** (level * self.basis.ndim / 2) if scale == level else 0.0

    def unit(self, u: Tensor, scale: int) -> Tensor:
        """The bands of a scale of clean coefficients, mean 0 and deviation 1, `(B, D, C, *M)`."""
        return (self.bands(u, scale) - self._like(self.center(scale), u)) / self.deviation(scale).to(u)

    def noisy(self, u: Tensor, scale: int, h: Tensor) -> Tensor:
        """The same of coefficients of gain h `(B,)`."""
        gain = h.reshape(-1, *[1] * (self.basis.ndim + 2)).to(u)
        return (self.bands(u, scale) - gain * self._like(self.center(scale), u)) / self.deviation(scale).to(u)

    def coarse(self, u: Tensor, scale: int) -> Tensor | None:
        """The clean coarse image of the level of a scale, mean 0 and deviation 1, `(B, C, *M)`."""
        level, depth = self.level(scale), self.basis.depth
        if scale == depth:
            return None
        corner = u[(..., *(slice(0, n >> level) for n in self.basis.size))]
        if level < depth:
            inner = replace(self.basis, size=tuple(corner.shape[2:]), levels=depth - level)
            corner = inner.inverse(corner)
        mean = self._scales[2] * 2 ** (level * self.basis.ndim / 2)
        return (corner - mean.to(u)) / self._scales[1][scale].to(u)

    def _like(self, x: Tensor | float, u: Tensor) -> Tensor | float:
        return x.to(u) if isinstance(x, Tensor) else x

    def put(self, u: Tensor, scale: int, bands: Tensor, centered: bool = True) -> None:
        """Write bands `(B, D, C, *M)` in units of their deviations into coefficients `(B, C, *K)`."""
        values = bands * self.deviation(scale).to(u) + (self._like(self.center(scale), u) if centered else 0.0)
        for value, place in zip(values.unbind(1), self.places(scale), strict=True):
            u[(..., *place)] = value


@dataclass(frozen=True)
class CascadeSpread:
    """The law of the error of a cascade: groups of items (which, scale, law), of coefficients by band."""

    views: Views
    groups: tuple[tuple[Tensor, int | None, LevelLaw | None], ...]
    fields: int = 1

    def draw(self, z: Tensor) -> Tensor:
        """White noise `(1, B, C, *N)` to an error `(B, C, *N)`: of bands that are erased, that of the data."""
        white = self.views.basis.forward(z[0])
        error = torch.zeros_like(white)
        for which, scale, law in self.groups:
            if scale is None or law is None:
                continue
            own, made = white[which], error[which]
            self.views.put(made, scale, law.draw(self.views.bands(own, scale)).to(made), centered=False)
            for finer in range(scale):
                self.views.put(made, finer, self.views.bands(own, finer), centered=False)
            error[which] = made
        return self.views.basis.inverse(error)

    def variance(self) -> Tensor:
        """The mean over the coefficients, the same at every pixel, `(B, C, *N)`."""
        views, count = self.views, sum(len(which) for which, _, _ in self.groups)
        law = next((law for _, _, law in self.groups if law is not None), None)
        channels = 1 if law is None else law.mean.shape[2]
        out = torch.zeros(count, channels, dtype=torch.float64, device=views.basis.device)
        for which, scale, law in self.groups:
            if scale is None or law is None:
                continue
            for finer in range(scale + 1):
                share = 2.0 ** (-views.level(finer) * views.basis.ndim)
                power = views.deviation(finer)[0].square().flatten(1) * share  # (D, C|1)
                out[which] += (power * law.variance.double()).sum(1) if finer == scale else power.sum(0)
        return out[(..., *[None] * views.basis.ndim)].expand(*out.shape, *views.basis.size)


# ---- the dispatcher --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class CascadeDenoiser(Denoiser):
    """E[x_0 | x_t] of the process `wavelet_cascade`, level by level; `model` answers for one level at a time.

    `spectrum`: mean and variance of every band.  Raises `InputError` for another process, windows that overlap, bands
    that are not dropped, and a spectrum of another basis.
    """

    process: Process
    model: LevelModel
    spectrum: BandSpectrum  # type: ignore[assignment]

    def __post_init__(self) -> None:
        """Refuse a clock that leaves more than one scale noisy."""
        recipe = self.process.recipe
        name = "a process of its own" if recipe is None else repr(recipe.name)
        if recipe is None or recipe.name != "wavelet_cascade":
            raise InputError("CascadeDenoiser process", name, "'wavelet_cascade'")
        if recipe.options.get("overlap", 0.0) != 0 or not recipe.options.get("drop", True):
            found = f"overlap {recipe.options.get('overlap')}, drop {recipe.options.get('drop')}"
            raise InputError("CascadeDenoiser process", found, "windows without overlap, and drop")
        if not isinstance(self.spectrum, BandSpectrum):
            raise InputError("CascadeDenoiser spectrum", type(self.spectrum).__name__, "a BandSpectrum")
        assert isinstance(self.process.basis, Wavelet)
        self.spectrum.on(self.process.basis.small())  # other levels: said here
        known = recipe.options.get("spectrum")
        told = None if known is None else Spectrum.from_json(known, "process spectrum")
        if told != self.spectrum:
            raise InputError("CascadeDenoiser process", "other statistics of the bands", "those of `spectrum`")

    @cached_property
    def views(self) -> Views:
        """What the levels see."""
        assert isinstance(self.process.basis, Wavelet)
        return Views.of(self.process.basis, self.spectrum)

    @property
    def multiple(self) -> int:  # type: ignore[override]
        """Every axis of an image has to be a multiple of it."""
        return self.model.multiple * 2**self.views.basis.depth

    @cached_property
    def _clock(self) -> Process:
        """The same clock on one line, for h and s^2 of every scale in units of its bands."""
        options = self.process.recipe.options  # type: ignore[union-attr]
        line = Wavelet((2**self.views.basis.depth,), levels=self.views.basis.depth, family="haar")
        return wavelet_cascade(line, **{k: options[k] for k in ("horizon", "exponent") if k in options})

    @cached_property
    def _windows(self) -> dict[float, tuple[int | None, float, float]]:
        """What was asked of `window`: a plan asks for a time once for every batch."""
        return {}

    def window(self, t: float) -> tuple[int | None, float, float]:
        """The scale that is noisy at t, with its gain and noise variance in units of its bands; None at t = 0."""
        if t not in self._windows:
            self._windows[t] = self._window(t)
        return self._windows[t]

    def _window(self, t: float) -> tuple[int | None, float, float]:
        m = self._clock.moments(torch.tensor([t], dtype=torch.float64, device="cpu"))
        depth = self.views.basis.depth
        first = [*(1 << (depth - b - 1) for b in range(depth)), 0]  # a coefficient of every scale
        h, s2 = (x[0, 0].expand(1 << depth) for x in (m.h, m.s2))
        noisy = [b for b, i in enumerate(first) if float(s2[i]) > 0 and float(h[i]) > 0]
        if not noisy:
            return None, 1.0, 0.0
        return noisy[0], float(h[first[noisy[0]]]), float(s2[first[noisy[0]]])

    def estimate(self, xt: Tensor, t: Tensor, cond: Cond = Cond()) -> Estimate:
        """D and the law of its error: xt `(B, C, *N)`, t `(B,)`; items of one window are answered together."""
        check_state(self.process, xt, cond)
        u = self.process.to_coefficients(xt, t)
        out, groups = u.clone(), []
        found = [self.window(time) for time in t.tolist()]
        for scale in dict.fromkeys(window[0] for window in found):
            chosen = [i for i, window in enumerate(found) if window[0] == scale]
            which = torch.tensor(chosen, device=u.device)
            law = None
            if scale is not None:
                rates = torch.tensor([found[i][1:] for i in chosen], dtype=torch.float64, device=u.device)
                h, s2 = rates.unbind(1)
                own = u[which]
                view = View(scale, self.views.noisy(own, scale, h), self.views.coarse(own, scale), h, s2)
                law = self.model.answer(view)
                self.views.put(own, scale, law.mean.to(u))
                for finer in range(scale):
                    self.views.put(own, finer, torch.zeros_like(self.views.bands(own, finer)))
                out[which] = own
            groups.append((which, scale, law))
        return Estimate(self.process.basis.inverse(out), CascadeSpread(self.views, tuple(groups)))

    def on(self, size: Sequence[int]) -> CascadeDenoiser:
        """The same models on another grid."""
        process = self.process.on(tuple(size))
        assert isinstance(process.basis, Wavelet)
        return replace(self, process=process, model=self.model.on(process.basis))

    def to(self, device: str | torch.device) -> CascadeDenoiser:
        """The same denoiser on another device."""
        return replace(self, process=self.process.to(device), model=self.model.to(device))

    def coarser(self, level: int) -> CascadeDenoiser:
        """The cascade of the coarse image of `level` (0: of the image itself), a process on its sub-lattice alone.

        Its windows are those of scales `level` to J of this clock, and its models the same: a coefficient has there,
        from a time of its window on, the law that it has here.  Raises `InputError` where no details are left in it.
        """
        basis = self.process.basis
        assert isinstance(basis, Wavelet)
        if not 0 <= level < basis.depth:
            raise InputError("level", level, f"0 to {basis.depth - 1}: a coarse image that still has details")
        if level == 0:
            return self
        size, spacing = (tuple(x) for x in ((n >> level for n in basis.size), (s * 2**level for s in basis.spacing)))
        own = replace(basis, size=size, spacing=spacing, levels=basis.depth - level)
        table = torch.tensor(self.spectrum.variances, dtype=torch.float64, device="cpu")
        gain, mean = 2.0 ** (level * basis.ndim / 2), self.spectrum.mean
        means = gain * mean if isinstance(mean, float | int) else tuple(gain * m for m in mean)
        spectrum = BandSpectrum.of(own, means, table[..., : len(own.places())])
        options = self.process.recipe.options  # type: ignore[union-attr]
        clock = {k: options[k] for k in ("horizon", "exponent") if k in options}
        return CascadeDenoiser(wavelet_cascade(own, **clock, spectrum=spectrum), Coarser(self.model, level), spectrum)

    def gaussian(self) -> GaussianDenoiser:
        """The exact denoiser of data whose coefficients are independent, with the variances of the bands."""
        return GaussianDenoiser(self.process, spectrum=self.spectrum)


@dataclass(frozen=True, eq=False)
class Coarser:
    """The levels of `model` that are left of a cascade at the coarse image of `level`, counted from there."""

    model: LevelModel
    level: int

    @property
    def multiple(self) -> int:
        """What a side of every sub-lattice has to be a multiple of."""
        return self.model.multiple

    def answer(self, view: View) -> LevelLaw:
        """The law of the clean bands."""
        return self.model.answer(view._replace(scale=view.scale + self.level))

    def on(self, basis: Wavelet) -> Coarser:
        """The same model on another grid."""
        size = tuple(n << self.level for n in basis.size)
        return replace(self, model=self.model.on(replace(basis, size=size, levels=basis.depth + self.level)))

    def to(self, device: str | torch.device) -> Coarser:
        """The same model on another device."""
        return replace(self, model=self.model.to(device))


# ---- exact levels of stationary data ---------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class StationaryModel:
    """The exact conditional law of stationary Gaussian data at every level, by Fourier transforms of the sub-lattice.

    Per frequency, with the covariance S and the mean mu of the bands given the coarse image (`StationaryLevel`):
    E = mu + h S (h^2 S + s^2)^-1 (y - h mu), Cov = s^2 S (h^2 S + s^2)^-1, in O(d log d).
    """

    basis: Wavelet
    levels: tuple[StationaryLevel, ...]
    multiple: int = 1

    def answer(self, view: View) -> LevelLaw:
        """The law of the clean bands."""
        axes = tuple(range(3, 3 + self.basis.ndim))
        seen = self._fft(view.noisy, axes)
        if view.scale == len(self.levels):
            power = self.levels[-1].power
            values, vectors = (power / power.mean())[..., None], torch.ones(1, 1, dtype=torch.complex128, device="cpu")
            mean = torch.zeros_like(seen)
        else:
            level = self.levels[view.scale]
            values, vectors = level.modes
            assert view.coarse is not None
            low = self._fft(view.coarse[:, None], axes) * level.power.mean().sqrt()
            mean = torch.einsum("...d,bc...->bdc...", level.regression, low[:, 0])
        vectors = vectors.expand(*values.shape[:-1], *vectors.shape[-2:])
        h, s2 = (x.reshape(-1, 1, 1, *[1] * self.basis.ndim).double() for x in (view.h, view.s2))
        spread = values.movedim(-1, 0)[None, :, None]  # (1, D, 1, *M)
        total = h**2 * spread + s2
        rest = self._turned(vectors, h * spread / total, seen - h * mean)
        v = s2 * spread / total
        root = v.sqrt()
        each = torch.einsum("...ia,ba...->bi...", vectors.abs() ** 2, v[:, :, 0].to(torch.float64))
        error = each.flatten(2).mean(2)[..., None].expand(-1, -1, view.noisy.shape[2])

        def draw(z: Tensor) -> Tensor:
            return self._ifft(self._turned(vectors, root, self._fft(z, axes)), axes).to(z)

        return LevelLaw(self._ifft(mean + rest, axes), draw, error)

    @staticmethod
    def _turned(vectors: Tensor, factor: Tensor, x: Tensor) -> Tensor:
        """U diag(factor) U^H x, x `(B, D, C, *M)`."""
        inner = torch.einsum("...ia,bic...->bac...", vectors.conj(), x)
        return torch.einsum("...ia,bac...->bic...", vectors, factor * inner)

    @staticmethod
    def _fft(x: Tensor, axes: tuple[int, ...]) -> Tensor:
        return torch.fft.fftn(x.to(torch.complex128), dim=axes, norm="ortho")

    @staticmethod
    def _ifft(x: Tensor, axes: tuple[int, ...]) -> Tensor:
        return torch.fft.ifftn(x, dim=axes, norm="ortho").real

    def on(self, basis: Wavelet) -> StationaryModel:
        """Itself: the tables are those of one grid."""
        if basis.size != self.basis.size:
            raise InputError("size", basis.size, f"{self.basis.size}, the grid of the tables")
        return self

    def to(self, device: str | torch.device) -> StationaryModel:
        """Itself, on the CPU: its tables are for closed forms."""
        if torch.device(device).type != "cpu":
            raise InputError("device", str(device), "the CPU: exact levels are for closed forms")
        return self


def cascade_of_stationary(
    basis: Wavelet, power: Tensor, horizon: float = 5.0, exponent: float = 2.0
) -> CascadeDenoiser:
    """The exact cascade of stationary Gaussian data of mean 0 and `power` `(*N)` on the discrete Fourier grid."""
    levels = stationary_levels(basis, power)
    variances = [float(levels[-1].power.mean())]
    for level in reversed(levels):
        variances += level.variances.tolist()
    spectrum = BandSpectrum.of(basis, 0.0, variances)
    process = wavelet_cascade(basis, horizon, exponent, spectrum=spectrum)
    return CascadeDenoiser(process, StationaryModel(basis, tuple(levels)), spectrum)
