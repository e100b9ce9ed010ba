"""What a call of the shipped network costs here: CPU seconds, both precisions, 64^2 to 1024^2, one thread and all.

    python benchmarks/speed.py [--model ct-simulated] [--largest 1024] [--json PATH]

CPU seconds are those of the whole process, the least of several calls.  `share` is the rate of multiply-adds that is
reached over the theoretical one of the threads in use: clock rate times multiply-adds a cycle of the vector units.
The last table is the difference that bfloat16 makes to a restoration, beside its standard deviation.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from dataclasses import replace
from importlib import resources
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from retrodict.data import read
from retrodict.models.instrument import measure
from retrodict.models.model import open_model
from retrodict.nets import precision_for
from retrodict.tasks.options import RestoreOptions
from retrodict.tasks.restore import restore_image

LANES = {"AVX512": 32, "AVX2": 16, "DEFAULT": 4}
"""Multiply-adds a cycle and core in float32: two units of 16, 8 or 2 numbers."""


def processor() -> dict:
    """Name, vector units, bfloat16 units and clock rate (GHz) of the processor, as far as it says."""
    about = {"name": platform.processor() or platform.machine(), "cores": torch.get_num_threads(), "ghz": None}
    try:
        text = Path("/proc/cpuinfo").read_text()
        fields = dict(line.split(":", 1) for line in text.split("\n\n")[0].splitlines() if ":" in line)
        fields = {k.strip(): v.strip() for k, v in fields.items()}
        about |= {"name": fields.get("model name", about["name"]), "ghz": float(fields["cpu MHz"]) / 1000}
    except (OSError, KeyError, ValueError):
        pass  # another system: the theoretical rate stays unknown
    capability = torch.backends.cpu.get_cpu_capability()
    return about | {"capability": capability, "auto": precision_for("auto"), "torch": torch.__version__}


def peak(about: dict, threads: int) -> float | None:
    """Theoretical multiply-adds a second of so many threads in float32."""
    lanes = LANES.get(about["capability"].split()[0])
    return None if about["ghz"] is None or lanes is None else threads * lanes * about["ghz"] * 1e9


def call(model, size: int, precision: str, threads: int, repeats: int) -> dict:
    """One row: CPU and wall seconds of a call at size x size, the least of `repeats`."""
    torch.set_num_threads(threads)
    denoiser = replace(model.denoiser.on((size, size)), precision=precision)
    x, t = torch.randn(1, 1, size, size, generator=torch.Generator().manual_seed(0)), torch.tensor([0.7])
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        denoiser.estimate(x, t.double())
    cpu = wall = float("inf")
    with torch.no_grad():
        for _ in range(repeats):
            start = time.process_time(), time.perf_counter()
            denoiser.estimate(x, t.double())
            cpu, wall = min(cpu, time.process_time() - start[0]), min(wall, time.perf_counter() - start[1])
    macs = counter.get_total_flops() / 2
    return {
        "size": size,
        "precision": precision,
        "threads": threads,
        "cpu_s": cpu,
        "wall_s": wall,
        "cpu_s_per_megapixel": cpu / (size**2 / 1e6),
        "multiply_adds": macs,
        "rate": macs / cpu * threads if threads == 1 else macs / wall,
    }


def difference(model, side: int = 96, samples: int = 4) -> dict:
    """Posterior mean of a crop of the shipped slice in both precisions: HU rms of the difference and of the spread."""
    with resources.as_file(resources.files("retrodict") / "assets" / "chest-1.dcm") as path:
        image = read(path, clip=False)
    part = image.values[:, 160 : 160 + side, 120 : 120 + side].contiguous()
    crop = replace(image, values=part, header=None, padding=None)
    y, means, spreads = measure(crop, model), [], []
    for precision in ("float32", "bf16"):
        result = restore_image(y, model, RestoreOptions(samples=samples, precision=precision, device="cpu"))
        means.append(result.mean.values)
        spreads.append(result.sd.values)
    gap = float((means[0] - means[1]).square().mean().sqrt())
    spread = float(spreads[0].square().mean().sqrt())
    change = float((spreads[1] - spreads[0]).square().mean().sqrt())
    return {"side": side, "mean_difference_hu": gap, "sd_hu": spread, "ratio": gap / spread, "sd_difference_hu": change}


def main() -> None:
    """Print both tables; store them where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ct-simulated")
    parser.add_argument("--largest", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    about, model = processor(), open_model(arguments.model)
    print(
        f"{about['name']}, {about['capability']}, {about['ghz'] or '?'} GHz, {about['cores']} threads, "
        f"auto = {about['auto']}"
    )
    print(f"{'size':>6} {'precision':<9} {'threads':>7} {'CPU s':>8} {'wall s':>8} {'CPU s/Mpx':>10} {'share':>6}")
    rows = []
    for size in (s for s in (64, 128, 256, 512, 1024) if s <= arguments.largest):
        for precision in ("float32", "bf16"):
            for threads in sorted({1, about["cores"]}):
                row = call(model, size, precision, threads, arguments.repeats if size <= 256 else 1)
                most = peak(about, threads)
                row["share"] = None if most is None else row["rate"] / most
                rows.append(row)
                share = "?" if row["share"] is None else f"{row['share']:.0%}"
                print(
                    f"{size:>6} {precision:<9} {threads:>7} {row['cpu_s']:>8.3f} {row['wall_s']:>8.3f} "
                    f"{row['cpu_s_per_megapixel']:>10.2f} {share:>6}",
                    flush=True,
                )
    torch.set_num_threads(about["cores"])
    gap = difference(model)
    print(
        f"bfloat16 against float32, {gap['side']} x {gap['side']}: means differ by {gap['mean_difference_hu']:.3f} HU "
        f"rms, {gap['ratio']:.4f} of the standard deviation of {gap['sd_hu']:.1f} HU"
    )
    best = {}
    for row in rows:
        best.setdefault((row["size"], row["threads"]), {})[row["precision"]] = row["cpu_s"]
    worst = max(v[about["auto"]] / min(v.values()) for v in best.values())
    print(f"auto ({about['auto']}) takes at most {worst:.2f} of the CPU seconds of the better of the two")
    if arguments.json:
        record = {"processor": about, "calls": rows, "difference": gap, "auto_over_better": worst}
        arguments.json.write_text(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
