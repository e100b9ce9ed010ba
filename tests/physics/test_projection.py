"""Projections of volumes: against the definition, a sphere, the fan beam of the middle row, and turned patients."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from physics_cases import matrix, noise
from retrodict import InputError
from retrodict.physics import ConeBeam, FanBeam, Projection, Radiograph, Radon, attenuation, even_angles


def trilinear(volume, at):
    """Value of a volume at a place given in pixels, 0 outside; of places on a plane only two axes are interpolated."""
    total, low = 0.0, np.floor(at).astype(int)
    for corner in np.ndindex(2, 2, 2):
        k = low + corner
        if np.all(k >= 0) and np.all(k < volume.shape):
            total += volume[tuple(k)] * np.prod(np.where(corner, at - low, 1 - at + low))
    return total


@pytest.mark.parametrize(
    "scan",
    [
        ConeBeam((0.0, 0.9, 4.0), (3, 4), (2.5, 2.3), 20.0, 30.0, (0.3, -0.2), (0.4, -0.5, 0.2)),
        Radiograph([(0.4, -0.3, 0.9)], (3, 4), (1.5, 1.3), parallel=True),
    ],
)
def test_a_ray_sums_interpolated_values_plane_by_plane(scan):
    size, spacing = (5, 6, 7), np.array([1.2, 1.0, 0.9])
    volume = noise(*size)
    found = Projection(size, scan, spacing=spacing).forward(volume[None, None]).reshape(-1)
    points, ways = (part.reshape(-1, 3).numpy() for part in scan.rays())
    for value, point, way in zip(found.tolist(), points, ways, strict=True):
        at, step = (part[::-1] * (1, -1, 1) / spacing for part in (point, way))
        at = at + (np.array(size) - 1) / 2
        axis = int(np.abs(step).argmax())
        known = 0.0
        for i in range(size[axis]):
            place = at + step * (i - at[axis]) / step[axis]
            place[axis] = i
            known += trilinear(volume.numpy(), place) / abs(step[axis])
        assert value == pytest.approx(known, abs=1e-9)


def test_the_middle_row_of_a_cone_is_a_fan():
    fan = FanBeam(even_angles(7, 2 * math.pi), 9, 1.4, 0.3, (0.4, -0.2), source=40.0, detector=60.0)
    cone = ConeBeam(fan.angles, (1, 9), (1.0, 1.4), 40.0, 60.0, (0.0, 0.3), (0.4, -0.2, 0.0))
    volume = noise(1, 1, 3, 8, 7)
    found = Projection((3, 8, 7), cone).forward(volume)[:, :, :, 0]
    assert torch.allclose(found, Radon((8, 7), fan).forward(volume[:, :, 1]), atol=1e-8)


def test_a_sphere_has_the_integrals_of_a_sphere():
    """Radius 40 pixels, pixels weighted by how much of them is inside; rays within 0.95 of the radius."""
    n, radius, mu = 84, 40.0, 0.02
    at = (torch.arange(2 * n) - n + 0.5) / 2
    distance = (at[:, None, None] ** 2 + at[None, :, None] ** 2 + at[None, None, :] ** 2).sqrt()
    ball = torch.nn.functional.avg_pool3d(mu * (2 * (radius - distance) + 0.5).clamp(0, 1)[None], 2)[0]
    scan = Radiograph([(0.0, 0.0, 0.0), (0.2, 0.4, -0.3)], (9, 9), (14.0, 13.0))
    p = Projection((n, n, n), scan).forward(ball[None, None].float())[0, 0].double()
    point, way = scan.rays()
    off = torch.linalg.vector_norm(torch.linalg.cross(point, way), dim=-1)
    inner = off < 0.95 * radius
    known = 2 * mu * (radius**2 - off**2).clamp_min(0).sqrt()
    assert int(inner.sum()) > 60
    assert float(((p - known)[inner] / known[inner]).abs().max()) < 0.01


def blob():
    at = torch.linspace(-1, 1, 17).double()
    z, y, x = torch.meshgrid(at, at, at, indexing="ij")
    return torch.exp(-8 * ((x - 0.2) ** 2 + 2 * (y + 0.1) ** 2 + 0.7 * (z - 0.1) ** 2))[None, None]


def test_the_mass_of_parallel_rays_does_not_depend_on_the_pose():
    poses = [(0.0, 0.0, 0.0), (0.3, -0.2, 1.0), (1.2, 0.4, 2.0)]
    p = Projection((17, 17, 17), Radiograph(poses, (80, 80), (0.4, 0.4), parallel=True)).forward(blob())
    mass = p.sum((-1, -2))[0, 0] * 0.16
    assert torch.allclose(mass, blob().sum().expand(3), rtol=5e-3)


def test_a_patient_turned_half_round_is_the_mirror_image():
    poses = [(0.0, 0.0, 0.0), (0.0, 0.0, math.pi)]
    p = Projection((17, 17, 17), Radiograph(poses, (9, 11), (1.5, 1.5), parallel=True)).forward(blob())[0, 0]
    assert torch.allclose(p[0], p[1].flip(-1), atol=1e-9)


def test_a_pose_turns_the_patient_and_not_the_scanner():
    """A quarter turn about z carries x to y and y to -x."""
    volume = torch.zeros(1, 1, 3, 9, 9).double()
    volume[0, 0, 1, 1, 4] = 1.0  # at y = +3
    p = Projection((3, 9, 9), Radiograph([(0, 0, math.pi / 2)], (1, 9), (1.0, 1.0), parallel=True)).forward(volume)
    assert int(p[0, 0, 0, 0].argmax()) == 1  # at x = -3


def test_air_and_water_have_their_attenuation():
    assert attenuation(torch.tensor([-1000.0, -1100.0, 0.0, 1000.0])).tolist() == pytest.approx([0, 0, 0.02, 0.04])


def test_subsets_and_shared_matrices():
    scan = ConeBeam(even_angles(4, 2 * math.pi), (3, 4), (2.0, 2.0), 20.0, 30.0)
    whole = Projection((4, 5, 5), scan)
    assert torch.allclose(matrix(whole.subset([1, 3])), matrix(whole).reshape(4, 12, -1)[[1, 3]].reshape(24, -1))
    assert torch.allclose(matrix(Projection((4, 5, 5), scan, memory=0)), matrix(whole))


def test_scans_that_cannot_be_are_refused():
    for make, words in (
        (lambda: ConeBeam((0, 90), (3, 3), (1.0, 1.0)), "radians"),
        (lambda: ConeBeam((0.0,), (3, 3), (1.0, 0.0)), "positive pitch"),
        (lambda: ConeBeam((0.0,), (3, 3), (1.0, 1.0), 20.0, 10.0), "source 20, detector 10"),
        (lambda: Radiograph([(0.0, 0.0)], (3, 3), (1.0, 1.0)), "three angles"),
        (lambda: Radiograph([0.0], (3, 3), (1.0, 1.0)), "three angles"),
        (lambda: Projection((9, 9, 9), ConeBeam((0.0,), (3, 3), (1.0, 1.0), 5.0, 10.0)), "more than the 7.794 mm"),
        (lambda: Projection((9, 9), ConeBeam((0.0,), (3, 3), (1.0, 1.0))), "three numbers"),
    ):
        with pytest.raises(InputError, match=words):
            make()
