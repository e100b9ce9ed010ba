"""Benchmarks of priors from noisy scans: wedges, k-space of real images, its exact posterior, and what is counted."""

from __future__ import annotations

import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import noisy_mri
from noisy_mri import LEGS, RAY, kspace, largest, lines, middles, seen, whole
from noisy_mri_picture import by_part, one_call, parts
from noisy_priors import PROBLEMS, circle, figures, split, text
from retrodict.bases import Fourier
from retrodict.data.collection import Slice
from retrodict.data.image import Image
from retrodict.denoisers.denoiser import GaussianDenoiser
from retrodict.posterior import posterior_method
from retrodict.posterior.card import affine_card
from retrodict.processes.scalar import edm

F64 = torch.float64


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def slice_of(patient, height, width, value=1.0):
    return Slice(patient, Image.of(np.full((height, width), value, np.float32), spacing=(1.0, 1.0)))


def most(good):
    """Area of the largest rectangle, by looking at all of them."""
    h, w = good.shape
    return max((b - a) * (d - c) for a, b, c, d in product(range(h), range(h + 1), range(w), range(w + 1))
               if a < b and c < d and good[a:b, c:d].all())  # fmt: skip


@pytest.mark.parametrize("seed", range(6))
def test_the_largest_rectangle_is_that_of_a_search_of_all(seed):
    good = np.random.default_rng(seed).random((6, 7)) < 0.75
    rows, columns = largest(good)
    assert good[rows, columns].all()
    assert (rows.stop - rows.start) * (columns.stop - columns.start) == most(good)


def test_a_wedge_is_cut_away_with_its_edge_and_single_zeros_of_air_are_not():
    values = np.ones((60, 50), np.int16)
    values[3::9, 5::9] = 0
    assert whole(values) == (slice(0, 60), slice(0, 50))
    values[:, :4] = 0  # thinner than the square of a wedge, but along the border
    assert whole(values) == (slice(0, 60), slice(5, 50))
    values[40:, :] = 0
    assert whole(values) == (slice(0, 39), slice(5, 50))


def test_middles_are_those_of_the_first_slice_of_full_size_else_of_the_largest():
    items = [slice_of("a", 60, 90), slice_of("a", 100, 130, 2.0), slice_of("a", 120, 120, 3.0), slice_of("b", 83, 78)]
    found = middles(items, 8)
    assert [tuple(x.shape) for x in found.values()] == [(1, 1, 96, 96), (1, 1, 72, 72)]
    assert float(found["a"].mean()) == pytest.approx(2.0 / LEGS.unit.scale)
    assert list(middles(items, 1)) == ["a"]


