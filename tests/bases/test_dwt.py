"""The wavelet transform against dense matrices and PyWavelets (wavelet specification, T1, T2, T4, T18, T21, T22)."""

from __future__ import annotations

import itertools
import math
import warnings

import pytest
import pywt
import torch

from retrodict import InputError, UndecimatedHaar, dwt, laplacian_pyramid
from retrodict.bases import Wavelet
from retrodict.bases.bands import join, stack, unstack
from retrodict.bases.dwt import steps_of, transform
from retrodict.bases.filters import BIORTHOGONAL, FAMILIES, pair, taps
from retrodict.bases.redundant import pyramid_sizes

NAMES = [name for name in FAMILIES if name != "db1"]
ALIGNMENTS = ("causal", "centered")


def field(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def dense(n, family, start):
    """One level along an axis as an (n, n) matrix, entry by entry from the definition: the oracle."""
    low = taps(family).tolist()
    matrix = torch.zeros(n, n, dtype=torch.float64)
    for row, (i, h) in itertools.product(range(n // 2), enumerate(low)):
        matrix[row, (2 * row + start + i) % n] += h
        matrix[n // 2 + row, (2 * row + start + i) % n] += (-1) ** i * low[len(low) - 1 - i]
    return matrix


# ---- filters ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", NAMES)
def test_taps_are_those_of_pywavelets_and_orthonormal_to_the_last_digits(family):
    h, p = taps(family), FAMILIES[family]
    # the tables of the symlets are good to 2e-12 only, ours is better
    assert float((h - torch.tensor(pywt.Wavelet(family).rec_lo, dtype=torch.float64)).abs().max()) < (
        1e-14 if family[0] != "s" else 3e-12
    )
    products = [float((h[2 * k :] * h[: len(h) - 2 * k]).sum()) for k in range(p)]
    assert products == pytest.approx([1.0, *[0.0] * (p - 1)], abs=1e-14)
    g = h.flip(0) * torch.tensor([(-1.0) ** i for i in range(2 * p)])
    scale = [float((g.abs() * torch.arange(2 * p, dtype=torch.float64) ** q).sum()) for q in range(p)]
    moments = [float((g * torch.arange(2 * p, dtype=torch.float64) ** q).sum()) for q in range(p)]
    assert max(abs(m) / s for m, s in zip(moments, scale, strict=True)) < 1e-13


@pytest.mark.parametrize("family", BIORTHOGONAL)
def test_biorthogonal_pairs_are_those_of_pywavelets_and_dual(family):
    down, up = pair(family)
    known = pywt.Wavelet(family)
    assert float((down - torch.tensor(known.dec_lo, dtype=torch.float64)).abs().max()) < 1e-11
    assert float((up - torch.tensor(known.rec_lo, dtype=torch.float64)).abs().max()) < 1e-11
    # sum_m down_(F-1-m) up_(m + 2k) is 1 at one k and else 0
    products = torch.nn.functional.conv1d(up[None, None], down.flip(0)[None, None], padding=len(down))[0, 0]
    found = products[int(products.argmax()) % 2 :: 2]
    assert float((found - torch.nn.functional.one_hot(found.argmax(), len(found))).abs().max()) < 1e-13


# ---- the transform ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alignment", ALIGNMENTS)
@pytest.mark.parametrize("family", NAMES)
def test_one_level_is_its_matrix_however_short_the_signal(family, alignment):
    start = 0 if alignment == "causal" else 1 - FAMILIES[family]
    for n in (2, 4, 6, 16, 40):
        matrix = transform(torch.eye(n, dtype=torch.float64), steps_of(family, (1,), alignment)).T
        assert float((matrix - dense(n, family, start)).abs().max()) < 1e-15
        assert float((matrix @ matrix.T - torch.eye(n, dtype=torch.float64)).abs().max()) < 1e-14


@pytest.mark.parametrize("levels", [(3, 1), (0, 2), (2, 2)])
def test_every_axis_has_levels_of_its_own(levels):
    """Level by level, each axis by its dense matrix for as long as it has one."""
    x = field(8, 16)
    expected = x.clone()
    for level in range(max(levels)):
        corner = tuple(slice(0, n >> min(level, own)) for n, own in zip(x.shape, levels, strict=True))
        part = expected[corner]
        if levels[0] > level:
            part = dense(part.shape[0], "db3", -2) @ part
        if levels[1] > level:
            part = part @ dense(part.shape[1], "db3", -2).T
        expected[corner] = part
    found = dwt(x, "db3", levels)
    assert torch.allclose(found.coefficients, expected, atol=1e-14)
    assert torch.allclose(found.image(), x, atol=1e-14)


@pytest.mark.parametrize(("shape", "levels"), [((16,), 2), ((8, 24), 3), ((4, 8, 12), 2)])
@pytest.mark.parametrize("family", ["haar", "db2", "db4", "db8", "sym4", "sym5", "sym6", "sym7", "sym8"])
def test_bands_are_those_of_pywavelets(family, shape, levels):
    x = field(2, *shape)
    found = dwt(x, family, levels, ndim=len(shape)).parts
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # levels that wrap are meant
        axes = tuple(range(1, 1 + len(shape)))
        coarse, *details = pywt.wavedecn(x.numpy(), family, mode="periodization", level=levels, axes=axes)
    known = {(levels, "a" * len(shape)): coarse}
    known.update({(levels - i, name): v for i, part in enumerate(details) for name, v in part.items()})
    assert set(found) == set(known)
    assert max(float((found[k] - torch.from_numpy(known[k])).abs().max()) for k in known) < 1e-10


@pytest.mark.parametrize("alignment", ALIGNMENTS)
def test_large_images_are_cut_into_tiles_that_no_one_sees(alignment):
    """Beyond the tile: against the dense matrices, and each image with the bits that it has alone."""
    x = field(2, 512, 192)
    start = {"causal": 0, "centered": -3}[alignment]
    steps = steps_of("db4", (1, 1), alignment)
    expected = dense(512, "db4", start) @ x @ dense(192, "db4", start).T
    u = transform(x, steps)
    assert float((u - expected).abs().max()) < 1e-13
    assert float((transform(u, steps, inverse=True) - x).abs().max()) < 1e-13
    assert torch.equal(u[1], transform(x[1], steps))
    small = field(40, 64, 64, dtype=torch.float32)
    assert torch.equal(transform(small, steps)[7:9], transform(small[7:9], steps))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64, torch.complex128])
def test_the_dtype_is_kept_and_the_inverse_is_exact(dtype):
    x = field(2, 3, 16, 24, dtype=dtype)
    found = dwt(x, "db4", 3)
    assert found.coefficients.dtype == dtype
    tolerance = 1e-13 if dtype in (torch.float64, torch.complex128) else 1e-5
    assert float((found.image() - x).abs().max()) < tolerance
    if dtype.is_complex:
        assert torch.allclose(dwt(x.imag, "db4", 3).coefficients, found.coefficients.imag, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_single(dtype):
    x = field(1, 16, 16).to(dtype)
    found = dwt(x, "db4", 2)
    assert torch.equal(found.coefficients, dwt(x.float(), "db4", 2).coefficients)
    basis = Wavelet((16, 16), levels=2)
    assert basis.forward(x).dtype == basis.inverse(x).dtype == torch.float32


def test_autocast_and_low_precision_of_products_change_nothing():
    x = field(1, 64, 64, dtype=torch.float32)
    plain, before = dwt(x, "db4", 2).coefficients, torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(dwt(x, "db4", 2).coefficients, plain)
    finally:
        torch.set_float32_matmul_precision(before)


def test_derivatives_of_every_kind():
    """A linear map W: backward W^T g, twice, with complex numbers too; forward W v; and an axis of a batch."""
    steps = steps_of("db2", (2, 1), "centered")
    for inverse in (False, True):
        x, y, v = (field(1, 4, 4, seed=s).requires_grad_(True) for s in (0, 1, 2))
        f = lambda x, inverse=inverse: transform(x, steps, inverse=inverse)  # noqa: E731
        (g,) = torch.autograd.grad((f(x) * y).sum(), x, create_graph=True)
        assert torch.allclose(g, transform(y, steps, inverse=not inverse), atol=1e-14)
        (h,) = torch.autograd.grad((g * v).sum(), y)
        assert torch.allclose(h, f(v), atol=1e-14)
        assert torch.allclose(torch.func.jvp(f, (x,), (v,))[1], f(v), atol=1e-14)
    z, y = (field(8, 6, dtype=torch.complex128, seed=s).requires_grad_(True) for s in (0, 1))
    (gradient,) = torch.autograd.grad((transform(z, steps) * y.conj()).sum().real, z)
    assert torch.allclose(gradient, transform(y, steps, inverse=True), atol=1e-14)
    x = field(5, 8, 6)
    assert torch.equal(torch.func.vmap(lambda v: transform(v, steps))(x), transform(x, steps))
    assert torch.equal(torch.func.vmap(lambda v: transform(v, steps), in_dims=2)(x.movedim(0, 2)), transform(x, steps))


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_a_constant_is_coarse_alone(ndim):
    found = dwt(torch.full((16,) * ndim, 1.5, dtype=torch.float64), "db3", 2, ndim=ndim).parts
    assert torch.allclose(found.pop((2, "a" * ndim)), torch.tensor(1.5 * 2**ndim, dtype=torch.float64), atol=1e-13)
    assert max(float(part.abs().max()) for part in found.values()) < 1e-13


# ---- sizes and layouts -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(7, 9), (5, 16), (13, 2), (3, 3)])
def test_any_size_comes_back(shape):
    x = field(2, 3, *shape)
    found = dwt(x, "db2", 2 if min(shape) > 2 else (2, 1))
    assert found.pad == tuple(-n % 2**own for n, own in zip(shape, found.levels, strict=True))
    assert float((found.image() - x).abs().max()) < 1e-14
    assert float((found.with_stack(found.stack()).image() - x).abs().max()) < 1e-14


def test_what_is_added_to_an_odd_size_is_mirrored():
    x = field(1, 5)
    found = dwt(x, "haar", 2, ndim=1)
    expected = transform(x[:, [0, 1, 2, 3, 4, 4, 3, 2]], steps_of("haar", (2,), "centered"))
    assert found.pad == (3,)
    assert torch.equal(found.coefficients, expected)


@pytest.mark.parametrize("levels", [(1, 1), (2, 2), (3, 1), (0, 2)])
def test_layouts_are_lossless(levels):
    u = field(2, 3, 16, 8).requires_grad_(True)
    basis = Wavelet((16, 8), levels=levels)
    parts = basis.split(u)
    assert sum(part[0, 0].numel() for part in parts.values()) == 16 * 8
    assert torch.equal(join(parts, levels), u)
    v = basis.stack(u)
    assert v.shape == (2, 3 * 2 ** sum(levels), 16 >> levels[0], 8 >> levels[1])
    assert torch.equal(basis.unstack(v), u)
    (gradient,) = torch.autograd.grad((basis.unstack(v * 2) ** 2).sum(), u)
    assert torch.allclose(gradient, 8 * u)


def test_one_level_of_channels_is_band_by_band():
    x = field(1, 2, 4, 4)
    found = dwt(x, "haar", 1)
    v, parts = found.stack(), found.parts
    for i, name in enumerate(("aa", "ad", "da", "dd")):
        assert torch.equal(v[:, 2 * i : 2 * i + 2], parts[1, name])
    deep = stack(field(1, 1, 4, 4), (2, 2))
    assert deep.shape == (1, 16, 1, 1)
    assert torch.equal(unstack(deep, (2, 2)), field(1, 1, 4, 4))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: dwt(field(8, 8), "db9"), "Did you mean|wavelet family"),
        (lambda: dwt(field(8, 8), "haar", 4), "fewer"),
        (lambda: dwt(field(8, 8), "haar", 0), "positive whole number"),
        (lambda: dwt(field(8, 8), "haar", (1, 1, 1)), "one for every axis"),
        (lambda: dwt(field(8, 8), "haar", 2.0), "positive whole number"),
        (lambda: dwt(field(8, 8), None), "wavelet family: found None"),
        (lambda: dwt(field(8, 8), "haar", alignment="left"), "alignment: found 'left'; expected one of"),
        (lambda: dwt(field(8, 8).numpy(), "haar"), "ndarray; expected a torch tensor"),
        (lambda: dwt(field(8), "haar", 1), "at least 2 axes"),
        (lambda: dwt(torch.zeros(8, 8, dtype=torch.uint8)), "floating point"),
        (lambda: dwt(field(8, 8)).with_coefficients(field(8, 6)), "coefficients"),
        (lambda: dwt(field(8, 8)).with_stack(field(3, 4, 4)), "multiple of 4"),
        (lambda: join({(1, "aa"): field(4, 4)}, (1, 1)), "bands"),
        (lambda: join({(1, "ad"): field(4, 4)}, (1, 1)), "coarse band"),
        (lambda: join({(1, "a"): field(4), (1, "d"): field(5)}, (1,)), "the shape"),
        (lambda: Wavelet((8, 6), levels=2), "divisible"),
        (lambda: Wavelet((8, 8), levels=(1,)), "one for every axis"),
        (lambda: Wavelet((8, 8), levels=2.5), "levels: found 2.5; expected a positive whole number"),
        (lambda: Wavelet((8, 8), levels=None), "levels: found None"),
        (lambda: Wavelet((8, 8), alignment="left"), "alignment"),
        (lambda: laplacian_pyramid(field(32, 32, 32), 1), "32 samples are too few"),
        (lambda: laplacian_pyramid(field(64, 64, 64), 2), "1 to 1 on 64"),
        (lambda: laplacian_pyramid(field(64, 64), 1), "at least 3 axes"),
        (lambda: pair("bior9.9"), "wavelet family"),
        (lambda: UndecimatedHaar(0), "at least one level"),
        (lambda: UndecimatedHaar(1.5), "at least one level"),
        (lambda: laplacian_pyramid(field(64, 64, 64), 1.0), "pyramid levels: found 1.0"),
        (lambda: UndecimatedHaar(1).adjoint(field(1, 3, 8, 8)), "4 bands"),
    ],
)
def test_bad_input_is_one_clear_error(call, message):
    with pytest.raises(InputError, match=message):
        call()


