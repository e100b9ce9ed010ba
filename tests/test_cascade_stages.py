"""A cascade run level by level on its sub-lattices is the run of the ordinary loop."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from retrodict import InputError
from retrodict._random import white
from retrodict.bases import Wavelet
from retrodict.bases.spectrum import BandSpectrum
from retrodict.bases.stationary import power_law
from retrodict.denoisers.cascade import CascadeDenoiser, cascade_of_stationary
from retrodict.denoisers.cascade_net import NetModel
from retrodict.nets.cascade import CascadeNet
from retrodict.nets.network import Network
from retrodict.processes.wavelet import wavelet_cascade
from retrodict.samplers import make_plan, sample, start_state
from retrodict.samplers.cascade import cascade_grid, cascade_stages, sample_cascade
from retrodict.samplers.rules import RULES

ONE_ROW = [
    name for name, rule in RULES.items() if rule.calls_per_step == 1 and name not in ("matched2", "pece2", "unipc")
]


class Bent(Network):
    """A 3 x 3 convolution and a bend, told the level of the noise; a log-ratio that differs between pixels."""

    def __init__(self, **shape):
        super().__init__()
        self.conv = nn.Conv2d(
            shape["in_channels"], shape["out_channels"], 3, padding=1, padding_mode="circular"
        ).double()

    def forward(self, x, level):
        return torch.tanh(self.conv(x) + level[..., None, None]) * 0.7


def bent(size=(16, 32), levels=3, mean=(3.0, -1.0), family="db2"):
    """Two channels, with variances of their own in every band."""
    basis = Wavelet(size, levels=levels, family=family)
    count = len(basis.places())
    table = torch.rand(2, count, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.2
    spectrum = BandSpectrum.of(basis, mean, table * torch.linspace(3, 0.3, count, dtype=torch.float64))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        nets = CascadeNet(Bent, levels=levels, channels=2)
    nets.requires_grad_(False)
    return CascadeDenoiser(wavelet_cascade(basis, horizon=2.0, spectrum=spectrum), NetModel(nets), spectrum)


def lifted(stages):
    """Noise of the whole lattice that is on every sub-lattice the noise of `sample_cascade`."""
    whole = stages[-1].denoiser.process.basis

    def placed(u, stage, seeds, stream, number, lead):
        basis = stage.denoiser.process.basis
        own = white(seeds, stream, number, (*lead, *basis.size)).double()
        u[(..., *(slice(0, n) for n in basis.size))] = basis.forward(own)

    def noise(seeds, stream, number, shape):
        u = torch.zeros(len(seeds), *shape, dtype=torch.float64)
        if stream == "start":
            for stage in reversed(stages):  # finest first: coarser ones then lie over its corner
                placed(u, stage, seeds, stream, stage.level, shape[:-2])
        else:
            placed(u, [s for s in stages if s.first <= number][-1], seeds, stream, number, shape[:-2])
        return whole.inverse(u)

    return noise


@pytest.mark.parametrize("steps", [1, 3, (2, 1, 4, 2)])
@pytest.mark.parametrize("rule", ONE_ROW)
def test_a_run_on_sub_lattices_is_that_of_the_whole_lattice(rule, steps):
    denoiser, seeds = bent(), torch.tensor([5, 6])
    stages = cascade_stages(denoiser, rule, steps)
    noise, prior = lifted(stages), denoiser.prior()
    start = start_state(
        denoiser.process, seeds, (2, 16, 32), mean=prior[0], spectrum=prior[1], dtype=torch.float64, noise=noise
    )
    plan = make_plan(rule, denoiser.process, cascade_grid(denoiser.process, steps), prior[1])
    whole = sample(denoiser, plan, start, seeds=seeds, noise=noise).x
    found = sample_cascade(stages, seeds, 2, dtype=torch.float64)
    assert torch.allclose(found, whole, rtol=0, atol=1e-11)


@pytest.mark.parametrize("level", [0, 1, 2])
def test_the_cascade_of_a_coarse_image_has_the_law_and_the_answer_of_the_whole_one(level):
    """Moments, prior and denoised image in the corner, at times that windows of both clocks share."""
    denoiser = bent()
    own = denoiser.coarser(level)
    corner = (..., *(slice(0, n) for n in own.process.basis.size))
    x = torch.randn(1, 2, 16, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    u = denoiser.process.basis.forward(x)
    for place in (level + 0.3, level + 1.0, 3.2, 4.0):
        here, there = (torch.tensor([t], dtype=torch.float64) for t in (place / 4, (place - level) / (4 - level)))
        for a, b in zip(denoiser.process.moments(here), own.process.moments(there), strict=True):
            a, b = a.expand(1, 2, 16, 32)[corner], b.expand(1, 2, *own.process.basis.size)
            assert torch.allclose(a, b, rtol=1e-12, atol=1e-12)
        whole, part = denoiser(x, here), own(own.process.basis.inverse(u[corner]), there)
        assert torch.allclose(
            denoiser.process.basis.forward(whole)[corner], own.process.basis.forward(part), atol=1e-12
        )
    for a, b in zip(denoiser.prior(), own.prior(), strict=True):
        assert torch.allclose(torch.as_tensor(a).expand(2, 16, 32)[corner], torch.as_tensor(b), rtol=1e-12)


def test_a_run_costs_a_constant_times_the_pixels():
    """Rows times pixels: n + 1 of the image, n of every coarser one, and 2 n - 1 of the coarsest with details."""
    for side, depth in ((64, 4), (256, 6)):
        denoiser = cascade_of_stationary(
            Wavelet((side, side), levels=depth, family="haar"), power_law((side, side), 2.0)
        )
        stages = cascade_stages(denoiser, "matched", 5)
        rows = [len(stage.plan) for stage in stages]
        assert rows == [9, *[5] * (depth - 2), 6]
        assert [stage.plan.process.basis.size[0] for stage in stages] == [side >> m for m in range(depth - 1, -1, -1)]
        pixels = sum(n * (side >> stage.level) ** 2 for n, stage in zip(rows, stages, strict=True))
        assert pixels < side**2 * (5 + 1 + 5 / 3 + 4 / 4 ** (depth - 1))


def test_exact_levels_give_the_covariance_of_the_data():
    """One call a level, of every draw a unit field: all covariances of 4 x 8 pixels to 1e-12."""
    power = power_law((4, 8), 2.0)
    denoiser = cascade_of_stationary(
        Wavelet((4, 8), levels=2, family="haar"), power, horizon=20.0
    )  # nothing is left at t = 1
    stages = cascade_stages(denoiser, "matched", 1)
    drawn = []

    def count(seeds, stream, number, shape):
        drawn.append((stream, number, tuple(shape)))
        return torch.zeros(len(seeds), *shape)

    sample_cascade(stages, torch.zeros(1, dtype=torch.int64), dtype=torch.float64, noise=count)
    total = torch.zeros(32, 32, dtype=torch.float64)
    for stream, number, shape in drawn:
        unit = torch.eye(shape[-1] * shape[-2], dtype=torch.float64).reshape(-1, *shape)

        def one(seeds, name, k, own, which=(stream, number, shape), unit=unit):
            return unit if (name, k, tuple(own)) == which else torch.zeros(len(seeds), *own)

        seeds = torch.zeros(len(unit), dtype=torch.int64)
        x = sample_cascade(stages, seeds, dtype=torch.float64, noise=one).flatten(1)
        total += x.T @ x
    known = torch.fft.ifft2(power[None] * torch.fft.fft2(torch.eye(32, dtype=torch.float64).reshape(32, 4, 8))).real
    assert torch.allclose(total, known.reshape(32, 32), rtol=0, atol=1e-12)


def test_what_has_no_sub_lattice_is_refused():
    denoiser = bent()
    for level in (-1, 3):
        with pytest.raises(InputError, match="0 to 2"):
            denoiser.coarser(level)
    with pytest.raises(InputError, match="one row a step"):
        cascade_stages(denoiser, "heun", 2)
    with pytest.raises(InputError, match="coarse band"):
        cascade_stages(denoiser, "matched", (1, 2))


def test_the_cascade_of_a_coarse_image_goes_to_other_grids():
    denoiser = bent()
    again = denoiser.coarser(1).on((16, 16))
    assert again.process.basis == denoiser.on((32, 32)).coarser(1).process.basis
    assert replace(again.model, model=None).level == 1
    assert again.multiple == 4
