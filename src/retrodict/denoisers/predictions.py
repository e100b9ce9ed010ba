"""What a network may predict, and how each prediction becomes the data prediction D = E[u_0 | w_t].

Per coefficient, with h, s^2 = Sigma, F, G^2 of the process and eps = (w - h u_0)/s (structured spec 0.6):

    data: u_0   eps: eps   kappa: s eps   score: -eps/s   whitened: -G^2 eps/s
    velocity: F w + G^2 eps/(2 s)   q: (h eps - s u_0)/sqrt(h^2 + s^2)
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from retrodict._check import InputError, choice
from retrodict.processes.process import Moments, Process, ratio

__all__ = ["PREDICTIONS", "target", "to_data"]


def _noise(u0: Tensor, w: Tensor, m: Moments) -> Tensor:
    """eps, zero where the coefficient carries no noise and a network could not see it (rule Z1)."""
    s = m.s2.sqrt()
    return torch.where(s == 0, 0.0, (w - m.h * u0) / torch.where(s == 0, 1.0, s))


def _from_noise(eps: Tensor, w: Tensor, m: Moments) -> Tensor:
    return (w - m.s2.sqrt() * eps) / m.h


Rate = Callable[[], tuple[Tensor, Tensor]]  # () -> (F, G2), evaluated only by the kinds that need it


_TARGETS: dict[str, Callable[[Tensor, Tensor, Moments, Rate], Tensor]] = {
    "data": lambda u0, w, m, rate: u0,
    "eps": lambda u0, w, m, rate: _noise(u0, w, m),
    "kappa": lambda u0, w, m, rate: w - m.h * u0,
    "score": lambda u0, w, m, rate: -(w - m.h * u0) / m.s2,
    "whitened": lambda u0, w, m, rate: -rate()[1] * ratio(torch.ones_like(m.s2), m.s2) * (w - m.h * u0),
    "velocity": lambda u0, w, m, rate: rate()[0] * w + rate()[1] * (w - m.h * u0) / (2 * m.s2),
    "q": lambda u0, w, m, rate: (m.h * _noise(u0, w, m) - m.s2.sqrt() * u0) / (m.h**2 + m.s2).sqrt(),
}


_DATA: dict[str, Callable[[Tensor, Tensor, Moments, Rate], Tensor]] = {
    "data": lambda out, w, m, rate: out,
    "eps": lambda out, w, m, rate: _from_noise(out, w, m),
    "kappa": lambda out, w, m, rate: (w - out) / m.h,
    "score": lambda out, w, m, rate: (w + m.s2 * out) / m.h,
    "whitened": lambda out, w, m, rate: (w + m.s2 / rate()[1] * out) / m.h,
    "velocity": lambda out, w, m, rate: (w + 2 * m.s2 / rate()[1] * (rate()[0] * w - out)) / m.h,
    "q": lambda out, w, m, rate: (m.h * w - m.s2.sqrt() * (m.h**2 + m.s2).sqrt() * out) / (m.h**2 + m.s2),
}


PREDICTIONS = tuple(_TARGETS)
"""Names of the predictions in coefficients; "wiener" (preconditioned) is handled by the denoiser itself."""


def _rate(process: Process, t: Tensor) -> Rate:
    def rate() -> tuple[Tensor, Tensor]:
        r = process.rates(t)
        return r.F, r.G2

    return rate


def target(kind: str, process: Process, u0: Tensor, w: Tensor, t: Tensor) -> Tensor:
    """What a network of this kind should say: u0, w `(B, C, *K)`, t `(B,)` -> `(B, C, *K)`."""
    return _TARGETS[choice("predicts", kind, _TARGETS)](u0, w, process.moments(t), _rate(process, t))


def to_data(kind: str, process: Process, out: Tensor, w: Tensor, t: Tensor) -> Tensor:
    """Data prediction from a network output in coefficients, shapes as in `target`.

    Raises where a coefficient is degenerate for this kind (h = 0 for all but "data" and "q"; G^2 = 0 for "whitened"
    and "velocity"), instead of returning infinities.
    """
    function = _DATA[choice("predicts", kind, _DATA)]
    m = process.moments(t)
    if kind not in ("data", "q") and bool((m.h == 0).any()):
        raise InputError(
            f"predicts {kind!r}", "a coefficient with gain h = 0", "h > 0", "Predict 'data', 'q' or 'wiener'."
        )
    if kind in ("whitened", "velocity") and bool((process.rates(t).G2 == 0).any()):
        raise InputError(f"predicts {kind!r}", "a coefficient with G^2 = 0", "G^2 > 0", "Predict 'data' or 'wiener'.")
    return function(out, w, m, _rate(process, t))
