"""Magnetic resonance: k-space of one or many coils on a grid, and along any trajectory."""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from retrodict._check import InputError, choice
from retrodict.bases import Fourier
from retrodict.physics.kspace import Sampling
from retrodict.physics.operator import Operator, Space, Spectral, Table

__all__ = ["CartesianMRI", "RadialMRI", "birdcage", "spokes"]


def birdcage(size: Sequence[int], coils: int = 8, radius: float = 1.2) -> Tensor:
    """Sensitivities `(coils, ny, nx)` complex128 of loops round the image, sum over coils of |S|^2 = 1.

    Coil c stands at `radius` half widths of the image at angle 2 pi c / coils; S_c = exp(i phase) / distance, its phase
    the direction from the coil (a closed form for tests, not a field solver).
    """
    y, x = (torch.linspace(-1, 1, n, dtype=torch.float64, device="cpu") for n in size)
    at = 2 * math.pi * torch.arange(coils, dtype=torch.float64, device="cpu")[:, None, None] / coils
    dx, dy = x[None, None, :] - radius * at.cos(), y[None, :, None] - radius * at.sin()
    maps = torch.polar(1 / (dx**2 + dy**2).sqrt(), torch.atan2(dx, -dy) - at)
    return maps / (maps.abs() ** 2).sum(0).sqrt()


def _maps(maps: Tensor | None, size: tuple[int, ...]) -> Table | None:
    """The sensitivities, if they fit."""
    if maps is None:
        return None
    if maps.ndim != len(size) + 1 or tuple(maps.shape[1:]) != size:
        raise InputError("maps", tuple(maps.shape), f"(coils, {', '.join(map(str, size))}), as the image")
    if not bool(torch.isfinite(maps.abs()).all()):
        raise InputError("maps", "NaN or infinity", "finite sensitivities, 0 outside the object")
    return Table(maps.to(torch.complex128))


class CartesianMRI(Operator):
    """y_c = M F (S_c x): complex images `(1, *N)` to k-space `(coils, *N)`, 0 where it was not measured.

    F = fftshift FFT ifftshift, unitary: the zero frequency at N // 2, and images with their middle there, for odd and
    even sizes.  `mask` is M, a `Sampling` or a tensor `(*N)`; `maps` S are given `(coils, *N)`, or one coil sees
    everything.  With sum |S|^2 = 1 the norm is at most 1.  Noise is to be whitened over the coils beforehand.
    """

    def __init__(
        self,
        mask: Sampling | Tensor,
        *,
        maps: Tensor | None = None,
        spacing: Sequence[float] = (),
        unit: str = "1",
    ) -> None:
        values = mask.mask if isinstance(mask, Sampling) else mask
        if values.is_complex() or not bool(((values == 0) | (values == 1)).all()) or not bool(values.any()):
            raise InputError("mask", "values other than 0 and 1, or nothing measured", "1 where k-space was measured")
        size = tuple(values.shape)
        self._asked = dict(mask.about) if isinstance(mask, Sampling) else {}
        self._mask, self._maps = Table(values.double()), _maps(maps, size)
        self._basis = Fourier(size, tuple(spacing), complex=True)
        self._axes = tuple(range(-len(size), 0))
        self.coils = 1 if self._maps is None else len(self._maps.values)
        self.domain = Space((1, *size), unit, True, tuple(spacing))
        self.range = Space((self.coils, *size), unit, True)

    @property
    def mask(self) -> Tensor:
        """M `(*N)` float64."""
        return self._mask.values

    @property
    def about(self) -> Mapping[str, Any]:
        """The family of the mask, and the acceleration that was realized."""
        realized = self.mask.numel() / float(self.mask.sum())
        return {**self._asked, "acceleration": realized, "coils": self.coils}

    @property
    def maps(self) -> Tensor | None:
        """S `(coils, *N)` complex128, or None of one coil that sees everything."""
        return None if self._maps is None else self._maps.values

    def aliased(self, y: Tensor) -> Tensor:
        """Images of the single coils `(B, coils, *N)`: F^H M y."""
        return self._inverse(self._mask(y.real) * y)

    @property
    def measured(self) -> Tensor:
        """The mask, for every coil."""
        return self.mask.expand(self.range.shape)

    def _fourier(self, x: Tensor) -> Tensor:
        return torch.fft.fftshift(self._basis.forward(torch.fft.ifftshift(x, self._axes)), self._axes)

    def _inverse(self, y: Tensor) -> Tensor:
        return torch.fft.fftshift(self._basis.inverse(torch.fft.ifftshift(y, self._axes)), self._axes)

    def _forward(self, x: Tensor) -> Tensor:
        seen = x if self._maps is None else self._maps(x) * x
        return self._mask(x.real) * self._fourier(seen)

    def _adjoint(self, y: Tensor) -> Tensor:
        x = self._inverse(self._mask(y.real) * y)
        return x if self._maps is None else (self._maps(y).conj() * x).sum(1, keepdim=True)

    def spectral(self) -> Spectral | None:
        """One coil: the mask in the Fourier basis; the shifts are in the isometry."""
        if self._maps is not None:
            return None
        basis, axes = self._basis, self._axes
        point = torch.zeros(basis.size, dtype=torch.complex128, device="cpu")
        point[(0,) * basis.ndim] = math.sqrt(point.numel())
        phase = Table(basis.forward(torch.fft.ifftshift(point, axes)))
        gain = torch.fft.ifftshift(self.mask, axes)
        return Spectral(
            basis,
            gain,
            lambda u: torch.fft.fftshift(phase(u) * u, axes),
            lambda y: phase(y).conj() * torch.fft.ifftshift(y, axes),
        )


