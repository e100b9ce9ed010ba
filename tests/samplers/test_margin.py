"""What is beyond the border: the exact posterior of an image whose surroundings nobody measured."""

from __future__ import annotations

import pytest
import torch

from objects import restoring_process
from retrodict.bases import Fourier
from retrodict.bases.spectrum import Spectrum
from retrodict.denoisers.denoiser import GaussianDenoiser
from retrodict.denoisers.wrappers import SliceWise
from retrodict.processes.fourier import fourier
from retrodict.samplers import margin
from retrodict.samplers.ensemble import SamplingOptions, restore_batch
from retrodict.samplers.margin import Frame, frame_of, surrounded

STEEP = Spectrum.power_law(0.0, 40.0, 0.03, 3.0)
SIDE, WIDE = 24, 96
ITEMS = 80


def window(table: torch.Tensor) -> torch.Tensor:
    """Covariance `(n, n)` of the window of a stationary field with a spectrum on the wide grid."""
    basis = Fourier((WIDE, WIDE))
    row = basis.inverse(table.to(torch.complex128)) / WIDE  # the covariance with pixel 0
    place = torch.cartesian_prod(torch.arange(SIDE), torch.arange(SIDE))
    shift = (place[:, None] - place[None]) % WIDE
    return row[shift[..., 0], shift[..., 1]]


@pytest.fixture(scope="module", name="truth")
def _truth():
    """Windows of a field that goes on, their measurements, and the exact posterior of them: dense, no margin."""
    process = fourier(Fourier((WIDE, WIDE)))
    L, (h, _, s2) = STEEP.on(process.basis), process.measurement
    cx, cxy, cy = window(L), window(h * L), window(h**2 * L + s2)
    gain = torch.linalg.solve(cy, cxy.T).T
    left = (cx - gain @ cxy.T).diagonal()
    generator = torch.Generator().manual_seed(3)
    z = [torch.randn(ITEMS, 1, WIDE, WIDE, generator=generator, dtype=torch.float64) for _ in range(2)]
    basis = process.basis
    u = L.sqrt() * basis.forward(z[0])
    y = basis.inverse(h * u + s2.sqrt() * basis.forward(z[1]))[..., :SIDE, :SIDE]
    mean = (y.flatten(1) @ gain.T).reshape(y.shape)
    return y, mean, left.reshape(SIDE, SIDE)


def rings(x: torch.Tensor) -> list[float]:
    """Means over the outermost pixels, the next, the third, and all further in."""
    i = torch.arange(SIDE)
    edge = torch.minimum(i, SIDE - 1 - i)
    ring = torch.minimum(edge[:, None], edge[None]).clamp_max(3)
    return [float(x[..., ring == d].mean()) for d in range(4)]


def test_the_border_is_as_sure_as_the_exact_posterior_of_a_field_that_goes_on(truth):
    """Members less the exact mean, squared, over the exact variance, ring by ring.  (Mirrored: 0.7 at the border.)"""
    y, mean, left = truth
    denoiser = GaussianDenoiser(fourier(Fourier((SIDE, SIDE))), spectrum=STEEP)
    options = SamplingOptions(samples=2, steps=1, margin=12, chunk=2, keep_samples=True)
    samples = restore_batch(denoiser, y, options).samples
    assert rings((samples - mean).square().mean((0, 1, 2)) / left) == pytest.approx([1, 1, 1, 1], abs=0.08)


def test_with_the_mean_of_the_margin_the_estimate_is_the_exact_mean(truth):
    y, mean, left = truth
    process = fourier(Fourier((SIDE, SIDE)))
    options = SamplingOptions(rule="ddim", steps=1, margin=12, uncertainty=False)
    found = restore_batch(GaussianDenoiser(process, spectrum=STEEP), y[:20], options).mean
    assert max(rings((found - mean[:20]).square().mean((0, 1)) / left)) < 2e-3  # 12 pixels are not infinitely many


def test_the_margin_has_the_law_of_the_measurement_and_leaves_the_image_alone(monkeypatch):
    monkeypatch.setattr(margin, "TOLERANCE", 1e-8)
    process = fourier(Fourier((12, 10)))
    denoiser = GaussianDenoiser(process, spectrum=STEEP).on((20, 18))
    frame = frame_of((12, 10), process.basis, 4, 1)
    assert frame == Frame((4, 4), (4, 4), (20, 18))
    y = torch.randn(1, 1, 12, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).expand(2, 1, 12, 10)
    found = surrounded(denoiser, y, frame, torch.tensor([1, 2]))
    assert torch.equal(found[frame.crop], y)
    assert torch.equal(found[1:], surrounded(denoiser, y[1:], frame, torch.tensor([2])))
    assert float((found[0] - found[1]).abs().max()) > 0.1
    mean = surrounded(denoiser, y[:1], frame, None)
    basis = denoiser.process.basis
    m = denoiser.process.measurement
    C = window_free(basis, m.h**2 * STEEP.on(basis) + m.s2)
    inside = torch.zeros(20, 18, dtype=torch.bool)
    inside[frame.crop] = True
    inside = inside.flatten()
    known = C[~inside][:, inside] @ torch.linalg.solve(C[inside][:, inside], y[0].flatten())
    assert torch.allclose(mean.flatten()[~inside], known, atol=1e-5)


def window_free(basis, table):
    eye = torch.eye(basis.size[0] * basis.size[1], dtype=torch.float64).reshape(-1, *basis.size)
    return basis.inverse(table * basis.forward(eye)).flatten(1)


def test_slices_that_are_independent_get_no_margin_of_slices():
    plane = fourier(Fourier((8, 8)))
    volume = SliceWise(GaussianDenoiser(plane, spectrum=STEEP), depth=3)
    assert frame_of((3, 8, 8), volume.process.basis, 4, 4) == Frame((0, 4, 4), (0, 4, 4), (3, 16, 16))
    y = torch.randn(2, 1, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    options = SamplingOptions(samples=2, steps=1, margin=4, keep_samples=True)
    assert restore_batch(volume, y, options).samples.shape == (2, 2, 1, 3, 8, 8)


@pytest.mark.parametrize("complex", [False, True])
def test_an_external_measurement_and_complex_images_get_their_margin(complex):
    basis = Fourier((8, 8), complex=complex)
    process = restoring_process("scalar", (8, 8)) if not complex else fourier(basis)
    denoiser = GaussianDenoiser(process, spectrum=Spectrum.power_law(0.2, 4.0, 0.2, 3.0))
    frame = frame_of((8, 8), process.basis, 6, 4)
    kind = torch.complex64 if complex else torch.float32
    y = torch.randn(1, 1, 8, 8, dtype=kind, generator=torch.Generator().manual_seed(0))
    found = surrounded(denoiser.on(frame.size), y, frame, torch.tensor([5]))
    assert found.dtype == kind
    assert torch.equal(found[frame.crop], y)
    outside = torch.cat([found[..., :6, :].flatten(), found[..., 14:, :].flatten()])
    bound = denoiser.on(frame.size)
    m, L = bound.process.measurement, bound.prior()[1]
    total = m.h**2 * L + m.s2
    expected = float((total * bound.process.basis.multiplicity()).sum() / (1 + complex) / 400)
    assert float(outside.abs().square().mean()) == pytest.approx(expected * (1 + complex), rel=0.5)
