"""The faults of the mutation run: those of the list, and the sample of all that could be changed."""

from __future__ import annotations

import ast
import copy
import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "retrodict"


@dataclass(frozen=True)
class Mutant:
    """One fault: the changed text of a file of the package, or why there is none (`stale`)."""

    name: str
    file: str
    breaks: str
    text: str = ""
    equivalent: str = ""
    stale: str = ""
    layer: str = "list"


# ---- the list --------------------------------------------------------------------------------------------------------


def listed(records: list[dict]) -> list[Mutant]:
    """The faults of the list; an anchor that is not there exactly once makes a stale one."""
    return [_listed(record) for record in records]


def _listed(record: dict) -> Mutant:
    """The fault at its anchor, or at the first of the other places where it may stand (`moved`)."""
    first, *rest = (_placed(record | other) for other in ({}, *record.get("moved", [])))
    return next((m for m in (first, *rest) if not m.stale), first)


def _placed(record: dict) -> Mutant:
    found = [_edited(record, path) for path in sorted(PACKAGE.glob(record["file"]))]
    good = [f for f in found if not f.stale]
    if len(good) == 1:
        return good[0]
    why = f"in {len(good)} files" if good else "; ".join(f.stale for f in found[:2]) or "no such file"
    about = (record["id"], record["file"], record["breaks"])
    return Mutant(*about, equivalent=record.get("equivalent", ""), stale=why)


def _edited(record: dict, path: Path) -> Mutant:
    about = (record["id"], str(path.relative_to(PACKAGE)), record["breaks"])
    reason, text = record.get("equivalent", ""), path.read_text()
    place = _extent(text, record["within"]) if "within" in record else (0, len(text))
    if place is None:
        return Mutant(*about, equivalent=reason, stale=f"no {record['within']}")
    changed = text[place[0] : place[1]]
    for old, new in record["edits"] if "edits" in record else [[record["old"], record["new"]]]:
        if changed.count(old) != 1:
            return Mutant(*about, equivalent=reason, stale=f"{changed.count(old)} times in the text: {old!r}")
        changed = changed.replace(old, new)
    changed = text[: place[0]] + changed + text[place[1] :]
    try:
        same = ast.dump(ast.parse(changed)) == ast.dump(ast.parse(text))
    except SyntaxError as error:
        return Mutant(*about, equivalent=reason, stale=f"the changed text is no Python: {error}")
    return Mutant(*about, changed, reason, "changes nothing" if same else "")


def _extent(text: str, name: str) -> tuple[int, int] | None:
    """First and last character of the function or class called `name`, such as Basis.tabulate."""
    body = ast.parse(text).body
    for part in name.split("."):
        node = next((n for n in body if getattr(n, "name", None) == part), None)
        if node is None:
            return None
        body = node.body
    lines = text.splitlines(keepends=True)
    return len("".join(lines[: node.lineno - 1])), len("".join(lines[: node.end_lineno]))


# ---- the sample ------------------------------------------------------------------------------------------------------

FLIPPED = {ast.Lt: ast.GtE, ast.GtE: ast.Lt, ast.Gt: ast.LtE, ast.LtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq}
FLIPPED |= {ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In}
OTHER = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Pow: ast.Mult}
OTHER |= {ast.FloorDiv: ast.Div, ast.Mod: ast.FloorDiv, ast.MatMult: ast.Mult, ast.BitAnd: ast.BitOr}
SILENT = ("InputError", "NotCalibratedError", "TypeVar", "field")  # words of errors and declarations are no numerics


def mutate(node: ast.AST) -> tuple[str, ast.AST] | None:
    """What a node becomes, and the name of the change; None where nothing is done to its kind."""
    new = copy.deepcopy(node)
    if isinstance(new, ast.Compare) and len(new.ops) == 1 and type(new.ops[0]) in FLIPPED:
        new.ops = [FLIPPED[type(new.ops[0])]()]
        return "comparison", new
    if isinstance(new, ast.BinOp) and type(new.op) in OTHER:
        new.op = OTHER[type(new.op)]()
        return "operator", new
    if isinstance(new, ast.BoolOp):
        new.op = ast.Or() if isinstance(new.op, ast.And) else ast.And()
        return "and-or", new
    if isinstance(new, ast.UnaryOp) and isinstance(new.op, ast.USub | ast.Not):
        return "sign", new.operand
    if isinstance(new, ast.Constant) and type(new.value) in (int, float, bool):
        new.value = not new.value if isinstance(new.value, bool) else new.value + 1
        return "constant", new
    if isinstance(new, ast.AugAssign) or (isinstance(new, ast.Expr) and isinstance(new.value, ast.Call)):
        return "statement", ast.Pass()
    if isinstance(new, ast.Call) and len(new.args) == 2 and not any(isinstance(a, ast.Starred) for a in new.args):
        new.args.reverse()
        return "arguments", new
    return None


def sites(file: str, tree: ast.Module) -> list[tuple[str, str, ast.AST, ast.AST]]:
    """(name, words, node, what it becomes) of every site of a module."""
    found: list[tuple[str, str, ast.AST, ast.AST]] = []
    seen: Counter[str] = Counter()

    def visit(node: ast.AST, place: str) -> None:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            place = f"{place}.{node.name}" if place else node.name
            children = node.body
        elif isinstance(node, ast.JoinedStr | ast.Raise | ast.Assert | ast.Import | ast.ImportFrom) or (
            isinstance(node, ast.Call) and getattr(node.func, "id", "") in SILENT
        ):
            return
        elif isinstance(node, ast.AnnAssign):
            children = [node.value] if node.value is not None else []
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            return
        else:
            children = list(ast.iter_child_nodes(node))
        changed = mutate(node)
        if changed is not None:
            words = f"{ast.unparse(node)} -> {ast.unparse(changed[1])}"
            key = f"{place}:{changed[0]}:{words}"
            seen[key] += 1
            digest = hashlib.sha256(f"{file}:{key}:{seen[key]}".encode()).hexdigest()[:6]
            found.append((f"{file}:{place or 'module'}:{changed[0]}:{digest}", words, node, changed[1]))
        for child in children:
            visit(child, place)

    visit(tree, "")
    return found


class _Replace(ast.NodeTransformer):
    def __init__(self, node: ast.AST, new: ast.AST) -> None:
        self.node, self.new = node, new

    def visit(self, node: ast.AST) -> ast.AST:
        return self.new if node is self.node else self.generic_visit(node)


def sampled(rooms: dict[str, dict], seed: int, equivalent: dict[str, str]) -> list[Mutant]:
    """As many sites of each room as it says, those of the smallest hash."""
    out = []
    taken: set[str] = set()
    for room in rooms.values():
        found = []
        own = [file for file in files(room) if file not in taken]
        taken.update(own)
        for file in own:
            tree = ast.parse((PACKAGE / file).read_text())
            found += [(hashlib.sha256(f"{seed}:{s[0]}".encode()).hexdigest(), file, tree, s) for s in sites(file, tree)]
        for _, file, tree, (name, words, node, new) in sorted(found, key=lambda item: item[0])[: room["sample"]]:
            changed = _Replace(node, new).visit(copy.deepcopy(tree, {id(node): node}))
            text = ast.unparse(ast.fix_missing_locations(changed))
            out.append(Mutant(name, file, words, text, equivalent.get(name, ""), layer="sample"))
    return out


def files(room: dict) -> list[str]:
    """Files of a room, relative to the package."""
    return sorted(str(p.relative_to(PACKAGE)) for pattern in room["files"] for p in PACKAGE.glob(pattern))
