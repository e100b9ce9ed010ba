"""Optical stacks that are linear in a weak object: transport of intensity (TIE) and intensity diffraction (IDT)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from retrodict._check import InputError, choice
from retrodict.bases import Fourier
from retrodict.physics.filters import FilterBank

__all__ = ["idt", "idt_transfer", "tie"]


def _positive(**lengths: float) -> None:
    for name, value in lengths.items():
        if not (math.isfinite(value) and value > 0):
            raise InputError(name, value, "a positive number in mm" if name != "index" else "a refractive index")


def tie(
    size: Sequence[int],
    defocus: Sequence[float],
    *,
    wavelength: float,
    spacing: Sequence[float],
    kind: str = "tie",
) -> FilterBank:
    """A stack of defocused images of a phase: (I(z) - I(0)) / I(0) = H_z phi for every z of `defocus`, in mm.

    phi `(1, ny, nx)` in rad, weak and under uniform light; `wavelength` and `spacing` (dy, dx) in mm.  `kind`:

    - "tie": H = 2 pi wavelength z |f|^2, the transport of intensity (Teague, J. Opt. Soc. Am. 73, 1983);
    - "ctf": H = 2 sin(pi wavelength z |f|^2), the contrast transfer of a weak phase, whose small-|f| limit TIE is;
    - "laplacian": |f|^2 of TIE by the five-point Laplacian of the pixels.

    H = 0 at frequency 0: the mean phase cannot be seen, and noise at low frequencies is amplified by 1 / |f|^2.
    """
    choice("kind", kind, ("tie", "ctf", "laplacian"))
    _positive(wavelength=wavelength)
    if not defocus or not all(map(math.isfinite, defocus)):
        raise InputError("defocus", tuple(defocus), "at least one distance in mm")
    basis = Fourier(tuple(size), tuple(spacing))
    if kind == "laplacian":
        axes = zip(basis.frequencies(), spacing, strict=True)
        square = sum((2 - 2 * torch.cos(2 * math.pi * f * d)) / (2 * math.pi * d) ** 2 for f, d in axes)
        assert isinstance(square, Tensor)
    else:
        square = basis.radius() ** 2
    z = torch.tensor(list(defocus), dtype=torch.float64, device="cpu")[:, None, None, None]
    phase = math.pi * wavelength * z * square
    gains = 2 * torch.sin(phase) if kind == "ctf" else 2 * phase
    about = {"kind": kind, "defocus_mm": list(defocus), "wavelength_mm": wavelength}
    return FilterBank(size, gains, spacing=spacing, unit="rad", about=about)


def idt_transfer(
    frequencies: tuple[Tensor, Tensor],
    source: tuple[float, float],
    depth: float,
    *,
    wavelength: float,
    aperture: float,
    index: float,
    thickness: float,
) -> tuple[Tensor, Tensor]:
    """Transfer functions of the real and the imaginary permittivity contrast of one slice under one plane wave.

    X(u) = i c / eta(u + u_s) conj(P(u_s)) P(u + u_s) exp(-2 pi i z [eta(u + u_s) - eta(u_s)]), with c = pi thickness /
    wavelength^2, eta(u) = sqrt((index / wavelength)^2 - |u|^2) and the pupil P(u) = 1 for |u| <= aperture / wavelength;
    H_re(u) = X(u) + conj X(-u) and H_im(u) = i [X(u) - conj X(-u)] (Ling et al., Biomed. Opt. Express 9, 2018; the
    constant c follows from the Weyl expansion, public code has another: calibrate it).
    """
    edge, medium = aperture / wavelength, index / wavelength

    def eta(square: Tensor) -> Tensor:
        return (medium**2 - square).clamp_min(0).sqrt()

    def half(sign: int) -> Tensor:
        square = sum((sign * f + s) ** 2 for f, s in zip(frequencies, source, strict=True))
        assert isinstance(square, Tensor)
        inside = square <= edge**2 * (1 + 1e-12)
        at = torch.where(inside, eta(square), 1.0)
        start = math.sqrt(medium**2 - sum(s**2 for s in source))
        wave = torch.polar(torch.ones_like(at), -2 * math.pi * depth * (at - start))
        return torch.where(inside, 1j * math.pi * thickness / wavelength**2 / at * wave, 0.0)

    x, mirrored = half(1), half(-1).conj()
    return x + mirrored, 1j * (x - mirrored)


def idt(
    size: Sequence[int],
    sources: Sequence[tuple[float, float]],
    depths: Sequence[float],
    *,
    wavelength: float,
    aperture: float,
    spacing: Sequence[float],
    index: float = 1.0,
    thickness: float,
    absorption: bool = True,
) -> FilterBank:
    """Intensity diffraction tomography: I_s / I_0 - 1 = sum over slices of H_re v_re + H_im v_im, an image a source.

    `sources` are transverse frequencies u_s (y, x) in cycles/mm within the pupil, `depths` the z of the slices,
    `thickness` that of a slice, `spacing` (dy, dx), `wavelength` (in vacuum), all in mm; `aperture` is the numerical
    aperture, `index` the refractive index around.  The object `(I, ny, nx)` is the real contrast of every slice, then
    the imaginary one of every slice (left out with absorption=False).  Formulas: `idt_transfer`.
    """
    _positive(wavelength=wavelength, thickness=thickness, aperture=aperture, index=index)
    if aperture >= index:
        raise InputError("aperture", aperture, f"a numerical aperture below the refractive index {index:g}")
    if not sources or not depths:
        raise InputError("sources, depths", (len(sources), len(depths)), "at least one of each")
    far = max(math.hypot(*s) for s in sources)
    if far > aperture / wavelength * (1 + 1e-12):
        expected = f"at most aperture / wavelength = {aperture / wavelength:.6g} cycles/mm (bright field)"
        raise InputError("sources", f"a frequency of {far:.6g} cycles/mm", expected)
    basis = Fourier(tuple(size), tuple(spacing))
    frequencies = basis.frequencies()
    options = {"wavelength": wavelength, "aperture": aperture, "index": index, "thickness": thickness}
    shape = (len(sources), len(depths), *basis.shape)
    gains = torch.zeros(2, *shape, dtype=torch.complex128, device="cpu")
    for (i, source), (j, depth) in itertools.product(enumerate(sources), enumerate(depths)):
        gains[0, i, j], gains[1, i, j] = idt_transfer((frequencies[0], frequencies[1]), source, depth, **options)
    parts = torch.cat(list(gains if absorption else gains[:1]), 1)
    about = {**options, "sources": len(sources), "depths_mm": list(depths), "absorption": absorption}
    return FilterBank(size, parts, spacing=spacing, about=about)
