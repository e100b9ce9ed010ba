"""What is known of an instrument before its image is looked at: scatter between patients, and the kernel's name."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from retrodict.data import acquisition
from retrodict.metrics.blind_law import NAMES, on_line

__all__ = ["kernel_family", "prior_of"]


PRIOR: dict[str, tuple[float, float]] = {
    "noise": (2.5, 3.0),
    "ramp": (0.0, 1.5),
    "window": (0.0, 1.5),
    "steep": (0.0, 1.5),
    "floor": (-0.5, 1.5),
    "half": (0.15, 0.95),
    "power": (0.0, 1.0),
    "lift": (-3.0, 0.7),
    "edge1": (0.12, 0.41),
    "edge2": (-1.62, 1.03),
    "sharpness": (-0.59, 0.25),
    "uneven": (math.log(0.15), 0.4),
    "softness": (-0.39, 0.38),
    "texture1": (0.6, 1.1),
    "texture2": (0.6, 0.8),
}
"""Mean and standard deviation of every parameter of `PatchLaw`, on the real line."""

EDGE_CORRELATION = -0.45
"""Of `edge1` and `edge2` between patients.

Means, deviations and this are those of 23 training patients whose instrument was simulated, and known to the fit:
`python benchmarks/estimate_instrument.py --patients --step 3`.
"""

KERNELS: tuple[tuple[str, str], ...] = (
    ("sharp", r"BONE|LUNG|EDGE|SHARP|DETAIL|^B[5-9]\d|^[HUBQ][A-Z]?[5-9]\d|^FC(3\d|5\d|8\d)|^[DEL]$|^Y[A-D]$"),
    ("standard", r"STANDARD|STND|^SOFT|^B[1-4]\d|^[HUBQ][A-Z]?[1-4]\d|^FC(0\d|1\d)|^[ABC]$"),
)
"""Names of reconstruction kernels of the large vendors: General Electric, Siemens, Canon, Philips."""


def kernel_family(source: Sequence[Path]) -> tuple[str, str] | None:
    """Name and family ("standard" with the soft ones, or "sharp") of the kernel in the header; None where unknown."""
    name = acquisition(source).get("kernel") if source else None
    if not isinstance(name, str):
        return None
    first = name.strip().upper().split("\\")[0].split(" ")[0]
    family = next((f for f, pattern in KERNELS if re.search(pattern, first)), None)
    return None if family is None else (name.strip(), family)


def prior_of(kernel: tuple[str, str] | None) -> tuple[Tensor, Tensor]:
    """Center `(15,)` and precision `(15, 15)` of the parameters.

    A kernel of the standard family is one of those that images of a training have: little blur beside them.  A sharp
    one may lift the frequencies of edges.
    """
    prior = dict(PRIOR)
    if kernel is not None:
        prior["half"] = (on_line("half", 1.2), 0.95)
    if kernel is not None and kernel[1] == "sharp":
        prior["lift"] = (math.log(0.3), 0.7)
    center = torch.tensor([prior[n][0] for n in NAMES], dtype=torch.float64, device="cpu")
    scale = torch.tensor([prior[n][1] for n in NAMES], dtype=torch.float64, device="cpu")
    law = torch.eye(len(NAMES), dtype=torch.float64, device="cpu")
    a, b = NAMES.index("edge1"), NAMES.index("edge2")
    law[a, b] = law[b, a] = EDGE_CORRELATION
    return center, torch.linalg.inv(law * scale[:, None] * scale)
