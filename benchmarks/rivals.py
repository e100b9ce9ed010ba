"""What else says how sure it is of a restored image: the methods that `worth.py` compares.

All networks are the U-Net of configs/any-scanner.yaml and differ in the last layer; all are given the same inputs (the
Wiener estimate and the standardized noise estimate), answer relative to the Wiener estimate, and are trained on the
measurement alone, which is all that they need, while ours has to learn the whole ramp.

- quantile U-Net: 5, 50 and 95 % by the pinball loss (Koenker, Bassett 1978), which do not cross by construction;
- mean + variance U-Net: Gaussian likelihood with a variance per pixel (Nix, Weigend 1994; Kendall, Gal 2017);
- MC-dropout U-Net: squared error, channels dropped in every block with probability 0.1, also when it is used (Gal,
  Ghahramani 2016);
- Wiener filter: exact for Gaussian data of the spectrum; non-local means (Buades et al. 2005; Darbon et al. 2008), of
  the measurement, with the blur left in; BM3D for colored noise, with deblurring (Makinen et al. 2020), which is
  licensed for non-commercial use and therefore used only where it has been installed and `--bm3d` asks for it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F

from retrodict._output import write_file
from retrodict._random import key
from retrodict.denoisers.denoiser import Denoiser, GaussianDenoiser
from retrodict.denoisers.network import NetDenoiser
from retrodict.metrics.calibration import central_factor
from retrodict.models.model import Intensity
from retrodict.models.tensors import read_tensors
from retrodict.nets import Network, UNet
from retrodict.processes.observation import Cond
from retrodict.processes.process import Process
from retrodict.samplers.ensemble import SamplingOptions, restore_batch
from retrodict.samplers.margin import frame_of, surrounded
from retrodict.training.losses import Losses, ProcessLaw, bind, example, simulate
from unseen import MARGIN, one_call

LEVEL = 0.9
NORMAL = central_factor(LEVEL)
STRENGTHS = (0.4, 0.6, 0.8, 1.0, 1.3)
"""Filter strengths of non-local means over the noise std; calibration patients choose."""


class Prediction(NamedTuple):
    """An image in HU and how sure it is: center (n, n), half widths of a 90 % interval `below` and `above` (n, n).

    `members` (K, n, n) are draws of the image where the method knows a law of it; `own_mean`: the center is their mean,
    so that they scatter about it by (K - 1)/K of their variance.  Half widths of 1 HU stand where a method has no idea
    of its error.  `calls` of the network, and CPU `seconds` of image and half widths; members that cost no call are
    left out of them.
    """

    center: Tensor
    below: Tensor
    above: Tensor
    members: Tensor | None
    calls: int
    seconds: float
    own_mean: bool = False


def kept(path: Path, make: Callable[[], Prediction]) -> Prediction:
    """The prediction in a file, or a new one that is put there."""
    if not path.exists():
        new = make()
        tensors = {n: v.float().contiguous() for n, v in new._asdict().items() if isinstance(v, Tensor)}
        tensors["cost"] = torch.tensor([new.calls, new.seconds, new.own_mean], dtype=torch.float64)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, save(tensors))
    found = read_tensors(path)
    calls, seconds, own = found["cost"].tolist()
    center, below, above = (found[n].double() for n in ("center", "below", "above"))
    members = found.get("members")
    members = None if members is None else members.double()
    return Prediction(center, below, above, members, int(calls), seconds, bool(own))


# ---- losses ----------------------------------------------------------------------------------------------------------


def pinball(z: Tensor, quantile: Tensor, level: float) -> Tensor:
    """max(p (z - q), (p - 1) (z - q)): its mean is least where q is the quantile p of z."""
    d = z - quantile
    return torch.maximum(level * d, (level - 1) * d)


def quantiles(out: Tensor, extra: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """5, 50 and 95 % `(B, C, *N)`, in this order for any output of a network: extra `(B, 2, C, *N)`."""
    return out - F.softplus(extra[:, 0]), out, out + F.softplus(extra[:, 1])


def quantile_loss(z: Tensor, out: Tensor, extra: Tensor | None) -> Tensor:
    assert extra is not None
    parts = zip(quantiles(out, extra), ((1 - LEVEL) / 2, 0.5, (1 + LEVEL) / 2), strict=True)
    return torch.stack([pinball(z, q, level) for q, level in parts]).sum(0).flatten(1).mean(1)


def gaussian_loss(z: Tensor, out: Tensor, extra: Tensor | None) -> Tensor:
    assert extra is not None
    log_variance = extra[:, 0].clamp(-10.0, 10.0)
    return (0.5 * (log_variance + (z - out) ** 2 * (-log_variance).exp())).flatten(1).mean(1)


def squared_loss(z: Tensor, out: Tensor, extra: Tensor | None) -> Tensor:
    return ((z - out) ** 2).flatten(1).mean(1)


class Head(NamedTuple):
    """A loss of (target, output, extra outputs) and the number of extra outputs, all in units of the Wiener error."""

    loss: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    extra: int


HEADS = {"quantile": Head(quantile_loss, 2), "gaussian": Head(gaussian_loss, 1), "dropout": Head(squared_loss, 0)}


def objective(head: Head, law: ProcessLaw) -> Callable[..., Losses]:
    """The loss of a head on measurements of `law`, for `retrodict.training.loop.train`."""

    def loss(denoiser: NetDenoiser, batch: object, seeds: Tensor, weight: str, spread_weight: float) -> Losses:
        x0, y, spacing, *_ = example(batch, denoiser)  # type: ignore[arg-type]
        bound = bind(denoiser, law, spacing, seeds)
        if isinstance(bound.net, Dropped):
            bound.net.seeds = seeds
        t = torch.ones(len(seeds), dtype=torch.float64)
        xt, cond = simulate(bound.process, x0, t, seeds, y)
        terms = bound.training_terms(xt, t, cond)
        each = head.loss((x0 - terms.skip) / terms.c_out.to(x0), terms.out, terms.log_ratio)
        return Losses(each, each, torch.zeros_like(each))

    return loss


class Dropped(Network):
    """A U-Net whose residual blocks drop channels, by seeds of its items; none where `seeds` is None."""

    def __init__(self, net: Network, rate: float = 0.1) -> None:
        super().__init__()
        assert isinstance(net, UNet)
        self.net, self.rate = net, rate
        self.stride, self.receptive_field, self.circular = net.stride, net.receptive_field, net.circular
        self.seeds: Tensor | None = None
        for number, block in enumerate(net.residual):
            block.register_forward_hook(partial(self._drop, number))

    def _drop(self, number: int, block: nn.Module, inputs: object, output: Tensor) -> Tensor:
        if self.seeds is None:
            return output
        shape = (output.shape[1], *[1] * (output.ndim - 2))
        keep = [
            torch.rand(shape, generator=torch.Generator().manual_seed(key(int(s), "dropout", number))) >= self.rate
            for s in self.seeds
        ]
        return output * (torch.stack(keep) / (1 - self.rate)).to(output)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        return self.net(x, level)


# ---- predictions -----------------------------------------------------------------------------------------------------


class Measured(NamedTuple):
    """A measured crop y (1, 1, n, n) in model units, the process that ends at its instrument, and the units."""

    y: Tensor
    end: Process
    intensity: Intensity
    seed: int = 0

    def hu(self, x: Tensor) -> Tensor:
        """An image (1, 1, n, n) as (n, n), or members (K, 1, n, n) as (K, n, n), HU on the CPU."""
        x = self.intensity.decode(x.detach().cpu().double())[:, 0]
        return x[0] if len(x) == 1 else x


def _answer(denoiser: NetDenoiser, it: Measured, seeds: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Wiener estimate and output of a head over its unit, model units, and what else it says over the same unit."""
    bound = denoiser.at(it.end.to(denoiser.process.basis.device))
    frame = frame_of(tuple(it.y.shape[2:]), bound.process.basis, MARGIN, bound.multiple)
    bound = bound.on(frame.size)
    around = surrounded(bound, it.y.to(bound.process.basis.device), frame, None)
    if isinstance(bound.net, Dropped):
        bound.net.seeds = seeds
    with torch.inference_mode():
        terms = bound.training_terms(around, torch.ones(1, dtype=torch.float64), Cond())
    extra = None if terms.log_ratio is None else terms.log_ratio[frame.crop]
    return (terms.skip + terms.c_out.to(terms.skip) * terms.out)[frame.crop], terms.c_out.to(terms.skip), extra


