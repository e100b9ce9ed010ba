"""Draw the house: the rooms of the package on their floors, who imports whom, and the way of one image.

python scripts/architecture.py            # prints rooms, floors, arrows, circles; draws docs/images/architecture.svg
python scripts/architecture.py --check    # prints only
python scripts/architecture.py --trace    # prints the package files that restore(path) enters

A room is a folder or a module directly below the package.  It stands one floor above the highest room that it
imports.  Everything is read from the sources; only where a room stands on its floor is written here by hand.
"""

from __future__ import annotations

import argparse
import ast
import graphlib
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "retrodict"
PICTURE = ROOT / "docs" / "images" / "architecture.svg"

GROUND = ("_version", "_check", "_random", "_output")
WALLS = ("nets", "data", "metrics")
DIFFUSION = ("bases", "processes", "denoisers", "samplers", "models", "training")

PLACE = {
    "__main__": 350, "cli": 350, "tasks": 500, "training": 520, "models": 615, "samplers": 390, "denoisers": 375,
    "report": 845, "physics": 200, "processes": 345, "data": 620, "metrics": 935, "bases": 345, "nets": 110,
    "_random": 480, "_check": 620, "_version": 760, "_output": 620,
}  # fmt: skip
"""Middle of each room on its floor; a room that is not named here goes to the right end."""

WAY = [
    ("tasks", 0.34, "tasks/restore", "a path comes in"),
    ("data", 0.34, "data/io, data/formats", "file to image: values, unit, spacing"),
    ("tasks", 0.20, "tasks/prepare", "options, device, curves of the instrument"),
    ("models", -0.2, "models/model", "checkpoint to denoiser, unit to model unit"),
    ("samplers", 0.10, "samplers/ensemble", "the gate; members, their mean and sd"),
    ("samplers", -0.28, "samplers/loop", "one row of the plan after another"),
    ("denoisers", -0.22, "denoisers/network", "state to E[x_0 | x_t] and its error law"),
    ("processes", -0.14, "processes, bases", "moments, coefficients, Wiener estimate"),
    ("nets", -0.12, "nets/unet", "what the Wiener filter leaves out"),
    ("tasks", -0.29, "tasks/restore", "members to images and a record"),
    ("report", 0.0, "report, data/formats", "a page, and files like the input"),
]
"""Stations of an image: room, place in it (-1/2 to 1/2 of its width), module, what happens."""

LINKS = {
    (1, 2): -0.1, (2, 3): -0.1, (3, 4): 0.05, (4, 5): 0.0, (5, 6): 0.0, (6, 7): 0.0, (7, 8): 0.0, (8, 9): -0.12,
    (9, 6): -0.28, (5, 10): 0.0, (10, 11): -0.55,
}  # fmt: skip
"""From station to station, and how far the line bends."""


# ---- reading -----------------------------------------------------------------------------------------------------


