"""Functions, and operators of other packages, as operators here."""

from __future__ import annotations

import importlib.util
import math
import re
from pathlib import Path

import pytest
import torch

from physics_cases import noise
from retrodict import InputError
from retrodict.physics import (
    AstraRadon,
    Blur,
    FanBeam,
    MatrixFree,
    ParallelBeam,
    RadialMRI,
    Radon,
    Space,
    adjoint_error,
    birdcage,
    check_adjoint,
    even_angles,
    from_deepinv,
    from_leap,
    from_mri_nufft,
    from_tomosipo,
    spokes,
    to_deepinv,
)

deepinv = pytest.mark.skipif(importlib.util.find_spec("deepinv") is None, reason="deepinv is not installed")
nufft = pytest.mark.skipif(importlib.util.find_spec("mrinufft") is None, reason="mri-nufft is not installed")
tomosipo = pytest.mark.skipif(importlib.util.find_spec("tomosipo") is None, reason="tomosipo is not installed")
leap = pytest.mark.skipif(importlib.util.find_spec("leapctype") is None, reason="LEAP (leapctype) is not installed")
astra = pytest.mark.skipif(importlib.util.find_spec("astra") is None, reason="the ASTRA toolbox is not installed")
SHIFT = Space((1, 6, 7))


def test_two_functions_are_an_operator():
    operator = MatrixFree(lambda x: x.roll(2, -1), lambda y: y.roll(-2, -1), SHIFT, SHIFT, name="shift")
    x = noise(2, 1, 6, 7)
    assert torch.equal(operator.forward(x), x.roll(2, -1))
    assert operator.norm() == pytest.approx(1)
    assert operator.name == "shift"


def test_functions_that_do_not_fit_are_refused_as_the_operator_is_made():
    for forward, adjoint, words in (
        (lambda x: x.roll(2, -1), lambda y: y.roll(2, -1), r"shift: found an adjoint that is off by 0\.\d+"),
        (lambda x: 2 * x, lambda y: y, r"shift: found an adjoint that is off by 0\.5 of"),
        (lambda x: x, lambda y: y / 0, "shift: found an adjoint that is off by nan"),
        (lambda x: x[..., :-1], lambda y: y, "shift: what forward returns: found a tensor of shape"),
        (lambda x: x, lambda y: y[..., :-1], "shift: what adjoint returns"),
        (lambda x: torch.complex(x, x), lambda y: y.real, "what forward returns: found complex values"),
    ):
        with pytest.raises(InputError, match=words):
            MatrixFree(forward, adjoint, SHIFT, SHIFT, name="shift")
    MatrixFree(lambda x: 2 * x, lambda y: y, SHIFT, SHIFT, check=False)


def test_the_guide_says_what_happens():
    """Its two blocks of code run, and its refused adjoint is refused with its figure."""
    text = (Path(__file__).resolve().parents[2] / "docs" / "howto-own-operator.md").read_text()
    names: dict = {}
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(block, names)
    assert names["operator"].norm() == pytest.approx(math.sqrt(2))
    derivative = names["Derivative"]((8, 9), (0.5, 0.7))
    x = noise(1, 1, 8, 9)
    form = derivative.spectral()
    assert torch.allclose(form.to_range(form.gain * form.basis.forward(x)), derivative(x), atol=1e-12)
    assert check_adjoint(derivative) <= 1e-12
    with pytest.raises(InputError) as refused:
        names["MatrixFree"](
            names["forward"], lambda y: 0.5 * names["adjoint"](y), names["image"], names["stripes"], name="row pairs"
        )
    assert str(refused.value) in " ".join(text.split())


class Physics:
    """What a linear physics of deepinv looks like."""

    def __init__(self, scale=1.0):
        self.scale = scale

    def A(self, x, **kwargs):
        return x[..., ::2] * 3

    def A_adjoint(self, y, **kwargs):
        x = torch.zeros(*y.shape[:-1], 2 * y.shape[-1], dtype=y.dtype)
        x[..., ::2] = self.scale * 3 * y
        return x


def test_a_physics_becomes_an_operator_with_its_spaces():
    operator = from_deepinv(Physics(), Space((1, 5, 8), "1/mm"))
    assert operator.range.shape == (1, 5, 4)
    assert operator.name == "Physics"
    assert operator.norm() == pytest.approx(3)
    with pytest.raises(InputError, match=r"Physics: found an adjoint that is off by 0\.\d+"):
        from_deepinv(Physics(0.5), Space((1, 5, 8)))
    with pytest.raises(InputError, match="without A_adjoint"):
        from_deepinv(type("Half", (), {"A": lambda self, x: x})(), Space((1, 5, 8)))


