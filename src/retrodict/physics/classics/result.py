"""What a classical reconstruction returns, and the rules by which its iterations end."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.physics.conditional import Whitened
from retrodict.physics.covariance import Covariance
from retrodict.physics.measurement import Measurement

__all__ = ["Reconstruction", "Stop", "closed", "each_item", "iterate", "least_squares", "start_of"]


@dataclass(frozen=True)
class Reconstruction:
    """An image, how well it explains the data, and why the method ended.

    `image` `(B, *domain.shape)`; `residual` |y - A x| / |y - A 0| and `misfit` chi^2 over its mean (1 for the true
    image; NaN without a law of noise), both `(B,)` float64; `iterations` and `stopped` of every item: "closed form",
    "tolerance" (the image moved by less), "discrepancy" (the misfit came down to the noise), "iterations" (all were
    used). `kind` is "point": an estimate without an uncertainty.  `parameter` is the strength of a penalty, one for
    each item, `penalty` its value without it; `history` the objective by iteration.
    """

    image: Tensor
    residual: Tensor
    misfit: Tensor
    iterations: tuple[int, ...]
    stopped: tuple[str, ...]
    parameter: tuple[float, ...] = ()
    penalty: tuple[float, ...] = ()
    history: tuple[tuple[float, ...], ...] = field(default=(), repr=False)
    kind: str = "point"

    @staticmethod
    def join(parts: Sequence[Reconstruction]) -> Reconstruction:
        """Items one after the other."""
        image, residual, misfit = (torch.cat([getattr(p, n) for p in parts]) for n in ("image", "residual", "misfit"))
        names = ("iterations", "stopped", "parameter", "penalty", "history")
        rows = {n: sum((getattr(p, n) for p in parts), ()) for n in names}
        return Reconstruction(image, residual, misfit, **rows, kind=parts[0].kind)


def closed(
    measurement: Measurement, image: Tensor, iterations: int = 0, stopped: str = "closed form"
) -> Reconstruction:
    """The record of an image, with its residual and misfit."""
    count = len(image)
    if measurement.noise is None:
        misfit = torch.full((count,), math.nan, dtype=torch.float64, device=image.device)
    else:
        misfit = measurement.misfit(image).ratio
    residual = measurement.relative_residual(image)
    return Reconstruction(image, residual, misfit, (iterations,) * count, (stopped,) * count)


def each_item(measurement: Measurement, one: Callable[[Measurement], Reconstruction]) -> Reconstruction:
    """Item by item: what one gives never depends on the others."""
    return Reconstruction.join([one(measurement.item(i)) for i in range(len(measurement))])


@dataclass(frozen=True)
class Stop:
    """When iterations end: after `iterations`, where the image moves by less than `tolerance` of itself, or where the
    misfit |W (y - A x)|^2 is at most the square of `discrepancy` times the number of data (Morozov's principle; 1 is
    the noise).
    """

    iterations: int
    tolerance: float = 0.0
    discrepancy: float | None = None

    def __post_init__(self) -> None:
        """Refuse numbers that are none."""
        if isinstance(self.iterations, bool) or not isinstance(self.iterations, int) or self.iterations < 1:
            raise InputError("iterations", self.iterations, "a positive whole number")
        if not self.tolerance >= 0 or not math.isfinite(self.tolerance):
            raise InputError("tolerance", self.tolerance, "a number of at least 0")
        if self.discrepancy is not None and not (math.isfinite(self.discrepancy) and self.discrepancy > 0):
            raise InputError("discrepancy", self.discrepancy, "a positive number; 1 is the noise")

    def limit(self, part: Measurement) -> float:
        """|W (y - A x)|^2 at which to end, -1 without a discrepancy; `InputError` where there is no law of noise."""
        if self.discrepancy is None:
            return -1.0
        return self.discrepancy**2 * part.count if part.law else -1.0

    def reached(self, part: Measurement, x: Tensor) -> bool:
        """Whether the misfit is that of the noise."""
        if self.discrepancy is None:
            return False
        operator, data = least_squares(part)
        return float((data - operator.forward(x)).abs().double().square().sum()) <= self.limit(part)

    def moved_little(self, new: Tensor, old: Tensor) -> bool:
        """Whether the image moved by less than the tolerance."""
        if self.tolerance == 0:
            return False
        change, size = (float(v.abs().double().square().sum()) for v in (new - old, new))
        return change <= self.tolerance**2 * size


def least_squares(part: Measurement) -> tuple[Whitened, Tensor]:
    """W A and W (y - b) of one item, W = Sigma^(-1/2) M, or M without a law of noise."""
    if part.noise is not None:
        return part.whitened()
    operator = Whitened(part.operator.part, Covariance.white(1.0), part.mask)
    offset = part.operator.offset
    return operator, operator.white(part.y if offset is None else part.y - offset.to(part.y))


def start_of(part: Measurement, start: Tensor | None, value: float = 0.0) -> Tensor:
    """The first image of one item: as given `(1, *domain.shape)`, or constant."""
    space, y = part.operator.domain, part.y
    if start is not None:
        return space.check(start, "start")
    double = y.dtype in (torch.float64, torch.complex128)
    real, whole = (torch.float64, torch.complex128) if double else (torch.float32, torch.complex64)
    return torch.full((1, *space.shape), value, dtype=whole if space.complex else real, device=y.device)


def iterate(
    part: Measurement, x: Tensor, update: Callable[[Tensor], Tensor], stop: Stop, view: Callable | None = None
) -> Reconstruction:
    """X <- update(x) until a rule says stop; `view` is told (iteration, image)."""
    done, why = 0, "discrepancy" if stop.reached(part, x) else "iterations"
    while done < stop.iterations and why == "iterations":
        old, x = x, update(x)
        done += 1
        if view is not None:
            view(done, x)
        if stop.reached(part, x):
            why = "discrepancy"
        elif stop.moved_little(x, old):
            why = "tolerance"
    return closed(part, x, done, why)


def told(found: Reconstruction, strength: float, penalty: float, history: Sequence[float] = ()) -> Reconstruction:
    """With the strength of the penalty, its value and the objective."""
    return replace(found, parameter=(strength,), penalty=(penalty,), history=(tuple(history),))
