"""The ways of `retrodict distill`: what a student is, what it is trained with, and how it is run."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import Tensor

from retrodict._check import InputError, Recipe, build
from retrodict.denoisers.flow_map import FlowMap, features_of, widened
from retrodict.denoisers.network import NetDenoiser, channels_in, channels_out
from retrodict.models.model import ModelSpec
from retrodict.models.tensors import as_ever
from retrodict.nets import NETS
from retrodict.processes.process import Process
from retrodict.samplers.plan import Plan, make_grid
from retrodict.samplers.rules.gaussian_ode import gaussian_ode
from retrodict.training.distill import consistency_loss, progressive_loss
from retrodict.training.flow_map import average_velocity_loss, trajectory_loss
from retrodict.training.mmd import mmd_loss

__all__ = ["METHODS", "Method", "few_call_plan", "few_calls", "objective", "student_of"]

FINE = 16
"""Steps of the teacher of a consistency or trajectory distillation, and what an average velocity is compared with."""

ROUNDS = 3
"""Halvings of a progressive distillation: the first teacher takes calls * 2^ROUNDS steps."""


@dataclass(frozen=True)
class Method:
    """most: calls at most.  flow_map: whether the student is told the end of a step, and so takes any calls up to that.
    rounds of training.  many(calls): steps of the teacher that the end is compared with.
    """

    most: int
    flow_map: bool = False
    rounds: int = 1
    many: Callable[[int], int] = lambda calls: FINE


METHODS: dict[str, Method] = {
    "progressive": Method(4, rounds=ROUNDS, many=lambda calls: calls * 2**ROUNDS),
    "consistency": Method(1),
    "trajectory": Method(4, flow_map=True),
    "average_velocity": Method(4, flow_map=True),
    "mmd": Method(4),
}


def few_call_plan(process: Process, times: Tensor, variance: Tensor) -> Plan:
    """The plan of a distilled model: steps of the flow between `times` `(n + 1,)`, exact on Gaussian data."""
    return gaussian_ode(process, times, variance, order=1)


def few_calls(denoiser: NetDenoiser, times: Tensor) -> tuple[NetDenoiser, Plan]:
    """A student (or any denoiser) for a plan between `times`, and the plan; a flow map is told where its steps end."""
    bound = denoiser.toward(times) if isinstance(denoiser, FlowMap) else denoiser
    return bound, few_call_plan(denoiser.process, times, denoiser.data_power)


def student_of(teacher: NetDenoiser, spec: ModelSpec, method: Method) -> NetDenoiser:
    """What is trained: the network of the teacher, or one that is told two times and begins as the teacher's."""
    if not method.flow_map:
        return replace(teacher, net=copy.deepcopy(teacher.net).requires_grad_(True))
    if teacher.predicts != "wiener":
        hint = "progressive, consistency or mmd"
        raise InputError("model", f"a network that predicts {teacher.predicts}", "one that predicts 'wiener'", hint)
    count = len(spec.channels)
    shape = {"ndim": len(spec.size), "in_channels": channels_in(teacher.process, count),
             "out_channels": channels_out(teacher.process, count, spec.bands),
             "level_features": features_of(spec.level)}  # fmt: skip
    with as_ever():
        net = build(NETS, Recipe.from_json(spec.network, "network"), "network", **shape)
    net.load_state_dict(widened(teacher.net.state_dict(), net.state_dict()))
    own = {name: getattr(teacher, name) for name in ("process", "spectrum", "level", "bands", "precision", "unit")}
    return FlowMap(net.requires_grad_(True), **own)


def objective(teacher: NetDenoiser, method: str, calls: int) -> Any:
    """The loss of a student of `calls` calls; those of a flow map do not depend on that."""
    process = teacher.process
    fine = make_grid(process, FINE, "time")
    if method == "trajectory":
        return partial(trajectory_loss, teacher=teacher, times=fine)
    if method == "average_velocity":
        return partial(average_velocity_loss, teacher=teacher)
    if method == "consistency":
        return partial(consistency_loss, teacher=teacher, times=fine)
    if method == "mmd":
        return partial(mmd_loss, times=make_grid(process, calls, "time"))
    return partial(progressive_loss, teacher=teacher, times=make_grid(process, 2 * calls, "time"))
