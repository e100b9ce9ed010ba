"""`make bench`: every benchmark that needs no peer libraries, one after the other.

    python benchmarks/run.py [--quick]

Tables are printed and stored as JSON under benchmarks/results; docs/figures.md is written from those files by
benchmarks/tables.py.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def main():
    """Run each script in a process of its own, so that one cannot slow another."""
    quick = ["--quick"] if "--quick" in sys.argv[1:] else []
    card = [
        sys.executable,
        "-m",
        "retrodict",
        "bench",
        "gaussian-card",
        "--output",
        str(HERE / "results" / "gaussian-card.json"),
    ]
    peers = HERE / "results" / "peers-gaussian-card.json"
    if peers.exists():
        card += ["--peers", str(peers)]
    jobs = [
        ("Gaussian card", card),
        ("Import time", [sys.executable, str(HERE / "imports.py")]),
        ("Overhead of the frame", [sys.executable, str(HERE / "overhead.py")]),
        ("Real CT", [sys.executable, str(HERE / "ct.py"), *quick]),
        ("Metrology", [sys.executable, str(HERE / "phantom.py"), "--pictures", str(HERE.parent / "docs" / "images")]),
        ("Tables", [sys.executable, str(HERE / "tables.py")]),
    ]
    failed = []
    for title, command in jobs:
        print(f"\n== {title}", flush=True)
        if subprocess.run(command, check=False).returncode:
            failed.append(title)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
