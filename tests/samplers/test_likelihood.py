"""Log densities by the flow against exact ones; each case fails if a term of the change of variables is left out."""

from __future__ import annotations

import math

import pytest
import torch

from retrodict import InputError, bits_per_dimension, log_likelihood
from retrodict.bases import Cosine, Fourier, Pixel, Wavelet
from retrodict.denoisers.denoiser import FunctionDenoiser, GaussianDenoiser
from retrodict.denoisers.mixture import MixtureDenoiser, MixtureLaw
from retrodict.denoisers.wrappers import Respread
from retrodict.processes.bridges import brownian_bridge
from retrodict.processes.fourier import fourier
from retrodict.processes.observation import Cond, log_density
from retrodict.processes.recipes import external
from retrodict.processes.scalar import ve, vp

F64 = torch.float64


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def gaussian(process):
    """Data of a colored spectrum and some mean."""
    basis = process.basis
    spectrum = 0.05 / (0.05 + basis.radius()) ** 2
    return GaussianDenoiser(process, torch.full_like(spectrum, 0.3) * (basis.radius() == 0), spectrum)


def mixture(process):
    """Two modes of different shape, far from Gaussian."""
    m = torch.tensor([1.0, 0.5, -0.2, 0.8], dtype=F64)
    spectra = torch.tensor([[0.2, 0.1, 0.3, 0.05], [0.1, 0.3, 0.1, 0.2]], dtype=F64)
    law = MixtureLaw(process.basis, torch.tensor([0.3, 0.7], dtype=F64), torch.stack([m, -m]), spectra)
    return MixtureDenoiser(process, law), torch.stack([m + 0.2, m * 0])[:, None]


def exact(denoiser, x):
    law, u = denoiser.law, denoiser.process.basis.forward(x)
    logs = [
        p.log() + log_density(law.basis, u - c.mean, c.spectrum.expand(u.shape))
        for p, c in zip(law.weights, law.components(), strict=True)
    ]
    return torch.stack(logs, 1).logsumexp(1)


@pytest.mark.parametrize(
    "process",
    [
        vp(Fourier((5, 4))),
        fourier(Fourier((6, 6))),
        ve(Cosine((4, 4)), 0.002, 80.0),
        vp(Wavelet((4, 4), levels=1)),
        vp(Fourier((4, 3), complex=True)),
    ],
    ids=["vp", "fourier", "ve-cosine", "wavelet", "complex"],
)
def test_gaussian_data_are_exact_with_few_calls(process):
    """1e-8 bits per dimension, whatever the probes: nothing Gaussian is integrated."""
    denoiser = gaussian(process)
    x = normal(2, 1, *process.basis.size)
    x = torch.complex(x, normal(*x.shape, seed=1)) if process.basis.complex else x
    found = log_likelihood(denoiser, x, seeds=torch.arange(2), trace="skilling", probes=2, steps=3)
    end = process.moments(torch.zeros(1, dtype=F64))
    mean, variance = denoiser.prior()
    u = process.basis.forward(x)
    known = log_density(process.basis, u - end.h * mean, (end.h**2 * variance + end.s2).expand(u.shape))
    count = x[0].numel() * (2 if x.is_complex() else 1)
    assert (found.log_density - known).abs().max() / (count * math.log(2)) < 1e-8
    assert found.error.max() < 1e-8
    assert found.nfe.tolist() == [7, 7]
    torch.testing.assert_close(found.bits, -known / (count * math.log(2)), rtol=0, atol=1e-8)


@pytest.mark.parametrize("process", [vp(Pixel((4,))), ve(Pixel((4,)), 1e-3, 80.0)], ids=["vp", "ve"])
def test_mixture_density(process):
    """1e-4 bits per dimension in four dimensions, with exact divergence; items are integrated each by itself."""
    denoiser, x = mixture(process)
    found = log_likelihood(denoiser, x[:1], trace="exact", rtol=1e-5, atol=1e-5)
    assert (found.log_density - exact(denoiser, x[:1])).abs().max() / (4 * math.log(2)) < 1e-4
    assert found.error.tolist() == [0.0]


