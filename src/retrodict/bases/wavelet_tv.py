"""Total variation of undecimated wavelet bands, and its gradient by exact adjoints."""

from __future__ import annotations

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.bases.dwt import full_precision
from retrodict.bases.redundant import UndecimatedHaar

__all__ = ["wavelet_tv", "wavelet_tv_gradient"]


def wavelet_tv(x: Tensor, levels: int = 3, *, ndim: int = 2, smooth: float = 0.0) -> Tensor:
    """R(x) `(B,)` of images `(B, C, *N)`: the total variation of their wavelet details.

    R = sum_j 2^(1 - j) sum_o sum_places (sqrt(|grad d_jo|^2 + smooth^2) - smooth), d_jo the detail bands of the
    `UndecimatedHaar` frame and grad the differences to the next place along every axis, periodic.  It is 0 for a
    constant, and R(c x) = |c| R(x) with smooth = 0.  The weights and the smoothing are ours, as the regulariser of Wu
    et al. 2024 (IEEE TMI) has no public code.  Unit: that of x; `smooth` too.

    Raises `InputError` for no levels, for images of other axes, and a `smooth` below 0.
    """
    frame, details = _details(x, levels, ndim, smooth)
    lengths = _length(_slopes(details, ndim), smooth) - smooth
    return (lengths * _weights(frame, lengths)).flatten(1).sum(1)


def wavelet_tv_gradient(x: Tensor, levels: int = 3, *, ndim: int = 2, smooth: float = 1e-4) -> Tensor:
    """The gradient of `wavelet_tv`, like x: sum_jo 2^(1 - j) U_jo^T div^T (grad d_jo / sqrt(|grad d_jo|^2 + smooth^2)).

    Of complex images along real and imaginary part.  Where every slope is 0 and `smooth` too, it is 0.
    """
    frame, details = _details(x, levels, ndim, smooth)
    slopes = _slopes(details, ndim)
    length = _length(slopes, smooth)
    scaled = slopes * torch.where(length > 0, 1 / length, 0.0) * _weights(frame, length)
    back = torch.zeros_like(details)
    for part, axis in zip(scaled, range(-ndim, 0), strict=True):
        back = back + part.roll(1, axis) - part
    coarse = torch.zeros_like(back.narrow(-ndim - 1, 0, 1))
    return frame.adjoint(torch.cat([coarse, back], -ndim - 1))


def _details(x: Tensor, levels: int, ndim: int, smooth: float) -> tuple[UndecimatedHaar, Tensor]:
    """The frame and the detail bands `(B, C, bands, *N)`."""
    if not smooth >= 0:
        raise InputError("wavelet_tv smooth", smooth, "a number of at least 0, in the unit of the images")
    frame, x = UndecimatedHaar(levels, ndim), full_precision(x, "wavelet_tv input")
    if x.ndim != ndim + 2:
        raise InputError("wavelet_tv input", tuple(x.shape), f"(B, C, *N): images of {ndim} axes")
    return frame, frame.forward(x).narrow(-ndim - 1, 1, len(frame.bands) - 1)


def _slopes(details: Tensor, ndim: int) -> Tensor:
    """Differences to the next place along every axis, `(axes, B, C, bands, *N)`."""
    return torch.stack([details.roll(-1, axis) - details for axis in range(-ndim, 0)])


def _length(slopes: Tensor, smooth: float) -> Tensor:
    squares = slopes.abs().square() if slopes.is_complex() else slopes.square()
    return (squares.sum(0) + smooth**2).sqrt()


def _weights(frame: UndecimatedHaar, like: Tensor) -> Tensor:
    """2^(1 - j) of every detail band."""
    table = torch.tensor([2.0 ** (1 - level) for level, _ in frame.bands[1:]], dtype=torch.float64, device="cpu")
    return table.reshape(-1, *[1] * frame.ndim).to(like)
