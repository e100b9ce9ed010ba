"""Ways to damage what is text: configurations, model records, curves, overrides, command lines; and tensors."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from random import Random
from typing import Any

import yaml

from fuzz_damage import BAD_NUMBERS, BAD_TEXT, BYTES, Damage

VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, -200, 64, 2**31, 2**63, 10**30, -0.0, 0.5, 1e-300, 1e300, float("nan"), float("inf"),
    "", "x", "HU", "nan", "1", "../../etc/passwd", "/dev/zero", "\x1b[31m", [], {}, [1], [[]], [None], [0, 0], [-1, 64],
    [64, 64, 64, 64, 64], [1e9, 1e9], ["a", "b"], {"name": "unet"}, {"name": "vp", "options": {}}, {"": 0}, {"a": {}},
    "x" * 100_000, list(range(5000)), "2020-13-45", "**", "[/nope]",
)  # fmt: skip


def places(record: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place inside a nested record; of long lists of numbers three."""
    if isinstance(record, dict):
        items = list(record.items())
    elif isinstance(record, list):
        items = list(enumerate(record))[: 3 if len(record) > 8 else None]
    else:
        items = []
    return [p for k, v in items for p in [(*path, k), *places(v, (*path, k))]]


def mutated(record: Any, rng: Random) -> Any:
    """A value that cannot be meant, a key too many or too few, in one to three places."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        found = places(record)
        if not found:
            return record
        *parents, last = rng.choice(found)
        target = record
        for part in parents:
            target = target[part]
        kind = rng.randrange(8)
        if kind == 0 and isinstance(target, dict):
            del target[last]
        elif kind == 1 and isinstance(target, dict):
            target[rng.choice(("naem", "", "x" * 50, "options", "name", "__class__", "\x1b[31m"))] = rng.choice(VALUES)
        elif kind == 2 and isinstance(target, dict):
            target[str(last) + rng.choice(("s", " ", "_"))] = target.pop(last)
        elif kind == 3 and isinstance(target[last], list):
            target[last] = target[last] * rng.choice((0, 2, 100))
        elif kind == 4 and isinstance(target[last], int | float):
            target[last] = target[last] * rng.choice((-1, 0, 1e-30, 1e30, 1000, 0.5))
        else:
            target[last] = rng.choice(VALUES)
    return record


def json_value(path: Path, rng: Random) -> None:
    path.write_text(json.dumps(mutated(json.loads(path.read_text()), rng)), errors="replace")


def yaml_value(path: Path, rng: Random) -> None:
    path.write_text(yaml.safe_dump(mutated(yaml.safe_load(path.read_text()), rng)), errors="replace")


def json_text(path: Path, rng: Random) -> None:
    """What no parser likes: depth, size, numbers of thousands of digits, several documents, other encodings."""
    text = path.read_text()
    deep = rng.choice((500, 20_000, 200_000))
    broken = (
        "[" * deep, "[" * deep + "]" * deep, '{"a":' * deep, '{"format": ' + "9" * 5000 + "}", text[:-2], text + text,
        "null", "[]", '"text"', "NaN", "", '{"format": "retrodict-model-1"}', '{"a": 1, "a": 2}', "\ufeff" + text,
        text.replace(":", ": -", 3), " " * 5_000_000,
    )  # fmt: skip
    chosen = rng.randrange(len(broken) + 2)
    if chosen < len(broken):
        path.write_text(broken[chosen])
    else:
        path.write_bytes(text.encode("utf-16" if chosen == len(broken) else "utf-32"))


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{b}: &{b} [{','.join(['*' + a] * 9)}]\n" for a, b in zip("abcdefghi", "bcdefghij", strict=True)
)
SCALARS = ("2020-13-45", "!!int abc", "!!float x", "!!timestamp 99", "!!binary '%'",
           "!!python/object/apply:os.system [id]",
           "!!set [1]", "!!omap {a: 1}", "0o99", "1:99:99", ".nan", "1e999", "9" * 5000, "0b", "&a [*a]", "*x", "<<: 1",
           "? [a]", "'", '"\\x"', "\t", "%YAML 9.9", "---\n...\n---", "2001-01-01 99:00:00", "!!null x", "!!bool x",
           "{a: 1, a: 2}", "[1", "{", "- a", "@", "`", "!", "!<x> y", "!!map [1]", "!!seq {a: b}", "=", "1_0", "\x07",
           "2002-12-14T21:59:43.1-25:99", "!!int ''", "!!int '-'", "!!float '-'", "!!timestamp ''",
           "? {a: b}\n: c")  # fmt: skip


def yaml_text(path: Path, rng: Random) -> None:
    """Bombs, depth, tags, dates that are none, merge keys, and other things that YAML has."""
    text = path.read_text()
    kind = rng.randrange(8)
    deep = rng.choice((500, 20_000))
    if kind == 0:
        path.write_text(BOMB + rng.choice(("", "name: *j\n", "<<: *j\n")) + text)
    elif kind == 1:
        path.write_text(text + "card: " + rng.choice(("[" * deep, "{a: " * deep, "[" * deep + "]" * deep)))
    elif kind == 2:
        path.write_text("\n".join(" " * i + "a:" for i in range(rng.choice((100, 2000)))))
    elif kind == 3:
        path.write_text("&a\n<<: *a\n" + text)
    elif kind == 4:
        path.write_text(text + f"# {'x' * 100}\n" * rng.choice((1000, 100_000)))
    elif kind == 5:
        path.write_bytes(text.encode(rng.choice(("utf-16", "utf-32", "utf-8-sig"))))
    else:
        lines = text.splitlines()
        i = rng.randrange(len(lines))
        key = lines[i].split(":")[0]
        lines[i] = f"{key}: {rng.choice(SCALARS)}"
        path.write_text("\n".join(lines))


JSON: dict[str, Damage] = {"value": json_value, "text": json_text}
YAML: dict[str, Damage] = {"value": yaml_value, "text": yaml_text}


# ---- tensors ---------------------------------------------------------------------------------------------------------


def tensor_header(path: Path, rng: Random) -> None:
    """Names, types, shapes and offsets in the header of a safetensors file."""
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    head, body = json.loads(data[8 : 8 + size]), data[8 + size :]
    name = rng.choice([n for n in head if n != "__metadata__"])
    entry, kind = head[name], rng.randrange(7)
    if kind == 0:
        entry["dtype"] = rng.choice(("F64", "I64", "BOOL", "F8_E4M3", "BF16", "X", "", None))
    elif kind == 1:
        entry["shape"] = rng.choice(([], [1], entry["shape"][::-1], [*entry["shape"], 1], [2**62, 4], [-1], [0], "x"))
    elif kind == 2:
        entry["data_offsets"] = rng.choice(([0, 0], [0, 2**40], [-1, 4], [4, 0], [1], None))
    elif kind == 3:
        del head[name]
    elif kind == 4:
        head[name + rng.choice((".extra", "\x1b[31m", "[/x]"))] = head.pop(name)
    elif kind == 5:
        head["more"] = {"dtype": "F32", "shape": [1], "data_offsets": [len(body), len(body) + 4]}
        body += b"\0" * 4
    else:
        head = rng.choice(([], {}, None, {"__metadata__": {"a": 1}}))
    text = json.dumps(head).encode()
    size = rng.choice((len(text),) * 6 + (0, 2**40, 2**63, len(text) - 1))
    path.write_bytes(struct.pack("<Q", size) + text + body)


def tensor_values(path: Path, rng: Random) -> None:
    """NaN, infinities and absurd sizes among the weights; other types and shapes, well formed."""
    import torch
    from safetensors.torch import load, save

    tensors = load(path.read_bytes())
    name = rng.choice(list(tensors))
    value, kind = tensors[name].clone(), rng.randrange(6)
    if kind < 3 and value.is_floating_point() and value.numel():
        flat = value.reshape(-1)
        flat[rng.randrange(len(flat))] = (float("nan"), float("inf"), 1e38)[kind]
    elif kind == 3:
        value = value.to(rng.choice((torch.float64, torch.int64, torch.bfloat16, torch.complex64, torch.bool)))
    elif kind == 4:
        value = value[None] if rng.random() < 0.5 else value.new_zeros(3)
    else:
        del tensors[name]
    if kind != 5:
        tensors[name] = value
    path.write_bytes(save({n: t.contiguous() for n, t in tensors.items()}))


TENSORS: dict[str, Damage] = {"header": tensor_header, "values": tensor_values}

RECORDS: dict[str, dict[str, Damage]] = {
    ".json": {**JSON, **{k: BYTES[k] for k in ("flip", "truncate", "splice", "empty", "foreign")}},
    ".yaml": {**YAML, **{k: BYTES[k] for k in ("flip", "truncate", "splice", "empty", "foreign")}},
    ".safetensors": {**TENSORS, **{k: BYTES[k] for k in ("flip", "truncate", "lengths", "empty", "foreign")}},
}


# ---- words -----------------------------------------------------------------------------------------------------------

KEYS = ("name", "training.steps", "process.name", "process.options", "process.options.x.y", "data.groups", "spacing",
        "network.options.width", "network.options.multipliers", "card", "card.a.b", "training", "data.patch", "bands",
        "intensity.scale", "data.root", "level", "predicts", "start_from", "training.threads",
        "data.groups.0.name")  # fmt: skip


def override(rng: Random) -> str:
    """A word after --set."""
    key = rng.choice((*KEYS, "", ".", "..", "a..b", "\x1b[31m.x", "x" * 5000, ".".join("a" * 3000)))
    value = rng.choice((*SCALARS, *BAD_NUMBERS, *BAD_TEXT, BOMB, "[" * 20_000, "{a: " * 3000, *map(str, VALUES)))
    return rng.choice((f"{key}={value}", f"{key}={value}", f"{key}={value}", key, f"={value}", f"{key} = {value}"))


COMMANDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "restore": (("{in}", "-o", "{out}", "--model", "{model}", "--samples", "2", "--steps", "1"),
                ("--samples", "--steps", "--rule", "--grid", "--seed", "--spacing", "--unit", "--tile", "--spread",
                 "--mtf", "--nps", "--device", "--precision", "--threads", "--model")),
    "fit": (("{config}", "-o", "{out}", "--dry-run"), ("--set",)),
    "evaluate": (("{evaluation}", "-o", "{out}"), ("--truth", "--method", "--measured", "--data-range", "--unit",
                                                  "--spacing")),
    "measure nps": (("{in}", "-o", "{out}.json"), ("--repeats", "--size", "--count", "--region", "--slices",
                                                  "--detrend", "--window", "--spacing", "--unit", "--at", "--seed")),
    "measure mtf": (("{in}", "-o", "{out}.json"), ("--kind", "--region", "--slices", "--diameter", "--radius",
                                                  "--half-width", "--window", "--spacing", "--at")),
    "info": (("{model}",), ()),
}  # fmt: skip
WORDS = ("", " ", "-1", "0", "1", "2", "nan", "inf", "1e400", "1,1", "1,", ",", "1:", ":", "3:1", "0:4,0:4", "a=b", "=",
         "-", "9" * 30, "x" * 5000, "**", "[/nope]", "\x1b[31m", "a\nb", "\u202e", "/dev/zero", "/", ".", "none",
         "auto", "ct", "matched", "ddim", "HU", "--", "1.0,1.0", "1,1,1,1", "0,0", "-1,-1", "\udcff", "5,5",
         "0:9,0:9")  # fmt: skip


SWITCHES = ("--help", "--nope", "--force", "--point", "--json", "--quiet")


def command(name: str, rng: Random, known: dict[str, str]) -> list[str]:
    """A command line with words that nobody meant; `known` fills in paths that exist."""
    words, flags = COMMANDS[name]
    line = [w.format(**known) for w in words]
    for _ in range(rng.choice((1, 1, 2, 3))):
        kind = rng.randrange(5)
        if kind <= 2 and flags:
            line += [rng.choice(flags), rng.choice((*WORDS, *known.values()))]
        elif kind == 3 and line:
            line[rng.randrange(len(line))] = rng.choice(WORDS)
        elif line:
            line.insert(
                rng.randrange(len(line)),
                rng.choice((*WORDS, "--help", "--nope", "--force", "--point", "--json", "--quiet")),
            )
    return [*name.split(), *(w.replace("\0", "") for w in line)]