# ---- redundant transforms --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(11,), (9, 6), (4, 5, 6)])
def test_the_undecimated_haar_is_a_tight_frame(shape):
    frame = UndecimatedHaar(2, len(shape))
    x, v = field(2, *shape), field(2, len(frame.bands), *shape, seed=1)
    u = frame.forward(x)
    assert u.shape == v.shape
    assert float((u * v).sum()) == pytest.approx(float((x * frame.adjoint(v)).sum()), rel=1e-12)
    assert float((u**2).sum()) == pytest.approx(float((x**2).sum()), rel=1e-13)
    assert torch.allclose(frame.adjoint(u), x, atol=1e-15)


def test_undecimated_bands_are_differences_of_means():
    x = field(8, 8)
    u = dict(zip(UndecimatedHaar(2).bands, UndecimatedHaar(2).forward(x), strict=True))
    assert float(u[1, "ad"][2, 3]) == pytest.approx(float(x[2:4, 3].sum() - x[2:4, 4].sum()) / 4)
    assert float(u[1, "da"][2, 3]) == pytest.approx(float(x[2, 3:5].sum() - x[3, 3:5].sum()) / 4)
    means = x.unfold(0, 2, 1).unfold(1, 2, 1).mean((-1, -2))
    assert float(u[2, "ad"][1, 2]) == pytest.approx(float(means[1, 2] + means[3, 2] - means[1, 4] - means[3, 4]) / 4)
    assert float(u[2, "aa"][1, 2]) == pytest.approx(float(x[1:5, 2:6].mean()))


