"""What a projection and a back-projection cost here, beside the packages that are installed: CPU seconds, one thread.

    python benchmarks/projectors.py [--repeats 5] [--tools retrodict,scikit-image,astra,deepinv] [--json PATH]

Parallel beams, float32, 256 x 256 pixels with 180 views of 363 bins and 512 x 512 with 720 views of 725.  Every tool
runs in a process of its own, one after the other; CPU seconds are the least of the repeats, `first` holds what the
first use adds (building matrices or grids), memory is the largest of the process.  `adjoint` is how far the
back-projection is from the transpose, |<A u, v> - <u, B v>| / |A u| |v| of white noise u (in a disc) and v.  A package
that is absent or fails has a row that says so.  scikit-image's back-projection is `iradon` without a filter, which is
no transpose.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tables import projectors

RESULTS = Path(__file__).resolve().parent / "results" / "projectors.json"
PROBLEMS = [(256, 180, 363), (512, 720, 725)]
MODULES = {"retrodict": "retrodict", "scikit-image": "skimage", "astra": "astra", "deepinv": "deepinv"}


def retrodict(size: int, views: int, bins: int) -> tuple[Callable, Callable]:
    import torch

    from retrodict.physics import ParallelBeam, Radon, even_angles

    operator = Radon((size, size), ParallelBeam(even_angles(views), bins, 1.0))
    return (
        lambda x: operator.forward(torch.from_numpy(x)[None, None])[0, 0].numpy(),
        lambda p: operator.adjoint(torch.from_numpy(p)[None, None])[0, 0].numpy(),
    )


def scikit_image(size: int, views: int, bins: int) -> tuple[Callable, Callable]:
    import numpy as np
    from skimage.transform import iradon, radon

    degrees = np.arange(views) * 180 / views
    scale = 2 * views / math.pi
    return (
        lambda x: radon(x, degrees, circle=False),
        lambda p: iradon(p, degrees, filter_name=None, circle=False, output_size=size) * scale,
    )


def astra(size: int, views: int, bins: int) -> tuple[Callable, Callable]:
    import astra as package
    import numpy as np

    volume = package.create_vol_geom(size, size)
    scan = package.create_proj_geom("parallel", 1.0, bins, np.arange(views) * math.pi / views)
    operator = package.OpTomo(package.create_projector("linear", scan, volume))
    return operator.FP, operator.BP


def deepinv(size: int, views: int, bins: int) -> tuple[Callable, Callable]:
    import torch
    from deepinv.physics import Tomography

    physics = Tomography(angles=views, img_width=size, circle=False, device="cpu", normalize=False)
    return (
        lambda x: physics.A(torch.from_numpy(x)[None, None])[0, 0].numpy(),
        lambda p: physics.A_adjoint(torch.from_numpy(p)[None, None])[0, 0].numpy(),
    )


TOOLS = {"retrodict": retrodict, "scikit-image": scikit_image, "astra": astra, "deepinv": deepinv}


def one(tool: str, size: int, views: int, bins: int, repeats: int) -> dict:
    """The row of one tool on one problem."""
    import numpy as np
    import torch

    torch.set_num_threads(1)
    draw = np.random.default_rng(0)
    x = draw.standard_normal((size, size), dtype=np.float32)
    x[np.hypot(*(np.mgrid[:size, :size] - (size - 1) / 2)) > 0.49 * size] = 0

    def clocked(call: Callable, value: np.ndarray) -> tuple[np.ndarray, float]:
        start = time.process_time()
        out = call(value)
        return out, time.process_time() - start

    start = time.process_time()
    forward, back = TOOLS[tool](size, views, bins)
    p, _ = clocked(forward, x)
    v = draw.standard_normal(p.shape, dtype=np.float32)
    made = time.process_time() - start
    z, first_back = clocked(back, v)
    times = [(clocked(forward, x)[1], clocked(back, v)[1]) for _ in range(repeats)]
    a, b = (min(column) for column in zip(*times, strict=True))
    left, right = (float(np.vdot(*(np.float64(q) for q in pair))) for pair in ((p, v), (x, z)))
    return {
        "forward_s": a,
        "adjoint_s": b,
        "first_s": made - a + first_back - b,
        "adjoint_error": abs(left - right) / float(np.linalg.norm(np.float64(p)) * np.linalg.norm(np.float64(v))),
        "memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
    }


def row(tool: str, problem: tuple[int, int, int], repeats: int) -> dict:
    """The row of a process of its own, or what stopped it."""
    about = {"tool": tool, "size": problem[0], "views": problem[1], "bins": problem[2]}
    if importlib.util.find_spec(MODULES[tool]) is None:
        return about | {"absent": "not installed"}
    command = [sys.executable, "-W", "ignore", __file__, "--one", tool, *map(str, problem), "--repeats", str(repeats)]
    single = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=single)
    if done.returncode:
        said = done.stderr.strip().splitlines()
        return about | {"absent": said[-1][:100] if said else f"ended by signal {-done.returncode}"}
    return about | json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--tools", default=",".join(TOOLS))
    parser.add_argument("--json", type=Path, default=RESULTS)
    parser.add_argument("--one", nargs=4, metavar=("TOOL", "SIZE", "VIEWS", "BINS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        tool, *problem = arguments.one
        print(json.dumps(one(tool, *map(int, problem), arguments.repeats)))
        return
    rows = [row(tool, problem, arguments.repeats) for problem in PROBLEMS for tool in arguments.tools.split(",")]
    print(projectors(rows))
    print("python benchmarks/tables.py puts it into docs/physics.md")
    arguments.json.write_text(json.dumps({"records": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
