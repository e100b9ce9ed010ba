"""The list of processes in the documentation: its table and one picture for each.

    python scripts/process_pages.py             # write docs/processes/index.md and docs/images/processes/*.png
    python scripts/process_pages.py --table     # the table alone
    python scripts/process_pages.py --check     # exit code 1 where table or pictures are not those of the package
    python scripts/process_pages.py --only vp,ve

`retrodict processes` shows the same list, and `retrodict processes NAME --plot FILE.png` the same picture.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from retrodict.processes import PROCESSES
from retrodict.tasks.processes import markdown

ROOT = Path(__file__).resolve().parents[1]
PAGE, IMAGES = ROOT / "docs" / "processes" / "index.md", ROOT / "docs" / "images" / "processes"
BEGIN, END = "<!-- processes: written by scripts/process_pages.py -->\n", "<!-- end of processes -->\n"
MOST = 80_000
"""Bytes of a picture."""


def with_table(text: str) -> str:
    """The page with the table of today between its marks."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{markdown()}\n{END}{rest.split(END)[1]}"


def missing() -> list[str]:
    """What is not as the package says: the table, and pictures that are missing, too large, or of no process."""
    found = [] if PAGE.read_text() == with_table(PAGE.read_text()) else [f"{PAGE}: another table"]
    pictures = {path.stem: path for path in IMAGES.glob("*.png")}
    found += [f"{IMAGES / name}.png: missing" for name in PROCESSES if name not in pictures]
    found += [f"{path}: no such process" for name, path in pictures.items() if name not in PROCESSES]
    return found + [f"{path}: more than {MOST} bytes" for path in pictures.values() if path.stat().st_size > MOST]


def main() -> None:
    """Write or check."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--only", default=",".join(PROCESSES))
    arguments = parser.parse_args()
    if arguments.check:
        said = missing()
        print("\n".join(said) or "table and pictures are those of the package")
        sys.exit(bool(said))
    PAGE.write_text(with_table(PAGE.read_text()))
    if not arguments.table:
        from retrodict.tasks.process_picture import picture

        IMAGES.mkdir(parents=True, exist_ok=True)
        for name in arguments.only.split(","):
            png = picture(name)
            (IMAGES / f"{name}.png").write_bytes(png)
            print(f"{name}: {len(png)} bytes", flush=True)


if __name__ == "__main__":
    main()