def spokes(count: int, samples: int, *, golden: bool = True) -> Tensor:
    """Radial trajectory `(count samples, 2)` in radians a pixel, (ky, kx) in [-pi, pi).

    Spokes are 111.246 degrees apart (Winkelmann et al., IEEE Trans. Medical Imaging 26, 2007), or evenly over 180; a
    full set is pi / 2 times as many as the image has pixels across.
    """
    step = math.pi * (math.sqrt(5) - 1) / 2 if golden else math.pi / count
    angle = step * torch.arange(count, dtype=torch.float64, device="cpu")[:, None]
    radius = 2 * math.pi * (torch.arange(samples, dtype=torch.float64, device="cpu") - samples // 2) / samples
    return torch.stack([radius * angle.sin(), radius * angle.cos()], -1).reshape(-1, 2)


class RadialMRI(Operator):
    """y_cj = n^(-1/2) sum_r S_c(r) x(r) exp(-i k_j r): complex images `(1, *N)` to samples `(coils, m)`.

    `trajectory` `(m, ndim)` in radians a pixel, in the order of the axes; r runs from -(N // 2), n is the number of
    pixels.  `method` "finufft" uses that library (Barnett, Magland, af Klinteberg, SIAM J. Sci. Comput. 41, 2019) to
    1e-12, "direct" sums term by term, and "auto" takes the library where it is installed; `about` says which.  Density
    compensation is no part of the likelihood, and none of the operator.
    """

    def __init__(
        self,
        size: Sequence[int],
        trajectory: Tensor,
        *,
        maps: Tensor | None = None,
        method: str = "auto",
        spacing: Sequence[float] = (),
        unit: str = "1",
    ) -> None:
        size = tuple(size)
        choice("method", method, ("auto", "direct", "finufft"))
        if trajectory.ndim != 2 or trajectory.shape[1] != len(size):
            raise InputError("trajectory", tuple(trajectory.shape), f"(samples, {len(size)})")
        widest = float(trajectory.abs().max())
        if not widest <= math.pi * (1 + 1e-9):
            hint = "Cycles a pixel are multiplied by 2 pi."
            raise InputError("trajectory", f"a frequency of {widest:.4g}", "radians a pixel, within [-pi, pi]", hint)
        installed = importlib.util.find_spec("finufft") is not None
        if method == "finufft" and not installed:
            raise InputError("method", "'finufft', which is not installed", "pip install finufft, or method='direct'")
        self.method = method if method != "auto" else ("finufft" if installed else "direct")
        self._k, self._maps = trajectory.detach().to("cpu", torch.float64), _maps(maps, size)
        self.coils = 1 if self._maps is None else len(self._maps.values)
        self.domain = Space((1, *size), unit, True, tuple(spacing))
        self.range = Space((self.coils, len(trajectory)), unit, True)

    @property
    def about(self) -> Mapping[str, Any]:
        """Samples, pixels a sample, and the method."""
        size = self.domain.shape[1:]
        return {"samples": len(self._k), "acceleration": math.prod(size) / len(self._k), "method": self.method}

    def _sum(self, x: Tensor, turned: bool) -> Tensor:
        """The transform of every image `(n, *N)` to `(n, m)`, or its adjoint, on the CPU in double precision."""
        wide = x.detach().to("cpu", torch.complex128)
        one = {"direct": self._direct, "finufft": self._library}[self.method]
        scale = 1 / math.sqrt(math.prod(self.domain.shape[1:]))
        return torch.stack([scale * one(item.contiguous(), turned) for item in wide]).to(x.device, x.dtype)

    def _direct(self, x: Tensor, turned: bool) -> Tensor:
        size = self.domain.shape[1:]
        axes = [torch.arange(n, dtype=torch.float64, device="cpu") - n // 2 for n in size]
        rows = max(1, (1 << 20) // max(math.prod(size[1:]), sum(size)))
        parts, total = [], torch.zeros(size, dtype=torch.complex128, device="cpu")
        for start in range(0, len(self._k), rows):
            k = self._k[start : start + rows]
            waves = [torch.polar(torch.ones_like(k[:, :1] * r), -k[:, i : i + 1] * r) for i, r in enumerate(axes)]
            letters = "abc"[: len(size)]
            if turned:
                terms = ",".join(f"m{a}" for a in letters)
                total += torch.einsum(f"m,{terms}->{letters}", x[start : start + rows], *(w.conj() for w in waves))
            else:
                part = torch.einsum("ma,a...->m...", waves[0], x)
                for wave in waves[1:]:
                    part = torch.einsum("ma,ma...->m...", wave, part)
                parts.append(part)
        return total if turned else torch.cat(parts)

    def _library(self, x: Tensor, turned: bool) -> Tensor:
        finufft = importlib.import_module("finufft")
        size = self.domain.shape[1:]
        points = [self._k[:, i].contiguous().numpy() for i in range(len(size))]
        if turned:
            call = getattr(finufft, f"nufft{len(size)}d1")
            modes = tuple(size) if len(size) > 1 else math.prod(size)
            found = call(*points, x.numpy(), modes, isign=1, eps=1e-12, nthreads=1)
        else:
            call = getattr(finufft, f"nufft{len(size)}d2")
            found = call(*points, x.numpy(), isign=-1, eps=1e-12, nthreads=1)
        return torch.from_numpy(found)

    def _forward(self, x: Tensor) -> Tensor:
        seen = x if self._maps is None else self._maps(x) * x
        return _Transform.apply(seen.flatten(0, 1), self, False).unflatten(0, seen.shape[:2])  # type: ignore[union-attr]

    def _adjoint(self, y: Tensor) -> Tensor:
        x = _Transform.apply(y.flatten(0, 1), self, True).unflatten(0, y.shape[:2])  # type: ignore[union-attr]
        return x if self._maps is None else (self._maps(y).conj() * x).sum(1, keepdim=True)


class _Transform(torch.autograd.Function):
    """The transform with its adjoint as gradient."""

    @staticmethod
    def forward(x: Tensor, operator: RadialMRI, turned: bool) -> Tensor:
        return operator._sum(x, turned)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, RadialMRI, bool], output: Tensor) -> None:
        _, ctx.operator, ctx.turned = inputs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return _Transform.apply(grads[0], ctx.operator, not ctx.turned), None, None  # type: ignore[return-value]
