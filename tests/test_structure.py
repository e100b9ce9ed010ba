"""Structure-modulated noise: golden codes and amplitudes, plain training without it, and the filter that it trains."""

from __future__ import annotations

import pytest
import torch

from retrodict import InputError
from retrodict.bases import Fourier, Pixel
from retrodict.bases.spectrum import Spectrum
from retrodict.denoisers.network import NetDenoiser
from retrodict.nets import UNet
from retrodict.processes.scalar import cosine, ve
from retrodict.training.losses import Example, denoising_loss, simulate
from retrodict.training.structure import (
    Structure,
    labelled,
    published_amplitude,
    region_codes,
    regions,
    rotary_field,
)


def quadrant(n=4):
    labels = torch.full((n, n), 2)
    labels[: n // 2, : n // 2] = 1
    return labels


def test_the_published_code_of_a_4_x_4_image_is_golden():
    """T16: top-left 2 x 2 region 0.19253778823, remainder 0.32414508846; the mean over the image, so they add up."""
    codes = region_codes(quadrant(), "spe_area")
    assert float(codes[0, 0]) == pytest.approx(0.19253778823, abs=1e-10)
    assert float(codes[3, 3]) == pytest.approx(0.32414508846, abs=1e-10)
    assert float(codes[0, 0] + codes[3, 3]) == pytest.approx(float(rotary_field(4, 4).mean()), abs=1e-14)
    fair = region_codes(quadrant(), "spe_mean")
    assert float(fair[0, 0]) == pytest.approx(4 * 0.19253778823, abs=1e-9)
    assert float(fair[3, 3]) == pytest.approx(0.32414508846 * 16 / 12, abs=1e-9)


def test_the_published_amplitudes_are_golden():
    """T16: c at steps 0, 10, ... of 100, and their mean."""
    steps = torch.tensor([0, 10, 25, 50, 75, 90, 95, 98, 99])
    found = published_amplitude((steps + 1).double() / 100)
    known = torch.tensor([1.6e-5, 1.0e-3, 0.0055, 0.0228, 0.0695, 0.187, 0.359, 0.750, 0.999]).double()
    half = torch.tensor([5e-7, 5e-5, 5e-5, 5e-5, 5e-5, 5e-4, 5e-4, 5e-4, 5e-4]).double()  # as they are printed
    assert bool(((found - known).abs() <= half).all())
    whole = published_amplitude(torch.arange(1, 101).double() / 100)
    assert float(whole.mean()) == pytest.approx(0.073, abs=5e-4)
    between = published_amplitude(torch.tensor([0.505], dtype=torch.float64))
    assert float(between) == pytest.approx(float(whole[49:51].mean()), rel=1e-12)


def test_codes_are_constant_on_regions_and_zero_outside():
    labels = torch.tensor([[0, 0, 3], [7, 3, 3], [7, 7, 0]])
    for code in ("spe_area", "spe_mean", "sign", "hash"):
        e = region_codes(labels, code, seed=4)
        assert torch.equal(e[labels == 0], torch.zeros(3).double())
        for label in (3, 7):
            assert len(e[labels == label].unique()) == 1
            assert float(e[labels == label][0]) != 0
    assert set(region_codes(labels, "sign", seed=1)[labels > 0].tolist()) <= {-1.0, 1.0}
    signs = torch.stack([region_codes(labels, "sign", seed=s)[0, 2] for s in range(400)])
    assert abs(float(signs.mean())) < 4 / 20
    assert torch.equal(region_codes(labels, "hash", seed=1), region_codes(labels, "hash", seed=2))
    e = region_codes(labels, "spe_mean", standardize=True)
    assert float(e.mean()) == pytest.approx(0.0, abs=1e-14)
    assert float(e.std(correction=0)) == pytest.approx(1.0, abs=1e-14)
    assert torch.equal(region_codes(torch.ones(2, 2).long(), "sign", standardize=True), torch.zeros(2, 2).double())


def net_denoiser():
    torch.manual_seed(0)
    net = UNet(in_channels=2, out_channels=1, width=8, multipliers=(1,), blocks=1, level_features=1)
    return NetDenoiser(net, ve(Fourier((8, 8))), spectrum=Spectrum.power_law(0.0, 1.0, 0.1, 2.0))


def images(count=3):
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def test_without_amplitude_it_is_plain_training_bit_for_bit():
    denoiser, x0, seeds = net_denoiser(), images(), torch.arange(3)
    labels = quadrant(8).expand(3, 8, 8)
    plain = denoising_loss(denoiser, x0, seeds)
    still = Structure(amplitude=0.0)(denoiser, Example(x0, labels=labels), seeds, "unit", 0.1)
    assert torch.equal(plain.total, still.total)
    moved = Structure("sign", 0.5)(denoiser, Example(x0, labels=labels), seeds, "unit", 0.1)
    assert not torch.equal(plain.total, moved.total)


def test_an_item_is_the_same_in_any_batch():
    denoiser, x0, seeds = net_denoiser(), images(), torch.tensor([5, 9, 2])
    batch = labelled(lambda keys: x0, count=4)([0, 1, 2])
    objective = Structure("sign", 0.5)
    whole = objective(denoiser, batch, seeds, "unit", 0.1).total
    alone = objective(denoiser, Example(x0[1:2], labels=batch.labels[1:2]), seeds[1:2], "unit", 0.1).total
    assert torch.allclose(whole[1:2], alone, rtol=1e-5)


def test_the_state_is_shifted_by_the_amplitude_times_the_code_in_units_of_the_noise():
    """x_t - h x_0 - s z = s c_t E, in a process with h < 1."""
    process, labels, seeds = cosine(Pixel((4, 4))), quadrant().expand(2, 4, 4), torch.tensor([3, 8])
    t, x0 = torch.tensor([0.3, 0.9]).double(), torch.randn(2, 1, 4, 4).double()
    objective = Structure("spe_mean", "published", standardize=True)
    with_it, _ = simulate(process, x0, t, seeds, noise=lambda z, t: z + objective.shift(labels, t, seeds, 1).to(z))
    without, _ = simulate(process, x0, t, seeds)
    e = region_codes(quadrant(), "spe_mean", standardize=True)
    known = process.moments(t).s2.sqrt() * published_amplitude(t).reshape(2, 1, 1, 1) * e
    assert torch.allclose(with_it - without, known, atol=1e-12)
    falling = Structure("sign", 0.8).at(t)
    assert torch.allclose(falling, torch.tensor([0.56, 0.08]).double(), atol=1e-15)


def test_the_linear_denoiser_that_is_trained_is_the_filter_of_the_structured_noise():
    """Acceptance (ii): least squares of x_0 on x_t over 6,000 draws against L (L + s^2 (1 + c^2 P P^T))^-1 for random
    signs; the plain filter is eight standard errors away."""
    process, labels, count = ve(Pixel((4, 2)), 0.01, 50.0), torch.tensor([[1, 1], [1, 2], [2, 2], [0, 0]]), 6_000
    t = torch.tensor([0.541]).double()  # s is about 1
    s2, objective = float(process.moments(t).s2), Structure("sign", 2.0, standardize=False)
    c2 = float(objective.at(t)) ** 2
    seeds, times = torch.arange(count), t.expand(count)
    shape = torch.randn(8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    prior = shape @ shape.T / 8 + 0.2 * torch.eye(8).double()
    root = torch.linalg.cholesky(prior)
    draws = torch.randn(count, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    x0 = (draws @ root.T).reshape(count, 1, 4, 2)
    many = labels.expand(count, 4, 2)
    xt, _ = simulate(process, x0, times, seeds, noise=lambda z, t: z + objective.shift(many, t, seeds, 1).to(z))
    a, b = xt.reshape(count, 8), x0.reshape(count, 8)
    fitted = torch.linalg.lstsq(a, b).solution.T
    p = torch.stack([(labels == label).reshape(-1).double() for label in (1, 2)], 1)
    noise = s2 * (torch.eye(8).double() + c2 * p @ p.T)
    known = prior @ torch.linalg.inv(prior + noise)
    plain = prior @ torch.linalg.inv(prior + s2 * torch.eye(8).double())
    residual = torch.diagonal(prior - known @ prior)
    error = (residual[:, None] * torch.diagonal(torch.linalg.inv(prior + noise))[None] / count).sqrt()
    assert float(((fitted - known) / error).abs().max()) < 4.5
    assert float(((fitted - known) / error).square().mean()) < 1.6
    assert float(((fitted - plain) / error).abs().max()) > 8


def test_superpixels_follow_the_edges_of_an_image():
    """A disc of another grey value under little noise: every region lies in it or out of it, but for a few pixels."""
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    disc = ((y - 15) ** 2 + (x - 17) ** 2 < 90).float()
    noise = 0.05 * torch.randn(32, 32, generator=torch.Generator().manual_seed(0))
    labels = regions((disc + noise)[None], count=36)
    assert labels.shape == (32, 32)
    assert labels.min() == 1
    assert 12 <= len(labels.unique()) <= 36
    wrong = sum(float(min(disc[labels == k].sum(), (1 - disc)[labels == k].sum())) for k in labels.unique())
    assert wrong <= 8
    assert torch.equal(labels, regions((disc + noise)[None], count=36))
    assert len(regions(torch.zeros(1, 8, 8), count=4).unique()) == 4
    assert regions(torch.randn(2, 4, 6, 8), count=8).shape == (4, 6, 8)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.zeros(4, 4).long(), "an empty mask"),
        (torch.ones(4, 4), "integer labels"),
        (-quadrant(), "labels from 0 on"),
    ],
)
def test_masks_that_are_none_are_refused(labels, message):
    with pytest.raises(InputError, match=message) as caught:
        region_codes(labels)
    assert caught.value.where == "masks"


def test_what_else_is_refused():
    denoiser, x0, seeds = net_denoiser(), images(), torch.arange(3)
    with pytest.raises(InputError, match="a batch without labels"):
        Structure()(denoiser, x0, seeds, "unit", 0.1)
    with pytest.raises(InputError, match="a label for every pixel"):
        Structure()(denoiser, Example(x0, labels=quadrant().expand(3, 4, 4)), seeds, "unit", 0.1)
    with pytest.raises(InputError, match="an empty mask"):
        Structure()(denoiser, Example(x0, labels=torch.zeros(3, 8, 8).long()), seeds, "unit", 0.1)
    with pytest.raises(InputError, match="Did you mean 'spe_mean'"):
        Structure("spe_men")
    with pytest.raises(InputError, match="amplitude"):
        Structure(amplitude=-1.0)
    with pytest.raises(InputError, match="in the plane"):
        region_codes(torch.ones(2, 2, 2).long(), "spe_mean")
    with pytest.raises(InputError, match="between one region"):
        regions(torch.zeros(1, 4, 4), count=17)
