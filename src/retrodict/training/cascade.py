"""Training of a cascade, level by level: each network sees the bands and the coarse image of its sub-lattice alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from retrodict._random import key, uniform
from retrodict.denoisers.cascade import CascadeDenoiser, View, Views
from retrodict.denoisers.cascade_net import Factors, NetModel, RegressionModel, unseen
from retrodict.nets.cascade import CascadeNet
from retrodict.processes.observation import noise_like
from retrodict.processes.process import Process
from retrodict.training.losses import Batch, Example, Losses

__all__ = ["LevelTrainer", "calibrate_cascade", "gain", "level_loss"]

NODES = 8
"""Noise levels of a window at which gains and the spread are measured."""

ENOUGH, MOST_ITEMS = 50_000, 512
"""Coefficients that a gain is measured on, of at most so many items: it has to be known to 0.01."""

LEAST = 0.02
"""Least time of a window that is trained on: s = 0.06 for a horizon of 5."""


@dataclass(frozen=True, eq=False)
class LevelTrainer:
    """What `training.loop.train` needs of one scale: `net` (that of the scale alone), and where it stands."""

    net: nn.Module
    process: Process
    views: Views
    scale: int
    cascade: CascadeNet
    regression: bool = False
    precision: str = "float32"
    crop: int | None = None

    @classmethod
    def of(cls, denoiser: CascadeDenoiser, scale: int, crop: int | None = None) -> LevelTrainer:
        """Of one scale of a denoiser with networks; a network that levels share is trained on all of them.

        crop: side of the part of the sub-lattice that a network of details is shown; the coarse image is shown whole.
        """
        model = denoiser.model
        assert isinstance(model, NetModel)
        regression = isinstance(model, RegressionModel) and scale < model.net.levels
        net = model.net.net_of(scale)
        part = crop if scale < model.net.levels else None
        return cls(net, denoiser.process, denoiser.views, scale, model.net, regression, model.precision, part)

    @property
    def scales(self) -> list[int]:
        """Scales that the network answers for."""
        shared = self.cascade.shared and self.scale < self.cascade.levels
        return list(range(self.cascade.levels)) if shared else [self.scale]


def level_loss(
    trainer: Any, batch: Tensor | Example, seeds: Tensor, weight: str = "unit", spread_weight: float = 0.1
) -> Losses:
    """Mean (N - (y_0 - h y)/s)^2 over the coefficients of the scale, and `spread_weight` times the Gaussian negative
    log-likelihood of the detached error.  A network of many scales is trained on each in turn, by the first seed.

    `weight` is that of unit targets; every other one would be of pixels.
    """
    x0 = batch.x0 if isinstance(batch, Example) else batch
    x0 = x0.to(trainer.process.basis.device)
    scales = trainer.scales
    scale = scales[int(uniform(seeds[:1], "scale", 0) * len(scales))]
    time = LEAST + (1 - LEAST) * uniform(seeds, "time", 0)
    view, target = _seen(trainer.views, trainer.process, x0, scale, time, seeds)
    if trainer.regression:  # the mean of the details given the coarse image: nothing of themselves is shown
        view, target = unseen(view), trainer.views.unit(trainer.views.basis.forward(x0), scale)
    if trainer.crop is not None:
        view, target = _part(view, target, trainer.crop, seeds)
    terms = NetModel(trainer.cascade, precision=trainer.precision).terms(view)
    squares = (terms.out - target) ** 2
    error = squares.flatten(1).mean(1)
    spread = 0.5 * (terms.log_ratio + squares.detach() * (-terms.log_ratio).exp()).flatten(1).mean(1)
    return Losses(error + spread_weight * spread, error, spread)


def _seen(views: Views, process: Process, x0: Tensor, scale: int, time: Tensor, seeds: Tensor) -> tuple[View, Tensor]:
    """What the network of a scale is shown at times of its window `(B,)`, and the target (y_0 - h y) / s."""
    options = process.recipe.options  # type: ignore[union-attr]
    tau = options.get("horizon", 5.0) * time ** options.get("exponent", 2.0)
    u = views.basis.forward(x0)
    clean = views.unit(u, scale)
    one = [1] * (clean.ndim - 1)
    h, s2 = torch.exp(-tau), -torch.expm1(-2 * tau)
    z = noise_like(clean, seeds, "state", 0)
    gain, root = (x.reshape(-1, *one).to(clean) for x in (h, s2.sqrt()))
    view = View(scale, gain * clean + root * z, views.coarse(u, scale), h.to(u.device), s2.to(u.device))
    return view, root * clean - gain * z  # (y_0 - h y)/s with 1 - h^2 = s^2


def _part(view: View, target: Tensor, side: int, seeds: Tensor) -> tuple[View, Tensor]:
    """A cube of `side` places of the sub-lattice of every item, where its seed says; all of an axis that is shorter."""
    size = view.noisy.shape[3:]
    sides = [min(side, n) for n in size]
    at = [
        (uniform(seeds, "part", a) * (n - m + 1)).long().tolist()
        for a, (n, m) in enumerate(zip(size, sides, strict=True))
    ]

    def cut(x: Tensor) -> Tensor:
        return torch.stack(
            [own[(..., *(slice(o[i], o[i] + m) for o, m in zip(at, sides, strict=True)))] for i, own in enumerate(x)]
        )

    coarse = None if view.coarse is None else cut(view.coarse)
    return view._replace(noisy=cut(view.noisy), coarse=coarse), cut(target)


@dataclass(frozen=True)
class _Held:
    """Held-out images in as many batches as are asked for; made once."""

    batch: Batch
    seed: int
    size: int
    device: Any
    made: list[tuple[Tensor, Tensor]]
    source: Callable[[int], str] | None = None

    def sources(self, count: int) -> list[str]:
        """What image each item of the first batches is of; without `source` all are taken for different ones."""
        keys = [k for _, seeds in self.batches(count) for k in seeds.tolist()]
        return [str(k) if self.source is None else self.source(k) for k in keys]

    def batches(self, count: int) -> list[tuple[Tensor, Tensor]]:
        """The first batches: images and their seeds."""
        while len(self.made) < count:
            keys = [key(self.seed, "calibration", len(self.made) * self.size + i) for i in range(self.size)]
            x = self.batch(keys)
            images = (x.x0 if isinstance(x, Example) else x).to(self.device)
            self.made.append((images, torch.tensor(keys, device="cpu")))
        return self.made[:count]


@torch.no_grad()
def calibrate_cascade(
    denoiser: CascadeDenoiser,
    batch: Batch,
    seed: int = 0,
    rounds: int = 4,
    size: int = 16,
    source: Callable[[int], str] | None = None,
) -> CascadeDenoiser:
    """The denoiser with gains on its answers and then factors on its error variance, mean e^2 / p over held-out data,
    by scale and noise level.

    source: the patient or image that the item of a key is of; items of one are not independent.
    """
    model, views = denoiser.model, denoiser.views
    assert isinstance(model, NetModel)
    levels, held = model.net.levels, _Held(batch, seed, size, denoiser.process.basis.device, [], source)
    nodes = [LEAST + (1 - LEAST) * (k + 0.5) / NODES for k in range(NODES)]
    options = denoiser.process.recipe.options  # type: ignore[union-attr]
    tau = [options.get("horizon", 5.0) * t ** options.get("exponent", 2.0) for t in nodes]
    log_s, none = tuple(0.5 * math.log(-math.expm1(-2 * x)) for x in tau), (0.0,) * NODES
    drawn = [scale == levels or not isinstance(model, RegressionModel) for scale in range(levels + 1)]
    plain = replace(model, factors=None)

    def errors(model: NetModel, scale: int, time: float, count: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """What was shown, the error of the answer and its log-ratio."""
        for x0, seeds in held.batches(count):
            times = torch.full((len(seeds),), time, dtype=torch.float64, device="cpu")
            view, target = _seen(views, denoiser.process, x0, scale, times, seeds)
            terms = model.terms(view)
            yield view.noisy, target - terms.out, terms.log_ratio

    def batches(scale: int) -> int:
        each = held.batches(1)[0][0].flatten(1).shape[1] / 2 ** (views.level(scale) * views.basis.ndim)
        return max(rounds, min(MOST_ITEMS, math.ceil(ENOUGH / each)) // size)

    gains = tuple(
        tuple(gain(errors(plain, scale, time, count), held.sources(count)) for time in nodes) if drawn[scale] else none
        for scale, count in enumerate(map(batches, range(levels + 1)))
    )
    fair = replace(model, factors=Factors(log_s, (none,) * (levels + 1), gains))
    rows = tuple(
        tuple(_factor(errors(fair, scale, time, rounds)) for time in nodes) if drawn[scale] else none
        for scale in range(levels + 1)
    )
    return replace(denoiser, model=replace(model, factors=Factors(log_s, rows, gains)))


def gain(errors: Iterable[tuple[Tensor, Tensor, Tensor]], sources: Sequence[str], doubt: float = 2.0) -> float:
    """The number g of least mean (e - g y)^2, e the error of an answer to y, less what cannot be told from nothing.

    Its standard error follows from the scatter between `sources`, the patient or image of every item; g counts as far
    as its square is beyond that of `doubt` standard errors (the positive part of James and Stein 1961).  Of a single
    source nothing can be told.
    """
    products, squares = [], []
    for y, error, _ in errors:
        products.append((error * y).double().flatten(1).sum(1))
        squares.append((y * y).double().flatten(1).sum(1))
    known = list(dict.fromkeys(sources))
    if len(known) < 2:
        return 0.0
    product, square = torch.cat(products), torch.cat(squares)
    place = torch.tensor([known.index(name) for name in sources], device=product.device)
    g = float(product.sum() / square.sum())
    apart = torch.zeros(len(known), dtype=product.dtype, device=product.device)
    apart = apart.index_add(0, place, product - g * square)
    scatter = float(apart.square().sum() / square.sum() ** 2) * len(known) / (len(known) - 1)
    return g * max(0.0, 1 - doubt**2 * scatter / max(g * g, 1e-300))


def _factor(errors: Iterable[tuple[Tensor, Tensor, Tensor]]) -> float:
    """Log of the mean over items of the squared error over the variance that was said."""
    found = [(error**2 * (-log_ratio).exp()).double().flatten(1).mean(1) for _, error, log_ratio in errors]
    return math.log(max(float(torch.cat(found).mean()), 1e-12))