def quantile(denoiser: NetDenoiser, it: Measured) -> Prediction:
    started = time.process_time()
    center, unit, extra = _answer(denoiser, it)
    assert extra is not None
    widths = (unit * F.softplus(extra)).cpu().double()[0, :, 0] * it.intensity.scale
    return Prediction(it.hu(center), widths[0], widths[1], None, 1, time.process_time() - started)


def gaussian(denoiser: NetDenoiser, it: Measured) -> Prediction:
    started = time.process_time()
    center, unit, extra = _answer(denoiser, it)
    assert extra is not None
    sd = (unit * (0.5 * extra[:, 0].clamp(-10.0, 10.0)).exp()).cpu().double()[0, 0] * it.intensity.scale
    return Prediction(it.hu(center), NORMAL * sd, NORMAL * sd, None, 1, time.process_time() - started)


def dropout(denoiser: NetDenoiser, it: Measured, passes: int) -> Prediction:
    started = time.process_time()
    seeds = [torch.tensor([key(it.seed, "pass", k)]) for k in range(passes)]
    members = it.hu(torch.cat([_answer(denoiser, it, s)[0] for s in seeds]))
    width = central_factor(LEVEL, passes) * members.std(0)
    return Prediction(members.mean(0), width, width, members, passes, time.process_time() - started, own_mean=True)


