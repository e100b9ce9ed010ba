"""The contract of every operator of the table, and what only some of them promise."""

from __future__ import annotations

import math

import pytest
import torch

from physics_cases import CASES, matrix, noise, operators
from retrodict import InputError
from retrodict.bases import Fourier
from retrodict.bases.curve import Curve
from retrodict.physics import (
    OPERATORS,
    Adjoint,
    Affine,
    Blur,
    Composed,
    Diagonal,
    Downsample,
    Gram,
    Identity,
    Mask,
    Operator,
    Scaled,
    Space,
    Stacked,
    Sum,
    adjoint_error,
    check_adjoint,
    hazed,
    inner,
    normalized,
    random_mask,
)

ALL = dict(operators())
each = pytest.mark.parametrize("name", ALL)


def batch(space, count=3):
    return torch.cat([space.white(7, "test", i) for i in range(count)])


def single(x):
    return x.to(torch.complex64 if x.is_complex() else torch.float32)


def test_every_entry_of_the_table_has_a_case():
    assert set(CASES) == set(OPERATORS)


# ---- the contract ----------------------------------------------------------------------------------------------------


@each
def test_the_adjoint_is_the_adjoint(name):
    assert check_adjoint(ALL[name]) <= 1e-12
    assert check_adjoint(ALL[name], dtype=torch.float32) <= 1e-5


@each
def test_the_norm_is_the_largest_singular_value(name):
    exact = float(torch.linalg.matrix_norm(matrix(ALL[name]), 2))
    assert ALL[name].norm() == pytest.approx(exact, rel=1e-3)
    assert ALL[name].norm(dtype=torch.float32) == pytest.approx(exact, rel=1e-3)


@each
def test_an_item_is_what_it_is_in_any_batch(name):
    operator = ALL[name]
    for space, act in ((operator.domain, operator.forward), (operator.range, operator.adjoint)):
        x = batch(space)
        assert torch.equal(act(x), torch.cat([act(item[None]) for item in x]))


@each
def test_the_precision_is_that_of_the_input(name):
    operator = ALL[name]
    for a, b, act in (
        (operator.domain, operator.range, operator.forward),
        (operator.range, operator.domain, operator.adjoint),
    ):
        x = batch(a)
        exact, rough = act(x), act(single(x))
        assert exact.dtype == (torch.complex128 if b.complex else torch.float64)
        assert rough.dtype == (torch.complex64 if b.complex else torch.float32)
        assert exact.shape == (3, *b.shape)
        assert float((exact - rough).abs().max()) <= 1e-4 * float(exact.abs().max())


@each
def test_its_parts_are_linear_and_an_affine_one_adds_its_offset(name):
    operator = ALL[name]
    x, y = batch(operator.domain, 2).split(1)
    part = operator.part
    assert torch.allclose(part.forward(2 * x - 3 * y), 2 * part.forward(x) - 3 * part.forward(y), atol=1e-9)
    offset = 0 if operator.offset is None else operator.offset
    assert operator.linear == (operator.offset is None)
    assert torch.allclose(operator.forward(x), part.forward(x) + offset, atol=1e-12)


@each
def test_a_gradient_is_the_adjoint_of_the_residual(name):
    operator = ALL[name]
    x = batch(operator.domain, 2).requires_grad_()
    y = batch(operator.range, 2)
    residual = operator.forward(x) - y
    (0.5 * inner_of(residual)).backward()
    assert torch.allclose(x.grad, operator.adjoint(residual.detach()), atol=1e-9)


def inner_of(x):
    return (x.abs() ** 2).sum()


@each
def test_a_spectral_form_is_the_operator(name):
    operator = ALL[name].part
    form = operator.spectral()
    if form is None:
        pytest.skip("no basis makes it diagonal")
    x, y = batch(operator.domain), batch(operator.range)
    assert torch.allclose(form.to_range(form.gain * form.basis.forward(x)), operator.forward(x), atol=1e-10)
    back = form.basis.inverse(form.gain.conj() * form.from_range(y))
    assert torch.allclose(back, operator.adjoint(y), atol=1e-10)
    values = torch.linalg.svdvals(matrix(operator))
    own = form.gain.abs().repeat(operator.domain.shape[0], *[1] * form.gain.ndim).flatten()
    count = form.basis.multiplicity().repeat(operator.domain.shape[0], *[1] * form.gain.ndim).flatten().long()
    known = own.repeat_interleave(count).sort(descending=True).values
    assert torch.allclose(values, known[: len(values)], atol=1e-9)
    assert not bool(known[len(values) :].any())


