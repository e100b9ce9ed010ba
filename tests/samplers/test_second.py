"""`matched2`: order two in what is not Gaussian, secants, and principal components of the posterior."""

from __future__ import annotations

import math

import pytest
import torch

from retrodict import InputError
from retrodict._random import member_seeds
from retrodict.bases import Fourier
from retrodict.bases.spectrum import Spectrum
from retrodict.denoisers.blend import BlendedSpread
from retrodict.denoisers.denoiser import Denoiser, Estimate, GaussianDenoiser, Linear
from retrodict.denoisers.mixture import MixtureDenoiser, MixtureLaw
from retrodict.denoisers.spread import LocalSpread, SpectralSpread, band_filters
from retrodict.processes.fourier import fourier
from retrodict.processes.observation import Cond
from retrodict.processes.recipes import external
from retrodict.processes.scalar import scalar
from retrodict.samplers import make_plan
from retrodict.samplers.card import card
from retrodict.samplers.corrected import Drawn, along, correction, inner, secant
from retrodict.samplers.ensemble import SamplingOptions, draw, plan_for, restore_batch
from retrodict.samplers.principal import principal

BASIS = Fourier((8, 8))
SPECTRUM = Spectrum.power_law(0.3, 100.0, 0.02, 3.0)
PROCESS = fourier(BASIS, conditioning="terminal")


def noise(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


class Misjudged:
    """The exact denoiser of Gaussian data that states a part of its error's variance."""

    def __init__(self, part):
        self.exact, self.part = GaussianDenoiser(PROCESS, 0.0, SPECTRUM.on(BASIS)), part

    def linear(self, t) -> Linear:
        found = self.exact.linear(t)
        return found._replace(variance=self.part * found.variance)


@pytest.mark.parametrize(("rule", "order"), [("matched", 1), ("matched2", 2)])
def test_the_order_in_what_the_law_of_the_error_leaves_out(rule, order):
    """A law of the error that is 40 % too small stands for all that it does not hold."""
    errors = []
    for steps in (80, 160):
        times = torch.linspace(1, 0.3, steps + 1, dtype=torch.float64)
        right = card(make_plan("matched", PROCESS, times), Misjudged(1.0)).variance
        found = card(make_plan(rule, PROCESS, times), Misjudged(0.6)).variance
        errors.append(float((found / right - 1).abs().max()))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.1)


# ---- laws of the error -----------------------------------------------------------------------------------------------


def test_what_a_noisy_sum_tells_of_an_uneven_error_is_the_solution_of_the_dense_problem():
    basis = Fourier((4, 5))
    v = 0.3 + SPECTRUM.on(basis)[None, None]
    law = LocalSpread(basis, v, noise(1, 2, 4, 5), band_filters(basis, 2))
    units = torch.eye(20, dtype=torch.float64).reshape(20, 1, 4, 5)
    one = LocalSpread(basis, v, law.log_ratio.expand(20, -1, -1, -1), law.filters)
    C = basis.inverse(one.covariance(basis.forward(units))).reshape(20, 20)
    fields = torch.eye(20, dtype=torch.float64).reshape(20, 1, 1, 4, 5)
    parts = [
        torch.cat([law.draw(torch.stack([f if b == k else 0 * f for b in range(2)])) for f in fields]).reshape(20, 20)
        for k in range(2)
    ]
    assert torch.allclose(C, sum(p.T @ p for p in parts), atol=1e-12)  # the covariance is that of the draws
    gain, variance = torch.rand_like(v) + 0.5, torch.rand_like(v) + 0.1
    dense = {
        name: basis.inverse(table * basis.forward(units)).reshape(20, 20)
        for name, table in (("gain", gain), ("variance", variance))
    }
    G = dense["gain"]
    u = noise(1, 1, 4, 5, seed=2)
    right = C @ G @ torch.linalg.solve(G @ C @ G + dense["variance"], u.flatten())
    found = basis.inverse(law.given(basis.forward(u), gain, variance)).flatten()
    assert torch.allclose(found, right, atol=2e-3 * float(right.abs().max()))
    power = torch.diagonal(C).mean()
    weight = basis.multiplicity()
    assert float((law.power()[0, 0] * weight).sum() / weight.sum()) == pytest.approx(float(power), rel=1e-12)


