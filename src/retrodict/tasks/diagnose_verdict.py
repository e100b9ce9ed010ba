"""Which identities of an exact score hold of a diagnosed model, in words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

__all__ = ["verdict"]

LIMITS = {
    "asymmetry": 0.01,
    "fokker_planck": 0.01,
    "stein": 0.02,
    "turn": 0.02,
    "hyvarinen": 0.02,
    "excess": 0.01,
}
"""How far off each may be and still count as held."""

SIGMAS = 2.0
"""Standard errors between patients that a mean may lie beyond its limit by chance."""

WORDS = {
    "asymmetry": ("gradient of an energy", "asymmetry of the whitened Jacobian", 0.0),
    "fokker_planck": ("moves as its law must", "residual of Fokker-Planck over d_t S", 0.0),
    "stein": ("transport", "Stein's identity in the worst band", 1.0),
    "turn": ("no rotation", "mean of S.K(z - c) over the sizes of both", 0.0),
    "hyvarinen": ("trace and size agree", "(tr A - d + |S|^2)/d", 0.0),
    "excess": ("error orthogonal to the answer", "error that a factor would remove, worst band", 0.0),
}


def verdict(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row for each identity: name, what it is, the worst over times (and its time), the limit, and whether it
    holds: within the limit, or beyond it by no more than two standard errors between patients.
    """
    out = []
    for name, (short, words, exact) in WORDS.items():
        values = [
            (row["t"], *_worst(row, name, exact, record["patients"])) for row in record["times"] if _has(row, name)
        ]
        values = [v for v in values if math.isfinite(v[1])]
        if not values:
            continue
        t, value, sem = max(values, key=lambda v: abs(v[1] - exact) - SIGMAS * v[2])
        off = abs(value - exact)
        held = off - SIGMAS * sem <= LIMITS[name]
        out.append({"name": name, "short": short, "words": words, "t": t, "value": value, "error": sem,
                    "exact": exact, "limit": LIMITS[name], "holds": bool(held)})  # fmt: skip
    return out


def _has(row: Mapping[str, Any], name: str) -> bool:
    return name in row or (name == "excess" and "error" in row)


def _worst(row: Mapping[str, Any], name: str, exact: float, patients: int) -> tuple[float, float]:
    """The value farthest from the exact one, and its standard error between patients."""
    found = [e["excess"] for e in row["error"]] if name == "excess" else row[name]
    found = found if isinstance(found, list) else [found]
    pairs = [(v["mean"], (v["sd"] or 0.0) / math.sqrt(max(patients, 1))) for v in found]
    return max(pairs, key=lambda v: abs(v[0] - exact) - SIGMAS * v[1])
