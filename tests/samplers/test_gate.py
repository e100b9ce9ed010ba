"""The gate: no posterior where the variance is more than 10 % wrong, on Gaussian data and on data of two modes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from objects import restoring_process
from retrodict import NotCalibratedError
from retrodict.bases import Fourier, Pixel
from retrodict.bases.spectrum import Spectrum
from retrodict.denoisers.denoiser import FunctionDenoiser, GaussianDenoiser
from retrodict.denoisers.mixture import MixtureDenoiser, MixtureLaw
from retrodict.denoisers.network import NetDenoiser
from retrodict.denoisers.wrappers import Guided, Respread, SliceWise
from retrodict.processes.fourier import fourier
from retrodict.processes.observation import Moments, wiener
from retrodict.processes.process import Process
from retrodict.processes.recipes import external
from retrodict.processes.scalar import vp
from retrodict.samplers.ensemble import SamplingOptions, gate, plan_for, restore_batch
from retrodict.samplers.judge import BIAS_LIMIT, TwoModes, is_wiener_filter, judge, two_modes
from retrodict.samplers.plan import Plan, Row

SPECTRUM = Spectrum.power_law(0.3, 100.0, 0.02, 3.0)


class Net(nn.Module):
    """Answers `size` times the first input, and log-variances of zero."""

    def __init__(self, size: float, bands: int) -> None:
        super().__init__()
        self.size, self.bands = size, bands

    def forward(self, x, level):
        return torch.cat([self.size * x[:, :1], *[0 * x[:, :1]] * self.bands], 1)


def net(process, size=0.0, bands=0):
    return NetDenoiser(Net(size, bands), process, SPECTRUM, bands=bands)


# ---- the law of the error -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["terminal", "external"])
def test_the_law_of_the_wiener_filter_is_that_of_the_wiener_filter_alone(kind):
    process = restoring_process("fourier" if kind == "terminal" else "vp", (16, 16))
    exact = GaussianDenoiser(process, spectrum=SPECTRUM)
    times = plan_for(process, SamplingOptions(), None).times
    sees = {"sees": True} if kind == "external" else {}
    same = FunctionDenoiser(
        lambda xt, t, *y: exact.on(xt.shape[2:])(xt, t, process.pairing.cond(*y or (None,))), process, SPECTRUM, **sees
    )
    for denoiser, right in ((net(process), True), (net(process, 0.3), False), (Respread(exact), True), (same, True)):
        assert is_wiener_filter(denoiser, times) == right
        assert gate(denoiser, SamplingOptions()).passed == right


def test_a_law_that_is_not_the_denoisers_own_shuts_the_gate_for_rules_that_draw_it():
    process = fourier(Fourier((16, 16)))
    better = net(process, 0.3, bands=2)
    assert gate(better, SamplingOptions()).passed  # learned: its own
    for other in (better.with_spread("wiener"), Respread(better, "wiener"), Respread(better, "none")):
        verdict = gate(other, SamplingOptions())
        assert not verdict.passed
        assert "Wiener filter" in verdict.reason or "not known" in verdict.reason
        with pytest.raises(NotCalibratedError, match="law"):
            restore_batch(other, torch.zeros(1, 1, 16, 16), SamplingOptions(samples=2, steps=2))
        assert gate(other, SamplingOptions(rule="sde_dpmpp2m", steps=64)).passed  # draws none


def test_wrappers_pass_on_whose_law_it_is():
    process = vp(Fourier((8, 8)))
    exact, free = net(process, bands=2), GaussianDenoiser(process, spectrum=SPECTRUM)
    assert SliceWise(exact, 2).error_law == "own"
    assert SliceWise(Respread(exact), 2).error_law == "wiener"
    assert Guided(exact, free).error_law == "own"
    assert Guided(exact, free, 2.0).error_law == "none"
    assert FunctionDenoiser(lambda x, t: x, process).error_law == "none"


def test_a_wiener_law_on_a_mixture_would_be_too_wide_and_is_refused():
    """What the gate is for: two certain images; the filter's variance is several times that of the truth."""
    process = fourier(Fourier((8, 8)))
    mode = 2 * process.basis.forward(torch.randn(8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    rest = 0.05 * torch.ones(process.basis.shape, dtype=torch.float64)
    law = MixtureLaw(
        process.basis, torch.tensor([0.5, 0.5]).double(), torch.stack([mode, -mode]), torch.stack([rest, rest])
    )
    mixture = MixtureDenoiser(process, law)
    assert gate(mixture, SamplingOptions()).passed
    assert not gate(Respread(mixture, "wiener"), SamplingOptions()).passed
    y = process.basis.inverse(process.measurement.h * mode)[None, None]
    settings = SamplingOptions(samples=60, steps=8, margin=0, chunk=60, keep_samples=True)
    right = float((restore_batch(mixture, y, settings).sd ** 2).mean())
    point = SamplingOptions(**{**settings.__dict__, "uncertainty": False})
    wide = float(restore_batch(Respread(mixture, "wiener"), y, point).samples.var(0).mean())
    assert wide > 1.5 * right


# ---- how good the plan is -------------------------------------------------------------------------------------------


def test_a_flow_that_is_exact_on_gaussian_data_is_not_on_two_modes():
    """`gaussian_ode` at few calls: variance 1 on the card, 1.6 on two modes; enough calls mend it."""
    exact = GaussianDenoiser(external(vp(Fourier((16, 16))), fourier(Fourier((16, 16)))), spectrum=SPECTRUM)
    few, many = (gate(exact, SamplingOptions(rule="gaussian_ode", steps=n)) for n in (4, 32))
    assert few.variance == pytest.approx(1, abs=1e-6)
    assert few.modes > 1.3
    assert not few.passed
    assert many.passed


def test_the_verdict_tells_what_is_missing_along_the_line_between_two_modes():
    exact = GaussianDenoiser(fourier(Fourier((16, 16))), spectrum=SPECTRUM)
    few, many = (gate(exact, SamplingOptions(steps=n)) for n in (8, 64))
    assert few.passed
    assert few.direction < 0.85
    assert many.direction == pytest.approx(1, abs=0.08)
    assert f"{few.direction:.2f} along them" in few.reason


def test_the_exact_denoiser_of_two_modes_is_the_mixture():
    process = external(vp(Pixel((3,))), fourier(Fourier((3,))))
    measured = Moments(*torch.tensor([[0.9, 0.5, 0.1], [0, 0, 0], [0.2, 1.0, 0.5]]).double())
    process = Process(process.family, Pixel((3,)), process.pairing.__class__("external", lambda basis: measured))
    mode, rest = torch.tensor([1.0, -0.5, 0.3]).double(), torch.tensor([0.2, 0.4, 0.1]).double()
    weights = torch.tensor([0.5, 0.5]).double()
    law = MixtureLaw(process.basis, weights, torch.stack([mode, -mode]), torch.stack([rest, rest]))
    x, y = (torch.randn(5, 1, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(i)) for i in (0, 1))
    t = torch.full((5,), 0.4, dtype=torch.float64)
    found = TwoModes(process, mode, rest).estimate(x, t, process.pairing.cond(y))
    known = MixtureDenoiser(process, law).estimate(x, t, process.pairing.cond(y))
    assert torch.allclose(found.mean, known.mean, atol=1e-12)
    assert torch.allclose(found.spread.v, known.spread.v, atol=1e-12)


def test_a_rule_of_the_right_law_keeps_the_variance_of_two_modes():
    """Many ancestral steps with the exact law: 1 within the sampling error of 2000 items."""
    exact = GaussianDenoiser(external(vp(Fourier((8, 8))), fourier(Fourier((8, 8)))), spectrum=SPECTRUM)
    found = two_modes(exact, plan_for(exact.process, SamplingOptions(steps=128), None))
    assert found == pytest.approx((1, 1), abs=0.06)


@pytest.mark.parametrize(("where", "passed"), [("told", False), ("lost", True)])
def test_an_error_of_the_mean_counts_in_deviations_of_the_posterior(where, passed):
    """A gain 1.5 times too large harms nobody where the measurement says next to nothing, and is a bias elsewhere."""
    exact = GaussianDenoiser(fourier(Fourier((32, 32)), gain_weights=(1.0, 0.5, 1e-4)), spectrum=SPECTRUM)

    def build(process, spectrum):
        gain, variance = wiener(process.measurement, spectrum)
        power = process.measurement.h**2 * spectrum + process.measurement.s2
        lost = gain**2 * power < 1e-4 * variance
        data = torch.where(lost if where == "lost" else ~lost, 1.5, 1.0).double()
        one = torch.ones_like(data)[None, None]
        row = Row(1.0, True, (0 * one,), (data[None, None],), (), (one,))
        return Plan(process, torch.tensor([1.0, 0.0]).double(), lambda i: row, 1, 1, "made", uses_spread=True)

    verdict = judge(exact, build)
    assert verdict.gain > 1.1
    assert verdict.variance == pytest.approx(1, rel=1e-9)
    assert verdict.passed == passed == (verdict.bias < BIAS_LIMIT)
    assert passed or math.isnan(verdict.modes)  # the bias alone has decided
