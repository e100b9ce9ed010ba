"""The sampler of phi^4 fields, and what is measured of them (wavelet specification 2(8'), T16)."""

from __future__ import annotations

import importlib.util
import itertools
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

FILE = Path(__file__).resolve().parents[1] / "benchmarks" / "phi4.py"


@pytest.fixture(scope="module")
def phi4() -> ModuleType:
    spec = importlib.util.spec_from_file_location("phi4", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_sites_without_coupling_have_the_moments_of_their_density(phi4):
    """beta = 0: density exp(x^2 - x^4), by quadrature."""
    x = phi4.fields(400, 8, 0.0, seed=1, sweeps=60)
    t = np.linspace(-4, 4, 20001)
    p = np.exp(t**2 - t**4)
    for power, golden in ((2, 0.520899), (4, 0.510449)):
        known = float((t**power * p).sum() / p.sum())
        assert known == pytest.approx(golden, abs=1e-6)
        assert abs((x**power).mean() - known) < 4 * (x**power).std() / x.size**0.5


class Draws:
    """Proposals of a constant step, and a threshold that stands in for the uniform number of the acceptance."""

    def __init__(self, step: float, accept: float) -> None:
        self.step, self.accept = step, accept

    def uniform(self, low: float = 0.0, high: float = 1.0, size: tuple[int, ...] = ()) -> np.ndarray:
        return np.full(size, self.accept if low == 0.0 else self.step)


def test_a_sweep_moves_every_site_once_by_the_ratio_of_its_density(phi4):
    x = np.random.default_rng(0).normal(0, 0.7, (2, 4, 4))
    moved = x.copy()
    phi4.sweep(moved, 0.68, Draws(0.1, 1e-300))
    assert np.allclose(moved - x, 0.1)

    def energy(y: np.ndarray) -> float:
        return float((y**4 - y**2 - 0.34 * y * phi4.neighbors(y)).sum())

    one, accept = x.copy(), 0.9
    for color in (0, 1):  # site by site: neighbors of a color are all of the other
        for i, j in itertools.product(range(4), repeat=2):
            for n in range(2):
                if (i + j) % 2 == color:
                    tried = one.copy()
                    tried[n, i, j] += 0.1
                    if np.log(accept) < energy(one) - energy(tried):
                        one = tried
    swept = x.copy()
    phi4.sweep(swept, 0.68, Draws(0.1, accept))
    assert np.allclose(swept, one)
    assert 0 < (swept != x).mean() < 1


def test_fields_at_the_critical_point_have_the_known_moments(phi4):
    """T16 at L = 8: Schwinger-Dyson, moments of independent Metropolis chains to 2 %, and U4 rising with beta."""
    x = phi4.fields(1500, 8, 0.68, seed=2, sweeps=90)
    found = phi4.moments(x, 0.68)
    values = (4 * x**4 - 2 * x**2 - 0.68 * x * phi4.neighbors(x)).mean((1, 2))
    assert abs(found["identity"] - 1) < 4 * values.std() / len(x) ** 0.5
    for name, known in (("m2", 0.845), ("m4", 1.081), ("nn", 0.601), ("M2", 0.512)):
        assert found[name] == pytest.approx(known, rel=0.04)
    assert found["U4"] == pytest.approx(0.598, abs=0.02)
    below = phi4.moments(phi4.fields(600, 8, 0.6, seed=3, sweeps=60), 0.6)
    assert below["U4"] < found["U4"] - 0.03


def test_clusters_keep_the_law_and_turn_signs(phi4):
    """Of fields in equilibrium, steps of clusters alone leave every moment of magnitudes and of neighbors."""
    x = phi4.fields(800, 8, 0.68, seed=4, sweeps=60)
    y, rng = x.copy(), np.random.default_rng(0)
    for _ in range(5):
        phi4.clusters(y, 0.68, rng)
    assert np.allclose(np.abs(x), np.abs(y))
    assert (np.sign(x) != np.sign(y)).mean() > 0.2
    a, b = phi4.moments(x, 0.68), phi4.moments(y, 0.68)
    assert a["nn"] == pytest.approx(b["nn"], abs=0.03)
    assert a["M2"] == pytest.approx(b["M2"], abs=0.05)


def test_errors_are_nothing_for_the_same_set_and_grow(phi4):
    x = phi4.fields(200, 8, 0.68, seed=5, sweeps=40)
    same, scaled = phi4.errors(x, x), phi4.errors(1.1 * x, x)
    assert same["spectrum"] == same["site"] == same["mean field"] == 0
    assert scaled["spectrum"] == pytest.approx(2 * np.log(1.1), rel=1e-9)
    assert scaled["site"] > 0.02


def test_the_benchmark_runs_and_goes_on(phi4, tmp_path, capsys):
    arguments = (tmp_path, [8], 0.2, 24, 12, [2], 1)
    phi4.run(*arguments, ["cascade"])
    first = json.loads((tmp_path / "phi4.json").read_text())
    assert {k for k in first if "cascade" in k} == {"8 cascade matched 2", "8 cascade dpmpp2m 2"}
    phi4.run(*arguments, ["cascade", "pixel"])
    again = json.loads((tmp_path / "phi4.json").read_text())
    assert again["8 cascade matched 2"] == first["8 cascade matched 2"]
    assert "8 pixel dpmpp2m 2" in again
    assert "| 8 | floor |" in capsys.readouterr().out