def test_a_package_that_is_absent_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="deepinv: found a package that is not installed; expected pip install"):
        to_deepinv(Blur.gaussian((8, 8), 2.0))
    with pytest.raises(InputError, match="astra-toolbox"):
        AstraRadon((8, 8), ParallelBeam((0.0,), 9, 1.0))


def test_astra_s_limits_are_said():
    for scan in (
        ParallelBeam((0.0,), 9, 1.0, offset=0.2),
        FanBeam((0.0,), 9, 1.0, source=40, detector=60, curved=True),
    ):
        with pytest.raises(InputError, match="Radon has them"):
            AstraRadon((8, 8), scan)
    with pytest.raises(InputError, match="two equal numbers"):
        AstraRadon((8, 8), ParallelBeam((0.0,), 9, 1.0), spacing=(1.0, 0.5))


@astra
def test_integrals_are_those_of_astra():
    """The same weights for parallel beams; for fans lengths of intersection, nearly the same for smooth images."""
    at = torch.linspace(-1, 1, 33)
    image = torch.exp(-6 * ((at[:, None] - 0.2) ** 2 + 2 * (at[None, :-1] + 0.1) ** 2))[None, None]
    fan = FanBeam(even_angles(9, 2 * math.pi), 50, 1.4, source=60.0, detector=90.0)
    for scan, tolerance in ((ParallelBeam(even_angles(9), 50, 0.9), 1e-5), (fan, 0.02)):
        theirs, ours = (kind((33, 32), scan, spacing=(0.8, 0.8)) for kind in (AstraRadon, Radon))
        p, q = theirs.forward(image), ours.forward(image)
        assert float((p - q).norm() / q.norm()) < tolerance
        assert check_adjoint(theirs, dtype=torch.float32) <= 1e-5


@deepinv
def test_ours_pass_the_checks_of_deepinv():
    operator = Radon((16, 16), ParallelBeam(even_angles(9), 24, 1.0))
    physics, x = to_deepinv(operator), torch.rand(1, 1, 16, 16)
    assert float(physics.adjointness_test(x).abs()) < 1e-4
    squared = float(physics.compute_sqnorm(x, max_iter=1000, tol=1e-6, verbose=False))
    assert squared == pytest.approx(operator.norm() ** 2, rel=1e-2)
    y = physics.A(x)
    assert float((physics.A(physics.A_dagger(y)) - y).norm() / y.norm()) < 0.05


@deepinv
def test_a_blur_of_deepinv_is_ours():
    from deepinv.physics import Blur as Theirs

    kernel = torch.rand(1, 1, 3, 3)
    theirs = from_deepinv(Theirs(filter=kernel, padding="circular"), Space((1, 8, 9)))
    ours = Blur((8, 9), kernel[0, 0])
    x = torch.rand(1, 1, 8, 9)
    assert torch.allclose(theirs.forward(x), ours.forward(x), atol=1e-5)


class Views:
    """A volume summed along its axes: what a projector of a volume looks like in tomosipo and in LEAP."""

    domain_shape, range_shape, scale = (3, 4, 5), (3, 2, 5), 1.0

    def __call__(self, x):
        assert x.dtype == torch.float32
        return torch.stack([x.sum(1), x[:, 0]], 1)

    @property
    def T(self):
        def back(y):
            x = y[:, :1].expand(3, 4, 5).clone()
            x[:, 0] += self.scale * y[:, 1]
            return x

        return back

    def get_volume_dim(self):
        return self.domain_shape

    def get_projection_dim(self):
        return self.range_shape

    def project(self, g, f):
        g[:] = self(torch.from_numpy(f)).numpy()

    def backproject(self, g, f):
        f[:] = self.T(torch.from_numpy(g)).numpy()


@pytest.mark.parametrize("adapter", [from_tomosipo, from_leap])
def test_projectors_of_one_volume_become_operators_of_batches(adapter):
    operator = adapter(Views(), spacing=(1.0, 0.5, 0.5))
    x = noise(2, 1, 3, 4, 5)
    assert (operator.domain.unit, operator.range.unit) == ("1/mm", "1")
    assert torch.allclose(operator.forward(x)[1, 0, :, 0], x[1, 0].sum(1), atol=1e-6)
    assert operator.forward(x).dtype == torch.float64
    assert check_adjoint(operator, dtype=torch.float32) <= 1e-6
    wrong = Views()
    wrong.scale = 0.5
    with pytest.raises(InputError, match=r"an adjoint that is off by 0\.\d+"):
        adapter(wrong)
    with pytest.raises(InputError, match="object without"):
        adapter(object())


