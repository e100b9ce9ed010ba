"""The rules whose scalars depend on the data: each a frozen dataclass, and one line in `STATEFUL`."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from retrodict._check import InputError, choice
from retrodict.processes.process import Process
from retrodict.samplers.stateful import StatefulPlan, StatefulRule
from retrodict.samplers.stateful_rules.adaptive import AdaptiveSDE, RungeKutta
from retrodict.samplers.stateful_rules.corrector import PredictorCorrector
from retrodict.samplers.stateful_rules.evodiff import EVODiff
from retrodict.samplers.stateful_rules.extrapolation import LML
from retrodict.samplers.stateful_rules.gibbs import DenoisingMCMC

__all__ = ["STATEFUL", "Stateful", "make_stateful_plan"]


class Stateful(NamedTuple):
    """A rule, its default steps and grid, and its source.

    None is a posterior sampler: without a card nothing vouches for the spread.
    """

    build: Callable[..., StatefulRule]
    steps: int
    grid: str
    reference: str
    deterministic: bool


STATEFUL: dict[str, Stateful] = {
    "predictor_corrector": Stateful(
        PredictorCorrector, 64, "time", "Song et al. 2021, Langevin corrector, per item and preconditioned", False
    ),
    "evodiff": Stateful(EVODiff, 16, "logsnr", "Li, Chen, Zeng 2025, as released", True),
    "lml": Stateful(LML, 16, "logsnr", "Wang et al. 2025, in its stable form", True),
    "dmcmc": Stateful(DenoisingMCMC, 8, "logsnr", "Kim, Ye 2023, denoising Langevin-Gibbs", False),
    "rk45": Stateful(RungeKutta, 1, "time", "Dormand, Prince 1980 on the probability flow", True),
    "adaptive_sde": Stateful(AdaptiveSDE, 1, "time", "Jolicoeur-Martineau et al. 2021", False),
}
"""Rules by name; `steps` and `grid` are the defaults of the times that they are given."""


def make_stateful_plan(
    name: str, process: Process, times: Tensor, spectrum: Tensor | None = None, **options: object
) -> StatefulPlan:
    """Plan of rule `name` of `STATEFUL` on falling times `(N + 1,)`; unknown rules and options are errors."""
    entry = STATEFUL[choice("rule", name, STATEFUL)]
    try:
        rule = entry.build(**options)
    except TypeError as error:
        raise InputError(f"rule {name!r}", str(error), "options that this rule knows") from error
    return StatefulPlan(process, times, rule, name, spectrum)
