"""The benchmark of one network under every process: its tasks, its photographs and its table, without a patient."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import processes
from processes import HELD_OUT, RULED, SIDE, TASKS, ending, pages, photographs
from retrodict.bases import Fourier


def test_every_task_ends_at_a_measurement_and_super_resolution_keeps_a_quarter():
    basis = Fourier((32, 32), (1.0, 1.0))
    ends = {task: ending(task, basis) for task in TASKS}
    assert all(end.measurement is not None for end in ends.values())
    law = ends["super4"].measurement
    radius = basis.radius()
    edge = (radius - 0.125).abs().flatten().argmin()
    assert float(law.h.flatten()[edge]) == pytest.approx(0.05, rel=1e-3)
    assert float(law.h[radius > 0.2].max()) < 0.01
    assert float(law.s2.mean()) == pytest.approx((2.0 / processes.UNIT) ** 2, rel=1e-6)  # white, 2 HU


def test_photographs_are_cut_along_the_diagonal(tmp_path):
    for name in HELD_OUT:
        Image.fromarray(np.arange(300 * 400, dtype=np.uint32).astype(np.uint8).reshape(300, 400)).save(
            tmp_path / f"{name}.png"
        )
    found = photographs(tmp_path, each=3)
    assert [case.patient for case in found[:3]] == [f"{HELD_OUT[0]} {k}" for k in (1, 2, 3)]
    assert all(case.truth.shape == (1, 1, SIDE, SIDE) for case in found)
    assert not torch.equal(found[0].truth, found[1].truth)


def test_the_table_has_every_process_and_says_what_was_left_out():
    def row(error):
        return [{"patient": p, "error": error * k, "ssr2": 0.9} for p, k in (("a", 1.0), ("b", 2.0))]

    rows = {f"{t} | {n} | {r} | 8": row(e) for t in TASKS for n, e in (("measured", 0.3), ("vp", 0.33)) for r in RULED}
    rows["deblur | vp | sde_dpmpp2m | 8"] = [{"undefined": "no SDE"}]
    text = pages({"ct": {"rows": rows, "refused": {"soft": "why"}, "setup": {"members": 4}}})
    assert "| vp | 0.49±0.23, 0.90±0.00 |" in text
    assert "not defined" in text
    assert "+10.0 % (`vp`)" in text
    assert "`soft`" in text
