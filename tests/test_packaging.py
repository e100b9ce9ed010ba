"""The frame of the project: version, pins, and nothing in the files that belongs to one machine only."""

from __future__ import annotations

import re
import subprocess
import tomllib
from importlib.metadata import version as installed_version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from retrodict._version import __version__

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CONSTRAINTS = ["constraints.txt", "constraints-peers.txt"]


def pins(name: str) -> dict[str, Version]:
    lines = [line for line in (ROOT / name).read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    pairs = [re.fullmatch(r"([\w.-]+)==([\w.]+)", line) for line in lines]
    assert all(pairs), [line for line, pair in zip(lines, pairs, strict=True) if pair is None]
    return {canonicalize_name(pair[1]): Version(pair[2]) for pair in pairs if pair}


def tracked() -> list[Path]:
    try:
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def test_the_version_is_canonical_and_the_same_everywhere():
    assert str(Version(__version__)) == __version__ == installed_version("retrodict")
    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert __version__ in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_pins_satisfy_what_the_core_asks_for(name: str):
    pinned = pins(name)
    asked = [Requirement(line) for line in PROJECT["dependencies"]]
    assert not [str(one) for one in asked if pinned[canonicalize_name(one.name)] not in one.specifier]


def test_pins_satisfy_the_extras():
    pinned = pins("constraints.txt")
    asked = [Requirement(line) for lines in PROJECT["optional-dependencies"].values() for line in lines]
    asked = [one for one in asked if one.name != PROJECT["name"]]
    assert not [str(one) for one in asked if pinned[canonicalize_name(one.name)] not in one.specifier]


def test_both_environments_share_their_pins():
    ours, peers = (pins(name) for name in CONSTRAINTS)
    assert {name: ours[name] for name in ours.keys() & peers.keys()} == {
        name: peers[name] for name in ours.keys() & peers.keys()
    }


def test_no_file_names_a_path_of_one_machine():
    # Written in pieces, so that this file does not find itself.
    folders = "|".join(["work", "root", r"home/\w+", r"Users/\w+", "opt", "mnt"])
    pattern = re.compile(rf"(?<![\w.:/$}}>*)-])/(?:{folders})/\w".encode())
    assert not [str(path.relative_to(ROOT)) for path in tracked() if pattern.search(path.read_bytes())]


def test_no_file_names_a_package_index():
    pieces = [
        "pypi" + ".org/simple",
        "files." + "pythonhosted",
        "download." + "pytorch",
        "index" + "-url",
        "find" + "-links",
    ]
    pattern = re.compile("|".join(map(re.escape, pieces)).encode())
    assert not [str(path.relative_to(ROOT)) for path in tracked() if pattern.search(path.read_bytes())]


def test_the_wheel_tells_type_checkers_that_it_is_typed():
    builder = pytest.importorskip("hatchling.builders.wheel").WheelBuilder(str(ROOT))
    shipped = {file.distribution_path for file in builder.recurse_included_files()}
    assert {"retrodict/py.typed", "retrodict/__init__.py", "retrodict/assets/ct-fourier.safetensors"} <= shipped
