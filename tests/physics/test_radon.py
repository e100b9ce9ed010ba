"""Line integrals: against the definition ray by ray, ellipses, scikit-image, and themselves in other dress."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from physics_cases import matrix, noise
from retrodict import InputError
from retrodict.physics import FanBeam, ParallelBeam, Radon, check_adjoint, even_angles, golden_angles
from retrodict.physics import rays as rays_module
from retrodict.physics.rays import transformed

FAN = FanBeam(even_angles(12, 2 * math.pi), 21, 1.3, source=40.0, detector=60.0)


def by_definition(size, spacing, nx, ny, s):
    """Joseph's weights of one ray, step by step, as a dense image."""
    (height, width), (dy, dx) = size, spacing
    image = np.zeros(size)
    rows = abs(nx) / dy >= abs(ny) / dx
    for i in range(height if rows else width):
        if rows:
            y = ((height - 1) / 2 - i) * dy
            at, length, across = (s - ny * y) / nx / dx + (width - 1) / 2, dy / abs(nx), width
        else:
            x = (i - (width - 1) / 2) * dx
            at, length, across = (height - 1) / 2 - (s - nx * x) / ny / dy, dx / abs(ny), height
        low = math.floor(at)
        for k, w in ((low, 1 - at + low), (low + 1, at - low)):
            if 0 <= k < across:
                image[(i, k) if rows else (k, i)] += w * length
    return image


SCANS = {
    "full": ParallelBeam(even_angles(12), 13, 1.0),
    "sparse, shifted": ParallelBeam(even_angles(5, start=0.2), 14, 0.8, offset=0.25),
    "limited": ParallelBeam(even_angles(7, math.pi / 3, -0.4), 9, 1.1),
    "off center": ParallelBeam(golden_angles(5), 10, 1.0, center=(1.3, -0.6)),
    "fan": FAN,
    "curved": replace(FAN, curved=True, offset=0.4),
    "short fan, off center": replace(FAN, angles=even_angles(5, 3.5), center=(0.5, -1.0)),
}


@pytest.mark.parametrize("grid", [((9, 9), (1.0, 1.0)), ((8, 8), (0.9, 0.9)), ((8, 11), (1.2, 0.8))])
@pytest.mark.parametrize("name", SCANS)
def test_the_matrix_is_that_of_the_definition(name, grid):
    size, spacing = grid
    scan = SCANS[name]
    found = matrix(Radon(size, scan, spacing=spacing))
    lines = zip(*(v.reshape(-1).tolist() for v in scan.lines()), strict=True)
    known = np.stack([by_definition(size, spacing, *line).ravel() for line in lines])
    assert torch.allclose(found, torch.from_numpy(known), atol=1e-8)


@pytest.mark.parametrize("name", SCANS)
def test_rays_lie_where_source_and_detector_are(name):
    """Both ends of a ray, computed from the picture of the scanner, lie on its line."""
    scan = SCANS[name]
    nx, ny, s = scan.lines()
    assert torch.allclose(nx**2 + ny**2, torch.ones_like(nx))
    at = (torch.arange(scan.bins).double() - (scan.bins - 1) / 2) * scan.pitch + scan.offset
    for view, angle in enumerate(scan.angles):
        along = torch.tensor([math.cos(angle), math.sin(angle)], dtype=torch.float64)
        down = torch.tensor([math.sin(angle), -math.cos(angle)], dtype=torch.float64)
        center = torch.tensor(scan.center, dtype=torch.float64)
        if isinstance(scan, ParallelBeam):
            ends = [center + at[:, None] * along + k * down for k in (-5, 5)]
        else:
            source = center - scan.source * down
            turn = at / scan.detector
            on_arc = turn.sin()[:, None] * along + turn.cos()[:, None] * down
            seen = on_arc * scan.detector if scan.curved else at[:, None] * along + scan.detector * down
            ends = [source.expand(len(at), 2), source + seen]
        for end in ends:
            assert torch.allclose(end[:, 0] * nx[view] + end[:, 1] * ny[view], s[view], atol=1e-9)


