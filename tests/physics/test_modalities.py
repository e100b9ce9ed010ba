"""Magnetic resonance, optics, ultrasound and emission: each against what is known of it in closed form."""

from __future__ import annotations

import importlib.util
import math

import pytest
import torch

from physics_cases import MICROSCOPE, noise
from retrodict import InputError
from retrodict.bases import Fourier
from retrodict.physics import (
    MASKS,
    Blur,
    CartesianMRI,
    Downsample,
    FilterBank,
    Mask,
    ParallelBeam,
    Projection,
    RadialMRI,
    Radiograph,
    Radon,
    birdcage,
    check_adjoint,
    emission,
    even_angles,
    idt,
    idt_transfer,
    pulse_echo,
    random_mask,
    sampling,
    spokes,
    tie,
    ultrasound,
)


def picture(*shape, seed=0):
    return torch.complex(noise(1, 1, *shape, seed=seed), noise(1, 1, *shape, seed=seed + 9))


# ---- magnetic resonance ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(6, 8), (7, 5), (4, 5, 3)])
def test_k_space_is_the_sum_of_waves_about_the_middle(size):
    """Both transforms are one on a grid of frequencies; zero frequency and middle at N // 2, of odd and even sizes."""
    axes = [2 * math.pi * (torch.arange(n).double() - n // 2) / n for n in size]
    axes = [torch.where(a < -math.pi + 1e-12, -math.pi, a) for a in axes]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(size))
    x = picture(*size)
    fast = CartesianMRI(torch.ones(*size)).forward(x)
    assert torch.allclose(fast.reshape(1, 1, -1), RadialMRI(size, grid, method="direct").forward(x), atol=1e-10)
    assert torch.allclose(fast.abs().square().sum(), x.abs().square().sum())


def test_coils_see_the_image_through_their_sensitivities():
    maps = birdcage((7, 6), 5)
    assert torch.allclose((maps.abs() ** 2).sum(0), torch.ones(7, 6).double())
    mask = sampling("random", (7, 6), 2, center=0.2)
    x = picture(7, 6)
    y = CartesianMRI(mask, maps=maps).forward(x)
    one = CartesianMRI(mask)
    for c in range(5):
        assert torch.allclose(y[:, c : c + 1], one.forward(maps[c] * x), atol=1e-12)
    whole = CartesianMRI(torch.ones(7, 6), maps=maps)
    assert torch.allclose(whole.adjoint(whole.forward(x)), x, atol=1e-12)
    assert whole.norm() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("asked", [4, 8])
@pytest.mark.parametrize("family", MASKS)
def test_a_mask_says_what_was_realized(family, asked):
    center = {4: 0.08, 8: 0.04}[asked]
    found = sampling(family, (20, 368), asked, center=center, seed=2)
    lines = found.mask[0]
    assert bool((found.mask == lines).all())
    assert found.about["lines"] == int(lines.sum())
    assert found.about["acceleration"] == pytest.approx(368 / int(lines.sum()))
    assert found.about["acceleration"] == pytest.approx(asked, rel=0.05)
    held = round(center * 368)
    assert bool(lines[184 - held // 2 : 184 - held // 2 + held].all())
    assert CartesianMRI(found).about["family"] == family
    assert CartesianMRI(found).about["acceleration"] == pytest.approx(found.about["acceleration"])
    assert torch.equal(found.mask, sampling(family, (20, 368), asked, center=center, seed=2).mask)
    assert not torch.equal(found.mask, sampling(family, (20, 368), asked, center=center, seed=3).mask)


def test_lines_of_the_gaussian_family_lie_near_the_middle():
    far = {f: sum(float(sampling(f, (1, 256), 4, seed=s).mask[0, :40].sum()) for s in range(5)) for f in MASKS}
    assert far["gaussian"] < 0.1 * far["random"]


def test_spokes_pass_the_middle_and_turn_by_the_golden_angle():
    k = spokes(3, 8).reshape(3, 8, 2)
    assert torch.equal(k[:, 4], torch.zeros(3, 2).double())
    turn = torch.atan2(k[1, 7, 0], k[1, 7, 1]) - torch.atan2(k[0, 7, 0], k[0, 7, 1])
    assert math.degrees(float(turn)) == pytest.approx(111.246117975, abs=1e-6)
    assert float(k.abs().max()) == pytest.approx(math.pi)


@pytest.mark.skipif(importlib.util.find_spec("finufft") is None, reason="finufft is not installed")
@pytest.mark.parametrize("size", [(9,), (8, 7), (4, 5, 6)])
def test_the_library_is_the_sum_term_by_term(size):
    k = math.pi * (2 * torch.rand(30, len(size), generator=torch.Generator().manual_seed(0)).double() - 1)
    fast, slow = (RadialMRI(size, k, method=m) for m in ("finufft", "direct"))
    x = picture(*size)
    assert torch.allclose(fast.forward(x), slow.forward(x), atol=1e-9)
    assert check_adjoint(fast) <= 1e-12


def test_measurements_that_cannot_be_are_refused():
    for make, words in (
        (lambda: sampling("random", (8, 32), 8, center=0.3), "center: found 10 lines.*at most the 4"),
        (lambda: sampling("random", (8, 32), 0.5), "acceleration"),
        (lambda: sampling("poisson", (8, 32), 4), "family"),
        (lambda: CartesianMRI(torch.ones(4, 5), maps=birdcage((5, 4))), r"maps: found \(8, 5, 4\)"),
        (lambda: CartesianMRI(0.5 * torch.ones(4, 5)), "values other than 0 and 1"),
        (lambda: RadialMRI((8, 8), 4 * torch.ones(3, 2)), "radians a pixel.*Cycles"),
        (lambda: RadialMRI((8, 8), torch.ones(3, 3)), r"\(samples, 2\)"),
    ):
        with pytest.raises(InputError, match=words):
            make()


# ---- optics ----------------------------------------------------------------------------------------------------------


def test_filters_of_many_images_are_a_matrix_at_every_frequency():
    gains = torch.complex(noise(2, 3, 5, 3), noise(2, 3, 5, 3, seed=1))
    bank, basis = FilterBank((5, 5), gains), Fourier((5, 5))
    x = noise(1, 3, 5, 5)
    known = basis.inverse(torch.einsum("jixy,nixy->njxy", bank.gains, basis.forward(x)))
    assert torch.allclose(bank.forward(x), known, atol=1e-12)


def test_a_phase_wave_becomes_an_intensity_wave_of_the_transport_equation():
    wavelength, z, d, cycles = 5e-4, 0.02, 1e-3, 3
    wave = torch.cos(2 * math.pi * cycles * torch.arange(32).double() / 32).expand(1, 1, 32, 32)
    f = cycles / (32 * d)
    gain = 2 * math.pi * wavelength * z * f**2
    options = {"wavelength": wavelength, "spacing": (d, d)}
    assert torch.allclose(tie((32, 32), [z], **options).forward(wave), gain * wave, atol=1e-12)
    assert torch.allclose(
        tie((32, 32), [z], kind="ctf", **options).forward(wave), 2 * math.sin(gain / 2) * wave, atol=1e-12
    )
    # the five-point Laplacian: 2 (1 - cos w) for w^2, an error of w^2 / 12
    w = 2 * math.pi * cycles / 32
    known = gain * 2 * (1 - math.cos(w)) / w**2
    assert torch.allclose(tie((32, 32), [z], kind="laplacian", **options).forward(wave), known * wave, atol=1e-12)
    assert float(tie((32, 32), [z], **options).forward(torch.ones_like(wave)).abs().max()) < 1e-12
    stack = tie((32, 32), [z, -2 * z], **options)
    assert torch.allclose(stack.forward(wave)[:, 1], -2 * gain * wave[:, 0], atol=1e-12)
    assert torch.allclose(stack.pinv(stack.forward(wave), floor=1e-6), wave, atol=1e-9)


def transfer(u, source=(0.0, 0.0), depth=0.0):
    options = {k: v for k, v in MICROSCOPE.items() if k != "spacing"}
    return idt_transfer((u[0], u[1]), source, depth, **options)


def test_diffraction_in_focus_shows_absorption_and_no_phase():
    """On axis and in focus H_re = 0, H_im = -2 c / eta inside the pupil and 0 outside."""
    u = torch.tensor([[0.0, 0.0], [0.0, 300.0], [250.0, 250.0], [400.0, 0.0]]).double().T
    real, imaginary = transfer(u)
    assert float(real.abs().max()) < 1e-12
    c = math.pi * 5e-3 / 6.3e-4**2
    eta = ((1.33 / 6.3e-4) ** 2 - (u**2).sum(0)).sqrt()
    known = torch.where((u**2).sum(0).sqrt() <= 0.25 / 6.3e-4, -2 * c / eta, 0.0)
    assert torch.allclose(imaginary, known.to(imaginary), rtol=1e-12)
    assert known[3] == 0
    assert known[2] != 0


def test_diffraction_out_of_focus_tends_to_the_transport_equation():
    """H_re = 2 c / eta sin(2 pi z (eta(u) - eta(0))) -> -2 pi c z |u|^2 / eta^2: as z |u|^2."""
    u = torch.tensor([[0.0, 10.0], [0.0, 20.0]]).double().T
    (one, two), _ = transfer(u, depth=0.02)
    assert float(two.real / one.real) == pytest.approx(4, rel=1e-3)
    (near, _), _ = transfer(u, depth=0.01)
    assert float(one.real / near.real) == pytest.approx(2, rel=1e-3)
    medium, c = 1.33 / 6.3e-4, math.pi * 5e-3 / 6.3e-4**2
    assert float(one.real) == pytest.approx(-2 * math.pi * c * 0.02 * 100 / medium**2, rel=1e-3)


def test_diffraction_of_a_real_object_is_real():
    u = noise(2, 30) * 200
    for a, b in zip(transfer(u, (90.0, -200.0), 0.03), transfer(-u, (90.0, -200.0), 0.03), strict=True):
        assert torch.allclose(a, b.conj(), rtol=1e-12)


def test_optics_that_cannot_be_is_refused():
    for make, words in (
        (lambda: tie((8, 8), [], wavelength=5e-4, spacing=(1e-3, 1e-3)), "defocus"),
        (lambda: tie((8, 8), [0.1], wavelength=-1.0, spacing=(1e-3, 1e-3)), "wavelength"),
        (lambda: idt((8, 8), [(400.0, 0.0)], [0.0], **MICROSCOPE), "400 cycles/mm.*bright field"),
        (lambda: idt((8, 8), [(0.0, 0.0)], [0.0], **{**MICROSCOPE, "aperture": 1.4}), "below the refractive index"),
        (lambda: FilterBank((8, 8), torch.ones(2, 1, 8, 8)), r"\(outputs, inputs, 8, 5\)"),
    ):
        with pytest.raises(InputError, match=words):
            make()


# ---- ultrasound and emission -----------------------------------------------------------------------------------------


def test_a_pulse_has_its_carrier_and_its_bandwidth():
    """The spectrum peaks at 2 f / c cycles/mm and is half as high at half a bandwidth from there; 4 sigma cut."""
    f0, share, dz = 3e6, 0.5, 0.02
    psf = pulse_echo(f0, share, 0.9, (dz, 0.1))
    assert float(psf.max()) == 1.0
    axial, lateral = psf[:, psf.shape[1] // 2], psf[psf.shape[0] // 2]
    carrier = 2 * f0 / 1.54e6
    n = torch.arange(len(axial)).double() - len(axial) // 2

    def spectrum(f):
        return float((axial * torch.cos(2 * math.pi * f * n * dz)).sum())

    assert spectrum(carrier * (1 + share / 2)) / spectrum(carrier) == pytest.approx(0.5, abs=2e-3)
    assert spectrum(carrier * (1 - share / 2)) / spectrum(carrier) == pytest.approx(0.5, abs=2e-3)
    width = float((lateral > 0.5).sum()) * 0.1
    assert width == pytest.approx(0.9, abs=0.11)
    with pytest.raises(InputError, match="axial spacing of at most"):
        pulse_echo(f0, share, 0.9, (0.2, 0.1))


def test_haze_is_a_second_image_beside_the_tissue():
    psf = noise(5, 3)
    x = noise(1, 2, 12, 9)
    y = ultrasound((12, 9), psf, haze=0.4).forward(x)
    assert torch.allclose(y, ultrasound((12, 9), psf).forward(x[:, :1]) + 0.4 * x[:, 1:], atol=1e-12)


def test_counts_of_emission_are_attenuated_and_have_a_background():
    projector = Radon((8, 8), ParallelBeam(even_angles(6), 11, 1.0), unit="kBq/mL")
    x, mu = noise(1, 1, 8, 8).abs(), 0.02 * torch.ones(8, 8).double()
    pet = emission(projector, attenuation=mu, sensitivity=50.0, randoms=3.0, scatter=2 * torch.ones(6, 11))
    lost = Radon((8, 8), projector.geometry).forward(mu[None, None])
    assert torch.allclose(pet.forward(x), 50 * torch.exp(-lost) * projector.forward(x) + 5, atol=1e-10)
    again = emission(projector, attenuation=lost[0, 0], sensitivity=50.0, randoms=5.0)
    assert torch.allclose(again.forward(x), pet.forward(x), atol=1e-10)
    assert (pet.domain.unit, pet.range.unit) == ("kBq/mL", "counts")
    for options, words in (
        ({"randoms": -1.0}, "randoms: found a negative"),
        ({"scatter": torch.ones(3, 3)}, r"scatter: found \(3, 3\)"),
        ({"attenuation": torch.ones(4, 4)}, r"attenuation: found \(4, 4\)"),
        ({"attenuation": -mu}, "attenuation: found a negative"),
    ):
        with pytest.raises(InputError, match=words):
            emission(projector, **options)


# ---- devices ---------------------------------------------------------------------------------------------------------


MADE = {
    "radon": lambda: Radon((6, 6), ParallelBeam(even_angles(4), 8, 1.0)),
    "projection": lambda: Projection((4, 4, 4), Radiograph([(0.1, 0.2, 0.3)], (3, 3), (1.0, 1.0))),
    "mri": lambda: CartesianMRI(sampling("gaussian", (6, 8), 2, center=0.2), maps=birdcage((6, 8), 3)),
    "spokes": lambda: RadialMRI((6, 6), spokes(3, 6), method="direct"),
    "tie": lambda: tie((6, 6), [0.01], wavelength=5e-4, spacing=(1e-3, 1e-3)),
    "idt": lambda: idt((6, 6), [(0.0, 0.0)], [0.01], **MICROSCOPE),
    "blur": lambda: Blur.gaussian((6, 6), 2.0, boundary="zero"),
    "coarse": lambda: Downsample((6, 6), 2, filter="bicubic"),
    "mask": lambda: Mask(random_mask((6, 6), 0.5), compact=True),
    "pulse": lambda: ultrasound((6, 6), pulse_echo(3e6, 0.6, 0.8, (0.05, 0.3)), haze=0.1),
    "emission": lambda: emission(Radon((6, 6), ParallelBeam(even_angles(4), 8, 1.0)), sensitivity=2.0, randoms=1.0),
}


@pytest.mark.parametrize("name", MADE)
def test_the_default_device_of_the_caller_changes_nothing(name):
    known = MADE[name]()
    x, y = known.domain.white(0, "x"), known.range.white(0, "y")
    expected = known.forward(x), known.adjoint(y), known.norm()
    torch.set_default_device("meta")
    try:
        operator = MADE[name]()
        found = operator.forward(x), operator.adjoint(y), operator.norm()
    finally:
        torch.set_default_device(None)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])
    assert found[2] == expected[2]