@pytest.mark.parametrize("family", [*BIORTHOGONAL, "haar", "db4"])
def test_the_pyramid_is_that_of_pywavelets_and_exact(family):
    x = field(2, 37, 40)
    found = laplacian_pyramid(x, 1, family, ndim=2, outside=0.3)
    coarse = pywt.dwt2(x.numpy() - 0.3, family, mode="zero")[0]
    assert float((found.coarse - torch.from_numpy(coarse)).abs().max()) < 1e-11
    up = pywt.idwt2((coarse, (None, None, None)), family, mode="zero")[:, :37, :40]
    assert float((x - 0.3 - found.details[0] - torch.from_numpy(up)).abs().max()) < 1e-11
    assert float((found.image() - x).abs().max()) < 1e-14
    single = laplacian_pyramid(x.float(), 1, family, ndim=2)
    assert float((single.image() - x.float()).abs().max()) < 1e-5


def test_the_pyramid_of_a_volume():
    assert pyramid_sizes(256, 3) == [256, 136, 76, 46]
    assert pyramid_sizes(128, 2) == [128, 72, 44]
    flat = laplacian_pyramid(torch.full((48, 36, 40), 0.1, dtype=torch.float64), 1)
    assert flat.coarse.shape == (32, 26, 28)
    assert torch.allclose(flat.coarse[12:20, 12:14, 12:16], torch.tensor(0.1 * math.sqrt(8), dtype=torch.float64))
    # with the value outside there is no wall, and nothing to store
    empty = laplacian_pyramid(torch.full((48, 36, 40), 0.1, dtype=torch.float64), 1, outside=0.1)
    assert float(empty.coarse.abs().max()) == 0.0 == float(empty.details[0].abs().max())
    assert torch.allclose(empty.keeping().image(), torch.tensor(0.1, dtype=torch.float64))


def test_gradients_of_redundant_transforms():
    """Of linear maps: the transpose, found by unit fields, is what backward applies."""
    shape = (7, 6)
    maps = [
        lambda v: laplacian_pyramid(v, 1, "db2", ndim=2).coarse,
        lambda v: laplacian_pyramid(v, 1, "db2", ndim=2).keeping().image(),
        UndecimatedHaar(2).forward,
    ]
    unit = torch.eye(42, dtype=torch.float64).reshape(42, *shape)
    for one in maps:
        x = field(*shape).requires_grad_(True)
        y = one(x)
        g = field(*y.shape, seed=1)
        (found,) = torch.autograd.grad((y * g).sum(), x)
        expected = (one(unit).flatten(1) @ g.flatten()).reshape(shape)
        assert torch.allclose(found, expected, atol=1e-13)
