"""Write the tables of all rules into docs/concepts-samplers.md, from `RULES` and `STATEFUL`.

python scripts/sampler_table.py
"""

from __future__ import annotations

from pathlib import Path

from retrodict.samplers import RULES
from retrodict.samplers.stateful_rules import STATEFUL

PAGE = Path(__file__).resolve().parents[1] / "docs" / "concepts-samplers.md"
BEGIN, END = "<!-- begin: scripts/sampler_table.py -->", "<!-- end -->"


def table() -> str:
    """The two tables as Markdown."""
    lines = [
        "| rule | calls a step | order | steps, grid | random | posterior | source |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, r in RULES.items():
        posterior = "exact on Gaussian data" if r.exact and r.posterior else "yes" if r.posterior else "no"
        random = "start" if r.deterministic else "every step"
        cells = (f"`{name}`", r.calls_per_step, r.order, f"{r.steps}, {r.grid}", random, posterior, r.reference)
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    lines += ["", "| stateful rule | steps, grid | random | posterior | source |", "|---|---|---|---|---|"]
    for name, s in STATEFUL.items():
        random = "start" if s.deterministic else "every step"
        lines.append(f"| `{name}` | {s.steps}, {s.grid} | {random} | no | {s.reference} |")
    return "\n".join(lines)


def written(page: str) -> str:
    """The page with the tables between their marks."""
    head, rest = page.split(BEGIN)
    return f"{head}{BEGIN}\n{table()}\n{END}{rest.split(END, 1)[1]}"


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