def ellipse(n, spacing, center, axes, tilt, fine=8):
    """An ellipse of value 1 on a grid, by the share of every pixel that it covers."""
    at = (np.arange(n * fine) - (n * fine - 1) / 2) * spacing / fine
    x, y = at[None, :] - center[0], -at[:, None] - center[1]
    c, s = math.cos(tilt), math.sin(tilt)
    inside = ((c * x + s * y) / axes[0]) ** 2 + ((c * y - s * x) / axes[1]) ** 2 <= 1
    return torch.from_numpy(inside.reshape(n, fine, n, fine).mean((1, 3)))


def chord(nx, ny, s, center, axes, tilt):
    """Integral of the ellipse along nx x + ny y = s: 2 a b sqrt(q - t^2) / q, q = (a n_1)^2 + (b n_2)^2."""
    c, si = math.cos(tilt), math.sin(tilt)
    q = (axes[0] * (c * nx + si * ny)) ** 2 + (axes[1] * (c * ny - si * nx)) ** 2
    t = s - nx * center[0] - ny * center[1]
    return 2 * axes[0] * axes[1] * (q - t**2).clamp_min(0).sqrt() / q


@pytest.mark.parametrize("name", ["parallel", "fan", "curved"])
def test_line_integrals_of_an_ellipse_are_within_half_a_percent(name):
    n, spacing, shape = 256, 0.8, ((11.0, -17.0), (61.0, 38.0), 0.4)
    scan = {
        "parallel": ParallelBeam(even_angles(30), 363, spacing),
        "fan": FanBeam(even_angles(30, 2 * math.pi), 363, 1.2, source=400.0, detector=600.0, offset=0.3),
        "curved": FanBeam(even_angles(30, 2 * math.pi), 363, 1.2, source=400.0, detector=600.0, curved=True),
    }[name]
    p = Radon((n, n), scan, spacing=(spacing, spacing)).forward(0.02 * ellipse(n, spacing, *shape)[None, None])[0, 0]
    known = 0.02 * chord(*scan.lines(), *shape)
    inner = known > 0.5 * known.max()
    assert float((p - known)[inner].abs().max() / known.max()) < 0.005
    assert float((p - known)[inner].abs().mean() / known.max()) < 0.001
    assert float(p.sum() / known.sum()) == pytest.approx(1, abs=2e-4)


@pytest.mark.parametrize("n", [64, 65])
@pytest.mark.filterwarnings("ignore:Radon transform")
def test_a_sinogram_is_that_of_scikit_image(n):
    """Which turns about pixel n // 2: half a pixel from the middle of an even image."""
    from skimage.transform import radon

    image = ellipse(n, 1.0, (5.0, -3.0), (20.0, 9.0), 0.7)
    angles = even_angles(20)
    known = torch.from_numpy(radon(image.numpy(), np.rad2deg(angles), circle=True)).T
    off = 0.5 - 0.5 * (n % 2)
    scan = ParallelBeam(angles, n, 1.0, offset=-off, center=(off, -off))
    found = Radon((n, n), scan).forward(image[None, None])[0, 0]
    assert float((found - known).norm() / known.norm()) < 0.01
    assert torch.allclose(found.sum(1), known.sum(1), rtol=2e-3)


def test_a_fan_from_far_away_is_a_parallel_beam():
    fan = FanBeam(even_angles(9), 13, 1.5, source=1e8, detector=1.5e8)
    found = Radon((9, 8), fan).forward(noise(1, 1, 9, 8))
    known = Radon((9, 8), ParallelBeam(even_angles(9), 13, 1.0)).forward(noise(1, 1, 9, 8))
    assert torch.allclose(found, known, atol=1e-5)


def test_a_curved_detector_is_a_flat_one_where_both_are_seen_from_the_middle():
    flat = replace(FAN, bins=1)
    x = noise(1, 1, 9, 9)
    assert torch.equal(Radon((9, 9), flat).forward(x), Radon((9, 9), replace(flat, curved=True)).forward(x))


