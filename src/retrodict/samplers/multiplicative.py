"""Samplers of multiplicative noise as published, in x itself; the rules of the package run in log x and need none."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from torch import Tensor

from retrodict._check import InputError
from retrodict._random import white
from retrodict.processes.multiplicative import GeometricBrownian

__all__ = ["multiplicative_sample"]


def multiplicative_sample(
    law: GeometricBrownian,
    score: Callable[[Tensor, float], Tensor],
    start: Tensor,
    times: Sequence[float] | Tensor,
    *,
    seeds: Tensor,
    form: str = "log",
) -> Tensor:
    """Run the reverse equation from positive states `(B, ...)` at times[0] down to times[-1].

    score(x, t) is h = x grad log p_t(x), of the shape of x.  `form`: "log" keeps states positive, "ambient" may not.
    Noise of item i at step j depends on (seeds[i], j) alone.

    Raises `InputError` for times that do not fall, and for a state that is no longer positive: its step was too large.
    """
    grid, x = [float(t) for t in times], start
    if len(grid) < 2 or any(a <= b for a, b in itertools.pairwise(grid)):
        raise InputError("times", grid[:4], "two or more that fall")
    for j, (t, s) in enumerate(itertools.pairwise(grid)):
        if not bool((x > 0).all()):
            hint = "Use form 'log', or more steps."
            raise InputError("multiplicative_sample", f"a state that is not positive at t = {t:.4g}", "x > 0", hint)
        x = law.step(x, score(x, t), t - s, white(seeds, "step", j, x.shape[1:]).to(x), form)
    return x
