"""Networks as the models of the levels of a cascade, preconditioned by the Wiener filter of white bands.

With y = h y_0 + s z, bands of unit variance and h^2 + s^2 = 1: y_0 = h y + s N, N of unit variance; the law of the
error is s^2 exp(r) per coefficient with r the log-ratio that the network puts out too, times a factor of the level that
is measured on held-out data over log s.

Measured there too is a gain g, and N + g y is what is used: of an exact denoiser the error is uncorrelated with what it
was shown, E[(y_0 - D(y)) y] = 0, which is all that the variance of the states of a run depends on; g makes it so on
average over a band.
"""

from __future__ import annotations

import copy
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from retrodict._check import InputError, choice
from retrodict.bases import Wavelet
from retrodict.denoisers.cascade import LevelLaw, View
from retrodict.nets.cascade import CascadeNet

__all__ = ["Factors", "LevelTerms", "NetModel", "RegressionModel", "unseen"]

LEAST, LARGEST = -14.0, 5.0
"""Of the log-ratio of a variance."""


@dataclass(frozen=True)
class Factors:
    """Factors on the error variance of every scale, as logarithms over log s: rising nodes `log_s`, a row a scale.

    gains: as many rows of what the answer N has too little of y; none where they were not measured.
    """

    log_s: tuple[float, ...]
    rows: tuple[tuple[float, ...], ...]
    gains: tuple[tuple[float, ...], ...] = ()

    def at(self, scale: int, log_s: Tensor) -> Tensor:
        """Log factor `(B,)`, linear between the nodes and constant beyond them."""
        return self._between(self.rows[scale], log_s)

    def gain(self, scale: int, log_s: Tensor) -> Tensor:
        """Gain `(B,)`, like `at`."""
        return self._between(self.gains[scale], log_s) if self.gains else torch.zeros_like(log_s)

    def _between(self, row: tuple[float, ...], log_s: Tensor) -> Tensor:
        x = torch.tensor(self.log_s, dtype=torch.float64, device=log_s.device)
        y = torch.tensor(row, dtype=torch.float64, device=log_s.device)
        if len(x) == 1:
            return y.expand(len(log_s))
        inner = log_s.double().clamp(x[0], x[-1])
        left = (torch.searchsorted(x, inner.contiguous(), right=True) - 1).clamp(0, len(x) - 2)
        part = (inner - x[left]) / (x[left + 1] - x[left])
        return y[left] * (1 - part) + y[left + 1] * part

    def to_json(self) -> dict[str, Any]:
        """Plain record."""
        gains = {"gains": [list(row) for row in self.gains]} if self.gains else {}
        return {"log_s": list(self.log_s), "rows": [list(row) for row in self.rows], **gains}

    @classmethod
    def from_json(cls, record: Any, scales: int, where: str) -> Factors:
        """From its record, with a row for each of `scales`."""
        try:
            rows, gains = (tuple(tuple(float(x) for x in row) for row in record.get(k, ())) for k in ("rows", "gains"))
            found = cls(tuple(float(x) for x in record["log_s"]), rows, gains)
            good = all(a < b for a, b in zip(found.log_s, found.log_s[1:], strict=False)) and len(found.log_s) > 0
            good = good and len(rows) == scales and len(gains) in (0, scales)
            good = good and all(len(row) == len(found.log_s) for row in rows + gains)
            good = good and all(abs(x) < 50 for row in (found.log_s, *rows, *gains) for x in row)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise InputError(where, repr(record)[:80], "log_s and rows") from error
        if not good:
            raise InputError(where, repr(record)[:80], f"rising log_s, and {scales} rows as long, of finite numbers")
        return found


class LevelTerms(NamedTuple):
    """Of one pass: the answer N and the log-ratio of its error variance, each `(B, D, C, *M)`."""

    out: Tensor
    log_ratio: Tensor


