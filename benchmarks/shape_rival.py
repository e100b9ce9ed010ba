"""A rival of the shapes: an auto-decoder of distance volumes, and a Gaussian fitted to its codes.

Every training shape has a code of its own that is learned together with one decoder (Park et al. 2019, equations 9 and
10: mean absolute error of the truncated distance, and |z|^2); new shapes are decoded from draws of the Gaussian with
the mean and the covariance of the codes.  The decoder is convolutional, since volumes are what is compared here.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from retrodict._random import key

__all__ = ["AutoDecoder", "Learned", "draw", "learn"]

CODE, PULL = 64, 1e-4
"""Length of a code, and the weight of |z|^2."""


class AutoDecoder(nn.Module):
    """Codes `(K, 64)` of K shapes, and a decoder of codes `(B, 64)` to volumes `(B, 1, 32, 32, 32)`.

    Three transposed convolutions, 4^3 to 32^3, and a residual convolution at 4^3, 8^3 and 16^3; `width` channels at
    16^3 and twice as many at every coarser size.
    """

    def __init__(self, shapes: int, width: int) -> None:
        super().__init__()
        sizes = [4 * width, 2 * width, width]
        self.codes = nn.Parameter(0.01 * torch.randn(shapes, CODE))
        self.first = nn.Linear(CODE, sizes[0] * 64)
        self.same = nn.ModuleList(nn.Conv3d(c, c, 3, padding=1) for c in sizes)
        self.up = nn.ModuleList(
            nn.ConvTranspose3d(a, b, 4, stride=2, padding=1) for a, b in zip(sizes, [*sizes[1:], 1], strict=True)
        )

    def forward(self, z: Tensor) -> Tensor:
        """Volumes of codes."""
        h = self.first(z).reshape(len(z), -1, 4, 4, 4)
        for same, up in zip(self.same, self.up, strict=True):
            h = up(h + same(nn.functional.silu(h)))
        return h


@dataclass
class Learned:
    """What training left (running average of the weights and codes, without gradients), and what it cost; `loss`: mean
    absolute error of a training volume, a running mean."""

    net: AutoDecoder
    step: int
    cpu_seconds: float
    loss: float


def learn(
    volumes: Tensor, folder: Path, seconds: float, *, batch: int = 16, width: int = 16, rate: float = 2e-3
) -> Learned:
    """Train on volumes `(K, 1, 32, 32, 32)` in units of the truncation, until `seconds` CPU seconds are spent; goes on
    from the checkpoint in `folder`.

    Adam with a warm-up of 100 steps and a constant rate, that of the codes, which see one step in K / batch, five times
    as large; bfloat16 autocast; running average of 0.998.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = AutoDecoder(len(volumes), width)
    groups = [{"params": [net.codes]}, {"params": [p for n, p in net.named_parameters() if n != "codes"]}]
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99))
    mean = {n: p.detach().clone() for n, p in net.named_parameters()}
    path, step, used, error = folder / "auto-decoder.pt", 0, 0.0, 1.0
    if path.exists():
        state = torch.load(path, weights_only=True)
        net.load_state_dict(state["net"])
        optimizer.load_state_dict(state["optimizer"])
        mean, step, used, error = state["mean"], state["step"], state["cpu_seconds"], state["loss"]
    folder.mkdir(parents=True, exist_ok=True)
    while used < seconds:
        start = time.process_time()
        for _ in range(50):
            rise = rate * min(1.0, (step + 1) / 100)
            for group, factor in zip(optimizer.param_groups, (5.0, 1.0), strict=True):
                group["lr"] = factor * rise
            loss = _step(net, optimizer, volumes, key(0, "auto-decoder", step), batch)
            error += 0.02 * (loss - error)
            step += 1
            for name, value in net.named_parameters():
                mean[name].lerp_(value.detach(), 1 - min(0.998, (1 + step) / (10 + step)))
        used += time.process_time() - start
        state = {"net": net.state_dict(), "optimizer": optimizer.state_dict(), "mean": mean}
        torch.save({**state, "step": step, "cpu_seconds": used, "loss": error}, path)
    net.load_state_dict(mean)
    return Learned(net.requires_grad_(False), step, used, error)


def _step(net: AutoDecoder, optimizer: torch.optim.Optimizer, volumes: Tensor, seed: int, batch: int) -> float:
    """One step on shapes of a seed; the mean absolute error."""
    chosen = torch.randint(len(volumes), (batch,), generator=torch.Generator().manual_seed(seed % 2**63))
    z = net.codes[chosen]
    with torch.autocast("cpu", torch.bfloat16):
        made = net(z).float()
    error = (made - volumes[chosen]).abs().mean()
    loss = error + PULL * z.square().sum(1).mean()
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return float(error)


@torch.no_grad()
def draw(net: AutoDecoder, count: int, seed: int) -> Tensor:
    """Volumes `(count, 1, 32, 32, 32)` of codes from the fitted Gaussian, in units of the truncation."""
    codes = net.codes.double()
    center = codes.mean(0)
    factor = torch.linalg.cholesky(torch.cov(codes.T) + 1e-12 * torch.eye(codes.shape[1], dtype=torch.float64))
    white = torch.randn(count, codes.shape[1], generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return net((center + white @ factor.T).float()).clamp(-1, 1)