def call(denoiser: Denoiser, it: Measured, draws: int, calls: int = 1) -> Prediction:
    """One call of ours, or the Wiener filter: mean, deviation and members."""
    started = time.process_time()
    found = one_call(denoiser, it.y)
    seconds = time.process_time() - started
    width = NORMAL * found.variance.double().sqrt()[0, 0] * it.intensity.scale
    members = it.hu(one_call(denoiser, it.y, draws, whole=True, seed=it.seed).members)
    return Prediction(it.hu(found.mean), width, width, members, calls, seconds)


def wiener(denoiser: NetDenoiser, it: Measured, draws: int) -> Prediction:
    return call(GaussianDenoiser(it.end, spectrum=denoiser.spectrum), it, draws, 0)


def ensemble(denoiser: NetDenoiser, it: Measured, members: int, steps: int) -> Prediction:
    """Ours with `steps` calls of each of `members`."""
    started = time.process_time()
    options = SamplingOptions(samples=members, steps=steps, seed=it.seed, keep_samples=True, chunk=members)
    found = restore_batch(denoiser, it.y, options)
    assert found.sd is not None
    assert found.samples is not None
    width = NORMAL * found.sd.cpu().double()[0, 0] * it.intensity.scale
    seconds = time.process_time() - started
    return Prediction(it.hu(found.mean), width, width, it.hu(found.samples[:, 0]), members * steps, seconds)


def _alone(center: Tensor, seconds: float) -> Prediction:
    """An image without any idea of its error."""
    return Prediction(center, torch.ones_like(center), torch.ones_like(center), None, 0, seconds)


def non_local_means(it: Measured, strength: float) -> Prediction:
    from skimage.restoration import denoise_nl_means

    started, y = time.process_time(), it.hu(it.y)
    law = it.end.measurement
    assert law is not None
    weight = it.end.basis.multiplicity()
    sigma = math.sqrt(float((law.s2.expand(it.end.basis.shape) * weight).sum() / weight.sum())) * it.intensity.scale
    options = {"patch_size": 5, "patch_distance": 7, "h": strength * sigma, "sigma": sigma, "fast_mode": True}
    out = denoise_nl_means(y.numpy(), preserve_range=True, **options)
    return _alone(torch.from_numpy(out).double(), time.process_time() - started)


def bm3d(it: Measured) -> Prediction:
    """BM3D with deblurring, given the PSD of the noise (as |FFT|^2, not normalized) and the point spread function."""
    from bm3d import bm3d_deblurring  # type: ignore[import-not-found]

    started, law, basis = time.process_time(), it.end.measurement, it.end.basis
    assert law is not None
    size, y = tuple(it.y.shape[2:]), it.hu(it.y)
    spread = torch.fft.irfft2(law.s2.expand(basis.shape).to(torch.complex128), s=size)
    psd = torch.fft.fft2(spread).real * math.prod(size) * it.intensity.scale**2
    psf = torch.fft.fftshift(torch.fft.irfft2(law.h.expand(basis.shape).to(torch.complex128), s=size))
    out = bm3d_deblurring(y.numpy()[..., None], psd.clamp_min(0).numpy(), psf.numpy())
    return _alone(torch.as_tensor(out).double().reshape(size), time.process_time() - started)