def room_of(path: Path) -> str:
    """The folder or module directly below the package that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def sources() -> dict[str, list[Path]]:
    """The files of every room; the public list `__init__` is none, it points anywhere."""
    found: dict[str, list[Path]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        if room_of(path) != "__init__":
            found.setdefault(room_of(path), []).append(path)
    return found


def lines() -> dict[str, int]:
    """Lines of code, comments and docstrings of every room."""
    return {
        room: sum(len(p.read_text(encoding="utf-8").splitlines()) for p in paths) for room, paths in sources().items()
    }


def _nodes(tree: ast.AST, typing: bool) -> Iterator[ast.AST]:
    """All nodes; without `typing` nothing below `if TYPE_CHECKING`."""
    for node in ast.iter_child_nodes(tree):
        if not typing and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        yield from _nodes(node, typing)


def imported(source: str, *, typing: bool = False) -> set[str]:
    """The modules of the package that a source imports, at any depth, by absolute name."""
    names: list[str] = []
    for node in _nodes(ast.parse(source), typing):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "retrodict":
            names += [f"retrodict.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.append(node.module or "")
    return {name.removeprefix("retrodict.") for name in names if name.startswith("retrodict.")}


def arrows(*, typing: bool = False) -> dict[str, set[str]]:
    """Room -> rooms that it imports."""
    found = {}
    for room, paths in sources().items():
        modules = set().union(*(imported(p.read_text(encoding="utf-8"), typing=typing) for p in paths))
        found[room] = {module.split(".")[0] for module in modules} - {room}
    return found


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """A circle of imports, if there is one."""
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return [error.args[1]]
    return []


def floors(graph: dict[str, set[str]]) -> dict[str, int]:
    """Floor of every room, 0 at the bottom: one above the highest room that it imports."""
    found: dict[str, int] = {}
    for room in graphlib.TopologicalSorter(graph).static_order():
        found[room] = 1 + max((found[target] for target in graph.get(room, ())), default=-1)
    return found


def reduced(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """The arrows that do not follow from longer ways."""
    below: dict[str, set[str]] = {}
    for room in graphlib.TopologicalSorter(graph).static_order():
        targets = graph.get(room, set())
        below[room] = targets.union(*(below[target] for target in targets))
    return {room: {t for t in ts if not any(t in below[o] for o in ts - {t})} for room, ts in graph.items()}


# ---- drawing -----------------------------------------------------------------------------------------------------

STEP, HEIGHT, WIDE = 66.0, 42.0, 0.115
INK, FAINT, PATH = "#2b3440", "#c3c9d1", "#c8391d"
FILL = {"ground": "#e4e6e9", "wall": "#f4e3bf", "diffusion": "#cfe2f3", "top": "#dcebd6"}
EDGE = {"ground": "#8b929b", "wall": "#9a6a16", "diffusion": "#3f75a8", "top": "#5c8a4b"}


def kind(room: str) -> str:
    """What a room is for the eye."""
    return "ground" if room in GROUND else "wall" if room in WALLS else "diffusion" if room in DIFFUSION else "top"


def draw(path: Path) -> None:
    """The picture."""
    import matplotlib as mpl

    mpl.use("svg" if path.suffix == ".svg" else "agg")
    mpl.rcParams.update({"svg.hashsalt": "retrodict", "font.family": "DejaVu Sans", "font.size": 8.5})
    import matplotlib.pyplot as plt
    from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

    graph, size = arrows(), lines()
    floor, short = floors(graph), reduced({r: t - set(GROUND) for r, t in graph.items() if r not in GROUND})
    stray = iter(range(1080, 4000, 110))
    middle = {room: PLACE[room] if room in PLACE else next(stray) for room in graph}
    width = {room: max(size[room] * WIDE, 88.0) for room in graph}
    bottom = {room: floor[room] * STEP for room in graph}
    top = max(floor.values())
    right = max(middle[r] + width[r] / 2 for r in graph) + 20

    figure = plt.figure(figsize=(9.6, 9.6 * ((top + 1) * STEP + 186) / (right + 45)))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(-45, right), ylim=(-174, (top + 1) * STEP + 12))
    axes.axis("off")

    for level in range(top + 1):
        shade = "#f7f8f9" if level % 2 else "#eef1f4"
        axes.add_patch(Rectangle((-8, level * STEP - 14), right, STEP, color=shade, lw=0, zorder=0))
        axes.text(-26, level * STEP + HEIGHT / 2, str(level), color="#9aa3ad", ha="center", va="center", size=10)

    def link(a: str, b: str, color: str, thick: float, order: float) -> None:
        reach = (middle[b] - middle[a]) * 0.12
        x0 = middle[a] + max(-width[a] * 0.4, min(width[a] * 0.4, reach * 3))
        x1 = middle[b] - max(-width[b] * 0.4, min(width[b] * 0.4, reach))
        axes.add_patch(
            FancyArrowPatch(
                (x0, bottom[a]), (x1, bottom[b] + HEIGHT), arrowstyle="-|>", mutation_scale=9 if thick > 0.8 else 6,
                color=color, lw=thick, shrinkA=0, shrinkB=0, zorder=order,
            )
        )  # fmt: skip

    for room, targets in graph.items():
        for target in targets - set(GROUND):
            if target not in short.get(room, ()):
                link(room, target, FAINT, 0.6, 1)
    for room, targets in short.items():
        for target in targets:
            link(room, target, INK, 1.1, 3.5)  # over the rooms that it passes: they are not its start

    for room in graph:
        x, y, look = middle[room] - width[room] / 2, bottom[room], kind(room)
        axes.add_patch(
            FancyBboxPatch(
                (x, y), width[room], HEIGHT, boxstyle="round,pad=0,rounding_size=3", facecolor=FILL[look],
                edgecolor=EDGE[look], lw=2.6 if look == "wall" else 1.0, zorder=3,
            )
        )  # fmt: skip
        axes.text(x + 6, y + HEIGHT - 10, room, va="center", color=INK, weight="bold", zorder=6)
        count = {"ha": "right", "va": "center", "color": "#6b7580", "size": 6.5, "zorder": 6}
        axes.text(x + width[room] - 6, y + 9, f"{size[room]:,}", **count)

    _way(axes, middle, width, bottom)
    _words(axes, top, graph, floor)
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=110)
    plt.close(figure)


def _way(axes: Any, middle: dict[str, float], width: dict[str, float], bottom: dict[str, float]) -> None:
    from matplotlib.patches import FancyArrowPatch

    at = {}
    for number, (room, place, _, _) in enumerate(WAY, start=1):
        at[number] = (middle[room] + place * width[room], bottom[room] + 13)
    for (a, b), bend in LINKS.items():
        axes.add_patch(
            FancyArrowPatch(
                at[a], at[b], connectionstyle=f"arc3,rad={bend}", arrowstyle="-|>", mutation_scale=10, color=PATH,
                lw=1.8, alpha=0.85, ls=(0, (3, 2)) if b < a else "-", shrinkA=8, shrinkB=8, zorder=4,
            )
        )  # fmt: skip
    for number, (x, y) in at.items():
        axes.plot([x], [y], "o", ms=13, color=PATH, mec="white", mew=1.0, zorder=7)
        axes.text(x, y - 0.4, str(number), color="white", ha="center", va="center", weight="bold", size=7.5, zorder=8)


def _words(axes: Any, top: int, graph: dict[str, set[str]], floor: dict[str, int]) -> None:
    x, y = 4.0, top * STEP + 30
    axes.text(x, y, "The house of retrodict", weight="bold", color=INK, size=11.5, va="center")
    count = f"{len(graph)} rooms on {1 + max(floor.values())} floors, {sum(map(len, graph.values()))} arrows, "
    axes.text(x, y - 21, count + f"{len(circles(graph))} circles", color=INK, size=7.5, va="center")
    notes = [
        ("top", "what users call, and what they read"),
        ("diffusion", "diffusion"),
        ("wall", "walls: know nothing of diffusion"),
        ("ground", "ground: open to all, no arrows drawn"),
    ]
    y -= 32
    for look, text in notes:
        y -= 19
        axes.plot([x + 7], [y], "s", ms=8, color=FILL[look], mec=EDGE[look], mew=2.0 if look == "wall" else 1.0)
        axes.text(x + 22, y, text, va="center", color=INK, size=7.5)
    for line in ("Dark arrow: imports; gray: follows from dark.", "Width and number: lines of code."):
        y -= 19
        axes.text(x, y, line, color=INK, size=7, va="center")
    axes.text(4, -32, "The way of one image through restore", weight="bold", color=PATH, size=8.5, va="center")
    axes.text(360, -32, "dashed: once for every network call", color=PATH, size=7.5, va="center")
    for number, (_, _, module, what) in enumerate(WAY, start=1):
        x, y = 4 + 550 * ((number - 1) // 6), -56 - 20 * ((number - 1) % 6)
        axes.plot([x + 8], [y], "o", ms=9.5, color=PATH)
        axes.text(x + 8, y - 0.3, str(number), color="white", ha="center", va="center", weight="bold", size=6.5)
        axes.text(x + 26, y, module, va="center", color=INK, weight="bold", size=7.5)
        axes.text(x + 190, y, what, va="center", color=INK, size=7.5)


# ---- tracing -----------------------------------------------------------------------------------------------------


def entered(work: Any) -> list[str]:
    """Package files whose functions run during `work()`, in the order they are entered; module bodies do not count."""
    found: dict[str, None] = {}

    def look(frame: Any, event: str, _: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_name != "<module>" and code.co_filename.startswith(str(PACKAGE)):
            found.setdefault(str(Path(code.co_filename).relative_to(PACKAGE)))

    threading.setprofile(look)
    sys.setprofile(look)
    try:
        work()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return list(found)


def trace() -> None:
    """Print the files that the restoration of the shipped slice enters, without and with an output folder."""
    from retrodict import open_model, read, restore, write
    from retrodict.models.instrument import measure

    with tempfile.TemporaryDirectory() as folder:
        clean = read(PACKAGE / "assets" / "chest-1.dcm", clip=False)
        path = Path(folder) / "measured.dcm"
        write(measure(clean, open_model("ct-simulated"), seed=0), path, like=clean, role="mean", description="measured")

        def once(**out: Any) -> None:
            restore(path, samples=2, steps=1, **out)

        once(out=Path(folder) / "warm")
        for title, options in (("restore(path)", {}), ("restore(path, out)", {"out": Path(folder) / "out"})):
            files = entered(lambda options=options: once(**options))
            rooms = {name.split("/")[0] for name in files}
            print(f"{title}: {len(files)} files in {len(rooms)} rooms")
            for name in files:
                print(f"  {name}")


def main() -> None:
    """Print the counts, and draw or trace."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="print, and draw nothing")
    parser.add_argument("--typing", action="store_true", help="count imports below TYPE_CHECKING too")
    parser.add_argument("--trace", action="store_true", help="print the files that restore(path) enters")
    parser.add_argument("-o", "--output", type=Path, default=PICTURE, help="picture (.svg or .png)")
    arguments = parser.parse_args()
    if arguments.trace:
        trace()
        return
    graph = arrows(typing=arguments.typing)
    found, size = circles(graph), lines()
    print(f"{len(graph)} rooms, {sum(map(len, graph.values()))} arrows, {len(found)} circles {found or ''}".rstrip())
    if found:
        raise SystemExit(1)
    level = floors(graph)
    print(f"{1 + max(level.values())} floors")
    for room in sorted(graph, key=lambda name: (-level[name], name)):
        print(f"  {level[room]}  {room:<10}{size[room]:>6} lines -> {', '.join(sorted(graph[room]))}")
    if not arguments.check:
        draw(arguments.output)
        print(arguments.output)


if __name__ == "__main__":
    main()
