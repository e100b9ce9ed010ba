"""Legs by magnetic resonance, for `noisy_priors.py --problem mri`: slices without wedges, and their k-space.

T1 of 43 people (mr_t1_sts), magnitudes in units of fat; a pixel of 0.977 mm counts as one, and those of other pixels
are left out.  The slices were turned onto a new grid and are exactly 0 where the scan had ended: of every slice the
largest rectangle without such a wedge is kept.  k-space is that of one coil and of a real image, whose phase is known
to be 0: lines at k and -k tell the same.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.ndimage import binary_dilation, binary_opening
from torch import Tensor

from noisy_only import DATA, Images
from noisy_rivals import Values
from retrodict.bases.curve import Curve
from retrodict.data.collection import Slice
from retrodict.data.image import Image
from retrodict.data.index import read_index
from retrodict.models.model import Intensity
from retrodict.physics import CartesianMRI, GaussianNoise, MatrixFree, Measurement, sampling
from retrodict.physics.operator import Space
from retrodict.processes.clocks import ClockLaw

__all__ = ["LAW", "LEGS", "RAY", "STD", "VALUES", "kspace", "legs", "lines", "middles", "mirrored", "seen", "whole",
           "zero_filled"]  # fmt: skip

SET, PIXEL, COUNTS = "mr_t1_sts", 0.976562, 1000.0
STD, RAY, SIDE, ACCELERATION, CENTER = 0.05, 0.05, 96, 4.0, 0.08
WEDGE = 5
"""Least side of a square of zeros that is a wedge, and not the noise of air that was rounded down."""


def flat(std: float) -> Curve:
    """White noise of `std` in units of fat."""
    f = torch.linspace(0, 1.0, 11, dtype=torch.float64)
    return Curve.isotropic(f, torch.full_like(f, std**2), "unit^2 mm^2")


LEGS = Images(Intensity("arbitrary", 0.3), flat, side=48, width=32, precision="auto")
VALUES = Values(1.5, 1.5)
"""Muscle is 1 in units of the models, fat 3.3."""
LAW = ClockLaw(noise=(0.004, 0.5), scale=LEGS.unit.scale, hidden=8.0)


# ---- images ----------------------------------------------------------------------------------------------------------


def whole(values: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns of the largest rectangle of an image `(H, W)` without a square of zeros or its neighbors."""
    zero = np.pad(values == 0, WEDGE, mode="edge")  # a strip along the border is a wedge, too
    wedge = np.asarray(binary_dilation(binary_opening(zero, np.ones((WEDGE, WEDGE))), np.ones((3, 3))), bool)
    return largest(~wedge[WEDGE:-WEDGE, WEDGE:-WEDGE])


def largest(good: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns of the largest rectangle that is true all over, of a mask `(H, W)`."""
    best, found = 0, (slice(0, 0), slice(0, 0))
    heights = np.zeros(good.shape[1] + 1, dtype=int)  # the last one stays 0 and ends every rectangle
    for row, line in enumerate(good):
        heights[:-1] = np.where(line, heights[:-1] + 1, 0)
        open_: list[int] = []  # columns of rising heights
        for column, height in enumerate(heights):
            while open_ and heights[open_[-1]] >= height:
                tall = int(heights[open_.pop()])
                left = open_[-1] + 1 if open_ else 0
                if tall * (column - left) > best:
                    best = tall * (column - left)
                    found = slice(row + 1 - tall, row + 1), slice(left, column)
            open_.append(column)
    return found


def legs(split: str) -> list[Slice]:
    """The slices of a split without wedges, in units of fat, of `LEGS.side` pixels at least."""
    out = []
    for row in read_index(DATA / SET / "index.csv"):
        if row.split != split or abs(row.pixel_spacing_mm[0] / PIXEL - 1) > 1e-3:
            continue
        values = np.load(row.paths[0])[row.key][row.index]
        values = values[whole(values)] / COUNTS
        if min(values.shape) >= LEGS.side:
            out.append(Slice(row.patient, Image.of(values.astype(np.float32), spacing=(1.0, 1.0))))
    return out


def middles(items: list[Slice], most: int) -> dict[str, Tensor]:
    """By patient the middle `(1, 1, n, n)` of a slice in model units: the first of 96 pixels, else of the largest n."""
    found: dict[str, Tensor] = {}
    for item in items:
        x = LEGS.unit.encode(item.image.values)
        n = min(SIDE, *(m // 8 * 8 for m in x.shape[-2:]))
        top, left = ((m - n) // 2 for m in x.shape[-2:])
        if item.patient not in found or n > found[item.patient].shape[-1]:
            found[item.patient] = x[None, :, top : top + n, left : left + n]
    return {name: found[name] for name in list(found)[:most]}


# ---- k-space ---------------------------------------------------------------------------------------------------------


def lines(size: tuple[int, ...], number: int) -> Tensor:
    """Which samples are measured, `(*N)`: a quarter of the lines, the middle ones and others by a Gaussian weight."""
    return sampling("gaussian", size, ACCELERATION, center=CENTER, seed=number).mask


def mirrored(mask: Tensor) -> Tensor:
    """Which coefficients of a real image a mask of k-space `(*N)` tells, in the order of the FFT: k tells -k, too."""
    axes = tuple(range(mask.ndim))
    start = torch.fft.ifftshift(mask)
    return start | torch.roll(start.flip(axes), [1] * mask.ndim, axes)


def seen(mask: Tensor) -> float:
    """Share of the numbers of a real image that a mask tells."""
    return float(mirrored(mask).double().mean())


def kspace(x: Tensor, number: int) -> Measurement:
    """k-space of a real image `(1, 1, *N)` in model units, with complex noise of `RAY` units of fat a component."""
    size = tuple(x.shape[2:])
    inner = CartesianMRI(lines(size, number), unit="arbitrary")

    def act(image: Tensor) -> Tensor:
        return inner.forward(torch.complex(image, torch.zeros_like(image)))

    operator = MatrixFree(act, lambda y: inner.adjoint(y).real, Space((1, *size), "arbitrary"), inner.range, name="MRI")
    law = GaussianNoise.white(RAY / LEGS.unit.scale)
    return Measurement.simulate(operator, law, x.double(), [number], mask=inner.measured)


def zero_filled(y: Measurement) -> Tensor:
    """The inverse transform `(1, 1, *N)` with 0 where nothing was measured."""
    return y.operator.adjoint(y.y)
