"""Networks that were trained elsewhere, as denoisers; and a denoiser of one scalar process for another."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.bases.spectrum import Spectrum
from retrodict.denoisers.denoiser import Denoiser, Estimate, FunctionDenoiser, check_state
from retrodict.denoisers.predictions import data_from
from retrodict.denoisers.wrappers import Wrapper
from retrodict.processes.convert import convert_state, log_snr, require_scalar
from retrodict.processes.foreign import Foreign
from retrodict.processes.observation import Cond, Moments, lift
from retrodict.processes.process import Process

__all__ = ["Converted", "foreign_denoiser"]


def foreign_denoiser(
    network: Callable[..., Any], schedule: Foreign, *, spectrum: Spectrum | None = None, whole_steps: bool = False
) -> FunctionDenoiser:
    """A network `f(x, timestep)` of a foreign schedule as a denoiser of `schedule.process`.

    x `(B, C, *N)` is the state as that network saw it in training, timestep `(B,)` of the dtype of x what it was told
    then.  It may return a tensor, a tuple or an object with `sample`; a learned variance (twice the channels) is left
    out.  With x_t = h x_0 + s e and the answer F::

        eps: D = (x - s F)/h     data: D = F     q: D = h x - s F  (v-prediction, h^2 + s^2 = 1)
        flow: D = x - s F  (F = e - x_0)
        edm: D = c_skip x + c_out F(c_in x), sd^2 = sigma_data^2, c_skip = sd^2/(s^2 + sd^2),
             c_out = s sd/sqrt(s^2 + sd^2), c_in = 1/sqrt(s^2 + sd^2)  (Karras et al. 2022, table 1)

    Between the steps of a table the timestep is a fraction, which sinusoidal embeddings take; with `whole_steps` the
    network is asked at the nearest whole one, with the state scaled to the gain that it knows there.
    `schedule.grid(n)` are the times of the whole steps.
    """
    if whole_steps and schedule.kind != "discrete":
        raise InputError("whole_steps", f"a schedule of kind {schedule.kind!r}", "one of discrete steps")
    return FunctionDenoiser(_Adapter(network, schedule, whole_steps), schedule.process, spectrum)


@dataclass(frozen=True)
class _Adapter:
    network: Callable[..., Any]
    schedule: Foreign
    whole: bool

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        schedule, process = self.schedule, self.schedule.process
        if schedule.kind == "edm":
            return self._edm(x, t)
        if self.whole:
            near = schedule.times(schedule.timesteps(t).round())
            scale = process.moments(near).h.flatten() / process.moments(t).h.flatten()
            # where nothing of the image is left there is one step only, the last, and the state is its own
            x, t = x * lift(torch.where(near == 1, 1.0, scale), x.ndim - 2).to(x), near
        out = _tensor(self.network(x, schedule.timesteps(t).to(x)), x)
        m = Moments(*(lift(v.flatten(), x.ndim - 2).to(x) for v in process.moments(t)))
        return x - m.s2.sqrt() * out if schedule.kind == "flow" else data_from(schedule.prediction, out, x, m, None)

    def _edm(self, x: Tensor, t: Tensor) -> Tensor:
        data2 = float(self.schedule.config.get("sigma_data", 0.5)) ** 2
        s2 = lift(self.schedule.process.moments(t).s2.flatten(), x.ndim - 2)
        total = s2 + data2
        out = _tensor(self.network(x * total.rsqrt().to(x), self.schedule.timesteps(t).to(x)), x)
        sign = -1.0 if self.schedule.prediction == "edm_negative" else 1.0
        return (data2 / total).to(x) * x + sign * (s2 * data2 / total).sqrt().to(x) * out


def _tensor(out: Any, x: Tensor) -> Tensor:
    """The answer of a network, without the learned variance behind it."""
    found = getattr(out, "sample", out)
    found = found[0] if isinstance(found, tuple) else found
    if not isinstance(found, Tensor) or found.shape[:1] != x.shape[:1] or found.shape[2:] != x.shape[2:]:
        said = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise InputError("network", f"an answer {said}", f"an image like its input {tuple(x.shape)}")
    if found.shape[1] not in (x.shape[1], 2 * x.shape[1]):
        raise InputError("network", f"{found.shape[1]} channels", f"{x.shape[1]}, or twice as many with a variance")
    return found[:, : x.shape[1]]


@dataclass(frozen=True)
class Converted(Wrapper):
    """A denoiser of one scalar process as a denoiser of another, `target`, by equal log-SNR.

    D(x, t) = D_inner(x h'/h, t') with log(h'/s') at t' = log(h/s) at t: exact, for whatever the inner one is, because
    E[x_0 | x_t] of a scalar process depends on x_t/h and s/h alone.  So a network of any convention follows every
    rule and process of this package.  Refused: processes that differ between coefficients or are pulled to an image,
    and targets that begin with more noise than the inner process reaches.
    """

    target: Process

    def __post_init__(self) -> None:
        """Refuse what cannot be converted."""
        one = self.inner.process
        for process in (one, self.target):
            require_scalar(process)
        if one.basis != self.target.basis:
            raise InputError("Converted target", "a process on another basis", "one on that of the inner denoiser")
        end = torch.ones(1, dtype=torch.float64, device="cpu")
        reached, wanted = (float(log_snr(p.to("cpu"), end)) for p in (one, self.target))
        if wanted < reached - 1e-12:
            raise InputError(
                "Converted target",
                f"one that begins at log-SNR {wanted:.4g}",
                f"one that begins at {reached:.4g} or above: the inner denoiser knows no more noise",
                f"Begin later: an 'edm' or 've' with sigma_max of at most {math.exp(-reached):.5g}.",
            )

    @property
    def process(self) -> Process:  # type: ignore[override]
        """The target, with the measurement where it stands for the inner denoiser."""
        return replace(self.target, pairing=self.inner.process.pairing)

    def estimate(self, xt: Tensor, t: Tensor, cond: Cond = Cond()) -> Estimate:
        """The inner denoiser at the state and time of equal clock."""
        check_state(self.process, xt, cond)
        return self.inner.estimate(*convert_state(xt, t, self.target, self.inner.process), cond)

    def on(self, size: Sequence[int]) -> Self:
        """Both on another grid."""
        return replace(self, inner=self.inner.on(size), target=self.target.on(tuple(size)))

    def to(self, device: str | torch.device) -> Self:
        """Both on another device."""
        return replace(self, inner=self.inner.to(device), target=self.target.to(device))

    def gaussian(self) -> Denoiser | None:
        """The inner twin, converted."""
        twin = self.inner.gaussian()
        return None if twin is None else replace(self, inner=twin)
