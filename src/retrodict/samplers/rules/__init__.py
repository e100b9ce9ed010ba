"""The linear samplers: each rule is a function that builds a `Plan`, and one line in `RULES`."""

from __future__ import annotations

from torch import Tensor

from retrodict._check import InputError, choice
from retrodict.processes.process import Process
from retrodict.samplers.plan import Plan, Rule
from retrodict.samplers.rules.adams import deis
from retrodict.samplers.rules.ancestral import ancestral, ddim, matched
from retrodict.samplers.rules.bdia import bdia
from retrodict.samplers.rules.euler import euler
from retrodict.samplers.rules.exponential import exponential, sde_exponential
from retrodict.samplers.rules.gaussian_ode import gaussian_ode
from retrodict.samplers.rules.heun import edm, heun, restart
from retrodict.samplers.rules.multistep import dpmpp2m, sde_dpmpp2m
from retrodict.samplers.rules.pece import pece2, unipc
from retrodict.samplers.rules.reverse import reverse_diffusion
from retrodict.samplers.rules.second import matched2
from retrodict.samplers.rules.singlestep import dpmpp2s, dpmpp3s, seeds
from retrodict.samplers.stateful import STATEFUL_NAMES

__all__ = ["RULES", "make_plan"]

RULES: dict[str, Rule] = {
    "matched": Rule(
        matched, 8, True, False, "time", "ancestral with drawn x_0; exact in the Gaussian part", exact=True
    ),
    "matched2": Rule(matched2, 8, True, False, "time", "matched, order two in the rest", exact=True, markov=True),
    "euler": Rule(euler, 256, False, False, "time", "Tivnan et al. 2023, eq. 21", markov=True),
    "ancestral": Rule(ancestral, 32, False, False, "time", "Ho, Jain, Abbeel 2020; Song et al. 2020, eta = 1"),
    "ddim": Rule(ddim, 32, False, True, "time", "Song, Meng, Ermon 2020"),
    "heun": Rule(heun, 16, False, True, "logsnr", "Karras et al. 2022, algorithm 1", calls_per_step=2, order=2),
    "dpmpp2m": Rule(dpmpp2m, 16, False, True, "logsnr", "Lu et al. 2022, algorithm 2", order=2),
    "sde_dpmpp2m": Rule(sde_dpmpp2m, 64, True, False, "logsnr", "Lu et al. 2022, stochastic 2M", markov=True),
    "exponential": Rule(
        exponential, 20, False, True, "logsnr", "Li et al. 2025, corrected third order; any process", order=3
    ),
    "sde_exponential": Rule(
        sde_exponential, 64, True, False, "total", "the same, with the noise memory of the process", order=3
    ),
    "gaussian_ode": Rule(
        gaussian_ode, 8, False, True, "time", "probability flow, exact in the Gaussian part", order=2, exact=True
    ),
    "reverse_diffusion": Rule(
        reverse_diffusion, 256, False, False, "time", "Song et al. 2021, appendix E", markov=True
    ),
    "dpmpp2s": Rule(dpmpp2s, 16, False, True, "logsnr", "Lu et al. 2022, algorithm 1", calls_per_step=2, order=2),
    "dpmpp3s": Rule(dpmpp3s, 12, False, True, "logsnr", "Lu et al. 2022, singlestep", calls_per_step=3, order=3),
    "unipc": Rule(unipc, 16, False, True, "logsnr", "Zhao et al. 2023, bh2, data prediction", order=3),
    "deis": Rule(deis, 20, False, True, "logsnr", "Zhang, Chen 2023, tAB, exact quadrature", order=3),
    "bdia": Rule(bdia, 20, False, True, "logsnr", "Zhang, Lewis, Kleijn 2024; can be inverted", order=2),
    "pece2": Rule(pece2, 16, False, True, "logsnr", "EVODiff (Li, Chen, Zeng 2025) at Taylor values", order=2),
    "seeds": Rule(
        seeds, 48, True, False, "total", "Gonzalez et al. 2023, data form, any memory", calls_per_step=2, order=2
    ),
    "edm": Rule(
        edm, 32, False, False, "logsnr", "Karras et al. 2022, algorithm 2", calls_per_step=2, order=2, markov=True
    ),
    "restart": Rule(
        restart, 24, False, False, "logsnr", "Xu et al. 2023, restart of Heun", calls_per_step=4, order=2, markov=True
    ),
}
"""Rules by name.  A deterministic rule is a posterior sampler only from a random start (external conditioning)."""


def make_plan(name: str, process: Process, times: Tensor, spectrum: Tensor | None = None, **options: object) -> Plan:
    """Plan of rule `name` on a time grid; unknown rules and options are errors."""
    if name in STATEFUL_NAMES:
        hint = "make_stateful_plan makes it and stateful_sample runs it."
        raise InputError("rule", repr(name), "a rule of RULES: the weights of this one depend on the data", hint)
    rule = RULES[choice("rule", name, RULES)]
    try:
        return rule.build(process, times, spectrum, **options)
    except TypeError as error:
        raise InputError(f"rule {name!r}", str(error), "options that this rule knows") from error
