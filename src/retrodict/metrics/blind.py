"""Blur and noise of one image from itself: the most probable curves, and how far others are probable too.

The law of the patches (`retrodict.metrics.blind_law`) is not quite that of an image: patches overlap and edges are no
random fields.  So its log likelihood is multiplied by one factor, at most 1, that gives it the information that the
scores of separate places show (composite likelihood; Varin, Reid and Firth, Stat. Sinica 21, 2011).  The frequency at
which the MTF falls to a half, whose law is skew, is gone through on a grid; all else is Gaussian around it (Laplace).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from retrodict._random import key
from retrodict.metrics.blind_law import EDGE, NAMES, RANGES, PatchLaw, on_line
from retrodict.metrics.patch_power import PatchPower

__all__ = ["BlindFit", "Misfit", "fit_patches"]


MOST_PATCHES = 250
HALVES = tuple(0.13 * 1.5**k for k in range(7))
"""Frequencies (cycles/mm) at which the MTF may fall to a half: up to 1.5."""

BLOCK = 4
"""Patches along a side of the squares whose scores count as independent."""

LEAST_QUIET = 5
"""Patches of noise alone from which the family of the noise can be tested."""

BLUR = 0.17
"""Scatter between training patients of the log of the MTF's half, beyond that of the law of the patches."""

SHAPE = 0.12
"""Scatter of the log of an NPS, at one frequency, around its family."""

QUIET = 1e-4
"""Contrast up to which a patch shows nothing but noise."""


@dataclass(frozen=True)
class Misfit:
    """Power of the quiet patches over what the fit says, `(K,)`, its standard error, and the p value of all of them.

    NaN where fewer than `LEAST_QUIET` patches are quiet.
    """

    frequency: Tensor
    ratio: Tensor
    error: Tensor
    p_value: float
    patches: float


@dataclass(frozen=True)
class BlindFit:
    """The most probable parameters `best` and draws of others `(D, n)`, of a law, and what was found on the way.

    `information`: factor of the likelihood; `edges`, `quiet`: patches that show edges, and noise alone.  `anisotropy`:
    largest over smallest noise among four directions; `uneven`: scatter of the log of its variance over the image.
    """

    best: Tensor
    draws: Tensor
    information: float
    edges: float
    quiet: float
    quiet_places: tuple[tuple[int, int, int], ...]
    misfit: Misfit
    anisotropy: float
    uneven: float
    law: PatchLaw = field(repr=False)

    def nps(self, f: Tensor, level: float = 0.95) -> tuple[Tensor, Tensor, Tensor]:
        """NPS (unit^2 mm^2) at f and the limits of its band."""
        best, low, high = self._band(self.law.noise, f, level)
        wide = math.exp(math.sqrt(2.0) * SHAPE * float(torch.erfinv(torch.tensor(level, device="cpu").double())))
        return best, low / wide, high * wide

    def mtf(self, f: Tensor, level: float = 0.95) -> tuple[Tensor, Tensor, Tensor]:
        """MTF at f and the limits of its band."""
        return self._band(self.law.blur, f, level)

    def noise_sd(self, level: float = 0.95) -> tuple[float, float, float]:
        """Standard deviation of the noise of a pixel and its limits."""
        return self._span(self.best[0].exp(), self.draws[:, 0].exp(), level)

    def mtf50(self, level: float = 0.95) -> tuple[float, float, float]:
        """Frequency at which the MTF falls to a half and its limits."""
        return self._span(self._half(self.best), torch.stack([self._half(d) for d in self.draws]), level)

    def value(self, name: str) -> float:
        """A parameter of `NAMES` in its own unit."""
        if name in RANGES:
            return float(self.law.shape_value(self.best, name))
        return float(self.best[NAMES.index(name)].exp())

    def _half(self, free: Tensor) -> Tensor:
        f = torch.linspace(0.02, 3.0, 1491, dtype=torch.float64, device="cpu")
        below = (self.law.blur(free, f) < 0.5).nonzero()
        return f[int(below[0])] if len(below) else f[-1]

    def _band(
        self, curve: Callable[[Tensor, Tensor], Tensor], f: Tensor, level: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        many = torch.stack([torch.nan_to_num(curve(d, f)) for d in self.draws])
        q = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64, device="cpu")
        low, high = torch.quantile(many, q, dim=0)
        best = curve(self.best, f)
        return best, torch.minimum(low, best), torch.maximum(high, best)

    @staticmethod
    def _span(best: Tensor, draws: Tensor, level: float) -> tuple[float, float, float]:
        q = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64, device="cpu")
        low, high = torch.quantile(draws, q).tolist()
        return float(best), min(low, float(best)), max(high, float(best))


