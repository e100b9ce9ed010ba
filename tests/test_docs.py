"""What the documents say is what the package does."""

from __future__ import annotations

import ast
import importlib.util
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import retrodict
import test_layers
from shell import retrodict as command_line

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_the_python_example_is_the_first_example():
    block = re.search(r"```python\n(.*?)```", README, re.DOTALL).group(1)
    assert block == (ROOT / "examples" / "01_restore.py").read_text()
    assert len([line for line in block.splitlines() if line.strip()]) <= 15


def test_every_public_name_resolves_and_is_documented():
    for name in retrodict.__all__:
        value = getattr(retrodict, name)
        if name != "__version__" and not isinstance(value, dict):
            assert value.__doc__, name


def test_type_checkers_see_the_public_list():
    tree = ast.parse((test_layers.PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    block = next(n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING")
    named = {a.asname: (n.module, a.name) for n in block.body if isinstance(n, ast.ImportFrom) for a in n.names}
    assert named == {name: (f"retrodict.{module}", name) for name, module in retrodict._PUBLIC.items()}
    assert (test_layers.PACKAGE / "py.typed").exists()


def architecture():
    spec = importlib.util.spec_from_file_location("architecture", ROOT / "scripts" / "architecture.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_house_is_small_and_stands_on_its_table():
    """What the picture shows: few rooms and floors, no circle, and no arrow that the table of layers forbids."""
    house = architecture()
    graph = house.arrows(typing=True)
    assert len(graph) <= 20
    assert house.circles(graph) == []
    assert 1 + max(house.floors(graph).values()) <= 9
    assert {room: targets for room, targets in graph.items() if targets - test_layers.ALLOWED[room]} == {}
    assert set(house.WALLS) <= set(graph)
    assert not {t for wall in house.WALLS for t in graph[wall] & set(house.DIFFUSION)}


def test_every_arrow_is_drawn_or_follows_from_those_that_are():
    house = architecture()
    graph = {"a": {"b", "c", "d"}, "b": {"c"}, "c": {"d"}, "d": set()}
    assert house.reduced(graph) == {"a": {"b"}, "b": {"c"}, "c": {"d"}, "d": set()}
    assert house.floors(graph) == {"a": 3, "b": 2, "c": 1, "d": 0}
    assert house.circles({"a": {"b"}, "b": {"a"}}) != []


def test_the_way_of_an_image_passes_modules_that_exist():
    house = architecture()
    for room, _, modules, _ in house.WAY:
        names = modules.split(", ")
        assert names[0].split("/")[0] == room
        assert all(any((house.PACKAGE / f"{n}{end}").exists() for end in ("", ".py")) for n in names)


@pytest.mark.parametrize("page", [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))], ids=lambda p: p.name)
def test_commands_in_documents_exist(page):
    text = page.read_text()
    measures = "measure nps|measure mtf|measure noise-map|measure instrument"
    benches = "bench gaussian-card|bench wavelet"
    tasks = "evaluate|calibrate|diagnose|distill"
    shapes = "shapes fit|shapes generate|shapes vary|shapes evaluate"
    known = f"processes|restore|fit|generate|{benches}|info|demo|schema|{tasks}|{measures}|data index|{shapes}"
    for command, arguments in re.findall(rf"retrodict ({known})\b([^\n`]*)", text):
        options = set(re.findall(r"(?<!\S)\[?(--[a-z-]+)", arguments))
        if not options:
            continue
        done = command_line(*command.split(), "--help", columns=160)
        assert done.returncode == 0, done.stderr
        for option in options:
            assert option in done.stdout, f"{page.name}: {option}"


def test_links_between_documents_exist():
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        prose = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)#]+)\)", prose):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize(
    "script", ["02_gaussian_card", "03_measured_instrument", "04_new_process", "05_new_rule", "07_wavelet_cascade"]
)
def test_examples_run(script, capsys):
    runpy.run_path(str(ROOT / "examples" / f"{script}.py"))
    assert capsys.readouterr().out


@pytest.mark.slow
def test_the_training_example_runs():
    path = ROOT / "examples" / "06_train_tiny.py"
    done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "spread of the ensemble" in done.stdout


def test_the_tables_of_the_reference_name_what_there_is():
    from retrodict import BASES, CLASSICS, GRIDS, NOISES, OPERATORS, POSTERIORS, PROCESSES, RULES

    text = (ROOT / "docs" / "reference.md").read_text()
    tables = {"PROCESSES": PROCESSES, "RULES": RULES, "GRIDS": GRIDS, "BASES": BASES, "OPERATORS": OPERATORS}
    tables |= {"NOISES": NOISES, "CLASSICS": CLASSICS, "POSTERIORS": POSTERIORS}
    for name, table in tables.items():
        row = next(line for line in text.splitlines() if line.startswith(f"| `{name}`"))
        assert re.findall(r"`(\w+)`", row)[1:] == list(table)
