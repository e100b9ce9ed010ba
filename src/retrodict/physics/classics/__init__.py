"""Classical reconstructions: pure functions of a `Measurement`, each with a record of what it did."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from retrodict.physics.classics.algebraic import cg_sense, cgls, os_sart, sart, sirt, tikhonov
from retrodict.physics.classics.backprojection import FILTERS, fbp, fdk
from retrodict.physics.classics.choice import choose
from retrodict.physics.classics.counts import ml_em, os_em, richardson_lucy
from retrodict.physics.classics.linear import g_factor, sense, wiener
from retrodict.physics.classics.result import Reconstruction
from retrodict.physics.classics.variational import admm, fista

__all__ = [
    "CLASSICS",
    "FILTERS",
    "Reconstruction",
    "admm",
    "cg_sense",
    "cgls",
    "choose",
    "fbp",
    "fdk",
    "fista",
    "g_factor",
    "ml_em",
    "os_em",
    "os_sart",
    "richardson_lucy",
    "sart",
    "sense",
    "sirt",
    "tikhonov",
    "wiener",
]

CLASSICS: Mapping[str, Callable[..., Reconstruction]] = {
    "fbp": fbp,
    "fdk": fdk,
    "sirt": sirt,
    "sart": sart,
    "os_sart": os_sart,
    "cgls": cgls,
    "tikhonov": tikhonov,
    "wiener": wiener,
    "ml_em": ml_em,
    "os_em": os_em,
    "richardson_lucy": richardson_lucy,
    "fista": fista,
    "admm": admm,
    "sense": sense,
    "cg_sense": cg_sense,
}
"""Methods by name, called as method(measurement, **options); every entry has a case in `tests/classics_cases.py`."""