def fit_patches(data: PatchPower, law: PatchLaw, *, scatter: float = 0.0, draws: int = 300, seed: int = 0) -> BlindFit:
    """The most probable MTF and NPS of the patches of an image, with draws of others by their probability.

    scatter: what patients add to the error, a standard deviation in the unit of the image (their own structure that
    passes for noise, or the other way round).  Beside it the level scatters by 3 %, the shape by `SHAPE` at a frequency
    and the blur by `BLUR`.

    At most 250 patches are looked at, drawn without regard to what they show; `seed`: of that choice and of the draws.
    """
    data = _thinned(data, seed)
    best = _most_probable(data, law)
    scores = _scores(data, law, best)
    information = _information(data, law, scores)
    best = _climb(data, law, best, information, 40)
    scores = _scores(data, law, best)
    covariance = _inverse(information * scores.T @ scores + law.weight)
    centers = None
    if law.mtf is None:
        best, centers = _along_half(data, law, best, information, covariance)
    many = _drawn(best if centers is None else centers, covariance, draws, seed)
    level = best[0].exp()
    normal = torch.from_numpy(np.random.default_rng(key(seed, "scatter")).standard_normal((2, len(many))))
    many[:, 0] += math.hypot(0.03, scatter / float(level)) * normal[0]
    number, (low, high, _) = NAMES.index("half"), RANGES["half"]
    place = torch.sigmoid(many[:, number]) + BLUR / math.log(high / low) * normal[1]
    many[:, number] = torch.logit(place.clamp(0.003, 0.997))
    share = _shares(data, law, best)
    return BlindFit(
        best, many, information, float(share[1].sum()), float(share[0].sum()),
        tuple(tuple(p) for p in data.place[share[0] > 0.5].tolist()),
        _misfit(data, law, best, share[0]), _anisotropy(data, share[0]), _uneven(data, law, best), law,
    )  # fmt: skip


def _thinned(data: PatchPower, seed: int) -> PatchPower:
    if len(data.power) <= MOST_PATCHES:
        return data
    chosen = torch.from_numpy(np.random.default_rng(key(seed, "patches")).permutation(len(data.power))[:MOST_PATCHES])
    kept = {n: getattr(data, n)[chosen] for n in ("power", "place", "mean", "sectors")}
    return replace(data, **kept)


# ---- the maximum -------------------------------------------------------------------------------------------------


def _most_probable(data: PatchPower, law: PatchLaw) -> Tensor:
    """The maximum nearest to the best of a few starts: quiet and loud noise, soft and sharp textures and blurs."""
    tops = data.power[:, data.frequency > 0.5 * data.frequency[-1]].mean(1)
    starts = []
    for window, gain in ((-1.5, 10.0), (1.0, 3.0)):
        for share in (0.1, 0.4):
            for half in (0.35, 0.7):
                start = law.start.clone()
                start[0] = 0.5 * math.log(max(float(tops.quantile(share)) * gain, 1e-12) / math.prod(law.spacing))
                start[2], start[5] = window, on_line("half", half)
                starts.append(start)
    scores = [float(_loss(data, law, x, 1.0)) for x in starts]
    return _climb(data, law, starts[int(np.nanargmin(scores))], 1.0, 60)


def _loss(data: PatchPower, law: PatchLaw, free: Tensor, information: float) -> Tensor:
    return law.penalty(free) - information * law.log_likelihood(free, data).sum()


