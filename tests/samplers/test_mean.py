"""The mean that is delivered is E[x_0 | y], whatever the number of members, and one call is enough for a posterior."""

import pytest
import torch

from retrodict import InputError
from retrodict.bases import Fourier
from retrodict.bases.spectrum import Spectrum
from retrodict.denoisers.denoiser import GaussianDenoiser
from retrodict.processes.fourier import fourier
from retrodict.processes.observation import Cond, wiener
from retrodict.processes.scalar import scalar
from retrodict.samplers.ensemble import SamplingOptions, calls_of, draw, plan_for, restore_batch

SPECTRUM = Spectrum.power_law(0.3, 4.0, 0.05, 2.0)
SIZE = (24, 20)


@pytest.fixture(scope="module", name="exact")
def _exact():
    """A periodic problem: its denoiser, one measured image, the posterior mean and the variance of a pixel."""
    basis = Fourier(SIZE)
    denoiser = GaussianDenoiser(fourier(basis), spectrum=SPECTRUM)
    generator = torch.Generator().manual_seed(1)
    y = torch.randn(1, 1, *SIZE, generator=generator, dtype=torch.float64)
    mean, variance = denoiser.prior()
    m = denoiser.process.measurement
    gain, left = wiener(m, variance)
    posterior = basis.inverse(mean + gain * (basis.forward(y) - m.h * mean))
    weight = basis.multiplicity()
    return denoiser, y, posterior, float((left * weight).sum() / weight.sum())


def run(denoiser, y, **options):
    return restore_batch(denoiser, y, SamplingOptions(**{"margin": 0, "seed": 5, **options}))


@pytest.mark.parametrize("options", [{"steps": 4}, {"instant": True}, {"uncertainty": False}])
def test_the_mean_is_the_posterior_mean_for_any_number_of_members(exact, options):
    denoiser, y, posterior, _ = exact
    for members in (2, 5):
        found = run(denoiser, y, samples=members, **options)
        assert torch.allclose(found.mean, posterior, atol=1e-10)
        assert found.count is None


