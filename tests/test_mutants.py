"""The tool that puts faults into the package: anchors, the sample, and a list that has not rotted."""

from __future__ import annotations

import ast
import sys
import tomllib
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

from mutants_sites import PACKAGE, files, listed, sampled, sites  # noqa: E402

CONFIG = tomllib.loads((BENCHMARKS / "mutants.toml").read_text())
FAULT = {"id": "x", "file": "metrics/fidelity.py", "breaks": "y"}


def test_an_anchor_that_is_gone_or_ambiguous_is_stale():
    faults = [{**FAULT, "old": old, "new": "(y + x)"} for old in ("(x - y)", "no such text", "mse(")]
    faults += [
        {**FAULT, "within": "nothing", "old": "(x - y)", "new": "0"},
        {**FAULT, "old": "(x - y)", "new": "(x - y)"},
    ]
    found = listed(faults)
    assert not found[0].stale
    assert "(y + x).square()" in found[0].text
    assert all(fault.stale for fault in found[1:])


def test_every_site_changes_one_thing():
    source = "def f(a, b):\n    if a < b and not a:\n        a += 1\n    return g(-a, b * 2.0)\n"
    found = sites("file.py", ast.parse(source))
    words = {s[1] for s in found}
    for change in ("a < b -> a >= b", "not a -> a", "b * 2.0 -> b / 2.0", "-a -> a", "2.0 -> 3.0", "1 -> 2"):
        assert change in words
    assert "a += 1 -> pass" in words
    assert "g(-a, b * 2.0) -> g(b * 2.0, -a)" in words
    assert any(" or " in w for w in words)
    assert len({s[0] for s in found}) == len(found)


def test_the_sample_is_the_same_every_time_and_changes_what_it_says():
    rooms = {"one": {"files": ["metrics/fidelity.py", "data/units.py"], "sample": 4, "tests": []}}
    one, two = sampled(rooms, 0, {}), sampled(rooms, 0, {})
    assert [m.name for m in one] == [m.name for m in two]
    assert len(one) == 4
    for m in one:
        plain = ast.unparse(ast.parse((PACKAGE / m.file).read_text()))
        assert m.text != plain
        ast.parse(m.text)


def test_the_list_has_not_rotted():
    """A few stale anchors are a chore of the next run (`--check` names them); many are a tool that nobody uses."""
    found = listed(CONFIG["fault"])
    names = [m.name for m in found]
    assert len(set(names)) == len(names)
    assert sum(bool(m.stale) for m in found) < 0.2 * len(found)


def test_every_fault_belongs_to_a_room_and_every_room_has_tests():
    known = {file for room in CONFIG["rooms"].values() for file in files(room)}
    assert {fault.file for fault in listed(CONFIG["fault"]) if not fault.stale} <= known
    for room in CONFIG["rooms"].values():
        assert all((BENCHMARKS.parent / test.split("::")[0]).exists() for test in room["tests"])