def test_an_even_local_law_and_the_stationary_one_are_told_the_same():
    v = SPECTRUM.on(BASIS)[None, None]
    local = LocalSpread(BASIS, v, torch.zeros(2, 3, 8, 8, dtype=torch.float64), band_filters(BASIS, 3))
    u, gain, variance = BASIS.forward(noise(2, 1, 8, 8)), 0.7 + 0 * v, 0.2 + 0 * v
    even = SpectralSpread(BASIS, v)
    assert torch.allclose(local.given(u, gain, variance), even.given(u, gain, variance), atol=1e-10)
    assert torch.allclose(local.power(), even.power(), atol=1e-12)


# ---- secants ---------------------------------------------------------------------------------------------------------


def test_a_secant_is_the_direction_that_the_law_left_out():
    """Where the answer moves by (C + q q^T) p instead of C p, R is q (q . p) and the secant q, up to its sign."""
    v = SPECTRUM.on(BASIS)[None, None]
    data, std = 0.5 + 0 * v, 0.3 + 0 * v
    q, step = (BASIS.forward(noise(3, 1, 8, 8, seed=k)) for k in (1, 2))
    law = SpectralSpread(BASIS, v)
    probe = data / (data**2 * v + std**2) * step
    image = law.given(step, data, std**2) + q * inner(q, probe, BASIS)
    drawn = Drawn(step, torch.zeros_like(step), law, data, std)
    rest = correction(drawn, image)
    assert torch.allclose(rest, q * inner(q, probe, BASIS), atol=1e-10)
    found = secant(drawn, rest, BASIS)
    assert torch.allclose(found * inner(q, probe, BASIS).sign(), q, atol=1e-10)
    assert not bool(secant(drawn, -rest, BASIS).abs().any())  # less covariance than the law has is no direction


def test_a_draw_along_directions_keeps_the_variance_of_every_coefficient():
    v = (0.2 + SPECTRUM.on(BASIS))[None, None].expand(1, 1, 8, 5)
    q = [0.9 * v.sqrt() * torch.exp(1j * noise(1, 1, 8, 5, seed=k)) for k in (1, 2)]
    one = torch.ones(1, 1, 8, 5, dtype=torch.complex128)
    nothing, parts = torch.zeros(1, 2, dtype=torch.float64), []
    parts.append(along(one, v, tuple(q), nothing))
    for k in range(2):
        parts.append(along(0 * one, v, tuple(q), torch.eye(2, dtype=torch.float64)[k : k + 1]))
    total = parts[0].abs() ** 2 * v + parts[1].abs() ** 2 + parts[2].abs() ** 2
    assert torch.allclose(total, v, atol=1e-12)
    assert torch.allclose(parts[1], q[0], atol=1e-12)  # the first is taken whole; the second gets what is left
    assert torch.allclose(parts[2].abs() ** 2, 0.19 * v, atol=1e-12)


# ---- two modes -------------------------------------------------------------------------------------------------------


def two_modes():
    mode, rest = BASIS.forward(0.35 * noise(8, 8, seed=5)), torch.full((8, 5), 0.01, dtype=torch.float64)
    weights = torch.tensor([0.5, 0.5], dtype=torch.float64)
    process = fourier(BASIS, noise_weights=(2.0, 6.0, 3.0), conditioning="terminal")
    law = MixtureLaw(BASIS, weights, torch.stack([mode, -mode]), torch.stack([rest, rest]))
    return mode, MixtureDenoiser(process, law)


def test_the_first_component_is_the_line_between_two_modes():
    mode, denoiser = two_modes()
    y = torch.zeros(1, 1, 8, 8, dtype=torch.float64)  # halfway: the posterior is as wide as it can be
    t = torch.ones(1, dtype=torch.float64)
    (q, *_) = principal(denoiser, y, t, torch.tensor([3]), 6)
    weights, laws = denoiser.law.posterior(BASIS.forward(y), denoiser.process.measurement)
    half = 0.5 * (laws[0].mean - laws[1].mean)
    likeness = inner(q, half, BASIS) / (inner(q, q, BASIS) * inner(half, half, BASIS)).sqrt()
    assert float(likeness.abs()) > 0.99
    assert float((inner(q, q, BASIS) / inner(half, half, BASIS)).sqrt()) == pytest.approx(1, abs=0.05)
    assert weights[0].tolist() == pytest.approx([0.5, 0.5])
    assert mode.shape == (8, 5)


