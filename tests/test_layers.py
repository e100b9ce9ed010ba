"""Who may import whom.  Every import in the package is compared with one table."""

from __future__ import annotations

import ast
import graphlib
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "retrodict"

GROUND = {"_version", "_check", "_random", "_output"}

# From the bottom to the top: a folder (or ground module) of the package, and what it may import besides itself.
ALLOWED: dict[str, set[str]] = {
    "_version": set(),
    "_check": set(),
    "_random": {"_check"},
    "_output": {"_check", "_version"},
    # Beside the tower: these know nothing of diffusion.
    "nets": GROUND,
    "data": GROUND,
    "metrics": GROUND,
    # The tower.
    "bases": GROUND,
    "physics": GROUND | {"bases"},
    "shapes": GROUND,
    "processes": GROUND | {"bases"},
    "denoisers": GROUND | {"bases", "processes", "nets"},
    "samplers": GROUND | {"bases", "processes", "denoisers"},
    # Where diffusion and physics meet: the only room below `tasks` that knows a process and a measurement.
    "posterior": GROUND | {"bases", "physics", "processes", "denoisers", "samplers"},
    "models": GROUND | {"bases", "processes", "denoisers", "nets", "data"},
    "training": GROUND | {"bases", "processes", "denoisers", "nets", "models"},
    "report": GROUND | {"metrics", "bases", "data"},
    "tasks": GROUND
    | {"bases", "physics", "processes", "denoisers", "samplers", "nets", "models", "training", "data", "metrics"}
    | {"posterior", "report", "shapes"},
    "cli": GROUND | {"tasks"},
    "__main__": {"cli"},
}
# Of these folders only one module, so that a page knows units and no images.
ONLY: dict[tuple[str, str], set[str]] = {("report", "data"): {"retrodict.data.units"}}
# The public list resolves names lazily and may therefore point anywhere; nobody inside imports through it.
PUBLIC = "__init__"


def owner(path: Path) -> str:
    """Name the module or folder directly below the package that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(source: str) -> set[str]:
    """Collect what a source imports from the package, at any depth; "." stands for a relative import."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level:
            names = ["retrodict.."]
        elif isinstance(node, ast.ImportFrom) and node.module == "retrodict":
            names = [f"retrodict.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            continue
        for name in names:
            head, _, rest = name.partition(".")
            if head == "retrodict":
                found.add(rest.split(".")[0] or (PUBLIC if not rest else "."))
    return found


def complaints(name: str, source: str) -> list[str]:
    """Say in sentences which imports of the source are not in the table."""
    if name == PUBLIC:
        return []
    if name not in ALLOWED:
        return [f"{name} is not in the table: add it to ALLOWED in tests/test_layers.py with what it may import"]
    said = []
    for target in sorted(imported(source) - {name} - ALLOWED[name]):
        if target == ".":
            said.append(f"{name} imports relatively: write the absolute name")
        elif target in ALLOWED:
            said.append(
                f"{name} may not import {target}: it may import {', '.join(sorted(ALLOWED[name])) or 'nothing'}"
            )
        elif (PACKAGE / f"{target}.py").exists() and target != PUBLIC:
            said.append(f"{name} imports {target}, which is not in the table: add it to ALLOWED")
        else:
            said.append(f"{name} imports {target} through the package: import it from the module that defines it")
    return said


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_what_the_table_allows(path: Path):
    said = complaints(owner(path), path.read_text(encoding="utf-8"))
    assert not said


@pytest.mark.parametrize("pair", ONLY, ids=" -> ".join)
def test_of_some_folders_only_one_module(pair: tuple[str, str]):
    folder, target = pair
    found = set()
    for path in (PACKAGE / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found |= {n for n in names if n == f"retrodict.{target}" or n.startswith(f"retrodict.{target}.")}
    assert found <= ONLY[pair]


def test_the_table_has_no_cycle():
    graphlib.TopologicalSorter(ALLOWED).prepare()


def test_the_table_names_only_modules_it_knows():
    assert set().union(*ALLOWED.values()) <= set(ALLOWED)


@pytest.mark.parametrize(
    ("name", "source", "expected"),
    [
        ("nets", "from retrodict.processes.process import Process", "may not import processes"),
        ("processes", "def f():\n    import retrodict.cli", "may not import cli"),
        ("samplers", "from retrodict import models", "may not import models"),
        ("processes", "from retrodict import Image", "from the module that defines it"),
        ("processes", "import retrodict", "from the module that defines it"),
        ("processes", "from . import bases", "write the absolute name"),
        ("helpers", "", "add it to ALLOWED"),
    ],
)
def test_a_forbidden_import_is_found(name: str, source: str, expected: str):
    assert expected in " ".join(complaints(name, source))
