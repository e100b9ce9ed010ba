"""Mutation run: put a fault into the package, run the tests that should notice, and count those that do not.

    python benchmarks/mutants.py                       # every fault; table on the terminal, JSON under results/
    python benchmarks/mutants.py --check               # do all anchors still hold?  Runs no test
    python benchmarks/mutants.py --only 'bases/*' start-without-spectrum --resume

Two layers.  `mutants.toml` lists faults that a person in the field would fear, each a text anchor and what stands there
instead.  The sample is an independent measure: every operator, number, condition and statement of the modules is a
site, and the sites with the smallest hash of (seed, name) are taken, so that editing one function leaves the sample of
all others alone.  A fault that no test can notice is named with its reason, in the list or under [equivalent].

Nothing touches the working tree: each fault goes into a copy of `src`, and a process forked from one that has imported
torch and pytest, but not the package, runs the tests with that copy first on the path, up to the first failure.
"""

from __future__ import annotations

import argparse
import ast
import fnmatch
import hashlib
import importlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import Counter
from pathlib import Path

from mutants_sites import Mutant, files, listed, sampled

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "mutants.json"
WARM = """torch torch.utils.data numpy scipy.fft scipy.special scipy.stats scipy.ndimage pywt skimage.metrics nibabel
tifffile PIL.Image pydicom pydicom.pixels yaml pydantic rich.console typer jinja2 matplotlib.figure safetensors.torch
accelerate pytest _pytest.assertion.rewrite _pytest._argcomplete hypothesis xdist"""
CAUGHT = ("caught", "timeout")


# ---- running ---------------------------------------------------------------------------------------------------------


def room_of(file: str, rooms: dict[str, dict]) -> str:
    """The room that a file belongs to."""
    return next(name for name, room in rooms.items() if file in files(room))


def tests_of(room: dict) -> list[str]:
    """Tests of a room that there are."""
    return [test for test in room["tests"] if (ROOT / test.split("::")[0]).exists()]


class _First:
    """Remembers the first test that fails."""

    failed = ""

    def pytest_runtest_logreport(self, report) -> None:
        if report.failed and not self.failed:
            self.failed = report.nodeid

    def pytest_collectreport(self, report) -> None:
        if report.failed and not self.failed:
            self.failed = f"{report.nodeid} (import)"