@each
def test_a_pseudo_inverse_is_that_of_the_matrix(name):
    operator = ALL[name]
    y = batch(operator.range, 1)
    if operator.part.spectral() is None and type(operator.part).pinv is Operator.pinv:
        with pytest.raises(InputError, match="closed pseudo-inverse"):
            operator.pinv(y)
        return
    found = operator.pinv(y, floor=1e-6)
    inverse = torch.linalg.pinv(matrix(operator), rtol=1e-6)
    shifted = y if operator.offset is None else y - operator.offset
    flat = [torch.view_as_real(v).flatten() if v.is_complex() else v.flatten() for v in (shifted, found)]
    assert torch.allclose(inverse @ flat[0], flat[1], atol=1e-6 * float(flat[1].abs().max() + 1))


@each
def test_what_does_not_fit_is_refused_by_name(name):
    operator = ALL[name]
    x = batch(operator.domain)
    with pytest.raises(InputError, match="forward: found a tensor of shape"):
        operator.forward(x[..., :-1] if x.shape[-1] > 1 else x[None])
    with pytest.raises(InputError, match=r"One item is x\[None\]"):
        operator.forward(x[0])
    with pytest.raises(InputError, match="real" if operator.domain.complex else "complex"):
        operator.forward(x.real if operator.domain.complex else torch.complex(x, x))
    half = torch.complex32 if operator.domain.complex else torch.float16
    with pytest.raises(InputError, match="32 or 64 bits"):
        operator.forward(x.to(half))


# ---- algebra ---------------------------------------------------------------------------------------------------------


def test_operators_made_of_operators_are_the_matrices_made_of_theirs():
    a, b = Blur((5, 6), noise(3, 3)), Diagonal(noise(5, 6))
    A, B = matrix(a), matrix(b)
    weight = noise(1, 5, 6).abs()
    for operator, known in (
        (a @ b, A @ B),
        (Composed(b, a), B @ A),
        (Sum(a, b, a), 2 * A + B),
        (Scaled(a, -0.3), -0.3 * A),
        (Stacked(a, b), torch.cat([A, B])),
        (Adjoint(a), A.T),
        (Gram(a), A.T @ A),
        (Gram(a, weight), A.T @ torch.diag(weight.flatten()) @ A),
    ):
        assert torch.allclose(matrix(operator), known, atol=1e-12)
        assert check_adjoint(operator) <= 1e-12
        form = operator.spectral()
        if form is not None:
            x = batch(operator.domain)
            assert torch.allclose(form.to_range(form.gain * form.basis.forward(x)), operator.forward(x), atol=1e-12)
    assert Composed(a, a).spectral() is not None
    assert Composed(a, b).spectral() is None
    unit, norm = normalized(a)
    assert norm == pytest.approx(float(torch.linalg.matrix_norm(A, 2)))
    assert Affine(Composed(b, a), noise(1, 5, 6)).about == unit.about == a.about
    assert unit.norm() == pytest.approx(1.0)


def test_a_unit_of_a_model_is_folded_into_the_operator_once():
    a = Blur((5, 6), noise(3, 3), unit="HU")
    model = Affine.rescaled(a, 1000.0, -500.0, "1")
    x = batch(model.domain)
    assert torch.allclose(model.forward(x), a.forward(1000 * x - 500), atol=1e-9)
    assert (model.domain.unit, model.range.unit) == ("1", "HU")
    with pytest.raises(InputError, match=r"affine operator Affine; expected linear.*\.part"):
        Composed(a, model)


def test_operators_that_do_not_fit_are_refused():
    a = Blur((5, 6), noise(3, 3), unit="1/mm")
    with pytest.raises(InputError, match="unit '1'; expected '1/mm'"):
        Composed(a, Identity((5, 6)))
    with pytest.raises(InputError, match="Stacked range"):
        Stacked(Blur((5, 6), noise(3, 3), boundary="valid"), Blur((5, 6), noise(2, 2), boundary="valid"))
    with pytest.raises(InputError, match=r"weight.*negative"):
        Gram(a, -torch.ones(1, 5, 6))
    with pytest.raises(InputError, match="offset"):
        Affine(a, torch.zeros(5, 6))


