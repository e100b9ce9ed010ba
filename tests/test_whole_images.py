"""What whole images are compared by: laws, spectrum, layout, scatter (benchmarks/whole_images.py)."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


def loaded(name, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)  # a dataclass looks itself up there
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def whole(monkeypatch):
    return loaded("whole_images", monkeypatch)


def fields(count, side=32, seed=0):
    return np.random.default_rng(seed).normal(size=(count, side, side))


def test_distances_of_two_laws_are_those_of_their_samples(whole):
    """Two points at 0 and 1 against two at 1 and 3: sup |F - G| = 1/2, int |F - G| = 3/2."""
    edges = np.linspace(-1, 4, 50001)
    a, b = (whole.shares(np.array([x]), edges) for x in ([0.0, 1.0], [1.0, 3.0]))
    assert whole.kolmogorov(a, b) == pytest.approx(0.5, abs=1e-12)
    assert whole.wasserstein(a, b, edges) == pytest.approx(1.5, abs=1e-3)
    assert whole.wasserstein(a, a, edges) == 0


def test_a_set_has_no_distance_from_itself_and_a_known_one_from_its_multiple(whole):
    """Twice the values: 2 log 2 in the spectrum, E|z| in every band, and deviations at 16 x 16 that double."""
    x = fields(12)
    grid = whole.grid_of(x, np.linspace(-9, 9, 3001), 1)
    one, two = whole.measure(x, grid), whole.measure(2 * x, grid)
    assert set(whole.errors(one, one, grid).values()) == {0.0}
    found = whole.errors(two, one, grid)
    assert found["spectrum"] == pytest.approx(2 * math.log(2), rel=1e-12)
    assert found["bands"] == pytest.approx(math.sqrt(2 / math.pi), rel=0.02)
    assert found["pixels"] == pytest.approx(0.1612, abs=0.01)  # largest Phi(x) - Phi(x/2), at x^2 = (8/3) log 2
    deviation = one.layout.std(0)
    assert found["deviation"] == pytest.approx(math.sqrt((deviation**2).mean() / one.layout.var(0).mean()), rel=1e-12)


def test_layout_is_the_mean_of_blocks_and_its_error_is_in_deviations(whole):
    x = fields(10, 64)
    grid = whole.grid_of(x, np.linspace(-5, 5, 11), 2)
    one, moved = whole.measure(x, grid), whole.measure(x + 3.0, grid)
    assert one.layout[2, 1, 5] == pytest.approx(x[2, 4:8, 20:24].mean(), abs=1e-12)
    assert whole.errors(moved, one, grid)["mean"] == pytest.approx(3 / math.sqrt(one.layout.var(0).mean()), rel=1e-10)
    assert whole.errors(moved, one, grid)["bands"] == pytest.approx(0, abs=1e-12)  # details do not see a constant


def test_the_scatter_is_that_of_patients(whole):
    """Slices of a patient that are all alike bring no more than one of them does."""
    a, b = fields(200, 16, seed=1), fields(6, 16, seed=2)
    grid = whole.grid_of(a, np.linspace(-5, 5, 101), 1)
    one = whole.scatter(whole.measure(a, grid), whole.measure(b, grid), range(6), grid)
    many = whole.scatter(whole.measure(a, grid), whole.measure(b.repeat(4, 0), grid), np.arange(6).repeat(4), grid)
    assert many["pixels"] == pytest.approx(one["pixels"], rel=1e-9)
    assert one["pixels"] > 0.003
    free = whole.scatter(whole.measure(a, grid), whole.measure(b.repeat(4, 0), grid), range(24), grid)
    assert free["mean"] < 0.8 * many["mean"]


def test_halves_part_patients_and_the_nearest_is_found(whole):
    x = fields(6, 16)
    grid = whole.grid_of(x, np.linspace(-5, 5, 11), 1)
    one, two = whole.halves(whole.measure(x, grid), [0, 0, 1, 2, 2, 3])
    assert np.array_equal(one.layout, x[[0, 1, 3, 4]])
    assert np.array_equal(two.layout, x[[2, 5]])
    assert whole.nearest(x[:2] + 0.5, x) == pytest.approx(0.5, abs=1e-12)
    assert whole.nearest(x[:2], x) == 0


def test_a_slice_is_brought_to_its_grid_round_the_body(monkeypatch):
    """A body of 120 mm off the middle of 200 mm, on 32 pixels of 5 mm: its middle in the middle, air beyond."""
    generate = loaded("cascade_generate", monkeypatch)
    x = torch.full((200, 200), -1000.0)
    x[20:140, 60:180] = 50.0
    found = generate.whole(x, (1.0, 1.0), 32, 5.0)
    assert found.shape == (32, 32)
    body = found > -300
    assert int(body.sum()) == 24 * 24
    rows = torch.where(body.any(1))[0]
    assert (int(rows[0]), int(rows[-1])) == (4, 27)
    small = generate.whole(x[20:140, 60:180], (1.0, 1.0), 32, 5.0)
    assert torch.equal(small > -300, body)
    assert float(small[0, 0]) == -1000.0
    assert float(generate.whole(x - 500, (1.0, 1.0), 32, 5.0).min()) == -1000.0


@pytest.mark.parametrize("model", ["cascade", "pixel", "fourier"])
def test_every_model_is_trained_on_as_many_pixels(model, monkeypatch, tmp_path):
    generate = loaded("cascade_generate", monkeypatch)
    found = generate.configuration("ct-256", model, tmp_path)
    assert found.data.turn is False
    if model == "cascade":
        assert found.network.options["crop"] * 2 == generate.PATCH
        assert found.data.patch == [256, 256]
        assert 256 >> found.process.basis.options["levels"] == 16
    else:
        assert found.data.patch == [64, 64]
        assert found.network.model_dump() == {"options": {}, **generate.NET}
    assert all(
        sum(kind.shares) == pytest.approx(1) and kind.side >> kind.levels == 16 for kind in generate.KINDS.values()
    )