def _climb(
    data: PatchPower, law: PatchLaw, start: Tensor, information: float, steps: int, held: int | None = None
) -> Tensor:
    """The most probable point on the way to the nearest maximum from `start`, with the parameter number `held` held.

    Where a step runs off to where the law is no number, what was found before it counts.
    """
    scale = law.weight.diagonal().rsqrt().clamp(max=0.5)
    if held is not None:
        scale = scale.clone()
        scale[held] = 0.0
    with torch.enable_grad():
        z = torch.zeros_like(start, requires_grad=True)
        search = torch.optim.LBFGS(
            [z], max_iter=steps, history_size=20, line_search_fn="strong_wolfe", tolerance_change=1e-7
        )

        lowest, best = math.inf, z.detach().clone()

        def closure() -> Tensor:
            nonlocal lowest, best
            search.zero_grad()
            loss = _loss(data, law, start + z * scale, information)
            loss.backward()
            found = float(loss.detach())
            if found < lowest:
                lowest, best = found, z.detach().clone()
            return loss

        search.step(closure)
    return start + best * scale


def _along_half(
    data: PatchPower, law: PatchLaw, best: Tensor, information: float, covariance: Tensor
) -> tuple[Tensor, list[tuple[float, Tensor]]]:
    """The maximum over a grid of the MTF's half, and (log probability, parameters) of every node of it, rising.

    The valley is narrow, as a softer patient and a softer MTF look alike: a climb begins where the Gaussian law has
    the other parameters, given the half.
    """
    number = NAMES.index("half")
    along = covariance[:, number] / covariance[number, number]
    at: dict[float, Tensor] = {float(best[number]): best}
    for place in sorted((on_line("half", h) for h in HALVES), key=lambda z: abs(z - float(best[number]))):
        near = at[min(at, key=lambda z: abs(z - place))]
        starts = [near + along * (place - near[number]), near.clone()]
        starts[1][number] = place
        losses = [float(_loss(data, law, x, information)) for x in starts]
        at[place] = _climb(data, law, starts[int(np.nanargmin(losses))], information, 12, held=number)
    found = [(-float(_loss(data, law, at[z], information)), at[z]) for z in sorted(at)]
    found = [(score, x) for score, x in found if math.isfinite(score)]
    return max(found, key=lambda pair: pair[0])[1], found


# ---- how wide it is ----------------------------------------------------------------------------------------------


def _inverse(matrix: Tensor) -> Tensor:
    """Of a symmetric matrix whose small and negative eigenvalues are lifted to the weakest prior."""
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors / values.clamp_min(0.1)) @ vectors.T


