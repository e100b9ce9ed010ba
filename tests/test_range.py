"""A model of every instrument: bound to the curves and the pixels of an image, and refused beyond its range."""

from __future__ import annotations

import logging
import math

import pytest
import torch

from retrodict import InputError, NotCalibratedError
from retrodict.bases import Fourier
from retrodict.bases.curve import Curve
from retrodict.bases.spectrum import Spectrum
from retrodict.data import Image
from retrodict.models.instrument import model_with_instrument
from retrodict.models.model import Intensity, Model, ModelSpec
from retrodict.models.range import at_spacing, neighbor, outside
from retrodict.processes.clocks import ClockLaw
from retrodict.processes.fourier import measured
from retrodict.tasks.restore import restore

LAW = ClockLaw(scale=200.0)
SPECTRUM = Spectrum(4.0, (0.01, 0.1, 1.0), (60.0, 1.0, 1e-3), 1.0)


@pytest.fixture(scope="module", name="model")
def _model():
    spec = ModelSpec(
        process={"name": "fourier", "options": {}, "basis": {"name": "fourier", "options": {}}},
        network={"name": "unet", "options": {"width": 4, "multipliers": [1, 2], "patch": 2, "activation": "relu"}},
        spectrum=SPECTRUM.to_json(),
        intensity=Intensity("HU", 200.0, -1000.0),
        spacing=(1.0, 1.0),
        size=(32, 32),
        bands=3,
        level="clock",
        law=LAW.to_json(),
        spacings=(0.5, 1.5),
    )
    torch.manual_seed(0)
    denoiser = spec.build()
    denoiser.net.requires_grad_(False)
    return Model(spec, denoiser, "every instrument")


def curves(noise: float, spacing: float, half: float = 0.5) -> dict[str, Curve]:
    """A standard instrument with `noise` HU at pixels of `spacing` mm."""
    f = torch.linspace(0, 0.8 / spacing, 200, dtype=torch.float64)
    mtf = torch.exp(-math.log(2) * (f / half) ** 2).clamp_min(0.003)
    shape = (f / 0.3) * mtf**2 + 0.05
    basis = Fourier((64, 64), (spacing, spacing))
    weight = basis.multiplicity()
    whole = Curve.isotropic(f, shape.tolist(), "HU^2 mm^2")
    pixel = float((whole.on(basis) * weight).sum() / weight.sum()) / spacing**2
    nps = Curve.isotropic(f, (shape * noise**2 / pixel).tolist(), "HU^2 mm^2")
    return {"mtf": Curve.isotropic(f, mtf.tolist(), "1"), "nps": nps}


def scan(spacing: tuple[float, float], size: int = 48) -> Image:
    values = 40 + 30 * torch.randn(1, size, size, generator=torch.Generator().manual_seed(1))
    return Image(values=values, spacing=spacing, unit="HU")


@pytest.mark.parametrize("spacing", [0.6, 0.81, 1.3])
def test_the_model_is_bound_to_the_pixels_and_curves_of_the_image(model, spacing):
    found = restore(scan((spacing, spacing)), model=model, **curves(30, spacing), instant=True, samples=2)
    assert found.mean.spacing == (spacing, spacing)
    assert found.details["instrument"]["in_range"]
    assert found.details["instrument"]["noise"] == pytest.approx(30, rel=0.02)
    assert found.model.denoiser.process.basis.spacing == (spacing, spacing)


def test_the_bound_process_is_that_of_the_curves(model):
    given = curves(30, 0.8)
    bound, _ = model_with_instrument(at_spacing(model, (0.8, 0.8)), **given)
    wanted = measured(Fourier((32, 32), (0.8, 0.8)), given["mtf"], given["nps"], 200.0).measurement
    assert torch.equal(bound.denoiser.process.measurement.s2, wanted.s2)
    assert bound.denoiser.unit == model.denoiser.unit  # the scale of the inputs is that of the training


def test_without_curves_there_is_no_instrument(model):
    with pytest.raises(InputError, match=r"mtf: .*every instrument.*estimate_instrument"):
        restore(scan((0.8, 0.8)), model=model)
    with pytest.raises(InputError, match="nps"):
        restore(scan((0.8, 0.8)), model=model, mtf=curves(30, 0.8)["mtf"])


@pytest.mark.parametrize(("spacing", "found"), [((0.3, 0.3), "0.3"), ((2.0, 2.0), "2.0"), ((0.8, 1.0), "1.0")])
def test_pixels_that_the_model_does_not_know_are_refused(model, spacing, found):
    with pytest.raises(InputError, match=rf"pixel spacing: .*{found}.*square pixels of 0.5 to 1.5 mm"):
        restore(scan(spacing), model=model, **curves(30, max(spacing)))


def test_finer_pixels_are_averaged_where_that_is_asked_for(model, caplog):
    caplog.set_level(logging.ERROR)
    given = curves(30, 0.45)
    found = restore(scan((0.4, 0.4), 96), model=model, **given, resample=True, point=True)
    assert found.mean.spacing == (0.4, 0.4)
    assert found.model.denoiser.process.basis.spacing == pytest.approx((0.5, 0.5), rel=0.05)


@pytest.mark.parametrize(("noise", "said"), [(600.0, "its noise is 600 HU"), (0.4, "trained on 2 to 250 HU")])
def test_noise_beyond_the_range_is_refused_by_name(model, noise, said):
    with pytest.raises(NotCalibratedError, match=said):
        restore(scan((0.8, 0.8)), model=model, **curves(noise, 0.8))
    point = restore(scan((0.8, 0.8)), model=model, **curves(noise, 0.8), point=True)
    assert not point.details["instrument"]["in_range"]
    assert said in point.verdict.text  # where the user sees it