def test_components_and_secants_hold_the_variance_between_two_modes_that_matched_loses():
    """At 4 calls, halfway between two modes: `matched` has two thirds of it at most."""
    _, denoiser = two_modes()
    y = torch.zeros(1, 1, 8, 8, dtype=torch.float64)
    _, laws = denoiser.law.posterior(BASIS.forward(y), denoiser.process.measurement)
    line = BASIS.inverse(laws[0].mean - laws[1].mean).flatten()
    line = line / line.norm()
    wide = float((BASIS.inverse(laws[0].mean).flatten() @ line) ** 2) + 0.01
    found = {}
    for rule, count in (("matched", 0), ("matched2", 0), ("matched2", 6)):
        plan = plan_for(denoiser.process, SamplingOptions(rule=rule, steps=4, components=count), None)
        known = principal(denoiser, y, torch.ones(1).double(), torch.tensor([3]), count) if count else ()
        x = draw(denoiser, plan, y, member_seeds(0, 0, 600), directions=known).x
        found[rule, count] = float((x.flatten(1) @ line).var()) / wide
    assert found["matched", 0] < found["matched2", 0] < found["matched2", 6]
    assert found["matched2", 6] == pytest.approx(1, abs=0.15)
    assert found["matched", 0] < 0.67


def test_members_share_the_components_and_do_not_depend_on_chunks():
    _, denoiser = two_modes()
    y = noise(2, 1, 8, 8)
    settings = {"samples": 4, "steps": 3, "rule": "matched2", "components": 3, "margin": 0, "uncertainty": False}
    together, apart = (
        restore_batch(denoiser, y, SamplingOptions(chunk=chunk, keep_samples=True, **settings)) for chunk in (4, 1)
    )
    alone = restore_batch(denoiser, y[1:], SamplingOptions(keep_samples=True, **settings), items=[1])
    assert torch.allclose(together.samples, apart.samples, atol=1e-12)
    assert torch.allclose(together.samples[:, 1:], alone.samples, atol=1e-12)
    assert together.details["shared_calls"] == 4
    one = restore_batch(denoiser, y, SamplingOptions(keep_samples=True, **{**settings, "samples": 1}))
    assert torch.allclose(one.samples, together.samples[:1], atol=1e-12)  # a single member has them too


# ---- refused ---------------------------------------------------------------------------------------------------------


class Blended(Denoiser):
    """Says a law that is drawn from and nothing more."""

    process = PROCESS

    def estimate(self, xt, t, cond=Cond()):
        weights = torch.ones(1, 1, 8, 8, dtype=torch.float64)
        return Estimate(0 * xt, BlendedSpread(BASIS, SPECTRUM.on(BASIS)[None, None], weights))

    def on(self, size):
        return self

    def to(self, device):
        return self


def test_what_cannot_be_done_is_refused_by_name():
    with pytest.raises(InputError, match="components"):
        SamplingOptions(components=4)
    with pytest.raises(InputError, match="secants"):
        make_plan("matched2", PROCESS, torch.tensor([1.0, 0.0]).double(), secants=-1)
    outside = external(scalar(BASIS), PROCESS)
    random_start = GaussianDenoiser(outside, spectrum=SPECTRUM)
    with pytest.raises(InputError, match="starts at random"):
        restore_batch(random_start, noise(1, 1, 8, 8), SamplingOptions(rule="matched2", components=2))
    with pytest.raises(InputError, match="complex"):
        make_plan("matched2", fourier(Fourier((8, 8), complex=True)), torch.tensor([1.0, 0.0]).double(), components=1)
    plan = make_plan("matched2", PROCESS, torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64))
    y = torch.zeros(1, 1, 8, 8, dtype=torch.float64)
    with pytest.raises(InputError, match="rule 'matched'"):
        draw(Blended(), plan, y, torch.tensor([0]))
    with pytest.raises(InputError, match="components"):
        principal(Blended(), y, torch.ones(1).double(), torch.tensor([0]), 2)
