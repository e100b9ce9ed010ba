"""What a network may predict, and how each prediction becomes the data prediction D = E[u_0 | w_t].

Per coefficient, with h, s^2 = Sigma, F, G^2 of the process and eps = (w - h u_0)/s (structured spec 0.6):

    data: u_0   eps: eps   kappa: s eps   score: -eps/s   whitened: -G^2 eps/s
    velocity: F w + G^2 eps/(2 s)   q: (h eps - s u_0)/sqrt(h^2 + s^2)

and with the coefficients c of the condition image (residual spec 1.3):

    residual: c - u_0   shift: w + k c - u_0   resnoise: eps + (s/2)(c - u_0)
    angle: sin (c - u_0) + h s eps/sin, sin = sqrt(1 - h^2)

The score alone divides by the noise.  Where a coefficient carries none (s = 0) the whitened score is 0 and the data are
w / h: of data, kappa, whitened and velocity the ratios G^2/s^2 and s^2/G^2 are taken as numbers, never of an image.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from retrodict._check import InputError, choice
from retrodict.processes.observation import Moments, ratio
from retrodict.processes.process import Process

__all__ = ["PREDICTIONS", "Prediction", "Rate", "data_from", "rate_of", "require_defined", "target", "to_data"]

Rate = Callable[[], tuple[Tensor, Tensor]]
"""() -> (F, G^2), evaluated only by the kinds that need it."""


class Prediction(NamedTuple):
    """A prediction: what the network should say of (u_0, w), and the data that its answer stands for.

    rates: it needs drift and diffusion, and so a state of a process and G^2 > 0; erased: it is defined where h = 0;
    noisy: there only if s > 0; turns: only where h < 1, or h = 1 without noise; anchored: it is about the condition
    image.
    """

    target: Callable[[Tensor, Tensor, Moments, Rate, Tensor], Tensor]
    data: Callable[[Tensor, Tensor, Moments, Rate, Tensor], Tensor]
    rates: bool = False
    erased: bool = False
    noisy: bool = False
    turns: bool = False
    anchored: bool = False


def _noise(u0: Tensor, w: Tensor, m: Moments) -> Tensor:
    """eps, zero where the coefficient carries no noise and a network could not see it (rule Z1)."""
    return ratio(w - m.h * u0, m.s2.sqrt())


def _sine(m: Moments) -> Tensor:
    return (1 - m.h**2).sqrt()


PREDICTIONS: dict[str, Prediction] = {
    "data": Prediction(lambda u0, w, m, rate, c: u0, lambda out, w, m, rate, c: out, erased=True),
    "eps": Prediction(
        lambda u0, w, m, rate, c: _noise(u0, w, m),
        lambda out, w, m, rate, c: (w - m.s2.sqrt() * out) / m.h,
    ),
    "kappa": Prediction(lambda u0, w, m, rate, c: w - m.h * u0, lambda out, w, m, rate, c: (w - out) / m.h),
    "score": Prediction(
        lambda u0, w, m, rate, c: -(w - m.h * u0) / m.s2,
        lambda out, w, m, rate, c: (w + m.s2 * out) / m.h,
    ),
    "whitened": Prediction(
        lambda u0, w, m, rate, c: -ratio(rate()[1], m.s2) * (w - m.h * u0),
        lambda out, w, m, rate, c: (w + ratio(m.s2, rate()[1]) * out) / m.h,
        rates=True,
    ),
    "velocity": Prediction(
        lambda u0, w, m, rate, c: rate()[0] * w + ratio(rate()[1], 2 * m.s2) * (w - m.h * u0),
        lambda out, w, m, rate, c: (w + 2 * ratio(m.s2, rate()[1]) * (rate()[0] * w - out)) / m.h,
        rates=True,
    ),
    "q": Prediction(
        lambda u0, w, m, rate, c: (m.h * _noise(u0, w, m) - m.s2.sqrt() * u0) / (m.h**2 + m.s2).sqrt(),
        lambda out, w, m, rate, c: (m.h * w - m.s2.sqrt() * (m.h**2 + m.s2).sqrt() * out) / (m.h**2 + m.s2),
        erased=True,
    ),
    "residual": Prediction(
        lambda u0, w, m, rate, c: c - u0, lambda out, w, m, rate, c: c - out, erased=True, anchored=True
    ),
    "shift": Prediction(
        lambda u0, w, m, rate, c: w + m.k * c - u0,
        lambda out, w, m, rate, c: w + m.k * c - out,
        erased=True,
        anchored=True,
    ),
    "resnoise": Prediction(
        lambda u0, w, m, rate, c: _noise(u0, w, m) + m.s2.sqrt() / 2 * (c - u0),
        lambda out, w, m, rate, c: (w - m.s2.sqrt() * out + m.s2 / 2 * c) / (m.h + m.s2 / 2),
        erased=True,
        noisy=True,
        anchored=True,
    ),
    "angle": Prediction(
        lambda u0, w, m, rate, c: _sine(m) * (c - u0) + m.h * ratio(w - m.h * u0, _sine(m)),
        lambda out, w, m, rate, c: m.h * w + (1 - m.h**2) * c - _sine(m) * out,
        erased=True,
        turns=True,
        anchored=True,
    ),
}
"""Predictions in coefficients by name; "wiener" (preconditioned) is handled by the denoiser itself."""


def rate_of(process: Process, t: Tensor) -> Rate:
    """(F, G^2) at t `(B,)`, computed only if a prediction asks for it."""

    def rate() -> tuple[Tensor, Tensor]:
        r = process.rates(t)
        return r.F, r.G2

    return rate


def target(kind: str, process: Process, u0: Tensor, w: Tensor, t: Tensor, anchor: Tensor | None = None) -> Tensor:
    """What a network of this kind should say: u0, w, anchor `(B, C, *K)`, t `(B,)` -> `(B, C, *K)`.

    `anchor`: coefficients of the condition image, for the kinds that are about it.
    """
    prediction = PREDICTIONS[choice("predicts", kind, PREDICTIONS)]
    return prediction.target(u0, w, process.moments(t), rate_of(process, t), _anchor(kind, anchor, u0))


def _anchor(kind: str, anchor: Tensor | None, like: Tensor) -> Tensor:
    if anchor is None and PREDICTIONS[kind].anchored:
        raise InputError(f"predicts {kind!r}", "no condition image", "one: this prediction is about it")
    return torch.zeros_like(like) if anchor is None else anchor


def data_from(kind: str, out: Tensor, w: Tensor, m: Moments, rate: Rate | None, anchor: Tensor | None = None) -> Tensor:
    """Data prediction from a network output in coefficients, for an observation w with moments m."""

    def missing() -> tuple[Tensor, Tensor]:
        raise InputError(f"predicts {kind!r}", "an observation without a time", "a state of the process")

    return PREDICTIONS[kind].data(out, w, m, rate or missing, _anchor(kind, anchor, w))


def to_data(kind: str, process: Process, out: Tensor, w: Tensor, t: Tensor, anchor: Tensor | None = None) -> Tensor:
    """Data prediction from a network output in coefficients, shapes as in `target`; see `require_defined`."""
    choice("predicts", kind, PREDICTIONS)
    require_defined(kind, process, t)
    return data_from(kind, out, w, process.moments(t), rate_of(process, t), anchor)


def require_defined(kind: str, process: Process, t: Tensor) -> None:
    """Raise where a prediction of this kind leaves the data undefined at one of the times t, instead of returning
    infinities: h = 0, or noise without diffusion (s > 0, G^2 = 0) for kinds that need the rates.
    """
    times = torch.tensor(sorted(set(t.tolist())), dtype=torch.float64, device="cpu")
    if not PREDICTIONS[kind].erased and process.erases(times):
        raise InputError(
            f"predicts {kind!r}", "a coefficient with gain h = 0", "h > 0", "Predict 'data', 'q' or 'wiener'."
        )
    if PREDICTIONS[kind].noisy and any(process.pinned(time[None]) for time in times):
        raise InputError(
            f"predicts {kind!r}", "the pinned end of a bridge, h = s = 0", "noise", "Predict 'data' or 'residual'."
        )
    if PREDICTIONS[kind].turns and process.grows(times):
        raise InputError(
            f"predicts {kind!r}", "a gain h of 1 with noise, or above 1", "h < 1", "Predict 'data' or 'residual'."
        )
    if PREDICTIONS[kind].rates and process.stops(times):
        raise InputError(
            f"predicts {kind!r}",
            "a coefficient with G^2 = 0",
            "G^2 > 0 wherever there is noise",
            "Predict 'data' or 'wiener'.",
        )
