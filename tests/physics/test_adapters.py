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
    Radon,
    Space,
    check_adjoint,
    even_angles,
    from_deepinv,
    to_deepinv,
)

deepinv = pytest.mark.skipif(importlib.util.find_spec("deepinv") is None, reason="deepinv is not installed")
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
