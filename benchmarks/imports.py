"""Import time beyond torch: fresh interpreters, interleaved, medians of 7.

python benchmarks/imports.py
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

OUT = Path(__file__).parent / "results" / "imports.json"
CASES = {
    "torch": "import torch",
    "torch + retrodict": "import torch, retrodict",
    "torch + retrodict.sample, PROCESSES": "import torch, retrodict as r; r.sample; r.PROCESSES",
    "torch + retrodict.restore": "import torch, retrodict; retrodict.restore",
}


def main():
    """Print and store seconds beyond `import torch`."""
    times = {name: [] for name in CASES}
    for _ in range(7):
        for name, code in CASES.items():
            started = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True)
            times[name].append(time.perf_counter() - started)
    base = statistics.median(times["torch"])
    rows = [{"case": name, "seconds_beyond_torch": statistics.median(t) - base} for name, t in times.items()]
    for row in rows:
        print(f"{row['case']:<55}{row['seconds_beyond_torch']:8.3f} s beyond torch")
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
