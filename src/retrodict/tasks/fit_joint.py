"""How a configuration of noisy images is trained: by which objective, and with which network."""

from __future__ import annotations

from typing import Any

from retrodict.processes.clocks import ClockLaw
from retrodict.tasks.fit_config import FitConfig, NoiseConfig
from retrodict.training.ambient import Ambient
from retrodict.training.joint import AFTER, FEEDBACK, JointScheme
from retrodict.training.loop import Objective

__all__ = ["joined", "noisy_objective"]

LEVELS = 3
"""Levels of the wavelet network, where the patches have as many."""


def noisy_objective(law: ClockLaw, noise: NoiseConfig) -> Objective:
    """The objective of a style."""
    if noise.style != "joint":
        return Ambient(law, noise.style)
    feedback = FEEDBACK if noise.feedback is None else noise.feedback
    return JointScheme(law, feedback, AFTER if noise.feedback_after is None else noise.feedback_after)


def joined(config: FitConfig) -> dict[str, Any]:
    """The record of the network; for the style joint that of the score network with a wavelet network beside it, of as
    many levels, up to three, as the patches divide.  `network.options.shrink` says otherwise (levels, width)."""
    record = config.network.model_dump()
    if config.data.noise is None or config.data.noise.style != "joint" or record["name"] == "joint":
        return record
    levels = max(k for k in range(1, LEVELS + 1) if all(n % 2**k == 0 for n in config.data.patch))
    options = dict(record["options"])
    shrink = {"levels": levels, **(options.pop("shrink", None) or {})}
    return {"name": "joint", "options": {"score": record["name"], **options, "shrink": shrink}}
