"""Samplers: plans (rows of numbers), rules that build them, and the one loop that runs them."""

from __future__ import annotations

from retrodict.samplers.plan import Plan, Row
from retrodict.samplers.rules import RULES, Rule, make_plan
from retrodict.samplers.run import Samples, sample, start_state

__all__ = ["RULES", "Plan", "Row", "Rule", "Samples", "make_plan", "sample", "start_state"]
