"""Rivals of priors from noisy scans: penalties, unrolled networks and deep image priors where the answer is known."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import noisy_mri
import noisy_priors
from noisy_pairs import crops, explained, filtered_adjoint, network
from noisy_priors import PROBLEMS, paid, penalized, scan, stored, text
from noisy_rivals import CT_VALUES, Recipe, RedCNN, Unrolled, Values, deep_image_prior, noise_weighted
from retrodict.bases import Wavelet
from retrodict.data.collection import Slice
from retrodict.data.image import Image, replace
from retrodict.models.model import Intensity
from retrodict.physics import GaussianNoise, Identity, Measurement
from retrodict.physics.classics import choose, fbp, fista

F64 = torch.float64


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


# ---- L1 of wavelets --------------------------------------------------------------------------------------------------


def shrunk(y, threshold):
    """Soft threshold of all but the coarse approximation, the corner of an eighth of each side."""
    basis = Wavelet(tuple(y.shape[2:]), (1.0, 1.0), levels=3, family="db2")
    u = basis.forward(y)
    small = u.sign() * (u.abs() - threshold).clamp_min(0)
    h, w = (n // 8 for n in y.shape[2:])
    small[..., :h, :w] = u[..., :h, :w]
    return basis.inverse(small)


def noisy_image():
    x = torch.zeros(1, 1, 32, 24, dtype=F64)
    x[..., 8:20, 5:15] = 3.0
    return Measurement.simulate(Identity((32, 24)), GaussianNoise.white(0.5), x, [3])


@pytest.mark.parametrize("strength", [0.3, 2.0, 7.0])
def test_fista_with_wavelets_of_an_image_as_it_is_is_the_soft_threshold(strength):
    """Argmin |y - x|^2 / (2 s^2) + c |details of x|: a threshold of c s^2, by orthonormality."""
    y = noisy_image()
    found = fista(y, strength=strength, penalty="wavelet", iterations=200, tolerance=1e-14).image
    assert torch.allclose(found, shrunk(y.y, strength * 0.25), atol=1e-10)


def test_the_strength_of_the_rival_is_that_where_noise_explains_what_the_threshold_takes():
    y = noisy_image()
    strength = choose(y, method="fista", penalty="wavelet", iterations=100).parameter[0]
    expected = shrunk(y.y, strength * 0.25)
    assert torch.allclose(penalized("wavelet", y), expected, atol=1e-5)
    assert float(((y.y - expected) / 0.5).square().mean()) == pytest.approx(1.0, abs=0.0101)


# ---- networks --------------------------------------------------------------------------------------------------------


def silent(net):
    """The network without what it learns."""
    last = net.net[-1]
    torch.nn.init.zeros_(last.weight)
    torch.nn.init.zeros_(last.bias)
    return net.double()


def ramp_matrix(bins):
    """The ramp on a row of unit bins, zeros outside: 1/4 at 0, -1 / (pi k)^2 at odd k, 0 at even k."""
    k = torch.arange(bins, dtype=F64)[:, None] - torch.arange(bins, dtype=F64)
    return torch.where(k == 0, 0.25, torch.where(k % 2 == 1, -1 / (torch.pi * k) ** 2, 0.0))


def squares(kind, y):
    """What the steps descend, of real images: (A x - y)^T F (A x - y) / 2."""

    def of(x):
        gap = -y.residual(x)
        if kind == "mri":
            return 0.5 * gap.abs().square().sum()
        views, bins = gap.shape[-2:]
        return 0.5 * torch.pi / views * (gap * (gap @ ramp_matrix(bins))).sum()

    return of


def measurement(kind):
    x = normal(1, 1, 96, 96, seed=1) if kind == "ct" else normal(1, 1, 24, 16, seed=1)
    return PROBLEMS[kind].scan(x, 4), normal(*x.shape, seed=2)


@pytest.mark.parametrize("kind", ["ct", "mri"])
def test_an_unrolled_network_that_learned_nothing_is_gradient_descent(kind):
    y, first = measurement(kind)
    net = silent(PROBLEMS[kind].scans.net("unrolled"))
    sizes = torch.tensor([0.5, 0.1, 0.9, 0.3, 0.7], dtype=F64)
    net.eta.data.copy_(sizes)
    loss, x = squares(kind, y), first
    for eta in sizes:
        (gradient,) = torch.autograd.grad(loss(x.requires_grad_()), x)
        x = (x - eta * gradient).detach()
    found = net(first.detach(), [y]).detach()
    assert float((found - x).abs().max()) < 1e-9 * float(x.abs().max())


def test_an_unrolled_network_treats_each_image_with_its_own_data():
    (a, first), (b, _) = measurement("mri"), (PROBLEMS["mri"].scan(normal(1, 1, 24, 16, seed=5), 9), None)
    net = PROBLEMS["mri"].scans.net("unrolled").double()
    both = net(torch.cat([first, 2 * first]), [a, b])
    assert torch.allclose(both, torch.cat([net(first, [a]), net(2 * first, [b])]), atol=1e-12)


def test_gradient_descent_of_white_noise_goes_straight_to_the_image():
    net = silent(Unrolled(CT_VALUES, noise_weighted(lambda basis: torch.full(basis.shape, 3.0, dtype=F64)), steps=1))
    y, first = normal(2, 1, 12, 10), normal(2, 1, 12, 10, seed=1)
    assert torch.allclose(net(first, y), 0.5 * (first + y), atol=1e-12)


def test_red_cnn_without_its_last_layer_hands_on_what_it_is_given():
    net = RedCNN(Values(5.0, 2.0)).double()
    torch.nn.init.zeros_(net.up[-1].weight)
    torch.nn.init.zeros_(net.up[-1].bias)
    x = 4 + normal(2, 1, 16, 12)
    assert torch.allclose(net(x), x, atol=1e-12)


def test_the_adjoint_of_filtered_views_is_nearly_filtered_backprojection():
    axis = torch.arange(96, dtype=F64) - 47.5
    x = torch.exp(-(axis[:, None] ** 2 + (axis - 8) ** 2) / (2 * 9.0**2))[None, None]
    y = scan(x, 0)
    clean = replace(y, y=y.operator.forward(x))
    made, usual = filtered_adjoint(clean.y, y), fbp(clean).image
    inside = torch.hypot(axis[:, None], axis) < 44
    assert float((made - usual)[0, 0][inside].norm() / usual[0, 0][inside].norm()) < 0.05


# ---- pairs -----------------------------------------------------------------------------------------------------------


def slice_of(values):
    return Slice("p", Image.of(np.asarray(values, np.float32), spacing=(1.0, 1.0)))


def test_crops_are_parts_of_slices_that_are_large_enough_in_turn():
    a, b, small = (
        1000.0 * k + np.arange(n * m).reshape(n, m) for k, (n, m) in enumerate([(20, 30), (17, 16), (9, 40)])
    )
    made = crops([slice_of(a), slice_of(small), slice_of(b)], Intensity("arbitrary", 1.0), 16, 6)
    for i, x in enumerate(made):
        whole = (a, b)[i % 2]
        row, column = np.argwhere(whole == float(x[0, 0, 0, 0]))[0]
        assert np.array_equal(x[0, 0].numpy(), whole[row : row + 16, column : column + 16].astype(np.float32))
    assert len({float(x[0, 0, 0, 0]) for x in made[::2]}) == 3


def test_a_network_is_trained_once_and_read_again(tmp_path):
    scans, taken = PROBLEMS["mri"].scans, [slice_of(np.ones((96, 96)))]
    first, training = network("unrolled", scans, lambda: taken, 0.0, tmp_path / "a" / "net.pt", 2)
    assert training.steps == 0

    def never():
        raise AssertionError("trained again")

    again, kept = network("unrolled", scans, never, 0.0, tmp_path / "a" / "net.pt", 2)
    y = scans.scan(normal(1, 1, 24, 16), 1)
    assert kept == training
    assert torch.equal(first(y), again(y))


# ---- deep image prior ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ct", "mri"])
def test_the_misfit_of_a_deep_image_prior_is_chi2_over_the_number_of_data(kind):
    y, x = measurement(kind)
    std = noisy_priors.RAY if kind == "ct" else noisy_mri.RAY / noisy_mri.LEGS.unit.scale
    expected = float(y.residual(x).abs().square().sum()) / std**2 / y.count
    assert float(explained(y)(x)) == pytest.approx(expected, rel=1e-12)


FEW = Recipe(width=4, rate=1e-2, jitter=0.0, most=3)


@pytest.mark.parametrize("descent", [None, torch.zeros_like])
def test_a_deep_image_prior_ends_where_noise_explains_the_rest_or_after_its_steps(descent):
    values = Values(0.0, 1.0)
    assert deep_image_prior(lambda x: 0 * x.sum() + 1.0, (16, 16), values, 0, FEW, descent).steps == 0
    found = deep_image_prior(lambda x: x.square().mean() + 2.0, (16, 16), values, 0, FEW, descent)
    assert found.steps == 3
    assert found.misfit >= 2


@pytest.mark.parametrize("given", [False, True])
def test_a_deep_image_prior_fits_a_smooth_image_by_its_misfit_or_along_a_descent(given):
    y = torch.linspace(-1, 1, 16)[:, None].expand(1, 1, 16, 16)

    def misfit(x):
        return ((x - y) / 0.2).square().mean()

    descent = (lambda x: x - y) if given else None
    found = deep_image_prior(misfit, (16, 16), Values(0.0, 1.0), 0, replace(FEW, most=400), descent)
    assert found.misfit <= 1
    assert found.steps > 3
    if given:  # the mean is what was judged
        assert float(misfit(found.image)) == pytest.approx(found.misfit)


# ---- what is kept and told -------------------------------------------------------------------------------------------


def test_another_number_of_steps_keeps_what_does_not_learn_from_slices(tmp_path, monkeypatch):
    rows = [{"method": m, "patient": "a", "rmse": 1.0} for m in ("tv", "dip", "redcnn", "clean")]
    content = {"setup": {"steps": 3, "members": 4}, "rows": rows, "budget": 5.0, "training": {"redcnn": {}}}
    (tmp_path / "noisy_priors.json").write_text(json.dumps(content))
    monkeypatch.setattr(noisy_priors, "RESULTS", tmp_path)
    assert stored(PROBLEMS["ct"], {"steps": 3, "members": 4}) == content
    other = stored(PROBLEMS["ct"], {"steps": 4, "members": 4})
    assert [r["method"] for r in other["rows"]] == ["tv", "dip"]
    assert set(other) == {"setup", "rows"}


def test_the_table_of_ratios_is_paired_and_counts_patients():
    errors = {"clean": (1.0, 2.0), "ours": (1.1, 2.0), "redcnn": (0.9, 2.2), "dip": (2.0, 2.0)}
    rows = [{"method": m, "patient": p, "rmse": e, "seconds": 1.0, "steps": 40 + 60 * k, "chi2": 0.99 + k}
            for m, both in errors.items() for k, (p, e) in enumerate(zip("ab", both, strict=True))]  # fmt: skip
    training = {"redcnn": {"seconds": 99.6, "steps": 700, "batch": 4, "weights": 0.2067}}
    content = {"setup": {"steps": 3, "members": 4}, "rows": rows, "budget": 199.2, "training": training}
    made = text(PROBLEMS["mri"], content)
    assert (
        "| (deep image prior) | 0.75 ± 0.35, less on 1 of 2 | 0.78 ± 0.32, less on 1 of 2 | 0.78 ± 0.46, less" in made
    )
    assert "`data.noise` within 1.05 of clean images: 1 of 2." in made
    assert paid(content) == (
        "pairs: RED-CNN: 100 CPU seconds of training, 0.50 of those of the prior on clean images, 700 steps of 4 "
        "patches, 0.21 million weights. "
        "(deep image prior): 40 to 100 steps, 1 of 2 until the residual was what noise explains."
    )