def _information(data: PatchPower, law: PatchLaw, scores: Tensor) -> float:
    """Variance of the scores if patches were independent over that of separate squares, where the data decide.

    These are the directions in which the posterior is less than half as wide as the prior and the likelihood together
    would be without the data.
    """
    alone = scores.T @ scores
    block = torch.div(data.place, BLOCK * data.size // 2, rounding_mode="floor")
    _, number = torch.unique(block, dim=0, return_inverse=True)
    total = torch.zeros(int(number.max()) + 1, scores.shape[1], dtype=torch.float64, device="cpu")
    total.index_add_(0, number, scores)
    values, vectors = torch.linalg.eigh(_inverse(alone + law.weight))
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    shares, directions = torch.linalg.eigh(root @ alone @ root)
    together = (directions.T @ root @ (total.T @ total) @ root @ directions).diagonal()
    use = shares > 0.5
    return min(1.0, float(shares[use].sum() / together[use].sum().clamp_min(1e-9))) if bool(use.any()) else 1.0


def _scores(data: PatchPower, law: PatchLaw, free: Tensor) -> Tensor:
    """Derivative of the log likelihood of every patch by every parameter `(P, n)`, central differences."""
    columns = []
    for k in range(len(free)):
        step = torch.zeros_like(free)
        step[k] = 1e-4
        columns.append((law.log_likelihood(free + step, data) - law.log_likelihood(free - step, data)) / 2e-4)
    return torch.stack(columns, 1)


def _drawn(centers: Tensor | list, covariance: Tensor, count: int, seed: int) -> Tensor:
    """Gaussian draws around one center, or around those of the grid by probability, with the half between them."""
    draw = np.random.default_rng(key(seed, "estimate"))
    if isinstance(centers, Tensor):
        root = torch.linalg.cholesky(covariance + 1e-12 * torch.eye(len(covariance), dtype=torch.float64, device="cpu"))
        return centers + torch.from_numpy(draw.standard_normal((count, len(centers)))) @ root.T
    number = NAMES.index("half")
    column = covariance[:, number]
    rest = covariance - torch.outer(column, column) / covariance[number, number]
    values, vectors = torch.linalg.eigh(rest)
    root = vectors * values.clamp_min(0).sqrt()
    table = torch.stack([x for _, x in centers])
    places = table[:, number].numpy()
    fine, weight = _density(places, np.array([score for score, _ in centers]))
    chosen = draw.choice(fine, count, p=weight)
    left = np.clip(np.searchsorted(places, chosen) - 1, 0, len(places) - 2)
    part = torch.from_numpy((chosen - places[left]) / (places[left + 1] - places[left]))[:, None]
    middle = table[left] * (1 - part) + table[left + 1] * part
    return middle + torch.from_numpy(draw.standard_normal((count, len(column)))) @ root.T


def _density(places: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A fine grid and its probabilities; between nodes the signed root of the deviance is linear, as of a Gaussian."""
    top = int(scores.argmax())
    root = np.sqrt(2 * (scores[top] - scores)) * np.where(np.arange(len(places)) < top, -1.0, 1.0)
    fine = np.linspace(places[0], places[-1], 600)
    weight = np.exp(-0.5 * np.interp(fine, places, root) ** 2)
    return fine, weight / weight.sum()


# ---- what the patches are ----------------------------------------------------------------------------------------


def _shares(data: PatchPower, law: PatchLaw, free: Tensor) -> tuple[Tensor, Tensor]:
    """Probability of every patch to show noise alone, and to show edges."""
    contrast = law.components(free, data.frequency)[2]
    each = law.each(free, data).softmax(1)
    return each[:, contrast <= QUIET].sum(1), each[:, contrast >= EDGE].sum(1)


def _misfit(data: PatchPower, law: PatchLaw, free: Tensor, quiet: Tensor) -> Misfit:
    """chi^2 of the rings of the quiet patches, with the scatter between separate squares as their errors."""
    means = law.components(free, data.frequency)[1]
    each = law.each(free, data).softmax(1)
    ratio = data.power * (each @ (1 / means))
    block = torch.div(data.place, BLOCK * data.size // 2, rounding_mode="floor")
    _, number = torch.unique(block, dim=0, return_inverse=True)
    count = int(number.max()) + 1
    zeros = torch.zeros(count, ratio.shape[1], dtype=torch.float64, device="cpu")
    total = zeros.clone().index_add_(0, number, ratio * quiet[:, None])
    size = torch.zeros(count, dtype=torch.float64, device="cpu").index_add_(0, number, quiet)
    whole = float(size.sum())
    if whole < LEAST_QUIET:
        nan = torch.full_like(data.frequency, math.nan)
        return Misfit(data.frequency, nan, nan, math.nan, whole)
    mean = total.sum(0) / max(whole, 1e-9)
    scatter = (total - size[:, None] * mean).square().sum(0).sqrt() / max(whole, 1e-9)
    law_error = (2 / (data.freedom * max(whole, 1e-9))).sqrt()
    error = torch.maximum(scatter, law_error)
    statistic, dof = float(((mean - 1) / error).square().sum()), max(1, len(mean) - 5)
    half = torch.tensor([dof / 2, statistic / 2], dtype=torch.float64, device="cpu")
    return Misfit(data.frequency, mean, error, float(torch.special.gammaincc(half[0], half[1])), whole)


def _anisotropy(data: PatchPower, quiet: Tensor) -> float:
    """Largest over smallest power of the quiet patches among four directions."""
    power = (data.sectors * quiet[:, None]).sum(0)
    return float(power.max() / power.min().clamp_min(1e-300))


def _uneven(data: PatchPower, law: PatchLaw, free: Tensor) -> float:
    """Scatter of the log of the noise between patches beyond that of the periodogram, from rings that edges miss.

    Those of the upper half of the frequencies; by the median deviation, as a few patches hold sharp edges.
    """
    upper = data.frequency > 0.5 * data.frequency[-1]
    share = data.freedom[upper] / data.freedom[upper].sum()
    log = (data.power[:, upper] / law.noise(free, data.frequency)[upper] @ share).clamp_min(1e-300).log()
    found = 1.4826 * float((log - log.median()).abs().median())
    return math.sqrt(max(0.0, found**2 - 2 / float(data.freedom[upper].sum())))
