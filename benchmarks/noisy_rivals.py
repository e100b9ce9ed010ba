"""What else restores the scans of `noisy_only.py`, at its own noise alone: networks on pairs, and none at all.

`redcnn`: five convolutions and five deconvolutions with skips, of 32 filters (Chen et al. 2017, who have 96), trained
on pairs of clean and noisy patches.  `unrolled`: five steps x <- x - eta P (x - y) - CNN(x), P the inverse power of the
noise over its largest, the network shared by the steps, on the same pairs (Hammernik et al. 2018 in form).  Both have
as many CPU seconds as the network on clean images.  `dip`: no training; a network of random weights is fit to each
image by the whitened residual, until that is what the noise explains (Ulyanov et al. 2018, with Morozov's discrepancy).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn

from retrodict._random import key, white
from retrodict.bases import Fourier
from retrodict.nets import UNet

__all__ = ["RIVALS", "deep_image_prior", "supervised"]

MIDDLE, SCALE = 5.0, 2.0
"""Of an image in units of 200 HU above air, for networks that want numbers near one."""


class RedCNN(nn.Module):
    """Five convolutions, five transposed ones, and what each pair skips."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        sizes = [1, *[width] * 5]
        self.down = nn.ModuleList(nn.Conv2d(a, b, 5, padding=2) for a, b in pairwise(sizes))
        back = [*[width] * 5, 1]
        self.up = nn.ModuleList(nn.ConvTranspose2d(a, b, 5, padding=2) for a, b in pairwise(back))

    def forward(self, y: Tensor) -> Tensor:
        """`(B, 1, *N)` to the same."""
        kept, x = [y], y
        for i, layer in enumerate(self.down):
            x = torch.relu(layer(x))
            if i in (1, 3):
                kept.append(x)
        for i, layer in enumerate(self.up):
            x = layer(x)
            if i in (0, 2, 4):
                x = x + kept.pop()
            x = x if i == 4 else torch.relu(x)
        return x


class Unrolled(nn.Module):
    """Five steps of gradient descent with a learned one beside it."""

    def __init__(self, weight: Callable[[Fourier], Tensor], steps: int = 5, width: int = 32) -> None:
        super().__init__()
        self.weight, self.steps = weight, steps
        self.eta = nn.Parameter(torch.full((steps,), 0.5))
        self.net = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1),
                                 nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), nn.ReLU(),
                                 nn.Conv2d(width, 1, 3, padding=1))  # fmt: skip

    def forward(self, y: Tensor) -> Tensor:
        """`(B, 1, *N)` to the same."""
        basis = Fourier(tuple(y.shape[2:]), (1.0, 1.0))
        power, x = self.weight(basis).to(y), y
        for eta in self.eta:
            x = x - eta * basis.inverse(power * basis.forward(x - y)) - self.net(x)
        return x


def supervised(
    name: str, batch: Callable[[list[int]], tuple[Tensor, Tensor]], variance: Callable[[Fourier], Tensor],
    seconds: float, size: int = 8
) -> Callable[[Tensor], Tensor]:  # fmt: skip
    """A network on pairs (clean, noisy) `(B, 1, *N)` of `batch`, trained for `seconds` of CPU time."""

    def weight(basis: Fourier) -> Tensor:
        power = variance(basis)
        return power.min() / power

    torch.manual_seed(0)
    net = RedCNN() if name == "redcnn" else Unrolled(weight)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0.0)
    started, step = time.process_time(), 0
    while (spent := time.process_time() - started) < seconds:
        part = spent / seconds
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1.0, (step + 1) / 50, max(0.01, (1 - part) / 0.3))
        x, y = batch([key(0, "pairs", step * size + i) for i in range(size)])
        loss = (net((y - MIDDLE) / SCALE) - (x - MIDDLE) / SCALE).square().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        step += 1
    print(f"{name}: {step} steps, {sum(p.numel() for p in net.parameters()) / 1e6:.2f} M parameters", flush=True)
    net.eval()

    def answer(y: Tensor) -> Tensor:
        with torch.no_grad():
            return net((y - MIDDLE) / SCALE) * SCALE + MIDDLE

    return answer


def deep_image_prior(y: Tensor, variance: Tensor, basis: Fourier, number: int, most: int = 1500) -> Tensor:
    """The image `(1, 1, *N)` that a network of random weights makes when its residual is what the noise explains."""
    torch.manual_seed(number)
    net = UNet(in_channels=16, out_channels=1, width=32, multipliers=(1, 2, 4), blocks=1, patch=2)
    z = 0.1 * white(torch.tensor([key(number, "dip")]), "input", 0, (16, *basis.size))
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    root, weight = variance.rsqrt().float(), (basis.multiplicity() / basis.multiplicity().sum()).float()
    smooth, level = torch.zeros_like(y), torch.zeros(1, 1)
    for step in range(most):
        made = net(z + 0.03 * torch.randn_like(z), level) * SCALE + MIDDLE
        misfit = (basis.energy(basis.forward(made - y) * root) * weight).sum()
        smooth = 0.99 * smooth + 0.01 * made.detach() if step else made.detach()
        if float(misfit.detach()) <= 1.0:
            break
        optimizer.zero_grad()
        misfit.backward()
        optimizer.step()
    return smooth


RIVALS = ("redcnn", "unrolled", "dip")
