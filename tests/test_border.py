"""One call at the border of an image: what is not known beyond it, and factors on what a network says there."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from models import SPECTRUM, spec
from retrodict.bases import Fourier
from retrodict.bases.basis import Basis
from retrodict.denoisers.denoiser import GaussianDenoiser
from retrodict.denoisers.spread_scale import SpreadScale
from retrodict.denoisers.wrappers import Guided
from retrodict.processes.fourier import fourier
from retrodict.samplers.instant import at_border, beyond, instant
from retrodict.samplers.margin import frame_of, surrounded

FACTORS = (3.0, 2.0)
SIZE = (12, 10)


def framed(basis: Basis):
    return frame_of(SIZE, basis, 6, 2)


def test_the_factors_go_inward_from_every_border_that_has_a_margin():
    frame = framed(Fourier(SIZE))
    found = at_border(FACTORS, frame)
    assert found.shape == SIZE
    assert found[0].tolist() == [3.0] * 10
    assert found[5].tolist() == [3.0, 2.0, *[1.0] * 6, 2.0, 3.0]
    alone = frame._replace(before=(0, 6), after=(0, 6), size=(12, 22))
    assert at_border(FACTORS, alone)[0].tolist() == [3.0, 2.0, *[1.0] * 6, 2.0, 3.0]
    assert at_border((), frame).unique().tolist() == [1.0]


def test_variance_and_members_are_scaled_alike_and_the_mean_is_not():
    torch.manual_seed(0)
    net = spec().build("test")
    scale = SpreadScale((-9.0, 9.0), ((1.0,) * net.bands,) * 2)
    y, seeds = torch.randn(1, 1, *SIZE), torch.arange(3)
    plain, wide = (replace(net, spread_scale=replace(scale, border=b)) for b in ((), FACTORS))
    frame = framed(net.process.basis.on(SIZE))
    one, two = (instant(d.on(frame.size), y, frame, seeds) for d in (plain, wide))
    factor = at_border(FACTORS, frame).float()
    assert torch.equal(one.mean, two.mean)
    assert torch.allclose(two.variance, one.variance * factor, rtol=1e-5)
    assert torch.allclose(two.members - two.mean, (one.members - one.mean) * factor.sqrt(), atol=1e-5)
    assert wide.with_spread("wiener").border == ()


def test_margins_are_drawn_with_a_share_of_their_deviation():
    net = spec().build("test")
    scale = SpreadScale((-9.0, 9.0), ((1.0,) * net.bands,) * 2)
    y, seeds = torch.randn(1, 1, *SIZE).expand(3, 1, *SIZE), torch.arange(3)
    frame = framed(net.process.basis.on(SIZE))
    whole, half, none = (
        surrounded(replace(net, spread_scale=replace(scale, margin=m)).on(frame.size), y, frame, seeds)
        for m in (1.0, 0.5, 0.0)
    )
    mean = surrounded(net.on(frame.size), y, frame, None)
    assert torch.allclose(none, mean, atol=1e-4)
    assert torch.allclose(half - mean, 0.5 * (whole - mean), atol=1e-2 * float((whole - mean).abs().max()))
    edges = [beyond(replace(net, spread_scale=replace(scale, margin=m)).on(frame.size), frame) for m in (1.0, 0.5)]
    assert torch.allclose(edges[1], 0.25 * edges[0], rtol=1e-9)
    assert net.with_spread("wiener").margin == 1.0
    shared = replace(net, spread_scale=replace(scale, margin=0.5))
    assert Guided(shared, shared).margin == 0.5  # what goes round a network has its margins


def test_an_exact_denoiser_needs_no_factors():
    exact = GaussianDenoiser(fourier(Fourier(SIZE)), spectrum=SPECTRUM)
    assert exact.border == ()
    assert exact.margin == 1.0


def test_a_record_without_a_margin_draws_all_of_it():
    record = {"level": [0, 1], "factor": [[1.0], [1.0]]}
    assert SpreadScale.from_json(record, 1).margin == 1.0
    assert SpreadScale.from_json(record | {"margin": 0.5}, 1).margin == 0.5
    with pytest.raises(ValueError, match="margin"):
        SpreadScale.from_json(record | {"margin": -0.1}, 1)


@pytest.mark.parametrize("border", [[0.0], [float("nan")], [-1.0, 2.0], 3.0])
def test_a_record_with_factors_that_are_none_is_refused(border):
    with pytest.raises(ValueError, match="factor"):
        SpreadScale.from_json({"level": [0, 1], "factor": [[1.0], [1.0]], "border": border}, 1)