@pytest.mark.parametrize("name", SCANS)
def test_weights_that_are_shared_or_computed_anew_are_the_same(name, monkeypatch):
    x, scan = noise(2, 1, 9, 9), SCANS[name]
    kept = Radon((9, 9), scan)
    p = kept.forward(x)
    monkeypatch.setattr(rays_module, "BLOCK", 200)
    monkeypatch.setattr(rays_module, "BUILD", 60)
    anew = Radon((9, 9), scan, memory=0)
    assert torch.allclose(anew.forward(x), p, atol=1e-12)
    assert torch.allclose(anew.adjoint(p), kept.adjoint(p), atol=1e-10)
    assert (anew.about["kept"], kept.about["kept"]) == (False, True)
    assert check_adjoint(anew) <= 1e-12


def test_a_full_scan_stores_an_eighth_of_its_weights():
    full = Radon((16, 16), ParallelBeam(even_angles(40), 24, 1.0))
    shifted = Radon((16, 16), ParallelBeam(even_angles(40), 24, 1.0, offset=0.25))
    assert full.about["shared"] == 8
    assert full.about["weights"] < 0.16 * shifted.about["weights"]
    assert Radon((16, 16), FAN).about["shared"] == 8


def test_turning_an_image_back_is_the_inverse():
    x = noise(2, 4, 4)
    for kind in range(8):
        assert torch.equal(transformed(transformed(x, kind), kind, back=True), x)


def test_subsets_are_the_rows_of_the_whole():
    whole = Radon((9, 9), FAN)
    x = noise(1, 1, 9, 9)
    p = whole.forward(x)
    seen = []
    for views, part in whole.subsets(5):
        assert torch.allclose(part.forward(x), p[:, :, views], atol=1e-8)
        seen += views
    assert sorted(seen) == list(range(12))


def test_sparse_products_without_the_vendor_library_are_the_same(monkeypatch):
    operator = Radon((9, 9), FAN)
    x, y = noise(1, 1, 9, 9), noise(1, 1, 12, 21)
    known = operator.forward(x), operator.adjoint(y)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: False)
    plain = Radon((9, 9), FAN)
    assert torch.allclose(plain.forward(x), known[0], atol=1e-12)
    assert torch.allclose(plain.adjoint(y), known[1], atol=1e-12)


def test_units_of_integrals():
    scan = ParallelBeam((0.0,), 3, 1.0)
    assert Radon((3, 3), scan).range.unit == "1"
    assert Radon((3, 3), scan, unit="HU").range.unit == "HU mm"
    assert Radon((3, 3), scan).on((6, 6), (0.5, 0.5)).domain.spacing == (0.5, 0.5)


def test_scans_that_cannot_be_are_refused_before_anything_is_computed():
    for make, words in (
        (lambda: ParallelBeam(tuple(range(0, 180, 10)), 9, 1.0), "radians.*math.radians"),
        (lambda: ParallelBeam((0, 3, 7), 9, 1.0), "an angle of 7"),
        (lambda: ParallelBeam((), 9, 1.0), "at least one"),
        (lambda: ParallelBeam((0.0,), 9, -1.0), "positive pitch"),
        (lambda: FanBeam((0.0,), 9, 1.0), "source nan"),
        (lambda: FanBeam((0.0,), 9, 1.0, source=20, detector=10), "source 20, detector 10"),
        (lambda: FanBeam((0.0,), 99, 1.0, source=20, detector=30, curved=True), "less than 90"),
        (lambda: Radon((64, 64), FAN), "source.*more than the 45.25 mm"),
        (lambda: Radon((64,), FAN), "two numbers"),
        (lambda: FAN.subset([12]), "indices of 12 views"),
        (lambda: FAN.subsets(13), "1 to 12"),
        (lambda: even_angles(3, 180), "at most 2 pi"),
    ):
        with pytest.raises(InputError, match=words):
            make()
