"""Damaged files, configurations, checkpoints and command lines: each has to end as a result or as one clear error.

    python benchmarks/fuzz.py                         # 3,000 cases and a table; exit code 1 where one fails
    python benchmarks/fuzz.py --count 300             # every kind of fault a few times
    python benchmarks/fuzz.py --only read/scan.dcm    # some of the surfaces
    python benchmarks/fuzz.py --case read/nifti.nii/field/17 --keep FOLDER   # one case in this process, with its files

A case is a name, surface/sample/fault/number, and the name is its seed.  Each runs in a process of its own, forked from
one that has imported everything: a crash, a hang or a hundred gigabytes end the case and nothing else.  What counts:

- raw: an exception that is none of ours, a crash, or a result that is no result (not finite, not readable again);
- late: a fault of the input that is found only when its result is written;
- hang: more than 20 seconds;
- partial: something half-written that stayed, or anything at all from a case that was refused;
- unclear: control characters in the terminal or an error of more than 2,000 characters;
- peak: most memory that a case took beyond what the process had before.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

import torch

import fuzz_surfaces as surfaces

RESULTS = Path(__file__).parent / "results" / "fuzz.json"
ENDS = ("ok", "refused", "raw", "late", "hang", "partial", "unclear")
SECONDS = 20.0
DECLARED = 1 << 28
"""Bytes that the values of one image may take in these cases (RETRODICT_MAX_GIB): a quarter of a GiB."""
BUDGET = 4 * DECLARED
"""Bytes that a case may take in all: the file, what was decoded of it, and the arrays made of that."""
LIMIT = 4 << 30
"""Bytes of address space after which an allocation fails: it protects this machine, and is no excuse for the case."""


@dataclass
class Outcome:
    """How a case ended: `end` is ok, refused, raw, late, hang, partial or unclear."""

    case: str
    end: str
    said: str = ""
    seconds: float = 0.0
    peak: int = 0


def status(name: str) -> int:
    """A size in bytes from the table of this process, such as VmRSS."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(name))
    return int(line.split()[1]) * 1024


def limited() -> None:
    """Bound memory, time and files of this process: a case must not take the machine with it."""
    size = status("VmSize")
    resource.setrlimit(resource.RLIMIT_AS, (size + LIMIT, size + LIMIT))
    resource.setrlimit(resource.RLIMIT_CPU, (int(SECONDS) + 1, int(SECONDS) + 2))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 28, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)


def judged(case: str, folder: Path) -> Outcome:
    """Run a case in this process and judge how it ends."""
    surface, sample, fault, _ = case.split("/")
    rng = Random(case)
    try:
        end, said = surfaces.run(surface, sample, fault, folder, rng)
    except surfaces.LateError as error:
        end, said = "late", str(error)
    except BaseException as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        own = [f for f in traceback.extract_tb(error.__traceback__) if "/retrodict/" in f.filename]
        at = f"{Path(own[-1].filename).name}:{own[-1].lineno}" if own else f"{Path(frame.filename).name}:{frame.lineno}"
        return Outcome(case, "raw", f"{type(error).__name__} at {at}: {str(error)[:200]}")
    if end in ("ok", "refused") and (left := surfaces.leftovers(folder, end)):
        return Outcome(case, "partial", f"{left[0]} after: {said[:150]}")
    if end == "refused" and (len(said) > 2000 or not said.isprintable()):
        return Outcome(case, "unclear", ascii(said)[:300])
    return Outcome(case, end, ascii(said)[:300])


def hung(process: int, start: float) -> bool:
    """Whether a process waits for something that does not come, or has been busy for much too long.

    On a busy machine seconds of the clock say little: work is counted in CPU time (`limited`), waiting by the clock.
    """
    waited = time.monotonic() - start
    if waited < SECONDS:
        return False
    ticks = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(ticks[11]) + int(ticks[12])) / os.sysconf("SC_CLK_TCK") < 1.0 or waited > 10 * SECONDS


class Pool:
    """Cases in forked processes, a few at a time."""

    def __init__(self, root: Path, workers: int) -> None:
        self.root, self.workers = root, workers
        self.running: dict[int, tuple[str, int, float]] = {}  # reading end -> case, process, start

    def all(self, cases: list[str]) -> list[Outcome]:
        waiting, done = list(reversed(cases)), []
        while waiting or self.running:
            while waiting and len(self.running) < self.workers:
                self.start(waiting.pop())
            new = self.finished()
            for outcome in filter(bad, new):  # a long run says at once what it finds
                print(line(outcome), file=sys.stderr, flush=True)
            done += new
        return done

    def start(self, case: str) -> None:
        reading, writing = os.pipe()
        folder = self.root / case.replace("/", "-")
        process = os.fork()
        if process == 0:
            os.close(reading)
            code = 1
            try:
                limited()
                folder.mkdir()
                for number, name in ((1, "stdout"), (2, "stderr")):
                    os.dup2(os.open(f"{folder}.{name}", os.O_CREAT | os.O_WRONLY), number)
                os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
                os.write(writing, json.dumps(asdict(judged(case, folder))).encode())
                code = 0
            finally:
                os._exit(code)
        os.close(writing)
        self.running[reading] = (case, process, time.monotonic())

    def finished(self) -> list[Outcome]:
        ready, _, _ = select.select(list(self.running), [], [], 0.5)
        stuck = [r for r, (_, process, start) in self.running.items() if r not in ready and hung(process, start)]
        return [self.collect(r, False) for r in ready] + [self.collect(r, True) for r in stuck]

    def collect(self, reading: int, stopped: bool) -> Outcome:
        case, process, start = self.running.pop(reading)
        if stopped:
            os.kill(process, signal.SIGKILL)
        text = b""
        while block := os.read(reading, 1 << 16):
            text += block
        os.close(reading)
        _, code, used = os.wait4(process, 0)
        if stopped or code == signal.SIGXCPU:
            outcome = Outcome(case, "hang", f"{used.ru_utime + used.ru_stime:.1f} s of CPU time")
        elif text:
            outcome = Outcome(**json.loads(text))
        else:
            outcome = Outcome(case, "raw", f"the process ended with status {code}")
        outcome.seconds = round(time.monotonic() - start, 3)
        outcome.peak = max(0, used.ru_maxrss * 1024 - status("VmRSS"))
        name = case.replace("/", "-")
        for suffix in (".stdout", ".stderr"):
            (self.root / f"{name}{suffix}").unlink(missing_ok=True)
        shutil.rmtree(self.root / name, ignore_errors=True)
        return outcome


