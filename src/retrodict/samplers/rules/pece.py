"""Predict, evaluate, correct: one call a step corrects the step before it and starts the next."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from retrodict._check import InputError, choice
from retrodict.processes.observation import log_snr_step
from retrodict.processes.process import Process
from retrodict.samplers.plan import Plan, Row
from retrodict.samplers.rules.interpolate import node_of, polynomial_weights

__all__ = ["pece2", "unipc"]

FORMS = ("bh1", "bh2")

Weights = Callable[[int], tuple[Tensor, ...]]
"""Step -> weights of the images, newest first; for a corrector that of the new image leads."""


def unipc(
    process: Process,
    times: Tensor,
    spectrum: Tensor | None = None,
    *,
    order: int = 2,
    form: str = "bh2",
    correct_last: bool = False,
    lower_last: bool = False,
) -> Plan:
    """UniPC in data prediction (Zhao et al. 2023), orders 1 to 3, deterministic, NFE = N, accurate to one order more.

    The denoised image at the predicted state corrects that state and is the history of the next step.  Predictor and
    corrector integrate the polynomial through the last `order` images (the corrector through the new one, too) exactly,
    e^(y - H) in l = log(h/s), but for the two systems of one unknown that the paper solves by 1/2: there h' B/2, with
    B = H ("bh1") or 1 - e^-H ("bh2"), stands for the integral h' p2.  correct_last: one more call corrects the end,
    unless it is noise-free.  lower_last: no higher order than there are steps left, as released.
    """
    if order not in (1, 2, 3):
        raise InputError("unipc order", order, "1, 2 or 3")
    choice("unipc form", form, FORMS)
    steps = len(times) - 1

    def order_of(i: int) -> int:
        return min(order, i + 1, steps - i if lower_last else order)

    def table(i: int) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
        """h', H, p1 or H for B, and the places of past images in the step."""
        H = _step(process, times, i)
        past, nodes = torch.zeros_like(H), []
        for j in range(1, order_of(i)):
            past = past + _step(process, times, i - j)
            nodes.append(-node_of(past, H))
        finite = torch.where(torch.isfinite(H), H, 0.0)
        B = finite if form == "bh1" else -torch.expm1(-finite)
        return process.moments(times[i + 1 : i + 2]).h, H, B, nodes

    def predictor(i: int) -> tuple[Tensor, ...]:
        h, H, B, nodes = table(i)
        if len(nodes) != 1:
            return tuple(h * w for w in polynomial_weights(H, nodes))
        base = polynomial_weights(H, [])[0]
        half = torch.where(nodes[0] != 0, -0.5 * B / torch.where(nodes[0] != 0, nodes[0], 1.0), 0.0)
        return h * (base + half), -h * half

    def corrector(i: int) -> tuple[Tensor, ...]:
        h, H, B, nodes = table(i)
        if not nodes:
            return h * B / 2, h * (polynomial_weights(H, [])[0] - B / 2)
        now, new, *past = polynomial_weights(H, [torch.ones_like(H), *nodes])
        return h * new, h * now, *(h * w for w in past)

    return _pece(process, times, predictor, corrector, "unipc", order + 1, correct_last)


def pece2(
    process: Process,
    times: Tensor,
    spectrum: Tensor | None = None,
    *,
    correct_first: bool = True,
    correct_last: bool = False,
) -> Plan:
    """Adams-Bashforth predictor and trapezoid corrector in the variable h/s, one call a step, order 2, NFE = N.

    With the weights keep and b of DDIM: predict keep w + b D + (b/2) (D - D_old) dl/dl_old, evaluate, correct to
    keep w + (b/2) (D + D_new).  Without `correct_first` the first step stays that of DDIM; `correct_last`
    costs one call more.  What EVODiff (Li, Chen, Zeng 2025) becomes with its scalars at their Taylor values.
    """

    def predictor(i: int) -> tuple[Tensor, ...]:
        data = process.conditional(times[i : i + 1], times[i + 1 : i + 2], 0.0)[1]
        if i == 0:
            return (data,)
        H, old = _step(process, times, i), _step(process, times, i - 1)
        half = 0.5 * data * node_of(H, old)
        return data + half, -half

    def corrector(i: int) -> tuple[Tensor, ...]:
        data = process.conditional(times[i : i + 1], times[i + 1 : i + 2], 0.0)[1]
        return (0 * data, data) if i == 0 and not correct_first else (data / 2, data / 2)

    return _pece(process, times, predictor, corrector, "pece2", 2, correct_last)


def _step(process: Process, times: Tensor, i: int) -> Tensor:
    return log_snr_step(process.moments(times[i : i + 1]), process.moments(times[i + 1 : i + 2]))


def _pece(
    process: Process,
    times: Tensor,
    predictor: Weights,
    corrector: Weights,
    name: str,
    depth: int,
    correct_last: bool,
) -> Plan:
    """Rows predict, (correct, predict) ..., and a last correction where it is asked for and the end is noisy.

    The linear part is that of DDIM, with its limits.  A coefficient whose log-SNR steps by nothing or by infinity keeps
    its prediction.
    """
    steps, pinned = len(times) - 1, process.pinned(times[:1])
    length = 2 * steps - 1 + int(correct_last and not process.noise_free(times[-1:]))

    def predict(i: int) -> Row:
        keep, data, std = process.conditional(times[i : i + 1], times[i + 1 : i + 2], 0.0)
        H = _step(process, times, i)
        first, *past = predictor(i)
        moves = torch.isfinite(H) & (H != 0)
        weights = (torch.where(moves, first, data), *(torch.where(moves, w, 0.0) for w in past))
        noise = (std,) if pinned and i == 0 else ()  # what leaves the end of a bridge has to be drawn
        return Row(float(times[i]), i == 0, (keep,), weights, noise)

    def correct(i: int) -> Row:
        keep = process.conditional(times[i : i + 1], times[i + 1 : i + 2], 0.0)[0]
        H = _step(process, times, i)
        moves = torch.isfinite(H) & (H != 0)
        keeps = torch.where(moves, 0.0, torch.ones_like(H)), torch.where(moves, keep, 0.0)
        return Row(float(times[i + 1]), True, keeps, tuple(torch.where(moves, w, 0.0) for w in corrector(i)))

    def row(k: int) -> Row:
        """Rows 0, 2, 4, ... predict the steps 0, 1, 2, ...; row 2 i + 1 corrects step i."""
        return correct(k // 2) if k % 2 else predict(k // 2)

    nfe = (length + 1) // 2 if length % 2 else length // 2 + 1
    return Plan(process, times, row, length, nfe, name, depth=max(2, depth), stochastic=pinned)