def test_a_random_start_delivers_the_average_of_the_last_denoised_images():
    """Each of them errs by what its own chain has not found out yet: the mean of K of them by a K-th of that."""
    basis = Fourier(SIZE)
    process = scalar(basis, conditioning="external", measurement=fourier(basis).pairing.law)
    denoiser = GaussianDenoiser(process, spectrum=SPECTRUM)
    y = torch.randn(1, 1, *SIZE, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found = run(denoiser, y, samples=6, steps=8, keep_samples=True)
    mean, variance = denoiser.prior()
    gain, _ = wiener(process.measurement, variance)
    posterior = basis.inverse(mean + gain * (basis.forward(y) - process.measurement.h * mean))
    of_members = float((found.samples.mean(0) - posterior).square().mean())
    assert float((found.mean - posterior).square().mean()) < 0.7 * of_members
    assert found.count == 6
    plan = plan_for(process, SamplingOptions(steps=8), variance)
    last = draw(denoiser, plan, y, torch.tensor(found.seeds[0])).x0.mean(0, keepdim=True)
    assert torch.allclose(found.mean, last, atol=1e-10)


def test_the_deviation_of_one_call_is_exact_and_that_of_a_chain_right_on_average(exact):
    denoiser, y, _, variance = exact
    once = run(denoiser, y, samples=2, instant=True)
    assert torch.allclose(once.sd.square(), torch.full_like(once.sd, variance), rtol=1e-10)
    chain = run(denoiser, y, samples=40, steps=4, chunk=40)
    assert float(chain.sd.square().mean()) == pytest.approx(variance, rel=0.03)


def test_the_law_of_total_variance_is_steadier_than_the_scatter_of_members(exact):
    """Eight members: the deviation of the members themselves scatters by a quarter from pixel to pixel."""
    denoiser, y, _, variance = exact
    found = run(denoiser, y, samples=8, steps=4, keep_samples=True)
    members, law = found.samples.var(0), found.sd.square()
    assert float((law / variance).std()) < 0.6 * float((members / variance).std())


def test_members_of_one_call_have_the_law_of_the_posterior(exact):
    denoiser, y, posterior, variance = exact
    found = run(denoiser, y, samples=200, instant=True, keep_samples=True)
    rest = found.samples - posterior
    assert float(rest.square().mean()) == pytest.approx(variance, rel=0.02)
    _, left = wiener(denoiser.process.measurement, denoiser.prior()[1])
    basis = denoiser.process.basis
    power = basis.energy(basis.forward(rest)).mean((0, 1, 2))
    weight = basis.multiplicity()
    assert float((weight * power / left).sum() / weight.sum()) == pytest.approx(1, rel=0.02)


def test_one_call_is_one_call(exact):
    denoiser, y, _, _ = exact
    calls = []

    class Counted(GaussianDenoiser):
        def estimate(self, xt, t, cond=Cond()):
            calls.append(len(xt))
            return super().estimate(xt, t, cond)

    counted = Counted(denoiser.process, spectrum=SPECTRUM)
    found = run(counted, y, samples=7, instant=True)
    assert (calls, found.nfe) == ([1], 1)
    calls.clear()
    point = run(counted, y, samples=7, uncertainty=False)
    assert (calls, point.nfe, point.sd) == ([1], 1, None)


def test_members_do_not_depend_on_how_many_there_are(exact):
    denoiser, y, _, _ = exact
    few, many = (run(denoiser, y, samples=k, instant=True, keep_samples=True).samples for k in (2, 4))
    assert torch.equal(few, many[:2])


def test_one_call_knows_what_it_does_not_know_beyond_the_border():
    """The variance of a window of a field that goes on, from one call and many margins, ring by ring."""
    steep, side, wide = Spectrum.power_law(0.0, 40.0, 0.03, 3.0), 20, 72
    big, small = (GaussianDenoiser(fourier(Fourier((n, n))), spectrum=steep) for n in (wide, side))
    basis, (_, L), m = big.process.basis, big.prior(), big.process.measurement
    seeds = torch.Generator().manual_seed(4)
    z = [torch.randn(60, 1, wide, wide, generator=seeds, dtype=torch.float64) for _ in range(2)]
    x = basis.inverse(L.sqrt() * basis.forward(z[0]))
    y = basis.inverse(m.h * basis.forward(x) + m.s2.sqrt() * basis.forward(z[1]))
    found = restore_batch(small, y[..., :side, :side], SamplingOptions(samples=12, instant=True, margin=16))
    ratio = (found.mean - x[..., :side, :side]).square().mean((0, 1)) / found.sd.square().mean((0, 1))
    edge = torch.cat([ratio[0], ratio[-1], ratio[:, 0], ratio[:, -1]]).mean()
    assert 0.85 < float(edge) < 1.15
    assert 0.85 < float(ratio[4:-4, 4:-4].mean()) < 1.15


# ---- the image at a time ----


def test_the_state_at_a_time_has_the_mtf_and_nps_of_that_time(exact):
    """Promised by the law, measured from the members: within Monte Carlo in every band, and the mean in closed form."""
    denoiser = GaussianDenoiser(exact[0].process, spectrum=Spectrum.power_law(0.3, 400.0, 0.05, 1.0))  # seen through h
    basis, m = denoiser.process.basis, denoiser.process.measurement
    seeds, (mean, L) = torch.Generator().manual_seed(6), denoiser.prior()
    z = [basis.forward(torch.randn(60, 1, *SIZE, generator=seeds, dtype=torch.float64)) for _ in range(2)]
    y = basis.inverse(m.h * (mean + L.sqrt() * z[0]) + m.s2.sqrt() * z[1])
    found = run(denoiser, y, samples=6, steps=3, stop=0.45, chunk=6).stops
    frequency, mtf, of_members, noise, rest = torch.stack([part["curves"] for part in found]).mean(0)
    at = denoiser.process.moments(torch.tensor([0.45], dtype=torch.float64))
    assert float(mtf[0]) == pytest.approx(float(at.h.amax()), abs=0.05)
    assert 0 < float(frequency[0]) < float(frequency[-1])
    assert torch.allclose(of_members, mtf, atol=0.08)
    assert torch.allclose(rest, noise, rtol=0.25)
    assert float((rest / noise).mean()) == pytest.approx(1, abs=0.04)
    assert found[0]["image"].shape == (1, *SIZE)


def test_at_the_ends_the_state_is_what_was_measured_and_what_is_restored(exact):
    denoiser, y, _, variance = exact
    late, early = (run(denoiser, y, samples=40, steps=3, stop=s).stops[0] for s in (0.999, 0.004))
    assert float(late["sd"].mean()) < 0.15 * float(early["sd"].mean())
    assert float((late["mean"] - y[0]).square().mean()) < 0.02 * float(y.var())
    assert float(early["sd"].square().mean()) == pytest.approx(variance, rel=0.1)


def test_what_cannot_be_asked_for_is_said(exact):
    y = exact[1]
    with pytest.raises(InputError, match="between 0"):
        SamplingOptions(stop=1.5)
    with pytest.raises(InputError, match="one call"):
        SamplingOptions(instant=True, steps=4)
    basis = Fourier(SIZE)
    outside = GaussianDenoiser(
        scalar(basis, conditioning="external", measurement=fourier(basis).pairing.law), spectrum=SPECTRUM
    )
    with pytest.raises(InputError, match="starts at random"):
        run(outside, y, instant=True)
    with pytest.raises(InputError, match="stop: found a process that starts at random"):
        run(outside, y, stop=0.4)
    with pytest.raises(InputError, match="deterministic"):
        run(exact[0], y, stop=0.4, rule="ddim", uncertainty=False)


def test_members_of_one_call_can_be_had_without_a_deviation(exact):
    denoiser, y, posterior, _ = exact
    found = run(denoiser, y, samples=3, instant=True, uncertainty=False, keep_samples=True)
    assert (found.sd, tuple(found.samples.shape[:2])) == (None, (3, 1))
    assert torch.allclose(found.mean, posterior, atol=1e-10)


def test_the_forecast_counts_the_calls_that_are_made(exact):
    denoiser, y, _, _ = exact
    for options in ({"instant": True}, {"uncertainty": False}, {"steps": 3}, {"steps": 3, "rule": "ancestral"}):
        made = []
        settings = SamplingOptions(samples=4, margin=0, **{"uncertainty": "rule" not in options, **options})
        restore_batch(denoiser, y, settings, watch=lambda done, total, made=made: made.append(total))
        assert made[-1] == calls_of(denoiser, settings)