class Wrong(Operator):
    """A blur whose adjoint forgets to turn the kernel."""

    def __init__(self):
        self.inner = Blur((6, 7), noise(3, 3))
        self.domain, self.range = self.inner.domain, self.inner.range

    def _forward(self, x):
        return self.inner._forward(x)

    def _adjoint(self, y):
        return self.inner._forward(y)


def test_an_adjoint_that_is_none_is_found_with_its_figure():
    with pytest.raises(InputError, match=r"Wrong: found an adjoint that is off by \d[.\d]* of <A u, v>"):
        check_adjoint(Wrong())
    assert adjoint_error(Scaled(Blur((6, 7), noise(3, 3)), 1e-9)) <= 1e-12


def test_noise_of_a_space_has_unit_variance_in_every_real_component():
    x = Space((100, 100), complex=True).white(0, "test")
    assert float(x.real.var()) == pytest.approx(1, abs=0.06)
    assert float(x.imag.var()) == pytest.approx(1, abs=0.06)
    assert float(inner(x, 1j * x)) == pytest.approx(0, abs=1e-9)
    assert Space((3, 4), complex=True).count == 24


# ---- blur ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [((7, 6), (3, 4)), ((8, 5), (4, 3)), ((5, 6, 4), (3, 2, 3)), ((9,), (4,))])
def test_a_blur_is_the_convolution_that_scipy_computes(shape):
    from scipy.ndimage import convolve
    from scipy.signal import convolve as full

    size, support = shape
    x, psf = noise(*size), noise(*support, seed=1)
    out = Blur(size, psf, boundary="valid").forward(x[None, None])[0, 0]
    assert torch.allclose(out, torch.from_numpy(full(x.numpy(), psf.numpy(), "valid")), atol=1e-12)
    whole = torch.from_numpy(full(x.numpy(), psf.numpy(), "full"))
    cut = whole[tuple(slice(k // 2, k // 2 + n) for n, k in zip(size, support, strict=True))]
    assert torch.allclose(Blur(size, psf, boundary="zero").forward(x[None, None])[0, 0], cut, atol=1e-12)
    if all(k % 2 for k in support):
        known = convolve(x.numpy(), psf.numpy(), mode="wrap")
        assert torch.allclose(Blur(size, psf).forward(x[None, None])[0, 0], torch.from_numpy(known), atol=1e-12)


def test_a_blur_longer_than_a_periodic_image_wraps_as_often_as_it_is_long():
    x = noise(4)
    psf = torch.ones(8, dtype=torch.float64)
    assert torch.allclose(Blur((4,), psf).forward(x[None, None]), 2 * x.sum() * torch.ones(1, 1, 4).double())


def test_a_point_stays_where_it_is_under_a_centered_kernel():
    """A kernel whose middle is not its origin shifts the image: a fault of many packages for odd or even sizes."""
    for n in (8, 9):
        x = torch.zeros(1, 1, n, n).double()
        x[..., 3, 5] = 1
        y = Blur.gaussian((n, n), 2.0).forward(x)
        assert int(y.argmax()) == 3 * n + 5


def test_the_gain_of_a_gaussian_is_its_transform():
    """exp(-2 pi^2 sigma^2 f^2); sampling and cutting at 4 sigma change it by less than 1e-4."""
    blur = Blur.gaussian((64, 64), 3.0, spacing=(0.5, 0.5))
    sigma = 3.0 / (2 * math.sqrt(2 * math.log(2)))
    f = Fourier((64, 64), (0.5, 0.5)).radius()
    assert torch.allclose(blur.spectral().gain.real, torch.exp(-2 * math.pi**2 * sigma**2 * f**2), atol=2e-4)
    assert blur.about["gain_at_zero"] == pytest.approx(1)


def test_a_measured_mtf_is_a_blur_up_to_the_nyquist_frequency():
    curve = Curve.isotropic([0, 1], [1, 0.2], "1")
    wave = torch.cos(2 * math.pi * 4 * torch.arange(16) / 16).double().expand(1, 1, 16, 16)
    out = Blur.mtf((16, 16), curve, spacing=(0.5, 0.5)).forward(wave)
    assert torch.allclose(out, (1 - 0.8 * 0.5) * wave, atol=1e-12)  # 4 cycles over 8 mm
    with pytest.raises(InputError, match="Nyquist"):
        Blur.mtf((16, 16), curve, spacing=(0.25, 0.25))


def test_a_kernel_that_is_none_is_refused():
    for psf, words in (
        (noise(3), "1 axes for an image of 2"),
        (noise(3, 3) * math.nan, "NaN"),
        (torch.complex(noise(3, 3), noise(3, 3)), "complex"),
    ):
        with pytest.raises(InputError, match=words):
            Blur((5, 5), psf)
    with pytest.raises(InputError, match="boundary"):
        Blur((5, 5), noise(3, 3), boundary="mirror")
    with pytest.raises(InputError, match="at most the image"):
        Blur((5, 5), noise(6, 3), boundary="valid")
    with pytest.raises(InputError, match="center"):
        Blur((5, 5), noise(3, 3), center=(3, 0))


# ---- masks, resolution, haze -----------------------------------------------------------------------------------------


def test_the_mean_over_blocks_is_super_resolution_s_simplest_operator():
    """A A^H = 1 / s^2, and the pseudo-inverse repeats every pixel."""
    operator = Downsample((6, 8), 2)
    x = noise(1, 1, 6, 8)
    assert torch.allclose(operator.forward(x), torch.nn.functional.avg_pool2d(x, 2), atol=1e-12)
    y = noise(1, 1, 3, 4)
    assert torch.allclose(operator.forward(operator.adjoint(y)), y / 4, atol=1e-12)
    assert torch.allclose(operator.pinv(y), torch.nn.functional.interpolate(y, scale_factor=2.0), atol=1e-12)
    assert operator.norm() == pytest.approx(0.5)


@pytest.mark.parametrize("factor", [2, 3])
@pytest.mark.parametrize("filter", ["mean", "linear", "bicubic", "gaussian"])
def test_a_coarse_pixel_looks_at_the_middle_of_its_fine_ones(filter, factor):
    """A ramp stays a ramp, shifted by (s - 1) / 2 fine pixels; the seam of the period is left out."""
    n = 24
    x = torch.arange(n).double().expand(1, 1, n, n)
    y = Downsample((n, n), factor, filter=filter).forward(x)[0, 0, 0]
    middle = torch.arange(n // factor).double() * factor + (factor - 1) / 2
    assert torch.allclose(y[3:-3], middle[3:-3], atol=1e-10)
    assert Downsample((n, n), factor, spacing=(0.5, 0.5)).range.spacing == (0.5 * factor,) * 2


def test_the_bicubic_filter_is_that_of_the_usual_library():
    from torch.nn.functional import interpolate

    x = noise(1, 1, 32, 32)
    known = interpolate(x, scale_factor=0.5, mode="bicubic", antialias=True, align_corners=False)
    assert torch.allclose(Downsample((32, 32), 2, filter="bicubic").forward(x)[..., 3:-3, 3:-3], known[..., 3:-3, 3:-3])


def test_a_mask_keeps_what_was_measured_in_order():
    mask = random_mask((5, 7), 0.4, seed=3)
    operator = Mask(mask, compact=True)
    x = noise(1, 1, 5, 7)
    assert torch.equal(operator.forward(x)[0, 0], x[0, 0][mask])
    assert operator.about == {"measured": 14, "share": 0.4}
    assert int(mask.sum()) == 14
    assert not torch.equal(mask, random_mask((5, 7), 0.4, seed=4))
    with pytest.raises(InputError, match="values other than 0 and 1"):
        Mask(0.5 * mask)
    with pytest.raises(InputError, match="no measured pixel"):
        Mask(torch.zeros(3, 3))
    with pytest.raises(InputError, match="multiple of the factor"):
        Downsample((5, 6), 2)


def test_haze_hides_what_is_far_behind_the_color_of_the_air():
    depth = torch.tensor([[0.0, 1.0, 1e6]])
    operator = hazed(depth, beta=math.log(2), airlight=0.8)
    y = operator.forward(torch.full((1, 1, 1, 3), 0.2).double())[0, 0, 0]
    assert torch.allclose(y, torch.tensor([0.2, 0.5, 0.8]).double())
    with pytest.raises(InputError, match="depth"):
        hazed(-depth, beta=1.0, airlight=1.0)
    with pytest.raises(InputError, match="airlight"):
        hazed(depth, beta=1.0, airlight=(1.0, 1.0))