def bad(outcome: Outcome) -> bool:
    return outcome.end not in ("ok", "refused") or outcome.peak > BUDGET


def table(outcomes: list[Outcome]) -> list[dict[str, object]]:
    """Counts by surface, sample and fault."""
    rows = defaultdict(list)
    for outcome in outcomes:
        rows["/".join(outcome.case.split("/")[:2])].append(outcome)
    return [
        {
            "kind": kind,
            "cases": len(group),
            **{end: sum(o.end == end for o in group) for end in ENDS},
            "peak_mib": round(max(o.peak for o in group) / 2**20),
            "slowest": max(o.seconds for o in group),
        }
        for kind, group in sorted(rows.items())
    ]


def show(rows: list[dict[str, object]], outcomes: list[Outcome]) -> None:
    names = list(rows[0]) if rows else []
    print("".join(f"{n:<24}" if n == "kind" else f"{n:>9}" for n in names))
    for row in rows:
        print("".join(f"{row[n]!s:<24}" if n == "kind" else f"{row[n]!s:>9}" for n in names))
    for outcome in filter(bad, outcomes):
        print(line(outcome))


def line(outcome: Outcome) -> str:
    return f"{outcome.end:<8} {outcome.peak >> 20:>5} MiB  {outcome.case}  {outcome.said}"


def chosen(count: int, only: str = "", spread: bool = False) -> list[str]:
    """The first `count` cases of the list, in which every kind of fault comes round again and again.

    only: of those whose name begins so; spread: instead, one of every so many kinds, for a short run.
    """
    if spread:
        names = [f"{kind}/0" for kind, often in surfaces.kinds() if often]
        return names[:: max(1, len(names) // count)][:count]
    return [c for c in surfaces.cases(count if not only else 10**5) if c.startswith(only)][:count]


def fuzz(cases: list[str], workers: int = 2) -> list[Outcome]:
    """Run cases, in their order."""
    torch.set_num_threads(1)
    os.environ["RETRODICT_MAX_GIB"] = str(DECLARED / 2**30)
    with tempfile.TemporaryDirectory(prefix="retrodict-fuzz-") as folder:
        surfaces.prepare(Path(folder) / "samples")
        return Pool(Path(folder), workers).all(cases)


def one(case: str, keep: Path | None) -> int:
    """A single case in this process, with its traceback."""
    os.environ["RETRODICT_MAX_GIB"] = str(DECLARED / 2**30)
    with tempfile.TemporaryDirectory() as temporary:
        root = keep or Path(temporary)
        surfaces.prepare(root / "samples")
        folder = root / "case"
        folder.mkdir(parents=True)
        limited()
        surface, sample, fault, _ = case.split("/")
        print(surfaces.run(surface, sample, fault, folder, Random(case)), surfaces.leftovers(folder, "refused"))
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=3000)
    parser.add_argument("--spread", action="store_true", help="a few cases of all surfaces, instead of the first ones")
    parser.add_argument("--only", default="", help="beginning of the names of cases")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--case", help="run one case here")
    parser.add_argument("--keep", type=Path, help="with --case: a new folder for its files")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/fuzz.json")
    given = parser.parse_args()
    if given.case:
        return one(given.case, given.keep)
    start = time.monotonic()
    outcomes = fuzz(chosen(given.count, given.only, given.spread), given.workers)
    rows = table(outcomes)
    show(rows, outcomes)
    failed = [asdict(o) for o in outcomes if bad(o)]
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    total = {
        "cases": len(outcomes),
        **{e: sum(o.end == e for o in outcomes) for e in ENDS},
        "over_budget": sum(o.peak > BUDGET for o in outcomes),
        "budget_mib": BUDGET >> 20,
        "peak_mib": max(o.peak for o in outcomes) >> 20,
        "seconds": round(time.monotonic() - start),
        "cpu_seconds": round(used.ru_utime + used.ru_stime + time.process_time()),
    }
    print("  ".join(f"{k} {v}" for k, v in total.items()))
    if given.save:
        RESULTS.write_text(json.dumps({"total": total, "kinds": rows, "failed": failed}, indent=1) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