@dataclass(frozen=True, eq=False)
class NetModel:
    """`CascadeNet` as the model of all levels; `factors` None: mean and law of the error are as they were learned.

    precision: "bf16" runs the networks under bfloat16 autocast; states and the law around them stay in the dtype of y.
    """

    net: CascadeNet
    factors: Factors | None = None
    multiple: int = 1
    precision: str = "float32"

    def __post_init__(self) -> None:
        """Refuse a precision that there is not."""
        choice("precision", self.precision, ("float32", "bf16"))

    def terms(self, view: View) -> LevelTerms:
        """One pass of the network of the scale of a view."""
        y = view.noisy
        inputs = y.flatten(1, 2) if view.coarse is None else torch.cat([y.flatten(1, 2), view.coarse], 1)
        dtype = next((p.dtype for p in self.net.parameters()), y.dtype)
        level = 0.5 * view.s2.clamp_min(1e-20).log().reshape(-1, 1)
        with torch.autocast(inputs.device.type, torch.bfloat16) if self.precision == "bf16" else nullcontext():
            out = self.net(inputs.to(dtype), level.to(dtype), view.scale).to(y)
        wanted = (len(y), 2 * y.shape[1] * y.shape[2], *y.shape[3:])
        if tuple(out.shape) != wanted:
            raise InputError("cascade network", tuple(out.shape), f"{wanted}")
        mean, ratio = (part.reshape(y.shape) for part in out.chunk(2, 1))
        if self.factors is not None and self.factors.gains:
            mean = mean + self.factors.gain(view.scale, 0.5 * view.s2.log()).reshape(-1, *[1] * (y.ndim - 1)).to(y) * y
        return LevelTerms(mean, ratio.clamp(LEAST, LARGEST))

    def answer(self, view: View) -> LevelLaw:
        """The law of the clean bands."""
        terms, y = self.terms(view), view.noisy
        one = [1] * (y.ndim - 1)
        h, s = (x.reshape(-1, *one).to(y) for x in (view.h, view.s2.sqrt()))
        log_ratio = terms.log_ratio
        if self.factors is not None:
            log_ratio = log_ratio + self.factors.at(view.scale, 0.5 * view.s2.log()).reshape(-1, *one).to(y)
        root = s * (0.5 * log_ratio).exp()
        variance = (root**2).flatten(3).mean(3)
        return LevelLaw(h * y + s * terms.out, lambda z: root * z, variance)

    def on(self, basis: Wavelet) -> NetModel:
        """The same networks on another grid."""
        if basis.depth != self.net.levels:
            raise InputError("cascade levels", basis.depth, f"{self.net.levels}, those of the networks")
        return self

    def to(self, device: str | torch.device) -> NetModel:
        """A copy on another device."""
        return replace(self, net=copy.deepcopy(self.net).to(device))


# ---- details by regression -------------------------------------------------------------------------------------------


def unseen(view: View) -> View:
    """The view of details of which nothing is left but the coarse image: h = 0, and no noise to look at."""
    gone, all_noise = torch.zeros_like(view.h), torch.ones_like(view.s2)
    return view._replace(noisy=torch.zeros_like(view.noisy), h=gone, s2=all_noise)


@dataclass(frozen=True, eq=False)
class RegressionModel(NetModel):
    """Coarse bands drawn as by `NetModel`, details their mean given the coarse image and nothing else: E[d | c].

    The detail predictor of Hui et al. 2022, in the bands of an orthonormal basis: one answer to a coarse image, without
    a spread.  `silent`: no details at all, the coarse image alone.
    """

    silent: bool = False

    def answer(self, view: View) -> LevelLaw:
        """The law of the clean bands; that of details is a point."""
        if view.scale == self.net.levels:
            return super().answer(view)
        y = view.noisy
        mean = torch.zeros_like(y) if self.silent else self.terms(unseen(view)).out
        return LevelLaw(mean, torch.zeros_like, torch.zeros(y.shape[:3], dtype=y.dtype, device=y.device))