def test_heun_steps_have_order_two():
    """A quarter of the error at twice the steps; a batch is its items."""
    denoiser, x = mixture(vp(Pixel((4,))))
    errors = [log_likelihood(denoiser, x, trace="exact", steps=n).log_density - exact(denoiser, x) for n in (40, 80)]
    ratio = (errors[0] / errors[1])[1]
    assert 3.0 < float(ratio) < 4.8
    alone = log_likelihood(denoiser, x[1:], trace="exact", steps=40).log_density
    torch.testing.assert_close(alone, errors[0][1:] + exact(denoiser, x[1:]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("trace", ["hutchinson", "skilling"])
def test_probes_agree_with_the_trace_within_their_error(trace):
    """The estimate is unbiased and its bar is of the right size; signs vary less than Gaussian probes."""
    denoiser, x = mixture(vp(Pixel((4,))))
    many = x[1:].expand(24, 1, 4).contiguous()
    truth = log_likelihood(denoiser, x[1:], trace="exact", steps=4).log_density
    found = log_likelihood(denoiser, many, seeds=torch.arange(24), trace=trace, probes=16, steps=4)
    z = (found.log_density - truth) / found.error
    assert abs(float(z.mean())) < 0.75
    assert 0.6 < float(z.std()) < 1.6
    again = log_likelihood(denoiser, many[:1], seeds=torch.tensor([5]), trace=trace, probes=16, steps=4)
    assert torch.allclose(again.log_density, found.log_density[5:6], rtol=1e-12)


def test_without_a_spectrum_the_coordinates_are_those_of_unit_variance():
    """What the coordinates do not take out is integrated: a function without a prior gives the same density."""
    process = vp(Pixel((3,)))
    inner = GaussianDenoiser(process, 0.0, torch.tensor([0.5, 1.5, 0.8], dtype=F64))
    plain = FunctionDenoiser(lambda xt, t: inner(xt, t), process)
    x = normal(1, 1, 3)
    known = log_density(process.basis, x, inner.spectrum.expand(1, 1, 3))
    found = log_likelihood(plain, x, trace="exact", rtol=1e-6, atol=1e-6)
    assert float((found.log_density - known).abs()) / (3 * math.log(2)) < 1e-4


def test_external_measurement():
    """The density given y: that of the Gaussian posterior."""
    process = external(vp(Fourier((4, 4))), fourier(Fourier((4, 4))))
    spectrum = 0.05 / (0.05 + process.basis.radius()) ** 2
    denoiser, x, y = GaussianDenoiser(process, 0.0, spectrum), normal(1, 1, 4, 4), normal(1, 1, 4, 4, seed=1)
    mean, variance = process.pairing.given(0 * spectrum, spectrum, y, process.basis)
    u = process.basis.forward(x)
    known = log_density(process.basis, u - mean, variance.expand(u.shape))
    found = log_likelihood(denoiser, x, seeds=torch.zeros(1, dtype=torch.int64), steps=2, cond=Cond(image=y))
    torch.testing.assert_close(found.log_density, known, rtol=1e-9, atol=1e-7)


def test_terminal_law():
    """A chain that ends at a measurement is refused by name, unless the law there is given."""
    process = fourier(Fourier((4, 4)))
    inner = gaussian(process)
    foreign = Respread(inner, "none")
    x, seeds = normal(1, 1, 4, 4), torch.zeros(1, dtype=torch.int64)
    with pytest.raises(InputError, match="keeps some of the image at t = 1"):
        log_likelihood(foreign, x, seeds=seeds, steps=2)
    m, (mean, variance) = process.moments(torch.ones(1, dtype=F64)), inner.prior()

    def law(w):
        return log_density(process.basis, w - m.h * mean, (m.h**2 * variance + m.s2).expand(w.shape))

    given = log_likelihood(foreign, x, seeds=seeds, steps=2, terminal=law)
    known = log_likelihood(inner, x, seeds=seeds, steps=2)
    torch.testing.assert_close(given.log_density, known.log_density, rtol=1e-12, atol=1e-9)


def test_refusals():
    """Each by name, before the long computation."""
    denoiser, x = mixture(vp(Pixel((4,))))
    seeds = torch.zeros(2, dtype=torch.int64)
    end = GaussianDenoiser(brownian_bridge(Pixel((4,))), 0.0, torch.ones(4, dtype=F64))
    flat = GaussianDenoiser(denoiser.process, 0.0, torch.tensor([1.0, 0.0, 1.0, 1.0], dtype=F64))
    fixed = FunctionDenoiser(lambda xt, t: torch.zeros_like(xt), denoiser.process)
    cases = [
        (denoiser, {"trace": "guess"}, "trace"),
        (denoiser, {"seeds": None}, "seed"),
        (denoiser, {"seeds": seeds, "probes": 1}, "two probes"),
        (denoiser, {"trace": "exact", "steps": 0}, "steps"),
        (denoiser, {"trace": "exact", "rtol": 0.0, "atol": 0.0}, "tolerance"),
        (denoiser, {"trace": "exact", "first": 1.5, "steps": 2}, "first"),
        (denoiser, {"trace": "exact", "rtol": 1e-13, "atol": 1e-13, "most": 20}, "not met"),
        (denoiser, {"trace": "exact", "level": 0.0, "steps": 1}, "level"),
        (end, {"trace": "exact", "cond": Cond(image=x)}, "bridge"),
        (flat, {"trace": "exact", "steps": 2}, "without variance"),
        (fixed, {"trace": "exact", "steps": 2}, "not differentiable"),
    ]
    for one, options, match in cases:
        with pytest.raises(InputError, match=match):
            log_likelihood(one, x, **options)
    with pytest.raises(InputError, match="log_likelihood x"):
        log_likelihood(denoiser, x[:, 0], trace="exact")


def test_bits_of_uniform_grey_levels():
    """An image uniform on 256 levels of 1/256 has 8 bits."""
    assert float(bits_per_dimension(torch.zeros(1, dtype=F64), 10, 1 / 256)) == pytest.approx(8.0)