def test_leap_without_a_volume_is_refused():
    empty = Views()
    empty.domain_shape = (0, 0, 0)
    with pytest.raises(InputError, match="set_volume"):
        from_leap(empty)


class Fourier:
    """What a Fourier operator of mri-nufft looks like: every sample of two coils is a pixel."""

    shape, n_samples, n_coils, cpx_dtype, uses_density, uses_sense = (2, 3), 6, 2, "complex64", False, True
    maps = torch.tensor([[1.0], [2.0j]], dtype=torch.complex64)

    def op(self, x):
        assert x.shape == (2, 3)
        return (self.maps * torch.from_numpy(x).reshape(1, -1)).numpy()

    def adj_op(self, y):
        return (self.maps.conj() * torch.from_numpy(y)).sum(0).reshape(2, 3).numpy()


def test_coils_of_mri_nufft_become_channels_and_density_is_refused():
    operator = from_mri_nufft(Fourier())
    assert (operator.domain.shape, operator.range.shape) == ((1, 2, 3), (2, 6))
    assert operator.norm() == pytest.approx(math.sqrt(5), rel=1e-5)
    weighted = Fourier()
    weighted.uses_density = True
    with pytest.raises(InputError, match="density=False"):
        from_mri_nufft(weighted)
    with pytest.raises(InputError, match="Fourier operator of mri-nufft"):
        from_mri_nufft(object())


@nufft
@pytest.mark.parametrize("coils", [1, 3])
def test_samples_are_those_of_mri_nufft(coils):
    """Single precision, tolerance 1e-6 of its finufft: within 1e-5 of ours in double precision."""
    import mrinufft

    if "finufft" not in mrinufft.list_backends(available_only=True):
        pytest.skip("mri-nufft has no finufft beside it")
    size, k = (20, 25), spokes(9, 24)
    maps = None if coils == 1 else birdcage(size, coils)
    smaps = None if maps is None else maps.to(torch.complex64).numpy()
    theirs = from_mri_nufft(
        mrinufft.get_operator("finufft")(k.float().numpy(), size, density=False, n_coils=coils, smaps=smaps)
    )
    ours, x = RadialMRI(size, k, maps=maps), torch.complex(noise(2, 1, *size), noise(2, 1, *size))
    assert theirs.range.shape == ours.range.shape
    p, q = 2 * theirs.forward(x), ours.forward(x)
    assert float((p - q).abs().square().sum().sqrt() / q.abs().square().sum().sqrt()) < 1e-5
    assert check_adjoint(theirs, dtype=torch.float32) <= 1e-5


def _volume(shape):
    """A smooth body within the field, of which all views see the same mass."""
    z, y, x = (torch.linspace(-1, 1, n) for n in shape)
    return torch.exp(-8 * (z[:, None, None] ** 2 + y[:, None] ** 2 + (x - 0.1) ** 2))[None, None]


@tomosipo
def test_masses_are_those_of_tomosipo():
    """Mass of every view of parallel rays, within 1 % of ours, whatever way its axes run; on CUDA, as tomosipo is."""
    if not torch.cuda.is_available():
        pytest.skip("tomosipo projects on CUDA only")
    import tomosipo as ts

    shape, bins = (16, 24, 24), (16, 40)
    scan = ts.operator(ts.volume(shape=shape, size=shape), ts.parallel(angles=7, shape=bins, size=bins))
    theirs, x = from_tomosipo(scan, check=False), _volume(shape)
    assert adjoint_error(theirs, dtype=torch.float32) <= 1e-2
    assert theirs.forward(x)[0, 0].sum((0, 2)).numpy() == pytest.approx(float(x.sum()), rel=0.01)


@leap
def test_masses_are_those_of_leap():
    """Mass of every view of parallel rays, within 1 % of the body's."""
    from leapctype import tomographicModels

    models = tomographicModels()
    models.set_gpu(-1)
    models.set_parallelbeam(7, 16, 40, 1.0, 1.0, 7.5, 19.5, models.setAngleArray(7, 180.0))
    models.set_volume(24, 24, 16, 1.0, 1.0)
    theirs = from_leap(models, check=False)
    x = _volume(theirs.domain.shape[1:])
    assert adjoint_error(theirs, dtype=torch.float32) <= 1e-2
    assert theirs.forward(x)[0, 0].sum((1, 2)).numpy() == pytest.approx(float(x.sum()), rel=0.01)
