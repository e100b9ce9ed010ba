"""The law of the patches of one image, with its blur and its noise as parameters.

The power of a patch in a ring of |f| is taken as exponentially distributed around

    mu(f) = a x^(b + c_1) exp(c_2 x^2 / 4) S(f) MTF(f)^2 + g NPS(f),      x = f / (0.25 per mm)

S the power density of sharp images; a, b: contrast and sharpness of what the patch shows, g: the level of the noise
where it lies, all three unknown and summed over (a scale mixture: Portilla et al., IEEE Trans. Image Process. 12,
2003); c: how edges of this patient differ from the average, with the scatter between patients as its prior, and
freely for patches of less contrast.  Places without contrast show the noise, edges the blur.  The likelihood is
Whittle's (Ark. Mat. 2, 1953).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from retrodict.metrics.patch_power import PatchPower

__all__ = ["CONTRAST", "EDGE", "NAMES", "RANGES", "PatchLaw", "on_line"]

_settings: dict = {"dtype": torch.float64, "device": "cpu"}

NAMES = (
    "noise",  # log of the standard deviation per pixel
    "ramp",  # exponent of the NPS at low frequencies; this and the next three within RANGES
    "window",  # frequency at which the window of the NPS falls to 1/e
    "steep",  # exponent of that window
    "floor",  # white part of the NPS, in means of the rest
    "half",  # frequency at which the MTF falls to a half, within RANGES
    "power",  # its exponent, within RANGES
    "lift",  # log of the lift of a sharp kernel
    "edge1",  # c of patches of high contrast
    "edge2",
    "sharpness",  # log of the standard deviation of b among edges
    "uneven",  # log of the standard deviation of log g
    "softness",  # log of the standard deviation of b among the other patches
    "texture1",  # c of the other patches
    "texture2",
)
"""Parameters on the real line; the log weights of the contrasts follow them."""

RANGES = {
    "ramp": (0.3, 1.6, False),
    "window": (0.2, 1.3, True),
    "steep": (1.5, 4.0, False),
    "floor": (1e-3, 0.2, True),
    "half": (0.1, 2.0, True),
    "power": (1.2, 3.0, False),
}
"""Lowest and highest value, and whether between them it is the logarithm that counts: those of the law of clocks that
denoisers are trained on, with windows a little lower.  From the real line a logistic function leads into them."""

CONTRAST = torch.tensor([0.0, *(10 ** (-5 + 6.5 * k / 28) for k in range(29))], **_settings)
"""Contrasts in the power of sharp images, a factor of 1.7 from one to the next."""

EDGE = 0.2
"""Contrast `a`, in the power of sharp images, from which a patch is taken for one with edges."""

NODES = torch.tensor([-math.sqrt(3.0), 0.0, math.sqrt(3.0)], **_settings)
SHARES = torch.tensor([1 / 6, 2 / 3, 1 / 6], **_settings)
"""Nodes and weights of a normal law with variance 1, exact up to its fifth moment."""

PLANE = 48
"""Side of the grid on which a noise shape is brought to a variance of one."""

SMALL = 0.003
"""An MTF does not fall below this."""


def on_line(name: str, value: float) -> float:
    """Where on the real line a parameter of `RANGES` has a value."""
    low, high, log = RANGES[name]
    u = math.log(value / low) / math.log(high / low) if log else (value - low) / (high - low)
    return math.log(u / (1 - u))


@dataclass(frozen=True)
class PatchLaw:
    """The law for pixels of `spacing` mm: a negative log density of all parameters `free`, and its curves.

    signal: power density S (unit^2 mm^2) at frequencies `(n,)`.  center, precision: Gaussian prior of the parameters
    of `NAMES`, `(15,)` and `(15, 15)`.  mtf, nps: curves that are known already (None: estimated).
    """

    signal: Callable[[Tensor], Tensor]
    spacing: tuple[float, float]
    center: Tensor
    precision: Tensor
    mtf: Callable[[Tensor], Tensor] | None = None
    nps: Callable[[Tensor], Tensor] | None = None

    @property
    def start(self) -> Tensor:
        """Center of the prior of all parameters."""
        return torch.cat([self.center, torch.zeros(len(CONTRAST), **_settings)])

    @property
    def weight(self) -> Tensor:
        """Precision of the prior of all parameters."""
        full = 0.3 * torch.eye(len(NAMES) + len(CONTRAST), **_settings)
        full[: len(NAMES), : len(NAMES)] = self.precision
        return full

    # ---- curves --------------------------------------------------------------------------------------------------

    def shape_value(self, free: Tensor, name: str) -> Tensor:
        """A parameter of `RANGES` in its own unit."""
        low, high, log = RANGES[name]
        u = torch.sigmoid(free[NAMES.index(name)])
        return low * (high / low) ** u if log else low + (high - low) * u

    def blur(self, free: Tensor, f: Tensor) -> Tensor:
        """MTF(f) = exp(-ln 2 (f / half)^power) (1 + lift exp(-((f - 0.32) / 0.16)^2)), on a small floor."""
        if self.mtf is not None:
            return self.mtf(f)
        half, power, lift = self.shape_value(free, "half"), self.shape_value(free, "power"), free[7].exp()
        fall = torch.exp(-math.log(2.0) * (f / half) ** power)
        return (SMALL + (1 - SMALL) * fall) * (1 + lift * torch.exp(-(((f - 0.32) / 0.16) ** 2)))

    def noise(self, free: Tensor, f: Tensor) -> Tensor:
        """NPS (unit^2 mm^2): ((f / 0.3)^ramp + 0.1) exp(-(f / window)^steep) on a white floor, of a given variance."""
        if self.nps is not None:
            return self.nps(f)
        fy, fx = (torch.fft.fftfreq(PLANE, d, **_settings) for d in self.spacing)
        plane = self._shape(free, torch.hypot(fy[:, None], fx[None, :])).mean()
        floor = self.shape_value(free, "floor")
        shape = (self._shape(free, f) / plane + floor) / (1 + floor)
        return (2 * free[0]).exp() * math.prod(self.spacing) * shape

    def _shape(self, free: Tensor, f: Tensor) -> Tensor:
        ramp, window, steep = (self.shape_value(free, name) for name in ("ramp", "window", "steep"))
        f = f.clamp_min(0.02)
        return ((f / 0.3) ** ramp + 0.1) * torch.exp(-((f / window) ** steep))

    # ---- density -------------------------------------------------------------------------------------------------

    def components(self, free: Tensor, f: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log weights `(J,)`, means mu `(J, K)` at rings f `(K,)`, and contrasts `(J,)` of the mixture."""
        x, log_shares = f / 0.25, SHARES.log()
        rise = free[11].exp() * NODES
        level = (rise - (log_shares + rise).logsumexp(0)).exp()
        noise = level[:, None] * self.noise(free, f)
        blurred = self.signal(f) * self.blur(free, f) ** 2
        la = free[len(NAMES) :].log_softmax(0)
        weights, means, contrasts = [], [], []
        parts = (CONTRAST < EDGE, free[12].exp(), free[13:15]), (CONTRAST >= EDGE, free[10].exp(), free[8:10])
        for part, wide, c in parts:
            shape = blurred * torch.exp((c[0] + wide * NODES[:, None]) * x.log() + c[1] * (x * x / 4))
            means.append((CONTRAST[part][:, None, None, None] * shape[:, None] + noise).flatten(0, 2))
            weights.append((la[part][:, None, None] + log_shares[:, None] + log_shares).flatten())
            contrasts.append(CONTRAST[part].repeat_interleave(len(NODES) ** 2))
        return torch.cat(weights), torch.cat(means), torch.cat(contrasts)

    def each(self, free: Tensor, data: PatchPower) -> Tensor:
        """Log likelihood of every patch `(P,)` and component `(J,)`, constants left out: `(P, J)`."""
        weights, means, _ = self.components(free, data.frequency)
        half = data.freedom / 2
        return weights - data.power @ (half / means).T - (half * means.log()).sum(1)

    def log_likelihood(self, free: Tensor, data: PatchPower) -> Tensor:
        """Of every patch `(P,)`."""
        return self.each(free, data).logsumexp(1)

    def penalty(self, free: Tensor) -> Tensor:
        """Minus the log of the prior."""
        off = free - self.start
        return 0.5 * off @ self.weight @ off
