"""Processes with a clock of their own in every wavelet band."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.bases import Basis, Wavelet
from retrodict.processes.process import Law, Process, assemble

__all__ = ["wavelet_bands"]


def wavelet_bands(basis: Wavelet, decay: float = 10.0, tilt: float = 2.0, **pairing: Any) -> Process:
    """A variance-preserving process whose clock runs at its own speed in every wavelet band.

    h = exp(-a_b t^2 / 2), s^2 = 1 - exp(-a_b t^2), a_b = decay * tilt^(1 - b / levels), b = 0 for the finest details:
    with tilt > 1 fine details drown first and the approximation last.  The order of the bands is that of the factored
    generation of Guth et al. 2022; one chain with a clock a band is ours.  It needs a `Wavelet` basis.
    """

    def family(bound: Basis) -> Law:
        if not isinstance(bound, Wavelet):
            raise InputError("wavelet_bands basis", type(bound).__name__, "a Wavelet basis")
        speed = decay * tilt ** (1 - bound.band().double() / bound.levels)

        def law(t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            return torch.exp(-speed * t**2 / 2), 0 * t, -torch.expm1(-speed * t**2)

        return law

    return assemble(family, basis, "wavelet_bands", {"decay": decay, "tilt": tilt}, **pairing)