@pytest.mark.parametrize("n", [8, 9])
def test_k_and_its_mirror_tell_the_same_of_a_real_image(n):
    mask = torch.zeros(5, n, dtype=torch.bool)
    mask[:, n // 2] = True
    assert seen(mask) == pytest.approx(1 / n)
    mask[:, n // 2 + 1] = True
    assert seen(mask) == pytest.approx(3 / n)
    mask[:, n // 2 - 1] = True  # nothing new
    assert seen(mask) == pytest.approx(3 / n)


def test_kspace_has_noise_of_the_stated_size_where_it_was_measured_and_nothing_elsewhere():
    x = normal(1, 1, 48, 40)
    y = kspace(x, 3)
    mask = lines((48, 40), 3)
    assert int(mask[0].sum()) == 10
    assert torch.equal(y.y[0, 0] != 0, mask)
    rest = torch.view_as_real(y.residual(x)[0, 0][mask]).flatten() / (RAY / LEGS.unit.scale)
    assert float(rest.square().mean()) == pytest.approx(1.0, abs=4 * (2 / len(rest)) ** 0.5)
    assert y.count == 2 * int(mask.sum())


def half(basis, mask):
    """Mean of a mask at k and at -k on the half spectrum of real images."""
    start = torch.fft.ifftshift(mask.double())
    mirror = torch.roll(start.flip((0, 1)), (1, 1), (0, 1))
    return (0.5 * (start + mirror))[:, : basis.shape[-1]]


def test_the_gram_of_kspace_is_the_mean_of_the_mask_at_k_and_its_mirror():
    x, basis = normal(1, 1, 24, 16), Fourier((24, 16), (1.0, 1.0))
    expected = basis.inverse(half(basis, lines((24, 16), 1)) * basis.forward(x))
    assert torch.allclose(kspace(x, 1).operator.gram(x), expected, atol=1e-12)


def test_the_posterior_of_a_real_gaussian_image_given_complex_kspace_is_the_closed_form():
    """Var of coefficient k: 1 / (1/v + (M(k) + M(-k)) / (2 s^2)), s the noise of a component."""
    basis = Fourier((8, 8), (1.0, 1.0))
    prior = 0.5 + 2 * torch.exp(-4 * basis.radius())
    x = basis.inverse(prior.sqrt() * basis.forward(normal(1, 1, 8, 8)))
    y = kspace(x, 2)
    denoiser = GaussianDenoiser(edm(basis, 20.0), torch.zeros(basis.shape, dtype=torch.complex128), prior)
    card = affine_card(posterior_method("matched", denoiser, y), 4)
    precision = half(basis, lines((8, 8), 2)) / (RAY / LEGS.unit.scale) ** 2
    variance = 1 / (1 / prior + precision)
    columns = basis.inverse(variance * basis.forward(torch.eye(64, dtype=F64).reshape(64, 1, 8, 8))).reshape(64, 64)
    mean = basis.inverse(variance * basis.forward(y.operator.adjoint(y.y)) / (RAY / LEGS.unit.scale) ** 2).flatten()
    assert torch.allclose(card.covariance, columns, atol=1e-7)
    assert torch.allclose(card.mean.flatten(), mean, atol=1e-6)


def test_error_and_ssr2_are_those_of_two_members_by_hand():
    """Mean off by 1, members a apart from it: variance 2 a^2, of which K = 2 ask 3/2."""
    x, a = normal(5, 4), 0.7
    members = torch.stack([x + 1 + a, x + 1 - a])
    weight = torch.ones(5, 4, dtype=F64)
    assert figures(members, x, weight) == pytest.approx((1.0, 1 / (3 * a * a)))
    weight[:2], members[:, :2] = 0.0, 100.0
    assert figures(members, x, weight) == pytest.approx((1.0, 1 / (3 * a * a)))


def test_ssr2_of_members_of_the_law_of_the_truth_is_one():
    draws = normal(5, 400, 400, seed=1)
    square, ratio = figures(draws[1:], draws[0], torch.ones(400, 400, dtype=F64))
    assert square == pytest.approx(1 + 1 / 4, rel=0.02)
    assert ratio == pytest.approx(1.0, rel=0.02)


def wave(basis, *at):
    u = torch.zeros(basis.shape, dtype=torch.complex128)
    u[at] = 1.0
    return u


def test_error_by_part_of_kspace_is_that_of_single_waves_by_hand():
    """Amplitudes of the truth 2 and 5 at (0, 1) and (0, 5), of the error 3 and 4, of two members +-1 and +-2 more."""
    basis = Fourier((16, 16), (1.0, 1.0))
    mask = torch.zeros(16, 16, dtype=torch.bool)
    mask[:, [8, 9]] = True  # 0 and 1
    slow, middle, fast = (basis.inverse(wave(basis, 0, k)) for k in (1, 3, 5))
    x, apart = 2 * slow + 0.1 * middle + 5 * fast, slow + 0.1 * middle + 2 * fast
    centre = 5 * slow + 9 * fast
    found = by_part(torch.stack([centre + apart, centre - apart]), x, mask)
    # of two members the variance is 2 a^2, of which K = 2 ask 3/2
    whole = 9 + 16 + 0.01
    assert found["told"] == pytest.approx({"share": 9 / whole, "ssr2": 9 / 3, "power": (36 + 16) / 2 / 4})
    assert found["fine"] == pytest.approx({"share": 16 / whole, "ssr2": 16 / 12, "power": (121 + 49) / 2 / 25})
    assert found["coarse"] == pytest.approx({"share": 0.01 / whole, "ssr2": 1 / 3, "power": 1.0})
    assert int(sum(p.sum() for p in parts(mask).values())) == basis.radius().numel()


def test_one_call_of_the_exact_denoiser_of_white_images_states_its_error():
    basis = Fourier((64, 64), (1.0, 1.0))
    exact = GaussianDenoiser(
        edm(basis, 20.0), torch.zeros(basis.shape, dtype=torch.complex128), torch.ones(basis.shape)
    )
    found = one_call(exact, normal(1, 1, 64, 64), lines((64, 64), 0), 0)
    assert set(found) == {"told", "coarse", "fine"}
    assert list(found.values()) == pytest.approx([1.0] * 3, abs=0.2)


def test_every_sixth_patient_calibrates_and_none_is_on_both_sides():
    sides = split([slice_of(f"p{k:02d}", 50, 50) for k in range(13) for _ in range(2)])
    names = {side: {s.patient for s in items} for side, items in sides.items()}
    assert names["calibration"] == {"p00", "p06", "p12"}
    assert not names["train"] & names["calibration"]
    assert len(sides["train"]) == 20


def test_the_table_pairs_errors_by_patient():
    rows = [{"method": m, "patient": p, "rmse": e, "seconds": 1.0, **({"ssr2": 1.0} if m != "tv" else {})}
            for m, errors in (("clean", (1.0, 2.0)), ("ours", (1.1, 2.4)), ("tv", (2.0, 2.0)))
            for p, e in zip("ab", errors, strict=True)]  # fmt: skip
    made = text(PROBLEMS["mri"], {"setup": {"steps": 3, "members": 4}, "rows": rows})
    assert "2 validation patients, 4 members" in made
    assert "| clean images | 1.5000 of fat | 1 | 1.00 ± 0.00 | 1 |" in made
    assert "| noisy: `data.noise` | 1.7500 of fat | 1.15 ± 0.07 | 1.00 ± 0.00 | 1 |" in made
    assert "| (total variation, FISTA) | 2.0000 of fat | 1.50 ± 0.71 |  | 1 |" in made


def test_weights_are_a_circle_for_views_and_everything_for_kspace():
    x = torch.zeros(1, 1, 96, 96)
    assert float(circle(x).mean()) == pytest.approx(np.pi * 0.48**2, rel=5e-3)
    assert float(PROBLEMS["mri"].weight(x).mean()) == 1.0
    assert noisy_mri.SIDE == 96
