"""What else restores the scans of `noisy_only.py` and `noisy_priors.py`: networks on pairs, and one without training.

`redcnn`: five convolutions and five deconvolutions with skips, of 32 filters (Chen et al. 2017, who have 96), of a
first image: the noisy one, filtered backprojection, the zero-filled one.  `unrolled`: from the same image five steps
x <- x - eta B (A x - y) - CNN(x), the network shared by the steps (Hammernik et al. 2018 in form); B is the inverse
power of the noise over its largest where A = 1, the adjoint for k-space, and backprojection of filtered views for
sinograms, as Genzel et al. (2022) have it.  Both learn from pairs of clean images and their measurements, which nobody
has who has noisy scans alone, for as many CPU seconds as the network on clean images.  `dip`: no training; a network of
random weights is fit to each measurement until the whitened residual is what the noise explains (Ulyanov et al. 2018,
with Morozov's discrepancy); to sinograms along B (A x - y), because their least squares are too badly conditioned.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from retrodict._random import key, white
from retrodict.bases import Fourier
from retrodict.nets import UNet

__all__ = ["CT_VALUES", "RIVALS", "Fit", "Recipe", "RedCNN", "Training", "Unrolled", "Values", "deep_image_prior",
           "learned", "noise_weighted"]  # fmt: skip


@dataclass(frozen=True)
class Values:
    """Where the values of images lie, for networks that want numbers near one: (x - middle) / scale."""

    middle: float
    scale: float

    def near_one(self, x: Tensor) -> Tensor:
        """Numbers near one."""
        return (x - self.middle) / self.scale

    def back(self, z: Tensor) -> Tensor:
        """The inverse."""
        return z * self.scale + self.middle


CT_VALUES = Values(5.0, 2.0)
"""Of images in units of 200 HU above air."""


# ---- networks --------------------------------------------------------------------------------------------------------


class RedCNN(nn.Module):
    """Five convolutions, five transposed ones, and what each pair skips; of a first image, it sees no data."""

    def __init__(self, values: Values, width: int = 32) -> None:
        super().__init__()
        sizes = [1, *[width] * 5]
        self.values = values
        self.down = nn.ModuleList(nn.Conv2d(a, b, 5, padding=2) for a, b in pairwise(sizes))
        back = [*[width] * 5, 1]
        self.up = nn.ModuleList(nn.ConvTranspose2d(a, b, 5, padding=2) for a, b in pairwise(back))

    def forward(self, first: Tensor, data: Any = None) -> Tensor:
        """`(B, 1, *N)` to the same."""
        del data
        x = self.values.near_one(first)
        kept = [x]
        for i, layer in enumerate(self.down):
            x = torch.relu(layer(x))
            if i in (1, 3):
                kept.append(x)
        for i, layer in enumerate(self.up):
            x = layer(x)
            if i in (0, 2, 4):
                x = x + kept.pop()
            x = x if i == 4 else torch.relu(x)
        return self.values.back(x)


Descent = Callable[[Tensor, Any], Tensor]
"""B (A x - y) `(B, 1, *N)` of images and their data."""


class Unrolled(nn.Module):
    """Some steps of gradient descent with a learned one beside it: x <- x - eta_k B (A x - y) - CNN(x)."""

    def __init__(self, values: Values, descent: Descent, steps: int = 5, width: int = 32) -> None:
        super().__init__()
        self.values, self.descent = values, descent
        self.eta = nn.Parameter(torch.full((steps,), 0.5))
        self.net = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1),
                                 nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), nn.ReLU(),
                                 nn.Conv2d(width, 1, 3, padding=1))  # fmt: skip

    def forward(self, first: Tensor, data: Any) -> Tensor:
        """`(B, 1, *N)` and what `descent` takes for data to images."""
        x = first
        for eta in self.eta:
            x = x - eta * self.descent(x, data) - self.values.scale * self.net(self.values.near_one(x))
        return x


def noise_weighted(variance: Callable[[Fourier], Tensor]) -> Descent:
    """P (x - y) with P the inverse power of the noise over its largest: the descent of noisy images y."""

    def descent(x: Tensor, y: Tensor) -> Tensor:
        basis = Fourier(tuple(y.shape[2:]), (1.0, 1.0))
        power = variance(basis)
        return basis.inverse((power.min() / power).to(y) * basis.forward(x - y))

    return descent


# ---- training --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Training:
    """What a training took: CPU seconds (of the pairs, too), steps, images or patches a step, weights in millions."""

    seconds: float
    steps: int
    batch: int
    weights: float

    def record(self) -> dict[str, float]:
        """For results."""
        return asdict(self)


Pairs = Callable[[list[int]], tuple[Tensor, Tensor, Any]]
"""Clean images, first images `(B, 1, *N)` and data, of keys."""


def learned(
    net: RedCNN | Unrolled, pairs: Pairs, seconds: float, size: int, precision: str = "float32", spent: float = 0.0
) -> Training:  # fmt: skip
    """Train a network on pairs until `seconds` of CPU time are over, of which some are spent; it is left in `eval`."""
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0.0)
    started, step = time.process_time() - spent, 0
    while (now := time.process_time() - started) < seconds:
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1.0, (step + 1) / 50, max(0.01, (1 - now / seconds) / 0.3))
        x, first, data = pairs([key(0, "pairs", step * size + i) for i in range(size)])
        with torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else nullcontext():
            made = net(first, data)
        loss = ((made - x) / net.values.scale).square().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        step += 1
    net.eval()
    weights = sum(p.numel() for p in net.parameters()) / 1e6
    return Training(time.process_time() - started, step, size, weights)


# ---- without training ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fit:
    """An image `(1, 1, *N)`, the steps that were taken, and the chi^2 over the number of data where it ended."""

    image: Tensor
    steps: int
    misfit: float


@dataclass(frozen=True)
class Recipe:
    """Of a deep image prior: filters, learning rate, noise that is added to the input in every step, most steps."""

    width: int = 32
    rate: float = 3e-3
    jitter: float = 0.03
    most: int = 1500


def deep_image_prior(
    misfit: Callable[[Tensor], Tensor],
    size: Sequence[int],
    values: Values,
    number: int,
    recipe: Recipe,
    descent: Callable[[Tensor], Tensor] | None = None,
) -> Fit:
    """A running mean of the images of a network of random weights, ended where chi^2 over the number of data is 1.

    `misfit` is it, what noise explains is 1; after the most steps the image is what there is.  Without `descent` the
    network descends the misfit and its last image is judged; with it, it follows B (A x - y), which may be better
    conditioned, and the mean is judged, which swings less.
    """
    torch.manual_seed(number)
    net = UNet(in_channels=16, out_channels=1, width=recipe.width, multipliers=(1, 2, 4), blocks=1, patch=2)
    z = 0.1 * white(torch.tensor([key(number, "dip")]), "input", 0, (16, *size))
    optimizer = torch.optim.Adam(net.parameters(), lr=recipe.rate)
    smooth, level, chi2 = torch.zeros(1, 1, *size), torch.zeros(1, 1), float("inf")
    for step in range(recipe.most):
        made = values.back(net(z + recipe.jitter * torch.randn_like(z), level))
        early = 1.0 if step == 0 else 0.0 if descent is None else 10 / (10 + step)
        new = max(0.01, early)
        smooth = (1 - new) * smooth + new * made.detach()
        loss = misfit(made if descent is None else smooth)
        chi2 = float(loss.detach())
        if chi2 <= 1.0:
            return Fit(smooth, step, chi2)
        optimizer.zero_grad()
        if descent is None:
            loss.backward()
        else:
            made.backward(descent(made.detach()))
        optimizer.step()
    return Fit(smooth, recipe.most, chi2)


RIVALS = ("redcnn", "unrolled", "dip")
