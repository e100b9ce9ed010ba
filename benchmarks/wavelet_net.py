"""A U-Net on wavelet bands against the plain one and the one on blocks: seconds and memory of a training step.

    python benchmarks/wavelet_net.py [--sizes 32 48 64]          (volumes; minutes; writes the table of the document)

Volumes of one channel, batch 1, forward and backward, float32, one thread; each cell in a process of its own, whose
peak memory beyond that before the step is printed.  The width is the same, so that what differs is where the network
works.  `--width` and `--repeats` as usual.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from retrodict.nets import NETS
from tables import replace_block

NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("unet", {}),
    "blocks of 2": ("unet", {"patch": 2}),
    "Haar bands": ("wavelet_unet", {}),
}
RESULT = Path(__file__).parent / "results" / "wavelet_net.json"
PAGE = Path(__file__).resolve().parents[1] / "docs" / "concepts-wavelet.md"


def measured(name: str, size: int, width: int, repeats: int) -> dict[str, float]:
    """CPU seconds of a step (the least of `repeats`), MiB above the start, and millions of parameters."""
    torch.set_num_threads(1)
    kind, options = NETWORKS[name]
    net = NETS[kind](ndim=3, in_channels=1, out_channels=1, width=width, multipliers=(1, 2, 4), **options)
    x, level, best = torch.randn(1, 1, size, size, size), torch.zeros(1, 1), float("inf")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(repeats):
        start = time.process_time()
        net(x, level).square().mean().backward()
        best = min(best, time.process_time() - start)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "seconds": best,
        "mib": (after - before) / 1024,
        "parameters": sum(p.numel() for p in net.parameters()) / 1e6,
    }


def alone(name: str, size: int, width: int, repeats: int) -> dict[str, float]:
    """`measured` in a process of its own."""
    settings = [str(v) for v in (name, size, width, repeats)]
    done = subprocess.run([sys.executable, __file__, "--one", *settings], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def table(rows: dict[str, dict[str, dict[str, float]]]) -> str:
    """Network by size: CPU seconds and MiB of a step, and both over those of the plain network."""
    sizes = list(next(iter(rows.values())))
    lines = ["| network | parameters | " + " | ".join(f"{n}^3" for n in sizes) + " |", "|---" * (2 + len(sizes)) + "|"]
    for name, row in rows.items():
        cells = []
        for n in sizes:
            cell, plain = row[n], rows["plain"][n]
            text = f"{cell['seconds']:.2f} s, {cell['mib']:.0f} MiB"
            if name != "plain":
                text += f" ({plain['seconds'] / cell['seconds']:.1f}, {plain['mib'] / cell['mib']:.1f} times less)"
            cells.append(text)
        lines.append(f"| {name} | {row[sizes[0]]['parameters']:.2f} M | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure, write and print."""
    if sys.argv[1:2] == ["--one"]:
        name, *numbers = sys.argv[2:]
        print(json.dumps(measured(name, *map(int, numbers))))
        return
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 48, 64])
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULT)
    a = parser.parse_args()
    rows = {name: {str(n): alone(name, n, a.width, a.repeats) for n in a.sizes} for name in NETWORKS}
    text = table(rows)
    print(text)
    a.out.write_text(json.dumps({"width": a.width, "rows": rows}, indent=1) + "\n")
    if a.out == RESULT:
        replace_block(PAGE, "wavelet-net", text)


if __name__ == "__main__":
    main()
