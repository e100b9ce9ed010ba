"""A network that is told two times: where a step of the flow begins and where it ends."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.denoisers.denoiser import ErrorLaw, Estimate
from retrodict.denoisers.network import LEVELS, NetDenoiser
from retrodict.processes.observation import Cond, wiener

__all__ = ["FlowMap", "features_of", "widened"]


LEAST = -8.0
"""Of a logarithm that the network is told: nothing is left to see at an error of 3e-4 of the data, and 0 has none."""


def features_of(level: str) -> int:
    """Features that the network of a flow map is told: those of the beginning, and the differences to the end."""
    return 2 * LEVELS[level].features


@dataclass(frozen=True, eq=False)
class FlowMap(NetDenoiser):
    """M(w_t, t, s): the image that a step of the probability flow from t to s is taken with, however long it is.

    w_s = keep(t, s) w_t + data(t, s) B M with the weights of `flow_weights`, which are exact for Gaussian data.  As s
    goes to t, M is the denoised image D; the mean of a consistency model is M(w, t, 0), and an average velocity is a
    linear function of M (Kim et al. 2024; Geng et al. 2025; Boffi et al. 2024).  The network is told the level features
    of t and by how much those of s differ: nothing where s = t, so that there it is a denoiser like any other.

    `goals`: (t, s) of the steps of a plan.  As a denoiser it answers M(x_t, t, s) at a time that begins one of them and
    D at every other.
    """

    goals: tuple[tuple[float, float], ...] = ()

    def toward(self, times: Sequence[float] | Tensor) -> FlowMap:
        """The same network for a plan between falling `times`: at each it answers for the step to the next."""
        found = torch.as_tensor(times, dtype=torch.float64, device="cpu").tolist()
        if any(s >= t for t, s in itertools.pairwise(found)):
            raise InputError("times", found, "times that fall")
        return replace(self, goals=tuple(itertools.pairwise(found)))

    def estimate(self, xt: Tensor, t: Tensor, cond: Cond = Cond()) -> Estimate:
        """M toward the goal of each time, and no law of its error: it is the mean of no posterior."""
        goals = dict(self.goals)
        s = torch.tensor([goals.get(float(v), float(v)) for v in t], dtype=torch.float64, device="cpu")
        return Estimate(self.jump(xt, t, s, cond), None)

    def jump(self, xt: Tensor, t: Tensor, s: Tensor, cond: Cond = Cond()) -> Tensor:
        """M `(B, C, *N)` of states xt `(B, C, *N)` from t to s, `(B,)` each."""
        linear = self._linear(xt, t, cond)
        v = wiener(self.process.moments(s), self._power)[1]
        begin, end = (NetDenoiser._told(self, x).clamp_min(LEAST) for x in (linear.v, v))
        return self.answer(self._terms(linear, torch.cat([NetDenoiser._told(self, linear.v), end - begin], -1)))

    @property
    def features(self) -> int:
        """Those of the beginning, and the differences to the end."""
        return features_of(self.level)

    def _told(self, v: Tensor) -> Tensor:
        """Of a step that stays where it is."""
        found = super()._told(v)
        return torch.cat([found, torch.zeros_like(found)], -1)

    @property
    def error_law(self) -> ErrorLaw:  # type: ignore[override]
        """None is known."""
        return "none"


def widened(weights: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a denoiser's network for one of twice as many level features, which it does not look at yet.

    wanted: the state of the wider network.  The first layer of an `Embedding` takes sines and then cosines of the
    features; zeros stand where the new ones enter.
    """
    out = {}
    for name, like in wanted.items():
        own = weights[name]
        if own.shape != like.shape:
            parts = own.reshape(len(own), 2, -1)
            wide = like.new_zeros(len(own), 2, like.shape[1] // 2)
            wide[..., : parts.shape[-1]] = parts.to(like)
            own = wide.flatten(1)
        out[name] = own.detach().clone()
    return out
