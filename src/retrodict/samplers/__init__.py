"""Samplers: plans (rows of numbers), rules that build them, and the one loop that runs them."""

from __future__ import annotations

from retrodict.samplers.loop import Samples, sample, start_state
from retrodict.samplers.plan import Plan, Row, Rule
from retrodict.samplers.rules import RULES, make_plan

__all__ = ["RULES", "Plan", "Row", "Rule", "Samples", "make_plan", "sample", "start_state"]
