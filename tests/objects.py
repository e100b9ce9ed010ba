"""Objects that the contracts are parametrized over: adding an entry to a dictionary adds its tests."""

from __future__ import annotations

import torch

from retrodict.bases import Cosine, Fourier, Orthonormal, Pixel, Wavelet
from retrodict.processes import PROCESSES
from retrodict.processes.fourier import fourier
from retrodict.processes.recipes import external
from retrodict.processes.wavelet import WAVELET_PROCESSES
from retrodict.samplers import RULES

torch.set_num_threads(1)

BASIS_CASES = {
    "pixel": Pixel((5, 6)),
    "fourier-1d-even": Fourier((8,), (0.5,)),
    "fourier-1d-odd": Fourier((7,)),
    "fourier-2d": Fourier((6, 5), (0.7, 1.1)),
    "fourier-2d-even": Fourier((4, 6)),
    "fourier-3d": Fourier((3, 4, 5)),
    "cosine": Cosine((5, 6), (0.5, 1.0)),
    "wavelet-haar": Wavelet((8, 4), levels=2, family="haar"),
    "wavelet-db2": Wavelet((8, 16), levels=2),
    "wavelet-3d": Wavelet((4, 4, 8), levels=1, family="db3"),
    "orthonormal": Orthonormal.of(
        torch.linalg.qr(torch.randn(20, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))[0], (4, 5)
    ),
}


def curves() -> dict:
    """A sharp kernel (MTF above 1) and a colored NPS on 1 mm pixels."""
    f = torch.linspace(0, 0.5, 26, device="cpu").tolist()
    mtf = {"frequency": f, "value": [1 + 1.2 * x - 4 * x**2 for x in f], "unit": "1", "frequency_unit": "cycles/mm"}
    nps = {"frequency": f, "value": [0.2 + 2 * x for x in f], "unit": "HU^2 mm^2", "frequency_unit": "cycles/mm"}
    return {"mtf": mtf, "nps": nps}


def make_process(name: str, size=(8, 8)):
    """Entry `name` of PROCESSES on a small grid."""
    basis = Wavelet(size, levels=2) if name in WAVELET_PROCESSES else Fourier(size)
    return PROCESSES[name](basis, **(curves() if name == "measured" else {}))


def restoring_process(name: str, size=(8, 8)):
    """The same, seeing or starting at a measurement of the paper's instrument; None where it is not diagonal there."""
    if name in WAVELET_PROCESSES:
        return None
    process = make_process(name, size)
    return process if process.pairing.kind == "terminal" else external(process, fourier(Fourier(size)))


def fits(rule: str, process) -> bool:
    """Whether a rule takes a process: one that integrates an SDE is refused where the noise has a memory of its own."""
    return not (RULES[rule].markov and process.memory is not None)


TIMES = torch.tensor([0.15, 0.4, 0.7, 1.0], dtype=torch.float64)

STEEP = 25.0
"""A clock spread beyond which a rule that is not exact is not promised to be right at its default steps."""


def steps_needed(process, rule) -> int:
    """Steps at which a documented posterior sampler has to be one: more than the default for steep clocks."""
    more = 6 if rule.order == 2 else 8
    return rule.steps if rule.exact or process.clock_spread < STEEP else more * rule.steps