def test_an_instrument_of_another_kind_is_refused(model):
    """Noise in one narrow ring alone: in no band of the law is so little known beside so much."""
    f = torch.linspace(0, 1.0, 200, dtype=torch.float64)
    given = curves(30, 0.8)
    ring = 1e-4 + 4e4 * torch.exp(-(((f - 0.12) / 0.01) ** 2))
    odd = {"mtf": given["mtf"], "nps": Curve.isotropic(f, ring.tolist(), "HU^2 mm^2")}
    with pytest.raises(NotCalibratedError, match=r"not of the kind.*any instrument like it"):
        restore(scan((0.8, 0.8)), model=model, **odd)


def test_instruments_of_the_law_are_in_range_and_others_are_not(model):
    """Fresh draws at another spacing: nearly all are near one of those that the table holds."""
    moved = at_spacing(model, (0.7, 0.7))
    basis = moved.denoiser.process.basis
    inside = [not outside(moved, LAW.instrument(basis, 10_000 + seed)) for seed in range(60)]
    assert sum(inside) >= 52
    found = neighbor(moved, LAW.instrument(basis, 5))
    assert found.distance < 0.7
    assert neighbor(moved, LAW.instrument(basis, 5)) == found


def test_a_model_of_one_instrument_has_no_range(model):
    from dataclasses import replace

    plain = replace(model, spec=replace(model.spec, law=None, spacings=None))
    assert outside(plain) == ""
    with pytest.raises(InputError, match="the spacing of the model"):
        at_spacing(plain, (0.8, 0.8))


# ---- other processes ----


@pytest.mark.parametrize("name", ["vp", "ve", "scalar"])
def test_other_processes_run_with_the_same_network(model, name):
    """From noise, with the measurement fused into every call: what the network sees is a clock like any other."""
    given = curves(30, 0.8)
    found = restore(scan((0.8, 0.8)), model=model, **given, process=name, samples=2, steps=2, point=True)
    assert found.model.denoiser.process.pairing.kind == "external"
    assert found.details["sampling"]["mean_members"] == 2  # a random start has no single call that is the mean
    with pytest.raises(InputError, match="process"):
        restore(scan((0.8, 0.8)), model=model, **given, process="vpp")


def test_an_external_measurement_is_fused_with_the_state(model):
    """The answer is that of one observation whose precisions are those of both together."""
    from retrodict.denoisers.wrappers import Fused
    from retrodict.processes.observation import Cond
    from retrodict.tasks.prepare import _chain

    bound, _ = model_with_instrument(at_spacing(model, (0.8, 0.8)), **curves(30, 0.8))
    instrument = bound.denoiser.process
    outside, inside = _chain("vp", instrument), replace_pairing(_chain("vp", instrument))
    generator = torch.Generator().manual_seed(3)
    x, y = (torch.randn(1, 1, 32, 32, generator=generator) for _ in range(2))
    t = torch.tensor([0.4], dtype=torch.float64)
    one = bound.denoiser.at(outside).estimate(x, t, Cond(image=y))
    two = Fused(bound.denoiser.at(inside), y, instrument.measurement).estimate(x, t)
    assert torch.allclose(one.mean, two.mean, atol=1e-5)
    assert torch.allclose(one.spread.variance(), two.spread.variance(), rtol=1e-5)
    assert float((one.mean - bound.denoiser.at(outside).estimate(x, t, Cond(image=y + 0.1)).mean).abs().max()) > 1e-3


def replace_pairing(process):
    from dataclasses import replace

    from retrodict.processes.observation import Pairing

    return replace(process, pairing=Pairing())


def test_results_of_another_instrument_are_never_taken_for_those_of_this_one(model):
    """With a process of its own the chain does not hold the instrument: the checksums have to."""
    from retrodict.tasks.identity import law_digest
    from retrodict.tasks.options import RestoreOptions
    from retrodict.tasks.prepare import prepared
    from retrodict.tasks.resume import fingerprint

    image, keys = scan((0.8, 0.8)), set()
    for noise in (30, 31):
        for process in (None, "vp"):
            options = RestoreOptions(process=process, **curves(noise, 0.8))
            bound, about = prepared(model, options, (0.8, 0.8))
            keys |= {fingerprint(bound, options, image, about), law_digest(bound.denoiser.process, (32, 32))}
    assert len(keys) == 8


def test_a_model_of_a_law_without_a_range_of_pixels_still_needs_curves(model):
    from dataclasses import replace

    one = replace(model, spec=replace(model.spec, spacings=None))
    with pytest.raises(InputError, match="every instrument"):
        restore(scan((1.0, 1.0)), model=one)
    found = restore(scan((1.0, 1.0)), model=one, **curves(30, 1.0), point=True)
    assert found.details["instrument"]["in_range"]


def test_a_measurement_does_not_wrap(model):
    """Noise aside (the same seed), the rim of an image does not know what lies at the other end."""
    from retrodict.models.instrument import measure

    bound, _ = model_with_instrument(at_spacing(model, (0.8, 0.8)), **curves(30, 0.8))
    dark = Image(values=torch.zeros(1, 48, 48), spacing=(0.8, 0.8), unit="HU")
    bright = dark.with_values(torch.where(torch.arange(48) > 40, 1000.0, 0.0).expand(1, 48, 48))
    change = [
        (measure(bright, bound, **m).values - measure(dark, bound, **m).values)[0, :, 0] for m in ({}, {"margin": 0})
    ]
    assert float(change[0].abs().max()) < 1.0
    assert float(change[1].abs().max()) > 100.0
