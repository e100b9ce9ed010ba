"""Structure-modulated noise: in training alone, regions of an image share a random shift of the noise.

    x_t = h x_0 + s (z + c_t E),        E constant on every region of a label map, 0 outside

(SAM-DiffSR: Wang et al. 2024, arXiv 2402.17133; its code, which is another model than its text).  D = E[x_0 | x_t] is
still asked for x_0, so what is trained is a denoiser of the noise covariance s^2 (1 + c_t^2 P Lambda P^T), P the
indicators of the regions and Lambda the spread of E on them.  Nothing changes in sampling, where there is no E.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from retrodict._check import InputError, choice
from retrodict._random import key
from retrodict.denoisers.network import NetDenoiser
from retrodict.training.losses import Batch, Example, Losses, denoising_loss

__all__ = ["CODES", "Structure", "labelled", "published_amplitude", "region_codes", "regions", "rotary_field"]


# ---- masks -----------------------------------------------------------------------------------------------------------


def regions(image: Tensor, count: int = 64, compactness: float = 0.1, rounds: int = 10) -> Tensor:
    """Superpixels of one image `(C, *N)` as labels `(*N)` int64 from 1 on: k-means of grey value and place.

    Seeds on a square grid of about `count` cells of side S; distance |dv|^2 + compactness^2 |dx|^2 / S^2 to the seeds
    of the nine (in the plane) nearest cells, values over their deviation (SLIC: Achanta et al. 2012).  Each round moves
    the seeds to the means of their pixels.  A classical stand-in for the segmentation network; it draws nothing.
    """
    size = tuple(image.shape[1:])
    if not bool(torch.isfinite(image).all()) or not 1 <= count <= math.prod(size):
        found = f"{count} regions of an image {size}"
        raise InputError("regions", found, "finite values, and between one region and as many as pixels")
    deviation = float(image.double().std())
    value = image.double().flatten(1).T / (deviation if deviation > 0 else 1.0)
    axes = [torch.arange(n, dtype=torch.float64, device=image.device) for n in size]
    place = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(size))
    side = (math.prod(size) / count) ** (1 / len(size))
    cells = [max(1, round(n / side)) for n in size]
    cell = torch.stack(
        [
            torch.div(p * c, n, rounding_mode="floor").clamp_max(c - 1)
            for p, c, n in zip(place.T, cells, size, strict=True)
        ],
        -1,
    ).long()
    points = torch.cat([value, place * (compactness / side)], 1)
    label = _flat(cell, cells)
    offsets = torch.cartesian_prod(*[torch.arange(-1, 2, device=image.device)] * len(size)).reshape(-1, len(size))
    limit = torch.tensor(cells, device=image.device) - 1
    near = torch.stack([_flat(torch.minimum((cell + o).clamp_min(0), limit), cells) for o in offsets])
    for _ in range(rounds):
        means = _means(points, label, math.prod(cells))
        distance = (points[None] - means[near]).square().sum(-1)
        label = near.gather(0, distance.nan_to_num(nan=math.inf).argmin(0, keepdim=True))[0]
    return label.unique(return_inverse=True)[1].reshape(size) + 1


def _flat(cell: Tensor, cells: list[int]) -> Tensor:
    index = torch.zeros_like(cell[:, 0])
    for axis, count in enumerate(cells):
        index = index * count + cell[:, axis]
    return index


def _means(points: Tensor, label: Tensor, count: int) -> Tensor:
    """Mean of the points of every label; not a number where it has none."""
    settings = {"dtype": points.dtype, "device": points.device}
    sums = torch.zeros(count, points.shape[1], **settings).index_add_(0, label, points)
    return sums / torch.zeros(count, 1, **settings).index_add_(0, label, torch.ones_like(points[:, :1]))


def _checked(labels: Tensor, size: tuple[int, ...]) -> Tensor:
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise InputError("masks", f"values of type {labels.dtype}", "integer labels, 0 outside every region")
    if tuple(labels.shape) != size:
        raise InputError("masks", tuple(labels.shape), f"{size}, a label for every pixel")
    if bool((labels < 0).any()):
        raise InputError("masks", f"a label of {int(labels.min())}", "labels from 0 on, 0 outside every region")
    if not bool((labels > 0).any()):
        hint = "Give masks, make some with regions(image), or train without Structure."
        raise InputError("masks", "an empty mask: no pixel belongs to a region", "a label above 0 somewhere", hint)
    return labels


# ---- codes -----------------------------------------------------------------------------------------------------------


def rotary_field(rows: int, columns: int) -> Tensor:
    """The rotary embedding of an array of ones, `(rows, columns)` float64, whose means over a region are its code.

    O[p, 2i] = cos(p f_i) - sin(p f_i), O[p, 2i + 1] = cos(p f_i) + sin(p f_i), f_i = 10000^(-2i / columns), p the row.
    """
    settings = {"dtype": torch.float64, "device": "cpu"}
    rates = 10000.0 ** (-2 * torch.arange((columns + 1) // 2, **settings) / columns)
    angle = torch.arange(rows, **settings)[:, None] * rates
    return torch.stack([angle.cos() - angle.sin(), angle.cos() + angle.sin()], -1).flatten(1)[:, :columns]


def _spe(labels: Tensor, area: bool) -> Tensor:
    field, out = rotary_field(*labels.shape).to(labels.device), torch.zeros(labels.shape, dtype=torch.float64,
                                                                            device=labels.device)  # fmt: skip
    for label in labels.unique().tolist():
        if label > 0:
            mask = labels == label
            out[mask] = field[mask].sum() / (labels.numel() if area else mask.sum())
    return out


def _drawn(labels: Tensor, seed: int, code: Callable[[int], float]) -> Tensor:
    out = torch.zeros(labels.shape, dtype=torch.float64, device=labels.device)
    for label in labels.unique().tolist():
        if label > 0:
            out[labels == label] = code(key(seed, "region", label))
    return out


CODES: dict[str, Callable[[Tensor, int], Tensor]] = {
    "spe_area": lambda labels, seed: _spe(labels, area=True),
    "spe_mean": lambda labels, seed: _spe(labels, area=False),
    "sign": lambda labels, seed: _drawn(labels, seed, lambda k: 1.0 if k >> 62 & 1 else -1.0),
    "hash": lambda labels, seed: _drawn(labels, 0, lambda k: 2 * (k / 2.0**63) - 1),
}
"""Codes of regions by name: the published one, whose mean runs over the image so that it grows with the area; the mean
over the region; a random sign, anew for every seed; a fixed number in [-1, 1) that is a function of the label.
"""


def region_codes(labels: Tensor, code: str = "spe_mean", *, seed: int = 0, standardize: bool = False) -> Tensor:
    """E `(*N)` float64 of a label map `(*N)` of integers, 0 outside every region.

    standardize: to mean 0 and deviation 1 over the image; one of a single value stays as it is but for its mean.

    Raises `InputError` for an unknown code, empty masks, labels that are no integers, and for `spe` codes of images
    that are not in the plane.
    """
    labels = _checked(labels, tuple(labels.shape))
    if choice("code", code, CODES).startswith("spe") and labels.ndim != 2:
        raise InputError(f"code {code!r}", f"labels with {labels.ndim} axes", "an image in the plane, or code 'sign'")
    out = CODES[code](labels, seed)
    if standardize:
        out = out - out.mean()
        deviation = out.std(correction=0)
        out = out / torch.where(deviation > 0, deviation, 1.0)
    return out


# ---- amplitudes ------------------------------------------------------------------------------------------------------


def published_amplitude(t: Tensor, steps: int = 100) -> Tensor:
    """c_t of the published code, beta_t sqrt(1 - abar_t) of the cosine schedule, float64 like t in [0, 1].

    The index is t `steps` - 1, linear in between: c at the discrete steps 0, 10, 50, 90 and 99 of 100 is 1.6e-5,
    0.0010, 0.0228, 0.187 and 0.999.
    """
    settings = {"dtype": torch.float64, "device": t.device}
    edges = torch.arange(steps + 1, **settings) / steps
    kept = torch.cos((edges + 0.008) / 1.008 * math.pi / 2) ** 2
    beta = (1 - kept[1:] / kept[:-1]).clamp(0, 0.999)
    table = beta * (1 - torch.cumprod(1 - beta, 0)).sqrt()
    index = (t.double() * steps - 1).clamp(0, steps - 1)
    low = index.floor().long().clamp_max(steps - 2)
    return table[low] + (index - low) * (table[low + 1] - table[low])


# ---- the objective ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Structure:
    """An objective of `train`: `denoising_loss` with structure-modulated noise, for batches that carry labels.

    code, standardize: see `region_codes`.  amplitude: "published" (`published_amplitude`), or a number c_0 for
    c_t = c_0 (1 - t).  With amplitude 0 it is `denoising_loss`, bit for bit.  Batches are `Example`s with `labels`
    `(B, *N)`; see `labelled`.
    """

    code: str = "spe_mean"
    amplitude: str | float = "published"
    standardize: bool = True

    def __post_init__(self) -> None:
        """Refuse an unknown code or amplitude."""
        choice("code", self.code, CODES)
        if isinstance(self.amplitude, str):
            choice("amplitude", self.amplitude, ("published",))
        elif not 0 <= self.amplitude < math.inf:
            raise InputError("amplitude", self.amplitude, "'published', or a number of at least 0")

    def at(self, t: Tensor) -> Tensor:
        """c_t at times `(B,)`, float64."""
        return published_amplitude(t) if isinstance(self.amplitude, str) else self.amplitude * (1 - t.double())

    def shift(self, labels: Tensor, t: Tensor, seeds: Tensor, channels: int) -> Tensor:
        """c_t E `(B, C, *N)` float64 in units of the noise: the same on every channel."""
        codes = [
            region_codes(one, self.code, seed=int(seed), standardize=self.standardize)
            for one, seed in zip(labels, seeds, strict=True)
        ]
        lifted = self.at(t).reshape(-1, *[1] * (labels.ndim - 1))
        return (lifted.to(labels.device) * torch.stack(codes)).unsqueeze(1).expand(-1, channels, *labels.shape[1:])

    def __call__(
        self, denoiser: NetDenoiser, batch: Tensor | Example, seeds: Tensor, weight: str, spread_weight: float
    ) -> Losses:
        """The losses of a batch; see `denoising_loss`.  Raises `InputError` for a batch without labels."""
        labels = batch.labels if isinstance(batch, Example) else None
        if labels is None or not isinstance(batch, Example):
            hint = "Use labelled(batch), or Example(x0, labels=...)."
            raise InputError("masks", "a batch without labels", "integer labels for every image", hint)
        wanted = (len(batch.x0), *batch.x0.shape[2:])
        _checked(labels, wanted)
        channels = batch.x0.shape[1]

        def moved(z: Tensor, t: Tensor) -> Tensor:
            return z if self.amplitude == 0 else z + self.shift(labels, t, seeds, channels).to(z)

        return denoising_loss(denoiser, batch, seeds, weight, spread_weight, noise=moved)


def labelled(batch: Batch, count: int = 64, compactness: float = 0.1) -> Batch:
    """A source of batches with the superpixels of every clean image (`regions`) beside it."""

    def found(keys: list[int]) -> Example:
        one = batch(keys)
        example = one if isinstance(one, Example) else Example(one)
        labels = torch.stack([regions(x, count, compactness) for x in example.x0])
        return example._replace(labels=labels)

    return found
