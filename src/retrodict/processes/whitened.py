"""Whitened-score diffusion: a variance-preserving schedule whose noise goes through a convolution kernel.

    x_t = a(t) x_0 + sqrt(1 - a(t)^2) K z,      so per frequency  h = a,  k = 0,  s^2 = (1 - a^2) |K|^2 .

G^2 / s^2 = beta / (1 - a^2) is one number for all frequencies, so the whitened score n = G^2 score and the colored
noise kappa = x_t - a x_0 say the same, n = -beta / (1 - a^2) kappa, and neither divides by K (Alido, Li, Sun, Tian
2025).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from retrodict._check import InputError, choice
from retrodict._random import uniform
from retrodict.bases import Basis, Cosine, Fourier
from retrodict.bases.composite import ChannelMix, Stack
from retrodict.processes.process import Law, Process, assemble

__all__ = ["NORMALS", "KernelLaw", "kernel_power", "whitened"]

NORMALS = ("l2", "none")
"""Scales of a kernel: unit energy, so that the noise has unit variance per pixel; or a unit sum, as published."""

CHANNELS = ("each", "gray")

DELTA = 0.05
"""Width in pixels below which a sampled Gaussian is a single pixel to double precision: its neighbors have e^-200."""


# ---- kernels -----------------------------------------------------------------------------------------------------


def whitened(
    basis: Basis,
    width: float | Sequence[float] = 1.0,
    *,
    normalise: str = "l2",
    white: float | None = None,
    high: bool = False,
    channels: str = "each",
    beta_min: float = 0.1,
    beta_max: float = 20.0,
    **pairing: Any,
) -> Process:
    """Whitened-score diffusion (Alido et al. 2025): the schedule of `vp`, with noise that a kernel has made wide.

    h = exp(-t^2 (b1 - b0)/4 - t b0/2), k = 0, s^2 = (1 - h^2) |K(f)|^2; dx = -beta/2 x dt + sqrt(beta) K dW.  K is the
    transform of a Gaussian of standard deviation `width` mm (one number, or one for every axis) that is sampled at the
    pixels, with periodic borders in the Fourier basis and mirrored ones in the cosine basis.

    normalise: "l2" gives the kernel unit energy, so that z keeps its unit variance per pixel; "none" a unit sum, as in
    the published code, whose noise falls to 1 / (2 sqrt(pi) width) per pixel: x_1 then still shows the image.
    white: a share of white noise, |K|^2 + white^2 (over 1 + white with "none", as published).  high: what the kernel
    leaves, K = 1 - K, without noise at f = 0.  channels: "each" has noise of its own; "gray" is one noise for all of
    them (`ChannelMix` basis whose first row is their mean): the covariance has no inverse, the chroma carries no noise.
    """
    widths = _widths(width, basis)
    options = {"normalise": normalise, "white": white, "high": high}
    schedule = {"beta_min": beta_min, "beta_max": beta_max}
    _check_kernel("whitened", normalise=normalise, white=white)
    gray = choice("whitened channels", channels, CHANNELS) == "gray"

    def family(bound: Basis) -> Law:
        one = torch.tensor([widths], dtype=torch.float64, device="cpu")
        table = kernel_power(bound, one, gray=gray, **options)[0]
        return _schedule(table, **schedule)

    family(basis)  # a kernel that this basis cannot hold is refused here, and not at the first state
    given = float(width) if isinstance(width, int | float) else [float(w) for w in width]
    record = {"width": given, **options, "channels": channels, **schedule}
    return assemble(family, basis, "whitened", record, **pairing)


def _schedule(power: Tensor, beta_min: float, beta_max: float) -> Law:
    def law(t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        log_h = -(t**2) * (beta_max - beta_min) / 4 - t * beta_min / 2
        return log_h.exp(), 0 * t, -torch.expm1(2 * log_h) * power

    return law


def _check_kernel(where: str, *, normalise: str, white: float | None) -> None:
    choice(f"{where} normalise", normalise, NORMALS)
    if white is not None and not 0 <= white < math.inf:
        raise InputError(f"{where} white", white, "a share of at least 0, or None")


def _widths(width: float | Sequence[float], basis: Basis) -> list[float]:
    """One width in mm for every axis of an image."""
    axes = _plane(basis).ndim
    widths = [float(width)] * axes if isinstance(width, int | float) else [float(w) for w in width]
    if len(widths) != axes or not all(0 <= w < math.inf for w in widths):
        raise InputError("whitened width", width, f"a width of at least 0 mm, or one for each of {axes} axes")
    return widths


def kernel_power(
    basis: Basis,
    widths: Tensor,
    *,
    normalise: str = "l2",
    white: float | Tensor | None = None,
    high: bool = False,
    gray: bool | Tensor = False,
) -> Tensor:
    """|K|^2 `(B, C|1, *K)` float64 of Gaussian kernels of `widths` `(B, axes)` mm; the options are those of `whitened`.

    white `(B,)` and gray `(B,)` may differ between items.
    """
    plane = _plane(basis)
    spacing, widths = plane.spacing, widths.double()
    gain = torch.ones(len(widths), *[1] * plane.ndim, dtype=torch.float64, device=plane.device)
    square, center = torch.ones(len(widths), dtype=torch.float64, device="cpu"), 1.0
    for axis, (f, pitch) in enumerate(zip(_axes(plane), spacing, strict=True)):
        s = widths[:, axis] / pitch
        shape = [len(widths), *[len(f) if k == axis else 1 for k in range(plane.ndim)]]
        gain = gain * _transfer(f * pitch, s).reshape(shape)
        first, second = _taps(s)
        square, center = square * second, center * first
    if high:
        gain, square = 1 - gain, 1 - 2 * center + square
    c = torch.as_tensor(0.0 if white is None else white, dtype=torch.float64, device="cpu").expand(len(widths))
    scale = square + c**2 if normalise == "l2" else 1 + c
    if bool((scale <= 0).any()):
        raise InputError("whitened", "a kernel that is zero everywhere", "a width above 0 for a high-pass kernel")
    lifted = [len(widths), *[1] * plane.ndim]
    power = (gain**2 + (c**2).reshape(lifted).to(gain)) / scale.reshape(lifted).to(gain)
    power = power.reshape(len(widths), *[1] * (basis.ndim - plane.ndim), *power.shape[1:])
    return _colored(power[:, None], basis, gray)


def _colored(power: Tensor, basis: Basis, gray: bool | Tensor) -> Tensor:
    """Power of every rotated channel: gray noise is C times as strong on their mean, and nothing elsewhere."""
    which = torch.as_tensor(gray, device="cpu").expand(len(power))
    if not bool(which.any()):
        return power
    if not isinstance(basis, ChannelMix) or max(basis.rows[0]) - min(basis.rows[0]) > 1e-9:
        raise InputError(
            "whitened channels 'gray'",
            f"a {type(basis).__name__} basis",
            "a ChannelMix whose first row is their mean",
        )
    share = torch.zeros(basis.channels, dtype=torch.float64, device=power.device)
    share[0] = basis.channels
    lifted = [-1, *[1] * (power.ndim - 2)]
    mixed = torch.where(which.to(power.device)[:, None], share, torch.ones_like(share))
    return power * mixed.reshape(len(power), *lifted)


def _plane(basis: Basis) -> Basis:
    """The basis in which a kernel is diagonal, under a rotation of channels and on every slice of a stack."""
    inner = basis.single if isinstance(basis, ChannelMix) else basis
    inner = inner.plane if isinstance(inner, Stack) else inner
    if not isinstance(inner, Fourier | Cosine):
        raise InputError("whitened basis", type(inner).__name__, "Fourier or Cosine, where a kernel is diagonal")
    return inner


def _axes(basis: Basis) -> list[Tensor]:
    """Frequencies along every axis, cycles/mm."""
    if isinstance(basis, Fourier):
        return basis._axes()
    settings = {"dtype": torch.float64, "device": basis.device}
    return [torch.arange(n, **settings) / (2 * n * d) for n, d in zip(basis.size, basis.spacing, strict=True)]


def _transfer(x: Tensor, s: Tensor) -> Tensor:
    """K `(B, n)` at x cycles/pixel of sampled Gaussians of s `(B,)` pixels and sum 1: theta(x) / theta(0), with
    theta(x) = sum_m exp(-2 pi^2 s^2 (x - m)^2), the transform of the samples by Poisson's sum: no cancellation.
    """
    smallest = float(s.clamp_min(DELTA).min())
    m = torch.arange(-(n := math.ceil(1 + 1.5 / smallest)), n + 1, dtype=torch.float64, device=x.device)
    wide = s.clamp_min(DELTA).to(x.device)[:, None, None]

    def theta(at: Tensor) -> Tensor:
        return torch.exp(-2 * math.pi**2 * wide**2 * (at[None, :, None] - m) ** 2).sum(-1)

    found = theta(x) / theta(0 * x[:1])
    return torch.where((s < DELTA).to(x.device)[:, None], 1.0, found)


def _taps(s: Tensor) -> tuple[Tensor, Tensor]:
    """Middle tap and sum of squares of sampled Gaussians of s `(B,)` pixels and sum 1."""
    n = torch.arange(math.ceil(9 * float(s.max())) + 3, dtype=torch.float64, device="cpu")
    taps = torch.exp(-(n**2) / (2 * s.clamp_min(DELTA)[:, None] ** 2))
    twice = torch.where(n == 0, 1.0, 2.0)
    total = (twice * taps).sum(1)
    return 1 / total, (twice * taps**2).sum(1) / total**2


# ---- random kernels ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class KernelLaw:
    """Random kernels for training, one for every item: a `ProcessLaw`, `law(basis, seeds)`.

    widths: range of the standard deviations of the kernel in mm, drawn uniformly (`log`: uniformly in the logarithm),
    one for every axis (`isotropic`: one for all).  gray: probability of noise that all channels share.  white: the
    share of white noise is drawn in [0, white] (Alido et al. draw one number for a batch; here every item has its own,
    so that a batch is its items).  The rest are options of `whitened`.  Every draw is a function of its seed.
    """

    widths: tuple[float, float] = (0.1, 3.0)
    log: bool = False
    isotropic: bool = False
    gray: float = 0.0
    white: float = 0.0
    normalise: str = "l2"
    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        """Refuse ranges that are none and probabilities that are none."""
        low, high = map(float, self.widths)
        object.__setattr__(self, "widths", (low, high))
        if not (0 <= low <= high < math.inf) or (self.log and low == 0):
            raise InputError("KernelLaw.widths", (low, high), "a range of widths in mm (above 0 with log)")
        if not 0 <= self.gray <= 1:
            raise InputError("KernelLaw.gray", self.gray, "a probability")
        _check_kernel("KernelLaw", normalise=self.normalise, white=self.white)

    def to_json(self) -> dict[str, Any]:
        """`{"name": "kernels", "options": {...}}` with every option: the record of a training."""
        return {"name": "kernels", "options": asdict(self) | {"widths": list(self.widths)}}

    def __call__(self, basis: Basis, seeds: Tensor) -> Process:
        """The process of `whitened` with a kernel of its own for each of `seeds` `(B,)`."""
        power = self.power(basis, seeds)
        law = _schedule(power, self.beta_min, self.beta_max)

        def family(bound: Basis) -> Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]:
            if bound != basis:
                raise InputError("KernelLaw", f"another grid {bound.size}", f"the grid {basis.size} of the draw")
            return law

        return Process(family, basis)

    def drawn_widths(self, seeds: Tensor, axes: int) -> Tensor:
        """Widths `(B, axes)` in mm."""
        low, high = self.widths
        u = torch.stack([uniform(seeds, f"kernel-{0 if self.isotropic else k}", 0) for k in range(axes)], 1)
        return low * (high / low) ** u if self.log else low + (high - low) * u

    def power(self, basis: Basis, seeds: Tensor) -> Tensor:
        """|K|^2 `(B, C|1, *K)` float64, one for each of `seeds` `(B,)`."""
        widths = self.drawn_widths(seeds, _plane(basis).ndim)
        gray = uniform(seeds, "kernel-gray", 0) < self.gray
        white = self.white * uniform(seeds, "kernel-white", 0)
        return kernel_power(basis, widths, normalise=self.normalise, white=white, gray=gray)