def _child(folder: Path, tests: list[str], seconds: int) -> None:
    """In a forked process: run the tests on the package in `folder`, write what happened, and end."""
    os.setsid()
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
    log = os.open(folder / "output.txt", os.O_CREAT | os.O_WRONLY)
    os.dup2(log, 1), os.dup2(log, 2)
    os.chdir(ROOT)
    sys.path.insert(0, str(folder / "src"))
    os.environ |= {"PYTHONPATH": str(folder / "src"), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    import pytest

    first = _First()
    try:
        import retrodict
    except Exception as error:
        _tell(folder, 1, f"import retrodict: {error!r}")
        return
    assert Path(retrodict.__file__).is_relative_to(folder), retrodict.__file__
    options = ["-x", "-q", "--tb=line", "-p", "no:cacheprovider", "-m", "not slow", f"--basetemp={folder / 'temp'}"]
    code = int(pytest.main([*options, *tests], plugins=[first]))
    _tell(folder, code, first.failed)


def _tell(folder: Path, code: int, test: str) -> None:
    (folder / "outcome.json").write_text(json.dumps({"code": code, "test": test}))


def launch(base: Path, mutant: Mutant | None, tests: list[str], seconds: int) -> tuple[int, Path]:
    """Fork a process for a fault (None: for the package as it is); its number and folder."""
    folder = Path(tempfile.mkdtemp(dir=base))
    shutil.copytree(base / "src", folder / "src", copy_function=os.link)
    if mutant is not None:
        target = folder / "src" / "retrodict" / mutant.file
        target.unlink()
        target.write_text(mutant.text)
        for old in target.parent.glob(f"__pycache__/{target.stem}.*.pyc"):
            old.unlink()
    number = os.fork()
    if number == 0:
        try:
            _child(folder, tests, seconds)
        except BaseException as error:  # the outcome file is missing then
            print(repr(error), file=sys.stderr)
        finally:
            os._exit(0)
    return number, folder


def outcome(folder: Path, status: int) -> dict:
    """Verdict and first failing test of a process that ended."""
    path = folder / "outcome.json"
    if not path.exists():
        died = os.WIFSIGNALED(status)
        tail = (folder / "output.txt").read_text(errors="replace").splitlines()[-1:]
        return {"verdict": "timeout" if died else "broken run", "test": "" if died else "".join(tail)[:200]}
    record = json.loads(path.read_text())
    if record["code"] in (1, 2) and record["test"]:
        return {"verdict": "caught", "test": record["test"]}
    return {"verdict": "survived" if record["code"] == 0 else f"pytest code {record['code']}", "test": ""}


def run(jobs: list[tuple[str, Mutant | None, list[str], int]], workers: int, done) -> None:
    """Run jobs (name, fault, tests, CPU seconds), `workers` at a time; `done(name, result)` is called after each."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # many small files: not on a disk where it can be
    with tempfile.TemporaryDirectory(prefix="mutants-", dir=memory) as place:
        base, waiting, running = Path(place), list(jobs), {}
        shutil.copytree(ROOT / "src", base / "src", ignore=shutil.ignore_patterns("__pycache__"))
        subprocess.run([sys.executable, "-m", "compileall", "-q", str(base / "src")], check=True)
        while waiting or running:
            while waiting and len(running) < workers:
                name, *job = waiting.pop(0)
                number, folder = launch(base, *job)
                running[number] = (name, folder, time.monotonic())
            number, status, used = os.wait4(-1, 0)
            name, folder, start = running.pop(number)
            result = outcome(folder, status)
            result |= {"cpu_s": round(used.ru_utime + used.ru_stime, 1), "wall_s": round(time.monotonic() - start, 1)}
            done(name, result)
            shutil.rmtree(folder, ignore_errors=True)


# ---- the command -----------------------------------------------------------------------------------------------------


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


def _seen(result: dict, tests: list[str]) -> str:
    """Digest of what a verdict rests on: the test that failed, or all files of tests that did not."""
    if result["verdict"] in ("caught", "explained?"):
        file, *names = result["test"].split("::")
        lines = (ROOT / file).read_text() if names else ""
        tree = ast.parse(lines)
        wanted = names[-1].split("[")[0] if names else ""
        found = [ast.unparse(n) for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == wanted]
        return _digest(*found)
    return _digest(*sorted((ROOT / name).read_text() for name in {test.split("::")[0] for test in tests}))


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()


def summary(records: list[dict]) -> dict:
    """Counts by layer: caught, explained, not caught, stale."""
    out = {}
    for layer in ("list", "sample"):
        own = [r for r in records if r["layer"] == layer]
        counts = Counter(r["verdict"] for r in own)
        judged = sum(n for v, n in counts.items() if v not in ("stale", "equivalent"))
        caught = sum(counts[v] for v in CAUGHT)
        out[layer] = {"faults": len(own), **counts, "caught_share": round(caught / max(judged, 1), 3)}
    return out


def _print(record: dict) -> None:
    words = record["test"] if record["verdict"] in CAUGHT else record["reason"] or record["breaks"]
    print(f"{record['verdict']:<11}{record.get('cpu_s', 0):>6.1f} s  {record['id']:<48} {words[:110]}", flush=True)


def main() -> None:
    """Read the list, draw the sample, run what is asked for, and say what was not caught."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], help="patterns of names or files")
    parser.add_argument("--layer", choices=["list", "sample"])
    parser.add_argument("--list", action="store_true", help="print the faults and end")
    parser.add_argument("--check", action="store_true", help="print stale anchors and end")
    parser.add_argument("--resume", action="store_true", help="keep results whose fault and tests are unchanged")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, default=RESULT)
    options = parser.parse_args()
    config = tomllib.loads((ROOT / "benchmarks" / "mutants.toml").read_text())
    rooms, explained = config["rooms"], config.get("equivalent", {})
    mutants = listed(config["fault"]) + sampled(rooms, options.seed, explained)
    gone = sorted(set(explained) - {m.name for m in mutants}) if options.seed == 0 else []
    for layer in [options.layer] if options.layer else []:
        mutants = [m for m in mutants if m.layer == layer]
    if options.only:
        kept = [m for m in mutants if any(fnmatch.fnmatch(x, p) for x in (m.name, m.file) for p in options.only)]
        mutants = kept
    stale = [m for m in mutants if m.stale]
    if options.list:
        for m in mutants:
            print(f"{m.name:<56} {m.file:<34} {m.breaks}")
    for m in stale:
        print(f"stale: {m.name} ({m.file}): {m.stale}")
    for name in gone:
        print(f"stale: an explanation of {name}, which is not in the sample any more")
    if options.list or options.check:
        print(f"{len(mutants)} faults, {len(stale)} with stale anchors")
        sys.exit(1 if options.check and (stale or gone) else 0)
    sys.exit(1 if _run(mutants, rooms, options) or stale else 0)


