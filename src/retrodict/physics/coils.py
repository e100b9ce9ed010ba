"""Sensitivities of receive coils from the middle of k-space (ESPIRiT), and the noise between coils."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from retrodict._check import InputError

__all__ = ["calibration_size", "coil_covariance", "coil_maps"]


def calibration_size(mask: Tensor) -> tuple[int, ...]:
    """Sides of the largest fully measured box round the middle of a mask `(*N)`, grown side by side."""
    middle = [n // 2 for n in mask.shape]
    half = [0] * mask.ndim

    def box(reach: Sequence[int]) -> Tensor:
        return mask[tuple(slice(m - r, m + r + 1) for m, r in zip(middle, reach, strict=True))]

    grew = bool((mask[tuple(middle)] > 0).all())
    while grew:
        grew = False
        for axis in range(mask.ndim):
            wider = [h + (a == axis) for a, h in enumerate(half)]
            fits = all(m - r >= 0 and m + r < n for m, r, n in zip(middle, wider, mask.shape, strict=True))
            if fits and bool((box(wider) > 0).all()):
                half, grew = wider, True
    return tuple(2 * h + 1 if bool(mask[tuple(middle)] > 0) else 0 for h in half)


def coil_maps(
    kspace: Tensor, *, calibration: int = 24, kernel: int = 6, threshold: float = 0.02, crop: float = 0.9
) -> Tensor:
    """Sensitivities `(C, ny, nx)` complex128 of k-space `(C, ny, nx)`, zero frequency at N // 2; sum |S|^2 = 1 or 0.

    ESPIRiT (Uecker et al., Magn. Reson. Med. 71, 2014), one set of maps: windows of `kernel` x `kernel` samples of the
    middle `calibration` x `calibration` form a matrix whose right singular vectors above `threshold` of the largest
    span the signal; at every pixel the maps are the eigenvector of the projection on them whose eigenvalue is 1, and 0
    where it is below `crop`.  The phase is that of the first principal coil.

    Raises `InputError` where the middle was not measured completely, or is smaller than the kernel allows.
    """
    if kspace.ndim != 3 or not kspace.is_complex():
        raise InputError("kspace", f"{tuple(kspace.shape)} of {kspace.dtype}", "complex values (coils, ny, nx)")
    coils, *size = kspace.shape
    known = calibration_size((kspace.abs().sum(0) > 0).double())
    side = [min(calibration, n) for n in known]
    if min(side) < 2 * kernel:
        found = f"{known[0]} x {known[1]} fully measured samples in the middle of k-space"
        expected = f"at least {2 * kernel} x {2 * kernel}, to find coil maps in"
        raise InputError("maps", found, expected, "Give the maps, or a smaller kernel.")
    data = kspace.detach().to("cpu", torch.complex128)
    cut = [slice(n // 2 - s // 2, n // 2 - s // 2 + s) for n, s in zip(size, side, strict=True)]
    middle = data[:, cut[0], cut[1]]
    vectors = _signal_space(middle, kernel, threshold).reshape(-1, coils, kernel, kernel)
    projection = torch.zeros(*size, coils, coils, dtype=torch.complex128, device="cpu")
    for part in vectors.split(16):
        wave = _to_image(part, size)  # (n, C, ny, nx)
        projection += torch.einsum("ncyx,ndyx->yxcd", wave, wave.conj())
    values, found = torch.linalg.eigh(projection * (size[0] * size[1] / kernel**2))
    maps = found[..., -1].movedim(-1, 0)
    return torch.where(values[..., -1] >= crop, maps * _phase(maps, middle), 0.0)


def _signal_space(middle: Tensor, kernel: int, threshold: float) -> Tensor:
    """Right singular vectors of all windows, `(n, C kernel kernel)`."""
    windows = middle.unfold(1, kernel, 1).unfold(2, kernel, 1)  # (C, a, b, k, k)
    rows = windows.permute(1, 2, 0, 3, 4).reshape(-1, middle.shape[0] * kernel**2)
    values, vectors = torch.linalg.eigh(rows.mH @ rows)
    return vectors.T[values.clamp_min(0).sqrt() > threshold * values[-1].clamp_min(0).sqrt()].conj()


def _to_image(part: Tensor, size: Sequence[int]) -> Tensor:
    """Kernels in the middle of a grid, transformed to images; unitary."""
    kernel = part.shape[-1]
    grid = torch.zeros(*part.shape[:2], *size, dtype=part.dtype, device="cpu")
    first = [n // 2 - kernel // 2 for n in size]
    grid[:, :, first[0] : first[0] + kernel, first[1] : first[1] + kernel] = part
    axes = (-2, -1)
    return torch.fft.fftshift(torch.fft.ifft2(torch.fft.ifftshift(grid, axes), norm="ortho"), axes)


def _phase(maps: Tensor, middle: Tensor) -> Tensor:
    """Exp(-i angle) of the first principal coil, which sees the whole object: a smooth phase."""
    flat = middle.reshape(len(middle), -1)
    weights = torch.linalg.eigh(flat @ flat.mH)[1][:, -1]
    seen = torch.einsum("c,cyx->yx", weights.conj(), maps)
    return torch.polar(torch.ones_like(seen.abs()), -seen.angle())


def coil_covariance(noise: Tensor) -> Tensor:
    """E n n^H `(C, C)` complex128 of samples of noise alone, `(C, m)` complex: the matrix of `GaussianNoise.coils`."""
    if noise.ndim != 2 or not noise.is_complex() or noise.shape[1] <= noise.shape[0]:
        expected = "complex samples (coils, m), more than coils"
        raise InputError("noise", f"{tuple(noise.shape)} of {noise.dtype}", expected)
    rest = noise.to("cpu", torch.complex128)
    rest = rest - rest.mean(1, keepdim=True)
    return rest @ rest.mH / (rest.shape[1] - 1)
