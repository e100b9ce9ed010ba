"""Seconds of the wavelet transform beside PyWavelets and ptwt, forward and inverse, on one image and one volume.

    python benchmarks/wavelet_speed.py                    # a table; --write puts it into docs/concepts-wavelet.md
    python benchmarks/wavelet_speed.py --device cuda      # without PyWavelets, which has no device

All in one run and one thread, repeat by repeat in turn, so that what else the machine does hits all alike; the least of
the repeats.  PyWavelets is a development dependency; ptwt is not, and left out with a sentence where it is missing
(`pip install ptwt` into an environment of its own).  ptwt has no orthonormal periodised transform: mode "periodic",
which makes (N + F - 1)/2 coefficients of N samples, is the nearest.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch

from retrodict.bases.dwt import steps_of, transform

PAGE = Path(__file__).resolve().parents[1] / "docs" / "concepts-wavelet.md"
BEGIN, END = "<!-- speed: written by benchmarks/wavelet_speed.py -->\n", "<!-- end of speed -->\n"
SHAPES = {"512 x 512": (512, 512), "64 x 64 x 64": (64, 64, 64)}
FAMILIES = ("haar", "db2", "db4")
LEVELS = 3


class Rival(NamedTuple):
    """Analysis of an image, and synthesis of what it made."""

    forward: Callable[[], Any]
    inverse: Callable[[], Any]


def ours(x: torch.Tensor, family: str) -> Rival:
    """The transform of the package, in place."""
    steps = steps_of(family, (LEVELS,) * x.ndim)
    u = transform(x, steps)
    return Rival(lambda: transform(x, steps), lambda: transform(u, steps, inverse=True))


def pywavelets(x: torch.Tensor, family: str) -> Rival:
    """PyWavelets, mode "periodization": the same coefficients."""
    import pywt

    image = x.cpu().numpy()
    parts = pywt.wavedecn(image, family, mode="periodization", level=LEVELS)
    return Rival(
        lambda: pywt.wavedecn(image, family, mode="periodization", level=LEVELS),
        lambda: pywt.waverecn(parts, family, mode="periodization"),
    )


def ptwt_(x: torch.Tensor, family: str) -> Rival:
    """Ptwt, mode "periodic"."""
    import ptwt

    analysis, synthesis = (ptwt.wavedec2, ptwt.waverec2) if x.ndim == 2 else (ptwt.wavedec3, ptwt.waverec3)
    parts = analysis(x[None], family, mode="periodic", level=LEVELS)
    return Rival(lambda: analysis(x[None], family, mode="periodic", level=LEVELS), lambda: synthesis(parts, family))


RIVALS = {"ours": ours, "PyWavelets": pywavelets, "ptwt": ptwt_}
MODULES = {"PyWavelets": "pywt", "ptwt": "ptwt"}


def seconds(calls: list[Callable[[], Any]], repeats: int, device: str) -> list[float]:
    """Least of each, measured in turn."""
    times: list[list[float]] = [[] for _ in calls]
    for repeat in range(repeats + 2):
        for call, own in zip(calls, times, strict=True):
            if device != "cpu":
                torch.cuda.synchronize()
            start = time.perf_counter()
            call()
            if device != "cpu":
                torch.cuda.synchronize()
            if repeat >= 2:  # the first two warm up
                own.append(time.perf_counter() - start)
    return [min(own) for own in times]


def table(device: str, repeats: int) -> str:
    """Milliseconds and ratios as Markdown."""
    names = [name for name in RIVALS if find_spec(MODULES.get(name, "torch")) is not None]
    if device != "cpu":
        names = [name for name in names if name != "PyWavelets"]
    others = [name for name in names if name != "ours"]
    head = ["grid", "dtype", "family", *(f"{name}, ms" for name in names), *(f"{name} / ours" for name in others)]
    rows = [head, ["---"] * len(head)]
    warnings.simplefilter("ignore")  # levels that wrap are meant
    for label, shape in SHAPES.items():
        for dtype in (torch.float32, torch.float64):
            for family in FAMILIES:
                generator = torch.Generator().manual_seed(0)
                x = torch.randn(shape, dtype=dtype, generator=generator, device="cpu").to(device)
                made = [RIVALS[name](x, family) for name in names]
                found = zip(
                    seconds([one.forward for one in made], repeats, device),
                    seconds([one.inverse for one in made], repeats, device),
                    strict=True,
                )
                both = list(found)
                cells = [f"{1e3 * a:.2f}, {1e3 * b:.2f}" for a, b in both]
                ratios = [f"{a / both[0][0]:.1f}, {b / both[0][1]:.1f}" for a, b in both[1:]]
                rows.append([label, str(dtype).removeprefix("torch."), family, *cells, *ratios])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def main() -> None:
    """Measure, print and, where asked, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--write", action="store_true", help=f"into {PAGE.name}")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name, module in MODULES.items():
        if find_spec(module) is None:
            print(f"{name} is left out: no module {module!r} in this environment")
    with torch.inference_mode():
        found = table(arguments.device, arguments.repeats)
    print(f"{LEVELS} levels; forward, inverse; torch {torch.__version__}, {arguments.device}\n\n{found}")
    if arguments.write:
        before, rest = PAGE.read_text().split(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}\n{found}\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    main()