def _run(mutants: list[Mutant], rooms: dict[str, dict], options: argparse.Namespace) -> int:
    """Run, print and store; the number of faults that were neither caught nor explained."""
    for name in WARM.split():
        try:
            importlib.import_module(name)
        except ImportError:  # an extra: the tests that need it say so
            continue
    import torch

    torch.func.jvp(torch.sin, (torch.ones(1),), (torch.ones(1),))  # the first call imports much
    stored = json.loads(options.json.read_text()) if options.json.exists() else {"mutants": [], "rooms": {}}
    old = {r["id"]: r for r in stored["mutants"]}
    tests = {m.name: tests_of(rooms[room_of(m.file, rooms)]) for m in mutants}
    records: dict[str, dict] = {} if not options.only and not options.layer else dict(old)
    todo = []
    for m in mutants:
        about = {"id": m.name, "layer": m.layer, "file": m.file, "breaks": m.breaks, "reason": m.equivalent}
        if m.stale:
            records[m.name] = {**about, "verdict": "stale", "test": "", "reason": m.stale}
        elif options.resume and _holds(old.get(m.name, {}), m, tests[m.name]):
            records[m.name] = old[m.name] | about | _judged(m, old[m.name])
        else:
            records[m.name] = {**about, "text": _digest(m.text)}
            todo.append(m)
    needed = {room: tests_of(rooms[room]) for room in sorted({room_of(m.file, rooms) for m in todo})}
    spent: dict[str, float] = stored["rooms"]  # CPU seconds of the tests of each room without a fault

    def baseline(room: str, result: dict) -> None:
        if result["verdict"] != "survived":
            sys.exit(f"{room}: tests fail without a fault: {result['test'] or result['verdict']}")
        spent[room] = result["cpu_s"]
        print(f"no fault   {spent[room]:>6.1f} s  {room}", flush=True)

    fresh = {room: tests for room, tests in needed.items() if not options.resume or room not in spent}
    run([(room, None, tests, 900) for room, tests in fresh.items()], options.workers, baseline)
    named = {m.name: m for m in todo}

    def done(name: str, result: dict) -> None:
        records[name] |= result | {"seen": _seen(result, tests[name])} | _judged(named[name], result)
        _print(records[name])
        _store([r for r in records.values() if "verdict" in r], spent, options)

    jobs = [(m, room_of(m.file, rooms)) for m in todo]
    run([(m.name, m, needed[r], 60 + int(4 * spent[r])) for m, r in jobs], options.workers, done)
    final = [r for r in records.values() if "verdict" in r]
    _store(final, spent, options)
    bad = [r for r in final if r["verdict"] not in (*CAUGHT, "equivalent")]
    print(f"\n{sum(r.get('cpu_s', 0) for r in final) / 60:.1f} CPU minutes, without fault {sum(spent.values()):.0f} s")
    for layer, counts in summary(final).items():
        print(layer, counts)
    for r in bad:
        _print(r)
    return len(bad)


def _holds(record: dict, m: Mutant, tests: list[str]) -> bool:
    """Whether a stored verdict is one of the same fault by the same tests."""
    return record.get("text") == _digest(m.text) and record.get("seen") == _seen(record, tests)


def _judged(m: Mutant, result: dict) -> dict:
    """A fault that is explained and yet caught is a wrong explanation."""
    raw = {"equivalent": "survived", "explained?": "caught"}.get(result["verdict"], result["verdict"])
    if not m.equivalent:
        return {"verdict": raw}
    return {"verdict": {"survived": "equivalent", "caught": "explained?", "timeout": "explained?"}.get(raw, raw)}


def _store(records: list[dict], spent: dict[str, float], options: argparse.Namespace) -> None:
    about = {"commit": _git("rev-parse", "HEAD"), "changed": bool(_git("status", "--porcelain", "src", "tests"))}
    record = {**about, "seed": options.seed, "summary": summary(records), "rooms": spent, "mutants": records}
    options.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
