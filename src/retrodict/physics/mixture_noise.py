"""Mixtures of laws: most samples as usual, some from a wider law (impulses, dead pixels, motion)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict._random import key
from retrodict.physics.noise import GaussianNoise, Noise, Seeds, generator
from retrodict.physics.operator import Space

__all__ = ["MixtureNoise"]


class MixtureNoise(Noise):
    """p(y | u) = sum_k w_k p_k(y | u), for every sample by itself; the laws p_k have independent samples.

    The score is the mean of the scores under the responsibilities w_k p_k / p.  `gaussian` is the law of the mixture's
    variance, which outliers widen: a robust fit uses the score.

    Raises `InputError` for weights that are none, laws of other units, or one that is correlated between samples; and
    where a variance is asked for, if the means of the laws differ.
    """

    def __init__(self, weights: Sequence[float], laws: Sequence[Noise]) -> None:
        if len(weights) != len(laws) or len(laws) < 1 or not all(w > 0 and math.isfinite(w) for w in weights):
            raise InputError("weights", tuple(weights), f"{len(laws)} positive numbers, one for each law")
        total = sum(weights)
        if abs(total - 1) > 1e-6:
            raise InputError("weights", f"a sum of {total:g}", "1")
        if len({(law.clean_unit, law.unit) for law in laws}) != 1:
            raise InputError("laws", [law.unit for law in laws], "one unit for all")
        for law in laws:
            if isinstance(law, GaussianNoise):
                law._alone("laws")
        self.weights, self.laws = tuple(float(w) / total for w in weights), tuple(laws)
        self.clean_unit, self.unit = laws[0].clean_unit, laws[0].unit

    def check(self, space: Space, where: str = "noise") -> None:
        """As its laws do."""
        for law in self.laws:
            law.check(space, where)

    def _parts(self, clean: Tensor, y: Tensor) -> Tensor:
        """Log w_k p_k of every sample, `(K, B, *shape)`."""
        pairs = zip(self.weights, self.laws, strict=True)
        return torch.stack([math.log(w) + law.density(clean, y) for w, law in pairs])

    def _average(self, parts: Sequence[Tensor]) -> Tensor:
        return torch.stack([w * part for w, part in zip(self.weights, parts, strict=True)]).sum(0)

    def sample(self, clean: Tensor, seeds: Seeds, *, step: int = 0) -> Tensor:
        """Draws of every law, and for every sample the one that a number of its own chooses."""
        drawn = [law.sample(clean, _other(seeds, k), step=step) for k, law in enumerate(self.laws)]
        settings = {"dtype": torch.float64, "device": "cpu"}
        which = [torch.rand(*clean.shape[1:], generator=generator(int(s), "mixture", step), **settings) for s in seeds]
        number, answer = torch.stack(which).to(clean.device), drawn[0]
        for k, below in enumerate(itertools.accumulate(self.weights[:-1]), start=1):
            answer = torch.where(number < below, answer, drawn[k])
        return answer

    def density(self, clean: Tensor, y: Tensor) -> Tensor:
        """Log sum_k w_k p_k."""
        return torch.logsumexp(self._parts(clean, y), 0)

    def score(self, clean: Tensor, y: Tensor) -> Tensor:
        """Mean of the scores under the responsibilities."""
        share = torch.softmax(self._parts(clean, y), 0)
        return torch.stack([r * law.score(clean, y) for r, law in zip(share, self.laws, strict=True)]).sum(0)

    def mean(self, clean: Tensor) -> Tensor:
        """sum_k w_k mean_k."""
        return self._average([law.mean(clean) for law in self.laws])

    def _check_means(self, clean: Tensor) -> None:
        middle = self.mean(clean)
        if not all(torch.allclose(law.mean(clean), middle) for law in self.laws):
            raise InputError("laws", "means that differ", "laws with one mean: only their widths may differ")

    def variance(self, clean: Tensor) -> Tensor:
        """sum_k w_k v_k; the laws have one mean."""
        self._check_means(clean)
        return self._average([law.variance(clean) for law in self.laws])

    def fourth(self, clean: Tensor) -> Tensor:
        """sum_k w_k m4_k."""
        return self._average([law.fourth(clean) for law in self.laws])

    def valid(self, y: Tensor) -> Tensor:
        """A Gaussian never stands for the tails: 0, unless there is one law."""
        return torch.full((len(y),), float(len(self.laws) == 1), dtype=torch.float64, device=y.device)


def _other(seeds: Seeds, k: int) -> list[int]:
    """Seeds of the draws of one law, apart from those of the others."""
    return [key(int(s), "mixture-law", k) for s in seeds]
